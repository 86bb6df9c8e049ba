-- What passes the filters, changed together.

-- name: passing_ids(
--     user_id bigint, as_of timestamptz, row_limit bigint, memory_ids bigint[], unless_tagged text,
--     locked flag
-- ) :one
-- The ids of memories that pass the filters, the lowest ones; on demand locked in their order.
SELECT coalesce(array_agg(p.id), '{}') AS ids
FROM (
    SELECT m.id
    FROM ltm_memories AS m
    WHERE
        m.user_id = $1
        AND m.id = any($4)  -- if memory_ids
        -- if unless_tagged
        AND NOT coalesce(
            ltm_tag_terms(m.user_id, m.tags) @> ltm_tag_terms($1, $5::text::jsonb), FALSE
        )
        -- end if
        AND TRUE  -- conditions: filters
    ORDER BY m.id
    LIMIT $3
    FOR NO KEY UPDATE  -- if locked
) AS p;

-- name: archive_memories(
--     user_id bigint, memory_ids bigint[], now timestamptz, archive_reason text
-- ) :one
-- Archive memories; without a reason they keep that which they have.
WITH archived AS (
    UPDATE ltm_memories AS m
    SET
        is_archived = TRUE,
        archive_reason = coalesce($4, m.archive_reason),
        version = m.version + 1,
        last_modified = timezone('utc', $3::timestamptz),
        dynamic_importance = ltm_dynamic_importance(m.importance_rank, $3)
    WHERE m.user_id = $1 AND m.id = any($2)
    RETURNING m.id
)

SELECT count(*) AS archived FROM archived;

-- name: tag_memories(
--     user_id bigint, memory_ids bigint[], now timestamptz, tag_names text[]
-- ) :one
-- Give memories tags, as add_tags does each.
WITH tagged AS (
    INSERT INTO ltm_memory_tags AS t (user_id, memory_id, tag_name, first_used, last_used)
    SELECT
        $1,
        i.id,
        n.tag_name,
        timezone('utc', $3),
        timezone('utc', $3)
    FROM unnest($2::bigint[]) AS i (id) CROSS JOIN unnest($4::text[]) AS n (tag_name)
    ON CONFLICT (user_id, memory_id, ltm_lower(tag_name))
    DO UPDATE SET
        usage_count = least(coalesce(t.usage_count, 1), 2147483646) + 1,
        last_used = greatest(t.last_used, excluded.last_used)
),

changed AS (
    UPDATE ltm_memories AS m
    SET
        tags = (
            SELECT
                m.*  -- columns: with_tags
        ),
        version = m.version + 1,
        last_modified = timezone('utc', $3::timestamptz),
        dynamic_importance = ltm_dynamic_importance(m.importance_rank, $3)
    WHERE m.user_id = $1 AND m.id = any($2)
    RETURNING m.id
)

SELECT count(*) AS tagged FROM changed;
