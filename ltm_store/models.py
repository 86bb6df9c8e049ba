"""The frozen models that callers hand in and get back."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from math import prod
from typing import Annotated, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    Json,
    JsonValue,
    StrictBool,
    ValidationError,
    ValidationInfo,
    field_validator,
)
from pydantic_core import ErrorDetails

from ltm_store import limits
from ltm_store.contexts import STORED, EnhancedContext, StoredContext
from ltm_store.errors import InvalidMemory
from ltm_store.values import (
    Category,
    Content,
    Fraction,
    IdempotencyKey,
    Int32,
    JsonObject,
    LongText,
    MemoryId,
    Moment,
    Note,
    Score,
    SourceId,
    TagImportance,
    Tags,
    Text,
    Word,
    load_json,
    within_query,
)


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


class RelationshipType(StrEnum):
    """How two memories relate; any other string of at most 50 characters is accepted too."""

    SIMILAR = "similar"
    RELATED = "related"
    OPPOSITE = "opposite"
    PREREQUISITE = "prerequisite"
    FOLLOWS = "follows"
    PART_OF = "part_of"
    CAUSES = "causes"
    CONTRADICTS = "contradicts"
    SUPERSEDES = "supersedes"


RowLimit = Annotated[int, Field(strict=True, ge=1, le=limits.HITS)]


def _unique_ids(ids: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(dict.fromkeys(ids))


_SAYINGS = {
    "extra_forbidden": "is not a field",
    "missing": "is missing",
    "string_too_short": "should not be empty",
    "too_short": "should not be empty",
    "tuple_type": "should be a list",
}
_BRANCHES = {"float", "int", "str", "bool"}  # of a union, which pydantic adds to the path


def _refusal(error: ErrorDetails) -> tuple[str, str]:
    """The field that one of pydantic's errors is about, and the rule."""
    path = [str(part)[:100] for part in error["loc"]]
    if error["type"] not in ("extra_forbidden", "missing"):  # whose last part is a field's name
        path = [part for part in path if part not in _BRANCHES]
        path = [part for part in path if part.isidentifier() or part.isdigit()]
    rule = _SAYINGS.get(error["type"], error["msg"].removeprefix("Value error, "))
    return ".".join(path) or "memory", rule


class Arguments(BaseModel):
    """A group of arguments; `checked` turns what pydantic finds into an InvalidMemory."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    @classmethod
    def checked(cls, arguments: Mapping[str, object]) -> Self:
        """The validated arguments. Raises InvalidMemory naming the first refused field."""
        try:
            return cls.model_validate(arguments)
        except ValidationError as error:
            first = error.errors(include_input=False, include_context=False, include_url=False)[0]
        # Raised here, outside of the handler, so that no pydantic error with the input hangs on it.
        raise InvalidMemory(*_refusal(first))


class _Attributes(Arguments):
    """What can be given at an add, changed by an update and cleared with None."""

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


class NewMemory(_Attributes):
    """A memory to add: the keywords of add_memory."""

    content: Content
    tags: Tags = ()
    importance_score: Score = 5
    confidence_score: Fraction = 1.0
    related_memory_ids: Annotated[
        tuple[MemoryId, ...], Field(max_length=limits.RELATED), AfterValidator(_unique_ids)
    ] = ()
    created_at: Moment | None = None
    idempotency_key: IdempotencyKey | None = None


class ExportedRelationship(Arguments):
    """A link in an export; its target is the id of another line."""

    target_memory_id: MemoryId
    relationship_type: Text = "related"
    strength: Fraction = 1.0
    description: Text | None = None
    created_at: Moment | None = None
    last_accessed: Moment | None = None


class ExportedAccess(Arguments):
    """A recall in an export."""

    access_timestamp: Moment | None = None
    access_method: Text | None = None
    access_context: Text | None = None
    user_query: Text | None = None
    was_relevant: StrictBool | None = None
    relevance_score: Fraction | None = None


class ExportedTag(Arguments):
    """The details of a tag in an export."""

    tag_name: Text
    tag_category: Text | None = "general"
    tag_importance: TagImportance | None = 1.0
    tag_confidence: Fraction | None = 1.0
    usage_count: Int32 | None = 1
    first_used: Moment | None = None
    last_used: Moment | None = None


class ExportedMemory(NewMemory):
    """A line of an export, or of a file to import: the keywords of add_memory and what happened.

    `id` is the line's own; related_memory_ids, parent_memory_id and the relationships speak of it.
    What the database holds passes, so that every export can be imported; its CHECKs still stand.
    """

    content: LongText
    tags: tuple[Text, ...] = ()
    memory_type: Text | None = None
    source_type: Text | None = None
    created_by: Text | None = "system"
    metadata: JsonValue = None  # type: ignore[assignment]
    id: MemoryId | None = None
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


class MemoryChanges(_Attributes):
    """What an update changes: the fields in model_fields_set. Defaults mean nothing."""

    content: Content = ""
    tags: Annotated[Tags, BeforeValidator(lambda tags: () if tags is None else tags)] = ()
    importance_score: Score = 1
    confidence_score: Fraction = 1.0
    is_archived: StrictBool = False
    archive_reason: Note | None = None


def _context_part(part: object) -> object:
    """A part of a context as it is stored; nothing is derived from it."""
    if isinstance(part, EnhancedContext):
        return part.stored()
    try:
        return EnhancedContext.model_validate(part, context=STORED).stored()
    except ValidationError as error:
        first = error.errors(include_input=False, include_context=False, include_url=False)[0]
    raise ValueError(": ".join(_refusal(first)))


class Filters(Arguments):
    """What a search may be narrowed by, and how it is ranked."""

    query: (
        Annotated[
            Text,
            AfterValidator(within_query),
            AfterValidator(lambda query: query if query.strip() else None),
        ]
        | None
    ) = None
    memory_type: Word | None = None
    category: Category | None = None
    tags: Tags | None = None
    tags_any: Tags | None = None
    source_type: Word | None = None
    source_id: SourceId | None = None
    context_data: Annotated[JsonObject, BeforeValidator(_context_part)] | None = None
    metadata: JsonObject | None = None
    min_importance: Int32 | None = None
    min_confidence: Fraction | None = None
    created_after: Moment | None = None
    created_before: Moment | None = None
    accessed_after: Moment | None = None
    include_archived: StrictBool = False
    include_context: StrictBool = True
    importance_weight: Annotated[float, Field(strict=True, ge=0, le=100)] = 0.1
    limit: RowLimit = 10


class RelationshipDetails(Arguments):
    """What relate writes."""

    relationship_type: Word = "related"
    strength: Fraction = 1.0
    description: Note | None = None


class Walk(Arguments):
    """Which links traverse and shortest_path follow, and how far."""

    depth: Annotated[int, Field(strict=True, ge=1, le=limits.DEPTH)] = 2
    types: tuple[Word, ...] | None = None
    min_strength: Fraction | None = None
    limit: RowLimit = 100


class Suggesting(Arguments):
    """How many suggestions are asked for."""

    limit: RowLimit = 10


class TagDetails(Arguments):
    """What add_tags writes."""

    tags: Tags
    tag_category: Word | None = None
    tag_importance: TagImportance | None = None
    tag_confidence: Fraction | None = None


class TagFilters(Arguments):
    """Which tags a list holds."""

    tag_category: Word | None = None
    limit: RowLimit = 100


class AccessDetails(Arguments):
    """What is recorded of an access."""

    memory_ids: Annotated[tuple[MemoryId, ...], Field(max_length=limits.LISTED)]
    access_method: Word = "direct"
    access_context: Note | None = None
    user_query: Annotated[Text, AfterValidator(lambda query: query[: limits.NOTE_CHARS])] | None = (
        None
    )


class Feedback(Arguments):
    """What is said of a recall afterwards."""

    was_relevant: StrictBool | None
    relevance_score: Fraction | None

    @field_validator("relevance_score")
    @classmethod
    def _one_of_them(cls, score: float | None, others: ValidationInfo) -> float | None:
        if score is None and others.data.get("was_relevant", True) is None:
            raise ValueError("should be given, or was_relevant")
        return score


class Row(BaseModel):
    """A row of a statement; what an older program left in it is read as well as can be."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


class MemorySummary(Row):
    """The other end of a relationship, or an entry of a ranking."""

    id: int
    content: str
    memory_type: str | None
    importance_score: int


class AccessedMemory(MemorySummary):
    """A summary with how often the memory was recalled."""

    access_count: int


class RelatedMemory(MemorySummary):
    """A summary with how many relationships the memory has."""

    relationship_count: int


class Relationship(Row):
    """A link as seen from one memory: direction "outgoing" when that memory is the source."""

    id: int
    source_memory_id: int
    target_memory_id: int
    direction: Literal["outgoing", "incoming"]
    relationship_type: str
    strength: float
    description: str | None
    created_at: Moment | None
    related_memory: Annotated[MemorySummary, BeforeValidator(lambda row: _parsed(row))]


class ReachedMemory(Row):
    """A memory that a traversal came to: `depth` links away, along `path`, the ids from the start.

    `path_strength` is the product of the strengths of the path's links, 0 .. 1.
    """

    depth: int
    path: tuple[int, ...]
    path_strength: float
    related_memory: Annotated[MemorySummary, BeforeValidator(lambda row: _parsed(row))]


class Path(Row):
    """A way from one memory to another: the ids of both and of those between them, and the links.

    Each step is seen from the memory before it: `related_memory` is the next one on the path.
    """

    path: tuple[int, ...]
    steps: Annotated[tuple[Relationship, ...], BeforeValidator(lambda rows: _parsed(rows))]

    @property
    def strength(self) -> float:
        """The product of the strengths of the links, 0 .. 1; 1 without any."""
        return prod(step.strength for step in self.steps)


class Suggestion(Row):
    """A memory that may belong to another one, and why: what they share that is rare.

    `source_id` is None unless it is shared; `words` are given by their stems. `score` adds up how
    rare each of it is.
    """

    related_memory: Annotated[MemorySummary, BeforeValidator(lambda row: _parsed(row))]
    score: float
    tags: tuple[str, ...]
    source_id: str | None
    participants: tuple[str, ...]
    words: tuple[str, ...]

    @property
    def reason(self) -> str:
        """What they share, in words."""
        source = (self.source_id,) if self.source_id else ()
        shared = (
            ("tags", self.tags),
            ("source", source),
            ("people", self.participants),
            ("words", self.words),
        )
        return "; ".join(f"{kind}: {', '.join(what)}" for kind, what in shared if what)


class GraphNode(MemorySummary):
    """A memory of a graph, `depth` links away from the start, which has 0.

    `content` is the beginning of it, at most 300 characters; `dynamic_importance` is of now.
    """

    dynamic_importance: float
    is_archived: bool
    depth: int


class GraphEdge(Row):
    """A link of a graph, from source to target, with a strength of 0 .. 1."""

    id: int
    source_memory_id: int
    target_memory_id: int
    relationship_type: str
    strength: float


class Graph(Row):
    """A memory, first of the nodes, those around it, nearest first, and the links among them."""

    nodes: Annotated[tuple[GraphNode, ...], BeforeValidator(lambda rows: _parsed(rows))]
    edges: Annotated[tuple[GraphEdge, ...], BeforeValidator(lambda rows: _parsed(rows))]


class Tag(Row):
    """A tag and what is known of it, over the memories that a list is of.

    memory_count memories carry it, and it was given to them usage_count times, first at first_used
    and last at last_used. Importance and confidence are averages, spelling and category the most
    frequent ones.
    """

    tag_name: str
    memory_count: int
    usage_count: int
    tag_category: str
    tag_importance: float
    tag_confidence: float
    first_used: datetime | None
    last_used: datetime | None


class RelatedTag(Row):
    """A tag beside another one: on memory_count memories both are, jaccard is the share, 0 .. 1."""

    tag_name: str
    memory_count: int
    jaccard: float


def _parsed(value: object) -> object:
    """JSON text of a row as Python values; values that a caller hands in as they are."""
    return load_json(value) if isinstance(value, str) else value


def _stored_tags(value: object) -> object:
    """Tags of a row: a JSON array, or whatever an older program wrote in its place."""
    tags = _parsed(value)
    if tags is None:
        return ()
    if not isinstance(tags, list | tuple):
        tags = (tags,)
    return tuple(tag if isinstance(tag, str) else str(tag) for tag in tags if tag is not None)


def _stored_ids(value: object) -> object:
    ids = _parsed(value)
    return tuple(i for i in ids if type(i) is int) if isinstance(ids, list | tuple) else ()


class Memory(Row):
    """A memory as stored. Moments are aware and in UTC.

    `dynamic_importance` is the importance, 0 .. 10, at the moment the call asked for.
    `enhanced_context` is None when none was stored or the call did not ask for it,
    `relationships` unless asked for. `outcome` and `duplicate_of` are set by add_memory alone: the
    first of the user's memories, neither archived nor expired, that said the same already, but for
    letter case and white space.
    """

    id: int
    user_id: int
    content: str
    tags: Annotated[tuple[str, ...], BeforeValidator(_stored_tags)]
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
    related_memory_ids: Annotated[tuple[int, ...], BeforeValidator(_stored_ids)]
    parent_memory_id: int | None
    metadata: Annotated[JsonValue, BeforeValidator(_parsed)]
    is_archived: bool
    archive_reason: str | None
    idempotency_key: str | None
    version: int
    expires_at: datetime | None
    relationships: Annotated[tuple[Relationship, ...] | None, BeforeValidator(_parsed)] = None
    outcome: Literal["created", "existing"] | None = None
    duplicate_of: int | None = None


class Access(Row):
    """One recorded recall of a memory. Moments are aware and in UTC."""

    id: int
    user_id: int
    memory_id: int
    access_timestamp: datetime | None
    access_context: str | None
    access_method: str | None
    user_query: str | None
    was_relevant: bool | None
    relevance_score: float | None


class PrunedAccesses(Row):
    """How many recalls of a page were deleted, and the last row of the page."""

    user_id: int
    id: int
    pruned: int


class HealthProblem(Row):
    """Something wrong with the database: which check found it, where, and what it is or what helps.

    `subject` is a row ("ltm_contexts 55") or an object of the schema; `user_id` is None for the
    latter. See the comment on ltm_health.check_name for the checks. Carries no content.
    """

    check_name: str
    user_id: int | None
    subject: str
    detail: str


class MemoryHit(Memory):
    """A memory that a search found, and why.

    score = text_score * boost, boost = 1 + importance_weight * dynamic_importance / 10. Without a
    query, text_score is 0, the score is the dynamic importance and matched_terms is empty.
    """

    score: float
    boost: float
    text_score: float = 0.0
    matched_terms: tuple[str, ...] = ()


class SearchFindings(Row):
    """Which conditions of a search a memory meets, and which of its words were asked for."""

    expires_at: bool
    include_archived: bool
    memory_type: bool
    category: bool
    source_type: bool
    min_importance: bool
    min_confidence: bool
    created_after: bool
    created_before: bool
    accessed_after: bool
    metadata: bool
    source_id: bool
    tags: bool
    tags_any: bool
    context_data: bool
    phrases: bool
    exclusions: bool
    matched_terms: tuple[str, ...]


class SearchExplanation(Row):
    """Why a search returns a memory, or why not.

    `hit` is the memory with its score parts where it is among the first 1000, `rank` its place from
    1; `is_returned` when that is within the limit. Otherwise `causes` names what keeps it out:
    "missing" (no such memory of this user), "expires_at", the arguments that it does not pass
    ("memory_type", "tags", "include_archived", ...), "phrases" and "exclusions" of the query,
    "query" (no word in common), "common_words" (the words in common are in most memories, and
    rarer ones were found), "limit" (its rank is beyond it), "cut" (it is beyond the first 1000).
    """

    is_returned: bool
    causes: tuple[str, ...]
    rank: int | None
    matched_terms: tuple[str, ...]
    hit: MemoryHit | None


class Analytics(Row):
    """Figures over all memories of a user that have not expired, archived ones included.

    Distributions map a name to a count, most frequent first; memories without a type or category
    count as "unknown". growth_by_month maps "2026-03" to the memories created in that month, oldest
    first. Averages are None for a user without memories.
    """

    total_memories: int
    archived_memories: int
    type_distribution: Json[dict[str, int]]
    category_distribution: Json[dict[str, int]]
    average_importance: float | None
    average_dynamic_importance: float | None
    most_accessed_memories: Json[tuple[AccessedMemory, ...]]
    most_related_memories: Json[tuple[RelatedMemory, ...]]
    tag_distribution: Json[dict[str, int]]
    growth_by_month: Json[dict[str, int]]


class SeenMemory(MemorySummary):
    """A summary with the live importance, and when the memory was last recalled, else learnt."""

    dynamic_importance: float
    last_seen: Moment | None


class ReportFigures(Row):
    """What a report shows beyond Analytics, of memories that have not expired.

    importance_by_month maps the month in which memories were learnt to their average and highest
    live importance, memories_by_importance whole points (9 for 9 to 10) to a count. The lists and
    never_recalled leave archived memories out.
    """

    recalls: int
    relationships: int
    never_recalled: int
    importance_in_a_year: float | None
    importance_by_month: Json[dict[str, tuple[float, float]]]
    memories_by_importance: Json[dict[int, int]]
    never_recalled_memories: Json[tuple[SeenMemory, ...]]
    stalest_memories: Json[tuple[SeenMemory, ...]]


class ExportRow(Memory):
    """A memory with all that an export says of it."""

    outgoing: Json[tuple[ExportedRelationship, ...]]
    accesses: Json[tuple[ExportedAccess, ...]]
    tag_details: Json[tuple[ExportedTag, ...]]


class ErasedRows(Row):
    """How many rows of each table were deleted."""

    ltm_memories: int
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
    """How many memories were created, were there already (by key), were refused, and links."""

    created: int
    existing: int
    relationships: int
    refused: tuple[RefusedMemory, ...] = ()


class ErasureReport(Row):
    """How many rows of a user were deleted, by table; ltm_external_users lost the name alone."""

    counts: dict[str, int]


class RepairCount(Row):
    """How often adoption repaired a column of a table by a rule; column_name None: whole rows."""

    table_name: str
    column_name: str | None
    rule: str
    repairs: int


class Repair(Row):
    """One value that adoption repaired, as it was before; of a whole row, its columns as JSON."""

    id: int
    user_id: int | None
    table_name: str
    row_id: int
    column_name: str | None
    rule: str
    original: str | None
