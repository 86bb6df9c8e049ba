-- Tags: their details in ltm_memory_tags, and the list on the memory that filters and searches read.

-- columns: with_tags(tag_names text[])
-- The tags of a memory, and those of these that it does not have.
SELECT
    to_jsonb(ltm_tag_names(m.tags)) || (
        SELECT coalesce(jsonb_agg(n.tag_name ORDER BY n.place), '[]')
        FROM unnest(:tag_names::text[]) WITH ORDINALITY AS n (tag_name, place)
        WHERE NOT EXISTS (
            SELECT 1 FROM unnest(ltm_tag_names(m.tags)) AS e (tag)
            WHERE ltm_lower(e.tag) = ltm_lower(n.tag_name)
        )
    ) AS tags
FROM ltm_memories AS m;

-- conditions: current_memory(user_id bigint, memory_id bigint, now timestamptz)
SELECT m.id
FROM ltm_memories AS m
WHERE
    m.user_id = :user_id
    AND m.id = :memory_id
    AND ltm_is_current(m.expires_at, :now);

-- name: add_tags(
--     user_id bigint, memory_id bigint, now timestamptz, tag_names text[], tag_category varchar,
--     tag_importance double precision, tag_confidence double precision
-- ) :one Memory
-- Give a memory tags; one that it has keeps its spelling, and is counted once more.
WITH locked AS (
    SELECT m.id
    FROM ltm_memories AS m
    WHERE
        TRUE  -- conditions: current_memory
    FOR NO KEY UPDATE
),

tagged AS (
    INSERT INTO ltm_memory_tags AS t (
        user_id, memory_id, tag_name, tag_category, tag_importance, tag_confidence, first_used,
        last_used
    )
    SELECT
        $1,
        l.id,
        n.tag_name,
        coalesce($5::varchar, 'general'),
        coalesce($6::double precision, 1),
        coalesce($7::double precision, 1),
        timezone('utc', $3),
        timezone('utc', $3)
    FROM unnest($4::text[]) AS n (tag_name)
    -- if distributed
    -- Not what another part has read, which Citus would send to all nodes.
    CROSS JOIN
        (
            SELECT m.id
            FROM ltm_memories AS m
            WHERE
                TRUE  -- conditions: current_memory
        ) AS l
    -- end if
    -- if not distributed
    CROSS JOIN locked AS l  -- noqa: AL04
    -- end if
    ON CONFLICT (user_id, memory_id, ltm_lower(tag_name))
    DO UPDATE SET
        tag_category = coalesce($5, t.tag_category),
        tag_importance = coalesce($6, t.tag_importance),
        tag_confidence = coalesce($7, t.tag_confidence),
        usage_count = least(coalesce(t.usage_count, 1), 2147483646) + 1,
        last_used = greatest(t.last_used, excluded.last_used)
)

UPDATE ltm_memories AS m
SET
    tags = (
        SELECT
            m.*  -- columns: with_tags
    ),
    version = m.version + 1,
    last_modified = timezone('utc', $3::timestamptz),
    dynamic_importance = ltm_dynamic_importance(m.importance_rank, $3)
FROM locked AS l
WHERE m.user_id = $1 AND m.id = l.id
RETURNING
    m.*,  -- columns: memory
    m.context_data::text AS enhanced_context,
    ltm_dynamic_importance(m.importance_rank, $3) AS dynamic_importance;

-- name: remove_tags(user_id bigint, memory_id bigint, now timestamptz, tag_names text[]) :one Memory
-- Take tags from a memory.
WITH
-- The rows are those that this statement's snapshot shows. Where another change came in between,
-- nothing is found, and the caller runs the statement again.
seen AS (
    SELECT m.version
    FROM ltm_memories AS m
    WHERE m.user_id = $1 AND m.id = $2
),

locked AS (
    SELECT m.id
    FROM ltm_memories AS m
    WHERE
        m.user_id = $1
        AND m.id = $2
        AND ltm_is_current(m.expires_at, $3)
        AND m.version = (SELECT s.version FROM seen AS s)
    FOR NO KEY UPDATE
),

untagged AS (
    DELETE FROM ltm_memory_tags AS t
    USING locked AS l
    WHERE
        t.user_id = $1
        AND t.memory_id = l.id
        -- An array in lower case: as text, so that it is not taken apart and put together again.
        AND ltm_lower(t.tag_name) = any(ltm_lower($4::text[]::text)::text[])
)

UPDATE ltm_memories AS m
SET
    tags = (
        SELECT coalesce(jsonb_agg(e.tag ORDER BY e.place), '[]')
        FROM unnest(ltm_tag_names(m.tags)) WITH ORDINALITY AS e (tag, place)
        WHERE NOT ltm_lower(e.tag) = any(ltm_lower($4::text[]::text)::text[])
    ),
    version = m.version + 1,
    last_modified = timezone('utc', $3::timestamptz),
    dynamic_importance = ltm_dynamic_importance(m.importance_rank, $3)
FROM locked AS l
WHERE m.user_id = $1 AND m.id = l.id
RETURNING
    m.*,  -- columns: memory
    m.context_data::text AS enhanced_context,
    ltm_dynamic_importance(m.importance_rank, $3) AS dynamic_importance;

-- name: memory_version(user_id bigint, memory_id bigint, as_of timestamptz) :one
-- The version of a memory, if there is one.
SELECT m.version
FROM ltm_memories AS m
WHERE m.user_id = $1 AND m.id = $2 AND ltm_is_current(m.expires_at, $3);

-- name: lock_tagged(user_id bigint, tag text, new_tag text, as_of timestamptz) :one
-- Lock the memories whose tag would be spelt anew, so that the next statement sees all their rows.
SELECT coalesce(array_agg(l.id), '{}') AS ids
FROM (
    SELECT m.id
    FROM ltm_memories AS m
    WHERE
        m.user_id = $1
        AND ltm_tag_terms(m.user_id, m.tags) @> ARRAY[$1::bigint || ':' || ltm_lower($2)]
        AND (ltm_lower($2) <> ltm_lower($3) OR NOT m.tags ? $3)
        AND ltm_is_current(m.expires_at, $4)
    ORDER BY m.id
    FOR NO KEY UPDATE
) AS l;

-- name: rename_tag(
--     user_id bigint, memory_ids bigint[], tag text, new_tag text, now timestamptz
-- ) :one
-- Give a tag of these memories another name; where they have that already, the two become one.
WITH outdated AS (
    SELECT
        o.id,
        o.usage_count,
        o.first_used,
        o.last_used,
        n.id AS new_id
    FROM ltm_memory_tags AS o
    LEFT JOIN ltm_memory_tags AS n
        ON
            n.user_id = $1
            AND n.memory_id = o.memory_id
            AND ltm_lower(n.tag_name) = ltm_lower($4)
            AND n.id <> o.id
    WHERE o.user_id = $1 AND o.memory_id = any($2) AND ltm_lower(o.tag_name) = ltm_lower($3)
),

merged AS (
    UPDATE ltm_memory_tags AS t
    SET
        tag_name = $4,
        usage_count = least(
            coalesce(t.usage_count, 1)::bigint + coalesce(o.usage_count, 1), 2147483647
        ),
        first_used = least(t.first_used, o.first_used),
        last_used = greatest(t.last_used, o.last_used)
    FROM outdated AS o
    WHERE t.user_id = $1 AND t.id = o.new_id
),

dropped AS (
    DELETE FROM ltm_memory_tags AS t
    USING outdated AS o
    WHERE t.user_id = $1 AND t.id = o.id AND o.new_id IS NOT NULL
),

renamed AS (
    UPDATE ltm_memory_tags AS t
    SET tag_name = $4
    FROM outdated AS o
    WHERE t.user_id = $1 AND t.id = o.id AND o.new_id IS NULL
),

respelt AS (
    UPDATE ltm_memories AS m
    SET
        tags = (
            SELECT jsonb_agg(x.tag ORDER BY x.place)
            FROM (
                SELECT DISTINCT ON (ltm_lower(y.tag) COLLATE "C")
                    y.tag,
                    y.place
                FROM (
                    SELECT
                        e.place,
                        CASE
                            WHEN ltm_lower(e.tag) IN (ltm_lower($3), ltm_lower($4)) THEN $4
                            ELSE e.tag
                        END AS tag
                    FROM jsonb_array_elements_text(m.tags) WITH ORDINALITY AS e (tag, place)
                ) AS y
                ORDER BY ltm_lower(y.tag) COLLATE "C" ASC, y.place ASC
            ) AS x
        ),
        version = m.version + 1,
        last_modified = timezone('utc', $5::timestamptz),
        dynamic_importance = ltm_dynamic_importance(m.importance_rank, $5)
    WHERE m.user_id = $1 AND m.id = any($2)
    RETURNING m.id
)

SELECT count(*) AS renamed FROM respelt;

-- columns: tag_use
-- How one spelling and category of a tag is used. First by these, which takes no sorting.
SELECT
    m.tag_name AS tag,
    coalesce(m.tag_category, 'general') AS tag_category,
    count(*) AS memories,
    sum(coalesce(m.usage_count, 1)) AS uses,
    sum(coalesce(m.tag_importance, 1)) AS importance,
    sum(coalesce(m.tag_confidence, 1)) AS confidence,
    min(m.first_used) AS first_used,
    max(m.last_used) AS last_used
FROM ltm_memory_tags AS m
GROUP BY m.tag_name, coalesce(m.tag_category, 'general');

-- columns: tag_usage
-- How a tag is used in all its spellings and categories.
SELECT
    (array_agg(m.tag ORDER BY m.memories DESC, m.tag COLLATE "C" ASC))[1] COLLATE "C" AS tag_name,
    sum(m.memories)::bigint AS memory_count,
    sum(m.uses)::bigint AS usage_count,
    (array_agg(m.tag_category ORDER BY m.memories DESC, m.tag_category COLLATE "C" ASC))[1]
        AS tag_category,
    sum(m.importance) / sum(m.memories)::double precision AS tag_importance,
    sum(m.confidence) / sum(m.memories)::double precision AS tag_confidence,
    timezone('utc', min(m.first_used)) AS first_used,
    timezone('utc', max(m.last_used)) AS last_used
FROM uses AS m
GROUP BY ltm_lower(m.tag);

-- name: list_tags(
--     user_id bigint, as_of timestamptz, tag_category text, row_limit bigint, memory_id bigint
-- ) :many Tag
-- The tags of a user's memories, or of one of them, the most frequent first.
SELECT
    x.*  -- columns: tag_usage
FROM (
    SELECT
        m.*  -- columns: tag_use
    FROM ltm_memory_tags AS m
    WHERE
        m.user_id = $1
        AND coalesce(m.tag_category, 'general') = $3  -- if tag_category
        AND m.memory_id = $5  -- if memory_id
        AND NOT EXISTS (
            SELECT 1
            FROM ltm_memories AS o
            WHERE o.user_id = $1 AND o.id = m.memory_id AND o.expires_at <= $2
        )
    GROUP BY m.tag_name, coalesce(m.tag_category, 'general')
) AS x
GROUP BY ltm_lower(x.tag)
ORDER BY sum(x.memories) DESC, tag_name ASC
LIMIT $4;

-- name: related_tags(
--     user_id bigint, tag text, as_of timestamptz, candidate_limit bigint, row_limit bigint
-- ) :many RelatedTag
-- The tags that stand beside a tag, by how much of all memories of either carry both.
WITH tagged AS MATERIALIZED (
    SELECT
        m.id,
        m.tags
    FROM ltm_memories AS m
    WHERE
        m.user_id = $1
        AND ltm_tag_terms(m.user_id, m.tags) @> ARRAY[$1::bigint || ':' || ltm_lower($2)]
        AND ltm_is_current(m.expires_at, $3)
),

beside AS MATERIALIZED (
    SELECT
        ltm_lower(e.tag) AS term,
        mode() WITHIN GROUP (ORDER BY e.tag COLLATE "C") AS tag_name,
        count(DISTINCT t.id) AS memory_count
    FROM tagged AS t
    CROSS JOIN LATERAL jsonb_array_elements_text(t.tags) AS e (tag)
    WHERE ltm_lower(e.tag) <> ltm_lower($2)
    GROUP BY ltm_lower(e.tag)
    ORDER BY count(DISTINCT t.id) DESC, ltm_lower(e.tag) COLLATE "C" ASC
    LIMIT $4
),

-- One scan of the index of tags for all of them.
totals AS (
    SELECT
        ltm_lower(e.tag) AS term,
        count(DISTINCT m.id) AS memories
    FROM ltm_memories AS m
    CROSS JOIN
        LATERAL jsonb_array_elements_text(ltm_as_array(m.tags)) AS e (tag)
    WHERE
        m.user_id = $1
        AND ltm_tag_terms(m.user_id, m.tags)
        && array(SELECT $1::bigint || ':' || b.term FROM beside AS b)
        AND ltm_is_current(m.expires_at, $3)
    GROUP BY ltm_lower(e.tag)
)

SELECT
    b.tag_name,
    b.memory_count,
    j.jaccard
FROM beside AS b
INNER JOIN totals AS t ON b.term = t.term
CROSS JOIN (SELECT count(*) AS memories FROM tagged) AS n
CROSS JOIN
    LATERAL (
        SELECT
            b.memory_count::double precision / (n.memories + t.memories - b.memory_count) AS jaccard
    ) AS j
ORDER BY j.jaccard DESC, b.memory_count DESC, b.tag_name COLLATE "C" ASC
LIMIT $5;
