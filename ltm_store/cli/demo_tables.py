"""The long tables of the demo: all that can be done with a year of one user's memories."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Final

from rich.console import Console

from ltm_store.accesses import record_access
from ltm_store.analytics import get_analytics
from ltm_store.cli.display import (
    bars,
    context_rows,
    fields,
    relationship_table,
    side_by_side,
    table,
    why,
)
from ltm_store.cli.progress import import_lines
from ltm_store.database import Database
from ltm_store.db.resources import DEMO_MODEL, demo_lines, demo_vectors
from ltm_store.embeddings import embedding_status
from ltm_store.errors import StepMissing
from ltm_store.memories import archive_memory, get_memory
from ltm_store.model.analytics import Analytics
from ltm_store.model.search import MemoryHit
from ltm_store.model.transfer import ImportReport
from ltm_store.search import search_memories
from ltm_store.transfer import Numbered
from ltm_store.users import forget_user

USER: Final = "demo-livia"
QUERY: Final = "coffee and headaches"
OUTDATED: Final = "double espresso"
_PSQL: Final = (
    ("\\dt+ ltm_*", "the tables"),
    ("\\d+ ltm_memories", "every column explained"),
    (":overview", "what matters most today"),
    (":contexts", "the circumstances that are known of memories"),
)


async def show_tables(db: Database, out: Console) -> None:
    """Show what the store does, one table after another."""
    await _import(db, out)
    await _searches(db, out)
    await _one_memory(db, out)
    await _importance(db, out)
    await _archive(db, out)
    _analytics(out, await get_analytics(db, USER))
    _psql_hints(out)


async def import_demo(db: Database, out: Console) -> ImportReport:
    """Store the memories that come with the package, in the place of an earlier demo's.

    With their vectors, where the database has the optional step for them.
    """
    await forget_user(db, USER)
    made = demo_vectors()[1:] if await has_vectors(db) else []
    lines: list[Numbered] = [
        (
            number,
            json.loads(line) | ({"embeddings": {DEMO_MODEL: [made[number - 1]]}} if made else {}),
        )
        for number, line in enumerate(demo_lines(), 1)
    ]
    return await import_lines(db, USER, lines, out)


async def has_vectors(db: Database) -> bool:
    """Whether the optional step embeddings was run."""
    try:
        await embedding_status(db)
    except StepMissing:
        return False
    return True


async def _import(db: Database, out: Console) -> None:
    started = time.perf_counter()
    report = await import_demo(db, out)
    seconds = time.perf_counter() - started
    out.print(
        f"[bold]{report.created}[/] memories of one user over a year, with "
        f"[bold]{report.relationships}[/] relationships, in {seconds:.1f} s.\n"
    )
    analytics = await get_analytics(db, USER)
    types, categories = analytics.type_distribution, analytics.category_distribution
    out.print(
        side_by_side(
            bars("What was added, by type", "type", types.items()),
            bars("by category", "category", categories.items()),
        )
    )


async def _searches(db: Database, out: Console) -> None:
    hits = await search_memories(db, USER, QUERY, limit=6)
    _show_hits(out, f'search_memories("{QUERY}")', hits)
    goals = await search_memories(
        db,
        USER,
        memory_type="goal",
        min_importance=6,
        context_data={"spatial": {"is_home": True}},
        limit=5,
    )
    title = 'memory_type="goal", min_importance=6, at home: by dynamic importance'
    _show_hits(out, title, goals)


def _show_hits(out: Console, title: str, hits: Sequence[MemoryHit]) -> None:
    rows = [
        (
            f"{hit.score:.2f}",
            f"{hit.dynamic_importance:.1f}",
            hit.content,
            why(hit),
        )
        for hit in hits
    ]
    out.print(table(("score", "importance", "memory", "why"), rows, title))


async def _one_memory(db: Database, out: Console) -> None:
    """The memory with the most relationships, whole."""
    ranking = (await get_analytics(db, USER)).most_related_memories
    memory = await get_memory(db, USER, ranking[0].id, include_relationships=True)
    if memory is None:
        return
    rows = [
        ("content", memory.content),
        ("type, category", f"{memory.memory_type}, {memory.category}"),
        ("tags", ", ".join(memory.tags)),
        ("created", f"{memory.created_at:%Y-%m-%d %H:%M} UTC from {memory.source_id}"),
    ]
    if memory.enhanced_context is not None:
        rows += context_rows(memory.enhanced_context)
    out.print(fields(rows, "One memory with its context"))
    out.print(relationship_table(memory.relationships or (), "and its relationships"))


async def _importance(db: Database, out: Console) -> None:
    """What accesses and time do to one memory."""
    (memory,) = await search_memories(db, USER, OUTDATED, limit=1)
    rows: list[tuple[str, int, str]] = []

    async def look(when: str, as_of: datetime | None = None) -> None:
        now = await get_memory(db, USER, memory.id, as_of=as_of)
        if now is not None:
            rows.append((when, now.access_count, f"{now.dynamic_importance:.2f}"))

    await look("before")
    for accesses in (1, 2, 4):
        for _ in range(accesses):
            await record_access(db, USER, [memory.id], access_context="demo")
        await look(f"accessed {accesses} more time{'s' if accesses > 1 else ''}")
    await look("a year later, if nobody asks", datetime.now(UTC) + timedelta(days=365))
    title = f'Importance of "{memory.content}"'
    out.print(table(("when", "accesses", "importance"), rows, title))
    out.print(
        "The demo records these accesses itself. By default every read records its own in the\n"
        "background, within half a second: a crash can lose statistics, never a memory.\n"
    )


async def _archive(db: Database, out: Console) -> None:
    """Archiving takes a memory out of searches, and keeps it."""
    (memory,) = await search_memories(db, USER, OUTDATED, limit=1)
    archived = await archive_memory(db, USER, memory.id, reason="superseded: down to one a day")
    hits = await search_memories(db, USER, OUTDATED, limit=1)
    if archived is None:
        return
    rows = [
        ("memory", archived.content),
        ("reason", archived.archive_reason),
        (f'"{OUTDATED}" now finds', hits[0].content if hits else "nothing"),
    ]
    out.print(fields(rows, "Archived"))


def _analytics(out: Console, analytics: Analytics) -> None:
    out.print(
        f"[bold cyan]Analytics[/]  {analytics.total_memories} memories, "
        f"{analytics.archived_memories} archived, importance {analytics.average_importance:.1f} "
        f"when written and {analytics.average_dynamic_importance:.1f} today\n"
    )
    out.print(
        side_by_side(
            bars("Growth", "month", analytics.growth_by_month.items()),
            bars("Tags", "tag", islice(analytics.tag_distribution.items(), 13)),
        )
    )
    rows = [(m.relationship_count, m.content) for m in analytics.most_related_memories[:5]]
    out.print(table(("relationships", "memory"), rows, "Most connected memories"))


def _psql_hints(out: Console) -> None:
    out.print("[bold]make psql[/] (ltm-store psql) opens the database. Try there:\n")
    for typed, meaning in _PSQL:
        out.print(f"  {typed:<18}{meaning}", markup=False)
