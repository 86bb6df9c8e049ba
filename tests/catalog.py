"""What a schema is, read from the catalog as lines of text that can be compared."""

import re

import asyncpg

_QUERY = """
WITH tables AS (
    SELECT c.oid, c.relname FROM pg_class AS c
    WHERE c.relnamespace = current_schema()::regnamespace
        AND c.relkind IN ('r', 'p', 'v') AND c.relname LIKE 'ltm\\_%'
        AND c.relname NOT LIKE 'ltm\\_migration%'
)
SELECT format('column %s.%s %s %s %s %s | %s', t.relname, a.attname,
    format_type(a.atttypid, a.atttypmod), CASE WHEN a.attnotnull THEN 'not null' END,
    a.attidentity::text || a.attgenerated::text,
    pg_get_expr(d.adbin, d.adrelid), col_description(t.oid, a.attnum))
FROM tables AS t JOIN pg_attribute AS a ON a.attrelid = t.oid AND a.attnum > 0
    AND NOT a.attisdropped
LEFT JOIN pg_attrdef AS d ON d.adrelid = t.oid AND d.adnum = a.attnum
UNION ALL
SELECT format('table %s %s | %s', t.relname, c.reloptions, obj_description(t.oid, 'pg_class'))
FROM tables AS t JOIN pg_class AS c ON c.oid = t.oid
UNION ALL
SELECT format('constraint %s.%s %s %s', t.relname, c.conname, pg_get_constraintdef(c.oid),
    c.convalidated)
FROM tables AS t JOIN pg_constraint AS c ON c.conrelid = t.oid AND c.contype <> 'n'
UNION ALL
SELECT format('index %s %s | %s', pg_get_indexdef(i.indexrelid), i.indisvalid,
    obj_description(i.indexrelid, 'pg_class'))
FROM tables AS t JOIN pg_index AS i ON i.indrelid = t.oid
UNION ALL
SELECT format('function %s | %s', pg_get_functiondef(p.oid), obj_description(p.oid, 'pg_proc'))
FROM pg_proc AS p
WHERE p.pronamespace = current_schema()::regnamespace AND p.proname LIKE 'ltm\\_%'
UNION ALL
SELECT format('view %s %s', t.relname, pg_get_viewdef(t.oid, true))
FROM tables AS t JOIN pg_class AS c ON c.oid = t.oid AND c.relkind = 'v'
UNION ALL
SELECT format('trigger %s', pg_get_triggerdef(g.oid))
FROM tables AS t JOIN pg_trigger AS g ON g.tgrelid = t.oid AND NOT g.tgisinternal
UNION ALL
SELECT format('sequence %s %s %s %s', s.sequencename, s.data_type, s.start_value, s.increment_by)
FROM pg_sequences AS s
WHERE s.schemaname = current_schema() AND s.sequencename LIKE 'ltm\\_%'
ORDER BY 1
"""


_OF_STEPS = re.compile(r"\bltm_(embedding|cosine)")


async def fingerprint(connection: asyncpg.Connection, *, steps: bool = False) -> list[str]:
    """Every object of the library's schema in the current schema, one text each.

    Those of the optional step `embeddings` too, if asked for; not every server can have them.
    """
    await connection.execute("SET timezone = 'UTC'")  # in which moments are shown
    found = [row[0] for row in await connection.fetch(_QUERY)]
    return [line for line in found if steps or not _OF_STEPS.search(line)]
