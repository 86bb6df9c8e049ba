"""Reads that go to a hot standby, and those that must not."""

import asyncio
from contextlib import asynccontextmanager

import asyncpg
import pytest

from ltm_store import (
    InvalidArgument,
    access_history,
    add_memories,
    add_memory,
    add_tags,
    connect,
    count_memories,
    delete_memory,
    export_user,
    forget_user,
    get_analytics,
    get_by_key,
    get_memories,
    get_memory,
    get_relationships,
    iterate_memories,
    list_tags,
    migrate,
    put_memory,
    relate,
    render_report,
    search_memories,
    update_memory,
)
from ltm_store.db import standby as module
from ltm_store.db.execute import fetch_one
from ltm_store.model.standby import PrimaryPosition
from tests import servers
from tests.conftest import created
from tests.servers import local_alone, with_user
from tests.wire import wire

pytestmark = pytest.mark.slow

HANG = 60  # seconds


@pytest.fixture(scope="module")
async def primary(admin, server, template):
    """The DSN of a database whose server has a standby."""
    async for dsn in created(admin, server, template):
        connection = await asyncpg.connect(dsn)
        name = await connection.fetchval("SELECT current_database()")
        await connection.execute(f"ALTER DATABASE {name} SET synchronous_commit = local")
        await connection.close()
        yield dsn


@pytest.fixture(scope="module")
async def standby(primary):
    for standby in servers.standby(primary):
        yield standby


@pytest.fixture
async def on_standby(standby):
    """A connection to the standby, which replays again at the end."""
    connection = await asyncpg.connect(standby.dsn)
    yield connection
    await connection.execute("SELECT pg_wal_replay_resume()")
    await connection.close()


@asynccontextmanager
async def opened(primary, standby, **options):
    """A Database whose reads go to the standby, with a user of the test's own."""
    async with connect(primary, read_dsn=standby, **options) as db:
        await forget_user(db, "alice")
        await goes_to_standby(db)
        yield db


async def read(db, memory_id):
    """A memory of alice's that is there."""
    memory = await get_memory(db, "alice", memory_id)
    assert memory is not None
    return memory


async def goes_to_standby(db):
    """Wait until a read goes to the standby."""
    async with asyncio.timeout(HANG):
        before = db.stats().standby_reads
        while db.stats().standby_reads == before:
            await count_memories(db, 1)
            await asyncio.sleep(0.001)


@asynccontextmanager
async def all_on(db, place):
    """Every read of the block goes to the standby, or to the primary."""
    other = {"standby": "primary", "primary": "standby"}[place]
    before = db.stats()._asdict()
    yield
    after = db.stats()._asdict()
    assert after[f"{other}_reads"] == before[f"{other}_reads"]
    assert after[f"{place}_reads"] > before[f"{place}_reads"]


async def test_reads_go_to_the_standby_and_their_accesses_to_the_primary(primary, standby):
    async with opened(primary, standby.dsn, max_lag=HANG) as db:
        memory = await put_memory(db, "alice", "k", "likes tea", tags=["a"])
        await goes_to_standby(db)
        async with all_on(db, "standby"):
            assert await get_memory(db, "alice", memory.id) is not None
            assert len(await get_memories(db, "alice", [memory.id])) == 1
            assert len(await search_memories(db, "alice", "tea")) == 1
            assert await get_by_key(db, "alice", "k") is not None
            assert [tag.tag_name for tag in await list_tags(db, "alice")] == ["a"]
            assert (await get_analytics(db, "alice")).total_memories == 1
            assert [m.id async for m in iterate_memories(db, "alice")] == [memory.id]
            assert await search_memories(db, "nobody", "tea") == []
        assert "tea" in await render_report(db, "alice")
        assert len([line async for line in export_user(db, "alice")]) == 1
        history = await access_history(db, "alice", memory.id)
        assert {access.access_method for access in history} == {"direct", "search"}
        assert len(history) == db.stats().recorded == 4


@local_alone
async def test_a_login_that_policies_bind_reads_its_users_there(primary, standby, admin):
    migrate.optional(primary, "row_level_security")
    await admin.execute("CREATE ROLE ltm_t_there LOGIN PASSWORD 'there' IN ROLE ltm_app")
    here, there = (with_user(dsn, "ltm_t_there", "there") for dsn in (primary, standby.dsn))
    try:
        async with connect(here, read_dsn=there, max_lag=HANG, row_level_security=True) as db:
            tea, coffee = [(await add_memory(db, u, "a drink")).id for u in ("ann", "ben")]
            await goes_to_standby(db)
            async with all_on(db, "standby"):
                asked = [(u, m) for u in ("ann", "ben") for m in (tea, coffee) for _ in range(8)]
                read = await asyncio.gather(*(get_memory(db, *one) for one in asked))
                assert [one for one, memory in zip(asked, read, strict=True) if memory] == (
                    [("ann", tea)] * 8 + [("ben", coffee)] * 8
                )
                assert [hit.id for hit in await search_memories(db, "ann", "drink")] == [tea]
                assert await count_memories(db, "carl") == 0
            await db.flush()
            assert db.stats().recorded == 17
            for user in ("ann", "ben"):
                await forget_user(db, user)
        with pytest.raises(InvalidArgument, match="row_level_security"):  # a superuser reads there
            await connect(here, read_dsn=standby.dsn, row_level_security=True)
    finally:
        await admin.execute("DROP ROLE ltm_t_there")
        migrate.optional(primary, "row_level_security", undo=True)


@local_alone
async def test_calls_that_wait_together_share_a_statement_on_the_standby(primary, standby):
    async with opened(primary, standby.dsn, max_lag=HANG) as db:
        ids = [(await add_memory(db, "alice", f"note {n}")).id for n in range(50)]
        await goes_to_standby(db)
        before = db.stats().standby_reads
        async with all_on(db, "standby"):
            found = await asyncio.gather(*(get_memory(db, "alice", n) for n in ids))
        assert [memory and memory.id for memory in found] == ids
        assert db.stats().standby_reads - before < 50


async def test_a_read_asks_nobody_whether_it_may_go_to_the_standby(primary, standby, monkeypatch):
    monkeypatch.setattr(module, "LOOK_SECONDS", HANG)
    async with (
        wire(primary) as here,
        wire(standby.dsn) as there,
        connect(here.dsn, read_dsn=there.dsn, max_lag=4 * HANG, coalesce=False) as db,
    ):
        await goes_to_standby(db)
        before = here.round_trips, there.round_trips
        for _ in range(20):
            assert await get_memory(db, 1, 1) is None
        trips = here.round_trips - before[0], there.round_trips - before[1]
    assert trips == (0, 21)  # the first one is prepared


async def _added(db):
    return (await add_memory(db, "alice", "x")).id


async def _put(db):
    return (await put_memory(db, "alice", "key", "x")).id


async def _in_transaction(db):
    async with db.transaction() as connection:
        return (await add_memory(connection, "alice", "x")).id


async def _imported(db):
    await add_memories(db, "alice", [{"content": "x", "category": "imported"}])
    (hit,) = await search_memories(db, "alice", category="imported")
    return hit.id


@local_alone
async def test_what_this_database_wrote_is_seen_at_once(primary, standby, on_standby, monkeypatch):
    """By a standby that stands still, so that a single read of it would tell."""
    monkeypatch.setattr(module, "SOON_SECONDS", 0)
    async with opened(primary, standby.dsn, max_lag=HANG, coalesce="writes") as db:
        first = await add_memory(db, "alice", "first")
        await goes_to_standby(db)
        await on_standby.execute("SELECT pg_wal_replay_pause()")
        async with all_on(db, "standby"):
            assert (await read(db, first.id)).content == "first"

        async def again():
            """Let the standby have all so far."""
            await on_standby.execute("SELECT pg_wal_replay_resume()")
            await goes_to_standby(db)
            await on_standby.execute("SELECT pg_wal_replay_pause()")

        await update_memory(db, "alice", first.id, content="second")
        async with all_on(db, "primary"):
            for _ in range(100):  # and looks between them
                assert (await read(db, first.id)).content == "second"
        for write in (_added, _put, _in_transaction, _imported):
            await again()
            number = await write(db)
            assert (await read(db, number)).content == "x"
        await again()
        await asyncio.gather(*(add_memory(db, "alice", f"many {n}") for n in range(50)))
        assert await count_memories(db, "alice", "many") == 50
        await again()
        await add_tags(db, "alice", first.id, ["new"])
        assert (await read(db, first.id)).tags == ("new",)
        await again()
        await relate(db, "alice", first.id, number, "causes")
        assert len(await get_relationships(db, "alice", first.id)) == 1
        await db.flush()
        await again()
        count = (await read(db, first.id)).access_count
        await db.flush()
        assert (await read(db, first.id)).access_count > count
        await again()
        assert await delete_memory(db, "alice", first.id)
        assert await get_memory(db, "alice", first.id) is None
        await again()
        await forget_user(db, "alice")
        assert await count_memories(db, "alice") == 0


async def test_accesses_that_are_counted_in_the_background_send_no_read_away(
    primary, standby, on_standby
):
    async with opened(primary, standby.dsn, max_lag=HANG) as db:
        memory = await add_memory(db, "alice", "x")
        await goes_to_standby(db)
        await on_standby.execute("SELECT pg_wal_replay_pause()")
        async with all_on(db, "standby"), asyncio.timeout(HANG):
            while not db.stats().recorded:
                await read(db, memory.id)
            await read(db, memory.id)


async def test_nobody_misses_a_write_of_its_own_while_all_write(primary, standby):
    async with opened(primary, standby.dsn) as db:

        async def one(task):
            for n in range(25):
                memory = await add_memory(db, "alice", f"{task} {n}")
                assert await get_memory(db, "alice", memory.id) is not None
                await update_memory(db, "alice", memory.id, content="changed")
                assert (await read(db, memory.id)).content == "changed"

        await asyncio.gather(*map(one, range(8)))
        await goes_to_standby(db)
        async with all_on(db, "standby"):
            assert await count_memories(db, "alice") == 200


@local_alone
async def test_a_standby_that_is_late_gets_no_reads(primary, standby, on_standby, caplog):
    async with opened(primary, standby.dsn, max_lag=0.4) as db, connect(primary) as other:
        await on_standby.execute("SELECT pg_wal_replay_pause()")
        memory = await add_memory(other, "alice", "of another process")
        caplog.clear()
        async with asyncio.timeout(HANG):
            while not caplog.records:
                await count_memories(db, 1)
        async with all_on(db, "primary"):
            assert await get_memory(db, "alice", memory.id) is not None
        await on_standby.execute("SELECT pg_wal_replay_resume()")
        await goes_to_standby(db)
    assert all("behind" in message for message in caplog.messages)


async def test_the_head_of_a_page_is_no_write_that_the_standby_lacks(primary):
    connection = await asyncpg.connect(primary)
    for _ in range(20):  # for somebody may write in between
        await connection.execute("SELECT pg_switch_wal()")
        position = await fetch_one(connection, "primary_position", PrimaryPosition)
        assert position is not None
        if position.written == position.flushed:
            break
    else:
        raise AssertionError("the log never ends where it is on disk")
    await connection.close()


async def test_an_idle_primary_is_not_lag(primary, standby):
    """Far longer than max_lag."""
    async with opened(primary, standby.dsn, max_lag=0.1) as db:
        clock = asyncio.get_running_loop().time
        ends = clock() + 1
        while clock() < ends:
            await goes_to_standby(db)


async def test_a_standby_that_is_killed_fails_no_read_and_comes_back(primary, standby, caplog):
    async with opened(primary, standby.dsn) as db:
        memory = await add_memory(db, "alice", "x")
        await goes_to_standby(db)
        running = True

        async def read_on():
            while running:
                await read(db, memory.id)

        reading = [asyncio.create_task(read_on()) for _ in range(8)]
        await asyncio.to_thread(standby.stop)
        async with all_on(db, "primary"):
            assert await get_memory(db, "alice", memory.id) is not None
        assert db.stats().standby_lag is None
        await asyncio.to_thread(standby.start)
        await goes_to_standby(db)
        running = False
        await asyncio.gather(*reading)
    assert [record.event for record in caplog.records] == ["standby_unused"]
    assert not [text for text in caplog.messages if "tea" in text]


async def test_sessions_that_the_standby_ends_fail_no_read(primary, standby, on_standby):
    async with opened(primary, standby.dsn) as db:
        memory = await add_memory(db, "alice", "x")
        for _ in range(5):
            await goes_to_standby(db)
            reads = [get_memory(db, "alice", memory.id) for _ in range(20)]
            ending = on_standby.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE application_name = 'ltm_store' AND backend_type = 'client backend'"
            )
            found, _ = await asyncio.gather(asyncio.gather(*reads), ending)
            assert all(found)


async def test_a_standby_that_falls_silent_does_not_hold_a_read_for_its_timeout(primary, standby):
    async with wire(standby.dsn) as there, opened(primary, there.dsn, timeout=HANG) as db:
        memory = await add_memory(db, "alice", "x")
        await goes_to_standby(db)
        there.swallowing = True
        async with asyncio.timeout(HANG / 2):
            assert await get_memory(db, "alice", memory.id) is not None
        there.swallowing = False
        await goes_to_standby(db)


@local_alone
async def test_a_promoted_standby_is_never_believed(primary, standby, monkeypatch, caplog):
    """Though the task does not look again before the reads."""
    monkeypatch.setattr(module, "LOOK_SECONDS", HANG)
    for other in servers.standby(primary):
        async with opened(primary, other.dsn, max_lag=4 * HANG) as db:
            memory = await add_memory(db, "alice", "of the primary")
            await goes_to_standby(db)
            await asyncio.to_thread(other.promote)
            promoted = await asyncpg.connect(other.dsn)
            await promoted.execute("UPDATE ltm_memories SET content = 'of the promoted one'")
            for _ in range(3):
                assert (await read(db, memory.id)).content == "of the primary"
            await add_memory(db, "alice", "more")
            assert await count_memories(db, "alice") == 2
            assert await promoted.fetchval("SELECT count(*) FROM ltm_memories") == 1
            assert db.stats().standby_lag is None
            await promoted.close()
        assert [record.event for record in caplog.records] == ["standby_unused"]
        assert "primary itself" in caplog.messages[0]

        # A standby of the old primary is none of the promoted one, though it is at a later place.
        async with opened(primary, standby.dsn) as db:
            await add_memories(db, "alice", [{"content": "x" * 100}] * 1000)
            await goes_to_standby(db)
        async with connect(other.dsn, read_dsn=standby.dsn) as db, all_on(db, "primary"):
            assert await count_memories(db, "alice") == 1
        assert "behind a promotion" in caplog.messages[-1]


async def test_a_server_that_is_no_standby_gets_no_reads(primary, standby, caplog):
    async with connect(primary, read_dsn=primary) as db, all_on(db, "primary"):
        await count_memories(db, 1)
    assert "primary itself" in caplog.messages[-1]
    async with connect(standby.dsn, read_dsn=standby.dsn) as db, all_on(db, "primary"):
        await count_memories(db, 1)
    assert "a standby itself" in caplog.messages[-1]


async def test_a_standby_that_asks_standbys_of_other_nodes_gets_no_reads(primary, standby, caplog):
    setting = "options=-ccitus.use_secondary_nodes%3Dalways"
    asking = f"{standby.dsn}{'&' if '?' in standby.dsn else '?'}{setting}"
    async with connect(primary, read_dsn=asking) as db, all_on(db, "primary"):
        await count_memories(db, 1)
    assert "standbys of other nodes" in caplog.messages[-1]


async def test_a_standby_that_is_not_there_at_the_opening(primary, caplog):
    async with connect(primary, read_dsn="postgresql://h/x?host=/nowhere") as db:
        async with all_on(db, "primary"):
            await count_memories(db, 1)
        assert db.stats().standby_lag is None
    assert [record.event for record in caplog.records] == ["standby_unused"]


@pytest.mark.parametrize(
    ("argument", "options"),
    [
        ("max_lag", {"max_lag": 0}),
        ("max_lag", {"max_lag": float("nan")}),
        ("max_lag", {"max_lag": -1.0}),
        ("read_dsn", {"read_dsn": ""}),
        ("read_dsn", {"read_dsn": 5}),
        ("read_dsn", {"read_dsn": "mysql://h/d"}),
        ("read_dsn", {"read_dsn": "postgresql://h/d?nonsense=1"}),
        ("read_dsn", {"read_dsn": "postgresql://h/d?pgbouncer=true"}),
        ("read_dsn", {"read_dsn": "postgresql://one,two/d"}),
        ("read_dsn", {"read_dsn": "host=one,two dbname=d"}),
        ("read_dsn", {"read_dsn": "postgresql://h:port/d"}),
    ],
)
async def test_what_cannot_be_a_standby_is_refused_by_name(dsn, argument, options):
    with pytest.raises(InvalidArgument) as refused:
        await connect(dsn, **options)
    assert refused.value.field == argument


async def test_without_a_standby_nothing_is_told(db):
    await count_memories(db, 1)
    assert db.stats()[7:] == (None, 0, 0)
