"""The blocking functions: from threads, in running loops, after forks, with ordinary iterators."""

import asyncio
import inspect
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import ltm_store
from ltm_store import InvalidArgument, InvalidMemory, LtmError, sync

ROOT = Path(__file__).parent.parent
FUNCTIONS = [name for name in ltm_store.__all__ if inspect.isroutine(getattr(ltm_store, name))]
TYPES = """
from ltm_store import sync
from ltm_store.sync import Database
reveal_type(sync.add_memory)
with sync.connect("dsn", timeout=3) as db:
    reveal_type(db)
    reveal_type(sync.search_memories(db, 1, "x", tags=["a"], limit=3))
    reveal_type(next(sync.iterate_memories(db, 1)))
    reveal_type(sync.update_memory(db, 1, 2, content="x"))
    with db.transaction() as connection:
        reveal_type(sync.delete_memory(connection, 1, 2))
    sync.search_memories(db, 1, "x", tagz=["a"])
    sync.add_memory(db, 1, "x", importance_score="8")
    sync.add_memory(db, 1)
    sync.connect(timeouts=3)
"""


@pytest.fixture
def db(dsn: str):
    with sync.connect(dsn) as database:
        yield database


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_public_function_is_there_with_its_signature(name):
    """Where this fails, a line is missing at the end of ltm_store/sync.py."""
    ours, theirs = getattr(sync, name), getattr(ltm_store, name)
    assert inspect.signature(ours).parameters == inspect.signature(theirs).parameters
    assert ours.__doc__ == theirs.__doc__
    assert not inspect.iscoroutinefunction(ours)


@pytest.mark.parametrize("name", ["transaction", "flush", "stats", "close"])
def test_a_database_has_the_methods_of_the_asynchronous_one(name):
    ours, theirs = getattr(sync.Database, name), getattr(ltm_store.Database, name)
    assert inspect.signature(ours).parameters == inspect.signature(theirs).parameters


def test_a_type_checker_knows_arguments_and_results(tmp_path: Path):
    file = tmp_path / "snippet.py"
    file.write_text(TYPES)
    command = [sys.executable, "-m", "mypy", "--no-error-summary", str(file)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    told = [line.split(": ", 1)[1] for line in done.stdout.splitlines()]
    assert "content: str" in told[0]
    assert "importance_score: int" in told[0]
    assert told[1:6] == [
        'note: Revealed type is "ltm_store.sync.Database"',
        'note: Revealed type is "list[ltm_store.model.search.MemoryHit]"',
        'note: Revealed type is "ltm_store.model.memories.Memory"',
        'note: Revealed type is "ltm_store.model.memories.Memory | None"',
        'note: Revealed type is "bool"',
    ]
    kinds = [line.rpartition("[")[2] for line in told[6:] if line.startswith("error")]
    assert kinds == ["call-arg]", "arg-type]", "call-arg]", "call-arg]"]


def test_what_is_added_is_found(db: sync.Database):
    memory = sync.add_memory(db, "alice", "Likes green tea", tags=["drinks"])
    (hit,) = sync.search_memories(db, "alice", "tea")
    assert (hit.id, hit.tags) == (memory.id, ("drinks",))
    assert sync.get_memory(db, "alice", memory.id) == memory.model_copy(update={"outcome": None})
    assert sync.format_for_prompt([hit], max_chars=100).endswith("Likes green tea")


def test_errors_are_those_of_the_asynchronous_functions(db: sync.Database):
    with pytest.raises(InvalidMemory) as refused:
        sync.add_memory(db, "alice", "x", importance_score=11)
    assert refused.value.field == "importance_score"
    with pytest.raises(ltm_store.Unavailable):
        sync.connect("postgresql://127.0.0.1:1/none", timeout=0.5)


def test_only_a_database_of_this_module_is_taken(dsn: str):
    with pytest.raises(InvalidArgument, match=r"^db: should be a Database of ltm_store\.sync"):
        sync.get_memory(ltm_store.connect(dsn), 1, 1)  # type: ignore[arg-type]


def test_iterators_are_ordinary_ones(db: sync.Database):
    sync.add_memories(db, 1, [{"content": f"Memory {number}"} for number in range(230)])
    assert len(list(sync.iterate_memories(db, 1))) == 230
    lines = sync.export_user(db, 1)
    assert next(lines)["content"] == "Memory 0"
    assert db.stats().idle < db.stats().open
    lines.close()
    assert db.stats().idle == db.stats().open


def test_an_iterable_is_read_in_the_thread_of_the_call(db: sync.Database):
    threads = set()

    def contents():
        for number in range(3):
            threads.add(threading.current_thread())
            yield {"content": f"Memory {number}", "tags": (f"tag {number}" for _ in range(1))}

    def tags():
        threads.add(threading.current_thread())
        yield "lazy"

    assert sync.add_memories(db, 1, contents()).created == 3
    assert sync.add_memory(db, 1, "Lazy tags", tags=tags()).tags == ("lazy",)
    assert threads == {threading.current_thread()}


def test_what_an_iterable_raises_undoes_the_call(db: sync.Database):
    def contents(error):
        yield {"content": "first"}
        raise error

    with pytest.raises(ZeroDivisionError):
        sync.add_memories(db, 1, contents(ZeroDivisionError()))
    with pytest.raises(KeyboardInterrupt):
        sync.add_memories(db, 1, contents(KeyboardInterrupt()))
    assert sync.search_memories(db, 1) == []


def test_an_iterable_may_make_calls_of_its_own(db: sync.Database):
    sync.add_memory(db, 1, "Likes tea")
    copied = ({"content": memory.content} for memory in sync.iterate_memories(db, 1))
    assert sync.add_memories(db, 2, copied).created == 1


def test_a_transaction_is_committed_at_the_end_of_its_block(db: sync.Database):
    with db.transaction() as connection:
        memory = sync.add_memory(connection, 1, "Likes tea")
        assert sync.get_memory(db, 1, memory.id) is None
        assert connection.fetchval("SELECT count(*) FROM ltm_memories") == 1
    assert sync.get_memory(db, 1, memory.id) is not None


@pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt, SystemExit, StopIteration])
def test_an_error_undoes_a_transaction(db: sync.Database, error):
    with pytest.raises(error), db.transaction() as connection:  # noqa: PT012
        connection.execute("SET search_path TO nowhere, public")
        sync.add_memory(connection, 1, "Likes tea")
        raise error
    assert sync.search_memories(db, 1) == []
    assert db.stats().idle == db.stats().open


def test_a_function_of_ones_own_runs_with_the_asynchronous_database(db: sync.Database):
    async def both(database: ltm_store.Database, user: int) -> int:
        await ltm_store.add_memory(database, user, "Likes tea")
        return len(await ltm_store.search_memories(database, user))

    assert db.run(both, 1) == 1


def test_threads_share_a_database(db: sync.Database):
    def add_and_read(number: int) -> bool:
        memory = sync.add_memory(db, number % 3, f"Memory {number}")
        found = sync.get_memory(db, number % 3, memory.id)
        return found is not None and found.content == f"Memory {number}"

    with ThreadPoolExecutor(8) as threads:
        assert all(threads.map(add_and_read, range(80)))
    named = [thread for thread in threading.enumerate() if thread.name == "ltm_store.sync"]
    assert len(named) == 1


async def test_it_works_where_a_loop_runs(db: sync.Database):
    memory = sync.add_memory(db, 1, "Written in a notebook")
    assert sync.get_memory(db, 1, memory.id) is not None
    found = await asyncio.to_thread(sync.search_memories, db, 1)
    assert [hit.id for hit in found] == [memory.id]


def test_a_blocking_call_inside_of_another_one_is_told(db: sync.Database):
    async def contents():
        sync.search_memories(db, 1)
        yield {"content": "x"}

    with pytest.raises(LtmError, match="a blocking call inside of another one"):
        sync.add_memories(db, 1, contents())


def test_a_program_that_ends_writes_its_accesses(dsn: str):
    program = (
        "from ltm_store import sync\n"
        f"db = sync.connect({dsn!r})\n"
        "memory = sync.add_memory(db, 1, 'Likes tea')\n"
        "sync.get_memory(db, 1, memory.id)\n"
    )
    command = [sys.executable, "-W", "error", "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    with sync.connect(dsn) as db:
        assert sync.search_memories(db, 1)[0].access_count == 1


def test_a_fork_opens_its_own(dsn: str):
    """The parent's Database says so, and one that the child opens works."""
    program = f"""
import os, warnings
from ltm_store import LtmError, sync
db = sync.connect({dsn!r})
sync.add_memory(db, 1, "of the parent")
child = os.fork()
if child == 0:
    try:
        sync.search_memories(db, 1)
    except LtmError as error:
        assert "before a fork" in str(error), error
        with db:
            pass
        with sync.connect({dsn!r}) as mine:
            sync.add_memory(mine, 1, "of the child")
            raise SystemExit(7)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
print(len(sync.search_memories(db, 1)))
"""
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert (done.stdout, done.returncode) == ("2\n", 0), done.stderr


def test_a_database_that_is_closed_says_so(dsn: str):
    db = sync.connect(dsn)
    db.close()
    db.close()
    with pytest.raises(LtmError, match="closed"):
        sync.get_memory(db, 1, 1)


def test_an_interrupt_ends_the_call_that_waits(dsn: str):
    """As Ctrl-C does: the statement is cancelled, and the Database goes on."""
    program = f"""
import os, signal, threading
from ltm_store import sync
signal.signal(signal.SIGINT, signal.default_int_handler)  # also in the background
db = sync.connect({dsn!r})

def interrupt():
    running = "SELECT count(*) FROM pg_stat_activity WHERE query = 'SELECT pg_sleep(100)'"
    with db.transaction() as other:
        while not other.fetchval(running):
            other.execute("SELECT pg_stat_clear_snapshot()")
    os.kill(os.getpid(), signal.SIGINT)

threading.Thread(target=interrupt).start()
try:
    with db.transaction() as connection:
        connection.fetchval("SELECT pg_sleep(100)")
except KeyboardInterrupt:
    print(len(sync.search_memories(db, 1)))
"""
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, timeout=90, check=False)
    assert done.stdout == "0\n", done.stderr
