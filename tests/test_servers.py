"""The choice of a server for the tests, and DSNs of it. None of these needs Docker."""

from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest

from tests import servers
from tests.servers import Choice, Missing, Wish, choose
from tests.wire import Wire


def nothing() -> Iterator[str]:
    yield ""


def finder(name: str, problem: str | None = None):
    """One that has a server, or says why not."""

    def find(wish: Wish) -> Choice:
        if problem:
            raise Missing(problem)
        return Choice(f"{name} {wish.version} {wish.image}", nothing)

    return find


ALL = {name: finder(name) for name in ("docker", "wheel", "local")}


def words(environ: dict[str, str], **without: str) -> str:
    """What the header says, where some kinds of servers cannot be had."""
    return choose(environ, ALL | {n: finder(n, p) for n, p in without.items()}).words


def test_the_first_that_can_be_had_is_taken_and_the_header_says_why():
    assert words({}) == "docker 18 postgres:18"
    assert words({}, docker="no socket") == "wheel 18 postgres:18; no docker: no socket"
    assert words({"LTM_TEST_PG": "17"}, docker="refused", wheel="has 16 and 18 alone") == (
        "local 17 postgres:17; no docker: refused; no wheel: has 16 and 18 alone"
    )


def test_a_dsn_goes_before_all_and_its_server_is_left_as_it_is():
    chosen = choose({"LTM_TEST_DSN": "postgresql://h/d", "LTM_TEST_SERVER": "docker"}, ALL)
    assert (list(chosen.run()), chosen.is_ours) == (["postgresql://h/d"], False)


def test_what_was_asked_for_is_taken_or_fails():
    assert words({"LTM_TEST_SERVER": "local"}) == "local 18 postgres:18"
    with pytest.raises(pytest.UsageError, match="no PostgreSQL 18 .* no wheel: not installed"):
        words({"LTM_TEST_SERVER": "wheel"}, wheel="not installed")
    with pytest.raises(pytest.UsageError, match="LTM_TEST_SERVER=podman is none of docker"):
        words({"LTM_TEST_SERVER": "podman"})
    image = {"LTM_TEST_IMAGE": "pgvector/pgvector:pg18"}
    assert words(image) == "docker 18 pgvector/pgvector:pg18"
    with pytest.raises(pytest.UsageError, match="no docker: refused"):
        words(image, docker="refused")


@pytest.mark.parametrize("host", ["unix:///nowhere.sock", "tcp://127.0.0.1:1"])
def test_a_docker_that_does_not_answer_is_told(host, monkeypatch):
    monkeypatch.setenv("DOCKER_HOST", host)
    with pytest.raises(pytest.UsageError, match="no docker: Error while fetching server API"):
        choose({"LTM_TEST_SERVER": "docker"})


def test_the_wheel_and_local_installations_refuse_other_versions(tmp_path, monkeypatch):
    with pytest.raises(pytest.UsageError, match="no wheel: it has 16 and 18 alone"):
        choose({"LTM_TEST_SERVER": "wheel", "LTM_TEST_PG": "17"})
    initdb = tmp_path / "initdb"
    initdb.write_text("#!/bin/sh\necho 'initdb (PostgreSQL) 97.3'\n")
    initdb.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    local = {"LTM_TEST_SERVER": "local"}
    assert choose(local | {"LTM_TEST_PG": "97"}).words == f"PostgreSQL 97 in {tmp_path}"
    with pytest.raises(pytest.UsageError, match=r"is of initdb \(PostgreSQL\) 97.3"):
        choose(local | {"LTM_TEST_PG": "98"})


@dataclass
class Container:
    """A container that goes through these states, and answers while it is ready."""

    states: list[str]
    status: str = "created"
    asked: list[list[str]] = field(default_factory=list)

    @property
    def exit_code(self) -> int:
        return 0 if self.status == "ready" else 2

    def reload(self) -> None:
        self.status = self.states.pop(0)

    def exec_run(self, command: list[str]) -> "Container":
        self.asked.append(command)
        return self

    def logs(self) -> bytes:
        return b"initdb: no space left"


def test_a_container_is_waited_for_and_one_that_exits_shows_its_log():
    servers.wait(Container(["running", "ready"]), "test", "test")
    with pytest.raises(RuntimeError, match=r"exited:\ninitdb: no space left"):
        servers.wait(Container(["running", "exited"]), "test", "test")


@pytest.mark.parametrize(
    "dsn", ["postgresql://u:p@h:1/d", "postgresql:///d?host=/tmp", "postgresql://u@/d?user=x"]
)
def test_a_dsn_gets_options_with_and_without_a_query(dsn):
    joined = "&" if "?" in dsn else "?"
    assert servers.with_options(dsn, "-crole=x") == f"{dsn}{joined}options=-crole%3Dx"
    assert servers.with_database(dsn, "e") == dsn.replace("/d", "/e")
    assert servers.with_database(servers.with_options(dsn, "-c a=b"), "d").endswith("-c%20a%3Db")


def test_the_wire_keeps_the_password_and_the_parameters():
    proxy = Wire("postgresql://u:p%40w@db.example:5433/d?sslmode=disable")
    assert proxy.dsn == "postgresql://u:p%40w@127.0.0.1:0/d?sslmode=disable"
    assert Wire("postgresql://u@/d?host=/tmp").dsn == "postgresql://u@127.0.0.1:0/d"
