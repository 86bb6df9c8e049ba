"""What forget_user erased is in no file of the database any more, once that is rewritten."""

import sys
from pathlib import Path

import asyncpg
import pytest

from ltm_store import (
    add_memories,
    add_memory,
    add_tags,
    connect,
    forget_user,
    record_access,
    relate,
    search_memories,
    update_memory,
)
from tests.conftest import has_vector

CANARY = "xylophagouszebra"
NAME, NUMBER = f"user {CANARY}", 7_000_000_000_000_777
FORGETS = ("ANALYZE", "VACUUM FULL", "CHECKPOINT")
"""As docs/whole-users.md says."""


def holding(folder: Path, *texts: bytes) -> set[str]:
    """The files of a database in which one of these stands."""
    found = set()
    for file in folder.iterdir():
        if file.is_file():
            content = file.read_bytes()
            found |= {file.name for text in texts if text in content}
    return found


async def fill(dsn: str, user: str | int, text: str, *, vectors: bool) -> None:
    """Give a user something in every table and column that takes text."""
    async with connect(dsn) as db:
        one = await add_memory(
            db,
            user,
            f"{text} in the morning",
            tags=[f"tag {text}"],
            category=text,
            context=text,
            source_id=f"{text} talk",
            metadata={"note": text},
            enhanced_context={"spatial": {"city": text}},
            idempotency_key=f"{text} once",
            namespace=text,
            key=f"{text} key",
            embedding=[1.0, 2.0, 3.0] if vectors else None,
        )
        await add_memories(db, user, [{"content": f"{text} {n}" * 99} for n in range(50)])
        two = await add_memory(db, user, f"{text} again", created_by=text)
        await relate(db, user, one.id, two.id, description=text)
        await add_tags(db, user, two.id, [f"{text} two"], tag_category=text)
        await record_access(db, user, [one.id], access_context=text, user_query=text)
        await update_memory(db, user, one.id, content=f"{text} changed")
        assert await search_memories(db, user, text)


async def test_a_forgotten_user_is_in_no_file_once_the_tables_are_rewritten(own_dsn: str):
    """A number of a user, or a text; in rows, indexes or the planner's statistics."""
    connection = await asyncpg.connect(own_dsn)
    place = await connection.fetchrow(
        "SELECT current_setting('data_directory') AS files, oid FROM pg_database "
        "WHERE datname = current_database()"
    )
    assert place is not None
    folder = Path(place["files"], "base", str(place["oid"]))
    if not folder.is_dir():  # noqa: ASYNC240
        pytest.skip("the server's files are not here")
    vectors = await has_vector(connection)
    for user, text in ((NAME, CANARY), (NUMBER, CANARY), ("another", "tea")):
        await fill(own_dsn, user, text, vectors=vectors)
    async with connect(own_dsn) as db:
        await connection.execute("ANALYZE; CHECKPOINT")
        marks = (CANARY.encode(), NUMBER.to_bytes(8, sys.byteorder))
        assert len(holding(folder, *marks)) > 20, "tables, indexes and statistics hold it before"
        for user in (NAME, NUMBER):
            assert (await forget_user(db, user)).counts["ltm_memories"] == 52
        for statement in FORGETS:
            await connection.execute(statement)
        assert holding(folder, *marks) == set()
        assert await search_memories(db, "another", "tea")
    await connection.close()


def test_what_makes_a_server_forget_is_documented():
    page = (Path(__file__).parents[1] / "docs" / "whole-users.md").read_text()
    assert all(f"`{statement}`" in page for statement in FORGETS)
