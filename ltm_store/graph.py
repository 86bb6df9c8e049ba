"""The neighbourhood of a memory, to be drawn."""

from __future__ import annotations

from typing import Final

from ltm_store import limits
from ltm_store.db.execute import Executor, fetch_one, only_reads
from ltm_store.db.identity import find_user
from ltm_store.errors import InvalidArgument
from ltm_store.model.relationships import Graph, Walk
from ltm_store.model.values import UserId, check_memory_id, moment
from ltm_store.relationships import reached_from

_CONTENT_CHARS: Final = 300
_EDGES: Final = 2_000


@only_reads
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
        raise InvalidArgument("limit", f"should be 1 to {limits.GRAPH}")
    walk = Walk.checked({"depth": depth, "limit": limit})
    number = check_memory_id(memory_id)
    user = await find_user(db, user_id)
    return None if user is None else await graph_of(db, user.number, number, walk)


async def graph_of(db: Executor, user: int, memory_id: int, walk: Walk) -> Graph | None:
    """memory_graph of a user whose number is known."""
    reached = await reached_from(db, user, memory_id, walk)
    graph = await fetch_one(
        db,
        "get_graph",
        Graph,
        user_id=user,
        memory_ids=[memory_id, *(found.related_memory.id for found in reached)],
        depths=[0, *(found.depth for found in reached)],
        as_of=moment(None),
        content_chars=_CONTENT_CHARS,
        relationship_limit=_EDGES,
    )
    return graph if graph and graph.nodes and graph.nodes[0].id == memory_id else None
