"""The commands that bring memories in and out: import and export."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, TextIO

import typer

from ltm_store.cli.display import console
from ltm_store.cli.files import STANDARD, is_standard, writing
from ltm_store.cli.frame import (
    DsnOption,
    JsonOption,
    OutputOption,
    UserOption,
    command,
    failed,
    note_unknown,
    print_json,
    reading,
)
from ltm_store.cli.lines import Line, good_lines, read_lines
from ltm_store.cli.progress import export_lines, import_lines
from ltm_store.model.transfer import ImportReport, RefusedMemory
from ltm_store.render.text import legible
from ltm_store.transfer import Numbered


class OnError(StrEnum):
    """What becomes of a file with lines that cannot be imported."""

    RAISE = "raise"
    SKIP = "skip"


@command("import", "import memories.jsonl --user alice")
def import_file(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="- is standard input.")],
    user: Annotated[str, typer.Option(help="Whose memories they become: a number or a name.")],
    check: Annotated[bool, typer.Option("--check", help="Tell all bad lines, write nothing.")] = (
        False
    ),
    on_error: Annotated[
        OnError, typer.Option(help="A bad line refuses all, or is left out.")
    ] = OnError.RAISE,
    rejects: Annotated[
        Path | None, typer.Option(help="With --on-error skip: a file for what is left out.")
    ] = None,
    again: Annotated[
        bool, typer.Option("--again", help="Also lines that were imported before.")
    ] = False,
    as_json: JsonOption = False,
    dsn: DsnOption = None,
) -> None:
    """Import JSON Lines, one memory a line (the keywords of add_memory), all or nothing.

    What was imported before is passed over, so that a file can be imported again.
    """
    if rejects is not None and (on_error is OnError.RAISE or check):
        raise typer.BadParameter("goes with --on-error skip", param_hint="--rejects")
    lines = read_lines(_read(file))
    bad = [line for line in lines if line.problems]
    if check:
        _tell_all(lines, bad, as_json)
        return
    if bad and on_error is OnError.RAISE:
        more = f" (and {len(bad) - 1} more lines; --check tells all)" if bad[1:] else ""
        raise failed(next(bad[0].told()) + more)
    good = good_lines(lines, again=again)
    if bad and rejects is not None:
        with writing(rejects) as stream:
            stream.writelines(line.text.rstrip("\r") + "\n" for line in bad)
            report = asyncio.run(_import(dsn, user, good))
    else:
        report = asyncio.run(_import(dsn, user, good))
    _tell(report, bad, as_json)


def _read(file: Path) -> bytes:
    if str(file) == STANDARD:
        return sys.stdin.buffer.read()
    if file.is_dir() or not file.exists():
        raise typer.BadParameter(f"{legible(str(file))} is not a file", param_hint="FILE")
    return file.read_bytes()


def _tell_all(lines: list[Line], bad: list[Line], as_json: bool) -> None:
    for line in bad:
        if as_json:
            for field, rule in line.problems:
                print_json({"line": line.number, "field": field, "rule": rule})
        else:
            for told in line.told():
                typer.echo(legible(told))
    if bad:
        raise failed(f"{len(bad)} of {len(lines)} lines cannot be imported")
    if not as_json:
        typer.echo(f"{len(lines)} lines, all can be imported")


def _tell(report: ImportReport, bad: list[Line], as_json: bool) -> None:
    if as_json:
        refused = tuple(
            RefusedMemory(index=line.number - 1, field=field, rule=rule)
            for line in bad
            for field, rule in line.problems[:1]
        )
        print_json(report.model_copy(update={"refused": refused}))
        return
    for line in bad:
        for told in line.told():
            typer.echo(legible(told), err=True)
    refused_lines = f", {len(bad)} lines left out" if bad else ""
    typer.echo(
        f"{report.created} memories created, {report.existing} were there already, "
        f"{report.relationships} relationships{refused_lines}"
    )


async def _import(dsn: str | None, user: str, lines: Sequence[Numbered]) -> ImportReport:
    async with reading(dsn) as db:
        return await import_lines(db, user, lines, console(stderr=True))


@command("export", "export --user alice --output alice.jsonl")
def export(
    user: UserOption,
    output: OutputOption = None,
    with_embeddings: Annotated[
        bool, typer.Option("--with-embeddings", help="With their vectors, which are long.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="They are JSON Lines anyhow.")] = False,
    dsn: DsnOption = None,
) -> None:
    """Write all memories of a user as JSON Lines, which import reads."""
    with writing(output) as stream:
        count = asyncio.run(_export(dsn, user, stream, with_embeddings))
    if not is_standard(output):
        typer.echo(f"{count} memories exported", err=True)


async def _export(dsn: str | None, user: str, stream: TextIO, with_embeddings: bool) -> int:
    async with reading(dsn) as db:
        count = await export_lines(
            db, user, stream, console(stderr=True), with_embeddings=with_embeddings
        )
        if not count:
            await note_unknown(db, user)
        return count
