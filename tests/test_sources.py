"""Sources: which there are, and the memories of one."""

from datetime import UTC, datetime, timedelta

import pytest

from ltm_store import (
    InvalidArgument,
    Source,
    add_memory,
    archive_memory,
    get_source,
    list_sources,
)

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


@pytest.fixture
async def talks(conn):
    """Sources a to e, each a day older than the one before, and a memory without one."""
    for day, name in enumerate("abcde"):
        for turn in (2, 0, 1):
            await add_memory(
                conn,
                1,
                f"{name}{turn}",
                source_id=name,
                source_type="conversation" if turn else None,
                source_position=turn,
                created_at=NOW - timedelta(days=day, hours=turn),
            )
    await add_memory(conn, 1, "alone", created_at=NOW)
    await add_memory(conn, 2, "of another", source_id="a", created_at=NOW)


async def test_sources_come_with_their_figures_the_newest_first(conn, talks):
    found = await list_sources(conn, 1)
    assert [source.source_id for source in found] == list("abcde")
    assert found[1] == Source(
        source_id="b",
        source_type="conversation",
        memories=3,
        first_at=NOW - timedelta(days=1, hours=2),
        last_at=NOW - timedelta(days=1),
    )


async def test_sources_come_page_by_page(conn, talks):
    first = await list_sources(conn, 1, limit=2)
    assert await list_sources(conn, 1, limit=2, after="b") == await list_sources(
        conn, 1, limit=2, after=first[-1]
    )
    await add_memory(conn, 1, "b again", source_id="b")
    rest = await list_sources(conn, 1, after=first[-1])
    assert [source.source_id for source in rest] == list("cde")
    assert await list_sources(conn, 1, after="e") == []


async def test_sources_of_one_moment_all_come(conn):
    for name in "xyz":
        await add_memory(conn, 1, name, source_id=name, created_at=NOW)
    seen: list[str] = []
    while page := await list_sources(conn, 1, limit=1, after=seen[-1] if seen else None):
        seen.append(page[0].source_id)
    assert sorted(seen) == list("xyz")


async def test_the_memories_of_a_source_come_in_their_order(conn, talks):
    last = await add_memory(conn, 1, "without a place", source_id="c")
    archived = await add_memory(conn, 1, "archived", source_id="c", source_position=9)
    await archive_memory(conn, 1, archived.id)
    await add_memory(conn, 1, "expired", source_id="c", source_position=4, expires_at=NOW)
    memories = await get_source(conn, 1, "c")
    assert [memory.content for memory in memories] == ["c0", "c1", "c2", "archived", last.content]
    assert [memory.content for memory in await get_source(conn, 1, "c", limit=1)] == ["c0"]
    assert await get_source(conn, 1, "absent") == []
    assert await get_source(conn, "nobody", "c") == await list_sources(conn, "nobody") == []


@pytest.mark.parametrize(
    ("function", "given", "field"),
    [
        (list_sources, {"limit": 0}, "limit"),
        (list_sources, {"after": "absent"}, "after"),
        (list_sources, {"after": 5}, "after"),
        (get_source, {"source_id": "x" * 256}, "source_id"),
        (get_source, {"source_id": "x", "limit": 1001}, "limit"),
    ],
)
async def test_bad_arguments_are_refused_by_name(conn, function, given, field):
    await add_memory(conn, 1, "x")
    with pytest.raises(InvalidArgument) as caught:
        await function(conn, 1, **given)
    assert caught.value.field == field
