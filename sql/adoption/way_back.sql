-- How changes of the new tables are carried back to the original ones.

-- A statement for one table, for the rows whose key is in `ids`.
CREATE OR REPLACE FUNCTION ltm_adoption.way_back_statement(
    kind text, home text, table_of text, key_of text
) RETURNS text LANGUAGE plpgsql STABLE AS $$
DECLARE
    theirs text := format('ltm_original.%I', table_of);
    ours text := format('%I.%I', home, table_of);
    repaired text;
    memory_key text;
    mark bigint := coalesce(
        (SELECT m.last_id FROM ltm_adoption.marks AS m WHERE m.table_name = table_of), -1
    );
    same_user text := 'AND n.user_id = r.user_id';
    known text;
    typed text;
    assignments text;
    written text;
    repairs text;
BEGIN
    IF table_of = 'ltm_memories' THEN  -- a memory may be given to another user
        same_user := '';
        mark := -1;
    END IF;
    SELECT
        format('ltm_adoption.%I', 'repaired_' || o.view_name),
        coalesce(key_of, o.memory_key),
        string_agg(format('%I', c.name), ', ' ORDER BY c.place),
        string_agg(format('n.%I::%s', c.name, c.type), ', ' ORDER BY c.place),
        string_agg(
            format(
                '%1$I = CASE WHEN n.%1$I IS DISTINCT FROM r.%1$I THEN n.%1$I::%2$s ELSE o.%1$I END',
                c.name, c.type
            ),
            ', ' ORDER BY c.place
        ) FILTER (WHERE c.name = any(o.column_names)),
        string_agg(format('n.%I', c.name), ', ' ORDER BY c.place)
            FILTER (WHERE c.name = any(o.column_names)),
        string_agg(format('r.%I', c.name), ', ' ORDER BY c.place)
            FILTER (WHERE c.name = any(o.column_names))
    INTO STRICT repaired, memory_key, known, typed, assignments, written, repairs
    FROM ltm_adoption.originals AS o
    INNER JOIN (
        SELECT a.attname AS name, format_type(a.atttypid, a.atttypmod) AS type, a.attnum AS place
        FROM pg_attribute AS a
        WHERE a.attrelid = theirs::regclass AND a.attnum > 0 AND NOT a.attisdropped
    ) AS c ON c.name <> 'id' AND (c.name = any(o.column_names) OR c.name = 'user_id')
    WHERE o.table_name = table_of
    GROUP BY o.table_name;
    RETURN CASE kind
        -- Only what differs from the repaired value, so that the original's own values stay.
        WHEN 'changed' THEN format(
            'UPDATE %1$s AS o SET %2$s FROM %3$s AS n JOIN %4$s AS r ON r.id = n.id %5$s '
            'WHERE o.id = n.id AND n.%6$I = any(ids) AND r.%6$I = any(ids) '
            'AND (%7$s) IS DISTINCT FROM (%8$s);',
            theirs, assignments, ours, repaired, same_user, memory_key, written, repairs
        )
        WHEN 'deleted' THEN format(
            'DELETE FROM %1$s AS o USING %2$s AS r WHERE r.id = o.id AND r.%3$I = any(ids) '
            'AND NOT EXISTS (SELECT 1 FROM %4$s AS n WHERE n.id = r.id %5$s);',
            theirs, repaired, memory_key, ours, same_user
        )
        WHEN 'of deleted memories' THEN format(
            'DELETE FROM %1$s AS o WHERE o.%2$I = any(ids) '
            'AND NOT EXISTS (SELECT 1 FROM %3$I.ltm_memories AS n WHERE n.id = o.%2$I);',
            theirs, memory_key, home
        )
        WHEN 'added' THEN format(
            'INSERT INTO %1$s (id, %2$s) OVERRIDING SYSTEM VALUE '
            'SELECT n.id, %3$s FROM %4$s AS n '
            'WHERE n.%5$I = any(ids) AND n.user_id >= 0 AND n.id > %6$s '
            'AND NOT EXISTS (SELECT 1 FROM %1$s AS o WHERE o.id = n.id) ON CONFLICT DO NOTHING;',
            theirs, known, typed, ours, memory_key, mark
        )
    END;
END
$$;

CREATE OR REPLACE FUNCTION ltm_adoption.make_way_back(home text, tables text[]) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    memories text := ltm_adoption.way_back_statement('changed', home, 'ltm_memories', NULL);
    accesses text := '';
    name text;
    kind text;
BEGIN
    FOREACH name IN ARRAY tables LOOP
        CONTINUE WHEN name IN ('ltm_memories', 'ltm_memory_access');
        FOREACH kind IN ARRAY ARRAY['deleted', 'changed', 'of deleted memories', 'added'] LOOP
            memories := memories || ltm_adoption.way_back_statement(kind, home, name, NULL);
        END LOOP;
    END LOOP;
    IF 'ltm_memory_access' = any(tables) THEN
        memories := memories || ltm_adoption.way_back_statement(
            'of deleted memories', home, 'ltm_memory_access', NULL
        );
        FOREACH kind IN ARRAY ARRAY['deleted', 'changed', 'added'] LOOP
            accesses := accesses || ltm_adoption.way_back_statement(
                kind, home, 'ltm_memory_access', 'id'
            );
        END LOOP;
    END IF;
    FOREACH kind IN ARRAY ARRAY['deleted', 'added'] LOOP
        memories := memories || ltm_adoption.way_back_statement(kind, home, 'ltm_memories', NULL);
    END LOOP;
    EXECUTE format(
        'CREATE OR REPLACE FUNCTION ltm_adoption.return_memories(ids bigint[]) RETURNS void '
        'LANGUAGE plpgsql AS %L', 'BEGIN ' || memories || ' END'
    );
    EXECUTE format(
        'CREATE OR REPLACE FUNCTION ltm_adoption.return_accesses(ids bigint[]) RETURNS void '
        'LANGUAGE plpgsql AS %L', 'BEGIN ' || accesses || ' END'
    );
END
$$;
