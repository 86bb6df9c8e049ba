-- What has been applied to this database.

-- query: distribution()
-- Whether the tables are spread over the nodes of Citus, which has a trigger of its own on each.
SELECT count(*) > 0 AS is_so
FROM pg_trigger AS t
INNER JOIN pg_proc AS p ON t.tgfoid = p.oid
WHERE t.tgrelid = to_regclass('ltm_memories') AND p.proname = 'citus_truncate_trigger';

-- name: find_distribution() :one
-- Whether the step `distribute` was run.
-- scope: all users
SELECT NULL;  -- query: distribution

-- name: applied_migrations(row_limit bigint) :many
-- The ids of the applied migrations, oldest first.
-- scope: all users
SELECT a.migration_id
FROM ltm_migrations AS a
ORDER BY a.migration_id COLLATE "C"
LIMIT $1;
