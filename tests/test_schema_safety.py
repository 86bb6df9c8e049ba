"""Servers, databases and roles that are unsuitable, and schemas in which others may create."""

import re
from collections.abc import AsyncIterator

import asyncpg
import pytest

from ltm_store import LtmError, add_memory, check_health, connect, get_memory
from ltm_store.db.resources import migration_ids
from ltm_store.migrate import (
    MigrationFailed,
    apply,
    memories_lost,
    optional,
    reconcile_mirrors,
    rollback,
    status,
)
from ltm_store.migrate.__main__ import main
from tests.servers import with_database, with_options, with_user
from tests.test_cli import invoke

PLANTED = """
CREATE FUNCTION public.format(text, text) RETURNS text LANGUAGE plpgsql IMMUTABLE
AS $$ BEGIN RAISE EXCEPTION 'captured'; END $$;
CREATE FUNCTION public.jsonb_build_object(text, jsonb) RETURNS jsonb LANGUAGE plpgsql IMMUTABLE
AS $$ BEGIN RAISE EXCEPTION 'captured'; END $$;
CREATE FUNCTION public.to_jsonb(bigint[]) RETURNS jsonb LANGUAGE plpgsql IMMUTABLE
AS $$ BEGIN RAISE EXCEPTION 'captured'; END $$;
CREATE FUNCTION public.unnest(text[]) RETURNS SETOF text LANGUAGE plpgsql IMMUTABLE
AS $$ BEGIN RAISE EXCEPTION 'captured'; END $$;
"""


async def role(admin: asyncpg.Connection, dsn: str, name: str) -> AsyncIterator[str]:
    """A role for a test; its password is its name."""
    await admin.execute(f"CREATE ROLE {name} LOGIN PASSWORD '{name}'")
    yield name
    connection = await asyncpg.connect(dsn)
    await connection.execute(f"REASSIGN OWNED BY {name} TO CURRENT_USER; DROP OWNED BY {name}")
    await connection.close()
    await admin.execute(f"DROP ROLE {name}")


@pytest.fixture
async def stranger(admin, empty):
    """A role that is neither ours nor a superuser."""
    async for name in role(admin, empty, "ltm_stranger"):
        yield name


@pytest.fixture
async def owner(admin, empty):
    """A role that may create in the empty database, and so owns what it migrates."""
    async for name in role(admin, empty, "ltm_tables_owner"):
        await allow(empty, name)
        yield name


@pytest.fixture
async def opened(empty):
    """The DSN of an empty database whose public schema is open to all, as up to PostgreSQL 14."""
    await allow(empty, "PUBLIC")
    return empty


async def allow(dsn: str, name: str) -> None:
    connection = await asyncpg.connect(dsn)
    await connection.execute(f"GRANT CREATE ON SCHEMA public TO {name}")
    await connection.close()


async def plant(dsn: str, role: str, commands: str = PLANTED) -> None:
    """Let a role create something where it may only do so for a moment."""
    connection = await asyncpg.connect(dsn)
    await connection.execute(f"GRANT CREATE ON SCHEMA public TO {role}")
    await connection.execute(f"SET ROLE {role}")
    await connection.execute(commands)
    await connection.execute("RESET ROLE")
    await connection.execute(f"REVOKE CREATE ON SCHEMA public FROM {role}")
    await connection.close()


async def test_a_schema_that_is_open_to_all_is_refused_by_name(opened, capsys):
    with pytest.raises(MigrationFailed, match="schema public: PUBLIC .*REVOKE CREATE"):
        apply(opened)
    assert main(["apply", "--dsn", opened]) == 1
    assert "--trust-schema" in capsys.readouterr().err
    assert main(["apply", "--trust-schema", "--dsn", opened]) == 0
    with pytest.raises(LtmError, match="schema public: PUBLIC .*trust_schema=True"):
        await connect(opened)
    async with connect(opened, trust_schema=True) as db:
        memory = await add_memory(db, 1, "x", tags=["a"])
        assert await get_memory(db, 1, memory.id) is not None
        problems = {(problem.check_name, problem.subject) for problem in await check_health(db)}
    assert ("unsafe_schema", "schema public") in problems


async def test_what_was_planted_does_not_run_in_what_looks_for_it(opened, stranger):
    await plant(opened, stranger)
    with pytest.raises(MigrationFailed, match=r"(?s)function format\(text,text\).*schema public"):
        apply(opened)


OWN = "CREATE FUNCTION public.own(a text, b jsonb) RETURNS text LANGUAGE sql AS 'SELECT a'"
NAMED = {
    "function jsonb_build_object(text,jsonb)": PLANTED,
    "function ltm_as_array(text)": OWN.replace("own(a text, b jsonb)", "ltm_as_array(a text)"),
    "operator ||(text,jsonb)": (
        f"{OWN}; CREATE OPERATOR public.|| (FUNCTION = own, LEFTARG = text, RIGHTARG = jsonb)"
    ),
    "function summed(text)": "CREATE AGGREGATE public.summed(text) (SFUNC = textcat, STYPE = text)",
    "table ltm_migrations": "CREATE VIEW public.ltm_migrations AS SELECT 1 AS migration_id",
}


async def test_what_was_planted_before_the_schema_was_closed_is_refused_by_name(empty, stranger):
    connection = await asyncpg.connect(empty)
    for subject, commands in NAMED.items():
        await plant(empty, stranger, commands)
        for call in (apply, rollback, memories_lost, reconcile_mirrors, status):
            with pytest.raises(MigrationFailed, match=re.escape(subject)):
                call(empty)
        with pytest.raises(MigrationFailed, match=re.escape(subject)):
            optional(empty, "finish_adoption")
        with pytest.raises(LtmError, match=re.escape(subject)):
            await connect(empty)
        await connection.execute(f"DROP OWNED BY {stranger}")
    await connection.close()


async def test_what_is_planted_later_is_refused_and_told(empty, stranger):
    apply(empty)
    await plant(empty, stranger, OWN)
    with pytest.raises(LtmError, match=r"function own\(text,jsonb\)"):
        await connect(empty)
    with pytest.raises(MigrationFailed, match="statements would use what ltm_stranger has made"):
        rollback(empty, everything=True)
    async with connect(empty, trust_schema=True) as db:
        problems = {(problem.check_name, problem.subject) for problem in await check_health(db)}
    assert ("unsafe_schema", "function own(text,jsonb)") in problems
    assert status(empty, trust_schema=True).applied == migration_ids()
    for command in ("rollback", "status", "finish_adoption"):
        assert main([command, "--dsn", empty]) == 1
    for options, code in (([], 1), (["--trust-schema"], 0)):
        done = invoke("--dsn", empty, *options, "users")
        assert (done.exit_code, "--trust-schema" in done.stderr) == (code, code == 1)
    assert main(["rollback", "--trust-schema", "--dsn", empty]) == 0


async def test_a_table_in_an_earlier_schema_does_not_make_its_owner_ours(empty, stranger):
    apply(empty)
    connection = await asyncpg.connect(empty)
    await connection.execute(
        f"CREATE SCHEMA front; GRANT CREATE ON SCHEMA front TO {stranger}; SET ROLE {stranger};"
        "CREATE TABLE front.ltm_memories (id bigint); RESET ROLE;"
        f"REVOKE CREATE ON SCHEMA front FROM {stranger}"
    )
    front = with_options(empty, "-csearch_path=front,public")
    with pytest.raises(LtmError, match="table ltm_memories: .*ltm_stranger"):
        await connect(front)
    with pytest.raises(MigrationFailed, match="table ltm_memories"):
        apply(front)
    await connection.close()


async def test_the_owner_its_members_and_groups_are_no_danger(empty, owner, stranger):
    """Whoever may act as the owner anyway, and a group that this role was put into."""
    as_owner = with_user(empty, owner, owner)
    as_stranger = with_user(empty, stranger, stranger)
    connection = await asyncpg.connect(empty)
    await connection.execute(f"GRANT {owner} TO {stranger}")
    apply(as_owner)
    await plant(empty, stranger, OWN)  # who could drop the tables as well
    for dsn in (empty, as_owner, as_stranger):
        async with connect(dsn) as db:
            assert await check_health(db) == []
        apply(dsn)
    await connection.execute("ALTER TABLE ltm_memories OWNER TO CURRENT_USER")
    await connection.close()
    async with connect(as_stranger):  # a member of a group that may create
        pass


async def test_the_owner_of_the_database_is_no_danger(admin, empty, stranger):
    """To whom public belongs as pg_database_owner, whoever owns the tables."""
    connection = await asyncpg.connect(empty)
    name = await connection.fetchval("SELECT current_database()")
    await connection.execute("ALTER SCHEMA public OWNER TO pg_database_owner")
    await admin.execute(f"ALTER DATABASE {name} OWNER TO {stranger}")
    await connection.execute(f"SET ROLE {stranger}; {OWN}")
    await connection.close()
    apply(empty)
    async with connect(empty) as db:
        assert await check_health(db) == []


async def test_a_role_that_may_create_is_named(empty, stranger):
    connection = await asyncpg.connect(empty)
    await connection.execute(f"GRANT CREATE ON SCHEMA public TO {stranger}")
    with pytest.raises(MigrationFailed, match=f"{stranger} may create"):
        apply(empty)
    await connection.execute(f"REVOKE CREATE ON SCHEMA public FROM {stranger}")
    await connection.close()
    apply(empty)


async def test_an_application_under_its_own_role_is_no_danger_and_in_none(empty, stranger):
    """The schema is the owner's; who connects may read and write, and nothing more."""
    apply(empty)
    connection = await asyncpg.connect(empty)
    await connection.execute(
        f"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO {stranger}"
    )
    async with connection.transaction():
        await connection.execute(f"SET LOCAL ROLE {stranger}")
        assert (await add_memory(connection, 1, "x")).outcome == "created"
    await connection.close()


async def test_a_right_that_is_missing_is_told_with_the_table(empty, stranger):
    apply(empty)
    connection = await asyncpg.connect(empty)
    transaction = connection.transaction()
    await transaction.start()
    await connection.execute(f"SET LOCAL ROLE {stranger}")
    with pytest.raises(LtmError, match="permission denied for table ltm_memories"):
        await get_memory(connection, 1, 1)
    await transaction.rollback()
    await connection.close()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("-csearch_path=nowhere", "no schema of search_path"),
        ("-crole=ltm_stranger", "may not create tables in the schema public: GRANT CREATE"),
    ],
)
async def test_an_unsuitable_session_is_refused_before_the_first_step(
    empty, stranger, options, words
):
    with pytest.raises(MigrationFailed, match=words):
        apply(with_options(empty, options))
    connection = await asyncpg.connect(empty)
    tables = "SELECT count(*) FROM pg_class WHERE relname LIKE 'ltm%'"
    assert await connection.fetchval(tables) == 0
    apply(empty)
    rollback(empty)
    for call in (apply, rollback):
        with pytest.raises(MigrationFailed, match=words):
            call(with_options(empty, options))
    await connection.close()


async def test_an_old_server_is_refused(empty, monkeypatch):
    monkeypatch.setattr("ltm_store.migrate.suitability.OLDEST_VERSION", 990_000)
    with pytest.raises(MigrationFailed, match=r"PostgreSQL [\d.]+ .*is too old: 99 is needed"):
        apply(empty)


@pytest.fixture
async def database(admin, server):
    """Makes a database with an encoding and a locale, if the server has it; gives its DSN."""
    made = False

    async def make(encoding: str, locale: str) -> str:
        nonlocal made
        try:
            await admin.execute(
                f"CREATE DATABASE ltm_other ENCODING '{encoding}' LOCALE '{locale}' "
                "TEMPLATE template0"
            )
        except asyncpg.WrongObjectTypeError:
            pytest.skip(f"no locale {locale}")
        made = True
        return with_database(server, "ltm_other")

    yield make
    if made:
        await admin.execute("DROP DATABASE ltm_other WITH (FORCE)")


async def test_another_encoding_is_refused(database):
    dsn = await database("SQL_ASCII", "C")
    with pytest.raises(MigrationFailed, match="encoding of the database is SQL_ASCII"):
        apply(dsn)


@pytest.mark.parametrize("locale", ["C", "tr_TR.UTF-8"])
async def test_a_locale_with_other_small_letters_is_told(database, locale):
    dsn = await database("UTF8", locale)
    told: list[str] = []
    apply(dsn, report=told.append)
    assert "LC_CTYPE" in told[0]
    async with connect(dsn) as db:
        assert [p.check_name for p in await check_health(db)] == ["letter_case"]
