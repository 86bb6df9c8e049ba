"""What models share: arguments that are checked, rows that are read, and how refusals are told."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import ErrorDetails

from ltm_store import limits
from ltm_store.errors import InvalidMemory
from ltm_store.model.values import load_json

RowLimit = Annotated[int, Field(strict=True, ge=1, le=limits.HITS)]


_SAYINGS = {
    "extra_forbidden": "is not a field",
    "missing": "is missing",
    "string_too_short": "should not be empty",
    "too_short": "should not be empty",
    "tuple_type": "should be a list",
}


_BRANCHES = {"float", "int", "str", "bool"}  # of a union, which pydantic adds to the path


def refusal(error: ErrorDetails) -> tuple[str, str]:
    """The field that one of pydantic's errors is about, and the rule."""
    path = [str(part)[:100] for part in error["loc"]]
    if error["type"] not in ("extra_forbidden", "missing"):  # whose last part is a field's name
        path = [part for part in path if part not in _BRANCHES]
        path = [part for part in path if part.isidentifier() or part.isdigit()]
    rule = _SAYINGS.get(error["type"], error["msg"].removeprefix("Value error, "))
    return ".".join(path) or "memory", rule


class Arguments(BaseModel):
    """A group of arguments; `checked` turns what pydantic finds into an InvalidMemory."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    @classmethod
    def checked(cls, arguments: Mapping[str, object]) -> Self:
        """The validated arguments. Raises InvalidMemory naming the first refused field."""
        try:
            return cls.model_validate(arguments)
        except ValidationError as error:
            first = error.errors(include_input=False, include_context=False, include_url=False)[0]
        # Raised here, outside of the handler, so that no pydantic error with the input hangs on it.
        raise InvalidMemory(*refusal(first))


class Row(BaseModel):
    """A row of a statement; what an older program left in it is read as well as can be."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


def parsed(value: object) -> object:
    """JSON text of a row as Python values; values that a caller hands in as they are."""
    return load_json(value) if isinstance(value, str) else value
