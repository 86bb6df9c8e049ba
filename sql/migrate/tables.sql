-- What the migrator notes beside the ids of the applied migrations. Made before the first of them.

CREATE TABLE IF NOT EXISTS ltm_migration_objects (
    kind text NOT NULL,
    table_name text NOT NULL,
    name text NOT NULL,
    migration_id text NOT NULL,
    CONSTRAINT ltm_migration_objects_pkey PRIMARY KEY (kind, table_name, name)
);
COMMENT ON TABLE ltm_migration_objects IS
'The indexes and foreign keys that migrations have made: ltm_health misses those that are gone.';

CREATE TABLE IF NOT EXISTS ltm_migration_views (
    name text NOT NULL,
    hash text NOT NULL,
    applied_at timestamptz NOT NULL,
    CONSTRAINT ltm_migration_views_pkey PRIMARY KEY (name)
);
COMMENT ON TABLE ltm_migration_views IS
'The views that were made, and a hash of the text that made each.';
