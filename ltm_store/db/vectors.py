"""Which model a vector of the caller's is of."""

from __future__ import annotations

from collections.abc import Sequence

from ltm_store.db.execute import Executor, session_of
from ltm_store.errors import InvalidArgument, InvalidMemory
from ltm_store.model.vectors import CALLER


def model_of(
    db: Executor,
    vector: Sequence[float],
    given: str | None,
    field: str,
    refused_as: type[InvalidArgument] = InvalidMemory,
) -> str:
    """The model that is named, else the embedder's of the Database, else "caller".

    Raises an error for the field where the vector cannot be one of the embedder's.
    """
    embedder = session_of(db).embedder
    if embedder and given in (None, embedder.model) and len(vector) != embedder.dimensions:
        raise refused_as(field, f"should have {embedder.dimensions} numbers")
    return given or (embedder.model if embedder else CALLER)
