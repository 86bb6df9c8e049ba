"""What programs rely on stays: public names, arguments, fields and columns.

tests/api.txt has a line for each; one that is gone or different is a change that breaks somebody,
one that is new is not. `LTM_SNAPSHOT=write` writes the file; a release freezes it.
"""

import dataclasses
import enum
import importlib
import inspect
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import BaseModel

SNAPSHOT = Path(__file__).with_name("api.txt")
SCHEMA = Path(__file__).with_name("schema.txt")
MODULES = (
    "ltm_store",
    "ltm_store.compat",
    "ltm_store.embedders",
    "ltm_store.sync",
    "ltm_store.integrations.claude",
    "ltm_store.integrations.langgraph",
)
DOCUMENTED = {("ltm_store.Database", name) for name in ("transaction", "flush", "stats", "close")}
"""Of a Database; the rest is the library's own."""
WRITES = os.environ.get("LTM_SNAPSHOT") == "write"


def parameters(name: str, function: object) -> Iterator[str]:
    """A line for each argument; "required" where callers must give it."""
    assert callable(function)
    for place, parameter in enumerate(inspect.signature(function).parameters.values()):
        if parameter.name == "self":
            continue
        where = "" if parameter.kind is parameter.KEYWORD_ONLY else f" {place}"
        given = "required" if parameter.default is parameter.empty else f"= {parameter.default!r}"
        if parameter.kind in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL):
            given = "any"
        yield f"argument {name} {parameter.name}{where} {given}"


def members(name: str, found: type) -> Iterator[str]:
    """The fields, values and methods of a class."""
    bases = ", ".join(b.__name__ for b in found.__mro__[1:] if issubclass(b, Exception))
    yield f"class {name}({bases})"
    if issubclass(found, enum.Enum):
        yield from (f"value {name}.{one.name} = {one.value!r}" for one in found)
    elif issubclass(found, BaseModel):
        for field, info in found.model_fields.items():
            necessary = " required" if info.is_required() else ""
            yield f"field {name}.{field}{necessary}"
    elif dataclasses.is_dataclass(found):
        yield from (f"field {name}.{field.name}" for field in dataclasses.fields(found))
    if issubclass(found, BaseModel | enum.Enum | Exception):
        return
    for method, function in inspect.getmembers(found, inspect.isroutine):
        if (name, method) in DOCUMENTED or (
            name != "ltm_store.Database"
            and not method.startswith("_")
            and function.__module__.startswith("ltm_store")
        ):
            yield f"method {name}.{method}"
            yield from parameters(f"{name}.{method}", function)


def lines() -> Iterator[str]:
    """All that is promised."""
    for module_name in MODULES:
        module = importlib.import_module(module_name)
        for name in getattr(module, "__all__", None) or vars(module):
            found = getattr(module, name)
            full = f"{module_name}.{name}"
            if name.startswith("_") or not getattr(found, "__module__", "").startswith("ltm_store"):
                continue
            if "__all__" not in vars(module) and found.__module__ != module_name:
                continue
            if inspect.isclass(found):
                yield from members(full, found)
            elif inspect.isroutine(found):
                yield f"function {full}"
                yield from parameters(full, found)
    for line in SCHEMA.read_text(encoding="utf-8").splitlines():
        if column := re.match(r"column ltm_\S+ \S+( (varying|precision|with|without)\S*)?", line):
            yield column[0]


def test_nothing_that_programs_rely_on_is_gone_or_different():
    now = sorted(set(lines()))
    if WRITES:
        SNAPSHOT.write_text("\n".join(now) + "\n", encoding="utf-8")
    promised = set(SNAPSHOT.read_text(encoding="utf-8").splitlines())
    assert sorted(promised.difference(now)) == []


def test_no_argument_became_necessary():
    promised = SNAPSHOT.read_text(encoding="utf-8").splitlines()
    functions = {line.split()[1] for line in promised if line.startswith(("function", "method"))}
    necessary = {
        line for line in lines() if line.startswith("argument") and line.endswith(" required")
    }
    new = {line for line in necessary.difference(promised) if line.split()[1] in functions}
    assert new == set()


@pytest.mark.parametrize(
    "kind", ["function ltm_store.add_memory", "column ltm_memories.content text"]
)
def test_the_snapshot_has_what_it_is_of(kind: str):
    assert kind in SNAPSHOT.read_text(encoding="utf-8").splitlines()
