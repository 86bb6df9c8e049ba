-- The commands of adoption. `"{table}"` is a name and `'{text}'` a literal, put in before sending.

-- name: create_schema(schema name) :exec
-- Create a schema.
CREATE SCHEMA "{schema}";

-- name: drop_schema(schema name) :exec
-- Drop an empty schema.
DROP SCHEMA "{schema}";

-- name: drop_schema_with_content(schema name) :exec
-- Drop a schema with all that is in it.
DROP SCHEMA "{schema}" CASCADE;

-- name: set_search_path(schemas name) :exec
-- Find unqualified names in these schemas.
SET search_path TO "{schemas}";

-- name: prefer_indexes() :exec
-- Find rows by an index, whatever the statistics of growing tables say.
SELECT
    set_config('enable_seqscan', 'off', FALSE),
    set_config('enable_hashjoin', 'off', FALSE),
    set_config('enable_mergejoin', 'off', FALSE);

-- name: allow_scans() :exec
-- Allow reading whole tables until the transaction ends.
SELECT
    set_config('enable_seqscan', 'on', TRUE),
    set_config('enable_hashjoin', 'on', TRUE),
    set_config('enable_mergejoin', 'on', TRUE);

-- name: set_repeatable_read() :exec
-- Let all statements of the transaction see the tables as they are at its first query.
SET LOCAL transaction_isolation = 'repeatable read';

-- name: set_lock_wait(duration literal) :exec
-- How long to wait for a lock in this transaction; not a query, which would fix what is seen.
SET LOCAL lock_timeout = '{duration}';

-- name: set_lock_hold(duration literal) :exec
-- How long the locks outlive a process or connection that stops.
SET LOCAL idle_in_transaction_session_timeout = '{duration}';

-- name: set_index_memory(size literal) :exec
-- The memory for building indexes.
SET maintenance_work_mem = '{size}';

-- name: lock_tables(tables name) :exec
-- Lock tables against reading and writing.
LOCK TABLE "{tables}" IN ACCESS EXCLUSIVE MODE;

-- name: lock_against_writes(tables name) :exec
-- Lock tables against writing.
LOCK TABLE "{tables}" IN SHARE ROW EXCLUSIVE MODE;

-- name: repeated_id(table_name name) :one
-- An id that several rows have.
SELECT min(x.id)
FROM (
    SELECT o.id FROM "{table_name}" AS o
    GROUP BY o.id
    HAVING count(*) > 1
) AS x;

-- name: has_row_without_id(table_name name) :one
-- Whether a row has no id, or a negative one.
SELECT TRUE FROM "{table_name}" AS o
WHERE o.id IS NULL OR o.id < 0
LIMIT 1;

-- name: has_row_without_user(table_name name) :one
-- Whether a row has no user_id, or a negative one.
SELECT TRUE FROM "{table_name}" AS o
WHERE o.user_id IS NULL OR o.user_id < 0
LIMIT 1;

-- name: drop_constraint(table_name name, constraint_name name) :exec
-- Drop a constraint.
ALTER TABLE "{table_name}" DROP CONSTRAINT "{constraint_name}";

-- name: validate_constraint(table_name name, constraint_name name) :exec
-- Check the rows that are there.
ALTER TABLE "{table_name}" VALIDATE CONSTRAINT "{constraint_name}";

-- name: drop_index(index_name name) :exec
-- Drop an index that is there.
DROP INDEX "{index_name}";

-- name: drop_index_if_exists(index_name name) :exec
-- Drop an index if it is there.
DROP INDEX IF EXISTS "{index_name}";

-- name: index_concurrently(index_name name, table_name name, column_name name) :exec
-- Index a column while others write.
CREATE INDEX CONCURRENTLY "{index_name}" ON "{table_name}" ("{column_name}");

-- name: index_accesses() :exec
-- Let the copy find accesses by their id.
CREATE INDEX ltm_memory_access_original_id ON ltm_memory_access (id);

-- name: comment_on_index(index_name name, comment literal) :exec
-- Explain an index.
COMMENT ON INDEX "{index_name}" IS '{comment}';

-- name: vacuum_analyze(table_name name) :exec
-- Update the statistics of a table.
VACUUM (ANALYZE) "{table_name}";

-- name: show_original(home text, table_name text) :exec
-- Make the view original_* of a table.
SELECT ltm_adoption.show_original($1, $2);

-- name: highest_given_id(view_name name) :one
-- The highest id that a sequence gave.
-- Ids at the end of what an integer holds were chosen by hand, and no others would follow them.
SELECT max(o.id) FROM "{view_name}" AS o
WHERE o.id NOT BETWEEN 2146435072 AND 2147483647;

-- name: highest_id(view_name name) :one
-- The highest id.
SELECT max(o.id) FROM "{view_name}" AS o;

-- name: count_rows(view_name name) :one
-- How many rows there are.
SELECT count(*) FROM "{view_name}";

-- name: count_copied(last_id bigint, view_name name) :one
-- How many rows have been copied.
SELECT count(*) FROM "{view_name}" AS o
WHERE o.id <= $1;

-- name: words_in(one_of integer, table_name name, column_name name) :one
-- How many words a row has in a column, by one of so many: runs of digits or letters, or two signs of others.
SELECT avg(regexp_count(o."{column_name}"::text, '[0-9]+|[A-Za-z]+|[^\x01-\x7f]{1,2}'))::float8
FROM "{table_name}" AS o
WHERE hashint8(o.id) % $1::integer = 0;

-- name: next_ids(after_id bigint, last_id bigint, row_limit bigint, view_name name) :one
-- The ids of the next batch.
SELECT array_agg(b.id ORDER BY b.id)::bigint[]
FROM (
    SELECT o.id FROM "{view_name}" AS o
    WHERE o.id > $1 AND o.id <= $2
    ORDER BY o.id
    LIMIT $3
) AS b;

-- name: adopt_rows(ids bigint[], function_name name) :exec
-- Copy a batch, with adopt_memories or adopt_accesses.
SELECT "{function_name}"($1::bigint[]);

-- name: report_orphans() :exec
-- Note and report the rows that belong to no memory.
SELECT
    ltm_adoption.note_orphans(),
    ltm_adoption.report_rows_without_memory();

-- name: note_differences() :one
-- Note what differs between both sides; tell how many memories.
SELECT ltm_adoption.note_differences() + ltm_adoption.note_dangling();

-- name: set_table_schema(table_name name, schema name) :exec
-- Move a table to another schema.
ALTER TABLE "{table_name}" SET SCHEMA "{schema}";

-- name: set_sequence_schema(sequence_name name, schema name) :exec
-- Move a sequence to another schema, if it is there.
ALTER SEQUENCE IF EXISTS "{sequence_name}" SET SCHEMA "{schema}";

-- name: note_changes_of(table_name name, function_name name) :exec
-- Note from now on which rows change.
CREATE TRIGGER ltm_adoption_note AFTER INSERT OR UPDATE OR DELETE ON "{table_name}"
FOR EACH ROW EXECUTE FUNCTION "{function_name}"();

-- name: refuse_truncate_of(table_name name) :exec
-- Let nobody empty a table whose changes are noted row by row.
CREATE TRIGGER ltm_adoption_truncate BEFORE TRUNCATE ON "{table_name}"
FOR EACH STATEMENT EXECUTE FUNCTION ltm_adoption.refuse_truncate();

-- name: heed_replication_of(table_name name) :exec
-- Do so as well where a session replicates, to which ordinary triggers do not happen.
ALTER TABLE "{table_name}"
ENABLE ALWAYS TRIGGER ltm_adoption_note,
ENABLE ALWAYS TRIGGER ltm_adoption_truncate;

-- name: drop_note_trigger(table_name name) :exec
-- Note changes no longer, if they are noted.
DROP TRIGGER IF EXISTS ltm_adoption_note ON "{table_name}";

-- name: drop_truncate_trigger(table_name name) :exec
-- Let the table be emptied again.
DROP TRIGGER IF EXISTS ltm_adoption_truncate ON "{table_name}";

-- name: give_user_to(table_name name, memory_key literal) :exec
-- Let rows without a user take that of their memory.
CREATE TRIGGER ltm_adoption_user BEFORE INSERT ON "{table_name}"
FOR EACH ROW EXECUTE FUNCTION ltm_adoption.give_user('{memory_key}');

-- name: drop_user_trigger(table_name name) :exec
-- Give rows no user any longer.
DROP TRIGGER IF EXISTS ltm_adoption_user ON "{table_name}";

-- name: make_way_back(home text, tables text[]) :exec
-- Make the functions that carry changes back to these original tables.
SELECT ltm_adoption.make_way_back($1, $2::text[]);
