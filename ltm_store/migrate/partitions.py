"""The optional step partition_accesses: the log of accesses by month, and one table again.

1. An empty `ltm_memory_access_next` is made, and a trigger on the log that writes to both.
2. The rows are copied, a page at a time, while writers wait.
3. The foreign key is added, and checked without a lock that anybody waits for.
4. The new log takes the place of the old one, in one short transaction.

What ends it before leaves the log as it was; the next run starts over.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Final

import psycopg
from psycopg.errors import DeadlockDetected, LockNotAvailable

from ltm_store.migrate import runner
from ltm_store.migrate.ask import Session, ask, value
from ltm_store.migrate.bookkeeping import found_objects, note_objects
from ltm_store.migrate.runner import MigrationFailed, Report
from ltm_store.migrate.views import with_views_dropped

STEP: Final = "partition_accesses"
AHEAD: Final = 3  # months, of which partitions are made
_COPIED_AT_ONCE: Final = 5_000
_LEAST_USER: Final = -(2**63)


def partition_accesses(session: Session, report: Report, *, undo: bool) -> None:
    """Run the step, or undo it; where it is done, make partitions for the months to come."""
    by_month = value(session, "accesses_are_by_month")
    if by_month is None:
        raise MigrationFailed("the schema comes first: python -m ltm_store.migrate")
    _short(session, partial(ask, session, "drop_next_accesses"))
    if by_month is undo:
        _refuse(session, undo)
        try:
            _fill(session, report, undo)
            with_views_dropped(session, STEP, partial(_swap, session, undo), report)
        except BaseException:
            with suppress(psycopg.Error, MigrationFailed):
                _short(session, partial(ask, session, "drop_next_accesses"))
            raise
    elif not undo:
        for ahead in range(AHEAD + 1):
            _short(session, partial(ask, session, "make_partition_ahead", ahead=ahead))


def _refuse(session: Session, undo: bool) -> None:
    if hindrances := [sentence for (sentence,) in ask(session, "accesses_hindrances")]:
        raise MigrationFailed("; ".join(hindrances))
    if undo and (doubled := value(session, "doubled_accesses")):
        raise MigrationFailed(f"{doubled} numbers stand in several rows of ltm_memory_access")


def _fill(session: Session, report: Report, undo: bool) -> None:
    """Make the new log, with all rows and the foreign key."""

    def make() -> None:
        ask(session, "hold_accesses")
        ask(session, "make_next_as_one" if undo else "make_next_by_month")
        ask(session, "fill_next")

    _short(session, make)
    _copy(session)
    report("the accesses are copied")
    parts = [name for (name,) in ask(session, "next_parts")]
    for name in parts:
        _short(session, partial(ask, session, "add_access_key", table_name=name))
        _short(session, partial(ask, session, "validate_access_key", table_name=name))
    if not undo:
        _short(session, partial(ask, session, "join_access_keys"))
    ask(session, "analyze_next")


def _copy(session: Session) -> None:
    last: list[tuple[int, int]] = [(_LEAST_USER, 0)]

    def page() -> None:
        user, access = last[0]
        ask(session, "hold_accesses")
        last[:] = ask(
            session,
            "copy_accesses",
            after_user_id=user,
            after_id=access,
            row_limit=_COPIED_AT_ONCE,
        )

    while last:
        _short(session, page)


def _swap(session: Session, undo: bool) -> None:
    before = found_objects(session)
    session.execute(runner.optional_file(STEP, undo=undo).read_bytes())
    note_objects(session, STEP, before)


def _short(session: Session, work: Callable[[], object]) -> None:
    """Do some work in a transaction that waits for no lock for long, until it succeeds."""
    for attempt in range(1, runner.ATTEMPTS + 1):
        try:
            with session.transaction():
                ask(session, "begin_work", milliseconds=runner.TABLE_LOCK_MILLISECONDS)
                work()
        except (LockNotAvailable, DeadlockDetected):
            time.sleep(runner.POLL_SECONDS * attempt)
        except psycopg.Error as error:
            raise MigrationFailed(f"{STEP}: {runner.first_line(error)}") from None
        else:
            return
    raise MigrationFailed(f"{STEP}: a table was in use each of {runner.ATTEMPTS} times")
