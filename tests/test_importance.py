"""The importance functions against an independent reference, and the order that they promise."""

import math
from datetime import UTC, date, datetime, timedelta
from typing import Any

import asyncpg
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ltm_store import add_memory, get_memory, record_access, search_memories, update_importance

FIRST, LAST = datetime(2000, 1, 1), datetime(2200, 1, 1)
INFINITE = object()  # stands for a stored infinity
NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)

scores = st.none() | st.integers(-(2**31), 2**31 - 1)
confidences = st.none() | st.floats()
counts = st.none() | st.integers(-(2**31), 2**31 - 1) | st.integers(0, 20)
moments = st.none() | st.sampled_from([datetime.min, datetime.max]) | st.datetimes()
"""asyncpg sends datetime.min and .max as -infinity and infinity."""


def days(moment: datetime) -> int:
    return (min(max(moment, FIRST), LAST).date() - date(2000, 1, 1)).days


def reference_rank(
    score: int | None,
    confidence: float | None,
    count: int | None,
    last_accessed: datetime | None,
    created_at: datetime | None,
) -> int:
    points = min(max(1 if score is None else score, 1), 10)
    if confidence is None or math.isnan(confidence):  # as the server, which sorts NaN above all
        confidence = 1.0
    sure = min(max(confidence, 0.0), 1.0)
    steps = sum((count or 0) >= step for step in (1, 3, 7, 15))
    seen = last_accessed or created_at or FIRST
    return 1440 * points + round(2880 * (sure - 1)) + 720 * steps + 8 * days(seen)


def reference_importance(rank: int, as_of: datetime) -> float:
    return min(max((rank - 8 * days(as_of)) / 1440, 0), 10)


@given(scores, confidences, counts, moments, moments)
@example(None, None, None, None, None)
@example(10, math.nan, 15, datetime.max, None)
@example(10, -math.inf, 14, datetime.min, datetime.max)
@example(5, 0.5, 3, datetime(1, 1, 2), None)
@example(5, 1.0, 0, None, datetime(2350, 1, 1))
async def test_importance_rank_equals_the_reference(
    session_conn, score, confidence, count, last_accessed, created_at
):
    rank = await session_conn.fetchval(
        "SELECT ltm_importance_rank($1, $2, $3, $4, $5)",
        *(score, confidence, count, last_accessed, created_at),
    )
    assert rank == reference_rank(score, confidence, count, last_accessed, created_at)


@given(st.integers(-(2**30), 2**30), st.datetimes(timezones=st.just(UTC)))
@example(0, datetime.min.replace(tzinfo=UTC))
@example(14400, datetime(2500, 1, 1, tzinfo=UTC))
async def test_dynamic_importance_equals_the_reference(session_conn, rank, as_of):
    value = await session_conn.fetchval("SELECT ltm_dynamic_importance($1, $2)", rank, as_of)
    assert value == pytest.approx(reference_importance(rank, as_of.replace(tzinfo=None)), abs=1e-12)


@given(st.lists(st.integers(-20_000, 100_000), min_size=2), st.datetimes(timezones=st.just(UTC)))
async def test_the_order_by_rank_is_the_order_by_importance_at_any_moment(
    session_conn, ranks, as_of
):
    values = await session_conn.fetch(
        "SELECT ltm_dynamic_importance(rank, $2) FROM unnest($1::integer[]) AS r (rank) "
        "ORDER BY rank DESC",
        *(ranks, as_of),
    )
    values = [row[0] for row in values]
    assert values == sorted(values, reverse=True)


async def test_the_stored_rank_is_the_function_of_the_row(conn):
    memory = await add_memory(
        conn, 1, "x", importance_score=8, confidence_score=0.75, created_at=NOW
    )
    assert memory.importance_rank == reference_rank(8, 0.75, 0, None, NOW.replace(tzinfo=None))


async def test_an_untouched_memory_loses_a_point_in_180_days(conn):
    memory = await add_memory(conn, 1, "x", importance_score=8)
    assert memory.created_at is not None
    as_of = memory.created_at + timedelta(days=180)
    (later,) = await search_memories(conn, 1, as_of=as_of)
    assert later.dynamic_importance == pytest.approx(memory.dynamic_importance - 1)


async def test_accesses_raise_importance_at_the_1st_3rd_7th_and_15th(conn):
    memory = await add_memory(conn, 1, "x", importance_score=2)
    raised = []
    for access in range(1, 17):
        before = memory.importance_rank
        await record_access(conn, 1, [memory.id])
        again = await get_memory(conn, 1, memory.id)
        assert again is not None
        memory = again
        if memory.importance_rank > before:
            raised.append(access)
    assert raised == [1, 3, 7, 15]
    assert memory.access_count == 16


async def test_the_column_for_older_readers_holds_the_value_of_the_last_write(conn):
    memory = await add_memory(conn, 1, "x", importance_score=3)
    stored = "SELECT dynamic_importance FROM ltm_memories WHERE user_id = 1 AND id = $1"
    assert await conn.fetchval(stored, memory.id) == 3
    await update_importance(conn, 1, memory.id, 9)
    assert await conn.fetchval(stored, memory.id) == 9
    await record_access(conn, 1, [memory.id])
    assert await conn.fetchval(stored, memory.id) == 9.5


async def test_search_orders_by_live_importance_then_newest_id(conn):
    def on(day: int, score: int) -> dict[str, Any]:
        return {"created_at": NOW + timedelta(days=day), "importance_score": score}

    old = await add_memory(conn, 1, "old but important", **on(0, 9))
    new = await add_memory(conn, 1, "new", **on(360, 7))
    twin = await add_memory(conn, 1, "twin", **on(360, 7))
    found = await search_memories(conn, 1, as_of=NOW + timedelta(days=400))
    assert [hit.id for hit in found] == [twin.id, new.id, old.id]


async def test_functions_are_restored_with_their_indexes(session_conn: asyncpg.Connection):
    """A body of SQL-standard form is kept parsed, so no search_path can change what it means."""
    bodies = await session_conn.fetch(
        "SELECT prosqlbody IS NOT NULL FROM pg_proc JOIN pg_language AS l ON l.oid = prolang "
        "WHERE proname LIKE 'ltm\\_%' AND l.lanname = 'sql'"
    )
    assert bodies
    assert all(row[0] for row in bodies)
