-- Links between memories: one table, ltm_memory_relationships, and its mirror on the source memory.

-- columns: relationship
SELECT
    r.id,
    r.source_memory_id,
    r.target_memory_id,
    r.relationship_type,
    r.description,
    CASE WHEN o.id = r.target_memory_id THEN 'outgoing' ELSE 'incoming' END AS direction,
    coalesce(r.strength, 1) AS strength,
    r.created_at,
    json_build_object(
        'id', o.id,
        'content', o.content,
        'memory_type', o.memory_type,
        'importance_score', coalesce(o.importance_score, 1)
    )::text AS related_memory
FROM ltm_memory_relationships AS r, ltm_memories AS o;

-- name: relate(
--     user_id bigint, source_memory_id bigint, target_memory_id bigint, now timestamptz,
--     relationship_type varchar, strength double precision, description text
-- ) :one Relationship
-- Make a link, or give the one that is there this strength and description.
WITH ends AS (
    SELECT m.id
    FROM ltm_memories AS m
    WHERE
        m.user_id = $1
        AND m.id IN ($2, $3)
        AND (m.expires_at IS NULL OR m.expires_at > $4)
    ORDER BY m.id
    FOR NO KEY UPDATE
),

mirrored AS (
    UPDATE ltm_memories AS m
    SET
        related_memory_ids = CASE jsonb_typeof(m.related_memory_ids)
            WHEN 'array' THEN m.related_memory_ids || to_jsonb($3)
            ELSE jsonb_build_array($3)
        END
    WHERE
        m.user_id = $1
        AND m.id = $2
        AND (SELECT count(*) FROM ends) = 2
        AND m.related_memory_ids @> to_jsonb($3) IS NOT TRUE
),

related AS (
    INSERT INTO ltm_memory_relationships AS r (
        user_id, source_memory_id, target_memory_id, relationship_type, strength, description,
        created_at
    )
    SELECT
        $1,
        $2,
        $3,
        $5,
        $6,
        $7,
        timezone('utc', $4::timestamptz)
    WHERE (SELECT count(*) FROM ends) = 2
    ON CONFLICT (user_id, source_memory_id, target_memory_id, relationship_type)
    DO UPDATE SET strength = excluded.strength, description = excluded.description
    RETURNING
        r.id,
        r.source_memory_id,
        r.target_memory_id,
        r.relationship_type,
        r.strength,
        r.description,
        r.created_at
)

SELECT
    r.*  -- columns: relationship
FROM related AS r
INNER JOIN ltm_memories AS o ON o.user_id = $1 AND o.id = r.target_memory_id;

-- name: lock_source(user_id bigint, memory_id bigint) :one
-- Lock a memory, so that the next statement sees every link that another one made from it.
SELECT m.id
FROM ltm_memories AS m
WHERE m.user_id = $1 AND m.id = $2
FOR NO KEY UPDATE;

-- name: unrelate(
--     user_id bigint, source_memory_id bigint, target_memory_id bigint, relationship_type text
-- ) :one
-- Remove the link of this type, or every link from source to target; tell how many.
WITH unrelated AS (
    DELETE FROM ltm_memory_relationships AS r
    WHERE
        r.user_id = $1
        AND r.source_memory_id = $2
        AND r.target_memory_id = $3
        AND ($4::text IS NULL OR r.relationship_type = $4)
    RETURNING r.id
),

mirrored AS (
    UPDATE ltm_memories AS m
    SET
        related_memory_ids = jsonb_path_query_array(
            m.related_memory_ids, '$[*] ? (@ != $gone)', jsonb_build_object('gone', $3)
        )
    WHERE
        m.user_id = $1
        AND m.id = $2
        AND jsonb_typeof(m.related_memory_ids) = 'array'
        AND EXISTS (SELECT 1 FROM unrelated)
        AND NOT EXISTS (
            SELECT 1
            FROM ltm_memory_relationships AS r
            WHERE
                r.user_id = $1
                AND r.source_memory_id = $2
                AND r.target_memory_id = $3
                AND r.relationship_type <> $4
        )
)

SELECT count(*) AS removed FROM unrelated;

-- name: get_relationships(user_id bigint, memory_id bigint, as_of timestamptz) :many Relationship
-- The links that leave a memory or arrive at it, strongest first.
SELECT
    r.*  -- columns: relationship
FROM ltm_memories AS m
INNER JOIN ltm_memory_relationships AS r
    ON r.user_id = $1 AND (r.source_memory_id = $2 OR r.target_memory_id = $2)
INNER JOIN ltm_memories AS o
    ON
        o.user_id = $1
        AND o.id = CASE
            WHEN r.source_memory_id = $2 THEN r.target_memory_id
            ELSE r.source_memory_id
        END
        AND (o.expires_at IS NULL OR o.expires_at > $3)
WHERE m.user_id = $1 AND m.id = $2 AND (m.expires_at IS NULL OR m.expires_at > $3)
ORDER BY r.strength DESC NULLS FIRST, r.id ASC
LIMIT 10000;
