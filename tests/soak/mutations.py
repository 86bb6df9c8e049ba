"""`python -m tests.soak.mutations`: each condition on user_id taken out of the statements in turn.

The static check of tests/isolation.py looks at each text without it, and where that sees nothing
the calls of tests/twins.py run with it. Prints how many there are and what caught them; ends with 1
where something survives that is not named in EQUIVALENT.
"""

import asyncio
import logging
import re
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import asyncpg
from rich.console import Console

from ltm_store import migrate
from ltm_store.db.statements import Statement, statements
from tests import isolation, servers, twins
from tests.conftest import has_vector
from tests.test_statements import shapes
from tests.twins import CALLS, FOR_ALL, Call, World

_CONDITION = re.compile(r"\b\w+\.user_id = (?:any\(\$\d+(?:::bigint\[\])?\)|\$\d+|\w+\.user_id)")
_SECONDS = 120  # in which the calls with a mutant must end
ON_CITUS = "says to Citus once more what stands before it"
EQUIVALENT = {
    ("search_memories", "AND m.user_id = $1  -- if distributed"): ON_CITUS,
    ("prune_accesses", "ON p.user_id = a.user_id AND p.id = a.id  -- if not distributed"): (
        "locks rows of others too; which are deleted says the page"
    ),
    ("list_users", "WHERE c.user_id = l.user_id"): "runs on Citus alone, and fails there without",
    **{
        ("numbers_of_both", condition): "a number is drawn anew although it was free"
        for condition in ["WHERE o.user_id = $2", *(f"{row}.user_id = $1" for row in "mclat")]
    },
}
"""What may be taken out, by statement and line, and why."""

console = Console(width=100)
Mutant = tuple[str, Statement]


def mutants(statement: Statement) -> Iterator[Mutant]:
    """The statement without each condition on user_id, and the line on which that stands."""
    for number, line in enumerate(statement.lines):
        for found in _CONDITION.finditer(line):
            lines = list(statement.lines)
            lines[number] = f"{line[: found.start()]}TRUE{line[found.end() :]}"
            yield line.strip(), replace(statement, lines=tuple(lines), _shapes={})


def is_seen(mutant: Statement) -> bool:
    """Whether the static check sees that a condition is missing."""
    if mutant.all_users:
        return False
    rule = isolation.OF_A_LIST if mutant.kind == "many-users" else isolation.OF_ONE_USER
    return any(isolation.read(shape.sql, rule)[1] for shape in shapes(mutant))


@contextmanager
def in_place(mutant: Statement) -> Iterator[None]:
    """The mutant runs instead of the statement."""
    original = statements()[mutant.name]
    statements()[mutant.name] = mutant
    yield
    statements()[mutant.name] = original


class _Names(logging.Handler):
    """Which statements run, by the log."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        self.seen.add(record.getMessage().partition(":")[0])


async def users_of(world: World, *, vectors: bool) -> dict[str, list[tuple[str, Call]]]:
    """The calls that use a statement, by its name."""
    handler, log = _Names(), logging.getLogger("ltm_store.statements")
    log.addHandler(handler)
    log.setLevel(logging.DEBUG)
    found: defaultdict[str, list[tuple[str, Call]]] = defaultdict(list)
    for name, calls in (CALLS | FOR_ALL).items():
        for call in calls if vectors or name not in twins.VECTORS else []:
            handler.seen.clear()
            await world.outcome(call)
            for statement in handler.seen:
                found[statement].append((name, call))
    log.setLevel(logging.WARNING)
    log.removeHandler(handler)
    return found


async def noticed(
    worlds: tuple[World, World], made: list[str], calls: list[tuple[str, Call]], *, vectors: bool
) -> str | None:
    """The first call for which the twins make a difference."""
    for name, call in calls:
        try:
            if await twins.differences(*worlds, call, for_all=name in FOR_ALL):
                return name
        except Exception as error:
            return f"{name}: {type(error).__name__}"
    outcomes = []
    for dsn in made:
        try:
            outcomes.append(await twins.through_a_database(dsn, vectors=vectors))
        except Exception as error:
            return f"a Database: {type(error).__name__}"
    return None if outcomes[0] == outcomes[1] else "a Database"


async def _made(server: str, name: str, template: str) -> str:
    admin = await asyncpg.connect(server)
    await admin.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
    await admin.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
    await admin.close()
    return servers.with_database(server, name)


async def survivors(server: str, left: list[Mutant], counts: Counter[str]) -> list[str]:
    """Run the twins with each mutant; those that nothing notices and that are not equivalent."""
    dsn = await _made(server, "ltm_mutants", "template1")
    await asyncio.to_thread(migrate.apply, dsn)
    connection = await asyncpg.connect(dsn)
    vectors = await has_vector(connection)
    await connection.close()
    if vectors:
        await asyncio.to_thread(migrate.optional, dsn, "embeddings")
    for beside in (False, True):
        filled = await _made(server, f"ltm_twins_{beside:d}", "ltm_mutants")
        connection = await asyncpg.connect(filled)
        await twins.build(connection, twins=beside, vectors=vectors)
        await connection.close()
    found = []
    calls: dict[str, list[tuple[str, Call]]] = {}
    for line, mutant in left:
        made = [await _made(server, f"ltm_made_{n}", f"ltm_twins_{n}") for n in range(2)]
        opened = [await asyncpg.connect(one) for one in made for _ in range(2)]
        worlds = (await World.of(*opened[:2]), await World.of(*opened[2:]))
        calls = calls or await users_of(worlds[1], vectors=vectors)
        with in_place(mutant):
            try:
                async with asyncio.timeout(_SECONDS):
                    using = calls.get(mutant.name, [])
                    told = await noticed(worlds, made, using, vectors=vectors)
            except TimeoutError:
                told = "no end"
        for connection in opened:
            await connection.close()
        if told:
            counts["caught by twins"] += 1
        elif (mutant.name, line) in EQUIVALENT:
            counts["equivalent"] += 1
        else:
            found.append(f"{mutant.name}: {line}")
        console.print(f"{mutant.name}: {line}: {told}", markup=False)
    return found


async def main() -> int:
    """All mutants; the table of what caught them."""
    every = [mutant for statement in statements().values() for mutant in mutants(statement)]
    left = [(line, mutant) for line, mutant in every if not is_seen(mutant)]
    counts = Counter({"removed": len(every), "caught by the static check": len(every) - len(left)})
    with servers.server() as server:
        found = await survivors(server, left, counts)
    for words, count in counts.items():
        console.print(f"{count:5} {words}")
    console.print(f"{len(found):5} survive" + "".join(f"\n      {one}" for one in found))
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
