"""The Database: round trips, one deadline, lost connections, transactions, choices at opening."""

import asyncio
import socket
from contextlib import suppress
from typing import Any

import asyncpg
import pytest

from ltm_store import (
    InvalidArgument,
    InvalidMemory,
    LtmError,
    SchemaOutdated,
    Unavailable,
    add_memories,
    add_memory,
    add_tags,
    archive_memory,
    connect,
    delete_memory,
    get_analytics,
    get_memories,
    get_memory,
    get_relationships,
    list_tags,
    record_access,
    relate,
    related_tags,
    remove_tags,
    restore_memory,
    search_memories,
    shortest_path,
    suggest_relationships,
    traverse,
    update_importance,
    update_memory,
)
from tests.locks import WAITING
from tests.servers import with_database
from tests.wire import DEADLINE, impatient, wire

CALLS = {
    "add": lambda db, m: add_memory(
        db,
        1,
        "x",
        tags=["a", "b", "c"],
        related_memory_ids=[m],
        enhanced_context={"spatial": {"city": "Graz"}},
        idempotency_key="key",
    ),
    "get": lambda db, m: get_memory(db, 1, m, include_relationships=True),
    "get_many": lambda db, m: get_memories(db, 1, [m]),
    "search": lambda db, m: search_memories(db, 1, "words", tags=["a"], metadata={"a": 1}),
    "list": lambda db, m: search_memories(db, 1, include_archived=True),
    "get_relationships": lambda db, m: get_relationships(db, 1, m),
    "update": lambda db, m: update_memory(db, 1, m, tags=["a"], enhanced_context={}, category="c"),
    "update_importance": lambda db, m: update_importance(db, 1, m, 3),
    "archive": lambda db, m: archive_memory(db, 1, m),
    "restore": lambda db, m: restore_memory(db, 1, m),
    "relate": lambda db, m: relate(db, 1, m, m + 1),
    "traverse": lambda db, m: traverse(db, 1, m),
    "shortest_path": lambda db, m: shortest_path(db, 1, m, m),
    "suggest_relationships": lambda db, m: suggest_relationships(db, 1, m),
    "add_tags": lambda db, m: add_tags(db, 1, m, ["a"]),
    "remove_tags": lambda db, m: remove_tags(db, 1, m, ["a"]),
    "list_tags": lambda db, m: list_tags(db, 1),
    "related_tags": lambda db, m: related_tags(db, 1, "a"),
    "record_access": lambda db, m: record_access(db, 1, [m]),
    "get_analytics": lambda db, m: get_analytics(db, 1),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS.keys())
async def test_a_call_is_one_round_trip(dsn, call):
    async with wire(dsn) as proxy, connect(proxy.dsn, access_tracking="off") as db:
        memory = await add_memory(db, 1, "words")
        await call(db, memory.id)  # prepares the statement
        before = proxy.round_trips
        await call(db, memory.id)
        assert proxy.round_trips - before == 1


async def test_a_known_external_user_costs_no_further_round_trip(dsn):
    async with wire(dsn) as proxy, connect(proxy.dsn, access_tracking="off") as db:
        memory = await add_memory(db, "alice", "words")
        await get_memory(db, "alice", memory.id)
        before = proxy.round_trips
        await get_memory(db, "alice", memory.id)
        assert proxy.round_trips - before == 1


async def test_every_executor_is_taken(dsn):
    async with connect(dsn) as db:
        memory = await add_memory(db, "alice", "x")
        assert await get_memory(db, "alice", memory.id) is not None
    connection = await asyncpg.connect(dsn)
    assert await get_memory(connection, "alice", memory.id) is not None
    await connection.close()
    async with asyncpg.create_pool(dsn, min_size=1) as pool:
        assert await get_memory(pool, "alice", memory.id) is not None
        async with pool.acquire() as acquired:
            assert await get_memory(acquired, "alice", memory.id) is not None


async def test_a_callers_codec_changes_nothing(dsn):
    """JSON crosses as text, so a connection that encodes jsonb itself stores and reads the same."""
    import json

    connection = await asyncpg.connect(dsn)
    for kind in ("json", "jsonb"):
        await connection.set_type_codec(
            kind, encoder=json.dumps, decoder=json.loads, schema="pg_catalog"
        )
    memory = await add_memory(
        connection, 1, "x", tags=["a"], metadata={"a": 1}, enhanced_context={"extra": {"b": 2}}
    )
    assert await get_memory(connection, 1, memory.id) == memory.model_copy(update={"outcome": None})
    assert await search_memories(connection, 1, tags=["a"], metadata={"a": 1})
    kinds = "SELECT jsonb_typeof(tags), jsonb_typeof(memory_metadata) FROM ltm_memories"
    assert [tuple(row) for row in await connection.fetch(kinds)] == [("array", "object")]
    await connection.close()


async def test_a_transaction_commits_or_leaves_nothing(db):
    async with db.transaction() as conn:
        kept = await add_memory(conn, "alice", "kept")
    with suppress(ZeroDivisionError):
        async with db.transaction() as conn:
            await add_memory(conn, "bob", "undone")
            raise ZeroDivisionError
    assert await get_memory(db, "alice", kept.id) is not None
    assert await search_memories(db, "bob") == []
    assert (await add_memory(db, "bob", "later")).outcome == "created"


async def test_an_external_user_of_an_undone_transaction_is_not_remembered(db):
    with suppress(ZeroDivisionError):
        async with db.transaction() as conn:
            undone = await add_memory(conn, "carol", "x")
            raise ZeroDivisionError
    again = await add_memory(db, "carol", "x")
    async with db.transaction() as conn:
        numbers = await conn.fetch("SELECT user_id FROM ltm_external_users")
    assert again.user_id != undone.user_id
    assert [row[0] for row in numbers] == [again.user_id]


async def test_a_task_cancelled_while_its_transaction_begins_loses_no_others_write(dsn):
    async with connect(dsn, max_size=1, access_tracking="off") as db:

        async def begin():
            async with db.transaction():
                raise AssertionError("cancelled before")

        for turns in range(1, 4):
            task = asyncio.ensure_future(begin())
            for _ in range(turns):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait([task])
            memory = await add_memory(db, 1, "kept")
            other = await asyncpg.connect(dsn)
            assert await get_memory(other, 1, memory.id) is not None
            await other.close()


async def test_a_transaction_that_an_error_undid_does_not_end_as_if_it_were_committed(db):

    async def undone():
        async with db.transaction() as conn:
            await add_memory(conn, 1, "x")
            with suppress(InvalidMemory):
                await add_memory(conn, 1, "y", parent_memory_id=10**12)

    with pytest.raises(LtmError, match="nothing was committed"):
        await undone()
    assert await search_memories(db, 1) == []
    async with db.transaction() as conn:
        await add_memory(conn, 1, "x")
        with suppress(InvalidMemory):
            async with conn.transaction():
                await add_memory(conn, 1, "y", parent_memory_id=10**12)
    assert len(await search_memories(db, 1)) == 1


async def test_the_callers_exception_survives_a_lost_connection(db, dsn):
    class Mine(Exception):
        pass

    async def killed():
        async with db.transaction() as conn:
            await kill(dsn, conn.get_server_pid())
            raise Mine

    async def committed():
        async with db.transaction() as conn:
            await kill(dsn, conn.get_server_pid())

    with pytest.raises(Mine):
        await killed()
    with pytest.raises(Unavailable):
        await committed()


async def kill(dsn, pid):
    other = await asyncpg.connect(dsn)
    await other.execute("SELECT pg_terminate_backend($1::integer)", pid)
    while await other.fetchval("SELECT count(*) FROM pg_stat_activity WHERE pid = $1", pid):
        pass
    await other.close()


async def test_a_transaction_begins_on_a_new_connection_where_the_old_one_is_gone(dsn):
    async with connect(dsn, min_size=3) as db:
        pids = []
        async with db.transaction() as a, db.transaction() as b, db.transaction() as c:
            pids += [a.get_server_pid(), b.get_server_pid(), c.get_server_pid()]
        for pid in pids:
            await kill(dsn, pid)
        memory = await add_memory(db, 1, "x", idempotency_key="k")
        for pid in pids:
            assert await delete_memory(db, 1, memory.id) is (pid == pids[0])


async def test_a_closed_connection_or_pool_is_unavailable_to_every_function(dsn):
    connection = await asyncpg.connect(dsn)
    await connection.close()
    pool = await asyncpg.create_pool(dsn, min_size=1)
    await pool.close()
    for db in (connection, pool):
        for call in (
            get_memory(db, 1, 1),
            delete_memory(db, 1, 1),
            add_memories(db, 1, [{"content": "x"}]),
        ):
            with pytest.raises(Unavailable):
                await call


async def test_an_unbounded_transaction_lifts_the_timeouts_for_itself_alone(dsn):
    async with connect(dsn, max_size=1, timeout=5) as db:
        async with db.transaction(unbounded=True) as conn:
            assert await conn.fetchval("SHOW statement_timeout") == "0"
            assert conn.bound is not None
            assert conn.bound > 80_000
        async with db.transaction() as conn:
            assert await conn.fetchval("SHOW statement_timeout") == "5s"
            assert conn.bound == 5


async def test_what_is_set_in_a_transaction_is_reset(dsn):
    async with connect(dsn, max_size=1) as db:
        async with db.transaction() as conn:
            await conn.execute("SET search_path = nowhere")
        assert await search_memories(db, 1) == []


@pytest.mark.parametrize("tracking", ["deferred", "immediate"])
async def test_a_read_succeeds_where_accesses_cannot_be_recorded(own_dsn, caplog, tracking):
    async with connect(own_dsn) as db:
        memory = await add_memory(db, 1, "x")
        async with db.transaction() as conn:
            name = await conn.fetchval("SELECT current_database()")
            await conn.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
    async with connect(own_dsn, access_tracking=tracking) as db:
        assert await get_memory(db, 1, memory.id) is not None
        with pytest.raises(Unavailable, match="read-only"):
            await add_memory(db, 1, "y")
    assert "1 accesses were not recorded: the server is read-only" in caplog.text


async def test_an_exhausted_pool_fails_within_the_deadline(dsn):
    async with connect(dsn, max_size=1) as db, db.transaction():
        with impatient(db):
            with pytest.raises(Unavailable):
                await get_memory(db, 1, 1)
            with pytest.raises(Unavailable):
                async with db.transaction():
                    pass
        assert db.stats().waiting == 0
    assert db.stats().open == 0


async def test_a_silent_network_fails_within_the_deadline_and_heals(dsn):
    async with wire(dsn) as proxy, connect(proxy.dsn, max_size=4) as db:
        proxy.swallowing = True
        with impatient(db):
            outcomes = await asyncio.gather(
                *(search_memories(db, 1) for _ in range(12)), return_exceptions=True
            )
        assert all(isinstance(outcome, Unavailable) for outcome in outcomes)
        proxy.swallowing = False
        assert await asyncio.gather(*(search_memories(db, 1) for _ in range(12))) == [[]] * 12
        proxy.cut()  # or closing waits for the answers of those that were swallowed


async def test_a_read_is_repeated_on_a_new_connection_and_a_write_is_not(dsn):
    async with wire(dsn) as proxy, connect(proxy.dsn, max_size=2, access_tracking="off") as db:
        memory = await add_memory(db, 1, "x")

        async def during_a_cut(call):
            """The connection is reset while the statement waits for a lock."""
            async with other.transaction():
                await other.execute("LOCK TABLE ltm_memories IN ACCESS EXCLUSIVE MODE")
                task = asyncio.ensure_future(call)
                while not await other.fetchval(WAITING):
                    assert not task.done()
                proxy.cut()
            return await asyncio.wait_for(task, 60)

        other = await asyncpg.connect(dsn)
        assert await during_a_cut(get_memory(db, 1, memory.id)) is not None
        keyed = await during_a_cut(add_memory(db, 1, "y", idempotency_key="k"))
        assert keyed.content == "y"
        with pytest.raises(Unavailable):
            await during_a_cut(add_memory(db, 1, "z"))
        with pytest.raises(Unavailable):
            await during_a_cut(update_memory(db, 1, memory.id, content="z"))
        await other.close()
        assert len([m for m in await search_memories(db, 1) if m.content == "y"]) == 1


async def test_terminated_backends_are_replaced(own_dsn):
    async with connect(own_dsn) as db:
        for _ in range(5):
            async with db.transaction() as conn:
                await conn.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                    "WHERE datname = current_database() AND pid <> pg_backend_pid()"
                )
            assert await search_memories(db, 1) == []
        assert db.stats().open <= db.stats().max_size


async def test_cancelled_calls_leak_nothing(dsn):
    async with connect(dsn, max_size=4, access_tracking="off") as db:
        memory = await add_memory(db, 1, "x")

        async def work(n):
            async with db.transaction() as conn:
                await update_memory(conn, 1, memory.id, metadata={f"k{n % 7}": n})
                await get_memory(conn, 1, memory.id)

        tasks = [asyncio.ensure_future(work(n)) for n in range(200)]
        for n, task in enumerate(tasks):
            if n % 4:
                asyncio.get_running_loop().call_later(n * 0.0005, task.cancel)
        await asyncio.wait(tasks)
        assert all(task.cancelled() or task.exception() is None for task in tasks)
        stats = db.stats()
        assert (stats.idle, stats.waiting) == (stats.open, 0)
        assert await get_memory(db, 1, memory.id) is not None
        async with db.transaction() as conn:
            busy = await conn.fetchval(
                "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() "
                "AND pid <> pg_backend_pid() AND state LIKE 'idle in transaction%'"
            )
        assert busy == 0


async def test_closing_is_bounded_when_the_server_is_silent(dsn):
    async with wire(dsn) as proxy:
        db = await connect(proxy.dsn, min_size=3)
        proxy.swallowing = True
        with impatient(db):
            await db.close()
        await db.close()
    with pytest.raises(Unavailable):
        await get_memory(db, 1, 1)


def unused_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def test_a_missing_server_is_unavailable():
    with pytest.raises(Unavailable, match="refused"):
        await connect(f"postgresql://nobody@127.0.0.1:{unused_port()}/none", timeout=DEADLINE)
    with pytest.raises(Unavailable):
        await connect("postgresql:///none?host=/nowhere", timeout=DEADLINE)


async def test_a_missing_database_or_role_is_unavailable(server):
    with pytest.raises(Unavailable, match="no such database"):
        await connect(with_database(server, "no_such_database"))


@pytest.mark.parametrize(
    "dsn", ["postgresql://x@h:abc/x", "postgresql://x@a..b/x", "mysql://x/y", "127.0.0.1/x"]
)
async def test_a_dsn_that_cannot_be_read_is_refused(dsn):
    with pytest.raises((InvalidArgument, Unavailable)):
        await connect(dsn, timeout=DEADLINE)


async def test_what_is_no_postgresql_is_unavailable():
    async def babble(reader, writer):
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(babble, "127.0.0.1", 0) as web:
        port = web.sockets[0].getsockname()[1]
        with pytest.raises(Unavailable):
            await connect(f"postgresql://x@127.0.0.1:{port}/x", timeout=DEADLINE)


async def test_an_unmigrated_database_is_named_when_it_is_used(empty):
    async with connect(empty, check_schema=False) as db:
        with pytest.raises(SchemaOutdated):
            await add_memory(db, 1, "x")


async def test_the_dsn_comes_from_the_environment_when_called(dsn, monkeypatch):
    monkeypatch.setenv("DATABASE_URL", "postgresql://nobody@127.0.0.1:1/none")
    monkeypatch.setenv("LTM_DATABASE_URL", dsn.replace("postgresql://", "postgresql+asyncpg://"))
    async with connect() as db:
        await add_memory(db, 1, "x")


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("access_tracking", "sometimes"),
        ("max_size", 0),
        ("min_size", 99),
        ("timeout", 0),
        ("timeout", float("inf")),
        ("timeout", None),
        ("timeout", "5"),
        ("timeout", True),
        ("max_lag", 0),
        ("max_lag", "1"),
        ("max_size", 1.5),
        ("tracer_provider", 5),
        ("meter_provider", 5),
    ],
)
def test_options_that_make_no_sense_are_refused(option, value):
    field = "max_size" if option == "min_size" else option
    with pytest.raises(InvalidArgument, match=f"^{field}:"):
        connect("postgresql://x", **{option: value})


def test_a_dsn_that_is_no_text_is_refused():
    odd: Any = 5
    with pytest.raises(InvalidArgument, match="^dsn: should be text"):
        connect(odd)


async def test_pooler_mode_prepares_and_sets_nothing(dsn):
    async with connect(dsn, pgbouncer=True) as db:
        memory = await add_memory(db, 1, "x")
        assert await get_memory(db, 1, memory.id) is not None
        async with db.transaction() as conn:
            prepared = await conn.fetchval("SELECT count(*) FROM pg_prepared_statements")
            timeout = await conn.fetchval("SHOW statement_timeout")
    assert (prepared, timeout) == (0, "0")
