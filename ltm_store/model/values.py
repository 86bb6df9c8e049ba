"""Checks and conversions of single values: texts, moments, user ids, JSON."""

from __future__ import annotations

import json
import math
import unicodedata
from collections.abc import Iterable, Mapping
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from enum import Enum
from typing import Annotated, Any, Final, TypeAlias
from uuid import UUID

from pydantic import AfterValidator, BeforeValidator, Field, JsonValue, StrictFloat, StrictInt
from pydantic_core import from_json

from ltm_store import limits
from ltm_store.errors import InvalidArgument, InvalidMemory

STORED: Final = object()
"""Validation context of rows: what is stored is taken as it is, neither derived nor limited."""
ASKED: Final = object()
"""Validation context of what is asked for: nothing is derived from the part that is given."""

UserId: TypeAlias = int | str | UUID
"""A user: a number 0 .. 2**53-1, or any other non-empty string or UUID."""


def storable(text: str) -> str:
    """The text itself, unless PostgreSQL cannot hold it."""
    if "\0" in text:
        raise ValueError("holds a NUL character")
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            raise ValueError("holds half of a surrogate pair") from None
    return text


def composed(text: str) -> str:
    """The text in NFC, in which texts are compared."""
    return text if text.isascii() else unicodedata.normalize("NFC", text)


def within_content(text: str) -> str:
    """The text itself, unless its UTF-8 is longer than a memory's content may be."""
    if len(text) > limits.CONTENT_BYTES or len(text.encode()) > limits.CONTENT_BYTES:
        raise ValueError(f"longer than {limits.CONTENT_BYTES} bytes of UTF-8")
    return text


def within_query(text: str) -> str:
    """The text itself, unless it is longer than a query may be."""
    if len(text.encode()) > limits.QUERY_BYTES:
        raise ValueError(f"longer than {limits.QUERY_BYTES} bytes of UTF-8")
    return text


def word(value: object) -> object:
    """The value of an enumeration's member; anything else as it is."""
    return value.value if isinstance(value, Enum) else value


def utc(value: datetime) -> datetime:
    """The same moment in UTC; a naive one is UTC already."""
    if value.utcoffset() is None:
        return value.replace(tzinfo=UTC)
    try:
        return value.astimezone(UTC)
    except OverflowError:
        raise ValueError("outside the years 1 to 9999") from None


def _datetime(value: object) -> datetime:
    if isinstance(value, str):  # not pydantic's reading, which takes digits for Unix seconds
        with suppress(ValueError):
            value = datetime.fromisoformat(value)
    if not isinstance(value, datetime):
        raise ValueError("should be a datetime or ISO 8601 text")
    return utc(value)


def _duration(value: object) -> object:
    if not isinstance(value, timedelta | str):  # of a number the unit would be a guess
        raise ValueError("should be a timedelta or ISO 8601 text")
    return value


def joined(namespace: object) -> object:
    """A namespace as it is stored: labels joined by dots; None is none."""
    if namespace is None:
        return ""
    if not isinstance(namespace, tuple | list):
        return namespace
    for label in namespace:
        if not isinstance(label, str) or not label or "." in label:
            raise ValueError("a label should be text without dots, and not empty")
    return ".".join(namespace)


def _labelled(namespace: str) -> str:
    if ".." in f".{namespace}." and namespace:
        raise ValueError("has an empty label")
    if len(namespace.encode()) > limits.NAMESPACE_BYTES:
        raise ValueError(f"longer than {limits.NAMESPACE_BYTES} bytes of UTF-8")
    return namespace


Text = Annotated[str, Field(strict=True), AfterValidator(storable)]  # bytes are none
LongText = Annotated[Text, AfterValidator(within_content)]
Note = Annotated[Text, Field(max_length=limits.NOTE_CHARS)]
Compared = Annotated[Text, AfterValidator(composed)]
StoredWord = Annotated[Text, Field(max_length=limits.WORD_CHARS)]  # whatever a column can hold
Word = Annotated[Compared, Field(min_length=1, max_length=limits.WORD_CHARS), BeforeValidator(word)]
Fraction = Annotated[StrictFloat, Field(ge=0, le=1, allow_inf_nan=False)]
TagImportance = Annotated[
    StrictFloat, Field(ge=-limits.TAG_IMPORTANCE, le=limits.TAG_IMPORTANCE, allow_inf_nan=False)
]
Score = Annotated[StrictInt, Field(ge=1, le=10)]
MemoryId = Annotated[StrictInt, Field(ge=-limits.MEMORY_ID, le=limits.MEMORY_ID)]
Int32 = Annotated[StrictInt, Field(ge=-(2**31), le=2**31 - 1)]
Category = Annotated[Compared, Field(max_length=limits.CATEGORY_CHARS)]
SourceId = Annotated[Compared, Field(max_length=limits.SOURCE_ID_CHARS)]
IdempotencyKey = Annotated[Text, Field(min_length=1, max_length=limits.IDEMPOTENCY_KEY_CHARS)]
Moment = Annotated[datetime, BeforeValidator(_datetime)]
Duration = Annotated[
    timedelta,
    BeforeValidator(_duration),
    Field(gt=timedelta(0), le=timedelta(days=limits.EXPIRES_AFTER_DAYS)),
]
Key = Annotated[Text, Field(min_length=1, max_length=limits.KEY_CHARS)]
NamespaceText = Annotated[Text, AfterValidator(_labelled)]
NamespaceName = Annotated[NamespaceText, BeforeValidator(joined)]


def folded(text: str) -> str:
    """A text in lower case, letter by letter, as the schema's ltm_lower has it."""
    return composed("".join(letter.lower() for letter in text))


def unique_tags(tags: Iterable[str]) -> tuple[str, ...]:
    """Tags in NFC without outer white space, the first of each spelling in any letter case."""
    found: dict[str, str] = {}
    for tag in tags:
        name = unicodedata.normalize("NFC", tag).strip()
        if not name:
            raise ValueError("a tag is empty")
        if len(name) > limits.TAG_CHARS:
            raise ValueError(f"a tag is longer than {limits.TAG_CHARS} characters")
        found.setdefault(folded(name), name)
    if len(found) > limits.TAGS:
        raise ValueError(f"more than {limits.TAGS} tags")
    return tuple(found.values())


Tags = Annotated[tuple[Text, ...], AfterValidator(unique_tags)]


def _check_json(value: object, depth: int) -> object:
    """The value as JSON will hold it; whole floats as integers, which jsonb hands back exactly."""
    match value:
        case str():
            return storable(value)
        case bool() | int() | None:
            return value
        case float():
            if not math.isfinite(value):
                raise ValueError("holds a number that is not finite")
            return int(value) if abs(value) >= 2**53 else value
        case Mapping() | list() | tuple():
            if depth == limits.JSON_DEPTH:
                raise ValueError(f"nested deeper than {limits.JSON_DEPTH}")
            if not isinstance(value, Mapping):
                return [_check_json(item, depth + 1) for item in value]
            if not all(isinstance(key, str) for key in value):
                raise ValueError("holds a key that is not text")
            return {storable(key): _check_json(item, depth + 1) for key, item in value.items()}
        case _:
            raise ValueError(f"holds a {type(value).__name__}, which JSON cannot")


def checked_json(value: Any) -> Any:
    """The value, if it is JSON within the limits of depth and size."""
    checked = _check_json(value, 0)
    if len(dump_json(checked).encode()) > limits.JSON_BYTES:
        raise ValueError(f"longer than {limits.JSON_BYTES} bytes as JSON")
    return checked


JsonObject = Annotated[dict[str, JsonValue], BeforeValidator(checked_json)]


def load_json(text: str) -> JsonValue:
    """JSON of a row as Python values; a number of too many digits for Python stays text."""
    try:
        value: JsonValue = from_json(text)
    except ValueError:
        value = json.loads(
            text, parse_int=lambda digits: int(digits) if len(digits) < 4300 else digits
        )
    return value


def read_json(text: str | None) -> JsonValue:
    """A column of JSON text; NULL is None."""
    return None if text is None else load_json(text)


_ENCODER: Final = json.JSONEncoder(ensure_ascii=False, allow_nan=False)


def dump_json(value: object) -> str:
    """JSON text as statements take it."""
    return _ENCODER.encode(value)


def moment(value: datetime | None, field: str = "as_of") -> datetime:
    """The moment in UTC; None is now."""
    if value is None:
        return datetime.now(UTC)
    if not isinstance(value, datetime):
        raise InvalidArgument(field, "should be a datetime")
    try:
        return utc(value)
    except ValueError as error:
        raise InvalidArgument(field, str(error)) from None


def parse_user_id(user_id: UserId, field: str = "user_id") -> int | str:
    """The application's own number of a user, or the external id to look up."""
    match user_id:
        case bool():
            pass
        case int():
            if 0 <= user_id <= limits.USER_ID:
                return int(user_id)
            raise InvalidMemory(field, f"should be 0 to {limits.USER_ID}")
        case UUID():
            return str(user_id)
        case str():
            if user_id.isascii() and user_id.isdigit() and len(user_id) <= len(str(limits.USER_ID)):
                number = int(user_id)
                if str(number) == user_id and number <= limits.USER_ID:
                    return number
            name = unicodedata.normalize("NFC", user_id)
            if not 1 <= len(name) <= limits.EXTERNAL_ID_CHARS:
                raise InvalidMemory(
                    field, f"should have 1 to {limits.EXTERNAL_ID_CHARS} characters"
                )
            try:
                return storable(name)
            except ValueError as error:
                raise InvalidMemory(field, str(error)) from None
    raise InvalidMemory(field, "should be a number, a string or a UUID")


def check_memory_id(value: int, field: str = "memory_id") -> int:
    """The id itself. Raises InvalidMemory unless it is a whole number that a bigint holds."""
    if type(value) is not int or abs(value) > limits.MEMORY_ID:
        raise InvalidMemory(field, "should be the id of a memory")
    return value


def whole_number(value: int, field: str) -> int:
    """The number itself. Raises InvalidArgument unless an integer column holds it."""
    if type(value) is not int or abs(value) >= 2**31:
        raise InvalidArgument(field, "should be a whole number below 2**31")
    return value


def row_limit(value: int) -> int:
    """The number itself. Raises InvalidArgument unless so many rows may be asked for."""
    if type(value) is not int or not 1 <= value <= limits.HITS:
        raise InvalidArgument("limit", f"should be 1 to {limits.HITS}")
    return value
