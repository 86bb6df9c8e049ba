"""Servers, databases and roles that are unsuitable, and schemas in which others may create."""

import asyncpg
import pytest

from ltm_store import LtmError, add_memory, check_health, connect, get_memory
from ltm_store.migrate import MigrationFailed, apply
from ltm_store.migrate.__main__ import main
from tests.servers import with_database

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


@pytest.fixture
async def stranger(admin):
    """A role that is neither ours nor a superuser."""
    await admin.execute("CREATE ROLE ltm_stranger LOGIN")
    yield "ltm_stranger"
    await admin.execute("DROP ROLE ltm_stranger")


@pytest.fixture
async def opened(empty, stranger):
    """The DSN of an empty database whose public schema is open to all, as up to PostgreSQL 14."""
    connection = await asyncpg.connect(empty)
    await connection.execute("GRANT CREATE ON SCHEMA public TO PUBLIC")
    yield empty
    await connection.execute(f"DROP OWNED BY {stranger}")
    await connection.execute("REVOKE CREATE ON SCHEMA public FROM PUBLIC")
    await connection.close()


async def plant(dsn: str, role: str) -> None:
    connection = await asyncpg.connect(dsn)
    await connection.execute(f"SET ROLE {role}")
    await connection.execute(PLANTED)
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


async def test_what_was_planted_before_the_schema_was_closed_is_refused_by_name(opened, stranger):
    await plant(opened, stranger)
    connection = await asyncpg.connect(opened)
    await connection.execute("REVOKE CREATE ON SCHEMA public FROM PUBLIC")
    with pytest.raises(MigrationFailed, match=r"function jsonb_build_object\(text,jsonb\)"):
        apply(opened)
    await connection.execute(f"DROP OWNED BY {stranger}")
    apply(opened)
    await connection.execute("GRANT CREATE ON SCHEMA public TO PUBLIC")
    await plant(opened, stranger)
    await connection.execute("REVOKE CREATE ON SCHEMA public FROM PUBLIC")
    await connection.close()
    with pytest.raises(LtmError, match=r"function unnest\(text\[\]\)"):
        await connect(opened)


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
    await connection.execute(f"DROP OWNED BY {stranger}")
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
        ("-csearch_path%3Dnowhere", "no schema of search_path"),
        ("-crole%3Dltm_stranger", "may not create tables in the schema public: GRANT CREATE"),
    ],
)
async def test_an_unsuitable_session_is_refused_before_the_first_step(
    empty, stranger, options, words
):
    separator = "&" if "?" in empty else "?"
    with pytest.raises(MigrationFailed, match=words):
        apply(f"{empty}{separator}options={options}")
    connection = await asyncpg.connect(empty)
    tables = "SELECT count(*) FROM pg_class WHERE relname LIKE 'ltm%'"
    assert await connection.fetchval(tables) == 0
    await connection.close()


async def test_another_encoding_is_refused_and_another_locale_is_told(admin, server):
    await admin.execute(
        "CREATE DATABASE ltm_ascii ENCODING 'SQL_ASCII' LOCALE 'C' TEMPLATE template0"
    )
    await admin.execute("CREATE DATABASE ltm_c ENCODING 'UTF8' LOCALE 'C' TEMPLATE template0")
    try:
        with pytest.raises(MigrationFailed, match="encoding of the database is SQL_ASCII"):
            apply(with_database(server, "ltm_ascii"))
        told: list[str] = []
        apply(with_database(server, "ltm_c"), report=told.append)
        assert "LC_CTYPE" in told[0]
        async with connect(with_database(server, "ltm_c")) as db:
            assert [p.check_name for p in await check_health(db)] == ["letter_case"]
    finally:
        await admin.execute("DROP DATABASE ltm_ascii WITH (FORCE)")
        await admin.execute("DROP DATABASE ltm_c WITH (FORCE)")
