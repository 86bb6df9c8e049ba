"""Applying the schema's migrations: `python -m ltm_store.migrate`.

yoyo runs the files; what it leaves open is done here. Its tables are our own, so that another
library's migrations in the same schema are never taken for ours. An advisory lock, polled (a
session that waits inside PostgreSQL would hold up CREATE INDEX CONCURRENTLY), lets one process at
a time through. A migration and the note that it is applied commit together. A lock that is not
free in time is asked for again.
"""

from __future__ import annotations

import argparse
import socket
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from datetime import UTC, datetime
from typing import Any, Final, Literal, NamedTuple

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

from ltm_store import dsn as dsns
from ltm_store import embedded
from ltm_store.errors import LtmError
from ltm_store.resources import migration_ids, resource_dir

Direction = Literal["apply", "rollback"]
Report = Callable[[str], None]

LOCK_KEY: Final = 0x6C746D5F73746F72  # "ltm_stor"
LOCK_WAIT: Final = 600.0  # seconds to wait for another process that migrates
POLL: Final = 0.1  # seconds
LOCK_TIMEOUT: Final = "2s"  # for a table; other programs queue behind the one that waits
ATTEMPTS: Final = 10


class MigrationFailed(LtmError):
    """A migration could not be applied or rolled back. What it had done is undone."""


class Status(NamedTuple):
    """The ids of what is applied and of what is not, each in the order of application."""

    applied: list[str]
    pending: list[str]


class _Backend(PostgresqlPsycopgBackend):  # type: ignore[misc]
    """yoyo's backend on tables of our own, for a DSN as libpq reads it."""

    log_table = "ltm_migration_log"
    version_table = "ltm_migration_version"
    before_commit: Callable[[], None] | None = None

    def connect(self, dburi: str) -> psycopg.Connection[Any]:
        connection = psycopg.connect(dburi, autocommit=True)
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

    def take(self, migration: Migration, direction: Direction) -> None:
        """Apply or roll back one migration and note it, in one transaction if it has one."""

        def note() -> None:
            (backend.mark_one if direction == "apply" else backend.unmark_one)(migration, log=False)
            backend.log_migration(migration, direction)

        migration.load()
        with self.copy() as backend:
            if migration.use_transactions:
                backend.before_commit = note
            migration.process_steps(backend, direction)
            if not migration.use_transactions:
                note()


def _first_line(error: psycopg.Error) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__


@contextmanager
def _connected(dsn: str) -> Iterator[psycopg.Connection[Any]]:
    try:
        connection = psycopg.connect(dsn, autocommit=True)
    except psycopg.ProgrammingError:  # its text holds the DSN, and so the password
        raise MigrationFailed("this is not a DSN that libpq can read") from None
    except psycopg.Error as error:
        raise MigrationFailed(" ".join(str(error).split())) from None
    with closing(connection):
        yield connection


def _applied(connection: psycopg.Connection[Any]) -> list[str]:
    """The ids that are applied in the first schema of the search_path, not in one behind it."""
    table = "SELECT to_regclass(format('%I.ltm_migrations', current_schema()))"
    found = connection.execute(table).fetchone()
    if found is None or found[0] is None:
        return []
    rows = connection.execute("SELECT migration_id FROM ltm_migrations ORDER BY migration_id")
    return [row[0] for row in rows.fetchall()]


@contextmanager
def _alone(connection: psycopg.Connection[Any], report: Report) -> Iterator[None]:
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


def _take(backend: _Backend, migration: Migration, direction: Direction, report: Report) -> None:
    for attempt in range(1, ATTEMPTS + 1):
        try:
            backend.take(migration, direction)
        except (LockNotAvailable, DeadlockDetected):
            report(f"{migration.id} waits for a table that is in use (try {attempt} of {ATTEMPTS})")
            time.sleep(POLL * attempt)
        except psycopg.Error as error:
            raise MigrationFailed(f"{migration.id}: {_first_line(error)}") from None
        else:
            return
    raise MigrationFailed(f"{migration.id}: a table was in use each of {ATTEMPTS} times")


def _run(
    dsn: str, choose: Callable[[list[str]], list[str]], direction: Direction, report: Report
) -> list[str]:
    """Take the migrations that are chosen from the applied ones, in the order chosen."""
    files = {m.id: m for m in read_migrations(str(resource_dir("migrations")))}
    try:
        with _connected(dsn) as connection, _alone(connection, report):
            chosen = choose(_applied(connection))
            if unknown := [name for name in chosen if name not in files]:
                raise MigrationFailed(f"{unknown[0]} belongs to a newer version of ltm_store")
            for number, name in enumerate(chosen, 1):
                started = time.monotonic()
                connection.execute("SELECT 1")  # without this session the lock is gone
                with _Backend(dsn, "ltm_migrations") as backend:
                    backend.ensure_internal_schema_updated()
                    _take(backend, files[name], direction, report)
                seconds = time.monotonic() - started
                report(f"[{number}/{len(chosen)}] {direction} {name} ({seconds:.2f} s)")
    except psycopg.Error as error:
        raise MigrationFailed(_first_line(error)) from None
    return chosen


def apply(dsn: str, report: Report = lambda line: None) -> list[str]:
    """Apply every pending migration and return their ids; safe to run in several processes at once.

    `report` gets a line after each. Raises MigrationFailed.
    """

    def pending(applied: list[str]) -> list[str]:
        return [name for name in migration_ids() if name not in applied]

    return _run(dsn, pending, "apply", report)


def rollback(
    dsn: str, *, to: str | None = None, everything: bool = False, report: Report = lambda line: None
) -> list[str]:
    """Roll back the last migration, those after the id `to`, or everything; return their ids.

    Raises MigrationFailed, also when `to` is not applied.
    """

    def chosen(applied: list[str]) -> list[str]:
        if to is not None and to not in applied:
            raise MigrationFailed(f"{to} is not applied")
        last = [name for name in applied if to is None or name > to][::-1]
        return last if everything or to is not None else last[:1]

    return _run(dsn, chosen, "rollback", report)


def status(dsn: str) -> Status:
    """What is applied and what is pending. Reads only. Raises MigrationFailed."""
    with _connected(dsn) as connection:
        applied = _applied(connection)
    return Status(applied, [name for name in migration_ids() if name not in applied])


def _place(dsn: str) -> str:
    """Which database a DSN leads to, without the password."""
    parts = conninfo_to_dict(dsn)
    return f"{parts.get('dbname') or 'the default database'} at {parts.get('host') or 'localhost'}"


def _say(line: str) -> None:
    print(line, flush=True)


def main(argv: Sequence[str] | None = None) -> int:
    """The command line: 0 is well, 1 failed or pending, 2 wrong usage."""
    parser = argparse.ArgumentParser(
        prog="python -m ltm_store.migrate", description="Apply the schema of ltm_store."
    )
    parser.add_argument("--dsn", help="the database; else DATABASE_URL, else LTM_DATABASE_URL")
    parser.set_defaults(command="apply")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    for name, meaning in (
        ("apply", "apply what is pending (the default)"),
        ("rollback", "roll back the last migration, dropping its tables with their rows"),
        ("status", "tell what is applied and what is pending"),
    ):
        command = commands.add_parser(name, help=meaning)
        command.add_argument("--dsn", default=argparse.SUPPRESS)
        if name == "rollback":
            reach = command.add_mutually_exclusive_group()
            reach.add_argument("--to", metavar="ID", help="roll back what came after this one")
            reach.add_argument("--all", action="store_true", help="roll back everything")
    arguments = parser.parse_args(argv)
    try:
        dsn = (
            dsns.normalise(arguments.dsn)
            if arguments.dsn
            else dsns.from_environment("DATABASE_URL", "LTM_DATABASE_URL") or embedded.start()
        )
        match arguments.command:
            case "rollback":
                done = rollback(dsn, to=arguments.to, everything=arguments.all, report=_say)
                _say(f"{len(done)} rolled back" if done else "nothing to roll back")
            case "status":
                applied, pending = status(dsn)
                for name in applied:
                    _say(f"applied  {name}")
                for name in pending:
                    _say(f"pending  {name}")
                return 1 if pending else 0
            case _:
                done = apply(dsn, report=_say)
                what = f"{len(done)} applied" if done else "nothing to apply, the schema is current"
                _say(f"{what} ({_place(dsn)})")
    except (LtmError, psycopg.Error) as error:
        message = _first_line(error) if isinstance(error, psycopg.Error) else str(error)
        print(f"failed: {message}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
