"""Recording that memories were accessed."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime
from itertools import starmap
from typing import Final, NamedTuple

from ltm_store.db.execute import (
    Executor,
    fetch_many,
    fetch_one,
    fetch_rows,
    fetch_value,
    is_distributed,
    one_deadline,
    session_of,
)
from ltm_store.db.identity import find_user
from ltm_store.errors import Unavailable
from ltm_store.model.accesses import Access, AccessDetails, Feedback
from ltm_store.model.values import UserId, check_memory_id, moment, row_limit

_USERS_AT_ONCE: Final = 4  # whose accesses are written by statements of their own


class AccessReason(NamedTuple):
    """What memories are accessed for."""

    access_method: str
    access_context: str | None = None
    user_query: str | None = None


class PendingAccess(NamedTuple):
    """One access that waits to be recorded."""

    user_id: int
    memory_id: int
    accessed_at: datetime
    reason: AccessReason
    slides: bool = False  # it moves the memory's expiry on


@one_deadline
async def record_access(
    db: Executor,
    user_id: UserId,
    memory_ids: Sequence[int],
    *,
    access_method: str = "direct",
    access_context: str | None = None,
    user_query: str | None = None,
) -> int:
    """Count one access of each of these memories, now, and log it; return how many there were.

    Unknown, foreign and expired memories are passed over, and an id counts once.

    memory_ids: at most 10,000. access_method: "direct", "search", "related" or another word of at
    most 50 characters. access_context: the caller's words on it, at most 10,000 characters.
    user_query: what was asked, cut to 10,000 characters.
    The first of access_context, the beginning of user_query and access_method that is given becomes
    the memory's last_access_context.

    Raises InvalidMemory naming the argument that is refused.
    """
    details = AccessDetails.checked(
        {
            "memory_ids": memory_ids,
            "access_method": access_method,
            "access_context": access_context,
            "user_query": user_query,
        }
    )
    user = await find_user(db, user_id)
    return 0 if user is None else await record(db, user.number, details)


async def record(db: Executor, user: int, details: AccessDetails) -> int:
    """The same for the number under which a user is stored."""
    recorded: int = await fetch_value(
        db,
        "record_accesses",
        user_id=user,
        memory_ids=list(details.memory_ids),
        now=moment(None),
        access_method=details.access_method,
        access_context=details.access_context,
        user_query=details.user_query,
    )
    return recorded


async def write_accesses(
    db: Executor, memories: Sequence[Sequence[PendingAccess]]
) -> tuple[int, list[int]]:
    """Record accesses of many users in one statement, of one under row level security.

    On a distributed database each user has a statement. Those of a memory stand together, in order
    of time. Returns for how many the memory is there, and the places in `memories` of those that
    others have locked, or whose node is gone, which are not recorded. Where the connection is lost
    on the way, those that were written may be written again.
    """
    if not await is_distributed(session_of(db)):
        return await _write(db, memories)
    users: dict[int, list[int]] = {}
    for place, accesses in enumerate(memories):
        users.setdefault(accesses[0].user_id, []).append(place)
    at_once = asyncio.Semaphore(_USERS_AT_ONCE)

    async def write_user(user: int, places: list[int]) -> tuple[int, list[int]]:
        async with at_once:
            recorded, busy = await _write(db, [memories[place] for place in places], user)
        return recorded, [places[place] for place in busy]

    results = await asyncio.gather(*starmap(write_user, users.items()), return_exceptions=True)
    recorded, left, written = 0, list[int](), False
    for places, result in zip(users.values(), results, strict=True):
        if isinstance(result, Unavailable):
            left += places
        elif isinstance(result, BaseException):
            raise result
        else:
            recorded, left, written = recorded + result[0], left + result[1], True
    if not written and isinstance(results[0], Unavailable):
        raise results[0]
    return recorded, sorted(left)


async def _write(
    db: Executor, memories: Sequence[Sequence[PendingAccess]], one_user: int | None = None
) -> tuple[int, list[int]]:
    users: list[int] = []
    numbers: list[int] = []
    first_accesses: list[int] = []
    last_accesses: list[int] = []
    moments: list[datetime] = []
    reasons: list[int] = []
    places: dict[AccessReason, int] = {}
    for accesses in memories:
        users.append(accesses[0].user_id)
        numbers.append(accesses[0].memory_id)
        first_accesses.append(len(moments) + 1)
        for _, _, accessed_at, reason, _ in accesses:
            moments.append(accessed_at)
            reasons.append(places.setdefault(reason, len(places) + 1))
        last_accesses.append(len(moments))
    rows = await fetch_rows(
        db,
        "write_accesses",
        user_ids=users,
        memory_ids=numbers,
        first_accesses=first_accesses,
        last_accesses=last_accesses,
        moments=moments,
        reasons=reasons,
        access_methods=[reason.access_method for reason in places],
        access_contexts=[reason.access_context for reason in places],
        user_queries=[reason.user_query for reason in places],
        one_user=one_user,
    )
    if one_user is None:
        ((recorded, busy),) = rows
        return recorded, [place - 1 for place in busy]
    left = set(numbers).difference(row["memory_id"] for row in rows)
    if left:
        left &= set(await fetch_value(db, "existing_ids", user_id=one_user, memory_ids=list(left)))
    return len(rows), [place for place, number in enumerate(numbers) if number in left]


@one_deadline
async def record_feedback(
    db: Executor,
    user_id: UserId,
    memory_id: int,
    *,
    was_relevant: bool | None = None,
    relevance_score: float | None = None,
) -> Access | None:
    """Say of the newest recorded access of a memory whether it helped, and how much, 0 to 1.

    What is None stays as it was. Returns the access; None when there is no such memory or it was
    never accessed. Accesses of it that are queued are written first. Raises InvalidMemory when
    neither is given.
    """
    feedback = Feedback.checked({"was_relevant": was_relevant, "relevance_score": relevance_score})
    number = check_memory_id(memory_id)
    user = await find_user(db, user_id)
    if user is None:
        return None
    await session_of(db).write_pending_accesses(user.number, number)
    return await fetch_one(
        db,
        "record_feedback",
        Access,
        user_id=user.number,
        memory_id=number,
        was_relevant=feedback.was_relevant,
        relevance_score=feedback.relevance_score,
        now=moment(None),
    )


@one_deadline
async def access_history(
    db: Executor, user_id: UserId, memory_id: int, *, limit: int = 50
) -> list[Access]:
    """The recorded accesses of a memory, newest first, at most limit (1 .. 1000) of them.

    Accesses of it that are queued are written first, unless it is locked or the server read-only.
    """
    number, rows = check_memory_id(memory_id), row_limit(limit)
    user = await find_user(db, user_id)
    if user is None:
        return []
    with suppress(Unavailable):  # what was recorded is worth more than the last that was not
        await session_of(db).write_pending_accesses(user.number, number)
    return await fetch_many(
        db,
        "access_history",
        Access,
        user_id=user.number,
        memory_id=number,
        row_limit=rows,
        now=moment(None),
    )
