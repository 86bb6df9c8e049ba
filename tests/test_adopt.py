"""Adopting the original application's database: nothing lost, nothing stopped, and the way back."""

import asyncio
import json
import re
import signal
import subprocess
import sys
from datetime import datetime
from pathlib import Path

import asyncpg
import psycopg
import pytest

from ltm_store import (
    add_memory,
    check_health,
    connect,
    get_analytics,
    get_relationships,
    migrate,
    search_memories,
)
from ltm_store.db.resources import migration_ids
from ltm_store.db.statements import statements
from ltm_store.migrate import runner
from ltm_store.migrate.adoption import adopt, copying, progress, reconcile, session
from tests import originals
from tests.catalog import fingerprint
from tests.conftest import DRAWS
from tests.old_program import OldProgram
from tests.servers import with_options
from tests.wire import wire

pytestmark = pytest.mark.slow

SHAPES = {
    "L0": originals.L0,
    "L0 without its foreign key": originals.L0.replace(" REFERENCES users (id)", ""),
    "L1": originals.level_1(),
    "L2": originals.level_2(),
    **{f"half {seed}": originals.half(seed) for seed in range(3, 3 + DRAWS)},
}
CHILDREN = ("ltm_contexts", "ltm_memory_relationships", "ltm_memory_access", "ltm_memory_tags")


async def rows(
    connection: asyncpg.Connection, table: str, schema: str = "public"
) -> dict[int, dict[str, object]]:
    """The rows by id, values as JSON shows them: digits as they are, json and jsonb alike."""
    if await connection.fetchval("SELECT to_regclass($1)", f"{schema}.{table}") is None:
        return {}
    found = await connection.fetch(f"SELECT row_to_json(t)::text FROM {schema}.{table} AS t")
    parsed = [json.loads(text, parse_float=str, parse_constant=str) for (text,) in found]
    return {row["id"]: row for row in parsed}


async def everything(connection: asyncpg.Connection) -> dict[str, dict[int, dict[str, object]]]:
    return {table: await rows(connection, table) for table in originals.TABLES}


def value_of(text: object) -> object:
    """What a text says as JSON, else the text."""
    try:
        return (
            json.loads(text, parse_float=str, parse_constant=str) if isinstance(text, str) else text
        )
    except ValueError:
        return text


def differences(before: dict[str, object], after: dict[str, object]) -> dict[str, object]:
    """The columns of a row of the original that have another value, and which."""
    return {name: after[name] for name, value in before.items() if after[name] != value}


@pytest.fixture
async def fresh_catalog(dsn):
    connection = await asyncpg.connect(dsn)
    lines = await fingerprint(connection)
    await connection.close()
    return lines


@pytest.fixture
async def old(empty):
    """A connection to an empty database, where a test puts the original's tables."""
    connection = await asyncpg.connect(empty)
    yield connection
    await connection.close()


async def catalog(connection: asyncpg.Connection) -> list[str]:
    """What is there apart from what adoption keeps and foreign keys to the application."""
    return [
        line
        for line in await fingerprint(connection)
        if "TRIGGER ltm_adoption_" not in line
        and "REFERENCES users" not in line
        and "_original_" not in line
    ]


@pytest.mark.parametrize("shape", SHAPES)
async def test_every_shape_is_adopted_with_all_its_rows(shape, old, empty, fresh_catalog):
    await old.execute(SHAPES[shape])
    await originals.fill(old)
    spoilt = await originals.spoil(old, originals.DIRTY)
    if shape == "L2":
        spoilt |= await originals.spoil(old, originals.LOOSE)
        await old.execute(originals.LOOSE_ROWS)
    before = await everything(old)
    assert migrate.apply(empty) == migration_ids()
    assert migrate.status(empty) == (migration_ids(), [], [])
    after = await everything(old)
    report = await old.fetch("SELECT * FROM ltm_adoption_report")
    reported = {(r["table_name"], r["row_id"], r["column_name"]): r for r in report}

    assert set(after["ltm_memories"]) == set(before["ltm_memories"])
    for id_, row in before["ltm_memories"].items():
        column, wanted, is_reported = spoilt.get(id_, (None, None, False))
        repaired = {c for (t, i, c) in reported if (t, i) == ("ltm_memories", id_)}
        assert repaired == ({column} if is_reported else set())
        kept = {name: value for name, value in row.items() if name != column}
        assert not differences(kept, after["ltm_memories"][id_])
        if column is not None:
            assert after["ltm_memories"][id_][column] == value_of(wanted)
        if is_reported:
            original, here = reported["ltm_memories", id_, column]["original"], row[str(column)]
            assert value_of(original) == here or original.startswith(("-4713", "4713", '"['))
    for table in CHILDREN:
        for id_, row in before[table].items():
            gone = (table, id_, None) in reported
            assert gone is (id_ not in after[table])
            if gone:
                assert json.loads(reported[table, id_, None]["original"]).keys() >= row.keys()
            else:
                repairs = {c for (t, i, c) in reported if (t, i) == (table, id_)}
                kept = {name: value for name, value in row.items() if name not in repairs}
                assert not differences(kept, after[table][id_])
                memory = row.get("memory_id", row.get("source_memory_id"))
                assert isinstance(memory, int)
                assert after[table][id_]["user_id"] == before["ltm_memories"][memory]["user_id"]
    assert await catalog(old) == fresh_catalog
    assert "adoption_unfinished" in {problem.check_name for problem in await check_health(old)}

    assert migrate.apply(empty) == []
    assert await everything(old) == after
    migrate.optional(empty, "finish_adoption")
    assert await check_health(old) == []


def test_every_statement_of_migrate_is_used():
    code = "".join(path.read_text() for path in Path(migrate.__file__).parent.rglob("*.py"))
    names = [*statements("sql/adoption"), *statements("sql/migrate")]
    assert [name for name in names if code.count(f'"{name}"') == 0] == []


async def old_writes(connection: asyncpg.Connection, step: int) -> None:
    """What the original application may write at any time, each in a commit of its own."""
    new = await connection.fetchval(
        "INSERT INTO ltm_memories (user_id, content, tags, importance_score, confidence_score, "
        "access_count, created_by, is_archived, dynamic_importance, related_memory_ids, "
        "parent_memory_id) "
        "VALUES (1, $1, $2, 4, NULL, 0, 'system', NULL, 1, '[5, 10]', 10) RETURNING id",
        f"written at step {step}",
        f'["step {step}", "Tea"]',
    )
    await connection.execute(
        "INSERT INTO ltm_memory_tags (memory_id, tag_name) VALUES ($1, 'tea')", new
    )
    await connection.execute(
        "INSERT INTO ltm_memory_relationships (source_memory_id, target_memory_id, "
        "relationship_type) VALUES ($1, 5, 'follows')",
        new,
    )
    await connection.execute(
        "INSERT INTO ltm_contexts (memory_id, context_type, context_key, context_value) "
        "VALUES ($1, 'spatial', 'city', 'Linz')",
        new,
    )
    await connection.execute(
        "INSERT INTO ltm_memory_access (memory_id, access_method) VALUES ($1, 'direct')", new
    )
    await connection.execute(
        "UPDATE ltm_memories SET access_count = coalesce(access_count, 0) + 1, "
        "last_accessed = '2026-01-01', importance_score = 9 WHERE id = $1",
        1 + step,
    )
    await connection.execute("UPDATE ltm_memory_access SET was_relevant = true WHERE id = $1", step)
    await connection.execute("DELETE FROM ltm_memory_tags WHERE memory_id = $1", 3 + 3 * step)
    await connection.execute("UPDATE ltm_memories SET parent_memory_id = NULL")
    await connection.execute("DELETE FROM ltm_memories WHERE id = $1", 20 + step)


def run_up_to(patch: pytest.MonkeyPatch, last: str) -> None:
    """Let an adoption end after a step, as if it had been interrupted there."""
    names = list(adopt.STEPS)
    kept = names[: names.index(last) + 1]
    patch.setattr(adopt, "STEPS", {name: adopt.STEPS[name] for name in kept})
    patch.setattr(migrate, "run_migrations", lambda *_: None)
    patch.setattr(migrate, "apply_views", lambda *_: None)


def small_batches(patch: pytest.MonkeyPatch, rows: int) -> None:
    patch.setattr(copying, "BATCH_ROWS", rows)
    patch.setattr(session, "BATCH_ROWS", rows)


def details(
    tables: dict[str, dict[int, dict[str, object]]], table: str, columns: set[str]
) -> list[str]:
    """The rows that belong to memories that are there, without their ids."""
    keys = columns & {"memory_id", "source_memory_id", "target_memory_id"}
    rows = [r for r in tables[table].values() if all(r[k] in tables["ltm_memories"] for k in keys)]
    return sorted(json.dumps({c: row[c] for c in columns}, sort_keys=True) for row in rows)


async def test_a_database_that_was_rolled_back_is_adopted_too(old, empty):
    migrate.apply(empty)
    migrate.rollback(empty, everything=True)
    await old.execute(originals.level_1())
    await originals.fill(old, 9)
    assert migrate.apply(empty) == migration_ids()
    assert migrate.status(empty) == (migration_ids(), [], [])


class Stopped(BaseException):
    """Ends a run; to the server it is as if the process had been killed."""


def stop_at(patch: pytest.MonkeyPatch, step: str) -> None:
    done, move = session.Adoption.done, progress.Bar.move

    def stopped(adoption, name):
        done(adoption, name)
        if name == step:
            raise Stopped

    def stopped_inside(bar, steps):
        move(bar, steps)
        if step == "copying" and bar._done > 20:
            raise Stopped

    patch.setattr(session.Adoption, "done", stopped)
    patch.setattr(progress.Bar, "move", stopped_inside)


@pytest.mark.parametrize("shape", ["L1", "L2"])
async def test_a_run_stopped_at_every_step_is_continued_with_what_was_written(
    shape, old, empty, fresh_catalog, monkeypatch
):
    """Stopped before the step's transaction commits; at the last step after all is done.

    A twin that nobody adopts gets the same rows and the same writes.
    """
    small_batches(monkeypatch, 7)
    await old.execute("CREATE SCHEMA twin")
    twin = await asyncpg.connect(empty, server_settings={"search_path": "twin"})
    for connection in (old, twin):
        await connection.execute(SHAPES[shape])
        await originals.fill(connection)
    steps = list(adopt.STEPS)
    steps.insert(steps.index("copy_rows"), "copying")
    for number, step in enumerate(steps):
        with pytest.MonkeyPatch.context() as patch:
            stop_at(patch, step)
            with pytest.raises(Stopped):
                migrate.apply(empty)
        for connection in (old, twin):
            await old_writes(connection, number)
    assert migrate.apply(empty) == []
    assert await catalog(old) == fresh_catalog
    assert not await old.fetchval("SELECT to_regclass('ltm_memories_adoption_id')")
    ours = await everything(old)
    theirs = {table: await rows(old, table, "twin") for table in originals.TABLES}
    await twin.close()
    assert set(ours["ltm_memories"]) == set(theirs["ltm_memories"])
    written = {"last_modified", "created_at"}  # by the clock
    for id_, row in theirs["ltm_memories"].items():
        kept = {name: value for name, value in row.items() if name not in written}
        assert not differences(kept, ours["ltm_memories"][id_])
    accesses = {"memory_id", "access_method", "user_query", "was_relevant", "relevance_score"}
    assert details(ours, "ltm_memory_access", accesses) == details(
        theirs, "ltm_memory_access", accesses
    )
    for table, columns in (
        ("ltm_memory_tags", {"memory_id", "tag_name"}),
        ("ltm_contexts", {"memory_id", "context_type", "context_key", "context_value"}),
        (
            "ltm_memory_relationships",
            {"source_memory_id", "target_memory_id", "relationship_type"},
        ),
    ):
        assert set(details(theirs, table, columns)) <= set(details(ours, table, columns))
    assert await old.fetchval("SELECT bool_and(convalidated) FROM pg_constraint")


async def test_a_run_killed_while_it_copies_is_continued(old, empty):
    await old.execute(originals.level_1())
    await originals.fill(old)
    before = await rows(old, "ltm_memories")
    program = [sys.executable, "-c", KILLED, empty]
    killed = await asyncio.to_thread(subprocess.run, program, check=False, timeout=100)
    assert killed.returncode == -signal.SIGKILL
    assert migrate.apply(empty) == migration_ids()
    assert (await rows(old, "ltm_memories")).keys() == before.keys()


KILLED = """
import os, signal, sys
from ltm_store import migrate
from ltm_store.migrate.adoption import copying, progress
copying.BATCH_ROWS = 7
progress.Bar.move = lambda bar, steps: os.kill(os.getpid(), signal.SIGKILL)
migrate.apply(sys.argv[1])
"""


STRANGE = {  # what makes it, and what the refusal says; all that one look finds is said at once
    "of the tables": {
        "ALTER TABLE ltm_memories ADD COLUMN embedding text": "the column ltm_memories.embedding",
        "ALTER TABLE ltm_memories ALTER context TYPE integer USING 1": "context is of the type",
        "ALTER TABLE ltm_memories DROP COLUMN content": "ltm_memories has no column content",
        "CREATE TABLE keep (m ltm_contexts)": "the column keep.m holds rows of ltm_contexts",
        "CREATE FUNCTION all_of() RETURNS SETOF ltm_memories LANGUAGE sql AS "
        "'SELECT * FROM ltm_memories'": "the function all_of() speaks of rows of ltm_memories",
        "CREATE TABLE other (id bigint DEFAULT nextval('ltm_memories_id_seq'))": "other takes num",
        "CREATE TABLE ltm_external_users (id integer)": "public.ltm_external_users is in the way",
        "CREATE SCHEMA ltm_next": "the schema ltm_next is in the way",
    },
    "of the rows": {
        "ALTER TABLE ltm_memories DROP CONSTRAINT ltm_memories_pkey CASCADE; "
        "UPDATE ltm_memories SET id = 7 WHERE id < 7": "several rows of ltm_memories have the id 7",
        "ALTER TABLE ltm_memories DROP CONSTRAINT ltm_memories_user_id_fkey; "
        "UPDATE ltm_memories SET user_id = -1 WHERE id = 9": "has no user_id, or a negative number",
        "UPDATE ltm_memory_tags SET id = -1 WHERE memory_id = 3": "ltm_memory_tags has no id, or",
    },
    "of the names": {
        "CREATE INDEX ltm_memories_id_idx ON users (id)": "public.ltm_memories_id_idx is in",
        "DROP TABLE ltm_memory_access; CREATE SEQUENCE ltm_memory_access_id_seq": (
            "public.ltm_memory_access_id_seq is in the way"
        ),
        "CREATE TYPE ltm_memory_access AS ENUM ()": "type public.ltm_memory_access is in the way",
        "CREATE FUNCTION ltm_dynamic_importance(integer, timestamptz) RETURNS integer LANGUAGE sql "
        "AS 'SELECT 1'": "the function public.ltm_dynamic_importance(integer,timestamp with",
    },
}


@pytest.mark.parametrize("kind", STRANGE)
async def test_what_is_not_the_originals_is_refused_before_anything_changes(kind, old, empty):
    await old.execute(originals.level_1())
    await originals.fill(old, 9)
    for change in STRANGE[kind]:
        await old.execute(change)
    before = await old.fetch("SELECT oid, relname, relnamespace FROM pg_class ORDER BY oid")
    with pytest.raises(migrate.MigrationFailed, match="cannot be adopted") as caught:
        migrate.apply(empty)
    for words in STRANGE[kind].values():
        assert words in str(caught.value)
    assert await old.fetch("SELECT oid, relname, relnamespace FROM pg_class ORDER BY oid") == before


@pytest.mark.parametrize("name", ['My "App"', "it's", "back\\slash"])
async def test_a_schema_with_a_quote_in_its_name_is_refused_before_anything_is_made(
    name, old, empty
):
    quoted = '"' + name.replace('"', '""') + '"'
    database = await old.fetchval("SELECT current_database()")
    await old.execute(f"CREATE SCHEMA {quoted}; SET search_path = {quoted}")
    await old.execute(originals.L0)
    await originals.fill(old, 9)
    await old.execute(f"ALTER DATABASE {database} SET search_path = {quoted}")
    before = await old.fetch("SELECT oid FROM pg_class ORDER BY oid")
    with pytest.raises(migrate.MigrationFailed, match="cannot be adopted") as caught:
        migrate.apply(empty)
    told = f"the name of the schema {name} has a quote or a backslash in it (rename it)"
    assert told in str(caught.value)
    assert await old.fetch("SELECT oid FROM pg_class ORDER BY oid") == before


RIGHTS = {
    "SELECT 1": "program may not create schemas in this database",
    "GRANT CREATE ON DATABASE {} TO program": "program may not create tables in the schema public",
    "GRANT CREATE ON SCHEMA public TO program": "program does not own ltm_memories",
    "CREATE ROLE owner; GRANT owner TO program; ALTER TABLE ltm_memories OWNER TO owner": (
        "owner, who owns ltm_memories, may not create tables in the schema public"
    ),
}


@pytest.mark.parametrize("rights", list(RIGHTS), ids=range(len(RIGHTS)))
async def test_rights_that_are_missing_are_told_before_anything_changes(rights, old, empty):
    await old.execute(originals.L0)
    name = await old.fetchval("SELECT current_database()")
    await old.execute("REVOKE CREATE ON SCHEMA public FROM public; CREATE ROLE program")
    try:
        await old.execute("GRANT SELECT ON ltm_memories TO program")
        await old.execute(rights.format(name))
        with pytest.raises(migrate.MigrationFailed, match="cannot be adopted") as caught:
            migrate.apply(with_options(empty, "-crole=program"))
        assert RIGHTS[rights] in str(caught.value)
        assert not await old.fetchval("SELECT to_regnamespace('ltm_adoption')")
    finally:
        for role in ("program", "owner"):
            if await old.fetchval("SELECT to_regrole($1)::text", role):
                await old.execute(f"REASSIGN OWNED BY {role} TO CURRENT_USER; DROP OWNED BY {role}")
                await old.execute(f"DROP ROLE {role}")


async def test_an_id_at_the_end_of_an_integer_and_functions_of_others_stay_where_they_are(
    old, empty
):
    await old.execute(originals.level_1())
    await originals.fill(old)
    await old.execute(
        "INSERT INTO ltm_memories (id, user_id, content, tags) "
        "VALUES (2147483647, 1, 'last', '[]');"
        "CREATE FUNCTION ltm_cleanup() RETURNS integer LANGUAGE sql AS 'SELECT 7'"
    )
    insert = "INSERT INTO ltm_memories (user_id, content, tags) VALUES (1, 'x', '[]') RETURNING id"
    assert await old.fetchval(insert) == 61
    migrate.apply(empty)
    assert await old.fetchval(insert) == 62
    migrate.rollback(empty, everything=True)
    assert await old.fetchval(insert) == 63
    assert await old.fetchval("SELECT count(*) FROM ltm_memories") == 64
    assert await old.fetchval("SELECT ltm_cleanup()") == 7


async def test_the_way_back_to_ids_that_are_always_generated(old, empty):
    identity = originals.L0.replace(
        "id serial PRIMARY KEY,\n    user_id",
        "id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,\n    user_id",
    )
    await old.execute(identity)
    await old.execute("INSERT INTO ltm_memories (user_id, content, tags) VALUES (1, 'x', '[]')")
    migrate.apply(empty)
    await old.execute("INSERT INTO ltm_memories (user_id, content, tags) VALUES (1, 'y', '[]')")
    migrate.rollback(empty, everything=True)
    contents = await old.fetch("SELECT id, content FROM ltm_memories ORDER BY id")
    assert [tuple(row) for row in contents] == [(1, "x"), (2, "y")]


async def test_tables_behind_another_schema_are_not_shadowed(old, empty):
    await old.execute(originals.L0)
    await old.execute("CREATE SCHEMA app")
    with pytest.raises(migrate.MigrationFailed, match="in the schema public, but app comes first"):
        migrate.apply(with_options(empty, "-csearch_path=app,public"))


async def test_rights_and_owners_stay(old, empty):
    await old.execute(originals.level_1())
    await originals.fill(old, 9)
    role = "ltm_test_program"
    await old.execute(
        f"DROP ROLE IF EXISTS {role}; CREATE ROLE {role}; GRANT SELECT, INSERT ON ltm_memories "
        f"TO {role}; ALTER TABLE ltm_memory_tags OWNER TO {role}"
    )
    migrate.apply(empty)
    rights = await old.fetchrow(
        "SELECT has_table_privilege($1, 'ltm_memories', 'INSERT') AS old, "
        "has_table_privilege($1, 'ltm_memories', 'DELETE') AS never, "
        "has_table_privilege($1, 'ltm_external_users', 'SELECT') AS made, "
        "pg_get_userbyid(relowner) AS owner FROM pg_class WHERE oid = 'ltm_memory_tags'::regclass",
        role,
    )
    await old.execute("SET ROLE ltm_test_program")
    await old.execute("INSERT INTO ltm_memories (user_id, content, tags) VALUES (1, 'x', '[]')")
    await old.execute(f"RESET ROLE; REASSIGN OWNED BY {role} TO CURRENT_USER; DROP OWNED BY {role}")
    await old.execute(f"DROP ROLE {role}")
    assert tuple(rights) == (True, False, True, role)


async def test_a_role_of_few_rights_writes_what_is_listed(old, empty):
    """The ranks are kept with the rights of the tables' owner: not of who adopts."""
    await old.execute(originals.level_1())
    await originals.fill(old, 9)
    await old.execute(
        "CREATE ROLE ltm_test_owner; CREATE ROLE ltm_test_writer; "
        "GRANT CREATE ON SCHEMA public TO ltm_test_owner; "
        "ALTER TABLE ltm_memories OWNER TO ltm_test_owner; "
        "GRANT INSERT ON ltm_memories TO ltm_test_writer"
    )
    migrate.apply(empty)
    await old.execute("SET ROLE ltm_test_writer; SET search_path = pg_catalog")
    await old.execute("INSERT INTO public.ltm_memories (user_id, content) VALUES (1, 'theirs')")
    await old.execute("RESET ROLE; RESET search_path")
    owners = await old.fetchrow(
        "SELECT pg_get_userbyid(p.proowner), pg_get_userbyid(c.relowner) "
        "FROM pg_proc AS p CROSS JOIN pg_class AS c "
        "WHERE p.proname = 'ltm_keep_rank' AND c.oid = 'ltm_memory_ranks'::regclass"
    )
    listed = await search_memories(old, 1, limit=100)
    for role in ("ltm_test_owner", "ltm_test_writer"):
        await old.execute(f"REASSIGN OWNED BY {role} TO CURRENT_USER; DROP OWNED BY {role}")
        await old.execute(f"DROP ROLE {role}")
    assert tuple(owners) == ("ltm_test_owner", "ltm_test_owner")
    assert "theirs" in [hit.content for hit in listed]


async def test_tables_in_use_are_waited_for_and_the_adoption_goes_on(old, empty, monkeypatch):
    monkeypatch.setattr(session, "LOCK_WAIT", "10ms")
    monkeypatch.setattr(session, "PAUSE_SECONDS", 0.001)
    monkeypatch.setattr(session, "LOCK_ATTEMPTS", 20)
    await old.execute(originals.L0)
    await originals.fill(old, 9)
    with pytest.MonkeyPatch.context() as patch:
        run_up_to(patch, "compare")
        migrate.apply(empty)
    reader = await asyncpg.connect(empty)
    reports: list[str] = []
    async with reader.transaction():
        await reader.execute("SELECT 1 FROM ltm_memories")
        with pytest.raises(migrate.MigrationFailed, match="the tables were in use each of 20"):
            migrate.apply(empty, reports.append)
    await reader.close()
    assert any("waiting for a moment" in line for line in reports)
    assert migrate.apply(empty) == migration_ids()


async def test_a_far_session_holds_the_locks_for_few_round_trips(old, empty, monkeypatch):
    await old.execute(originals.level_1())
    await originals.fill(old, 9)
    lock, alone = session.Adoption.lock, session.Adoption.with_short_lock
    held = {"before": 0}
    async with wire(empty) as proxy:

        def locked(adoption, tables, statement="lock_tables"):
            held["before"] = proxy.round_trips
            lock(adoption, tables, statement)

        def done(adoption, work, what, before=None):
            alone(adoption, work, what, before)
            held[what] = proxy.round_trips - held["before"]

        monkeypatch.setattr(session.Adoption, "lock", locked)
        monkeypatch.setattr(session.Adoption, "with_short_lock", done)
        await asyncio.to_thread(migrate.apply, proxy.dsn)
        await asyncio.to_thread(migrate.rollback, proxy.dsn, everything=True)
    assert held["the swap"] <= 15
    assert held["the original tables go back"] <= 15


async def test_what_is_written_until_the_locks_are_held_is_carried_over_and_back(
    old, empty, monkeypatch
):
    await old.execute(originals.level_1())
    await originals.fill(old, 9)
    lock = session.Adoption.lock

    def locked(adoption, tables, statement="lock_tables"):
        with psycopg.connect(empty, autocommit=True) as other:
            other.execute("INSERT INTO ltm_memories (user_id, content, tags) VALUES (1, 'x', '[]')")
        lock(adoption, tables, statement)

    monkeypatch.setattr(session.Adoption, "lock", locked)
    migrate.apply(empty)
    assert await old.fetchval("SELECT count(*) FROM ltm_memories") == 9 + 2
    migrate.rollback(empty, everything=True)
    assert await old.fetchval("SELECT count(*) FROM ltm_memories") == 9 + 3


async def test_the_way_back_returns_the_originals_values_and_what_was_written_since(old, empty):
    await old.execute(originals.level_2())
    await originals.fill(old)
    await originals.spoil(old, [*originals.DIRTY, *originals.LOOSE])
    await old.execute(originals.LOOSE_ROWS)
    before = await everything(old)
    migrate.apply(empty)
    changed = min(id_ for id_, row in before["ltm_memories"].items() if row["tags"] == "a,b")
    await old.execute("UPDATE ltm_memories SET access_count = 77 WHERE id = $1", changed)
    await old.execute("DELETE FROM ltm_memories WHERE id IN (8, 14)")  # 8 leads to 18, 4 to 14
    await old.execute("DELETE FROM ltm_memory_tags WHERE memory_id = 6 AND tag_name = 'tea'")
    async with connect(empty, access_tracking="off") as db:
        ours = await add_memory(
            db,
            3,
            "Ours, with all that belongs to it",
            tags=["new"],
            related_memory_ids=[2],
            enhanced_context={"spatial": {"city": "Wien"}},
        )
        await add_memory(db, "a name", "Of no use to the original")
    await old.execute("INSERT INTO ltm_memory_access (memory_id, access_method) VALUES (2, 'old')")
    with pytest.raises(migrate.MigrationFailed, match="only everything goes back"):
        migrate.rollback(empty)
    migrate.rollback(empty, everything=True)

    after = await everything(old)
    assert set(after["ltm_memories"]) == {*before["ltm_memories"], ours.id} - {8, 14}
    for id_, row in before["ltm_memories"].items():
        if id_ not in (8, 14):
            changes = {"access_count": 77} if id_ == changed else {}
            assert differences(row, after["ltm_memories"][id_]) == changes
    assert after["ltm_memories"][ours.id]["content"] == "Ours, with all that belongs to it"
    assert after["ltm_memories"][ours.id]["related_memory_ids"] == [2]
    for table, key in (
        ("ltm_memory_tags", "memory_id"),
        ("ltm_contexts", "memory_id"),
        ("ltm_memory_relationships", "source_memory_id"),
        ("ltm_memory_access", "memory_id"),
    ):
        kept = {i: r for i, r in after[table].items() if i in before[table]}
        assert kept == {
            i: r
            for i, r in before[table].items()
            if not {8, 14} & {r[key], r.get("target_memory_id")}
            and not (table == "ltm_memory_tags" and (r[key], r["tag_name"]) == (6, "tea"))
        }
        added = [r[key] for i, r in after[table].items() if i not in before[table]]
        assert added == [2 if table == "ltm_memory_access" else ours.id]
    schemas = {row[0] for row in await old.fetch("SELECT nspname FROM pg_namespace")}
    assert "ltm_adopted" in schemas
    assert not schemas & {"ltm_next", "ltm_original", "ltm_adoption"}
    assert not await old.fetch(
        "SELECT tgname FROM pg_trigger AS g JOIN pg_class AS c ON c.oid = g.tgrelid "
        "WHERE NOT g.tgisinternal AND c.relnamespace <> 'ltm_adopted'::regnamespace"
    )
    assert migrate.apply(empty) == migration_ids()


async def test_the_way_back_before_the_swap_leaves_the_original_as_it_was(old, empty):
    await old.execute(originals.level_1())
    await originals.fill(old)
    before = await fingerprint(old)
    with pytest.MonkeyPatch.context() as patch:
        run_up_to(patch, "copy_rows")
        migrate.apply(empty)
    migrate.rollback(empty, everything=True)
    assert await fingerprint(old) == before
    assert not await old.fetchval("SELECT to_regnamespace('ltm_adoption')")


async def test_finishing_leaves_what_an_empty_database_gets(old, empty, fresh_catalog):
    await old.execute(SHAPES["L0 without its foreign key"])
    await originals.fill(old)
    with pytest.raises(migrate.MigrationFailed, match="no adoption has come to its end"):
        migrate.optional(empty, "finish_adoption")
    migrate.apply(empty)
    tagged = await old.fetchval(
        "INSERT INTO ltm_memories (user_id, content, tags) VALUES (1, 'late', '[\"only here\"]') "
        "RETURNING id"
    )
    await old.execute(
        "INSERT INTO ltm_memory_relationships (source_memory_id, target_memory_id, "
        "relationship_type) VALUES ($1, 5, 'follows')",
        tagged,
    )
    await old.execute(
        "INSERT INTO ltm_contexts (memory_id, context_type, context_key, context_value) "
        "VALUES ($1, 'spatial', 'city', 'Linz')",
        tagged,
    )
    in_the_making = await old.fetchval(
        "INSERT INTO ltm_memories (user_id, content, tags) VALUES (1, 'now', '[\"soon\"]') "
        "RETURNING id"
    )
    await old.execute("UPDATE ltm_memories SET last_modified = '2020-01-01' WHERE id = $1", tagged)
    await old.execute(
        "DELETE FROM ltm_memory_ranks WHERE memory_id = 3; "
        "UPDATE ltm_memory_ranks SET is_archived = TRUE WHERE memory_id = 4"
    )
    unranked = "SELECT subject FROM ltm_health WHERE check_name = 'rank_out_of_step'"
    assert len(await old.fetch(unranked)) == 2
    migrate.reconcile_mirrors(empty)
    assert await old.fetch(unranked) == []
    tagged_now = "SELECT tag_name FROM ltm_memory_tags WHERE memory_id = $1"
    assert await old.fetchval(tagged_now, tagged) == "only here"
    assert await old.fetchval(tagged_now, in_the_making) is None
    migrate.optional(empty, "finish_adoption")
    assert await old.fetchval(tagged_now, in_the_making) == "soon"
    assert await fingerprint(old) == fresh_catalog
    late = (await everything(old))["ltm_memories"][tagged]
    assert late["related_memory_ids"] == [5]
    assert late["context_data"] == {"spatial": {"city": "Linz"}}
    assert not await old.fetchval("SELECT to_regnamespace('ltm_original')")
    with pytest.raises(migrate.MigrationFailed, match="the original tables are gone"):
        migrate.optional(empty, "finish_adoption", undo=True)


async def test_the_end_drops_and_reports_what_the_original_program_left_behind(
    old, empty, monkeypatch
):
    """Before and between the last look and the lock; all checks of health find nothing then."""
    await old.execute(originals.level_1())
    await originals.fill(old)
    unknown = '{"weather": "sunny", "confidence": 0.5, "spatial": {"city": "Linz", "x": 1}}'
    await old.execute("UPDATE ltm_memories SET context_data = $1::jsonb WHERE id = 2", unknown)
    migrate.apply(empty)
    await old.execute(
        "UPDATE ltm_memories SET parent_memory_id = NULL;"
        "DELETE FROM ltm_memories WHERE id = 16;"  # of which 11 still speaks
        "UPDATE ltm_memories SET related_memory_ids = '[77, 3, 3, \"x\"]' WHERE id = 13;"
        "UPDATE ltm_memories SET tags = '\"a, b\"' WHERE id = 17;"
        'UPDATE ltm_memories SET context_data = \'{"weather": "fine"}\' WHERE id = 19;'
        "INSERT INTO ltm_contexts (memory_id, context_type, context_key, context_value) VALUES "
        "(19, 'weather', 'sky', 'blue'), (18, 'temporal', 'confidence', '0.9'), "
        "(20, 'temporal', 'season', NULL);"
        "INSERT INTO ltm_memory_tags (memory_id, tag_name) SELECT 23, 't' || n "
        "FROM generate_series(1, 120) AS n"
    )
    behind = {p.check_name: p.detail for p in await check_health(old)}
    del behind["adoption_unfinished"]
    assert set(behind) == {
        "tags_out_of_step",
        "related_memory_ids_out_of_step",
        "context_data_out_of_step",
    }
    assert all("as the original application writes" in detail for detail in behind.values())
    finish = migrate.run_optional

    def late(connection, name, **given):
        with psycopg.connect(empty, autocommit=True) as other:
            other.execute("DELETE FROM ltm_memories WHERE id = 27")  # of which 22 speaks
            other.execute("UPDATE ltm_memories SET tags = '[\"late\"]' WHERE id = 25")
        finish(connection, name, **given)

    monkeypatch.setattr(migrate, "run_optional", late)
    migrate.optional(empty, "finish_adoption")
    assert await check_health(old) == []
    found = await old.fetchval("SELECT context_data::text FROM ltm_memories WHERE id = 2")
    assert json.loads(found) == json.loads(unknown)
    kept = await old.fetch(
        "SELECT id, related_memory_ids::text, jsonb_array_length(tags) FROM ltm_memories "
        "WHERE id IN (11, 13, 17, 22, 23, 25) ORDER BY id"
    )
    assert [tuple(row) for row in kept] == [
        (11, "[]", 1),
        (13, "[3]", 0),
        (17, None, 3),
        (22, "[]", 0),
        (23, None, 100),
        (25, None, 1),
    ]
    told = await old.fetch(
        "SELECT DISTINCT rule FROM ltm_adoption_report WHERE original ~ 'sky|t120|77|a, b'"
    )
    assert {row[0] for row in told} == {
        "has no place in context_data",
        "has no place in tags",
        "relationships dropped",
        "normalised",
    }


async def test_the_end_is_refused_in_a_sentence_while_a_program_writes(old, empty, monkeypatch):
    await old.execute(originals.level_1())
    await originals.fill(old, 9)
    migrate.apply(empty)
    for module in (runner, reconcile):
        monkeypatch.setattr(module, "TABLE_LOCK_MILLISECONDS", 10)
        monkeypatch.setattr(module, "POLL_SECONDS", 0.001)
    async with old.transaction():
        await old.execute("UPDATE ltm_memories SET category = 'x' WHERE id = 3")
        with pytest.raises(migrate.MigrationFailed, match="stop the original application first"):
            migrate.optional(empty, "finish_adoption")
    async with old.transaction():
        await old.execute("INSERT INTO ltm_memory_tags (memory_id, tag_name) VALUES (3, 'late')")
        with pytest.raises(migrate.MigrationFailed, match="finish_adoption: a table was in use"):
            migrate.optional(empty, "finish_adoption")
    migrate.optional(empty, "finish_adoption")
    assert await check_health(old) == []


async def test_an_end_without_room_says_what_frees_it(old, empty):
    """The server says so itself, as it makes an index."""
    await old.execute(originals.L0)
    await originals.fill(old, 9)
    before = await fingerprint(old)
    await old.execute(
        "CREATE FUNCTION full_disk() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN "
        "IF current_query() ~ 'original_memory_id' THEN RAISE 'no space' USING ERRCODE = '53100'; "
        "END IF; END $$; CREATE EVENT TRIGGER full_disk ON ddl_command_start "
        "WHEN TAG IN ('CREATE INDEX') EXECUTE FUNCTION full_disk()"
    )
    lines: list[str] = []
    with pytest.raises(migrate.MigrationFailed, match="no space: make room .*rollback --all$"):
        migrate.apply(empty, lines.append)
    assert any("of room are needed beside the" in line for line in lines)
    migrate.rollback(empty, everything=True)
    assert await fingerprint(old) == before


async def test_no_more_room_is_taken_than_was_said_before(old, empty):
    await old.execute(originals.level_1())
    await originals.fill(old, 300)
    taken = "SELECT pg_database_size(current_database()), pg_current_wal_insert_lsn()::text"
    size, position = await old.fetchrow(taken)
    lines: list[str] = []
    migrate.apply(empty, lines.append)
    new_size, new_position = await old.fetchrow(taken)
    log = await old.fetchval("SELECT $1::text::pg_lsn - $2::text::pg_lsn", new_position, position)
    (said,) = re.findall(r"ltm_memories: (\d+) MB of room are needed", lines[0])
    assert new_size - size + log <= int(said) * 1_000_000 <= 3 * (new_size - size + log)


async def test_tables_that_are_adopted_are_not_emptied_at_once(old, empty):
    await old.execute(originals.level_1())
    await originals.fill(old, 9)
    with pytest.MonkeyPatch.context() as patch:
        run_up_to(patch, "watch_originals")
        migrate.apply(empty)
    for _ in range(2):
        with pytest.raises(asyncpg.RaiseError, match="TRUNCATE of ltm_memory_tags is refused"):
            await old.execute("TRUNCATE ltm_memory_tags")
        migrate.apply(empty)
    migrate.optional(empty, "finish_adoption")
    await old.execute("TRUNCATE ltm_memory_tags")


async def test_the_original_program_reads_and_writes_before_and_after(old, empty):
    await old.execute(originals.level_1())
    await old.execute("INSERT INTO users (name) VALUES ('x')")
    program = OldProgram(empty)
    first = await program.add("Before, with tea", ["tea"], created_at=datetime(2025, 1, 1))
    before = await program.get(first)
    migrate.apply(empty)
    assert await program.get(first) == before
    second = await program.add("After, with coffee", ["coffee"], related=[first])
    await program.touch(second, access_count=5, importance_score=None, tags=["coffee", "late"])
    assert (await program.get(second))["tags"] == ["coffee", "late"]
    async with connect(empty, access_tracking="off") as db:
        (hit,) = await search_memories(db, 1, "coffee", tags=["late"])
        assert (hit.id, hit.access_count, hit.importance_score) == (second, 5, 1)
        ranked = [m.id for m in await search_memories(db, 1)]
        assert set(ranked) == {first, second}
        (relationship,) = await get_relationships(db, 1, second)
        assert (relationship.related_memory.id, relationship.strength) == (first, 0.5)
        assert (await get_analytics(db, 1)).total_memories == 2
        ours = await add_memory(db, 1, "Ours", tags=["ours"], related_memory_ids=[second])
    assert (await program.get(ours.id))["related_memory_ids"] == [second]
    await program.remove(second)
    assert await program.get(second) == {}
    await program.close()


@pytest.mark.parametrize("shape", ["L1", "L2"])
async def test_an_end_that_goes_away_before_it_is_copied_leaves_no_relationship(
    shape, old, empty, monkeypatch
):
    """The copy of a memory that speaks of it has been made by then."""
    small_batches(monkeypatch, 10)
    await old.execute(SHAPES[shape])
    await originals.fill(old)
    await old.execute(
        "UPDATE ltm_memories SET parent_memory_id = 56 WHERE id = 1;"
        "INSERT INTO ltm_memory_relationships (source_memory_id, target_memory_id, "
        "relationship_type) VALUES (1, 56, 'similar')"
    )

    def stopped(bar, steps):
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(progress.Bar, "move", stopped)
        with pytest.raises(KeyboardInterrupt):
            migrate.apply(empty)
    gone = {
        "L1": "UPDATE ltm_memories SET user_id = 3 WHERE id = 56",
        "L2": "DELETE FROM ltm_memories WHERE id = 56",
    }
    await old.execute(gone[shape])
    assert migrate.apply(empty) == migration_ids()
    first = (await rows(old, "ltm_memories"))[1]
    assert first["parent_memory_id"] is None
    assert 56 not in [r["target_memory_id"] for r in (await everything(old))[CHILDREN[1]].values()]


async def test_sequences_of_the_usual_names_that_no_column_owns(old, empty):
    """As a dump made by hand leaves them."""
    await old.execute(originals.level_2())
    for table in originals.TABLES:
        await old.execute(
            f"CREATE SEQUENCE {table}_id_seq; "
            f"ALTER TABLE {table} ALTER id SET DEFAULT nextval('{table}_id_seq')"
        )
    await originals.fill(old)
    migrate.apply(empty)
    insert = "INSERT INTO ltm_memories (user_id, content, tags) VALUES (1, 'x', '[]') RETURNING id"
    assert await old.fetchval(insert) == 61
    migrate.rollback(empty, everything=True)
    assert await old.fetchval(insert) == 62
    migrate.apply(empty)
    migrate.optional(empty, "finish_adoption")
    assert await old.fetchval(insert) == 63


async def test_a_schema_of_an_unusual_name_and_an_impatient_role(old, empty):
    await old.execute('CREATE SCHEMA "My App"')
    await old.execute('SET search_path = "My App"')
    await old.execute(originals.level_1())
    await originals.fill(old)
    await old.execute("UPDATE ltm_memories SET tags = '[\"sss\"]' WHERE id = 60")
    name = await old.fetchval("SELECT current_database()")
    await old.execute(
        f"ALTER DATABASE {name} SET statement_timeout = '30ms';"
        f"ALTER DATABASE {name} SET standard_conforming_strings = off;"
        f'ALTER DATABASE {name} SET search_path = "My App"'
    )
    if old.get_server_version() >= (17,):
        await old.execute(f"ALTER DATABASE {name} SET transaction_timeout = '30ms'")
    assert migrate.apply(empty) == migration_ids()
    assert await old.fetchval("SELECT count(*) FROM ltm_memories") == 60
    assert await old.fetchval("SELECT tags->>0 FROM ltm_memories WHERE id = 60") == "sss"
    migrate.rollback(empty, everything=True)
    assert await old.fetchval("SELECT count(*) FROM ltm_memories") == 60


async def test_foreign_keys_to_the_application_are_carried_over_and_back(old, empty):
    await old.execute(originals.level_1())
    await originals.fill(old)
    keys = (
        "SELECT conrelid::regclass::text, conname, convalidated FROM pg_constraint "
        "WHERE contype = 'f' AND conrelid::regclass::text ~ '^ltm_[a-z_]+$' ORDER BY 1, 2"
    )
    before = await old.fetch(keys)
    migrate.apply(empty)
    with pytest.raises(asyncpg.ForeignKeyViolationError, match="ltm_memories_user_id_fkey"):
        await old.execute("INSERT INTO ltm_memories (user_id, content) VALUES (77, 'nobody')")
    await old.execute("UPDATE ltm_memories SET user_id = 1 WHERE id = 60")
    migrate.rollback(empty, everything=True)
    assert await old.fetch(keys) == before
    assert await old.fetchval("SELECT user_id FROM ltm_memories WHERE id = 60") == 1


async def test_foreign_keys_that_were_never_checked_are_carried_over_unchecked(old, empty):
    version = old.get_server_version()
    kind = "NOT ENFORCED" if version >= (18,) else "NOT VALID"
    await old.execute(originals.L0.replace(" REFERENCES users (id)", ""))
    await old.execute(
        "ALTER TABLE ltm_memories ADD CONSTRAINT user_fkey FOREIGN KEY (user_id) "
        f"REFERENCES users (id) {kind}"
    )
    await originals.fill(old, 9)
    migrate.apply(empty)
    definition = "SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE conname = 'user_fkey'"
    assert (await old.fetchval(definition)).endswith(kind)
    migrate.rollback(empty, everything=True)
    assert (await old.fetchval(definition)).endswith(kind)


async def violate(old: asyncpg.Connection, update: str) -> None:
    """Change rows as a program does whose foreign keys are not looked at, as after a restore."""
    await old.execute(f"SET session_replication_role = replica; {update}; RESET ALL")


async def test_rows_that_violate_a_foreign_key_of_theirs_are_told_before_anything_changes(
    old, empty
):
    await old.execute(originals.level_1())
    await originals.fill(old, 9)
    await old.execute(
        "CREATE SCHEMA app; CREATE TABLE app.kinds (source varchar, kind varchar, "
        "PRIMARY KEY (source, kind)); "
        "ALTER TABLE ltm_memories ADD CONSTRAINT of_kind FOREIGN KEY (source_type, memory_type) "
        "REFERENCES app.kinds (source, kind) NOT VALID; "
        "UPDATE ltm_memories SET memory_type = NULL; "
        "ALTER TABLE ltm_memories VALIDATE CONSTRAINT of_kind"
    )
    await violate(
        old,
        "UPDATE ltm_memories SET user_id = 77 WHERE id IN (4, 5); "
        "UPDATE ltm_memories SET source_type = 'a', memory_type = 'b' WHERE id = 6",
    )
    before = await old.fetch("SELECT oid FROM pg_class ORDER BY oid")
    with pytest.raises(migrate.MigrationFailed, match="cannot be adopted") as caught:
        migrate.apply(empty)
    for key, rows in ("of_kind", 1), ("ltm_memories_user_id_fkey", 2):
        told = f"the foreign key {key} does not hold for {rows} rows of ltm_memories (mend"
        assert told in str(caught.value)
    assert await old.fetch("SELECT oid FROM pg_class ORDER BY oid") == before
    commands = re.findall(r"new ones only: (.*?NOT VALID)\)", str(caught.value))
    assert len(commands) == 2
    for command in commands:
        await old.execute(command)
    migrate.apply(empty)
    assert await old.fetchval("SELECT user_id FROM ltm_memories WHERE id = 5") == 77


async def test_foreign_keys_that_do_not_hold_after_all_hold_for_new_rows(old, empty):
    """One of the program's for the tags that adoption completes, and its own on the way back."""
    await old.execute(originals.level_1())
    await originals.fill(old)
    await old.execute(
        "CREATE TABLE known AS SELECT DISTINCT tag_name FROM ltm_memory_tags; "
        "ALTER TABLE known ADD PRIMARY KEY (tag_name); ALTER TABLE ltm_memory_tags "
        "ADD CONSTRAINT is_known FOREIGN KEY (tag_name) REFERENCES known"
    )
    await violate(
        old,
        "UPDATE ltm_contexts SET memory_id = 7777 WHERE id = (SELECT min(id) FROM ltm_contexts); "
        "UPDATE ltm_memories SET parent_memory_id = 7777 WHERE id = 5",
    )
    lines: list[str] = []
    migrate.apply(empty, lines.append)
    unchecked = "SELECT conname FROM pg_constraint WHERE NOT convalidated ORDER BY conname"
    assert [row[0] for row in await old.fetch(unchecked)] == ["is_known"]
    assert any(line.startswith("the foreign key is_known does not hold") for line in lines)
    migrate.rollback(empty, everything=True, report=lines.append)
    names = ["ltm_contexts_memory_id_fkey", "ltm_memories_parent_memory_id_fkey"]
    assert [row[0] for row in await old.fetch(unchecked)] == names
    assert sum("hold for new ones only" in line for line in lines) == 3


async def test_the_end_says_which_foreign_key_is_in_its_way(old, empty):
    await old.execute(originals.level_1())
    await originals.fill(old)
    await old.execute(
        "CREATE TABLE known (category varchar PRIMARY KEY); ALTER TABLE ltm_memories "
        "ADD CONSTRAINT is_known FOREIGN KEY (category) REFERENCES known NOT VALID"
    )
    migrate.apply(empty)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reconcile, "POLL_SECONDS", 0)
        with pytest.raises(
            migrate.MigrationFailed,
            match="foreign key is_known does not hold for rows of ltm_memories: mend",
        ):
            migrate.optional(empty, "finish_adoption")
    await old.execute("ALTER TABLE ltm_memories DROP CONSTRAINT is_known")
    migrate.optional(empty, "finish_adoption")


async def test_details_that_the_program_writes_after_the_swap_are_not_there_before(old, empty):
    """It stores a memory first and its tags and relationships in later commits."""
    await old.execute(originals.level_1())
    await originals.fill(old)
    with pytest.MonkeyPatch.context() as patch:
        run_up_to(patch, "watch_originals")
        migrate.apply(empty)
    memory = await old.fetchval(
        "INSERT INTO ltm_memories (user_id, content, tags, related_memory_ids) "
        "VALUES (1, 'half written', '[\"late\"]', '[5]') RETURNING id"
    )
    migrate.apply(empty)
    await old.execute(
        "INSERT INTO ltm_memory_tags (memory_id, tag_name) VALUES ($1, 'late')", memory
    )
    await old.execute(
        "INSERT INTO ltm_memory_relationships (source_memory_id, target_memory_id, "
        "relationship_type) VALUES ($1, 5, 'related')",
        memory,
    )
    async with connect(empty, access_tracking="off") as db:
        assert len(await get_relationships(db, 1, memory)) == 1
