-- Keys and namespaces: memories under names of the caller's own.

-- name: find_keys(
--     user_id bigint, namespaces text[], keys text[], as_of timestamptz
-- ) :many
-- The ids of the memories with some keys, each in its namespace.
SELECT
    m.id,
    m.key
FROM unnest($2::text[], $3::text[]) WITH ORDINALITY AS a (namespace, key, place)
INNER JOIN ltm_memories AS m
    ON m.user_id = $1 AND m.namespace = a.namespace AND m.key = a.key
WHERE ltm_is_current(m.expires_at, $4)
ORDER BY a.place
LIMIT cardinality($2);

-- name: lock_key(user_id bigint, namespace text, key text, as_of timestamptz) :exec
-- Lock the memory with a key, so that the next statement sees all that is written of it.
SELECT m.id
FROM ltm_memories AS m
WHERE
    m.user_id = $1
    AND m.namespace = $2
    AND m.key = $3
    AND ltm_is_current(m.expires_at, $4)
FOR NO KEY UPDATE;

-- name: lock_keys(
--     user_id bigint, namespace text, key text, as_of timestamptz, row_limit bigint, prefix flag
-- ) :many
-- Lock the memory with a key, or all whose key begins with it; their ids and keys.
SELECT
    m.id,
    m.key
FROM ltm_memories AS m
WHERE
    m.user_id = $1
    AND m.namespace = $2
    AND m.key = $3  -- if not prefix
    -- if prefix
    AND m.key >= $3
    AND m.key <= $3 || repeat(chr(1114111), 255)
    -- end if
    AND ltm_is_current(m.expires_at, $4)
ORDER BY m.id
LIMIT $5
FOR NO KEY UPDATE;

-- name: key_in_the_way(
--     user_id bigint, namespace text, keys text[], but_ids bigint[], as_of timestamptz
-- ) :one
-- The first of some keys that another memory has.
SELECT m.key
FROM ltm_memories AS m
WHERE
    m.user_id = $1
    AND m.namespace = $2
    AND m.key = any($3::text[])
    AND m.id <> all($4::bigint[])
    AND ltm_is_current(m.expires_at, $5)
ORDER BY m.key COLLATE "C"
LIMIT 1;

-- name: free_keys(
--     user_id bigint, namespace text, keys text[], ids bigint[], as_of timestamptz
-- ) :exec
-- Take the keys of memories that are given others, and of expired ones that are in their way.
UPDATE ltm_memories AS m
SET key = NULL
WHERE
    m.user_id = $1
    AND (
        m.id = any($4::bigint[])
        OR (m.namespace = $2 AND m.key = any($3::text[]) AND m.expires_at <= $5)
    );

-- name: give_keys(user_id bigint, ids bigint[], keys text[], now timestamptz) :exec
-- Give memories keys.
UPDATE ltm_memories AS m
SET
    key = g.key,
    version = m.version + 1,
    last_modified = timezone('utc', $4::timestamptz),
    dynamic_importance = ltm_dynamic_importance(m.importance_rank, $4)
FROM unnest($2::bigint[], $3::text[]) AS g (id, key)
WHERE m.user_id = $1 AND m.id = g.id;

-- name: list_namespaces(
--     user_id bigint, as_of timestamptz, row_limit bigint, prefix text, max_depth integer, keyed flag
-- ) :many Namespace
-- The namespaces of a user's memories, or of those with a key, cut to their first labels.
-- From one to the next through the index; below one that is cut nothing is looked at. Those whose
-- memories have all expired are left out.
WITH RECURSIVE walk AS (
    SELECT
        coalesce($4, '') COLLATE "C" AS namespace,
        (coalesce($4, '') || chr(1)) COLLATE "C" AS following
    UNION ALL
    SELECT
        c.namespace,
        CASE WHEN c.namespace = n.namespace THEN n.namespace || chr(1) ELSE c.namespace || '/' END
    FROM walk AS w
    CROSS JOIN
        LATERAL (
            SELECT m.namespace
            FROM ltm_memories AS m
            WHERE
                m.user_id = $1
                AND m.namespace >= w.following
                -- if prefix
                AND m.namespace >= $4 || '.'
                AND m.namespace < $4 || '/'
                -- end if
            ORDER BY m.namespace COLLATE "C"
            LIMIT 1
        ) AS n
    CROSS JOIN
        LATERAL (
            SELECT
                array_to_string((string_to_array(n.namespace, '.'))[1:coalesce($5, 750)], '.')
                    AS namespace
        ) AS c
)

SELECT
    w.namespace,
    NULL::bigint AS memories,
    NULL::timestamptz AS last_modified
FROM (SELECT DISTINCT w.namespace COLLATE "C" AS namespace FROM walk AS w) AS w
CROSS JOIN
    LATERAL (
        SELECT b.id
        FROM (
            (
                SELECT m.id
                FROM ltm_memories AS m
                WHERE
                    m.user_id = $1
                    AND m.namespace = w.namespace
                    AND m.key IS NOT NULL  -- if keyed
                    AND ltm_is_current(m.expires_at, $2)
                LIMIT 1
            )
            -- if max_depth
            UNION ALL
            (
                SELECT m.id
                FROM ltm_memories AS m
                WHERE
                    m.user_id = $1
                    AND m.key IS NOT NULL  -- if keyed
                    AND m.namespace > w.namespace || '.'
                    AND m.namespace < w.namespace || '/'
                    AND ltm_is_current(m.expires_at, $2)
                LIMIT 1
            )
            -- end if
        ) AS b
        -- One look-up a namespace: a join might read all memories.
        LIMIT 1
    ) AS current_one
ORDER BY w.namespace COLLATE "C"
LIMIT $3;

-- name: count_namespaces(
--     user_id bigint, as_of timestamptz, row_limit bigint, prefix text, max_depth integer, keyed flag
-- ) :many Namespace
-- The same with how many memories each has, and when one of them was last changed.
SELECT
    c.namespace,
    count(*) AS memories,
    timezone('utc', max(m.last_modified)) AS last_modified
FROM ltm_memories AS m
CROSS JOIN
    LATERAL (
        SELECT
            array_to_string((string_to_array(m.namespace, '.'))[1:coalesce($5, 750)], '.')
            COLLATE "C" AS namespace
    ) AS c
WHERE
    m.user_id = $1
    AND m.key IS NOT NULL  -- if keyed
    -- if prefix
    AND (m.namespace = $4 OR (m.namespace >= $4 || '.' AND m.namespace < $4 || '/'))
    -- end if
    AND ltm_is_current(m.expires_at, $2)
GROUP BY c.namespace
ORDER BY c.namespace COLLATE "C"
LIMIT $3;
