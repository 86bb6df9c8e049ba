"""What goes wrong around a call: cancellation, lost and full servers, deadlocks, other loops."""

import asyncio
import copy
import gc
import pickle
import subprocess
import sys
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import pytest

from ltm_store import (
    Analytics,
    InvalidArgument,
    InvalidMemory,
    LtmError,
    SchemaOutdated,
    Unavailable,
    access_history,
    add_memories,
    add_memory,
    archive_memory,
    connect,
    delete_memory,
    explain_search,
    export_user,
    get_analytics,
    get_memory,
    import_user,
    record_access,
    relate,
    render_report,
    search_memories,
    update_memory,
)
from ltm_store.database import Options
from tests.chaos import stepping_clock
from tests.locks import WAITING
from tests.servers import local_alone, with_user
from tests.wire import impatient, wire

PAST = datetime(2020, 1, 1, tzinfo=UTC)
HANG = 60


async def test_an_expired_memory_gives_up_its_key(db):
    old = await add_memory(db, "u", "Monday", idempotency_key="digest", expires_at=PAST)
    new = await add_memory(db, "u", "Tuesday", idempotency_key="digest")
    assert (new.outcome, new.content) == ("created", "Tuesday")
    assert new.id != old.id
    assert (await add_memory(db, "u", "x", idempotency_key="digest")).id == new.id


async def test_an_import_takes_the_key_of_an_expired_memory(db):
    await add_memory(db, "u", "Monday", idempotency_key="digest", expires_at=PAST)
    report = await import_user(db, "u", [{"content": "Tuesday", "idempotency_key": "digest"}])
    assert (report.created, report.existing) == (1, 0)


async def test_adds_at_the_same_instant_take_the_key_of_an_expired_memory_once(db):
    await add_memory(db, 1, "Monday", idempotency_key="digest", expires_at=PAST)
    adds = (add_memory(db, 1, f"{n}", idempotency_key="digest") for n in range(8))
    added = await asyncio.gather(*adds)
    assert sorted(memory.outcome or "" for memory in added) == ["created"] + ["existing"] * 7
    assert len({memory.id for memory in added}) == 1


async def test_an_archived_memory_keeps_its_key_and_that_is_told(db, caplog):
    kept = await add_memory(db, 1, "x", idempotency_key="k")
    await archive_memory(db, 1, kept.id)
    again = await add_memory(db, 1, "y", idempotency_key="k")
    assert (again.id, again.outcome, again.is_archived) == (kept.id, "existing", True)
    assert "is archived" in caplog.text


async def test_a_cancelled_call_leaves_no_transaction_behind(dsn):
    """The connection is known to be clean or is thrown away, wherever the call is cancelled."""
    async with connect(dsn, max_size=1, access_tracking="off") as db:
        await add_memories(db, 1, [{"content": f"note {n}"} for n in range(30)])
        for n in range(75):
            task = asyncio.ensure_future(search_memories(db, 1, f"note {n}"))
            for _ in range(n % 25):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait([task])
            assert len([line async for line in export_user(db, 1)]) == 30
        assert "note" in await render_report(db, 1)
        other = await asyncpg.connect(dsn)
        states = await other.fetchval(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() "
            "AND state LIKE 'idle in transaction%'"
        )
        await other.close()
    assert states == 0


async def until(is_so):
    while not is_so():  # noqa: ASYNC110 - nobody would set an event
        await asyncio.sleep(0)


async def a_statement(db, fall_silent):
    fall_silent()
    await search_memories(db, 1)


async def a_beginning(db, fall_silent):
    fall_silent()
    async with db.transaction():
        pass


async def a_transaction(db, fall_silent):
    async with db.transaction() as connection:
        fall_silent()
        await connection.execute("SELECT 1")


async def a_commit(db, fall_silent):
    async with db.transaction():
        fall_silent()


async def a_rollback(db, fall_silent):
    async with db.transaction():
        fall_silent()
        raise ValueError


CANCELLED = [a_statement, a_beginning, a_transaction, a_commit, a_rollback]


@pytest.mark.parametrize("call", CANCELLED, ids=lambda call: call.__name__)
async def test_a_connection_on_which_a_call_was_cancelled_is_not_used_again(dsn, call):
    """What it is still doing is unknown: here it waits for an answer that never comes."""
    async with wire(dsn) as proxy, connect(proxy.dsn, max_size=1, access_tracking="off") as db:
        sent: list[int] = []

        def fall_silent():
            proxy.swallow_present()
            sent.append(proxy.round_trips)

        assert await search_memories(db, 1) == []
        task = asyncio.ensure_future(call(db, fall_silent))
        await until(lambda: sent and proxy.round_trips > sent[0])
        following = asyncio.ensure_future(search_memories(db, 1))
        await until(lambda: db.stats().waiting == 1)
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()
        assert await following == []
        proxy.cut()  # or closing waits for the answer


@pytest.mark.parametrize("is_lost", [False, True])
async def test_what_a_call_gets_as_it_is_cancelled_goes_to_the_next_one(dsn, is_lost):
    """A connection, or the place for a new one where the old one is lost."""
    async with connect(dsn, max_size=1, access_tracking="off") as db:
        held = db.transaction()
        connection = await held.__aenter__()
        tasks = [asyncio.ensure_future(search_memories(db, 1)) for _ in range(2)]
        await until(lambda: db.stats().waiting == 2)
        if is_lost:
            connection.terminate()
        with suppress(Unavailable):
            await held.__aexit__(None, None, None)
        tasks[0].cancel()  # before its turn comes
        await asyncio.wait(tasks)
        assert tasks[0].cancelled()
        assert tasks[1].result() == []
        assert (db.stats().open, db.stats().idle) == (1, 1)


async def test_a_connection_that_is_ended_between_two_answers_is_a_lost_one(dsn, monkeypatch):
    async with connect(dsn, access_tracking="off", max_size=1) as db:
        held = db.transaction()
        connection = await held.__aenter__()
        prepare = vars(asyncpg.Connection)["_get_statement"].__get__(connection)

        async def prepare_and_end(*given, **options):
            statement = await prepare(*given, **options)
            connection.terminate()  # as another task does that finds it lost
            return statement

        monkeypatch.setattr(connection, "_get_statement", prepare_and_end)
        with pytest.raises(Unavailable):
            await get_memory(connection, 1, 1)
        with suppress(Unavailable):
            await held.__aexit__(None, None, None)
        assert await get_memory(db, 1, 1) is None


async def test_cancelled_calls_while_connections_open_leave_no_noise(dsn):
    noise: list[object] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: noise.append(context))
    async with connect(dsn, access_tracking="off", max_size=4) as db:
        for turns in range(30):
            tasks = [asyncio.ensure_future(search_memories(db, 1, "note")) for _ in range(12)]
            for _ in range(turns % 6):
                await asyncio.sleep(0)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        assert await search_memories(db, 1, "note") == []
    gc.collect()
    await asyncio.sleep(0)
    loop.set_exception_handler(None)
    assert noise == []


async def test_idle_connections_that_died_silently_cost_one_call(dsn):
    async with (
        wire(dsn) as proxy,
        connect(proxy.dsn, access_tracking="off", min_size=5, max_size=5) as db,
    ):
        assert db.stats().idle == 5
        proxy.swallow_present()
        with impatient(db), suppress(Unavailable):
            await search_memories(db, 1)
        for _ in range(8):
            assert await search_memories(db, 1) == []
        proxy.cut()  # or closing waits for the answers of those that died


async def test_an_old_idle_connection_is_not_used_again(db, monkeypatch):
    async with db.transaction() as connection:
        pid = connection.get_server_pid()
    async with db.transaction() as connection:
        assert connection.get_server_pid() == pid
    monkeypatch.setattr("ltm_store.db.pool.IDLE_SECONDS", -1.0)
    async with db.transaction() as connection:
        assert connection.get_server_pid() != pid


async def test_many_adds_under_the_same_keys_in_another_order_do_not_wait_for_each_other(dsn):
    forwards = [{"content": f"{n}", "idempotency_key": f"k{n}"} for n in range(40)]
    async with connect(dsn, max_size=8, access_tracking="off") as db:
        reports = await asyncio.gather(
            *(add_memories(db, 1, forwards[:: 1 if n % 2 else -1]) for n in range(8))
        )
        assert sorted(report.created for report in reports) == [0] * 7 + [40]


@pytest.mark.parametrize(
    "call",
    [lambda db, a, b: relate(db, 1, a, b), lambda db, a, b: delete_memory(db, 1, a)],
    ids=["a statement", "a transaction"],
)
async def test_what_a_deadlock_undid_is_done_again(own_dsn, call):
    """The call locks the first memory and waits for the second; the other one the other way."""
    other = await asyncpg.connect(own_dsn)
    name = await other.fetchval("SELECT current_database()")
    await other.execute(f"ALTER DATABASE {name} SET deadlock_timeout = '100ms'")
    lock = "SELECT 1 FROM ltm_memories WHERE user_id = 1 AND id = $1 FOR UPDATE"
    async with connect(own_dsn, access_tracking="off") as db:
        first, second = [(await add_memory(db, 1, f"{n}")).id for n in range(2)]
        await relate(db, 1, second, first)
        async with other.transaction():
            await other.execute(lock, second)
            task = asyncio.ensure_future(call(db, first, second))
            while not await other.fetchval(WAITING):
                assert not task.done()
            await other.execute(lock, first)
        assert await asyncio.wait_for(task, HANG)
    await other.close()


async def test_writes_succeed_where_the_database_is_serializable_by_default(own_dsn):
    other = await asyncpg.connect(own_dsn)
    name = await other.fetchval("SELECT current_database()")
    await other.execute(
        f"ALTER DATABASE {name} SET default_transaction_isolation = 'repeatable read'"
    )
    await other.close()
    async with connect(own_dsn, max_size=8) as db:
        async with db.transaction() as connection:
            assert await connection.fetchval("SHOW transaction_isolation") == "read committed"
        memory = await add_memory(db, 1, "x")
        await asyncio.gather(*(record_access(db, 1, [memory.id]) for _ in range(64)))
        await asyncio.gather(
            *(update_memory(db, 1, memory.id, metadata={f"k{n}": n}) for n in range(32))
        )
        read = await get_memory(db, 1, memory.id)
    assert read is not None
    assert read.access_count == 64
    assert isinstance(read.metadata, dict)
    assert len(read.metadata) == 32


@local_alone  # Citus has connections of its own
async def test_calls_wait_for_a_server_that_is_full_for_a_moment(own_dsn, server):
    admin = await asyncpg.connect(server)
    try:
        name = own_dsn.partition("?")[0].rpartition("/")[2]
        await admin.execute(f"ALTER DATABASE {name} CONNECTION LIMIT 1")
        await admin.execute("CREATE ROLE ltm_plain LOGIN PASSWORD 'plain'")
        await admin.execute("GRANT pg_read_all_data TO ltm_plain")
        plain = with_user(own_dsn, "ltm_plain", "plain")
        first = await asyncpg.connect(plain)
        unasked: Options = {"check_schema": False, "trust_schema": True, "min_size": 0}
        unasked["access_tracking"] = "off"
        async with wire(plain) as proxy, connect(proxy.dsn, **unasked) as db:
            call = asyncio.ensure_future(search_memories(db, 1))
            while proxy.connections < 2:  # the first one was refused
                assert not call.done()
                await asyncio.sleep(0)
            await first.close()
            assert await asyncio.wait_for(call, HANG) == []
    finally:
        await admin.execute(f"ALTER DATABASE {name} CONNECTION LIMIT -1")
        await admin.execute("DROP OWNED BY ltm_plain")
        await admin.execute("DROP ROLE IF EXISTS ltm_plain")
        await admin.close()


async def test_a_closed_database_says_that_it_is_closed(dsn):
    async with connect(dsn) as db:
        pass
    with pytest.raises(Unavailable, match="closed"):
        await search_memories(db, 1)


async def test_closing_lets_calls_in_flight_finish(dsn):
    db = await connect(dsn, access_tracking="off")
    async with connect(dsn) as other, other.transaction() as blocking:
        await blocking.execute("LOCK TABLE ltm_memories IN ACCESS EXCLUSIVE MODE")
        call = asyncio.ensure_future(add_memory(db, 1, "x"))
        while not await blocking.fetchval(WAITING):
            assert not call.done()
        closing = asyncio.ensure_future(db.close())
        await asyncio.sleep(0)
    await asyncio.wait_for(closing, HANG)
    assert (await call).outcome == "created"


async def test_another_event_loop_is_told(db):
    await search_memories(db, 1)
    with pytest.raises(LtmError, match="event loop"):
        await asyncio.to_thread(asyncio.run, search_memories(db, 1))


FORKING = """
import asyncio, os, sys
from ltm_store import LtmError, add_memory, connect, get_memory, search_memories

def refused(call):
    try:
        asyncio.run(call)
    except LtmError as error:
        return "before a fork" in str(error)

async def in_child():
    async with connect(sys.argv[1]) as mine:
        await add_memory(mine, 1, "of the child")

async def session(db):
    async with db.transaction() as connection:
        return connection.get_server_pid()

async def main():
    async with connect(sys.argv[1], max_size=1) as db:
        memory = await add_memory(db, 1, "of the parent")
        await get_memory(db, 1, memory.id)
        before = await session(db)
        flushing = asyncio.ensure_future(db.flush())
        await asyncio.sleep(0)
        child = os.fork()
        if child == 0:
            calls = search_memories(db, 1), get_memory(db, 1, 1), session(db), db.flush()
            told = [refused(call) for call in calls]
            asyncio.run(db.close())
            asyncio.run(in_child())
            os._exit(7 if all(told) else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
        assert await session(db) == before
        await flushing
        print(len(await search_memories(db, 1)), db.stats().recorded)

asyncio.run(main())
"""


async def test_a_child_is_told_of_the_fork_and_its_parent_goes_on(dsn):
    command = [sys.executable, "-W", "ignore", "-c", FORKING, dsn]
    done = await asyncio.to_thread(
        subprocess.run, command, capture_output=True, text=True, timeout=100, check=False
    )
    assert (done.stdout, done.returncode) == ("2 1\n", 0), done.stderr


async def test_a_clock_that_steps_moves_no_deadline_and_drops_no_access(dsn):
    async with wire(dsn) as proxy, connect(proxy.dsn) as db:
        memory = await add_memory(db, 1, "x")
        with stepping_clock() as step:
            began = datetime.now(UTC)
            for hours in (5, -9, 30, 0):
                step(hours)
                assert await get_memory(db, 1, memory.id)
            await db.flush()
            proxy.swallow_present()
            with impatient(db):
                call = asyncio.ensure_future(search_memories(db, 1))
                await asyncio.sleep(0)
                step(1000)
                with pytest.raises(Unavailable):
                    await call
        history = await access_history(db, 1, memory.id)
        assert db.stats()[4:7] == (0, 4, 0)
        proxy.cut()
    moments = [began + timedelta(hours=hours) for hours in (30, 5, 0, -9)]
    for access, moment in zip(history, moments, strict=True):
        assert access.access_timestamp
        assert moment <= access.access_timestamp < moment + timedelta(hours=1)


async def test_two_calls_at_once_on_one_connection_are_told(db):
    async with db.transaction() as connection:
        outcomes = await asyncio.gather(
            *(search_memories(connection, 1) for _ in range(3)), return_exceptions=True
        )
    wrong = [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
    assert wrong
    assert all(isinstance(error, LtmError) and "at once" in str(error) for error in wrong)


@pytest.mark.parametrize("db", ["postgresql://x@y/z", None, 5])
async def test_what_is_no_database_is_refused(db):
    with pytest.raises(InvalidArgument, match="^db: "):
        await search_memories(db, 1)


async def test_errors_survive_pickle_and_copy(db):
    memory = await add_memory(db, 1, "x")
    errors: list[LtmError] = [SchemaOutdated(["0001_x"]), Unavailable("no answer")]
    for call in (
        add_memory(db, 1, ""),
        update_memory(db, 1, memory.id, expected_version=9, content="y"),
        search_memories(db, 1, limit=0),
    ):
        with pytest.raises(LtmError) as refused:
            await call
        errors.append(refused.value)
    for error in errors:
        for again in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
            assert type(again) is type(error)
            assert (str(again), vars(again)) == (str(error), vars(error))


async def test_analytics_are_read_back_from_their_own_dump(conn):
    await add_memory(conn, 1, "x", tags=["a"], memory_type="fact")
    await record_access(conn, 1, [(await search_memories(conn, 1))[0].id])
    figures = await get_analytics(conn, 1)
    assert figures.most_accessed_memories
    assert Analytics.model_validate(figures.model_dump()) == figures
    assert Analytics.model_validate_json(figures.model_dump_json()) == figures
    memory = await get_memory(conn, 1, figures.most_accessed_memories[0].id)
    assert memory is not None
    assert type(memory).model_validate_json(memory.model_dump_json()) == memory


async def test_the_users_that_are_remembered_are_bounded(db):
    async with db.transaction() as connection:
        await connection.execute(
            "INSERT INTO ltm_external_users (external_id) "
            "SELECT 'user-' || n FROM generate_series(1, 1100) AS n"
        )
    for n in range(1100):
        await get_memory(db, f"user-{n + 1}", 1)
    assert len(db.external_users) == 1000
    assert "user-1100" in db.external_users


@pytest.mark.parametrize("name", ["tags", "tags_any", "tags_none"])
async def test_an_empty_collection_is_no_filter_and_refused(conn, name):
    arguments: dict[str, Any] = {name: []}
    with pytest.raises(InvalidArgument, match=f"^{name}: ") as refused:
        await search_memories(conn, 1, **arguments)
    assert not isinstance(refused.value, InvalidMemory)


async def test_keys_of_metadata_can_be_removed(conn):
    memory = await add_memory(conn, 1, "x", metadata={"keep": 1, "drop": 2})
    changed = await update_memory(conn, 1, memory.id, remove_metadata=("drop", "absent"))
    assert changed is not None
    assert changed.metadata == {"keep": 1}
    both = await update_memory(conn, 1, memory.id, metadata={"a": 1}, remove_metadata=["keep"])
    assert both is not None
    assert both.metadata == {"a": 1}


async def test_of_equal_contents_a_search_shows_the_most_important(conn):
    ids = [
        (await add_memory(conn, 1, text, importance_score=score)).id
        for text, score in (
            ("Likes tea", 5),
            ("likes  TEA", 9),
            ("Likes tea", 2),
            ("Likes coffee", 5),
        )
    ]
    (hit,) = await search_memories(conn, 1, "tea")
    assert hit.id == ids[1]
    assert sorted(hit.duplicate_ids) == sorted([ids[0], ids[2]])
    assert len(await search_memories(conn, 1, "tea", distinct=False)) == 3
    assert len(await search_memories(conn, 1)) == 4
    for query, phrases in (("tea", []), (None, ["tea"])):
        told = await explain_search(conn, 1, query, ids[0], phrases=phrases)
        assert (told.is_returned, told.causes) == (False, ("distinct",))


@local_alone  # the timeouts of other nodes stay
async def test_a_slow_export_outlives_the_idle_timeout_of_transactions(own_dsn):
    other = await asyncpg.connect(own_dsn)
    name = await other.fetchval("SELECT current_database()")
    await other.execute(f"ALTER DATABASE {name} SET idle_in_transaction_session_timeout = '50ms'")
    async with connect(own_dsn, access_tracking="off") as db:
        await add_memories(db, 1, ({"content": f"{n}"} for n in range(300)))
        lines = 0
        async for _ in export_user(db, 1):
            lines += 1
            if lines == 100:
                await other.execute("SELECT pg_sleep(0.2)")
    await other.close()
    assert lines == 300


async def test_the_timeout_holds_for_the_whole_call(dsn):
    """A call of two statements, of which the second hangs for what the first has left."""
    async with wire(dsn) as proxy, connect(proxy.dsn, timeout=1, access_tracking="off") as db:
        await add_memory(db, "alice", "x")
        started = asyncio.get_running_loop().time()
        deadlines = []
        run = db.run

        async def noting(sql, arguments, *, repeat, only_reads):
            deadlines.append(db.deadline())
            return await run(sql, arguments, repeat=repeat, only_reads=only_reads)

        db.run = noting  # type: ignore[method-assign]
        db.external_users.clear()
        await add_memory(db, "alice", "y")
        await get_memory(db, 1, 1)
    *adding, reading = deadlines
    assert len(adding) >= 2
    assert len(set(adding)) == 1
    assert started + 1 <= adding[0] < reading
