"""Which optional steps a database has."""

from __future__ import annotations

from ltm_store.db.execute import Executor, fetch_value


async def has_embeddings(db: Executor) -> bool:
    """Whether the step `embeddings` was run."""
    return bool(await fetch_value(db, "has_embeddings"))
