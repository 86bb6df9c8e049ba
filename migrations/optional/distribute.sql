-- The tables spread over the nodes of a Citus cluster, all of a user on one of them.
-- May be run again: tables that have come since follow.

DO $$
DECLARE
    home CONSTANT text := current_schema();
    memories CONSTANT regclass := to_regclass(format('%I.ltm_memories', home));
    triggers text[];
    item record;
BEGIN
    IF memories IS NULL THEN
        RAISE EXCEPTION 'the schema comes first: python -m ltm_store.migrate';
    END IF;
    IF NOT EXISTS (SELECT 1 FROM pg_extension AS e WHERE e.extname = 'citus') THEN
        RAISE EXCEPTION 'the database lacks the extension citus: CREATE EXTENSION citus, on every node';
    END IF;
    IF to_regnamespace('ltm_adoption') IS NOT NULL THEN
        RAISE EXCEPTION 'an adoption is not finished: python -m ltm_store.migrate finish_adoption';
    END IF;
    IF EXISTS (SELECT 1 FROM pg_class AS c WHERE c.oid = memories AND c.relrowsecurity) THEN
        RAISE EXCEPTION 'row level security does not reach the other nodes: undo row_level_security';
    END IF;

    CREATE TEMPORARY TABLE undistributed ON COMMIT DROP AS
    SELECT
        c.oid::regclass AS name,
        c.relname = 'ltm_external_users' AS is_reference
    FROM pg_class AS c
    INNER JOIN pg_attribute AS a ON c.oid = a.attrelid AND a.attname = 'user_id'
    WHERE
        c.relnamespace = home::regnamespace
        AND c.relkind IN ('r', 'p')
        AND NOT c.relispartition
        AND c.relname ~ '^ltm_'
        AND c.relname <> 'ltm_adoption_report'
        AND NOT EXISTS (SELECT 1 FROM pg_dist_partition AS d WHERE d.logicalrelid = c.oid);
    IF NOT EXISTS (SELECT FROM undistributed) THEN
        RAISE WARNING 'the tables are distributed already';
        RETURN;
    END IF;

    -- The rows that are there bring their ranks along.
    SELECT array_agg(pg_get_triggerdef(t.oid) ORDER BY t.tgname) INTO triggers
    FROM pg_trigger AS t INNER JOIN undistributed AS u ON t.tgrelid = u.name
    WHERE NOT t.tgisinternal;
    FOR item IN
        SELECT t.tgname AS name, t.tgrelid::regclass AS of_table
        FROM pg_trigger AS t INNER JOIN undistributed AS u ON t.tgrelid = u.name
        WHERE NOT t.tgisinternal
    LOOP
        EXECUTE format('DROP TRIGGER %I ON %s', item.name, item.of_table);
    END LOOP;

    -- The memories come before those whose foreign keys lead to them.
    FOR item IN
        SELECT u.name, u.is_reference FROM undistributed AS u
        ORDER BY u.is_reference DESC, u.name = memories DESC, u.name
    LOOP
        IF item.is_reference THEN
            PERFORM create_reference_table(item.name);
        ELSE
            PERFORM create_distributed_table(
                item.name,
                'user_id',
                colocate_with => CASE WHEN item.name = memories THEN 'none' ELSE memories::text END
            );
        END IF;
    END LOOP;

    -- Else the old rows would stay on this node, where nobody finds and forgets them.
    FOR item IN SELECT u.name FROM undistributed AS u LOOP
        PERFORM truncate_local_data_after_distributing_table(item.name);
    END LOOP;

    FOR item IN SELECT t.command FROM unnest(triggers) AS t (command) LOOP
        EXECUTE item.command;
    END LOOP;
END
$$;
