"""Looking at the original's tables before anything changes: their shape, obstacles, and room."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from math import ceil
from pathlib import Path
from typing import Final

from psycopg.conninfo import conninfo_to_dict

from ltm_store.migrate.adoption.session import Adoption, steps
from ltm_store.migrate.adoption.tables import KEYS, KINDS, MEMORIES, NEEDED, ORIGINALS
from ltm_store.migrate.ask import Session, value
from ltm_store.migrate.runner import MigrationFailed, applied_ids, run_migrations

# Measured at 60, 2,000, 20,000 and 200,000 memories, with details and without, short and long.
NEW_SCHEMA_BYTES: Final = 2_500_000
BYTES_OF_MEMORY: Final = 800
BYTES_OF_DETAIL: Final = 200
BYTES_OF_WORD: Final = {  # in search_vector, in rows of details, and in the indexes of both
    "content": 34,
    "tags": 250,
    "context_data": 45,
    "related_memory_ids": 500,
}
SORTING_OF_NEW: Final = 0.3
LOG_OF_NEW: Final = 1.4
SAMPLE_BYTES: Final = 1_000_000  # about so much of the memories


def wanted(session: Session) -> bool:
    """Whether the original's tables are here, or an adoption of them was begun and not ended."""
    home = value(session, "home")
    if home in steps(session).values():
        return "validate" not in steps(session)
    where = value(session, "schema_of_memories")
    if (
        home is None
        or where is None
        or any(name.endswith("_memories") for name in applied_ids(session))
    ):
        return False
    if where == home:
        return True
    if value(session, "relation", home=where, name="ltm_migrations") is not None:
        return False  # of another installation, which has its own schema
    raise MigrationFailed(
        f"{MEMORIES} stands in the schema {where}, but {home} comes first in search_path"
    )


def under_way(session: Session) -> bool:
    """Whether an adoption was begun here that is not finished."""
    return bool(steps(session))


def survey(a: Adoption) -> None:
    """Refuse what is not the original's before anything has changed; then begin."""
    problems = [
        *_strange_columns(a),
        *replicated(a),
        *_told(a.ask("dependents", home=a.home, tables=list(ORIGINALS))),
        *_told(a.ask("obstacles", home=a.home, tables=list(ORIGINALS))),
    ]
    if problems := problems or list(_impossible_rows(a)):
        raise MigrationFailed(f"the tables cannot be adopted: {'; '.join(problems)}")
    _look_for_room(a)
    if before := applied_ids(a.session):  # an attempt of a version that knew no adoption
        run_migrations(a.dsn, a.locked, before[::-1], "rollback", a.report)
    with a.session.transaction():
        for (command,) in a.ask("old_notes", home=a.home):  # the new tables bring their own
            a.session.execute(command)
        a.ask("create_schema", schema="ltm_adoption")
        a.ask("create_schema", schema="ltm_next")
        a.look_from("ltm_adoption")
        a.script("tools")
        for table, original in ORIGINALS.items():
            a.ask(
                "add_original",
                table_name=table,
                view_name=original.view,
                memory_key=original.memory_key,
                column_names=list(original.columns),
                column_kinds=list(original.columns.values()),
            )
        a.done("survey")


def replicated(a: Adoption) -> Iterator[str]:
    """Which publications and subscriptions the new tables would disturb."""
    return _told(a.ask("replication", home=a.home, tables=list(ORIGINALS)))


def _told(found: list[tuple[str, str]]) -> Iterator[str]:
    return (f"{what} ({help_})" for what, help_ in found)


def _strange_columns(a: Adoption) -> Iterator[str]:
    for table in a.present():
        known = {**ORIGINALS[table].columns, "user_id": "key"}
        columns = a.ask("columns", home=a.home, table_name=table)
        found = [name for name, _, _ in columns]
        for name, type_, written in columns:
            if name not in known:
                yield f"the column {table}.{name} is not the original's"
            elif type_ not in KINDS[known[name]]:
                moment = type_ == "timestamptz" and known[name] == "moment"
                yield f"the column {table}.{name} is of the type {written}" + (
                    f" (ALTER TABLE {table} ALTER {name} TYPE timestamp "
                    f"USING {name} AT TIME ZONE 'UTC')"
                    if moment
                    else ""
                )
        for name in NEEDED if table == MEMORIES else KEYS:
            if name in known and name not in found:
                yield f"the table {table} has no column {name}"


def _impossible_rows(a: Adoption) -> Iterator[str]:
    for table in a.present():
        name = (a.home, table)
        if (
            not a.value("has_unique_id", home=a.home, table_name=table)
            and (number := a.value("repeated_id", table_name=name)) is not None
        ):
            yield f"several rows of {table} have the id {number}"
        if a.value("has_row_without_id", table_name=name):
            yield f"a row of {table} has no id, or a negative one"
    if a.value("has_row_without_user", table_name=(a.home, MEMORIES)):
        yield f"a row of {MEMORIES} has no user_id, or a negative number"
    for table, key, query, command in a.ask("checked_keys", home=a.home, tables=a.present()):
        if rows := a.count(query):
            yield (
                f"the foreign key {key} does not hold for {rows:,} rows of {table} "
                f"(mend or delete them, or let it hold for new ones only: {command})"
            )


def _look_for_room(a: Adoption) -> None:
    new = _new_bytes(a)
    sorting, log = SORTING_OF_NEW * new, LOG_OF_NEW * new
    ((database, kept_wal, keeps_all),) = a.ask("room")
    if not keeps_all:  # all goes through the log, of which the server keeps so much
        log = min(log, kept_wal)
    need = new + sorting + log
    a.report(
        f"adopting {MEMORIES}: {_megabytes(need)} MB of room are needed beside the "
        f"{_megabytes(database)} MB of the database ({_megabytes(new)} for the new tables, "
        f"{_megabytes(sorting)} for sorting, {_megabytes(log)} for the log)"
    )
    folder = a.value("data_directory")
    host = str(conninfo_to_dict(a.dsn).get("host") or "/")
    if folder and host.startswith("/") and Path(folder).is_dir():  # the disk is ours to look at
        free = shutil.disk_usage(folder).free
        if free < need:
            raise MigrationFailed(
                f"adoption needs {_megabytes(need)} MB of room on the server's disk, "
                f"{_megabytes(free)} MB are free"
            )
    else:
        a.report("whether the server's disk has that room cannot be seen from here")


def _new_bytes(a: Adoption) -> float:
    """How much the new tables will take: their rows, and what each word of these brings along."""
    new = float(NEW_SCHEMA_BYTES)
    for table in a.present():
        size, name = a.value("size", home=a.home, table_name=table), (a.home, table)
        rows = a.value("count_rows", view_name=name)
        new += 1.2 * size + rows * (BYTES_OF_MEMORY if table == MEMORIES else BYTES_OF_DETAIL)
        if table == MEMORIES:
            there = {column for column, *_ in a.ask("columns", home=a.home, table_name=table)}
            one_of = 1 + size // SAMPLE_BYTES
            for column in there & BYTES_OF_WORD.keys():
                words = a.value("words_in", one_of=one_of, table_name=name, column_name=column)
                new += rows * (words or 0) * BYTES_OF_WORD[column]
    return new


def _megabytes(size: float) -> str:
    return f"{ceil(size / 1_000_000):,}"
