"""The original application's functions, with its parameters and its dicts.

They work on a process-wide default database, opened on first use, one per event loop; `configure`
says which. Errors are raised. Accesses are counted within half a second; `close` writes the last.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from typing import Final, TypedDict, Unpack

from pydantic import JsonValue
from pydantic_core import to_jsonable_python

from ltm_store import analytics, memories, relationships, search
from ltm_store.database import Database, Options, connect
from ltm_store.db.identity import find_user
from ltm_store.model.contexts import EnhancedContext
from ltm_store.model.memories import Memory, MemoryType
from ltm_store.model.relationships import Relationship
from ltm_store.model.values import UserId


class OldMemoryRow(TypedDict):
    """A memory as the application knew it before its enhancement; moments are ISO 8601 text."""

    id: int
    content: str
    tags: list[str]
    importance_score: int
    context: str | None
    created_at: str | None
    last_accessed: str | None


class MemoryRow(OldMemoryRow):
    """A memory as a dict of every column."""

    user_id: int
    memory_type: str | None
    category: str | None
    confidence_score: float
    importance_rank: int
    dynamic_importance: float
    context_data: dict[str, JsonValue] | None
    source_type: str | None
    source_id: str | None
    source_position: int | None
    created_by: str | None
    last_modified: str | None
    access_count: int
    last_access_context: str | None
    related_memory_ids: list[int]
    parent_memory_id: int | None
    metadata: JsonValue
    is_archived: bool
    archive_reason: str | None
    idempotency_key: str | None
    version: int
    expires_at: str | None
    expires_after: str | None
    namespace: str
    key: str | None


class RelationshipRow(TypedDict):
    """A relationship of a memory, with the id of the other one."""

    id: int
    type: str
    strength: float
    description: str | None
    related_memory_id: int


class DetailedMemoryRow(MemoryRow):
    """A memory with its context as {type: {key: value}}, and its relationships."""

    enhanced_context: dict[str, JsonValue]
    relationships: list[RelationshipRow]


class SummaryRow(TypedDict):
    """The other memory of a relationship; its content is cut to 100 characters."""

    id: int
    content: str
    memory_type: str | None
    importance_score: int


class RelatedMemoryRow(TypedDict):
    """A relationship with a summary of the other memory."""

    id: int
    relationship_type: str
    strength: float
    description: str | None
    related_memory: SummaryRow


class AccessedRow(SummaryRow):
    """A memory of a ranking."""

    access_count: int


class AnalyticsRow(TypedDict):
    """Figures over a user's memories."""

    total_memories: int
    type_distribution: dict[str, int]
    category_distribution: dict[str, int]
    average_importance: float | None
    average_dynamic_importance: float | None
    most_accessed_memories: list[AccessedRow]


class StatsRow(TypedDict):
    """A user in figures; the five most used tags with how many memories carry each."""

    total_memories: int
    average_importance: float
    top_tags: list[tuple[str, int]]
    user_id: UserId


_TOP_TAGS: Final = 5
_SUMMARY_CHARS: Final = 100
_databases: dict[asyncio.AbstractEventLoop, asyncio.Future[Database]] = {}
# An event loop ends the asynchronous generators that were begun on it before it closes: asyncio.run
# does. So the last accesses are written, and the connections closed, with no call to close().
_guards: dict[asyncio.AbstractEventLoop, AsyncGenerator[None]] = {}
_configured: tuple[str | None, Options] = (None, {})


def configure(dsn: str | None = None, **options: Unpack[Options]) -> None:
    """Choose the database of these functions, with the arguments of connect().

    It is used from the next opening on: call it first, or after close().
    """
    global _configured
    _configured = (dsn, options)


async def close() -> None:
    """Close the default database of this event loop; the next call opens it again."""
    guard = _guards.pop(asyncio.get_running_loop(), None)
    if guard is not None:
        await guard.aclose()


async def _guarded(loop: asyncio.AbstractEventLoop) -> AsyncGenerator[None]:
    """Close the database of a loop when this generator ends."""
    try:
        yield
    finally:
        opening = _databases.pop(loop, None)
        if opening is not None:
            with suppress(Exception):  # what could not be opened need not be closed
                await (await opening).close()


async def _database() -> Database:
    loop = asyncio.get_running_loop()
    opening = _databases.get(loop)
    if opening is None or (opening.done() and (opening.cancelled() or opening.exception())):
        for ended in [other for other in _guards if other.is_closed()]:
            _databases.pop(ended, None)
            del _guards[ended]
        if loop not in _guards:
            _guards[loop] = _guarded(loop)
            await anext(_guards[loop])
        dsn, options = _configured
        opening = _databases[loop] = asyncio.ensure_future(_opened(connect(dsn, **options)))
    return await asyncio.shield(opening)


async def _opened(database: Database) -> Database:
    return await database


class _Details(TypedDict, total=False):
    """The keywords that add_ltm_memory shares with add_enhanced_ltm_memory."""

    enhanced_context: EnhancedContext | Mapping[str, object] | None
    memory_type: str | None
    category: str | None
    confidence_score: float
    source_type: str | None
    source_id: str | None
    created_by: str
    metadata: Mapping[str, JsonValue] | None
    related_memory_ids: Sequence[int] | None
    parent_memory_id: int | None


def _columns(memory: Memory) -> MemoryRow:
    """A memory as a dict of every column, moments as ISO 8601 text."""
    own = {"enhanced_context", "relationships", "outcome", "duplicate_of"}
    names = [name for name in Memory.model_fields if name not in own]
    values: dict[str, object] = {name: getattr(memory, name) for name in names}
    values["context_data"] = memory.enhanced_context and memory.enhanced_context.stored()
    for name, value in values.items():
        if isinstance(value, datetime):
            values[name] = value.isoformat()
    row: MemoryRow = to_jsonable_python(values)
    return row


def _context(memory: Memory) -> dict[str, JsonValue]:
    """A context as {type: {key: value}}."""
    if memory.enhanced_context is None:
        return {}
    stored = memory.enhanced_context.stored()
    custom = {
        context.context_type: context.context_data
        for context in memory.enhanced_context.custom_contexts
    }
    stored.pop("custom_contexts", None)
    extra = stored.pop("extra", None)
    found: dict[str, JsonValue] = {
        name: {key: value for key, value in fields.items() if key != "confidence"}
        for name, fields in stored.items()
    }
    if extra:
        found["extra"] = extra
    if custom:
        found["custom"] = dict(custom)
    return found


def _summary(content: str) -> str:
    return content if len(content) <= _SUMMARY_CHARS else content[:_SUMMARY_CHARS] + "..."


def _related(relationship: Relationship) -> RelatedMemoryRow:
    other = relationship.related_memory
    return {
        "id": relationship.id,
        "relationship_type": relationship.relationship_type,
        "strength": relationship.strength,
        "description": relationship.description,
        "related_memory": {
            "id": other.id,
            "content": _summary(other.content),
            "memory_type": other.memory_type,
            "importance_score": other.importance_score,
        },
    }


async def add_enhanced_ltm_memory(
    user_id: UserId,
    content: str,
    tags: Sequence[str],
    importance_score: int = 1,
    context: str | None = None,
    enhanced_context: EnhancedContext | Mapping[str, object] | None = None,
    memory_type: str | None = None,
    category: str | None = None,
    confidence_score: float = 1.0,
    source_type: str | None = None,
    source_id: str | None = None,
    created_by: str = "system",
    metadata: Mapping[str, JsonValue] | None = None,
    related_memory_ids: Sequence[int] | None = None,
    parent_memory_id: int | None = None,
) -> MemoryRow:
    """Store a memory and return it as a dict of every column; see ltm_store.add_memory.

    Without a memory_type it is an "insight", without a category "general".
    """
    memory = await memories.add_memory(
        await _database(),
        user_id,
        content,
        tags=tags,
        importance_score=importance_score,
        confidence_score=confidence_score,
        context=context,
        enhanced_context=enhanced_context,
        memory_type=MemoryType.INSIGHT if memory_type is None else memory_type,
        category="general" if category is None else category,
        source_type=source_type,
        source_id=source_id,
        created_by=created_by,
        metadata=metadata,
        related_memory_ids=related_memory_ids or (),
        parent_memory_id=parent_memory_id,
    )
    return _columns(memory)


async def get_enhanced_ltm_memory(memory_id: int, user_id: UserId) -> DetailedMemoryRow | None:
    """A memory as a dict of every column, with its enhanced_context and relationships."""
    memory = await memories.get_memory(
        await _database(), user_id, memory_id, include_relationships=True
    )
    if memory is None:
        return None
    return _detailed(memory, memory.relationships or ())


def _detailed(memory: Memory, relationships: Sequence[Relationship]) -> DetailedMemoryRow:
    return {
        **_columns(memory),
        "enhanced_context": _context(memory),
        "relationships": [
            {
                "id": relationship.id,
                "type": relationship.relationship_type,
                "strength": relationship.strength,
                "description": relationship.description,
                "related_memory_id": relationship.related_memory.id,
            }
            for relationship in relationships
        ],
    }


async def search_enhanced_ltm_memories(
    user_id: UserId,
    query: str,
    limit: int = 5,
    min_importance: int = 1,
    memory_type: str | None = None,
    category: str | None = None,
    tags: Sequence[str] | None = None,
    source_type: str | None = None,
    include_context: bool = True,
) -> list[DetailedMemoryRow]:
    """The memories that match, best first, as get_enhanced_ltm_memory's dicts.

    See ltm_store.search_memories. Without include_context their enhanced_context is empty. A filter
    that is empty is none.
    """
    database = await _database()
    hits = await search.search_memories(
        database,
        user_id,
        query,
        limit=limit,
        min_importance=min_importance,
        memory_type=memory_type or None,
        category=category or None,
        tags=tags or None,
        source_type=source_type or None,
        include_context=include_context,
    )
    user = await find_user(database, user_id)
    if user is None or not hits:
        return []
    found = await relationships.relationships_of(database, user, [hit.id for hit in hits])
    return [_detailed(hit, found[hit.id]) for hit in hits]


async def get_memory_relationships(memory_id: int, user_id: UserId) -> list[RelatedMemoryRow]:
    """The relationships of a memory in both directions, with a summary of the other memory."""
    found = await relationships.get_relationships(await _database(), user_id, memory_id)
    return [_related(relationship) for relationship in found]


async def update_memory_importance(memory_id: int, user_id: UserId, new_importance: int) -> bool:
    """Set the base importance of a memory; tell whether there is one."""
    changed = await memories.update_importance(
        await _database(), user_id, memory_id, new_importance
    )
    return changed is not None


async def archive_memory(memory_id: int, user_id: UserId, reason: str = "User request") -> bool:
    """Archive a memory; tell whether there is one."""
    archived = await memories.archive_memory(await _database(), user_id, memory_id, reason=reason)
    return archived is not None


async def get_memory_analytics(user_id: UserId) -> AnalyticsRow:
    """Totals, distributions, averages and the most accessed memories of a user."""
    figures = await analytics.get_analytics(await _database(), user_id)
    row: AnalyticsRow = to_jsonable_python(
        figures,
        include={
            "total_memories",
            "type_distribution",
            "category_distribution",
            "average_importance",
            "average_dynamic_importance",
            "most_accessed_memories",
        },
    )
    return row


async def run_ltm_enhancement_migration(database_url: str) -> None:
    """Apply the migrations to a database."""
    from ltm_store import migrate  # of an extra
    from ltm_store.db import dsn

    target = dsn.target(database_url)
    await asyncio.to_thread(migrate.apply, target.libpq if target else database_url)


def _before(row: MemoryRow) -> OldMemoryRow:
    """The columns of before the enhancement."""
    return {
        "id": row["id"],
        "content": row["content"],
        "tags": row["tags"],
        "importance_score": row["importance_score"],
        "context": row["context"],
        "created_at": row["created_at"],
        "last_accessed": row["last_accessed"],
    }


async def add_ltm_memory(
    user_id: UserId,
    content: str,
    tags: Sequence[str],
    importance_score: int = 1,
    context: str | None = None,
    **details: Unpack[_Details],
) -> OldMemoryRow:
    """Store a memory; see add_enhanced_ltm_memory. Returns the dict of before the enhancement."""
    row = await add_enhanced_ltm_memory(
        user_id, content, tags, importance_score, context, **details
    )
    return _before(row)


async def search_ltm_memories(
    user_id: UserId, query: str, limit: int = 5, min_importance: int = 1
) -> list[OldMemoryRow]:
    """The memories that match, best first."""
    hits = await search.search_memories(
        await _database(), user_id, query, limit=limit, min_importance=min_importance
    )
    return [_before(_columns(hit)) for hit in hits]


async def get_relevant_ltm_memories(
    user_id: UserId, context: str, limit: int = 3
) -> list[OldMemoryRow]:
    """The memories whose content or tags share words with the context, best first."""
    return await search_ltm_memories(user_id, context, limit)


async def delete_ltm_memory(user_id: UserId, memory_id: int) -> bool:
    """Delete a memory; tell whether there was one."""
    return await memories.delete_memory(await _database(), user_id, memory_id)


async def get_ltm_memory_stats(user_id: UserId) -> StatsRow:
    """How many memories a user has, their average importance, and the five most used tags."""
    figures = await analytics.get_analytics(await _database(), user_id)
    return {
        "total_memories": figures.total_memories,
        "average_importance": figures.average_importance or 0,
        "top_tags": list(figures.tag_distribution.items())[:_TOP_TAGS],
        "user_id": user_id,
    }
