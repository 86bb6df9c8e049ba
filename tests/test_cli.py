"""The command line: what it prints, as text and as JSON, and how it ends."""

import json
import os
import pty
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ET
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from unittest.mock import patch

import asyncpg
import pytest
from typer.testing import CliRunner

from ltm_store import (
    Memory,
    MemoryHit,
    access_history,
    add_memory,
    archive_memory,
    export_user,
    get_analytics,
    get_memory,
    memory_graph,
    record_access,
    relate,
    search_memories,
    to_dot,
    to_mermaid,
    to_svg,
)
from ltm_store.cli.app import app
from ltm_store.db.resources import migration_ids
from ltm_store.model.relationships import Graph
from ltm_store.render.text import STEERING
from tests.attacks import ATTACKS
from tests.test_graph import check_dot, check_mermaid

GONE = "postgresql://x@127.0.0.1:1/x"
PROGRAM = [sys.executable, "-W", "error", "-m", "ltm_store.cli"]
VERBS = (
    *("add", "adoption-report", "archive", "count", "delete", "demo", "export", "forget", "graph"),
    *(
        "health",
        "import",
        "mcp",
        "merge-users",
        "migrate",
        "prune",
        "psql",
        "purge",
        "recall",
        "rename-user",
        "report",
    ),
    *("restore", "rollback", "search", "show", "status", "tag", "tags", "users"),
)


def environment(**more: str) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.endswith("DATABASE_URL")}
    return {**kept, "LTM_DATA_DIR": "/dev/null/x", **more}


def run(*arguments: str, check: bool = True, **variables: str) -> subprocess.CompletedProcess[str]:
    """`ltm-store` as a process of its own."""
    return subprocess.run(
        [*PROGRAM, *arguments],
        capture_output=True,
        text=True,
        timeout=100,
        check=check,
        env=environment(**variables),
    )


def invoke(*arguments: str, given: str = "") -> Any:
    """`ltm-store` in this process, whose environment stays as it is."""
    # The tests' own event loop runs in this thread.
    with patch.dict(os.environ), ThreadPoolExecutor(1) as thread:
        running = thread.submit(CliRunner().invoke, app, arguments, input=given.encode())
        return running.result(timeout=100)


class Cli:
    """`ltm-store` on one database, named by --dsn, in this process; every run is looked at."""

    def __init__(self, dsn: str) -> None:
        self.dsn = dsn

    def __call__(self, *arguments: str, code: int = 0, given: str = "") -> str:
        done = invoke(*arguments, "--dsn", self.dsn, given=given)
        self.stderr = done.stderr
        assert done.exit_code == code, self.stderr
        assert "Traceback" not in self.stderr
        if code == 1:
            assert self.stderr.splitlines()[-1].startswith("failed: ")
        for text in (done.stdout, self.stderr):
            assert not STEERING.search(text), "nothing for a terminal"
        return str(done.stdout)

    def json(self, *arguments: str, code: int = 0) -> list[dict[str, object]]:
        return [json.loads(line) for line in self(*arguments, "--json", code=code).splitlines()]


@pytest.fixture
def cli(dsn: str) -> Cli:
    return Cli(dsn)


async def a_memory(db, user="alice") -> Memory:
    """A memory with everything that can hang on one."""
    memory = await add_memory(
        db,
        user,
        "Flat white at Mara's on Saturdays [bold]",
        tags=["coffee", "mara"],
        importance_score=8,
        memory_type="routine",
        category="food",
        source_type="conversation",
        source_id="conv_1",
        source_position=3,
        metadata={"kind": "test"},
        enhanced_context={"spatial": {"city": "Graz"}},
    )
    other = await add_memory(db, user, "Mara roasts her own coffee", tags=["mara"])
    await relate(db, user, memory.id, other.id, "causes", strength=0.7, description="why")
    await record_access(db, user, [memory.id], access_context="planning", user_query="where")
    return memory


def test_help_lists_every_verb_and_each_has_an_example():
    listed = run("--help").stdout
    for verb in VERBS:
        assert f"\n  {verb} " in listed
        shown = CliRunner().invoke(app, [verb, "--help"]).stdout
        assert f"Example: ltm-store {verb}" in shown
        assert "--dsn" in shown
        assert "\x1b" not in listed + shown


@pytest.mark.parametrize("missing", ["rich", "typer"])
def test_without_the_extra_the_script_ends_in_a_sentence_that_names_it(missing):
    code = (
        f"import sys; sys.modules['{missing}'] = None\n"
        "from ltm_store.cli.__main__ import main; main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=100)
    assert done.returncode == 1
    assert done.stderr == (
        "failed: the command line needs an extra: pip install 'ltm_store[cli]'\n"
    )


async def test_search_shows_what_search_memories_finds(db, cli):
    await a_memory(db)
    output = cli("search", "coffee", "--user", "alice")
    assert "Mara roasts her own coffee" in output
    assert "Flat white at Mara's on Saturdays [bold]" in output
    hits = await search_memories(db, "alice", "coffee")
    found = [
        MemoryHit.model_validate(row, context=None)
        for row in cli.json("search", "coffee", "--user", "alice")
    ]
    assert [(h.id, h.matched_terms, h.tags) for h in found] == [
        (h.id, h.matched_terms, h.tags) for h in hits
    ]
    assert [h.score for h in found] == pytest.approx([h.score for h in hits])
    assert cli("search", "coffee", "--user", "nobody") == "nothing found\n"
    assert cli.json("search", "coffee", "--user", "nobody") == []


FILTERS = [
    ("", "cba"),
    ("--limit 1", "c"),
    ("--tag x", "ba"),
    ("--tag x --tag y", "b"),
    ("--any-tag y --any-tag z", "cb"),
    ("--without-tag y --without-tag z", "a"),
    ("--type goal", "a"),
    ("--category work", "b"),
    ("--source-type manual", "c"),
    ("--source talk", "a"),
    ("--created-by tester", "b"),
    ("--min-importance 5", "cb"),
    ("--min-confidence 0.8", "cb"),
    ("--created-before 2026-02-01", "a"),
    ("--created-after 2026-02-01T00:00:00+00:00", "cb"),
    ("--accessed-after 2020-01-01", ""),
    ('--context {"spatial":{"is_home":true}}', "a"),
    ('--metadata {"n":2}', "b"),
    ("--archived", "dcba"),
    ("--as-of 2020-01-01", "cba"),
]


async def test_every_filter_narrows_a_search(db, cli):
    moments = ["2026-01-01", "2026-02-01", "2026-03-01"]
    more: list[dict[str, Any]] = [
        {"tags": ["x"], "memory_type": "goal", "source_id": "talk", "confidence_score": 0.5},
        {"tags": ["x", "y"], "category": "work", "importance_score": 6, "metadata": {"n": 2}},
        {"tags": ["z"], "source_type": "manual", "importance_score": 7},
    ]
    more[1]["created_by"] = "tester"
    more[0]["enhanced_context"] = {"spatial": {"is_home": True}}
    for name, moment, details in zip("abc", moments, more, strict=True):
        details = {"importance_score": 3, "created_at": moment, **details}
        await add_memory(db, 7, name, **details)
    gone = await add_memory(db, 7, "d", importance_score=10)
    await archive_memory(db, 7, gone.id)
    for arguments, contents in FILTERS:
        found = cli.json("search", "--user", "7", *arguments.split())
        assert "".join(str(row["content"]) for row in found) == contents, arguments


async def test_show_tells_all_of_a_memory(db, cli):
    memory = await a_memory(db)
    output = cli("show", str(memory.id), "--user", "alice")
    for words in (
        *("Flat white at Mara's on Saturdays [bold]", "routine, food", "8 as written", "once"),
        *("conversation conv_1 (3)", '{"kind": "test"}', "spatial.city", "Graz", "coffee"),
        *("→ causes", "0.70", "Mara roasts her own coffee", "why", "where", "planning", "direct"),
    ):
        assert words in output
    (shown,) = cli.json("show", str(memory.id), "--user", "alice")
    assert {key: shown[key] for key in ("id", "content", "tags", "metadata")} == {
        "id": memory.id,
        "content": memory.content,
        "tags": ["coffee", "mara"],
        "metadata": {"kind": "test"},
    }
    for key, inner, value in (
        ("relationships", "relationship_type", "causes"),
        ("tag_details", "tag_name", "coffee"),
        ("accesses", "user_query", "where"),
    ):
        rows = shown[key]
        assert isinstance(rows, list)
        assert rows[0][inner] == value


async def test_what_is_not_there_fails_with_a_sentence(db, cli):
    memory = await a_memory(db)
    for verb in ("show", "graph"):
        cli(verb, str(memory.id + 1000), "--user", "alice", code=1)
        assert cli.stderr == f"failed: user alice has no memory {memory.id + 1000}\n"
        cli(verb, str(memory.id), "--user", "bob", code=1)
        assert cli.stderr == "failed: no memories of 'bob'; users: alice\n"


@pytest.mark.parametrize(
    ("form", "draw"), [("mermaid", to_mermaid), ("dot", to_dot), ("svg", to_svg)]
)
async def test_a_graph_is_drawn_in_each_format(form, draw, db, cli, tmp_path):
    memory = await a_memory(db)
    graph = await memory_graph(db, "alice", memory.id)
    assert graph is not None
    output = cli("graph", str(memory.id), "--user", "alice", "--format", form)
    assert output == draw(graph)
    file = tmp_path / f"around.{form.replace('mermaid', 'mmd')}"
    cli("graph", str(memory.id), "--user", "alice", "--output", str(file))
    assert file.read_text(encoding="utf-8") == output
    assert os.listdir(tmp_path) == [file.name]


async def test_a_graph_as_json_reads_back(db, cli):
    memory = await a_memory(db)
    (found,) = cli.json("graph", str(memory.id), "--user", "alice", "--depth", "1", "--limit", "5")
    graph = Graph.model_validate(found)
    assert [(n.content[:4], n.depth) for n in graph.nodes] == [("Flat", 0), ("Mara", 1)]
    assert [e.relationship_type for e in graph.edges] == ["causes"]


async def test_what_is_exported_can_be_imported_and_is_the_same(db, cli, tmp_path):
    await a_memory(db)
    for words in ATTACKS:
        await add_memory(db, "alice", words, tags=["\u2028 line"])
    file = tmp_path / "alice.jsonl"
    assert cli("export", "--user", "alice", "--output", str(file)) == ""
    lines = file.read_text(encoding="utf-8")
    assert cli("export", "--user", "alice", "--json") == lines
    assert [json.loads(line) for line in lines.rstrip("\n").split("\n")] == [
        line async for line in export_user(db, "alice")
    ]
    (report,) = cli.json("import", str(file), "--user", "bob")
    assert (report["created"], report["relationships"]) == (2 + len(ATTACKS), 1)
    assert cli("export", "--user", "bob") == lines
    assert cli("import", "-", "--user", "carol", given=lines).startswith(
        f"{2 + len(ATTACKS)} memories created"
    )
    assert cli("export", "--user", "nobody") == ""


async def test_a_report_is_written_whole_or_not_at_all(db, cli, tmp_path):
    await a_memory(db)
    file = tmp_path / "alice.html"
    assert cli("report", "--user", "alice", "--output", str(file)).startswith(f"{file}: ")
    page = file.read_text(encoding="utf-8")
    assert "Memories of alice" in page
    (written,) = cli.json("report", "--user", "alice", "--output", str(file))
    assert written == {"file": str(file), "bytes": len(file.read_bytes())}
    assert "Memories of alice" in cli("report", "--user", "alice", "--output", "-")
    assert "Memories of alice" in cli("report", "alice")
    missing = tmp_path / "missing" / "alice.html"
    cli("report", "--user", "alice", "--output", str(missing), code=1)
    assert cli.stderr == f"failed: {missing}: No such file or directory\n"
    Cli(GONE)("report", "--user", "alice", "--output", str(file), code=1)
    assert file.read_text(encoding="utf-8")
    assert os.listdir(tmp_path) == ["alice.html"]


async def test_health_fails_where_something_is_wrong(db, dsn, cli):
    await a_memory(db)
    assert cli("health") == "all is well\n"
    assert cli.json("health") == []
    connection = await asyncpg.connect(dsn)
    await connection.execute("DELETE FROM ltm_memory_tags")
    await connection.close()
    shown = cli("health", code=1)
    assert "check" in shown
    assert cli.stderr.startswith("failed: ")
    problem = cli.json("health", code=1)[0]
    assert set(problem) == {"check_name", "user_id", "subject", "detail"}
    memory = (await search_memories(db, "alice", "saturdays"))[0]
    assert problem["user_id"] == memory.user_id


async def test_psql_opens_the_same_database(db, dsn):
    await add_memory(db, 1, "seen by psql")
    done = subprocess.run(
        [*PROGRAM, "psql", "--dsn", dsn.replace("postgresql://", "postgresql+asyncpg://")],
        input="SELECT content FROM ltm_memories;",
        capture_output=True,
        text=True,
        timeout=100,
        check=True,
        env=environment(),
    )
    assert "seen by psql" in done.stdout


async def test_the_adoption_report_counts_and_lists(db, dsn, cli):
    assert cli("adoption-report") == "nothing was repaired\n"
    connection = await asyncpg.connect(dsn)
    await connection.execute(
        "INSERT INTO ltm_adoption_report (user_id, table_name, row_id, column_name, rule, original)"
        " SELECT 1 + n % 2, 'ltm_memories', n, 'importance_score', 'clamped', n::text"
        " FROM generate_series(1, 1100) AS n"
    )
    await connection.execute(
        "INSERT INTO ltm_adoption_report (table_name, row_id, rule, original)"
        " VALUES ('ltm_contexts', 7, 'belonged to no memory', E'{\"a\": \"\\x1b[31m\"}')"
    )
    await connection.close()
    assert "ltm_memories importance_score clamped 1100" in " ".join(cli("adoption-report").split())
    assert cli.json("adoption-report") == [
        {
            "table_name": "ltm_contexts",
            "column_name": None,
            "rule": "belonged to no memory",
            "repairs": 1,
        },
        {
            "table_name": "ltm_memories",
            "column_name": "importance_score",
            "rule": "clamped",
            "repairs": 1100,
        },
    ]
    connection = await asyncpg.connect(dsn)
    await connection.execute(
        "INSERT INTO ltm_adoption_report (table_name, rule, original)"
        " VALUES ('ltm_contexts', 'storage not carried over', 'ALTER TABLE ltm_contexts ...')"
    )
    await connection.close()
    assert cli("adoption-report", "--script") == "ALTER TABLE ltm_contexts ...;\n"
    (count,) = cli.json("adoption-report", "--user", "2")
    assert count["repairs"] == 550
    assert cli.json("adoption-report", "--user", "nobody") == []
    rows = cli.json("adoption-report", "--rows")
    assert [row["row_id"] for row in rows] == [*range(1, 1101), 7, None]
    assert {row["user_id"] for row in cli.json("adoption-report", "--rows", "--user", "2")} == {2}
    assert cli("adoption-report", "--rows").splitlines()[0] == (
        "1\t2\tltm_memories\t1\timportance_score\tclamped\t1"
    )


async def test_migrate_and_status(empty):
    cli = Cli(empty)
    assert cli("status", code=1).splitlines() == [f"pending  {name}" for name in migration_ids()]
    cli("search", "x", "--user", "1", code=1)
    assert "pending migrations: " in cli.stderr
    pending = {"applied": [], "pending": migration_ids(), "stale_views": []}
    assert cli.json("status", code=1) == [pending]
    assert cli("migrate").splitlines()[-1] == f"{len(migration_ids())} applied"
    assert cli("migrate") == "nothing to apply, the schema is current\n"
    assert cli.json("migrate") == [{"applied": []}]
    assert cli.json("status") == [{"applied": migration_ids(), "pending": [], "stale_views": []}]


@pytest.mark.parametrize(
    "arguments",
    [
        *(("search", "x", "--user", "a"), ("show", "1", "--user", "a"), ("export", "--user", "a")),
        *(("graph", "1", "--user", "a"), ("report", "--user", "a", "--output", "-")),
        *(("health",), ("adoption-report",), ("migrate",), ("status",), ("demo",)),
    ],
)
def test_a_missing_server_is_told_in_a_sentence(arguments):
    cli = Cli(GONE)
    cli(*arguments, code=1)
    assert len(cli.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("search", "x"), "Missing option '--user'"),
        (("show", "one", "--user", "a"), "MEMORY_ID"),
        (("graph", "1", "--user", "a", "--format", "png"), "--format"),
        (("graph", "1", "--user", "a", "--depth", "0"), "--depth"),
        (("search", "--user", "a", "--limit", "0"), "--limit"),
        (("search", "--user", "a", "--as-of", "soon"), "--as-of"),
        (("search", "--user", "a", "--context", "[1]"), "--context"),
        (("import", "/no/such/file", "--user", "a"), "/no/such/file"),
        (("report",), "say once whose memories"),
        (("report", "a", "--user", "a"), "say once whose memories"),
        (("nothing",), "nothing"),
    ],
)
def test_wrong_usage_is_2_and_the_last_line_says_why(arguments, reason):
    cli = Cli(GONE)
    cli(*arguments, code=2)
    assert reason in cli.stderr.splitlines()[-1]


async def test_a_refused_value_is_named(cli):
    cli("search", "--user", "", code=1)
    assert cli.stderr == "failed: user_id: should have 1 to 255 characters\n"
    cli("search", "--user", "1", "--type", "x" * 51, code=1)
    assert cli.stderr.startswith("failed: memory_type: ")


async def test_nothing_that_is_read_counts_as_an_access(db, cli, tmp_path):
    memory = await a_memory(db)
    before = await get_memory(db, "alice", memory.id)
    for arguments in (
        ("search", "coffee"),
        ("show", str(memory.id)),
        ("graph", str(memory.id)),
        ("export",),
        ("report", "--output", str(tmp_path / "x.html")),
    ):
        cli(*arguments, "--user", "alice")
    assert await get_memory(db, "alice", memory.id) == before
    assert len(await access_history(db, "alice", memory.id)) == 1


async def test_contents_cannot_steer_a_terminal_nor_act_as_markup(db, cli):
    hub = await add_memory(db, "eve", "hub [red]x[/red] [/] \x1b]0;owned\x07")
    for words in ATTACKS:
        other = await add_memory(db, "eve", words, tags=["\x1b[31m red"], context="\x1b[2J")
        await relate(db, "eve", hub.id, other.id, "[/bold]\x1b[1m", description="[/x] \x07")
    output = cli("search", "--user", "eve", "--limit", "50")  # Cli looks for control characters
    assert "[red]x[/red] [/]" in output
    cli("show", str(hub.id), "--user", "eve")
    check_mermaid(cli("graph", str(hub.id), "--user", "eve"))
    check_dot(cli("graph", str(hub.id), "--user", "eve", "--format", "dot"))
    ET.fromstring(cli("graph", str(hub.id), "--user", "eve", "--format", "svg"))


async def test_digits_are_a_number_and_other_words_a_name(db, cli):
    await add_memory(db, 42, "of the number")
    await add_memory(db, "042", "of the name")
    assert [row["content"] for row in cli.json("search", "--user", "42")] == ["of the number"]
    assert [row["content"] for row in cli.json("search", "--user", "042")] == ["of the name"]


async def test_the_database_is_the_option_before_or_after_the_verb_else_the_environment(db, dsn):
    await add_memory(db, 1, "here")

    def search(*before: str, **variables: str) -> str:
        with patch.dict(os.environ, environment(**variables), clear=True):
            return str(invoke(*before, "search", "--user", "1").output)

    asyncpg_dsn = dsn.replace("postgresql://", "postgresql+asyncpg://")
    assert "here" in search("--dsn", asyncpg_dsn, LTM_DATABASE_URL=GONE)
    assert "here" in search(LTM_DATABASE_URL=dsn, DATABASE_URL=GONE)
    assert "here" in search(DATABASE_URL=dsn)
    assert "/dev/null/x cannot be made" in search(), "the server of its own comes last"


async def test_letters_that_the_output_lacks_do_not_stop_it(db, dsn):
    await add_memory(db, 1, "café 🦜")
    asked = ("search", "--user", "1", "--dsn", dsn)
    assert "caf? ?" in run(*asked, PYTHONIOENCODING="ascii").stdout
    line = run(*asked, "--json", PYTHONIOENCODING="ascii").stdout
    assert json.loads(line)["content"] == "café 🦜"


async def test_a_reader_that_stops_early_is_no_error(db, dsn):
    for n in range(300):
        await add_memory(db, 1, f"{n} " + "x" * 1000)
    done = subprocess.run(
        ["bash", "-c", '"$@" | head -n 1', "-", *PROGRAM, "export", "--user", "1", "--dsn", dsn],
        capture_output=True,
        text=True,
        timeout=100,
        check=True,
        env=environment(),
    )
    assert len(done.stdout.splitlines()) == 1
    assert done.stderr == ""


async def test_a_terminal_gets_progress_and_colours(db, dsn, tmp_path):
    """What a pipe does not get: here a pseudo-terminal stands at the end."""
    file = tmp_path / "one.jsonl"
    file.write_text('{"content": "a"}\n')
    primary, secondary = pty.openpty()
    process = subprocess.Popen(
        [*PROGRAM, "import", str(file), "--user", "1", "--dsn", dsn],
        stdout=subprocess.PIPE,
        stderr=secondary,
        env=environment(TERM="xterm-256color"),
    )
    stdout, _ = process.communicate(timeout=100)
    os.close(secondary)
    shown = os.read(primary, 100_000).decode()
    os.close(primary)
    assert process.returncode == 0
    assert "importing" in shown
    assert "\x1b[" in shown
    assert stdout.startswith(b"1 memories created")


def test_the_verbs_work_on_a_server_of_its_own():
    directory = Path(tempfile.mkdtemp(prefix="ltm", dir="/tmp"))
    os.chmod(directory, 0o755)
    folder = str(directory / "pg")
    assert run("migrate", LTM_DATA_DIR=folder).stdout.endswith(" applied\n")
    assert run("search", "--user", "1", LTM_DATA_DIR=folder).stdout == "nothing found\n"
    assert not (directory / "pg" / "postmaster.pid").exists(), "the server stops with the process"


async def test_analytics_of_the_demo_are_in_its_report(db, cli, tmp_path):
    cli("demo")
    file = tmp_path / "demo.html"
    cli("report", "--user", "demo-livia", "--output", str(file))
    figures = await get_analytics(db, "demo-livia")
    assert f'data-value="{figures.total_memories}"' in file.read_text(encoding="utf-8")
