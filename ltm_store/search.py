"""Searching memories, going through them, and explaining what a search found."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import datetime
from typing import Final, TypeVar, Unpack

from ltm_store import limits
from ltm_store.db.execute import (
    Executor,
    fetch_many,
    fetch_one,
    fetch_value,
    only_reads,
    reader,
    session_of,
)
from ltm_store.db.identity import User, find_user
from ltm_store.db.vectors import model_of
from ltm_store.errors import InvalidArgument
from ltm_store.memories import memories_of, track_reads
from ltm_store.model.memories import Memory
from ltm_store.model.search import (
    FILTER_OF,
    Count,
    FilterOptions,
    Filters,
    Listing,
    MemoryHit,
    Order,
    Search,
    SearchExplanation,
    SearchFindings,
)
from ltm_store.model.terms import written_terms
from ltm_store.model.times import spans_of
from ltm_store.model.values import UserId, check_memory_id, moment

_PAGE: Final = 200  # memories that iterate_memories reads at once

Function = TypeVar("Function", bound=Callable[..., object])


def with_filters(function: Function) -> Function:
    """Show each filter in the signature of a function that takes **filters."""
    signature = inspect.signature(function)
    *own, _ = signature.parameters.values()
    filters = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=field.default)
        for name, field in Filters.model_fields.items()
        if name not in signature.parameters
    ]
    keys = [parameter for parameter in own if parameter.kind is not parameter.KEYWORD_ONLY]
    others = own[len(keys) :]
    shown = signature.replace(parameters=[*keys, *filters, *others])
    function.__signature__ = shown  # type: ignore[attr-defined]
    return function


@with_filters
@only_reads
async def search_memories(
    db: Executor,
    user_id: UserId,
    query: str | None = None,
    *,
    include_context: bool = True,
    neighbours: bool = True,
    distinct: bool = True,
    importance_weight: float = 0.1,
    query_embedding: Sequence[float] | None = None,
    embedding_model: str | None = None,
    meaning: float = 0.4,
    limit: int = 10,
    order: Order | None = None,
    offset: int = 0,
    as_of: datetime | None = None,
    **filters: Unpack[FilterOptions],
) -> list[MemoryHit]:
    """The memories that pass every filter: with a query the best first, else in an order.

    With a query, hits hold at least one of its words in some form, or stand beside such a memory in
    the same source (neighbour_of), and are ordered by score. A query is text in any script: nothing
    in it is an operator. A blank one is none; one of stop words alone asks for those. A word that
    none of the memories holds is looked for as the beginning of one, and with a typing error.

    query: at most 250,000 bytes, of which the first 64 different words are looked for.
    filters: see Filters; all of them must hold. The words of phrases rank too; with exclude alone
    the order is that of importance.
    include_context: whether hits carry their enhanced_context.
    neighbours: whether a word also counts, for less, for memories up to two places beside one in
    the same source that holds it.
    distinct: of hits with equal contents (but for letter case and white space) only the most
    important; its duplicate_ids name the others. A list, without a query, shows every row.
    importance_weight: 0 .. 100, how much dynamic importance lifts a score: a tenth of it per point.
    limit: 1 .. 1000. offset: 0 .. 10,000, how many hits before these are left out.
    order: without a query, "importance" (default), "newest", "oldest" (by created_at) or
    "modified" (the last changed first). With a query, phrases or a query_embedding it is refused:
    the order is by score.
    as_of: the moment that dynamic importance and expiry are for, and from which the times are seen
    that the query speaks of ("last May"), default now.
    meaning: 0 .. 1, the weight of what the query means against its words; 0 is words alone. It
    needs an embedder (see connect), or query_embedding, a vector of the query, and embedding_model,
    the name of what made it, as in add_memory. Hits may then hold none of its words.

    Tracked as "search" accesses, neighbours as "related". Raises InvalidArgument naming the
    argument that is refused.
    """
    search = Search.checked(
        {
            "query": query,
            "include_context": include_context,
            "neighbours": neighbours,
            "distinct": distinct,
            "importance_weight": importance_weight,
            "query_embedding": query_embedding,
            "embedding_model": embedding_model,
            "meaning": meaning,
            "limit": limit,
            "order": order,
            "offset": offset,
            **filters,
        }
    )
    return await find_memories(db, user_id, search, moment(as_of))


@only_reads
async def find_memories(
    db: Executor,
    user_id: UserId,
    search: Search,
    now: datetime,
    *,
    access_context: str | None = None,
) -> list[MemoryHit]:
    """What search_memories gives; access_context: words on the accesses."""
    _model(db, search)
    user = await find_user(db, user_id)
    if user is None:
        return []
    vector = await _asked(db, search)
    hits = await _hits(db, user, now, search, search.limit, search.offset, vector)
    found = [hit for hit in hits if hit.neighbour_of is None]
    beside = [hit for hit in hits if hit.neighbour_of is not None]
    for memories, method in ((found, "search"), (beside, "related")):
        await track_reads(db, user, memories, method, context=access_context, query=search.words)
    return hits


def _model(db: Executor, search: Search) -> str | None:
    """The model that the vector of the query is of. Raises InvalidArgument where it cannot be."""
    vector, given = search.query_embedding, search.embedding_model
    if vector is not None:
        return model_of(db, vector, given, "query_embedding", InvalidArgument)
    if given is not None:
        raise InvalidArgument("embedding_model", "goes with query_embedding")
    embedder = session_of(db).embedder
    return embedder.model if embedder else None


async def _asked(db: Executor, search: Search) -> list[float] | None:
    """The vector of the query; None where words alone are to count, or the embedder fails."""
    if search.meaning == 0:
        return None
    if search.query_embedding is not None or search.words is None:
        return search.query_embedding
    return await session_of(db).query_vector(search.words)


async def _hits(
    db: Executor,
    user: User,
    now: datetime,
    search: Search,
    limit: int,
    offset: int,
    vector: list[float] | None,
) -> list[MemoryHit]:
    arguments = {
        "user_id": user.number,
        "as_of": now,
        "row_limit": limit,
        "row_offset": offset,
        "importance_weight": search.importance_weight,
        "include_context": search.include_context,
        **search.arguments(),
    }
    model = _model(db, search)
    spans = spans_of(search.words or "", now)
    asks = search.words is not None or vector is not None
    hits = asks and await fetch_many(
        db,
        "search_memories",
        MemoryHit,
        neighbours=search.neighbours,
        distinct=search.distinct,
        query=search.words or "",
        query_embedding=vector,
        embedding_model=model,
        is_indexed=bool(
            vector and model and await session_of(db).has_vector_index(user.number, model)
        ),
        meaning=search.meaning,
        time_starts=[span.starts_at for span in spans] or None,
        time_ends=[span.ends_at for span in spans],
        term_limit=limits.QUERY_TERMS,
        **arguments,
    )
    if hits or search.query is not None or vector is not None:
        return [_as_written(hit) for hit in hits or ()]
    # No query, or phrases of words that are in every sentence.
    if search.order in (None, "importance"):
        return await fetch_many(db, "list_memories", MemoryHit, **arguments)
    return await fetch_many(
        db,
        "list_by_moment",
        MemoryHit,
        oldest=search.order == "oldest",
        modified=search.order == "modified",
        **arguments,
    )


def _as_written(hit: MemoryHit) -> MemoryHit:
    texts = (hit.content, *hit.tags, hit.category or "")
    return hit.model_copy(update={"matched_terms": written_terms(hit.matched_terms, texts)})


@with_filters
@only_reads
async def count_memories(
    db: Executor,
    user_id: UserId,
    query: str | None = None,
    *,
    as_of: datetime | None = None,
    **filters: Unpack[FilterOptions],
) -> int:
    """How many memories pass every filter and, with a query, hold at least one of its words.

    Memories that a search would find beside a hit, or in another spelling, are not counted; those
    with equal contents are, each. filters and as_of: see
    search_memories. Not tracked.
    """
    count = Count.checked({"query": query, **filters})
    now = moment(as_of)
    user = await find_user(db, user_id)
    if user is None:
        return 0
    found: int = await fetch_value(
        db,
        "count_memories",
        user_id=user.number,
        as_of=now,
        query=count.query,
        term_limit=limits.QUERY_TERMS,
        **count.arguments(),
    )
    return found


@with_filters
@only_reads
async def explain_search(
    db: Executor,
    user_id: UserId,
    query: str | None,
    memory_id: int,
    *,
    include_context: bool = True,
    neighbours: bool = True,
    distinct: bool = True,
    importance_weight: float = 0.1,
    query_embedding: Sequence[float] | None = None,
    embedding_model: str | None = None,
    meaning: float = 0.4,
    limit: int = 10,
    order: Order | None = None,
    offset: int = 0,
    as_of: datetime | None = None,
    **filters: Unpack[FilterOptions],
) -> SearchExplanation:
    """Why search_memories with these arguments returns a memory, or why not. Not tracked."""
    search = Search.checked(
        {
            "query": query,
            "include_context": include_context,
            "neighbours": neighbours,
            "distinct": distinct,
            "importance_weight": importance_weight,
            "query_embedding": query_embedding,
            "embedding_model": embedding_model,
            "meaning": meaning,
            "limit": limit,
            "order": order,
            "offset": offset,
            **filters,
        }
    )
    number, now = check_memory_id(memory_id), moment(as_of)
    _model(db, search)
    user = await find_user(db, user_id)
    findings = user and await fetch_one(
        db,
        "explain_search",
        SearchFindings,
        user_id=user.number,
        as_of=now,
        memory_id=number,
        query=search.words or "",
        term_limit=limits.QUERY_TERMS,
        **search.arguments(),
    )
    if user is None or findings is None:
        return SearchExplanation(
            is_returned=False, causes=("missing",), rank=None, matched_terms=(), hit=None
        )
    last = search.offset + search.limit
    vector = await _asked(db, search)
    hits = await _hits(db, user, now, search, max(limits.HITS, last), 0, vector)
    rank, hit = next(((n, h) for n, h in enumerate(hits, 1) if h.id == number), (None, None))
    return SearchExplanation(
        is_returned=rank is not None and search.offset < rank <= last,
        causes=_causes(search, findings, hits, number, rank),
        rank=rank,
        matched_terms=hit.matched_terms if hit else _terms_of(findings),
        hit=hit,
    )


def _terms_of(findings: SearchFindings) -> tuple[str, ...]:
    texts = (findings.content, findings.tags or "", findings.category or "")
    return written_terms(findings.matched_terms, texts)


def _causes(
    search: Search,
    findings: SearchFindings,
    hits: list[MemoryHit],
    memory_id: int,
    rank: int | None,
) -> tuple[str, ...]:
    """What keeps a memory out of a search; nothing where it is returned."""
    if rank is not None:
        if rank <= search.offset:
            return ("offset",)
        return () if rank <= search.offset + search.limit else ("limit",)
    if findings.causes:
        return tuple(FILTER_OF.get(cause, cause) for cause in findings.causes)
    if any(memory_id in hit.duplicate_ids for hit in hits):
        return ("distinct",)
    return ("cut" if search.query is None or findings.matched_terms else "query",)


@with_filters
async def iterate_memories(
    db: Executor,
    user_id: UserId,
    *,
    include_context: bool = True,
    order: Order = "importance",
    as_of: datetime | None = None,
    **filters: Unpack[FilterOptions],
) -> AsyncIterator[Memory]:
    """Every memory that passes the filters of search_memories, in one of its orders.

    The order and what belongs to it are those of the first moment: each memory that is there from
    then to the end comes exactly once, whatever is accessed, changed, added or deleted meanwhile,
    and as it is when its page of 200 is read. Not tracked.
    """
    listing = Listing.checked({"include_context": include_context, "order": order, **filters})
    now, db = moment(as_of), reader(db)
    user = await find_user(db, user_id)
    if user is None:
        return
    ids: list[int] = await fetch_value(
        db,
        "list_ids",
        user_id=user.number,
        as_of=now,
        newest=listing.order == "newest",
        oldest=listing.order == "oldest",
        modified=listing.order == "modified",
        **listing.arguments(),
    )
    for start in range(0, len(ids), _PAGE):
        page = ids[start : start + _PAGE]
        for memory in await memories_of(db, user, page, now, include_context=include_context):
            yield memory
