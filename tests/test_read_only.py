"""Servers that only read: a standby, and one that is told not to write."""

import asyncpg
import pytest

from ltm_store import (
    Unavailable,
    add_memories,
    add_memory,
    check_health,
    connect,
    export_user,
    get_analytics,
    get_memory,
    iterate_memories,
    record_access,
    render_report,
    search_memories,
    update_memory,
)
from tests import servers

LINES = [{"content": f"note {n}", "tags": ["a"]} for n in range(3)]


async def reads(db):
    """Whether everything that reads does so."""
    (first, *_) = hits = await search_memories(db, "alice", "note")
    assert len(hits) == 3
    assert await get_memory(db, "alice", first.id, include_relationships=True) is not None
    assert len([memory async for memory in iterate_memories(db, "alice")]) == 3
    assert len([line async for line in export_user(db, "alice")]) == 3
    assert (await get_analytics(db, "alice")).total_memories == 3
    assert "note" in await render_report(db, "alice")
    assert await check_health(db) == []
    assert await search_memories(db, "nobody", "note") == []
    return first.id


async def refuses_writes(db, memory_id):
    for write in (
        add_memory(db, "alice", "x"),
        add_memory(db, "bob", "x"),
        add_memories(db, "alice", LINES),
        update_memory(db, "alice", memory_id, content="x"),
        record_access(db, "alice", [memory_id]),
    ):
        with pytest.raises(Unavailable, match="read-only"):
            await write


@pytest.fixture
async def standby(own_dsn):
    """The DSN of a database with memories on a standby of the server."""
    async with connect(own_dsn, access_tracking="off") as db:
        await add_memories(db, "alice", LINES)
    for standby in servers.standby(own_dsn):
        yield standby.dsn


@pytest.mark.parametrize("tracking", ["deferred", "immediate"])
async def test_a_standby_reads_and_says_once_that_it_cannot_write(standby, tracking, caplog):
    async with connect(standby, access_tracking=tracking) as db:
        memory_id = await reads(db)
        await refuses_writes(db, memory_id)
        for _ in range(3):
            await get_memory(db, "alice", memory_id)
            if tracking == "deferred":
                with pytest.raises(Unavailable, match="read-only"):
                    await db.flush()
    (warning,) = caplog.records
    assert "recorded" in warning.message
    assert "read-only" in warning.message


async def test_a_server_that_becomes_read_only_and_writes_again(own_dsn, caplog):
    admin = await asyncpg.connect(own_dsn)
    name = await admin.fetchval("SELECT current_database()")

    async def switch(setting):
        """For the sessions that are there too, which are ended."""
        await admin.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = {setting}")
        await admin.execute(
            "SELECT pg_terminate_backend(pid, 60000) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )

    async with connect(own_dsn) as db:
        await add_memories(db, "alice", LINES)
        await switch("on")
        memory_id = await reads(db)
        await refuses_writes(db, memory_id)
        with pytest.raises(Unavailable, match="read-only"):
            await db.flush()
        queued = db.stats().queued
        await admin.execute("SET default_transaction_read_only = off")
        await switch("off")
        assert (await add_memory(db, "alice", "x")).outcome == "created"
        await db.flush()
        assert (db.stats().queued, db.stats().recorded) == (0, queued)
    assert len(caplog.records) == 1
    await admin.close()
