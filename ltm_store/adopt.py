"""Adopting the tables of the original application, while it goes on reading and writing them.

`migrate.apply` comes here when it meets them. The ordinary migrations are applied in a schema of
their own; triggers on the original tables note what changes; the rows are copied in batches and
what was noted is copied again; one short transaction puts the new tables in the place of the
original ones, which stay in the schema ltm_original until finish_adoption. Every step is noted in
the schema ltm_adoption when it is done, so that a run that was killed is taken up where it was.
Up to finish_adoption `go_back` puts the original tables back, with what was written since.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, NamedTuple

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.errors import DeadlockDetected, LockNotAvailable

from ltm_store.resources import migration_ids, resource_dir
from ltm_store.runner import MigrationFailed, Report, applied_ids, connected, take

Session = psycopg.Connection[Any]

MEMORIES: Final = "ltm_memories"
BATCH: Final = 1_000  # memories, or accesses times five, in one transaction
DRAINED: Final = 50  # changes that may be left for the moment when the tables are locked
LOCK_TIMEOUT: Final = "100ms"  # other programs queue behind the one that waits for a lock
ATTEMPTS: Final = 300
PAUSE: Final = 0.05  # seconds between attempts
TELL_EVERY: Final = 2.0  # seconds
WORK_MEMORY: Final = "256MB"  # for building indexes

# What the columns of the original are, and the types in which databases out there have them.
KINDS: Final = {
    "key": ("int2", "int4", "int8"),
    "int": ("int2", "int4", "int8"),
    "number": ("int2", "int4", "int8", "float4", "float8", "numeric"),
    "text": ("text", "varchar", "bpchar"),
    "json": ("jsonb", "json", "text", "varchar"),
    "moment": ("timestamp", "timestamptz", "date"),
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


def wanted(session: Session) -> bool:
    """Whether the original's tables are here, or an adoption of them was begun and not ended."""
    steps = _steps(session)
    if steps:
        return "valid" not in steps
    home = _one(session, "SELECT current_schema()")
    table = _one(session, "SELECT to_regclass(%s)::oid", MEMORIES)
    if table is None or any(name.endswith("_memories") for name in applied_ids(session)):
        return False
    where = _one(
        session,
        "SELECT n.nspname FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace "
        "WHERE c.oid = %s",
        table,
    )
    if where == home:
        return True
    ours = "SELECT to_regclass(format('%%I.ltm_migrations', %s::text))"
    if _one(session, ours, where) is not None:
        return False  # of another installation, which has its own schema
    raise MigrationFailed(
        f"{MEMORIES} stands in the schema {where}, but {home} comes first in search_path"
    )


def under_way(session: Session) -> bool:
    """Whether an adoption was begun here that is not finished."""
    return bool(_steps(session))


def adopt(dsn: str, locked: Session, report: Report) -> None:
    """Make ours of the original's tables. `locked` holds the lock of those who migrate.

    Raises MigrationFailed: before anything has changed when the tables are not the original's or
    something else depends on them, afterwards with all that was done kept for the next run.
    """
    with _Adoption.of(dsn, locked, report) as adoption:
        for step, work in STEPS.items():
            if step not in _steps(adoption.session):
                locked.execute("SELECT 1")  # without this session the lock is gone
                work(adoption)


def go_back(dsn: str, locked: Session, report: Report) -> None:
    """Put the original tables back, with what was written since; ours go to ltm_adopted.

    Memories of users known by a string are of no use to the original and stay there. Before the
    swap only what was made for it is dropped.
    """
    with _Adoption.of(dsn, locked, report) as adoption:
        if "swapped" not in _steps(adoption.session):
            adoption.alone(lambda: _give_up(adoption), "giving up")
            report("what adoption had made is gone, the original tables are as they were")
            return
        if _one(adoption.session, "SELECT to_regnamespace('ltm_adopted')") is not None:
            raise MigrationFailed(
                "the schema ltm_adopted keeps the tables of an earlier adoption: drop it first"
            )
        adoption.look_from("ltm_adoption", adoption.home)
        _make_way_back(adoption)
        _drain(adoption, _return_changes, "carried back")
        adoption.alone(lambda: _swap_back(adoption), "the original tables go back")
        for table, name in adoption.unchecked:
            adoption.alone(_validating(adoption, table, name), f"checking {name}")
        report("the original tables are back; what was ours is kept in the schema ltm_adopted")


def reconcile(session: Session, report: Report) -> None:
    """Bring details and the memories' own columns in step after an older program wrote only one.

    What either side says is kept. Raises MigrationFailed without an adoption that is not finished.
    """
    if not under_way(session):
        raise MigrationFailed("no adoption is under way here, so nothing can be out of step")
    (home,) = _all(session, "SELECT DISTINCT home FROM ltm_adoption.steps")[0]
    session.execute(sql.SQL("SET search_path = ltm_adoption, {}").format(sql.Identifier(home)))
    last = -1
    while True:
        ids = _one(
            session,
            "SELECT array_agg(m.id ORDER BY m.id) FROM (SELECT id FROM ltm_memories "
            "WHERE id > %s ORDER BY id LIMIT %s) AS m",
            last,
            BATCH,
        )
        if ids is None:
            break
        session.execute("SELECT complete_memories(%s), complete_details(%s)", [ids, ids])
        last = ids[-1]
    session.execute(sql.SQL("SET search_path = {}").format(sql.Identifier(home)))
    report("details and memories are in step")


def _one(session: Session, query: str | sql.Composed, *arguments: object) -> Any:
    row = session.execute((query), arguments or None).fetchone()
    return row and row[0]


def _all(session: Session, query: str, *arguments: object) -> list[Any]:
    return session.execute((query), arguments or None).fetchall()


def _steps(session: Session) -> set[str]:
    if _one(session, "SELECT to_regclass('ltm_adoption.steps')") is None:
        return set()
    return {step for (step,) in _all(session, "SELECT step FROM ltm_adoption.steps")}


class _Adoption:
    """A session for the work, the schema that the tables stand in, and who is told."""

    def __init__(self, dsn: str, session: Session, locked: Session, report: Report) -> None:
        self.dsn = dsn
        self.session = session
        self.locked = locked
        self.report = report
        self.home = str(_one(session, "SELECT current_schema()"))
        self.started = time.monotonic()
        self.unchecked: list[tuple[str, str]] = []  # foreign keys that are back

    @classmethod
    @contextmanager
    def of(cls, dsn: str, locked: Session, report: Report) -> Iterator[_Adoption]:
        with connected(dsn) as session:
            adoption = cls(dsn, session, locked, report)
            if _steps(session):
                (begun,) = _all(session, "SELECT DISTINCT home FROM ltm_adoption.steps")[0]
                if begun != adoption.home:
                    raise MigrationFailed(f"the adoption of the schema {begun} is not finished")
            yield adoption

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
        parts = {
            key: value if isinstance(value, sql.Composable) else sql.Identifier(value)
            for key, value in names.items()
        }
        self.session.execute(sql.SQL(template).format(**parts))

    def script(self, name: str) -> None:
        """Execute a file of sql/adoption."""
        text = (resource_dir("sql") / "adoption" / f"{name}.sql").read_text(encoding="utf-8")
        self.session.execute(text)

    def done(self, step: str) -> None:
        """Note that a step is done, in the transaction of its work if there is one."""
        self.session.execute(
            "INSERT INTO ltm_adoption.steps (step, home) VALUES (%s, %s)", [step, self.home]
        )

    def alone(self, work: Callable[[], None], what: str) -> None:
        """Do some work in a transaction whose locks are not waited for long, until it succeeds."""
        for attempt in range(1, ATTEMPTS + 1):
            try:
                with self.session.transaction():
                    self.session.execute(f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT}'")
                    work()
            except (LockNotAvailable, DeadlockDetected, _StillChanging):
                if attempt % 20 == 0:
                    self.report(f"{what}: waiting for a moment when the tables are not in use")
                time.sleep(PAUSE * min(attempt, 10))
            else:
                return
        raise MigrationFailed(f"{what}: the tables were in use each of {ATTEMPTS} times")

    def present(self) -> list[str]:
        """Which tables of the original are here, wherever they stand now."""
        schema = "ltm_original" if "swapped" in _steps(self.session) else self.home
        query = "SELECT to_regclass(format('%%I.%%I', %s::text, %s::text))"
        return [name for name in ORIGINALS if _one(self.session, query, schema, name) is not None]


class _StillChanging(Exception):
    """Too much was written between the last look and the lock."""


# -- what is there --------------------------------------------------------------------------------


def _look(a: _Adoption) -> None:
    """Refuse what is not the original's before anything has changed; then begin."""
    problems = [*_strange_columns(a), *_dependents(a), *_impossible_rows(a)]
    if problems:
        raise MigrationFailed(f"the tables cannot be adopted: {'; '.join(problems)}")
    _look_for_room(a)
    if before := applied_ids(a.session):  # an attempt of a version that knew no adoption
        take(a.dsn, a.locked, before[::-1], "rollback", a.report)
    with a.session.transaction():
        a.run("CREATE SCHEMA ltm_adoption")
        a.run("CREATE SCHEMA ltm_next")
        a.look_from("ltm_adoption")
        a.script("tools")
        a.done("begun")


def _strange_columns(a: _Adoption) -> Iterator[str]:
    for table in a.present():
        known = {**ORIGINALS[table].columns, "user_id": "key"}
        found = dict(
            _all(
                a.session,
                "SELECT a.attname, t.typname FROM pg_attribute AS a "
                "JOIN pg_type AS t ON t.oid = a.atttypid "
                "WHERE a.attrelid = format('%%I.%%I', %s::text, %s::text)::regclass "
                "AND a.attnum > 0 AND NOT a.attisdropped",
                a.home,
                table,
            )
        )
        for name, type_ in found.items():
            if name not in known:
                yield f"the column {table}.{name} is not the original's"
            elif type_ not in KINDS[known[name]]:
                yield f"the column {table}.{name} is of the type {type_}"
        needed = NEEDED if table == MEMORIES else [c for c in KEYS if c in known]
        for name in needed:
            if name not in found:
                yield f"the table {table} has no column {name}"


DEPENDENTS: Final = """
WITH ours AS (
    SELECT c.oid, c.relname, c.relkind, c.relrowsecurity FROM pg_class AS c
    WHERE c.relnamespace = %(home)s::regnamespace AND c.relname = ANY(%(tables)s)
)
SELECT format('%%s is not an ordinary table', o.relname) FROM ours AS o WHERE o.relkind <> 'r'
UNION ALL
SELECT format('%%s has row level security', o.relname) FROM ours AS o WHERE o.relrowsecurity
UNION ALL
SELECT format('the foreign key %%s of %%s leads to %%s', c.conname, c.conrelid::regclass, o.relname)
FROM pg_constraint AS c JOIN ours AS o ON o.oid = c.confrelid
WHERE c.contype = 'f' AND c.conrelid NOT IN (SELECT oid FROM ours)
UNION ALL
SELECT DISTINCT format('the view or rule %%s reads %%s', r.ev_class::regclass, o.relname)
FROM pg_depend AS d JOIN ours AS o ON o.oid = d.refobjid
JOIN pg_rewrite AS r ON r.oid = d.objid
WHERE d.refclassid = 'pg_class'::regclass AND d.classid = 'pg_rewrite'::regclass
UNION ALL
SELECT DISTINCT format('the function %%s reads %%s', d.objid::regprocedure, o.relname)
FROM pg_depend AS d JOIN ours AS o ON o.oid = d.refobjid
WHERE d.refclassid = 'pg_class'::regclass AND d.classid = 'pg_proc'::regclass
UNION ALL
SELECT format('the trigger %%s stands on %%s', g.tgname, o.relname)
FROM pg_trigger AS g JOIN ours AS o ON o.oid = g.tgrelid WHERE NOT g.tgisinternal
UNION ALL
SELECT format('%%s is in the publication %%s', o.relname, p.pubname)
FROM pg_publication_rel AS r JOIN ours AS o ON o.oid = r.prrelid
JOIN pg_publication AS p ON p.oid = r.prpubid
UNION ALL
SELECT format('%%s inherits or is inherited', o.relname)
FROM ours AS o JOIN pg_inherits AS i ON o.oid IN (i.inhrelid, i.inhparent)
UNION ALL
SELECT DISTINCT format('%%s has rights on single columns', o.relname)
FROM ours AS o JOIN pg_attribute AS t ON t.attrelid = o.oid WHERE t.attacl IS NOT NULL
UNION ALL
SELECT format('%%s.%%s is in the way', %(home)s::text, c.relname) FROM pg_class AS c
WHERE c.relnamespace = %(home)s::regnamespace AND c.relname ~ '^ltm_'
    AND c.relkind IN ('r', 'v', 'm') AND c.relname <> ALL(%(tables)s)
    AND c.relname !~ '^ltm_migration'
UNION ALL
SELECT format('the schema %%s is in the way', n.nspname) FROM pg_namespace AS n
WHERE n.nspname IN ('ltm_next', 'ltm_original', 'ltm_adoption')
UNION ALL
SELECT 'the database is not in UTF8' WHERE current_setting('server_encoding') <> 'UTF8'
"""


def _dependents(a: _Adoption) -> list[str]:
    arguments = {"home": a.home, "tables": list(ORIGINALS)}
    return [text for (text,) in a.session.execute(DEPENDENTS, arguments).fetchall()]


def _impossible_rows(a: _Adoption) -> Iterator[str]:
    for table in a.present():
        name = sql.Identifier(a.home, table)
        twice = sql.SQL(
            "SELECT min(x.id) FROM (SELECT id FROM {} GROUP BY id HAVING count(*) > 1) AS x"
        ).format(name)
        unique = _one(
            a.session,
            "SELECT EXISTS (SELECT 1 FROM pg_index WHERE indrelid = %s::regclass AND indisunique "
            "AND indisvalid AND indkey::text = (SELECT attnum::text FROM pg_attribute "
            "WHERE attrelid = %s::regclass AND attname = 'id') AND indpred IS NULL)",
            name.as_string(a.session),
            name.as_string(a.session),
        )
        if not unique and (number := _one(a.session, twice)) is not None:
            yield f"several rows of {table} have the id {number}"
        if _one(a.session, sql.SQL("SELECT 1 FROM {} WHERE id IS NULL LIMIT 1").format(name)):
            yield f"a row of {table} has no id"
        if table == MEMORIES and _one(
            a.session,
            sql.SQL(
                "SELECT 1 FROM {} WHERE user_id IS NULL OR user_id < 0 OR id < 0 LIMIT 1"
            ).format(name),
        ):
            yield f"a row of {table} has no user_id, or a negative number"


def _look_for_room(a: _Adoption) -> None:
    size = sum(
        _one(
            a.session,
            "SELECT pg_total_relation_size(format('%%I.%%I', %s::text, %s::text)::regclass)",
            a.home,
            table,
        )
        for table in a.present()
    )
    need = 2 * size
    a.report(f"adopting {MEMORIES}: {_megabytes(need)} MB of room are needed beside the tables")
    allowed = _one(a.session, "SELECT pg_has_role(current_user, 'pg_read_all_settings', 'USAGE')")
    if not allowed:
        return
    folder = Path(_one(a.session, "SELECT current_setting('data_directory')"))
    host = conninfo_to_dict(a.dsn).get("host") or "/"
    if str(host).startswith("/") and folder.is_dir():  # the server's disk is ours to look at
        free = shutil.disk_usage(folder).free
        if free < need:
            raise MigrationFailed(
                f"adoption needs {_megabytes(need)} MB of room on the server's disk, "
                f"{_megabytes(free)} MB are free"
            )


def _megabytes(size: int) -> str:
    return f"{-(-size // 1_000_000):,}"


# -- the new tables -------------------------------------------------------------------------------


def _make_tables(a: _Adoption) -> None:
    """Apply the ordinary migrations in a schema of their own."""
    with connected(a.next_dsn) as inside:
        done = applied_ids(inside)
    pending = [name for name in migration_ids() if name not in done]
    take(a.next_dsn, a.locked, pending, "apply", a.report)
    a.done("tables")


def _defer(a: _Adoption) -> None:
    """Leave foreign keys and GIN indexes for later, and let the copy find rows by their id."""
    with a.session.transaction():
        a.look_from("ltm_next", "ltm_adoption")  # so that definitions do not name the schema
        a.session.execute(
            "INSERT INTO deferred (name, table_name, is_index, definition, comment) "
            "SELECT c.conname, t.relname, FALSE, pg_get_constraintdef(c.oid), "
            "obj_description(c.oid, 'pg_constraint') FROM pg_constraint AS c "
            "JOIN pg_class AS t ON t.oid = c.conrelid "
            "WHERE c.contype = 'f' AND c.connamespace = 'ltm_next'::regnamespace "
            "UNION ALL SELECT c.relname, t.relname, TRUE, pg_get_indexdef(i.indexrelid), "
            "obj_description(i.indexrelid, 'pg_class') FROM pg_index AS i "
            "JOIN pg_class AS c ON c.oid = i.indexrelid JOIN pg_am AS m ON m.oid = c.relam "
            "JOIN pg_class AS t ON t.oid = i.indrelid "
            "WHERE m.amname = 'gin' AND c.relnamespace = 'ltm_next'::regnamespace"
        )
        rows = _all(a.session, "SELECT name, table_name, is_index FROM deferred")
        for name, table, is_index in rows:
            if is_index:
                a.run("DROP INDEX ltm_next.{name}", name=name)
            else:
                a.run("ALTER TABLE ltm_next.{table} DROP CONSTRAINT {name}", table=table, name=name)
        a.run("CREATE INDEX ltm_memory_access_by_id ON ltm_next.ltm_memory_access (id)")
        a.done("deferred")


def _show_originals(a: _Adoption) -> None:
    """Make the views original_*, and behind them what carries rows over."""
    with a.session.transaction():
        a.look_from("ltm_adoption", "ltm_next")
        for table, original in ORIGINALS.items():
            _show(a, table, original)
            _choose_sequence(a, table)
        a.script("repairs")
        a.done("shown")


def _present_columns(a: _Adoption, table: str) -> dict[str, str]:
    """The types of the columns of an original table that are there; empty without the table."""
    return dict(
        _all(
            a.session,
            "SELECT a.attname, format_type(a.atttypid, a.atttypmod) FROM pg_attribute AS a "
            "WHERE a.attrelid = to_regclass(format('%%I.%%I', %s::text, %s::text)) "
            "AND a.attnum > 0 AND NOT a.attisdropped",
            "ltm_original" if "swapped" in _steps(a.session) else a.home,
            table,
        )
    )


def _show(a: _Adoption, table: str, original: Original) -> None:
    found = _present_columns(a, table)
    parts = []
    for name, kind in original.columns.items():
        if name not in found:
            shown = f"({original.given.get(name, 'NULL')})::{TYPES[kind]}"
        elif kind == "json" and found[name] == "jsonb":
            shown = f"o.{name}"
        elif found[name] == "timestamp with time zone":
            shown = f"timezone('utc', o.{name})"
        else:
            shown = SHOWN[kind].format(name)
        parts.append(f"{shown} AS {name}")
    source = (
        sql.SQL(" FROM {} AS o").format(sql.Identifier(a.home, table))
        if found
        else sql.SQL(" WHERE FALSE")
    )
    columns = sql.SQL(", ".join(parts))
    view = sql.Identifier("ltm_adoption", f"original_{original.view}")
    a.session.execute(sql.SQL("CREATE VIEW {} AS SELECT {}{}").format(view, columns, source))


def _choose_sequence(a: _Adoption, table: str) -> None:
    """Take ids from the original's own sequence where it has one, so that they are given once."""
    name = sql.Identifier(a.home, table).as_string(a.session)
    theirs = _sequence(a, name) if table in a.present() else None
    if theirs is None:
        theirs = _one(a.session, "SELECT pg_get_serial_sequence(%s, 'id')", f"ltm_next.{table}")
    _raise_sequence(a, theirs, table)
    a.session.execute(
        "INSERT INTO sequences (table_name, sequence) VALUES (%s, %s::regclass)", [table, theirs]
    )


def _sequence(a: _Adoption, table: str) -> str | None:
    """Where the ids of a table come from: its own sequence, or one that its default names."""
    found: str | None = _one(
        a.session,
        "SELECT coalesce(pg_get_serial_sequence(%s, 'id'), (SELECT d.refobjid::regclass::text "
        "FROM pg_attrdef AS f JOIN pg_attribute AS c ON c.attrelid = f.adrelid "
        "AND c.attnum = f.adnum JOIN pg_depend AS d ON d.classid = 'pg_attrdef'::regclass "
        "AND d.objid = f.oid JOIN pg_class AS s ON s.oid = d.refobjid AND s.relkind = 'S' "
        "WHERE f.adrelid = %s::regclass AND c.attname = 'id' "
        "AND d.refclassid = 'pg_class'::regclass LIMIT 1))",
        table,
        table,
    )
    return found


def _raise_sequence(a: _Adoption, sequence: str, table: str) -> None:
    """Let a sequence go on behind the highest id of an original table and where it stands."""
    view = sql.Identifier("ltm_adoption", f"original_{ORIGINALS[table].view}")
    highest = _one(a.session, sql.SQL("SELECT max(id) FROM {}").format(view)) or 0
    stands = _one(a.session, "SELECT pg_sequence_last_value(%s::regclass)", sequence) or 0
    if highest > stands:
        a.session.execute("SELECT setval(%s::regclass, %s)", [sequence, highest])


# -- the copy -------------------------------------------------------------------------------------


def _find_by_key(a: _Adoption) -> None:
    """Index the original tables by memory where they are not, so that a batch finds its rows."""
    a.look_from("ltm_adoption", "ltm_next")
    for table in a.present():
        for column in {"id", ORIGINALS[table].memory_key}:
            indexed = _one(
                a.session,
                "SELECT EXISTS (SELECT 1 FROM pg_index AS i JOIN pg_attribute AS a "
                "ON a.attrelid = i.indrelid AND a.attnum = i.indkey[0] "
                "WHERE i.indrelid = format('%%I.%%I', %s::text, %s::text)::regclass "
                "AND a.attname = %s AND i.indisvalid AND i.indpred IS NULL)",
                a.home,
                table,
                column,
            )
            if not indexed:
                name = sql.Identifier(a.home, f"{table}_adoption_{column}")
                a.run("DROP INDEX IF EXISTS {name}", name=name)
                a.run(
                    "CREATE INDEX CONCURRENTLY {name} ON {table} ({column})",
                    name=sql.Identifier(f"{table}_adoption_{column}"),
                    table=sql.Identifier(a.home, table),
                    column=column,
                )
    a.done("indexed")


def _watch(a: _Adoption, tables: Iterable[str]) -> None:
    """Note from now on which rows change."""
    for table in tables:
        a.run(
            "CREATE TRIGGER ltm_adoption_note AFTER INSERT OR UPDATE OR DELETE ON {table} "
            "FOR EACH ROW EXECUTE FUNCTION ltm_adoption.{note}()",
            table=sql.Identifier(a.home, table),
            note=ORIGINALS[table].note,
        )


def _watch_originals(a: _Adoption) -> None:
    def work() -> None:
        _watch(a, a.present())
        a.done("watched")

    a.alone(work, "watching the original tables")


def _copy(a: _Adoption) -> None:
    """Copy all rows in batches of one transaction each, and keep how far it came."""
    a.look_from("ltm_adoption", "ltm_next")
    for kind, view, function, size in (
        ("memory", "original_memories", "adopt_memories", BATCH),
        ("access", "original_accesses", "adopt_accesses", 5 * BATCH),
    ):
        total = _one(a.session, sql.SQL("SELECT count(*) FROM {}").format(sql.Identifier(view)))
        last = _one(a.session, "SELECT last_id FROM progress WHERE kind = %s", kind)
        last = -1 if last is None else last
        copied = _one(
            a.session,
            sql.SQL("SELECT count(*) FROM {} WHERE id <= {}").format(
                sql.Identifier(view), sql.Literal(last)
            ),
        )
        bar = _Bar(a.report, f"copying {view.removeprefix('original_')}", total, copied)
        batch = sql.SQL(
            "SELECT array_agg(b.id ORDER BY b.id)::bigint[] FROM "
            "(SELECT id FROM {} WHERE id > {} ORDER BY id LIMIT {}) AS b"
        )
        while True:
            part = batch.format(sql.Identifier(view), sql.Literal(last), sql.Literal(size))
            ids = _one(a.session, part)
            if ids is None:
                break
            last = ids[-1]
            with a.session.transaction():
                call = sql.SQL("SELECT {}(%s)").format(sql.Identifier(function))
                a.session.execute(call, [ids])
                a.session.execute(
                    "INSERT INTO progress (kind, last_id) VALUES (%s, %s) "
                    "ON CONFLICT (kind) DO UPDATE SET last_id = excluded.last_id",
                    [kind, last],
                )
            bar.move(len(ids))
    with a.session.transaction():
        a.session.execute("SELECT note_orphans(), report_rows_without_memory()")
        a.done("copied")


class _Bar:
    """Tells how far a long step is, every two seconds and at its end."""

    def __init__(self, report: Report, what: str, total: int, done: int) -> None:
        self._report = report
        self._what = what
        self._total = total
        self._done = done
        self._begun = done
        self._started = self._told = time.monotonic()

    def move(self, steps: int) -> None:
        self._done += steps
        now = time.monotonic()
        if self._done >= self._total or now - self._told >= TELL_EVERY:
            self._told = now
            share = min(self._done / max(self._total, 1), 1.0)
            speed = (self._done - self._begun) / max(now - self._started, 0.001)
            left = max(self._total - self._done, 0) / max(speed, 0.001)
            bar = "#" * round(20 * share)
            self._report(
                f"{self._what} [{bar:<20}] {self._done:,} of {self._total:,}, {left:.0f} s left"
            )


def _build_indexes(a: _Adoption) -> None:
    """Make the GIN indexes of the filled tables, which nobody uses yet."""
    a.look_from("ltm_next", "ltm_adoption")
    a.session.execute(f"SET maintenance_work_mem = '{WORK_MEMORY}'")
    for name, definition, comment in _all(
        a.session,
        "SELECT name, definition, comment FROM deferred WHERE is_index "
        "AND to_regclass(format('ltm_next.%I', name)) IS NULL ORDER BY name",
    ):
        with a.session.transaction():
            a.session.execute(definition)
            text = sql.Literal(comment)
            a.run("COMMENT ON INDEX ltm_next.{name} IS {text}", name=name, text=text)
        a.report(f"made the index {name}")
    a.done("built")


def _drain(a: _Adoption, carry: Callable[[_Adoption, int], int], what: str) -> None:
    """Carry over what was written meanwhile until little is left."""
    bar = _Bar(a.report, f"changes {what}", _one(a.session, "SELECT count(*) FROM changes"), 0)
    while (
        _one(a.session, "SELECT count(*) FROM (SELECT 1 FROM changes LIMIT %s) AS c", DRAINED + 1)
        > DRAINED
    ):
        with a.session.transaction():
            bar.move(carry(a, BATCH))


def _adopt_changes(a: _Adoption, at_most: int) -> int:
    return int(_one(a.session, "SELECT carry_changes(%s, FALSE)", at_most))


def _check(a: _Adoption) -> None:
    """Compare both sides row by row; what differs is carried over again, and differs no more."""
    a.look_from("ltm_adoption", "ltm_next")
    for _ in range(3):
        _drain(a, _adopt_changes, "carried over")
        while _one(a.session, "SELECT EXISTS (SELECT 1 FROM changes)"):
            with a.session.transaction():
                _adopt_changes(a, BATCH)
        different = int(_one(a.session, "SELECT note_differences()"))
        if not different:
            break
    else:
        raise MigrationFailed(f"{different} memories are not the same in the new tables")
    for table in ORIGINALS:
        a.run("VACUUM (ANALYZE) {table}", table=sql.Identifier("ltm_next", table))
    a.done("checked")


# -- the swap -------------------------------------------------------------------------------------


def _lock(a: _Adoption, schema: str, tables: list[str]) -> None:
    names = sql.SQL(", ").join(sql.Identifier(schema, table) for table in sorted(tables))
    a.session.execute(sql.SQL("LOCK TABLE {} IN ACCESS EXCLUSIVE MODE").format(names))


def _carry_last(a: _Adoption, carry: Callable[[_Adoption, int], int]) -> None:
    """Carry over what came between the last look and the lock, if it is little."""
    left = _one(a.session, "SELECT count(*) FROM changes")
    if left > 2 * DRAINED:
        raise _StillChanging
    while _one(a.session, "SELECT EXISTS (SELECT 1 FROM changes)"):
        carry(a, BATCH)


def _swap(a: _Adoption) -> None:
    a.look_from("ltm_adoption", "ltm_next")
    present = a.present()

    def work() -> None:
        _lock(a, a.home, present)
        _carry_last(a, _adopt_changes)
        _swap_tables(a, present)
        a.done("swapped")

    _drain(a, _adopt_changes, "carried over")
    a.alone(work, "the swap")
    a.report("the new tables are in place")


OBJECTS: Final = """
SELECT format('ALTER %%s %%I.%%I SET SCHEMA %%I',
    CASE c.relkind WHEN 'v' THEN 'VIEW' ELSE 'TABLE' END, %(source)s::text, c.relname,
    %(target)s::text)
FROM pg_class AS c
WHERE c.relnamespace = %(source)s::regnamespace AND c.relkind IN ('r', 'v') AND c.relname ~ '^ltm_'
UNION ALL
SELECT format('ALTER FUNCTION %%s SET SCHEMA %%I', p.oid::regprocedure, %(target)s::text)
FROM pg_proc AS p
WHERE p.pronamespace = %(source)s::regnamespace AND p.proname ~ '^ltm_'
UNION ALL
SELECT format('ALTER TEXT SEARCH CONFIGURATION %%I.ltm SET SCHEMA %%I',
    %(source)s::text, %(target)s::text)
FROM pg_ts_config AS t
WHERE t.cfgnamespace = %(source)s::regnamespace AND t.cfgname = 'ltm'
    AND obj_description(t.oid, 'pg_ts_config') LIKE '%%made by it%%'
"""
RIGHTS: Final = """
WITH rights AS (
    SELECT c.relname, c.relowner, x.grantee, x.privilege_type, x.is_grantable
    FROM pg_class AS c LEFT JOIN LATERAL aclexplode(c.relacl) AS x ON TRUE
    WHERE c.relnamespace = 'ltm_original'::regnamespace AND c.relkind = 'r'
),
moved AS (
    SELECT c.oid, c.relname, CASE
        WHEN EXISTS (SELECT 1 FROM rights AS r WHERE r.relname = c.relname) THEN c.relname
        ELSE 'ltm_memories' END AS model
    FROM pg_class AS c
    WHERE c.relnamespace = %(home)s::regnamespace AND c.relkind = 'r' AND c.relname ~ '^ltm_'
)
SELECT DISTINCT format('GRANT %%s ON %%s TO %%s%%s', r.privilege_type, m.oid::regclass,
    CASE r.grantee WHEN 0 THEN 'PUBLIC' ELSE r.grantee::regrole::text END,
    CASE WHEN r.is_grantable THEN ' WITH GRANT OPTION' END), 1 AS place
FROM moved AS m JOIN rights AS r ON r.relname = m.model
WHERE r.privilege_type IS NOT NULL AND r.grantee <> r.relowner
UNION ALL
SELECT DISTINCT format('ALTER TABLE %%s OWNER TO %%s', m.oid::regclass, r.relowner::regrole), 2
FROM moved AS m JOIN rights AS r ON r.relname = m.model
JOIN pg_class AS c ON c.oid = m.oid AND c.relowner <> r.relowner
ORDER BY place
"""


def _move(a: _Adoption, source: str, target: str) -> None:
    """Move every object of ours from one schema to another."""
    arguments = {"source": source, "target": target}
    for (command,) in a.session.execute(OBJECTS, arguments).fetchall():
        a.session.execute(command)


def _swap_tables(a: _Adoption, present: list[str]) -> None:
    a.look_from(a.home)  # so that definitions name only schemas of others
    a.session.execute(
        "INSERT INTO ltm_adoption.foreign_keys (name, table_name, definition, is_outward) "
        "SELECT c.conname, t.relname, pg_get_constraintdef(c.oid), "
        "NOT (f.relnamespace = t.relnamespace AND f.relname = ANY(%s)) "
        "FROM pg_constraint AS c JOIN pg_class AS t ON t.oid = c.conrelid "
        "JOIN pg_class AS f ON f.oid = c.confrelid "
        "WHERE c.contype = 'f' AND t.relnamespace = %s::regnamespace AND t.relname = ANY(%s)",
        [present, a.home, present],
    )
    keys = _all(
        a.session, "SELECT table_name, name, definition, is_outward FROM ltm_adoption.foreign_keys"
    )
    a.run("CREATE SCHEMA ltm_original")
    for table, name, _, _ in keys:
        a.run("ALTER TABLE {table} DROP CONSTRAINT {name}", table=table, name=name)
    for table in present:
        a.run("DROP TRIGGER ltm_adoption_note ON {table}", table=table)
        a.run("ALTER TABLE {table} SET SCHEMA ltm_original", table=table)
    a.run("DROP INDEX ltm_next.ltm_memory_access_by_id")
    _move(a, "ltm_next", a.home)
    a.run("DROP SCHEMA ltm_next")
    for command, _ in a.session.execute(RIGHTS, {"home": a.home}).fetchall():
        a.session.execute(command)
    deferred = _all(
        a.session,
        "SELECT table_name, name, definition FROM ltm_adoption.deferred WHERE NOT is_index",
    )
    outward = [key[:3] for key in keys if key[3]]
    for table, name, definition in [*deferred, *outward]:
        a.run(
            "ALTER TABLE {table} ADD CONSTRAINT {name} {definition} NOT VALID",
            table=table,
            name=name,
            definition=sql.SQL(definition.removesuffix(" NOT VALID")),
        )
    for table, original in ORIGINALS.items():
        _take_over_sequence(a, table)
        if table != MEMORIES:
            a.run(
                "CREATE TRIGGER ltm_adoption_user BEFORE INSERT ON {table} "
                "FOR EACH ROW EXECUTE FUNCTION ltm_adoption.give_user({key})",
                table=table,
                key=sql.Literal(original.memory_key),
            )
    _watch(a, ORIGINALS)


def _take_over_sequence(a: _Adoption, table: str) -> None:
    """Let ids go on where the original stands, and keep where that was."""
    ours = _one(a.session, "SELECT pg_get_serial_sequence(%s, 'id')", table)
    highest = _one(a.session, sql.SQL("SELECT max(id) FROM {}").format(sql.Identifier(table))) or 0
    theirs = _one(
        a.session,
        "SELECT pg_sequence_last_value(sequence) FROM ltm_adoption.sequences WHERE table_name = %s",
        table,
    )
    mark = max(highest, theirs or 0)
    if mark:
        a.session.execute("SELECT setval(%s::regclass, %s)", [ours, mark])
    a.session.execute(
        "INSERT INTO ltm_adoption.marks (table_name, last_id) VALUES (%s, %s)", [table, mark]
    )
    a.session.execute(
        "UPDATE ltm_adoption.sequences SET sequence = %s::regclass WHERE table_name = %s",
        [ours, table],
    )


def _validate(a: _Adoption) -> None:
    """Check the foreign keys, one by one and without keeping anybody from writing."""
    a.look_from(a.home)
    for table, name in _all(
        a.session,
        "SELECT t.relname, c.conname FROM pg_constraint AS c "
        "JOIN pg_class AS t ON t.oid = c.conrelid "
        "WHERE t.relnamespace = %s::regnamespace AND t.relname = ANY(%s) AND NOT c.convalidated "
        "AND NOT EXISTS (SELECT 1 FROM ltm_adoption.foreign_keys AS k WHERE k.name = c.conname "
        "AND k.table_name = t.relname AND k.definition LIKE '%% NOT VALID')",
        a.home,
        list(ORIGINALS),
    ):
        a.alone(_validating(a, table, name), f"checking {name}")
    a.done("valid")
    seconds = time.monotonic() - a.started
    repairs = _one(a.session, "SELECT count(*) FROM ltm_adoption_report")
    count = _one(a.session, "SELECT count(*) FROM ltm_memories")
    a.report(
        f"adopted {count:,} memories in {seconds:.0f} s, {repairs:,} repairs are in "
        "ltm_adoption_report; the original tables are kept in the schema ltm_original"
    )


def _validating(a: _Adoption, table: str, name: str) -> Callable[[], None]:
    return lambda: a.run("ALTER TABLE {table} VALIDATE CONSTRAINT {name}", table=table, name=name)


# -- the way back ---------------------------------------------------------------------------------

# Only what differs from the repaired value goes back, so that the original's own values stay.
CHANGED: Final = """
    UPDATE {theirs} AS o SET {assignments}
    FROM {ours} AS n
    JOIN ltm_adoption.{repaired} AS r ON r.id = n.id AND r.user_id = n.user_id
    WHERE o.id = n.id AND n.{key} = ANY(ids) AND r.{key} = ANY(ids)
        AND ({new}) IS DISTINCT FROM ({repairs});
"""
GONE: Final = """
    DELETE FROM {theirs} AS o USING ltm_adoption.{repaired} AS r
    WHERE r.id = o.id AND r.{key} = ANY(ids) AND NOT EXISTS (
        SELECT 1 FROM {ours} AS n WHERE n.user_id = r.user_id AND n.id = r.id
    );
"""
OF_GONE: Final = """
    DELETE FROM {theirs} AS o
    WHERE o.{key} = ANY(ids)
        AND NOT EXISTS (SELECT 1 FROM {memories} AS n WHERE n.id = o.{key});
"""
ADDED: Final = """
    INSERT INTO {theirs} (id, {columns})
    SELECT n.id, {values} FROM {ours} AS n
    WHERE n.{key} = ANY(ids) AND n.user_id >= 0 AND n.id > {mark}
        AND NOT EXISTS (SELECT 1 FROM {theirs} AS o WHERE o.id = n.id)
    ON CONFLICT DO NOTHING;
"""
RETURNING: Final = """
CREATE OR REPLACE FUNCTION ltm_adoption.{name}(ids bigint[]) RETURNS void LANGUAGE plpgsql
AS $returning$ BEGIN {body} END $returning$
"""


def _make_way_back(a: _Adoption) -> None:
    """Make the functions that carry changes of the new tables to the original ones."""
    present = a.present()
    details = [t for t in present if t not in (MEMORIES, "ltm_memory_access")]
    memories = [_statement(a, CHANGED, MEMORIES)]
    for template in (CHANGED, GONE, OF_GONE, ADDED):
        memories += [_statement(a, template, table) for table in details]
    if "ltm_memory_access" in present:
        memories.append(_statement(a, OF_GONE, "ltm_memory_access"))
    memories += [_statement(a, template, MEMORIES) for template in (GONE, ADDED)]
    accesses = [
        _statement(a, template, table, key="id")
        for table in present
        if table == "ltm_memory_access"
        for template in (CHANGED, GONE, ADDED)
    ]
    for name, body in (("return_memories", memories), ("return_accesses", accesses)):
        a.run(RETURNING, name=name, body=sql.SQL("").join(body))


def _statement(a: _Adoption, template: str, table: str, key: str | None = None) -> sql.Composable:
    original = ORIGINALS[table]
    found = _present_columns(a, table)
    known = [name for name in original.columns if name in found and name != "id"]
    if "user_id" in found and "user_id" not in known:
        known.append("user_id")  # of details whose original has one too
    values = {
        name: f"timezone('utc', n.{name})"
        if found[name] == "timestamp with time zone"
        else f"n.{name}::{found[name]}"
        for name in known
    }
    compared = [name for name in known if name in original.columns]
    assignments = [
        f"{name} = CASE WHEN n.{name} IS DISTINCT FROM r.{name} THEN {values[name]} "
        f"ELSE o.{name} END"
        for name in compared
    ]
    mark = _one(a.session, "SELECT last_id FROM ltm_adoption.marks WHERE table_name = %s", table)

    def text(parts: Iterable[str]) -> sql.SQL:
        return sql.SQL(", ".join(parts))

    return sql.SQL(template).format(
        theirs=sql.Identifier("ltm_original", table),
        ours=sql.Identifier(a.home, table),
        memories=sql.Identifier(a.home, MEMORIES),
        repaired=sql.Identifier(f"repaired_{original.view}"),
        key=sql.Identifier(key or original.memory_key),
        assignments=text(assignments),
        new=text(f"n.{name}" for name in compared),
        repairs=text(f"r.{name}" for name in compared),
        columns=text(known),
        values=text(values.values()),
        mark=sql.Literal(mark),
    )


def _return_changes(a: _Adoption, at_most: int) -> int:
    return int(_one(a.session, "SELECT carry_changes(%s, TRUE)", at_most))


def _give_up(a: _Adoption) -> None:
    for table in a.present():
        name = sql.Identifier(a.home, table)
        a.run("DROP TRIGGER IF EXISTS ltm_adoption_note ON {table}", table=name)
        _forget_keys(a, table)
    a.run("DROP SCHEMA ltm_adoption CASCADE")
    a.run("DROP SCHEMA ltm_next CASCADE")


def _forget_keys(a: _Adoption, table: str) -> None:
    """Drop the indexes that only the copy needed."""
    for column in {"id", ORIGINALS[table].memory_key}:
        name = sql.Identifier(a.home, f"{table}_adoption_{column}")
        a.run("DROP INDEX IF EXISTS {name}", name=name)


def _swap_back(a: _Adoption) -> None:
    a.look_from("ltm_adoption", a.home)
    _lock(a, a.home, list(ORIGINALS))
    _carry_last(a, _return_changes)
    present = a.present()
    keys = _all(a.session, "SELECT table_name, name, definition, is_outward FROM foreign_keys")
    highest = dict(
        _all(a.session, "SELECT table_name, pg_sequence_last_value(sequence) FROM sequences")
    )
    a.look_from(a.home)
    for table in ORIGINALS:
        a.run("DROP TRIGGER ltm_adoption_note ON {table}", table=table)
        a.run("DROP TRIGGER IF EXISTS ltm_adoption_user ON {table}", table=table)
    for table, name, _, is_outward in keys:
        if is_outward:
            a.run("ALTER TABLE {table} DROP CONSTRAINT {name}", table=table, name=name)
    a.run("CREATE SCHEMA ltm_adopted")
    _move(a, a.home, "ltm_adopted")
    for table in present:
        a.run(
            "ALTER TABLE {table} SET SCHEMA {home}",
            table=sql.Identifier("ltm_original", table),
            home=a.home,
        )
        _forget_keys(a, table)
        theirs = _sequence(a, table)
        if theirs is not None and highest[table]:
            a.session.execute("SELECT setval(%s::regclass, %s)", [theirs, highest[table]])
    for table, name, definition, _ in keys:
        a.run(
            "ALTER TABLE {table} ADD CONSTRAINT {name} {definition} NOT VALID",
            table=table,
            name=name,
            definition=sql.SQL(definition.removesuffix(" NOT VALID")),
        )
    a.run("DROP SCHEMA ltm_adoption CASCADE")
    a.run("DROP SCHEMA ltm_original")
    a.unchecked = [key[:2] for key in keys if not key[2].endswith(" NOT VALID")]


STEPS: Final[dict[str, Callable[[_Adoption], None]]] = {
    "begun": _look,
    "tables": _make_tables,
    "deferred": _defer,
    "shown": _show_originals,
    "indexed": _find_by_key,
    "watched": _watch_originals,
    "copied": _copy,
    "built": _build_indexes,
    "checked": _check,
    "swapped": _swap,
    "valid": _validate,
}
