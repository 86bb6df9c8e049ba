"""What the command line shows to people: tables of plain text, whatever the memories hold."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Final

import typer
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ltm_store.model.accesses import Access
from ltm_store.model.contexts import EnhancedContext, store_context
from ltm_store.model.memories import Memory
from ltm_store.model.relationships import Relationship
from ltm_store.model.search import MemoryHit
from ltm_store.model.tags import Tag
from ltm_store.model.values import dump_json
from ltm_store.render.text import legible

_NUMBERS: Final = frozenset(
    (
        *("id", "score", "importance", "strength", "times", "repairs", "user", "row"),
        *("memories", "accesses", "relationships"),
    )
)
_PIPE_WIDTH: Final = 110
_BAR_WIDTH: Final = 24
_CELL_CHARS: Final = 200  # of a value between tabs


def console(*, stderr: bool = False) -> Console:
    """The terminal; a pipe gets lines of 110 characters without colours."""
    found = Console(stderr=stderr, highlight=False)
    return (
        found if found.is_terminal else Console(stderr=stderr, highlight=False, width=_PIPE_WIDTH)
    )


def plain(value: object) -> Text:
    """A value as text: no markup, and nothing that moves a terminal's cursor."""
    if value is None:
        return Text("")
    if isinstance(value, datetime):
        return Text(f"{value:%Y-%m-%d %H:%M}")
    return Text(legible(str(value)))


def print_tabbed(values: Iterable[object]) -> None:
    """The values on one line, for other programs."""
    typer.echo("\t".join("" if v is None else legible(str(v), _CELL_CHARS) for v in values))


def table(columns: Sequence[str], rows: Iterable[Sequence[object]], title: str = "") -> Table:
    """Rows under the names of their columns, numbers to the right."""
    shown = Table(
        title=Text(legible(title), style="bold cyan") if title else None,
        title_justify="left",
        box=box.SIMPLE_HEAD,
    )
    for column in columns:
        shown.add_column(column, justify="right" if column in _NUMBERS else "left")
    for row in rows:
        shown.add_row(*map(plain, row))
    return shown


def fields(rows: Iterable[Sequence[object]], title: str) -> Table:
    """Names and values, without a head."""
    shown = table(("", ""), rows, title)
    shown.show_header = False
    return shown


def bars(title: str, label: str, counts: Iterable[tuple[str, int]]) -> Table:
    """Names with their counts of memories, as numbers and as bars."""
    pairs = list(counts)
    most = max((count for _, count in pairs), default=1)
    return table(
        (label, "memories", ""),
        [(name, count, "█" * max(1, round(_BAR_WIDTH * count / most))) for name, count in pairs],
        title,
    )


def side_by_side(*tables: Table) -> Table:
    """Tables beside one another."""
    grid = Table.grid(padding=(0, 4))
    grid.add_row(*tables)
    return grid


def why(hit: MemoryHit) -> str:
    """Why a memory was found: its words, the memory that it stands beside, or what it is."""
    if hit.neighbour_of is not None:
        return f"beside {hit.neighbour_of}"
    return ", ".join(hit.matched_terms or filter(None, (hit.memory_type, hit.category)))


def show_hits(out: Console, hits: Sequence[MemoryHit]) -> None:
    """What a search found, and why."""
    if not hits:
        out.print("nothing found")
        return
    rows = [
        (
            hit.id,
            f"{hit.score:.2f}",
            f"{hit.dynamic_importance:.1f}",
            hit.content,
            why(hit),
        )
        for hit in hits
    ]
    out.print(table(("id", "score", "importance", "memory", "why"), rows))


def show_memory(
    out: Console, memory: Memory, tags: Sequence[Tag], history: Sequence[Access]
) -> None:
    """One memory with everything that hangs on it."""
    out.print(fields(_columns(memory), f"Memory {memory.id}"))
    if memory.enhanced_context is not None:
        out.print(table(("field", "value"), context_rows(memory.enhanced_context), "Context"))
    if tags:
        rows = [(t.tag_name, t.tag_category, t.usage_count, t.first_used) for t in tags]
        out.print(table(("tag", "category", "times", "first used"), rows, "Tags"))
    if memory.relationships:
        out.print(relationship_table(memory.relationships, "Relationships"))
    if history:
        out.print(_history_table(history))


def context_rows(context: EnhancedContext) -> list[tuple[str, str]]:
    """The fields of a context with their values."""
    return [
        (f"{row.context_type}.{row.context_key}", row.context_value)
        for row in store_context(context).rows
    ]


def relationship_table(relationships: Iterable[Relationship], title: str) -> Table:
    """The relationships of a memory, with the direction as an arrow."""
    rows = [
        (
            f"{found.strength:.2f}",
            f"{'→' if found.direction == 'outgoing' else '←'} {found.relationship_type}",
            found.related_memory.id,
            found.related_memory.content,
            found.description,
        )
        for found in relationships
    ]
    return table(("strength", "relationship", "id", "other memory", "description"), rows, title)


def tag_table(tags: Iterable[Tag]) -> Table:
    """The tags of a user."""
    rows = [(t.tag_name, t.memory_count, t.tag_category, t.usage_count, t.last_used) for t in tags]
    return table(("tag", "memories", "category", "times", "last used"), rows)


def _history_table(history: Iterable[Access]) -> Table:
    rows = [
        (a.access_timestamp, a.access_method, a.user_query, a.access_context, a.was_relevant)
        for a in history
    ]
    columns = ("accessed at (UTC)", "by", "query", "context", "relevant")
    return table(columns, rows, "Accesses, newest first")


def _columns(memory: Memory) -> list[tuple[str, object]]:
    source = " ".join(filter(None, (memory.source_type, memory.source_id)))
    if memory.source_position is not None:
        source += f" ({memory.source_position})"
    accesses = {0: "never", 1: "once"}.get(memory.access_count, f"{memory.access_count} times")
    columns = {
        "content": memory.content,
        "namespace": memory.namespace,
        "key": memory.key,
        "type, category": ", ".join(filter(None, (memory.memory_type, memory.category))),
        "importance": f"{memory.dynamic_importance:.1f} now, {memory.importance_score} as written, "
        f"confidence {memory.confidence_score:.2f}",
        "source": source,
        "created at": memory.created_at,
        "accessed": accesses,
        "last accessed at": memory.last_accessed,
        "context": memory.context,
        "metadata": dump_json(memory.metadata) if memory.metadata else None,
        "belongs to": memory.parent_memory_id,
        "expires at": memory.expires_at,
        "archived": (memory.archive_reason or "yes") if memory.is_archived else None,
        "version": memory.version,
    }
    return [(name, value) for name, value in columns.items() if value not in (None, "")]
