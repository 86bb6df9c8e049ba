"""Telling how far a long step is."""

from __future__ import annotations

import time
from typing import Final

from ltm_store.migrate.runner import Report

TELL_EVERY_SECONDS: Final = 2.0


class Bar:
    """Tells how far a long step is, every two seconds and at its end."""

    def __init__(self, report: Report, what: str, total: int, done: int = 0) -> None:
        self._report = report
        self._what = what
        self._total = total
        self._done = done
        self._begun = done
        self._started = self._told = time.monotonic()

    def move(self, steps: int) -> None:
        """Some steps more are done."""
        self._done += steps
        self._total = max(self._total, self._done)
        now = time.monotonic()
        if self._done >= self._total or now - self._told >= TELL_EVERY_SECONDS:
            self._told = now
            share = self._done / max(self._total, 1)
            speed = (self._done - self._begun) / max(now - self._started, 0.001)
            left = (self._total - self._done) / max(speed, 0.001)
            bar = "#" * round(20 * share)
            self._report(
                f"{self._what} [{bar:<20}] {self._done:,} of {self._total:,}, {left:.0f} s left"
            )
