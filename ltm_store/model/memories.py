"""Memories: what is added, changed and handed out."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Mapping
from datetime import datetime, timedelta
from enum import StrEnum
from types import MappingProxyType
from typing import Annotated, ClassVar, Literal, Self

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    JsonValue,
    SerializerFunctionWrapHandler,
    StrictBool,
    ValidationInfo,
    model_serializer,
)
from pydantic_core import from_json

from ltm_store import limits
from ltm_store.errors import InvalidArgument, InvalidMemory, LtmError
from ltm_store.model.base import FROM_JSON, Arguments, Reader, Row
from ltm_store.model.contexts import ContextOnDemand, EnhancedContext, StoredContext, UnreadContext
from ltm_store.model.relationships import Relationship
from ltm_store.model.values import (
    Category,
    Duration,
    Fraction,
    IdempotencyKey,
    Int32,
    JsonObject,
    Key,
    LongText,
    MemoryId,
    Moment,
    NamespaceName,
    Note,
    Score,
    SourceId,
    Tags,
    Text,
    Word,
    load_json,
    read_json,
)
from ltm_store.model.vectors import ModelName, Vector


class MemoryType(StrEnum):
    """What kind of memory it is; any other string of at most 50 characters is accepted too."""

    PREFERENCE = "preference"
    INSIGHT = "insight"
    PATTERN = "pattern"
    FACT = "fact"
    GOAL = "goal"
    HABIT = "habit"
    ROUTINE = "routine"
    RELATIONSHIP = "relationship"
    SKILL = "skill"
    KNOWLEDGE = "knowledge"


class SourceType(StrEnum):
    """Where a memory came from; any other string of at most 50 characters is accepted too."""

    CONVERSATION = "conversation"
    TOOL_USAGE = "tool_usage"
    MANUAL = "manual"
    PATTERN_DETECTION = "pattern_detection"
    AUTOMATED = "automated"
    IMPORT = "import"


def _unique_ids(ids: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(dict.fromkeys(ids))


class _Attributes(Arguments):
    """What can be given at an add, changed by an update and cleared with None."""

    refused_as: ClassVar[type[InvalidArgument]] = InvalidMemory

    context: LongText | None = None
    enhanced_context: EnhancedContext | None = None
    memory_type: Word | None = None
    category: Category | None = None
    source_type: Word | None = None
    source_id: SourceId | None = None
    source_position: Int32 | None = None
    created_by: Word | None = "system"
    metadata: JsonObject | None = None
    parent_memory_id: MemoryId | None = None
    expires_at: Moment | None = None
    expires_after: Duration | None = None


def _told(content: str, info: ValidationInfo) -> str:
    """The content; it may be empty where a key names the memory."""
    if not content and info.data.get("key") is None:
        raise ValueError("should not be empty")
    return content


def _of_a_vector(model: str | None, info: ValidationInfo) -> str | None:
    if model is not None and info.data.get("embedding", model) is None:
        raise ValueError("goes with embedding")
    return model


class NewMemory(_Attributes):
    """A memory to add: the keywords of add_memory."""

    namespace: NamespaceName = ""
    key: Key | None = None
    content: Annotated[LongText, AfterValidator(_told)]
    tags: Tags = ()
    importance_score: Score = 5
    confidence_score: Fraction = 1.0
    related_memory_ids: Annotated[
        tuple[MemoryId, ...], Field(max_length=limits.RELATED), AfterValidator(_unique_ids)
    ] = ()
    created_at: Moment | None = None
    idempotency_key: IdempotencyKey | None = None
    embedding: Vector | None = None
    embedding_model: Annotated[ModelName | None, AfterValidator(_of_a_vector)] = None


class MemoryChanges(_Attributes):
    """What an update changes: the fields in model_fields_set. Defaults mean nothing."""

    content: LongText = ""
    tags: Annotated[Tags, BeforeValidator(lambda tags: () if tags is None else tags)] = ()
    importance_score: Score = 1
    confidence_score: Fraction = 1.0
    is_archived: StrictBool = False
    archive_reason: Note | None = None
    remove_metadata: tuple[Text, ...] = ()


def _read_tags(text: str | None) -> tuple[str, ...]:
    """Tags of a row: a JSON array, or whatever an older program wrote in its place."""
    return _tags(None if text is None else load_json(text))


def _tags(tags: object) -> tuple[str, ...]:
    if tags is None:
        return ()
    if not isinstance(tags, list | tuple):
        tags = (tags,)
    return tuple([tag if isinstance(tag, str) else str(tag) for tag in tags if tag is not None])


def _read_ids(text: str | None) -> tuple[int, ...]:
    return _ids(None if text is None else load_json(text))


def _ids(ids: object) -> tuple[int, ...]:
    return tuple([i for i in ids if type(i) is int]) if isinstance(ids, list | tuple) else ()


def _read_relationships(text: str | None) -> tuple[Relationship, ...] | None:
    if text is None:
        return None
    return tuple(Relationship.from_records(from_json(text)))


class Memory(Row):
    """A memory as stored. Moments are aware and in UTC.

    `dynamic_importance` is the importance, 0 .. 10, at the moment the call asked for.
    `enhanced_context` is None when none was stored or the call did not ask for it,
    `relationships` unless asked for. `outcome` and `duplicate_of` are set by add_memory alone: the
    first of the user's memories, neither archived nor expired, that said the same already, but for
    letter case and white space, or that means nearly the same as an embedding that was given.
    """

    readers: ClassVar[Mapping[str, Reader] | None] = MappingProxyType(
        {
            "tags": _read_tags,
            "related_memory_ids": _read_ids,
            "metadata": read_json,
            "enhanced_context": UnreadContext.of,
            "relationships": _read_relationships,
        }
    )

    id: int
    user_id: int
    content: str
    tags: Annotated[tuple[str, ...], BeforeValidator(_tags), FROM_JSON]
    memory_type: str | None
    category: str | None
    importance_score: int
    confidence_score: float
    importance_rank: int
    dynamic_importance: float
    context: str | None
    enhanced_context: StoredContext
    source_type: str | None
    source_id: str | None
    source_position: int | None
    created_by: str | None
    created_at: datetime | None
    last_accessed: datetime | None
    last_modified: datetime | None
    access_count: int
    last_access_context: str | None
    related_memory_ids: Annotated[tuple[int, ...], BeforeValidator(_ids), FROM_JSON]
    parent_memory_id: int | None
    metadata: Annotated[JsonValue, FROM_JSON]
    is_archived: bool
    archive_reason: str | None
    idempotency_key: str | None
    version: int
    expires_at: datetime | None
    expires_after: timedelta | None
    namespace: str
    key: str | None
    relationships: Annotated[tuple[Relationship, ...] | None, FROM_JSON] = None
    outcome: Literal["created", "existing", "replaced"] | None = None
    duplicate_of: int | None = None

    def _whole(self) -> Self:
        """The row itself, its context read: for whatever looks at all fields at once."""
        _ = self.enhanced_context
        return self

    @model_serializer(mode="wrap")
    def _serialise(self, handler: SerializerFunctionWrapHandler) -> dict[str, object]:
        whole: dict[str, object] = handler(self._whole())
        return whole

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Memory):
            other._whole()
        return super(Memory, self._whole()).__eq__(other)

    def __iter__(self) -> Generator[tuple[str, object], None, None]:
        yield from super(Memory, self._whole()).__iter__()

    def __repr_args__(self) -> Iterable[tuple[str | None, object]]:
        return super(Memory, self._whole()).__repr_args__()

    def __getstate__(self) -> dict[object, object]:
        return super(Memory, self._whole()).__getstate__()

    def __copy__(self) -> Self:
        return super(Memory, self._whole()).__copy__()

    def __deepcopy__(self, memo: dict[int, object] | None = None) -> Self:
        return super(Memory, self._whole()).__deepcopy__(memo)


type.__setattr__(Memory, "enhanced_context", ContextOnDemand())


class Conflict(LtmError):
    """The memory is no longer at the expected version. `current` is the memory as it is now."""

    def __init__(self, current: Memory) -> None:
        super().__init__(f"memory {current.id} is at version {current.version}")
        self.current = current

    def __reduce__(self) -> tuple[type[Self], tuple[Memory]]:
        return type(self), (self.current,)
