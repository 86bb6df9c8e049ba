"""A call that is cancelled has done all or nothing, and leaves its connections in order."""

import asyncio
import random
import re
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import asyncpg
import pytest
from anthropic.lib.tools import BetaAsyncAbstractMemoryTool
from langgraph.store.base import PutOp

from ltm_store import (
    Database,
    add_memory,
    connect,
    count_memories,
    embed_memory,
    embedding_status,
    get_memory,
    index_user,
    make_access_partitions,
    merge_users,
)
from ltm_store.embedders import FunctionEmbedder
from ltm_store.integrations.claude import MemoryTool
from ltm_store.integrations.langgraph import LtmStore
from ltm_store.integrations.tools import DEFINITIONS, memory_tools
from ltm_store.meaning import embed_with
from tests import twins
from tests.conftest import DRAWS, created, has_vector
from tests.twins import CALLS, ELSEWHERE, FOR_ALL, FRIEND, HER

pytestmark = pytest.mark.slow

_DRAWN = random.Random(20)
HANG = 60  # seconds
SESSIONS = (
    "SELECT state FROM pg_stat_activity "
    "WHERE datname = current_database() AND application_name = 'ltm_store'"
)
INDEXES = (
    "SELECT indexrelid::regclass::text, indisvalid FROM pg_index "
    "JOIN pg_class AS c ON c.oid = indexrelid AND c.relname LIKE 'ltm_embeddings_hnsw_%'"
)
Call = Callable[[Any], Awaitable[object] | AsyncIterator[object]]

# -- the calls -----------------------------------------------------------------------------------


def _vectors(texts: object) -> list[list[float]]:
    return [[1.0, 2.0, 3.0] for _ in list(texts)]  # type: ignore[call-overload]


ALONE: dict[str, list[Call]] = {
    "embed_memory": [lambda db: embed_memory(db, HER, 3, [3.0, 1.0, 2.0])],
    "embed_missing": [lambda db: embed_with(db, FunctionEmbedder("another", 3, _vectors), HER)],
    "embedding_status": [lambda db: embedding_status(db)],
    "make_access_partitions": [lambda db: make_access_partitions(db)],
    "merge_users": [
        lambda db: merge_users(db, HER, FRIEND),
        lambda db: merge_users(db, FRIEND, HER),
    ],
}
"""Where tests/twins.py makes several calls or none, or one that makes a user first."""
IN_PARTS = {"purge_expired"}
"""What does one user after the other, and is done when it is called again."""
OF_ITS_OWN = {"connect", "index_user"}
"""What other tests here cancel."""
FUNCTIONS: dict[str, list[Call]] = {**CALLS, **FOR_ALL, **ALONE}

TOOLS: dict[str, dict[str, object]] = {
    "recall": {"query": "tea"},
    "remember": {"content": "Likes figs", "tags": ["figs", "food"]},
    "get_memory": {"memory_id": 1},
    "update_memory": {"memory_id": 1, "content": "Likes figs", "tags": ["figs"]},
    "forget_memory": {"memory_id": 1},
    "relate_memories": {"source_memory_id": 4, "target_memory_id": 8},
    "list_tags": {},
    "recent_memories": {},
    "memory_stats": {},
}
NOTES = "/memories/agents/notes.md"
FILES: dict[str, dict[str, object]] = {
    "view": {"path": NOTES},
    "create": {"path": "/memories/more.md", "file_text": "One\n"},
    "str_replace": {"path": NOTES, "old_str": "Two", "new_str": "Three"},
    "insert": {"path": NOTES, "insert_line": 1, "insert_text": "And\n"},
    "delete": {"path": "/memories/agents"},
    "rename": {"old_path": "/memories/agents", "new_path": "/memories/others"},
}
LANGGRAPH: list[Call] = [  # its sweep_ttl is purge_expired
    lambda store: store.aget((HER, "agents", "cook"), "soup"),
    lambda store: store.aput((HER, "agents", "cook"), "soup", {"of": "peas"}),
    lambda store: store.adelete((HER, "agents", "cook"), "soup"),
    lambda store: store.asearch((HER, "agents"), query="soup"),
    lambda store: store.alist_namespaces(prefix=(HER,)),
    lambda store: store.abatch([PutOp((HER, "agents", "cook"), "soup", {"of": "peas"})]),
]


def test_every_call_is_cancelled():
    assert set(FUNCTIONS) | OF_ITS_OWN == {*CALLS, *FOR_ALL, *ELSEWHERE}
    assert set(TOOLS) == {tool.name for tool in DEFINITIONS}
    assert set(FILES) == BetaAsyncAbstractMemoryTool.__abstractmethods__


# -- what is left of one -------------------------------------------------------------------------


@dataclass
class Scene:
    """What calls run on, and who looks at what one leaves."""

    db: Database
    untracked: Database
    pool: asyncpg.Pool
    look: asyncpg.Connection
    rows: str  # SQL
    restore: str  # SQL
    before: frozenset[str] = frozenset()
    memories: int = 0

    @classmethod
    async def of(
        cls, db: Database, untracked: Database, pool: asyncpg.Pool, look: asyncpg.Connection
    ) -> "Scene":
        near = (
            datetime.now(UTC) + timedelta(days=n) for n in (-1, 0, 1)
        )  # today in every time zone
        days = "|".join(f"{day:%Y-%m-%d}" for day in near)
        rows, restored = [], [twins._RESTART]
        await look.execute("SET session_replication_role = replica")  # rows are copied as such
        for table, columns in await look.fetch(twins._COLUMNS):
            own = ", ".join(columns)
            await look.execute(f"CREATE TEMP TABLE kept_{table} AS SELECT * FROM {table}")
            restored += [
                f"DELETE FROM {table}",
                f"INSERT INTO {table} ({own}) SELECT {own} FROM kept_{table}",
            ]
            vectors = "embedding IS NOT NULL" if table == "ltm_embeddings" else "TRUE"
            rows.append(
                f"SELECT '{table} ' || regexp_replace(to_jsonb(t)::text, "
                f"'\"({days})[T ][^\"]*', '', 'g') AS line FROM {table} AS t WHERE {vectors}"
            )
        scene = cls(db, untracked, pool, look, " UNION ALL ".join(rows), "; ".join(restored))
        await look.execute(scene.restore)
        scene.before = await scene.state()
        scene.memories = await count_memories(db, HER)
        return scene

    async def state(self) -> frozenset[str]:
        """The rows of all tables, in which what is of today is always the same."""
        return frozenset(row[0] for row in await self.look.fetch(self.rows))

    async def left(self) -> frozenset[str]:
        """What is there once every session is idle in its pool; let all be as before."""
        async with asyncio.timeout(HANG):
            while not await self._is_quiet():
                pass
        left = await self.state()
        if left != self.before:
            await self.look.execute(self.restore)
            for db in (self.db, self.untracked):
                db.external_users.clear()
        else:
            await self.look.execute(twins._RESTART)
        return left

    async def _is_quiet(self) -> bool:
        states = [row[0] for row in await self.look.fetch(SESSIONS)]
        stats = [db.stats() for db in (self.db, self.untracked)]
        sessions = sum(one.open for one in stats) + self.pool.get_size()
        idle = sum(one.idle for one in stats) + self.pool.get_idle_size()
        return sessions == idle and states == ["idle"] * idle

    async def all_or_nothing(
        self,
        call: Call,
        *on: object,
        then: Callable[[], Awaitable[object]] | None = None,
        seen: Callable[[frozenset[str]], object] = lambda rows: rows,
    ) -> None:
        """Cancel a call at some moments on each of these, and look after what `then` does.

        seen: what of the rows is the same after each call that was not cancelled.
        """
        task = asyncio.ensure_future(_given(call, on[0]))
        turns = 0
        while not task.done():
            await asyncio.sleep(0)
            turns += 1
        await task
        ends = seen(self.before), seen(await self.left())
        for db in on * DRAWS:
            moment = _DRAWN.randrange(turns)
            await _cancelled(_given(call, db), moment)
            if then is not None:
                await then()
            left = await self.left()
            assert seen(left) in ends, f"cancelled after {moment} of {turns} turns"
            assert await count_memories(self.db, HER) == self.memories


async def _cancelled(call: Coroutine[Any, Any, object], turns: int) -> None:
    """Cancel a call after so many turns of the event loop; one that ended before must be well."""
    task = asyncio.ensure_future(call)
    for _ in range(turns):
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])
    if not task.cancelled():
        await task


async def _given(call: Call, db: object) -> object:
    found = call(db)
    return await found if isinstance(found, Awaitable) else [one async for one in found]


@pytest.fixture(scope="module")
async def scene(admin: asyncpg.Connection, server: str, template: str) -> AsyncIterator[Scene]:
    async for dsn in created(admin, server, template):
        look = await asyncpg.connect(dsn)
        await twins.build(look, twins=False, vectors=await has_vector(admin))
        async with (
            connect(dsn, access_tracking="immediate", max_size=2) as db,
            connect(dsn, access_tracking="off", max_size=2) as untracked,
            asyncpg.create_pool(
                dsn, min_size=1, max_size=2, server_settings={"application_name": "ltm_store"}
            ) as pool,
        ):
            for path in (NOTES, "/memories/agents/plans.md"):
                await MemoryTool(db, HER).call(
                    {"command": "create", "path": path, "file_text": "One\nTwo\n"}
                )
            yield await Scene.of(db, untracked, pool, look)
        await look.close()


@pytest.mark.parametrize("name", FUNCTIONS)
async def test_a_cancelled_call_has_done_all_or_nothing(
    scene: Scene, admin: asyncpg.Connection, name: str
) -> None:
    if name in twins.VECTORS and not await has_vector(admin):
        pytest.skip("the server lacks the extension vector")
    for call in FUNCTIONS[name]:
        again = partial(_given, call, scene.db) if name in IN_PARTS else None
        seen = _owners if name == "merge_users" else frozenset
        await scene.all_or_nothing(call, scene.db, scene.pool, then=again, seen=seen)


def _owners(rows: frozenset[str]) -> Counter[tuple[str, str]]:
    """How many rows of each table each user has: who gets which new number is chance."""
    found = [(row.split()[0], re.search(r'"user_id": (-?\d+)', row)) for row in rows]
    return Counter((table, owner[1]) for table, owner in found if owner)


async def test_a_tool_of_a_model_that_is_cancelled_has_done_all_or_nothing(scene: Scene):
    for tool in memory_tools(scene.untracked, HER):
        await scene.all_or_nothing(lambda tool: tool.call(TOOLS[tool.name]), tool)
    files = MemoryTool(scene.untracked, HER)
    for name, given in FILES.items():
        await scene.all_or_nothing(partial(_said, {"command": name, **given}), files)
    await scene.all_or_nothing(lambda files: files.clear_all_memory(), files)


def _said(command: dict[str, object], files: MemoryTool) -> Awaitable[object]:
    return files.call(command)


async def test_a_call_of_langgraph_that_is_cancelled_has_done_all_or_nothing(scene: Scene):
    store = LtmStore(scene.untracked)
    for call in LANGGRAPH:
        # What is waited for is done by a task of the store's, one batch after the other.
        await scene.all_or_nothing(call, store, then=lambda: store.aget((HER, "none"), "none"))
    await store.aclose()


async def test_opening_and_closing_that_are_cancelled_leave_no_session(dsn, monkeypatch):
    # A connection that is not given back would be waited for.
    monkeypatch.setattr("ltm_store.database.CLOSE_SECONDS", 2 * HANG)
    look = await asyncpg.connect(dsn)
    recorded = opened = 0
    for turns in (0, 1, 3, 10, 30, 100, 200, 400, 800, 1200):
        opened += 1
        async with asyncio.timeout(HANG):
            db = connect(dsn, min_size=2, timeout=2 * HANG)
            await _cancelled(db._open(), turns)
            await db.close()
            async with connect(dsn, timeout=2 * HANG) as db:
                memory = await add_memory(db, 1, "x")
                await get_memory(db, 1, memory.id)
                await _cancelled(db.flush(), turns)
                await _cancelled(db.close(), turns)
            figures = db.stats()
            assert (figures.queued, figures.recorded + figures.dropped) == (0, 1)
            recorded += figures.recorded
            while await look.fetchval(SESSIONS):
                pass
    # Of what was being written as the closing was cancelled nobody knows.
    assert recorded <= await look.fetchval("SELECT count(*) FROM ltm_memory_access") <= opened
    await look.close()


async def test_an_index_whose_making_was_cancelled_is_made_by_the_next_call(scene: Scene, vectors):
    for turns in (50, 300, 800, 1500):
        await _cancelled(index_user(scene.db, HER), turns)
        assert await index_user(scene.db, HER)
        ((name, is_valid),) = await scene.look.fetch(INDEXES)
        assert is_valid
        await scene.look.execute(f"DROP INDEX {name}")
    await scene.left()
