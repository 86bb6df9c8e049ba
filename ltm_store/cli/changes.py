"""The commands that change what is stored of a user: add, archive, restore, delete, tag, forget."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable
from typing import Annotated

import typer

from ltm_store import limits
from ltm_store.adding import add_memory
from ltm_store.analytics import get_analytics
from ltm_store.cli.files import STANDARD
from ltm_store.cli.filters import filtered
from ltm_store.cli.frame import (
    DsnOption,
    JsonObject,
    JsonOption,
    MemoryArgument,
    UserOption,
    When,
    YesOption,
    command,
    confirm,
    no_memory,
    print_json,
    reading,
    unknown_user,
)
from ltm_store.database import Database
from ltm_store.db.identity import find_user
from ltm_store.errors import LtmError
from ltm_store.many import add_tags_where, archive_where, delete_where
from ltm_store.memories import archive_memory, delete_memory, restore_memory
from ltm_store.model.memories import Memory
from ltm_store.model.search import FilterOptions, Many, OtherFilterOptions
from ltm_store.model.transfer import ErasureReport
from ltm_store.render.text import legible
from ltm_store.search import count_memories
from ltm_store.users import forget_user

DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Only count those that pass.")]
ManyArgument = Annotated[
    int | None,
    typer.Argument(help="The id of the memory; none: all that pass.", metavar="[MEMORY_ID]"),
]


@command("add", 'add "Prefers tea" --user alice --tag drinks --type preference')
def add(
    user: UserOption,
    content: Annotated[str, typer.Argument(help="What to remember; - is standard input.")],
    tag: Annotated[list[str] | None, typer.Option(help="A tag (repeat it).")] = None,
    importance: Annotated[int, typer.Option(help="1 to 10.")] = 5,
    confidence: Annotated[float, typer.Option(help="0 to 1.")] = 1.0,
    memory_type: Annotated[str | None, typer.Option("--type", help="The memory type.")] = None,
    category: Annotated[str | None, typer.Option(help="The category.")] = None,
    source_type: Annotated[str | None, typer.Option(help="The kind of source.")] = None,
    source_id: Annotated[str | None, typer.Option("--source", help="The source's id.")] = None,
    created_by: Annotated[str, typer.Option(help="Who wrote it.")] = "system",
    context: JsonObject = None,
    metadata: JsonObject = None,
    created_at: When = None,
    expires_at: When = None,
    namespace: Annotated[str, typer.Option(help="Labels joined by dots.")] = "",
    key: Annotated[str | None, typer.Option(help="Its name in the namespace.")] = None,
    idempotency_key: Annotated[
        str | None, typer.Option(help="Adds it once, however often it is repeated.")
    ] = None,
    as_json: JsonOption = False,
    dsn: DsnOption = None,
) -> None:
    """Add a memory, and tell its id."""
    words = sys.stdin.read().rstrip("\n") if content == STANDARD else content

    async def added() -> tuple[Memory, str | None]:
        async with reading(dsn) as db:
            unknown = await unknown_user(db, user)
            memory = await add_memory(
                db,
                user,
                words,
                tags=tag or (),
                importance_score=importance,
                confidence_score=confidence,
                memory_type=memory_type,
                category=category,
                source_type=source_type,
                source_id=source_id,
                created_by=created_by,
                enhanced_context=context,
                metadata=metadata,
                created_at=created_at,
                expires_at=expires_at,
                idempotency_key=idempotency_key,
                namespace=namespace,
                key=key,
            )
        return memory, unknown

    memory, unknown = asyncio.run(added())
    if as_json:
        print_json(memory)
        return
    same = f"; memory {memory.duplicate_of} says the same" if memory.duplicate_of else ""
    typer.echo(f"memory {memory.id} {memory.outcome}{same}")
    if unknown:
        typer.echo(f"the first one of this user: there were {unknown}", err=True)


def _changed(
    dsn: str | None,
    user: str,
    memory_id: int,
    change: Callable[[Database], Awaitable[Memory | bool | None]],
) -> Memory | bool:
    async def run() -> Memory | bool:
        async with reading(dsn) as db:
            changed = await change(db)
            if not changed:
                raise await no_memory(db, user, memory_id)
            return changed

    return asyncio.run(run())


def _tell(memory: Memory | bool, as_json: bool, text: str) -> None:
    if as_json:
        print_json(memory if isinstance(memory, Memory) else {"deleted": memory})
    else:
        typer.echo(text)


def _all_changed(
    dsn: str | None,
    user: str,
    what: str,
    filters: FilterOptions,
    change: Callable[[Database], Awaitable[int]],
    *,
    yes: bool,
    dry_run: bool,
) -> int:
    """Change all that pass, 10,000 at a time, after a question; with dry_run, count them."""
    Many.checked(filters)

    async def run() -> int:
        async with reading(dsn) as db:
            found = await count_memories(db, user, **filters)
            if not found and (unknown := await unknown_user(db, user)):
                raise LtmError(unknown)
            if dry_run or not found:
                return found
            confirm(f"{what} {found} memories of {legible(user, 60)}", yes)
            changed = last = await change(db)
            while last == limits.LISTED:
                changed += (last := await change(db))
            return changed

    return asyncio.run(run())


def _tell_all(done: str, memories: int, dry_run: bool, as_json: bool) -> None:
    if as_json:
        print_json({"memories" if dry_run else done: memories})
    else:
        typer.echo(f"{memories} memories {'would be ' if dry_run else ''}{done}")


def _one_or_all(memory_id: int | None, filters: FilterOptions) -> None:
    if (memory_id is None) is not bool(filters):
        raise typer.BadParameter("give the id of a memory, or filters")


@command("archive", 'archive 42 --user alice --reason "out of date"')
@filtered()
def archive(
    user: UserOption,
    filters: FilterOptions,
    memory_id: ManyArgument = None,
    reason: Annotated[str | None, typer.Option(help="Why.")] = None,
    yes: YesOption = False,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
    dsn: DsnOption = None,
) -> None:
    """Take a memory, or all that pass filters, out of lists and searches, and keep them."""
    _one_or_all(memory_id, filters)
    if memory_id is not None:
        number = memory_id
        memory = _changed(
            dsn, user, number, lambda db: archive_memory(db, user, number, reason=reason)
        )
        _tell(memory, as_json, f"memory {number} archived")
        return
    filters["include_archived"] = False
    memories = _all_changed(
        dsn,
        user,
        "archive",
        filters,
        lambda db: archive_where(db, user, reason=reason, **filters),
        yes=yes,
        dry_run=dry_run,
    )
    _tell_all("archived", memories, dry_run, as_json)


@command("restore", "restore 42 --user alice")
def restore(
    user: UserOption, memory_id: MemoryArgument, as_json: JsonOption = False, dsn: DsnOption = None
) -> None:
    """Bring an archived memory back."""
    memory = _changed(dsn, user, memory_id, lambda db: restore_memory(db, user, memory_id))
    _tell(memory, as_json, f"memory {memory_id} restored")


@command("delete", "delete 42 --user alice")
@filtered()
def delete(
    user: UserOption,
    filters: FilterOptions,
    memory_id: ManyArgument = None,
    yes: YesOption = False,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
    dsn: DsnOption = None,
) -> None:
    """Delete a memory, or all that pass filters, with all that hangs on them."""
    _one_or_all(memory_id, filters)
    if memory_id is not None:
        number = memory_id
        done = _changed(dsn, user, number, lambda db: delete_memory(db, user, number))
        _tell(done, as_json, f"memory {number} deleted")
        return
    memories = _all_changed(
        dsn,
        user,
        "delete",
        filters,
        lambda db: delete_where(db, user, **filters),
        yes=yes,
        dry_run=dry_run,
    )
    _tell_all("deleted", memories, dry_run, as_json)


@command("tag", "tag work --user alice --type habit --dry-run")
@filtered(without="tags")
def tag(
    tags: Annotated[list[str], typer.Argument(help="The tags to add.", metavar="TAG...")],
    user: UserOption,
    filters: OtherFilterOptions,
    yes: YesOption = False,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
    dsn: DsnOption = None,
) -> None:
    """Give all memories that pass filters tags."""
    memories = _all_changed(
        dsn,
        user,
        f"tag {', '.join(legible(name, 60) for name in tags)}:",
        {**filters, "tags": None},
        lambda db: add_tags_where(db, user, tags, **filters),
        yes=yes,
        dry_run=dry_run,
    )
    _tell_all("tagged", memories, dry_run, as_json)


@command("forget", "forget --user alice --yes")
def forget(
    user: UserOption, yes: YesOption = False, as_json: JsonOption = False, dsn: DsnOption = None
) -> None:
    """Delete everything of a user, the name too. Asks before."""

    async def forgotten() -> ErasureReport:
        async with reading(dsn) as db:
            unknown = await unknown_user(db, user)
            if unknown and await find_user(db, user) is None:
                raise LtmError(unknown)
            if unknown:  # what has expired, or the name alone
                typer.echo(unknown, err=True)
            count = (await get_analytics(db, user)).total_memories
            confirm(f"forget {count} memories of {legible(user, 60)}", yes)
            return await forget_user(db, user)

    report = asyncio.run(forgotten())
    if as_json:
        print_json(report)
    else:
        typer.echo(f"{report.counts['ltm_memories']} memories deleted, the user is forgotten")
