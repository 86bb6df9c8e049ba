"""`make bench`: what a call costs beside raw asyncpg, as ratios within one run."""

import asyncio
import random
import statistics
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta

import asyncpg
from rich.console import Console
from rich.table import Table

from ltm_store import (
    Database,
    add_memory,
    connect,
    get_analytics,
    get_memory,
    iterate_memories,
    migrate,
)
from ltm_store import search_memories as search
from ltm_store.db.execute import fetch_value
from ltm_store.tracking import Tracking
from tests import servers
from tests.bench.recall import recall
from tests.populate import populate

ROUNDS, CALLS = 5, 200
LARGE, SMALL, USUAL = 200_000, 10_000, 2_000
TASKS, READS = 16, 160_000
CONTEXT = {
    "temporal": {"timestamp": "2026-03-01T12:00:00+00:00"},
    "spatial": {"city": "Graz", "country": "Austria", "is_home": True},
    "social": {"mood": "calm"},
}
Call = Callable[[], Awaitable[object]]


async def p50(*calls: Call) -> list[float]:
    """Median seconds of each call; the calls take turns, so that noise meets them alike."""
    for call in calls:
        for _ in range(20):
            await call()
    medians: list[list[float]] = [[] for _ in calls]
    for _ in range(ROUNDS):
        for call, found in zip(calls, medians, strict=True):
            times = []
            for _ in range(CALLS):
                started = time.perf_counter()
                await call()
                times.append(time.perf_counter() - started)
            found.append(statistics.median(times))
    return [statistics.median(found) for found in medians]


async def reads(db: Database, conn: asyncpg.Connection, table: Table) -> None:
    row = await conn.fetchrow("SELECT * FROM ltm_memories WHERE user_id = 2 LIMIT 1")
    assert row is not None
    number = row["id"]
    columns = ", ".join(row.keys())
    query = f"SELECT {columns} FROM ltm_memories WHERE user_id = $1 AND id = $2"
    raw, own, pooled, related = await p50(
        lambda: conn.fetchrow(query, 2, number),
        lambda: get_memory(conn, 2, number),
        lambda: get_memory(db, 2, number),
        lambda: get_memory(conn, 2, number, include_relationships=True),
    )
    table.add_row("raw fetchrow of a memory", f"{raw * 1e6:.0f} us", "", "")
    table.add_row("get_memory on a connection", f"{own * 1e6:.0f} us", f"{own / raw:.2f}", "1.25")
    table.add_row("  through Database", f"{pooled * 1e6:.0f} us", f"{pooled / raw:.2f}", "1.6")
    table.add_row(
        "  with 6 relationships", f"{related * 1e6:.0f} us", f"{related / raw:.2f}", "1.5"
    )
    small, large = await p50(lambda: search(conn, 2), lambda: search(conn, 1))
    table.add_row(f"top 10 of {SMALL}", f"{small * 1e6:.0f} us", "", "")
    table.add_row(f"top 10 of {LARGE}", f"{large * 1e6:.0f} us", f"{large / small:.2f}", "1.3")
    started = time.perf_counter()
    await get_analytics(conn, 1)
    each = (time.perf_counter() - started) / LARGE
    table.add_row("get_analytics, a memory", f"{each * 1e6:.1f} us", "", "5 us")


async def tracked(dsn: str, user: int, table: Table) -> None:
    """Ten seconds of 16 tasks that read, popular memories more often, tracked in each way in turn.

    Writing what was deferred is part of the time.
    """
    modes: tuple[Tracking, ...] = ("off", "deferred", "immediate")
    rates: dict[str, list[float]] = {mode: [] for mode in modes}
    databases = {mode: await connect(dsn, access_tracking=mode, max_size=16) for mode in modes}
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
        rate = statistics.median(rates[mode])
        ratios = [a / b for a, b in zip(rates[mode], rates["off"], strict=True)]
        ratio = "" if mode == "off" else f"{statistics.median(ratios):.2f}"
        bar = "0.8" if mode == "deferred" else ""
        label = f"{TASKS} tasks get of {len(ids):,}, tracking {mode}"
        table.add_row(label, f"{rate:.0f} /s", ratio, bar)
        await databases[mode].close()


async def writes(conn: asyncpg.Connection, table: Table) -> None:
    ids = [(await add_memory(conn, 3, f"target {n}")).id for n in range(2)]
    insert = (
        "INSERT INTO ltm_memories (user_id, content, tags, context_data, related_memory_ids) "
        "VALUES ($1, $2, $3::text::jsonb, $4::text::jsonb, $5::text::jsonb) RETURNING id"
    )
    context = '{"temporal": {"timestamp": "2026-03-01T12:00:00Z"}, "spatial": {"city": "Graz"}}'
    raw, added = await p50(
        lambda: conn.fetchval(insert, 3, "words " * 12, '["a", "b", "c"]', context, "[1, 2]"),
        lambda: add_memory(
            conn,
            3,
            "words " * 12,
            tags=["a", "b", "c"],
            related_memory_ids=ids,
            enhanced_context=CONTEXT,
        ),
    )
    table.add_row("raw insert of the memory alone", f"{raw * 1e6:.0f} us", "", "")
    table.add_row(
        "add_memory, 10 leaves, 3 tags, 2 links",
        f"{added * 1e6:.0f} us",
        f"{added / raw:.2f}",
        "1.8",
    )


async def hot_share(conn: asyncpg.Connection, table: Table) -> None:
    """5,000 memories of a user, 100 recalls a day over half a year, the popular ones more often."""
    await conn.execute(
        "INSERT INTO ltm_memories (user_id, content, tags, created_at) "
        "SELECT 4, repeat('words ', 20), '[\"a\"]', '2026-01-01' FROM generate_series(1, 5000)"
    )
    ids = [r[0] for r in await conn.fetch("SELECT id FROM ltm_memories WHERE user_id = 4")]
    counts = "SELECT n_tup_upd, n_tup_hot_upd FROM pg_stat_user_tables WHERE relname = $1"
    before = await conn.fetchrow(counts, "ltm_memories")
    draw = random.Random(1)
    weights = [1 / (n + 1) ** 0.9 for n in range(len(ids))]
    for day in range(180):
        for recalled in draw.choices(ids, weights, k=100):
            moment = datetime(2026, 1, 1, 8, tzinfo=UTC) + timedelta(days=day)
            await fetch_value(
                conn,
                "record_accesses",
                user_id=4,
                memory_ids=[recalled],
                now=moment,
                access_method="direct",
                access_context=None,
                user_query=None,
            )
    await conn.execute("SELECT pg_stat_force_next_flush()")
    after = await conn.fetchrow(counts, "ltm_memories")
    assert before is not None
    assert after is not None
    total, in_place = (new - old for new, old in zip(after, before, strict=True))
    table.add_row(f"accesses that update in place, of {total}", "", f"{in_place / total:.0%}", "")


async def main() -> None:
    table = Table("what", "p50", "ratio", "bar", title="ltm_store beside raw asyncpg")
    with servers.server() as server:
        admin = await asyncpg.connect(server)
        await admin.execute("DROP DATABASE IF EXISTS ltm_bench WITH (FORCE)")
        await admin.execute("CREATE DATABASE ltm_bench")
        await admin.close()
        dsn = servers.with_database(server, "ltm_bench")
        migrate.apply(dsn)
        conn = await asyncpg.connect(dsn, server_settings={"jit": "off"})
        await populate(conn, users=1, memories=LARGE, first_user=1)
        await populate(conn, users=1, memories=SMALL, first_user=2)
        await populate(conn, users=1, memories=USUAL, first_user=5)
        async with connect(dsn, access_tracking="off") as db:
            await reads(db, conn, table)
        for user in (2, 5):
            await tracked(dsn, user, table)
        await writes(conn, table)
        await hot_share(conn, table)
        recalled = await recall(conn)
        await conn.close()
    console = Console(width=100)
    console.print(table)
    console.print(recalled)


asyncio.run(main())
