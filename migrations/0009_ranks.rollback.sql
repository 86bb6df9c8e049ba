DROP TRIGGER ltm_memories_keep_changed_rank ON ltm_memories;

DROP TRIGGER ltm_memories_keep_rank ON ltm_memories;

DROP FUNCTION ltm_keep_rank();

DROP TABLE ltm_memory_ranks;
