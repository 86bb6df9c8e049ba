"""What is right on Citus alone; most other tests run there too, where LTM_TEST_CITUS is given."""

import re
from collections.abc import AsyncIterator
from typing import Final

import asyncpg
import pytest

from ltm_store import LtmError, connect, get_memory, merge_users, migrate
from ltm_store.db.statements import DISTRIBUTED, Shape, Statement
from tests.populate import populate
from tests.servers import IS_CITUS
from tests.test_statements import ALL, each, preparable

pytestmark = pytest.mark.skipif(not IS_CITUS, reason="LTM_TEST_CITUS names no coordinator")

VALUES: Final = {
    "bigint": "1",
    "integer": "1",
    "double precision": "0.5",
    "real": "0.5",
    "boolean": "true",
    "timestamptz": "2026-01-01",
    "interval": "1 day",
}
RENDERED: Final = {DISTRIBUTED, "one_user"}
"""The conditions that hold there."""
ELSEWHERE: Final = {"add_memories_together", "get_memories_together", "move_user"}
"""Statements that are not sent there."""
_TASKS = re.compile(r"Task Count: (\d+)")


async def explained(shape: Shape, statement: Statement, connection: asyncpg.Connection) -> str:
    """The plan of a statement for values of a user's."""

    def literal(type_: str) -> str:
        value = VALUES.get(type_.removesuffix("[]"), '"1"')
        return f"ARRAY['{value}']::{type_}" if type_.endswith("[]") else f"'{value}'::{type_}"

    types = dict(statement.parameters)
    values = [f"({literal(types[name])})" for name in shape.names]
    sql = re.sub(r"\$(\d+)", lambda match: values[int(match[1]) - 1], shape.sql)
    return "\n".join(row[0] for row in await connection.fetch(f"EXPLAIN {sql}"))


def sent_to_all(plan: str) -> list[str]:
    """The parts of a statement that insert what another part gives: it would go to every node."""
    part = re.compile(r"^( +)->.*Citus INSERT[^\n]*\n((?:\1 .*\n?)*)", re.MULTILINE)
    return [match[0] for match in part.finditer(plan) if "read_intermediate_result" in match[2]]


@each(s for s in ALL.values() if s.name not in ELSEWHERE)
async def test_no_statement_is_refused_and_those_of_a_user_read_one_shard(
    statement: Statement, session_conn: asyncpg.Connection
):
    for shape in await preparable(statement, session_conn, RENDERED):
        plan = await explained(shape, statement, session_conn)
        if not statement.all_users:
            assert set(_TASKS.findall(plan)) <= {"0", "1"}, shape.sql
            assert sent_to_all(plan) == [], shape.sql


TABLES = (
    "SELECT table_name::text, citus_table_type FROM citus_tables "
    "WHERE table_name::text LIKE 'ltm\\_%' ORDER BY 1"
)


@pytest.fixture
async def plain(empty: str) -> AsyncIterator[asyncpg.Connection]:
    """A connection to a migrated database with memories of 20 users, not distributed yet."""
    migrate.apply(empty)
    connection = await asyncpg.connect(empty)
    await populate(connection, users=20, memories=10)
    yield connection
    await connection.close()


async def contents(connection: asyncpg.Connection) -> list[str]:
    """Every row of every table."""
    return [
        row[0]
        for table, _ in await connection.fetch(TABLES)
        for row in await connection.fetch(
            f"SELECT '{table} ' || to_jsonb(t)::text FROM {table} t ORDER BY 1"
        )
    ]


async def test_what_is_stored_is_distributed_and_leaves_nothing_on_this_node(empty, plain):
    names = ["contexts", "external_users", "memories", "memory_access", "memory_ranks"]
    names = [f"ltm_{name}" for name in [*names, "memory_relationships", "memory_tags"]]
    before = [
        row[0]
        for table in names
        for row in await plain.fetch(
            f"SELECT '{table} ' || to_jsonb(t)::text FROM {table} t ORDER BY 1"
        )
    ]
    lines: list[str] = []
    migrate.optional(empty, "distribute", report=lines.append)
    assert lines == []
    assert [row[0] for row in await plain.fetch(TABLES)] == names
    assert await contents(plain) == before
    for name in names[:1] + names[2:]:  # that of the external users is a copy of its own
        assert await plain.fetchval("SELECT pg_relation_size($1::regclass)", name) == 0
    assert await plain.fetch("SELECT * FROM ltm_health WHERE user_id IS NULL") == []
    assert migrate.is_distributed(empty)
    migrate.optional(empty, "distribute", report=lines.append)
    assert lines == ["the tables are distributed already"]


async def test_who_writes_a_memory_writes_its_rank(dsn):
    connection = await asyncpg.connect(dsn)
    await connection.execute(
        "INSERT INTO ltm_memories (user_id, content) SELECT n, 'x' FROM generate_series(1, 20) AS n"
    )
    await connection.execute("UPDATE ltm_memories SET importance_score = 9 WHERE user_id % 2 = 0")
    same = await connection.fetchval(
        "SELECT count(*) FROM ltm_memories AS m JOIN ltm_memory_ranks AS k "
        "ON k.user_id = m.user_id AND k.memory_id = m.id "
        "WHERE (k.importance_rank, k.importance_score) = (m.importance_rank, m.importance_score)"
    )
    await connection.close()
    assert same == 20


async def test_a_table_that_comes_later_follows(empty, plain):
    migrate.optional(empty, "distribute")
    await plain.execute(
        "CREATE TABLE ltm_later (user_id bigint, id bigint, PRIMARY KEY (user_id, id))"
    )
    migrate.optional(empty, "distribute")
    assert ("ltm_later", "distributed") in [tuple(row) for row in await plain.fetch(TABLES)]


async def test_everything_is_rolled_back(empty, plain):
    migrate.optional(empty, "distribute")
    assert migrate.rollback(empty, everything=True)
    assert await plain.fetch(TABLES) == []


async def test_what_does_not_work_there_says_so(dsn):
    with pytest.raises(migrate.MigrationFailed, match="ltm-store export each user"):
        migrate.optional(dsn, "distribute", undo=True)
    with pytest.raises(migrate.MigrationFailed, match="does not reach the other nodes"):
        migrate.optional(dsn, "row_level_security")
    async with connect(dsn) as db:
        with pytest.raises(
            LtmError, match="^users are not merged where the tables are distributed"
        ):
            await merge_users(db, 1, 2)


async def test_accesses_of_many_users_are_counted(dsn):
    connection = await asyncpg.connect(dsn)
    await connection.execute(
        "INSERT INTO ltm_memories (user_id, content) SELECT n, 'x' FROM generate_series(1, 20) AS n"
    )
    async with connect(dsn) as db:
        for user, memory in await connection.fetch("SELECT user_id, id FROM ltm_memories"):
            assert await get_memory(db, user, memory)
        await db.flush()
        stats = db.stats()
        assert (stats.queued, stats.recorded, stats.dropped) == (0, 20, 0)
    assert await connection.fetchval("SELECT sum(access_count) FROM ltm_memories") == 20
    await connection.close()
