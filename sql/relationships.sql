-- Relationships of memories: ltm_memory_relationships, and its mirror on the source memory.

-- columns: relationship
SELECT
    r.id,
    r.source_memory_id,
    r.target_memory_id,
    r.relationship_type,
    r.description,
    CASE WHEN o.id = r.target_memory_id THEN 'outgoing' ELSE 'incoming' END AS direction,
    coalesce(r.strength, 1) AS strength,
    r.created_at,
    ltm_memory_summary(o.id, o.content, o.memory_type, o.importance_score) AS related_memory
FROM ltm_memory_relationships AS r, ltm_memories AS o;

-- columns: relationship_row
SELECT
    m.id,
    m.source_memory_id,
    m.target_memory_id,
    m.relationship_type,
    m.description,
    m.direction,
    m.strength,
    m.created_at,
    m.related_memory::text AS related_memory
FROM ltm_memory_relationships AS m;

-- query: strongest_neighbours(user_id bigint, types text[])
-- Of the memory f: its f.fan_out strongest relationships of these types in each direction.
(
    SELECT
        r.target_memory_id AS id,
        coalesce(r.strength, 1) AS strength
    FROM ltm_memory_relationships AS r
    WHERE
        r.user_id = :user_id
        AND r.source_memory_id = f.id  -- noqa: RF01
        AND r.relationship_type = any(:types)  -- if types
    ORDER BY r.strength DESC, r.target_memory_id ASC
    LIMIT f.fan_out
)
UNION ALL
(
    SELECT
        r.source_memory_id AS id,
        coalesce(r.strength, 1) AS strength
    FROM ltm_memory_relationships AS r
    WHERE
        r.user_id = :user_id
        AND r.target_memory_id = f.id  -- noqa: RF01
        AND r.relationship_type = any(:types)  -- if types
    ORDER BY r.strength DESC, r.source_memory_id ASC
    LIMIT f.fan_out
);

-- query: relationships_of(user_id bigint, as_of timestamptz)
-- Of the memory m, in both directions, strongest first.
SELECT
    r.*  -- columns: relationship
FROM ltm_memory_relationships AS r
INNER JOIN ltm_memories AS o
    ON
        o.user_id = :user_id
        AND o.id = CASE
            WHEN r.source_memory_id = m.id THEN r.target_memory_id  -- noqa: RF01
            ELSE r.source_memory_id
        END
        AND ltm_is_current(o.expires_at, :as_of)
WHERE
    r.user_id = :user_id
    AND (r.source_memory_id = m.id OR r.target_memory_id = m.id)  -- noqa: RF01
ORDER BY r.strength DESC NULLS FIRST, r.id ASC
LIMIT 10000;

-- query: both_ends(
--     user_id bigint, source_memory_id bigint, target_memory_id bigint, now timestamptz
-- )
SELECT
    m.id,
    m.related_memory_ids
FROM ltm_memories AS m
WHERE
    m.user_id = :user_id
    AND m.id IN (:source_memory_id, :target_memory_id)
    AND ltm_is_current(m.expires_at, :now);

-- name: relate(
--     user_id bigint, source_memory_id bigint, target_memory_id bigint, now timestamptz,
--     relationship_type varchar, strength double precision, description text
-- ) :one Relationship
-- Make a relationship, or give the one that is there this strength and description.
WITH ends AS (
    SELECT NULL  -- query: both_ends
    ORDER BY id
    FOR NO KEY UPDATE
),

mirrored AS (
    UPDATE ltm_memories AS m
    SET
        related_memory_ids = CASE
            WHEN jsonb_typeof(e.related_memory_ids) = 'array'
                THEN e.related_memory_ids || $3::bigint::text::jsonb
            ELSE ('[' || $3::bigint::text || ']')::jsonb
        END
    FROM ends AS e
    WHERE
        m.user_id = $1
        AND m.id = $2
        AND e.id = $2
        AND (SELECT count(*) FROM ends) = 2
        -- As it is now that it is locked, not as it was when the statement began.
        AND e.related_memory_ids @> to_jsonb($3) IS NOT TRUE
),

related AS (
    INSERT INTO ltm_memory_relationships AS r (
        user_id, source_memory_id, target_memory_id, relationship_type, strength, description,
        created_at
    )
    SELECT
        $1,
        $2,
        $3,
        $5,
        $6,
        $7,
        timezone('utc', $4::timestamptz)
    WHERE
        TRUE
        AND (SELECT count(*) FROM ends) = 2  -- if not distributed
        -- if distributed
        -- Not what another part has read, which Citus would send to all nodes.
        AND (
            SELECT count(*)
            FROM (
                SELECT NULL  -- query: both_ends
            ) AS b
        ) = 2
        -- end if
    ON CONFLICT (user_id, source_memory_id, target_memory_id, relationship_type)
    DO UPDATE SET strength = excluded.strength, description = excluded.description
    RETURNING
        r.id,
        r.source_memory_id,
        r.target_memory_id,
        r.relationship_type,
        r.strength,
        r.description,
        r.created_at
)

SELECT
    l.*  -- columns: relationship_row
FROM (
    SELECT
        r.*  -- columns: relationship
    FROM related AS r
    INNER JOIN ltm_memories AS o ON o.user_id = $1 AND o.id = r.target_memory_id
) AS l;

-- name: lock_source(user_id bigint, memory_id bigint) :one
-- Lock a memory, so that the next statement sees every relationship that another one made from it.
SELECT m.id
FROM ltm_memories AS m
WHERE m.user_id = $1 AND m.id = $2
FOR NO KEY UPDATE;

-- name: unrelate(
--     user_id bigint, source_memory_id bigint, target_memory_id bigint, relationship_type text
-- ) :one
-- Remove the relationship of this type, or every relationship from source to target; tell how many.
WITH unrelated AS (
    DELETE FROM ltm_memory_relationships AS r
    WHERE
        r.user_id = $1
        AND r.source_memory_id = $2
        AND r.target_memory_id = $3
        AND ($4::text IS NULL OR r.relationship_type = $4)
    RETURNING r.id
),

mirrored AS (
    UPDATE ltm_memories AS m
    SET
        related_memory_ids = jsonb_path_query_array(
            m.related_memory_ids, '$[*] ? (@ != $gone)', jsonb_build_object('gone', $3)
        )
    WHERE
        m.user_id = $1
        AND m.id = $2
        AND jsonb_typeof(m.related_memory_ids) = 'array'
        AND EXISTS (SELECT 1 FROM unrelated)
        AND NOT EXISTS (
            SELECT 1
            FROM ltm_memory_relationships AS r
            WHERE
                r.user_id = $1
                AND r.source_memory_id = $2
                AND r.target_memory_id = $3
                AND r.relationship_type <> $4
        )
)

SELECT count(*) AS removed FROM unrelated;

-- name: get_relationships(user_id bigint, memory_id bigint, as_of timestamptz) :many Relationship
-- The relationships that leave a memory or arrive at it, strongest first.
SELECT
    l.*  -- columns: relationship_row
FROM ltm_memories AS m
CROSS JOIN
    LATERAL (
        SELECT NULL  -- query: relationships_of
    ) AS l
WHERE m.user_id = $1 AND m.id = $2 AND ltm_is_current(m.expires_at, $3)
ORDER BY l.strength DESC, l.id ASC
LIMIT 10000;

-- name: get_relationships_of_many(
--     user_id bigint, memory_ids bigint[], as_of timestamptz
-- ) :many RelationshipOf
-- The same for several memories at once, each with the memory that it is seen from.
SELECT
    m.id AS memory_id,
    l.*  -- columns: relationship_row
FROM ltm_memories AS m
CROSS JOIN
    LATERAL (
        SELECT NULL  -- query: relationships_of
    ) AS l
WHERE m.user_id = $1 AND m.id = any($2) AND ltm_is_current(m.expires_at, $3)
ORDER BY m.id ASC, l.strength DESC, l.id ASC
LIMIT 10000 * cardinality($2);

-- name: traverse(
--     user_id bigint, memory_id bigint, as_of timestamptz, depth integer,
--     min_strength double precision, row_limit bigint
-- ) :many ReachedMemory
-- The memories around one, nearest first, each by its shortest path and of those by the strongest.
-- levels has one row a level, so that a level sees all that was reached before. Of each memory f of the
-- last level it follows as many of the strongest relationships k as fill the limit beside those back;
-- e holds what they lead to and what was reached, b the new ones, c those that have not expired, x the
-- level. In the end each level's arrays are taken apart again.
WITH RECURSIVE levels AS (
    SELECT
        0 AS depth,
        ARRAY[m.id] AS ids,
        ARRAY[1::double precision] AS strengths,
        ARRAY[ARRAY[m.id]] AS paths,
        ARRAY[m.id] AS seen
    FROM ltm_memories AS m
    WHERE m.user_id = $1 AND m.id = $2 AND ltm_is_current(m.expires_at, $3)
    UNION ALL
    SELECT
        l.depth + 1 AS depth,
        n.ids,
        n.strengths,
        n.paths,
        l.seen || n.ids AS seen
    FROM levels AS l
    CROSS JOIN
        LATERAL (
            SELECT
                array_agg(x.id ORDER BY x.strength DESC, x.id ASC) AS ids,
                array_agg(x.strength ORDER BY x.strength DESC, x.id ASC) AS strengths,
                array_agg(
                    array(SELECT unnest(l.paths[x.place:x.place])) || x.id
                    ORDER BY x.strength DESC, x.id ASC
                ) AS paths
            FROM (
                SELECT
                    c.id,
                    c.strength,
                    c.place
                FROM (
                    SELECT
                        b.id,
                        b.strength,
                        b.place
                    FROM (
                        SELECT DISTINCT ON (e.id)
                            e.id,
                            e.strength,
                            e.place
                        FROM (
                            SELECT
                                k.id,
                                ltm_path_strength(f.strength, k.strength) AS strength,
                                f.place
                            FROM (
                                SELECT
                                    u.id,
                                    u.strength,
                                    u.place,
                                    2 * $6::bigint + 100 AS fan_out
                                FROM
                                    unnest(l.ids, l.strengths) WITH ORDINALITY
                                        AS u (id, strength, place)
                            ) AS f
                            CROSS JOIN
                                LATERAL (
                                    SELECT NULL  -- query: strongest_neighbours
                                ) AS k
                            WHERE $5::double precision IS NULL OR k.strength >= $5
                            UNION ALL
                            SELECT
                                s.id,
                                NULL AS strength,
                                NULL AS place
                            FROM unnest(l.seen) AS s (id)
                        ) AS e
                        ORDER BY e.id ASC, e.strength DESC NULLS FIRST, e.place ASC
                    ) AS b
                    WHERE b.place IS NOT NULL
                    ORDER BY b.strength DESC, b.id ASC
                    OFFSET 0  -- looks at the memories one by one, until the level is full
                ) AS c
                WHERE (
                    SELECT ltm_is_current(m.expires_at, $3)
                    FROM ltm_memories AS m
                    WHERE m.user_id = $1 AND m.id = c.id
                )
                ORDER BY c.strength DESC, c.id ASC
                LIMIT $6
            ) AS x
        ) AS n
    WHERE l.depth < $4 AND cardinality(l.seen) <= $6 AND n.ids IS NOT NULL
)

SELECT
    l.depth,
    f.strength AS path_strength,
    p.path,
    ltm_memory_summary(m.id, m.content, m.memory_type, m.importance_score)::text AS related_memory
FROM levels AS l
CROSS JOIN unnest(l.ids, l.strengths) WITH ORDINALITY AS f (id, strength, place)
-- A join, so that not all paths of a level are sorted with each memory.
CROSS JOIN
    LATERAL (
        SELECT array_agg(s.id ORDER BY s.step) AS path
        FROM unnest(l.paths[f.place:f.place]) WITH ORDINALITY AS s (id, step)
    ) AS p
INNER JOIN ltm_memories AS m ON m.user_id = $1 AND m.id = f.id
WHERE l.depth > 0
ORDER BY l.depth ASC, f.strength DESC, f.id ASC
LIMIT $6;

-- name: shortest_path(
--     user_id bigint, source_memory_id bigint, target_memory_id bigint, as_of timestamptz,
--     max_depth integer, min_strength double precision, memory_limit bigint, relationship_limit bigint,
--     types text[]
-- ) :one MemoryPath
-- The path of the fewest relationships between two memories, of those the strongest.
-- levels has one row a step: it takes the side that has reached fewer memories one level further, until
-- both have reached the same memory, the meeting. walked goes back from there to both ends by the noted
-- parents; crossing is where the two ways touch first, and placed puts the memories of both in one order.
WITH RECURSIVE levels AS (
    SELECT
        0 AS source_depth,
        0 AS target_depth,
        NULL::boolean AS is_source,
        NULL::bigint[] AS ids,
        NULL::bigint[] AS parents,
        ARRAY[s.id] AS source_ids,
        ARRAY[1::double precision] AS source_strengths,
        ARRAY[s.id] AS source_seen,
        ARRAY[t.id] AS target_ids,
        ARRAY[1::double precision] AS target_strengths,
        ARRAY[t.id] AS target_seen,
        CASE WHEN s.id = t.id THEN s.id END AS meeting
    FROM ltm_memories AS s
    CROSS JOIN ltm_memories AS t
    WHERE
        s.user_id = $1
        AND s.id = $2
        AND ltm_is_current(s.expires_at, $4)
        AND t.user_id = $1
        AND t.id = $3
        AND ltm_is_current(t.expires_at, $4)
    UNION ALL
    SELECT
        l.source_depth + d.is_source::integer AS source_depth,
        l.target_depth + 1 - d.is_source::integer AS target_depth,
        d.is_source,
        n.ids,
        n.parents,
        CASE WHEN d.is_source THEN n.ids ELSE l.source_ids END AS source_ids,
        CASE WHEN d.is_source THEN n.strengths ELSE l.source_strengths END AS source_strengths,
        CASE WHEN d.is_source THEN l.source_seen || n.ids ELSE l.source_seen END AS source_seen,
        CASE WHEN d.is_source THEN l.target_ids ELSE n.ids END AS target_ids,
        CASE WHEN d.is_source THEN l.target_strengths ELSE n.strengths END AS target_strengths,
        CASE WHEN d.is_source THEN l.target_seen ELSE l.target_seen || n.ids END AS target_seen,
        n.meeting
    FROM levels AS l
    CROSS JOIN
        LATERAL (
            SELECT cardinality(l.source_ids) <= cardinality(l.target_ids) AS is_source
        ) AS d
    CROSS JOIN
        LATERAL (
            SELECT
                CASE WHEN d.is_source THEN l.source_ids ELSE l.target_ids END AS ids,
                CASE WHEN d.is_source THEN l.source_strengths ELSE l.target_strengths END
                    AS strengths,
                CASE WHEN d.is_source THEN l.source_seen ELSE l.target_seen END AS seen,
                CASE WHEN d.is_source THEN l.target_ids ELSE l.source_ids END AS far_ids,
                CASE WHEN d.is_source THEN l.target_strengths ELSE l.source_strengths END
                    AS far_strengths
        ) AS a
    CROSS JOIN
        LATERAL (
            SELECT
                array_agg(x.id ORDER BY x.strength DESC, x.id ASC) AS ids,
                array_agg(x.strength ORDER BY x.strength DESC, x.id ASC) AS strengths,
                array_agg(x.parent ORDER BY x.strength DESC, x.id ASC) AS parents,
                (
                    array_agg(
                        x.id ORDER BY ltm_path_strength(x.strength, x.far_strength) DESC, x.id ASC
                    )
                    FILTER (WHERE x.is_met)
                )[1] AS meeting
            FROM (
                SELECT
                    b.id,
                    b.strength,
                    b.parent,
                    b.far_strength,
                    CASE WHEN b.far_strength IS NOT NULL THEN (
                        SELECT ltm_is_current(m.expires_at, $4)
                        FROM ltm_memories AS m
                        WHERE m.user_id = $1 AND m.id = b.id
                    ) END AS is_met
                FROM (
                    SELECT
                        e.id,
                        max(e.strength) AS strength,
                        max(e.far_strength) AS far_strength,
                        (array_agg(e.parent ORDER BY e.strength DESC NULLS LAST, e.place ASC))[1]
                            AS parent
                    FROM (
                        SELECT
                            k.id,
                            ltm_path_strength(f.strength, k.strength) AS strength,
                            f.id AS parent,
                            f.place,
                            NULL::double precision AS far_strength,
                            FALSE AS is_seen
                        FROM (
                            SELECT
                                g.id,
                                g.strength,
                                g.place,
                                $8 / least(cardinality(a.ids), $7::bigint) AS fan_out
                            FROM
                                unnest(a.ids, a.strengths) WITH ORDINALITY
                                    AS g (id, strength, place)
                            WHERE (
                                SELECT ltm_is_current(m.expires_at, $4)
                                FROM ltm_memories AS m
                                WHERE m.user_id = $1 AND m.id = g.id
                            )
                            ORDER BY g.place
                            LIMIT $7
                        ) AS f
                        CROSS JOIN
                            LATERAL (
                                SELECT NULL  -- query: strongest_neighbours
                            ) AS k
                        WHERE $6::double precision IS NULL OR k.strength >= $6
                        UNION ALL
                        SELECT
                            s.id,
                            NULL AS strength,
                            NULL AS parent,
                            NULL AS place,
                            NULL AS far_strength,
                            TRUE AS is_seen
                        FROM unnest(a.seen) AS s (id)
                        UNION ALL
                        SELECT
                            s.id,
                            NULL AS strength,
                            NULL AS parent,
                            NULL AS place,
                            s.far_strength,
                            FALSE AS is_seen
                        FROM unnest(a.far_ids, a.far_strengths) AS s (id, far_strength)
                    ) AS e
                    GROUP BY e.id
                    HAVING NOT bool_or(e.is_seen) AND count(e.strength) > 0
                ) AS b
            ) AS x
        ) AS n
    WHERE
        l.source_depth + l.target_depth < $5
        AND l.meeting IS NULL
        AND n.ids IS NOT NULL
),

walked AS (
    SELECT
        l.meeting AS id,
        w.is_source,
        CASE WHEN w.is_source THEN l.source_depth ELSE l.target_depth END AS depth
    FROM levels AS l
    CROSS JOIN (VALUES (TRUE), (FALSE)) AS w (is_source)
    WHERE l.meeting IS NOT NULL
    UNION ALL
    SELECT
        l.parents[array_position(l.ids, w.id)] AS id,
        w.is_source,
        w.depth - 1 AS depth
    FROM walked AS w
    INNER JOIN levels AS l
        ON
            w.is_source = l.is_source
            AND w.depth = CASE WHEN w.is_source THEN l.source_depth ELSE l.target_depth END
    WHERE w.depth > 0
),

-- Where the sides met; a memory before that on both (some relationships are left out) is a short cut.
crossing AS (
    SELECT
        s.depth AS source_depth,
        t.depth AS target_depth
    FROM walked AS s
    INNER JOIN walked AS t ON s.id = t.id AND s.is_source AND NOT t.is_source
    ORDER BY s.depth
    LIMIT 1
),

placed AS (
    SELECT
        w.id,
        CASE WHEN w.is_source THEN w.depth ELSE c.source_depth + c.target_depth - w.depth END
            AS place
    FROM walked AS w
    CROSS JOIN crossing AS c
    WHERE
        (w.is_source AND w.depth <= c.source_depth)
        OR (NOT w.is_source AND w.depth < c.target_depth)
)

SELECT
    array_agg(p.id ORDER BY p.place) AS path,
    coalesce(json_agg(s ORDER BY p.place) FILTER (WHERE s.id IS NOT NULL), '[]')::text AS steps
FROM placed AS p
LEFT JOIN placed AS b ON p.place = b.place + 1
LEFT JOIN
    LATERAL (
        SELECT
            r.*  -- columns: relationship
        FROM ltm_memory_relationships AS r
        INNER JOIN ltm_memories AS o ON o.user_id = $1 AND o.id = p.id
        WHERE
            r.user_id = $1
            AND (
                (r.source_memory_id = b.id AND r.target_memory_id = p.id)
                OR (r.source_memory_id = p.id AND r.target_memory_id = b.id)
            )
            AND r.relationship_type = any($9)  -- if types
        ORDER BY r.strength DESC, r.id ASC
        LIMIT 1
    ) AS s
    ON TRUE
HAVING count(*) > 0;

-- name: suggest_relationships(
--     user_id bigint, memory_id bigint, as_of timestamptz, holder_limit bigint, word_limit bigint,
--     row_limit bigint, model text, near_limit bigint
-- ) :many Suggestion
-- Memories that share with one what few memories of the user have, those that share the most first.
-- features are the tags, people, words and source of the memory; holders are the memories that have
-- each, found through its own index; rare weighs the features that few hold; scored adds up what each
-- other memory shares. near is what means much the same as few others do, which counts as much as what
-- so few share. The last step leaves out those that are related already.
-- needs: embeddings if model
WITH origin AS MATERIALIZED (
    SELECT
        m.tags,
        m.source_id,
        m.content_hash,
        m.search_vector,
        m.context_data #> '{social,participants}' AS participants
    FROM ltm_memories AS m
    WHERE m.user_id = $1 AND m.id = $2 AND ltm_is_current(m.expires_at, $3)
),

features AS MATERIALIZED (
    SELECT
        'tag' AS kind,
        ltm_lower(e.tag) AS term,
        min(e.tag COLLATE "C") AS shown
    FROM origin AS o
    CROSS JOIN
        LATERAL jsonb_array_elements_text(ltm_as_array(o.tags)) AS e (tag)
    GROUP BY ltm_lower(e.tag)
    UNION ALL
    SELECT
        'participant' AS kind,
        e.participant AS term,
        e.participant AS shown
    FROM origin AS o
    CROSS JOIN
        LATERAL jsonb_array_elements_text(ltm_as_array(o.participants)) AS e (participant)
    GROUP BY e.participant
    UNION ALL
    (
        SELECT
            'word' AS kind,
            u.lexeme AS term,
            u.lexeme AS shown
        FROM origin AS o CROSS JOIN unnest(ts_filter(o.search_vector, '{a}')) AS u
        ORDER BY u.positions[1], u.lexeme COLLATE "C"
        LIMIT $5
    )
    UNION ALL
    SELECT
        'source' AS kind,
        o.source_id AS term,
        o.source_id AS shown
    FROM origin AS o
    WHERE o.source_id IS NOT NULL
),

-- Each kind through its own index, and no further than it takes to see that many have it.
holders AS MATERIALIZED (
    SELECT
        f.kind,
        f.term,
        h.id
    FROM features AS f
    CROSS JOIN
        LATERAL (
            SELECT m.id
            FROM ltm_memories AS m
            WHERE
                m.user_id = $1
                AND ltm_tag_terms(m.user_id, m.tags) @> ARRAY[$1::bigint || ':' || f.term]
            LIMIT $4::bigint + 1
        ) AS h
    WHERE f.kind = 'tag'
    UNION ALL
    SELECT
        f.kind,
        f.term,
        h.id
    FROM features AS f
    CROSS JOIN
        LATERAL (
            SELECT m.id
            FROM ltm_memories AS m
            WHERE
                m.user_id = $1
                AND ltm_user_context(m.user_id, m.context_data) @> jsonb_build_object(
                    $1::bigint::text,
                    jsonb_build_object(
                        'social', jsonb_build_object('participants', jsonb_build_array(f.term))
                    )
                )
            LIMIT $4::bigint + 1
        ) AS h
    WHERE f.kind = 'participant'
    UNION ALL
    SELECT
        f.kind,
        f.term,
        h.id
    FROM features AS f
    CROSS JOIN
        LATERAL (
            SELECT m.id
            FROM ltm_memories AS m
            WHERE
                m.user_id = $1
                AND ltm_search_terms(m.user_id, m.search_vector)
                @@ ltm_any_term($1, ARRAY[f.term])
            LIMIT $4::bigint + 1
        ) AS h
    WHERE f.kind = 'word'
    UNION ALL
    SELECT
        f.kind,
        f.term,
        h.id
    FROM features AS f
    CROSS JOIN
        LATERAL (
            SELECT m.id
            FROM ltm_memories AS m
            WHERE m.user_id = $1 AND m.source_id = f.term
            LIMIT $4::bigint + 1
        ) AS h
    WHERE f.kind = 'source'
),

size AS MATERIALIZED (
    SELECT NULL  -- query: user_size
),

rare AS MATERIALIZED (
    SELECT
        f.kind,
        f.term,
        f.shown,
        CASE f.kind WHEN 'word' THEN 0.5 ELSE 1 END::double precision
        * ltm_idf(n.memories, h.holders) AS weight
    FROM features AS f
    INNER JOIN (
        SELECT
            w.kind,
            w.term,
            count(*) AS holders
        FROM holders AS w
        GROUP BY w.kind, w.term
        HAVING count(*) <= $4
    ) AS h
        ON f.kind = h.kind AND f.term = h.term
    CROSS JOIN size AS n
),

scored AS MATERIALIZED (
    SELECT
        h.id,
        sum(r.weight ORDER BY r.kind COLLATE "C", r.term COLLATE "C") AS score,
        max(r.shown COLLATE "C") FILTER (WHERE r.kind = 'source') AS source_id,
        array_agg(r.shown ORDER BY r.term COLLATE "C") FILTER (WHERE r.kind = 'tag') AS tags,
        array_agg(r.shown ORDER BY r.term COLLATE "C") FILTER (WHERE r.kind = 'participant')
            AS participants,
        array_agg(r.shown ORDER BY r.term COLLATE "C") FILTER (WHERE r.kind = 'word') AS words
    FROM holders AS h
    INNER JOIN rare AS r ON h.kind = r.kind AND h.term = r.term
    WHERE h.id <> $2
    GROUP BY h.id
),

-- if model
measured AS MATERIALIZED (
    SELECT
        d.id,
        d.content_hash,
        max(d.meaning_score) AS meaning_score
    FROM (
        SELECT
            e.memory_id AS id,
            e.content_hash,
            ltm_cosine(e.embedding, p.embedding) AS meaning_score
        FROM ltm_embeddings AS p
        INNER JOIN ltm_embeddings AS e
            ON e.user_id = $1 AND p.model = e.model AND p.dimensions = e.dimensions
        WHERE
            p.user_id = $1
            AND p.memory_id = $2
            AND p.model = $7
            AND p.part = 0
            AND p.content_hash = (SELECT o.content_hash FROM origin AS o)
            AND e.memory_id <> $2
        OFFSET 0  -- else whole vectors are grouped
    ) AS d
    GROUP BY d.id, d.content_hash
),

-- How near is near differs between models: what stands out by three standard deviations.
near AS MATERIALIZED (
    SELECT
        d.id,
        d.meaning_score,
        ltm_idf((SELECT n.memories FROM size AS n), $8) AS weight
    FROM measured AS d
    WHERE
        d.meaning_score >= least(
            (SELECT avg(c.meaning_score) + 3 * stddev_pop(c.meaning_score) FROM measured AS c), 0.9
        )
        AND d.content_hash = (
            SELECT m.content_hash FROM ltm_memories AS m
            WHERE
                m.user_id = $1
                AND m.id = d.id
                AND m.is_archived IS NOT TRUE
                AND ltm_is_current(m.expires_at, $3)
        )
    ORDER BY d.meaning_score DESC, d.id DESC
    LIMIT $8
),
-- end if

suggested AS (
    SELECT
        s.*,
        NULL::double precision AS meaning_score
    FROM scored AS s
    -- if model
    WHERE FALSE
    UNION ALL
    SELECT
        coalesce(s.id, n.id) AS id,
        coalesce(s.score, 0) + coalesce(n.weight * n.meaning_score, 0) AS score,
        s.source_id,
        s.tags,
        s.participants,
        s.words,
        n.meaning_score
    FROM scored AS s
    FULL JOIN near AS n ON s.id = n.id
    -- end if
)

SELECT
    s.score,
    s.source_id,
    s.meaning_score,
    coalesce(s.tags, '{}') AS tags,
    coalesce(s.participants, '{}') AS participants,
    coalesce(s.words, '{}') AS words,
    ltm_memory_summary(m.id, m.content, m.memory_type, m.importance_score)::text AS related_memory
FROM suggested AS s
INNER JOIN ltm_memories AS m ON m.user_id = $1 AND m.id = s.id
WHERE
    m.is_archived IS NOT TRUE
    AND ltm_is_current(m.expires_at, $3)
    AND NOT EXISTS (
        SELECT 1
        FROM ltm_memory_relationships AS r
        WHERE
            r.user_id = $1
            AND (
                (r.source_memory_id = $2 AND r.target_memory_id = s.id)
                OR (r.source_memory_id = s.id AND r.target_memory_id = $2)
            )
    )
ORDER BY s.score DESC, s.id DESC
LIMIT $6;
