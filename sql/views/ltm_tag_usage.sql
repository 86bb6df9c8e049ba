-- First by spelling and category, which takes no sorting.
CREATE OR REPLACE VIEW ltm_tag_usage WITH (security_invoker = TRUE) AS
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
