-- Adding memories, with all that is written with each.

-- name: draw_memory_id() :one
-- An id for a memory that is about to be added.
-- scope: all users
SELECT nextval(pg_get_serial_sequence('ltm_memories', 'id')) AS id;

-- name: add_memory(
--     user_id bigint, now timestamptz, content text, tags text, memory_type varchar, category varchar,
--     importance_score integer, confidence_score double precision, context text, context_data text,
--     source_type varchar, source_id text, source_position integer, created_by varchar,
--     created_at timestamptz, parent_memory_id bigint, metadata text, expires_at timestamptz,
--     idempotency_key text, tag_names text[], related_memory_ids bigint[], context_types text[],
--     context_keys text[], context_values text[], context_confidences double precision[],
--     namespace text, key text, expires_after interval, embedding real[], embedding_model text,
--     new_id bigint, external flag, replace flag
-- ) :one Memory
-- Store a memory with its contexts, tags and relationships, or find the one with this idempotency key.
-- Where another has the key: find that one too, or replace it, if it is as this statement's snapshot
-- shows it (seen), and so are its tags and contexts. If it is not, there is no row.
-- On Citus the parts run one after another, so that each sees what those before have written: untagged
-- what is there once the memory is locked. There the caller gives the id, and no INSERT reads
-- another part, which Citus would send to all nodes; where another memory has the key, rows of its own
-- have a foreign key to nothing.
-- freed are the keys of memories that have expired; added is the memory; tagged, related, described and
-- embedded are its rows in the other tables, where it is new or replaced.
-- repeatable: if idempotency_key
-- needs: embeddings if embedding
WITH
-- if idempotency_key or key
freed AS (
    UPDATE ltm_memories AS m
    SET
        idempotency_key = NULL,
        key = NULL
    WHERE
        m.user_id = $1
        AND m.expires_at <= $2
        AND (
            FALSE
            OR m.idempotency_key = $19  -- if idempotency_key
            OR (m.namespace = $26 AND m.key = $27)  -- if key
        )
    RETURNING m.id
),
-- end if

-- if replace
seen AS (
    SELECT m.version
    FROM ltm_memories AS m
    WHERE m.user_id = $1 AND m.namespace = $26 AND m.key = $27
),
-- end if

added AS (
    INSERT INTO ltm_memories AS m (
        id,  -- if distributed
        user_id, content, tags, memory_type, category, importance_score, confidence_score, context,
        context_data, source_type, source_id, source_position, created_by, created_at,
        last_modified, parent_memory_id, memory_metadata, expires_at, idempotency_key,
        related_memory_ids, namespace, key, expires_after, dynamic_importance
    )
    SELECT
        $31,  -- if distributed
        $1, $3, $4::text::jsonb, $5, $6, $7, $8, $9,
        $10::text::jsonb, $11, $12, $13, $14, timezone('utc', $15::timestamptz),
        timezone('utc', $2::timestamptz), $16, $17::text::jsonb, $18, $19, to_jsonb($21::bigint[]),
        $26, $27, $28,
        ltm_dynamic_importance(
            ltm_importance_rank($7, $8, 0, NULL, timezone('utc', $15::timestamptz)), $2
        )
    WHERE
        TRUE
        -- if not distributed
        AND (SELECT count(*) FROM freed) >= 0  -- if idempotency_key or key
        -- end if
        -- if external
        -- Nobody's number: another process has forgotten this user, and the caller looks the name up
        -- anew.
        AND EXISTS (
            SELECT 1
            FROM ltm_external_users AS u
            WHERE u.user_id = $1 AND u.external_id IS NOT NULL AND u.merged_into IS NULL
            FOR KEY SHARE
        )
        -- end if
        -- if key
        -- if not replace
        -- Only one of two unique indexes can be asked below.
        -- if idempotency_key
        AND NOT EXISTS (
            SELECT 1
            FROM ltm_memories AS o
            WHERE
                o.user_id = $1
                AND o.idempotency_key = $19
                AND (o.namespace, o.key) IS DISTINCT FROM ($26, $27)
                AND ltm_is_current(o.expires_at, $2)
        )
        -- end if
        -- end if
        -- end if
    -- if idempotency_key or key
    -- An update that changes nothing: unlike DO NOTHING it returns the row that is there, also one that
    -- another call is adding at the same moment.
    ON CONFLICT (
        idempotency_key,  -- if not key
        namespace,  -- if key
        key,  -- if key
        user_id
    )
    WHERE
    TRUE
    AND idempotency_key IS NOT NULL  -- if not key
    AND namespace IS NOT NULL  -- if key
    DO UPDATE
        SET
            -- if replace
            content = excluded.content,
            tags = excluded.tags,
            memory_type = excluded.memory_type,
            category = excluded.category,
            importance_score = excluded.importance_score,
            confidence_score = excluded.confidence_score,
            context = excluded.context,
            context_data = excluded.context_data,
            source_type = excluded.source_type,
            source_id = excluded.source_id,
            source_position = excluded.source_position,
            created_by = excluded.created_by,
            last_modified = excluded.last_modified,
            parent_memory_id = excluded.parent_memory_id,
            memory_metadata = excluded.memory_metadata,
            expires_at = excluded.expires_at,
            expires_after = excluded.expires_after,
            idempotency_key = excluded.idempotency_key,
            is_archived = FALSE,
            archive_reason = NULL,
            -- if related_memory_ids
            related_memory_ids = CASE
                WHEN jsonb_typeof(m.related_memory_ids) = 'array'
                    THEN
                        m.related_memory_ids
                        || jsonb_path_query_array(
                            excluded.related_memory_ids,
                            '$[*] ? (!(@ == $known[*]))',
                            ('{"known":' || m.related_memory_ids::text || '}')::jsonb
                        )
                ELSE excluded.related_memory_ids
            END,
            -- end if
            dynamic_importance = ltm_dynamic_importance(
                ltm_importance_rank($7, $8, m.access_count, m.last_accessed, m.created_at), $2
            ),
            -- end if
            version = m.version
            + 1  -- if replace
        -- if not distributed
        WHERE m.version = (SELECT s.version FROM seen AS s)  -- if replace
        -- end if
    -- end if
    RETURNING
        m.*,  -- columns: memory
        m.context_data::text AS enhanced_context,
        ltm_dynamic_importance(m.importance_rank, $2) AS dynamic_importance,
        -- xmax is the transaction that locked or updated a row; a row just inserted has none.
        CASE
            WHEN m.xmax = 0 THEN 'created'
            WHEN $1 IS NOT NULL THEN 'replaced'  -- if replace
            ELSE 'existing'
        END AS outcome
),

-- if replace
untagged AS (
    DELETE FROM ltm_memory_tags AS t
    USING added AS a
    WHERE
        t.user_id = $1
        AND t.memory_id = a.id
        AND a.outcome = 'replaced'
        AND ltm_lower(t.tag_name) <> all(ltm_lower(coalesce($20::text[], '{}')::text)::text[])
),

respelt AS (
    UPDATE ltm_memory_tags AS t
    SET tag_name = n.tag_name
    FROM added AS a CROSS JOIN unnest($20::text[]) AS n (tag_name)
    WHERE
        t.user_id = $1
        AND t.memory_id = a.id
        AND a.outcome = 'replaced'
        AND ltm_lower(t.tag_name) = ltm_lower(n.tag_name)
        AND t.tag_name <> n.tag_name
),

undescribed AS (
    DELETE FROM ltm_contexts AS c
    USING added AS a
    WHERE c.user_id = $1 AND c.memory_id = a.id AND a.outcome = 'replaced'
),
-- end if

-- if tag_names
tagged AS (
    INSERT INTO ltm_memory_tags (user_id, memory_id, tag_name, first_used, last_used)
    SELECT
        $1,
        a.id,
        t.tag_name,
        timezone('utc', $15),
        timezone('utc', $15)
    FROM unnest($20::text[]) AS t (tag_name)
    CROSS JOIN added AS a  -- if not distributed
    -- if distributed
    CROSS JOIN unnest(ARRAY[$31::bigint]) AS a (id)  -- noqa: AL04
    -- end if
    WHERE a.outcome <> 'existing'  -- if not distributed
    ON CONFLICT DO NOTHING
),
-- end if

-- if embedding
embedded AS (
    INSERT INTO ltm_embeddings (
        user_id, memory_id, model, dimensions, embedding, content_hash, embedded_at
    )
    SELECT
        $1,
        a.id,
        e.model,
        cardinality($29::real[]),
        ltm_embedding($29),
        hashtextextended(ltm_normalized_content($3), 0),
        $2
    FROM unnest(ARRAY[$30::text]) AS e (model)
    CROSS JOIN added AS a  -- if not distributed
    -- if distributed
    CROSS JOIN unnest(ARRAY[$31::bigint]) AS a (id)  -- noqa: AL04
    -- end if
    WHERE a.outcome <> 'existing'  -- if not distributed
    -- if replace
    ON CONFLICT (user_id, model, memory_id, part)
    DO UPDATE SET
        dimensions = excluded.dimensions,
        embedding = excluded.embedding,
        content_hash = excluded.content_hash,
        embedded_at = excluded.embedded_at,
        claimed_until = NULL,
        note = NULL
-- end if
),
-- end if

-- if related_memory_ids
related AS (
    INSERT INTO ltm_memory_relationships (
        user_id, source_memory_id, target_memory_id, relationship_type, strength, created_at
    )
    SELECT
        $1,
        a.id,
        r.id,
        'related',
        0.5,
        timezone('utc', $2)
    FROM unnest($21::bigint[]) AS r (id)
    CROSS JOIN added AS a  -- if not distributed
    -- if distributed
    CROSS JOIN unnest(ARRAY[$31::bigint]) AS a (id)  -- noqa: AL04
    -- end if
    WHERE a.outcome <> 'existing'  -- if not distributed
    ON CONFLICT DO NOTHING  -- if replace
),
-- end if

described AS (
    INSERT INTO ltm_contexts (
        user_id, memory_id, context_type, context_key, context_value, confidence, created_at
    )
    SELECT
        $1,
        a.id,
        c.context_type,
        c.context_key,
        c.context_value,
        c.confidence,
        timezone('utc', $2)
    FROM
        unnest($22::text[], $23::text[], $24::text[], $25::double precision[])
            AS c (context_type, context_key, context_value, confidence)
    CROSS JOIN added AS a  -- if not distributed
    -- if distributed
    CROSS JOIN unnest(ARRAY[$31::bigint]) AS a (id)  -- noqa: AL04
    -- end if
    WHERE a.outcome <> 'existing'  -- if not distributed
)

SELECT
    a.*,
    coalesce(
        (
            SELECT m.id
            FROM ltm_memories AS m
            WHERE
                m.user_id = $1
                -- A query, so that the index costs no more than another that reads all of the user's.
                AND m.content_hash = (SELECT hashtextextended(ltm_normalized_content($3), 0))
                AND ltm_normalized_content(m.content) = ltm_normalized_content($3)
                AND m.is_archived IS NOT TRUE
                AND ltm_is_current(m.expires_at, $2)
                AND m.id <> a.id
                AND a.outcome = 'created'
            ORDER BY m.id
            LIMIT 1
        )
        -- if embedding
        -- Else what means nearly the same, among the newest.
        ,
        (
            SELECT m.id
            FROM (
                SELECT
                    e.memory_id,
                    e.content_hash,
                    ltm_cosine(e.embedding, (SELECT ltm_embedding($29))) AS meaning_score
                FROM ltm_embeddings AS e
                WHERE
                    e.user_id = $1
                    AND e.model = $30
                    AND e.dimensions = cardinality($29::real[])
                ORDER BY e.memory_id DESC, e.part DESC
                LIMIT 2000
            ) AS n
            INNER JOIN ltm_memories AS m
                ON m.user_id = $1 AND m.id = n.memory_id AND m.content_hash = n.content_hash
            WHERE
                n.meaning_score >= 0.95
                AND m.is_archived IS NOT TRUE
                AND ltm_is_current(m.expires_at, $2)
                AND m.id <> a.id  -- which is there already on Citus
                AND a.outcome = 'created'
            ORDER BY n.meaning_score DESC, m.id ASC
            LIMIT 1
        )
        -- end if
    ) AS duplicate_of
FROM added AS a;

-- name: add_memories_together(
--     user_id bigint, now timestamptz, contents text[], tag_lists text[], memory_types varchar[],
--     categories varchar[], importance_scores integer[], confidence_scores double precision[],
--     contexts text[], context_objects text[], source_types varchar[], source_ids text[],
--     source_positions integer[], creators varchar[], creations timestamptz[],
--     parent_memory_ids bigint[], metadata_objects text[], expiries timestamptz[],
--     related_lists text[], tag_places integer[], tag_names text[], related_places integer[],
--     related_ids bigint[], context_places integer[], context_types text[], context_keys text[],
--     context_values text[], context_confidences double precision[], namespaces text[],
--     lifetimes interval[], moments timestamptz[], keys text[], external flag
-- ) :many Memory
-- Store the memories of some calls of one user, as add_memory does each, without idempotency keys.
-- With keys each takes the place of the one that has its key, as a put does; where another writer came
-- in between it has no row. What is there is locked in the order of ids, as accesses are written.
-- added are the memories, in the order of the calls and so of their ids; tagged, related and described
-- are their rows in the other tables, each with the place of its memory.
WITH
-- if keys
locked AS (
    SELECT m.id
    FROM ltm_memories AS m
    INNER JOIN unnest($29::text[], $32::text[]) AS r (namespace, key)
        ON m.namespace = r.namespace AND m.key = r.key
    WHERE m.user_id = $1
    ORDER BY m.id
    FOR NO KEY UPDATE OF m
),

freed AS (
    UPDATE ltm_memories AS m
    SET
        idempotency_key = NULL,
        key = NULL
    FROM unnest($29::text[], $32::text[]) AS r (namespace, key)
    WHERE
        m.user_id = $1
        AND m.namespace = r.namespace
        AND m.key = r.key
        AND m.expires_at <= $2
        AND (SELECT count(*) FROM locked) >= 0
    RETURNING m.id
),

seen AS (
    SELECT
        m.id,
        m.version
    FROM ltm_memories AS m
    INNER JOIN unnest($29::text[], $32::text[]) AS r (namespace, key)
        ON m.namespace = r.namespace AND m.key = r.key
    WHERE m.user_id = $1
),
-- end if

added AS (
    INSERT INTO ltm_memories AS m (
        user_id, content, tags, memory_type, category, importance_score, confidence_score, context,
        context_data, source_type, source_id, source_position, created_by, created_at,
        last_modified, parent_memory_id, memory_metadata, expires_at, related_memory_ids,
        namespace, expires_after, key, dynamic_importance
    )
    SELECT
        $1, r.content, r.tags::jsonb, r.memory_type, r.category, r.importance_score,
        r.confidence_score, r.context, r.context_data::jsonb, r.source_type, r.source_id,
        r.source_position, r.created_by, timezone('utc', r.created_at),
        timezone('utc', r.moment), r.parent_memory_id, r.metadata::jsonb, r.expires_at,
        r.related_memory_ids::jsonb, r.namespace, r.expires_after, r.key,
        ltm_dynamic_importance(
            ltm_importance_rank(
                r.importance_score, r.confidence_score, 0, NULL, timezone('utc', r.created_at)
            ),
            $2
        )
    FROM
        unnest(
            $3::text[], $4::text[], $5::varchar[], $6::varchar[], $7::integer[],
            $8::double precision[], $9::text[], $10::text[], $11::varchar[], $12::text[],
            $13::integer[], $14::varchar[], $15::timestamptz[], $16::bigint[], $17::text[],
            $18::timestamptz[], $19::text[], $29::text[], $30::interval[], $31::timestamptz[],
            coalesce($32::text[], '{}')
        )
        WITH ORDINALITY AS r (
            content, tags, memory_type, category, importance_score, confidence_score, context,
            context_data, source_type, source_id, source_position, created_by, created_at,
            parent_memory_id, metadata, expires_at, related_memory_ids, namespace,
            expires_after, moment, key, place
        )
    WHERE
        TRUE
        AND (SELECT count(*) FROM freed) >= 0  -- if keys
        -- if external
        AND EXISTS (
            SELECT 1
            FROM ltm_external_users AS u
            WHERE u.user_id = $1 AND u.external_id IS NOT NULL AND u.merged_into IS NULL
            FOR KEY SHARE
        )
        -- end if
    ORDER BY r.place
    -- if keys
    ON CONFLICT (namespace, key, user_id) WHERE namespace IS NOT NULL
    DO UPDATE
        SET
            content = excluded.content,
            tags = excluded.tags,
            memory_type = excluded.memory_type,
            category = excluded.category,
            importance_score = excluded.importance_score,
            confidence_score = excluded.confidence_score,
            context = excluded.context,
            context_data = excluded.context_data,
            source_type = excluded.source_type,
            source_id = excluded.source_id,
            source_position = excluded.source_position,
            created_by = excluded.created_by,
            last_modified = excluded.last_modified,
            parent_memory_id = excluded.parent_memory_id,
            memory_metadata = excluded.memory_metadata,
            expires_at = excluded.expires_at,
            expires_after = excluded.expires_after,
            idempotency_key = NULL,
            is_archived = FALSE,
            archive_reason = NULL,
            related_memory_ids = CASE
                WHEN excluded.related_memory_ids IS NULL THEN m.related_memory_ids
                WHEN jsonb_typeof(m.related_memory_ids) = 'array'
                    THEN
                        m.related_memory_ids
                        || jsonb_path_query_array(
                            excluded.related_memory_ids,
                            '$[*] ? (!(@ == $known[*]))',
                            ('{"known":' || m.related_memory_ids::text || '}')::jsonb
                        )
                ELSE excluded.related_memory_ids
            END,
            dynamic_importance = ltm_dynamic_importance(
                ltm_importance_rank(
                    excluded.importance_score, excluded.confidence_score, m.access_count,
                    m.last_accessed, m.created_at
                ),
                $2
            ),
            version = m.version + 1
        WHERE (m.id, m.version) IN (SELECT s.id, s.version FROM seen AS s)  -- if not distributed
    -- end if
    RETURNING
        m.*,  -- columns: memory
        m.context_data::text AS enhanced_context,
        ltm_dynamic_importance(m.importance_rank, $2) AS dynamic_importance,
        CASE WHEN m.xmax = 0 THEN 'created' ELSE 'replaced' END AS outcome
),

placed AS (
    SELECT
        -- if keys
        r.place,
        -- end if
        -- if not keys
        row_number() OVER (ORDER BY a.id) AS place,
        -- end if
        a.id
    FROM added AS a
    -- if keys
    INNER JOIN unnest($29::text[], $32::text[]) WITH ORDINALITY AS r (namespace, key, place)
        ON a.namespace = r.namespace AND a.key = r.key
-- end if
),

-- if keys
untagged AS (
    DELETE FROM ltm_memory_tags AS t
    USING added AS a
    WHERE
        t.user_id = $1
        AND t.memory_id = a.id
        AND a.outcome = 'replaced'
        AND NOT EXISTS (
            SELECT 1
            FROM jsonb_array_elements_text(a.tags::jsonb) AS n (tag_name)
            WHERE ltm_lower(t.tag_name) = ltm_lower(n.tag_name)
        )
),

respelt AS (
    UPDATE ltm_memory_tags AS t
    SET tag_name = n.tag_name
    FROM added AS a CROSS JOIN jsonb_array_elements_text(a.tags::jsonb) AS n (tag_name)
    WHERE
        t.user_id = $1
        AND t.memory_id = a.id
        AND a.outcome = 'replaced'
        AND ltm_lower(t.tag_name) = ltm_lower(n.tag_name)
        AND t.tag_name <> n.tag_name
),

undescribed AS (
    DELETE FROM ltm_contexts AS c
    USING added AS a
    WHERE c.user_id = $1 AND c.memory_id = a.id AND a.outcome = 'replaced'
),
-- end if

-- if tag_places
tagged AS (
    INSERT INTO ltm_memory_tags (user_id, memory_id, tag_name, first_used, last_used)
    SELECT
        $1,
        p.id,
        t.tag_name,
        timezone('utc', c.created_at),
        timezone('utc', c.created_at)
    FROM unnest($20::integer[], $21::text[]) AS t (place, tag_name)
    INNER JOIN placed AS p ON p.place = t.place
    INNER JOIN unnest($15::timestamptz[]) WITH ORDINALITY AS c (created_at, place)
        ON c.place = t.place
    ON CONFLICT DO NOTHING
),
-- end if

-- if related_places
related AS (
    INSERT INTO ltm_memory_relationships (
        user_id, source_memory_id, target_memory_id, relationship_type, strength, created_at
    )
    SELECT
        $1,
        p.id,
        r.id,
        'related',
        0.5,
        timezone('utc', $2)
    FROM unnest($22::integer[], $23::bigint[]) AS r (place, id)
    INNER JOIN placed AS p ON p.place = r.place
    ON CONFLICT DO NOTHING  -- if keys
),
-- end if

described AS (
    INSERT INTO ltm_contexts (
        user_id, memory_id, context_type, context_key, context_value, confidence, created_at
    )
    SELECT
        $1,
        p.id,
        c.context_type,
        c.context_key,
        c.context_value,
        c.confidence,
        timezone('utc', $2)
    FROM
        unnest($24::integer[], $25::text[], $26::text[], $27::text[], $28::double precision[])
            AS c (place, context_type, context_key, context_value, confidence)
    INNER JOIN placed AS p ON p.place = c.place
)

SELECT
    a.*,
    (
        SELECT m.id
        FROM ltm_memories AS m
        WHERE
            m.user_id = $1
            AND m.content_hash = (SELECT hashtextextended(ltm_normalized_content(a.content), 0))
            AND ltm_normalized_content(m.content) = ltm_normalized_content(a.content)
            AND m.is_archived IS NOT TRUE
            AND ltm_is_current(m.expires_at, $2)
            AND a.outcome = 'created'  -- if keys
        ORDER BY m.id
        LIMIT 1
    ) AS duplicate_of
FROM added AS a
ORDER BY a.id
LIMIT cardinality($3);
