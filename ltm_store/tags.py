"""Tags of memories: their details, their names, what stands beside what."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from ltm_store.db.execute import (
    Executor,
    fetch_many,
    fetch_one,
    fetch_value,
    one_deadline,
    only_reads,
    session_of,
)
from ltm_store.db.identity import find_user
from ltm_store.db.transactions import Connection
from ltm_store.errors import InvalidMemory, Unavailable
from ltm_store.model.memories import Memory
from ltm_store.model.tags import RelatedTag, Tag, TagDetails, TagFilters
from ltm_store.model.values import UserId, check_memory_id, moment

_ATTEMPTS: Final = 100  # of a removal, where other changes come in between
_CANDIDATES: Final = 1_000  # tags that are compared with one, the most frequent beside it


@one_deadline
async def add_tags(
    db: Executor,
    user_id: UserId,
    memory_id: int,
    tags: Iterable[str],
    *,
    tag_category: str | None = None,
    tag_importance: float | None = None,
    tag_confidence: float | None = None,
) -> Memory | None:
    """Give a memory tags, each with these details, and return it; None when there is none.

    A tag that it has already, in any letter case, keeps its spelling and the details that are not
    given, and is counted as used once more. Details not given of a new one are "general", 1 and 1.
    version goes up by one. Raises InvalidMemory naming the argument that
    is refused, "tags" also when the memory would have more than 100.
    """
    details = TagDetails.checked(
        {
            "tags": tags,
            "tag_category": tag_category,
            "tag_importance": tag_importance,
            "tag_confidence": tag_confidence,
        }
    )
    number = check_memory_id(memory_id)
    user = await find_user(db, user_id)
    if user is None:
        return None
    return await fetch_one(
        db,
        "add_tags",
        Memory,
        user_id=user.number,
        memory_id=number,
        now=moment(None),
        tag_names=details.tags,
        tag_category=details.tag_category,
        tag_importance=details.tag_importance,
        tag_confidence=details.tag_confidence,
    )


@one_deadline
async def remove_tags(
    db: Executor, user_id: UserId, memory_id: int, tags: Iterable[str]
) -> Memory | None:
    """Take tags from a memory, in any letter case, and return it; None when there is none.

    A tag that it does not have is no error. version goes up by one.
    """
    names = TagDetails.checked({"tags": tags}).tags
    number, now = check_memory_id(memory_id), moment(None)
    user = await find_user(db, user_id)
    if user is None:
        return None
    for _ in range(_ATTEMPTS):
        memory = await fetch_one(
            db,
            "remove_tags",
            Memory,
            user_id=user.number,
            memory_id=number,
            now=now,
            tag_names=names,
        )
        if memory is not None:
            return memory
        # Nothing was written: no such memory, or another change came in between.
        version = await fetch_value(
            db, "memory_version", user_id=user.number, memory_id=number, as_of=now
        )
        if version is None:
            return None
    raise Unavailable("other changes of this memory came in between each time")


@one_deadline
async def rename_tag(db: Executor, user_id: UserId, old: str, new: str) -> int:
    """Give a tag another name in all memories of a user; the number of memories that it changed.

    Also changes the letter case of a tag. Where a memory has both, they become one: its uses are
    added up, its category, importance and confidence are those of the new name. Archived memories
    are changed too, expired ones are not. All or nothing, within the timeout of a Database: every
    memory is written anew, which takes about 0.2 ms.
    """
    (old_name,), (new_name,) = _name(old, "old"), _name(new, "new")
    now = moment(None)
    user = await find_user(db, user_id)
    if user is None:
        return 0
    names = {"tag": old_name, "new_tag": new_name}

    async def rename(connection: Connection) -> int:
        ids = await fetch_value(connection, "lock_tagged", user_id=user.number, as_of=now, **names)
        if not ids:
            return 0
        renamed: int = await fetch_value(
            connection, "rename_tag", user_id=user.number, memory_ids=ids, now=now, **names
        )
        return renamed

    return await session_of(db).with_locks(rename)


@only_reads
async def list_tags(
    db: Executor,
    user_id: UserId,
    *,
    memory_id: int | None = None,
    tag_category: str | None = None,
    limit: int = 100,
) -> list[Tag]:
    """The tags of a user's memories, or of one memory, with figures, the most frequent first.

    Archived memories count, expired ones do not. tag_category: only uses in this category.
    limit: 1 .. 1000.
    """
    filters = TagFilters.checked({"tag_category": tag_category, "limit": limit})
    number = None if memory_id is None else check_memory_id(memory_id)
    user = await find_user(db, user_id)
    if user is None:
        return []
    return await fetch_many(
        db,
        "list_tags",
        Tag,
        user_id=user.number,
        as_of=moment(None),
        tag_category=filters.tag_category,
        row_limit=filters.limit,
        memory_id=number,
    )


@only_reads
async def related_tags(
    db: Executor, user_id: UserId, tag: str, *, limit: int = 10
) -> list[RelatedTag]:
    """The tags that stand beside a tag on the same memories, the closest first.

    Closeness is the Jaccard index (P. Jaccard, 1912): the memories that carry both, divided by
    those that carry either. Of more than 1,000 tags the most frequent beside it are compared.
    limit: 1 .. 1000.
    """
    filters = TagFilters.checked({"limit": limit})
    (name,) = _name(tag, "tag")
    user = await find_user(db, user_id)
    if user is None:
        return []
    return await fetch_many(
        db,
        "related_tags",
        RelatedTag,
        user_id=user.number,
        tag=name,
        as_of=moment(None),
        candidate_limit=_CANDIDATES,
        row_limit=filters.limit,
    )


def _name(tag: str, field: str) -> tuple[str, ...]:
    """The tag as it is stored, alone. Raises InvalidMemory naming the argument."""
    try:
        return TagDetails.checked({"tags": (tag,)}).tags
    except InvalidMemory as error:
        rule = error.rule
    raise InvalidMemory(field, rule)
