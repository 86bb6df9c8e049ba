"""Figures over a user's memories."""

from __future__ import annotations

from typing import Annotated

from ltm_store.model.base import FROM_JSON, Row
from ltm_store.model.relationships import MemorySummary
from ltm_store.model.values import Moment


class AccessedMemory(MemorySummary):
    """A summary with how often the memory was accessed."""

    access_count: int


class RelatedMemory(MemorySummary):
    """A summary with how many relationships the memory has."""

    relationship_count: int


class Analytics(Row):
    """Figures over all memories of a user that have not expired, archived ones included.

    Distributions map a name to a count, most frequent first; memories without a type or category
    count as "unknown", those without a namespace as "". growth_by_month maps "2026-03" to the
    memories created in that month, oldest first. Averages are None for a user without memories.
    """

    total_memories: int
    archived_memories: int
    type_distribution: Annotated[dict[str, int], FROM_JSON]
    category_distribution: Annotated[dict[str, int], FROM_JSON]
    average_importance: float | None
    average_dynamic_importance: float | None
    most_accessed_memories: Annotated[tuple[AccessedMemory, ...], FROM_JSON]
    most_related_memories: Annotated[tuple[RelatedMemory, ...], FROM_JSON]
    tag_distribution: Annotated[dict[str, int], FROM_JSON]
    growth_by_month: Annotated[dict[str, int], FROM_JSON]
    namespace_distribution: Annotated[dict[str, int], FROM_JSON]


class SeenMemory(MemorySummary):
    """A summary with the dynamic importance, and when it was last accessed, else created."""

    dynamic_importance: float
    last_seen: Moment | None


class ReportFigures(Row):
    """What a report shows beyond Analytics, of memories that have not expired.

    importance_by_month maps the month in which memories were created to their average and highest
    dynamic importance, memories_by_importance whole points (9 for 9 to 10) to a count. The lists
    and never_recalled leave archived memories out.
    """

    accesses: int
    relationships: int
    never_recalled: int
    importance_in_a_year: float | None
    importance_by_month: Annotated[dict[str, tuple[float, float]], FROM_JSON]
    memories_by_importance: Annotated[dict[int, int], FROM_JSON]
    never_recalled_memories: Annotated[tuple[SeenMemory, ...], FROM_JSON]
    stalest_memories: Annotated[tuple[SeenMemory, ...], FROM_JSON]
