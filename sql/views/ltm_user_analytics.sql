-- given: as_of = now()
CREATE OR REPLACE VIEW ltm_user_analytics WITH (security_invoker = TRUE) AS
SELECT
    m.user_id,
    (
        SELECT u.external_id
        FROM ltm_external_users AS u
        WHERE u.user_id = m.user_id
    ) AS external_id,
    m.*,  -- columns: totals
    count(*) FILTER (WHERE coalesce(m.access_count, 0) > 0) AS accessed_memories,
    sum(coalesce(m.access_count, 0))::bigint AS accesses,
    (
        SELECT count(*)
        FROM ltm_memory_relationships AS r
        WHERE r.user_id = m.user_id
    ) AS relationships,
    timezone('utc', min(m.created_at)) AS first_created_at,
    timezone('utc', max(m.created_at)) AS last_created_at,
    timezone('utc', max(m.last_accessed)) AS last_accessed,
    count(DISTINCT m.namespace) FILTER (WHERE m.namespace <> '') AS namespaces
FROM ltm_memories AS m
WHERE ltm_is_current(m.expires_at, now())
GROUP BY m.user_id;

COMMENT ON VIEW ltm_user_analytics IS
'The users in figures, a row each, archived memories included; get_analytics tells more of one.';
COMMENT ON COLUMN ltm_user_analytics.user_id IS 'The user.';
COMMENT ON COLUMN ltm_user_analytics.external_id IS
'The user''s name in the application; NULL where that is the number.';
COMMENT ON COLUMN ltm_user_analytics.total_memories IS 'How many memories there are.';
COMMENT ON COLUMN ltm_user_analytics.archived_memories IS 'How many of them are archived.';
COMMENT ON COLUMN ltm_user_analytics.accessed_memories IS
'How many of them were ever accessed.';
COMMENT ON COLUMN ltm_user_analytics.average_importance IS 'Average importance_score.';
COMMENT ON COLUMN ltm_user_analytics.average_dynamic_importance IS 'Average importance now.';
COMMENT ON COLUMN ltm_user_analytics.accesses IS 'How often all of them were accessed.';
COMMENT ON COLUMN ltm_user_analytics.relationships IS
'How many relationships there are, those of memories that expired included.';
COMMENT ON COLUMN ltm_user_analytics.first_created_at IS 'When the first of them was created.';
COMMENT ON COLUMN ltm_user_analytics.last_created_at IS 'When the last of them was created.';
COMMENT ON COLUMN ltm_user_analytics.last_accessed IS 'When one of them was last accessed.';
COMMENT ON COLUMN ltm_user_analytics.namespaces IS 'How many namespaces they are in.';
