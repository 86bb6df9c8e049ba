DROP TABLE ltm_memory_tags;
