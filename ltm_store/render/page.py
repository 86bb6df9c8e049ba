"""The report on a user: one page of HTML, which loads nothing."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from html import escape
from typing import Final, NamedTuple

from ltm_store.model.analytics import Analytics, ReportFigures, SeenMemory
from ltm_store.model.relationships import Graph, MemorySummary
from ltm_store.render.charts import (
    bar_list,
    growth_chart,
    importance_by_month_chart,
    importance_chart,
    section,
)
from ltm_store.render.style import STYLE
from ltm_store.render.svg import to_svg
from ltm_store.render.text import legible

_BARS: Final = 12  # of a list of types, categories or namespaces
_TAGS: Final = 24
_CONTENT_CHARS: Final = 200  # of a memory
_FOOTER: Final = (
    "<footer>Importance runs from 0 to 10 and sinks by a point every 180 days that a memory is "
    "not accessed.</footer>"
)
_EMPTY: Final = """<section class="empty" data-empty>
<h2>Nothing is remembered yet</h2>
<p>No memory of this user is stored, or all of them have expired. As soon as the first one is added,
this page shows what is known, how it grows and what matters.</p>
</section>
"""


class _Entry(NamedTuple):
    """A memory of a list with the value that it is listed for, as a number and as it is shown."""

    memory: MemorySummary
    value: float
    shown: str


def report_page(
    name: str, as_of: datetime, analytics: Analytics, figures: ReportFigures, graph: Graph | None
) -> str:
    """The page on the user of this name, with the graph around one of the memories."""
    return _page(name, as_of, _body(analytics, figures, graph))


def empty_page(name: str, as_of: datetime) -> str:
    """The page on a user of whom nothing is stored."""
    return _page(name, as_of, _EMPTY)


def _page(name: str, as_of: datetime, body: str) -> str:
    shown = escape(legible(name))
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<meta name="referrer" content="no-referrer">
<title>Memories of {shown}</title>
<style>{STYLE}</style>
</head>
<body>
<main>
<header>
<h1>Memories of {shown}</h1>
<p class="note">As of <time datetime="{as_of.isoformat()}">{as_of:%Y-%m-%d %H:%M} UTC</time></p>
</header>
{body}</main>
</body>
</html>
"""


def _body(analytics: Analytics, figures: ReportFigures, graph: Graph | None) -> str:
    parts = [
        _headline(analytics, figures),
        '<div class="grid">',
        growth_chart(analytics.growth_by_month),
        importance_by_month_chart(figures.importance_by_month),
        importance_chart(figures.memories_by_importance),
        bar_list("Types", "type", analytics.type_distribution, _BARS),
        bar_list("Categories", "category", analytics.category_distribution, _BARS),
        _namespaces(analytics),
        bar_list("Tags", "tag", analytics.tag_distribution, _TAGS, wide=True),
        *_lists(analytics, figures),
        _graph(graph),
        "</div>",
        _FOOTER,
    ]
    return "\n".join(part for part in parts if part) + "\n"


def _namespaces(analytics: Analytics) -> str:
    """Nothing where no memory has one."""
    counts = analytics.namespace_distribution
    return bar_list("Namespaces", "namespace", counts, _BARS) if any(counts) else ""


def _headline(analytics: Analytics, figures: ReportFigures) -> str:
    counts = (
        ("total_memories", "memories", analytics.total_memories),
        ("archived_memories", "archived", analytics.archived_memories),
        ("relationships", "relationships", figures.relationships),
        ("accesses", "accesses", figures.accesses),
        ("never_recalled", "never accessed", figures.never_recalled),
    )
    averages = (
        ("average_importance", "importance when written", analytics.average_importance),
        ("average_dynamic_importance", "importance now", analytics.average_dynamic_importance),
        ("importance_in_a_year", "in a year, not accessed", figures.importance_in_a_year),
    )
    return "\n".join(
        [
            '<dl class="figures">',
            *(_figure(key, label, value, f"{value:,}") for key, label, value in counts),
            *(_figure(key, label, value, f"{value or 0:.1f}") for key, label, value in averages),
            "</dl>",
        ]
    )


def _figure(key: str, label: str, value: float | None, shown: str) -> str:
    return f'<div><dt>{label}</dt><dd data-figure="{key}" data-value="{value}">{shown}</dd></div>'


def _lists(analytics: Analytics, figures: ReportFigures) -> list[str]:
    most_accessed = [
        _Entry(m, m.access_count, f"{m.access_count:,}") for m in analytics.most_accessed_memories
    ]
    most_connected = [
        _Entry(m, m.relationship_count, f"{m.relationship_count:,}")
        for m in analytics.most_related_memories
    ]
    return [
        _list("Most accessed", "accessed", "Times that a memory was handed out.", most_accessed),
        _list(
            "Never accessed",
            "missed",
            "The most important of those that were not handed out yet, by importance now.",
            _by_importance(figures.never_recalled_memories),
        ),
        _list(
            "Stalest",
            "stale",
            "Not archived, and longest not accessed, else longest known; importance now.",
            _by_importance(figures.stalest_memories),
        ),
        _list(
            "Most connected",
            "related",
            "Relationships that leave a memory or arrive at it.",
            most_connected,
        ),
    ]


def _by_importance(memories: Iterable[SeenMemory]) -> list[_Entry]:
    return [_Entry(m, m.dynamic_importance, f"{m.dynamic_importance:.1f}") for m in memories]


def _list(title: str, key: str, note: str, entries: Sequence[_Entry]) -> str:
    items = "".join(
        f'<li data-{key}="{entry.memory.id}" data-value="{entry.value}">'
        f"<span>{escape(legible(entry.memory.content, _CONTENT_CHARS))}</span>"
        f'<b>{entry.shown}</b><span class="about">{_about(entry.memory)}</span></li>\n'
        for entry in entries
    )
    inner = f'<ol class="memories">\n{items}</ol>\n' if entries else "<p>None yet.</p>\n"
    return section(title, note, inner)


def _about(memory: MemorySummary) -> str:
    words = [f"#{memory.id}", legible(memory.memory_type or "", 50)]
    if isinstance(memory, SeenMemory) and memory.last_seen is not None:
        words.append(f"{memory.last_seen:%Y-%m-%d}")
    return escape(" · ".join(filter(None, words)))


def _graph(graph: Graph | None) -> str:
    if graph is None or not graph.edges:
        return ""
    note = (
        f"The {len(graph.nodes) - 1} memories nearest to the most connected one. The wider a line, "
        "the stronger the relationship."
    )
    drawn = f'<div class="graph">\n{to_svg(graph, inline=True)}</div>\n'
    return section("Around the most connected memory", note, drawn, wide=True)
