"""What the command line writes into files, and what it tells other programs."""

import os
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from ltm_store import add_memory
from tests.test_cli import PROGRAM, Cli, a_memory, cli, environment

__all__ = ["cli"]
WRITERS = ("export", "report", "graph")


@pytest.fixture
async def writer(db, cli: Cli, tmp_path):
    """Runs one of the verbs that write, into a file."""
    memory = await a_memory(db)

    def write(verb: str, output: object, code: int = 0) -> str:
        arguments = [verb, str(memory.id)] if verb == "graph" else [verb]
        return cli(*arguments, "--user", "alice", "--output", str(output), code=code)

    return write


def mode(file: Path) -> int:
    return stat.S_IMODE(file.stat().st_mode)


@pytest.mark.parametrize("verb", WRITERS)
async def test_a_file_is_private_and_one_that_is_there_keeps_its_mode(writer, tmp_path, verb):
    file = tmp_path / "out"
    writer(verb, file)
    assert mode(file) == 0o600
    for kept in (0o640, 0o664, 0o400):
        file.write_text("before")
        file.chmod(kept)
        writer(verb, file)
        assert mode(file) == kept
        assert file.read_text() != "before"
    assert os.listdir(tmp_path) == ["out"]


@pytest.mark.parametrize("verb", WRITERS)
async def test_nothing_but_the_file_is_written(writer, tmp_path, verb):
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (tmp_path / "out.part").write_text("mine")
    (tmp_path / "linked.part").symlink_to(victim)
    for name in ("out", "linked"):
        writer(verb, tmp_path / name)
    assert victim.read_text() == "precious"
    assert (tmp_path / "out.part").read_text() == "mine"
    assert (tmp_path / "linked.part").is_symlink()
    assert len(os.listdir(tmp_path)) == 5


@pytest.mark.parametrize("verb", WRITERS)
async def test_only_regular_files_and_devices_are_written(writer, cli, tmp_path, verb):
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "folder").mkdir()
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket"))
        for name, reason in (
            ("fifo", "is not a regular file"),
            ("socket", "is not a regular file"),
            ("folder", "Is a directory"),
            ("loop", "Too many levels of symbolic links"),
            ("missing/out", "No such file or directory"),
        ):
            writer(verb, tmp_path / name, code=1)
            assert cli.stderr == f"failed: {tmp_path / name}: {reason}\n"
    assert stat.S_ISFIFO((tmp_path / "fifo").stat().st_mode)
    writer(verb, "/dev/full", code=1)
    assert cli.stderr == "failed: /dev/full: No space left on device\n"
    writer(verb, "/dev/null")
    for device in ("/dev/full", "/dev/null"):
        assert stat.S_ISCHR(os.stat(device).st_mode)
    assert len(os.listdir(tmp_path)) == 4


async def test_a_link_of_ones_own_is_followed_and_anothers_is_not(
    writer, cli, tmp_path, monkeypatch
):
    target, link = tmp_path / "target", tmp_path / "link"
    target.write_text("before")
    link.symlink_to(target)
    writer("export", link)
    assert link.is_symlink()
    written = target.read_text()
    assert written.startswith("{")
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    writer("export", link, code=1)
    assert cli.stderr == f"failed: {link}: is a symbolic link of another user\n"
    assert target.read_text() == written


async def test_standard_output_by_its_other_names(db, dsn, tmp_path):
    await add_memory(db, 1, "seen")
    for name in ("-", "/dev/stdout", "/dev/fd/1"):
        script = '(echo first; "$@" && echo last) > out'
        arguments = ("export", "--user", "1", "--dsn", dsn, "--output", name)
        done = subprocess.run(
            ["bash", "-c", script, "-", *PROGRAM, *arguments],
            stderr=subprocess.PIPE,
            timeout=100,
            check=True,
            env=environment(),
            cwd=tmp_path,
        )
        assert done.stderr == b""
        lines = (tmp_path / "out").read_text().splitlines()
        assert (lines[0], len(lines), lines[-1]) == ("first", 3, "last")


async def test_a_pipe_of_the_shell_is_written(db, dsn, tmp_path):
    await add_memory(db, 1, "seen")
    script = '"$@" --output >(cat > out; echo read > done); until [ -s done ]; do :; done'
    subprocess.run(
        ["bash", "-c", script, "-", *PROGRAM, "export", "--user", "1", "--dsn", dsn],
        timeout=100,
        check=True,
        env=environment(),
        cwd=tmp_path,
    )
    assert "seen" in (tmp_path / "out").read_text()


async def test_what_fails_half_way_leaves_what_was_there(db, cli, tmp_path):
    file = tmp_path / "out"
    file.write_text("before")
    cli("export", "--user", "", "--output", str(file), code=1)
    assert file.read_text() == "before"
    assert os.listdir(tmp_path) == ["out"]


PSQL = """#!{python}
import os, sys
print(sys.argv[1:], os.environ.get("PGPASSWORD"))
"""


@pytest.mark.parametrize(
    "dsn",
    [
        "postgresql://me:s%40cret@127.0.0.1:1/x",
        "postgresql+asyncpg://me@127.0.0.1:1/x?password=s%40cret",
    ],
)
def test_psql_gets_the_password_by_its_environment(dsn, tmp_path):
    program = tmp_path / "psql"
    program.write_text(PSQL.format(python=sys.executable))
    program.chmod(0o755)
    done = subprocess.run(
        [*PROGRAM, "psql"],
        capture_output=True,
        text=True,
        timeout=100,
        check=True,
        env=environment(PATH=f"{tmp_path}:{os.environ['PATH']}", DATABASE_URL=dsn),
    )
    arguments, _, password = done.stdout.strip().rpartition(" ")
    assert password == "s@cret"
    assert "cret" not in arguments
    for part in ("127.0.0.1", "me", "x"):
        assert part in arguments


def test_psql_without_a_password_gets_the_dsn_as_it_is(tmp_path):
    program = tmp_path / "psql"
    program.write_text(PSQL.format(python=sys.executable))
    program.chmod(0o755)
    dsn = "postgresql://me@127.0.0.1:1/x?sslmode=disable"
    done = subprocess.run(
        [*PROGRAM, "psql", "--dsn", dsn],
        capture_output=True,
        text=True,
        timeout=100,
        check=True,
        env=environment(PATH=f"{tmp_path}:{os.environ['PATH']}"),
    )
    assert done.stdout == f"['{dsn}'] None\n"
