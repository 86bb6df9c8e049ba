"""What is right on Citus alone; most other tests run there too, where LTM_TEST_CITUS is given."""

import asyncio
import re
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any, Final

import asyncpg
import pytest
from asyncpg.pool import PoolConnectionProxy

from ltm_store import (
    Database,
    Memory,
    Unavailable,
    add_memories,
    add_memory,
    add_tags,
    connect,
    delete_by_keys,
    delete_memory,
    find_similar,
    get_by_key,
    get_memory,
    get_relationships,
    list_tags,
    merge_users,
    migrate,
    put_memories,
    put_memory,
    record_access,
    relate,
    update_memory,
)
from ltm_store.db.statements import DISTRIBUTED, Shape, Statement
from tests.catalog import fingerprint
from tests.locks import WAITING
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
ELSEWHERE: Final = {"add_memories_together", "get_memories_together"}
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


NAMES: Final = [
    f"ltm_{name}"
    for name in (
        "contexts",
        "external_users",
        "memories",
        "memory_access",
        "memory_ranks",
        "memory_relationships",
        "memory_tags",
    )
]


async def schema_of(connection: asyncpg.Connection) -> list[str]:
    """Every object, but for parentheses: a trigger that is made again has fewer."""
    return sorted(re.sub(r"[()]", "", line) for line in await fingerprint(connection))


async def contents(connection: asyncpg.Connection) -> list[str]:
    """Every row of every table."""
    return [
        row[0]
        for table in NAMES
        for row in await connection.fetch(
            f"SELECT '{table} ' || to_jsonb(t)::text FROM {table} t ORDER BY 1"
        )
    ]


async def test_what_is_stored_is_distributed_and_leaves_nothing_on_this_node(empty, plain):
    before = await contents(plain)
    lines: list[str] = []
    migrate.optional(empty, "distribute", report=lines.append)
    assert lines == []
    assert [row[0] for row in await plain.fetch(TABLES)] == NAMES
    assert await contents(plain) == before
    for name in NAMES[:1] + NAMES[2:]:  # that of the external users is a copy of its own
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


async def test_the_way_back_loses_no_row_and_no_write(empty, plain):
    """While others write, who need not connect again."""
    before, schema = await contents(plain), await schema_of(plain)
    migrate.optional(empty, "distribute")
    added: list[Memory] = []
    began, stop = asyncio.Barrier(5), asyncio.Event()

    async def write(db: Database, user: int) -> None:
        added.append(await add_memory(db, user, "before it runs", tags=["t"]))
        await began.wait()
        while not stop.is_set():
            added.append(await add_memory(db, user, "while it runs", tags=["t"]))

    async with connect(empty) as db:
        writers = [asyncio.create_task(write(db, 1000 + task)) for task in range(4)]
        lines: list[str] = []
        await began.wait()
        await asyncio.to_thread(
            migrate.optional, empty, "distribute", undo=True, report=lines.append
        )
        there = len(added)
        stop.set()
        await asyncio.gather(*writers)
        for memory in added:
            found = await get_memory(db, memory.user_id, memory.id)
            assert found is not None
            assert found.tags == memory.tags
        assert len(added) > there > 4
        await db.flush()
    assert not migrate.is_distributed(empty)
    assert await schema_of(plain) == schema
    for table in NAMES:
        await plain.execute(f"DELETE FROM {table} WHERE user_id >= 1000")
    assert await contents(plain) == before
    migrate.optional(empty, "distribute", undo=True, report=lines.append)
    assert lines[-1] == "the tables are not distributed"


async def test_a_way_back_that_fails_leaves_all_as_it_was(empty, plain):
    migrate.optional(empty, "distribute")
    before, schema = await contents(plain), await schema_of(plain)
    await plain.execute("CREATE VIEW of_another AS SELECT count(*) FROM ltm_memory_tags")
    with pytest.raises(migrate.MigrationFailed, match="view of_another depends on"):
        migrate.optional(empty, "distribute", undo=True)
    await plain.execute("DROP VIEW of_another")
    assert (await contents(plain), await schema_of(plain)) == (before, schema)
    assert [row[0] for row in await plain.fetch(TABLES)] == NAMES


@pytest.mark.parametrize("steps", [("embeddings", "distribute"), ("distribute", "embeddings")])
async def test_vectors_are_beside_their_memories_whichever_step_comes_first(
    empty, plain, vectors, steps
):
    for step in (*steps, "embeddings"):
        migrate.optional(empty, step)
    assert (
        await plain.fetchval(
            "SELECT count(DISTINCT colocation_id) FROM citus_tables "
            "WHERE table_name IN ('ltm_memories'::regclass, 'ltm_embeddings'::regclass)"
        )
        == 1
    )
    async with connect(empty) as db:
        firsts: dict[int, Memory] = {}
        for user in range(1, 9):
            first = firsts[user] = await add_memory(db, user, "one", embedding=[1.0, 0.0])
            second = await add_memory(db, user, "two", embedding=[1.0, 0.1])
            (hit,) = await find_similar(db, user, first.id)
            assert hit.id == second.id
        report = await merge_users(db, 1, 2)
        assert report.counts["ltm_memories"] == 12
        assert len(await find_similar(db, 2, firsts[2].id)) == 3
    stored = "SELECT e::text FROM ltm_embeddings AS e ORDER BY 1"
    before = await plain.fetch(stored)
    migrate.optional(empty, "distribute", undo=True)
    assert await plain.fetch(stored) == before
    assert len(before) == 16


async def test_months_come_back_too(empty, plain):
    migrate.optional(empty, "partition_accesses")
    before, schema = await contents(plain), await schema_of(plain)
    await plain.execute("GRANT SELECT ON ltm_memory_access TO pg_monitor")
    migrate.optional(empty, "distribute")
    migrate.optional(empty, "distribute", undo=True)
    assert (await contents(plain), await schema_of(plain)) == (before, schema)
    assert await plain.fetchval(
        "SELECT has_table_privilege('pg_monitor', 'ltm_memory_access', 'SELECT')"
    )


async def test_everything_is_rolled_back(empty, plain):
    migrate.optional(empty, "distribute")
    assert migrate.rollback(empty, everything=True)
    assert await plain.fetch(TABLES) == []


async def test_what_does_not_work_there_says_so(dsn):
    with pytest.raises(migrate.MigrationFailed, match="does not reach the other nodes"):
        migrate.optional(dsn, "row_level_security")


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


async def overtaken(
    other: Database, put: Callable[[], Coroutine[Any, Any, list[Memory]]]
) -> list[Memory]:
    """What a put gives that found no memory with its key, and waits for one who adds it."""
    async with other.transaction() as first:
        await put_memory(first, 1, "k", "theirs", tags=["a"])
        putting = asyncio.create_task(put())
        while not await first.fetchval(WAITING):
            assert not putting.done()
    return await putting


def puts(
    executor: Database | asyncpg.Pool | PoolConnectionProxy,
) -> list[Callable[[], Coroutine[Any, Any, list[Memory]]]]:
    async def one() -> list[Memory]:
        return [await put_memory(executor, 1, "k", "ours", tags=["b"])]

    async def many() -> list[Memory]:
        given = [{"key": key, "content": "ours", "tags": ["b"]} for key in ("j", "k")]
        return await put_memories(executor, 1, given)

    return [one, many]


@pytest.mark.parametrize("which", [0, 1], ids=["one", "many"])
async def test_a_put_that_another_overtakes_comes_after_it(dsn, which):
    async with connect(dsn) as db, asyncpg.create_pool(dsn, min_size=1) as pool:
        for executor in (db, pool):
            put = (await overtaken(db, puts(executor)[which]))[-1]
            assert (put.outcome, put.content, put.tags) == ("replaced", "ours", ("b",))
            assert [tag.tag_name for tag in await list_tags(db, 1)] == ["b"]
            await delete_by_keys(db, 1, [(None, "j"), (None, "k")])


@pytest.mark.parametrize("which", [0, 1], ids=["one", "many"])
async def test_a_put_that_another_overtakes_ends_the_callers_transaction(dsn, which):
    async with connect(dsn) as other, asyncpg.create_pool(dsn, min_size=1) as pool:
        with pytest.raises(Unavailable, match="begin the transaction again") as told:
            async with pool.acquire() as conn, conn.transaction():
                await overtaken(other, puts(conn)[which])
        assert told.value.rolled_back
        kept = await get_by_key(other, 1, "k")
        assert kept is not None
        assert (kept.content, kept.tags) == ("theirs", ("a",))


GROUP = (
    "SELECT groupid FROM pg_dist_placement "
    "WHERE shardid = get_shard_id_for_distribution_column('ltm_memories', $1::bigint)"
)


async def test_while_a_node_is_down_users_of_the_others_go_on(own_dsn):
    connection = await asyncpg.connect(own_dsn)
    async with connect(own_dsn) as db:
        added: dict[int | str, Memory] = {
            user: await add_memory(db, user, "x")
            for user in (*range(1, 9), *(f"name {n}" for n in range(8)))
        }
        groups = {
            user: await connection.fetchval(GROUP, memory.user_id) for user, memory in added.items()
        }
        here, there, named = (
            next(user for user in users if (groups[user] == groups[1]) is alive)
            for users, alive in (
                (range(1, 9), True),
                (range(1, 9), False),
                ((f"name {n}" for n in range(8)), True),
            )
        )
        # The last port: the first node is asked where a row of ltm_external_users is locked.
        await connection.execute(
            f"UPDATE pg_dist_node SET nodeport = 65535 WHERE groupid = {groups[there]}"
        )
        db.external_users.clear()
        await add_memory(db, named, "new")
        old, other = added[here], await add_memory(db, here, "y")
        many: dict[str, Any] = {
            "tags": ["a", "b"],
            "related_memory_ids": [old.id],
            "enhanced_context": {"social": {"mood": "calm"}},
        }
        for more in (
            {},
            many,
            many | {"idempotency_key": "i"},
            many | {"namespace": "n", "key": "k", "idempotency_key": "j"},
        ):
            assert (await add_memory(db, here, "new", **more)).outcome == "created"
        for key, again in (("i", dict[str, Any]()), ("j", {"namespace": "n", "key": "k"})):
            found = await add_memory(db, here, "new", idempotency_key=key, **many, **again)
            assert found.outcome == "existing"
        for outcome in ("created", "replaced"):
            kept = await put_memory(db, here, "p", outcome, namespace="n", **many)
            assert kept.outcome == outcome
        assert await update_memory(db, here, old.id, tags=["c"], enhanced_context=None)
        assert await add_tags(db, here, old.id, ["d"])
        assert await relate(db, here, old.id, other.id)
        assert await record_access(db, here, [old.id, other.id]) == 2
        assert (await add_memories(db, here, [{"content": "m"}] * 3)).created == 3
        read = await get_memory(db, here, kept.id)
        assert read is not None
        assert (read.tags, len(await get_relationships(db, here, kept.id))) == (("a", "b"), 1)
        assert await delete_memory(db, here, other.id)
        for user in (there, "another name"):
            with pytest.raises(Unavailable):
                await add_memory(db, user, "x")
        await db.flush()
        assert db.stats().queued == 0
    await connection.close()
