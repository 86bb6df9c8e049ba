"""Recording that memories were recalled."""

from __future__ import annotations

from collections.abc import Sequence

from ltm_store.execute import Executor, fetch_value, internal_id
from ltm_store.models import AccessDetails
from ltm_store.values import UserId, moment


async def record_access(
    db: Executor,
    user_id: UserId,
    memory_ids: Sequence[int],
    *,
    access_method: str = "direct",
    access_context: str | None = None,
    user_query: str | None = None,
) -> int:
    """Count one recall of each of these memories, now, and log it; return how many there were.

    Unknown, foreign and expired memories are passed over, and an id counts once. access_method is
    "direct", "search", "related" or another word. Raises InvalidMemory for a bad argument.
    """
    details = AccessDetails.checked(
        {
            "memory_ids": memory_ids,
            "access_method": access_method,
            "access_context": access_context,
            "user_query": user_query,
        }
    )
    user = await internal_id(db, user_id)
    return 0 if user is None else await record(db, user, details)


async def record(db: Executor, user: int, details: AccessDetails) -> int:
    """The same for the number under which a user is stored."""
    recorded: int = await fetch_value(
        db,
        "record_accesses",
        user,
        list(details.memory_ids),
        moment(None),
        details.access_method,
        details.access_context,
        details.user_query,
    )
    return recorded
