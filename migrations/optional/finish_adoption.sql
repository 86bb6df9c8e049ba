-- The original application is gone: drop its tables, and the triggers that served its way of writing.
-- There is no way back from here.

DO $$
DECLARE
    home text;
    name text;
BEGIN
    SELECT DISTINCT s.home INTO STRICT home FROM ltm_adoption.steps AS s;
    IF NOT EXISTS (SELECT 1 FROM ltm_adoption.steps AS s WHERE s.step = 'validate') THEN
        RAISE EXCEPTION 'the adoption has not come to its end: apply goes on with it';
    END IF;
    -- Nobody writes from here on; what was written since the last look is looked at now.
    EXECUTE format(
        'LOCK TABLE %1$I.ltm_contexts, %1$I.ltm_memories, %1$I.ltm_memory_access, '
        '%1$I.ltm_memory_relationships, %1$I.ltm_memory_tags IN ACCESS EXCLUSIVE MODE', home
    );
    PERFORM set_config('search_path', format('ltm_adoption, %I', home), TRUE);
    PERFORM ltm_adoption.settle(array(
        SELECT DISTINCT c.row_id
        FROM ltm_adoption.changes AS c
        INNER JOIN ltm_adoption.progress AS p ON p.kind = 'settled' AND c.id > p.last_id
        WHERE c.kind = 'memory' AND NOT c.is_settled
    ));
    FOREACH name IN ARRAY ARRAY[
        'ltm_contexts', 'ltm_memories', 'ltm_memory_access', 'ltm_memory_relationships',
        'ltm_memory_tags'
    ] LOOP
        EXECUTE format('DROP TRIGGER ltm_adoption_note ON %I.%I', home, name);
        EXECUTE format('DROP TRIGGER ltm_adoption_truncate ON %I.%I', home, name);
        EXECUTE format('DROP TRIGGER IF EXISTS ltm_adoption_user ON %I.%I', home, name);
    END LOOP;
    FOR name IN
        SELECT format('%I.%I', home, d.name)
        FROM ltm_adoption.deferred AS d
        WHERE d.name LIKE '%\_original\_%'
    LOOP
        -- The unique id stays where foreign keys of others lead to it.
        IF NOT EXISTS (
            SELECT 1 FROM pg_constraint AS c
            WHERE c.contype = 'f' AND c.conindid = to_regclass(name)
        ) THEN
            EXECUTE format('DROP INDEX IF EXISTS %s', name);
        END IF;
    END LOOP;
END
$$;

DROP SCHEMA ltm_adoption CASCADE;

-- Without CASCADE: what somebody has made on the old tables since is not ours to drop.
DROP TABLE IF EXISTS
ltm_original.ltm_memory_tags,
ltm_original.ltm_memory_access,
ltm_original.ltm_memory_relationships,
ltm_original.ltm_contexts,
ltm_original.ltm_memories;

DROP SEQUENCE IF EXISTS
ltm_original.ltm_memory_tags_id_seq,
ltm_original.ltm_memory_access_id_seq,
ltm_original.ltm_memory_relationships_id_seq,
ltm_original.ltm_contexts_id_seq,
ltm_original.ltm_memories_id_seq;

DROP SCHEMA ltm_original;
