"""OpenTelemetry's spans and metrics of a Database, by its conventions for databases.

Only names, numbers and SQLSTATEs go into them, never what is stored or asked for. The API's package
is imported where a provider is handed in.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence, Sized
from contextlib import contextmanager
from contextvars import ContextVar
from importlib.metadata import version
from itertools import count
from typing import TYPE_CHECKING, Final, TypeAlias, TypeVar
from urllib.parse import urlsplit
from weakref import WeakKeyDictionary, WeakSet

from ltm_store.errors import InvalidArgument

if TYPE_CHECKING:
    from opentelemetry.metrics import CallbackOptions, MeterProvider, Observation
    from opentelemetry.trace import Link, Span, TracerProvider
    from opentelemetry.util.types import AttributeValue

Rows = TypeVar("Rows", bound=Sized)
Load: TypeAlias = Mapping[str, int]
"""What a Database is doing: the fields of its Stats."""
Observed: TypeAlias = Sequence[tuple[int, dict[str, str]]]
Observe: TypeAlias = Callable[[Load], Observed]

SYSTEM: Final = {"db.system.name": "postgresql"}
# Seconds, as the conventions advise.
BUCKETS: Final = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 10)
_numbers: Final = count(1)
_shared: ContextVar[Sequence[Span]] = ContextVar("ltm_store_shared", default=())


class Telemetry:
    """The spans and metrics of one Database."""

    def __init__(
        self,
        tracer_provider: TracerProvider | None,
        meter_provider: MeterProvider | None,
        dsn: str | None,
        load: Callable[[], Load | None],
    ) -> None:
        """`load`: what the Database is doing, None once it is closed."""
        for argument, provider, method in (
            ("tracer_provider", tracer_provider, "get_tracer"),
            ("meter_provider", meter_provider, "get_meter"),
        ):
            if provider is not None and not hasattr(provider, method):
                raise InvalidArgument(argument, "should be a provider of OpenTelemetry")
        from opentelemetry import trace

        tracers = tracer_provider or trace.NoOpTracerProvider()
        self._trace = trace
        self._tracer = tracers.get_tracer("ltm_store", version("ltm_store"))
        self._attributes: dict[str, AttributeValue] = {**SYSTEM, **_server(dsn)}
        self._pool = {"db.client.connection.pool.name": f"ltm_store-{next(_numbers)}"}
        self._load = load
        self._instruments = _instruments_of(meter_provider)
        self._instruments.databases.add(self)

    def observe(self, observe: Observe) -> list[tuple[int, dict[str, str]]]:
        """What a metric is to tell of this Database."""
        load = self._load()
        values = () if load is None else observe(load)
        return [(value, {**self._pool, **more}) for value, more in values]

    async def statement(self, name: str, rows: Awaitable[Rows]) -> Rows:
        """The rows of a statement, inside of a span, which calls that share it are linked with."""
        attributes = {**self._attributes, "db.operation.name": name, "db.query.summary": name}
        measured = {**SYSTEM, "db.operation.name": name}
        started = time.perf_counter()
        with self._tracer.start_as_current_span(
            name,
            kind=self._trace.SpanKind.CLIENT,
            attributes=attributes,
            links=self._links(),
            record_exception=False,  # its text may hold a row
            set_status_on_exception=False,
        ) as span:
            try:
                found = await rows
            except BaseException as error:
                measured |= _failure(error)
                span.set_attributes(_failure(error))
                span.set_status(self._trace.StatusCode.ERROR)
                raise
            finally:
                self._instruments.durations.record(time.perf_counter() - started, measured)
            span.set_attribute("db.response.returned_rows", len(found))
        return found

    def _links(self) -> list[Link]:
        return [self._trace.Link(span.get_span_context()) for span in _shared.get()]

    def ran(self, waited: float, repeats: int) -> None:
        """Note of the present statement how long it waited for connections, and its repeats."""
        self._instruments.waits.record(waited, self._pool)
        span = self._trace.get_current_span()
        span.set_attribute("ltm_store.connection.wait", waited)
        if repeats:
            span.set_attribute("ltm_store.repeats", repeats)

    @contextmanager
    def gathering(self) -> Iterator[Span]:
        """The span of a call that waits for its part of a shared statement."""
        with self._tracer.start_as_current_span(
            "shared statement", attributes=SYSTEM, record_exception=False
        ) as span:
            yield span

    def share(self, spans: Sequence[Span]) -> None:
        """Link the next statement of this task with the calls that it serves."""
        _shared.set(spans)


class _Instruments:
    """The metrics of all Databases that have one provider."""

    def __init__(self, provider: MeterProvider) -> None:
        self.databases: WeakSet[Telemetry] = WeakSet()
        meter = provider.get_meter("ltm_store", version("ltm_store"))
        self.durations = meter.create_histogram(
            "db.client.operation.duration",
            "s",
            "How long statements take, waiting for a connection and repeats included.",
            explicit_bucket_boundaries_advisory=BUCKETS,
        )
        self.waits = meter.create_histogram(
            "db.client.connection.wait_time",
            "s",
            "How long statements wait for a connection.",
            explicit_bucket_boundaries_advisory=BUCKETS,
        )
        for name, unit, told, observe in LEVELS:
            meter.create_observable_up_down_counter(name, [self._observer(observe)], unit, told)
        for name, unit, told, observe in TOTALS:
            meter.create_observable_counter(name, [self._observer(observe)], unit, told)

    def _observer(self, observe: Observe) -> Callable[[CallbackOptions], list[Observation]]:
        from opentelemetry.metrics import Observation

        def observed(_: CallbackOptions) -> list[Observation]:
            return [
                Observation(value, attributes)
                for database in list(self.databases)
                for value, attributes in database.observe(observe)
            ]

        return observed


_known: Final[WeakKeyDictionary[MeterProvider, _Instruments]] = WeakKeyDictionary()


def _instruments_of(provider: MeterProvider | None) -> _Instruments:
    """Those of a provider, which takes a name once."""
    if provider is None:
        from opentelemetry.metrics import NoOpMeterProvider

        return _Instruments(NoOpMeterProvider())
    if provider not in _known:
        _known[provider] = _Instruments(provider)
    return _known[provider]


def _connections(load: Load) -> Observed:
    state = "db.client.connection.state"
    return [(load["idle"], {state: "idle"}), (load["open"] - load["idle"], {state: "used"})]


LEVELS: Final[Sequence[tuple[str, str, str, Observe]]] = (
    ("db.client.connection.count", "{connection}", "Connections.", _connections),
    (
        "db.client.connection.max",
        "{connection}",
        "Connections at the most.",
        lambda load: [(load["max_size"], {})],
    ),
    (
        "db.client.connection.pending_requests",
        "{request}",
        "Calls that wait for a connection.",
        lambda load: [(load["waiting"], {})],
    ),
    (
        "ltm_store.accesses.queued",
        "{access}",
        "Accesses that are not written yet.",
        lambda load: [(load["queued"], {})],
    ),
)
TOTALS: Final[Sequence[tuple[str, str, str, Observe]]] = (
    (
        "ltm_store.accesses.recorded",
        "{access}",
        "Accesses that were written.",
        lambda load: [(load["recorded"], {})],
    ),
    (
        "ltm_store.accesses.dropped",
        "{access}",
        "Accesses that were given up.",
        lambda load: [(load["dropped"], {})],
    ),
)


def _server(dsn: str | None) -> dict[str, str | int]:
    """Where the server is, as far as a DSN that is a URL tells."""
    try:
        parts = urlsplit(dsn or "")
        told = {
            "server.address": parts.hostname,
            "server.port": parts.port,
            "db.namespace": parts.path.removeprefix("/"),
        }
    except ValueError:
        return {}
    return {name: value for name, value in told.items() if value}


def _failure(error: BaseException) -> dict[str, str]:
    state = getattr(error, "sqlstate", None)
    if isinstance(state, str):
        return {"error.type": state, "db.response.status_code": state}
    return {"error.type": type(error).__name__}
