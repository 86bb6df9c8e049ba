"""Adding, reading, searching, changing and deleting memories."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Final, TypedDict, Unpack

from pydantic import JsonValue

from ltm_store import limits
from ltm_store.db.execute import (
    Executor,
    Handle,
    ensure_user,
    fetch_many,
    fetch_one,
    fetch_value,
    find_user,
    locking,
    track,
)
from ltm_store.errors import InvalidMemory, Unavailable
from ltm_store.model.accesses import AccessDetails
from ltm_store.model.contexts import EnhancedContext, store_context
from ltm_store.model.memories import Conflict, Memory, MemoryChanges, NewMemory
from ltm_store.model.search import Filters, MemoryHit, SearchExplanation, SearchFindings
from ltm_store.model.values import (
    UserId,
    check_memory_id,
    dump_json,
    moment,
    row_limit,
    whole_number,
)
from ltm_store.queries import parse_query

FORGOTTEN: Final = "this user is being forgotten"
_PAGE: Final = 200  # memories that iterate_memories reads at once
_ATTEMPTS: Final = 100  # of an update, where others come in between
_log = logging.getLogger(__name__)


class Changes(TypedDict, total=False):
    """The fields that update_memory can change."""

    content: str
    tags: Iterable[str] | None
    importance_score: int
    confidence_score: float
    context: str | None
    enhanced_context: EnhancedContext | Mapping[str, object] | None
    memory_type: str | None
    category: str | None
    source_type: str | None
    source_id: str | None
    source_position: int | None
    created_by: str | None
    metadata: Mapping[str, JsonValue] | None
    parent_memory_id: int | None
    expires_at: datetime | None


def _json(value: object) -> str | None:
    return None if value is None else dump_json(value)


def _context_arguments(context: EnhancedContext | None) -> tuple[object, ...]:
    """The JSON object's text, then the four columns of the rows."""
    if context is None:
        return None, None, None, None, None
    text, rows = store_context(context)
    return text, *([row[i] for row in rows] for i in range(4))


async def add_memory(
    db: Executor,
    user_id: UserId,
    content: str,
    *,
    tags: Iterable[str] = (),
    importance_score: int = 5,
    confidence_score: float = 1.0,
    context: str | None = None,
    enhanced_context: EnhancedContext | Mapping[str, object] | None = None,
    memory_type: str | None = None,
    category: str | None = None,
    source_type: str | None = None,
    source_id: str | None = None,
    source_position: int | None = None,
    created_by: str | None = "system",
    metadata: Mapping[str, JsonValue] | None = None,
    related_memory_ids: Iterable[int] = (),
    parent_memory_id: int | None = None,
    created_at: datetime | None = None,
    expires_at: datetime | None = None,
    idempotency_key: str | None = None,
) -> Memory:
    """Store a memory with its contexts, tags and relationships, all or nothing, and return it.

    With an idempotency_key that the user has used before, the memory stored then comes back
    unchanged with outcome "existing"; otherwise outcome is "created". related_memory_ids become
    relationships of type "related" and strength 0.5. Where the user has a memory that says the
    same, duplicate_of tells its id; both are kept, and of two adds at the same instant neither may
    tell. Raises InvalidMemory naming the field that is refused, among them related and parent
    memories that this user does not have.
    """
    given = dict(locals())
    new = NewMemory.checked({name: given[name] for name in NewMemory.model_fields})
    for anew in (False, True):
        memory = await store(db, await ensure_user(db, user_id, anew=anew), new)
        if memory is not None:
            return memory
    raise Unavailable(FORGOTTEN)


async def store(db: Executor, user: int, new: NewMemory) -> Memory | None:
    """Store a validated memory under the number of its user; see add_memory.

    None when the number is nobody's any more, because its user was forgotten.
    """
    now = moment(None)
    context_data, *context_columns = _context_arguments(new.enhanced_context)
    try:
        memory = await fetch_one(
            db,
            "add_memory",
            Memory,
            user,
            now,
            new.content,
            dump_json(new.tags),
            new.memory_type,
            new.category,
            new.importance_score,
            new.confidence_score,
            new.context,
            context_data,
            new.source_type,
            new.source_id,
            new.source_position,
            new.created_by,
            new.created_at or now,
            new.parent_memory_id,
            _json(new.metadata),
            new.expires_at,
            new.idempotency_key,
            list(new.tags) or None,
            list(new.related_memory_ids) or None,
            *context_columns,
            user < 0,
            repeat=new.idempotency_key is not None,
        )
    except InvalidMemory as error:
        if error.field != "target_memory_id":
            raise
        raise InvalidMemory("related_memory_ids", error.rule) from None
    if memory and memory.outcome == "existing" and memory.content != new.content:
        _log.warning("memory %d has this idempotency_key and another content", memory.id)
    return memory


async def get_memory(
    db: Executor,
    user_id: UserId,
    memory_id: int,
    *,
    include_relationships: bool = False,
    as_of: datetime | None = None,
    access_context: str | None = None,
) -> Memory | None:
    """One memory with its context and tags, archived or not; None when missing or expired.

    as_of is the moment that dynamic_importance and expiry are for. Tracked as a "direct" access,
    with access_context as the caller's words on it.
    """
    number, now = check_memory_id(memory_id), moment(as_of)
    if access_context is not None:
        AccessDetails.checked({"memory_ids": (number,), "access_context": access_context})
    user = await find_user(db, user_id)
    if user is None:
        return None
    memory = await _read(db, user, number, now, include_relationships)
    if memory is not None:
        await track(db, user, [memory.id], "direct", context=access_context)
    return memory


async def _read(
    db: Executor, user: int, number: int, now: datetime, include_relationships: bool
) -> Memory | None:
    return await fetch_one(db, "get_memory", Memory, user, number, now, include_relationships)


async def get_memories(db: Executor, user_id: UserId, memory_ids: Sequence[int]) -> list[Memory]:
    """Memories in the order of the ids asked for, archived or not; missing ones are left out.

    Tracked as "direct" accesses. Raises InvalidMemory for more than 10,000 ids.
    """
    numbers = [check_memory_id(memory_id, "memory_ids") for memory_id in memory_ids]
    if len(numbers) > limits.LISTED:
        raise InvalidMemory("memory_ids", f"more than {limits.LISTED} ids")
    user = await find_user(db, user_id)
    if user is None:
        return []
    found = await fetch_many(db, "get_memories", Memory, user, numbers, moment(None))
    await track(db, user, [memory.id for memory in found], "direct")
    return found


async def search_memories(
    db: Executor,
    user_id: UserId,
    query: str | None = None,
    *,
    memory_type: str | None = None,
    category: str | None = None,
    tags: Iterable[str] | None = None,
    tags_any: Iterable[str] | None = None,
    source_type: str | None = None,
    source_id: str | None = None,
    context_data: EnhancedContext | Mapping[str, object] | None = None,
    metadata: Mapping[str, JsonValue] | None = None,
    min_importance: int | None = None,
    min_confidence: float | None = None,
    created_after: datetime | None = None,
    created_before: datetime | None = None,
    accessed_after: datetime | None = None,
    include_archived: bool = False,
    include_context: bool = True,
    neighbours: bool = True,
    importance_weight: float = 0.1,
    limit: int = 10,
    as_of: datetime | None = None,
) -> list[MemoryHit]:
    """The memories that pass every filter, best first: by dynamic importance, or by the query.

    With a query, hits share at least one of its words (stop words aside) and are ordered by
    score. A blank query is none; one of stop words alone finds nothing.

    tags: all of them, tags_any: at least one, in any letter case. context_data and metadata:
    contained in the memory's JSON. min_importance: of the base importance_score. created_after
    and accessed_after include their moment, created_before does not. limit: 1 .. 1000. as_of is
    the moment that dynamic importance and expiry are for. Tracked as "search" accesses.

    Raises InvalidMemory naming the argument that is refused.
    """
    given = dict(locals())
    filters = Filters.checked({name: given[name] for name in Filters.model_fields})
    now = moment(as_of)
    user = await find_user(db, user_id)
    if user is None:
        return []
    if filters.query is None:
        hits = await _list(db, user, now, filters, filters.limit)
    else:
        hits = await _search(db, user, now, filters, filters.query, neighbours)
    await track(db, user, [hit.id for hit in hits], "search", query=filters.query)
    return hits


def _filter_arguments(filters: Filters) -> tuple[object, ...]:
    """The arguments that the shared conditions take, from importance_weight to context_data."""
    return (
        filters.importance_weight,
        filters.include_context,
        filters.memory_type,
        filters.category,
        filters.source_type,
        filters.min_importance,
        filters.min_confidence,
        filters.created_after,
        filters.created_before,
        filters.accessed_after,
        _json(filters.metadata or None),
        filters.source_id,
        _json(filters.tags or None),
        _json(filters.tags_any or None),
        _json(filters.context_data or None),
    )


async def _list(
    db: Executor,
    user: int,
    now: datetime,
    filters: Filters,
    row_limit: int,
    after: Memory | None = None,
) -> list[MemoryHit]:
    return await fetch_many(
        db,
        "list_memories",
        MemoryHit,
        user,
        now,
        row_limit,
        *_filter_arguments(filters),
        after and after.importance_rank,
        after and after.id,
        filters.include_archived,
    )


async def _search(
    db: Executor, user: int, now: datetime, filters: Filters, query: str, neighbours: bool
) -> list[MemoryHit]:
    parsed = parse_query(query)
    return await fetch_many(
        db,
        "search_memories",
        MemoryHit,
        user,
        now,
        filters.limit,
        *_filter_arguments(filters),
        parsed.words,
        limits.QUERY_TERMS,
        list(parsed.phrases),
        list(parsed.exclusions),
        neighbours,
        filters.include_archived,
    )


async def explain_search(
    db: Executor,
    user_id: UserId,
    query: str | None,
    memory_id: int,
    *,
    memory_type: str | None = None,
    category: str | None = None,
    tags: Iterable[str] | None = None,
    tags_any: Iterable[str] | None = None,
    source_type: str | None = None,
    source_id: str | None = None,
    context_data: EnhancedContext | Mapping[str, object] | None = None,
    metadata: Mapping[str, JsonValue] | None = None,
    min_importance: int | None = None,
    min_confidence: float | None = None,
    created_after: datetime | None = None,
    created_before: datetime | None = None,
    accessed_after: datetime | None = None,
    include_archived: bool = False,
    include_context: bool = True,
    neighbours: bool = True,
    importance_weight: float = 0.1,
    limit: int = 10,
    as_of: datetime | None = None,
) -> SearchExplanation:
    """Why search_memories with these arguments returns a memory, or why not. Not tracked."""
    given = dict(locals())
    filters = Filters.checked({name: given[name] for name in Filters.model_fields})
    number, now = check_memory_id(memory_id), moment(as_of)
    user = await find_user(db, user_id)
    parsed = parse_query(filters.query or "")
    findings = None
    if user is not None:
        findings = await fetch_one(
            db,
            "explain_search",
            SearchFindings,
            user,
            now,
            number,
            *_filter_arguments(filters)[2:],
            parsed.words,
            limits.QUERY_TERMS,
            list(parsed.phrases),
            list(parsed.exclusions),
            filters.include_archived,
        )
    if user is None or findings is None:
        return SearchExplanation(
            is_returned=False, causes=("missing",), rank=None, matched_terms=(), hit=None
        )
    wide = filters.model_copy(update={"limit": limits.HITS})
    if filters.query is None:
        hits = await _list(db, user, now, wide, limits.HITS)
    else:
        hits = await _search(db, user, now, wide, filters.query, neighbours)
    rank, hit = next(((n, h) for n, h in enumerate(hits, 1) if h.id == number), (None, None))
    causes = [name for name, passed in findings if passed is False]
    if rank is not None:
        causes = [] if rank <= filters.limit else ["limit"]
    elif not causes and filters.query is None:
        causes = ["cut"]
    elif not causes:
        kept = {term for other in hits for term in other.matched_terms}
        only_common = bool(findings.matched_terms) and kept.isdisjoint(findings.matched_terms)
        causes = ["common_words" if only_common else "cut" if findings.matched_terms else "query"]
    return SearchExplanation(
        is_returned=rank is not None and rank <= filters.limit,
        causes=tuple(causes),
        rank=rank,
        matched_terms=findings.matched_terms,
        hit=hit,
    )


async def iterate_memories(
    db: Executor,
    user_id: UserId,
    *,
    memory_type: str | None = None,
    category: str | None = None,
    tags: Iterable[str] | None = None,
    tags_any: Iterable[str] | None = None,
    source_type: str | None = None,
    source_id: str | None = None,
    context_data: EnhancedContext | Mapping[str, object] | None = None,
    metadata: Mapping[str, JsonValue] | None = None,
    min_importance: int | None = None,
    min_confidence: float | None = None,
    created_after: datetime | None = None,
    created_before: datetime | None = None,
    accessed_after: datetime | None = None,
    include_archived: bool = False,
    include_context: bool = True,
    as_of: datetime | None = None,
) -> AsyncIterator[Memory]:
    """Every memory that passes the filters of search_memories, most important first.

    Read page by page, so that memory stays small; each page goes on after the last memory of the
    one before, whatever is added or deleted meanwhile. Not tracked.
    """
    given = dict(locals())
    names = [name for name in Filters.model_fields if name in given]
    filters = Filters.checked({name: given[name] for name in names})
    now = moment(as_of)
    user = await find_user(db, user_id)
    last: Memory | None = None
    while user is not None:
        page = await _list(db, user, now, filters, _PAGE, last)
        for hit in page:
            yield hit
        if len(page) < _PAGE:
            return
        last = page[-1]


async def update_memory(
    db: Executor,
    user_id: UserId,
    memory_id: int,
    *,
    expected_version: int | None = None,
    **fields: Unpack[Changes],
) -> Memory | None:
    """Change the given fields of a memory and return it; None when there is none.

    A field that is left out stays, None clears one. tags and enhanced_context replace what was
    there, metadata merges its top-level keys into it. Raises Conflict carrying the memory as it
    is now when it is not at expected_version, InvalidMemory naming the field that is refused.
    """
    return await _change(db, user_id, memory_id, MemoryChanges.checked(fields), expected_version)


async def _change(
    db: Executor,
    user_id: UserId,
    memory_id: int,
    changes: MemoryChanges,
    expected_version: int | None = None,
) -> Memory | None:
    given = changes.model_fields_set
    number = check_memory_id(memory_id)
    if expected_version is not None:
        whole_number(expected_version, "expected_version")
    now = moment(None)
    context_arguments = _context_arguments(changes.enhanced_context)
    user = await find_user(db, user_id)
    if user is None:
        return None
    retagged, replaced = "tags" in given, "enhanced_context" in given
    for _ in range(_ATTEMPTS):
        memory = await fetch_one(
            db,
            "update_memory",
            Memory,
            user,
            number,
            now,
            expected_version,
            list(given),
            changes.content if "content" in given else None,
            changes.importance_score if "importance_score" in given else None,
            changes.confidence_score if "confidence_score" in given else None,
            changes.context,
            changes.memory_type,
            changes.category,
            changes.source_type,
            changes.source_id,
            changes.source_position,
            changes.created_by,
            _json(changes.metadata),
            changes.parent_memory_id,
            changes.expires_at,
            changes.is_archived if "is_archived" in given else None,
            changes.archive_reason,
            dump_json(changes.tags) if retagged else None,
            list(changes.tags) if retagged else None,
            *context_arguments,
            replaced,
            retagged or replaced,
        )
        if memory is not None:
            return memory
        # Nothing was written: no such memory, another version, or another update came in between.
        current = await _read(db, user, number, now, False)
        if current is None:
            return None
        if expected_version is not None and current.version != expected_version:
            raise Conflict(current)
    raise Unavailable("other updates of this memory came in between each time")


async def update_importance(
    db: Executor, user_id: UserId, memory_id: int, importance_score: int
) -> Memory | None:
    """Set the base importance, 1 .. 10, of a memory and return it; None when there is none."""
    changes = MemoryChanges.checked({"importance_score": importance_score})
    return await _change(db, user_id, memory_id, changes)


async def archive_memory(
    db: Executor, user_id: UserId, memory_id: int, *, reason: str | None = None
) -> Memory | None:
    """Put a memory away: searches leave it out, reads by id do not. None when there is none.

    Repeatable; a repetition without a reason keeps the first one.
    """
    fields: dict[str, object] = {"is_archived": True}
    if reason is not None:
        fields["archive_reason"] = reason
    return await _change(db, user_id, memory_id, MemoryChanges.checked(fields))


async def restore_memory(db: Executor, user_id: UserId, memory_id: int) -> Memory | None:
    """Take a memory out of the archive and drop the reason; None when there is none. Repeatable."""
    changes = MemoryChanges.checked({"is_archived": False, "archive_reason": None})
    return await _change(db, user_id, memory_id, changes)


async def archive_stale(
    db: Executor,
    user_id: UserId,
    below: float,
    as_of: datetime | None = None,
    *,
    limit: int = 1000,
) -> list[Memory]:
    """Archive the memories whose dynamic importance is below a bound; return them, lowest first.

    below: above 0, at most 10. as_of is the moment that the importance is for. At most limit
    (1 .. 1000) memories at once: while that many come back, there may be more. archive_reason says
    what their importance was; restore_memory takes one back. Queued accesses of the user are
    written first. Raises InvalidMemory naming the argument that is refused.
    """
    if isinstance(below, bool) or not isinstance(below, int | float) or not 0 < below <= 10:
        raise InvalidMemory("below", "should be above 0 and at most 10")
    then, rows = moment(as_of), row_limit(limit)
    user = await find_user(db, user_id)
    if user is None:
        return []
    if isinstance(db, Handle):
        await db.settled(user)
    return await fetch_many(
        db, "archive_stale", Memory, user, then, float(below), moment(None), rows
    )


async def get_children(
    db: Executor,
    user_id: UserId,
    memory_id: int,
    *,
    as_of: datetime | None = None,
    limit: int = 1000,
) -> list[Memory]:
    """The memories whose parent_memory_id is this one, archived or not, first stored first.

    At most limit (1 .. 1000) of them. as_of is the moment that dynamic importance and expiry are
    for. Not tracked.
    """
    number, now, rows = check_memory_id(memory_id), moment(as_of), row_limit(limit)
    user = await find_user(db, user_id)
    if user is None:
        return []
    return await fetch_many(db, "get_children", Memory, user, number, now, rows)


async def delete_memory(db: Executor, user_id: UserId, memory_id: int) -> bool:
    """Delete a memory and all that hangs on it; tell whether there was one.

    Its children lose their parent, and the memories that it was related to no longer mention it.
    """
    number = check_memory_id(memory_id)
    user = await find_user(db, user_id)
    return user is not None and await erase(db, user, [number], moment(None)) > 0


async def erase(
    db: Executor, user: int, numbers: list[int], now: datetime, *, only_expired: bool = False
) -> int:
    """Delete memories of the user of this number, as delete_memory does; return how many."""
    async with locking(db) as connection:
        if not await fetch_value(connection, "lock_for_delete", user, numbers):
            return 0
        deleted: int = await fetch_value(
            connection, "delete_memories", user, numbers, now, only_expired
        )
    return deleted
