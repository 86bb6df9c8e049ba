"""Links between memories."""

from __future__ import annotations

from ltm_store.errors import InvalidMemory
from ltm_store.execute import (
    Executor,
    fetch_many,
    fetch_one,
    fetch_value,
    internal_id,
    locking,
    track,
)
from ltm_store.models import Relationship, RelationshipDetails
from ltm_store.values import UserId, memory_number, moment


async def relate(
    db: Executor,
    user_id: UserId,
    source_id: int,
    target_id: int,
    relationship_type: str = "related",
    *,
    strength: float = 1.0,
    description: str | None = None,
) -> Relationship | None:
    """Link source to target; a link of this type gets the new strength and description.

    Returns the link as seen from the source; None when the user has no such two memories. Raises
    InvalidMemory when both are the same memory, or for a strength outside 0 .. 1.
    """
    details = RelationshipDetails.checked(
        {
            "relationship_type": relationship_type,
            "strength": strength,
            "description": description,
        }
    )
    source, target = memory_number(source_id, "source_id"), memory_number(target_id, "target_id")
    if source == target:
        raise InvalidMemory("target_id", "should be another memory than source_id")
    user = await internal_id(db, user_id)
    if user is None:
        return None
    return await fetch_one(
        db,
        "relate",
        Relationship,
        user,
        source,
        target,
        moment(None),
        details.relationship_type,
        details.strength,
        details.description,
    )


async def unrelate(
    db: Executor,
    user_id: UserId,
    source_id: int,
    target_id: int,
    relationship_type: str | None = None,
) -> bool:
    """Remove the link of this type, or every link, from source to target; tell if any was."""
    if relationship_type is not None:
        details = RelationshipDetails.checked({"relationship_type": relationship_type})
        relationship_type = details.relationship_type
    source, target = memory_number(source_id, "source_id"), memory_number(target_id, "target_id")
    user = await internal_id(db, user_id)
    if user is None:
        return False
    async with locking(db) as connection:
        if await fetch_value(connection, "lock_source", user, source) is None:
            return False
        removed: int = await fetch_value(
            connection, "unrelate", user, source, target, relationship_type
        )
    return removed > 0


async def get_relationships(db: Executor, user_id: UserId, memory_id: int) -> list[Relationship]:
    """The links that leave a memory and those that arrive at it, strongest first, at most 10,000.

    Each carries a summary of the memory at its other end; links to expired memories are left out.
    Tracked as a "related" access of the other memories.
    """
    number = memory_number(memory_id)
    user = await internal_id(db, user_id)
    if user is None:
        return []
    found = await fetch_many(db, "get_relationships", Relationship, user, number, moment(None))
    await track(db, user, [link.related_memory.id for link in found], "related")
    return found
