"""Connections of a Database: a pool of them, and what each adds to asyncpg's."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, Final

import asyncpg

from ltm_store.errors import LtmError

CLOSE_SECONDS: Final = 5.0  # for the goodbyes of connections


class PooledConnection(asyncpg.Connection):
    """A connection with a bound for each statement, in seconds, which can be changed.

    It does not take a COMMIT for one when the server answers ROLLBACK.
    """

    bound: float | None = None

    async def fetch(
        self, query: str, *args: Any, timeout: float | None = None, **options: Any
    ) -> list[Any]:
        """The rows of a query; see asyncpg."""
        limit = self.bound if timeout is None else timeout
        rows: list[Any] = await super().fetch(query, *args, timeout=limit, **options)
        return rows

    async def execute(self, query: str, *args: Any, timeout: float | None = None) -> str:
        """The status of a command; see asyncpg."""
        status = await super().execute(query, *args, timeout=timeout)
        if status == "ROLLBACK" and query.startswith("COMMIT"):
            raise LtmError("an error inside the transaction undid it, nothing was committed")
        return status


class ConnectionPool:
    """Connections, the last one returned handed out first.

    asyncpg's own pool sends a reset after every call and wraps each connection; this library
    leaves no state behind in a session, so neither is needed.
    """

    def __init__(self, connect: Callable[[], Awaitable[PooledConnection]], max_size: int) -> None:
        self._connect = connect
        self._max_size = max_size
        self._idle: list[PooledConnection] = []
        self._out: set[PooledConnection] = set()
        self._opening = 0
        self._waiting: deque[asyncio.Future[PooledConnection | None]] = deque()
        self._leaving: set[asyncio.Task[None]] = set()
        self.closed = False

    @property
    def figures(self) -> tuple[int, int, int, int]:
        """The first figures of Stats."""
        size = len(self._idle) + len(self._out)
        return size, len(self._idle), self._max_size, len(self._waiting)

    async def acquire(self, deadline: float) -> PooledConnection:
        """A connection that is not known to be broken. Raises TimeoutError at the deadline."""
        while True:
            if self.closed:
                raise asyncpg.InterfaceError("the database is closed")
            while self._idle:
                connection = self._idle.pop()
                if not connection.is_closed():
                    self._out.add(connection)
                    return connection
            if len(self._out) + self._opening < self._max_size:
                return await self._open(deadline)
            connection_or_place = await self._wait(deadline)
            if connection_or_place is not None:
                return connection_or_place

    async def _open(self, deadline: float) -> PooledConnection:
        self._opening += 1
        try:
            async with asyncio.timeout_at(deadline):
                connection = await self._connect()
        except BaseException:
            self._opening -= 1
            self._wake(None)
            raise
        self._opening -= 1
        self._out.add(connection)
        return connection

    async def _wait(self, deadline: float) -> PooledConnection | None:
        place: asyncio.Future[PooledConnection | None] = asyncio.get_running_loop().create_future()
        self._waiting.append(place)
        try:
            async with asyncio.timeout_at(deadline):
                return await place
        except BaseException:
            if place.done() and not place.cancelled():  # served and cancelled at the same moment
                served = place.result()
                if served is None:
                    self._wake(None)
                else:
                    self.release(served)
            elif place in self._waiting:
                self._waiting.remove(place)
            raise

    def _wake(self, connection: PooledConnection | None) -> bool:
        """Hand a connection, or the place for a new one, to the first call that waits."""
        while self._waiting:
            place = self._waiting.popleft()
            if not place.done():
                place.set_result(connection)
                return True
        return False

    def release(self, connection: PooledConnection) -> None:
        """Take a connection back; one that is broken or inside a transaction is thrown away."""
        if connection not in self._out:
            return  # discarded
        if not connection.is_closed() and connection.is_in_transaction():
            connection.terminate()
        if self.closed and not connection.is_closed():
            connection.terminate()
        if connection.is_closed():
            self._out.discard(connection)
            self._wake(None)
        elif not self._wake(connection):
            self._out.discard(connection)
            self._idle.append(connection)

    def discard(self, connection: PooledConnection) -> None:
        """Do without a connection that did not answer in time.

        asyncpg asks the server to cancel the statement; the goodbye waits for that, within bounds.
        """
        self._out.discard(connection)
        self._wake(None)
        task = asyncio.ensure_future(_goodbye(connection))
        self._leaving.add(task)
        task.add_done_callback(self._leaving.discard)

    def drop_idle(self) -> None:
        """Throw away the idle connections: the server that they led to is gone."""
        while self._idle:
            self._idle.pop().terminate()

    async def close(self, timeout: float) -> None:
        """Close every connection, politely while there is time; a broken one raises nothing."""
        self.closed = True
        while self._wake(None):
            pass
        idle, self._idle = self._idle, []
        goodbyes = asyncio.gather(*map(_goodbye, idle), *self._leaving)
        try:
            with suppress(TimeoutError):
                await asyncio.wait_for(goodbyes, timeout)
        finally:
            for connection in [*idle, *self._out]:
                if not connection.is_closed():
                    connection.terminate()


async def _goodbye(connection: PooledConnection) -> None:
    with suppress(Exception):
        await connection.close(timeout=CLOSE_SECONDS)
