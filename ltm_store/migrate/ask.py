"""Running the named statements of sql/migrate and sql/adoption on a psycopg session.

Besides `$1` these have `"{table}"`, a name, and `'{text}'`, a literal: see sql/README.md.
"""

from __future__ import annotations

import re
from functools import cache
from typing import Any, Final

import psycopg
from psycopg import sql

from ltm_store.db.statements import Statement, statements

Session = psycopg.Connection[Any]

_FOLDERS: Final = ("sql/migrate", "sql/adoption")
_WRITTEN_TYPES: Final = ("name", "literal")
_WRITTEN: Final = re.compile(r"""(["'])\{(\w+)\}\1""")


@cache
def _statements() -> dict[str, Statement]:
    return {name: found for folder in _FOLDERS for name, found in statements(folder).items()}


def ask(session: Session, name: str, /, **arguments: object) -> list[Any]:
    """The rows of a statement; of the kind exec none, and a pipeline does not wait for it.

    Raises TypeError unless the arguments are those of its header.
    """
    statement = _statements()[name]
    if arguments.keys() != {parameter for parameter, _ in statement.parameters}:
        raise TypeError(f"{name} takes {statement.parameters}, not {sorted(arguments)}")

    def written(match: re.Match[str]) -> str:
        value = arguments[match[2]]
        return (_name(value) if match[1] == '"' else sql.Literal(value)).as_string(session)

    text = _WRITTEN.sub(written, statement.shape(()).sql)
    sent = [arguments[key] for key, type_ in statement.parameters if type_ not in _WRITTEN_TYPES]
    # Not prepared: a plan made for a table that is still small would be kept while it grows.
    cursor = psycopg.RawCursor(session).execute(text, sent, prepare=False)
    return [] if statement.kind == "exec" else cursor.fetchall()


def _name(value: object) -> sql.Composable:
    match value:
        case list():
            return sql.SQL(", ").join(map(_name, value))
        case tuple():
            return sql.Identifier(*value)
        case _:
            return sql.Identifier(str(value))


def value(session: Session, name: str, /, **arguments: object) -> Any:
    """The first column of the first row, None without one."""
    rows = ask(session, name, **arguments)
    return rows[0][0] if rows else None
