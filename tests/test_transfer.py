"""Many memories at once, whole users in and out, the demo and the command line."""

import asyncio
import json
from datetime import UTC, datetime, timedelta

import asyncpg
import pytest
from pydantic import JsonValue

from ltm_store import (
    InvalidArgument,
    InvalidMemory,
    NewMemory,
    add_memories,
    add_memory,
    archive_memory,
    connect,
    delete_memory,
    export_user,
    forget_user,
    get_analytics,
    get_memories,
    get_memory,
    get_relationships,
    import_user,
    list_users,
    record_access,
    relate,
    search_memories,
    update_memory,
)
from ltm_store.db.resources import demo_lines
from ltm_store.model.users import UserSummary
from tests.conftest import has_vector
from tests.test_cli import invoke
from tests.test_memories import FULL, rows, waiting


async def test_many_memories_are_added_in_one_transaction(conn):
    async def given():
        yield NewMemory(content="first", idempotency_key="k")
        yield {"content": "second", "tags": ["a"], "enhanced_context": FULL}
        yield {"content": "again", "idempotency_key": "k"}

    report = await add_memories(conn, "alice", given())
    assert (report.created, report.existing, report.refused) == (2, 1, ())
    assert {m.content for m in await search_memories(conn, "alice")} == {"first", "second"}


BATCH: list[dict[str, object]] = [
    {"content": "fine"},
    {"content": "x", "importance_score": 11},
    {"content": "x", "related_memory_ids": [10**12]},
    {"content": "fine too"},
]


async def test_the_first_refused_memory_undoes_all(db):
    with pytest.raises(InvalidArgument) as caught:
        await add_memories(db, "alice", BATCH)
    assert caught.value.field == "memories[1].importance_score"
    assert await search_memories(db, "alice") == []
    with pytest.raises(InvalidArgument) as caught:
        await add_memories(db, "alice", [BATCH[0], BATCH[2]])
    assert caught.value.field == "memories[1].related_memory_ids"
    assert await search_memories(db, "alice") == []
    with pytest.raises(InvalidArgument, match="^on_error"):
        await add_memories(db, "alice", BATCH, on_error="ignore")  # type: ignore[arg-type]


async def test_refused_memories_can_be_left_out_and_told_of(db):
    report = await add_memories(db, "alice", BATCH, on_error="skip")
    assert report.created == 2
    assert [(one.index, one.field) for one in report.refused] == [
        (1, "importance_score"),
        (2, "related_memory_ids"),
    ]
    assert {m.content for m in await search_memories(db, "alice")} == {"fine", "fine too"}


async def exported(db, user):
    return [line async for line in export_user(db, user)]


@pytest.fixture
async def alice(conn):
    """A user with everything that can be stored."""
    parent = await add_memory(conn, "alice", "parent", created_at=datetime(2026, 1, 1, tzinfo=UTC))
    child = await add_memory(
        conn,
        "alice",
        "child",
        tags=["a", "B"],
        importance_score=9,
        confidence_score=0.5,
        context="c",
        enhanced_context=FULL,
        memory_type="fact",
        category="k",
        source_type="manual",
        source_id="s",
        source_position=2,
        created_by=None,
        metadata={"a": None, "b": [1.5, {"c": {}}]},
        related_memory_ids=[parent.id],
        parent_memory_id=parent.id,
        expires_at=datetime(2999, 1, 1, tzinfo=UTC),
        idempotency_key="key",
        namespace=("agents", "cook"),
        key="soup/1",
        expires_after=timedelta(days=1.5),
    )
    await add_memory(conn, "alice", "expired", expires_at=datetime(2020, 1, 1))
    await relate(conn, "alice", parent.id, child.id, "causes", strength=0.25, description="so")
    await record_access(conn, "alice", [child.id], access_context="why", user_query="what")
    await archive_memory(conn, "alice", parent.id, reason="old")
    await update_memory(conn, "alice", child.id, tags=["a", "B", "c"], metadata={})
    await conn.execute("UPDATE ltm_memory_tags SET tag_category = 'mine', usage_count = 7")
    await conn.execute("UPDATE ltm_memory_access SET was_relevant = true, relevance_score = 0.5")
    return parent.id, child.id


async def test_an_export_is_imported_to_an_equal_user(conn, alice):
    lines = await exported(conn, "alice")
    report = await import_user(conn, "bob", json.loads(json.dumps(lines)))
    assert (report.created, report.relationships) == (2, 2)
    assert await exported(conn, "bob") == lines
    assert [line["id"] for line in lines] == [1, 2]
    originals = await get_memories(conn, "alice", alice)
    found = {m.content: m for m in await search_memories(conn, "bob", include_archived=True)}
    ids = {original.id: found[original.content].id for original in originals}
    own = {"id", "user_id", "related_memory_ids", "parent_memory_id", "score", "boost"}
    own |= {"text_score", "matched_terms", "duplicate_ids"}
    own |= {"neighbour_of", "meaning_score", "matched_time"}
    for original in originals:
        copy = found[original.content]
        assert copy.model_dump(exclude=own) == original.model_dump(exclude=own)
        assert copy.parent_memory_id == ids.get(original.parent_memory_id or 0)
        assert copy.related_memory_ids == tuple(ids[i] for i in original.related_memory_ids)
        assert len(await get_relationships(conn, "bob", copy.id)) == 2
    for table in ("ltm_contexts", "ltm_memory_tags", "ltm_memory_access"):
        both = [
            [
                {
                    k: v
                    for k, v in row.items()
                    if k not in ("id", "user_id", "memory_id", "created_at")
                }
                for row in await rows(conn, table)
                if row["user_id"] == user and row["memory_id"] in (*alice, *ids.values())
            ]
            for user in (originals[0].user_id, found["parent"].user_id)
        ]
        assert both[0], table
        assert both[0] == both[1], table


async def test_links_inside_a_file_lead_to_the_stored_memories(conn):
    lines: list[dict[str, object]] = [
        {"id": 10, "content": "child", "parent_memory_id": 30, "related_memory_ids": [20]},
        {
            "id": 20,
            "content": "middle",
            "relationships": [
                {"target_memory_id": 30, "relationship_type": "causes", "strength": 0.3}
            ],
        },
        {"id": 30, "content": "parent", "idempotency_key": "k"},
        {"content": "alone"},
    ]
    report = await import_user(conn, "alice", lines)
    assert (report.created, report.existing, report.relationships) == (4, 0, 2)
    memories = {m.content: m for m in await search_memories(conn, "alice")}
    child, middle, parent = (memories[name] for name in ("child", "middle", "parent"))
    assert (child.parent_memory_id, child.related_memory_ids) == (parent.id, (middle.id,))
    read = await get_memory(conn, "alice", middle.id, include_relationships=True)
    assert read is not None
    assert {(r.relationship_type, r.strength) for r in read.relationships or ()} == {
        ("causes", 0.3),
        ("related", 0.5),
    }
    again = await import_user(conn, "alice", lines[2:3])
    assert (again.created, again.existing, again.relationships) == (0, 1, 0)


@pytest.mark.parametrize(
    ("line", "field"),
    [
        ({"content": 5}, "line 2, content"),
        ({"content": "x", "version": 0}, "line 2, version"),
        ({"content": "x", "tagz": []}, "line 2, tagz"),
        ({"content": "x", "related_memory_ids": [9]}, "line 2, related_memory_ids"),
        ({"content": "x", "parent_memory_id": 9}, "line 2, parent_memory_id"),
        ({"id": 7, "content": "x", "parent_memory_id": 7}, "line 2, parent_memory_id"),
        ({"id": 1, "content": "x"}, "line 2, id"),
        ({"content": "x", "relationships": [{"strength": 2}]}, "line 2, relationships.0.target_me"),
    ],
)
async def test_a_bad_line_is_named_and_nothing_is_stored(db, line, field):
    with pytest.raises(InvalidMemory) as caught:
        await import_user(db, "alice", [{"id": 1, "content": "fine"}, line])
    assert caught.value.field.startswith(field)
    assert await search_memories(db, "alice") == []


async def test_a_long_export_comes_in_pages(conn):
    await add_memories(conn, 1, ({"content": f"{n}"} for n in range(450)))
    assert [line["content"] for line in await exported(conn, 1)] == [f"{n}" for n in range(450)]
    assert await exported(conn, "nobody") == []


async def test_forgetting_a_user_leaves_no_row_in_any_table_with_a_user(conn, alice):
    await add_memory(conn, "bob", "kept", tags=["a"], enhanced_context=FULL)
    (user,) = await conn.fetchrow(
        "SELECT user_id FROM ltm_external_users WHERE external_id = 'alice'"
    )
    await conn.execute(
        "INSERT INTO ltm_adoption_report (user_id, table_name, row_id, rule, original) "
        "VALUES ($1, 'ltm_memories', 1, 'clamped', '11')",
        user,
    )
    if await has_vector(conn):
        await add_memory(conn, "alice", "with a vector", embedding=[1.0])
    tables = [
        row[0]
        for row in await conn.fetch(
            "SELECT table_name FROM information_schema.columns WHERE column_name = 'user_id' "
            "AND table_schema = current_schema() "
            "AND table_name NOT IN (SELECT viewname FROM pg_views) ORDER BY 1"
        )
    ]
    count = "SELECT count(*) FROM {} WHERE user_id = $1"
    before = {table: await conn.fetchval(count.format(table), user) for table in tables}
    report = await forget_user(conn, "alice")
    assert report.counts == before
    assert all(before.values())
    tables.remove("ltm_external_users")
    for table in tables:
        assert await conn.fetchval(count.format(table), user) == 0
    name = "SELECT external_id FROM ltm_external_users WHERE user_id = $1"
    assert await conn.fetchval(name, user) is None
    assert len(await search_memories(conn, "bob")) == 1
    again = await add_memory(conn, "alice", "new")
    assert again.user_id not in (user, 0)
    assert set((await forget_user(conn, "nobody")).counts.values()) == {0}


async def test_a_forgotten_user_is_forgotten_by_the_database_too(db):
    first = await add_memory(db, "alice", "x")
    await forget_user(db, "alice")
    assert await search_memories(db, "alice") == []
    assert (await add_memory(db, "alice", "y")).user_id != first.user_id


async def test_a_user_forgotten_elsewhere_gets_a_new_number_and_can_be_forgotten_again(db, dsn):
    first = await add_memory(db, "zoe", "x")
    async with connect(dsn) as other:
        assert (await forget_user(other, "zoe")).counts["ltm_memories"] == 1
        second = await add_memory(db, "zoe", "y", tags=["a"])
        assert second.user_id != first.user_id
        assert [m.content for m in await search_memories(other, "zoe")] == ["y"]
        async with db.transaction() as conn:
            await forget_user(conn, "zoe")
        third = await add_memory(db, "zoe", "z")
        assert third.user_id not in (first.user_id, second.user_id)
        assert (await forget_user(other, "zoe")).counts["ltm_memories"] == 1
    async with db.transaction() as conn:
        assert await rows(conn, "ltm_memories") == []


async def test_forgetting_waits_for_a_child_that_is_being_added(db, dsn):
    memory = await add_memory(db, 1, "x")
    async with db.transaction() as conn:
        await add_memory(conn, 1, "child", parent_memory_id=memory.id)
        task = await waiting(dsn, forget_user(db, 1))
    report = await asyncio.wait_for(task, 60)
    assert report.counts["ltm_memories"] == 2


async def test_an_export_is_of_one_moment(db):
    ids = [(await add_memory(db, 1, f"{n}")).id for n in range(300)]
    await relate(db, 1, ids[0], ids[-1])
    lines: list[dict[str, JsonValue]] = []
    async for line in export_user(db, 1):
        if not lines:
            await delete_memory(db, 1, ids[-1])
            await add_memory(db, 1, "later")
        lines.append(line)
    assert [line["content"] for line in lines] == [f"{n}" for n in range(300)]
    assert (await import_user(db, 2, lines)).relationships == 1


async def test_what_an_older_program_left_is_exported_and_imported(conn):
    a, b = [(await add_memory(conn, 1, name, tags=["t"])).id for name in "ab"]
    await record_access(conn, 1, [a])
    await relate(conn, 1, a, b)
    for change in (
        "UPDATE ltm_memories SET memory_type = '', created_by = '', tags = '[\"\"]'::jsonb, "
        "memory_metadata = '[1, 2]'::jsonb, archive_reason = repeat('x', 1100000)",
        "UPDATE ltm_memory_access SET access_method = ''",
        "UPDATE ltm_memory_tags SET tag_category = '', tag_name = ''",
        "UPDATE ltm_memory_relationships SET relationship_type = '', created_at = '0001-01-01', "
        "description = repeat('x', 1100000)",
    ):
        await conn.execute(change)
    await conn.execute("SET LOCAL timezone = 'America/New_York'")
    lines = await exported(conn, 1)
    read = await get_memory(conn, 1, a, include_relationships=True)
    assert read is not None
    assert read.relationships is not None
    assert read.relationships[0].created_at == datetime(1, 1, 1, tzinfo=UTC)
    await import_user(conn, 2, json.loads(json.dumps(lines)))
    assert await exported(conn, 2) == lines


async def test_a_wrong_user_is_no_bad_memory(db):
    for call in (
        add_memories(db, -5, [{"content": "x"}], on_error="skip"),
        import_user(db, -5, []),
    ):
        with pytest.raises(InvalidMemory) as caught:
            await call
        assert caught.value.field == "user_id"


async def test_forgetting_outlasts_many_statements_and_foreign_parents(conn, monkeypatch):
    monkeypatch.setattr("ltm_store.users._AT_ONCE", 3)
    ids = [(await add_memory(conn, 1, "root")).id]
    for n in range(10):
        added = await add_memory(
            conn, 1, f"{n}", parent_memory_id=ids[-1], related_memory_ids=ids[-2:]
        )
        ids.append(added.id)
    await update_memory(conn, 1, ids[0], parent_memory_id=ids[-1])
    report = await forget_user(conn, 1)
    assert report.counts["ltm_memories"] == 11
    assert await rows(conn, "ltm_memories") == []


async def test_whole_user_functions_take_a_pool(dsn):
    async with asyncpg.create_pool(dsn, min_size=1) as pool:
        await add_memories(pool, "alice", [{"content": "x"}])
        lines = await exported(pool, "alice")
        await import_user(pool, "bob", lines)
        assert await exported(pool, "bob") == lines
        await forget_user(pool, "bob")
        assert await exported(pool, "bob") == []


async def test_the_demos_memories_are_a_year_of_one_user(db):
    report = await import_user(db, "demo", map(json.loads, demo_lines()))
    assert report.created >= 300
    figures = await get_analytics(db, "demo")
    assert len(figures.growth_by_month) >= 12
    assert len(figures.type_distribution) == 10
    assert len(figures.category_distribution) >= 8


async def test_the_demo_replaces_its_own_memories_and_no_others(dsn, admin):
    why_not = "Because it is number" if await has_vector(admin) else "Because it has no word"
    async with connect(dsn) as db:
        await add_memory(db, 1, "mine")
    outputs = [invoke("demo", "--dsn", dsn) for _ in range(2)]
    for output in outputs:
        assert output.exit_code == 0, output.stderr
        assert "Traceback" not in output.stdout
        for part in ("Recalled for it", "words: pain", "Tomas asks", why_not, "a year"):
            assert part in output.stdout
        assert ("(meaning: 0." in output.stdout) == await has_vector(admin)
        lines = output.stdout.splitlines()
        assert len(lines) <= 42
        assert max(map(len, lines)) <= 80
        assert "…" not in output.stdout
    async with connect(dsn) as db:
        assert len(await search_memories(db, 1)) == 1
        figures = await get_analytics(db, "demo-livia")
    assert figures.total_memories == len(demo_lines()) + 1  # what it remembers afterwards


async def test_the_long_demo_shows_its_tables(dsn):
    output = invoke("demo", "--full", "--dsn", dsn)
    assert output.exit_code == 0, output.stderr
    for part in ("What was added", "why", "its relationships", "a year later", "make psql"):
        assert part in output.stdout


async def test_the_import_command(db, dsn, tmp_path):
    file = tmp_path / "memories.jsonl"
    file.write_text('\ufeff{"content": "a\u2028"}\n{"content": "b"}\n\n', encoding="utf-8")
    done = invoke("import", str(file), "--user", "alice", "--dsn", dsn)
    assert done.exit_code == 0, done.stderr
    assert done.stdout.startswith("2 memories created")
    assert len(await search_memories(db, "alice")) == 2
    for text, message in (
        ('{"content": "a"}\n{"content": 5}', "failed: line 2, content: "),
        ('{"content": "a"}\n[1]', "failed: line 2: should be a JSON object"),
        ('{"content": "a"}\n{"content"', "failed: line 2: is not JSON: "),
    ):
        file.write_text(text)
        refused = invoke("import", str(file), "--user", "bob", "--dsn", dsn)
        assert refused.exit_code == 1
        assert refused.stderr.splitlines()[-1].startswith(message)
        assert "Traceback" not in refused.stderr
    assert await search_memories(db, "bob") == []
    assert invoke("import", "/no/such/file", "--user", "x", "--dsn", dsn).exit_code == 2


async def test_commands_on_a_missing_server_fail_with_a_sentence(tmp_path):
    done = invoke("demo", "--dsn", "postgresql://x@127.0.0.1:1/x")
    assert done.exit_code == 1
    assert done.stderr == "failed: no connection to the server (Connection refused)\n"


async def test_users_are_listed_page_by_page(db):
    for user in ("zoe", 7, "alice", 0, 12, "gone"):
        await add_memory(db, user, f"of {user}")
    await add_memory(db, 7, "expired", expires_at=datetime(2020, 1, 1))
    archived = await add_memory(db, 7, "archived")
    await archive_memory(db, 7, archived.id)
    await forget_user(db, "gone")
    users = await list_users(db)
    assert [(user.name, user.memories) for user in users] == [
        *((0, 1), (7, 2), (12, 1)),
        *(("zoe", 1), ("alice", 1)),
    ]
    assert [user.user_id < 0 for user in users] == [False, False, False, True, True]
    for key in ("name", "user_id"):
        seen: list[UserSummary] = []
        while page := await list_users(db, after=getattr(seen[-1], key) if seen else None, limit=1):
            seen += page
        assert seen == users
    for wrong in ({"after": "nobody"}, {"limit": 0}):
        with pytest.raises(InvalidArgument, match=f"^{next(iter(wrong))}"):
            await list_users(db, **wrong)
