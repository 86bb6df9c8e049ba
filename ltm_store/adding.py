"""Adding memories: one with all that belongs to it, or several calls' in one statement."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from operator import itemgetter
from typing import Final, TypedDict

from pydantic import JsonValue

from ltm_store.db.execute import (
    Executor,
    fetch_one,
    fetch_rows,
    fetch_value,
    held,
    is_distributed,
    one_deadline,
    session_of,
)
from ltm_store.db.identity import User, ensure_user
from ltm_store.db.vectors import model_of
from ltm_store.errors import InvalidMemory, Overtaken, Unavailable
from ltm_store.model.contexts import EnhancedContext, store_context
from ltm_store.model.memories import Conflict, Memory, NewMemory
from ltm_store.model.values import UserId, dump_json, moment

FORGOTTEN: Final = "this user is being forgotten"
SHARED_BYTES: Final = 1_048_576  # of a statement that calls share
SHARED_BYTES_EACH: Final = 16_384  # of a memory in it
_CONTEXT_COLUMNS: Final = (
    "context_types",
    "context_keys",
    "context_values",
    "context_confidences",
)
_NOT_ADDED: Final = ("memory_id", "source_memory_id")  # in an error of rows beside a memory
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


def as_json(value: object) -> str | None:
    """The text of a value that may be missing."""
    return None if value is None else dump_json(value)


def context_arguments(context: EnhancedContext | None) -> dict[str, object]:
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
        if await session_of(db).is_in_transaction():
            raise Overtaken from None
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
        "metadata": as_json(new.metadata),
        "expires_at": expiry(new, now),
        "expires_after": new.expires_after,
        "idempotency_key": new.idempotency_key,
        "namespace": new.namespace,
        "key": new.key,
        "replace": replace,
        **context_arguments(new.enhanced_context),
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
            except Overtaken:
                if await session_of(one).is_in_transaction():
                    raise
        return None


async def _add_there(db: Executor, arguments: Mapping[str, object]) -> Memory | None:
    """The same on Citus, where the id is known before: that of the memory with the key, or new.

    Raises Overtaken where another writer of the key came in between, or the number is nobody's any
    more: there is no memory then with the id of the rows beside it.
    """
    found = await _holder(db, arguments)
    if found is not None and not arguments["replace"]:
        return found.model_copy(update={"outcome": "existing"})
    new_id = await fetch_value(db, "draw_memory_id") if found is None else found.id
    try:
        return await _sent(db, arguments, new_id)
    except InvalidMemory as error:
        if error.field in _NOT_ADDED:
            raise Overtaken from None
        raise


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
        related_lists=[as_json(call["related_memory_ids"]) for call in calls],
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

    Without those between which another writer of the key came, and in no order. On Citus that is
    Overtaken, and all are in one transaction only if the caller's is.
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
