"""The contract of every named statement, in every shape it can take."""

import ast as python
import importlib
import itertools
import json
import pkgutil
import re
from collections.abc import Container, Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import asyncpg
import pglast
import psycopg
import pytest
from pglast import ast
from pglast.stream import RawStream
from pglast.visitors import Visitor

import ltm_store.model
from ltm_store import add_memories, put_memories
from ltm_store.db.resources import resource_dir
from ltm_store.db.statements import Shape, Statement, shared_blocks, statements
from ltm_store.migrate.views import views
from tests import isolation, servers
from tests.conftest import has_vector
from tests.populate import populate

ALL = statements()
PYTHON = "\n".join(  # the tools of integrations bear the names of functions
    p.read_text()
    for p in Path(ltm_store.__file__).parent.rglob("*.py")
    if p.stem != "__init__" and p.parent.name != "integrations"
)
MODELS = {
    name: found
    for module in pkgutil.iter_modules(ltm_store.model.__path__, "ltm_store.model.")
    for name, found in vars(importlib.import_module(module.name)).items()
}
FEW = 6  # conditions, of which every combination is tried
FILTERS = {name for name, _ in shared_blocks()["filters"].parameters}
EVERY_PAIR = "list_memories"  # of filters is tried in this statement, which stands for the others


def shapes(
    statement: Statement, always: Container[str] = (), *, together: int = 2
) -> Iterator[Shape]:
    """Every shape; of many conditions that with none, each, every pair and all of them.

    together: 1 leaves out the pairs, where they say nothing that their parts do not.
    """
    names = [name for name in statement.conditions if name not in always]
    counts = range(len(names) + 1) if len(names) <= FEW else (*range(together + 1), len(names))
    for count in counts:
        for given in itertools.combinations(names, count):
            if count != 2 or statement.name == EVERY_PAIR or not FILTERS.issuperset(given):
                yield statement.shape(
                    tuple(name in given or name in always for name in statement.conditions)
                )


NEEDS_VECTORS = re.compile(r"\bltm_(embedding|cosine)")


async def preparable(
    statement: Statement,
    connection: asyncpg.Connection,
    always: Container[str] = (),
    *,
    together: int = 2,
) -> list[Shape]:
    """The shapes that this server can have; not all have the extension vector.

    (What row level security needs is tried where it is.)
    """
    if statement.step == "row_level_security":
        return []
    found = list(shapes(statement, always, together=together))
    if await has_vector(connection):
        return found
    return [shape for shape in found if not NEEDS_VECTORS.search(shape.sql)]


def each(statements: Iterable[Statement]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize(
        "statement", list(statements), ids=lambda statement: statement.name
    )


every_statement = each(ALL.values())


def columns_of(model_name: str) -> tuple[set[str], set[str]]:
    """The fields that a row must have, and those that it may have."""
    fields = MODELS[model_name].model_fields
    required = {name for name, field in fields.items() if field.is_required()}
    return required, set(fields)


async def test_no_connection_asks_for_the_types_that_statements_have(db, session_conn):
    asked: list[str] = []
    async with db.transaction() as connection:
        connection.add_query_logger(lambda record: asked.append(record.query))
        for statement in ALL.values():
            for shape in await preparable(statement, session_conn, together=1):
                await connection.prepare(shape.sql)
        assert asked == []


@every_statement
def test_header(statement):
    assert statement.meaning.endswith(".")
    names = [name for name, _ in statement.parameters]
    assert len(names) == len(set(names))
    types = [type_ for _, type_ in statement.parameters]
    assert "flag" not in types[: len(types) - types.count("flag")], "flags come last"
    sent = {name for name, type_ in statement.parameters if type_ != "flag"}
    assert set(itertools.chain(*(shape.names for shape in shapes(statement)))) == sent


@every_statement
async def test_parameters_and_columns_are_what_the_header_and_the_model_say(
    statement, session_conn: asyncpg.Connection
):
    for shape in await preparable(statement, session_conn):
        prepared = await session_conn.prepare(shape.sql)
        types = [dict(statement.parameters)[name] for name in shape.names]
        oids = await session_conn.fetchval(
            "SELECT array_agg(to_regtype(t)::oid) FROM unnest($1::text[]) AS t", types
        )
        assert [p.oid for p in prepared.get_parameters()] == (oids or [])
        names = [a.name for a in prepared.get_attributes()]
        assert len(names) == len(set(names))
        if statement.model is not None:
            required, allowed = columns_of(statement.model)
            assert required <= set(names) <= allowed
        elif statement.kind == "one":
            assert len(names) == 1
        elif statement.name == "write_accesses":
            assert names in (["recorded", "busy"], ["memory_id"])
        elif statement.name == "get_memories_together":
            required, allowed = columns_of("Memory")
            assert required <= set(names[:-1]) <= allowed
            assert names[-1] == "is_large"


@each(s for s in ALL.values() if s.model)
async def test_a_column_that_may_be_null_is_optional_in_the_model(statement, shared, session_conn):
    """Of columns that come straight from a table; expressions are proved by behaviour."""
    fields = MODELS[statement.model].model_fields
    rows = await session_conn.fetch("SELECT attrelid, attnum, attnotnull FROM pg_attribute")
    is_required = {(row[0], row[1]): row[2] for row in rows}
    async with await psycopg.AsyncConnection.connect(shared) as connection:
        for shape in await preparable(statement, session_conn, together=1):
            connection.pgconn.prepare(b"s", shape.sql.encode())
            described = connection.pgconn.describe_prepared(b"s")
            for i in range(described.nfields):
                column = described.ftable(i), described.ftablecol(i)
                if not column[0]:
                    continue
                name = (described.fname(i) or b"").decode()
                annotation = fields[name].annotation
                optional = annotation is not None and type(None) in getattr(
                    annotation, "__args__", ()
                )
                assert optional is not is_required[column], name
            connection.pgconn.exec_(b"DEALLOCATE s")


class _Stars(Visitor):
    """Each star of a statement, by its alias, and the names of the CTEs."""

    def __init__(self) -> None:
        super().__init__()
        self.common: set[str] = set()
        self.stars: list[str] = []

    def visit_CommonTableExpr(self, ancestors, node):
        self.common.add(node.ctename)

    def visit_ColumnRef(self, ancestors, node):
        inner = ancestors.find_nearest(ast.RangeSubselect)
        if isinstance(node.fields[-1], ast.A_Star) and inner is None:
            self.stars.append(getattr(node.fields[0], "sval", "*"))


@each(s for s in ALL.values() if not s.all_users and s.kind != "many-users")
def test_every_table_reference_is_of_one_user(statement):
    """`user_id = $1` in each scope, so that a distributed database asks one shard, too."""
    assert statement.parameters[0] == ("user_id", "bigint")
    for shape in shapes(statement):
        references, unbound = isolation.read(shape.sql, isolation.OF_ONE_USER)
        assert references
        assert shape.names[0] == "user_id"
        assert unbound == []


@each(s for s in ALL.values() if s.kind == "many-users")
def test_every_table_reference_is_of_a_user_of_the_driving_list(statement):
    """Each is joined to the list, or to a part of it, by user_id."""
    assert statement.name in ("get_memories_together", "write_accesses")
    assert statement.parameters[0] == ("user_ids", "bigint[]")
    for shape in shapes(statement):
        if "one_user" in shape.names:  # tests/test_citus.py tells how many shards it reads
            continue
        references, unbound = isolation.read(shape.sql, isolation.OF_A_LIST)
        assert references
        assert unbound == []


LEAKS = {
    "SELECT m.id FROM ltm_memories AS m WHERE m.user_id = $1 OR m.id = $2": "ltm_memories AS m",
    "SELECT m.id FROM ltm_memories AS m WHERE m.user_id = $2 AND m.id = $1": "ltm_memories AS m",
    "SELECT 1 FROM ltm_a AS a LEFT JOIN ltm_b AS b ON a.user_id = $1 AND b.user_id = $1": (
        "ltm_a AS a"
    ),
    "SELECT 1 FROM ltm_a AS a JOIN ltm_b AS b ON a.id = b.id WHERE a.user_id = $1": "ltm_b AS b",
    "WITH x AS (SELECT a.id FROM ltm_a AS a) SELECT 1 FROM x JOIN ltm_b AS b ON b.id = x.id "
    "WHERE b.user_id = $1": "ltm_a AS a",
    "SELECT 1 FROM ltm_a AS a WHERE a.user_id = $1 "
    "AND EXISTS (SELECT 1 FROM ltm_b AS b WHERE b.id = a.id AND a.user_id = $1)": "ltm_b AS b",
    "SELECT (SELECT b.id FROM ltm_a AS b) FROM ltm_a AS a WHERE a.user_id = $1": "ltm_a AS b",
    "SELECT 1 FROM ltm_a AS a JOIN ltm_b AS b ON a.id IN (SELECT c.id FROM ltm_c AS c) "
    "WHERE a.user_id = $1 AND b.user_id = $1": "ltm_c AS c",
    "UPDATE ltm_a AS a SET x = b.x FROM ltm_b AS b WHERE a.user_id = $1 AND a.id = b.id": (
        "ltm_b AS b"
    ),
    "UPDATE ltm_a AS a SET user_id = $2 WHERE a.user_id = $1": "SET user_id",
    "DELETE FROM ltm_a AS a USING ltm_b AS b WHERE b.user_id = $1 AND a.id = b.id": "ltm_a AS a",
    "INSERT INTO ltm_a (id, user_id) SELECT $1, $2": "a row for ltm_a",
    "INSERT INTO ltm_a (id) SELECT $1": "a row for ltm_a",
    "INSERT INTO ltm_a (user_id) VALUES ($1) ON CONFLICT (id) DO UPDATE SET x = 1": (
        "a conflict of ltm_a"
    ),
}


@pytest.mark.parametrize("sql", LEAKS)
def test_a_reference_without_a_user_in_its_scope_is_seen(sql):
    assert isolation.read(sql, isolation.OF_ONE_USER)[1] == [LEAKS[sql]]


def test_statements_for_all_users_are_few_and_known():
    assert {name for name, s in ALL.items() if s.all_users} == {
        "adoption_repairs",
        "adoption_report",
        "applied_migrations",
        "check_health",
        "drop_access_partition",
        "embedding_problems",
        "embedding_status",
        "expired_memories",
        "find_schema_dangers",
        "find_unembedded",
        "has_embeddings",
        "find_distribution",
        "find_user",
        "find_user_by_function",
        "forget_name",
        "free_expired_keys",
        "intern_user",
        "intern_user_by_function",
        "list_users",
        "lift_timeouts",
        "lift_session_timeouts",
        "drop_unfinished_index",
        "vector_indexes",
        "draw_memories",
        "draw_memory_id",
        "lock_names",
        "lock_user",
        "make_access_partition",
        "may_copy",
        "copy_contexts",
        "copy_embeddings",
        "copy_memories",
        "copy_relationships",
        "copy_tags",
        "copy_user_accesses",
        "draw_numbers",
        "keys_of_both",
        "move_repairs",
        "numbers_of_both",
        "redirect_names",
        "primary_position",
        "prune_accesses",
        "rename_user",
        "standby_position",
        "find_row_level_security",
    }


@every_statement
def test_columns_are_named(statement):
    """No star but in an inner SELECT, whose reader names the columns, or over a CTE that does."""
    for shape in shapes(statement, together=1):
        stars = _Stars()
        stars(pglast.parse_sql(shape.sql))
        for star in stars.stars:
            assert re.search(rf"\b({'|'.join(stars.common)}) AS {star}\b", shape.sql)


UNIQUE = {
    *("id", "place", "tag_name", "migration_id", "detail", "rule", "user_id", "namespace"),
    *("source_id", "part", "model", "relname"),
}


@each(s for s in ALL.values() if s.kind == "many")
def test_many_rows_have_a_total_order_and_a_limit(statement):
    for shape in shapes(statement, together=1):
        select = pglast.parse_sql(shape.sql)[0].stmt
        assert select.limitCount is not None
        node = select.sortClause[-1].node
        last = (node.arg if isinstance(node, ast.CollateClause) else node).fields[-1].sval
        assert last in UNIQUE


@every_statement
def test_each_statement_has_one_caller(statement):
    assert PYTHON.count(f'"{statement.name}"') == 1


class _Calls(python.NodeVisitor):
    """The calls of statements in the library: the statement and the names of the arguments."""

    def __init__(self) -> None:
        self.found: list[tuple[str, set[str], bool]] = []

    def visit_Call(self, node: python.Call) -> None:
        self.generic_visit(node)
        name = getattr(node.func, "id", "")
        if name in ("fetch_rows", "fetch_value", "fetch_one", "fetch_many"):
            assert len(node.args) == (2 if name in ("fetch_rows", "fetch_value") else 3)
            if isinstance(node.args[1], python.Constant):
                names = {keyword.arg for keyword in node.keywords if keyword.arg}
                spread = any(keyword.arg is None for keyword in node.keywords)
                self.found.append((str(node.args[1].value), names, spread))


def calls() -> list[tuple[str, set[str], bool]]:
    visitor = _Calls()
    visitor.visit(python.parse(PYTHON.replace("from __future__ import annotations", "")))
    return visitor.found


def test_arguments_are_bound_by_the_names_of_the_header():
    """No argument by place; where names come from a mapping, those beside it are checked."""
    found = calls()
    assert len(found) > 40
    for statement, names, spread in found:
        wanted = {name for name, _ in ALL[statement].parameters}
        assert names <= wanted if spread else names == wanted, statement


@pytest.mark.parametrize("change", [{"memory": 2}, {"as_of": None, "memory_id": 2, "x": 1}])
def test_a_missing_or_unknown_argument_is_refused_at_the_call(change):
    with pytest.raises(TypeError, match=r"get_memory: missing .* unknown"):
        ALL["get_memory"].bind({"user_id": 1, "include_relationships": False, **change})


def shape_for(statement: Statement, given: Container[str]) -> Shape:
    return statement.shape(tuple(name in given for name in statement.conditions))


# What is sorted by, or is the least or the greatest, without a collation: it is no text.
NO_TEXT = re.compile(
    r"(\w+_)?(id|ids|rank|place|position|strength|score|count|memories|user_id|step|depth|month)$"
    r"|(\w+_)?(point|points|part|seen|at|modified|timestamp|used|accessed|attnum|size|importance)$"
    r"|(\w+_)?(relationships|is_lent|jaccard|nearness|positions|terms|dimensions)$"
)


class _Sorts(Visitor):
    """What a statement sorts by or takes the least or the greatest of."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[ast.Node] = []

    def visit_SelectStmt(self, ancestors, node):
        first = node
        while first.larg:
            first = first.larg
        columns = {target.name: target.val for target in first.targetList or () if target.name}
        for sort in node.sortClause or ():
            self.found.append(columns.get(RawStream()(sort.node), sort.node))

    def visit_WindowDef(self, ancestors, node):
        self.found += [sort.node for sort in node.orderClause or ()]

    def visit_FuncCall(self, ancestors, node):
        self.found += [sort.node for sort in node.agg_order or ()]
        if node.funcname[-1].sval in ("min", "max"):
            self.found += node.args


NUMBERS = ("count", "sum", "abs", "ltm_path_strength", "ltm_cosine", "ltm_embedding_distance")


def is_free_of_the_collation(node: ast.Node) -> bool:
    match node:
        case ast.CollateClause():
            return bool(node.collname[-1].sval == "C")
        case ast.ColumnRef():
            name = node.fields[-1].sval
            return NO_TEXT.match(name) is not None or name == "tag_name"  # list_tags gives it one
        case ast.FuncCall() if node.funcname[-1].sval in ("min", "max"):
            return is_free_of_the_collation(node.args[0])
        case ast.FuncCall():
            return str(node.funcname[-1].sval) in NUMBERS
        case ast.TypeCast():
            return str(node.typeName.names[-1].sval) in ("int4", "int8", "float8")
        case ast.A_Expr() if node.name[-1].sval in ("+", "-", "*", "/"):
            return True
        case ast.CoalesceExpr():
            return is_free_of_the_collation(node.args[0])
        case ast.A_Expr():  # what is explicit for one side is for the result
            return any(isinstance(side, ast.CollateClause) for side in (node.lexpr, node.rexpr))
    return isinstance(node, ast.A_Const | ast.A_Indirection | ast.NullTest)


def every_text() -> Iterator[tuple[str, str]]:
    """Each text of SQL that is run, by its name."""
    for folder in ("sql", "sql/migrate", "sql/adoption"):
        for statement in statements(folder).values():
            every = shapes(statement, together=1)
            yield from ((statement.name, shape.sql) for shape in every)
    yield from ((view.name, view.text) for view in views())
    for folder in ("migrations", "migrations/optional"):
        for file in resource_dir(folder).glob("*.sql"):
            yield file.stem, file.read_text()


def test_nothing_is_sorted_in_the_collation_of_the_database():
    dependent: set[str] = set()
    for name, text in every_text():
        sorts = _Sorts()
        sorts(pglast.parse_sql(text))
        nodes = (node for node in sorts.found if not is_free_of_the_collation(node))
        dependent.update(f"{name}: {RawStream()(node)}" for node in nodes)
    assert dependent == set()


def index_names(plan: object) -> set[str]:
    if isinstance(plan, list):
        return set().union(*map(index_names, plan))
    if isinstance(plan, dict):
        own = {plan["Index Name"]} if "Index Name" in plan else set()
        return own.union(*map(index_names, plan.values()))
    return set()


ONE = "ltm_memories_pkey or ltm_memories_id_idx"  # both find one memory
RANK = "ltm_memory_ranks_importance_rank_idx"
ENDS = "ltm_memory_relationships_ends_and_type_key"
SOURCE = "ltm_memory_relationships_source_memory_id_idx"
TARGET = "ltm_memory_relationships_target_memory_id_idx"
TAGS = "ltm_memories_tags_gin"
MEMORY_TAGS = "ltm_memory_tags_memory_id_tag_name_key"
VECTORS = "ltm_embeddings_pkey or ltm_embeddings_memory_id_idx"
EXTERNAL = "ltm_external_users_external_id_key"
INDEXES: dict[tuple[str, frozenset[str]], set[str]] = {
    ("get_memory", frozenset()): {ONE},
    ("get_memory", frozenset({"include_relationships"})): {ONE, f"{ENDS} or {SOURCE}", TARGET},
    ("get_memories", frozenset()): {ONE},
    ("get_memories_together", frozenset()): {ONE},
    ("get_relationships", frozenset()): {ONE, f"{ENDS} or {SOURCE}", TARGET},
    ("get_relationships_of_many", frozenset()): {ONE, f"{ENDS} or {SOURCE}", TARGET},
    ("list_memories", frozenset()): {RANK},
    ("list_memories", frozenset({"include_archived"})): {
        RANK,
        "ltm_memory_ranks_archived_rank_idx",
    },
    ("list_memories", frozenset({"tags"})): {TAGS},
    ("list_memories", frozenset({"tags_any"})): {TAGS},
    ("list_memories", frozenset({"context_data"})): {"ltm_memories_context_data_gin"},
    ("list_memories", frozenset({"metadata"})): {"ltm_memories_memory_metadata_gin"},
    ("list_memories", frozenset({"source_id"})): {"ltm_memories_source_idx"},
    ("search_memories", frozenset()): {
        "ltm_memories_search_terms_gin",
        "ltm_memories_source_idx",
        ONE,
    },
    ("search_memories", frozenset({"query_embedding", "time_starts"})): {
        "ltm_memories_search_terms_gin",
        ONE,
        VECTORS,
    },
    ("list_by_moment", frozenset()): {"ltm_memories_created_at_idx"},
    ("list_by_moment", frozenset({"oldest"})): {"ltm_memories_created_at_idx"},
    ("list_by_moment", frozenset({"modified"})): {"ltm_memories_last_modified_idx"},
    ("list_by_moment", frozenset({"oldest", "include_archived"})): {"ltm_memories_created_at_idx"},
    ("list_by_moment", frozenset({"source_id"})): {"ltm_memories_source_idx"},
    ("list_memories", frozenset({"source_ids"})): {"ltm_memories_source_idx"},
    ("count_memories", frozenset({"query"})): {"ltm_memories_search_terms_gin"},
    ("count_memories", frozenset({"tags"})): {TAGS},
    ("count_memories", frozenset({"source_id"})): {"ltm_memories_source_idx"},
    ("passing_ids", frozenset({"source_id"})): {"ltm_memories_source_idx"},
    ("passing_ids", frozenset({"tags", "locked"})): {TAGS},
    ("passing_ids", frozenset({"memory_ids"})): {ONE},
    ("archive_memories", frozenset()): {ONE},
    ("tag_memories", frozenset()): {ONE},
    ("last_of_source", frozenset()): {"ltm_memories_source_idx"},
    ("get_source", frozenset()): {"ltm_memories_source_idx"},
    ("explain_search", frozenset()): {ONE},
    ("update_memory", frozenset()): {ONE},
    ("update_memory", frozenset({"tags"})): {ONE, MEMORY_TAGS},
    ("update_memory", frozenset({"replace_context"})): {ONE, "ltm_contexts_memory_id_idx"},
    ("archive_stale", frozenset()): {RANK, ONE},
    ("get_children", frozenset()): {"ltm_memories_parent_memory_id_idx"},
    ("delete_memories", frozenset()): {ONE, TARGET, "ltm_memories_parent_memory_id_idx"},
    ("relate", frozenset()): {ONE},
    ("lock_for_delete", frozenset()): {ONE, TARGET, "ltm_memories_parent_memory_id_idx"},
    ("lock_source", frozenset()): {ONE},
    ("lock_memories", frozenset()): {"ltm_memories_pkey"},
    ("export_memories", frozenset()): {"ltm_memories_pkey"},
    ("export_relationships", frozenset()): {f"{ENDS} or {SOURCE}"},
    ("export_accesses", frozenset()): {"ltm_memory_access_memory_id_idx"},
    ("export_tags", frozenset()): {MEMORY_TAGS},
    ("hold_keys", frozenset()): {"ltm_memories_idempotency_key_key"},
    ("import_details", frozenset()): {ONE, MEMORY_TAGS},
    ("link_memories", frozenset()): {ONE},
    ("forget_memories", frozenset()): {"ltm_memories_pkey", "ltm_contexts_memory_id_idx"},
    ("forget_repairs", frozenset()): {"ltm_adoption_report_user_id_idx"},
    ("forget_name", frozenset()): {"ltm_external_users_pkey"},
    ("unrelate", frozenset()): {ONE, f"{ENDS} or {TARGET}"},
    ("traverse", frozenset()): {ONE, SOURCE, TARGET},
    ("shortest_path", frozenset()): {ONE, SOURCE, TARGET},
    ("get_graph", frozenset()): {ONE, f"{ENDS} or {SOURCE} or {TARGET}"},
    ("suggest_relationships", frozenset()): {
        ONE,
        TAGS,
        "ltm_memories_context_data_gin",
        "ltm_memories_search_terms_gin",
        "ltm_memories_source_idx",
        f"{ENDS} or {SOURCE} or {TARGET}",
    },
    ("suggest_relationships", frozenset({"model"})): {ONE, TAGS, VECTORS},
    ("add_tags", frozenset()): {ONE},
    ("remove_tags", frozenset()): {ONE, MEMORY_TAGS},
    ("memory_version", frozenset()): {ONE},
    ("lock_tagged", frozenset()): {TAGS},
    ("rename_tag", frozenset()): {ONE, MEMORY_TAGS},
    ("list_tags", frozenset({"memory_id"})): {MEMORY_TAGS},
    ("list_tags", frozenset({"tag_category"})): {"ltm_memory_tags_tag_category_idx"},
    ("related_tags", frozenset()): {TAGS},
    ("record_accesses", frozenset()): {ONE},
    ("existing_ids", frozenset()): {"ltm_memories_pkey"},
    ("write_accesses", frozenset()): {ONE},
    ("record_feedback", frozenset()): {ONE, "ltm_memory_access_memory_id_idx"},
    ("access_history", frozenset()): {ONE, "ltm_memory_access_memory_id_idx"},
    ("add_memory", frozenset()): {"ltm_memories_content_hash_idx"},
    ("add_memories_together", frozenset()): {"ltm_memories_content_hash_idx"},
    ("adoption_report", frozenset({"of_user_id"})): {"ltm_adoption_report_user_id_idx"},
    ("adoption_repairs", frozenset()): {"ltm_adoption_report_pkey"},
    ("expired_memories", frozenset()): {"ltm_memories_expires_at_idx"},
    ("prune_accesses", frozenset()): {"ltm_memory_access_pkey"},
    ("find_unembedded", frozenset()): {"ltm_memories_pkey", VECTORS},
    ("find_unembedded", frozenset({"newest"})): {"ltm_memories_id_idx", VECTORS},
    ("claim_embeddings", frozenset({"memory_ids"})): {ONE, VECTORS},
    ("write_embeddings", frozenset()): {ONE, VECTORS},
    ("release_embeddings", frozenset()): {VECTORS},
    ("find_similar", frozenset()): {"ltm_embeddings_memory_id_idx", VECTORS},
    ("export_embeddings", frozenset()): {"ltm_embeddings_memory_id_idx"},
    ("forget_embeddings", frozenset()): {VECTORS},
    ("find_user", frozenset()): {EXTERNAL},
    ("intern_user", frozenset()): {EXTERNAL},
    ("get_by_key", frozenset()): {"ltm_memories_key_key"},
    ("get_by_key", frozenset({"idempotency_key"})): {"ltm_memories_idempotency_key_key"},
    ("get_by_keys", frozenset()): {"ltm_memories_key_key"},
    ("find_keys", frozenset()): {"ltm_memories_key_key"},
    ("lock_key", frozenset()): {"ltm_memories_key_key"},
    ("extend_expiry", frozenset()): {ONE},
    ("lock_keys", frozenset()): {"ltm_memories_key_key"},
    ("lock_keys", frozenset({"prefix"})): {"ltm_memories_key_key"},
    ("key_in_the_way", frozenset()): {"ltm_memories_key_key"},
    ("free_keys", frozenset()): {
        "ltm_memories_key_key or ltm_memories_expires_at_idx",
        "ltm_memories_pkey",
    },
    ("give_keys", frozenset()): {ONE},
    ("list_namespaces", frozenset()): {"ltm_memories_key_key"},
    ("list_namespaces", frozenset({"prefix", "max_depth"})): {"ltm_memories_key_key"},
    ("list_namespaces", frozenset({"max_depth", "keyed"})): {"ltm_memories_key_key"},
    ("rename_user", frozenset()): {"ltm_external_users_external_id_key"},
    ("lock_names", frozenset()): {"ltm_external_users_pkey"},
    ("free_expired_keys", frozenset()): set(),
    ("list_memories", frozenset({"namespace"})): {RANK},
    ("list_memories", frozenset({"namespaces"})): {RANK},
    ("list_memories", frozenset({"namespace_prefix"})): {RANK},
    ("list_users", frozenset()): {"ltm_memories_pkey or ltm_memories_key_key"},
}
ARGUMENTS: dict[str, object] = {
    "user_id": 1,
    "memory_id": 1,
    "source_memory_id": 1,
    "target_memory_id": 41,
    "memory_ids": [1, 41, 81],
    "most_bytes": 16_384,
    "as_of": datetime(2026, 6, 1, tzinfo=UTC),
    "now": datetime(2026, 6, 1, tzinfo=UTC),
    "row_limit": 10,
    "row_offset": 0,
    "importance_weight": 0.1,
    "include_context": True,
    "given": ["content"],
    "idempotency_keys": ["a", "b"],
    "namespace": "agents.cook",
    "namespaces": ["agents.cook", "agents.old"],
    "namespace_prefix": "agents",
    "new_external_id": "user x",
    "key": "soup",
    "keys": ["soup"],
    "ids": [1, 41],
    "but_ids": [1],
    "idempotency_key": "i",
    "after_id": 0,
    "relationships": "[]",
    "accesses": "[]",
    "tag_details": "[]",
    "version": 1,
    "access_count": 0,
    "content": "x",
    "relationship_type": "related",
    "access_method": "direct",
    "tags": '["rare77"]',
    "tags_any": '["rare77"]',
    "context_data": '{"spatial": {"city": "city5"}}',
    "metadata": '{"n": 5}',
    "source_id": "conversation5",
    "source_ids": ["conversation5", "conversation6"],
    "external_id": "user 5",
    "query": "words about memory",
    "term_limit": 64,
    "phrases": [],
    "exclusions": [],
    "neighbours": True,
    "depth": 3,
    "max_depth": 6,
    "memory_limit": 1000,
    "relationship_limit": 10_000,
    "holder_limit": 100,
    "word_limit": 64,
    "candidate_limit": 1000,
    "tag": "rare77",
    "new_tag": "rare78",
    "tag_names": ["rare78"],
    "tag_category": "place",
    "below": 1.0,
    "older_than": datetime(2026, 6, 1, tzinfo=UTC),
    "after_user_id": 1,
    "user_ids": [1, 1, 1],
    "moments": [datetime(2026, 6, 1, tzinfo=UTC)] * 3,
    "access_methods": ["direct"] * 3,
    "access_contexts": [None] * 3,
    "user_queries": [None] * 3,
    "only_expired": False,
    "depths": [0, 1, 1],
    "content_chars": 300,
    "of_user_id": 1,
    "model": "toy",
    "embedding_model": "toy",
    "query_embedding": [1.0, 2.0],
    "meaning": 0.4,
    "time_starts": [datetime(2026, 6, 1, tzinfo=UTC)],
    "time_ends": [datetime(2026, 7, 1, tzinfo=UTC)],
    "near_limit": 10,
    "part_limit": 16,
    "claimed_until": datetime(2026, 7, 1, tzinfo=UTC),
    "dimensions": 1,
    "content_hashes": [1, 2, 3],
    "parts": [0, 0, 0],
    "numbers": [1.0, 1.0, 1.0],
    "notes": [None] * 3,
}


@pytest.mark.parametrize(
    ("name", "given"), INDEXES, ids=lambda v: v if isinstance(v, str) else "+".join(sorted(v))
)
async def test_plan_uses_the_index_made_for_it(name, given, filled):
    statement = ALL[name]
    shape = shape_for(statement, given)
    if NEEDS_VECTORS.search(shape.sql) and not await has_vector(filled):
        pytest.skip("the server lacks the extension vector")
    arguments = [ARGUMENTS.get(name) for name in shape.names]
    plan = await filled.fetchval(f"EXPLAIN (FORMAT JSON) {shape.sql}", *arguments)
    used = index_names(json.loads(plan))
    for wanted in INDEXES[name, given]:
        assert used.intersection(wanted.split(" or ")), (wanted, used)
    assert "Seq Scan" not in plan


# Two numbers for each: of the user, and of the memory or what stands for it.
LOOKED_UP = {
    "ltm_memories WHERE user_id = $1 AND id = $2": "ltm_memories_pkey",  # by foreign keys
    "ltm_memories WHERE user_id = $1 AND content_hash = $2": "ltm_memories_content_hash_idx",
    "ltm_memories WHERE user_id = $1 AND namespace = 'a' AND key = $2::text": (
        "ltm_memories_key_key"
    ),
    "ltm_memories WHERE user_id = $1 AND idempotency_key = $2::text": (
        "ltm_memories_idempotency_key_key"
    ),
    "ltm_memory_ranks WHERE user_id = $1 AND memory_id = $2": "ltm_memory_ranks_pkey",
    "ltm_contexts WHERE user_id = $1 AND memory_id = $2": "ltm_contexts_memory_id_idx",
    "ltm_memory_tags WHERE user_id = $1 AND memory_id = $2": (
        "ltm_memory_tags_memory_id_tag_name_key"
    ),
    "ltm_memory_access WHERE user_id = $1 AND memory_id = $2": "ltm_memory_access_memory_id_idx",
}


@servers.local_alone
@pytest.mark.parametrize("memories", [0, 500])
async def test_a_new_database_that_nobody_analysed_reads_no_more_than_an_old_one(memories, own_dsn):
    """A connection keeps its plans until the first ANALYZE, foreign keys' too."""
    connection = await asyncpg.connect(own_dsn)
    await connection.execute("SET plan_cache_mode = force_generic_plan")
    notes = [{"content": f"note {n}"} for n in range(memories)]
    await add_memories(connection, 1, notes)
    await put_memories(
        connection, 1, [{**note, "namespace": "a", "key": f"k{n}"} for n, note in enumerate(notes)]
    )
    for condition, index in LOOKED_UP.items():
        await connection.execute(f"PREPARE looked AS SELECT 1 FROM {condition}")
        plan = await connection.fetchval("EXPLAIN (FORMAT JSON) EXECUTE looked(1, 1)")
        await connection.execute("DEALLOCATE looked")
        assert index_names(json.loads(plan)) == {index}, condition
    for name in ("add_memory", "add_memories_together"):
        shape = shape_for(ALL[name], frozenset())
        await connection.execute(f"PREPARE added AS {shape.sql}")
        nulls = ", ".join(["NULL"] * len(shape.names))
        plan = await connection.fetchval(f"EXPLAIN (FORMAT JSON) EXECUTE added({nulls})")
        await connection.execute("DEALLOCATE added")
        assert index_names(json.loads(plan)) == {"ltm_memories_content_hash_idx"}, name
    await connection.close()


@pytest.mark.parametrize(
    ("argument", "column"),
    [
        ("memory_type", "memory_type"),
        ("category", "category"),
        ("source_type", "source_type"),
        ("min_importance", "importance_score"),
        ("created_after", "created_at"),
        ("created_before", "created_at"),
    ],
)
async def test_a_filter_that_few_pass_reads_few_of_a_users_rows(argument, column, filled):
    """The rank index itself tells which rows pass, in a plan that is kept for any value."""
    shape = shape_for(ALL["list_memories"], {argument})
    async with filled.transaction():
        await filled.execute("SET LOCAL plan_cache_mode = force_generic_plan")
        await filled.execute(f"PREPARE listed AS {shape.sql}")
        nulls = ", ".join(["NULL"] * len(shape.names))
        plan = await filled.fetchval(f"EXPLAIN (FORMAT JSON) EXECUTE listed({nulls})")
        await filled.execute("DEALLOCATE listed")
    conditions = re.findall(r'"Index Cond": "(.*)"', plan)
    assert RANK in plan
    assert any(column in condition for condition in conditions)


@pytest.mark.parametrize(
    "argument", ["tags", "tags_any", "context_data", "metadata", "modified_after"]
)
async def test_a_plan_for_any_values_of_some_filters_is_never_cheap(argument, filled):
    """Only their values tell how many rows pass, so the planner should not come to it."""
    shape = shape_for(ALL["list_memories"], {argument})
    async with filled.transaction():
        await filled.execute("SET LOCAL plan_cache_mode = force_generic_plan")
        await filled.execute(f"PREPARE listed AS {shape.sql}")
        nulls = ", ".join(["NULL"] * len(shape.names))
        plan = await filled.fetchval(f"EXPLAIN (FORMAT JSON) EXECUTE listed({nulls})")
        await filled.execute("DEALLOCATE listed")
    one_call = 2_500  # of ltm_prefer_custom_plan, as the planner counts it
    assert json.loads(plan)[0]["Plan"]["Total Cost"] > one_call


@pytest.mark.parametrize("argument", ["accessed_after", "tags", "tags_any", "context_data"])
async def test_a_walk_in_the_order_of_ranks_is_not_for_workers(argument, filled):
    """Starting them costs more than the ten rows."""
    shape = shape_for(ALL["list_memories"], {argument})
    arguments = [ARGUMENTS.get(name, ARGUMENTS["as_of"]) for name in shape.names]
    async with filled.transaction():
        for setting in (
            "parallel_setup_cost",
            "parallel_tuple_cost",
            "min_parallel_table_scan_size",
        ):
            await filled.execute(f"SET LOCAL {setting} = 0")
        plan = await filled.fetchval(f"EXPLAIN (FORMAT JSON) {shape.sql}", *arguments)
    assert "Workers Planned" not in plan


WALKED = [
    *("no condition", "include_archived", "memory_type", "min_importance", "created_by"),
    *("namespace", "namespace_prefix"),
]


async def test_a_walk_in_the_order_of_ranks_is_not_planned_each_time(filled):
    """Neither for few nor for many memories: a plan takes longer than the walk."""
    held = []
    users = (1, 1001, 2000)  # with 500 memories, 9,999, and 1
    async with filled.transaction():
        await filled.execute(
            "INSERT INTO ltm_memories (user_id, content) "
            "SELECT CASE n WHEN 1 THEN 2000 ELSE 1001 END, 'x' FROM generate_series(1, 10000) AS n"
        )
        await filled.execute("ANALYZE ltm_memories, ltm_memory_ranks")
        for argument, user in itertools.product(WALKED, users):
            shape = shape_for(ALL["list_memories"], [argument])
            listed = await filled.prepare(shape.sql, name=f"{argument} of {user}")
            held.append(listed)  # else it is closed
            given = {"memory_type": "fact", "min_importance": 2, "created_by": "system"}
            arguments = ARGUMENTS | given | {"user_id": user}
            for _ in range(7):
                await listed.fetch(*[arguments[name] for name in shape.names])
        kept = await filled.fetch(
            "SELECT name, generic_plans, custom_plans FROM pg_prepared_statements "
            "WHERE name LIKE '% of %'"
        )
    assert len(kept) == len(held)
    assert [row for row in map(tuple, kept) if row[1:] != (2, 5)] == []


CHEAP = [
    ("search_memories", frozenset()),
    ("list_memories", frozenset()),
    ("list_memories", frozenset({"include_archived"})),
    ("list_memories", frozenset({"tags"})),
    ("list_memories", frozenset({"tags_any"})),
    ("list_memories", frozenset({"context_data"})),
    ("list_memories", frozenset({"source_id"})),
    ("get_relationships", frozenset()),
    ("traverse", frozenset()),
    ("shortest_path", frozenset()),
    ("suggest_relationships", frozenset()),
    ("related_tags", frozenset()),
    ("list_tags", frozenset({"memory_id"})),
    ("get_graph", frozenset()),
]


async def buffers(connection: asyncpg.Connection) -> list[int]:
    """How many buffers some statements touch for one user."""
    touched = []
    for name, given in CHEAP:
        statement = ALL[name]
        shape = shape_for(statement, given)
        arguments = [ARGUMENTS.get(name) for name in shape.names]
        explain = f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {shape.sql}"
        plan = json.loads(await connection.fetchval(explain, *arguments))[0]["Plan"]
        touched.append(plan["Shared Hit Blocks"] + plan["Shared Read Blocks"])
    return touched


@pytest.mark.slow
async def test_ten_times_as_much_of_others_costs_a_user_nothing(own_dsn):
    connection = await asyncpg.connect(own_dsn)
    await populate(connection, users=3, memories=200)
    before = await buffers(connection)
    await populate(connection, users=27, memories=200, first_user=100)
    after = await buffers(connection)
    await connection.close()
    for (name, given), few, many in zip(CHEAP, before, after, strict=True):
        assert many <= 1.3 * few + 12, (name, given, few, many)  # some levels of the trees more


def test_statements_are_short_enough_for_asyncpg_to_keep_them_prepared():
    """On a connection of the caller's; a Database keeps those with all filters at once too."""
    long = [
        statement.name
        for statement in ALL.values()
        for shape in shapes(statement)
        if len(shape.sql) > 15 * 1024
    ]
    assert long == ["search_memories"]  # with all filters at once


async def test_no_call_starts_workers(filled):
    """Which takes longer than the call; a planner that finds them cheap takes them nowhere."""
    costs = "parallel_setup_cost", "parallel_tuple_cost", "min_parallel_table_scan_size"
    started = []
    async with filled.transaction():
        for name in (*costs, "min_parallel_index_scan_size"):
            await filled.execute(f"SET LOCAL {name} = 0")
        await filled.execute("SET LOCAL plan_cache_mode = force_generic_plan")
        for name, given in CHEAP + [(f"list_{what}", frozenset()) for what in ("by_moment", "ids")]:
            sql = shape_for(ALL[name], given).sql
            await filled.execute(f"PREPARE planned AS {sql}")
            nulls = ", ".join(["NULL"] * len(shape_for(ALL[name], given).names))
            plan = await filled.fetchval(f"EXPLAIN (FORMAT JSON) EXECUTE planned({nulls})")
            await filled.execute("DEALLOCATE planned")
            if "Gather" in plan:
                started.append(name)
    assert not started


def test_every_statement_has_a_plan_test():
    whole = {
        "applied_migrations",
        "check_health",
        "embedding_problems",
        "embedding_status",
        "count_namespaces",
        "get_analytics",
        "has_embeddings",
        "find_distribution",
        "report_figures",
        "exported_ids",
        "find_schema_dangers",
        "find_user_by_function",
        "intern_user_by_function",
        "list_ids",
        "list_sources",
        "lock_whole_user",
        "copy_contexts",
        "copy_embeddings",
        "copy_memories",
        "copy_relationships",
        "copy_tags",
        "copy_user_accesses",
        "draw_numbers",
        "keys_of_both",
        "move_repairs",
        "numbers_of_both",
        "redirect_names",
        "lift_timeouts",
        "lift_session_timeouts",
        "index_command",
        "drop_unfinished_index",
        "vector_indexes",
        "draw_memories",
        "draw_memory_id",
        "lock_user",
        "may_copy",
        "drop_access_partition",
        "make_access_partition",
        "primary_position",
        "standby_position",
        "find_row_level_security",
    }  # read all there is, or no table
    assert {name for name, _ in INDEXES} | whole == set(ALL)
