-- Whether statements mean what they say: nobody else may put functions where names are looked up.
--
-- PostgreSQL looks for a function in all schemas of the search_path, and one whose parameters fit better
-- than those of its own is taken: jsonb_build_object(text, jsonb) for jsonb_build_object(VARIADIC "any").
-- Qualifying every call would not be enough, casts and operators are looked up in the same way. So no
-- schema of the path may be one in which others create, or have created. These statements qualify what
-- they call.

-- query: schema_dangers()
-- What somebody has made, or may make, who could not act as us anyway. Trusted are who can act as the
-- owner of the schema, as the owner of the tables (unless two have some), or as this role, the groups of
-- this role, and the role that the step row_level_security made the operators'.
WITH us AS (
    SELECT
        r.oid,
        r.rolsuper
    FROM pg_catalog.pg_roles AS r
    WHERE r.rolname = current_user
),

path AS (
    SELECT
        n.oid,
        n.nspname,
        n.nspowner,
        n.nspacl
    FROM pg_catalog.pg_namespace AS n
    WHERE n.nspname = any(pg_catalog.current_schemas(FALSE))
),

tables AS (
    SELECT
        c.oid,
        c.relname,
        c.relkind,
        c.relowner AS owner_id,
        n.nspowner
    FROM path AS n
    INNER JOIN pg_catalog.pg_class AS c ON n.oid = c.relnamespace
    WHERE pg_catalog.starts_with(c.relname::text, 'ltm_') AND c.relkind IN ('r', 'p', 'v', 'm', 'f')
),

owner AS (
    SELECT pg_catalog.min(t.owner_id) AS oid
    FROM tables AS t
    WHERE t.relname = 'ltm_memories'
    HAVING pg_catalog.min(t.owner_id) = pg_catalog.max(t.owner_id)
),

found AS (
    SELECT
        n.nspowner,
        a.grantee AS role_id,
        pg_catalog.format('schema %I', n.nspname) AS subject,
        pg_catalog.format('REVOKE CREATE ON SCHEMA %I FROM', n.nspname) AS remedy
    FROM path AS n
    CROSS JOIN
        pg_catalog.aclexplode(
            coalesce(n.nspacl, pg_catalog.acldefault('n', n.nspowner))
        ) AS a
    WHERE a.privilege_type = 'CREATE'
    UNION ALL
    SELECT
        n.nspowner,
        p.proowner,
        pg_catalog.format('function %s', p.oid::pg_catalog.regprocedure),
        NULL
    FROM path AS n
    INNER JOIN pg_catalog.pg_proc AS p ON n.oid = p.pronamespace
    UNION ALL
    SELECT
        n.nspowner,
        o.oprowner,
        pg_catalog.format('operator %s', o.oid::pg_catalog.regoperator),
        NULL
    FROM path AS n
    INNER JOIN pg_catalog.pg_operator AS o ON n.oid = o.oprnamespace
    UNION ALL
    SELECT
        t.nspowner,
        t.owner_id,
        pg_catalog.format('table %s', t.oid::pg_catalog.regclass),
        NULL
    FROM tables AS t
    WHERE
        t.relkind NOT IN ('r', 'p')
        OR EXISTS (
            SELECT 1
            FROM tables AS s
            WHERE s.relname = t.relname AND s.oid <> t.oid
        )
)

SELECT
    f.subject,
    CASE
        WHEN f.remedy IS NULL
            THEN pg_catalog.format('statements would use what %s has made: drop it', r.rolname)
        ELSE
            pg_catalog.format(
                '%s may create functions in it that statements would call: %s %s',
                coalesce(r.rolname, 'PUBLIC'),
                f.remedy,
                coalesce(pg_catalog.quote_ident(r.rolname), 'PUBLIC')
            )
    END AS detail
FROM found AS f
CROSS JOIN us AS u
LEFT JOIN owner AS w ON TRUE
LEFT JOIN pg_catalog.pg_roles AS r ON f.role_id = r.oid
WHERE
    NOT (
        pg_catalog.pg_has_role(f.role_id, f.nspowner, 'MEMBER')
        OR pg_catalog.pg_has_role(f.role_id, u.oid, 'MEMBER')
        OR coalesce(pg_catalog.pg_has_role(f.role_id, w.oid, 'MEMBER'), FALSE)
        OR (NOT u.rolsuper AND pg_catalog.pg_has_role(u.oid, f.role_id, 'MEMBER'))
        OR EXISTS (
            SELECT 1
            FROM tables AS t
            INNER JOIN pg_catalog.pg_policy AS p ON t.oid = p.polrelid
            WHERE
                t.relname = 'ltm_memories'
                AND t.owner_id = w.oid
                AND p.polname = 'ltm_operator'
                AND p.polroles = ARRAY[f.role_id]
        )
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
