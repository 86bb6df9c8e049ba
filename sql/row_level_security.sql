-- Row level security, the optional step of that name.

-- name: find_row_level_security() :one RowLevelSecurity
-- Whether the policies bind this connection, and why it is not one that they keep to one user.
-- scope: all users
WITH tables AS (
    SELECT
        o.oid,
        o.relname
    FROM pg_class AS c
    INNER JOIN pg_class AS o ON c.relnamespace = o.relnamespace
    INNER JOIN pg_attribute AS a ON o.oid = a.attrelid
    WHERE
        c.oid = to_regclass('ltm_memories')
        AND o.relkind IN ('r', 'p')
        AND NOT o.relispartition
        AND starts_with(o.relname, 'ltm_')
        AND a.attname = 'user_id'
        AND NOT a.attisdropped
),

roles AS (
    SELECT
        bool_or(r.rolsuper) AS is_super,
        bool_or(r.rolbypassrls) AS bypasses,
        coalesce(pg_has_role(to_regrole('ltm_owner'), 'USAGE'), FALSE) AS is_operator
    FROM pg_roles AS r
    WHERE r.rolname IN (current_user, session_user)
),

unbound AS (
    SELECT min(t.relname COLLATE "C") AS relname
    FROM tables AS t
    WHERE NOT row_security_active(t.oid)
)

SELECT
    (
        SELECT n.nspname
        FROM pg_type AS t
        INNER JOIN pg_namespace AS n ON t.typnamespace = n.oid
        WHERE t.oid = to_regtype('ltm_as_user')
    ) AS schema_name,
    r.is_operator,
    NOT r.is_operator AND EXISTS (
        SELECT 1 FROM tables AS t
        WHERE row_security_active(t.oid)
    ) AS is_bound,
    CASE
        WHEN r.is_super THEN 'a superuser'
        WHEN r.bypasses THEN 'one with BYPASSRLS'
        WHEN r.is_operator THEN 'an operator, a member of ltm_owner'
        WHEN u.relname IS NOT NULL THEN format('one that no policy of %s binds', u.relname)
    END AS exemption
FROM roles AS r
CROSS JOIN unbound AS u;
