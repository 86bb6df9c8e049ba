"""Running a statement on whatever the caller hands in, and mapping its rows."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Collection,
    Coroutine,
    Iterator,
    Mapping,
    MutableMapping,
    Sequence,
)
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from contextvars import ContextVar
from datetime import datetime
from functools import wraps
from math import inf
from typing import Any, Final, NamedTuple, TypeAlias, TypeVar, cast
from weakref import WeakKeyDictionary

import asyncpg
from asyncpg.pool import PoolConnectionProxy

from ltm_store.db.coalesce import Together
from ltm_store.db.observe import observed
from ltm_store.db.pool import PooledConnection
from ltm_store.db.statements import DISTRIBUTED, Statement, statements
from ltm_store.db.telemetry import Telemetry
from ltm_store.db.transactions import Connection, begun, translated
from ltm_store.embedders import Embedder
from ltm_store.errors import InvalidArgument, LtmError, SchemaOutdated, StepMissing, translate
from ltm_store.model.base import Row

POOL_SECONDS: Final = 10.0  # that a caller's own pool may take to hand out a connection

Pool: TypeAlias = "asyncpg.Pool[asyncpg.Record]"
One = TypeVar("One")
Function = TypeVar("Function", bound=Callable[..., Coroutine[Any, Any, Any]])
Model = TypeVar("Model", bound=Row)


class Read(NamedTuple):
    """Memories of one user that a call asks for, as of a moment."""

    user: int
    memory_ids: list[int]
    as_of: datetime


_distributed: Final[WeakKeyDictionary[object, bool]] = WeakKeyDictionary()
_deadline: ContextVar[float | None] = ContextVar("ltm_store_deadline", default=None)


@contextmanager
def within(deadline: float) -> Iterator[None]:
    """Let a deadline hold for the statements of this task."""
    token = _deadline.set(deadline)
    try:
        yield
    finally:
        _deadline.reset(token)


def one_deadline(function: Function) -> Function:
    """Let the timeout of a Database hold for a whole call, however many statements it takes."""

    @wraps(function)
    async def bounded(db: Executor, *args: Any, **kwargs: Any) -> Any:
        if not isinstance(db, Session) or _deadline.get() is not None:
            return await function(db, *args, **kwargs)
        with within(db.deadline()):
            return await function(db, *args, **kwargs)

    return cast("Function", bounded)


def only_reads(function: Function) -> Function:
    """The same for a call that only reads, which the standby of a Database may answer."""

    @wraps(function)
    async def reading(db: Executor, *args: Any, **kwargs: Any) -> Any:
        session = session_of(db)
        if session.timeout == inf or _deadline.get() is not None:
            return await function(session.reader(), *args, **kwargs)
        with within(session.deadline()):
            return await function(session.reader(), *args, **kwargs)

    return cast("Function", reading)


def reader(db: Executor) -> Session:
    """What the statements of one call that only reads run on."""
    return session_of(db).reader()


class Session(ABC):
    """What statements run on. A Database is one; a caller's connection or pool is wrapped in one.

    What a Database does beyond running statements has its place here too, with what it means for
    the others: they track no accesses and remember no users.
    """

    external_users: MutableMapping[str, tuple[int, float]] | None = None
    """The numbers of users known by a string, and when each was found."""

    timeout: float = inf

    reads: Together[Read, list[Mapping[str, object]]] | None = None
    """Reads of memories by id that share statements; None where each is a statement of its own."""

    adds: Together[Mapping[str, object], Mapping[str, object]] | None = None
    """The same for adds."""

    embedder: Embedder | None = None
    """What makes vectors of texts; without one memories are found by their words alone."""

    embedding_model: str | None = None
    """Its model, where the database has the optional step."""

    telemetry: Telemetry | None = None
    """What is told to OpenTelemetry, where it listens."""

    row_level_security = False
    """Whether each statement tells the server of which user it is."""

    is_distributed: bool | None = None
    """Whether a Database found its tables spread over several nodes; None: it has not looked."""

    async def is_in_transaction(self) -> bool:
        """Whether statements are part of a transaction of the caller's."""
        return False

    def deadline(self) -> float:
        """Until when the present call may take, on the clock of the event loop."""
        return _deadline.get() or asyncio.get_running_loop().time() + self.timeout

    def reader(self) -> Session:
        """What the statements of one call that only reads run on."""
        return self

    def forget_names(self) -> None:  # noqa: B027
        """Look users up again whose names are remembered: names have other users now."""

    @abstractmethod
    def run(
        self, sql: str, arguments: list[Any], *, repeat: bool, only_reads: bool
    ) -> Awaitable[list[Any]]:
        """The rows of a statement; with `repeat` it may be sent again after a lost connection."""

    @abstractmethod
    def transaction(
        self, *, unbounded: bool = False, snapshot: bool = False
    ) -> AbstractAsyncContextManager[Connection]:
        """A connection inside a transaction: a new one, or a savepoint of the caller's.

        With `unbounded` a Database's timeout does not hold for its statements. With `snapshot` a
        new one only reads, and sees one state of the database.
        """

    async def with_locks(self, work: Callable[[Connection], Awaitable[One]]) -> One:
        """What some statements give on a connection that keeps their locks for the next ones.

        (Several, because one that waited for a lock goes on with what it saw before.)
        """
        return await self.in_transaction(work)

    async def in_transaction(
        self, work: Callable[[Connection], Awaitable[One]], *, unbounded: bool = False
    ) -> One:
        """What some work gives inside a transaction.

        A Database does it again where the server undid it in favour of another transaction.
        """
        async with self.transaction(unbounded=unbounded) as connection:
            return await work(connection)

    def one_snapshot(self) -> AbstractAsyncContextManager[Connection]:
        """A connection that sees one state of the database, for as long as it takes."""
        return self.transaction(unbounded=True, snapshot=True)

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
        """Record that memories were accessed, as this session does it; most do nothing.

        sliding: those whose expiry moves on with it.
        """
        return

    async def write_pending_accesses(self, user: int, memory_id: int | None = None) -> None:
        """Write what waits to be recorded of this memory, or of any of the user's."""
        return

    async def query_vector(self, text: str) -> list[float] | None:
        """The vector of a question; None without an embedder, or while it fails."""
        return None

    async def has_vector_index(self, user: int, model: str) -> bool:
        """Whether searches use an index of this user's vectors; on a connection they do without."""
        return False

    @abstractmethod
    def alone(self) -> AbstractAsyncContextManager[Connection]:
        """A connection outside of a transaction, for a command that takes as long as it takes."""

    def note_contents(self, user: int, memory_ids: Sequence[int] | None) -> None:
        """Note that the contents of memories, or of many of a user's, are new.

        So that they get their vectors soon.
        """
        return


Executor: TypeAlias = "Session | Connection | Pool"


class _OnConnection(Session):
    """A connection of the caller's, inside a transaction of the caller's or not."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self.behind: object = getattr(connection, "_con", connection)  # itself, of a pool's
        # Of a Database's own connection.
        self.telemetry = getattr(connection, "telemetry", None)
        self.row_level_security = getattr(connection, "row_level_security", False)

    def run(
        self, sql: str, arguments: list[Any], *, repeat: bool, only_reads: bool
    ) -> Awaitable[list[Any]]:
        return self._connection.fetch(sql, *arguments)

    @asynccontextmanager
    async def transaction(
        self, *, unbounded: bool = False, snapshot: bool = False
    ) -> AsyncIterator[Connection]:
        async with begun(self._connection):
            yield self._connection

    def forget_names(self) -> None:
        # Of a Database, which forgets with the commit. (isinstance takes any connection for one.)
        if type(self.behind) is PooledConnection:
            self.behind.names_changed = True

    async def with_locks(self, work: Callable[[Connection], Awaitable[One]]) -> One:
        if await self.is_in_transaction():
            return await work(self._connection)
        return await super().with_locks(work)

    async def is_in_transaction(self) -> bool:
        async def told() -> bool:
            return self._connection.is_in_transaction()

        return await translated(told)

    @asynccontextmanager
    async def one_snapshot(self) -> AsyncIterator[Connection]:
        yield self._connection  # which sees what it sees

    @asynccontextmanager
    async def alone(self) -> AsyncIterator[Connection]:
        if await self.is_in_transaction():
            raise InvalidArgument("db", "should not be inside a transaction")
        yield self._connection


class _OnPool(Session):
    """A pool of the caller's: each call takes a connection of it."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def run(
        self, sql: str, arguments: list[Any], *, repeat: bool, only_reads: bool
    ) -> list[Any]:
        async with self._pool.acquire(timeout=POOL_SECONDS) as connection:
            return await connection.fetch(sql, *arguments)

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        """A connection of the pool's."""
        connection = await translated(lambda: self._pool.acquire(timeout=POOL_SECONDS))
        try:
            yield connection
        finally:
            await self._pool.release(connection)

    @asynccontextmanager
    async def transaction(
        self, *, unbounded: bool = False, snapshot: bool = False
    ) -> AsyncIterator[Connection]:
        async with self.connection() as connection, begun(connection, snapshot=snapshot):
            yield connection

    @asynccontextmanager
    async def alone(self) -> AsyncIterator[Connection]:
        async with self.connection() as connection:
            yield connection


def session_of(db: Executor) -> Session:
    """How statements run on `db`: the one place that looks at what the caller hands in."""
    if isinstance(db, Session):
        return db
    if isinstance(db, asyncpg.Connection | PoolConnectionProxy):
        return _OnConnection(db)
    if isinstance(db, asyncpg.Pool):
        return _OnPool(db)
    raise InvalidArgument("db", "should be a Database, or a connection or pool of asyncpg")


@asynccontextmanager
async def held(db: Executor) -> AsyncIterator[Executor]:
    """The same, or one connection of a caller's pool: what is known of it is known once."""
    session = session_of(db)
    if isinstance(session, _OnPool):
        async with session.connection() as connection:
            yield connection
    else:
        yield db


async def _run(db: Executor, name: str, arguments: dict[str, object]) -> list[Any]:
    statement = statements()[name]
    if DISTRIBUTED not in statement.conditions:
        return await _run_as(db, statement, arguments, distributed=False)
    async with held(db) as one:
        distributed = await is_distributed(session_of(one))
        return await _run_as(one, statement, arguments, distributed=distributed)


async def _run_as(
    db: Executor, statement: Statement, arguments: dict[str, object], *, distributed: bool
) -> list[Any]:
    session = session_of(db)
    if session.row_level_security:
        sql, bound = statement.bind_for_user(arguments)
    else:
        sql, bound = statement.bind(arguments, distributed=distributed)
    try:
        rows = session.run(
            sql,
            bound,
            repeat=statement.is_repeatable(arguments),
            only_reads=statement.only_reads,
        )
        return await observed(statement.name, rows, session.telemetry)
    except LtmError:
        raise
    except Exception as error:
        ours = translate(error)
        if ours is None:
            raise
    if isinstance(ours, SchemaOutdated) and (step := statement.needed_step(arguments)):
        ours = StepMissing((step,))
    raise ours


async def has_nodes(db: Executor) -> bool:
    """Whether the step `distribute` was run."""
    return bool(await fetch_value(db, "find_distribution"))


async def is_distributed(session: Session) -> bool:
    """Whether the step `distribute` was run, looked up once on a Database or a connection."""
    if not isinstance(session, _OnConnection):
        if session.is_distributed is None:
            session.is_distributed = await has_nodes(session)
        return session.is_distributed
    known: bool | None = getattr(session.behind, "is_distributed", None)  # of a Database's own
    if known is not None:
        return known
    if session.behind not in _distributed:
        _distributed[session.behind] = await has_nodes(session)
    return _distributed[session.behind]


async def fetch_rows(db: Executor, name: str, /, **arguments: object) -> list[Any]:
    """The records of a statement, unmapped; its arguments by the names of its header."""
    return list(await _run(db, name, arguments))


async def fetch_value(db: Executor, name: str, /, **arguments: object) -> Any:
    """The first column of a statement's first row, or None."""
    rows = await _run(db, name, arguments)
    return rows[0][0] if rows else None


async def fetch_one(
    db: Executor, name: str, model: type[Model], /, **arguments: object
) -> Model | None:
    """The first row of a statement as a model, or None."""
    rows = await _run(db, name, arguments)
    return model.from_record(rows[0]) if rows else None


async def fetch_many(
    db: Executor, name: str, model: type[Model], /, **arguments: object
) -> list[Model]:
    """The rows of a statement as models, in its order."""
    rows = await _run(db, name, arguments)
    return model.from_records(rows)
