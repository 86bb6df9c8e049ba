"""`python -m tests.bench.views [users [filler]]`: what the views cost one user, by EXPLAIN.

400 users of 2,000 memories, one of 100,000, and as many of one memory each as fill a million, all
with relationships, tags, contexts and accesses, in step; the median of five runs, warm.
"""

import asyncio
import json
import statistics
import sys
import time

import asyncpg
from rich.console import Console
from rich.table import Table

from ltm_store import check_health, migrate
from tests import servers
from tests.populate import populate

USERS, EACH, LARGE, FILLER = 400, 2_000, 100_000, 100_000
ORDINARY, HEAVY = 5, 1_000
IN_STEP = (
    "UPDATE ltm_memories AS m SET related_memory_ids = r.targets "
    "FROM (SELECT user_id, source_memory_id, jsonb_agg(target_memory_id) AS targets "
    "FROM ltm_memory_relationships GROUP BY 1, 2) AS r "
    "WHERE m.user_id = r.user_id AND m.id = r.source_memory_id",
    "INSERT INTO ltm_contexts (user_id, memory_id, context_type, context_key, context_value) "
    "SELECT user_id, id, 'temporal', key, value FROM ltm_memories, "
    "jsonb_each_text(context_data -> 'temporal')",
    "VACUUM ANALYZE",
)
READS = {
    "ltm_memory_overview, one": "ltm_memory_overview WHERE user_id = $1 AND id = {id}",
    "ltm_memory_overview, top 10": "ltm_memory_overview WHERE user_id = $1 AND NOT is_archived "
    "ORDER BY importance_rank DESC LIMIT 10",
    "ltm_memory_overview, by value": "ltm_memory_overview WHERE user_id = $1 "
    "ORDER BY dynamic_importance DESC LIMIT 10",
    "ltm_memory_overview, all": "ltm_memory_overview WHERE user_id = $1",
    "ltm_importance_breakdown, one": "ltm_importance_breakdown WHERE user_id = $1 AND id = {id}",
    "ltm_importance_breakdown, all": "ltm_importance_breakdown WHERE user_id = $1",
    "ltm_memory_graph, one": "ltm_memory_graph WHERE user_id = $1 "
    "AND (source_memory_id = {id} OR target_memory_id = {id})",
    "ltm_memory_graph, all": "ltm_memory_graph WHERE user_id = $1",
    "ltm_context_overview": "ltm_context_overview WHERE user_id = $1",
    "ltm_tag_usage": "ltm_tag_usage WHERE user_id = $1",
    "ltm_access_daily": "ltm_access_daily WHERE user_id = $1",
    "ltm_user_analytics": "ltm_user_analytics WHERE user_id = $1",
    "ltm_stale_memories": "ltm_stale_memories WHERE user_id = $1",
    "ltm_stale_memories, last 10": "ltm_stale_memories WHERE user_id = $1 "
    "ORDER BY importance_rank LIMIT 10",
    "ltm_never_recalled, top 10": "ltm_never_recalled WHERE user_id = $1 "
    "ORDER BY importance_rank DESC LIMIT 10",
    "ltm_never_recalled": "ltm_never_recalled WHERE user_id = $1",
    "ltm_suspected_duplicates": "ltm_suspected_duplicates WHERE user_id = $1",
    "ltm_health": "ltm_health WHERE user_id = $1",
}


async def cost(conn: asyncpg.Connection, read: str, user: int) -> tuple[str, str]:
    """Milliseconds and buffers of a read, and whether it scans a whole table."""
    id_ = await conn.fetchval("SELECT max(id) FROM ltm_memories WHERE user_id = $1", user)
    explain = "EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) SELECT * FROM " + read.format(id=id_)
    times = []
    for _ in range(5):
        text = await conn.fetchval(explain.replace("$1", str(user)))
        plan = json.loads(text)[0]
        times.append(plan["Planning Time"] + plan["Execution Time"])
    scans = " SEQ SCAN" if '"Seq Scan"' in text and "ltm_health" not in read else ""
    touched = plan["Plan"]["Shared Hit Blocks"] + plan["Plan"]["Shared Read Blocks"]
    return f"{statistics.median(times):,.1f}", f"{touched:,}{scans}"


async def main(users: int = USERS, filler: int = FILLER) -> None:
    with servers.server() as dsn:
        migrate.apply(dsn)
        conn = await asyncpg.connect(dsn)
        await populate(conn, users=users, memories=EACH)
        await populate(conn, users=1, memories=LARGE, first_user=HEAVY)
        await populate(conn, users=filler, memories=1, first_user=HEAVY + 1)
        for statement in IN_STEP:
            await conn.execute(statement)
        total = await conn.fetchval("SELECT count(*) FROM ltm_memories")
        titles = ("view", "2,000: ms", "buffers", "100,000: ms", "buffers")
        table = Table(*titles, title=f"views of {total:,} memories")
        for name, read in READS.items():
            table.add_row(name, *await cost(conn, read, ORDINARY), *await cost(conn, read, HEAVY))
        Console(width=120).print(table)
        started = time.monotonic()
        found = await check_health(conn)
        print(f"check_health: {len(found)} problems in {time.monotonic() - started:.1f} s")
        await conn.close()


if __name__ == "__main__":
    asyncio.run(main(*map(int, sys.argv[1:])))
