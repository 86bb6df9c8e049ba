-- The tables on this node alone again, with all their rows: new ones are filled and take the place of
-- the others. Citus gives no tables with identity columns back by itself.

DO $$
DECLARE
    home CONSTANT text := quote_ident(current_schema());
    item record;
BEGIN
    CREATE TEMPORARY TABLE spread ON COMMIT DROP AS
    SELECT
        c.oid,
        c.relname AS name,
        format('%s.%I', home, c.relname) AS old,
        format('ltm_gathered.%I', c.relname) AS new,
        c.relkind = 'p' AS has_parts,
        c.relispartition AS is_part,
        s.sequence,
        s.numbered,
        (
            SELECT string_agg(quote_ident(a.attname), ', ' ORDER BY a.attnum)
            FROM pg_attribute AS a
            WHERE
                a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = ''
        ) AS columns
    FROM pg_dist_partition AS d
    INNER JOIN pg_class AS c ON d.logicalrelid = c.oid
    LEFT JOIN LATERAL (
        SELECT
            a.attname AS numbered,
            pg_get_serial_sequence(format('%s.%I', home, c.relname), a.attname)::regclass AS sequence
        FROM pg_attribute AS a
        WHERE a.attrelid = c.oid AND a.attidentity <> '' AND NOT c.relispartition
    ) AS s ON TRUE
    WHERE c.relnamespace = home::regnamespace AND c.relname ~ '^ltm_';

    IF EXISTS (SELECT FROM spread AS t INNER JOIN pg_publication_rel AS r ON t.oid = r.prrelid) THEN
        RAISE EXCEPTION 'tables are in a publication: take them out meanwhile';
    END IF;

    -- What a new table lacks, in the order in which it gets it.
    CREATE TEMPORARY TABLE lacking ON COMMIT DROP AS
    SELECT
        1 AS place,
        format('ALTER TABLE %s OWNER TO %I', t.old, pg_get_userbyid(c.relowner)) AS command
    FROM spread AS t INNER JOIN pg_class AS c ON t.oid = c.oid
    UNION ALL
    SELECT
        2,
        format('ALTER TABLE %s SET (%s)', t.old, array_to_string(c.reloptions, ', '))
    FROM spread AS t INNER JOIN pg_class AS c ON t.oid = c.oid
    WHERE c.reloptions IS NOT NULL
    UNION ALL
    SELECT
        3,
        format(
            'GRANT %s%s ON %s%s TO %s%s',
            x.privilege_type,
            CASE WHEN r.attname IS NOT NULL THEN format(' (%I)', r.attname) END,
            CASE WHEN r.oid = t.sequence THEN 'SEQUENCE ' END,
            r.oid::regclass,
            CASE x.grantee WHEN 0 THEN 'PUBLIC' ELSE x.grantee::regrole::text END,
            CASE WHEN x.is_grantable THEN ' WITH GRANT OPTION' END
        )
    FROM spread AS t
    INNER JOIN LATERAL (
        SELECT
            c.oid,
            c.relowner,
            c.relacl AS rights,
            NULL AS attname
        FROM pg_class AS c
        WHERE c.oid IN (t.oid, t.sequence)
        UNION ALL
        SELECT
            a.attrelid,
            NULL,
            a.attacl,
            a.attname
        FROM pg_attribute AS a
        WHERE a.attrelid = t.oid
    ) AS r ON TRUE
    CROSS JOIN LATERAL aclexplode(r.rights) AS x
    WHERE x.grantee IS DISTINCT FROM r.relowner
    UNION ALL
    SELECT
        CASE WHEN k.contype <> 'f' THEN 4 ELSE 7 END,
        format('ALTER TABLE %s ADD CONSTRAINT %I %s', t.old, k.conname, pg_get_constraintdef(k.oid))
    FROM spread AS t INNER JOIN pg_constraint AS k ON t.oid = k.conrelid
    WHERE k.contype IN ('p', 'u', 'x', 'f') AND k.conparentid = 0
    UNION ALL
    SELECT
        5,
        pg_get_indexdef(i.indexrelid)
    FROM spread AS t INNER JOIN pg_index AS i ON t.oid = i.indrelid
    WHERE
        NOT EXISTS (
            SELECT FROM pg_constraint AS k
            WHERE k.conindid = i.indexrelid AND k.contype <> 'f'
        )
    UNION ALL
    SELECT
        6,
        format(
            'ALTER TABLE %s ATTACH PARTITION %s %s',
            h.inhparent::regclass,
            t.old,
            pg_get_expr(c.relpartbound, c.oid)
        )
    FROM spread AS t
    INNER JOIN pg_class AS c ON t.oid = c.oid
    INNER JOIN pg_inherits AS h ON t.oid = h.inhrelid
    UNION ALL
    SELECT
        8,
        pg_get_triggerdef(g.oid)
    FROM spread AS t INNER JOIN pg_trigger AS g ON t.oid = g.tgrelid
    WHERE NOT g.tgisinternal
    UNION ALL
    SELECT
        9,
        format('COMMENT ON %s IS %L', c.target, c.comment)
    FROM (
        SELECT
            'TABLE ' || t.old AS target,
            obj_description(t.oid, 'pg_class') AS comment
        FROM spread AS t
        UNION ALL
        SELECT
            'INDEX ' || i.indexrelid::regclass,
            obj_description(i.indexrelid, 'pg_class')
        FROM spread AS t INNER JOIN pg_index AS i ON t.oid = i.indrelid
        UNION ALL
        SELECT
            format('CONSTRAINT %I ON %s', k.conname, t.old),
            obj_description(k.oid, 'pg_constraint')
        FROM spread AS t INNER JOIN pg_constraint AS k ON t.oid = k.conrelid
        UNION ALL
        SELECT
            format('TRIGGER %I ON %s', g.tgname, t.old),
            obj_description(g.oid, 'pg_trigger')
        FROM spread AS t INNER JOIN pg_trigger AS g ON t.oid = g.tgrelid
    ) AS c
    WHERE c.comment IS NOT NULL;

    EXECUTE (
        SELECT format(
            'LOCK TABLE %s IN ACCESS EXCLUSIVE MODE',
            string_agg(t.old, ', ' ORDER BY t.name <> 'ltm_memories', NOT t.has_parts, t.name)
        )
        FROM spread AS t
    );
    CREATE SCHEMA ltm_gathered;
    FOR item IN SELECT t.* FROM spread AS t LOOP
        EXECUTE format(
            'CREATE TABLE %s (LIKE %s INCLUDING ALL EXCLUDING INDEXES %s) %s',
            item.new,
            item.old,
            CASE WHEN item.is_part THEN 'EXCLUDING IDENTITY' END,
            CASE WHEN item.has_parts THEN 'PARTITION BY ' || pg_get_partkeydef(item.oid) END
        );
        IF NOT item.has_parts THEN
            EXECUTE format(
                'INSERT INTO %s (%s) SELECT %s FROM %s',
                item.new, item.columns, item.columns, item.old
            );
        END IF;
        IF item.sequence IS NOT NULL THEN
            EXECUTE format(
                'SELECT setval(%L, s.last_value, s.is_called) FROM %s AS s',
                pg_get_serial_sequence(item.new, item.numbered),
                item.sequence::regclass
            );
        END IF;
    END LOOP;

    EXECUTE (SELECT 'DROP TABLE ' || string_agg(t.old, ', ') FROM spread AS t);
    FOR item IN SELECT t.* FROM spread AS t LOOP
        EXECUTE format('ALTER TABLE %s SET SCHEMA %s', item.new, home);
    END LOOP;
    DROP SCHEMA ltm_gathered;
    FOR item IN SELECT l.command FROM lacking AS l ORDER BY l.place, l.command LOOP
        EXECUTE item.command;
    END LOOP;
END
$$;
