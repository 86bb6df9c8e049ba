"""What operators get: health, repairs, pruned logs."""

from __future__ import annotations

from ltm_store.model.base import Row


class PrunedAccesses(Row):
    """How many accesses of a page were deleted, and the last row of the page."""

    user_id: int
    id: int
    pruned: int


class HealthProblem(Row):
    """Something wrong with the database: which check found it, where, and what it is or what helps.

    `subject` is a row ("ltm_contexts 55") or an object of the schema; `user_id` is None for the
    latter. See the comment on ltm_health.check_name for the checks. Carries no content.
    """

    check_name: str
    user_id: int | None
    subject: str
    detail: str


class SchemaDanger(Row):
    """What lets others change what statements mean: a schema or a function, and what helps."""

    subject: str
    detail: str


class RowLevelSecurity(Row):
    """What row level security does to a connection.

    schema_name is that of the optional step's objects, None where it was not run. is_operator: its
    role is a member of ltm_owner. is_bound: rows are hidden from it. exemption: why it is not a
    role that is kept to one user, None where it is.
    """

    schema_name: str | None
    is_operator: bool
    is_bound: bool
    exemption: str | None


class RepairCount(Row):
    """How often adoption repaired a column of a table by a rule; column_name None: whole rows."""

    table_name: str
    column_name: str | None
    rule: str
    repairs: int


class Repair(Row):
    """One value that adoption repaired, as it was before; of a whole row, its columns as JSON.

    Without a row_id: an index, constraint or the like that was not carried over, as the command
    that makes it.
    """

    id: int
    user_id: int | None
    table_name: str
    row_id: int | None
    column_name: str | None
    rule: str
    original: str | None
