"""The commands for those who run the database: users, upkeep, checks, migrations and psql."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer

from ltm_store import embedded, limits
from ltm_store.cli.display import console, print_tabbed, table
from ltm_store.cli.frame import (
    DsnOption,
    JsonOption,
    YesOption,
    command,
    confirm,
    failed,
    moment_of,
    print_json,
    reading,
    resolved_dsn,
    trusts_schema,
)
from ltm_store.cli.progress import embed_all
from ltm_store.db.resources import resource_dir
from ltm_store.embedders import FastEmbedder
from ltm_store.embeddings import embedding_status
from ltm_store.errors import InvalidArgument, LtmError
from ltm_store.maintenance import (
    adoption_repairs,
    adoption_report,
    check_health,
    prune_accesses,
    purge_expired,
)
from ltm_store.model.users import MergeReport, UserSummary
from ltm_store.render.text import legible
from ltm_store.search import count_memories
from ltm_store.users import list_users, merge_users, rename_user


@command("users", "users --limit 20")
def users(
    after: Annotated[str | None, typer.Option(help="The last user of the page before.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=limits.HITS)] = 100,
    as_json: JsonOption = False,
    dsn: DsnOption = None,
) -> None:
    """List the users with their memories: numbers, then names as they came."""

    async def listed() -> list[UserSummary]:
        async with reading(dsn) as db:
            return await list_users(db, after=after, limit=limit)

    found = asyncio.run(listed())
    if as_json:
        print_json(*found)
    elif found:
        console().print(table(("user", "memories"), [(u.name, u.memories) for u in found]))
    else:
        typer.echo("nobody yet" if after is None else "no more")
    if len(found) == limit:
        typer.echo(f"there may be more: --after {legible(str(found[-1].name))}", err=True)


@command("rename-user", "rename-user alice alice@example.org")
def rename(
    user: Annotated[str, typer.Argument(help="The name now.")],
    new: Annotated[str, typer.Argument(help="The name from now on.")],
    as_json: JsonOption = False,
    dsn: DsnOption = None,
) -> None:
    """Give a user known by a name another one."""

    async def renamed() -> None:
        async with reading(dsn) as db:
            if not await rename_user(db, user, new):
                raise LtmError(f"no user {legible(user, 60)}")

    asyncio.run(renamed())
    if as_json:
        print_json({"renamed": new})
    else:
        typer.echo(f"{legible(user, 60)} is {legible(new, 60)} now")


@command("merge-users", "merge-users alice-phone alice")
def merge(
    user: Annotated[str, typer.Argument(metavar="FROM", help="Whose memories move.")],
    into: Annotated[str, typer.Argument(metavar="INTO", help="Who has them then.")],
    yes: YesOption = False,
    as_json: JsonOption = False,
    dsn: DsnOption = None,
) -> None:
    """Make everything of one user another one's. Asks before."""

    async def merged() -> MergeReport:
        async with reading(dsn) as db:
            count = await count_memories(db, user, include_archived=True)
            names = f"{legible(user, 60)} into {legible(into, 60)}"
            confirm(f"merge {count} memories of {names}", yes)
            return await merge_users(db, user, into)

    report = asyncio.run(merged())
    if as_json:
        print_json(report)
    else:
        typer.echo(
            f"{report.counts['ltm_memories']} memories moved, {len(report.renumbered)} with a new "
            f"id, {len(report.cleared)} keys cleared"
        )


@command("embed", "embed --user 42")
def embed(
    user: Annotated[str | None, typer.Option(help="Of this user alone.")] = None,
    model: Annotated[
        str, typer.Option(help="A model that fastembed knows.")
    ] = "BAAI/bge-small-en-v1.5",
    path: Annotated[
        Path | None, typer.Option(help="The folder of its files, else it is downloaded.")
    ] = None,
    as_json: JsonOption = False,
    dsn: DsnOption = None,
) -> None:
    """Give the memories that lack one the vector of a model (extra `fastembed`)."""
    embedder = FastEmbedder(model, path=path)

    async def embedded_now() -> int:
        async with reading(dsn) as db:
            states = {state.model: state for state in await embedding_status(db)}
            done = states.get(model)
            total = done.memories - done.embedded - done.set_aside if done and not user else None
            return await embed_all(db, embedder, user, total, console(stderr=True))

    count = asyncio.run(embedded_now())
    if as_json:
        print_json({"embedded": count})
    else:
        typer.echo(f"{count} memories embedded")


@command("purge", "purge")
def purge(as_json: JsonOption = False, dsn: DsnOption = None) -> None:
    """Delete the memories of all users that have expired."""

    async def purged() -> int:
        async with reading(dsn) as db:
            return await purge_expired(db)

    count = asyncio.run(purged())
    if as_json:
        print_json({"purged": count})
    else:
        typer.echo(f"{count} expired memories deleted")


@command("prune", "prune --older-than 2026-01-01")
def prune(
    older_than: Annotated[
        datetime, typer.Option(parser=moment_of, metavar="MOMENT", help="ISO 8601, UTC if naive.")
    ],
    as_json: JsonOption = False,
    dsn: DsnOption = None,
) -> None:
    """Delete the recorded accesses of all users from before a moment; their sums stay."""

    async def pruned() -> int:
        async with reading(dsn) as db:
            return await prune_accesses(db, older_than)

    count = asyncio.run(pruned())
    if as_json:
        print_json({"pruned": count})
    else:
        typer.echo(f"{count} recorded accesses deleted")


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
    script: Annotated[
        bool, typer.Option("--script", help="SQL for indexes and the like that were left out.")
    ] = False,
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
                if script and repair.row_id is None:
                    typer.echo(f"{repair.original};")
                elif script:
                    continue
                elif as_json:
                    print_json(repair)
                else:
                    print_tabbed(repair.model_dump().values())

    asyncio.run(listed() if rows or script else counted())


@command("migrate", "migrate --dsn postgresql://user@host/db")
def migrate(as_json: JsonOption = False, dsn: DsnOption = None) -> None:
    """Apply the schema: python -m ltm_store.migrate apply."""
    from ltm_store import migrate as migrations

    done = migrations.apply(
        resolved_dsn(dsn),
        report=lambda line: typer.echo(line, err=as_json),
        trust_schema=trusts_schema(),
    )
    if as_json:
        print_json({"applied": list(done)})
    else:
        typer.echo(f"{len(done)} applied" if done else "nothing to apply, the schema is current")


@command("rollback", "rollback --to 0008_adoption_report")
def rollback(
    to: Annotated[str | None, typer.Option(metavar="ID", help="What came after this one.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="Everything.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    as_json: JsonOption = False,
    dsn: DsnOption = None,
) -> None:
    """Roll back the last migration. Tells how many memories that drops, and asks on a terminal."""
    from ltm_store import migrate as migrations

    if everything and to is not None:
        raise typer.BadParameter("goes without --to", param_hint="--all")
    address = resolved_dsn(dsn)
    trust = trusts_schema()
    if lost := migrations.memories_lost(address, to=to, everything=everything, trust_schema=trust):
        what = f"drop {lost} {'memory' if lost == 1 else 'memories'}"
        typer.echo(f"this would {what}", err=True)
        confirm(what, yes or not sys.stdin.isatty())
    done = migrations.rollback(
        address,
        to=to,
        everything=everything,
        report=lambda line: typer.echo(line, err=as_json),
        trust_schema=trust,
    )
    if as_json:
        print_json({"rolled_back": list(done)})
    else:
        typer.echo(f"{len(done)} rolled back" if done else "nothing to roll back")


@command("status", "status")
def status(as_json: JsonOption = False, dsn: DsnOption = None) -> None:
    """Tell which migrations are applied; exit 1 when some are pending, or views are stale."""
    from ltm_store import migrate as migrations

    applied, pending, stale = migrations.status(resolved_dsn(dsn), trust_schema=trusts_schema())
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
    address, secrets = _without_password(resolved_dsn(dsn))
    program = shutil.which("psql") or embedded.psql()
    # The menu includes the user's own ~/.psqlrc. What is piped in finds a plain psql.
    menu = {"PSQLRC": str(resource_dir("sql") / "menu.psql")} if sys.stdin.isatty() else {}
    done = subprocess.run([program, address], check=False, env={**os.environ, **secrets, **menu})
    raise typer.Exit(done.returncode)


def _without_password(address: str) -> tuple[str, dict[str, str]]:
    """A DSN whose password goes by the environment: everybody can read the arguments of psql."""
    from psycopg import ProgrammingError
    from psycopg.conninfo import conninfo_to_dict, make_conninfo

    try:
        parameters = conninfo_to_dict(address)
    except ProgrammingError:
        raise InvalidArgument("dsn", "cannot be read") from None
    password = parameters.pop("password", None)
    if password is None:
        return address, {}
    return make_conninfo("", **parameters), {"PGPASSWORD": str(password)}
