"""Users as wholes: who they are, and forgetting one."""

from __future__ import annotations

from collections import Counter
from contextlib import suppress
from typing import Final

from ltm_store.db.execute import (
    Executor,
    fetch_many,
    fetch_one,
    fetch_rows,
    fetch_value,
    only_reads,
    session_of,
)
from ltm_store.db.identity import ensure_user, find_user
from ltm_store.db.steps import has_embeddings
from ltm_store.db.transactions import Connection
from ltm_store.errors import InvalidArgument, InvalidMemory, Unavailable
from ltm_store.model.transfer import ErasedRows, ErasureReport
from ltm_store.model.users import ClearedKey, CommonNumbers, MergeReport, UserSummary
from ltm_store.model.values import UserId, moment, parse_user_id, row_limit

REPAIRS: Final = "ltm_adoption_report"
_NO_NUMBER: Final = 2**63 - 1  # comes after this one
_AT_ONCE: Final = 2_000  # memories deleted by one statement
_ATTEMPTS: Final = 10  # of a merge
_NAMES: Final = "ltm_external_users"
_RANKS: Final = "ltm_memory_ranks"
_MOVED: Final = [*(ErasedRows.model_fields.keys() - {_RANKS}), _NAMES, REPAIRS]
_COPIES: Final = {
    "ltm_contexts": "copy_contexts",
    "ltm_memory_relationships": "copy_relationships",
    "ltm_memory_access": "copy_user_accesses",
    "ltm_memory_tags": "copy_tags",
}
"""The statements that copy what hangs on memories."""


@only_reads
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
    parse_user_id(after, "after")
    user = await find_user(db, after)
    if user is None:
        raise InvalidArgument("after", "should be a user")
    return user.number


async def rename_user(db: Executor, external_id: str, new: str) -> bool:
    """Give a user known by a string another name; tell whether there was one.

    Other programs that remember the old name for up to a minute go on with it. Raises
    InvalidArgument where one of them is a number, or the new one somebody's name.
    """
    given = {"external_id": external_id, "new": new}
    names = {field: parse_user_id(name, field) for field, name in given.items()}
    for field, name in names.items():
        if isinstance(name, int):
            raise InvalidArgument(field, "should be a name, not a number")
    try:
        renamed = await fetch_value(
            db, "rename_user", external_id=names["external_id"], new_external_id=names["new"]
        )
    except InvalidMemory:
        raise InvalidArgument("new", "is another user's name; see merge_users") from None
    session_of(db).forget_names()
    return bool(renamed)


async def merge_users(db: Executor, from_user: UserId, into_user: UserId) -> MergeReport:
    """Make everything of a user another one's, all or nothing, and tell what it was.

    The name of from_user means into_user since; other programs that remember it read nothing for up
    to a minute, and write to into_user. Ids that into_user has too get new numbers, keys that
    into_user has are cleared. What is added under a number while this runs may stay there. Takes
    as long as it takes: the timeout of a Database does not hold for it. Raises InvalidArgument
    where both are the same.
    """
    for field, name in {"from_user": from_user, "into_user": into_user}.items():
        parse_user_id(name, field)
    into = await ensure_user(db, into_user, refresh=True)
    user = await find_user(db, from_user, refresh=True)
    if user is None:
        nothing = dict.fromkeys(_MOVED, 0)
        return MergeReport(user_id=into.number, counts=nothing, renumbered={}, cleared=())
    if user.number == into.number:
        raise InvalidArgument("into_user", "is the same user")
    await session_of(db).write_pending_accesses(user.number)
    report = await _merged(db, user.number, into.number)
    session_of(db).forget_names()
    return report


async def _merged(db: Executor, source: int, into: int) -> MergeReport:
    for _ in range(_ATTEMPTS):
        with suppress(InvalidMemory):  # another writer gave into a key of these in between
            return await session_of(db).in_transaction(
                lambda connection: _merge(connection, source, into), unbounded=True
            )
    raise Unavailable("other writers of these users came in between each time")


async def _merge(connection: Connection, source: int, into: int) -> MergeReport:
    both = [source, into]
    await fetch_value(connection, "lock_names", user_ids=both)
    ids: list[int] | None = None
    # What was added while this waited for locks is seen by the next look.
    while (locked := await fetch_value(connection, "lock_whole_user", user_id=source)) != ids:
        ids = locked
    ids = ids or []
    await fetch_rows(connection, "free_expired_keys", user_ids=both, now=moment(None))
    renumbered, cleared = await _copy(connection, source, into, ids)
    counts = Counter(dict.fromkeys(_MOVED, 0))
    while await _erase_some(connection, source, counts, ids):
        pass
    del counts[_RANKS]
    users = {"from_user": source, "into_user": into}
    counts[_NAMES] = await fetch_value(connection, "redirect_names", **users)
    counts[REPAIRS] = await fetch_value(connection, "move_repairs", **users)
    return MergeReport(
        user_id=into, counts=dict(counts), renumbered=renumbered, cleared=tuple(cleared)
    )


async def _copy(
    connection: Connection, source: int, into: int, ids: list[int]
) -> tuple[dict[int, int], list[ClearedKey]]:
    """Copy memories of a user to another one; return what gave way to what is there."""
    users = {"from_user": source, "into_user": into}
    numbers = await _new_numbers(connection, source, into)
    renumbered = {old: new for old, new in numbers["ltm_memories"].items() if old in set(ids)}
    taken = await fetch_many(
        connection, "keys_of_both", ClearedKey, **users, memory_ids=ids, row_limit=len(ids)
    )
    memories: dict[str, object] = {
        **users,
        "memory_ids": ids,
        "old_ids": [*renumbered],
        "new_ids": [*renumbered.values()],
    }
    await fetch_rows(
        connection,
        "copy_memories",
        **memories,
        keyless_ids=[row.memory_id for row in taken if row.key is not None],
        unrepeatable_ids=[row.memory_id for row in taken if row.idempotency_key is not None],
    )
    for table, copy in _COPIES.items():
        rows = numbers[table]
        await fetch_rows(
            connection, copy, **memories, old_numbers=[*rows], new_numbers=[*rows.values()]
        )
    if await has_embeddings(connection):
        await fetch_rows(connection, "copy_embeddings", **memories)
    cleared = [
        row.model_copy(update={"memory_id": renumbered.get(row.memory_id, row.memory_id)})
        for row in taken
    ]
    return renumbered, sorted(cleared, key=lambda key: key.memory_id)


async def _new_numbers(connection: Connection, source: int, into: int) -> dict[str, dict[int, int]]:
    """For each table the numbers that rows of both users have, each with a new one."""
    both = await fetch_one(
        connection, "numbers_of_both", CommonNumbers, from_user=source, into_user=into
    )
    if both is None:
        raise AssertionError("numbers_of_both returns a row")
    found: dict[str, dict[int, int]] = {}
    for table, old in both:
        new = await fetch_value(connection, "draw_numbers", table_name=table, number_count=len(old))
        found[table] = dict(zip(old, new, strict=True))
    return found


async def forget_user(db: Executor, user_id: UserId) -> ErasureReport:
    """Delete everything that is stored of a user, all or nothing, and tell how much it was.

    A user known by a string loses the name, and the number is never given again. Takes as long as
    it takes: the timeout of a Database does not hold for it.
    """
    counts: Counter[str] = Counter({name: 0 for name in ErasedRows.model_fields})
    counts[_NAMES] = counts[REPAIRS] = 0
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
            counts[_NAMES] = await fetch_value(connection, "forget_name", user_id=user.number)
    session_of(db).forget_names()
    return ErasureReport(counts=dict(counts))


async def _erase_some(
    db: Executor, user: int, counts: Counter[str], ids: list[int] | None = None
) -> int:
    """Erase some memories of a user, or of these; tell how many."""
    some: dict[str, object] = {"user_id": user, "row_limit": _AT_ONCE, "memory_ids": ids}
    if not await fetch_value(db, "lock_memories", **some):
        return 0
    erased = await fetch_one(db, "forget_memories", ErasedRows, **some)
    if erased is None:
        return 0
    counts.update(erased.model_dump())
    return erased.ltm_memories
