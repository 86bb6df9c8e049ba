-- The rows of the original tables as they can stand under our rules, and how they are carried over.
-- The views original_* show the original tables, whatever their shape, with the columns that we know.

CREATE VIEW repaired_memories AS
SELECT
    o.id,
    o.user_id,
    CASE
        WHEN o.content IS NULL THEN ''
        WHEN octet_length(o.content) <= 1048576 THEN o.content
        WHEN octet_length(left(o.content, 1048576)) <= 1048576 THEN left(o.content, 1048576)
        ELSE left(o.content, 262144)
    END AS content,
    CASE
        WHEN coalesce(jsonb_typeof(o.tags), 'null') = 'null' THEN o.tags
        ELSE clean_tags(o.tags, NULL)
    END AS tags,
    left(o.memory_type, 50) AS memory_type,
    left(o.category, 100) AS category,
    CASE
        WHEN o.importance_score < 1 THEN 1 WHEN o.importance_score > 10 THEN 10
        ELSE o.importance_score
    END AS importance_score,
    fraction(o.confidence_score) AS confidence_score,
    finite(o.dynamic_importance, 1.7976931348623157e308) AS dynamic_importance,
    o.context,
    CASE WHEN context_fits(c.whole) THEN c.whole END AS context_data,
    left(o.source_type, 50) AS source_type,
    left(o.source_id, 255) AS source_id,
    left(o.created_by, 50) AS created_by,
    a_day(o.created_at) AS created_at,
    a_day(o.last_accessed) AS last_accessed,
    a_day(o.last_modified) AS last_modified,
    CASE
        WHEN o.access_count < 0 THEN 0 WHEN o.access_count > 2147483647 THEN 2147483647
        ELSE o.access_count
    END AS access_count,
    o.last_access_context,
    CASE
        WHEN r.ids IS NOT NULL THEN r.ids
        WHEN coalesce(jsonb_typeof(o.related_memory_ids), 'null') = 'null'
            THEN o.related_memory_ids
        ELSE '[]'
    END AS related_memory_ids,
    p.id AS parent_memory_id,
    CASE
        WHEN
            octet_length(o.memory_metadata::text) > 262144
            OR jsonb_path_exists(o.memory_metadata, 'strict $.**{33}')
            THEN NULL
        ELSE o.memory_metadata
    END AS memory_metadata,
    o.is_archived,
    o.archive_reason
FROM original_memories AS o
LEFT JOIN original_memories AS p
    ON p.id = o.parent_memory_id AND p.user_id = o.user_id AND p.id <> o.id
CROSS JOIN
    LATERAL (
        SELECT jsonb_agg(e.id ORDER BY e.place) AS ids
        FROM (
            SELECT
                q.id,
                min(w.place) AS place
            FROM (
                SELECT
                    CASE WHEN e.value ~ '^[0-9]{1,18}$' THEN e.value::bigint END AS id,
                    e.place
                FROM jsonb_array_elements_text(
                    CASE jsonb_typeof(o.related_memory_ids)
                        WHEN 'array' THEN o.related_memory_ids ELSE '[]'
                    END
                ) WITH ORDINALITY AS e (value, place)
            ) AS w
            INNER JOIN original_memories AS q
                ON q.id = w.id AND q.user_id = o.user_id AND q.id <> o.id
            GROUP BY q.id
        ) AS e
    ) AS r
CROSS JOIN LATERAL (
    SELECT CASE
        WHEN coalesce(jsonb_typeof(o.context_data), 'null') IN ('null', 'object')
            THEN o.context_data
        ELSE complete_context(o.context_data, '[]')
    END AS whole
) AS c;

CREATE VIEW repaired_contexts AS
SELECT
    c.id,
    m.user_id,
    c.memory_id,
    left(coalesce(c.context_type, 'custom'), 50) AS context_type,
    left(coalesce(c.context_key, 'value'), 100) AS context_key,
    c.context_value,
    fraction(c.confidence) AS confidence,
    a_day(c.created_at) AS created_at
FROM original_contexts AS c
INNER JOIN original_memories AS m ON m.id = c.memory_id;

CREATE VIEW repaired_relationships AS
SELECT
    k.id,
    k.user_id,
    k.source_memory_id,
    k.target_memory_id,
    k.relationship_type,
    k.strength,
    k.description,
    k.created_at,
    k.last_accessed
FROM (
    SELECT
        r.id,
        m.user_id,
        r.source_memory_id,
        r.target_memory_id,
        left(coalesce(r.relationship_type, 'related'), 50) AS relationship_type,
        fraction(r.strength) AS strength,
        r.description,
        a_day(r.created_at) AS created_at,
        a_day(r.last_accessed) AS last_accessed,
        row_number() OVER (
            PARTITION BY
                r.source_memory_id, r.target_memory_id,
                left(coalesce(r.relationship_type, 'related'), 50)
            ORDER BY r.id
        ) AS place
    FROM original_relationships AS r
    INNER JOIN original_memories AS m ON m.id = r.source_memory_id
    INNER JOIN original_memories AS n ON n.id = r.target_memory_id AND n.user_id = m.user_id
    WHERE r.source_memory_id <> r.target_memory_id
) AS k
WHERE k.place = 1;

CREATE VIEW repaired_accesses AS
SELECT
    a.id,
    m.user_id,
    a.memory_id,
    a_day(a.access_timestamp) AS access_timestamp,
    a.access_context,
    left(a.access_method, 50) AS access_method,
    a.user_query,
    a.was_relevant,
    fraction(a.relevance_score) AS relevance_score
FROM original_accesses AS a
INNER JOIN original_memories AS m ON m.id = a.memory_id;

CREATE VIEW repaired_tags AS
SELECT
    k.id,
    k.user_id,
    k.memory_id,
    k.tag_name,
    k.tag_category,
    k.tag_importance,
    k.tag_confidence,
    k.usage_count,
    k.first_used,
    k.last_used
FROM (
    SELECT
        t.id,
        m.user_id,
        t.memory_id,
        n.tag_name,
        left(t.tag_category, 50) AS tag_category,
        finite(t.tag_importance, 1e100) AS tag_importance,
        fraction(t.tag_confidence) AS tag_confidence,
        CASE
            WHEN t.usage_count < 0 THEN 0 WHEN t.usage_count > 2147483647 THEN 2147483647
            ELSE t.usage_count
        END AS usage_count,
        a_day(t.first_used) AS first_used,
        a_day(t.last_used) AS last_used,
        row_number() OVER (PARTITION BY t.memory_id, ltm_lower(n.tag_name) ORDER BY t.id) AS place
    FROM original_tags AS t
    INNER JOIN original_memories AS m ON m.id = t.memory_id
    CROSS JOIN
        LATERAL (
            SELECT clean_tags('[]', ARRAY[t.tag_name]) ->> 0 AS tag_name
        ) AS n
    WHERE n.tag_name IS NOT NULL
) AS k
WHERE k.place = 1;

-- The rows of details that a memory's own columns ask for and that nobody wrote.
CREATE FUNCTION complete_details(ids bigint[]) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO ltm_memory_tags (id, user_id, memory_id, tag_name, first_used, last_used)
    SELECT ltm_adoption.next_id('ltm_memory_tags'), m.user_id, m.id, t.tag, m.created_at, m.created_at
    FROM ltm_memories AS m
    CROSS JOIN LATERAL jsonb_array_elements_text(
        CASE jsonb_typeof(m.tags) WHEN 'array' THEN m.tags ELSE '[]' END
    ) AS t (tag)
    WHERE m.id = ANY(ids) AND NOT EXISTS (
        SELECT 1 FROM ltm_memory_tags AS w
        WHERE w.user_id = m.user_id AND w.memory_id = m.id AND ltm_lower(w.tag_name) = ltm_lower(t.tag)
    )
    ON CONFLICT DO NOTHING;

    INSERT INTO ltm_memory_relationships (
        id, user_id, source_memory_id, target_memory_id, relationship_type, strength, created_at
    )
    SELECT
        ltm_adoption.next_id('ltm_memory_relationships'), m.user_id, m.id, e.id::bigint, 'related',
        0.5, m.created_at
    FROM ltm_memories AS m
    CROSS JOIN LATERAL jsonb_array_elements_text(
        CASE jsonb_typeof(m.related_memory_ids) WHEN 'array' THEN m.related_memory_ids ELSE '[]' END
    ) AS e (id)
    WHERE m.id = ANY(ids) AND e.id ~ '^[0-9]{1,18}$' AND e.id <> m.id::text
        AND EXISTS (
            SELECT 1 FROM ltm_memories AS o WHERE o.user_id = m.user_id AND o.id = e.id::bigint
            OFFSET 0 -- else all memories of the user may be read before the few ids
        )
        AND NOT EXISTS (
            SELECT 1 FROM ltm_memory_relationships AS w
            WHERE w.user_id = m.user_id AND w.source_memory_id = m.id
                AND w.target_memory_id = e.id::bigint
        )
    ON CONFLICT DO NOTHING;

    INSERT INTO ltm_contexts (
        id, user_id, memory_id, context_type, context_key, context_value, confidence, created_at
    )
    SELECT
        ltm_adoption.next_id('ltm_contexts'), m.user_id, m.id, left(f.section, 50),
        left(f.field, 100), f.value #>> '{}', fraction(f.confidence), m.created_at
    FROM ltm_memories AS m
    CROSS JOIN LATERAL (
        SELECT
            s.section,
            l.field,
            l.value,
            CASE jsonb_typeof(s.value -> 'confidence')
                WHEN 'number'
                    THEN least(greatest((s.value ->> 'confidence')::numeric, 0), 1)
                ELSE 1
            END::double precision AS confidence
        FROM jsonb_each(
            CASE jsonb_typeof(m.context_data) WHEN 'object' THEN m.context_data ELSE '{}' END
        ) AS s (section, value)
        CROSS JOIN LATERAL jsonb_each(
            CASE jsonb_typeof(s.value) WHEN 'object' THEN s.value ELSE '{}' END
        ) AS l (field, value)
        WHERE l.field <> 'confidence' OR s.section = 'extra'
        UNION ALL
        SELECT 'extra', s.section, s.value, 1
        FROM jsonb_each(
            CASE jsonb_typeof(m.context_data) WHEN 'object' THEN m.context_data ELSE '{}' END
        ) AS s (section, value)
        WHERE jsonb_typeof(s.value) NOT IN ('object', 'null') AND s.section <> 'custom_contexts'
        UNION ALL
        SELECT
            'custom', coalesce(u.value ->> 'context_type', 'custom'),
            coalesce(u.value -> 'context_data', '{}'), 1
        FROM jsonb_array_elements(
            CASE jsonb_typeof(m.context_data -> 'custom_contexts')
                WHEN 'array' THEN m.context_data -> 'custom_contexts' ELSE '[]'
            END
        ) AS u (value)
        WHERE jsonb_typeof(u.value) = 'object'
    ) AS f
    WHERE m.id = ANY(ids) AND jsonb_typeof(f.value) <> 'null' AND NOT EXISTS (
        SELECT 1 FROM ltm_contexts AS w
        WHERE w.user_id = m.user_id AND w.memory_id = m.id
            AND w.context_type = left(f.section, 50) AND w.context_key = left(f.field, 100)
            AND w.context_value IS NOT NULL
    )
    ON CONFLICT DO NOTHING;
END
$$;

-- What the original application wrote as rows of details alone goes into the memory's own columns.
CREATE FUNCTION complete_memories(ids bigint[]) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    -- What somebody is writing now is seen by the statements that follow.
    PERFORM 1 FROM ltm_memories AS m WHERE m.id = ANY(ids) ORDER BY m.user_id, m.id
    FOR NO KEY UPDATE;

    UPDATE ltm_memories AS m
    SET tags = n.tags
    FROM (
        SELECT w.user_id, w.id, clean_tags(w.tags, array_agg(t.tag_name ORDER BY t.id)) AS tags
        FROM ltm_memories AS w
        INNER JOIN ltm_memory_tags AS t ON t.user_id = w.user_id AND t.memory_id = w.id
        WHERE w.id = ANY(ids)
        GROUP BY w.user_id, w.id
    ) AS n
    WHERE m.user_id = n.user_id AND m.id = n.id AND m.tags IS DISTINCT FROM n.tags;

    UPDATE ltm_memories AS m
    SET related_memory_ids = CASE jsonb_typeof(m.related_memory_ids)
            WHEN 'array' THEN m.related_memory_ids ELSE '[]'
        END || n.missing
    FROM (
        SELECT r.user_id, r.source_memory_id AS id,
            jsonb_agg(DISTINCT r.target_memory_id) AS missing
        FROM ltm_memory_relationships AS r
        INNER JOIN ltm_memories AS w ON w.user_id = r.user_id AND w.id = r.source_memory_id
        WHERE w.id = ANY(ids)
            AND w.related_memory_ids @> to_jsonb(r.target_memory_id) IS NOT TRUE
        GROUP BY r.user_id, r.source_memory_id
    ) AS n
    WHERE m.user_id = n.user_id AND m.id = n.id;

    UPDATE ltm_memories AS m
    SET context_data = n.whole
    FROM (
        SELECT w.user_id, w.id, complete_context(
            w.context_data,
            jsonb_agg(jsonb_build_array(c.context_type, c.context_key, c.context_value) ORDER BY c.id)
        ) AS whole
        FROM ltm_memories AS w
        INNER JOIN ltm_contexts AS c ON c.user_id = w.user_id AND c.memory_id = w.id
        WHERE w.id = ANY(ids)
        GROUP BY w.user_id, w.id
    ) AS n
    WHERE m.user_id = n.user_id AND m.id = n.id AND m.context_data IS DISTINCT FROM n.whole
        AND context_fits(n.whole);

    INSERT INTO ltm_memory_ranks AS k (
        user_id, memory_id, importance_rank, importance_score, created_at, memory_type, category,
        source_type, created_by, namespace, is_archived
    )
    SELECT m.user_id, m.id, m.importance_rank, m.importance_score, m.created_at, m.memory_type,
        m.category, m.source_type, m.created_by, m.namespace, m.is_archived
    FROM ltm_memories AS m
    WHERE m.id = ANY(ids)
    ON CONFLICT (user_id, memory_id) DO UPDATE SET
        importance_rank = excluded.importance_rank, importance_score = excluded.importance_score,
        created_at = excluded.created_at, memory_type = excluded.memory_type,
        category = excluded.category, source_type = excluded.source_type,
        created_by = excluded.created_by, namespace = excluded.namespace,
        is_archived = excluded.is_archived
    WHERE (k.*) IS DISTINCT FROM (excluded.*);
END
$$;

-- At the end: what leads nowhere and what no column can say is dropped and reported, so that the details
-- and the own columns of these memories are in step.
CREATE FUNCTION settle(ids bigint[]) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    WITH settled AS (
        SELECT m.user_id, m.id, m.tags, m.related_memory_ids AS related,
            clean_tags(m.tags, NULL) AS clean,
            (
                SELECT coalesce(jsonb_agg(o.id ORDER BY o.place), '[]')
                FROM (
                    SELECT t.id, min(e.place) AS place
                    FROM jsonb_array_elements_text(ltm_as_array(m.related_memory_ids))
                        WITH ORDINALITY AS e (id, place)
                    INNER JOIN ltm_memories AS t ON t.user_id = m.user_id
                        AND t.id = CASE WHEN e.id ~ '^[0-9]{1,18}$' THEN e.id::bigint END
                    WHERE t.id <> m.id
                    GROUP BY t.id
                ) AS o
            ) AS leads
        FROM ltm_memories AS m
        WHERE m.id = ANY(ids)
    ),
    changed AS (
        UPDATE ltm_memories AS m
        SET tags = CASE
                WHEN jsonb_typeof(s.tags) IN ('array', 'null') THEN s.tags ELSE s.clean
            END,
            related_memory_ids = CASE jsonb_typeof(s.related)
                WHEN 'array' THEN s.leads ELSE s.related
            END
        FROM settled AS s
        WHERE m.user_id = s.user_id AND m.id = s.id
            AND (jsonb_typeof(s.tags) NOT IN ('array', 'null')
                OR jsonb_typeof(s.related) = 'array' AND s.related <> s.leads)
        RETURNING s.*, m.tags AS new_tags, m.related_memory_ids AS new_related
    )
    INSERT INTO ltm_adoption_report (user_id, table_name, row_id, column_name, rule, original)
    SELECT c.user_id, 'ltm_memories', c.id, v.column_name, v.rule, v.original
    FROM changed AS c
    CROSS JOIN LATERAL (
        VALUES ('tags', 'normalised', c.tags::text, c.tags <> c.new_tags),
        ('related_memory_ids', 'relationships dropped', c.related::text,
            c.related <> c.new_related)
    ) AS v (column_name, rule, original, is_changed)
    WHERE v.is_changed;

    PERFORM ltm_adoption.complete_memories(ids), ltm_adoption.complete_details(ids);

    WITH tags AS (
        DELETE FROM ltm_memory_tags AS t USING ltm_memories AS m
        WHERE m.id = ANY(ids) AND t.user_id = m.user_id AND t.memory_id = m.id AND NOT EXISTS (
            SELECT 1 FROM unnest(ltm_tag_names(m.tags)) AS n (tag)
            WHERE ltm_lower(n.tag) = ltm_lower(t.tag_name)
        )
        RETURNING t.user_id, t.id, to_jsonb(t)::text AS original
    ),
    contexts AS (
        DELETE FROM ltm_contexts AS c USING ltm_memories AS m
        WHERE m.id = ANY(ids) AND c.user_id = m.user_id AND c.memory_id = m.id
            AND c.context_value IS NOT NULL
            AND c.context_type || '.' || c.context_key NOT IN (
                SELECT f.field FROM ltm_context_fields(m.context_data) AS f (field)
            )
        RETURNING c.user_id, c.id, to_jsonb(c)::text AS original
    )
    INSERT INTO ltm_adoption_report (user_id, table_name, row_id, rule, original)
    SELECT t.user_id, 'ltm_memory_tags', t.id, 'has no place in tags', t.original
    FROM tags AS t
    UNION ALL
    SELECT c.user_id, 'ltm_contexts', c.id, 'has no place in context_data', c.original
    FROM contexts AS c;
END
$$;

-- Carry memories over with all their rows but accesses, as they are now.
CREATE FUNCTION adopt_memories(ids bigint[]) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    -- Whose relationships depend on a memory that is gone, and its accesses, follow.
    WITH gone AS (
        SELECT m.user_id, m.id
        FROM ltm_memories AS m
        WHERE m.id = ANY(ids) AND NOT EXISTS (
            SELECT 1 FROM original_memories AS o WHERE o.id = m.id AND o.user_id = m.user_id
        )
    )
    INSERT INTO changes (kind, row_id)
    SELECT 'memory', c.id FROM ltm_memories AS c
    INNER JOIN gone AS g ON c.user_id = g.user_id AND c.parent_memory_id = g.id
    UNION
    SELECT 'memory', r.source_memory_id FROM ltm_memory_relationships AS r
    INNER JOIN gone AS g ON r.user_id = g.user_id AND r.target_memory_id = g.id
    UNION
    SELECT 'access', a.id FROM ltm_memory_access AS a
    INNER JOIN gone AS g ON a.user_id = g.user_id AND a.memory_id = g.id;

    DELETE FROM ltm_memory_tags AS t USING ltm_memories AS m
    WHERE m.id = ANY(ids) AND t.user_id = m.user_id AND t.memory_id = m.id;
    DELETE FROM ltm_contexts AS c USING ltm_memories AS m
    WHERE m.id = ANY(ids) AND c.user_id = m.user_id AND c.memory_id = m.id;
    DELETE FROM ltm_memory_relationships AS r USING ltm_memories AS m
    WHERE m.id = ANY(ids) AND r.user_id = m.user_id AND r.source_memory_id = m.id;
    DELETE FROM ltm_memory_ranks AS k USING ltm_memories AS m
    WHERE m.id = ANY(ids) AND k.user_id = m.user_id AND k.memory_id = m.id;
    DELETE FROM ltm_memories AS m WHERE m.id = ANY(ids);
    DELETE FROM ltm_adoption_report AS p
    USING (
        SELECT 'ltm_memories' AS table_name, x.id AS row_id FROM unnest(ids) AS x (id)
        UNION ALL
        SELECT 'ltm_memory_tags', t.id FROM original_tags AS t WHERE t.memory_id = ANY(ids)
        UNION ALL
        SELECT 'ltm_contexts', c.id FROM original_contexts AS c WHERE c.memory_id = ANY(ids)
        UNION ALL
        SELECT 'ltm_memory_relationships', r.id FROM original_relationships AS r
        WHERE r.source_memory_id = ANY(ids)
    ) AS x
    WHERE p.row_id = x.row_id AND p.table_name = x.table_name;

    -- A row that nobody wrote gives way to one that somebody gave the same id. Those are looked up first:
    -- the planner would else read all rows of the user for each.
    WITH given_tags AS MATERIALIZED (
        SELECT m.user_id, o.id FROM original_tags AS o
        INNER JOIN original_memories AS m ON m.id = o.memory_id
        WHERE o.memory_id = ANY(ids)
    ),
    given_contexts AS MATERIALIZED (
        SELECT m.user_id, o.id FROM original_contexts AS o
        INNER JOIN original_memories AS m ON m.id = o.memory_id
        WHERE o.memory_id = ANY(ids)
    ),
    given_relationships AS MATERIALIZED (
        SELECT m.user_id, o.id FROM original_relationships AS o
        INNER JOIN original_memories AS m ON m.id = o.source_memory_id
        WHERE o.source_memory_id = ANY(ids)
    ),
    tags AS (
        DELETE FROM ltm_memory_tags AS t USING given_tags AS g
        WHERE t.user_id = g.user_id AND t.id = g.id
        RETURNING t.memory_id AS id
    ),
    contexts AS (
        DELETE FROM ltm_contexts AS c USING given_contexts AS g
        WHERE c.user_id = g.user_id AND c.id = g.id
        RETURNING c.memory_id AS id
    ),
    relationships AS (
        DELETE FROM ltm_memory_relationships AS l USING given_relationships AS g
        WHERE l.user_id = g.user_id AND l.id = g.id
        RETURNING l.source_memory_id AS id
    )
    INSERT INTO changes (kind, row_id)
    SELECT 'memory', x.id
    FROM (
        SELECT id FROM tags UNION SELECT id FROM contexts UNION SELECT id FROM relationships
    ) AS x;

    INSERT INTO ltm_memories (
        id, user_id, content, tags, memory_type, category, importance_score, confidence_score,
        dynamic_importance, context, context_data, source_type, source_id, created_by, created_at,
        last_accessed, last_modified, access_count, last_access_context, related_memory_ids,
        parent_memory_id, memory_metadata, is_archived, archive_reason
    )
    SELECT
        r.id, r.user_id, r.content, r.tags, r.memory_type, r.category, r.importance_score,
        r.confidence_score, r.dynamic_importance, r.context, r.context_data, r.source_type,
        r.source_id, r.created_by, r.created_at, r.last_accessed, r.last_modified, r.access_count,
        r.last_access_context, r.related_memory_ids, r.parent_memory_id, r.memory_metadata,
        r.is_archived, r.archive_reason
    FROM repaired_memories AS r
    WHERE r.id = ANY(ids);

    INSERT INTO ltm_memory_tags (
        id, user_id, memory_id, tag_name, tag_category, tag_importance, tag_confidence, usage_count,
        first_used, last_used
    )
    SELECT
        r.id, r.user_id, r.memory_id, r.tag_name, r.tag_category, r.tag_importance,
        r.tag_confidence, r.usage_count, r.first_used, r.last_used
    FROM repaired_tags AS r
    WHERE r.memory_id = ANY(ids);

    INSERT INTO ltm_contexts (
        id, user_id, memory_id, context_type, context_key, context_value, confidence, created_at
    )
    SELECT
        r.id, r.user_id, r.memory_id, r.context_type, r.context_key, r.context_value, r.confidence,
        r.created_at
    FROM repaired_contexts AS r
    WHERE r.memory_id = ANY(ids);

    INSERT INTO ltm_memory_relationships (
        id, user_id, source_memory_id, target_memory_id, relationship_type, strength, description,
        created_at, last_accessed
    )
    SELECT
        r.id, r.user_id, r.source_memory_id, r.target_memory_id, r.relationship_type, r.strength,
        r.description, r.created_at, r.last_accessed
    FROM repaired_relationships AS r
    WHERE r.source_memory_id = ANY(ids);

    INSERT INTO ltm_adoption_report (user_id, table_name, row_id, column_name, rule, original)
    SELECT o.user_id, 'ltm_memories', o.id, c.column_name, c.rule, c.original
    FROM original_memories AS o
    INNER JOIN ltm_memories AS m ON m.user_id = o.user_id AND m.id = o.id
    CROSS JOIN LATERAL (
        VALUES
        ('content', CASE WHEN o.content IS NULL THEN 'made empty' ELSE 'cut to length' END,
            o.content, o.content IS DISTINCT FROM m.content),
        ('tags', 'JSON repaired', o.tags_written, is_repaired(o.tags_written)),
        ('context_data', 'JSON repaired', o.context_data_written,
            is_repaired(o.context_data_written)),
        ('related_memory_ids', 'JSON repaired', o.related_memory_ids_written,
            is_repaired(o.related_memory_ids_written)),
        ('memory_metadata', 'JSON repaired', o.memory_metadata_written,
            is_repaired(o.memory_metadata_written)),
        ('tags', 'normalised', o.tags::text, o.tags IS DISTINCT FROM m.tags),
        ('memory_type', 'cut to length', o.memory_type,
            o.memory_type IS DISTINCT FROM m.memory_type),
        ('category', 'cut to length', o.category, o.category IS DISTINCT FROM m.category),
        ('importance_score', 'clamped', o.importance_score::text,
            o.importance_score IS DISTINCT FROM m.importance_score),
        ('confidence_score', 'clamped', o.confidence_score::text,
            o.confidence_score IS DISTINCT FROM m.confidence_score),
        ('dynamic_importance', 'made finite', o.dynamic_importance::text,
            o.dynamic_importance IS DISTINCT FROM m.dynamic_importance),
        ('context_data',
            CASE WHEN m.context_data IS NULL THEN 'left out, over the limits'
                ELSE 'put under extra' END,
            o.context_data::text, o.context_data IS DISTINCT FROM m.context_data),
        ('source_type', 'cut to length', o.source_type,
            o.source_type IS DISTINCT FROM m.source_type),
        ('source_id', 'cut to length', o.source_id, o.source_id IS DISTINCT FROM m.source_id),
        ('created_by', 'cut to length', o.created_by, o.created_by IS DISTINCT FROM m.created_by),
        ('created_at', 'left out, not a day', o.created_at::text,
            o.created_at IS DISTINCT FROM m.created_at),
        ('last_accessed', 'left out, not a day', o.last_accessed::text,
            o.last_accessed IS DISTINCT FROM m.last_accessed),
        ('last_modified', 'left out, not a day', o.last_modified::text,
            o.last_modified IS DISTINCT FROM m.last_modified),
        ('access_count', 'clamped', o.access_count::text,
            o.access_count IS DISTINCT FROM m.access_count),
        ('related_memory_ids', 'relationships dropped',
            o.related_memory_ids::text,
            o.related_memory_ids IS DISTINCT FROM m.related_memory_ids),
        ('parent_memory_id', 'relationship dropped', o.parent_memory_id::text,
            o.parent_memory_id IS DISTINCT FROM m.parent_memory_id),
        ('memory_metadata', 'left out, over the limits', o.memory_metadata::text,
            o.memory_metadata IS DISTINCT FROM m.memory_metadata)
    ) AS c (column_name, rule, original, is_changed)
    WHERE o.id = ANY(ids) AND c.is_changed;

    -- Details that could not stay as rows, then values of those that did.
    INSERT INTO ltm_adoption_report (user_id, table_name, row_id, column_name, rule, original)
    SELECT
        m.user_id, 'ltm_memory_tags', o.id, c.column_name,
        CASE WHEN n.id IS NOT NULL THEN c.rule WHEN m.id IS NULL THEN 'belongs to no memory'
            WHEN clean_tags('[]', ARRAY[o.tag_name]) = '[]' THEN 'has no name'
            ELSE 'said twice' END,
        c.original
    FROM original_tags AS o
    LEFT JOIN original_memories AS m ON m.id = o.memory_id
    LEFT JOIN ltm_memory_tags AS n
        ON n.user_id = m.user_id AND n.memory_id = m.id AND n.id = o.id
    CROSS JOIN LATERAL (
        VALUES
        (NULL, NULL, to_jsonb(o)::text, n.id IS NULL),
        ('tag_name', 'normalised', o.tag_name, o.tag_name IS DISTINCT FROM n.tag_name),
        ('tag_category', 'cut to length', o.tag_category,
            o.tag_category IS DISTINCT FROM n.tag_category),
        ('tag_importance', 'made finite', o.tag_importance::text,
            o.tag_importance IS DISTINCT FROM n.tag_importance),
        ('tag_confidence', 'clamped', o.tag_confidence::text,
            o.tag_confidence IS DISTINCT FROM n.tag_confidence),
        ('usage_count', 'clamped', o.usage_count::text,
            o.usage_count IS DISTINCT FROM n.usage_count),
        ('first_used', 'left out, not a day', o.first_used::text,
            o.first_used IS DISTINCT FROM n.first_used),
        ('last_used', 'left out, not a day', o.last_used::text,
            o.last_used IS DISTINCT FROM n.last_used)
    ) AS c (column_name, rule, original, is_changed)
    WHERE o.memory_id = ANY(ids) AND c.is_changed AND (n.id IS NULL) = (c.column_name IS NULL);

    INSERT INTO ltm_adoption_report (user_id, table_name, row_id, column_name, rule, original)
    SELECT
        m.user_id, 'ltm_contexts', o.id, c.column_name,
        CASE WHEN n.id IS NOT NULL THEN c.rule ELSE 'belongs to no memory' END, c.original
    FROM original_contexts AS o
    LEFT JOIN original_memories AS m ON m.id = o.memory_id
    LEFT JOIN ltm_contexts AS n
        ON n.user_id = m.user_id AND n.memory_id = m.id AND n.id = o.id
    CROSS JOIN LATERAL (
        VALUES
        (NULL, NULL, to_jsonb(o)::text, n.id IS NULL),
        ('context_type', 'cut to length', o.context_type,
            o.context_type IS DISTINCT FROM n.context_type),
        ('context_key', 'cut to length', o.context_key,
            o.context_key IS DISTINCT FROM n.context_key),
        ('confidence', 'clamped', o.confidence::text, o.confidence IS DISTINCT FROM n.confidence),
        ('created_at', 'left out, not a day', o.created_at::text,
            o.created_at IS DISTINCT FROM n.created_at)
    ) AS c (column_name, rule, original, is_changed)
    WHERE o.memory_id = ANY(ids) AND c.is_changed AND (n.id IS NULL) = (c.column_name IS NULL);

    INSERT INTO ltm_adoption_report (user_id, table_name, row_id, column_name, rule, original)
    SELECT
        m.user_id, 'ltm_memory_relationships', o.id, c.column_name,
        CASE WHEN n.id IS NOT NULL THEN c.rule WHEN m.id IS NULL THEN 'belongs to no memory'
            WHEN o.target_memory_id = o.source_memory_id THEN 'leads to itself'
            WHEN NOT EXISTS (
                SELECT 1 FROM original_memories AS t
                WHERE t.id = o.target_memory_id AND t.user_id = m.user_id
            ) THEN 'leads to no memory of the user'
            ELSE 'said twice' END,
        c.original
    FROM original_relationships AS o
    LEFT JOIN original_memories AS m ON m.id = o.source_memory_id
    LEFT JOIN ltm_memory_relationships AS n
        ON n.user_id = m.user_id AND n.source_memory_id = m.id AND n.id = o.id
    CROSS JOIN LATERAL (
        VALUES
        (NULL, NULL, to_jsonb(o)::text, n.id IS NULL),
        ('relationship_type', 'cut to length', o.relationship_type,
            o.relationship_type IS DISTINCT FROM n.relationship_type),
        ('strength', 'clamped', o.strength::text, o.strength IS DISTINCT FROM n.strength),
        ('created_at', 'left out, not a day', o.created_at::text,
            o.created_at IS DISTINCT FROM n.created_at),
        ('last_accessed', 'left out, not a day', o.last_accessed::text,
            o.last_accessed IS DISTINCT FROM n.last_accessed)
    ) AS c (column_name, rule, original, is_changed)
    WHERE o.source_memory_id = ANY(ids) AND c.is_changed
        AND (n.id IS NULL) = (c.column_name IS NULL);

    -- The original writes a memory's details after it, each in a commit of its own, and must not find
    -- them there: for memories written since the copy began they are its own affair.
    PERFORM ltm_adoption.complete_details(array(
        SELECT x.id FROM unnest(ids) AS x (id)
        WHERE x.id <= (SELECT p.last_id FROM progress AS p WHERE p.kind = 'last memory')
    ));
END
$$;

CREATE FUNCTION adopt_accesses(ids bigint[]) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    DELETE FROM ltm_memory_access AS a WHERE a.id = ANY(ids);
    DELETE FROM ltm_adoption_report AS p
    WHERE p.table_name = 'ltm_memory_access' AND p.row_id = ANY(ids);

    INSERT INTO ltm_memory_access (
        id, user_id, memory_id, access_timestamp, access_context, access_method, user_query,
        was_relevant, relevance_score
    )
    SELECT
        r.id, r.user_id, r.memory_id, r.access_timestamp, r.access_context, r.access_method,
        r.user_query, r.was_relevant, r.relevance_score
    FROM repaired_accesses AS r
    WHERE r.id = ANY(ids);

    INSERT INTO ltm_adoption_report (user_id, table_name, row_id, column_name, rule, original)
    SELECT
        m.user_id, 'ltm_memory_access', o.id, c.column_name,
        CASE WHEN n.id IS NOT NULL THEN c.rule ELSE 'belongs to no memory' END, c.original
    FROM original_accesses AS o
    LEFT JOIN original_memories AS m ON m.id = o.memory_id
    LEFT JOIN ltm_memory_access AS n
        ON n.user_id = m.user_id AND n.memory_id = m.id AND n.id = o.id
    CROSS JOIN LATERAL (
        VALUES
        (NULL, NULL, to_jsonb(o)::text, n.id IS NULL),
        ('access_timestamp', 'left out, not a day', o.access_timestamp::text,
            o.access_timestamp IS DISTINCT FROM n.access_timestamp),
        ('access_method', 'cut to length', o.access_method,
            o.access_method IS DISTINCT FROM n.access_method),
        ('relevance_score', 'clamped', o.relevance_score::text,
            o.relevance_score IS DISTINCT FROM n.relevance_score)
    ) AS c (column_name, rule, original, is_changed)
    WHERE o.id = ANY(ids) AND c.is_changed AND (n.id IS NULL) = (c.column_name IS NULL);
END
$$;

-- Take what has changed, oldest first, and carry it over or back; tell how many notes were taken.
CREATE FUNCTION carry_changes(at_most bigint, is_back boolean) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    memories bigint[];
    accesses bigint[];
    taken bigint;
BEGIN
    WITH oldest AS (
        SELECT c.id FROM changes AS c ORDER BY c.id LIMIT at_most
    ),
    removed AS (
        DELETE FROM changes AS c USING oldest AS s WHERE c.id = s.id RETURNING c.kind, c.row_id
    )
    SELECT
        array_agg(DISTINCT r.row_id) FILTER (WHERE r.kind = 'memory'),
        array_agg(DISTINCT r.row_id) FILTER (WHERE r.kind = 'access'),
        count(*)
    INTO memories, accesses, taken
    FROM removed AS r;
    IF is_back THEN
        PERFORM ltm_adoption.return_memories(memories) WHERE memories IS NOT NULL;
        PERFORM ltm_adoption.return_accesses(accesses) WHERE accesses IS NOT NULL;
    ELSE
        PERFORM ltm_adoption.adopt_memories(memories) WHERE memories IS NOT NULL;
        PERFORM ltm_adoption.adopt_accesses(accesses) WHERE accesses IS NOT NULL;
    END IF;
    RETURN taken;
END
$$;

-- Write down every memory that is not the same on both sides, and every row that lacks its memory.
CREATE FUNCTION note_differences() RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    found bigint;
BEGIN
    INSERT INTO changes (kind, row_id)
    SELECT 'memory', coalesce(o.id, m.id)
    FROM original_memories AS o
    FULL JOIN ltm_memories AS m ON m.id = o.id AND m.user_id = o.user_id
    WHERE (
        o.id, o.content, o.memory_type, o.category, o.importance_score, o.confidence_score,
        o.context, o.source_type, o.source_id, o.created_by, o.created_at, o.last_accessed,
        o.last_modified, o.access_count, o.last_access_context, o.parent_memory_id,
        o.memory_metadata, o.is_archived, o.archive_reason, o.tags, o.context_data,
        o.related_memory_ids
    ) IS DISTINCT FROM (
        m.id, m.content, m.memory_type, m.category, m.importance_score, m.confidence_score,
        m.context, m.source_type, m.source_id, m.created_by, m.created_at, m.last_accessed,
        m.last_modified, m.access_count, m.last_access_context, m.parent_memory_id,
        m.memory_metadata, m.is_archived, m.archive_reason, m.tags, m.context_data,
        m.related_memory_ids
    ) AND NOT EXISTS (
        SELECT 1 FROM ltm_adoption_report AS p
        WHERE p.table_name = 'ltm_memories' AND p.row_id = o.id
    ) AND NOT EXISTS (
        SELECT 1 FROM changes AS c WHERE c.kind = 'memory' AND c.row_id IN (o.id, m.id)
    );
    GET DIAGNOSTICS found = ROW_COUNT;
    RETURN found;
END
$$;

-- Where an end went away between the copies of both sides, carry over again what led to it; rows whose
-- memory is gone go as well.
CREATE FUNCTION note_dangling() RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    found bigint;
BEGIN
    WITH tags AS (
        DELETE FROM ltm_memory_tags AS t
        WHERE NOT EXISTS (
            SELECT 1 FROM ltm_memories AS m WHERE m.user_id = t.user_id AND m.id = t.memory_id
        )
        RETURNING t.memory_id AS id
    ),
    contexts AS (
        DELETE FROM ltm_contexts AS c
        WHERE NOT EXISTS (
            SELECT 1 FROM ltm_memories AS m WHERE m.user_id = c.user_id AND m.id = c.memory_id
        )
        RETURNING c.memory_id AS id
    ),
    relationships AS (
        DELETE FROM ltm_memory_relationships AS r
        WHERE NOT EXISTS (
            SELECT 1 FROM ltm_memories AS m
            WHERE m.user_id = r.user_id AND m.id = r.source_memory_id
        ) OR NOT EXISTS (
            SELECT 1 FROM ltm_memories AS m
            WHERE m.user_id = r.user_id AND m.id = r.target_memory_id
        )
        RETURNING r.source_memory_id AS id
    )
    INSERT INTO changes (kind, row_id)
    SELECT 'memory', t.id FROM tags AS t
    UNION
    SELECT 'memory', c.id FROM contexts AS c
    UNION
    SELECT 'memory', l.id FROM relationships AS l
    UNION
    SELECT 'memory', m.id FROM ltm_memories AS m
    WHERE m.parent_memory_id IS NOT NULL AND NOT EXISTS (
        SELECT 1 FROM ltm_memories AS p
        WHERE p.user_id = m.user_id AND p.id = m.parent_memory_id
    )
    UNION
    SELECT 'access', a.id FROM ltm_memory_access AS a
    WHERE NOT EXISTS (
        SELECT 1 FROM ltm_memories AS m WHERE m.user_id = a.user_id AND m.id = a.memory_id
    );
    GET DIAGNOSTICS found = ROW_COUNT;
    RETURN found;
END
$$;

CREATE FUNCTION note_orphans() RETURNS void LANGUAGE sql AS $$
    INSERT INTO ltm_adoption.changes (kind, row_id)
    SELECT DISTINCT 'memory', x.memory_id
    FROM (
        SELECT t.memory_id::bigint FROM ltm_adoption.original_tags AS t
        UNION
        SELECT c.memory_id::bigint FROM ltm_adoption.original_contexts AS c
        UNION
        SELECT r.source_memory_id::bigint FROM ltm_adoption.original_relationships AS r
    ) AS x
    LEFT JOIN ltm_adoption.original_memories AS m ON m.id = x.memory_id
    WHERE m.id IS NULL AND x.memory_id IS NOT NULL
$$;

CREATE FUNCTION report_rows_without_memory() RETURNS void LANGUAGE sql AS $$
    INSERT INTO ltm_adoption_report (table_name, row_id, rule, original)
    SELECT x.table_name, x.id, 'belongs to no memory', x.original
    FROM (
        SELECT 'ltm_memory_tags' AS table_name, t.id, t.memory_id, to_jsonb(t)::text AS original
        FROM ltm_adoption.original_tags AS t
        UNION ALL
        SELECT 'ltm_contexts', c.id, c.memory_id, to_jsonb(c)::text
        FROM ltm_adoption.original_contexts AS c
        UNION ALL
        SELECT 'ltm_memory_relationships', r.id, r.source_memory_id, to_jsonb(r)::text
        FROM ltm_adoption.original_relationships AS r
    ) AS x
    WHERE x.memory_id IS NULL
$$;

-- Rows of details from a program that does not know that they have a user.
CREATE FUNCTION give_user() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.user_id IS NULL THEN
        EXECUTE format('SELECT m.user_id FROM %I.ltm_memories AS m WHERE m.id = $1', TG_TABLE_SCHEMA)
        INTO NEW.user_id
        USING (to_jsonb(NEW) ->> TG_ARGV[0])::bigint;
    END IF;
    RETURN NEW;
END
$$;
