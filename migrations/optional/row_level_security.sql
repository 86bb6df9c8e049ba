-- Row level security: a session sees and writes the rows of one user, whom ltm.user_id names.
-- May be run again, and is after a migration: tables that came later get their policies then. The roles
-- are the whole server's, shared by its databases.
-- given: external_id = $1

-- It reads no rows, but the bodies of functions are looked at.
SET LOCAL row_security = on;

DO $$
DECLARE
    home CONSTANT text := current_schema();
    role_name text;
BEGIN
    IF to_regclass(format('%I.ltm_memories', home)) IS NULL THEN
        RAISE EXCEPTION 'the schema comes first: python -m ltm_store.migrate';
    END IF;
    FOREACH role_name IN ARRAY ARRAY['ltm_owner', 'ltm_app', 'ltm_reader'] LOOP
        IF to_regrole(role_name) IS NULL THEN
            BEGIN
                EXECUTE format('CREATE ROLE %I NOLOGIN', role_name);
            EXCEPTION
                WHEN duplicate_object OR unique_violation THEN NULL; -- by another database's step
                WHEN insufficient_privilege THEN
                    RAISE EXCEPTION 'the role % may not create the role %: let a superuser CREATE ROLE ltm_owner, ltm_app and ltm_reader NOLOGIN, and GRANT ltm_owner TO % WITH ADMIN OPTION', current_user, role_name, quote_ident(current_user);
            END;
        END IF;
    END LOOP;
    PERFORM set_config('ltm.is_guest', 'no', TRUE);
    IF NOT pg_has_role('ltm_owner', 'MEMBER') OR NOT pg_has_role('ltm_owner', 'USAGE') THEN
        -- To make what is ltm_owner's; until the end of this step.
        EXECUTE format('GRANT ltm_owner TO %I', current_user);
        PERFORM set_config('ltm.is_guest', 'yes', TRUE);
    END IF;
    EXECUTE format('GRANT USAGE, CREATE ON SCHEMA %I TO ltm_owner', home);
    EXECUTE format('GRANT USAGE ON SCHEMA %I TO ltm_app, ltm_reader', home);
END
$$;

-- A parameter of this type is read before the statement is planned or run, in its own transaction: that
-- makes the setting go with the statement, in one round trip, and end with it.
DO $$
BEGIN
    IF to_regtype(format('%I.ltm_as_user', current_schema())) IS NULL THEN
        CREATE DOMAIN ltm_as_user AS bigint
        CONSTRAINT ltm_as_user_is_set CHECK (set_config('ltm.user_id', VALUE::text, TRUE) IS NOT NULL);
    END IF;
END
$$;

COMMENT ON DOMAIN ltm_as_user IS
'The number of a user, who is in ltm.user_id from when a parameter of this type is given to the '
'end of the transaction.';

-- The policies. The subselect makes them read the setting once a statement.
-- The operators that look words, tags and JSON up in an index are not leakproof: behind a policy they
-- would be applied to all rows of the user. The views ltm_own_... read with the rights of ltm_owner, to
-- whom no policy stands in the way, and have the condition of the policies themselves. (No part of an
-- equality, it leaves the planner the index that a statement is made for.)
DO $$
DECLARE
    home CONSTANT text := current_schema();
    tenant CONSTANT text := '(SELECT nullif(current_setting(''ltm.user_id'', TRUE), '''')::bigint)';
    t record;
BEGIN
    FOR t IN
        SELECT
            c.oid::regclass AS name,
            replace(c.relname, 'ltm_', 'ltm_own_') AS own_name,
            c.relowner::regrole AS tables_owner,
            c.relname = 'ltm_external_users' AS is_names
        FROM pg_class AS c
        INNER JOIN pg_attribute AS a ON c.oid = a.attrelid AND a.attname = 'user_id' AND NOT a.attisdropped
        WHERE c.relnamespace = home::regnamespace
            AND c.relkind IN ('r', 'p')
            AND NOT c.relispartition -- of which nobody is given a right
            AND starts_with(c.relname, 'ltm_')
        ORDER BY c.relname
    LOOP
        EXECUTE format('ALTER TABLE %s ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY', t.name);
        EXECUTE format('DROP POLICY IF EXISTS ltm_user ON %s', t.name);
        EXECUTE format('DROP POLICY IF EXISTS ltm_operator ON %s', t.name);
        EXECUTE format(
            'CREATE POLICY ltm_user ON %s USING (%s)',
            t.name,
            concat('user_id = ' || tenant, CASE WHEN t.is_names THEN ' OR merged_into = ' || tenant END)
        );
        EXECUTE format('CREATE POLICY ltm_operator ON %s TO ltm_owner USING (TRUE)', t.name);
        EXECUTE format('GRANT ALL ON %s TO ltm_owner', t.name);
        EXECUTE format('GRANT SELECT ON %s TO ltm_app, ltm_reader', t.name);
        IF t.is_names THEN
            EXECUTE format('GRANT UPDATE (external_id) ON %s TO ltm_app', t.name);
        ELSE
            EXECUTE format('GRANT INSERT, UPDATE, DELETE ON %s TO ltm_app', t.name);
            EXECUTE format('DROP VIEW IF EXISTS %I', t.own_name);
            EXECUTE format(
                'CREATE VIEW %I AS SELECT t.* FROM %s AS t WHERE coalesce(t.user_id = %s, FALSE) WITH LOCAL CHECK OPTION',
                t.own_name, t.name, tenant
            );
            EXECUTE format(
                'COMMENT ON VIEW %I IS %L', t.own_name,
                format('%s of the user in ltm.user_id, for statements that look words, tags or JSON up in an index.', t.name)
            );
            EXECUTE format('ALTER VIEW %I OWNER TO ltm_owner', t.own_name);
            EXECUTE format('GRANT SELECT ON %I TO ltm_app, ltm_reader, %s', t.own_name, t.tables_owner);
            -- Without a right to UPDATE it could not lock them.
            EXECUTE format('GRANT UPDATE (user_id) ON %I TO ltm_app, %s', t.own_name, t.tables_owner);
        END IF;
    END LOOP;
    -- What holds no rows of users: views, which have the rights of who reads them, and bookkeeping.
    FOR t IN
        SELECT c.oid::regclass AS name
        FROM pg_class AS c
        WHERE c.relnamespace = current_schema()::regnamespace
            AND (c.relkind = 'v' AND c.reloptions @> '{security_invoker=true}' OR c.relkind = 'r')
            AND starts_with(c.relname, 'ltm_')
            AND (c.relkind = 'v' OR starts_with(c.relname, 'ltm_migration'))
    LOOP
        EXECUTE format('GRANT SELECT ON %s TO ltm_owner, ltm_app, ltm_reader', t.name);
    END LOOP;
    FOR t IN
        SELECT c.oid::regclass AS name
        FROM pg_class AS c
        WHERE c.relnamespace = current_schema()::regnamespace
            AND c.relkind = 'S'
            AND starts_with(c.relname, 'ltm_')
    LOOP
        EXECUTE format('GRANT ALL ON SEQUENCE %s TO ltm_owner', t.name);
        EXECUTE format('GRANT USAGE ON SEQUENCE %s TO ltm_app', t.name);
    END LOOP;
END
$$;

-- A name is found by who knows it; the names of others cannot be read.
CREATE OR REPLACE FUNCTION ltm_find_user(external_id text)
RETURNS bigint
LANGUAGE sql
STABLE
SECURITY DEFINER
AS $$
    SELECT NULL  -- query: user_of_name
$$;

COMMENT ON FUNCTION ltm_find_user(text) IS
'The number of a user known by a string; NULL for a new name.';

CREATE OR REPLACE FUNCTION ltm_intern_user(external_id text)
RETURNS bigint
LANGUAGE sql
SECURITY DEFINER
AS $$
    SELECT NULL  -- query: interned_user
$$;

COMMENT ON FUNCTION ltm_intern_user(text) IS
'The number of a user known by a string, given now to a new name.';

DO $$
DECLARE
    home CONSTANT text := current_schema();
    f record;
    tables_owner CONSTANT regrole := (
        SELECT c.relowner FROM pg_class AS c
        WHERE c.oid = format('%I.ltm_memories', home)::regclass
    );
BEGIN
    FOR f IN SELECT * FROM unnest(ARRAY['ltm_find_user(text)', 'ltm_intern_user(text)']) AS x (name) LOOP
        EXECUTE format('ALTER FUNCTION %s SET search_path = %I, pg_temp', f.name, home);
        EXECUTE format('REVOKE ALL ON FUNCTION %s FROM PUBLIC', f.name);
        EXECUTE format('GRANT EXECUTE ON FUNCTION %s TO ltm_app, %s', f.name, tables_owner);
    END LOOP;
    GRANT EXECUTE ON FUNCTION ltm_find_user(text) TO ltm_reader;
    -- These, and triggers, work for every user: the owner of the tables would be bound by the policies.
    FOR f IN
        SELECT p.oid::regprocedure AS name
        FROM pg_proc AS p
        WHERE p.pronamespace = home::regnamespace AND p.prosecdef AND starts_with(p.proname, 'ltm_')
    LOOP
        EXECUTE format('ALTER FUNCTION %s OWNER TO ltm_owner', f.name);
    END LOOP;
    EXECUTE format('REVOKE CREATE ON SCHEMA %I FROM ltm_owner', home);
    IF current_setting('ltm.is_guest') = 'yes' THEN
        EXECUTE format('REVOKE ltm_owner FROM %I', current_user);
    END IF;
END
$$;
