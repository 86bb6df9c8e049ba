-- Users that the application knows by a string.

-- name: find_user(external_id text) :one
-- The number of a user, if the name has been seen.
-- scope: all users
SELECT u.user_id
FROM ltm_external_users AS u
WHERE u.external_id = $1;

-- name: intern_user(external_id text) :one
-- The number of a user, given now if the name is new; the same one to all that ask at once.
-- repeatable: always
-- scope: all users
WITH found AS (
    SELECT u.user_id
    FROM ltm_external_users AS u
    WHERE u.external_id = $1
),

made AS (
    INSERT INTO ltm_external_users AS u (external_id)
    SELECT $1
    WHERE NOT EXISTS (SELECT 1 FROM found)
    ON CONFLICT (external_id) DO UPDATE SET external_id = excluded.external_id
    RETURNING u.user_id
)

SELECT f.user_id FROM found AS f
UNION ALL
SELECT n.user_id FROM made AS n;

-- name: list_users(
--     as_of timestamptz, row_limit bigint, after_number bigint, after_name bigint
-- ) :many UserSummary
-- Users of whom something is stored or whose name is known: numbers, then names as they came.
-- scope: all users
WITH RECURSIVE numbers AS (
    (
        SELECT m.user_id
        FROM ltm_memories AS m
        WHERE m.user_id > $3
        ORDER BY m.user_id
        LIMIT 1
    )
    UNION ALL
    SELECT (
        SELECT m.user_id
        FROM ltm_memories AS m
        WHERE m.user_id > n.user_id
        ORDER BY m.user_id
        LIMIT 1
    )
    FROM numbers AS n
    WHERE n.user_id IS NOT NULL
),

listed AS (
    (
        SELECT
            n.user_id,
            NULL AS external_id
        FROM numbers AS n
        WHERE n.user_id IS NOT NULL
        LIMIT $2
    )
    UNION ALL
    (
        SELECT
            u.user_id,
            u.external_id
        FROM ltm_external_users AS u
        WHERE u.user_id < $4 AND u.external_id IS NOT NULL
        ORDER BY u.user_id DESC
        LIMIT $2
    )
)

SELECT
    l.user_id,
    l.external_id,
    (
        SELECT count(*)
        FROM ltm_memories AS m
        WHERE m.user_id = l.user_id AND ltm_is_current(m.expires_at, $1)
    ) AS memories
FROM listed AS l
ORDER BY l.external_id IS NOT NULL, abs(l.user_id), l.user_id
LIMIT $2;

-- name: forget_name(user_id bigint) :one
-- Blank the name of a user and keep the number, so that it is never given again; tell how many had one.
WITH blanked AS (
    UPDATE ltm_external_users AS u
    SET external_id = NULL
    WHERE u.user_id = $1 AND u.external_id IS NOT NULL
    RETURNING u.user_id
)

SELECT count(*) AS forgotten FROM blanked;

-- name: forget_repairs(user_id bigint) :one
-- Delete what adoption kept of a user's values as they were; tell how many there were.
WITH erased AS (
    DELETE FROM ltm_adoption_report AS r
    WHERE r.user_id = $1
    RETURNING r.id
)

SELECT count(*) AS erased FROM erased;
