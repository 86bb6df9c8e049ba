"""The policy of access tracking: at once, later and together, or not at all."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from contextvars import Context
from itertools import chain, groupby
from operator import attrgetter
from typing import Final, Literal, get_args

from ltm_store import limits
from ltm_store.accesses import AccessReason, PendingAccess, record, write_accesses
from ltm_store.db.execute import Session
from ltm_store.db.standby import unawaited
from ltm_store.errors import InvalidArgument, LtmError, Unavailable
from ltm_store.model.accesses import AccessDetails
from ltm_store.model.values import moment

Tracking = Literal["deferred", "immediate", "off"]

FLUSH_SECONDS: Final = 0.5  # that the first access waits for others
FLUSH_ACCESSES: Final = 10_000  # queued accesses that are written at once
MEMORIES_AT_ONCE: Final = 1_000  # whose accesses are written by one statement
LOCKED_SECONDS: Final = 0.5  # that memories which others have locked are tried again
LOCKED_PAUSE: Final = 0.02  # seconds between these attempts
RETRY_SECONDS: Final = 1.0  # until what could not be written is tried again
QUEUED_ACCESSES: Final = 20_000  # at the most; then the oldest go
LOST: Final = "accesses_lost"
_log = logging.getLogger(__name__)


def _in_order(accesses: Iterable[PendingAccess]) -> list[PendingAccess]:
    return sorted(accesses, key=attrgetter("accessed_at"))


def _user(accesses: Sequence[PendingAccess]) -> int:
    return accesses[0].user_id


class AccessQueue:
    """The accesses of one Database that wait, and the task that writes them, at most one at a time.

    A task or a timer is there only while something waits. The task is nobody's who calls, so a
    cancelled caller stops nothing.
    """

    def __init__(
        self,
        write: Callable[[Sequence[Sequence[PendingAccess]]], Awaitable[tuple[int, list[int]]]],
        *,
        by_user: bool = False,
    ) -> None:
        """`by_user`: what is written at once is of one user."""
        self._write = write
        self._by_user = by_user
        self._waiting: deque[PendingAccess] = deque()
        # What moves an expiry on is never dropped: of each memory the last one that had no room.
        self._kept: dict[tuple[int, int], PendingAccess] = {}
        # Of the task that runs, those of a memory together.
        self._unsent: list[list[PendingAccess]] = []
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
        return len(self._waiting) + len(self._kept) + sum(map(len, self._unsent))

    def add(self, accesses: Iterable[PendingAccess]) -> None:
        """Queue some accesses; where there is no more room the oldest are dropped."""
        self._waiting.extend(accesses)
        self._drop_beyond(0 if self._closed else QUEUED_ACCESSES)
        if self._task is None and self._waiting:
            if len(self._waiting) >= FLUSH_ACCESSES and not self._failing:
                self._start()
            elif self._timer is None:
                self._start_in(FLUSH_SECONDS)

    def waits(self, user_id: int, memory_id: int | None) -> bool:
        """Whether an access of this memory, or of any of the user's, is not written yet."""
        return any(
            access.user_id == user_id and memory_id in (None, access.memory_id)
            for access in chain(self._kept.values(), self._waiting, *self._unsent)
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
            lost = self.queued
            self._drop_beyond(0)
            if lost and not self._failing:  # which was told
                _log.warning(
                    "%d accesses were not recorded: no more time", lost, extra={"event": LOST}
                )

    def _start_in(self, seconds: float) -> None:
        # In a context of its own: the deadline of the call that began it is not its own.
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(seconds, self._start, context=Context())

    def _start(self) -> asyncio.Task[None]:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._task = asyncio.get_running_loop().create_task(self._drain(), context=Context())
        self._task.add_done_callback(self._drained)
        return self._task

    async def _drain(self) -> None:
        """Write what is queued as this begins, all accesses of a memory together."""
        unawaited.set(True)
        memories: dict[tuple[int, int], list[PendingAccess]] = {}
        # In order of time, for clocks are set back.
        for access in _in_order(chain(self._kept.values(), self._waiting)):
            memories.setdefault(access[:2], []).append(access)
        self._kept.clear()
        self._waiting.clear()
        self._unsent = list(memories.values())
        if self._by_user:
            self._unsent.sort(key=_user)
        clock = asyncio.get_running_loop().time
        try:
            await self._send()
            deadline = clock() + LOCKED_SECONDS
            while self._unsent:
                if clock() > deadline and not self._closing:
                    raise Unavailable("memories stay locked by another transaction")
                await asyncio.sleep(LOCKED_PAUSE)
                await self._send()
        finally:
            self._waiting.extendleft(reversed(_in_order(chain.from_iterable(self._unsent))))
            self._unsent = []
            self._drop_beyond(QUEUED_ACCESSES)

    async def _send(self) -> None:
        """Write what is not sent, but for memories that others have locked."""
        busy = 0
        while len(self._unsent) > busy:
            batch = self._unsent[busy : busy + MEMORIES_AT_ONCE]
            if self._by_user:
                batch = next(list(of_one) for _, of_one in groupby(batch, _user))
            these = slice(busy, busy + len(batch))
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
            when = "were not recorded" if self._closing else "are not recorded yet"
            _log.warning(
                "%d accesses %s: %s",
                len(self._waiting),
                when,
                reason,
                extra={"event": LOST if self._closing else "accesses_delayed"},
            )
        self._failing = error is not None
        if self._waiting and not self._closed:
            soon = 0 if len(self._waiting) >= FLUSH_ACCESSES else FLUSH_SECONDS
            self._start_in(RETRY_SECONDS if self._failing else soon)

    def _drop_beyond(self, most: int) -> None:
        while len(self._waiting) > most:
            oldest = self._waiting.popleft()
            replaced = self._kept.pop(oldest[:2], None) if oldest.slides else oldest
            if oldest.slides:
                self._kept[oldest[:2]] = oldest
            self.dropped += replaced is not None
        if not most:
            self.dropped += len(self._kept)
            self._kept.clear()


class Tracker:
    """Applies the access_tracking of a Database to what its reads hand out."""

    def __init__(self, db: Session, tracking: Tracking) -> None:
        if tracking not in get_args(Tracking):
            raise InvalidArgument("access_tracking", 'should be "deferred", "immediate" or "off"')
        self._db = db
        self._tracking = tracking
        self._failing = False
        self.queue = AccessQueue(
            lambda memories: write_accesses(db, memories), by_user=db.row_level_security
        )

    async def track(
        self,
        user: int,
        memory_ids: list[int],
        method: str,
        context: str | None,
        query: str | None,
        sliding: Collection[int] = (),
    ) -> None:
        """Queue the accesses, record them at once, or do nothing."""
        if self._tracking == "deferred":
            now = moment(None)
            reason = AccessReason(method, context, query and query[: limits.NOTE_CHARS])
            self.queue.add(
                [
                    PendingAccess(user, memory_id, now, reason, memory_id in sliding)
                    for memory_id in dict.fromkeys(memory_ids)
                ]
            )
        elif self._tracking == "immediate":
            await self._record(user, memory_ids, method, context, query)

    async def _record(
        self, user: int, memory_ids: list[int], method: str, context: str | None, query: str | None
    ) -> None:
        details = AccessDetails.checked(
            {
                "memory_ids": memory_ids,
                "access_method": method,
                "access_context": context,
                "user_query": query,
            }
        )
        try:
            await record(self._db, user, details)
            self._failing = False
        except Unavailable as error:  # a standby, say: what was read is worth more than its count
            if not self._failing:
                _log.warning(
                    "%d accesses were not recorded: %s",
                    len(memory_ids),
                    error,
                    extra={"event": LOST},
                )
            self._failing = True

    async def write_pending(self, user: int, memory_id: int | None) -> None:
        """Write what is queued, where some of it is of this memory, or of this user."""
        if self.queue.waits(user, memory_id):
            try:
                await self.queue.flush()
            except Unavailable:
                if self.queue.waits(user, memory_id):
                    raise
