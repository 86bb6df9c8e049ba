"""Files to import: what they may hold, what is told of them, and importing them again."""

import asyncio
import json
from typing import Any

import pytest

from ltm_store import (
    InvalidArgument,
    InvalidMemory,
    add_memory,
    delete_memory,
    export_user,
    get_relationships,
    import_user,
    search_memories,
)
from ltm_store.render.text import STEERING
from tests.test_cli import Cli, cli
from tests.test_memories import rows

__all__ = ["cli"]


async def contents(db, user):
    return sorted(memory.content for memory in await search_memories(db, user, limit=1000))


def import_text(cli, text, *options, user="alice", code=0):
    return cli("import", "-", "--user", user, *options, given=text, code=code)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        ("\n", []),
        ("\ufeff", []),
        ('\n \t\n{"content": "a"}\n\n\r\n{"content": "b"}\r\n\n', ["a", "b"]),
        ('\ufeff{"content": "a\u2028"}', ["a\u2028"]),
    ],
)
async def test_blank_lines_say_nothing(db, cli, text, expected):
    output = import_text(cli, text)
    assert output.startswith(f"{len(expected)} memories created")
    assert await contents(db, "alice") == expected


async def test_lines_are_counted_as_an_editor_does(cli):
    import_text(cli, '\n\n{"content": "a"}\n\n{"content": 5}\n', code=1)
    assert cli.stderr == "failed: line 5, content: Input should be a valid string\n"


BAD = """{"content": "a", "id": 1}

{"content": "", "tags": 5}
[1]
{"content": "b", "id": 1}
{"content": "c", "id": 3, "parent_memory_id": 9}
{"content": "d", "related_memory_ids": [3]}
{"content": "e", "id": 4, "relationships": [{"target_memory_id": 4}]}
nonsense
{"content": "f", "id": 5, "related_memory_ids": [1]}
"""
TOLD = [
    "line 3, content: should not be empty",
    "line 3, tags: should be a list",
    "line 4: should be a JSON object; jq -c '.[]' makes lines of a list",
    "line 5, id: line 1 has it too",
    "line 6, parent_memory_id: no line that can be imported has the id 9",
    "line 7, related_memory_ids: no line that can be imported has the id 3",
    "line 8, relationships: should be another memory",
    "line 9: is not JSON: Expecting value (column 1)",
]


async def test_a_check_tells_all_bad_lines_and_writes_nothing(db, cli):
    output = import_text(cli, BAD, "--check", code=1)
    assert output.splitlines() == TOLD
    assert cli.stderr == "failed: 7 of 9 lines cannot be imported\n"
    problems = import_text(cli, BAD, "--check", "--json", code=1).splitlines()
    assert len(problems) == len(TOLD)
    assert json.loads(problems[0]) == {
        "line": 3,
        "field": "content",
        "rule": "should not be empty",
    }
    assert import_text(cli, '{"content": "a"}\n', "--check") == "1 lines, all can be imported\n"
    async with db.transaction() as conn:
        assert await rows(conn, "ltm_memories") == await rows(conn, "ltm_external_users") == []


async def test_without_a_check_a_bad_line_refuses_the_file(db, cli):
    import_text(cli, BAD, code=1)
    assert cli.stderr == f"failed: {TOLD[0]} (and 6 more lines; --check tells all)\n"
    assert await contents(db, "alice") == []


def test_a_long_chain_of_lines_is_refused_with_its_first():
    cli = Cli("postgresql://nobody@127.0.0.1:1/nowhere")  # a check needs no database
    chain = [{"content": "x", "id": n, "parent_memory_id": n - 1} for n in range(1, 20_000)]
    for lines in (chain, chain[::-1]):
        text = "".join(json.dumps(line) + "\n" for line in lines)
        assert import_text(cli, text, "--check", code=1).count("\n") == 19_999


async def test_bad_lines_can_be_left_out_and_kept_as_they_are(db, cli, tmp_path):
    rejects = tmp_path / "rejects.jsonl"
    file = tmp_path / "in.jsonl"
    file.write_bytes(BAD.encode() + b'{"content": "\xff"}\n')
    options = ("--on-error", "skip", "--rejects", str(rejects))
    output = cli("import", str(file), "--user", "alice", *options)
    assert output == "2 memories created, 0 were there already, 1 relationships, 8 lines left out\n"
    assert cli.stderr.splitlines() == [*TOLD, "line 11: is not UTF-8 text"]
    assert await contents(db, "alice") == ["a", "f"]
    lines = file.read_bytes().splitlines(keepends=True)
    assert rejects.read_bytes() == b"".join(lines[2:9] + lines[10:])
    (report,) = cli.json("import", str(file), "--user", "bob", *options)
    refused = report["refused"]
    assert isinstance(refused, list)
    assert [row["index"] for row in refused] == [2, 3, 4, 5, 6, 7, 8, 10]
    assert await contents(db, "bob") == ["a", "f"]
    for wrong in ((), ("--check",), ("--on-error", "raise")):
        cli("import", str(file), "--user", "x", "--rejects", str(rejects), *wrong, code=2)


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ('"metadata": {"a": [1, {"b": NaN}]}', "metadata.a.1.b: is no number that JSON can hold"),
        ('"metadata": {"a": -Infinity}', "metadata.a: is no number that JSON can hold"),
        ('"metadata": {"a": 1e999}', "metadata.a: is no number that JSON can hold"),
        (f'"metadata": {{"a": {10**4000}{10**1000}}}', "metadata.a: is no number that JSON can"),
        (f'"importance_score": {10**4000}{10**1000}', "importance_score: is no number that JSON"),
        ('"confidence_score": NaN', "confidence_score: is no number that JSON can hold"),
        ('"enhanced_context": {"emotional": {"mood": Infinity}}', "enhanced_context.emotional."),
        ('"metadata": ' + "[" * 100_000, "holds JSON that is nested too deeply"),
        ('"metadata": {"a": "\\u0000"}', "metadata: holds a NUL character"),
        ('"category": "\\ud800"', "category: holds half of a surrogate pair"),
        ('"tags": "tea, work"', 'tags: should be a list of texts, such as ["tea", "work"]'),
        ('"importance": "high"', "importance: is not a field: should it be importance_score, a"),
        ('"importance_score": "high"', "importance_score: should be a whole number from 1 to 10"),
        ('"importance_score": 0.8', "importance_score: should be a whole number from 1 to 10"),
        ('"created_at": 1700000000', "created_at: should be ISO 8601 text, such as 2026-03-02T"),
        ('"created_at": "1700000000.5"', "created_at: should be ISO 8601 text, such as 2026-"),
        ('"expires_at": 1.7e12', "expires_at: should be ISO 8601 text, such as 2026-03-02T09"),
        ('"updated_at": "2026-01-01"', "updated_at: is not a field: should it be last_modified?"),
        ('"id": "6f1c"', "id: should be a whole number, which other lines refer to"),
        ('"user_id": "bob"', "user_id: is not a field: the import says whose memories they becom"),
        ('"hash": "x"', "hash: is not a field: what is your own goes into metadata"),
        ('"\\u001b[31m\\u202e": 1', "\\x1b[31m\\u202e: is not a field: what is your own goes"),
    ],
)
async def test_a_refusal_names_the_line_and_the_field_and_helps(cli, values, told):
    text = f'{{"content": "a"}}\n{{"content": "secret", {values}}}\n'
    import_text(cli, text, code=1)
    place = "line 2" + (": " if told.startswith("holds") else ", ")
    assert cli.stderr.startswith(f"failed: {place}{told}")
    assert "secret" not in cli.stderr


@pytest.mark.parametrize("name", ["memory", "text", "page_content"])
async def test_a_content_of_another_name_is_known(conn, cli, name):
    import_text(cli, json.dumps({name: "likes tea"}), code=1)
    assert cli.stderr == f"failed: line 1, {name}: is not a field: should it be content?\n"
    with pytest.raises(InvalidMemory, match=f"^line 1, {name}: .*should it be content"):
        await import_user(conn, "alice", [{name: "likes tea"}])


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('[{"content": "a"}]', "should be a JSON object; jq -c '.[]' makes lines of a list"),
        ('[\n  {"content": "a"},\n  {"content": "b"}\n]\n', "begins one JSON value that goes on"),
        ('{\n  "content": "a"\n}\n', "begins one JSON value that goes on below"),
        ('{"results": [{"memory": "a"}]}', "should be one memory; jq -c '.results[]' makes lines"),
    ],
)
async def test_a_file_of_another_form_is_known(cli, text, told):
    import_text(cli, text, code=1)
    assert cli.stderr.startswith(f"failed: line 1: {told}")
    assert "more lines" not in cli.stderr


async def test_a_file_imported_twice_is_there_once(db, cli, tmp_path):
    text = (
        '{"content": "a", "id": 1}\n{"content": "a"}\n'
        '{"id": 2, "content": "b", "related_memory_ids": [1], "metadata": {"x": 1, "y": 2}}\n'
    )
    assert import_text(cli, text).startswith("3 memories created, 0 were")
    assert import_text(cli, text).startswith("0 memories created, 3 were")
    reordered = (
        '{"content": "b", "metadata": {"y": 2, "x": 1}, "id": 7, "related_memory_ids": [8]}\n'
        '{"content": "c", "id": 8}\n\n{"tags": [], "content": "a"}\n{"content": "a", "tags": ["t"]}'
    )
    output = import_text(cli, reordered)
    assert output == "2 memories created, 2 were there already, 0 relationships\n"
    assert await contents(db, "alice") == ["a", "a", "a", "b", "c"]
    assert import_text(cli, text, user="bob").startswith("3 memories created")
    assert import_text(cli, text, "--again").startswith("3 memories created, 0 were")
    (b, *_) = await search_memories(db, "bob", "b")
    assert len(await get_relationships(db, "bob", b.id)) == 1


async def test_what_was_imported_and_deleted_can_be_imported_again(db, cli):
    import_text(cli, '{"content": "a"}\n')
    (memory,) = await search_memories(db, "alice")
    await delete_memory(db, "alice", memory.id)
    assert import_text(cli, '{"content": "a"}\n').startswith("1 memories created")


async def test_the_keys_of_an_import_are_no_part_of_an_export(db, cli):
    import_text(cli, '{"content": "a"}\n{"content": "b", "idempotency_key": "mine"}\n')
    lines = [line async for line in export_user(db, "alice")]
    assert lines[0].keys().isdisjoint({"idempotency_key", "adopted"})
    assert lines[1]["idempotency_key"] == "mine"
    again = "".join(json.dumps(line) + "\n" for line in lines)
    assert import_text(cli, again, user="bob").startswith("2 memories created")
    assert import_text(cli, again, "--again", user="bob").startswith("1 memories created, 1 were")


REFUSED = [
    {"content": ""},
    {"content": "x", "memory_type": ""},
    {"content": "x", "tags": [""]},
    {"content": "x", "metadata": [1]},
    {"content": "x", "metadata": {"a": float("nan")}},
    {"content": "x", "created_by": "y" * 51},
]


@pytest.mark.parametrize("line", REFUSED)
async def test_an_import_refuses_what_an_add_refuses(conn, line):
    with pytest.raises(InvalidMemory) as added:
        await add_memory(conn, 1, **line)
    with pytest.raises(InvalidMemory) as imported:
        await import_user(conn, 1, [{"content": "fine"}, line])
    assert imported.value.field == f"line 2, {added.value.field}"
    assert imported.value.rule == added.value.rule


async def test_imports_with_the_same_keys_in_another_order_do_not_meet(db):
    lines = [{"content": f"{n}", "idempotency_key": f"{n}"} for n in range(200)]
    reports = await asyncio.gather(
        *(import_user(db, "alice", lines[::step]) for step in (1, -1, 1, -1))
    )
    assert sorted(report.created for report in reports) == [0, 0, 0, 200]
    assert len(await contents(db, "alice")) == 200


async def test_what_is_no_line_is_refused(conn):
    wrongs: tuple[Any, ...] = ([5], ([],))
    for wrong in wrongs:
        with pytest.raises(InvalidMemory, match="^line 1, memory: should be a dict"):
            await import_user(conn, 1, wrong)
    text: Any = "ab"
    with pytest.raises(InvalidArgument, match="^lines: should be a list"):
        await import_user(conn, 1, text)


async def test_what_an_older_program_left_empty_is_marked_and_comes_back(conn):
    for n in range(3):
        await add_memory(conn, 1, f"{n}", tags=["t"], metadata={"n": n})
    for n, change in enumerate(("content = ''", "tags = '[\" t\"]'", "memory_metadata = '[1]'")):
        await conn.execute(f"UPDATE ltm_memories SET {change} WHERE content = '{n}'")
    await conn.execute(
        "UPDATE ltm_memory_tags AS t SET tag_name = ' t' FROM ltm_memories AS m "
        "WHERE m.user_id = t.user_id AND m.id = t.memory_id AND m.content = '1'"
    )
    await add_memory(conn, 1, "plain")
    lines = [line async for line in export_user(conn, 1)]
    assert [line.get("adopted") for line in lines] == [True, True, True, None]
    await import_user(conn, 2, json.loads(json.dumps(lines)))
    assert [line async for line in export_user(conn, 2)] == lines
    del lines[0]["adopted"]
    with pytest.raises(InvalidMemory, match="^line 1, content: should not be empty"):
        await import_user(conn, 3, lines)
    odd = {"content": "", "adopted": True, "metadata": float("inf")}
    with pytest.raises(InvalidMemory, match="^line 1, metadata: holds a number that JSON cannot"):
        await import_user(conn, 3, [odd])


async def test_json_does_not_steer_a_terminal_and_stays_the_same(db, cli):
    words = "\x7f\x9b31m\u202e\u2066\u061c\u200f\U000e0041 é 漢 🦜 \\x9b"
    await add_memory(db, "alice", words, memory_type="a\x9b", metadata={"k\u202e": "\x85"})
    for verb in (("export",), ("search", "--json")):
        line = cli(*verb, "--user", "alice")
        assert not STEERING.search(line)
        assert "é 漢 🦜" in line
        assert json.loads(line)["content"] == words
