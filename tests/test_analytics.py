"""The figures of a user against figures counted in Python."""

from datetime import UTC, datetime, timedelta

import pytest

from ltm_store import (
    add_memory,
    archive_memory,
    get_analytics,
    record_access,
    relate,
    update_memory,
)

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


async def test_figures(conn):
    ids = []
    for n in range(12):
        memory = await add_memory(
            conn,
            1,
            f"memory {n}",
            memory_type=["fact", "goal", None][n % 3],
            category="even" if n % 2 == 0 else "odd",
            tags=["all", f"t{n % 4}"],
            namespace=["", "agents.cook", "agents"][min(n % 4, 2)],
            importance_score=1 + n % 10,
            created_at=NOW - timedelta(days=31 * n),
        )
        ids.append(memory.id)
    await add_memory(conn, 1, "expired", expires_at=NOW, tags=["expired"], namespace="expired")
    await add_memory(conn, 2, "another's")
    await archive_memory(conn, 1, ids[3])
    for n in (5, 5, 5, 7):
        await record_access(conn, 1, [ids[n]])
    for n in (1, 2, 3):
        await relate(conn, 1, ids[0], ids[n])
    gone = await add_memory(conn, 1, "gone", related_memory_ids=[ids[0]])
    await relate(conn, 1, ids[0], gone.id)
    await update_memory(conn, 1, gone.id, expires_at=NOW)
    figures = await get_analytics(conn, 1, as_of=datetime.now(UTC))
    assert (figures.total_memories, figures.archived_memories) == (12, 1)
    assert figures.type_distribution == {"fact": 4, "goal": 4, "unknown": 4}
    assert figures.category_distribution == {"even": 6, "odd": 6}
    assert list(figures.namespace_distribution.items()) == [
        ("agents", 6),
        ("", 3),
        ("agents.cook", 3),
    ]
    assert list(figures.tag_distribution.items()) == [
        ("all", 12),
        ("t0", 3),
        ("t1", 3),
        ("t2", 3),
        ("t3", 3),
    ]
    assert figures.average_importance == pytest.approx(sum(1 + n % 10 for n in range(12)) / 12)
    assert list(figures.growth_by_month) == sorted(figures.growth_by_month)
    assert sum(figures.growth_by_month.values()) == 12
    assert [(m.id, m.access_count) for m in figures.most_accessed_memories] == [
        (ids[5], 3),
        (ids[7], 1),
    ]
    assert [(m.id, m.relationship_count) for m in figures.most_related_memories] == [
        (ids[0], 3),
        (ids[3], 1),
        (ids[2], 1),
        (ids[1], 1),
    ]


async def test_average_dynamic_importance_is_of_the_moment(conn):
    memory = await add_memory(conn, 1, "x", importance_score=8, created_at=NOW)
    later = await get_analytics(conn, 1, as_of=NOW + timedelta(days=360))
    assert memory.importance_score == 8
    assert later.average_dynamic_importance == pytest.approx(6)


@pytest.mark.parametrize("user", [1, "nobody"])
async def test_a_user_without_memories(conn, user):
    figures = await get_analytics(conn, user)
    assert (figures.total_memories, figures.average_importance) == (0, None)
    assert figures.tag_distribution == figures.namespace_distribution == {}
    assert figures.most_accessed_memories == ()
