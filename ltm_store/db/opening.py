"""A connection as a Database has it, and what is looked at before the first call."""

from __future__ import annotations

import logging
import ssl
from collections.abc import Awaitable
from typing import Final

import asyncpg

from ltm_store.db import resources
from ltm_store.db.execute import Executor, fetch_many, fetch_one, fetch_rows
from ltm_store.db.pool import PooledConnection
from ltm_store.errors import InvalidArgument, LtmError, SchemaOutdated, StepMissing
from ltm_store.model.maintenance import RowLevelSecurity, SchemaDanger

MIGRATIONS_READ: Final = 10_000
DANGERS_TOLD: Final = 5

_log = logging.getLogger(__name__)


def session_settings(timeout: float, row_security: str) -> dict[str, str]:
    """Sent as the session starts, so they cost no round trip."""
    return {
        "application_name": "ltm_store",
        "statement_timeout": str(max(1, int(timeout * 1000))),  # where the client is gone
        "jit": "off",
        "default_transaction_isolation": "read committed",
        "gin_fuzzy_search_limit": "0",
        "extra_float_digits": "1",
        "standard_conforming_strings": "on",
        "row_security": row_security,
    }


async def open_connection(
    dsn: str | None, settings: dict[str, str], timeout: float, statements_kept: int
) -> PooledConnection:
    """A connection whose calls take the timeout at the most, in seconds."""
    connection: PooledConnection = await asyncpg.connect(
        dsn,
        connection_class=PooledConnection,
        timeout=timeout,
        command_timeout=timeout,
        statement_cache_size=statements_kept,
        max_cached_statement_lifetime=0,
        max_cacheable_statement_size=0,
        server_settings=settings,
    )
    connection.know_arrays()
    return connection


async def told_of(argument: str, connecting: Awaitable[PooledConnection]) -> PooledConnection:
    """The connection; a DSN that asyncpg cannot read is an error that names its argument."""
    try:
        return await connecting
    except ValueError as error:  # a port that is no number, a host that is no name
        if isinstance(error, asyncpg.InterfaceError | ssl.SSLError):
            raise
    raise InvalidArgument(argument, "cannot be read")


async def find_row_level_security(db: Executor) -> RowLevelSecurity:
    """Whether policies bind the connections of a Database, or a connection."""
    found = await fetch_one(db, "find_row_level_security", RowLevelSecurity)
    if found is None:
        raise AssertionError("find_row_level_security returns a row")
    return found


async def bind(connection: PooledConnection) -> None:
    """Let each statement on a connection tell its user, if policies keep it to one."""
    found = await find_row_level_security(connection)
    if found.schema_name is None:
        raise StepMissing(("row_level_security",))
    if found.exemption is not None:
        raise InvalidArgument(
            "row_level_security", f"should have a login of ltm_app: this is {found.exemption}"
        )
    # Told here, the type need not be looked up later, which would leave settings in the session.
    await connection.set_builtin_type_codec(
        "ltm_as_user", schema=found.schema_name, codec_name="int8"
    )
    connection.row_level_security = True


async def refuse_outdated_schema(db: Executor) -> None:
    """Raise SchemaOutdated where migrations are pending; log where the schema is newer."""
    known = resources.migration_ids()
    try:
        rows = await fetch_rows(db, "applied_migrations", row_limit=MIGRATIONS_READ)
    except SchemaOutdated:  # not even the table that tells
        raise SchemaOutdated(known) from None
    applied = {row["migration_id"] for row in rows}
    if pending := [name for name in known if name not in applied]:
        raise SchemaOutdated(pending)
    if newer := sorted(applied.difference(known)):
        _log.warning(
            "the schema is newer than this version of ltm_store: %s",
            ", ".join(newer),
            extra={"event": "schema_newer"},
        )


async def refuse_unsafe_schema(db: Executor) -> None:
    """Raise LtmError where others may put objects of theirs in the place of the schema's."""
    dangers = await fetch_many(db, "find_schema_dangers", SchemaDanger, row_limit=DANGERS_TOLD)
    if dangers:
        told = "; ".join(f"{danger.subject}: {danger.detail}" for danger in dangers)
        raise LtmError(f"{told}; or accept it: connect(trust_schema=True), --trust-schema")
