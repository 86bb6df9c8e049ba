"""Adoption beside logical replication: a subscriber gets all that it should, or it is refused."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import asyncpg
import psycopg
import pytest

from ltm_store import migrate
from tests import originals, servers

pytestmark = pytest.mark.slow

SETTINGS = """
wal_level = logical
fsync = off
synchronous_commit = local
synchronous_standby_names = there
"""
SECONDS = 60  # for what takes one


@pytest.fixture(scope="module")
def logical(server: str) -> Iterator[str]:
    """The DSN of a server that decodes its log."""
    for mortal in servers.mortal(server, SETTINGS):
        yield mortal.dsn


@asynccontextmanager
async def pair(logical: str) -> AsyncIterator[tuple[asyncpg.Connection, asyncpg.Connection]]:
    """Two databases with the original's tables, and no rows in the second."""
    async with asyncpg.create_pool(logical, min_size=1) as admin:
        opened = []
        for name in ("here", "there"):
            await admin.execute(f"CREATE DATABASE {name}")
            opened.append(await asyncpg.connect(servers.with_database(logical, name)))
            await opened[-1].execute(originals.level_1())
        here, there = opened
        await there.execute("TRUNCATE users CASCADE")
        yield here, there
        if await there.fetchval("SELECT count(*) FROM pg_subscription"):
            await there.execute("DROP SUBSCRIPTION there")
        for connection in opened:
            await connection.close()
        await admin.execute("DROP DATABASE there WITH (FORCE)")
        await admin.execute("DROP DATABASE here WITH (FORCE)")


async def subscribe(here: asyncpg.Connection, there: asyncpg.Connection, publications: str) -> None:
    """Let all that is written from now on arrive there."""
    await here.execute("SELECT pg_create_logical_replication_slot('there', 'pgoutput')")
    name = await here.fetchval("SELECT current_database()")
    socket = await here.fetchval("SHOW unix_socket_directories")
    await there.execute(
        f"CREATE SUBSCRIPTION there CONNECTION 'host={socket} user=postgres dbname={name}' "
        f"PUBLICATION {publications} WITH (create_slot = false, copy_data = false)"
    )


async def written(here: asyncpg.Connection, command: str) -> None:
    """Write something; returns when it has been applied there."""
    async with asyncio.timeout(SECONDS), here.transaction():
        await here.execute("SET LOCAL synchronous_commit = remote_apply")
        await here.execute(command)


async def test_a_subscriber_is_undisturbed_by_the_refusal_and_by_an_adoption_beside_it(logical):
    async with pair(logical) as (here, there):
        await here.execute(
            "CREATE PUBLICATION one FOR TABLE users, ltm_memories;"
            "CREATE PUBLICATION everything FOR ALL TABLES;"
            "CREATE PUBLICATION everybody FOR TABLES IN SCHEMA public"
        )
        await subscribe(here, there, "one, everything, everybody")
        await originals.fill(here, 9)
        dsn = servers.with_database(logical, "here")
        with pytest.raises(migrate.MigrationFailed, match="cannot be adopted") as caught:
            migrate.apply(dsn)
        for name in ("one (ALTER", "everything is for all", "everybody is for all"):
            assert f"the publication {name}" in str(caught.value)
        assert not await here.fetchval("SELECT to_regnamespace('ltm_adoption')")
        await written(here, "UPDATE ltm_memories SET context = 'refused' WHERE id = 9")
        assert await there.fetchval("SELECT context FROM ltm_memories WHERE id = 9") == "refused"

        await there.execute("ALTER SUBSCRIPTION there SET PUBLICATION one WITH (copy_data = false)")
        await here.execute(
            "DROP PUBLICATION everything; DROP PUBLICATION everybody;"
            "ALTER PUBLICATION one DROP TABLE ltm_memories"
        )
        migrate.apply(dsn)
        await written(here, "INSERT INTO users (name) VALUES ('adopted')")
        migrate.rollback(dsn, everything=True)
        await written(here, "INSERT INTO users (name) VALUES ('back again')")
        names = "SELECT string_agg(name, ', ' ORDER BY id) FROM users"
        assert await there.fetchval(names) == "adopted, back again"
        assert await there.fetchval("SELECT count(*) FROM ltm_memories") == 9


async def test_tables_that_a_subscription_writes_are_not_adopted(logical):
    async with pair(logical) as (here, there):
        await here.execute("CREATE PUBLICATION one FOR TABLE ltm_memories, ltm_memory_tags")
        await there.execute("ALTER TABLE ltm_memories DROP CONSTRAINT ltm_memories_user_id_fkey")
        await subscribe(here, there, "one")
        dsn = servers.with_database(logical, "there")
        with pytest.raises(migrate.MigrationFailed, match="cannot be adopted") as caught:
            migrate.apply(dsn)
        for table in ("ltm_memories", "ltm_memory_tags"):
            assert f"{table} is written by a subscription (drop the sub" in str(caught.value)
        assert not await there.fetchval("SELECT to_regnamespace('ltm_adoption')")
        await originals.fill(here, 9)
        await written(here, "UPDATE ltm_memories SET context = 'refused' WHERE id = 9")
        assert await there.fetchval("SELECT context FROM ltm_memories WHERE id = 9") == "refused"


async def test_a_publication_made_meanwhile_keeps_the_new_tables_from_their_place(empty):
    """Whether it is made while a run works or between two."""
    old = await asyncpg.connect(empty)
    await old.execute(originals.L0)
    await originals.fill(old, 9)

    def report(line: str) -> None:
        if line.startswith("made the index"):
            with psycopg.connect(empty, autocommit=True) as other:
                other.execute("DROP PUBLICATION IF EXISTS late")
                other.execute("CREATE PUBLICATION late FOR ALL TABLES")

    for lines in (report, lambda line: None):
        with pytest.raises(migrate.MigrationFailed, match="cannot go on: the publication late is"):
            migrate.apply(empty, lines)
    assert await old.fetchval("SELECT to_regclass('ltm_next.ltm_memories') IS NOT NULL")
    await old.execute("DROP PUBLICATION late")
    migrate.apply(empty)
    assert await old.fetchval("SELECT count(*) FROM ltm_memories") == 9
    await old.close()


async def test_what_a_session_that_replicates_writes_meanwhile_is_carried_over_and_back(empty):
    """To it, ordinary triggers do not happen."""
    old = await asyncpg.connect(empty)
    await old.execute(originals.level_1())
    await originals.fill(old, 9)
    await old.execute("SET session_replication_role = replica")

    def report(line: str) -> None:
        if line.startswith("made the index ltm_memories_original_id"):
            with psycopg.connect(empty, autocommit=True) as other:
                other.execute("SET session_replication_role = replica")
                other.execute(
                    "INSERT INTO ltm_memory_tags (memory_id, tag_name) VALUES (2, 'there')"
                )
                other.execute("UPDATE ltm_memories SET context = 'there' WHERE id = 2")

    tags = (
        "SELECT string_agg(tag_name, ', ' ORDER BY tag_name) "
        "FROM ltm_memory_tags WHERE memory_id = 2"
    )
    migrate.apply(empty, report)
    assert await old.fetchval("SELECT context FROM ltm_memories WHERE id = 2") == "there"
    assert await old.fetchval(tags) == "tag 2, there"
    await old.execute(
        "INSERT INTO ltm_memory_tags (user_id, memory_id, tag_name) VALUES (3, 2, 'later');"
        "UPDATE ltm_memories SET context = 'later' WHERE id = 2"
    )
    migrate.rollback(empty, everything=True)
    assert await old.fetchval("SELECT context FROM ltm_memories WHERE id = 2") == "later"
    assert await old.fetchval(tags) == "later, there"
    await old.close()
