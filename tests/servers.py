"""Which PostgreSQL the tests run on, and how it is started.

In this order: LTM_TEST_DSN; Docker through testcontainers; the embedded wheel (18, or 16); a local
installation. LTM_TEST_PG=15, 16 or 18 asks for a version.
"""

import contextlib
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

from ltm_store import embedded

VERSION = os.environ.get("LTM_TEST_PG", "18")
IMAGE = f"postgres:{VERSION}"
WHEEL_VERSIONS = ("16", "18")


def _docker_answers() -> bool:
    """Whether a Docker engine answers within a second and has the image; nothing is pulled."""
    path = os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock").removeprefix("unix://")
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(1)
        probe.connect(path)
        probe.sendall(b"GET /_ping HTTP/1.0\r\n\r\n")
        if b"200" in probe.recv(64):
            import docker
            from docker.errors import DockerException

            with contextlib.suppress(DockerException):
                docker.from_env(timeout=3).images.get(IMAGE)
                return True
    return False


def _local_binaries() -> Path | None:
    """The folder with initdb of the wanted version: Debian keeps it outside PATH."""
    debian = Path(f"/usr/lib/postgresql/{VERSION}/bin")
    if (debian / "initdb").exists():
        return debian
    found = shutil.which("initdb")
    return Path(found).resolve().parent if found else None


def choice() -> str:
    """The server that the tests will use, in words."""
    if os.environ.get("LTM_TEST_DSN"):
        return "the server of LTM_TEST_DSN"
    if _docker_answers():
        return f"Docker, {IMAGE}"
    if VERSION in WHEEL_VERSIONS:
        return f"the embedded PostgreSQL {VERSION}"
    return f"PostgreSQL {VERSION} in {_local_binaries()}"


@contextmanager
def server() -> Iterator[str]:
    """A running server's DSN."""
    if dsn := os.environ.get("LTM_TEST_DSN"):
        yield dsn
    elif _docker_answers():
        yield from _container()
    else:
        with tempfile.TemporaryDirectory(prefix="ltm", dir="/tmp", ignore_cleanup_errors=True) as d:
            os.chmod(d, 0o755)
            if VERSION in WHEEL_VERSIONS:
                yield embedded.start(Path(d) / "pg", major=int(VERSION))
                embedded.stop(Path(d) / "pg")
            else:
                yield from _local(Path(d))


def _container() -> Iterator[str]:
    from testcontainers.community.postgres import PostgresContainer

    with PostgresContainer(IMAGE, driver=None).with_tmpfs_mount("/var/lib/postgresql") as container:
        yield container.get_connection_url()


def _local(directory: Path) -> Iterator[str]:
    """initdb and pg_ctl of a local installation, which refuse to run as root."""
    binaries = _local_binaries()
    assert binaries is not None, f"no PostgreSQL {VERSION} on this machine"
    data = directory / "pg"
    as_user: list[str] = []
    if os.geteuid() == 0:
        owner = pwd.getpwnam("postgres")
        os.chown(directory, owner.pw_uid, owner.pw_gid)
        as_user = ["runuser", "-u", "postgres", "--"]

    def run(program: str, *arguments: str) -> None:
        command = [*as_user, str(binaries / program), "-D", str(data), *arguments]
        subprocess.run(command, check=True, cwd=directory, stdout=subprocess.DEVNULL)

    run("initdb", "-A", "trust", "-U", "postgres", "-E", "UTF8", "--locale=C.UTF-8")
    log = str(directory / "log")
    run("pg_ctl", "-w", "-l", log, "-o", f"-c listen_addresses= -k {directory}", "start")
    try:
        yield f"postgresql://postgres@/postgres?host={directory}"
    finally:
        run("pg_ctl", "-w", "-m", "immediate", "stop")


def with_database(dsn: str, name: str) -> str:
    """The DSN of another database of the same server."""
    return urlunsplit(urlsplit(dsn)._replace(path=f"/{name}"))
