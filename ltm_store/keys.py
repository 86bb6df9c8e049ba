"""Memories under keys of the caller's own, and the namespaces that they are in."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from operator import attrgetter
from typing import Final, Unpack

from ltm_store import limits
from ltm_store.adding import NewFields, insert_memory, insert_together, read_by_key
from ltm_store.db.execute import (
    Executor,
    fetch_many,
    fetch_rows,
    fetch_value,
    is_distributed,
    one_deadline,
    only_reads,
    session_of,
)
from ltm_store.db.identity import User, ensure_user, find_user
from ltm_store.db.transactions import Connection
from ltm_store.errors import InvalidArgument, InvalidMemory, Overtaken, Unavailable
from ltm_store.memories import delete_by_number, track_reads
from ltm_store.model.keys import Namespace, NamespaceList, Place, Renaming
from ltm_store.model.memories import Conflict, Memory, NewMemory
from ltm_store.model.values import UserId, moment

NamespaceOption = str | Sequence[str] | None
Places = Iterable[tuple[NamespaceOption, str]]
_ATTEMPTS: Final = 10  # of a put, where the key is given and taken in between
_MOST_TOGETHER: Final = 1_000  # puts of a statement
_MOST_CHARS: Final = 4_194_304  # of their contents
_ALL: Final = 2**31  # rows: as many as there are


@one_deadline
async def put_memory(
    db: Executor,
    user_id: UserId,
    key: str,
    content: str,
    *,
    namespace: NamespaceOption = None,
    **fields: Unpack[NewFields],
) -> Memory:
    """Store a memory under a key, in the place of the one that has it; return it.

    key: 1 to 255 characters, taken exactly. namespace: labels joined by dots or a tuple of them;
    None is none. content may be empty. fields: those of add_memory.

    Where a memory has the key, it keeps its id, created_at, accesses, relationships and children;
    everything else is as in an add: what is not given is cleared. version goes up by one, an
    archived one is restored, outcome is "replaced". Otherwise, and where the one that had it has
    expired, outcome is "created". Of two puts at the same instant one comes after the other, whole.
    Raises InvalidMemory naming the field that is refused.
    """
    place = Place.checked({"namespace": namespace, "key": key})
    new = NewMemory.checked({**fields, **place.model_dump(), "content": content})
    memory: Memory | None = None
    try:
        memory = await insert_memory(db, await ensure_user(db, user_id), new, replace=True)
    except InvalidMemory as error:
        # Which the same put of another task may have now.
        if error.field != "idempotency_key" or await session_of(db).is_in_transaction():
            raise
    for attempt in range(_ATTEMPTS):
        if memory is not None:
            return memory
        # Another writer of the key came in between, or the user was forgotten.
        user = await ensure_user(db, user_id, refresh=attempt > 0)
        try:
            memory = await _put_locked(db, user, new)
        except Overtaken:
            if await session_of(db).is_in_transaction():
                raise
    raise Unavailable("other writers of this key came in between each time")


@one_deadline
async def put_memories(
    db: Executor, user_id: UserId, memories: Iterable[NewMemory | Mapping[str, object]]
) -> list[Memory]:
    """Store many memories under their keys, as put_memory does each; return them as given.

    memories: each a NewMemory or a dict of add_memory's keywords, with a key, and without an
    idempotency_key and an embedding. Of several with one key in a namespace the last one counts.
    last_modified goes up in the order given. They go in statements of up to 1,000, all or nothing
    but for keys that other writers have put meanwhile, which are put again after them.

    Raises InvalidMemory whose field begins with its place, "memories[3].tags", before anything is
    written; of related and parent memories that this user does not have the field alone.
    """
    puts = _checked_puts(memories)
    waiting: dict[tuple[str, str | None], NewMemory] = {}
    for put in puts:
        waiting.pop(_place(put), None)  # so that it comes last
        waiting[_place(put)] = put
    stored: dict[tuple[str, str | None], Memory] = {}
    for attempt in range(_ATTEMPTS):
        if not waiting:
            return [stored[_place(put)] for put in puts]
        user = await ensure_user(db, user_id, refresh=attempt > 1)
        batches = list(_batches(waiting.values()))
        try:
            if attempt == 0 and len(batches) == 1 and not await is_distributed(session_of(db)):
                made = await insert_together(db, user, batches[0])
            else:
                made = await _put_batches(db, user, batches, locking=attempt > 0)
        except Overtaken:
            if await session_of(db).is_in_transaction():
                raise
            continue
        for memory in made:
            place = memory.namespace, memory.key
            stored[place] = memory
            del waiting[place]
    raise Unavailable("other writers of these keys came in between each time")


def _place(put: NewMemory) -> tuple[str, str | None]:
    return put.namespace, put.key


def _checked_puts(memories: Iterable[NewMemory | Mapping[str, object]]) -> list[NewMemory]:
    if not isinstance(memories, Iterable) or isinstance(memories, str | bytes | Mapping):
        raise InvalidArgument("memories", "should be a list, or another iterable of memories")
    puts = []
    for place, given in enumerate(memories):
        try:
            put = given if isinstance(given, NewMemory) else NewMemory.checked(given)
            for name in ("idempotency_key", "embedding"):
                if getattr(put, name) is not None:
                    raise InvalidMemory(name, "is for put_memory alone")
            if put.key is None:
                raise InvalidMemory("key", "should be given")
        except InvalidMemory as error:
            raise InvalidMemory(f"memories[{place}].{error.field}", error.rule) from None
        puts.append(put)
    return puts


def _batches(puts: Iterable[NewMemory]) -> Iterator[list[NewMemory]]:
    """As many at a time as a statement takes."""
    batch: list[NewMemory] = []
    chars = 0
    for put in puts:
        if batch and (len(batch) == _MOST_TOGETHER or chars + len(put.content) > _MOST_CHARS):
            yield batch
            batch, chars = [], 0
        batch.append(put)
        chars += len(put.content)
    if batch:
        yield batch


async def _put_batches(
    db: Executor, user: User, batches: list[list[NewMemory]], *, locking: bool
) -> list[Memory]:
    """Put memories in one transaction; with `locking` while others wait."""

    async def put(connection: Connection) -> list[Memory]:
        made = []
        for batch in batches:
            for new in sorted(batch, key=attrgetter("namespace", "key")) if locking else ():
                await _lock(connection, user, new)
            made += await insert_together(connection, user, batch)
        return made

    return await session_of(db).with_locks(put)


async def _put_locked(db: Executor, user: User, new: NewMemory) -> Memory | None:
    """Put a memory while others wait, where there is one to lock."""

    async def put(connection: Connection) -> Memory | None:
        await _lock(connection, user, new)
        return await insert_memory(connection, user, new, replace=True)

    return await session_of(db).with_locks(put)


async def _lock(connection: Connection, user: User, new: NewMemory) -> None:
    await fetch_rows(
        connection,
        "lock_key",
        user_id=user.number,
        namespace=new.namespace,
        key=new.key,
        as_of=moment(None),
    )


@only_reads
async def get_by_key(
    db: Executor, user_id: UserId, key: str, *, namespace: NamespaceOption = None
) -> Memory | None:
    """The memory with a key, archived or not, with its context and tags; None when there is none.

    namespace: None is none. Tracked as a "direct" access. Raises InvalidMemory naming the argument
    that is refused.
    """
    place = Place.checked({"namespace": namespace, "key": key})
    user = await find_user(db, user_id)
    if user is None:
        return None
    memory = await read_by_key(db, user, place.namespace, place.key, moment(None))
    if memory is not None:
        await track_reads(db, user, [memory], "direct")
    return memory


@only_reads
async def get_by_keys(db: Executor, user_id: UserId, places: Places) -> list[Memory]:
    """The memories with some keys, as get_by_key gives each, in the order asked for.

    places: at most 10,000 pairs of a namespace, None being none, and a key. Where there is no such
    memory it is left out. Raises InvalidMemory naming what is refused, "places[3].key".
    """
    asked = _checked_places(places)
    user = await find_user(db, user_id)
    if user is None:
        return []
    found = await fetch_many(db, "get_by_keys", Memory, **_arguments(user, asked))
    await track_reads(db, user, found, "direct")
    return found


@one_deadline
async def delete_by_key(
    db: Executor, user_id: UserId, key: str, *, namespace: NamespaceOption = None
) -> bool:
    """Delete the memory with a key, as delete_memory does; tell whether there was one."""
    place = Place.checked({"namespace": namespace, "key": key})
    return await _delete(db, user_id, [place]) > 0


@one_deadline
async def delete_by_keys(db: Executor, user_id: UserId, places: Places) -> int:
    """Delete the memories with some keys, all or nothing; return how many there were.

    places: as in get_by_keys.
    """
    return await _delete(db, user_id, _checked_places(places))


async def _delete(db: Executor, user_id: UserId, places: list[Place]) -> int:
    user = await find_user(db, user_id)
    if user is None:
        return 0
    found = await fetch_rows(db, "find_keys", **_arguments(user, places))
    ids, keys = [row["id"] for row in found], [row["key"] for row in found]
    return await delete_by_number(db, user.number, ids, moment(None), keys=keys) if ids else 0


def _checked_places(places: Places) -> list[Place]:
    if not isinstance(places, Iterable) or isinstance(places, str | bytes | Mapping):
        raise InvalidMemory("places", "should be a list of pairs of a namespace and a key")
    checked = []
    for number, pair in enumerate(places):
        if not isinstance(pair, tuple | list) or len(pair) != len(Place.model_fields):
            raise InvalidMemory(f"places[{number}]", "should be a namespace and a key")
        try:
            checked.append(Place.checked({"namespace": pair[0], "key": pair[1]}))
        except InvalidMemory as error:
            raise InvalidMemory(f"places[{number}].{error.field}", error.rule) from None
    if len(checked) > limits.LISTED:
        raise InvalidMemory("places", f"more than {limits.LISTED} keys")
    return checked


def _arguments(user: User, places: list[Place]) -> dict[str, object]:
    return {
        "user_id": user.number,
        "namespaces": [place.namespace for place in places],
        "keys": [place.key for place in places],
        "as_of": moment(None),
    }


@one_deadline
async def rename_key(
    db: Executor,
    user_id: UserId,
    old: str,
    new: str,
    *,
    namespace: NamespaceOption = None,
    prefix: bool = False,
) -> int:
    """Give the memory with a key another one; return how many were renamed.

    prefix: all memories whose key begins with old; new takes the place of that beginning, and
    either may be empty. All or nothing. Raises Conflict carrying a memory that has one of the new
    keys, InvalidArgument naming the argument that is refused.
    """
    renaming = Renaming.checked({"old": old, "new": new, "namespace": namespace, "prefix": prefix})
    for name in () if prefix else ("old", "new"):
        if not getattr(renaming, name):
            raise InvalidArgument(name, "should not be empty")
    user = await find_user(db, user_id)
    if user is None:
        return 0
    try:
        return await session_of(db).with_locks(
            lambda connection: _rename(connection, user, renaming)
        )
    except InvalidMemory as error:
        if error.field != "key":
            raise
        raise InvalidMemory("new", error.rule) from None  # taken by another writer in between


async def _rename(connection: Connection, user: User, renaming: Renaming) -> int:
    now = moment(None)
    place = {"user_id": user.number, "namespace": renaming.namespace}
    locked = await fetch_rows(
        connection,
        "lock_keys",
        **place,
        key=renaming.old,
        as_of=now,
        row_limit=_ALL,
        prefix=renaming.prefix,
    )
    ids, keys = [row["id"] for row in locked], [row["key"] for row in locked]
    if not ids or renaming.old == renaming.new:
        return len(ids)
    renamed = [renaming.new + key[len(renaming.old) :] for key in keys]
    if not all(1 <= len(key) <= limits.KEY_CHARS for key in renamed):
        raise InvalidArgument("new", f"a key would not have 1 to {limits.KEY_CHARS} characters")
    taken = await fetch_value(
        connection, "key_in_the_way", **place, keys=renamed, but_ids=ids, as_of=now
    )
    if taken is not None:
        holder = await read_by_key(connection, user, renaming.namespace, taken, now)
        if holder is not None:
            raise Conflict(holder)
    await fetch_rows(connection, "free_keys", **place, keys=renamed, ids=ids, as_of=now)
    await fetch_rows(connection, "give_keys", user_id=user.number, ids=ids, keys=renamed, now=now)
    return len(ids)


@only_reads
async def list_namespaces(
    db: Executor,
    user_id: UserId,
    *,
    prefix: NamespaceOption = None,
    max_depth: int | None = None,
    counts: bool = False,
    keyed: bool = False,
) -> list[Namespace]:
    """The namespaces that a user's memories are in, archived ones too, in the order of their bytes.

    Memories without a namespace are in "". prefix: that namespace and those below it. max_depth:
    each cut to so many labels. counts: with how many memories each has, and when one of them was
    last changed; that reads all memories of the user, where names alone are read from an index.
    keyed: of memories with a key alone.
    """
    asked = NamespaceList.checked(
        {"prefix": prefix, "max_depth": max_depth, "counts": counts, "keyed": keyed}
    )
    user = await find_user(db, user_id)
    if user is None:
        return []
    labels = asked.prefix.split(".") if asked.prefix else []
    depth = max_depth and max(max_depth, len(labels))
    found = await fetch_many(
        db,
        "count_namespaces" if counts else "list_namespaces",
        Namespace,
        user_id=user.number,
        as_of=moment(None),
        row_limit=_ALL,
        prefix=asked.prefix or None,
        max_depth=depth,
        keyed=asked.keyed,
    )
    if depth == max_depth:
        return found
    name = ".".join(labels[:max_depth])  # all there is, as one
    return [namespace.model_copy(update={"namespace": name}) for namespace in found]
