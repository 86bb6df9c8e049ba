"""Databases of the original application as they are out there, with rows nobody would design."""

import random

import asyncpg

L0 = """
CREATE TABLE users (id serial PRIMARY KEY, name text);
INSERT INTO users (name) SELECT 'user ' || n FROM generate_series(1, 5) AS n;
CREATE TABLE ltm_memories (
    id serial PRIMARY KEY,
    user_id integer NOT NULL REFERENCES users (id),
    content text NOT NULL,
    tags json NOT NULL,
    importance_score integer,
    context text,
    created_at timestamp,
    last_accessed timestamp
);
"""
ADDED = {
    "memory_type": "varchar(50)",
    "category": "varchar(100)",
    "confidence_score": "float DEFAULT 1.0",
    "dynamic_importance": "float DEFAULT 1.0",
    "context_data": "jsonb",
    "source_type": "varchar(50)",
    "source_id": "varchar(100)",
    "created_by": "varchar(50) DEFAULT 'system'",
    "last_modified": "timestamp DEFAULT current_timestamp",
    "access_count": "integer DEFAULT 0",
    "last_access_context": "text",
    "related_memory_ids": "jsonb",
    "parent_memory_id": "integer REFERENCES ltm_memories (id)",
    "memory_metadata": "jsonb",
    "is_archived": "boolean DEFAULT false",
    "archive_reason": "text",
}
CHILDREN = {
    "ltm_contexts": """
CREATE TABLE ltm_contexts (
    id serial PRIMARY KEY,
    memory_id integer NOT NULL REFERENCES ltm_memories (id) ON DELETE CASCADE,
    context_type varchar(50) NOT NULL,
    context_key varchar(100) NOT NULL,
    context_value text,
    confidence float DEFAULT 1.0,
    created_at timestamp DEFAULT current_timestamp
);
CREATE INDEX idx_ltm_contexts_memory ON ltm_contexts (memory_id);
CREATE INDEX idx_ltm_contexts_type_key ON ltm_contexts (context_type, context_key);
""",
    "ltm_memory_relationships": """
CREATE TABLE ltm_memory_relationships (
    id serial PRIMARY KEY,
    source_memory_id integer NOT NULL REFERENCES ltm_memories (id) ON DELETE CASCADE,
    target_memory_id integer NOT NULL REFERENCES ltm_memories (id) ON DELETE CASCADE,
    relationship_type varchar(50) NOT NULL,
    strength float DEFAULT 1.0,
    description text,
    created_at timestamp DEFAULT current_timestamp,
    last_accessed timestamp,
    UNIQUE (source_memory_id, target_memory_id, relationship_type)
);
CREATE INDEX idx_ltm_relationships_target ON ltm_memory_relationships (target_memory_id);
""",
    "ltm_memory_access": """
CREATE TABLE ltm_memory_access (
    id serial PRIMARY KEY,
    memory_id integer NOT NULL REFERENCES ltm_memories (id) ON DELETE CASCADE,
    access_timestamp timestamp DEFAULT current_timestamp,
    access_context text,
    access_method varchar(50),
    user_query text,
    was_relevant boolean,
    relevance_score float
);
CREATE INDEX idx_ltm_access_time ON ltm_memory_access (access_timestamp);
""",
    "ltm_memory_tags": """
CREATE TABLE ltm_memory_tags (
    id serial PRIMARY KEY,
    memory_id integer NOT NULL REFERENCES ltm_memories (id) ON DELETE CASCADE,
    tag_name varchar(100) NOT NULL,
    tag_category varchar(50),
    tag_importance float DEFAULT 1.0,
    tag_confidence float DEFAULT 1.0,
    usage_count integer DEFAULT 1,
    first_used timestamp DEFAULT current_timestamp,
    last_used timestamp DEFAULT current_timestamp,
    UNIQUE (memory_id, tag_name)
);
CREATE INDEX idx_ltm_tags_name ON ltm_memory_tags (tag_name);
""",
}
TABLES = ("ltm_memories", *CHILDREN)
# The way of the ORM and of dumps made by hand: nothing but columns.
L2_TYPES = (
    ("jsonb", "json"),
    ("serial PRIMARY KEY", "integer"),
    ("varchar(50)", "varchar"),
    ("varchar(100)", "varchar"),
)
ROWS = """
INSERT INTO ltm_memories (user_id, content, tags, importance_score, context, created_at,
    last_accessed)
SELECT 1 + n % 5, 'Memory ' || n || ' about tea and the number ' || n * 7,
    CASE n % 3 WHEN 0 THEN '["Work", "tea"]' WHEN 1 THEN '[]' ELSE '["tag ' || n || '"]' END::json,
    1 + n % 10, CASE WHEN n % 2 = 0 THEN 'said on day ' || n END,
    timestamp '2024-01-01 08:00' + n * interval '1 hour 7.123456 seconds',
    CASE WHEN n % 4 = 0 THEN timestamp '2025-01-01' + n * interval '1 day' END
FROM generate_series(1, {count}) AS n;
"""
DETAILS = """
UPDATE ltm_memories SET memory_type = 'fact', category = 'home', confidence_score = 0.1 + 0.2,
    context_data = '{"temporal": {"season": "winter", "confidence": 0.5},
        "weather": {"sky": "blue"},
        "custom_contexts": [{"context_type": "mine", "context_data": {"a": 1.50}}]}',
    source_type = 'conversation', source_id = 'conv_' || id, access_count = id % 9,
    memory_metadata = '{"k": [1, 2.50, null], "ü": "é"}', is_archived = id % 7 = 0
WHERE id % 2 = 0;
UPDATE ltm_memories SET related_memory_ids = jsonb_build_array(id + 5), parent_memory_id = id + 5
WHERE id % 11 = 0 AND id + 5 <= (SELECT max(id) FROM ltm_memories);
INSERT INTO ltm_contexts (memory_id, context_type, context_key, context_value, confidence)
SELECT id, 'spatial', 'city', 'Graz', 0.7 FROM ltm_memories WHERE id % 3 = 0;
INSERT INTO ltm_memory_relationships (
    source_memory_id, target_memory_id, relationship_type, strength)
SELECT id, id + 10, 'follows', 0.25 FROM ltm_memories
WHERE id % 4 = 0 AND id + 10 <= (SELECT max(id) FROM ltm_memories);
INSERT INTO ltm_memory_access (
    memory_id, access_timestamp, access_method, user_query, relevance_score)
SELECT id, timestamp '2025-03-01' + id * interval '1 minute', 'search', 'tea', 0.3
FROM ltm_memories, generate_series(1, 2) WHERE id % 2 = 1;
INSERT INTO ltm_memory_tags (memory_id, tag_name, tag_category, usage_count)
SELECT id, 'tea', 'drinks', 3 FROM ltm_memories WHERE id % 3 = 0;
"""
# Each value with what it becomes: (column, SQL value, value afterwards, whether it is reported).
DIRTY: list[tuple[str, str, object, bool]] = [
    ("tags", "NULL", None, False),
    ("tags", "'null'", "null", False),
    ("tags", """'"a string"'""", '["a string"]', True),
    ("tags", """'"a,b"'""", '["a", "b"]', True),
    ("tags", "'[]'", "[]", False),
    ("tags", """'[["x", ["y"]], "z"]'""", '["x", "y", "z"]', True),
    ("tags", """'{"name": "green"}'""", '["green"]', True),
    ("tags", "'[1, 2.50, true, null]'", '["1", "2.50", "true"]', True),
    ("tags", """'["Tea", " tea", "TEA ", "cup"]'""", '["Tea", "cup"]', True),
    ("content", "repeat('x', 1100000)", "x" * 1_048_576, True),
    ("content", "repeat('ß', 600000)", "ß" * 262_144, True),
    ("tags", "json_build_array(repeat('x', 300))", f'["{"x" * 100}"]', True),
    ("tags", """'["", " ", "a"]'""", '["a"]', True),
    ("importance_score", "NULL", None, False),
    ("importance_score", "0", 1, True),
    ("importance_score", "11", 10, True),
    ("importance_score", "-3", 1, True),
    ("confidence_score", "NULL", None, False),
    ("confidence_score", "7", 1, True),
    ("confidence_score", "'NaN'", 1, True),
    ("confidence_score", "-0.5", 0, True),
    ("dynamic_importance", "'infinity'", 1, True),
    ("created_at", "NULL", None, False),
    ("created_at", "'2999-01-01'", "2999-01-01T00:00:00", False),
    ("created_at", "'infinity'", None, True),
    ("created_at", "'4713-01-01 BC'", None, True),
    ("last_accessed", "'2001-01-01'", "2001-01-01T00:00:00", False),
    ("access_count", "-4", 0, True),
    ("access_count", "NULL", None, False),
    ("related_memory_ids", "'[999999]'", "[]", True),
    ("related_memory_ids", """'["1", 1, 1]'""", "[1]", True),
    ("related_memory_ids", "'[2]'", "[]", True),  # another user's
    ("related_memory_ids", """'"text"'""", "[]", True),
    ("related_memory_ids", "'null'", "null", False),
    ("context_data", "'null'", "null", False),
    ("context_data", "'[1]'", '{"extra": {"original": [1]}}', True),
    ("memory_metadata", "'null'", "null", False),
    ("parent_memory_id", "NULL", None, False),
    ("is_archived", "NULL", None, False),
    ("content", "''", "", False),
]
LOOSE: list[tuple[str, str, object, bool]] = [  # where no key forbids it
    ("parent_memory_id", "999999", None, True),
    ("parent_memory_id", "2", None, True),  # another user's
    ("parent_memory_id", "id", None, True),
    ("category", "repeat('c', 200)", "c" * 100, True),
    ("memory_type", "repeat('m', 60)", "m" * 50, True),
    ("content", "NULL", "", True),
    # What jsonb refuses.
    ("tags", r"""'["a\u0000b, c", "\\u0000", "d"]'""", r'["a\ufffdb, c", "\\u0000", "d"]', True),
    (
        "tags",
        r"""'["\ud83d", "\ud83d\ude00", "x\\\ude00"]'""",
        r'["\ufffd", "😀", "x\\\ufffd"]',
        True,
    ),
    ("tags", """to_json('["a, b", "c"]'::text)""", '["a, b", "c"]', True),
    ("tags", """to_json('["a, b'::text)""", r'["[\"a, b"]', True),
    (
        "memory_metadata",
        r"""'{"a": 1e999999, "b": [-2.5], "c": "\u0000"}'""",
        r'{"a": null, "b": [-2.5], "c": "\ufffd"}',
        True,
    ),
    (
        "context_data",
        r"""'{"spatial": {"city": "\u0000Graz"}}'""",
        r'{"spatial": {"city": "\ufffdGraz"}}',
        True,
    ),
]
LOOSE_ROWS = """
INSERT INTO ltm_contexts (id, memory_id, context_type, context_key, context_value) VALUES
    (9001, 888888, 'spatial', 'city', 'nowhere'), (9002, NULL, 'spatial', 'city', 'nobody');
INSERT INTO ltm_memory_relationships (
    id, source_memory_id, target_memory_id, relationship_type, strength) VALUES
    (9001, 1, 6, 'similar', 7), (9002, 1, 6, 'similar', 0.5), (9003, 1, 1, 'similar', 0.5),
    (9004, 1, 2, 'similar', 0.5), (9005, 1, 777777, 'similar', 0.5),
    (9006, 777777, 1, 'similar', 1);
INSERT INTO ltm_memory_tags (id, memory_id, tag_name, usage_count) VALUES
    (9001, 1, 'Loose', 1), (9002, 1, ' loose', 1), (9003, 1, NULL, 1), (9004, 888888, 'lost', 1);
INSERT INTO ltm_memory_access (id, memory_id, access_method) VALUES (9001, 888888, 'search');
"""


def level_1(columns: list[str] | None = None, children: list[str] | None = None) -> str:
    """The script of the original's own migration, or what of it did not fail."""
    chosen = list(ADDED) if columns is None else columns
    tables = list(CHILDREN) if children is None else children
    return (
        L0
        + "".join(f"ALTER TABLE ltm_memories ADD COLUMN {c} {ADDED[c]};\n" for c in chosen)
        + "".join(CHILDREN[name] for name in tables)
    )


def level_2() -> str:
    """All columns, no keys, no defaults, looser types."""
    lines = []
    for line in level_1().splitlines():
        if line.startswith(("CREATE INDEX", "    UNIQUE")):
            continue
        for old, new in L2_TYPES:
            if not line.startswith("CREATE TABLE users"):
                line = line.replace(old, new)
        line = line.split(" REFERENCES")[0] + (
            "," if line.endswith(",") and " REFERENCES" in line else ""
        )
        if "ADD COLUMN" in line or line.startswith("    "):
            end = line[-1] if line[-1] in ",;" else ""
            line = line.rstrip(",;").split(" DEFAULT")[0].replace(" NOT NULL", "") + end
        if line.startswith("ALTER") and not line.endswith(";"):
            line += ";"
        lines.append(line)
    return "\n".join(lines).replace(",\n)", "\n)")


def half(seed: int) -> str:
    """What is left when some statements of the original's migration failed."""
    draw = random.Random(seed)
    columns = [name for name in ADDED if draw.random() < 0.5]
    return level_1(columns, [name for name in CHILDREN if draw.random() < 0.5])


async def fill(connection: asyncpg.Connection, count: int = 60) -> None:
    """Rows for whatever tables and columns are there."""
    if not await connection.fetchval(
        "SELECT column_default IS NOT NULL FROM information_schema.columns "
        "WHERE table_name = 'ltm_memories' AND column_name = 'id' "
        "AND table_schema = current_schema()"
    ):
        await connection.execute(
            "".join(
                f"CREATE SEQUENCE s_{t}; ALTER TABLE {t} ALTER id SET DEFAULT nextval('s_{t}');"
                for t in TABLES
            )
        )
    await connection.execute(ROWS.format(count=count))
    for statement in DETAILS.split(";\n"):
        if statement.strip():
            try:
                await connection.execute(statement)
            except (asyncpg.UndefinedColumnError, asyncpg.UndefinedTableError):
                continue  # half-migrated


async def columns(connection: asyncpg.Connection) -> set[str]:
    """The columns that ltm_memories has."""
    rows = await connection.fetch(
        "SELECT column_name FROM information_schema.columns WHERE table_name = 'ltm_memories' "
        "AND table_schema = 'public'"
    )
    return {row[0] for row in rows}


async def spoil(
    connection: asyncpg.Connection, values: list[tuple[str, str, object, bool]]
) -> dict[int, tuple[str, object, bool]]:
    """Add a memory of user 1 for each value: its id with the column and what becomes of it."""
    there = await columns(connection)
    spoilt: dict[int, tuple[str, object, bool]] = {}
    not_null = {
        row[0]
        for row in await connection.fetch(
            "SELECT column_name FROM information_schema.columns "
            "WHERE table_name = 'ltm_memories' AND is_nullable = 'NO'"
        )
    }
    for column, value, after, reported in values:
        if column not in there or (value == "NULL" and column in not_null):
            continue
        id_ = await connection.fetchval(
            "INSERT INTO ltm_memories (user_id, content, tags) VALUES (2, 'spoilt', '[]') "
            "RETURNING id"
        )
        await connection.execute(f"UPDATE ltm_memories SET {column} = {value} WHERE id = {id_}")
        spoilt[id_] = (column, after, reported)
    return spoilt
