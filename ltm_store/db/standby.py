"""The hot standby of a Database: whether a read may go to it, and the reads that do.

A task looks a few times a second: it asks the primary for the end of its log, then the standby how
much of it is replayed. A standby that has replayed what was the end at a moment has all that was
committed before it. That holds whatever the clocks of the servers say, on an idle primary too, and
where nothing reaches the standby any more. So a read asks nobody: it compares two numbers.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Collection, Coroutine
from contextlib import AbstractAsyncContextManager, suppress
from contextvars import Context, ContextVar
from math import inf
from typing import Any, Final, NamedTuple, TypeVar

import asyncpg

from ltm_store.db.execute import Session, fetch_one, within
from ltm_store.db.pool import ConnectionPool, PooledConnection
from ltm_store.db.transactions import Connection
from ltm_store.errors import CONNECTION_LOST, InvalidArgument, LtmError, translate
from ltm_store.model.base import Row
from ltm_store.model.standby import PrimaryPosition, StandbyPosition

LOOK_SECONDS: Final = 0.25  # between looks, at the most
LOOKS: Final = 4  # within max_lag, at the least
SOON_SECONDS: Final = 0.01  # until the next look where reads wait for own writes; then twice that
ANSWER_SECONDS: Final = 1.0  # that a server has to answer a look
MARKS: Final = 200  # kept; that many are of twice max_lag

Connect = Callable[[], Coroutine[Any, Any, PooledConnection]]
Position = TypeVar("Position", bound=Row)
_log = logging.getLogger(__name__)

unawaited: Final[ContextVar[bool]] = ContextVar("ltm_store_unawaited", default=False)
"""Whether what the present task writes is nothing that a caller has been told of."""


class _Mark(NamedTuple):
    """Where the primary's log ended on disk at a moment."""

    at: float
    end: int


class _Line:
    """A connection on which a server is asked for its position; opened again once it is lost."""

    def __init__(self, connect: Connect) -> None:
        self._connect = connect
        self._connection: PooledConnection | None = None

    async def ask(self, name: str, model: type[Position]) -> Position | None:
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                if self._connection is None:
                    self._connection = await self._connect()
                    self._connection.telemetry = None
                return await fetch_one(self._connection, name, model)
        except BaseException:
            self.hang_up()
            raise

    def hang_up(self) -> None:
        if self._connection is not None:
            self._connection.terminate()
            self._connection = None


class Standby:
    """What is known of a standby, and its connections."""

    def __init__(
        self, primary: Connect, standby: Connect, *, max_size: int, max_lag: float
    ) -> None:
        self._primary, self._standby = _Line(primary), _Line(standby)
        self._pool = ConnectionPool(standby, max_size)
        self._max_lag = max_lag
        self._look_seconds = min(LOOK_SECONDS, max_lag / LOOKS)
        self._written = 0  # how many writes of this Database have ended
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._reason: str | None = None  # why reads go to the primary, as it was told
        self.reads_here, self.reads_there = 0, 0
        self._forget()

    def _forget(self) -> None:
        """Know nothing of the standby, which so gets no read."""
        self._log_of: tuple[int, int] | None = None
        self._met_at = inf
        self._marks: deque[_Mark] = deque(maxlen=MARKS)
        self._has_all_of = -inf  # the moment before which it has all that was committed
        self._asked: tuple[int, int] = -1, 0  # writes, and an end of the log behind them
        self._has_writes = -1  # how many of this Database's writes it has

    @property
    def lag(self) -> float | None:
        """How far behind it may be, in seconds; None while nothing is known of it."""
        behind = asyncio.get_running_loop().time() - self._has_all_of
        return None if behind == inf else behind

    def note_write(self) -> None:
        """Note that a write of this Database has ended, whatever became of it."""
        self._written += 1

    def is_usable(self) -> bool:
        """Whether it has this Database's writes, and all that others wrote before max_lag."""
        if self._has_writes != self._written:
            self._wake.set()
            return False
        return asyncio.get_running_loop().time() - self._has_all_of <= self._max_lag

    async def rows(self, sql: str, arguments: list[Any], deadline: float) -> list[Any] | None:
        """What the standby answers; None where it does not, or is none any more."""
        try:
            connection = await self._pool.acquire(deadline, patient=False)
        except (LtmError, TimeoutError):  # which the primary's pool tells too
            return None
        except Exception as error:
            self._leave(f"it cannot be reached, {_reason(error)}")
            return None
        try:
            left = max(deadline - asyncio.get_running_loop().time(), 0.001)
            rows = await connection.fetch(sql, *arguments, timeout=left)
        except TimeoutError:
            self._pool.discard(connection)
            return None
        except CONNECTION_LOST as error:
            self._pool.discard(connection)
            self._leave(f"a connection to it was lost, {_reason(error)}")
            return None
        except asyncpg.PostgresError:  # it replays what the read would need, say
            self._pool.release(connection)
            return None
        except BaseException:
            self._pool.discard(connection)
            raise
        if connection.is_closed():  # right behind the answer: what the server was then is not told
            self._pool.discard(connection)
            return None
        # Told with the answer where it changes, so that no answer of a promoted server is taken.
        is_standby = connection.get_settings().in_hot_standby == "on"
        self._pool.release(connection)
        if not is_standby:
            self._leave("it is a primary itself")
            return None
        self.reads_there += 1
        return rows

    async def open(self) -> None:
        """Take a first look, and look on. Raises InvalidArgument where its DSN cannot be used."""
        await self._look()
        self._task = asyncio.get_running_loop().create_task(self._watch(), context=Context())

    async def close(self, timeout: float) -> None:
        """Close its connections, within the timeout."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        self._primary.hang_up()
        self._standby.hang_up()
        await self._pool.close(timeout)

    async def _watch(self) -> None:
        pause = SOON_SECONDS
        while True:
            self._wake.clear()
            await asyncio.sleep(min(pause, self._look_seconds))
            with suppress(TimeoutError):
                async with asyncio.timeout(max(self._look_seconds - pause, 0)):
                    await self._wake.wait()
            with suppress(InvalidArgument):
                await self._look()
            pause = SOON_SECONDS if self._has_writes == self._written else 2 * pause

    async def _look(self) -> None:
        """Ask both servers where they are; tell where that changes where reads go."""
        at, written = asyncio.get_running_loop().time(), self._written
        try:
            primary = await self._primary.ask("primary_position", PrimaryPosition)
        except Exception as error:
            self._tell(f"the primary cannot be asked, {_reason(error)}")
            return
        if primary is None:
            self._leave("the primary is a standby itself")
            return
        self._mark(primary, at, written)
        try:
            standby = await self._standby.ask("standby_position", StandbyPosition)
        except Exception as error:
            self._leave(f"it cannot be reached, {_reason(error)}")
            if isinstance(error, InvalidArgument):
                raise
            return
        if standby is None:
            self._leave("it is a primary itself")
        elif standby.asks_others:
            self._leave("it asks standbys of other nodes (citus.use_secondary_nodes)")
        elif self._log_of is None:
            return  # a read has found it gone meanwhile
        elif (standby.server, standby.timeline) != self._log_of:
            self._leave("it is of another server, or behind a promotion")
        else:
            self._compare(standby.replayed)

    def _mark(self, primary: PrimaryPosition, at: float, written: int) -> None:
        """Note the end of the primary's log, and the writes of this Database before it."""
        log_of = primary.server, primary.timeline
        if self._log_of != log_of:
            self._forget()
            self._log_of, self._met_at = log_of, at
        if not self._marks or at - self._marks[-1].at >= 2 * self._max_lag / MARKS:
            self._marks.append(_Mark(at, primary.flushed))
        # After a crash the log may end before where it did.
        if written != self._asked[0] or primary.written < self._asked[1]:
            self._asked = written, primary.written

    def _compare(self, replayed: int) -> None:
        """Note what the standby has."""
        while self._marks and self._marks[0].end <= replayed:
            self._has_all_of = self._marks.popleft().at
        if self._asked[1] <= replayed:
            self._has_writes = self._asked[0]
        late = asyncio.get_running_loop().time() - self._max_lag
        if self._has_all_of >= late:
            self._tell(None)
        elif self._met_at < late:
            self._tell(f"it is more than {self._max_lag} seconds behind")

    def _leave(self, reason: str) -> None:
        """Send reads to the primary until a look finds it well; end those that are under way."""
        self._forget()
        self._standby.hang_up()
        self._pool.drop()
        self._wake.set()
        self._tell(reason)

    def _tell(self, reason: str | None) -> None:
        if (reason is None) != (self._reason is None):
            if reason is None:
                _log.info("reads go to the standby", extra={"event": "standby_used"})
            else:
                _log.warning(
                    "reads go to the primary, not to the standby: %s",
                    reason,
                    extra={"event": "standby_unused"},
                )
        self._reason = reason


def _reason(error: Exception) -> str:
    return str(translate(error) or type(error).__name__)


class StandbyReader(Session):
    """A Database for one call that only reads: its statements go to the standby where they may.

    Once one went to the primary the others of the call do too, so that none goes back in time.
    """

    def __init__(self, database: Session, standby: Standby) -> None:
        self._database = database
        self._standby = standby
        self._is_behind = False
        self.reads = database.reads
        self.external_users = database.external_users
        self.timeout = database.timeout
        self.embedder = database.embedder
        self.embedding_model = database.embedding_model
        self.telemetry = database.telemetry
        self.row_level_security = database.row_level_security
        self.is_distributed = database.is_distributed

    async def run(
        self, sql: str, arguments: list[Any], *, repeat: bool, only_reads: bool
    ) -> list[Any]:
        """The rows of a statement; see Session."""
        with within(self.deadline()):
            if only_reads and not self._is_behind and self._standby.is_usable():
                rows = await self._standby.rows(sql, arguments, self.deadline())
                if rows is not None:
                    return rows
            self._is_behind = True
            self._standby.reads_here += only_reads
            return await self._database.run(sql, arguments, repeat=repeat, only_reads=only_reads)

    def transaction(
        self, *, unbounded: bool = False, snapshot: bool = False
    ) -> AbstractAsyncContextManager[Connection]:
        """One on the primary, also where it only reads: a standby may end one that takes long."""
        return self._database.transaction(unbounded=unbounded, snapshot=snapshot)

    async def track_access(
        self,
        user: int,
        memory_ids: list[int],
        method: str,
        *,
        context: str | None = None,
        query: str | None = None,
        sliding: Collection[int] = (),
    ) -> None:
        """Record on the primary that memories were accessed."""
        await self._database.track_access(
            user, memory_ids, method, context=context, query=query, sliding=sliding
        )

    async def query_vector(self, text: str) -> list[float] | None:
        """The vector of a question; see Session."""
        return await self._database.query_vector(text)

    async def has_vector_index(self, user: int, model: str) -> bool:
        """Whether an index finds the vectors of a user's memories; see Session."""
        return await self._database.has_vector_index(user, model)

    def alone(self) -> AbstractAsyncContextManager[Connection]:
        """A connection of the primary; see Session."""
        return self._database.alone()
