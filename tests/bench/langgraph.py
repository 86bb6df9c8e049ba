"""What LangGraph's store costs beside its own PostgreSQL store, and what telemetry costs.

A thousand puts and a thousand searches in a store with a user of 2,000 items, one by one and as a
batch, by turns on databases of one server; statements are counted on the wire. Then gets with and
without OpenTelemetry. `python -m tests.bench.langgraph` needs the extra `bench`.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from statistics import median

import asyncpg
from langgraph.store.base import BaseStore, Op, PutOp, SearchOp
from langgraph.store.postgres import AsyncPostgresStore
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.trace import NoOpTracerProvider
from rich.console import Console
from rich.table import Table

from ltm_store import Database, add_memory, connect, get_memory
from ltm_store.integrations.langgraph import LtmStore
from tests import servers
from tests.wire import wire

ROUNDS, CALLS, ITEMS, GETS = 5, 1_000, 2_000, 1_000
NAMESPACE = ("1", "notes")
KINDS = 20
Work = Callable[[BaseStore, list[Op]], Awaitable[object]]


@asynccontextmanager
async def ours(dsn: str) -> AsyncIterator[BaseStore]:
    async with LtmStore.from_conn_string(dsn) as store:
        yield store


@asynccontextmanager
async def theirs(dsn: str) -> AsyncIterator[BaseStore]:
    async with AsyncPostgresStore.from_conn_string(dsn) as store:
        yield store


STORES = {"ltm_store": ours, "AsyncPostgresStore": theirs}


def puts(begin: int, count: int = CALLS) -> list[Op]:
    text = "what a user told the assistant on some day, in a sentence of the usual length"
    return [
        PutOp(NAMESPACE, f"k{n}", {"text": f"{text} {n}", "kind": f"k{n % KINDS}", "n": n})
        for n in range(begin, begin + count)
    ]


def searches(_: int) -> list[Op]:
    return [SearchOp(NAMESPACE, {"kind": f"k{n % KINDS}"}, limit=10) for n in range(CALLS)]


ASKED: dict[str, Callable[[int], list[Op]]] = {
    "put new": lambda turn: puts(ITEMS + turn * CALLS),
    "put again": lambda _: puts(0),
    "search": searches,
}


async def one_by_one(store: BaseStore, ops: list[Op]) -> None:
    for op in ops:
        await store.abatch([op])


async def batch(store: BaseStore, ops: list[Op]) -> None:
    await store.abatch(ops)


WAYS: dict[str, Work] = {"one by one": one_by_one, "a batch": batch}


async def seconds(work: Awaitable[object]) -> float:
    started = time.perf_counter()
    await work
    return time.perf_counter() - started


async def statements(name: str, dsn: str, work: Work, ops: list[Op]) -> int:
    """How many a store sends for operations like those that it did before."""
    async with wire(dsn) as proxy, STORES[name](proxy.dsn) as store:
        await work(store, ops[:2])
        before = proxy.statements
        await work(store, ops)
        return proxy.statements - before


async def compared(server: str) -> Table:
    table = Table("", "", *STORES, "of theirs", "statements", title=f"{CALLS:,} operations")
    async with AsyncExitStack() as stack:
        admin = await asyncpg.connect(server)
        stack.push_async_callback(admin.close)
        dsns, stores = {}, {}
        for name, opened in STORES.items():
            database = f"ltm_bench_{name.lower()}"
            await admin.execute(f"DROP DATABASE IF EXISTS {database} WITH (FORCE)")
            await admin.execute(f"CREATE DATABASE {database}")
            dsns[name] = servers.with_database(server, database)
            stores[name] = await stack.enter_async_context(opened(dsns[name]))
            await stores[name].setup()  # type: ignore[attr-defined]
            await stores[name].abatch(puts(0, ITEMS))
        turn = 0
        for asked, ops in ASKED.items():
            for way, work in WAYS.items():
                spent: dict[str, list[float]] = {name: [] for name in STORES}
                for _ in range(ROUNDS):
                    turn += 1
                    for name, store in stores.items():
                        spent[name].append(await seconds(work(store, ops(turn))))
                ratio = median(a / b for a, b in zip(*spent.values(), strict=True))
                turn += 1
                sent = [await statements(name, dsns[name], work, ops(turn)) for name in STORES]
                table.add_row(
                    asked,
                    way,
                    *(f"{median(spent[name]) * 1e3:,.0f} ms" for name in STORES),
                    f"{ratio:.2f}",
                    " / ".join(f"{count:,}" for count in sent),
                )
    return table


class Nowhere(SpanExporter):
    """Takes spans, and does nothing with them."""

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        return SpanExportResult.SUCCESS


def exporting() -> TracerProvider:
    provider = TracerProvider()
    provider.add_span_processor(BatchSpanProcessor(Nowhere()))
    return provider


async def telemetry(server: str) -> Table:
    """Gets one by one, by turns, on the processor of this process and by the clock."""
    dsn = servers.with_database(server, "ltm_bench_ltm_store")
    providers = {
        "no provider": None,
        "a provider that does nothing": NoOpTracerProvider(),
        "the SDK, exported nowhere": exporting(),
    }
    table = Table("OpenTelemetry", "a get", "of none", "CPU here, of none", title="Telemetry")
    spent: dict[str, list[tuple[float, float]]] = {name: [] for name in providers}
    async with AsyncExitStack() as stack:
        dbs: dict[str, Database] = {}
        for name, provider in providers.items():
            opening = connect(dsn, access_tracking="off", tracer_provider=provider)
            dbs[name] = await stack.enter_async_context(opening)
        memory_id = (await add_memory(dbs["no provider"], 2, "x")).id
        for turn in range(2 * ROUNDS + 1):
            for name, db in dbs.items():
                began = time.process_time(), time.perf_counter()
                for _ in range(GETS):
                    await get_memory(db, 2, memory_id)
                now = time.process_time(), time.perf_counter()
                if turn:  # the first has the connection and the plan to make
                    spent[name].append((now[0] - began[0], now[1] - began[1]))
    without = spent["no provider"]
    for name, turns in spent.items():
        processor, clock = (
            median(own[i] / base[i] for own, base in zip(turns, without, strict=True))
            for i in (0, 1)
        )
        micro = median(own[1] for own in turns) / GETS * 1e6
        table.add_row(name, f"{micro:,.0f} us", f"{clock:.2f}", f"{processor:.2f}")
    return table


async def main() -> None:
    console = Console(width=120)
    with servers.server() as server:
        console.print(await compared(server))
        console.print(await telemetry(server))


if __name__ == "__main__":
    asyncio.run(main())
