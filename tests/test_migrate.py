"""Migrations: their files, applying them, rolling them back, many processes at once."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import asyncpg
import pytest

from ltm_store import SchemaOutdated, connect, migrate
from ltm_store.db.resources import migration_ids, resource_dir
from ltm_store.migrate import runner, views
from ltm_store.migrate.__main__ import main
from tests.catalog import fingerprint
from tests.conftest import has_vector
from tests.locks import WAITING
from tests.servers import with_options

FOLDER = resource_dir("migrations")
SNAPSHOT = Path(__file__).parent / "schema.txt"


async def catalog(dsn: str) -> list[str]:
    connection = await asyncpg.connect(dsn)
    try:
        return await fingerprint(connection)
    finally:
        await connection.close()


class Done(NamedTuple):
    """How a command ended."""

    returncode: int
    stdout: str
    stderr: str


@pytest.fixture
def command(capsys, monkeypatch) -> Callable[..., Done]:
    """Runs the command line in this process, with a DSN in DATABASE_URL if any."""

    def run(*arguments: str, dsn: str | None = None) -> Done:
        monkeypatch.delenv("LTM_DATABASE_URL", raising=False)
        monkeypatch.delenv("DATABASE_URL", raising=False)
        if dsn is not None:
            monkeypatch.setenv("DATABASE_URL", dsn)
        capsys.readouterr()
        try:
            code = main(arguments)
        except SystemExit as exit_:  # of argparse
            code = int(str(exit_.code))
        return Done(code, *capsys.readouterr())

    return run


def test_ids_are_numbered_without_gaps():
    assert [name[:4] for name in migration_ids()] == [
        f"{number:04d}" for number in range(1, len(migration_ids()) + 1)
    ]


@pytest.mark.parametrize("name", migration_ids())
def test_a_migration_says_why_depends_on_its_predecessor_and_can_be_undone(name):
    lines = (FOLDER / f"{name}.sql").read_text().splitlines()
    before = migration_ids().index(name) - 1
    assert re.fullmatch(r"-- [A-Z].*\.", lines[0])
    assert lines[1] == f"-- depends: {migration_ids()[before] if before >= 0 else ''}".rstrip()
    assert (FOLDER / f"{name}.rollback.sql").read_text().strip()


async def test_the_schema_is_the_snapshot(dsn):
    """After a change of the schema: LTM_SNAPSHOT=write make test, and read the difference."""
    lines = "\n".join(await catalog(dsn)) + "\n"
    if os.environ.get("LTM_SNAPSHOT") == "write":
        SNAPSHOT.write_text(lines)
    connection = await asyncpg.connect(dsn)
    version = connection.get_server_version().major
    await connection.close()
    if version != 18:
        pytest.skip("the snapshot is written by PostgreSQL 18")
    assert lines == SNAPSHOT.read_text()


async def test_every_object_is_explained(dsn):
    for line in await catalog(dsn):
        if line.startswith(("column", "table", "index", "function")):
            assert line.rsplit("|", 1)[1].strip(), line


async def test_constraints_and_indexes_are_named_after_their_table(dsn):
    connection = await asyncpg.connect(dsn)
    named = await connection.fetch(
        "SELECT conrelid::regclass::text AS owner, conname AS name FROM pg_constraint "
        "WHERE conrelid::regclass::text LIKE 'ltm\\_%' AND contype <> 'n' "
        "UNION SELECT indrelid::regclass::text, indexrelid::regclass::text FROM pg_index "
        "WHERE indrelid::regclass::text LIKE 'ltm\\_%'"
    )
    await connection.close()
    for owner, name in named:
        if not owner.startswith("ltm_migration"):
            assert name.startswith(f"{owner}_"), name
            assert not re.search(r"_check\d*$|_idx\d+$", name), name


async def test_up_down_up_of_every_migration_gives_the_same_catalog(empty):
    migrate.apply(empty)
    head = await catalog(empty)
    steps = []
    while rolled_back := migrate.rollback(empty):
        steps.append((rolled_back, await catalog(empty)))
    assert steps[-1][1] == []
    for rolled_back, below in reversed(steps):
        connection = await asyncpg.connect(empty)
        assert await fingerprint(connection) == below
        await connection.close()
        with runner.connected(empty) as session:
            runner.run_migrations(empty, session, rolled_back, "apply", lambda line: None)
            views.apply_views(session, lambda line: None, partly=True)
    assert await catalog(empty) == head


async def test_rolling_back_to_an_id_keeps_it(empty):
    migrate.apply(empty)
    last, before = migration_ids()[-1], migration_ids()[-3]
    migrate.rollback(empty, to=before)
    assert migrate.status(empty).applied[-1] == before
    assert migrate.rollback(empty, everything=True)[-1] == migration_ids()[0]
    assert migrate.status(empty).pending[-1] == last


async def test_processes_at_once_apply_each_migration_once(empty):
    program = [sys.executable, "-m", "ltm_store.migrate", "--dsn", empty]
    processes = [
        subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    outputs = [process.communicate(timeout=100) for process in processes]
    assert [process.returncode for process in processes] == [0] * 3, outputs
    applied = [line for out, _ in outputs for line in out.splitlines() if "] apply" in line]
    assert sorted(line.split()[2] for line in applied) == migration_ids()
    connection = await asyncpg.connect(empty)
    logged = await connection.fetch("SELECT migration_id FROM ltm_migration_log ORDER BY 1")
    await connection.close()
    assert [row[0] for row in logged] == migration_ids()


async def test_a_migration_that_fails_leaves_nothing_and_says_so(command, empty):
    connection = await asyncpg.connect(empty)
    await connection.execute("CREATE TABLE ltm_contexts (id integer)")
    done = command(dsn=empty)
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last == 'failed: 0004_contexts: relation "ltm_contexts" already exists'
    assert "Traceback" not in done.stderr
    assert migrate.status(empty).applied == migration_ids()[:3]
    await connection.execute("DROP TABLE ltm_contexts")
    await connection.close()
    assert migrate.apply(empty) == migration_ids()[3:]


async def test_a_migration_killed_before_it_is_noted_is_undone_and_taken_again(empty):
    migrate.apply(empty)
    migrate.rollback(empty, to=migration_ids()[2])
    blocker = await asyncpg.connect(empty)
    async with blocker.transaction():
        await blocker.execute("LOCK TABLE ltm_migrations IN SHARE MODE")  # stops the note alone
        process = subprocess.Popen([sys.executable, "-m", "ltm_store.migrate", "--dsn", empty])
        while not await blocker.fetchval(WAITING):
            assert process.poll() is None
        process.send_signal(signal.SIGKILL)
        process.wait(timeout=60)
    await blocker.close()
    assert migrate.apply(empty) == migration_ids()[3:]


async def test_a_table_in_use_is_asked_for_again(empty, monkeypatch):
    monkeypatch.setattr(runner, "TABLE_LOCK_MILLISECONDS", 20)
    monkeypatch.setattr(runner, "POLL_SECONDS", 0.001)
    migrate.apply(empty)
    before, last = "0006_accesses", "0007_tags"
    migrate.rollback(empty, to=before)
    reports: list[str] = []
    blocker = await asyncpg.connect(empty)
    transaction = blocker.transaction()
    await transaction.start()
    await blocker.execute("LOCK TABLE ltm_memories IN ACCESS EXCLUSIVE MODE")
    with pytest.raises(migrate.MigrationFailed, match=f"{last}: a table was in use each of 10"):
        migrate.apply(empty, reports.append)
    await transaction.rollback()
    await blocker.close()
    assert reports[0].startswith(f"{last} waits for a table that is in use")
    assert migrate.apply(empty)[0] == last


async def test_migrations_of_another_library_in_the_schema_are_not_taken_for_ours(empty):
    connection = await asyncpg.connect(empty)
    await connection.execute(
        "CREATE TABLE _yoyo_migration (migration_hash text, migration_id text)"
    )
    await connection.execute("INSERT INTO _yoyo_migration VALUES ('x', '0001_importance')")
    await connection.close()
    assert migrate.apply(empty) == migration_ids()


async def test_objects_live_in_the_first_schema_of_the_search_path(empty):
    connection = await asyncpg.connect(empty)
    await connection.execute("CREATE SCHEMA other")
    migrate.apply(with_options(empty, "-csearch_path=other,public"))
    assert await fingerprint(connection) == []
    await connection.execute("SET search_path = other")
    moved = await fingerprint(connection)
    await connection.close()
    assert moved


async def test_a_schema_in_front_gets_tables_of_its_own(empty):
    migrate.apply(empty)
    connection = await asyncpg.connect(empty)
    await connection.execute("CREATE SCHEMA app")
    front = with_options(empty, "-csearch_path=app,public")
    assert migrate.status(front).applied == []
    assert migrate.apply(front) == migration_ids()
    await connection.execute("SET search_path = app")
    assert await fingerprint(connection)
    await connection.close()


async def test_status_tells_what_is_pending_by_its_exit_code(command, empty):
    before = command("status", dsn=empty)
    assert (before.returncode, before.stdout.count("pending")) == (1, len(migration_ids()))
    assert command(dsn=empty).returncode == 0
    after = command("status", "--dsn", empty)
    assert (after.returncode, after.stdout.count("applied")) == (0, len(migration_ids()))
    again = command("apply", dsn=empty).stdout
    assert again.startswith("nothing to apply, the schema is current (ltm_test_")


def test_an_optional_step_says_why_it_failed(command, own_dsn):
    done = command("finish_adoption", dsn=own_dsn)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == (
        "failed: no adoption has come to its end here and waits to be finished"
    )


def test_tables_are_distributed_only_where_citus_is(command, own_dsn):
    done = command("distribute", dsn=own_dsn)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == (
        "failed: distribute: the database lacks the extension citus: CREATE EXTENSION citus, "
        "on every node"
    )
    assert not migrate.is_distributed(own_dsn)


async def test_the_module_runs_and_takes_the_first_variable(empty):
    environment = {**os.environ, "LTM_DATABASE_URL": empty, "DATABASE_URL": "postgresql://x@y:1/z"}
    done = subprocess.run(
        [sys.executable, "-m", "ltm_store.migrate", "status"],
        capture_output=True,
        text=True,
        env=environment,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (1, "")
    assert done.stdout.splitlines() == [f"pending  {name}" for name in migration_ids()]


def test_wrong_usage_and_a_missing_server_have_their_exit_codes(command):
    assert command("no_such_command", dsn="postgresql://x").returncode == 2
    missing = command("status", dsn="postgresql+asyncpg://nobody@127.0.0.1:1/none")
    assert missing.returncode == 1
    assert missing.stderr.startswith("failed: ")
    assert missing.stderr.count("\n") == 1


def test_a_dsn_that_cannot_be_read_is_not_repeated(command):
    done = command("status", "--dsn", "postgresq://u:secret@h/db")
    assert done.returncode == 1
    assert done.stderr.startswith("failed: dsn: ")
    assert "secret" not in done.stderr + done.stdout


async def test_a_server_without_the_extension_says_how_to_get_it(command, own_dsn, admin):
    if await has_vector(admin):
        pytest.skip("the server has the extension vector")
    done = command("embeddings", dsn=own_dsn)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith(
        "failed: embeddings: the server lacks the extension vector: install pgvector 0.7 or later"
    )


async def test_an_unmigrated_database_is_refused_by_name(empty):
    with pytest.raises(SchemaOutdated, match="python -m ltm_store.migrate") as caught:
        await connect(empty)
    assert caught.value.pending == tuple(migration_ids())


async def test_an_older_schema_is_refused_by_what_it_lacks(empty):
    migrate.apply(empty)
    migrate.rollback(empty)
    with pytest.raises(SchemaOutdated) as caught:
        await connect(empty)
    assert caught.value.pending == (migration_ids()[-1],)
    async with connect(empty, check_schema=False):
        pass


async def test_a_newer_schema_works_with_one_warning(own_dsn, caplog):
    connection = await asyncpg.connect(own_dsn)
    await connection.execute(
        "INSERT INTO ltm_migrations (migration_hash, migration_id) VALUES ('x', '9999_later')"
    )
    await connection.close()
    async with connect(own_dsn):
        pass
    (warning,) = caplog.records
    assert "9999_later" in warning.getMessage()
