-- 1. orphans: rows of the tables whose memory is gone, where no foreign key keeps it there.
-- 2. out_of_step: memories whose own columns (said) and whose tables of details (held) differ.
-- 3. the schema: what the migrations made and is gone (missing), or is there and of no use (faults).
-- A condition on user_id reaches the indexes of 1 and 2, and leaves 3 out.
CREATE OR REPLACE VIEW ltm_health WITH (security_invoker = TRUE) AS
WITH
kept AS (
    SELECT c.conname AS key_name
    FROM pg_constraint AS c
    WHERE c.contype = 'f' AND c.convalidated AND c.confrelid = 'ltm_memories'::regclass
),

held_rows AS (
    SELECT user_id, id, 'ltm_contexts' AS table_name, 'memory_id' AS column_name, memory_id
    FROM ltm_contexts
    WHERE
        NOT EXISTS (
            SELECT 1 FROM kept AS k
            WHERE k.key_name = 'ltm_contexts_memory_id_fkey'
        )
    UNION ALL
    SELECT user_id, id, 'ltm_memory_tags', 'memory_id', memory_id
    FROM ltm_memory_tags
    WHERE
        NOT EXISTS (
            SELECT 1 FROM kept AS k
            WHERE k.key_name = 'ltm_memory_tags_memory_id_fkey'
        )
    UNION ALL
    SELECT user_id, id, 'ltm_memory_access', 'memory_id', memory_id
    FROM ltm_memory_access
    WHERE
        NOT EXISTS (
            SELECT 1 FROM kept AS k
            WHERE k.key_name = 'ltm_memory_access_memory_id_fkey'
        )
    UNION ALL
    SELECT user_id, id, 'ltm_memory_relationships', 'source_memory_id', source_memory_id
    FROM ltm_memory_relationships
    WHERE
        NOT EXISTS (
            SELECT 1 FROM kept AS k
            WHERE k.key_name = 'ltm_memory_relationships_source_memory_id_fkey'
        )
    UNION ALL
    SELECT user_id, id, 'ltm_memory_relationships', 'target_memory_id', target_memory_id
    FROM ltm_memory_relationships
    WHERE
        NOT EXISTS (
            SELECT 1 FROM kept AS k
            WHERE k.key_name = 'ltm_memory_relationships_target_memory_id_fkey'
        )
    UNION ALL
    SELECT user_id, id, 'ltm_memories', 'parent_memory_id', parent_memory_id
    FROM ltm_memories
    WHERE
        parent_memory_id IS NOT NULL
        AND NOT EXISTS (
            SELECT 1 FROM kept AS k
            WHERE k.key_name = 'ltm_memories_parent_memory_id_fkey'
        )
),

orphans AS (
    SELECT
        h.user_id,
        format('%s %s', h.table_name, h.id) AS subject,
        format('its %s %s is no memory of this user', h.column_name, h.memory_id) AS detail
    FROM held_rows AS h
    LEFT JOIN ltm_memories AS m ON h.user_id = m.user_id AND h.memory_id = m.id
    WHERE m.id IS NULL
),

-- Memories whose columns and tables give another number of names, or another sum of their hashes: only
-- these are compared name by name. DISTINCT, or the planner would compare all of them first.
tags_in_doubt AS (
    SELECT DISTINCT m.user_id, m.id, m.tags
    FROM ltm_memories AS m
    LEFT JOIN (
        SELECT user_id, memory_id, count(*) AS names, sum(hashtext(ltm_lower(tag_name))) AS hash
        FROM ltm_memory_tags
        GROUP BY user_id, memory_id
    ) AS h ON m.user_id = h.user_id AND m.id = h.memory_id
    CROSS JOIN
        LATERAL (
            SELECT count(*) AS names, sum(hashtext(ltm_lower(e.tag))) AS hash
            FROM jsonb_array_elements_text(ltm_as_array(m.tags)) AS e (tag)
        ) AS s
    WHERE
        s.names <> coalesce(h.names, 0)
        OR s.hash <> h.hash
        OR jsonb_typeof(m.tags) NOT IN ('array', 'null')
),

targets_in_doubt AS (
    SELECT DISTINCT m.user_id, m.id, m.related_memory_ids
    FROM ltm_memories AS m
    LEFT JOIN (
        SELECT
            user_id,
            source_memory_id,
            count(*) AS names,
            sum(hashtext(target_memory_id::text)) AS hash
        FROM ltm_memory_relationships
        GROUP BY user_id, source_memory_id
    ) AS h ON m.user_id = h.user_id AND m.id = h.source_memory_id
    CROSS JOIN
        LATERAL (
            SELECT count(*) AS names, sum(hashtext(e.id)) AS hash
            FROM jsonb_array_elements_text(ltm_as_array(m.related_memory_ids)) AS e (id)
        ) AS s
    WHERE s.names <> coalesce(h.names, 0) OR s.hash <> h.hash
),

fields_in_doubt AS (
    SELECT DISTINCT m.user_id, m.id, m.context_data
    FROM ltm_memories AS m
    LEFT JOIN (
        SELECT
            user_id,
            memory_id,
            count(*) AS names,
            sum(hashtext(context_type || '.' || context_key)) AS hash
        FROM ltm_contexts
        WHERE context_value IS NOT NULL
        GROUP BY user_id, memory_id
    ) AS h ON m.user_id = h.user_id AND m.id = h.memory_id
    CROSS JOIN
        LATERAL (
            SELECT count(*) AS names, sum(hashtext(f.field)) AS hash
            FROM ltm_context_fields(m.context_data) AS f (field)
        ) AS s
    WHERE s.names <> coalesce(h.names, 0) OR s.hash <> h.hash
),

both_sides AS (
    SELECT
        m.user_id,
        m.id,
        'tags' AS column_name,
        'ltm_memory_tags' AS table_name,
        array(
            SELECT DISTINCT ltm_lower(n.tag) COLLATE "C" AS name
            FROM unnest(ltm_tag_names(m.tags)) AS n (tag)
            ORDER BY name
        ) AS said,
        array(
            SELECT ltm_lower(t.tag_name) COLLATE "C" AS name
            FROM ltm_memory_tags AS t
            WHERE m.user_id = t.user_id AND m.id = t.memory_id
            ORDER BY name
        ) AS held
    FROM tags_in_doubt AS m
    UNION ALL
    SELECT
        m.user_id,
        m.id,
        'related_memory_ids',
        'ltm_memory_relationships',
        array(
            SELECT DISTINCT e.id COLLATE "C" AS id
            FROM jsonb_array_elements_text(ltm_as_array(m.related_memory_ids)) AS e (id)
            ORDER BY id
        ),
        array(
            SELECT DISTINCT r.target_memory_id::text COLLATE "C" AS id
            FROM ltm_memory_relationships AS r
            WHERE m.user_id = r.user_id AND m.id = r.source_memory_id
            ORDER BY id
        )
    FROM targets_in_doubt AS m
    UNION ALL
    SELECT
        m.user_id,
        m.id,
        'context_data',
        'ltm_contexts',
        array(
            SELECT DISTINCT f.field COLLATE "C" AS name
            FROM ltm_context_fields(m.context_data) AS f (field)
            ORDER BY name
        ),
        array(
            SELECT DISTINCT c.context_type || '.' || c.context_key COLLATE "C" AS name
            FROM ltm_contexts AS c
            WHERE m.user_id = c.user_id AND m.id = c.memory_id AND c.context_value IS NOT NULL
            ORDER BY name
        )
    FROM fields_in_doubt AS m
),

out_of_step AS (
    SELECT
        column_name || '_out_of_step' AS check_name,
        user_id,
        format('ltm_memories %s', id) AS subject,
        format(
            '%s only in %s, %s only in %s%s',
            (
                SELECT count(*)
                FROM unnest(said) AS s (name)
                WHERE s.name <> all(held)
            ),
            column_name,
            (
                SELECT count(*)
                FROM unnest(held) AS h (name)
                WHERE h.name <> all(said)
            ),
            table_name,
            CASE
                WHEN to_regnamespace('ltm_adoption') IS NOT NULL
                    THEN ': as the original application writes, reconcile_mirrors completes it'
            END
        ) AS detail
    FROM both_sides
    WHERE said <> held
),

ranks_out_of_step AS (
    SELECT
        m.user_id,
        m.id,
        CASE
            WHEN k.memory_id IS NULL THEN 'it has no row in ltm_memory_ranks: no list shows it'
            ELSE 'its row in ltm_memory_ranks differs: lists show it in the wrong place'
        END AS detail
    FROM ltm_memories AS m
    LEFT JOIN ltm_memory_ranks AS k ON m.user_id = k.user_id AND m.id = k.memory_id
    WHERE
        (
            m.id, m.importance_rank, m.importance_score, m.created_at, m.memory_type, m.category,
            m.source_type, m.created_by, m.namespace, m.is_archived
        )
        IS DISTINCT FROM
        (
            k.memory_id, k.importance_rank, k.importance_score, k.created_at, k.memory_type,
            k.category, k.source_type, k.created_by, k.namespace, k.is_archived
        )
    UNION ALL
    SELECT k.user_id, k.memory_id, 'it is gone, but ltm_memory_ranks has a row of it'
    FROM ltm_memory_ranks AS k
    LEFT JOIN ltm_memories AS m ON k.user_id = m.user_id AND k.memory_id = m.id
    WHERE m.id IS NULL
),

tables AS (
    SELECT c.oid, c.relname
    FROM pg_class AS c
    WHERE
        c.relname ~ '^ltm_'
        AND c.relnamespace = (
            SELECT h.relnamespace
            FROM pg_class AS h
            WHERE h.oid = 'ltm_memories'::regclass
        )
),

missing AS (
    SELECT
        o.kind || '_missing' AS check_name,
        o.name AS subject,
        format('the migration %s made it on %s', o.migration_id, o.table_name) AS detail
    FROM ltm_migration_objects AS o
    WHERE
        NOT EXISTS (
            SELECT 1
            FROM pg_index AS i
            INNER JOIN tables AS t ON i.indrelid = t.oid
            INNER JOIN tables AS n ON i.indexrelid = n.oid
            WHERE o.kind = 'index' AND t.relname = o.table_name AND n.relname = o.name
        )
        AND NOT EXISTS (
            SELECT 1
            FROM pg_constraint AS c
            INNER JOIN tables AS t ON c.conrelid = t.oid
            WHERE
                o.kind = 'foreign_key'
                AND c.contype = 'f'
                AND t.relname = o.table_name
                AND c.conname = o.name
        )
    UNION ALL
    SELECT DISTINCT
        'migration_pending',
        l.migration_id,
        'python -m ltm_store.migrate applies it'
    FROM ltm_migration_log AS l
    WHERE
        NOT EXISTS (
            SELECT 1
            FROM ltm_migrations AS a
            WHERE a.migration_id = l.migration_id
        )
),

faults AS (
    SELECT
        'constraint_not_validated' AS check_name,
        c.conname::text AS subject,
        format('rows of %s may break it: VALIDATE CONSTRAINT tells', t.relname) AS detail
    FROM pg_constraint AS c
    INNER JOIN tables AS t ON c.conrelid = t.oid
    WHERE
        NOT c.convalidated
        AND (c.confrelid = 0 OR c.confrelid IN (SELECT o.oid FROM tables AS o))
    UNION ALL
    SELECT
        'index_invalid',
        t.relname::text,
        'nothing reads it: REINDEX INDEX CONCURRENTLY makes it anew'
    FROM pg_index AS i
    INNER JOIN tables AS t ON i.indexrelid = t.oid
    WHERE NOT (i.indisvalid AND i.indisready AND i.indislive)
    UNION ALL
    SELECT
        'dead_rows',
        t.relname::text,
        format(
            '%s of %s rows are dead: VACUUM is behind',
            d.n_dead_tup,
            d.n_dead_tup + d.n_live_tup
        )
    FROM pg_stat_user_tables AS d
    INNER JOIN tables AS t ON d.relid = t.oid
    WHERE d.n_dead_tup >= 10000 AND d.n_dead_tup > 0.3 * (d.n_dead_tup + d.n_live_tup)
    UNION ALL
    SELECT
        'adoption_unfinished',
        n.nspname::text,
        'once the original application is gone: python -m ltm_store.migrate finish_adoption'
    FROM pg_namespace AS n
    WHERE n.nspname = 'ltm_adoption'
    UNION ALL
    SELECT
        'unsafe_schema',
        d.subject,
        d.detail
    FROM (
        SELECT NULL  -- query: schema_dangers
    ) AS d
    UNION ALL
    SELECT
        'setting',
        s.name,
        format('is %s: answers differ from those of connect()', s.setting)
    FROM pg_settings AS s
    WHERE
        (s.name = 'gin_fuzzy_search_limit' AND s.setting <> '0')
        OR (s.name = 'standard_conforming_strings' AND s.setting = 'off')
        OR (s.name = 'extra_float_digits' AND s.setting::integer < 1)
    UNION ALL
    SELECT
        'letter_case',
        current_database()::text,
        'lower() knows no letters beyond ASCII (LC_CTYPE): those of rare scripts keep their case'
    WHERE lower('ÄΩЖI') <> 'äωжi'
)

SELECT
    'orphan' AS check_name,
    user_id,
    subject,
    detail
FROM orphans
UNION ALL
SELECT check_name, user_id, subject, detail
FROM out_of_step
UNION ALL
SELECT
    'rank_out_of_step',
    user_id,
    format('ltm_memories %s', id),
    detail
FROM ranks_out_of_step
UNION ALL
SELECT check_name, NULL, subject, detail
FROM missing
UNION ALL
SELECT check_name, NULL, subject, detail
FROM faults;

COMMENT ON VIEW ltm_health IS
'What is wrong with this database, a row each; no row when all is well. Of one user with WHERE '
'user_id = ...; without it every table is read.';
COMMENT ON COLUMN ltm_health.check_name IS
'orphan; tags_out_of_step, related_memory_ids_out_of_step, context_data_out_of_step, '
'rank_out_of_step; '
'foreign_key_missing, constraint_not_validated, index_missing, index_invalid, dead_rows (at least '
'10,000, and three in ten), migration_pending, adoption_unfinished, unsafe_schema, setting, '
'letter_case.';
COMMENT ON COLUMN ltm_health.user_id IS 'Whose row it is about; NULL: it is about the schema.';
COMMENT ON COLUMN ltm_health.subject IS
'The row as table and id, or the name of the constraint, index, table, migration or schema.';
COMMENT ON COLUMN ltm_health.detail IS 'What is wrong, or what helps; never any content.';
