"""The way back from an adoption: the original tables, with what was written since."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from psycopg import sql

from ltm_store.migrate.adoption.tables import (
    MEMORIES,
    NEVER_CHECKED,
    ORIGINALS,
    Adoption,
    Session,
    steps,
)
from ltm_store.migrate.runner import MigrationFailed, Report

# Only what differs from the repaired value goes back, so that the original's own values stay.
CHANGED: Final = """
    UPDATE {theirs} AS o SET {assignments}
    FROM {ours} AS n
    JOIN ltm_adoption.{repaired} AS r ON r.id = n.id {same_user}
    WHERE o.id = n.id AND n.{key} = ANY(ids) AND r.{key} = ANY(ids)
        AND ({new}) IS DISTINCT FROM ({repairs});
"""
GONE: Final = """
    DELETE FROM {theirs} AS o USING ltm_adoption.{repaired} AS r
    WHERE r.id = o.id AND r.{key} = ANY(ids) AND NOT EXISTS (
        SELECT 1 FROM {ours} AS n WHERE n.id = r.id {same_user}
    );
"""
OF_GONE: Final = """
    DELETE FROM {theirs} AS o
    WHERE o.{key} = ANY(ids)
        AND NOT EXISTS (SELECT 1 FROM {memories} AS n WHERE n.id = o.{key});
"""
ADDED: Final = """
    INSERT INTO {theirs} (id, {columns}) OVERRIDING SYSTEM VALUE
    SELECT n.id, {values} FROM {ours} AS n
    WHERE n.{key} = ANY(ids) AND n.user_id >= 0 AND n.id > {mark}
        AND NOT EXISTS (SELECT 1 FROM {theirs} AS o WHERE o.id = n.id)
    ON CONFLICT DO NOTHING;
"""
RETURNING: Final = """
CREATE OR REPLACE FUNCTION ltm_adoption.{name}(ids bigint[]) RETURNS void LANGUAGE plpgsql
AS $returning$ BEGIN {body} END $returning$
"""


def go_back(dsn: str, locked: Session, report: Report) -> None:
    """Put the original tables back, with what was written since; ours go to ltm_adopted.

    `locked` holds the lock of those who migrate. Memories of users known by a string are of no use
    to the original and stay in ltm_adopted. Before the swap only what was made for it is dropped.
    Raises MigrationFailed.
    """
    with Adoption.of(dsn, locked, report) as adoption:
        if "swapped" not in steps(adoption.session):
            adoption.give_up()
            report("what adoption had made is gone, the original tables are as they were")
            return
        if adoption.value("namespace", "ltm_adopted") is not None:
            raise MigrationFailed(
                "the schema ltm_adopted keeps the tables of an earlier adoption: drop it first"
            )
        present, keys = adoption.present(), adoption.ask("foreign_keys")
        adoption.look_from("ltm_adoption", adoption.home)
        _make_way(adoption)
        adoption.with_short_lock(
            lambda: _exchange(adoption, present, keys),
            "the original tables go back",
            before=lambda: adoption.drain(is_back=True),
        )
        for table, name, definition, _ in keys:
            if not definition.endswith(NEVER_CHECKED):
                adoption.check_foreign_key(table, name)
        report("the original tables are back; what was ours is kept in the schema ltm_adopted")


def _make_way(a: Adoption) -> None:
    """Make the functions that carry changes of the new tables to the original ones."""
    present = a.present()
    details = [t for t in present if t not in (MEMORIES, "ltm_memory_access")]
    memories = [_statement(a, CHANGED, MEMORIES)]
    for template in (GONE, CHANGED, OF_GONE, ADDED):
        memories += [_statement(a, template, table) for table in details]
    if "ltm_memory_access" in present:
        memories.append(_statement(a, OF_GONE, "ltm_memory_access"))
    memories += [_statement(a, template, MEMORIES) for template in (GONE, ADDED)]
    accesses = [
        _statement(a, template, table, key="id")
        for table in present
        if table == "ltm_memory_access"
        for template in (GONE, CHANGED, ADDED)
    ]
    for name, body in (("return_memories", memories), ("return_accesses", accesses)):
        a.run(RETURNING, name=name, body=sql.SQL("").join(body))


def _statement(a: Adoption, template: str, table: str, key: str | None = None) -> sql.Composable:
    original = ORIGINALS[table]
    found = a.columns(table)
    known = [name for name in original.columns if name in found and name != "id"]
    if "user_id" in found and "user_id" not in known:
        known.append("user_id")  # of details whose original has one too
    values = {name: f"n.{name}::{found[name]}" for name in known}
    compared = [name for name in known if name in original.columns]
    assignments = [
        f"{name} = CASE WHEN n.{name} IS DISTINCT FROM r.{name} THEN {values[name]} "
        f"ELSE o.{name} END"
        for name in compared
    ]

    def text(parts: Iterable[str]) -> sql.SQL:
        return sql.SQL(", ".join(parts))

    return sql.SQL(template).format(
        theirs=sql.Identifier("ltm_original", table),
        ours=sql.Identifier(a.home, table),
        memories=sql.Identifier(a.home, MEMORIES),
        repaired=sql.Identifier(f"repaired_{original.view}"),
        key=sql.Identifier(key or original.memory_key),
        assignments=text(assignments),
        new=text(f"n.{name}" for name in compared),
        repairs=text(f"r.{name}" for name in compared),
        columns=text(known),
        values=text(values.values()),
        # A memory may be given to another user, and nobody wrote some of the details.
        same_user=sql.SQL("" if table == MEMORIES else "AND n.user_id = r.user_id"),
        mark=sql.Literal(-1 if table == MEMORIES else a.value("mark", table)),
    )


def _exchange(a: Adoption, present: list[str], keys: list[Any]) -> None:
    a.lock(list(ORIGINALS))  # before the first query, which decides what the transaction sees
    a.release_others(keys)
    # Only queries wait for the server's answer, so that others do not wait for a far session.
    with a.session.pipeline():
        a.look_from("ltm_adoption", a.home)
        a.carry_last(is_back=True)
        a.look_from(a.home)
        for table in ORIGINALS:
            a.run("DROP TRIGGER ltm_adoption_note ON {table}", table=table)
            a.run("DROP TRIGGER IF EXISTS ltm_adoption_user ON {table}", table=table)
        a.run("CREATE SCHEMA ltm_adopted")
        a.move(a.home, "ltm_adopted")
        for table in present:
            name = sql.Identifier("ltm_original", table)
            a.run("ALTER TABLE {table} SET SCHEMA {home}", table=name, home=a.home)
            a.move_sequence(table, "ltm_original", a.home)
            a.drop_helping_indexes(table)
        a.ask("hand_back_sequences", a.home, present)
        a.add_foreign_keys([key[:3] for key in keys])
        a.run("DROP SCHEMA ltm_adoption CASCADE")
        a.run("DROP SCHEMA ltm_original")
