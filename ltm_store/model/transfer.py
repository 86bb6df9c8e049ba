"""Lines of an export, and what an import or an erasure did."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, ClassVar, Final

from pydantic import AfterValidator, Field, JsonValue, StrictBool, ValidationError

from ltm_store import limits
from ltm_store.errors import InvalidArgument, InvalidMemory
from ltm_store.model.base import Arguments, Row, refusal
from ltm_store.model.hints import Problem, explained
from ltm_store.model.memories import NewMemory
from ltm_store.model.values import (
    Fraction,
    Int32,
    LongText,
    MemoryId,
    Moment,
    StoredWord,
    TagImportance,
    Text,
    dump_json,
    storable,
)
from ltm_store.model.vectors import ModelName, Vector

IMPORT_KEY: Final = "ltm-import:"  # begins the idempotency_key of what came from a file
_PROBLEMS: Final = 10  # that are told of a line


class ExportedRelationship(Arguments):
    """A relationship in an export; its target is the id of another line."""

    refused_as: ClassVar[type[InvalidArgument]] = InvalidMemory

    target_memory_id: MemoryId
    relationship_type: StoredWord = "related"
    strength: Fraction = 1.0
    description: Text | None = None
    created_at: Moment | None = None
    last_accessed: Moment | None = None


class ExportedAccess(Arguments):
    """An access in an export."""

    refused_as: ClassVar[type[InvalidArgument]] = InvalidMemory

    access_timestamp: Moment | None = None
    access_method: StoredWord | None = None
    access_context: Text | None = None
    user_query: Text | None = None
    was_relevant: StrictBool | None = None
    relevance_score: Fraction | None = None


class ExportedTag(Arguments):
    """The details of a tag in an export."""

    refused_as: ClassVar[type[InvalidArgument]] = InvalidMemory

    tag_name: Annotated[Text, Field(max_length=limits.TAG_CHARS)]
    tag_category: StoredWord | None = "general"
    tag_importance: TagImportance | None = 1.0
    tag_confidence: Fraction | None = 1.0
    usage_count: Int32 | None = 1
    first_used: Moment | None = None
    last_used: Moment | None = None


def _of_equal_dimensions(
    embeddings: dict[str, tuple[list[float], ...]],
) -> dict[str, tuple[list[float], ...]]:
    if any(len(set(map(len, vectors))) > 1 for vectors in embeddings.values()):
        raise ValueError("the vectors of a model have different numbers")
    return embeddings


class ExportedMemory(NewMemory):
    """A line of an export, or of a file to import: the keywords of add_memory and what happened.

    `id` is the line's own; related_memory_ids, parent_memory_id and the relationships speak of it.
    """

    id: MemoryId | None = None
    adopted: StrictBool = False
    relationships: tuple[ExportedRelationship, ...] = ()
    accesses: tuple[ExportedAccess, ...] = ()
    tag_details: tuple[ExportedTag, ...] = ()
    version: Int32 = 1
    access_count: Int32 = 0
    last_accessed: Moment | None = None
    last_access_context: Text | None = None
    last_modified: Moment | None = None
    is_archived: StrictBool = False
    archive_reason: Text | None = None
    embeddings: Annotated[
        dict[ModelName, Annotated[tuple[Vector, ...], Field(min_length=1)]],
        AfterValidator(_of_equal_dimensions),
    ] = Field(default={})

    def references(self) -> Iterator[tuple[str, int]]:
        """The ids of other lines that this one speaks of, each with its field."""
        for target in self.related_memory_ids:
            yield "related_memory_ids", target
        for known in self.relationships:
            yield "relationships", known.target_memory_id
        if self.parent_memory_id is not None:
            yield "parent_memory_id", self.parent_memory_id


def _any_json(value: JsonValue) -> JsonValue:
    try:
        text = dump_json(value)
    except ValueError:
        raise ValueError("holds a number that JSON cannot") from None
    storable(text)
    return value


class AdoptedMemory(ExportedMemory):
    """A line with what add_memory refuses and an older program has written: an empty content.

    What the database holds passes, so that every export can be imported; its CHECKs still stand.
    """

    content: LongText
    tags: tuple[Text, ...] = ()
    memory_type: StoredWord | None = None
    source_type: StoredWord | None = None
    created_by: StoredWord | None = "system"
    metadata: Annotated[JsonValue, AfterValidator(_any_json)] = None  # type: ignore[assignment]
    related_memory_ids: tuple[MemoryId, ...] = ()


def read_line(given: Mapping[str, object]) -> ExportedMemory | list[Problem]:
    """A line of an export, or all that is wrong with it, at most ten problems."""
    if not isinstance(given, Mapping):
        return [("memory", "should be a dict")]
    kind = AdoptedMemory if given.get("adopted") is True else ExportedMemory
    try:
        return kind.model_validate(given)
    except ValidationError as error:
        errors = error.errors(include_input=False, include_context=False, include_url=False)
    return explained(given, [refusal(one) for one in errors])[:_PROBLEMS]


class ErasedRows(Row):
    """How many rows of each table were deleted."""

    ltm_memories: int
    ltm_memory_ranks: int
    ltm_contexts: int
    ltm_memory_relationships: int
    ltm_memory_access: int
    ltm_memory_tags: int


class RefusedMemory(Row):
    """A memory that add_memories left out: its place, from 0, and what its error says."""

    index: int
    field: str
    rule: str


class ImportReport(Row):
    """How many memories were created, existed (by key) or were refused, and relationships made."""

    created: int
    existing: int
    relationships: int
    refused: tuple[RefusedMemory, ...] = ()


class ErasureReport(Row):
    """How many rows of a user were deleted, by table; ltm_external_users lost the name alone."""

    counts: dict[str, int]
