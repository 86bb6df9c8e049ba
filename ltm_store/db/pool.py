"""Connections of a Database: a pool of them, and what each adds to asyncpg's."""

from __future__ import annotations

import asyncio
import select
import socket
from collections import deque
from collections.abc import Callable, Coroutine
from contextlib import suppress
from os import getpid
from typing import Any, Final

import asyncpg

from ltm_store.db.telemetry import Telemetry
from ltm_store.errors import LtmError, Unavailable

CLOSE_SECONDS: Final = 5.0  # for calls in flight and the goodbyes of connections
IDLE_SECONDS: Final = 300.0  # after which an idle connection is not trusted any more
REFUSED_PAUSE: Final = 0.05  # seconds until a server that refused is asked again, then twice that
LONGEST_PAUSE: Final = 0.8
KEEPALIVE_SECONDS: Final = 60  # of silence, until the system asks whether the other end is there

# The server is starting, stopping or full, or not there yet: what a moment later may be otherwise.
NOT_NOW = (
    ConnectionRefusedError,
    FileNotFoundError,  # the socket of a server that starts
    asyncpg.CannotConnectNowError,
    asyncpg.TooManyConnectionsError,
    asyncpg.AdminShutdownError,
)

# Arrays of the system's own types, by numbers that never change, with their elements. asyncpg asks
# each server for each array that a connection meets, and Citus takes half a second to answer.
_ARRAYS: Final = {
    1007: ("int4", 23),
    1015: ("varchar", 1043),
    1016: ("int8", 20),
    1021: ("float4", 700),
    1022: ("float8", 701),
    1185: ("timestamptz", 1184),
    1187: ("interval", 1186),
}
_ARRAY_TYPES: Final = [
    {
        "oid": oid,
        "ns": "pg_catalog",
        "name": f"_{name}",
        "kind": b"b",
        "basetype": None,
        "elemtype": element,
        "elemdelim": ",",
        "range_subtype": None,
        "attrtypoids": None,
    }
    for oid, (name, element) in _ARRAYS.items()
]


class PooledConnection(asyncpg.Connection):
    """A connection with a bound for each statement, in seconds, which can be changed.

    It does not take a COMMIT for one when the server answers ROLLBACK.
    """

    bound: float | None = None
    idle_since: float = 0.0
    telemetry: Telemetry | None = None
    is_distributed: bool | None = None  # where a Database has found out
    row_level_security = False
    names_changed = False  # of users, in a transaction of the caller's
    _transport: asyncio.Transport  # asyncpg's, which its stubs do not tell of

    async def fetch(
        self, query: str, *args: Any, timeout: float | None = None, **options: Any
    ) -> list[Any]:
        """The rows of a query; see asyncpg."""
        limit = self.bound if timeout is None else timeout
        try:
            rows: list[Any] = await super().fetch(query, *args, timeout=limit, **options)
        except AttributeError:
            if not self.is_closed():
                raise
        else:
            return rows
        # Ended by another task between the server's answers, which asyncpg does not expect.
        raise asyncpg.ConnectionDoesNotExistError("the connection was ended")

    async def execute(self, query: str, *args: Any, timeout: float | None = None) -> str:
        """The status of a command; see asyncpg."""
        status = await super().execute(query, *args, timeout=timeout)
        if status == "ROLLBACK" and query.startswith("COMMIT"):
            raise LtmError("an error inside the transaction undid it, nothing was committed")
        return status

    async def copy_to_table(
        self, table_name: str, *, timeout: float | None = None, **options: Any
    ) -> str:
        """The status of a COPY; see asyncpg."""
        limit = self.bound if timeout is None else timeout
        status: str = await super().copy_to_table(table_name, timeout=limit, **options)
        return status

    def know_arrays(self) -> None:
        """Ask nobody for the types of arrays that statements have."""
        self.get_settings().register_data_types(_ARRAY_TYPES)

    def keep_alive(self) -> None:
        """Let the system notice an end that is gone without a word."""
        end = self._socket()
        if end is not None and end.family in (socket.AF_INET, socket.AF_INET6):
            with suppress(OSError):
                end.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
                if hasattr(socket, "TCP_KEEPIDLE"):
                    end.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, KEEPALIVE_SECONDS)

    def has_news(self) -> bool:
        """Whether the server has sent something to an idle connection: it has closed it."""
        end = self._socket()
        if end is None:
            return False
        poll = select.poll()
        poll.register(end.fileno(), select.POLLIN)
        return bool(poll.poll(0))

    def _socket(self) -> socket.socket | None:
        found: socket.socket | None = self._transport.get_extra_info("socket")
        return found


Place = asyncio.Future[PooledConnection | None]


class ConnectionPool:
    """Connections, the last one returned handed out first.

    asyncpg's own pool sends a reset after every call and wraps each connection; this library
    leaves no state behind in a session, so neither is needed. Connections are opened by tasks of
    their own, so that a call that is cancelled meanwhile leaves the next one a connection.
    """

    def __init__(
        self, connect: Callable[[], Coroutine[Any, Any, PooledConnection]], max_size: int
    ) -> None:
        self._connect = connect
        self._max_size = max_size
        self._idle: deque[PooledConnection] = deque()
        self._out: set[PooledConnection] = set()
        self._opening: set[asyncio.Task[PooledConnection]] = set()
        self._waiting: deque[Place] = deque()
        self._leaving: set[asyncio.Task[None]] = set()
        self._home: tuple[int, asyncio.AbstractEventLoop] | None = None
        self._closed = False
        self._all_back = asyncio.Event()  # once closed

    @property
    def figures(self) -> tuple[int, int, int, int]:
        """The first figures of Stats."""
        size = len(self._idle) + len(self._out)
        return size, len(self._idle), self._max_size, len(self._waiting)

    @property
    def is_closed(self) -> bool:
        """Whether it hands out no more connections."""
        return self._closed

    async def acquire(self, deadline: float, *, patient: bool = True) -> PooledConnection:
        """A connection that is not known to be broken. Raises TimeoutError at the deadline.

        Where the server does not take one at the moment it is asked again until then, unless the
        caller is not patient.
        """
        self.check_home()
        clock = asyncio.get_running_loop().time
        pause = REFUSED_PAUSE
        while True:
            if self._closed:
                raise Unavailable("the Database is closed")
            connection = self._idle_one(clock())
            if connection is not None:
                return connection
            try:
                served = await self._wait(deadline)
            except NOT_NOW:
                if not patient or clock() + pause > deadline:
                    raise
                await asyncio.sleep(pause)
                pause = min(2 * pause, LONGEST_PAUSE)
            else:
                if served is not None:
                    return served

    @property
    def is_forked(self) -> bool:
        """Whether its connections are another process's, which forked this one."""
        return self._home is not None and self._home[0] != getpid()

    def check_home(self) -> None:
        """Raise LtmError in another process or event loop than that of the first call."""
        here = getpid(), asyncio.get_running_loop()
        if self._home is None:
            self._home = here
        if self.is_forked:
            raise LtmError("this Database was opened before a fork: open one in each process")
        if self._home[1] is not here[1]:
            raise LtmError("this Database is of another event loop: open one in each")

    def _idle_one(self, now: float) -> PooledConnection | None:
        while self._idle:
            connection = self._idle.pop()
            if connection.is_closed():
                continue
            if now - connection.idle_since > IDLE_SECONDS or connection.has_news():
                connection.terminate()
                continue
            self._out.add(connection)
            return connection
        return None

    async def _wait(self, deadline: float) -> PooledConnection | None:
        """The next connection that is free or opened; None where there is a place for a new one."""
        place: Place = asyncio.get_running_loop().create_future()
        self._waiting.append(place)
        self._open_more()
        try:
            async with asyncio.timeout_at(deadline):
                return await place
        except BaseException:
            if place in self._waiting:
                self._waiting.remove(place)
            elif place.done() and not place.cancelled() and place.exception() is None:
                served = place.result()  # at the very moment of being cancelled
                if served is None:
                    self._wake(None)
                else:
                    self.release(served)
            raise

    def _open_more(self) -> None:
        """Open connections while more calls wait than are being opened, and there is room."""
        while (
            len(self._opening) < len(self._waiting)
            and len(self._out) + len(self._idle) + len(self._opening) < self._max_size
            and not self._closed
        ):
            task = asyncio.get_running_loop().create_task(self._connect())
            self._opening.add(task)
            task.add_done_callback(self._opened)

    def _opened(self, task: asyncio.Task[PooledConnection]) -> None:
        self._opening.discard(task)
        if task.cancelled():
            return
        error = task.exception()
        if isinstance(error, TimeoutError):
            self._wake(None)  # who waits now may have begun later, and has a deadline of its own
        elif error is not None:
            self._wake_with(error)
        else:
            connection = task.result()
            connection.keep_alive()
            self._out.add(connection)
            self.release(connection)

    def _wake(self, connection: PooledConnection | None) -> bool:
        """Hand a connection, or the place for a new one, to the first call that waits."""
        while self._waiting:
            place = self._waiting.popleft()
            if not place.done():
                place.set_result(connection)
                return True
        return False

    def _wake_with(self, error: BaseException) -> None:
        while self._waiting:
            place = self._waiting.popleft()
            if not place.done():
                place.set_exception(error)
                return

    def release(self, connection: PooledConnection) -> None:
        """Take a connection back; one that is broken or inside a transaction is thrown away."""
        if connection not in self._out:
            return  # discarded
        if not connection.is_closed() and (self._closed or connection.is_in_transaction()):
            connection.terminate()
        if connection.is_closed():
            self._out_no_more(connection)
        elif not self._wake(connection):
            self._out.discard(connection)
            connection.idle_since = now = asyncio.get_running_loop().time()
            self._idle.append(connection)
            if now - self._idle[0].idle_since > IDLE_SECONDS:
                self._idle.popleft().terminate()

    def _out_no_more(self, connection: PooledConnection) -> None:
        self._out.discard(connection)
        self._wake(None)
        if self._closed and not self._out:
            self._all_back.set()

    def discard(self, connection: PooledConnection) -> None:
        """Close a connection whose state is unknown.

        asyncpg asks the server to cancel the statement; the goodbye waits for that, within bounds.
        """
        if connection not in self._out:
            return
        self._out_no_more(connection)
        task = asyncio.get_running_loop().create_task(_goodbye(connection))
        self._leaving.add(task)
        task.add_done_callback(self._leaving.discard)

    def drop_idle(self) -> None:
        """Throw away the idle connections: the way to the server is in doubt."""
        while self._idle:
            self._idle.pop().terminate()

    def drop(self) -> None:
        """Throw away every connection; calls that use or await one get an error at once."""
        self.drop_idle()
        for connection in self._out:
            connection.terminate()
        opening, self._opening = self._opening, set()
        for task in opening:
            task.cancel()
        while self._waiting:
            self._wake_with(ConnectionResetError())

    async def close(self, timeout: float) -> None:
        """Close every connection, politely while there is time; a broken one raises nothing.

        Calls in flight may end first; those that wait for a connection are told that it is closed.
        """
        deadline = asyncio.get_running_loop().time() + timeout
        self._closed = True
        while self._wake(None):
            pass
        idle, self._idle = self._idle, deque()
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout_at(deadline):
                    if self._opening:
                        await asyncio.wait(self._opening)
                    if self._out:
                        await self._all_back.wait()
                    await asyncio.gather(*map(_goodbye, idle), *self._leaving)
        finally:
            for task in self._opening:
                task.cancel()
            for connection in [*idle, *self._out]:
                if not connection.is_closed():
                    connection.terminate()
            self._out.clear()


async def _goodbye(connection: PooledConnection) -> None:
    with suppress(Exception):
        await connection.close(timeout=CLOSE_SECONDS)
