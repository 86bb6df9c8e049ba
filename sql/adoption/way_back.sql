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
    changed text;
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
            CASE WHEN c.name = any(o.column_names)
                THEN format(
                    'CASE WHEN n.%1$I IS DISTINCT FROM r.%1$I THEN n.%1$I::%2$s ELSE o.%1$I END',
                    c.name, c.type
                )
                ELSE format('o.%I', c.name)
            END,
            ', ' ORDER BY c.place
        ),
        string_agg(format('n.%I', c.name), ', ' ORDER BY c.place)
            FILTER (WHERE c.name = any(o.column_names)),
        string_agg(format('r.%I', c.name), ', ' ORDER BY c.place)
            FILTER (WHERE c.name = any(o.column_names))
    INTO STRICT repaired, memory_key, known, typed, changed, written, repairs
    FROM ltm_adoption.originals AS o
    INNER JOIN (
        SELECT a.attname AS name, format_type(a.atttypid, a.atttypmod) AS type, a.attnum AS place
        FROM pg_attribute AS a
        WHERE a.attrelid = theirs::regclass AND a.attnum > 0 AND NOT a.attisdropped
    ) AS c ON c.name <> 'id' AND (c.name = any(o.column_names) OR c.name = 'user_id')
    WHERE o.table_name = table_of
    GROUP BY o.table_name;
    RETURN CASE kind
        -- Rows that changed are taken out and put in again: a unique value may have come from another one.
        -- Only what differs from the repaired value, so that the original's own values stay. Those rows are
        -- looked up first: the planner would else read all rows of the user for each.
        WHEN 'carried' THEN format(
            'WITH r AS MATERIALIZED (SELECT * FROM %4$s WHERE %7$I = any(ids)), '
            'taken (is_there, id, %2$s) AS ('
            'DELETE FROM %1$s AS o USING r LEFT JOIN %5$s AS n ON n.id = r.id %6$s '
            'WHERE o.id = r.id AND (n.id IS NULL OR (%8$s) IS DISTINCT FROM (%9$s)) '
            'RETURNING n.id IS NOT NULL, o.id, %3$s) '
            'INSERT INTO %1$s (id, %2$s) OVERRIDING SYSTEM VALUE '
            'SELECT t.id, %2$s FROM taken AS t WHERE t.is_there ORDER BY t.id;',
            theirs, known, changed, repaired, ours, same_user, memory_key, written, repairs
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
            'AND NOT EXISTS (SELECT 1 FROM %1$s AS o WHERE o.id = n.id) %7$s;',
            theirs, known, typed, ours, memory_key, mark,
            CASE WHEN table_of <> 'ltm_memories' THEN 'ON CONFLICT DO NOTHING' END
        )
    END;
END
$$;

CREATE OR REPLACE FUNCTION ltm_adoption.make_way_back(home text, tables text[]) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    memories text := ltm_adoption.way_back_statement('carried', home, 'ltm_memories', NULL);
    accesses text := '';
    name text;
    kind text;
BEGIN
    FOREACH name IN ARRAY tables LOOP
        CONTINUE WHEN name = 'ltm_memories';
        memories := memories
            || ltm_adoption.way_back_statement('of deleted memories', home, name, NULL);
        IF name = 'ltm_memory_relationships' THEN
            memories := memories || ltm_adoption.way_back_statement(
                'of deleted memories', home, name, 'target_memory_id'
            );
        END IF;
        FOREACH kind IN ARRAY ARRAY['carried', 'added'] LOOP
            IF name = 'ltm_memory_access' THEN
                accesses := accesses
                    || ltm_adoption.way_back_statement(kind, home, name, 'id');
            ELSE
                memories := memories || ltm_adoption.way_back_statement(kind, home, name, NULL);
            END IF;
        END LOOP;
    END LOOP;
    memories := memories || ltm_adoption.way_back_statement('added', home, 'ltm_memories', NULL);
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
