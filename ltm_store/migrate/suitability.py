"""Whether a database is safe to work in, and can have the schema: asked before the first step."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from ltm_store.migrate.ask import Session, ask, value
from ltm_store.migrate.runner import MigrationFailed, Report

OLDEST_VERSION: Final = 150_000  # as server_version_num has it
_DANGERS_TOLD: Final = 5


def refuse_unsafe(session: Session) -> None:
    """Raise MigrationFailed where others may put functions into what is looked up by name.

    Before anything else is asked: what was planted must not run in what looks for it.
    """
    dangers = ask(session, "schema_dangers")
    if dangers:
        told = "; ".join(": ".join(_texts(danger)) for danger in dangers[:_DANGERS_TOLD])
        more = f"; and {left} more" if (left := len(dangers) - _DANGERS_TOLD) > 0 else ""
        raise MigrationFailed(f"{told}{more}; or accept it with --trust-schema")


def refuse_unsuitable(session: Session) -> None:
    """Raise MigrationFailed where the server, the database or the role cannot have the schema."""
    rows = ask(session, "unsuitable", oldest_version=OLDEST_VERSION)
    if sentences := ["; ".join(_texts(row)) for row in rows]:
        raise MigrationFailed("; ".join(sentences))


def tell_letter_case(session: Session, report: Report) -> None:
    """Tell where lower() of the database differs from Python's."""
    if not value(session, "letters_are_folded"):
        report(
            "lower() of this database knows no letters beyond ASCII (LC_CTYPE): those of rare "
            "scripts keep their case in tags and searches"
        )


def _texts(row: Iterable[str | bytes]) -> Iterator[str]:
    """Of a database without an encoding psycopg gives bytes."""
    return (text.decode() if isinstance(text, bytes) else text for text in row)
