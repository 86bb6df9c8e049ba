"""What the command line shows to people: tables of plain text, whatever the memories hold."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ltm_store.model.accesses import Access
from ltm_store.model.contexts import store_context
from ltm_store.model.memories import Memory
from ltm_store.model.search import MemoryHit
from ltm_store.model.tags import Tag
from ltm_store.model.values import dump_json
from ltm_store.render.text import legible

_NUMBERS = frozenset(("id", "score", "importance", "strength", "times", "repairs", "user", "row"))


def console(*, stderr: bool = False) -> Console:
    """The terminal; a pipe gets lines of 110 characters without colours."""
    found = Console(stderr=stderr, highlight=False)
    return found if found.is_terminal else Console(stderr=stderr, highlight=False, width=110)


def plain(value: object) -> Text:
    """A value as text: no markup, and nothing that moves a terminal's cursor."""
    if value is None:
        return Text("")
    if isinstance(value, datetime):
        return Text(f"{value:%Y-%m-%d %H:%M}")
    return Text(legible(str(value)))


def table(columns: Sequence[str], rows: Iterable[Sequence[object]], title: str = "") -> Table:
    """Rows under the names of their columns, numbers to the right."""
    shown = Table(
        title=title or None, title_justify="left", title_style="bold cyan", box=box.SIMPLE_HEAD
    )
    for column in columns:
        shown.add_column(column, justify="right" if column in _NUMBERS else "left")
    for row in rows:
        shown.add_row(*map(plain, row))
    return shown


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
            ", ".join(hit.matched_terms)
            or ", ".join(filter(None, (hit.memory_type, hit.category))),
        )
        for hit in hits
    ]
    out.print(table(("id", "score", "importance", "memory", "why"), rows))


def show_memory(
    out: Console, memory: Memory, tags: Sequence[Tag], history: Sequence[Access]
) -> None:
    """One memory with everything that hangs on it."""
    fields = table(("", ""), _fields(memory), f"Memory {memory.id}")
    fields.show_header = False
    out.print(fields)
    if memory.enhanced_context is not None:
        rows = [
            (f"{row.context_type}.{row.context_key}", row.context_value)
            for row in store_context(memory.enhanced_context).rows
        ]
        out.print(table(("field", "value"), rows, "Context"))
    if tags:
        found = [(t.tag_name, t.tag_category, t.usage_count, t.first_used) for t in tags]
        out.print(table(("tag", "category", "times", "first used"), found, "Tags"))
    if memory.relationships:
        links = [
            (
                f"{link.strength:.2f}",
                f"{'→' if link.direction == 'outgoing' else '←'} {link.relationship_type}",
                link.related_memory.id,
                link.related_memory.content,
                link.description,
            )
            for link in memory.relationships
        ]
        columns = ("strength", "relationship", "id", "other memory", "description")
        out.print(table(columns, links, "Relationships"))
    if history:
        recalls = [
            (a.access_timestamp, a.access_method, a.user_query, a.access_context, a.was_relevant)
            for a in history
        ]
        columns = ("recalled at (UTC)", "by", "query", "context", "relevant")
        out.print(table(columns, recalls, "History, newest first"))


def _fields(memory: Memory) -> list[tuple[str, object]]:
    source = " ".join(filter(None, (memory.source_type, memory.source_id)))
    if memory.source_position is not None:
        source += f" ({memory.source_position})"
    recalls = {0: "never", 1: "once"}.get(memory.access_count, f"{memory.access_count} times")
    fields = {
        "content": memory.content,
        "type, category": ", ".join(filter(None, (memory.memory_type, memory.category))),
        "importance": f"{memory.dynamic_importance:.1f} now, {memory.importance_score} as written, "
        f"confidence {memory.confidence_score:.2f}",
        "source": source,
        "learnt at": memory.created_at,
        "recalled": recalls,
        "last recalled at": memory.last_accessed,
        "context": memory.context,
        "metadata": dump_json(memory.metadata) if memory.metadata else None,
        "belongs to": memory.parent_memory_id,
        "expires at": memory.expires_at,
        "archived": (memory.archive_reason or "yes") if memory.is_archived else None,
        "version": memory.version,
    }
    return [(name, value) for name, value in fields.items() if value not in (None, "")]
