-- Users that the application knows by a string.

-- query: user_of_name(external_id text)
SELECT coalesce(u.merged_into, u.user_id) AS user_id
FROM ltm_external_users AS u
WHERE u.external_id = :external_id;

-- query: interned_user(external_id text)
WITH found AS (
    SELECT NULL  -- query: user_of_name
),

made AS (
    INSERT INTO ltm_external_users AS u (external_id)
    SELECT :external_id
    WHERE NOT EXISTS (SELECT 1 FROM found)
    ON CONFLICT (external_id) DO UPDATE SET external_id = excluded.external_id
    RETURNING coalesce(u.merged_into, u.user_id) AS user_id
)

SELECT f.user_id FROM found AS f
UNION ALL
SELECT n.user_id FROM made AS n;

-- name: find_user(external_id text) :one
-- The number of a user, if the name has been seen.
-- scope: all users
SELECT NULL;  -- query: user_of_name

-- name: intern_user(external_id text) :one
-- The number of a user, given now if the name is new; the same one to all that ask at once.
-- repeatable: always
-- scope: all users
SELECT NULL;  -- query: interned_user

-- name: find_user_by_function(external_id text) :one
-- The same under row level security, where a role sees no names.
-- scope: all users
-- needs: row_level_security
SELECT u.user_id
FROM ltm_find_user($1) AS u (user_id)
WHERE u.user_id IS NOT NULL;

-- name: intern_user_by_function(external_id text) :one
-- The same for a name that may be new.
-- repeatable: always
-- scope: all users
-- needs: row_level_security
SELECT ltm_intern_user($1) AS user_id;

-- name: list_users(
--     as_of timestamptz, row_limit bigint, after_number bigint, after_name bigint
-- ) :many UserSummary
-- Users of whom something is stored or whose name is known: numbers, then names as they came.
-- scope: all users
WITH
RECURSIVE  -- if not distributed
numbers AS (
    (
        SELECT m.user_id
        FROM ltm_memories AS m
        WHERE m.user_id > $3
        GROUP BY m.user_id  -- if distributed
        ORDER BY m.user_id
        LIMIT
            1
            * $2::bigint  -- if distributed
    )
    -- if not distributed
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
    -- end if
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
        WHERE u.user_id < $4 AND u.external_id IS NOT NULL AND u.merged_into IS NULL
        ORDER BY u.user_id DESC
        LIMIT $2
    )
)

-- if distributed
,
counted AS (
    SELECT
        m.user_id,
        count(*) AS memories
    FROM ltm_memories AS m
    WHERE m.user_id IN (SELECT l.user_id FROM listed AS l) AND ltm_is_current(m.expires_at, $1)
    GROUP BY m.user_id
)
-- end if

SELECT
    l.user_id,
    -- if distributed
    coalesce(
        (
            SELECT c.memories FROM counted AS c
            WHERE c.user_id = l.user_id
        ), 0
    ) AS memories,
    -- end if
    -- if not distributed
    (
        SELECT count(*)
        FROM ltm_memories AS m
        WHERE m.user_id = l.user_id AND ltm_is_current(m.expires_at, $1)
    ) AS memories,
    -- end if
    l.external_id
FROM listed AS l
ORDER BY l.external_id IS NOT NULL, abs(l.user_id), l.user_id
LIMIT $2;

-- name: forget_name(user_id bigint) :one
-- Blank the names of a user and keep the numbers, so that they are never given again; tell how many.
-- scope: all users
WITH blanked AS (
    UPDATE ltm_external_users AS u
    SET external_id = NULL
    WHERE (u.user_id = $1 OR u.merged_into = $1) AND u.external_id IS NOT NULL
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

-- name: rename_user(external_id text, new_external_id text) :one
-- Give a user known by a string another name; tell how many there were.
-- scope: all users
WITH renamed AS (
    UPDATE ltm_external_users AS u
    SET external_id = $2
    WHERE u.external_id = $1
    RETURNING u.user_id
)

SELECT count(*) AS renamed FROM renamed;

-- name: lock_names(user_ids bigint[]) :one
-- Lock the names of users, so that nobody adds a memory under them; tell how many there are.
-- scope: all users
SELECT count(*) AS locked
FROM (
    SELECT u.user_id
    FROM ltm_external_users AS u
    WHERE u.user_id = any($1::bigint[])
    ORDER BY u.user_id
    FOR UPDATE
) AS l;

-- name: lock_whole_user(user_id bigint) :one
-- Lock all memories of a user: nobody can change them, nor refer to them. Their ids.
SELECT coalesce(array_agg(l.id), '{}') AS ids
FROM (
    SELECT m.id
    FROM ltm_memories AS m
    WHERE m.user_id = $1
    ORDER BY m.id
    FOR UPDATE
) AS l;

-- name: free_expired_keys(user_ids bigint[], now timestamptz) :exec
-- Take the keys of memories that have expired.
-- scope: all users
UPDATE ltm_memories AS m
SET
    key = NULL,
    idempotency_key = NULL
WHERE
    m.user_id = any($1::bigint[])
    AND m.expires_at <= $2
    AND (m.key IS NOT NULL OR m.idempotency_key IS NOT NULL);

-- name: move_user(from_user bigint, into_user bigint, memory_ids bigint[]) :one MovedRows
-- Make memories another user's, with all that hangs on them; ids and keys that the other has give way.
-- One statement: foreign keys are looked at as it ends.
-- scope: all users
WITH renumbered AS MATERIALIZED (
    SELECT
        m.id,
        nextval(pg_get_serial_sequence('ltm_memories', 'id')) AS new_id
    FROM ltm_memories AS m
    WHERE m.user_id = $2 AND m.id = any($3::bigint[])
),

taken AS MATERIALIZED (
    SELECT
        m.id,
        m.namespace,
        o.key,
        i.idempotency_key
    FROM ltm_memories AS m
    LEFT JOIN ltm_memories AS o
        ON o.user_id = $2 AND m.namespace = o.namespace AND m.key = o.key
    LEFT JOIN ltm_memories AS i ON i.user_id = $2 AND m.idempotency_key = i.idempotency_key
    WHERE m.user_id = $1 AND (o.key IS NOT NULL OR i.idempotency_key IS NOT NULL)
),

contexts AS (
    UPDATE ltm_contexts AS c
    SET
        user_id = $2,
        memory_id = coalesce(
            (
                SELECT r.new_id FROM renumbered AS r
                WHERE r.id = c.memory_id
            ), c.memory_id
        ),
        id = CASE
            WHEN
                EXISTS (
                    SELECT 1 FROM ltm_contexts AS o
                    WHERE o.user_id = $2 AND o.id = c.id
                )
                THEN nextval(pg_get_serial_sequence('ltm_contexts', 'id'))
            ELSE c.id
        END
    WHERE c.user_id = $1 AND c.memory_id = any($3)
    RETURNING c.id
),

tags AS (
    UPDATE ltm_memory_tags AS t
    SET
        user_id = $2,
        memory_id = coalesce(
            (
                SELECT r.new_id FROM renumbered AS r
                WHERE r.id = t.memory_id
            ), t.memory_id
        ),
        id = CASE
            WHEN
                EXISTS (
                    SELECT 1 FROM ltm_memory_tags AS o
                    WHERE o.user_id = $2 AND o.id = t.id
                )
                THEN nextval(pg_get_serial_sequence('ltm_memory_tags', 'id'))
            ELSE t.id
        END
    WHERE t.user_id = $1 AND t.memory_id = any($3)
    RETURNING t.id
),

accesses AS (
    UPDATE ltm_memory_access AS a
    SET
        user_id = $2,
        memory_id = coalesce(
            (
                SELECT r.new_id FROM renumbered AS r
                WHERE r.id = a.memory_id
            ), a.memory_id
        ),
        id = CASE
            WHEN
                EXISTS (
                    SELECT 1 FROM ltm_memory_access AS o
                    WHERE o.user_id = $2 AND o.id = a.id
                )
                THEN nextval(pg_get_serial_sequence('ltm_memory_access', 'id'))
            ELSE a.id
        END
    WHERE a.user_id = $1 AND a.memory_id = any($3)
    RETURNING a.id
),

relationships AS (
    UPDATE ltm_memory_relationships AS l
    SET
        user_id = $2,
        source_memory_id = coalesce(
            (
                SELECT r.new_id FROM renumbered AS r
                WHERE r.id = l.source_memory_id
            ),
            l.source_memory_id
        ),
        target_memory_id = coalesce(
            (
                SELECT r.new_id FROM renumbered AS r
                WHERE r.id = l.target_memory_id
            ),
            l.target_memory_id
        ),
        id = CASE
            WHEN
                EXISTS (
                    SELECT 1 FROM ltm_memory_relationships AS o
                    WHERE o.user_id = $2 AND o.id = l.id
                )
                THEN nextval(pg_get_serial_sequence('ltm_memory_relationships', 'id'))
            ELSE l.id
        END
    WHERE l.user_id = $1 AND l.source_memory_id = any($3)
    RETURNING l.id
),

repairs AS (
    UPDATE ltm_adoption_report AS p
    SET user_id = $2
    WHERE p.user_id = $1
    RETURNING p.id
),

names AS (
    UPDATE ltm_external_users AS u
    SET merged_into = $2
    WHERE (u.user_id = $1 OR u.merged_into = $1) AND u.external_id IS NOT NULL
    RETURNING u.user_id
),

memories AS (
    UPDATE ltm_memories AS m
    SET
        user_id = $2,
        id = coalesce((
            SELECT r.new_id FROM renumbered AS r
            WHERE r.id = m.id
        ), m.id),
        parent_memory_id = coalesce(
            (
                SELECT r.new_id FROM renumbered AS r
                WHERE r.id = m.parent_memory_id
            ),
            m.parent_memory_id
        ),
        related_memory_ids = CASE
            WHEN
                jsonb_typeof(m.related_memory_ids) = 'array'
                AND EXISTS (SELECT 1 FROM renumbered)
                THEN (
                    SELECT
                        coalesce(
                            jsonb_agg(coalesce(to_jsonb(r.new_id), e.id) ORDER BY e.place), '[]'
                        )
                    FROM jsonb_array_elements(m.related_memory_ids) WITH ORDINALITY AS e (id, place)
                    LEFT JOIN renumbered AS r ON to_jsonb(r.id) = e.id
                )
            ELSE m.related_memory_ids
        END,
        key = CASE
            WHEN m.id NOT IN (
                SELECT t.id FROM taken AS t
                WHERE t.key IS NOT NULL
            ) THEN m.key
        END,
        idempotency_key = CASE
            WHEN
                m.id NOT IN (
                    SELECT t.id FROM taken AS t
                    WHERE t.idempotency_key IS NOT NULL
                )
                THEN m.idempotency_key
        END
    WHERE m.user_id = $1 AND m.id = any($3)
    RETURNING m.id
)

SELECT
    (SELECT count(*) FROM memories) AS ltm_memories,
    (SELECT count(*) FROM contexts) AS ltm_contexts,
    (SELECT count(*) FROM relationships) AS ltm_memory_relationships,
    (SELECT count(*) FROM accesses) AS ltm_memory_access,
    (SELECT count(*) FROM tags) AS ltm_memory_tags,
    (SELECT count(*) FROM names) AS ltm_external_users,
    (SELECT count(*) FROM repairs) AS ltm_adoption_report,
    (SELECT coalesce(json_object_agg(r.id, r.new_id), '{}') FROM renumbered AS r)::text
        AS renumbered,
    (
        SELECT coalesce(json_agg(c ORDER BY c.memory_id), '[]')::text
        FROM (
            SELECT
                coalesce(r.new_id, t.id) AS memory_id,
                t.namespace,
                t.key,
                t.idempotency_key
            FROM taken AS t LEFT JOIN renumbered AS r ON t.id = r.id
        ) AS c
    ) AS cleared;
