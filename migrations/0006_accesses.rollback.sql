DROP FUNCTION ltm_drop_access_partition;
DROP FUNCTION ltm_make_access_partition;
DROP TABLE ltm_memory_access;
