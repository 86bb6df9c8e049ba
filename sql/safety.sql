-- Whether statements mean what they say: nobody else may put functions where names are looked up.
--
-- PostgreSQL looks for a function in all schemas of the search_path, and one whose parameters fit better
-- than those of its own is taken: jsonb_build_object(text, jsonb) for jsonb_build_object(VARIADIC "any").
-- Qualifying every call would not be enough, casts and operators are looked up in the same way. So no
-- schema of the path may be one in which others create. These statements qualify what they call.

-- query: schema_dangers()
SELECT
    pg_catalog.format('schema %I', n.nspname) AS subject,
    pg_catalog.format(
        '%s may create functions in it that statements would call: '
        || 'REVOKE CREATE ON SCHEMA %I FROM %s',
        coalesce(g.rolname, 'PUBLIC'),
        n.nspname,
        coalesce(pg_catalog.quote_ident(g.rolname), 'PUBLIC')
    ) AS detail
FROM pg_catalog.pg_namespace AS n
CROSS JOIN
    pg_catalog.aclexplode(
        coalesce(n.nspacl, pg_catalog.acldefault('n', n.nspowner))
    ) AS a
LEFT JOIN pg_catalog.pg_roles AS g ON a.grantee = g.oid
LEFT JOIN pg_catalog.pg_class AS c ON c.oid = pg_catalog.to_regclass('ltm_memories')
WHERE
    n.nspname = any(pg_catalog.current_schemas(FALSE))
    AND a.privilege_type = 'CREATE'
    AND a.grantee <> n.nspowner
    AND a.grantee IS DISTINCT FROM c.relowner
    AND g.rolsuper IS NOT TRUE
    AND g.rolname IS DISTINCT FROM current_user
UNION ALL
SELECT
    pg_catalog.format('function %s', p.oid::pg_catalog.regprocedure) AS subject,
    'it can be taken for one of PostgreSQL''s own: DROP FUNCTION, or DROP AGGREGATE' AS detail
FROM pg_catalog.pg_proc AS p
INNER JOIN pg_catalog.pg_namespace AS n ON p.pronamespace = n.oid
INNER JOIN pg_catalog.pg_roles AS o ON p.proowner = o.oid
LEFT JOIN pg_catalog.pg_class AS c ON c.oid = pg_catalog.to_regclass('ltm_memories')
WHERE
    n.nspname = any(pg_catalog.current_schemas(FALSE))
    AND NOT o.rolsuper
    AND p.proowner <> n.nspowner
    AND p.proowner IS DISTINCT FROM c.relowner
    AND o.rolname <> current_user
    AND EXISTS (
        SELECT 1
        FROM pg_catalog.pg_proc AS b
        WHERE
            b.proname = p.proname
            AND b.pronamespace = 'pg_catalog'::pg_catalog.regnamespace
    );

-- name: find_schema_dangers(row_limit bigint) :many SchemaDanger
-- The schemas of the search_path in which others may create, and what they have put there.
-- scope: all users
SELECT
    d.subject,
    d.detail
FROM (
    SELECT NULL  -- query: schema_dangers
) AS d
ORDER BY d.subject COLLATE "C", d.detail COLLATE "C"
LIMIT $1;
