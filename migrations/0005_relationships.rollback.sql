DROP TABLE ltm_memory_relationships;
