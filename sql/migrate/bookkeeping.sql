-- What the migrator notes of views, indexes and foreign keys in the first schema of search_path.

-- name: found_objects() :many
-- The indexes and foreign keys of our tables that are there; not those of partitions, which come and go.
WITH ours AS (
    SELECT
        c.oid,
        c.relname
    FROM pg_class AS c
    INNER JOIN pg_namespace AS n ON c.relnamespace = n.oid
    WHERE
        n.nspname = current_schema()
        AND c.relkind IN ('r', 'p')
        AND NOT c.relispartition
        AND c.relname ~ '^ltm_'
        AND c.relname !~ '^ltm_migration'
)

SELECT
    'index' AS kind,
    o.relname AS table_name,
    c.relname AS name,
    c.oid
FROM pg_index AS i
INNER JOIN ours AS o ON i.indrelid = o.oid
INNER JOIN pg_class AS c ON i.indexrelid = c.oid
UNION ALL
SELECT
    'foreign_key',
    o.relname,
    k.conname,
    k.oid
FROM pg_constraint AS k
INNER JOIN ours AS o ON k.conrelid = o.oid
WHERE k.contype = 'f';

-- name: note_objects(migration_id text, kinds text[], table_names text[], names text[]) :exec
-- Note what a migration made.
INSERT INTO ltm_migration_objects (kind, table_name, name, migration_id)
SELECT
    o.kind,
    o.table_name,
    o.name,
    $1
FROM unnest($2::text[], $3::text[], $4::text[]) AS o (kind, table_name, name)
ON CONFLICT (kind, table_name, name) DO UPDATE SET migration_id = excluded.migration_id;

-- name: forget_objects(kinds text[], table_names text[], names text[]) :exec
-- Forget what a migration dropped, and all of a table that is not there any more.
DELETE FROM ltm_migration_objects AS o
WHERE
    (o.kind, o.table_name, o.name) IN (
        SELECT
            g.kind,
            g.table_name,
            g.name
        FROM unnest($1::text[], $2::text[], $3::text[]) AS g (kind, table_name, name)
    )
    OR to_regclass(format('%I.%I', current_schema(), o.table_name)) IS NULL;

-- name: views_are_noted() :one
-- Whether the table of noted views is there.
SELECT to_regclass(format('%I.ltm_migration_views', current_schema())) IS NOT NULL AS is_there;

-- name: noted_views() :many
-- The views that were made, and the hash of each one that is still there.
SELECT
    v.name,
    CASE
        WHEN to_regclass(format('%I.%I', current_schema(), v.name)) IS NOT NULL THEN v.hash
    END AS hash
FROM ltm_migration_views AS v
ORDER BY v.name COLLATE "C";

-- name: note_view(view_name text, hash text) :exec
-- Note that a view is made.
INSERT INTO ltm_migration_views (name, hash, applied_at)
VALUES ($1, $2, now())
ON CONFLICT (name) DO UPDATE SET hash = excluded.hash, applied_at = excluded.applied_at;

-- name: forget_views(names text[]) :exec
-- Note that views are dropped.
DELETE FROM ltm_migration_views AS v
WHERE v.name = any($1::text[]);

-- name: begin_work(milliseconds bigint) :one
-- Wait so long for a lock, and find names in the first schema alone, until the transaction ends.
SELECT
    set_config('search_path', quote_ident(current_schema()), TRUE) AS search_path,
    set_config('lock_timeout', $1::bigint::text, TRUE) AS lock_timeout;

-- name: readers(view_name text) :many
-- A view with those of ours that read it, directly or through others.
WITH RECURSIVE ours AS (
    SELECT
        c.oid,
        c.relname
    FROM pg_class AS c
    INNER JOIN pg_namespace AS n ON c.relnamespace = n.oid AND n.nspname = current_schema()
    WHERE
        c.relkind = 'v'
        AND (c.relname = $1 OR c.relname IN (SELECT v.name FROM ltm_migration_views AS v))
),

readers AS (
    SELECT
        o.oid,
        o.relname
    FROM ours AS o
    WHERE o.relname = $1
    UNION
    SELECT
        o.oid,
        o.relname
    FROM readers AS r
    INNER JOIN
        pg_depend AS d
        ON r.oid = d.refobjid AND d.refclassid = 'pg_class'::regclass
    INNER JOIN pg_rewrite AS w ON d.objid = w.oid AND d.classid = 'pg_rewrite'::regclass
    INNER JOIN ours AS o ON w.ev_class = o.oid
)

SELECT r.relname AS name
FROM readers AS r
ORDER BY r.relname COLLATE "C";

-- name: dropping(names text[]) :one
-- The command that drops views.
SELECT format('DROP VIEW IF EXISTS %s', string_agg(quote_ident(v.name), ', ')) AS command
FROM unnest($1::text[]) AS v (name);

-- name: view_rights(names text[]) :many
-- The commands that give the rights again that others have on views.
SELECT
    c.relname AS name,
    format(
        'GRANT %s ON %I TO %s%s',
        x.privilege_type,
        c.relname,
        CASE x.grantee WHEN 0 THEN 'PUBLIC' ELSE x.grantee::regrole::text END,
        CASE WHEN x.is_grantable THEN ' WITH GRANT OPTION' ELSE '' END
    ) COLLATE "C" AS command
FROM pg_class AS c
INNER JOIN pg_namespace AS n ON c.relnamespace = n.oid AND n.nspname = current_schema()
CROSS JOIN LATERAL aclexplode(c.relacl) AS x
WHERE c.relname = any($1::text[]) AND c.relkind = 'v' AND x.grantee <> c.relowner
ORDER BY c.relname COLLATE "C", command;
