"""The original's functions, parameters and dicts."""

import asyncio
import logging
import os
import subprocess
import sys
from datetime import datetime, timedelta

import pytest

from ltm_store import (
    InvalidMemory,
    MemoryType,
    Unavailable,
    compat,
    connect,
    migrate,
    search_memories,
)
from ltm_store.compat import (
    add_enhanced_ltm_memory,
    add_ltm_memory,
    archive_memory,
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
from tests.test_memories import FULL

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

COLUMNS = {
    "id",
    "user_id",
    "content",
    "tags",
    "memory_type",
    "category",
    "importance_score",
    "confidence_score",
    "dynamic_importance",
    "context",
    "context_data",
    "source_type",
    "source_id",
    "created_by",
    "created_at",
    "last_accessed",
    "last_modified",
    "access_count",
    "last_access_context",
    "related_memory_ids",
    "parent_memory_id",
    "metadata",
    "is_archived",
    "archive_reason",
}
OLD = {"id", "content", "tags", "importance_score", "context", "created_at", "last_accessed"}


@pytest.fixture
async def default(dsn):
    compat.configure(dsn, access_tracking="off")
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


async def test_add_and_get(default):
    first = await add_enhanced_ltm_memory("123", "first", ["a"])
    assert first.keys() >= COLUMNS
    assert (first["importance_score"], first["memory_type"], first["category"]) == (
        1,
        "insight",
        "general",
    )
    row = await add_enhanced_ltm_memory(
        "123",
        "second " + "x" * 200,
        ["b", "c"],
        importance_score=7,
        context="free text",
        enhanced_context=FULL,
        memory_type=MemoryType.FACT,
        metadata={"a": 1},
        related_memory_ids=[first["id"]],
        parent_memory_id=first["id"],
    )
    assert (row["user_id"], row["tags"], row["metadata"]) == (123, ["b", "c"], {"a": 1})
    assert (row["related_memory_ids"], row["parent_memory_id"]) == ([first["id"]], first["id"])
    assert row["created_at"] is not None
    assert datetime.fromisoformat(row["created_at"]).utcoffset() == timedelta(0)
    spatial = (row["context_data"] or {})["spatial"]
    assert isinstance(spatial, dict)
    assert spatial["city"] == "Graz"
    read = await get_enhanced_ltm_memory(row["id"], "123")
    assert read is not None
    assert {k: v for k, v in read.items() if k in row} == row
    assert read["enhanced_context"]["spatial"] == {
        "city": "Graz",
        "coordinates": [47.07, 15.44],
        "is_home": True,
    }
    assert read["enhanced_context"]["custom"] == {"mood board": {"a": [1, {"b": None}]}}
    (link,) = read["relationships"]
    assert link == {
        "id": link["id"],
        "type": "related",
        "strength": 0.5,
        "description": None,
        "related_memory_id": first["id"],
    }
    (incoming,) = await get_memory_relationships(first["id"], "123")
    assert incoming == {
        "id": link["id"],
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
    assert await get_enhanced_ltm_memory(row["id"], "124") is None


async def test_search(default):
    row = await add_enhanced_ltm_memory(
        "1", "Likes green tea", ["drink"], 6, enhanced_context=FULL, category="food"
    )
    await add_enhanced_ltm_memory("1", "Likes black tea", ["drink"], 2)
    (found,) = await search_enhanced_ltm_memories("1", "tea", min_importance=5, tags=["drink"])
    assert found["id"] == row["id"]
    assert found.keys() >= COLUMNS | {"enhanced_context", "relationships"}
    assert found == await get_enhanced_ltm_memory(row["id"], "1")
    (bare,) = await search_enhanced_ltm_memories(
        "1", "tea", category="food", memory_type="insight", include_context=False
    )
    assert (bare["context_data"], bare["enhanced_context"]) == (None, {})
    assert len(await search_enhanced_ltm_memories("1", "tea", limit=1)) == 1
    assert await search_enhanced_ltm_memories(
        "1", "tea", tags=[], memory_type="", category="", source_type=""
    ) == await search_enhanced_ltm_memories("1", "tea")


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
    with pytest.raises(InvalidMemory):
        await update_memory_importance(1, "1", 11)


async def test_figures(default):
    for n in range(7):
        await add_enhanced_ltm_memory("1", f"{n}", ["all", f"t{n}"], importance_score=n + 1)
    figures = await get_memory_analytics("1")
    assert figures.keys() == {
        "total_memories",
        "type_distribution",
        "category_distribution",
        "average_importance",
        "average_dynamic_importance",
        "most_accessed_memories",
    }
    assert figures["type_distribution"] == {"insight": 7}
    stats = await get_ltm_memory_stats("1")
    assert (stats["total_memories"], stats["average_importance"]) == (7, 4)
    assert stats["top_tags"][0] == ("all", 7)
    assert (len(stats["top_tags"]), stats["user_id"]) == (5, "1")
    assert (await get_ltm_memory_stats("2"))["average_importance"] == 0


async def test_the_older_functions(default):
    row = await add_ltm_memory("1", "Plays the cello", ["music"], 4, "said so", category="hobby")
    assert row.keys() == OLD
    assert (row["context"], row["tags"], row["importance_score"]) == ("said so", ["music"], 4)
    (found,) = await search_ltm_memories("1", "cello")
    assert found == row
    assert await search_ltm_memories("1", "cello", min_importance=5) == []
    (relevant,) = await get_relevant_ltm_memories("1", "some music tonight")
    assert relevant == row


async def test_recalls_are_counted_by_the_time_it_is_closed(dsn):
    compat.configure(dsn)
    row = await add_enhanced_ltm_memory("1", "Plays the cello", [])
    await get_enhanced_ltm_memory(row["id"], "1")
    await search_ltm_memories("1", "cello")
    await compat.close()
    compat.configure(dsn, access_tracking="off")
    read = await get_enhanced_ltm_memory(row["id"], "1")
    assert read is not None
    assert read["access_count"] == 2
    assert read["last_accessed"] is not None
    assert datetime.fromisoformat(read["last_accessed"]).utcoffset() == timedelta(0)
    (figure,) = (await get_memory_analytics("1"))["most_accessed_memories"]
    assert figure["access_count"] == 2
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


async def test_a_search_with_relationships_takes_three_statements_at_most(default, caplog):
    first = await compat.add_enhanced_ltm_memory("55", "tea one", ["t"])
    for n in range(4):
        await compat.add_enhanced_ltm_memory(
            "55", f"tea {n}", ["t"], related_memory_ids=[first["id"]]
        )
    with caplog.at_level(logging.DEBUG, "ltm_store.statements"):
        found = await compat.search_enhanced_ltm_memories("55", "tea")
    assert len(found) == 5
    assert sum(len(row["relationships"]) for row in found) == 8
    assert len(caplog.records) <= 3


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
