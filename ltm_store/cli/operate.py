"""The commands for those who run the database: checks, migrations and psql."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
from typing import Annotated

import typer

from ltm_store import embedded
from ltm_store.cli.display import console, print_tabbed, table
from ltm_store.cli.frame import (
    DsnOption,
    JsonOption,
    command,
    failed,
    print_json,
    reading,
    resolved_dsn,
)
from ltm_store.db.resources import resource_dir
from ltm_store.maintenance import adoption_repairs, adoption_report, check_health


@command("health", "health --json")
def health(as_json: JsonOption = False, dsn: DsnOption = None) -> None:
    """Check the stored rows of all users; exit 1 when something is wrong."""

    async def checked() -> int:
        async with reading(dsn) as db:
            problems = await check_health(db)
        if as_json:
            print_json(*problems)
        elif problems:
            rows = [(p.check_name, p.user_id, p.subject, p.detail) for p in problems]
            console().print(table(("check", "user", "subject", "detail"), rows))
        else:
            typer.echo("all is well")
        return len(problems)

    if count := asyncio.run(checked()):
        raise failed(f"{count} {'problems' if count > 1 else 'problem'} found")


@command("adoption-report", "adoption-report --rows --user 42")
def adoption(
    user: Annotated[str | None, typer.Option(help="Of this user alone.")] = None,
    rows: Annotated[bool, typer.Option("--rows", help="Each single value, as it was.")] = False,
    as_json: JsonOption = False,
    dsn: DsnOption = None,
) -> None:
    """Tell what was repaired when the tables of an older program became these."""

    async def counted() -> None:
        async with reading(dsn) as db:
            counts = await adoption_report(db, user_id=user)
        if as_json:
            print_json(*counts)
        elif counts:
            found = [(c.table_name, c.column_name, c.rule, c.repairs) for c in counts]
            console().print(table(("table", "column", "rule", "repairs"), found))
        else:
            typer.echo("nothing was repaired")

    async def listed() -> None:
        async with reading(dsn) as db:
            async for repair in adoption_repairs(db, user_id=user):
                if as_json:
                    print_json(repair)
                else:
                    print_tabbed(repair.model_dump().values())

    asyncio.run(listed() if rows else counted())


@command("migrate", "migrate --dsn postgresql://user@host/db")
def migrate(as_json: JsonOption = False, dsn: DsnOption = None) -> None:
    """Apply the schema: python -m ltm_store.migrate apply."""
    from ltm_store import migrate as migrations

    done = migrations.apply(resolved_dsn(dsn), report=lambda line: typer.echo(line, err=as_json))
    if as_json:
        print_json({"applied": list(done)})
    else:
        typer.echo(f"{len(done)} applied" if done else "nothing to apply, the schema is current")


@command("status", "status")
def status(as_json: JsonOption = False, dsn: DsnOption = None) -> None:
    """Tell which migrations are applied; exit 1 when some are pending, or views are stale."""
    from ltm_store import migrate as migrations

    applied, pending, stale = migrations.status(resolved_dsn(dsn))
    if as_json:
        print_json({"applied": list(applied), "pending": list(pending), "stale_views": list(stale)})
    else:
        for word, names in (("applied", applied), ("pending", pending), ("stale", stale)):
            for name in names:
                typer.echo(f"{word:7}  {name}")
    if pending or stale:
        what = f"{len(pending)} pending, {len(stale)} views stale"
        raise failed(f"{what}, run: ltm-store migrate")


@command("psql", "psql")
def psql(dsn: DsnOption = None) -> None:
    """Open the database in psql, with a menu of what to try."""
    address = resolved_dsn(dsn)
    program = shutil.which("psql") or embedded.psql()
    # The menu includes the user's own ~/.psqlrc. What is piped in finds a plain psql.
    menu = {"PSQLRC": str(resource_dir("sql") / "menu.psql")} if sys.stdin.isatty() else {}
    done = subprocess.run([program, address], check=False, env={**os.environ, **menu})
    raise typer.Exit(done.returncode)
