"""Adding, reading, changing, archiving and deleting memories."""

import asyncio
import json
import logging
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from ltm_store import (
    Conflict,
    CustomContext,
    EnhancedContext,
    InvalidMemory,
    MemoryType,
    SocialContext,
    SourceType,
    SpatialContext,
    TemporalContext,
    add_memory,
    archive_memory,
    delete_memory,
    export_user,
    get_analytics,
    get_memories,
    get_memory,
    get_relationships,
    record_access,
    relate,
    restore_memory,
    search_memories,
    unrelate,
    update_importance,
    update_memory,
)
from tests.locks import WAITING

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
FULL = EnhancedContext(
    temporal=TemporalContext(timestamp=NOW, timezone="Asia/Kathmandu"),
    spatial=SpatialContext(city="Graz", coordinates=(47.07, 15.44), is_home=True, confidence=0.5),
    social=SocialContext(participants=("John", "Sarah"), group_size=3),
    custom_contexts=(
        CustomContext(context_type="mood board", context_data={"a": [1, {"b": None}]}),
    ),
    extra={"weather station": {"id": 7}},
)


async def rows(conn, table):
    return [dict(row) for row in await conn.fetch(f"SELECT * FROM {table} ORDER BY 1, 2")]


async def test_what_is_added_comes_back_whole(conn):
    first = await add_memory(conn, 1, "first")
    memory = await add_memory(
        conn,
        1,
        "User prefers morning work sessions",
        tags=["preference", " Work ", "work", "caf\u0065\u0301"],
        importance_score=8,
        confidence_score=0.9,
        context="said at breakfast",
        enhanced_context=FULL,
        memory_type=MemoryType.PREFERENCE,
        category="work",
        source_type=SourceType.CONVERSATION,
        source_id="conv_456",
        source_position=3,
        created_by="assistant",
        metadata={"n": 1, "deep": {"list": [True, None, 1.5, "ü"]}},
        related_memory_ids=[first.id, first.id],
        parent_memory_id=first.id,
        created_at=NOW,
        expires_at=NOW + timedelta(days=36500),
        idempotency_key="k",
    )
    assert memory.outcome == "created"
    read = await get_memory(conn, 1, memory.id)
    assert read == memory.model_copy(update={"outcome": None})
    assert read.tags == ("preference", "Work", "café")
    assert read.enhanced_context == FULL
    assert (read.memory_type, read.source_type) == ("preference", "conversation")
    assert read.related_memory_ids == (first.id,)
    assert read.metadata == {"n": 1, "deep": {"list": [True, None, 1.5, "ü"]}}
    assert (read.created_at, read.created_by, read.version) == (NOW, "assistant", 1)
    (link,) = await get_relationships(conn, 1, memory.id)
    assert (link.relationship_type, link.strength) == ("related", 0.5)


async def test_defaults(conn):
    memory = await add_memory(conn, 1, "x")
    assert (memory.importance_score, memory.confidence_score, memory.created_by) == (5, 1, "system")
    assert (memory.access_count, memory.version, memory.tags) == (0, 1, ())
    assert memory.enhanced_context is None
    assert memory.last_accessed is None


async def test_details_are_rows_of_their_own(conn):
    await add_memory(conn, 1, "x", tags=["a", "B"], enhanced_context=FULL)
    contexts = {
        (row["context_type"], row["context_key"]): (row["context_value"], row["confidence"])
        for row in await rows(conn, "ltm_contexts")
    }
    assert contexts == {
        ("temporal", "timestamp"): ("2026-03-01T12:00:00Z", 1),
        ("temporal", "timezone"): ("Asia/Kathmandu", 1),
        ("temporal", "time_of_day"): ("afternoon", 1),
        ("temporal", "day_of_week"): ("sunday", 1),
        ("temporal", "month"): ("3", 1),
        ("temporal", "season"): ("spring", 1),
        ("temporal", "is_weekend"): ("true", 1),
        ("spatial", "city"): ("Graz", 0.5),
        ("spatial", "coordinates"): ("[47.07, 15.44]", 0.5),
        ("spatial", "is_home"): ("true", 0.5),
        ("social", "participants"): ('["John", "Sarah"]', 1),
        ("social", "group_size"): ("3", 1),
        ("custom", "mood board"): ('{"a": [1, {"b": null}]}', 1),
        ("extra", "weather station"): ('{"id": 7}', 1),
    }
    tags = await rows(conn, "ltm_memory_tags")
    assert [(t["tag_name"], t["tag_category"], t["usage_count"]) for t in tags] == [
        ("a", "general", 1),
        ("B", "general", 1),
    ]


async def test_a_dict_is_accepted_for_a_context(conn):
    memory = await add_memory(conn, 1, "x", enhanced_context={"spatial": {"city": "Graz"}})
    assert memory.enhanced_context == EnhancedContext(spatial=SpatialContext(city="Graz"))


@pytest.mark.parametrize("user", [0, 7, 2**53 - 1, "7", "alice", "0123", "٣", UUID(int=5)])
async def test_every_kind_of_user(conn, user):
    memory = await add_memory(conn, user, "x")
    assert [m.id for m in await search_memories(conn, user)] == [memory.id]
    known = isinstance(user, int) or user == "7"
    assert memory.user_id == (int(user) if known else memory.user_id)
    assert (memory.user_id < 0) is not known


async def test_an_external_user_keeps_one_number_in_any_normal_form(conn):
    first = await add_memory(conn, "Zo\u00eb", "x")
    second = await add_memory(conn, "Zoe\u0308", "y")
    assert first.user_id == second.user_id


async def test_reading_for_an_unknown_user_creates_nothing(conn):
    assert await get_memory(conn, "nobody", 1) is None
    assert await search_memories(conn, "nobody", "x") == []
    assert await update_memory(conn, "nobody", 1, content="x") is None
    assert await delete_memory(conn, "nobody", 1) is False
    assert await rows(conn, "ltm_external_users") == []


async def test_a_naive_moment_is_utc_whatever_the_session_says(conn):
    await conn.execute("SET LOCAL timezone = 'Asia/Kolkata'")
    naive = datetime(2026, 3, 1, 12)
    memory = await add_memory(
        conn, 1, "x", created_at=naive, expires_at=datetime(2999, 1, 1), related_memory_ids=[]
    )
    read = await get_memory(conn, 1, memory.id)
    assert read is not None
    assert read.created_at == NOW
    assert read.created_at.utcoffset() == timedelta(0)
    assert read.expires_at == datetime(2999, 1, 1, tzinfo=UTC)
    stored = "SELECT created_at::text FROM ltm_memories"
    assert await conn.fetchval(stored) == "2026-03-01 12:00:00"
    assert read.last_modified is not None
    assert abs(read.last_modified - datetime.now(UTC)) < timedelta(minutes=5)


async def test_a_repeated_key_finds_the_first_row_unchanged(conn, caplog):
    first = await add_memory(conn, 1, "x", tags=["a"], enhanced_context=FULL, idempotency_key="k")
    contexts = await rows(conn, "ltm_contexts")
    target = await add_memory(conn, 1, "target")
    again = await add_memory(
        conn,
        1,
        "x",
        tags=["b"],
        related_memory_ids=[target.id],
        enhanced_context={"spatial": {"city": "Wien"}},
        idempotency_key="k",
    )
    assert await rows(conn, "ltm_contexts") == contexts
    assert await rows(conn, "ltm_memory_relationships") == []
    assert again == first.model_copy(update={"outcome": "existing"})
    assert not caplog.records
    with caplog.at_level(logging.WARNING):
        other = await add_memory(conn, 1, "secret words", idempotency_key="k")
    assert (other.id, other.content, other.outcome) == (first.id, "x", "existing")
    assert "secret" not in caplog.text
    assert len(caplog.records) == 1
    assert len(await rows(conn, "ltm_memory_tags")) == 1
    elsewhere = await add_memory(conn, 2, "x", idempotency_key="k")
    assert elsewhere.outcome == "created"


async def test_adds_with_one_key_at_the_same_instant_make_one_memory(db):
    added = await asyncio.gather(
        *(add_memory(db, 1, f"x{n}", tags=["a"], idempotency_key="k") for n in range(64))
    )
    assert len({memory.id for memory in added}) == 1
    assert sorted(memory.outcome or "" for memory in added) == ["created"] + ["existing"] * 63


async def test_get_memories_keeps_the_order_asked_for(conn):
    a, b, c = [(await add_memory(conn, 1, name)).id for name in "abc"]
    await archive_memory(conn, 1, b)
    found = await get_memories(conn, 1, [c, 10**9, a, b, c])
    assert [memory.id for memory in found] == [c, a, b, c]


async def test_expired_memories_are_in_no_read(conn):
    memory = await add_memory(conn, 1, "x", tags=["t"], expires_at=NOW)
    other = await add_memory(conn, 1, "y", created_at=NOW - timedelta(days=9))
    before = NOW - timedelta(seconds=1)
    await conn.execute(
        "INSERT INTO ltm_memory_relationships (user_id, source_memory_id, target_memory_id, "
        "relationship_type) VALUES (1, $1, $2, 'related')",
        *(other.id, memory.id),
    )
    assert await get_memory(conn, 1, memory.id) is None
    assert await get_memory(conn, 1, memory.id, as_of=NOW) is None
    assert await get_memory(conn, 1, memory.id, as_of=before) is not None
    assert [m.id for m in await search_memories(conn, 1)] == [other.id]
    assert len(await search_memories(conn, 1, as_of=before)) == 2
    assert await get_memories(conn, 1, [memory.id]) == []
    assert await get_relationships(conn, 1, other.id) == []
    assert await get_relationships(conn, 1, memory.id) == []
    read = await get_memory(conn, 1, other.id, include_relationships=True)
    assert read is not None
    assert read.relationships == ()
    assert await update_memory(conn, 1, memory.id, content="z") is None
    assert await relate(conn, 1, other.id, memory.id) is None
    assert await record_access(conn, 1, [memory.id]) == 0


async def test_update_changes_what_is_given_and_nothing_else(conn):
    memory = await add_memory(
        conn, 1, "x", tags=["a"], category="c", metadata={"a": 1, "b": 2}, enhanced_context=FULL
    )
    changed = await update_memory(
        conn, 1, memory.id, content="y", metadata={"b": 3, "c": None}, memory_type=MemoryType.GOAL
    )
    assert changed is not None
    same = {"content", "metadata", "memory_type", "version", "last_modified", "outcome"}
    assert changed.model_dump(exclude=same) == memory.model_dump(exclude=same)
    assert (changed.content, changed.memory_type, changed.version) == ("y", "goal", 2)
    assert changed.metadata == {"a": 1, "b": 3, "c": None}
    assert await get_memory(conn, 1, memory.id) == changed


async def test_none_clears_a_field(conn):
    memory = await add_memory(
        conn,
        1,
        "x",
        tags=["a"],
        category="c",
        metadata={"a": 1},
        enhanced_context=FULL,
        expires_at=datetime(2999, 1, 1),
    )
    changed = await update_memory(
        conn,
        1,
        memory.id,
        tags=None,
        category=None,
        metadata=None,
        enhanced_context=None,
        expires_at=None,
    )
    assert changed is not None
    assert (changed.tags, changed.category, changed.metadata) == ((), None, None)
    assert (changed.enhanced_context, changed.expires_at) == (None, None)
    assert await rows(conn, "ltm_contexts") == []
    assert await rows(conn, "ltm_memory_tags") == []


async def test_new_tags_and_contexts_replace_the_old_rows(conn):
    memory = await add_memory(conn, 1, "x", tags=["a", "Keep"], enhanced_context=FULL)
    kept = next(t for t in await rows(conn, "ltm_memory_tags") if t["tag_name"] == "Keep")
    changed = await update_memory(
        conn,
        1,
        memory.id,
        tags=["keep", "new"],
        enhanced_context={"spatial": {"city": "Wien"}},
    )
    assert changed is not None
    assert changed.tags == ("keep", "new")
    tags = {row["tag_name"]: row["id"] for row in await rows(conn, "ltm_memory_tags")}
    assert tags.keys() == {"keep", "new"}
    assert tags["keep"] == kept["id"]
    (context,) = await rows(conn, "ltm_contexts")
    assert (context["context_key"], context["context_value"]) == ("city", "Wien")


async def test_a_stale_version_conflicts_and_carries_the_memory(conn):
    memory = await add_memory(conn, 1, "x")
    changed = await update_memory(conn, 1, memory.id, content="y", expected_version=1)
    assert changed is not None
    with pytest.raises(Conflict) as caught:
        await update_memory(conn, 1, memory.id, content="z", expected_version=1)
    assert caught.value.current == changed
    assert await update_memory(conn, 1, 10**9, content="z", expected_version=1) is None


async def test_one_of_many_updates_of_a_version_wins(db):
    memory = await add_memory(db, 1, "x")
    outcomes = await asyncio.gather(
        *(update_memory(db, 1, memory.id, content=f"{n}", expected_version=1) for n in range(16)),
        return_exceptions=True,
    )
    assert sum(isinstance(outcome, Conflict) for outcome in outcomes) == 15


async def test_concurrent_updates_of_metadata_lose_no_key(db):
    memory = await add_memory(db, 1, "x")
    await asyncio.gather(
        *(update_memory(db, 1, memory.id, metadata={f"k{n}": n}) for n in range(32))
    )
    read = await get_memory(db, 1, memory.id)
    assert read is not None
    assert read.metadata == {f"k{n}": n for n in range(32)}
    assert read.version == 33


async def test_archive_and_restore_are_repeatable(conn):
    memory = await add_memory(conn, 1, "x")
    await archive_memory(conn, 1, memory.id, reason="old")
    archived = await archive_memory(conn, 1, memory.id)
    assert archived is not None
    assert (archived.is_archived, archived.archive_reason) == (True, "old")
    assert await search_memories(conn, 1) == []
    assert len(await search_memories(conn, 1, include_archived=True)) == 1
    assert await get_memory(conn, 1, memory.id) == archived
    await restore_memory(conn, 1, memory.id)
    restored = await restore_memory(conn, 1, memory.id)
    assert restored is not None
    assert (restored.is_archived, restored.archive_reason) == (False, None)
    assert len(await search_memories(conn, 1)) == 1


async def test_delete_leaves_nothing_that_points_at_the_memory(conn):
    gone = await add_memory(conn, 1, "gone", tags=["a"], enhanced_context=FULL)
    both = await add_memory(
        conn, 1, "child and neighbour", parent_memory_id=gone.id, related_memory_ids=[gone.id]
    )
    kept = await add_memory(conn, 1, "kept", related_memory_ids=[gone.id, both.id])
    await relate(conn, 1, gone.id, kept.id, "causes")
    assert await delete_memory(conn, 1, gone.id) is True
    assert await delete_memory(conn, 1, gone.id) is False
    both, kept = await get_memories(conn, 1, [both.id, kept.id])
    assert (both.parent_memory_id, both.related_memory_ids) == (None, ())
    assert kept.related_memory_ids == (both.id,)
    for table in ("ltm_contexts", "ltm_memory_tags"):
        assert await rows(conn, table) == []
    links = await rows(conn, "ltm_memory_relationships")
    assert [(r["source_memory_id"], r["target_memory_id"]) for r in links] == [(kept.id, both.id)]


BAD: dict[str, list[object]] = {
    "content": ["", "\0", "\ud800", "x" * (2 * 1024 * 1024), "é" * 600_000, 5, b"x", None],
    "tags": [["a"] * 3 + [""], ["x" * 101], [f"{n}" for n in range(101)], ["\0"], "work", [b"x"]],
    "importance_score": [0, 11, True, 5.0, "5", None],
    "confidence_score": [-0.1, 1.1, float("nan"), float("inf"), True],
    "enhanced_context": [
        {"temporal": {"moon": "full"}},
        {"celestial": {}},
        {"spatial": {"coordinates": [91, 0]}},
        {"temporal": {"timezone": "Mars/Olympus"}},
        {"extra": {str(n): 1 for n in range(201)}},
        {"custom_contexts": [{"context_type": "x", "context_data": {"x": "y" * 300_000}}]},
    ],
    "memory_type": ["x" * 51, ""],
    "category": ["x" * 101, b"x"],
    "source_id": ["x" * 256],
    "source_position": [2**31],
    "metadata": [{"a": float("nan")}, {"a": "\0"}, {"a": {1}}, {"a": "x" * 300_000}, {1: 2}, []],
    "related_memory_ids": [[10**12], ["5"], [2**63]],
    "parent_memory_id": [10**12, "5"],
    "created_at": ["yesterday", "2024", 5, 1.5],
    "expires_at": ["soon"],
    "idempotency_key": ["", "x" * 256],
    "namespace": ["a..b", ".", "\0", "é" * 751, ("a", "b.c"), ("a", ""), ["a", 1], 5, b"a"],
    "key": ["", "x" * 256, "\0", 5, b"x"],
    "embedding_model": ["x", ""],
    "expires_after": [timedelta(0), timedelta(days=36526), timedelta.max, 5, "soon"],
}


@pytest.mark.parametrize(
    ("field", "value"),
    [(field, value) for field, values in BAD.items() for value in values],
    ids=lambda value: str(value)[:30].encode("ascii", "replace").decode(),
)
async def test_bad_input_is_refused_by_field_before_anything_is_written(conn, field, value):
    arguments = {"content": "fine", field: value}
    async with conn.transaction():
        with pytest.raises(InvalidMemory) as caught:
            async with conn.transaction():
                await add_memory(conn, 1, **arguments)
    assert caught.value.field.split(".")[0] == field
    assert len(str(caught.value)) < 300
    assert not isinstance(value, str) or "items" not in caught.value.rule
    for table in ("ltm_memories", "ltm_contexts", "ltm_memory_tags", "ltm_external_users"):
        assert await rows(conn, table) == []


@pytest.mark.parametrize("user", [-1, 2**53, True, 1.5, None, "", "x" * 256, "\0", "\ud800", b"x"])
async def test_what_cannot_be_a_user_is_refused(conn, user):
    with pytest.raises(InvalidMemory, match="^user_id: "):
        await add_memory(conn, user, "x")
    assert await rows(conn, "ltm_external_users") == []


def deep(levels: int) -> dict[str, Any]:
    value: dict[str, Any] = {}
    for _ in range(levels - 1):
        value = {"a": value}
    return value


async def test_values_at_their_limits_are_stored(conn):
    memory = await add_memory(
        conn,
        1,
        "é" * (512 * 1024),
        tags=[f"{n:03}" + "x" * 97 for n in range(100)],
        metadata={**deep(31), "deep": deep(31)},
        enhanced_context={"extra": {str(n): n for n in range(200)}},
        source_id="x" * 255,
        idempotency_key="é" * 255,
        category="é" * 100,
        namespace="é" * 750,
        key="😀" * 255,
        expires_after=timedelta(days=36525),
    )
    assert await get_memory(conn, 1, memory.id) is not None
    with pytest.raises(InvalidMemory, match="nested deeper than 32"):
        await add_memory(conn, 1, "x", metadata=deep(33))


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("content", "x" * (1024 * 1024 + 1)),
        ("tags", json.dumps([f"{n}" for n in range(101)])),
        ("tags", json.dumps(["x" * 101])),
        ("tags", "[null]"),
        ("memory_metadata", json.dumps(deep(34))),
        ("memory_metadata", json.dumps({"a": "x" * 300_000})),
        ("context_data", "[]"),
        ("importance_score", 11),
        ("confidence_score", float("nan")),
        ("dynamic_importance", float("inf")),
        ("related_memory_ids", "{}"),
    ],
    ids=lambda value: str(value)[:20],
)
async def test_the_schema_refuses_what_the_models_refuse(conn, column, value):
    memory = await add_memory(conn, 1, "x")
    cast = "::text::jsonb" if str(value)[:1] in "[{" else ""
    with pytest.raises(asyncpg.CheckViolationError, match=f"ltm_memories_{column}_"):
        await conn.execute(
            f"UPDATE ltm_memories SET {column} = $1{cast} WHERE id = $2", value, memory.id
        )


FOREIGN = [
    lambda c, i: get_memory(c, 2, i),
    lambda c, i: get_memories(c, 2, [i]),
    lambda c, i: update_memory(c, 2, i, content="stolen"),
    lambda c, i: update_importance(c, 2, i, 1),
    lambda c, i: archive_memory(c, 2, i),
    lambda c, i: restore_memory(c, 2, i),
    lambda c, i: delete_memory(c, 2, i),
    lambda c, i: relate(c, 2, i, i + 1),
    lambda c, i: get_relationships(c, 2, i),
]


@pytest.mark.parametrize("call", FOREIGN)
async def test_another_users_memory_is_absent_and_stays_as_it_is(conn, call):
    memory = await add_memory(conn, 1, "mine", tags=["a"])
    other = await add_memory(conn, 1, "mine too", related_memory_ids=[memory.id])
    before = await rows(conn, "ltm_memories")
    assert (await call(conn, memory.id)) in (None, False, [])
    assert await rows(conn, "ltm_memories") == before
    with pytest.raises(InvalidMemory, match="^related_memory_ids: "):
        async with conn.transaction():
            await add_memory(conn, 2, "x", related_memory_ids=[other.id])
    with pytest.raises(InvalidMemory, match="^parent_memory_id: "):
        async with conn.transaction():
            await add_memory(conn, 2, "x", parent_memory_id=memory.id)


OLD_ROWS = [
    "(1, 'x', NULL)",
    "(1, 'x', 'null')",
    "(1, 'x', '\"a,b\"')",
    "(1, 'x', '{\"a\": 1}')",
    "(1, 'x', '[\"a\", \"A\"]')",
]


@pytest.mark.parametrize("values", OLD_ROWS)
async def test_rows_as_an_older_program_leaves_them_are_read_and_changed(conn, values):
    number = await conn.fetchval(
        f"INSERT INTO ltm_memories (user_id, content, tags) VALUES {values} RETURNING id"
    )
    await conn.execute(
        "UPDATE ltm_memories SET importance_score = NULL, confidence_score = NULL, "
        "dynamic_importance = NULL, context_data = 'null', created_by = NULL, created_at = NULL, "
        "last_modified = NULL, access_count = NULL, related_memory_ids = 'null', "
        "memory_metadata = 'null', is_archived = NULL WHERE id = $1",
        number,
    )
    memory = await get_memory(conn, 1, number, include_relationships=True)
    assert memory is not None
    assert (memory.importance_score, memory.confidence_score, memory.access_count) == (1, 1, 0)
    assert (memory.enhanced_context, memory.metadata, memory.related_memory_ids) == (None, None, ())
    assert [hit.id for hit in await search_memories(conn, 1)] == [number]
    assert [hit.id for hit in await search_memories(conn, 1, "x")] == [number]
    await search_memories(conn, 1, tags=["a"], tags_any=["b"])
    assert (await get_analytics(conn, 1)).total_memories == 1
    assert await get_relationships(conn, 1, number) == []
    assert await record_access(conn, 1, [number]) == 1
    assert [line["content"] async for line in export_user(conn, 1)] == ["x"]
    changed = await update_memory(conn, 1, number, metadata={"a": 1}, tags=["b"])
    assert changed is not None
    assert (changed.metadata, changed.tags) == ({"a": 1}, ("b",))


async def waiting(dsn, call):
    """A call, started and now waiting for a lock that another connection holds."""
    watcher = await asyncpg.connect(dsn)
    task = asyncio.ensure_future(call)
    while not await watcher.fetchval(WAITING):
        assert not task.done()
    await watcher.close()
    return task


async def test_updates_that_wait_for_each_other_leave_the_details_in_step(db, dsn):
    memory = await add_memory(db, 1, "x", tags=["old"], enhanced_context=FULL)
    async with db.transaction() as conn:
        await update_memory(
            conn, 1, memory.id, tags=["a"], enhanced_context={"spatial": {"city": "Graz"}}
        )
        task = await waiting(
            dsn,
            update_memory(
                db, 1, memory.id, tags=["b"], enhanced_context={"spatial": {"city": "Wien"}}
            ),
        )
    changed = await asyncio.wait_for(task, 60)
    assert changed is not None
    assert (changed.tags, changed.version) == (("b",), 3)
    async with db.transaction() as conn:
        assert [row["tag_name"] for row in await rows(conn, "ltm_memory_tags")] == ["b"]
        assert [row["context_value"] for row in await rows(conn, "ltm_contexts")] == ["Wien"]


@pytest.mark.parametrize(
    "link",
    [
        lambda c, i, other: add_memory(c, 1, "new", parent_memory_id=i),
        lambda c, i, other: add_memory(c, 1, "new", related_memory_ids=[i]),
        lambda c, i, other: relate(c, 1, other, i),
    ],
)
async def test_a_delete_that_waits_for_a_new_link_takes_it_along(db, dsn, link):
    other = await add_memory(db, 1, "other")
    memory = await add_memory(db, 1, "x")
    async with db.transaction() as conn:
        await link(conn, memory.id, other.id)
        task = await waiting(dsn, delete_memory(db, 1, memory.id))
    assert await asyncio.wait_for(task, 60) is True
    for left in await search_memories(db, 1):
        assert (left.parent_memory_id, left.related_memory_ids) == (None, ())


async def test_unrelating_at_once_leaves_the_mirror_in_step(db, dsn):
    a, b = [(await add_memory(db, 1, name)).id for name in "ab"]
    for kind in ("causes", "follows"):
        await relate(db, 1, a, b, kind)
    async with db.transaction() as conn:
        await unrelate(conn, 1, a, b, "causes")
        task = await waiting(dsn, unrelate(db, 1, a, b, "follows"))
    assert await asyncio.wait_for(task, 60) is True
    read = await get_memory(db, 1, a)
    assert read is not None
    assert read.related_memory_ids == ()
    await relate(db, 1, a, b, "causes")
    async with db.transaction() as conn:
        await relate(conn, 1, a, b, "follows")
        task = await waiting(dsn, unrelate(db, 1, a, b, "causes"))
    assert await asyncio.wait_for(task, 60) is True
    read = await get_memory(db, 1, a)
    assert read is not None
    assert read.related_memory_ids == (b,)


async def test_a_mirror_that_an_older_program_left_as_json_null_stays(conn):
    a, b = [(await add_memory(conn, 1, name)).id for name in "ab"]
    await conn.execute(
        "INSERT INTO ltm_memory_relationships (user_id, source_memory_id, target_memory_id, "
        "relationship_type) VALUES (1, $1, $2, 'causes'), (1, $1, $2, 'follows')",
        *(a, b),
    )
    await conn.execute("UPDATE ltm_memories SET related_memory_ids = 'null' WHERE id = $1", a)
    await unrelate(conn, 1, a, b, "causes")
    await unrelate(conn, 1, a, b, "follows")
    await delete_memory(conn, 1, b)
    stored = "SELECT related_memory_ids::text FROM ltm_memories WHERE id = $1"
    assert await conn.fetchval(stored, a) == "null"


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("20240101", datetime(2024, 1, 1, tzinfo=UTC)),
        ("2024-01-01T12:00:00+01:00", datetime(2024, 1, 1, 11, tzinfo=UTC)),
        ("2024-01-01T12:00:00Z", datetime(2024, 1, 1, 12, tzinfo=UTC)),
    ],
)
async def test_iso_text_is_a_moment(conn, text, moment):
    assert (await add_memory(conn, 1, "x", created_at=text)).created_at == moment


async def test_a_stored_number_beyond_pythons_digits_is_read(conn):
    memory = await add_memory(conn, 1, "x")
    digits = "9" * 5000
    await conn.execute(
        "UPDATE ltm_memories SET memory_metadata = $1::text::jsonb, "
        "context_data = $2::text::jsonb WHERE id = $3",
        *(f'{{"n": {digits}}}', f'{{"spatial": {{"n": {digits}}}}}', memory.id),
    )
    read = await get_memory(conn, 1, memory.id)
    assert read is not None
    assert read.metadata == {"n": digits}
