"""The views as code: made again when their files change, whatever hangs on them."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import asyncpg
import pytest

from ltm_store import check_health, migrate
from ltm_store.db import resources, statements
from ltm_store.db.resources import migration_ids, resource_dir
from ltm_store.migrate import runner, views
from ltm_store.migrate.__main__ import main
from tests.catalog import fingerprint
from tests.servers import with_options

OVERVIEW = "ltm_memory_overview"


@pytest.fixture
def files(tmp_path: Path, monkeypatch) -> Path:
    """Another version's folder with sql/ and migrations/, to be changed at will."""
    for name in ("sql", "migrations"):
        shutil.copytree(resource_dir(name), tmp_path / name)
    monkeypatch.setattr(resources, "_PACKAGE", tmp_path)
    return tmp_path


@pytest.fixture
def dsn(own_dsn: str) -> str:
    """These tests alter their database."""
    return own_dsn


@pytest.fixture
async def conn(dsn):
    connection = await asyncpg.connect(dsn)
    yield connection
    await connection.close()


def write(files: Path, name: str, columns: str, source: str = "ltm_memories AS m") -> None:
    """A view of these columns."""
    text = f"CREATE OR REPLACE VIEW {name} AS SELECT {columns} FROM {source};\n"
    (files / "sql" / "views" / f"{name}.sql").write_text(text)


def edit(files: Path, name: str, old: str, new: str) -> None:
    path = files / "sql" / "views" / f"{name}.sql"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


async def columns(conn: asyncpg.Connection, view: str) -> list[str]:
    rows = await conn.fetch(
        "SELECT attname FROM pg_attribute WHERE attrelid = to_regclass($1) ORDER BY attnum", view
    )
    return [row["attname"] for row in rows]


def made(lines: list[str]) -> list[str]:
    """Which views a run has made, in order."""
    (line,) = [line for line in lines if line.startswith("views made: ")]
    return line.removeprefix("views made: ").split(", ")


def test_every_file_makes_the_view_of_its_name():
    for file in (resource_dir("sql") / "views").glob("*.sql"):
        assert f"CREATE OR REPLACE VIEW {file.stem} WITH (security_invoker = TRUE)" in (
            file.read_text()
        )


async def test_views_that_did_not_change_are_left_alone(dsn, conn):
    before = await conn.fetchval("SELECT max(xmin::text::bigint) FROM pg_class")
    lines: list[str] = []
    assert migrate.apply(dsn, lines.append) == []
    assert lines == []
    assert await conn.fetchval("SELECT max(xmin::text::bigint) FROM pg_class") == before


async def test_a_view_whose_text_has_changed_is_stale_and_made_again(files, dsn, conn, capsys):
    await conn.execute(f"CREATE VIEW of_the_operator AS SELECT id FROM {OVERVIEW}")
    edit(files, OVERVIEW, "'Number of the memory.'", "'The number.'")
    assert migrate.status(dsn).stale_views == [OVERVIEW]
    assert main(["status", "--dsn", dsn]) == 1
    assert f"stale    {OVERVIEW}\n" in capsys.readouterr().out
    lines: list[str] = []
    assert migrate.apply(dsn, lines.append) == []
    assert made(lines) == [OVERVIEW]
    assert await conn.fetchval(f"SELECT col_description('{OVERVIEW}'::regclass, 2)") == (
        "The number."
    )
    assert main(["status", "--dsn", dsn]) == 0
    assert await conn.fetch("SELECT * FROM of_the_operator") == []


@pytest.mark.parametrize(
    ("file", "old", "new", "view"),
    [
        ("tags", "coalesce(m.usage_count, 1)", "coalesce(m.usage_count, 7)", "ltm_tag_usage"),
        ("memories", "    m.is_archived IS NOT TRUE\n    AND", "    AND", "ltm_stale_memories"),
        ("analytics", "m.importance_score, 1", "m.importance_score, 7", "ltm_user_analytics"),
    ],
)
def test_what_statements_share_changes_the_view_too(file, old, new, view, files):
    before = {found.name: found.hash for found in views.views()}
    path = files / "sql" / f"{file}.sql"
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))
    statements.shared_blocks.cache_clear()
    try:
        changed = {found.name for found in views.views() if before[found.name] != found.hash}
    finally:
        statements.shared_blocks.cache_clear()
    assert changed == {view}


def test_no_placeholder_is_left_in_a_view():
    assert not [found.name for found in views.views() if re.search(r"\$\d|\*  --", found.text)]


async def test_a_view_that_somebody_dropped_is_stale_and_made_again(dsn, conn):
    await conn.execute(f"DROP VIEW {OVERVIEW}")
    assert migrate.status(dsn).stale_views == [OVERVIEW]
    migrate.apply(dsn)
    assert await columns(conn, OVERVIEW)
    assert migrate.status(dsn).stale_views == []


async def test_a_view_with_other_columns_is_made_anew_with_its_readers_and_rights(files, dsn, conn):
    write(files, "ltm_a", "a.id", "ltm_z AS a")
    write(files, "ltm_m", "b.id", "ltm_a AS b")
    write(files, "ltm_z", "m.id, m.user_id")
    lines: list[str] = []
    migrate.apply(dsn, lines.append)
    assert made(lines) == ["ltm_z", "ltm_a", "ltm_m"]
    await conn.execute("GRANT SELECT ON ltm_a, ltm_z TO pg_monitor WITH GRANT OPTION")
    write(files, "ltm_z", "m.user_id, m.id")
    lines.clear()
    migrate.apply(dsn, lines.append)
    assert made(lines) == ["ltm_z", "ltm_a", "ltm_m"]
    assert await columns(conn, "ltm_z") == ["user_id", "id"]
    for view in ("ltm_a", "ltm_z"):
        right = "SELECT has_table_privilege('pg_monitor', $1, 'SELECT WITH GRANT OPTION')"
        assert await conn.fetchval(right, view)


async def test_what_is_in_comments_and_strings_is_no_dependency(files):
    write(files, "ltm_a", "'ltm_b' AS x -- ltm_b\n")
    write(files, "ltm_b", "a.x", "ltm_a AS a")
    names = [view.name for view in views.views()]
    assert names.index("ltm_a") < names.index("ltm_b")


async def test_a_view_without_a_file_is_dropped(files, dsn, conn):
    (files / "sql" / "views" / f"{OVERVIEW}.sql").unlink()
    assert migrate.status(dsn).stale_views == [OVERVIEW]
    migrate.apply(dsn)
    assert await columns(conn, OVERVIEW) == []
    assert migrate.status(dsn).stale_views == []


async def test_a_view_of_the_operators_is_named_and_never_dropped(files, dsn, conn, capsys):
    await conn.execute(f"CREATE VIEW of_the_operator AS SELECT id FROM {OVERVIEW}")
    before = await fingerprint(conn)
    edit(files, "ltm_tag_usage", "'Whose tag it is.'", "'Whose.'")
    write(files, OVERVIEW, "m.id")
    for command in ("apply", "rollback"):
        assert main([command, "--dsn", dsn]) == 1
        assert capsys.readouterr().err == (
            "failed: a view must be dropped that is still read: view of_the_operator depends on "
            f"view {OVERVIEW}. Drop what reads it, and make it again afterwards\n"
        )
    (files / "sql" / "views" / f"{OVERVIEW}.sql").unlink()
    with pytest.raises(migrate.MigrationFailed, match="of_the_operator"):
        migrate.apply(dsn)
    assert await fingerprint(conn) == before
    await conn.execute("DROP VIEW of_the_operator")
    migrate.apply(dsn)
    assert migrate.status(dsn) == (migration_ids(), [], [])


async def test_a_view_that_cannot_be_made_is_named_and_leaves_nothing(files, dsn, conn):
    before = await fingerprint(conn)
    edit(files, "ltm_access_daily", "'How many accesses there were.'", "'How many.'")
    write(files, "ltm_new", "m.no_such_column")
    with pytest.raises(migrate.MigrationFailed, match=r"^the view ltm_new: column m\.no_such_"):
        migrate.apply(dsn)
    assert await fingerprint(conn) == before
    assert migrate.status(dsn).stale_views == ["ltm_access_daily", "ltm_new"]


async def test_processes_at_once_make_the_views_once(files, dsn, conn):
    await conn.execute("DELETE FROM ltm_migration_views")
    program = [sys.executable, "-m", "ltm_store.migrate", "--dsn", dsn]
    processes = [subprocess.Popen(program, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    outputs = [process.communicate(timeout=100)[0] for process in processes]
    assert [process.returncode for process in processes] == [0] * 2
    assert sum("views made" in output for output in outputs) == 1


async def test_a_view_in_use_is_asked_for_again(files, dsn, conn, monkeypatch):
    monkeypatch.setattr(runner, "TABLE_LOCK_MILLISECONDS", 20)
    monkeypatch.setattr(runner, "POLL_SECONDS", 0.001)
    edit(files, OVERVIEW, "'Number of the memory.'", "'The number.'")
    lines: list[str] = []
    async with conn.transaction():
        await conn.execute(f"SELECT FROM {OVERVIEW}")
        with pytest.raises(migrate.MigrationFailed, match="views: in use each of 10 times"):
            migrate.apply(dsn, lines.append)
    assert lines[0] == "views: in use (try 1 of 10)"
    migrate.apply(dsn, lines.append)
    assert made(lines[10:]) == [OVERVIEW]


# -- going back ----------------------------------------------------------------------------------


async def test_a_rollback_keeps_the_views_that_the_rest_bears(dsn, conn):
    await conn.execute("GRANT SELECT ON ltm_memory_graph, ltm_tag_usage TO pg_monitor")
    migrate.rollback(dsn, to="0006_accesses")  # without the tags
    assert await columns(conn, "ltm_tag_usage") == []
    assert await conn.fetchval(
        "SELECT has_table_privilege('pg_monitor', 'ltm_memory_graph', 'SELECT')"
    )
    assert "ltm_tag_usage" in migrate.status(dsn).stale_views
    assert "ltm_memory_graph" not in migrate.status(dsn).stale_views
    migrate.apply(dsn)
    assert await columns(conn, "ltm_tag_usage")


async def test_a_rollback_that_fails_leaves_the_views(dsn, conn):
    before = await fingerprint(conn)
    await conn.execute("CREATE VIEW of_the_operator AS SELECT memory_id FROM ltm_memory_ranks")
    with pytest.raises(migrate.MigrationFailed, match="0009_ranks"):
        migrate.rollback(dsn)
    await conn.execute("DROP VIEW of_the_operator")
    assert await fingerprint(conn) == before


async def test_a_rollback_never_makes_a_view_of_tables_in_another_schema(empty):
    migrate.apply(empty)
    conn = await asyncpg.connect(empty)
    await conn.execute("CREATE SCHEMA app")
    front = with_options(empty, "-csearch_path=app,public")
    migrate.apply(front)
    migrate.rollback(front, everything=True)
    left = "SELECT relname FROM pg_class WHERE relnamespace = 'app'::regnamespace AND relkind = 'v'"
    assert await conn.fetch(left) == []
    assert migrate.status(empty) == (migration_ids(), [], [])
    await conn.close()


# -- what migrations have made ---------------------------------------------------------------------

INDEX = "CREATE INDEX ltm_contexts_later_idx ON ltm_contexts (user_id, confidence);\n"


def add_migration(files: Path, name: str, text: str, rollback: str) -> None:
    head = f"-- A later one.\n-- depends: {migration_ids()[-1]}\n"
    (files / "migrations" / f"{name}.sql").write_text(f"{head}{text}")
    (files / "migrations" / f"{name}.rollback.sql").write_text(rollback)


async def missing(conn: asyncpg.Connection) -> list[tuple[str, str]]:
    return [(p.check_name, p.subject) for p in await check_health(conn)]


async def test_an_index_of_a_later_migration_is_missed_when_it_is_gone(files, dsn, conn):
    add_migration(files, "0010_later", INDEX, "DROP INDEX ltm_contexts_later_idx;\n")
    assert migrate.apply(dsn) == ["0010_later"]
    assert await missing(conn) == []
    await conn.execute("DROP INDEX ltm_contexts_later_idx")
    gone = [("index_missing", "ltm_contexts_later_idx")]
    assert await missing(conn) == gone
    migrate.apply(dsn)
    assert await missing(conn) == gone
    add_migration(files, "0011_last", "SELECT 1;\n", "SELECT 1;\n")
    assert migrate.apply(dsn) == ["0011_last"]
    assert await missing(conn) == gone
    await conn.execute(INDEX)
    assert await missing(conn) == []


async def test_what_a_rollback_drops_is_missed_no_more(files, dsn, conn):
    add_migration(files, "0010_later", INDEX, "DROP INDEX ltm_contexts_later_idx;\n")
    migrate.apply(dsn)
    migrate.rollback(dsn)
    assert await missing(conn) == [("migration_pending", "0010_later")]
    assert (
        await conn.fetchval(
            "SELECT count(*) FROM ltm_migration_objects WHERE migration_id = '0010_later'"
        )
        == 0
    )


async def test_an_index_of_the_operators_is_not_missed_when_it_goes(files, dsn, conn):
    await conn.execute("CREATE INDEX ltm_contexts_theirs ON ltm_contexts (confidence)")
    add_migration(files, "0010_later", INDEX, "DROP INDEX ltm_contexts_later_idx;\n")
    migrate.apply(dsn)
    await conn.execute("DROP INDEX ltm_contexts_theirs")
    assert await missing(conn) == []


async def test_a_migration_without_a_transaction_that_is_taken_again_is_noted(files, dsn, conn):
    text = f"-- transactional: false\nDROP INDEX IF EXISTS ltm_contexts_later_idx;\n\n{INDEX}"
    add_migration(files, "0010_later", text, "DROP INDEX ltm_contexts_later_idx;\n")
    await conn.execute(INDEX)  # as a run leaves it that was killed before its note
    migrate.apply(dsn)
    await conn.execute("DROP INDEX ltm_contexts_later_idx")
    assert await missing(conn) == [("index_missing", "ltm_contexts_later_idx")]
