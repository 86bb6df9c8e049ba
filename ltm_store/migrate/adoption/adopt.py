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
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from ltm_store.db.resources import migration_ids
from ltm_store.migrate.adoption import tables as originals
from ltm_store.migrate.adoption.tables import (
    KEYS,
    KINDS,
    MEMORIES,
    NEEDED,
    ORIGINALS,
    SHOWN,
    TYPES,
    Adoption,
    Bar,
    Session,
    ask,
    steps,
    value,
)
from ltm_store.migrate.runner import MigrationFailed, Report, applied_ids, connected, run_migrations
from ltm_store.migrate.views import apply_views

WORK_MEMORY: Final = "256MB"  # for building indexes
COPIED: Final = {"memory": "original_memories", "access": "original_accesses"}
CHECKS: Final = 10  # how often both sides are compared


def wanted(session: Session) -> bool:
    """Whether the original's tables are here, or an adoption of them was begun and not ended."""
    home = value(session, "home")
    if home in steps(session).values():
        return "valid" not in steps(session)
    where = value(session, "schema_of_memories")
    if (
        home is None
        or where is None
        or any(name.endswith("_memories") for name in applied_ids(session))
    ):
        return False
    if where == home:
        return True
    if value(session, "relation", where, "ltm_migrations") is not None:
        return False  # of another installation, which has its own schema
    raise MigrationFailed(
        f"{MEMORIES} stands in the schema {where}, but {home} comes first in search_path"
    )


def under_way(session: Session) -> bool:
    """Whether an adoption was begun here that is not finished."""
    return bool(steps(session))


def adopt(dsn: str, locked: Session, report: Report) -> None:
    """Make ours of the original's tables. `locked` holds the lock of those who migrate.

    Raises MigrationFailed: before anything has changed when the tables are not the original's or
    something else depends on them, afterwards with all that was done kept for the next run.
    """
    with Adoption.of(dsn, locked, report) as adoption:
        for step, work in STEPS.items():
            if step not in steps(adoption.session):
                locked.execute("SELECT 1")  # without this session the lock is gone
                work(adoption)


def reconcile_mirrors(session: Session, report: Report, *, everything: bool) -> None:
    """Bring details and the memories' own columns in step after an older program wrote only one.

    What either side says is kept. Unless `everything` is asked for, memories that were changed in
    the last ten minutes are left alone: the program may be about to write their details itself.
    Raises MigrationFailed without an adoption that came to its end.
    """
    if "valid" not in steps(session):
        raise MigrationFailed("no adoption has come to its end here and waits to be finished")
    home = steps(session)["valid"]
    path = sql.SQL("SET search_path = ltm_adoption, {}")
    session.execute(path.format(sql.Identifier(home)))
    last = -1
    while ids := value(session, "next_memories", last, originals.BATCH, everything):
        ask(session, "complete", ids)
        last = ids[-1]
    session.execute(sql.SQL("SET search_path = {}").format(sql.Identifier(home)))
    report("details and memories are in step")


# -- what is there --------------------------------------------------------------------------------


def _look(a: Adoption) -> None:
    """Refuse what is not the original's before anything has changed; then begin."""
    problems = [
        *_strange_columns(a),
        *(text for (text,) in a.ask("obstacles", a.home, list(ORIGINALS))),
    ]
    if problems := problems or list(_impossible_rows(a)):
        raise MigrationFailed(f"the tables cannot be adopted: {'; '.join(problems)}")
    _look_for_room(a)
    if before := applied_ids(a.session):  # an attempt of a version that knew no adoption
        run_migrations(a.dsn, a.locked, before[::-1], "rollback", a.report)
    with a.session.transaction():
        for (command,) in a.ask("old_notes", a.home):  # the new tables bring their own
            a.session.execute(command)
        a.run("CREATE SCHEMA ltm_adoption")
        a.run("CREATE SCHEMA ltm_next")
        a.look_from("ltm_adoption")
        a.script("tools")
        a.done("begun")


def _strange_columns(a: Adoption) -> Iterator[str]:
    for table in a.present():
        known = {**ORIGINALS[table].columns, "user_id": "key"}
        found = [name for name, _, _ in a.ask("columns", a.home, table)]
        for name, type_, written in a.ask("columns", a.home, table):
            if name not in known:
                yield f"the column {table}.{name} is not the original's"
            elif type_ not in KINDS[known[name]]:
                yield f"the column {table}.{name} is of the type {written}"
        for name in NEEDED if table == MEMORIES else KEYS:
            if name in known and name not in found:
                yield f"the table {table} has no column {name}"


def _impossible_rows(a: Adoption) -> Iterator[str]:
    for table in a.present():
        name = sql.Identifier(a.home, table)
        twice = (
            "SELECT min(x.id) FROM (SELECT id FROM {table} GROUP BY id HAVING count(*) > 1) AS x"
        )
        if (
            not a.value("has_unique_id", a.home, table)
            and (number := a.first(twice, table=name)) is not None
        ):
            yield f"several rows of {table} have the id {number}"
        if a.first("SELECT 1 FROM {table} WHERE id IS NULL OR id < 0 LIMIT 1", table=name):
            yield f"a row of {table} has no id, or a negative one"
    strange = "SELECT 1 FROM {table} WHERE user_id IS NULL OR user_id < 0 LIMIT 1"
    if a.first(strange, table=sql.Identifier(a.home, MEMORIES)):
        yield f"a row of {MEMORIES} has no user_id, or a negative number"


def _look_for_room(a: Adoption) -> None:
    need = 2 * sum(a.value("size", a.home, table) for table in a.present())
    a.report(f"adopting {MEMORIES}: {_megabytes(need)} MB of room are needed beside the tables")
    folder = a.value("data_directory")
    host = str(conninfo_to_dict(a.dsn).get("host") or "/")
    if folder and host.startswith("/") and Path(folder).is_dir():  # the disk is ours to look at
        free = shutil.disk_usage(folder).free
        if free < need:
            raise MigrationFailed(
                f"adoption needs {_megabytes(need)} MB of room on the server's disk, "
                f"{_megabytes(free)} MB are free"
            )


def _megabytes(size: int) -> str:
    return f"{-(-size // 1_000_000):,}"


# -- the new tables -------------------------------------------------------------------------------


def _make_tables(a: Adoption) -> None:
    """Apply the ordinary migrations in a schema of their own."""
    with connected(a.next_dsn) as inside:
        done = applied_ids(inside)
    pending = [name for name in migration_ids() if name not in done]
    run_migrations(a.next_dsn, a.locked, pending, "apply", a.report)
    with connected(a.next_dsn) as inside:
        apply_views(inside, a.report)
    if names := a.ask("names_taken", a.home, a.present()):
        a.give_up()
        raise MigrationFailed(f"the tables cannot be adopted: {'; '.join(n for (n,) in names)}")
    a.done("tables")


def _defer(a: Adoption) -> None:
    """Leave foreign keys and GIN indexes for later, and let the copy find accesses by their id."""
    with a.session.transaction():
        a.look_from("ltm_next")  # so that definitions do not name the schema
        a.ask("defer")
        for name, table, is_index, *_ in a.ask("deferred"):
            if is_index:
                a.run("DROP INDEX {name}", name=name)
            else:
                a.run("ALTER TABLE {table} DROP CONSTRAINT {name}", table=table, name=name)
        a.run("CREATE INDEX ltm_memory_access_by_id ON ltm_memory_access (id)")
        a.done("deferred")


def _show_originals(a: Adoption) -> None:
    """Make the views original_*, and behind them what carries rows over."""
    with a.session.transaction():
        a.look_from("ltm_adoption", "ltm_next")
        for table in ORIGINALS:
            _show(a, table)
            _choose_sequence(a, table)
        a.script("repairs")
        a.done("shown")


def _show(a: Adoption, table: str) -> None:
    original = ORIGINALS[table]
    found = a.columns(table)
    parts = []
    for name, kind in original.columns.items():
        if name not in found:
            shown = f"({original.given.get(name, 'NULL')})::{TYPES[kind]}"
        elif kind == "json" and found[name] == "jsonb":
            shown = f"o.{name}"
        else:
            shown = SHOWN[kind].format(name)
        parts.append(f"{shown} AS {name}")
    a.run(
        "CREATE VIEW {view} AS SELECT {columns} "
        + ("FROM {table} AS o" if found else "WHERE FALSE"),
        view=f"original_{original.view}",
        columns=sql.SQL(", ".join(parts)),
        table=sql.Identifier(a.home, table),
    )


def _choose_sequence(a: Adoption, table: str) -> None:
    """Take ids from the original's own sequence where it has one, so that they are given once."""
    theirs = a.value("sequence", a.home, table) if table in a.present() else None
    sequence = theirs or a.value("sequence", "ltm_next", table)
    view = sql.Identifier(f"original_{ORIGINALS[table].view}")
    # Ids at the end of what an integer holds are nobody's numbers, and no others would follow them.
    numbers = "SELECT max(id) FROM {view} WHERE id NOT BETWEEN 2146435072 AND 2147483647"
    highest = a.first(numbers, view=view) or 0
    if highest > (a.value("stands_at", sequence) or 0):
        a.ask("set_sequence", sequence, highest)
    a.ask("use_sequence", table, sequence)


# -- the copy -------------------------------------------------------------------------------------


def _find_by_key(a: Adoption) -> None:
    """Index the original tables where they are not, so that a batch finds its rows."""
    for table in a.present():
        for column in ORIGINALS[table].found_by:
            if not a.value("is_indexed", a.home, table, column):
                name = f"{table}_adoption_{column}"
                a.with_short_lock(_dropping(a, name), f"indexing {table}")
                a.run(
                    "CREATE INDEX CONCURRENTLY {name} ON {table} ({column})",
                    name=name,
                    table=sql.Identifier(a.home, table),
                    column=column,
                )
    a.done("indexed")


def _dropping(a: Adoption, index: str) -> Callable[[], None]:
    return lambda: a.run("DROP INDEX IF EXISTS {name}", name=sql.Identifier(a.home, index))


def _watch_originals(a: Adoption) -> None:
    present = a.present()

    def work() -> None:
        a.lock(present, "SHARE ROW EXCLUSIVE")  # before the first look at the rows
        a.watch(present)
        for kind, view in COPIED.items():  # what comes later is noted
            name = sql.Identifier("ltm_adoption", view)
            a.ask("set_progress", f"last {kind}", a.first("SELECT max(id) FROM {v}", v=name) or 0)
        a.done("watched")

    a.with_short_lock(work, "watching the original tables")


def _copy(a: Adoption) -> None:
    """Copy all rows in batches of one transaction each, and keep how far it came."""
    a.look_from("ltm_adoption", "ltm_next")
    _copy_all(a, "memory", "adopt_memories", originals.BATCH)
    _copy_all(a, "access", "adopt_accesses", 5 * originals.BATCH)
    with a.session.transaction():
        a.run("SELECT note_orphans(), report_rows_without_memory()")
        a.done("copied")


def _copy_all(a: Adoption, kind: str, function: str, size: int) -> None:
    view = COPIED[kind]
    end = a.value("progress", f"last {kind}")
    last = a.value("progress", kind)
    if last is None:
        last = -1
    before = "SELECT count(*) FROM {view} WHERE id <= {last}"
    bar = Bar(
        a.report,
        f"copying {view.removeprefix('original_')}",
        a.first("SELECT count(*) FROM {view}", view=view),
        a.first(before, view=view, last=sql.Literal(last)),
    )
    batch = (
        "SELECT array_agg(b.id ORDER BY b.id)::bigint[] FROM "
        "(SELECT id FROM {view} WHERE id > {last} AND id <= {end} ORDER BY id LIMIT {size}) AS b"
    )
    bounds = {"end": sql.Literal(end), "size": sql.Literal(size)}
    copied, planned_for = 0, 0
    while ids := a.first(batch, view=view, last=sql.Literal(last), **bounds):
        last = ids[-1]
        with a.snapshot():
            a.run("SELECT {function}({ids})", function=function, ids=sql.Literal(ids))
            a.ask("set_progress", kind, last)
        bar.move(len(ids))
        copied += len(ids)
        if copied > 3 * planned_for:  # plans made for smaller tables would read all of them
            planned_for = copied
            _analyze(a)


def _build_indexes(a: Adoption) -> None:
    """Make the GIN indexes of the filled tables, which nobody uses yet."""
    a.look_from("ltm_next", "ltm_adoption")
    a.run("SET maintenance_work_mem = {memory}", memory=sql.Literal(WORK_MEMORY))
    for name, _, is_index, definition, comment, is_there in a.ask("deferred"):
        if is_index and not is_there:
            with a.session.transaction():
                a.session.execute(definition)
                text = sql.Literal(comment)
                a.run("COMMENT ON INDEX ltm_next.{name} IS {text}", name=name, text=text)
            a.report(f"made the index {name}")
    _analyze(a)
    a.done("built")


def _analyze(a: Adoption) -> None:
    for table in ORIGINALS:
        a.run("VACUUM (ANALYZE) {table}", table=sql.Identifier("ltm_next", table))


def _check(a: Adoption) -> None:
    """Compare both sides row by row; what differs is carried over again, and differs no more."""
    a.look_from("ltm_adoption", "ltm_next")
    for _ in range(CHECKS):
        a.drain(is_back=False)
        for _ in range(2):  # all that is there at a moment, then what that leads to
            with a.snapshot():
                a.value("carry_changes", originals.MANY, False)
        with a.session.transaction():
            for way in ("seqscan", "hashjoin", "mergejoin"):
                a.run(f"SET LOCAL enable_{way} = on")
            different = a.first("SELECT note_differences() + note_dangling()")
        if not different:
            break
    else:
        raise MigrationFailed(f"{different} memories are not the same in the new tables")
    a.done("checked")


# -- the swap -------------------------------------------------------------------------------------


def _swap(a: Adoption) -> None:
    a.look_from("ltm_adoption", "ltm_next")
    present = a.present()

    def work() -> None:
        a.look_from(a.home)  # so that definitions name only schemas of others
        a.lock(present)  # before the first query, which decides what the transaction sees
        keys = a.ask("note_foreign_keys", a.home, present)
        a.release_others(keys)
        # Only queries wait for the server's answer, so that others do not wait for a far session.
        with a.session.pipeline():
            a.look_from("ltm_adoption", "ltm_next")
            a.carry_last(is_back=False)
            _exchange(a, present, keys)
            a.done("swapped")

    a.with_short_lock(work, "the swap", before=lambda: a.drain(is_back=False))
    a.report("the new tables are in place")


def _exchange(a: Adoption, present: list[str], keys: list[Any]) -> None:
    a.look_from(a.home)
    a.run("CREATE SCHEMA ltm_original")
    for table, name, _, is_outward in keys:
        if not is_outward:
            a.run("ALTER TABLE {table} DROP CONSTRAINT {name}", table=table, name=name)
    for table in present:
        a.run("DROP TRIGGER ltm_adoption_note ON {table}", table=table)
        a.run("ALTER TABLE {table} SET SCHEMA ltm_original", table=table)
        a.move_sequence(table, a.home, "ltm_original")
    a.run("DROP INDEX ltm_next.ltm_memory_access_by_id")
    a.ask("note_others", a.home)
    a.move("ltm_next", a.home)
    a.run("DROP SCHEMA ltm_next")
    for command, _ in a.ask("rights", a.home):
        a.session.execute(command)
    ours = [
        (table, name, text) for name, table, is_index, text, *_ in a.ask("deferred") if not is_index
    ]
    a.add_foreign_keys(ours + [key[:3] for key in keys if key[3]])
    a.ask("take_over_sequences", a.home)
    for table, original in ORIGINALS.items():
        if table != MEMORIES:
            a.run(
                "CREATE TRIGGER ltm_adoption_user BEFORE INSERT ON {table} "
                "FOR EACH ROW EXECUTE FUNCTION ltm_adoption.give_user({key})",
                table=table,
                key=sql.Literal(original.memory_key),
            )
    a.watch(ORIGINALS)


def _validate(a: Adoption) -> None:
    a.look_from(a.home)
    for table, name in a.ask("unchecked_keys", a.home, list(ORIGINALS)):
        a.check_foreign_key(table, name)
    ((memories, repairs),) = a.ask("summary")
    seconds = time.monotonic() - a.started
    a.done("valid")
    a.report(
        f"adopted {memories:,} memories in {seconds:.0f} s, {repairs:,} repairs are in "
        "ltm_adoption_report; the original tables are kept in the schema ltm_original"
    )


STEPS: Final[dict[str, Callable[[Adoption], None]]] = {
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
