-- The memories: how they are read, changed and deleted.

-- columns: memory
SELECT
    m.id,
    m.user_id,
    m.content,
    m.tags::text AS tags,
    m.memory_type,
    m.category,
    m.importance_rank,
    m.context,
    m.source_type,
    m.source_id,
    m.source_position,
    m.created_by,
    m.last_access_context,
    m.related_memory_ids::text AS related_memory_ids,
    m.parent_memory_id,
    m.memory_metadata::text AS metadata,
    m.archive_reason,
    m.idempotency_key,
    m.version,
    m.expires_at,
    m.expires_after,
    m.namespace,
    m.key,
    coalesce(m.importance_score, 1) AS importance_score,
    coalesce(m.confidence_score, 1) AS confidence_score,
    timezone('utc', m.created_at) AS created_at,
    timezone('utc', m.last_accessed) AS last_accessed,
    timezone('utc', m.last_modified) AS last_modified,
    coalesce(m.access_count, 0) AS access_count,
    m.is_archived IS TRUE AS is_archived
FROM ltm_memories AS m;

-- columns: ranked
-- A memory with what its row of ranks repeats taken from there, where it is indexed in their order.
SELECT
    k.memory_id AS id,
    m.user_id,
    m.content,
    m.tags,
    k.memory_type,
    k.category,
    k.importance_rank,
    k.importance_score,
    m.confidence_score,
    m.context,
    m.context_data,
    k.source_type,
    m.source_id,
    m.source_position,
    k.created_by,
    k.created_at,
    m.last_accessed,
    m.last_modified,
    m.access_count,
    m.last_access_context,
    m.related_memory_ids,
    m.parent_memory_id,
    m.memory_metadata,
    k.is_archived,
    m.archive_reason,
    m.idempotency_key,
    m.version,
    m.expires_at,
    m.expires_after,
    k.namespace,
    m.key,
    m.content_hash,
    m.search_vector
FROM ltm_memory_ranks AS k
INNER JOIN ltm_memories AS m ON k.user_id = m.user_id AND k.memory_id = m.id;

-- name: get_memory(
--     user_id bigint, memory_id bigint, as_of timestamptz, include_relationships flag
-- ) :one Memory
-- One memory, archived or not; on demand with its relationships as a JSON array, strongest first.
SELECT
    m.*,  -- columns: memory
    x.relationships,  -- if include_relationships
    m.context_data::text AS enhanced_context,
    ltm_dynamic_importance(m.importance_rank, $3) AS dynamic_importance
FROM ltm_memories AS m
-- if include_relationships
CROSS JOIN
    LATERAL (
        SELECT coalesce(json_agg(l), '[]')::text AS relationships
        FROM (
            SELECT NULL  -- query: relationships_of
        ) AS l
    ) AS x
-- end if
WHERE m.user_id = $1 AND m.id = $2 AND ltm_is_current(m.expires_at, $3);

-- name: get_by_key(
--     user_id bigint, namespace text, key text, as_of timestamptz, idempotency_key text
-- ) :one Memory
-- The memory with a key in a namespace, or with an idempotency key, archived or not.
SELECT
    m.*,  -- columns: memory
    m.context_data::text AS enhanced_context,
    ltm_dynamic_importance(m.importance_rank, $4) AS dynamic_importance
FROM ltm_memories AS m
WHERE
    m.user_id = $1
    -- if not idempotency_key
    AND m.namespace = $2
    AND m.key = $3
    -- end if
    AND m.idempotency_key = $5  -- if idempotency_key
    AND ltm_is_current(m.expires_at, $4);

-- name: get_by_keys(
--     user_id bigint, namespaces text[], keys text[], as_of timestamptz
-- ) :many Memory
-- The memories with some keys, each in its namespace, in the order asked for, archived or not.
SELECT
    m.*,  -- columns: memory
    m.context_data::text AS enhanced_context,
    ltm_dynamic_importance(m.importance_rank, $4) AS dynamic_importance
FROM unnest($2::text[], $3::text[]) WITH ORDINALITY AS a (namespace, key, place)
INNER JOIN ltm_memories AS m
    ON m.user_id = $1 AND m.namespace = a.namespace AND m.key = a.key
WHERE ltm_is_current(m.expires_at, $4)
ORDER BY a.place
LIMIT cardinality($2);

-- name: get_memories(
--     user_id bigint, memory_ids bigint[], as_of timestamptz, include_context boolean
-- ) :many Memory
-- Some memories in the order of the ids asked for, archived or not.
SELECT
    m.*,  -- columns: memory
    CASE WHEN $4 THEN m.context_data::text END AS enhanced_context,
    ltm_dynamic_importance(m.importance_rank, $3) AS dynamic_importance
FROM unnest($2::bigint[]) WITH ORDINALITY AS a (id, place)
INNER JOIN ltm_memories AS m ON m.user_id = $1 AND m.id = a.id
WHERE ltm_is_current(m.expires_at, $3)
ORDER BY a.place
LIMIT cardinality($2);

-- name: get_memories_together(
--     user_ids bigint[], memory_ids bigint[], moments timestamptz[], most_bytes integer
-- ) :many-users
-- The memories that some calls ask for, each of its own user and moment: a row for each, in order.
-- A row is empty where there is no such memory, and where it is large, so that nobody waits for the bytes
-- of others: is_large tells, and the call reads it alone. Sizes are those stored, which cost nothing to
-- read; as text JSON may be several times as long, and compressed metadata many times.
SELECT
    m.*,  -- columns: memory
    m.context_data::text AS enhanced_context,
    ltm_dynamic_importance(m.importance_rank, r.as_of) AS dynamic_importance,
    (
        m.id IS NULL
        AND EXISTS (
            SELECT 1
            FROM ltm_memories AS l
            WHERE
                l.user_id = r.user_id
                AND l.id = r.memory_id
                AND ltm_is_current(l.expires_at, r.as_of)
        )
    ) AS is_large
FROM
    unnest($1::bigint[], $2::bigint[], $3::timestamptz[])
    WITH ORDINALITY AS r (user_id, memory_id, as_of, place)
LEFT JOIN
    LATERAL (
        SELECT m.*
        FROM ltm_memories AS m
        WHERE
            m.user_id = r.user_id
            AND m.id = r.memory_id
            AND ltm_is_current(m.expires_at, r.as_of)
            AND octet_length(m.content)
            + coalesce(octet_length(m.context), 0)
            + coalesce(octet_length(m.last_access_context), 0)
            + 4 * (
                coalesce(pg_column_size(m.tags), 0)
                + coalesce(pg_column_size(m.context_data), 0)
                + coalesce(pg_column_size(m.related_memory_ids), 0)
                + coalesce(pg_column_size(m.memory_metadata), 0)
                * CASE WHEN pg_column_compression(m.memory_metadata) IS NULL THEN 1 ELSE 4 END
            ) <= $4
        -- One look-up a row, also in a plan that was made while the table was empty.
        LIMIT 1
    ) AS m
    ON TRUE
ORDER BY r.place
LIMIT cardinality($1);

-- conditions: expected_memory(
--     user_id bigint, memory_id bigint, now timestamptz, expected_version integer, content text
-- )
SELECT m.id
FROM ltm_memories AS m
WHERE
    m.user_id = :user_id
    AND m.id = :memory_id
    AND ltm_is_current(m.expires_at, :now)
    AND (:expected_version::integer IS NULL OR m.version = :expected_version)
    AND (m.key IS NOT NULL OR coalesce(length(:content::text), 1) > 0);

-- name: update_memory(
--     user_id bigint, memory_id bigint, now timestamptz, expected_version integer, given text[],
--     content text, importance_score integer, confidence_score double precision, context text,
--     memory_type varchar, category varchar, source_type varchar, source_id text, source_position integer,
--     created_by varchar, metadata text, parent_memory_id bigint, expires_at timestamptz,
--     is_archived boolean, archive_reason text, tags text, tag_names text[], context_data text,
--     context_types text[], context_keys text[], context_values text[],
--     context_confidences double precision[], removed_keys text[], expires_after interval,
--     replace_context flag, guarded flag
-- ) :one Memory
-- Change the given fields of a memory, if it is still at the expected version.
-- locked is the memory, where it is as expected; untagged and tagged replace the rows of its tags, and
-- undescribed and described those of its context, where these are given; then the memory itself.
-- On Citus these run one after another, and no INSERT reads another part, which it would send to all
-- nodes.
WITH
-- if guarded
-- if not distributed
-- The rows of tags and contexts are replaced as this statement's snapshot shows them. Where another
-- update came in between, nothing is found, and the caller runs the statement again.
seen AS (
    SELECT m.version
    FROM ltm_memories AS m
    WHERE m.user_id = $1 AND m.id = $2
),
-- end if
-- end if

locked AS (
    SELECT m.id
    FROM ltm_memories AS m
    WHERE
        TRUE  -- conditions: expected_memory
        -- if not distributed
        AND m.version = (SELECT s.version FROM seen AS s)  -- if guarded
        -- end if
    FOR NO KEY UPDATE
),

-- if tags
untagged AS (
    DELETE FROM ltm_memory_tags AS t
    USING locked AS l
    WHERE
        t.user_id = $1
        AND t.memory_id = l.id
        -- An array in lower case: as text, so that it is not taken apart and put together again.
        AND NOT ltm_lower(t.tag_name) = any(ltm_lower($22::text[]::text)::text[])
),

tagged AS (
    INSERT INTO ltm_memory_tags AS t (user_id, memory_id, tag_name, first_used, last_used)
    SELECT
        $1,
        l.id,
        n.tag_name,
        timezone('utc', $3),
        timezone('utc', $3)
    FROM unnest($22::text[]) AS n (tag_name)
    -- if distributed
    CROSS JOIN
        (
            SELECT m.id
            FROM ltm_memories AS m
            WHERE
                TRUE  -- conditions: expected_memory
        ) AS l
    -- end if
    -- if not distributed
    CROSS JOIN locked AS l  -- noqa: AL04
    -- end if
    ON CONFLICT (user_id, memory_id, ltm_lower(tag_name))
    DO UPDATE SET tag_name = excluded.tag_name WHERE t.tag_name <> excluded.tag_name
),
-- end if

-- if replace_context
undescribed AS (
    DELETE FROM ltm_contexts AS c
    USING locked AS l
    WHERE c.user_id = $1 AND c.memory_id = l.id
),

described AS (
    INSERT INTO ltm_contexts (
        user_id, memory_id, context_type, context_key, context_value, confidence, created_at
    )
    SELECT
        $1,
        l.id,
        c.context_type,
        c.context_key,
        c.context_value,
        c.confidence,
        timezone('utc', $3)
    FROM
        unnest($24::text[], $25::text[], $26::text[], $27::double precision[])
            AS c (context_type, context_key, context_value, confidence)
    -- if distributed
    CROSS JOIN
        (
            SELECT m.id
            FROM ltm_memories AS m
            WHERE
                TRUE  -- conditions: expected_memory
        ) AS l
    -- end if
    -- if not distributed
    CROSS JOIN locked AS l  -- noqa: AL04
    -- end if
),
-- end if

target AS (SELECT l.id FROM locked AS l)

UPDATE ltm_memories AS m
SET
    content = coalesce($6, m.content),
    importance_score = coalesce($7, m.importance_score),
    confidence_score = coalesce($8, m.confidence_score),
    context = CASE WHEN 'context' = any($5) THEN $9 ELSE m.context END,
    memory_type = CASE WHEN 'memory_type' = any($5) THEN $10 ELSE m.memory_type END,
    category = CASE WHEN 'category' = any($5) THEN $11 ELSE m.category END,
    source_type = CASE WHEN 'source_type' = any($5) THEN $12 ELSE m.source_type END,
    source_id = CASE WHEN 'source_id' = any($5) THEN $13 ELSE m.source_id END,
    source_position = CASE WHEN 'source_position' = any($5) THEN $14 ELSE m.source_position END,
    created_by = CASE WHEN 'created_by' = any($5) THEN $15 ELSE m.created_by END,
    memory_metadata = (
        SELECT
            CASE
                WHEN jsonb_typeof(c.merged) = 'object' THEN c.merged - coalesce($28::text[], '{}')
                ELSE c.merged
            END
        FROM (
            SELECT
                CASE
                    WHEN 'metadata' <> all($5) THEN m.memory_metadata
                    WHEN jsonb_typeof(m.memory_metadata) = 'object'
                        THEN m.memory_metadata || $16::text::jsonb
                    ELSE $16::text::jsonb
                END AS merged
        ) AS c
    ),
    parent_memory_id = CASE WHEN 'parent_memory_id' = any($5) THEN $17 ELSE m.parent_memory_id END,
    expires_at = CASE WHEN 'expires_at' = any($5) THEN $18 ELSE m.expires_at END,
    expires_after = CASE WHEN 'expires_after' = any($5) THEN $29 ELSE m.expires_after END,
    is_archived = coalesce($19, m.is_archived),
    archive_reason = CASE WHEN 'archive_reason' = any($5) THEN $20 ELSE m.archive_reason END,
    tags = $21::text::jsonb,  -- if tags
    context_data = $23::text::jsonb,  -- if replace_context
    version = m.version + 1,
    last_modified = timezone('utc', $3::timestamptz),
    dynamic_importance = ltm_dynamic_importance(
        ltm_importance_rank(
            coalesce($7, m.importance_score),
            coalesce($8, m.confidence_score),
            m.access_count,
            m.last_accessed,
            m.created_at
        ),
        $3
    )
FROM target AS l
WHERE m.user_id = $1 AND m.id = l.id
RETURNING
    m.*,  -- columns: memory
    m.context_data::text AS enhanced_context,
    ltm_dynamic_importance(m.importance_rank, $3) AS dynamic_importance;

-- conditions: stale(as_of timestamptz, below double precision)
-- The memories whose dynamic importance is below a bound; as a rank too, for the index of ranks.
SELECT m.id
FROM ltm_memories AS m
WHERE
    m.is_archived IS NOT TRUE
    AND m.importance_rank
    <= ceil(
        1440 * :below::double precision
        + ltm_importance_rank(1, 0.5, 0, timezone('utc', :as_of::timestamptz), NULL)
    )::integer
    AND ltm_dynamic_importance(m.importance_rank, :as_of) < :below;

-- name: archive_stale(
--     user_id bigint, as_of timestamptz, below double precision, now timestamptz, row_limit bigint
-- ) :many Memory
-- Archive the memories whose dynamic importance is below a bound, the least important first.
WITH stale AS MATERIALIZED (
    SELECT m.id
    FROM (
        SELECT
            m.*  -- columns: ranked
        FROM ltm_memory_ranks AS k
        INNER JOIN ltm_memories AS m ON k.memory_id = m.id
        WHERE k.user_id = $1 AND m.user_id = $1
    ) AS m
    WHERE
        TRUE  -- conditions: stale
        AND ltm_is_current(m.expires_at, $4)
    ORDER BY m.importance_rank ASC, m.id ASC
    LIMIT $5
),

-- What was accessed or archived meanwhile is left alone.
locked AS (
    SELECT m.id
    FROM ltm_memories AS m
    WHERE
        m.user_id = $1
        AND m.id IN (SELECT s.id FROM stale AS s)
        AND m.is_archived IS NOT TRUE
        AND ltm_dynamic_importance(m.importance_rank, $2) < $3
    ORDER BY m.id
    FOR NO KEY UPDATE
),

archived AS (
    UPDATE ltm_memories AS m
    SET
        is_archived = TRUE,
        archive_reason = 'importance '
        || round(ltm_dynamic_importance(m.importance_rank, $2)::numeric, 2)::text
        || to_char(timezone('utc', $2), '" on "YYYY-MM-DD", below "')
        || $3::double precision::text,
        version = m.version + 1,
        last_modified = timezone('utc', $4::timestamptz),
        dynamic_importance = ltm_dynamic_importance(m.importance_rank, $4)
    FROM locked AS l
    WHERE m.user_id = $1 AND m.id = l.id
    RETURNING
        m.*,  -- columns: memory
        m.context_data::text AS enhanced_context,
        ltm_dynamic_importance(m.importance_rank, $2) AS dynamic_importance
)

SELECT a.* FROM archived AS a
ORDER BY a.importance_rank ASC, a.id ASC
LIMIT $5;

-- name: get_children(user_id bigint, memory_id bigint, as_of timestamptz, row_limit bigint) :many Memory
-- The memories that belong under another one, archived or not, first stored first.
SELECT
    m.*,  -- columns: memory
    m.context_data::text AS enhanced_context,
    ltm_dynamic_importance(m.importance_rank, $3) AS dynamic_importance
FROM ltm_memories AS m
WHERE
    m.user_id = $1
    AND m.parent_memory_id = $2
    AND ltm_is_current(m.expires_at, $3)
ORDER BY m.id
LIMIT $4;

-- name: extend_expiry(user_id bigint, memory_ids bigint[], now timestamptz) :one
-- Let memories that expire so long after an access expire so long after now; tell how many there are.
-- repeatable: always
WITH settled AS MATERIALIZED (
    SELECT m.id
    FROM ltm_memories AS m
    WHERE
        m.user_id = $1
        AND m.id = any($2)
        AND m.expires_after IS NOT NULL
        AND ltm_is_current(m.expires_at, $3)
    ORDER BY m.id
    FOR NO KEY UPDATE
),

extended AS (
    UPDATE ltm_memories AS m
    -- Without an expiry before it the gain is always large enough.
    SET expires_at = greatest(m.expires_at, ltm_extended_expiry(NULL, m.expires_after, $3))
    FROM settled AS s
    WHERE m.user_id = $1 AND m.id = s.id
)

SELECT count(*) AS extended FROM settled;

-- name: lock_for_delete(user_id bigint, memory_ids bigint[]) :one
-- Lock memories and those that mention them, in the order of their ids; tell how many are there.
-- From then on nobody can relate to them, and the next statement sees every relationship made before.
WITH concerned AS (
    SELECT d.id FROM unnest($2::bigint[]) AS d (id)
    UNION
    SELECT c.id
    FROM ltm_memories AS c
    WHERE c.user_id = $1 AND c.parent_memory_id = any($2)
    UNION
    SELECT r.source_memory_id AS id
    FROM ltm_memory_relationships AS r
    WHERE r.user_id = $1 AND r.target_memory_id = any($2)
),

settled AS MATERIALIZED (
    SELECT m.id
    FROM ltm_memories AS m
    WHERE m.user_id = $1 AND m.id IN (SELECT c.id FROM concerned AS c)
    ORDER BY m.id
    FOR NO KEY UPDATE
),

doomed AS MATERIALIZED (
    SELECT m.id
    FROM ltm_memories AS m
    WHERE m.user_id = $1 AND m.id = any($2) AND (SELECT count(*) FROM settled) > 0
    ORDER BY m.id
    FOR UPDATE
)

SELECT count(*) AS found FROM doomed;

-- name: delete_memories(
--     user_id bigint, memory_ids bigint[], now timestamptz, only_expired boolean, keys text[]
-- ) :one
-- Delete memories and all that hangs on them: children lose their parent, neighbours their mention.
-- With keys, one for each id, those that have them still.
WITH doomed AS MATERIALIZED (
    SELECT m.id
    FROM ltm_memories AS m
    WHERE
        m.user_id = $1 AND m.id = any($2) AND (NOT $4::boolean OR m.expires_at <= $3)
        -- if keys
        AND EXISTS (
            SELECT 1
            FROM unnest($2::bigint[], $5::text[]) AS k (id, key)
            WHERE m.id = k.id AND m.key = k.key
        )
        -- end if
),

affected AS (
    SELECT c.id
    FROM ltm_memories AS c
    WHERE c.user_id = $1 AND c.parent_memory_id IN (SELECT d.id FROM doomed AS d)
    UNION
    SELECT r.source_memory_id AS id
    FROM ltm_memory_relationships AS r
    WHERE r.user_id = $1 AND r.target_memory_id IN (SELECT d.id FROM doomed AS d)
    EXCEPT
    SELECT d.id FROM doomed AS d
),

gone AS (
    SELECT jsonb_build_object('gone', jsonb_agg(d.id)) AS ids FROM doomed AS d
),

released AS (
    UPDATE ltm_memories AS m
    SET
        parent_memory_id = CASE
            WHEN m.parent_memory_id IN (SELECT d.id FROM doomed AS d) THEN NULL
            ELSE m.parent_memory_id
        END,
        related_memory_ids = CASE
            WHEN jsonb_typeof(m.related_memory_ids) = 'array'
                THEN
                    jsonb_path_query_array(
                        m.related_memory_ids, '$[*] ? (!(@ == $gone[*]))', g.ids
                    )
            ELSE m.related_memory_ids
        END,
        last_modified = timezone('utc', $3::timestamptz),
        version = m.version + 1
    FROM affected AS a CROSS JOIN gone AS g
    WHERE m.user_id = $1 AND m.id = a.id
),

deleted AS (
    DELETE FROM ltm_memories AS m
    USING doomed AS d
    WHERE m.user_id = $1 AND m.id = d.id
    RETURNING m.id
)

SELECT count(*) AS deleted FROM deleted;
