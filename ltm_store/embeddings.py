"""The vectors of memories: what lacks one, storing them, how far they are, and what is similar."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from datetime import datetime, timedelta
from typing import Final, NamedTuple

from ltm_store.db.execute import (
    Executor,
    fetch_many,
    fetch_rows,
    one_deadline,
    only_reads,
    session_of,
)
from ltm_store.db.identity import find_user
from ltm_store.db.vectors import model_of
from ltm_store.errors import InvalidMemory
from ltm_store.model.embeddings import EmbeddingStatus
from ltm_store.model.search import MemoryHit
from ltm_store.model.values import UserId, check_memory_id, moment, row_limit
from ltm_store.model.vectors import GivenEmbedding

LEASE: Final = timedelta(minutes=2)
"""So long a process that has claimed a memory may take; then another one takes it."""

_PAGE: Final = 1_000  # memories that are looked at together
_BEFORE_ALL: Final = -(2**63)
_MODELS: Final = 1_000
_PARTS: Final = 256
_PROBED_PARTS: Final = 16  # of a long content, that similar ones are looked for by


Vectors = tuple[int, int | None, Sequence[Sequence[float]]]
"""A memory, the hash of its content, None for any, and a vector for each part of it."""


class Claim(NamedTuple):
    """A memory that this process has claimed, to make its vector."""

    user: int
    memory_id: int
    content: str
    content_hash: int


class Unembedded(NamedTuple):
    """A page of memories: those without a vector, and where the next page begins."""

    found: list[tuple[int, int]]
    after: tuple[int, int] | None


async def unembedded(
    db: Executor,
    model: str,
    after: tuple[int, int] = (_BEFORE_ALL, _BEFORE_ALL),
    *,
    newest: bool = False,
) -> Unembedded:
    """Of the thousand memories behind one, or of the newest, those without a vector of a model."""
    rows = await fetch_rows(
        db,
        "find_unembedded",
        after_user_id=after[0],
        after_id=after[1],
        model=model,
        now=moment(None),
        row_limit=_PAGE,
        newest=newest,
    )
    found = [(row["user_id"], row["id"]) for row in rows if row["is_missing"]]
    return Unembedded(found, (rows[-1]["user_id"], rows[-1]["id"]) if rows else None)


async def pages_of_unembedded(
    db: Executor, model: str, user: int | None
) -> AsyncIterator[list[tuple[int, int]]]:
    """The memories of one user, or of all, that lack a vector, page by page."""
    page = await unembedded(db, model, (_BEFORE_ALL if user is None else user, _BEFORE_ALL))
    while page.after is not None and (user is None or page.after[0] == user):
        yield page.found
        page = await unembedded(db, model, page.after)
    yield [found for found in page.found if found[0] == user]


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
    return [Claim(user, row["id"], row["content"], row["content_hash"]) for row in rows]


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
    number = check_memory_id(memory_id)
    several = isinstance(embedding, list | tuple) and bool(embedding)
    several = several and isinstance(embedding[0], list | tuple)
    parts = embedding if several else [embedding]
    if len(parts) > _PARTS:
        raise InvalidMemory("embedding", f"more than {_PARTS} vectors")
    vectors = [
        GivenEmbedding.checked({"embedding": part, "embedding_model": embedding_model}).embedding
        for part in parts
    ]
    if len({len(vector) for vector in vectors}) > 1:
        raise InvalidMemory("embedding", "should have vectors of equal length")
    model = model_of(db, vectors[0], embedding_model, "embedding")
    user = await find_user(db, user_id)
    if user is None:
        return False
    return bool(await write_embeddings(db, model, user.number, [(number, None, vectors)]))


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

    [] while it has no vector. By vectors of the embedder's model, else of the model that its latest
    one is of. Archived and expired memories are left out. score and meaning_score are the cosine,
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
