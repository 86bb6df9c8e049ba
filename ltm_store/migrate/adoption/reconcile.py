"""Completing what the original application writes on one side only, after an adoption."""

from __future__ import annotations

from ltm_store.migrate.adoption.session import BATCH_ROWS, steps
from ltm_store.migrate.ask import Session, ask, value
from ltm_store.migrate.runner import MigrationFailed, Report


def reconcile_mirrors(session: Session, report: Report, *, everything: bool) -> None:
    """Complete detail rows from the memories' own columns, and the columns from the rows.

    The original application writes some of them on one side only; what either side has is kept.
    Ranks that a disabled trigger left behind are mended.
    Without `everything`, memories that were changed in the last ten minutes are left alone: the
    application may be about to write their details itself. Raises MigrationFailed unless an
    adoption has come to its end and is not finished.
    """
    if "validate" not in steps(session):
        raise MigrationFailed("no adoption has come to its end here and waits to be finished")
    home = steps(session)["validate"]
    ask(session, "set_search_path", schemas=["ltm_adoption", home])
    last = -1
    while ids := value(
        session, "next_memories", after_id=last, row_limit=BATCH_ROWS, everything=everything
    ):
        ask(session, "complete", memory_ids=ids)
        last = ids[-1]
    ask(session, "set_search_path", schemas=[home])
    report("details and memories are in step")
