"""What operators have made on the original tables: carried over to ours, or kept as a script."""

from __future__ import annotations

import psycopg

from ltm_store.migrate.adoption.copying import INDEX_MEMORY
from ltm_store.migrate.adoption.session import Adoption


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
            is_carried = not is_against and _carries(a, table, kind, command)
            if not is_carried:
                rule = f"{kind} not carried over"
                a.ask("report_object", table_name=table, rule=rule, command=command)
            a.report(f"{table}: the {kind} {name} is {'' if is_carried else 'not '}carried over")
        a.done("carry_objects")


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
