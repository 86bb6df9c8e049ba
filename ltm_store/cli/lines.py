"""Files to import: what each line says, all that is wrong with it, and the key it comes under."""

from __future__ import annotations

import codecs
import hashlib
import json
import math
from collections import Counter, defaultdict
from collections.abc import Container, Iterator
from dataclasses import dataclass, replace
from typing import Final

from ltm_store.model.hints import Problem
from ltm_store.model.memories import NewMemory
from ltm_store.model.transfer import IMPORT_KEY, ExportedMemory, read_line
from ltm_store.transfer import Numbered

_NOT_JSON: Final = "is no number that JSON can hold"
_LONGEST_NUMBER: Final = 4300  # digits, from which on Python refuses to read one
_KEY_CHARS: Final = 100  # of a name in the path to a field
_REFERENCES: Final = {"related_memory_ids", "parent_memory_id", "relationships"}
_SAID: Final = set(NewMemory.model_fields) - _REFERENCES - {"idempotency_key"}


@dataclass(frozen=True)
class Line:
    """A line of a file that is not blank, as text and as a memory, or what is wrong with it."""

    number: int
    text: str
    memory: ExportedMemory | None = None
    problems: tuple[Problem, ...] = ()

    def told(self) -> Iterator[str]:
        """A sentence for each problem."""
        for field, rule in self.problems:
            yield f"line {self.number}, {field}: {rule}" if field else f"line {self.number}: {rule}"


def read_lines(data: bytes) -> list[Line]:
    """The lines of JSON Lines, each checked alone and among the others."""
    # splitlines would also cut at U+2028, which stands as it is inside JSON strings.
    rows = enumerate(data.removeprefix(codecs.BOM_UTF8).split(b"\n"), 1)
    lines = [_line(number, row) for number, row in rows if row.strip()]
    if len(lines) > 1 and lines[0].memory is None and _is_one_value(data):
        rule = "begins one JSON value that goes on below; jq -c '.[]' makes lines of a list"
        whole = data.decode("utf-8", "surrogateescape")
        return [replace(lines[0], text=whole, problems=(("", rule),))]
    return _checked_together(lines)


def _is_one_value(data: bytes) -> bool:
    try:
        json.loads(data)
    except (ValueError, RecursionError):
        return False
    return True


def _line(number: int, row: bytes) -> Line:
    line = Line(number, row.decode("utf-8", "surrogateescape"))
    try:
        row.decode()
        read = _parsed(line.text)
    except UnicodeDecodeError:
        read = [("", "is not UTF-8 text")]
    except RecursionError:
        read = [("", "holds JSON that is nested too deeply")]
    if isinstance(read, ExportedMemory):
        return replace(line, memory=read)
    return replace(line, problems=tuple(read))


def _parsed(text: str) -> ExportedMemory | list[Problem]:
    try:
        value = json.loads(text, parse_int=_whole_number)
    except json.JSONDecodeError as error:
        return [("", f"is not JSON: {error.msg} (column {error.colno})")]
    if isinstance(value, list):
        return [("", "should be a JSON object; jq -c '.[]' makes lines of a list")]
    if not isinstance(value, dict):
        return [("", "should be a JSON object")]
    if "content" not in value and (name := _list_in(value)):
        return [("", f"should be one memory; jq -c '.{name}[]' makes lines of a list")]
    return [(field, _NOT_JSON) for field in _odd_numbers(value)] or read_line(value)


def _list_in(value: dict[str, object]) -> str | None:
    """The name of a list of objects that is no field of a memory."""
    for name in value.keys() - ExportedMemory.model_fields.keys():
        inner = value[name]
        if name.isidentifier() and isinstance(inner, list) and isinstance((*inner, 0)[0], dict):
            return name
    return None


def _whole_number(digits: str) -> float:
    return int(digits) if len(digits) < _LONGEST_NUMBER else math.inf


def _odd_numbers(value: object, path: str = "") -> Iterator[str]:
    """The fields that hold NaN, an infinity, or a number beyond what can be read."""
    if isinstance(value, float) and not math.isfinite(value):
        yield path
    elif isinstance(value, dict | list):
        pairs = value.items() if isinstance(value, dict) else enumerate(value)
        for key, inner in pairs:
            name = str(key)[:_KEY_CHARS]
            yield from _odd_numbers(inner, f"{path}.{name}" if path else name)


def _checked_together(lines: list[Line]) -> list[Line]:
    """The lines; refused are those with another's id, and those that speak of one not there."""
    first: dict[int, int] = {}
    for place, line in enumerate(lines):
        if line.memory is None or line.memory.id is None:
            continue
        number = first.setdefault(line.memory.id, line.number)
        if number != line.number:
            lines[place] = _refused(line, ("id", f"line {number} has it too"))
    _refuse_dangling(lines)
    return lines


def _refuse_dangling(lines: list[Line]) -> None:
    """Refuse lines that speak of an id that no good line has, and those that speak of these."""
    known = {line.memory.id for line in lines if line.memory is not None}
    speakers: defaultdict[int, list[int]] = defaultdict(list)
    for place, line in enumerate(lines):
        for _, target in line.memory.references() if line.memory else ():
            speakers[target].append(place)
    waiting = list(range(len(lines)))
    while waiting:
        place = waiting.pop()
        memory = lines[place].memory
        problems = list(_dangling(memory, known)) if memory else []
        if memory and problems:
            lines[place] = _refused(lines[place], *problems)
            if memory.id is not None:
                known.discard(memory.id)
                waiting += speakers[memory.id]


def _dangling(memory: ExportedMemory, known: Container[int | None]) -> Iterator[Problem]:
    for field, target in memory.references():
        if target == memory.id:
            yield field, "should be another memory"
        elif target not in known:
            yield field, f"no line that can be imported has the id {target}"


def _refused(line: Line, *problems: Problem) -> Line:
    return replace(line, memory=None, problems=problems)


def good_lines(lines: list[Line], *, again: bool) -> list[Numbered]:
    """What can be imported, with an idempotency_key for each line that has none of its own.

    It is made from what the line says of the memory, not from what it says of other lines, and
    from how often the file said so before: the same file imported again adds nothing. With `again`
    there are none.
    """
    counts: Counter[str] = Counter()
    found: list[Numbered] = []
    for line in lines:
        memory = line.memory
        if memory is None:
            continue
        if memory.idempotency_key is None and not again:
            said = memory.model_dump(mode="json", include=_SAID, exclude_defaults=True)
            text = json.dumps(said, sort_keys=True)
            digest = hashlib.sha256(text.encode()).hexdigest()
            key = f"{IMPORT_KEY}{digest}:{counts[digest]}"
            counts[digest] += 1
            memory = memory.model_copy(update={"idempotency_key": key})
        found.append((line.number, memory))
    return found
