"""The original's functions, parameters and dicts."""

import asyncio
import json
import logging
import os
import subprocess
import sys
from datetime import UTC, datetime

import pytest
from pydantic import ValidationError

import ltm_store
from ltm_store import (
    InvalidArgument,
    InvalidMemory,
    Unavailable,
    add_memory,
    compat,
    connect,
    get_memory,
    limits,
    migrate,
    search_memories,
)
from ltm_store.compat import (
    CustomContext,
    EnhancedContext,
    MemoryMetadata,
    MemoryType,
    SocialContext,
    SourceType,
    add_enhanced_ltm_memory,
    add_ltm_memory,
    archive_memory,
    create_default_context,
    delete_ltm_memory,
    get_enhanced_ltm_memory,
    get_ltm_memory_stats,
    get_memory_analytics,
    get_memory_relationships,
    get_relevant_ltm_memories,
    run_ltm_enhancement_migration,
    search_enhanced_ltm_memories,
    search_ltm_memories,
    update_memory_importance,
)
from tests.old_program import OldProgram
from tests.test_memories import FULL, NOW

AS_WRITTEN = """
import asyncio
import logging
from datetime import datetime
from ltm_store import EnhancedContext, TemporalContext, SocialContext, SourceType, MemoryType
from ltm_store.compat import (
    add_enhanced_ltm_memory, close, search_enhanced_ltm_memories, get_memory_relationships
)
async def main():
    context = EnhancedContext(temporal=TemporalContext(timestamp=datetime.utcnow()),
        social=SocialContext(participants=["John", "Sarah"]))
    memory = await add_enhanced_ltm_memory(user_id="123",
        content="User prefers morning work sessions", tags=["preference", "work", "routine"],
        importance_score=8, enhanced_context=context, memory_type=MemoryType.PREFERENCE,
        category="work", source_type=SourceType.CONVERSATION, source_id="conv_456")
    memories = await search_enhanced_ltm_memories(user_id="123", query="work preferences",
        memory_type="preference", category="work", include_context=True)
    relationships = await get_memory_relationships(memory_id=789, user_id="123")
    print(memory["id"] == memories[0]["id"], relationships)
    await close()
asyncio.run(main())
asyncio.run(main())
"""

# Each column of the original's dicts with its type there; None: it may be None too.
COLUMNS: dict[str, tuple[object, ...]] = {
    "id": (int,),
    "user_id": (int,),
    "content": (str,),
    "tags": ([str],),
    "memory_type": (str, None),
    "category": (str, None),
    "importance_score": (int,),
    "confidence_score": (float,),
    "dynamic_importance": (float,),
    "context": (str, None),
    "context_data": (dict, None),
    "source_type": (str, None),
    "source_id": (str, None),
    "created_by": (str, None),
    "created_at": (datetime,),
    "last_accessed": (datetime,),
    "last_modified": (datetime,),
    "access_count": (int,),
    "last_access_context": (str, None),
    "related_memory_ids": ([int],),
    "parent_memory_id": (int, None),
    "metadata": (dict,),
    "is_archived": (bool,),
    "archive_reason": (str, None),
}
BEFORE = ("id", "content", "tags", "importance_score", "context", "created_at", "last_accessed")
OLD = {name: COLUMNS[name] for name in BEFORE}
LINK: dict[str, tuple[object, ...]] = {
    "id": (int,),
    "type": (str,),
    "strength": (float,),
    "description": (str, None),
    "related_memory_id": (int,),
}


def moment_of(text):
    """The moment in ISO 8601 text, which has no offset."""
    moment = datetime.fromisoformat(text)
    assert moment.tzinfo is None
    assert moment.isoformat() == text
    return moment


def is_a(value, kind):
    if isinstance(kind, list):
        return type(value) is list and all(type(item) is kind[0] for item in value)
    if kind is datetime:
        return type(value) is str and moment_of(value) is not None
    return value is None if kind is None else type(value) is kind


def check(row, columns):
    """Each key is there, with a value of its type."""
    assert row.keys() >= columns.keys()
    for name, kinds in columns.items():
        assert any(is_a(row[name], kind) for kind in kinds), name
    return row


@pytest.fixture
async def default(dsn):
    compat.configure(dsn)
    yield dsn
    await compat.close()
    compat.configure()


def test_the_originals_example_runs_as_written_in_one_loop_after_another(dsn):
    done = subprocess.run(
        [sys.executable, "-c", AS_WRITTEN],
        capture_output=True,
        text=True,
        env={**os.environ, "LTM_DATABASE_URL": dsn},
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "True []\nFalse []\n"


async def test_add_enhanced_ltm_memory(default):
    before = datetime.now(UTC).replace(tzinfo=None)
    first = check(await add_enhanced_ltm_memory("123", "first", ["a"]), COLUMNS)
    assert (first["importance_score"], first["memory_type"], first["category"]) == (
        1,
        "insight",
        "general",
    )
    assert (first["user_id"], first["created_by"], first["metadata"]) == (123, "system", {})
    assert (first["access_count"], first["last_access_context"]) == (0, None)
    assert first["last_accessed"] == first["created_at"]
    assert moment_of(first["created_at"]) >= before
    assert first["context_data"] is not None
    assert first["context_data"].keys() == {"temporal"}
    assert moment_of(first["context_data"]["temporal"]["timestamp"]) >= before
    row = await add_enhanced_ltm_memory(
        "123",
        "second",
        ["b", "c"],
        importance_score=7,
        context="free text",
        enhanced_context=FULL,
        memory_type=MemoryType.FACT,
        source_type=SourceType.MANUAL,
        metadata={"a": 1},
        related_memory_ids=[first["id"]],
        parent_memory_id=first["id"],
    )
    check(row, COLUMNS)
    assert (row["memory_type"], row["source_type"]) == ("fact", "manual")
    assert (row["tags"], row["context"], row["metadata"]) == (["b", "c"], "free text", {"a": 1})
    assert (row["related_memory_ids"], row["parent_memory_id"]) == ([first["id"]], first["id"])
    assert row["context_data"] is not None
    assert row["context_data"]["spatial"]["city"] == "Graz"
    assert moment_of(row["context_data"]["temporal"]["timestamp"]).replace(tzinfo=UTC) == NOW


async def test_what_is_empty_is_left_out(default):
    row = await add_enhanced_ltm_memory("1", "x", [], memory_type="", category="", source_type="")
    assert (row["memory_type"], row["category"], row["source_type"]) == ("insight", "general", None)


async def test_get_enhanced_ltm_memory(default):
    first = await add_enhanced_ltm_memory("123", "first", [])
    row = await add_enhanced_ltm_memory(
        "123", "second", ["b"], enhanced_context=FULL, related_memory_ids=[first["id"]]
    )
    before = datetime.now(UTC).replace(tzinfo=None)
    read = await get_enhanced_ltm_memory(row["id"], "123")
    assert read is not None
    check(read, COLUMNS)
    assert (read["access_count"], read["last_access_context"]) == (1, "Direct retrieval")
    assert moment_of(read["last_accessed"]) >= before
    of_the_read = ("access_count", "last_access_context", "last_accessed", "dynamic_importance")
    same = row.keys() - {*of_the_read, "importance_rank"}
    assert {k: v for k, v in read.items() if k in same} == {k: row[k] for k in same}  # type: ignore[literal-required]
    context = read["enhanced_context"]
    assert context["spatial"] == {
        "city": "Graz",
        "coordinates": "[47.07, 15.44]",
        "is_home": "true",
    }
    assert context["social"] == {"participants": '["John", "Sarah"]', "group_size": "3"}
    assert context["custom"] == {"mood board": '{"a": [1, {"b": null}]}'}
    assert context["extra"] == {"weather station": '{"id": 7}'}
    assert moment_of(context["temporal"]["timestamp"]).replace(tzinfo=UTC) == NOW
    (link,) = read["relationships"]
    assert check(link, LINK) == {
        "id": link["id"],
        "type": "related",
        "strength": 0.5,
        "description": None,
        "related_memory_id": first["id"],
    }
    again = await get_enhanced_ltm_memory(row["id"], "123")
    assert again is not None
    assert again["access_count"] == 2
    assert await get_enhanced_ltm_memory(row["id"], "124") is None
    assert await get_enhanced_ltm_memory(row["id"], "nobody") is None


async def test_the_texts_of_a_context_are_those_of_its_rows(default):
    row = await add_enhanced_ltm_memory("1", "x", [], enhanced_context=FULL)
    read = await get_enhanced_ltm_memory(row["id"], "1")
    assert read is not None
    async with connect(default) as db, db.transaction() as conn:
        rows = await conn.fetch(
            "SELECT context_type, context_key, context_value FROM ltm_contexts "
            "WHERE context_key <> 'timestamp'"
        )
    read["enhanced_context"]["temporal"].pop("timestamp")
    assert {
        (kind, key, text)
        for kind, fields in read["enhanced_context"].items()
        for key, text in fields.items()
    } == set(map(tuple, rows))


async def test_a_memory_that_the_library_stored_is_a_dict_too(default):
    async with connect(default) as db:
        memory = await add_memory(db, "1", "Likes tea")
    read = await get_enhanced_ltm_memory(memory.id, "1")
    assert read is not None
    check(read, COLUMNS)
    assert (read["metadata"], read["context_data"], read["enhanced_context"]) == ({}, None, {})


async def test_a_dict_is_that_of_the_original_for_the_same_row(default):
    now = datetime(2026, 3, 1, 12, 30, 15, 123456)
    old = OldProgram(default)
    number = await old.add(
        "Likes tea",
        [],
        memory_type="fact",
        category="food",
        importance_score=7,
        confidence_score=0.9,
        context="said so",
        context_data={"temporal": {"timestamp": now.isoformat(), "season": "spring"}},
        source_type="conversation",
        source_id="conv_456",
        created_by="system",
        created_at=now,
        last_accessed=now,
        last_modified=now,
        access_count=0,
        memory_metadata={"a": [1, 2.5, None]},
        is_archived=False,
    )
    for search in (False, True):
        if search:
            (read,) = await search_enhanced_ltm_memories("1", "tea")
        else:
            found = await get_enhanced_ltm_memory(number, "1")
            assert found is not None
            read = found
        row = await old.get(number)
        row["metadata"] = row.pop("memory_metadata")
        expected = {
            name: value.isoformat() if isinstance(value, datetime) else value
            for name, value in row.items()
        }
        expected["dynamic_importance"] = read["dynamic_importance"]
        expected["related_memory_ids"] = []  # where the program wrote null
        assert {k: v for k, v in check(read, COLUMNS).items() if k in COLUMNS} == expected
    await old.close()


async def test_search_enhanced_ltm_memories(default):
    row = await add_enhanced_ltm_memory(
        "1", "Likes green tea", ["drink"], 6, enhanced_context=FULL, category="food"
    )
    await add_enhanced_ltm_memory(
        "1", "Likes black tea", ["drink"], 2, related_memory_ids=[row["id"]]
    )
    before = datetime.now(UTC).replace(tzinfo=None)
    (found,) = await search_enhanced_ltm_memories("1", "tea", min_importance=5, tags=["drink"])
    check(found, COLUMNS)
    check(found["relationships"][0], LINK)
    assert (found["id"], found["access_count"]) == (row["id"], 1)
    assert found["last_access_context"] == "Search query: tea"
    assert moment_of(found["last_accessed"]) >= before
    read = await get_enhanced_ltm_memory(row["id"], "1")
    assert read is not None
    assert (read["enhanced_context"], read["relationships"]) == (
        found["enhanced_context"],
        found["relationships"],
    )
    assert read.keys() == found.keys()
    (bare,) = await search_enhanced_ltm_memories(
        "1", "tea", category="food", memory_type="insight", include_context=False
    )
    assert (bare["context_data"], bare["enhanced_context"]) == (row["context_data"], {})
    unfiltered = await search_enhanced_ltm_memories(
        "1", "tea", tags=[], memory_type="", category="", source_type=""
    )
    assert len(unfiltered) == 2
    assert len(await search_enhanced_ltm_memories("1", "tea", limit=1)) == 1
    assert await search_enhanced_ltm_memories("nobody", "tea") == []


async def test_searches_go_page_by_page(default):
    for n in range(5):
        await add_enhanced_ltm_memory("1", f"tea number {n}", [])
    for search in (search_enhanced_ltm_memories, search_ltm_memories):
        for query in ("tea", ""):
            pages = [await search("1", query, 2, offset=offset) for offset in (0, 2, 4, 6)]
            assert [len(page) for page in pages] == [2, 2, 1, 0]
            assert len({row["id"] for page in pages for row in page}) == 5


async def test_a_limit_of_0_finds_nothing_and_counts_nothing(default):
    row = await add_enhanced_ltm_memory("1", "tea", [])
    assert await search_enhanced_ltm_memories("1", "tea", limit=0) == []
    assert await search_ltm_memories("1", "tea", limit=0) == []
    assert await get_relevant_ltm_memories("1", "tea", limit=0) == []
    read = await get_enhanced_ltm_memory(row["id"], "1")
    assert read is not None
    assert read["access_count"] == 1


async def test_get_memory_relationships(default):
    first = await add_enhanced_ltm_memory("123", "first", [])
    content = "second " + "x" * 200
    row = await add_enhanced_ltm_memory(
        "123", content, [], 7, memory_type="fact", related_memory_ids=[first["id"]]
    )
    (incoming,) = await get_memory_relationships(first["id"], "123")
    assert incoming == {
        "id": incoming["id"],
        "relationship_type": "related",
        "strength": 0.5,
        "description": None,
        "related_memory": {
            "id": row["id"],
            "content": "second " + "x" * 93 + "...",
            "memory_type": "fact",
            "importance_score": 7,
        },
    }
    (outgoing,) = await get_memory_relationships(row["id"], "123")
    assert outgoing["related_memory"]["content"] == "first"
    assert await get_memory_relationships(first["id"], "124") == []


async def test_changes_tell_whether_there_was_a_memory(default):
    row = await add_enhanced_ltm_memory("1", "x", [])
    assert await update_memory_importance(row["id"], "1", 9) is True
    assert await update_memory_importance(row["id"], "2", 9) is False
    assert await archive_memory(row["id"], "1") is True
    assert await archive_memory(row["id"], "2") is False
    read = await get_enhanced_ltm_memory(row["id"], "1")
    assert read is not None
    assert (read["importance_score"], read["archive_reason"]) == (9, "User request")
    assert await delete_ltm_memory("1", row["id"]) is True
    assert await delete_ltm_memory("1", row["id"]) is False


async def test_errors_are_raised(default):
    with pytest.raises(InvalidMemory, match="^importance_score"):
        await add_enhanced_ltm_memory("1", "x", [], importance_score=11)
    with pytest.raises(InvalidMemory, match="^new_importance"):
        await update_memory_importance(1, "1", 11)
    with pytest.raises(InvalidArgument, match="^context"):
        await get_relevant_ltm_memories("1", "\0")
    with pytest.raises(InvalidArgument, match="^limit"):
        await search_ltm_memories("1", "x", limit=-1)


async def test_get_memory_analytics(default):
    for n in range(7):
        await add_enhanced_ltm_memory("1", f"{n}" + "x" * 100, [], importance_score=1 + n // 5)
    await search_ltm_memories("1", "", limit=7)
    figures = await get_memory_analytics("1")
    averages = (figures["average_importance"], figures["average_dynamic_importance"])
    assert figures == {
        "total_memories": 7,
        "type_distribution": {"insight": 7},
        "category_distribution": {"general": 7},
        "average_importance": 1.29,
        "average_dynamic_importance": round(averages[1], 2),
        "most_accessed_memories": figures["most_accessed_memories"],
    }
    assert len(figures["most_accessed_memories"]) == 5
    assert figures["most_accessed_memories"][0] == {
        "id": figures["most_accessed_memories"][0]["id"],
        "content": "6" + "x" * 99 + "...",
        "access_count": 1,
    }
    assert await get_memory_analytics("2") == {
        "total_memories": 0,
        "type_distribution": {},
        "category_distribution": {},
        "average_importance": 0,
        "average_dynamic_importance": 0,
        "most_accessed_memories": [],
    }


async def test_get_ltm_memory_stats(default):
    for n in range(7):
        await add_enhanced_ltm_memory("1", f"{n}", ["all", f"t{n}"], importance_score=1 + n // 5)
    stats = await get_ltm_memory_stats("1")
    assert stats == {
        "total_memories": 7,
        "average_importance": 1.29,
        "top_tags": [("all", 7), ("t0", 1), ("t1", 1), ("t2", 1), ("t3", 1)],
        "user_id": "1",
    }
    assert await get_ltm_memory_stats("2") == {
        "total_memories": 0,
        "average_importance": 0,
        "top_tags": [],
        "user_id": "2",
    }


async def test_the_older_functions(default):
    row = await add_ltm_memory("1", "Plays the cello", ["music"], 4, "said so", category="hobby")
    assert check(row, OLD).keys() == OLD.keys()
    assert (row["context"], row["tags"], row["importance_score"]) == ("said so", ["music"], 4)
    assert row["last_accessed"] == row["created_at"]
    (found,) = await search_ltm_memories("1", "cello")
    assert check(found, OLD).keys() == OLD.keys()
    assert moment_of(found["last_accessed"]) > moment_of(row["last_accessed"])
    assert {**found, "last_accessed": row["last_accessed"]} == row
    assert await search_ltm_memories("1", "cello", min_importance=5) == []
    (relevant,) = await get_relevant_ltm_memories("1", "some music tonight")
    assert relevant["id"] == row["id"]
    assert check(relevant, OLD).keys() == OLD.keys()


async def test_an_add_with_a_context_gives_every_column(default):
    row = await add_ltm_memory("1", "x", ["a"], enhanced_context={"spatial": {"city": "Graz"}})
    check(row, COLUMNS)
    assert row["context_data"] == {"spatial": {"city": "Graz"}}  # type: ignore[typeddict-item]
    assert (await add_ltm_memory("1", "x", ["a"], enhanced_context={})).keys() == OLD.keys()


async def test_a_context_is_built_piece_by_piece(default):
    context = create_default_context()
    context.add_custom_context("memory_type", value="preference")
    context.social = SocialContext(participants=["John"])
    context.custom_contexts.append(CustomContext("mood board", {"colour": "blue"}))
    data = context.to_dict()
    assert moment_of(data["temporal"]["timestamp"])
    assert data["custom_contexts"] == [
        {"context_type": "memory_type", "context_data": {"value": "preference"}},
        {"context_type": "mood board", "context_data": {"colour": "blue"}},
    ]
    assert json.loads(json.dumps(data)) == data
    assert EnhancedContext.from_dict(data).to_dict() == data
    row = await add_enhanced_ltm_memory("1", "x", [], enhanced_context=context)
    assert row["context_data"] == data
    read = await get_enhanced_ltm_memory(row["id"], "1")
    assert read is not None
    assert read["enhanced_context"]["custom"] == {
        "memory_type": '{"value": "preference"}',
        "mood board": '{"colour": "blue"}',
    }
    async with connect(default) as db:
        stored = await get_memory(db, "1", row["id"])
        kept = await add_memory(db, "1", "y", enhanced_context=context)
    assert stored is not None
    assert stored.enhanced_context == kept.enhanced_context
    assert type(stored.enhanced_context) is ltm_store.EnhancedContext


async def test_a_context_that_was_changed_is_checked(default):
    context = EnhancedContext()
    with pytest.raises(ValidationError):
        context.social = "John"  # type: ignore[assignment]
    with pytest.raises(ValidationError):
        context.add_custom_context("")
    with pytest.raises(ValidationError):
        EnhancedContext.from_dict({"weather": "rain"})
    many = [CustomContext(f"{n}") for n in range(limits.CONTEXT_LEAVES + 1)]
    for appended in (["a word"], many):
        context = EnhancedContext()
        context.custom_contexts.extend(appended)  # type: ignore[arg-type]
        with pytest.raises(InvalidMemory, match="^enhanced_context"):
            await add_enhanced_ltm_memory("1", "x", [], enhanced_context=context)


async def test_metadata_are_keywords_of_an_add(default):
    metadata = MemoryMetadata(memory_type="fact", source_id="conv_456")
    row = await add_enhanced_ltm_memory("1", "x", [], **metadata.to_dict())
    assert (row["memory_type"], row["source_id"], row["category"]) == (
        "fact",
        "conv_456",
        "general",
    )


async def test_reads_are_counted_before_they_return(dsn):
    compat.configure(dsn)
    row = await add_enhanced_ltm_memory("1", "Plays the cello", [])
    await get_enhanced_ltm_memory(row["id"], "1")
    await search_ltm_memories("1", "cello")
    async with connect(dsn, access_tracking="off") as db:
        memory = await get_memory(db, "1", row["id"])
    assert memory is not None
    assert (memory.access_count, memory.last_access_context) == (2, "Search query: cello")
    (figure,) = (await get_memory_analytics("1"))["most_accessed_memories"]
    assert figure["access_count"] == 2
    await compat.close()
    compat.configure()


async def test_no_read_is_counted_where_access_tracking_is_off(dsn):
    compat.configure(dsn, access_tracking="off")
    row = await add_enhanced_ltm_memory("1", "Plays the cello", [])
    for _ in range(2):
        read = await get_enhanced_ltm_memory(row["id"], "1")
        assert read is not None
        assert (read["access_count"], read["last_accessed"]) == (0, row["created_at"])
    await compat.close()
    compat.configure()


async def test_first_calls_at_once_open_one_database(default):
    await asyncio.gather(*(search_ltm_memories("1", "x") for _ in range(8)))
    assert len(compat._databases) == 1


async def test_closing_while_the_first_call_opens_closes_that_database(default):
    first = asyncio.ensure_future(search_ltm_memories("1", "x"))
    await asyncio.sleep(0)  # up to the opening
    (opening,) = compat._databases.values()
    await compat.close()
    assert (await opening).stats().open == 0
    await asyncio.wait([first])
    assert await search_ltm_memories("1", "x") == []


async def test_a_database_that_could_not_be_opened_is_tried_again(dsn):
    compat.configure("postgresql://nobody@127.0.0.1:1/none", timeout=1)
    with pytest.raises(Unavailable):
        await search_ltm_memories("1", "x")
    compat.configure(dsn)
    assert await search_ltm_memories("1", "x") == []
    await compat.close()
    await compat.close()
    compat.configure()


async def test_the_originals_migration_function_applies_the_migrations(empty):
    await run_ltm_enhancement_migration(empty.replace("postgresql:", "postgresql+asyncpg:"))
    assert migrate.status(empty).pending == []


async def test_a_search_with_relationships_takes_four_statements_at_most(default, caplog):
    first = await compat.add_enhanced_ltm_memory("55", "tea one", ["t"])
    for n in range(4):
        await compat.add_enhanced_ltm_memory(
            "55", f"tea {n}", ["t"], related_memory_ids=[first["id"]]
        )
    with caplog.at_level(logging.DEBUG, "ltm_store.statements"):
        found = await compat.search_enhanced_ltm_memories("55", "tea")
    assert len(found) == 5
    assert sum(len(row["relationships"]) for row in found) == 8
    assert len(caplog.records) <= 4


def test_accesses_count_where_each_call_has_a_loop_of_its_own(dsn):
    """As a task queue or a script calls: nobody closes, the loops do."""
    compat.configure(dsn)
    asyncio.run(add_ltm_memory("77", "bees", []))
    for _ in range(3):
        asyncio.run(search_ltm_memories("77", "bees"))

    async def counted():
        async with connect(dsn, access_tracking="off") as db:
            (memory,) = await search_memories(db, 77, "bees")
            return memory.access_count

    assert asyncio.run(counted()) == 3
    compat.configure()
