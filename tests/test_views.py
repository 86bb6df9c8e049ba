"""The views that people look at: what they show is what the functions say, at a user's own cost."""

import csv
import io
import json
import re
import subprocess
from collections import Counter
from datetime import UTC, datetime, timedelta

import asyncpg
import pytest

from ltm_store import (
    HealthProblem,
    SchemaOutdated,
    access_history,
    add_memory,
    add_tags,
    archive_memory,
    archive_stale,
    check_health,
    connect,
    embedded,
    get_analytics,
    get_memory,
    get_relationships,
    import_user,
    list_tags,
    maintenance,
    migrate,
    record_access,
    record_feedback,
    relate,
)
from ltm_store.db.resources import demo_lines, migration_ids
from tests.attacks import ATTACKS
from tests.conftest import connected, created
from tests.old_program import NULLS
from tests.populate import populate
from tests.servers import local_alone

PAST = datetime(2020, 1, 1, tzinfo=UTC)
FUTURE = datetime.now(UTC) + timedelta(days=400)
JSON = ("tags", "context_data", "related_memory_ids", "memory_metadata")
VIEWS = (
    "ltm_memory_overview",
    "ltm_importance_breakdown",
    "ltm_memory_graph",
    "ltm_context_overview",
    "ltm_tag_usage",
    "ltm_access_daily",
    "ltm_user_analytics",
    "ltm_stale_memories",
    "ltm_never_recalled",
    "ltm_suspected_duplicates",
    "ltm_health",
)


@pytest.fixture(scope="module")
async def session_conn(admin, server, template):
    """To a database of this module's own: what tests roll back in the shared one are dead rows."""
    async for dsn in created(admin, server, template):
        async for connection in connected(dsn):
            yield connection


async def show(conn: asyncpg.Connection, view: str, user: int = 1) -> list[asyncpg.Record]:
    """The rows of a user in a view, by their first columns."""
    return await conn.fetch(f"SELECT * FROM {view} WHERE user_id = $1 ORDER BY 1, 2, 3", user)


async def expire(conn: asyncpg.Connection, memory_id: int) -> None:
    await conn.execute("UPDATE ltm_memories SET expires_at = $1 WHERE id = $2", PAST, memory_id)


async def old_row(conn: asyncpg.Connection, content: str = "old", **columns: object) -> int:
    """A memory as an older program leaves it: NULL in every column that it knows, but for these."""
    columns = {"user_id": 1, "content": content, "tags": None, **NULLS, **columns}
    casts = {name: "::text::jsonb" for name in JSON}
    values = ", ".join(f"${n}{casts.get(name, '')}" for n, name in enumerate(columns, 1))
    statement = f"INSERT INTO ltm_memories ({', '.join(columns)}) VALUES ({values}) RETURNING id"
    id_: int = await conn.fetchval(statement, *columns.values())
    return id_


async def test_the_overview_says_what_the_functions_say(conn):
    await conn.execute("SET LOCAL timezone = 'Asia/Kolkata'")
    now = await conn.fetchval("SELECT now()")
    a = await add_memory(
        conn,
        1,
        "Prefers\n morning work" + " sessions" * 50,
        tags=["work", "Early"],
        importance_score=8,
        confidence_score=0.5,
        memory_type="preference",
        category="work",
        source_id="s",
        enhanced_context={"spatial": {"city": "Graz", "is_home": True}},
        created_at=now - timedelta(days=400),
    )
    b, c, d = [(await add_memory(conn, 1, name, parent_memory_id=a.id)).id for name in "bcd"]
    for target, kind in ((b, "causes"), (b, "follows"), (d, "causes")):
        await relate(conn, 1, a.id, target, kind)
    await relate(conn, 1, c, a.id)
    await record_access(conn, 1, [a.id, b])
    await record_access(conn, 1, [a.id])
    await archive_memory(conn, 1, b)
    await expire(conn, d)
    rows = await show(conn, "ltm_memory_overview")
    assert [row["id"] for row in rows] == [a.id, b, c]
    for row in rows:
        memory = await get_memory(conn, 1, row["id"], as_of=now)
        assert memory is not None
        told = {name: row[name] for name in type(memory).model_fields if name in row}
        assert told == {name: getattr(memory, name) for name in told} | {"tags": list(memory.tags)}
        links = Counter(link.direction for link in await get_relationships(conn, 1, memory.id))
        assert (row["outgoing"], row["incoming"]) == (links["outgoing"], links["incoming"])
        assert row["logged_accesses"] == len(await access_history(conn, 1, memory.id))
    first = rows[0]
    assert first["summary"] == "Prefers morning work" + (" sessions" * 50)[:59]
    assert (first["contexts"], first["age"]) == (2, timedelta(days=400))
    assert (first["outgoing"], first["incoming"], first["logged_accesses"]) == (2, 1, 2)
    assert (rows[1]["is_archived"], rows[2]["is_archived"]) == (True, False)
    assert first["created_at"] == a.created_at


async def test_the_terms_of_importance_add_up_to_it(conn):
    now = await conn.fetchval("SELECT now()")
    today = now.replace(tzinfo=None)
    for score in (None, 1, 7, 10):
        for confidence in (None, 0.0, 0.33, 1.0):
            for count, days in ((None, None), (0, 10), (3, 500), (99, 4000)):
                await old_row(
                    conn,
                    importance_score=score,
                    confidence_score=confidence,
                    access_count=count,
                    created_at=days and today - timedelta(days=days),
                    last_accessed=today - timedelta(days=(days or 0) // 2) if count else None,
                )
    await old_row(conn, created_at=datetime(1, 1, 2), last_accessed=datetime(9999, 1, 1))
    for row in await show(conn, "ltm_importance_breakdown"):
        memory = await get_memory(conn, 1, row["id"], as_of=now)
        assert memory is not None
        terms = [row[f"{term}_points"] for term in ("importance", "confidence", "access", "time")]
        days = (now.date() - PAST.replace(year=2000).date()).days
        assert row["points"] == pytest.approx((memory.importance_rank - 8 * days) / 1440)
        assert sum(terms) == pytest.approx(row["points"])
        assert row["dynamic_importance"] == memory.dynamic_importance
        assert memory.dynamic_importance == pytest.approx(min(max(row["points"], 0), 10))


async def test_each_term_is_what_its_input_brings(conn):
    now = await conn.fetchval("SELECT now()")
    memory = await add_memory(
        conn,
        1,
        "x",
        importance_score=7,
        confidence_score=0.75,
        created_at=now - timedelta(days=900),
    )
    await record_access(conn, 1, [memory.id])
    ago = now.replace(tzinfo=None) - timedelta(days=360)
    await conn.execute("UPDATE ltm_memories SET last_accessed = $1", ago)
    (row,) = await show(conn, "ltm_importance_breakdown")
    assert tuple(row)[3:] == (7, -0.5, 0.5, -2, 5, 5)


async def test_the_graph_holds_every_link_that_the_functions_tell(conn):
    await conn.execute("SET LOCAL timezone = 'Asia/Kolkata'")
    a, b, c, d = [(await add_memory(conn, 1, name)).id for name in "abcd"]
    await relate(conn, 1, a, b, "causes", strength=0.4, description="why")
    await relate(conn, 1, b, a, "follows")
    await relate(conn, 1, c, a)
    await relate(conn, 1, a, d)
    await conn.execute("UPDATE ltm_memory_relationships SET strength = NULL WHERE strength = 1")
    await expire(conn, d)
    shown = {row["relationship_id"]: row for row in await show(conn, "ltm_memory_graph")}
    told = {
        link.id: link
        for memory in (a, b, c)
        for link in await get_relationships(conn, 1, memory)
        if link.direction == "outgoing"
    }
    assert shown.keys() == told.keys()
    assert len(told) == 3
    for number, link in told.items():
        for name in ("source_memory_id", "target_memory_id", "relationship_type", "strength"):
            assert shown[number][name] == getattr(link, name)
        assert shown[number]["description"] == link.description
        assert shown[number]["target"] == link.related_memory.content
        assert shown[number]["created_at"] == link.created_at
    assert {row["source"] for row in shown.values()} == {"a", "b", "c"}


async def test_the_contexts_are_summed_up_by_field(conn):
    for city in ("Graz", "Linz", "Graz"):
        context = {"spatial": {"city": city, "confidence": 0.5}, "temporal": {"month": 3}}
        memory = await add_memory(conn, 1, "x", enhanced_context=context)
    expired = await add_memory(conn, 1, "y", enhanced_context={"spatial": {"city": "Wien"}})
    await expire(conn, expired.id)
    await conn.execute(
        "INSERT INTO ltm_contexts (user_id, memory_id, context_type, context_key, context_value, "
        "confidence, created_at) VALUES (1, $1, 'social', 'mood', NULL, NULL, NULL)",
        memory.id,
    )
    assert [tuple(row)[1:-1] for row in await show(conn, "ltm_context_overview")] == [
        ("social", "mood", 1, 0, None, 1),
        ("spatial", "city", 3, 2, "Graz", 0.5),
        ("temporal", "month", 3, 1, "3", 1),
    ]
    (_, written, _) = [row["last_written"] for row in await show(conn, "ltm_context_overview")]
    assert written == memory.last_modified


async def test_the_tags_are_those_of_list_tags(conn):
    await conn.execute("SET LOCAL timezone = 'Asia/Kolkata'")
    memory = await add_memory(conn, 1, "x", tags=["Tea", "work"])
    await add_memory(conn, 1, "y", tags=["tea"], created_at=PAST)
    await add_memory(conn, 1, "z", tags=["tea"])
    await add_tags(conn, 1, memory.id, ["work"], tag_category="topic", tag_importance=3.5)
    await expire(conn, (await add_memory(conn, 1, "gone", tags=["tea", "gone"])).id)
    await archive_memory(conn, 1, memory.id)
    await old_row(conn, tags='["tea"]')
    await old_row(conn, tags='"scalar"')
    shown = {row["tag_name"]: tuple(row)[1:] for row in await show(conn, "ltm_tag_usage")}
    assert shown == {
        tag.tag_name: tuple(tag.model_dump().values()) for tag in await list_tags(conn, 1)
    }
    assert shown["tea"][1] == 3  # an old row without details is in none; ltm_health tells of it


async def test_the_days_count_every_recorded_access(conn):
    await conn.execute("SET LOCAL timezone = 'Asia/Kolkata'")
    a, b, gone = [(await add_memory(conn, 1, name)).id for name in ("a", "b", "gone")]
    await record_access(conn, 1, [a, b, gone])
    await record_access(conn, 1, [a], access_method="search")
    await record_access(conn, 1, [a], access_method="related")
    await record_feedback(conn, 1, a, was_relevant=True)
    await record_feedback(conn, 1, b, was_relevant=False)
    today = (await access_history(conn, 1, b))[0].access_timestamp
    await record_access(conn, 1, [b])
    await conn.execute(
        "UPDATE ltm_memory_access SET access_timestamp = NULL "
        "WHERE id = (SELECT max(id) FROM ltm_memory_access)"
    )
    await expire(conn, gone)
    assert today is not None
    assert [tuple(row)[1:] for row in await show(conn, "ltm_access_daily")] == [
        (today.date(), 4, 2, 2, 1, 1, 1, 1),
        (None, 1, 1, 1, 0, 0, 0, 0),
    ]


async def test_a_day_is_one_in_utc(conn):
    await conn.execute("SET LOCAL timezone = 'Asia/Kolkata'")
    memory = await add_memory(conn, 1, "x")
    await record_access(conn, 1, [memory.id])
    await conn.execute("UPDATE ltm_memory_access SET access_timestamp = '2026-03-01 23:30'")
    (row,) = await show(conn, "ltm_access_daily")
    assert row["day"].isoformat() == "2026-03-01"


async def test_the_figures_of_a_user_are_those_of_get_analytics(conn):
    now = await conn.fetchval("SELECT now()")
    ids = []
    for n in range(1, 5):
        memory = await add_memory(
            conn, "alice", f"{n}", importance_score=n, created_at=PAST, namespace="a.b"
        )
        ids.append(memory.id)
    ids.append((await add_memory(conn, "alice", "5", created_at=PAST, namespace="gone")).id)
    await relate(conn, "alice", ids[0], ids[1])
    await record_access(conn, "alice", ids[:2])
    await record_access(conn, "alice", ids[:1])
    await archive_memory(conn, "alice", ids[0])
    await expire(conn, ids[4])
    user = await conn.fetchval("SELECT user_id FROM ltm_external_users")
    last = await old_row(conn, user_id=user)
    told = await get_analytics(conn, "alice", as_of=now)
    (row,) = await show(conn, "ltm_user_analytics", user)
    shared = {name: row[name] for name in type(told).model_fields if name in row}
    assert shared == pytest.approx({name: getattr(told, name) for name in shared})
    assert len(shared) == 4
    assert (row["external_id"], row["total_memories"], row["archived_memories"]) == ("alice", 5, 1)
    assert (row["accessed_memories"], row["accesses"], row["relationships"]) == (2, 3, 1)
    assert (row["first_created_at"], row["last_created_at"]) == (PAST, PAST)
    assert row["namespaces"] == 1
    assert told.namespace_distribution == {"a.b": 4, "": 1}
    assert row["last_accessed"] == (await access_history(conn, "alice", ids[0]))[0].access_timestamp
    assert last > 0


async def test_stale_is_what_archive_stale_archives(conn):
    now = await conn.fetchval("SELECT now()")
    for days in (0, 175, 179, 180, 181, 1000):
        for score in (1, 2, 3):
            created = now - timedelta(days=days)
            await add_memory(conn, 1, "x", importance_score=score, created_at=created)
    gone, away, _ = [(await add_memory(conn, 1, "x", importance_score=1)).id for _ in range(3)]
    await expire(conn, gone)
    await archive_memory(conn, 1, away)
    await old_row(conn)
    shown = {row["id"]: row["dynamic_importance"] for row in await show(conn, "ltm_stale_memories")}
    archived = await archive_stale(conn, 1, 2, as_of=now)
    assert shown == {memory.id: memory.dynamic_importance for memory in archived}
    assert 5 < len(shown) < 20


async def test_never_recalled_is_what_nobody_asked_for(conn):
    a, b, c, d = [(await add_memory(conn, 1, name)).id for name in "abcd"]
    await record_access(conn, 1, [b])
    await archive_memory(conn, 1, c)
    await expire(conn, d)
    old = await old_row(conn)
    assert [row["id"] for row in await show(conn, "ltm_never_recalled")] == [a, old]


async def test_duplicates_are_told_as_an_add_tells_them(conn):
    await add_memory(conn, 2, "Likes green tea")
    gone = await add_memory(conn, 1, "Likes green tea")
    await expire(conn, gone.id)
    away = await add_memory(conn, 1, "Likes green tea")
    await archive_memory(conn, 1, away.id)
    same = [
        await add_memory(conn, 1, text)
        for text in ("Likes green tea", "likes GREEN\n tea ", "Likes greentea", "LIKES green tea")
    ]
    told = {memory.id: memory.duplicate_of for memory in same if memory.duplicate_of}
    shown = await show(conn, "ltm_suspected_duplicates")
    assert {row["id"]: row["duplicate_of"] for row in shown} == told
    assert list(told.values()) == [same[0].id] * 2
    assert shown[0]["created_at"] == same[1].created_at
    assert shown[0]["first_created_at"] == same[0].created_at


async def test_equal_hashes_alone_make_no_duplicates(conn):
    await conn.execute(
        "CREATE OR REPLACE FUNCTION ltm_normalized_content(content text) RETURNS text LANGUAGE sql "
        "IMMUTABLE RETURN 'the same'"
    )
    await add_memory(conn, 1, "one")
    await add_memory(conn, 1, "other")
    assert len(await show(conn, "ltm_suspected_duplicates")) == 1
    await conn.execute(
        "CREATE OR REPLACE FUNCTION ltm_normalized_content(content text) RETURNS text LANGUAGE sql "
        "IMMUTABLE RETURN content"
    )
    assert await show(conn, "ltm_suspected_duplicates") == []


@pytest.mark.parametrize("json_value", [None, "null", "5", '"word"', '{"a": 1}', "[]"])
async def test_what_an_older_program_leaves_is_shown(json_value, conn):
    held = json_value if json_value in (None, "null", "[]") else None
    contexts = json_value if json_value in (None, "null", '{"a": 1}') else None
    number = await old_row(
        conn,
        tags=json_value,
        context_data=contexts,
        related_memory_ids=held,
        memory_metadata=json_value,
    )
    await conn.execute(
        "INSERT INTO ltm_memory_access (user_id, memory_id, access_timestamp) VALUES (1, $1, NULL)",
        number,
    )
    memory = await get_memory(conn, 1, number)
    assert memory is not None
    (row,) = await show(conn, "ltm_memory_overview")
    assert (row["importance_score"], row["access_count"], row["age"]) == (1, 0, None)
    assert row["is_archived"] is False
    if json_value != '{"a": 1}':  # an object as a tag is shown in one form or the other
        assert row["tags"] == list(memory.tags)
    for view in VIEWS:
        await show(conn, view)


@pytest.mark.parametrize("view", VIEWS)
async def test_a_view_gives_no_more_than_its_reader_may_read(view, conn):
    await conn.execute("CREATE ROLE ltm_test_reader")
    await conn.execute(f"GRANT SELECT ON {view} TO ltm_test_reader")
    await conn.execute("SET LOCAL ROLE ltm_test_reader")
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await show(conn, view)


# -- what they cost ------------------------------------------------------------------------------

BY_NAME = "(SELECT user_id FROM ltm_external_users WHERE external_id = 'user 5')"
READS = {view: f"{view} WHERE user_id = " for view in VIEWS}


def scans(plan: object) -> list[tuple[str, str | None, str]]:
    """The scans of a plan: kind, index, table."""
    if isinstance(plan, list):
        return [found for part in plan for found in scans(part)]
    if not isinstance(plan, dict):
        return []
    own = [
        (plan["Node Type"], plan.get("Index Name"), plan.get("Relation Name", ""))
        for _ in ("once",)
        if "Scan" in plan.get("Node Type", "")
    ]
    return own + [found for part in plan.values() for found in scans(part)]


@local_alone
@pytest.mark.slow
@pytest.mark.parametrize("user", ["5", BY_NAME], ids=["number", "name"])
@pytest.mark.parametrize("view", VIEWS)
async def test_a_view_of_one_user_scans_no_table(view, user, filled):
    plan = json.loads(
        await filled.fetchval(f"EXPLAIN (FORMAT JSON) SELECT * FROM {view} WHERE user_id = {user}")
    )
    found = scans(plan)
    tables = {table for _, _, table in found if table.startswith("ltm_mem")}
    whole = {table for kind, _, table in found if kind == "Seq Scan" and table.startswith("ltm_")}
    assert tables
    assert whole <= {"ltm_migrations"}


@local_alone
@pytest.mark.parametrize(
    ("read", "index"),
    [
        (
            "ltm_memory_overview WHERE user_id = 5 AND NOT is_archived "
            "ORDER BY importance_rank DESC LIMIT 10",
            "ltm_memory_ranks_importance_rank_idx",
        ),
        (
            "ltm_never_recalled WHERE user_id = 5 ORDER BY importance_rank DESC LIMIT 10",
            "ltm_memory_ranks_importance_rank_idx",
        ),
        ("ltm_suspected_duplicates WHERE user_id = 5", "ltm_memories_content_hash_idx"),
        (
            "ltm_memory_graph WHERE user_id = 5 AND (source_memory_id = 5 OR target_memory_id = 5)",
            "ltm_memory_relationships_target_memory_id_idx",
        ),
        ("ltm_memory_overview WHERE user_id = 5 AND id = 5", "ltm_memory_access_memory_id_idx"),
    ],
)
async def test_a_view_uses_the_index_made_for_it(read, index, filled):
    plan = await filled.fetchval(f"EXPLAIN (FORMAT JSON) SELECT * FROM {read}")
    assert index in {name for _, name, _ in scans(json.loads(plan))}
    assert '"Sort"' not in plan


@local_alone
async def test_one_field_of_contexts_is_found_by_its_name(filled):
    plan = await filled.fetchval(
        "EXPLAIN (FORMAT JSON) SELECT * FROM ltm_context_overview "
        "WHERE user_id = 5 AND context_type = 'social' AND context_key = 'mood'"
    )
    assert "ltm_contexts_context_type_idx" in {name for _, name, _ in scans(json.loads(plan))}


async def test_what_is_stale_is_found_by_its_rank(filled):
    plan = await filled.fetchval(
        "EXPLAIN (FORMAT JSON) SELECT * FROM ltm_stale_memories WHERE user_id = 5 "
        "ORDER BY importance_rank LIMIT 10"
    )
    assert '"Index Cond": "((user_id = 5) AND (importance_rank <= ' in plan
    assert '"Sort"' not in plan


async def touched(conn: asyncpg.Connection, view: str) -> int:
    """How many buffers a view of user 1 touches."""
    explain = f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) SELECT * FROM {view} WHERE user_id = 1"
    plan = json.loads(await conn.fetchval(explain))[0]["Plan"]
    found: int = plan["Shared Hit Blocks"] + plan["Shared Read Blocks"]
    return found


@pytest.mark.slow
@local_alone
async def test_ten_times_as_much_of_others_costs_a_user_nothing(own_dsn):
    conn = await asyncpg.connect(own_dsn)
    await populate(conn, users=3, memories=200)
    before = {view: await touched(conn, view) for view in VIEWS}
    await populate(conn, users=27, memories=200, first_user=100)
    after = {view: await touched(conn, view) for view in VIEWS}
    await conn.close()
    for view in VIEWS:
        assert after[view] <= 1.3 * before[view] + 12, (view, before[view], after[view])


# -- health --------------------------------------------------------------------------------------


async def problems(conn: asyncpg.Connection) -> list[tuple[str, int | None, str]]:
    return [(p.check_name, p.user_id, p.subject) for p in await check_health(conn)]


async def test_a_database_in_use_is_healthy(db):
    await import_user(db, "demo-livia", map(json.loads, demo_lines()))
    assert await check_health(db) == []


async def two(conn: asyncpg.Connection) -> tuple[int, int]:
    """Two memories with all that a memory can have, the second one under the first one."""
    context = {"spatial": {"city": "Graz"}, "social": {"participants": ["John"]}}
    a = await add_memory(conn, 1, "a", tags=["Tea"], enhanced_context=context)
    b = await add_memory(
        conn,
        1,
        "b",
        tags=["tea", "work"],
        related_memory_ids=[a.id],
        parent_memory_id=a.id,
        enhanced_context={"custom_contexts": [{"context_type": "game", "context_data": {"l": 3}}]},
    )
    await record_access(conn, 1, [a.id])
    return a.id, b.id


async def test_rows_whose_memory_is_gone_are_found(conn):
    a, b = await two(conn)
    keys = await conn.fetch(
        "SELECT conrelid::regclass::text AS owner, conname FROM pg_constraint "
        "WHERE contype = 'f' AND confrelid = 'ltm_memories'::regclass"
    )
    for key in keys:
        await conn.execute(f"ALTER TABLE {key['owner']} DROP CONSTRAINT {key['conname']}")
    assert await problems(conn) == [
        ("foreign_key_missing", None, name) for name in sorted(key["conname"] for key in keys)
    ]
    await conn.execute("DELETE FROM ltm_memories WHERE id = $1", a)
    found = [problem for problem in await check_health(conn) if problem.user_id]
    assert {p.check_name for p in found} == {"orphan", "rank_out_of_step"}
    assert Counter(p.subject.split()[0] for p in found if p.check_name == "orphan") == {
        "ltm_contexts": 2,
        "ltm_memories": 1,
        "ltm_memory_access": 1,
        "ltm_memory_relationships": 1,
        "ltm_memory_tags": 1,
    }
    assert (
        HealthProblem(
            check_name="orphan",
            user_id=1,
            subject=f"ltm_memories {b}",
            detail=f"its parent_memory_id {a} is no memory of this user",
        )
        in found
    )
    await conn.execute("DELETE FROM ltm_memories")
    found = [p for p in await check_health(conn) if "relationships" in p.subject and p.user_id]
    assert len(found) == 2  # either end


@local_alone
async def test_a_memory_of_another_user_is_none_of_this_user(conn):
    a, _ = await two(conn)
    await conn.execute("ALTER TABLE ltm_contexts DROP CONSTRAINT ltm_contexts_memory_id_fkey")
    await conn.execute("UPDATE ltm_contexts SET user_id = 2 WHERE memory_id = $1", a)
    assert ("orphan", 2) in {p[:2] for p in await problems(conn)}


@pytest.mark.parametrize(
    ("fault", "check", "detail"),
    [
        (
            "DELETE FROM ltm_memory_tags WHERE tag_name = 'work'",
            "tags_out_of_step",
            "1 only in tags, 0 only in ltm_memory_tags",
        ),
        (
            "UPDATE ltm_memories SET tags = '[\"TEA\"]' WHERE content = 'b'",
            "tags_out_of_step",
            "0 only in tags, 1 only in ltm_memory_tags",
        ),
        (
            "UPDATE ltm_memory_tags SET tag_name = 'play' WHERE tag_name = 'work'",
            "tags_out_of_step",
            "1 only in tags, 1 only in ltm_memory_tags",
        ),
        (
            "DELETE FROM ltm_memory_relationships",
            "related_memory_ids_out_of_step",
            "1 only in related_memory_ids, 0 only in ltm_memory_relationships",
        ),
        (
            "UPDATE ltm_memories SET related_memory_ids = 'null' WHERE content = 'b'",
            "related_memory_ids_out_of_step",
            "0 only in related_memory_ids, 1 only in ltm_memory_relationships",
        ),
        (
            "UPDATE ltm_memories SET context_data = NULL WHERE content = 'b'",
            "context_data_out_of_step",
            "0 only in context_data, 1 only in ltm_contexts",
        ),
        (
            "UPDATE ltm_contexts SET context_key = 'venue' WHERE context_type = 'custom'",
            "context_data_out_of_step",
            "1 only in context_data, 1 only in ltm_contexts",
        ),
        (
            "DELETE FROM ltm_memory_ranks WHERE memory_id = (SELECT max(id) FROM ltm_memories)",
            "rank_out_of_step",
            "it has no row in ltm_memory_ranks: no list shows it",
        ),
        (
            "UPDATE ltm_memory_ranks SET is_archived = NULL "
            "WHERE memory_id = (SELECT max(id) FROM ltm_memories)",
            "rank_out_of_step",
            "its row in ltm_memory_ranks differs: lists show it in the wrong place",
        ),
    ],
)
async def test_what_is_out_of_step_with_its_details_is_found(fault, check, detail, conn):
    _, b = await two(conn)
    assert await check_health(conn) == []
    await conn.execute(fault)
    assert await check_health(conn) == [
        HealthProblem(check_name=check, user_id=1, subject=f"ltm_memories {b}", detail=detail)
    ]


async def test_fields_of_every_kind_are_in_step(conn):
    """As old programs write them too: nulls, sections that are no objects, unknown names."""
    a, _ = await two(conn)
    await conn.execute(
        "UPDATE ltm_memories SET context_data = $1::text::jsonb WHERE id = $2",
        '{"spatial": {"city": "Graz", "venue": null, "confidence": 0.5}, "social": "John", '
        '"weather": {"sky": "blue"}, "extra": {"confidence": 1}, "custom_contexts": [5, {}], '
        '"temporal": null}',
        a,
    )
    await conn.execute("DELETE FROM ltm_contexts WHERE memory_id = $1", a)
    await conn.executemany(
        "INSERT INTO ltm_contexts (user_id, memory_id, context_type, context_key, context_value) "
        "VALUES (1, $1, $2, $3, $4)",
        [
            (a, "spatial", "city", "Graz"),
            (a, "spatial", "country", None),
            (a, "extra", "social", "John"),
            (a, "weather", "sky", "blue"),
            (a, "extra", "confidence", "1"),
            (a, "custom", "custom", "{}"),
        ],
    )
    assert await check_health(conn) == []


async def test_an_invalid_index_is_found(conn):
    await conn.execute(
        "UPDATE pg_index SET indisvalid = FALSE "
        "WHERE indexrelid = 'ltm_memories_tags_gin'::regclass"
    )
    assert await problems(conn) == [("index_invalid", None, "ltm_memories_tags_gin")]


@local_alone
async def test_every_index_that_is_missing_is_found(conn):
    names = await conn.fetch(
        "SELECT indexrelid::regclass::text AS name FROM pg_index "
        "WHERE indrelid::regclass::text ~ '^ltm_' "
        "AND indrelid::regclass::text !~ '^ltm_migration' ORDER BY 1"
    )
    for number, row in enumerate(names):
        await conn.execute(f"ALTER INDEX {row['name']} RENAME TO other_{number}")
    found = await problems(conn)
    assert {p[2] for p in found if p[0] == "index_missing"} == {row["name"] for row in names}


@pytest.mark.parametrize(
    ("table", "constraint"),
    [
        (
            "ltm_contexts",
            "FOREIGN KEY (user_id, memory_id) REFERENCES ltm_memories (user_id, id)",
        ),
        ("ltm_memories", "CHECK (importance_score BETWEEN 1 AND 10)"),
    ],
)
async def test_a_constraint_that_was_never_validated_is_found(table, constraint, conn):
    await conn.execute(f"ALTER TABLE {table} ADD CONSTRAINT ltm_new {constraint} NOT VALID")
    assert await problems(conn) == [("constraint_not_validated", None, "ltm_new")]


@local_alone
async def test_a_foreign_key_to_a_table_of_the_application_is_its_own_affair(conn):
    await conn.execute("CREATE TABLE users (id bigint PRIMARY KEY)")
    await conn.execute(
        "ALTER TABLE ltm_memories ADD CONSTRAINT ltm_memories_user_id_fkey "
        "FOREIGN KEY (user_id) REFERENCES users (id) NOT VALID"
    )
    assert await check_health(conn) == []


async def test_pending_migrations_are_found_once_and_newer_ones_too(conn, monkeypatch):
    ids = migration_ids()
    await conn.execute("DELETE FROM ltm_migrations WHERE migration_id <> '0002_search'")
    pending = [("migration_pending", None, name) for name in ids if name != "0002_search"]
    assert await problems(conn) == pending
    shown = await conn.fetch("SELECT check_name, user_id, subject FROM ltm_health ORDER BY 3")
    assert list(map(tuple, shown)) == pending
    monkeypatch.setattr(maintenance, "migration_ids", lambda: [*ids, "9999_later"])
    assert await problems(conn) == [*pending, ("migration_pending", None, "9999_later")]


async def test_an_adoption_that_was_not_finished_is_told(conn):
    await conn.execute("CREATE SCHEMA ltm_adoption")
    assert await problems(conn) == [("adoption_unfinished", None, "ltm_adoption")]


async def test_many_dead_rows_are_found(own_dsn):
    conn = await asyncpg.connect(own_dsn)
    await conn.execute("ALTER TABLE ltm_adoption_report SET (autovacuum_enabled = FALSE)")
    await conn.execute(
        "INSERT INTO ltm_adoption_report (table_name, row_id, rule) "
        "SELECT 'x', n, 'x' FROM generate_series(1, 30000) AS n"
    )
    for deleted, found in ((9_900, 0), (13_000, 1)):
        await conn.execute("DELETE FROM ltm_adoption_report WHERE row_id <= $1", deleted)
        await conn.execute("SELECT pg_stat_force_next_flush()")
        await conn.execute("SELECT 1")
        assert [p[0] for p in await problems(conn)] == ["dead_rows"] * found
    (problem,) = await check_health(conn)
    assert problem.subject == "ltm_adoption_report"
    assert problem.detail == "13000 of 30000 rows are dead: VACUUM is behind"
    await conn.execute("VACUUM ltm_adoption_report")
    await conn.execute("SELECT pg_stat_force_next_flush()")
    assert await check_health(conn) == []
    await conn.close()


@local_alone
async def test_the_schemas_problems_come_first_and_all_are_limited(conn, monkeypatch):
    await two(conn)
    await conn.execute("DELETE FROM ltm_memory_tags")
    await conn.execute("CREATE SCHEMA ltm_adoption")
    found = await check_health(conn)
    assert [p.user_id for p in found] == [None, 1, 1]
    monkeypatch.setattr(maintenance, "_PROBLEMS", 2)
    assert await check_health(conn) == found[:2]


async def test_a_schema_without_the_view_is_said_to_be_outdated(empty):
    migrate.apply(empty)
    migrate.rollback(empty, to="0003_memories")
    async with connect(empty, check_schema=False) as db:
        with pytest.raises(SchemaOutdated):
            await check_health(db)


async def test_health_is_that_of_the_schema_that_holds_the_view(empty):
    """Objects of the same names in front of it are another installation's."""
    migrate.apply(empty)
    conn = await asyncpg.connect(empty)
    await conn.execute("CREATE SCHEMA front; SET search_path = front, public")
    await conn.execute("CREATE TABLE ltm_contexts (id integer)")
    await conn.execute("ALTER TABLE ltm_contexts ADD CONSTRAINT x CHECK (id > 0) NOT VALID")
    await conn.execute("CREATE TABLE ltm_migrations (migration_id text)")
    assert list(await conn.fetch("SELECT * FROM public.ltm_health")) == []
    await conn.close()


async def test_psql_shows_what_attacks_it_as_it_is(dsn):
    """No control character reaches the terminal, none runs as a command; as CSV it is whole."""
    psql = embedded.psql()
    async with connect(dsn, access_tracking="off") as db:
        ids = [
            (await add_memory(db, "eve", words, tags=[words[:60].strip() or "x"], context=words)).id
            for words in ATTACKS
        ]
        for other in ids[1:]:
            await relate(db, "eve", ids[0], other, ATTACKS[6][:50], description=ATTACKS[6])

    def asked(query: str, *options: str) -> str:
        done = subprocess.run(
            [psql, "-X", "-v", "ON_ERROR_STOP=1", *options, "-c", query, dsn],
            capture_output=True,
            check=True,
            timeout=100,
        )
        assert done.stderr == b""
        return done.stdout.decode()

    for view in VIEWS:
        for options in ((), ("-x",)):
            shown = asked(f"TABLE {view}", *options)
            assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f]", shown), view
    contents = asked("SELECT id, content FROM ltm_memories ORDER BY id", "--csv")
    read = list(csv.reader(io.StringIO(contents, newline="")))
    assert read[1:] == [[str(n), words] for n, words in zip(ids, ATTACKS, strict=True)]
