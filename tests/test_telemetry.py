"""What OpenTelemetry and the log are told: names and numbers, never content."""

import asyncio
import logging
import subprocess
import sys
from collections.abc import AsyncIterator
from typing import Any, NamedTuple

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from ltm_store import (
    Database,
    InvalidMemory,
    Unavailable,
    add_memory,
    connect,
    delete_memory,
    get_memory,
    relate,
    search_memories,
    sync,
)
from tests.locks import WAITING
from tests.servers import local_alone

SECRET = "Xylophagous-Zebra-4711"


class Heard(NamedTuple):
    """A Database, and what it tells."""

    db: Database
    exporter: InMemorySpanExporter
    reader: InMemoryMetricReader
    tracers: TracerProvider

    def spans(self) -> dict[str, ReadableSpan]:
        """The last span of each name."""
        return {span.name: span for span in self.exporter.get_finished_spans()}

    def metrics(self) -> dict[str, list[Any]]:
        """The points of each metric."""
        data: Any = self.reader.get_metrics_data()
        return {
            metric.name: list(metric.data.data_points)
            for resource in data.resource_metrics
            for scope in resource.scope_metrics
            for metric in scope.metrics
        }


@pytest.fixture
async def heard(dsn: str) -> AsyncIterator[Heard]:
    exporter, reader = InMemorySpanExporter(), InMemoryMetricReader()
    tracers = TracerProvider()
    tracers.add_span_processor(SimpleSpanProcessor(exporter))
    meters = MeterProvider([reader])
    async with connect(dsn, tracer_provider=tracers, meter_provider=meters) as db:
        exporter.clear()
        yield Heard(db, exporter, reader, tracers)
    meters.shutdown()


async def test_a_statement_is_a_span_with_its_name_and_its_rows(heard: Heard):
    await add_memory(heard.db, 1, "Likes tea")
    await search_memories(heard.db, 1, "tea")
    span = heard.spans()["search_memories"]
    attributes = dict(span.attributes or {})
    assert span.kind is SpanKind.CLIENT
    assert attributes["db.system.name"] == "postgresql"
    assert attributes["db.operation.name"] == attributes["db.query.summary"] == "search_memories"
    assert attributes["db.response.returned_rows"] == 1
    assert isinstance(attributes["ltm_store.connection.wait"], float)
    assert "ltm_store.repeats" not in attributes
    (waits,) = heard.metrics()["db.client.connection.wait_time"]
    assert waits.count >= 2
    assert str(attributes["db.namespace"]).startswith("ltm_test_")
    assert span.instrumentation_scope is not None
    assert span.instrumentation_scope.name == "ltm_store"


async def test_spans_stand_below_those_of_the_application(heard: Heard):
    with heard.tracers.get_tracer("application").start_as_current_span("turn") as turn:
        await add_memory(heard.db, 1, "Likes tea")
    parent = heard.spans()["add_memory"].parent
    assert parent is not None
    assert parent.span_id == turn.get_span_context().span_id


async def test_statements_in_a_transaction_are_spans_too(heard: Heard):
    memory = await add_memory(heard.db, 1, "Likes tea")
    await delete_memory(heard.db, 1, memory.id)
    assert {"lock_for_delete", "delete_memories"} <= set(heard.spans())


@local_alone
async def test_an_error_is_told_by_its_sqlstate(heard: Heard):
    memory = await add_memory(heard.db, 1, SECRET)
    with pytest.raises(InvalidMemory):
        await add_memory(heard.db, 1, SECRET, related_memory_ids=[memory.id + 1])
    span = heard.spans()["add_memory"]
    assert span.status.status_code is StatusCode.ERROR
    assert span.status.description is None
    attributes = dict(span.attributes or {})
    assert attributes["error.type"] == attributes["db.response.status_code"] == "23514"


async def test_a_deadlock_is_repeated_and_counted(heard: Heard):
    first, second = await add_memory(heard.db, 1, "1"), await add_memory(heard.db, 1, "2")
    lock = "SELECT 1 FROM ltm_memories WHERE user_id = 1 AND id = $1 FOR UPDATE"
    async with heard.db.transaction() as mine:
        await mine.execute("SET LOCAL deadlock_timeout = '1min'")
        await mine.fetch(lock, second.id)
        task = asyncio.create_task(relate(heard.db, 1, first.id, second.id))
        while not await mine.fetchval(WAITING):
            await mine.execute("SELECT pg_stat_clear_snapshot()")
        await asyncio.wait_for(mine.fetch(lock, first.id), 60)
    assert await task is not None
    span = heard.spans()["relate"]
    assert (span.attributes or {})["ltm_store.repeats"] == 1
    assert span.status.status_code is StatusCode.UNSET


@local_alone
async def test_a_shared_statement_is_linked_with_its_calls(heard: Heard):
    memories = [await add_memory(heard.db, user, "Likes tea") for user in range(8)]
    heard.exporter.clear()
    tracer = heard.tracers.get_tracer("application")

    async def call(user: int) -> None:
        with tracer.start_as_current_span(f"turn {user}"):
            assert await get_memory(heard.db, user, memories[user].id) is not None

    await asyncio.gather(*map(call, range(8)))
    spans = heard.exporter.get_finished_spans()
    waiting = [span for span in spans if span.name == "shared statement"]
    shared = [span for span in spans if span.name == "get_memories_together"]
    assert shared
    linked = {link.context.span_id for span in shared for link in span.links}
    assert linked == {span.context.span_id for span in waiting if span.context}
    turns = {span.context.span_id for span in spans if span.name.startswith("turn")}
    assert all(span.parent and span.parent.span_id in turns for span in waiting)
    assert all(span.parent is None for span in shared)


async def test_the_pool_and_the_queue_are_metrics(heard: Heard):
    memory = await add_memory(heard.db, 1, "Likes tea")
    await get_memory(heard.db, 1, memory.id)
    before = {name: points[0].value for name, points in heard.metrics().items() if "acc" in name}
    assert before["ltm_store.accesses.queued"] == 1
    await heard.db.flush()
    points = heard.metrics()
    assert points["ltm_store.accesses.queued"][0].value == 0
    assert points["ltm_store.accesses.recorded"][0].value == 1
    assert points["ltm_store.accesses.dropped"][0].value == 0
    states = {
        p.attributes["db.client.connection.state"]: p.value
        for p in points["db.client.connection.count"]
    }
    assert states["idle"] + states["used"] == heard.db.stats().open
    assert points["db.client.connection.max"][0].value == 10
    assert points["db.client.connection.pending_requests"][0].value == 0
    names = {p.attributes["db.operation.name"] for p in points["db.client.operation.duration"]}
    assert {"add_memory", "get_memory", "write_accesses"} <= names
    await heard.db.close()
    assert "db.client.connection.max" not in heard.metrics()


async def test_two_databases_share_a_meter_provider(dsn: str, caplog):
    reader = InMemoryMetricReader()
    meters = MeterProvider([reader])
    heard = Heard(None, None, reader, None)  # type: ignore[arg-type]
    async with connect(dsn, meter_provider=meters), connect(dsn, meter_provider=meters):
        points = heard.metrics()["db.client.connection.max"]
    pools = {point.attributes["db.client.connection.pool.name"] for point in points}
    assert len(pools) == 2
    assert not caplog.records
    meters.shutdown()


async def test_nothing_that_is_told_holds_content(heard: Heard, caplog):
    caplog.set_level(logging.DEBUG, "ltm_store")
    memory = await add_memory(heard.db, SECRET, SECRET, tags=[SECRET], context=SECRET)
    await search_memories(heard.db, SECRET, SECRET, tags=[SECRET])
    await get_memory(heard.db, SECRET, memory.id, access_context=SECRET)
    with pytest.raises(InvalidMemory):
        await add_memory(heard.db, SECRET, SECRET, parent_memory_id=memory.id + 1)
    await heard.db.flush()
    spans = "".join(span.to_json() for span in heard.exporter.get_finished_spans())
    assert spans
    assert SECRET not in spans + str(heard.reader.get_metrics_data()) + caplog.text


def test_the_blocking_functions_stand_below_the_application_too(dsn: str):
    exporter, tracers = InMemorySpanExporter(), TracerProvider()
    tracers.add_span_processor(SimpleSpanProcessor(exporter))
    tracer = tracers.get_tracer("application")
    with (
        sync.connect(dsn, tracer_provider=tracers) as db,
        tracer.start_as_current_span("turn") as turn,
    ):
        sync.add_memory(db, 1, "Likes tea")
    (span,) = (span for span in exporter.get_finished_spans() if span.name == "add_memory")
    assert span.parent is not None
    assert span.parent.span_id == turn.get_span_context().span_id


def test_without_a_provider_the_package_is_not_imported(dsn: str):
    program = (
        "import asyncio, sys\nfrom ltm_store import connect\n"
        f"async def main():\n    async with connect({dsn!r}):\n        pass\n"
        "asyncio.run(main())\nassert 'opentelemetry' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


async def test_warnings_have_an_event_of_a_stable_name(dsn: str, caplog):
    async with connect(dsn) as db:
        await add_memory(db, 1, "x", idempotency_key="key")
        await add_memory(db, 1, "y", idempotency_key="key")
    (record,) = caplog.records
    assert record.event == "idempotency_key_reused"
    assert record.levelname == "WARNING"


async def test_a_deadline_is_an_error_of_its_span(heard: Heard, dsn: str):
    exporter, tracers = InMemorySpanExporter(), TracerProvider()
    tracers.add_span_processor(SimpleSpanProcessor(exporter))
    memory = await add_memory(heard.db, 1, "x")
    async with (
        connect(dsn, timeout=0.3, tracer_provider=tracers) as db,
        heard.db.transaction() as other,
    ):
        lock = "SELECT 1 FROM ltm_memories WHERE user_id = 1 AND id = $1 FOR UPDATE"
        await other.fetch(lock, memory.id)
        with pytest.raises(Unavailable):
            await delete_memory(db, 1, memory.id)
    (span,) = (one for one in exporter.get_finished_spans() if one.name == "lock_for_delete")
    assert (span.attributes or {})["error.type"] in ("TimeoutError", "57014")
