"""Searching by meaning and words, against a full scan in Python; and the times in a question."""

import math
import random
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ltm_store import (
    InvalidArgument,
    add_memory,
    archive_memory,
    connect,
    explain_search,
    search_memories,
    update_memory,
)
from ltm_store.embedders import FunctionEmbedder
from ltm_store.model.times import LANGUAGES, ENGLISH, spans_of
from tests.populate import populate

NOW = datetime(2026, 8, 13, 15, tzinfo=UTC)  # a Thursday
SIZE = 4


def cosine(one: list[float], other: list[float]) -> float:
    return math.sumprod(one, other) / math.hypot(*one) / math.hypot(*other)


@pytest.fixture(scope="module")
async def scanned(vectors_at_all, session_conn: asyncpg.Connection):
    """Memories of several users, with filters to pass, and their vectors in Python."""
    drawn = random.Random(16)
    rows: list[dict[str, Any]] = []
    transaction = session_conn.transaction()
    await transaction.start()
    for number in range(120):
        row = {
            "user": drawn.choice((1, 1, 1, 2)),
            "vector": [drawn.gauss(0, 1) for _ in range(drawn.choice((SIZE, SIZE, SIZE, 3)))],
            "memory_type": drawn.choice(("fact", "goal")),
            "tags": tuple(drawn.sample(("red", "green", "blue"), drawn.randrange(3))),
            "importance": drawn.randrange(1, 11),
            "archived": drawn.random() < 0.2,
            "expires_at": drawn.choice((None, None, NOW - timedelta(1), NOW + timedelta(1))),
            "model": drawn.choice(("caller", "caller", "caller", "other")),
            "stale": drawn.random() < 0.1,
        }
        memory = await add_memory(
            session_conn,
            row["user"],
            f"content {number}",
            memory_type=row["memory_type"],
            tags=row["tags"],
            importance_score=row["importance"],
            expires_at=row["expires_at"] and datetime.now(UTC) + timedelta(1),
            embedding=row["vector"],
            embedding_model=row["model"],
        )
        if row["stale"]:
            await update_memory(session_conn, row["user"], memory.id, content=f"changed {number}")
        if row["archived"]:
            await archive_memory(session_conn, row["user"], memory.id)
        if row["expires_at"]:
            await update_memory(
                session_conn, row["user"], memory.id, expires_at=row["expires_at"]
            )
        rows.append({**row, "id": memory.id})
    yield session_conn, rows
    await transaction.rollback()
