-- What adoption asks the catalog and its own notes. Run by psycopg, one at a time.

-- name: steps_are_there() :one
-- Whether an adoption was begun in this database.
SELECT to_regclass('ltm_adoption.steps') IS NOT NULL;

-- name: steps() :many
-- The steps that are done, and in which schema the tables stand.
SELECT
    s.step,
    s.home
FROM ltm_adoption.steps AS s
ORDER BY s.step COLLATE "C";

-- name: add_step(step text, home text) :exec
-- Note that a step is done.
INSERT INTO ltm_adoption.steps (step, home) VALUES ($1, $2);

-- name: add_original(
--     table_name text, view_name text, memory_key text, column_names text[], column_kinds text[]
-- ) :exec
-- Note how a table of the original application looks.
INSERT INTO ltm_adoption.originals (table_name, view_name, memory_key, column_names, column_kinds)
VALUES ($1, $2, $3, $4, $5);

-- name: home() :one
-- The schema in which new objects would be made.
SELECT current_schema();

-- name: schema_of_memories() :one
-- The schema of the ltm_memories that a bare name finds.
SELECT n.nspname
FROM pg_class AS c
INNER JOIN pg_namespace AS n ON c.relnamespace = n.oid
WHERE c.oid = to_regclass('ltm_memories');

-- name: relation(home text, name text) :one
-- The oid of a table of a schema.
SELECT to_regclass(format('%I.%I', $1::text, $2::text))::oid;

-- name: namespace(name text) :one
-- The oid of a schema.
SELECT to_regnamespace($1::text)::oid;

-- name: columns(home text, table_name text) :many
-- The columns of a table: name, type, type as it is written.
SELECT
    a.attname,
    t.typname,
    format_type(a.atttypid, a.atttypmod)
FROM pg_attribute AS a
INNER JOIN pg_type AS t ON a.atttypid = t.oid
WHERE
    a.attrelid = to_regclass(format('%I.%I', $1::text, $2::text))
    AND a.attnum > 0
    AND NOT a.attisdropped
ORDER BY a.attnum;

-- name: dependents(home text, tables text[]) :many
-- What others have that hangs on these tables, a sentence each, and what to do about it.
WITH theirs AS (
    SELECT
        c.oid,
        c.relname,
        c.relnamespace
    FROM pg_class AS c
    WHERE c.relnamespace = quote_ident($1::text)::regnamespace AND c.relname = any($2::text[])
)

SELECT
    format('the foreign key %s of %s leads to %s', c.conname, c.conrelid::regclass, o.relname)
        AS what,
    format(
        'drop it, and make it again afterwards: ALTER TABLE %s ADD CONSTRAINT %I %s',
        c.conrelid::regclass, c.conname, pg_get_constraintdef(c.oid)
    ) AS help
FROM pg_constraint AS c
INNER JOIN theirs AS o ON c.confrelid = o.oid
INNER JOIN pg_class AS t ON c.conrelid = t.oid
WHERE c.contype = 'f' AND (t.relnamespace <> o.relnamespace OR t.relname !~ '^ltm_')
UNION ALL
SELECT DISTINCT
    format('the view or rule %s reads %s', r.ev_class::regclass, o.relname),
    'drop it, and make it again afterwards'
FROM pg_depend AS d
INNER JOIN theirs AS o ON d.refobjid = o.oid
INNER JOIN pg_rewrite AS r ON d.objid = r.oid
INNER JOIN pg_class AS v ON r.ev_class = v.oid
WHERE
    d.refclassid = 'pg_class'::regclass
    AND d.classid = 'pg_rewrite'::regclass
    AND (v.relnamespace <> o.relnamespace OR v.relname !~ '^ltm_' OR v.relkind <> 'v')
UNION ALL
SELECT DISTINCT
    format('the function %s reads %s', d.objid::regprocedure, o.relname),
    'drop it, and make it again afterwards'
FROM pg_depend AS d
INNER JOIN theirs AS o ON d.refobjid = o.oid
WHERE d.refclassid = 'pg_class'::regclass AND d.classid = 'pg_proc'::regclass
UNION ALL
SELECT DISTINCT
    format('the column %s.%s holds rows of %s', c.attrelid::regclass, c.attname, o.relname),
    'drop it'
FROM theirs AS o
INNER JOIN pg_type AS t ON o.oid = t.typrelid
INNER JOIN pg_attribute AS c ON c.atttypid IN (t.oid, t.typarray)
WHERE c.attnum > 0 AND NOT c.attisdropped
UNION ALL
SELECT DISTINCT
    format('the function %s speaks of rows of %s', p.oid::regprocedure, o.relname),
    'drop it, and make it again afterwards'
FROM theirs AS o
INNER JOIN pg_type AS t ON o.oid = t.typrelid
INNER JOIN pg_proc AS p ON t.oid = p.prorettype OR t.oid = any(p.proargtypes)
UNION ALL
SELECT DISTINCT
    format('%s takes numbers of the sequence of %s', f.adrelid::regclass, o.relname),
    'give it a sequence of its own'
FROM theirs AS o
INNER JOIN pg_depend AS w ON o.oid = w.refobjid AND w.deptype IN ('a', 'i')
INNER JOIN pg_class AS s ON w.objid = s.oid AND s.relkind = 'S'
INNER JOIN pg_depend AS d ON s.oid = d.refobjid AND d.classid = 'pg_attrdef'::regclass
INNER JOIN pg_attrdef AS f ON d.objid = f.oid
WHERE f.adrelid NOT IN (SELECT t.oid FROM theirs AS t);

-- name: obstacles(home text, tables text[]) :many
-- What makes these tables not the original's alone, a sentence each, and what to do about it.
WITH theirs AS (
    SELECT
        c.oid,
        c.relname,
        c.relkind,
        c.relowner,
        c.relrowsecurity
    FROM pg_class AS c
    WHERE c.relnamespace = quote_ident($1::text)::regnamespace AND c.relname = any($2::text[])
)

SELECT
    format('%s is not an ordinary table', o.relname) AS what,
    'copy its rows into one' AS help
FROM theirs AS o
WHERE o.relkind <> 'r'
UNION ALL
SELECT
    format('%s has row level security', o.relname),
    format(
        'ALTER TABLE %I DISABLE ROW LEVEL SECURITY, and drop its policies; afterwards the '
        'optional step row_level_security', o.relname
    )
FROM theirs AS o
WHERE
    o.relrowsecurity OR EXISTS (
        SELECT 1 FROM pg_policy AS p
        WHERE o.oid = p.polrelid
    )
UNION ALL
SELECT
    format('the column %s.%s is generated', o.relname, a.attname),
    format('ALTER TABLE %I ALTER %I DROP EXPRESSION', o.relname, a.attname)
FROM theirs AS o
INNER JOIN pg_attribute AS a ON o.oid = a.attrelid
WHERE a.attgenerated <> ''
UNION ALL
SELECT
    format('the trigger %s stands on %s', g.tgname, o.relname),
    'drop it, and make it again afterwards'
FROM pg_trigger AS g
INNER JOIN theirs AS o ON g.tgrelid = o.oid
WHERE NOT g.tgisinternal
UNION ALL
SELECT
    format('%s inherits or is inherited', o.relname),
    'end it: ALTER TABLE ... NO INHERIT'
FROM theirs AS o
INNER JOIN pg_inherits AS i ON o.oid IN (i.inhrelid, i.inhparent)
UNION ALL
SELECT DISTINCT
    format('%s has rights on single columns', o.relname),
    'revoke those, and grant them again afterwards'
FROM theirs AS o
INNER JOIN pg_attribute AS t ON o.oid = t.attrelid
WHERE t.attacl IS NOT NULL
UNION ALL
SELECT format('%s.%s is in the way', $1::text, c.relname), 'rename it'
FROM pg_class AS c
WHERE
    c.relnamespace = quote_ident($1::text)::regnamespace
    AND c.relname ~ '^ltm_'
    AND c.relname !~ '^ltm_migration'
    AND c.relkind IN ('r', 'v', 'm', 'p', 'f', 'c')
    AND c.relname <> all($2::text[])
UNION ALL
SELECT format('the schema %s is in the way', n.nspname), 'rename it'
FROM pg_namespace AS n
WHERE n.nspname IN ('ltm_next', 'ltm_original', 'ltm_adoption')
UNION ALL
SELECT
    format('the name of the schema %s has a quote or a backslash in it', $1::text),
    'rename it'
WHERE $1::text ~ $a$['"\\]$a$
UNION ALL
SELECT
    format('%s may not create schemas in this database', current_user),
    format('GRANT CREATE ON DATABASE %I TO %I', current_database(), current_user)
WHERE NOT has_database_privilege(current_database(), 'CREATE')
UNION ALL
SELECT
    format('%s may not create tables in the schema %s', current_user, $1::text),
    format('GRANT CREATE ON SCHEMA %I TO %I', $1::text, current_user)
WHERE NOT has_schema_privilege(quote_ident($1::text)::regnamespace, 'CREATE')
UNION ALL
SELECT
    format('%s does not own %s', current_user, o.relname),
    format('migrate as %s', o.relowner::regrole)
FROM theirs AS o
WHERE NOT pg_has_role(o.relowner, 'USAGE')
UNION ALL
SELECT
    format(
        '%s, who owns %s, may not create tables in the schema %s',
        o.relowner::regrole, o.relname, $1::text
    ),
    format('GRANT CREATE ON SCHEMA %I TO %s', $1::text, o.relowner::regrole)
FROM theirs AS o
INNER JOIN pg_roles AS r ON r.rolname = current_user AND NOT r.rolsuper
WHERE NOT has_schema_privilege(o.relowner, quote_ident($1::text)::regnamespace, 'CREATE')
UNION ALL
SELECT 'the database is not in UTF8', 'dump it, and restore it into one that is'
WHERE current_setting('server_encoding') <> 'UTF8';

-- name: replication(home text, tables text[]) :many
-- Which subscribers would get the new tables or lose the old ones, a sentence each, and what to do.
WITH theirs AS (
    SELECT
        c.oid,
        c.relname
    FROM pg_class AS c
    WHERE c.relnamespace = quote_ident($1::text)::regnamespace AND c.relname = any($2::text[])
)

SELECT
    format('%s is in the publication %s', o.relname, p.pubname) AS what,
    format('ALTER PUBLICATION %I DROP TABLE %I', p.pubname, o.relname) AS help
FROM pg_publication_rel AS r
INNER JOIN theirs AS o ON r.prrelid = o.oid
INNER JOIN pg_publication AS p ON r.prpubid = p.oid
UNION ALL
SELECT
    format('the publication %s is for all tables, the new ones too', p.pubname),
    'drop it, and make one FOR TABLE with a list of the application''s own'
FROM pg_publication AS p
WHERE p.puballtables
UNION ALL
SELECT
    format('the publication %s is for all tables of the schema %s', p.pubname, $1::text),
    format(
        'ALTER PUBLICATION %I DROP TABLES IN SCHEMA %I, and ADD TABLE with a list of the '
        'application''s own', p.pubname, $1::text
    )
FROM pg_publication_namespace AS n
INNER JOIN pg_publication AS p ON n.pnpubid = p.oid
WHERE n.pnnspid = quote_ident($1::text)::regnamespace
UNION ALL
SELECT
    format('%s is written by a subscription', o.relname),
    'drop the subscription: what it wrote later would not arrive'
FROM pg_subscription_rel AS r
INNER JOIN theirs AS o ON r.srrelid = o.oid;

-- name: old_notes(home text) :many
-- The commands that drop what the migrator noted in a schema where no migration is applied any more.
SELECT format('DROP TABLE %I.%I', $1::text, c.relname) AS command
FROM pg_class AS c
WHERE
    c.relnamespace = quote_ident($1::text)::regnamespace
    AND c.relkind = 'r'
    AND c.relname ~ '^ltm_migration';

-- name: has_unique_id(home text, table_name text) :one
-- Whether a key forbids two rows of one id.
SELECT count(*) > 0
FROM pg_index AS i
INNER JOIN pg_attribute AS a ON i.indrelid = a.attrelid AND i.indkey::text = a.attnum::text
WHERE
    i.indrelid = format('%I.%I', $1::text, $2::text)::regclass
    AND a.attname = 'id'
    AND i.indisunique
    AND i.indisvalid
    AND i.indpred IS NULL;

-- name: is_indexed(home text, table_name text, column_name text) :one
-- Whether an index begins with a column.
SELECT count(*) > 0
FROM pg_index AS i
INNER JOIN pg_attribute AS a ON i.indrelid = a.attrelid AND i.indkey[0] = a.attnum
WHERE
    i.indrelid = format('%I.%I', $1::text, $2::text)::regclass
    AND a.attname = $3
    AND i.indisvalid
    AND i.indpred IS NULL;

-- name: size(home text, table_name text) :one
-- The bytes of a table without its indexes.
SELECT pg_table_size(format('%I.%I', $1::text, $2::text)::regclass);

-- name: room() :one
-- The bytes of the database, of the log that the server keeps, and whether it keeps all of it.
SELECT
    pg_database_size(current_database()),
    pg_size_bytes(current_setting('max_wal_size')),
    current_setting('archive_mode') <> 'off'
    OR EXISTS (SELECT 1 FROM pg_replication_slots);

-- name: data_directory() :one
-- Where the server keeps its files, if this role may know.
SELECT
    CASE
        WHEN pg_has_role(current_user, 'pg_read_all_settings', 'USAGE')
            THEN current_setting('data_directory')
    END;

-- name: defer() :exec
-- Write down the foreign keys and GIN indexes of ltm_next.
INSERT INTO ltm_adoption.deferred (name, table_name, is_index, command, comment)
SELECT
    c.conname,
    t.relname,
    FALSE,
    ltm_adoption.add_foreign_key(t.relname, c.conname, pg_get_constraintdef(c.oid)),
    NULL
FROM pg_constraint AS c
INNER JOIN pg_class AS t ON c.conrelid = t.oid
WHERE c.contype = 'f' AND c.connamespace = 'ltm_next'::regnamespace
UNION ALL
SELECT
    c.relname,
    t.relname,
    TRUE,
    pg_get_indexdef(i.indexrelid),
    obj_description(i.indexrelid, 'pg_class')
FROM pg_index AS i
INNER JOIN pg_class AS c ON i.indexrelid = c.oid
INNER JOIN pg_am AS m ON c.relam = m.oid
INNER JOIN pg_class AS t ON i.indrelid = t.oid
WHERE m.amname = 'gin' AND c.relnamespace = 'ltm_next'::regnamespace;

-- name: defer_indexes_of_original() :exec
-- Write down the indexes that the original application's reads need, and the key that foreign keys of
-- others may lead to, until it is gone.
INSERT INTO ltm_adoption.deferred (name, table_name, is_index, command, comment)
SELECT
    format('%s_original_%s', x.table_name, x.column_name),
    x.table_name,
    TRUE,
    format(
        'CREATE %s INDEX %I ON ltm_next.%I (%I)',
        CASE x.table_name WHEN 'ltm_memories' THEN 'UNIQUE' END,
        format('%s_original_%s', x.table_name, x.column_name),
        x.table_name,
        x.column_name
    ),
    'For the original application; gone with finish_adoption.'
FROM (
    VALUES
    ('ltm_memories', 'id'),
    ('ltm_contexts', 'id'),
    ('ltm_contexts', 'memory_id'),
    ('ltm_memory_relationships', 'id'),
    ('ltm_memory_relationships', 'source_memory_id'),
    ('ltm_memory_relationships', 'target_memory_id'),
    ('ltm_memory_access', 'id'),
    ('ltm_memory_access', 'memory_id'),
    ('ltm_memory_tags', 'id'),
    ('ltm_memory_tags', 'memory_id')
) AS x (table_name, column_name);

-- name: deferred() :many
-- What is to be made when the tables are filled.
SELECT
    d.name,
    d.table_name,
    d.is_index,
    d.command,
    d.comment,
    to_regclass(format('ltm_next.%I', d.name)) IS NOT NULL AS is_there
FROM ltm_adoption.deferred AS d
ORDER BY d.name COLLATE "C";

-- name: sequence(home text, table_name text) :one
-- Where the ids of a table come from.
SELECT ltm_adoption.sequence_of($1, $2)::text;

-- name: stands_at(sequence text) :one
-- The last number that a sequence gave.
SELECT pg_sequence_last_value($1::text::regclass);

-- name: set_sequence(sequence text, number bigint) :exec
-- Let a sequence go on behind a number.
SELECT setval($1::text::regclass, $2::bigint);

-- name: use_sequence(table_name text, sequence text) :exec
-- Take ids of rows that nobody wrote from this sequence.
INSERT INTO ltm_adoption.sequences (table_name, sequence) VALUES ($1, $2::text::regclass);

-- name: take_over_sequences(home text) :exec
-- Let the ids of our tables go on where the original ones stand, and note that place. The original tables
-- are asked: their ids are indexed, and all others came from the sequences. Not those at the end of
-- what an integer holds, which others would not follow.
WITH highest (table_name, last_id) AS (
    SELECT 'ltm_memories', max(o.id) FROM ltm_adoption.original_memories AS o
    WHERE o.id NOT BETWEEN 2146435072 AND 2147483647
    UNION ALL
    SELECT 'ltm_contexts', max(o.id) FROM ltm_adoption.original_contexts AS o
    WHERE o.id NOT BETWEEN 2146435072 AND 2147483647
    UNION ALL
    SELECT 'ltm_memory_relationships', max(o.id) FROM ltm_adoption.original_relationships AS o
    WHERE o.id NOT BETWEEN 2146435072 AND 2147483647
    UNION ALL
    SELECT 'ltm_memory_access', max(o.id) FROM ltm_adoption.original_accesses AS o
    WHERE o.id NOT BETWEEN 2146435072 AND 2147483647
    UNION ALL
    SELECT 'ltm_memory_tags', max(o.id) FROM ltm_adoption.original_tags AS o
    WHERE o.id NOT BETWEEN 2146435072 AND 2147483647
),

marked AS (
    INSERT INTO ltm_adoption.marks (table_name, last_id)
    SELECT
        h.table_name,
        greatest(h.last_id, pg_sequence_last_value(s.sequence), 0)
    FROM highest AS h
    INNER JOIN ltm_adoption.sequences AS s ON h.table_name = s.table_name
    RETURNING table_name, last_id
),

taken AS (
    UPDATE ltm_adoption.sequences AS s
    SET sequence = ltm_adoption.sequence_of($1, s.table_name)
    RETURNING s.table_name, s.sequence
)

SELECT setval(t.sequence, m.last_id)
FROM taken AS t
INNER JOIN marked AS m ON t.table_name = m.table_name
WHERE m.last_id > 0;

-- name: hand_back_sequences(home text, tables text[]) :exec
-- Let the ids of the original tables go on where ours stand.
SELECT setval(o.sequence, pg_sequence_last_value(s.sequence))
FROM ltm_adoption.sequences AS s
CROSS JOIN LATERAL ltm_adoption.sequence_of($1, s.table_name) AS o (sequence)
WHERE s.table_name = any($2::text[]) AND pg_sequence_last_value(s.sequence) IS NOT NULL;

-- name: progress(kind text) :one
-- Up to which id the first copy has come.
SELECT p.last_id
FROM ltm_adoption.progress AS p
WHERE p.kind = $1;

-- name: set_progress(kind text, last_id bigint) :exec
-- Note up to which id the first copy has come.
INSERT INTO ltm_adoption.progress (kind, last_id)
VALUES ($1, $2)
ON CONFLICT (kind) DO UPDATE SET last_id = excluded.last_id;

-- name: count_changes(at_most bigint) :one
-- How many notes of changes are left, counted up to a bound.
SELECT count(*)
FROM (
    SELECT 1 FROM ltm_adoption.changes
    LIMIT $1
) AS x;

-- name: carry_changes(at_most bigint, is_back boolean) :one
-- Carry over, or back, what was written; tell how many notes were taken.
SELECT ltm_adoption.carry_changes($1, $2);

-- name: note_foreign_keys(home text, tables text[]) :many
-- Write down the foreign keys of the original tables, and give them.
INSERT INTO ltm_adoption.foreign_keys (name, table_name, definition, is_outward)
SELECT
    c.conname,
    t.relname,
    pg_get_constraintdef(c.oid),
    f.relnamespace <> t.relnamespace OR f.relname <> all($2::text[])
FROM pg_constraint AS c
INNER JOIN pg_class AS t ON c.conrelid = t.oid
INNER JOIN pg_class AS f ON c.confrelid = f.oid
WHERE
    c.contype = 'f'
    AND t.relnamespace = quote_ident($1::text)::regnamespace
    AND t.relname = any($2::text[])
RETURNING
    table_name,
    name,
    ltm_adoption.add_foreign_key(table_name, name, definition),
    is_outward,
    definition !~ ' NOT (VALID|ENFORCED)$';

-- name: checked_keys(home text, tables text[]) :many
-- The foreign keys of the original tables that lead to others and are said to hold, those that can be
-- looked into: each with the query that counts the rows for which it does not, and the command that
-- leaves these alone.
SELECT
    t.relname,
    c.conname,
    format(
        'SELECT count(*) FROM %s AS o WHERE %s AND NOT EXISTS (SELECT 1 FROM %s AS r WHERE %s)',
        t.oid::regclass, k.is_given, f.oid::regclass, k.is_there
    ) AS query,
    format(
        'ALTER TABLE %1$I DROP CONSTRAINT %2$I, ADD CONSTRAINT %2$I %3$s NOT VALID',
        t.relname, c.conname, pg_get_constraintdef(c.oid)
    ) AS command
FROM pg_constraint AS c
INNER JOIN pg_class AS t ON c.conrelid = t.oid
INNER JOIN pg_class AS f ON c.confrelid = f.oid
CROSS JOIN
    LATERAL (
        SELECT
            string_agg(format('o.%I IS NOT NULL', a.attname), ' AND ') AS is_given,
            string_agg(format('r.%I = o.%I', b.attname, a.attname), ' AND ') AS is_there
        FROM unnest(c.conkey, c.confkey) AS k (own, other)
        INNER JOIN pg_attribute AS a ON a.attrelid = t.oid AND k.own = a.attnum
        INNER JOIN pg_attribute AS b ON b.attrelid = f.oid AND k.other = b.attnum
    ) AS k
WHERE
    c.contype = 'f'
    AND c.convalidated
    AND t.relnamespace = quote_ident($1::text)::regnamespace
    AND t.relname = any($2::text[])
    AND (f.relnamespace <> t.relnamespace OR f.relname <> all($2::text[]))
    AND has_table_privilege(f.oid, 'SELECT')
ORDER BY t.relname COLLATE "C", c.conname COLLATE "C";

-- name: foreign_keys() :many
-- The foreign keys of the original tables.
SELECT
    k.table_name,
    k.name,
    ltm_adoption.add_foreign_key(k.table_name, k.name, k.definition) AS add_command,
    k.is_outward,
    k.definition !~ ' NOT (VALID|ENFORCED)$' AS is_checked
FROM ltm_adoption.foreign_keys AS k
ORDER BY k.table_name COLLATE "C", k.name COLLATE "C";

-- name: note_others(home text) :exec
-- Write down the functions of others that stand in a schema under names like ours.
INSERT INTO ltm_adoption.others (id)
SELECT p.oid
FROM pg_proc AS p
WHERE p.pronamespace = quote_ident($1::text)::regnamespace AND p.proname ~ '^ltm_';

-- name: names_taken(home text, tables text[]) :many
-- What stands under a name of ours and does not go away with the original tables, one sentence each.
WITH theirs AS (
    SELECT c.oid
    FROM pg_class AS c
    WHERE c.relnamespace = quote_ident($1::text)::regnamespace AND c.relname = any($2::text[])
)

SELECT format('%s.%s is in the way', $1::text, h.relname) AS obstacle
FROM pg_class AS h
INNER JOIN pg_class AS n
    ON h.relname = n.relname AND n.relnamespace = to_regnamespace('ltm_next')
WHERE
    h.relnamespace = quote_ident($1::text)::regnamespace
    AND h.relname !~ '^ltm_migration'
    AND h.oid NOT IN (SELECT t.oid FROM theirs AS t)
    AND h.relname NOT IN (SELECT t.name || '_id_seq' FROM unnest($2::text[]) AS t (name))
    AND NOT EXISTS (
        SELECT 1
        FROM pg_depend AS d
        WHERE
            d.objid = h.oid
            AND d.classid = 'pg_class'::regclass
            AND d.refobjid IN (SELECT t.oid FROM theirs AS t)
            AND d.deptype IN ('a', 'i')
    )
    AND h.oid NOT IN (
        SELECT i.indexrelid
        FROM pg_index AS i
        INNER JOIN theirs AS t ON i.indrelid = t.oid
    )
UNION ALL
SELECT format('the type %s.%s is in the way', $1::text, h.typname)
FROM pg_type AS h
INNER JOIN pg_class AS n
    ON h.typname = n.relname AND n.relnamespace = to_regnamespace('ltm_next')
WHERE
    h.typnamespace = quote_ident($1::text)::regnamespace
    AND h.typrelid = 0
    AND n.relkind IN ('r', 'v')
UNION ALL
SELECT format('the function %s is in the way', h.oid::regprocedure)
FROM pg_proc AS h
INNER JOIN pg_proc AS n
    ON
        h.proname = n.proname
        AND h.proargtypes = n.proargtypes
        AND n.pronamespace = to_regnamespace('ltm_next')
WHERE h.pronamespace = quote_ident($1::text)::regnamespace;

-- name: moves(source text, target text) :many
-- The commands that move every object of ours from one schema to another.
SELECT
    format(
        'ALTER %s %I.%I SET SCHEMA %I',
        CASE c.relkind WHEN 'v' THEN 'VIEW' ELSE 'TABLE' END,
        $1::text,
        c.relname,
        $2::text
    ) AS command
FROM pg_class AS c
WHERE
    c.relnamespace = quote_ident($1::text)::regnamespace
    AND c.relkind IN ('r', 'v')
    AND c.relname ~ '^ltm_'
UNION ALL
SELECT format('ALTER FUNCTION %s SET SCHEMA %I', p.oid::regprocedure, $2::text)
FROM pg_proc AS p
WHERE
    p.pronamespace = quote_ident($1::text)::regnamespace
    AND p.proname ~ '^ltm_'
    AND p.oid NOT IN (SELECT o.id FROM ltm_adoption.others AS o)
UNION ALL
SELECT
    format(
        'ALTER FUNCTION %I.%I(%s) SET search_path = %I, pg_temp',
        $2::text,
        p.proname,
        pg_get_function_identity_arguments(p.oid),
        $2::text
    )
FROM pg_proc AS p
WHERE
    p.pronamespace = quote_ident($1::text)::regnamespace
    AND p.proname ~ '^ltm_'
    AND array_to_string(p.proconfig, ' ') ~ '\msearch_path='
    AND p.oid NOT IN (SELECT o.id FROM ltm_adoption.others AS o)
UNION ALL
SELECT format('ALTER STATISTICS %I.%I SET SCHEMA %I', $1::text, s.stxname, $2::text)
FROM pg_statistic_ext AS s
INNER JOIN pg_class AS c ON s.stxrelid = c.oid AND s.stxnamespace = c.relnamespace
WHERE c.relnamespace = quote_ident($1::text)::regnamespace AND c.relname ~ '^ltm_'
UNION ALL
SELECT format('ALTER TEXT SEARCH CONFIGURATION %I.ltm SET SCHEMA %I', $1::text, $2::text)
FROM pg_ts_config AS t
WHERE
    t.cfgnamespace = quote_ident($1::text)::regnamespace
    AND t.cfgname = 'ltm'
    AND obj_description(t.oid, 'pg_ts_config') LIKE '%made by it%';

-- name: rights(home text) :many
-- The commands that give our tables the rights and the owner that the original ones have; what the
-- original lacks is for whoever has ltm_memories.
WITH rights AS (
    SELECT
        c.relname,
        c.relowner,
        x.grantee,
        x.privilege_type,
        x.is_grantable
    FROM pg_class AS c
    LEFT JOIN LATERAL aclexplode(c.relacl) AS x ON TRUE
    WHERE c.relnamespace = 'ltm_original'::regnamespace AND c.relkind = 'r'
),

moved AS (
    SELECT
        c.oid,
        c.relowner,
        coalesce(
            (
                SELECT min(r.relname COLLATE "C")
                FROM rights AS r
                WHERE r.relname = c.relname
            ),
            'ltm_memories'
        ) AS model
    FROM pg_class AS c
    WHERE
        c.relnamespace = quote_ident($1::text)::regnamespace
        AND c.relkind IN ('r', 'v')
        AND c.relname ~ '^ltm_'
)

SELECT DISTINCT
    format(
        'GRANT %s ON %s TO %s%s',
        r.privilege_type,
        m.oid::regclass,
        CASE r.grantee WHEN 0 THEN 'PUBLIC' ELSE r.grantee::regrole::text END,
        CASE WHEN r.is_grantable THEN ' WITH GRANT OPTION' END
    ) COLLATE "C" AS command,
    1 AS place
FROM moved AS m
INNER JOIN rights AS r ON m.model = r.relname
WHERE r.privilege_type IS NOT NULL AND r.grantee <> r.relowner
UNION ALL
SELECT DISTINCT
    format('ALTER TABLE %s OWNER TO %s', m.oid::regclass, r.relowner::regrole) AS command,
    2 AS place
FROM moved AS m
INNER JOIN rights AS r ON m.model = r.relname
WHERE m.relowner <> r.relowner
UNION ALL
SELECT DISTINCT
    format(
        'GRANT %s ON SEQUENCE %s TO %s%s',
        x.privilege_type,
        ltm_adoption.sequence_of($1, c.relname),
        CASE x.grantee WHEN 0 THEN 'PUBLIC' ELSE x.grantee::regrole::text END,
        CASE WHEN x.is_grantable THEN ' WITH GRANT OPTION' END
    ) COLLATE "C" AS command,
    1 AS place
FROM pg_class AS c
INNER JOIN pg_class AS s ON s.oid = ltm_adoption.sequence_of('ltm_original', c.relname)
CROSS JOIN LATERAL aclexplode(s.relacl) AS x
WHERE
    c.relnamespace = 'ltm_original'::regnamespace
    AND c.relkind = 'r'
    AND x.grantee <> s.relowner
UNION ALL
-- It runs with its owner's rights, and so would the triggers that the table's owner makes.
SELECT
    format('ALTER FUNCTION %s OWNER TO %s', p.oid::regprocedure, c.relowner::regrole) AS command,
    2 AS place
FROM pg_proc AS p
INNER JOIN pg_class AS c
    ON c.relnamespace = 'ltm_original'::regnamespace AND c.relname = 'ltm_memories'
WHERE
    p.pronamespace = quote_ident($1::text)::regnamespace
    AND p.proname ~ '^ltm_'
    AND p.prosecdef
    AND p.proowner <> c.relowner
    AND p.oid NOT IN (SELECT o.id FROM ltm_adoption.others AS o)
ORDER BY place, command;

-- name: unchecked_keys(home text, tables text[]) :many
-- The foreign keys that are to be checked: not those that the original never checked.
SELECT
    t.relname,
    c.conname
FROM pg_constraint AS c
INNER JOIN pg_class AS t ON c.conrelid = t.oid
WHERE
    t.relnamespace = quote_ident($1::text)::regnamespace
    AND t.relname = any($2::text[])
    AND NOT c.convalidated
    AND NOT EXISTS (
        SELECT 1
        FROM ltm_adoption.foreign_keys AS k
        WHERE
            k.name = c.conname
            AND k.table_name = t.relname
            AND k.definition ~ ' NOT (VALID|ENFORCED)$'
    )
ORDER BY t.relname COLLATE "C", c.conname COLLATE "C";

-- name: summary() :many
-- How many memories there are, how many repairs were made, and what was not carried over.
SELECT
    (SELECT count(*) FROM ltm_memories) AS memories,
    count(*) FILTER (WHERE r.row_id IS NOT NULL) AS repairs,
    count(*) FILTER (WHERE r.row_id IS NULL) AS objects
FROM ltm_adoption_report AS r;

-- name: next_memories(after_id bigint, row_limit bigint, everything boolean) :one
-- The ids of the next memories of any user: all, or those not changed in the last ten minutes.
SELECT array_agg(x.id ORDER BY x.id)
FROM (
    SELECT m.id
    FROM ltm_memories AS m
    WHERE
        m.id > $1
        AND (
            $3::boolean
            OR coalesce(m.last_modified, m.created_at, '-infinity')
            < timezone('utc', now()) - interval '10 minutes'
        )
    ORDER BY m.id
    LIMIT $2
) AS x;

-- name: last_change() :one
-- The last note of a change.
SELECT coalesce(max(c.id), 0) FROM ltm_adoption.changes AS c;

-- name: changed_memories(after_change bigint, row_limit bigint) :one
-- The ids of memories that others changed since a note, how many notes those are, and the last of them.
SELECT
    array_agg(DISTINCT x.row_id),
    count(*),
    max(x.id)
FROM (
    SELECT
        c.row_id,
        c.id
    FROM ltm_adoption.changes AS c
    WHERE c.id > $1 AND c.kind = 'memory' AND NOT c.is_settled
    ORDER BY c.id
    LIMIT $2
) AS x;

-- name: begin_settling() :exec
-- Let notes of what this session writes say so.
SELECT set_config('ltm.settling', 'on', FALSE);

-- name: settle(memory_ids bigint[]) :exec
-- Bring the details and the own columns of some memories in step for good.
SELECT ltm_adoption.settle($1);

-- name: complete(memory_ids bigint[]) :exec
-- Bring the details and the own columns of some memories in step.
SELECT
    ltm_adoption.complete_memories($1),
    ltm_adoption.complete_details($1);
