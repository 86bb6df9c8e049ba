"""The verbs that change what is stored, and those of operators: what they do, ask and tell."""

import json
import os
import pty
import subprocess
from datetime import UTC, datetime

import pytest

from ltm_store import (
    access_history,
    add_memory,
    connect,
    export_user,
    format_for_prompt,
    get_memory,
    memory_graph,
    record_access,
    relate,
    render_report,
    search_memories,
    to_svg,
)
from ltm_store.db.resources import migration_ids
from ltm_store.render.text import STEERING
from tests.test_cli import PROGRAM, Cli, cli, environment

__all__ = ["cli"]


def on_a_terminal(*command: str, answer: str) -> tuple[int, str]:
    """The exit code of a command to which somebody at a terminal answers, and what they saw."""
    primary, secondary = pty.openpty()
    process = subprocess.Popen(
        command, stdin=secondary, stdout=secondary, stderr=secondary, env=environment()
    )
    os.close(secondary)
    os.write(primary, answer.encode())
    shown = b""
    while True:
        try:
            shown += os.read(primary, 10_000)
        except OSError:  # the other end is closed
            break
    os.close(primary)
    return process.wait(timeout=100), shown.decode()


async def test_add_takes_what_add_memory_takes(db, cli):
    await add_memory(db, "alice", "first")
    arguments = (
        *("add", "Prefers tea", "--user", "alice", "--tag", "drinks", "--tag", "Tea"),
        *("--importance", "8", "--confidence", "0.5", "--type", "preference"),
        *("--category", "food", "--source-type", "manual", "--source", "s", "--created-by", "me"),
        *("--context", '{"spatial": {"city": "Graz"}}', "--metadata", '{"n": 1}'),
        *(
            "--created-at",
            "2026-01-02",
            "--expires-at",
            "2999-01-01T00:00:00+01:00",
            "--idempotency-key",
            "k",
        ),
        *("--namespace", "agents.cook", "--key", "soup"),
    )
    output = cli(*arguments)
    (found,) = [m for m in await search_memories(db, "alice") if m.content == "Prefers tea"]
    assert output == f"memory {found.id} created\n"
    assert cli.stderr == ""
    memory = await get_memory(db, "alice", found.id)
    assert memory is not None
    assert memory.model_dump(include=set(EXPECTED)) == EXPECTED
    assert memory.enhanced_context is not None
    assert memory.enhanced_context.spatial is not None
    assert memory.enhanced_context.spatial.city == "Graz"
    assert cli(*arguments) == f"memory {found.id} existing\n"
    (again,) = cli.json(*arguments)
    assert (again["id"], again["outcome"]) == (found.id, "existing")


async def test_all_that_pass_are_counted_tagged_archived_and_deleted_after_a_question(db, cli):
    for n in range(3):
        await add_memory(db, "alice", f"tea {n}", memory_type="habit", tags=["old"])
    await add_memory(db, "alice", "coffee", memory_type="goal", metadata={"score": 3})
    some = ("--user", "alice", "--type", "habit", "--type", "x")
    assert cli("count", *some) == "3\n"
    assert cli("count", "coffee", "--user", "alice", "--metadata", '{"score": {"$gt": 2}}') == "1\n"
    assert cli.json("count", "--user", "alice") == [{"memories": 4}]
    for verb, done, what in (
        (("tag", "new", "More"), "tagged", "tag new, More: 3 memories of alice"),
        (("archive", "--reason", "over"), "archived", "archive 3 memories of alice"),
        (("delete", "--archived"), "deleted", "delete 3 memories of alice"),
    ):
        assert cli(*verb, *some, "--dry-run") == f"3 memories would be {done}\n"
        cli(*verb, *some, code=1)
        assert cli.stderr == f"failed: {what}: say --yes where nobody can be asked\n"
        code, shown = on_a_terminal(*PROGRAM, *verb, *some, "--dsn", cli.dsn, answer="n\n")
        assert (code, f"{what}? [y/N]" in shown) == (1, True)
        assert cli.json(*verb, *some, "--yes") == [{done: 3}]
    assert [hit.content for hit in await search_memories(db, "alice")] == ["coffee"]
    assert cli("delete", *some, "--yes") == "0 memories deleted\n"


async def test_a_change_of_all_memories_needs_a_filter(db, cli):
    await add_memory(db, "alice", "x")
    cli("delete", "--user", "alice", "--yes", code=2)
    cli("archive", "5", "--user", "alice", "--type", "x", code=2)
    cli("delete", "--user", "alice", "--archived", "--yes", code=1)
    assert cli.stderr == "failed: filters: give at least one that narrows\n"
    cli("tag", "new", "--user", "alice", "--yes", code=1)
    assert cli.stderr == "failed: filters: give at least one that narrows\n"
    cli("delete", "--user", "bob", "--type", "x", "--yes", code=1)
    assert cli.stderr == "failed: no memories of 'bob'; users: alice\n"


EXPECTED = {
    "tags": ("drinks", "Tea"),
    "importance_score": 8,
    "confidence_score": 0.5,
    "memory_type": "preference",
    "category": "food",
    "source_type": "manual",
    "source_id": "s",
    "created_by": "me",
    "metadata": {"n": 1},
    "created_at": datetime(2026, 1, 2, tzinfo=UTC),
    "expires_at": datetime(2998, 12, 31, 23, tzinfo=UTC),
    "idempotency_key": "k",
    "namespace": "agents.cook",
    "key": "soup",
}


async def test_add_reads_standard_input_and_tells_of_the_same(db, cli):
    cli("add", "-", "--user", "alice", given="def f():\n    pass\n")
    (memory,) = await search_memories(db, "alice")
    assert memory.content == "def f():\n    pass"
    output = cli("add", memory.content, "--user", "alice")
    assert output.endswith(f" created; memory {memory.id} says the same\n")
    cli("add", "", "--user", "alice", code=1)
    assert cli.stderr == "failed: content: should not be empty\n"
    cli("add", "x", "--user", "alice", "--metadata", '{"a": NaN}', code=1)
    assert cli.stderr.startswith("failed: metadata: ")


async def test_archive_restore_and_delete(db, cli):
    memory = await add_memory(db, "alice", "x")
    one = (str(memory.id), "--user", "alice")
    assert cli("archive", *one, "--reason", "old") == f"memory {memory.id} archived\n"
    archived = await get_memory(db, "alice", memory.id)
    assert archived is not None
    assert (archived.is_archived, archived.archive_reason) == (True, "old")
    assert cli("restore", *one) == f"memory {memory.id} restored\n"
    assert [m.id for m in await search_memories(db, "alice")] == [memory.id]
    assert cli.json("archive", *one)[0]["is_archived"] is True
    assert cli.json("restore", *one)[0]["is_archived"] is False
    for verb in ("archive", "restore", "delete"):
        cli(verb, str(memory.id), "--user", "bob", code=1)
        assert cli.stderr == "failed: no memories of 'bob'; users: alice\n"
    assert cli("delete", *one) == f"memory {memory.id} deleted\n"
    assert await get_memory(db, "alice", memory.id) is None
    await add_memory(db, "alice", "y")
    cli("delete", *one, code=1)
    assert cli.stderr == f"failed: user alice has no memory {memory.id}\n"


async def test_forget_asks_and_deletes(db, dsn, cli):
    for user in ("alice", "alice", "bob"):
        await add_memory(db, user, "x")
    command = (*PROGRAM, "forget", "--user", "alice", "--dsn", dsn)
    cli("forget", "--user", "alice", code=1)
    assert cli.stderr.startswith("failed: forget 2 memories of alice: say --yes")
    code, shown = on_a_terminal(*command, answer="n\n")
    assert code == 1
    assert "forget 2 memories of alice? [y/N]: " in shown
    assert len(await search_memories(db, "alice")) == 2
    code, shown = on_a_terminal(*command, answer="y\n")
    assert (code, "2 memories deleted" in shown) == (0, True)
    assert [line async for line in export_user(db, "alice")] == []
    cli("forget", "--user", "alice", "--yes", code=1)
    assert cli.stderr == "failed: no memories of 'alice'; users: bob\n"
    (report,) = cli.json("forget", "--user", "bob", "--yes")
    assert isinstance(report["counts"], dict)
    assert report["counts"]["ltm_memories"] == 1


async def test_forget_reaches_what_has_expired(db, cli):
    await add_memory(db, "alice", "x", expires_at=datetime(2020, 1, 1))
    output = cli("forget", "--user", "alice", "--yes")
    assert output == "1 memories deleted, the user is forgotten\n"
    assert cli.stderr == "no memories of 'alice', nor of anybody\n"


async def test_users_and_tags_are_listed(db, cli):
    assert cli("users") == "nobody yet\n"
    await add_memory(db, "al\x1bice", "x", tags=["tea", "work"])
    await add_memory(db, "al\x1bice", "y", tags=["tea"])
    await add_memory(db, 7, "z")
    shown = [line.split() for line in cli("users").splitlines() if line.strip()]
    assert shown[0] == ["user", "memories"]
    assert shown[2:] == [["7", "1"], ["al\\x1bice", "2"]]
    assert cli.stderr == ""
    (row,) = cli.json("users", "--limit", "1")
    assert row == {"user_id": 7, "external_id": None, "memories": 1}
    assert cli.stderr == "there may be more: --after 7\n"
    assert [row["external_id"] for row in cli.json("users", "--after", "7")] == ["al\x1bice"]
    assert cli("users", "--after", "al\x1bice") == "no more\n"
    found = cli.json("tags", "--user", "al\x1bice")
    assert [(row["tag_name"], row["memory_count"]) for row in found] == [("tea", 2), ("work", 1)]
    assert "tea" in cli("tags", "--user", "al\x1bice", "--limit", "1")
    assert cli("tags", "--user", "7") == "nothing found\n"
    assert cli("tags", "--user", "al\x1bice", "--category", "none") == "nothing found\n"


async def test_purge_and_prune(db, cli):
    kept = await add_memory(db, 1, "x")
    for _ in range(2):
        await add_memory(db, 1, "y", expires_at=datetime(2020, 1, 1))
    assert cli("purge") == "2 expired memories deleted\n"
    assert cli.json("purge") == [{"purged": 0}]
    await record_access(db, 1, [kept.id])
    assert cli.json("prune", "--older-than", "2020-01-01") == [{"pruned": 0}]
    assert cli("prune", "--older-than", "2999-01-01") == "1 recorded accesses deleted\n"
    assert await access_history(db, 1, kept.id) == []
    cli("prune", code=2)


async def test_recall_prints_what_goes_into_a_prompt(db, cli):
    for words in ("Likes tea\nwith milk", "Likes tea\nwith milk", "Green tea at four"):
        await add_memory(db, "alice", words)
    hits = await search_memories(db, "alice", "tea")
    text = format_for_prompt(hits, max_chars=2000)
    assert text.count("- (") == 2
    assert cli("recall", "tea", "--user", "alice") == text + "\n"
    assert cli.json("recall", "tea", "--user", "alice") == [{"text": text}]
    short = cli("recall", "tea", "--user", "alice", "--max-chars", "50")
    assert short == format_for_prompt(hits, max_chars=50) + "\n"
    assert cli("recall", "coffee", "--user", "alice") == ""
    assert cli.stderr == ""


@pytest.mark.parametrize(
    "arguments",
    [("search", "x"), ("recall", "x"), ("tags",), ("export",), ("report",), ("add", "x")],
    ids=lambda arguments: arguments[0],
)
async def test_a_misspelt_user_is_told(db, cli, arguments):
    await add_memory(db, "alice", "x")
    cli(*arguments, "--user", "alice")
    assert cli.stderr == ""
    cli(*arguments, "--user", "alcie")
    before = "the first one of this user: there were " if arguments[0] == "add" else ""
    assert cli.stderr == f"{before}no memories of 'alcie'; users: alice\n"


async def test_of_many_users_those_with_a_like_name_are_named(db, cli):
    for n in range(11):
        await add_memory(db, f"user-{n:x}" if n else "alice", "x")
    cli("search", "--user", "alcie")
    assert cli.stderr == "no memories of 'alcie'; near it: alice\n"
    cli("search", "--user", "\x1b[31m")
    assert cli.stderr == "no memories of '\\x1b[31m'; see: ltm-store users\n"


async def test_a_rollback_tells_what_it_drops_and_asks_on_a_terminal(own_dsn):
    cli = Cli(own_dsn)
    async with connect(own_dsn) as db:
        await add_memory(db, 1, "x")
    names = migration_ids()
    last = (names[-1], names[-2])
    assert cli.json("rollback") == [{"rolled_back": [last[0]]}], "no memory is lost"
    assert cli.stderr.count("drop") == 0
    module = (PROGRAM[0], "-m", "ltm_store.migrate", "rollback", "--all", "--dsn", own_dsn)
    code, shown = on_a_terminal(*PROGRAM, "rollback", "--all", "--dsn", own_dsn, answer="n\n")
    assert (code, "drop 1 memory? [y/N]" in shown) == (1, True)
    code, shown = on_a_terminal(*module, answer="n\n")
    assert (code, "this drops 1 memory, go on? [y/N]" in shown) == (1, True)
    assert "applied" in cli("status", code=1)
    assert cli("migrate").endswith("1 applied\n")
    output = cli("rollback", "--all")
    assert cli.stderr == "this would drop 1 memory\n"
    assert output.endswith(f"{len(names)} rolled back\n")
    cli("rollback", "--to", "nothing", code=1)
    cli("rollback", "--to", "x", "--all", code=2)


async def test_a_rollback_of_nothing_is_not_asked_about(empty):
    cli = Cli(empty)
    cli("migrate")
    code, shown = on_a_terminal(*PROGRAM, "rollback", "--all", "--dsn", empty, answer="")
    assert (code, "[y/N]" in shown) == (0, False)
    assert cli("rollback") == "nothing to roll back\n"


HIDDEN = "\x1b[31m\x7f\x9b\u202e\u2066\u200f\u061c\U000e0041"


async def test_a_report_and_a_graph_hold_nothing_that_steers_their_reader(db, cli):
    user = f"eve{HIDDEN}"
    memory = await add_memory(
        db, user, f"a{HIDDEN}", tags=[f"t{HIDDEN}"], memory_type=f"m{HIDDEN}", category=HIDDEN
    )
    other = await add_memory(db, user, f"b{HIDDEN}")
    await relate(db, user, memory.id, other.id, f"r{HIDDEN}", description=HIDDEN)
    await record_access(db, user, [memory.id])
    graph = await memory_graph(db, user, memory.id)
    assert graph is not None
    for text in (await render_report(db, user), to_svg(graph), cli("report", user)):
        assert not STEERING.search(text)
        assert "\\x9b" in text
        assert "\\u202e" in text
    (found,) = cli("graph", str(memory.id), "--user", user, "--json").splitlines()
    assert not STEERING.search(found)
    assert json.loads(found)["nodes"][0]["content"] == f"a{HIDDEN}"
    for verb in ("show", "search", "tags", "recall"):
        words = (str(memory.id),) if verb == "show" else ()
        assert "\\x9b" in cli(verb, *words, "--user", user)  # Cli looks for what steers
    cli("report", user, "--output", f"/nonexistent/{HIDDEN}", code=1)
    assert "/nonexistent/\\x1b[31m" in cli.stderr


async def test_users_are_renamed_and_merged(db, cli):
    for user in ("alice", "alice-phone", "alice-phone"):
        await add_memory(db, user, "x")
    assert cli("rename-user", "alice", "a\x1bnna") == "alice is a\\x1bnna now\n"
    cli("rename-user", "alice", "anna", code=1)
    assert cli.stderr == "failed: no user alice\n"
    cli("rename-user", "alice-phone", "a\x1bnna", code=1)
    assert cli.stderr == "failed: new: is another user's name; see merge_users\n"
    both = ("merge-users", "alice-phone", "a\x1bnna")
    cli(*both, code=1)
    assert cli.stderr.startswith(
        "failed: merge 2 memories of alice-phone into a\\x1bnna: say --yes"
    )
    assert cli(*both, "--yes") == "2 memories moved, 0 with a new id, 0 keys cleared\n"
    assert len(await search_memories(db, "a\x1bnna")) == 3
