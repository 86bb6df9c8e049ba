CREATE OR REPLACE VIEW ltm_memory_graph WITH (security_invoker = TRUE) AS
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
    ltm_is_current(s.expires_at, now())
    AND ltm_is_current(t.expires_at, now());

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
