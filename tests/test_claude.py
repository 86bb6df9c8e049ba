"""Anthropic's memory tool: files that are memories, by the SDK's own classes."""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
from anthropic.lib.tools import (
    BetaAbstractMemoryTool,
    BetaAsyncAbstractMemoryTool,
    ToolError,
)
from anthropic.tools.memory import BetaLocalFilesystemMemoryTool

from ltm_store import (
    Database,
    add_memory,
    connect,
    get_by_key,
    iterate_memories,
    search_memories,
    sync,
    update_memory,
)
from ltm_store.integrations.claude import NAMESPACE, MemoryTool, SyncMemoryTool

Say = Callable[..., Awaitable[str]]


def saying(tool: MemoryTool) -> Say:
    async def say(command: str, path: object = None, **more: object) -> str:
        given = {"command": command, **({} if path is None else {"path": path}), **more}
        return str(await tool.call(given))

    return say


@pytest.fixture(params=["asynchronous", "blocking"])
async def say(request, db: Database, dsn: str) -> AsyncIterator[Say]:
    """What the SDK does with a command of the model, and what the model gets."""
    if request.param == "asynchronous":
        yield saying(MemoryTool(db, "alice"))
        return
    with sync.connect(dsn) as blocking:
        tool = SyncMemoryTool(blocking, "alice")

        async def say(command: str, path: object = None, **more: object) -> str:
            given = {"command": command, **({} if path is None else {"path": path}), **more}
            return str(await asyncio.to_thread(tool.call, given))

        yield say


async def refused(said: Awaitable[str]) -> str:
    with pytest.raises(ToolError) as error:
        await said
    return str(error.value)


def test_the_tools_are_those_of_the_sdk(db: Database):
    assert issubclass(MemoryTool, BetaAsyncAbstractMemoryTool)
    assert issubclass(SyncMemoryTool, BetaAbstractMemoryTool)
    assert MemoryTool(db, 1).to_dict() == {"type": "memory_20250818", "name": "memory"}


async def test_a_file_is_made_viewed_changed_and_deleted(say: Say):
    notes = "/memories/notes.md"
    assert await say("create", notes, file_text="One\nTwo\nThree\n") == (
        "File created successfully at: /memories/notes.md"
    )
    assert await say("view", notes) == (
        "Here's the content of /memories/notes.md with line numbers:\n"
        "     1\tOne\n     2\tTwo\n     3\tThree\n     4\t"
    )
    assert (await say("view", notes, view_range=[2, 3])).endswith("\n     2\tTwo\n     3\tThree")
    assert (await say("view", notes, view_range=[3, -1])).endswith("     3\tThree\n     4\t")
    edited = await say("str_replace", notes, old_str="Two", new_str="2\n2a")
    assert edited.startswith("The memory file has been edited.")
    assert "     2\t2\n     3\t2a\n" in edited
    assert await say("insert", notes, insert_line=0, insert_text="Zero\n") == (
        "The file /memories/notes.md has been edited."
    )
    await say("insert", notes, insert_line=5, insert_text="End")
    assert (await say("view", notes)).splitlines()[1:] == [
        f"     {n}\t{line}"
        for n, line in enumerate(("Zero", "One", "2", "2a", "Three", "End", ""), 1)
    ]
    assert await say("delete", notes) == "Successfully deleted /memories/notes.md"
    assert "does not exist" in await refused(say("view", notes))


async def test_a_folder_is_listed_two_levels_deep(say: Say):
    for path, size in (("a.txt", 10), ("b/c.txt", 1536), ("b/d/e.txt", 1), (".hidden", 5)):
        await say("create", f"/memories/{path}", file_text="x" * size)
    await say("create", "/memories/node_modules/m", file_text="x")
    listed = await say("view", "/memories")
    assert listed.splitlines() == [
        "Here're the files and directories up to 2 levels deep in /memories, excluding hidden "
        "items and node_modules:",
        "1.5K\t/memories",
        "10B\t/memories/a.txt",
        "1.5K\t/memories/b/",
        "1.5K\t/memories/b/c.txt",
        "1B\t/memories/b/d/",
    ]
    assert "1B\t/memories/b/d/e.txt" in await say("view", "/memories/b/")
    assert await say("delete", "/memories/b") == "Successfully deleted /memories/b"
    assert "b/" not in await say("view", "/memories")
    assert (await say("view", "/memories/.hidden")).endswith("\txxxxx")


async def test_no_memory_is_an_empty_folder(say: Say):
    assert (await say("view", "/memories")).endswith("\n0B\t/memories")


async def test_a_file_and_a_folder_are_renamed(say: Say):
    await say("create", "/memories/draft.txt", file_text="x")
    await say("create", "/memories/old/one.txt", file_text="1")
    await say("create", "/memories/old/sub/two.txt", file_text="2")

    async def rename(old: str, new: str) -> str:
        return await say("rename", old_path=f"/memories/{old}", new_path=f"/memories/{new}")

    assert await rename("draft.txt", "final/text.txt") == (
        "Successfully renamed /memories/draft.txt to /memories/final/text.txt"
    )
    assert "already exists" in await refused(rename("old/one.txt", "final/text.txt"))
    assert "already exists" in await refused(rename("old", "final"))
    assert "does not exist" in await refused(rename("draft.txt", "x"))
    assert "inside of" in await refused(rename("old", "old/deeper"))
    assert "is a file, and no folder" in await refused(rename("old", "final/text.txt/x"))
    assert "already exists" in await refused(rename("old", "old"))
    await rename("old", "new")
    assert "/memories/new/sub/" in await say("view", "/memories")
    assert (await say("view", "/memories/new/sub/two.txt")).endswith("\t2")


async def test_a_replacement_must_be_unique(say: Say):
    await say("create", "/memories/f", file_text="tea\ncoffee\ntea and tea\n")
    said = await refused(say("str_replace", "/memories/f", old_str="tea", new_str="x"))
    assert "Multiple occurrences of old_str `tea` in lines: 1, 3, 3." in said
    assert "3 times" in said
    said = await refused(say("str_replace", "/memories/f", old_str="milk", new_str="x"))
    assert "old_str `milk` did not appear verbatim in /memories/f" in said
    assert "empty" in await refused(say("str_replace", "/memories/f", old_str="", new_str="x"))
    assert "does not exist" in await refused(
        say("str_replace", "/memories/g", old_str="a", new_str="b")
    )


async def test_an_empty_file_is_a_file(say: Say):
    await say("create", "/memories/empty", file_text="")
    assert (await say("view", "/memories/empty")).endswith("numbers:\n     1\t")
    assert "0B\t/memories/empty" in await say("view", "/memories")
    await say("insert", "/memories/empty", insert_line=0, insert_text="text")
    await say("str_replace", "/memories/empty", old_str="text\n", new_str="")
    assert (await say("view", "/memories/empty")).endswith("numbers:\n     1\t")
    assert "[0, 0]" in await refused(
        say("insert", "/memories/empty", insert_line=1, insert_text="x")
    )


async def test_a_file_is_never_also_a_folder(say: Say):
    await say("create", "/memories/a", file_text="x")
    await say("create", "/memories/b/c", file_text="x")
    assert "already exists" in await refused(say("create", "/memories/a", file_text="y"))
    assert "already exists" in await refused(say("create", "/memories/b", file_text="y"))
    assert "already exists" in await refused(say("create", "/memories", file_text="y"))
    said = await refused(say("create", "/memories/a/b", file_text="y"))
    assert "/memories/a is a file, and no folder" in said
    assert (await say("view", "/memories/a")).endswith("\tx")


OUTSIDE = (
    "/etc/passwd",
    "memories/x",
    "/memoriesx",
    "/memories/../x",
    "/memories/a/../../x",
    "/memories/./x",
    "/memories//x",
    "/memories/%2e%2e/x",
    "/memories/%252e%252e/x",
    "/memories/a%2fb",
    "/memories/..\\x",
    "/memories/x\0",
    "C:\\memories\\x",
    "",
    5,
)


@pytest.mark.parametrize("path", OUTSIDE, ids=repr)
async def test_paths_that_lead_out_are_refused(db: Database, path: object):
    say = saying(MemoryTool(db, "alice"))
    await add_memory(db, "alice", "x", key="x")
    for said in (
        say("view", path),
        say("create", path, file_text="y"),
        say("str_replace", path, old_str="x", new_str="y"),
        say("insert", path, insert_line=0, insert_text="y"),
        say("delete", path),
        say("rename", old_path=path, new_path="/memories/y"),
        say("rename", old_path="/memories/y", new_path=path),
    ):
        assert "should" in await refused(said)
    assert [memory.content async for memory in iterate_memories(db, "alice")] == ["x"]


@pytest.mark.parametrize(
    "name", ["...", "a b.txt", "ü.md", "100%.txt", "x.tar.gz", "~", "-rf", "a" * 255]
)
async def test_names_are_taken_exactly(db: Database, name: str):
    say = saying(MemoryTool(db, "alice"))
    await say("create", f"/memories/{name}", file_text="x")
    memory = await get_by_key(db, "alice", name, namespace=NAMESPACE)
    assert memory is not None
    assert (memory.key, memory.content) == (name, "x")


async def test_what_is_too_much_or_wrong_is_told(db: Database):
    say = saying(MemoryTool(db, "alice"))
    too_long = await refused(say("create", "/memories/" + "a" * 256, file_text="x"))
    assert "should have at most 255 characters" in too_long
    too_large = await refused(say("create", "/memories/a", file_text="x" * 2**20 + "x"))
    assert "1048576 bytes" in too_large
    await say("create", "/memories/a", file_text="1\n2")
    for view_range in ([0, 1], [3, 3], [2, 1], [1], "1-2"):
        said = await refused(say("view", "/memories/a", view_range=view_range))
        assert "Invalid `view_range`" in said
    said = await refused(say("insert", "/memories/a", insert_line="one", insert_text="x"))
    assert "[0, 2]" in said
    assert "itself" in await refused(say("delete", "/memories"))
    assert "itself" in await refused(say("rename", old_path="/memories/", new_path="/memories/x"))


async def test_files_are_memories(db: Database):
    say = saying(MemoryTool(db, "alice"))
    await say("create", "/memories/people/bob.md", file_text="Bob plays the violin")
    (hit,) = await search_memories(db, "alice", "violin")
    assert (hit.namespace, hit.key) == ("memories", "people/bob.md")
    await update_memory(db, "alice", hit.id, tags=["music"], importance_score=9)
    await say("str_replace", "/memories/people/bob.md", old_str="violin", new_str="cello")
    (same,) = await search_memories(db, "alice", "cello", tags=["music"])
    assert (same.id, same.importance_score) == (hit.id, 9)


async def test_users_have_files_of_their_own(db: Database):
    alice, bob = saying(MemoryTool(db, "alice")), saying(MemoryTool(db, "bob"))
    await alice("create", "/memories/a", file_text="Alice's")
    assert "does not exist" in await refused(bob("view", "/memories/a"))
    assert "does not exist" in await refused(bob("delete", "/memories/a"))
    await bob("create", "/memories/a", file_text="Bob's")
    await MemoryTool(db, "bob").clear_all_memory()
    assert (await alice("view", "/memories/a")).endswith("Alice's")


async def test_edits_at_the_same_instant_are_all_made(db: Database):
    say = saying(MemoryTool(db, "alice"))
    await say("create", "/memories/list", file_text="")
    await asyncio.gather(
        *(say("insert", "/memories/list", insert_line=0, insert_text=f"{n}") for n in range(8))
    )
    shown = (await say("view", "/memories/list")).splitlines()[1:]
    assert sorted(line.partition("\t")[2] for line in shown) == ["", *"01234567"]


async def test_a_store_that_is_gone_is_told(dsn: str):
    db = await connect(dsn)
    await db.close()
    say = saying(MemoryTool(db, 1))
    assert "not available" in await refused(say("view", "/memories"))


async def test_drawn_commands_do_what_the_sdk_does_with_files(db: Database, tmp_path: Path):
    """120 commands on four files, here and with the SDK's tool for the file system."""
    ours, theirs = MemoryTool(db, "alice"), BetaLocalFilesystemMemoryTool(str(tmp_path))
    draw = random.Random(20250818)
    names = ["a.txt", "b/c.txt", "b/d.txt", "e/f/g.txt"]
    texts = ["", "x", "x\ny\n", "one\ntwo\nthree", "ü\r\nz\n", "x x"]

    def drawn() -> dict[str, object]:
        path = {"path": f"/memories/{draw.choice(names)}"}
        match draw.choice(["create", "create", "view", "str_replace", "insert", "delete"]):
            case "create":
                return {"command": "create", **path, "file_text": draw.choice(texts)}
            case "view":
                return {"command": "view", **path}
            case "str_replace":
                old, new = draw.choice(["x", "o", "z", "two\n"]), draw.choice(["w", "x x", "o\nx"])
                return {"command": "str_replace", **path, "old_str": old, "new_str": new}
            case "insert":
                text = draw.choice(["x", "new\n", "a\nb"])
                place = draw.randrange(4)
                return {"command": "insert", **path, "insert_line": place, "insert_text": text}
        return {"command": "delete", **path}

    for _ in range(120):
        command = drawn()
        try:
            expected = theirs.call(command)
        except ToolError:
            with pytest.raises(ToolError):
                await ours.call(command)
        else:
            answer = str(await ours.call(command))
            if command["command"] == "str_replace":  # their snippet ends where the old one did
                answer, expected = answer.partition("\n")[0], str(expected).partition("\n")[0]
            assert answer == expected, command
    stored = {m.key: m.content async for m in iterate_memories(db, "alice")}
    root = tmp_path / "memories"
    files = [path for path in root.rglob("*") if path.is_file()]
    assert stored == {
        path.relative_to(root).as_posix(): path.read_bytes().decode() for path in files
    }
