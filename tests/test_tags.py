"""Tags: their details, their names, and the list on the memory that reads and filters use."""

import asyncio
import random
from collections import Counter
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ltm_store import (
    InvalidArgument,
    InvalidMemory,
    add_memory,
    add_tags,
    archive_memory,
    get_memory,
    limits,
    list_tags,
    related_tags,
    remove_tags,
    rename_tag,
    search_memories,
    update_memory,
)

PAST = datetime(2026, 1, 1, tzinfo=UTC)


async def details(db, memory_id, user=1):
    return {tag.tag_name: tag for tag in await list_tags(db, user, memory_id=memory_id)}


async def in_step(db, memory_id):
    """The tags of a memory, which its rows of ltm_memory_tags repeat."""
    memory = await get_memory(db, 1, memory_id)
    assert memory is not None
    async with db.transaction() as connection:
        rows = await connection.fetch(
            "SELECT tag_name FROM ltm_memory_tags WHERE memory_id = $1", memory_id
        )
    assert sorted(row["tag_name"] for row in rows) == sorted(memory.tags)
    return memory.tags


async def test_added_tags_stand_behind_the_others_with_their_details(conn):
    memory = await add_memory(conn, 1, "x", tags=["first"], created_at=PAST)
    changed = await add_tags(
        conn,
        1,
        memory.id,
        ["Second", " Cafe\u0301 "],
        tag_category="place",
        tag_importance=2.5,
        tag_confidence=0.5,
    )
    assert changed is not None
    assert changed.tags == ("first", "Second", "Café")
    assert changed.version == memory.version + 1
    assert changed.last_modified is not None
    assert memory.last_modified is not None
    assert changed.last_modified > memory.last_modified
    assert await get_memory(conn, 1, memory.id) == changed
    found = await details(conn, memory.id)
    second = found["Second"]
    assert (second.tag_category, second.tag_importance, second.tag_confidence) == (
        "place",
        2.5,
        0.5,
    )
    assert (second.usage_count, second.memory_count) == (1, 1)
    assert second.first_used == second.last_used == changed.last_modified
    assert (found["first"].first_used, found["first"].tag_category) == (PAST, "general")
    assert [hit.id for hit in await search_memories(conn, 1, tags=["SECOND"])] == [memory.id]


async def test_a_tag_given_again_is_counted_and_keeps_its_spelling(conn):
    memory = await add_memory(conn, 1, "x", tags=["Work"], created_at=PAST)
    await add_tags(conn, 1, memory.id, ["WORK", "work"], tag_category="life")
    changed = await add_tags(conn, 1, memory.id, ["work"], tag_importance=3.0)
    assert changed is not None
    assert changed.tags == ("Work",)
    tag = (await details(conn, memory.id))["Work"]
    assert (tag.usage_count, tag.tag_category, tag.tag_importance) == (3, "life", 3.0)
    assert (tag.first_used, tag.last_used) == (PAST, changed.last_modified)


async def test_the_largest_weights_have_an_average(conn):
    for _ in range(3):
        memory = await add_memory(conn, 1, "x")
        await add_tags(conn, 1, memory.id, ["big"], tag_importance=limits.TAG_IMPORTANCE)
    (tag,) = await list_tags(conn, 1)
    assert tag.tag_importance == pytest.approx(limits.TAG_IMPORTANCE)
    assert await conn.fetchval("SELECT tag_importance FROM ltm_tag_usage") == tag.tag_importance


async def test_removed_tags_are_gone_in_any_letter_case(conn):
    memory = await add_memory(conn, 1, "x", tags=["Work", "home", "garden"])
    changed = await remove_tags(conn, 1, memory.id, ["WORK", "garden", "never there"])
    assert changed is not None
    assert (changed.tags, changed.version) == (("home",), memory.version + 1)
    assert set(await details(conn, memory.id)) == {"home"}
    for nothing in (add_tags(conn, 1, memory.id, []), remove_tags(conn, 1, memory.id, [])):
        unchanged = await nothing
        assert unchanged is not None
        assert unchanged.tags == ("home",)
    assert await search_memories(conn, 1, tags=["work"]) == []
    emptied = await remove_tags(conn, 1, memory.id, ["home"])
    assert emptied is not None
    assert emptied.tags == ()


@pytest.mark.parametrize("user", [2, "nobody"])
async def test_another_user_has_no_such_tags(conn, user):
    memory = await add_memory(conn, 1, "x", tags=["a", "b"])
    assert await add_tags(conn, user, memory.id, ["c"]) is None
    assert await remove_tags(conn, user, memory.id, ["a"]) is None
    assert await rename_tag(conn, user, "a", "c") == 0
    assert await list_tags(conn, user) == []
    assert await list_tags(conn, user, memory_id=memory.id) == []
    assert await related_tags(conn, user, "a") == []
    assert await get_memory(conn, 1, memory.id) == memory.model_copy(update={"outcome": None})


async def test_an_expired_memory_has_no_tags(conn):
    memory = await add_memory(conn, 1, "x", tags=["a", "b"], expires_at=PAST)
    assert await add_tags(conn, 1, memory.id, ["c"]) is None
    assert await remove_tags(conn, 1, memory.id, ["a"]) is None
    assert await rename_tag(conn, 1, "a", "c") == 0
    assert await list_tags(conn, 1) == []
    assert await related_tags(conn, 1, "a") == []


@pytest.mark.parametrize(
    ("field", "arguments"),
    [
        ("tags", {"tags": ["x" * 101]}),
        ("tags", {"tags": [" "]}),
        ("tags", {"tags": "word"}),
        ("tags", {"tags": [f"{n}" for n in range(101)]}),
        ("tag_category", {"tag_category": "x" * 51}),
        ("tag_importance", {"tag_importance": float("inf")}),
        ("tag_confidence", {"tag_confidence": 1.1}),
        ("memory_id", {"memory_id": "1"}),
    ],
)
async def test_refused_tags(conn, field, arguments):
    with pytest.raises(InvalidMemory, match=f"^{field}"):
        await add_tags(conn, 1, **{"memory_id": 1, "tags": ["a"], **arguments})


async def test_other_refused_arguments(conn):
    for field, call in (
        ("old", rename_tag(conn, 1, "", "a")),
        ("new", rename_tag(conn, 1, "a", "x" * 101)),
        ("tag", related_tags(conn, 1, " ")),
        ("limit", related_tags(conn, 1, "a", limit=0)),
        ("limit", list_tags(conn, 1, limit=1001)),
        ("tag_category", list_tags(conn, 1, tag_category="")),
        ("memory_id", list_tags(conn, 1, memory_id=1.5)),  # type: ignore[arg-type]
        ("tags", remove_tags(conn, 1, 1, ["a\0"])),
    ):
        with pytest.raises(InvalidArgument, match=f"^{field}"):
            await call


async def test_more_than_a_hundred_tags_are_refused_whole(db):
    memory = await add_memory(db, 1, "x", tags=[f"{n:0100}" for n in range(99)])
    with pytest.raises(InvalidMemory, match="^tags: "):
        await add_tags(db, 1, memory.id, ["a", "b"])
    assert await in_step(db, memory.id) == memory.tags
    changed = await add_tags(db, 1, memory.id, ["a", f"{0:0100}"])
    assert changed is not None
    assert len(changed.tags) == 100


@pytest.mark.parametrize(
    ("stored", "before"),
    [("NULL", ()), ("'null'", ()), ("'\"old\"'", ("old",)), ("'7'", ("7",)), ("'[\"a\"]'", ("a",))],
)
async def test_tags_as_an_older_program_leaves_them_are_kept(conn, stored, before):
    number = await conn.fetchval(
        f"INSERT INTO ltm_memories (user_id, content, tags) VALUES (1, 'x', {stored}) RETURNING id"
    )
    await list_tags(conn, 1)
    await list_tags(conn, 1, memory_id=number)
    changed = await add_tags(conn, 1, number, ["new"])
    assert changed is not None
    assert changed.tags == (*before, "new")
    await conn.execute("DELETE FROM ltm_memory_tags")
    await conn.execute(f"UPDATE ltm_memories SET tags = {stored}")
    assert await rename_tag(conn, 1, "a", "b") == (before == ("a",))
    await conn.execute(f"UPDATE ltm_memories SET tags = {stored}")
    changed = await remove_tags(conn, 1, number, ["new"])
    assert changed is not None
    assert changed.tags == before


async def test_rename_reaches_every_memory_of_the_user_and_no_other(conn):
    kept = await add_memory(conn, 1, "a", tags=["job", "Apples"], created_at=PAST)
    both = await add_memory(conn, 1, "b", tags=["Job", "x"], created_at=PAST + timedelta(days=1))
    await add_tags(conn, 1, both.id, ["WORK"])
    await add_tags(conn, 1, both.id, ["work"], tag_category="life", tag_importance=2.0)
    archived = await add_memory(conn, 1, "c", tags=["JOB"])
    await archive_memory(conn, 1, archived.id)
    without = await add_memory(conn, 1, "d", tags=["jobs"])
    others = await add_memory(conn, 2, "e", tags=["job"])
    assert await rename_tag(conn, 1, "job", "Work") == 3
    assert await rename_tag(conn, 1, "job", "Work") == 0
    for memory, user, tags in (
        (kept, 1, ("Work", "Apples")),
        (both, 1, ("Work", "x")),
        (archived, 1, ("Work",)),
        (without, 1, ("jobs",)),
        (others, 2, ("job",)),
    ):
        read = await get_memory(conn, user, memory.id)
        assert read is not None
        assert read.tags == tags
        assert set(await details(conn, memory.id, user)) == set(tags)
        changes = {kept.id: 1, both.id: 3, archived.id: 2}  # the others were tagged, archived
        assert read.version - memory.version == changes.get(memory.id, 0)
    merged = (await details(conn, both.id))["Work"]
    assert (merged.usage_count, merged.tag_category, merged.tag_importance) == (3, "life", 2.0)
    assert merged.first_used == PAST + timedelta(days=1)
    assert (await details(conn, kept.id))["Work"].first_used == PAST
    assert {hit.id for hit in await search_memories(conn, 1, "work")} == {kept.id, both.id}
    assert {hit.id for hit in await search_memories(conn, 1, tags=["job"])} == set()


@pytest.mark.parametrize(
    ("tags", "kept"),
    [
        (["İstanbul", "istanbul", "ISTANBUL"], 2),  # the dot stays in lower case
        (["H\u0331", "\u1e96"], 1),  # one letter in lower case, two characters in upper case
        (["ΟΔΟΣ", "οδοσ"], 1),
    ],
)
async def test_one_tag_in_python_is_one_in_the_schema(conn, tags, kept):
    memory = await add_memory(conn, 1, "x", tags=tags)
    assert memory.tags == tuple(tags[:kept])
    again = await add_tags(conn, 1, memory.id, tags[::-1])
    assert again is not None
    assert again.tags == memory.tags
    for tag in tags:
        assert len(await search_memories(conn, 1, tags=[tag])) == 1


async def test_rename_can_change_the_letter_case_alone(conn):
    memory = await add_memory(conn, 1, "x", tags=["work"])
    await add_tags(conn, 1, memory.id, ["work"])
    same = await add_memory(conn, 1, "y", tags=["Work"])
    assert await rename_tag(conn, 1, "WORK", "Work") == 1
    read = await get_memory(conn, 1, memory.id)
    assert read is not None
    assert read.tags == ("Work",)
    assert (await details(conn, memory.id))["Work"].usage_count == 2
    assert await get_memory(conn, 1, same.id) == same.model_copy(update={"outcome": None})


async def test_listed_tags_are_counted_over_the_memories(conn):
    first = await add_memory(conn, 1, "a", tags=["Work", "home"], created_at=PAST)
    second = await add_memory(conn, 1, "b", tags=["work"], created_at=PAST + timedelta(days=2))
    await add_memory(conn, 1, "c", tags=["Work"], created_at=PAST + timedelta(days=1))
    await add_memory(conn, 1, "gone", tags=["work"], expires_at=PAST)
    await add_memory(conn, 2, "another's", tags=["work"])
    await archive_memory(conn, 1, second.id)
    await add_tags(conn, 1, first.id, ["home"], tag_category="place", tag_importance=4.0)
    work, home = await list_tags(conn, 1)
    assert (work.tag_name, work.memory_count, work.usage_count) == ("Work", 3, 3)
    assert (work.first_used, work.last_used) == (PAST, PAST + timedelta(days=2))
    assert (home.tag_name, home.memory_count, home.usage_count) == ("home", 1, 2)
    assert (home.tag_category, home.tag_importance) == ("place", 4.0)
    assert await list_tags(conn, 1, limit=1) == [work]
    assert await list_tags(conn, 1, tag_category="place") == [home]
    assert await list_tags(conn, 1, tag_category="none") == []


@given(st.lists(st.sets(st.sampled_from("abcdeF")), max_size=12), st.sampled_from("abf"))
async def test_closeness_is_the_jaccard_index(session_conn, tagged, tag):
    transaction = session_conn.transaction()
    await transaction.start()
    try:
        for tags in tagged:
            await add_memory(session_conn, 1, "x", tags=sorted(tags))
        await add_memory(session_conn, 1, "gone", tags=["a", "b", "c"], expires_at=PAST)
        found = await related_tags(session_conn, 1, tag)
    finally:
        await transaction.rollback()
    own = {n for n, tags in enumerate(tagged) if tag in {t.lower() for t in tags}}
    beside = Counter(t for n in own for t in tagged[n] if t.lower() != tag)
    expected = []
    for other, both in beside.items():
        holders = {n for n, tags in enumerate(tagged) if other in tags}
        expected.append((-both / len(own | holders), -both, other))
    assert [(-r.jaccard, -r.memory_count, r.tag_name) for r in found] == sorted(expected)


async def test_tags_added_at_once_are_all_there(db):
    memory = await add_memory(db, 1, "x")
    await asyncio.gather(*(add_tags(db, 1, memory.id, ["all", f"t{n}"]) for n in range(40)))
    assert set(await in_step(db, memory.id)) == {"all", *(f"t{n}" for n in range(40))}
    assert (await details(db, memory.id))["all"].usage_count == 40
    read = await get_memory(db, 1, memory.id)
    assert read is not None
    assert read.version == memory.version + 40


async def test_tags_changed_in_every_way_at_once_stay_in_step(db):
    """Whatever comes first, list and rows agree; a deadlock would come as Unavailable."""
    draw = random.Random(3)
    memories = [await add_memory(db, 1, "x", tags=["a", "b"]) for _ in range(3)]
    ids = [memory.id for memory in memories]

    def call():
        tags = draw.sample("abcdeE", 2)
        return draw.choice(
            [
                lambda: add_tags(db, 1, draw.choice(ids), tags),
                lambda: remove_tags(db, 1, draw.choice(ids), tags),
                lambda: rename_tag(db, 1, tags[0], tags[1]),
                lambda: update_memory(db, 1, draw.choice(ids), tags=["a", *tags]),
            ]
        )()

    for _ in range(15):
        await asyncio.gather(*(call() for _ in range(20)))
        for number in ids:
            await in_step(db, number)
