"""What becomes of memories: duplicates, children, archiving what has sunk, purging, pruning."""

import asyncio
import math
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import pytest

from ltm_store import (
    InvalidArgument,
    Memory,
    access_history,
    add_memory,
    archive_memory,
    archive_stale,
    connect,
    delete_memory,
    get_children,
    get_memories,
    get_memory,
    get_relationships,
    import_user,
    maintenance,
    prune_accesses,
    purge_expired,
    record_access,
    relate,
    restore_memory,
    search_memories,
    update_memory,
)
from tests.locks import WAITING
from tests.servers import local_alone

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
PAST = datetime.now(UTC) - timedelta(days=1)
FUTURE = datetime.now(UTC) + timedelta(days=1)


@pytest.mark.parametrize(
    "content",
    ["Likes green tea", "likes GREEN tea", "  Likes\n\tgreen   tea \n"],
)
async def test_an_add_tells_of_the_first_memory_that_says_the_same(conn, content):
    first = await add_memory(conn, 1, "Likes green tea")
    assert first.duplicate_of is None
    again = await add_memory(conn, 1, content)
    assert (again.outcome, again.duplicate_of, again.content) == ("created", first.id, content)
    third = await add_memory(conn, 1, content)
    assert third.duplicate_of == first.id
    read = await get_memory(conn, 1, third.id)
    assert read is not None
    assert read.duplicate_of is None  # an add tells, a read does not


async def test_what_differs_is_gone_or_is_anothers_is_no_duplicate(conn):
    first = await add_memory(conn, 1, "Likes green tea")
    assert (await add_memory(conn, 1, "Likes greentea")).duplicate_of is None
    assert (await add_memory(conn, 2, "Likes green tea")).duplicate_of is None
    await archive_memory(conn, 1, first.id)
    second = await add_memory(conn, 1, "Likes green tea", expires_at=FUTURE)
    assert second.duplicate_of is None
    await conn.execute("UPDATE ltm_memories SET expires_at = $1 WHERE id = $2", PAST, second.id)
    assert (await add_memory(conn, 1, "Likes green tea")).duplicate_of is None


@pytest.mark.usefixtures("vectors")
async def test_an_add_with_a_vector_tells_of_the_nearest_that_means_nearly_the_same(conn):
    async def add(content: str, *numbers: float, user: int = 1, **fields: Any) -> Memory:
        return await add_memory(conn, user, content, embedding=list(numbers), **fields)

    first = await add("Likes green tea", 1, 0)
    assert first.duplicate_of is None
    near = await add("Green tea is liked", 1, 0.33)  # their cosine is 0.95
    assert near.duplicate_of is None
    assert (await add("Enjoys green tea", 1, 0.31)).duplicate_of == near.id
    assert (await add("Green tea, please", 1, -0.31)).duplicate_of == first.id
    assert (await add("likes GREEN tea", 1, 0.31)).duplicate_of == first.id  # says the same
    assert (await add_memory(conn, 1, "Fond of green tea")).duplicate_of is None  # has no vector
    assert (await add("x", 1, 0, embedding_model="other")).duplicate_of is None
    assert (await add("y", 1, 0, 0)).duplicate_of is None
    assert (await add("x", 1, 0, user=2)).duplicate_of is None
    for outcome in ("created", "existing"):
        memory = await add("Something else", 0, 1, idempotency_key="k")
        assert (memory.outcome, memory.duplicate_of) == (outcome, None)  # not of itself


@pytest.mark.usefixtures("vectors")
async def test_what_was_changed_or_is_gone_means_nothing_any_more(conn):
    first = await add_memory(conn, 1, "Likes green tea", embedding=[1, 0])

    async def told(content: str) -> int | None:
        memory = await add_memory(conn, 1, content, embedding=[1, 0])
        await delete_memory(conn, 1, memory.id)
        return memory.duplicate_of

    assert await told("Green tea is liked") == first.id
    await archive_memory(conn, 1, first.id)
    assert await told("Green tea is liked") is None
    await restore_memory(conn, 1, first.id)
    await update_memory(conn, 1, first.id, content="Likes coffee")
    assert await told("Green tea is liked") is None
    await update_memory(conn, 1, first.id, content="Likes green tea")
    assert await told("Green tea is liked") == first.id
    await conn.execute("UPDATE ltm_memories SET expires_at = $1 WHERE id = $2", PAST, first.id)
    assert await told("Green tea is liked") is None


async def test_a_memory_is_no_duplicate_of_itself(conn):
    first = await add_memory(conn, 1, "x", idempotency_key="k")
    again = await add_memory(conn, 1, "x", idempotency_key="k")
    assert (again.id, again.outcome, again.duplicate_of) == (first.id, "existing", None)


async def test_a_changed_content_counts_as_it_is_now(conn):
    first = await add_memory(conn, 1, "x")
    await update_memory(conn, 1, first.id, content="y")
    assert (await add_memory(conn, 1, "x")).duplicate_of is None
    assert (await add_memory(conn, 1, "Y")).duplicate_of == first.id


async def test_a_long_content_is_compared_as_it_is(conn):
    text = "many words " * 5_000
    first = await add_memory(conn, 1, text)
    assert (await add_memory(conn, 1, text)).duplicate_of == first.id
    assert (await add_memory(conn, 1, text.upper())).duplicate_of is None


@local_alone
async def test_equal_hashes_alone_are_no_duplicates(conn):
    """What is told was compared, not only its hash."""
    memory = await add_memory(conn, 1, "x")
    await conn.execute("ALTER TABLE ltm_memories ALTER content_hash DROP EXPRESSION")
    await conn.execute(
        "UPDATE ltm_memories SET content_hash = hashtextextended('y', 0) WHERE id = $1", memory.id
    )
    await conn.execute("ALTER TABLE ltm_memories ALTER content_hash SET DEFAULT 0")
    assert (await add_memory(conn, 1, "y")).duplicate_of is None


async def test_children_come_first_stored_first(conn):
    parent = await add_memory(conn, 1, "parent")
    ids = [(await add_memory(conn, 1, f"{n}", parent_memory_id=parent.id)).id for n in range(4)]
    await archive_memory(conn, 1, ids[1])
    await conn.execute("UPDATE ltm_memories SET expires_at = $1 WHERE id = $2", PAST, ids[2])
    assert [child.id for child in await get_children(conn, 1, parent.id)] == [
        *ids[:2],
        ids[3],
    ]
    assert [child.id for child in await get_children(conn, 1, parent.id, limit=1)] == ids[:1]
    before = await get_children(conn, 1, parent.id, as_of=PAST - timedelta(days=1))
    assert len(before) == 4
    for user, number in ((2, parent.id), ("nobody", parent.id), (1, ids[0])):
        assert await get_children(conn, user, number) == []
    with pytest.raises(InvalidArgument, match="^limit"):
        await get_children(conn, 1, parent.id, limit=0)


async def test_what_has_sunk_is_archived_lowest_first_and_says_why(conn):
    def learnt(days, score):
        return {"created_at": NOW - timedelta(days=days), "importance_score": score}

    fresh = await add_memory(conn, 1, "fresh", **learnt(0, 3))
    low = await add_memory(conn, 1, "low", **learnt(180, 3))
    lower = await add_memory(conn, 1, "lower", **learnt(360, 3))
    await add_memory(conn, 1, "important", **learnt(360, 9))
    other = await add_memory(conn, 2, "another user's", **learnt(360, 3))
    archived = await archive_stale(conn, 1, 3, as_of=NOW)
    assert [memory.id for memory in archived] == [lower.id, low.id]
    assert [memory.dynamic_importance for memory in archived] == [1, 2]
    assert archived[1].archive_reason == "importance 2.00 on 2026-03-01, below 3"
    assert all(memory.is_archived and memory.version == 2 for memory in archived)
    assert await get_memory(conn, 1, low.id, as_of=NOW) == archived[1]
    assert await archive_stale(conn, 1, 3, as_of=NOW) == []
    assert {hit.content for hit in await search_memories(conn, 1)} == {"fresh", "important"}
    read = await get_memory(conn, 2, other.id)
    assert read is not None
    assert not read.is_archived
    restored = await restore_memory(conn, 1, low.id)
    assert restored is not None
    assert (restored.is_archived, restored.archive_reason) == (False, None)
    assert fresh.dynamic_importance < 3  # today
    assert await archive_stale(conn, "nobody", 3) == []


@pytest.mark.parametrize("below", [0.5, 1, 2.4, 4.1, 7, 9.99, 10])
async def test_exactly_those_below_the_bound_are_archived(conn, below):
    await conn.execute(
        "INSERT INTO ltm_memories (user_id, content, importance_score, confidence_score, "
        "created_at, is_archived) SELECT 1, n::text, 1 + n % 10, n % 101 / 100.0, "
        "timestamp '2026-03-01' - n * interval '3 days', NULL FROM generate_series(0, 500) AS n"
    )
    before = await search_memories(conn, 1, as_of=NOW, limit=1000)
    expected = {hit.id for hit in before if hit.dynamic_importance < below}
    archived = await archive_stale(conn, 1, below, as_of=NOW)
    assert {memory.id for memory in archived} == expected
    assert len(await search_memories(conn, 1, limit=1000)) == len(before) - len(expected)


async def test_the_bound_itself_is_not_below_it(conn):
    await add_memory(conn, 1, "at it", importance_score=3, created_at=NOW)
    under = await add_memory(
        conn, 1, "under it", importance_score=3, confidence_score=1 - 1 / 2880, created_at=NOW
    )
    assert [memory.id for memory in await archive_stale(conn, 1, 3, as_of=NOW)] == [under.id]


async def test_stale_memories_are_archived_some_at_a_time(conn):
    for n in range(5):
        await add_memory(conn, 1, f"{n}", created_at=NOW - timedelta(days=1000 + n))
    found = [await archive_stale(conn, 1, 3, limit=2) for _ in range(4)]
    assert [[memory.content for memory in page] for page in found] == [
        ["4", "3"],
        ["2", "1"],
        ["0"],
        [],
    ]


async def test_what_was_just_recalled_is_not_stale(dsn):
    async with connect(dsn) as db:
        old = [
            await add_memory(db, 1, f"{n}", created_at=NOW - timedelta(days=1000)) for n in range(2)
        ]
        await get_memory(db, 1, old[0].id)
        (archived,) = await archive_stale(db, 1, 4)
        assert archived.id == old[1].id


async def test_expired_memories_are_not_archived(conn):
    old = NOW - timedelta(days=2000)
    memory = await add_memory(conn, 1, "x", created_at=old, expires_at=FUTURE)
    await conn.execute("UPDATE ltm_memories SET expires_at = $1 WHERE id = $2", PAST, memory.id)
    assert await archive_stale(conn, 1, 5) == []


@pytest.mark.parametrize("below", [0, -1, 10.1, math.nan, math.inf, True, "3", None])
async def test_a_bound_that_makes_no_sense_is_refused(conn, below):
    with pytest.raises(InvalidArgument, match="^below"):
        await archive_stale(conn, 1, below)


async def fill(db, users, each):
    """Users with a chain of memories each: every second expired, all related and under another."""
    for user in users:
        lines: list[dict[str, object]] = [
            {
                "id": n,
                "content": f"{n}",
                "tags": ["t"],
                "related_memory_ids": [m for m in (n - 1, n + 1) if 1 <= m <= each],
                "parent_memory_id": n - 1 if n > 1 else None,
                "accesses": [{}],
            }
            for n in range(1, each + 1)
        ]
        await import_user(db, user, lines)
    async with db.transaction() as conn:
        for odd, expiry in enumerate((NOW - timedelta(days=1), NOW + timedelta(days=1))):
            expire = "UPDATE ltm_memories SET expires_at = $1 WHERE content::integer % 2 = $2"
            await conn.execute(expire, expiry, odd)


async def test_expired_memories_of_all_users_are_deleted_and_links_to_them(db, monkeypatch):
    monkeypatch.setattr(maintenance, "_PURGED_AT_ONCE", 7)
    users: list[int | str] = ["alice", 5, 6]
    await fill(db, users, 20)
    assert await purge_expired(db, as_of=NOW - timedelta(days=9)) == 0
    assert await purge_expired(db, as_of=NOW) == 30
    assert await purge_expired(db, as_of=NOW) == 0
    async with db.transaction() as conn:
        await conn.execute("UPDATE ltm_memories SET expires_at = NULL")
        assert await conn.fetchval("SELECT count(*) FROM ltm_memory_relationships") == 0
        assert await conn.fetchval("SELECT count(*) FROM ltm_memory_tags") == 30
        assert await conn.fetchval("SELECT count(*) FROM ltm_memory_access") == 30
    for user in users:
        left = await search_memories(db, user, limit=100)
        assert {int(hit.content) for hit in left} == set(range(1, 21, 2))
        assert {(hit.parent_memory_id, hit.related_memory_ids) for hit in left} == {(None, ())}
        assert min(hit.version for hit in left) > 1


async def test_what_does_not_expire_keeps_its_links(conn):
    a, b, c, d = [(await add_memory(conn, 1, name)).id for name in "abcd"]
    await relate(conn, 1, a, b)
    await relate(conn, 1, a, c)
    await update_memory(conn, 1, a, parent_memory_id=d)
    await update_memory(conn, 1, b, parent_memory_id=a)
    await update_memory(conn, 1, c, parent_memory_id=b)
    await conn.execute("UPDATE ltm_memories SET expires_at = $1 WHERE id = $2", PAST, c)
    assert await purge_expired(conn) == 1
    first, second = await get_memories(conn, 1, [a, b])
    assert (first.related_memory_ids, first.parent_memory_id) == ((b,), d)
    assert second.parent_memory_id == a
    assert [link.target_memory_id for link in await get_relationships(conn, 1, a)] == [b]


async def test_purges_and_deletes_of_the_same_memories_at_once_count_each_once(db, dsn):
    await fill(db, range(6), 30)
    async with connect(dsn, access_tracking="off") as second:
        counted = await asyncio.gather(
            *(purge_expired(handle, as_of=NOW) for handle in (db, second, db))
        )
    assert sum(counted) == 6 * 15


async def test_a_memory_whose_expiry_was_put_off_meanwhile_is_kept(db, dsn):
    memory = await add_memory(db, 1, "x", expires_at=FUTURE)
    other = await asyncpg.connect(dsn)
    transaction = other.transaction()
    await transaction.start()
    later = FUTURE + timedelta(days=9)
    await other.execute("UPDATE ltm_memories SET expires_at = $1", later)
    purging = asyncio.ensure_future(purge_expired(db, as_of=FUTURE + timedelta(days=1)))
    while not await other.fetchval(WAITING):
        assert not purging.done()
    await transaction.commit()
    await other.close()
    assert await purging == 0
    assert await get_memory(db, 1, memory.id) is not None


async def test_old_accesses_of_all_users_are_deleted(db, monkeypatch):
    monkeypatch.setattr(maintenance, "_PRUNED_AT_ONCE", 5)
    ids = {user: (await add_memory(db, user, "x")).id for user in ("alice", 5, 6)}
    for user, number in ids.items():
        for _ in range(9):
            await record_access(db, user, [number])
    async with db.transaction() as conn:
        await conn.execute(
            "UPDATE ltm_memory_access SET access_timestamp = CASE id % 3 WHEN 0 THEN NULL "
            "WHEN 1 THEN $1::timestamptz AT TIME ZONE 'utc' END WHERE id % 3 < 2",
            NOW,
        )
    assert await prune_accesses(db, NOW) == 0
    assert await prune_accesses(db, NOW + timedelta(seconds=1)) == 9
    assert await prune_accesses(db, NOW + timedelta(seconds=1)) == 0
    for user, number in ids.items():
        history = await access_history(db, user, number)
        assert [access.access_timestamp is None for access in history] == [False] * 3 + [True] * 3
        read = await get_memory(db, user, number)
        assert read is not None
        assert read.access_count == 9


@pytest.mark.parametrize("moment", [None, "yesterday", 5])
async def test_pruning_needs_a_moment(conn, moment):
    with pytest.raises(InvalidArgument, match="^older_than"):
        await prune_accesses(conn, moment)
