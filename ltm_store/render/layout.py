"""Where the memories and relationships of a graph are drawn, such that nothing overlaps.

The same graph always gives the same places. Memories start on rings around the first one, are drawn
together by relationships and pushed apart otherwise, and are then moved until no boxes meet.
"""

from __future__ import annotations

import math
from collections import defaultdict
from itertools import combinations
from typing import Final, NamedTuple

from ltm_store.model.relationships import Graph, GraphEdge, GraphNode
from ltm_store.render.text import LABEL_WIDTH, label, legible, text_width

BOX_WIDTH: Final = LABEL_WIDTH + 18
LINE_HEIGHT: Final = 15.0
SMALL_FONT_SIZE: Final = 10.0  # of the types of relationships
_GAP: Final = 26.0  # between boxes
_RING: Final = 210  # from one ring to the next
_SQUEEZE: Final = 1.7  # boxes are wider than high: vertical distances count for more
_PAIRS: Final = 400_000  # of boxes that are looked at in all, in each of the two phases
_BEND: Final = 44  # between the middles of relationships of the same two memories

Point = tuple[float, float]


class Box(NamedTuple):
    """A memory, the lines that it shows, its centre and its height."""

    node: GraphNode
    lines: list[str]
    x: float
    y: float
    height: float


class Curve(NamedTuple):
    """A relationship's line from the border of one box to another's, bent by a point beside it."""

    edge: GraphEdge
    start: Point
    bend: Point
    end: Point

    def at(self, t: float) -> Point:
        """The point after this part of the way, 0 to 1."""
        a, b, c = (1 - t) ** 2, 2 * t * (1 - t), t * t
        return (
            a * self.start[0] + b * self.bend[0] + c * self.end[0],
            a * self.start[1] + b * self.bend[1] + c * self.end[1],
        )


class Label(NamedTuple):
    """The type of a relationship, and the centre of where it is written."""

    x: float
    y: float
    words: str


class Frame(NamedTuple):
    """The rectangle that holds boxes and curves, with a margin but at the bottom."""

    left: float
    top: float
    right: float
    bottom: float


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


def boxes_of(graph: Graph) -> list[Box]:
    """The memories of a graph as boxes that do not meet."""
    lines = [label(node.content) or [f"#{node.id}"] for node in graph.nodes]
    heights = [LINE_HEIGHT * len(text) + 14 for text in lines]
    places = _on_rings(graph)
    _relax(graph, places)
    _part(places, heights)
    return [
        Box(node, text, x, y, height)
        for node, text, (x, y), height in zip(graph.nodes, lines, places, heights, strict=True)
    ]


def curves_of(graph: Graph, boxes: list[Box]) -> list[Curve]:
    """The relationships as lines; those of the same two memories are fanned out."""
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
            offset = (place - (len(edges) - 1) / 2) * _BEND
            bend = (a.x + b.x) / 2 + side[0] * offset, (a.y + b.y) / 2 + side[1] * offset
            source, target = by_id[edge.source_memory_id], by_id[edge.target_memory_id]
            start, end = _border(source, bend, 0), _border(target, bend, 5)
            curves.append(Curve(edge, start, bend, end))
    return curves


def labels_of(curves: list[Curve], boxes: list[Box]) -> list[Label]:
    """Where the types of the relationships can be written without meeting a box or one another."""
    taken = [_Area(box.x, box.y, BOX_WIDTH / 2 + 2, box.height / 2 + 2) for box in boxes]
    labels = []
    for curve in curves:
        words = legible(curve.edge.relationship_type, 24)
        half = text_width(words, SMALL_FONT_SIZE) / 2 + 3
        for t in (0.5, 0.42, 0.58, 0.34, 0.66, 0.26, 0.74):
            area = _Area(*curve.at(t), half, SMALL_FONT_SIZE / 2 + 2)
            if not any(area.meets(other) for other in taken):
                taken.append(area)
                labels.append(Label(area.x, area.y, words))
                break
    return labels


def frame_of(boxes: list[Box], curves: list[Curve]) -> Frame:
    """What has to be seen."""
    points = [point for curve in curves for point in (curve.start, curve.at(0.5), curve.end)]
    half = BOX_WIDTH / 2
    xs = [x for box in boxes for x in (box.x - half, box.x + half)] + [x for x, _ in points]
    tops = [box.y - box.height / 2 for box in boxes] + [y for _, y in points]
    bottoms = [box.y + box.height / 2 for box in boxes] + [y for _, y in points]
    return Frame(
        min(xs, default=0.0) - 16,
        min(tops, default=0.0) - 16,
        max(xs, default=0.0) + 16,
        max(bottoms, default=0.0),
    )


def _border(box: Box, towards: Point, gap: float) -> Point:
    """Where a line from the centre of a box leaves it, some way outside."""
    dx, dy = towards[0] - box.x, towards[1] - box.y
    sides = (
        (BOX_WIDTH / 2 + gap) / abs(dx) if dx else math.inf,
        (box.height / 2 + gap) / abs(dy) if dy else math.inf,
    )
    share = min(*sides, 1.0)
    return box.x + dx * share, box.y + dy * share


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


def _on_rings(graph: Graph) -> list[list[float]]:
    """Places on rings around the first memory, each branch in a sector as wide as its leaves."""
    if not graph.nodes:
        return []
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
            ring = math.hypot(*places[node.id]) + _RING
            places[child] = ring * math.cos(angle), ring * math.sin(angle)
            start += share
    return [list(places[node.id]) for node in graph.nodes]


def _relax(graph: Graph, places: list[list[float]]) -> None:
    """Draw related memories together and push the others apart, in ever smaller steps."""
    index = {node.id: i for i, node in enumerate(graph.nodes)}
    related = {
        tuple(sorted((index[edge.source_memory_id], index[edge.target_memory_id])))
        for edge in graph.edges
    }
    size = len(places)
    steps = 0 if size < 3 else min(250, _PAIRS // size**2)
    for step in range(steps):
        most = 30 * (1 - step / steps)
        moves = _forces(places, related)
        for place, (x, y) in zip(places, moves, strict=True):
            length = math.hypot(x, y) or 1.0
            far = min(most, 4 * length) / length
            place[0] += x * far
            place[1] += y * far


def _forces(places: list[list[float]], related: set[tuple[int, ...]]) -> list[list[float]]:
    moves = [[0.0, 0.0] for _ in places]
    for i, j in combinations(range(len(places)), 2):
        dx, dy = places[i][0] - places[j][0], (places[i][1] - places[j][1]) * _SQUEEZE
        square = dx * dx + dy * dy or 1.0
        distance = math.sqrt(square)
        push = 42_000 / square
        push -= distance / 190 if (i, j) in related else 0
        for move, sign in ((moves[i], 1), (moves[j], -1)):
            move[0] += sign * push * dx / distance
            move[1] += sign * push * dy / distance / _SQUEEZE
    return moves


def _room(heights: list[float], i: int, j: int) -> Point:
    """How far the centres of two boxes have to be apart, in one direction or the other."""
    return BOX_WIDTH + 1.6 * _GAP, (heights[i] + heights[j]) / 2 + _GAP


def _part(places: list[list[float]], heights: list[float]) -> None:
    """Move boxes apart until none meets another; what still meets then is spread out by scale."""
    pairs = list(combinations(range(len(places)), 2))
    for _ in range(min(400, _PAIRS // (len(pairs) or 1))):
        if not _pushed_apart(places, heights, pairs):
            return
    scale = 1.0
    for i, j in pairs:
        dx, dy = abs(places[j][0] - places[i][0]), abs(places[j][1] - places[i][1])
        width, height = _room(heights, i, j)
        scale = max(scale, min(width / (dx or 1e-3), height / (dy or 1e-3)))
    for place in places:
        place[0] *= scale
        place[1] *= scale


def _pushed_apart(
    places: list[list[float]], heights: list[float], pairs: list[tuple[int, int]]
) -> bool:
    """Part each two boxes that meet, and tell whether any did."""
    met = False
    for i, j in pairs:
        dx, dy = places[j][0] - places[i][0], places[j][1] - places[i][1]
        width, height = _room(heights, i, j)
        over_x, over_y = width - abs(dx), height - abs(dy)
        if over_x <= 0 or over_y <= 0:
            continue
        met = True
        axis, over = (0, over_x) if over_x < over_y else (1, over_y)
        away = math.copysign(over / 2 + 0.5, dx if axis == 0 else dy)
        places[i][axis] -= away
        places[j][axis] += away
    return met
