"""Calls of one event loop that wait at the same time, and go together in one statement."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable, Sequence
from contextvars import Context
from copy import copy
from dataclasses import dataclass
from math import inf
from typing import TYPE_CHECKING, Final, Generic, TypeVar

from ltm_store.db.telemetry import Telemetry
from ltm_store.errors import Unavailable, translate

if TYPE_CHECKING:
    from opentelemetry.trace import Span

MOST_CALLS: Final = 64  # that share a statement
MOST_ROWS: Final = 256  # that they ask for together
UNDER_WAY: Final = 2  # statements; further calls wait for one of them, and gather
LONGEST_WAIT: Final = 0.001  # seconds that a call waits for statements of others

Call = TypeVar("Call")
Part = TypeVar("Part")


@dataclass(slots=True, eq=False)
class _Waiting(Generic[Call, Part]):
    """A call that waits for its part of a shared statement; None tells it to go alone."""

    call: Call
    rows: int
    deadline: float
    part: asyncio.Future[Part | None]
    span: Span | None = None
    shared: _Shared[Call, Part] | None = None


class _Shared(Generic[Call, Part]):
    """Some calls in one statement, until each has its part or its deadline has come."""

    def __init__(self, waiting: list[_Waiting[Call, Part]]) -> None:
        self._waiting = waiting
        self._timer: asyncio.TimerHandle | None = None
        self.task: asyncio.Task[None] | None = None
        for one in waiting:
            one.shared = self
        self._fail_late_ones()

    def _fail_late_ones(self) -> None:
        loop = asyncio.get_running_loop()
        now, first = loop.time(), inf
        for one in self._waiting:
            if one.part.done():
                continue
            if one.deadline <= now:
                one.part.set_exception(translate(TimeoutError()) or Unavailable())
            else:
                first = min(first, one.deadline)
        if first < inf:
            self._timer = loop.call_at(first, self._fail_late_ones, context=Context())

    def end(self, parts: Sequence[Part | None], error: Exception | None = None) -> None:
        """Give each call its part, or all the error."""
        if self._timer is not None:
            self._timer.cancel()
        for one, part in zip(self._waiting, parts, strict=True):
            if one.part.done():
                continue
            if error is None:
                one.part.set_result(part)
            else:
                one.part.set_exception(copy(error))

    @property
    def spans(self) -> list[Span]:
        """Those of the calls, where there are any."""
        return [one.span for one in self._waiting if one.span is not None]

    def leave(self) -> None:
        """Stop the statement where every call was cancelled."""
        if self.task is not None and all(one.part.cancelled() for one in self._waiting):
            self.task.cancel()


class Together(Generic[Call, Part]):
    """Calls of one kind, which share statements while as many are under way as pay.

    A call that finds fewer goes alone, at once. The others gather and go together when one of
    those statements ends, when they are many, or after `longest_wait` seconds: none joins a
    statement already sent. A statement is no caller's: it runs in an empty context, and goes on
    while any of its calls waits. What it does not give, each call does alone.
    """

    def __init__(
        self,
        send: Callable[[list[Call]], Awaitable[list[Part | None]]],
        *,
        alike: Callable[[Call], Hashable] = lambda _: None,
        repeats: Callable[[Exception], bool] = lambda _: True,
        under_way: int = UNDER_WAY,
        longest_wait: float = LONGEST_WAIT,
    ) -> None:
        """`alike`: only calls for which it gives the same share a statement.

        `repeats`: whether each call is done alone after this error of a shared statement.
        """
        self._send = send
        self._alike = alike
        self._repeats = repeats
        self._most_under_way = under_way
        self._longest_wait = longest_wait
        self._under_way = 0
        self._gathered: list[_Waiting[Call, Part]] = []
        self._rows = 0  # of what is gathered
        self._soon = False  # whether what is gathered in this turn of the loop goes after it
        self._timer: asyncio.TimerHandle | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._running: set[asyncio.Task[None]] = set()
        self.telemetry: Telemetry | None = None

    def __enter__(self) -> None:
        """Count a call that goes alone as a statement under way."""
        self._under_way += 1

    def __exit__(self, *_: object) -> None:
        self._under_way -= 1
        if self._gathered:
            self._go_soon()

    async def part(self, call: Call, deadline: float, rows: int = 1) -> Part | None:
        """The call's part of a shared statement; None where it should go alone.

        Raises Unavailable at the deadline.
        """
        if not self._soon and self._under_way < self._most_under_way:
            return None
        loop = asyncio.get_running_loop()
        self._loop = self._loop or loop
        if self._loop is not loop:
            return None  # the pool tells what is wrong
        waiting = _Waiting[Call, Part](call, rows, deadline, loop.create_future())
        if self._rows + rows > MOST_ROWS:
            self._go()
        self._gathered.append(waiting)
        self._rows += rows
        if len(self._gathered) >= MOST_CALLS:
            self._go()
        elif self._timer is None and not self._soon:
            self._timer = loop.call_later(self._longest_wait, self._go, context=Context())
        try:
            if self.telemetry is None:
                return await waiting.part
            with self.telemetry.gathering() as waiting.span:
                return await waiting.part
        except asyncio.CancelledError:
            if waiting.shared is not None:
                waiting.shared.leave()
            raise

    def _go_soon(self) -> None:
        """Send what is gathered when the tasks that are awake now have had their turn."""
        if not self._soon:
            self._soon = True
            asyncio.get_running_loop().call_soon(self._go, context=Context())

    def _go(self) -> None:
        """Send what is gathered, by a statement for all that are alike."""
        self._soon = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        alike: dict[Hashable, list[_Waiting[Call, Part]]] = {}
        for one in self._gathered:
            if not one.part.done():  # cancelled
                alike.setdefault(self._alike(one.call), []).append(one)
        self._gathered, self._rows = [], 0
        for some in alike.values():
            if len(some) == 1:
                some[0].part.set_result(None)
            else:
                self._start(some)

    def _start(self, some: list[_Waiting[Call, Part]]) -> None:
        shared = _Shared(some)
        calls = [one.call for one in some]
        loop = asyncio.get_running_loop()
        self._under_way += 1
        shared.task = loop.create_task(self._run(shared, calls), context=Context())
        self._running.add(shared.task)
        shared.task.add_done_callback(self._running.discard)

    async def _run(self, shared: _Shared[Call, Part], calls: list[Call]) -> None:
        parts: list[Part | None] = [None] * len(calls)
        error: Exception | None = Unavailable("the statement was stopped")
        if self.telemetry is not None:
            self.telemetry.share(shared.spans)
        try:
            parts = await self._send(calls)
            error = None
        except Exception as raised:
            error = raised
        finally:
            self._under_way -= 1
            shared.end(parts, None if error is None or self._repeats(error) else error)
            self._go_soon()
