"""The server of the embedded extra."""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from fasteners import InterProcessLock
from typer.testing import CliRunner

from ltm_store import LtmError, embedded
from ltm_store.cli.app import app
from tests.servers import scratch

pytestmark = pytest.mark.slow

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
def directory(monkeypatch) -> Iterator[Path]:
    """Of a server that does not exist yet."""
    with scratch() as folder:
        monkeypatch.setenv("LTM_DATA_DIR", str(folder / "pg"))
        yield folder / "pg"


@pytest.fixture(scope="module")
def stopped() -> Iterator[Path]:
    """The files of a server that was stopped: to copy them is quicker than to make them."""
    with scratch() as folder:
        embedded.start(folder / "pg")
        embedded.stop(folder / "pg")
        yield folder / "pg"


@pytest.fixture
def made(stopped: Path, directory: Path) -> Path:
    """The directory of a server that does not run."""
    subprocess.run(["cp", "-a", stopped, directory], check=True)
    return directory


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


HOLD = """
from ltm_store import embedded
embedded.start()
print("started", flush=True)
input()
"""


def cli(*arguments: str):
    return CliRunner().invoke(app, ["embedded", *arguments])


def holding(*command: str) -> subprocess.Popen[str]:
    """A program that uses the server and waits."""
    program = command or ("-c", HOLD)
    held = subprocess.Popen(
        [sys.executable, *program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert held.stdout is not None
    assert held.stdout.readline() == "started\n"
    return held


def test_a_program_that_was_killed_does_not_keep_the_server_for_ever(made):
    killed = holding()
    killed.kill()
    killed.communicate(timeout=100)
    assert embedded.is_running(), "nobody was left to stop it"
    last = holding()
    assert json.loads((made / ".handle_pids.json").read_text()) == [last.pid]
    last.communicate("\n", timeout=100)
    assert not embedded.is_running()


def test_the_server_is_told_of_and_stopped_from_outside(made):
    assert cli("path").stdout == f"{made}\n"
    told = cli("status")
    assert (told.exit_code, told.stdout) == (1, "")
    assert f"no server runs in {made}" in told.stderr
    assert cli("stop").stdout == "it was not running\n"
    held = holding()
    assert cli("status").stdout == f"running in {made}\n"
    assert cli("stop").stdout == "stopped\n"
    held.communicate("\n", timeout=100)
    assert cli("status").exit_code == 1
    assert not embedded.is_running()


TERMINATED = """
import signal
import ltm_store.cli.app as cli
from ltm_store import embedded
def app(**_):
    embedded.start()
    print("started", flush=True)
    input()
cli.app = app
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # also where the tests run under nohup
from ltm_store.cli.__main__ import main
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_command_that_is_terminated_stops_its_server(made, number):
    held = holding("-c", f"{TERMINATED}main()")
    held.send_signal(number)
    held.communicate(timeout=100)
    assert held.returncode == 128 + number
    assert not embedded.is_running()


def test_a_command_under_nohup_goes_on_without_its_terminal(made):
    held = holding("-c", f"{TERMINATED}signal.signal(signal.SIGHUP, signal.SIG_IGN)\nmain()")
    held.send_signal(signal.SIGHUP)
    held.communicate("\n", timeout=100)
    assert held.returncode == 0


TWO = """
from ltm_store import embedded
first = embedded.data_dir()
embedded.start(first)
embedded.start(first.with_name("second"))
print("started", flush=True)
input()
embedded.stop(first)
print("stopped", flush=True)
input()
"""


def test_each_directory_has_a_lock_of_its_own_beside_it(directory):
    """Of one process too: whoever holds that of the second does not hold up the first."""
    held = holding("-c", TWO)
    hang = threading.Timer(100, held.kill)
    hang.start()
    with InterProcessLock(directory.parent / ".second.lock"):
        assert held.stdin is not None
        assert held.stdout is not None
        held.stdin.write("\n")
        held.stdin.flush()
        assert held.stdout.readline() == "stopped\n"
        assert not embedded.is_running(directory)
    held.communicate("\n", timeout=100)
    hang.cancel()
    assert not embedded.is_running(directory.parent / "second")
