-- Searching: which memories pass, in which order, and why.

-- conditions: filters(
--     user_id bigint, as_of timestamptz, include_archived flag, memory_type text, category text,
--     source_type text, source_id text, min_importance integer, min_confidence double precision,
--     created_after timestamptz, created_before timestamptz, accessed_after timestamptz,
--     tags text, tags_any text, tags_none text, context_data text, metadata text, created_by text,
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
    AND (
        m.namespace = :namespace_prefix
        OR (m.namespace >= :namespace_prefix || '.' AND m.namespace < :namespace_prefix || '/')
    )
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

-- query: query_words(query text, term_limit bigint)
SELECT u.lexeme
FROM unnest(to_tsvector('ltm', :query)) AS u
ORDER BY u.positions[1], u.lexeme COLLATE "C"
LIMIT :term_limit;

-- query: demanded(phrases text[], exclusions text[])
SELECT
    string_agg('(' || t.phrase::text || ')', ' & ') FILTER (WHERE t.is_wanted)::tsquery AS phrases,
    string_agg('(' || t.phrase::text || ')', ' | ') FILTER (WHERE NOT t.is_wanted)::tsquery
        AS exclusions
FROM (
    SELECT
        phraseto_tsquery('ltm', p.words) AS phrase,
        p.is_wanted
    FROM (
        SELECT
            unnest(:phrases::text[]) AS words,
            TRUE AS is_wanted
        UNION ALL
        SELECT
            unnest(:exclusions::text[]) AS words,
            FALSE AS is_wanted
    ) AS p
) AS t
WHERE numnode(t.phrase) > 0;

-- query: user_size(user_id bigint)
-- Beyond 10,000 memories their number matters little.
SELECT count(*) AS memories
FROM (
    SELECT 1 FROM ltm_memories AS m
    WHERE m.user_id = :user_id LIMIT 10000
) AS x;

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
            FROM ltm_memories AS m
            WHERE
                m.user_id = $1
                AND m.is_archived IS NOT TRUE  -- if include_archived
                -- (Else the filters say so.) Of these only their values tell how many rows they find: see
                -- ltm_prefer_custom_plan.
                -- if tags or tags_any or context_data or metadata or modified_after or namespace or namespaces or namespace_prefix or key_prefix
                AND m.id IS DISTINCT FROM ltm_prefer_custom_plan($3)
                -- end if
                AND TRUE  -- conditions: filters
            ORDER BY m.importance_rank DESC, m.id DESC
            LIMIT $3::bigint + $6::bigint
        )
        -- if include_archived
        UNION ALL
        (
            SELECT m.*
            FROM ltm_memories AS m
            WHERE
                m.user_id = $1
                AND m.is_archived
                -- if tags or tags_any or context_data or metadata or modified_after or namespace or namespaces or namespace_prefix or key_prefix
                AND m.id IS DISTINCT FROM ltm_prefer_custom_plan($3)
                -- end if
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
-- if query
CROSS JOIN (
    SELECT NULL  -- query: demanded
) AS d
-- end if
WHERE
    m.user_id = $1
    -- if query
    AND ltm_search_terms(m.user_id, m.search_vector)
    && (
        SELECT array_agg($1::bigint || ':' || a.lexeme)
        FROM (
            SELECT NULL  -- query: query_words
        ) AS a
    )
    AND (d.phrases IS NULL OR m.search_vector @@ d.phrases)
    AND (d.exclusions IS NULL OR NOT m.search_vector @@ d.exclusions)
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
--     include_context boolean, neighbours boolean, row_offset bigint, distinct flag
-- ) :many MemoryHit
-- Memories that hold words of the query, by how rare those are among the user's memories.
-- asked and demanded read the query; candidates are found by one scan of the index of words and
-- matched word by word; frequencies, kept and own weigh them; lent passes weight to their neighbours
-- in the source; pool is what may be returned, ranked with its importance; of equal contents the most
-- important stays, and of the best the last step reads the whole rows.
WITH asked AS MATERIALIZED (
    SELECT
        q.lexeme,
        q.quoted::tsquery AS anywhere,
        (q.quoted || ':A')::tsquery AS in_content
    FROM (
        SELECT
            u.lexeme,
            '''' || replace(replace(u.lexeme, '\', '\\'), '''', '''''') || '''' AS quoted
        FROM (
            SELECT NULL  -- query: query_words
        ) AS u
    ) AS q
),

demanded AS MATERIALIZED (
    SELECT NULL  -- query: demanded
),

-- The index of words holds the user in each of its keys.
candidates AS MATERIALIZED (
    SELECT
        m.id,
        m.source_id,
        m.source_position,
        m.search_vector,
        (
            (d.phrases IS NULL OR m.search_vector @@ d.phrases)
            AND (d.exclusions IS NULL OR NOT m.search_vector @@ d.exclusions)
            AND TRUE  -- conditions: filters
        ) AS passes
    FROM ltm_memories AS m
    CROSS JOIN demanded AS d
    WHERE
        m.user_id = $1
        AND ltm_search_terms(m.user_id, m.search_vector)
        && (SELECT array_agg($1::bigint || ':' || a.lexeme) FROM asked AS a)
),

matched AS MATERIALIZED (
    SELECT
        c.id,
        c.source_id,
        c.source_position,
        c.passes,
        a.lexeme,
        CASE WHEN c.search_vector @@ a.in_content THEN 1.0 ELSE 0.5 END::double precision AS weight
    FROM candidates AS c
    CROSS JOIN asked AS a
    WHERE c.search_vector @@ a.anywhere
),

size AS MATERIALIZED (
    SELECT NULL  -- query: user_size
),

-- How rare a word is does not depend on the filters.
frequencies AS MATERIALIZED (
    SELECT
        f.lexeme,
        ltm_idf(n.memories, f.holders) AS idf,
        f.holders > greatest(n.memories / 2, 100) AS is_common
    FROM (
        SELECT
            w.lexeme,
            count(*) AS holders
        FROM matched AS w
        GROUP BY w.lexeme
    ) AS f
    CROSS JOIN size AS n
),

-- A word of most memories says nothing where a rarer one is found.
kept AS MATERIALIZED (
    SELECT
        f.lexeme,
        f.idf
    FROM frequencies AS f
    WHERE NOT f.is_common OR NOT EXISTS (
        SELECT 1 FROM frequencies AS g
        WHERE NOT g.is_common
    )
),

own AS MATERIALIZED (
    SELECT
        w.id,
        w.source_id,
        w.source_position,
        w.passes,
        sum(k.idf * w.weight ORDER BY k.lexeme COLLATE "C") AS own_score,
        array_agg(k.lexeme ORDER BY k.lexeme COLLATE "C") AS matched_terms
    FROM matched AS w
    INNER JOIN kept AS k ON w.lexeme = k.lexeme
    GROUP BY w.id, w.source_id, w.source_position, w.passes
),

-- Neighbouring turns of one source lend weight to each other: answers follow questions.
lent AS MATERIALIZED (
    SELECT
        m.id,
        sum(l.own_score * o.share ORDER BY o.step) AS lent_score
    FROM (
        SELECT
            w.own_score,
            w.source_id,
            w.source_position
        FROM own AS w
        WHERE $6 AND w.source_position IS NOT NULL
        ORDER BY w.own_score DESC, w.id DESC
        LIMIT 200
    ) AS l
    CROSS JOIN (VALUES (1, 0.5), (-1, 0.3), (2, 0.2), (-2, 0.1)) AS o (step, share)
    INNER JOIN ltm_memories AS m
        ON
            m.user_id = $1
            AND m.source_id = l.source_id
            AND m.source_position = l.source_position + o.step
    GROUP BY m.id
),

-- The best, and those that only stand beside one (at most 800), of which it is not known yet
-- whether they pass.
pool AS MATERIALIZED (
    SELECT
        t.id,
        sum(t.score ORDER BY t.is_lent)::double precision AS text_score,
        coalesce(max(t.matched_terms), '{}') AS matched_terms
    FROM (
        SELECT
            w.id,
            FALSE AS is_lent,
            w.own_score AS score,
            w.matched_terms,
            w.passes
        FROM own AS w
        UNION ALL
        SELECT
            l.id,
            TRUE AS is_lent,
            l.lent_score AS score,
            NULL AS matched_terms,
            NULL AS passes
        FROM lent AS l
    ) AS t
    GROUP BY t.id
    HAVING bool_and(t.passes) IS NOT FALSE
    ORDER BY sum(t.score ORDER BY t.is_lent) DESC, t.id DESC
    LIMIT greatest(200, $3::bigint + $7::bigint) + 800
),

ranked AS (
    SELECT
        m.id,
        m.importance_rank,
        p.text_score,
        p.matched_terms,
        d.dynamic_importance,
        b.boost,
        p.text_score * b.boost AS score,
        array_agg(m.id) OVER (PARTITION BY m.content_hash) AS equal_ids,  -- if distinct
        row_number() OVER (  -- if distinct
            PARTITION BY m.content_hash ORDER BY m.importance_rank DESC, m.id DESC  -- if distinct
        ) AS place,  -- if distinct
        m.user_id
    FROM pool AS p
    INNER JOIN ltm_memories AS m ON m.user_id = $1 AND m.id = p.id
    CROSS JOIN demanded AS q
    CROSS JOIN
        LATERAL (
            SELECT ltm_dynamic_importance(m.importance_rank, $2) AS dynamic_importance
        ) AS d
    CROSS JOIN LATERAL (SELECT 1 + $4 * d.dynamic_importance / 10 AS boost) AS b
    WHERE
        (q.phrases IS NULL OR m.search_vector @@ q.phrases)
        AND (q.exclusions IS NULL OR NOT m.search_vector @@ q.exclusions)
        AND TRUE  -- conditions: filters
),

best AS (
    SELECT r.*
    FROM ranked AS r
    WHERE r.place = 1  -- if distinct
    ORDER BY r.score DESC, r.importance_rank DESC, r.id DESC
    LIMIT $3 OFFSET $7
)

SELECT
    m.*,  -- columns: memory
    CASE WHEN $5 THEN m.context_data::text END AS enhanced_context,
    b.dynamic_importance,
    b.text_score,
    b.matched_terms,
    b.boost,
    array_remove(b.equal_ids, b.id) AS duplicate_ids,  -- if distinct
    b.score
FROM best AS b
INNER JOIN ltm_memories AS m ON m.user_id = $1 AND m.id = b.id
ORDER BY b.score DESC, m.importance_rank DESC, m.id DESC
LIMIT $3;

-- name: explain_search(user_id bigint, as_of timestamptz, memory_id bigint) :one SearchFindings
-- Which conditions of a search one memory does not meet, and which of its words were asked for.
WITH demanded AS (
    SELECT NULL  -- query: demanded
)

SELECT
    array_remove(
        ARRAY[
            NULL,  -- causes: filters
            CASE WHEN d.phrases IS NOT NULL AND NOT m.search_vector @@ d.phrases THEN 'phrases' END,
            CASE
                WHEN d.exclusions IS NOT NULL AND m.search_vector @@ d.exclusions THEN 'exclusions'
            END
        ],
        NULL
    ) AS causes,
    array(
        SELECT a.lexeme
        FROM (
            SELECT NULL  -- query: query_words
        ) AS a
        INNER JOIN unnest(m.search_vector) AS w ON a.lexeme = w.lexeme
        ORDER BY a.lexeme COLLATE "C"
    ) AS matched_terms
FROM ltm_memories AS m
CROSS JOIN demanded AS d
WHERE m.user_id = $1 AND m.id = $3;
