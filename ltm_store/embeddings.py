"""The vectors of memories: what lacks one, storing them, how far they are, and what is similar."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import datetime, timedelta
from functools import partial
from typing import Final, NamedTuple

from ltm_store.db.execute import (
    Executor,
    fetch_many,
    fetch_rows,
    fetch_value,
    one_deadline,
    only_reads,
    session_of,
)
from ltm_store.db.identity import find_user
from ltm_store.db.transactions import translated
from ltm_store.db.vectors import model_of
from ltm_store.errors import InvalidArgument, InvalidMemory, told_as
from ltm_store.model.embeddings import EmbeddingStatus
from ltm_store.model.search import MemoryHit
from ltm_store.model.values import UserId, check_memory_id, moment, row_limit
from ltm_store.model.vectors import CALLER, GivenEmbedding

LEASE: Final = timedelta(minutes=2)
"""So long a process that has claimed a memory may take; then another one takes it."""

_PAGE: Final = 1_000  # memories that are looked at together
_BEFORE_ALL: Final = -(2**63)
_MODELS: Final = 1_000
_PARTS: Final = 256
_PROBED_PARTS: Final = 16  # of a long content, that similar ones are looked for by


INDEX_PREFIX: Final = "ltm_embeddings_hnsw_"
_INDEXES: Final = 100_000

Vectors = tuple[int, int | None, Sequence[Sequence[float]]]
"""A memory, the hash of its content, None for any, and a vector for each part of it."""


class Claim(NamedTuple):
    """A memory that this process has claimed, to make its vector."""

    user: int
    memory_id: int
    content: str
    content_hash: int
    speaker: str  # who wrote it, where that is a name that a question may mention


class Unembedded(NamedTuple):
    """A page of memories: those without a vector, and where the next page begins."""

    found: list[tuple[int, int]]
    after: tuple[int, int] | None


async def unembedded(
    db: Executor,
    model: str,
    after: tuple[int, int] = (_BEFORE_ALL, _BEFORE_ALL),
    *,
    user: int | None = None,
    newest: bool = False,
) -> Unembedded:
    """Of the thousand memories behind one, or of the newest, those without a vector of a model.

    Of all users, or of one.
    """
    rows = await fetch_rows(
        db,
        "find_unembedded",
        after_user_id=after[0],
        after_id=after[1],
        model=model,
        now=moment(None),
        row_limit=_PAGE,
        user_id=user,
        newest=newest,
    )
    found = [(row["user_id"], row["id"]) for row in rows if row["is_missing"]]
    return Unembedded(found, (rows[-1]["user_id"], rows[-1]["id"]) if rows else None)


async def pages_of_unembedded(
    db: Executor, model: str, user: int | None
) -> AsyncIterator[list[tuple[int, int]]]:
    """The memories of one user, or of all, that lack a vector, page by page."""
    page = await unembedded(db, model, user=user)
    while page.after is not None:
        yield page.found
        page = await unembedded(db, model, page.after, user=user)


async def claim_embeddings(
    db: Executor, model: str, user: int, memory_ids: Sequence[int], limit: int
) -> list[Claim]:
    """Claim memories of a user that lack a vector, at most so many; others may have been faster."""
    now = moment(None)
    rows = await fetch_rows(
        db,
        "claim_embeddings",
        user_id=user,
        model=model,
        now=now,
        claimed_until=now + LEASE,
        row_limit=limit,
        memory_ids=list(memory_ids),
    )
    return [
        Claim(user, row["id"], row["content"], row["content_hash"], row["speaker"]) for row in rows
    ]


async def write_embeddings(
    db: Executor, model: str, user: int, vectors: Sequence[Vectors]
) -> dict[int, bool]:
    """Store vectors of memories: each with the hash of its content, and a vector for each part.

    Tells of each memory that is there whether its content was still that; None is any.
    """
    given = [
        (memory_id, content_hash, part, numbers)
        for memory_id, content_hash, parts in vectors
        for part, numbers in enumerate(parts)
    ]
    rows = await fetch_rows(
        db,
        "write_embeddings",
        user_id=user,
        model=model,
        now=moment(None),
        dimensions=len(given[0][3]),
        memory_ids=[memory_id for memory_id, *_ in given],
        content_hashes=[content_hash for _, content_hash, *_ in given],
        parts=[part for _, _, part, _ in given],
        numbers=[number for *_, numbers in given for number in numbers],
    )
    return {row["id"]: row["is_stored"] for row in rows}


async def release_embeddings(
    db: Executor, model: str, user: int, claims: Sequence[tuple[Claim, str | None]]
) -> None:
    """Give claims back; one with a note is set aside, until its content is changed."""
    await fetch_rows(
        db,
        "release_embeddings",
        user_id=user,
        model=model,
        memory_ids=[claim.memory_id for claim, _ in claims],
        content_hashes=[claim.content_hash for claim, _ in claims],
        notes=[note for _, note in claims],
    )


@only_reads
async def embedding_status(db: Executor, *, as_of: datetime | None = None) -> list[EmbeddingStatus]:
    """How far the vectors of each model are, over all users, by name; the embedder's is among them.

    Reads all vectors. Raises StepMissing where the optional step was not run.
    """
    embedder = session_of(db).embedder
    return await fetch_many(
        db,
        "embedding_status",
        EmbeddingStatus,
        as_of=moment(as_of),
        model=embedder and embedder.model,
        row_limit=_MODELS,
    )


@one_deadline
async def embed_memory(
    db: Executor,
    user_id: UserId,
    memory_id: int,
    embedding: Sequence[float] | Sequence[Sequence[float]],
    *,
    embedding_model: str | None = None,
) -> bool:
    """Store a vector of a memory's content that you have made; tell whether there is the memory.

    In the place of what it has of that model, as after a change of its content. embedding and
    embedding_model are those of add_memory; or several vectors, one for each part of the content,
    1 .. 256 of equal length, of which a search counts the best. Raises InvalidMemory naming the
    argument that is refused, StepMissing where the optional step was not run.
    """
    given = {check_memory_id(memory_id): embedding}
    return await _embed(db, user_id, given, embedding_model) > 0


@one_deadline
async def embed_memories(
    db: Executor,
    user_id: UserId,
    embeddings: Mapping[int, Sequence[float] | Sequence[Sequence[float]]],
    *,
    embedding_model: str | None = None,
) -> int:
    """Store vectors of several memories, as embed_memory does; return how many of these there are.

    embeddings: for each memory's id one vector, or several; all of equal length. All or nothing.
    """
    if not isinstance(embeddings, Mapping):
        raise InvalidMemory("embeddings", "should be a dict of vectors by the id of the memory")
    given = {check_memory_id(number, "embeddings"): some for number, some in embeddings.items()}
    with told_as("embedding", "embeddings"):
        return await _embed(db, user_id, given, embedding_model)


async def _embed(
    db: Executor,
    user_id: UserId,
    embeddings: Mapping[int, Sequence[float] | Sequence[Sequence[float]]],
    embedding_model: str | None,
) -> int:
    vectors: list[Vectors] = [
        (memory_id, None, _parts(embedding, embedding_model))
        for memory_id, embedding in embeddings.items()
    ]
    if not vectors:
        return 0
    if len({len(vector) for *_, parts in vectors for vector in parts}) > 1:
        raise InvalidMemory("embedding", "should have vectors of equal length")
    model = model_of(db, vectors[0][2][0], embedding_model, "embedding")
    user = await find_user(db, user_id)
    if user is None:
        return 0
    return len(await write_embeddings(db, model, user.number, vectors))


def _parts(
    embedding: Sequence[float] | Sequence[Sequence[float]], model: str | None
) -> list[Sequence[float]]:
    """The vectors of a memory's parts, checked."""
    several = isinstance(embedding, list | tuple) and bool(embedding)
    several = several and isinstance(embedding[0], list | tuple)
    parts = embedding if several else [embedding]
    if len(parts) > _PARTS:
        raise InvalidMemory("embedding", f"more than {_PARTS} vectors")
    return [
        GivenEmbedding.checked({"embedding": part, "embedding_model": model}).embedding
        for part in parts
    ]


async def exported_embeddings(
    db: Executor, user: int, memory_ids: list[int]
) -> dict[int, dict[str, list[list[float]]]]:
    """The vectors of some memories: of each, by model, those of its parts in their order."""
    rows = await fetch_rows(db, "export_embeddings", user_id=user, memory_ids=memory_ids)
    found: dict[int, dict[str, list[list[float]]]] = {}
    for row in rows:
        models = found.setdefault(row["memory_id"], {})
        models.setdefault(row["model"], []).append(row["numbers"])
    return found


@only_reads
async def find_similar(
    db: Executor,
    user_id: UserId,
    memory_id: int,
    *,
    limit: int = 10,
    as_of: datetime | None = None,
) -> list[MemoryHit]:
    """The memories that mean nearly what another one means, nearest first.

    [] when it is missing or expired, and while it has no vector of its content as it is now. By
    vectors of the embedder's model, else of the model that its latest one is of. Archived and
    expired memories are left out. score and meaning_score are the cosine,
    -1 .. 1; of long contents the nearest parts count. limit: 1 .. 1000. Not tracked. Raises
    StepMissing where the optional step was not run.
    """
    number, rows, now = check_memory_id(memory_id), row_limit(limit), moment(as_of)
    user = await find_user(db, user_id)
    if user is None:
        return []
    embedder = session_of(db).embedder
    return await fetch_many(
        db,
        "find_similar",
        MemoryHit,
        user_id=user.number,
        memory_id=number,
        as_of=now,
        row_limit=rows,
        part_limit=_PROBED_PARTS,
        model=embedder and embedder.model,
    )


async def index_user(db: Executor, user_id: UserId, *, model: str | None = None) -> bool:
    """Make an index of one user's vectors of a model, for a user of more than 20,000 memories.

    Up to there comparing all of a user's vectors is as quick, and exact. With the index (HNSW of
    pgvector) a search meets nearly all of the nearest ones; every filter holds as without it.
    Databases use it from their next look on, within ten minutes; calls on a bare connection go on
    without. Making it takes a second for each 1,000 to 3,000 vectors and holds nobody up. One that
    is there is kept; DROP INDEX takes it away (its name begins with ltm_embeddings_hnsw_ and the
    user's number).

    model: the embedder's of the Database unless told, else "caller". False where the user has no
    vectors of it. Not bounded by the Database's timeout; a connection of yours must not be inside
    a transaction (InvalidArgument). Raises StepMissing where the optional step was not run.
    """
    try:
        given = GivenEmbedding.checked({"embedding": [1.0], "embedding_model": model})
    except InvalidMemory as error:
        raise InvalidArgument("model", error.rule) from None
    embedder = session_of(db).embedder
    chosen = given.embedding_model or (embedder.model if embedder else CALLER)
    user = await find_user(db, user_id)
    if user is None:
        return False
    name = index_name(user.number, chosen)
    async with session_of(db).alone() as connection:
        unfinished = await fetch_value(connection, "drop_unfinished_index", index_name=name)
        if unfinished is not None:
            await translated(partial(connection.execute, unfinished))
        command: str | None = await fetch_value(
            connection, "index_command", user_id=user.number, model=chosen, index_name=name
        )
        if command is not None:
            await translated(partial(connection.execute, command))
    return command is not None


def index_name(user: int, model: str) -> str:
    """The name of the index of a user's vectors of a model."""
    digest = hashlib.sha256(model.encode()).hexdigest()
    return f"{INDEX_PREFIX}{user}_{digest[:8]}"


async def vector_indexes(db: Executor) -> frozenset[str]:
    """The names of the indexes that index_user has made, and that are whole."""
    rows = await fetch_rows(db, "vector_indexes", prefix=INDEX_PREFIX, row_limit=_INDEXES)
    return frozenset(row["name"] for row in rows)
