"""The charts of the report: columns over time or importance, and lists of bars."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from itertools import islice
from typing import Final

from ltm_store.render.text import escaped, legible

_COLUMNS: Final = 60  # months, else years, of a chart
_TICKS: Final = 6  # names under the columns of a chart, about
_MONTH: Final = len("2026-03")
_YEAR: Final = len("2026")


def section(title: str, note: str, inner: str, *, wide: bool = False) -> str:
    """A card of the page: a title and a note as HTML above what it holds."""
    attributes = ' class="wide"' if wide else ""
    return f'<section{attributes}>\n<h2>{title}</h2>\n<p class="note">{note}</p>\n{inner}</section>'


def growth_chart(growth: Mapping[str, int]) -> str:
    """Memories by the month, else the year, in which they were created."""
    names, length = _periods(growth)
    counts = dict.fromkeys(names, 0)
    older = 0
    for month, count in growth.items():
        name = month[:length]
        if name in counts:
            counts[name] += count
        else:
            older += count
    top = _scale_end(max(counts.values(), default=1))
    unit = "month" if length == _MONTH else "year"
    shapes = "".join(
        _counted_column(f'data-{unit}="{name}"', name, count, place, top)
        for place, (name, count) in enumerate(counts.items())
    )
    label = f"Memories by the {unit} in which they were created"
    note = f"{label}."
    if older:
        note += f" <span data-before>{older:,}</span> are older."
    return section("Growth", note, _chart(names, top, shapes, label), wide=True)


def importance_by_month_chart(by_month: Mapping[str, tuple[float, float]]) -> str:
    """The average and highest importance by month; nothing where months are too many."""
    names, length = _periods(by_month)
    if length == _YEAR or not names:
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
    chart = _chart(names, 10, shapes, "Importance now by month")
    return section("What is left of each month", note, chart, wide=True)


def importance_chart(counts: Mapping[int, int]) -> str:
    """Memories by whole points of importance."""
    top = _scale_end(max(counts.values(), default=1))
    names = [f"{point} to {point + 1}" for point in range(10)]
    shapes = "".join(
        _counted_column(f'data-points="{point}"', name, counts.get(point, 0), point, top)
        for point, name in enumerate(names)
    )
    label = "Memories by their importance now"
    return section("Importance", f"{label}.", _chart(names, top, shapes, label), wide=True)


def bar_list(
    title: str, key: str, counts: Mapping[str, int], most: int, *, wide: bool = False
) -> str:
    """The first `most` names with their counts as bars; nothing if there are none."""
    if not counts:
        return ""
    top = max(counts.values())
    items = "".join(
        f'<li class="bar" data-{key}="{escape(escaped(name))}" data-memories="{count}">'
        f"<span>{escape(legible(name, 60) or '(none)')}</span>"
        f'<i style="width:{100 * count / top:.1f}%"></i>'
        f"<b>{count:,}</b></li>\n"
        for name, count in islice(counts.items(), most)
    )
    note = f"All {len(counts)}" if len(counts) <= most else f"The first {most} of {len(counts):,}"
    columns = "bars two" if wide else "bars"
    inner = f'<ul class="{columns}">\n{items}</ul>\n'
    return section(title, note + ", by memories.", inner, wide=wide)


def _periods(months: Iterable[str]) -> tuple[list[str], int]:
    """The months from the first to the last one, else the years, at most sixty, the last ones.

    With the length of their names: "2026-03" or "2026".
    """
    known = sorted(month for month in months if len(month) == _MONTH)
    if not known:
        return [], _MONTH
    (first_year, first), (last_year, last) = (map(int, m.split("-")) for m in (known[0], known[-1]))
    start, end = 12 * first_year + first - 1, 12 * last_year + last - 1
    if end - start < _COLUMNS:
        return [f"{n // 12:04}-{n % 12 + 1:02}" for n in range(start, end + 1)], _MONTH
    years = range(max(first_year, last_year - _COLUMNS + 1), last_year + 1)
    return [f"{year:04}" for year in years], _YEAR


def _scale_end(most: float) -> float:
    """The smallest of 2, 4, 10, 20, 40, ... that is not below the largest value."""
    step = 1.0
    while True:
        for factor in (1, 2, 5):
            if 2 * step * factor >= most:
                return 2 * step * factor
        step *= 10


def _counted_column(attribute: str, name: str, count: int, place: int, top: float) -> str:
    height = 100 * count / top
    return (
        f'<rect class="column" {attribute} data-memories="{count}" x="{place + 0.2:.2f}" '
        f'width=".6" y="{100 - height:.2f}" height="{height:.2f}">'
        f"<title>{name}: {count:,}</title></rect>"
    )


def _chart(names: Sequence[str], top: float, shapes: str, label: str) -> str:
    """Shapes in a field of as many units as there are names by 100, with both axes."""
    grades = (0, 0.5, 1)
    every = -(-len(names) // _TICKS)
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
