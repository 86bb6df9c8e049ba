"""Relationships, paths, suggestions and graphs."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from math import prod
from types import MappingProxyType
from typing import Annotated, ClassVar, Literal

from pydantic import Field
from pydantic_core import from_json

from ltm_store import limits
from ltm_store.errors import InvalidArgument, InvalidMemory
from ltm_store.model.base import FROM_JSON, NO_READERS, Arguments, Row, RowLimit
from ltm_store.model.values import Fraction, Moment, Note, Word, utc


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


class RelationshipDetails(Arguments):
    """What relate writes."""

    refused_as: ClassVar[type[InvalidArgument]] = InvalidMemory

    relationship_type: Word = "related"
    strength: Fraction = 1.0
    description: Note | None = None


class Walk(Arguments):
    """Which relationships traverse and shortest_path follow, and how far."""

    depth: Annotated[int, Field(strict=True, ge=1, le=limits.DEPTH)] = 2
    types: tuple[Word, ...] | None = None
    min_strength: Fraction | None = None
    limit: RowLimit = 100


class Suggesting(Arguments):
    """How many suggestions are asked for."""

    limit: RowLimit = 10


class MemorySummary(Row):
    """The other end of a relationship, or an entry of a ranking."""

    readers = NO_READERS

    id: int
    content: str
    memory_type: str | None
    importance_score: int


def _read_summary(summary: str | dict[str, object]) -> MemorySummary:
    """The other memory: JSON text of a column, or an object inside of JSON."""
    record = from_json(summary) if isinstance(summary, str) else summary
    return MemorySummary.from_record(record)


def _read_moment(moment: datetime | str | None) -> datetime | None:
    if isinstance(moment, str):
        moment = datetime.fromisoformat(moment)
    return moment and utc(moment)


class Relationship(Row):
    """A relationship as seen from one memory, "outgoing" when that memory is its source."""

    readers = MappingProxyType({"created_at": _read_moment, "related_memory": _read_summary})

    id: int
    source_memory_id: int
    target_memory_id: int
    direction: Literal["outgoing", "incoming"]
    relationship_type: str
    strength: float
    description: str | None
    created_at: Moment | None
    related_memory: Annotated[MemorySummary, FROM_JSON]


class RelationshipOf(Relationship):
    """A relationship with the memory that it is seen from."""

    memory_id: int


class ReachedMemory(Row):
    """A memory that a traversal reached: `depth` relationships away, along `path`, ids from the
    start.

    `path_strength` is the product of the strengths of the path's relationships, 0 .. 1.
    """

    depth: int
    path: tuple[int, ...]
    path_strength: float
    related_memory: Annotated[MemorySummary, FROM_JSON]


class MemoryPath(Row):
    """A way from one memory to another: all ids from one to the other, and the relationships.

    Each step is seen from the memory before it: `related_memory` is the next one on the path.
    """

    path: tuple[int, ...]
    steps: Annotated[tuple[Relationship, ...], FROM_JSON]

    @property
    def strength(self) -> float:
        """The product of the strengths of the relationships, 0 .. 1; 1 without any."""
        return prod(step.strength for step in self.steps)


class Suggestion(Row):
    """A memory that may belong to another one, and why: what they share that is rare.

    `source_id` is None unless it is shared; `words` are given by their stems. `score` adds up how
    rare each of it is. `meaning_score` is the cosine, where they mean much the same.
    """

    related_memory: Annotated[MemorySummary, FROM_JSON]
    score: float
    tags: tuple[str, ...]
    source_id: str | None
    participants: tuple[str, ...]
    words: tuple[str, ...]
    meaning_score: float | None = None

    @property
    def reason(self) -> str:
        """What they share, in words."""
        source = (self.source_id,) if self.source_id else ()
        shared = (
            ("tags", self.tags),
            ("source", source),
            ("people", self.participants),
            ("words", self.words),
            ("meaning", (f"{self.meaning_score:.2f}",) if self.meaning_score is not None else ()),
        )
        return "; ".join(f"{kind}: {', '.join(what)}" for kind, what in shared if what)


class GraphNode(MemorySummary):
    """A memory of a graph, `depth` relationships away from the start, which has 0.

    `content` is the beginning of it, at most 300 characters; `dynamic_importance` is of now.
    """

    dynamic_importance: float
    is_archived: bool
    depth: int


class GraphEdge(Row):
    """A relationship of a graph, from source to target, with a strength of 0 .. 1."""

    id: int
    source_memory_id: int
    target_memory_id: int
    relationship_type: str
    strength: float


class Graph(Row):
    """A memory, first of the nodes, those around it, nearest first, and their relationships."""

    nodes: Annotated[tuple[GraphNode, ...], FROM_JSON]
    edges: Annotated[tuple[GraphEdge, ...], FROM_JSON]
