"""Running migration files, one process at a time.

yoyo runs the files. Its tables are our own, so that another
library's migrations in the same schema are never taken for ours. An advisory lock, polled (a
session that waits inside PostgreSQL would hold up CREATE INDEX CONCURRENTLY), lets one process at
a time through. A migration and the note that it is applied commit together. A lock that is not
free in time is asked for again.
"""

from __future__ import annotations

import socket
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Literal

import psycopg
from psycopg.conninfo import conninfo_to_dict
from psycopg.errors import DeadlockDetected, LockNotAvailable
from yoyo import read_migrations
from yoyo.backends.core.postgresql import PostgresqlPsycopgBackend
from yoyo.migrations import Migration

from ltm_store.db.resources import resource_dir
from ltm_store.db.statements import with_shared
from ltm_store.errors import LtmError
from ltm_store.migrate.ask import Session, ask, value
from ltm_store.migrate.bookkeeping import found_objects, make_tables, note_objects

Direction = Literal["apply", "rollback"]
Report = Callable[[str], None]

LOCK_KEY: Final = 0x6C746D5F73746F72  # "ltm_stor"
LOCK_WAIT_SECONDS: Final = 600.0  # for another process that migrates
POLL_SECONDS: Final = 0.1
TABLE_LOCK_MILLISECONDS: Final = 2_000  # other programs queue behind the one that waits
ATTEMPTS: Final = 10


class MigrationFailed(LtmError):
    """A migration could not be applied or rolled back. What it had done is undone."""


def _without_time_limits(session: Session) -> Session:
    """A session without the time limits that are set for those of an application."""
    ask(session, "disable_statement_timeout")
    ask(session, "set_session")
    return session


class _Backend(PostgresqlPsycopgBackend):  # type: ignore[misc]
    """yoyo's backend on tables of our own, for a DSN as libpq reads it."""

    log_table = "ltm_migration_log"
    version_table = "ltm_migration_version"
    before_commit: Callable[[], None] | None = None

    def connect(self, dburi: str) -> Session:
        connection = _without_time_limits(psycopg.connect(dburi, autocommit=True))
        ask(connection, "set_lock_timeout", milliseconds=TABLE_LOCK_MILLISECONDS)
        return connection

    @contextmanager
    def lock(self, timeout: float = 0) -> Iterator[None]:
        yield  # the advisory lock is held

    def list_tables(self, **_: object) -> list[str]:
        return [name for (name,) in ask(self.connection, "tables")]

    def commit(self) -> None:
        if self.before_commit is not None:
            self.before_commit()
            self.before_commit = None
        super().commit()

    def get_log_data(
        self, migration: Migration | None = None, operation: str = ""
    ) -> dict[str, Any]:
        return {
            "id": str(uuid.uuid4()),
            "migration_id": migration and migration.id,
            "migration_hash": migration and migration.hash,
            "username": self.connection.info.user,
            "hostname": socket.gethostname(),
            "created_at_utc": datetime.now(UTC).replace(tzinfo=None),
            "operation": operation,
        }

    def run(self, migration: Migration, direction: Direction) -> None:
        """Apply or roll back one migration and note it, in one transaction if it has one."""

        def note() -> None:
            (backend.mark_one if direction == "apply" else backend.unmark_one)(migration, log=False)
            backend.log_migration(migration, direction)
            note_objects(backend.connection, migration.id, before)

        migration.load()
        with self.copy() as backend:
            before = found_objects(backend.connection)
            if migration.use_transactions:
                backend.before_commit = note
            migration.process_steps(backend, direction)
            if not migration.use_transactions:
                note()


def first_line(error: psycopg.Error) -> str:
    """What the server says, without the DETAIL that carries a row."""
    return str(error).strip().partition("\n")[0] or type(error).__name__


@contextmanager
def connected(dsn: str) -> Iterator[Session]:
    """A session in autocommit. Raises MigrationFailed, which never holds the password."""
    try:
        connection = _without_time_limits(psycopg.connect(dsn, autocommit=True))
    except psycopg.ProgrammingError:  # its text holds the DSN, and so the password
        raise MigrationFailed("this is not a DSN that libpq can read") from None
    except psycopg.Error as error:
        raise MigrationFailed(" ".join(str(error).split())) from None
    with closing(connection):
        try:
            yield connection
        except psycopg.Error as error:
            raise MigrationFailed(first_line(error)) from None


def place(dsn: str) -> str:
    """Which database a DSN leads to, without the password."""
    parts = conninfo_to_dict(dsn)
    return f"{parts.get('dbname') or 'the default database'} at {parts.get('host') or 'localhost'}"


def applied_ids(connection: Session) -> list[str]:
    """The ids that are applied in the first schema of the search_path, not in one behind it."""
    if not value(connection, "has_migrations"):
        return []
    return [name for (name,) in ask(connection, "applied_ids")]


def stored_memories(connection: Session) -> int:
    """How many memories are stored, of all users."""
    return int(value(connection, "stored_memories"))


@contextmanager
def migration_lock(connection: Session, report: Report) -> Iterator[None]:
    """Hold the advisory lock; other processes that migrate this database wait outside."""
    waited_until = time.monotonic() + LOCK_WAIT_SECONDS
    told = False
    while not value(connection, "try_lock", key=LOCK_KEY):
        if time.monotonic() > waited_until:
            raise MigrationFailed("another process has been migrating this database for too long")
        if not told:
            report("waiting for another process that migrates this database")
            told = True
        time.sleep(POLL_SECONDS)
    try:
        yield
    finally:
        with suppress(psycopg.Error):  # a lost session has lost the lock too
            ask(connection, "unlock", key=LOCK_KEY)


def _run_migration(
    backend: _Backend, migration: Migration, direction: Direction, report: Report
) -> None:
    for attempt in range(1, ATTEMPTS + 1):
        try:
            backend.run(migration, direction)
        except (LockNotAvailable, DeadlockDetected):
            report(f"{migration.id} waits for a table that is in use (try {attempt} of {ATTEMPTS})")
            time.sleep(POLL_SECONDS * attempt)
        except psycopg.Error as error:
            raise MigrationFailed(f"{migration.id}: {first_line(error)}") from None
        else:
            return
    raise MigrationFailed(f"{migration.id}: a table was in use each of {ATTEMPTS} times")


def run_migrations(
    dsn: str,
    connection: Session,
    names: list[str],
    direction: Direction,
    report: Report,
) -> None:
    """Apply or roll back these migrations in this order, while `connection` holds the lock."""
    files = {m.id: m for m in read_migrations(str(resource_dir("migrations")))}
    if unknown := [name for name in names if name not in files]:
        raise MigrationFailed(f"{unknown[0]} belongs to a newer version of ltm_store")
    for number, name in enumerate(names, 1):
        started = time.monotonic()
        ask(connection, "ping")  # without this session the lock is gone
        with _Backend(dsn, "ltm_migrations") as backend:
            backend.ensure_internal_schema_updated()
            make_tables(backend.connection)
            _run_migration(backend, files[name], direction, report)
        seconds = time.monotonic() - started
        report(f"[{number}/{len(names)}] {direction} {name} ({seconds:.2f} s)")


def optional_file(name: str, *, undo: bool) -> Path:
    """The text of an optional step, or of what undoes it."""
    return resource_dir("migrations") / "optional" / f"{name}{'.undo' if undo else ''}.sql"


def run_optional(
    connection: Session, name: str, *, undo: bool, report: Report = lambda line: None
) -> None:
    """Run an optional step, or what undoes it, in one transaction; report what it warns of.

    Raises MigrationFailed.
    """
    file = optional_file(name, undo=undo)
    text = with_shared(file.read_text(encoding="utf-8")).encode()
    warnings: list[str] = []

    def warned(told: psycopg.errors.Diagnostic) -> None:
        if told.severity_nonlocalized == "WARNING":
            warnings.append(told.message_primary or "")

    connection.add_notice_handler(warned)
    ask(connection, "set_lock_timeout", milliseconds=TABLE_LOCK_MILLISECONDS)
    for attempt in range(1, ATTEMPTS + 1):
        warnings.clear()
        try:
            with connection.transaction():
                before = found_objects(connection)
                connection.execute(text)
                note_objects(connection, name, before)
        except (LockNotAvailable, DeadlockDetected):
            time.sleep(POLL_SECONDS * attempt)
        except psycopg.Error as error:
            raise MigrationFailed(f"{name}: {first_line(error)}") from None
        else:
            for warning in warnings:
                report(warning)
            return
    raise MigrationFailed(f"{name}: a table was in use each of {ATTEMPTS} times")
