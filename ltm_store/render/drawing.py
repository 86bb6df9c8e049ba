"""Graphs of memories as Mermaid, DOT and SVG. Pure: the same graph always gives the same text."""

from __future__ import annotations

import math
import unicodedata
from collections import defaultdict
from html import escape
from itertools import combinations
from typing import Final, NamedTuple

from ltm_store.model.memories import MemoryType
from ltm_store.model.relationships import Graph, GraphEdge, GraphNode


class Colours(NamedTuple):
    """Of one memory type: a box's ground and its line, on a light page and on a dark one."""

    ground: str
    line: str
    dark_ground: str
    dark_line: str


_COLOURS: Final = {
    MemoryType.PREFERENCE: Colours("#fde8ef", "#b3265a", "#46202f", "#f08bb0"),
    MemoryType.INSIGHT: Colours("#efe9fd", "#6b3fc0", "#322553", "#b79bf5"),
    MemoryType.PATTERN: Colours("#e0f3f3", "#0f7378", "#123c3e", "#5fc6cb"),
    MemoryType.FACT: Colours("#e4eefb", "#2160a8", "#172f4d", "#7fb2ec"),
    MemoryType.GOAL: Colours("#e4f5e7", "#237a3b", "#173a22", "#74ca8c"),
    MemoryType.HABIT: Colours("#fdeedb", "#9a5b0b", "#43300f", "#e6ad55"),
    MemoryType.ROUTINE: Colours("#f6f0cf", "#756200", "#39320c", "#d3bd4b"),
    MemoryType.RELATIONSHIP: Colours("#fde7df", "#b0431c", "#472517", "#f09a76"),
    MemoryType.SKILL: Colours("#def1fb", "#0a6b94", "#0f3546", "#63bfe6"),
    MemoryType.KNOWLEDGE: Colours("#e9e9fb", "#4a49b8", "#27275a", "#a3a4f2"),
}
_OTHER: Final = Colours("#eef0f2", "#57606a", "#2a2f36", "#a5adb7")
_INK: Final = "#1f2328"
_DARK_INK: Final = "#e6e8eb"
_MUTED: Final = "#6e7781"  # legible on white and on black
_UNSEEN: Final = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\ufffe\uffff")

_BOX: Final = 178.0  # the width of a memory in an SVG
_GAP: Final = 26.0
_LINE: Final = 15.0
_FONT: Final = 12.0
_SMALL: Final = 10.0
_LINES: Final = 3
_PAIRS: Final = 400_000  # of boxes that the layout looks at, each time that it does


def legible(text: str, length: int | None = None) -> str:
    """The text on one line, at most `length` characters, without what controls a terminal."""
    kept = (
        letter
        for letter in " ".join(text.split())
        if unicodedata.category(letter) not in ("Cc", "Cs") and letter not in _UNSEEN
    )
    line = "".join(kept)
    if length is None or len(line) <= length:
        return line
    cut = line[: length - 1]
    words = cut.rpartition(" ")[0]
    return (words if len(words) > length // 2 else cut).rstrip() + "…"


def _colours(memory_type: str | None) -> Colours:
    return _COLOURS.get(memory_type, _OTHER)  # type: ignore[call-overload, no-any-return]


def _kinds(graph: Graph) -> dict[str | None, int]:
    """The memory types of a graph, numbered in the order in which they come."""
    return {kind: i for i, kind in enumerate(dict.fromkeys(n.memory_type for n in graph.nodes))}


def _key(memory_id: int) -> str:
    return f"m{memory_id}".replace("-", "_")


def _width(strength: float) -> float:
    return round(1 + 2.5 * strength, 2)


def to_mermaid(graph: Graph) -> str:
    """The graph as a Mermaid flowchart, the strength of a relationship as the width of its line."""

    def text(words: str, length: int) -> str:
        # Inside quotes Mermaid still reads entities, directives and Markdown: only the plainest
        # characters stand for themselves.
        return "".join(
            letter
            if letter.isalnum() or letter in " .,'!?()-_/…" or ord(letter) > 127
            else f"#{ord(letter)};"
            for letter in legible(words, length)
        )

    kinds = _kinds(graph)
    lines = ["flowchart LR"]
    for node in graph.nodes:
        label = text(node.content, 60) or f"#35;{node.id}"
        lines.append(f'  {_key(node.id)}["{label}"]:::t{kinds[node.memory_type]}')
    for edge in graph.edges:
        ends = _key(edge.source_memory_id), _key(edge.target_memory_id)
        lines.append(f'  {ends[0]} -->|"{text(edge.relationship_type, 50)}"| {ends[1]}')
    for place, edge in enumerate(graph.edges):
        lines.append(f"  linkStyle {place} stroke-width:{_width(edge.strength)}px")
    for kind, number in kinds.items():
        ground, line, *_ = _colours(kind)
        lines.append(f"  classDef t{number} fill:{ground},stroke:{line},color:{_INK}")
    if graph.nodes:
        lines.append(f"  style {_key(graph.nodes[0].id)} stroke-width:3px")
    return "\n".join(lines) + "\n"


def to_dot(graph: Graph) -> str:
    """The graph in Graphviz's language, the strength of a relationship as the width of its line."""

    def text(words: list[str]) -> str:
        # Graphviz reads escapes and HTML entities inside quotes.
        safe = [w.replace("&", "&amp;").replace("\\", "\\\\").replace('"', '\\"') for w in words]
        return "\\n".join(safe)

    lines = [
        "digraph memories {",
        '  graph [layout=dot rankdir=LR overlap=false splines=true bgcolor="transparent"];',
        f'  node [shape=box style="rounded,filled" fontname="sans-serif" fontsize=11 '
        f'fontcolor="{_INK}" margin="0.12,0.06"];',
        f'  edge [fontname="sans-serif" fontsize=9 color="{_MUTED}" fontcolor="{_MUTED}"];',
    ]
    for node in graph.nodes:
        ground, line, *_ = _colours(node.memory_type)
        label = text(_wrapped(node.content)) or f"#{node.id}"
        extra = " penwidth=3" if node.depth == 0 else ""
        lines.append(
            f'  {_key(node.id)} [label="{label}" fillcolor="{ground}" color="{line}"{extra}];'
        )
    for edge in graph.edges:
        label = text([legible(edge.relationship_type, 50)])
        lines.append(
            f"  {_key(edge.source_memory_id)} -> {_key(edge.target_memory_id)} "
            f'[label="{label}" penwidth={_width(edge.strength)}];'
        )
    return "\n".join([*lines, "}"]) + "\n"


def _letter_width(letter: str) -> float:
    """In parts of the font's size, wide enough for the usual sans-serif fonts."""
    if unicodedata.combining(letter) or letter in "\u200d\ufe0f":
        return 0.0
    if ord(letter) > 0x1F000 or unicodedata.east_asian_width(letter) in "WF":
        return 1.25 if ord(letter) > 0x1F000 else 1.0
    if letter in "mwMW@%—…":
        return 0.92
    if letter in "il.,;:'|!jtfrI ()-/":
        return 0.36
    return 0.7 if letter.isupper() or ord(letter) > 0x2000 else 0.58


def _text_width(text: str, size: float) -> float:
    return size * sum(map(_letter_width, text))


def _wrapped(content: str, width: float = _BOX - 18) -> list[str]:
    """The beginning of a content on at most three lines, cut where a word ends if one does."""
    lines: list[str] = []
    line = ""
    words = legible(content).split(" ")
    while words:
        word = words.pop(0)
        longer = f"{line} {word}" if line else word
        if _text_width(longer, _FONT) <= width:
            line = longer
            continue
        if not line:  # a word longer than a line
            cut = len(word)
            while cut > 1 and _text_width(word[:cut], _FONT) > width:
                cut -= 1
            line, word = word[:cut], word[cut:]
        words.insert(0, word) if word else None
        lines.append(line)
        line = ""
        if len(lines) == _LINES:
            break
    if line:
        lines.append(line)
    elif words and len(lines) == _LINES:
        last = lines[-1]
        while last and _text_width(last + "…", _FONT) > width:
            last = last[:-1]
        lines[-1] = last.rstrip(" ,.;:") + "…"
    return lines


class _Box(NamedTuple):
    node: GraphNode
    lines: list[str]
    x: float  # of the centre
    y: float
    height: float


class _Area(NamedTuple):
    """A rectangle by its centre and half its sides."""

    x: float
    y: float
    half_width: float
    half_height: float

    def meets(self, other: _Area) -> bool:
        return (
            abs(self.x - other.x) < self.half_width + other.half_width
            and abs(self.y - other.y) < self.half_height + other.half_height
        )


def _parents(graph: Graph) -> dict[int, int]:
    """For each memory but the first the one it hangs on, by its strongest relationship upwards."""
    depth = {node.id: node.depth for node in graph.nodes}
    parents: dict[int, int] = {}
    for edge in graph.edges:
        for child, parent in (
            (edge.source_memory_id, edge.target_memory_id),
            (edge.target_memory_id, edge.source_memory_id),
        ):
            if depth[parent] == depth[child] - 1:
                parents.setdefault(child, parent)
    for node in graph.nodes[1:]:
        parents.setdefault(node.id, graph.nodes[0].id)
    return parents


def _rings(graph: Graph) -> list[list[float]]:
    """Places on rings around the first memory, each branch in a sector as wide as its leaves."""
    children: defaultdict[int, list[int]] = defaultdict(list)
    for child, parent in _parents(graph).items():
        children[parent].append(child)
    leaves: dict[int, int] = {}
    for node in reversed(graph.nodes):  # the farthest first
        leaves[node.id] = max(1, sum(leaves[child] for child in children[node.id]))
    places = {graph.nodes[0].id: (0.0, 0.0)}
    sectors = {graph.nodes[0].id: (0.0, math.tau)}
    for node in graph.nodes:
        start, width = sectors[node.id]
        for child in children[node.id]:
            share = width * leaves[child] / leaves[node.id]
            sectors[child] = start, share
            angle = start + share / 2
            ring = math.hypot(*places[node.id]) + 210
            places[child] = ring * math.cos(angle), ring * math.sin(angle)
            start += share
    return [list(places[node.id]) for node in graph.nodes]


def _relaxed(graph: Graph, places: list[list[float]]) -> None:
    """Draw related memories together and push the others apart, for as long as it is worth it."""
    index = {node.id: i for i, node in enumerate(graph.nodes)}
    pairs = {
        tuple(sorted((index[edge.source_memory_id], index[edge.target_memory_id])))
        for edge in graph.edges
    }
    size = len(places)
    steps = 0 if size < 3 else min(250, _PAIRS // size**2)
    for step in range(steps):
        moves = [[0.0, 0.0] for _ in places]
        for i, j in combinations(range(size), 2):
            dx, dy = places[i][0] - places[j][0], (places[i][1] - places[j][1]) * 1.7
            square = dx * dx + dy * dy or 1.0
            push = 42_000 / square
            push -= math.sqrt(square) / 190 if (i, j) in pairs else 0
            for move, sign in ((moves[i], 1), (moves[j], -1)):
                move[0] += sign * push * dx / math.sqrt(square)
                move[1] += sign * push * dy / math.sqrt(square) / 1.7
        most = 30 * (1 - step / steps)
        for place, (x, y) in zip(places, moves, strict=True):
            length = math.hypot(x, y) or 1.0
            far = min(most, 4 * length) / length
            place[0] += x * far
            place[1] += y * far


def _parted(places: list[list[float]], heights: list[float]) -> None:
    """Move boxes apart until none meets another."""

    def room(i: int, j: int) -> tuple[float, float]:
        return _BOX + 1.6 * _GAP, (heights[i] + heights[j]) / 2 + _GAP

    pairs = list(combinations(range(len(places)), 2))
    for _ in range(min(400, _PAIRS // (len(pairs) or 1))):
        met = False
        for i, j in pairs:
            dx, dy = places[j][0] - places[i][0], places[j][1] - places[i][1]
            width, height = room(i, j)
            over_x, over_y = width - abs(dx), height - abs(dy)
            if over_x <= 0 or over_y <= 0:
                continue
            met = True
            axis, over = (0, over_x) if over_x < over_y else (1, over_y)
            away = math.copysign(over / 2 + 0.5, dx if axis == 0 else dy)
            places[i][axis] -= away
            places[j][axis] += away
        if not met:
            return
    scale = 1.0
    for i, j in pairs:
        dx, dy = abs(places[j][0] - places[i][0]), abs(places[j][1] - places[i][1])
        width, height = room(i, j)
        scale = max(scale, min(width / (dx or 1e-3), height / (dy or 1e-3)))
    for place in places:
        place[0] *= scale
        place[1] *= scale


def _boxes(graph: Graph) -> list[_Box]:
    """The memories of a graph as boxes that do not meet."""
    lines = [_wrapped(node.content) or [f"#{node.id}"] for node in graph.nodes]
    heights = [_LINE * len(text) + 14 for text in lines]
    places = _rings(graph)
    _relaxed(graph, places)
    _parted(places, heights)
    return [
        _Box(node, text, x, y, height)
        for node, text, (x, y), height in zip(graph.nodes, lines, places, heights, strict=True)
    ]


class _Curve(NamedTuple):
    """A relationship's line from the border of one box to another's, bent by a point beside it."""

    edge: GraphEdge
    start: tuple[float, float]
    bend: tuple[float, float]
    end: tuple[float, float]

    def at(self, t: float) -> tuple[float, float]:
        a, b, c = (1 - t) ** 2, 2 * t * (1 - t), t * t
        return (
            a * self.start[0] + b * self.bend[0] + c * self.end[0],
            a * self.start[1] + b * self.bend[1] + c * self.end[1],
        )


def _border(box: _Box, towards: tuple[float, float], gap: float) -> tuple[float, float]:
    """Where a line from the centre of a box leaves it, some way outside."""
    dx, dy = towards[0] - box.x, towards[1] - box.y
    sides = (
        (_BOX / 2 + gap) / abs(dx) if dx else math.inf,
        (box.height / 2 + gap) / abs(dy) if dy else math.inf,
    )
    share = min(*sides, 1.0)
    return box.x + dx * share, box.y + dy * share


def _curves(graph: Graph, boxes: list[_Box]) -> list[_Curve]:
    by_id = {box.node.id: box for box in boxes}
    between: defaultdict[tuple[int, ...], list[GraphEdge]] = defaultdict(list)
    for edge in graph.edges:
        between[tuple(sorted((edge.source_memory_id, edge.target_memory_id)))].append(edge)
    curves = []
    for (low, high), edges in between.items():
        a, b = by_id[low], by_id[high]
        length = math.hypot(b.x - a.x, b.y - a.y) or 1.0
        side = (a.y - b.y) / length, (b.x - a.x) / length
        for place, edge in enumerate(edges):
            offset = (place - (len(edges) - 1) / 2) * 44
            bend = (a.x + b.x) / 2 + side[0] * offset, (a.y + b.y) / 2 + side[1] * offset
            source, target = by_id[edge.source_memory_id], by_id[edge.target_memory_id]
            start, end = _border(source, bend, 0), _border(target, bend, 5)
            curves.append(_Curve(edge, start, bend, end))
    return curves


def _labels(curves: list[_Curve], boxes: list[_Box]) -> list[tuple[float, float, str]]:
    """Where the types of the relationships can be written without meeting a box or one another."""
    taken = [_Area(box.x, box.y, _BOX / 2 + 2, box.height / 2 + 2) for box in boxes]
    labels = []
    for curve in curves:
        words = legible(curve.edge.relationship_type, 24)
        half = _text_width(words, _SMALL) / 2 + 3
        for t in (0.5, 0.42, 0.58, 0.34, 0.66, 0.26, 0.74):
            area = _Area(*curve.at(t), half, _SMALL / 2 + 2)
            if not any(area.meets(other) for other in taken):
                taken.append(area)
                labels.append((area.x, area.y, words))
                break
    return labels


def _style(kinds: dict[str | None, int]) -> str:
    """Colours for a dark page; those for a light one are attributes, which every program reads."""
    dark = [
        ".ltm-ground{fill:#15171a}",
        f".ltm-graph text{{fill:{_DARK_INK}}}",
        ".ltm-graph .ltm-link{stroke:#8b949e}.ltm-graph .ltm-head{fill:#8b949e}",
        ".ltm-graph .ltm-type{fill:#adb5bd;stroke:#15171a}",
    ]
    for kind, number in kinds.items():
        *_, ground, line = _colours(kind)
        dark.append(f".ltm-graph .t{number} rect{{fill:{ground};stroke:{line}}}")
    return f"<style>@media(prefers-color-scheme:dark){{{''.join(dark)}}}</style>"


def _drawn_link(curve: _Curve) -> str:
    (x, y), (bend_x, bend_y), (to_x, to_y) = curve.start, curve.bend, curve.end
    edge = curve.edge
    title = escape(f"{legible(edge.relationship_type)}, strength {edge.strength:.2g}")
    return (
        f'<path class="ltm-link" data-relationship-id="{edge.id}" fill="none" stroke="{_MUTED}" '
        f'stroke-width="{_width(edge.strength)}" marker-end="url(#ltm-head)" '
        f'd="M{x:.1f} {y:.1f}Q{bend_x:.1f} {bend_y:.1f} {to_x:.1f} {to_y:.1f}">'
        f"<title>{title}</title></path>"
    )


def _drawn_box(box: _Box, kind: int) -> str:
    node = box.node
    ground, line, *_ = _colours(node.memory_type)
    thick = 2.5 if node.depth == 0 else 1.2
    dashes = ' stroke-dasharray="5 3"' if node.is_archived else ""
    about = [f"#{node.id}", node.memory_type or "of no type", *["archived"] * node.is_archived]
    title = escape(f"{legible(', '.join(about))}: {legible(node.content)}")
    top = box.y - (len(box.lines) - 1) * _LINE / 2
    text = "".join(
        f'<tspan x="{box.x:.1f}" y="{top + i * _LINE:.1f}">{escape(words)}</tspan>'
        for i, words in enumerate(box.lines)
    )
    weight = ' font-weight="600"' if node.depth == 0 else ""
    return (
        f'<g class="t{kind}" data-memory-id="{node.id}"><title>{title}</title>'
        f'<rect x="{box.x - _BOX / 2:.1f}" y="{box.y - box.height / 2:.1f}" width="{_BOX:g}" '
        f'height="{box.height:g}" rx="8" fill="{ground}" stroke="{line}" '
        f'stroke-width="{thick}"{dashes}/>'
        f'<text text-anchor="middle" dominant-baseline="central" fill="{_INK}"{weight}>{text}'
        "</text></g>"
    )


def _legend(kinds: dict[str | None, int], left: float, top: float) -> tuple[str, float]:
    """Which colour is which type, in a row, and how wide that is."""
    parts = []
    x = left
    for kind, number in kinds.items():
        ground, line, *_ = _colours(kind)
        words = legible(kind or "of no type", 24)
        parts.append(
            f'<g class="t{number}"><rect x="{x:.1f}" y="{top - 6:.1f}" width="12" height="12" '
            f'rx="3" fill="{ground}" stroke="{line}"/><text x="{x + 18:.1f}" y="{top:.1f}" '
            f'dominant-baseline="central" font-size="11" fill="{_INK}">{escape(words)}</text></g>'
        )
        x += 18 + _text_width(words, 11) + 20
    return "".join(parts), x - left


def to_svg(graph: Graph, *, inline: bool = False) -> str:
    """The graph as an SVG image: boxes that do not overlap, coloured by type, in light and dark.

    The width of a relationship's line is its strength; its type stands at it where there is room,
    and in its title. Up to about 40 memories are easy to read. `inline` leaves out what HTML that
    holds the image has itself: the namespace and the ground.
    """
    boxes, kinds = _boxes(graph), _kinds(graph)
    curves = _curves(graph, boxes)
    ends = [point for curve in curves for point in (curve.start, curve.at(0.5), curve.end)]
    left = min([box.x - _BOX / 2 for box in boxes] + [x for x, _ in ends], default=0.0) - 16
    top = min([box.y - box.height / 2 for box in boxes] + [y for _, y in ends], default=0.0) - 16
    right = max([box.x + _BOX / 2 for box in boxes] + [x for x, _ in ends], default=0.0) + 16
    bottom = max([box.y + box.height / 2 for box in boxes] + [y for _, y in ends], default=0.0)
    legend, wide = _legend(kinds, left + 16, bottom + 30)
    width, height = max(right - left, wide + 32), bottom - top + 50
    view = f"{left:.1f} {top:.1f} {width:.1f} {height:.1f}"
    title = escape(
        f"{len(boxes)} memories and {len(curves)} links" if boxes else "no memories", quote=False
    )
    parts = [
        '<svg class="ltm-graph" role="img" '
        + ("" if inline else 'xmlns="http://www.w3.org/2000/svg" ')
        + f'viewBox="{view}" width="{width:.0f}" height="{height:.0f}" font-size="{_FONT:g}" '
        'font-family="system-ui, -apple-system, Segoe UI, Roboto, sans-serif">',
        f"<title>{title}</title>",
        _style(kinds),
        '<defs><marker id="ltm-head" viewBox="0 0 10 10" refX="8" refY="5" markerWidth="9" '
        'markerHeight="9" markerUnits="userSpaceOnUse" orient="auto-start-reverse">'
        f'<path class="ltm-head" d="M0 1L9 5L0 9z" fill="{_MUTED}"/></marker></defs>',
    ]
    if not inline:
        parts.append(
            f'<rect class="ltm-ground" x="{left:.1f}" y="{top:.1f}" width="{width:.1f}" '
            f'height="{height:.1f}" fill="#ffffff"/>'
        )
    parts += map(_drawn_link, curves)
    parts += [
        f'<text class="ltm-type" x="{x:.1f}" y="{y:.1f}" text-anchor="middle" '
        f'dominant-baseline="central" font-size="{_SMALL:g}" fill="#57606a" stroke="#ffffff" '
        f'stroke-width="4" paint-order="stroke">{escape(words)}</text>'
        for x, y, words in _labels(curves, boxes)
    ]
    parts += [_drawn_box(box, kinds[box.node.memory_type]) for box in boxes]
    return "\n".join([*parts, legend, "</svg>"]) + "\n"
