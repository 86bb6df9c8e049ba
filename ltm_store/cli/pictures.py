"""The commands that draw: graph and report."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Final

import typer

from ltm_store import limits
from ltm_store.cli.files import STANDARD, is_standard, writing
from ltm_store.cli.frame import (
    DsnOption,
    JsonOption,
    MemoryArgument,
    OutputOption,
    UserOption,
    command,
    json_text,
    no_memory,
    note_unknown,
    print_json,
    reading,
)
from ltm_store.graph import memory_graph
from ltm_store.model.relationships import Graph
from ltm_store.render.flowchart import to_dot, to_mermaid
from ltm_store.render.svg import to_svg
from ltm_store.report import render_report


class Format(StrEnum):
    """What a graph can be written as."""

    MERMAID = "mermaid"
    DOT = "dot"
    SVG = "svg"


_DRAWN: Final[dict[Format, Callable[[Graph], str]]] = {
    Format.MERMAID: to_mermaid,
    Format.DOT: to_dot,
    Format.SVG: to_svg,
}
_SUFFIXES: Final = {".svg": Format.SVG, ".dot": Format.DOT, ".gv": Format.DOT}


@command("graph", "graph 42 --user alice --depth 3 --output around.svg")
def graph(
    user: UserOption,
    memory_id: MemoryArgument,
    depth: Annotated[int, typer.Option(min=1, max=limits.DEPTH, help="Relationships away.")] = 2,
    limit: Annotated[int, typer.Option(min=1, max=limits.GRAPH, help="Memories beside it.")] = 30,
    form: Annotated[
        Format | None,
        typer.Option("--format", help="Else by the file's name, else mermaid."),
    ] = None,
    output: OutputOption = None,
    as_json: JsonOption = False,
    dsn: DsnOption = None,
) -> None:
    """Draw the memories around one and the relationships among them."""

    async def around() -> Graph:
        async with reading(dsn) as db:
            found = await memory_graph(db, user, memory_id, depth=depth, limit=limit)
            if found is None:
                raise await no_memory(db, user, memory_id)
        return found

    found = asyncio.run(around())
    chosen = form or _SUFFIXES.get(output.suffix.lower() if output else "", Format.MERMAID)
    with writing(output) as stream:
        plain = found.model_dump(mode="json")
        stream.write(json_text(plain, stream) + "\n" if as_json else _DRAWN[chosen](found))


@command("report", "report alice --output alice.html")
def report(
    name: Annotated[str | None, typer.Argument(metavar="USER", help="The same as --user.")] = None,
    user: Annotated[str | None, typer.Option(help="A number or a name.")] = None,
    output: Annotated[Path, typer.Option(help="The HTML file.")] = Path(STANDARD),
    as_json: JsonOption = False,
    dsn: DsnOption = None,
) -> None:
    """Write one page of HTML on a user: figures, charts, lists; it loads nothing."""
    whose = user or name
    if whose is None or None not in (user, name):
        raise typer.BadParameter("say once whose memories", param_hint="USER")

    async def rendered() -> str:
        async with reading(dsn) as db:
            await note_unknown(db, whose)
            return await render_report(db, whose)

    page = asyncio.run(rendered())
    with writing(output) as stream:
        stream.write(page)
    if not is_standard(output):
        size = len(page.encode())
        if as_json:
            print_json({"file": str(output), "bytes": size})
        else:
            typer.echo(f"{output}: {-(-size // 1024)} kB")
