"""Relationships between memories, and their mirror on the source memory."""

import asyncio
import random
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise, product
from math import log, prod

import networkx as nx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ltm_store import (
    InvalidArgument,
    InvalidMemory,
    RelationshipType,
    add_memory,
    archive_memory,
    check_health,
    delete_memory,
    get_memory,
    get_relationships,
    relate,
    shortest_path,
    suggest_relationships,
    traverse,
    unrelate,
    update_memory,
)
from tests.locks import WAITING


@pytest.fixture
async def ids(conn):
    return [(await add_memory(conn, 1, f"memory {n}", memory_type="fact")).id for n in range(4)]


async def mirror(conn, memory_id):
    memory = await get_memory(conn, 1, memory_id)
    assert memory is not None
    return memory.related_memory_ids


async def test_relate_links_and_mirrors(conn, ids):
    link = await relate(
        conn, 1, ids[0], ids[1], RelationshipType.CAUSES, strength=0.25, description="so it was"
    )
    assert link is not None
    assert (link.source_memory_id, link.target_memory_id, link.direction) == (*ids[:2], "outgoing")
    assert (link.relationship_type, link.strength, link.description) == (
        "causes",
        0.25,
        "so it was",
    )
    other = link.related_memory
    assert other.model_dump() == {
        "id": ids[1],
        "content": "memory 1",
        "memory_type": "fact",
        "importance_score": 5,
    }
    assert await mirror(conn, ids[0]) == (ids[1],)
    assert await mirror(conn, ids[1]) == ()


async def test_a_link_of_the_same_type_is_changed_in_place(conn, ids):
    first = await relate(conn, 1, ids[0], ids[1], strength=0.1, description="once")
    again = await relate(conn, 1, ids[0], ids[1], strength=0.9)
    await relate(conn, 1, ids[0], ids[1], "a kind of my own")
    assert first is not None
    assert again is not None
    assert (again.id, again.strength, again.description) == (first.id, 0.9, None)
    assert len(await get_relationships(conn, 1, ids[0])) == 2
    assert await mirror(conn, ids[0]) == (ids[1],)


async def test_both_directions_strongest_first(conn, ids):
    await relate(conn, 1, ids[0], ids[1], strength=0.2)
    await relate(conn, 1, ids[2], ids[0], "follows", strength=0.8)
    await relate(conn, 1, ids[1], ids[2])
    found = await get_relationships(conn, 1, ids[0])
    assert [(link.direction, link.related_memory.id, link.strength) for link in found] == [
        ("incoming", ids[2], 0.8),
        ("outgoing", ids[1], 0.2),
    ]
    memory = await get_memory(conn, 1, ids[0], include_relationships=True)
    assert memory is not None
    assert list(memory.relationships or ()) == found


async def test_unrelate_one_type_or_all(conn, ids):
    for kind in ("related", "causes", "follows"):
        await relate(conn, 1, ids[0], ids[1], kind)
    await relate(conn, 1, ids[0], ids[2])
    assert await unrelate(conn, 1, ids[0], ids[1], "causes") is True
    assert await unrelate(conn, 1, ids[0], ids[1], "causes") is False
    assert await mirror(conn, ids[0]) == (ids[1], ids[2])
    assert await unrelate(conn, 1, ids[0], ids[1]) is True
    assert await mirror(conn, ids[0]) == (ids[2],)
    assert await unrelate(conn, 1, ids[0], ids[1]) is False
    assert await unrelate(conn, 1, ids[2], ids[0]) is False
    assert await unrelate(conn, 2, ids[0], ids[2]) is False


async def test_what_cannot_be_related(conn, ids):
    with pytest.raises(InvalidMemory, match="^target_memory_id: "):
        await relate(conn, 1, ids[0], ids[0])
    for strength in (-0.1, 1.1, float("nan")):
        with pytest.raises(InvalidMemory, match="^strength: "):
            await relate(conn, 1, ids[0], ids[1], strength=strength)
    assert await relate(conn, 1, ids[0], 10**12) is None
    assert await get_relationships(conn, 1, ids[0]) == []
    assert await mirror(conn, ids[0]) == ()


async def test_links_both_ways_at_once_are_all_mirrored(db):
    ids = [(await add_memory(db, 1, f"{n}")).id for n in range(6)]
    draw = random.Random(7)
    pairs = [draw.sample(ids, 2) for _ in range(300)]
    made = await asyncio.gather(*(relate(db, 1, source, target) for source, target in pairs))
    assert all(made)
    for source in ids:
        memory = await get_memory(db, 1, source)
        assert memory is not None
        assert sorted(memory.related_memory_ids) == sorted({t for s, t in pairs if s == source})


@pytest.mark.parametrize("relationship_type", [None, "related"])
async def test_a_link_that_waited_for_its_removal_is_mirrored(db, relationship_type):
    a, b = [(await add_memory(db, 1, f"{n}")).id for n in range(2)]
    await relate(db, 1, a, b)
    async with db.transaction() as first:
        await unrelate(first, 1, a, b, relationship_type)
        waiting = asyncio.ensure_future(relate(db, 1, a, b))
        while not await first.fetchval(WAITING):
            assert not waiting.done()
    assert await waiting is not None
    assert await mirror(db, a) == (b,)
    assert await check_health(db) == []


async def test_links_too_weak_for_a_number_are_walked(conn):
    ids = [(await add_memory(conn, 1, f"{n}")).id for n in range(4)]
    for (source, target), strength in zip(pairwise(ids), (1e-200, 1e-200, 0.5), strict=True):
        await relate(conn, 1, source, target, strength=strength)
    reached = await traverse(conn, 1, ids[0], depth=3)
    assert [memory.path_strength for memory in reached] == [1e-200, 0, 0]
    path = await shortest_path(conn, 1, ids[0], ids[3])
    assert path is not None
    assert (path.path, path.strength) == (tuple(ids), 0)
    await relate(conn, 1, ids[0], ids[3], strength=5e-324)
    await relate(conn, 1, ids[3], ids[1], strength=5e-324)
    assert {memory.path_strength for memory in await traverse(conn, 1, ids[0])} >= {5e-324, 0}


async def test_relating_and_deleting_at_once_never_deadlock(db):
    """Both lock in the order of the ids: a deadlock would come as Unavailable."""
    for _ in range(30):
        ids = [(await add_memory(db, 1, f"{n}")).id for n in range(8)]
        for target in ids[:4]:
            await asyncio.gather(*(relate(db, 1, source, target) for source in ids[4:]))
        await asyncio.gather(
            *(delete_memory(db, 1, target) for target in ids[:4]),
            *(relate(db, 1, source, target, "causes") for source in ids[4:] for target in ids[:4]),
        )
        for source in ids[4:]:
            assert await get_relationships(db, 1, source) == []


@dataclass
class Graph:
    """Memories 0 .. n - 1 of a user; relationships as (source, target, type, strength * 8)."""

    memories: int
    links: list[tuple[int, int, str, int | None]]
    expired: set[int]


@st.composite
def graphs(draw):
    memories = draw(st.integers(2, 10))
    ends = st.integers(0, memories - 1)
    link = st.tuples(
        ends, ends, st.sampled_from(["related", "causes"]), st.none() | st.integers(0, 8)
    ).filter(lambda link: link[0] != link[1])
    links = draw(st.lists(link, max_size=30, unique_by=lambda link: link[:3]))
    return Graph(memories, links, draw(st.sets(ends, max_size=2)))


async def stored(conn, graph):
    """The graph as rows of a user; the ids of its memories."""
    rows = await conn.fetch(
        "INSERT INTO ltm_memories (user_id, content, expires_at) "
        "SELECT 1, n::text, CASE WHEN n = any($2::integer[]) THEN timestamptz '2020-01-01' END "
        "FROM generate_series(0, $1::integer - 1) AS n RETURNING id",
        graph.memories,
        list(graph.expired),
    )
    ids = [row["id"] for row in rows]
    await conn.executemany(
        "INSERT INTO ltm_memory_relationships "
        "(user_id, source_memory_id, target_memory_id, relationship_type, strength) "
        "VALUES (1, $1, $2, $3, $4)",
        [
            (ids[source], ids[target], kind, eighths and eighths / 8)
            for source, target, kind, eighths in graph.links
        ],
    )
    return ids


def reference(graph, ids, types, min_strength):
    """The strongest relationship of each two memories that can be walked."""
    walkable = nx.Graph()
    walkable.add_nodes_from(id_ for n, id_ in enumerate(ids) if n not in graph.expired)
    for source, target, kind, eighths in graph.links:
        strength = 1.0 if eighths is None else eighths / 8
        ends = ids[source], ids[target]
        if {source, target} & graph.expired or (types and kind not in types):
            continue
        if strength >= (min_strength or 0):
            known = walkable.get_edge_data(*ends, {"strength": 0})["strength"]
            walkable.add_edge(*ends, strength=max(known, strength))
    return walkable


def strength_of(walkable, path):
    return prod(walkable.edges[pair]["strength"] for pair in pairwise(path))


@given(
    graphs(),
    st.integers(1, 9),
    st.none() | st.just(("causes",)),
    st.none() | st.sampled_from([0.25, 0.5]),
    st.integers(1, 12),
)
async def test_walks_equal_those_of_networkx(
    session_conn, graph, depth, types, min_strength, limit
):
    transaction = session_conn.transaction()
    await transaction.start()
    try:
        ids = await stored(session_conn, graph)
        start, target = ids[0], ids[1]
        which = {"types": types, "min_strength": min_strength}
        found = await traverse(session_conn, 1, start, depth=depth, limit=limit, **which)
        path = await shortest_path(session_conn, 1, start, target, max_depth=depth, **which)
        back = await shortest_path(session_conn, 1, target, start, max_depth=depth, **which)
    finally:
        await transaction.rollback()
    walkable = reference(graph, ids, types, min_strength)
    best = {}
    if start in walkable:
        for other in nx.single_source_shortest_path_length(walkable, start, cutoff=depth):
            paths = nx.all_shortest_paths(walkable, start, other)
            strength = max(strength_of(walkable, path) for path in paths)
            length = nx.shortest_path_length(walkable, start, other)
            best[other] = (length, -strength, other)
    nearest = sorted(entry for entry in best.values() if entry[0] > 0)[:limit]
    assert [(r.depth, -r.path_strength, r.related_memory.id) for r in found] == nearest
    for reached in found:
        assert (reached.path[0], reached.path[-1]) == (start, reached.related_memory.id)
        assert len(reached.path) == reached.depth + 1
        assert strength_of(walkable, reached.path) == reached.path_strength
    assert (path is None) is (back is None) is (target not in best)
    for one, ends in ((path, (start, target)), (back, (target, start))):
        if one is not None:
            assert (one.path[0], one.path[-1]) == ends
            assert (len(one.steps), -one.strength) == best[target][:2]
            assert strength_of(walkable, one.path) == one.strength
            for (before, after), step in zip(pairwise(one.path), one.steps, strict=True):
                outgoing = step.direction == "outgoing"
                assert step.related_memory.id == after
                assert (step.source_memory_id, step.target_memory_id) == (
                    (before, after) if outgoing else (after, before)
                )


@pytest.mark.parametrize("seed", range(10))
async def test_of_many_shortest_paths_the_strongest_is_taken(conn, seed):
    """From one end to the other through three of each of four layers, so 81 ways."""
    draw = random.Random(seed)
    layers = [[0], *([3 * n + 1, 3 * n + 2, 3 * n + 3] for n in range(4)), [13]]
    links: list[tuple[int, int, str, int | None]] = [
        (source, target, "related", draw.randint(1, 8))
        for before, after in pairwise(layers)
        for source in before
        for target in after
    ]
    graph = Graph(14, links, set())
    ids = await stored(conn, graph)
    walkable = reference(graph, ids, None, None)
    ways = [[ids[n] for n in way] for way in product(*layers)]
    best = max(strength_of(walkable, way) for way in ways)
    for ends in ((ids[0], ids[13]), (ids[13], ids[0])):
        path = await shortest_path(conn, 1, *ends)
        assert path is not None
        assert (path.strength, strength_of(walkable, path.path)) == (best, best)
        reached = (await traverse(conn, 1, ends[0], depth=5))[-1]
        assert (reached.depth, reached.path[-1], reached.path_strength) == (5, ends[1], best)
        assert strength_of(walkable, reached.path) == best


async def test_what_a_walk_tells(conn, ids):
    first, second, third, alone = ids
    await relate(conn, 1, first, second, "causes", strength=0.5, description="so it was")
    await relate(conn, 1, third, second, "follows", strength=0.5)
    await relate(conn, 1, third, second, strength=0.25)
    near, far = await traverse(conn, 1, first)
    assert (near.depth, near.path, near.path_strength) == (1, (first, second), 0.5)
    assert (far.depth, far.path, far.path_strength) == (2, (first, second, third), 0.25)
    assert far.related_memory.model_dump() == {
        "id": third,
        "content": "memory 2",
        "memory_type": "fact",
        "importance_score": 5,
    }
    path = await shortest_path(conn, 1, first, third)
    assert path is not None
    assert (path.path, path.strength) == (far.path, far.path_strength)
    assert [(s.relationship_type, s.direction, s.description) for s in path.steps] == [
        ("causes", "outgoing", "so it was"),
        ("follows", "incoming", None),
    ]
    itself = await shortest_path(conn, 1, alone, alone)
    assert itself is not None
    assert (itself.path, itself.steps, itself.strength) == ((alone,), (), 1)
    assert await shortest_path(conn, 1, first, alone) is None
    assert await shortest_path(conn, 1, first, third, max_depth=1) is None
    assert [r.related_memory.id for r in await traverse(conn, 1, first, depth=1)] == [second]
    assert await traverse(conn, 1, first, types=["follows"]) == []
    assert await traverse(conn, 1, first, types=[]) == []


async def test_no_path_leads_through_an_expired_memory(conn, ids):
    first, last, beside, other = ids
    gone = (await add_memory(conn, 1, "gone")).id
    await relate(conn, 1, first, gone)
    await relate(conn, 1, gone, last)
    assert await shortest_path(conn, 1, first, last) is not None
    await update_memory(conn, 1, gone, expires_at=datetime(2026, 1, 1, tzinfo=UTC))
    assert await shortest_path(conn, 1, first, last) is None
    for neighbour in (beside, other):  # now the search from the last memory is the one to meet it
        await relate(conn, 1, first, neighbour)
    assert await shortest_path(conn, 1, first, last) is None
    assert await shortest_path(conn, 1, first, gone) is None
    assert await shortest_path(conn, 1, gone, gone) is None
    assert await traverse(conn, 1, gone) == []


async def test_a_step_is_the_strongest_link_of_the_types_asked_for(conn, ids):
    for kind, strength in (("related", 0.9), ("causes", 0.2), ("follows", 0.4)):
        await relate(conn, 1, ids[0], ids[1], kind, strength=strength)
    for types, kind in (
        (None, "related"),
        (["causes", "follows"], "follows"),
        ([RelationshipType.CAUSES], "causes"),
    ):
        path = await shortest_path(conn, 1, ids[0], ids[1], types=types)
        assert path is not None
        assert [step.relationship_type for step in path.steps] == [kind]


@pytest.mark.parametrize("user", [2, "nobody"])
async def test_another_user_walks_nowhere(conn, ids, user):
    await relate(conn, 1, ids[0], ids[1])
    assert await traverse(conn, user, ids[0]) == []
    assert await shortest_path(conn, user, ids[0], ids[1]) is None
    assert await shortest_path(conn, user, ids[0], ids[0]) is None
    assert await traverse(conn, 1, 10**12) == []


@pytest.mark.parametrize(
    ("field", "arguments"),
    [
        ("depth", {"depth": 0}),
        ("depth", {"depth": 21}),
        ("limit", {"limit": 1001}),
        ("types", {"types": "causes"}),
        ("types", {"types": ["x" * 51]}),
        ("min_strength", {"min_strength": 1.5}),
        ("memory_id", {"memory_id": "1"}),
    ],
)
async def test_a_walk_that_is_refused(conn, field, arguments):
    with pytest.raises(InvalidArgument, match=f"^{field}"):
        await traverse(conn, 1, **{"memory_id": 1, **arguments})


async def test_a_path_that_is_refused(conn):
    for field, arguments in (
        ("max_depth", {"max_depth": 21}),
        ("max_depth", {"max_depth": True}),
        ("types", {"types": "causes"}),
        ("min_strength", {"min_strength": -1.0}),
    ):
        with pytest.raises(InvalidArgument, match=f"^{field}: "):
            await shortest_path(conn, 1, 1, 2, **arguments)


async def hub(conn, leaves):
    """A memory with ever weaker relationships to leaves, and one related to the last leaf."""
    hub, *ids, end = [
        row["id"]
        for row in await conn.fetch(
            "INSERT INTO ltm_memories (user_id, content) "
            "SELECT 1, n::text FROM generate_series(0, $1::integer + 1) AS n RETURNING id",
            leaves,
        )
    ]
    await conn.execute(
        "INSERT INTO ltm_memory_relationships "
        "(user_id, source_memory_id, target_memory_id, relationship_type, strength) "
        "SELECT 1, $1, n.id, 'related', 1 - n.place / 20000.0 "
        "FROM unnest($2::bigint[]) WITH ORDINALITY AS n (id, place)",
        hub,
        ids,
    )
    await relate(conn, 1, ids[-1], end)
    return hub, ids, end


async def test_of_a_hub_the_strongest_links_are_followed(conn):
    middle, leaves, end = await hub(conn, 10_050)
    found = await traverse(conn, 1, middle, depth=20, limit=300)
    assert [r.related_memory.id for r in found] == leaves[:300]
    path = await shortest_path(conn, 1, end, leaves[0])
    assert path is not None
    assert path.path == (end, leaves[-1], middle, leaves[0])
    assert await shortest_path(conn, 1, middle, leaves[9_999], max_depth=1) is not None
    # Beyond the bound a relationship is seen from the leaf's side only, which comes second.
    assert await shortest_path(conn, 1, middle, leaves[10_000], max_depth=1) is None
    path = await shortest_path(conn, 1, middle, leaves[10_000])
    assert path is not None
    assert path.path == (middle, leaves[10_000])


async def test_links_to_expired_memories_count_as_looked_at(conn):
    middle, leaves, _ = await hub(conn, 110)
    await conn.execute(
        "UPDATE ltm_memories SET expires_at = '2020-01-01' WHERE user_id = 1 AND id = any($1)",
        leaves[:102],
    )
    assert await traverse(conn, 1, middle, limit=1) == []
    found = await traverse(conn, 1, middle, limit=2)
    assert [r.related_memory.id for r in found] == leaves[102:104]


async def test_reached_memories_take_nothing_from_the_nearest(conn, ids):
    """The relationships back to what a level has seen already do not count against its limit."""
    first, second, third, last = ids
    for kind in ("related", "causes"):
        await relate(conn, 1, first, second, kind)
    await relate(conn, 1, first, third)
    await relate(conn, 1, second, third)
    await relate(conn, 1, third, last, strength=0.1)
    found = await traverse(conn, 1, first, limit=3)
    assert [r.related_memory.id for r in found] == [second, third, last]


def shared(suggestion):
    return (
        suggestion.tags,
        suggestion.source_id,
        suggestion.participants,
        suggestion.words,
    )


async def test_suggested_is_what_shares_something_and_is_not_linked(conn):
    with_john = {"social": {"participants": ["John", "Sarah"]}}
    memory = await add_memory(
        conn,
        1,
        "Kayaking on the Enns",
        tags=["River", "summer"],
        source_id="c1",
        enhanced_context=with_john,
    )
    for n in range(20):
        await add_memory(conn, 1, f"filler {n}")
    tagged = await add_memory(conn, 1, "x", tags=["river", "Summer", "other"])
    same_source = await add_memory(conn, 1, "y", source_id="c1")
    people = await add_memory(
        conn, 1, "z", enhanced_context={"social": {"participants": ["Sarah"]}}
    )
    worded = await add_memory(conn, 1, "the kayak is blue")
    await add_memory(conn, 1, "kayaks", tags=["river"], related_memory_ids=[memory.id])
    linked_to = await add_memory(conn, 1, "kayaks", tags=["river"])
    await relate(conn, 1, memory.id, linked_to.id)
    archived = await add_memory(conn, 1, "kayaks", tags=["river"])
    await archive_memory(conn, 1, archived.id)
    await add_memory(conn, 1, "kayaks", expires_at=datetime(2026, 1, 1, tzinfo=UTC))
    await add_memory(conn, 2, "kayaks", tags=["river"])
    before = await conn.fetchval("SELECT count(*) FROM ltm_memory_relationships")
    found = await suggest_relationships(conn, 1, memory.id)
    assert {s.related_memory.id: shared(s) for s in found} == {
        tagged.id: (("River", "summer"), None, (), ()),
        same_source.id: ((), "c1", (), ()),
        people.id: ((), None, ("Sarah",), ()),
        worded.id: ((), None, (), ("kayak",)),
    }
    assert {s.related_memory.id: s.reason for s in found} == {
        tagged.id: "tags: River, summer",
        same_source.id: "source: c1",
        people.id: "people: Sarah",
        worded.id: "words: kayak",
    }
    assert found[0].related_memory.id == tagged.id
    assert [s.score for s in found] == sorted((s.score for s in found), reverse=True)
    # idf of two holders among the 30 of this user; archived and expired ones are counted, too.
    size = await conn.fetchval("SELECT count(*) FROM ltm_memories WHERE user_id = 1")
    by_id = {s.related_memory.id: s.score for s in found}
    assert by_id[same_source.id] == pytest.approx(log(1 + (size - 2 + 0.5) / 2.5))
    assert by_id[worded.id] == pytest.approx(0.5 * log(1 + (size - 6 + 0.5) / 6.5))
    assert await suggest_relationships(conn, 1, memory.id, limit=1) == found[:1]
    assert await conn.fetchval("SELECT count(*) FROM ltm_memory_relationships") == before


async def test_what_more_than_a_hundred_memories_have_is_no_reason(conn):
    await conn.execute(
        "INSERT INTO ltm_memories (user_id, content, tags, source_id, context_data) "
        "SELECT 1, 'common', '[\"often\"]', 'long', '{\"social\": {\"participants\": [\"All\"]}}' "
        "FROM generate_series(1, 99)"
    )
    memory = await add_memory(
        conn,
        1,
        "common",
        tags=["often"],
        source_id="long",
        enhanced_context={"social": {"participants": ["All"]}},
    )
    reasons = (("often",), "long", ("All",), ("common",))
    found = await suggest_relationships(conn, 1, memory.id, limit=1000)
    assert [shared(s) for s in found] == [reasons] * 99
    await conn.execute(
        "INSERT INTO ltm_memories (user_id, content, tags, source_id, context_data) "
        "SELECT user_id, content, tags, source_id, context_data FROM ltm_memories LIMIT 1"
    )
    assert await suggest_relationships(conn, 1, memory.id) == []


@pytest.mark.parametrize(
    "context",
    ["NULL", "'null'", '\'{"social": {"participants": [null, 7]}}\'', "'{\"social\": 1}'"],
)
async def test_suggestions_for_a_row_of_an_older_program(conn, context):
    numbers = [
        row["id"]
        for row in await conn.fetch(
            "INSERT INTO ltm_memories (user_id, content, tags, context_data) "
            f"SELECT 1, 'kayak', 'null', {context} FROM generate_series(1, 2) RETURNING id"
        )
    ]
    (found,) = await suggest_relationships(conn, 1, numbers[0])
    assert shared(found) == ((), None, (), ("kayak",))


async def test_suggestions_for_what_is_not_there(conn, ids):
    expired = await add_memory(conn, 1, "memory", expires_at=datetime(2026, 1, 1, tzinfo=UTC))
    assert await suggest_relationships(conn, 1, expired.id) == []
    assert await suggest_relationships(conn, 1, 10**12) == []
    assert await suggest_relationships(conn, 2, ids[0]) == []
    assert await suggest_relationships(conn, "nobody", ids[0]) == []
    with pytest.raises(InvalidArgument, match="^limit: "):
        await suggest_relationships(conn, 1, ids[0], limit=0)
