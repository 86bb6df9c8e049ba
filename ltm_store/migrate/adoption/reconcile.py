"""Completing what the original application writes on one side only, after an adoption."""

from __future__ import annotations

from ltm_store.migrate.adoption.session import BATCH_ROWS, steps
from ltm_store.migrate.ask import Session, ask, value
from ltm_store.migrate.runner import MigrationFailed, Report


def reconcile_mirrors(session: Session, report: Report, *, everything: bool) -> None:
    """Bring details and the memories' own columns in step after an older program wrote only one.

    What either side says is kept. Unless `everything` is asked for, memories that were changed in
    the last ten minutes are left alone: the program may be about to write their details itself.
    Raises MigrationFailed without an adoption that came to its end.
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
