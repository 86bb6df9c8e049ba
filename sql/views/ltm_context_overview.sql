CREATE OR REPLACE VIEW ltm_context_overview WITH (security_invoker = TRUE) AS
SELECT
    v.user_id,
    v.context_type,
    v.context_key,
    sum(v.memories)::bigint AS memories,
    count(v.context_value) AS different_values,
    (array_agg(v.context_value ORDER BY v.memories DESC, v.context_value COLLATE "C" ASC))[1]
        AS most_frequent_value,
    sum(v.confidence) / sum(v.memories)::double precision AS confidence,
    timezone('utc', max(v.created_at)) AS last_written
FROM (
    SELECT
        c.user_id,
        c.context_type,
        c.context_key,
        c.context_value,
        count(*) AS memories,
        sum(coalesce(c.confidence, 1)) AS confidence,
        max(c.created_at) AS created_at
    FROM ltm_contexts AS c
    INNER JOIN ltm_memories AS m ON c.user_id = m.user_id AND c.memory_id = m.id
    WHERE ltm_is_current(m.expires_at, now())
    GROUP BY c.user_id, c.context_type, c.context_key, c.context_value
) AS v
GROUP BY v.user_id, v.context_type, v.context_key;

COMMENT ON VIEW ltm_context_overview IS
'Which circumstances are known of a user''s memories: one row for each field.';
COMMENT ON COLUMN ltm_context_overview.user_id IS 'Whose memories they are.';
COMMENT ON COLUMN ltm_context_overview.context_type IS
'temporal, spatial, social, environmental, emotional, technical, custom or extra.';
COMMENT ON COLUMN ltm_context_overview.context_key IS 'The field, e.g. season.';
COMMENT ON COLUMN ltm_context_overview.memories IS 'How many times the field is set.';
COMMENT ON COLUMN ltm_context_overview.different_values IS 'How many different values it has.';
COMMENT ON COLUMN ltm_context_overview.most_frequent_value IS 'The value that most of them have.';
COMMENT ON COLUMN ltm_context_overview.confidence IS 'Average confidence, 0 to 1.';
COMMENT ON COLUMN ltm_context_overview.last_written IS 'When it was last written.';
