"""The original application's tables: their columns, and the session in which they are adopted."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any, Final, NamedTuple

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.errors import DeadlockDetected, LockNotAvailable

from ltm_store.db.resources import resource_dir
from ltm_store.db.statements import statements
from ltm_store.migrate.runner import MigrationFailed, Report, connected

Session = psycopg.Connection[Any]

MEMORIES: Final = "ltm_memories"
LOCK_TIMEOUT: Final = "100ms"  # other programs queue behind the one that waits for a lock
BOUND: Final = "idle_in_transaction_session_timeout"
LOCKED_FOR: Final = "5s"  # at most, where this process or its connection stops
ATTEMPTS: Final = 300
PAUSE: Final = 0.05  # seconds between attempts
TELL_EVERY: Final = 2.0  # seconds
BATCH: Final = 1_000  # memories, or accesses times five, in one transaction
DRAINED: Final = 150  # notes of changes, at which the tables may be locked
LEFT: Final = 400  # that may be there when they are
PATIENCE: Final = 10  # batches after which no fewer notes are left
MANY: Final = 1_000_000_000
NEVER_CHECKED: Final = (" NOT VALID", " NOT ENFORCED")  # how definitions of foreign keys may end

# What the columns of the original are, and the types in which databases out there have them.
KINDS: Final = {
    "key": ("int2", "int4", "int8"),
    "int": ("int2", "int4", "int8"),
    "number": ("int2", "int4", "int8", "float4", "float8", "numeric"),
    "text": ("text", "varchar", "bpchar"),
    "json": ("jsonb", "json", "text", "varchar"),
    "moment": ("timestamp", "date"),
    "bool": ("bool",),
}
SHOWN: Final = {
    "key": "o.{0}",
    "int": "o.{0}::bigint",
    "number": "o.{0}::double precision",
    "text": "o.{0}::text",
    "json": "ltm_adoption.as_jsonb(o.{0}::text)",
    "moment": "o.{0}::timestamp",
    "bool": "o.{0}",
}
TYPES: Final = {
    "key": "bigint",
    "int": "bigint",
    "number": "double precision",
    "text": "text",
    "json": "jsonb",
    "moment": "timestamp",
    "bool": "boolean",
}


class Original(NamedTuple):
    """A table of the original: the view that shows it, its columns, how changes are noted."""

    view: str
    columns: dict[str, str]
    note: str
    memory_key: str  # the column that says to which memory a row belongs
    given: Mapping[str, str] = MappingProxyType(
        {}
    )  # what a row has in a column that its table lacks

    @property
    def found_by(self) -> tuple[str, ...]:
        """The columns by which a batch finds its rows."""
        return tuple(dict.fromkeys(("id", self.memory_key)))


def _columns(text: str) -> dict[str, str]:
    """Names by kind from lines of `kind: name name`."""
    lines = (line.split(":") for line in text.strip().splitlines())
    return {name: kind.strip() for kind, names in lines for name in names.split()}


ORIGINALS: Final = {
    "ltm_contexts": Original(
        "contexts",
        _columns("""
            key: id memory_id
            text: context_type context_key context_value
            number: confidence
            moment: created_at
        """),
        "note_child",
        "memory_id",
    ),
    "ltm_memory_relationships": Original(
        "relationships",
        _columns("""
            key: id source_memory_id target_memory_id
            text: relationship_type description
            number: strength
            moment: created_at last_accessed
        """),
        "note_relationship",
        "source_memory_id",
    ),
    "ltm_memory_access": Original(
        "accesses",
        _columns("""
            key: id memory_id
            moment: access_timestamp
            text: access_context access_method user_query
            bool: was_relevant
            number: relevance_score
        """),
        "note_access",
        "memory_id",
    ),
    "ltm_memory_tags": Original(
        "tags",
        _columns("""
            key: id memory_id
            text: tag_name tag_category
            number: tag_importance tag_confidence
            int: usage_count
            moment: first_used last_used
        """),
        "note_child",
        "memory_id",
    ),
    MEMORIES: Original(
        "memories",
        _columns("""
            key: id user_id parent_memory_id
            text: content memory_type category context source_type source_id created_by
            text: last_access_context archive_reason
            json: tags context_data related_memory_ids memory_metadata
            int: importance_score access_count
            number: confidence_score dynamic_importance
            moment: created_at last_accessed last_modified
            bool: is_archived
        """),
        "note_memory",
        "id",
        {
            "confidence_score": "1.0",
            "dynamic_importance": "1.0",
            "created_by": "'system'",
            "access_count": "0",
            "is_archived": "FALSE",
            "last_modified": "a_day(o.created_at::timestamp)",
            "related_memory_ids": "SELECT jsonb_agg(DISTINCT r.target_memory_id) "
            "FROM original_relationships AS r WHERE r.source_memory_id = o.id",
            "context_data": "SELECT complete_context(NULL, jsonb_agg("
            "jsonb_build_array(c.context_type, c.context_key, c.context_value) ORDER BY c.id)) "
            "FROM original_contexts AS c WHERE c.memory_id = o.id HAVING count(*) > 0",
        },
    ),
}
NEEDED: Final = ("id", "user_id", "content", "tags")  # in ltm_memories, whatever its age
KEYS: Final = ("id", "memory_id", "source_memory_id", "target_memory_id")


def ask(session: Session, name: str, *arguments: object) -> list[Any]:
    """The rows of a query of sql/adoption/queries.sql."""
    statement = statements("sql/adoption")[name]
    cursor = psycopg.RawCursor(session).execute(statement.shape(()).sql, arguments)
    return [] if statement.kind == "exec" else cursor.fetchall()


def value(session: Session, name: str, *arguments: object) -> Any:
    """The first column of the first row, None without one."""
    rows = ask(session, name, *arguments)
    return rows[0][0] if rows else None


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
            # Batches find their rows by an index, whatever the statistics of growing tables say.
            for way in ("seqscan", "hashjoin", "mergejoin"):
                session.execute(f"SET enable_{way} = off")
            adoption = cls(dsn, session, locked, report)
            for begun in set(steps(session).values()) - {adoption.home}:
                raise MigrationFailed(f"the adoption of the schema {begun} is not finished")
            yield adoption

    def ask(self, name: str, *arguments: object) -> list[Any]:
        """The rows of a query."""
        return ask(self.session, name, *arguments)

    def value(self, name: str, *arguments: object) -> Any:
        """The first column of the first row of a query."""
        return value(self.session, name, *arguments)

    @property
    def next_dsn(self) -> str:
        """The DSN under which the ordinary migrations come to stand in ltm_next."""
        path = f'ltm_next,"{self.home}"'.replace(" ", "\\ ")
        before = conninfo_to_dict(self.dsn).get("options") or ""
        return make_conninfo(self.dsn, options=f"{before} -c search_path={path}".strip())

    def look_from(self, *schemas: str) -> None:
        """Find unqualified names in these schemas."""
        path = sql.SQL(", ").join(map(sql.Identifier, schemas))
        self.session.execute(sql.SQL("SET search_path = {}").format(path))

    def run(self, template: str, **names: str | sql.Composable) -> None:
        """Execute statements with names of tables and columns put in."""
        self._composed(template, names)

    def _composed(self, template: str, names: Mapping[str, str | sql.Composable]) -> Any:
        parts = {
            key: name if isinstance(name, sql.Composable) else sql.Identifier(name)
            for key, name in names.items()
        }
        return self.session.execute(sql.SQL(template).format(**parts))

    def script(self, name: str) -> None:
        """Execute a file of sql/adoption."""
        text = (resource_dir("sql") / "adoption" / f"{name}.sql").read_text(encoding="utf-8")
        self.session.execute(text)

    def done(self, step: str) -> None:
        """Note that a step is done, in the transaction of its work if there is one."""
        self.ask("add_step", step, self.home)

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        """A transaction whose statements all see the tables as they are at its first query."""
        with self.session.transaction():
            self.session.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            yield

    def with_short_lock(
        self, work: Callable[[], None], what: str, before: Callable[[], None] | None = None
    ) -> None:
        """Do some work in a transaction whose locks are not waited for long, until it succeeds.

        `before` is what each attempt begins with, outside of the transaction.
        """
        for attempt in range(1, ATTEMPTS + 1):
            if before is not None:
                before()
            try:
                with self.snapshot():
                    self.session.execute(f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT}'")
                    self.session.execute(f"SET LOCAL {BOUND} = '{LOCKED_FOR}'")
                    work()
            except (LockNotAvailable, DeadlockDetected, StillChanging):
                if attempt % 20 == 0:
                    self.report(f"{what}: waiting for a moment when the tables are not in use")
                time.sleep(PAUSE * min(attempt, 10))
            else:
                return
        raise MigrationFailed(f"{what}: the tables were in use each of {ATTEMPTS} times")

    @property
    def schema(self) -> str:
        """Where the original tables stand now."""
        return "ltm_original" if "swapped" in steps(self.session) else self.home

    def present(self) -> list[str]:
        """Which tables of the original are here."""
        schema = self.schema
        return [name for name in ORIGINALS if self.value("relation", schema, name) is not None]

    def columns(self, table: str) -> dict[str, str]:
        """The columns of an original table with their types; none without the table."""
        return {name: written for name, _, written in self.ask("columns", self.schema, table)}

    def first(self, template: str, **names: str | sql.Composable) -> Any:
        """The first value that a query about some table gives."""
        row = self._composed(template, names).fetchone()
        return row and row[0]

    def add_foreign_keys(self, keys: list[tuple[str, str, str]]) -> None:
        """Make foreign keys (table, name, definition), checked for new rows only so far."""
        for table, name, definition in keys:
            self.run(
                "ALTER TABLE {table} ADD CONSTRAINT {name} {definition} NOT VALID",
                table=table,
                name=name,
                definition=sql.SQL(definition.removesuffix(" NOT VALID")),
            )

    def check_foreign_key(self, table: str, name: str) -> None:
        """Check the rows that are there, without keeping anybody from writing."""
        self.with_short_lock(
            lambda: self.run(
                "ALTER TABLE {table} VALIDATE CONSTRAINT {name}", table=table, name=name
            ),
            f"checking {name}",
        )

    def move(self, source: str, target: str) -> None:
        """Move every object of ours from one schema to another."""
        for (command,) in self.ask("moves", source, target):
            self.session.execute(command)

    def move_sequence(self, table: str, source: str, target: str) -> None:
        """Move the sequence of the usual name that stayed behind because no column owns it."""
        name = sql.Identifier(source, f"{table}_id_seq")
        self.run("ALTER SEQUENCE IF EXISTS {name} SET SCHEMA {target}", name=name, target=target)

    def release_others(self, keys: Iterable[tuple[str, str, str, bool]]) -> None:
        """Drop the foreign keys that lead to tables of the application, which this locks."""
        for table, name, _, is_outward in keys:
            if is_outward:
                there = sql.Identifier(self.home, table)
                self.run("ALTER TABLE {table} DROP CONSTRAINT {name}", table=there, name=name)

    def lock(self, tables: list[str], mode: str = "ACCESS EXCLUSIVE") -> None:
        """Lock tables of the home schema against others, until the transaction ends."""
        names = sql.SQL(", ").join(sql.Identifier(self.home, table) for table in sorted(tables))
        self.run(f"LOCK TABLE {{names}} IN {mode} MODE", names=names)

    def watch(self, tables: Iterable[str]) -> None:
        """Note from now on which rows of some tables change."""
        for table in tables:
            self.run(
                "CREATE TRIGGER ltm_adoption_note AFTER INSERT OR UPDATE OR DELETE ON {table} "
                "FOR EACH ROW EXECUTE FUNCTION ltm_adoption.{note}()",
                table=sql.Identifier(self.home, table),
                note=ORIGINALS[table].note,
            )

    def drop_helping_indexes(self, table: str) -> None:
        """Drop the indexes of an original table that only the copy needed."""
        for column in ORIGINALS[table].found_by:
            name = sql.Identifier(self.home, f"{table}_adoption_{column}")
            self.run("DROP INDEX IF EXISTS {name}", name=name)

    def give_up(self) -> None:
        """Drop what was made for an adoption before its swap."""

        def work() -> None:
            for table in self.present():
                name = sql.Identifier(self.home, table)
                self.run("DROP TRIGGER IF EXISTS ltm_adoption_note ON {table}", table=name)
                self.drop_helping_indexes(table)
            self.run("DROP SCHEMA ltm_adoption CASCADE")
            self.run("DROP SCHEMA ltm_next CASCADE")

        self.with_short_lock(work, "giving up")

    def drain(self, *, is_back: bool) -> None:
        """Carry over, or back, what was written meanwhile, until little is left."""
        total = self.value("count_changes", MANY)
        bar = Bar(self.report, "changes carried back" if is_back else "changes carried over", total)
        fewest, stuck = MANY, 0  # writers that are as quick as this leave a few each time
        while (left := self.value("count_changes", MANY)) > DRAINED and stuck < PATIENCE:
            fewest, stuck = min(left, fewest), 0 if left < fewest else stuck + 1
            with self.snapshot():
                bar.move(self.value("carry_changes", BATCH, is_back))

    def carry_last(self, *, is_back: bool) -> None:
        """Carry what came since the last look. Raises StillChanging if it is much."""
        if self.value("count_changes", LEFT + 1) > LEFT:
            raise StillChanging
        while self.value("carry_changes", BATCH, is_back):
            pass


class Bar:
    """Tells how far a long step is, every two seconds and at its end."""

    def __init__(self, report: Report, what: str, total: int, done: int = 0) -> None:
        self._report = report
        self._what = what
        self._total = total
        self._done = done
        self._begun = done
        self._started = self._told = time.monotonic()

    def move(self, steps: int) -> None:
        """Some steps more are done."""
        self._done += steps
        self._total = max(self._total, self._done)
        now = time.monotonic()
        if self._done >= self._total or now - self._told >= TELL_EVERY:
            self._told = now
            share = self._done / max(self._total, 1)
            speed = (self._done - self._begun) / max(now - self._started, 0.001)
            left = (self._total - self._done) / max(speed, 0.001)
            bar = "#" * round(20 * share)
            self._report(
                f"{self._what} [{bar:<20}] {self._done:,} of {self._total:,}, {left:.0f} s left"
            )
