"""Copying the rows of the original's tables while others write them."""

from __future__ import annotations

from typing import Final

from ltm_store.migrate.adoption.progress import Bar
from ltm_store.migrate.adoption.session import ALL_CHANGES, BATCH_ROWS, Adoption
from ltm_store.migrate.adoption.tables import ORIGINALS, RANKS
from ltm_store.migrate.runner import MigrationFailed

INDEX_MEMORY: Final = "256MB"  # for building indexes
COPIED: Final = {"memory": "original_memories", "access": "original_accesses"}
COMPARISONS: Final = 10  # at most, of both sides


def index_originals(a: Adoption) -> None:
    """Index the original tables where they are not, so that a batch finds its rows."""
    for table in a.present():
        for column in ORIGINALS[table].found_by:
            if not a.value("is_indexed", home=a.home, table_name=table, column_name=column):
                _index(a, table, column)
    a.done("index_originals")


def _index(a: Adoption, table: str, column: str) -> None:
    schema, name = a.helping_index(table, column)

    def work() -> None:  # an interrupted attempt leaves an invalid index
        a.ask("drop_index_if_exists", index_name=(schema, name))

    a.with_short_lock(work, f"indexing {table}")
    a.ask("index_concurrently", index_name=name, table_name=(a.home, table), column_name=column)


def watch_originals(a: Adoption) -> None:
    """Note what is written from now on, and up to which id the copy has to go."""
    present = a.present()

    def work() -> None:
        a.lock(present, "lock_against_writes")  # before the first look at the rows
        a.watch(present)
        for kind, view in COPIED.items():  # what comes later is noted
            highest = a.value("highest_id", view_name=("ltm_adoption", view)) or 0
            a.ask("set_progress", kind=f"last {kind}", last_id=highest)
        a.done("watch_originals")

    a.with_short_lock(work, "watching the original tables")


def copy_rows(a: Adoption) -> None:
    """Copy all rows in batches of one transaction each, and keep how far it came."""
    a.look_from("ltm_adoption", "ltm_next")
    _copy_all(a, "memory", "adopt_memories", BATCH_ROWS)
    _copy_all(a, "access", "adopt_accesses", 5 * BATCH_ROWS)
    with a.session.transaction():
        a.ask("report_orphans")
        a.done("copy_rows")


def _copy_all(a: Adoption, kind: str, function: str, size: int) -> None:
    view = COPIED[kind]
    end = a.value("progress", kind=f"last {kind}")
    last = a.value("progress", kind=kind)
    if last is None:
        last = -1
    bar = Bar(
        a.report,
        f"copying {view.removeprefix('original_')}",
        a.value("count_rows", view_name=view),
        a.value("count_copied", last_id=last, view_name=view),
    )
    copied, planned_for = 0, 0
    while ids := a.value("next_ids", after_id=last, last_id=end, row_limit=size, view_name=view):
        last = ids[-1]
        with a.snapshot():
            a.ask("adopt_rows", ids=ids, function_name=function)
            a.ask("set_progress", kind=kind, last_id=last)
        bar.move(len(ids))
        copied += len(ids)
        if copied > 3 * planned_for:  # plans made for smaller tables would read all of them
            planned_for = copied
            _analyze(a)


def build_indexes(a: Adoption) -> None:
    """Make the GIN indexes of the filled tables, which nobody uses yet."""
    a.look_from("ltm_next", "ltm_adoption")
    a.ask("set_index_memory", size=INDEX_MEMORY)
    for name, _, is_index, command, comment, is_there in a.ask("deferred"):
        if is_index and not is_there:
            with a.session.transaction():
                a.execute([command])
                a.ask("comment_on_index", index_name=("ltm_next", name), comment=comment)
            a.report(f"made the index {name}")
    _analyze(a)
    a.done("build_indexes")


def _analyze(a: Adoption) -> None:
    for table in (*ORIGINALS, RANKS):
        a.ask("vacuum_analyze", table_name=("ltm_next", table))


def compare(a: Adoption) -> None:
    """Compare both sides row by row; what differs is carried over again, and differs no more."""
    a.look_from("ltm_adoption", "ltm_next")
    for _ in range(COMPARISONS):
        a.drain(is_back=False)
        for _ in range(2):  # all that is there at a moment, then what that leads to
            with a.snapshot():
                a.carry_changes(ALL_CHANGES, is_back=False)
        with a.session.transaction():
            a.ask("allow_scans")
            different = a.value("note_differences")
        if not different:
            break
    else:
        raise MigrationFailed(f"{different} memories are not the same in the new tables")
    a.done("compare")
