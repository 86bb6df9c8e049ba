"""Eight writers through a proxy, and what goes wrong meanwhile.

Each repeats an add with its key until it is acknowledged. Afterwards what was acknowledged is
there, once, with all its rows; every error on the way was a typed one.
"""

import asyncio
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta, tzinfo

import asyncpg
import pytest

from ltm_store import Database, LtmError, add_memory, connect, migrate, search_memories
from tests.servers import Mortal
from tests.wire import Wire, wire

WRITERS = 8
SECONDS = 2.0  # that a call may take
HANG = 60.0
DISK_FULL = "53100"
ROOM = 4 << 20  # bytes of the small disk beyond what goes there


class _IsDatetime(type):
    def __instancecheck__(cls, value: object) -> bool:
        return isinstance(value, datetime)


@contextmanager
def stepping_clock() -> Iterator[Callable[[float], None]]:
    """Sets this process's clock so many hours on, or back, until the block ends."""
    ahead = timedelta()

    class Clock(datetime, metaclass=_IsDatetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> datetime:  # type: ignore[override]
            return datetime.now(tz) + ahead

    def step(hours: float) -> None:
        nonlocal ahead
        ahead = timedelta(hours=hours)

    real = time.time
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ltm_store.model.values.datetime", Clock)
        patch.setattr("time.time", lambda: real() + ahead.total_seconds())
        yield step


@dataclass
class Load:
    """What the writers do and meet, until they are told to stop."""

    db: Database
    acknowledged: set[str] = field(default_factory=set)
    met: Counter[str] = field(default_factory=Counter)
    raw: list[BaseException] = field(default_factory=list)
    longest: float = 0.0
    running: bool = True
    enough: int = 0
    reached: asyncio.Event = field(default_factory=asyncio.Event)
    calls: set["asyncio.Task[object]"] = field(default_factory=set)

    async def call(self, work: Awaitable[object]) -> bool:
        """Whether a call went well; it may be cancelled from outside."""
        started = time.monotonic()
        task = asyncio.ensure_future(work)
        self.calls.add(task)
        try:
            await asyncio.wait([task])
            error = None if task.cancelled() else task.exception()
        finally:
            self.calls.discard(task)
            self.longest = max(self.longest, time.monotonic() - started)
        if task.cancelled() or isinstance(error, LtmError):
            self.met["cancelled" if task.cancelled() else str(error)] += 1
        elif error is not None:
            self.raw.append(error)
        return not task.cancelled() and error is None

    async def write(self, writer: int) -> None:
        number = 0
        while self.running:
            key = f"{writer}/{number}"
            add = add_memory(
                self.db, f"user {writer % 3}", f"note {key}", tags=["a", "b"],
                enhanced_context={"spatial": {"city": "Graz"}}, idempotency_key=key,
            )  # fmt: skip
            if await self.call(add):
                self.acknowledged.add(key)
                number += 1
            if len(self.acknowledged) >= self.enough or self.raw:
                self.reached.set()
            if number % 10 == 9:
                await self.call(search_memories(self.db, f"user {writer % 3}", "note", limit=3))

    async def more(self, count: int) -> None:
        """Wait for so many further adds, or a raw error."""
        self.enough = len(self.acknowledged) + count
        self.reached.clear()
        await self.reached.wait()


@dataclass
class Scene:
    """The server, the proxy before it, and the load."""

    server: Mortal
    proxy: Wire
    load: Load

    @staticmethod
    async def admin_of(server: Mortal, *statements: str) -> None:
        connection = await asyncpg.connect(
            server.dsn, server_settings={"default_transaction_read_only": "off"}
        )
        for statement in statements:
            await connection.execute(statement)
        await connection.close()

    async def admin(self, *statements: str) -> None:
        await self.admin_of(self.server, *statements)

    async def value(self, query: str) -> int:
        connection = await asyncpg.connect(self.server.dsn)
        found: int = await connection.fetchval(query)
        await connection.close()
        return found

    async def backends_end(self) -> None:
        await self.admin(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE application_name = 'ltm_store' AND random() < 0.5"
        )

    async def the_postmaster_is_killed(self) -> None:
        await asyncio.to_thread(self.server.kill)
        await asyncio.to_thread(self.server.start)

    async def the_server_restarts(self) -> None:
        await asyncio.to_thread(self.server.stop, "fast")
        await asyncio.to_thread(self.server.start)

    async def connections_are_reset(self) -> None:
        self.proxy.cut()

    async def connections_are_half_closed(self) -> None:
        self.proxy.half_close()

    async def bytes_are_lost(self) -> None:
        self.proxy.swallow_present()

    async def bytes_are_late(self) -> None:
        self.proxy.delay = 0.1
        await asyncio.sleep(0.5)
        self.proxy.delay = 0.0

    async def the_server_only_reads(self) -> None:
        await self._set("default_transaction_read_only", "on")
        await asyncio.sleep(0.3)
        await self._set("default_transaction_read_only", "off")

    async def _set(self, name: str, value: str) -> None:
        await self.admin(f"ALTER SYSTEM SET {name} = {value}", "SELECT pg_reload_conf()")

    async def there_are_too_many_connections(self) -> None:
        await self.backends_end()
        taken: list[asyncpg.Connection] = []
        with suppress(asyncpg.PostgresError, OSError):
            while len(taken) < 200:
                taken.append(await asyncpg.connect(self.server.dsn))
        await asyncio.sleep(0.3)
        for connection in taken:
            await connection.close()

    async def the_disk_is_full(self) -> None:
        """The one of the memories' table; nothing where it may not be mounted, as by root."""
        used = await self.value("SELECT pg_table_size('ltm_memories')")
        place = self.server.small_disk(used + ROOM)
        if place is None:
            return
        await self.admin(
            f"CREATE TABLESPACE small LOCATION '{place}'",
            "ALTER TABLE ltm_memories SET TABLESPACE small",
        )
        self.server.fill(place)
        before = self._refusals()
        async with asyncio.timeout(HANG):
            while self._refusals() == before:
                await self.admin()
        await self.admin(
            "ALTER TABLE ltm_memories SET TABLESPACE pg_default",
            "DROP TABLESPACE small",
            "CHECKPOINT",  # what is replayed after a crash needs no such place
        )
        self.server.unmount()

    def _refusals(self) -> int:
        return sum(count for text, count in self.load.met.items() if DISK_FULL in text)

    async def clocks_step(self) -> None:
        """The clients' one, by hours, while their calls wait."""
        with stepping_clock() as step:
            for hours in (5, -9, 30, 0):
                step(hours)
                await asyncio.sleep(0.1)

    async def calls_are_cancelled(self) -> None:
        for _ in range(20):
            for task in random.sample(sorted(self.load.calls, key=id), len(self.load.calls) // 2):
                task.cancel()
            await asyncio.sleep(random.random() / 50)


Event = Callable[[Scene], Awaitable[None]]
EVENTS: tuple[Event, ...] = (
    Scene.backends_end,
    Scene.the_postmaster_is_killed,
    Scene.connections_are_reset,
    Scene.connections_are_half_closed,
    Scene.bytes_are_lost,
    Scene.bytes_are_late,
    Scene.the_server_only_reads,
    Scene.there_are_too_many_connections,
    Scene.calls_are_cancelled,
    Scene.the_disk_is_full,
    Scene.clocks_step,
    Scene.the_server_restarts,
)


@dataclass(frozen=True)
class Outcome:
    """What became of it."""

    acknowledged: int
    lost: int
    torn: int
    doubled: int
    hanging: int
    """Sessions left inside a transaction."""
    met: Counter[str]
    raw: list[BaseException]
    longest: float


async def run(
    server: Mortal, events: tuple[Event, ...], adds: int, told: Callable[[str], None] | None = None
) -> Outcome:
    """Let each event happen, with so many acknowledged adds after each."""
    await asyncio.to_thread(migrate.apply, server.dsn)
    async with wire(server.dsn) as proxy, connect(proxy.dsn, timeout=SECONDS) as db:
        load = Load(db)
        scene = Scene(server, proxy, load)
        writers = [asyncio.ensure_future(load.write(n)) for n in range(WRITERS)]
        await load.more(adds)
        longest = 0.0
        for event in events:
            before, started = Counter(load.met), time.monotonic()
            longest, load.longest = max(longest, load.longest), 0.0
            await event(scene)
            await load.more(adds)
            errors = load.met.total() - before.total()
            seconds = time.monotonic() - started
            if told:
                told(
                    f"{event.__name__}: {errors} typed errors, {len(load.raw)} raw, longest call "
                    f"{load.longest:.1f} s, {seconds:.1f} s"
                )
        load.running = False
        await asyncio.gather(*writers)
        load.longest = max(longest, load.longest)
        return await _outcome(server.dsn, load)


async def _outcome(dsn: str, load: Load) -> Outcome:
    connection = await asyncpg.connect(dsn)
    rows = await connection.fetch(
        "SELECT m.idempotency_key AS key, count(*) OVER (PARTITION BY m.idempotency_key) AS times, "
        "(SELECT count(*) FROM ltm_memory_tags AS t "
        "WHERE (t.user_id, t.memory_id) = (m.user_id, m.id)) AS tags, "
        "(SELECT count(*) FROM ltm_contexts AS c "
        "WHERE (c.user_id, c.memory_id) = (m.user_id, m.id)) AS contexts FROM ltm_memories AS m"
    )
    hanging = await connection.fetchval(
        "SELECT count(*) FROM pg_stat_activity WHERE state LIKE 'idle in transaction%'"
    )
    await connection.close()
    return Outcome(
        acknowledged=len(load.acknowledged),
        lost=len(load.acknowledged - {row["key"] for row in rows}),
        torn=sum((row["tags"], row["contexts"]) != (2, 1) for row in rows),
        doubled=sum(row["times"] > 1 for row in rows),
        hanging=hanging,
        met=load.met,
        raw=load.raw,
        longest=load.longest,
    )
