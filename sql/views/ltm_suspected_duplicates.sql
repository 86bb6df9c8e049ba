CREATE OR REPLACE VIEW ltm_suspected_duplicates WITH (security_invoker = TRUE) AS
SELECT
    m.user_id,
    m.id,
    f.id AS duplicate_of,
    ltm_summary(m.content) AS summary,
    timezone('utc', m.created_at) AS created_at,
    timezone('utc', f.created_at) AS first_created_at
FROM ltm_memories AS m
CROSS JOIN
    LATERAL (
        SELECT
            o.id,
            o.created_at
        FROM ltm_memories AS o
        WHERE
            o.user_id = m.user_id
            AND o.content_hash = m.content_hash
            AND o.id < m.id
            AND ltm_normalized_content(o.content) = ltm_normalized_content(m.content)
            AND o.is_archived IS NOT TRUE
            AND ltm_is_current(o.expires_at, now())
        ORDER BY o.id
        LIMIT 1
    ) AS f
WHERE m.is_archived IS NOT TRUE AND ltm_is_current(m.expires_at, now());

COMMENT ON VIEW ltm_suspected_duplicates IS
'The memories that say what an earlier one of the user says, but for letter case and white space; '
'archived ones left out.';
COMMENT ON COLUMN ltm_suspected_duplicates.user_id IS 'Whose memory it is.';
COMMENT ON COLUMN ltm_suspected_duplicates.id IS 'Number of the memory.';
COMMENT ON COLUMN ltm_suspected_duplicates.duplicate_of IS
'The first of the user''s memories that says the same.';
COMMENT ON COLUMN ltm_suspected_duplicates.summary IS 'The first 80 characters of its content.';
COMMENT ON COLUMN ltm_suspected_duplicates.created_at IS 'When it was created.';
COMMENT ON COLUMN ltm_suspected_duplicates.first_created_at IS 'When the first one was created.';
