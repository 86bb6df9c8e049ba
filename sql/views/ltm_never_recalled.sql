CREATE OR REPLACE VIEW ltm_never_recalled WITH (security_invoker = TRUE) AS
SELECT
    k.user_id,
    k.memory_id AS id,
    ltm_summary(m.content) AS summary,
    coalesce(m.importance_score, 1) AS importance_score,
    ltm_dynamic_importance(k.importance_rank, now()) AS dynamic_importance,
    k.importance_rank,
    date_trunc('day', now() - timezone('utc', m.created_at)) AS age,
    timezone('utc', m.created_at) AS created_at
FROM ltm_memory_ranks AS k
INNER JOIN ltm_memories AS m ON k.user_id = m.user_id AND k.memory_id = m.id
WHERE
    k.is_archived IS NOT TRUE
    AND ltm_is_current(m.expires_at, now())
    AND (m.access_count IS NULL OR m.access_count = 0)
    AND m.last_accessed IS NULL;

COMMENT ON VIEW ltm_never_recalled IS
'The memories that nobody ever asked for again, archived ones left out.';
COMMENT ON COLUMN ltm_never_recalled.user_id IS 'Whose memory it is.';
COMMENT ON COLUMN ltm_never_recalled.id IS 'Number of the memory.';
COMMENT ON COLUMN ltm_never_recalled.summary IS 'The first 80 characters of its content.';
COMMENT ON COLUMN ltm_never_recalled.importance_score IS 'Base importance, 1 to 10.';
COMMENT ON COLUMN ltm_never_recalled.dynamic_importance IS 'Importance now, 0 to 10.';
COMMENT ON COLUMN ltm_never_recalled.importance_rank IS
'The order by importance at any moment, under an index.';
COMMENT ON COLUMN ltm_never_recalled.age IS 'Time since it was created, in whole days.';
COMMENT ON COLUMN ltm_never_recalled.created_at IS 'When it was created.';
