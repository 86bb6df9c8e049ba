"""`python -m tests.soak.adopt [memories]`: adopt a big database while its application uses it.

Four readers and two writers of the original's statements, of memories of a thousand users and of
their details by the memory's id alone, run all along. Prints the time of each step, the longest
call of each kind before, during and after, and the errors; ends with 1 when a row or a value is
lost.
"""

import asyncio
import random
import sys
import time
from collections import Counter

import asyncpg
from rich.console import Console
from rich.table import Table

from ltm_store import migrate
from tests import originals, servers
from tests.old_program import OldProgram

READERS, WRITERS = 4, 2
USERS = 1_000
SECONDS = 30  # before, and after
KINDS = ("read of a memory", "read of details", "write of a memory", "delete of details")
MEMORY_READ, DETAILS_READ, MEMORY_WRITE, DETAILS_DELETE = KINDS
console = Console(width=100)


class Load:
    """What the program does until told to stop: its longest calls, errors, what it wrote."""

    def __init__(self, program: OldProgram, memories: int) -> None:
        self.program = program
        self.memories = memories
        self.running = True
        self.longest = dict.fromkeys(KINDS, 0.0)
        self.calls: Counter[str] = Counter()
        self.errors: Counter[str] = Counter()
        self.added: dict[int, str] = {}
        self.touched: dict[int, int] = {}
        self.removed: list[int] = []

    def take_longest(self) -> dict[str, float]:
        """The longest call of each kind since the last time."""
        taken, self.longest = self.longest, dict.fromkeys(KINDS, 0.0)
        return taken

    async def _timed(self, kind, call):
        """Whether the call went well, and what it gave."""
        started = time.perf_counter()
        try:
            return True, await call
        except Exception as error:
            self.errors[f"{type(error).__name__}: {str(error)[:90]}"] += 1
            return False, None
        finally:
            self.longest[kind] = max(self.longest[kind], time.perf_counter() - started)
            self.calls[kind] += 1

    async def read(self, draw: random.Random) -> None:
        while self.running:
            id_ = draw.randint(1, self.memories)
            await self._timed(MEMORY_READ, self.program.get(id_, user_of(id_)))
            await self._timed(DETAILS_READ, self.program.details(id_))

    async def write(self, draw: random.Random) -> None:
        while self.running:
            content = f"written {draw.random()}"
            tags = ["tea", f"t{draw.random()}"]
            well, id_ = await self._timed(MEMORY_WRITE, self.program.add(content, tags))
            if well and draw.random() < 0.2:
                well, _ = await self._timed(MEMORY_WRITE, self.program.remove(id_))
                if well:
                    self.removed.append(id_)
            elif well:
                self.added[id_] = content
            id_ = draw.randint(1, self.memories)
            await self._timed(DETAILS_DELETE, self.program.remove_details(id_))
            id_, count = draw.randint(1, self.memories), draw.randint(1, 1000)
            well, _ = await self._timed(MEMORY_WRITE, self.program.touch(id_, access_count=count))
            if well:
                self.touched[id_] = count
            await asyncio.sleep(0)


def user_of(id_: int) -> int:
    return 1 + id_ % USERS


async def prepared(dsn: str, memories: int) -> None:
    connection = await asyncpg.connect(dsn)
    await connection.execute(originals.level_1())
    await connection.execute(
        "INSERT INTO users (name) SELECT 'user ' || n FROM generate_series(6, $1) AS n", USERS
    )
    await originals.fill(connection, memories)
    await connection.execute("UPDATE ltm_memories SET user_id = 1 + id % $1", USERS)
    await connection.execute("VACUUM ANALYZE")
    await connection.close()


async def run(server: str, memories: int, statements_kept: int) -> bool:
    admin = await asyncpg.connect(server)
    await admin.execute("DROP DATABASE IF EXISTS ltm_soak WITH (FORCE)")
    await admin.execute("CREATE DATABASE ltm_soak")
    await admin.close()
    dsn = servers.with_database(server, "ltm_soak")
    await prepared(dsn, memories)
    program = OldProgram(dsn, statements_kept)
    load = Load(program, memories)
    tasks = [asyncio.create_task(load.read(random.Random(n))) for n in range(READERS)]
    tasks += [asyncio.create_task(load.write(random.Random(-n))) for n in range(1, 1 + WRITERS)]
    await asyncio.sleep(SECONDS)
    longest = {"before": load.take_longest()}
    started = time.perf_counter()
    seen: list[tuple[float, float, str]] = []

    def report(line: str) -> None:
        seen.append((time.perf_counter() - started, max(load.longest.values()), line))

    await asyncio.to_thread(migrate.apply, dsn, report)
    seconds = time.perf_counter() - started
    longest["during"] = load.take_longest()
    await asyncio.sleep(SECONDS)
    longest["after"] = load.take_longest()
    load.running = False
    await asyncio.gather(*tasks)
    for moment, until_then, line in seen:
        if not line.startswith(("copying", "changes")) or ", 0 s left" in line:
            text = f"{moment:6.1f} s, longest call {until_then * 1e3:4.0f} ms  {line}"
            console.print(text, markup=False)
    console.print(
        f"{memories:,} memories in {seconds:.0f} s under {load.calls.total():,} calls, "
        f"statements kept: {statements_kept}"
    )
    table = Table("longest call, ms", "calls", *longest)
    for kind in KINDS:
        times = (f"{part[kind] * 1e3:,.0f}" for part in longest.values())
        table.add_row(kind, f"{load.calls[kind]:,}", *times)
    console.print(table)
    console.print(f"errors: {dict(load.errors) or 'none'}")
    connection = await asyncpg.connect(dsn)
    found: int = await connection.fetchval("SELECT count(*) FROM ltm_memories")
    rows = await connection.fetch(
        "SELECT id, content, access_count FROM ltm_memories WHERE id = ANY($1)",
        [*load.added, *load.touched],
    )
    left = await connection.fetchval(
        "SELECT count(*) FROM ltm_memories WHERE id = ANY($1)", load.removed
    )
    await asyncio.to_thread(migrate.optional, dsn, "finish_adoption")
    problems = await connection.fetch("SELECT check_name, subject FROM ltm_health")
    console.print(f"health after the end: {problems or 'nothing'}", markup=False)
    await connection.close()
    await program.close()
    now = {row["id"]: row for row in rows}
    lost = sum(now[id_]["content"] != content for id_, content in load.added.items())
    stale = sum(now[id_]["access_count"] != count for id_, count in load.touched.items())
    console.print(
        f"added {len(load.added):,}, touched {len(load.touched):,}; lost {lost}, {stale}, {left}"
    )
    return bool(lost == stale == left == 0 and found >= memories + len(load.added) and not problems)


async def main() -> int:
    memories = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    with servers.server() as server:
        well = [await run(server, memories, kept) for kept in (0, 100)]
    return 0 if all(well) else 1


sys.exit(asyncio.run(main()))
