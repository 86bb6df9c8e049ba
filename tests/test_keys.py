"""Namespaces and keys: memories under names of the caller's own."""

import asyncio
from datetime import UTC, datetime

import pytest

from ltm_store import Conflict, InvalidMemory, add_memories, add_memory
from tests.test_memories import rows

PAST = datetime(2020, 1, 1, tzinfo=UTC)


async def test_a_key_is_unique_in_its_namespace_of_a_user(conn):
    first = await add_memory(conn, 1, "x", namespace=("a", "b"), key="K")
    assert (first.namespace, first.key, first.outcome) == ("a.b", "K", "created")
    for elsewhere in ({"namespace": "a"}, {}, {"namespace": "a.b", "user": 2}):
        await add_memory(conn, elsewhere.pop("user", 1), "y", key="K", **elsewhere)
    await add_memory(conn, 1, "z", namespace="a.b", key="k")
    with pytest.raises(Conflict) as caught:
        await add_memory(conn, 1, "secret", namespace="a.b", key="K", tags=["t"])
    assert caught.value.current.id == first.id
    assert caught.value.current.version == 1
    assert "secret" not in str(caught.value)
    assert len(await rows(conn, "ltm_memories")) == 5
    assert await rows(conn, "ltm_memory_tags") == []


async def test_of_adds_with_one_key_at_the_same_instant_one_is_stored(db):
    async def add(n: int) -> object:
        try:
            return (await add_memory(db, 1, f"{n}", key="k")).id
        except Conflict as error:
            return error.current

    made = await asyncio.gather(*(add(n) for n in range(32)))
    (stored,) = [one for one in made if isinstance(one, int)]
    assert {one.id for one in made if not isinstance(one, int)} == {stored}


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
    assert sorted({memory.outcome for memory in made}) == ["created", "existing"]


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
