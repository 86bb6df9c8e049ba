-- Accesses: the log ltm_memory_access, and its sums on the memory.

-- query: accessed(user_id bigint, memory_ids bigint[], now timestamptz)
SELECT m.id
FROM ltm_memories AS m
WHERE
    m.user_id = :user_id
    AND m.id = any(:memory_ids::bigint[])
    AND ltm_is_current(m.expires_at, :now);

-- name: record_accesses(
--     user_id bigint, memory_ids bigint[], now timestamptz, access_method varchar, access_context text,
--     user_query text
-- ) :one
-- Count one access of each of these memories and log it; tell how many there were.
WITH locked AS (
    SELECT NULL  -- query: accessed
    ORDER BY id
    FOR NO KEY UPDATE
),

counted AS (
    UPDATE ltm_memories AS m
    SET
        access_count = least(coalesce(m.access_count, 0), 2147483646) + 1,
        last_accessed = greatest(m.last_accessed, timezone('utc', $3::timestamptz)),
        -- The beginning of the query: with all of a long one few rows would be updated in place.
        last_access_context = coalesce($5, left($6, 200), $4::varchar),
        expires_at = ltm_extended_expiry(m.expires_at, m.expires_after, $3),
        dynamic_importance = ltm_dynamic_importance(
            ltm_importance_rank(
                m.importance_score,
                m.confidence_score,
                least(coalesce(m.access_count, 0), 2147483646) + 1,
                greatest(m.last_accessed, timezone('utc', $3)),
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
        n.moment,
        $5,
        $4,
        $6
    FROM (SELECT timezone('utc', $3) AS moment) AS n
    -- if distributed
    -- Not what another part has read, which Citus would send to all nodes.
    CROSS JOIN
        (
            SELECT NULL  -- query: accessed
        ) AS l
    -- end if
    -- if not distributed
    CROSS JOIN locked AS l  -- noqa: AL04
    -- end if
)

SELECT count(*) AS recorded FROM locked;

-- name: write_accesses(
--     user_ids bigint[], memory_ids bigint[], first_accesses integer[], last_accesses integer[],
--     moments timestamptz[], reasons integer[], access_methods varchar[], access_contexts text[],
--     user_queries text[], one_user bigint
-- ) :many-users
-- Count and log accesses that were queued; tell how many, and which memories others have locked.
-- Those are left alone, and named by their places in the arrays, from 1; memories that are gone are
-- passed over. The accesses of a memory are those of moments and reasons from its first to its last,
-- in order of time; a reason is a place in the last three arrays. The commit does not wait for the
-- disk: these are statistics. It gives up where a table stays locked, before the server looks for a
-- deadlock, so that it is never a caller's transaction that is undone.
-- one_user is the user of all of them, on a distributed database: one shard then has all their rows.
-- Then it tells of each that is written the memory: the log is the statement itself, since Citus would
-- send what another part has read to all nodes.
-- repeatable: always
WITH settings AS MATERIALIZED (
    SELECT
        set_config('synchronous_commit', 'off', TRUE) AS synchronous_commit,
        set_config('lock_timeout', '500', TRUE) AS lock_timeout
),

accessed AS MATERIALIZED (
    SELECT
        r.user_id,
        r.memory_id,
        r.first_access,
        r.last_access,
        r.place
    FROM
        unnest($1::bigint[], $2::bigint[], $3::integer[], $4::integer[])
        WITH ORDINALITY AS r (user_id, memory_id, first_access, last_access, place)
),

-- if one_user
-- Citus locks no rows that are joined.
held AS MATERIALIZED (
    SELECT
        m.user_id,
        m.id,
        m.expires_at,
        m.expires_after
    FROM ltm_memories AS m
    WHERE m.user_id = $10 AND m.id = any($2)
    ORDER BY m.id
    FOR NO KEY UPDATE SKIP LOCKED
),
-- end if

locked AS MATERIALIZED (
    SELECT
        m.user_id,
        m.id,
        r.place,
        r.first_access,
        r.last_access,
        r.last_access - r.first_access + 1::bigint AS accesses,
        ($5::timestamptz[])[r.last_access] AS last_accessed,
        ($6::integer[])[r.last_access] AS last_reason,
        -- Later ones have read the memory as of an earlier moment.
        CASE
            WHEN m.expires_after IS NOT NULL
                THEN (
                    SELECT max(e.accessed_at)
                    FROM
                        unnest(($5::timestamptz[])[r.first_access:r.last_access])
                            AS e (accessed_at)
                    WHERE ltm_is_current(m.expires_at, e.accessed_at)
                )
        END AS last_current
    FROM accessed AS r
    -- if not one_user
    INNER JOIN ltm_memories AS m ON r.user_id = m.user_id AND r.memory_id = m.id
    -- end if
    -- if one_user
    INNER JOIN held AS m ON r.memory_id = m.id  -- noqa: AL04
    -- end if
    -- Forces settings, which nothing else reads, to run before the first lock.
    WHERE (SELECT g.synchronous_commit FROM settings AS g) = 'off'
    ORDER BY m.user_id, m.id
    FOR NO KEY UPDATE OF m SKIP LOCKED  -- if not one_user
),

counted AS (
    UPDATE ltm_memories AS m
    SET
        access_count = least(coalesce(m.access_count, 0) + l.accesses, 2147483647),
        last_accessed = greatest(m.last_accessed, timezone('utc', l.last_accessed)),
        last_access_context = coalesce(
            ($8::text[])[l.last_reason],
            left(($9::text[])[l.last_reason], 200),
            ($7::varchar[])[l.last_reason]
        ),
        expires_at = ltm_extended_expiry(m.expires_at, m.expires_after, l.last_current),
        dynamic_importance = ltm_dynamic_importance(
            ltm_importance_rank(
                m.importance_score,
                m.confidence_score,
                least(coalesce(m.access_count, 0) + l.accesses, 2147483647)::integer,
                greatest(m.last_accessed, timezone('utc', l.last_accessed)),
                m.created_at
            ),
            l.last_accessed
        )
    FROM locked AS l
    WHERE
        m.user_id = l.user_id
        AND m.id = l.id
        AND m.user_id = $10  -- if one_user
)
,  -- if not one_user

logged AS (  -- if not one_user
    INSERT INTO ltm_memory_access (
        user_id, memory_id, access_timestamp, access_context, access_method, user_query
    )
    SELECT
        e.user_id,  -- if not one_user
        $10,  -- if one_user
        e.id,
        timezone('utc', ($5::timestamptz[])[e.access]),
        ($8::text[])[($6::integer[])[e.access]],
        ($7::varchar[])[($6::integer[])[e.access]],
        ($9::text[])[($6::integer[])[e.access]]
    FROM (
        SELECT
            l.user_id,
            l.id,
            generate_series(l.first_access, l.last_access) AS access
        FROM locked AS l
    ) AS e
    RETURNING memory_id  -- if one_user
-- if not one_user
)

SELECT
    (SELECT coalesce(sum(l.accesses), 0) FROM locked AS l)::bigint AS recorded,
    array(
        SELECT r.place
        FROM accessed AS r
        INNER JOIN ltm_memories AS m ON r.user_id = m.user_id AND r.memory_id = m.id
        WHERE
            r.place NOT IN (SELECT l.place FROM locked AS l)
        ORDER BY r.place
    -- end if
    ) AS busy;  -- if not one_user

-- name: existing_ids(user_id bigint, memory_ids bigint[]) :one
-- Which of these memories are there, expired or not.
SELECT coalesce(array_agg(m.id), '{}') AS ids
FROM ltm_memories AS m
WHERE m.user_id = $1 AND m.id = any($2);

-- columns: access
SELECT
    a.id,
    a.user_id,
    a.memory_id,
    a.access_context,
    a.access_method,
    a.user_query,
    a.was_relevant,
    a.relevance_score
FROM ltm_memory_access AS a;

-- name: record_feedback(
--     user_id bigint, memory_id bigint, was_relevant boolean, relevance_score double precision,
--     now timestamptz
-- ) :one Access
-- Say of the newest access of a memory whether it helped; what is not given stays.
UPDATE ltm_memory_access AS a
SET
    was_relevant = coalesce($3, a.was_relevant),
    relevance_score = coalesce($4, a.relevance_score)
FROM (
    SELECT n.id
    FROM ltm_memories AS m
    INNER JOIN ltm_memory_access AS n ON n.user_id = $1 AND n.memory_id = m.id
    WHERE m.user_id = $1 AND m.id = $2 AND ltm_is_current(m.expires_at, $5)
    ORDER BY n.access_timestamp DESC NULLS LAST, n.id DESC
    LIMIT 1
) AS newest
WHERE a.user_id = $1 AND a.id = newest.id
RETURNING
    a.*,  -- columns: access
    timezone('utc', a.access_timestamp) AS access_timestamp;

-- name: access_history(
--     user_id bigint, memory_id bigint, row_limit bigint, now timestamptz
-- ) :many Access
-- The recorded accesses of a memory, newest first.
SELECT
    a.*,  -- columns: access
    timezone('utc', a.access_timestamp) AS access_timestamp
FROM ltm_memories AS m
INNER JOIN ltm_memory_access AS a ON a.user_id = $1 AND a.memory_id = $2
WHERE m.user_id = $1 AND m.id = $2 AND ltm_is_current(m.expires_at, $4)
ORDER BY a.access_timestamp DESC NULLS LAST, a.id DESC
LIMIT $3;
