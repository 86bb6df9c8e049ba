"""Adopting the original application's database: nothing lost, nothing stopped, and the way back."""

import json
import os
import re
import signal
import subprocess
import sys

import asyncpg
import pytest

from ltm_store import add_memory, adopt, connect, get_relationships, migrate, search_memories
from ltm_store.resources import migration_ids
from tests import originals
from tests.catalog import fingerprint

SHAPES = {
    "L0": originals.L0,
    "L0 without its foreign key": originals.L0.replace(" REFERENCES users (id)", ""),
    "L1": originals.level_1(),
    "L2": originals.level_2(),
    **{f"half {seed}": originals.half(seed) for seed in (3, 5, 8)},
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
        return json.loads(text, parse_float=str, parse_constant=str) if isinstance(text, str) else text
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
    """What is there apart from the triggers of adoption and foreign keys to the application."""
    return [
        line
        for line in await fingerprint(connection)
        if "TRIGGER ltm_adoption_" not in line and "REFERENCES users" not in line
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
            original = reported["ltm_memories", id_, column]["original"]
            assert value_of(original) == row[column] or original.startswith(("-4713", "4713", '"['))
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
                assert after[table][id_]["user_id"] == before["ltm_memories"][memory]["user_id"]
    assert await catalog(old) == fresh_catalog

    assert migrate.apply(empty) == []
    assert await everything(old) == after


async def old_writes(connection: asyncpg.Connection, step: int) -> None:
    """What the original program may write at any time, each in a commit of its own."""
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
    patch.setattr(migrate, "take", lambda *_: None)


def details(
    tables: dict[str, dict[int, dict[str, object]]], table: str, columns: set[str]
) -> list[str]:
    """The rows that belong to memories that are there, without their ids."""
    keys = columns & {"memory_id", "source_memory_id", "target_memory_id"}
    rows = [r for r in tables[table].values() if all(r[k] in tables["ltm_memories"] for k in keys)]
    return sorted(json.dumps({c: row[c] for c in columns}, sort_keys=True) for row in rows)


@pytest.mark.parametrize("shape", ["L1", "L2"])
async def test_what_is_written_between_the_steps_is_there_in_the_end(
    shape, old, empty, monkeypatch
):
    """A twin that nobody adopts gets the same rows and the same writes."""
    monkeypatch.setattr(adopt, "BATCH", 7)
    await old.execute("CREATE SCHEMA twin")
    twin = await asyncpg.connect(empty, server_settings={"search_path": "twin"})
    for connection in (old, twin):
        await connection.execute(SHAPES[shape])
        await originals.fill(connection)
    for number, step in enumerate(list(adopt.STEPS)):
        with pytest.MonkeyPatch.context() as patch:
            run_up_to(patch, step)
            migrate.apply(empty)
        for connection in (old, twin):
            await old_writes(connection, number)
    assert migrate.apply(empty) == []
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
        ("ltm_memory_tags", {"memory_id", "tag_name", "usage_count"}),
        ("ltm_contexts", {"memory_id", "context_type", "context_key", "context_value"}),
        (
            "ltm_memory_relationships",
            {"source_memory_id", "target_memory_id", "relationship_type", "strength"},
        ),
    ):
        assert set(details(theirs, table, columns)) <= set(details(ours, table, columns))
    assert await old.fetchval("SELECT bool_and(convalidated) FROM pg_constraint")
