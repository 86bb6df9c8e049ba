"""Filters of a search, its hits, and why a memory is one."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, Field, StrictBool, ValidationError

from ltm_store.model.base import Arguments, Row, RowLimit, refusal
from ltm_store.model.contexts import STORED, EnhancedContext
from ltm_store.model.memories import Memory
from ltm_store.model.values import (
    Category,
    Fraction,
    Int32,
    JsonObject,
    Moment,
    SourceId,
    Tags,
    Text,
    Word,
    within_query,
)


def _context_part(part: object) -> object:
    """A part of a context as it is stored; nothing is derived from it."""
    if isinstance(part, EnhancedContext):
        return part.stored()
    try:
        return EnhancedContext.model_validate(part, context=STORED).stored()
    except ValidationError as error:
        first = error.errors(include_input=False, include_context=False, include_url=False)[0]
    raise ValueError(": ".join(refusal(first)))


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
