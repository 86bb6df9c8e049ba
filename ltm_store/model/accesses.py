"""Accesses and what is said of them."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, ClassVar

from pydantic import AfterValidator, Field, StrictBool, ValidationInfo, field_validator

from ltm_store import limits
from ltm_store.errors import InvalidArgument, InvalidMemory
from ltm_store.model.base import NO_READERS, Arguments, Row
from ltm_store.model.values import Fraction, MemoryId, Note, Text, Word


class AccessDetails(Arguments):
    """What is recorded of an access."""

    refused_as: ClassVar[type[InvalidArgument]] = InvalidMemory

    memory_ids: Annotated[tuple[MemoryId, ...], Field(max_length=limits.LISTED)]
    access_method: Word = "direct"
    access_context: Note | None = None
    user_query: Annotated[Text, AfterValidator(lambda query: query[: limits.NOTE_CHARS])] | None = (
        None
    )


class Feedback(Arguments):
    """What is said of an access afterwards."""

    refused_as: ClassVar[type[InvalidArgument]] = InvalidMemory

    was_relevant: StrictBool | None
    relevance_score: Fraction | None

    @field_validator("relevance_score")
    @classmethod
    def _one_of_them(cls, score: float | None, others: ValidationInfo) -> float | None:
        if score is None and others.data.get("was_relevant", True) is None:
            raise ValueError("should be given, or was_relevant")
        return score


class Access(Row):
    """One recorded access of a memory. Moments are aware and in UTC."""

    readers = NO_READERS

    id: int
    user_id: int
    memory_id: int
    access_timestamp: datetime | None
    access_context: str | None
    access_method: str | None
    user_query: str | None
    was_relevant: bool | None
    relevance_score: float | None
