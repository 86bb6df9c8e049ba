"""Links between memories, and their mirror on the source memory."""

import asyncio
import random

import pytest

from ltm_store import (
    InvalidMemory,
    RelationshipType,
    add_memory,
    delete_memory,
    get_memory,
    get_relationships,
    relate,
    unrelate,
)


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
    with pytest.raises(InvalidMemory, match="^target_id: "):
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
