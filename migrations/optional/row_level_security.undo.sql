-- Roles that somebody has been given, or that other databases use, stay.

DO $$
DECLARE
    home CONSTANT text := current_schema();
    ours CONSTANT text[] := ARRAY['ltm_owner', 'ltm_app', 'ltm_reader'];
    roles CONSTANT text := (SELECT string_agg(r, ', ') FROM unnest(ours) AS r WHERE to_regrole(r) IS NOT NULL);
    is_guest CONSTANT boolean := to_regrole('ltm_owner') IS NOT NULL AND NOT pg_has_role(to_regrole('ltm_owner'), 'USAGE');
    o record;
    role_name text;
BEGIN
    IF is_guest THEN
        EXECUTE format('GRANT ltm_owner TO %I', current_user);
    END IF;
    FOR o IN
        SELECT c.oid::regclass AS name
        FROM pg_class AS c
        WHERE c.relnamespace = home::regnamespace AND c.relkind = 'v' AND c.relowner = to_regrole('ltm_owner')
    LOOP
        EXECUTE format('DROP VIEW %s', o.name);
    END LOOP;
    DROP FUNCTION IF EXISTS ltm_find_user(text);
    DROP FUNCTION IF EXISTS ltm_intern_user(text);
    DROP DOMAIN IF EXISTS ltm_as_user;
    FOR o IN
        SELECT
            p.oid::regprocedure AS name,
            c.relowner::regrole AS tables_owner
        FROM pg_proc AS p
        INNER JOIN pg_class AS c ON c.oid = to_regclass(format('%I.ltm_memories', home))
        WHERE p.pronamespace = home::regnamespace AND p.proowner = to_regrole('ltm_owner')
    LOOP
        EXECUTE format('ALTER FUNCTION %s OWNER TO %s', o.name, o.tables_owner);
    END LOOP;
    FOR o IN
        SELECT
            c.oid::regclass AS name,
            c.relkind,
            EXISTS (SELECT 1 FROM pg_policy AS p WHERE p.polrelid = c.oid AND p.polname = 'ltm_operator') AS is_bound
        FROM pg_class AS c
        WHERE c.relnamespace = home::regnamespace
            AND c.relkind IN ('r', 'p', 'v', 'S')
            AND starts_with(c.relname, 'ltm_')
    LOOP
        IF o.is_bound THEN
            EXECUTE format('DROP POLICY ltm_user ON %s', o.name);
            EXECUTE format('DROP POLICY ltm_operator ON %s', o.name);
            EXECUTE format('ALTER TABLE %s DISABLE ROW LEVEL SECURITY, NO FORCE ROW LEVEL SECURITY', o.name);
        END IF;
        IF roles IS NOT NULL THEN
            EXECUTE format(
                'REVOKE ALL ON %s %s FROM %s', CASE WHEN o.relkind = 'S' THEN 'SEQUENCE' ELSE 'TABLE' END, o.name, roles
            );
        END IF;
    END LOOP;
    IF roles IS NOT NULL THEN
        EXECUTE format('REVOKE ALL ON SCHEMA %I FROM %s', home, roles);
    END IF;
    IF is_guest THEN
        EXECUTE format('REVOKE ltm_owner FROM %I', current_user);
    END IF;
    FOR role_name IN SELECT r FROM unnest(ours) AS r WHERE to_regrole(r) IS NOT NULL LOOP
        BEGIN
            IF EXISTS (
                SELECT 1 FROM pg_auth_members AS m
                WHERE m.roleid = to_regrole(role_name) AND m.member <> to_regrole(quote_ident(current_user))
            ) THEN
                RAISE WARNING 'the role % stays: others are members of it', role_name;
            ELSE
                EXECUTE format('DROP ROLE %I', role_name);
            END IF;
        EXCEPTION WHEN dependent_objects_still_exist OR insufficient_privilege OR object_in_use THEN
            RAISE WARNING 'the role % stays: it has rights elsewhere, or is not ours to drop', role_name;
        END;
    END LOOP;
END
$$;
