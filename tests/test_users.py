"""Users renamed and merged."""

import asyncio
import json

import pytest

from ltm_store import (
    Database,
    InvalidArgument,
    add_memory,
    connect,
    export_user,
    forget_user,
    get_by_key,
    get_memory,
    list_users,
    merge_users,
    put_memory,
    record_access,
    relate,
    rename_user,
    search_memories,
)
from tests.servers import local_alone
from tests.test_memories import rows
from tests.test_transfer import alice, exported

__all__ = ["alice"]

# Tests that were rolled back leave dead rows.
PROBLEMS = "SELECT * FROM ltm_health WHERE check_name <> 'dead_rows'"


async def test_a_user_is_renamed(conn):
    memory = await add_memory(conn, "ann", "x")
    await add_memory(conn, "bob", "y")
    assert await rename_user(conn, "ann", "Ann") is True
    assert await rename_user(conn, "ann", "Ann") is False
    assert await get_memory(conn, "Ann", memory.id) is not None
    assert (await add_memory(conn, "ann", "z")).user_id != memory.user_id
    for old, new in ("5", "x"), ("x", "5"), ("Ann", ""):
        with pytest.raises(InvalidArgument):
            await rename_user(conn, old, new)
    with pytest.raises(InvalidArgument, match="^new: is another user's name"):
        await rename_user(conn, "Ann", "bob")


async def contents(db, user):
    return [memory.content for memory in await search_memories(db, user)]


@pytest.mark.parametrize(
    "leave",
    [
        lambda c: rename_user(c, "ann", "anna"),
        lambda c: forget_user(c, "ann"),
        lambda c: merge_users(c, "ann", "anna"),
    ],
    ids=["renamed", "forgotten", "merged"],
)
async def test_what_a_transaction_makes_of_a_name_is_known_at_once(db, dsn, leave):
    await add_memory(db, "ann", "old")
    async with db.transaction() as conn:
        await leave(conn)
        assert await contents(db, "ann") == ["old"]  # and remembered: nothing is committed
    async with connect(dsn) as other:
        assert await contents(db, "ann") == await contents(other, "ann")
        await add_memory(other, "ann", "new")
        assert await contents(db, "ann") == await contents(other, "ann")


async def test_what_becomes_of_a_user_is_known_for_all_of_the_names(db):
    await add_memory(db, "a", "x")
    for source, into in (("a", "b"), ("b", "c")):
        await merge_users(db, source, into)
        assert [await contents(db, name) for name in ("a", source, into)] == [["x"]] * 3
    await merge_users(db, "c", 77)
    assert await contents(db, "a") == ["x"]
    await forget_user(db, 77)
    assert (await add_memory(db, "a", "y")).user_id != 77


async def test_who_is_merged_is_looked_up(db, dsn):
    await add_memory(db, "bob", "of the first")
    async with connect(dsn) as other:
        await rename_user(other, "bob", "bobby")
        await add_memory(other, "bob", "of the second")
        await merge_users(db, "bob", 7)
        assert await contents(other, 7) == ["of the second"]
        assert await contents(other, "bobby") == ["of the first"]


async def test_a_merged_user_is_the_other_one_with_all_that_hangs_on_it(conn, alice):
    lines = await exported(conn, "alice")
    numbers = await rows(conn, "ltm_memories")
    report = await merge_users(conn, "alice", 7)
    assert report.user_id == 7
    assert report.counts == {
        "ltm_memories": 3,
        "ltm_contexts": len(await rows(conn, "ltm_contexts")),
        "ltm_memory_relationships": 2,
        "ltm_memory_access": 1,
        "ltm_memory_tags": 3,
        "ltm_external_users": 1,
        "ltm_adoption_report": 0,
    }
    assert (report.renumbered, report.cleared) == ({}, ())
    assert await exported(conn, 7) == lines == await exported(conn, "alice")
    assert [row["id"] for row in await rows(conn, "ltm_memories")] == [r["id"] for r in numbers]
    assert (await add_memory(conn, "alice", "new")).user_id == 7
    assert [user.name for user in await list_users(conn)] == [7]
    assert await conn.fetch(PROBLEMS) == []
    erased = await forget_user(conn, "alice")
    assert erased.counts["ltm_external_users"] == 1
    assert await rows(conn, "ltm_memories") == []


FULL = {
    "ltm_memories": "memory_type = 'a', category = 'b', importance_score = 3, source_type = 'c', "
    "confidence_score = 0.25, dynamic_importance = 2, context = 'd', context_data = '{}', "
    "source_id = 'e', created_by = 'f', created_at = '2020-01-01', last_accessed = '2020-01-02', "
    "last_modified = '2020-01-03', access_count = 4, last_access_context = 'g', tags = '[\"h\"]', "
    "related_memory_ids = '[5]', memory_metadata = '{}', is_archived = TRUE, archive_reason = 'i', "
    "source_position = 6, version = 7, expires_at = '2200-01-01', expires_after = '1 day', "
    "namespace = 'j', key = id, idempotency_key = id, "
    "parent_memory_id = (SELECT min(o.id) FROM ltm_memories AS o WHERE o.id <> t.id)",
    "ltm_contexts": "confidence = 0.5, created_at = '2020-01-01'",
    "ltm_memory_relationships": "description = 'd', last_accessed = '2020-01-01', strength = 0.25, "
    "created_at = '2020-01-02'",
    "ltm_memory_access": "access_context = 'c', user_query = 'q', was_relevant = FALSE, "
    "relevance_score = 0.5, access_timestamp = '2020-01-01', access_method = 'm'",
    "ltm_memory_tags": "tag_category = 'c', tag_importance = 3, tag_confidence = 0.5, "
    "usage_count = 7, first_used = '2020-01-01', last_used = '2020-01-02'",
}
"""A value in each column that may have its default."""


@local_alone
async def test_a_merge_keeps_every_column(conn, alice):
    """But the one that says whose a row is."""

    async def rest() -> list[dict[str, object]]:
        found = [
            json.loads(row[0])
            for table in (*FULL, "ltm_memory_ranks")
            for row in await conn.fetch(
                f"SELECT (to_jsonb(t) - 'user_id')::text FROM {table} AS t ORDER BY 1"
            )
        ]
        assert not any(None in row.values() for row in found)
        return found

    for table, values in FULL.items():
        await conn.execute(f"UPDATE {table} AS t SET {values}")
    before = await rest()
    await merge_users(conn, "alice", 7)
    assert await rest() == before


async def test_ids_and_keys_of_the_other_user_win(conn):
    mine = await add_memory(conn, 2, "mine", key="k", idempotency_key="i", namespace="n")
    a = await add_memory(conn, 1, "a", key="k", idempotency_key="j", namespace="n", tags=["t"])
    b = await add_memory(conn, 1, "b", key="k", idempotency_key="i", related_memory_ids=[a.id])
    c = await add_memory(conn, 1, "c", parent_memory_id=a.id, related_memory_ids=[b.id, a.id])
    await record_access(conn, 1, [a.id])
    for table in ("ltm_memory_tags", "ltm_memory_access"):
        await conn.execute(f"UPDATE {table} SET id = 1000 WHERE user_id = 1")
    await add_memory(conn, 2, "other", tags=["t"])
    await record_access(conn, 2, [mine.id])
    for table in ("ltm_memory_tags", "ltm_memory_access"):
        await conn.execute(f"UPDATE {table} SET id = 1000 WHERE user_id = 2")
    await conn.execute(
        "INSERT INTO ltm_memories (user_id, id, content) VALUES (2, $1, 'same number')", a.id
    )
    report = await merge_users(conn, 1, 2)
    (old, new) = report.renumbered.popitem()
    assert (old, report.renumbered) == (a.id, {})
    assert [tuple(cleared.model_dump().values()) for cleared in report.cleared] == [
        (b.id, "", None, "i"),
        (new, "n", "k", None),
    ]
    moved = await get_memory(conn, 2, new)
    assert moved is not None
    assert (moved.content, moved.key, moved.idempotency_key) == ("a", None, "j")
    found = await get_by_key(conn, 2, "k")
    assert found is not None
    assert (found.id, found.related_memory_ids) == (b.id, (new,))
    child = await get_memory(conn, 2, c.id)
    assert child is not None
    assert (child.parent_memory_id, child.related_memory_ids) == (new, (b.id, new))
    assert await search_memories(conn, 1) == []
    assert await conn.fetch(PROBLEMS) == []


async def test_names_that_mean_a_merged_user_follow_it(conn):
    await add_memory(conn, "a", "x")
    await merge_users(conn, "a", "b")
    await merge_users(conn, "b", "c")
    number = (await add_memory(conn, "c", "y")).user_id
    assert {(await add_memory(conn, name, "z")).user_id for name in "abc"} == {number}
    with pytest.raises(InvalidArgument, match="^into_user: is the same user$"):
        await merge_users(conn, "a", "c")
    report = await merge_users(conn, "nobody", "c")
    assert set(report.counts.values()) == {0}


async def test_a_merge_under_load_loses_nothing(db, dsn):
    """Writers of both users go on, from another process: one that remembers the old number."""
    written: list[str] = []

    async def write(other: Database, user: str, task: int) -> None:
        for n in range(12):
            memory = await add_memory(other, user, f"{user} {task} {n}", tags=[f"t{n}"])
            written.append(memory.content)
            await put_memory(other, user, f"k{n % 3}", f"{task}", tags=["p"])
            found = await search_memories(other, user, limit=2)
            if len(found) == 2:
                await relate(other, user, found[0].id, found[1].id)

    async with connect(dsn) as other:
        await asyncio.gather(*(write(other, user, 0) for user in ("a", "b")))
        writers = [
            asyncio.create_task(write(other, user, task))
            for task in range(1, 4)
            for user in ("a", "b")
        ]
        report = await merge_users(db, "a", "b")
        await asyncio.gather(*writers)
    assert report.counts["ltm_memories"] >= 12
    contents = [line["content"] async for line in export_user(db, "b")]
    assert set(written) <= set(contents)
    assert len(written) == 2 * 4 * 12
    async with db.transaction() as conn:
        assert await conn.fetch(PROBLEMS) == []
        assert {row["user_id"] for row in await rows(conn, "ltm_memories")} == {report.user_id}
