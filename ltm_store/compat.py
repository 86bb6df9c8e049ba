"""The original application's functions, with its parameters, its dicts and its context classes.

They work on a process-wide default database, opened on first use, one per event loop; `configure`
says which. Errors are raised. A read is counted before it returns, and its dicts tell of it. All
moments in dicts are ISO 8601 text of UTC without an offset.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, Final, Self, TypedDict, Unpack

from pydantic import ConfigDict, Field, JsonValue
from pydantic_core import to_jsonable_python

from ltm_store import adding, analytics, limits, memories, relationships, search
from ltm_store.database import Database, Options, connect
from ltm_store.db.identity import find_user
from ltm_store.errors import told_as
from ltm_store.model import contexts
from ltm_store.model.contexts import (
    EmotionalContext,
    EnvironmentalContext,
    SocialContext,
    SpatialContext,
    TechnicalContext,
    TemporalContext,
)
from ltm_store.model.memories import Memory, MemoryType, SourceType
from ltm_store.model.relationships import Relationship
from ltm_store.model.search import Search
from ltm_store.model.values import UserId, moment

__all__ = [
    "CustomContext",
    "EmotionalContext",
    "EnhancedContext",
    "EnvironmentalContext",
    "MemoryMetadata",
    "MemoryType",
    "SocialContext",
    "SourceType",
    "SpatialContext",
    "TechnicalContext",
    "TemporalContext",
    "add_enhanced_ltm_memory",
    "add_ltm_memory",
    "archive_memory",
    "close",
    "configure",
    "create_default_context",
    "delete_ltm_memory",
    "get_enhanced_ltm_memory",
    "get_ltm_memory_stats",
    "get_memory_analytics",
    "get_memory_relationships",
    "get_relevant_ltm_memories",
    "run_ltm_enhancement_migration",
    "search_enhanced_ltm_memories",
    "search_ltm_memories",
    "update_memory_importance",
]


class CustomContext(contexts.CustomContext):
    """A context of the caller's own type, e.g. CustomContext("mood board", {"colour": "blue"})."""

    def __init__(
        self,
        context_type: str = "custom",
        context_data: Mapping[str, JsonValue] | None = None,
        confidence: float = 1.0,
    ) -> None:
        super().__init__(
            context_type=context_type, context_data=context_data or {}, confidence=confidence
        )


class EnhancedContext(contexts.EnhancedContext):
    """ltm_store.EnhancedContext, but its fields can be set; a section is replaced as a whole."""

    model_config = ConfigDict(frozen=False, validate_assignment=True)

    custom_contexts: list[contexts.CustomContext] = Field(default_factory=list)  # type: ignore[assignment]

    def add_custom_context(self, context_type: str, **context_data: JsonValue) -> None:
        """Add a context of the caller's own type: add_custom_context("mood", value="good")."""
        self.custom_contexts = [*self.custom_contexts, CustomContext(context_type, context_data)]

    def to_dict(self) -> dict[str, Any]:
        """What is set, as JSON values; from_dict takes it."""
        return _context_data(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, object]) -> Self:
        """The context that a dict of its fields describes."""
        return cls.model_validate(data)


def create_default_context() -> EnhancedContext:
    """The context of a memory that is given none: the present moment."""
    return EnhancedContext(temporal=TemporalContext(timestamp=moment(None)))


@dataclass
class MemoryMetadata:
    """What is known of a memory: keywords of add_enhanced_ltm_memory(..., **it.to_dict())."""

    memory_type: str | None = None
    category: str | None = None
    confidence_score: float = 1.0
    source_type: str | None = None
    source_id: str | None = None
    created_by: str = "system"
    related_memory_ids: Sequence[int] = ()
    parent_memory_id: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """The keywords."""
        return asdict(self)


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
    context_data: dict[str, Any] | None
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
    """A memory with its context as {type: {key: text}}, and its relationships."""

    enhanced_context: dict[str, dict[str, str]]
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


class AccessedRow(TypedDict):
    """A memory of a ranking; its content is cut to 100 characters."""

    id: int
    content: str
    access_count: int


class AnalyticsRow(TypedDict):
    """Figures over a user's memories."""

    total_memories: int
    type_distribution: dict[str, int]
    category_distribution: dict[str, int]
    average_importance: float
    average_dynamic_importance: float
    most_accessed_memories: list[AccessedRow]


class StatsRow(TypedDict):
    """A user in figures; the five most used tags with how many memories carry each."""

    total_memories: int
    average_importance: float
    top_tags: list[tuple[str, int]]
    user_id: UserId


_TOP: Final = 5  # tags and memories of a ranking
_SUMMARY_CHARS: Final = 100
_TRACKING: Final[Options] = {"access_tracking": "immediate"}  # so that a dict can tell of its read
_databases: dict[asyncio.AbstractEventLoop, asyncio.Future[Database]] = {}
# An event loop ends the asynchronous generators that were begun on it before it closes: asyncio.run
# does. So the last accesses are written, and the connections closed, with no call to close().
_guards: dict[asyncio.AbstractEventLoop, AsyncGenerator[None]] = {}
_configured: tuple[str | None, Options] = (None, _TRACKING)


def configure(dsn: str | None = None, **options: Unpack[Options]) -> None:
    """Choose the database of these functions, with the arguments of connect().

    access_tracking is "immediate" unless told. It is used from the next opening on: call it first,
    or after close().
    """
    global _configured
    _configured = (dsn, {**_TRACKING, **options})


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

    enhanced_context: contexts.EnhancedContext | Mapping[str, object] | None
    memory_type: str | None
    category: str | None
    confidence_score: float
    source_type: str | None
    source_id: str | None
    created_by: str
    metadata: Mapping[str, JsonValue] | None
    related_memory_ids: Sequence[int] | None
    parent_memory_id: int | None


def _iso(value: datetime) -> str:
    return value.replace(tzinfo=None).isoformat()


def _columns(memory: Memory) -> MemoryRow:
    """A memory as a dict of every column."""
    own = {"enhanced_context", "relationships", "outcome", "duplicate_of"}
    names = [name for name in Memory.model_fields if name not in own]
    values: dict[str, object] = {name: getattr(memory, name) for name in names}
    context = memory.enhanced_context
    values["context_data"] = None if context is None else _context_data(context)
    values["metadata"] = {} if memory.metadata is None else memory.metadata
    values["last_accessed"] = memory.last_accessed or memory.created_at
    for name, value in values.items():
        if isinstance(value, datetime):
            values[name] = _iso(value)
    row: MemoryRow = to_jsonable_python(values)
    return row


def _context_data(context: contexts.EnhancedContext) -> dict[str, Any]:
    """A context as the object that is stored of it."""
    data = context.stored()
    if context.temporal and context.temporal.timestamp:
        data["temporal"]["timestamp"] = _iso(context.temporal.timestamp)
    return data


def _context_texts(context: contexts.EnhancedContext) -> dict[str, dict[str, str]]:
    """A context as {type: {key: text}}, lists and objects as JSON."""
    found: dict[str, dict[str, str]] = {}
    for row in contexts.context_rows(context):
        found.setdefault(row.context_type, {})[row.context_key] = row.context_value
    if context.temporal and context.temporal.timestamp:
        found["temporal"]["timestamp"] = _iso(context.temporal.timestamp)
    return found


async def _as_accessed(database: Database, user_id: UserId, read: Sequence[Memory]) -> list[Memory]:
    """Memories that were read, as they are since."""
    user = await find_user(database, user_id)
    if user is None or not read:
        return []
    ids = [memory.id for memory in read]
    return await memories.memories_of(database, user, ids, moment(None))


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
    enhanced_context: contexts.EnhancedContext | Mapping[str, object] | None = None,
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

    Without a memory_type it is an "insight", without a category "general", without an
    enhanced_context it has that of create_default_context.
    """
    memory = await adding.add_memory(
        await _database(),
        user_id,
        content,
        tags=tags or (),
        importance_score=importance_score,
        confidence_score=confidence_score,
        context=context,
        enhanced_context=create_default_context() if enhanced_context is None else enhanced_context,
        memory_type=memory_type or MemoryType.INSIGHT,
        category=category or "general",
        source_type=source_type or None,
        source_id=source_id,
        created_by=created_by,
        metadata=metadata,
        related_memory_ids=related_memory_ids or (),
        parent_memory_id=parent_memory_id,
    )
    return _columns(memory)


async def get_enhanced_ltm_memory(memory_id: int, user_id: UserId) -> DetailedMemoryRow | None:
    """A memory as a dict of every column, with its enhanced_context and relationships."""
    database = await _database()
    read = await memories.get_memory(
        database,
        user_id,
        memory_id,
        include_relationships=True,
        access_context="Direct retrieval",
    )
    if read is None:
        return None
    found = await _as_accessed(database, user_id, [read])
    return _detailed(found[0], read.relationships or ()) if found else None


def _detailed(
    memory: Memory, relationships: Sequence[Relationship], *, include_context: bool = True
) -> DetailedMemoryRow:
    context = memory.enhanced_context if include_context else None
    return {
        **_columns(memory),
        "enhanced_context": {} if context is None else _context_texts(context),
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


async def _search(user_id: UserId, query: str, limit: int, **filters: object) -> list[Memory]:
    """The memories that a search finds, as they are since; none for a limit of 0."""
    sought = Search.checked(
        {
            "query": query,
            "limit": 1 if limit == 0 else limit,
            "include_context": False,  # which _as_accessed reads
            **filters,
        }
    )
    if limit == 0:
        return []
    database = await _database()
    hits = await search.find_memories(
        database,
        user_id,
        sought,
        moment(None),
        access_context=f"Search query: {query}"[: limits.NOTE_CHARS],
    )
    return await _as_accessed(database, user_id, hits)


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
    *,
    offset: int = 0,
) -> list[DetailedMemoryRow]:
    """The memories that match, best first, as get_enhanced_ltm_memory's dicts.

    See ltm_store.search_memories. Without include_context their enhanced_context is empty. A filter
    that is empty is none. limit: 0 .. 1000; offset: how many are left out before these.
    """
    found = await _search(
        user_id,
        query,
        limit,
        offset=offset,
        min_importance=min_importance,
        memory_type=memory_type or None,
        category=category or None,
        tags=tags or None,
        source_type=source_type or None,
    )
    database = await _database()
    user = await find_user(database, user_id)
    if user is None or not found:
        return []
    related = await relationships.relationships_of(database, user, [m.id for m in found])
    return [_detailed(m, related[m.id], include_context=include_context) for m in found]


async def get_memory_relationships(memory_id: int, user_id: UserId) -> list[RelatedMemoryRow]:
    """The relationships of a memory in both directions, with a summary of the other memory."""
    found = await relationships.get_relationships(await _database(), user_id, memory_id)
    return [_related(relationship) for relationship in found]


async def update_memory_importance(memory_id: int, user_id: UserId, new_importance: int) -> bool:
    """Set the base importance of a memory; tell whether there is one."""
    database = await _database()
    with told_as("importance_score", "new_importance"):
        changed = await memories.update_importance(database, user_id, memory_id, new_importance)
    return changed is not None


async def archive_memory(memory_id: int, user_id: UserId, reason: str = "User request") -> bool:
    """Archive a memory; tell whether there is one."""
    archived = await memories.archive_memory(await _database(), user_id, memory_id, reason=reason)
    return archived is not None


async def get_memory_analytics(user_id: UserId) -> AnalyticsRow:
    """Totals, distributions, averages and the five most accessed memories of a user."""
    figures = await analytics.get_analytics(await _database(), user_id)
    return {
        "total_memories": figures.total_memories,
        "type_distribution": figures.type_distribution,
        "category_distribution": figures.category_distribution,
        "average_importance": _average(figures.average_importance),
        "average_dynamic_importance": _average(figures.average_dynamic_importance),
        "most_accessed_memories": [
            {"id": m.id, "content": _summary(m.content), "access_count": m.access_count}
            for m in figures.most_accessed_memories[:_TOP]
        ],
    }


def _average(figure: float | None) -> float:
    return round(figure or 0, 2)


async def run_ltm_enhancement_migration(database_url: str) -> None:
    """Apply the migrations to a database."""
    from ltm_store import migrate  # of an extra

    await asyncio.to_thread(migrate.apply, database_url)


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
    """Store a memory; see add_enhanced_ltm_memory.

    Returns the dict of before the enhancement; with an enhanced_context that of every column.
    """
    row = await add_enhanced_ltm_memory(
        user_id, content, tags, importance_score, context, **details
    )
    return row if details.get("enhanced_context") else _before(row)


async def search_ltm_memories(
    user_id: UserId, query: str, limit: int = 5, min_importance: int = 1, *, offset: int = 0
) -> list[OldMemoryRow]:
    """The memories that match, best first. limit: 0 .. 1000; offset: how many are left out."""
    found = await _search(user_id, query, limit, offset=offset, min_importance=min_importance)
    return [_before(_columns(memory)) for memory in found]


async def get_relevant_ltm_memories(
    user_id: UserId, context: str, limit: int = 3
) -> list[OldMemoryRow]:
    """The memories whose content or tags share words with the context, best first."""
    with told_as("query", "context"):
        return await search_ltm_memories(user_id, context, limit)


async def delete_ltm_memory(user_id: UserId, memory_id: int) -> bool:
    """Delete a memory; tell whether there was one."""
    return await memories.delete_memory(await _database(), user_id, memory_id)


async def get_ltm_memory_stats(user_id: UserId) -> StatsRow:
    """How many memories a user has, their average importance, and the five most used tags."""
    figures = await analytics.get_analytics(await _database(), user_id)
    return {
        "total_memories": figures.total_memories,
        "average_importance": _average(figures.average_importance),
        "top_tags": list(figures.tag_distribution.items())[:_TOP],
        "user_id": user_id,
    }
