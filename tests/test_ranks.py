"""ltm_memory_ranks, the order of importance beside the memories: whoever writes, it is in step."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import asyncpg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ltm_store import (
    Memory,
    NewMemory,
    add_memories,
    add_memory,
    add_tags,
    archive_memory,
    archive_stale,
    check_health,
    connect,
    delete_memory,
    export_user,
    forget_user,
    get_memory,
    import_user,
    record_access,
    restore_memory,
    search_memories,
    update_importance,
    update_memory,
)
from tests.servers import local_alone

LATER = datetime(2030, 1, 1, tzinfo=UTC)
COLUMNS = (
    "user_id, {id}, importance_rank, importance_score, created_at, memory_type, category, "
    "source_type, created_by, namespace, is_archived"
)
BY_HAND = (
    "INSERT INTO ltm_memories (user_id, content) VALUES (1, 'by hand'), (2, 'by hand')",
    "UPDATE ltm_memories SET is_archived = NULL, importance_score = NULL WHERE id % 2 = 0",
    "UPDATE ltm_memories SET category = 'moved', created_at = NULL, source_type = 'manual'",
    "UPDATE ltm_memories SET access_count = access_count + 7, memory_type = 'fact'",
    "UPDATE ltm_memories SET is_archived = TRUE, confidence_score = 0 WHERE id % 3 = 0",
    "UPDATE ltm_memories SET created_by = NULL, namespace = 'moved.' || id",
    "DELETE FROM ltm_memories WHERE parent_memory_id IS NULL AND id % 5 = 0",
)


async def ranks(conn: asyncpg.Connection, table: str, name: str) -> list[tuple[object, ...]]:
    query = f"SELECT {COLUMNS.format(id=name)} FROM {table} ORDER BY user_id, {name}"
    return [tuple(row) for row in await conn.fetch(query)]


async def is_in_step(conn: asyncpg.Connection) -> bool:
    """Whether both tables say the same; ltm_health must think so too."""
    same = await ranks(conn, "ltm_memories", "id") == await ranks(
        conn, "ltm_memory_ranks", "memory_id"
    )
    found = {problem.check_name for problem in await check_health(conn)}
    assert ("rank_out_of_step" in found) is not same
    return same


async def write(conn: asyncpg.Connection, step: str, known: list[Memory], drawn: int) -> None:
    """One step of a history."""
    memory = known[drawn % len(known)] if known else None
    match step:
        case "add":
            await add_memory(conn, 1, f"memory {drawn}", importance_score=1 + drawn % 10)
        case "add many":
            await add_memories(conn, 1, [NewMemory(content=f"{n} of {drawn}") for n in range(3)])
        case "import":
            lines = [line async for line in export_user(conn, 1)]
            await import_user(conn, 2, lines)
        case "by hand":
            await conn.execute(BY_HAND[drawn % len(BY_HAND)])
        case "archive stale":
            await archive_stale(conn, 1, below=1 + drawn % 8, as_of=LATER)
        case "forget":
            await forget_user(conn, 2)
        case "update" if memory:
            await update_memory(conn, 1, memory.id, category=f"c{drawn % 3}", importance_score=7)
        case "update importance" if memory:
            await update_importance(conn, 1, memory.id, 1 + drawn % 10)
        case "access" if memory:
            await record_access(conn, 1, [memory.id])
        case "archive" if memory:
            await archive_memory(conn, 1, memory.id)
        case "restore" if memory:
            await restore_memory(conn, 1, memory.id)
        case "tag" if memory:
            await add_tags(conn, 1, memory.id, [f"t{drawn % 4}"])
        case "delete" if memory:
            await delete_memory(conn, 1, memory.id)


STEPS = (
    "add",
    "add many",
    "import",
    "by hand",
    "archive stale",
    "forget",
    "update",
    "update importance",
    "access",
    "archive",
    "restore",
    "tag",
    "delete",
)


@local_alone
@pytest.mark.slow
@given(st.lists(st.tuples(st.sampled_from(STEPS), st.integers(0, 1000)), max_size=25))
async def test_every_writing_function_leaves_the_ranks_in_step(conn, history):
    for step, drawn in [("add", 1), *history]:
        known = await search_memories(conn, 1, limit=100, include_archived=True)
        await write(conn, step, list(known), drawn)
        assert await is_in_step(conn), step


@pytest.fixture
async def committing(dsn: str) -> AsyncIterator[asyncpg.Connection]:
    """A connection to the database of `dsn`."""
    connection = await asyncpg.connect(dsn)
    yield connection
    await connection.close()


@pytest.mark.parametrize("tracking", ["immediate", "deferred"])
async def test_a_tracked_read_leaves_the_ranks_in_step(tracking, dsn, committing):
    memory = await add_memory(committing, 1, "old", created_at=datetime(2025, 1, 1, tzinfo=UTC))
    async with connect(dsn, access_tracking=tracking) as db:
        await get_memory(db, 1, memory.id)
    assert await is_in_step(committing)
    after = await committing.fetchval("SELECT importance_rank FROM ltm_memory_ranks")
    assert after > memory.importance_rank


async def test_what_others_insert_is_listed(conn):
    await conn.execute("INSERT INTO ltm_memories (user_id, content) VALUES (1, 'in psql')")
    assert [hit.content for hit in await search_memories(conn, 1)] == ["in psql"]


@local_alone
async def test_a_disabled_trigger_is_found(own_dsn):
    conn = await asyncpg.connect(own_dsn)
    await conn.execute("ALTER TABLE ltm_memories DISABLE TRIGGER ltm_memories_keep_rank")
    await add_memory(conn, 1, "lost")
    assert not await is_in_step(conn)
    await conn.execute("ALTER TABLE ltm_memories ENABLE TRIGGER ltm_memories_keep_rank")
    await update_importance(conn, 1, 1, 9)  # makes the missing row
    assert await is_in_step(conn)
    await conn.execute("ALTER TABLE ltm_memories DISABLE TRIGGER ltm_memories_keep_changed_rank")
    await update_importance(conn, 1, 1, 2)
    assert not await is_in_step(conn)
    await conn.close()


@local_alone
async def test_an_access_enters_no_index_of_the_memories_anew(own_dsn):
    """Whether it moves the rank or not, and the row of ranks is written only where it does."""
    conn = await asyncpg.connect(own_dsn)
    memory = await add_memory(conn, 1, "x", created_at=datetime.now(UTC) - timedelta(days=100))
    written = []
    for _ in range(3):
        await record_access(conn, 1, [memory.id])
        await conn.execute("SELECT pg_stat_force_next_flush()")
        (counts,) = await conn.fetch(
            "SELECT m.n_tup_upd, m.n_tup_hot_upd, k.n_tup_upd "
            "FROM pg_stat_user_tables AS m CROSS JOIN pg_stat_user_tables AS k "
            "WHERE m.relname = 'ltm_memories' AND k.relname = 'ltm_memory_ranks'"
        )
        written.append(tuple(counts))
    await conn.close()
    assert written == [(1, 1, 1), (2, 2, 1), (3, 3, 2)]  # the count's steps are at 1 and 3


@local_alone
async def test_whoever_may_write_memories_needs_no_right_on_ranks(own_dsn):
    """Nor the schema in search_path, and what it puts there itself is not taken."""
    owner = await asyncpg.connect(own_dsn)
    await owner.execute(
        "CREATE ROLE ltm_test_writer; GRANT USAGE ON SCHEMA public TO ltm_test_writer; "
        "GRANT SELECT, INSERT, UPDATE, DELETE ON ltm_memories, ltm_contexts, "
        "ltm_memory_relationships, ltm_memory_access, ltm_memory_tags TO ltm_test_writer"
    )
    writer = await asyncpg.connect(own_dsn)
    await writer.execute("SET ROLE ltm_test_writer; SET search_path = pg_catalog")
    await writer.execute("CREATE TEMP TABLE ltm_memory_ranks (memory_id bigint)")
    insert = "INSERT INTO public.ltm_memories (user_id, content) VALUES (1, 'theirs')"
    for statement in (
        f"{insert}, (1, 'twice')",
        "UPDATE public.ltm_memories SET importance_score = 7 WHERE content = 'twice'",
        "DELETE FROM public.ltm_memories WHERE content = 'theirs'",
    ):
        await writer.execute(statement)
        assert await is_in_step(owner)
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await writer.execute("DELETE FROM public.ltm_memory_ranks")
    assert await owner.fetchval("SELECT count(*) FROM ltm_memory_ranks") == 1
    await writer.close()
    await owner.execute("DROP OWNED BY ltm_test_writer; DROP ROLE ltm_test_writer")
    await owner.close()


async def test_rows_that_are_copied_in_are_listed(conn):
    await conn.copy_records_to_table(
        "ltm_memories", records=[(1, f"line {n}") for n in range(3)], columns=["user_id", "content"]
    )
    assert await is_in_step(conn)
    assert len(await search_memories(conn, 1)) == 3
