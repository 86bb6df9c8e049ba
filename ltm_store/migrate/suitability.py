"""Whether a database can have the schema, and is safe to have it: asked before the first step."""

from __future__ import annotations

from ltm_store.migrate.ask import Session, ask, value
from ltm_store.migrate.runner import MigrationFailed, Report


def refuse_unsuitable(session: Session, report: Report, *, trust_schema: bool) -> None:
    """Raise MigrationFailed where the database cannot have the schema; tell what to expect."""
    if sentences := [sentence for (sentence,) in ask(session, "unsuitable")]:
        # A database without an encoding gives psycopg bytes.
        texts = (text.decode() if isinstance(text, bytes) else text for text in sentences)
        raise MigrationFailed("; ".join(texts))
    dangers = ask(session, "schema_dangers")
    if dangers and not trust_schema:
        told = "; ".join(f"{subject}: {detail}" for subject, detail in dangers)
        raise MigrationFailed(f"{told}; or accept it with --trust-schema")
    if not value(session, "letters_are_folded"):
        report(
            "lower() of this database leaves some letters as they are (LC_CTYPE): tags and "
            "searches differ in letter case for them"
        )
