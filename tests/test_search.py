"""Searching: the filters, the simple text match, hostile queries."""

from datetime import UTC, datetime, timedelta

import pytest

from ltm_store import (
    EnhancedContext,
    InvalidMemory,
    SpatialContext,
    add_memory,
    archive_memory,
    record_access,
    search_memories,
)

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


@pytest.fixture
async def memories(conn):
    """Three memories of user 1 that every filter tells apart, and one of user 2."""
    first = {
        "tags": ["Work", "coffee"],
        "memory_type": "preference",
        "category": "food",
        "source_type": "conversation",
        "source_id": "conv_1",
        "importance_score": 8,
        "confidence_score": 0.9,
        "metadata": {"room": {"floor": 3}},
        "enhanced_context": {
            "spatial": {"city": "Graz", "is_home": True},
            "temporal": {"timestamp": "2026-03-02T08:30:00+01:00", "timezone": "Europe/Vienna"},
        },
        "created_at": NOW,
    }
    other = {
        "tags": ["garden"],
        "memory_type": "fact",
        "category": "home",
        "source_type": "manual",
        "source_id": "conv_2",
        "importance_score": 4,
        "confidence_score": 0.5,
        "metadata": {"room": {"floor": 1}},
        "enhanced_context": {"spatial": {"city": "Wien"}},
        "created_at": NOW - timedelta(days=30),
    }
    ids = {
        "a": (await add_memory(conn, 1, "Drinks coffee in the morning", **first)).id,
        "b": (await add_memory(conn, 1, "Plants tomatoes and drinks tea", **other)).id,
        "c": (await add_memory(conn, 1, "Bare", created_at=NOW - timedelta(days=9))).id,
    }
    await add_memory(conn, 2, "Drinks coffee in the morning", **first)
    return ids


FILTERS = [
    ({}, "acb"),
    ({"memory_type": "preference"}, "a"),
    ({"category": "home"}, "b"),
    ({"tags": ["work"]}, "a"),
    ({"tags": ["COFFEE", "wOrk"]}, "a"),
    ({"tags": ["work", "garden"]}, ""),
    ({"tags": []}, "acb"),
    ({"tags_any": ["GARDEN", "work", "x"]}, "ab"),
    ({"tags": ["work"], "tags_any": ["garden"]}, ""),
    ({"source_type": "manual"}, "b"),
    ({"source_id": "conv_1"}, "a"),
    ({"context_data": {"spatial": {"city": "Graz"}}}, "a"),
    ({"context_data": EnhancedContext(spatial=SpatialContext(city="Wien"))}, "b"),
    ({"context_data": {"spatial": {"city": "Rom"}}}, ""),
    ({"metadata": {"room": {"floor": 3}}}, "a"),
    ({"metadata": {}}, "acb"),
    ({"context_data": {}}, "acb"),
    ({"context_data": {"temporal": {"timestamp": "2026-03-02T08:30:00+01:00"}}}, "a"),
    ({"context_data": {"temporal": {"day_of_week": "Monday"}}}, "a"),
    ({"min_importance": 5}, "ac"),
    ({"min_confidence": 0.6}, "ac"),
    ({"created_after": NOW - timedelta(days=9)}, "ac"),
    ({"created_before": NOW - timedelta(days=9)}, "b"),
    ({"accessed_after": NOW}, ""),
    ({"limit": 1}, "a"),
    ({"query": "  "}, "acb"),
    ({"query": "coffee"}, "a"),
    ({"query": "drinking tomato"}, "ba"),
    ({"query": "garden"}, "b"),
    (
        {"query": "drinks", "memory_type": "fact", "tags_any": ["garden"], "source_id": "conv_2"},
        "b",
    ),
    ({"query": "the of and"}, ""),
    ({"query": "absent"}, ""),
]


@pytest.mark.parametrize(("filters", "expected"), FILTERS, ids=lambda v: str(v))
async def test_filter(conn, memories, filters, expected):
    found = await search_memories(conn, 1, as_of=NOW + timedelta(days=1), **filters)
    names = {number: name for name, number in memories.items()}
    assert "".join(names[hit.id] for hit in found) == expected


async def test_accessed_after_includes_its_moment(conn, memories):
    before = datetime.now(UTC)
    await record_access(conn, 1, [memories["b"]])
    (hit,) = await search_memories(conn, 1, accessed_after=before)
    assert hit.id == memories["b"]
    assert hit.last_accessed is not None
    assert await search_memories(conn, 1, accessed_after=hit.last_accessed)
    later = hit.last_accessed + timedelta(microseconds=1)
    assert await search_memories(conn, 1, accessed_after=later) == []


async def test_archived_memories_are_found_when_asked_for(conn, memories):
    await archive_memory(conn, 1, memories["a"])
    assert len(await search_memories(conn, 1)) == 2
    assert len(await search_memories(conn, 1, include_archived=True)) == 3
    (hit,) = await search_memories(conn, 1, tags=["work"], include_archived=True)
    assert hit.is_archived


async def test_a_hit_says_why(conn, memories):
    found = await search_memories(conn, 1, "drinking tomatoes", importance_weight=0.5, as_of=NOW)
    first = found[0]
    assert (first.text_score, first.matched_terms) == (1, ("drink", "tomato"))
    assert found[1].text_score == 0.5
    for hit in found:
        assert hit.boost == pytest.approx(1 + 0.5 * hit.dynamic_importance / 10)
        assert hit.score == pytest.approx(hit.text_score * hit.boost)


async def test_without_a_query_the_score_is_the_live_importance(conn, memories):
    for hit in await search_memories(conn, 1):
        assert (hit.score, hit.text_score) == (hit.dynamic_importance, 0)
        assert hit.matched_terms == ()


async def test_contexts_can_be_left_out(conn, memories):
    for hit in await search_memories(conn, 1, include_context=False):
        assert hit.enhanced_context is None


@pytest.mark.parametrize(
    "query",
    [
        "a & ! (",
        "':* | '",
        '"unclosed -phrase',
        "%_\\",
        "'; DROP TABLE ltm_memories; --",
        "👩‍🚀 coffee",
        "\u202ecoffee",
        "word " * 10_000,
        "x" * 5_000,
    ],
    ids=lambda q: ascii(q[:20]),
)
async def test_hostile_queries_are_words(conn, memories, query):
    found = await search_memories(conn, 1, query)
    assert ("coffee" in query) == bool(found)


async def test_a_memory_of_long_words_in_a_script_of_many_bytes_spoils_no_search(conn):
    words = "-".join(chr(0x0E01 + n % 40) * 4 + chr(0x4E00 + n) for n in range(33_000))
    await add_memory(conn, 1, words[:200_000])
    coffee = await add_memory(conn, 1, "Drinks coffee")
    assert [hit.id for hit in await search_memories(conn, 1, "coffee")] == [coffee.id]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("query", "\0"),
        ("query", 5),
        ("limit", 0),
        ("limit", 1001),
        ("limit", True),
        ("min_importance", "5"),
        ("min_confidence", float("nan")),
        ("importance_weight", -1),
        ("context_data", []),
        ("context_data", {"temporal": {"weekday": "monday"}}),
        ("query", "x" * 250_001),
        ("metadata", {"a": float("inf")}),
        ("created_after", "today"),
        ("tags", "work"),
        ("include_archived", "yes"),
    ],
    ids=str,
)
async def test_bad_filters_are_refused_by_name(conn, field, value):
    with pytest.raises(InvalidMemory) as caught:
        await search_memories(conn, 1, **{field: value})
    assert caught.value.field == field
