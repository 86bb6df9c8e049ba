"""`make bench`: what calls cost beside raw asyncpg, as ratios within one run, beside their bars.

A user with 100,000 memories, one with 10,000 and one with 2,000. `python -m tests.bench OTHERS`
adds users with so many memories in all and tells what that changes.
"""

import asyncio
import random
import statistics
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from io import BytesIO
from pathlib import Path
from typing import Any

import asyncpg
from rich.console import Console
from rich.table import Table

from ltm_store import (
    Database,
    add_memories,
    add_memory,
    check_health,
    connect,
    export_user,
    get_analytics,
    get_memory,
    get_relationships,
    import_user,
    iterate_memories,
    list_tags,
    migrate,
    relate,
    search_memories,
)
from ltm_store.database import Coalesce
from ltm_store.db.execute import fetch_value
from ltm_store.tracking import Tracking
from tests import servers
from tests.bench.recall import recall

ROUNDS, CALLS = 7, 150
LARGE, TYPICAL, SMALL = 1, 2, 3  # users
SIZES = {LARGE: 100_000, TYPICAL: 10_000, SMALL: 2_000}
WRITER, POPULAR, BULK, OTHERS = 11, 12, 13, 10_000  # users that start with nothing
TASKS, READS, ADDS, ROWS = 16, 80_000, 4_000, 10_000
STARTED = datetime(2025, 1, 1, tzinfo=UTC)
CONTEXT = {
    "temporal": {"timestamp": "2026-03-01T12:00:00+00:00"},
    "spatial": {"city": "Graz", "country": "Austria", "is_home": True},
    "social": {"mood": "calm"},
}
WRITTEN = {  # by a bulk load, without what follows from other columns
    "ltm_memories": "user_id, id, content, tags, memory_type, importance_score, context_data, "
    "memory_metadata, dynamic_importance, created_at, last_modified, source_type",
    "ltm_memory_tags": "user_id, memory_id, tag_name",
    "ltm_contexts": "user_id, memory_id, context_type, context_key, context_value",
}
NOTES = """
CREATE TABLE notes AS SELECT user_id, id, content, memory_type, importance_score AS importance,
    memory_metadata AS metadata, created_at FROM ltm_memories;
ALTER TABLE notes ADD PRIMARY KEY (user_id, id);
CREATE INDEX ON notes (user_id, importance DESC, id DESC);
CREATE TABLE edges AS SELECT user_id, source_memory_id AS source, target_memory_id AS target,
    strength FROM ltm_memory_relationships;
CREATE INDEX ON edges (user_id, source); CREATE INDEX ON edges (user_id, target);
"""
IDS = "SELECT id FROM ltm_memories WHERE user_id = $1 ORDER BY id"
NOTE = "n.id, n.content, n.memory_type, n.importance, n.metadata, n.created_at"
TOP = (
    f"SELECT {NOTE} FROM notes AS n WHERE n.user_id = $1 AND n.memory_type = $2 "
    "ORDER BY n.importance DESC, n.id DESC LIMIT 10"
)
RELATED = (
    f"SELECT {NOTE}, e.strength FROM edges AS e JOIN notes AS n ON n.user_id = $1 AND "
    "n.id = e.source + e.target - $2 WHERE e.user_id = $1 AND (e.source = $2 OR e.target = $2)"
)
INSERT = (
    "INSERT INTO ltm_memories (user_id, content, tags, context_data, related_memory_ids) "
    "VALUES ($1, $2, $3::text::jsonb, $4::text::jsonb, $5::text::jsonb) RETURNING id"
)
Call = Callable[[], Awaitable[object]]


def many(count: int) -> Iterator[dict[str, Any]]:
    """Lines to import: memories with three relationships, two tags and three fields of context."""
    drawn = random.Random(count)
    for n in range(1, count + 1):
        words = " and more words" * drawn.randint(1, 20)
        yield {
            "id": n,
            "content": f"memory {n} about {drawn.randbytes(16).hex()}{words}",
            "tags": [f"tag{drawn.randrange(50)}", f"rare{drawn.randrange(5000)}"],
            "memory_type": drawn.choice(("preference", "fact", "goal", "habit", "insight")),
            "category": f"category{drawn.randrange(12)}",
            "importance_score": drawn.randint(1, 10),
            "source_type": "conversation",
            "source_id": f"conversation{n // 20}",
            "source_position": n % 20,
            "created_at": STARTED + timedelta(days=drawn.randrange(600)),
            "metadata": {"n": n},
            "enhanced_context": {
                "temporal": {"month": drawn.randint(1, 12), "time_of_day": "morning"},
                "spatial": {"city": f"city{drawn.randrange(3000)}"},
            },
            "related_memory_ids": list(range(max(1, n - 3), n)),
            "access_count": drawn.randrange(17),
        }


class Rows(Table):
    """What was measured, beside its bar."""

    def __init__(self, title: str) -> None:
        super().__init__("what", "median", "ratio", "least-greatest", "bar", title=title)

    def times(self, what: str, rounds: Sequence[float], bar: str = "") -> None:
        """Seconds of a call."""
        self.add_row(what, f"{statistics.median(rounds) * 1e6:,.0f} us", "", "", bar)

    def ratio(
        self, what: str, rounds: Sequence[float], base: Sequence[float], bar: str, unit: str = "us"
    ) -> None:
        """Seconds of a call, or calls a second, beside those of another in the same rounds."""
        ratios = [own / other for own, other in zip(rounds, base, strict=True)]
        median = statistics.median(rounds) * (1e6 if unit == "us" else 1)
        spread = f"{min(ratios):.2f}-{max(ratios):.2f}"
        self.add_row(what, f"{median:,.0f} {unit}", f"{statistics.median(ratios):.2f}", spread, bar)


async def seconds(call: Awaitable[object]) -> float:
    """How long a call takes."""
    started = time.perf_counter()
    await call
    return time.perf_counter() - started


async def rounds(*calls: Call, each: int = CALLS) -> list[list[float]]:
    """The medians of each call's rounds; the calls take turns, so that noise meets them alike."""
    for call in calls:
        for _ in range(min(each, 20)):
            await call()
    medians: list[list[float]] = [[] for _ in calls]
    for _ in range(ROUNDS):
        for call, found in zip(calls, medians, strict=True):
            found.append(statistics.median([await seconds(call()) for _ in range(each)]))
    return medians


async def reads(db: Database, conn: asyncpg.Connection, rows: Rows) -> None:
    """Gets, relationships and lists, one call after another."""
    ids = [r["id"] for r in await conn.fetch(IDS, TYPICAL)]
    hubs = ids[100], ids[200]  # each of which has six
    for hub, others in zip(hubs, (ids[300:304], ids[300:314]), strict=True):
        for other in others:
            await relate(conn, TYPICAL, hub, other)
            await conn.execute("INSERT INTO edges VALUES ($1, $2, $3, .5)", TYPICAL, hub, other)
    row = await conn.fetchrow("SELECT * FROM ltm_memories WHERE user_id = $1 LIMIT 1", TYPICAL)
    columns = ", ".join(dict(row or {}))
    query = f"SELECT {columns} FROM ltm_memories WHERE user_id = $1 AND id = $2"
    raw, own, pooled, related = await rounds(
        lambda: conn.fetchrow(query, TYPICAL, hubs[0]),
        lambda: get_memory(conn, TYPICAL, hubs[0]),
        lambda: get_memory(db, TYPICAL, hubs[0]),
        lambda: get_memory(conn, TYPICAL, hubs[0], include_relationships=True),
    )
    rows.times("raw fetchrow of a memory", raw)
    rows.ratio("get_memory on a connection", own, raw, "1.2")
    rows.ratio("  through Database", pooled, raw, "1.3")
    rows.ratio("  with 10 relationships", related, raw, "2.4")
    raw, related = await rounds(
        lambda: conn.fetch(RELATED, TYPICAL, hubs[1]),
        lambda: get_relationships(conn, TYPICAL, hubs[1]),
    )
    rows.times("raw join of a memory's 20 edges", raw)
    rows.ratio("get_relationships, 20 edges", related, raw, "1.4")
    await top(conn, SMALL, "1.1", rows)
    await top(conn, LARGE, "1.8", rows)


async def top(conn: asyncpg.Connection, user: int, bar: str, rows: Rows) -> None:
    """The most important memories of a type."""
    raw, own = await rounds(
        lambda: conn.fetch(TOP, user, "fact"),
        lambda: search_memories(conn, user, memory_type="fact"),
    )
    rows.times(f"raw top 10 of a type of {SIZES[user]:,}", raw)
    rows.ratio("  search_memories", own, raw, bar)


async def large(conn: asyncpg.Connection, rows: Rows) -> None:
    """What a user with 100,000 memories pays for what touches many of them."""
    numbers = iter(range(SIZES[LARGE] // 2, SIZES[LARGE]))  # each of which one content holds
    calls: dict[str, tuple[Call, str]] = {
        "a common word": (lambda: search_memories(conn, LARGE, "more"), "3,000 us"),
        "a rare word": (
            lambda: search_memories(conn, LARGE, str(next(numbers))),
            "2,000 us",
        ),
        "list_tags": (lambda: list_tags(conn, LARGE), "90,000 us"),
        "metadata": (lambda: search_memories(conn, LARGE, metadata={"n": 40_000}), "1,000 us"),
        "get_analytics": (lambda: get_analytics(conn, LARGE), "100,000 us"),
        "check_health, of all": (lambda: check_health(conn), "1,500,000 us"),
    }
    for what, (call, bar) in calls.items():
        [found] = await rounds(call, each=60 if "word" in what or what == "metadata" else 2)
        rows.times(f"{what}, a user of {SIZES[LARGE]:,}", found, bar)


async def together(dsn: str, rows: Rows) -> None:
    """Gets of many tasks through a Database beside those through a pool of asyncpg."""
    async with (
        asyncpg.create_pool(dsn, min_size=TASKS, max_size=TASKS) as pool,
        connect(dsn, access_tracking="off", max_size=TASKS) as db,
    ):
        ids = [memory.id async for memory in iterate_memories(db, SMALL)]
        row = await pool.fetchrow("SELECT * FROM ltm_memories LIMIT 1")
        columns = ", ".join(dict(row or {}))
        query = f"SELECT {columns} FROM ltm_memories WHERE user_id = $1 AND id = $2"
        draw = random.Random(1)

        async def rate(call: Callable[[int], Awaitable[object]], tasks: int) -> float:
            async def some(numbers: list[int]) -> None:
                for number in numbers:
                    await call(number)

            calls = 10_000
            wanted = [draw.choices(ids, k=calls // tasks) for _ in range(tasks)]
            return calls / await seconds(asyncio.gather(*(some(numbers) for numbers in wanted)))

        for tasks, bar in ((TASKS, "1.8"), (4 * TASKS, "2.5")):
            raw, own = [], []
            for turn in range(ROUNDS + 1):  # the first makes the connections
                found = (
                    await rate(lambda n: pool.fetchrow(query, SMALL, n), tasks),
                    await rate(lambda n: get_memory(db, SMALL, n), tasks),
                )
                if turn:
                    raw.append(found[0])
                    own.append(found[1])
            rows.ratio(f"get_memory, {tasks} tasks, to a pool of asyncpg", own, raw, bar, "/s")


async def tracked(dsn: str, user: int, rows: Rows) -> None:
    """Gets of 16 tasks, popular memories more often, tracked in each way in turn.

    Writing what was deferred is part of the time.
    """
    modes: tuple[Tracking, ...] = ("off", "deferred", "immediate")
    rates: dict[str, list[float]] = {mode: [] for mode in modes}
    databases = {mode: await connect(dsn, access_tracking=mode, max_size=TASKS) for mode in modes}
    ids = [memory.id async for memory in iterate_memories(databases["off"], user)]
    weights = [1 / (n + 1) ** 0.9 for n in range(len(ids))]
    draw = random.Random(2)

    async def read(db: Database, wanted: list[int]) -> None:
        for number in wanted:
            await get_memory(db, user, number)

    async def turn(mode: Tracking, calls: int) -> float:
        db = databases[mode]
        wanted = [draw.choices(ids, weights, k=calls) for _ in range(TASKS)]
        started = time.perf_counter()
        await asyncio.gather(*(read(db, numbers) for numbers in wanted))
        await db.flush()
        return TASKS * calls / (time.perf_counter() - started)

    for mode in modes:
        await turn(mode, READS // TASKS // 20)
    for _ in range(3):
        for mode in modes:
            calls = READS // TASKS // (20 if mode == "immediate" else 1)
            rates[mode].append(await turn(mode, calls))
    for mode in modes:
        stats = databases[mode].stats()
        assert stats.dropped == 0, stats
        label = f"{TASKS} tasks get of {len(ids):,}, tracking {mode}"
        bar = "0.9" if mode == "deferred" else ""
        rows.ratio(label, rates[mode], rates["off"], bar, "/s")
        await databases[mode].close()


async def writes(dsn: str, conn: asyncpg.Connection, rows: Rows) -> None:
    """Adds, one after another and of many tasks."""
    ids = [(await add_memory(conn, WRITER, f"target {n}")).id for n in range(2)]
    context = '{"temporal": {"timestamp": "2026-03-01T12:00:00Z"}, "spatial": {"city": "Graz"}}'
    related = str(ids)
    raw, own = await rounds(
        lambda: conn.fetchval(INSERT, WRITER, "words " * 12, '["a", "b", "c"]', context, related),
        lambda: add_memory(
            conn,
            WRITER,
            "words " * 12,
            tags=["a", "b", "c"],
            related_memory_ids=ids,
            enhanced_context=CONTEXT,
        ),
    )
    rows.times("raw INSERT of the memory alone", raw)
    rows.ratio("add_memory, 10 leaves, 3 tags, 2 links", own, raw, "1.5")
    modes: tuple[Coalesce, ...] = (True, "writes")
    rates: dict[Coalesce, list[float]] = {mode: [] for mode in modes}
    for _ in range(3):
        for mode in modes:
            async with connect(dsn, coalesce=mode, max_size=TASKS) as db:

                async def some(db: Database = db) -> None:
                    for n in range(ADDS // TASKS):
                        await add_memory(db, WRITER, f"words {n}", tags=["a", "b", "c"])

                taken = await seconds(asyncio.gather(*(some() for _ in range(TASKS))))
                rates[mode].append(ADDS / taken)
    rows.ratio(f"add_memory, {TASKS} tasks, coalesce", rates["writes"], rates[True], "1.5", "/s")


async def load(conn: asyncpg.Connection, turn: int) -> list[float]:
    """Seconds of a COPY of prepared rows, of add_memories, of an import and of an export."""
    user, copied, imported = (BULK + 10 * n + turn for n in range(3))
    of_imports = {"id", "related_memory_ids", "access_count"}
    given = [{n: line[n] for n in line.keys() - of_imports} for line in many(ROWS)]
    added = await seconds(add_memories(conn, user, given))
    texts = {table: BytesIO() for table in WRITTEN}
    highest = await conn.fetchval("SELECT max(id) FROM ltm_memories")
    for table, columns in WRITTEN.items():
        selected = columns.replace("user_id", str(copied))
        for name in (" id,", " memory_id,"):
            selected = selected.replace(name, f"{name[:-1]} + {highest},")
        query = f"SELECT {selected} FROM {table} WHERE user_id = {user}"
        await conn.copy_from_query(query, output=texts[table])

    async def copy() -> None:
        async with conn.transaction():
            for table, columns in WRITTEN.items():
                texts[table].seek(0)
                source, names = texts[table], columns.split(", ")
                await conn.copy_to_table(table, source=source, columns=names)

    copying = await seconds(copy())
    await conn.execute("SELECT setval('ltm_memories_id_seq', max(id)) FROM ltm_memories")
    exported: list[dict[str, Any]] = []

    async def export() -> None:
        exported.extend([line async for line in export_user(conn, user)])

    exporting = await seconds(export())
    return [copying, added, await seconds(import_user(conn, imported, exported)), exporting]


async def bulk(conn: asyncpg.Connection, rows: Rows) -> None:
    """Many at once beside COPY of rows that were prepared before."""
    taken = [await load(conn, turn) for turn in range(3)]
    copies, added, imports, exports = (
        [ROWS / each for each in kind] for kind in zip(*taken, strict=True)
    )
    rows.ratio("COPY of prepared rows, memories", copies, copies, "", "/s")
    rows.ratio("add_memories", added, copies, "0.75", "/s")
    rows.ratio("import_user", imports, copies, "0.6", "/s")
    rows.ratio("export_user", exports, copies, "", "/s")


async def accesses(conn: asyncpg.Connection, rows: Rows) -> None:
    """5,000 memories of a user, 100 recalls a day over half a year, the popular ones more often."""
    await conn.execute(
        "INSERT INTO ltm_memories (user_id, content, tags, created_at) "
        "SELECT $1, repeat('words ', 20), '[\"a\"]', '2026-01-01' FROM generate_series(1, 5000)",
        POPULAR,
    )
    ids = [r[0] for r in await conn.fetch(IDS, POPULAR)]
    counts = (
        "SELECT n_tup_upd, n_tup_hot_upd, pg_current_wal_insert_lsn() - '0/0'::pg_lsn "
        "FROM pg_stat_user_tables WHERE relname = 'ltm_memories'"
    )
    await conn.execute("CHECKPOINT")
    before = await conn.fetchrow(counts)
    draw = random.Random(1)
    weights = [1 / (n + 1) ** 0.9 for n in range(len(ids))]
    for day in range(180):
        for recalled in draw.choices(ids, weights, k=100):
            moment = datetime(2026, 1, 1, 8, tzinfo=UTC) + timedelta(days=day)
            await fetch_value(
                conn,
                "record_accesses",
                user_id=POPULAR,
                memory_ids=[recalled],
                now=moment,
                access_method="direct",
                access_context=None,
                user_query=None,
            )
    await conn.execute("SELECT pg_stat_force_next_flush()")
    after = await conn.fetchrow(counts)
    assert before is not None
    assert after is not None
    total, in_place, log = (new - old for new, old in zip(after, before, strict=True))
    rows.add_row("log of an access, from a checkpoint on", f"{log / total:,.0f} B", "", "", "3,000")
    rows.add_row(f"of {total:,} accesses update in place", f"{in_place / total:.0%}", "", "", "98%")


def processor_seconds(process: int) -> float:
    """What a process has used so far, on Linux."""
    return int(Path(f"/proc/{process}/schedstat").read_text().split()[0]) / 1e9


async def others(conn: asyncpg.Connection, count: int, rows: Rows) -> None:
    """What the server computes for a user beside the memories of others."""
    number = (await search_memories(conn, SMALL, limit=1))[0].id
    calls: dict[str, Call] = {
        "get_memory": lambda: get_memory(conn, SMALL, number),
        "list": lambda: search_memories(conn, SMALL, memory_type="fact"),
        "text": lambda: search_memories(conn, SMALL, "memory 1234"),
        "add_memory": lambda: add_memory(conn, SMALL, "words " * 12, tags=["a", "b"]),
    }
    backend = conn.get_server_pid()

    async def computed() -> list[list[float]]:
        medians: list[list[float]] = [[] for _ in calls]
        for turn in range(ROUNDS + 1):
            for call, found in zip(calls.values(), medians, strict=True):
                started = processor_seconds(backend)
                for _ in range(CALLS):
                    await call()
                if turn:
                    found.append((processor_seconds(backend) - started) / CALLS)
        return medians

    before = await computed()
    for user in range(count // SIZES[SMALL]):
        await import_user(conn, OTHERS + user, many(SIZES[SMALL]))
    await conn.execute("VACUUM ANALYZE")
    for what, old, new in zip(calls, before, await computed(), strict=True):
        rows.ratio(f"{what} beside {count:,} more, CPU of the server", new, old, "1.15")


@asynccontextmanager
async def filled() -> AsyncIterator[tuple[str, asyncpg.Connection]]:
    """A database with the users, and a connection to it."""
    with servers.server() as server:
        admin = await asyncpg.connect(server)
        await admin.execute("DROP DATABASE IF EXISTS ltm_bench WITH (FORCE)")
        await admin.execute("CREATE DATABASE ltm_bench")
        await admin.close()
        dsn = servers.with_database(server, "ltm_bench")
        await asyncio.to_thread(migrate.apply, dsn)
        conn = await asyncpg.connect(dsn, server_settings={"jit": "off"})
        for user, size in SIZES.items():
            await import_user(conn, user, many(size))
        await conn.execute(NOTES)
        await conn.execute("VACUUM ANALYZE")
        yield dsn, conn
        await conn.close()


async def main() -> None:
    """The tables."""
    rows = Rows("ltm_store beside raw asyncpg")
    async with filled() as (dsn, conn):
        async with connect(dsn, access_tracking="off") as db:
            await reads(db, conn, rows)
        await accesses(conn, rows)
        await large(conn, rows)
        await together(dsn, rows)
        for user in (TYPICAL, SMALL):
            await tracked(dsn, user, rows)
        await writes(dsn, conn, rows)
        await bulk(conn, rows)
        recalled = await recall(conn)
        if len(sys.argv) > 1:
            await others(conn, int(sys.argv[1]), rows)
    console = Console(width=100)
    console.print(rows)
    console.print(recalled)


if __name__ == "__main__":
    asyncio.run(main())
