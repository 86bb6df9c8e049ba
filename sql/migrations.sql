-- What has been applied to this database.

-- name: applied_migrations(row_limit bigint) :many
-- The ids of the applied migrations, oldest first.
-- scope: all users
SELECT a.migration_id
FROM ltm_migrations AS a
ORDER BY a.migration_id COLLATE "C"
LIMIT $1;
