"""Applying the schema: `python -m ltm_store.migrate`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import NamedTuple

from ltm_store import adopt, embedded, unadopt
from ltm_store import dsn as dsns
from ltm_store.errors import LtmError
from ltm_store.resources import migration_ids, optional_steps
from ltm_store.runner import (
    MigrationFailed,
    Report,
    alone,
    applied_ids,
    connected,
    place,
    take,
    take_optional,
)


class Status(NamedTuple):
    """The ids of what is applied and of what is not, each in the order of application."""

    applied: list[str]
    pending: list[str]


def apply(dsn: str, report: Report = lambda line: None) -> list[str]:
    """Apply every pending migration and return their ids; safe to run in several processes at once.

    Where the original application's tables are, they are adopted: see adopt. `report` gets a line
    after each step. Raises MigrationFailed.
    """
    with connected(dsn) as connection, alone(connection, report):
        before = applied_ids(connection)
        if adopt.wanted(connection):
            adopt.adopt(dsn, connection, report)
        applied = applied_ids(connection)
        pending = [name for name in migration_ids() if name not in applied]
        take(dsn, connection, pending, "apply", report)
    return [name for name in migration_ids() if name not in before]


def rollback(
    dsn: str, *, to: str | None = None, everything: bool = False, report: Report = lambda line: None
) -> list[str]:
    """Roll back the last migration, those after the id `to`, or everything; return their ids.

    Everything means the original application's tables where those were adopted and it is not
    finished. Raises MigrationFailed, also when `to` is not applied.
    """
    with connected(dsn) as connection, alone(connection, report):
        applied = applied_ids(connection)
        if adopt.under_way(connection):
            if not everything:
                raise MigrationFailed(
                    "these tables were adopted: only everything goes back (rollback --all), "
                    "until finish_adoption"
                )
            unadopt.go_back(dsn, connection, report)
            return applied[::-1]
        if to is not None and to not in applied:
            raise MigrationFailed(f"{to} is not applied")
        last = [name for name in applied if to is None or name > to][::-1]
        chosen = last if everything or to is not None else last[:1]
        take(dsn, connection, chosen, "rollback", report)
    return chosen


def optional(
    dsn: str, name: str, *, undo: bool = False, report: Report = lambda line: None
) -> None:
    """Take an optional step, or undo it. Raises MigrationFailed."""
    with connected(dsn) as connection, alone(connection, report):
        if name == "finish_adoption" and not undo:
            adopt.reconcile_mirrors(connection, report, everything=True)
        take_optional(connection, name, undo=undo)


def reconcile_mirrors(dsn: str, report: Report = lambda line: None) -> None:
    """Bring tags, links and contexts in step while the old program still writes one side.

    Raises MigrationFailed.
    """
    with connected(dsn) as connection, alone(connection, report):
        adopt.reconcile_mirrors(connection, report, everything=False)


def status(dsn: str) -> Status:
    """What is applied and what is pending. Reads only. Raises MigrationFailed."""
    with connected(dsn) as connection:
        applied = applied_ids(connection)
    return Status(applied, [name for name in migration_ids() if name not in applied])


def _say(line: str) -> None:
    print(line, flush=True)


def main(argv: Sequence[str] | None = None) -> int:
    """The command line: 0 is well, 1 failed or pending, 2 wrong usage."""
    parser = argparse.ArgumentParser(
        prog="python -m ltm_store.migrate", description="Apply the schema of ltm_store."
    )
    parser.add_argument("--dsn", help="the database; else DATABASE_URL, else LTM_DATABASE_URL")
    parser.set_defaults(command="apply")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    for name, meaning in (
        ("apply", "apply what is pending (the default)"),
        ("rollback", "roll back the last migration, dropping its tables with their rows"),
        ("status", "tell what is applied and what is pending"),
        ("reconcile_mirrors", "after an adoption: complete what the old program wrote on one side"),
    ):
        command = commands.add_parser(name, help=meaning)
        command.add_argument("--dsn", default=argparse.SUPPRESS)
        if name == "rollback":
            reach = command.add_mutually_exclusive_group()
            reach.add_argument("--to", metavar="ID", help="roll back what came after this one")
            reach.add_argument("--all", action="store_true", help="roll back everything")
    for name in optional_steps():
        command = commands.add_parser(name, help="an optional step")
        command.add_argument("--dsn", default=argparse.SUPPRESS)
        command.add_argument("--undo", action="store_true", help="undo the step")
    arguments = parser.parse_args(argv)
    try:
        dsn = (
            dsns.normalise(arguments.dsn)
            if arguments.dsn
            else dsns.from_environment("DATABASE_URL", "LTM_DATABASE_URL") or embedded.start()
        )
        match arguments.command:
            case "rollback":
                done = rollback(dsn, to=arguments.to, everything=arguments.all, report=_say)
                _say(f"{len(done)} rolled back" if done else "nothing to roll back")
            case "status":
                applied, pending = status(dsn)
                for name in applied:
                    _say(f"applied  {name}")
                for name in pending:
                    _say(f"pending  {name}")
                return 1 if pending else 0
            case "reconcile_mirrors":
                reconcile_mirrors(dsn, report=_say)
            case name if name in optional_steps():
                optional(dsn, name, undo=arguments.undo, report=_say)
                _say(f"{name} {'undone' if arguments.undo else 'done'} ({place(dsn)})")
            case _:
                done = apply(dsn, report=_say)
                what = f"{len(done)} applied" if done else "nothing to apply, the schema is current"
                _say(f"{what} ({place(dsn)})")
    except LtmError as error:
        print(f"failed: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
