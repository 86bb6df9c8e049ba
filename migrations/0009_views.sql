-- What people look at: views that show what the tables mean, each quick for one user, and their health.
-- depends: 0008_adoption_report

-- A condition on user_id reaches the index of every table below: nothing groups, sorts or counts across
-- users. What is counted per memory is a subselect, so that it costs nothing where it is not asked for.

CREATE FUNCTION ltm_summary(content text)
RETURNS text
LANGUAGE sql
IMMUTABLE
PARALLEL SAFE
RETURN regexp_replace(left(content, 80), '\s+', ' ', 'g');

COMMENT ON FUNCTION ltm_summary(text) IS
'The first 80 characters of a content, on one line.';

CREATE FUNCTION ltm_tag_names(tags jsonb)
RETURNS text[]
LANGUAGE sql
IMMUTABLE
PARALLEL SAFE
RETURN CASE
    WHEN jsonb_typeof(tags) = 'array'
        THEN array(SELECT t.tag FROM jsonb_array_elements_text(tags) AS t (tag))
    WHEN tags #>> '{}' IS NULL THEN '{}'
    ELSE ARRAY[tags #>> '{}']
END;

COMMENT ON FUNCTION ltm_tag_names(jsonb) IS
'The tags of a memory as they are written; what is no array is one tag, as for get_memory.';

CREATE FUNCTION ltm_context_fields(context_data jsonb)
RETURNS text[]
LANGUAGE sql
IMMUTABLE
PARALLEL SAFE
RETURN array(
    SELECT DISTINCT f.context_type || '.' || f.context_key AS field
    FROM (
        SELECT
            left(s.name, 50) AS context_type,
            left(l.name, 100) AS context_key
        FROM (
            SELECT
                e.name,
                e.value
            FROM
                jsonb_each(
                    CASE jsonb_typeof(context_data) WHEN 'object' THEN context_data ELSE '{}' END
                ) AS e (name, value)
        ) AS s
        CROSS JOIN
            LATERAL jsonb_each(
                CASE jsonb_typeof(s.value) WHEN 'object' THEN s.value ELSE '{}' END
            ) AS l (name, value)
        WHERE
            (l.name <> 'confidence' OR s.name = 'extra')
            AND jsonb_typeof(l.value) <> 'null'
        UNION ALL
        SELECT
            'extra',
            left(s.name, 100)
        FROM
            jsonb_each(
                CASE jsonb_typeof(context_data) WHEN 'object' THEN context_data ELSE '{}' END
            ) AS s (name, value)
        WHERE jsonb_typeof(s.value) NOT IN ('object', 'null') AND s.name <> 'custom_contexts'
        UNION ALL
        SELECT
            'custom',
            left(coalesce(u.custom ->> 'context_type', 'custom'), 100)
        FROM
            jsonb_array_elements(
                CASE jsonb_typeof(context_data -> 'custom_contexts')
                    WHEN 'array' THEN context_data -> 'custom_contexts'
                    ELSE '[]'
                END
            ) AS u (custom)
        WHERE jsonb_typeof(u.custom) = 'object'
    ) AS f
    ORDER BY field
);

COMMENT ON FUNCTION ltm_context_fields(jsonb) IS
'The fields that are set in a context, in order, e.g. spatial.city: for each of them ltm_contexts '
'has a row.';

CREATE VIEW ltm_memory_overview WITH (security_invoker = TRUE) AS
SELECT
    m.user_id,
    m.id,
    ltm_summary(m.content) AS summary,
    m.memory_type,
    m.category,
    ltm_tag_names(m.tags) AS tags,
    coalesce(m.importance_score, 1) AS importance_score,
    ltm_dynamic_importance(m.importance_rank, now()) AS dynamic_importance,
    m.importance_rank,
    date_trunc('day', now() - timezone('utc', m.created_at)) AS age,
    timezone('utc', m.created_at) AS created_at,
    timezone('utc', m.last_accessed) AS last_accessed,
    coalesce(m.access_count, 0) AS access_count,
    (
        SELECT count(*)
        FROM ltm_memory_access AS a
        WHERE a.user_id = m.user_id AND a.memory_id = m.id
    ) AS logged_accesses,
    (
        SELECT count(*)
        FROM ltm_memory_relationships AS r
        INNER JOIN ltm_memories AS o ON r.user_id = o.user_id AND r.target_memory_id = o.id
        WHERE
            r.user_id = m.user_id
            AND r.source_memory_id = m.id
            AND (o.expires_at IS NULL OR o.expires_at > now())
    ) AS outgoing,
    (
        SELECT count(*)
        FROM ltm_memory_relationships AS r
        INNER JOIN ltm_memories AS o ON r.user_id = o.user_id AND r.source_memory_id = o.id
        WHERE
            r.user_id = m.user_id
            AND r.target_memory_id = m.id
            AND (o.expires_at IS NULL OR o.expires_at > now())
    ) AS incoming,
    (
        SELECT count(*)
        FROM ltm_contexts AS c
        WHERE c.user_id = m.user_id AND c.memory_id = m.id
    ) AS contexts,
    m.parent_memory_id,
    m.source_type,
    m.source_id,
    m.is_archived IS TRUE AS is_archived
FROM ltm_memories AS m
WHERE m.expires_at IS NULL OR m.expires_at > now();

COMMENT ON VIEW ltm_memory_overview IS
'The memories of a user at a glance, archived ones too. WHERE NOT is_archived ORDER BY '
'importance_rank DESC LIMIT 10 reads no more of them than it shows.';
COMMENT ON COLUMN ltm_memory_overview.user_id IS 'Whose memory it is.';
COMMENT ON COLUMN ltm_memory_overview.id IS 'Number of the memory.';
COMMENT ON COLUMN ltm_memory_overview.summary IS 'The first 80 characters of its content.';
COMMENT ON COLUMN ltm_memory_overview.memory_type IS 'preference, fact, ..., or another word.';
COMMENT ON COLUMN ltm_memory_overview.category IS 'The caller''s own grouping.';
COMMENT ON COLUMN ltm_memory_overview.tags IS 'Its tags in the order given.';
COMMENT ON COLUMN ltm_memory_overview.importance_score IS 'Base importance, 1 to 10.';
COMMENT ON COLUMN ltm_memory_overview.dynamic_importance IS 'Importance now, 0 to 10.';
COMMENT ON COLUMN ltm_memory_overview.importance_rank IS
'The order by importance at any moment, under an index.';
COMMENT ON COLUMN ltm_memory_overview.age IS 'Time since it was created, in whole days.';
COMMENT ON COLUMN ltm_memory_overview.created_at IS 'When it was created.';
COMMENT ON COLUMN ltm_memory_overview.last_accessed IS 'When it was last accessed; NULL: never.';
COMMENT ON COLUMN ltm_memory_overview.access_count IS 'How often it was accessed.';
COMMENT ON COLUMN ltm_memory_overview.logged_accesses IS
'How many of its accesses are still in ltm_memory_access.';
COMMENT ON COLUMN ltm_memory_overview.outgoing IS
'How many relationships start from it; those to memories that expired are not counted.';
COMMENT ON COLUMN ltm_memory_overview.incoming IS
'How many relationships point to it; those from memories that expired are not counted.';
COMMENT ON COLUMN ltm_memory_overview.contexts IS 'How many fields of its context are set.';
COMMENT ON COLUMN ltm_memory_overview.parent_memory_id IS 'The memory that it belongs under.';
COMMENT ON COLUMN ltm_memory_overview.source_type IS
'conversation, tool_usage, ..., or another word.';
COMMENT ON COLUMN ltm_memory_overview.source_id IS 'Where it came from.';
COMMENT ON COLUMN ltm_memory_overview.is_archived IS 'Whether it is put away.';

-- Each term is the rank of a memory that has this input alone; importance 1 at confidence 0.5 is none.
CREATE VIEW ltm_importance_breakdown WITH (security_invoker = TRUE) AS
SELECT
    m.user_id,
    m.id,
    ltm_summary(m.content) AS summary,
    p.importance_points,
    p.confidence_points,
    p.access_points,
    p.time_points,
    p.importance_points + p.confidence_points + p.access_points + p.time_points AS points,
    ltm_dynamic_importance(m.importance_rank, now()) AS dynamic_importance
FROM ltm_memories AS m
CROSS JOIN
    LATERAL (
        SELECT
            ltm_importance_rank(m.importance_score, 1, 0, '2000-01-01', NULL)
            / 1440.0::double precision AS importance_points,
            (ltm_importance_rank(1, m.confidence_score, 0, '2000-01-01', NULL) - 1440)
            / 1440.0::double precision AS confidence_points,
            ltm_importance_rank(1, 0.5, m.access_count, '2000-01-01', NULL)
            / 1440.0::double precision AS access_points,
            (
                ltm_importance_rank(1, 0.5, 0, m.last_accessed, m.created_at)
                - ltm_importance_rank(1, 0.5, 0, timezone('utc', now()), NULL)
            )
            / 1440.0::double precision AS time_points
    ) AS p
WHERE m.expires_at IS NULL OR m.expires_at > now();

COMMENT ON VIEW ltm_importance_breakdown IS
'Why memories are as important as they are: four terms in points, see ltm_importance_rank.';
COMMENT ON COLUMN ltm_importance_breakdown.user_id IS 'Whose memory it is.';
COMMENT ON COLUMN ltm_importance_breakdown.id IS 'Number of the memory.';
COMMENT ON COLUMN ltm_importance_breakdown.summary IS 'The first 80 characters of its content.';
COMMENT ON COLUMN ltm_importance_breakdown.importance_points IS
'The importance_score as given, 1 to 10.';
COMMENT ON COLUMN ltm_importance_breakdown.confidence_points IS
'Up to 2 points less for lack of confidence.';
COMMENT ON COLUMN ltm_importance_breakdown.access_points IS
'Half a point more at the 1st, 3rd, 7th and 15th access.';
COMMENT ON COLUMN ltm_importance_breakdown.time_points IS
'A point less for every 180 days since the last access, else since it was created.';
COMMENT ON COLUMN ltm_importance_breakdown.points IS 'The sum of the four.';
COMMENT ON COLUMN ltm_importance_breakdown.dynamic_importance IS
'Importance now: the points, but not below 0 nor above 10.';

CREATE VIEW ltm_memory_graph WITH (security_invoker = TRUE) AS
SELECT
    r.user_id,
    r.id AS relationship_id,
    r.source_memory_id,
    ltm_summary(s.content) AS source,
    r.relationship_type,
    coalesce(r.strength, 1) AS strength,
    r.description,
    r.target_memory_id,
    ltm_summary(t.content) AS target,
    timezone('utc', r.created_at) AS created_at
FROM ltm_memory_relationships AS r
INNER JOIN ltm_memories AS s ON r.user_id = s.user_id AND r.source_memory_id = s.id
INNER JOIN ltm_memories AS t ON r.user_id = t.user_id AND r.target_memory_id = t.id
WHERE
    (s.expires_at IS NULL OR s.expires_at > now())
    AND (t.expires_at IS NULL OR t.expires_at > now());

COMMENT ON VIEW ltm_memory_graph IS
'The relationships with what they connect. Around one memory: WHERE user_id = ... AND '
'(source_memory_id = ... OR target_memory_id = ...).';
COMMENT ON COLUMN ltm_memory_graph.user_id IS 'Whose memories they are.';
COMMENT ON COLUMN ltm_memory_graph.relationship_id IS 'Number of the relationship.';
COMMENT ON COLUMN ltm_memory_graph.source_memory_id IS 'The memory that it starts from.';
COMMENT ON COLUMN ltm_memory_graph.source IS 'The first 80 characters of its content.';
COMMENT ON COLUMN ltm_memory_graph.relationship_type IS 'related, causes, ..., or another word.';
COMMENT ON COLUMN ltm_memory_graph.strength IS 'How close the relationship is, 0 to 1.';
COMMENT ON COLUMN ltm_memory_graph.description IS 'The relationship in words.';
COMMENT ON COLUMN ltm_memory_graph.target_memory_id IS 'The memory that it points to.';
COMMENT ON COLUMN ltm_memory_graph.target IS 'The first 80 characters of its content.';
COMMENT ON COLUMN ltm_memory_graph.created_at IS 'When the relationship was first made.';

CREATE VIEW ltm_context_overview WITH (security_invoker = TRUE) AS
SELECT
    v.user_id,
    v.context_type,
    v.context_key,
    sum(v.memories)::bigint AS memories,
    count(v.context_value) AS different_values,
    (array_agg(v.context_value ORDER BY v.memories DESC, v.context_value ASC))[1]
        AS most_frequent_value,
    sum(v.confidence) / sum(v.memories)::double precision AS confidence,
    timezone('utc', max(v.created_at)) AS last_written
FROM (
    SELECT
        c.user_id,
        c.context_type,
        c.context_key,
        c.context_value,
        count(*) AS memories,
        sum(coalesce(c.confidence, 1)) AS confidence,
        max(c.created_at) AS created_at
    FROM ltm_contexts AS c
    INNER JOIN ltm_memories AS m ON c.user_id = m.user_id AND c.memory_id = m.id
    WHERE m.expires_at IS NULL OR m.expires_at > now()
    GROUP BY c.user_id, c.context_type, c.context_key, c.context_value
) AS v
GROUP BY v.user_id, v.context_type, v.context_key;

COMMENT ON VIEW ltm_context_overview IS
'Which circumstances are known of a user''s memories: one row for each field.';
COMMENT ON COLUMN ltm_context_overview.user_id IS 'Whose memories they are.';
COMMENT ON COLUMN ltm_context_overview.context_type IS
'temporal, spatial, social, environmental, emotional, technical, custom or extra.';
COMMENT ON COLUMN ltm_context_overview.context_key IS 'The field, e.g. season.';
COMMENT ON COLUMN ltm_context_overview.memories IS 'How many times the field is set.';
COMMENT ON COLUMN ltm_context_overview.different_values IS 'How many different values it has.';
COMMENT ON COLUMN ltm_context_overview.most_frequent_value IS 'The value that most of them have.';
COMMENT ON COLUMN ltm_context_overview.confidence IS 'Average confidence, 0 to 1.';
COMMENT ON COLUMN ltm_context_overview.last_written IS 'When it was last written.';

-- First by spelling and category, which takes no sorting.
CREATE VIEW ltm_tag_usage WITH (security_invoker = TRUE) AS
SELECT
    x.user_id,
    (array_agg(x.tag ORDER BY x.memories DESC, x.tag ASC))[1] AS tag_name,
    sum(x.memories)::bigint AS memory_count,
    sum(x.uses)::bigint AS usage_count,
    (array_agg(x.tag_category ORDER BY x.memories DESC, x.tag_category ASC))[1] AS tag_category,
    sum(x.importance) / sum(x.memories)::double precision AS tag_importance,
    sum(x.confidence) / sum(x.memories)::double precision AS tag_confidence,
    timezone('utc', min(x.first_used)) AS first_used,
    timezone('utc', max(x.last_used)) AS last_used
FROM (
    SELECT
        m.user_id,
        e.tag,
        coalesce(t.tag_category, 'general') AS tag_category,
        count(*) AS memories,
        sum(coalesce(t.usage_count, 1)) AS uses,
        sum(coalesce(t.tag_importance, 1)) AS importance,
        sum(coalesce(t.tag_confidence, 1)) AS confidence,
        min(coalesce(t.first_used, m.created_at)) AS first_used,
        max(coalesce(t.last_used, m.created_at)) AS last_used
    FROM ltm_memories AS m
    CROSS JOIN
        LATERAL jsonb_array_elements_text(
            CASE jsonb_typeof(m.tags) WHEN 'array' THEN m.tags ELSE '[]' END
        ) AS e (tag)
    LEFT JOIN ltm_memory_tags AS t
        ON
            m.user_id = t.user_id
            AND m.id = t.memory_id
            AND lower(e.tag) = lower(t.tag_name)
    WHERE m.expires_at IS NULL OR m.expires_at > now()
    GROUP BY m.user_id, e.tag, coalesce(t.tag_category, 'general')
) AS x
GROUP BY x.user_id, lower(x.tag);

COMMENT ON VIEW ltm_tag_usage IS
'The tags of a user and how they are used, each once in any letter case, as list_tags tells it.';
COMMENT ON COLUMN ltm_tag_usage.user_id IS 'Whose tag it is.';
COMMENT ON COLUMN ltm_tag_usage.tag_name IS 'The tag in its most frequent spelling.';
COMMENT ON COLUMN ltm_tag_usage.memory_count IS 'How many memories carry it.';
COMMENT ON COLUMN ltm_tag_usage.usage_count IS 'How often it was given to them.';
COMMENT ON COLUMN ltm_tag_usage.tag_category IS 'Its most frequent category.';
COMMENT ON COLUMN ltm_tag_usage.tag_importance IS 'Average weight for its memories.';
COMMENT ON COLUMN ltm_tag_usage.tag_confidence IS 'Average confidence of the tagger, 0 to 1.';
COMMENT ON COLUMN ltm_tag_usage.first_used IS 'When it was first given.';
COMMENT ON COLUMN ltm_tag_usage.last_used IS 'When it was last given.';

CREATE VIEW ltm_access_daily WITH (security_invoker = TRUE) AS
SELECT
    a.user_id,
    a.access_timestamp::date AS day,
    count(*) AS accesses,
    count(DISTINCT a.memory_id) AS memories,
    count(*) FILTER (WHERE a.access_method = 'direct') AS direct,
    count(*) FILTER (WHERE a.access_method = 'search') AS search,
    count(*) FILTER (WHERE a.access_method = 'related') AS related,
    count(*) FILTER (WHERE a.was_relevant) AS relevant,
    count(*) FILTER (WHERE NOT a.was_relevant) AS irrelevant
FROM ltm_memory_access AS a
INNER JOIN ltm_memories AS m ON a.user_id = m.user_id AND a.memory_id = m.id
WHERE m.expires_at IS NULL OR m.expires_at > now()
GROUP BY a.user_id, a.access_timestamp::date;

COMMENT ON VIEW ltm_access_daily IS
'The recorded accesses day by day; prune_accesses takes old ones out of the log.';
COMMENT ON COLUMN ltm_access_daily.user_id IS 'Whose memories were accessed.';
COMMENT ON COLUMN ltm_access_daily.day IS 'The day in UTC; NULL: nobody wrote when.';
COMMENT ON COLUMN ltm_access_daily.accesses IS 'How many accesses there were.';
COMMENT ON COLUMN ltm_access_daily.memories IS 'How many different memories were accessed.';
COMMENT ON COLUMN ltm_access_daily.direct IS 'How many accesses were by id.';
COMMENT ON COLUMN ltm_access_daily.search IS 'How many were hits of a search.';
COMMENT ON COLUMN ltm_access_daily.related IS 'How many came through a relationship.';
COMMENT ON COLUMN ltm_access_daily.relevant IS 'How many helped, as somebody said.';
COMMENT ON COLUMN ltm_access_daily.irrelevant IS 'How many did not, as somebody said.';

CREATE VIEW ltm_user_analytics WITH (security_invoker = TRUE) AS
SELECT
    m.user_id,
    (
        SELECT u.external_id
        FROM ltm_external_users AS u
        WHERE u.user_id = m.user_id
    ) AS external_id,
    count(*) AS total_memories,
    count(*) FILTER (WHERE m.is_archived) AS archived_memories,
    count(*) FILTER (WHERE coalesce(m.access_count, 0) > 0) AS accessed_memories,
    avg(coalesce(m.importance_score, 1))::double precision AS average_importance,
    avg(ltm_dynamic_importance(m.importance_rank, now())) AS average_dynamic_importance,
    sum(coalesce(m.access_count, 0))::bigint AS accesses,
    (
        SELECT count(*)
        FROM ltm_memory_relationships AS r
        WHERE r.user_id = m.user_id
    ) AS relationships,
    timezone('utc', min(m.created_at)) AS first_created_at,
    timezone('utc', max(m.created_at)) AS last_created_at,
    timezone('utc', max(m.last_accessed)) AS last_accessed
FROM ltm_memories AS m
WHERE m.expires_at IS NULL OR m.expires_at > now()
GROUP BY m.user_id;

COMMENT ON VIEW ltm_user_analytics IS
'The users in figures, a row each, archived memories included; get_analytics tells more of one.';
COMMENT ON COLUMN ltm_user_analytics.user_id IS 'The user.';
COMMENT ON COLUMN ltm_user_analytics.external_id IS
'The user''s name in the application; NULL where that is the number.';
COMMENT ON COLUMN ltm_user_analytics.total_memories IS 'How many memories there are.';
COMMENT ON COLUMN ltm_user_analytics.archived_memories IS 'How many of them are archived.';
COMMENT ON COLUMN ltm_user_analytics.accessed_memories IS
'How many of them were ever accessed.';
COMMENT ON COLUMN ltm_user_analytics.average_importance IS 'Average importance_score.';
COMMENT ON COLUMN ltm_user_analytics.average_dynamic_importance IS 'Average importance now.';
COMMENT ON COLUMN ltm_user_analytics.accesses IS 'How often all of them were accessed.';
COMMENT ON COLUMN ltm_user_analytics.relationships IS
'How many relationships there are, those of memories that expired included.';
COMMENT ON COLUMN ltm_user_analytics.first_created_at IS 'When the first of them was created.';
COMMENT ON COLUMN ltm_user_analytics.last_created_at IS 'When the last of them was created.';
COMMENT ON COLUMN ltm_user_analytics.last_accessed IS 'When one of them was last accessed.';

-- The bound as a rank, for the index of ranks.
CREATE VIEW ltm_stale_memories WITH (security_invoker = TRUE) AS
SELECT
    m.user_id,
    m.id,
    ltm_summary(m.content) AS summary,
    coalesce(m.importance_score, 1) AS importance_score,
    ltm_dynamic_importance(m.importance_rank, now()) AS dynamic_importance,
    m.importance_rank,
    timezone('utc', coalesce(m.last_accessed, m.created_at)) AS last_used
FROM ltm_memories AS m
WHERE
    m.is_archived IS NOT TRUE
    AND (m.expires_at IS NULL OR m.expires_at > now())
    AND m.importance_rank
    < 2 * 1440 + ltm_importance_rank(1, 0.5, 0, timezone('utc', now()), NULL);

COMMENT ON VIEW ltm_stale_memories IS
'What has sunk below a dynamic importance of 2: what archive_stale(db, user, below=2) would '
'archive.';
COMMENT ON COLUMN ltm_stale_memories.user_id IS 'Whose memory it is.';
COMMENT ON COLUMN ltm_stale_memories.id IS 'Number of the memory.';
COMMENT ON COLUMN ltm_stale_memories.summary IS 'The first 80 characters of its content.';
COMMENT ON COLUMN ltm_stale_memories.importance_score IS 'Base importance, 1 to 10.';
COMMENT ON COLUMN ltm_stale_memories.dynamic_importance IS 'Importance now, 0 to 2.';
COMMENT ON COLUMN ltm_stale_memories.importance_rank IS
'The order by importance at any moment, under an index.';
COMMENT ON COLUMN ltm_stale_memories.last_used IS
'When it was last accessed, else when it was created.';

CREATE VIEW ltm_never_recalled WITH (security_invoker = TRUE) AS
SELECT
    m.user_id,
    m.id,
    ltm_summary(m.content) AS summary,
    coalesce(m.importance_score, 1) AS importance_score,
    ltm_dynamic_importance(m.importance_rank, now()) AS dynamic_importance,
    m.importance_rank,
    date_trunc('day', now() - timezone('utc', m.created_at)) AS age,
    timezone('utc', m.created_at) AS created_at
FROM ltm_memories AS m
WHERE
    m.is_archived IS NOT TRUE
    AND (m.expires_at IS NULL OR m.expires_at > now())
    AND (m.access_count IS NULL OR m.access_count = 0)
    AND m.last_accessed IS NULL;

COMMENT ON VIEW ltm_never_recalled IS
'The memories that nobody ever asked for again, archived ones left out.';
COMMENT ON COLUMN ltm_never_recalled.user_id IS 'Whose memory it is.';
COMMENT ON COLUMN ltm_never_recalled.id IS 'Number of the memory.';
COMMENT ON COLUMN ltm_never_recalled.summary IS 'The first 80 characters of its content.';
COMMENT ON COLUMN ltm_never_recalled.importance_score IS 'Base importance, 1 to 10.';
COMMENT ON COLUMN ltm_never_recalled.dynamic_importance IS 'Importance now, 0 to 10.';
COMMENT ON COLUMN ltm_never_recalled.importance_rank IS
'The order by importance at any moment, under an index.';
COMMENT ON COLUMN ltm_never_recalled.age IS 'Time since it was created, in whole days.';
COMMENT ON COLUMN ltm_never_recalled.created_at IS 'When it was created.';

CREATE VIEW ltm_suspected_duplicates WITH (security_invoker = TRUE) AS
SELECT
    m.user_id,
    m.id,
    f.id AS duplicate_of,
    ltm_summary(m.content) AS summary,
    timezone('utc', m.created_at) AS created_at,
    timezone('utc', f.created_at) AS first_created_at
FROM ltm_memories AS m
CROSS JOIN
    LATERAL (
        SELECT
            o.id,
            o.created_at
        FROM ltm_memories AS o
        WHERE
            o.user_id = m.user_id
            AND o.content_hash = m.content_hash
            AND o.id < m.id
            AND ltm_normalized_content(o.content) = ltm_normalized_content(m.content)
            AND o.is_archived IS NOT TRUE
            AND (o.expires_at IS NULL OR o.expires_at > now())
        ORDER BY o.id
        LIMIT 1
    ) AS f
WHERE m.is_archived IS NOT TRUE AND (m.expires_at IS NULL OR m.expires_at > now());

COMMENT ON VIEW ltm_suspected_duplicates IS
'The memories that say what an earlier one of the user says, but for letter case and white space; '
'archived ones left out.';
COMMENT ON COLUMN ltm_suspected_duplicates.user_id IS 'Whose memory it is.';
COMMENT ON COLUMN ltm_suspected_duplicates.id IS 'Number of the memory.';
COMMENT ON COLUMN ltm_suspected_duplicates.duplicate_of IS
'The first of the user''s memories that says the same.';
COMMENT ON COLUMN ltm_suspected_duplicates.summary IS 'The first 80 characters of its content.';
COMMENT ON COLUMN ltm_suspected_duplicates.created_at IS 'When it was created.';
COMMENT ON COLUMN ltm_suspected_duplicates.first_created_at IS 'When the first one was created.';

CREATE VIEW ltm_health WITH (security_invoker = TRUE) AS
-- Rows whose memory is gone, which no foreign key lets happen that is there and validated.
SELECT
    'orphan' AS check_name,
    o.user_id,
    format('%s %s', o.table_name, o.id) AS subject,
    format('its %s %s is no memory of this user', o.column_name, o.memory_id) AS detail
FROM (
    SELECT
        'ltm_contexts' AS table_name,
        c.user_id,
        c.id,
        'memory_id' AS column_name,
        c.memory_id
    FROM ltm_contexts AS c
    UNION ALL
    SELECT
        'ltm_memory_tags',
        t.user_id,
        t.id,
        'memory_id',
        t.memory_id
    FROM ltm_memory_tags AS t
    UNION ALL
    SELECT
        'ltm_memory_access',
        a.user_id,
        a.id,
        'memory_id',
        a.memory_id
    FROM ltm_memory_access AS a
    UNION ALL
    SELECT
        'ltm_memory_relationships',
        r.user_id,
        r.id,
        'source_memory_id',
        r.source_memory_id
    FROM ltm_memory_relationships AS r
    UNION ALL
    SELECT
        'ltm_memory_relationships',
        r.user_id,
        r.id,
        'target_memory_id',
        r.target_memory_id
    FROM ltm_memory_relationships AS r
    UNION ALL
    SELECT
        'ltm_memories',
        m.user_id,
        m.id,
        'parent_memory_id',
        m.parent_memory_id
    FROM ltm_memories AS m
    WHERE m.parent_memory_id IS NOT NULL
) AS o
LEFT JOIN ltm_memories AS p ON o.user_id = p.user_id AND o.memory_id = p.id
WHERE p.id IS NULL
UNION ALL
-- What a memory says of its details, and what the tables say.
SELECT
    x.column_name || '_out_of_step' AS check_name,
    x.user_id,
    format('ltm_memories %s', x.id) AS subject,
    format(
        '%s only in %s, %s only in %s',
        (
            SELECT count(*)
            FROM unnest(x.said) AS s (name)
            WHERE s.name <> all(x.held)
        ),
        x.column_name,
        (
            SELECT count(*)
            FROM unnest(x.held) AS h (name)
            WHERE h.name <> all(x.said)
        ),
        x.table_name
    ) AS detail
FROM (
    SELECT
        m.user_id,
        m.id,
        'tags' AS column_name,
        'ltm_memory_tags' AS table_name,
        array(
            SELECT DISTINCT lower(n.tag) AS name
            FROM unnest(ltm_tag_names(m.tags)) AS n (tag)
            ORDER BY name
        ) AS said,
        coalesce(t.names, '{}') AS held
    FROM ltm_memories AS m
    LEFT JOIN (
        SELECT
            w.user_id,
            w.memory_id,
            array_agg(lower(w.tag_name) ORDER BY lower(w.tag_name)) AS names
        FROM ltm_memory_tags AS w
        GROUP BY w.user_id, w.memory_id
    ) AS t ON m.user_id = t.user_id AND m.id = t.memory_id
    UNION ALL
    SELECT
        m.user_id,
        m.id,
        'related_memory_ids',
        'ltm_memory_relationships',
        array(
            SELECT DISTINCT e.id
            FROM
                jsonb_array_elements_text(
                    CASE jsonb_typeof(m.related_memory_ids)
                        WHEN 'array' THEN m.related_memory_ids
                        ELSE '[]'
                    END
                ) AS e (id)
            ORDER BY e.id
        ),
        coalesce(r.targets, '{}')
    FROM ltm_memories AS m
    LEFT JOIN (
        SELECT
            w.user_id,
            w.source_memory_id,
            array_agg(DISTINCT w.target_memory_id::text ORDER BY w.target_memory_id::text)
                AS targets
        FROM ltm_memory_relationships AS w
        GROUP BY w.user_id, w.source_memory_id
    ) AS r ON m.user_id = r.user_id AND m.id = r.source_memory_id
    UNION ALL
    SELECT
        m.user_id,
        m.id,
        'context_data',
        'ltm_contexts',
        ltm_context_fields(m.context_data),
        coalesce(c.fields, '{}')
    FROM ltm_memories AS m
    LEFT JOIN (
        SELECT
            w.user_id,
            w.memory_id,
            array_agg(
                DISTINCT w.context_type || '.' || w.context_key
                ORDER BY w.context_type || '.' || w.context_key
            ) AS fields
        FROM ltm_contexts AS w
        WHERE w.context_value IS NOT NULL
        GROUP BY w.user_id, w.memory_id
    ) AS c ON m.user_id = c.user_id AND m.id = c.memory_id
) AS x
WHERE x.said <> x.held
UNION ALL
SELECT
    s.check_name,
    NULL AS user_id,
    s.subject,
    s.detail
FROM (
    WITH tables AS (
        SELECT
            c.oid,
            c.relname
        FROM pg_class AS c
        WHERE
            c.relname ~ '^ltm_'
            AND c.relnamespace = (
                SELECT h.relnamespace
                FROM pg_class AS h
                WHERE h.oid = 'ltm_memories'::regclass
            )
    )

    SELECT
        'foreign_key_missing' AS check_name,
        k.name::text AS subject,
        format('%s has no such constraint', k.table_name) AS detail
    FROM (
        VALUES
        ('ltm_memories', 'ltm_memories_parent_memory_id_fkey'),
        ('ltm_contexts', 'ltm_contexts_memory_id_fkey'),
        ('ltm_memory_relationships', 'ltm_memory_relationships_source_memory_id_fkey'),
        ('ltm_memory_relationships', 'ltm_memory_relationships_target_memory_id_fkey'),
        ('ltm_memory_access', 'ltm_memory_access_memory_id_fkey'),
        ('ltm_memory_tags', 'ltm_memory_tags_memory_id_fkey')
    ) AS k (table_name, name)
    WHERE
        NOT EXISTS (
            SELECT 1
            FROM pg_constraint AS c
            INNER JOIN tables AS t ON c.conrelid = t.oid
            WHERE t.relname = k.table_name AND c.conname = k.name AND c.contype = 'f'
        )
    UNION ALL
    SELECT
        'constraint_not_validated',
        c.conname::text,
        format('rows of %s may break it: VALIDATE CONSTRAINT tells', t.relname)
    FROM pg_constraint AS c
    INNER JOIN tables AS t ON c.conrelid = t.oid
    WHERE
        NOT c.convalidated
        AND (c.confrelid = 0 OR c.confrelid IN (SELECT o.oid FROM tables AS o))
    UNION ALL
    SELECT
        'index_missing',
        k.name,
        'some reads are slow, or something stands twice: the migrations tell its definition'
    FROM (
        VALUES
        ('ltm_external_users_pkey'), ('ltm_external_users_external_id_key'),
        ('ltm_memories_pkey'), ('ltm_memories_id_idx'), ('ltm_memories_importance_rank_idx'),
        ('ltm_memories_archived_rank_idx'), ('ltm_memories_source_idx'),
        ('ltm_memories_parent_memory_id_idx'), ('ltm_memories_idempotency_key_key'),
        ('ltm_memories_content_hash_idx'), ('ltm_memories_expires_at_idx'),
        ('ltm_memories_tags_gin'), ('ltm_memories_context_data_gin'),
        ('ltm_memories_search_terms_gin'), ('ltm_contexts_pkey'), ('ltm_contexts_memory_id_idx'),
        ('ltm_memory_relationships_pkey'), ('ltm_memory_relationships_ends_and_type_key'),
        ('ltm_memory_relationships_source_memory_id_idx'),
        ('ltm_memory_relationships_target_memory_id_idx'), ('ltm_memory_access_pkey'),
        ('ltm_memory_access_memory_id_idx'), ('ltm_memory_tags_pkey'),
        ('ltm_memory_tags_memory_id_tag_name_key'), ('ltm_adoption_report_pkey'),
        ('ltm_adoption_report_user_id_idx'), ('ltm_adoption_report_row_id_idx')
    ) AS k (name)
    WHERE k.name NOT IN (SELECT t.relname FROM tables AS t)
    UNION ALL
    SELECT
        'index_invalid',
        t.relname::text,
        'nothing reads it: REINDEX INDEX CONCURRENTLY makes it anew'
    FROM pg_index AS i
    INNER JOIN tables AS t ON i.indexrelid = t.oid
    WHERE NOT (i.indisvalid AND i.indisready AND i.indislive)
    UNION ALL
    SELECT
        'dead_rows',
        t.relname::text,
        format(
            '%s of %s rows are dead: VACUUM is behind',
            d.n_dead_tup,
            d.n_dead_tup + d.n_live_tup
        )
    FROM pg_stat_user_tables AS d
    INNER JOIN tables AS t ON d.relid = t.oid
    WHERE d.n_dead_tup >= 10000 AND d.n_dead_tup > 0.3 * (d.n_dead_tup + d.n_live_tup)
    UNION ALL
    SELECT
        'migration_pending',
        k.id,
        'python -m ltm_store.migrate applies it'
    FROM (
        VALUES
        ('0001_importance'), ('0002_search'), ('0003_memories'), ('0004_contexts'),
        ('0005_relationships'), ('0006_accesses'), ('0007_tags'), ('0008_adoption_report'),
        ('0009_views')
    ) AS k (id)
    WHERE
        NOT EXISTS (
            SELECT 1
            FROM ltm_migrations AS a
            WHERE a.migration_id = k.id
        )
    UNION ALL
    SELECT
        'adoption_unfinished',
        n.nspname::text,
        'once the original application is gone: python -m ltm_store.migrate finish_adoption'
    FROM pg_namespace AS n
    WHERE n.nspname = 'ltm_adoption'
) AS s;

COMMENT ON VIEW ltm_health IS
'What is wrong with this database, a row each; no row when all is well. Of one user with WHERE '
'user_id = ...; without it every table is read.';
COMMENT ON COLUMN ltm_health.check_name IS
'orphan; tags_out_of_step, related_memory_ids_out_of_step, context_data_out_of_step; '
'foreign_key_missing, constraint_not_validated, index_missing, index_invalid, dead_rows (at least '
'10,000, and three in ten), migration_pending, adoption_unfinished.';
COMMENT ON COLUMN ltm_health.user_id IS 'Whose row it is about; NULL: it is about the schema.';
COMMENT ON COLUMN ltm_health.subject IS
'The row as table and id, or the name of the constraint, index, table, migration or schema.';
COMMENT ON COLUMN ltm_health.detail IS 'What is wrong, or what helps; never any content.';
