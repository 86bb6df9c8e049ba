"""Calls of one event loop that wait together share a statement, and nothing else."""

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Iterable
from contextlib import asynccontextmanager
from contextvars import ContextVar
from datetime import UTC, datetime, timedelta
from threading import Thread
from typing import Any

import asyncpg
import pytest

from ltm_store import (
    Database,
    InvalidArgument,
    InvalidMemory,
    LtmError,
    Memory,
    Unavailable,
    access_history,
    add_memory,
    archive_memory,
    connect,
    delete_memory,
    forget_user,
    get_memories,
    get_memory,
    search_memories,
)
from ltm_store.database import Coalesce
from tests.locks import WAITING
from tests.servers import local_alone
from tests.wire import wire

JUNE = datetime(2026, 6, 1, tzinfo=UTC)
LARGE = 100_000  # bytes
SHORT = 0.2  # seconds
HANG = 5.0


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


def ids_of(memories: Iterable[Memory | BaseException | None]) -> list[int]:
    assert all(isinstance(memory, Memory) for memory in memories)
    return [memory.id for memory in memories if isinstance(memory, Memory)]


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
    while await other.fetchval(WAITING) < count:
        pass


async def memories_of_many(db: Database) -> dict[tuple[int | str, int | str], int]:
    """Ids by what they are: of three users, archived, expired, large, deleted."""
    ids: dict[tuple[int | str, int | str], int] = {}
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


@local_alone
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


@local_alone
@pytest.mark.parametrize("coalesce", [True, "writes", False])
async def test_calls_that_wait_together_share_statements_of_at_most_64(dsn, statements, coalesce):
    async with connect(dsn, access_tracking="off", coalesce=coalesce) as db:
        memories = [await add_memory(db, user, "x") for user in range(150)]
        statements.names.clear()
        found = await asyncio.gather(*(get_memory(db, m.user_id, m.id) for m in memories))
    assert ids_of(found) == ids_of(memories)
    if coalesce is False:
        assert statements.names == ["get_memory"] * 150
    else:
        assert len(statements.names) < 10
        assert statements.names.count("get_memories_together") >= 3  # 148 do not fit into two
    assert max(statements.rows) <= 64


@local_alone
async def test_calls_that_ask_for_many_memories_share_smaller_statements(db, statements):
    ids = [(await add_memory(db, 1, f"note {n}")).id for n in range(60)]
    statements.names.clear()
    statements.rows.clear()
    for found in await asyncio.gather(*(get_memories(db, 1, ids) for _ in range(20))):
        assert ids_of(found) == ids
    assert len(statements.names) < 10
    assert max(statements.rows) == 240


async def test_a_lone_call_is_a_statement_of_its_own_at_once(db, statements):
    memory = await add_memory(db, 1, "x")
    statements.names.clear()
    for _ in range(5):
        await get_memory(db, 1, memory.id)
        await get_memories(db, 1, [memory.id])
    assert statements.names == ["get_memory", "get_memories"] * 5


@local_alone
async def test_a_large_memory_is_read_alone(db, statements):
    ids = await memories_of_many(db)
    large = [ids[1, "large"], ids[1, "verbose"]]
    statements.names.clear()
    calls = [
        *(get_memory(db, 1, ids[1, 0]) for _ in range(10)),
        *(get_memory(db, 1, i) for i in large),
    ]
    found = await asyncio.gather(*calls)
    assert ids_of(found[-2:]) == large
    counts = Counter(statements.names)
    assert counts["get_memory"] == 2 + len(large)


@local_alone
async def test_a_call_that_is_cancelled_leaves_the_others_their_statement(db, dsn, statements):
    memories = [await add_memory(db, user, "x") for user in range(20)]
    async with locked(dsn) as other:
        tasks = [asyncio.ensure_future(get_memory(db, m.user_id, m.id)) for m in memories]
        await waiting(other, 3)
        for task in tasks[::2]:
            task.cancel()
        await asyncio.wait(tasks[::2])
    found = await asyncio.gather(*tasks[1::2])
    assert ids_of(found) == ids_of(memories[1::2])
    assert all(task.cancelled() for task in tasks[::2])
    assert statements.names.count("get_memory") == 1  # the second; the first is cancelled


@local_alone
@pytest.mark.parametrize("turns", range(1, 5))
async def test_a_call_that_is_cancelled_as_it_gathers_leaves_the_others_their_statement(dsn, turns):
    """Those of other users too, whose statement goes after that of this user would have gone."""
    async with connect(dsn, access_tracking="off", coalesce="writes") as db:
        async with locked(dsn) as other:
            ahead = [asyncio.ensure_future(add_memory(db, 3, "x")) for _ in range(2)]
            await waiting(other, 2)
            tasks = [asyncio.ensure_future(add_memory(db, user, "x")) for user in (1, 2, 2)]
            for _ in range(turns):
                await asyncio.sleep(0)
            tasks[0].cancel()
        async with asyncio.timeout(HANG):
            await asyncio.wait([*ahead, *tasks])
        assert tasks[0].cancelled()
        added = await asyncio.gather(*ahead, *tasks[1:])
        assert [memory.user_id for memory in added] == [3, 3, 2, 2]


async def test_a_statement_whose_calls_are_all_cancelled_ends(db, dsn):
    memory = await add_memory(db, 1, "x")
    async with locked(dsn) as other:
        tasks = [asyncio.ensure_future(get_memory(db, 1, memory.id)) for _ in range(10)]
        await waiting(other, 3)
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        async with asyncio.timeout(HANG):
            while await other.fetchval(WAITING):
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
    assert ids_of(found) == ids_of(memories)


async def test_an_error_is_the_calls_own(own_dsn):
    async with connect(own_dsn) as db:
        memories = [await add_memory(db, user, "x") for user in range(20)]
    other = await asyncpg.connect(own_dsn)
    await other.execute(
        "UPDATE ltm_memories SET expires_at = '2222-02-22Z' WHERE user_id = 7;"
        "CREATE OR REPLACE FUNCTION ltm_is_current(expires_at timestamptz, as_of timestamptz) "
        "RETURNS boolean LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $$ BEGIN "
        "RETURN expires_at IS NULL "
        "OR 1 / (CASE expires_at WHEN '2222-02-22Z' THEN 0 ELSE 1 END) = 1; "
        "END $$"
    )
    await other.close()
    async with connect(own_dsn, access_tracking="off") as db:
        outcomes = await asyncio.gather(
            *(get_memory(db, m.user_id, m.id) for m in memories), return_exceptions=True
        )
    refused = outcomes.pop(7)
    del memories[7]
    assert isinstance(refused, LtmError)
    assert ids_of(outcomes) == ids_of(memories)


@local_alone
async def test_a_shared_statement_runs_in_no_callers_context(db):
    memories = [await add_memory(db, user, "x") for user in range(150)]
    variable: ContextVar[str] = ContextVar("variable")
    handler = Statements(variable)

    async def call(memory):
        variable.set(f"of {memory.user_id}")
        return await get_memory(db, memory.user_id, memory.id), variable.get()

    for _ in listening(handler):
        found = await asyncio.gather(*map(call, memories))
    assert [value for _, value in found] == [f"of {user}" for user in range(150)]
    told = list(zip(handler.names, handler.values, strict=True))
    assert {value for name, value in told if name == "get_memories_together"} == {None}
    assert ("get_memory", "of 0") in told


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


async def test_a_call_of_another_event_loop_does_not_wait_with_those_of_this_one(dsn):
    async with connect(dsn, min_size=3) as db:
        memory = await add_memory(db, 1, "x")
        tasks = [asyncio.ensure_future(get_memory(db, 1, memory.id)) for _ in range(4)]
        await asyncio.sleep(0)
        outcomes: list[object] = []

        def elsewhere():
            call = asyncio.wait_for(get_memory(db, 1, memory.id), HANG)
            outcomes.append(asyncio.run(caught(call)))

        thread = Thread(target=elsewhere)
        thread.start()
        thread.join()  # while this loop stands still
        assert "another event loop" in str(outcomes[0])
        assert None not in await asyncio.gather(*tasks)


async def caught(call: Awaitable[object]) -> object:
    (outcome,) = await asyncio.gather(call, return_exceptions=True)
    return outcome


async def test_calls_that_wait_as_the_database_closes_end(dsn):
    async with connect(dsn, timeout=SHORT) as db, locked(dsn) as other:
        tasks = [asyncio.ensure_future(get_memory(db, 1, 1)) for _ in range(10)]
        await waiting(other, 3)
        await db.close()
        for outcome in await asyncio.gather(*tasks, return_exceptions=True):
            assert isinstance(outcome, Unavailable)


@pytest.mark.parametrize("coalesce", [None, "reads", "", 2])
async def test_another_choice_is_refused(dsn, coalesce: Any):
    with pytest.raises(InvalidArgument, match="coalesce"):
        connect(dsn, coalesce=coalesce)


SPOKEN = {"temporal": {"season": "spring", "confidence": 0.5}, "spatial": {"city": "Graz"}}


def additions(first, parent):
    """The keywords of adds: each field given and not."""
    for n in range(24):
        yield {
            "content": f"note {n // 2}",
            "tags": [f"t{k}" for k in range(n % 4)],
            "importance_score": n % 10 + 1,
            "confidence_score": n / 24,
            "context": "spoken" if n % 3 else None,
            "enhanced_context": SPOKEN if n % 4 else None,
            "memory_type": "fact" if n % 5 else None,
            "category": "work" if n % 2 else None,
            "source_type": "manual" if n % 3 else None,
            "source_id": f"talk {n}" if n % 7 else None,
            "source_position": n if n % 3 else None,
            "created_by": "me" if n % 2 else None,
            "metadata": {"n": n} if n % 3 else None,
            "related_memory_ids": [first, parent][: n % 3],
            "parent_memory_id": parent if n % 2 else None,
            "created_at": JUNE + timedelta(hours=n),
            "expires_at": JUNE + timedelta(days=40_000) if n % 5 else None,
        }


STORED = {
    "memories": "SELECT m.*, p.content AS parent FROM ltm_memories AS m "
    "LEFT JOIN ltm_memories AS p ON p.id = m.parent_memory_id ORDER BY m.created_at",
    "contexts": "SELECT m.created_at AS of, c.* FROM ltm_contexts AS c "
    "JOIN ltm_memories AS m ON m.id = c.memory_id ORDER BY 1, c.context_type, c.context_key",
    "tags": "SELECT m.created_at AS of, t.* FROM ltm_memory_tags AS t "
    "JOIN ltm_memories AS m ON m.id = t.memory_id ORDER BY 1, t.tag_name",
    "relationships": "SELECT m.created_at AS of, t.content AS target, r.* "
    "FROM ltm_memory_relationships AS r JOIN ltm_memories AS m ON m.id = r.source_memory_id "
    "JOIN ltm_memories AS t ON t.id = r.target_memory_id ORDER BY 1, 2",
}
OF_THE_RUN = {"id", "user_id", "memory_id", "parent_memory_id", "related_memory_ids"}
OF_THE_RUN |= {"source_memory_id", "target_memory_id", "last_modified", "dynamic_importance"}


async def rows_of(dsn, user):
    """What is stored of the user's memories of June 2026, but for ids and the present moment."""
    connection = await asyncpg.connect(dsn)
    rows = {}
    for table, query in STORED.items():
        of_june = f" WHERE m.user_id = {user} AND m.created_at < '2026-07-01' ORDER BY"
        found = await connection.fetch(query.replace(" ORDER BY", of_june))
        own = {"created_at"} if table in ("contexts", "relationships") else set()
        rows[table] = [{k: v for k, v in row.items() if k not in OF_THE_RUN | own} for row in found]
    await connection.close()
    return rows


@local_alone
@pytest.mark.parametrize("users", [(1, 2), ("alice", "bob")])
async def test_adds_that_wait_together_store_what_each_stores_alone(dsn, statements, users):
    stored = []
    choices: tuple[Coalesce, Coalesce] = (False, "writes")
    for user, coalesce in zip(users, choices, strict=True):
        async with connect(dsn, access_tracking="off", coalesce=coalesce) as db:
            first = await add_memory(db, user, "note 0")
            parent = await add_memory(db, user, "parent", tags=["t1"])
            calls = [add_memory(db, user, **new) for new in additions(first.id, parent.id)]
            if coalesce:
                statements.names.clear()
                added = await asyncio.gather(*calls)
            else:
                added = [await call for call in calls]
            again = [await get_memory(db, user, memory.id) for memory in added]
            stored.append((first.user_id, first.id, added))
        plain = {"outcome": None, "duplicate_of": None}
        assert [m.model_copy(update=plain | {"dynamic_importance": 0.0}) for m in added] == [
            m and m.model_copy(update={"dynamic_importance": 0.0}) for m in again
        ]
    assert statements.names.count("add_memories_together") >= 1
    assert statements.names.count("add_memory") <= 3
    (one, first_one, alone), (two, first_two, together) = stored
    for field in ("content", "tags", "metadata", "enhanced_context", "created_at", "outcome"):
        assert [getattr(m, field) for m in together] == [getattr(m, field) for m in alone]
    assert [m.related_memory_ids for m in together] == [
        tuple(i - first_one + first_two for i in m.related_memory_ids) for m in alone
    ]
    assert {m.duplicate_of for m in together[:2]} >= {first_two}
    rows = await rows_of(dsn, one)
    assert [len(found) for found in rows.values()] == [24, 36, 36, 24]
    assert await rows_of(dsn, two) == rows


@local_alone
@pytest.mark.parametrize("coalesce", [True, False])
async def test_adds_share_nothing_unless_asked_to(dsn, statements, coalesce):
    async with connect(dsn, coalesce=coalesce) as db:
        statements.names.clear()
        await asyncio.gather(*(add_memory(db, 1, "x") for _ in range(10)))
    assert statements.names == ["add_memory"] * 10


async def test_adds_of_several_users_or_with_keys_share_nothing(dsn, statements):
    async with connect(dsn, coalesce="writes") as db:
        await asyncio.gather(
            *(add_memory(db, user, "x") for user in range(10)),
            *(add_memory(db, 1, "x", idempotency_key=f"k{n % 3}") for n in range(10)),
        )
    assert "add_memories_together" not in statements.names
    assert statements.names.count("add_memory") == 20


async def test_a_refused_add_is_refused_alone(dsn):
    async with connect(dsn, coalesce="writes") as db:
        others = await add_memory(db, 2, "x")
        refused: dict[int, Any] = {
            3: {"parent_memory_id": 10**12},
            7: {"related_memory_ids": [others.id]},
        }
        outcomes = await asyncio.gather(
            *(add_memory(db, 1, f"note {n}", **refused.get(n, {})) for n in range(12)),
            return_exceptions=True,
        )
        fields = {n: o.field for n, o in enumerate(outcomes) if isinstance(o, InvalidMemory)}
        assert fields == {3: "parent_memory_id", 7: "related_memory_ids"}
        stored = await search_memories(db, 1, limit=100)
    assert sorted(m.content for m in stored) == sorted(
        f"note {n}" for n in range(12) if n not in refused
    )


async def test_adds_are_not_repeated_where_they_may_be_stored(dsn):
    async with wire(dsn) as proxy, connect(proxy.dsn, coalesce="writes") as db:
        async with locked(dsn) as other:
            tasks = [asyncio.ensure_future(add_memory(db, 1, "x")) for _ in range(10)]
            await waiting(other, 3)
            proxy.cut()
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(isinstance(outcome, Unavailable) for outcome in outcomes)
        assert len({id(outcome) for outcome in outcomes}) == 10
        other = await asyncpg.connect(dsn)
        assert await other.fetchval("SELECT count(*) FROM ltm_memories") <= 10
        await other.close()


async def test_adds_for_a_user_who_was_forgotten_meanwhile_are_stored_for_the_name(dsn):
    async with connect(dsn, coalesce="writes") as db, connect(dsn) as elsewhere:
        before = await add_memory(db, "alice", "x")
        await forget_user(elsewhere, "alice")
        added = await asyncio.gather(*(add_memory(db, "alice", "y") for _ in range(10)))
        assert before.user_id not in {memory.user_id for memory in added}
        assert len(await search_memories(elsewhere, "alice", limit=100)) == 10
