"""DSNs as people and hosting services write them: alike in connect() and in migrate."""

import os
import pwd
import shutil
import socket
import ssl
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from ltm_store import (
    InvalidArgument,
    InvalidMemory,
    LtmError,
    Unavailable,
    connect,
    migrate,
    search_memories,
)
from ltm_store.db import dsn as dsns
from ltm_store.errors import translate
from ltm_store.migrate.__main__ import main

HOSTED = [
    "channel_binding=prefer",
    "connect_timeout=10",
    "keepalives=1&keepalives_idle=30&keepalives_interval=10&keepalives_count=3",
    "gssencmode=disable",
    "target_session_attrs=any",
    "sslmode=disable&fallback_application_name=x",
    "ssl=false",
    "pgbouncer=false&connection_limit=5&pool_timeout=0",
    "prepared_statement_cache_size=500",
    "supa=base-pooler.x&workaround=supabase-pooler.vercel",
    "application_name=an%20app",
    "options=-c%20work_mem%3D8MB",
    "client_encoding=utf8",
]


def extended(dsn: str, query: str) -> str:
    return f"{dsn}{'&' if '?' in dsn else '?'}{query}"


@pytest.mark.parametrize("query", HOSTED)
async def test_what_hosting_services_hand_out_is_taken_by_both(dsn, query, capsys):
    given = extended(dsn, query)
    async with connect(given, timeout=30) as db:
        assert await search_memories(db, 1) == []
    assert main(["status", "--dsn", given]) == 0
    assert "applied" in capsys.readouterr().out


@pytest.mark.parametrize(
    "write",
    [
        lambda dsn: f"  {dsn} ",
        lambda dsn: f'"{dsn}"',
        lambda dsn: dsn.replace("postgresql://", "postgres://"),
        lambda dsn: dsn.replace("postgresql://", "postgresql+asyncpg://"),
        lambda dsn: dsn.replace("postgresql://", "postgresql+psycopg://"),
    ],
)
async def test_drivers_blanks_and_quotes_around_it_are_no_part_of_it(dsn, write, capsys):
    async with connect(write(dsn), timeout=30) as db:
        assert await search_memories(db, 1) == []
    assert main(["status", "--dsn", write(dsn)]) == 0


async def test_the_form_of_libpq_is_taken_by_both(dsn, capsys):
    parts: dict[str, Any] = {"application_name": "a 'b'", **conninfo_to_dict(dsn)}
    words = make_conninfo(**parts)
    async with connect(words) as db:
        assert await search_memories(db, 1) == []
    assert main(["status", "--dsn", words]) == 0


def test_every_function_of_migrate_takes_what_connect_takes(empty):
    given = extended(empty.replace("postgresql:", "postgresql+asyncpg:"), "pgbouncer=true")
    applied = migrate.apply(given)
    assert migrate.status(given).applied == applied
    assert migrate.memories_lost(given) == 0
    assert not migrate.is_distributed(given)
    assert migrate.rollback(given) == applied[-1:]
    migrate.optional(given, "partition_accesses", undo=True)
    with pytest.raises(InvalidArgument, match="^name: should be one of distribute, "):
        migrate.optional(given, "nonsense")
    for refused in (extended(given, "nonsense=1"), "neither form"):
        with pytest.raises(InvalidArgument, match="^dsn: "):
            migrate.status(refused)


def test_the_variables_have_one_order(monkeypatch):
    monkeypatch.delenv("DATABASE_URL", raising=False)
    monkeypatch.delenv("LTM_DATABASE_URL", raising=False)
    assert dsns.target() is None
    monkeypatch.setenv("DATABASE_URL", "postgres://b/x")
    assert dsns.target() == ("postgresql://b/x", "postgresql://b/x", False)
    monkeypatch.setenv("LTM_DATABASE_URL", "postgresql+asyncpg://a/x?pgbouncer=true")
    assert dsns.target() == ("postgresql://a/x", "postgresql://a/x", True)
    assert dsns.target("postgresql://c") == ("postgresql://c", "postgresql://c", False)


BOTH = "-csearch_path%3Da%20-cjit%3Doff"


@pytest.mark.parametrize(
    ("given", "asyncpg_form", "libpq_form"),
    [
        ("postgresql://u:p%40s@h:1/d?ssl=true", "u:p%40s@h:1/d?sslmode=require", None),
        ("postgresql://h/d?schema=mine", "h/d?options=-csearch_path%3Dmine", None),
        ("postgresql://[::1]:5/d", "[::1]:5/d", None),
        ("postgresql://a:1,b:2/d?sslmode=prefer", "a:1,b:2/d?sslmode=prefer", None),
        ("postgresql://h/d?channel_binding=require", "h/d", "h/d?channel_binding=require"),
        ("postgresql:///d?password=a+b", "/d?password=a%2Bb", None),
        ("postgresql://h/d?schema=a&options=-cjit%3Doff", f"h/d?options={BOTH}", None),
        ("hostaddr=127.0.0.1 dbname=d", "?dbname=d&host=127.0.0.1", "?dbname=d&hostaddr=127.0.0.1"),
        ("postgresql:///d?host=/tmp", "/d?host=/tmp", None),
        ("host=h dbname='a b' password='it''s'", None, None),
    ],
)
def test_parameters_are_translated(given, asyncpg_form, libpq_form):
    if asyncpg_form is None:
        with pytest.raises(InvalidArgument, match="^dsn: "):
            dsns.target(given)
        return
    found = dsns.target(given)
    assert found is not None
    assert found.asyncpg == f"postgresql://{asyncpg_form}"
    assert found.libpq == f"postgresql://{libpq_form or asyncpg_form}"


@pytest.mark.parametrize("query", ["nonsense=secret", "sslmodus=secret"])
async def test_a_parameter_that_is_not_known_is_named_without_its_value(query):
    name = query.partition("=")[0]
    with pytest.raises(InvalidArgument, match=name) as refused:
        connect(f"postgresql://u:hidden@h/d?{query}")
    assert not isinstance(refused.value, InvalidMemory)
    assert "secret" not in str(refused.value)
    assert "hidden" not in str(refused.value)
    assert main(["status", "--dsn", f"postgresql://h/d?{query}"]) == 1


@pytest.mark.parametrize("query", ["require_auth=scram-sha-256", "gssencmode=require"])
def test_a_demand_that_asyncpg_cannot_meet_is_refused(query):
    with pytest.raises(InvalidArgument, match=query.partition("=")[0]):
        connect(f"postgresql://h/d?{query}")


DEBIAN = Path("/usr/lib/postgresql/15/bin")


def certificate(folder: Path, name: str) -> Path:
    """A certificate that nobody has signed, and its key beside it."""
    subprocess.run(
        [
            *(["openssl", "req", "-new", "-x509", "-days", "9", "-nodes", "-subj"]),
            *(f"/CN={name}", "-keyout", str(folder / f"{name}.key")),
            *("-out", str(folder / f"{name}.crt")),
        ],
        check=True,
        capture_output=True,
    )
    return folder / f"{name}.crt"


@pytest.fixture
def tls_server():
    """The port of a server that speaks TLS with a certificate for example.org, and that."""
    if os.geteuid() != 0 or not (DEBIAN / "initdb").exists() or not shutil.which("openssl"):
        pytest.skip("needs root, openssl and PostgreSQL 15 of Debian")
    with tempfile.TemporaryDirectory(prefix="ltm", dir="/tmp", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        known = certificate(folder, "example.org")
        owner = pwd.getpwnam("postgres")
        for path in (folder, *folder.iterdir()):
            os.chown(path, owner.pw_uid, owner.pw_gid)
        (folder / "example.org.key").chmod(0o600)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        settings = f"-p {port} -k {folder} -c listen_addresses=127.0.0.1 -c ssl=on -c fsync=off"
        settings += f" -c ssl_cert_file={known} -c ssl_key_file={folder}/example.org.key"

        def run(program: str, *arguments: str) -> None:
            subprocess.run(
                [str(DEBIAN / program), "-D", f"{folder}/pg", *arguments],
                check=True,
                cwd=folder,
                stdout=subprocess.DEVNULL,
                user="postgres",
                group="postgres",
                extra_groups=[],
            )

        run("initdb", "-A", "trust", "-U", "postgres", "-E", "UTF8", "--locale=C.UTF-8")
        run("pg_ctl", "-w", "-l", f"{folder}/log", "-o", settings, "start")
        try:
            yield port, known
        finally:
            run("pg_ctl", "-w", "-m", "immediate", "stop")


async def test_failures_of_tls_say_tls(tls_server, tmp_path):
    port, known = tls_server
    there = f"postgresql://postgres@127.0.0.1:{port}/postgres"
    for query, words in (
        (f"sslmode=verify-full&sslrootcert={known}", "mismatch|not valid for"),
        ("sslmode=verify-full&sslrootcert=/nowhere/root.crt", "certificate"),
        (f"sslmode=verify-ca&sslrootcert={certificate(tmp_path, 'other')}", "self.signed"),
    ):
        with pytest.raises(LtmError, match=f"TLS: .*({words})"):
            await connect(f"{there}?{query}", check_schema=False, timeout=30)
    there = f"{there}?ssl=require"
    async with connect(there, check_schema=False) as db, db.transaction() as connection:
        encrypted = "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()"
        assert await connection.fetchval(encrypted)


def test_a_server_without_tls_is_told():
    error = ConnectionError('PostgreSQL server at "h:1" rejected SSL upgrade')
    assert str(translate(error)).startswith("TLS: ")
    assert isinstance(translate(ssl.SSLError(1, "[SSL: WRONG_VERSION_NUMBER] x")), Unavailable)


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        (asyncpg.InvalidSQLStatementNameError, 'prepared statement "x" does not exist'),
        (asyncpg.DuplicatePreparedStatementError, 'prepared statement "x" already exists'),
        (asyncpg.ProtocolViolationError, "unsupported startup parameter: jit"),
    ],
)
def test_a_pooler_in_transaction_mode_is_told_with_the_flag(kind, text):
    assert "pgbouncer=True" in str(translate(kind(text)))
    assert "--pgbouncer" in str(translate(kind(text)))
