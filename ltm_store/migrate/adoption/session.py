"""The session in which tables are adopted: its search path, its short locks, its notes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Final, NamedTuple

from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.errors import (
    DeadlockDetected,
    ExclusionViolation,
    ForeignKeyViolation,
    LockNotAvailable,
    UniqueViolation,
)

from ltm_store.db.resources import resource_dir
from ltm_store.migrate.adoption.progress import Bar
from ltm_store.migrate.adoption.tables import ORIGINALS
from ltm_store.migrate.ask import Session, ask, value
from ltm_store.migrate.runner import MigrationFailed, Report, connected

LOCK_WAIT: Final = "100ms"  # other programs queue behind the one that waits for a lock
LOCK_HOLD: Final = "5s"  # at most, where this process or its connection stops
LOCK_ATTEMPTS: Final = 300
PAUSE_SECONDS: Final = 0.05  # between attempts
BATCH_ROWS: Final = 1_000  # memories, or accesses times five, in one transaction
CHANGES_LEFT_BEFORE_LOCK: Final = 150  # few enough to lock the tables
CHANGES_LEFT_AT_LOCK: Final = 400  # few enough to carry over while they are locked
DRAIN_PATIENCE_BATCHES: Final = 10  # after which no fewer changes are left
ALL_CHANGES: Final = 1_000_000_000


class ForeignKey(NamedTuple):
    """A foreign key of an original table, and the command that makes it anew."""

    table: str
    name: str
    add_command: str
    is_outward: bool  # leads to a table of the application
    is_checked: bool  # holds for the rows that are there


def steps(session: Session) -> dict[str, str]:
    """The steps of an adoption that are done, each with the schema that the tables stand in."""
    return dict(ask(session, "steps")) if value(session, "steps_are_there") else {}


class StillChanging(Exception):
    """Too much was written between the last look and the lock."""


class Adoption:
    """A session for the work, the schema that the tables stand in, and who is told."""

    def __init__(self, dsn: str, session: Session, locked: Session, report: Report) -> None:
        self.dsn = dsn
        self.session = session
        self.locked = locked
        self.report = report
        self.home: str = value(session, "home")
        self.started = time.monotonic()

    @classmethod
    @contextmanager
    def of(cls, dsn: str, locked: Session, report: Report) -> Iterator[Adoption]:
        """One in a session of its own, while `locked` keeps others who migrate away."""
        with connected(dsn) as session:
            ask(session, "prefer_indexes")
            adoption = cls(dsn, session, locked, report)
            for begun in set(steps(session).values()) - {adoption.home}:
                raise MigrationFailed(f"the adoption of the schema {begun} is not finished")
            yield adoption

    def ask(self, name: str, /, **arguments: object) -> list[Any]:
        """The rows of a statement."""
        return ask(self.session, name, **arguments)

    def value(self, name: str, /, **arguments: object) -> Any:
        """The first column of the first row of a statement."""
        return value(self.session, name, **arguments)

    @property
    def next_dsn(self) -> str:
        """The DSN under which the ordinary migrations come to stand in ltm_next."""
        path = f'ltm_next,"{self.home}"'.replace(" ", "\\ ")
        before = conninfo_to_dict(self.dsn).get("options") or ""
        return make_conninfo(self.dsn, options=f"{before} -c search_path={path}".strip())

    def look_from(self, *schemas: str) -> None:
        """Find unqualified names in these schemas."""
        self.ask("set_search_path", schemas=list(schemas))

    def script(self, name: str) -> None:
        """Execute a file of sql/adoption."""
        text = (resource_dir("sql") / "adoption" / f"{name}.sql").read_text(encoding="utf-8")
        self.session.execute(text)

    def done(self, step: str) -> None:
        """Note that a step is done, in the transaction of its work if there is one."""
        self.ask("add_step", step=step, home=self.home)

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        """A transaction whose statements all see the tables as they are at its first query."""
        with self.session.transaction():
            self.ask("set_repeatable_read")
            yield

    def with_short_lock(
        self, work: Callable[[], object], what: str, before: Callable[[], None] | None = None
    ) -> None:
        """Do some work in a transaction whose locks are not waited for long, until it succeeds.

        `before` is what each attempt begins with, outside of the transaction.
        """
        for attempt in range(1, LOCK_ATTEMPTS + 1):
            if before is not None:
                before()
            try:
                with self.snapshot():
                    self.ask("set_lock_wait", duration=LOCK_WAIT)
                    self.ask("set_lock_hold", duration=LOCK_HOLD)
                    work()
            except (LockNotAvailable, DeadlockDetected, StillChanging):
                if attempt % 20 == 0:
                    self.report(f"{what}: waiting for a moment when the tables are not in use")
                time.sleep(PAUSE_SECONDS * min(attempt, 10))
            else:
                return
        raise MigrationFailed(f"{what}: the tables were in use each of {LOCK_ATTEMPTS} times")

    @property
    def schema(self) -> str:
        """Where the original tables stand now."""
        return "ltm_original" if "swap" in steps(self.session) else self.home

    def present(self) -> list[str]:
        """Which tables of the original are here."""
        schema = self.schema
        return [
            name for name in ORIGINALS if self.value("relation", home=schema, name=name) is not None
        ]

    def check_foreign_key(self, table: str, name: str, *, is_theirs: bool) -> None:
        """Check the rows that are there, without keeping anybody from writing.

        A key of theirs that does not hold for these is left to hold for new ones.
        """
        try:
            self.with_short_lock(
                lambda: self.ask("validate_constraint", table_name=table, constraint_name=name),
                f"checking {name}",
            )
        except ForeignKeyViolation:
            if not is_theirs:
                raise
            self.report(
                f"the foreign key {name} does not hold for rows of {table}, and is left to hold "
                "for new ones only"
            )

    def count(self, query: str) -> int:
        """What a query that a statement gave counts."""
        ((count,),) = self.session.execute(query).fetchall()
        return int(count)

    def execute(self, commands: Iterable[str]) -> None:
        """Execute commands that a statement gave."""
        for command in commands:
            self.session.execute(command)

    def move(self, source: str, target: str) -> None:
        """Move every object of ours from one schema to another."""
        self.execute(command for (command,) in self.ask("moves", source=source, target=target))

    def move_original(self, table: str, source: str, target: str) -> None:
        """Move a table of the original, and the sequence of the usual name that no column owns."""
        self.ask("set_table_schema", table_name=(source, table), schema=target)
        self.ask("set_sequence_schema", sequence_name=(source, f"{table}_id_seq"), schema=target)

    def release_others(self, keys: Iterable[ForeignKey]) -> None:
        """Drop the foreign keys that lead to tables of the application, which this locks."""
        for key in keys:
            if key.is_outward:
                there = (self.home, key.table)
                self.ask("drop_constraint", table_name=there, constraint_name=key.name)

    def lock(self, tables: list[str], statement: str = "lock_tables") -> None:
        """Lock tables of the home schema against others, until the transaction ends."""
        self.ask(statement, tables=[(self.home, table) for table in sorted(tables)])

    def watch(self, tables: Iterable[str]) -> None:
        """Note from now on which rows of some tables change."""
        for table in tables:
            self.ask(
                "note_changes_of",
                table_name=(self.home, table),
                function_name=("ltm_adoption", ORIGINALS[table].note),
            )
            self.ask("refuse_truncate_of", table_name=(self.home, table))
            self.ask("heed_replication_of", table_name=(self.home, table))

    def stop_watching(self, tables: Iterable[str]) -> None:
        """Note changes of some tables of the home schema no longer."""
        for table in tables:
            self.ask("drop_note_trigger", table_name=(self.home, table))
            self.ask("drop_truncate_trigger", table_name=(self.home, table))

    def drop_helping_indexes(self, table: str) -> None:
        """Drop the indexes of an original table that only the copy needed."""
        for column in ORIGINALS[table].found_by:
            self.ask("drop_index_if_exists", index_name=self.helping_index(table, column))

    def helping_index(self, table: str, column: str) -> tuple[str, str]:
        """The name of the index of an original table that the copy makes."""
        return self.home, f"{table}_adoption_{column}"

    def give_up(self) -> None:
        """Drop what was made for an adoption before its swap."""

        def work() -> None:
            present = self.present()
            self.stop_watching(present)
            for table in present:
                self.drop_helping_indexes(table)
            self.ask("drop_schema_with_content", schema="ltm_adoption")
            self.ask("drop_schema_with_content", schema="ltm_next")

        self.with_short_lock(work, "giving up")

    def drain(self, *, is_back: bool) -> None:
        """Carry over, or back, what was written meanwhile, until little is left."""
        bar = Bar(
            self.report,
            "changes carried back" if is_back else "changes carried over",
            self._changes(ALL_CHANGES),
        )
        fewest, stuck = ALL_CHANGES, 0  # writers that are as quick as this leave a few each time
        while (left := self._changes(ALL_CHANGES)) > CHANGES_LEFT_BEFORE_LOCK and (
            stuck < DRAIN_PATIENCE_BATCHES
        ):
            fewest, stuck = min(left, fewest), 0 if left < fewest else stuck + 1
            bar.move(self._carry_oldest(is_back=is_back))

    def _carry_oldest(self, *, is_back: bool) -> int:
        """Carry a batch over or back; all there is where a unique value is still another row's."""
        try:
            with self.snapshot():
                return self.carry_changes(BATCH_ROWS, is_back=is_back)
        except (UniqueViolation, ExclusionViolation):
            with self.snapshot():
                return self.carry_changes(ALL_CHANGES, is_back=is_back)

    def carry_last(self, *, is_back: bool) -> None:
        """Carry what came since the last look. Raises StillChanging if it is much."""
        if self._changes(CHANGES_LEFT_AT_LOCK + 1) > CHANGES_LEFT_AT_LOCK:
            raise StillChanging
        while self.carry_changes(BATCH_ROWS, is_back=is_back):
            pass

    def carry_changes(self, at_most: int, *, is_back: bool) -> int:
        """Carry over, or back, the oldest changes; return how many notes of them were taken."""
        return int(self.value("carry_changes", at_most=at_most, is_back=is_back))

    def _changes(self, at_most: int) -> int:
        return int(self.value("count_changes", at_most=at_most))
