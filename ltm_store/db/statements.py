"""The named statements of sql/*.sql, and their shapes.

A file holds blocks that begin with a header:

    -- name: get_memory(user_id bigint, memory_id bigint, related flag) :one Memory
    -- What it means, in one line.

A long header goes on in comment lines up to its kind: :one (a row or None), :many (rows), :exec
(no rows), or :many-users (a row; the users come from the list that drives it). The parameters stand
in the order of `$1, $2, ...`; a `flag`, which comes last, chooses lines and is not sent.

A line that ends in `-- if tags` is left out when `tags` is None or false, one in `-- if not tags`
when it is given; on a line of its own the condition holds up to its `-- end if`. The placeholders
that remain are numbered anew, so that a shape has no parameter without a type.

A block headed `-- columns: memory` is a SELECT whose column list replaces `m.*,  -- columns:
memory` in the statements; the conditions of one headed `-- conditions: filters` replace `TRUE
-- conditions: filters`. The files stay valid SQL, and every statement names its columns.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import takewhile

from ltm_store.db.resources import resource_dir

_HEADER = re.compile(
    r"-- name: (?P<name>\w+)\((?P<parameters>[^)]*)\) "
    r":(?P<kind>one|many-users|many|exec)(?: (?P<model>\w+))?\n"
    r"-- (?P<meaning>.+)\n(?P<notes>(?:--.*\n)*)"
)
_BLOCK = re.compile(r"^(?=-- (?:name|columns|conditions): )", re.MULTILINE)
_SHARED = re.compile(r"-- (columns|conditions): \w+")
_TRUE = re.compile(r"^(?P<before>\s*(?:AND )?)TRUE  (?P<shared>-- conditions: \w+)$")
_STAR = re.compile(r"^\s*\w\.\*(?P<comma>,?)  (?P<shared>-- columns: \w+)$")
_CONDITION = re.compile(r"\s*-- if (?P<negated>not )?(?P<name>\w+)$")
_END = "-- end if"
_WRITE = re.compile(r"\b(INSERT|UPDATE|DELETE)\b")
_PLACEHOLDER = re.compile(r"\$(\d+)")


@dataclass(frozen=True)
class Shape:
    """One text of a statement as the server sees it, and which arguments it takes."""

    sql: str
    positions: tuple[int, ...]


@dataclass(frozen=True)
class Statement:
    """One named statement: its parameters as (name, type), and the lines of its text."""

    name: str
    file: str
    kind: str
    model: str | None
    parameters: tuple[tuple[str, str], ...]
    meaning: str
    lines: tuple[str, ...]
    all_users: bool
    only_reads: bool = field(init=False)
    conditions: tuple[int, ...] = field(init=False)  # positions of the arguments that choose lines
    _shapes: dict[tuple[bool, ...], Shape] = field(default_factory=dict, compare=False)

    def __post_init__(self) -> None:
        names = [name for name, _ in self.parameters]
        used = {match["name"] for match in map(_CONDITION.search, self.lines) if match}
        if unknown := used.difference(names):
            raise ValueError(f"{self.name}: unknown condition {sorted(unknown)}")
        conditions = tuple(i for i, name in enumerate(names) if name in used)
        object.__setattr__(self, "conditions", conditions)
        only_reads = not any(map(_WRITE.search, self.lines))
        object.__setattr__(self, "only_reads", only_reads)

    def shape(self, given: tuple[bool, ...]) -> Shape:
        """The text for the conditions that are given, in the order of `conditions`."""
        found = self._shapes.get(given)
        if found is None:
            found = self._shapes[given] = self._shaped(given)
        return found

    def _shaped(self, given: tuple[bool, ...]) -> Shape:
        chosen = {self.parameters[i][0]: on for i, on in zip(self.conditions, given, strict=True)}
        kept = []
        blocks: list[bool] = []  # the open ones, outermost first: whether each is left out
        for line in self.lines:
            condition = _CONDITION.search(line)
            left_out = condition is not None and (
                chosen[condition["name"]] is bool(condition["negated"])
            )
            if line.strip() == _END:
                blocks.pop()
            elif condition and condition.start() == 0:
                blocks.append(left_out)
            elif not (left_out or any(blocks)):
                kept.append(line[: condition.start()] if condition else line)
        text = "\n".join(kept)
        numbers = sorted({int(number) for number in _PLACEHOLDER.findall(text)})
        dense = {old: new for new, old in enumerate(numbers, 1)}
        sql = _PLACEHOLDER.sub(lambda match: f"${dense[int(match[1])]}", text)
        return Shape(sql, tuple(number - 1 for number in numbers))

    def bind(self, arguments: Sequence[object]) -> tuple[str, list[object]]:
        """The text for these arguments, given in the header's order, and those that it takes."""
        shape = self.shape(
            tuple([arguments[i] is not None and arguments[i] is not False for i in self.conditions])
        )
        return shape.sql, [arguments[i] for i in shape.positions]


def _shared(block: str) -> tuple[str, list[str]]:
    """The header of shared lines, and the lines: a SELECT's column list or its conditions."""
    header, *lines = block.rstrip().removesuffix(";").splitlines()
    if header.startswith("-- columns"):
        return header, list(takewhile(lambda line: not line.startswith("FROM "), lines[1:]))
    return header, lines[lines.index("WHERE") + 1 :]


def _expanded(line: str, shared: Mapping[str, list[str]]) -> list[str]:
    """The line, or the shared lines that it stands for."""
    if star := _STAR.match(line):
        *first, last = shared[star["shared"]]
        return [*first, last + star["comma"]]
    if true := _TRUE.match(line):
        first_line, *rest = shared[true["shared"]]
        return [true["before"] + first_line.strip(), *rest]
    return [line]


def _statement(file: str, block: str, shared: Mapping[str, list[str]]) -> Statement:
    header = _HEADER.match(block)
    if header is None:
        raise ValueError(f"{file}.sql: not a statement header: {block[:60]}")
    lines = block[header.end() :].rstrip().removesuffix(";").splitlines()
    parameters = header["parameters"].replace("\n--", " ").split(",")
    return Statement(
        name=header["name"],
        file=file,
        kind=header["kind"],
        model=header["model"],
        parameters=tuple(_parameter(text.strip()) for text in parameters if text.strip()),
        meaning=header["meaning"],
        lines=tuple(expanded for line in lines for expanded in _expanded(line, shared)),
        all_users="-- scope: all users" in header["notes"],
    )


def _parameter(text: str) -> tuple[str, str]:
    name, _, type_ = text.partition(" ")
    return name, type_


@cache
def statements(folder: str = "sql") -> dict[str, Statement]:
    """Every statement of the files of a folder by its name."""
    blocks = [
        (path.stem, block)
        for path in sorted(resource_dir("sql").parent.joinpath(folder).glob("*.sql"))
        for block in _BLOCK.split(path.read_text(encoding="utf-8"))[1:]
    ]
    shared = dict(_shared(block) for _, block in blocks if _SHARED.match(block))
    found: dict[str, Statement] = {}
    for file, block in blocks:
        if block.startswith("-- name: "):
            statement = _statement(file, block, shared)
            if statement.name in found:
                raise ValueError(f"two statements are named {statement.name}")
            found[statement.name] = statement
    return found
