DROP FUNCTION ltm_context_fields(jsonb);

DROP TABLE ltm_contexts;
