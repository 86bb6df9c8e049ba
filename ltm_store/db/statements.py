"""The named statements of sql/*.sql, and their shapes. sql/README.md explains the language."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from textwrap import dedent
from typing import Final

from ltm_store.db.resources import resource_dir
from ltm_store.errors import PermissionDenied

_BLOCK = re.compile(r"^(?=-- (?:name|columns|conditions|query): )", re.MULTILINE)
_HEADER = re.compile(
    r"-- name: (?P<name>\w+)\((?P<parameters>[^)]*)\) "
    r":(?P<kind>one|many-users|many|exec)(?: (?P<model>\w+))?\n"
    r"-- (?P<meaning>.+)\n(?P<notes>(?:--.*\n)*)"
)
_SHARED_HEADER = re.compile(
    r"-- (?P<kind>columns|conditions|query): (?P<name>\w+)(?:\((?P<parameters>[^)]*)\))?\n"
)
# A line that a shared block takes the place of. Each is valid SQL by itself.
_USE = re.compile(
    r"^(?P<indent>\s*)(?P<before>AND |OR )?"
    r"(?:(?P<alias>\w)\.\*|TRUE|NULL|SELECT NULL)(?P<comma>,?)"
    r"  -- (?P<use>columns|conditions|causes|query): (?P<name>\w+)$"
)
_CONDITION = re.compile(r"\s*-- if (?P<negated>not )?(?P<names>\w+(?: or \w+)*)$")
_CAUSE = re.compile(r"\s*-- cause: (?P<name>\w+)$")
_GIVEN = re.compile(r"^-- given: (?P<pairs>.+)$", re.MULTILINE)
_REPEATABLE = re.compile(r"^-- repeatable: (?:if )?(?P<when>\w+)$", re.MULTILINE)
_NEEDS = re.compile(r"^-- needs: (?P<step>\w+)(?: if (?P<names>\w+(?: or \w+)*))?$", re.MULTILINE)
_END = "-- end if"
_SEMICOLON = re.compile(r";(?=(?:  -- [\w: ]+)?\Z)")
_WRITE = re.compile(
    r"\b(INSERT|UPDATE|DELETE|ltm_make_access_partition|ltm_drop_access_partition)\b"
)
_PLACEHOLDER = re.compile(r"\$(\d+)")
_NAMED = re.compile(r"(?<!:):([a-z_]+)\b")
_ALIAS = re.compile(r"\bm\.")
_OF_USERS = re.compile(r"\b(?:FROM|JOIN|INTO|UPDATE) ltm_(?!migrations\b)\w+ ")
# Row level security: what the optional step of that name makes. Behind a policy no index of these
# functions can be used; the views have no policy in the way, and show the rows of the same user.
_INDEXED = re.compile(r"\bltm_(?:search_terms|tag_terms|user_context)\(m\.")
_READ = re.compile(r"(?<!DELETE )\b(FROM|JOIN) ltm_(\w+) AS ")
_WITH = re.compile(r"(WITH\s+(?:RECURSIVE\s+)?)?")
FLAG: Final = "flag"
DISTRIBUTED: Final = "distributed"  # chosen by the connection, no argument
FOR_OPERATORS: Final = (
    "this reads all users: connect without row_level_security as an operator, who is a member of "
    "ltm_owner or has BYPASSRLS"
)


@dataclass(frozen=True)
class Shape:
    """One text of a statement as the server sees it, and the arguments that it takes, in order."""

    sql: str
    names: tuple[str, ...]


@dataclass(frozen=True)
class Shared:
    """Lines that several statements include, with parameters by name as (name, type)."""

    kind: str
    parameters: tuple[tuple[str, str], ...]
    lines: tuple[str, ...]


@dataclass(frozen=True)
class Statement:
    """One named statement: its parameters as (name, type), and the lines of its text.

    `$1` in a line is the first parameter. Flags choose lines and are not sent; they come last.
    """

    name: str
    file: str
    kind: str
    model: str | None
    parameters: tuple[tuple[str, str], ...]
    meaning: str
    lines: tuple[str, ...]
    all_users: bool
    repeatable: str | None  # "always", or the argument that makes a repetition harmless
    step: str | None = None  # the optional step that it needs
    step_names: tuple[str, ...] = ()  # where one of these is given; none: always
    only_reads: bool = field(init=False)
    conditions: tuple[str, ...] = field(init=False)  # the arguments that choose lines
    _names: frozenset[str] = field(init=False, repr=False)
    _shapes: dict[tuple[bool, ...], Shape] = field(default_factory=dict, compare=False, repr=False)

    def __post_init__(self) -> None:
        names = [name for name, _ in self.parameters]
        used = {name for line in self.lines for name in _condition_names(line)}
        if unknown := used.difference(names, [DISTRIBUTED]):
            raise ValueError(f"{self.name}: unknown condition {sorted(unknown)}")
        conditions = tuple(name for name in [*names, DISTRIBUTED] if name in used)
        object.__setattr__(self, "conditions", conditions)
        object.__setattr__(self, "only_reads", not any(map(_WRITE.search, self.lines)))
        object.__setattr__(self, "_names", frozenset(names))

    def bind(
        self, arguments: Mapping[str, object], *, distributed: bool = False
    ) -> tuple[str, list[object]]:
        """The text for these arguments, and those that it takes, in its order.

        `distributed`: as a database takes it whose tables are spread over several nodes.

        Raises TypeError unless the names are exactly those of the header.
        """
        if arguments.keys() != self._names:
            raise TypeError(
                f"{self.name}: missing {sorted(self._names - arguments.keys())}, "
                f"unknown {sorted(arguments.keys() - self._names)}"
            )
        chosen = [arguments.get(name, distributed) for name in self.conditions]
        given = tuple([_is_given(value) for value in chosen])
        shape = self._shapes.get(given) or self.shape(given)
        return shape.sql, [arguments[name] for name in shape.names]

    def bind_for_user(self, arguments: Mapping[str, object]) -> tuple[str, list[object]]:
        """The same under row level security: the statement tells the server of which user it is.

        Raises PermissionDenied where it is of all users.
        """
        sql, bound = self.bind(arguments)
        users = arguments["user_ids"] if self.kind == "many-users" else arguments.get("user_id")
        match users:
            case [user, *others]:
                if any(other != user for other in others):
                    raise AssertionError(f"{self.name}: several users under row level security")
            case None:
                if any(map(_OF_USERS.search, self.lines)):
                    raise PermissionDenied(FOR_OPERATORS)
                return sql, bound
            case user:
                pass
        return for_user(sql, len(bound) + 1), [*bound, user]

    def is_repeatable(self, arguments: Mapping[str, object]) -> bool:
        """Whether it may be sent again when the connection was lost before it answered."""
        if self.only_reads or self.repeatable == "always":
            return True
        return self.repeatable is not None and arguments[self.repeatable] is not None

    def needed_step(self, arguments: Mapping[str, object]) -> str | None:
        """The optional step without which the database cannot run it for these arguments."""
        if self.step_names and not any(map(_is_given, map(arguments.get, self.step_names))):
            return None
        return self.step

    def shape(self, given: tuple[bool, ...]) -> Shape:
        """The text for the conditions that are given, in the order of `conditions`."""
        found = self._shapes.get(given)
        if found is None:
            found = self._shapes[given] = self._shaped(given)
        return found

    def _shaped(self, given: tuple[bool, ...]) -> Shape:
        chosen = map(str.strip, _chosen(self.lines, dict(zip(self.conditions, given, strict=True))))
        # Short, because asyncpg keeps no statement of more than 15 kB prepared.
        text = "\n".join(line for line in chosen if line and not line.startswith("--"))
        # Numbered densely: a parameter that no line uses has no type.
        numbers = sorted({int(number) for number in _PLACEHOLDER.findall(text)})
        dense = {old: new for new, old in enumerate(numbers, 1)}
        sql = _PLACEHOLDER.sub(lambda match: f"${dense[int(match[1])]}", text)
        return Shape(sql, tuple(self.parameters[number - 1][0] for number in numbers))


@cache
def for_user(sql: str, place: int) -> str:
    """A text with one more argument, which sets ltm.user_id before anything of it runs."""
    if _INDEXED.search(sql):
        sql = _READ.sub(r"\1 ltm_own_\2 AS ", sql)
    return _WITH.sub(
        lambda match: (
            f"{match[1] or 'WITH '}as_user AS (SELECT ${place}::ltm_as_user)"
            + (", " if match[1] else " ")
        ),
        sql,
        count=1,
    )


def _is_given(value: object) -> bool:
    return value is not None and value is not False


def _condition_names(line: str) -> list[str]:
    condition = _CONDITION.search(line)
    return condition["names"].split(" or ") if condition else []


def _chosen(lines: tuple[str, ...], given: Mapping[str, bool]) -> Iterator[str]:
    """The lines whose conditions hold, without the conditions."""
    blocks: list[bool] = []  # the open ones, outermost first: whether each is left out
    for line in lines:
        condition = _CONDITION.search(line)
        left_out = condition is not None and (
            any(given[name] for name in _condition_names(line)) is bool(condition["negated"])
        )
        if line.strip() == _END:
            blocks.pop()
        elif condition and not line[: condition.start()].strip():
            blocks.append(left_out)
        elif not (left_out or any(blocks)):
            yield line[: condition.start()] if condition else line


def _parameters(text: str | None) -> tuple[tuple[str, str], ...]:
    parts = (part.split() for part in (text or "").replace("\n--", " ").split(","))
    return tuple((part[0], " ".join(part[1:])) for part in parts if part)


def _shared(block: str) -> tuple[str, Shared]:
    """The name of a shared block, and its lines: a SELECT's columns, its conditions, or all."""
    header = _SHARED_HEADER.match(block)
    if header is None:
        raise ValueError(f"not the header of a shared block: {block[:60]}")
    lines = _SEMICOLON.sub("", block[header.end() :].rstrip()).splitlines()
    if header["kind"] == "columns":
        start, end = (
            lines.index("SELECT") + 1,
            next(place for place, line in enumerate(lines) if line.startswith("FROM ")),
        )
        lines = lines[start:end]
    elif header["kind"] == "conditions":
        lines = lines[lines.index("WHERE") + 1 :]
    lines = dedent("\n".join(lines)).splitlines()
    return header["name"], Shared(header["kind"], _parameters(header["parameters"]), tuple(lines))


class _Text:
    """The text of a statement while shared blocks take the place of lines."""

    def __init__(self, parameters: str, shared: Mapping[str, Shared]) -> None:
        declared = _parameters(parameters)
        self._flags = [item for item in declared if item[1] == FLAG]
        self._values = [item for item in declared if item[1] != FLAG]
        self._shared = shared

    @property
    def parameters(self) -> tuple[tuple[str, str], ...]:
        """Those of the header, then those that shared blocks add, then flags."""
        return (*self._values, *self._flags)

    def expanded(self, line: str) -> Iterator[str]:
        """The line, or the lines of the shared block that it stands for."""
        use = _USE.match(line)
        if use is None:
            yield line
            return
        block = self._shared[use["name"]]
        if (use["use"] if use["use"] != "causes" else "conditions") != block.kind:
            raise ValueError(f"{use['name']} is shared as {block.kind}")
        for item in block.parameters:
            self._add(*item)
        lines = [
            use["indent"] + inner
            for text in block.lines
            for inner in self.expanded(self._numbered(text))
        ]
        match use["use"]:
            case "columns":
                *first, last = (_ALIAS.sub(f"{use['alias']}.", text) for text in lines)
                yield from (*first, last + use["comma"])
            case "conditions":
                first_line, *rest = (_CAUSE.sub("", text) for text in lines)
                yield f"{use['indent']}{use['before'] or ''}{first_line.strip()}"
                yield from rest
            case "causes":
                yield from _causes(lines)
            case _:
                yield from lines

    def _add(self, name: str, type_: str) -> None:
        items = self._flags if type_ == FLAG else self._values
        known = dict(self._values + self._flags).get(name)
        if known is None:
            items.append((name, type_))
        elif known != type_:
            raise ValueError(f"the parameter {name} is {known} and, in a shared block, {type_}")

    def _numbered(self, line: str) -> str:
        names = [name for name, _ in self._values]
        return _NAMED.sub(lambda match: f"${names.index(match[1]) + 1}", line)


def _causes(lines: list[str]) -> Iterator[str]:
    """For each condition its cause where a row does not pass it: elements of an array."""
    part: list[str] = []
    choice = ""
    for line in lines:
        cause, condition = _CAUSE.search(line), _CONDITION.search(line)
        if condition and not line[: condition.start()].strip():
            choice = line
        elif line.strip() == _END:
            yield from _cause(part, _CONDITION.sub(r"\g<names>", choice), choice)
            part, choice = [], ""
        elif choice:
            part += [] if line.strip().startswith("--") else [line]
        elif condition:
            yield from _cause([line[: condition.start()]], condition["names"], condition[0])
        elif cause:
            yield from _cause([line[: cause.start()]], cause["name"], "")
        else:
            raise ValueError(f"a condition without a cause: {line}")


def _cause(part: list[str], name: str, choice: str) -> Iterator[str]:
    test = " ".join(text.strip() for text in part).removeprefix("AND ")
    yield f"CASE WHEN ({test}) IS NOT TRUE THEN '{name}' END,{choice and '  ' + choice.strip()}"


def _statement(file: str, block: str, shared: Mapping[str, Shared]) -> Statement:
    header = _HEADER.match(block)
    if header is None:
        raise ValueError(f"{file}.sql: not a statement header: {block[:60]}")
    repeatable = _REPEATABLE.search(header["notes"])
    needs = _NEEDS.search(header["notes"])
    text = _Text(header["parameters"], shared)
    lines = _SEMICOLON.sub("", block[header.end() :].rstrip()).splitlines()
    expanded = tuple(new for line in lines for new in text.expanded(line))
    return Statement(
        name=header["name"],
        file=file,
        kind=header["kind"],
        model=header["model"],
        parameters=text.parameters,
        meaning=header["meaning"],
        lines=expanded,
        all_users="-- scope: all users" in header["notes"],
        repeatable=repeatable["when"] if repeatable else None,
        step=needs["step"] if needs else None,
        step_names=tuple((needs["names"] or "").split(" or ")) if needs and needs["names"] else (),
    )


def _blocks(folder: str) -> list[tuple[str, str]]:
    """The blocks of a folder's files, each with the name of its file."""
    return [
        (path.stem, block)
        for path in sorted(resource_dir("sql").parent.joinpath(folder).glob("*.sql"))
        for block in _BLOCK.split(path.read_text(encoding="utf-8"))[1:]
    ]


@cache
def shared_blocks() -> dict[str, Shared]:
    """The shared blocks of sql/*.sql by name."""
    return dict(_shared(block) for _, block in _blocks("sql") if not block.startswith("-- name: "))


def with_shared(text: str) -> str:
    """A text that is no statement, such as a view's, with its shared blocks in place.

    A line of it, `-- given: NAME = SQL, ...`, tells their parameters.
    """
    told = _GIVEN.search(text)
    pairs = told["pairs"].split(", ") if told else []
    given = dict(pair.split(" = ", 1) for pair in pairs)
    expanded = _Text("", shared_blocks())
    lines = [new for line in text.splitlines() for new in expanded.expanded(line)]
    names = [name for name, _ in expanded.parameters]
    return _PLACEHOLDER.sub(lambda match: given[names[int(match[1]) - 1]], "\n".join(lines))


@cache
def statements(folder: str = "sql") -> dict[str, Statement]:
    """Every statement of the files of a folder by its name."""
    found: dict[str, Statement] = {}
    for file, block in _blocks(folder):
        if block.startswith("-- name: "):
            statement = _statement(file, block, shared_blocks())
            if statement.name in found:
                raise ValueError(f"two statements are named {statement.name}")
            found[statement.name] = statement
    return found
