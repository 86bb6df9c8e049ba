"""`python -m tests.bench.search [users]`: what a search costs a user, as medians over 200 queries.

A user with 2,000 memories among `users` such users (100: 200k memories; 1000: 2M), and one with
100,000; beside them the same query by ts_rank on a plain GIN of words and a btree of users.
"""

import asyncio
import random
import statistics
import sys
import time
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from typing import Any

import asyncpg
from rich.console import Console
from rich.table import Table

from ltm_store import migrate, search_memories
from tests import servers

QUERIES, LARGE = 200, 1_000_000
FILL = (
    "INSERT INTO ltm_memories (user_id, content, tags, memory_type, category, importance_score, "
    "source_id, source_position, created_at, context_data) "
    "SELECT $1::bigint + (n - 1) % $2::bigint, (SELECT string_agg('w' || floor(20000 ^ random())"
    "::integer, ' ') FROM generate_series(1, 14) WHERE n > 0), jsonb_build_array('tag' || n % 47), "
    "CASE WHEN n % 33333 = 7 THEN 'rare' ELSE 'fact' END, 'c' || n % 9, 1 + n % 10, "
    "'s' || n / 20, n % 20, timestamp '2025-01-01' + n % 600 * interval '1 day', "
    "jsonb_build_object('spatial', jsonb_build_object('city', 'city' || n % 700)) "
    "FROM generate_series(1, $2::bigint * $3::bigint) AS n"
)
OR_QUERY = "to_tsquery('english', replace($2, ' ', ' | '))"
PLAIN = (
    "SELECT id, content FROM ltm_memories WHERE user_id = $1 AND search_vector @@ "
    f"{OR_QUERY} ORDER BY ts_rank(search_vector, {OR_QUERY}) DESC, id DESC LIMIT 10"
)
WORDS = {"rare words": (4_000, 19_999), "common words": (3, 60), "absent words": (30_000, 40_000)}
FILTERS: dict[str, dict[str, object]] = {
    "no filter": {},
    "tags": {"tags": ["tag7"]},
    "tags_any": {"tags_any": ["tag7", "tag8"]},
    "context_data": {"context_data": {"spatial": {"city": "city5"}}},
    "source_id": {"source_id": "s55"},
    "memory_type of three": {"memory_type": "rare"},
    "category": {"category": "c3"},
    "min_importance": {"min_importance": 9},
    "created_after": {"created_after": datetime(2026, 8, 1, tzinfo=UTC)},
    "include_archived": {"include_archived": True},
    "metadata of none": {"metadata": {"room": 1}},
    "accessed_after": {"accessed_after": datetime(2026, 8, 1, tzinfo=UTC)},
}


async def median(call: Callable[[], Awaitable[object]]) -> str:
    times = []
    for _ in range(QUERIES):
        started = time.perf_counter()
        await call()
        times.append(time.perf_counter() - started)
    return f"{statistics.median(times) * 1e3:.2f}"


async def measure(conn: asyncpg.Connection, table: Table) -> None:
    draw = random.Random(2)

    def query(kind: str) -> str:
        return " ".join(f"w{draw.randint(*WORDS[kind])}" for _ in range(4))

    async def ours(user: int, kind: str) -> str:
        return await median(lambda: search_memories(conn, user, query(kind)))

    async def plain(user: int, kind: str) -> str:
        return await median(lambda: conn.fetch(PLAIN, user, query(kind)))

    async def listed(user: int, filters: Mapping[str, Any]) -> str:
        return await median(lambda: search_memories(conn, user, **filters))

    for kind in WORDS:
        cells = [await how(user, kind) for how in (ours, plain) for user in (5, LARGE)]
        table.add_row(kind, *cells)
    for name, filters in FILTERS.items():
        table.add_row(f"list, {name}", *[await listed(user, filters) for user in (5, LARGE)])


async def main() -> None:
    users = int(sys.argv[1]) if len(sys.argv) > 1 else 100
    title = f"median ms of {QUERIES} searches, {users * 2000 + 100_000:,} memories in all"
    table = Table("query", "of 2,000", "of 100,000", "plain, 2,000", "plain, 100,000", title=title)
    with servers.server() as server:
        admin = await asyncpg.connect(server)
        await admin.execute("DROP DATABASE IF EXISTS ltm_bench WITH (FORCE)")
        await admin.execute("CREATE DATABASE ltm_bench")
        await admin.close()
        dsn = servers.with_database(server, "ltm_bench")
        migrate.apply(dsn)
        conn = await asyncpg.connect(dsn, server_settings={"jit": "off"})
        await conn.execute("SET synchronous_commit = off")
        await conn.execute(FILL, 1, users, 2000)
        await conn.execute(FILL, LARGE, 1, 100_000)
        await conn.execute("CREATE INDEX plain_words ON ltm_memories USING gin (search_vector)")
        await conn.execute("CREATE INDEX plain_user ON ltm_memories (user_id)")
        await conn.execute("VACUUM ANALYZE")
        await measure(conn, table)
        await conn.close()
    Console(width=100).print(table)


asyncio.run(main())
