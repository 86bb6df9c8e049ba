"""`python -m tests.soak.pairs [seconds]`: every two writing functions at once on a few memories.

For each pair sixteen tasks call one or the other for its share of the time (five minutes in all).
A thousand puts of one key come before, thrice. Only Conflict is an answer; prints every other error
and what ltm_health lists in the end, and ends with 1 where there is any.
"""

import asyncio
import itertools
import logging
import random
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta

from rich.console import Console

from ltm_store import (
    Conflict,
    Database,
    InvalidMemory,
    add_memories,
    add_memory,
    add_tags,
    archive_memory,
    archive_stale,
    check_health,
    connect,
    delete_memory,
    get_by_key,
    import_user,
    migrate,
    prune_accesses,
    purge_expired,
    record_access,
    record_feedback,
    relate,
    remove_tags,
    rename_tag,
    restore_memory,
    unrelate,
    update_importance,
    update_memory,
)
from tests import servers
from tests.test_keys import PAST, WRITERS, put_by_many

TASKS, MEMORIES, PUTS = 16, 12, 63
USERS = (1, "alice")
console = Console(width=100)


class Draw(random.Random):
    """Random arguments; `ids` are some memories of the user."""

    ids: list[int]

    def one(self) -> int:
        return self.choice(self.ids)

    def two(self) -> tuple[int, int]:
        first, second = self.sample(self.ids, 2)
        return first, second

    def key(self) -> str:
        return f"key {self.randint(1, 6)}"

    def tag(self) -> str:
        return f"tag {self.randint(1, 5)}"

    def moment(self) -> datetime:
        return datetime.now(UTC) + timedelta(milliseconds=self.randint(1, 200))


Call = Callable[[Database, int | str, Draw], Awaitable[object]]
CALLS: dict[str, Call] = {
    "add": lambda db, u, d: add_memory(db, u, "x", tags=[d.tag()], related_memory_ids=[d.one()]),
    "add with a key": lambda db, u, d: add_memory(db, u, "x", idempotency_key=d.key()),
    "add that expires": lambda db, u, d: add_memory(
        db, u, "x", parent_memory_id=d.one(), expires_at=d.moment(), idempotency_key=d.key()
    ),
    "add_memories": lambda db, u, d: add_memories(
        db, u, [{"content": f"{n}", "idempotency_key": d.key()} for n in range(4)]
    ),
    "import_user": lambda db, u, d: import_user(
        db, u, [{"id": n, "content": "x", "idempotency_key": d.key()} for n in (1, 2)]
    ),
    "update": lambda db, u, d: update_memory(db, u, d.one(), tags=[d.tag()], content="y"),
    "update of a version": lambda db, u, d: update_memory(
        db, u, d.one(), expected_version=d.randint(1, 5), enhanced_context={"extra": {"a": 1}}
    ),
    "update_importance": lambda db, u, d: update_importance(db, u, d.one(), d.randint(1, 10)),
    "archive": lambda db, u, d: archive_memory(db, u, d.one()),
    "restore": lambda db, u, d: restore_memory(db, u, d.one()),
    "archive_stale": lambda db, u, d: archive_stale(db, u, 3),
    "delete": lambda db, u, d: delete_memory(db, u, d.one()),
    "relate": lambda db, u, d: relate(db, u, *d.two()),
    "unrelate": lambda db, u, d: unrelate(db, u, *d.two()),
    "add_tags": lambda db, u, d: add_tags(db, u, d.one(), [d.tag()]),
    "remove_tags": lambda db, u, d: remove_tags(db, u, d.one(), [d.tag()]),
    "rename_tag": lambda db, u, d: rename_tag(db, u, d.tag(), d.tag()),
    "record_access": lambda db, u, d: record_access(db, u, d.sample(d.ids, 4)),
    "record_feedback": lambda db, u, d: record_feedback(db, u, d.one(), was_relevant=True),
    "flush": lambda db, u, d: db.flush(),
    "purge_expired": lambda db, u, d: purge_expired(db),
    "prune_accesses": lambda db, u, d: prune_accesses(db, datetime.now(UTC)),
}


async def memories(db: Database, user: int | str) -> list[int]:
    """The memories to call upon, as many as there should be."""
    async with db.transaction() as connection:
        rows = await connection.fetch(
            "SELECT m.id FROM ltm_memories AS m "
            "LEFT JOIN ltm_external_users AS u ON u.user_id = m.user_id "
            "WHERE coalesce(u.external_id, m.user_id::text) = $1 ORDER BY random() LIMIT $2",
            str(user),
            MEMORIES,
        )
    ids = [row[0] for row in rows]
    while len(ids) < MEMORIES:
        ids.append((await add_memory(db, user, "a memory", tags=["tag 1"])).id)
    return ids


async def pair(db: Database, calls: tuple[Call, Call], seconds: float, seed: int) -> Counter[str]:
    """The errors of sixteen tasks that make these calls for some time."""
    errors: Counter[str] = Counter()
    ids = {user: await memories(db, user) for user in USERS}
    end = time.monotonic() + seconds

    async def work(number: int) -> None:
        draw = Draw(seed * TASKS + number)
        user = USERS[number // 2 % len(USERS)]
        draw.ids = ids[user]
        while time.monotonic() < end:
            try:
                await calls[number % 2](db, user, draw)
            except Conflict:
                pass
            except InvalidMemory as error:  # what it should belong to was deleted meanwhile
                if error.field not in ("related_memory_ids", "parent_memory_id"):
                    errors[str(error)] += 1
            except Exception as error:
                errors[f"{type(error).__name__}: {error}"] += 1

    await asyncio.gather(*(work(number) for number in range(TASKS)))
    return errors


async def puts(db: Database) -> None:
    """A thousand puts of one key by sixteen tasks, whose holder is none, archived and expired."""
    version = 0
    async with db.transaction() as connection:
        for holder in ("none", "archived", "expired"):
            held = await get_by_key(db, 1, "k")
            if held is not None and holder == "archived":
                await archive_memory(db, 1, held.id)
                version = held.version + 1
            elif held is not None:
                await update_memory(db, 1, held.id, expires_at=PAST)
                version = 0
            created = [await put_by_many(db, connection, turn, version) for turn in range(PUTS)]
            assert sum(created) == (holder != "archived")
    console.print(f"{3 * PUTS * WRITERS} puts of one key, each whole")


async def main(seconds: float) -> int:
    """All pairs, in a drawn order, each for its share of the seconds."""
    logging.disable(logging.WARNING)  # of keys that have another content
    names = list(itertools.combinations_with_replacement(CALLS, 2))
    random.Random(1).shuffle(names)
    errors: Counter[str] = Counter()
    with servers.server() as dsn:
        await asyncio.to_thread(migrate.apply, dsn)
        async with connect(dsn, max_size=TASKS, timeout=30) as db:
            await puts(db)
            for number, (first, second) in enumerate(names):
                calls = (CALLS[first], CALLS[second])
                found = await pair(db, calls, seconds / len(names), number)
                for text, count in found.items():
                    errors[text] += count
                    console.print(f"{first} x {second}: {count} x {text}")
            await db.flush()
            problems = [p for p in await check_health(db) if p.check_name != "dead_rows"]
    for problem in problems:
        console.print(str(problem))
    console.print(
        f"{len(CALLS)} functions, {len(names)} pairs, {TASKS} tasks, {seconds:.0f} s: "
        f"{sum(errors.values())} errors, {len(problems)} problems"
    )
    return 1 if errors or problems else 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main(float(sys.argv[1]) if len(sys.argv) > 1 else 300.0)))
