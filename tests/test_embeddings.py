"""Vectors: the optional step, making them in the background, one's own, and what is similar."""

import asyncio
import hashlib
import math
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime
from typing import Any

import asyncpg
import pytest

from ltm_store import (
    Database,
    InvalidArgument,
    InvalidMemory,
    StepMissing,
    Unavailable,
    add_memories,
    add_memory,
    archive_memory,
    connect,
    delete_memory,
    embed_memories,
    embed_memory,
    embed_missing,
    embedding_status,
    export_user,
    find_similar,
    forget_user,
    import_user,
    meaning,
    merge_users,
    migrate,
    put_memory,
    search_memories,
    suggest_relationships,
    update_memory,
)
from ltm_store.embedders import FunctionEmbedder
from ltm_store.embeddings import unembedded
from ltm_store.model.vectors import parts_of
from tests.catalog import fingerprint
from tests.servers import with_options

pytestmark = pytest.mark.usefixtures("vectors")
SIZE = 16


def vector(text: str) -> list[float]:
    """Numbers that only equal texts share."""
    digest = hashlib.blake2b(text.encode(), digest_size=SIZE).digest()
    return [byte - 127.5 for byte in digest]


def vectors_of(texts: Sequence[str]) -> list[list[float]]:
    return [vector(text) for text in texts]


def toy(function=vectors_of, *, model: str = "toy", size: int = SIZE) -> FunctionEmbedder:
    return FunctionEmbedder(model, size, function)


@pytest.fixture
async def embedding_db(dsn) -> AsyncIterator[Database]:
    """A Database with an embedder."""
    async with connect(dsn, access_tracking="off", embedder=toy()) as db:
        yield db


async def status(db) -> dict[str, tuple[int, int, int, int]]:
    found = await embedding_status(db)
    return {s.model: (s.memories, s.embedded, s.stale, s.set_aside) for s in found}


# -- the optional step ---------------------------------------------------------------------------


async def test_the_step_is_explained_named_can_be_repeated_and_undone(own_dsn):
    connection = await asyncpg.connect(own_dsn)

    async def made() -> list[str]:
        found = await fingerprint(connection, steps=True)
        return [line for line in found if "ltm_embedding" in line]

    lines = await made()
    for line in lines:
        if line.startswith(("column", "table", "index", "function")):
            assert line.rsplit("|", 1)[1].strip(), line
    migrate.optional(own_dsn, "embeddings")
    migrate.optional(own_dsn, "embeddings", undo=True)
    assert not [
        line for line in await fingerprint(connection, steps=True) if "ltm_embedding" in line
    ]
    migrate.optional(own_dsn, "embeddings")
    assert [
        line for line in await fingerprint(connection, steps=True) if "ltm_embedding" in line
    ] == lines
    storage = "SELECT attstorage FROM pg_attribute WHERE attrelid = 'ltm_embeddings'::regclass "
    assert await connection.fetchval(storage + "AND attname = 'embedding'") == b"p"
    await connection.close()


async def test_everything_rolls_back_with_the_vectors(own_dsn):
    assert migrate.rollback(own_dsn, everything=True)
    connection = await asyncpg.connect(own_dsn)
    assert await fingerprint(connection, steps=True) == []
    await connection.close()


async def test_the_step_comes_after_the_schema(empty):
    with pytest.raises(migrate.MigrationFailed, match="the schema comes first: python -m"):
        migrate.optional(empty, "embeddings")


async def test_a_role_that_may_not_create_the_extension_is_told_who_may(empty, admin):
    migrate.apply(empty)
    connection = await asyncpg.connect(empty)
    await connection.execute(
        "CREATE ROLE ltm_vectorless LOGIN; GRANT ltm_vectorless TO CURRENT_USER"
    )
    await connection.execute("GRANT CREATE, USAGE ON SCHEMA public TO ltm_vectorless")
    try:
        with pytest.raises(migrate.MigrationFailed, match="let a superuser run CREATE EXTENSION"):
            migrate.optional(with_options(empty, "-crole=ltm_vectorless"), "embeddings")
    finally:
        await connection.execute("DROP OWNED BY ltm_vectorless; DROP ROLE ltm_vectorless")
        await connection.close()


@pytest.mark.parametrize("path", ["app", "app,public", "app,outside"])
async def test_the_schema_of_the_extension_need_not_be_searched(empty, path):
    connection = await asyncpg.connect(empty)
    await connection.execute(
        "CREATE SCHEMA app; CREATE SCHEMA outside; CREATE EXTENSION vector SCHEMA outside"
    )
    await connection.close()
    dsn = with_options(empty, f"-csearch_path={path}")
    migrate.apply(dsn)
    migrate.optional(dsn, "embeddings")
    async with connect(dsn, embedder=toy()) as db:  # which is a schema that nobody else writes to
        memory = await add_memory(db, 1, "x")
        other = await add_memory(db, 1, "y", embedding=vector("y"))
        await db.flush()
        assert [hit.id for hit in await find_similar(db, 1, memory.id)] == [other.id]


async def test_without_the_step_a_call_that_needs_it_says_so_and_all_else_works(own_dsn, caplog):
    migrate.optional(own_dsn, "embeddings", undo=True)
    sentence = "the optional step embeddings was not run: python -m ltm_store.migrate embeddings"
    async with connect(own_dsn, embedder=toy()) as db:
        assert [record.getMessage() for record in caplog.records] == [
            f"searches go by words alone, {sentence}"
        ]
        memory = await add_memory(db, 1, "words")
        for call in (
            lambda: find_similar(db, 1, memory.id),
            lambda: embed_missing(db),
            lambda: embedding_status(db),
            lambda: add_memory(db, 1, "x", embedding=vector("x")),
            lambda: search_memories(db, 1, "words", query_embedding=vector("x")),
        ):
            with pytest.raises(StepMissing) as caught:
                await call()
            assert (str(caught.value), caught.value.pending) == (sentence, ("embeddings",))
        assert [hit.id for hit in await search_memories(db, 1, "words")] == [memory.id]
        assert await suggest_relationships(db, 1, memory.id) == []
        assert [line["content"] async for line in export_user(db, 1)] == ["words"]
        assert (await forget_user(db, 1)).counts["ltm_memories"] == 1


# -- in the background ---------------------------------------------------------------------------


async def test_memories_get_their_vectors_after_they_are_stored(embedding_db):
    for number in range(150):
        await add_memory(embedding_db, 1 + number % 3, f"memory {number}")
    await embedding_db.flush()
    assert await status(embedding_db) == {"toy": (150, 150, 0, 0)}


async def test_memories_that_others_wrote_get_theirs(embedding_db, dsn):
    async with connect(dsn) as other:
        await add_memory(other, 1, "by another program")
        async with embedding_db.transaction() as connection:
            await add_memory(connection, 1, "in a transaction")
        await add_memories(embedding_db, 1, [{"content": "one of many"}])
    await embedding_db.flush()
    assert await status(embedding_db) == {"toy": (3, 3, 0, 0)}


async def test_a_flush_waits_for_what_was_written_during_a_look(dsn, monkeypatch):
    flushes: list[asyncio.Task[None]] = []
    began = asyncio.Event()

    async def busy_look(of, *args, **options):
        page = await unembedded(of, *args, **options)
        if options.get("newest") and not flushes:
            await add_memory(db, 1, "written meanwhile")
            flushes.append(asyncio.create_task(db.flush()))
            await asyncio.sleep(0)
            began.set()
        return page

    monkeypatch.setattr(meaning, "unembedded", busy_look)
    async with connect(dsn, access_tracking="off", embedder=toy()) as db:
        await began.wait()
        await flushes[0]
        assert await status(db) == {"toy": (1, 1, 0, 0)}


async def test_a_changed_content_gets_a_new_vector(embedding_db):
    memory = await add_memory(embedding_db, 1, "before")
    other = await add_memory(embedding_db, 1, "after")
    await embedding_db.flush()
    (hit,) = await find_similar(embedding_db, 1, memory.id)
    assert hit.score < 0.9
    await update_memory(embedding_db, 1, memory.id, content="after")
    await embedding_db.flush()
    (hit,) = await find_similar(embedding_db, 1, other.id)
    assert hit.meaning_score == pytest.approx(1, abs=1e-3)


async def test_a_content_that_changes_while_it_is_embedded_is_done_again(dsn):
    async with connect(dsn) as writer:
        memory = await add_memory(writer, 1, "before")
        seen: list[str] = []

        async def embed(texts: Sequence[str]) -> list[list[float]]:
            seen.extend(texts)
            if texts == ["before"]:
                await update_memory(writer, 1, memory.id, content="after")
            return vectors_of(texts)

        async with connect(dsn, embedder=toy(embed)) as db:
            await db.flush()
            assert seen == ["before", "after"]
            assert await status(db) == {"toy": (1, 1, 0, 0)}


async def test_a_memory_that_is_deleted_while_it_is_embedded_leaves_nothing(dsn):
    async with connect(dsn) as writer:
        memory = await add_memory(writer, 1, "gone soon")

        async def embed(texts: Sequence[str]) -> list[list[float]]:
            await delete_memory(writer, 1, memory.id)
            return vectors_of(texts)

        async with connect(dsn, embedder=toy(embed)) as db:
            await db.flush()
            assert await status(db) == {"toy": (0, 0, 0, 0)}


async def test_a_memory_is_embedded_with_the_name_of_who_wrote_it(embedding_db, dsn):
    asked: list[str] = []

    def embed(texts):
        asked.extend(texts)
        return vectors_of(texts)

    said = {
        "Anne-Marie O'Neil": "I found a kitten",
        "user": "I like tea",
        "agent-7": "Prefers mornings",
        "Ann": "ann: moved to Rome",
        "Zoë": "x. " * 900,
        None: "No one said this",
    }
    async with connect(dsn, embedder=toy(embed)) as db:
        await add_memories(
            db, 1, [{"content": text, "created_by": name} for name, text in said.items()]
        )
        await db.flush()
    assert {"Anne-Marie O'Neil: I found a kitten", "I like tea", "Prefers mornings"} < set(asked)
    assert {"ann: moved to Rome", "No one said this"} < set(asked)
    parts = [text for text in asked if text.startswith("Zoë: x")]
    assert len(parts) == len(asked) - 5 > 1


async def test_long_contents_have_a_vector_for_each_part(embedding_db, dsn):
    memory = await add_memory(embedding_db, 1, "A sentence of a long content. " * 200)
    await embedding_db.flush()
    await update_memory(embedding_db, 1, memory.id, content="Short now.")
    await embedding_db.flush()
    connection = await asyncpg.connect(dsn)
    assert await connection.fetchval("SELECT array_agg(part) FROM ltm_embeddings") == [0]
    await connection.close()


@pytest.mark.parametrize("content", ["", "   ", "x", "Short. Two.", "word " * 5000, "語" * 3000])
def test_parts_hold_the_whole_content(content):
    parts = parts_of(content)
    assert "".join("".join(parts).split()) == "".join(content.split())
    assert all(part and len(part) <= 1000 for part in parts)


def test_parts_end_where_sentences_end():
    text = "This is one sentence about nothing in particular. " * 60
    assert len(parts_of(text)) > 2
    assert all(part.endswith("particular.") for part in parts_of(text))


async def test_a_text_that_cannot_be_embedded_is_set_aside_until_it_changes(dsn, caplog):
    def embed(texts: Sequence[str]) -> list[list[float]]:
        if any("poison" in text for text in texts):
            raise RuntimeError("a secret")
        return [[math.nan] * SIZE if "nan" in text else vector(text) for text in texts]

    async with connect(dsn, embedder=toy(embed)) as db:
        memories = [await add_memory(db, 1, f"fine {number}") for number in range(70)]
        poisoned = await add_memory(db, 1, "poison")
        await add_memory(db, 1, "nan")
        await add_memory(db, 1, "   ")
        await db.flush()
        assert await status(db) == {"toy": (73, 70, 0, 3)}
        connection = await asyncpg.connect(dsn)
        notes = await connection.fetch("SELECT note FROM ltm_embeddings WHERE note IS NOT NULL")
        await connection.close()
        assert {row["note"] for row in notes} == {
            "RuntimeError",
            "a vector holds a number that is not finite",
            "nothing to embed",
        }
        assert "secret" not in caplog.text
        assert await embed_missing(db) == 0
        await update_memory(db, 1, poisoned.id, content="cured")
        await db.flush()
        assert (await status(db))["toy"] == (73, 71, 0, 2)
        assert len(await find_similar(db, 1, memories[0].id, limit=100)) == 70


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (ConnectionError("a secret"), "ConnectionError"),
        ([[1.0]], "a vector of 1 numbers, not of 16"),
        ([], "0 vectors for 1 texts"),
        (None, "should give a list of vectors"),
        ([[0.0] * SIZE], "a vector is all zeros, which mean nothing"),
    ],
    ids=["dead", "dimensions", "count", "none", "zeros"],
)
async def test_a_dead_embedder_fails_no_read_and_no_write(dsn, caplog, monkeypatch, answer, reason):
    monkeypatch.setattr(meaning, "FIRST_PAUSE", 60.0)
    asked: list[str] = []

    def embed(texts: Sequence[str], purpose: str) -> Any:
        asked.append(purpose)
        if isinstance(answer, Exception):
            raise answer
        return answer

    async with connect(dsn, embedder=toy(embed)) as db:
        memory = await add_memory(db, 1, "some words")
        for _ in range(3):
            (hit,) = await search_memories(db, 1, "words")
            assert (hit.id, hit.meaning_score) == (memory.id, None)
        assert asked.count("query") == 1  # then it is left alone
        await db.flush()
        await db.flush()
        assert await status(db) == {"toy": (1, 0, 0, 0)}
        told = [record.getMessage() for record in caplog.records if "ltm_store" in record.name]
        assert sorted(told) == [
            f"memories have no vectors yet, making them failed: {reason}",
            f"searches go by words alone, the embedder failed: {reason}",
        ]
        with pytest.raises(Unavailable, match="the embedder failed: " + reason):
            await embed_missing(db)


async def test_a_slow_embedder_is_not_waited_for(dsn, monkeypatch):
    monkeypatch.setattr(meaning, "QUERY_SECONDS", 0.05)
    never = asyncio.Event()

    async def embed(texts: Sequence[str], *, purpose: str) -> list[list[float]]:
        if purpose == "query":
            await never.wait()
        return vectors_of(texts)

    async with connect(dsn, embedder=toy(embed)) as db:
        await add_memory(db, 1, "some words")
        await db.flush()
        async with asyncio.timeout(20):
            (hit,) = await search_memories(db, 1, "words")
        assert hit.meaning_score is None
    async with asyncio.timeout(50):  # closing is bounded

        async def hang(texts: Sequence[str]) -> list[list[float]]:
            await never.wait()
            return []

        async with connect(dsn, embedder=toy(hang, model="slow"), timeout=1) as db:
            await add_memory(db, 1, "more words")


async def test_what_a_closed_database_did_not_embed_is_free_at_once(dsn):
    never, begun = asyncio.Event(), asyncio.Event()

    async def hang(texts: Sequence[str]) -> list[list[float]]:
        begun.set()
        await never.wait()
        return []

    async with connect(dsn, embedder=toy(hang), timeout=1) as db:
        await add_memory(db, 1, "claimed")
        await begun.wait()
    async with connect(dsn, embedder=toy()) as db:
        await db.flush()
        assert await status(db) == {"toy": (1, 1, 0, 0)}


async def test_what_a_killed_process_had_claimed_is_taken_when_its_time_is_up(dsn, embedding_db):
    async with connect(dsn) as plain:
        await add_memory(plain, 1, "claimed by the dead")
        connection = await asyncpg.connect(dsn)
        claim = (
            "INSERT INTO ltm_embeddings (user_id, memory_id, model, claimed_until) "
            "SELECT user_id, id, 'toy', now() + interval '1 minute' FROM ltm_memories "
            "ON CONFLICT (user_id, model, memory_id, part) DO UPDATE "
            "SET embedding = NULL, dimensions = NULL, claimed_until = excluded.claimed_until"
        )
        await connection.execute(claim)
        await embedding_db.flush()
        assert await embed_missing(embedding_db) == 0
        await connection.execute("UPDATE ltm_embeddings SET claimed_until = now()")
        await connection.close()
        assert await embed_missing(embedding_db, 1) == 1
        assert await status(embedding_db) == {"toy": (1, 1, 0, 0)}


async def test_several_processes_share_the_work(dsn):
    texts: list[str] = []

    async def embed(given: Sequence[str]) -> list[list[float]]:
        texts.extend(given)
        await asyncio.sleep(0)
        return vectors_of(given)

    async with connect(dsn) as plain:
        await add_memories(plain, 1, [{"content": f"memory {number}"} for number in range(300)])
    databases = [connect(dsn, embedder=toy(embed)) for _ in range(3)]
    for db in databases:
        await db
    done = await asyncio.gather(*(embed_missing(db) for db in databases))
    await asyncio.gather(*(db.flush() for db in databases))
    assert await status(databases[0]) == {"toy": (300, 300, 0, 0)}
    assert sorted(texts) == sorted(f"memory {number}" for number in range(300))
    assert sum(done) <= 300
    for db in databases:
        await db.close()


async def test_another_model_lives_beside_the_first_until_it_is_complete(dsn):
    async with connect(dsn, embedder=toy()) as db:
        memory = await add_memory(db, 1, "first")
        await add_memory(db, 1, "second")
        await db.flush()
    async with connect(
        dsn, embedder=toy(lambda texts: [[1.0, 2.0]] * len(texts), model="b", size=2)
    ) as db:
        await db.flush()
        assert await status(db) == {"b": (2, 2, 0, 0), "toy": (2, 2, 0, 0)}
        (hit,) = await find_similar(db, 1, memory.id)
        assert hit.meaning_score == pytest.approx(1)


async def test_embed_missing_can_be_limited_to_a_user_and_a_number(dsn):
    async with connect(dsn) as plain:
        for number in range(10):
            await add_memory(plain, number % 2, f"memory {number}")
    async with connect(dsn) as db:
        db.embedder = toy()
        assert await embed_missing(db, 1, limit=2) == 2
        assert await embed_missing(db, 1) == 3
        assert await embed_missing(db, "nobody") == 0
        assert await embed_missing(db) == 5
        wrong: list[Any] = [0, True, 1.5]
        for limit in wrong:
            with pytest.raises(InvalidArgument, match="limit"):
                await embed_missing(db, limit=limit)


async def test_embed_missing_asks_for_an_embedder(db):
    with pytest.raises(InvalidArgument, match=r"connect\(embedder="):
        await embed_missing(db)


@pytest.mark.parametrize(
    ("embedder", "field"),
    [
        (object(), "embedder"),
        (toy(model=""), "embedder.model"),
        (toy(model="x" * 65), "embedder.model"),
        (toy(size=0), "embedder.dimensions"),
        (toy(size=4001), "embedder.dimensions"),
    ],
)
def test_what_is_no_embedder_is_refused(embedder, field):
    with pytest.raises(InvalidArgument) as caught:
        connect("postgresql://h/d", embedder=embedder)
    assert caught.value.field == field


# -- one's own vectors ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("embedding", "rule"),
    [
        ([0.0, 0.0], "all zeros"),
        ([], "1 to 4000 numbers"),
        ([1.0] * 4001, "1 to 4000 numbers"),
        ([math.nan], "not finite"),
        ([math.inf, 1], "not finite"),
        ([10**400], "not finite"),
        (["1"], "numbers alone"),
        ([True], "numbers alone"),
        ("12", "list of numbers"),
        (7, "list of numbers"),
    ],
)
async def test_what_is_no_vector_is_refused(conn, embedding, rule):
    with pytest.raises(InvalidMemory, match=rule) as caught:
        await add_memory(conn, 1, "x", embedding=embedding)
    assert caught.value.field == "embedding"
    with pytest.raises(InvalidArgument, match=rule) as asked:
        await search_memories(conn, 1, "x", query_embedding=embedding)
    assert asked.value.field == "query_embedding"
    with pytest.raises(InvalidMemory, match=rule):
        await embed_memory(conn, 1, 1, embedding)


@pytest.mark.parametrize("size", [1, 4000])
@pytest.mark.parametrize("scale", [1e-30, 1, 1e30])
async def test_vectors_of_every_size_and_scale_can_be_stored(conn, size, scale):
    numbers = [scale * (1 + place % 7) for place in range(size)]
    first = await add_memory(conn, 1, "one", embedding=numbers, embedding_model="m" * 64)
    second = await add_memory(conn, 1, "two", embedding=numbers, embedding_model="m" * 64)
    (hit,) = await find_similar(conn, 1, first.id)
    assert hit.id == second.id
    assert hit.meaning_score == pytest.approx(1, abs=1e-2)


async def test_an_own_vector_has_the_dimensions_of_the_embedder(embedding_db):
    with pytest.raises(InvalidMemory, match="embedding: should have 16 numbers"):
        await add_memory(embedding_db, 1, "x", embedding=[1.0])
    with pytest.raises(InvalidMemory, match="embedding_model: longer than 64 bytes"):
        await add_memory(embedding_db, 1, "x", embedding=[1.0], embedding_model="x" * 65)
    memory = await add_memory(embedding_db, 1, "x", embedding=[1.0], embedding_model="other")
    mine = await add_memory(embedding_db, 1, "x", embedding=vector("mine"))
    await embedding_db.flush()
    assert await status(embedding_db) == {"other": (2, 1, 0, 0), "toy": (2, 2, 0, 0)}
    assert await embed_memory(embedding_db, 1, memory.id, vector("mine"))
    (hit,) = await find_similar(embedding_db, 1, mine.id)
    assert hit.meaning_score == pytest.approx(1, abs=1e-3)


async def test_a_vector_can_be_stored_after_its_memory(conn):
    one, two = [await add_memory(conn, 1, content) for content in ("one", "two")]
    assert await find_similar(conn, 1, one.id) == []
    assert await embed_memory(conn, 1, one.id, [1.0, 0.0])
    assert await embed_memory(conn, 1, two.id, [1.0, 1.0])
    assert not await embed_memory(conn, 2, two.id, [1.0, 1.0])
    assert not await embed_memory(conn, "nobody", two.id, [1.0, 1.0])
    (hit,) = await find_similar(conn, 1, one.id)
    assert hit.id == two.id
    assert hit.meaning_score == pytest.approx(math.sqrt(0.5), abs=1e-3)
    assert await status(conn) == {"caller": (2, 2, 0, 0)}


async def test_many_memories_may_bring_vectors_along(embedding_db):
    given = [
        {"content": f"memory {number}", "embedding": vector(str(number))} for number in range(9)
    ]
    given[3]["embedding_model"] = "other"
    await add_memories(embedding_db, 1, given)
    assert await status(embedding_db) == {"other": (9, 1, 0, 0), "toy": (9, 8, 0, 0)}
    with pytest.raises(InvalidMemory, match=r"memories\[0\].embedding: should have 16 numbers"):
        await add_memories(embedding_db, 1, [{"content": "x", "embedding": [1.0]}])
    await embedding_db.flush()
    assert (await status(embedding_db))["toy"] == (9, 9, 0, 0)


async def test_an_existing_memory_keeps_its_vector(conn):
    one = await add_memory(conn, 1, "x", embedding=[1.0, 0.0], idempotency_key="k")
    again = await add_memory(conn, 1, "x", embedding=[0.0, 1.0], idempotency_key="k")
    two = await add_memory(conn, 1, "y", embedding=[1.0, 0.0])
    (hit,) = await find_similar(conn, 1, one.id)
    assert (again.outcome, hit.id) == ("existing", two.id)
    assert hit.meaning_score == pytest.approx(1)


# -- similar memories ----------------------------------------------------------------------------


async def test_similar_memories_are_of_the_user_neither_archived_nor_expired_nearest_first(conn):
    async def add(content: str, numbers: list[float], user: int = 1, **fields) -> int:
        memory = await add_memory(conn, user, content, embedding=numbers, **fields)
        return memory.id

    one = await add("one", [1.0, 0.0])
    near = await add("near", [1.0, 0.1])
    far = await add("far", [-1.0, 0.1])
    archived = await add("archived", [1.0, 0.0])
    await add("other model", [1.0, 0.0], embedding_model="other")
    await add("other dimensions", [1.0, 0.0, 0.0])
    await add("other user", [1.0, 0.0], user=2)
    expired = await add("expired", [1.0, 0.0])
    await update_memory(conn, 1, expired, expires_at=datetime(2026, 1, 1, tzinfo=UTC))
    await conn.execute("UPDATE ltm_memories SET is_archived = true WHERE id = $1", archived)
    stale = await add("stale", [1.0, 0.0])
    await update_memory(conn, 1, stale, content="changed")
    hits = await find_similar(conn, 1, one)
    assert [hit.id for hit in hits] == [near, far]
    assert all(hit.score == hit.meaning_score for hit in hits)
    assert await find_similar(conn, 1, one, limit=1) == hits[:1]
    assert await find_similar(conn, 1, 10**9) == []


async def test_what_means_much_the_same_is_suggested(embedding_db):
    one = await add_memory(embedding_db, 1, "one", embedding=vector("same"))
    same = await add_memory(embedding_db, 1, "two", embedding=vector("same"))
    for number in range(30):
        await add_memory(embedding_db, 1, f"other {number}")
    await embedding_db.flush()
    (found,) = await suggest_relationships(embedding_db, 1, one.id)
    assert found.related_memory.id == same.id
    assert found.meaning_score == pytest.approx(1, abs=1e-3)
    assert found.reason == "meaning: 1.00"


async def test_a_vector_of_a_content_that_was_changed_since_does_not_count(dsn):
    async with connect(dsn, access_tracking="off") as db:
        # Without the task that would make new vectors.
        db.embedder, db.embedding_model = toy(), toy().model
        one = await add_memory(db, 1, "one", embedding=vector("same"))
        twins = [await add_memory(db, 1, f"twin {n}", embedding=vector("same")) for n in range(29)]
        for number in range(9):
            await add_memory(db, 1, f"other {number}", embedding=vector(f"{number}"))

        async def suggested() -> list[int]:
            found = await suggest_relationships(db, 1, one.id)
            return [each.related_memory.id for each in found if each.meaning_score is not None]

        async def similar() -> list[int]:
            return [hit.id for hit in await find_similar(db, 1, one.id, limit=2)]

        await update_memory(db, 1, one.id, content="changed")
        assert await suggested() == await similar() == []
        await update_memory(db, 1, one.id, content="one")
        for twin in twins[2:11]:
            await update_memory(db, 1, twin.id, content=f"changed {twin.id}")
        for twin in twins[11:20]:
            await archive_memory(db, 1, twin.id)
        for twin in twins[20:]:
            await update_memory(db, 1, twin.id, expires_at=datetime(2026, 1, 1, tzinfo=UTC))
        assert await suggested() == await similar() == [twins[1].id, twins[0].id]
        await update_memory(db, 1, one.id, expires_at=datetime(2026, 1, 1, tzinfo=UTC))
        assert await suggested() == await similar() == []


async def test_the_latest_vector_of_a_content_decides_what_is_similar(conn):
    one = await add_memory(conn, 1, "one", embedding=[1.0, 0.0], embedding_model="first")
    first = await add_memory(conn, 1, "two", embedding=[1.0, 0.1], embedding_model="first")
    second = await add_memory(conn, 1, "three", embedding=[1.0, 0.1], embedding_model="second")
    await update_memory(conn, 1, one.id, content="changed")
    await embed_memory(conn, 1, one.id, [1.0, 0.0], embedding_model="second")
    assert [hit.id for hit in await find_similar(conn, 1, one.id)] == [second.id]
    await update_memory(conn, 1, one.id, content="one")
    assert [hit.id for hit in await find_similar(conn, 1, one.id)] == [first.id]


# -- whole users ---------------------------------------------------------------------------------


async def test_vectors_go_with_a_user_and_with_a_memory(conn):
    memory = await add_memory(conn, 1, "x", embedding=[1.0])
    await add_memory(conn, 1, "y", embedding=[1.0])
    await delete_memory(conn, 1, memory.id)
    report = await forget_user(conn, 1)
    assert report.counts["ltm_embeddings"] == 1
    assert await conn.fetchval("SELECT count(*) FROM ltm_embeddings") == 0


async def test_vectors_follow_a_memory_that_becomes_another_users(conn):
    first = await add_memory(conn, 1, "one", embedding=[1.0, 0.0])
    await conn.execute("SELECT setval('ltm_memories_id_seq', $1, FALSE)", first.id)
    await add_memory(conn, 2, "two", embedding=[1.0, 0.1])
    report = await merge_users(conn, 2, 1)
    (hit,) = await find_similar(conn, 1, first.id)
    assert (hit.content, hit.id) == ("two", report.renumbered[first.id])


async def test_a_memory_that_is_put_again_has_the_new_vector(embedding_db):
    memory = await put_memory(embedding_db, 1, "k", "before", embedding=vector("before"))
    other = await add_memory(embedding_db, 1, "other", embedding=vector("after"))
    await put_memory(embedding_db, 1, "k", "after", embedding=vector("after"))
    (hit,) = await find_similar(embedding_db, 1, other.id)
    assert hit.id == memory.id
    assert hit.meaning_score == pytest.approx(1, abs=1e-3)
    await put_memory(embedding_db, 1, "k", "once more")
    await embedding_db.flush()
    assert await status(embedding_db) == {"toy": (2, 2, 0, 0)}


async def test_vectors_of_several_memories_are_stored_together(conn):
    first, second = [await add_memory(conn, 1, content) for content in ("one", "two")]
    vectors = {first.id: [[1.0, 0.0]], second.id: [[0.0, 1.0], [1.0, 0.1]], 10**9: [[1.0, 1.0]]}
    assert await embed_memories(conn, 1, vectors) == 2
    (hit,) = await find_similar(conn, 1, first.id)
    assert hit.id == second.id
    assert hit.meaning_score == pytest.approx(0.995, abs=1e-3)
    await update_memory(conn, 1, second.id, expires_at=datetime(2026, 1, 1, tzinfo=UTC))
    assert await embed_memories(conn, 1, vectors) == 1
    assert not await embed_memory(conn, 1, second.id, [1.0, 1.0])
    assert await embed_memories(conn, 1, {}) == await embed_memories(conn, 2, vectors) == 0
    with pytest.raises(InvalidMemory, match="^embeddings: should have vectors of equal length$"):
        await embed_memories(conn, 1, {first.id: [1.0], second.id: [1.0, 2.0]})


async def test_an_export_may_carry_vectors(embedding_db):
    long = await add_memory(embedding_db, 1, "A sentence of a long content. " * 100)
    await add_memory(embedding_db, 1, "short", embedding=[1.0, 2.0], embedding_model="mine")
    await embedding_db.flush()
    plain = [line async for line in export_user(embedding_db, 1)]
    assert not any("embeddings" in line for line in plain)
    lines: list[dict[str, Any]] = [
        line async for line in export_user(embedding_db, 1, with_embeddings=True)
    ]
    assert [set(line["embeddings"]) for line in lines] == [{"toy"}, {"mine", "toy"}]
    async with connect(embedding_db._dsn) as plain_db:
        await import_user(plain_db, 2, lines)
        again = [line async for line in export_user(plain_db, 2, with_embeddings=True)]
    assert [line["embeddings"] for line in again] == [line["embeddings"] for line in lines]
    assert await status(embedding_db) == {"mine": (4, 2, 0, 0), "toy": (4, 4, 0, 0)}
    assert len(lines[0]["embeddings"]["toy"]) == len(parts_of(long.content))
