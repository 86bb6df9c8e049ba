CREATE OR REPLACE VIEW ltm_memory_overview WITH (security_invoker = TRUE) AS
SELECT
    k.user_id,
    k.memory_id AS id,
    ltm_summary(m.content) AS summary,
    m.memory_type,
    m.category,
    ltm_tag_names(m.tags) AS tags,
    coalesce(m.importance_score, 1) AS importance_score,
    ltm_dynamic_importance(k.importance_rank, now()) AS dynamic_importance,
    k.importance_rank,
    date_trunc('day', now() - timezone('utc', m.created_at)) AS age,
    timezone('utc', m.created_at) AS created_at,
    timezone('utc', m.last_accessed) AS last_accessed,
    coalesce(m.access_count, 0) AS access_count,
    (
        SELECT count(*)
        FROM ltm_memory_access AS a
        WHERE a.user_id = m.user_id AND a.memory_id = m.id
    ) AS logged_accesses,
    (
        SELECT count(*)
        FROM ltm_memory_relationships AS r
        INNER JOIN ltm_memories AS o ON r.user_id = o.user_id AND r.target_memory_id = o.id
        WHERE
            r.user_id = m.user_id
            AND r.source_memory_id = m.id
            AND ltm_is_current(o.expires_at, now())
    ) AS outgoing,
    (
        SELECT count(*)
        FROM ltm_memory_relationships AS r
        INNER JOIN ltm_memories AS o ON r.user_id = o.user_id AND r.source_memory_id = o.id
        WHERE
            r.user_id = m.user_id
            AND r.target_memory_id = m.id
            AND ltm_is_current(o.expires_at, now())
    ) AS incoming,
    (
        SELECT count(*)
        FROM ltm_contexts AS c
        WHERE c.user_id = m.user_id AND c.memory_id = m.id
    ) AS contexts,
    m.parent_memory_id,
    m.source_type,
    m.source_id,
    k.is_archived IS TRUE AS is_archived,
    m.namespace,
    m.key
FROM ltm_memory_ranks AS k
INNER JOIN ltm_memories AS m ON k.user_id = m.user_id AND k.memory_id = m.id
WHERE ltm_is_current(m.expires_at, now());

COMMENT ON VIEW ltm_memory_overview IS
'The memories of a user at a glance, archived ones too. WHERE NOT is_archived ORDER BY '
'importance_rank DESC LIMIT 10 reads no more of them than it shows.';
COMMENT ON COLUMN ltm_memory_overview.user_id IS 'Whose memory it is.';
COMMENT ON COLUMN ltm_memory_overview.id IS 'Number of the memory.';
COMMENT ON COLUMN ltm_memory_overview.summary IS 'The first 80 characters of its content.';
COMMENT ON COLUMN ltm_memory_overview.memory_type IS 'preference, fact, ..., or another word.';
COMMENT ON COLUMN ltm_memory_overview.category IS 'The caller''s own grouping.';
COMMENT ON COLUMN ltm_memory_overview.tags IS 'Its tags in the order given.';
COMMENT ON COLUMN ltm_memory_overview.importance_score IS 'Base importance, 1 to 10.';
COMMENT ON COLUMN ltm_memory_overview.dynamic_importance IS 'Importance now, 0 to 10.';
COMMENT ON COLUMN ltm_memory_overview.importance_rank IS
'The order by importance at any moment, under an index.';
COMMENT ON COLUMN ltm_memory_overview.age IS 'Time since it was created, in whole days.';
COMMENT ON COLUMN ltm_memory_overview.created_at IS 'When it was created.';
COMMENT ON COLUMN ltm_memory_overview.last_accessed IS 'When it was last accessed; NULL: never.';
COMMENT ON COLUMN ltm_memory_overview.access_count IS 'How often it was accessed.';
COMMENT ON COLUMN ltm_memory_overview.logged_accesses IS
'How many of its accesses are still in ltm_memory_access.';
COMMENT ON COLUMN ltm_memory_overview.outgoing IS
'How many relationships start from it; those to memories that expired are not counted.';
COMMENT ON COLUMN ltm_memory_overview.incoming IS
'How many relationships point to it; those from memories that expired are not counted.';
COMMENT ON COLUMN ltm_memory_overview.contexts IS 'How many fields of its context are set.';
COMMENT ON COLUMN ltm_memory_overview.parent_memory_id IS 'The memory that it belongs under.';
COMMENT ON COLUMN ltm_memory_overview.source_type IS
'conversation, tool_usage, ..., or another word.';
COMMENT ON COLUMN ltm_memory_overview.source_id IS 'Where it came from.';
COMMENT ON COLUMN ltm_memory_overview.is_archived IS 'Whether it is put away.';
COMMENT ON COLUMN ltm_memory_overview.namespace IS 'Its namespace, empty where it has none.';
COMMENT ON COLUMN ltm_memory_overview.key IS 'Its key there.';
