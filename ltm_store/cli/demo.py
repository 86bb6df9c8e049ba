"""The demo: a year of one user's memories, and what can be done with them."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Final

from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from ltm_store.accesses import record_access
from ltm_store.analytics import get_analytics
from ltm_store.database import Database
from ltm_store.db.resources import demo_lines
from ltm_store.errors import InvalidMemory
from ltm_store.memories import archive_memory, get_memory
from ltm_store.model.analytics import Analytics
from ltm_store.model.contexts import store_context
from ltm_store.model.search import MemoryHit
from ltm_store.model.transfer import ImportReport
from ltm_store.model.values import UserId
from ltm_store.search import search_memories
from ltm_store.transfer import import_user
from ltm_store.users import forget_user

USER: Final = "demo-livia"
QUERY: Final = "coffee and headaches"
OUTDATED: Final = "double espresso"
_PSQL: Final = (
    ("\\dt+ ltm_*", "the tables"),
    ("\\d+ ltm_memories", "every column explained"),
    (
        "SELECT content, round(ltm_dynamic_importance(importance_rank, now())::numeric, 1) AS now "
        "FROM ltm_memories WHERE user_id = {user} "
        "ORDER BY importance_rank DESC, id DESC LIMIT 5;",
        "what matters most today",
    ),
    (
        "SELECT context_value AS season, count(*) FROM ltm_contexts "
        "WHERE user_id = {user} AND context_type = 'temporal' AND context_key = 'season' "
        "GROUP BY 1;",
        "memories by season",
    ),
)


async def import_with_progress(
    db: Database, user_id: UserId, lines: list[str], console: Console
) -> ImportReport:
    """Import JSON Lines, on a terminal under a progress bar."""
    columns = (
        TextColumn("importing"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        counted = progress.track(lines, total=len(lines))
        return await import_user(db, user_id, _json_objects(counted))


def _json_objects(lines: Iterable[str]) -> Iterator[dict[str, object]]:
    for number, text in enumerate(lines, 1):
        try:
            value = json.loads(text)
        except json.JSONDecodeError as error:
            rule = f"is not JSON: {error.msg} (column {error.colno})"
        except (ValueError, RecursionError):
            rule = "holds JSON that is too large"
        else:
            rule = "should be a JSON object"
            if isinstance(value, dict):
                yield value
                continue
        raise InvalidMemory(f"line {number}", rule)


async def show(db: Database, console: Console) -> None:
    """Replace the demo user's memories by those of the package, and walk through them."""
    await forget_user(db, USER)
    started = time.perf_counter()
    report = await import_with_progress(db, USER, demo_lines(), console)
    seconds = time.perf_counter() - started
    console.print(
        f"[bold]{report.created}[/] memories of one user over a year, with "
        f"[bold]{report.relationships}[/] relationships, in {seconds:.1f} s.\n"
    )
    _added(console, await get_analytics(db, USER))
    hits = await search_memories(db, USER, QUERY, limit=6)
    _hits(console, f'search_memories("{QUERY}")', hits)
    goals = await search_memories(
        db,
        USER,
        memory_type="goal",
        min_importance=6,
        context_data={"spatial": {"is_home": True}},
        limit=5,
    )
    _hits(console, 'memory_type="goal", min_importance=6, at home: by live importance', goals)
    await _one(db, console)
    await _importance(db, console)
    await _archive(db, console)
    _analytics(console, await get_analytics(db, USER))
    _psql_menu(console, hits[0].user_id)


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold cyan", box=box.SIMPLE_HEAD)
    for column in columns:
        right = column in (
            "memories",
            "importance",
            "score",
            "accesses",
            "links",
            "strength",
            "now",
        )
        table.add_column(column, justify="right" if right else "left")
    return table


def _bars(title: str, counts: Iterable[tuple[str, int]], label: str) -> Table:
    pairs = list(counts)
    most = max((count for _, count in pairs), default=1)
    table = _table(title, label, "memories", "")
    for name, count in pairs:
        table.add_row(name, str(count), Text("█" * max(1, round(24 * count / most)), style="cyan"))
    return table


def _added(console: Console, analytics: Analytics) -> None:
    grid = Table.grid(padding=(0, 4))
    grid.add_row(
        _bars("What was added, by type", analytics.type_distribution.items(), "type"),
        _bars("by category", analytics.category_distribution.items(), "category"),
    )
    console.print(grid)


def _hits(console: Console, title: str, hits: list[MemoryHit]) -> None:
    table = _table(title, "score", "importance", "memory", "why")
    for hit in hits:
        why = ", ".join(hit.matched_terms) or f"{hit.memory_type}, {hit.category}"
        table.add_row(f"{hit.score:.2f}", f"{hit.dynamic_importance:.1f}", hit.content, why)
    console.print(table)


async def _one(db: Database, console: Console) -> None:
    """The memory with the most relationships, whole."""
    ranking = (await get_analytics(db, USER)).most_related_memories
    memory = await get_memory(db, USER, ranking[0].id, include_relationships=True)
    if memory is None:
        return
    table = _table("One memory with its context", "", "")
    table.add_row("content", Text(memory.content, style="bold"))
    table.add_row("type, category", f"{memory.memory_type}, {memory.category}")
    table.add_row("tags", ", ".join(memory.tags))
    table.add_row("learnt", f"{memory.created_at:%Y-%m-%d %H:%M} UTC from {memory.source_id}")
    if memory.enhanced_context is not None:
        for row in store_context(memory.enhanced_context).rows:
            table.add_row(f"{row.context_type}.{row.context_key}", row.context_value)
    console.print(table)
    links = _table("and its relationships", "strength", "", "other memory")
    for link in memory.relationships or ():
        arrow = "→" if link.direction == "outgoing" else "←"
        links.add_row(
            f"{link.strength:.1f}",
            f"{arrow} {link.relationship_type}",
            link.related_memory.content,
        )
    console.print(links)


async def _importance(db: Database, console: Console) -> None:
    """What accesses and time do to one memory."""
    (memory,) = await search_memories(db, USER, OUTDATED, limit=1)
    table = _table(f'Importance of "{memory.content}"', "when", "accesses", "importance")

    async def row(when: str, as_of: datetime | None = None) -> None:
        now = await get_memory(db, USER, memory.id, as_of=as_of)
        if now is not None:
            table.add_row(when, str(now.access_count), f"{now.dynamic_importance:.2f}")

    await row("before")
    for accesses in (1, 2, 4):
        for _ in range(accesses):
            await record_access(db, USER, [memory.id], access_context="demo")
        await row(f"recalled {accesses} more time{'s' if accesses > 1 else ''}")
    await row("a year later, if nobody asks", datetime.now(UTC) + timedelta(days=365))
    console.print(table)
    console.print(
        "Here recalls are recorded by hand. By default reads count by themselves, half a second\n"
        "later: a crash can lose half a second of statistics, never a memory.\n"
    )


async def _archive(db: Database, console: Console) -> None:
    """Archiving takes a memory out of searches, and keeps it."""
    (memory,) = await search_memories(db, USER, OUTDATED, limit=1)
    archived = await archive_memory(db, USER, memory.id, reason="superseded: down to one a day")
    hits = await search_memories(db, USER, OUTDATED, limit=1)
    if archived is None:
        return
    table = _table("Archived", "", "")
    table.add_row("memory", archived.content)
    table.add_row("reason", archived.archive_reason)
    table.add_row(f'"{OUTDATED}" now finds', hits[0].content if hits else "nothing")
    console.print(table)


def _analytics(console: Console, analytics: Analytics) -> None:
    console.print(
        f"[bold cyan]Analytics[/]  {analytics.total_memories} memories, "
        f"{analytics.archived_memories} archived, importance {analytics.average_importance:.1f} "
        f"when written and {analytics.average_dynamic_importance:.1f} today\n"
    )
    grid = Table.grid(padding=(0, 4))
    grid.add_row(
        _bars("Growth", analytics.growth_by_month.items(), "month"),
        _bars("Tags", islice(analytics.tag_distribution.items(), 13), "tag"),
    )
    console.print(grid)
    table = _table("Most connected memories", "links", "memory")
    for memory in analytics.most_related_memories[:5]:
        table.add_row(str(memory.relationship_count), memory.content)
    console.print(table)


def _psql_menu(console: Console, user_id: int) -> None:
    console.print("[bold]make psql[/] (ltm-store psql) opens the database. Try there:\n")
    for command, meaning in _PSQL:
        console.print(f"  [dim]-- {meaning}[/]")
        console.print(
            "  " + command.format(user=user_id), markup=False, highlight=False, soft_wrap=True
        )
