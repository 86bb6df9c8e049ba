"""Databases for the tests: one that each test leaves empty, or a clone where a test needs it."""

import json
import os
from collections.abc import AsyncIterator, Iterator
from functools import cache
from itertools import count

import asyncpg
import pytest
import sqlparse
from hypothesis import HealthCheck, settings

from ltm_store import Database, connect, migrate
from tests import servers
from tests.populate import populate
from tests.reused import Reused

DRAWS = int(os.environ.get("LTM_TEST_DRAWS", "1"))
"""How many times as much is drawn: examples, and moments at which a call is cancelled."""
settings.register_profile(
    "ltm",
    deadline=None,
    max_examples=25 * DRAWS,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
settings.load_profile("ltm")
_split = cache(sqlparse.split)  # yoyo reads the same migrations hundreds of times


def split(text: str) -> list[str]:
    return list(_split(text))


sqlparse.split = split  # type: ignore[assignment]
_numbers = count(1)
ODD = bool(os.environ.get("LTM_TEST_ODD"))
"""Run on a server in another time zone, with connections that encode JSON in their own way."""
LOCALE = os.environ.get("LTM_TEST_LOCALE")
"""Of the databases, instead of the server's own."""
EMPTY = f"template0 ENCODING 'UTF8' LOCALE '{LOCALE}'" if LOCALE else "template1"


def pytest_sessionstart(session: pytest.Session) -> None:
    """End a run at once where no server is to be had."""
    is_ours = servers.choice().is_ours
    if ODD and not is_ours:
        raise pytest.UsageError("LTM_TEST_ODD changes the server's settings: not with LTM_TEST_DSN")
    if session.config.getoption("numprocesses", 0) and not is_ours:
        raise pytest.UsageError("workers need a server each: no -n with LTM_TEST_DSN")


def pytest_report_header() -> str:
    locale = f", {LOCALE}" if LOCALE else ""
    return f"server: {servers.choice().words}{locale}" + (", odd sessions" if ODD else "")


@pytest.fixture(scope="session")
def server() -> Iterator[str]:
    """The DSN of a running server, as one who may create databases."""
    with servers.server() as dsn:
        yield dsn


@pytest.fixture(scope="session")
async def admin(server: str) -> AsyncIterator[asyncpg.Connection]:
    """A connection that creates and drops databases."""
    connection = await asyncpg.connect(server)
    if servers.choice().is_ours:  # which need not survive a power cut
        for setting in ("fsync", "full_page_writes", "synchronous_commit"):
            await connection.execute(f"ALTER SYSTEM SET {setting} = off")
        if ODD:
            await connection.execute("ALTER SYSTEM SET timezone = 'Asia/Kolkata'")
        await connection.execute("SELECT pg_reload_conf()")
    yield connection
    await connection.close()


@pytest.fixture(scope="session")
async def template(admin: asyncpg.Connection, server: str) -> AsyncIterator[str]:
    """The name of a migrated database to clone; Citus has no clones."""
    if servers.IS_CITUS:
        yield ""
        return
    await admin.execute("DROP DATABASE IF EXISTS ltm_template")
    await admin.execute(f"CREATE DATABASE ltm_template TEMPLATE {EMPTY}")
    dsn = servers.with_database(server, "ltm_template")
    migrate.apply(dsn)
    if await has_vector(admin):
        migrate.optional(dsn, "embeddings")
    yield "ltm_template"
    await admin.execute("DROP DATABASE ltm_template WITH (FORCE)")


async def has_vector(connection: asyncpg.Connection) -> bool:
    """Whether the server has the extension vector; the wheel does, an installation may not."""
    question = "SELECT EXISTS (SELECT 1 FROM pg_available_extensions WHERE name = 'vector')"
    return bool(await connection.fetchval(question))


@pytest.fixture
async def vectors(admin: asyncpg.Connection) -> None:
    """Skips a test where the server lacks the extension vector."""
    if not await has_vector(admin):
        pytest.skip("the server lacks the extension vector")


async def created(admin: asyncpg.Connection, server: str, template: str) -> AsyncIterator[str]:
    name = f"ltm_test_{next(_numbers)}"
    if servers.IS_CITUS:
        name += f"_of_{os.getpid()}"  # several runs may share the nodes
        servers.spread(server, name)
        dsn = servers.with_database(server, name)
        if template != EMPTY:
            migrate.apply(dsn)
            migrate.optional(dsn, "distribute")
            if await has_vector(admin):
                migrate.optional(dsn, "embeddings")
        yield dsn
        servers.unspread(server, name)
        return
    await admin.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
    await admin.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
    yield servers.with_database(server, name)
    await admin.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture(scope="session")
async def shared(admin: asyncpg.Connection, server: str, template: str) -> AsyncIterator[str]:
    """The DSN of a database that no test commits to."""
    async for dsn in created(admin, server, template):
        yield dsn


@pytest.fixture(scope="session")
async def reused(admin: asyncpg.Connection, server: str, template: str) -> AsyncIterator[Reused]:
    async for dsn in created(admin, server, template):
        connection = await asyncpg.connect(dsn)
        yield await Reused.of(dsn, connection)
        await connection.close()


@pytest.fixture
async def dsn(reused: Reused) -> AsyncIterator[str]:
    """The DSN of a migrated database without rows, which the next test gets too."""
    yield reused.dsn
    await reused.empty()


@pytest.fixture
async def own_dsn(admin: asyncpg.Connection, server: str, template: str) -> AsyncIterator[str]:
    """The DSN of a database that the test may alter, and whose sessions it may end."""
    async for dsn in created(admin, server, template):
        yield dsn


@pytest.fixture
async def empty(admin: asyncpg.Connection, server: str) -> AsyncIterator[str]:
    """The DSN of an empty database of the test's own."""
    async for dsn in created(admin, server, EMPTY):
        yield dsn


@pytest.fixture
async def db(dsn: str) -> AsyncIterator[Database]:
    """A Database without tracking; calls to Citus take far longer."""
    timeout = 100.0 if servers.IS_CITUS else 10.0
    async with connect(dsn, access_tracking="off", timeout=timeout) as db:
        yield db


@pytest.fixture(scope="session")
async def session_conn(shared: str) -> AsyncIterator[asyncpg.Connection]:
    async for connection in connected(shared):
        yield connection


async def connected(dsn: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(dsn)
    for kind in ("json", "jsonb") if ODD else ():
        await connection.set_type_codec(
            kind, encoder=json.dumps, decoder=json.loads, schema="pg_catalog"
        )
    yield connection
    await connection.close()


@pytest.fixture
async def conn(session_conn: asyncpg.Connection) -> AsyncIterator[asyncpg.Connection]:
    """A caller's own connection, inside a transaction that is rolled back."""
    transaction = session_conn.transaction()
    await transaction.start()
    yield session_conn
    await transaction.rollback()


@pytest.fixture(scope="session")
async def filled(
    admin: asyncpg.Connection, server: str, template: str
) -> AsyncIterator[asyncpg.Connection]:
    """A connection to a database with 40 users of 500 memories each, analysed."""
    async for dsn in created(admin, server, template):
        connection = await asyncpg.connect(dsn)
        await populate(connection, users=40, memories=500)
        yield connection
        await connection.close()
