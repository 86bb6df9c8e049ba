"""Databases for the tests: one clone of a migrated template for all that roll back, one each for others."""

from collections.abc import AsyncIterator, Iterator
from itertools import count
from pathlib import Path

import asyncpg
import pytest
from hypothesis import HealthCheck, settings

from ltm_store import Database, connect, migrate
from tests import servers

settings.register_profile(
    "ltm",
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
settings.load_profile("ltm")
_numbers = count(1)


def pytest_report_header() -> str:
    return f"server: {servers.choice()}"


@pytest.fixture(scope="session")
def server() -> Iterator[str]:
    """The DSN of a running server, as one who may create databases."""
    with servers.server() as dsn:
        yield dsn


@pytest.fixture(scope="session")
async def admin(server: str) -> AsyncIterator[asyncpg.Connection]:
    """A connection that creates and drops databases. What it creates need not survive a power cut."""
    connection = await asyncpg.connect(server)
    for setting in ("fsync", "full_page_writes", "synchronous_commit"):
        await connection.execute(f"ALTER SYSTEM SET {setting} = off")
    await connection.execute("SELECT pg_reload_conf()")
    yield connection
    await connection.close()


@pytest.fixture(scope="session")
async def template(admin: asyncpg.Connection, server: str) -> str:
    """The name of a migrated database to clone."""
    await admin.execute("DROP DATABASE IF EXISTS ltm_template")
    await admin.execute("CREATE DATABASE ltm_template")
    migrate.apply(servers.with_database(server, "ltm_template"))
    return "ltm_template"


async def _created(admin: asyncpg.Connection, server: str, template: str) -> AsyncIterator[str]:
    name = f"ltm_test_{next(_numbers)}"
    await admin.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
    await admin.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
    yield servers.with_database(server, name)
    await admin.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture(scope="session")
async def shared(admin: asyncpg.Connection, server: str, template: str) -> AsyncIterator[str]:
    """The DSN of a database that no test commits to."""
    async for dsn in _created(admin, server, template):
        yield dsn


@pytest.fixture
async def dsn(admin: asyncpg.Connection, server: str, template: str) -> AsyncIterator[str]:
    """The DSN of a migrated database of the test's own."""
    async for dsn in _created(admin, server, template):
        yield dsn


@pytest.fixture
async def empty(admin: asyncpg.Connection, server: str) -> AsyncIterator[str]:
    """The DSN of an empty database of the test's own."""
    async for dsn in _created(admin, server, "template1"):
        yield dsn


@pytest.fixture
async def db(dsn: str) -> AsyncIterator[Database]:
    """A Database of the test's own, without tracking."""
    async with connect(dsn, access_tracking="off") as db:
        yield db


@pytest.fixture(scope="session")
async def session_conn(shared: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(shared)
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
    async for dsn in _created(admin, server, template):
        connection = await asyncpg.connect(dsn)
        await populate(connection, users=40, memories=500)
        yield connection
        await connection.close()


async def populate(
    connection: asyncpg.Connection, *, users: int, memories: int, first_user: int = 1
) -> None:
    """Fill a database with memories, each related to the next three of its user."""
    await connection.execute("SET statement_timeout = 0")
    await connection.fetch(
        (Path(__file__).parent / "populate.sql").read_text(), users, memories, first_user
    )
    await connection.execute(
        "INSERT INTO ltm_memory_relationships (user_id, source_memory_id, target_memory_id, "
        "relationship_type, strength) "
        "SELECT user_id, id, id + $1 * step, 'related', 0.5 FROM ltm_memories, generate_series(1, 3) step "
        "WHERE (user_id, id + $1 * step) IN (SELECT user_id, id FROM ltm_memories)",
        users,
    )
    await connection.execute(
        "INSERT INTO ltm_memory_tags (user_id, memory_id, tag_name) "
        "SELECT user_id, id, tag FROM ltm_memories, jsonb_array_elements_text(tags) AS tag"
    )
    await connection.execute(
        "INSERT INTO ltm_contexts (user_id, memory_id, context_type, context_key, context_value) "
        "SELECT user_id, id, 'spatial', 'city', context_data #>> '{spatial,city}' FROM ltm_memories"
    )
    await connection.execute(
        "INSERT INTO ltm_external_users (external_id) "
        "SELECT 'user ' || n FROM generate_series(1, 3000) AS n ON CONFLICT DO NOTHING"
    )
    await connection.execute("VACUUM ANALYZE")
