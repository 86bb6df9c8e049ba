-- Sources: the conversations and documents that memories come from.

-- name: list_sources(
--     user_id bigint, as_of timestamptz, row_limit bigint, after_at timestamptz, after_id text
-- ) :many Source
-- The sources of a user's memories, archived or not, the one of the newest memory first.
SELECT
    s.source_id COLLATE "C" AS source_id,
    s.source_type,
    s.memories,
    timezone('utc', s.first_at) AS first_at,
    timezone('utc', s.last_at) AS last_at
FROM (
    SELECT
        m.source_id,
        mode() WITHIN GROUP (ORDER BY m.source_type COLLATE "C") AS source_type,
        count(*) AS memories,
        min(m.created_at) AS first_at,
        max(m.created_at) AS last_at
    FROM ltm_memories AS m
    WHERE m.user_id = $1 AND m.source_id IS NOT NULL AND ltm_is_current(m.expires_at, $2)
    GROUP BY m.source_id
) AS s
-- if after_id
WHERE
    (s.last_at, s.source_id COLLATE "C") < (timezone('utc', $4::timestamptz), $5 COLLATE "C")
-- end if
ORDER BY s.last_at DESC, source_id DESC
LIMIT $3;

-- name: last_of_source(user_id bigint, source_id text) :one
-- When the newest memory of a source was created.
SELECT timezone('utc', max(m.created_at)) AS last_at
FROM ltm_memories AS m
WHERE m.user_id = $1 AND m.source_id = $2;

-- name: get_source(
--     user_id bigint, source_id text, as_of timestamptz, row_limit bigint
-- ) :many Memory
-- The memories of a source in their order, archived or not; those without a place come last.
SELECT
    m.*,  -- columns: memory
    m.context_data::text AS enhanced_context,
    ltm_dynamic_importance(m.importance_rank, $3) AS dynamic_importance
FROM ltm_memories AS m
WHERE m.user_id = $1 AND m.source_id = $2 AND ltm_is_current(m.expires_at, $3)
ORDER BY m.source_position, m.created_at, m.id
LIMIT $4;
