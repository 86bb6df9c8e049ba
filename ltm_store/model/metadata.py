"""Conditions on metadata, compiled to one jsonpath and its variables.

Every part of a path is two-valued: `exists(@ ? (...))` around what compares, because a comparison
of two types is unknown, and `!` of unknown is unknown. The mode is strict, so that arrays are never
unwrapped.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Final, NamedTuple, TypeAlias

from pydantic import JsonValue

from ltm_store import limits

Reached: TypeAlias = Callable[[str], str]
"""Makes of a test of a value one of the object it is in: that there is the value, and passes."""

_COMPARISONS: Final = {"$gt": ">", "$gte": ">=", "$lt": "<", "$lte": "<="}
_NEGATIONS: Final = {"$ne": "$eq", "$nin": "$in"}
_SCALARS: Final = (str, bool, int, float)


class MetadataPath(NamedTuple):
    """A jsonpath that is true of the metadata that pass, and its variables."""

    path: str
    variables: dict[str, JsonValue]


def has_operators(value: object) -> bool:
    """Whether there is a key of an operator, or one that would be read as such."""
    if isinstance(value, Mapping):
        return any(key.startswith("$") or has_operators(item) for key, item in value.items())
    return isinstance(value, list) and any(map(has_operators, value))


def compile_metadata(conditions: Mapping[str, JsonValue]) -> MetadataPath:
    """The path for conditions. Raises ValueError for those that are none."""
    compiler = _Compiler()
    path = f"strict $ ? ({compiler.conditions(conditions, _itself)})"
    if len(path) > limits.METADATA_PATH_CHARS:
        raise ValueError("too long: the keys of nested conditions stand in each of them")
    return MetadataPath(path, compiler.variables)


def _itself(test: str) -> str:
    return test


def _below(reached: Reached, key: str) -> Reached:
    step = json.dumps(key, ensure_ascii=False)
    return lambda test: reached(_is_true(f"exists(@.{step} ? ({test}))"))


def _is_true(test: str) -> str:
    return f"exists(@ ? ({test}))"


def _all(tests: Sequence[str]) -> str:
    return " && ".join(f"({test})" for test in tests)


def _type_is(name: str) -> str:
    return f'@.type() == "{name}"'


class _Compiler:
    """Collects the variables of a path, and counts its conditions."""

    def __init__(self) -> None:
        self.variables: dict[str, JsonValue] = {}
        self._count = 0

    def conditions(self, value: Mapping[str, JsonValue], reached: Reached) -> str:
        """All that an object asks for: operators of the value itself, and of its fields."""
        tests = [
            self._operator(key, item, reached)
            if key.startswith("$")
            else self._field(item, _below(reached, key))
            for key, item in value.items()
        ]
        return _all(tests) if tests else reached(self._counted(_type_is("object")))

    def _field(self, value: JsonValue, reached: Reached) -> str:
        if isinstance(value, dict):
            return self.conditions(value, reached)
        return reached(self._contained(value))

    def _operator(self, name: str, value: JsonValue, reached: Reached) -> str:
        match name:
            case "$and" | "$or":
                parts = [
                    f"({self._object(name, part, reached)})" for part in self._list(name, value)
                ]
                return (" && " if name == "$and" else " || ").join(parts)
            case "$not":
                return f"!({self._object(name, value, reached)})"
            case "$ne" | "$nin":
                return f"!({self._operator(_NEGATIONS[name], value, reached)})"
            case "$exists":
                if not isinstance(value, bool):
                    raise ValueError("$exists takes true or false")
                there = reached(self._counted("1 == 1"))
                return there if value else f"!({there})"
            case "$eq":
                return reached(self._equal(value))
            case "$in":
                return reached(self._among(self._list(name, value)))
            case _ if name in _COMPARISONS:
                if not isinstance(value, _SCALARS):
                    raise ValueError(f"{name} takes a number, a text, or true or false")
                return reached(self._compared(_COMPARISONS[name], value))
        raise ValueError(f"{json.dumps(name[:20])} is not an operator")

    def _object(self, name: str, value: JsonValue, reached: Reached) -> str:
        if not isinstance(value, dict):
            raise ValueError(f"{name} takes conditions as objects")
        return self.conditions(value, reached)

    def _list(self, name: str, value: JsonValue) -> list[JsonValue]:
        if not isinstance(value, list) or not value:
            raise ValueError(f"{name} takes a list that is not empty")
        return value

    def _contained(self, value: JsonValue) -> str:
        """As jsonb's @> has it; an object in a list may hold operators."""
        match value:
            case dict():
                return self.conditions(value, _itself)
            case list():
                each = [f"exists(@[*] ? ({self._contained(item)}))" for item in value]
                return _all([self._counted(_type_is("array")), *each])
            case _:
                return self._compared("==", value)

    def _equal(self, value: JsonValue) -> str:
        """Equal in depth; jsonpath compares neither objects nor arrays."""
        match value:
            case dict():
                keys = self._variable(list(value))
                fields = [_below(_itself, key)(self._equal(item)) for key, item in value.items()]
                others = f"!(exists(@.keyvalue() ? (!(@.key == {keys}[*]))))"
                return _all([self._counted(_type_is("object")), others, *fields])
            case list():
                items = [f"exists(@[{n}] ? ({self._equal(item)}))" for n, item in enumerate(value)]
                size = f"@.size() == {len(value)}"
                return _all([self._counted(_type_is("array")), size, *items])
            case _:
                return self._compared("==", value)

    def _among(self, values: list[JsonValue]) -> str:
        """Equal to one: a variable for each type of scalars, because others make it unknown."""
        alike: dict[str, list[JsonValue]] = {}
        tests = []
        for value in values:
            if isinstance(value, dict | list):
                tests.append(self._equal(value))
            else:
                kind = "number" if type(value) in (int, float) else type(value).__name__
                alike.setdefault(kind, []).append(value)
        tests += [_is_true(f"@ == {self._variable(some)}[*]") for some in alike.values()]
        return self._counted(" || ".join(f"({test})" for test in tests))

    def _compared(self, sign: str, value: JsonValue) -> str:
        return self._counted(_is_true(f"@ {sign} {self._variable(value)}"))

    def _variable(self, value: JsonValue) -> str:
        name = f"v{len(self.variables)}"
        self.variables[name] = value
        return f"${name}"

    def _counted(self, test: str) -> str:
        self._count += 1
        if self._count > limits.METADATA_CONDITIONS:
            raise ValueError(f"more than {limits.METADATA_CONDITIONS} conditions")
        return test
