"""The neighbourhood of a memory, and what is drawn of it."""

import itertools
import re
import xml.etree.ElementTree as ET
from datetime import UTC, datetime, timedelta

import pytest

from ltm_store import (
    Graph,
    InvalidArgument,
    add_memory,
    archive_memory,
    delete_memory,
    memory_graph,
    relate,
    to_dot,
    to_mermaid,
    to_svg,
    traverse,
)
from ltm_store.db.execute import fetch_one
from tests.attacks import ATTACKS

SVG = "{http://www.w3.org/2000/svg}"
MERMAID = re.compile(
    r'  m_?\d+\["[^"<>\[\]{}|`%;&\\]*"\]:::t\d+'
    r'|  m_?\d+ -->\|"[^"<>\[\]{}|`%;&\\]*"\| m_?\d+'
    r"|  linkStyle \d+ stroke-width:[\d.]+px"
    r"|  classDef t\d+ fill:#[0-9a-f]{6},stroke:#[0-9a-f]{6},color:#[0-9a-f]{6}"
    r"|  style m_?\d+ stroke-width:3px"
)
DOT_TEXT = r'"(?:[^"\\]|\\.)*"'
DOT = re.compile(
    rf'  m_?\d+ \[label={DOT_TEXT} fillcolor="#[0-9a-f]{{6}}" color="#[0-9a-f]{{6}}"'
    r"(?: penwidth=3)?\];"
    rf"|  m_?\d+ -> m_?\d+ \[label={DOT_TEXT} penwidth=[\d.]+\];"
)


async def star(db, contents: list[str], kind: str = "related") -> tuple[int, list[int]]:
    """A memory that others are related with."""
    hub = await add_memory(db, 1, "the hub", memory_type="goal")
    others = [await add_memory(db, 1, content, memory_type=kind[:50]) for content in contents]
    for place, other in enumerate(others):
        await relate(db, 1, hub.id, other.id, kind, strength=round(1 - place / 50, 2))
    return hub.id, [other.id for other in others]


def check_mermaid(text: str) -> tuple[int, int]:
    """How many nodes and edges a flowchart has, after a look at each of its lines."""
    first, *lines = text.splitlines()
    assert first == "flowchart LR"
    for line in lines:
        entity = re.compile(r"#\d+;")
        assert MERMAID.fullmatch(entity.sub("", line)), line
    return sum('["' in line for line in lines), sum("-->" in line for line in lines)


def check_dot(text: str) -> tuple[int, int]:
    first, *lines, last = text.splitlines()
    assert (first, last) == ("digraph memories {", "}")
    body = [line for line in lines if not re.match(r"  (graph|node|edge) \[", line)]
    for line in body:
        assert DOT.fullmatch(line), line
    relationships = sum(bool(re.match(r"  m_?\d+ ->", line)) for line in body)
    return len(body) - relationships, relationships


def rectangles(svg: ET.Element) -> list[tuple[float, float, float, float]]:
    """The boxes of the memories: left, top, right, bottom."""
    found = []
    for group in svg.iter(f"{SVG}g"):
        box = group.find(f"{SVG}rect")
        if "data-memory-id" in group.attrib and box is not None:
            x, y, width, height = (float(box.attrib[k]) for k in ("x", "y", "width", "height"))
            found.append((x, y, x + width, y + height))
    return found


def meet(a: tuple[float, ...], b: tuple[float, ...]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


async def test_a_graph_has_the_nearest_memories_and_all_relationships_among_them(conn):
    hub, (a, b, c) = await star(conn, ["a", "b", "c"])
    far = await add_memory(conn, 1, "far")
    await relate(conn, 1, far.id, c)
    inner = await relate(conn, 1, b, a, "contradicts", strength=0.3)
    await archive_memory(conn, 1, b)
    graph = await memory_graph(conn, 1, hub, depth=1)
    assert graph is not None
    assert inner is not None
    assert [(n.id, n.depth, n.is_archived) for n in graph.nodes] == [
        (hub, 0, False),
        (a, 1, False),
        (b, 1, True),
        (c, 1, False),
    ]
    assert [(e.source_memory_id, e.target_memory_id, e.strength) for e in graph.edges] == [
        (hub, a, 1.0),
        (hub, b, 0.98),
        (hub, c, 0.96),
        (b, a, 0.3),
    ]
    assert graph.edges[-1].id == inner.id
    assert graph.edges[-1].relationship_type == "contradicts"
    wider = await memory_graph(conn, 1, hub, depth=2)
    assert wider is not None
    assert [n.id for n in wider.nodes][1:] == [
        reached.related_memory.id for reached in await traverse(conn, 1, hub, depth=2)
    ]
    assert len(wider.edges) == 5
    narrow = await memory_graph(conn, 1, hub, depth=2, limit=1)
    assert narrow is not None
    assert ([n.id for n in narrow.nodes], len(narrow.edges)) == ([hub, a], 1)


async def test_a_memory_without_relationships_is_a_graph_of_its_own(conn):
    memory = await add_memory(conn, 1, "alone")
    graph = await memory_graph(conn, 1, memory.id)
    assert graph is not None
    assert (len(graph.nodes), graph.edges) == (1, ())
    assert graph.nodes[0].dynamic_importance == pytest.approx(memory.dynamic_importance)


async def test_of_a_missing_foreign_or_expired_memory_there_is_no_graph(conn):
    memory = await add_memory(conn, 1, "x")
    gone = await add_memory(conn, 1, "y", expires_at=datetime(2020, 1, 1, tzinfo=UTC))
    deleted = await add_memory(conn, 1, "z")
    await delete_memory(conn, 1, deleted.id)
    for user, memory_id in ((2, memory.id), ("nobody", memory.id), (1, gone.id), (1, deleted.id)):
        assert await memory_graph(conn, user, memory_id) is None


async def test_what_expires_between_the_two_round_trips_is_left_out_with_its_relationships(conn):
    hub, (a, b) = await star(conn, ["a", "b"])
    now = datetime.now(UTC)
    await conn.execute("UPDATE ltm_memories SET expires_at = now() WHERE id = $1", b)
    later = now + timedelta(hours=1)
    graph = await fetch_one(
        conn,
        "get_graph",
        Graph,
        user_id=1,
        memory_ids=[hub, a, b],
        depths=[0, 1, 1],
        as_of=later,
        content_chars=300,
        relationship_limit=10,
    )
    assert graph is not None
    assert [n.id for n in graph.nodes] == [hub, a]
    assert [e.target_memory_id for e in graph.edges] == [a]


@pytest.mark.parametrize(
    ("arguments", "field"),
    [({"depth": 0}, "depth"), ({"limit": 0}, "limit"), ({"limit": 201}, "limit")],
)
async def test_a_refused_argument_is_named(conn, arguments, field):
    with pytest.raises(InvalidArgument) as refused:
        await memory_graph(conn, 1, 1, **arguments)
    assert refused.value.field == field


async def test_a_graph_carries_beginnings_and_not_whole_contents(conn):
    memory = await add_memory(conn, 1, "ä" * 10_000)
    graph = await memory_graph(conn, 1, memory.id)
    assert graph is not None
    assert graph.nodes[0].content == "ä" * 300


async def test_rows_as_an_old_program_leaves_them_are_drawn(conn):
    hub, (a,) = await star(conn, ["a"])
    await conn.execute(
        "UPDATE ltm_memories SET memory_type = NULL, importance_score = NULL, is_archived = NULL "
        "WHERE user_id = 1"
    )
    await conn.execute("UPDATE ltm_memory_relationships SET strength = NULL WHERE user_id = 1")
    graph = await memory_graph(conn, 1, hub)
    assert graph is not None
    assert [(n.id, n.importance_score, n.is_archived) for n in graph.nodes] == [
        (hub, 1, False),
        (a, 1, False),
    ]
    assert "of no type" in to_svg(graph)


async def test_every_format_holds_every_memory_and_relationship_whatever_they_say(conn):
    hub, others = await star(conn, ATTACKS, kind='<b>"type" & ]`|%% end\n#35;')
    await relate(conn, 1, others[0], hub, "follows")
    await relate(conn, 1, others[1], others[2], "similar")
    graph = await memory_graph(conn, 1, hub)
    assert graph is not None
    counted = (len(ATTACKS) + 1, len(ATTACKS) + 2)
    assert check_mermaid(to_mermaid(graph)) == counted
    assert check_dot(to_dot(graph)) == counted
    svg = ET.fromstring(to_svg(graph))
    assert len(rectangles(svg)) == counted[0]
    assert (
        len([p for p in svg.iter(f"{SVG}path") if "data-relationship-id" in p.attrib])
        == (counted[1])
    )
    assert {element.tag.removeprefix(SVG) for element in svg.iter()} == {
        *("svg", "title", "style", "defs", "marker", "path", "rect", "g", "text", "tspan")
    }
    for text in (to_svg(graph), to_mermaid(graph), to_dot(graph)):
        assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\ufffe]", text)
    titles = [title.text or "" for title in svg.iter(f"{SVG}title")]
    assert any('<script>alert("1")</script>' in title for title in titles)
    assert any("👩‍👩‍👧 emoji 🦜" in title for title in titles)


def drawn(size: int, relationships: list[tuple[int, int]], start: int = 1) -> Graph:
    """A graph whose memories say the same at length."""
    depth = {start: 0}
    for _ in range(size):
        for a, b in relationships:
            for near, far in ((a, b), (b, a)):
                if near in depth:
                    depth[far] = min(depth.get(far, size), depth[near] + 1)
    nodes = [
        {
            "id": n,
            "content": f"Memory {n} says WWWWWW what a memory of some length would say, and then",
            "memory_type": ["fact", "goal", None][n % 3],
            "importance_score": 5,
            "dynamic_importance": 5.0,
            "is_archived": n % 7 == 0,
            "depth": depth.get(n, 1),
        }
        for n in range(start, start + size)
    ]
    edges = [
        {
            "id": i,
            "source_memory_id": a,
            "target_memory_id": b,
            "relationship_type": "contradicts" if i % 3 else "related",
            "strength": 1 / (1 + i % 4),
        }
        for i, (a, b) in enumerate(relationships)
    ]
    ordered = sorted(nodes, key=lambda node: (node["depth"], node["id"]))
    return Graph.model_validate({"nodes": ordered, "edges": edges})


SHAPES = {
    "one": drawn(1, []),
    "pair related thrice": drawn(2, [(1, 2), (2, 1), (1, 2)]),
    "star of 40": drawn(40, [(1, n) for n in range(2, 41)]),
    "chain of 20": drawn(20, [(n, n + 1) for n in range(1, 20)]),
    "tree of 40": drawn(40, [(n // 3 + 1, n) for n in range(2, 41)]),
    "all with all of 12": drawn(12, list(itertools.combinations(range(1, 13), 2))),
    "grid of 36": drawn(
        36,
        [(n, n + 1) for n in range(1, 36) if n % 6] + [(n, n + 6) for n in range(1, 31)],
    ),
    "star of 200": drawn(200, [(1, n) for n in range(2, 201)]),
    "negative ids": drawn(5, [(-9, n) for n in range(-8, -4)], start=-9),
}
SMALL = {name: graph for name, graph in SHAPES.items() if len(graph.nodes) <= 40}


@pytest.mark.parametrize("graph", SHAPES.values(), ids=SHAPES)
def test_no_boxes_and_no_labels_overlap(graph):
    svg = ET.fromstring(to_svg(graph))
    boxes = rectangles(svg)
    assert len(boxes) == len(graph.nodes)
    left, top, width, height = map(float, svg.attrib["viewBox"].split())
    for box in boxes:
        assert left <= box[0]
        assert top <= box[1]
        assert box[2] <= left + width
        assert box[3] <= top + height
    labels = []
    for text in svg.iter(f"{SVG}text"):
        if text.attrib.get("class") == "ltm-type":
            x, y = float(text.attrib["x"]), float(text.attrib["y"])
            half = 2.4 * len(text.text or "")  # narrower than any font draws it
            labels.append((x - half, y - 5, x + half, y + 5))
    for a, b in itertools.combinations(boxes + labels, 2):
        assert not meet(a, b)


@pytest.mark.parametrize("graph", SMALL.values(), ids=SMALL)
def test_the_same_graph_gives_the_same_text_and_parses(graph):
    assert to_svg(graph) == to_svg(graph)
    assert check_mermaid(to_mermaid(graph)) == (len(graph.nodes), len(graph.edges))
    assert check_dot(to_dot(graph)) == (len(graph.nodes), len(graph.edges))


def test_a_line_is_as_wide_as_its_relationship_is_strong():
    graph = drawn(3, [(1, 2), (1, 3)])
    svg = ET.fromstring(to_svg(graph))
    widths = [
        float(path.attrib["stroke-width"])
        for path in svg.iter(f"{SVG}path")
        if "data-relationship-id" in path.attrib
    ]
    assert widths == [3.5, 2.25]
    assert "linkStyle 0 stroke-width:3.5px" in to_mermaid(graph)
    assert "penwidth=2.25" in to_dot(graph)


def test_a_picture_loads_nothing_and_knows_the_dark():
    svg = to_svg(SHAPES["tree of 40"])
    assert "prefers-color-scheme:dark" in svg
    assert not re.search(r"href|@import|url\((?!#)|<image|<script|on\w+=", svg)
    inline = to_svg(SHAPES["tree of 40"], inline=True)
    assert "://" not in inline
