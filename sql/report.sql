-- What the report of a user shows beyond the analytics.

-- name: report_figures(user_id bigint, as_of timestamptz, row_limit bigint) :one ReportFigures
-- Accesses, dynamic importance by month and by points, and what is never accessed, in one pass.
-- An archived memory is neither stale nor missed.
WITH memories AS MATERIALIZED (
    SELECT
        m.id,
        m.importance_rank,
        m.is_archived IS TRUE AS is_archived,
        coalesce(m.access_count, 0) AS access_count,
        coalesce(m.last_accessed, m.created_at) AS last_seen,
        to_char(m.created_at, 'YYYY-MM') AS month,
        ltm_dynamic_importance(m.importance_rank, $2) AS dynamic_importance
    FROM ltm_memories AS m
    WHERE m.user_id = $1 AND ltm_is_current(m.expires_at, $2)
),

totals AS (
    SELECT
        coalesce(sum(m.access_count), 0)::bigint AS accesses,
        count(*) FILTER (WHERE m.access_count = 0 AND NOT m.is_archived) AS never_recalled,
        avg(ltm_dynamic_importance(m.importance_rank, $2 + interval '365 days'))
            AS importance_in_a_year
    FROM memories AS m
),

months AS (
    SELECT
        json_object_agg(g.month, json_build_array(g.average, g.highest) ORDER BY g.month) AS found
    FROM (
        SELECT
            m.month,
            avg(m.dynamic_importance) AS average,
            max(m.dynamic_importance) AS highest
        FROM memories AS m
        WHERE m.month IS NOT NULL
        GROUP BY m.month
    ) AS g
),

points AS (
    SELECT json_object_agg(p.point, p.memories ORDER BY p.point) AS found
    FROM (
        SELECT
            least(floor(m.dynamic_importance), 9)::integer AS point,
            count(*) AS memories
        FROM memories AS m
        GROUP BY point
    ) AS p
),

missed AS (
    SELECT
        m.id,
        m.importance_rank,
        m.dynamic_importance,
        m.last_seen
    FROM memories AS m
    WHERE m.access_count = 0 AND NOT m.is_archived
    ORDER BY m.importance_rank DESC, m.id DESC
    LIMIT $3
),

stale AS (
    SELECT
        m.id,
        m.dynamic_importance,
        m.last_seen
    FROM memories AS m
    WHERE NOT m.is_archived AND m.last_seen IS NOT NULL
    ORDER BY m.last_seen ASC, m.id ASC
    LIMIT $3
)

SELECT
    t.accesses,
    t.never_recalled,
    t.importance_in_a_year,
    (
        SELECT count(*) FROM ltm_memory_relationships AS r
        WHERE
            r.user_id = $1
            AND r.source_memory_id IN (SELECT m.id FROM memories AS m)
            AND r.target_memory_id IN (SELECT m.id FROM memories AS m)
    ) AS relationships,
    coalesce(g.found, '{}')::text AS importance_by_month,
    coalesce(p.found, '{}')::text AS memories_by_importance,
    (
        SELECT
            coalesce(
                json_agg(
                    json_build_object(
                        'id', m.id,
                        'content', m.content,
                        'memory_type', m.memory_type,
                        'importance_score', coalesce(m.importance_score, 1),
                        'dynamic_importance', x.dynamic_importance,
                        'last_seen', timezone('utc', x.last_seen)
                    ) ORDER BY x.importance_rank DESC, x.id DESC
                ),
                '[]'
            )::text
        FROM missed AS x
        INNER JOIN ltm_memories AS m ON m.user_id = $1 AND x.id = m.id
    ) AS never_recalled_memories,
    (
        SELECT
            coalesce(
                json_agg(
                    json_build_object(
                        'id', m.id,
                        'content', m.content,
                        'memory_type', m.memory_type,
                        'importance_score', coalesce(m.importance_score, 1),
                        'dynamic_importance', x.dynamic_importance,
                        'last_seen', timezone('utc', x.last_seen)
                    ) ORDER BY x.last_seen ASC, x.id ASC
                ),
                '[]'
            )::text
        FROM stale AS x
        INNER JOIN ltm_memories AS m ON m.user_id = $1 AND x.id = m.id
    ) AS stalest_memories
FROM totals AS t
CROSS JOIN months AS g
CROSS JOIN points AS p;
