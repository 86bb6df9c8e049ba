"""Graphs of memories as SVG images."""

from __future__ import annotations

from html import escape
from typing import Final

from ltm_store.model.relationships import Graph
from ltm_store.render.colours import (
    DARK_INK,
    INK,
    MUTED,
    colours_of,
    line_width,
    numbered_types,
)
from ltm_store.render.layout import (
    BOX_WIDTH,
    LINE_HEIGHT,
    SMALL_FONT_SIZE,
    Box,
    Curve,
    Frame,
    Label,
    boxes_of,
    curves_of,
    frame_of,
    labels_of,
)
from ltm_store.render.text import FONT_SIZE, legible, text_width

_NAMESPACE: Final = 'xmlns="http://www.w3.org/2000/svg" '
_LEGEND_FONT_SIZE: Final = 11
_LEGEND_HEIGHT: Final = 50
_ARROWHEAD: Final = (
    '<defs><marker id="ltm-head" viewBox="0 0 10 10" refX="8" refY="5" markerWidth="9" '
    'markerHeight="9" markerUnits="userSpaceOnUse" orient="auto-start-reverse">'
    f'<path class="ltm-head" d="M0 1L9 5L0 9z" fill="{MUTED}"/></marker></defs>'
)


def to_svg(graph: Graph, *, inline: bool = False) -> str:
    """The graph as an SVG image: boxes that do not overlap, coloured by type, in light and dark.

    The width of a relationship's line is its strength; its type stands at it where there is room,
    and in its title. Up to about 40 memories are easy to read. `inline` leaves out what HTML that
    holds the image has itself: the namespace and the ground.
    """
    boxes, types = boxes_of(graph), numbered_types(graph)
    curves = curves_of(graph, boxes)
    frame = frame_of(boxes, curves)
    legend, legend_width = _legend(types, frame.left + 16, frame.bottom + 30)
    width = max(frame.right - frame.left, legend_width + 32)
    height = frame.bottom - frame.top + _LEGEND_HEIGHT
    parts = [
        _opening(frame, width, height, "" if inline else _NAMESPACE),
        f"<title>{_title(graph)}</title>",
        _dark_style(types),
        _ARROWHEAD,
        *([] if inline else [_ground(frame, width, height)]),
        *map(_relationship, curves),
        *map(_relationship_type, labels_of(curves, boxes)),
        *(_memory(box, types[box.node.memory_type]) for box in boxes),
        legend,
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _opening(frame: Frame, width: float, height: float, namespace: str) -> str:
    return (
        f'<svg class="ltm-graph" role="img" {namespace}'
        f'viewBox="{frame.left:.1f} {frame.top:.1f} {width:.1f} {height:.1f}" '
        f'width="{width:.0f}" height="{height:.0f}" font-size="{FONT_SIZE:g}" '
        'font-family="system-ui, -apple-system, Segoe UI, Roboto, sans-serif">'
    )


def _title(graph: Graph) -> str:
    if not graph.nodes:
        return "no memories"
    return f"{len(graph.nodes)} memories and {len(graph.edges)} relationships"


def _ground(frame: Frame, width: float, height: float) -> str:
    return (
        f'<rect class="ltm-ground" x="{frame.left:.1f}" y="{frame.top:.1f}" width="{width:.1f}" '
        f'height="{height:.1f}" fill="#ffffff"/>'
    )


def _dark_style(types: dict[str | None, int]) -> str:
    """Colours for a dark page; those for a light one are attributes, which every program reads."""
    dark = [
        ".ltm-ground{fill:#15171a}",
        f".ltm-graph text{{fill:{DARK_INK}}}",
        ".ltm-graph .ltm-relationship{stroke:#8b949e}.ltm-graph .ltm-head{fill:#8b949e}",
        ".ltm-graph .ltm-type{fill:#adb5bd;stroke:#15171a}",
    ]
    for memory_type, number in types.items():
        *_, ground, line = colours_of(memory_type)
        dark.append(f".ltm-graph .t{number} rect{{fill:{ground};stroke:{line}}}")
    return f"<style>@media(prefers-color-scheme:dark){{{''.join(dark)}}}</style>"


def _relationship(curve: Curve) -> str:
    (x, y), (bend_x, bend_y), (to_x, to_y) = curve.start, curve.bend, curve.end
    edge = curve.edge
    title = escape(f"{legible(edge.relationship_type)}, strength {edge.strength:.2g}")
    return (
        f'<path class="ltm-relationship" data-relationship-id="{edge.id}" fill="none" '
        f'stroke="{MUTED}" stroke-width="{line_width(edge.strength)}" '
        f'marker-end="url(#ltm-head)" '
        f'd="M{x:.1f} {y:.1f}Q{bend_x:.1f} {bend_y:.1f} {to_x:.1f} {to_y:.1f}">'
        f"<title>{title}</title></path>"
    )


def _relationship_type(label: Label) -> str:
    return (
        f'<text class="ltm-type" x="{label.x:.1f}" y="{label.y:.1f}" text-anchor="middle" '
        f'dominant-baseline="central" font-size="{SMALL_FONT_SIZE:g}" fill="#57606a" '
        'stroke="#ffffff" stroke-width="4" paint-order="stroke">'
        f"{escape(label.words)}</text>"
    )


def _memory(box: Box, number: int) -> str:
    node = box.node
    ground, line, *_ = colours_of(node.memory_type)
    border = 2.5 if node.depth == 0 else 1.2
    dashes = ' stroke-dasharray="5 3"' if node.is_archived else ""
    about = [f"#{node.id}", node.memory_type or "of no type", *["archived"] * node.is_archived]
    title = escape(f"{legible(', '.join(about))}: {legible(node.content)}")
    top = box.y - (len(box.lines) - 1) * LINE_HEIGHT / 2
    text = "".join(
        f'<tspan x="{box.x:.1f}" y="{top + i * LINE_HEIGHT:.1f}">{escape(words)}</tspan>'
        for i, words in enumerate(box.lines)
    )
    weight = ' font-weight="600"' if node.depth == 0 else ""
    return (
        f'<g class="t{number}" data-memory-id="{node.id}"><title>{title}</title>'
        f'<rect x="{box.x - BOX_WIDTH / 2:.1f}" y="{box.y - box.height / 2:.1f}" '
        f'width="{BOX_WIDTH:g}" height="{box.height:g}" rx="8" fill="{ground}" stroke="{line}" '
        f'stroke-width="{border}"{dashes}/>'
        f'<text text-anchor="middle" dominant-baseline="central" fill="{INK}"{weight}>{text}'
        "</text></g>"
    )


def _legend(types: dict[str | None, int], left: float, top: float) -> tuple[str, float]:
    """Which colour is which type, in a row, and how wide that is."""
    parts = []
    x = left
    for memory_type, number in types.items():
        ground, line, *_ = colours_of(memory_type)
        words = legible(memory_type or "of no type", 24)
        parts.append(
            f'<g class="t{number}"><rect x="{x:.1f}" y="{top - 6:.1f}" width="12" height="12" '
            f'rx="3" fill="{ground}" stroke="{line}"/><text x="{x + 18:.1f}" y="{top:.1f}" '
            f'dominant-baseline="central" font-size="{_LEGEND_FONT_SIZE}" fill="{INK}">'
            f"{escape(words)}</text></g>"
        )
        x += 18 + text_width(words, _LEGEND_FONT_SIZE) + 20
    return "".join(parts), x - left
