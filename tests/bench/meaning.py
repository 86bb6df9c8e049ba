"""`python -m tests.bench.meaning`: what recall by meaning brings and costs, with a real model.

Recall on dialogues; then, among 300,000 memories, searches by words alone and with meaning, of
users with 2,000, 20,000 and 100,000, and of the last with an index; then what an embedder costs an
add. Twenty minutes.
"""

import asyncio
import random
import re
import statistics
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import asyncpg
from rich.console import Console
from rich.table import Table

from ltm_store import (
    Database,
    add_memories,
    add_memory,
    connect,
    index_user,
    migrate,
    search_memories,
)
from ltm_store.embedders import FastEmbedder
from tests import servers
from tests.dialogues import ANSWERS, CHATS, OTHERS
from tests.small_model import MODEL, lay_out

USERS, EACH = 90, 2_000
LARGER = {1_000: 20_000, 1_001: 100_000}
SEARCHES, WARM, ROUNDS, ADDS = 200, 20, 10, 100
TALKER = 2_000
SENTENCES = "CREATE TABLE sentences (n bigserial PRIMARY KEY, content text, embedding halfvec)"
DRAWN = "(1 + abs(hashint8extended({n}, 1) % $4), 1 + abs(hashint8extended({n}, 2) % $4))"
NUMBER = "(substring(m.source_id FROM 2)::bigint * 20 + m.source_position)"
FILL = (
    "INSERT INTO ltm_memories (user_id, content, source_id, source_position, importance_score) "
    "SELECT $1::bigint + g.at / $2::bigint, (SELECT string_agg(s.content, ' ') FROM sentences AS s "
    f"WHERE s.n IN {DRAWN.format(n='g.at')}), 's' || g.at / 20, g.at % 20, 1 + g.at % 10 "
    "FROM generate_series(0, $2::bigint * $3::bigint - 1) AS g (at)"
)
VECTORS = (
    "INSERT INTO ltm_embeddings (user_id, memory_id, model, dimensions, embedding, content_hash, "
    "embedded_at) SELECT m.user_id, m.id, $3, 384, v.sum, m.content_hash, now() "
    "FROM ltm_memories AS m CROSS JOIN LATERAL (SELECT sum(s.embedding) AS sum FROM sentences AS s "
    f"WHERE s.n IN {DRAWN.format(n=NUMBER)}) AS v "
    "WHERE m.user_id BETWEEN $1 AND $2"
)


def prose() -> list[str]:
    """Sentences in English: the dialogues, and what the pages of docs/ say."""
    found = [answer for answer, _ in ANSWERS] + list(OTHERS)
    found += [turn for _, turns, _ in CHATS for turn in turns]
    for page in sorted(Path("docs").glob("*.md")):
        text = re.sub(r"```.*?```", " ", page.read_text(), flags=re.DOTALL)
        found += re.findall(r"[A-Z][^.|#*\[\]]{20,200}[.:]", text.replace("\n", " "))
    return list(dict.fromkeys(found))


def queries() -> list[str]:
    """Questions, and beginnings of sentences, whose words many memories hold."""
    asked = [question for _, question in ANSWERS]
    asked += [question for _, _, some in CHATS for question, _ in some]
    asked += [" ".join(sentence.split()[:7]) for sentence in prose()]
    return random.Random(16).sample(list(dict.fromkeys(asked)), SEARCHES)


async def recall(db: Database) -> Table:
    """Of the questions on the conversations, how many have their answer among the first."""
    for talk, (speakers, turns, _) in enumerate(CHATS):
        lines = [
            {
                "content": turn,
                "source_id": f"talk {talk}",
                "source_position": place,
                "created_by": speakers[place % 2],
            }
            for place, turn in enumerate(turns)
        ]
        await add_memories(db, TALKER, lines)
    said = [answer for answer, _ in ANSWERS] + list(OTHERS)
    await add_memories(db, TALKER, [{"content": content} for content in said])
    await db.flush()
    asked = [(question, turns[place]) for _, turns, some in CHATS for question, place in some]
    table = Table("share of meaning", "neighbours", "in 5", "in 10", "in 20")
    table.title = f"{len(asked)} questions that share no word with the answer"
    for meaning in (0.0, 0.4, 1.0):
        for neighbours in (False, True):
            places = []
            for question, answer in asked:
                hits = await search_memories(
                    db, TALKER, question, meaning=meaning, neighbours=neighbours, limit=20
                )
                contents = [hit.content for hit in hits]
                places.append(contents.index(answer) if answer in contents else 20)
            shares = [sum(place < n for place in places) / len(asked) for n in (5, 10, 20)]
            table.add_row(str(meaning), str(neighbours), *(f"{share:.1%}" for share in shares))
    return table


async def fill(conn: asyncpg.Connection, embedder: FastEmbedder) -> None:
    """Memories of two sentences each, whose vector is the sum of theirs."""
    await conn.execute(SENTENCES)
    sentences = prose()
    vectors = await embedder.embed(sentences, purpose="memory")
    await conn.executemany(
        "INSERT INTO sentences (content, embedding) VALUES ($1, ltm_embedding($2))",
        list(zip(sentences, vectors, strict=True)),
    )
    await conn.execute("SET synchronous_commit = off")
    for first, memories, users in ((1, EACH, USERS), *((u, n, 1) for u, n in LARGER.items())):
        await conn.execute(FILL, first, memories, users, len(sentences))
        await conn.execute(VECTORS, first, first + users - 1, embedder.model, len(sentences))
    await conn.execute("VACUUM ANALYZE")


def figures(times: Iterable[float]) -> str:
    """Median and 95th percentile, in milliseconds."""
    ordered = sorted(times)
    return f"{statistics.median(ordered) * 1e3:.1f} / {ordered[len(ordered) * 95 // 100] * 1e3:.1f}"


async def searched(
    db: Database, users: Sequence[int], vectors: Mapping[str, Sequence[float]], *ways: float
) -> tuple[list[list[float]], list[list[int]]]:
    """Seconds of searches by each share of meaning, in turn; and the ids of the last way's hits."""
    times: list[list[float]] = [[] for _ in ways]
    found = []
    for number, (query, vector) in enumerate(vectors.items()):
        for way, some in zip(ways, times, strict=True):
            started = time.perf_counter()
            hits = await search_memories(
                db,
                users[number % len(users)],
                query,
                query_embedding=vector,
                embedding_model=MODEL,
                meaning=way,
            )
            if number >= WARM:
                some.append(time.perf_counter() - started)
        found.append([hit.id for hit in hits])
    return times, found


async def searches(db: Database, embedder: FastEmbedder) -> Table:
    """What searches cost, without the model's time for the question."""
    asked = queries()
    vectors = dict(zip(asked, await embedder.embed(asked, purpose="query"), strict=True))
    table = Table("memories of the user", "words, ms", "with meaning, ms", "ratio", "recall")
    table.title = f"{SEARCHES - WARM} searches, median / p95"
    for users in (range(1, USERS + 1), *([user] for user in LARGER)):
        times, _ = await searched(db, users, vectors, 0, 0.4)
        ratio = statistics.median(times[1]) / statistics.median(times[0])
        memories = LARGER.get(users[0], EACH)
        table.add_row(f"{memories:,}", *map(figures, times), f"{ratio:.2f}", "")
    _, exact = await searched(db, users, vectors, 1)
    started = time.perf_counter()
    await index_user(db, users[0], model=MODEL)
    made = time.perf_counter() - started
    times, _ = await searched(db, users, vectors, 0, 0.4)
    _, near = await searched(db, users, vectors, 1)
    same = sum(len(set(a) & set(b)) for a, b in zip(exact, near, strict=True))
    ratio = statistics.median(times[1]) / statistics.median(times[0])
    table.add_row(
        f"{memories:,}, index ({made:.0f} s)",
        *map(figures, times),
        f"{ratio:.2f}",
        f"{same / sum(map(len, exact)):.1%}",
    )
    return table


async def adds(dsn: str, embedder: FastEmbedder) -> Table:
    """What an add takes beside one by a Database without an embedder, in turn."""
    drawn, sentences = random.Random(16), prose()
    times: dict[str, list[float]] = {}
    async with (
        connect(dsn, access_tracking="off") as plain,
        connect(dsn, access_tracking="off", embedder=embedder) as embedding,
    ):
        for _ in range(ROUNDS):
            contents = [" ".join(drawn.sample(sentences, 2)) for _ in range(3 * ADDS)]
            vectors = await embedder.embed(contents[2 * ADDS :], purpose="memory")
            given: list[dict[str, Any]] = [{}] * (2 * ADDS) + [
                {"embedding": v, "embedding_model": MODEL} for v in vectors
            ]
            for number, (content, fields) in enumerate(zip(contents, given, strict=True)):
                name = ("without", "with", "without, the vector given")[number // ADDS]
                db = embedding if name == "with" else plain
                started = time.perf_counter()
                await add_memory(db, TALKER + 1, content, **fields)
                times.setdefault(name, []).append(time.perf_counter() - started)
            await embedding.flush()
    table = Table("embedder", "add, ms", title=f"{ROUNDS * ADDS} adds, median / p95")
    for name, some in times.items():
        table.add_row(name, figures(some))
    return table


async def main() -> None:
    console = Console(width=100)
    with servers.server() as dsn, tempfile.TemporaryDirectory() as place:
        lay_out(Path(place))
        embedder = FastEmbedder(MODEL, path=place)
        migrate.apply(dsn)
        migrate.optional(dsn, "embeddings")
        async with connect(dsn, access_tracking="off", timeout=60, embedder=embedder) as db:
            console.print(await recall(db))
        conn = await asyncpg.connect(dsn)
        await fill(conn, embedder)
        await conn.close()
        async with connect(dsn, access_tracking="off", timeout=600, max_size=1) as db:
            console.print(await searches(db, embedder))
        console.print(await adds(dsn, embedder))


if __name__ == "__main__":
    asyncio.run(main())
