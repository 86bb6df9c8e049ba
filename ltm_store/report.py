"""The report on a user: what it shows is asked for here, and render.page makes the page."""

from __future__ import annotations

from datetime import datetime
from typing import Final

from ltm_store.analytics import analytics_of
from ltm_store.db.execute import Executor, fetch_one, session_of
from ltm_store.db.identity import find_user
from ltm_store.graph import graph_of
from ltm_store.model.analytics import ReportFigures
from ltm_store.model.relationships import Walk
from ltm_store.model.values import UserId, moment, parse_user_id
from ltm_store.render.page import empty_page, report_page

_LISTED: Final = 10  # memories of a list
_AROUND: Final = Walk(depth=2, limit=24)  # of the most connected memory


async def render_report(db: Executor, user_id: UserId, *, as_of: datetime | None = None) -> str:
    """A page of HTML on one user: figures, charts, lists and the graph of the most related memory.

    It needs no network and no JavaScript, and fits light and dark, wide and narrow. Figures are of
    memories that have not expired, and importance is of the moment as_of. Contents are cut to 200
    characters, so that the page stays below a megabyte whatever the user has. It all is of one
    state of the database, unless a connection of yours in a transaction sees several. Not tracked.
    """
    now = moment(as_of)
    name = str(parse_user_id(user_id))
    async with session_of(db).transaction(snapshot=True) as connection:
        user = await find_user(connection, user_id)
        if user is None:
            return empty_page(name, now)
        analytics = await analytics_of(connection, user.number, as_of=now)
        figures = await fetch_one(
            connection,
            "report_figures",
            ReportFigures,
            user_id=user.number,
            as_of=now,
            row_limit=_LISTED,
        )
        if figures is None or not analytics.total_memories:
            return empty_page(name, now)
        graph = None
        for memory in analytics.most_related_memories[:1]:
            graph = await graph_of(connection, user.number, memory.id, _AROUND)
    return report_page(name, now, analytics, figures, graph)
