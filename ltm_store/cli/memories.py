"""The commands that read a user's memories: search, count, recall, show and tags."""

from __future__ import annotations

import asyncio
import re
from typing import Annotated, Final, cast

import typer

from ltm_store import limits
from ltm_store.accesses import access_history
from ltm_store.cli.display import console, show_hits, show_memory, tag_table
from ltm_store.cli.filters import filtered
from ltm_store.cli.frame import (
    DsnOption,
    JsonOption,
    MemoryArgument,
    UserOption,
    When,
    command,
    no_memory,
    note_unknown,
    print_json,
    reading,
)
from ltm_store.memories import get_memory
from ltm_store.model.search import FilterOptions, MemoryHit, Order
from ltm_store.model.tags import Tag
from ltm_store.render.prompts import format_for_prompt
from ltm_store.search import count_memories, search_memories
from ltm_store.tags import list_tags

NamespaceFilter = Annotated[
    list[str] | None, typer.Option("--namespace", help="One of these (repeat it); '' is none.")
]
BelowFilter = Annotated[
    str | None, typer.Option("--namespace-prefix", help="This namespace and those below it.")
]
_HISTORY: Final = 20  # accesses that show lists


# A minus at the start of a word or phrase excludes it; quotes hold a phrase together.
_PART: Final = re.compile(r'(?<!\S)(?P<minus>-)?(?:"(?P<phrase>[^"]*)"|(?P<word>[^\s"]+))')


def typed_query(text: str) -> tuple[str, list[str], list[str]]:
    """What a person typed: words to rank by, phrases that must be there, and what must not."""
    phrases: list[str] = []
    exclusions: list[str] = []

    def part_of(match: re.Match[str]) -> str:
        part = match["word"] or match["phrase"]
        if not re.search(r"\w", part):
            return match[0]
        if match["minus"]:
            exclusions.append(part)
            return ""
        if match["phrase"]:
            phrases.append(part)
        return part

    return _PART.sub(part_of, text), phrases, exclusions


@command("search", 'search "coffee and headaches" --user alice --tag work')
@filtered()
def search(
    user: UserOption,
    filters: FilterOptions,
    query: Annotated[
        str | None, typer.Argument(help='Words, "phrases", -exclusions; none: by importance.')
    ] = None,
    order: Annotated[
        str | None, typer.Option(help="Without a query: importance, newest, oldest, modified.")
    ] = None,
    as_of: When = None,
    limit: Annotated[int, typer.Option(min=1, max=limits.HITS)] = 10,
    offset: Annotated[int, typer.Option(min=0, max=limits.OFFSET)] = 0,
    as_json: JsonOption = False,
    dsn: DsnOption = None,
) -> None:
    """Search the memories of a user; best first, each with its score and why it is there."""
    words, phrases, exclusions = typed_query(query or "")
    filters["phrases"] = [*phrases, *filters.get("phrases", ())]
    filters["exclude"] = [*exclusions, *filters.get("exclude", ())]

    async def found() -> list[MemoryHit]:
        async with reading(dsn) as db:
            hits = await search_memories(
                db,
                user,
                words,
                limit=limit,
                order=cast("Order | None", order),
                offset=offset,
                as_of=as_of,
                **filters,
            )
            if not hits:
                await note_unknown(db, user)
            return hits

    hits = asyncio.run(found())
    if as_json:
        print_json(*hits)
    else:
        show_hits(console(), hits)


@command("count", "count --user alice --type preference --type habit")
@filtered()
def count(
    user: UserOption,
    filters: FilterOptions,
    query: Annotated[str | None, typer.Argument(help="Words, of which they hold one.")] = None,
    as_of: When = None,
    as_json: JsonOption = False,
    dsn: DsnOption = None,
) -> None:
    """Count the memories of a user."""

    async def counted() -> int:
        async with reading(dsn) as db:
            memories = await count_memories(db, user, query, as_of=as_of, **filters)
            if not memories:
                await note_unknown(db, user)
            return memories

    memories = asyncio.run(counted())
    if as_json:
        print_json({"memories": memories})
    else:
        typer.echo(memories)


@command("recall", 'recall "coffee and headaches" --user alice --max-chars 2000')
def recall(
    user: UserOption,
    query: Annotated[str | None, typer.Argument(help="Words; none: by importance.")] = None,
    namespace: NamespaceFilter = None,
    namespace_prefix: BelowFilter = None,
    max_chars: Annotated[int, typer.Option(min=0, help="The longest text.")] = 2000,
    limit: Annotated[int, typer.Option(min=1, max=limits.HITS)] = 10,
    as_json: JsonOption = False,
    dsn: DsnOption = None,
) -> None:
    """Print what an assistant pastes into its prompt, the most relevant memories first."""

    async def found() -> list[MemoryHit]:
        async with reading(dsn) as db:
            hits = await search_memories(
                db,
                user,
                query,
                limit=limit,
                namespace=namespace or None,
                namespace_prefix=namespace_prefix,
            )
            if not hits:
                await note_unknown(db, user)
            return hits

    text = format_for_prompt(asyncio.run(found()), max_chars=max_chars)
    if as_json:
        print_json({"text": text})
    elif text:
        typer.echo(text)


@command("show", "show 42 --user alice")
def show_one(
    user: UserOption, memory_id: MemoryArgument, as_json: JsonOption = False, dsn: DsnOption = None
) -> None:
    """Show a memory with its context, tags, relationships and last accesses."""

    async def shown() -> None:
        async with reading(dsn) as db:
            memory = await get_memory(db, user, memory_id, include_relationships=True)
            if memory is None:
                raise await no_memory(db, user, memory_id)
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


@command("tags", "tags --user alice --category work")
def tags(
    user: UserOption,
    category: Annotated[str | None, typer.Option(help="Uses in this category alone.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=limits.HITS)] = 100,
    as_json: JsonOption = False,
    dsn: DsnOption = None,
) -> None:
    """List the tags of a user's memories, the most frequent first."""

    async def listed() -> list[Tag]:
        async with reading(dsn) as db:
            found = await list_tags(db, user, tag_category=category, limit=limit)
            if not found:
                await note_unknown(db, user)
            return found

    found = asyncio.run(listed())
    if as_json:
        print_json(*found)
    elif found:
        console().print(tag_table(found))
    else:
        typer.echo("nothing found")
