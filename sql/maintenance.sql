-- What operators run over all users, from time to time.

-- name: expired_memories(as_of timestamptz, row_limit bigint) :many
-- Memories that have expired, those that did so first.
-- scope: all users
SELECT
    m.user_id,
    m.id
FROM ltm_memories AS m
WHERE m.expires_at <= $1
ORDER BY m.expires_at, m.user_id, m.id
LIMIT $2;

-- name: prune_accesses(
--     after_user_id bigint, after_id bigint, older_than timestamptz, row_limit bigint
-- ) :one PrunedAccesses
-- Delete the accesses of before a moment from a page of the log; tell how many, and where the page ends.
-- scope: all users
WITH page AS MATERIALIZED (
    SELECT
        a.user_id,
        a.id,
        a.access_timestamp < timezone('utc', $3) AS is_old
    FROM ltm_memory_access AS a
    WHERE (a.user_id, a.id) > ($1, $2)
    ORDER BY a.user_id, a.id
    LIMIT $4
),

-- Never waits: what somebody else deletes with its memory need not be deleted here. (Citus locks no
-- rows of several users.)
old AS (
    SELECT
        p.user_id,
        p.id
    FROM page AS p
    INNER JOIN ltm_memory_access AS a  -- if not distributed
        ON p.user_id = a.user_id AND p.id = a.id  -- if not distributed
    WHERE p.is_old
    FOR UPDATE OF a SKIP LOCKED  -- if not distributed
),

pruned AS (
    DELETE FROM ltm_memory_access AS a
    USING old AS o
    WHERE a.user_id = o.user_id AND a.id = o.id
    RETURNING a.id
)

SELECT
    p.user_id,
    p.id,
    (SELECT count(*) FROM pruned) AS pruned
FROM page AS p
ORDER BY p.user_id DESC, p.id DESC
LIMIT 1;

-- name: drop_access_partition(older_than timestamptz) :one
-- Drop a whole partition of accesses of before a moment; how many they were, NULL without one.
-- scope: all users
SELECT ltm_drop_access_partition($1) AS dropped;

-- name: make_access_partition(months_ahead integer) :one
-- Give the log of accesses a partition for a month, counted from this one; its name if it is new.
-- scope: all users
SELECT
    ltm_make_access_partition(
        (timezone('utc', now()) + $1::integer * interval '1 month')::date
    ) AS made;

-- name: check_health(migration_ids text[], row_limit bigint) :many HealthProblem
-- What is wrong, and which of these migrations are not applied; the schema's problems first.
-- scope: all users
SELECT
    p.check_name,
    p.user_id,
    p.subject,
    p.detail
FROM (
    SELECT
        h.check_name,
        h.user_id,
        h.subject,
        h.detail
    FROM ltm_health AS h
    UNION
    SELECT
        'migration_pending',
        NULL,
        k.id,
        'python -m ltm_store.migrate applies it'
    FROM unnest($1::text[]) AS k (id)
    WHERE
        NOT EXISTS (
            SELECT 1
            FROM ltm_migrations AS a
            WHERE a.migration_id = k.id
        )
) AS p
ORDER BY
    p.user_id ASC NULLS FIRST,
    p.check_name COLLATE "C" ASC,
    p.subject COLLATE "C" ASC,
    p.detail COLLATE "C" ASC
LIMIT $2;

-- name: embedding_problems(model text, row_limit bigint) :many HealthProblem
-- Memories that were set aside, stale vectors, and of a model what is missing and what others left.
-- scope: all users
-- needs: embeddings
SELECT
    p.check_name,
    p.user_id,
    p.subject,
    p.detail
FROM (
    SELECT
        'embedding_set_aside' AS check_name,
        e.user_id,
        format('ltm_memories %s', e.memory_id) AS subject,
        format('%s: %s; it is tried again when its content is changed', e.model, e.note) AS detail
    FROM ltm_embeddings AS e
    WHERE e.note IS NOT NULL
    UNION ALL
    SELECT
        'embeddings_stale',
        NULL,
        e.model,
        format('%s memories were changed since: ltm-store embed', count(*))
    FROM ltm_embeddings AS e
    INNER JOIN ltm_memories AS m ON e.user_id = m.user_id AND e.memory_id = m.id
    WHERE e.part = 0 AND e.embedding IS NOT NULL AND e.content_hash <> m.content_hash
    GROUP BY e.model
    UNION ALL
    SELECT
        'embeddings_missing',
        NULL,
        $1,
        format('%s memories have no vector: ltm-store embed', count(*))
    FROM ltm_memories AS m
    WHERE
        $1::text IS NOT NULL
        AND ltm_is_current(m.expires_at, now())
        AND NOT EXISTS (
            SELECT 1
            FROM ltm_embeddings AS e
            WHERE
                e.user_id = m.user_id
                AND e.model = $1
                AND e.memory_id = m.id
                AND (e.embedding IS NOT NULL OR e.note IS NOT NULL)
        )
    HAVING count(*) > 0
    UNION ALL
    SELECT
        'embeddings_unused',
        NULL,
        e.model,
        format('%s vectors are of a model that is not this one''s: delete them', count(*))
    FROM ltm_embeddings AS e
    WHERE $1::text IS NOT NULL AND e.model NOT IN ($1, 'caller')
    GROUP BY e.model
) AS p
ORDER BY
    p.user_id ASC NULLS FIRST,
    p.check_name COLLATE "C" ASC,
    p.subject COLLATE "C" ASC,
    p.detail COLLATE "C" ASC
LIMIT $2;

-- name: adoption_report(of_user_id bigint, row_limit bigint) :many RepairCount
-- How often adoption repaired each column in each way, of all users or of one.
-- scope: all users
SELECT
    r.table_name,
    r.column_name,
    r.rule,
    count(*) AS repairs
FROM ltm_adoption_report AS r
WHERE
    TRUE
    AND r.user_id = $1  -- if of_user_id
GROUP BY r.table_name, r.column_name, r.rule
ORDER BY r.table_name COLLATE "C", r.column_name COLLATE "C" NULLS FIRST, r.rule COLLATE "C"
LIMIT $2;

-- name: adoption_repairs(of_user_id bigint, after_id bigint, row_limit bigint) :many Repair
-- A page of what adoption repaired, of all users or of one, in the order of the entries.
-- scope: all users
SELECT
    r.id,
    r.user_id,
    r.table_name,
    r.row_id,
    r.column_name,
    r.rule,
    r.original
FROM ltm_adoption_report AS r
WHERE
    r.id > $2
    AND r.user_id = $1  -- if of_user_id
ORDER BY r.id
LIMIT $3;
