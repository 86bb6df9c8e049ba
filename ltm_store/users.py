"""Forgetting a user."""

from __future__ import annotations

from collections import Counter

from ltm_store.db.execute import (
    Executor,
    Handle,
    fetch_one,
    fetch_value,
    find_user,
    in_transaction,
)
from ltm_store.model.transfer import ErasedRows, ErasureReport
from ltm_store.model.values import UserId, parse_user_id

REPAIRS = "ltm_adoption_report"
_AT_ONCE = 2_000  # memories deleted by one statement


async def forget_user(db: Executor, user_id: UserId) -> ErasureReport:
    """Delete everything that is stored of a user, all or nothing, and tell how much it was.

    A user known by a string loses the name, and the number is never given again. Takes as long as
    it takes: the timeout of a Database does not hold for it.
    """
    counts: Counter[str] = Counter({name: 0 for name in ErasedRows.model_fields})
    counts["ltm_external_users"] = counts[REPAIRS] = 0
    async with in_transaction(db, unbounded=True) as connection:
        user = await find_user(connection, user_id)
        if user is not None:
            erased = await _erase_some(connection, user, counts)
            while erased:
                erased = await _erase_some(connection, user, counts)
            counts[REPAIRS] = await fetch_value(connection, "forget_repairs", user)
            counts["ltm_external_users"] = await fetch_value(connection, "forget_name", user)
    if isinstance(db, Handle):
        db.external_users.pop(str(parse_user_id(user_id)), None)
    return ErasureReport(counts=dict(counts))


async def _erase_some(db: Executor, user: int, counts: Counter[str]) -> int:
    if not await fetch_value(db, "lock_memories", user, _AT_ONCE):
        return 0
    erased = await fetch_one(db, "forget_memories", ErasedRows, user, _AT_ONCE)
    if erased is None:
        return 0
    counts.update(erased.model_dump())
    return erased.ltm_memories
