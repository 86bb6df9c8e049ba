"""Users as wholes: who they are, and forgetting one."""

from __future__ import annotations

from collections import Counter
from typing import Final

from ltm_store.db.execute import Executor, fetch_many, fetch_one, fetch_value, session_of
from ltm_store.db.identity import find_user, forget_number
from ltm_store.db.steps import has_embeddings
from ltm_store.errors import InvalidArgument
from ltm_store.model.transfer import ErasedRows, ErasureReport
from ltm_store.model.users import UserSummary
from ltm_store.model.values import UserId, moment, row_limit

REPAIRS: Final = "ltm_adoption_report"
_NO_NUMBER: Final = 2**63 - 1  # comes after this one
_AT_ONCE: Final = 2_000  # memories deleted by one statement


async def list_users(
    db: Executor, *, after: UserId | None = None, limit: int = 100
) -> list[UserSummary]:
    """All users, those with numbers in their order, then those with names as they came.

    A number is listed while it has memories, a name until it is forgotten. after: the name or the
    user_id of the last one of the page before. limit: 1 .. 1000.
    """
    last = -1 if after is None else await _number(db, after)
    is_name = after is not None and last < 0
    return await fetch_many(
        db,
        "list_users",
        UserSummary,
        as_of=moment(None),
        row_limit=row_limit(limit),
        after_number=_NO_NUMBER if is_name else last,
        after_name=last if is_name else 0,
    )


async def _number(db: Executor, after: UserId) -> int:
    if type(after) is int and after < 0:  # the user_id of a name
        return after
    user = await find_user(db, after)
    if user is None:
        raise InvalidArgument("after", "should be a user")
    return user.number


async def forget_user(db: Executor, user_id: UserId) -> ErasureReport:
    """Delete everything that is stored of a user, all or nothing, and tell how much it was.

    A user known by a string loses the name, and the number is never given again. Takes as long as
    it takes: the timeout of a Database does not hold for it.
    """
    counts: Counter[str] = Counter({name: 0 for name in ErasedRows.model_fields})
    counts["ltm_external_users"] = counts[REPAIRS] = 0
    async with session_of(db).transaction(unbounded=True) as connection:
        user = await find_user(connection, user_id)
        if user is not None:
            if await has_embeddings(connection):
                counts["ltm_embeddings"] = await fetch_value(
                    connection, "forget_embeddings", user_id=user.number
                )
            while await _erase_some(connection, user.number, counts):
                pass
            counts[REPAIRS] = await fetch_value(connection, "forget_repairs", user_id=user.number)
            counts["ltm_external_users"] = await fetch_value(
                connection, "forget_name", user_id=user.number
            )
    forget_number(db, user_id)
    return ErasureReport(counts=dict(counts))


async def _erase_some(db: Executor, user: int, counts: Counter[str]) -> int:
    if not await fetch_value(db, "lock_memories", user_id=user, row_limit=_AT_ONCE):
        return 0
    erased = await fetch_one(db, "forget_memories", ErasedRows, user_id=user, row_limit=_AT_ONCE)
    if erased is None:
        return 0
    counts.update(erased.model_dump())
    return erased.ltm_memories
