"""A database that one test after another commits to; a clone for each would cost far more."""

from dataclasses import dataclass

import asyncpg

_DEFINITIONS = """
WITH defined AS (
    SELECT xmin FROM pg_attribute WHERE attrelid >= 16384
    UNION ALL SELECT xmin FROM pg_constraint WHERE oid >= 16384
    UNION ALL SELECT xmin FROM pg_proc WHERE oid >= 16384
    UNION ALL SELECT xmin FROM pg_rewrite WHERE oid >= 16384
    UNION ALL SELECT xmin FROM pg_trigger WHERE oid >= 16384
    UNION ALL SELECT xmin FROM pg_ts_config WHERE oid >= 16384
    UNION ALL SELECT xmin FROM pg_database WHERE datname = current_database()
    UNION ALL SELECT s.xmin FROM pg_db_role_setting AS s
    JOIN pg_database AS d ON d.oid = s.setdatabase AND d.datname = current_database()
)
SELECT concat_ws(' ', count(*), sum(xmin::text::bigint), (SELECT count(*) FROM ltm_migrations))
FROM defined
"""
_TABLES = """
SELECT array_agg(c.oid::regclass::text) FROM pg_class AS c
WHERE c.relnamespace = current_schema()::regnamespace AND c.relkind = 'r'
    AND c.relname LIKE 'ltm\\_%' AND c.relname NOT LIKE 'ltm\\_migration%'
"""
_SIZE = "SELECT sum(pg_relation_size(name::regclass)) FROM unnest($1::text[]) AS name"
_RESTART = "SELECT setval(seqrelid::regclass, seqstart, false) FROM pg_sequence"
_TRUNCATED_BYTES = 1 << 20
"""Beyond it dead rows would show in plans and in ltm_health; below it DELETE is far faster."""


@dataclass
class Reused:
    """The database, and the session that empties it."""

    dsn: str
    connection: asyncpg.Connection
    tables: list[str]
    definitions: str

    @classmethod
    async def of(cls, dsn: str, connection: asyncpg.Connection) -> "Reused":
        # Neither foreign keys nor triggers are looked at; who leaves locks behind is told so.
        await connection.execute("SET session_replication_role = replica; SET lock_timeout = '10s'")
        tables = await connection.fetchval(_TABLES)
        return cls(dsn, connection, tables, await connection.fetchval(_DEFINITIONS))

    async def empty(self) -> None:
        """Delete all rows and count ids from the start again."""
        before, self.definitions = self.definitions, await self.connection.fetchval(_DEFINITIONS)
        if await self.connection.fetchval(_SIZE, self.tables) > _TRUNCATED_BYTES:
            await self.connection.execute(f"TRUNCATE {', '.join(self.tables)}")
        else:
            await self.connection.execute(";".join(f"DELETE FROM {t}" for t in self.tables))
        await self.connection.execute(_RESTART)
        assert self.definitions == before, "a test that alters its database needs own_dsn"
