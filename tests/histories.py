"""Histories of two users, and a model of what the store should hold after each call.

Every call goes through a Database, a connection in a transaction or a pool, as it is drawn.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from typing import Any, TypeVar

import asyncpg
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from ltm_store import (
    Conflict,
    Database,
    Memory,
    add_memories,
    add_memory,
    add_tags,
    add_tags_where,
    archive_memory,
    archive_where,
    connect,
    count_memories,
    delete_by_key,
    delete_memory,
    delete_where,
    export_user,
    forget_user,
    get_by_key,
    get_memories,
    get_memory,
    get_relationships,
    import_user,
    iterate_memories,
    list_namespaces,
    list_tags,
    put_memory,
    record_access,
    relate,
    remove_tags,
    rename_key,
    restore_memory,
    search_memories,
    unrelate,
    update_memory,
)

Result = TypeVar("Result")
_numbers = count(1)
WORDS = ("tea", "coffee", "sugar")
users = st.sampled_from(["ann", "ben"])
contents = st.lists(st.sampled_from(WORDS), min_size=1, max_size=2).map(" and ".join)
tags = st.sampled_from([["tea"], ["Tea"], ["work", "tea"], ["été", "new"], ["work"]])
no_tags: st.SearchStrategy[list[str]] = st.just([])
spaces = st.sampled_from(["", "a", "a.b", "a.b.c", "b"])
keys = st.sampled_from(["k1", "k2", "l1"])
scores = st.integers(1, 10)
anybody = st.integers(0, 1_000)
maybe = st.one_of(st.none(), anybody)
ways = st.sampled_from(["database", "connection", "pool"])


@dataclass
class Held:
    """A memory as it should be."""

    content: str
    tags: list[str] = field(default_factory=list)
    importance: int = 5
    archived: bool = False
    namespace: str = ""
    key: str | None = None
    once: str | None = None
    metadata: dict[str, Any] | None = None
    parent: int | None = None
    links: dict[tuple[int, str], float] = field(default_factory=dict)
    accesses: int = 0

    def __post_init__(self) -> None:
        self.tags = list(self.tags)

    @classmethod
    def of(cls, memory: Memory, links: dict[tuple[int, str], float]) -> "Held":
        """A memory as it was read."""
        assert sorted(memory.related_memory_ids) == sorted({target for target, _ in links})
        metadata = memory.metadata
        assert metadata is None or isinstance(metadata, dict)
        return cls(
            memory.content, list(memory.tags), memory.importance_score, memory.is_archived,
            memory.namespace, memory.key, memory.idempotency_key, metadata,
            memory.parent_memory_id, links, memory.access_count,
        )  # fmt: skip

    def tag(self, names: list[str]) -> None:
        """Add tags; one that is there keeps its spelling."""
        known = {name.lower() for name in self.tags}
        self.tags += [name for name in names if name.lower() not in known]


class Histories(RuleBasedStateMachine):
    """The machine; `dsn` and `runner` are those of the test that runs it."""

    dsn: str
    runner: asyncio.Runner
    db: Database
    pool: "asyncpg.Pool[asyncpg.Record]"

    @initialize()
    def begin(self) -> None:
        number = next(_numbers)
        self.names = {"ann": f"ann {number}", "ben": f"ben {number}"}
        self.held: dict[str, dict[int, Held]] = {"ann": {}, "ben": {}}

    def call(self, way: str, work: Callable[[Any], Awaitable[Result]]) -> Result:
        """What some work gives on the database, on a connection in a transaction, or on a pool."""

        async def done() -> Result:
            if way == "connection":
                async with self.pool.acquire() as connection, connection.transaction():
                    return await work(connection)
            return await work(self.db if way == "database" else self.pool)

        return self.runner.run(done())

    def one(self, number: int, user: str) -> int:
        """The id of a memory of the user; a third of the numbers mean anybody's, or nobody's."""
        ids = list(self.held[user])
        if number % 3 == 0:
            ids = [memory_id for held in self.held.values() for memory_id in held]
        return ids[number // 3 % len(ids)] if ids else 10**9 + number

    def own(self, number: int | None, user: str) -> int | None:
        """The id of a memory of the user, or none."""
        ids = list(self.held[user])
        return ids[number % len(ids)] if number is not None and ids else None

    def by_key(self, user: str, space: str, key: str) -> int | None:
        found = (n for n, m in self.held[user].items() if (m.namespace, m.key) == (space, key))
        return next(found, None)

    # -- writing -----------------------------------------------------------------------------------

    @rule(way=ways, user=users, content=contents, names=tags | no_tags, score=scores, space=spaces,
          key=st.one_of(st.none(), keys), parent=maybe, related=maybe)  # fmt: skip
    def add(self, way, user, content, names, score, space, key, parent, related):
        held = self.held[user]
        parent, target = self.own(parent, user), self.own(related, user)
        taken = None if key is None else self.by_key(user, space, key)
        try:
            new = self.call(
                way,
                lambda db: add_memory(
                    db, self.names[user], content, tags=names, importance_score=score,
                    namespace=space, key=key, parent_memory_id=parent,
                    related_memory_ids=[] if target is None else [target],
                ),
            )  # fmt: skip
        except Conflict as conflict:
            new = conflict.current
        assert new is not None
        assert taken in (None, new.id)
        if taken is not None:
            return
        assert new.id not in held
        links = {} if target is None else {(target, "related"): 0.5}
        held[new.id] = Held(
            content, names, score, namespace=space, key=key, parent=parent, links=links
        )

    @rule(way=ways, user=users, content=contents, once=st.sampled_from(["x", "y"]))
    def add_once(self, way, user, content, once):
        held = self.held[user]
        new = self.call(
            way,
            lambda db: add_memory(db, self.names[user], content, idempotency_key=once),
        )
        known = [n for n, m in held.items() if m.once == once]
        assert new.outcome == ("existing" if known else "created")
        assert [new.id] == known or not known
        held.setdefault(new.id, Held(content, once=once))

    @rule(way=ways, user=users, new=st.lists(st.tuples(contents, tags | no_tags), max_size=4))
    def add_many(self, way, user, new):
        given = [{"content": content, "tags": names} for content, names in new]
        report = self.call(way, lambda db: add_memories(db, self.names[user], given))
        assert report.created == len(new)
        before = set(self.held[user])
        ids = sorted(set(self.ids(way, user)) - before)
        for memory_id, (content, names) in zip(ids, new, strict=True):
            self.held[user][memory_id] = Held(content, names)

    @rule(way=ways, user=users, content=contents, space=spaces, key=keys, names=tags | no_tags)
    def put(self, way, user, content, space, key, names):
        memory = self.call(
            way,
            lambda db: put_memory(db, self.names[user], key, content, namespace=space, tags=names),
        )
        known = self.by_key(user, space, key)
        assert memory.outcome == ("created" if known is None else "replaced")
        assert known in (None, memory.id)
        old = self.held[user].get(memory.id, Held(""))
        self.held[user][memory.id] = Held(
            content, names, namespace=space, key=key, links=old.links, accesses=old.accesses
        )

    @rule(way=ways, user=users, number=anybody, score=st.one_of(st.none(), scores),
          content=st.one_of(st.none(), contents), names=st.none() | tags | no_tags,
          more=st.one_of(st.none(), st.dictionaries(st.sampled_from("mn"), st.integers(0, 3),
                                                    min_size=1)))  # fmt: skip
    def update(self, way, user, number, score, content, names, more):
        memory_id = self.one(number, user)
        fields = {"importance_score": score, "content": content, "tags": names, "metadata": more}
        fields = {name: value for name, value in fields.items() if value is not None}
        if not fields:
            return
        changed = self.call(
            way, lambda db: update_memory(db, self.names[user], memory_id, **fields)
        )
        old = self.held[user].get(memory_id)
        assert (changed is None) is (old is None)
        if old is not None:
            old.importance = score or old.importance
            old.content = content or old.content
            old.tags = old.tags if names is None else list(names)
            old.metadata = old.metadata if more is None else {**(old.metadata or {}), **more}

    @rule(way=ways, user=users, number=anybody, archived=st.booleans())
    def put_away(self, way, user, number, archived):
        memory_id = self.one(number, user)
        change = archive_memory if archived else restore_memory
        changed = self.call(way, lambda db: change(db, self.names[user], memory_id))
        assert (changed is None) is (memory_id not in self.held[user])
        if changed is not None:
            self.held[user][memory_id].archived = archived

    @rule(way=ways, user=users, number=anybody)
    def delete(self, way, user, number):
        memory_id = self.one(number, user)
        deleted = self.call(way, lambda db: delete_memory(db, self.names[user], memory_id))
        assert deleted is (memory_id in self.held[user])
        self.gone(user, [memory_id])

    @rule(way=ways, user=users, space=spaces, key=keys)
    def delete_key(self, way, user, space, key):
        known = self.by_key(user, space, key)
        deleted = self.call(
            way, lambda db: delete_by_key(db, self.names[user], key, namespace=space)
        )
        assert deleted is (known is not None)
        self.gone(user, [known])

    def gone(self, user: str, ids: list[Any]) -> None:
        held = self.held[user]
        for memory_id in ids:
            held.pop(memory_id, None)
        for memory in held.values():
            memory.parent = None if memory.parent in ids else memory.parent
            memory.links = {end: v for end, v in memory.links.items() if end[0] not in ids}

    @rule(way=ways, user=users, space=spaces)
    def delete_namespace(self, way, user, space):
        ids = [n for n, m in self.held[user].items() if m.namespace == space and not m.archived]
        gone = self.call(way, lambda db: delete_where(db, self.names[user], namespace=space))
        assert gone == len(ids)
        self.gone(user, ids)

    @rule(way=ways, user=users, name=st.sampled_from(["tea", "work"]), tagging=st.booleans())
    def change_tagged(self, way, user, name, tagging):
        found = [
            memory
            for memory in self.held[user].values()
            if name in [tag.lower() for tag in memory.tags] and not memory.archived
        ]
        who = self.names[user]
        if tagging:
            changed = self.call(way, lambda db: add_tags_where(db, who, ["new"], tags_any=[name]))
            found = [memory for memory in found if "new" not in memory.tags]
        else:
            changed = self.call(way, lambda db: archive_where(db, who, tags=[name]))
        assert changed == len(found)
        for memory in found:
            memory.archived = memory.archived or not tagging
            memory.tag(["new"] if tagging else [])

    @rule(way=ways, user=users, first=anybody, second=anybody, kind=st.sampled_from(["a", "b"]),
          strength=st.sampled_from([0.25, 1.0]))  # fmt: skip
    def connect_two(self, way, user, first, second, kind, strength):
        source, target = self.one(first, user), self.one(second, user)
        if source == target:
            return
        made = self.call(
            way,
            lambda db: relate(db, self.names[user], source, target, kind, strength=strength),
        )
        held = self.held[user]
        assert (made is not None) is (source in held and target in held)
        if made is not None:
            held[source].links[target, kind] = strength

    @rule(way=ways, user=users, first=anybody, second=anybody,
          kind=st.sampled_from([None, "a", "related"]))  # fmt: skip
    def disconnect(self, way, user, first, second, kind):
        source, target = self.one(first, user), self.one(second, user)
        links = self.held[user][source].links if source in self.held[user] else {}
        there = [end for end in links if end[0] == target and kind in (None, end[1])]
        gone = self.call(way, lambda db: unrelate(db, self.names[user], source, target, kind))
        assert gone is bool(there)
        for end in there:
            del links[end]

    @rule(way=ways, user=users, number=anybody, names=tags, adding=st.booleans())
    def change_tags(self, way, user, number, names, adding):
        memory_id = self.one(number, user)
        change = add_tags if adding else remove_tags
        changed = self.call(way, lambda db: change(db, self.names[user], memory_id, names))
        old = self.held[user].get(memory_id)
        assert (changed is None) is (old is None)
        if old is not None and adding:
            old.tag(names)
        elif old is not None:
            gone = [name.lower() for name in names]
            old.tags = [tag for tag in old.tags if tag.lower() not in gone]

    @rule(way=ways, user=users, space=spaces, old=keys, new=keys)
    def rename(self, way, user, space, old, new):
        known, taken = self.by_key(user, space, old), self.by_key(user, space, new)
        try:
            renamed = self.call(
                way, lambda db: rename_key(db, self.names[user], old, new, namespace=space)
            )
        except Conflict:
            renamed = -1
        if known is not None and taken not in (None, known):
            assert renamed == -1
            return
        assert renamed == (known is not None)
        if known is not None:
            self.held[user][known].key = new

    @rule(way=ways, user=users, number=anybody)
    def access(self, way, user, number):
        memory_id = self.one(number, user)
        recorded = self.call(way, lambda db: record_access(db, self.names[user], [memory_id]))
        assert recorded == (memory_id in self.held[user])
        if recorded:
            self.held[user][memory_id].accesses += 1

    @precondition(lambda self: len(self.held["ann"]) > 5)
    @rule()
    def move_house(self):
        """All of ann's memories go out and come in again, under new ids.

        By the Database alone: whoever forgets a user elsewhere is noticed by it within a minute.
        """
        name = self.names["ann"]

        async def moved(db: Any) -> list[int]:
            lines = [line async for line in export_user(db, name)]
            ids = [memory.id async for memory in iterate_memories(db, name, include_archived=True)]
            await forget_user(db, name)
            await import_user(db, name, lines)
            return sorted(ids)

        old = self.call("database", moved)
        ids = dict(zip(old, sorted(self.ids("database", "ann")), strict=True))
        moving = {ids[memory_id]: memory for memory_id, memory in self.held["ann"].items()}
        for memory in moving.values():
            memory.parent = None if memory.parent is None else ids[memory.parent]
            memory.links = {(ids[t], kind): v for (t, kind), v in memory.links.items()}
        self.held["ann"] = moving

    # -- reading -----------------------------------------------------------------------------------

    def ids(self, way: str, user: str) -> list[int]:
        async def read(db: Any) -> list[int]:
            every = iterate_memories(db, self.names[user], include_archived=True)
            return [memory.id async for memory in every]

        return self.call(way, read)

    @rule(way=ways, user=users, number=anybody)
    def read(self, way, user, number):
        memory_id = self.one(number, user)
        memory = self.call(way, lambda db: get_memory(db, self.names[user], memory_id))
        assert (memory is None) is (memory_id not in self.held[user])

    @rule(way=ways, user=users, space=spaces, key=keys)
    def read_key(self, way, user, space, key):
        memory = self.call(way, lambda db: get_by_key(db, self.names[user], key, namespace=space))
        assert (memory and memory.id) == self.by_key(user, space, key)

    @rule(way=ways, user=users, word=st.sampled_from(WORDS), space=st.one_of(st.none(), spaces))
    def search(self, way, user, word, space):
        expected = {
            memory_id
            for memory_id, memory in self.held[user].items()
            if (word in memory.content or word in [tag.lower() for tag in memory.tags])
            and not memory.archived
            and space in (None, memory.namespace)
        }
        who = self.names[user]
        hits = self.call(
            way,
            lambda db: search_memories(db, who, word, namespace=space, distinct=False, limit=1000),
        )
        assert {hit.id for hit in hits} == expected
        counted = self.call(way, lambda db: count_memories(db, who, word, namespace=space))
        assert counted == len(expected)

    @rule(way=ways, user=users)
    def list_all(self, way, user):
        held = self.held[user].values()
        who = self.names[user]
        spaces = self.call(way, lambda db: list_namespaces(db, who, counts=True))
        expected = sorted({memory.namespace for memory in held})
        assert [space.namespace for space in spaces] == expected
        found = self.call(way, lambda db: list_tags(db, who))
        assert sorted((tag.tag_name.lower(), tag.memory_count) for tag in found) == sorted(
            (name, sum(name in [t.lower() for t in memory.tags] for memory in held))
            for name in {tag.lower() for memory in held for tag in memory.tags}
        )

    def teardown(self) -> None:
        """All is as it should be, for both."""
        for user, held in getattr(self, "held", {}).items():
            assert sorted(self.ids("pool", user)) == sorted(held)
            memories = self.call("database", partial(self.whole, user))
            for memory, links in memories:
                assert Held.of(memory, links) == held[memory.id]

    async def whole(self, user: str, db: Any) -> list[tuple[Memory, dict[tuple[int, str], float]]]:
        """A user's memories, each with where its relationships lead."""
        who, found = self.names[user], []
        for memory in await get_memories(db, who, list(self.held[user])):
            links = {
                (one.target_memory_id, one.relationship_type): one.strength
                for one in await get_relationships(db, who, memory.id)
                if one.direction == "outgoing"
            }
            found.append((memory, links))
        return found


def run(dsn: str, run_machine: Callable[[type[Histories]], None]) -> None:
    """Run the machine on a database."""

    async def opened() -> None:
        Machine.db = await connect(dsn, access_tracking="off")
        Machine.pool = await asyncpg.create_pool(dsn, min_size=1, max_size=2)

    async def closed() -> None:
        await Machine.db.close()
        await Machine.pool.close()

    class Machine(Histories):
        pass

    with asyncio.Runner() as Machine.runner:
        Machine.runner.run(opened())
        try:
            run_machine(Machine)
        finally:
            Machine.runner.run(closed())
