"""Filters of a search, its hits, and why a memory is one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from types import MappingProxyType
from typing import Annotated, Final, Literal, Self, TypeAlias, TypedDict, TypeVar

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Discriminator,
    Field,
    JsonValue,
    StrictBool,
    Tag,
    ValidationError,
)

from ltm_store import limits
from ltm_store.errors import InvalidArgument
from ltm_store.model.base import Arguments, Row, RowLimit, refusal
from ltm_store.model.contexts import EnhancedContext
from ltm_store.model.memories import Memory
from ltm_store.model.metadata import compile_metadata, has_operators
from ltm_store.model.values import (
    ASKED,
    Category,
    Fraction,
    Int32,
    JsonObject,
    Moment,
    NamespaceName,
    NamespaceText,
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
        return EnhancedContext.model_validate(part, context=ASKED).stored()
    except ValidationError as error:
        first = error.errors(include_input=False, include_context=False, include_url=False)[0]
    raise ValueError(": ".join(refusal(first)))


def _not_empty(values: tuple[str, ...]) -> tuple[str, ...]:
    """The values; an empty collection would ask for nothing and be read as no filter."""
    if not values:
        raise ValueError("should not be empty; None is no filter")
    if len(values) > limits.LISTED:
        raise ValueError(f"more than {limits.LISTED} values")
    return values


def _one_or_several(value: object) -> str:
    return "tuple" if isinstance(value, tuple) else "str"


def _listed(value: object) -> object:
    """A collection as a tuple, and a string in it that is alone by itself."""
    if not isinstance(value, Iterable) or isinstance(value, str | bytes | Mapping):
        return value
    values = tuple(value)
    return values[0] if len(values) == 1 and isinstance(values[0], str) else values


def _the_only_one(values: tuple[str, ...]) -> str | tuple[str, ...]:
    """The value itself, where there is no other one."""
    different = tuple(dict.fromkeys(values))
    return different[0] if len(different) == 1 else different


Value = TypeVar("Value")
FilterTags = Annotated[Tags, AfterValidator(_not_empty)]
# A string, or a collection of strings of which the memory has any. The names say which is refused.
AnyOf: TypeAlias = Annotated[
    Annotated[Value, Tag("str")]
    | Annotated[
        tuple[Value, ...], AfterValidator(_not_empty), AfterValidator(_the_only_one), Tag("tuple")
    ],
    Discriminator(_one_or_several),
    BeforeValidator(_listed),
]
Values: TypeAlias = str | Iterable[str]

SEVERAL: Final = MappingProxyType(
    {
        "memory_type": "memory_types",
        "category": "categories",
        "source_type": "source_types",
        "source_id": "source_ids",
        "created_by": "creators",
        "namespace": "namespaces",
    }
)
"""The filters that take a string or several, with the parameter for several: an index serves one
value in the order of a list, several not."""

_PATH: Final = ("metadata_path", "metadata_variables")

FILTER_OF: Final = MappingProxyType(
    {parameter: name for name, parameter in SEVERAL.items()} | dict.fromkeys(_PATH, "metadata")
)
"""The filters that have another parameter than their name, by that parameter."""


def _compilable(conditions: dict[str, JsonValue]) -> dict[str, JsonValue]:
    if has_operators(conditions):
        compile_metadata(conditions)
    return conditions


def _some(namespace: str) -> str | None:
    """The namespace; None where it narrows nothing, as all are below it."""
    return namespace or None


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


def _narrowing_fraction(score: float) -> float | None:
    return score if score > 0 else None


class OtherFilterOptions(TypedDict, total=False):
    """The filters but `tags` as callers give them; None is no filter. See Filters."""

    memory_type: Values | None
    category: Values | None
    tags_any: Iterable[str] | None
    source_type: Values | None
    source_id: Values | None
    context_data: EnhancedContext | Mapping[str, object] | None
    metadata: Mapping[str, JsonValue] | None
    min_importance: int | None
    min_confidence: float | None
    created_after: datetime | None
    created_before: datetime | None
    accessed_after: datetime | None
    include_archived: bool
    created_by: Values | None
    tags_none: Iterable[str] | None
    modified_after: datetime | None
    namespace: Values | None
    namespace_prefix: str | Sequence[str] | None
    key_prefix: str | None
    phrases: Iterable[str]
    exclude: Iterable[str]


class FilterOptions(OtherFilterOptions, total=False):
    """The filters as callers give them; None is no filter. See Filters."""

    tags: Iterable[str] | None


class Filters(Arguments):
    """What searches, lists and counts are narrowed by.

    Each field is a parameter of the shared conditions `filters` in sql/search.sql.

    memory_type, category, source_type, source_id, created_by: a string, or a collection of them of
    which the memory has any. tags: all of them, tags_any: at least one, tags_none: not one, in any
    letter case. context_data and metadata: contained in the memory's JSON. Instead of a value in
    metadata, at any level: {"$gte": 3} and $eq (in depth), $ne, $gt, $lt, $lte, $in, $nin, $exists,
    $and, $or, $not, at most 200 conditions; a field that is missing is unequal to everything.
    min_importance: of the base importance_score. created_after, modified_after and accessed_after
    include their moment, created_before does not. include_archived: archived memories too.
    namespace: one, or a collection of which it is any; "" is those without. namespace_prefix: that
    one and those below it, as labels joined by dots or a tuple of labels. key_prefix: what the key
    begins with; "" is those with a key. An empty collection is refused.
    phrases: words and phrases, all of which must stand in the content, or in one tag or the
    category; exclude: of which none may. At most 64 each.
    """

    memory_type: AnyOf[Word] | None = None
    category: AnyOf[Category] | None = None
    tags: FilterTags | None = None
    tags_any: FilterTags | None = None
    source_type: AnyOf[Word] | None = None
    source_id: AnyOf[SourceId] | None = None
    context_data: Annotated[JsonObject, BeforeValidator(_context_part)] | None = None
    metadata: Annotated[JsonObject, AfterValidator(_compilable)] | None = None
    min_importance: Annotated[Int32, AfterValidator(_narrowing)] | None = None
    min_confidence: Annotated[Fraction, AfterValidator(_narrowing_fraction)] | None = None
    created_after: Moment | None = None
    created_before: Moment | None = None
    accessed_after: Moment | None = None
    include_archived: StrictBool = False
    created_by: AnyOf[Word] | None = None
    tags_none: FilterTags | None = None
    modified_after: Moment | None = None
    namespace: AnyOf[NamespaceText] | None = None
    namespace_prefix: Annotated[NamespaceName, AfterValidator(_some)] | None = None
    key_prefix: Annotated[Text, Field(max_length=limits.KEY_CHARS)] | None = None
    phrases: Phrases = ()
    exclude: Phrases = ()

    def arguments(self) -> dict[str, object]:
        """What the shared conditions take, by name: tags and objects as JSON text."""
        given = {name: getattr(self, name) for name in Filters.model_fields}
        others: dict[str, object] = dict.fromkeys((*SEVERAL.values(), *_PATH))
        for name, parameter in SEVERAL.items():
            if isinstance(given[name], tuple):
                others[parameter], given[name] = list(given[name]), None
        if given["metadata"] and has_operators(given["metadata"]):
            path, variables = compile_metadata(given["metadata"])
            others |= zip(_PATH, (path, dump_json(variables)), strict=True)
            given["metadata"] = None
        others |= {name: list(given.pop(name)) or None for name in ("phrases", "exclude")}
        return {name: _argument(value) for name, value in given.items()} | others


def _argument(value: object) -> object:
    return (dump_json(value) if value else None) if isinstance(value, tuple | dict) else value


class Many(Filters):
    """Which memories are changed together: those that pass, if a filter narrows."""

    limit: Annotated[int, Field(strict=True, ge=1, le=limits.LISTED)] = limits.LISTED

    @classmethod
    def checked(cls, arguments: Mapping[str, object]) -> Self:
        """See Arguments; also refused where no filter narrows."""
        many = super().checked(arguments)
        given = {**many.arguments(), "include_archived": None}
        if all(value is None for value in given.values()):
            raise InvalidArgument("filters", "give at least one that narrows")
        return many


Order = Literal["importance", "newest", "oldest", "modified"]
Query = Annotated[
    Text,
    AfterValidator(within_query),
    AfterValidator(lambda query: query if query.strip() else None),
]


class Count(Filters):
    """What is counted."""

    query: Query | None = None


class Listing(Filters):
    """What is gone through, and in which order."""

    order: Order = "importance"
    include_context: StrictBool = True


class Search(Filters):
    """A search: its query, its filters, and how its hits are ranked and shown."""

    query: Query | None = None
    order: Order | None = None
    include_context: StrictBool = True
    neighbours: StrictBool = True
    distinct: StrictBool = True
    importance_weight: Annotated[float, Field(strict=True, ge=0, le=100)] = 0.1
    query_embedding: Vector | None = None
    embedding_model: ModelName | None = None
    meaning: Fraction = 0.4
    limit: RowLimit = 10
    offset: Annotated[int, Field(strict=True, ge=0, le=limits.OFFSET)] = 0

    @classmethod
    def checked(cls, arguments: Mapping[str, object]) -> Self:
        """See Arguments; also refused where an order is given, and what gives hits a score."""
        search = super().checked(arguments)
        ranks = search.words is not None or search.query_embedding is not None
        if ranks and search.order is not None:
            rule = "is by score with a query, phrases or a query_embedding; leave it out"
            raise InvalidArgument("order", rule)
        return search

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

    `hit` is the memory with its score parts where it is among the first 1000 (or as many as offset
    and limit reach), `rank` its place from 1; `is_returned` when that is beyond the offset and
    within the limit. Otherwise `causes` names what keeps it out:
    "missing" (no such memory of this user), "expires_at", the arguments that it does not pass
    ("memory_type", "tags", "include_archived", "phrases", "exclude", ...), "query" (no word in
    common, and not beside a memory that has one), "distinct" (a more important hit has an equal
    content), "offset" or "limit" (its rank is before or beyond), "cut" (it is beyond all hits that
    were looked at).
    """

    is_returned: bool
    causes: tuple[str, ...]
    rank: int | None
    matched_terms: tuple[str, ...]
    hit: MemoryHit | None
