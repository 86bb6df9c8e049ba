-- Whole users: out, in and away.

-- name: lift_timeouts() :one
-- Let the statements of this transaction, and what the caller does between them, take their time.
-- scope: all users
SELECT
    set_config('statement_timeout', '0', TRUE)
    || set_config('idle_in_transaction_session_timeout', '0', TRUE) AS timeouts;

-- name: lift_session_timeouts() :one
-- Let the commands of a connection that is not used again take their time.
-- scope: all users
SELECT set_config('statement_timeout', '0', FALSE) AS timeout;

-- name: lock_user(user_id bigint) :one
-- Let others who add many memories of this user at once wait for the end of this transaction.
-- Adds under the same keys in another order would wait for each other.
-- scope: all users
SELECT pg_advisory_xact_lock(hashtextextended('ltm_store: ' || $1::bigint, 0)) IS NULL AS is_locked;

-- name: may_copy() :one
-- Whether this role can write memories by COPY under ids that it draws.
-- scope: all users
SELECT
    has_sequence_privilege(pg_get_serial_sequence('ltm_memories', 'id'), 'USAGE, UPDATE')
    AND NOT bool_or(row_security_active(t.name)) AS is_allowed
FROM
    unnest(
        ARRAY[
            'ltm_memories', 'ltm_memory_tags', 'ltm_contexts', 'ltm_memory_relationships',
            'ltm_memory_access'
        ]
    ) AS t (name);

-- name: hold_keys(user_id bigint, idempotency_keys text[], now timestamptz) :many
-- The memories that have these keys, locked; those that have expired lose them.
WITH freed AS (
    UPDATE ltm_memories AS m
    SET
        idempotency_key = NULL,
        key = NULL
    WHERE m.user_id = $1 AND m.idempotency_key = any($2) AND m.expires_at <= $3
)

SELECT
    m.id,
    m.idempotency_key,
    m.is_archived IS TRUE AS is_archived,
    sha256(convert_to(m.content, 'UTF8')) AS digest
FROM ltm_memories AS m
WHERE m.user_id = $1 AND m.idempotency_key = any($2) AND ltm_is_current(m.expires_at, $3)
ORDER BY m.id
LIMIT cardinality($2)
FOR NO KEY UPDATE;

-- name: draw_memories(
--     user_id bigint, now timestamptz, importance_scores integer[],
--     confidence_scores double precision[], access_counts integer[], last_accesses timestamptz[],
--     creations timestamptz[], external flag
-- ) :many
-- An id for each memory that is about to be copied, and its importance; none for a forgotten user.
-- scope: all users
SELECT
    nextval(s.ids) AS id,
    ltm_dynamic_importance(
        ltm_importance_rank(
            r.importance_score,
            r.confidence_score,
            r.access_count,
            timezone('utc', r.last_accessed),
            timezone('utc', r.created_at)
        ),
        $2
    ) AS dynamic_importance
FROM
    unnest(
        $3::integer[], $4::double precision[], $5::integer[], $6::timestamptz[], $7::timestamptz[]
    ) WITH ORDINALITY AS r (
        importance_score, confidence_score, access_count, last_accessed, created_at, place
    )
CROSS JOIN (SELECT pg_get_serial_sequence('ltm_memories', 'id')::regclass AS ids) AS s
WHERE
    TRUE
    -- if external
    AND EXISTS (
        SELECT 1
        FROM ltm_external_users AS u
        WHERE u.user_id = $1 AND u.external_id IS NOT NULL AND u.merged_into IS NULL
        FOR KEY SHARE
    )
    -- end if
ORDER BY r.place
LIMIT cardinality($3);

-- name: exported_ids(user_id bigint, as_of timestamptz) :one
-- The ids of all memories of a user that have not expired, in their order.
SELECT coalesce(array_agg(m.id ORDER BY m.id), '{}') AS ids
FROM ltm_memories AS m
WHERE m.user_id = $1 AND ltm_is_current(m.expires_at, $2);

-- name: export_memories(
--     user_id bigint, after_id bigint, as_of timestamptz, row_limit bigint
-- ) :many Memory
-- A page of memories in the order of the ids.
SELECT
    m.*,  -- columns: memory
    m.context_data::text AS enhanced_context,
    ltm_dynamic_importance(m.importance_rank, $3) AS dynamic_importance
FROM ltm_memories AS m
WHERE m.user_id = $1 AND m.id > $2 AND ltm_is_current(m.expires_at, $3)
ORDER BY m.id
LIMIT $4;

-- name: export_relationships(user_id bigint, memory_ids bigint[]) :many
-- The relationships that leave the memories of a page, oldest first.
-- Not asked for each memory by the page: of a user whom the statistics do not know yet all indexes look
-- alike, and one that reads all of the user's rows would be taken each time.
SELECT
    r.source_memory_id AS memory_id,
    r.target_memory_id,
    r.relationship_type,
    coalesce(r.strength, 1) AS strength,
    r.description,
    timezone('utc', r.created_at) AS created_at,
    timezone('utc', r.last_accessed) AS last_accessed
FROM ltm_memory_relationships AS r
WHERE r.user_id = $1 AND r.source_memory_id = any($2)
ORDER BY r.id
LIMIT 10000000;

-- name: export_accesses(user_id bigint, memory_ids bigint[]) :many
-- The accesses of the memories of a page, oldest first.
SELECT
    a.memory_id,
    timezone('utc', a.access_timestamp) AS access_timestamp,
    a.access_method,
    a.access_context,
    a.user_query,
    a.was_relevant,
    a.relevance_score
FROM ltm_memory_access AS a
WHERE a.user_id = $1 AND a.memory_id = any($2)
ORDER BY a.id
LIMIT 10000000;

-- name: export_tags(user_id bigint, memory_ids bigint[]) :many
-- The details of the tags of a page's memories, oldest first.
SELECT
    t.memory_id,
    t.tag_name,
    t.tag_category,
    t.tag_importance,
    t.tag_confidence,
    t.usage_count,
    timezone('utc', t.first_used) AS first_used,
    timezone('utc', t.last_used) AS last_used
FROM ltm_memory_tags AS t
WHERE t.user_id = $1 AND t.memory_id = any($2)
ORDER BY t.id
LIMIT 10000000;

-- name: import_details(
--     user_id bigint, memory_id bigint, parent_memory_id bigint, related_memory_ids bigint[],
--     version integer, access_count integer, last_accessed timestamptz, last_access_context text,
--     last_modified timestamptz, is_archived boolean, archive_reason text, relationships text,
--     accesses text, tag_details text, now timestamptz
-- ) :exec
-- Give a memory that was just added what its export says beyond the arguments of an add.
WITH related AS (
    INSERT INTO ltm_memory_relationships (
        user_id, source_memory_id, target_memory_id, relationship_type, strength, description,
        created_at, last_accessed
    )
    SELECT
        $1,
        $2,
        r.target_memory_id,
        r.relationship_type,
        r.strength,
        r.description,
        timezone('utc', coalesce(r.created_at, $15)),
        timezone('utc', r.last_accessed)
    FROM
        json_to_recordset($12::text::json)
            AS r (
                target_memory_id bigint, relationship_type text, strength double precision,
                description text, created_at timestamptz, last_accessed timestamptz
            )
    ON CONFLICT (user_id, source_memory_id, target_memory_id, relationship_type) DO NOTHING
),

logged AS (
    INSERT INTO ltm_memory_access (
        user_id, memory_id, access_timestamp, access_method, access_context, user_query,
        was_relevant, relevance_score
    )
    SELECT
        $1,
        $2,
        timezone('utc', a.access_timestamp),
        a.access_method,
        a.access_context,
        a.user_query,
        a.was_relevant,
        a.relevance_score
    FROM json_to_recordset($13::text::json) AS a (
        access_timestamp timestamptz, access_method text, access_context text, user_query text,
        was_relevant boolean, relevance_score double precision
    )
),

tagged AS (
    UPDATE ltm_memory_tags AS t
    SET
        tag_category = d.tag_category,
        tag_importance = d.tag_importance,
        tag_confidence = d.tag_confidence,
        usage_count = d.usage_count,
        first_used = timezone('utc', d.first_used),
        last_used = timezone('utc', d.last_used)
    FROM
        json_to_recordset($14::text::json)
            AS d (
                tag_name text, tag_category text, tag_importance double precision,
                tag_confidence double precision, usage_count integer, first_used timestamptz,
                last_used timestamptz
            )
    WHERE t.user_id = $1 AND t.memory_id = $2 AND ltm_lower(t.tag_name) = ltm_lower(d.tag_name)
)

UPDATE ltm_memories AS m
SET
    parent_memory_id = $3,
    related_memory_ids = to_jsonb($4::bigint[]),
    version = $5,
    access_count = $6,
    last_accessed = timezone('utc', $7::timestamptz),
    last_access_context = $8,
    last_modified = timezone('utc', coalesce($9, $15)),
    is_archived = $10,
    archive_reason = $11,
    dynamic_importance = ltm_dynamic_importance(
        ltm_importance_rank(
            m.importance_score,
            m.confidence_score,
            $6,
            timezone('utc', $7::timestamptz),
            m.created_at
        ),
        $15
    )
WHERE m.user_id = $1 AND m.id = $2;

-- name: link_memories(
--     user_id bigint, memory_ids bigint[], parent_memory_ids bigint[], related_lists text[]
-- ) :exec
-- Tell memories that were just copied their parents and the targets of their relationships.
UPDATE ltm_memories AS m
SET parent_memory_id = r.parent_memory_id, related_memory_ids = r.related_memory_ids::jsonb
FROM
    unnest($2::bigint[], $3::bigint[], $4::text[])
        AS r (id, parent_memory_id, related_memory_ids)
WHERE m.user_id = $1 AND m.id = r.id;

-- name: lock_memories(user_id bigint, row_limit bigint, memory_ids bigint[]) :one
-- Lock some memories of a user: from then on nobody can relate to them. Tell how many.
SELECT count(*) AS locked
FROM (
    SELECT m.id
    FROM ltm_memories AS m
    WHERE
        m.user_id = $1
        AND m.id = any($3)  -- if memory_ids
    ORDER BY m.id
    LIMIT $2
    FOR UPDATE
) AS l;

-- name: forget_memories(user_id bigint, row_limit bigint, memory_ids bigint[]) :one ErasedRows
-- Delete some memories of a user with all their rows; tell how many there were in each table.
WITH doomed AS (
    SELECT m.id
    FROM ltm_memories AS m
    WHERE
        m.user_id = $1
        AND m.id = any($3)  -- if memory_ids
    ORDER BY m.id
    LIMIT $2
),

ranks AS (
    DELETE FROM ltm_memory_ranks AS k USING doomed AS d
    WHERE k.user_id = $1 AND k.memory_id = d.id
    RETURNING k.memory_id
),

contexts AS (
    DELETE FROM ltm_contexts AS c USING doomed AS d
    WHERE c.user_id = $1 AND c.memory_id = d.id
    RETURNING c.id
),

accesses AS (
    DELETE FROM ltm_memory_access AS a USING doomed AS d
    WHERE a.user_id = $1 AND a.memory_id = d.id
    RETURNING a.id
),

tags AS (
    DELETE FROM ltm_memory_tags AS t USING doomed AS d
    WHERE t.user_id = $1 AND t.memory_id = d.id
    RETURNING t.id
),

relationships AS (
    DELETE FROM ltm_memory_relationships AS r
    WHERE
        r.user_id = $1
        AND (
            r.source_memory_id IN (SELECT d.id FROM doomed AS d)
            OR r.target_memory_id IN (SELECT d.id FROM doomed AS d)
        )
    RETURNING r.id
),

orphaned AS (
    UPDATE ltm_memories AS m
    SET parent_memory_id = NULL
    FROM doomed AS d
    WHERE
        m.user_id = $1
        AND m.parent_memory_id = d.id
        AND m.id NOT IN (SELECT e.id FROM doomed AS e)
),

memories AS (
    DELETE FROM ltm_memories AS m USING doomed AS d
    WHERE m.user_id = $1 AND m.id = d.id
    RETURNING m.id
)

SELECT
    (SELECT count(*) FROM memories) AS ltm_memories,
    (SELECT count(*) FROM ranks) AS ltm_memory_ranks,
    (SELECT count(*) FROM contexts) AS ltm_contexts,
    (SELECT count(*) FROM relationships) AS ltm_memory_relationships,
    (SELECT count(*) FROM accesses) AS ltm_memory_access,
    (SELECT count(*) FROM tags) AS ltm_memory_tags;
