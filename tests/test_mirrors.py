"""What a memory says of its tags, relationships and contexts is what their tables say."""

import asyncio
from collections.abc import Coroutine
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    invariant,
    multiple,
    rule,
    run_state_machine_as_test,
)

from ltm_store import (
    add_memory,
    add_tags,
    archive_memory,
    archive_stale,
    delete_memory,
    get_memory,
    get_relationships,
    purge_expired,
    record_access,
    relate,
    remove_tags,
    rename_tag,
    restore_memory,
    unrelate,
    update_memory,
)
from ltm_store.model.contexts import store_context
from tests.conftest import DRAWS

USER = 1
CHILDREN = ("ltm_contexts", "ltm_memory_tags", "ltm_memory_access")
tag_lists = st.lists(st.sampled_from(["a", "b", "c", "A", "ä", "Ä"]), max_size=3)
kinds = st.sampled_from(["related", "causes"])
contexts = st.sampled_from(
    [
        None,
        {"spatial": {"city": "Graz", "is_home": True}},
        {"social": {"participants": ["John"]}, "temporal": {"month": 3}, "extra": {"x": [1]}},
        {"custom_contexts": [{"context_type": "game", "context_data": {"level": 3}}]},
    ]
)


class Memories(RuleBasedStateMachine):
    """A user's memories, beside what should be there: tags in lower case, relationships, parents.

    The database is used in a transaction that is rolled back.
    """

    memories = Bundle("memories")

    def __init__(self, dsn: str) -> None:
        super().__init__()
        self.tags: dict[int, set[str]] = {}
        self.links: set[tuple[int, int, str]] = set()
        self.parents: dict[int, int | None] = {}
        self.runner = asyncio.Runner(loop_factory=asyncio.new_event_loop)
        self.conn: asyncpg.Connection = self.run(asyncpg.connect(dsn))
        self.transaction = self.conn.transaction()
        self.run(self.transaction.start())

    def run(self, call: Coroutine[Any, Any, Any]) -> Any:
        return self.runner.run(call)

    def teardown(self) -> None:
        self.run(self.transaction.rollback())
        self.run(self.conn.close())
        self.runner.close()

    def there(self, *ids: int) -> list[int]:
        return [number for number in ids if number in self.tags]

    @rule(
        target=memories,
        tags=tag_lists,
        context=contexts,
        related=st.lists(memories, max_size=2),
        parent=st.none() | memories,
    )
    def add(self, tags, context, related, parent):
        related = self.there(*related)
        parent = parent if parent in self.tags else None
        memory = self.run(
            add_memory(
                self.conn,
                USER,
                "x",
                tags=tags,
                enhanced_context=context,
                related_memory_ids=related,
                parent_memory_id=parent,
            )
        )
        self.tags[memory.id] = {tag.lower() for tag in tags}
        self.links |= {(memory.id, other, "related") for other in related}
        self.parents[memory.id] = parent
        return memory.id

    @rule(memory=memories, tags=tag_lists, context=contexts)
    def update(self, memory, tags, context):
        fields = {"tags": tags, "enhanced_context": context}
        changed = self.run(update_memory(self.conn, USER, memory, **fields))
        assert (changed is not None) is (memory in self.tags)
        if memory in self.tags:
            self.tags[memory] = {tag.lower() for tag in tags}

    @rule(memory=memories, tags=tag_lists)
    def tag(self, memory, tags):
        changed = self.run(add_tags(self.conn, USER, memory, tags))
        assert (changed is not None) is (memory in self.tags)
        if memory in self.tags:
            self.tags[memory] |= {tag.lower() for tag in tags}

    @rule(memory=memories, tags=tag_lists)
    def untag(self, memory, tags):
        changed = self.run(remove_tags(self.conn, USER, memory, tags))
        assert (changed is not None) is (memory in self.tags)
        if memory in self.tags:
            self.tags[memory] -= {tag.lower() for tag in tags}

    @rule(old=st.sampled_from("abÄ"), new=st.sampled_from("aBcä"))
    def rename(self, old, new):
        self.run(rename_tag(self.conn, USER, old, new))
        for tags in self.tags.values():
            if old.lower() in tags:
                tags.remove(old.lower())
                tags.add(new.lower())

    @rule(source=memories, end=memories, kind=kinds)
    def link(self, source, end, kind):
        if source != end:
            link = self.run(relate(self.conn, USER, source, end, kind))
            both = len(self.there(source, end)) == 2
            assert (link is not None) is both
            self.links |= {(source, end, kind)} if both else set()

    @rule(source=memories, end=memories, kind=st.none() | kinds)
    def unlink(self, source, end, kind):
        gone = {
            link for link in self.links if link[:2] == (source, end) and kind in (None, link[2])
        }
        assert self.run(unrelate(self.conn, USER, source, end, kind)) is bool(gone)
        self.links -= gone

    @rule(memory=memories)
    def archive(self, memory):
        self.run(archive_memory(self.conn, USER, memory))

    @rule(memory=memories)
    def restore(self, memory):
        self.run(restore_memory(self.conn, USER, memory))

    @rule()
    def archive_all(self):
        archived = self.run(archive_stale(self.conn, USER, 10))
        assert {memory.id for memory in archived} <= set(self.tags)

    @rule(memory=consumes(memories))
    def expire(self, memory):
        """It ends, and an operator clears it away."""
        end = datetime.now(UTC) + timedelta(hours=1)
        self.run(update_memory(self.conn, USER, memory, expires_at=end))
        purged = self.run(purge_expired(self.conn, as_of=end))
        assert purged == (memory in self.tags)
        self.forget(memory)

    @rule(memory=memories)
    def access(self, memory):
        self.run(record_access(self.conn, USER, [memory]))

    @rule(target=memories, memory=consumes(memories), again=st.booleans())
    def delete(self, memory, again):
        """Its id may be drawn again: then there is no such memory."""
        assert self.run(delete_memory(self.conn, USER, memory)) is (memory in self.tags)
        self.forget(memory)
        return memory if again else multiple()

    def forget(self, memory: int) -> None:
        """A memory is away, and nothing speaks of it any more."""
        self.tags.pop(memory, None)
        self.parents.pop(memory, None)
        self.parents = {
            child: None if parent == memory else parent for child, parent in self.parents.items()
        }
        self.links = {link for link in self.links if memory not in link[:2]}

    @invariant()
    def mirrors_are_what_the_tables_say(self):
        self.run(self.compare())

    async def compare(self) -> None:
        there = await self.conn.fetch("SELECT id FROM ltm_memories WHERE user_id = $1", USER)
        assert {row["id"] for row in there} == set(self.tags)
        rows = await self.conn.fetch(
            "SELECT source_memory_id, target_memory_id, relationship_type "
            "FROM ltm_memory_relationships"
        )
        assert sorted(map(tuple, rows)) == sorted(self.links)
        for table in CHILDREN:
            held = await self.conn.fetch(f"SELECT DISTINCT memory_id FROM {table}")
            assert {row["memory_id"] for row in held} <= set(self.tags), table
        for number, tags in self.tags.items():
            memory = await get_memory(self.conn, USER, number)
            assert memory is not None
            assert memory.parent_memory_id == self.parents[number]
            assert sorted(tag.lower() for tag in memory.tags) == sorted(tags)
            rows = await self.conn.fetch(
                "SELECT tag_name FROM ltm_memory_tags WHERE memory_id = $1", number
            )
            assert sorted(row["tag_name"] for row in rows) == sorted(memory.tags)
            targets = {end for source, end, _ in self.links if source == number}
            assert sorted(memory.related_memory_ids) == sorted(targets)
            assert len(await get_relationships(self.conn, USER, number)) == sum(
                number in link[:2] for link in self.links
            )
            rows = await self.conn.fetch(
                "SELECT context_type, context_key, context_value, confidence FROM ltm_contexts "
                "WHERE memory_id = $1",
                number,
            )
            context = memory.enhanced_context
            expected = store_context(context)[1] if context else []
            assert sorted(map(tuple, rows)) == sorted(map(tuple, expected))
        health = "SELECT check_name, subject FROM ltm_health WHERE user_id = $1"
        assert list(await self.conn.fetch(health, USER)) == []


def test_mirrors_equal_their_tables_after_every_step(shared):
    run_state_machine_as_test(
        lambda: Memories(shared),  # type: ignore[arg-type]
        settings=settings(max_examples=10 * DRAWS, stateful_step_count=20),
    )
