"""Recall on dialogues made here, with known answers: ours beside what plain PostgreSQL offers.

Conversations are turns of words of very different frequency. A question about a turn
uses some of its words, in other forms, among common ones; the turn that answers often comes next
and shares few words with the question, as people talk.
"""

import random

import asyncpg
from rich.table import Table

from ltm_store import add_memories, search_memories

USERS, CONVERSATIONS, TURNS, QUESTIONS = 5, 40, 12, 60
STEMS = [
    a + b + c for a in "bdfgklmnprst" for b in ("ar", "en", "il", "or", "un") for c in "bdgkmpt"
]
ENDINGS = ("", "s", "ed", "ing")
OR_QUERY = (
    "to_tsquery('english', array_to_string(tsvector_to_array(to_tsvector('english', $2)), ' | '))"
)
PLAIN = {
    "ts_rank, any word": "SELECT content FROM ltm_memories WHERE user_id = $1 AND search_vector @@ "
    f"{OR_QUERY} ORDER BY ts_rank(search_vector, {OR_QUERY}) DESC, id DESC LIMIT 10",
    "websearch_to_tsquery, every word": "SELECT content FROM ltm_memories WHERE user_id = $1 AND "
    "search_vector @@ websearch_to_tsquery('english', $2) ORDER BY ts_rank(search_vector, "
    "websearch_to_tsquery('english', $2)) DESC, id DESC LIMIT 10",
    "ILIKE %whole query%": "SELECT content FROM ltm_memories WHERE user_id = $1 AND "
    "content ILIKE '%' || $2 || '%' ORDER BY id DESC LIMIT 10",
}


def _words(draw: random.Random, count: int) -> list[str]:
    """Words of which a few are everywhere and most are rare."""
    return [
        STEMS[int(len(STEMS) ** draw.random()) - 1] + draw.choice(ENDINGS) for _ in range(count)
    ]


def _dialogues(draw: random.Random) -> tuple[list[dict[str, object]], list[tuple[str, str]]]:
    """The turns of one user, and questions with the content of the turn that answers."""
    turns: list[dict[str, object]] = []
    texts: list[list[str]] = []
    for conversation in range(CONVERSATIONS):
        for position in range(TURNS):
            words = _words(draw, 11)
            texts.append(words)
            source = {"source_id": f"c{conversation}", "source_position": position}
            turns.append({"content": " ".join(words), **source})
    questions = []
    for _ in range(QUESTIONS):
        asked = draw.randrange(CONVERSATIONS) * TURNS + draw.randrange(TURNS - 1)
        answer = asked + (draw.random() < 0.5)
        shared = draw.sample(texts[asked], 3) + draw.sample(texts[answer], 1)
        forms = [word[:4].rstrip("sei") + draw.choice(ENDINGS) for word in shared]
        query = forms + _words(draw, 3)
        draw.shuffle(query)
        questions.append((" ".join(query), str(turns[answer]["content"])))
    return turns, questions


async def recall(conn: asyncpg.Connection) -> Table:
    """Share of questions whose answer is among the first ten, by method."""
    draw = random.Random(11)
    found: dict[str, int] = {}
    asked = 0
    for user in range(900_000, 900_000 + USERS):
        turns, questions = _dialogues(draw)
        await add_memories(conn, user, turns)
        asked += len(questions)
        for query, answer in questions:
            for method, neighbours in (("search_memories", True), ("  without neighbours", False)):
                hits = await search_memories(conn, user, query, neighbours=neighbours)
                found[method] = found.get(method, 0) + (answer in [hit.content for hit in hits])
            for method, sql in PLAIN.items():
                rows = await conn.fetch(sql, user, query)
                found[method] = found.get(method, 0) + (answer in [row[0] for row in rows])
    table = Table("method", "recall at 10", title=f"{asked} questions about made dialogues")
    for method, count in found.items():
        table.add_row(method, f"{count / asked:.0%}")
    return table
