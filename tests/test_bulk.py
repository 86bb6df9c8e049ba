"""Many memories at once: stored by COPY, and as each alone would be."""

import asyncio
import json
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import pytest

from ltm_store import (
    InvalidMemory,
    Unavailable,
    add_memories,
    add_memory,
    archive_memory,
    connect,
    export_user,
    forget_user,
    get_memory,
    import_user,
    record_access,
    relate,
    search_memories,
)
from tests.servers import local_alone
from tests.test_memories import FULL, rows, waiting
from tests.wire import DEADLINE

PAST, THEN = datetime(2020, 1, 1, tzinfo=UTC), datetime(2026, 3, 1, 12, tzinfo=UTC)
TABLES = (
    "ltm_memories",
    "ltm_memory_tags",
    "ltm_contexts",
    "ltm_memory_relationships",
    "ltm_memory_access",
)
OWN = {"id", "user_id", "memory_id", "source_memory_id", "last_modified", "expires_at"}
ODD: list[dict[str, Any]] = [
    {"content": text, "category": text, "tags": [text], "context": text, "metadata": {text: text}}
    for text in ("\\N", "\\.", "a\tb", "a\nb", "a\r\nb", "\\", "\\t", '"', "\x01\x7f\u2028", "🦜 é")
]
DRAWN: list[dict[str, Any]] = [
    {"content": "plain"},
    {
        "content": "everything",
        "tags": ["a", "B", "É"],
        "importance_score": 9,
        "confidence_score": 0.1,
        "context": "c",
        "enhanced_context": FULL,
        "memory_type": "fact",
        "category": "k",
        "source_type": "manual",
        "source_id": "s",
        "source_position": -2,
        "created_by": None,
        "metadata": {"a": None, "b": [1.5, {"c": {}}], "big": 10**30},
        "created_at": datetime(1, 1, 2),
        "expires_at": datetime(9999, 12, 31, 23, 59, 59),
        "idempotency_key": "key",
    },
    {"content": "", "namespace": ("a", "b"), "key": "k", "expires_after": timedelta(days=2.00001)},
    {"content": "accurate", "confidence_score": 1e-300, "created_at": THEN},
    *ODD,
]


@pytest.fixture(params=["copied", "alone"])
def way(request, monkeypatch):
    """Every batch is copied, or none is."""
    monkeypatch.setattr("ltm_store.bulk._FEW", 0 if request.param == "copied" else 10**6)
    return request.param


@pytest.fixture
def copied(monkeypatch):
    """Batches are copied, or the test fails."""
    monkeypatch.setattr("ltm_store.bulk._FEW", 0)
    monkeypatch.setattr("ltm_store.bulk.Draft.add", None)


async def stored(conn, user):
    """The rows of a user in their order, without what differs between two users or two moments."""
    (number,) = {m.user_id for m in await search_memories(conn, user, include_archived=True)}
    found = []
    for table in TABLES:
        for row in await rows(conn, table):
            if row["user_id"] == number:
                kept = {k: v for k, v in row.items() if k not in OWN}
                if table != "ltm_memories" and table != "ltm_memory_tags":
                    kept.pop("created_at", None)
                found.append((table, kept))
    return found


async def test_what_is_copied_is_what_an_add_stores(conn, copied):
    target = (await add_memory(conn, 7, "target", created_at=THEN)).id
    given = [{"created_at": THEN, "related_memory_ids": [target], **one} for one in DRAWN]
    given[3]["parent_memory_id"] = target
    await add_memories(conn, 7, given)
    whole = await stored(conn, 7)
    await forget_user(conn, 7)
    target = (await add_memory(conn, 7, "target", created_at=THEN)).id
    for one in given:
        new = {**one, "related_memory_ids": [target]}
        if "parent_memory_id" in one:
            new["parent_memory_id"] = target
        await add_memory(conn, 7, new.pop("content"), **new)
    links = ("related_memory_ids", "parent_memory_id", "target_memory_id")
    for one, other in zip(whole, await stored(conn, 7), strict=True):
        for name in links:
            assert (one[1].pop(name, None) is None) is (other[1].pop(name, None) is None)
        assert one == other


async def exported(conn, user):
    return [line async for line in export_user(conn, user)]


async def drawn_user(conn, user):
    """Ten memories of which each says something, some of others before and behind them."""
    ids = [(await add_memory(conn, user, f"{n}", tags=["a", f"t{n}"])).id for n in range(10)]
    for source, target, word in ((0, 9, "causes"), (9, 0, "follows"), (4, 5, "x"), (5, 4, "x")):
        await relate(conn, user, ids[source], ids[target], word, strength=0.3, description="so\t")
    await add_memory(conn, user, "child", parent_memory_id=ids[2], related_memory_ids=ids[:2])
    await conn.execute(
        "UPDATE ltm_memories SET parent_memory_id = $1 WHERE id = $2", ids[8], ids[1]
    )
    await archive_memory(conn, user, ids[3], reason="old\\")
    await record_access(conn, user, ids[2:5], access_context="why\n", user_query="what")
    await conn.execute("UPDATE ltm_memory_tags SET usage_count = 7, tag_category = 'mine'")
    await conn.execute("UPDATE ltm_memory_access SET was_relevant = true, relevance_score = 0.5")


@pytest.mark.parametrize("together", [500, 4])
async def test_an_import_says_what_the_export_said(conn, way, together, monkeypatch):
    monkeypatch.setattr("ltm_store.bulk._MOST_TOGETHER", together)
    await drawn_user(conn, 1)
    lines = await exported(conn, 1)
    report = await import_user(conn, 2, json.loads(json.dumps(lines)))
    assert (report.created, report.existing, report.relationships) == (11, 0, 6)
    assert await exported(conn, 2) == lines
    assert sorted(m.dynamic_importance for m in await search_memories(conn, 1)) == sorted(
        m.dynamic_importance for m in await search_memories(conn, 2)
    )
    kept = "SELECT user_id, content, dynamic_importance FROM ltm_memories ORDER BY 1, 2"
    values = [tuple(row)[1:] for row in await conn.fetch(kept)]
    assert values[:11] == values[11:]


async def test_what_speaks_of_lines_further_down_is_copied_too(conn, copied, monkeypatch):
    monkeypatch.setattr("ltm_store.bulk._MOST_TOGETHER", 2)
    lines = [
        {"content": f"{n}", "id": n, "parent_memory_id": n + 1, "related_memory_ids": [n + 3]}
        for n in range(6)
    ]
    lines += [{"content": f"{n}", "id": n} for n in range(6, 9)]
    assert (await import_user(conn, 1, lines)).relationships == 6
    whole = await exported(conn, 1)
    assert [line.get("parent_memory_id") for line in whole[:6]] == [2, 3, 4, 5, 6, 7]
    assert [line["relationships"][0]["target_memory_id"] for line in whole[:6]] == [*range(4, 10)]


@pytest.mark.parametrize(
    ("last", "field"),
    [
        ({"parent_memory_id": 99}, "line 9, parent_memory_id"),
        ({"id": 9, "related_memory_ids": [9]}, "line 9, related_memory_ids"),
        ({"id": 1}, "line 9, id"),
        ({"source_position": 2**31}, "line 9, source_position"),
        ({"adopted": True, "memory_type": "x" * 51}, "line 9, memory_type"),
        (
            {"relationships": [{"target_memory_id": 1, "relationship_type": "x" * 51}]},
            "line 9, relationships.0.relationship_type",
        ),
        ({"accesses": [{"access_method": "x" * 51}]}, "line 9, accesses.0.access_method"),
        ({"tag_details": [{"tag_name": "x" * 101}]}, "line 9, tag_details.0.tag_name"),
        (
            {"tag_details": [{"tag_name": "t", "tag_category": "x" * 51}]},
            "line 9, tag_details.0.tag_category",
        ),
        ({"version": 0}, "line 9, version"),
        (
            {"tags": ["t"], "tag_details": [{"tag_name": "t", "usage_count": -1}]},
            "line 9, usage_count",
        ),
    ],
)
async def test_a_refused_line_is_named_wherever_it_stands(conn, way, last, field, monkeypatch):
    monkeypatch.setattr("ltm_store.bulk._MOST_TOGETHER", 5)
    lines = [{"content": f"{n}", "id": n} for n in range(1, 9)]
    with pytest.raises(InvalidMemory) as refused:
        async with conn.transaction():
            await import_user(conn, 1, [*lines, {"content": "last", **last}])
    assert refused.value.field.startswith(field)
    assert await search_memories(conn, 1) == []


async def test_the_first_refused_memory_is_told_whoever_refuses_it(conn, way):
    given: list[dict[str, object]] = [{"content": f"{n}"} for n in range(8)]
    given[5] = {"content": "x", "related_memory_ids": [10**12]}  # which the server finds
    given[7] = {"content": ""}
    read = []

    def some():
        for one in [*given, *given]:
            read.append(one)
            yield one

    with pytest.raises(InvalidMemory) as refused:
        async with conn.transaction():
            await add_memories(conn, 1, some())
    assert refused.value.field == "memories[5].related_memory_ids"
    assert len(read) <= 8
    report = await add_memories(conn, 1, given, on_error="skip")
    assert [(one.index, one.field) for one in report.refused] == [
        (5, "related_memory_ids"),
        (7, "content"),
    ]
    assert [m.content for m in await search_memories(conn, 1)] == list("643210")


async def test_keys_are_honoured_before_and_within_a_batch(conn, way, caplog):
    old = await add_memory(conn, 1, "expired", idempotency_key="old", expires_at=PAST)
    kept = await add_memory(conn, 1, "archived", idempotency_key="archived")
    await archive_memory(conn, 1, kept.id)
    await add_memory(conn, 2, "another's", idempotency_key="new")
    report = await add_memories(
        conn,
        1,
        [
            {"content": "holds old", "idempotency_key": "old"},
            {"content": "other words", "idempotency_key": "archived"},
            {"content": "gone at once", "idempotency_key": "new", "expires_at": PAST},
            {"content": "holds new", "idempotency_key": "new"},
            {"content": "holds new", "idempotency_key": "new"},
            {"content": "says otherwise", "idempotency_key": "new"},
            {"content": "without"},
        ],
    )
    assert (report.created, report.existing) == (4, 3)
    holders = await conn.fetch(
        "SELECT content, idempotency_key FROM ltm_memories WHERE user_id = 1 ORDER BY id"
    )
    assert [tuple(row) for row in holders] == [
        ("expired", None),
        ("archived", "archived"),
        ("holds old", "old"),
        ("gone at once", None),
        ("holds new", "new"),
        ("without", None),
    ]
    assert await get_memory(conn, 1, old.id) is None
    told = [record.message for record in caplog.records]
    assert len(told) == 2
    assert (
        told[0] == f"memory {kept.id} has this idempotency_key and another content, and is archived"
    )
    assert "archived" not in told[1]


async def test_a_key_that_another_is_writing_is_waited_for(db, dsn):
    given = [{"content": f"{n}", "idempotency_key": f"k{n}"} for n in range(30)]
    async with db.transaction() as conn:
        other = await add_memory(conn, 1, "another's", idempotency_key="k17")
        task = await waiting(dsn, add_memories(db, 1, given))
    report = await asyncio.wait_for(task, 60)
    assert (report.created, report.existing) == (29, 1)
    found = {m.id: m.content for m in await search_memories(db, 1, limit=100)}
    assert found[other.id] == "another's"
    assert sorted(found.values()) == sorted([f"{n}" for n in range(30) if n != 17] + ["another's"])


async def test_ids_are_in_the_order_that_was_given(conn, copied):
    await add_memories(conn, 1, ({"content": f"{n}"} for n in range(700)))
    contents = [line["content"] for line in await exported(conn, 1)]
    assert contents == [f"{n}" for n in range(700)]


async def test_batches_end_where_contents_are_long(conn, copied, monkeypatch):
    monkeypatch.setattr("ltm_store.bulk._MOST_CHARS", 10_000)
    given = [{"content": "x" * 6_000 + f" {n}"} for n in range(5)]
    assert (await add_memories(conn, 1, given)).created == 5


async def test_a_user_who_is_forgotten_meanwhile_gets_nothing(db, dsn):
    await add_memory(db, "alice", "x")

    async def given():
        for n in range(30):
            yield {"content": f"{n}"}
        async with connect(dsn) as other:
            await forget_user(other, "alice")

    with pytest.raises(Unavailable, match="forgotten"):
        await add_memories(db, "alice", given())
    assert await search_memories(db, "alice") == []


@local_alone  # there drawing ids is every writer's right, and SET LOCAL ROLE stays on one node
@pytest.mark.parametrize(
    "change",
    [
        "GRANT SELECT, INSERT ON ALL TABLES IN SCHEMA public TO ltm_bulk",
        "GRANT USAGE ON ALL SEQUENCES IN SCHEMA public TO ltm_bulk; "
        "ALTER TABLE ltm_contexts ENABLE ROW LEVEL SECURITY; "
        "CREATE POLICY own ON ltm_contexts USING (user_id = 1) WITH CHECK (user_id = 1)",
    ],
    ids=["no right to draw ids", "policies on rows"],
)
async def test_who_may_not_copy_adds_all_the_same(conn, change):
    await conn.execute("CREATE ROLE ltm_bulk")
    await conn.execute("GRANT SELECT, INSERT, UPDATE ON ALL TABLES IN SCHEMA public TO ltm_bulk")
    await conn.execute(change)
    await conn.execute("SET LOCAL ROLE ltm_bulk")
    report = await add_memories(conn, 1, [{"content": f"{n}"} for n in range(10)])
    assert report.created == 10


async def test_a_batch_is_copied_on_a_connection_that_prepares_nothing(dsn, copied):
    async with connect(dsn, pgbouncer=True, access_tracking="off") as db:
        assert (await add_memories(db, "alice", DRAWN)).created == len(DRAWN)


@local_alone  # Citus itself passes moments on as DateStyle writes them
async def test_codecs_of_the_callers_connection_change_nothing(dsn, copied):
    conn = await asyncpg.connect(dsn, server_settings={"timezone": "Asia/Kolkata"})
    for kind in ("json", "jsonb"):
        await conn.set_type_codec(kind, encoder=json.dumps, decoder=json.loads, schema="pg_catalog")
    await conn.execute("SET DateStyle = 'SQL, DMY'")
    await add_memories(conn, 1, [{"created_at": THEN, **one} for one in DRAWN])
    await conn.close()
    async with connect(dsn, access_tracking="off") as db:
        found = {m.content: m for m in await search_memories(db, 1, limit=100)}
    whole = found["everything"]
    assert (whole.created_at, whole.metadata) == (
        datetime(1, 1, 2, tzinfo=UTC),
        {"a": None, "b": [1.5, {"c": {}}], "big": 10**30},
    )
    assert found["plain"].created_at == THEN
    assert found["a\tb"].category == "a\tb"


async def test_the_bound_of_a_connection_holds_for_a_copy(db, dsn, copied):
    async def add_late():
        async with db.transaction() as conn:
            conn.bound = DEADLINE
            await add_memories(conn, 1, [{"content": "y", "idempotency_key": "k"}])

    async with connect(dsn) as other, other.transaction() as blocking:
        await add_memory(blocking, 1, "x", idempotency_key="k")
        started = time.monotonic()
        with pytest.raises(Unavailable, match="timeout"):
            await add_late()
        assert time.monotonic() - started < 10 * DEADLINE
