"""Reading, changing and deleting memories."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from datetime import datetime
from itertools import islice
from typing import Final, Unpack

from ltm_store import limits
from ltm_store.adding import SHARED_BYTES, SHARED_BYTES_EACH, Fields, as_json, context_arguments
from ltm_store.db.execute import (
    Executor,
    Read,
    fetch_many,
    fetch_one,
    fetch_rows,
    fetch_value,
    one_deadline,
    only_reads,
    session_of,
)
from ltm_store.db.identity import User, find_user
from ltm_store.db.transactions import Connection
from ltm_store.errors import InvalidArgument, InvalidMemory, Unavailable, told_as
from ltm_store.model.accesses import AccessDetails
from ltm_store.model.memories import Conflict, Memory, MemoryChanges
from ltm_store.model.values import (
    UserId,
    check_memory_id,
    dump_json,
    moment,
    row_limit,
    whole_number,
)

SHARED_IDS: Final = 64  # that a call may ask for and share a statement
_ATTEMPTS: Final = 100  # of an update, where others come in between
_PLAIN_FIELDS: Final = set(MemoryChanges.model_fields).difference(
    {"tags", "enhanced_context", "metadata", "remove_metadata"}
)


class Changes(Fields, total=False):
    """The fields that update_memory can change."""

    content: str
    remove_metadata: Iterable[str]


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
    if not isinstance(memory_ids, Iterable) or isinstance(memory_ids, str | bytes | Mapping):
        raise InvalidMemory("memory_ids", "should be a list of ids")
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
        "metadata": as_json(changes.metadata),
        "removed_keys": list(changes.remove_metadata) or None,
        "tags": dump_json(changes.tags) if retagged else None,
        "tag_names": list(changes.tags) if retagged else None,
        **context_arguments(changes.enhanced_context),
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
    with told_as("archive_reason", "reason"):
        changes = MemoryChanges.checked(fields)
    return await _change(db, user_id, memory_id, changes)


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
