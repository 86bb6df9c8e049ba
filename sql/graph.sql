-- A memory's neighbourhood: the memories that a traversal came to, and the relationships among them.

-- name: get_graph(
--     user_id bigint, memory_ids bigint[], depths integer[], as_of timestamptz,
--     content_chars integer, relationship_limit bigint
-- ) :one Graph
-- These memories in this order, with the beginnings of their contents, and their relationships.
WITH nodes AS MATERIALIZED (
    SELECT
        m.id,
        m.memory_type,
        left(m.content, $5) AS content,
        coalesce(m.importance_score, 1) AS importance_score,
        ltm_dynamic_importance(m.importance_rank, $4) AS dynamic_importance,
        m.is_archived IS TRUE AS is_archived,
        g.depth,
        g.place
    FROM unnest($2::bigint[], $3::integer[]) WITH ORDINALITY AS g (id, depth, place)
    INNER JOIN ltm_memories AS m ON m.user_id = $1 AND g.id = m.id
    WHERE ltm_is_current(m.expires_at, $4)
),

edges AS (
    SELECT
        r.id,
        r.source_memory_id,
        r.target_memory_id,
        r.relationship_type,
        coalesce(r.strength, 1) AS strength
    FROM ltm_memory_relationships AS r
    WHERE
        r.user_id = $1
        AND r.source_memory_id = any($2)
        AND r.target_memory_id = any($2)
        AND r.source_memory_id IN (SELECT s.id FROM nodes AS s)
        AND r.target_memory_id IN (SELECT t.id FROM nodes AS t)
    ORDER BY coalesce(r.strength, 1) DESC, r.id ASC
    LIMIT $6
)

SELECT
    (
        SELECT
            coalesce(
                json_agg(
                    json_build_object(
                        'id', n.id,
                        'content', n.content,
                        'memory_type', n.memory_type,
                        'importance_score', n.importance_score,
                        'dynamic_importance', n.dynamic_importance,
                        'is_archived', n.is_archived,
                        'depth', n.depth
                    ) ORDER BY n.place
                ),
                '[]'
            )::text
        FROM nodes AS n
    ) AS nodes,
    (
        SELECT coalesce(json_agg(e ORDER BY e.strength DESC, e.id ASC), '[]')::text FROM edges AS e
    ) AS edges;
