DROP FUNCTION ltm_prefer_generic_plan(integer, bigint);

DROP FUNCTION ltm_prefer_custom_plan(bigint);

DROP FUNCTION ltm_user_context(bigint, jsonb);

DROP FUNCTION ltm_tag_terms(bigint, jsonb);

DROP FUNCTION ltm_idf(bigint, bigint);

DROP FUNCTION ltm_as_array(jsonb);

DROP FUNCTION ltm_phrases_held(regconfig, tsvector, text, text[], tsquery[]);

DROP FUNCTION ltm_plain_words(text);

DROP FUNCTION ltm_phrase_queries(regconfig, text[]);

DROP FUNCTION ltm_is_near(text, text);

DROP FUNCTION ltm_any_term(bigint, text[]);

DROP FUNCTION ltm_search_terms(bigint, tsvector);

DROP FUNCTION ltm_labels_vector(regconfig, text[], text[]);

DROP FUNCTION ltm_speaker(text);

DROP FUNCTION ltm_labels(jsonb, text);

DROP FUNCTION ltm_words_vector(regconfig, text[], boolean);

DROP FUNCTION ltm_text_forms(text, text, boolean);

DROP FUNCTION ltm_lower(text);

-- Only the configuration that the migration made.
DO $$
BEGIN
    IF EXISTS (
        SELECT 1 FROM pg_ts_config AS c
        WHERE c.cfgname = 'ltm'
            AND c.cfgnamespace = current_schema()::regnamespace
            AND obj_description(c.oid, 'pg_ts_config') LIKE '%made by it%'
    ) THEN
        DROP TEXT SEARCH CONFIGURATION ltm;
    END IF;
END
$$;
