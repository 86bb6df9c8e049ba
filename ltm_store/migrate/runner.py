"""Running migration files, one process at a time.

yoyo runs the files; what it leaves open is done here. Its tables are our own, so that another
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
from typing import Any, Final, Literal

try:
    import psycopg
    import yoyo  # noqa: F401
except ImportError:
    raise SystemExit("failed: install ltm_store[migrate], which brings yoyo and psycopg") from None
from psycopg.conninfo import conninfo_to_dict
from psycopg.errors import DeadlockDetected, LockNotAvailable
from yoyo import read_migrations
from yoyo.backends.core.postgresql import PostgresqlPsycopgBackend
from yoyo.migrations import Migration

from ltm_store.db.resources import resource_dir
from ltm_store.errors import LtmError
from ltm_store.migrate.bookkeeping import found_objects, make_tables, note_objects

Direction = Literal["apply", "rollback"]
Report = Callable[[str], None]

LOCK_KEY: Final = 0x6C746D5F73746F72  # "ltm_stor"
LOCK_WAIT: Final = 600.0  # seconds to wait for another process that migrates
POLL: Final = 0.1  # seconds
LOCK_TIMEOUT: Final = "2s"  # for a table; other programs queue behind the one that waits
ATTEMPTS: Final = 10


class MigrationFailed(LtmError):
    """A migration could not be applied or rolled back. What it had done is undone."""


def _unhurried(session: psycopg.Connection[Any]) -> psycopg.Connection[Any]:
    """A session that takes as long as it takes, whatever is set for those of an application."""
    settings = {
        "statement_timeout": "0",
        "idle_session_timeout": "0",
        "standard_conforming_strings": "on",
        "extra_float_digits": "1",
        "datestyle": "ISO",
        "jit": "off",  # compiling takes longer than what is compiled, and locks are held meanwhile
    }
    if session.info.server_version >= 170000:
        settings["transaction_timeout"] = "0"
    for name, value in settings.items():
        session.execute(f"SET {name} = {value}")
    return session


class _Backend(PostgresqlPsycopgBackend):  # type: ignore[misc]
    """yoyo's backend on tables of our own, for a DSN as libpq reads it."""

    log_table = "ltm_migration_log"
    version_table = "ltm_migration_version"
    before_commit: Callable[[], None] | None = None

    def connect(self, dburi: str) -> psycopg.Connection[Any]:
        connection = _unhurried(psycopg.connect(dburi, autocommit=True))
        connection.execute("SELECT set_config('lock_timeout', %s, false)", [LOCK_TIMEOUT])
        return connection

    @contextmanager
    def lock(self, timeout: float = 0) -> Iterator[None]:
        yield  # the advisory lock is held

    def list_tables(self, **_: object) -> list[str]:
        rows = self.execute("SELECT tablename FROM pg_tables WHERE schemaname = current_schema()")
        return [row[0] for row in rows.fetchall()]

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
def connected(dsn: str) -> Iterator[psycopg.Connection[Any]]:
    """A session in autocommit. Raises MigrationFailed, which never holds the password."""
    try:
        connection = _unhurried(psycopg.connect(dsn, autocommit=True))
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


def applied_ids(connection: psycopg.Connection[Any]) -> list[str]:
    """The ids that are applied in the first schema of the search_path, not in one behind it."""
    table = "SELECT to_regclass(format('%I.ltm_migrations', current_schema()))"
    found = connection.execute(table).fetchone()
    if found is None or found[0] is None:
        return []
    rows = connection.execute("SELECT migration_id FROM ltm_migrations ORDER BY migration_id")
    return [row[0] for row in rows.fetchall()]


@contextmanager
def migration_lock(connection: psycopg.Connection[Any], report: Report) -> Iterator[None]:
    """Hold the advisory lock; other processes that migrate this database wait outside."""
    waited_until = time.monotonic() + LOCK_WAIT
    told = False
    while True:
        row = connection.execute("SELECT pg_try_advisory_lock(%s)", [LOCK_KEY]).fetchone()
        if row and row[0]:
            break
        if time.monotonic() > waited_until:
            raise MigrationFailed("another process has been migrating this database for too long")
        if not told:
            report("waiting for another process that migrates this database")
            told = True
        time.sleep(POLL)
    try:
        yield
    finally:
        with suppress(psycopg.Error):  # a lost session has lost the lock too
            connection.execute("SELECT pg_advisory_unlock(%s)", [LOCK_KEY])


def _run_migration(
    backend: _Backend, migration: Migration, direction: Direction, report: Report
) -> None:
    for attempt in range(1, ATTEMPTS + 1):
        try:
            backend.run(migration, direction)
        except (LockNotAvailable, DeadlockDetected):
            report(f"{migration.id} waits for a table that is in use (try {attempt} of {ATTEMPTS})")
            time.sleep(POLL * attempt)
        except psycopg.Error as error:
            raise MigrationFailed(f"{migration.id}: {first_line(error)}") from None
        else:
            return
    raise MigrationFailed(f"{migration.id}: a table was in use each of {ATTEMPTS} times")


def run_migrations(
    dsn: str,
    connection: psycopg.Connection[Any],
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
        connection.execute("SELECT 1")  # without this session the lock is gone
        with _Backend(dsn, "ltm_migrations") as backend:
            backend.ensure_internal_schema_updated()
            make_tables(backend.connection)
            _run_migration(backend, files[name], direction, report)
        seconds = time.monotonic() - started
        report(f"[{number}/{len(names)}] {direction} {name} ({seconds:.2f} s)")


def run_optional(connection: psycopg.Connection[Any], name: str, *, undo: bool) -> None:
    """Run an optional step, or what undoes it, in one transaction. Raises MigrationFailed."""
    file = resource_dir("migrations") / "optional" / f"{name}{'.undo' if undo else ''}.sql"
    connection.execute("SELECT set_config('lock_timeout', %s, false)", [LOCK_TIMEOUT])
    for attempt in range(1, ATTEMPTS + 1):
        try:
            with connection.transaction():
                connection.execute(file.read_text(encoding="utf-8"))
        except (LockNotAvailable, DeadlockDetected):
            time.sleep(POLL * attempt)
        except psycopg.Error as error:
            raise MigrationFailed(f"{name}: {first_line(error)}") from None
        else:
            return
    raise MigrationFailed(f"{name}: a table was in use each of {ATTEMPTS} times")
