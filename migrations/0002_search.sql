-- How words are found: in which language, and under keys that begin with the user.
-- depends: 0001_importance

-- The one setting for language: a configuration named ltm that is there already is kept.
DO $$
BEGIN
    IF NOT EXISTS (
        SELECT 1 FROM pg_ts_config WHERE cfgname = 'ltm' AND pg_ts_config_is_visible(oid)
    ) THEN
        CREATE TEXT SEARCH CONFIGURATION ltm (COPY = pg_catalog.english);
        COMMENT ON TEXT SEARCH CONFIGURATION ltm IS 'How ltm_store finds words: made by it, as english.';
    END IF;
END
$$;

CREATE FUNCTION ltm_search_terms(user_id bigint, search_vector tsvector)
RETURNS text[]
LANGUAGE sql
IMMUTABLE
PARALLEL SAFE
RETURN (
    SELECT array_agg(user_id || ':' || t.lexeme)
    FROM unnest(tsvector_to_array(search_vector)) AS t (lexeme)
);

COMMENT ON FUNCTION ltm_search_terms(bigint, tsvector) IS
'The words of a memory, each with its user in front, as the index of words holds them.';

CREATE FUNCTION ltm_as_array(value jsonb)
RETURNS jsonb
LANGUAGE sql
IMMUTABLE
PARALLEL SAFE
RETURN CASE jsonb_typeof(value) WHEN 'array' THEN value ELSE '[]' END;

COMMENT ON FUNCTION ltm_as_array(jsonb) IS
'The value itself where it is an array, else an empty one: older programs wrote other things too.';

CREATE FUNCTION ltm_idf(memories bigint, holders bigint)
RETURNS double precision
LANGUAGE sql
IMMUTABLE
PARALLEL SAFE
RETURN ln(1 + (greatest(memories, holders) - holders + 0.5) / (holders + 0.5))::double precision;

COMMENT ON FUNCTION ltm_idf(bigint, bigint) IS
'How rare something is that so many of the memories hold: the inverse document frequency of BM25 '
'(S. Robertson and H. Zaragoza, 2009).';

CREATE FUNCTION ltm_tag_terms(user_id bigint, tags jsonb)
RETURNS text[]
LANGUAGE sql
IMMUTABLE
PARALLEL SAFE
COST 400
RETURN (
    SELECT array_agg(user_id || ':' || lower(t.tag))
    FROM jsonb_array_elements_text(ltm_as_array(tags)) AS t (tag)
);

COMMENT ON FUNCTION ltm_tag_terms(bigint, jsonb) IS
'The tags of a memory in lower case, each with its user in front, as the index of tags holds them.';

CREATE FUNCTION ltm_user_context(user_id bigint, context_data jsonb)
RETURNS jsonb
LANGUAGE sql
IMMUTABLE
PARALLEL SAFE
RETURN jsonb_build_object(user_id::text, context_data);

COMMENT ON FUNCTION ltm_user_context(bigint, jsonb) IS
'The context of a memory under its user, as the index of contexts holds it; or its metadata.';

-- Makes the planner keep to custom plans, where only the values tell how many rows a filter passes. It
-- is never called: compared with a column it is never true. It is not inlined, because it is STRICT and
-- its body is not; so a generic plan counts its cost and is never the cheaper one, while a custom plan
-- knows the argument and folds the call away.
CREATE FUNCTION ltm_prefer_custom_plan(row_limit bigint)
RETURNS bigint
LANGUAGE sql
IMMUTABLE
STRICT
PARALLEL SAFE
COST 1000000
RETURN CASE WHEN row_limit IS NULL THEN row_limit END;

COMMENT ON FUNCTION ltm_prefer_custom_plan(bigint) IS
'NULL; compared with a column, it makes the planner look at the values of a statement each time.';
