-- What memories mean: the vectors of the optional step `embeddings`.

-- name: has_embeddings() :one
-- Whether the optional step was run.
-- scope: all users
SELECT to_regclass('ltm_embeddings') IS NOT NULL AS is_there;

-- name: find_unembedded(
--     after_user_id bigint, after_id bigint, model text, now timestamptz, row_limit bigint,
--     user_id bigint, newest flag
-- ) :many
-- Of a page of all memories, a user's or the newest, those without a vector of a model, and the last one.
-- scope: all users
-- needs: embeddings
WITH page AS MATERIALIZED (
    SELECT
        m.user_id,
        m.id,
        ltm_is_current(m.expires_at, $4)
        AND (
            e.claimed_until > $4
            OR (
                e.content_hash = m.content_hash
                AND (e.embedding IS NOT NULL OR e.note IS NOT NULL)
            )
        ) IS NOT TRUE AS is_missing
    FROM ltm_memories AS m
    LEFT JOIN ltm_embeddings AS e
        ON m.user_id = e.user_id AND m.id = e.memory_id AND e.model = $3 AND e.part = 0
    WHERE
        TRUE
        AND m.user_id = $6  -- if user_id
        AND (m.user_id, m.id) > ($1, $2)  -- if not newest
        -- if newest
        AND m.id IN (
            SELECT n.id FROM ltm_memories AS n
            ORDER BY n.id DESC
            LIMIT $5
        )
        -- end if
    ORDER BY m.user_id, m.id
    LIMIT $5
),

looked_at AS (
    SELECT
        p.user_id,
        p.id,
        p.is_missing,
        lead(p.id) OVER (ORDER BY p.user_id, p.id) IS NULL AS is_last
    FROM page AS p
)

SELECT
    l.user_id,
    l.id,
    l.is_missing
FROM looked_at AS l
WHERE l.is_missing OR l.is_last
ORDER BY l.user_id, l.id
LIMIT $5;

-- name: claim_embeddings(
--     user_id bigint, model text, now timestamptz, claimed_until timestamptz, row_limit bigint,
--     memory_ids bigint[]
-- ) :many
-- Take memories without a vector of a model, for a time in which no other process takes them.
-- repeatable: always
-- needs: embeddings
-- Of two that come at once the second one finds the claim of the first, or what it has written.
WITH claimed AS (
    INSERT INTO ltm_embeddings AS e (user_id, memory_id, model, content_hash, claimed_until)
    SELECT
        m.user_id,
        m.id,
        $2,
        m.content_hash,
        $4
    FROM ltm_memories AS m
    WHERE
        m.user_id = $1
        AND m.id = any($6)  -- if memory_ids
        AND ltm_is_current(m.expires_at, $3)
        AND NOT EXISTS (
            SELECT 1
            FROM ltm_embeddings AS o
            WHERE
                o.user_id = $1
                AND o.model = $2
                AND o.memory_id = m.id
                AND o.part = 0
                AND (
                    o.claimed_until > $3
                    OR (
                        o.content_hash = m.content_hash
                        AND (o.embedding IS NOT NULL OR o.note IS NOT NULL)
                    )
                )
        )
    ORDER BY m.id
    LIMIT $5
    -- One that is being deleted would be waited for, and be gone.
    FOR KEY SHARE OF m SKIP LOCKED
    ON CONFLICT (user_id, model, memory_id, part)
    DO UPDATE
        SET claimed_until = excluded.claimed_until
        WHERE
        (e.claimed_until > $3) IS NOT TRUE
        AND (
            e.content_hash = excluded.content_hash
            AND (e.embedding IS NOT NULL OR e.note IS NOT NULL)
        ) IS NOT TRUE
    RETURNING e.memory_id
)

SELECT
    m.content,
    m.content_hash,
    m.id,
    ltm_speaker(m.created_by) AS speaker
FROM ltm_memories AS m
WHERE m.user_id = $1 AND m.id IN (SELECT c.memory_id FROM claimed AS c)
ORDER BY m.id
LIMIT $5;

-- name: write_embeddings(
--     user_id bigint, model text, now timestamptz, dimensions integer, memory_ids bigint[],
--     content_hashes bigint[], parts integer[], numbers real[]
-- ) :many
-- Store the vectors of memories whose contents are still those; of each memory, whether it was.
-- Each part has a slice of the numbers; without a hash they are of what the content is now. On Citus the
-- parts of the statement run one after another, so that contents are locked meanwhile.
-- A memory that has expired or is being deleted is left out.
-- repeatable: always
-- needs: embeddings
WITH ends AS (
    SELECT
        g.memory_id,
        g.content_hash,
        max(g.part) AS last_part
    FROM
        unnest($5::bigint[], $6::bigint[], $7::integer[]) AS g (memory_id, content_hash, part)
    GROUP BY g.memory_id, g.content_hash
),

found AS MATERIALIZED (
    SELECT
        m.id,
        m.content_hash
    FROM ltm_memories AS m
    WHERE m.user_id = $1 AND m.id = any($5) AND ltm_is_current(m.expires_at, $3)
    ORDER BY m.id
    FOR KEY SHARE SKIP LOCKED  -- if not distributed
    -- if distributed
    FOR NO KEY UPDATE  -- noqa: PRS
    -- end if
),

settled AS MATERIALIZED (
    SELECT
        f.id,
        n.last_part,
        f.content_hash,
        f.content_hash = coalesce(n.content_hash, f.content_hash) AS is_stored
    FROM found AS f
    INNER JOIN ends AS n ON f.id = n.memory_id
),

removed AS (
    DELETE FROM ltm_embeddings AS e
    USING settled AS s
    WHERE
        e.user_id = $1
        AND e.model = $2
        AND e.memory_id = s.id
        AND e.part > s.last_part
        AND s.is_stored
),

stored AS (
    INSERT INTO ltm_embeddings AS e (
        user_id, memory_id, model, part, dimensions, embedding, content_hash, embedded_at
    )
    SELECT
        $1,
        g.memory_id,
        $2,
        g.part,
        $4,
        ltm_embedding(($8::real[])[(g.place - 1) * $4::integer + 1:g.place * $4]),
        s.content_hash,
        $3
    FROM
        unnest($5, $6, $7) WITH ORDINALITY AS g (memory_id, content_hash, part, place)
    INNER JOIN settled AS s ON g.memory_id = s.id  -- if not distributed
    -- if distributed
    INNER JOIN ltm_memories AS s ON s.user_id = $1 AND g.memory_id = s.id  -- noqa: AL04
    -- end if
    WHERE
        TRUE
        AND s.is_stored  -- if not distributed
        -- if distributed
        AND s.content_hash = coalesce(g.content_hash, s.content_hash)
        AND ltm_is_current(s.expires_at, $3)
        -- end if
    ORDER BY g.memory_id, g.part
    ON CONFLICT (user_id, model, memory_id, part)
    DO UPDATE SET
        dimensions = excluded.dimensions,
        embedding = excluded.embedding,
        content_hash = excluded.content_hash,
        embedded_at = excluded.embedded_at,
        claimed_until = NULL,
        note = NULL
),

-- Of what was changed meanwhile the claim ends.
freed AS (
    UPDATE ltm_embeddings AS e
    SET claimed_until = NULL
    FROM settled AS s
    WHERE
        e.user_id = $1
        AND e.model = $2
        AND e.memory_id = s.id
        AND e.part = 0
        AND NOT s.is_stored
)

SELECT
    s.is_stored,
    s.id
FROM settled AS s
ORDER BY s.id
LIMIT cardinality($5);

-- name: release_embeddings(
--     user_id bigint, model text, memory_ids bigint[], content_hashes bigint[], notes text[]
-- ) :exec
-- End claims; what has a note is set aside, until its content is changed.
-- repeatable: always
-- needs: embeddings
WITH released AS MATERIALIZED (
    SELECT
        r.memory_id,
        r.content_hash,
        r.note
    FROM unnest($3::bigint[], $4::bigint[], $5::text[]) AS r (memory_id, content_hash, note)
),

removed AS (
    DELETE FROM ltm_embeddings AS e
    USING released AS r
    WHERE
        e.user_id = $1
        AND e.model = $2
        AND e.memory_id = r.memory_id
        AND e.part > 0
        AND r.note IS NOT NULL
)

UPDATE ltm_embeddings AS e
SET
    claimed_until = NULL,
    embedding = CASE WHEN r.note IS NULL THEN e.embedding END,
    dimensions = CASE WHEN r.note IS NULL THEN e.dimensions END,
    content_hash = CASE WHEN r.note IS NULL THEN e.content_hash ELSE r.content_hash END,
    note = coalesce(r.note, e.note)
FROM released AS r
WHERE e.user_id = $1 AND e.model = $2 AND e.memory_id = r.memory_id AND e.part = 0;

-- name: embedding_status(as_of timestamptz, model text, row_limit bigint) :many EmbeddingStatus
-- How far the vectors of each model are, and of one that may have none yet.
-- scope: all users
-- needs: embeddings
SELECT
    t.memories,
    coalesce(s.embedded, 0) AS embedded,
    coalesce(s.stale, 0) AS stale,
    coalesce(s.set_aside, 0) AS set_aside,
    coalesce(s.model, $2) AS model
FROM (
    SELECT count(*) AS memories
    FROM ltm_memories AS m
    WHERE ltm_is_current(m.expires_at, $1)
) AS t
CROSS JOIN (
    SELECT
        e.model,
        count(*) FILTER (
            WHERE e.embedding IS NOT NULL AND e.content_hash = m.content_hash
        ) AS embedded,
        count(*) FILTER (
            WHERE e.embedding IS NOT NULL AND e.content_hash <> m.content_hash
        ) AS stale,
        count(*) FILTER (WHERE e.note IS NOT NULL AND e.content_hash = m.content_hash) AS set_aside
    FROM ltm_embeddings AS e
    INNER JOIN ltm_memories AS m ON e.user_id = m.user_id AND e.memory_id = m.id
    WHERE e.part = 0 AND ltm_is_current(m.expires_at, $1)
    GROUP BY e.model
    UNION ALL
    SELECT
        $2,
        0,
        0,
        0
    WHERE
        $2::text IS NOT NULL
        AND NOT EXISTS (
            SELECT 1 FROM ltm_embeddings AS e
            WHERE e.model = $2 AND e.part = 0
        )
) AS s
ORDER BY model COLLATE "C"
LIMIT $3;

-- name: find_similar(
--     user_id bigint, memory_id bigint, as_of timestamptz, row_limit bigint, part_limit bigint,
--     model text
-- ) :many MemoryHit
-- The memories that mean nearly what another one means, nearest first.
-- needs: embeddings
WITH probes AS MATERIALIZED (
    SELECT
        e.embedding,
        e.dimensions,
        e.model
    FROM ltm_memories AS m
    INNER JOIN ltm_embeddings AS e
        ON e.user_id = $1 AND m.id = e.memory_id AND m.content_hash = e.content_hash
    WHERE
        m.user_id = $1
        AND m.id = $2
        AND ltm_is_current(m.expires_at, $3)
        AND e.embedding IS NOT NULL
        AND e.model = $6  -- if model
        -- if not model
        AND e.model = (
            SELECT l.model
            FROM ltm_embeddings AS l
            WHERE
                l.user_id = $1
                AND l.memory_id = $2
                AND l.content_hash = m.content_hash
                AND l.embedding IS NOT NULL
            ORDER BY l.embedded_at DESC, l.model COLLATE "C"
            LIMIT 1
        )
        -- end if
    ORDER BY e.part
    LIMIT $5
),

near AS MATERIALIZED (
    SELECT
        e.memory_id,
        e.content_hash,
        max(ltm_cosine(e.embedding, p.embedding)) AS meaning_score
    FROM probes AS p
    INNER JOIN ltm_embeddings AS e
        ON e.user_id = $1 AND e.model = p.model AND e.dimensions = p.dimensions
    WHERE e.memory_id <> $2
    GROUP BY e.memory_id, e.content_hash
)

SELECT
    m.*,  -- columns: memory
    m.context_data::text AS enhanced_context,
    ltm_dynamic_importance(m.importance_rank, $3) AS dynamic_importance,
    1::double precision AS boost,
    n.meaning_score,
    n.meaning_score AS score
FROM near AS n
INNER JOIN ltm_memories AS m
    ON m.user_id = $1 AND m.id = n.memory_id AND m.content_hash = n.content_hash
WHERE m.is_archived IS NOT TRUE AND ltm_is_current(m.expires_at, $3)
ORDER BY n.meaning_score DESC, m.id DESC
LIMIT $4;

-- name: export_embeddings(user_id bigint, memory_ids bigint[]) :many
-- The vectors of some memories, of their contents as they are now.
-- needs: embeddings
SELECT
    e.memory_id,
    ltm_embedding_numbers(e.embedding) AS numbers,
    e.model,
    e.part
FROM ltm_embeddings AS e
INNER JOIN ltm_memories AS m
    ON m.user_id = $1 AND m.id = e.memory_id AND m.content_hash = e.content_hash
WHERE e.user_id = $1 AND e.memory_id = any($2) AND e.embedding IS NOT NULL
ORDER BY e.memory_id, e.model COLLATE "C", e.part
LIMIT 10000000;

-- name: forget_embeddings(user_id bigint) :one
-- Delete the vectors of a user; tell how many there were.
-- needs: embeddings
WITH erased AS (
    DELETE FROM ltm_embeddings AS e
    WHERE e.user_id = $1
    RETURNING e.memory_id
)

SELECT count(*) AS erased FROM erased;

-- name: index_command(user_id bigint, model text, index_name text) :one
-- What makes the index of a user's vectors of a model; no row where there are none.
-- needs: embeddings
SELECT
    format(
        'CREATE INDEX CONCURRENTLY IF NOT EXISTS %I ON %s USING hnsw '
        '((embedding::%I.halfvec(%s)) %I.halfvec_cosine_ops) '
        'WHERE user_id = %s AND model = %L AND dimensions = %s',
        $3::text,
        'ltm_embeddings'::regclass,
        x.extension_schema,
        d.dimensions,
        x.extension_schema,
        $1::bigint,
        $2::text,
        d.dimensions
    ) AS command
FROM (
    SELECT e.dimensions
    FROM ltm_embeddings AS e
    WHERE e.user_id = $1 AND e.model = $2 AND e.embedding IS NOT NULL
    GROUP BY e.dimensions
    ORDER BY count(*) DESC, e.dimensions
    LIMIT 1
) AS d
CROSS JOIN (
    SELECT n.nspname AS extension_schema
    FROM pg_extension AS p
    INNER JOIN pg_namespace AS n ON p.extnamespace = n.oid
    WHERE p.extname = 'vector'
) AS x;

-- name: drop_unfinished_index(index_name text) :one
-- What drops an index whose making was broken off; no row where there is none.
-- scope: all users
SELECT format('DROP INDEX CONCURRENTLY %s', i.indexrelid::regclass) AS command
FROM pg_index AS i
WHERE i.indexrelid = to_regclass(quote_ident($1::text)) AND NOT i.indisvalid;

-- name: vector_indexes(prefix text, row_limit bigint) :many
-- The names of the indexes of users' vectors that are whole.
-- scope: all users
SELECT c.relname AS name
FROM pg_index AS i
INNER JOIN pg_class AS c ON i.indexrelid = c.oid
WHERE
    i.indrelid = to_regclass('ltm_embeddings')
    AND i.indisvalid
    AND starts_with(c.relname, $1)
ORDER BY c.relname COLLATE "C"
LIMIT $2;
