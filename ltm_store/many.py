"""Deleting, archiving and tagging all memories that pass the filters."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from datetime import datetime
from typing import Unpack

from ltm_store import limits
from ltm_store.db.execute import Executor, fetch_value, one_deadline, session_of
from ltm_store.db.identity import find_user
from ltm_store.db.transactions import Connection
from ltm_store.errors import told_as
from ltm_store.memories import delete_locked, lock_for_delete
from ltm_store.model.memories import MemoryChanges
from ltm_store.model.search import FilterOptions, Many, OtherFilterOptions
from ltm_store.model.tags import TagDetails
from ltm_store.model.values import UserId, dump_json, moment
from ltm_store.search import with_filters


@with_filters
@one_deadline
async def delete_where(
    db: Executor,
    user_id: UserId,
    *,
    limit: int = limits.LISTED,
    as_of: datetime | None = None,
    **filters: Unpack[FilterOptions],
) -> int:
    """Delete the memories that pass every filter, as delete_memory does each; return how many.

    filters: see Filters; one of them must narrow. limit: 1 .. 10,000, those with the lowest ids:
    while so many are deleted, there may be more. as_of: the moment that expiry is for, default now.

    All or nothing. What no longer passes when it is locked stays. Raises InvalidArgument naming the
    argument that is refused, "filters" where none narrows.
    """
    many = Many.checked({"limit": limit, **filters})
    now, then = moment(None), moment(as_of)

    async def delete(connection: Connection, user: int) -> int:
        ids = await _passing(connection, user, many, then)
        if not ids or not await lock_for_delete(connection, user, ids):
            return 0
        # What waited for the locks goes by what others have written meanwhile.
        ids = await _passing(connection, user, many, then, memory_ids=ids)
        return await delete_locked(connection, user, ids, now)

    return await _together(db, user_id, many, delete)


@with_filters
@one_deadline
async def archive_where(
    db: Executor,
    user_id: UserId,
    *,
    reason: str | None = None,
    limit: int = limits.LISTED,
    as_of: datetime | None = None,
    **filters: Unpack[FilterOptions],
) -> int:
    """Archive the memories that pass every filter, as archive_memory does each; return how many.

    What is archived already is left alone, with include_archived too. See delete_where.
    """
    many = Many.checked({"limit": limit, **filters, "include_archived": False})
    given = {} if reason is None else {"archive_reason": reason}
    with told_as("archive_reason", "reason"):
        changes = MemoryChanges.checked(given)
    now, then = moment(None), moment(as_of)

    async def archive(connection: Connection, user: int) -> int:
        archived: int = await fetch_value(
            connection,
            "archive_memories",
            user_id=user,
            memory_ids=await _passing(connection, user, many, then, locked=True),
            now=now,
            archive_reason=changes.archive_reason,
        )
        return archived

    return await _together(db, user_id, many, archive)


@with_filters
@one_deadline
async def add_tags_where(
    db: Executor,
    user_id: UserId,
    tags: Iterable[str],
    *,
    limit: int = limits.LISTED,
    as_of: datetime | None = None,
    **filters: Unpack[OtherFilterOptions],
) -> int:
    """Give the memories that pass every filter tags, as add_tags does each; return how many.

    tags: those to add; filter by tags_any and tags_none. Memories that have all of them already
    are left alone. Raises InvalidMemory("tags") where a memory would have more than 100. See
    delete_where.
    """
    names = TagDetails.checked({"tags": tags}).tags
    many = Many.checked({"limit": limit, **filters})
    now, then = moment(None), moment(as_of)

    async def tag(connection: Connection, user: int) -> int:
        tagged: int = await fetch_value(
            connection,
            "tag_memories",
            user_id=user,
            memory_ids=await _passing(
                connection, user, many, then, unless_tagged=names, locked=True
            ),
            now=now,
            tag_names=names,
        )
        return tagged

    return await _together(db, user_id, many, tag)


async def _together(
    db: Executor, user_id: UserId, many: Many, change: Callable[[Connection, int], Awaitable[int]]
) -> int:
    user = await find_user(db, user_id)
    if user is None:
        return 0
    session = session_of(db)
    if many.accessed_after is not None:
        await session.write_pending_accesses(user.number)
    return await session.with_locks(lambda connection: change(connection, user.number))


async def _passing(
    db: Connection,
    user: int,
    many: Many,
    as_of: datetime,
    *,
    memory_ids: list[int] | None = None,
    unless_tagged: tuple[str, ...] = (),
    locked: bool = False,
) -> list[int]:
    ids: list[int] = await fetch_value(
        db,
        "passing_ids",
        user_id=user,
        as_of=as_of,
        row_limit=many.limit,
        memory_ids=memory_ids,
        unless_tagged=dump_json(unless_tagged) if unless_tagged else None,
        locked=locked,
        **many.arguments(),
    )
    return ids
