"""Filling a database with many memories of figures from arithmetic."""

from pathlib import Path

import asyncpg

_MEMORIES = Path(__file__).with_suffix(".sql").read_text()
_CHILDREN = (
    "INSERT INTO ltm_memory_relationships (user_id, source_memory_id, target_memory_id, "
    "relationship_type, strength) "
    "SELECT s.user_id, s.id, t.id, 'related', 0.5 "
    "FROM ltm_memories AS s CROSS JOIN generate_series(1, 3) AS step "
    "JOIN ltm_memories AS t ON t.user_id = s.user_id AND t.id = s.id + step * $3 "
    "WHERE s.user_id BETWEEN $1 AND $2",
    "INSERT INTO ltm_memory_tags (user_id, memory_id, tag_name) "
    "SELECT user_id, id, tag FROM ltm_memories, jsonb_array_elements_text(tags) AS tag "
    "WHERE user_id BETWEEN $1 AND $2 AND $3::bigint > 0",
    "INSERT INTO ltm_contexts (user_id, memory_id, context_type, context_key, context_value) "
    "SELECT user_id, id, 'spatial', 'city', context_data #>> '{spatial,city}' FROM ltm_memories "
    "WHERE user_id BETWEEN $1 AND $2 AND $3::bigint > 0",
    "INSERT INTO ltm_memory_access (user_id, memory_id, access_method) "
    "SELECT user_id, id, 'direct' FROM ltm_memories, generate_series(1, 3) "
    "WHERE user_id BETWEEN $1 AND $2 AND $3::bigint > 0",
    "INSERT INTO ltm_adoption_report (user_id, table_name, row_id, rule) "
    "SELECT user_id, 'ltm_memories', id, 'clamped' FROM ltm_memories "
    "WHERE user_id BETWEEN $1 AND $2 AND $3::bigint > 0",
)


_VECTORS = (
    "INSERT INTO ltm_embeddings "
    "(user_id, memory_id, model, dimensions, embedding, content_hash, embedded_at) "
    "SELECT user_id, id, 'toy', 2, ltm_embedding(ARRAY[1, id % 100]::real[]), content_hash, now() "
    "FROM ltm_memories WHERE user_id BETWEEN $1 AND $2"
)


async def populate(
    connection: asyncpg.Connection, *, users: int, memories: int, first_user: int = 1
) -> None:
    """Give users memories with a context, two tags, three relationships and accesses; analyse."""
    await connection.execute("SET statement_timeout = 0")
    await connection.execute(_MEMORIES, users, memories, first_user)
    for statement in _CHILDREN:
        await connection.execute(statement, first_user, first_user + users - 1, users)
    if await connection.fetchval("SELECT to_regclass('ltm_embeddings') IS NOT NULL"):
        await connection.execute(_VECTORS, first_user, first_user + users - 1)
    await connection.execute(
        "INSERT INTO ltm_external_users (external_id) "
        "SELECT 'user ' || n FROM generate_series(1, 3000) AS n ON CONFLICT DO NOTHING"
    )
    await connection.execute("VACUUM ANALYZE")
