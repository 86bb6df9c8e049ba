"""What operators have made on the original tables: carried over to ours, or kept as a script."""

from __future__ import annotations

from typing import Final

import psycopg

from ltm_store.migrate.adoption.copying import INDEX_MEMORY
from ltm_store.migrate.adoption.session import Adoption

CONSTRAINING: Final = ("index", "unique", "exclusion", "check", "comment")


def carry_objects(a: Adoption) -> None:
    """Make their indexes, constraints, defaults and the like on the new tables, or report them.

    What ours contradicts is a row of ltm_adoption_report, as the command that would make it.
    """
    a.look_from(a.home)  # so that commands name only schemas of others
    found = a.ask("objects", home=a.home, tables=a.present())
    a.look_from("ltm_next", a.home)
    a.ask("set_index_memory", size=INDEX_MEMORY)
    with a.session.transaction():
        for table, kind, name, command, is_against in found:
            if not is_against and _carries(a, table, kind, command):
                a.report(f"{table}: the {kind} {name} is carried over")
            else:
                _keep(a, table, kind, name, command)
        a.done("carry_objects")


def leave_out(a: Adoption, error: psycopg.IntegrityError) -> bool:
    """Make a part of the script of what a later row contradicts as it is repaired and completed.

    False where that is not the operator's.
    """
    at = error.diag
    if at.schema_name != "ltm_next":
        return False
    with a.session.transaction():
        where = {"constraint_name": at.constraint_name, "column_name": at.column_name}
        a.execute(c for (c,) in a.ask("leaving_out", table_name=at.table_name, **where))
        a.look_from(a.home)
        found = [
            (table, kind, name, command)
            for table, kind, name, command, _ in a.ask("objects", home=a.home, tables=a.present())
            if table == at.table_name
            and (
                (kind in CONSTRAINING and name == at.constraint_name)
                or (kind == "not null" and name == at.column_name)
            )
        ]
        a.look_from("ltm_next", a.home)
        for row in found:
            _keep(a, *row)
        if not found:
            raise psycopg.Rollback
    return bool(found)


def _keep(a: Adoption, table: str, kind: str, name: str, command: str) -> None:
    """Report what is not carried over, as the command that would make it."""
    a.ask("report_object", table_name=table, rule=f"{kind} not carried over", command=command)
    a.report(f"{table}: the {kind} {name} is not carried over")


def _carries(a: Adoption, table: str, kind: str, command: str) -> bool:
    """Whether a command works on the new tables, and a check admits what ours always writes."""
    try:
        with a.session.transaction():
            a.session.execute(command)
            if kind == "check":
                with a.session.transaction(force_rollback=True):
                    a.ask("try_row", table_name=table)
    except psycopg.OperationalError:  # the server's trouble, not the command's
        raise
    except psycopg.Error:
        return False
    return True
