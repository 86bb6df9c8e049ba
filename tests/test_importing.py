"""Importing JSON Lines, the demo and the command line."""

import json
import os
import subprocess
import sys

import pytest

from ltm_store import InvalidMemory, get_analytics, get_memory, search_memories
from ltm_store.importing import ImportReport, import_lines, read_lines
from ltm_store.resources import demo_lines


def lines(*memories: dict[str, object]) -> list[str]:
    return [json.dumps(memory) for memory in memories]


async def test_links_inside_a_file_lead_to_the_stored_memories(db):
    text = lines(
        {"id": 10, "content": "child", "parent_memory_id": 30, "related_memory_ids": [20]},
        {
            "id": 20,
            "content": "middle",
            "relationships": [
                {"target_memory_id": 30, "relationship_type": "causes", "strength": 0.3}
            ],
        },
        {"id": 30, "content": "parent", "idempotency_key": "k"},
        {"content": "alone"},
    )
    report = await import_lines(db, "alice", read_lines(["", *text]))
    assert report == ImportReport(created=4, existing=0, relationships=2)
    memories = {m.content: m for m in await search_memories(db, "alice")}
    child, middle, parent = (memories[name] for name in ("child", "middle", "parent"))
    assert (child.parent_memory_id, child.related_memory_ids) == (parent.id, (middle.id,))
    read = await get_memory(db, "alice", middle.id, include_relationships=True)
    assert read is not None
    assert {(r.relationship_type, r.strength) for r in read.relationships or ()} == {
        ("causes", 0.3),
        ("related", 0.5),
    }
    again = await import_lines(db, "alice", read_lines(text[2:3]))
    assert again == ImportReport(created=0, existing=1, relationships=0)


@pytest.mark.parametrize(
    ("text", "field"),
    [
        (['{"content": "x"}', "not JSON"], "line 2, memory"),
        (["[1]"], "line 1, memory"),
        (["", '{"content": ""}'], "line 2, content"),
        (['{"content": "x", "tagz": []}'], "line 1, tagz"),
        (['{"id": 1, "content": "x", "related_memory_ids": [9]}'], "the line with id 1"),
    ],
)
def test_a_bad_line_is_named_and_nothing_is_read_further(text, field):
    with pytest.raises(InvalidMemory) as caught:
        read_lines(text)
    assert caught.value.field == field


async def test_the_demos_memories_are_a_year_of_one_user(db):
    report = await import_lines(db, "demo", read_lines(demo_lines()))
    assert report.created >= 300
    figures = await get_analytics(db, "demo")
    assert len(figures.growth_by_month) >= 12
    assert len(figures.type_distribution) == 10
    assert len(figures.category_distribution) >= 8


def ltm_store(*arguments: str, dsn: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "ltm_store.cli", *arguments],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
        env={**os.environ, "LTM_DATABASE_URL": dsn, "NO_COLOR": "1"},
    )


async def test_the_demo_replaces_its_own_memories_and_no_others(db, dsn):
    await import_lines(db, 1, read_lines(lines({"content": "mine"})))
    outputs = [ltm_store("demo", dsn=dsn) for _ in range(2)]
    for output in outputs:
        assert output.returncode == 0, output.stderr
        assert "Traceback" not in output.stdout
        for part in ("What was added", "why", "its relationships", "a year later", "make psql"):
            assert part in output.stdout
    assert len(await search_memories(db, 1)) == 1
    figures = await get_analytics(db, "demo-livia")
    assert figures.total_memories == len(demo_lines())


async def test_the_import_command(db, dsn, tmp_path):
    file = tmp_path / "memories.jsonl"
    file.write_text("\n".join(lines({"content": "a"}, {"content": "b"})))
    done = ltm_store("import", str(file), "--user", "alice", dsn=dsn)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("2 memories created")
    assert len(await search_memories(db, "alice")) == 2
    file.write_text('{"content": "a"}\n{"content": 5}')
    refused = ltm_store("import", str(file), "--user", "bob", dsn=dsn)
    assert refused.returncode == 1
    assert refused.stderr.splitlines()[-1].startswith("failed: line 2, content: ")
    assert "Traceback" not in refused.stderr
    assert ltm_store("import", "/no/such/file", "--user", "x", dsn=dsn).returncode == 2


async def test_commands_on_a_missing_server_fail_with_a_sentence(tmp_path):
    done = ltm_store("demo", dsn="postgresql://x@127.0.0.1:1/x")
    assert done.returncode == 1
    assert done.stderr == "failed: no connection to the server (Connection refused)\n"
