"""Searching: the filters, the ranking, hostile queries."""

import asyncio
import math
import random
from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any, get_args

import asyncpg
import pytest
from hypothesis import given
from hypothesis import strategies as st

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
from tests.conftest import DRAWS
from tests.servers import local_alone

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
            "temporal": {"timestamp": "2026-03-02T06:30:00+01:00", "timezone": "Europe/Vienna"},
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
    ({"context_data": {"temporal": {"timestamp": "2026-03-02T06:30:00+01:00"}}}, "a"),
    (
        {
            "context_data": {
                "temporal": {
                    "timestamp": datetime(2026, 3, 2, 6, 30),
                    "timezone": "Europe/Vienna",
                }
            }
        },
        "a",
    ),
    ({"context_data": {"temporal": {"timestamp": datetime(2026, 3, 2, 5, 30)}}}, "a"),
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
    ({"phrases": ["drinks tea"]}, "b"),
    ({"query": "plants", "exclude": ["coffee"]}, "b"),
    ({"exclude": ["drink"]}, "c"),
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
    assert [hit.matched_terms for hit in found] == [("tomatoes", "drinks"), ("Drinks",)]
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


SHARES = {0: 1, 1: 0.7, -1: 0.5, 2: 0.4, -2: 0.3}
LABELS = {"A": 1.0, "B": 0.7}


async def words_of(conn, query):
    """The words of a query in their order, with what each counts."""
    rows = await conn.fetch(
        "SELECT lexeme, positions, weights FROM unnest(ltm_words_vector("
        "'ltm', ltm_text_forms($1, ltm_lower($1), TRUE), TRUE))",
        query,
    )
    rows.sort(key=lambda row: ((row["positions"] or [10**6])[0], row["lexeme"].encode()))
    return {row["lexeme"]: 0.5 if (row["weights"] or [0])[0] == "B" else 1.0 for row in rows}


def is_near(asked, word):
    """Whether a word begins with another one, or is one edit from it behind its third letter."""
    if word.startswith(asked):
        return True
    letters = "abcdefghijklmnopqrstuvwxyz"
    edits = {asked[:n] + asked[n + 1 :] for n in range(3, len(asked))}
    edits |= {asked[:n] + c + asked[n + 1 :] for n in range(3, len(asked)) for c in letters}
    edits |= {asked[:n] + c + asked[n:] for n in range(3, len(asked) + 1) for c in letters}
    edits |= {
        asked[:n] + asked[n + 1] + asked[n] + asked[n + 2 :] for n in range(3, len(asked) - 1)
    }
    return word in edits


async def memories_of(conn, user):
    """A user's memories with the words that they hold, newest first."""
    return await conn.fetch(
        "SELECT id, source_id, source_position, created_by, "
        "array(SELECT (lexeme, weights[1])::text FROM unnest(search_vector)) AS words "
        "FROM ltm_memories WHERE user_id = $1 "
        "ORDER BY id DESC",
        user,
    )


async def reference(conn, rows, query, neighbours=True):
    """Text scores of all memories of a user, computed in Python from the words that they hold."""
    asked = await words_of(conn, query)
    held = {}
    for row in rows:
        parts = [word.strip("()").split(",") for word in row["words"]]
        held[row["id"]] = {word: LABELS.get(label, 0.5) for word, label in parts}
    naming = {row["id"]: 1.6 if row["created_by"].lower() in asked else 1 for row in rows}
    speakers = {row["created_by"].lower() for row in rows}
    values = {n: {w: asked[w] * words[w] for w in asked if w in words} for n, words in held.items()}
    for word in set(asked) - set().union(*values.values()) - speakers:
        if len(word) < 4 or asked[word] < 1 or any(letter.isdigit() for letter in word):
            continue
        some = [words for words in held.values() if any(w.startswith(word[:3]) for w in words)]
        near = sorted({w for words in some[:500] for w in words if is_near(word, w)})[:20]
        for n, words in held.items():
            if words.keys() & set(near):
                values[n][word] = 0.3
    holders = Counter(word for found in values.values() for word in found)
    for found in values.values():
        for word in found:
            rare = math.log(1 + (len(rows) - holders[word] + 0.5) / (holders[word] + 0.5))
            found[word] *= rare if len(holders) > 1 else 1
    own = {n: naming[n] * sum(found.values()) for n, found in values.items() if found}
    places = {
        (row["source_id"], row["source_position"]): row["id"] for row in rows if row["source_id"]
    }
    placed = {number: place for place, number in places.items()}
    best = sorted((n for n in own if n in placed), key=lambda n: (-own[n], -n))[:50]
    lent = {n: [values[n]] for n in own}
    for n in best if neighbours else ():
        source, position = placed[n]
        for step, share in SHARES.items():
            other = places.get((source, position + step))
            if step and other:
                lent.setdefault(other, []).append({w: share * v for w, v in values[n].items()})
    return {
        n: naming[n] * sum(max(part.get(word, 0) for part in parts) for word in holders)
        for n, parts in lent.items()
    }


WORDS = [f"{a}{b}nok" for a in "bdfgklmnrst" for b in ("a", "e", "i", "o", "u", "ai")][:60]


@pytest.fixture
async def conversations(conn):
    """150 turns of conversations and 30 memories without a place, of words of every frequency."""
    draw = random.Random(3)
    words = WORDS

    def content():
        return " ".join(words[int(60 ** draw.random()) - 1] for _ in range(8))

    said: list[dict[str, Any]] = [
        {
            "content": content(),
            "source_id": f"conversation {n // 15}",
            "source_position": n % 15,
            "tags": [draw.choice(words)],
            "category": draw.choice(words),
            "memory_type": "fact" if n % 3 else "goal",
            "created_by": ["Anna", "Ben", "system"][n % 3],
        }
        for n in range(150)
    ]
    await add_memories(conn, 1, [*said, *({"content": content()} for _ in range(30))])


QUERIES = [
    f"{WORDS[3]} {WORDS[17]} {WORDS[40]}",
    f"{WORDS[1]} {WORDS[2]}",
    WORDS[59],
    WORDS[1],
    f"What did Anna say of {WORDS[5].upper()}, {WORDS[6]}; {WORDS[7]}-{WORDS[8]}?",
    f"{WORDS[30]}x {WORDS[31][:4]} {WORDS[2]}",
]


@pytest.mark.parametrize("query", QUERIES)
@pytest.mark.parametrize("neighbours", [True, False])
async def test_scores_equal_the_reference(conn, conversations, query, neighbours):
    expected = await reference(conn, await memories_of(conn, 1), query, neighbours)
    hits = await search_memories(conn, 1, query, neighbours=neighbours, distinct=False, limit=1000)
    assert {hit.id for hit in hits} == set(expected)
    for hit in hits:
        assert hit.text_score == pytest.approx(expected[hit.id], rel=1e-9, abs=1e-9)
    order = [(-hit.score, -hit.importance_rank, -hit.id) for hit in hits]
    assert order == sorted(order)


@pytest.mark.slow
async def test_the_best_of_many_memories_are_those_of_the_reference(conn):
    """One word that many hold, rare ones and common ones: importance counts before every cut."""
    draw = random.Random(4)
    await conn.copy_records_to_table(
        "ltm_memories",
        columns=["user_id", "content", "importance_score", "source_id", "source_position"],
        records=[
            (
                1,
                " ".join(WORDS[int(60 ** draw.random()) - 1] for _ in range(5)) + f" {n // 2}",
                10 if n % 397 == 0 else 1 + n % 8,
                f"s{n // 30}" if n % 4 else None,
                n % 30 if n % 4 else None,
            )
            for n in range(15_000 if DRAWS > 1 else 6_000)
        ],
    )
    moment = datetime.now(UTC)
    ranked = await conn.fetch("SELECT id, importance_rank FROM ltm_memories WHERE user_id = 1")
    ranks, rows = dict(map(tuple, ranked)), await memories_of(conn, 1)
    for query in (WORDS[1], f"{WORDS[1]} {WORDS[40]} {WORDS[59]}", "2800"):
        scores = await reference(conn, rows, query)
        hits = await search_memories(conn, 1, query, distinct=False, as_of=moment)
        today = (moment - datetime(2000, 1, 1, tzinfo=UTC)).days

        def key(number):
            points = min(max((ranks[number] - 8 * today) / 1440, 0), 10)  # noqa: B023
            return -scores[number] * (1 + points / 100), -ranks[number], -number  # noqa: B023

        best = sorted(scores, key=key)[:10]
        assert [hit.id for hit in hits] == best
        assert [hit.text_score for hit in hits] == pytest.approx(
            [scores[n] for n in best], rel=1e-9
        )
        many = await search_memories(conn, 1, query, distinct=False, as_of=moment, limit=40)
        assert [hit.id for hit in many[:10]] == best
        told = await explain_search(conn, 1, query, best[4], distinct=False, as_of=moment)
        assert (told.rank, told.hit) == (5, hits[4])


async def test_what_a_filter_leaves_out_decides_nothing(conn, conversations):
    """Neither which words are rare nor what stands beside what."""
    query = QUERIES[0]
    goals = {m.id async for m in iterate_memories(conn, 1, memory_type="goal")}
    found = await search_memories(conn, 1, query, memory_type="goal", limit=1000)
    others = [m.id async for m in iterate_memories(conn, 1) if m.id not in goals]
    for number in others:
        await archive_memory(conn, 1, number)
    alone = await search_memories(conn, 1, query, limit=1000)
    assert [(hit.id, hit.text_score) for hit in found] == [
        (hit.id, hit.text_score) for hit in alone
    ]


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
    assert [hit.neighbour_of for hit in hits] == [None, ids[0], ids[0]]
    alone = await search_memories(conn, 1, "cello", neighbours=False)
    assert [hit.id for hit in alone] == ids[:1]


@pytest.mark.parametrize(
    ("query", "phrases", "exclude", "expected"),
    [
        ("green tea", (), (), "abc"),
        ('"green tea"', (), (), "abc"),
        ("tea -green", (), (), "abc"),
        (None, ["green tea"], (), "a"),
        (None, ["GREEN  teas"], (), "a"),
        ("garden", ["green tea"], (), "a"),
        ("tea", (), ["green"], "b"),
        ("tea", (), ["green tea"], "bc"),
        ("green", (), ["nothing"], "ac"),
        (None, (), ["tea"], "de"),
        (None, ["tea"], ["green"], "b"),
        (None, ["well-known"], (), "d"),
        (None, ["a well known"], (), "d"),
        (None, ["cafe central"], (), "e"),
        (None, ["Café Central"], (), "e"),
        (None, ["place hobby"], (), ""),
        (None, ["hobby sport"], (), ""),
        (None, ["hobby of hers"], (), "d"),
        (None, ["in the"], (), "b"),
        (None, (), ["in the", "on a", "a", "d"], "e"),
    ],
)
async def test_phrases_must_be_there_and_exclusions_must_not(
    conn, query, phrases, exclude, expected
):
    memories = {
        "a": "A cup of green tea",
        "b": "Tea in the evening",
        "c": "Tea on a green table",
        "d": "A well-known place",
        "e": "Mag das Cafe\u0301 Central",
    }
    ids = {}
    for name, text in memories.items():
        tags = ["hobby of hers", "x"] if name == "d" else []
        memory = await add_memory(conn, 1, text, tags=tags, category="sport")
        ids[memory.id] = name
    found = await search_memories(conn, 1, query, phrases=phrases, exclude=exclude)
    assert "".join(sorted(ids[hit.id] for hit in found)) == expected
    if query is None:
        listed = iterate_memories(conn, 1, phrases=phrases, exclude=exclude)
        assert "".join(sorted([ids[m.id] async for m in listed])) == expected


async def test_a_phrase_is_found_wherever_it_stands(conn):
    for content in (
        " ".join(f"the dog ran {n}" for n in range(5500)) + " purple giraffes",
        "purple filler " * 300 + "purple giraffe",
    ):
        memory = await add_memory(conn, 1, content)
        (hit,) = await search_memories(conn, 1, phrases=["purple giraffe"])
        assert hit.id == memory.id
        assert await search_memories(conn, 1, phrases=["giraffe purple"]) == []
        await delete_memory(conn, 1, memory.id)


FOUND = {
    "compounds": [
        ("Cooks vegetarian/vegan food", "vegan"),
        ("Likes tea.He runs", "tea"),
        ("Writes to ann@example.org", "example"),
        ("Has an e-mail list", "email"),
        ("Uses the snake_case style", "snake"),
        ("fooBarBaz is a function", "bar"),
        ("Sees /var/log/syslog daily", "log"),
        ("Reads the HTTPServer code", "server"),
    ],
    "numbers": [
        ("Ticket PROJ-4521", "4521"),
        ("Call (555) 123-4567", "4567"),
        ("Pays 1,250 a month", "1250"),
        ("Born 1990-04-17", "04"),
        ("Ran 3.5 km at -12 degrees", "12"),
        ("Pays 1'250 in Bern", "1250"),
    ],
    "signs": [
        ("Writes C++ at work", "c++"),
        ("Learns C# and .NET", ".net"),
        ("Prefers List<String>", "string"),
        ("Likes \U0001f355 on Fridays", "\U0001f355"),
        ("Works at AT&T", "AT&T"),
        ("Is 50% done", "50"),
    ],
    "names": [
        ("Will called", "Will"),
        ("Works in IT", "IT"),
        ("Loves The Who", "the who"),
        ("Don is her brother", "When did she meet Don?"),
        ("O'Brien phoned", "obrien"),
    ],
    "scripts": [
        ("\u6211\u559c\u6b22\u5496\u5561", "\u5496\u5561"),
        ("\u6211\u559c\u6b22\u8336", "\u8336"),
        ("\ucee4\ud53c\ub97c \uc88b\uc544\ud574\uc694", "\ucee4\ud53c"),
        (
            "\u0e09\u0e31\u0e19\u0e0a\u0e2d\u0e1a\u0e01\u0e32\u0e41\u0e1f",
            "\u0e01\u0e32\u0e41\u0e1f",
        ),
        ("\u064a\u062d\u0628 \u0627\u0644\u0642\u0647\u0648\u0629", "\u0642\u0647\u0648\u0629"),
    ],
    "letters": [
        ("Mag Caf\u00e9", "cafe"),
        ("Mag Cafe\u0301", "caf\u00e9"),
        ("Frau M\u00fcller", "Mueller"),
        ("Frau M\u00fcller", "muller"),
        ("Stra\u00dfe 5", "strasse"),
        ("\uff34\uff4f\uff4b\uff59\uff4f trip", "tokyo"),
        ("co\u00adopera\u200bte", "cooperate"),
        ("\u0415\u043b\u043a\u0430", "\u0435\u043b\u043a\u0430"),
        ("\u0141\u00f3d\u017a", "lodz"),
    ],
    "other spellings": [
        ("Loves coffee", "cofee"),
        ("Loves coffee", "cofefe"),
        ("Deploys with kubernetes", "kuber"),
        ("Meets the Joneses", "Jones"),
    ],
}


@pytest.mark.parametrize("kind", FOUND)
async def test_what_is_plainly_there_is_found(conn, kind):
    for user, (content, query) in enumerate(FOUND[kind]):
        memory = await add_memory(conn, user, content)
        await add_memory(conn, user, "Nothing of the kind")
        assert [h.id for h in await search_memories(conn, user, query)] == [memory.id], query


LETTERS = st.text(
    st.characters(categories=["L", "N"], max_codepoint=0x24F) | st.sampled_from("abceinst"),
    min_size=1,
    max_size=12,
)
SIGNS = st.sampled_from(
    [" ", " ", ", ", ". ", "/", "-", "_", ".", " (", ")", '"', ": ", "@", "<", "&"]
)


@given(parts=st.lists(st.tuples(LETTERS, SIGNS), min_size=1, max_size=8), place=st.integers(0, 7))
async def test_whatever_word_of_a_content_is_asked_for_finds_it(conn, parts, place):
    content = "".join(word + sign for word, sign in parts)
    word = parts[place % len(parts)][0]
    common = await conn.fetchval("SELECT to_tsvector('ltm', ltm_lower($1)) = ''", word)
    memory = await add_memory(conn, 1, content)
    found = await search_memories(conn, 1, word)
    await delete_memory(conn, 1, memory.id)
    assert common or [hit.id for hit in found] == [memory.id]


async def test_an_exact_word_comes_before_other_forms_and_tags(conn):
    for content, tags in (("x", ["caf\u00e9"]), ("cafe", []), ("caf\u00e9", []), ("y", ["cafe"])):
        await add_memory(conn, 1, content, tags=tags)
    hits = await search_memories(conn, 1, "caf\u00e9")
    assert [hit.content for hit in hits][:2] == ["caf\u00e9", "x"] or hits[0].content == "caf\u00e9"
    assert (await search_memories(conn, 1, "cafe"))[0].content == "cafe"


async def test_who_is_named_in_the_query_comes_first(conn):
    for name in ("Ben", "J\u00fcrgen", "user"):
        await add_memory(conn, 1, f"Went skiing in {len(name)}", created_by=name)
    for query, first in (
        ("When did jurgen go skiing?", "J\u00fcrgen"),
        ("When did Ben go skiing?", "Ben"),
    ):
        hits = await search_memories(conn, 1, query)
        assert hits[0].created_by == first
        assert hits[0].text_score == pytest.approx(1.6 * hits[1].text_score)
    hits = await search_memories(conn, 1, "Where did the user go skiing?")
    assert len({hit.text_score for hit in hits}) == 1


async def test_a_word_of_most_memories_still_counts(conn):
    for n in range(150):
        await add_memory(conn, 1, f"Anna drinks coffee, note {n}")
    grinder = await add_memory(conn, 1, "Anna threw the coffee grinder away")
    assert (await search_memories(conn, 1, "coffee grinder"))[0].id == grinder.id
    await archive_memory(conn, 1, grinder.id)
    assert len(await search_memories(conn, 1, "coffee grinder")) == 10


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
    for query in ("das Haus", "Haeuser", "hauser", "FLUSSES"):
        assert [hit.id for hit in await search_memories(connection, 1, query)] == [memory.id]
    migrate.rollback(empty, everything=True)
    kept = "SELECT count(*) FROM pg_ts_config WHERE cfgname = 'ltm'"
    assert await connection.fetchval(kept) == 1, "not ours to drop"
    await connection.close()


async def test_a_restore_has_no_path_to_the_functions_and_needs_none(conn):
    """What pg_restore does: generated columns and indexes are made anew without a search_path."""
    memory = await add_memory(conn, 1, "Caf\u00e9/Bar PROJ-4521", tags=["e-mail"], created_by="Ann")
    before = await conn.fetchval("SELECT search_vector::text FROM ltm_memories")
    home = await conn.fetchval("SELECT current_schema()")
    await conn.execute("SET LOCAL search_path = ''")
    await conn.execute(f"UPDATE {home}.ltm_memories SET content = content")
    await conn.execute(f"REINDEX TABLE {home}.ltm_memories")
    await conn.execute(f"SET LOCAL search_path = {home}")
    assert await conn.fetchval("SELECT search_vector::text FROM ltm_memories") == before
    (hit,) = await search_memories(conn, 1, "bar")
    assert hit.id == memory.id


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
    ("coffee", {"phrases": ["morning coffee"]}, ("phrases",)),
    ("coffee", {"exclude": ["morning"]}, ("exclude",)),
    (None, {"phrases": ["tea"], "exclude": ["morning"]}, ("phrases", "exclude")),
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


async def test_the_cut_is_named_as_a_cause(conn):
    await add_memories(conn, 3, ({"content": f"tea {n}"} for n in range(1100)))
    oldest = min([m.id async for m in iterate_memories(conn, 3)])
    assert oldest not in [hit.id for hit in await search_memories(conn, 3, "tea", limit=1000)]
    told = await explain_search(conn, 3, "tea", oldest)
    assert (told.causes, told.matched_terms) == (("cut",), ("tea",))


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
    "lorem " * 10_000,
    " ".join(f"memory{n}" for n in range(10_000)),
    '"a b" -"c d" ' * 5_000,
    "the of and",
    "x" * 5_000,
]


@pytest.mark.parametrize("query", HOSTILE, ids=lambda q: ascii(q[:20]))
async def test_hostile_queries_are_words(conn, memories, query):
    found = await search_memories(conn, 1, query)
    assert ("coffee" in query) == bool(found)


async def test_hostile_queries_do_not_hang_on_many_memories(conn):
    many = [{"content": f"Some words about memory {n}"} for n in range(1000)]
    await add_memories(conn, 5, many)
    async with asyncio.timeout(10 * DEADLINE):
        for query in HOSTILE:
            await search_memories(conn, 5, f"{query} words about memory")


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
        ("context_data", {"temporal": {"timezone": "Mars/Olympus"}}),
        ("query", "x" * 250_001),
        ("metadata", {"a": float("inf")}),
        ("created_after", "today"),
        ("tags", "work"),
        ("phrases", "work"),
        ("phrases", [" "]),
        ("exclude", ["x"] * 65),
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


@pytest.mark.parametrize(
    "ranking", [{"query": "coffee"}, {"phrases": ["coffee"]}, {"query_embedding": [1.0]}], ids=str
)
async def test_an_order_is_refused_where_a_score_gives_one(conn, ranking):
    for order in get_args(Order):
        with pytest.raises(InvalidArgument) as caught:
            await search_memories(conn, 1, order=order, **ranking)
        assert caught.value.field == "order"
        with pytest.raises(InvalidArgument, match="^order: "):
            await explain_search(conn, 1, memory_id=1, order=order, **{"query": None, **ranking})


async def test_what_must_not_be_in_a_memory_leaves_the_order(conn, changed):
    hits = await search_memories(conn, 1, exclude=["a"], order="oldest")
    assert "".join(hit.content for hit in hits) == ORDERS["oldest"].replace("a", "")


async def test_an_iteration_has_an_order(conn):
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


@local_alone
@pytest.mark.parametrize("plan", ["force_custom_plan", "force_generic_plan"])
@pytest.mark.parametrize("join", ["nestloop", "hashjoin", "mergejoin"])
async def test_a_search_finds_the_same_however_the_planner_joins(conn, join, plan):
    for number in range(5):
        await add_memory(conn, 1, f"keeps the secret number {number} in a green box")
    await conn.execute("ANALYZE ltm_memories, ltm_memory_ranks")
    queries = ("secret green box", "box")
    found = [await search_memories(conn, 1, query, limit=50) for query in queries]
    await conn.execute(f"SET LOCAL plan_cache_mode = {plan}")
    for other in {"nestloop", "hashjoin", "mergejoin"} - {join}:
        await conn.execute(f"SET LOCAL enable_{other} = off")
    again = [await search_memories(conn, 1, query, limit=50) for query in queries]
    assert again == found
