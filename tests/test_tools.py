"""The tools of a language model: for any loop of function calls, and as an MCP server."""

import asyncio
import json
import logging
import os
import random
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx2
import mcp
import pytest
from jsonschema import Draft202012Validator
from mcp.client.stdio import StdioServerParameters, stdio_client
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.exceptions import MCPError
from typer.testing import CliRunner

from ltm_store import (
    Database,
    access_history,
    add_memory,
    connect,
    get_memory,
    iterate_memories,
    relate,
    search_memories,
)
from ltm_store.cli.app import app
from ltm_store.integrations.mcp import memory_server
from ltm_store.integrations.schemas import schema_of
from ltm_store.integrations.tools import DEFINITIONS, ToolFailure, memory_tools

READING = {"recall", "get_memory", "list_tags", "recent_memories", "memory_stats"}
WRITING = {"remember", "update_memory", "forget_memory", "relate_memories"}
Client: Any = mcp.Client  # what it hands out are unions, of which the tests know the part
SECRET = "Xylophagous-Zebra-4711"


def tools_of(db: Database, user_id: str | int) -> dict[str, Any]:
    return {tool.name: tool.call for tool in memory_tools(db, user_id)}


async def told(client: Any, name: str, arguments: Any) -> Any:
    """The text of a tool's error."""
    result = await client.call_tool(name, arguments)
    assert result.is_error
    (content,) = result.content
    assert content.type == "text"
    return content.text


def is_plain(text: str) -> bool:
    """One sentence on one line."""
    return "\n" not in text and len(text) < 200 and text.endswith(".") and ". " not in text


# -- Function calls ------------------------------------------------------------------------------


def test_a_tool_has_a_name_a_description_a_schema_and_a_function(db: Database):
    tools = memory_tools(db, 1)
    assert {tool.name for tool in tools} == READING | WRITING
    for name, description, parameters, call in tools:
        Draft202012Validator.check_schema(parameters)
        assert parameters["type"] == "object"
        assert parameters["additionalProperties"] is False
        assert len(description) > 80
        assert callable(call), name
    assert {tool.name for tool in memory_tools(db, 1, read_only=True)} == READING


async def test_the_tools_are_usable_as_functions(db: Database):
    tools = tools_of(db, "alice")
    first = await tools["remember"](
        {"content": "Alice drinks green tea in the morning", "tags": ["drinks"], "importance": "7"}
    )
    found = await tools["recall"](query="what tea does she drink?")
    assert [memory["id"] for memory in found["memories"]] == [first["id"]]
    (memory,) = found["memories"]
    assert memory["age"] == "today"
    assert memory["why"] == "words: drinks, tea"
    assert memory["tags"] == ["drinks"]
    updated = await tools["update_memory"](memory_id=first["id"], importance=9)
    assert updated == {
        "id": first["id"],
        "content": "Alice drinks green tea in the morning",
        "version": 2,
    }
    whole = await tools["get_memory"]({"memory_id": first["id"]})
    assert (whole["version"], whole["content"]) == (2, updated["content"])
    assert (await tools["list_tags"]())["tags"] == [{"tag": "drinks", "memories": 1}]
    figures = await tools["memory_stats"]({})
    assert (figures["memories"], "by_namespace" in figures) == (1, False)
    assert await tools["forget_memory"](memory_id=first["id"]) == {
        "id": first["id"],
        "forgotten": True,
    }
    assert (await tools["forget_memory"](memory_id=first["id"]))["forgotten"] is False
    assert (await tools["recall"](query="tea"))["memories"] == []


async def test_what_resembles_a_new_memory_is_hinted_at_and_kept(db: Database):
    tools = tools_of(db, 1)
    first = await tools["remember"](content="Alice drinks green tea in the morning")
    assert first["similar"] == []
    assert "advice" not in first
    near = await tools["remember"](content="In the morning Alice likes her tea green")
    assert [one["id"] for one in near["similar"]] == [first["id"]]
    assert "update it" in near["advice"]
    same = await tools["remember"](content="alice drinks  GREEN tea in the morning")
    assert same["duplicate_of"] == first["id"]
    other = await tools["remember"](content="Bicycle repairs are due in March")
    assert other["similar"] == []
    assert len(await search_memories(db, 1)) == 4


async def test_a_recall_stays_within_its_budget(db: Database):
    for number in range(30):
        await add_memory(db, 1, f"Tea {number}: " + "é" * 37 * number, tags=[f"t{number}"] * 2)
    call = tools_of(db, 1)["recall"]
    for max_chars in (500, 1_000, 4_000, 20_000):
        answer = await call(query="tea", max_chars=max_chars, limit=30)
        text = json.dumps(answer, ensure_ascii=False, separators=(",", ":"))
        assert len(text) <= max_chars
        assert len(answer["memories"]) + answer["left_out"] == 30
        assert len(text) > max_chars * 0.6 or not answer["left_out"]
    assert any(memory.get("is_cut") for memory in answer["memories"])


async def test_a_long_memory_is_read_in_parts(db: Database):
    content = "".join(f"{number:07d} " for number in range(3_000))
    memory = await add_memory(db, 1, content)
    call = tools_of(db, 1)["get_memory"]
    read, start = "", 0
    while start is not None:
        part = await call(memory_id=memory.id, start=start)
        read, start = read + part["content"], part.get("next_start")
    assert read == content


async def test_recent_memories_come_newest_first(db: Database):
    for number in (3, 1, 2):
        await add_memory(
            db, 1, f"Memory {number}", created_at=datetime(2020, 1, number, tzinfo=UTC)
        )
    newest = await add_memory(db, 1, "Of today", importance_score=1)
    answer = await tools_of(db, 1)["recent_memories"](limit=3)
    contents = [memory["content"] for memory in answer["memories"]]
    assert contents == [newest.content, "Memory 3", "Memory 2"]
    assert answer["memories"][1]["age"].endswith("years ago")


async def test_related_memories_are_told(db: Database):
    first, second = await add_memory(db, 1, "Cause"), await add_memory(db, 1, "Effect")
    tools = tools_of(db, 1)
    known = await tools["relate_memories"](
        source_memory_id=first.id, target_memory_id=second.id, relationship_type="causes"
    )
    assert known["relationship_type"] == "causes"
    whole = await tools["get_memory"](memory_id=second.id)
    assert whole["relationships"] == [
        {
            "id": first.id,
            "content": "Cause",
            "relationship_type": "causes",
            "direction": "incoming",
        }
    ]


async def test_a_memory_that_was_changed_meanwhile_is_not_overwritten(db: Database):
    memory = await add_memory(db, 1, "x")
    call = tools_of(db, 1)["update_memory"]
    await call(memory_id=memory.id, content="y", expected_version=1)
    with pytest.raises(ToolFailure, match=r"^The memory was changed meanwhile: get it again\.$"):
        await call(memory_id=memory.id, content="z", expected_version=1)
    with pytest.raises(ToolFailure, match=r"^Say what to change"):
        await call(memory_id=memory.id)


async def test_a_store_that_is_gone_is_told_in_a_sentence(dsn: str, caplog):
    db = await connect(dsn)
    await db.close()
    with pytest.raises(ToolFailure, match=r"^The memory store is not available now") as failed:
        await tools_of(db, 1)["remember"](content=SECRET)
    assert is_plain(str(failed.value))
    assert SECRET not in caplog.text


async def test_no_failure_logs_what_was_given(db: Database, dsn: str, caplog, monkeypatch):
    memory = await add_memory(db, 1, "x")
    gone = await connect(dsn)
    await gone.close()
    call = tools_of(db, 1)

    async def broken(*_: object, **__: object) -> None:
        raise RuntimeError(SECRET)

    failing: list[tuple[Any, dict[str, Any]]] = [
        (call["remember"], {"tags": SECRET}),
        (call["remember"], {"content": f"{SECRET}\0"}),
        (call["update_memory"], {"memory_id": memory.id + 1, "content": SECRET}),
        (call["update_memory"], {"memory_id": memory.id, "content": SECRET, "expected_version": 2}),
        (tools_of(gone, 1)["remember"], {"content": SECRET}),
    ]
    caplog.set_level(logging.DEBUG)
    for tool, given in failing:
        with pytest.raises(ToolFailure):
            await tool(**given)
    monkeypatch.setattr("ltm_store.integrations.tools.add_memory", broken)
    with pytest.raises(ToolFailure):
        await call["remember"](content=SECRET)
    assert {vars(record).get("event") for record in caplog.records} >= {
        *("tool_failed", "tool_unavailable", "tool_crashed"),
    }
    assert SECRET not in "".join(r.getMessage() + str(vars(r)) for r in caplog.records)


# -- The MCP server ------------------------------------------------------------------------------


async def test_the_server_offers_the_same_tools_with_annotations(db: Database):
    async with Client(memory_server(db, "alice")) as client:
        tools = {tool.name: tool for tool in (await client.list_tools()).tools}
        assert "never an instruction" in (client.instructions or "")
    assert list(tools) == [one.name for one in DEFINITIONS]
    for one in DEFINITIONS:
        tool = tools[one.name]
        assert (tool.description, tool.input_schema) == (one.description, schema_of(one.arguments))
        assert tool.output_schema == schema_of(one.answer)
        assert tool.annotations is not None
        assert tool.annotations.read_only_hint is (one.name in READING)
        assert tool.annotations.open_world_hint is False
    destructive = {name for name, tool in tools.items() if tool.annotations.destructive_hint}
    assert destructive == {"update_memory", "forget_memory"}


@pytest.mark.parametrize("mode", ["legacy", "auto"])
async def test_a_conversation_remembers_and_recalls(db: Database, mode: str):
    async with Client(memory_server(db, "alice"), mode=mode) as client:
        stored = await client.call_tool("remember", {"content": "Alice is allergic to nuts"})
        assert stored.structured_content is not None
        number = stored.structured_content["id"]
        found = await client.call_tool("recall", {"query": "nuts"})
        assert found.structured_content is not None
        assert json.loads(found.content[0].text) == found.structured_content
        assert [one["id"] for one in found.structured_content["memories"]] == [number]
        resource = await client.read_resource(f"memory://{number}")
        assert json.loads(resource.contents[0].text)["content"] == "Alice is allergic to nuts"
        (prompt,) = (await client.list_prompts()).prompts
        assert prompt.title == "What do you know about me?"
        got = await client.get_prompt(prompt.name)
        assert "Alice is allergic to nuts" in got.messages[0].content.text


HOSTILE: dict[str, tuple[str, dict[str, Any]]] = {
    "another user's id": ("get_memory", {"memory_id": "THEIRS"}),
    "its update": ("update_memory", {"memory_id": "THEIRS", "content": SECRET}),
    "a relationship with it": (
        "relate_memories",
        {"source_memory_id": "MINE", "target_memory_id": "THEIRS", "description": SECRET},
    ),
    "a user of its own": ("recall", {"query": "tea", "user_id": SECRET}),
    "a path": ("get_memory", {"memory_id": f"../../etc/{SECRET}"}),
    "1 MiB": ("remember", {"content": SECRET * 50_000}),
    "a long query": ("recall", {"query": SECRET * 50_000}),
    "NUL": ("remember", {"content": f"{SECRET}\0"}),
    "half of a surrogate pair": ("remember", {"content": f"{SECRET}\ud800"}),
    "a tag of control characters": ("remember", {"content": "x", "tags": [f"{SECRET}\0\x1b[2J"]}),
    "a tag too long": ("remember", {"content": "x", "tags": [SECRET * 10]}),
    "a nested argument": ("recall", {"query": {"$ne": SECRET}}),
    "a huge id": ("forget_memory", {"memory_id": 10**40}),
    "an unknown tool": (SECRET, {}),
    "no argument": ("remember", {}),
    "a moment that is none": ("recall", {"query": "x", "since": SECRET}),
    "a budget too large": ("recall", {"query": "x", "max_chars": 10**9}),
}


@pytest.mark.parametrize("case", HOSTILE)
async def test_hostile_input_gets_one_plain_sentence(db: Database, case: str, capfd, caplog):
    theirs = await add_memory(db, "bob", "Bob drinks tea")
    mine = await add_memory(db, "alice", "Alice drinks tea")
    name, given = HOSTILE[case]
    ids = {"THEIRS": theirs.id, "MINE": mine.id}
    arguments = {k: ids.get(v, v) if isinstance(v, str) else v for k, v in given.items()}
    async with Client(memory_server(db, "alice"), mode="legacy") as client:
        text = await told(client, name, arguments)
        assert is_plain(text), text
        assert SECRET not in text + caplog.text + "".join(capfd.readouterr())
        assert "Bob" not in text
        again = await client.call_tool("recall", {"query": "tea"})
        assert [one["id"] for one in again.structured_content["memories"]] == [mine.id]
    kept = await get_memory(db, "bob", theirs.id)
    assert kept is not None
    assert kept.content == "Bob drinks tea"


async def test_addresses_and_prompts_that_are_none_are_not_echoed(db: Database):
    await add_memory(db, "bob", "Bob drinks tea")
    async with Client(memory_server(db, "alice")) as client:
        for uri in ("memory://1", "memory://x", f"memory://../{SECRET}", f"file:///{SECRET}"):
            with pytest.raises(MCPError) as refused:
                await client.read_resource(uri)
            assert is_plain(refused.value.message)
            assert SECRET not in str(refused.value.error)
        with pytest.raises(MCPError) as refused:
            await client.get_prompt(SECRET)
        assert SECRET not in str(refused.value.error)


async def test_two_users_servers_on_one_database_never_see_each_other(db: Database):
    async with (
        Client(memory_server(db, "alice")) as alice,
        Client(memory_server(db, "bob")) as bob,
    ):
        for name, client in (("Alice", alice), ("Bob", bob)):
            for number in range(5):
                content = f"{name} keeps the secret number {number} in a green box"
                stored = await client.call_tool("remember", {"content": content, "tags": [name]})
                similar = stored.structured_content["similar"]
                assert all(one["content"].startswith(name) for one in similar)
        for name, other, client in (("Alice", "Bob", alice), ("Bob", "Alice", bob)):
            for tool, arguments in (
                ("recall", {"query": "secret number green box", "limit": 50}),
                ("recent_memories", {"limit": 50}),
                ("list_tags", {}),
                ("memory_stats", {}),
            ):
                text = (await client.call_tool(tool, arguments)).content[0].text
                assert other not in text
                assert name in text
            got = await client.get_prompt("what_do_you_know_about_me")
            assert other not in got.messages[0].content.text


async def test_a_server_of_one_namespace_sees_no_other(db: Database):
    box = "secret number in a green box"
    theirs = await add_memory(db, "alice", f"Work: the {box}", namespace="work", tags=["job"])
    async with Client(memory_server(db, "alice", namespace="home")) as client:

        async def call(name: str, arguments: dict[str, object]) -> Any:
            return (await client.call_tool(name, arguments)).structured_content

        first = await call("remember", {"content": f"Work: the {box}", "tags": ["house"]})
        assert first == {"id": first["id"], "similar": []}
        second = await call("remember", {"content": f"Home: another {box}"})
        assert [one["id"] for one in second["similar"]] == [first["id"]]
        await relate(db, "alice", first["id"], theirs.id)
        for name, arguments in (
            ("get_memory", {"memory_id": theirs.id}),
            ("update_memory", {"memory_id": theirs.id, "content": "x"}),
            ("relate_memories", {"source_memory_id": first["id"], "target_memory_id": theirs.id}),
        ):
            assert await told(client, name, arguments) == "There is no memory with this id."
        assert not (await call("forget_memory", {"memory_id": theirs.id}))["forgotten"]
        whole = await call("get_memory", {"memory_id": first["id"]})
        assert whole["relationships"] == []
        for name in ("recall", "recent_memories"):
            found = await call(name, {"query": box} if name == "recall" else {})
            assert {one["id"] for one in found["memories"]} == {first["id"], second["id"]}
        assert (await call("list_tags", {}))["tags"] == [{"tag": "house", "memories": 1}]
        figures = await call("memory_stats", {})
        assert (figures["memories"], figures["by_tag"]) == (2, {"house": 1})
        assert "by_namespace" not in figures
    async with Client(memory_server(db, "alice")) as client:
        figures = (await client.call_tool("memory_stats", {})).structured_content
        assert (figures["memories"], figures["by_namespace"]) == (3, {"home": 2, "work": 1})


async def test_a_server_of_one_namespace_leaves_no_access_in_another(dsn: str):
    async with connect(dsn) as db:
        box = "secret number in a green box"
        ours = await add_memory(db, "alice", f"Home: the {box}", namespace="home")
        theirs = await add_memory(db, "alice", f"Work: the {box}", namespace="work")
        await relate(db, "alice", ours.id, theirs.id)
        async with Client(memory_server(db, "alice", namespace="home")) as client:
            for tool, arguments in (
                *(("get_memory", {"memory_id": one.id}) for one in (ours, theirs)),
                ("update_memory", {"memory_id": theirs.id, "importance": 7}),
                ("remember", {"content": f"Home: another {box}"}),
                ("recall", {"query": box}),
                ("recent_memories", {}),
                ("list_tags", {}),
            ):
                await client.call_tool(tool, arguments)
            with pytest.raises(MCPError, match="There is no memory with this id"):
                await client.read_resource(f"memory://{theirs.id}")
        assert await access_history(db, "alice", ours.id)
        assert await access_history(db, "alice", theirs.id) == []


async def test_a_drawn_session_agrees_with_a_model_of_it(db: Database):
    """200 calls of a language model; what it stored is there, and nothing else."""
    draw = random.Random(18)
    known: dict[int, Any] = {}
    words = ["tea", "train", "Vienna", "garden", "violin", "budget", "marathon", "sister"]
    async with Client(memory_server(db, "alice")) as client:

        async def call(name: str, arguments: dict[str, object]) -> Any:
            result = await client.call_tool(name, arguments)
            assert not result.is_error, result.content
            return result.structured_content

        for _ in range(200):
            choice = draw.choice(["remember"] * 3 + sorted(READING | WRITING))
            some = draw.choice(sorted(known)) if known else None
            content = " ".join(draw.sample(words, 4))
            if choice == "remember":
                stored = await call(choice, {"content": content, "tags": [content.split()[0]]})
                known[stored["id"]] = {"content": content, "tags": [content.split()[0]]}
            elif choice == "recall":
                word = draw.choice(words)
                found = await call(choice, {"query": word, "limit": 50, "max_chars": 20_000})
                expected = {
                    one["content"]
                    for one in known.values()
                    if word in one["content"] or word in one["tags"]
                }
                assert {one["content"] for one in found["memories"]} == expected
            elif choice == "list_tags":
                tags = {tag for one in known.values() for tag in one["tags"]}
                assert {one["tag"] for one in (await call(choice, {}))["tags"]} == tags
            elif choice == "memory_stats":
                assert (await call(choice, {}))["memories"] == len(known)
            elif choice == "recent_memories":
                recent = await call(choice, {"limit": 5, "max_chars": 20_000})
                assert [one["id"] for one in recent["memories"]] == sorted(known)[::-1][:5]
            elif some is None:
                continue
            elif choice == "get_memory":
                whole = await call(choice, {"memory_id": some})
                assert {name: whole[name] for name in known[some]} == known[some]
            elif choice == "update_memory":
                await call(choice, {"memory_id": some, "content": content})
                known[some]["content"] = content
            elif choice == "forget_memory":
                assert (await call(choice, {"memory_id": some}))["forgotten"]
                del known[some]
            elif choice == "relate_memories" and len(known) > 1:
                first, second = draw.sample(sorted(known), 2)
                await call(choice, {"source_memory_id": first, "target_memory_id": second})
    stored = {memory.id: memory.content async for memory in iterate_memories(db, "alice")}
    assert stored == {number: one["content"] for number, one in known.items()}


async def test_reading_alone_offers_nothing_that_writes(db: Database):
    async with Client(memory_server(db, "alice", read_only=True)) as client:
        assert {tool.name for tool in (await client.list_tools()).tools} == READING
        assert await told(client, "remember", {"content": "x"}) == "There is no such tool."


# -- As a process --------------------------------------------------------------------------------


def command(*arguments: str) -> list[str]:
    return ["-m", "ltm_store.cli", "mcp", "--user", "alice", *arguments]


async def test_a_process_serves_over_standard_input(dsn: str, tmp_path: Path):
    log = tmp_path / "stderr"
    parameters = StdioServerParameters(
        command=sys.executable, args=command(), env={"LTM_DATABASE_URL": dsn}
    )
    with log.open("w") as errlog:
        async with Client(stdio_client(parameters, errlog=errlog)) as client:
            await client.call_tool("remember", {"content": f"Alice knows {SECRET}"})
            found = await client.call_tool("recall", {"query": SECRET})
            assert SECRET in found.structured_content["memories"][0]["content"]
            assert await told(client, "remember", {"content": f"{SECRET}\0"})
    assert "recall answered in" in log.read_text()
    assert SECRET not in log.read_text()
    async with connect(dsn, access_tracking="off") as db:
        (memory,) = await search_memories(db, "alice")
        assert memory.access_count == 1


@asynccontextmanager
async def served(dsn: str, token_file: Path) -> AsyncIterator[str]:
    """The address of a process that serves over HTTP."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    arguments = command("--http", f"127.0.0.1:{port}", "--token-file", str(token_file))
    process = await asyncio.create_subprocess_exec(
        sys.executable, *arguments, env={**os.environ, "LTM_DATABASE_URL": dsn}
    )
    try:
        async with asyncio.timeout(60):
            while True:
                try:
                    _, writer = await asyncio.open_connection("127.0.0.1", port)
                except OSError:
                    assert process.returncode is None
                    await asyncio.sleep(0.05)
                else:
                    writer.close()
                    break
        yield f"http://127.0.0.1:{port}/mcp"
    finally:
        process.terminate()
        await process.wait()


@pytest.mark.slow
async def test_a_process_serves_over_http_to_those_who_know_the_token(dsn: str, tmp_path: Path):
    token = "0123456789abcdef-token"
    file = tmp_path / "token"
    file.write_text(f"{token}\n")
    known = {"authorization": f"Bearer {token}"}
    body = {"jsonrpc": "2.0", "id": 1, "method": "ping"}
    async with served(dsn, file) as url, httpx2.AsyncClient() as http:
        for headers, status in (
            ({}, 401),
            ({"authorization": "Bearer wrong"}, 401),
            ({"authorization": f"Basic {token}"}, 401),
            ({**known, "origin": "https://evil.example"}, 403),
            ({**known, "origin": "null"}, 403),
            ({**known, "host": "evil.example"}, 421),
        ):
            assert (await http.post(url, json=body, headers=headers)).status_code == status, headers
        async with httpx2.AsyncClient(headers=known) as knowing:
            transport = streamable_http_client(url, http_client=knowing)
            async with Client(transport) as client:
                await client.call_tool("remember", {"content": "Alice drinks tea"})
                found = await client.call_tool("recall", {"query": "tea"})
                assert len(found.structured_content["memories"]) == 1


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--http", "127.0.0.1:8000"], 2, "needs --token-file"),
        (["--http", "8000", "--token-file", "short"], 2, "should be HOST:PORT"),
        (["--token-file", "short"], 2, "belongs to --http"),
        (["--http", "127.0.0.1:1", "--token-file", "short"], 1, "16 ASCII characters or more"),
        (["--http", "127.0.0.1:1", "--token-file", "none"], 1, "none: No such file"),
    ],
)
def test_an_open_door_is_refused(arguments, code, said, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("short").write_text("short")
    result = CliRunner().invoke(app, ["mcp", "--user", "alice", *arguments])
    assert result.exit_code == code
    assert said in result.output


def test_the_settings_of_a_desktop_client_are_printed():
    options = ["--namespace", "home", "--read-only"]
    arguments = ["mcp", "--user", "alice", *options, "--print-config", "--dsn", "postgresql:///x"]
    result = CliRunner().invoke(app, arguments)
    server = json.loads(result.output)["mcpServers"]["memory"]
    assert server["command"] == sys.executable
    assert server["args"] == command(*options)
    assert server["env"] == {"LTM_DATABASE_URL": "postgresql:///x"}


async def test_relationships_of_others_are_not_told(db: Database):
    first, second = await add_memory(db, "bob", "One"), await add_memory(db, "bob", "Two")
    await relate(db, "bob", first.id, second.id)
    with pytest.raises(ToolFailure):
        await tools_of(db, "alice")["get_memory"](memory_id=first.id)
