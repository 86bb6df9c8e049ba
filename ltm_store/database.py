"""The Database: a pool made for this library, one deadline, and access tracking."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Collection,
    Generator,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import asynccontextmanager
from functools import partial
from itertools import islice
from math import inf
from operator import attrgetter, itemgetter
from types import TracebackType
from typing import (
    TYPE_CHECKING,
    Any,
    Final,
    Literal,
    NamedTuple,
    Self,
    TypedDict,
    TypeVar,
    get_args,
)

import asyncpg
from asyncpg.transaction import Transaction

from ltm_store import embedded
from ltm_store.adding import add_together
from ltm_store.db import dsn as dsns
from ltm_store.db.coalesce import UNDER_WAY, Together
from ltm_store.db.execute import (
    Read,
    Session,
    fetch_rows,
    is_distributed,
)
from ltm_store.db.opening import (
    bind,
    find_row_level_security,
    open_connection,
    refuse_outdated_schema,
    refuse_unsafe_schema,
    session_settings,
    told_of,
)
from ltm_store.db.pool import CLOSE_SECONDS, ConnectionPool, PooledConnection
from ltm_store.db.standby import Standby, StandbyReader, unawaited
from ltm_store.db.steps import has_embeddings
from ltm_store.db.telemetry import Telemetry
from ltm_store.db.transactions import SNAPSHOT, Connection, translated
from ltm_store.embedders import Embedder
from ltm_store.embeddings import index_name, vector_indexes
from ltm_store.errors import (
    CONNECTION_LOST,
    InvalidArgument,
    StepMissing,
    Unavailable,
    translate,
)
from ltm_store.meaning import STEP, EmbeddingWriter, Questions, checked_embedder
from ltm_store.memories import read_together
from ltm_store.tracking import Tracker, Tracking

if TYPE_CHECKING:
    from opentelemetry.metrics import MeterProvider
    from opentelemetry.trace import TracerProvider

Coalesce = Literal[True, "writes", False]

STATEMENTS_KEPT: Final = 256  # prepared in a connection, more than there are shapes in use
LONGEST_TIMEOUT: Final = 86_400  # seconds
INDEXES_KNOWN: Final = 600.0  # seconds, then it is asked again which users have one
ADDS_WAIT: Final = 0.01  # seconds, at the most, for adds that are being stored
FIRST_PAUSE: Final = 0.01  # seconds until a statement is sent again, at the most; then twice that
LONGEST_PAUSE: Final = 0.5
ATTEMPTS: Final = 20  # of a transaction that others undo, before the last one

# The server says that it undid the statement, or never began it.
NOTHING_DONE = (
    asyncpg.DeadlockDetectedError,
    asyncpg.SerializationError,
    asyncpg.AdminShutdownError,
    asyncpg.CannotConnectNowError,
)
One = TypeVar("One")
_log = logging.getLogger(__name__)


class Options(TypedDict, total=False):
    """The keyword arguments of connect()."""

    access_tracking: Tracking
    timeout: float
    min_size: int
    max_size: int
    pgbouncer: bool
    check_schema: bool
    trust_schema: bool
    coalesce: Coalesce
    embedder: Embedder | None
    read_dsn: str | None
    max_lag: float
    row_level_security: bool
    tracer_provider: TracerProvider | None
    meter_provider: MeterProvider | None


class Stats(NamedTuple):
    """What a Database is doing.

    Connections: open, idle among them, at the most, and calls that wait for one. Accesses since it
    was opened: queued ones that are not written yet, recorded ones, and those that were dropped
    because the queue was full, the server refused them, or there was no more time at closing. (One
    of a memory that was deleted meanwhile is none of these.)

    With read_dsn: how far the standby may be behind, in seconds, None while it is not there; and
    the statements of reads that it answered, and that went to the primary.
    """

    open: int
    idle: int
    max_size: int
    waiting: int
    queued: int
    recorded: int
    dropped: int
    standby_lag: float | None = None
    standby_reads: int = 0
    primary_reads: int = 0


class Database(Session):
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
        trust_schema: bool,
        coalesce: Coalesce,
        embedder: Embedder | None,
        read_dsn: str | None,
        max_lag: float,
        row_level_security: bool,
        tracer_provider: TracerProvider | None,
        meter_provider: MeterProvider | None,
    ) -> None:
        for name, size in (("min_size", min_size), ("max_size", max_size)):
            if type(size) is not int:
                raise InvalidArgument(name, "should be a whole number")
        if not 0 <= min_size <= max_size or max_size < 1:
            raise InvalidArgument("max_size", "should be at least 1 and min_size")
        _check_seconds(timeout, "timeout")
        if coalesce not in get_args(Coalesce):
            raise InvalidArgument("coalesce", 'should be True, "writes" or False')
        _check_seconds(max_lag, "max_lag")
        self.external_users: dict[str, tuple[int, float]] = {}
        self.timeout = timeout
        self._dsn = dsn
        self._min_size = min_size
        self._pgbouncer = pgbouncer
        self._check_schema = check_schema
        self._trust_schema = trust_schema
        self.row_level_security = row_level_security
        # Off: an error where the step is run later, and a policy would hide rows.
        self._row_security = "on" if row_level_security else "off"
        self._pool = ConnectionPool(self._connect, max_size)
        self._tracker = Tracker(self, access_tracking)
        self.embedder = None if embedder is None else checked_embedder(embedder)
        self._questions: Questions | None = None
        self._embeddings: EmbeddingWriter | None = None
        self._vector_indexes: tuple[frozenset[str], float] | None = None  # and until when
        self._opened = False
        self._standby: Standby | None = None
        if read_dsn is not None:
            connect_standby = partial(self._connect_standby, read_dsn)
            self._standby = Standby(
                self._connect, connect_standby, max_size=max_size, max_lag=max_lag
            )
        if tracer_provider is not None or meter_provider is not None:
            self.telemetry = Telemetry(tracer_provider, meter_provider, dsn, self._load)
        under_way = min(UNDER_WAY, max_size)
        if coalesce:
            self.reads = Together(
                self._read_together,
                alike=attrgetter("user") if row_level_security else lambda _: None,
                under_way=under_way,
            )
        if coalesce == "writes":
            self.adds = Together(
                partial(add_together, self),
                alike=itemgetter("user_id"),
                repeats=_nothing_was_done,
                under_way=under_way,
                longest_wait=ADDS_WAIT,
            )
        if self.reads is not None:
            self.reads.telemetry = self.telemetry
        if self.adds is not None:
            self.adds.telemetry = self.telemetry

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
            await self._open_first(deadline)
            if not self._trust_schema:
                await refuse_unsafe_schema(self)
            if self._check_schema:
                await refuse_outdated_schema(self)
                if not self.row_level_security:
                    await self._refuse_bound_role()
                if await is_distributed(self):
                    self.reads = self.adds = None  # each user's rows are on a node of their own
            if self.embedder is not None:
                await self._begin_embedding(self.embedder)
            if self._standby is not None:
                await self._standby.open()
        except BaseException:
            await self.close()
            raise
        self._opened = True
        return self

    async def _open_first(self, deadline: float) -> None:
        opened: list[PooledConnection] = []
        try:
            while len(opened) < self._min_size:
                opened.append(await self._acquire(deadline, patient=False))
        finally:
            for connection in opened:
                self._pool.release(connection)

    async def _connect(self) -> PooledConnection:
        settings = {} if self._pgbouncer else session_settings(self.timeout, self._row_security)
        kept = 0 if self._pgbouncer else STATEMENTS_KEPT
        connecting = open_connection(
            self._dsn, settings, timeout=self.timeout, statements_kept=kept
        )
        return await self._bound(told_of("dsn", connecting))

    async def _connect_standby(self, dsn: str) -> PooledConnection:
        settings = session_settings(self.timeout, self._row_security)
        settings["default_transaction_read_only"] = "on"
        connecting = open_connection(
            dsn, settings, timeout=self.timeout, statements_kept=STATEMENTS_KEPT
        )
        return await self._bound(told_of("read_dsn", connecting))

    async def _bound(self, connecting: Awaitable[PooledConnection]) -> PooledConnection:
        """The connection, each of whose statements tells its user if policies ask for that."""
        connection = await connecting
        connection.telemetry = self.telemetry
        if self.row_level_security:
            try:
                await bind(connection)
            except BaseException:
                connection.terminate()
                raise
        return connection

    async def _refuse_bound_role(self) -> None:
        found = await find_row_level_security(self)
        if found.is_bound:
            raise InvalidArgument(
                "row_level_security", "should be True: policies hide the rows from this login"
            )
        if found.is_operator:  # whose policy hides none
            self._row_security = "on"
            self._pool.drop_idle()

    async def _begin_embedding(self, embedder: Embedder) -> None:
        if not await has_embeddings(self):
            _log.warning("searches go by words alone, %s", StepMissing((STEP,)))
            return
        self.embedding_model = embedder.model
        self._questions = Questions(embedder)
        self._embeddings = EmbeddingWriter(self, embedder)
        self._embeddings.start()

    async def _acquire(self, deadline: float, *, patient: bool = True) -> PooledConnection:
        return await translated(lambda: self._pool.acquire(deadline, patient=patient))

    def reader(self) -> Session:
        """What one call that only reads runs on: the standby's, where there is one."""
        if self._standby is None:
            return self
        return StandbyReader(self, self._standby)

    async def _read_together(self, reads: list[Read]) -> list[list[Mapping[str, object]] | None]:
        return await read_together(self.reader(), reads)

    async def run(
        self, sql: str, arguments: list[Any], *, repeat: bool, only_reads: bool
    ) -> list[Any]:
        """The rows of a statement, within the timeout; see Session.

        It is sent again, until then, where the server says that nothing was done.
        """
        try:
            return await self._run(sql, arguments, repeat)
        finally:
            if not only_reads:
                self._note_write()

    def _note_write(self) -> None:
        if self._standby is not None and not unawaited.get():
            self._standby.note_write()

    async def _run(self, sql: str, arguments: list[Any], repeat: bool) -> list[Any]:
        clock = asyncio.get_running_loop().time
        deadline = self.deadline()
        pauses = _pauses()
        waited, attempts = 0.0, 0
        while True:
            asked = clock()
            connection = await self._pool.acquire(deadline)
            now = clock()
            waited, attempts = waited + now - asked, attempts + 1
            try:
                remaining = max(deadline - now, 0.001)
                rows = await connection.fetch(sql, *arguments, timeout=remaining)
            except NOTHING_DONE as error:
                self._pool.release(connection)
                if isinstance(error, asyncpg.AdminShutdownError):
                    self._pool.drop_idle()
                if not await _paused(next(pauses), deadline):
                    raise
            except TimeoutError:
                self._pool.discard(connection)
                self._pool.drop_idle()  # where the network is silent, they are gone too
                raise
            except CONNECTION_LOST:
                lost = connection.is_closed()
                self._pool.release(connection)
                if lost:
                    self._pool.drop_idle()
                if not (lost and repeat) or not await _paused(next(pauses), deadline):
                    raise
            except asyncpg.PostgresError:
                self._pool.release(connection)
                raise
            except BaseException:
                self._pool.discard(connection)  # cancelled: what it is still doing is unknown
                raise
            else:
                self._pool.release(connection)
                if self.telemetry is not None:
                    self.telemetry.ran(waited, attempts - 1)
                return rows

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
        """Record that memories were accessed, as access_tracking says."""
        if memory_ids:
            await self._tracker.track(user, memory_ids, method, context, query, sliding)

    async def write_pending_accesses(self, user: int, memory_id: int | None = None) -> None:
        """Write what is queued, where some of it is of this memory, or of this user."""
        await self._tracker.write_pending(user, memory_id)

    async def query_vector(self, text: str) -> list[float] | None:
        """The vector of a question, within half of the time that the call has left; see Session."""
        if self._questions is None:
            return None
        left = self.deadline() - asyncio.get_running_loop().time()
        return await self._questions.vector(text, left / 2)

    async def has_vector_index(self, user: int, model: str) -> bool:
        """Whether searches use an index of this user's vectors, as it was within ten minutes."""
        now = asyncio.get_running_loop().time()
        if self._vector_indexes is None or now > self._vector_indexes[1]:
            self._vector_indexes = (await vector_indexes(self), now + INDEXES_KNOWN)
        return index_name(user, model) in self._vector_indexes[0]

    @asynccontextmanager
    async def alone(self) -> AsyncIterator[PooledConnection]:
        """A connection outside of a transaction, that nothing bounds; see Session."""
        connection = await self._acquire(self.deadline())
        try:
            connection.bound = LONGEST_TIMEOUT
            if not self._pgbouncer:  # where none is set, and what is set stays for others
                await fetch_rows(connection, "lift_session_timeouts")
            self._vector_indexes = None
            yield connection
        finally:
            self._pool.discard(connection)  # what was SET would stay on it

    def forget_names(self) -> None:
        """Look users up again; see Session. A lookup that is under way is not remembered."""
        self.external_users = {}

    def note_contents(self, user: int, memory_ids: Sequence[int] | None) -> None:
        """Note that the contents of memories are new, so that they get their vectors soon."""
        if self._embeddings is not None:
            self._embeddings.add(user, memory_ids)

    @asynccontextmanager
    async def transaction(
        self, *, unbounded: bool = False, snapshot: bool = False
    ) -> AsyncIterator[PooledConnection]:
        """A connection inside a transaction of its own: committed at the end, undone by an error.

        It is an ordinary asyncpg connection; every function takes it, and nothing is tracked on
        it. What is SET in it is reset afterwards. Each statement in it may take the timeout, with
        `unbounded` a day; with `snapshot` they only read, and see one state of the database.
        Raises Unavailable when none is free within the timeout or the server is gone, LtmError
        when an error inside, caught or not, made the server undo what should be committed.
        """
        connection, transaction = await self._begun(snapshot)
        connection.is_distributed = self.is_distributed
        is_clean = False
        try:
            if unbounded:
                connection.bound = LONGEST_TIMEOUT
                await fetch_rows(connection, "lift_timeouts")
            try:
                yield connection
            except asyncio.CancelledError:
                raise
            except BaseException:
                is_clean = await self._undone(connection, transaction)
                raise
            await translated(transaction.commit)
            await self._reset(connection)
            is_clean = True
        finally:
            if not snapshot:
                self._note_write()
            if connection.names_changed:
                connection.names_changed = False
                self.forget_names()
            connection.bound = self.timeout
            if is_clean:
                self._pool.release(connection)
            else:
                self._pool.discard(connection)

    async def _begun(self, snapshot: bool) -> tuple[PooledConnection, Transaction]:
        """A connection that has begun a transaction; a lost one is replaced until the deadline."""
        deadline = self.deadline()
        pauses = _pauses()
        while True:
            connection = await self._acquire(deadline)
            transaction = connection.transaction(**SNAPSHOT if snapshot else {})
            try:
                async with asyncio.timeout_at(deadline):
                    await transaction.start()
            except BaseException as error:
                lost = connection.is_closed()
                self._pool.discard(connection)  # whether it is inside a transaction is unknown
                self._pool.drop_idle()
                again = lost and isinstance(error, (*CONNECTION_LOST, *NOTHING_DONE))
                if again and await _paused(next(pauses), deadline):
                    continue
                ours = translate(error) if isinstance(error, Exception) else None
                if ours is None:
                    raise
                raise ours from None
            return connection, transaction

    async def _undone(self, connection: PooledConnection, transaction: Transaction) -> bool:
        """Roll back; what made it necessary is raised by the caller. Tell whether it succeeded."""
        try:
            await transaction.rollback()
            await self._reset(connection)
        except Exception:
            return False
        return True

    async def _reset(self, connection: PooledConnection) -> None:
        if not self._pgbouncer:
            await translated(connection.reset)

    async def in_transaction(
        self, work: Callable[[Connection], Awaitable[One]], *, unbounded: bool = False
    ) -> One:
        """See Session; retried on a deadlock or serialization failure, until the deadline."""
        deadline = inf if unbounded else self.deadline()
        for pause in islice(_pauses(), ATTEMPTS):
            try:
                return await super().in_transaction(work, unbounded=unbounded)
            except Unavailable as error:
                if not error.rolled_back or not await _paused(pause, deadline):
                    raise
        return await super().in_transaction(work, unbounded=unbounded)

    async def flush(self) -> None:
        """Return when the accesses that are queued now are written, and memories have vectors.

        Raises Unavailable where accesses could not be written; they are kept, and tried again every
        second. An embedder that fails is not waited for; it is tried again too. It fails when it
        takes a minute for 64 texts, so this may take longer than the timeout.
        """
        self._pool.check_home()
        try:
            await self._tracker.queue.flush()
            if self._embeddings is not None:
                await self._embeddings.flush()
        finally:
            self._note_write()

    def stats(self) -> Stats:
        """What the pool, the queue of accesses and the standby are doing now."""
        queue = self._tracker.queue
        figures = Stats(*self._pool.figures, queue.queued, queue.recorded, queue.dropped)
        if self._standby is None:
            return figures
        return figures._replace(
            standby_lag=self._standby.lag,
            standby_reads=self._standby.reads_there,
            primary_reads=self._standby.reads_here,
        )

    def _load(self) -> Mapping[str, int] | None:
        return None if self._pool.is_closed else self.stats()._asdict()

    async def close(self) -> None:
        """Write the queued accesses and close every connection, within 5 seconds (or the timeout).

        Never raises because the server is gone; accesses that could not be written are dropped.
        Memories that have no vectors yet get them later, from whoever has the embedder then. Does
        nothing in a process forked from its own.
        """
        if self._pool.is_forked:
            return
        clock = asyncio.get_running_loop().time
        deadline = clock() + min(CLOSE_SECONDS, self.timeout)
        try:
            await self._tracker.queue.close(deadline - clock())
            if self._embeddings is not None:
                await self._embeddings.close((deadline - clock()) / 2)
        finally:
            if self._standby is not None:
                await self._standby.close(max(deadline - clock(), 0) / 2)
            await self._pool.close(max(deadline - clock(), 0))


def _check_seconds(seconds: float, argument: str) -> None:
    is_number = isinstance(seconds, int | float) and not isinstance(seconds, bool)
    if not is_number or not 0 < seconds <= LONGEST_TIMEOUT:
        raise InvalidArgument(argument, f"should be above 0 and at most {LONGEST_TIMEOUT} seconds")


def _nothing_was_done(error: Exception) -> bool:
    """Whether the server told that it refused a statement, or undid it."""
    return not isinstance(error, Unavailable) or error.rolled_back


def _pauses() -> Iterator[float]:
    """Seconds until the next attempt: a random part of a longest pause that doubles."""
    longest = FIRST_PAUSE
    while True:
        yield random.uniform(0, longest)
        longest = min(2 * longest, LONGEST_PAUSE)


async def _paused(seconds: float, deadline: float) -> bool:
    """Whether there is time for another attempt, after a pause."""
    if asyncio.get_running_loop().time() + seconds > deadline:
        return False
    await asyncio.sleep(seconds)
    return True


def _embedded_and_migrated() -> str:
    dsn = embedded.start()
    from ltm_store import migrate  # of an extra that the embedded server brings along

    migrate.apply_embedded(dsn)
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
    trust_schema: bool = False,
    coalesce: Coalesce = True,
    embedder: Embedder | None = None,
    read_dsn: str | None = None,
    max_lag: float = 1.0,
    row_level_security: bool = False,
    tracer_provider: TracerProvider | None = None,
    meter_provider: MeterProvider | None = None,
) -> Database:
    """A database, to be awaited or entered: `async with connect() as db`.

    dsn: else LTM_DATABASE_URL, else DATABASE_URL, else the embedded server, which is migrated on
    first use. timeout: seconds for getting a connection and running a statement together.
    pgbouncer: for a pooler in transaction mode, prepares nothing and sets nothing.

    coalesce: calls of get_memory and get_memories that wait at the same time share a statement,
    whoever their users are; a call that finds fewer than two of them under way goes alone, at once.
    Results, errors, deadlines, cancellation and tracking are each call's own. "writes": adds of one
    user without idempotency keys do the same. False: each call is a statement of its own.

    access_tracking says how memories that a read returns are counted as accessed. "deferred":
    they are queued in memory (up to 20,000, then the oldest are dropped) and written together
    after half a second, sooner where they are many, at flush() and at close(). A process that is
    killed loses half a second of these statistics, a server that crashes about a second, neither
    a memory. Where a connection is lost while they are written, some may be counted twice.
    "immediate": before the read returns, in a statement of its own. "off": not at all.

    embedder: makes vectors of contents and questions, so that memories are found by their meaning
    too; see ltm_store.embedders. Contents get theirs in the background, after they are stored. One
    that fails or is slow fails no read and no write: then memories are found by their words alone.

    read_dsn: of a hot standby, one server, without PgBouncer. Reads go there while it has what was
    committed max_lag seconds ago, and all that this Database wrote; else they go to the primary, as
    transactions, exports, reports, health and the log of accesses always do. A standby that is
    gone, late or promoted fails no read. Two more connections ask both servers where they are.

    row_level_security: for a login of ltm_app, where the optional step of that name was run: each
    statement tells the server, in the same round trip, of which user it is, and the server hides
    the rows of all others. Functions for all users raise PermissionDenied.

    tracer_provider, meter_provider: of OpenTelemetry; each statement is a span, and figures of the
    connections and the queue of accesses are metrics. None holds any content.

    Opening raises Unavailable when the server cannot be reached, SchemaOutdated when it lacks
    migrations (unless check_schema is false), and LtmError where other roles may create functions,
    or have created some, in a schema of the search_path, which statements would call (unless
    trust_schema). InvalidArgument where policies hide rows from the login and row_level_security is
    false, or do not bind it and it is true; then StepMissing where the step was not run.
    """
    target = dsns.target(dsn)
    return Database(
        target and target.asyncpg,
        access_tracking=access_tracking,
        timeout=timeout,
        min_size=min_size,
        max_size=max_size,
        pgbouncer=pgbouncer or (target is not None and target.pgbouncer),
        check_schema=check_schema,
        trust_schema=trust_schema,
        coalesce=coalesce,
        embedder=embedder,
        read_dsn=None if read_dsn is None else dsns.of_standby(read_dsn),
        max_lag=max_lag,
        row_level_security=row_level_security,
        tracer_provider=tracer_provider,
        meter_provider=meter_provider,
    )
