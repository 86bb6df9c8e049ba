-- What the optional step partition_accesses asks, before the new log takes the place of the old one.

-- name: accesses_are_by_month() :one
-- Whether the log of accesses is kept by month; NULL where there is none.
SELECT c.relkind = 'p'
FROM pg_class AS c
WHERE c.oid = to_regclass(format('%I.ltm_memory_access', current_schema()));

-- name: accesses_hindrances() :many
-- Why the log cannot be made anew: what is tied to its table and would be lost with it.
SELECT h.sentence
FROM (
    SELECT format('the trigger %I of another program is on ltm_memory_access', t.tgname) AS sentence
    FROM pg_trigger AS t
    WHERE t.tgrelid = 'ltm_memory_access'::regclass AND NOT t.tgisinternal
    UNION ALL
    SELECT 'ltm_memory_access has row level security'
    FROM pg_class AS c
    WHERE c.oid = 'ltm_memory_access'::regclass AND c.relrowsecurity
    UNION ALL
    SELECT format('ltm_memory_access is in the publication %I: take it out meanwhile', p.pubname)
    FROM pg_publication_rel AS r
    INNER JOIN pg_publication AS p ON r.prpubid = p.oid
    WHERE r.prrelid = 'ltm_memory_access'::regclass
) AS h
ORDER BY h.sentence COLLATE "C";

-- name: doubled_accesses() :one
-- How many numbers several accesses of a user have: no key of a single table could take them.
SELECT count(*)
FROM (
    SELECT NULL
    FROM ltm_memory_access AS a
    GROUP BY a.user_id, a.id
    HAVING count(*) > 1
) AS d;

-- name: drop_next_accesses() :exec
-- Drop the new log with all that fills it, where a run was broken off.
DROP TRIGGER IF EXISTS ltm_mirror ON ltm_memory_access;
DROP TRIGGER IF EXISTS ltm_mirror_truncate ON ltm_memory_access;
DROP FUNCTION IF EXISTS ltm_mirror_access;
DROP TABLE IF EXISTS ltm_memory_access_next;

-- name: make_next_by_month() :exec
-- Make an empty log with a partition for each month that has accesses, for some months to come, and
-- for the rest: what is older than ten years, or has no moment.
CREATE TABLE ltm_memory_access_next (
    LIKE ltm_memory_access
    INCLUDING COMMENTS INCLUDING CONSTRAINTS INCLUDING DEFAULTS INCLUDING IDENTITY INCLUDING STORAGE
) PARTITION BY RANGE (access_timestamp);
CREATE TABLE ltm_memory_access_default
PARTITION OF ltm_memory_access_next (PRIMARY KEY (user_id, id)) DEFAULT;
DO $$
DECLARE
    first timestamp;
BEGIN
    FOR first IN
        SELECT date_trunc('month', a.access_timestamp)
        FROM ltm_memory_access AS a
        WHERE
            a.access_timestamp > timezone('utc', now()) - interval '10 years'
            AND a.access_timestamp < timezone('utc', now())
        UNION
        SELECT date_trunc('month', timezone('utc', now())) + ahead * interval '1 month'
        FROM generate_series(0, 3) AS ahead
    LOOP
        EXECUTE format(
            'CREATE TABLE %I PARTITION OF ltm_memory_access_next (PRIMARY KEY (user_id, id))
            FOR VALUES FROM (%L) TO (%L)',
            'ltm_memory_access_' || to_char(first, 'YYYY_MM'),
            first,
            first + interval '1 month'
        );
    END LOOP;
END
$$;

-- name: make_next_as_one() :exec
-- Make an empty log that is one table.
CREATE TABLE ltm_memory_access_next (
    LIKE ltm_memory_access
    INCLUDING COMMENTS INCLUDING CONSTRAINTS INCLUDING DEFAULTS
    INCLUDING IDENTITY INCLUDING STORAGE,
    PRIMARY KEY (user_id, id)
);

-- name: fill_next() :exec
-- Give the new log the index, comments, owner and rights of the old one, and what is written to it.
CREATE INDEX ltm_memory_access_next_memory_id_idx
ON ltm_memory_access_next (user_id, memory_id, access_timestamp DESC NULLS LAST, id DESC);
DO $$
DECLARE
    command text;
BEGIN
    FOR command IN
        SELECT format('ALTER TABLE %s OWNER TO %I', t.oid::regclass, pg_get_userbyid(o.relowner))
        FROM pg_class AS o
        CROSS JOIN (
            SELECT 'ltm_memory_access_next'::regclass AS oid
            UNION ALL
            SELECT i.inhrelid
            FROM pg_inherits AS i
            WHERE i.inhparent = 'ltm_memory_access_next'::regclass
        ) AS t
        WHERE o.oid = 'ltm_memory_access'::regclass
        UNION ALL
        SELECT format(
            'GRANT %s ON %s TO %s%s',
            x.privilege_type,
            g.target,
            CASE x.grantee WHEN 0 THEN 'PUBLIC' ELSE x.grantee::regrole::text END,
            CASE WHEN x.is_grantable THEN ' WITH GRANT OPTION' ELSE '' END
        )
        FROM (
            VALUES
            ('ltm_memory_access'::regclass, 'ltm_memory_access_next'),
            ('ltm_memory_access_id_seq', 'SEQUENCE ltm_memory_access_next_id_seq')
        ) AS g (of, target)
        INNER JOIN pg_class AS c ON g.of = c.oid
        CROSS JOIN LATERAL aclexplode(c.relacl) AS x
        WHERE x.grantee <> c.relowner
        UNION ALL
        SELECT format(
            'COMMENT ON TABLE ltm_memory_access_next IS %L',
            obj_description('ltm_memory_access'::regclass)
        )
        UNION ALL
        SELECT format(
            'COMMENT ON INDEX ltm_memory_access_next_memory_id_idx IS %L',
            obj_description('ltm_memory_access_memory_id_idx'::regclass)
        )
    LOOP
        EXECUTE command;
    END LOOP;
    PERFORM set_config('search_path', format('%I, pg_temp', current_schema()), TRUE);
END
$$;
-- With the rights of its owner: who writes to the old log has none on the new one.
CREATE FUNCTION ltm_mirror_access()
RETURNS trigger
LANGUAGE plpgsql
SECURITY DEFINER
SET search_path FROM CURRENT
AS $$
BEGIN
    IF TG_OP = 'TRUNCATE' THEN
        TRUNCATE ltm_memory_access_next;
        RETURN NULL;
    END IF;
    IF TG_OP <> 'INSERT' THEN
        DELETE FROM ltm_memory_access_next AS n
        WHERE
            n.user_id = OLD.user_id
            AND n.id = OLD.id
            AND n.access_timestamp IS NOT DISTINCT FROM OLD.access_timestamp;
    END IF;
    IF TG_OP <> 'DELETE' THEN
        INSERT INTO ltm_memory_access_next SELECT NEW.*;
    END IF;
    RETURN NULL;
END
$$;
CREATE TRIGGER ltm_mirror
AFTER INSERT OR UPDATE OR DELETE ON ltm_memory_access
FOR EACH ROW EXECUTE FUNCTION ltm_mirror_access();
CREATE TRIGGER ltm_mirror_truncate
AFTER TRUNCATE ON ltm_memory_access
FOR EACH STATEMENT EXECUTE FUNCTION ltm_mirror_access();

-- name: hold_accesses() :exec
-- Let those who write to the log wait until the transaction ends.
LOCK TABLE ltm_memory_access IN SHARE ROW EXCLUSIVE MODE;

-- name: copy_accesses(after_user_id bigint, after_id bigint, row_limit bigint) :many
-- Copy a page of the log, but for what the trigger has brought; tell where the page ends.
WITH page AS MATERIALIZED (
    SELECT a.*
    FROM ltm_memory_access AS a
    WHERE (a.user_id, a.id) > ($1, $2)
    ORDER BY a.user_id, a.id
    LIMIT $3
),

copied AS (
    INSERT INTO ltm_memory_access_next
    SELECT p.*
    FROM page AS p
    WHERE
        NOT EXISTS (
            SELECT 1
            FROM ltm_memory_access_next AS n
            WHERE
                n.user_id = p.user_id
                AND n.id = p.id
                AND n.access_timestamp IS NOT DISTINCT FROM p.access_timestamp
        )
)

SELECT
    p.user_id,
    p.id
FROM page AS p
ORDER BY p.user_id DESC, p.id DESC
LIMIT 1;

-- name: next_parts() :many
-- The tables that hold the rows of the new log.
SELECT c.relname
FROM pg_class AS c
LEFT JOIN pg_inherits AS i ON c.oid = i.inhrelid
WHERE
    c.relkind = 'r'
    AND 'ltm_memory_access_next'::regclass IN (c.oid, i.inhparent)
ORDER BY c.relname COLLATE "C";

-- name: add_access_key(table_name name) :exec
-- Give one of these the foreign key to the memories, for rows that are written from now on.
ALTER TABLE "{table_name}" ADD CONSTRAINT ltm_memory_access_memory_id_fkey
FOREIGN KEY (user_id, memory_id) REFERENCES ltm_memories (user_id, id) ON DELETE CASCADE NOT VALID;

-- name: validate_access_key(table_name name) :exec
-- Check the rows that were there before.
ALTER TABLE "{table_name}" VALIDATE CONSTRAINT ltm_memory_access_memory_id_fkey;

-- name: join_access_keys() :exec
-- Make one foreign key of those of the partitions, which need not be checked again.
ALTER TABLE ltm_memory_access_next ADD CONSTRAINT ltm_memory_access_memory_id_fkey
FOREIGN KEY (user_id, memory_id) REFERENCES ltm_memories (user_id, id) ON DELETE CASCADE;

-- name: analyze_next() :exec
-- Let the planner know what is in the new log.
ANALYZE ltm_memory_access_next;

-- name: make_partition_ahead(ahead integer) :one
-- Make the partition of a month to come, counted from this one.
SELECT
    ltm_make_access_partition(
        (timezone('utc', now()) + $1::integer * interval '1 month')::date
    ) AS made;
