"""`python -m tests.bench.scale [memories ...]`: what memories take on disk and in the log.

The tables of docs/scale.md, for databases of 10,000 and 100,000 memories unless told, and what
follows from the largest for a billion.
"""

import asyncio
import random
import sys
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import asyncpg

from ltm_store import add_memories, migrate, record_access
from tests import servers
from tests.dialogues import ANSWERS, OTHERS

EACH = 1_000  # memories of a user
ACCESSES = 2_000
BILLION = 1_000_000_000
READ = 500e6  # bytes a second that a disk gives
NODE = 4e12  # bytes of a node, half of which stay free
SIZES = """
SELECT
    r.relname AS name,
    pg_table_size(r.oid) AS rows,
    pg_indexes_size(r.oid) AS indexes
FROM pg_class AS r
WHERE r.relkind = 'r' AND r.relname LIKE 'ltm%' AND pg_relation_size(r.oid) > 100000
ORDER BY pg_total_relation_size(r.oid) DESC
"""
INDEXES = """
SELECT i.relname AS name, pg_relation_size(i.oid) AS bytes
FROM pg_class AS i JOIN pg_index AS x ON x.indexrelid = i.oid
WHERE x.indrelid = 'ltm_memories'::regclass ORDER BY bytes DESC
"""
SOME = "SELECT user_id, id FROM ltm_memories ORDER BY hashint8(id) LIMIT $1"


class Figures(NamedTuple):
    """What a database of so many memories took."""

    memories: int
    tables: list[asyncpg.Record]
    indexes: list[asyncpg.Record]
    wal: float
    access_wal: float
    first_access_wal: float
    access_bytes: float
    freeze: float

    @property
    def bytes(self) -> float:
        """On disk, of a memory."""
        return float(sum(t["rows"] + t["indexes"] for t in self.tables) / self.memories)


def memory(drawn: random.Random, number: int) -> dict[str, Any]:
    """One of two or three sentences, three tags and eight circumstances."""
    said = [answer for answer, _ in ANSWERS] + list(OTHERS)
    return {
        "content": " ".join(drawn.sample(said, 3)) + f" ({number})",
        "tags": drawn.sample([f"tag {n}" for n in range(200)], 3),
        "memory_type": drawn.choice(("fact", "preference", "goal")),
        "importance_score": drawn.randrange(1, 11),
        "source_type": "conversation",
        "source_id": f"talk {number // 10}",
        "source_position": number % 10,
        "enhanced_context": {
            "temporal": {"timestamp": "2026-05-04T08:00:00Z", "timezone": "Europe/Vienna"},
            "spatial": {"city": f"city {drawn.randrange(50)}"},
        },
    }


async def log_end(conn: asyncpg.Connection) -> int:
    """Bytes of log so far."""
    return int(await conn.fetchval("SELECT pg_current_wal_insert_lsn() - '0/0'::pg_lsn"))


async def measure(dsn: str, memories: int) -> Figures:
    """Fill an empty database and look."""
    drawn = random.Random(21)
    conn = await asyncpg.connect(dsn)
    await conn.execute("SET synchronous_commit = off")
    await conn.execute("CHECKPOINT")
    started, at = await log_end(conn), time.perf_counter()
    for user in range(1, memories // EACH + 1):
        await add_memories(conn, user, [memory(drawn, n) for n in range(EACH)])
        if not user * EACH * 10 % memories:
            told = f"{user * EACH:,} stored after {time.perf_counter() - at:,.0f} s"
            print(told, file=sys.stderr, flush=True)
    wal = (await log_end(conn) - started) / memories
    await conn.execute("VACUUM ANALYZE")
    tables, indexes = await conn.fetch(SIZES), await conn.fetch(INDEXES)
    ids = await conn.fetch(SOME, 2 * ACCESSES)
    size = "SELECT pg_total_relation_size('ltm_memory_access')"
    held = await conn.fetchval(size)
    logged = []
    for images, some in (("off", ids[:ACCESSES]), ("on", ids[ACCESSES : 2 * ACCESSES])):
        await conn.execute(f"ALTER SYSTEM SET full_page_writes = {images}")
        await conn.execute("SELECT pg_reload_conf()")
        await conn.execute("CHECKPOINT")
        before = await log_end(conn)
        for user, number in some:
            await record_access(conn, user, [number], access_method="search", user_query="tea")
        logged.append((await log_end(conn) - before) / ACCESSES)
    access_bytes = (await conn.fetchval(size) - held) / (2 * ACCESSES)
    at = time.perf_counter()
    await conn.execute("VACUUM (FREEZE)")
    freeze = (time.perf_counter() - at) / memories
    await conn.close()
    return Figures(memories, tables, indexes, wal, logged[0], logged[1], access_bytes, freeze)


def pages(found: list[Figures]) -> Iterator[str]:
    """The tables, in Markdown."""
    yield "| bytes a memory | " + " | ".join(f"{f.memories:,}" for f in found) + " |"
    yield "|---|" + "---|" * len(found)
    last = found[-1]
    for table in last.tables:
        for part in ("rows", "indexes"):
            cells = [
                next((t[part] for t in f.tables if t["name"] == table["name"]), 0) / f.memories
                for f in found
            ]
            yield f"| `{table['name']}`, {part} | " + " | ".join(f"{c:,.0f}" for c in cells) + " |"
    for name, values in (
        ("**in all**", [f.bytes for f in found]),
        ("log (WAL) of an add", [f.wal for f in found]),
        ("log of an access", [f.access_wal for f in found]),
        ("the same, first on its pages after a checkpoint", [f.first_access_wal for f in found]),
        ("row and indexes of an access", [f.access_bytes for f in found]),
    ):
        yield f"| {name} | " + " | ".join(f"{value:,.0f}" for value in values) + " |"
    yield ""
    yield "| index of `ltm_memories` | bytes a memory |"
    yield "|---|---|"
    for index in last.indexes:
        yield f"| `{index['name']}` | {index['bytes'] / last.memories:,.0f} |"
    yield ""
    disk = last.bytes * BILLION
    yield "| a billion memories | | |"
    yield "|---|---|---|"
    yield f"| disk | {disk / 1e12:.1f} TB | {last.bytes:,.0f} bytes x 1e9 |"
    wal = last.wal * BILLION
    yield f"| log while they are written | {wal / 1e12:.1f} TB | {last.wal:,.0f} bytes x 1e9 |"
    ranks = next(t["indexes"] for t in last.tables if t["name"] == "ltm_memory_ranks")
    warm = ranks / last.memories * BILLION
    yield f"| indexes of ranks, best kept in RAM | {warm / 1e9:.0f} GB | for lists of all users |"
    freeze = f"{last.freeze * BILLION / 3600:.1f} h | {last.freeze * 1e6:.1f} us each |"
    yield f"| `VACUUM (FREEZE)`, one process, warm | {freeze}"
    yield f"| reading all of it for a backup | {disk / READ / 3600:.1f} h | at 500 MB/s |"
    yield f"| nodes of 4 TB, half free | {disk / (NODE / 2):.0f} | |"


async def main() -> None:
    found = []
    with servers.server() as server:
        for memories in map(int, sys.argv[1:] or (10_000, 100_000)):
            admin = await asyncpg.connect(server)
            await admin.execute("DROP DATABASE IF EXISTS ltm_scale WITH (FORCE)")
            await admin.execute("CREATE DATABASE ltm_scale")
            await admin.close()
            dsn = servers.with_database(server, "ltm_scale")
            migrate.apply(dsn)
            found.append(await measure(dsn, memories))
    print("\n".join(pages(found)))


if __name__ == "__main__":
    asyncio.run(main())
