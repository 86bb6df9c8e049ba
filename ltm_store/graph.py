"""The neighbourhood of a memory, to be drawn."""

from __future__ import annotations

from typing import Final

from ltm_store import limits
from ltm_store.db.execute import Executor, fetch_one
from ltm_store.db.identity import find_user
from ltm_store.errors import InvalidMemory
from ltm_store.model.relationships import Graph
from ltm_store.model.values import UserId, moment
from ltm_store.relationships import traverse

_CONTENT_CHARS: Final = 300
_EDGES: Final = 2_000


async def memory_graph(
    db: Executor, user_id: UserId, memory_id: int, *, depth: int = 2, limit: int = 30
) -> Graph | None:
    """A memory, the `limit` ones nearest to it as traverse finds them, and their relationships.

    Relationships come strongest first, at most 2,000. None when the memory is missing or expired.
    to_svg, to_mermaid and to_dot draw it. Two round trips: what is deleted in between is left out.
    Not tracked.

    depth: 1 .. 20, limit: 1 .. 200. Raises InvalidMemory naming the argument that is refused.
    """
    if type(limit) is not int or not 1 <= limit <= limits.GRAPH:
        raise InvalidMemory("limit", f"should be 1 to {limits.GRAPH}")
    reached = await traverse(db, user_id, memory_id, depth=depth, limit=limit)
    user = await find_user(db, user_id)
    if user is None:
        return None
    graph = await fetch_one(
        db,
        "get_graph",
        Graph,
        user_id=user.number,
        memory_ids=[memory_id, *(found.related_memory.id for found in reached)],
        depths=[0, *(found.depth for found in reached)],
        as_of=moment(None),
        content_chars=_CONTENT_CHARS,
        relationship_limit=_EDGES,
    )
    return graph if graph and graph.nodes and graph.nodes[0].id == memory_id else None
