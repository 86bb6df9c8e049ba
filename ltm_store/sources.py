"""Sources: the conversations and documents that memories come from."""

from __future__ import annotations

from datetime import datetime

from ltm_store.db.execute import Executor, fetch_many, fetch_value, only_reads
from ltm_store.db.identity import find_user
from ltm_store.errors import InvalidArgument
from ltm_store.model.memories import Memory
from ltm_store.model.sources import Source, SourceKey, SourcePage
from ltm_store.model.values import UserId, moment, row_limit


@only_reads
async def list_sources(
    db: Executor, user_id: UserId, *, limit: int = 100, after: Source | str | None = None
) -> list[Source]:
    """The sources of a user's memories, the one with the newest memory first.

    Archived memories count, expired ones do not. limit: 1 .. 1000. after: the last source of the
    page before, or its source_id; as a Source it stands for the place that it had then. Raises
    InvalidArgument naming the argument that is refused, among them an `after` that the user has
    no memory of.
    """
    page = SourcePage.checked(
        {"limit": limit, "after": after.source_id if isinstance(after, Source) else after}
    )
    user = await find_user(db, user_id)
    if user is None:
        return []
    after_at = after.last_at if isinstance(after, Source) else None
    if page.after is not None and after_at is None:
        after_at = await _last(db, user.number, page.after)
    return await fetch_many(
        db,
        "list_sources",
        Source,
        user_id=user.number,
        as_of=moment(None),
        row_limit=page.limit,
        after_at=after_at,
        after_id=page.after,
    )


async def _last(db: Executor, user: int, source_id: str) -> datetime:
    found: datetime | None = await fetch_value(
        db, "last_of_source", user_id=user, source_id=source_id
    )
    if found is None:
        raise InvalidArgument("after", "is no source of this user")
    return found


@only_reads
async def get_source(
    db: Executor, user_id: UserId, source_id: str, *, limit: int = 1000
) -> list[Memory]:
    """The memories of a source, archived or not, by source_position, those without one last.

    limit: 1 .. 1000. Not tracked.
    """
    key, rows = SourceKey.checked({"source_id": source_id}), row_limit(limit)
    user = await find_user(db, user_id)
    if user is None:
        return []
    return await fetch_many(
        db,
        "get_source",
        Memory,
        user_id=user.number,
        source_id=key.source_id,
        as_of=moment(None),
        row_limit=rows,
    )
