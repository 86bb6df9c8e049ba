"""What operators run over all users, from time to time."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import AsyncIterator
from datetime import datetime
from typing import Final

from ltm_store.db.execute import (
    Executor,
    fetch_many,
    fetch_one,
    fetch_rows,
    fetch_value,
    only_reads,
    reader,
    session_of,
)
from ltm_store.db.identity import find_user
from ltm_store.db.resources import migration_ids
from ltm_store.db.steps import has_embeddings
from ltm_store.errors import InvalidArgument
from ltm_store.memories import delete_by_number
from ltm_store.model.maintenance import HealthProblem, PrunedAccesses, Repair, RepairCount
from ltm_store.model.values import UserId, moment

_PURGED_AT_ONCE: Final = 500  # memories that are looked up by one statement
_PRUNED_AT_ONCE: Final = 5_000  # rows of the log that one statement reads
_LEAST_USER: Final = -(2**63)
_MONTHS: Final = 120
_PROBLEMS: Final = 1_000
_REPAIRS_AT_ONCE: Final = 500
_KINDS_OF_REPAIRS: Final = 1_000  # tables times columns times rules: far less


async def purge_expired(db: Executor, *, as_of: datetime | None = None) -> int:
    """Delete the memories of all users that expired by now, or by as_of; return how many.

    Each as delete_memory does it. Through a Database or a pool they go some at a time, each user's
    in a transaction of its own, so that it can be broken off and begun again; the timeout holds for
    each statement.
    """
    now = moment(as_of)
    purged = 0
    while True:
        users: defaultdict[int, list[int]] = defaultdict(list)
        page = await fetch_rows(db, "expired_memories", as_of=now, row_limit=_PURGED_AT_ONCE)
        for row in page:
            users[row["user_id"]].append(row["id"])
        deleted = 0
        for user, numbers in sorted(users.items()):
            deleted += await delete_by_number(db, user, numbers, now, only_expired=True)
        purged += deleted
        if not deleted:
            return purged


async def prune_accesses(db: Executor, older_than: datetime) -> int:
    """Delete the recorded accesses of all users from before a moment; return how many.

    The sums on the memories, access_count and last_accessed, stay. Through a Database or a pool
    5,000 rows of the log are read at a time, each time in a transaction of its own, so that it can
    be broken off and begun again. Rows without a moment stay. Where the log is kept by month,
    partitions that are older as a whole are dropped first, if the role owns them.
    """
    if older_than is None:  # which is now, elsewhere
        raise InvalidArgument("older_than", "should be a datetime")
    before = moment(older_than, "older_than")
    pruned, user, last = 0, _LEAST_USER, 0
    while (
        dropped := await fetch_value(db, "drop_access_partition", older_than=before)
    ) is not None:
        pruned += dropped
    while page := await fetch_one(
        db,
        "prune_accesses",
        PrunedAccesses,
        after_user_id=user,
        after_id=last,
        older_than=before,
        row_limit=_PRUNED_AT_ONCE,
    ):
        pruned, user, last = pruned + page.pruned, page.user_id, page.id
    return pruned


async def make_access_partitions(db: Executor, *, months: int = 3) -> list[str]:
    """Make the partitions of the log of accesses for this month and some to come; return new ones.

    For a log that is kept by month, by the optional step partition_accesses; else there is nothing
    to make. Accesses of a month without one go to the partition of the rest, and are moved when it
    is made. months: 0 .. 120. For a role that owns the table. Raises Unavailable where a table is
    in use for two seconds.
    """
    if type(months) is not int or not 0 <= months <= _MONTHS:
        raise InvalidArgument("months", f"should be 0 to {_MONTHS}")
    made = [
        await fetch_value(db, "make_access_partition", months_ahead=ahead)
        for ahead in range(months + 1)
    ]
    return [name for name in made if name is not None]


async def check_health(db: Executor) -> list[HealthProblem]:
    """Return what is wrong with the database, at most 2,000 problems; none when all is well.

    What the view ltm_health lists, and the migrations of this version that are pending: problems of
    the schema first, then by user, check and subject. Then memories that an embedder could not
    embed and stale vectors; of the Database's own embedder also missing ones, and those of other
    models. Every table is read, which took 9 s for 140,000 memories; a Database's timeout does not
    hold. Raises SchemaOutdated where there is no
    such view yet.
    """
    embedder = session_of(db).embedder
    async with session_of(db).transaction(unbounded=True, snapshot=True) as connection:
        problems = await fetch_many(
            connection,
            "check_health",
            HealthProblem,
            migration_ids=migration_ids(),
            row_limit=_PROBLEMS,
        )
        if await has_embeddings(connection):
            problems += await fetch_many(
                connection,
                "embedding_problems",
                HealthProblem,
                model=embedder.model if embedder else None,
                row_limit=_PROBLEMS,
            )
        return problems


@only_reads
async def adoption_report(db: Executor, *, user_id: UserId | None = None) -> list[RepairCount]:
    """What was repaired when an older program's tables were adopted, counted, of all users or one.

    By table, column and rule, in that order. [] where nothing was adopted or had to be repaired.
    """
    user = None if user_id is None else await find_user(db, user_id)
    if user is None and user_id is not None:
        return []
    return await fetch_many(
        db,
        "adoption_report",
        RepairCount,
        of_user_id=user and user.number,
        row_limit=_KINDS_OF_REPAIRS,
    )


async def adoption_repairs(db: Executor, *, user_id: UserId | None = None) -> AsyncIterator[Repair]:
    """Each single value that was repaired then, with the value before, in the order of their ids.

    They are read page by page; the timeout holds for each page.
    """
    db = reader(db)
    user = None if user_id is None else await find_user(db, user_id)
    last = 0
    while user is not None or user_id is None:
        page = await fetch_many(
            db,
            "adoption_repairs",
            Repair,
            of_user_id=user and user.number,
            after_id=last,
            row_limit=_REPAIRS_AT_ONCE,
        )
        for repair in page:
            yield repair
        if not page:
            return
        last = page[-1].id
