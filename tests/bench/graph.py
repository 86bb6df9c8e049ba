"""`python -m tests.bench.graph`: what a walk costs, as medians and in buffers.

A user with 100,000 memories and a million relationships, 200,000 of them of 20 hubs.
"""

import asyncio
import json
import random
import statistics
import time
from collections.abc import Awaitable, Callable, Iterable
from datetime import UTC, datetime
from functools import partial
from itertools import pairwise

import asyncpg
from rich.console import Console
from rich.table import Table

from ltm_store import (
    add_tags,
    list_tags,
    migrate,
    related_tags,
    remove_tags,
    shortest_path,
    suggest_relationships,
    traverse,
)
from ltm_store.db.statements import statements
from tests import servers

MEMORIES, HUBS, CALLS = 100_000, 20, 100
FILL = (
    "INSERT INTO ltm_memories (user_id, id, content, tags, source_id, source_position, "
    "context_data) SELECT 1, n, (SELECT string_agg('w' || floor(20000 ^ random())::integer, ' ') "
    "FROM generate_series(1, 14) WHERE n > 0), jsonb_build_array('tag' || n % 50, 'rare' || n % "
    "5000), 's' || n / 20, n % 20, jsonb_build_object('social', jsonb_build_object('participants', "
    "jsonb_build_array('person ' || n % 2000))) FROM generate_series(1, 100000) AS n",
    "INSERT INTO ltm_memory_tags (user_id, memory_id, tag_name) "
    "SELECT user_id, id, tag FROM ltm_memories, jsonb_array_elements_text(tags) AS tag",
    "INSERT INTO ltm_memory_relationships (user_id, source_memory_id, target_memory_id, "
    "relationship_type, strength) SELECT 1, e.s, e.t, (ARRAY['related', 'similar', 'causes', "
    "'follows'])[1 + (e.s + e.t) % 4], round(random()::numeric, 3) FROM ("
    "SELECT 1 + n % 100000 AS s, 1 + floor(random() * 100000)::bigint AS t "
    "FROM generate_series(1, 800000) AS n UNION ALL "
    "SELECT CASE n % 2 WHEN 0 THEN h ELSE t END, CASE n % 2 WHEN 0 THEN t ELSE h END FROM ("
    "SELECT h, n, 1 + floor(random() * 100000)::bigint AS t FROM generate_series(1, 20) AS h, "
    "generate_series(1, 10000) AS n) AS x) AS e WHERE e.s <> e.t ON CONFLICT DO NOTHING",
    "VACUUM ANALYZE",
)
BESIDE = (
    "SELECT DISTINCT target_memory_id FROM ltm_memory_relationships "
    "WHERE user_id = 1 AND source_memory_id <= $1 AND target_memory_id > $1 ORDER BY 1 LIMIT $2"
)
Call = Callable[[], Awaitable[object]]


async def costs(calls: Iterable[Call]) -> tuple[str, str]:
    """Median and longest milliseconds."""
    times = []
    for call in calls:
        started = time.perf_counter()
        await call()
        times.append((time.perf_counter() - started) * 1e3)
    return f"{statistics.median(times):.2f}", f"{max(times):.2f}"


async def buffers(conn: asyncpg.Connection, name: str, **arguments: object) -> str:
    """How many buffers a statement touches."""
    sql, bound = statements()[name].bind(arguments)
    plan = await conn.fetchval(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {sql}", *bound)
    found = json.loads(plan)[0]["Plan"]
    return str(found["Shared Hit Blocks"] + found["Shared Read Blocks"])


async def measure(conn: asyncpg.Connection, table: Table) -> None:
    draw = random.Random(3)
    anywhere = [draw.randint(HUBS + 1, MEMORIES) for _ in range(CALLS)]
    beside = [row[0] for row in await conn.fetch(BESIDE, HUBS, CALLS)]
    hubs = [draw.randint(1, HUBS) for _ in range(CALLS)]
    now = datetime.now(UTC)
    one = {"user_id": 1, "as_of": now}
    walk = {**one, "depth": 3, "types": None, "min_strength": None}
    path = {**one, "max_depth": 6, "types": None, "min_strength": None}
    path |= {"memory_limit": 1000, "relationship_limit": 10_000}
    for limit in (100, 1000):
        for where, ids in (("anywhere", anywhere), ("beside a hub", beside), ("at a hub", hubs)):
            walked = await buffers(conn, "traverse", **walk, memory_id=ids[0], row_limit=limit)
            calls = [partial(traverse, conn, 1, i, depth=3, limit=limit) for i in ids]
            table.add_row(f"traverse, depth 3, limit {limit}, {where}", *await costs(calls), walked)
    rarely = [partial(traverse, conn, 1, i, depth=3, types=["no such"]) for i in hubs]
    walked = await buffers(
        conn, "traverse", **(walk | {"types": ["no such"]}), memory_id=hubs[0], row_limit=100
    )
    table.add_row("  of a type that a hub lacks", *await costs(rarely), walked)
    for where, ends in (
        ("any two", list(pairwise(anywhere))),
        ("from a hub", list(zip(hubs, anywhere, strict=True))),
        ("two hubs", [(1 + n % HUBS, 1 + (n + 1) % HUBS) for n in range(CALLS)]),
    ):
        source, target = ends[0]
        walked = await buffers(
            conn, "shortest_path", **path, source_memory_id=source, target_memory_id=target
        )
        paths = [partial(shortest_path, conn, 1, source, target) for source, target in ends]
        table.add_row(f"shortest_path, {where}", *await costs(paths), walked)
    suggested = [partial(suggest_relationships, conn, 1, i) for i in anywhere]
    walked = await buffers(
        conn,
        "suggest_relationships",
        **one,
        memory_id=anywhere[0],
        holder_limit=100,
        word_limit=64,
        row_limit=10,
    )
    table.add_row("suggest_relationships", *await costs(suggested), walked)
    tagging: dict[str, list[Call]] = {
        "add_tags, two": [partial(add_tags, conn, 1, i, ["a", "b"]) for i in anywhere],
        "remove_tags, two": [partial(remove_tags, conn, 1, i, ["a", "b"]) for i in anywhere],
        "list_tags of all": [partial(list_tags, conn, 1)] * 5,
        "related_tags, of 2,000": [partial(related_tags, conn, 1, f"tag{i}") for i in range(50)],
        "related_tags, of 20": [partial(related_tags, conn, 1, f"rare{i}") for i in range(50)],
    }
    for name, tag_calls in tagging.items():
        table.add_row(name, *await costs(tag_calls), "")


async def main() -> None:
    title = f"ms, {MEMORIES:,} memories, a million relationships, hubs of 10,000"
    table = Table("call", "median", "longest", "buffers", title=title)
    with servers.server() as server:
        admin = await asyncpg.connect(server)
        await admin.execute("DROP DATABASE IF EXISTS ltm_bench WITH (FORCE)")
        await admin.execute("CREATE DATABASE ltm_bench")
        await admin.close()
        dsn = servers.with_database(server, "ltm_bench")
        migrate.apply(dsn)
        conn = await asyncpg.connect(dsn, server_settings={"jit": "off"})
        await conn.execute("SET synchronous_commit = off")
        for statement in FILL:
            await conn.execute(statement)
        await measure(conn, table)
        await conn.close()
    Console(width=100).print(table)


asyncio.run(main())
