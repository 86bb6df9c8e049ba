"""The Database: a pool made for this library, one deadline, and access tracking."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Generator
from contextlib import asynccontextmanager, suppress
from types import TracebackType
from typing import Any, Final, Literal, NamedTuple, Self, TypeAlias, TypedDict, get_args

import asyncpg
from asyncpg.transaction import Transaction

from ltm_store import embedded, limits
from ltm_store.accesses import AccessReason, PendingAccess, record, write_accesses
from ltm_store.db import dsn as dsns
from ltm_store.db import resources
from ltm_store.db.execute import SNAPSHOT, Handle, fetch_rows, translated
from ltm_store.errors import (
    CONNECTION_LOST,
    InvalidMemory,
    LtmError,
    SchemaOutdated,
    Unavailable,
    translate,
)
from ltm_store.model.accesses import AccessDetails
from ltm_store.model.values import moment
from ltm_store.tracking import AccessQueue

Connection: TypeAlias = "_Connection"
Tracking = Literal["deferred", "immediate", "off"]

CLOSE_SECONDS: Final = 5.0
STATEMENTS_KEPT: Final = 256  # prepared in a connection, more than there are shapes in use
LONGEST_TIMEOUT: Final = 86_400.0  # seconds
MIGRATIONS_READ: Final = 10_000
_log = logging.getLogger(__name__)


class Options(TypedDict, total=False):
    """The keyword arguments of connect()."""

    access_tracking: Tracking
    timeout: float
    min_size: int
    max_size: int
    pgbouncer: bool
    check_schema: bool


class Stats(NamedTuple):
    """What a Database is doing.

    Connections: open, idle among them, at the most, and calls that wait for one. Accesses since it
    was opened: queued ones that are not written yet, recorded ones, and those that were dropped
    because the queue was full, the server refused them, or there was no more time at closing. (One
    of a memory that was deleted meanwhile is none of these.)
    """

    open: int
    idle: int
    max_size: int
    waiting: int
    queued: int
    recorded: int
    dropped: int


class _Pool:
    """Connections, the last one returned handed out first.

    asyncpg's own pool sends a reset after every call and wraps each connection; this library
    leaves no state behind in a session, so neither is needed.
    """

    def __init__(self, connect: Callable[[], Awaitable[Connection]], max_size: int) -> None:
        self._connect = connect
        self._max_size = max_size
        self._idle: list[Connection] = []
        self._out: set[Connection] = set()
        self._opening = 0
        self._waiting: deque[asyncio.Future[Connection | None]] = deque()
        self._leaving: set[asyncio.Task[None]] = set()
        self.closed = False

    @property
    def figures(self) -> tuple[int, int, int, int]:
        """The first figures of Stats."""
        size = len(self._idle) + len(self._out)
        return size, len(self._idle), self._max_size, len(self._waiting)

    async def acquire(self, deadline: float) -> Connection:
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

    async def _open(self, deadline: float) -> Connection:
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

    async def _wait(self, deadline: float) -> Connection | None:
        place: asyncio.Future[Connection | None] = asyncio.get_running_loop().create_future()
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

    def _wake(self, connection: Connection | None) -> bool:
        """Hand a connection, or the place for a new one, to the first call that waits."""
        while self._waiting:
            place = self._waiting.popleft()
            if not place.done():
                place.set_result(connection)
                return True
        return False

    def release(self, connection: Connection) -> None:
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

    def discard(self, connection: Connection) -> None:
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


async def _goodbye(connection: Connection) -> None:
    with suppress(Exception):
        await connection.close(timeout=CLOSE_SECONDS)


class _Connection(asyncpg.Connection):
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


class Database(Handle):
    """A connected database, made by connect(). Every function takes it as its first argument."""

    def __init__(
        self,
        dsn: str | None,
        *,
        access_tracking: Tracking,
        timeout: float,
        min_size: int,
        max_size: int,
        pgbouncer: bool,
        check_schema: bool,
    ) -> None:
        if access_tracking not in get_args(Tracking):
            raise InvalidMemory("access_tracking", 'should be "deferred", "immediate" or "off"')
        if not 0 <= min_size <= max_size or max_size < 1:
            raise InvalidMemory("max_size", "should be at least 1 and min_size")
        if not 0 < timeout <= LONGEST_TIMEOUT:
            raise InvalidMemory("timeout", f"should be 0 to {LONGEST_TIMEOUT} seconds")
        self.external_users: dict[str, tuple[int, float]] = {}
        self.timeout = timeout
        self._dsn = dsn
        self._tracking = access_tracking
        self._min_size = min_size
        self._pgbouncer = pgbouncer
        self._check_schema = check_schema
        self._pool = _Pool(self._connect, max_size)
        self._accesses = AccessQueue(lambda memories: write_accesses(self, memories))
        self._opened = False

    def __await__(self) -> Generator[Any, None, Self]:
        return self._open().__await__()

    async def __aenter__(self) -> Self:
        return await self._open()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def _open(self) -> Self:
        if self._opened:
            return self
        if self._dsn is None:
            self._dsn = await asyncio.to_thread(_embedded_and_migrated)
        deadline = asyncio.get_running_loop().time() + self.timeout
        try:
            opened = [await self._acquire(deadline) for _ in range(self._min_size)]
            for connection in opened:
                self._pool.release(connection)
            if self._check_schema:
                await self._refuse_outdated_schema()
        except BaseException:
            await self.close()
            raise
        self._opened = True
        return self

    async def _connect(self) -> Connection:
        try:
            return await self._connected()
        except ValueError as error:  # a port that is no number, a host that is no name
            if isinstance(error, asyncpg.InterfaceError):
                raise
        raise InvalidMemory("dsn", "cannot be read")

    async def _connected(self) -> Connection:
        settings = {} if self._pgbouncer else self._settings()
        return await asyncpg.connect(
            self._dsn,
            connection_class=_Connection,
            timeout=self.timeout,
            command_timeout=self.timeout,
            statement_cache_size=0 if self._pgbouncer else STATEMENTS_KEPT,
            max_cached_statement_lifetime=0,
            server_settings=settings,
        )

    def _settings(self) -> dict[str, str]:
        """Sent as the session starts, so they cost no round trip."""
        return {
            "application_name": "ltm_store",
            "statement_timeout": str(max(1, int(self.timeout * 1000))),  # where the client is gone
            "jit": "off",
        }

    async def _refuse_outdated_schema(self) -> None:
        known = resources.migration_ids()
        try:
            rows = await fetch_rows(self, "applied_migrations", MIGRATIONS_READ)
        except SchemaOutdated:  # not even the table that tells
            raise SchemaOutdated(known) from None
        applied = {row["migration_id"] for row in rows}
        if pending := [name for name in known if name not in applied]:
            raise SchemaOutdated(pending)
        if newer := sorted(applied.difference(known)):
            _log.warning("the schema is newer than this version of ltm_store: %s", ", ".join(newer))

    async def _acquire(self, deadline: float) -> Connection:
        try:
            return await self._pool.acquire(deadline)
        except Exception as error:
            ours = translate(error)
            if ours is None:
                raise
        raise ours

    async def run(self, sql: str, arguments: list[Any], *, repeat: bool) -> list[Any]:
        """The rows of a statement, within the timeout; see execute.Handle."""
        clock = asyncio.get_running_loop().time
        deadline = clock() + self.timeout
        while True:
            connection = await self._pool.acquire(deadline)
            try:
                remaining = max(deadline - clock(), 0.001)
                return await connection.fetch(sql, *arguments, timeout=remaining)
            except TimeoutError:
                self._pool.discard(connection)
                raise
            except CONNECTION_LOST:
                if not connection.is_closed():
                    raise
                self._pool.drop_idle()
                if not repeat:
                    raise
                repeat = False
            finally:
                self._pool.release(connection)

    async def accessed(
        self,
        user_id: int,
        memory_ids: list[int],
        method: str,
        context: str | None,
        query: str | None,
    ) -> None:
        """Record accesses as access_tracking says; see execute.Handle."""
        if self._tracking == "deferred":
            now = moment(None)
            reason = AccessReason(method, context, query and query[: limits.NOTE_CHARS])
            self._accesses.add(
                [
                    PendingAccess(user_id, number, now, reason)
                    for number in dict.fromkeys(memory_ids)
                ]
            )
        elif self._tracking == "immediate":
            details = AccessDetails.checked(
                {
                    "memory_ids": memory_ids,
                    "access_method": method,
                    "access_context": context,
                    "user_query": query,
                }
            )
            try:
                await record(self, user_id, details)
            except Unavailable:  # a replica, say: what was read is worth more than its count
                _log.warning("%d accesses were not recorded", len(memory_ids))

    @asynccontextmanager
    async def transaction(
        self, *, unbounded: bool = False, snapshot: bool = False
    ) -> AsyncIterator[Connection]:
        """A connection inside a transaction of its own: committed at the end, undone by an error.

        It is an ordinary asyncpg connection; every function takes it, and nothing is tracked on
        it. What is SET in it is reset afterwards. Each statement in it may take the timeout, with
        `unbounded` a day; with `snapshot` they only read, and see one state of the database.
        Raises Unavailable when none is free within the timeout or the server is gone, LtmError
        when an error inside, caught or not, made the server undo what should be committed.
        """
        connection, transaction = await self._begun(snapshot)
        try:
            if unbounded:
                connection.bound = LONGEST_TIMEOUT
                await fetch_rows(connection, "lift_statement_timeout")
            try:
                yield connection
            except BaseException:
                await self._undone(connection, transaction)
                raise
            await translated(transaction.commit)
            await self._cleaned(connection)
        finally:
            connection.bound = self.timeout
            self._pool.release(connection)

    async def _begun(self, snapshot: bool) -> tuple[_Connection, Transaction]:
        """A connection that has begun a transaction; a lost one is replaced once."""
        deadline = asyncio.get_running_loop().time() + self.timeout
        for last in (False, True):
            connection = await self._acquire(deadline)
            transaction = connection.transaction(**SNAPSHOT if snapshot else {})
            try:
                await translated(transaction.start)
            except BaseException as error:
                lost = connection.is_closed()
                connection.terminate()  # whether it is inside a transaction is unknown
                self._pool.release(connection)
                if last or not lost or not isinstance(error, Unavailable):
                    raise
                self._pool.drop_idle()
            else:
                return connection, transaction
        raise AssertionError("returned or raised")

    async def _undone(self, connection: _Connection, transaction: Transaction) -> None:
        """Roll back; what made it necessary is raised by the caller, whatever happens here."""
        try:
            await transaction.rollback()
            await self._cleaned(connection)
        except Exception:
            connection.terminate()

    async def _cleaned(self, connection: _Connection) -> None:
        if not self._pgbouncer:
            await translated(connection.reset)

    async def settled(self, user_id: int, memory_id: int | None = None) -> None:
        """Write what is queued where some of it concerns this; see execute.Handle."""
        if self._accesses.waits(user_id, memory_id):
            try:
                await self._accesses.flush()
            except Unavailable:
                if self._accesses.waits(user_id, memory_id):
                    raise

    async def flush(self) -> None:
        """Return when the accesses that are queued now are written.

        Raises Unavailable where they could not be; they are kept, and tried again every second.
        """
        await self._accesses.flush()

    def stats(self) -> Stats:
        """What the pool and the queue of accesses are doing now."""
        recalls = self._accesses
        return Stats(*self._pool.figures, recalls.queued, recalls.recorded, recalls.dropped)

    async def close(self) -> None:
        """Write the queued accesses and close every connection, within 5 seconds (or the timeout).

        Never raises because the server is gone; what could not be written then is dropped.
        """
        clock = asyncio.get_running_loop().time
        deadline = clock() + min(CLOSE_SECONDS, self.timeout)
        try:
            await self._accesses.close(deadline - clock())
        finally:
            await self._pool.close(max(deadline - clock(), 0))


def _embedded_and_migrated() -> str:
    dsn = embedded.start()
    from ltm_store import migrate  # of an extra that the embedded server brings along

    migrate.apply(dsn)
    return dsn


def connect(
    dsn: str | None = None,
    *,
    access_tracking: Tracking = "deferred",
    timeout: float = 10.0,
    min_size: int = 1,
    max_size: int = 10,
    pgbouncer: bool = False,
    check_schema: bool = True,
) -> Database:
    """A database, to be awaited or entered: `async with connect() as db`.

    dsn: else LTM_DATABASE_URL, else DATABASE_URL, else the embedded server, which is migrated on
    first use. timeout: seconds for getting a connection and running a statement together.
    pgbouncer: for a pooler in transaction mode, prepares nothing and sets nothing.

    access_tracking says how memories that a read returns are counted as accessed. "deferred":
    they are queued in memory (up to 20,000, then the oldest are dropped) and written together
    after half a second, sooner where they are many, at flush() and at close(). A process that is
    killed loses half a second of these statistics, a server that crashes about a second, neither
    a memory. Where a connection is lost while they are written, some may be counted twice.
    "immediate": before the read returns, in a statement of its own. "off": not at all.

    Opening raises Unavailable when the server cannot be reached, SchemaOutdated when it lacks
    migrations (unless check_schema is false).
    """
    found = (
        dsns.normalise(dsn) if dsn else dsns.from_environment("LTM_DATABASE_URL", "DATABASE_URL")
    )
    return Database(
        found,
        access_tracking=access_tracking,
        timeout=timeout,
        min_size=min_size,
        max_size=max_size,
        pgbouncer=pgbouncer,
        check_schema=check_schema,
    )
