"""The functions of ltm_store for programs without an event loop: the same names, blocking.

`with sync.connect(dsn) as db: sync.add_memory(db, "alice", "Likes tea")`. Every function takes and
gives what the asynchronous one does; asynchronous iterators are ordinary ones here. The work is
done by one background thread of the process, so calls may come from any thread, also from one
whose own event loop runs (a notebook). A Database is of the process that opened it: after a fork,
each process opens its own.
"""

from __future__ import annotations

import asyncio
import atexit
import inspect
import os
import threading
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Callable,
    Coroutine,
    Generator,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
    Set,
)
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from functools import update_wrapper, wraps
from queue import SimpleQueue
from types import TracebackType
from typing import Any, Concatenate, Final, Generic, ParamSpec, Self, TypeAlias, TypeVar, cast

import asyncpg
from pydantic import BaseModel

import ltm_store as base
from ltm_store.database import Stats
from ltm_store.db.execute import Executor as AsyncExecutor
from ltm_store.db.transactions import Connection as AsyncConnection
from ltm_store.errors import InvalidArgument, LtmError

_PAGE: Final = 100  # items that an iterator takes from the background at once
_END: Final = object()
_IN_HAND: Final = (Sequence, Mapping, Set, BaseModel)

Given = ParamSpec("Given")
One = TypeVar("One")
Item = TypeVar("Item")


class _Background:
    """The event loop of a process, in a thread that ends with it."""

    def __init__(self) -> None:
        self._process = os.getpid()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(
            target=self._loop.run_forever, name="ltm_store.sync", daemon=True
        )
        self._thread.start()

    def is_here(self) -> bool:
        """Whether this is the process that it runs in."""
        return self._process == os.getpid()

    def run(
        self,
        function: Callable[Given, Coroutine[Any, Any, One]],
        *args: Given.args,
        **kwargs: Given.kwargs,
    ) -> One:
        """What the function gives, once it has; cancelled where waiting for it is interrupted."""
        return self.run_with(None, function, *args, **kwargs)

    def run_with(
        self,
        source: _Source[Any] | None,
        function: Callable[Given, Coroutine[Any, Any, One]],
        *args: Given.args,
        **kwargs: Given.kwargs,
    ) -> One:
        """The same, while this thread hands out the items of a source."""
        if not self.is_here():
            raise LtmError("this Database was opened before a fork: open one in each process")
        if threading.current_thread() is self._thread:
            raise LtmError("a blocking call inside of another one: call it before or after")
        call = asyncio.run_coroutine_threadsafe(function(*args, **kwargs), self._loop)
        try:
            if source is not None:
                source.serve(call)
            return call.result()
        except BaseException:
            call.cancel()
            raise

    def iterate(self, found: AsyncIterator[Item]) -> Generator[Item, None, None]:
        """The items of an asynchronous generator, which ends where this one is closed."""
        generator = cast("AsyncGenerator[Item, None]", found)
        try:
            while page := self.run(_page_of, generator):
                yield from page
        finally:
            with suppress(LtmError):  # collected as garbage elsewhere: the loop ends it then
                self.run(_end, generator)


async def _page_of(found: AsyncGenerator[Item, None]) -> list[Item]:
    page: list[Item] = []
    async for item in found:
        page.append(item)
        if len(page) == _PAGE:
            break
    return page


async def _end(found: AsyncGenerator[Item, None]) -> None:
    await found.aclose()


class _Source(Generic[Item]):
    """An asynchronous iterator over an iterable that another thread goes through.

    That is the caller's thread: what the iterable uses may be bound to it, or may block.
    """

    def __init__(self, items: Iterable[Item]) -> None:
        self._items = iter(items)
        self._wanted: SimpleQueue[Future[Item] | None] = SimpleQueue()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Item:
        wanted: Future[Item] = Future()
        self._wanted.put(wanted)
        item = await asyncio.wrap_future(wanted)
        if item is _END:
            raise StopAsyncIteration
        return item

    def serve(self, call: Future[One]) -> None:
        """Hand out items until the call is done."""
        call.add_done_callback(lambda _: self._wanted.put(None))
        while (wanted := self._wanted.get()) is not None:
            if wanted.set_running_or_notify_cancel():
                try:
                    wanted.set_result(next(self._items, cast("Item", _END)))
                except Exception as error:  # is raised inside the call, which undoes its work
                    wanted.set_exception(error)


_lock = threading.Lock()
_background: _Background | None = None


def _the_background() -> _Background:
    global _background
    with _lock:
        if _background is None:
            _background = _Background()
        return _background


def _forget_background() -> None:
    global _background, _lock
    _background, _lock = None, threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_background)


class _Undone(Exception):
    """Stands for whatever left a transaction's block."""


class Connection:
    """A connection inside a transaction; every function takes it. Nothing is tracked on it."""

    def __init__(self, connection: AsyncConnection, background: _Background) -> None:
        self._inner = connection
        self._background = background

    def execute(self, query: str, *args: object) -> str:
        """The status of a command of your own; see asyncpg."""
        return self._background.run(self._inner.execute, query, *args)

    def fetch(self, query: str, *args: object) -> list[asyncpg.Record]:
        """The rows of a query of your own; see asyncpg."""
        return self._background.run(self._inner.fetch, query, *args)

    def fetchrow(self, query: str, *args: object) -> asyncpg.Record | None:
        """The first row of a query of your own, or None."""
        return self._background.run(self._inner.fetchrow, query, *args)

    def fetchval(self, query: str, *args: object) -> object:
        """The first column of its first row, or None."""
        return self._background.run(self._inner.fetchval, query, *args)


class Database:
    """A connected database, made by connect(). Every function takes it as its first argument.

    It is closed by `with`, by close(), or else at the end of the program.
    """

    def __init__(self, database: base.Database, background: _Background) -> None:
        self._inner = database
        self._background = background
        background.run(database.__aenter__)
        atexit.register(self.close)  # after those of what it uses, so it runs before them

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    @contextmanager
    def transaction(
        self, *, unbounded: bool = False, snapshot: bool = False
    ) -> Iterator[Connection]:
        """A connection inside a transaction: committed at the end, undone by an error.

        See transaction() of the asynchronous Database.
        """
        entered = self._inner.transaction(unbounded=unbounded, snapshot=snapshot)
        connection = self._background.run(entered.__aenter__)
        try:
            yield Connection(connection, self._background)
        except BaseException:
            self._background.run(_undo, entered.__aexit__)
            raise
        self._background.run(_commit, entered.__aexit__)

    def run(
        self,
        function: Callable[Concatenate[base.Database, Given], Coroutine[Any, Any, One]],
        *args: Given.args,
        **kwargs: Given.kwargs,
    ) -> One:
        """What an asynchronous function of yours gives, called with the asynchronous Database."""
        return self._background.run(function, self._inner, *args, **kwargs)

    def flush(self) -> None:
        """Return when the accesses that are queued now are written. Raises Unavailable."""
        self._background.run(self._inner.flush)

    def stats(self) -> Stats:
        """What the pool and the queue of accesses are doing now."""

        async def told() -> Stats:
            return self._inner.stats()

        return self._background.run(told)

    def close(self) -> None:
        """Write the queued accesses and close every connection, within 5 seconds.

        Never raises because the server is gone. Does nothing in a process forked from its own.
        """
        if self._background.is_here():
            atexit.unregister(self.close)
            self._background.run(self._inner.close)


Leave: TypeAlias = Callable[
    [type[BaseException] | None, BaseException | None, TracebackType | None],
    Coroutine[Any, Any, bool | None],
]


async def _undo(leave: Leave) -> None:
    await leave(_Undone, _Undone(), None)  # the error itself might end the background thread


async def _commit(leave: Leave) -> None:
    await leave(None, None, None)


Executor: TypeAlias = Database | Connection
_Blocking: TypeAlias = Callable[Concatenate[Executor, Given], One]
_Function: TypeAlias = Callable[Concatenate[AsyncExecutor, Given], Coroutine[Any, Any, One]]
_Iterating: TypeAlias = Callable[Concatenate[AsyncExecutor, Given], AsyncIterator[Item]]


def _checked(db: object) -> Executor:
    if isinstance(db, Database | Connection):
        return db
    raise InvalidArgument("db", "should be a Database of ltm_store.sync, or a connection of it")


def _is_lazy(value: object) -> bool:
    """Whether going through it may run the caller's code, which belongs in the caller's thread."""
    return isinstance(value, Iterable) and not isinstance(value, _IN_HAND)


def _settled(value: Any) -> Any:
    return tuple(value) if _is_lazy(value) else value


def _blocking(function: _Function[Given, One]) -> _Blocking[Given, One]:
    settled: Callable[..., Coroutine[Any, Any, One]] = function

    def call(db: Executor, *args: Given.args, **kwargs: Given.kwargs) -> One:
        checked = _checked(db)
        named = {name: _settled(value) for name, value in kwargs.items()}
        return checked._background.run(settled, checked._inner, *map(_settled, args), **named)

    update_wrapper(call, function)
    return call  # type: ignore[return-value]  # `db` by name too


def _streaming(function: _Function[Given, One]) -> _Blocking[Given, One]:
    """One that takes a long iterable, and reads it one by one."""
    streamed: Callable[..., Coroutine[Any, Any, One]] = function

    def call(db: Executor, *args: Given.args, **kwargs: Given.kwargs) -> One:
        checked = _checked(db)
        bound = inspect.signature(function).bind(db, *args, **kwargs).arguments
        lazy = next((name for name, value in bound.items() if _is_lazy(value)), None)
        source = None
        if lazy is not None:
            bound[lazy] = source = _Source(bound[lazy])
        return checked._background.run_with(source, streamed, **{**bound, "db": checked._inner})

    update_wrapper(call, function)
    return call  # type: ignore[return-value]  # `db` by name too


def _iterating(
    function: _Iterating[Given, Item],
) -> Callable[Concatenate[Executor, Given], Generator[Item, None, None]]:
    iterated: Callable[..., AsyncIterator[Item]] = function

    def iterate(
        db: Executor, *args: Given.args, **kwargs: Given.kwargs
    ) -> Generator[Item, None, None]:
        checked = _checked(db)
        named = {name: _settled(value) for name, value in kwargs.items()}
        found = iterated(checked._inner, *map(_settled, args), **named)
        return checked._background.iterate(found)

    update_wrapper(iterate, function)
    return iterate  # type: ignore[return-value]  # `db` by name too


def _opening(function: Callable[Given, base.Database]) -> Callable[Given, Database]:
    @wraps(function)
    def opened(*args: Given.args, **kwargs: Given.kwargs) -> Database:
        return Database(function(*args, **kwargs), _the_background())

    return opened


connect = _opening(base.connect)

access_history = _blocking(base.access_history)
add_memories = _streaming(base.add_memories)
add_memory = _blocking(base.add_memory)
add_tags = _blocking(base.add_tags)
add_tags_where = _blocking(base.add_tags_where)
adoption_repairs = _iterating(base.adoption_repairs)
adoption_report = _blocking(base.adoption_report)
archive_memory = _blocking(base.archive_memory)
archive_stale = _blocking(base.archive_stale)
archive_where = _blocking(base.archive_where)
check_health = _blocking(base.check_health)
count_memories = _blocking(base.count_memories)
delete_by_key = _blocking(base.delete_by_key)
delete_by_keys = _blocking(base.delete_by_keys)
delete_memory = _blocking(base.delete_memory)
delete_where = _blocking(base.delete_where)
embed_memories = _blocking(base.embed_memories)
embed_memory = _blocking(base.embed_memory)
embed_missing = _blocking(base.embed_missing)
embedding_status = _blocking(base.embedding_status)
explain_search = _blocking(base.explain_search)
export_user = _iterating(base.export_user)
extend_expiry = _blocking(base.extend_expiry)
find_similar = _blocking(base.find_similar)
index_user = _blocking(base.index_user)
forget_user = _blocking(base.forget_user)
format_for_prompt = base.format_for_prompt
get_analytics = _blocking(base.get_analytics)
get_by_key = _blocking(base.get_by_key)
get_by_keys = _blocking(base.get_by_keys)
get_children = _blocking(base.get_children)
get_memories = _blocking(base.get_memories)
get_memory = _blocking(base.get_memory)
get_relationships = _blocking(base.get_relationships)
get_source = _blocking(base.get_source)
import_user = _streaming(base.import_user)
iterate_memories = _iterating(base.iterate_memories)
list_namespaces = _blocking(base.list_namespaces)
list_sources = _blocking(base.list_sources)
list_tags = _blocking(base.list_tags)
list_users = _blocking(base.list_users)
make_access_partitions = _blocking(base.make_access_partitions)
memory_graph = _blocking(base.memory_graph)
merge_users = _blocking(base.merge_users)
prune_accesses = _blocking(base.prune_accesses)
purge_expired = _blocking(base.purge_expired)
put_memories = _blocking(base.put_memories)
put_memory = _blocking(base.put_memory)
record_access = _blocking(base.record_access)
record_feedback = _blocking(base.record_feedback)
relate = _blocking(base.relate)
related_tags = _blocking(base.related_tags)
remove_tags = _blocking(base.remove_tags)
rename_key = _blocking(base.rename_key)
rename_tag = _blocking(base.rename_tag)
rename_user = _blocking(base.rename_user)
render_report = _blocking(base.render_report)
restore_memory = _blocking(base.restore_memory)
search_memories = _blocking(base.search_memories)
shortest_path = _blocking(base.shortest_path)
suggest_relationships = _blocking(base.suggest_relationships)
to_dot = base.to_dot
to_mermaid = base.to_mermaid
to_svg = base.to_svg
traverse = _blocking(base.traverse)
unrelate = _blocking(base.unrelate)
update_importance = _blocking(base.update_importance)
update_memory = _blocking(base.update_memory)
