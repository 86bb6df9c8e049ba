"""The command line: `ltm-store`."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Annotated

try:
    import typer
    from rich.console import Console
except ImportError:
    raise SystemExit("failed: install ltm_store[cli], which brings typer and rich") from None

from ltm_store import dsn as dsns
from ltm_store import embedded
from ltm_store.database import connect
from ltm_store.demo import import_with_progress, show
from ltm_store.errors import InvalidMemory, LtmError
from ltm_store.models import ImportReport
from ltm_store.resources import read_lines, resource_dir

app = typer.Typer(
    help="The long-term memory of an AI assistant, in PostgreSQL. "
    "Works on LTM_DATABASE_URL, else DATABASE_URL, else on a server of its own.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def _fail(error: LtmError) -> typer.Exit:
    typer.echo(f"failed: {error}", err=True)
    return typer.Exit(1)


@app.command("import")
def import_file(
    file: Annotated[Path, typer.Argument(exists=True, dir_okay=False, readable=True)],
    user: Annotated[str, typer.Option(help="Whose memories they become: a number or a name.")],
) -> None:
    """Import a JSON Lines file, one memory a line (the keywords of add_memory), all or nothing."""
    try:
        report = asyncio.run(_import(user, read_lines(file)))
    except LtmError as error:
        raise _fail(error) from None
    except UnicodeDecodeError:
        raise _fail(InvalidMemory("file", "not UTF-8 text")) from None
    typer.echo(
        f"{report.created} memories created, {report.existing} were there already, "
        f"{report.relationships} relationships"
    )


async def _import(user: str, lines: list[str]) -> ImportReport:
    async with connect() as db:
        return await import_with_progress(db, user, lines, Console(stderr=True))


@app.command()
def demo() -> None:
    """Show what the store does, on a year of one user's memories that come with the package."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=110)
    try:
        asyncio.run(_demo(console))
    except LtmError as error:
        raise _fail(error) from None


async def _demo(console: Console) -> None:
    async with connect(access_tracking="off") as db:  # the demo shows the accesses it records
        await show(db, console)


@app.command()
def psql() -> None:
    """Open the database in psql, with a menu of what to try."""
    try:
        dsn = dsns.from_environment("LTM_DATABASE_URL", "DATABASE_URL") or embedded.start()
        command = shutil.which("psql") or embedded.psql()
    except LtmError as error:
        raise _fail(error) from None
    # The menu includes the user's own ~/.psqlrc. What is piped in finds a plain psql.
    menu = {"PSQLRC": str(resource_dir("sql") / "menu.psql")} if sys.stdin.isatty() else {}
    done = subprocess.run([command, dsn], check=False, env={**os.environ, **menu})
    raise typer.Exit(done.returncode)


if __name__ == "__main__":
    app()
