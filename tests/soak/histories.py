"""`python -m tests.soak.histories [examples]`: thousands of drawn histories of two users.

Each is 60 calls long; ends with 1 and prints the shortest history after which the store differs
from the model of tests/histories.py.
"""

import asyncio
import sys
import time

import asyncpg
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test
from rich.console import Console

from ltm_store import migrate
from tests import histories, servers


async def _calls(dsn: str) -> int:
    """How many statements were sent, as the server counts transactions."""
    connection = await asyncpg.connect(dsn)
    found: int = await connection.fetchval(
        "SELECT xact_commit FROM pg_stat_database WHERE datname = current_database()"
    )
    await connection.close()
    return found


def main(examples: int) -> int:
    """Run them on a server of their own."""
    many = settings(
        max_examples=examples,
        stateful_step_count=60,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    started = time.monotonic()
    with servers.server() as dsn:
        migrate.apply(dsn)
        histories.run(dsn, lambda machine: run_state_machine_as_test(machine, settings=many))
        transactions = asyncio.run(_calls(dsn))
    Console(width=100).print(
        f"{examples} histories, {transactions} transactions, {time.monotonic() - started:.0f} s: "
        "the store is as the model says after each"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 1000))
