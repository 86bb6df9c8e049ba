-- Searching: which memories pass, in which order, and why.

-- conditions: filters(
--     user_id bigint, as_of timestamptz, include_archived flag, memory_type text, category text,
--     source_type text, source_id text, min_importance integer, min_confidence double precision,
--     created_after timestamptz, created_before timestamptz, accessed_after timestamptz,
--     tags text, tags_any text, tags_none text, context_data text, metadata text, created_by text,
--     phrases text[], exclude text[],
--     modified_after timestamptz, memory_types text[], categories text[], source_types text[],
--     source_ids text[], creators text[], metadata_path jsonpath, metadata_variables text,
--     namespace text, namespaces text[], namespace_prefix text, key_prefix text
-- )
SELECT 1 FROM ltm_memories AS m
WHERE
    ltm_is_current(m.expires_at, :as_of)  -- cause: expires_at
    AND m.is_archived IS NOT TRUE  -- if not include_archived
    AND m.memory_type = :memory_type  -- if memory_type
    AND m.category = :category  -- if category
    AND m.source_type = :source_type  -- if source_type
    AND m.source_id = :source_id  -- if source_id
    AND m.memory_type = any(:memory_types)  -- if memory_types
    AND m.category = any(:categories)  -- if categories
    AND m.source_type = any(:source_types)  -- if source_types
    AND m.source_id = any(:source_ids)  -- if source_ids
    AND m.created_by = any(:creators)  -- if creators
    AND m.namespace = :namespace  -- if namespace
    AND m.namespace = any(:namespaces)  -- if namespaces
    -- if namespace_prefix
    -- Bounds for an index, and what of that is not below it.
    AND m.namespace >= :namespace_prefix
    AND m.namespace < :namespace_prefix || '/'
    AND (m.namespace = :namespace_prefix OR m.namespace >= :namespace_prefix || '.')
    -- end if
    -- if key_prefix
    AND m.key >= :key_prefix
    AND m.key <= :key_prefix || repeat(chr(1114111), 255)
    -- end if
    AND m.importance_score >= :min_importance  -- if min_importance
    AND coalesce(m.confidence_score, 1) >= :min_confidence  -- if min_confidence
    AND m.created_at >= timezone('utc', :created_after::timestamptz)  -- if created_after
    AND m.created_at < timezone('utc', :created_before::timestamptz)  -- if created_before
    -- if modified_after
    AND m.last_modified >= timezone('utc', :modified_after::timestamptz)
    -- end if
    -- if accessed_after
    AND m.last_accessed >= timezone('utc', :accessed_after::timestamptz)
    -- The least rank that an access on that day gives: a bound on the index of ranks.
    AND m.importance_rank
    >= ltm_importance_rank(1, 0, 0, timezone('utc', :accessed_after::timestamptz), NULL)
    -- end if
    AND ltm_tag_terms(m.user_id, m.tags) @> ltm_tag_terms(:user_id, :tags::text::jsonb)  -- if tags
    -- if tags_any
    AND ltm_tag_terms(m.user_id, m.tags) && ltm_tag_terms(:user_id, :tags_any::text::jsonb)
    -- end if
    -- if tags_none
    AND NOT coalesce(ltm_tag_terms(m.user_id, m.tags), '{}')
    && ltm_tag_terms(:user_id, :tags_none::text::jsonb)
    -- end if
    -- if context_data
    AND ltm_user_context(m.user_id, m.context_data)
    @> jsonb_build_object(:user_id::bigint::text, :context_data::text::jsonb)
    -- end if
    -- if phrases
    AND ltm_phrases_held(
        'ltm', m.search_vector, m.content, :phrases,
        (SELECT ltm_phrase_queries('ltm', :phrases::text[]))
    ) = cardinality(:phrases::text[])
    -- end if
    -- if exclude
    AND ltm_phrases_held(
        'ltm', m.search_vector, m.content, :exclude,
        (SELECT ltm_phrase_queries('ltm', :exclude::text[]))
    ) = 0
    -- end if
    -- if metadata_path
    -- The variables by a subquery: read once, not for each row.
    AND jsonb_path_exists(
        coalesce(nullif(m.memory_metadata, 'null'), '{}'),
        :metadata_path,
        (SELECT :metadata_variables::text::jsonb)
    )
    -- end if
    -- if metadata
    AND ltm_user_context(m.user_id, m.memory_metadata)
    @> jsonb_build_object(:user_id::bigint::text, :metadata::text::jsonb)
    -- end if
    AND m.created_by = :created_by;  -- if created_by

-- conditions: planned(
--     row_limit bigint, source_id text, source_ids text[], tags text, tags_any text,
--     context_data text, metadata text, modified_after timestamptz, key_prefix text
-- )
-- How often a walk in the order of ranks is planned: once, or where filters have an index of their own,
-- each time, as only their values tell how many rows they find. See the functions.
SELECT 1 FROM ltm_memories AS m
WHERE
    TRUE
    -- if not source_id or source_ids or tags or tags_any or context_data or metadata or modified_after or key_prefix
    AND ltm_prefer_generic_plan(m.importance_rank, :row_limit)
    -- end if
    -- if tags or tags_any or context_data or metadata or modified_after or key_prefix
    -- On a column of each table, whichever is read first.
    AND m.id IS DISTINCT FROM ltm_prefer_custom_plan(:row_limit)
    AND m.version IS DISTINCT FROM ltm_prefer_custom_plan(:row_limit)
    -- end if
    AND TRUE;

-- query: query_words(query text, term_limit bigint)
-- The words of a query in their order, each with what it counts.
SELECT
    u.lexeme,
    array_to_tsvector(ARRAY[u.lexeme])::text::tsquery AS anywhere,
    (array_to_tsvector(ARRAY[u.lexeme])::text || ':A')::tsquery AS as_written,
    (array_to_tsvector(ARRAY[u.lexeme])::text || ':B')::tsquery AS as_form,
    CASE WHEN u.weights[1] = 'B' THEN 0.5 ELSE 1 END::double precision AS weight,
    row_number() OVER (ORDER BY u.positions[1], u.lexeme COLLATE "C")::integer AS place
FROM
    unnest(
        ltm_words_vector('ltm', ltm_text_forms(:query::text, ltm_lower(:query), TRUE), TRUE)
    ) AS u
ORDER BY place
LIMIT :term_limit;

-- query: user_size(user_id bigint)
SELECT count(*) AS memories
FROM ltm_memories AS m
WHERE m.user_id = :user_id;

-- name: list_memories(
--     user_id bigint, as_of timestamptz, row_limit bigint, importance_weight double precision,
--     include_context boolean, row_offset bigint, include_archived flag
-- ) :many MemoryHit
-- Memories by dynamic importance, most important first.
SELECT
    m.*,  -- columns: memory
    CASE WHEN $5 THEN m.context_data::text END AS enhanced_context,
    d.dynamic_importance,
    d.dynamic_importance AS score,
    1 + $4 * d.dynamic_importance / 10 AS boost
FROM
    (
        (
            SELECT m.*
            FROM (
                SELECT
                    m.*  -- columns: ranked
                FROM ltm_memory_ranks AS k
                INNER JOIN ltm_memories AS m ON k.memory_id = m.id
                WHERE k.user_id = $1 AND m.user_id = $1
            ) AS m
            WHERE
                TRUE  -- conditions: filters
                AND m.is_archived IS NOT TRUE  -- if include_archived
                AND TRUE  -- conditions: planned
            ORDER BY m.importance_rank DESC, m.id DESC
            LIMIT $3::bigint + $6::bigint
        )
        -- if include_archived
        UNION ALL
        (
            SELECT m.*
            FROM (
                SELECT
                    m.*  -- columns: ranked
                FROM ltm_memory_ranks AS k
                INNER JOIN ltm_memories AS m ON k.memory_id = m.id
                WHERE k.user_id = $1 AND m.user_id = $1
            ) AS m
            WHERE
                m.is_archived
                AND TRUE  -- conditions: planned
                AND TRUE  -- conditions: filters
            ORDER BY m.importance_rank DESC, m.id DESC
            LIMIT $3::bigint + $6::bigint
        )
        -- end if
    ) AS m
CROSS JOIN
    LATERAL (
        SELECT ltm_dynamic_importance(m.importance_rank, $2) AS dynamic_importance
    ) AS d
ORDER BY m.importance_rank DESC, m.id DESC
LIMIT $3 OFFSET $6;

-- name: list_by_moment(
--     user_id bigint, as_of timestamptz, row_limit bigint, importance_weight double precision,
--     include_context boolean, row_offset bigint, oldest flag, modified flag
-- ) :many MemoryHit
-- Memories by when they were created or last changed, the newest first or the oldest.
SELECT
    m.*,  -- columns: memory
    CASE WHEN $5 THEN m.context_data::text END AS enhanced_context,
    d.dynamic_importance,
    d.dynamic_importance AS score,
    1 + $4 * d.dynamic_importance / 10 AS boost
FROM (
    SELECT m.*
    FROM ltm_memories AS m
    WHERE
        m.user_id = $1
        -- if tags or tags_any or context_data or metadata or namespace or namespaces or namespace_prefix or key_prefix
        AND m.id IS DISTINCT FROM ltm_prefer_custom_plan($3)
        -- end if
        AND TRUE  -- conditions: filters
    ORDER BY
        m.last_modified DESC NULLS LAST,  -- if modified
        m.created_at DESC NULLS LAST,  -- if not oldest or modified
        m.created_at ASC NULLS FIRST,  -- if oldest
        m.id DESC,  -- if not oldest
        m.id ASC
    LIMIT $3 OFFSET $6
) AS m
CROSS JOIN
    LATERAL (
        SELECT ltm_dynamic_importance(m.importance_rank, $2) AS dynamic_importance
    ) AS d
ORDER BY
    m.last_modified DESC NULLS LAST,  -- if modified
    m.created_at DESC NULLS LAST,  -- if not oldest or modified
    m.created_at ASC NULLS FIRST,  -- if oldest
    m.id DESC,  -- if not oldest
    m.id ASC
LIMIT $3;

-- name: count_memories(user_id bigint, as_of timestamptz) :one
-- How many memories pass the filters and, where there is a query, hold a word of it.
SELECT count(*) AS memories
FROM ltm_memories AS m
WHERE
    m.user_id = $1
    -- if query
    AND ltm_search_terms(m.user_id, m.search_vector) @@ (
        SELECT ltm_any_term($1, array_agg(a.lexeme))
        FROM (
            SELECT NULL  -- query: query_words
        ) AS a
    )
    -- end if
    AND TRUE;  -- conditions: filters

-- name: list_ids(user_id bigint, newest flag, oldest flag, modified flag) :one
-- The ids of all memories that pass the filters, most important first unless told otherwise.
SELECT
    coalesce(
        array_agg(
            m.id
            ORDER BY
                m.importance_rank DESC,  -- if not newest or oldest or modified
                m.last_modified DESC NULLS LAST,  -- if modified
                m.created_at DESC NULLS LAST,  -- if newest
                m.created_at ASC NULLS FIRST,  -- if oldest
                m.id DESC,  -- if not oldest
                m.id ASC
        ),
        '{}'
    ) AS ids
FROM ltm_memories AS m
WHERE
    m.user_id = $1
    AND TRUE;  -- conditions: filters

-- name: search_memories(
--     user_id bigint, as_of timestamptz, row_limit bigint, importance_weight double precision,
--     include_context boolean, neighbours boolean, row_offset bigint, query_embedding real[],
--     embedding_model text, meaning double precision, time_starts timestamptz[],
--     time_ends timestamptz[], distinct flag, is_indexed flag,
--     include_archived flag
-- ) :many MemoryHit
-- Memories that hold words of the query, by how rare those are, and those that mean what it means.
-- asked reads the query. One word that many memories hold is found on a walk of the order of importance;
-- else one scan of the index of words finds who holds which word (held), those held nowhere are looked
-- for in other spellings (other_words), frequencies weigh them, and own adds up what a memory holds
-- itself. The best lend their words to their neighbours in the source (beside, lifted). scored is what
-- the words find, with its text score. With a vector, nearest is what means most nearly the same; the
-- best of both (gathered) borrow from what is beside them in the source (borrowed), and fused adds up
-- words and meaning. What is of the time that was asked for counts twice (timed).
-- Then importance lifts it, of equal contents the most important stays, and of the best the last step
-- reads the whole rows.
-- needs: embeddings if query_embedding
WITH asked AS MATERIALIZED (
    SELECT
        a.*,
        ltm_any_term($1, ARRAY[a.lexeme]) AS term,
        (
            SELECT TRUE
            FROM ltm_memories AS m
            WHERE
                (m.user_id = $1) IS TRUE
                AND m.user_id = $1  -- if distributed
                AND ltm_search_terms(m.user_id, m.search_vector)
                @@ ltm_any_term($1, ARRAY['@' || a.lexeme])
            LIMIT 1
        ) IS TRUE AS is_speaker
    FROM (
        SELECT NULL  -- query: query_words
    ) AS a
),

-- Who is named in the query, as the memories hold who wrote them.
named AS MATERIALIZED (
    SELECT string_agg(array_to_tsvector(ARRAY['@' || a.lexeme])::text, ' | ')::tsquery AS speakers
    FROM asked AS a
    WHERE a.is_speaker
),

-- if not include_archived
-- One word counts the same wherever it is written: the most important ones that hold it are the best,
-- unless importance counts so much, or who wrote them, that others could come before. (LIMIT 1, because
-- the planner may look at the word before it knows that there is one.)
walked AS MATERIALIZED (
    SELECT
        m.id AS group_key,  -- if not distinct
        m.content_hash AS group_key,  -- if distinct
        ARRAY[m.importance_rank, m.id] AS full_rank
    FROM (
        SELECT m.*
        FROM (
            SELECT
                m.*  -- columns: ranked
            FROM ltm_memory_ranks AS k
            INNER JOIN ltm_memories AS m ON k.memory_id = m.id
            WHERE k.user_id = $1 AND m.user_id = $1
        ) AS m
        WHERE
            m.is_archived IS NOT TRUE
            AND (SELECT count(*) = 1 AND NOT bool_or(a.is_speaker) FROM asked AS a)
            AND $4::double precision < 0.4
            AND FALSE  -- if query_embedding or time_starts
        ORDER BY m.importance_rank DESC, m.id DESC
        LIMIT 30 * ($3::bigint + $7::bigint)
    ) AS m
    WHERE
        m.search_vector @@ (SELECT a.as_written FROM asked AS a LIMIT 1)
        AND TRUE  -- conditions: filters
),

known AS MATERIALIZED (
    SELECT count(DISTINCT w.group_key) >= $3 + $7 AS is_enough
    FROM walked AS w
),
-- end if

-- The index of words holds the user in each of its keys; another look at all memories of the user
-- would only cost time, hence IS TRUE. Word by word (OFFSET 0): joined, the planner, which knows no
-- word, may take reading the whole table once for cheaper.
found AS MATERIALIZED (
    SELECT
        m.id,
        m.importance_rank,
        m.content_hash,
        m.has_place,
        m.search_vector @@ (SELECT n.speakers FROM named AS n) IS TRUE AS is_named,
        a.place,
        a.weight * CASE
            WHEN m.search_vector @@ a.as_written THEN 1
            WHEN m.search_vector @@ a.as_form THEN 0.7
            ELSE 0.5
        END::double precision AS weight
    FROM asked AS a
    CROSS JOIN
        LATERAL (
            SELECT
                m.id,
                m.importance_rank,
                m.content_hash,
                m.source_position IS NOT NULL AND m.source_id IS NOT NULL AS has_place,
                m.search_vector
            FROM ltm_memories AS m
            WHERE
                (m.user_id = $1) IS TRUE
                AND m.user_id = $1  -- if distributed
                AND ltm_search_terms(m.user_id, m.search_vector) @@ a.term
                AND TRUE  -- conditions: filters
            OFFSET 0
        ) AS m
    WHERE
        TRUE
        AND NOT (SELECT k.is_enough FROM known AS k)  -- if not include_archived
),

holders AS MATERIALIZED (
    SELECT
        f.place,
        count(*) AS holders
    FROM found AS f
    GROUP BY f.place
),

-- What the user's memories hold instead of a word that none of them holds.
other_words AS MATERIALIZED (
    SELECT
        a.place,
        o.lexeme,
        array_to_tsvector(ARRAY[o.lexeme])::text::tsquery AS anywhere
    FROM asked AS a
    CROSS JOIN
        LATERAL (
            SELECT u.lexeme
            FROM (
                SELECT m.search_vector
                FROM ltm_memories AS m
                WHERE
                    (m.user_id = $1) IS TRUE
                    AND m.user_id = $1  -- if distributed
                    AND ltm_search_terms(m.user_id, m.search_vector) @@ (
                        (ltm_any_term($1, ARRAY[left(a.lexeme, 3)])::text || ':*')::tsquery
                    )
                ORDER BY m.id DESC
                LIMIT 500
            ) AS m
            CROSS JOIN LATERAL unnest(tsvector_to_array(m.search_vector)) AS u (lexeme)
            WHERE starts_with(u.lexeme, left(a.lexeme, 3)) AND ltm_is_near(a.lexeme, u.lexeme)
            GROUP BY u.lexeme
            ORDER BY u.lexeme COLLATE "C"
            LIMIT 20
        ) AS o
    WHERE
        char_length(a.lexeme) >= 4
        AND a.weight = 1
        AND a.lexeme !~ '[0-9]'
        AND NOT a.is_speaker
        AND NOT (SELECT k.is_enough FROM known AS k)  -- if not include_archived
        AND NOT EXISTS (
            SELECT 1 FROM holders AS h
            WHERE h.place = a.place
        )
),

found_otherwise AS MATERIALIZED (
    SELECT
        m.id,
        m.importance_rank,
        m.content_hash,
        m.source_position IS NOT NULL AND m.source_id IS NOT NULL AS has_place,
        m.search_vector @@ (SELECT n.speakers FROM named AS n) IS TRUE AS is_named,
        a.place,
        0.3 AS weight
    FROM ltm_memories AS m
    CROSS JOIN
        LATERAL (
            SELECT DISTINCT o.place
            FROM other_words AS o
            WHERE m.search_vector @@ o.anywhere
            ORDER BY o.place
        ) AS a
    WHERE
        (m.user_id = $1) IS TRUE
        AND m.user_id = $1  -- if distributed
        AND ltm_search_terms(m.user_id, m.search_vector)
        @@ (SELECT ltm_any_term($1, array_agg(o.lexeme)) FROM other_words AS o)
        AND TRUE  -- conditions: filters
),

-- Not materialized: a copy of what many memories hold would cost as much as to add it up.
held AS NOT MATERIALIZED (
    SELECT f.* FROM found AS f
    UNION ALL
    SELECT f.* FROM found_otherwise AS f
),

-- Of one word alone it does not matter how rare it is.
frequencies AS MATERIALIZED (
    SELECT
        f.place,
        CASE
            WHEN count(*) OVER () = 1 THEN 1
            ELSE ltm_idf(
                (
                    SELECT NULL  -- query: user_size
                ),
                f.holders
            )
        END AS idf
    FROM (
        SELECT h.* FROM holders AS h
        UNION ALL
        SELECT
            o.place,
            count(*) AS holders
        FROM found_otherwise AS o
        GROUP BY o.place
    ) AS f
),

own AS MATERIALIZED (
    SELECT
        h.id,
        max(h.importance_rank) AS importance_rank,
        h.content_hash,
        bool_or(h.has_place) AS has_place,
        CASE WHEN bool_or(h.is_named) THEN 1.6 ELSE 1 END::double precision AS naming,
        sum(h.weight * f.idf) AS score
    FROM held AS h
    INNER JOIN frequencies AS f ON h.place = f.place
    GROUP BY h.id, h.content_hash
),

-- Neighbouring turns of one source lend words to each other: answers follow questions.
beside AS MATERIALIZED (
    SELECT
        m.id,
        m.importance_rank,
        m.content_hash,
        CASE
            WHEN m.search_vector @@ (SELECT n.speakers FROM named AS n) THEN 1.6 ELSE 1
        END::double precision AS naming,
        l.id AS lender_id,
        o.share,
        o.share * l.score AS lent_score
    FROM (
        SELECT
            w.id,
            w.score,
            w.naming * w.score AS own_score
        FROM own AS w
        WHERE $6 AND w.has_place
        ORDER BY own_score DESC, w.id DESC
        LIMIT 50
    ) AS l
    INNER JOIN ltm_memories AS s ON s.user_id = $1 AND l.id = s.id
    CROSS JOIN (VALUES (1, 0.7), (-1, 0.5), (2, 0.4), (-2, 0.3)) AS o (step, share)
    INNER JOIN ltm_memories AS m
        ON
            m.user_id = $1
            AND m.source_id = s.source_id
            AND m.source_position = s.source_position::bigint + o.step
            AND TRUE  -- conditions: filters
),

-- Each word of what is beside a lender counts once: its own, or the greatest share of a lender's.
lifted AS MATERIALIZED (
    SELECT
        p.id,
        sum(p.score ORDER BY p.place) AS score,
        bool_or(p.is_own) AS is_own
    FROM (
        SELECT
            v.id,
            h.place,
            max(v.share * h.weight * f.idf) AS score,
            bool_or(v.id = v.lender_id) AS is_own
        FROM (
            SELECT
                b.id,
                b.lender_id,
                b.share
            FROM beside AS b
            UNION ALL
            SELECT DISTINCT
                b.id,
                b.id AS lender_id,
                1 AS share
            FROM beside AS b
        ) AS v
        INNER JOIN held AS h ON v.lender_id = h.id
        INNER JOIN frequencies AS f ON h.place = f.place
        GROUP BY v.id, h.place
    ) AS p
    GROUP BY p.id
),

scored AS MATERIALIZED (
    SELECT
        w.id,
        w.importance_rank,
        w.content_hash,
        w.naming * coalesce(l.score, w.score) AS text_score,
        NULL::bigint AS neighbour_of
    FROM own AS w
    LEFT JOIN lifted AS l ON w.id = l.id
    UNION ALL
    (
        SELECT DISTINCT ON (b.id)
            b.id,
            b.importance_rank,
            b.content_hash,
            b.naming * l.score AS text_score,
            b.lender_id AS neighbour_of
        FROM beside AS b
        INNER JOIN lifted AS l ON b.id = l.id
        WHERE NOT l.is_own
        ORDER BY b.id ASC, b.lent_score DESC, b.lender_id DESC
    )
    -- if not include_archived
    UNION ALL
    SELECT
        m.id,
        m.importance_rank,
        m.content_hash,
        1 AS text_score,
        NULL::bigint AS neighbour_of
    FROM (
        SELECT w.group_key
        FROM walked AS w
        WHERE (SELECT k.is_enough FROM known AS k)
        GROUP BY w.group_key
        ORDER BY max(w.full_rank) DESC
        LIMIT $3::bigint + $7::bigint
    ) AS w
    INNER JOIN ltm_memories AS m
        ON
            m.user_id = $1
            AND m.id = w.group_key  -- if not distinct
            AND m.content_hash = w.group_key  -- if distinct
    WHERE
        m.search_vector @@ (SELECT a.as_written FROM asked AS a LIMIT 1)
        AND TRUE  -- conditions: filters
-- end if
),

-- if query_embedding
worded AS MATERIALIZED (
    SELECT s.* FROM scored AS s
    ORDER BY s.text_score DESC, s.importance_rank DESC, s.id DESC
    LIMIT greatest(300, $3::bigint + $7::bigint)
),

-- if not is_indexed
-- The nearest first, each is looked at whether it passes until there are enough; of a long content the
-- nearest part counts. A vector of a content that was changed since does not pass.
nearest AS MATERIALIZED (
    SELECT
        m.id,
        m.importance_rank,
        m.content_hash,
        v.meaning_score
    FROM (
        SELECT
            d.memory_id,
            d.content_hash,
            max(d.meaning_score) AS meaning_score
        FROM (
            SELECT
                e.memory_id,
                e.content_hash,
                ltm_cosine(e.embedding, (SELECT ltm_embedding($8::real[]))) AS meaning_score
            FROM ltm_embeddings AS e
            WHERE e.user_id = $1 AND e.model = $9 AND e.dimensions = cardinality($8::real[])
            OFFSET 0  -- else whole vectors are grouped, and spill
        ) AS d
        GROUP BY d.memory_id, d.content_hash
        ORDER BY meaning_score DESC, d.memory_id DESC
    ) AS v
    CROSS JOIN
        LATERAL (
            SELECT
                m.id,
                m.importance_rank,
                m.content_hash
            FROM ltm_memories AS m
            WHERE
                m.user_id = $1
                AND m.id = v.memory_id
                AND m.content_hash = v.content_hash
                AND TRUE  -- conditions: filters
            LIMIT 1
        ) AS m
    ORDER BY v.meaning_score DESC, v.memory_id DESC
    LIMIT greatest(200, $3::bigint + $7::bigint)
),
-- end if

-- if is_indexed
-- Along the index of this user's vectors, which custom plans alone can see, and which goes on until
-- enough have passed; of a long content the nearest part that it meets counts. (By a second key as well,
-- before 17 the planner would sort instead.)
nearest AS MATERIALIZED (
    SELECT
        v.id,
        v.importance_rank,
        v.content_hash,
        max(v.meaning_score) AS meaning_score
    FROM (
        SELECT
            m.id,
            m.importance_rank,
            m.content_hash,
            ltm_cosine(e.embedding, ltm_embedding($8::real[])) AS meaning_score
        FROM ltm_embeddings AS e
        CROSS JOIN
            LATERAL (
                SELECT
                    m.id,
                    m.importance_rank,
                    m.content_hash
                FROM ltm_memories AS m
                WHERE
                    m.user_id = $1
                    AND m.id = e.memory_id
                    AND m.content_hash = e.content_hash
                    AND TRUE  -- conditions: filters
                LIMIT 1
            ) AS m
        WHERE
            e.user_id = $1
            AND e.model = $9
            AND e.dimensions = cardinality($8::real[])
            AND e.part IS DISTINCT FROM ltm_prefer_custom_plan($3)
            AND (
                SELECT
                    set_config('hnsw.iterative_scan', 'strict_order', TRUE)
                    || set_config('hnsw.ef_search', '200', TRUE)
                    || set_config('hnsw.max_scan_tuples', '2147483647', TRUE)
            ) <> ''
        ORDER BY
            ltm_embedding_distance(
                e.embedding, ltm_embedding($8::real[]), cardinality($8::real[])
            )
        LIMIT greatest(200, $3::bigint + $7::bigint)
    ) AS v
    GROUP BY v.id, v.importance_rank, v.content_hash
),
-- end if

gathered AS MATERIALIZED (
    SELECT
        w.id,
        w.importance_rank,
        w.content_hash,
        w.text_score,
        w.neighbour_of,
        (
            SELECT max(ltm_cosine(e.embedding, (SELECT ltm_embedding($8::real[]))))
            FROM ltm_embeddings AS e
            WHERE
                e.user_id = $1
                AND e.model = $9
                AND e.memory_id = w.id
                AND e.content_hash = w.content_hash
                AND e.dimensions = cardinality($8::real[])
        ) AS meaning_score
    FROM worded AS w
    UNION ALL
    SELECT
        n.id,
        n.importance_rank,
        n.content_hash,
        coalesce(s.text_score, 0) AS text_score,
        s.neighbour_of,
        n.meaning_score
    FROM nearest AS n
    LEFT JOIN scored AS s ON n.id = s.id
    WHERE NOT EXISTS (
        SELECT 1 FROM worded AS w
        WHERE w.id = n.id
    )
),

-- The nearest lend to those beside them in the source what they are nearer than the last of them.
lending AS MATERIALIZED (
    SELECT
        n.id,
        n.meaning_score - min(n.meaning_score) OVER () AS surplus
    FROM (
        SELECT n.* FROM nearest AS n
        WHERE $6
        ORDER BY n.meaning_score DESC, n.id DESC
        LIMIT 50
    ) AS n
),

borrowed AS MATERIALIZED (
    SELECT
        m.id,
        max(
            l.surplus * CASE WHEN m.source_position > s.source_position THEN 0.5 ELSE 0.2 END
        ) AS meaning_score
    FROM lending AS l
    INNER JOIN ltm_memories AS s ON s.user_id = $1 AND l.id = s.id
    INNER JOIN ltm_memories AS m
        ON
            m.user_id = $1
            AND m.source_id = s.source_id
            AND m.source_position
            = any(ARRAY[s.source_position::bigint - 1, s.source_position::bigint + 1])
    GROUP BY m.id
),

-- What has no vector yet counts as the last of the nearest, of 200 also where a later page reads more.
meant AS MATERIALIZED (
    SELECT
        g.*,
        coalesce(g.meaning_score, t.least) + coalesce(b.meaning_score, 0) AS nearness
    FROM gathered AS g
    LEFT JOIN borrowed AS b ON g.id = b.id
    CROSS JOIN (
        SELECT min(n.meaning_score) AS least
        FROM (
            SELECT n.* FROM nearest AS n
            ORDER BY n.meaning_score DESC
            LIMIT 200
        ) AS n
    ) AS t
),

fused AS MATERIALIZED (
    SELECT
        b.id,
        b.importance_rank,
        b.content_hash,
        b.text_score,
        b.neighbour_of,
        b.meaning_score,
        (1 - $10::double precision) * coalesce(b.text_score / t.text_score, 0)
        + $10 * coalesce(b.nearness / t.nearness, 0) AS points
    FROM meant AS b
    CROSS JOIN (
        SELECT
            nullif(max(c.text_score), 0) AS text_score,
            nullif(greatest(max(c.nearness), 0), 0) AS nearness
        FROM meant AS c
    ) AS t
),
-- end if

pool AS NOT MATERIALIZED (
    SELECT
        s.id,
        s.importance_rank,
        s.content_hash,
        s.text_score,
        s.neighbour_of,
        NULL::double precision AS meaning_score,
        s.text_score AS points
    FROM scored AS s
    -- if query_embedding
    WHERE FALSE
    UNION ALL
    SELECT
        f.id,
        f.importance_rank,
        f.content_hash,
        f.text_score,
        f.neighbour_of,
        f.meaning_score,
        f.points
    FROM fused AS f
    -- end if
),

-- if time_starts
timed AS MATERIALIZED (
    SELECT
        p.*,
        (
            SELECT count(*) > 0
            FROM
                unnest($11::timestamptz[], $12::timestamptz[]) AS t (starts_at, ends_at)
            CROSS JOIN
                LATERAL (
                    SELECT
                        timezone('utc', t.starts_at) AS starts_at,
                        timezone('utc', t.ends_at) AS ends_at,
                        -- As text: what stands there may be no moment.
                        m.context_data #>> '{temporal,timestamp}' COLLATE "C" AS told_at
                ) AS u
            WHERE
                (m.created_at >= u.starts_at AND m.created_at < u.ends_at)
                OR (
                    u.told_at >= to_char(u.starts_at, 'YYYY-MM-DD"T"HH24:MI:SS')
                    AND u.told_at < to_char(u.ends_at, 'YYYY-MM-DD"T"HH24:MI:SS')
                )
        ) AS matched_time
    FROM (
        SELECT p.* FROM pool AS p
        ORDER BY p.points DESC, p.importance_rank DESC, p.id DESC
        LIMIT greatest(1000, $3::bigint + $7::bigint)
    ) AS p
    INNER JOIN ltm_memories AS m ON m.user_id = $1 AND m.id = p.id
),
-- end if

candidates AS NOT MATERIALIZED (
    SELECT
        p.*,
        FALSE AS matched_time
    FROM pool AS p
    -- if time_starts
    WHERE FALSE
    UNION ALL
    SELECT
        t.id,
        t.importance_rank,
        t.content_hash,
        t.text_score,
        t.neighbour_of,
        t.meaning_score,
        t.points * CASE WHEN t.matched_time THEN 2 ELSE 1 END AS points,
        t.matched_time
    FROM timed AS t
    -- end if
),

-- if distinct
equal AS MATERIALIZED (
    SELECT
        s.id,
        s.importance_rank,
        s.content_hash,
        row_number() OVER (
            PARTITION BY s.content_hash ORDER BY s.importance_rank DESC, s.id DESC
        ) AS place
    FROM candidates AS s
    INNER JOIN (
        SELECT t.content_hash FROM candidates AS t
        GROUP BY t.content_hash
        HAVING count(*) > 1
    ) AS d ON s.content_hash = d.content_hash
),
-- end if

best AS MATERIALIZED (
    SELECT
        s.id,
        s.importance_rank,
        s.content_hash,
        s.text_score,
        s.neighbour_of,
        s.meaning_score,
        s.matched_time,
        d.dynamic_importance,
        b.boost,
        s.points * b.boost AS score
    FROM candidates AS s
    CROSS JOIN
        LATERAL (
            SELECT ltm_dynamic_importance(s.importance_rank, $2) AS dynamic_importance
        ) AS d
    CROSS JOIN LATERAL (SELECT 1 + $4 * d.dynamic_importance / 10 AS boost) AS b
    WHERE
        TRUE
        -- if distinct
        AND NOT EXISTS (
            SELECT 1 FROM equal AS e
            WHERE e.id = s.id AND e.place > 1
        )
        -- end if
    ORDER BY score DESC, s.importance_rank DESC, s.id DESC
    LIMIT $3 OFFSET $7
)

SELECT
    m.*,  -- columns: memory
    CASE WHEN $5 THEN m.context_data::text END AS enhanced_context,
    b.dynamic_importance,
    b.text_score,
    array(
        SELECT a.lexeme
        FROM asked AS a
        WHERE m.search_vector @@ a.anywhere
        UNION
        SELECT o.lexeme
        FROM other_words AS o
        WHERE m.search_vector @@ o.anywhere
    ) AS matched_terms,
    b.neighbour_of,
    b.meaning_score,
    b.matched_time,
    b.boost,
    coalesce(e.ids, '{}') AS duplicate_ids,  -- if distinct
    b.score
FROM best AS b
INNER JOIN ltm_memories AS m ON m.user_id = $1 AND m.id = b.id
-- if distinct
LEFT JOIN (
    SELECT
        e.content_hash,
        array_agg(e.id ORDER BY e.place) FILTER (WHERE e.place > 1) AS ids
    FROM equal AS e
    WHERE e.content_hash IN (SELECT b.content_hash FROM best AS b)
    GROUP BY e.content_hash
) AS e ON b.content_hash = e.content_hash
-- end if
ORDER BY b.score DESC, m.importance_rank DESC, m.id DESC
LIMIT $3;

-- name: explain_search(user_id bigint, as_of timestamptz, memory_id bigint) :one SearchFindings
-- Which conditions of a search one memory does not meet, and which of its words were asked for.
SELECT
    m.content,
    m.category,
    m.tags::text AS tags,
    array_remove(
        ARRAY[
            NULL,  -- causes: filters
            NULL
        ],
        NULL
    ) AS causes,
    array(
        SELECT a.lexeme
        FROM (
            SELECT NULL  -- query: query_words
        ) AS a
        WHERE m.search_vector @@ a.anywhere
    ) AS matched_terms
FROM ltm_memories AS m
WHERE m.user_id = $1 AND m.id = $3;
