"""`python -m tests.soak.chaos [adds]`: eight writers while the server and the way to it fail.

Every event of tests/chaos.py in turn until so many adds are acknowledged (100,000 unless told);
ends with 1 where one is lost, torn or doubled, or an error was not one of the library's. Then
the same with synchronous_commit off, which must lose some when the postmaster is killed.
"""

import asyncio
import sys

from rich.console import Console

from tests import chaos, servers
from tests.chaos import EVENTS, Outcome, Scene

console = Console(width=100)
AFTER_EACH = 500  # adds


def told(outcome: Outcome) -> None:
    """Print what became of it."""
    console.print(
        f"{outcome.acknowledged:,} acknowledged: {outcome.lost} lost, {outcome.torn} torn, "
        f"{outcome.doubled} doubled, {outcome.hanging} sessions left in a transaction, "
        f"{len(outcome.raw)} raw errors, longest call {outcome.longest:.1f} s"
    )
    for text, count in outcome.met.most_common():
        console.print(f"{count:7} {text}", markup=False)


async def main(adds: int) -> int:
    """The run, and that of the mutant."""
    with servers.server() as server:
        rounds = max(1, adds // AFTER_EACH // len(EVENTS))
        for mortal in servers.mortal(server):
            outcome = await chaos.run(
                mortal, EVENTS * rounds, AFTER_EACH, lambda line: console.print(line, markup=False)
            )
            told(outcome)
        for mortal in servers.mortal(server):
            await Scene.admin_of(
                mortal,
                "ALTER SYSTEM SET synchronous_commit = off",
                "SELECT pg_reload_conf()",
            )
            mutant = await chaos.run(mortal, (Scene.the_postmaster_is_killed,) * 3, AFTER_EACH)
            console.print(f"with synchronous_commit off: {mutant.lost} lost, as must be")
    well = not (outcome.lost or outcome.torn or outcome.doubled or outcome.hanging or outcome.raw)
    return 0 if well and mutant.lost else 1


if __name__ == "__main__":
    sys.exit(asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 100_000)))
