"""What to say of a line to import that another store or a person has written."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

Problem = tuple[str, str]
"""A field and the rule that it breaks; the field is "" where it is the whole line."""

_SCORE: Final = "importance_score, a whole number from 1 to 10"
_OURS: Final = {
    **dict.fromkeys(
        ("memory", "text", "data", "fact", "message", "page_content", "document", "value"),
        "content",
    ),
    **dict.fromkeys(("importance", "score", "priority", "rating", "salience"), _SCORE),
    "confidence": "confidence_score",
    **dict.fromkeys(("type", "kind"), "memory_type"),
    **dict.fromkeys(("tag", "labels", "keywords", "topics", "categories"), "tags"),
    **dict.fromkeys(("created", "timestamp", "date", "time", "createdAt"), "created_at"),
    **dict.fromkeys(("updated_at", "modified_at", "updatedAt"), "last_modified"),
    **dict.fromkeys(("expires", "expiration", "expiration_date"), "expires_at"),
    **dict.fromkeys(("source", "session_id", "thread_id", "conversation_id"), "source_id"),
    **dict.fromkeys(("properties", "attributes", "payload"), "metadata"),
}
_MOMENTS: Final = {"created_at", "expires_at", "last_accessed", "last_modified"}


def explained(given: Mapping[str, object], problems: list[Problem]) -> list[Problem]:
    """The problems of a line in the words of somebody who brings memories from elsewhere."""
    renamed = any(_OURS.get(name) == "content" for name in given)
    return [
        (field, _hint(given, field, rule))
        for field, rule in problems
        if not (renamed and (field, rule) == ("content", "is missing"))
    ]


def _hint(given: Mapping[str, object], field: str, rule: str) -> str:
    value = given.get(field)
    if rule == "is not a field" and "." not in field:
        if field == "user_id":
            return "is not a field: the import says whose memories they become"
        if field in _OURS:
            return f"is not a field: should it be {_OURS[field]}?"
        return "is not a field: what is your own goes into metadata"
    if field == "tags" and isinstance(value, str):
        return 'should be a list of texts, such as ["tea", "work"]'
    if field in _MOMENTS and _is_number(value):
        return "should be ISO 8601 text, such as 2026-03-02T09:00:00Z, and no Unix time"
    if field == "importance_score" and type(value) is not int:
        return "should be a whole number from 1 to 10"
    if field == "id" and type(value) is not int:
        return "should be a whole number, which other lines refer to"
    return rule


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) or (
        isinstance(value, str) and value.replace(".", "", 1).isdigit()
    )
