"""The README's code runs as it is written, and gives what it shows."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from ltm_store import Database, embedded, import_user
from ltm_store.db.resources import demo_lines, resource_dir

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
MENU = resource_dir("sql") / "menu.psql"
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```", README.read_text(), re.MULTILINE | re.DOTALL)
PYTHON = [text for language, text in BLOCKS if language == "python"]
TOUR = [(text, BLOCKS[i + 1][1]) for i, (language, text) in enumerate(BLOCKS) if language == "sql"]


@pytest.mark.parametrize("code", PYTHON)
async def test_python_runs(code, dsn):
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        capture_output=True,
        text=True,
        env={**os.environ, "LTM_DATABASE_URL": dsn},
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "Prefers morning work sessions" in done.stdout
    assert "morning" in done.stdout


async def test_the_commands_run(db: Database, dsn: str, tmp_path: Path):
    await import_user(db, "demo-livia", map(json.loads, demo_lines()))
    (commands,) = [text for language, text in BLOCKS if language == "shell"]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-e", "-o", "pipefail", "-c", commands],
        capture_output=True,
        text=True,
        env={**os.environ, "LTM_DATABASE_URL": dsn, "PATH": path},
        cwd=tmp_path,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "nothing found" not in done.stdout
    assert f"{len(demo_lines())} memories created" in done.stdout
    assert "all is well" in done.stdout
    assert set(os.listdir(tmp_path)) == {"coffee.svg", "livia.html"}


async def test_the_tour_in_psql_shows_what_psql_shows(db: Database, dsn: str):
    """After a change of the demo: LTM_SNAPSHOT=write make test, and read the difference."""
    await import_user(db, "demo-livia", map(json.loads, demo_lines()))
    text = README.read_text()
    for query, shown in TOUR:
        done = subprocess.run(
            [embedded.psql(), "-X", "-c", query, dsn],
            capture_output=True,
            text=True,
            env={**os.environ, "PAGER": ""},
            timeout=60,
            check=True,
        )
        output = "\n".join(line.rstrip() for line in done.stdout.strip("\n").splitlines()) + "\n"
        if os.environ.get("LTM_SNAPSHOT") == "write":
            text = text.replace(
                f"{query}```\n\n```text\n{shown}", f"{query}```\n\n```text\n{output}"
            )
        else:
            assert output == shown
    if text != README.read_text():
        README.write_text(text)


def with_menu(dsn: str, typed: str) -> str:
    """What psql shows that begins with the menu, and complains of nothing."""
    done = subprocess.run(
        [embedded.psql(), "-v", "ON_ERROR_STOP=1", dsn],
        input=typed,
        capture_output=True,
        text=True,
        env={**os.environ, "PAGER": "", "PSQLRC": str(MENU), "HOME": "/nonexistent"},
        timeout=60,
        check=True,
    )
    assert done.stderr == ""
    return done.stdout


async def test_the_menu_of_psql_offers_every_view_and_each_entry_works(db: Database, dsn: str):
    await import_user(db, "demo-livia", map(json.loads, demo_lines()))
    entries = re.findall(r"^\\set (\w+) '", MENU.read_text(), re.MULTILINE)
    async with db.transaction() as conn:
        found = await conn.fetch("SELECT viewname FROM pg_views WHERE viewname LIKE 'ltm%'")
    views = {row["viewname"] for row in found}
    shown = with_menu(dsn, "".join(f":{entry}\n" for entry in entries))
    assert len(re.findall(r"^\(\d+ rows?\)$", shown, re.MULTILINE)) == len(entries)
    offered = dict(re.findall(r"^  :(\w+) +\S.*  (ltm_\w+)$", shown, re.MULTILINE))
    assert list(offered) == entries
    assert set(offered.values()) == views
    assert "User -1 is looked at" in shown
    assert "Signed the purchase at the notary" in shown


async def test_the_menu_says_so_where_there_are_no_views(empty: str):
    assert "python -m ltm_store.migrate" in with_menu(empty, "")


def test_every_make_target_that_is_named_exists():
    makefile = (ROOT / "Makefile").read_text()
    named = set(re.findall(r"(?:`|^)make ([a-z]+)", README.read_text(), re.MULTILINE))
    assert named >= {"demo", "test", "check"}
    for target in named:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
