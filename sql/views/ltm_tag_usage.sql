CREATE OR REPLACE VIEW ltm_tag_usage WITH (security_invoker = TRUE) AS
SELECT
    x.user_id,
    x.*  -- columns: tag_usage
FROM (
    SELECT
        m.user_id,
        m.*  -- columns: tag_use
    FROM ltm_memory_tags AS m
    WHERE
        NOT EXISTS (
            SELECT 1
            FROM ltm_memories AS o
            WHERE m.user_id = o.user_id AND m.memory_id = o.id AND o.expires_at <= now()
        )
    GROUP BY m.user_id, m.tag_name, coalesce(m.tag_category, 'general')
) AS x
GROUP BY x.user_id, ltm_lower(x.tag);

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
