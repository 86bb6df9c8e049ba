"""Deleting, archiving and tagging all memories that pass the filters; counting them."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from ltm_store import (
    InvalidArgument,
    InvalidMemory,
    add_memories,
    add_memory,
    add_tags,
    add_tags_where,
    archive_memory,
    archive_where,
    check_health,
    connect,
    count_memories,
    delete_memory,
    delete_where,
    get_memory,
    list_tags,
    relate,
    remove_tags,
    search_memories,
    update_memory,
)
from tests.locks import WAITING

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
CHANGES: dict[str, Any] = {
    "delete_where": delete_where,
    "archive_where": archive_where,
    "add_tags_where": lambda db, user, **given: add_tags_where(db, user, ["new"], **given),
}
each_change = pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)


async def test_memories_that_pass_are_deleted_with_what_hangs_on_them(conn):
    kept = await add_memory(conn, 1, "kept", tags=["a"])
    gone = [(await add_memory(conn, 1, f"{n}", category="old", tags=["b"])).id for n in range(3)]
    child = await add_memory(conn, 1, "child", parent_memory_id=gone[0])
    await relate(conn, 1, kept.id, gone[1])
    other = await add_memory(conn, 2, "of another", category="old")
    assert await delete_where(conn, 1, category="old", tags=["B"]) == 3
    assert [hit.id for hit in await search_memories(conn, 1, order="oldest")] == [kept.id, child.id]
    for number in (kept.id, child.id):
        memory = await get_memory(conn, 1, number, include_relationships=True)
        assert memory is not None
        assert (memory.parent_memory_id, memory.related_memory_ids) == (None, ())
        assert memory.relationships == ()
        assert memory.version > 1
    assert await get_memory(conn, 2, other.id) is not None
    assert await delete_where(conn, 1, category="old") == 0
    assert await delete_where(conn, "nobody", category="old") == 0


async def test_memories_that_pass_are_archived_with_the_reason(conn):
    first = await add_memory(conn, 1, "first", source_id="s")
    put_away = await add_memory(conn, 1, "put away", source_id="s")
    await archive_memory(conn, 1, put_away.id, reason="before")
    assert await archive_where(conn, 1, source_id="s", reason="over", include_archived=True) == 1
    assert await archive_where(conn, 1, source_id="s") == 0
    for number, reason, version in ((first.id, "over", 2), (put_away.id, "before", 2)):
        memory = await get_memory(conn, 1, number)
        assert memory is not None
        assert (memory.is_archived, memory.archive_reason) == (True, reason)
        assert memory.version == version


async def test_memories_that_pass_are_tagged_once(conn):
    plain = await add_memory(conn, 1, "plain", category="x")
    tagged = await add_memory(conn, 1, "tagged", category="x", tags=["NEW", "old"])
    both = await add_memory(conn, 1, "both", category="x", tags=["new", "More"])
    assert await add_tags_where(conn, 1, ["new", " more "], category="x") == 2
    assert await add_tags_where(conn, 1, ["new", "more"], category="x") == 0
    for number, tags in (
        (plain.id, ("new", "more")),
        (tagged.id, ("NEW", "old", "more")),
        (both.id, ("new", "More")),
    ):
        memory = await get_memory(conn, 1, number)
        assert memory is not None
        assert memory.tags == tags
        details = await list_tags(conn, 1, memory_id=number)
        assert {tag.tag_name for tag in details} == set(tags)
    uses = {tag.tag_name: tag.usage_count for tag in await list_tags(conn, 1, memory_id=tagged.id)}
    assert uses == {"NEW": 2, "old": 1, "more": 1}
    assert len(await search_memories(conn, 1, "new", tags=["more"])) == 3


@each_change
async def test_the_lowest_ids_come_first_until_there_are_no_more(conn, change):
    await add_memories(conn, 1, [{"content": f"{n}", "category": "x"} for n in range(5)])
    counts = [await change(conn, 1, category=["x", "y"], limit=2) for _ in range(4)]
    assert counts == [2, 2, 1, 0]


@each_change
@pytest.mark.parametrize(
    "filters",
    [
        {},
        {"include_archived": True},
        {"as_of": NOW},
        {"min_importance": 1, "min_confidence": 0.0},
        {"metadata": {}, "context_data": {}},
        {"category": None},
    ],
    ids=str,
)
async def test_what_narrows_nothing_is_refused(conn, change, filters):
    await add_memory(conn, 1, "x")
    with pytest.raises(InvalidArgument) as caught:
        await change(conn, 1, **filters)
    assert caught.value.field == "filters"
    assert [hit.version for hit in await search_memories(conn, 1)] == [1]


@each_change
@pytest.mark.parametrize(
    ("field", "value"),
    [("limit", 0), ("limit", 10_001), ("query", "x"), ("tags_any", []), ("source_id", "\0")],
)
async def test_bad_arguments_are_refused_by_name(conn, change, field, value):
    with pytest.raises(InvalidArgument) as caught:
        await change(conn, 1, **{"category": "x", field: value})
    assert caught.value.field == field


async def test_bad_tags_and_reasons_are_refused(conn):
    await add_memory(conn, 1, "full", category="x", tags=[f"{n}" for n in range(100)])
    await add_memory(conn, 1, "bare", category="x")
    with pytest.raises(InvalidMemory, match="tags"):
        await add_tags_where(conn, 1, ["\0"], category="x")
    with pytest.raises(InvalidMemory, match="^reason"):
        await archive_where(conn, 1, category="x", reason="x" * 10_001)
    async with conn.transaction():
        with pytest.raises(InvalidMemory) as caught:
            async with conn.transaction():
                await add_tags_where(conn, 1, ["new"], category="x")
    assert caught.value.field == "tags"
    assert [hit.version for hit in await search_memories(conn, 1, category="x")] == [1, 1]


async def test_no_filter_of_a_change_lets_through_what_others_changed_meanwhile(db, dsn):
    """Rows are looked at again when they are locked, each way of changing them."""
    for change in CHANGES.values():
        memory = await add_memory(db, 1, "x", category="old")
        async with db.transaction() as other:
            await update_memory(other, 1, memory.id, category="current")
            waiting = asyncio.ensure_future(change(db, 1, category="old"))
            while not await other.fetchval(WAITING):
                pass
        assert await waiting == 0
        current = await get_memory(db, 1, memory.id)
        assert current is not None
        assert (current.is_archived, current.tags, current.version) == (False, (), 2)


async def test_many_at_once_and_single_calls_wait_for_each_other(dsn):
    async with connect(dsn, access_tracking="off", max_size=8) as db:
        await add_memories(db, 1, [{"content": f"{n}"} for n in range(60)])
        ids = [hit.id for hit in await search_memories(db, 1, order="oldest", limit=60)]

        async def singly(step: int) -> None:
            for number in ids[::step]:
                await add_tags(db, 1, number, [f"tag{step}"])
                await relate(db, 1, number, ids[0])
                await remove_tags(db, 1, number, ["all"])
                if step == 1 and number % 7 == 0:
                    await delete_memory(db, 1, number)

        async def together() -> None:
            for n in range(6):
                await add_tags_where(db, 1, ["all"], created_before=NOW + timedelta(days=9999))
                await delete_where(db, 1, tags_any=[f"tag{n % 3}"], limit=5)
                await archive_where(db, 1, tags=["all"], limit=10)

        calls = await asyncio.gather(
            singly(1), singly(-1), together(), together(), return_exceptions=True
        )
        for error in calls:  # a memory that is gone cannot be related
            assert error is None or isinstance(error, InvalidMemory)
        assert await check_health(db) == []


async def test_a_count_is_of_all_that_a_search_finds(conn):
    for n in range(12):
        await add_memory(conn, 1, f"tea number {n}", category="x" if n % 3 else "y", tags=["t"])
    await add_memory(conn, 1, "coffee")
    expired = {"content": "tea", "expires_at": datetime.now(UTC) + timedelta(days=1)}
    await add_memories(conn, 1, [expired])
    assert await count_memories(conn, 1) == 14
    assert await count_memories(conn, 1, "tea", category=["x", "y"]) == 12
    assert await count_memories(conn, 1, "tea coffee") == 14
    assert await count_memories(conn, 1, "tea", as_of=datetime.now(UTC) + timedelta(days=2)) == 12
    assert await count_memories(conn, 1, "absent") == 0
    assert await count_memories(conn, 1, "the of") == 0
    assert await count_memories(conn, 1, " ", tags=["T"], category="y") == 4
    assert await count_memories(conn, "nobody") == 0
    with pytest.raises(InvalidArgument) as caught:
        await count_memories(conn, 1, tags=[])
    assert caught.value.field == "tags"
