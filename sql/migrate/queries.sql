-- What running migrations asks the database. Run by psycopg.

-- name: disable_statement_timeout() :exec
-- Let statements take as long as they take; first, since it bounds the other settings too.
SET statement_timeout = 0;

-- name: set_session() :exec
-- Settings that hold whatever is set for the sessions of an application.
-- Compiling (jit) takes longer than what is compiled, and locks are held meanwhile.
-- Where a policy would hide rows, an error; from operators it hides none.
SELECT
    set_config(
        'row_security',
        CASE WHEN pg_has_role(to_regrole('ltm_owner'), 'USAGE') THEN 'on' ELSE 'off' END,
        FALSE
    ),
    CASE
        -- Our triggers write a row of the same user, which Citus bears on every node.
        WHEN 'citus' IN (SELECT e.extname FROM pg_extension AS e)
            THEN
                set_config('citus.enable_unsafe_triggers', 'on', FALSE)
                || set_config('citus.multi_shard_modify_mode', 'sequential', FALSE)
    END,
    set_config('idle_session_timeout', '0', FALSE),
    set_config('standard_conforming_strings', 'on', FALSE),
    set_config('extra_float_digits', '1', FALSE),
    set_config('datestyle', 'ISO', FALSE),
    set_config('jit', 'off', FALSE),
    CASE
        WHEN current_setting('server_version_num')::integer >= 170000
            THEN set_config('transaction_timeout', '0', FALSE)
    END;

-- name: unsuitable(oldest_version bigint) :many
-- Why this server, database or role cannot have the schema, a sentence each.
SELECT s.sentence
FROM (
    VALUES
    (
        current_setting('server_version_num')::bigint < $1,
        format(
            'PostgreSQL %s is too old: %s is needed',
            current_setting('server_version'),
            $1 / 10000
        )
    ),
    (
        current_setting('server_encoding') <> 'UTF8',
        format(
            'the encoding of the database is %s: create it with ENCODING UTF8',
            current_setting('server_encoding')
        )
    ),
    (
        current_schema() IS NULL,
        format(
            'no schema of search_path (%s) is there: CREATE SCHEMA, or set search_path',
            current_setting('search_path')
        )
    ),
    (
        -- (The survey of an adoption tells all rights that it needs.)
        (
            to_regclass('ltm_memories') IS NULL
            OR to_regclass(format('%I.ltm_migrations', current_schema())) IS NOT NULL
        )
        AND NOT coalesce(has_schema_privilege(current_schema(), 'CREATE'), TRUE),
        format(
            'the role %1$s may not create tables in the schema %2$I: '
            || 'GRANT CREATE ON SCHEMA %2$I TO %1$I',
            current_user,
            coalesce(current_schema(), '')
        )
    )
) AS s (is_so, sentence)
WHERE s.is_so;

-- name: stored_memories() :one
-- How many memories a rollback would drop, of all users.
SELECT count(*)
FROM ltm_memories;

-- name: schema_dangers() :many
-- What makes the schema unsafe, as connections of the library look at it too.
SELECT
    d.subject,
    d.detail
FROM (
    SELECT NULL  -- query: schema_dangers
) AS d
ORDER BY d.subject COLLATE "C", d.detail COLLATE "C";

-- name: letters_are_folded() :one
-- Whether lower() of this database treats letters as Python does.
SELECT lower('ÄΩЖI') = 'äωжi';

-- name: set_lock_timeout(milliseconds bigint) :exec
-- How long a statement waits for a lock.
SELECT set_config('lock_timeout', $1::bigint::text, FALSE);

-- name: tables() :many
-- The tables of the first schema of the search path.
SELECT t.tablename
FROM pg_tables AS t
WHERE t.schemaname = current_schema();

-- name: has_migrations() :one
-- Whether the first schema of the search path has our table of migrations.
SELECT to_regclass(format('%I.ltm_migrations', current_schema())) IS NOT NULL;

-- name: has_embeddings() :one
-- Whether the first schema of the search path has the table of the step `embeddings`.
SELECT to_regclass(format('%I.ltm_embeddings', current_schema())) IS NOT NULL;

-- name: has_row_level_security() :one
-- Whether the step `row_level_security` was run in the first schema of the search path.
SELECT to_regtype(format('%I.ltm_as_user', current_schema())) IS NOT NULL;

-- name: own_views() :many
-- The views of the step `row_level_security`.
SELECT c.relname AS name
FROM pg_class AS c
WHERE
    c.relnamespace = current_schema()::regnamespace
    AND c.relkind = 'v'
    AND c.relowner = to_regrole('ltm_owner')
ORDER BY c.relname COLLATE "C";

-- name: is_distributed() :one
-- Whether the step `distribute` was run.
SELECT NULL;  -- query: distribution

-- name: applied_ids() :many
-- The ids of the applied migrations.
SELECT m.migration_id
FROM ltm_migrations AS m
ORDER BY m.migration_id COLLATE "C";

-- name: try_lock(key bigint) :one
-- Take the advisory lock of those who migrate this database, if it is free.
SELECT pg_try_advisory_lock($1);

-- name: unlock(key bigint) :exec
-- Give the advisory lock back.
SELECT pg_advisory_unlock($1);

-- name: ping() :exec
-- Whether the session is still there.
SELECT 1;
