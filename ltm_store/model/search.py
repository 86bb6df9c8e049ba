"""Filters of a search, its hits, and why a memory is one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from types import MappingProxyType
from typing import Annotated, TypedDict

from pydantic import AfterValidator, BeforeValidator, Field, JsonValue, StrictBool, ValidationError

from ltm_store import limits
from ltm_store.model.base import Arguments, Row, RowLimit, refusal
from ltm_store.model.contexts import EnhancedContext
from ltm_store.model.memories import Memory
from ltm_store.model.values import (
    STORED,
    Category,
    Fraction,
    Int32,
    JsonObject,
    Moment,
    SourceId,
    Tags,
    Text,
    Word,
    dump_json,
    within_query,
)
from ltm_store.model.vectors import ModelName, Vector


def _context_part(part: object) -> object:
    """A part of a context as it is stored; nothing is derived from it."""
    if isinstance(part, EnhancedContext):
        return part.stored()
    try:
        return EnhancedContext.model_validate(part, context=STORED).stored()
    except ValidationError as error:
        first = error.errors(include_input=False, include_context=False, include_url=False)[0]
    raise ValueError(": ".join(refusal(first)))


def _not_empty(tags: tuple[str, ...]) -> tuple[str, ...]:
    """The tags; an empty collection would ask for nothing and be read as no filter."""
    if not tags:
        raise ValueError("should not be empty; None is no filter")
    return tags


FilterTags = Annotated[Tags, AfterValidator(_not_empty)]


def _phrases(phrases: tuple[str, ...]) -> tuple[str, ...]:
    """The phrases, if a statement can be asked for them."""
    if len(phrases) > limits.PHRASES:
        raise ValueError(f"more than {limits.PHRASES}")
    if not all(phrase.strip() for phrase in phrases):
        raise ValueError("one is empty")
    within_query(" ".join(phrases))
    return phrases


Phrases = Annotated[tuple[Text, ...], AfterValidator(_phrases)]


def _narrowing(score: int) -> int | None:
    """The score; None where it narrows nothing, as no stored one is lower."""
    return score if score > 1 else None


class FilterOptions(TypedDict, total=False):
    """The filters as callers give them; None is no filter. See Filters."""

    memory_type: str | None
    category: str | None
    tags: Iterable[str] | None
    tags_any: Iterable[str] | None
    source_type: str | None
    source_id: str | None
    context_data: EnhancedContext | Mapping[str, object] | None
    metadata: Mapping[str, JsonValue] | None
    min_importance: int | None
    min_confidence: float | None
    created_after: datetime | None
    created_before: datetime | None
    accessed_after: datetime | None
    include_archived: bool
    created_by: str | None
    tags_none: Iterable[str] | None
    phrases: Iterable[str]
    exclude: Iterable[str]


class Filters(Arguments):
    """What searches, lists and counts are narrowed by.

    Each field is a parameter of the shared conditions `filters` in sql/search.sql.

    tags: all of them, tags_any: at least one, tags_none: not one, in any letter case. context_data
    and metadata: contained in the memory's JSON. min_importance: of the base importance_score.
    created_after and accessed_after include their moment, created_before does not.
    include_archived: archived memories too. phrases: words and phrases, all of which must stand in
    the content, or in one tag or the category; exclude: of which none may. At most 64 each.
    """

    memory_type: Word | None = None
    category: Category | None = None
    tags: FilterTags | None = None
    tags_any: FilterTags | None = None
    source_type: Word | None = None
    source_id: SourceId | None = None
    context_data: Annotated[JsonObject, BeforeValidator(_context_part)] | None = None
    metadata: JsonObject | None = None
    min_importance: Annotated[Int32, AfterValidator(_narrowing)] | None = None
    min_confidence: Fraction | None = None
    created_after: Moment | None = None
    created_before: Moment | None = None
    accessed_after: Moment | None = None
    include_archived: StrictBool = False
    created_by: Word | None = None
    tags_none: FilterTags | None = None
    phrases: Phrases = ()
    exclude: Phrases = ()

    def arguments(self) -> dict[str, object]:
        """What the shared conditions take, by name: tags and objects as JSON text."""
        given = {name: _argument(getattr(self, name)) for name in Filters.model_fields}
        texts = {"phrases": list(self.phrases) or None, "exclude": list(self.exclude) or None}
        return given | texts


def _argument(value: object) -> object:
    return (dump_json(value) if value else None) if isinstance(value, tuple | dict) else value


class Search(Filters):
    """A search: its query, its filters, and how its hits are ranked and shown."""

    query: (
        Annotated[
            Text,
            AfterValidator(within_query),
            AfterValidator(lambda query: query if query.strip() else None),
        ]
        | None
    ) = None
    include_context: StrictBool = True
    neighbours: StrictBool = True
    distinct: StrictBool = True
    importance_weight: Annotated[float, Field(strict=True, ge=0, le=100)] = 0.1
    query_embedding: Vector | None = None
    embedding_model: ModelName | None = None
    meaning: Fraction = 0.4
    limit: RowLimit = 10

    @property
    def words(self) -> str | None:
        """What hits are ranked by: the query, and the words of the phrases."""
        return " ".join(filter(None, (self.query, *self.phrases))) or None


class MemoryHit(Memory):
    """A memory that a search found, and why.

    score = text_score * boost, boost = 1 + importance_weight * dynamic_importance / 10. Without a
    query, text_score is 0, the score is the dynamic importance and matched_terms is empty.
    `matched_terms` are the words of the memory that were asked for, as they are written in it. A
    hit that holds none has `neighbour_of`: the id of the memory that does, beside which it stands
    in the same source. `duplicate_ids` are the hits with an equal content that it stands for.

    Where the meaning of the query counts too, score = ((1 - meaning) * text_score / the greatest
    one + meaning * meaning_score / the greatest one) * boost. `meaning_score` is the cosine of the
    vectors of query and memory, -1 .. 1; None where meaning does not count, or the memory has no
    vector yet. `matched_time`: it is of a time that the query speaks of; its score is twice that.
    """

    readers = MappingProxyType(
        {**(Memory.readers or {}), "matched_terms": tuple, "duplicate_ids": tuple}
    )

    score: float
    boost: float
    text_score: float = 0.0
    meaning_score: float | None = None
    matched_terms: tuple[str, ...] = ()
    duplicate_ids: tuple[int, ...] = ()
    neighbour_of: int | None = None
    matched_time: bool = False


class SearchFindings(Row):
    """Which conditions of a search a memory fails, and which of its words were asked for."""

    causes: tuple[str, ...]
    matched_terms: tuple[str, ...]
    content: str
    tags: str | None
    category: str | None


class SearchExplanation(Row):
    """Why a search returns a memory, or why not.

    `hit` is the memory with its score parts where it is among the first 1000, `rank` its place from
    1; `is_returned` when that is within the limit. Otherwise `causes` names what keeps it out:
    "missing" (no such memory of this user), "expires_at", the arguments that it does not pass
    ("memory_type", "tags", "include_archived", "phrases", "exclude", ...), "query" (no word in
    common, and not beside a memory that has one), "distinct" (a more important hit has an equal
    content), "limit" (its rank is beyond it), "cut" (it is beyond the first 1000).
    """

    is_returned: bool
    causes: tuple[str, ...]
    rank: int | None
    matched_terms: tuple[str, ...]
    hit: MemoryHit | None
