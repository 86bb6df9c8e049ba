"""Calls of one event loop that wait together share a statement, and nothing else."""

import asyncio
import logging
from collections import Counter
from contextlib import asynccontextmanager
from contextvars import ContextVar
from datetime import UTC, datetime, timedelta

import asyncpg
import pytest

from ltm_store import (
    InvalidArgument,
    LtmError,
    Unavailable,
    access_history,
    add_memory,
    archive_memory,
    connect,
    delete_memory,
    get_memories,
    get_memory,
)

JUNE = datetime(2026, 6, 1, tzinfo=UTC)
LARGE = 100_000  # bytes
SHORT = 0.2  # seconds


class Statements(logging.Handler):
    """What the log tells of each statement, and the value of a variable at that moment."""

    def __init__(self, variable: ContextVar[str] | None = None) -> None:
        super().__init__(logging.DEBUG)
        self._variable = variable
        self.names: list[str] = []
        self.rows: list[int] = []
        self.values: list[str | None] = []

    def emit(self, record):
        name, rows, _ = record.args
        self.names.append(name)
        self.rows.append(rows)
        self.values.append(self._variable.get(None) if self._variable else None)


@pytest.fixture
def statements():
    handler = Statements()
    yield from listening(handler)


def listening(handler):
    log = logging.getLogger("ltm_store.statements")
    log.addHandler(handler)
    log.setLevel(logging.DEBUG)
    yield handler
    log.removeHandler(handler)
    log.setLevel(logging.NOTSET)


@asynccontextmanager
async def locked(dsn):
    """Let every read and write of memories wait, until the block ends."""
    other = await asyncpg.connect(dsn)
    async with other.transaction():
        await other.execute("LOCK TABLE ltm_memories IN ACCESS EXCLUSIVE MODE")
        yield other
    await other.close()


async def waiting(other, count):
    """Return when this many statements wait for a lock."""
    while await other.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted") < count:
        pass


async def memories_of_many(db):
    """Ids by what they are: of three users, archived, expired, large, deleted."""
    ids = {}
    for user in (1, 2, "alice"):
        for n in range(5):
            memory = await add_memory(
                db,
                user,
                f"{user} says {n}",
                tags=["a", f"t{n}"],
                metadata={"n": n},
                enhanced_context={"spatial": {"city": "Graz"}},
                importance_score=n + 1,
            )
            ids[user, n] = memory.id
    await archive_memory(db, 1, ids[1, 4])
    ids[1, "large"] = (await add_memory(db, 1, "x" * LARGE)).id
    ids[1, "verbose"] = (await add_memory(db, 1, "x", metadata={"a": ["word"] * 20_000})).id
    ids[1, "expired"] = (await add_memory(db, 1, "x", expires_at=JUNE)).id
    gone = await add_memory(db, 1, "x")
    await delete_memory(db, 1, gone.id)
    ids[1, "gone"] = gone.id
    return ids


async def test_each_call_gets_what_it_gets_alone(dsn, statements):
    """Of any user: own, foreign, missing, expired, large ones, at moments of their own."""
    async with connect(dsn, access_tracking="off", coalesce=False) as db:
        ids = list((await memories_of_many(db)).values())
        moments = [JUNE - timedelta(days=1), JUNE + timedelta(days=400)]
        asked = [(u, i, t) for u in (1, 2, "alice", "bob") for i in ids for t in moments]
        alone = [await get_memory(db, user, i, as_of=t) for user, i, t in asked]
        some = [(user, ids[n:][:9] + ids[:2]) for user in (1, 2, "alice") for n in range(len(ids))]
        listed = [await get_memories(db, user, numbers) for user, numbers in some]
    async with connect(dsn, access_tracking="off") as db:
        await get_memory(db, "alice", 1)
        statements.names.clear()
        together = await asyncio.gather(*(get_memory(db, u, i, as_of=t) for u, i, t in asked))
        lists = await asyncio.gather(*(get_memories(db, *call) for call in some))
    assert together == alone
    assert [[m.id for m in found] for found in lists] == [[m.id for m in found] for found in listed]
    assert [m.enhanced_context for m in lists[0]] == [m.enhanced_context for m in listed[0]]
    counts = Counter(statements.names)
    assert counts["get_memories_together"] >= 3
    assert counts["get_memory"] < len(asked) / 3


@pytest.mark.parametrize("coalesce", [True, "writes", False])
async def test_calls_that_wait_together_share_statements_of_at_most_64(dsn, statements, coalesce):
    async with connect(dsn, access_tracking="off", coalesce=coalesce) as db:
        memories = [await add_memory(db, user, "x") for user in range(150)]
        statements.names.clear()
        found = await asyncio.gather(*(get_memory(db, m.user_id, m.id) for m in memories))
    assert [m.id for m in found] == [m.id for m in memories]
    if coalesce is False:
        assert statements.names == ["get_memory"] * 150
    else:
        assert len(statements.names) < 10
        assert statements.names.count("get_memories_together") >= 3  # 148 do not fit into two
    assert max(statements.rows) <= 64


async def test_a_lone_call_is_a_statement_of_its_own_at_once(db, statements):
    memory = await add_memory(db, 1, "x")
    statements.names.clear()
    for _ in range(5):
        await get_memory(db, 1, memory.id)
        await get_memories(db, 1, [memory.id])
    assert statements.names == ["get_memory", "get_memories"] * 5


async def test_a_large_memory_is_read_alone(db, statements):
    ids = await memories_of_many(db)
    large = [ids[1, "large"], ids[1, "verbose"]]
    statements.names.clear()
    calls = [
        *(get_memory(db, 1, ids[1, 0]) for _ in range(10)),
        *(get_memory(db, 1, i) for i in large),
    ]
    found = await asyncio.gather(*calls)
    assert [m.id for m in found[-2:]] == large
    counts = Counter(statements.names)
    assert counts["get_memory"] == 2 + len(large)


async def test_a_call_that_is_cancelled_leaves_the_others_their_statement(db, dsn):
    memories = [await add_memory(db, user, "x") for user in range(20)]
    async with locked(dsn) as other:
        tasks = [asyncio.ensure_future(get_memory(db, m.user_id, m.id)) for m in memories]
        await waiting(other, 3)
        for task in tasks[::2]:
            task.cancel()
        await asyncio.wait(tasks[::2])
    found = await asyncio.gather(*tasks[1::2])
    assert [m.id for m in found] == [m.id for m in memories[1::2]]
    assert all(task.cancelled() for task in tasks[::2])
    assert db.stats().waiting == 0


async def test_a_statement_whose_calls_are_all_cancelled_ends(db, dsn):
    memory = await add_memory(db, 1, "x")
    async with locked(dsn) as other:
        tasks = [asyncio.ensure_future(get_memory(db, 1, memory.id)) for _ in range(10)]
        await waiting(other, 3)
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        while await other.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted"):
            pass
    assert await get_memory(db, 1, memory.id) is not None


async def test_each_call_has_a_deadline_of_its_own(dsn):
    async with connect(dsn, min_size=10, access_tracking="off") as db:
        memories = [await add_memory(db, user, "x") for user in range(10)]

        def calls():
            return [asyncio.ensure_future(get_memory(db, m.user_id, m.id)) for m in memories]

        async with locked(dsn) as other:
            patient = calls()
            await asyncio.sleep(0)
            db.timeout = SHORT
            hasty = calls()
            await asyncio.sleep(0)
            db.timeout = 10.0
            await waiting(other, 3)
            for outcome in await asyncio.gather(*hasty, return_exceptions=True):
                assert isinstance(outcome, Unavailable)
            assert not any(task.done() for task in patient)
        found = await asyncio.gather(*patient)
    assert [m.id for m in found] == [m.id for m in memories]


async def test_an_error_is_the_calls_own(db, dsn):
    memories = [await add_memory(db, user, "x") for user in range(20)]
    other = await asyncpg.connect(dsn)
    await other.execute(
        "UPDATE ltm_memories SET expires_at = '2222-02-22Z' WHERE user_id = 7;"
        "CREATE OR REPLACE FUNCTION ltm_is_current(expires_at timestamptz, as_of timestamptz) "
        "RETURNS boolean LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $$ BEGIN "
        "RETURN expires_at IS NULL "
        "OR 1 / (CASE expires_at WHEN '2222-02-22Z' THEN 0 ELSE 1 END) = 1; "
        "END $$"
    )
    await other.close()
    outcomes = await asyncio.gather(
        *(get_memory(db, m.user_id, m.id) for m in memories), return_exceptions=True
    )
    refused = outcomes.pop(7)
    del memories[7]
    assert isinstance(refused, LtmError)
    assert [m.id for m in outcomes] == [m.id for m in memories]


async def test_a_shared_statement_runs_in_no_callers_context(db):
    memories = [await add_memory(db, user, "x") for user in range(20)]
    variable: ContextVar[str] = ContextVar("variable")
    handler = Statements(variable)

    async def call(memory):
        variable.set(f"of {memory.user_id}")
        return await get_memory(db, memory.user_id, memory.id), variable.get()

    for _ in listening(handler):
        found = await asyncio.gather(*map(call, memories))
    assert [value for _, value in found] == [f"of {user}" for user in range(20)]
    told = dict(zip(handler.names, handler.values, strict=True))
    assert told["get_memories_together"] is None
    assert told["get_memory"] is not None


@pytest.mark.parametrize("tracking", ["deferred", "immediate"])
async def test_accesses_are_tracked_for_each_call(dsn, tracking):
    async with connect(dsn, access_tracking=tracking) as db:
        memories = [await add_memory(db, user, "x") for user in range(3)]
        asked = [memories[n % 3] for n in range(30)]
        await asyncio.gather(
            *(
                get_memory(db, m.user_id, m.id, access_context=f"call {n}")
                for n, m in enumerate(asked)
            )
        )
        await get_memory(db, 1, memories[0].id)  # another user's
        await db.flush()
        for n, memory in enumerate(memories):
            history = await access_history(db, memory.user_id, memory.id)
            assert {access.access_context for access in history} == {
                f"call {k}" for k in range(n, 30, 3)
            }


async def test_a_call_sees_what_was_written_before_it(db):
    """However many wait, none joins a statement that was sent before it began."""

    async def add_and_get(user):
        memory = await add_memory(db, user, "x")
        found = [await get_memory(db, user, memory.id)]
        await delete_memory(db, user, memory.id)
        return [*found, await get_memory(db, user, memory.id)]

    for before, after in await asyncio.gather(*(add_and_get(user) for user in range(50))):
        assert before is not None
        assert after is None


async def test_a_transaction_and_a_callers_connection_share_nothing(db, dsn, statements):
    memory = await add_memory(db, 1, "x")
    statements.names.clear()
    async with db.transaction() as conn, asyncpg.create_pool(dsn, min_size=1, max_size=2) as pool:
        await get_memory(conn, 1, memory.id)
        await asyncio.gather(*(get_memory(pool, 1, memory.id) for _ in range(20)))
    assert "get_memories_together" not in statements.names
    assert statements.names.count("get_memory") == 21


async def test_another_event_loop_is_refused_while_calls_wait(db, dsn):
    memory = await add_memory(db, 1, "x")
    async with locked(dsn) as other:
        tasks = [asyncio.ensure_future(get_memory(db, 1, memory.id)) for _ in range(4)]
        await waiting(other, 3)
        with pytest.raises(LtmError, match="another event loop"):
            await asyncio.to_thread(lambda: asyncio.run(get_memory(db, 1, memory.id)))
    assert None not in await asyncio.gather(*tasks)


async def test_calls_that_wait_as_the_database_closes_end(dsn):
    async with connect(dsn, timeout=SHORT) as db, locked(dsn) as other:
        tasks = [asyncio.ensure_future(get_memory(db, 1, 1)) for _ in range(10)]
        await waiting(other, 3)
        await db.close()
        for outcome in await asyncio.gather(*tasks, return_exceptions=True):
            assert isinstance(outcome, Unavailable)


@pytest.mark.parametrize("coalesce", [None, "reads", "", 2])
async def test_another_choice_is_refused(dsn, coalesce):
    with pytest.raises(InvalidArgument, match="coalesce"):
        connect(dsn, coalesce=coalesce)
