"""No function sees, changes or waits for the rows of a user with the same ids in every table."""

import inspect
from collections.abc import AsyncIterator

import asyncpg
import pytest

import ltm_store
from tests import twins
from tests.conftest import created, has_vector
from tests.servers import local_alone
from tests.twins import CALLS, ELSEWHERE, FOR_ALL, World

pytestmark = local_alone

Worlds = tuple[World, World]


@pytest.fixture(scope="module")
async def worlds(
    admin: asyncpg.Connection, server: str, template: str
) -> AsyncIterator[tuple[World, World]]:
    """She alone, and beside her twins."""
    vectors = await has_vector(admin)
    async for alone in created(admin, server, template):
        async for beside in created(admin, server, template):
            opened = [await asyncpg.connect(dsn) for dsn in (alone, alone, beside, beside)]
            for connection in opened[::2]:
                await twins.build(connection, twins=connection is opened[2], vectors=vectors)
            yield await World.of(*opened[:2]), await World.of(*opened[2:])
            for connection in opened:
                await connection.close()


def test_every_public_function_with_a_database_is_called():
    public = {
        name
        for name in ltm_store.__all__
        if inspect.isroutine(function := getattr(ltm_store, name))
        and next(iter(inspect.signature(function).parameters)) in ("db", "dsn")
    }
    assert public == {*CALLS, *FOR_ALL, *ELSEWHERE}


@pytest.mark.parametrize("name", [*CALLS, *FOR_ALL])
async def test_twins_make_no_difference(
    worlds: Worlds, admin: asyncpg.Connection, name: str
) -> None:
    if name in twins.VECTORS and not await has_vector(admin):
        pytest.skip("the server lacks the extension vector")
    for call in CALLS.get(name) or FOR_ALL[name]:
        assert await twins.differences(*worlds, call, for_all=name in FOR_ALL) == []


async def test_twins_make_no_difference_where_calls_share_a_statement(
    dsn: str, own_dsn: str, admin: asyncpg.Connection
) -> None:
    vectors = await has_vector(admin)
    found = []
    for here, is_beside in ((dsn, False), (own_dsn, True)):
        connection = await asyncpg.connect(here)
        await twins.build(connection, twins=is_beside, vectors=vectors)
        await connection.close()
        found.append(await twins.through_a_database(here, vectors=vectors))
    assert found[0] == found[1]
