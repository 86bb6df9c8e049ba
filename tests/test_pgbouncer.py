"""A real PgBouncer in transaction mode between the library and the server."""

import asyncio
import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

import pytest
from psycopg.conninfo import conninfo_to_dict

from ltm_store import (
    LtmError,
    add_memories,
    add_memory,
    add_tags,
    check_health,
    connect,
    delete_memory,
    export_user,
    forget_user,
    get_analytics,
    get_memories,
    get_memory,
    get_relationships,
    import_user,
    iterate_memories,
    record_access,
    relate,
    render_report,
    search_memories,
    update_memory,
)
from tests import servers
from tests.test_cli import invoke

PROGRAM = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
pytestmark = pytest.mark.skipif(PROGRAM is None, reason="no pgbouncer on this machine")
CONFIGURATION = """
[databases]
* = {server}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = any
pool_mode = transaction
default_pool_size = {sessions}
ignore_startup_parameters = {ignored}
"""
SETTINGS = (
    "statement_timeout, jit, default_transaction_isolation, gin_fuzzy_search_limit, "
    "extra_float_digits, standard_conforming_strings, row_security"
)


def _account(host: str) -> str | int:
    """Who may run it, which root may not, and may enter the folder of the server's socket."""
    return Path(host).stat().st_uid if host.startswith("/") else "nobody"


@contextmanager
def pooler(dsn: str, *, sessions: int, ignored: str = "") -> Iterator[str]:
    """The DSN of the same database through a PgBouncer that has so many sessions."""
    place = conninfo_to_dict(dsn)
    database = place.pop("dbname")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with servers.scratch() as directory:
        file = directory / "pgbouncer.ini"
        server = " ".join(f"{name}='{value}'" for name, value in place.items() if value)
        file.write_text(
            CONFIGURATION.format(server=server, port=port, sessions=sessions, ignored=ignored)
        )
        running = subprocess.Popen(
            [str(PROGRAM), str(file)],
            stderr=subprocess.PIPE,
            text=True,
            user=_account(str(place["host"])) if os.geteuid() == 0 else None,
        )
        try:
            assert running.stderr is not None
            assert any("process up" in line for line in running.stderr)
            user = quote(str(place["user"]))
            yield f"postgresql://{user}@127.0.0.1:{port}/{database}"
        finally:
            running.kill()
            running.communicate()


async def test_without_the_flag_it_is_named_with_the_flag(dsn):
    with pooler(dsn, sessions=1) as pooled:
        with pytest.raises(LtmError, match=r"PgBouncer.* connect\(pgbouncer=True\), --pgbouncer"):
            await connect(pooled)
        refused = invoke("--dsn", pooled, "health")
        assert refused.exit_code == 1
        assert "PgBouncer" in refused.stderr
        assert invoke("--dsn", pooled, "--pgbouncer", "health").exit_code == 0


async def test_a_pooler_that_ignores_settings_is_named_where_a_statement_is_missing(dsn):
    """The second search gets another session, since the first one's is in a transaction."""
    with pooler(dsn, sessions=2, ignored=SETTINGS) as pooled:
        async with connect(pooled) as db, connect(pooled) as other:
            await search_memories(db, 1)
            async with other.transaction():
                with pytest.raises(LtmError, match=r"PgBouncer.* connect\(pgbouncer=True\)"):
                    await search_memories(db, 1)


async def test_with_the_flag_everything_works(dsn):
    """Many tasks on two sessions of the server, so that each call may have another one."""
    with pooler(dsn, sessions=2) as pooled, pooler(dsn, sessions=2) as other:
        async with connect(pooled, pgbouncer=True) as db, connect(f"{other}?pgbouncer=true") as by:
            await asyncio.gather(*(everything(d, f"user {n}") for n in range(2) for d in (db, by)))
            await asyncio.gather(db.flush(), by.flush())
            assert await check_health(db) == []


async def everything(db, user):
    user = f"{user} of {id(db)}"
    first = await add_memory(db, user, "Drinks green tea", tags=["tea"], idempotency_key="k")
    assert (await add_memory(db, user, "Drinks", idempotency_key="k")).outcome == "existing"
    await add_memories(db, user, [{"content": f"note {n}"} for n in range(12)])
    hits = await search_memories(db, user, "note", limit=100)
    assert len(hits) == 12
    second = hits[0].id
    assert await relate(db, user, first.id, second) is not None
    assert len(await get_relationships(db, user, first.id)) == 1
    changed = await update_memory(db, user, first.id, content="Drinks tea", metadata={"a": 1})
    assert changed is not None
    await add_tags(db, user, first.id, ["hot"])
    await record_access(db, user, [first.id, second])
    read = await get_memory(db, user, first.id, include_relationships=True)
    assert read is not None
    assert (read.content, set(read.tags)) == ("Drinks tea", {"tea", "hot"})
    assert len(await get_memories(db, user, [first.id, second])) == 2
    async with db.transaction() as connection:
        await connection.execute("SET LOCAL search_path = nowhere")
    assert len([memory async for memory in iterate_memories(db, user)]) == 13
    lines = [line async for line in export_user(db, user)]
    assert len(lines) == 13
    assert (await import_user(db, f"{user}, again", lines)).created == 13
    assert (await get_analytics(db, user)).total_memories == 13
    assert "tea" in await render_report(db, user)
    assert await delete_memory(db, user, second)
    await forget_user(db, user)
    assert await search_memories(db, user, "note") == []
