"""Figures over a user's memories."""

from __future__ import annotations

from datetime import datetime
from typing import Final

from ltm_store.db.execute import Executor, fetch_one, only_reads
from ltm_store.db.identity import find_user
from ltm_store.model.analytics import Analytics
from ltm_store.model.values import UserId, moment

RANKED: Final = 10  # entries of most_accessed_memories and most_related_memories
_NOTHING: Final = Analytics.model_validate(
    {
        "total_memories": 0,
        "archived_memories": 0,
        "type_distribution": {},
        "category_distribution": {},
        "average_importance": None,
        "average_dynamic_importance": None,
        "most_accessed_memories": [],
        "most_related_memories": [],
        "tag_distribution": {},
        "growth_by_month": {},
        "namespace_distribution": {},
    }
)


@only_reads
async def get_analytics(
    db: Executor, user_id: UserId, *, as_of: datetime | None = None
) -> Analytics:
    """Totals, averages and distributions, and the ten most accessed and most related memories.

    as_of is the moment that dynamic importance and expiry are for.
    """
    now = moment(as_of)
    user = await find_user(db, user_id)
    return _NOTHING if user is None else await analytics_of(db, user.number, as_of=now)


async def analytics_of(db: Executor, user: int, *, as_of: datetime) -> Analytics:
    """get_analytics of a user whose number is known."""
    found = await fetch_one(
        db, "get_analytics", Analytics, user_id=user, as_of=as_of, row_limit=RANKED
    )
    return found or _NOTHING
