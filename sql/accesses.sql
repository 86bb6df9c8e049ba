-- Recalls: the log ltm_memory_access, and its sums on the memory.

-- name: record_accesses(
--     user_id bigint, memory_ids bigint[], now timestamptz, access_method varchar, access_context text,
--     user_query text
-- ) :one
-- Count one recall of each of these memories and log it; tell how many there were.
WITH locked AS (
    SELECT m.id
    FROM ltm_memories AS m
    WHERE
        m.user_id = $1
        AND m.id = ANY($2::bigint[])
        AND (m.expires_at IS NULL OR m.expires_at > $3)
    ORDER BY m.id
    FOR NO KEY UPDATE
),

counted AS (
    UPDATE ltm_memories AS m
    SET
        access_count = LEAST(COALESCE(m.access_count, 0), 2147483646) + 1,
        last_accessed = GREATEST(m.last_accessed, TIMEZONE('utc', $3::timestamptz)),
        last_access_context = COALESCE($5, m.last_access_context),
        dynamic_importance = LTM_DYNAMIC_IMPORTANCE(
            LTM_IMPORTANCE_RANK(
                m.importance_score,
                m.confidence_score,
                LEAST(COALESCE(m.access_count, 0), 2147483646) + 1,
                GREATEST(m.last_accessed, TIMEZONE('utc', $3)),
                m.created_at
            ),
            $3
        )
    FROM locked AS l
    WHERE m.user_id = $1 AND m.id = l.id
),

logged AS (
    INSERT INTO ltm_memory_access (
        user_id, memory_id, access_timestamp, access_context, access_method, user_query
    )
    SELECT
        $1,
        l.id,
        TIMEZONE('utc', $3),
        $5,
        $4,
        $6
    FROM locked AS l
    RETURNING id
)

SELECT COUNT(*) AS recorded FROM logged;
