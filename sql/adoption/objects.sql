-- What operators have made on the original tables: looked at, made again on ours, or kept as a script.

-- name: objects(home text, tables text[]) :many
-- What the original application does not make itself and ours has not: table, kind, name, the command that
-- makes it on ours, and whether ours says otherwise, so that it is left to the operator.
WITH theirs AS (
    SELECT
        c.oid,
        c.relname,
        c.reltoastrelid,
        c.reloptions,
        c.relreplident,
        c.relpersistence,
        c.reltablespace,
        n.oid AS our_oid,
        n.reloptions AS our_options
    FROM pg_class AS c
    INNER JOIN pg_class AS n ON c.relname = n.relname AND n.relnamespace = 'ltm_next'::regnamespace
    WHERE c.relnamespace = quote_ident($1::text)::regnamespace AND c.relname = any($2::text[])
),

own_indexes (relname, shape) AS (
    VALUES
    ('ltm_memories', '(id)'),
    ('ltm_memories', '(user_id)'),
    ('ltm_memories', '(memory_type)'),
    ('ltm_memories', '(category)'),
    ('ltm_memories', '(importance_score)'),
    ('ltm_memories', '(dynamic_importance)'),
    ('ltm_memories', '(source_type)'),
    ('ltm_memories', '(created_at)'),
    ('ltm_memories', '(last_accessed)'),
    ('ltm_memories', '(parent_memory_id)'),
    ('ltm_contexts', '(id)'),
    ('ltm_contexts', '(memory_id)'),
    ('ltm_contexts', '(context_type, context_key)'),
    ('ltm_memory_relationships', '(id)'),
    ('ltm_memory_relationships', '(source_memory_id)'),
    ('ltm_memory_relationships', '(target_memory_id)'),
    ('ltm_memory_relationships', '(source_memory_id, target_memory_id, relationship_type)'),
    ('ltm_memory_access', '(id)'),
    ('ltm_memory_access', '(memory_id)'),
    ('ltm_memory_access', '(access_timestamp)'),
    ('ltm_memory_tags', '(id)'),
    ('ltm_memory_tags', '(memory_id)'),
    ('ltm_memory_tags', '(memory_id, tag_name)'),
    ('ltm_memory_tags', '(tag_name)'),
    ('ltm_memory_tags', '(tag_category)')
),

indexes AS (
    SELECT
        t.relname,
        t.oid AS table_oid,
        i.indexrelid,
        x.relname AS name,
        i.indisclustered,
        i.indisreplident,
        pg_get_indexdef(i.indexrelid, 0, TRUE) AS command
    FROM theirs AS t
    INNER JOIN pg_index AS i ON t.oid = i.indrelid
    INNER JOIN pg_class AS x ON i.indexrelid = x.oid
    WHERE
        i.indisvalid
        AND NOT i.indisprimary
        AND x.relname NOT LIKE t.relname || '\_adoption\_%'
        AND NOT EXISTS (
            SELECT 1
            FROM own_indexes AS o
            WHERE
                o.relname = t.relname
                AND pg_get_indexdef(i.indexrelid, 0, TRUE) LIKE '% USING btree ' || o.shape
        )
        AND NOT EXISTS (
            SELECT 1
            FROM pg_index AS n
            WHERE
                n.indrelid = t.our_oid
                AND n.indisunique = i.indisunique
                AND substring(pg_get_indexdef(n.indexrelid, 0, TRUE) FROM ' USING .*$')
                = substring(pg_get_indexdef(i.indexrelid, 0, TRUE) FROM ' USING .*$')
        )
),

constraints AS (
    SELECT
        t.relname,
        c.oid,
        c.conname AS name,
        c.contype,
        c.conindid,
        pg_get_constraintdef(c.oid) AS definition
    FROM theirs AS t
    INNER JOIN pg_constraint AS c ON t.oid = c.conrelid
    WHERE
        (
            c.contype = 'c'
            OR c.contype IN ('u', 'x') AND c.conindid IN (SELECT i.indexrelid FROM indexes AS i)
        )
        AND NOT EXISTS (
            SELECT 1
            FROM pg_constraint AS n
            WHERE
                n.conrelid = t.our_oid
                AND pg_get_constraintdef(n.oid) = pg_get_constraintdef(c.oid)
        )
),

columns AS (
    SELECT
        t.relname,
        t.oid,
        a.attname AS name,
        a.attnum,
        a.attnotnull AND NOT n.attnotnull AND (t.relname, a.attname) <> ('ltm_memories', 'tags')
            AS is_stricter,
        n.atthasdef AS is_always_written,
        CASE WHEN a.attidentity = '' AND a.attname <> 'id' THEN pg_get_expr(d.adbin, d.adrelid) END
            AS written_default,
        pg_get_expr(e.adbin, e.adrelid) AS our_default,
        nullif(coalesce(a.attstattarget, -1), -1) AS target,
        a.attoptions,
        CASE
            WHEN a.attstorage <> y.typstorage AND a.atttypid = n.atttypid
                THEN
                    CASE a.attstorage
                        WHEN 'p' THEN 'PLAIN' WHEN 'e' THEN 'EXTERNAL'
                        WHEN 'm' THEN 'MAIN' WHEN 'x' THEN 'EXTENDED'
                    END
        END AS storage,
        CASE a.attcompression WHEN 'p' THEN 'pglz' WHEN 'l' THEN 'lz4' END AS compression,
        CASE
            WHEN a.attcollation <> y.typcollation
                THEN
                    format(
                        'TYPE %s COLLATE %s',
                        format_type(n.atttypid, n.atttypmod), a.attcollation::regcollation
                    )
        END AS collation_name,
        col_description(t.oid, a.attnum) AS comment,
        col_description(t.our_oid, n.attnum) AS our_comment
    FROM theirs AS t
    INNER JOIN pg_attribute AS a ON t.oid = a.attrelid AND a.attnum > 0 AND NOT a.attisdropped
    INNER JOIN pg_attribute AS n ON t.our_oid = n.attrelid AND a.attname = n.attname
    INNER JOIN pg_type AS y ON a.atttypid = y.oid
    LEFT JOIN pg_attrdef AS d ON t.oid = d.adrelid AND a.attnum = d.adnum
    LEFT JOIN pg_attrdef AS e ON t.our_oid = e.adrelid AND n.attnum = e.adnum
),

options AS (
    SELECT
        t.relname,
        o.name,
        o.name || ' = ' || quote_literal(o.value) AS written,
        o.name IN (
            SELECT split_part(u.option, '=', 1) FROM unnest(t.our_options) AS u (option)
        ) AS is_ours
    FROM theirs AS t
    LEFT JOIN pg_class AS s ON t.reltoastrelid = s.oid
    CROSS JOIN
        LATERAL (
            SELECT
                p.prefix || split_part(u.option, '=', 1) AS name,
                substring(u.option FROM position('=' IN u.option) + 1) AS value,
                u.option
            FROM (VALUES ('', t.reloptions), ('toast.', s.reloptions)) AS p (prefix, options)
            CROSS JOIN LATERAL unnest(p.options) AS u (option)
        ) AS o
    WHERE o.option <> all(coalesce(t.our_options, '{}'))
),

found (place, relname, kind, name, command, is_against) AS (
    SELECT 1, i.relname, 'index', i.name::text, i.command, FALSE
    FROM indexes AS i
    WHERE i.indexrelid NOT IN (SELECT c.conindid FROM constraints AS c)
    UNION ALL
    SELECT
        1,
        c.relname,
        CASE c.contype WHEN 'c' THEN 'check' WHEN 'u' THEN 'unique' ELSE 'exclusion' END,
        c.name::text,
        format('ALTER TABLE %I ADD CONSTRAINT %I %s', c.relname, c.name, c.definition),
        FALSE
    FROM constraints AS c
    UNION ALL
    SELECT
        2,
        c.relname,
        'default',
        c.name::text,
        format('ALTER TABLE %I ALTER %I SET DEFAULT %s', c.relname, c.name, c.written_default),
        c.our_default IS NOT NULL
    FROM columns AS c
    WHERE
        split_part(c.written_default, '::', 1)
        IS DISTINCT FROM split_part(c.our_default, '::', 1)
        -- The time of writing is the original's own way.
        AND c.written_default !~* '^\(?(current_timestamp|localtimestamp|now\(\)|timezone\(.utc)'
    UNION ALL
    SELECT
        3,
        c.relname,
        'not null',
        c.name::text,
        format('ALTER TABLE %I ALTER %I SET NOT NULL', c.relname, c.name),
        NOT c.is_always_written
    FROM columns AS c
    WHERE c.is_stricter
    UNION ALL
    SELECT
        4, o.relname, 'storage parameter', o.name,
        format('ALTER TABLE %I SET (%s)', o.relname, o.written), o.is_ours
    FROM options AS o
    UNION ALL
    SELECT
        4,
        c.relname,
        v.kind,
        c.name::text,
        format('ALTER TABLE %I ALTER %I %s', c.relname, c.name, v.what),
        v.is_against
    FROM columns AS c
    CROSS JOIN
        LATERAL (
            VALUES
            ('statistics', 'SET STATISTICS ' || c.target, FALSE),
            ('statistics', format('SET (%s)', array_to_string(c.attoptions, ', ')), FALSE),
            ('storage', 'SET STORAGE ' || c.storage, FALSE),
            ('storage', 'SET COMPRESSION ' || c.compression, FALSE),
            ('collation', c.collation_name, TRUE)
        ) AS v (kind, what, is_against)
    WHERE
        v.what <> 'SET ()'
    UNION ALL
    SELECT
        5,
        t.relname,
        'statistics',
        s.stxname::text,
        replace(
            pg_get_statisticsobjdef(s.oid),
            format(' %I.%I ', n.nspname, s.stxname),
            format(' %I ', s.stxname)
        ),
        FALSE
    FROM theirs AS t
    INNER JOIN pg_statistic_ext AS s ON t.oid = s.stxrelid
    INNER JOIN pg_namespace AS n ON s.stxnamespace = n.oid
    UNION ALL
    SELECT
        5,
        t.relname,
        'sequence',
        'id',
        format('ALTER TABLE %I ALTER id SET INCREMENT BY %s', t.relname, q.seqincrement),
        FALSE
    FROM theirs AS t
    INNER JOIN pg_sequence AS q ON q.seqrelid = ltm_adoption.sequence_of($1, t.relname)
    WHERE q.seqincrement <> 1
    UNION ALL
    SELECT
        6, t.relname, 'storage', 'tablespace',
        format('ALTER TABLE %I SET TABLESPACE %I', t.relname, p.spcname), TRUE
    FROM theirs AS t
    INNER JOIN pg_tablespace AS p ON t.reltablespace = p.oid
    UNION ALL
    SELECT
        6, t.relname, 'storage', 'unlogged', format('ALTER TABLE %I SET UNLOGGED', t.relname), TRUE
    FROM theirs AS t
    WHERE t.relpersistence = 'u'
    UNION ALL
    SELECT
        7, i.relname, 'storage', i.name::text,
        format('ALTER TABLE %I CLUSTER ON %I', i.relname, i.name), FALSE
    FROM indexes AS i
    WHERE i.indisclustered
    UNION ALL
    SELECT
        7,
        t.relname,
        'replica identity',
        t.relname::text,
        format(
            'ALTER TABLE %I REPLICA IDENTITY %s', t.relname,
            CASE t.relreplident
                WHEN 'f' THEN 'FULL' WHEN 'n' THEN 'NOTHING'
                ELSE (
                    SELECT format('USING INDEX %I', x.relname)
                    FROM pg_index AS i
                    INNER JOIN pg_class AS x ON i.indexrelid = x.oid
                    WHERE i.indrelid = t.oid AND i.indisreplident
                )
            END
        ),
        FALSE
    FROM theirs AS t
    WHERE t.relreplident <> 'd'
    UNION ALL
    SELECT
        8,
        c.relname,
        'comment',
        c.name,
        format('COMMENT ON %s IS %L', c.what, c.comment),
        c.is_against
    FROM (
        SELECT
            t.relname, t.relname::text AS name, format('TABLE %I', t.relname) AS what,
            obj_description(t.oid, 'pg_class') AS comment, TRUE AS is_against
        FROM theirs AS t
        UNION ALL
        SELECT c.relname, c.name, format('COLUMN %I.%I', c.relname, c.name), c.comment, TRUE
        FROM columns AS c
        UNION ALL
        SELECT
            i.relname, i.name, format('INDEX %I', i.name),
            obj_description(i.indexrelid, 'pg_class'), FALSE
        FROM indexes AS i
        UNION ALL
        SELECT
            c.relname, c.name, format('CONSTRAINT %I ON %I', c.name, c.relname),
            obj_description(c.oid, 'pg_constraint'), FALSE
        FROM constraints AS c
    ) AS c
    WHERE c.comment IS NOT NULL
)

SELECT
    f.relname,
    f.kind,
    f.name,
    f.command,
    f.is_against
FROM found AS f
ORDER BY f.place, f.relname COLLATE "C", f.name COLLATE "C", f.command COLLATE "C";

-- name: leaving_out(table_name text, constraint_name text, column_name text) :many
-- The command that takes a constraint, a unique index, or NOT NULL from one of the new tables.
SELECT format('ALTER TABLE %s DROP CONSTRAINT %I', c.conrelid::regclass, c.conname) AS command
FROM pg_constraint AS c
WHERE c.conrelid = format('ltm_next.%I', $1::text)::regclass AND c.conname = $2
UNION ALL
SELECT format('DROP INDEX ltm_next.%I', x.relname)
FROM pg_index AS i
INNER JOIN pg_class AS x ON i.indexrelid = x.oid
WHERE
    i.indrelid = format('ltm_next.%I', $1::text)::regclass
    AND x.relname = $2
    AND NOT EXISTS (
        SELECT 1 FROM pg_constraint AS c
        WHERE i.indexrelid = c.conindid AND c.contype IN ('p', 'u', 'x')
    )
UNION ALL
SELECT format('ALTER TABLE ltm_next.%I ALTER %I DROP NOT NULL', $1::text, $3::text)
WHERE $2::text IS NULL AND $3::text IS NOT NULL;

-- name: try_row(table_name text) :exec
-- Insert a row that has nothing but what ours always writes.
SELECT ltm_adoption.try_row($1);

-- name: report_object(table_name text, rule text, command text) :exec
-- Keep the command that makes what was not carried over.
INSERT INTO ltm_adoption_report (table_name, rule, original)
SELECT
    $1::text,
    $2::text,
    $3::text
WHERE
    NOT EXISTS (
        SELECT 1
        FROM ltm_adoption_report AS r
        WHERE r.row_id IS NULL AND r.table_name = $1 AND r.original = $3
    );

-- name: move_statistics(source text, target text) :exec
-- Let extended statistics follow their tables.
SELECT ltm_adoption.move_statistics($1, $2);
