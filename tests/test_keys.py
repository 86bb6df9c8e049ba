"""Namespaces and keys: memories under names of the caller's own."""

import asyncio
import json
import logging
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import pytest

from ltm_store import (
    Conflict,
    Database,
    InvalidArgument,
    InvalidMemory,
    Memory,
    NewMemory,
    Unavailable,
    add_memories,
    add_memory,
    archive_memory,
    connect,
    count_memories,
    delete_by_key,
    delete_by_keys,
    extend_expiry,
    forget_user,
    get_by_key,
    get_by_keys,
    get_children,
    get_memories,
    get_memory,
    get_relationships,
    list_namespaces,
    put_memories,
    put_memory,
    record_access,
    rename_key,
    search_memories,
    update_memory,
)
from tests.locks import WAITING
from tests.servers import IS_CITUS
from tests.test_memories import rows

PAST = datetime(2020, 1, 1, tzinfo=UTC)


async def test_a_key_is_unique_in_its_namespace_of_a_user(conn):
    first = await add_memory(conn, 1, "x", namespace=("a", "b"), key="K")
    assert (first.namespace, first.key, first.outcome) == ("a.b", "K", "created")
    for user, namespace in (1, "a"), (1, None), (2, "a.b"):
        await add_memory(conn, user, "y", key="K", namespace=namespace)
    await add_memory(conn, 1, "z", namespace="a.b", key="k")
    with pytest.raises(Conflict) as caught:
        await add_memory(conn, 1, "secret", namespace="a.b", key="K", tags=["t"])
    assert caught.value.current.id == first.id
    assert caught.value.current.version == 1
    assert "secret" not in str(caught.value)
    assert len(await rows(conn, "ltm_memories")) == 5
    assert await rows(conn, "ltm_memory_tags") == []


async def test_of_adds_with_one_key_at_the_same_instant_one_is_stored(db):
    async def add(n: int) -> Memory:
        try:
            return await add_memory(db, 1, f"{n}", key="k")
        except Conflict as error:
            return error.current

    made = await asyncio.gather(*(add(n) for n in range(32)))
    assert len({memory.id for memory in made}) == 1
    assert [memory.outcome for memory in made].count("created") == 1


async def test_a_repeated_add_with_both_keys_gives_the_first_row(conn):
    first = await add_memory(conn, 1, "x", key="k", idempotency_key="i")
    again = await add_memory(conn, 1, "x", key="k", idempotency_key="i")
    moved = await add_memory(conn, 1, "x", key="other", namespace="n", idempotency_key="i")
    assert (again.id, again.outcome) == (moved.id, moved.outcome) == (first.id, "existing")
    assert (moved.key, moved.namespace) == ("k", "")
    for key in ("j", None):
        with pytest.raises(Conflict):
            await add_memory(conn, 1, "x", key="k", idempotency_key=key)


async def test_adds_with_both_keys_at_the_same_instant_give_one_row(db):
    made = await asyncio.gather(
        *(add_memory(db, 1, "x", key=f"k{n % 3}", idempotency_key="i") for n in range(32))
    )
    assert len({memory.id for memory in made}) == 1
    assert {memory.outcome for memory in made} == {"created", "existing"}


async def test_an_expired_holder_of_a_key_is_replaced(conn):
    old = await add_memory(conn, 1, "x", key="k", idempotency_key="i", expires_at=PAST)
    new = await add_memory(conn, 1, "y", key="k", idempotency_key="i")
    assert (new.outcome, new.id != old.id) == ("created", True)


async def test_many_at_once_refuse_a_key_that_is_taken(conn):
    memories = [{"content": "", "key": "a"}, {"content": "x", "key": "a"}]
    with pytest.raises(InvalidMemory, match=r"^memories\[1\]\.key: exists already$"):
        async with conn.transaction():
            await add_memories(conn, 1, memories)
    report = await add_memories(conn, 1, memories, on_error="skip")
    assert (report.created, [r.field for r in report.refused]) == (1, ["key"])


async def test_content_may_be_empty_only_with_a_key(conn):
    assert (await add_memory(conn, 1, "", key="k")).content == ""
    with pytest.raises(InvalidMemory, match="^content: should not be empty$"):
        await add_memory(conn, 1, "")


def cleared(memory: Memory) -> dict[str, object]:
    """What two puts with the same arguments have in common."""
    return memory.model_dump(
        exclude={"id", "version", "created_at", "last_modified", "outcome", "duplicate_of"}
    )


async def test_a_put_replaces_everything_but_what_hangs_on_the_memory(conn):
    other = await add_memory(conn, 1, "other")
    first = await put_memory(
        conn,
        1,
        "k",
        "old",
        namespace=("n",),
        tags=["a", "b"],
        importance_score=9,
        metadata={"a": 1},
        enhanced_context={"spatial": {"city": "Graz"}},
        related_memory_ids=[other.id],
        created_at=PAST,
        expires_after=timedelta(days=1),
        idempotency_key="i",
        category="c",
        parent_memory_id=other.id,
    )
    assert (first.outcome, first.version, first.namespace) == ("created", 1, "n")
    child = await add_memory(conn, 1, "child", parent_memory_id=first.id)
    await archive_memory(conn, 1, first.id, reason="old")
    second = await put_memory(
        conn, 1, "k", "new", namespace="n", tags=["B", "c"], related_memory_ids=[child.id]
    )
    assert (second.id, second.outcome, second.version) == (first.id, "replaced", 3)
    assert (second.created_at, second.is_archived, second.archive_reason) == (PAST, False, None)
    assert second.related_memory_ids == (other.id, child.id)
    plain = await put_memory(
        conn, 1, "k", "new", namespace="m", tags=["B", "c"], related_memory_ids=[other.id, child.id]
    )
    ages = {"importance_rank", "dynamic_importance", "namespace"}
    assert {k: v for k, v in cleared(second).items() if k not in ages} == {
        k: v for k, v in cleared(plain).items() if k not in ages
    }
    assert {r.related_memory.id for r in await get_relationships(conn, 1, first.id)} == {
        other.id,
        child.id,
    }
    assert [m.id for m in await get_children(conn, 1, first.id)] == [child.id]
    tags = await rows(conn, "ltm_memory_tags")
    assert [t["tag_name"] for t in tags if t["memory_id"] == first.id] == ["B", "c"]
    assert await rows(conn, "ltm_contexts") == []
    assert [m.id for m in await search_memories(conn, 1, "old")] == []


async def test_a_put_refuses_the_idempotency_key_of_another_memory(db):
    other = await add_memory(db, 1, "x", idempotency_key="i")
    with pytest.raises(InvalidMemory, match="^idempotency_key: exists already$"):
        await put_memory(db, 1, "k", "y", idempotency_key="i")
    await put_memory(db, 1, "k", "y")
    with pytest.raises(InvalidMemory, match="^idempotency_key: exists already$"):
        await put_memory(db, 1, "k", "z", idempotency_key="i")
    with pytest.raises(InvalidMemory, match="^idempotency_key: exists already$"):
        async with db.transaction() as conn:
            await put_memory(conn, 1, "k", "z", idempotency_key="i")
    assert [m.content for m in await get_memories(db, 1, [other.id])] == ["x"]


async def test_an_add_that_another_overtakes_ends_the_callers_transaction(db):
    async with db.transaction() as other:
        await add_memory(other, 1, "theirs", key="a", idempotency_key="i")

        async def add():
            async with db.transaction() as conn:
                await add_memory(conn, 1, "ours", key="b", idempotency_key="i")

        adding = asyncio.create_task(add())
        while not await other.fetchval(WAITING):
            assert not adding.done()
    with pytest.raises(Unavailable, match="begin the transaction again") as told:
        await adding
    assert told.value.rolled_back
    assert (await add_memory(db, 1, "ours", key="b", idempotency_key="i")).outcome == "existing"


async def test_a_put_takes_the_place_of_an_expired_memory(conn):
    old = await add_memory(conn, 1, "x", key="k", expires_at=PAST)
    new = await put_memory(conn, 1, "k", "y")
    assert (new.outcome, new.id != old.id) == ("created", True)
    assert (await put_memory(conn, 1, "k", "z")).id == new.id


ROUNDS, WRITERS = 10, 16  # a thousand puts are in tests/soak/pairs.py


async def put_of(db: Database, task: int, turn: int) -> Memory:
    name = f"{task} {turn}"
    return await put_memory(
        db,
        1,
        "k",
        name,
        tags=[f"t{task}", f"n{turn}", name],
        enhanced_context={"extra": {f"f{task}": turn, name: 1}},
        metadata={name: 1},
        idempotency_key=f"{turn}" if task % 2 else None,
    )


async def assert_whole(conn: asyncpg.Connection, memory: Memory) -> None:
    """What a put wrote beside the row is that of the same put."""
    assert memory.metadata == {memory.content: 1}
    assert memory.tags[2] == memory.content
    tags = await rows(conn, "ltm_memory_tags")
    assert {t["tag_name"] for t in tags if t["memory_id"] == memory.id} == set(memory.tags)
    assert memory.enhanced_context is not None
    assert memory.content in memory.enhanced_context.extra
    contexts = await rows(conn, "ltm_contexts")
    described = {c["context_key"] for c in contexts if c["memory_id"] == memory.id}
    assert described == set(memory.enhanced_context.extra)


async def put_by_many(db: Database, conn: asyncpg.Connection, turn: int, before: int) -> int:
    """Put by many writers at once, and look that the last one's is whole; how many were created."""
    made = await asyncio.gather(*(put_of(db, task, turn) for task in range(WRITERS)))
    memory = await get_by_key(conn, 1, "k")
    assert memory is not None
    assert memory.version == before + WRITERS * (turn + 1)
    await assert_whole(conn, memory)
    return sum(memory.outcome == "created" for memory in made)


@pytest.mark.parametrize("holder", ["none", "archived", "expired"])
async def test_puts_of_many_writers_follow_one_another_whole(db, caplog, holder):
    """One row, a version a call, and its tags and contexts are those of one writer: the last."""
    before = 0
    if holder != "none":
        held = await add_memory(db, 1, "x", key="k", tags=["old"])
        await archive_memory(db, 1, held.id)
        if holder == "expired":
            await update_memory(db, 1, held.id, expires_at=PAST)
        else:
            before = 2
    caplog.set_level(logging.DEBUG, "ltm_store.statements")
    created = 0
    async with db.transaction() as conn:
        for turn in range(ROUNDS):
            caplog.clear()
            created += await put_by_many(db, conn, turn, before)
            assert (
                len(caplog.records) <= (6 if IS_CITUS else 3) * WRITERS + 1
            )  # the last is the look at it
        assert created == (holder != "archived")
        assert await conn.fetch("SELECT * FROM ltm_health WHERE check_name <> 'dead_rows'") == []


async def test_a_put_under_contention_takes_three_statements_at_most(db, caplog):
    """One attempt that another put comes before, the lock, and one that stands."""
    await put_memory(db, 1, "k", "x", tags=["a"])
    caplog.set_level(logging.DEBUG, "ltm_store.statements")
    async with db.transaction() as other:
        await put_memory(other, 1, "k", "y", tags=["b"])
        waiting = asyncio.create_task(put_memory(db, 1, "k", "z", tags=["c"]))
        while not await other.fetchval(WAITING):
            pass
    assert (await waiting).version == 3
    assert len(caplog.records) == 1 + 3  # the first is the other's


async def test_a_put_for_a_user_who_was_forgotten_gets_a_new_number(db, dsn):
    async with connect(dsn) as other:
        first = await put_memory(db, "ann", "k", "x")
        await forget_user(other, "ann")
        second = await put_memory(db, "ann", "k", "y")
    assert (second.outcome, second.user_id != first.user_id) == ("created", True)


def puts(other: int) -> list[dict[str, Any]]:
    """Puts of every shape: of new keys and of those that `held_by` has."""
    full = {
        "tags": ["B", "c", "née"],
        "importance_score": 9,
        "confidence_score": 0.5,
        "context": "free",
        "enhanced_context": {"spatial": {"city": "Wien"}, "extra": {"n": [1, None]}},
        "memory_type": "fact",
        "category": "c",
        "source_type": "import",
        "source_id": "s",
        "source_position": 3,
        "created_by": "me",
        "metadata": {"a": {"b": [1, 2]}},
        "related_memory_ids": [other],
        "parent_memory_id": other,
        "created_at": PAST,
        "expires_at": datetime(2400, 1, 1, tzinfo=UTC),
    }
    return [
        {"key": "new", "content": "plain"},
        {"key": "new", "namespace": ("a", "b"), "content": "", **full},
        {"key": "slides", "content": "x", "expires_after": timedelta(minutes=1)},
        {"key": "held", "content": "all", **full},
        {"key": "kept", "content": "kept as it was"},
        {"key": "bare", "content": "tags", "tags": ["x"], "related_memory_ids": [other]},
        {"key": "archived", "content": "restored"},
        {"key": "expired", "content": "born again", "tags": ["t"]},
    ]


async def held_by(conn: asyncpg.Connection, user: int | str) -> int:
    other = (await add_memory(conn, user, "other")).id
    held: dict[str, Any] = {
        "tags": ["a", "b"],
        "metadata": {"old": 1},
        "enhanced_context": {"spatial": {"city": "Graz"}, "social": {"mood": "good"}},
        "idempotency_key": "i",
        "expires_after": timedelta(days=1),
        "related_memory_ids": [other],
    }
    first = await put_memory(conn, user, "held", "old", **held)
    await add_memory(conn, user, "child", parent_memory_id=first.id)
    await record_access(conn, user, [first.id])
    await put_memory(
        conn, user, "kept", "kept as it was", tags=["a"], category="c", related_memory_ids=[other]
    )
    await put_memory(conn, user, "bare", "old")
    archived = await put_memory(conn, user, "archived", "old", tags=["a"])
    await archive_memory(conn, user, archived.id, reason="why")
    await add_memory(conn, user, "old", key="expired", expires_at=PAST, tags=["gone"])
    return other


async def pictured(conn: asyncpg.Connection, user: int) -> list[dict[str, object]]:
    """All rows of a user, with names in the place of ids, and without moments of now."""
    names = {
        row["id"]: f"{row['namespace']} {row['key']} {row['content']}"
        for row in await rows(conn, "ltm_memories")
    }
    found = []
    for table in ("ltm_memories", "ltm_memory_tags", "ltm_contexts", "ltm_memory_relationships"):
        for row in await rows(conn, table):
            if row.pop("user_id") != user:
                continue
            own = row.pop("id")
            row["name"] = names.get(own) if table == "ltm_memories" else None
            for column, value in row.items():
                if isinstance(value, datetime) and 2020 < value.year < 2400:
                    row[column] = "now"
                elif column.endswith("memory_id") and value is not None:
                    row[column] = names[value]
            if row.get("related_memory_ids"):
                ids = row["related_memory_ids"]
                if isinstance(ids, str):  # else this connection reads JSON itself
                    ids = json.loads(ids) or []
                row["related_memory_ids"] = [names[number] for number in ids]
            found.append(row)
    return sorted(found, key=repr)


@pytest.mark.parametrize("users", [(1, 2), ("ann", "bob")])
async def test_puts_together_store_what_each_stores_alone(conn, users):
    alone, together = users
    other = await held_by(conn, alone)
    one_by_one = [
        await put_memory(conn, alone, put.pop("key"), put.pop("content"), **put)
        for put in puts(other)
    ]
    other = await held_by(conn, together)
    made = await put_memories(conn, together, puts(other))

    assert [m.model_dump(include=PLAIN) for m in made] == [
        m.model_dump(include=PLAIN) for m in one_by_one
    ]
    assert [m.model_copy(update={"outcome": None, "duplicate_of": None}) for m in made] == [
        await get_memory(conn, together, m.id) for m in made
    ]
    numbers = one_by_one[0].user_id, made[0].user_id
    assert await pictured(conn, numbers[0]) == await pictured(conn, numbers[1])
    assert await conn.fetch("SELECT * FROM ltm_health WHERE check_name <> 'dead_rows'") == []


PLAIN = {
    *("content", "tags", "importance_rank", "memory_type", "category", "metadata", "context"),
    *("enhanced_context", "source_id", "version", "outcome", "key", "namespace", "access_count"),
    *("is_archived", "archive_reason", "expires_after", "idempotency_key"),
}


async def test_of_puts_together_the_last_of_a_key_counts_in_the_order_given(conn, caplog):
    caplog.set_level(logging.DEBUG, "ltm_store.statements")
    await put_memory(conn, 1, "b", "old")
    caplog.clear()
    given: list[NewMemory | dict[str, object]] = [
        {"key": "c", "content": "first"},
        {"key": "b", "content": "1"},
        NewMemory(key="c", content="2"),
        {"key": "c", "content": "other", "namespace": "n"},
        {"key": "a", "content": "3"},
    ]
    made = await put_memories(conn, 1, iter(given))
    assert len(caplog.records) == 1 or IS_CITUS
    assert [m.content for m in made] == ["2", "1", "2", "other", "3"]
    assert [m.version for m in made] == [1, 2, 1, 1, 1]
    newest = [m.content for m in await search_memories(conn, 1, order="modified")]
    assert newest == ["3", "other", "2", "1"]
    assert await put_memories(conn, 1, []) == []


@pytest.mark.parametrize(
    ("field", "refused"),
    [
        ("key", {"key": None}),
        ("key", {"key": "x" * 256}),
        ("tags", {"tags": "x"}),
        ("idempotency_key", {"idempotency_key": "i"}),
        ("embedding", {"embedding": [1.0]}),
    ],
)
async def test_a_put_that_is_refused_is_told_by_its_place(conn, field, refused):
    good = {"key": "k", "content": "x"}
    with pytest.raises(InvalidMemory) as caught:
        await put_memories(conn, 1, [good, good | refused])
    assert caught.value.field == f"memories[1].{field}"
    assert await rows(conn, "ltm_memories") == []


async def test_puts_together_are_all_stored_or_none(db):
    count = 20 if IS_CITUS else 1001  # there each is put by a statement of its own
    many = [{"key": f"k{n}", "content": "x"} for n in range(count)]
    for field, number in ("parent_memory_id", 10**9), ("related_memory_ids", [10**9]):
        with pytest.raises(InvalidMemory) as caught:
            await put_memories(db, 1, [*many, {"key": "k", "content": "x", field: number}])
        assert caught.value.field == field
        assert await count_memories(db, 1) == 0
    assert len(await put_memories(db, 1, many)) == count
    with pytest.raises(InvalidArgument, match="^memories: "):
        await put_memories(db, 1, "k")  # type: ignore[arg-type]


async def test_puts_together_of_many_writers_follow_one_another_whole(db):
    """Every key has a version a call, and tags, context and metadata of one writer: the last."""
    names = [f"k{n}" for n in range(12)]
    await put_memories(db, 1, [{"key": name, "content": "old"} for name in names[::2]])

    async def put(task: int) -> list[Memory]:
        order = names if task % 2 else names[::-1]
        name = f"{task}"
        given = {
            "content": name,
            "tags": [f"t{task}", "both", name],
            "enhanced_context": {"extra": {name: 1}},
            "metadata": {name: 1},
        }
        return await put_memories(db, 1, [{"key": key, **given} for key in order])

    await asyncio.gather(*(put(task) for task in range(16)))
    async with db.transaction() as conn:
        found = [await get_by_key(conn, 1, name) for name in names]
        tags, contexts = await rows(conn, "ltm_memory_tags"), await rows(conn, "ltm_contexts")
        assert await conn.fetch("SELECT * FROM ltm_health WHERE check_name <> 'dead_rows'") == []
    for place, memory in enumerate(found):
        assert memory is not None
        assert memory.version == (16 if place % 2 else 17)
        assert memory.metadata == {memory.content: 1}
        assert {t["tag_name"] for t in tags if t["memory_id"] == memory.id} == set(memory.tags)
        assert [c["context_key"] for c in contexts if c["memory_id"] == memory.id] == [
            memory.content
        ]


async def test_puts_together_for_a_user_who_was_forgotten_get_a_new_number(db, dsn):
    async with connect(dsn) as other:
        (first,) = await put_memories(db, "ann", [{"key": "k", "content": "x"}])
        await forget_user(other, "ann")
        (second,) = await put_memories(db, "ann", [{"key": "k", "content": "y"}])
    assert (second.outcome, second.user_id != first.user_id) == ("created", True)


async def test_a_memory_is_read_and_deleted_by_its_key(conn):
    memory = await add_memory(conn, 1, "x", key="k", namespace="n", tags=["t"])
    await archive_memory(conn, 1, memory.id)
    found = await get_by_key(conn, 1, "k", namespace=["n"])
    assert found == await get_memory(conn, 1, memory.id)
    for user, key, namespace in (1, "k", None), (1, "K", "n"), (2, "k", "n"), ("nobody", "k", "n"):
        assert await get_by_key(conn, user, key, namespace=namespace) is None
        assert await delete_by_key(conn, user, key, namespace=namespace) is False
    assert await delete_by_key(conn, 1, "k", namespace="n") is True
    assert await get_by_key(conn, 1, "k", namespace="n") is None
    await add_memory(conn, 1, "x", key="k", expires_at=PAST)
    assert await get_by_key(conn, 1, "k") is None
    assert await delete_by_key(conn, 1, "k") is False


async def test_memories_are_read_and_deleted_by_their_keys_together(conn, caplog):
    """Each in its namespace, in the order asked for; neighbours lose their mentions."""
    first = await add_memory(conn, "ann", "1", key="a", namespace="n.m", tags=["t"])
    second = await add_memory(conn, "ann", "2", key="b", related_memory_ids=[first.id])
    kept = await add_memory(conn, "ann", "3", key="a", related_memory_ids=[first.id, second.id])
    await add_memory(conn, "bob", "4", key="b")
    await add_memory(conn, "ann", "5", key="old", expires_at=PAST)
    await archive_memory(conn, "ann", second.id)
    places = [("", "b"), (("n", "m"), "a"), (None, "old"), ("n", "b"), (None, "b")]

    found = await get_by_keys(conn, "ann", places)
    one_by_one = [await get_by_key(conn, "ann", key, namespace=n) for n, key in places]
    assert found == [memory for memory in one_by_one if memory is not None]
    assert [memory.id for memory in found] == [second.id, first.id, second.id]
    assert await get_by_keys(conn, "nobody", places) == []
    assert await delete_by_keys(conn, "nobody", places) == 0

    caplog.set_level(logging.DEBUG, "ltm_store.statements")
    assert await delete_by_keys(conn, "ann", places) == 2
    sent = [record.message.partition(":")[0] for record in caplog.records]
    assert sent[-3:] == ["find_keys", "lock_for_delete", "delete_memories"]
    assert await delete_by_keys(conn, "ann", places) == 0
    (left,) = await get_by_keys(conn, "ann", [(None, "a"), *places])
    assert (left.id, left.related_memory_ids) == (kept.id, ())
    assert len(await get_by_keys(conn, "bob", places)) == 2


async def test_what_got_another_key_meanwhile_is_not_deleted(db):
    first, second = [(await add_memory(db, 1, key, key=key)).id for key in ("a", "b")]
    async with db.transaction() as holding:
        await rename_key(holding, 1, "a", "c")
        await rename_key(holding, 1, "b", "a")
        deleting = asyncio.create_task(delete_by_keys(db, 1, [(None, "a"), (None, "b")]))
        while not await holding.fetchval(WAITING):
            pass
    assert await deleting == 0
    assert [m.key for m in await get_memories(db, 1, [first, second])] == ["c", "a"]


@pytest.mark.parametrize("function", [get_by_keys, delete_by_keys])
async def test_places_that_are_none_are_refused_by_their_number(conn, function):
    for places, field in [
        ("k", "places"),
        (None, "places"),
        ({"n": "k"}, "places"),
        (["k"], "places[0]"),
        ([("n", "k"), ("n",)], "places[1]"),
        ([("n", "k"), ("n", "")], "places[1].key"),
        ([("a..b", "k")], "places[0].namespace"),
        ([("n", "k")] * 10_001, "places"),
    ]:
        with pytest.raises(InvalidMemory) as caught:
            await function(conn, 1, places)
        assert caught.value.field == field


async def test_an_expiry_is_extended_exactly_and_by_no_access(conn):
    """Also by less than a tenth, which an access leaves; never back, and never to life again."""
    day = timedelta(days=1)
    slides = await add_memory(conn, 1, "slides", expires_after=day)
    later = await add_memory(
        conn, 1, "later", expires_after=day, expires_at=datetime.now(UTC) + 9 * day
    )
    fixed = await add_memory(conn, 1, "fixed", expires_at=datetime.now(UTC) + day)
    gone = await add_memory(conn, 1, "gone", expires_after=day, expires_at=PAST)
    others = await add_memory(conn, 2, "others", expires_after=day)
    ids = [memory.id for memory in (slides, later, fixed, gone, others)]
    before = {row["id"]: row for row in await rows(conn, "ltm_memories")}

    started = datetime.now(UTC)
    assert await extend_expiry(conn, 1, [*ids, slides.id, 10**9]) == 2
    assert await extend_expiry(conn, "nobody", ids) == 0

    after = {row["id"]: row for row in await rows(conn, "ltm_memories")}
    moved = after.pop(slides.id)
    assert started + day <= moved["expires_at"] <= datetime.now(UTC) + day
    assert {**moved, "expires_at": before[slides.id]["expires_at"]} == dict(before.pop(slides.id))
    assert after == before
    assert await rows(conn, "ltm_memory_access") == []
    refusals: list[Any] = [[2**63], ["1"], range(1, 10_002)]
    for refused in refusals:
        with pytest.raises(InvalidMemory, match="^memory_ids"):
            await extend_expiry(conn, 1, refused)


async def test_a_key_is_renamed(conn):
    memory = await add_memory(conn, 1, "x", key="a")
    await add_memory(conn, 1, "expired", key="b", expires_at=PAST)
    taken = await add_memory(conn, 1, "y", key="c")
    await add_memory(conn, 1, "z", key="a", namespace="n")
    assert await rename_key(conn, 1, "a", "b") == 1
    assert await rename_key(conn, 1, "a", "b") == 0
    assert await rename_key(conn, 1, "b", "b") == 1
    with pytest.raises(Conflict) as caught:
        await rename_key(conn, 1, "b", "c")
    assert caught.value.current.id == taken.id
    renamed = await get_by_key(conn, 1, "b")
    assert renamed is not None
    assert (renamed.id, renamed.version) == (memory.id, 2)
    assert await get_by_key(conn, 1, "a", namespace="n") is not None


async def test_keys_with_one_beginning_are_renamed_together(conn):
    for key in ("a", "a/", "a/b", "aa", "b", "A/", "a\U0010ffff\U0010ffff"):
        await add_memory(conn, 1, key, key=key)
    assert await rename_key(conn, 1, "a", "aa", prefix=True) == 5
    assert await keys(conn) == ["A/", "aa", "aa/", "aa/b", "aaa", "aa\U0010ffff\U0010ffff", "b"]
    with pytest.raises(InvalidArgument, match="^new: "):
        await rename_key(conn, 1, "aa", "", prefix=True)
    with pytest.raises(Conflict):
        await rename_key(conn, 1, "aaa", "b", prefix=True)
    assert await rename_key(conn, 1, "", "x/", prefix=True) == 7
    assert await rename_key(conn, 1, "x/", "", prefix=True) == 7


async def keys(conn: asyncpg.Connection) -> list[str]:
    return [row["key"] for row in await conn.fetch("SELECT key FROM ltm_memories ORDER BY key")]


@pytest.mark.parametrize(
    ("field", "value"),
    [("key", v) for v in ("", "x" * 256, "\0", None, 5)]
    + [("namespace", v) for v in ("a..b", ("a.b",), 5)],
)
async def test_what_cannot_be_a_place_is_refused(conn, field, value):
    place = {"key": "k", "namespace": "n", field: value}
    key = place.pop("key")
    for call in (
        get_by_key(conn, 1, key, **place),
        delete_by_key(conn, 1, key, **place),
        put_memory(conn, 1, key, "x", **place),
    ):
        with pytest.raises(InvalidMemory) as caught:
            await call
        assert caught.value.field == field
    assert await rows(conn, "ltm_memories") == []


async def names(conn: asyncpg.Connection, **options: Any) -> list[str]:
    """The names, which are those with counts too."""
    named = [n.namespace for n in await list_namespaces(conn, 1, **options)]
    counted = await list_namespaces(conn, 1, counts=True, **options)
    assert named == [n.namespace for n in counted]
    assert all(n.memories and n.last_modified for n in counted)
    return named


async def test_namespaces_of_memories_with_keys_are_listed_alone(conn):
    for namespace, key in ("a", None), ("a.b", "k"), ("b", None), ("b", "k"), ("c.d", None):
        await add_memory(conn, 1, "x", namespace=namespace, key=key)
    await add_memory(conn, 1, "x", namespace="c.gone", key="k", expires_at=PAST)
    await add_memory(conn, 1, "x")
    assert await names(conn, keyed=True) == ["a.b", "b"]
    assert await names(conn, keyed=True, max_depth=1) == ["a", "b"]
    assert await names(conn, keyed=True, prefix="a") == ["a.b"]
    assert await names(conn, keyed=True, prefix="c") == []
    (a, b) = await list_namespaces(conn, 1, keyed=True, max_depth=1, counts=True)
    assert (a.memories, b.memories) == (1, 1)


async def test_namespaces_are_listed(conn):
    for namespace in ("a", "a.b", "a.b.c", "a-b", "a-b.c", "ab", "a.b.d.e", "B.é", "a.b"):
        await add_memory(conn, 1, "x", namespace=namespace)
    await add_memory(conn, 1, "x", namespace="a.gone", expires_at=PAST)
    await add_memory(conn, 2, "x", namespace="others")
    archived = await add_memory(conn, 1, "x", namespace="z")
    await archive_memory(conn, 1, archived.id)
    everything = ["B.é", "a", "a-b", "a-b.c", "a.b", "a.b.c", "a.b.d.e", "ab", "z"]
    assert await names(conn) == everything
    assert await names(conn, max_depth=1) == ["B", "a", "a-b", "ab", "z"]
    assert await names(conn, max_depth=2) == [
        "B.é", "a", "a-b", "a-b.c", "a.b", "ab", "z",
    ]  # fmt: skip
    assert await names(conn, prefix="a") == ["a", "a.b", "a.b.c", "a.b.d.e"]
    assert await names(conn, prefix=("a", "b"), max_depth=3) == ["a.b", "a.b.c", "a.b.d"]
    assert await names(conn, prefix="a.b", max_depth=1) == ["a"]
    assert await names(conn, prefix="a.gone") == []
    await add_memory(conn, 1, "x")
    assert await names(conn) == ["", *everything]
    found = await list_namespaces(conn, 1, max_depth=2, counts=True)
    assert {n.namespace: n.memories for n in found} == {
        "": 1, "B.é": 1, "a": 1, "a-b": 1, "a-b.c": 1, "a.b": 4, "ab": 1, "z": 1,
    }  # fmt: skip
    assert await list_namespaces(conn, "nobody") == []
