"""Transactions of asyncpg's connections, with errors of ours."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any, Final, TypeAlias, TypeVar

import asyncpg
from asyncpg.pool import PoolConnectionProxy
from asyncpg.transaction import Transaction

from ltm_store.errors import translate

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record] | PoolConnectionProxy[asyncpg.Record]"
One = TypeVar("One")

SNAPSHOT: Final[dict[str, Any]] = {"isolation": "repeatable_read", "readonly": True}


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
async def begun(connection: Connection, *, snapshot: bool = False) -> AsyncIterator[None]:
    """A transaction on a connection, or a savepoint inside the caller's; undone by an error.

    With `snapshot` a new one only reads, and sees one state of the database.
    """

    async def begin() -> Transaction:
        transaction = connection.transaction(**SNAPSHOT if snapshot else {})
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
