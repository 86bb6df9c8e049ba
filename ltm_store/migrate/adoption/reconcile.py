"""Completing what the original application writes on one side only, after an adoption."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Final

from psycopg.errors import DeadlockDetected, ForeignKeyViolation, LockNotAvailable

from ltm_store.migrate.adoption.progress import Bar
from ltm_store.migrate.adoption.session import BATCH_ROWS, CHANGES_LEFT_BEFORE_LOCK, steps
from ltm_store.migrate.adoption.tables import MEMORIES, ORIGINALS, RANKS
from ltm_store.migrate.ask import Session, ask, value
from ltm_store.migrate.runner import (
    ATTEMPTS,
    POLL_SECONDS,
    TABLE_LOCK_MILLISECONDS,
    MigrationFailed,
    Report,
)

PASSES: Final = 30  # over what is written meanwhile


def reconcile_mirrors(session: Session, report: Report) -> None:
    """Complete detail rows from the memories' own columns, and the columns from the rows.

    The original application writes some of them on one side only; what either side has is kept.
    Ranks that a disabled trigger left behind are mended. Memories that were changed in the last
    ten minutes are left alone: the application may be about to write their details itself. Raises
    MigrationFailed unless an adoption has come to its end and is not finished.
    """
    home = _home(session)
    ask(session, "set_search_path", schemas=["ltm_adoption", home])
    for ids in _batches(session, everything=False):
        _patiently(session, "complete", ids)
    ask(session, "set_search_path", schemas=[home])
    report("details and memories are in step")


def settle(session: Session, report: Report) -> None:
    """Bring all memories in step for good, before finish_adoption.

    What leads to no memory, and rows that no column can say, are dropped and reported. What is
    written meanwhile is looked at again; finish_adoption does the rest while nobody writes.
    Raises MigrationFailed, also where more is written than can be followed.
    """
    home = _home(session)
    ask(session, "set_search_path", schemas=["ltm_adoption", home])
    ask(session, "begin_settling")
    last = value(session, "last_change")
    memories = value(session, "count_rows", view_name=(home, MEMORIES))
    bar = Bar(report, "bringing memories in step", memories)
    for ids in _batches(session, everything=True):
        _patiently(session, "settle", ids)
        bar.move(len(ids))
    for _ in range(PASSES + _notes(session, last) // BATCH_ROWS):
        ((ids, notes, end),) = ask(
            session, "changed_memories", after_change=last, row_limit=BATCH_ROWS
        )
        if notes <= CHANGES_LEFT_BEFORE_LOCK:
            break
        _patiently(session, "settle", ids)
        last = end
    else:
        raise MigrationFailed("too much is written meanwhile: stop the original application first")
    ask(session, "set_progress", kind="settled", last_id=last)
    for table in (*ORIGINALS, RANKS):
        ask(session, "vacuum_analyze", table_name=(home, table))
    ask(session, "set_search_path", schemas=[home])
    report("details and memories are in step")


def _home(session: Session) -> str:
    if "validate" not in steps(session):
        raise MigrationFailed("no adoption has come to its end here and waits to be finished")
    return steps(session)["validate"]


def _notes(session: Session, last: int) -> int:
    return int(value(session, "last_change")) - last


def _batches(session: Session, *, everything: bool) -> Iterator[list[int]]:
    last = -1
    while ids := value(
        session, "next_memories", after_id=last, row_limit=BATCH_ROWS, everything=everything
    ):
        yield ids
        last = ids[-1]


def _patiently(session: Session, statement: str, ids: list[int]) -> None:
    """Work on some memories, again where a program that writes them came in between."""
    ask(session, "set_lock_timeout", milliseconds=TABLE_LOCK_MILLISECONDS)
    for attempt in range(1, ATTEMPTS + 1):
        try:
            ask(session, statement, memory_ids=ids)
        except (DeadlockDetected, LockNotAvailable, ForeignKeyViolation) as error:
            violated = error.diag if isinstance(error, ForeignKeyViolation) else None
            time.sleep(POLL_SECONDS * attempt)
        else:
            return
    if violated is not None:
        raise MigrationFailed(
            f"the foreign key {violated.constraint_name} does not hold for rows of "
            f"{violated.table_name}: mend or delete them, or drop it"
        )
    raise MigrationFailed(
        f"memories were in use each of {ATTEMPTS} times: stop the original application first"
    )
