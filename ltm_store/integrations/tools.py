"""What a language model can do with a user's memories: tools for any loop of function calls.

`memory_tools` hands them out with their names, texts and JSON schemas; the MCP server offers the
same ones. The user is fixed by who calls it, never by the model.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple, TypeVar
from uuid import UUID

from pydantic import JsonValue, ValidationError

from ltm_store import (
    Conflict,
    Database,
    InvalidArgument,
    LtmError,
    Memory,
    MemoryHit,
    add_memory,
    delete_memory,
    get_analytics,
    get_memories,
    iterate_memories,
    relate,
    search_memories,
    suggest_relationships,
    update_memory,
)
from ltm_store import get_memory as read_memory
from ltm_store import list_tags as read_tags
from ltm_store.integrations.schemas import (
    CONTENT_CHARS,
    Answer,
    Arguments,
    Figures,
    Forget,
    Forgotten,
    JsonSchema,
    Limited,
    Nothing,
    OneMemory,
    Recall,
    Recent,
    Relate,
    Related,
    RelatedMemory,
    Remember,
    Remembered,
    ShortMemories,
    ShortMemory,
    SimilarMemory,
    TagCount,
    TagCounts,
    Update,
    Updated,
    WholeMemory,
    schema_of,
)

SHORT_CHARS: Final = 300  # of a memory in a list
SIMILAR: Final = 3  # memories that remember tells of
STATED: Final = 20  # tags and namespaces that memory_stats tells of
TOLD_TAGS: Final = 10  # of a memory in a list
RELATED: Final = 20  # relationships that get_memory tells of
AGES: Final = ((365, "year"), (30, "month"), (7, "week"), (1, "day"))  # told from two of them on
_log = logging.getLogger("ltm_store.tools")

Given = TypeVar("Given", bound="Arguments")


class ToolFailure(LtmError):
    """What a tool answers that could not do it: one plain sentence for the model.

    It never repeats what the model said.
    """


class MemoryTool(NamedTuple):
    """A tool as loops of function calls take it.

    `await call(arguments)` takes the model's arguments as a dict, or as keywords, and returns a
    dict of JSON. It raises ToolFailure, whose text is what to tell the model.
    """

    name: str
    description: str
    parameters: JsonSchema
    call: Callable[..., Awaitable[dict[str, JsonValue]]]


class Scope(NamedTuple):
    """Whose memories a tool works on: all of a user's, or those of one namespace."""

    db: Database
    user_id: int | str | UUID
    namespace: str | None = None

    @property
    def whose(self) -> tuple[Database, int | str | UUID]:
        """What every function takes first."""
        return self.db, self.user_id

    async def inside(self, memory_ids: Iterable[int]) -> set[int]:
        """Those of some memories of the user that are in the namespace; not tracked."""
        ids = list(memory_ids)
        if self.namespace is None or not ids:
            return set(ids)
        async with self.db.transaction() as connection:
            found = await get_memories(connection, self.user_id, ids)
        return {memory.id for memory in found if memory.namespace == self.namespace}

    async def require(self, *memory_ids: int) -> None:
        """Raise ToolFailure where one of the memories is not in the namespace."""
        if len(await self.inside(memory_ids)) < len(set(memory_ids)):
            raise _no_memory()


async def _remember(scope: Scope, given: Remember) -> Remembered:
    memory = await add_memory(
        *scope.whose,
        given.content,
        tags=given.tags,
        importance_score=given.importance,
        memory_type=given.memory_type,
        namespace=scope.namespace,
        source_type="conversation",
        created_by="assistant",
    )
    similar = await _similar(scope, memory.id)
    same = memory.duplicate_of
    if same is not None and not await scope.inside([same]):
        same = None
    advice = None
    if same is not None:
        advice = "It says what duplicate_of says: forget one of the two."
    elif similar:
        advice = "If one of these is about the same, update it and forget the new one."
    return Remembered(id=memory.id, duplicate_of=same, similar=similar, advice=advice)


async def _similar(scope: Scope, memory_id: int) -> list[SimilarMemory]:
    """Memories that share at least two rare words with a new one."""
    try:
        found = await suggest_relationships(*scope.whose, memory_id, limit=3 * SIMILAR)
        inside = await scope.inside(one.related_memory.id for one in found)
    except LtmError:  # the memory is stored, and the hint is none that it depends on
        return []
    told = [
        SimilarMemory(
            id=one.related_memory.id, content=_short(one.related_memory.content), why=one.reason
        )
        for one in found
        if len(one.words) > 1 and one.related_memory.id in inside
    ]
    return told[:SIMILAR]


async def _recall(scope: Scope, given: Recall) -> ShortMemories:
    hits = await search_memories(
        *scope.whose,
        given.query,
        tags=given.tags,
        memory_type=given.memory_type,
        created_after=given.since,
        namespace=scope.namespace,
        limit=given.limit,
        include_context=False,
    )
    return _within(given.max_chars, ((hit, _why(hit)) for hit in hits))


async def _get(scope: Scope, given: OneMemory) -> WholeMemory:
    await scope.require(given.memory_id)  # before the read, which is an access
    memory = await read_memory(*scope.whose, given.memory_id, include_relationships=True)
    if memory is None:
        raise _no_memory()
    known = memory.relationships or ()
    inside = await scope.inside(one.related_memory.id for one in known)
    end = given.start + CONTENT_CHARS
    return WholeMemory(
        id=memory.id,
        content=memory.content[given.start : end],
        next_start=end if end < len(memory.content) else None,
        memory_type=memory.memory_type,
        tags=list(memory.tags),
        importance=round(memory.dynamic_importance, 1),
        age=_age(memory),
        created_at=memory.created_at,
        last_modified=memory.last_modified,
        version=memory.version,
        is_archived=memory.is_archived,
        relationships=[
            RelatedMemory(
                id=one.related_memory.id,
                content=_short(one.related_memory.content),
                relationship_type=one.relationship_type,
                direction=one.direction,
            )
            for one in known
            if one.related_memory.id in inside
        ][:RELATED],
    )


async def _update(scope: Scope, given: Update) -> Updated:
    named = {"importance": "importance_score"}
    fields = given.model_dump(exclude={"memory_id", "expected_version"}, exclude_none=True)
    if not fields:
        raise ToolFailure("Say what to change: content, tags, importance or memory_type.")
    await scope.require(given.memory_id)
    memory = await update_memory(
        *scope.whose,
        given.memory_id,
        expected_version=given.expected_version,
        **{named.get(name, name): value for name, value in fields.items()},
    )
    if memory is None:
        raise _no_memory()
    return Updated(id=memory.id, content=_short(memory.content), version=memory.version)


async def _forget(scope: Scope, given: Forget) -> Forgotten:
    there = await scope.inside([given.memory_id])
    forgotten = bool(there) and await delete_memory(*scope.whose, given.memory_id)
    return Forgotten(id=given.memory_id, forgotten=forgotten)


async def _relate(scope: Scope, given: Relate) -> Related:
    await scope.require(given.source_memory_id, given.target_memory_id)
    known = await relate(
        *scope.whose,
        given.source_memory_id,
        given.target_memory_id,
        given.relationship_type,
        description=given.description,
    )
    if known is None:
        raise ToolFailure("There is no memory with one of these ids.")
    return Related(
        source_memory_id=known.source_memory_id,
        target_memory_id=known.target_memory_id,
        relationship_type=known.relationship_type,
    )


async def _tags(scope: Scope, given: Limited) -> TagCounts:
    if scope.namespace is not None:
        counts = (await _counted(scope)).by_tag.items()
        return TagCounts(
            tags=[TagCount(tag=tag, memories=n) for tag, n in list(counts)[: given.limit]]
        )
    found = await read_tags(*scope.whose, limit=given.limit)
    return TagCounts(tags=[TagCount(tag=t.tag_name, memories=t.memory_count) for t in found])


async def _recent(scope: Scope, given: Recent) -> ShortMemories:
    newest = await search_memories(
        *scope.whose,
        namespace=scope.namespace,
        order="newest",
        limit=given.limit,
        include_context=False,
    )
    return _within(given.max_chars, ((memory, "recent") for memory in newest))


async def _stats(scope: Scope, _: Nothing) -> Figures:
    if scope.namespace is not None:
        figures = await _counted(scope)
        return figures.model_copy(update={"by_tag": _first(figures.by_tag)})
    known = await get_analytics(*scope.whose)
    average, namespaces = known.average_dynamic_importance, known.namespace_distribution
    return Figures(
        memories=known.total_memories,
        archived=known.archived_memories,
        average_importance=None if average is None else round(average, 1),
        by_type=known.type_distribution,
        by_tag=_first(known.tag_distribution),
        by_namespace=_first(namespaces) if any(namespaces) else None,
        by_month=known.growth_by_month,
    )


def _first(counts: Mapping[str, int]) -> dict[str, int]:
    return dict(list(counts.items())[:STATED])


async def _counted(scope: Scope) -> Figures:
    """The figures of a namespace, which is gone through for them."""
    archived, importance = 0, 0.0
    types, tags, months = Counter[str](), Counter[str](), Counter[str]()
    found = iterate_memories(
        *scope.whose, namespace=scope.namespace, include_archived=True, include_context=False
    )
    async for memory in found:
        archived += memory.is_archived
        importance += memory.dynamic_importance
        types[memory.memory_type or "unknown"] += 1
        tags.update(memory.tags)
        if memory.created_at is not None:
            months[f"{memory.created_at:%Y-%m}"] += 1
    total = types.total()
    return Figures(
        memories=total,
        archived=archived,
        average_importance=round(importance / total, 1) if total else None,
        by_type=dict(types.most_common()),
        by_tag=dict(tags.most_common()),
        by_month=dict(sorted(months.items())),
    )


def _line(content: str) -> str:
    return " ".join(content.split())


def _short(content: str) -> str:
    """The beginning of a content on one line."""
    line = _line(content)
    return line if len(line) <= SHORT_CHARS else line[: SHORT_CHARS - 1].rstrip() + "…"


def _age(memory: Memory) -> str:
    if memory.created_at is None:
        return "unknown"
    days = (datetime.now(UTC) - memory.created_at).days
    if days < 1:
        return "today" if days == 0 else "in the future"
    length, name = next((size, name) for size, name in AGES if days >= 2 * size or size == 1)
    count = days // length
    return f"{count} {name}{'s' if count > 1 else ''} ago"


def _why(hit: MemoryHit) -> str:
    if hit.matched_terms:
        return f"words: {', '.join(hit.matched_terms)}"
    return "stands beside a memory that was found"


def _within(max_chars: int, found: Iterable[tuple[Memory, str]]) -> ShortMemories:
    """As many of the memories, in their order, as fit into the budget as JSON."""
    told: list[ShortMemory] = []
    left_out = 0
    room = max_chars - len(_text(ShortMemories(memories=[], left_out=99)))
    for memory, why in found:
        short = ShortMemory(
            id=memory.id,
            content=_short(memory.content),
            age=_age(memory),
            why=why,
            importance=round(memory.dynamic_importance, 1),
            memory_type=memory.memory_type,
            tags=list(memory.tags[:TOLD_TAGS]),
            is_cut=True if len(_line(memory.content)) > SHORT_CHARS else None,
        )
        needed = len(_text(short)) + 1
        if needed <= room:
            told.append(short)
            room -= needed
        else:
            left_out += 1
    return ShortMemories(memories=told, left_out=left_out)


def _text(answer: Answer) -> str:
    return answer.model_dump_json(exclude_none=True)


def _no_memory() -> ToolFailure:
    return ToolFailure("There is no memory with this id.")


@dataclass(frozen=True)
class Definition:
    """A tool: what is told of it, and what it does."""

    name: str
    title: str
    description: str
    arguments: type[Arguments]
    answer: type[Answer]
    run: Callable[[Scope, Any], Awaitable[Answer]]
    is_read_only: bool = False
    is_destructive: bool = False
    is_idempotent: bool = False

    async def call(self, scope: Scope, arguments: Mapping[str, object]) -> dict[str, JsonValue]:
        """What the tool answers. Raises ToolFailure, and nothing else."""
        started = time.perf_counter()
        outcome = "failed"
        try:
            answer = await self.run(scope, self._checked(arguments))
            outcome = "answered"
        except ToolFailure:
            raise
        except Conflict:
            reason = "The memory was changed meanwhile: get it again."
        except InvalidArgument as error:
            reason = f"{error.field.partition('.')[0]}: {error.rule}."
        except LtmError as error:
            _log.warning("%s: %s", self.name, error, extra={"event": "tool_unavailable"})
            reason = "The memory store is not available now: go on without it."
        except Exception as error:
            name = type(error).__name__
            _log.error("%s: unexpected %s", self.name, name, extra={"event": "tool_crashed"})
            reason = "The memory store failed: go on without it."
        else:
            dumped: dict[str, JsonValue] = answer.model_dump(mode="json", exclude_none=True)
            return dumped
        finally:
            spent = (time.perf_counter() - started) * 1e3
            event = {"event": f"tool_{outcome}"}
            _log.info("%s %s in %.1f ms", self.name, outcome, spent, extra=event)
        raise ToolFailure(reason)

    def _checked(self, arguments: Mapping[str, object]) -> Arguments:
        try:
            return self.arguments.model_validate(arguments)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        if first["type"] == "extra_forbidden":
            known = ", ".join(self.arguments.model_fields) or "none"
            raise ToolFailure(f"There is an argument too many: it takes {known}.")
        field = first["loc"][0] if first["loc"] else "arguments"
        if first["type"] == "missing":
            raise ToolFailure(f"{field} is missing.")
        rule = first["msg"]
        raise ToolFailure(f"{field}: {rule[max(rule.find('should'), 0) :]}.")


DEFINITIONS: Final = (
    Definition(
        "recall",
        "Recall memories",
        "Search what is remembered about the user. Call it before you answer whenever the user's "
        "past could matter: their preferences, people, projects, plans, or anything they may have "
        "told earlier; and before remember, to see what is known already. Ask in the user's "
        "words; ask again with other words if nothing fits. Each memory comes with its id, its "
        "age and why it was found. Trust newer ones more where they disagree.",
        Recall,
        ShortMemories,
        _recall,
        is_read_only=True,
        is_idempotent=True,
    ),
    Definition(
        "remember",
        "Remember something",
        "Store one thing about the user that will still matter in later conversations: a "
        "preference, a fact, a goal, a decision, a person, a habit. Call it as soon as you learn "
        "such a thing, once for each. Do not store small talk, secrets such as passwords, or what "
        "only the present task needs. Where a memory says something similar already, correct it "
        "with update_memory instead; the answer tells of such ones.",
        Remember,
        Remembered,
        _remember,
    ),
    Definition(
        "get_memory",
        "Read a memory",
        "Read one memory whole, with its tags and the memories that it is related to. Call it for "
        "one whose content recall has cut, or when its surroundings matter.",
        OneMemory,
        WholeMemory,
        _get,
        is_read_only=True,
        is_idempotent=True,
    ),
    Definition(
        "update_memory",
        "Correct a memory",
        "Change a memory that is no longer right or not complete, instead of remembering the same "
        "subject again. Say only what changes; the rest stays.",
        Update,
        Updated,
        _update,
        is_destructive=True,
        is_idempotent=True,
    ),
    Definition(
        "forget_memory",
        "Forget a memory",
        "Delete a memory for good: because the user asks for it, or because it is wrong or a "
        "duplicate. Never do it for tidiness alone. It cannot be undone.",
        Forget,
        Forgotten,
        _forget,
        is_destructive=True,
        is_idempotent=True,
    ),
    Definition(
        "relate_memories",
        "Relate two memories",
        "Note that two memories belong together and how, when that will help later: one causes, "
        "contradicts, supersedes or is part of the other.",
        Relate,
        Related,
        _relate,
        is_idempotent=True,
    ),
    Definition(
        "list_tags",
        "List tags",
        "List the tags in use, the most frequent first. Call it before you choose tags, to use "
        "the ones that exist.",
        Limited,
        TagCounts,
        _tags,
        is_read_only=True,
        is_idempotent=True,
    ),
    Definition(
        "recent_memories",
        "List recent memories",
        "List the newest memories. Call it at the beginning of a conversation to see what was "
        "going on lately, or when the user asks what you have noted.",
        Recent,
        ShortMemories,
        _recent,
        is_read_only=True,
        is_idempotent=True,
    ),
    Definition(
        "memory_stats",
        "Describe the memory",
        "Tell how many memories there are, of which types, under which tags, in which namespaces "
        "('' is none) and from when. Call it when the user asks how much you know, not to answer "
        "other questions.",
        Nothing,
        Figures,
        _stats,
        is_read_only=True,
        is_idempotent=True,
    ),
)


def definitions(*, read_only: bool = False) -> Sequence[Definition]:
    """The tools, or those that change nothing."""
    return [one for one in DEFINITIONS if one.is_read_only or not read_only]


def memory_tools(
    db: Database,
    user_id: int | str | UUID,
    *,
    namespace: str | None = None,
    read_only: bool = False,
) -> list[MemoryTool]:
    """Tools by which a language model remembers and recalls for one user.

    They are recall, remember, get_memory, update_memory, forget_memory, relate_memories,
    list_tags, recent_memories and memory_stats; with read_only those that change nothing.
    namespace: they work on the memories in it and see no others; None is all of the user's.
    """
    scope = Scope(db, user_id, namespace)

    def tool(definition: Definition) -> MemoryTool:
        async def call(
            arguments: Mapping[str, object] | None = None, /, **keywords: object
        ) -> dict[str, JsonValue]:
            return await definition.call(scope, {**(arguments or {}), **keywords})

        return MemoryTool(
            definition.name, definition.description, schema_of(definition.arguments), call
        )

    return [tool(definition) for definition in definitions(read_only=read_only)]
