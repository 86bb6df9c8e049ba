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

-- name: numbers_of_both(from_user bigint, into_user bigint) :one CommonNumbers
-- Of each table of a user's rows, the numbers that rows of another user have too.
-- scope: all users
SELECT
    array(
        SELECT m.id FROM ltm_memories AS m
        WHERE
            m.user_id = $1
            AND m.id IN (
                SELECT o.id FROM ltm_memories AS o
                WHERE o.user_id = $2
            )
    ) AS ltm_memories,
    array(
        SELECT c.id FROM ltm_contexts AS c
        WHERE
            c.user_id = $1
            AND c.id IN (
                SELECT o.id FROM ltm_contexts AS o
                WHERE o.user_id = $2
            )
    ) AS ltm_contexts,
    array(
        SELECT l.id FROM ltm_memory_relationships AS l
        WHERE
            l.user_id = $1
            AND l.id IN (
                SELECT o.id FROM ltm_memory_relationships AS o
                WHERE o.user_id = $2
            )
    ) AS ltm_memory_relationships,
    array(
        SELECT a.id FROM ltm_memory_access AS a
        WHERE
            a.user_id = $1
            AND a.id IN (
                SELECT o.id FROM ltm_memory_access AS o
                WHERE o.user_id = $2
            )
    ) AS ltm_memory_access,
    array(
        SELECT t.id FROM ltm_memory_tags AS t
        WHERE
            t.user_id = $1
            AND t.id IN (
                SELECT o.id FROM ltm_memory_tags AS o
                WHERE o.user_id = $2
            )
    ) AS ltm_memory_tags;

-- name: draw_numbers(table_name text, number_count bigint) :one
-- So many numbers for rows of a table.
-- scope: all users
SELECT coalesce(array_agg(nextval(pg_get_serial_sequence($1, 'id'))), '{}') AS numbers
FROM generate_series(1, $2::bigint);

-- name: keys_of_both(
--     from_user bigint, into_user bigint, memory_ids bigint[], row_limit bigint
-- ) :many ClearedKey
-- The memories with a key that a memory of another user has, and that key.
-- scope: all users
WITH taken AS MATERIALIZED (
    SELECT
        o.namespace,
        o.key,
        o.idempotency_key
    FROM ltm_memories AS o
    WHERE o.user_id = $2 AND (o.key IS NOT NULL OR o.idempotency_key IS NOT NULL)
)

SELECT
    m.id AS memory_id,
    m.namespace,
    k.key,
    i.idempotency_key
FROM ltm_memories AS m
LEFT JOIN taken AS k ON m.namespace = k.namespace AND m.key = k.key
LEFT JOIN taken AS i ON m.idempotency_key = i.idempotency_key
WHERE
    m.user_id = $1
    AND m.id = any($3)
    AND (k.key IS NOT NULL OR i.idempotency_key IS NOT NULL)
ORDER BY m.id
LIMIT $4;

-- name: copy_memories(
--     from_user bigint, into_user bigint, memory_ids bigint[], old_ids bigint[], new_ids bigint[],
--     keyless_ids bigint[], unrepeatable_ids bigint[]
-- ) :exec
-- Copy memories to another user, some under new ids, some without their key or idempotency key.
-- Not an UPDATE of the user: on Citus that user may be on another node.
-- scope: all users
INSERT INTO ltm_memories (
    id, user_id, parent_memory_id, related_memory_ids, key, idempotency_key, content, tags,
    memory_type, category, importance_score, confidence_score, dynamic_importance, context,
    context_data, source_type, source_id, created_by, created_at, last_accessed, last_modified,
    access_count, last_access_context, memory_metadata, is_archived, archive_reason,
    source_position, version, expires_at, expires_after, namespace
)
SELECT
    coalesce(r.new_id, m.id),
    $2,
    coalesce(p.new_id, m.parent_memory_id),
    CASE
        WHEN jsonb_typeof(m.related_memory_ids) = 'array' AND cardinality($4) > 0
            THEN (
                SELECT
                    coalesce(jsonb_agg(coalesce(to_jsonb(n.new_id), e.id) ORDER BY e.place), '[]')
                FROM jsonb_array_elements(m.related_memory_ids) WITH ORDINALITY AS e (id, place)
                LEFT JOIN unnest($4, $5) AS n (id, new_id) ON to_jsonb(n.id) = e.id
            )
        ELSE m.related_memory_ids
    END,
    CASE WHEN m.id <> all($6::bigint[]) THEN m.key END,
    CASE WHEN m.id <> all($7::bigint[]) THEN m.idempotency_key END,
    m.content,
    m.tags,
    m.memory_type,
    m.category,
    m.importance_score,
    m.confidence_score,
    m.dynamic_importance,
    m.context,
    m.context_data,
    m.source_type,
    m.source_id,
    m.created_by,
    m.created_at,
    m.last_accessed,
    m.last_modified,
    m.access_count,
    m.last_access_context,
    m.memory_metadata,
    m.is_archived,
    m.archive_reason,
    m.source_position,
    m.version,
    m.expires_at,
    m.expires_after,
    m.namespace
FROM ltm_memories AS m
LEFT JOIN unnest($4::bigint[], $5::bigint[]) AS r (id, new_id) ON m.id = r.id
LEFT JOIN unnest($4, $5) AS p (id, new_id) ON m.parent_memory_id = p.id
WHERE m.user_id = $1 AND m.id = any($3);

-- name: copy_contexts(
--     from_user bigint, into_user bigint, memory_ids bigint[], old_ids bigint[], new_ids bigint[],
--     old_numbers bigint[], new_numbers bigint[]
-- ) :exec
-- Copy the contexts of memories to another user.
-- scope: all users
INSERT INTO ltm_contexts (
    id, user_id, memory_id, context_type, context_key, context_value, confidence, created_at
)
SELECT
    coalesce(n.new_id, c.id),
    $2,
    coalesce(r.new_id, c.memory_id),
    c.context_type,
    c.context_key,
    c.context_value,
    c.confidence,
    c.created_at
FROM ltm_contexts AS c
LEFT JOIN unnest($4::bigint[], $5::bigint[]) AS r (id, new_id) ON c.memory_id = r.id
LEFT JOIN unnest($6::bigint[], $7::bigint[]) AS n (id, new_id) ON c.id = n.id
WHERE c.user_id = $1 AND c.memory_id = any($3);

-- name: copy_relationships(
--     from_user bigint, into_user bigint, memory_ids bigint[], old_ids bigint[], new_ids bigint[],
--     old_numbers bigint[], new_numbers bigint[]
-- ) :exec
-- Copy the relationships of memories to another user.
-- scope: all users
INSERT INTO ltm_memory_relationships (
    id, user_id, source_memory_id, target_memory_id, relationship_type, strength, description,
    created_at, last_accessed
)
SELECT
    coalesce(n.new_id, l.id),
    $2,
    coalesce(s.new_id, l.source_memory_id),
    coalesce(t.new_id, l.target_memory_id),
    l.relationship_type,
    l.strength,
    l.description,
    l.created_at,
    l.last_accessed
FROM ltm_memory_relationships AS l
LEFT JOIN unnest($4::bigint[], $5::bigint[]) AS s (id, new_id) ON l.source_memory_id = s.id
LEFT JOIN unnest($4::bigint[], $5::bigint[]) AS t (id, new_id) ON l.target_memory_id = t.id
LEFT JOIN unnest($6::bigint[], $7::bigint[]) AS n (id, new_id) ON l.id = n.id
WHERE l.user_id = $1 AND l.source_memory_id = any($3);

-- name: copy_user_accesses(
--     from_user bigint, into_user bigint, memory_ids bigint[], old_ids bigint[], new_ids bigint[],
--     old_numbers bigint[], new_numbers bigint[]
-- ) :exec
-- Copy the log of accesses of memories to another user.
-- scope: all users
INSERT INTO ltm_memory_access (
    id, user_id, memory_id, access_timestamp, access_context, access_method, user_query,
    was_relevant, relevance_score
)
SELECT
    coalesce(n.new_id, a.id),
    $2,
    coalesce(r.new_id, a.memory_id),
    a.access_timestamp,
    a.access_context,
    a.access_method,
    a.user_query,
    a.was_relevant,
    a.relevance_score
FROM ltm_memory_access AS a
LEFT JOIN unnest($4::bigint[], $5::bigint[]) AS r (id, new_id) ON a.memory_id = r.id
LEFT JOIN unnest($6::bigint[], $7::bigint[]) AS n (id, new_id) ON a.id = n.id
WHERE a.user_id = $1 AND a.memory_id = any($3);

-- name: copy_tags(
--     from_user bigint, into_user bigint, memory_ids bigint[], old_ids bigint[], new_ids bigint[],
--     old_numbers bigint[], new_numbers bigint[]
-- ) :exec
-- Copy the tags of memories to another user.
-- scope: all users
INSERT INTO ltm_memory_tags (
    id, user_id, memory_id, tag_name, tag_category, tag_importance, tag_confidence, usage_count,
    first_used, last_used
)
SELECT
    coalesce(n.new_id, t.id),
    $2,
    coalesce(r.new_id, t.memory_id),
    t.tag_name,
    t.tag_category,
    t.tag_importance,
    t.tag_confidence,
    t.usage_count,
    t.first_used,
    t.last_used
FROM ltm_memory_tags AS t
LEFT JOIN unnest($4::bigint[], $5::bigint[]) AS r (id, new_id) ON t.memory_id = r.id
LEFT JOIN unnest($6::bigint[], $7::bigint[]) AS n (id, new_id) ON t.id = n.id
WHERE t.user_id = $1 AND t.memory_id = any($3);

-- name: copy_embeddings(
--     from_user bigint, into_user bigint, memory_ids bigint[], old_ids bigint[], new_ids bigint[]
-- ) :exec
-- Copy the vectors of memories to another user.
-- scope: all users
-- needs: embeddings
INSERT INTO ltm_embeddings (
    user_id, memory_id, model, part, dimensions, embedding, content_hash, embedded_at,
    claimed_until, note
)
SELECT
    $2,
    coalesce(r.new_id, e.memory_id),
    e.model,
    e.part,
    e.dimensions,
    e.embedding,
    e.content_hash,
    e.embedded_at,
    e.claimed_until,
    e.note
FROM ltm_embeddings AS e
LEFT JOIN unnest($4::bigint[], $5::bigint[]) AS r (id, new_id) ON e.memory_id = r.id
WHERE e.user_id = $1 AND e.memory_id = any($3);

-- name: move_repairs(from_user bigint, into_user bigint) :one
-- Make what adoption kept of a user's values another user's; tell how many there were.
-- scope: all users
WITH moved AS (
    UPDATE ltm_adoption_report AS r
    SET user_id = $2
    WHERE r.user_id = $1
    RETURNING r.id
)

SELECT count(*) AS moved FROM moved;

-- name: redirect_names(from_user bigint, into_user bigint) :one
-- Let the names of a user mean another one; tell how many there were.
-- scope: all users
WITH redirected AS (
    UPDATE ltm_external_users AS u
    SET merged_into = $2
    WHERE (u.user_id = $1 OR u.merged_into = $1) AND u.external_id IS NOT NULL
    RETURNING u.user_id
)

SELECT count(*) AS redirected FROM redirected;
