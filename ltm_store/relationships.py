"""Relationships between memories."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from ltm_store import limits
from ltm_store.db.execute import (
    Executor,
    fetch_many,
    fetch_one,
    fetch_value,
    one_deadline,
    only_reads,
    session_of,
)
from ltm_store.db.identity import User, find_user
from ltm_store.db.transactions import Connection
from ltm_store.errors import InvalidArgument, InvalidMemory
from ltm_store.model.relationships import (
    MemoryPath,
    ReachedMemory,
    Relationship,
    RelationshipDetails,
    RelationshipOf,
    Suggesting,
    Suggestion,
    Walk,
)
from ltm_store.model.values import UserId, check_memory_id, moment

_NEAR: Final = 10  # memories that are suggested for what they mean


@one_deadline
async def relate(
    db: Executor,
    user_id: UserId,
    source_memory_id: int,
    target_memory_id: int,
    relationship_type: str = "related",
    *,
    strength: float = 1.0,
    description: str | None = None,
) -> Relationship | None:
    """Relate source to target; a relationship of this type gets the new strength and description.

    relationship_type: a word of at most 50 characters, default "related"; see RelationshipType.
    strength: 0 .. 1, default 1. description: at most 10,000 characters.

    Returns the relationship as seen from the source; None when the user has no such two memories.
    Raises InvalidMemory when both are the same memory, or naming the argument that is refused.
    """
    details = RelationshipDetails.checked(
        {
            "relationship_type": relationship_type,
            "strength": strength,
            "description": description,
        }
    )
    source, target = (
        check_memory_id(source_memory_id, "source_memory_id"),
        check_memory_id(target_memory_id, "target_memory_id"),
    )
    if source == target:
        raise InvalidMemory("target_memory_id", "should be another memory than source_memory_id")
    user = await find_user(db, user_id)
    if user is None:
        return None
    return await fetch_one(
        db,
        "relate",
        Relationship,
        user_id=user.number,
        source_memory_id=source,
        target_memory_id=target,
        now=moment(None),
        relationship_type=details.relationship_type,
        strength=details.strength,
        description=details.description,
    )


@one_deadline
async def unrelate(
    db: Executor,
    user_id: UserId,
    source_memory_id: int,
    target_memory_id: int,
    relationship_type: str | None = None,
) -> bool:
    """Remove the relationship of this type, or all, from source to target; tell if any was."""
    if relationship_type is not None:
        details = RelationshipDetails.checked({"relationship_type": relationship_type})
        relationship_type = details.relationship_type
    source, target = (
        check_memory_id(source_memory_id, "source_memory_id"),
        check_memory_id(target_memory_id, "target_memory_id"),
    )
    user = await find_user(db, user_id)
    if user is None:
        return False

    async def remove(connection: Connection) -> bool:
        locked = await fetch_value(connection, "lock_source", user_id=user.number, memory_id=source)
        if locked is None:
            return False
        removed: int = await fetch_value(
            connection,
            "unrelate",
            user_id=user.number,
            source_memory_id=source,
            target_memory_id=target,
            relationship_type=relationship_type,
        )
        return removed > 0

    return await session_of(db).with_locks(remove)


@only_reads
async def get_relationships(db: Executor, user_id: UserId, memory_id: int) -> list[Relationship]:
    """The relationships of a memory in both directions, strongest first, at most 10,000.

    Each carries a summary of the memory at its other end; relationships to expired memories are
    left out. Tracked as a "related" access of the other memories.
    """
    number = check_memory_id(memory_id)
    user = await find_user(db, user_id)
    if user is None:
        return []
    found = await fetch_many(
        db,
        "get_relationships",
        Relationship,
        user_id=user.number,
        memory_id=number,
        as_of=moment(None),
    )
    others = [relationship.related_memory.id for relationship in found]
    await session_of(db).track_access(user.number, others, "related")
    return found


async def relationships_of(
    db: Executor, user: User, memory_ids: Sequence[int]
) -> dict[int, list[Relationship]]:
    """What get_relationships gives, for several memories at once; not tracked."""
    found: dict[int, list[Relationship]] = {memory_id: [] for memory_id in memory_ids}
    rows = await fetch_many(
        db,
        "get_relationships_of_many",
        RelationshipOf,
        user_id=user.number,
        memory_ids=list(found),
        as_of=moment(None),
    )
    for row in rows:
        found[row.memory_id].append(row)
    return found


@only_reads
async def traverse(
    db: Executor,
    user_id: UserId,
    memory_id: int,
    *,
    depth: int = 2,
    types: Iterable[str] | None = None,
    min_strength: float | None = None,
    limit: int = 100,
) -> list[ReachedMemory]:
    """The `limit` memories nearest to one, at most `depth` relationships away, also archived ones.

    Relationships are followed in both directions; only those of these types, and with at least this
    strength. Each memory comes once, by the path of the fewest relationships, of those by the
    strongest; nearest first, at the same depth the strongest path first. Expired memories are not
    passed through. [] when the memory is missing or expired. Not tracked.

    Of each memory the 2 * limit + 100 strongest relationships in each direction are looked at, and
    at most `limit` memories are gone on from: that bounds what a call reads, whatever the hubs, and
    it is enough for the nearest memories. What can be missed is one behind more than limit + 100
    stronger relationships of a hub that lead to expired memories, or several to the same one. With
    `types` the relationships of other types of a hub are skipped one by one.

    depth: 1 .. 20, limit: 1 .. 1000. Raises InvalidMemory naming the argument that is refused.
    """
    walk = Walk.checked(
        {"depth": depth, "types": types, "min_strength": min_strength, "limit": limit}
    )
    number = check_memory_id(memory_id)
    user = await find_user(db, user_id)
    return [] if user is None else await reached_from(db, user.number, number, walk)


async def reached_from(db: Executor, user: int, memory_id: int, walk: Walk) -> list[ReachedMemory]:
    """traverse of a user whose number is known."""
    return await fetch_many(
        db,
        "traverse",
        ReachedMemory,
        user_id=user,
        memory_id=memory_id,
        as_of=moment(None),
        depth=walk.depth,
        types=walk.types,
        min_strength=walk.min_strength,
        row_limit=walk.limit,
    )


@only_reads
async def shortest_path(
    db: Executor,
    user_id: UserId,
    source_memory_id: int,
    target_memory_id: int,
    *,
    max_depth: int = 6,
    types: Iterable[str] | None = None,
    min_strength: float | None = None,
) -> MemoryPath | None:
    """The shortest path between two memories, of several the strongest; None without one.

    Relationships are followed as traverse does. A memory's path to itself has no steps. Not
    tracked.

    The search goes from both ends. It takes at most the 1,000 strongest memories of a level one
    further, and follows the 10,000 / n strongest relationships in each direction of each of n
    memories: a level costs at most 20,000 relationships. Where more are there, a path may be missed
    or a longer one found; every path that is returned exists.

    max_depth: 1 .. 20 relationships. Raises InvalidMemory naming the argument that is refused.
    """
    walk = Walk.checked({"types": types, "min_strength": min_strength})
    if type(max_depth) is not int or not 1 <= max_depth <= limits.DEPTH:
        raise InvalidArgument("max_depth", f"should be 1 to {limits.DEPTH}")
    source, target = (
        check_memory_id(source_memory_id, "source_memory_id"),
        check_memory_id(target_memory_id, "target_memory_id"),
    )
    user = await find_user(db, user_id)
    if user is None:
        return None
    return await fetch_one(
        db,
        "shortest_path",
        MemoryPath,
        user_id=user.number,
        source_memory_id=source,
        target_memory_id=target,
        as_of=moment(None),
        max_depth=max_depth,
        types=walk.types,
        min_strength=walk.min_strength,
        memory_limit=limits.PATH_MEMORIES,
        relationship_limit=limits.PATH_RELATIONSHIPS,
    )


@only_reads
async def suggest_relationships(
    db: Executor, user_id: UserId, memory_id: int, *, limit: int = 10
) -> list[Suggestion]:
    """Memories that may belong to one, each with what it shares with it; nothing is written.

    Shared can be tags, the source, people (participants of the social context) and words of the
    content, of which the first 64 are looked at. What more than 100 memories of the user have is no
    reason; any other adds its idf, ln(1 + (N - n + 0.5) / (n + 0.5)) for n of N memories (S.
    Robertson and H. Zaragoza, 2009), a word half of it. With an embedder, memories that mean much
    the same are suggested too, the nearest 10 that stand out. Memories that are related with this
    one in either direction, archived or expired are left out. [] when the memory is missing or
    expired.

    limit: 1 .. 1000.
    """
    asked = Suggesting.checked({"limit": limit})
    number = check_memory_id(memory_id)
    user = await find_user(db, user_id)
    if user is None:
        return []
    return await fetch_many(
        db,
        "suggest_relationships",
        Suggestion,
        user_id=user.number,
        memory_id=number,
        as_of=moment(None),
        holder_limit=limits.SHARED_BY,
        word_limit=limits.QUERY_TERMS,
        row_limit=asked.limit,
        model=session_of(db).embedding_model,
        near_limit=_NEAR,
    )
