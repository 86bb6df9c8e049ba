"""What is known of a user on one page of HTML, which loads nothing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from html import escape
from itertools import islice
from typing import Final

from ltm_store.analytics import get_analytics
from ltm_store.db.execute import Executor, fetch_one, session_of
from ltm_store.db.identity import find_user
from ltm_store.graph import memory_graph
from ltm_store.model.analytics import Analytics, ReportFigures, SeenMemory
from ltm_store.model.relationships import Graph, MemorySummary
from ltm_store.model.values import UserId, moment, parse_user_id
from ltm_store.render.svg import to_svg
from ltm_store.render.text import legible

_LISTED: Final = 10  # memories of a list
_BARS: Final = 12  # of a chart of types or categories
_TAGS: Final = 24
_COLUMNS: Final = 60  # months, else years, of a chart
_DRAWN: Final = 24  # memories around the most connected one
_CONTENT: Final = 200  # characters of a memory

_STYLE: Final = """
:root{color-scheme:light dark;--page:#f7f7f5;--card:#fff;--ink:#1f2328;--muted:#5c646d;
--rule:#e2e2dd;--accent:#3a6ea5;--soft:#dbe6f2}
@media(prefers-color-scheme:dark){:root{--page:#101214;--card:#181b1f;--ink:#e4e6e9;
--muted:#9aa2ab;--rule:#2c3137;--accent:#79a9dc;--soft:#243b54}}
*{box-sizing:border-box}
body{margin:0;background:var(--page);color:var(--ink);
font:16px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif;
font-variant-numeric:tabular-nums;overflow-wrap:anywhere}
main{max-width:1120px;margin:0 auto;padding:2.5rem 1.25rem 4rem}
h1{font-size:1.6rem;line-height:1.25;margin:0}
h2{font-size:1.05rem;margin:0}
p{margin:.25rem 0 0}
.note,.about{color:var(--muted);font-size:.875rem}
.figures{display:grid;grid-template-columns:repeat(4,1fr);gap:1px;
margin:1.75rem 0;padding:0;background:var(--rule);border:1px solid var(--rule);
border-radius:10px;overflow:hidden}
.figures div{background:var(--card);padding:.9rem 1.1rem;display:flex;flex-direction:column-reverse;
justify-content:flex-end}
dd{margin:0;font-size:1.6rem;line-height:1.2;font-weight:600}
dt{color:var(--muted);font-size:.8125rem}
.grid{display:grid;grid-template-columns:repeat(2,minmax(0,1fr));gap:1.25rem}
section{background:var(--card);border:1px solid var(--rule);border-radius:10px;
padding:1.1rem 1.25rem 1.25rem;min-width:0}
section.wide{grid-column:1/-1}
.chart{display:grid;grid-template-columns:auto minmax(0,1fr);gap:.35rem .6rem;margin-top:1rem}
.plot{position:relative;height:11rem;border-bottom:1px solid var(--muted)}
.plot svg{position:absolute;inset:0;width:100%;height:100%}
.grade{position:absolute;left:0;right:0;border-top:1px solid var(--rule)}
.scale{position:relative;color:var(--muted);font-size:.75rem;text-align:right}
.scale span{display:block}
.scale .mark{position:absolute;right:0;transform:translateY(-50%);white-space:nowrap}
.scale .widest{visibility:hidden;height:0}
.ticks{grid-column:2;display:grid;color:var(--muted);font-size:.75rem;height:1.2rem}
.ticks span{text-align:center;white-space:nowrap;justify-self:center;width:0;display:flex;
justify-content:center}
.column{fill:var(--accent)}
.column:hover,.bar:hover i{opacity:.75}
.band{fill:var(--soft)}
.line{fill:none;stroke:var(--accent);stroke-width:2;vector-effect:non-scaling-stroke}
.key{display:inline-block;width:.8rem;height:.8rem;border-radius:3px;margin-right:.4rem;
vertical-align:-1px;background:var(--accent)}
.key.soft{background:var(--soft)}
.bars{list-style:none;margin:1rem 0 0;padding:0;font-size:.9rem}
.two{columns:2;column-gap:2.5rem}
.bar{break-inside:avoid;display:grid;grid-template-columns:minmax(4rem,7.5rem) 1fr 3.2em;
gap:.75rem;align-items:center;padding:.16rem 0}
.bar i{display:block;height:.7rem;border-radius:0 3px 3px 0;background:var(--accent);min-width:2px}
.bar b{font-weight:400;text-align:right}
.memories{list-style:none;margin:.75rem 0 0;padding:0;font-size:.925rem}
.memories li{display:grid;grid-template-columns:minmax(0,1fr) auto;gap:0 1rem;padding:.6rem 0;
border-top:1px solid var(--rule)}
.memories li:first-child{border-top:0}
.memories b{font-weight:600;text-align:right;white-space:nowrap}
.graph{overflow-x:auto;margin-top:1rem}
.graph svg{display:block;margin:0 auto;max-width:100%;height:auto;min-width:44rem}
.graph .ltm-graph .ltm-type{stroke:var(--card)}
.empty{margin-top:1.75rem}
footer{margin-top:1.5rem;color:var(--muted);font-size:.8125rem}
@media(max-width:760px){.two{columns:1}.grid{grid-template-columns:minmax(0,1fr)}
.tick1{visibility:hidden}main{padding-top:1.5rem}.figures{
grid-template-columns:repeat(2,1fr)}}
@media print{section{break-inside:avoid}}
"""


async def render_report(db: Executor, user_id: UserId, *, as_of: datetime | None = None) -> str:
    """A page of HTML on one user: figures, charts, lists and the graph of the most related memory.

    It needs no network and no JavaScript, and fits light and dark, wide and narrow. Figures are of
    memories that have not expired, and importance is of the moment as_of. Contents are cut to 200
    characters, so that the page stays below a megabyte whatever the user has. It all is of one
    state of the database, unless a connection of yours in a transaction sees several. Not tracked.
    """
    now = moment(as_of)
    graph = None
    async with session_of(db).transaction(snapshot=True) as connection:
        analytics = await get_analytics(connection, user_id, as_of=now)
        user = await find_user(connection, user_id)
        figures = None
        if user is not None and analytics.total_memories:
            figures = await fetch_one(
                connection,
                "report_figures",
                ReportFigures,
                user_id=user.number,
                as_of=now,
                row_limit=_LISTED,
            )
            for memory in analytics.most_related_memories[:1]:
                graph = await memory_graph(connection, user_id, memory.id, limit=_DRAWN)
    name = str(parse_user_id(user_id))
    body = _empty() if figures is None else _body(analytics, figures, graph)
    return _page(name, now, body)


def _page(name: str, now: datetime, body: str) -> str:
    shown = escape(legible(name))
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<meta name="referrer" content="no-referrer">
<title>Memories of {shown}</title>
<style>{_STYLE}</style>
</head>
<body>
<main>
<header>
<h1>Memories of {shown}</h1>
<p class="note">As of <time datetime="{now.isoformat()}">{now:%Y-%m-%d %H:%M} UTC</time></p>
</header>
{body}</main>
</body>
</html>
"""


def _empty() -> str:
    return """<section class="empty" data-empty>
<h2>Nothing is remembered yet</h2>
<p>No memory of this user is stored, or all of them have expired. As soon as the first one is added,
this page shows what is known, how it grows and what matters.</p>
</section>
"""


def _body(analytics: Analytics, figures: ReportFigures, graph: Graph | None) -> str:
    headline = [
        ("total_memories", "memories", analytics.total_memories, ""),
        ("archived_memories", "archived", analytics.archived_memories, ""),
        ("relationships", "relationships", figures.relationships, ""),
        ("accesses", "accesses", figures.accesses, ""),
        ("never_recalled", "never accessed", figures.never_recalled, ""),
        ("average_importance", "importance when written", analytics.average_importance, ".1f"),
        (
            "average_dynamic_importance",
            "importance now",
            analytics.average_dynamic_importance,
            ".1f",
        ),
        ("importance_in_a_year", "in a year, not accessed", figures.importance_in_a_year, ".1f"),
    ]
    parts = [
        '<dl class="figures">',
        *(
            f"<div><dt>{label}</dt>"
            f'<dd data-figure="{key}" data-value="{value}">{format(value or 0, form or ",")}</dd>'
            "</div>"
            for key, label, value, form in headline
        ),
        "</dl>",
        '<div class="grid">',
        _growth(analytics.growth_by_month),
        _importance(figures.importance_by_month),
        _points(figures.memories_by_importance),
        _bars("Types", "type", analytics.type_distribution, _BARS),
        _bars("Categories", "category", analytics.category_distribution, _BARS),
        _bars("Tags", "tag", analytics.tag_distribution, _TAGS, wide=True),
        _memories(
            "Most accessed",
            "accessed",
            "Times that a memory was handed out.",
            [
                (m, f"{m.access_count:,}", m.access_count, _about(m))
                for m in analytics.most_accessed_memories
            ],
        ),
        _memories(
            "Never accessed",
            "missed",
            "The most important of those that were not handed out yet, by importance now.",
            [
                (m, f"{m.dynamic_importance:.1f}", m.dynamic_importance, _about(m))
                for m in figures.never_recalled_memories
            ],
        ),
        _memories(
            "Stalest",
            "stale",
            "Not archived, and longest not accessed, else longest known; importance now.",
            [
                (m, f"{m.dynamic_importance:.1f}", m.dynamic_importance, _about(m))
                for m in figures.stalest_memories
            ],
        ),
        _memories(
            "Most connected",
            "related",
            "Relationships that leave a memory or arrive at it.",
            [
                (m, f"{m.relationship_count:,}", m.relationship_count, _about(m))
                for m in analytics.most_related_memories
            ],
        ),
        _graph(graph),
        "</div>",
        "<footer>Importance runs from 0 to 10 and sinks by a point every 180 days that a memory is "
        "not accessed.</footer>",
    ]
    return "\n".join(part for part in parts if part) + "\n"


def _section(title: str, note: str, inner: str, *, wide: bool = False) -> str:
    kind = ' class="wide"' if wide else ""
    return f'<section{kind}>\n<h2>{title}</h2>\n<p class="note">{note}</p>\n{inner}</section>'


def _columns(months: Iterable[str]) -> tuple[list[str], int]:
    """The months from the first to the last one, else the years, at most sixty, the last ones.

    With the length of their names: "2026-03" or "2026".
    """
    known = sorted(month for month in months if len(month) == 7)
    if not known:
        return [], 7
    (first_year, first), (last_year, last) = (map(int, m.split("-")) for m in (known[0], known[-1]))
    start, end = 12 * first_year + first - 1, 12 * last_year + last - 1
    if end - start < _COLUMNS:
        return [f"{n // 12:04}-{n % 12 + 1:02}" for n in range(start, end + 1)], 7
    years = range(max(first_year, last_year - _COLUMNS + 1), last_year + 1)
    return [f"{year:04}" for year in years], 4


def _nice(most: float) -> float:
    """The smallest of 1, 2, 5, 10, 20, ... times two that a scale can end at."""
    step = 1.0
    while True:
        for factor in (1, 2, 5):
            if 2 * step * factor >= most:
                return 2 * step * factor
        step *= 10


def _chart(names: Sequence[str], top: float, shapes: str, label: str) -> str:
    """Shapes in a field of as many units as there are names by 100, with both axes."""
    grades = (0, 0.5, 1)
    every = -(-len(names) // 6)
    ticks = "".join(
        f'<span style="grid-column:{i + 1}" class="tick{i // every % 2}">{name}</span>'
        for i, name in enumerate(names)
        if i % every == 0
    )
    widest = f"{top:,.0f}"
    marks = "".join(
        f'<span class="mark" style="top:{100 - 100 * g:g}%">{top * g:,.0f}</span>' for g in grades
    )
    lines = "".join(f'<div class="grade" style="top:{100 - 100 * g:g}%"></div>' for g in grades[1:])
    return (
        f'<div class="chart">\n<div class="scale"><span class="widest">{widest}</span>{marks}</div>'
        f'\n<div class="plot">{lines}<svg viewBox="0 0 {len(names)} 100" '
        f'preserveAspectRatio="none" role="img" aria-label="{label}">{shapes}</svg></div>\n'
        f'<div class="ticks" style="grid-template-columns:repeat({len(names)},minmax(0,1fr))">'
        f"{ticks}</div>\n</div>\n"
    )


def _growth(growth: Mapping[str, int]) -> str:
    names, length = _columns(growth)
    counts = dict.fromkeys(names, 0)
    before = 0
    for month, count in growth.items():
        name = month[:length]
        if name in counts:
            counts[name] += count
        else:
            before += count
    top = _nice(max(counts.values(), default=1))
    unit = "month" if length == 7 else "year"
    shapes = "".join(
        f'<rect class="column" data-{unit}="{name}" data-memories="{count}" x="{i + 0.2:.2f}" '
        f'width=".6" y="{100 - 100 * count / top:.2f}" height="{100 * count / top:.2f}">'
        f"<title>{name}: {count:,}</title></rect>"
        for i, (name, count) in enumerate(counts.items())
    )
    note = f"Memories by the {unit} in which they were created."
    if before:
        note += f" <span data-before>{before:,}</span> are older."
    return _section("Growth", note, _chart(names, top, shapes, note.partition(".")[0]), wide=True)


def _importance(by_month: Mapping[str, tuple[float, float]]) -> str:
    names, length = _columns(by_month)
    if length == 4 or not names:
        return ""
    place = {name: i + 0.5 for i, name in enumerate(names)}
    shapes = "".join(
        f'<rect class="band" data-month="{month}" data-average="{average}" '
        f'data-highest="{highest}" x="{place[month] - 0.3:.2f}" width=".6" '
        f'y="{100 - 10 * highest:.2f}" height="{10 * highest:.2f}">'
        f"<title>{month}: {average:.1f} on average, {highest:.1f} at the most</title></rect>"
        f'<rect class="column" x="{place[month] - 0.3:.2f}" width=".6" '
        f'y="{100 - 10 * average:.2f}" height="{10 * average:.2f}" pointer-events="none"/>'
        for month, (average, highest) in by_month.items()
        if month in place
    )
    note = (
        "Importance now by the month in which memories were created: "
        '<span class="key"></span>average, <span class="key soft"></span>highest.'
    )
    label = "Importance now by month"
    return _section("What is left of each month", note, _chart(names, 10, shapes, label), wide=True)


def _points(counts: Mapping[int, int]) -> str:
    top = _nice(max(counts.values(), default=1))
    names = [f"{point} to {point + 1}" for point in range(10)]
    shapes = "".join(
        f'<rect class="column" data-points="{point}" data-memories="{counts.get(point, 0)}" '
        f'x="{point + 0.2:.2f}" width=".6" y="{100 - 100 * counts.get(point, 0) / top:.2f}" '
        f'height="{100 * counts.get(point, 0) / top:.2f}">'
        f"<title>{names[point]}: {counts.get(point, 0):,}</title></rect>"
        for point in range(10)
    )
    note = "Memories by their importance now."
    return _section("Importance", note, _chart(names, top, shapes, note[:-1]), wide=True)


def _bars(
    title: str, kind: str, counts: Mapping[str, int], most: int, *, wide: bool = False
) -> str:
    if not counts:
        return ""
    top = max(counts.values())
    items = "".join(
        f'<li class="bar" data-{kind}="{escape(name)}" data-memories="{count}">'
        f'<span>{escape(legible(name, 60))}</span><i style="width:{100 * count / top:.1f}%"></i>'
        f"<b>{count:,}</b></li>\n"
        for name, count in islice(counts.items(), most)
    )
    note = f"All {len(counts)}" if len(counts) <= most else f"The first {most} of {len(counts):,}"
    columns = "bars two" if wide else "bars"
    inner = f'<ul class="{columns}">\n{items}</ul>\n'
    return _section(title, note + ", by memories.", inner, wide=wide)


def _about(memory: MemorySummary) -> str:
    words = [f"#{memory.id}", legible(memory.memory_type or "", 50)]
    if isinstance(memory, SeenMemory) and memory.last_seen is not None:
        words.append(f"{memory.last_seen:%Y-%m-%d}")
    return escape(" · ".join(filter(None, words)))


def _memories(
    title: str, kind: str, note: str, rows: Sequence[tuple[MemorySummary, str, float, str]]
) -> str:
    items = "".join(
        f'<li data-{kind}="{memory.id}" data-value="{value}">'
        f"<span>{escape(legible(memory.content, _CONTENT))}</span><b>{shown}</b>"
        f'<span class="about">{about}</span></li>\n'
        for memory, shown, value, about in rows
    )
    inner = f'<ol class="memories">\n{items}</ol>\n' if rows else "<p>None yet.</p>\n"
    return _section(title, note, inner)


def _graph(graph: Graph | None) -> str:
    if graph is None or not graph.edges:
        return ""
    note = (
        f"The {len(graph.nodes) - 1} memories nearest to the most connected one. The wider a line, "
        "the stronger the relationship."
    )
    drawn = f'<div class="graph">\n{to_svg(graph, inline=True)}</div>\n'
    return _section("Around the most connected memory", note, drawn, wide=True)
