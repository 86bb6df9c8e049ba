"""The server of the embedded extra."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ltm_store import LtmError, embedded

PROGRAM = """
import asyncio
from ltm_store import add_memory, connect, search_memories
async def main():
    async with connect() as db:
        await add_memory(db, 1, "kept")
        print(len(await search_memories(db, 1)))
asyncio.run(main())
"""


@pytest.fixture
def directory(tmp_path_factory, monkeypatch) -> Path:
    import tempfile

    directory = Path(tempfile.mkdtemp(prefix="ltm", dir="/tmp"))
    os.chmod(directory, 0o755)
    monkeypatch.setenv("LTM_DATA_DIR", str(directory / "pg"))
    return directory / "pg"


def test_without_a_dsn_everything_runs_on_a_server_of_its_own(directory):
    environment = {k: v for k, v in os.environ.items() if not k.endswith("DATABASE_URL")}
    environment["LANG"] = "xx_XX.UTF-8"
    counts = []
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", PROGRAM],
            capture_output=True,
            text=True,
            env=environment,
            timeout=100,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        counts.append(done.stdout)
        assert not (directory / "postmaster.pid").exists(), "the server stops with the process"
    assert counts == ["1\n", "2\n"], "migrated on first use, kept after that"


def test_a_directory_of_an_older_major_is_refused(directory):
    directory.mkdir()
    (directory / "PG_VERSION").write_text("16\n")
    with pytest.raises(LtmError, match="holds data of PostgreSQL 16, and this is PostgreSQL 18"):
        embedded.start()


def test_a_path_too_long_for_a_socket_is_refused(monkeypatch):
    monkeypatch.setenv("LTM_DATA_DIR", "/tmp/" + "x" * 100)
    with pytest.raises(LtmError, match="too long for a socket"):
        embedded.start()
