"""Running a statement on whatever the caller hands in, and mapping its rows."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

import asyncpg
from pydantic import BaseModel

from ltm_store.db.statements import Statement, statements
from ltm_store.errors import LtmError, translate
from ltm_store.model.contexts import STORED
from ltm_store.model.values import UserId, parse_user_id

if TYPE_CHECKING:
    from asyncpg.pool import PoolConnectionProxy
    from asyncpg.transaction import Transaction

    Connection: TypeAlias = asyncpg.Connection[asyncpg.Record] | PoolConnectionProxy[asyncpg.Record]
    Pool: TypeAlias = asyncpg.Pool[asyncpg.Record]

SNAPSHOT: dict[str, Any] = {"isolation": "repeatable_read", "readonly": True}
POOL_TIMEOUT = 10.0  # seconds that a caller's own pool may take to hand out a connection
REMEMBERED = 60.0  # seconds after which a user's number is looked up again: others may forget it


class Handle(ABC):
    """What a Database is to the query functions: it runs statements and tracks accesses."""

    external_users: MutableMapping[str, tuple[int, float]]  # the number, and when it was found

    @abstractmethod
    async def run(self, sql: str, arguments: list[Any], *, repeat: bool) -> list[Any]:
        """The rows of a statement; with `repeat` it may be sent again after a lost connection."""

    @abstractmethod
    def transaction(
        self, *, unbounded: bool = False, snapshot: bool = False
    ) -> AbstractAsyncContextManager[Connection]:
        """A connection inside a transaction of its own."""

    @abstractmethod
    async def accessed(
        self,
        user_id: int,
        memory_ids: list[int],
        method: str,
        context: str | None,
        query: str | None,
    ) -> None:
        """Note that these memories were accessed."""

    @abstractmethod
    async def settled(self, user_id: int, memory_id: int | None = None) -> None:
        """Write what is noted of this memory, or of any of the user's, if anything waits."""


Executor: TypeAlias = "Handle | Connection | Pool"
Row = TypeVar("Row", bound=BaseModel)
One = TypeVar("One")


async def _run(db: Executor, statement: Statement, arguments: tuple[Any, ...], repeat: bool) -> Any:
    sql, bound = statement.bind(arguments)
    try:
        if isinstance(db, asyncpg.Pool):
            async with db.acquire(timeout=POOL_TIMEOUT) as connection:
                return await connection.fetch(sql, *bound)
        if isinstance(db, Handle):
            return await db.run(sql, bound, repeat=repeat or statement.only_reads)
        return await db.fetch(sql, *bound)
    except LtmError:
        raise
    except Exception as error:
        ours = translate(error)
        if ours is None:
            raise
    raise ours


async def fetch_rows(db: Executor, name: str, *arguments: Any, repeat: bool = False) -> list[Any]:
    """The records of a statement, unmapped."""
    return list(await _run(db, statements()[name], arguments, repeat))


async def fetch_value(db: Executor, name: str, *arguments: Any, repeat: bool = False) -> Any:
    """The first column of a statement's first row, or None."""
    rows = await _run(db, statements()[name], arguments, repeat)
    return rows[0][0] if rows else None


async def fetch_one(
    db: Executor, name: str, model: type[Row], *arguments: Any, repeat: bool = False
) -> Row | None:
    """The first row of a statement as a model, or None."""
    rows = await _run(db, statements()[name], arguments, repeat)
    return model.model_validate(dict(rows[0]), context=STORED) if rows else None


async def fetch_many(
    db: Executor, name: str, model: type[Row], *arguments: Any, repeat: bool = False
) -> list[Row]:
    """The rows of a statement as models, in its order."""
    rows = await _run(db, statements()[name], arguments, repeat)
    return [model.model_validate(dict(row), context=STORED) for row in rows]


async def find_user(db: Executor, user_id: UserId) -> int | None:
    """The number under which a user is stored, or None for an external id never written for.

    Raises InvalidMemory for anything that cannot be a user id.
    """
    return await _number(db, user_id, "find_user")


async def ensure_user(db: Executor, user_id: UserId, *, anew: bool = False) -> int:
    """The same for a write: an external id that is new is given a number.

    With `anew` what was remembered of the user is looked up again.
    """
    number = await _number(db, user_id, "intern_user", anew)
    if number is None:
        raise AssertionError("intern_user returns a number")
    return number


async def _number(db: Executor, user_id: UserId, statement: str, anew: bool = False) -> int | None:
    user = parse_user_id(user_id)
    if isinstance(user, int):
        return user
    # A number is kept on a Database alone: what a caller's connection finds may still roll back.
    known = db.external_users if isinstance(db, Handle) else {}
    if not anew and user in known and time.monotonic() < known[user][1] + REMEMBERED:
        return known[user][0]
    number: int | None = await fetch_value(db, statement, user, repeat=True)
    if number is not None:
        known[user] = (number, time.monotonic())
    return number


async def track(
    db: Executor,
    user_id: int,
    memory_ids: list[int],
    method: str,
    *,
    context: str | None = None,
    query: str | None = None,
) -> None:
    """Note that memories were accessed on a Database; elsewhere nothing is tracked."""
    if isinstance(db, Handle) and memory_ids:
        await db.accessed(user_id, memory_ids, method, context, query)


async def translated(call: Callable[[], Awaitable[One]]) -> One:
    """What a call of asyncpg's gives, its errors as ours."""
    try:
        return await call()
    except Exception as error:
        ours = translate(error)
        if ours is None:
            raise
    raise ours


@asynccontextmanager
async def in_transaction(
    db: Executor, *, unbounded: bool = False, snapshot: bool = False
) -> AsyncIterator[Connection]:
    """A connection inside a transaction: a new one, or a savepoint of the caller's.

    With `unbounded` a Database's timeout does not hold for its statements. With `snapshot` a new
    one only reads, and sees one state of the database.
    """
    if isinstance(db, Handle):
        async with db.transaction(unbounded=unbounded, snapshot=snapshot) as connection:
            yield connection
    elif isinstance(db, asyncpg.Pool):
        connection = await translated(lambda: db.acquire(timeout=POOL_TIMEOUT))
        try:
            async with _begun(connection, **SNAPSHOT if snapshot else {}):
                yield connection
        finally:
            await db.release(connection)
    else:
        async with _begun(db):
            yield db


@asynccontextmanager
async def _begun(connection: Connection, **options: Any) -> AsyncIterator[None]:
    async def begin() -> Transaction:
        transaction = connection.transaction(**options)
        await transaction.start()
        return transaction

    transaction = await translated(begin)
    try:
        yield
    except BaseException:
        with suppress(Exception):  # what made it necessary is raised
            await transaction.rollback()
        raise
    await translated(transaction.commit)


@asynccontextmanager
async def locking(db: Executor) -> AsyncIterator[Connection]:
    """A connection that keeps the locks of a statement for the next one.

    Inside a transaction of the caller's that is the caller's connection itself. (Two statements,
    because a statement that waited for a lock goes on with what it saw before it waited.)
    """
    if isinstance(db, Handle | asyncpg.Pool) or not await translated(lambda: _inside(db)):
        async with in_transaction(db) as connection:
            yield connection
    else:
        yield db


async def _inside(connection: Connection) -> bool:
    return connection.is_in_transaction()
