DROP FUNCTION ltm_tag_names(jsonb);

DROP FUNCTION ltm_summary(text);

DROP TABLE ltm_memories;

DROP TABLE ltm_external_users;

DROP FUNCTION ltm_memory_summary(bigint, text, text, integer);

DROP FUNCTION ltm_extended_expiry(timestamptz, interval, timestamptz);

DROP FUNCTION ltm_is_current(timestamptz, timestamptz);

DROP FUNCTION ltm_normalized_content(text);
