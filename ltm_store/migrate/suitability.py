"""Whether a database can have the schema, and is safe to have it: asked before the first step."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from ltm_store.migrate.ask import Session, ask, value
from ltm_store.migrate.runner import MigrationFailed, Report


def refuse_unsuitable(session: Session, report: Report, *, trust_schema: bool) -> None:
    """Raise MigrationFailed where the database cannot have the schema; tell what to expect."""
    # First, and with names qualified: what was planted must not run in what looks for it.
    dangers = ask(session, "schema_dangers")
    if dangers and not trust_schema:
        told = "; ".join(": ".join(_texts(danger)) for danger in dangers)
        raise MigrationFailed(f"{told}; or accept it with --trust-schema")
    if sentences := ["; ".join(_texts(row)) for row in ask(session, "unsuitable")]:
        raise MigrationFailed("; ".join(sentences))
    if not value(session, "letters_are_folded"):
        report(
            "lower() of this database knows no letters beyond ASCII (LC_CTYPE): those of rare "
            "scripts keep their case in tags and searches"
        )


def _texts(row: Iterable[str | bytes]) -> Iterator[str]:
    """Of a database without an encoding psycopg gives bytes."""
    return (text.decode() if isinstance(text, bytes) else text for text in row)
