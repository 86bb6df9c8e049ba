"""No content leaves through an error, and every state of the server has its class."""

import logging
import pickle

import asyncpg
import pytest

from ltm_store import (
    InvalidMemory,
    LtmError,
    PermissionDenied,
    SchemaOutdated,
    Unavailable,
    add_memory,
    update_memory,
)
from ltm_store.errors import refused_field, translate

MARK = "MARKED-CONTENT"


def told(error: BaseException | None) -> str:
    """All that an error and those that it hides can say."""
    text = ""
    while error is not None:
        text += f"{error} {error!r} {error.args} {vars(error)}"
        error = error.__cause__ or error.__context__
    return text


@pytest.mark.parametrize(
    "arguments",
    [
        {"content": MARK + "\0"},
        {"content": MARK, "tags": [MARK, MARK * 20]},
        {"content": MARK, "metadata": {MARK: {MARK}}},
        {"content": MARK, "enhanced_context": {"spatial": {"city": 5, "venue": MARK}}},
        {"content": MARK, "created_at": MARK},
        {"content": MARK, "related_memory_ids": [10**12]},
        {"content": MARK, "parent_memory_id": 10**12},
    ],
    ids=lambda a: "+".join(a),
)
async def test_an_error_carries_no_content(conn, caplog, arguments):
    caplog.set_level(logging.DEBUG)
    with pytest.raises(InvalidMemory) as caught:
        async with conn.transaction():
            await add_memory(conn, 1, **arguments)
    assert MARK not in told(caught.value) + caplog.text
    assert MARK.encode() not in pickle.dumps(caught.value.args)


async def test_what_the_server_refuses_names_the_field_and_no_row(conn):
    memory = await add_memory(conn, 1, MARK)
    with pytest.raises(asyncpg.CheckViolationError) as caught:
        await conn.execute("UPDATE ltm_memories SET importance_score = 99 WHERE id = $1", memory.id)
    assert MARK in str(caught.value), "the server's own text holds the row"
    ours = translate(caught.value)
    assert isinstance(ours, InvalidMemory)
    assert (ours.field, MARK in str(ours)) == ("importance_score", False)


@pytest.mark.parametrize(
    ("state", "kind"),
    [
        ("08006", Unavailable),
        ("25006", Unavailable),
        ("28P01", Unavailable),
        ("3D000", Unavailable),
        ("40001", Unavailable),
        ("40P01", Unavailable),
        ("53300", Unavailable),
        ("55P03", Unavailable),
        ("57014", Unavailable),
        ("57P01", Unavailable),
        ("57P03", Unavailable),
        ("22021", InvalidMemory),
        ("23505", InvalidMemory),
        ("23514", InvalidMemory),
        ("54000", InvalidMemory),
        ("42P01", SchemaOutdated),
        ("42501", PermissionDenied),
        ("XX000", LtmError),
    ],
)
def test_a_state_decides_the_class(state, kind):
    error = asyncpg.PostgresError(MARK)
    vars(error)["sqlstate"] = state
    ours = translate(error)
    assert type(ours) is kind
    assert MARK not in str(ours)


@pytest.mark.parametrize(
    "error",
    [
        asyncpg.ConnectionDoesNotExistError(MARK),
        asyncpg.InternalClientError(MARK),
        asyncpg.InterfaceError(MARK),
        ConnectionResetError(MARK),
        TimeoutError(MARK),
    ],
    ids=lambda e: type(e).__name__,
)
def test_a_lost_connection_of_every_kind_is_unavailable(error):
    ours = translate(error)
    assert type(ours) is Unavailable
    assert MARK not in str(ours)


def test_other_errors_pass():
    assert translate(ZeroDivisionError()) is None


@pytest.mark.parametrize(
    ("constraint", "field"),
    [
        (None, "memory"),
        ("ltm_memories_tags_within_limits", "tags"),
        ("ltm_memories_memory_metadata_within_limits", "metadata"),
        ("ltm_memories_context_data_within_limits", "enhanced_context"),
        ("ltm_memories_parent_memory_id_is_another", "parent_memory_id"),
        ("ltm_memory_relationships_target_memory_id_fkey", "target_memory_id"),
        ("ltm_external_users_external_id_within_limit", "user_id"),
    ],
)
def test_a_constraint_names_the_argument(constraint, field):
    assert refused_field(constraint) == field


@pytest.mark.parametrize(
    ("error", "kind", "field"),
    [
        (
            asyncpg.CheckViolationError(
                'new row for relation "ltm_memories_102009" violates check constraint '
                '"ltm_memories_tags_within_limits_102009"'
            ),
            InvalidMemory,
            "tags",
        ),
        (
            asyncpg.InternalServerError(
                'insert or update on table "ltm_memory_relationships_102031" violates foreign key '
                'constraint "ltm_memory_relationships_target_memory_id_fkey_102031"'
            ),
            InvalidMemory,
            "target_memory_id",
        ),
        (
            asyncpg.InternalServerError(f"could not find valid entry for shard 1\n{MARK}"),
            Unavailable,
            None,
        ),
        (
            asyncpg.InternalServerError(f"SSL SYSCALL error: EOF detected\n{MARK}"),
            Unavailable,
            None,
        ),
        (
            asyncpg.InternalServerError(
                f"value too long for type character varying(50)\nCONTEXT: {MARK}"
            ),
            InvalidMemory,
            "memory",
        ),
        (asyncpg.InternalServerError(MARK), LtmError, None),
    ],
)
def test_an_error_on_another_node_of_citus_has_its_class_and_names_the_argument(error, kind, field):
    ours = translate(error)
    assert type(ours) is kind
    assert getattr(ours, "field", None) == field
    assert MARK not in told(ours)


@pytest.mark.parametrize(
    ("context", "field"),
    [
        ({"emotional": {"energy_level": 1.5}}, "enhanced_context.emotional.energy_level"),
        ({"technical": {"system_info": 5}}, "enhanced_context.technical.system_info"),
        ({"spatial": {"a planet": 5}}, "enhanced_context.spatial.a planet"),
        ({"custom_contexts": [{"confidence": 2}]}, "enhanced_context.custom_contexts.0.confidence"),
    ],
)
async def test_a_field_is_named_as_the_caller_knows_it(conn, context, field):
    with pytest.raises(InvalidMemory) as caught:
        await add_memory(conn, 1, "x", enhanced_context=context)
    assert caught.value.field == field


async def test_what_only_the_server_can_refuse_carries_no_content_either(conn):
    memory = await add_memory(conn, 1, "x", metadata={"a": MARK * 15_000})
    with pytest.raises(InvalidMemory, match="^metadata: ") as caught:
        async with conn.transaction():
            await update_memory(conn, 1, memory.id, metadata={"b": MARK * 10_000})
    assert MARK not in told(caught.value)
