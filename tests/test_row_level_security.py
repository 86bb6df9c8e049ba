"""Row level security: what a login of ltm_app sees, writes and is told, and who is refused."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import asyncpg
import pytest
from langgraph.store.base import PutOp

from ltm_store import (
    InvalidArgument,
    PermissionDenied,
    StepMissing,
    access_history,
    add_memories,
    add_memory,
    add_tags,
    add_tags_where,
    adoption_report,
    archive_memory,
    archive_where,
    check_health,
    connect,
    count_memories,
    delete_by_key,
    delete_by_keys,
    delete_memory,
    delete_where,
    embed_memory,
    embed_missing,
    explain_search,
    export_user,
    extend_expiry,
    find_similar,
    forget_user,
    get_analytics,
    get_by_key,
    get_by_keys,
    get_memories,
    get_memory,
    get_relationships,
    get_source,
    import_user,
    iterate_memories,
    list_namespaces,
    list_sources,
    list_tags,
    list_users,
    memory_graph,
    merge_users,
    migrate,
    prune_accesses,
    purge_expired,
    put_memories,
    put_memory,
    record_access,
    record_feedback,
    relate,
    related_tags,
    remove_tags,
    rename_key,
    rename_tag,
    rename_user,
    render_report,
    restore_memory,
    search_memories,
    shortest_path,
    suggest_relationships,
    traverse,
    unrelate,
    update_importance,
    update_memory,
)
from ltm_store.db.resources import resource_dir
from ltm_store.db.statements import for_user, statements, with_shared
from ltm_store.embedders import FunctionEmbedder
from ltm_store.integrations.langgraph import LtmStore
from tests.catalog import fingerprint
from tests.conftest import created, has_vector
from tests.test_cli import invoke
from tests.test_pgbouncer import PROGRAM, pooler
from tests.test_statements import ARGUMENTS, INDEXES, NEEDS_VECTORS, index_names, shape_for
from tests.wire import wire

STEP = "row_level_security"
# Looks contents up by a hash of each, which that version takes for a leak.
SLOW_ON_15 = "add_memories_together", frozenset[str]()
OWN = "SELECT count(*) FROM ltm_memories"


def as_login(dsn: str, name: str) -> str:
    """The DSN for another login, whose password is its name."""
    parts = urlsplit(dsn)
    place = parts.netloc.rpartition("@")[2]
    return parts._replace(netloc=f"{name}:{name}@{place}").geturl()


class Bound(NamedTuple):
    """A database with the step, for its owner and three logins."""

    dsn: str
    app: str
    reader: str
    operator: str


@pytest.fixture(scope="module")
async def bound(admin, server, template) -> AsyncIterator[Bound]:
    roles = {"app": "ltm_app", "reader": "ltm_reader", "operator": "ltm_owner"}
    async for dsn in created(admin, server, template):
        migrate.optional(dsn, STEP)
        for login, role in roles.items():
            await admin.execute(f"CREATE ROLE ltm_t_{login} LOGIN PASSWORD 'ltm_t_{login}'")
            await admin.execute(f"GRANT {role} TO ltm_t_{login}")
        yield Bound(dsn, *(as_login(dsn, f"ltm_t_{login}") for login in roles))
        await admin.execute("; ".join(f"DROP ROLE ltm_t_{login}" for login in roles))
        migrate.optional(dsn, STEP, undo=True)
        left = await admin.fetch(
            "SELECT rolname FROM pg_roles WHERE rolname = ANY($1)", [*roles.values()]
        )
        assert left == []


REFUSED = (asyncpg.InsufficientPrivilegeError, asyncpg.WithCheckOptionViolationError)


async def as_user(app: asyncpg.Connection, user: str, command: str, *arguments: object) -> None:
    """Run a command in a transaction whose user is told as psql would."""
    async with app.transaction():
        await app.execute(f"SET LOCAL ltm.user_id = '{user}'")
        await app.execute(command, *arguments)


@pytest.fixture
async def app(bound) -> AsyncIterator[asyncpg.Connection]:
    """A bare connection as a login of ltm_app."""
    connection = await asyncpg.connect(bound.app)
    yield connection
    await connection.close()


@pytest.fixture
async def db(bound):
    """A Database under row level security; its users are forgotten afterwards."""
    async with connect(bound.app, row_level_security=True, access_tracking="off") as db:
        yield db
    owner = await asyncpg.connect(bound.dsn)
    await owner.execute("TRUNCATE ltm_memories, ltm_external_users CASCADE")
    await owner.close()


def some(found: Any) -> Any:
    """What is there."""
    assert found is not None
    return found


async def everything(db, user, *, vectors: bool) -> list[object]:
    """What every function of one user gives, without ids and moments."""
    said: list[object] = []
    say = said.append
    first = await add_memory(
        db, user, "Drinks green tea in Kyoto", tags=["Tea", "drink"], category="taste",
        metadata={"n": 1}, idempotency_key="first", source_id="talk", source_position=1,
        enhanced_context={"spatial": {"city": "Kyoto"}, "social": {"participants": ["Ann"]}},
    )  # fmt: skip
    report = await add_memories(
        db, user, [{"content": f"Note {n} about coffee", "tags": ["coffee"]} for n in range(12)]
    )
    say(report.created)
    say(some(await add_memory(db, user, "x", idempotency_key="first")).outcome)
    second = await add_memory(
        db, user, "Drinks black tea", tags=["tea"], related_memory_ids=[first.id],
        source_id="talk", source_position=2, parent_memory_id=first.id,
    )  # fmt: skip
    read = some(await get_memory(db, user, first.id, include_relationships=True))
    say((read.content, read.tags, read.enhanced_context.spatial.city, len(read.relationships)))
    say([m.content for m in await get_memories(db, user, [second.id, first.id])])
    filters: list[dict[str, Any]] = [
        {"query": "kyoto"}, {"query": "tea"}, {"query": "tea coffee"}, {"tags": ["tea"]},
        {"query": "teaa green", "distinct": True}, {"tags_any": ["drink", "coffee"]}, {},
        {"context_data": {"spatial": {"city": "Kyoto"}}}, {"metadata": {"n": {"$gte": 1}}},
        {"metadata": {"n": 1}}, {"phrases": ["green tea"]}, {"tags_none": ["coffee"]},
        {"order": "newest"}, {"include_archived": True}, {"source_id": "talk"},
    ]  # fmt: skip
    for given in filters:
        say([hit.content for hit in await search_memories(db, user, limit=20, **given)])
        order = given.get("order", "importance")
        given = {key: value for key, value in given.items() if key not in ("order", "distinct")}
        say(await count_memories(db, user, **given))
        if "query" not in given:
            say(len([m async for m in iterate_memories(db, user, order=order, **given)]))
    found = await explain_search(db, user, "tea", first.id, tags=["coffee"])
    say(found.causes if hasattr(found, "causes") else str(type(found)))
    changed = some(await update_memory(db, user, first.id, tags=["Tea", "hot"], metadata={"m": 2}))
    say((changed.tags, changed.metadata))
    say(some(await update_importance(db, user, first.id, 9)).importance_score)
    say(some(await archive_memory(db, user, second.id)).is_archived)
    say(some(await restore_memory(db, user, second.id)).is_archived)
    say(some(await relate(db, user, first.id, second.id, "causes")).relationship_type)
    say(sorted(r.direction for r in await get_relationships(db, user, first.id)))
    say(len(await traverse(db, user, first.id)))
    say(await shortest_path(db, user, first.id, second.id) is not None)
    say(len(await suggest_relationships(db, user, first.id)))
    say(await unrelate(db, user, first.id, second.id, "causes"))
    say(some(await add_tags(db, user, second.id, ["black"])).tags)
    say(some(await remove_tags(db, user, second.id, ["black"])).tags)
    say(await rename_tag(db, user, "coffee", "Kaffee"))
    say([(t.tag_name, t.memory_count) for t in await list_tags(db, user)])
    say([t.tag_name for t in await related_tags(db, user, "tea")])
    say(await record_access(db, user, [first.id, second.id]))
    say(await extend_expiry(db, user, [first.id, second.id]))
    say(some(await record_feedback(db, user, first.id, was_relevant=True)).was_relevant)
    say(len(await access_history(db, user, second.id)) > 0)
    say(some(await get_analytics(db, user)).total_memories)
    for content in "One", "Two":
        put = await put_memory(db, user, "k", content, namespace="a.b")
        say((put.outcome, some(await get_by_key(db, user, "k", namespace="a.b")).content))
    many = [{"key": k, "content": k, "namespace": "a.b", "tags": [k]} for k in ("m", "k")]
    say([(m.outcome, m.tags) for m in await put_memories(db, user, many)])
    say([m.key for m in await get_by_keys(db, user, [("a.b", "k"), (None, "m"), ("a.b", "m")])])
    say(await delete_by_keys(db, user, [("a.b", "m"), (None, "k")]))
    say(await rename_key(db, user, "k", "l", namespace="a.b"))
    say([n.namespace for n in await list_namespaces(db, user, counts=True)])
    say(await delete_by_key(db, user, "l", namespace="a.b"))
    say([s.memories for s in await list_sources(db, user)])
    say(len(await get_source(db, user, "talk")))
    say(await add_tags_where(db, user, ["cup"], tags_any=["kaffee"]))
    say(await archive_where(db, user, phrases=["note 4"], tags=["cup"]))
    say(await delete_where(db, user, tags=["cup"], include_archived=True))
    if vectors:
        for memory_id, vector in (first.id, [1.0, 0.0]), (second.id, [1.0, 0.1]):
            await embed_memory(db, user, memory_id, vector, embedding_model="toy")
        near = await search_memories(
            db, user, "green", query_embedding=[1.0, 0.0], embedding_model="toy"
        )
        say([hit.content for hit in near])
        say([hit.content for hit in await find_similar(db, user, first.id)])
    say(len(some(await memory_graph(db, user, first.id)).nodes))
    say("Kyoto" in await render_report(db, user))
    lines = [line async for line in export_user(db, user)]
    say(await delete_memory(db, user, second.id))
    say(await get_memory(db, user, second.id))
    counts = some(await forget_user(db, user)).counts
    say(counts | {"ltm_external_users": None})  # has a row for a name only
    say(some(await import_user(db, user, lines)).created)
    say(await count_memories(db, user))
    return said


@pytest.fixture(scope="module")
async def expected(admin, server, template) -> AsyncIterator[list[object]]:
    """What the same calls give without row level security."""
    async for dsn in created(admin, server, template):
        async with connect(dsn, access_tracking="off") as db:
            yield await everything(db, 1, vectors=await has_vector(admin))


@pytest.mark.parametrize("users", [(1, 2), ("ann", "bob")], ids=["numbers", "names"])
async def test_every_function_gives_two_users_what_it_gives_without(db, admin, expected, users):
    vectors = await has_vector(admin)
    said = await asyncio.gather(*(everything(db, user, vectors=vectors) for user in users))
    assert said == [expected, expected]


async def test_every_function_works_on_a_transaction_of_the_database(db, admin, expected):
    async with db.transaction() as connection:
        assert await everything(connection, 1, vectors=await has_vector(admin)) == expected


async def test_a_caller_who_sets_the_user_may_use_a_connection_of_its_own(db, app, admin, expected):
    async with app.transaction():
        await app.execute("SET LOCAL ltm.user_id = 1")
        assert await everything(app, 1, vectors=await has_vector(admin)) == expected
        with pytest.raises(PermissionDenied, match="another user"):
            await add_memory(app, 2, "x")


async def test_nobody_sees_or_writes_what_is_of_no_user_or_of_another(db, app):
    mine = await add_memory(db, 1, "green tea", tags=["tea"])
    theirs = await add_memory(db, 2, "black tea", tags=["tea"], related_memory_ids=[])
    tables = await app.fetch(
        "SELECT c.relname FROM pg_class AS c JOIN pg_attribute AS a ON a.attrelid = c.oid "
        "WHERE a.attname = 'user_id' AND c.relkind IN ('r', 'v') AND c.relname LIKE 'ltm\\_%'"
    )
    assert len(tables) > 14
    for (table,) in tables:
        assert await app.fetchval(f"SELECT count(*) FROM {table}") == 0, table
    async with app.transaction():
        await app.execute("SET LOCAL ltm.user_id = 1")
        for (table,) in tables:
            others = f"SELECT count(*) FROM {table} WHERE user_id IS DISTINCT FROM 1"
            assert await app.fetchval(others) == 0, table
        assert await app.fetchval(OWN) == 1
        assert await app.fetchval("SELECT count(*) FROM ltm_own_memories") == 1
        changed = "UPDATE ltm_memories SET content = 'x' WHERE user_id = 2"
        assert await app.execute(changed) == "UPDATE 0"
        assert await app.execute("DELETE FROM ltm_memories WHERE user_id = 2") == "DELETE 0"
    write = "INSERT INTO ltm_memories (user_id, content) VALUES (2, 'x')"
    tag = "INSERT INTO ltm_memory_tags (user_id, memory_id, tag_name) VALUES (2, $1, 'x')"
    give = "UPDATE {} SET user_id = 2 WHERE id = $1"
    for user, command, *arguments in (
        ("1", write),
        ("", write),
        ("1", tag, theirs.id),
        ("", tag, theirs.id),
        ("1", give.format("ltm_memories"), mine.id),
        ("1", give.format("ltm_own_memories"), mine.id),
    ):
        with pytest.raises(REFUSED):
            await as_user(app, user, command, *arguments)
    assert await get_memory(db, 1, theirs.id) is None
    assert await relate(db, 1, mine.id, theirs.id) is None


async def test_a_statement_without_its_condition_still_gives_rows_of_one_user(db):
    """The statement's own condition is not what hides the rows of others."""
    await add_memory(db, 1, "green tea", tags=["tea"])
    await add_memory(db, 2, "black tea", tags=["tea"])
    for filters in {"tags": '["tea"]'}, {}:
        statement = statements()["count_memories"]
        given = dict.fromkeys(name for name, _ in statement.parameters)
        given |= {"user_id": 1, "as_of": datetime.now(UTC), **filters}
        sql, bound = statement.bind_for_user(given)
        broken = sql.replace("m.user_id = $1", "$1::bigint > 0")
        broken = broken.replace("ltm_tag_terms($1,", "ltm_tag_terms(m.user_id,")
        assert broken != sql
        async with db.transaction() as connection:
            assert await connection.fetchval(broken, *bound) == 1


async def test_the_user_of_a_call_is_told_in_its_round_trip_and_forgotten_with_it(bound, db):
    async with (
        wire(bound.app) as proxy,
        connect(proxy.dsn, row_level_security=True, max_size=1, access_tracking="off") as db,
    ):
        memory = await add_memory(db, 1, "green tea")
        await search_memories(db, 1, "tea")
        await get_memory(db, 1, memory.id)
        for user, hits in (1, 1), (2, 0):
            before = proxy.round_trips
            assert len(await search_memories(db, user, "tea")) == hits
            assert (await get_memory(db, user, memory.id) is not None) is bool(hits)
            await add_memory(db, user, "coffee")
            assert proxy.round_trips - before == 3
        async with db.transaction() as connection:
            assert not await connection.fetchval("SELECT current_setting('ltm.user_id', TRUE)")
            assert await connection.fetchval(OWN) == 0


async def test_every_access_is_counted_for_its_own_user(bound, db):
    users = range(1, 8)
    memories = {user: await add_memory(db, user, "tea") for user in users}
    async with connect(bound.app, row_level_security=True) as tracking:
        for _ in range(3):
            await asyncio.gather(*(get_memory(tracking, u, memories[u].id) for u in users))
        await tracking.flush()
        assert tracking.stats().recorded == 21
    for user in users:
        assert some(await get_memory(db, user, memories[user].id)).access_count == 3


async def test_reads_that_share_a_statement_are_of_one_user(db, caplog):
    caplog.set_level(logging.DEBUG, "ltm_store.statements")
    memories = {user: await add_memory(db, user, "tea") for user in (1, 2, 3)}
    asked = [(user, of) for _ in range(8) for user in memories for of in memories]
    read = await asyncio.gather(*(get_memory(db, user, memories[of].id) for user, of in asked))
    assert [memory is not None for memory in read] == [user == of for user, of in asked]
    assert "get_memories_together" in caplog.text  # or each went alone after a refusal


OPERATORS = {
    "list_users": lambda db: list_users(db),
    "check_health": lambda db: check_health(db),
    "purge_expired": lambda db: purge_expired(db),
    "prune_accesses": lambda db: prune_accesses(db, datetime(2020, 1, 1, tzinfo=UTC)),
    "merge_users": lambda db: merge_users(db, 1, 2),
    "rename_user": lambda db: rename_user(db, "ann", "anna"),
    "adoption_report": lambda db: adoption_report(db),
}


@pytest.mark.parametrize("call", OPERATORS.values(), ids=OPERATORS.keys())
async def test_what_reads_all_users_is_for_operators(bound, db, call):
    await add_memory(db, 1, "tea")
    await add_memory(db, "ann", "tea")
    with pytest.raises(PermissionDenied, match="as an operator"):
        await call(db)
    async with connect(bound.operator) as operator:
        await call(operator)


@pytest.mark.usefixtures("vectors")
async def test_the_store_of_langgraph_is_bound_to_the_user_of_each_namespace(bound, db):
    """What is of one user works, also in one batch of several; what is of all is for operators."""

    def embed(texts):
        return [[1.0 * text.count("tea"), 1.0] for text in texts]

    store = LtmStore(db, index={"dims": 2, "embed": embed}, ttl={"default_ttl": 5})
    puts = [PutOp((user, "x"), key, {"of": user}) for user in ("7", "ann") for key in ("a", "b")]
    await store.abatch(puts)
    await store.aput(("ann", "x"), "a", {"of": "ann", "drinks": "tea"})
    await store.adelete(("7", "x"), "b")

    for refresh in True, False:
        found = await store.asearch(("ann",), query="tea", refresh_ttl=refresh)
        assert [item.key for item in found] == ["a", "b"]
        assert some(await store.aget(("7", "x"), "a", refresh_ttl=refresh)).value == {"of": "7"}
        assert await store.aget(("7", "x"), "b", refresh_ttl=refresh) is None
    assert [i.key for i in await store.asearch(("7",), filter={"of": {"$ne": "ann"}})] == ["a"]
    assert await store.alist_namespaces(prefix=("ann",)) == [("ann", "x")]
    for call in store.asearch(()), store.alist_namespaces(), store.sweep_ttl():
        with pytest.raises(PermissionDenied, match="as an operator"):
            await call
    with pytest.raises(PermissionDenied, match="as an operator"):
        await store.start_ttl_sweeper()
    await store.aclose()
    async with connect(bound.operator) as operator:
        store = LtmStore(operator)
        assert len(await store.asearch(())) == 3
        assert await store.sweep_ttl() == 0
        await store.aclose()


async def test_an_operator_works_for_every_user(bound, db):
    memory = await add_memory(db, 1, "tea", expires_at=datetime(2099, 1, 1, tzinfo=UTC))
    await add_memory(db, "ann", "tea")
    async with connect(bound.operator) as operator:
        assert [user.memories for user in await list_users(operator)] == [1, 1]
        assert some(await update_importance(operator, 1, memory.id, 9)).importance_score == 9
        assert some(await archive_memory(operator, 1, memory.id)).is_archived
        assert len(await search_memories(operator, 1, include_archived=True)) == 1
        assert await purge_expired(operator, as_of=datetime(2100, 1, 1, tzinfo=UTC)) == 1
        assert some(await merge_users(operator, "ann", 1)).counts["ltm_memories"] == 1
        assert [p for p in await check_health(operator) if p.check_name != "dead_rows"] == []
    async with connect(bound.app, row_level_security=True) as other:  # which remembers no name
        assert len(await search_memories(other, "ann", "tea")) == 1


async def test_a_reader_reads_and_is_told_that_it_cannot_write(bound, db):
    memory = await add_memory(db, "ann", "green tea")
    async with connect(bound.reader, row_level_security=True, access_tracking="off") as reader:
        assert len(await search_memories(reader, "ann", "tea")) == 1
        assert await search_memories(reader, "unknown") == []
        with pytest.raises(PermissionDenied):
            await update_importance(reader, "ann", memory.id, 9)
        with pytest.raises(PermissionDenied):
            await add_memory(reader, "bob", "x")


async def test_a_login_that_is_not_kept_to_one_user_is_refused(bound, admin):
    for dsn, why in (bound.dsn, "a superuser"), (bound.operator, "an operator"):
        with pytest.raises(InvalidArgument, match=f"^row_level_security: .* this is {why}"):
            await connect(dsn, row_level_security=True)
    await admin.execute("ALTER ROLE ltm_t_app BYPASSRLS")
    try:
        with pytest.raises(InvalidArgument, match="this is one with BYPASSRLS"):
            await connect(bound.app, row_level_security=True)
    finally:
        await admin.execute("ALTER ROLE ltm_t_app NOBYPASSRLS")
    owner = await asyncpg.connect(bound.dsn)
    await owner.execute("ALTER TABLE ltm_contexts DISABLE ROW LEVEL SECURITY")
    try:
        with pytest.raises(InvalidArgument, match="one that no policy of ltm_contexts binds"):
            await connect(bound.app, row_level_security=True)
    finally:
        await owner.execute("ALTER TABLE ltm_contexts ENABLE ROW LEVEL SECURITY")
        await owner.close()


async def test_a_login_that_policies_bind_is_refused_where_it_does_not_ask_for_it(bound):
    for dsn in bound.app, bound.reader:
        with pytest.raises(InvalidArgument, match="^row_level_security: should be True"):
            await connect(dsn)


async def test_without_the_step_it_is_named(dsn):
    with pytest.raises(StepMissing) as caught:
        await connect(dsn, row_level_security=True)
    assert caught.value.pending == (STEP,)


@pytest.mark.skipif(PROGRAM is None, reason="no pgbouncer on this machine")
async def test_the_user_does_not_stay_behind_a_pooler(bound, db, admin, expected):
    """Many tasks on two sessions of the server, so that each call may have another one."""
    vectors = await has_vector(admin)
    with pooler(bound.app, sessions=2) as pooled:
        async with connect(
            pooled, pgbouncer=True, row_level_security=True, access_tracking="off"
        ) as db:
            users = [1, 2, "ann", "bob"]
            said = await asyncio.gather(*(everything(db, user, vectors=vectors) for user in users))
            for told in said:
                assert told == expected
        raw = await asyncpg.connect(pooled, statement_cache_size=0)
        for _ in range(4):
            assert not await raw.fetchval("SELECT current_setting('ltm.user_id', TRUE)")
            assert await raw.fetchval(OWN) == 0
        await raw.close()


@pytest.fixture
async def filled_and_bound(filled, bound):
    """The filled database as a role of ltm_app sees it, until the test ends."""
    transaction = filled.transaction()
    await transaction.start()
    step = resource_dir("migrations") / "optional" / f"{STEP}.sql"
    await filled.execute(with_shared(step.read_text()))
    await filled.execute("SET LOCAL ROLE ltm_app")
    yield filled
    await transaction.rollback()


@pytest.mark.slow
async def test_every_statement_keeps_its_index(filled_and_bound):
    """Those of tests/test_statements.py, for a role that policies bind."""
    vectors = await has_vector(filled_and_bound)
    slow = {}
    for (name, given), wanted in INDEXES.items():
        statement, shape = statements()[name], shape_for(statements()[name], given)
        if statement.all_users or (NEEDS_VECTORS.search(shape.sql) and not vectors):
            continue
        sql = for_user(shape.sql, len(shape.names) + 1)
        arguments = [*(ARGUMENTS.get(key) for key in shape.names), ARGUMENTS["user_id"]]
        plan = await filled_and_bound.fetchval(f"EXPLAIN (FORMAT JSON) {sql}", *arguments)
        used = index_names(json.loads(plan))
        missing = [one for one in wanted if not used.intersection(one.split(" or "))]
        if missing or "Seq Scan" in plan:
            slow[name, given] = missing
    if filled_and_bound.get_server_version().major == 15:
        slow.pop(SLOW_ON_15, None)
    assert slow == {}


POLICIES = """
SELECT concat_ws(' ', 'policy', p.polname, p.polrelid::regclass) FROM pg_policy AS p
UNION ALL
SELECT concat_ws(' ', c.relname, c.relrowsecurity, c.relforcerowsecurity, c.relowner::regrole,
    array(SELECT x::text FROM aclexplode(coalesce(c.relacl, acldefault('r', c.relowner))) AS x
    ORDER BY 1))
FROM pg_class AS c WHERE c.relname LIKE 'ltm\\_%' AND c.relkind IN ('r', 'v')
UNION ALL
SELECT concat_ws(' ', p.proname, p.proowner::regrole) FROM pg_proc AS p
WHERE p.proname LIKE 'ltm\\_%'
UNION ALL
SELECT concat_ws(' ', 'type', t.typname) FROM pg_type AS t WHERE t.typname LIKE 'ltm\\_as%'
ORDER BY 1
"""


async def catalog(connection: asyncpg.Connection) -> list[str]:
    """The schema, who owns it, and who has which rights and policies."""
    policies = [row[0] for row in await connection.fetch(POLICIES)]
    return [*await fingerprint(connection, steps=True), *policies]


async def test_undone_it_leaves_nothing_and_the_roles_that_others_hold(bound, own_dsn):
    connection = await asyncpg.connect(own_dsn)
    before = await catalog(connection)
    migrate.optional(own_dsn, STEP)
    done = await catalog(connection)
    migrate.optional(own_dsn, STEP)
    assert await catalog(connection) == done != before
    told: list[str] = []
    migrate.optional(own_dsn, STEP, undo=True, report=told.append)
    assert await catalog(connection) == before
    names = "ltm_owner", "ltm_app", "ltm_reader"
    assert told == [f"the role {name} stays: others are members of it" for name in names]
    await connection.close()


async def test_tables_that_come_and_go_with_other_steps_have_policies(bound, own_dsn, vectors):
    connection = await asyncpg.connect(own_dsn)
    app = as_login(own_dsn, "ltm_t_app")
    migrate.optional(own_dsn, "embeddings", undo=True)
    migrate.optional(own_dsn, STEP)
    async with connect(app, row_level_security=True) as db:
        memory = await add_memory(db, 1, "green tea", tags=["tea"])
        assert len(await search_memories(db, 1, "tea", tags=["tea"])) == 1
        migrate.optional(own_dsn, "embeddings")
        assert await embed_memory(db, 1, memory.id, [1.0, 0.0], embedding_model="toy")
        assert await search_memories(db, 1, query_embedding=[1.0, 0.0], embedding_model="toy")
        assert not await search_memories(db, 2, query_embedding=[1.0, 0.0], embedding_model="toy")
    assert await connection.fetchval("SELECT row_security_active('ltm_embeddings')") is False
    bare = await asyncpg.connect(app)
    assert await bare.fetchval("SELECT row_security_active('ltm_embeddings')")
    assert await bare.fetchval("SELECT count(*) FROM ltm_embeddings") == 0
    await bare.close()
    migrate.optional(own_dsn, "embeddings", undo=True)
    # A migration that is rolled back and applied again finds its table bound.
    migrate.rollback(own_dsn)
    migrate.apply(own_dsn)
    async with connect(app, row_level_security=True) as db:
        assert len(await search_memories(db, 1, "tea", tags=["tea"])) == 1
    migrate.rollback(own_dsn, everything=True)
    left = "SELECT count(*) FROM pg_class WHERE relname LIKE 'ltm\\_%' AND relname !~ 'migration'"
    assert await connection.fetchval(left) == 0
    await connection.close()


async def test_vectors_are_made_of_what_its_own_calls_wrote(bound, db, vectors):
    embedder = FunctionEmbedder("toy", 2, lambda texts: [[1.0, len(text)] for text in texts])
    async with connect(bound.app, row_level_security=True, embedder=embedder) as embedding:
        memory = await add_memory(embedding, 1, "green tea")
        await add_memories(embedding, 2, [{"content": f"note {n}"} for n in range(20)])
        await embedding.flush()
        for user, hits in (1, 1), (2, 20):
            found = await search_memories(embedding, user, "x", limit=50)
            assert [hit.meaning_score is not None for hit in found] == [True] * hits
        other = await add_memory(db, 1, "black tea")
        assert await embed_missing(embedding, 1) == 1
        assert {hit.id for hit in await find_similar(embedding, 1, memory.id)} == {other.id}
        with pytest.raises(PermissionDenied):
            await embed_missing(embedding)


async def test_the_owner_of_the_tables_is_bound_too_and_may_run_the_step(admin, bound, empty):
    """One who is no superuser, and no member of ltm_owner but while the step runs."""
    await admin.execute("CREATE ROLE ltm_t_owner LOGIN CREATEROLE PASSWORD 'ltm_t_owner'")
    if admin.get_server_version().major > 15:
        await admin.execute(
            "GRANT ltm_owner TO ltm_t_owner WITH ADMIN TRUE, INHERIT FALSE, SET FALSE"
        )
    name = urlsplit(empty).path[1:]
    await admin.execute(f"ALTER DATABASE {name} OWNER TO ltm_t_owner")
    owner = as_login(empty, "ltm_t_owner")
    try:
        migrate.apply(owner)
        async with connect(owner) as before:
            migrate.optional(owner, STEP)
            with pytest.raises(PermissionDenied, match=r"connect\(row_level_security=True\)"):
                await search_memories(before, 1)
        migrate.optional(owner, STEP)
        with pytest.raises(InvalidArgument, match="should be True"):
            await connect(owner)
        async with connect(owner, row_level_security=True) as db:
            memory = await add_memory(db, "ann", "green tea", tags=["tea"])
            await add_memory(db, 1, "black tea")
            assert len(await search_memories(db, "ann", "tea")) == 1
            async with db.transaction() as own:
                assert await own.fetchval(OWN) == 0
        async with connect(as_login(empty, "ltm_t_operator")) as operator:
            assert some(await archive_memory(operator, "ann", memory.id)).is_archived
        with pytest.raises(migrate.MigrationFailed, match="row-level security"):
            migrate.memories_lost(owner, everything=True)
        migrate.optional(owner, STEP, undo=True)
        async with connect(owner) as db:
            assert len(await search_memories(db, 1)) == 1
        migrate.rollback(owner, everything=True)
    finally:
        await admin.execute(f"ALTER DATABASE {name} OWNER TO CURRENT_USER")
        connection = await asyncpg.connect(empty)
        await connection.execute("REASSIGN OWNED BY ltm_t_owner TO CURRENT_USER")
        await connection.execute("DROP OWNED BY ltm_t_owner")
        await connection.close()
        await admin.execute("DROP ROLE ltm_t_owner")


async def test_the_command_line_takes_such_a_login(bound, db):
    await add_memory(db, "ann", "green tea")
    found = invoke("--dsn", bound.app, "--row-level-security", "search", "tea", "--user", "ann")
    assert (found.exit_code, "green tea" in found.stdout) == (0, True)
    unknown = invoke("--dsn", bound.app, "--row-level-security", "search", "tea", "--user", "bob")
    assert "no memories of 'bob'" in unknown.stderr
    refused = invoke("--dsn", bound.app, "--row-level-security", "health")
    assert (refused.exit_code, "as an operator" in refused.stderr) == (1, True)
    assert invoke("--dsn", bound.operator, "health").exit_code == 0
