"""A user, and twins of hers: users whose rows have the same ids in every table.

What a public function gives for her and does to her rows is the same where the twins are not there,
and nothing of the twins' is changed or locked. Their rows stand before and behind hers, say
something else, and of the same id one twin's memory has expired and the other one's has not.
"""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, is_dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
from pydantic import BaseModel

from ltm_store import (
    access_history,
    add_memories,
    add_memory,
    add_tags,
    add_tags_where,
    adoption_repairs,
    adoption_report,
    archive_memory,
    archive_stale,
    archive_where,
    check_health,
    connect,
    count_memories,
    delete_by_key,
    delete_by_keys,
    delete_memory,
    delete_where,
    embed_memories,
    embed_memory,
    embed_missing,
    embedding_status,
    explain_search,
    export_user,
    extend_expiry,
    find_similar,
    forget_user,
    get_analytics,
    get_by_key,
    get_by_keys,
    get_children,
    get_memories,
    get_memory,
    get_relationships,
    get_source,
    import_user,
    iterate_memories,
    list_namespaces,
    list_sources,
    list_tags,
    list_users,
    memory_graph,
    merge_users,
    prune_accesses,
    purge_expired,
    put_memories,
    put_memory,
    record_access,
    record_feedback,
    relate,
    related_tags,
    remove_tags,
    rename_key,
    rename_tag,
    rename_user,
    render_report,
    restore_memory,
    search_memories,
    shortest_path,
    suggest_relationships,
    traverse,
    unrelate,
    update_importance,
    update_memory,
)
from ltm_store.embedders import FunctionEmbedder
from ltm_store.meaning import embed_with

Connection = asyncpg.Connection
HER, NUMBER = "alice", -2
TWINS = {"before": -1, "behind": -3}
FRIEND, FRIENDS_NUMBER = "bob", -20
_MERGED = -10  # is added to the number of a user: of the name that was merged into it
_NUMBERS = [number + merged for number in TWINS.values() for merged in (0, _MERGED)]
EXPIRED = {"before": 0, "behind": 1}
"""Whose memories have expired: those with an even id of the one, with an odd id of the other."""
THEN, PAST, FUTURE = (datetime(year, 5, 6, 7, 8, tzinfo=UTC) for year in (2024, 2020, 2100))

# -- the worlds ----------------------------------------------------------------------------------

_COLUMNS = """
SELECT c.relname, array_agg(a.attname::text ORDER BY a.attnum)
FROM pg_class AS c
JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
    AND a.attgenerated = ''
WHERE c.relnamespace = current_schema()::regnamespace AND c.relkind IN ('r', 'p')
    AND NOT c.relispartition AND c.relname LIKE 'ltm\\_%'
GROUP BY c.relname HAVING bool_or(a.attname = 'user_id') ORDER BY c.relname
"""
_RESTART = "SELECT setval(seqrelid::regclass, 1000 * seqincrement) FROM pg_sequence"
_NAMES = "ltm_external_users"
_SAID = {
    "content", "context", "context_value", "description", "access_context", "user_query",
    "last_access_context", "archive_reason", "original",
}  # fmt: skip


async def build(connection: Connection, *, twins: bool, vectors: bool) -> None:
    """Fill an empty database: with her and, on demand, her twins."""
    columns = {row[0]: row[1] for row in await connection.fetch(_COLUMNS)}
    names = columns.pop(_NAMES)
    await _her_memories(connection, vectors=vectors)
    await connection.execute("SET session_replication_role = replica")  # rows are copied as such
    for table in columns:
        await connection.execute(f"CREATE TEMP TABLE her_{table} AS SELECT * FROM {table}")
        assert await connection.fetchval(f"SELECT count(*) FROM her_{table}"), table
        await connection.execute(f"DELETE FROM {table}")
    await connection.execute(f"DELETE FROM {_NAMES}")
    assert names
    numbers = {"before": TWINS["before"], HER: NUMBER, "behind": TWINS["behind"]}
    for name, number in numbers.items():
        if not twins and name != HER:
            continue
        await connection.execute(
            f"INSERT INTO {_NAMES} (user_id, external_id, merged_into, created_at) "
            "VALUES ($1, $2, NULL, $4), ($1 + $3, $2 || '-once', $1, $4)",
            number, name, _MERGED, THEN,
        )  # fmt: skip
        for table, own in columns.items():
            await _copy(connection, table, own, name, number)
    await connection.execute(
        f"INSERT INTO {_NAMES} (user_id, external_id, created_at) VALUES ($1, $2, $3)",
        FRIENDS_NUMBER, FRIEND, THEN,
    )  # fmt: skip
    for table in columns:
        await _copy(connection, table, columns[table], FRIEND, FRIENDS_NUMBER)
        await connection.execute(f"DROP TABLE her_{table}")
    if vectors:  # where she has none, this friend has none either, who is beside her in both worlds
        await connection.execute(
            "DELETE FROM ltm_embeddings WHERE user_id = $1 AND memory_id = 1", FRIENDS_NUMBER
        )
    await connection.execute("SET session_replication_role = origin")


async def _copy(
    connection: Connection, table: str, columns: list[str], name: str, number: int
) -> None:
    values = {column: column for column in columns} | {"user_id": str(number)}
    if name != HER:
        values |= {c: f"{c} || ' ({name})'" for c in _SAID.intersection(columns)}
        if table == "ltm_adoption_report":
            values["id"] = f"id + {1000 * -number}"
    if name in EXPIRED and "expires_at" in columns:
        values["expires_at"] = f"CASE WHEN id % 2 = {EXPIRED[name]} THEN '{PAST}'::timestamptz END"
    if name in EXPIRED and table == "ltm_memory_access":
        old = f"id % 2 = {EXPIRED[name]}"
        values["access_timestamp"] = f"CASE WHEN {old} THEN '{PAST:%Y-%m-%d}'::timestamp END"
    await connection.execute(
        f"INSERT INTO {table} ({', '.join(values)}) "
        f"SELECT {', '.join(values.values())} FROM her_{table}"
    )


async def _her_memories(connection: Connection, *, vectors: bool) -> None:
    """Ten memories with ids from 1, and rows in every table."""
    await connection.execute("SELECT setval(seqrelid::regclass, seqstart, false) FROM pg_sequence")
    tea: dict[str, Any] = {"category": "drinks", "created_at": THEN, "source_type": "conversation"}
    first = {"spatial": {"city": "Paris"}, "social": {"participants": ["Ann"]}}
    every: list[dict[str, Any]] = [
        {"content": "Prefers green tea", "tags": ["tea", "habits"], "enhanced_context": first,
         "source_id": "talk", "source_position": 1, "metadata": {"n": 1}, "memory_type": "habit",
         "importance_score": 8, **tea},
        {"content": "Takes no sugar in tea", "tags": ["tea", "sugar"], "source_id": "talk",
         "source_position": 2, "parent_memory_id": 1, "related_memory_ids": [1], **tea},
        {"content": "Onion soup", "key": "soup", "namespace": "agents.cook", "metadata": {"n": 2}},
        {"content": "Cabbage soup", "key": "soup", "namespace": "agents.old", "tags": ["sugar"]},
        {"content": "Tea on Monday", "expires_at": PAST, "idempotency_key": "gone", "key": "gone"},
        {"content": "Coffee once", "tags": ["habits"], "idempotency_key": "once"},
        {"content": "A trifle", "importance_score": 1, "created_at": PAST, "parent_memory_id": 1},
        {"content": "Sugar is sweet", "tags": ["sugar", "habits"], "source_id": "letter",
         "enhanced_context": first, "key": "sweet", **tea},
        {"content": "A session", "expires_after": timedelta(days=9), "expires_at": FUTURE},
        {"content": "Prefers green tea", "tags": ["Tea"], "created_at": THEN},
    ]  # fmt: skip
    for place, new in enumerate(every):
        vector: Any = [1.0, place + 0.5, 1.0] if vectors else None
        await add_memory(connection, HER, **new, embedding=vector)
    await archive_memory(connection, HER, 6, reason="old")
    for source, target, kind in ((1, 3, "causes"), (3, 4, "similar"), (8, 1, "related")):
        await relate(connection, HER, source, target, kind, strength=0.7, description="so it is")
    await record_access(connection, HER, [1, 2, 9], access_context="asked", user_query="tea?")
    await connection.execute("UPDATE ltm_memory_access SET access_timestamp = '2024-01-01'")
    await record_access(connection, HER, [1])
    await connection.execute(
        "INSERT INTO ltm_adoption_report (user_id, table_name, row_id, column_name, rule, original)"
        " SELECT user_id, 'ltm_memories', id, 'tags', 'clamped', 'before' FROM ltm_memories"
        " ORDER BY id"
    )


# -- the calls -----------------------------------------------------------------------------------

_PARIS = {"spatial": {"city": "Paris"}}
Call = Callable[[Connection], Awaitable[object] | AsyncIterator[object]]


async def _merged_into_her(connection: Connection) -> object:
    return await merge_users(connection, FRIEND, HER)


async def _imported(connection: Connection) -> object:
    lines = [line async for line in export_user(connection, HER)]
    return await import_user(connection, HER, [line | {"key": None} for line in lines])


async def _missing_made(connection: Connection) -> object:
    """What embed_missing does, on a connection."""
    await connection.execute(f"DELETE FROM ltm_embeddings WHERE user_id = {NUMBER}")
    return await embed_with(connection, FunctionEmbedder("caller", 3, _vectors), HER)


def _vectors(texts: Sequence[str]) -> list[list[float]]:
    return [[1.0, 2.0, 3.0] for _ in texts]


async def _embedded(connection: Connection) -> object:
    await embed_memory(connection, HER, 3, [3.0, 1.0, 2.0])
    await update_memory(connection, HER, 1, content="Prefers black tea")
    return await find_similar(connection, HER, 3)


CALLS: dict[str, list[Call]] = {
    "access_history": [lambda c: access_history(c, HER, 1)],
    "add_memories": [
        lambda c: add_memories(
            c,
            HER,
            [
                {"content": "a", "tags": ["new"], "parent_memory_id": 1, "related_memory_ids": [2]},
                {"content": "b", "idempotency_key": "gone"},
                {"content": "c", "idempotency_key": "once"},
            ],
        )
    ],
    "add_memory": [
        lambda c: add_memory(c, HER, "prefers  green TEA", related_memory_ids=[3], tags=["x"]),
        lambda c: add_memory(c, HER, "x", idempotency_key="gone", parent_memory_id=4),
        lambda c: add_memory(c, HER, "x", idempotency_key="once", key="new"),
        lambda c: add_memory(c, HER, "x", key="gone", enhanced_context={"extra": {"a": 1}}),
    ],
    "add_tags": [lambda c: add_tags(c, HER, 1, ["Tea", "new"], tag_category="food")],
    "add_tags_where": [lambda c: add_tags_where(c, HER, ["new"], source_id="talk")],
    "adoption_repairs": [lambda c: adoption_repairs(c, user_id=HER)],
    "adoption_report": [lambda c: adoption_report(c, user_id=HER)],
    "archive_memory": [lambda c: archive_memory(c, HER, 2, reason="done")],
    "archive_stale": [lambda c: archive_stale(c, HER, 9.0)],
    "archive_where": [lambda c: archive_where(c, HER, tags=["sugar"], reason="sweet")],
    "count_memories": [
        lambda c: count_memories(c, HER),
        lambda c: count_memories(c, HER, "tea sugar", include_archived=True),
    ],
    "delete_by_key": [lambda c: delete_by_key(c, HER, "soup", namespace="agents.cook")],
    "delete_by_keys": [
        lambda c: delete_by_keys(c, HER, [("agents.cook", "soup"), (None, "gone"), (None, "no")])
    ],
    "delete_memory": [lambda c: delete_memory(c, HER, 1), lambda c: delete_memory(c, HER, 3)],
    "delete_where": [lambda c: delete_where(c, HER, namespace_prefix="agents")],
    "embed_memories": [lambda c: embed_memories(c, HER, {1: [1.0, 2.0, 2.0], 3: [3.0, 1.0, 2.0]})],
    "embed_memory": [_embedded],
    "embed_missing": [_missing_made],
    "explain_search": [lambda c: explain_search(c, HER, "tea", 10)],
    "export_user": [lambda c: export_user(c, HER)],
    "extend_expiry": [lambda c: extend_expiry(c, HER, range(1, 12))],
    "find_similar": [
        lambda c: find_similar(c, HER, 1),
        # By a vector too.
        lambda c: search_memories(c, HER, "tea", query_embedding=[1.0, 2.0, 1.0]),
    ],
    "forget_user": [lambda c: forget_user(c, HER)],
    "get_analytics": [lambda c: get_analytics(c, HER)],
    "get_by_key": [lambda c: get_by_key(c, HER, "soup", namespace="agents.cook")],
    "get_by_keys": [
        lambda c: get_by_keys(c, HER, [(None, "gone"), ("agents.cook", "soup"), (None, "no")])
    ],
    "get_children": [lambda c: get_children(c, HER, 1)],
    "get_memories": [lambda c: get_memories(c, HER, [3, 1, 99])],
    "get_memory": [
        lambda c: get_memory(c, HER, 1, include_relationships=True),
        lambda c: get_memory(c, HER, 4),
    ],
    "get_relationships": [lambda c: get_relationships(c, HER, 1)],
    "get_source": [lambda c: get_source(c, HER, "talk")],
    "import_user": [_imported],
    "iterate_memories": [
        lambda c: iterate_memories(c, HER, include_archived=True),
        lambda c: iterate_memories(c, HER, order="newest"),
    ],
    "list_namespaces": [
        lambda c: list_namespaces(c, HER, max_depth=1),
        lambda c: list_namespaces(c, HER, counts=True),
        lambda c: list_namespaces(c, HER, keyed=True),
    ],
    "list_sources": [
        lambda c: list_sources(c, HER),
        lambda c: list_sources(c, HER, after="talk"),
    ],
    "list_tags": [lambda c: list_tags(c, HER), lambda c: list_tags(c, HER, memory_id=1)],
    "memory_graph": [lambda c: memory_graph(c, HER, 1)],
    "merge_users": [lambda c: merge_users(c, HER, "carol"), _merged_into_her],
    "put_memories": [
        lambda c: put_memories(
            c,
            HER,
            [
                {"key": "soup", "content": "Pea soup", "namespace": "agents.cook", "tags": ["pea"]},
                {"key": "gone", "content": "Back", "related_memory_ids": [1]},
                {"key": "new", "content": "x", "enhanced_context": {"extra": {"a": 1}}},
            ],
        )
    ],
    "put_memory": [
        lambda c: put_memory(c, HER, "soup", "Pea soup", namespace="agents.cook", tags=["pea"]),
        lambda c: put_memory(c, HER, "gone", "Back", related_memory_ids=[1]),
    ],
    "record_access": [lambda c: record_access(c, HER, [1, 9], access_context="why")],
    "record_feedback": [lambda c: record_feedback(c, HER, 1, was_relevant=True)],
    "relate": [lambda c: relate(c, HER, 4, 8), lambda c: relate(c, HER, 1, 3, "causes")],
    "related_tags": [lambda c: related_tags(c, HER, "tea")],
    "remove_tags": [lambda c: remove_tags(c, HER, 1, ["TEA"])],
    "rename_key": [
        lambda c: rename_key(c, HER, "soup", "stew", namespace="agents.cook"),
        lambda c: rename_key(c, HER, "s", "gone", prefix=True),
    ],
    "rename_tag": [lambda c: rename_tag(c, HER, "sugar", "tea")],
    "rename_user": [lambda c: rename_user(c, HER, "carol")],
    "render_report": [lambda c: render_report(c, HER)],
    "restore_memory": [lambda c: restore_memory(c, HER, 6)],
    "search_memories": [
        lambda c: search_memories(c, HER),
        lambda c: search_memories(c, HER, "tea", include_archived=True),
        lambda c: search_memories(c, HER, "green teas sugar"),
        lambda c: search_memories(c, HER, "sugr", tags_any=["sugar"]),
        lambda c: search_memories(c, HER, order="oldest", context_data=_PARIS),
        lambda c: search_memories(c, HER, "tea in May 2024"),
    ],
    "shortest_path": [lambda c: shortest_path(c, HER, 2, 4)],
    "suggest_relationships": [lambda c: suggest_relationships(c, HER, 2)],
    "traverse": [lambda c: traverse(c, HER, 2, depth=3)],
    "unrelate": [lambda c: unrelate(c, HER, 1, 3), lambda c: unrelate(c, HER, 3, 4, "similar")],
    "update_importance": [lambda c: update_importance(c, HER, 1, 2)],
    "update_memory": [
        lambda c: update_memory(
            c, HER, 1, content="Prefers coffee", tags=["coffee"], enhanced_context=_PARIS
        )
    ],
}


async def _her_problems(connection: Connection) -> object:
    problems = await check_health(connection)
    others = len([user for user in await list_users(connection) if user.name != HER])
    stale = [p.detail for p in problems if p.check_name == "embeddings_stale"]
    assert all(detail.startswith(f"{10 * others - 1} memories") for detail in stale)
    return [p for p in problems if p.user_id == NUMBER]


async def _her_summary(connection: Connection) -> object:
    return [user for user in await list_users(connection) if user.name == HER]


async def _her_pruned(connection: Connection) -> object:
    return bool(await prune_accesses(connection, THEN))


async def _her_purged(connection: Connection) -> object:
    return bool(await purge_expired(connection))


async def _all_have_vectors(connection: Connection) -> object:
    (status,) = await embedding_status(connection)
    # The vectors of those whose contents are others are stale; a friend lacks one.
    assert status.memories == status.embedded + status.stale + 1
    return None


FOR_ALL: dict[str, list[Call]] = {
    "check_health": [_her_problems],
    "embedding_status": [_all_have_vectors],
    "list_users": [_her_summary],
    "prune_accesses": [_her_pruned],
    "purge_expired": [_her_purged],
}
"""What operators call: of what it gives, what is of her; it may change the twins' rows, too."""

VECTORS = {"embed_memories", "embed_memory", "embed_missing", "embedding_status", "find_similar"}
ELSEWHERE = {"connect", "index_user", "make_access_partitions"}
"""What opens, or changes the schema."""


def _fails(texts: object) -> list[list[float]]:
    raise OSError


async def through_a_database(dsn: str, *, vectors: bool) -> tuple[str, str]:
    """What she has of reads that share statements, of queued accesses, and of an embedder."""
    connection = await asyncpg.connect(dsn)
    await connection.execute(_RESTART)
    options: dict[str, Any] = {}
    missing: list[str] = []
    if vectors:
        await connection.execute(f"DELETE FROM ltm_embeddings WHERE user_id = {NUMBER}")
        async with connect(dsn, embedder=FunctionEmbedder("caller", 3, _fails)) as db:
            problems = await check_health(db)
            missing = [p.detail for p in problems if p.check_name == "embeddings_missing"]
            assert missing
        options["embedder"] = FunctionEmbedder("caller", 3, _vectors)
    async with connect(dsn, **options) as db:
        users = [HER, *(user.name for user in await list_users(db) if user.name in TWINS)]
        asked = [(user, n) for n in range(1, 11) for user in users]
        read = await asyncio.gather(*(get_memory(db, *one) for one in asked))
        together = await asyncio.gather(*(get_memories(db, user, [1, 2]) for user in users))
        await db.flush()
        if vectors:
            await embed_missing(db)
            await embed_missing(db, HER)
    hers: list[object] = [memory for place, memory in enumerate(read) if asked[place][0] == HER]
    rows = await (await World.of(connection, connection)).rows(of_twins=False)
    await connection.close()
    stored = json.loads(rows)
    for access in stored["ltm_memory_access"]:
        del access["id"]  # the twins' come in between, and which read ends first is chance
    stored["ltm_memory_access"].sort(key=str)
    return told([*hers, *together[0], *missing]), told(stored)


# -- what a call does ----------------------------------------------------------------------------

_MOMENT = re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d(:\d\d(\.\d+)?)?(\+00(:00)?|Z)?")


def _plain(value: object) -> object:
    match value:
        case BaseModel():
            return value.model_dump()
        case list() | tuple():
            return [_plain(part) for part in value]
        case _ if is_dataclass(value):
            return vars(value)
    return value


def told(value: object) -> str:
    """A result as text, in which what is of now is always the same."""
    today = f"{datetime.now(UTC) - timedelta(hours=1):%Y-%m-%d}"
    text = json.dumps(_plain(value), default=str, sort_keys=True, indent=1)
    return _MOMENT.sub(lambda m: "now" if m[0] >= today else m[0], text)


@dataclass
class World:
    """A database with or without twins; `observer` is another session, `theirs` are their rows."""

    connection: Connection
    observer: Connection
    tables: list[str]
    theirs: str = ""

    @classmethod
    async def of(cls, connection: Connection, observer: Connection) -> "World":
        tables = [row[0] for row in await connection.fetch(_COLUMNS)]
        world = cls(connection, observer, tables)
        world.theirs = await world.rows(of_twins=True)
        return world

    async def rows(self, *, of_twins: bool) -> str:
        """The rows of the twins in every table, or all others."""
        found = {}
        for table in self.tables:
            rows = await self.connection.fetch(
                f"SELECT to_jsonb(t)::text FROM {table} AS t "
                "WHERE (user_id = ANY($1)) = $2 ORDER BY to_jsonb(t)::text",
                _NUMBERS,
                of_twins,
            )
            found[table] = [json.loads(row[0]) for row in rows]
        return told(found)

    async def locked(self) -> set[str]:
        """The tables in which another session cannot change some of the twins' rows."""
        found = set()
        for table in self.tables:
            theirs = f"FROM {table} WHERE user_id = ANY($1)"
            free = await self.observer.fetch(f"SELECT 1 {theirs} FOR UPDATE SKIP LOCKED", _NUMBERS)
            if len(free) < await self.observer.fetchval(f"SELECT count(*) {theirs}", _NUMBERS):
                found.add(table)
        return found

    async def outcome(self, call: Call) -> tuple[str, str, str, set[str]]:
        """What a call gives, does to her rows and the twins', and locks; and undo it."""
        transaction = self.connection.transaction()
        await transaction.start()
        try:
            await self.connection.execute(_RESTART)
            found = call(self.connection)
            given: object = (
                await found if isinstance(found, Awaitable) else [one async for one in found]
            )
            hers, theirs = await self.rows(of_twins=False), await self.rows(of_twins=True)
            return told(given), hers, theirs, await self.locked()
        finally:
            await transaction.rollback()


async def differences(alone: World, beside: World, call: Call, *, for_all: bool) -> list[str]:
    """In what a call differs where the twins are."""
    given, hers, _, _ = await alone.outcome(call)
    given_beside, hers_beside, theirs, locked = await beside.outcome(call)
    found = []
    if hers_beside != hers:
        found.append("her rows")
    if given_beside != given:
        found.append("the result")
    if not for_all:
        if theirs != beside.theirs:
            found.append("the twins' rows")
        if locked:
            found.append(f"locks on the twins' {', '.join(sorted(locked))}")
    return found
