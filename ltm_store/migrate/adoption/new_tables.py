"""Making the new tables beside the original's, and the views that show the original's rows."""

from __future__ import annotations

from ltm_store.db.resources import migration_ids
from ltm_store.migrate.adoption.session import Adoption
from ltm_store.migrate.adoption.tables import ORIGINALS
from ltm_store.migrate.runner import MigrationFailed, applied_ids, connected, run_migrations
from ltm_store.migrate.views import apply_views


def make_tables(a: Adoption) -> None:
    """Apply the ordinary migrations in a schema of their own."""
    with connected(a.next_dsn) as inside:
        done = applied_ids(inside)
    pending = [name for name in migration_ids() if name not in done]
    run_migrations(a.next_dsn, a.locked, pending, "apply", a.report)
    with connected(a.next_dsn) as inside:
        apply_views(inside, a.report)
    if names := a.ask("names_taken", home=a.home, tables=a.present()):
        a.give_up()
        raise MigrationFailed(f"the tables cannot be adopted: {'; '.join(n for (n,) in names)}")
    a.done("make_tables")


def defer_indexes(a: Adoption) -> None:
    """Leave foreign keys and GIN indexes for later, and let the copy find accesses by their id."""
    with a.session.transaction():
        a.look_from("ltm_next")  # so that definitions do not name the schema
        a.ask("defer")
        for name, table, is_index, *_ in a.ask("deferred"):
            if is_index:
                a.ask("drop_index", index_name=name)
            else:
                a.ask("drop_constraint", table_name=table, constraint_name=name)
        a.ask("defer_indexes_of_original")
        a.ask("index_accesses")
        a.done("defer_indexes")


def show_originals(a: Adoption) -> None:
    """Make the views original_*, and behind them what carries rows over."""
    with a.session.transaction():
        a.look_from("ltm_adoption", "ltm_next")
        for table in ORIGINALS:
            a.ask("show_original", home=a.home, table_name=table)
            _choose_sequence(a, table)
        a.script("repairs")
        a.done("show_originals")


def _choose_sequence(a: Adoption, table: str) -> None:
    """Take ids from the original's own sequence where it has one, so that they are given once."""
    there = a.home if table in a.present() else "ltm_next"
    sequence = a.value("sequence", home=there, table_name=table) or a.value(
        "sequence", home="ltm_next", table_name=table
    )
    view = f"original_{ORIGINALS[table].view}"
    highest = a.value("highest_given_id", view_name=view) or 0
    if highest > (a.value("stands_at", sequence=sequence) or 0):
        a.ask("set_sequence", sequence=sequence, number=highest)
    a.ask("use_sequence", table_name=table, sequence=sequence)
