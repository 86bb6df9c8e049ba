"""Adopting the tables of the original application, while it goes on reading and writing them.

`migrate.apply` comes here when it meets them. The ordinary migrations are applied in a schema of
their own; triggers on the original tables note what changes; the rows are copied in batches and
what was noted is copied again; one short transaction puts the new tables in the place of the
original ones, which stay in the schema ltm_original until finish_adoption. Every step is noted in
the schema ltm_adoption when it is done, so that the next run goes on where a killed one stopped.
Up to finish_adoption `go_back` puts the original tables back, with what was written since.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from psycopg import IntegrityError
from psycopg.errors import DiskFull

from ltm_store.migrate.adoption.copying import (
    build_indexes,
    compare,
    copy_rows,
    index_originals,
    watch_originals,
)
from ltm_store.migrate.adoption.new_tables import defer_indexes, make_tables, show_originals
from ltm_store.migrate.adoption.objects import carry_objects, leave_out
from ltm_store.migrate.adoption.session import Adoption, ForeignKey, steps
from ltm_store.migrate.adoption.survey import replicated, survey
from ltm_store.migrate.adoption.tables import MEMORIES, ORIGINALS, RANKS
from ltm_store.migrate.ask import Session, ask
from ltm_store.migrate.runner import MigrationFailed, Report, first_line

_WITHOUT_ROOM: Final = (
    "make room and go on with the same command, or give back what adoption takes: rollback --all"
)


def adopt(dsn: str, locked: Session, report: Report) -> None:
    """Make ours of the original's tables. `locked` holds the lock of those who migrate.

    Raises MigrationFailed: before anything has changed when the tables are not the original's or
    something else depends on them, afterwards with all that was done kept for the next run.
    """
    with Adoption.of(dsn, locked, report) as adoption:
        done = steps(adoption.session)
        for step, work in STEPS.items():
            if step not in done:
                ask(locked, "ping")  # without this session the lock is gone
                if step not in ("survey", "validate"):  # others may have begun to replicate
                    _refuse_replication(adoption)
                try:
                    _work(adoption, work)
                except DiskFull as error:
                    raise MigrationFailed(f"{first_line(error)}: {_WITHOUT_ROOM}") from None


def _work(a: Adoption, work: Callable[[Adoption], None]) -> None:
    """Take a step, again where an object of the operator's was in its way."""
    try:
        work(a)
    except IntegrityError as error:
        if not leave_out(a, error):
            raise
        _work(a, work)


def _refuse_replication(a: Adoption) -> None:
    if problems := list(replicated(a)):
        raise MigrationFailed(f"the adoption cannot go on: {'; '.join(problems)}")


def _swap(a: Adoption) -> None:
    a.look_from("ltm_adoption", "ltm_next")
    present = a.present()

    def work() -> None:
        a.look_from(a.home)  # so that definitions name only schemas of others
        a.lock(present)  # before the first query, which decides what the transaction sees
        found = a.ask("note_foreign_keys", home=a.home, tables=present)
        keys = [ForeignKey(*row) for row in found]
        a.release_others(keys)
        # Only queries wait for the server's answer, so that others do not wait for a far session.
        with a.session.pipeline():
            a.look_from("ltm_adoption", "ltm_next")
            a.carry_last(is_back=False)
            _exchange(a, present, keys)
            a.done("swap")

    a.with_short_lock(work, "the swap", before=lambda: a.drain(is_back=False))
    a.report("the new tables are in place")


def _exchange(a: Adoption, present: list[str], keys: list[ForeignKey]) -> None:
    a.look_from(a.home)
    a.ask("create_schema", schema="ltm_original")
    for key in keys:
        if not key.is_outward:
            a.ask("drop_constraint", table_name=key.table, constraint_name=key.name)
    a.stop_watching(present)
    for table in present:
        a.move_original(table, a.home, "ltm_original")
    a.ask("move_statistics", source=a.home, target="ltm_original")
    a.ask("note_others", home=a.home)
    a.move("ltm_next", a.home)
    a.ask("drop_schema", schema="ltm_next")
    a.execute(command for command, _ in a.ask("rights", home=a.home))
    a.execute(command for _, _, is_index, command, *_ in a.ask("deferred") if not is_index)
    a.execute(key.add_command for key in keys if key.is_outward)
    a.ask("take_over_sequences", home=a.home)
    for table, original in ORIGINALS.items():
        if table != MEMORIES:
            a.ask("give_user_to", table_name=table, memory_key=original.memory_key)
    a.watch(ORIGINALS)


def _validate(a: Adoption) -> None:
    a.look_from(a.home)
    keys = [ForeignKey(*row) for row in a.ask("foreign_keys")]
    theirs = {(key.table, key.name) for key in keys if key.is_outward}
    for table, name in a.ask("unchecked_keys", home=a.home, tables=[*ORIGINALS, RANKS]):
        a.check_foreign_key(table, name, is_theirs=(table, name) in theirs)
    ((memories, repairs, objects),) = a.ask("summary")
    seconds = time.monotonic() - a.started
    a.done("validate")
    if objects:
        a.report(
            f"{objects:,} objects of yours were not carried over: their commands are in "
            "ltm_adoption_report (ltm-store adoption-report --script)"
        )
    a.report(
        f"adopted {memories:,} memories in {seconds:.0f} s, {repairs:,} repairs are in "
        "ltm_adoption_report; the original tables are kept in the schema ltm_original"
    )


STEPS: Final[dict[str, Callable[[Adoption], None]]] = {
    "survey": survey,
    "make_tables": make_tables,
    "defer_indexes": defer_indexes,
    "show_originals": show_originals,
    "index_originals": index_originals,
    "watch_originals": watch_originals,
    "copy_rows": copy_rows,
    "build_indexes": build_indexes,
    "carry_objects": carry_objects,
    "compare": compare,
    "swap": _swap,
    "validate": _validate,
}
