"""Sources: conversations and documents that memories come from."""

from __future__ import annotations

from datetime import datetime

from ltm_store.model.base import NO_READERS, Arguments, Row, RowLimit
from ltm_store.model.values import SourceId


class Source(Row):
    """A conversation or document, with how many memories come from it and when they were created.

    source_type is the most frequent one.
    """

    readers = NO_READERS

    source_id: str
    source_type: str | None
    memories: int
    first_at: datetime
    last_at: datetime


class SourceKey(Arguments):
    """A source by its id."""

    source_id: SourceId


class SourcePage(Arguments):
    """Which sources a list holds."""

    limit: RowLimit = 100
    after: SourceId | None = None
