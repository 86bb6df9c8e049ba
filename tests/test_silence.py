"""What memories say stays in them: no error, log, trace or span tells it, whatever goes wrong."""

import asyncio
import inspect
import json
import logging
import traceback
from collections.abc import AsyncIterator, Awaitable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import asyncpg
import mcp
import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from typer.testing import CliRunner

import ltm_store
from ltm_store import LtmError, add_memory, connect, sync
from ltm_store.cli.app import app
from ltm_store.integrations.claude import MemoryTool
from ltm_store.integrations.langgraph import LtmStore
from ltm_store.integrations.mcp import memory_server
from ltm_store.integrations.tools import memory_tools

CANARY = "Xylophagous-Zebra-4711"


class Telling:
    """A value of no type that is known, which says the canary where it is shown."""

    def __repr__(self) -> str:
        return CANARY


class Call(NamedTuple):
    """Arguments of a function; every text that it takes is in it."""

    name: str
    given: dict[str, Any]


CONTEXT = {"spatial": {"city": CANARY}, "extra": {"note": CANARY}}
MEMORY: dict[str, Any] = {
    "content": CANARY, "tags": [CANARY], "context": CANARY, "enhanced_context": CONTEXT,
    "memory_type": CANARY, "category": CANARY, "source_type": CANARY, "source_id": CANARY,
    "created_by": CANARY, "metadata": {"note": CANARY}, "idempotency_key": CANARY,
    "namespace": CANARY,
}  # fmt: skip
FILTERS: dict[str, Any] = {
    "memory_type": CANARY, "category": CANARY, "tags": [CANARY], "tags_any": [CANARY],
    "tags_none": ["other"], "source_type": CANARY, "source_id": CANARY, "created_by": CANARY,
    "context_data": CONTEXT, "metadata": {"note": {"$in": [CANARY]}}, "namespace": CANARY,
    "phrases": [CANARY], "exclude": ["other"], "key_prefix": CANARY,
}  # fmt: skip
CALLS = [
    Call("add_memory", MEMORY | {"key": CANARY}),
    Call("add_memories", {"memories": [MEMORY]}),
    Call("put_memory", {"key": CANARY, **MEMORY}),
    Call("put_memories", {"memories": [{"key": CANARY, **MEMORY, "idempotency_key": None}]}),
    Call("update_memory", {"memory_id": 1, **MEMORY, "archive_reason": CANARY}),
    Call("import_user", {"lines": [MEMORY]}),
    Call("archive_memory", {"memory_id": 1, "reason": CANARY}),
    Call("add_tags", {"memory_id": 1, "tags": [CANARY], "tag_category": CANARY}),
    Call("remove_tags", {"memory_id": 1, "tags": [CANARY]}),
    Call("rename_tag", {"old": CANARY, "new": "other"}),
    Call("relate", {"source_memory_id": 1, "target_memory_id": 2, "relationship_type": CANARY,
                    "description": CANARY}),
    Call("unrelate", {"source_memory_id": 1, "target_memory_id": 2, "relationship_type": CANARY}),
    Call("record_access", {"memory_ids": [1], "access_method": CANARY, "access_context": CANARY,
                           "user_query": CANARY}),
    Call("rename_key", {"old": CANARY, "new": "other", "namespace": CANARY}),
    Call("delete_by_key", {"key": CANARY, "namespace": CANARY}),
    Call("delete_by_keys", {"places": [(CANARY, CANARY)]}),
    Call("get_by_keys", {"places": [(CANARY, CANARY)]}),
    Call("delete_where", FILTERS),
    Call("archive_where", FILTERS | {"reason": CANARY}),
    Call("add_tags_where", {k: v for k, v in FILTERS.items() if k != "tags"} | {"tags": [CANARY]}),
    Call("get_by_key", {"key": CANARY, "namespace": CANARY}),
    Call("search_memories", {"query": CANARY, **FILTERS}),
    Call("explain_search", {"query": CANARY, "memory_id": 1, **FILTERS}),
    Call("count_memories", {"query": CANARY, **FILTERS}),
    Call("get_source", {"source_id": CANARY}),
    Call("list_tags", {"tag_category": CANARY}),
    Call("related_tags", {"tag": CANARY}),
    Call("list_namespaces", {"prefix": CANARY}),
    Call("traverse", {"memory_id": 1, "types": [CANARY]}),
]  # fmt: skip
FILTERED = {"explain_search", "count_memories", "delete_where", "archive_where", "add_tags_where"}
"""Functions whose filters are those of search_memories, with which they are tried."""
BAD: list[Any] = [
    CANARY + "\0", CANARY + "\ud800", CANARY * 300, CANARY.encode(), Telling(), [CANARY + "\0"],
    [Telling()], {"note": {CANARY}}, {"$bad": CANARY}, {"spatial": {"city": Telling()}},
    {"a": [CANARY + "\0"]}, float("nan"), [[CANARY]], {"note": {"$regex": CANARY}},
]  # fmt: skip
"""In the place of an argument. (A key that is unknown is named: it is a name of the caller's.)"""
FAULTS = {
    "a check": (
        "ALTER TABLE ltm_memories ADD CONSTRAINT never CHECK (content IS NULL) NOT VALID",
        "ALTER TABLE ltm_memory_tags ADD CONSTRAINT never CHECK (tag_name IS NULL) NOT VALID",
        "ALTER TABLE ltm_memory_access ADD CONSTRAINT never CHECK (user_query IS NULL) NOT VALID",
        "ALTER TABLE ltm_memory_relationships ADD CONSTRAINT never CHECK (strength < 0) NOT VALID",
    ),
    "no table": (
        "DROP TABLE ltm_memory_tags, ltm_contexts CASCADE",
        "ALTER TABLE ltm_memories RENAME TO gone",
    ),
    "no column": ("ALTER TABLE ltm_memories RENAME COLUMN version TO gone",),
    "no right": ("SET LOCAL ROLE pg_monitor",),
    "a function that fails": (
        "CREATE OR REPLACE FUNCTION ltm_lower(value text) RETURNS text "
        "IMMUTABLE PARALLEL SAFE LANGUAGE plpgsql AS $$ BEGIN RAISE '%', value; END $$",
    ),
    "read only": ("SET TRANSACTION READ ONLY",),
}


class Ears(NamedTuple):
    """A Database, and all that is heard of it."""

    db: ltm_store.Database
    spans: InMemorySpanExporter
    log: pytest.LogCaptureFixture

    def heard(self, error: BaseException | None = None) -> str:
        """What an error, its trace, the log and the spans say."""
        text = [record.getMessage() + str(vars(record)) for record in self.log.records]
        text += [span.to_json() for span in self.spans.get_finished_spans()]
        if error is not None:
            text.append(heard_of(error))
        return "\n".join(text)


def heard_of(error: BaseException | None) -> str:
    """What an error and those before it say, and its trace."""
    text: list[str] = []
    if error is not None:
        text += traceback.TracebackException.from_exception(error).format()
    while error is not None:
        text.append(f"{error} {error!r} {error.args} {vars(error)}")
        error = error.__cause__ or error.__context__
    return "\n".join(text)


@pytest.fixture
async def ears(dsn: str, caplog: pytest.LogCaptureFixture) -> AsyncIterator[Ears]:
    caplog.set_level(logging.DEBUG)
    spans, tracers = InMemorySpanExporter(), TracerProvider()
    tracers.add_span_processor(SimpleSpanProcessor(spans))
    async with connect(dsn, access_tracking="off", tracer_provider=tracers) as db:
        for n in range(2):
            await add_memory(db, "u", f"{n}")
        yield Ears(db, spans, caplog)


async def call(db: Any, name: str, given: dict[str, Any]) -> BaseException | None:
    try:
        await getattr(ltm_store, name)(db, "u", **given)
    except Exception as error:
        return error
    return None


@pytest.mark.parametrize("one", CALLS, ids=lambda one: one.name)
async def test_a_bad_argument_is_refused_without_its_text(ears: Ears, one: Call):
    parameters = inspect.signature(getattr(ltm_store, one.name)).parameters
    refused = 0
    async with ears.db.transaction() as connection:
        for name in parameters:
            if name in ("db", "user_id", "fields"):
                continue
            if one.name in FILTERED and name in FILTERS and name != "tags":
                continue
            bads = BAD if name in one.given else BAD[3:6]
            for bad in [*bads, CANARY * 50_000] if name == "content" else bads:
                savepoint = connection.transaction()
                await savepoint.start()
                given = {k: v for k, v in one.given.items() if k != name} | {name: bad}
                error = await call(connection, one.name, given)
                await savepoint.rollback()
                assert error is None or isinstance(error, LtmError), (name, type(error))
                refused += error is not None
                assert CANARY not in ears.heard(error), name
                ears.log.clear()
    assert refused


@pytest.mark.parametrize("fault", FAULTS)
async def test_what_the_server_refuses_is_told_without_its_text(ears: Ears, fault: str):
    refused = set()
    for one in CALLS:
        async with ears.db.transaction() as connection:
            savepoint = connection.transaction()
            await savepoint.start()
            for statement in FAULTS[fault]:
                await connection.execute(statement)
            error = await call(connection, one.name, one.given)
            await savepoint.rollback()
        assert error is None or isinstance(error, LtmError), one.name
        refused |= {one.name} if error else set()
        assert CANARY not in ears.heard(error), one.name
    assert refused


LOGGED = {
    "log_error_verbosity": "terse",
    "log_parameter_max_length": "0",
    "log_parameter_max_length_on_error": "0",
}
"""What docs/operating.md says that keeps contents out of the server's log."""


def test_the_settings_for_the_log_are_documented():
    page = Path(__file__).parents[1] / "docs" / "operating.md"
    assert all(f"`{name} = {value}`" in page.read_text() for name, value in LOGGED.items())


@pytest.mark.parametrize("quiet", [False, True])
async def test_what_the_server_logs(own_dsn: str, quiet: bool):
    """Without the settings its log tells what it refused, and parameters of slow statements."""
    connection = await asyncpg.connect(own_dsn)
    files = await connection.fetchval("SELECT current_setting('data_directory')")
    log = next((p for p in (Path(files, "log"), Path(files).with_name("log")) if p.is_file()), None)
    if log is None:
        await connection.close()
        pytest.skip("the server's log is not here")
    name = await connection.fetchval("SELECT current_database()")
    for setting, value in {**(LOGGED if quiet else {}), "log_min_duration_statement": "0"}.items():
        await connection.execute(f"ALTER DATABASE {name} SET {setting} = '{value}'")
    await connection.execute(
        "ALTER TABLE ltm_memories ADD CONSTRAINT never CHECK (category IS NULL) NOT VALID"
    )
    begin = log.stat().st_size
    async with connect(own_dsn) as db:
        await add_memory(db, 1, CANARY, tags=[CANARY])
        for given in ({"category": CANARY}, {"metadata": {"a": "\x00"}}):
            with pytest.raises(LtmError):
                await add_memory(db, 1, CANARY, **given)
        with pytest.raises(LtmError):
            await ltm_store.add_memories(db, 1, [{"content": CANARY, "category": CANARY}] * 3)
        await ltm_store.search_memories(db, 1, CANARY)
    await connection.close()
    told = log.read_bytes()[begin:].decode(errors="replace")
    assert "never" in told
    assert (CANARY in told) is not quiet


# -- through what is built on it -----------------------------------------------------------------

TOOLS: dict[str, dict[str, Any]] = {
    "remember": {"content": CANARY, "tags": [CANARY], "memory_type": CANARY},
    "recall": {"query": CANARY, "tags": [CANARY]},
    "update_memory": {"memory_id": 1, "content": CANARY, "tags": [CANARY]},
    "relate_memories": {"source_memory_id": 1, "target_memory_id": 2, "description": CANARY},
}
FILE = "/memories/notes.md"  # a name that the model gave is told to it
FILES: list[dict[str, Any]] = [
    {"command": "create", "path": FILE, "file_text": CANARY},
    {"command": "view", "path": FILE},
    {"command": "str_replace", "path": FILE, "old_str": CANARY, "new_str": CANARY},
    {"command": "rename", "old_path": FILE, "new_path": f"{FILE}.new"},
]
COMMANDS: list[tuple[str, ...]] = [
    ("add", CANARY, "--tag", CANARY, "--metadata", f'{{"note": "{CANARY}"}}', "--key", CANARY),
    ("search", CANARY, "--any-tag", CANARY),
    ("recall", CANARY),
    ("tag", CANARY, "--type", CANARY, "--yes"),
    ("archive", "--type", CANARY, "--reason", CANARY, "--yes"),
    ("import", "-"),
]
BROKEN = ["a check", "a function that fails"]
"""Of FAULTS those whose errors hold the content, as the server tells them."""


async def _by_sync(db: ltm_store.Database, dsn: str) -> list[BaseException | str]:
    def calls() -> list[BaseException | str]:
        errors: list[BaseException | str] = []
        with sync.connect(dsn, check_schema=False) as blocking:
            for one in CALLS:
                try:
                    getattr(sync, one.name)(blocking, "u", **one.given)
                except LtmError as error:
                    errors.append(error)
        return errors

    return await asyncio.to_thread(calls)


async def _by_tools(db: ltm_store.Database, dsn: str) -> list[BaseException | str]:
    tools = {tool.name: tool for tool in memory_tools(db, "u")}
    calls: list[Awaitable[object]] = [tools[name].call(given) for name, given in TOOLS.items()]
    files = MemoryTool(db, "u")
    calls += [files.call(command) for command in FILES]
    return await _errors(calls)


async def _by_langgraph(db: ltm_store.Database, dsn: str) -> list[BaseException | str]:
    store = LtmStore(db)
    place, item = ("u", CANARY), {"note": CANARY, CANARY: 1}
    errors = await _errors([
        store.aput(place, CANARY, item),
        store.aget(place, CANARY),
        store.asearch(("u",), query=CANARY, filter={"note": CANARY}),
        store.aput(place, CANARY, {"note": Telling()}),
        store.aput(place, CANARY, {"note": f"{CANARY}\0"}),
    ])  # fmt: skip
    await store.aclose()
    return errors


async def _errors(calls: Iterable[Awaitable[object]]) -> list[BaseException | str]:
    found = await asyncio.gather(*calls, return_exceptions=True)
    return [error for error in found if isinstance(error, BaseException)]


async def _by_mcp(db: ltm_store.Database, dsn: str) -> list[BaseException | str]:
    client: Any = mcp.Client(memory_server(db, "u"))
    async with client:
        results = [await client.call_tool(*one) for one in TOOLS.items()]
    return [str(result) for result in results if result.is_error]


async def _by_command(db: ltm_store.Database, dsn: str) -> list[BaseException | str]:
    def calls() -> list[BaseException | str]:
        line = json.dumps(MEMORY)
        options = ["--user", "u", "--dsn", dsn]
        results = [CliRunner().invoke(app, [*c, *options], input=line) for c in COMMANDS]
        assert all(result.exit_code in (0, 1) for result in results)
        return [result.output for result in results if result.exit_code]

    return await asyncio.to_thread(calls)


@pytest.mark.parametrize("fault", BROKEN)
async def test_what_is_built_on_it_tells_no_content_either(own_dsn: str, fault: str, caplog):
    caplog.set_level(logging.DEBUG)
    connection = await asyncpg.connect(own_dsn)
    async with connect(own_dsn, access_tracking="off") as db:
        for n in range(2):
            await add_memory(db, "u", f"{n}")
        for statement in FAULTS[fault]:
            await connection.execute(statement)
        for told in (_by_sync, _by_tools, _by_langgraph, _by_mcp, _by_command):
            errors = await told(db, own_dsn)
            assert errors, told
            for error in errors:
                heard = error if isinstance(error, str) else heard_of(error)
                assert CANARY not in heard, told
            logged = "\n".join(r.getMessage() + str(vars(r)) for r in caplog.records)
            assert CANARY not in logged, told
            caplog.clear()
    await connection.close()
