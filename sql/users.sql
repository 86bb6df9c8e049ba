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
