"""Searching: the filters, the ranking, hostile queries."""

import asyncio
import math
import random
from datetime import UTC, datetime, timedelta
from typing import Any, get_args

import asyncpg
import pytest

from ltm_store import (
    EnhancedContext,
    InvalidArgument,
    SpatialContext,
    add_memories,
    add_memory,
    archive_memory,
    delete_memory,
    explain_search,
    iterate_memories,
    migrate,
    record_access,
    search_memories,
    update_importance,
    update_memory,
)
from ltm_store.db.statements import shared_blocks
from ltm_store.model.search import FILTER_OF, FilterOptions, Filters, Order

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
DEADLINE = 10  # seconds that connect() allows a call


@pytest.fixture
async def memories(conn):
    """Three memories of user 1 that every filter tells apart, and one of user 2."""
    first: dict[str, Any] = {
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
        "namespace": "agents.cook",
        "key": "soup/1",
    }
    other: dict[str, Any] = {
        "tags": ["garden"],
        "memory_type": "fact",
        "created_by": "assistant",
        "category": "home",
        "source_type": "manual",
        "source_id": "conv_2",
        "importance_score": 4,
        "confidence_score": 0.5,
        "metadata": {"room": {"floor": 1}},
        "enhanced_context": {"spatial": {"city": "Wien"}},
        "created_at": NOW - timedelta(days=30),
        "namespace": "agents-old",
        "key": "soup",
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
    ({"tags_any": ["GARDEN", "work", "x"]}, "ab"),
    ({"tags": ["work"], "tags_any": ["garden"]}, ""),
    ({"tags_none": ["GARDEN", "x"]}, "ac"),
    ({"tags_none": ["coffee"], "tags_any": ["garden"]}, "b"),
    ({"created_by": "assistant"}, "b"),
    ({"created_by": ["assistant", "system"]}, "acb"),
    ({"memory_type": ["fact", "preference"]}, "ab"),
    ({"memory_type": ("fact",)}, "b"),
    ({"category": {"food"}}, "a"),
    ({"source_id": frozenset({"conv_2"}), "source_type": ["manual", "x"]}, "b"),
    ({"source_id": ["nothing", "none"]}, ""),
    ({"query": "drinks", "category": ["home", "x"]}, "b"),
    ({"modified_after": NOW - timedelta(days=9)}, "acb"),
    ({"modified_after": datetime(2100, 1, 1, tzinfo=UTC)}, ""),
    ({"namespace": "agents.cook"}, "a"),
    ({"namespace": "agents"}, ""),
    ({"namespace": ""}, "c"),
    ({"namespace": ["", "agents-old", "x"]}, "cb"),
    ({"namespace": ("agents", "cook")}, ""),
    ({"namespace_prefix": "agents"}, "a"),
    ({"namespace_prefix": ("agents", "cook")}, "a"),
    ({"namespace_prefix": ""}, "acb"),
    ({"namespace_prefix": "agents", "query": "drinks"}, "a"),
    ({"key_prefix": "soup"}, "ab"),
    ({"key_prefix": "soup/"}, "a"),
    ({"key_prefix": ""}, "ab"),
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


def test_every_filter_is_an_option_and_a_parameter_of_the_shared_conditions():
    block = {name for name, _ in shared_blocks()["filters"].parameters} - {"user_id", "as_of"}
    assert set(Filters.model_fields) == set(FilterOptions.__annotations__)
    assert set(Filters().arguments()) == block
    assert {FILTER_OF.get(name, name) for name in block} == set(Filters.model_fields)


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
    assert [hit.matched_terms for hit in found] == [("drink", "tomato"), ("drink",)]
    assert found[0].text_score > found[1].text_score > 0
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


SHARES = {1: 0.5, -1: 0.3, 2: 0.2, -2: 0.1}


async def reference(conn, user, query, neighbours=True):
    """Text scores of all memories of a user, computed in Python from their lexemes."""
    asked = await conn.fetchval("SELECT tsvector_to_array(to_tsvector('ltm', $1))", query)
    rows = await conn.fetch(
        "SELECT id, source_id, source_position, tsvector_to_array(search_vector) AS words, "
        "tsvector_to_array(ts_filter(search_vector, '{a}')) AS content "
        "FROM ltm_memories WHERE user_id = $1",
        user,
    )
    size = min(len(rows), 10_000)
    holders = {word: sum(word in row["words"] for row in rows) for word in asked}
    found = {word: n for word, n in holders.items() if n}
    rare = {word for word, n in found.items() if n <= max(size // 2, 100)}
    kept = rare or set(found)

    def idf(word):
        n = max(size, found[word])
        return math.log(1 + (n - found[word] + 0.5) / (found[word] + 0.5))

    own = {
        row["id"]: sum(
            idf(word) * (1 if word in row["content"] else 0.5)
            for word in sorted(kept)
            if word in row["words"]
        )
        for row in rows
    }
    places = {(row["source_id"], row["source_position"]): row["id"] for row in rows}
    scores = {number: score for number, score in own.items() if score}
    for row in rows if neighbours else ():
        for step, share in SHARES.items():
            place = (row["source_id"], (row["source_position"] or 0) + step)
            if row["source_position"] is not None and own[row["id"]] and place in places:
                other = places[place]
                scores[other] = scores.get(other, 0) + own[row["id"]] * share
    return scores


@pytest.fixture
async def conversations(conn):
    """150 turns of conversations and 30 memories without a place, of words of every frequency."""
    draw = random.Random(3)
    words = [f"word{n}" for n in range(60)]

    def content():
        return " ".join(words[int(60 ** draw.random()) - 1] for _ in range(8))

    for n in range(150):
        await add_memory(
            conn,
            1,
            content(),
            source_id=f"conversation {n // 15}",
            source_position=n % 15,
            tags=[draw.choice(words)],
            category=draw.choice(words),
            memory_type="fact" if n % 3 else "goal",
        )
    for _ in range(30):
        await add_memory(conn, 1, content())


QUERIES = ["word3 word17 word40", "word1 word2", "word59", "word1", "Word5, word6; word7? word8!"]


@pytest.mark.parametrize("query", QUERIES)
@pytest.mark.parametrize("neighbours", [True, False])
async def test_scores_equal_the_reference(conn, conversations, query, neighbours):
    expected = await reference(conn, 1, query, neighbours)
    hits = await search_memories(conn, 1, query, neighbours=neighbours, limit=1000)
    assert {hit.id for hit in hits} == set(expected)
    for hit in hits:
        assert hit.text_score == pytest.approx(expected[hit.id], rel=1e-9, abs=1e-9)
    order = [(-hit.score, -hit.importance_rank, -hit.id) for hit in hits]
    assert order == sorted(order)


async def test_a_filter_changes_no_score(conn, conversations):
    query = QUERIES[0]
    scores = {hit.id: hit.text_score for hit in await search_memories(conn, 1, query, limit=1000)}
    goals = await search_memories(conn, 1, query, memory_type="goal", limit=1000)
    assert goals
    assert {hit.memory_type for hit in goals} == {"goal"}
    assert all(hit.text_score == scores[hit.id] for hit in goals)


async def test_another_users_memories_change_no_score(conn, conversations):
    query = QUERIES[0]
    before = [(hit.id, hit.score) for hit in await search_memories(conn, 1, query)]
    for n in range(50):
        await add_memory(conn, 2, f"{query} {n}")
    assert [(hit.id, hit.score) for hit in await search_memories(conn, 1, query)] == before


async def test_an_answer_beside_a_question_is_found(conn):
    said = ["Shall we talk about the cello?", "Yes, it was the best evening of the year.", "Good."]
    ids = [
        (await add_memory(conn, 1, text, source_id="talk", source_position=n)).id
        for n, text in enumerate(said)
    ]
    hits = await search_memories(conn, 1, "cello")
    assert [hit.id for hit in hits] == ids
    assert [hit.matched_terms for hit in hits] == [("cello",), (), ()]
    alone = await search_memories(conn, 1, "cello", neighbours=False)
    assert [hit.id for hit in alone] == ids[:1]


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("green tea", "abc"),
        ('"green tea"', "a"),
        ('"green tea" garden', "a"),
        ("tea -green", "b"),
        ('tea -"green tea"', "bc"),
        ("green -nothing", "ac"),
        ('"tea', "abc"),
        ("well-known", "d"),
        ("- tea", "abc"),
        ("-tea", ""),
    ],
)
async def test_phrases_and_exclusions_as_people_type_them(conn, query, expected):
    contents = {
        "a": "A cup of green tea",
        "b": "Tea in the evening",
        "c": "Tea on a green table",
        "d": "A well-known place",
    }
    ids = {(await add_memory(conn, 1, text)).id: name for name, text in contents.items()}
    found = await search_memories(conn, 1, query, importance_weight=0)
    assert "".join(sorted(ids[hit.id] for hit in found)) == expected


async def test_rare_words_count_more_than_common_ones_and_content_more_than_tags(conn):
    for n in range(20):
        await add_memory(conn, 1, f"tea number {n}")
    rare = await add_memory(conn, 1, "tea with bergamot")
    tagged = await add_memory(conn, 1, "something else", tags=["bergamot"])
    found = await search_memories(conn, 1, "tea bergamot", importance_weight=0, limit=3)
    assert [hit.id for hit in found][:2] == [rare.id, tagged.id]


async def test_the_configuration_ltm_is_the_setting_for_language(empty):
    connection = await asyncpg.connect(empty)
    await connection.execute("CREATE TEXT SEARCH CONFIGURATION ltm (COPY = german)")
    migrate.apply(empty)
    memory = await add_memory(connection, 1, "Die Häuser am Fluss")
    assert [hit.id for hit in await search_memories(connection, 1, "das Haus")] == [memory.id]
    migrate.rollback(empty, everything=True)
    kept = "SELECT count(*) FROM pg_ts_config WHERE cfgname = 'ltm'"
    assert await connection.fetchval(kept) == 1, "not ours to drop"
    await connection.close()


async def test_the_same_call_gives_the_same_page(db, dsn):
    draw = random.Random(5)
    await add_memories(
        db,
        1,
        [
            {
                "content": " ".join(f"word{int(40 ** draw.random())}" for _ in range(8)),
                "source_id": f"s{n // 10}",
                "source_position": n % 10,
            }
            for n in range(300)
        ],
    )
    query = "word3 word9 word20"
    moment = datetime.now(UTC)

    async def page():
        return [(h.id, h.score) for h in await search_memories(db, 1, query, as_of=moment)]

    expected = await page()

    async def disturb():
        for n in range(10):
            await add_memories(db, 2, [{"content": f"{query} {m}"} for m in range(20)])
            await other.execute("VACUUM ltm_memories" if n % 2 else "ANALYZE ltm_memories")

    other = await asyncpg.connect(dsn)
    task = asyncio.ensure_future(disturb())
    for _ in range(100):
        assert await page() == expected
    await task
    await other.close()


WHY_NOT = [
    ("coffee", {}, ()),
    ("tomato", {}, ("query",)),
    ("the of", {}, ("query",)),
    ('"morning coffee"', {}, ("phrases",)),
    ("coffee -morning", {}, ("exclusions",)),
    ("coffee", {"memory_type": "fact"}, ("memory_type",)),
    ("coffee", {"category": "home", "source_type": "manual"}, ("category", "source_type")),
    ("coffee", {"tags": ["work", "x"], "tags_any": ["x"]}, ("tags", "tags_any")),
    ("coffee", {"created_by": "assistant", "tags_none": ["work"]}, ("tags_none", "created_by")),
    ("coffee", {"source_id": "conv_2"}, ("source_id",)),
    ("coffee", {"context_data": {"spatial": {"city": "Rom"}}}, ("context_data",)),
    ("coffee", {"metadata": {"room": {"floor": 9}}}, ("metadata",)),
    ("coffee", {"min_importance": 9, "min_confidence": 1.0}, ("min_importance", "min_confidence")),
    ("coffee", {"created_after": NOW + timedelta(days=1)}, ("created_after",)),
    ("coffee", {"created_before": NOW}, ("created_before",)),
    ("coffee", {"accessed_after": NOW}, ("accessed_after",)),
    (
        "coffee",
        {"memory_type": ["fact", "x"], "created_by": {"a"}},
        ("memory_type", "created_by"),
    ),
    ("coffee", {"namespace": "x"}, ("namespace",)),
    ("coffee", {"namespace": ["x", ""]}, ("namespace",)),
    ("coffee", {"namespace_prefix": "x", "key_prefix": "x"}, ("namespace_prefix", "key_prefix")),
    ("coffee", {"modified_after": datetime(2100, 1, 1, tzinfo=UTC)}, ("modified_after",)),
    (None, {}, ()),
    (None, {"category": "home"}, ("category",)),
]


@pytest.mark.parametrize(("query", "filters", "causes"), WHY_NOT, ids=str)
async def test_what_keeps_a_memory_out_is_named(conn, memories, query, filters, causes):
    told = await explain_search(conn, 1, query, memories["a"], **filters)
    assert (told.causes, told.is_returned) == (causes, not causes)
    found = await search_memories(conn, 1, query, **filters)
    assert (memories["a"] in [hit.id for hit in found]) is told.is_returned
    if told.is_returned:
        assert told.rank == 1
        assert told.hit == found[0]


async def test_other_causes_of_absence_are_named_too(conn, memories):
    async def causes(number, query="coffee", user=1, **filters):
        return (await explain_search(conn, user, query, number, **filters)).causes

    assert await causes(10**12) == ("missing",)
    assert await causes(memories["a"], user=2) == ("missing",)
    assert await causes(memories["a"], user="nobody") == ("missing",)
    assert await causes(memories["b"], None, limit=1) == ("limit",)
    assert await causes(memories["b"], "drinks coffee", limit=1) == ("limit",)
    await archive_memory(conn, 1, memories["a"])
    assert await causes(memories["a"]) == ("include_archived",)
    gone = await add_memory(conn, 1, "coffee", expires_at=NOW)
    assert await causes(gone.id) == ("expires_at",)


async def test_common_words_and_the_cut_are_named_as_causes(conn):
    await add_memories(conn, 3, ({"content": f"tea {n}"} for n in range(1300)))
    (first,) = await search_memories(conn, 3, "tea 0", limit=1)
    assert first.matched_terms == ("0",)
    other = (await search_memories(conn, 3, "tea 7", limit=1))[0].id
    told = await explain_search(conn, 3, "tea 0", other)
    assert (told.causes, told.matched_terms) == (("common_words",), ("tea",))
    oldest = min([m.id async for m in iterate_memories(conn, 3)])
    assert oldest not in [hit.id for hit in await search_memories(conn, 3, "tea", limit=1000)]
    assert (await explain_search(conn, 3, "tea", oldest)).causes == ("cut",)


async def test_iterating_reads_every_memory_once_while_others_are_added(conn, monkeypatch):
    monkeypatch.setattr("ltm_store.search._PAGE", 7)
    for n in range(40):
        await add_memory(conn, 1, f"{n}", importance_score=1 + n % 10, created_at=NOW)
    await add_memory(conn, 1, "other", memory_type="goal")
    seen = []
    async for memory in iterate_memories(conn, 1, created_before=NOW + timedelta(days=1)):
        seen.append(memory.content)
        await add_memory(conn, 1, "later", created_at=NOW + timedelta(days=2))
    assert sorted(map(int, seen)) == list(range(40))
    assert [m.content async for m in iterate_memories(conn, 1, memory_type="goal")] == ["other"]
    assert [m async for m in iterate_memories(conn, "nobody")] == []


async def test_archived_memories_stand_among_the_others_by_importance(conn):
    for score in range(1, 11):
        memory = await add_memory(conn, 1, f"{score}", importance_score=score, created_at=NOW)
        if score % 3 == 0:
            await archive_memory(conn, 1, memory.id)
    found = await search_memories(conn, 1, include_archived=True, limit=7, as_of=NOW)
    assert [int(hit.content) for hit in found] == [10, 9, 8, 7, 6, 5, 4]
    found = await search_memories(conn, 1, limit=7, as_of=NOW)
    assert [int(hit.content) for hit in found] == [10, 8, 7, 5, 4, 2, 1]


async def test_all_pages_hold_archived_memories_on_demand(conn, monkeypatch):
    monkeypatch.setattr("ltm_store.search._PAGE", 3)
    for score in range(1, 11):
        memory = await add_memory(conn, 1, f"{score}", importance_score=score, created_at=NOW)
        if score % 3 == 0:
            await archive_memory(conn, 1, memory.id)
    all_of_them = [m async for m in iterate_memories(conn, 1, include_archived=True)]
    assert [int(m.content) for m in all_of_them] == list(range(10, 0, -1))


ORDERS = {"importance": "cdba", "newest": "dcba", "oldest": "abcd", "modified": "badc"}


@pytest.fixture
async def changed(conn):
    """Memories a to d, created in this order, c the most important one, a changed and then b."""
    scores = {"a": 1, "b": 2, "c": 9, "d": 3}
    ids = {
        name: (
            await add_memory(
                conn, 1, name, importance_score=score, created_at=NOW + timedelta(days=n)
            )
        ).id
        for n, (name, score) in enumerate(scores.items())
    }
    for name in "ab":
        await update_memory(conn, 1, ids[name], context="changed")
    return ids


@pytest.mark.parametrize("order", ORDERS)
async def test_lists_and_iterations_come_in_the_order_asked_for(conn, changed, order):
    hits = await search_memories(conn, 1, order=order)
    assert "".join(hit.content for hit in hits) == ORDERS[order]
    assert (
        "".join([m.content async for m in iterate_memories(conn, 1, order=order)])
        == (ORDERS[order])
    )
    few = await search_memories(conn, 1, " ", order=order, limit=2, offset=1)
    assert few == hits[1:3]
    assert await search_memories(conn, 1, order=order, offset=4) == []


@pytest.mark.parametrize("order", ["newest", "oldest"])
async def test_memories_of_one_moment_have_one_order(conn, order):
    ids = [(await add_memory(conn, 1, f"{n}", created_at=NOW)).id for n in range(5)]
    hits = await search_memories(conn, 1, order=order)
    assert [hit.id for hit in hits] == sorted(ids, reverse=order == "newest")


async def test_an_order_takes_the_filters_and_archived_memories(conn, changed):
    await archive_memory(conn, 1, changed["c"])
    hits = await search_memories(conn, 1, order="newest", min_importance=2)
    assert "".join(hit.content for hit in hits) == "db"
    hits = await search_memories(conn, 1, order="oldest", include_archived=True)
    assert "".join(hit.content for hit in hits) == "abcd"


async def test_pages_of_a_query_are_those_of_one_list(conn, conversations):
    query = QUERIES[0]
    hits = await search_memories(conn, 1, query, limit=40)
    pages = [await search_memories(conn, 1, query, limit=10, offset=n) for n in range(0, 40, 10)]
    assert [[hit.id for hit in page] for page in pages] == [
        [hit.id for hit in hits[n : n + 10]] for n in range(0, 40, 10)
    ]
    told = await explain_search(conn, 1, query, hits[3].id, limit=10, offset=5)
    assert (told.rank, told.is_returned, told.causes) == (4, False, ("offset",))
    told = await explain_search(conn, 1, query, hits[14].id, limit=10, offset=5)
    assert (told.rank, told.is_returned, told.causes) == (15, True, ())
    told = await explain_search(conn, 1, query, hits[15].id, limit=10, offset=5)
    assert (told.is_returned, told.causes) == (False, ("limit",))


@pytest.mark.parametrize("order", ORDERS)
async def test_no_page_of_an_iteration_repeats_or_misses_while_others_write(
    conn, monkeypatch, order
):
    monkeypatch.setattr("ltm_store.search._PAGE", 5)
    ids = [(await add_memory(conn, 1, f"{n}")).id for n in range(20)]
    seen = []
    async for memory in iterate_memories(conn, 1, order=order):
        seen.append(memory.id)
        if len(seen) == 5:
            for number in ids:
                await update_memory(conn, 1, number, importance_score=1 + number % 9)
            await record_access(conn, 1, ids[::2])
            await add_memory(conn, 1, "new")
            await add_memory(conn, 1, "old", created_at=NOW - timedelta(days=999))
    assert sorted(seen) == ids


HOSTILE = [
    "a & ! (",
    "':* | '",
    '"unclosed -phrase',
    "%_\\",
    "'; DROP TABLE ltm_memories; --",
    "👩‍🚀 coffee",
    "\u202ecoffee",
    "word " * 10_000,
    " ".join(f"memory{n}" for n in range(10_000)),
    '"a b" -"c d" ' * 5_000,
    "the of and",
    "x" * 5_000,
]


@pytest.mark.parametrize("query", HOSTILE, ids=lambda q: ascii(q[:20]))
async def test_hostile_queries_are_words(conn, memories, query):
    found = await search_memories(conn, 1, query)
    assert ("coffee" in query) == bool(found)


async def test_hostile_queries_do_not_hang_on_many_memories(filled):
    async with asyncio.timeout(10 * DEADLINE):
        for query in HOSTILE:
            await search_memories(filled, 5, f"{query} words about memory")


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
        ("memory_type", []),
        ("category", ()),
        ("source_type", set()),
        ("source_id", frozenset()),
        ("created_by", iter(())),
        ("tags_none", []),
        ("source_id", ["x"] * 10_001),
        ("memory_type", 5),
        ("memory_type", ""),
        ("source_id", {"a": 1}),
        ("modified_after", "today"),
        ("order", "random"),
        ("order", ""),
        ("offset", -1),
        ("offset", 10_001),
        ("offset", True),
        ("namespace", []),
        ("namespace", "a..b"),
        ("namespace", "\0"),
        ("namespace_prefix", "a."),
        ("namespace_prefix", ("a", "b.c")),
        ("key_prefix", "x" * 256),
    ],
    ids=lambda value: str(value)[:15],  # without addresses, which differ
)
async def test_bad_filters_are_refused_by_name(conn, field, value):
    with pytest.raises(InvalidArgument) as caught:
        await search_memories(conn, 1, **{field: value})
    assert caught.value.field == field


async def test_an_order_is_refused_where_the_query_gives_one(conn):
    for order in get_args(Order):
        with pytest.raises(InvalidArgument) as caught:
            await search_memories(conn, 1, "coffee", order=order)
        assert caught.value.field == "order"
    with pytest.raises(InvalidArgument) as caught:
        await anext(iterate_memories(conn, 1, order=None))  # type: ignore[arg-type]
    assert caught.value.field == "order"


async def test_iterating_leaves_out_none_and_repeats_none_while_importance_moves(conn, monkeypatch):
    monkeypatch.setattr("ltm_store.search._PAGE", 7)
    ids = [(await add_memory(conn, 1, f"{n}", importance_score=5)).id for n in range(40)]
    seen = []
    async for memory in iterate_memories(conn, 1):
        seen.append(memory.id)
        if len(seen) == 7:
            await record_access(conn, 1, [number for number in ids if number not in seen][-3:])
            await update_importance(conn, 1, seen[0], 1)
            await delete_memory(conn, 1, min(set(ids) - set(seen)))
    assert len(seen) == len(set(seen)) == 39
