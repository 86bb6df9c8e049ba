DROP TABLE ltm_memory_relationships;
DROP FUNCTION ltm_path_strength(double precision, double precision);
