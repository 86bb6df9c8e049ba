-- given: as_of = now(), below = 2
CREATE OR REPLACE VIEW ltm_stale_memories WITH (security_invoker = TRUE) AS
SELECT
    m.user_id,
    m.id,
    ltm_summary(m.content) AS summary,
    coalesce(m.importance_score, 1) AS importance_score,
    ltm_dynamic_importance(m.importance_rank, now()) AS dynamic_importance,
    m.importance_rank,
    timezone('utc', coalesce(m.last_accessed, m.created_at)) AS last_used
FROM (
    SELECT
        m.*  -- columns: ranked
    FROM ltm_memory_ranks AS k
    INNER JOIN ltm_memories AS m ON k.user_id = m.user_id AND k.memory_id = m.id
) AS m
WHERE
    TRUE  -- conditions: stale
    AND ltm_is_current(m.expires_at, now());

COMMENT ON VIEW ltm_stale_memories IS
'What has sunk below a dynamic importance of 2: what archive_stale(db, user, below=2) would '
'archive.';
COMMENT ON COLUMN ltm_stale_memories.user_id IS 'Whose memory it is.';
COMMENT ON COLUMN ltm_stale_memories.id IS 'Number of the memory.';
COMMENT ON COLUMN ltm_stale_memories.summary IS 'The first 80 characters of its content.';
COMMENT ON COLUMN ltm_stale_memories.importance_score IS 'Base importance, 1 to 10.';
COMMENT ON COLUMN ltm_stale_memories.dynamic_importance IS 'Importance now, 0 to 2.';
COMMENT ON COLUMN ltm_stale_memories.importance_rank IS
'The order by importance at any moment, under an index.';
COMMENT ON COLUMN ltm_stale_memories.last_used IS
'When it was last accessed, else when it was created.';
