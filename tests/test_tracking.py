"""Accesses that are recorded later: all of them, once, and at no reader's cost."""

import asyncio
import os
import signal
import subprocess
import sys
import threading
from datetime import UTC, datetime, timedelta

import asyncpg
import pytest

from ltm_store import (
    Database,
    Unavailable,
    access_history,
    add_memory,
    connect,
    delete_memory,
    get_by_key,
    get_memories,
    get_memory,
    get_relationships,
    record_access,
    record_feedback,
    relate,
    search_memories,
    tracking,
    update_memory,
)
from ltm_store.accesses import AccessReason, PendingAccess, write_accesses
from tests.locks import WAITING
from tests.test_accesses import log
from tests.test_database import kill
from tests.wire import impatient, wire

WINDOW = tracking.FLUSH_SECONDS + tracking.RETRY_SECONDS
NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


async def counts(dsn, user=1):
    async with connect(dsn, access_tracking="off") as db:
        return {hit.id: hit.access_count for hit in await search_memories(db, user, limit=1000)}


async def add(db, number, user=1):
    return [(await add_memory(db, user, f"memory {n}")).id for n in range(number)]


async def written(db):
    """Wait, with other calls, until nothing is queued."""
    async with asyncio.timeout(10 * WINDOW):
        while db.stats().queued:
            await search_memories(db, "nobody")


async def test_a_flush_writes_what_was_read(dsn):
    async with connect(dsn) as db:
        a, b = await add(db, 2)
        await relate(db, 1, a, b)
        await relate(db, 1, b, a, "follows")
        await get_memory(db, 1, a, access_context="why")
        await get_memories(db, 1, [a, b, a])
        await search_memories(db, 1, "memory 0", limit=1)
        await get_relationships(db, 1, a)
        assert db.stats().queued == 5
        assert set((await counts(dsn)).values()) == {0}
        await db.flush()
        assert db.stats()[4:7] == (0, 5, 0)
        async with db.transaction() as conn:
            assert await log(conn) == [
                (a, "direct", "why", None),
                (a, "direct", None, None),
                (a, "search", None, "memory 0"),
                (b, "direct", None, None),
                (b, "related", None, None),
            ]
            found, beside = await get_memories(conn, 1, [a, b])
        assert (found.access_count, found.last_access_context) == (3, "memory 0")
        assert (beside.access_count, beside.last_access_context) == (2, "related")
        assert found.version == 1
    assert await counts(dsn) == {a: 3, b: 2}


async def test_what_stands_beside_a_hit_counts_as_related(dsn):
    async with connect(dsn) as db:
        said = ("Shall we talk about the cello?", "Yes, it was the best evening of the year.")
        held, beside = [
            (await add_memory(db, 1, text, source_id="talk", source_position=n)).id
            for n, text in enumerate(said)
        ]
        await search_memories(db, 1, "cello")
        await db.flush()
        async with db.transaction() as conn:
            assert sorted(await log(conn)) == [
                (held, "search", None, "cello"),
                (beside, "related", None, "cello"),
            ]


async def test_each_recall_keeps_its_own_moment(dsn):
    async with connect(dsn, access_tracking="off") as db:
        (number,) = await add(db, 1)
        moments = [NOW + timedelta(days=n) for n in (1, 2, 3)]
        words = ["a walk", None, None]
        recalls = [
            PendingAccess(1, number, moment, AccessReason("direct", context))
            for moment, context in zip(moments, words, strict=True)
        ]
        assert await write_accesses(db, [recalls]) == (3, [])
        read = await get_memory(db, 1, number)
        assert read is not None
        assert (read.access_count, read.last_accessed) == (3, moments[2])
        assert read.last_access_context == "direct"
        async with db.transaction() as conn:
            rows = await conn.fetch("SELECT access_timestamp FROM ltm_memory_access ORDER BY id")
            stored = await conn.fetchval("SELECT dynamic_importance FROM ltm_memories")
        assert [row[0].replace(tzinfo=UTC) for row in rows] == moments
        then = await get_memory(db, 1, number, as_of=moments[2])
        assert then is not None
        assert stored == then.dynamic_importance
        assert await write_accesses(db, [recalls[:1]]) == (1, [])
        again = await get_memory(db, 1, number)
        assert again is not None
        assert (again.access_count, again.last_accessed) == (4, moments[2])


async def test_a_clock_that_is_set_back_does_not_set_back_the_last_recall(db):
    (number,) = await add(db, 1)
    moments = [NOW + timedelta(days=n) for n in (1, 3, 2)]
    db._tracker.queue.add(
        [PendingAccess(1, number, moment, AccessReason("direct")) for moment in moments]
    )
    await db.flush()
    read = await get_memory(db, 1, number)
    assert read is not None
    assert read.last_accessed == max(moments)


async def test_rows_of_an_old_program_are_counted(db):
    (number,) = await add(db, 1)
    async with db.transaction() as conn:
        await conn.execute(
            "UPDATE ltm_memories "
            "SET access_count = NULL, confidence_score = NULL, created_at = NULL"
        )
    assert await write_accesses(
        db, [[PendingAccess(1, number, NOW, AccessReason("direct"))] * 2]
    ) == (2, [])
    async with db.transaction() as conn:
        await conn.execute("UPDATE ltm_memories SET access_count = 2147483646")
    assert await write_accesses(
        db, [[PendingAccess(1, number, NOW, AccessReason("direct"))] * 2]
    ) == (2, [])
    read = await get_memory(db, 1, number)
    assert read is not None
    assert read.access_count == 2147483647


async def test_reads_of_64_tasks_at_once_are_all_counted(dsn):
    async with connect(dsn) as db:
        ids = await add(db, 5)

        async def read(task):
            for n in range(30):
                await get_memory(db, 1, ids[(task + n) % 5])

        await asyncio.gather(*(read(task) for task in range(64)))
        await db.flush()
        assert await counts(dsn) == dict.fromkeys(ids, 64 * 30 // 5)
        assert db.stats()[4:7] == (0, 64 * 30, 0)


async def test_half_a_second_is_enough_without_a_flush(dsn):
    async with connect(dsn) as db:
        (number,) = await add(db, 1)
        await get_memory(db, 1, number)
        await written(db)
        assert await counts(dsn) == {number: 1}


async def test_many_recalls_do_not_wait(dsn, monkeypatch):
    monkeypatch.setattr(tracking, "FLUSH_SECONDS", 86_400)
    monkeypatch.setattr(tracking, "FLUSH_ACCESSES", 500)
    async with connect(dsn) as db:
        ids = await add(db, 100)
        for _ in range(4):
            await get_memories(db, 1, ids)
        assert db.stats().queued == 400
        await search_memories(db, "nobody")
        assert db.stats().recorded == 0
        await get_memories(db, 1, ids)
        await written(db)
        assert db.stats().recorded == 500


async def test_closing_writes_what_is_queued(dsn, monkeypatch):
    monkeypatch.setattr(tracking, "FLUSH_SECONDS", 86_400)
    monkeypatch.setattr(tracking, "MEMORIES_AT_ONCE", 7)
    async with connect(dsn) as db:
        ids = await add(db, 40)
        for _ in range(30):
            await get_memories(db, 1, ids)
    assert await counts(dsn) == dict.fromkeys(ids, 30)
    assert db.stats()[4:7] == (0, 1200, 0)


async def test_nothing_runs_while_nothing_is_queued(dsn):
    async with connect(dsn) as db:
        (number,) = await add(db, 1)
        before = asyncio.all_tasks()
        assert db._tracker.queue._timer is None
        await get_memory(db, 1, number)
        assert db._tracker.queue._timer is not None
        await db.flush()
        assert (db._tracker.queue._timer, db._tracker.queue._task) == (None, None)
        assert asyncio.all_tasks() == before


async def test_no_task_outlives_the_database(dsn):
    before = asyncio.all_tasks()
    async with connect(dsn) as db:
        (number,) = await add(db, 1)
        other = await asyncpg.connect(dsn)
        async with other.transaction():
            await other.execute("LOCK TABLE ltm_memory_access IN ACCESS EXCLUSIVE MODE")
            await get_memory(db, 1, number)
            flushing = asyncio.ensure_future(db.flush())
            while not await other.fetchval(WAITING):
                pass
            with impatient(db):
                await db.close()
            with pytest.raises(Unavailable):
                await flushing
        await other.close()
    assert asyncio.all_tasks() == before
    assert db._tracker.queue._timer is None
    assert db.stats()[4:7] == (0, 0, 1)


@pytest.mark.parametrize("how", ["silent", "refusing"])
async def test_closing_is_bounded_when_the_server_is_gone(dsn, how, caplog):
    async with wire(dsn) as proxy:
        db = await connect(proxy.dsn)
        (number,) = await add(db, 1)
        await get_memory(db, 1, number)
        if how == "silent":
            proxy.swallowing = True
            with impatient(db):
                await db.close()
    if how == "refusing":  # the proxy is gone
        with impatient(db):
            await db.close()
    assert db.stats().queued == 0
    assert db.stats().dropped == 1
    timer = db._tracker.queue._timer
    assert timer is None or timer.cancelled()


async def test_what_could_not_be_written_is_tried_again(dsn):
    async with wire(dsn) as proxy, connect(proxy.dsn) as db:
        (number,) = await add(db, 1)
        await get_memory(db, 1, number)
        proxy.swallowing = True
        with impatient(db), pytest.raises(Unavailable):
            await db.flush()
        assert db.stats()[4:7] == (1, 0, 0)
        proxy.swallowing = False
        await written(db)  # by itself
        assert db.stats()[4:7] == (0, 1, 0)
        proxy.cut()  # or closing waits for the answers of those that were swallowed
    assert await counts(dsn) == {number: 1}


async def test_a_full_queue_drops_the_oldest_and_counts_them(dsn, monkeypatch):
    monkeypatch.setattr(tracking, "QUEUED_ACCESSES", 10)
    async with wire(dsn) as proxy, connect(proxy.dsn) as db:
        ids = await add(db, 8)
        await get_memories(db, 1, ids)
        proxy.swallowing = True
        with impatient(db), pytest.raises(Unavailable):
            await db.flush()
        proxy.swallowing = False
        for number in ids[:4]:
            await get_memory(db, 1, number, access_context="later")
        assert db.stats().dropped == 2
        await db.flush()
        assert db.stats()[4:7] == (0, 10, 2)
        async with db.transaction() as conn:
            recorded = {(row[0], row[2]) for row in await log(conn)}
        assert recorded == {
            *((number, None) for number in ids[2:]),
            *((number, "later") for number in ids[:4]),
        }
        proxy.cut()


async def test_recalls_that_the_server_refuses_do_not_stand_in_the_way(own_dsn):
    async with connect(own_dsn) as db:
        (number,) = await add(db, 1)
        async with db.transaction() as conn:
            await conn.execute(
                "ALTER TABLE ltm_memory_access ADD CHECK (access_context <> 'poison')"
            )
        await get_memory(db, 1, number, access_context="poison")
        with pytest.raises(ValueError, match="outside the allowed values"):
            await db.flush()
        await get_memory(db, 1, number, access_context="fine")
        await db.flush()
        assert db.stats()[4:7] == (0, 1, 1)


async def test_recalls_of_a_deleted_memory_do_not_fail_the_others(dsn):
    async with connect(dsn) as db:
        ids = await add(db, 20)
        await get_memories(db, 1, ids)
        await delete_memory(db, 1, ids[7])
        await db.flush()
        assert await counts(dsn) == {number: 1 for number in ids if number != ids[7]}
        assert db.stats()[4:7] == (0, 19, 0)


async def test_recalls_of_a_memory_deleted_while_they_are_written_do_not_fail_the_others(dsn):
    async with connect(dsn) as db:
        ids = await add(db, 20)
        await get_memories(db, 1, ids)
        other = await asyncpg.connect(dsn)
        transaction = other.transaction()
        await transaction.start()
        await other.execute("DELETE FROM ltm_memories WHERE user_id = 1 AND id = $1", ids[7])
        flushing = asyncio.ensure_future(db.flush())
        while db.stats().recorded < 19:
            assert not flushing.done()
            await other.execute("SELECT 1")
        await transaction.commit()
        await other.close()
        await flushing
        assert await counts(dsn) == {number: 1 for number in ids if number != ids[7]}
        assert db.stats()[4:7] == (0, 19, 0)


async def test_a_cancelled_flush_leaves_the_queue_right(dsn):
    async with connect(dsn) as db:
        ids = await add(db, 10)
        for turns in range(6):
            await get_memories(db, 1, ids)
            flushing = asyncio.ensure_future(db.flush())
            for _ in range(turns):
                await asyncio.sleep(0)
            flushing.cancel()
            await asyncio.wait([flushing])
        await asyncio.gather(*(db.flush() for _ in range(5)))
        assert db.stats()[4:7] == (0, 60, 0)
        assert await counts(dsn) == dict.fromkeys(ids, 6)


async def test_cancelled_readers_leave_the_queue_right(dsn):
    async with connect(dsn, max_size=4) as db:
        (number,) = await add(db, 1)
        tasks = [asyncio.ensure_future(get_memory(db, 1, number)) for _ in range(200)]
        for n, task in enumerate(tasks):
            if n % 2:
                asyncio.get_running_loop().call_later(n * 0.0002, task.cancel)
        await asyncio.wait(tasks)
        await db.flush()
        read = sum(not task.cancelled() for task in tasks)
        assert await counts(dsn) == {number: read}


async def test_flushes_and_writes_of_the_same_rows_at_once_never_deadlock(own_dsn):
    """Four databases flush the same memories while others change, count and relate them."""
    async with connect(own_dsn, access_tracking="off") as db:
        ids = await add(db, 30)
        async with db.transaction() as conn:
            name = await conn.fetchval("SELECT current_database()")
            await conn.execute(f"ALTER DATABASE {name} SET deadlock_timeout = '10ms'")
    databases = [await connect(own_dsn, max_size=3) for _ in range(4)]
    errors = []

    async def flush(n):
        for _ in range(12):
            await get_memories(databases[n], 1, ids if n % 2 else ids[::-1])
            try:
                await databases[n].flush()
            except Unavailable as error:
                errors.append(str(error))

    async def write(n):
        for turn in range(20):
            number, other = ids[(7 * turn + n) % 30], ids[(3 * turn + n + 1) % 30]
            await update_memory(databases[n], 1, number, category=f"c{turn}")
            await record_access(databases[n], 1, [other, number])
            if number != other:
                await relate(databases[n], 1, number, other)

    await asyncio.gather(*(call(n) for n in range(4) for call in (flush, write)))
    for database in databases:
        await database.close()
    assert not [error for error in errors if "40P01" in error]
    assert sum((await counts(own_dsn)).values()) == 4 * 12 * 30 + 4 * 20 * 2 - sum(
        ids[(7 * turn + n) % 30] == ids[(3 * turn + n + 1) % 30]
        for n in range(4)
        for turn in range(20)
    )


@pytest.mark.slow
async def test_what_others_have_locked_holds_up_neither_them_nor_the_rest(dsn):
    async with connect(dsn) as db:
        low, mine, high = await add(db, 3)
        (theirs,) = await add(db, 1, user=2)
        await get_memories(db, 1, [low, mine, high])
        await get_memory(db, 2, theirs)
        async with db.transaction() as conn:
            await update_memory(conn, 1, mine, category="mine")
            with pytest.raises(Unavailable, match="locked"):
                await db.flush()
            assert db.stats()[4:7] == (1, 3, 0)
            assert await update_memory(conn, 1, low, category="mine") is not None
            await get_memory(db, 2, theirs)
            assert len(await access_history(db, 2, theirs)) == 2
            await get_memory(db, 2, theirs)
            assert await record_feedback(db, 2, theirs, was_relevant=True) is not None
            assert await access_history(db, 1, mine) == []
            with pytest.raises(Unavailable, match="locked"):
                await record_feedback(db, 1, mine, was_relevant=True)
        await db.flush()
        assert await counts(dsn) == {low: 1, mine: 1, high: 1}
        assert db.stats()[4:7] == (0, 6, 0)


async def test_closing_waits_for_what_others_have_locked(dsn, monkeypatch):
    monkeypatch.setattr(tracking, "LOCKED_SECONDS", 0)
    db = await connect(dsn)
    low, high = await add(db, 2)
    await get_memories(db, 1, [low, high])
    other = await asyncpg.connect(dsn)
    transaction = other.transaction()
    await transaction.start()
    await other.execute("SELECT 1 FROM ltm_memories WHERE user_id = 1 AND id = $1 FOR UPDATE", low)
    closing = asyncio.ensure_future(db.close())
    while db.stats().recorded < 1:
        await other.execute("SELECT 1")
    assert not closing.done()
    await transaction.commit()
    await other.close()
    await closing
    assert db.stats()[4:7] == (0, 2, 0)
    assert await counts(dsn) == {low: 1, high: 1}


async def test_the_history_is_read_where_nothing_can_be_written(own_dsn):
    async with connect(own_dsn) as db:
        (number,) = await add(db, 1)
        await get_memory(db, 1, number)
        await db.flush()
        async with db.transaction() as conn:
            name = await conn.fetchval("SELECT current_database()")
            await conn.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
    async with connect(own_dsn) as db:
        await get_memory(db, 1, number)
        assert len(await access_history(db, 1, number)) == 1
    assert db.stats().dropped == 1


async def test_a_flush_does_not_wait_for_the_disk_and_sets_nothing_for_others(dsn):
    connection = await asyncpg.connect(dsn)
    recalls = [[PendingAccess(1, 1, NOW, AccessReason("direct"))]]
    await connection.execute("SET synchronous_commit = on")
    async with connection.transaction():
        await write_accesses(connection, recalls)
        assert await connection.fetchval("SHOW synchronous_commit") == "off"
    assert await connection.fetchval("SHOW synchronous_commit") == "on"
    await write_accesses(connection, recalls)
    assert await connection.fetchval("SHOW synchronous_commit") == "on"
    assert await connection.fetchval("SHOW lock_timeout") == "0"
    await connection.close()


async def test_a_flush_is_one_round_trip_and_a_read_still_is(dsn):
    async with wire(dsn) as proxy, connect(proxy.dsn) as db:
        ids = await add(db, 10)
        await get_memories(db, 1, ids)
        await db.flush()
        before = proxy.round_trips
        await get_memories(db, 1, ids)
        assert proxy.round_trips - before == 1
        await db.flush()
        assert proxy.round_trips - before == 2
        await db.flush()
        assert proxy.round_trips - before == 2


async def test_a_flush_goes_out_on_a_new_connection_where_the_old_one_is_gone(dsn):
    async with connect(dsn) as db:
        (number,) = await add(db, 1)
        await get_memory(db, 1, number)
        async with db.transaction() as conn:
            pid = conn.get_server_pid()
        await kill(dsn, pid)
        await db.flush()
        assert await counts(dsn) == {number: 1}


async def test_a_pooler_takes_it_too(dsn):
    async with connect(dsn, pgbouncer=True) as db:
        (number,) = await add(db, 1)
        await get_memory(db, 1, number)
    assert await counts(dsn) == {number: 1}


@pytest.mark.parametrize("tracking", ["immediate", "off"])
async def test_other_ways_queue_nothing(dsn, tracking):
    async with connect(dsn, access_tracking=tracking) as db:
        (number,) = await add(db, 1)
        await get_memory(db, 1, number)
        assert db.stats()[4:7] == (0, 0, 0)
        await db.flush()


def test_each_event_loop_has_a_database_of_its_own(dsn):
    async def read_much(user):
        async with connect(dsn) as db:
            ids = await add(db, 5, user)
            for _ in range(100):
                await get_memories(db, user, ids)

    threads = [threading.Thread(target=asyncio.run, args=[read_much(user)]) for user in (1, 2, 3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for user in (1, 2, 3):
        assert set(asyncio.run(counts(dsn, user)).values()) == {100}


KILLED = """
import asyncio, sys
from ltm_store import add_memory, connect, get_memories, search_memories
async def main():
    db = await connect(sys.argv[1])
    ids = [(await add_memory(db, 1, f"memory {n}")).id for n in range(300)]
    await get_memories(db, 1, ids)
    while db.stats().queued:
        await search_memories(db, 2)
    await get_memories(db, 1, ids)
    print("read", flush=True)
    while True:
        await get_memories(db, 1, ids[:1])
asyncio.run(main())
"""


@pytest.mark.slow
async def test_a_killed_process_loses_the_last_statistics_and_no_memory(dsn):
    child = subprocess.Popen(
        [sys.executable, "-c", KILLED, dsn], stdout=subprocess.PIPE, env={**os.environ}
    )
    assert child.stdout is not None
    assert await asyncio.to_thread(child.stdout.readline) == b"read\n"
    child.send_signal(signal.SIGKILL)
    assert await asyncio.to_thread(child.wait) == -signal.SIGKILL
    child.stdout.close()
    connection = await asyncpg.connect(dsn)
    while await connection.fetchval(
        "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'ltm_store' "
        "AND datname = current_database()"
    ):
        pass
    rows = await connection.fetch("SELECT content, version, access_count FROM ltm_memories")
    logged = await connection.fetchval("SELECT count(*) FROM ltm_memory_access")
    await connection.close()
    assert {row["content"] for row in rows} == {f"memory {n}" for n in range(300)}
    assert {row["version"] for row in rows} == {1}
    assert min(row["access_count"] for row in rows) >= 1  # what had left the queue is there
    assert sum(row["access_count"] for row in rows) == logged


HOUR = timedelta(hours=1)


async def expiry(db: Database, number: int) -> datetime:
    async with db.transaction() as conn:
        memory = await get_memory(conn, 1, number)
    assert memory is not None
    assert memory.expires_at is not None
    return memory.expires_at


@pytest.mark.parametrize("access_tracking", ["immediate", "deferred"])
async def test_an_access_moves_an_expiry_on_once_per_tenth_of_it(dsn, access_tracking):
    async with connect(dsn, access_tracking=access_tracking) as db:
        memory = await add_memory(db, 1, "x", key="k", expires_after=HOUR)
        assert memory.expires_at is not None
        assert timedelta(0) <= memory.expires_at - datetime.now(UTC) <= HOUR
        for read in (
            lambda: get_memory(db, 1, memory.id),
            lambda: get_memories(db, 1, [memory.id]),
            lambda: get_by_key(db, 1, "k"),
            lambda: search_memories(db, 1, "x"),
        ):
            for passed, moves in (timedelta(minutes=5), False), (timedelta(minutes=7), True):
                set_to = datetime.now(UTC) + HOUR - passed
                await update_memory(db, 1, memory.id, expires_at=set_to)
                before = datetime.now(UTC)
                await read()
                await db.flush()
                now = await expiry(db, memory.id)
                assert now == set_to if not moves else before + HOUR <= now
        longer = datetime.now(UTC) + 3 * HOUR
        await update_memory(db, 1, memory.id, expires_at=longer)
        await get_memory(db, 1, memory.id)
        await db.flush()
        assert await expiry(db, memory.id) == longer


async def test_an_expiry_moves_on_by_the_last_access_before_it(db):
    memory = await add_memory(db, 1, "x", expires_after=HOUR, expires_at=NOW)
    plain = await add_memory(db, 1, "y", expires_at=NOW)
    moments = [NOW - timedelta(minutes=3), NOW - timedelta(minutes=2), NOW + HOUR]
    await write_accesses(
        db,
        [
            [PendingAccess(1, number, moment, AccessReason("direct")) for moment in moments]
            for number in (memory.id, plain.id)
        ],
    )
    async with db.transaction() as conn:
        rows = await conn.fetch("SELECT expires_at FROM ltm_memories ORDER BY id")
    assert [row["expires_at"] for row in rows] == [moments[1] + HOUR, NOW]


async def test_what_moves_an_expiry_on_is_not_dropped(dsn, monkeypatch):
    monkeypatch.setattr(tracking, "QUEUED_ACCESSES", 3)
    async with connect(dsn) as db:
        sliding = await add_memory(db, 1, "x", expires_after=HOUR)
        soon = datetime.now(UTC) + timedelta(minutes=1)
        await update_memory(db, 1, sliding.id, expires_at=soon)
        plain = await add(db, 4)
        for number in (sliding.id, sliding.id, *plain):
            await get_memory(db, 1, number)
        stats = db.stats()
        assert (stats.queued, stats.dropped) == (4, 2)
        await db.flush()
        assert db.stats().recorded == 4
        assert await expiry(db, sliding.id) > soon
