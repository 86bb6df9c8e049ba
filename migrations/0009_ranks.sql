-- The order of importance beside the memories, so that an access leaves their own indexes alone.
-- depends: 0008_adoption_report

-- The foreign key also tells the planner that each memory has one row here.
CREATE TABLE ltm_memory_ranks (
    user_id bigint NOT NULL,
    memory_id bigint NOT NULL,
    importance_rank integer NOT NULL,
    importance_score integer,
    created_at timestamp,
    memory_type varchar(50),
    category varchar(100),
    source_type varchar(50),
    created_by varchar(50),
    namespace text COLLATE "C" NOT NULL,
    is_archived boolean,
    CONSTRAINT ltm_memory_ranks_pkey PRIMARY KEY (user_id, memory_id),
    CONSTRAINT ltm_memory_ranks_memory_id_fkey FOREIGN KEY (user_id, memory_id)
    REFERENCES ltm_memories (user_id, id) ON DELETE CASCADE
) WITH (fillfactor = 80);

COMMENT ON TABLE ltm_memory_ranks IS
'The order of memories by importance: for each its columns of the same names, kept by triggers on '
'ltm_memories.';
COMMENT ON COLUMN ltm_memory_ranks.user_id IS 'Whose memory it is.';
COMMENT ON COLUMN ltm_memory_ranks.memory_id IS 'The memory.';
COMMENT ON COLUMN ltm_memory_ranks.importance_rank IS
'Order key of importance: the order by it is that by importance at any moment.';
COMMENT ON COLUMN ltm_memory_ranks.importance_score IS 'Base importance, 1 to 10.';
COMMENT ON COLUMN ltm_memory_ranks.created_at IS 'When the memory was created, UTC.';
COMMENT ON COLUMN ltm_memory_ranks.memory_type IS 'preference, fact, ..., or another word.';
COMMENT ON COLUMN ltm_memory_ranks.category IS 'The caller''s own grouping.';
COMMENT ON COLUMN ltm_memory_ranks.source_type IS
'conversation, tool_usage, ..., or another word.';
COMMENT ON COLUMN ltm_memory_ranks.created_by IS 'Who wrote it.';
COMMENT ON COLUMN ltm_memory_ranks.namespace IS 'What of the user''s it belongs to; empty: none.';
COMMENT ON COLUMN ltm_memory_ranks.is_archived IS 'Whether the memory is put away; may be NULL.';
COMMENT ON INDEX ltm_memory_ranks_pkey IS 'One row of one memory.';

-- What comes after the id is looked at in the index itself: a filter that few of many memories pass
-- reads few of the rows.
CREATE INDEX ltm_memory_ranks_importance_rank_idx
ON ltm_memory_ranks (
    user_id, importance_rank DESC, memory_id DESC,
    importance_score, created_at, memory_type, category, source_type, created_by, namespace
)
WHERE is_archived IS NOT TRUE;
COMMENT ON INDEX ltm_memory_ranks_importance_rank_idx IS
'A user''s memories in the order of their importance at any moment, archived ones left out.';

CREATE INDEX ltm_memory_ranks_archived_rank_idx
ON ltm_memory_ranks (
    user_id, importance_rank DESC, memory_id DESC,
    importance_score, created_at, memory_type, category, source_type, created_by, namespace
)
WHERE is_archived;
COMMENT ON INDEX ltm_memory_ranks_archived_rank_idx IS
'The archived ones in the same order, for a reader that wants them too.';

-- With the rights of its owner: who may write memories needs none here.
CREATE FUNCTION ltm_keep_rank()
RETURNS trigger
LANGUAGE plpgsql
SECURITY DEFINER
AS $$
BEGIN
    IF TG_OP = 'UPDATE' THEN
        UPDATE ltm_memory_ranks AS k
        SET
            importance_rank = NEW.importance_rank,
            importance_score = NEW.importance_score,
            created_at = NEW.created_at,
            memory_type = NEW.memory_type,
            category = NEW.category,
            source_type = NEW.source_type,
            created_by = NEW.created_by,
            namespace = NEW.namespace,
            is_archived = NEW.is_archived
        WHERE k.user_id = NEW.user_id AND k.memory_id = NEW.id;
        IF FOUND THEN
            RETURN NULL;
        END IF;
    END IF;
    INSERT INTO ltm_memory_ranks (
        user_id, memory_id, importance_rank, importance_score, created_at, memory_type, category,
        source_type, created_by, namespace, is_archived
    )
    VALUES (
        NEW.user_id, NEW.id, NEW.importance_rank, NEW.importance_score, NEW.created_at,
        NEW.memory_type, NEW.category, NEW.source_type, NEW.created_by, NEW.namespace,
        NEW.is_archived
    );
    RETURN NULL;
END
$$;

COMMENT ON FUNCTION ltm_keep_rank() IS
'Keeps the row of a memory in ltm_memory_ranks, whoever writes the memory, from any search_path.';

DO $$
BEGIN
    EXECUTE format(
        'ALTER FUNCTION ltm_keep_rank() SET search_path = %I, pg_temp', current_schema()
    );
END
$$;

CREATE TRIGGER ltm_memories_keep_rank
AFTER INSERT ON ltm_memories
FOR EACH ROW EXECUTE FUNCTION ltm_keep_rank();

-- A generated column cannot be listed behind UPDATE OF.
CREATE TRIGGER ltm_memories_keep_changed_rank
AFTER UPDATE ON ltm_memories
FOR EACH ROW
WHEN (
    (
        old.importance_rank, old.importance_score, old.created_at, old.memory_type, old.category,
        old.source_type, old.created_by, old.namespace, old.is_archived
    )
    IS DISTINCT FROM
    (
        new.importance_rank, new.importance_score, new.created_at, new.memory_type, new.category,
        new.source_type, new.created_by, new.namespace, new.is_archived
    )
)
EXECUTE FUNCTION ltm_keep_rank();
