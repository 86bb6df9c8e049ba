"""The log of accesses by month: the optional step, back again, and what works on it."""

import asyncio
from contextlib import suppress
from datetime import UTC, datetime, timedelta

import asyncpg
import psycopg
import pytest

from ltm_store import (
    InvalidArgument,
    Unavailable,
    access_history,
    add_memory,
    check_health,
    connect,
    delete_memory,
    export_user,
    forget_user,
    get_memory,
    import_user,
    make_access_partitions,
    merge_users,
    migrate,
    prune_accesses,
    record_access,
    record_feedback,
)
from ltm_store.migrate import MigrationFailed
from ltm_store.migrate import partitions as module
from tests.catalog import fingerprint

pytestmark = pytest.mark.slow

STEP = "partition_accesses"
ROWS = "SELECT a.* FROM ltm_memory_access AS a ORDER BY user_id, id"
PARTS = (
    "SELECT relname FROM pg_class WHERE relispartition AND relkind = 'r' "
    "AND relname ~ '^ltm_memory_access_' ORDER BY relname"
)
NOW = datetime.now(UTC)


async def months(connection):
    return [row[0] for row in await connection.fetch(PARTS)]


def month(moment):
    return f"ltm_memory_access_{moment:%Y_%m}"


async def fill(dsn, users=3, memories=5):
    """Accesses of three years, of no moment, and of one that is far off."""
    async with connect(dsn, access_tracking="off") as db:
        for user in range(users):
            for n in range(memories):
                await add_memory(db, user, f"note {n}")
    connection = await asyncpg.connect(dsn)
    await connection.execute(
        "INSERT INTO ltm_memory_access (user_id, memory_id, access_timestamp, user_query) "
        "SELECT m.user_id, m.id, timezone('utc', now()) - a * interval '9 days', 'q' || a "
        "FROM ltm_memories AS m, generate_series(0, 120) AS a"
    )
    await connection.execute(
        "INSERT INTO ltm_memory_access (user_id, memory_id, access_timestamp) "
        "SELECT m.user_id, m.id, t FROM ltm_memories AS m, "
        "unnest('{NULL,0900-01-01,9000-01-01}'::timestamp[]) AS t"
    )
    return connection


async def test_there_and_back_keeps_every_row_and_the_catalog(own_dsn):
    connection = await fill(own_dsn)
    await connection.execute("CREATE ROLE ltm_reader_of_accesses")
    try:
        await connection.execute("GRANT SELECT ON ltm_memory_access TO ltm_reader_of_accesses")
        await connection.execute("GRANT SELECT ON ltm_health TO ltm_reader_of_accesses")
        rows, before = await connection.fetch(ROWS), await fingerprint(connection, steps=True)

        async def unchanged():
            assert await connection.fetch(ROWS) == rows
            assert await connection.fetchval(
                "SELECT bool_and(has_table_privilege('ltm_reader_of_accesses', t, 'SELECT')) "
                "FROM unnest('{ltm_memory_access,ltm_health}'::text[]) AS t"
            )
            async with connect(own_dsn) as db:
                assert await check_health(db) == []
            number = await connection.fetchval(
                "INSERT INTO ltm_memory_access (user_id, memory_id) "
                "SELECT user_id, id FROM ltm_memories LIMIT 1 RETURNING id"
            )
            assert number > max(row["id"] for row in rows)
            await connection.execute("DELETE FROM ltm_memory_access WHERE id = $1", number)

        await asyncio.to_thread(migrate.optional, own_dsn, STEP)
        await unchanged()
        made = await months(connection)
        assert made[-1] == "ltm_memory_access_default"
        assert {month(NOW - timedelta(days=1000)), month(NOW + timedelta(days=80))} <= set(made)
        assert await connection.fetchval("SELECT count(*) FROM ltm_memory_access_default") == 45
        await asyncio.to_thread(migrate.optional, own_dsn, STEP)  # once more changes nothing
        assert await months(connection) == made
        await asyncio.to_thread(migrate.optional, own_dsn, STEP, undo=True)
        await unchanged()
        assert await fingerprint(connection, steps=True) == before
        await asyncio.to_thread(migrate.optional, own_dsn, STEP, undo=True)
    finally:
        await connection.execute("DROP OWNED BY ltm_reader_of_accesses")
        await connection.execute("DROP ROLE ltm_reader_of_accesses")
        await connection.close()


@pytest.mark.parametrize("undo", [False, True])
async def test_nothing_is_lost_while_others_write(own_dsn, undo, monkeypatch):
    monkeypatch.setattr(module, "_COPIED_AT_ONCE", 40)
    connection = await fill(own_dsn)
    if undo:
        await asyncio.to_thread(migrate.optional, own_dsn, STEP)
    sums = (
        "SELECT sum(access_count) FROM ltm_memories",
        "SELECT count(*) FROM ltm_memory_access WHERE access_method = 'direct'",
        "SELECT count(*) FROM ltm_memory_access WHERE was_relevant",
    )
    done, deleted, judged = False, 0, set()
    async with connect(own_dsn) as db:

        async def write(user):
            nonlocal deleted
            ids = await connection_ids(user)
            while not done:
                memory = await add_memory(db, user, "goes again")
                for number in (*ids, memory.id):
                    await get_memory(db, user, number)
                access = None
                with suppress(Unavailable):  # the table was locked for half a second
                    access = await record_feedback(db, user, ids[0], was_relevant=True)
                if access is not None:
                    judged.add((user, access.id))
                await record_access(db, user, [memory.id])
                assert await delete_memory(db, user, memory.id)
                deleted += 1

        async def connection_ids(user):
            async with db.transaction() as inside:
                rows = await inside.fetch(
                    "SELECT id FROM ltm_memories WHERE user_id = $1 ORDER BY id", user
                )
            return [row[0] for row in rows]

        writing = [asyncio.create_task(write(user)) for user in range(3)]
        try:
            await asyncio.to_thread(migrate.optional, own_dsn, STEP, undo=undo)
        finally:
            done = True
            await asyncio.gather(*writing)
        await db.flush()
        assert db.stats().dropped == 0
    counted, logged, relevant = [await connection.fetchval(sql) for sql in sums]
    assert counted == logged > 0
    assert relevant == len(judged) > 0
    assert deleted > 0
    orphans = (
        "SELECT count(*) FROM ltm_memory_access a LEFT JOIN ltm_memories m ON m.id = a.memory_id"
    )
    assert await connection.fetchval(f"{orphans} WHERE m.id IS NULL") == 0
    assert (
        await connection.fetchval(
            "SELECT count(*) FROM ltm_memory_access WHERE user_query IS NOT NULL"
        )
        == 15 * 121
    )
    await connection.close()


@pytest.fixture
async def by_month(own_dsn):
    """A Database whose log of accesses is kept by month."""
    connection = await fill(own_dsn)
    await connection.close()
    await asyncio.to_thread(migrate.optional, own_dsn, STEP)
    async with connect(own_dsn) as db:
        yield db


async def test_what_works_on_one_table_works_by_month(by_month):
    db = by_month
    memory = await add_memory(db, "alice", "likes tea")
    await get_memory(db, "alice", memory.id)
    access = await record_feedback(db, "alice", memory.id, was_relevant=True, relevance_score=0.5)
    assert access is not None
    (found,) = await access_history(db, "alice", memory.id)
    assert (found.id, found.was_relevant) == (access.id, True)
    lines = [line async for line in export_user(db, 1)]
    await import_user(db, "copy", lines)
    assert [line async for line in export_user(db, "copy")] == lines
    report = await merge_users(db, "copy", "alice")
    assert report.counts["ltm_memory_access"] == 5 * 124
    erased = await forget_user(db, "alice")
    assert erased.counts["ltm_memory_access"] == 5 * 124 + 1
    assert await check_health(db) == []
    history = await access_history(db, 1, 6, limit=1000)
    assert len(history) == 124
    assert history[0].access_timestamp == datetime(9000, 1, 1, tzinfo=UTC)
    assert history[-1].access_timestamp is None


async def test_pruning_drops_the_partitions_that_are_old_as_a_whole(by_month):
    db = by_month
    async with db.transaction() as connection:
        before = await months(connection)
        old = (NOW - timedelta(days=365)).replace(tzinfo=None)
        many = await connection.fetchval(
            "SELECT count(*) FROM ltm_memory_access WHERE access_timestamp < $1", old
        )
    assert await prune_accesses(db, NOW - timedelta(days=365)) == many
    async with db.transaction() as connection:
        left = await months(connection)
        count = await connection.fetchval("SELECT count(*) FROM ltm_memory_access")
    assert left[0] == month(old)
    assert set(left) < set(before)
    assert count == 15 * 124 - many
    assert await check_health(db) == []


async def test_months_to_come_are_made_and_take_what_was_written_for_them(by_month):
    db = by_month
    later = (NOW.replace(day=1) + timedelta(days=180)).replace(tzinfo=None)
    async with db.transaction() as connection:
        await connection.execute(
            "INSERT INTO ltm_memory_access (user_id, memory_id, access_timestamp) "
            "SELECT user_id, id, $1 FROM ltm_memories",
            later,
        )
    made = await make_access_partitions(db, months=6)
    assert month(later) in made
    assert await make_access_partitions(db, months=6) == []
    async with db.transaction() as connection:
        assert await connection.fetchval(f"SELECT count(*) FROM {month(later)}") == 15
        assert await connection.fetchval("SELECT count(*) FROM ltm_memory_access_default") == 45
    assert await check_health(db) == []


async def test_partitions_of_one_table_are_nothing(db):
    assert await make_access_partitions(db) == []
    for months in (-1, 121, True, "3"):
        with pytest.raises(InvalidArgument, match="months"):
            await make_access_partitions(db, months=months)  # type: ignore[arg-type]


async def test_what_would_be_lost_with_the_table_stops_the_step(own_dsn):
    connection = await asyncpg.connect(own_dsn)
    for make, drop, reason in (
        (
            "CREATE VIEW mine AS SELECT id FROM ltm_memory_access",
            "DROP VIEW mine",
            "mine",
        ),
        (
            "CREATE PUBLICATION ours FOR TABLE ltm_memory_access",
            "DROP PUBLICATION ours",
            "publication ours",
        ),
        (
            "ALTER TABLE ltm_memory_access ENABLE ROW LEVEL SECURITY",
            "ALTER TABLE ltm_memory_access DISABLE ROW LEVEL SECURITY",
            "row level security",
        ),
        (
            "CREATE TRIGGER theirs BEFORE UPDATE ON ltm_memory_access FOR EACH ROW "
            "EXECUTE FUNCTION suppress_redundant_updates_trigger()",
            "DROP TRIGGER theirs ON ltm_memory_access",
            "trigger theirs",
        ),
    ):
        before = await fingerprint(connection)
        await connection.execute(make)
        with pytest.raises(MigrationFailed, match=reason):
            await asyncio.to_thread(migrate.optional, own_dsn, STEP)
        await connection.execute(drop)
        assert await fingerprint(connection) == before
    await connection.close()


async def test_a_run_whose_session_ends_is_begun_again(own_dsn, monkeypatch):
    connection = await fill(own_dsn)
    before, rows = await fingerprint(connection), await connection.fetch(ROWS)

    def ended(session, *_):
        with psycopg.connect(own_dsn) as other:
            other.execute("SELECT pg_terminate_backend(%s, 60000)", [session.info.backend_pid])
        session.execute("SELECT 1")

    with monkeypatch.context() as patch:
        patch.setattr(module, "_swap", ended)
        with pytest.raises(MigrationFailed):
            await asyncio.to_thread(migrate.optional, own_dsn, STEP)
    assert await fingerprint(connection) != before
    assert await record_access(connection, 1, [6]) == 1
    await connection.execute("DELETE FROM ltm_memory_access WHERE access_method IS NOT NULL")
    await asyncio.to_thread(migrate.optional, own_dsn, STEP)
    assert await connection.fetch(ROWS) == rows
    await asyncio.to_thread(migrate.optional, own_dsn, STEP, undo=True)
    assert await fingerprint(connection) == before
    await connection.close()
