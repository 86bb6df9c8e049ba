"""What the migrator notes in tables of its own: what migrations made, and the views."""

from __future__ import annotations

from typing import NamedTuple

from ltm_store.db.resources import resource_dir
from ltm_store.migrate.ask import Session, ask


class Made(NamedTuple):
    """An index or a foreign key that is there."""

    kind: str
    table_name: str
    name: str
    oid: int


def make_tables(session: Session) -> None:
    """Make the tables of the bookkeeping where they are not there yet."""
    file = resource_dir("sql") / "migrate" / "tables.sql"
    session.execute(file.read_text(encoding="utf-8"))


def found_objects(session: Session) -> set[Made]:
    """The indexes and foreign keys of our tables."""
    return {Made(*row) for row in ask(session, "found_objects")}


def note_objects(session: Session, migration_id: str, before: set[Made]) -> None:
    """Note what a migration made and dropped; `before` is what was there before it ran.

    What it made is told by oid, so that an index that it dropped and made again is among it. What
    was missing before and after stays noted, and so missed.
    """
    after = found_objects(session)
    dropped = {found[:3] for found in before} - {found[:3] for found in after}
    ask(session, "forget_objects", **_columns(dropped))
    made = {found[:3] for found in after - before}
    ask(session, "note_objects", migration_id=migration_id, **_columns(made))


def _columns(objects: set[tuple[str, str, str]]) -> dict[str, list[str]]:
    kinds = [kind for kind, _, _ in objects]
    tables = [table for _, table, _ in objects]
    return {"kinds": kinds, "table_names": tables, "names": [name for _, _, name in objects]}
