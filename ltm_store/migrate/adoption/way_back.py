"""The way back from an adoption: the original tables, with what was written since."""

from __future__ import annotations

from ltm_store.migrate.adoption.session import Adoption, ForeignKey, steps
from ltm_store.migrate.adoption.tables import ORIGINALS
from ltm_store.migrate.ask import Session
from ltm_store.migrate.runner import MigrationFailed, Report


def go_back(dsn: str, locked: Session, report: Report) -> None:
    """Put the original tables back, with what was written since; ours go to ltm_adopted.

    `locked` holds the lock of those who migrate. Memories of users known by a string are of no use
    to the original and stay in ltm_adopted. Before the swap only what was made for it is dropped.
    Raises MigrationFailed.
    """
    with Adoption.of(dsn, locked, report) as adoption:
        if "swap" not in steps(adoption.session):
            adoption.give_up()
            report("what adoption had made is gone, the original tables are as they were")
            return
        if adoption.value("namespace", name="ltm_adopted") is not None:
            raise MigrationFailed(
                "the schema ltm_adopted keeps the tables of an earlier adoption: drop it first"
            )
        present = adoption.present()
        keys = [ForeignKey(*row) for row in adoption.ask("foreign_keys")]
        adoption.look_from("ltm_adoption", adoption.home)
        adoption.script("way_back")
        adoption.ask("make_way_back", home=adoption.home, tables=present)
        adoption.with_short_lock(
            lambda: _exchange(adoption, present, keys),
            "the original tables go back",
            before=lambda: adoption.drain(is_back=True),
        )
        for key in keys:
            if key.is_checked:
                adoption.check_foreign_key(key.table, key.name, is_theirs=True)
        adoption.look_from(adoption.home)
        for what, help_ in adoption.ask("dependents", home="ltm_adopted", tables=list(ORIGINALS)):
            report(f"{what} as it stands in the schema ltm_adopted: {help_}")
        report("the original tables are back; what was ours is kept in the schema ltm_adopted")


def _exchange(a: Adoption, present: list[str], keys: list[ForeignKey]) -> None:
    a.lock(list(ORIGINALS))  # before the first query, which decides what the transaction sees
    a.release_others(keys)
    # Only queries wait for the server's answer, so that others do not wait for a far session.
    with a.session.pipeline():
        a.look_from("ltm_adoption", a.home)
        a.carry_last(is_back=True)
        a.look_from(a.home)
        a.stop_watching(ORIGINALS)
        for table in ORIGINALS:
            a.ask("drop_user_trigger", table_name=table)
        a.ask("create_schema", schema="ltm_adopted")
        a.move(a.home, "ltm_adopted")
        for table in present:
            a.move_original(table, "ltm_original", a.home)
            a.drop_helping_indexes(table)
        a.ask("move_statistics", source="ltm_original", target=a.home)
        a.ask("hand_back_sequences", home=a.home, tables=present)
        a.execute(key.add_command for key in keys)
        a.ask("drop_schema_with_content", schema="ltm_adoption")
        a.ask("drop_schema", schema="ltm_original")
