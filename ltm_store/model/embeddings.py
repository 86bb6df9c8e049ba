"""How far the vectors of memories are."""

from __future__ import annotations

from ltm_store.model.base import Row


class EmbeddingStatus(Row):
    """How far the vectors of a model are, over all users.

    Of `memories` that have not expired, `embedded` have a vector, `stale` one of a content that was
    changed since, and `set_aside` could not be given one; the others wait for theirs.
    """

    model: str
    memories: int
    embedded: int
    stale: int
    set_aside: int
