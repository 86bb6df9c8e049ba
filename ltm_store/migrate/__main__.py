"""The command line: `python -m ltm_store.migrate`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from ltm_store import embedded
from ltm_store.db import dsn as dsns
from ltm_store.db.resources import optional_steps
from ltm_store.errors import LtmError
from ltm_store.migrate import (
    apply,
    is_distributed,
    memories_lost,
    optional,
    reconcile_mirrors,
    rollback,
    status,
)
from ltm_store.migrate.runner import place


def _say(line: str) -> None:
    print(line, flush=True)


def _agreed(lost: int, yes: bool) -> bool:
    """Tell how many memories go, and on a terminal ask whether they may."""
    told = f"this drops {lost} {'memory' if lost == 1 else 'memories'}"
    if yes or not sys.stdin.isatty():
        _say(told)
        return True
    return input(f"{told}, go on? [y/N] ").strip().lower() in ("y", "yes")


def main(argv: Sequence[str] | None = None) -> int:
    """The command line: 0 is well, 1 failed or pending, 2 wrong usage."""
    parser = argparse.ArgumentParser(
        prog="python -m ltm_store.migrate", description="Apply the schema of ltm_store."
    )
    parser.add_argument(
        "--dsn",
        help="the database; else LTM_DATABASE_URL, else DATABASE_URL, else the embedded server",
    )
    trust = "accept a schema in which other roles may create"
    parser.add_argument("--trust-schema", action="store_true", help=trust)
    parser.set_defaults(command="apply")
    common = argparse.ArgumentParser(add_help=False, argument_default=argparse.SUPPRESS)
    common.add_argument("--dsn")
    common.add_argument("--trust-schema", action="store_true", help=trust)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    for name, meaning in (
        ("apply", "apply what is pending (the default)"),
        ("rollback", "roll back the last migration, dropping its tables with their rows"),
        ("status", "tell what is applied and what is pending"),
        (
            "reconcile_mirrors",
            "after an adoption: complete what the original application wrote on one side",
        ),
    ):
        command = commands.add_parser(name, help=meaning, parents=[common])
        if name == "rollback":
            reach = command.add_mutually_exclusive_group()
            reach.add_argument("--to", metavar="ID", help="roll back what came after this one")
            reach.add_argument("--all", action="store_true", help="roll back everything")
            command.add_argument("--yes", action="store_true", help="do not ask")
    for name in optional_steps():
        command = commands.add_parser(name, help="an optional step", parents=[common])
        command.add_argument("--undo", action="store_true", help="undo the step")
    arguments = parser.parse_args(argv)
    try:
        target = dsns.target(arguments.dsn)
        dsn = target.libpq if target else embedded.start()
        trust_schema = arguments.trust_schema
        match arguments.command:
            case "rollback":
                to, everything = arguments.to, arguments.all
                lost = memories_lost(dsn, to=to, everything=everything, trust_schema=trust_schema)
                if lost and not _agreed(lost, arguments.yes):
                    print("failed: nothing was rolled back", file=sys.stderr)
                    return 1
                done = rollback(
                    dsn, to=to, everything=everything, report=_say, trust_schema=trust_schema
                )
                _say(f"{len(done)} rolled back" if done else "nothing to roll back")
            case "status":
                applied, pending, stale = status(dsn, trust_schema=trust_schema)
                for word, names in (("applied", applied), ("pending", pending), ("stale", stale)):
                    for name in names:
                        _say(f"{word:7}  {name}")
                if is_distributed(dsn, trust_schema=trust_schema):
                    _say("distributed over the nodes of Citus")
                return 1 if pending or stale else 0
            case "reconcile_mirrors":
                reconcile_mirrors(dsn, report=_say, trust_schema=trust_schema)
            case name if name in optional_steps():
                undo = arguments.undo
                optional(dsn, name, undo=undo, report=_say, trust_schema=trust_schema)
                _say(f"{name} {'undone' if undo else 'done'} ({place(dsn)})")
            case _:
                done = apply(dsn, report=_say, trust_schema=trust_schema)
                what = f"{len(done)} applied" if done else "nothing to apply, the schema is current"
                _say(f"{what} ({place(dsn)})")
    except LtmError as error:
        print(f"failed: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
