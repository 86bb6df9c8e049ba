"""Accesses that wait in memory to be recorded together, so that reads only read."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from itertools import chain
from operator import attrgetter
from typing import Final

from ltm_store.accesses import PendingAccess
from ltm_store.errors import LtmError, Unavailable

SECONDS: Final = 0.5  # that the first access waits for others
SOON: Final = 10_000  # accesses that do not wait so long
MEMORIES_AT_ONCE: Final = 1_000  # whose accesses are written by one statement
LOCKED_SECONDS: Final = 0.5  # that memories which others have locked are tried again
LOCKED_PAUSE: Final = 0.02  # seconds between these attempts
RETRY_SECONDS: Final = 1.0  # until what could not be written is tried again
MOST: Final = 20_000  # accesses that wait; then the oldest go
_log = logging.getLogger(__name__)


def _in_order(recalls: Iterable[PendingAccess]) -> list[PendingAccess]:
    return sorted(recalls, key=attrgetter("accessed_at"))


class AccessQueue:
    """The accesses of one Database that wait, and the task that writes them, at most one at a time.

    A task or a timer is there only while something waits. The task is nobody's who calls, so a
    cancelled caller stops nothing.
    """

    def __init__(
        self, write: Callable[[Sequence[Sequence[PendingAccess]]], Awaitable[tuple[int, list[int]]]]
    ) -> None:
        self._write = write
        self._waiting: deque[PendingAccess] = deque()
        self._unsent: list[
            list[PendingAccess]
        ] = []  # of the task that runs, those of a memory together
        self._timer: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None
        self._failing = False
        self._closing = False
        self._closed = False
        self.recorded = 0
        self.dropped = 0

    @property
    def queued(self) -> int:
        """How many wait or are being written."""
        return len(self._waiting) + sum(map(len, self._unsent))

    def add(self, recalls: Iterable[PendingAccess]) -> None:
        """Queue some accesses; where there is no more room the oldest are dropped."""
        self._waiting.extend(recalls)
        self._drop_beyond(0 if self._closed else MOST)
        if self._task is None and self._waiting:
            if len(self._waiting) >= SOON and not self._failing:
                self._start()
            elif self._timer is None:
                self._start_in(SECONDS)

    def waits(self, user_id: int, memory_id: int | None) -> bool:
        """Whether an access of this memory, or of any of the user's, is not written yet."""
        return any(
            recall.user_id == user_id and memory_id in (None, recall.memory_id)
            for recall in chain(self._waiting, *self._unsent)
        )

    async def flush(self) -> None:
        """Write what is queued now. Raises Unavailable where that fails; then it stays queued."""
        if self._task is not None:  # it may have begun before the last access was queued
            await asyncio.wait([self._task])
        if self._task is not None or self._waiting:
            task = self._task or self._start()
            await asyncio.wait([task])
            if task.cancelled():
                raise Unavailable("the database was closed")
            task.result()

    async def close(self, timeout: float) -> None:
        """Write what is queued, as far as that can be done in these seconds; drop the rest.

        A server that is gone is not waited for; memories that others have locked are.
        """
        self._closing = True
        clock = asyncio.get_running_loop().time
        deadline = clock() + timeout
        try:
            while self._task is not None or self._waiting:
                task = self._task or self._start()
                done, _ = await asyncio.wait([task], timeout=max(deadline - clock(), 0))
                if self._failing or not done:
                    break
        finally:
            self._closed = True
            if self._timer is not None:
                self._timer.cancel()
            if self._task is not None:
                self._task.cancel()
                await asyncio.wait([self._task])
            if lost := len(self._waiting):
                self._drop_beyond(0)
                _log.warning("%d accesses were not recorded", lost)

    def _start_in(self, seconds: float) -> None:
        self._timer = asyncio.get_running_loop().call_later(seconds, self._start)

    def _start(self) -> asyncio.Task[None]:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._task = asyncio.get_running_loop().create_task(self._drain())
        self._task.add_done_callback(self._drained)
        return self._task

    async def _drain(self) -> None:
        """Write what is queued as this begins, all accesses of a memory together."""
        memories: dict[tuple[int, int], list[PendingAccess]] = {}
        for recall in _in_order(self._waiting):  # clocks are set back
            memories.setdefault(recall[:2], []).append(recall)
        self._waiting.clear()
        self._unsent = list(memories.values())
        clock = asyncio.get_running_loop().time
        deadline = clock() + LOCKED_SECONDS
        try:
            await self._send()
            while self._unsent:
                if clock() > deadline and not self._closing:
                    raise Unavailable("memories stay locked by another transaction")
                await asyncio.sleep(LOCKED_PAUSE)
                await self._send()
        finally:
            self._waiting.extendleft(reversed(_in_order(chain.from_iterable(self._unsent))))
            self._unsent = []
            self._drop_beyond(MOST)

    async def _send(self) -> None:
        """Write what is not sent, but for memories that others have locked."""
        busy = 0
        while len(self._unsent) > busy:
            these = slice(busy, busy + MEMORIES_AT_ONCE)
            batch = self._unsent[these]
            try:
                recorded, left = await self._write(batch)
            except (Unavailable, asyncio.CancelledError):
                raise
            except Exception:  # the server refuses these, and would again
                self.dropped += sum(map(len, batch))
                del self._unsent[these]
                raise
            self.recorded += recorded
            self._unsent[these] = [batch[place] for place in left]
            busy += len(left)

    def _drained(self, task: asyncio.Task[None]) -> None:
        self._task = None
        error = None if task.cancelled() else task.exception()
        if error is not None and not self._failing:
            reason = error if isinstance(error, LtmError) else type(error).__name__
            _log.warning("%d accesses are not recorded yet: %s", len(self._waiting), reason)
        self._failing = error is not None
        if self._waiting and not self._closed:
            soon = 0 if len(self._waiting) >= SOON else SECONDS
            self._start_in(RETRY_SECONDS if self._failing else soon)

    def _drop_beyond(self, most: int) -> None:
        while len(self._waiting) > most:
            self._waiting.popleft()
            self.dropped += 1
