"""Who a user is: the number under which everything of them is stored, looked up once a call."""

from __future__ import annotations

import time
from typing import Final, NamedTuple

from ltm_store.db.execute import Executor, fetch_value, held, is_distributed, session_of
from ltm_store.model.values import UserId, parse_user_id

REMEMBERED_USERS: Final = 1_000  # the last ones that were looked up
REMEMBERED_SECONDS: Final = 60.0  # until a number is looked up again: others may forget the user


class User(NamedTuple):
    """The number of a user; whether it stands for a name in ltm_external_users.

    (A name may also mean a number of the application's own, whom its user was merged into.)
    """

    number: int
    is_external: bool = False


async def find_user(db: Executor, user_id: UserId, *, refresh: bool = False) -> User | None:
    """The user of a read; None when the name has never been seen. Nothing is created.

    With `refresh` what was remembered of the user is looked up again.
    """
    name = parse_user_id(user_id)
    if isinstance(name, int):
        return User(name)
    return await _known(db, name, refresh=refresh)


async def ensure_user(db: Executor, user_id: UserId, *, refresh: bool = False) -> User:
    """The user of a write: a name that is new is given a number.

    With `refresh` what was remembered of the user is looked up again.
    """
    name = parse_user_id(user_id)
    if isinstance(name, int):
        return User(name)
    async with held(db) as one:
        if await is_distributed(session_of(one)):  # what may write asks all nodes
            user = await _known(one, name, refresh=refresh)
            if user is not None:
                return user
        user = await _external(one, name, "intern_user", "intern_user_by_function", refresh=refresh)
    if user is None:
        raise AssertionError("intern_user returns a number")
    return user


async def _known(db: Executor, name: str, *, refresh: bool = False) -> User | None:
    return await _external(db, name, "find_user", "find_user_by_function", refresh=refresh)


async def _external(
    db: Executor, name: str, statement: str, bound_statement: str, *, refresh: bool = False
) -> User | None:
    # Only a Database remembers: what a caller's connection finds may still roll back.
    session = session_of(db)
    known = session.external_users
    if known is not None and not refresh and name in known:
        number, found_at = known[name]
        if time.monotonic() < found_at + REMEMBERED_SECONDS:
            return User(number, is_external=number < 0)
    chosen = bound_statement if session.row_level_security else statement
    found: int | None = await fetch_value(db, chosen, external_id=name)
    if found is None:
        return None
    if known is not None:
        known.pop(name, None)  # so that it comes last
        known[name] = found, time.monotonic()
        while len(known) > REMEMBERED_USERS:
            del known[next(iter(known))]
    return User(found, is_external=found < 0)
