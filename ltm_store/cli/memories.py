"""The commands on a user's memories: import, export, search and show."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Annotated, Final, TextIO

import typer

from ltm_store import limits
from ltm_store.accesses import access_history
from ltm_store.cli.display import console, show_hits, show_memory
from ltm_store.cli.frame import (
    DsnOption,
    JsonFilter,
    JsonOption,
    MemoryArgument,
    OutputOption,
    UserOption,
    When,
    command,
    is_standard,
    no_memory,
    print_json,
    reading,
    writing,
)
from ltm_store.cli.progress import export_lines, import_lines
from ltm_store.database import connect
from ltm_store.db.resources import lines_of
from ltm_store.errors import InvalidMemory
from ltm_store.memories import get_memory
from ltm_store.model.search import FilterOptions, MemoryHit
from ltm_store.model.transfer import ImportReport
from ltm_store.search import search_memories
from ltm_store.tags import list_tags

_HISTORY: Final = 20  # accesses that show lists


@command("import", "import memories.jsonl --user alice")
def import_file(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="- is standard input.")],
    user: Annotated[str, typer.Option(help="Whose memories they become: a number or a name.")],
    as_json: JsonOption = False,
    dsn: DsnOption = None,
) -> None:
    """Import JSON Lines, one memory a line (the keywords of add_memory), all or nothing."""
    if not (is_standard(file) or file.is_file()):
        raise typer.BadParameter(f"{file} is not a file")
    report = asyncio.run(_import(dsn, user, _lines(file)))
    if as_json:
        print_json(report)
        return
    typer.echo(
        f"{report.created} memories created, {report.existing} were there already, "
        f"{report.relationships} relationships"
    )


def _lines(file: Path) -> list[str]:
    data = sys.stdin.buffer.read() if is_standard(file) else file.read_bytes()
    try:
        return lines_of(data.decode("utf-8-sig"))
    except UnicodeDecodeError:
        raise InvalidMemory("file", "not UTF-8 text") from None


async def _import(dsn: str | None, user: str, lines: list[str]) -> ImportReport:
    async with connect(dsn) as db:
        return await import_lines(db, user, lines, console(stderr=True))


@command("export", "export --user alice --output alice.jsonl")
def export(
    user: UserOption,
    output: OutputOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="They are JSON Lines anyhow.")] = False,
    dsn: DsnOption = None,
) -> None:
    """Write all memories of a user as JSON Lines, which import reads."""
    with writing(output) as stream:
        count = asyncio.run(_export(dsn, user, stream))
    if not is_standard(output):
        typer.echo(f"{count} memories exported", err=True)


async def _export(dsn: str | None, user: str, stream: TextIO) -> int:
    async with reading(dsn) as db:
        return await export_lines(db, user, stream, console(stderr=True))


@command("search", 'search "coffee and headaches" --user alice --tag work')
def search(
    user: UserOption,
    query: Annotated[
        str | None, typer.Argument(help='Words, "phrases", -exclusions; none: by importance.')
    ] = None,
    tag: Annotated[list[str] | None, typer.Option(help="All of these tags (repeat it).")] = None,
    any_tag: Annotated[list[str] | None, typer.Option(help="One of these (repeat it).")] = None,
    without_tag: Annotated[list[str] | None, typer.Option(help="Not this (repeat it).")] = None,
    memory_type: Annotated[str | None, typer.Option("--type", help="The memory type.")] = None,
    category: Annotated[str | None, typer.Option(help="The category.")] = None,
    source_type: Annotated[str | None, typer.Option(help="The kind of source.")] = None,
    source_id: Annotated[str | None, typer.Option("--source", help="The source's id.")] = None,
    created_by: Annotated[str | None, typer.Option(help="Who wrote them.")] = None,
    context: JsonFilter = None,
    metadata: JsonFilter = None,
    min_importance: Annotated[int | None, typer.Option(help="Of the score as written.")] = None,
    min_confidence: Annotated[float | None, typer.Option(help="0 to 1.")] = None,
    created_after: When = None,
    created_before: When = None,
    accessed_after: When = None,
    as_of: When = None,
    archived: Annotated[bool, typer.Option("--archived", help="Archived ones too.")] = False,
    limit: Annotated[int, typer.Option(min=1, max=limits.HITS)] = 10,
    as_json: JsonOption = False,
    dsn: DsnOption = None,
) -> None:
    """Search the memories of a user; best first, each with its score and why it is there."""
    filters = FilterOptions(
        tags=tag or None,
        tags_any=any_tag or None,
        tags_none=without_tag or None,
        memory_type=memory_type,
        category=category,
        source_type=source_type,
        source_id=source_id,
        created_by=created_by,
        context_data=context,
        metadata=metadata,
        min_importance=min_importance,
        min_confidence=min_confidence,
        created_after=created_after,
        created_before=created_before,
        accessed_after=accessed_after,
        include_archived=archived,
    )

    async def found() -> list[MemoryHit]:
        async with reading(dsn) as db:
            return await search_memories(db, user, query, limit=limit, as_of=as_of, **filters)

    hits = asyncio.run(found())
    if as_json:
        print_json(*hits)
    else:
        show_hits(console(), hits)


@command("show", "show 42 --user alice")
def show_one(
    user: UserOption, memory_id: MemoryArgument, as_json: JsonOption = False, dsn: DsnOption = None
) -> None:
    """Show a memory with its context, tags, relationships and last accesses."""

    async def shown() -> None:
        async with reading(dsn) as db:
            memory = await get_memory(db, user, memory_id, include_relationships=True)
            if memory is None:
                raise no_memory(user, memory_id)
            tags = await list_tags(db, user, memory_id=memory_id)
            history = await access_history(db, user, memory_id, limit=_HISTORY)
        if as_json:
            parts = {
                "tag_details": [tag.model_dump(mode="json") for tag in tags],
                "accesses": [access.model_dump(mode="json") for access in history],
            }
            print_json(memory.model_dump(mode="json", exclude={"outcome", "duplicate_of"}) | parts)
        else:
            show_memory(console(), memory, tags, history)

    asyncio.run(shown())
