"""Searching memories, going through them, and explaining what a search found."""

from __future__ import annotations

import inspect
import re
from collections.abc import AsyncIterator, Callable
from datetime import datetime
from typing import Final, NamedTuple, TypeVar, Unpack

from ltm_store import limits
from ltm_store.db.execute import (
    Executor,
    fetch_many,
    fetch_one,
    fetch_value,
    one_deadline,
)
from ltm_store.db.identity import User, find_user
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
from ltm_store.model.values import UserId, check_memory_id, moment

_PAGE: Final = 200  # memories that iterate_memories reads at once
# A minus at the start of a word or phrase excludes it; quotes hold a phrase together.
_PART = re.compile(r'(?<!\S)(?P<minus>-)?(?:"(?P<phrase>[^"]*)"|(?P<word>[^\s"]+))')

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
@one_deadline
async def search_memories(
    db: Executor,
    user_id: UserId,
    query: str | None = None,
    *,
    include_context: bool = True,
    neighbours: bool = True,
    distinct: bool = True,
    importance_weight: float = 0.1,
    limit: int = 10,
    order: Order | None = None,
    offset: int = 0,
    as_of: datetime | None = None,
    **filters: Unpack[FilterOptions],
) -> list[MemoryHit]:
    """The memories that pass every filter: with a query the best first, else in an order.

    With a query, hits share at least one of its words (stop words aside), or stand beside such a
    memory in the same source, and are ordered by score. A blank query is none; one of stop words
    alone finds nothing.

    query: at most 250,000 bytes, of which the first 64 different words are looked for.
    filters: see Filters; all of them must hold.
    include_context: whether hits carry their enhanced_context.
    neighbours: whether memories beside a hit in the same source count.
    distinct: of hits with equal contents (but for letter case and white space) only the most
    important; its duplicate_ids name the others. A list, without a query, shows every row.
    importance_weight: 0 .. 100, how much dynamic importance lifts a score: a tenth of it per point.
    limit: 1 .. 1000. offset: 0 .. 10,000, how many hits before these are left out.
    order: without a query, "importance" (default), "newest", "oldest" (by created_at) or
    "modified" (the last changed first). With a query it is refused: the order is by score.
    as_of: the moment that dynamic importance and expiry are for, default now.

    Tracked as "search" accesses. Raises InvalidMemory naming the argument that is refused.
    """
    search = Search.checked(
        {
            "query": query,
            "include_context": include_context,
            "neighbours": neighbours,
            "distinct": distinct,
            "importance_weight": importance_weight,
            "limit": limit,
            "order": order,
            "offset": offset,
            **filters,
        }
    )
    now = moment(as_of)
    user = await find_user(db, user_id)
    if user is None:
        return []
    hits = await _hits(db, user, now, search, search.limit, search.offset)
    await track_reads(db, user, hits, "search", query=search.query)
    return hits


async def _hits(
    db: Executor, user: User, now: datetime, search: Search, limit: int, offset: int
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
    if search.query is not None:
        return await fetch_many(
            db,
            "search_memories",
            MemoryHit,
            neighbours=search.neighbours,
            distinct=search.distinct,
            **_query_arguments(search.query),
            **arguments,
        )
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


@with_filters
@one_deadline
async def count_memories(
    db: Executor,
    user_id: UserId,
    query: str | None = None,
    *,
    as_of: datetime | None = None,
    **filters: Unpack[FilterOptions],
) -> int:
    """How many memories pass every filter and, with a query, hold at least one of its words.

    Of a query also its phrases and exclusions are heeded. Memories that a search would find beside
    a hit are not counted; those with equal contents are, each. filters and as_of: see
    search_memories. Not tracked.
    """
    count = Count.checked({"query": query, **filters})
    now = moment(as_of)
    user = await find_user(db, user_id)
    if user is None:
        return 0
    asked = _query_arguments(count.query or "")
    if count.query is None:
        asked["query"] = None
    found: int = await fetch_value(
        db, "count_memories", user_id=user.number, as_of=now, **asked, **count.arguments()
    )
    return found


@with_filters
@one_deadline
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
            "limit": limit,
            "order": order,
            "offset": offset,
            **filters,
        }
    )
    number, now = check_memory_id(memory_id), moment(as_of)
    user = await find_user(db, user_id)
    findings = user and await fetch_one(
        db,
        "explain_search",
        SearchFindings,
        user_id=user.number,
        as_of=now,
        memory_id=number,
        **_query_arguments(search.query or ""),
        **search.arguments(),
    )
    if user is None or findings is None:
        return SearchExplanation(
            is_returned=False, causes=("missing",), rank=None, matched_terms=(), hit=None
        )
    last = search.offset + search.limit
    hits = await _hits(db, user, now, search, max(limits.HITS, last), 0)
    rank, hit = next(((n, h) for n, h in enumerate(hits, 1) if h.id == number), (None, None))
    return SearchExplanation(
        is_returned=rank is not None and search.offset < rank <= last,
        causes=_causes(search, findings, hits, number, rank),
        rank=rank,
        matched_terms=findings.matched_terms,
        hit=hit,
    )


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
    if search.query is None:
        return ("cut",)
    if any(memory_id in hit.duplicate_ids for hit in hits):
        return ("distinct",)
    if not findings.matched_terms:
        return ("query",)
    kept = {term for hit in hits for term in hit.matched_terms}
    return ("common_words" if kept.isdisjoint(findings.matched_terms) else "cut",)


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
    now = moment(as_of)
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


class Query(NamedTuple):
    """What is asked: words to rank by, phrases that must be there, and what must not."""

    words: str
    phrases: list[str]
    exclusions: list[str]


def parse_query(text: str) -> Query:
    """Take a query apart. The words of a phrase are ranked by too."""
    phrases: list[str] = []
    exclusions: list[str] = []

    def part_of(match: re.Match[str]) -> str:
        part = match["phrase"] if match["phrase"] is not None else match["word"]
        if match["minus"]:
            exclusions.append(part)
            return ""
        if match["phrase"] is not None:
            phrases.append(part)
        return part

    return Query(_PART.sub(part_of, text), phrases, exclusions)


def _query_arguments(query: str) -> dict[str, object]:
    words, phrases, exclusions = parse_query(query)
    return {
        "query": words,
        "term_limit": limits.QUERY_TERMS,
        "phrases": phrases,
        "exclusions": exclusions,
    }
