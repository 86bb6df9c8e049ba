"""The views are code: made again from sql/views/*.sql when their text has changed.

A table notes the hash of the text that made each view. CREATE OR REPLACE keeps what depends on a
view, and so comes first. Where the columns differ the view is dropped and made again, together with
those of ours that read it and with the rights that others had. What is not ours is never dropped:
the server refuses, and the error names it.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable
from graphlib import TopologicalSorter
from hashlib import sha256
from typing import Final, NamedTuple

import psycopg
from psycopg.errors import (
    DeadlockDetected,
    DependentObjectsStillExist,
    InvalidTableDefinition,
    LockNotAvailable,
    UndefinedColumn,
    UndefinedFunction,
    UndefinedTable,
)

from ltm_store.db.resources import resource_dir
from ltm_store.db.statements import with_shared
from ltm_store.migrate import runner
from ltm_store.migrate.ask import Session, ask
from ltm_store.migrate.bookkeeping import make_tables
from ltm_store.migrate.runner import MigrationFailed, Report, first_line

_COMMENT_OR_STRING: Final = re.compile(r"--.*|'(?:[^']|'')*'")
_LACKING: Final = (UndefinedTable, UndefinedColumn, UndefinedFunction)


class View(NamedTuple):
    """A view as its file tells it."""

    name: str
    text: str
    hash: str


class Right(NamedTuple):
    """What somebody may do with a view, as the command that grants it."""

    view: str
    command: str


def views() -> list[View]:
    """The views of this version, each after those that it reads."""
    files = sorted((resource_dir("sql") / "views").glob("*.sql"))
    texts = {file.stem: with_shared(file.read_text(encoding="utf-8")) for file in files}
    reads = {name: sorted(_words(text) & texts.keys() - {name}) for name, text in texts.items()}
    return [
        View(name, texts[name], sha256(texts[name].encode()).hexdigest())
        for name in TopologicalSorter(reads).static_order()
    ]


def _words(text: str) -> set[str]:
    return set(re.findall(r"\w+", _COMMENT_OR_STRING.sub("", text)))


def stale_views(session: Session) -> list[str]:
    """The names of the views that are not in the database as the files say, in order.

    Empty where nothing was ever migrated.
    """
    if not ask(session, "views_are_noted")[0][0]:
        return []
    noted = _noted(session)
    hashes = {view.name: view.hash for view in views()}
    return sorted(n for n in noted.keys() | hashes.keys() if noted.get(n) != hashes.get(n, ""))


def apply_views(
    session: Session, report: Report, rights: Iterable[Right] = (), *, partly: bool = False
) -> None:
    """Make the views that are stale and drop those without a file, in one transaction.

    `rights` are granted again on what is made. With `partly`, as after a rollback, the views are
    left out whose tables, columns or functions are not there. Raises MigrationFailed, also where
    something that is not ours depends on a view that must be dropped.
    """
    make_tables(session)
    if not stale_views(session):
        return
    made: list[str] = []

    def work() -> None:
        made[:] = _make_stale(session, rights, partly=partly)

    _in_short_transaction(session, work, report)
    if made:
        report(f"views made: {', '.join(made)}")


def drop_views(session: Session, report: Report) -> list[Right]:
    """Drop every view, so that what it reads can be changed, and return the rights on them.

    Raises MigrationFailed where something that is not ours depends on one.
    """
    make_tables(session)
    rights: list[Right] = []

    def work() -> None:
        rights[:] = _drop(session, list(_noted(session)))

    _in_short_transaction(session, work, report)
    return rights


def with_views_dropped(
    session: Session, step: str, work: Callable[[], object], report: Report
) -> None:
    """Do the work of a step in one transaction, in which the views are dropped and made again.

    Raises MigrationFailed, also where something that is not ours depends on one, or on what is
    dropped.
    """
    make_tables(session)

    def around() -> None:
        rights = _drop(session, list(_noted(session)))
        work()
        _make_stale(session, rights, partly=False)

    _in_short_transaction(session, around, report, step)


def drop_own_views(session: Session) -> None:
    """Drop those of the step `row_level_security`, which have every column of a table."""
    if names := [name for (name,) in ask(session, "own_views")]:
        ((command,),) = ask(session, "dropping", names=names)
        session.execute(command.encode())


def _noted(session: Session) -> dict[str, str | None]:
    """The noted views with their hashes, None for one that somebody has dropped."""
    return dict(ask(session, "noted_views"))


def _make_stale(session: Session, rights: Iterable[Right], *, partly: bool) -> list[str]:
    granted = list(rights)
    made = []
    for view in views():
        if _noted(session).get(view.name) == view.hash:
            continue
        try:
            with session.transaction():
                granted += _make(session, view)
        except psycopg.ProgrammingError as error:
            if not (partly and isinstance(error, _LACKING)):
                raise MigrationFailed(f"the view {view.name}: {first_line(error)}") from None
        else:
            made.append(view.name)
    _drop(session, sorted(_noted(session).keys() - {view.name for view in views()}))
    for right in granted:
        if right.view in made:
            session.execute(right.command.encode())
    return made


def _make(session: Session, view: View) -> list[Right]:
    """Make a view; return the rights on those that were dropped for it."""
    rights = []
    try:
        with session.transaction():
            session.execute(view.text.encode())
    except InvalidTableDefinition:  # other columns
        readers = [name for (name,) in ask(session, "readers", view_name=view.name)]
        rights = _drop(session, readers)
        session.execute(view.text.encode())
    ask(session, "note_view", view_name=view.name, hash=view.hash)
    return rights


def _drop(session: Session, names: list[str]) -> list[Right]:
    rights = [Right(*row) for row in ask(session, "view_rights", names=names)]
    if names:
        ((command,),) = ask(session, "dropping", names=names)
        session.execute(command.encode())
        ask(session, "forget_views", names=names)
    return rights


def _in_short_transaction(
    session: Session, work: Callable[[], None], report: Report, what: str = "views"
) -> None:
    """Do some work in a transaction that waits for no lock for long, until it succeeds."""
    for attempt in range(1, runner.ATTEMPTS + 1):
        try:
            with session.transaction():
                ask(session, "begin_work", milliseconds=runner.TABLE_LOCK_MILLISECONDS)
                work()
        except (LockNotAvailable, DeadlockDetected):
            report(f"{what}: in use (try {attempt} of {runner.ATTEMPTS})")
            time.sleep(runner.POLL_SECONDS * attempt)
        except DependentObjectsStillExist as error:
            others = "; ".join((error.diag.message_detail or first_line(error)).splitlines())
            raise MigrationFailed(
                f"a view must be dropped that is still read: {others}. Drop what reads it, "
                "and make it again afterwards"
            ) from None
        except psycopg.Error as error:
            raise MigrationFailed(f"{what}: {first_line(error)}") from None
        else:
            return
    raise MigrationFailed(f"{what}: in use each of {runner.ATTEMPTS} times")
