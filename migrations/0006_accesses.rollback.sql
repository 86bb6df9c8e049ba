DROP TABLE ltm_memory_access;
