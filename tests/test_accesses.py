"""Recording accesses, by hand and by themselves."""

import asyncio
import math
from datetime import UTC, datetime, timedelta

import pytest

from ltm_store import (
    Access,
    InvalidArgument,
    InvalidMemory,
    access_history,
    add_memory,
    connect,
    get_memories,
    get_memory,
    get_relationships,
    record_access,
    record_feedback,
    relate,
    search_memories,
)
from tests.servers import local_alone


async def log(conn):
    return [
        tuple(row)
        for row in await conn.fetch(
            "SELECT memory_id, access_method, access_context, user_query FROM ltm_memory_access "
            "ORDER BY id"
        )
    ]


async def test_an_access_is_counted_and_logged(conn):
    await conn.execute("SET LOCAL timezone = 'Asia/Kolkata'")
    memory = await add_memory(conn, 1, "x")
    other = await add_memory(conn, 1, "y")
    recorded = await record_access(
        conn,
        1,
        [other.id, memory.id, memory.id, 10**12],
        access_method="direct",
        access_context="at breakfast",
        user_query="what about x",
    )
    assert recorded == 2
    read = await get_memory(conn, 1, memory.id)
    assert read is not None
    assert (read.access_count, read.last_access_context) == (1, "at breakfast")
    assert read.last_accessed is not None
    assert abs(read.last_accessed - datetime.now(UTC)) < timedelta(minutes=5)
    assert read.version == memory.version
    assert sorted(await log(conn)) == [
        (memory.id, "direct", "at breakfast", "what about x"),
        (other.id, "direct", "at breakfast", "what about x"),
    ]
    stamp = await conn.fetchval("SELECT max(access_timestamp) FROM ltm_memory_access")
    assert stamp.replace(tzinfo=UTC) == read.last_accessed


@pytest.mark.parametrize(
    ("words", "query", "kept"),
    [("why", "what", "why"), (None, "ü" * 201, "ü" * 200), (None, None, "direct")],
)
@pytest.mark.parametrize("tracking", ["immediate", "deferred"])
async def test_the_last_access_says_what_it_was_for(dsn, tracking, words, query, kept):
    async with connect(dsn, access_tracking=tracking) as db:
        memory = await add_memory(db, 1, "x")
        await record_access(db, 1, [memory.id], access_context="an earlier one")
        await db.track_access(memory.user_id, [memory.id], "direct", context=words, query=query)
        await db.flush()
        async with db.transaction() as conn:
            read = await get_memory(conn, 1, memory.id)
    assert read is not None
    assert read.last_access_context == kept


async def test_another_users_memory_is_not_counted(conn):
    memory = await add_memory(conn, 1, "x")
    assert await record_access(conn, 2, [memory.id]) == 0
    assert await record_access(conn, "nobody", [memory.id]) == 0
    assert await log(conn) == []


@pytest.mark.parametrize(
    ("field", "value"),
    [("memory_ids", ["5"]), ("memory_ids", 5), ("access_method", "x" * 51), ("user_query", "\0")],
)
async def test_bad_arguments_are_refused_by_name(conn, field, value):
    with pytest.raises(InvalidMemory, match=f"^{field}"):
        await record_access(conn, 1, **{"memory_ids": [1], field: value})


async def test_nothing_is_tracked_on_a_bare_connection(conn):
    memory = await add_memory(conn, 1, "x")
    await get_memory(conn, 1, memory.id)
    await search_memories(conn, 1, "x")
    assert await log(conn) == []


async def test_reads_through_a_database_are_tracked_at_once(dsn):
    async with connect(dsn, access_tracking="immediate") as db:
        a, b = [(await add_memory(db, "alice", name)).id for name in ("apple", "berry")]
        await relate(db, "alice", a, b)
        await get_memory(db, "alice", a, access_context="why")
        await get_memories(db, "alice", [b, a])
        await search_memories(db, "alice", "apple")
        await get_relationships(db, "alice", a)
        async with db.transaction() as conn:
            await get_memory(conn, "alice", a)
            assert await log(conn) == [
                (a, "direct", "why", None),
                (a, "direct", None, None),
                (b, "direct", None, None),
                (a, "search", None, "apple"),
                (b, "related", None, None),
            ]


async def test_off_tracks_nothing(db):
    memory = await add_memory(db, 1, "x")
    for _ in range(3):
        read = await get_memory(db, 1, memory.id)
    assert read is not None
    assert read.access_count == 0


async def test_concurrent_accesses_are_all_counted(db):
    memory = await add_memory(db, 1, "x")
    await asyncio.gather(*(record_access(db, 1, [memory.id]) for _ in range(64)))
    read = await get_memory(db, 1, memory.id)
    assert read is not None
    assert read.access_count == 64
    async with db.transaction() as conn:
        assert len(await log(conn)) == 64


async def test_accesses_of_overlapping_sets_at_once_are_all_counted(db):
    ids = [(await add_memory(db, 1, f"{n}")).id for n in range(20)]
    await asyncio.gather(*(record_access(db, 1, ids if n % 2 else ids[::-1]) for n in range(60)))
    assert {m.access_count for m in await get_memories(db, 1, ids)} == {60}


@local_alone
async def test_accesses_of_one_day_and_step_update_in_place(db):
    """The rank stays, so no index changes: a heap-only tuple update."""
    memory = await add_memory(db, 1, "x")
    for _ in range(15):
        await record_access(db, 1, [memory.id])
    updates = "SELECT n_tup_upd, n_tup_hot_upd FROM pg_stat_xact_user_tables WHERE relname = $1"
    async with db.transaction() as conn:
        total, in_place = await conn.fetchrow(updates, "ltm_memories")
        for _ in range(5):
            await record_access(conn, 1, [memory.id])
        total_after, in_place_after = await conn.fetchrow(updates, "ltm_memories")
    assert total_after - total == 5
    assert in_place_after - in_place == 5


async def test_feedback_goes_to_the_newest_access(conn):
    await conn.execute("SET LOCAL timezone = 'Asia/Kolkata'")
    memory, other = await add_memory(conn, 1, "x"), await add_memory(conn, 1, "y")
    assert await record_feedback(conn, 1, memory.id, was_relevant=True) is None
    for words in ("first", "second"):
        await record_access(conn, 1, [memory.id, other.id], access_context=words, user_query="q")
    said = await record_feedback(conn, 1, memory.id, was_relevant=True)
    assert said is not None
    assert (said.access_context, said.was_relevant, said.relevance_score) == ("second", True, None)
    said = await record_feedback(conn, 1, memory.id, relevance_score=0.25)
    assert said is not None
    assert (said.was_relevant, said.relevance_score) == (True, 0.25)
    said = await record_feedback(conn, 1, memory.id, was_relevant=False, relevance_score=0)
    newest, first = await access_history(conn, 1, memory.id)
    assert newest == said
    assert (newest.was_relevant, newest.relevance_score) == (False, 0)
    assert (first.was_relevant, first.relevance_score) == (None, None)
    assert newest.access_timestamp is not None
    assert abs(newest.access_timestamp - datetime.now(UTC)) < timedelta(minutes=5)
    assert {a.was_relevant for a in await access_history(conn, 1, other.id)} == {None}


async def test_the_history_is_newest_first_and_limited(conn):
    memory = await add_memory(conn, 1, "x")
    for n in range(5):
        await record_access(conn, 1, [memory.id], access_context=f"{n}")
    await conn.execute(
        "UPDATE ltm_memory_access SET access_timestamp = CASE access_context "
        "WHEN '0' THEN NULL WHEN '1' THEN timestamp '2030-01-01' ELSE '2020-01-01' END"
    )
    history = await access_history(conn, 1, memory.id)
    assert [access.access_context for access in history] == ["1", "4", "3", "2", "0"]
    assert history[0] == Access(
        id=history[0].id,
        user_id=1,
        memory_id=memory.id,
        access_timestamp=datetime(2030, 1, 1, tzinfo=UTC),
        access_context="1",
        access_method="direct",
        user_query=None,
        was_relevant=None,
        relevance_score=None,
    )
    assert history[-1].access_timestamp is None
    assert await access_history(conn, 1, memory.id, limit=2) == history[:2]


async def test_feedback_and_history_of_what_is_not_there_are_nothing(conn):
    memory = await add_memory(conn, 1, "x")
    gone = await add_memory(conn, 1, "y", expires_at=datetime.now(UTC) + timedelta(days=1))
    await record_access(conn, 1, [memory.id, gone.id])
    await conn.execute("UPDATE ltm_memories SET expires_at = '2020-01-01' WHERE id = $1", gone.id)
    for user, number in ((2, memory.id), ("nobody", memory.id), (1, gone.id), (1, 10**12)):
        assert await record_feedback(conn, user, number, was_relevant=True) is None
        assert await access_history(conn, user, number) == []


@pytest.mark.parametrize(
    ("field", "arguments"),
    [
        ("relevance_score", {}),
        ("relevance_score", {"relevance_score": 1.5}),
        ("relevance_score", {"relevance_score": math.nan}),
        ("was_relevant", {"was_relevant": "yes"}),
    ],
)
async def test_feedback_that_says_nothing_or_too_much_is_refused(conn, field, arguments):
    with pytest.raises(InvalidMemory, match=f"^{field}"):
        await record_feedback(conn, 1, 1, **arguments)


@pytest.mark.parametrize("limit", [0, 1001, True, "5"])
async def test_a_history_of_too_many_is_refused(conn, limit):
    with pytest.raises(InvalidArgument, match="^limit"):
        await access_history(conn, 1, 1, limit=limit)


async def test_feedback_and_history_see_what_is_queued(dsn):
    async with connect(dsn) as db:
        memory, other = await add_memory(db, 1, "x"), await add_memory(db, 1, "y")
        await get_memory(db, 1, memory.id)
        assert await access_history(db, 1, other.id) == []
        assert db.stats().queued == 1  # of another memory, so it may wait
        said = await record_feedback(db, 1, memory.id, was_relevant=True)
        assert said is not None
        await search_memories(db, 1, "x")
        newest, first = await access_history(db, 1, memory.id)
        assert (newest.access_method, newest.was_relevant) == ("search", None)
        assert (first.access_method, first.was_relevant) == ("direct", True)
