"""Searching by meaning and words, against a full scan in Python; and the times in a question."""

import math
import random
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from ltm_store import (
    InvalidArgument,
    add_memories,
    add_memory,
    archive_memory,
    connect,
    delete_memory,
    embed_memory,
    explain_search,
    index_user,
    restore_memory,
    search_memories,
    update_memory,
)
from ltm_store.embedders import FunctionEmbedder
from ltm_store.model.times import ENGLISH, LANGUAGES, spans_of
from tests.servers import local_alone

NOW = datetime(2026, 8, 13, 15, tzinfo=UTC)  # a Thursday
SIZE = 4
with_vectors = pytest.mark.usefixtures("vectors")


def cosine(one: Sequence[float], other: Sequence[float]) -> float:
    return (
        sum(a * b for a, b in zip(one, other, strict=True)) / math.hypot(*one) / math.hypot(*other)
    )


def drawn_vector(drawn: random.Random, size: int = SIZE) -> list[float]:
    return [drawn.randrange(-9, 10) + 0.5 for _ in range(size)]


FILTERS: dict[str, Any] = {
    "memory_type": lambda row: row["memory_type"] == "goal",
    "tags": lambda row: "red" in row["tags"],
    "min_importance": lambda row: row["importance_score"] >= 8,
    "source_id": lambda row: row["source_id"] == "s",
    "include_archived": lambda row: True,
}
GIVEN: dict[str, Any] = {
    "memory_type": "goal",
    "tags": ["red"],
    "min_importance": 8,
    "source_id": "s",
    "include_archived": True,
}


async def stored(conn, drawn: random.Random, count: int) -> list[dict[str, Any]]:
    """Memories of two users with all that can keep one out of the nearest."""
    rows = []
    for number in range(count):
        row: dict[str, Any] = {
            "memory_type": drawn.choice(("fact", "goal")),
            "tags": drawn.sample(("red", "green", "blue"), drawn.randrange(3)),
            "importance_score": drawn.randrange(1, 11),
            "source_id": drawn.choice(("s", None)),
            "expires_at": drawn.choice((None, None, NOW, NOW + timedelta(1))),
            "embedding": drawn_vector(drawn, drawn.choice((SIZE, SIZE, SIZE, 3))),
            "embedding_model": drawn.choice(("caller", "caller", "caller", "other")),
        }
        user = drawn.choice((1, 1, 1, 1, 2))
        memory = await add_memory(conn, user, f"content {number}", **{**row, "expires_at": None})
        if is_stale := drawn.random() < 0.1:
            await update_memory(conn, user, memory.id, content=f"changed {number}")
        if is_archived := drawn.random() < 0.2:
            await archive_memory(conn, user, memory.id)
        await update_memory(conn, user, memory.id, expires_at=row["expires_at"])
        rows.append(
            {**row, "id": memory.id, "user": user, "stale": is_stale, "archived": is_archived}
        )
    return rows


@pytest.mark.slow
@with_vectors
async def test_the_nearest_are_those_of_a_full_scan(conn):
    drawn = random.Random(16)
    rows = await stored(conn, drawn, 500)
    for _ in range(40):
        query = drawn_vector(drawn)
        names = [name for name in FILTERS if drawn.random() < 0.3]
        passing = [
            (cosine(query, row["embedding"]), row["id"])
            for row in rows
            if row["user"] == 1
            and row["embedding_model"] == "caller"
            and len(row["embedding"]) == SIZE
            and not row["stale"]
            and (row["expires_at"] is None or row["expires_at"] > NOW)
            and ("include_archived" in names or not row["archived"])
            and all(FILTERS[name](row) for name in names)
        ]
        hits = await search_memories(
            conn,
            1,
            query_embedding=query,
            as_of=NOW,
            importance_weight=0,
            limit=200,
            **{name: GIVEN[name] for name in names},
        )
        wanted = sorted(passing, reverse=True)[:200]
        assert {hit.id for hit in hits} == {number for _, number in wanted}
        assert [hit.meaning_score for hit in hits] == pytest.approx([near for near, _ in wanted])


@with_vectors
async def test_words_and_meaning_are_added_up_by_their_weights(conn):
    async def add(content: str, numbers: list[float]) -> int:
        return (await add_memory(conn, 1, content, embedding=numbers)).id

    worded = await add("I cannot eat shellfish", [0.0, 1.0])
    meant = await add("Prawns make me ill", [1.0, 0.1])
    both = await add("shellfish and prawns", [1.0, 1.0])
    bare = (await add_memory(conn, 1, "shellfish without a vector")).id
    ask: dict[str, Any] = {"query_embedding": [1.0, 0.0], "importance_weight": 0}
    words = {h.id: h for h in await search_memories(conn, 1, "shellfish", importance_weight=0)}
    assert set(words) == {worded, both, bare}
    assert all(hit.meaning_score is None for hit in words.values())
    for weight in (0.0, 0.2, 0.4, 1.0):
        hits = await search_memories(conn, 1, "shellfish", meaning=weight, **ask)
        found = {hit.id: hit for hit in hits}
        assert set(found) == ({worded, both, bare} if weight == 0 else {worded, meant, both, bare})
        if weight == 0:
            assert found == words
            continue
        top = max(hit.text_score for hit in hits)
        near = [hit.meaning_score for hit in hits if hit.meaning_score is not None]
        for hit in hits:
            meaning = min(near) if hit.meaning_score is None else hit.meaning_score
            share = (1 - weight) * hit.text_score / top + weight * meaning / max(near)
            assert hit.score == pytest.approx(share)
        assert [hit.score for hit in hits] == sorted((h.score for h in hits), reverse=True)
        assert found[bare].meaning_score is None
        assert found[meant].text_score == 0
        assert found[meant].matched_terms == ()
        assert found[worded].meaning_score == pytest.approx(0, abs=1e-3)


@with_vectors
async def test_a_turn_borrows_from_what_is_beside_it_in_the_source_while_that_can_be_found(conn):
    async def add(content: str, near: float, source: str, place: int, **fields: Any) -> int:
        return (
            await add_memory(
                conn,
                1,
                content,
                embedding=[near, 1.0],
                source_id=source,
                source_position=place,
                **fields,
            )
        ).id

    async def scores(**options) -> dict[int, float]:
        hits = await search_memories(
            conn, 1, query_embedding=[1.0, 0.0], meaning=1, importance_weight=0, **options
        )
        cosines.update({hit.id: hit.meaning_score for hit in hits})
        return {hit.id: hit.score for hit in hits}

    cosines: dict[int, Any] = {}
    answer = await add("Yes, two", 0.1, "talk", 7)
    before = await add("By the way", 0.1, "talk", 5)
    elsewhere = [await add("Who knows", 0.1, "other", 7), await add("Well", 0.1, "talk", 9)]
    await add_memory(conn, 2, "x", embedding=[9.0, 1.0], source_id="talk", source_position=8)
    alone = await scores()
    assert len(set(alone.values())) == 1  # of those that are all as near none borrows
    asked = await add("Do you have cats?", 3.0, "talk", 6, memory_type="question")  # arrives later
    found = await scores()
    least, most = cosines[elsewhere[0]], cosines[asked]
    assert found[answer] == pytest.approx((least + 0.5 * (most - least)) / most)
    assert found[before] == pytest.approx((least + 0.2 * (most - least)) / most)
    for number in elsewhere:
        assert found[number] == pytest.approx(least / most)
    assert cosines[answer] == pytest.approx(least)  # its own, as it is

    async def lends_nothing(**options) -> None:
        found = await scores(**options)
        assert found[answer] == found[elsewhere[0]]

    await lends_nothing(neighbours=False)
    assert (await scores(memory_type=["question"])).keys() == {asked}
    await conn.execute("UPDATE ltm_memories SET memory_type = 'fact' WHERE id <> $1", asked)
    await lends_nothing(memory_type="fact")
    await archive_memory(conn, 1, asked)
    await lends_nothing()
    assert (await scores(include_archived=True))[answer] == pytest.approx(found[answer])
    await restore_memory(conn, 1, asked)
    soon = datetime.now(UTC) + timedelta(1)
    await update_memory(conn, 1, asked, expires_at=soon)
    await lends_nothing(as_of=soon)
    await update_memory(conn, 1, asked, expires_at=None)
    assert await scores() == found
    await update_memory(conn, 1, asked, content="Another one, without a vector")
    await lends_nothing()
    await embed_memory(conn, 1, asked, [3.0, 1.0])
    assert await scores() == found
    await delete_memory(conn, 1, asked)
    assert await scores() == alone


@with_vectors
async def test_the_first_and_the_last_place_of_a_source_can_be_found(conn):
    ids = {
        (await add_memory(conn, 1, "tea", embedding=[1, 0], source_id="s", source_position=p)).id
        for p in (-(2**31), 2**31 - 1)
    }
    hits = await search_memories(conn, 1, "tea", distinct=False)
    assert {hit.id for hit in hits} == ids
    hits = await search_memories(conn, 1, "x", query_embedding=[1.0, 0.0], distinct=False)
    assert {hit.id for hit in hits} == ids


@with_vectors
async def test_importance_counts_after_words_and_meaning_and_before_the_limit(conn):
    for number in range(230):
        await add_memory(conn, 1, f"near {number}", importance_score=1, embedding=[1.0, 0.01])
    kept = await add_memory(conn, 1, "a little further", importance_score=10, embedding=[1, 0.1])
    (hit,) = await search_memories(
        conn, 1, "nothing", query_embedding=[1.0, 0.0], importance_weight=1, limit=1
    )
    assert hit.id != kept.id  # it is not among the 200 nearest
    await conn.execute(
        "DELETE FROM ltm_embeddings WHERE memory_id % 2 = 1 AND memory_id <> $1", kept.id
    )
    (hit,) = await search_memories(
        conn, 1, "nothing", query_embedding=[1.0, 0.0], importance_weight=1, limit=1
    )
    assert hit.id == kept.id


@with_vectors
async def test_a_score_is_the_same_on_every_page(conn):
    drawn = random.Random(7)
    await add_memories(
        conn,
        1,
        [
            {"content": f"{drawn.choice(('tea', 'green tea', 'green', 'black'))} {number}"}
            | ({"embedding": drawn_vector(drawn)} if number % 9 else {})
            for number in range(700)
        ],
    )
    ask: dict[str, Any] = {"query_embedding": drawn_vector(drawn)}
    first = await search_memories(conn, 1, "green tea", limit=10, **ask)
    later = await search_memories(conn, 1, "green tea", limit=650, **ask)
    scores = {hit.id: (hit.score, hit.text_score) for hit in later}
    assert len(scores) > 400
    assert [scores[hit.id] for hit in first] == [(hit.score, hit.text_score) for hit in first]
    near = await search_memories(conn, 1, "green tea", limit=200, meaning=0.9, **ask)
    later = await search_memories(conn, 1, "green tea", limit=650, meaning=0.9, **ask)
    scores = {hit.id: (hit.score, hit.text_score) for hit in later}
    assert [scores[hit.id] for hit in near] == [(hit.score, hit.text_score) for hit in near]
    assert any(hit.meaning_score is None for hit in near)


@with_vectors
async def test_equal_contents_are_one_hit_and_the_best_part_of_a_long_one_counts(conn):
    first = await add_memory(conn, 1, "The same", embedding=[1.0, 0.0])
    second = await add_memory(conn, 1, "the  same", embedding=[1.0, 0.0], importance_score=9)
    (hit,) = await search_memories(conn, 1, "x", query_embedding=[1.0, 0.0], distinct=True)
    assert (hit.id, hit.duplicate_ids) == (second.id, (first.id,))
    told = await explain_search(conn, 1, None, first.id, query_embedding=[1.0, 0.0])
    assert told.causes == ("distinct",)
    await conn.execute(
        "INSERT INTO ltm_embeddings (user_id, memory_id, model, part, dimensions, embedding, "
        "content_hash, embedded_at) SELECT user_id, memory_id, model, 1, 2, "
        "ltm_embedding('{0,1}'), content_hash, now() FROM ltm_embeddings WHERE memory_id = $1",
        second.id,
    )
    hits = await search_memories(conn, 1, "x", query_embedding=[0.0, 1.0], distinct=True)
    assert [hit.id for hit in hits] == [second.id]
    assert hits[0].meaning_score == pytest.approx(1)


@with_vectors
async def test_an_explanation_covers_the_meaning(conn):
    memory = await add_memory(conn, 1, "Prawns make me ill", embedding=[1.0, 0.0])
    other = await add_memory(conn, 1, "nothing of that kind", embedding=[0.0, 1.0])
    unembedded = await add_memory(conn, 1, "neither")
    ask: dict[str, Any] = {"query_embedding": [1.0, 0.1]}
    found = await explain_search(conn, 1, "shellfish", memory.id, **ask)
    assert (found.is_returned, found.rank, found.causes) == (True, 1, ())
    assert found.hit is not None
    assert found.hit.meaning_score == pytest.approx(1, abs=0.01)
    assert (await explain_search(conn, 1, "shellfish", other.id, limit=1, **ask)).causes == (
        "limit",
    )
    assert (await explain_search(conn, 1, "shellfish", unembedded.id, **ask)).causes == ("query",)
    assert (await explain_search(conn, 1, "shellfish", memory.id, meaning=0, **ask)).causes == (
        "query",
    )


@with_vectors
async def test_a_database_with_an_embedder_embeds_the_question(dsn):
    asked: list[tuple[str, str]] = []

    def embed(texts: Sequence[str], purpose: str) -> list[list[float]]:
        asked.extend((text, purpose) for text in texts)
        return [[1.0, float("prawn" in t.lower() or "shellfish" in t.lower())] for t in texts]

    async with connect(dsn, access_tracking="off", embedder=FunctionEmbedder("m", 2, embed)) as db:
        memory = await add_memory(db, 1, "Prawns make me ill")
        await db.flush()
        await add_memory(db, 1, "Something else")
        await db.flush()
        hits = await search_memories(db, 1, "Which shellfish?")
        assert hits[0].id == memory.id
        assert hits[0].meaning_score == pytest.approx(1, abs=1e-3)
        assert asked[-1] == ("Which shellfish?", "query")
        before = len(asked)
        assert await search_memories(db, 1, "Which shellfish?", meaning=0) == []
        await search_memories(db, 1)  # a list asks for nothing
        assert len(asked) == before
        assert (await search_memories(db, 1, "x", query_embedding=[1, 1]))[0].id == memory.id
        with pytest.raises(InvalidArgument, match="query_embedding: should have 2 numbers"):
            await search_memories(db, 1, "x", query_embedding=[1.0])
        with pytest.raises(InvalidArgument, match="embedding_model: goes with query_embedding"):
            await search_memories(db, 1, "x", embedding_model="other")


@pytest.mark.parametrize("meaning", [-0.1, 1.1, math.nan, True, "0.4"])
async def test_a_weight_of_meaning_is_a_share(conn, meaning):
    with pytest.raises(InvalidArgument) as caught:
        await search_memories(conn, 1, "x", meaning=meaning)
    assert caught.value.field == "meaning"


# -- the time in a question ----------------------------------------------------------------------

TIMES = {
    "last May": "2026-05-01 2026-06-01",
    "this May": "2026-05-01 2026-06-01",
    "next May": "2027-05-01 2027-06-01",
    "March 2023": "2023-03-01 2023-04-01",
    "What happened in 2023?": "2023-01-01 2024-01-01",
    "on Sunday": "2026-08-09 2026-08-10",
    "last Thursday": "2026-08-06 2026-08-07",
    "next Friday": "2026-08-14 2026-08-15",
    "8 May 2023": "2023-05-08 2023-05-09",
    "May 8, 2023": "2023-05-08 2023-05-09",
    "the 8th of May, 2023": "2023-05-08 2023-05-09",
    "Oct. 3rd 2022": "2022-10-03 2022-10-04",
    "2023-05-08": "2023-05-08 2023-05-09",
    "2023-05": "2023-05-01 2023-06-01",
    "yesterday": "2026-08-12 2026-08-13",
    "Last night": "2026-08-12 2026-08-13",
    "the day before yesterday": "2026-08-11 2026-08-12",
    "tomorrow": "2026-08-14 2026-08-15",
    "last week": "2026-08-03 2026-08-10",
    "last weekend": "2026-08-08 2026-08-10",
    "two weeks ago": "2026-07-27 2026-08-03",
    "3 months ago": "2026-05-01 2026-06-01",
    "a year ago": "2025-01-01 2026-01-01",
    "in the past 3 days": "2026-08-10 2026-08-13",
    "last summer": "2025-06-01 2025-09-01",
    "summer of 2023": "2023-06-01 2023-09-01",
    "winter 2022": "2022-12-01 2023-03-01",
    "this year": "2026-01-01 2027-01-01",
}
NO_TIMES = (
    "May I ask who may come?",
    "We march to the store, I will march 10 miles, 5 may come",
    "Is the sun out? We sat in the sun, and wed",
    "What did April say to August about June?",
    "I fall often by the spring, winter coats",
    "It cost 2000 dollars and 1999",
    "31 February 2023, 2023-13-45",
    "second last, next door, this one",
    "",
)


@pytest.mark.parametrize("question", TIMES)
def test_a_time_is_found_in_a_question(question):
    (span,) = spans_of(question, NOW)
    assert f"{span.starts_at:%Y-%m-%d} {span.ends_at:%Y-%m-%d}" == TIMES[question]


@pytest.mark.parametrize("question", NO_TIMES)
def test_other_words_are_no_times(question):
    assert spans_of(question, NOW) == []


def test_a_month_without_a_year_is_that_of_each_year():
    found = spans_of("in may", NOW)
    assert {span.starts_at.month for span in found} == {5}
    assert {2026, 2025, 2000} <= {span.starts_at.year for span in found}


@pytest.mark.parametrize("year", [1, 2, 9999])
def test_times_at_the_ends_of_the_calendar_do_no_harm(year):
    for question in TIMES:
        spans_of(question, datetime(year, 1, 1, tzinfo=UTC))
        spans_of(question, datetime(year, 12, 31, tzinfo=UTC))


def test_another_language_can_be_added(monkeypatch):
    german = {name: getattr(ENGLISH, name) for name in ENGLISH.__dataclass_fields__}
    german |= {"days": {"gestern": -1}, "plain_months": frozenset({"mai"}), "months": {"mai": 5}}
    monkeypatch.setitem(LANGUAGES, "de", type(ENGLISH)(**german))
    (span,) = spans_of("Was war gestern?", NOW)
    assert span.starts_at.day == 12


async def test_memories_of_the_time_that_is_asked_for_count_twice(conn):
    async def add(content: str, created_at: datetime, **fields) -> int:
        return (await add_memory(conn, 1, content, created_at=created_at, **fields)).id

    april = await add("a trip to Rome", datetime(2026, 4, 30, 23, 59, tzinfo=UTC))
    may = await add("a trip to Oslo, long and boring", datetime(2026, 5, 31, 23, 59, tzinfo=UTC))
    told = await add(
        "a trip to Bonn",
        NOW,
        enhanced_context={"temporal": {"timestamp": "2026-05-09T10:00:00Z"}},
    )
    hits = {h.id: h for h in await search_memories(conn, 1, "which trip last May?", as_of=NOW)}
    plain = {h.id: h for h in await search_memories(conn, 1, "which trip may", as_of=NOW)}
    assert {number for number, hit in hits.items() if hit.matched_time} == {may, told}
    assert not any(hit.matched_time for hit in plain.values())
    for number in (april, may, told):
        hit = hits[number]
        assert hit.score == pytest.approx(hit.text_score * hit.boost * (1 + hit.matched_time))
    found = await explain_search(conn, 1, "which trip last May?", may, as_of=NOW)
    assert found.hit is not None
    assert found.hit.matched_time


# -- the index of a heavy user -------------------------------------------------------------------

LARGE = 6_000
FILL = (
    "INSERT INTO ltm_memories (user_id, content, memory_type) SELECT 1, 'number ' || n, "
    "CASE WHEN n % 10 = 0 THEN 'goal' ELSE 'fact' END FROM generate_series(1, $1::integer) AS n",
    "INSERT INTO ltm_embeddings (user_id, memory_id, model, dimensions, embedding, content_hash, "
    "embedded_at) SELECT user_id, id, 'caller', 8, ltm_embedding((SELECT array_agg(((hashtext("
    "id || '/' || n) % 1000) / 1000.0)::real) FROM generate_series(1, 8) AS n)), content_hash, "
    "now() FROM ltm_memories WHERE user_id = 1 AND $1::integer > 0",
)


@pytest.mark.slow
@local_alone
@with_vectors
async def test_the_index_of_a_heavy_user_finds_what_a_full_scan_finds(own_dsn):
    drawn = random.Random(16)
    asked = [drawn_vector(drawn, 8) for _ in range(20)]

    async def found(db, **filters) -> list[list[int]]:
        hits = [
            await search_memories(db, 1, query_embedding=vector, meaning=1, **filters)
            for vector in asked
        ]
        return [[hit.id for hit in some] for some in hits]

    async with connect(own_dsn, access_tracking="off", timeout=60, max_size=1) as db:
        async with db.transaction() as connection:
            for statement in FILL:
                await connection.execute(statement, LARGE)
            await connection.execute("SET LOCAL synchronous_commit = off")
        async with db.transaction() as connection:
            await connection.execute("ANALYZE ltm_memories, ltm_memory_ranks, ltm_embeddings")
        exact, goals = await found(db), await found(db, memory_type="goal")
        assert await index_user(db, 1)
        assert await index_user(db, 1)  # kept
        async with db.transaction() as connection:
            scans = "SELECT idx_scan FROM pg_stat_user_indexes WHERE indexrelname LIKE '%hnsw%'"
            assert await connection.fetchval(scans) == 0
        near, near_goals = await found(db), await found(db, memory_type="goal")
        async with db.transaction() as connection:
            assert await connection.fetchval("SHOW hnsw.iterative_scan") == "off"  # nothing stays
            await connection.execute("SELECT pg_stat_force_next_flush()")
        async with db.transaction() as connection:
            assert await connection.fetchval(scans) >= 2 * len(asked)
        assert [len(ids) for ids in near_goals] == [10] * len(asked)
    for full, indexed in ((exact, near), (goals, near_goals)):
        same = sum(len(set(a) & set(b)) for a, b in zip(full, indexed, strict=True))
        assert same >= 0.98 * 10 * len(asked)


@with_vectors
async def test_an_index_is_made_of_what_there_is(db, conn):
    assert not await index_user(db, 1)  # has no vectors
    assert not await index_user(db, "nobody")
    await add_memory(db, 1, "a", embedding=[1.0, 2.0])
    with pytest.raises(InvalidArgument, match="model: "):
        await index_user(db, 1, model="x" * 65)
    with pytest.raises(InvalidArgument, match="db: should not be inside a transaction"):
        await index_user(conn, 1)
    assert not await index_user(db, 1, model="other")
