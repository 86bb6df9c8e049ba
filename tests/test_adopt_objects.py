"""What operators have made on the original tables: carried over, kept as a script, or refused."""

from collections.abc import AsyncIterator
from typing import NamedTuple

import asyncpg
import pytest

from ltm_store import add_memory, check_health, connect, migrate
from ltm_store.migrate.adoption import session
from tests import originals
from tests.catalog import fingerprint
from tests.conftest import EMPTY, created
from tests.old_program import DETAILS
from tests.test_adopt import run_up_to

pytestmark = pytest.mark.slow

ROLE = "ltm_test_operator"
CARRIED = {  # what makes it, and what is true where it is
    "index": (
        "CREATE INDEX by_words ON ltm_memories USING gin (to_tsvector('english', content))",
        "SELECT pg_get_indexdef('by_words'::regclass) ~ 'gin .*english'",
    ),
    "index with a condition": (
        "CREATE INDEX by_day ON ltm_memories (user_id, created_at DESC) WHERE category = 'home'",
        "SELECT pg_get_indexdef('by_day'::regclass) ~ 'created_at DESC.*WHERE .*home'",
    ),
    "unique": (
        "ALTER TABLE ltm_memories ADD CONSTRAINT one_content UNIQUE (user_id, content)",
        "SELECT contype = 'u' FROM pg_constraint WHERE conname = 'one_content' "
        "AND conrelid = 'ltm_memories'::regclass",
    ),
    "check": (
        "ALTER TABLE ltm_memories ADD CONSTRAINT has_words CHECK (length(content) > 2)",
        "SELECT convalidated FROM pg_constraint WHERE conname = 'has_words' "
        "AND conrelid = 'ltm_memories'::regclass",
    ),
    "default": (
        "ALTER TABLE ltm_memories ALTER category SET DEFAULT 'general'",
        "SELECT column_default ~ 'general' FROM information_schema.columns "
        "WHERE (table_schema, table_name, column_name) = ('public', 'ltm_memories', 'category')",
    ),
    "not null": (
        "ALTER TABLE ltm_memories ALTER importance_score SET NOT NULL",
        "SELECT attnotnull FROM pg_attribute WHERE attrelid = 'ltm_memories'::regclass "
        "AND attname = 'importance_score'",
    ),
    "comment": (
        "COMMENT ON INDEX by_day IS 'for the report of the day'",
        "SELECT obj_description('by_day'::regclass, 'pg_class') = 'for the report of the day'",
    ),
    "storage parameter": (
        "ALTER TABLE ltm_contexts SET (autovacuum_vacuum_scale_factor = 0.01)",
        "SELECT 'autovacuum_vacuum_scale_factor=0.01' = ANY(reloptions) FROM pg_class "
        "WHERE oid = 'ltm_contexts'::regclass",
    ),
    "storage": (
        "ALTER TABLE ltm_memories ALTER content SET STORAGE EXTERNAL",
        "SELECT attstorage = 'e' FROM pg_attribute WHERE attrelid = 'ltm_memories'::regclass "
        "AND attname = 'content'",
    ),
    "statistics of a column": (
        "ALTER TABLE ltm_memories ALTER category SET STATISTICS 700",
        "SELECT attstattarget = 700 FROM pg_attribute WHERE attrelid = 'ltm_memories'::regclass "
        "AND attname = 'category'",
    ),
    "statistics of several": (
        "CREATE STATISTICS kinds (dependencies) ON memory_type, category FROM ltm_memories",
        "SELECT stxnamespace = 'public'::regnamespace FROM pg_statistic_ext "
        "WHERE stxrelid = 'ltm_memories'::regclass AND stxname = 'kinds'",
    ),
    "replica identity": (
        "ALTER TABLE ltm_memory_tags REPLICA IDENTITY FULL",
        "SELECT relreplident = 'f' FROM pg_class WHERE oid = 'ltm_memory_tags'::regclass",
    ),
    "grants": (
        f"GRANT SELECT, DELETE ON ltm_memories TO {ROLE}",
        f"SELECT has_table_privilege('{ROLE}', 'ltm_memories', 'DELETE') "
        f"AND NOT has_table_privilege('{ROLE}', 'ltm_memories', 'INSERT')",
    ),
    "grants of a sequence": (
        f"GRANT USAGE ON SEQUENCE ltm_memories_id_seq TO {ROLE}",
        f"SELECT has_sequence_privilege('{ROLE}', 'ltm_memories_id_seq', 'USAGE') "
        f"AND NOT has_sequence_privilege('{ROLE}', 'ltm_contexts_id_seq', 'USAGE')",
    ),
    "step of a sequence": (
        "ALTER SEQUENCE ltm_memory_tags_id_seq INCREMENT BY 10",
        "SELECT increment_by = 10 FROM pg_sequences WHERE schemaname = 'public' "
        "AND sequencename = 'ltm_memory_tags_id_seq'",
    ),
    "foreign key out": (
        "CREATE TABLE kinds (name varchar(50) PRIMARY KEY); INSERT INTO kinds VALUES ('fact'); "
        "ALTER TABLE ltm_memories ADD CONSTRAINT a_kind FOREIGN KEY (memory_type) "
        "REFERENCES kinds (name)",
        "SELECT convalidated FROM pg_constraint WHERE conname = 'a_kind' "
        "AND conrelid = 'ltm_memories'::regclass",
    ),
}
SCRIPTED = {  # what makes it, and what the script says
    "check that ours does not hold": (
        "ALTER TABLE ltm_contexts ADD CONSTRAINT has_value CHECK (context_value IS NOT NULL)",
        "ALTER TABLE ltm_contexts ADD CONSTRAINT has_value CHECK ((context_value IS NOT NULL));",
    ),
    "default that ours has otherwise": (
        "ALTER TABLE ltm_memories ALTER importance_score SET DEFAULT 7",
        "ALTER TABLE ltm_memories ALTER importance_score SET DEFAULT 7;",
    ),
    "not null where ours writes none": (
        "ALTER TABLE ltm_contexts ALTER context_value SET NOT NULL",
        "ALTER TABLE ltm_contexts ALTER context_value SET NOT NULL;",
    ),
    "comment on a table": (
        "COMMENT ON TABLE ltm_memories IS 'ours since 2023'",
        "COMMENT ON TABLE ltm_memories IS 'ours since 2023';",
    ),
    "comment on a column": (
        "COMMENT ON COLUMN ltm_memories.content IS 'what was said'",
        "COMMENT ON COLUMN ltm_memories.content IS 'what was said';",
    ),
    "index of a function of json": (
        "CREATE INDEX by_first_tag ON ltm_memories ((json_array_length(tags)))",
        "CREATE INDEX by_first_tag ON ltm_memories USING btree (json_array_length(tags));",
    ),
    "storage parameter that ours has otherwise": (
        "ALTER TABLE ltm_memories SET (fillfactor = 60)",
        "ALTER TABLE ltm_memories SET (fillfactor = '60');",
    ),
    "unlogged": (
        "ALTER TABLE ltm_memory_access SET UNLOGGED",
        "ALTER TABLE ltm_memory_access SET UNLOGGED;",
    ),
}
REFUSED = {  # what makes it, and what the refusal says
    "view": (
        "CREATE VIEW recent AS SELECT id FROM ltm_memories",
        "the view or rule recent reads ltm_memories (drop it, and make it again afterwards)",
    ),
    "rule": (
        "CREATE RULE quiet AS ON DELETE TO users DO ALSO DELETE FROM ltm_memories WHERE id = 0",
        "the view or rule users reads ltm_memories",
    ),
    "trigger": (
        "CREATE TRIGGER t AFTER INSERT ON ltm_memories FOR EACH ROW EXECUTE FUNCTION "
        "suppress_redundant_updates_trigger()",
        "the trigger t stands on ltm_memories",
    ),
    "foreign key in": (
        "CREATE TABLE notes (memory integer CONSTRAINT of_memory REFERENCES ltm_memories (id))",
        "the foreign key of_memory of notes leads to ltm_memories (drop it, and make it again "
        "afterwards: ALTER TABLE notes ADD CONSTRAINT of_memory FOREIGN KEY (memory) REFERENCES "
        "ltm_memories(id))",
    ),
    "grants of columns": (
        "GRANT SELECT (id) ON ltm_memories TO public",
        "ltm_memories has rights on single columns",
    ),
    "row level security": (
        "ALTER TABLE ltm_contexts ENABLE ROW LEVEL SECURITY",
        "ltm_contexts has row level security (ALTER TABLE ltm_contexts DISABLE ROW LEVEL SECURITY",
    ),
    "policy": (
        "CREATE POLICY own ON ltm_memories USING (user_id = 1)",
        "ltm_memories has row level security",
    ),
    "partition": (
        "DROP TABLE ltm_memory_access; "
        "CREATE TABLE ltm_memory_access (id bigint, memory_id bigint) PARTITION BY RANGE (id)",
        "ltm_memory_access is not an ordinary table",
    ),
    "inheritance": (
        "CREATE TABLE more () INHERITS (ltm_memory_relationships)",
        "ltm_memory_relationships inherits or is inherited",
    ),
    "domain": (
        "CREATE DOMAIN kind AS varchar(50); ALTER TABLE ltm_memories ALTER memory_type TYPE kind",
        "the column ltm_memories.memory_type is of the type kind",
    ),
    "generated column": (
        "ALTER TABLE ltm_memory_tags DROP tag_category; "
        "ALTER TABLE ltm_memory_tags ADD tag_category varchar(50) "
        "GENERATED ALWAYS AS (left(tag_name, 1)) STORED",
        "the column ltm_memory_tags.tag_category is generated "
        "(ALTER TABLE ltm_memory_tags ALTER tag_category DROP EXPRESSION)",
    ),
    "moments with a time zone": (
        "ALTER TABLE ltm_memories ALTER created_at TYPE timestamptz",
        "ltm_memories.created_at is of the type timestamp with time zone (ALTER TABLE ltm_memories "
        "ALTER created_at TYPE timestamp USING created_at AT TIME ZONE 'UTC')",
    ),
    "publication of a table": (
        "CREATE PUBLICATION one FOR TABLE ltm_memories",
        "ltm_memories is in the publication one (ALTER PUBLICATION one DROP TABLE ltm_memories)",
    ),
    "publication of all tables": (
        "CREATE PUBLICATION everything FOR ALL TABLES",
        "the publication everything is for all tables, the new ones too (drop it",
    ),
    "publication of a schema": (
        "CREATE PUBLICATION here FOR TABLES IN SCHEMA public",
        "the publication here is for all tables of the schema public "
        "(ALTER PUBLICATION here DROP TABLES IN SCHEMA public",
    ),
}


class Seen(NamedTuple):
    """What the tests look at, of a database that was adopted with all of these at once."""

    carried: dict[str, object]
    finished: dict[str, object]
    script: str
    plans: list[str]
    lines: list[str]
    before: list[str]
    back: list[str]
    published: list[str]
    leads: list[str]
    problems: list[object]


async def present(connection: asyncpg.Connection) -> dict[str, object]:
    return {kind: await connection.fetchval(look) for kind, (_, look) in CARRIED.items()}


async def plans(connection: asyncpg.Connection) -> list[str]:
    """How the original application's reads of details are answered, where no table is scanned."""
    await connection.execute("SET enable_seqscan = off")
    found = [await connection.fetch("EXPLAIN " + q.replace(":id", "7")) for q in DETAILS]
    await connection.execute("RESET enable_seqscan")
    return ["\n".join(row[0] for row in plan) for plan in found]


async def script(connection: asyncpg.Connection, schema: str = "public") -> str:
    found = await connection.fetch(
        f"SELECT original FROM {schema}.ltm_adoption_report WHERE row_id IS NULL ORDER BY id"
    )
    return "".join(f"{row[0]};\n" for row in found)


@pytest.fixture(scope="module")
async def seen(admin: asyncpg.Connection, server: str) -> AsyncIterator[Seen]:
    """Adopt, go back, adopt again, and finish, with every object that is not refused."""
    await admin.execute(f"DROP ROLE IF EXISTS {ROLE}; CREATE ROLE {ROLE}")
    async for dsn in created(admin, server, EMPTY):
        old = await asyncpg.connect(dsn)
        await old.execute(originals.level_1())
        await originals.fill(old, 12)
        await old.execute("CREATE PUBLICATION elsewhere FOR TABLE users")
        for make, _ in [*CARRIED.values(), *SCRIPTED.values()]:
            await old.execute(make)
        before = await fingerprint(old)
        lines: list[str] = []
        migrate.apply(dsn, lines.append)
        carried, told, read = await present(old), await script(old), await plans(old)
        await old.execute("CREATE VIEW late AS SELECT id FROM ltm_memories")
        migrate.rollback(dsn, everything=True, report=lines.append)
        back = await fingerprint(old)
        await old.execute("DROP VIEW late; DROP SCHEMA ltm_adopted CASCADE")
        migrate.apply(dsn)
        await old.execute("CREATE TABLE notes (memory bigint REFERENCES ltm_memories (id))")
        async with connect(dsn, access_tracking="off") as db:
            memory = await add_memory(db, 1, "Ours, beside the operator's", category="home")
            await old.execute("INSERT INTO notes VALUES ($1)", memory.id)
        migrate.optional(dsn, "finish_adoption")
        leads = await old.fetch(
            "SELECT conname FROM pg_constraint WHERE confrelid = 'ltm_memories'::regclass "
            "AND conrelid = 'notes'::regclass"
        )
        published = await old.fetch("SELECT DISTINCT tablename FROM pg_publication_tables")
        yield Seen(
            carried,
            await present(old),
            told,
            read,
            lines,
            before,
            back,
            [row[0] for row in published],
            [row[0] for row in leads],
            list(await check_health(old)),
        )
        await old.close()
    await admin.execute(f"DROP ROLE {ROLE}")


@pytest.mark.parametrize("kind", CARRIED)
def test_what_ours_does_not_contradict_is_carried_over_and_stays(kind, seen):
    assert seen.carried[kind] is True
    assert seen.finished[kind] is True


@pytest.mark.parametrize("kind", SCRIPTED)
def test_what_ours_contradicts_is_kept_as_a_script(kind, seen):
    assert SCRIPTED[kind][1] in seen.script.splitlines()


def test_nothing_else_is_in_the_script(seen):
    """What the original application makes itself is no object of the operator's."""
    assert len(seen.script.splitlines()) == len(SCRIPTED)


def test_details_are_found_by_the_memory_alone_until_the_end(seen):
    for plan in seen.plans:
        assert "_original_" in plan


def test_what_is_carried_over_is_told(seen):
    assert "ltm_memories: the index by_words is carried over" in seen.lines
    assert "ltm_contexts: the check has_value is not carried over" in seen.lines
    assert any(line.startswith(f"{len(SCRIPTED)} objects of yours") for line in seen.lines)


def test_the_way_back_leaves_all_of_them_as_they_were(seen):
    assert seen.back == seen.before


def test_a_view_that_reads_what_is_put_aside_is_named(seen):
    assert any("the view or rule late reads ltm_memories" in line for line in seen.lines)


def test_a_publication_of_other_tables_stays_what_it_was(seen):
    assert seen.published == ["users"]


def test_a_foreign_key_to_memories_can_be_made_again_and_outlives_the_end(seen):
    assert seen.leads == ["notes_memory_fkey"]
    assert seen.problems == []


@pytest.fixture(scope="module")
async def refusal(admin: asyncpg.Connection, server: str) -> AsyncIterator[str]:
    """What is said to a database that has all at once that cannot be adopted."""
    async for dsn in created(admin, server, EMPTY):
        old = await asyncpg.connect(dsn)
        await old.execute(originals.level_1())
        for make, _ in REFUSED.values():
            await old.execute(make)
        before = await old.fetch("SELECT oid, relname, relnamespace FROM pg_class ORDER BY oid")
        with pytest.raises(migrate.MigrationFailed) as caught:
            migrate.apply(dsn)
        assert before == await old.fetch(
            "SELECT oid, relname, relnamespace FROM pg_class ORDER BY oid"
        )
        yield str(caught.value)
        await old.close()


@pytest.mark.parametrize("kind", REFUSED)
def test_what_cannot_be_adopted_is_refused_with_what_helps(kind, refusal):
    assert REFUSED[kind][1] in refusal


async def swap(connection: asyncpg.Connection, first: int, second: int) -> None:
    """Let two memories change their contents, which are unique."""
    found = await connection.fetch("SELECT id, content FROM ltm_memories")
    contents = {row["id"]: row["content"] for row in found}
    for id_, content in (
        (first, "between"),
        (second, contents[first]),
        (first, contents[second]),
    ):
        await connection.execute("UPDATE ltm_memories SET content = $2 WHERE id = $1", id_, content)


async def of_memories(connection: asyncpg.Connection) -> list[tuple[object, ...]]:
    """Contents and tags that somebody wrote."""
    found = await connection.fetch(
        "SELECT m.id, m.content, t.tag_name FROM ltm_memories AS m "
        "LEFT JOIN ltm_memory_tags AS t ON t.memory_id = m.id AND t.tag_category = 'drinks' "
        "ORDER BY m.id, t.id"
    )
    return [tuple(row) for row in found]


@pytest.mark.parametrize("rows", [1, 1000])
async def test_unique_values_that_change_places_are_carried_over_and_back(rows, empty, monkeypatch):
    """Also where a batch ends between the two, and where one row is gone."""
    monkeypatch.setattr(session, "BATCH_ROWS", rows)
    monkeypatch.setattr(session, "CHANGES_LEFT_BEFORE_LOCK", 0)
    old = await asyncpg.connect(empty)
    await old.execute(originals.level_1())
    await originals.fill(old, 9)
    await old.execute(
        "ALTER TABLE ltm_memories ADD CONSTRAINT one UNIQUE (content);"
        "UPDATE ltm_memory_tags SET tag_name = 'Thee' WHERE memory_id = 3"
    )
    with pytest.MonkeyPatch.context() as patch:
        run_up_to(patch, "carry_objects")
        migrate.apply(empty)
    await swap(old, 1, 2)
    await old.execute("UPDATE ltm_memory_tags SET memory_id = 8 WHERE memory_id = 3")
    before = await of_memories(old)
    migrate.apply(empty)
    assert await of_memories(old) == before
    await swap(old, 2, 3)
    freed = await old.fetchval("DELETE FROM ltm_memories WHERE id = 1 RETURNING content")
    await old.execute("UPDATE ltm_memories SET content = $1 WHERE id = 4", freed)
    await old.execute("UPDATE ltm_memory_tags SET memory_id = 3 WHERE tag_name = 'Thee'")
    before = await of_memories(old)
    migrate.rollback(empty, everything=True)
    assert await of_memories(old) == before
    await old.close()


LATE = {  # what makes it, and what the old tables take but ours could not carry over then
    "check": (
        "ALTER TABLE ltm_memory_tags ADD CONSTRAINT small CHECK (tag_name <> 'Tea')",
        "UPDATE ltm_memories SET tags = '[\"Tea\"]' WHERE id = 1",
    ),
    "unique index": (
        "CREATE UNIQUE INDEX one ON ltm_memories (archive_reason, confidence_score)",
        "UPDATE ltm_memories SET archive_reason = 'x', confidence_score = 5 + id WHERE id < 3",
    ),
    "not null": (
        "ALTER TABLE ltm_memories ALTER created_at SET NOT NULL",
        "UPDATE ltm_memories SET created_at = 'infinity' WHERE id = 1",
    ),
}


async def test_an_object_that_a_later_row_contradicts_becomes_a_part_of_the_script(empty):
    old = await asyncpg.connect(empty)
    await old.execute(originals.level_1())
    await originals.fill(old, 9)
    await old.execute("UPDATE ltm_memories SET tags = '[]'")
    for make, _ in LATE.values():
        await old.execute(make)
    await old.execute(
        "ALTER TABLE ltm_contexts ADD CONSTRAINT once UNIQUE (memory_id, context_type, context_key)"
    )
    with pytest.MonkeyPatch.context() as patch:
        run_up_to(patch, "compare")
        migrate.apply(empty)
    assert await script(old, "ltm_next") == ""
    for _, write in LATE.values():
        await old.execute(write)
    await old.execute(
        'UPDATE ltm_memories SET context_data = \'{"custom_contexts": [{"context_type": "a"}, '
        '{"context_type": "a"}]}\' WHERE id = 1'
    )
    migrate.apply(empty)
    told = await script(old)
    assert len(told.splitlines()) == len(LATE)
    for part in ("CONSTRAINT small CHECK", "UNIQUE INDEX one", "created_at SET NOT NULL"):
        assert part in told
    kept = await old.fetch(
        "SELECT tags::text, created_at, archive_reason FROM ltm_memories WHERE id = 1"
    )
    assert [tuple(row) for row in kept] == [('["Tea"]', None, "x")]
    await old.close()
