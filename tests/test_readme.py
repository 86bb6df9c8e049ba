"""The README's code runs as it is written."""

import os
import re
import subprocess
import sys
from pathlib import Path

import asyncpg
import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def blocks(language: str) -> list[str]:
    found = [text for name, text in BLOCKS if name == language]
    assert found
    return found


@pytest.mark.parametrize("code", blocks("python"))
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


@pytest.mark.parametrize("code", blocks("sql"))
async def test_sql_runs(code, conn: asyncpg.Connection):
    await conn.fetch(code)


def test_every_make_target_that_is_named_exists():
    makefile = (ROOT / "Makefile").read_text()
    named = set(re.findall(r"(?:`|^)make ([a-z]+)", README, re.MULTILINE))
    assert named >= {"demo", "test", "check"}
    for target in named:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
