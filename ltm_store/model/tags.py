"""Tags, their details and their company."""

from __future__ import annotations

from datetime import datetime
from typing import ClassVar

from ltm_store.errors import InvalidArgument, InvalidMemory
from ltm_store.model.base import NO_READERS, Arguments, Row, RowLimit
from ltm_store.model.values import Fraction, TagImportance, Tags, Word


class TagDetails(Arguments):
    """What add_tags writes."""

    refused_as: ClassVar[type[InvalidArgument]] = InvalidMemory

    tags: Tags
    tag_category: Word | None = None
    tag_importance: TagImportance | None = None
    tag_confidence: Fraction | None = None


class TagFilters(Arguments):
    """Which tags a list holds."""

    tag_category: Word | None = None
    limit: RowLimit = 100


class Tag(Row):
    """A tag and what is known of it, over the memories that a list is of.

    memory_count memories carry it, and it was given to them usage_count times, first at first_used
    and last at last_used. Importance and confidence are averages, spelling and category the most
    frequent ones.
    """

    readers = NO_READERS

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

    readers = NO_READERS

    tag_name: str
    memory_count: int
    jaccard: float
