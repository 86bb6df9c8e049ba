"""LangGraph's long-term memory: a BaseStore whose items are memories under keys.

One label of a namespace is the user, the others are the memory's namespace; the key is its key, the
value its metadata, and its content the value as JSON. So what LangGraph stores is searched,
counted, listed in psql and forgotten with the user like any other memory.
"""

from __future__ import annotations

import asyncio
import json
from collections import defaultdict
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Coroutine,
    Generator,
    Iterable,
    Iterator,
)
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import islice
from math import hypot, isclose, sqrt
from threading import Thread
from types import TracebackType
from typing import Any, Final, TypeVar

import asyncpg
from langgraph.store.base import (
    GetOp,
    IndexConfig,
    InvalidNamespaceError,
    Item,
    ListNamespacesOp,
    MatchCondition,
    Op,
    PutOp,
    Result,
    SearchItem,
    SearchOp,
    TTLConfig,
    ensure_embeddings,
    get_text_at_path,
    tokenize_path,
    validate_op_namespace,
)
from langgraph.store.base.batch import AsyncBatchedBaseStore

from ltm_store import (
    Database,
    InvalidArgument,
    Memory,
    MemoryHit,
    NewMemory,
    Unavailable,
    connect,
    delete_by_keys,
    embed_memories,
    extend_expiry,
    get_by_keys,
    iterate_memories,
    list_namespaces,
    list_users,
    migrate,
    purge_expired,
    put_memories,
    search_memories,
)

Labels = tuple[str, ...]
Value = TypeVar("Value")
_Used = defaultdict[str, list[int]]  # by user: the memories that a batch prolongs

_PAGE: Final = 1000  # users or hits that are read at once
_DEEPEST: Final = 10_000  # hits that search_memories leaves out
_SWEEP_MINUTES: Final = 5.0
_LONGEST_LIFETIME: Final = timedelta(days=36_525)


class LtmStore(AsyncBatchedBaseStore):
    """LangGraph's store on a Database, made in a running event loop; its methods are BaseStore's.

    user_at: which label of a namespace is the user, 0 being the first; "123" is user 123, any other
    a name. ttl: LangGraph's TTLConfig; minutes may be fractions, and what has expired is not read.
    index: LangGraph's index configuration (dims, embed, fields, distance_type): items are embedded
    as they are put, and a query finds those that have vectors, nearest first, each with its raw
    measure as the score. It needs the optional step `embeddings`, which setup() runs. Vectors are
    kept as halves of single floats, so the measure is exact to 1e-3.
    hybrid: a query finds items by their words too, or by these alone without an index, and the
    score is that of search_memories. With neither a query changes nothing, and items come by the
    time of their change, newest first.

    Operations that wait together are done together: the reads, then of several puts of a key the
    last. The gets of a user are one statement, as are the puts and the deletes, each all or
    nothing. A read counts as an access of the memory (of a search the first 11,000), and an item
    with a ttl expires so long after it, unless refresh_ttl is False. A prefix that ends before the
    user's label, and list_namespaces without one, reads all users, one after another.
    """

    supports_ttl = True

    def __init__(
        self,
        db: Database,
        *,
        user_at: int = 0,
        index: IndexConfig | None = None,
        ttl: TTLConfig | None = None,
        hybrid: bool = False,
    ) -> None:
        super().__init__()
        self.index_config = index
        self._index = None if index is None else _Index(index)
        self.ttl_config = ttl
        self._db = db
        self._user_at = user_at
        self._hybrid = hybrid
        self._sweeper: asyncio.Task[None] | None = None
        self._dsn: str | None = None

    @classmethod
    def from_conn_string(cls, conn_string: str, **options: Any) -> Opening:
        """A store with a Database of its own, for `async with`, or `with` where there is no loop.

        options: the keyword arguments of the class. The schema may be missing until setup(). Where
        ttl has an interval of sweeps, expired items are deleted while it is open.
        """
        return Opening(cls, conn_string, options)

    def setup(self) -> Awaitable[None]:
        """Bring the schema of from_conn_string's database up to date.

        To be awaited in the store's own loop; in any other thread it is done on return.
        """
        if self._is_own_loop():
            return asyncio.to_thread(self._migrate)
        self._migrate()
        return _Done()

    def _migrate(self) -> None:
        if self._dsn is not None:
            migrate.apply(self._dsn)
            if self._index is not None:
                migrate.optional(self._dsn, "embeddings")

    def _is_own_loop(self) -> bool:
        try:
            return asyncio.get_running_loop() is self._loop
        except RuntimeError:
            return False

    def batch(self, ops: Iterable[Op]) -> list[Result]:
        """Do operations together, from another thread than the loop's."""
        if self._is_own_loop():
            raise asyncio.InvalidStateError("await store.abatch(...) in the store's own loop")
        return asyncio.run_coroutine_threadsafe(self.abatch(ops), self._loop).result()

    async def abatch(self, ops: Iterable[Op]) -> list[Result]:
        """Do operations together: the reads first, then the last put of each key."""
        asked = list(ops)
        for op in asked:
            validate_op_namespace(op)
        results = await self._read(asked)
        puts: dict[tuple[Labels, str], PutOp] = {}
        for op in asked:
            if isinstance(op, PutOp):
                puts.pop((op.namespace, op.key), None)  # so that it comes last
                puts[op.namespace, op.key] = op
        await self._write([self._drafted(op) for op in puts.values()])
        return results

    # -- items -----------------------------------------------------------------------------------

    async def _read(self, ops: list[Op]) -> list[Result]:
        """What operations read, None of puts; the gets of a user share a statement."""
        used: _Used = defaultdict(list)
        items: dict[GetOp, Item] = {}
        gets: dict[tuple[str, bool], list[GetOp]] = {}
        for op in ops:
            if isinstance(op, GetOp):
                user, _ = self._parted(op.namespace)
                gets.setdefault((user, op.refresh_ttl), []).append(op)
        sharing = [self._get(user, those, items, used) for (user, _), those in gets.items()]
        results = await _all([*sharing, *(self._answer(op, used) for op in ops)])
        await _all(
            extend_expiry(self._db, user, page)
            for user, memory_ids in used.items()
            for page in _pages(memory_ids)
        )
        return [
            items.get(op) if isinstance(op, GetOp) else result
            for op, result in zip(ops, results[len(sharing) :], strict=True)
        ]

    async def _get(
        self, user: str, gets: list[GetOp], items: dict[GetOp, Item], used: _Used
    ) -> None:
        """Read items of a user, all of them with refresh_ttl, or none."""
        asked = {(self._parted(op.namespace)[1], op.key): op for op in gets}
        async with self._reader(gets[0].refresh_ttl) as db:
            for page in _pages(list(asked)):
                for memory in await get_by_keys(db, user, page):
                    op = asked[_labels(memory.namespace), str(memory.key)]
                    items[op] = Item(**self._item(user, memory, op, used))

    async def _answer(self, op: Op, used: _Used) -> Result:
        if isinstance(op, SearchOp):
            return await self._search(op, used)
        if isinstance(op, ListNamespacesOp):
            return await self._list(op)
        return None

    def _drafted(self, op: PutOp) -> _Draft:
        """What a put stores; what is refused is refused before anything is written."""
        user, labels = self._parted(op.namespace)
        value = dict(op.value or {})
        texts = [] if self._index is None or op.value is None else self._index.texts(op)
        new = NewMemory.checked(
            {
                # What is no JSON is refused as metadata.
                "content": "\n\n".join(texts) or json.dumps(value, ensure_ascii=False, default=str),
                "namespace": labels,
                "key": op.key,
                "metadata": value,
                "expires_after": None if op.ttl is None else _lifetime(op.ttl),
            }
        )
        return _Draft(user, new, texts, is_gone=op.value is None)

    async def _write(self, drafts: list[_Draft]) -> None:
        """Store what is put, each user's together, and delete what is deleted."""
        embedded = [draft for draft in drafts if draft.texts]
        if embedded and self._index is not None:
            vectors = iter(await self._index.embedded([t for d in embedded for t in d.texts]))
            for draft in embedded:
                draft.vectors = list(islice(vectors, len(draft.texts)))
        groups: dict[tuple[str, bool], list[_Draft]] = {}
        for draft in drafts:
            groups.setdefault((draft.user, draft.is_gone), []).append(draft)
        await _all(
            self._delete(user, those) if are_gone else self._put(user, those)
            for (user, are_gone), those in groups.items()
        )

    async def _delete(self, user: str, drafts: list[_Draft]) -> None:
        for page in _pages([(draft.new.namespace, str(draft.new.key)) for draft in drafts]):
            await delete_by_keys(self._db, user, page)

    async def _put(self, user: str, drafts: list[_Draft]) -> None:
        async with self._writer(any(draft.vectors for draft in drafts)) as db:
            memories = await put_memories(db, user, [draft.new for draft in drafts])
            vectors = {
                memory.id: draft.vectors
                for memory, draft in zip(memories, drafts, strict=True)
                if draft.vectors
            }
            if vectors and self._index is not None:
                await embed_memories(db, user, vectors, embedding_model=self._index.model)

    async def _search(self, op: SearchOp, used: _Used) -> list[SearchItem]:
        asked = await self._asked(op)
        if len(op.namespace_prefix) > self._user_at:
            user, labels = self._parted(op.namespace_prefix)
            hits = await self._hits(user, labels, op, asked, op.offset, op.limit)
        else:
            hits = await self._hits_of_all(op, asked)
        return [
            SearchItem(**self._item(user, hit, op, used), score=self._score(hit, asked))
            for user, hit in hits
        ]

    async def _hits_of_all(self, op: SearchOp, asked: dict[str, Any]) -> list[tuple[str, Memory]]:
        found: list[tuple[str, Memory]] = []
        async for user in self._users():
            end = op.offset + op.limit
            found += await self._hits(user, op.namespace_prefix, op, asked, 0, end)
        found.sort(
            key=lambda one: (self._score(one[1], asked) or 0.0, _changed(one[1])), reverse=True
        )
        return found[op.offset : op.offset + op.limit]

    async def _hits(
        self,
        user: str,
        labels: Labels,
        op: SearchOp,
        asked: dict[str, Any],
        offset: int,
        limit: int,
    ) -> list[tuple[str, Memory]]:
        conditions = {key: _condition(value) for key, value in (op.filter or {}).items()}
        filters: dict[str, Any] = {
            "namespace_prefix": ".".join(labels) or None,
            "key_prefix": "",
            "metadata": conditions or None,
            "include_archived": True,
        }
        found: list[tuple[str, Memory]] = []
        async with self._reader(op.refresh_ttl) as db:
            while len(found) < limit:
                start, wanted = offset + len(found), min(_PAGE, limit - len(found))
                if start > _DEEPEST and "order" in asked:
                    found += [
                        (user, m) async for m in _rest(db, user, filters, start, offset + limit)
                    ]
                    break
                if start > _DEEPEST and found:
                    raise InvalidArgument("limit", f"a query finds {len(found)} items at most")
                page = await search_memories(
                    db,
                    user,
                    include_context=False,
                    neighbours=False,
                    distinct=False,
                    limit=wanted,
                    offset=start,
                    **filters,
                    **asked,
                )
                found += [(user, hit) for hit in page]
                if len(page) < wanted:
                    break
        return found

    async def _asked(self, op: SearchOp) -> dict[str, Any]:
        """What a query asks of search_memories."""
        words = op.query if self._hybrid else None
        if op.query and self._index is not None:
            (vector,) = await self._index.embedded([op.query], is_query=True)
            by = {"query_embedding": vector, "embedding_model": self._index.model}
            return {"query": words, **by} if words else {**by, "meaning": 1, "importance_weight": 0}
        return {"query": words} if words else {"order": "modified"}

    def _score(self, hit: Memory, asked: dict[str, Any]) -> float | None:
        if "order" in asked or not isinstance(hit, MemoryHit):
            return None
        if "query" in asked or self._index is None or hit.meaning_score is None:
            return hit.score
        return self._index.measure(hit.meaning_score)

    def _item(self, user: str, memory: Memory, op: GetOp | SearchOp, used: _Used) -> dict[str, Any]:
        if op.refresh_ttl and memory.expires_after is not None:
            used[user].append(memory.id)
        return {
            "namespace": self._whole(user, _labels(memory.namespace)),
            "key": memory.key,
            "value": memory.metadata or {},
            "created_at": memory.created_at,
            "updated_at": _changed(memory),
        }

    @asynccontextmanager
    async def _writer(self, several: bool) -> AsyncIterator[Database | asyncpg.Connection]:
        """What writes: an item with its vectors all or nothing."""
        if several:
            async with self._db.transaction() as connection:
                yield connection
        else:
            yield self._db

    @asynccontextmanager
    async def _reader(self, refresh: bool) -> AsyncIterator[Database | asyncpg.Connection]:
        """What reads: a connection's accesses are not recorded, and so prolong nothing."""
        if refresh:
            yield self._db
        else:
            async with self._db.transaction() as connection:
                yield connection

    # -- namespaces ------------------------------------------------------------------------------

    async def _list(self, op: ListNamespacesOp) -> list[Labels]:
        conditions = op.match_conditions or ()
        found = set()
        async for user in self._users_like(conditions):
            for namespace in await list_namespaces(self._db, user, keyed=True):
                labels = _labels(namespace.namespace)
                whole = self._whole(user, labels)
                if len(labels) >= self._user_at and all(_fits(c, whole) for c in conditions):
                    found.add(whole[: op.max_depth])
        return sorted(found)[op.offset : op.offset + op.limit]

    async def _users_like(self, conditions: Iterable[MatchCondition]) -> AsyncIterator[str]:
        """The user whom a prefix names, else all."""
        for condition in conditions:
            path = condition.path[self._user_at :]
            if condition.match_type == "prefix" and path and path[0] != "*":
                yield path[0]
                return
        async for user in self._users():
            yield user

    async def _users(self) -> AsyncIterator[str]:
        last = None
        while page := await list_users(self._db, after=last, limit=_PAGE):
            for user in page:
                yield str(user.name)
            last = page[-1].name

    def _parted(self, namespace: Labels) -> tuple[str, Labels]:
        """The user that a namespace names, and its other labels."""
        at = self._user_at
        if len(namespace) <= at:
            raise InvalidNamespaceError(f"label {at} of a namespace is the user: it has too few")
        return namespace[at], (*namespace[:at], *namespace[at + 1 :])

    def _whole(self, user: str, labels: Labels) -> Labels:
        return (*labels[: self._user_at], user, *labels[self._user_at :])

    # -- expiry ----------------------------------------------------------------------------------

    async def sweep_ttl(self) -> int:
        """Delete what has expired, of all users; return how many memories that were."""
        return await purge_expired(self._db)

    async def start_ttl_sweeper(
        self, sweep_interval_minutes: float | None = None
    ) -> asyncio.Task[None]:
        """Sweep at an interval, ttl's or five minutes unless told, until the store is closed."""
        if self._db.row_level_security:
            await purge_expired(self._db)  # raises now what no interval would tell
        if self._sweeper is None or self._sweeper.done():
            configured = (self.ttl_config or {}).get("sweep_interval_minutes")
            minutes = sweep_interval_minutes or configured or _SWEEP_MINUTES
            self._sweeper = asyncio.create_task(self._sweep_at_intervals(minutes * 60))
        return self._sweeper

    async def _sweep_at_intervals(self, seconds: float) -> None:
        while True:
            await asyncio.sleep(seconds)
            with suppress(Unavailable):  # the next one comes
                await purge_expired(self._db)

    async def stop_ttl_sweeper(self, timeout: float | None = None) -> bool:
        """Stop sweeping; tell whether it has ended within so many seconds, without limit unless
        told.
        """
        if self._sweeper is None:
            return True
        self._sweeper.cancel()
        done, _ = await asyncio.wait([self._sweeper], timeout=timeout)
        return bool(done)

    async def aclose(self) -> None:
        """End what runs in the background. The Database stays open."""
        await self.stop_ttl_sweeper()
        if self._task is not None:
            self._task.cancel()


@dataclass(slots=True)
class _Draft:
    """An item to store or to delete, and the texts of it that are embedded."""

    user: str
    new: NewMemory
    texts: list[str]
    is_gone: bool
    vectors: list[list[float]] = field(default_factory=list)


class _Index:
    """What is embedded of an item, and how near is told."""

    def __init__(self, config: IndexConfig) -> None:
        self._embeddings = ensure_embeddings(config.get("embed"))
        self._fields = _paths(config.get("fields") or ["$"])
        self._distance = str(config.get("distance_type", "cosine"))
        if self._distance not in _MEASURES:
            raise ValueError(f"distance_type should be one of {', '.join(_MEASURES)}")
        self.model = f"langgraph:{type(self._embeddings).__name__}"[:64]

    def texts(self, op: PutOp) -> list[str]:
        """What is embedded of an item; nothing where it says so."""
        if op.index is False:
            return []
        paths = self._fields if op.index is None else _paths(op.index)
        found = [text for path in paths for text in get_text_at_path(op.value, path)]
        return [text for text in found if text.strip()]

    async def embedded(self, texts: list[str], *, is_query: bool = False) -> list[list[float]]:
        if is_query:
            vectors = [await self._embeddings.aembed_query(text) for text in texts]
        else:
            vectors = await self._embeddings.aembed_documents(texts)
        if self._distance != "cosine" and not all(_is_unit(vector) for vector in vectors):
            raise ValueError(f"distance_type {self._distance} needs vectors of length 1")
        return vectors

    def measure(self, cosine: float) -> float:
        """The raw measure of vectors of length 1 between which there is this cosine."""
        return _MEASURES[self._distance](cosine)


_MEASURES: Final[dict[str, Callable[[float], float]]] = {
    "cosine": lambda cosine: cosine,
    "inner_product": lambda cosine: cosine,
    "l2": lambda cosine: -sqrt(max(0.0, 2 - 2 * cosine)),
}


def _paths(fields: list[str]) -> list[str | list[str]]:
    return [field if field == "$" else tokenize_path(field) for field in fields]


def _is_unit(vector: list[float]) -> bool:
    return isclose(hypot(*vector), 1, abs_tol=1e-3)


class Opening:
    """A store to be opened by `with` or `async with`, and closed at its end."""

    def __init__(self, kind: type[LtmStore], dsn: str, options: dict[str, Any]) -> None:
        self._kind, self._dsn, self._options = kind, dsn, options

    async def __aenter__(self) -> LtmStore:
        self._db = await connect(self._dsn, check_schema=False)
        self._store = self._kind(self._db, **self._options)
        self._store._dsn = self._dsn
        if (self._store.ttl_config or {}).get("sweep_interval_minutes"):
            await self._store.start_ttl_sweeper()
        return self._store

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._store.aclose()
        await self._db.close()

    def __enter__(self) -> LtmStore:
        self._loop = asyncio.new_event_loop()
        self._thread = Thread(target=self._loop.run_forever, name="LtmStore", daemon=True)
        self._thread.start()
        try:
            return self._there(self.__aenter__())
        except BaseException:
            self._end()
            raise

    def __exit__(self, *raised: Any) -> None:
        try:
            self._there(self.__aexit__(None, None, None))
        finally:
            self._end()

    def _there(self, work: Coroutine[Any, Any, Value]) -> Value:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def _end(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


class _Done:
    """What is done already, to be awaited all the same."""

    def __await__(self) -> Generator[None, None, None]:
        return
        yield


async def _all(calls: Iterable[Awaitable[Value]]) -> list[Value]:
    """The results of all, once all have ended; the first error where there is one."""
    results = await asyncio.gather(*calls, return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return results  # type: ignore[return-value]


def _lifetime(ttl: float) -> timedelta:
    with suppress(TypeError, ValueError, OverflowError):
        if timedelta(0) < (lifetime := timedelta(minutes=ttl)) <= _LONGEST_LIFETIME:
            return lifetime
    raise InvalidArgument("ttl", "should be minutes, above 0 and at most a hundred years")


async def _rest(
    db: Database | asyncpg.Connection, user: str, filters: dict[str, Any], start: int, end: int
) -> AsyncIterator[Memory]:
    """The items from one place on, up to another one, by the time of their change."""
    place = 0
    async for memory in iterate_memories(
        db, user, order="modified", include_context=False, **filters
    ):
        if place >= start:
            yield memory
        place += 1
        if place == end:
            return


def _labels(namespace: str) -> Labels:
    return tuple(namespace.split(".")) if namespace else ()


def _changed(memory: Memory) -> datetime:
    return memory.last_modified or memory.created_at or datetime.fromtimestamp(0, UTC)


def _pages(values: list[Value]) -> Iterator[list[Value]]:
    return (values[begin : begin + _PAGE] for begin in range(0, len(values), _PAGE))


def _condition(value: Any) -> dict[str, Any]:
    """A filter of LangGraph's: a bare value is equality."""
    if isinstance(value, dict) and any(key.startswith("$") for key in value):
        return value
    return {"$eq": value}


def _fits(condition: MatchCondition, namespace: Labels) -> bool:
    path = condition.path
    if len(path) > len(namespace):
        return False
    start = 0 if condition.match_type == "prefix" else len(namespace) - len(path)
    return all(
        wanted in ("*", label) for wanted, label in zip(path, namespace[start:], strict=False)
    )
