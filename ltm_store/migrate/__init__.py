"""Applying the schema: `python -m ltm_store.migrate`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, NamedTuple

try:
    import psycopg  # noqa: F401
    import yoyo  # noqa: F401
except ImportError:
    raise SystemExit("failed: install ltm_store[migrate], which brings yoyo and psycopg") from None

from ltm_store.db.dsn import for_libpq
from ltm_store.db.resources import migration_ids, optional_steps
from ltm_store.errors import InvalidArgument
from ltm_store.migrate import partitions
from ltm_store.migrate.adoption import adopt, reconcile, survey, way_back
from ltm_store.migrate.ask import Session, value
from ltm_store.migrate.runner import (
    MigrationFailed,
    Report,
    applied_ids,
    connected,
    migration_lock,
    optional_file,
    run_migrations,
    run_optional,
    stored_memories,
)
from ltm_store.migrate.suitability import refuse_unsafe, refuse_unsuitable, tell_letter_case
from ltm_store.migrate.views import (
    apply_views,
    drop_own_views,
    drop_views,
    stale_views,
    with_views_dropped,
)

ROW_LEVEL_SECURITY: Final = "row_level_security"
DISTRIBUTE: Final = "distribute"


class Status(NamedTuple):
    """The ids of what is applied and of what is not, each in the order of application.

    And the names of the views that are not as this version makes them.
    """

    applied: list[str]
    pending: list[str]
    stale_views: list[str]


@contextmanager
def _looking(dsn: str, trust_schema: bool) -> Iterator[Session]:
    """A session in a schema that is safe, or trusted."""
    with connected(for_libpq(dsn)) as connection:
        if not trust_schema:
            refuse_unsafe(connection)
        yield connection


@contextmanager
def _changing(dsn: str, report: Report, trust_schema: bool) -> Iterator[Session]:
    """A session that alone changes the schema, in a database that can have it."""
    with _looking(dsn, trust_schema) as connection, migration_lock(connection, report):
        refuse_unsuitable(connection)
        yield connection


def apply(dsn: str, report: Report = lambda line: None, *, trust_schema: bool = False) -> list[str]:
    """Apply every pending migration and return their ids; safe to run in several processes at once.

    Then the views are made whose text has changed. Where the original application's tables are,
    they are adopted: see adopt. `report` gets a line after each step.

    Raises MigrationFailed, as all functions here do before the first step where the server, the
    database or the role is unsuitable, or others may create or have created functions in a schema
    of the search_path (unless `trust_schema`); and InvalidArgument for a DSN that connect refuses.
    """
    dsn = for_libpq(dsn)
    with _changing(dsn, report, trust_schema) as connection:
        tell_letter_case(connection, report)
        before = applied_ids(connection)
        if survey.wanted(connection):
            adopt.adopt(dsn, connection, report)
        applied = applied_ids(connection)
        pending = [name for name in migration_ids() if name not in applied]
        with _row_level_security_renewed(connection, report, changes=bool(pending)):
            run_migrations(dsn, connection, pending, "apply", report)
            _distribute_new_tables(connection, report, changes=bool(pending))
            apply_views(connection, report)
    return [name for name in migration_ids() if name not in before]


def apply_embedded(
    dsn: str, report: Report = lambda line: None, *, trust_schema: bool = False
) -> list[str]:
    """Apply what is pending to the embedded server, which has recall by meaning unasked."""
    done = apply(dsn, report, trust_schema=trust_schema)
    with connected(dsn) as connection:
        has_step = value(connection, "has_embeddings")
    if not has_step:
        optional(dsn, "embeddings", report=report)
    return done


def rollback(
    dsn: str,
    *,
    to: str | None = None,
    everything: bool = False,
    report: Report = lambda line: None,
    trust_schema: bool = False,
) -> list[str]:
    """Roll back the last migration, those after the id `to`, or everything; return their ids.

    The views are dropped first; those that the remaining schema bears are made again. Everything
    means the original application's tables where those were adopted and it is not
    finished. Raises MigrationFailed, also when `to` is not applied.
    """
    dsn = for_libpq(dsn)
    with _changing(dsn, report, trust_schema) as connection:
        applied = applied_ids(connection)
        if survey.under_way(connection):
            if not everything:
                raise MigrationFailed(
                    "these tables were adopted: only everything goes back (rollback --all), "
                    "until finish_adoption"
                )
            way_back.go_back(dsn, connection, report)
            return applied[::-1]
        chosen = _last(applied, to, everything)
        if chosen:
            rights = drop_views(connection, report)
            drops_memories = _drops_memories(chosen)
            if drops_memories:  # on which these hang
                if value(connection, "has_row_level_security"):
                    run_optional(connection, ROW_LEVEL_SECURITY, undo=True, report=report)
                run_optional(connection, "embeddings", undo=True)
            with _row_level_security_renewed(connection, report, changes=not drops_memories):
                try:
                    run_migrations(dsn, connection, chosen, "rollback", report)
                finally:
                    apply_views(connection, report, rights, partly=True)
    return chosen


def memories_lost(
    dsn: str, *, to: str | None = None, everything: bool = False, trust_schema: bool = False
) -> int:
    """How many memories a rollback would drop. Raises MigrationFailed as rollback does."""
    with _looking(dsn, trust_schema) as connection:
        if survey.under_way(connection):
            return 0  # they go back into the original tables
        chosen = _last(applied_ids(connection), to, everything)
        return stored_memories(connection) if _drops_memories(chosen) else 0


def _drops_memories(chosen: list[str]) -> bool:
    return any(name.endswith("_memories") for name in chosen)


def _last(applied: list[str], to: str | None, everything: bool) -> list[str]:
    """The migrations to roll back, the last one first."""
    if to is not None and to not in applied:
        raise MigrationFailed(f"{to} is not applied")
    last = [name for name in applied if to is None or name > to][::-1]
    return last if everything or to is not None else last[:1]


def optional(
    dsn: str,
    name: str,
    *,
    undo: bool = False,
    report: Report = lambda line: None,
    trust_schema: bool = False,
) -> None:
    """Run an optional step, or undo it. Raises MigrationFailed, InvalidArgument for no step."""
    if name not in optional_steps():
        raise InvalidArgument("name", f"should be one of {', '.join(optional_steps())}")
    with _changing(dsn, report, trust_schema) as connection:
        if not undo and value(connection, "is_distributed"):
            if name == ROW_LEVEL_SECURITY:
                raise MigrationFailed(f"{name}: it does not reach the other nodes of Citus")
            if name == partitions.STEP:
                raise MigrationFailed(f"{name}: it comes before {DISTRIBUTE}")
        if name == DISTRIBUTE and undo:
            _gather(connection, report)
            return
        if name == partitions.STEP:
            partitions.partition_accesses(connection, report, undo=undo)
            return
        if name == "finish_adoption" and not undo:
            reconcile.settle(connection, report)
        with _row_level_security_renewed(connection, report, changes=name != ROW_LEVEL_SECURITY):
            run_optional(connection, name, undo=undo, report=report)
            _distribute_new_tables(connection, report, changes=name != DISTRIBUTE)


def _distribute_new_tables(connection: Session, report: Report, *, changes: bool) -> None:
    """Let tables that came after the step `distribute` follow the others."""
    if changes and value(connection, "is_distributed"):
        run_optional(connection, DISTRIBUTE, undo=False, report=report)


def _gather(connection: Session, report: Report) -> None:
    """Undo the step `distribute`: all or nothing, while others wait for the tables."""
    if not value(connection, "is_distributed"):
        report("the tables are not distributed")
        return
    text = optional_file(DISTRIBUTE, undo=True).read_bytes()
    with_views_dropped(connection, DISTRIBUTE, lambda: connection.execute(text), report)


@contextmanager
def _row_level_security_renewed(
    connection: Session, report: Report, *, changes: bool
) -> Iterator[None]:
    """Run that step again, where it was run, after changes of the schema."""
    has_step = changes and value(connection, "has_row_level_security")
    if has_step:
        drop_own_views(connection)
    try:
        yield
    finally:
        if has_step:
            run_optional(connection, ROW_LEVEL_SECURITY, undo=False, report=report)


def reconcile_mirrors(
    dsn: str, report: Report = lambda line: None, *, trust_schema: bool = False
) -> None:
    """Bring tags, relationships and contexts in step with the memories' own columns.

    For the time in which the original application still writes one side only. Raises
    MigrationFailed.
    """
    with _changing(dsn, report, trust_schema) as connection:
        reconcile.reconcile_mirrors(connection, report)


def status(dsn: str, *, trust_schema: bool = False) -> Status:
    """What is applied, pending and stale. Reads only. Raises MigrationFailed."""
    with _looking(dsn, trust_schema) as connection:
        applied = applied_ids(connection)
        stale = stale_views(connection)
    return Status(applied, [name for name in migration_ids() if name not in applied], stale)


def is_distributed(dsn: str, *, trust_schema: bool = False) -> bool:
    """Whether the tables are spread over the nodes of Citus. Raises MigrationFailed."""
    with _looking(dsn, trust_schema) as connection:
        return bool(value(connection, "is_distributed"))
