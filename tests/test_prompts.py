"""Memories as text for a prompt."""

from datetime import UTC, datetime

import pytest

from ltm_store import InvalidArgument, add_memory, format_for_prompt, search_memories


@pytest.fixture
async def hits(conn):
    for n, content in enumerate(["Drinks\n tea", "Loves long walks by the river Mur", "Naps"]):
        await add_memory(
            conn,
            1,
            content,
            importance_score=9 - n,
            memory_type="habit" if n != 1 else None,
            created_at=datetime(2026, 3, 2, tzinfo=UTC),
        )
    return await search_memories(conn, 1)


LINES = [
    "- (2026-03-02, habit) Drinks tea",
    "- (2026-03-02) Loves long walks by the river Mur",
    "- (2026-03-02, habit) Naps",
]


@pytest.mark.parametrize(
    ("room", "expected"),
    [
        (10_000, LINES),
        (len("\n".join(LINES)), LINES),
        (len("\n".join(LINES)) - 1, LINES[:2]),
        (len(LINES[0]) + 1 + len(LINES[2]), [LINES[0], LINES[2]]),
        (len(LINES[0]), LINES[:1]),
        (5, []),
        (0, []),
    ],
)
async def test_most_relevant_first_and_never_cut_inside_a_memory(hits, room, expected):
    text = format_for_prompt(hits, max_chars=room)
    assert text == "\n".join(expected)
    assert len(text) <= room


async def test_the_room_is_a_number(hits):
    for room in (-1, True, "5"):
        with pytest.raises(InvalidArgument, match="^max_chars"):
            format_for_prompt(hits, max_chars=room)
