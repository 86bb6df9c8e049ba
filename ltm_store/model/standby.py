"""Where the logs of a primary and of its standby stand, as numbers of bytes."""

from __future__ import annotations

from ltm_store.model.base import Row


class PrimaryPosition(Row):
    """The end of a primary's log, what of it is on disk, its timeline, and whose log it is."""

    written: int
    flushed: int
    timeline: int
    server: int


class StandbyPosition(Row):
    """How much of the log a standby has replayed, of which timeline, and whose log it is.

    asks_others: whether its rows are those of standbys of other nodes.
    """

    replayed: int
    timeline: int
    server: int
    asks_others: bool
