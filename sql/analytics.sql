-- Figures over all memories of a user.

-- columns: totals(as_of timestamptz)
-- A user's memories in four figures.
SELECT
    count(*) AS total_memories,
    count(*) FILTER (WHERE m.is_archived) AS archived_memories,
    avg(coalesce(m.importance_score, 1))::double precision AS average_importance,
    -- In its whole units: the sum of fractions would depend on the order in which rows are read.
    avg(round(1440 * ltm_dynamic_importance(m.importance_rank, :as_of))::integer)::double precision
    / 1440 AS average_dynamic_importance
FROM ltm_memories AS m;

-- name: get_analytics(user_id bigint, as_of timestamptz, row_limit bigint) :one Analytics
-- Totals, distributions, averages and rankings in one pass over the user's memories.
-- every reads them once, without what is long; totals, types, categories, namespaces and months are made
-- of it as JSON objects; accessed and related choose the few that the rankings show, and most_accessed
-- and most_related fetch the contents of those alone. What has expired is few: tags and relationships
-- are counted without a join to all that has not.
WITH every AS MATERIALIZED (
    SELECT
        m.id,
        m.importance_rank,
        m.is_archived,
        coalesce(m.memory_type, 'unknown') AS memory_type,
        coalesce(m.category, 'unknown') AS category,
        m.namespace,
        m.importance_score,
        coalesce(m.access_count, 0) AS access_count,
        date_trunc('month', m.created_at) AS month,
        ltm_is_current(m.expires_at, $2) AS is_current
    FROM ltm_memories AS m
    WHERE m.user_id = $1
),

memories AS NOT MATERIALIZED (
    SELECT * FROM every AS e
    WHERE e.is_current
),

expired AS (
    SELECT e.id FROM every AS e
    WHERE NOT e.is_current
),

totals AS (
    SELECT
        m.*  -- columns: totals
    FROM memories AS m
),

types AS (
    SELECT
        json_object_agg(
            t.memory_type, t.memories ORDER BY t.memories DESC, t.memory_type COLLATE "C" ASC
        )
            AS found
    FROM (
        SELECT m.memory_type, count(*) AS memories FROM memories AS m
        GROUP BY m.memory_type
    ) AS t
),

categories AS (
    SELECT
        json_object_agg(
            c.category, c.memories ORDER BY c.memories DESC, c.category COLLATE "C" ASC
        ) AS found
    FROM (
        SELECT m.category, count(*) AS memories FROM memories AS m
        GROUP BY m.category
    ) AS c
),

namespaces AS (
    SELECT
        json_object_agg(
            n.namespace, n.memories ORDER BY n.memories DESC, n.namespace COLLATE "C" ASC
        ) AS found
    FROM (
        SELECT m.namespace, count(*) AS memories FROM memories AS m
        GROUP BY m.namespace
    ) AS n
),

tags AS (
    SELECT
        json_object_agg(t.tag_name, t.memories ORDER BY t.memories DESC, t.tag_name COLLATE "C" ASC)
            AS found
    FROM (
        SELECT
            g.tag_name,
            count(*) AS memories
        FROM ltm_memory_tags AS g
        WHERE g.user_id = $1 AND g.memory_id NOT IN (SELECT e.id FROM expired AS e)
        GROUP BY g.tag_name
    ) AS t
),

months AS (
    SELECT json_object_agg(to_char(g.month, 'YYYY-MM'), g.memories ORDER BY g.month) AS found
    FROM (
        SELECT
            m.month,
            count(*) AS memories
        FROM memories AS m
        WHERE m.month IS NOT NULL
        GROUP BY m.month
    ) AS g
),

accessed AS (
    SELECT
        m.id,
        m.access_count
    FROM memories AS m
    WHERE m.access_count > 0
    ORDER BY m.access_count DESC, m.importance_rank DESC, m.id DESC
    LIMIT $3
),

most_accessed AS (
    SELECT json_agg(s) AS found
    FROM (
        SELECT
            m.id,
            m.content,
            m.memory_type,
            a.access_count,
            coalesce(m.importance_score, 1) AS importance_score
        FROM accessed AS a
        INNER JOIN ltm_memories AS m ON m.user_id = $1 AND m.id = a.id
        ORDER BY a.access_count DESC, m.importance_rank DESC, m.id DESC
    ) AS s
),

-- Each end in the order of its index, which is quicker than to hash as many ends as there are memories.
related AS (
    SELECT
        coalesce(o.id, i.id) AS id,
        coalesce(o.relationships, 0) + coalesce(i.relationships, 0) AS relationship_count
    FROM (
        SELECT
            r.source_memory_id AS id,
            count(*) AS relationships
        FROM ltm_memory_relationships AS r
        WHERE r.user_id = $1 AND r.target_memory_id NOT IN (SELECT e.id FROM expired AS e)
        GROUP BY r.source_memory_id
        ORDER BY r.source_memory_id
    ) AS o
    FULL JOIN (
        SELECT
            r.target_memory_id AS id,
            count(*) AS relationships
        FROM ltm_memory_relationships AS r
        WHERE r.user_id = $1 AND r.source_memory_id NOT IN (SELECT e.id FROM expired AS e)
        GROUP BY r.target_memory_id
        ORDER BY r.target_memory_id
    ) AS i ON o.id = i.id
    WHERE coalesce(o.id, i.id) NOT IN (SELECT e.id FROM expired AS e)
    ORDER BY relationship_count DESC, id DESC
    LIMIT $3
),

most_related AS (
    SELECT json_agg(s) AS found
    FROM (
        SELECT
            m.id,
            m.content,
            m.memory_type,
            r.relationship_count,
            coalesce(m.importance_score, 1) AS importance_score
        FROM related AS r
        INNER JOIN ltm_memories AS m ON m.user_id = $1 AND m.id = r.id
        ORDER BY r.relationship_count DESC, m.id DESC
    ) AS s
)

SELECT
    a.total_memories,
    a.archived_memories,
    a.average_importance,
    a.average_dynamic_importance,
    coalesce(t.found, '{}')::text AS type_distribution,
    coalesce(c.found, '{}')::text AS category_distribution,
    coalesce(n.found, '{}')::text AS namespace_distribution,
    coalesce(g.found, '{}')::text AS tag_distribution,
    coalesce(w.found, '{}')::text AS growth_by_month,
    coalesce(x.found, '[]')::text AS most_accessed_memories,
    coalesce(y.found, '[]')::text AS most_related_memories
FROM totals AS a
CROSS JOIN types AS t
CROSS JOIN categories AS c
CROSS JOIN namespaces AS n
CROSS JOIN tags AS g
CROSS JOIN months AS w
CROSS JOIN most_accessed AS x
CROSS JOIN most_related AS y;
