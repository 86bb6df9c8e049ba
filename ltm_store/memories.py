"""Adding, reading, changing and deleting memories."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from itertools import islice
from operator import itemgetter
from typing import Final, TypedDict, Unpack

from pydantic import JsonValue

from ltm_store import limits
from ltm_store.db.execute import (
    Executor,
    Read,
    fetch_many,
    fetch_one,
    fetch_rows,
    fetch_value,
    held,
    is_distributed,
    one_deadline,
    only_reads,
    session_of,
)
from ltm_store.db.identity import User, ensure_user, find_user
from ltm_store.db.transactions import Connection
from ltm_store.db.vectors import model_of
from ltm_store.errors import InvalidArgument, InvalidMemory, Unavailable
from ltm_store.model.accesses import AccessDetails
from ltm_store.model.contexts import EnhancedContext, store_context
from ltm_store.model.memories import Conflict, Memory, MemoryChanges, NewMemory
from ltm_store.model.values import (
    UserId,
    check_memory_id,
    dump_json,
    moment,
    row_limit,
    whole_number,
)

FORGOTTEN: Final = "this user is being forgotten"
SHARED_IDS: Final = 64  # that a call may ask for and share a statement
SHARED_BYTES: Final = 1_048_576  # of such a statement
SHARED_BYTES_EACH: Final = 16_384  # of a memory in it
_CONTEXT_COLUMNS: Final = (
    "context_types",
    "context_keys",
    "context_values",
    "context_confidences",
)
NOT_ADDED: Final = ("memory_id", "source_memory_id")
"""Fields of an error on Citus, where rows are refused of a memory that was not added."""
# Those of add_memories_together, with the argument of add_memory that each is a list of.
_COLUMNS: Final = {
    "contents": "content",
    "tag_lists": "tags",
    "memory_types": "memory_type",
    "categories": "category",
    "importance_scores": "importance_score",
    "confidence_scores": "confidence_score",
    "contexts": "context",
    "context_objects": "context_data",
    "source_types": "source_type",
    "source_ids": "source_id",
    "source_positions": "source_position",
    "creators": "created_by",
    "creations": "created_at",
    "parent_memory_ids": "parent_memory_id",
    "metadata_objects": "metadata",
    "expiries": "expires_at",
    "namespaces": "namespace",
    "lifetimes": "expires_after",
    "moments": "now",
}
_ATTEMPTS: Final = 100  # of an update, where others come in between
_PLAIN_FIELDS: Final = set(MemoryChanges.model_fields).difference(
    {"tags", "enhanced_context", "metadata", "remove_metadata"}
)
_log = logging.getLogger(__name__)


class Fields(TypedDict, total=False):
    """The fields that a memory is given at first and that can be changed later."""

    tags: Iterable[str] | None
    importance_score: int
    confidence_score: float
    context: str | None
    enhanced_context: EnhancedContext | Mapping[str, object] | None
    memory_type: str | None
    category: str | None
    source_type: str | None
    source_id: str | None
    source_position: int | None
    created_by: str | None
    metadata: Mapping[str, JsonValue] | None
    parent_memory_id: int | None
    expires_at: datetime | None
    expires_after: timedelta | None


class NewFields(Fields, total=False):
    """The fields of add_memory beside its content and its key."""

    related_memory_ids: Iterable[int]
    created_at: datetime | None
    idempotency_key: str | None
    embedding: Sequence[float] | None
    embedding_model: str | None


class Changes(Fields, total=False):
    """The fields that update_memory can change."""

    content: str
    remove_metadata: Iterable[str]


def _json(value: object) -> str | None:
    return None if value is None else dump_json(value)


def _context_arguments(context: EnhancedContext | None) -> dict[str, object]:
    """The JSON object's text, and the columns of the rows, as statements name them."""
    if context is None:
        return dict.fromkeys(("context_data", *_CONTEXT_COLUMNS))
    text, rows = store_context(context)
    columns = ([row[i] for row in rows] for i in range(len(_CONTEXT_COLUMNS)))
    return {"context_data": text, **dict(zip(_CONTEXT_COLUMNS, columns, strict=True))}


@one_deadline
async def add_memory(
    db: Executor,
    user_id: UserId,
    content: str,
    *,
    tags: Iterable[str] = (),
    importance_score: int = 5,
    confidence_score: float = 1.0,
    context: str | None = None,
    enhanced_context: EnhancedContext | Mapping[str, object] | None = None,
    memory_type: str | None = None,
    category: str | None = None,
    source_type: str | None = None,
    source_id: str | None = None,
    source_position: int | None = None,
    created_by: str | None = "system",
    metadata: Mapping[str, JsonValue] | None = None,
    related_memory_ids: Iterable[int] = (),
    parent_memory_id: int | None = None,
    created_at: datetime | None = None,
    expires_at: datetime | None = None,
    idempotency_key: str | None = None,
    namespace: str | Sequence[str] | None = None,
    key: str | None = None,
    expires_after: timedelta | None = None,
    embedding: Sequence[float] | None = None,
    embedding_model: str | None = None,
) -> Memory:
    """Store a memory with its contexts, tags and relationships, all or nothing, and return it.

    content: 1 character to 1 MiB of UTF-8; the first 200,000 characters are searchable. With a key
    it may be empty.
    tags: at most 100 of 100 characters; the first spelling of each counts.
    importance_score: 1 .. 10, the base importance, default 5. confidence_score: 0 .. 1, default 1.
    context: circumstances as free text. enhanced_context: structured ones, as an EnhancedContext or
    a dict of its fields, at most 200 of them.
    memory_type, source_type: a word of at most 50 characters; see MemoryType and SourceType.
    category: at most 100 characters. created_by: who wrote it, default "system".
    source_id, source_position: the conversation or document it comes from, at most 255 characters,
    and its place there; memories beside a hit are found by them.
    metadata: a JSON object of at most 256 KiB and depth 32, never read by this library.
    related_memory_ids: at most 1,000; they become relationships of type "related", strength 0.5.
    parent_memory_id: the memory that it belongs under.
    created_at: when it was created, default now; a naive moment is UTC. expires_at: from when on no
    read finds it, default never. expires_after: how long it stays after its last access, at most
    36,525 days; each access moves expires_at on, which begins as that long from now.
    namespace: what of the user's it belongs to, as labels joined by dots or a tuple of labels, at
    most 1,500 bytes. key: its name there, at most 255 characters, unique in the namespace.
    idempotency_key: at most 255 characters; with one that the user has used before, the memory
    stored then comes back unchanged with outcome "existing", otherwise outcome is "created".
    embedding: a vector of the content, 1 .. 4000 numbers, where you make them yourself.
    embedding_model: the name of what made it, default the Database's embedder's, else "caller".

    Where the user has a memory that says the same, duplicate_of tells its id; with an embedding
    else the one of the newest 2,000 vectors whose meaning is nearest, from a cosine of 0.95 on,
    which may as well be an earlier state of the same fact. Both are kept, and of two adds at the
    same instant neither may tell. Raises InvalidMemory naming the field that is
    refused, among them related and parent memories that this user does not have, and Conflict
    carrying the memory that has the key.
    """
    # The model checks them; naming each of them again would be one more list.
    given = dict(locals())
    new = NewMemory.checked({name: given[name] for name in NewMemory.model_fields})
    for refresh in (False, True):
        memory = await insert_memory(db, await ensure_user(db, user_id, refresh=refresh), new)
        if memory is not None:
            return memory
    raise Unavailable(FORGOTTEN)


async def insert_memory(
    db: Executor, user: User, new: NewMemory, *, replace: bool = False
) -> Memory | None:
    """Store a validated memory; see add_memory. With `replace` instead of the one with its key.

    None when the number is nobody's any more, because its user was forgotten, and where another
    writer of the key came in between.
    """
    now = moment(None)
    vector = new.embedding
    model = None if vector is None else model_of(db, vector, new.embedding_model, "embedding")
    arguments = {
        **_add_arguments(user, new, now, replace),
        "embedding": vector,
        "embedding_model": model,
    }
    memory: Memory | None = None
    try:
        memory = await _add_with_others(db, arguments)
    except InvalidMemory as error:
        if error.field == "target_memory_id":
            raise InvalidMemory("related_memory_ids", error.rule) from None
        if error.field != "idempotency_key" or new.key is None or replace:
            raise
    if new.key is not None and not replace:
        memory = await _kept(db, user, new, now, memory)
    if memory and memory.outcome == "existing" and memory.content != new.content:
        warn_of_other_content(memory.id, is_archived=memory.is_archived)
    if memory and memory.outcome != "existing":
        session_of(db).note_contents(user.number, [memory.id])
    return memory


def warn_of_other_content(memory_id: int, *, is_archived: bool) -> None:
    """Log that an add found its idempotency_key with a memory that says something else."""
    place = ", and is archived" if is_archived else ""
    _log.warning(
        "memory %d has this idempotency_key and another content%s",
        memory_id,
        place,
        extra={"event": "idempotency_key_reused"},
    )


async def _kept(
    db: Executor, user: User, new: NewMemory, now: datetime, found: Memory | None
) -> Memory | None:
    """The memory that an add with a key gives, where it made it or has its idempotency_key."""
    key = new.idempotency_key
    if found is None and key is not None:  # of another memory, which add_memory does not look for
        found = await read_by_key(db, user, new.namespace, None, now, idempotency_key=key)
        return found and found.model_copy(update={"outcome": "existing"})
    if found and found.outcome == "existing" and (key is None or found.idempotency_key != key):
        raise Conflict(found.model_copy(update={"outcome": None}))
    return found


async def read_by_key(
    db: Executor,
    user: User,
    namespace: str,
    key: str | None,
    now: datetime,
    *,
    idempotency_key: str | None = None,
) -> Memory | None:
    """The memory with a key, or with an idempotency key, as of a moment; not tracked."""
    return await _by_key(
        db,
        user_id=user.number,
        namespace=namespace,
        key=key,
        as_of=now,
        idempotency_key=idempotency_key,
    )


def _add_arguments(user: User, new: NewMemory, now: datetime, replace: bool) -> dict[str, object]:
    """What add_memory takes."""
    return {
        "user_id": user.number,
        "external": user.is_external,
        "now": now,
        "content": new.content,
        "tags": dump_json(new.tags),
        "tag_names": list(new.tags) or None,
        "memory_type": new.memory_type,
        "category": new.category,
        "importance_score": new.importance_score,
        "confidence_score": new.confidence_score,
        "context": new.context,
        "source_type": new.source_type,
        "source_id": new.source_id,
        "source_position": new.source_position,
        "created_by": new.created_by,
        "created_at": new.created_at or now,
        "parent_memory_id": new.parent_memory_id,
        "related_memory_ids": list(new.related_memory_ids) or None,
        "metadata": _json(new.metadata),
        "expires_at": expiry(new, now),
        "expires_after": new.expires_after,
        "idempotency_key": new.idempotency_key,
        "namespace": new.namespace,
        "key": new.key,
        "replace": replace,
        **_context_arguments(new.enhanced_context),
    }


def expiry(new: NewMemory, now: datetime) -> datetime | None:
    """When a memory that is added now expires."""
    if new.expires_at is None and new.expires_after is not None:
        return now + new.expires_after
    return new.expires_at


async def _add_with_others(db: Executor, arguments: Mapping[str, object]) -> Memory | None:
    """Store one memory: by a statement of several calls of one user, or by one of its own."""
    session = session_of(db)
    alone = any(arguments[name] is not None for name in ("idempotency_key", "key", "embedding"))
    if session.adds is None or alone or _is_large(arguments):
        return await _add_alone(db, arguments)
    part = await session.adds.part(arguments, session.deadline())
    if part is not None:
        return Memory.from_record(part)
    with session.adds:
        return await _add_alone(db, arguments)


async def _add_alone(db: Executor, arguments: Mapping[str, object]) -> Memory | None:
    async with held(db) as one:
        if not await is_distributed(session_of(one)):
            return await _sent(one, arguments, None)
        for _ in range(2):
            try:
                return await _add_there(one, arguments)
            except InvalidMemory as error:
                # Of a memory that was not added: another writer of the key came in between, or the
                # number is nobody's any more.
                if error.field not in NOT_ADDED:
                    raise
        return None


async def _add_there(db: Executor, arguments: Mapping[str, object]) -> Memory | None:
    """The same on Citus, where the id is known before: that of the memory with the key, or new."""
    found = await _holder(db, arguments)
    if found is None:
        return await _sent(db, arguments, await fetch_value(db, "draw_memory_id"))
    if arguments["replace"]:
        return await _sent(db, arguments, found.id)
    return found.model_copy(update={"outcome": "existing"})


async def _holder(db: Executor, arguments: Mapping[str, object]) -> Memory | None:
    """The memory that has the idempotency_key, else the key, of an add."""
    for name in ("key",) if arguments["replace"] else ("idempotency_key", "key"):
        if arguments[name] is not None:
            keys = {"key": None, "idempotency_key": None} | {name: arguments[name]}
            given = {field: arguments[field] for field in ("user_id", "namespace")}
            found = await _by_key(db, **given, **keys, as_of=arguments["now"])
            if found is not None:
                return found
    return None


async def _by_key(db: Executor, **arguments: object) -> Memory | None:
    return await fetch_one(db, "get_by_key", Memory, **arguments)


async def _sent(db: Executor, arguments: Mapping[str, object], new_id: int | None) -> Memory | None:
    return await fetch_one(db, "add_memory", Memory, **arguments, new_id=new_id)


def _is_large(arguments: Mapping[str, object]) -> bool:
    texts = (arguments[name] for name in ("content", "context", "metadata", "context_data"))
    return sum(len(text) for text in texts if isinstance(text, str)) > SHARED_BYTES_EACH


async def add_together(
    db: Executor, calls: list[Mapping[str, object]]
) -> list[Mapping[str, object] | None]:
    """Store the memories of some calls of one user; none, where the user was forgotten.

    Of puts those rows, in no order, between which no other writer of the key came.
    """
    tag_places, (tag_names,) = _placed(calls, ["tag_names"])
    related_places, (related_ids,) = _placed(calls, ["related_memory_ids"])
    context_places, described = _placed(calls, _CONTEXT_COLUMNS)
    rows = await fetch_rows(
        db,
        "add_memories_together",
        user_id=calls[0]["user_id"],
        external=calls[0]["external"],
        now=moment(None),
        keys=[call["key"] for call in calls] if calls[0]["replace"] else None,
        related_lists=[_json(call["related_memory_ids"]) for call in calls],
        tag_places=tag_places or None,
        tag_names=tag_names,
        related_places=related_places or None,
        related_ids=related_ids,
        context_places=context_places,
        **dict(zip(_CONTEXT_COLUMNS, described, strict=True)),
        **{many: [call[one] for call in calls] for many, one in _COLUMNS.items()},
    )
    return list(rows) or [None] * len(calls)


async def insert_together(db: Executor, user: User, news: Sequence[NewMemory]) -> list[Memory]:
    """Put validated memories of several keys, each a microsecond after the one before it.

    Without those between which another writer of the key came, and in no order. On Citus that is an
    InvalidMemory of a field in NOT_ADDED, and all are in one transaction only if the caller's is.
    """
    if len(news) == 1:  # by a statement whose plan the server keeps, which costs half as much
        memory = await insert_memory(db, user, news[0], replace=True)
        return [] if memory is None else [memory]
    now, last = moment(None), len(news) - 1
    calls: list[Mapping[str, object]] = [
        _add_arguments(user, new, now - timedelta(microseconds=last - place), replace=True)
        for place, new in enumerate(news)
    ]
    calls.sort(key=itemgetter("namespace", "key"))  # so that none waits for another in a circle
    try:
        if await is_distributed(session_of(db)):
            there = {"embedding": None, "embedding_model": None}
            added = [await _add_there(db, {**call, **there}) for call in calls]
            memories = [memory for memory in added if memory is not None]
        else:
            rows = await add_together(db, calls)
            memories = [Memory.from_record(row) for row in rows if row is not None]
    except InvalidMemory as error:
        if error.field == "target_memory_id":
            raise InvalidMemory("related_memory_ids", error.rule) from None
        raise
    session_of(db).note_contents(user.number, [memory.id for memory in memories])
    return memories


def _placed(
    calls: list[Mapping[str, object]], names: Sequence[str]
) -> tuple[list[int], list[list[object]]]:
    """Lists of some calls as one each, and the place of the call that each element is of."""
    places: list[int] = []
    columns: list[list[object]] = [[] for _ in names]
    for place, call in enumerate(calls, 1):
        for column, name in zip(columns, names, strict=True):
            values = call[name]
            column += values if isinstance(values, list) else ()
        places += [place] * (len(columns[0]) - len(places))
    return places, columns


@only_reads
async def get_memory(
    db: Executor,
    user_id: UserId,
    memory_id: int,
    *,
    include_relationships: bool = False,
    as_of: datetime | None = None,
    access_context: str | None = None,
) -> Memory | None:
    """One memory with its context and tags, archived or not; None when missing or expired.

    include_relationships: with its relationships in both directions, strongest first.
    as_of: the moment that dynamic importance and expiry are for, default now.
    access_context: the caller's words on this access, at most 10,000 characters.

    Tracked as a "direct" access. Raises InvalidMemory naming the argument that is refused.
    """
    number, now = check_memory_id(memory_id), moment(as_of)
    if access_context is not None:
        AccessDetails.checked({"memory_ids": (number,), "access_context": access_context})
    user = await find_user(db, user_id)
    if user is None:
        return None

    async def alone() -> list[Memory]:
        memory = await _read(db, user, number, now, include_relationships)
        return [] if memory is None else [memory]

    if include_relationships:
        found = await alone()
    else:
        found = await _read_with_others(db, Read(user.number, [number], now), alone)
    memory = found[0] if found else None
    if memory is not None:
        await track_reads(db, user, [memory], "direct", context=access_context)
    return memory


async def track_reads(
    db: Executor,
    user: User,
    memories: Sequence[Memory],
    method: str,
    *,
    context: str | None = None,
    query: str | None = None,
) -> None:
    """Record that a call handed these out, as the session does it."""
    await session_of(db).track_access(
        user.number,
        [memory.id for memory in memories],
        method,
        context=context,
        query=query,
        sliding=[memory.id for memory in memories if memory.expires_after is not None],
    )


async def _read(
    db: Executor, user: User, number: int, now: datetime, include_relationships: bool = False
) -> Memory | None:
    return await fetch_one(
        db,
        "get_memory",
        Memory,
        user_id=user.number,
        memory_id=number,
        as_of=now,
        include_relationships=include_relationships,
    )


@only_reads
async def get_memories(db: Executor, user_id: UserId, memory_ids: Sequence[int]) -> list[Memory]:
    """Memories in the order of the ids asked for, archived or not; missing ones are left out.

    Tracked as "direct" accesses. Raises InvalidMemory for more than 10,000 ids.
    """
    numbers = _memory_ids(memory_ids)
    user = await find_user(db, user_id)
    if user is None:
        return []
    now = moment(None)
    found = await _read_with_others(
        db, Read(user.number, numbers, now), lambda: memories_of(db, user, numbers, now)
    )
    await track_reads(db, user, found, "direct")
    return found


def _memory_ids(memory_ids: Sequence[int]) -> list[int]:
    numbers = [check_memory_id(memory_id, "memory_ids") for memory_id in memory_ids]
    if len(numbers) > limits.LISTED:
        raise InvalidMemory("memory_ids", f"more than {limits.LISTED} ids")
    return numbers


async def _read_with_others(
    db: Executor, read: Read, alone: Callable[[], Awaitable[list[Memory]]]
) -> list[Memory]:
    """The memories that a call asks for: its part of a statement of many calls, or `alone`."""
    session = session_of(db)
    rows = len(read.memory_ids)
    if session.reads is None or not 0 < rows <= SHARED_IDS:
        return await alone()
    part = await session.reads.part(read, session.deadline(), rows)
    if part is not None and not any(row["is_large"] for row in part):
        return [_memory(row) for row in part if row["id"] is not None]
    with session.reads:
        return await alone()


def _memory(row: Mapping[str, object]) -> Memory:
    values = dict(row)
    del values["is_large"]
    return Memory.from_record(values)


async def read_together(db: Executor, reads: list[Read]) -> list[list[Mapping[str, object]] | None]:
    """For each of some calls its rows of one statement, one for each memory it asks for."""
    memory_ids = [memory_id for read in reads for memory_id in read.memory_ids]
    rows = await fetch_rows(
        db,
        "get_memories_together",
        user_ids=[read.user for read in reads for _ in read.memory_ids],
        memory_ids=memory_ids,
        moments=[read.as_of for read in reads for _ in read.memory_ids],
        most_bytes=min(SHARED_BYTES_EACH, SHARED_BYTES // len(memory_ids)),
    )
    following = iter(rows)
    return [list(islice(following, len(read.memory_ids))) for read in reads]


async def memories_of(
    db: Executor, user: User, memory_ids: list[int], now: datetime, *, include_context: bool = True
) -> list[Memory]:
    """What get_memories gives, as of a moment; not tracked."""
    return await fetch_many(
        db,
        "get_memories",
        Memory,
        user_id=user.number,
        memory_ids=memory_ids,
        as_of=now,
        include_context=include_context,
    )


@one_deadline
async def update_memory(
    db: Executor,
    user_id: UserId,
    memory_id: int,
    *,
    expected_version: int | None = None,
    **fields: Unpack[Changes],
) -> Memory | None:
    """Change the given fields of a memory and return it; None when there is none.

    A field that is left out stays, None clears one. tags and enhanced_context replace what was
    there, metadata merges its top-level keys into it, remove_metadata removes some. Ranges are
    those of add_memory; content may be empty where the memory has a key. version goes up by one.

    expected_version: change it only if it is still at this version. Raises Conflict carrying the
    memory as it is now when it is not, InvalidMemory naming the field that is refused.
    """
    return await _change(db, user_id, memory_id, MemoryChanges.checked(fields), expected_version)


async def _change(
    db: Executor,
    user_id: UserId,
    memory_id: int,
    changes: MemoryChanges,
    expected_version: int | None = None,
) -> Memory | None:
    number = check_memory_id(memory_id)
    if expected_version is not None:
        whole_number(expected_version, "expected_version")
    now = moment(None)
    arguments = _change_arguments(changes, now)
    user = await find_user(db, user_id)
    if user is None:
        return None
    for _ in range(_ATTEMPTS):
        memory = await fetch_one(
            db,
            "update_memory",
            Memory,
            user_id=user.number,
            memory_id=number,
            now=now,
            expected_version=expected_version,
            **arguments,
        )
        if memory is not None:
            if "content" in changes.model_fields_set:
                session_of(db).note_contents(user.number, [memory.id])
            return memory
        # Nothing was written: no such memory, another version, or another update came in between.
        current = await _read(db, user, number, now)
        if current is None:
            return None
        if expected_version is not None and current.version != expected_version:
            raise Conflict(current)
        if arguments["content"] == "" and current.key is None:
            raise InvalidMemory("content", "should not be empty")
    raise Unavailable("other updates of this memory came in between each time")


def _change_arguments(changes: MemoryChanges, now: datetime) -> dict[str, object]:
    """What update_memory takes of the changes; fields that are not given are None."""
    given = set(changes.model_fields_set)
    retagged, replaced = "tags" in given, "enhanced_context" in given
    values = {name: getattr(changes, name) if name in given else None for name in _PLAIN_FIELDS}
    if values["expires_after"] is not None and "expires_at" not in given:
        values["expires_at"] = now + values["expires_after"]
        given.add("expires_at")
    return {
        **values,
        "given": list(given),
        "metadata": _json(changes.metadata),
        "removed_keys": list(changes.remove_metadata) or None,
        "tags": dump_json(changes.tags) if retagged else None,
        "tag_names": list(changes.tags) if retagged else None,
        **_context_arguments(changes.enhanced_context),
        "replace_context": replaced,
        "guarded": retagged or replaced,
    }


@one_deadline
async def update_importance(
    db: Executor, user_id: UserId, memory_id: int, importance_score: int
) -> Memory | None:
    """Set the base importance, 1 .. 10, of a memory and return it; None when there is none."""
    changes = MemoryChanges.checked({"importance_score": importance_score})
    return await _change(db, user_id, memory_id, changes)


@one_deadline
async def archive_memory(
    db: Executor, user_id: UserId, memory_id: int, *, reason: str | None = None
) -> Memory | None:
    """Put a memory away: searches leave it out, reads by id do not. None when there is none.

    Repeatable; a repetition without a reason keeps the first one.
    """
    fields: dict[str, object] = {"is_archived": True}
    if reason is not None:
        fields["archive_reason"] = reason
    return await _change(db, user_id, memory_id, MemoryChanges.checked(fields))


@one_deadline
async def restore_memory(db: Executor, user_id: UserId, memory_id: int) -> Memory | None:
    """Take a memory out of the archive and drop the reason; None when there is none. Repeatable."""
    changes = MemoryChanges.checked({"is_archived": False, "archive_reason": None})
    return await _change(db, user_id, memory_id, changes)


@one_deadline
async def archive_stale(
    db: Executor,
    user_id: UserId,
    below: float,
    as_of: datetime | None = None,
    *,
    limit: int = 1000,
) -> list[Memory]:
    """Archive the memories whose dynamic importance is below a bound; return them, lowest first.

    below: above 0, at most 10. as_of is the moment that the importance is for. At most limit
    (1 .. 1000) memories at once: while that many come back, there may be more. archive_reason says
    what their importance was; restore_memory takes one back. Queued accesses of the user are
    written first. Raises InvalidMemory naming the argument that is refused.
    """
    if isinstance(below, bool) or not isinstance(below, int | float) or not 0 < below <= 10:
        raise InvalidArgument("below", "should be above 0 and at most 10")
    then, rows = moment(as_of), row_limit(limit)
    user = await find_user(db, user_id)
    if user is None:
        return []
    await session_of(db).write_pending_accesses(user.number)
    return await fetch_many(
        db,
        "archive_stale",
        Memory,
        user_id=user.number,
        as_of=then,
        below=float(below),
        now=moment(None),
        row_limit=rows,
    )


@one_deadline
async def extend_expiry(db: Executor, user_id: UserId, memory_ids: Sequence[int]) -> int:
    """Let memories with an expires_after expire so long after now; return how many there were.

    memory_ids: at most 10,000. None expires earlier than it would have. Unknown, foreign and
    expired memories, and those without an expires_after, are passed over, and an id counts once.
    It is no access and no change: last_modified and version stay. An access does the same by
    itself, but only where it gains a tenth of that time. Raises InvalidMemory naming the argument
    that is refused.
    """
    numbers = _memory_ids(memory_ids)
    user = await find_user(db, user_id)
    if user is None:
        return 0
    extended: int = await fetch_value(
        db, "extend_expiry", user_id=user.number, memory_ids=numbers, now=moment(None)
    )
    return extended


@only_reads
async def get_children(
    db: Executor,
    user_id: UserId,
    memory_id: int,
    *,
    as_of: datetime | None = None,
    limit: int = 1000,
) -> list[Memory]:
    """The memories whose parent_memory_id is this one, archived or not, first stored first.

    At most limit (1 .. 1000) of them. as_of is the moment that dynamic importance and expiry are
    for. Not tracked.
    """
    number, now, rows = check_memory_id(memory_id), moment(as_of), row_limit(limit)
    user = await find_user(db, user_id)
    if user is None:
        return []
    return await fetch_many(
        db,
        "get_children",
        Memory,
        user_id=user.number,
        memory_id=number,
        as_of=now,
        row_limit=rows,
    )


@one_deadline
async def delete_memory(db: Executor, user_id: UserId, memory_id: int) -> bool:
    """Delete a memory and all that hangs on it; tell whether there was one.

    Its children lose their parent, and the memories that it was related to no longer mention it.
    """
    number = check_memory_id(memory_id)
    user = await find_user(db, user_id)
    if user is None:
        return False
    return await delete_by_number(db, user.number, [number], moment(None)) > 0


async def delete_by_number(
    db: Executor,
    user: int,
    memory_ids: list[int],
    now: datetime,
    *,
    only_expired: bool = False,
    keys: list[str] | None = None,
) -> int:
    """Delete memories of the user of this number, as delete_memory does; return how many.

    keys: one for each; those that have another by then stay.
    """

    async def delete(connection: Connection) -> int:
        if not await lock_for_delete(connection, user, memory_ids):
            return 0
        return await delete_locked(
            connection, user, memory_ids, now, only_expired=only_expired, keys=keys
        )

    return await session_of(db).with_locks(delete)


async def lock_for_delete(db: Connection, user: int, memory_ids: list[int]) -> int:
    """Lock memories and those that mention them; return how many of the former are there."""
    found: int = await fetch_value(db, "lock_for_delete", user_id=user, memory_ids=memory_ids)
    return found


async def delete_locked(
    db: Connection,
    user: int,
    memory_ids: list[int],
    now: datetime,
    *,
    only_expired: bool = False,
    keys: list[str] | None = None,
) -> int:
    """Delete memories that lock_for_delete has locked; return how many."""
    deleted: int = await fetch_value(
        db,
        "delete_memories",
        user_id=user,
        memory_ids=memory_ids,
        now=now,
        only_expired=only_expired,
        keys=keys,
    )
    return deleted
