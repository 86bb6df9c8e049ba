"""What models share: arguments that are checked, rows that are read, and how refusals are told."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from types import MappingProxyType
from typing import Annotated, Any, ClassVar, Final, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, ValidationInfo
from pydantic_core import ErrorDetails

from ltm_store import limits
from ltm_store.errors import InvalidArgument
from ltm_store.model.values import STORED, load_json

Reader = Callable[[Any], object]

NO_READERS: Final[Mapping[str, Reader]] = MappingProxyType({})
_set: Final = object.__setattr__

RowLimit = Annotated[int, Field(strict=True, ge=1, le=limits.HITS)]


_SAYINGS = {
    "extra_forbidden": "is not a field",
    "missing": "is missing",
    "string_too_short": "should not be empty",
    "too_short": "should not be empty",
    "tuple_type": "should be a list",
}


# What pydantic says of a text that a function has checked before.
_TOO_LONG = re.compile(r"Value should have at most (\d+) items? after validation.*")
_BRANCHES = {"float", "int", "str", "bool", "tuple"}  # of a union, which pydantic adds to the path


def refusal(error: ErrorDetails) -> tuple[str, str]:
    """The field that one of pydantic's errors is about, and the rule."""
    path = [str(part)[:100] for part in error["loc"]]
    if error["type"] not in ("extra_forbidden", "missing"):  # whose last part is a field's name
        path = [part for part in path if part not in _BRANCHES]
        path = [part for part in path if part.isidentifier() or part.isdigit()]
    rule = _SAYINGS.get(error["type"], error["msg"].removeprefix("Value error, "))
    rule = _TOO_LONG.sub(r"should have at most \1 characters", rule)
    return ".".join(path) or "memory", rule


class Arguments(BaseModel):
    """A group of arguments; `checked` turns what pydantic finds into an error of ours."""

    refused_as: ClassVar[type[InvalidArgument]] = InvalidArgument

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    @classmethod
    def checked(cls, arguments: Mapping[str, object]) -> Self:
        """The validated arguments. Raises InvalidArgument naming the first refused field."""
        try:
            return cls.model_validate(arguments)
        except ValidationError as error:
            first = error.errors(include_input=False, include_context=False, include_url=False)[0]
        # Raised here, outside of the handler, so that no pydantic error with the input hangs on it.
        raise cls.refused_as(*refusal(first))


class Row(BaseModel):
    """A row of a statement; what an older program left in it is read as well as can be."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    readers: ClassVar[Mapping[str, Reader] | None] = None
    """How columns become fields where rows are trusted; None: rows are validated."""

    @classmethod
    def from_record(cls, record: Mapping[str, object]) -> Self:
        """The row of a record."""
        return cls.from_records((record,))[0]

    @classmethod
    def from_records(cls, records: Sequence[Mapping[str, object]]) -> list[Self]:
        """The rows of records that have the same columns.

        Where `readers` says how, they are trusted: the database's CHECKs and the statement's types
        guarantee what validation would look for again, at ten times the cost.
        """
        if cls.readers is None:
            return [cls.model_validate(dict(record), context=STORED) for record in records]
        if not records:
            return []
        names = tuple(records[0].keys())
        given, defaults = set(names), cls._defaults()
        readers = [(name, read) for name, read in cls.readers.items() if name in given]
        rows = []
        for record in records:
            values = defaults.copy()
            values.update(zip(names, record.values(), strict=True))
            for name, read in readers:
                values[name] = read(values[name])
            row = cls.__new__(cls)
            # What BaseModel.__init__ sets; the fields are frozen for everybody else.
            _set(row, "__dict__", values)
            _set(row, "__pydantic_fields_set__", given)
            _set(row, "__pydantic_extra__", None)
            _set(row, "__pydantic_private__", None)
            rows.append(row)
        return rows

    @classmethod
    @cache
    def _defaults(cls) -> dict[str, object]:
        """All fields, in their order; a test sees to it that statements give those without one."""
        fields = cls.model_fields.items()
        return {name: None if field.is_required() else field.default for name, field in fields}


def parsed(value: object, info: ValidationInfo) -> object:
    """JSON text of a stored row as Python values; what a caller hands in as it is."""
    return load_json(value) if isinstance(value, str) and info.context is STORED else value


FROM_JSON: Final = BeforeValidator(parsed)
"""A field that a statement hands out as JSON text."""
