"""What is told of each statement that runs: one place, called once per statement."""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Sized
from typing import Final, TypeVar

from ltm_store.db.telemetry import Telemetry

_log: Final = logging.getLogger("ltm_store.statements")
Rows = TypeVar("Rows", bound=Sized)


def observed(name: str, rows: Awaitable[Rows], telemetry: Telemetry | None) -> Awaitable[Rows]:
    """The rows of a statement; its name, their number and the time it took go to the DEBUG log.

    They go to OpenTelemetry too where the Database has its providers.
    """
    if telemetry is not None:
        rows = telemetry.statement(name, rows)
    return _timed(name, rows) if _log.isEnabledFor(logging.DEBUG) else rows


async def _timed(name: str, rows: Awaitable[Rows]) -> Rows:
    started = time.perf_counter()
    found = await rows
    spent = (time.perf_counter() - started) * 1e3
    _log.debug("%s: %d rows in %.1f ms", name, len(found), spent, extra={"event": "statement_ran"})
    return found
