"""The errors that callers meet, and how the server's errors become them.

No message carries content: the server's own text holds the row it refused, so only the SQLSTATE and
the constraint's name are looked at.
"""

from __future__ import annotations

import asyncio
import os
import re
import socket
import ssl
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Self

import asyncpg


class LtmError(Exception):
    """Anything that this library raises."""


class InvalidArgument(LtmError, ValueError):
    """An argument was refused before anything was written.

    `field` names the argument ("tags", "enhanced_context.temporal.month"), `rule` says what it
    breaks.
    """

    def __init__(self, field: str, rule: str) -> None:
        super().__init__(f"{field}: {rule}")
        self.field = field
        self.rule = rule

    def __reduce__(self) -> tuple[type[Self], tuple[str, str]]:
        return type(self), (self.field, self.rule)


class InvalidMemory(InvalidArgument):
    """A field of a memory was refused before anything was written."""


@contextmanager
def told_as(field: str, argument: str) -> Iterator[None]:
    """Let the refusal of a field name the argument that the caller gave it by."""
    try:
        yield
    except InvalidArgument as error:
        if error.field.partition(".")[0] != field:
            raise
        raise type(error)(argument + error.field[len(field) :], error.rule) from None


class SchemaOutdated(LtmError):
    """The database lacks migrations that this library needs. `pending` names them in order."""

    def __init__(self, pending: Sequence[str]) -> None:
        names = ", ".join(pending) or "unknown"
        super().__init__(self._sentence(names))
        self.pending = tuple(pending)

    def _sentence(self, names: str) -> str:
        return f"pending migrations: {names}; run: python -m ltm_store.migrate"

    def __reduce__(self) -> tuple[type[Self], tuple[Sequence[str]]]:
        return type(self), (self.pending,)


class StepMissing(SchemaOutdated):
    """What was asked for needs an optional step that was not run. `pending` names it."""

    def _sentence(self, names: str) -> str:
        return f"the optional step {names} was not run: python -m ltm_store.migrate {names}"


class PermissionDenied(LtmError):
    """The role of the connection may not do this; under row level security, not for this user."""


class Unavailable(LtmError):
    """The database did not answer in time, or the connection was refused or lost.

    Trying again may help. Whether a write was done is unknown, unless rolled_back tells; one that
    carried an idempotency_key can be repeated in any case.
    """

    rolled_back = False
    """Whether the transaction was undone: by a deadlock, a serialization failure, or another writer
    of a key. Then it can be begun again."""


class Overtaken(Unavailable):
    """Another writer of a key came in between, which has undone the caller's transaction."""

    rolled_back = True

    def __init__(self) -> None:
        super().__init__("another writer of this key came in between, begin the transaction again")


# What a lost or refused connection looks like from asyncpg and the operating system.
CONNECTION_LOST = (
    asyncpg.PostgresConnectionError,
    asyncpg.InternalClientError,
    asyncpg.InterfaceError,
    OSError,
    asyncio.TimeoutError,
    asyncio.IncompleteReadError,
)

# SQLSTATEs by their longest known beginning.
_UNAVAILABLE = {
    "08": "connection lost",
    "25006": "the server is read-only",
    "28": "the server refused the user or the password",
    "3D000": "no such database",
    "40": "deadlock or serialization failure, the transaction was rolled back",
    "53": "the server is out of resources",
    "55P03": "a lock was not free in time",
    "57": "the server stopped the call",
    "58": "the server met a system error",
}
_RULES = {
    "21000": "a value stands twice",
    "22": "the database cannot store this value",
    "23502": "a value is missing",
    "23503": "no such memory of this user",
    "23505": "exists already",
    "23514": "outside the allowed values",
    "54": "too large or too deeply nested",
}
_OUTDATED = {"42P01", "42703", "42883"}
POOLED = "PgBouncer, or a pooler like it, is in between: connect(pgbouncer=True), --pgbouncer"
BOUND = (
    "row level security binds this role: connect(row_level_security=True), or let an operator do "
    "it, who is a member of ltm_owner"
)
_DENIED = {
    "affected by row-level security": BOUND,
    "violates row-level security": "row level security refused a row of another user",
}
_REASONS = {
    "0A000": "the schema changed under an open transaction, or the server lacks a feature",
    "26000": POOLED,
    "42P05": POOLED,
    "42704": "the schema lacks an object, python -m ltm_store.migrate makes it",
}
# Of the server's messages only those that name an object of the schema, never a value.
_NAMING = re.compile(
    r'permission denied for [a-z ]+ [\w.]+$|[a-z ]+ "[\w.]+" does not exist$', re.ASCII
)
# Of an error on another node of Citus only the message names the constraint, that of a shard.
_CONSTRAINT = re.compile(r'(?P<kind>foreign key|unique|check) constraint "(?P<name>\w+?)(_\d+)?"')
_KINDS = {"foreign key": "23503", "unique": "23505", "check": "23514"}
# What Citus may pass on from another node as an internal error, by its words.
_PASSED_ON = {
    "could not find valid entry for shard": "57",
    "SSL SYSCALL error": "08",
    "SSL connection has been closed": "08",
    "server closed the connection": "08",
    "could not receive data from server": "08",
    "could not send data to server": "08",
    "no connection to the server": "08",
    "value too long for type": "22001",
    "out of range": "22003",
}
# What asyncpg and asyncio say where a connection is used as none can be.
_MISUSES = {
    "another operation is in progress": "two calls at once on one connection: give each its own",
    "different loop": "this connection or pool is of another event loop: open one in each",
    "Event loop is closed": "the event loop of this connection or pool is closed",
}
# Constraints are named <table>_<column>_<meaning>; API names where they differ from the column.
_TABLES = (
    "ltm_memory_relationships_",
    "ltm_memory_access_",
    "ltm_memory_tags_",
    "ltm_memories_",
    "ltm_contexts_",
    "ltm_external_users_",
)
_MEANINGS = re.compile(r"(_fkey|_key|_(within|in_range|is|not)(_\w+)?)$")
_ARGUMENTS = {
    "memory_metadata": "metadata",
    "context_data": "enhanced_context",
    "external_id": "user_id",
}


def refused_field(constraint: str | None) -> str:
    """The argument that a constraint speaks of; "memory" where the server does not tell."""
    if constraint is None:
        return "memory"
    column = constraint
    for table in _TABLES:
        column = column.removeprefix(table)
    column = _MEANINGS.sub("", column)
    return _ARGUMENTS.get(column, column)


def _refusal(error: asyncpg.PostgresError, known: str) -> InvalidMemory:
    told = _CONSTRAINT.search(_message(error))
    field = refused_field(getattr(error, "constraint_name", None) or (told and told["name"]))
    if known == "23503" and field == "user_id":  # a foreign key to the application's own users
        return InvalidMemory(field, "the application has no such user")
    return InvalidMemory(field, _RULES[known])


def _message(error: BaseException) -> str:
    """The first line of the server's message, which names objects alone, never a value."""
    return str(error.args[0]).partition("\n")[0] if error.args else ""


def _state(error: asyncpg.PostgresError, state: str) -> str:
    """The SQLSTATE; of what Citus passes on from a shard as an internal error, the error's own."""
    if state == "CIINF":  # what another part gave is not where a shard was moved to
        return "57"
    if state != "XX000":
        return state
    if told := _CONSTRAINT.search(_message(error)):
        return _KINDS[told["kind"]]
    return next((own for said, own in _PASSED_ON.items() if said in _message(error)), state)


def _named(error: asyncpg.PostgresError) -> str:
    """What the server's message names of the schema."""
    message = _NAMING.match(str(error.args[0])) if error.args else None
    return f": {message[0]}" if message else ""


def _denial(error: asyncpg.PostgresError) -> str:
    said = str(error.args[0]) if error.args else ""
    for words, meaning in _DENIED.items():
        if words in said:
            return meaning
    return f"the role of this connection lacks a right{_named(error)}"


def translate(error: BaseException) -> LtmError | None:
    """Return our error for one of asyncpg, the server or the network, or None to let it pass."""
    if isinstance(error, asyncio.TimeoutError):
        return Unavailable("no answer within the timeout")
    if isinstance(error, asyncpg.ClientConfigurationError):
        if "certificate" in str(error):
            return InvalidArgument("dsn", "TLS: the certificate that it names cannot be read")
        return InvalidArgument("dsn", "cannot be read")
    if isinstance(error, ssl.SSLError):
        said = (getattr(error, name, None) for name in ("verify_message", "reason"))
        reason = next(filter(None, said), "no agreement")
        return Unavailable(f"TLS: {reason}")
    if isinstance(error, ConnectionError) and "SSL upgrade" in str(error):
        return Unavailable("TLS: the server does not speak it, and sslmode asks for it")
    if isinstance(error, socket.gaierror):
        return Unavailable("the server's host name was not found")
    if isinstance(error, asyncpg.InterfaceError | RuntimeError):
        for words, meaning in _MISUSES.items():
            if words in str(error):
                return LtmError(meaning)
    state = getattr(error, "sqlstate", None)
    if isinstance(error, asyncpg.PostgresError) and isinstance(state, str):
        state = _state(error, state)
        if state == "08P01" and "startup parameter" in str(error):
            return LtmError(f"{POOLED} (SQLSTATE {state})")
        for known in (state, state[:2]):
            if known in _UNAVAILABLE:
                ours = Unavailable(f"{_UNAVAILABLE[known]} (SQLSTATE {state})")
                ours.rolled_back = known == "40"
                return ours
            if known in _RULES:
                return _refusal(error, known)
        if state in _OUTDATED:
            return SchemaOutdated(())
        if state == "42501":
            return PermissionDenied(f"{_denial(error)} (SQLSTATE {state})")
        told = _named(error) if state in _REASONS else ""
        reason = _REASONS.get(state, "the server refused the statement")
        return LtmError(f"{reason}{told} (SQLSTATE {state})")
    if isinstance(error, CONNECTION_LOST):
        number = getattr(error, "errno", None)  # of a look-up or of TLS it is no errno
        named = isinstance(number, int) and number > 0
        reason = os.strerror(number) if named and number else type(error).__name__
        return Unavailable(f"no connection to the server ({reason})")
    return None
