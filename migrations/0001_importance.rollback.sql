DROP FUNCTION ltm_dynamic_importance(integer, timestamptz);

DROP FUNCTION ltm_importance_rank(integer, double precision, integer, timestamp, timestamp);
