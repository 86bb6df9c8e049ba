"""Conditions on metadata: drawn ones against an evaluator in Python, and those that are refused."""

import random
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ltm_store import (
    InvalidArgument,
    add_memories,
    add_memory,
    explain_search,
    search_memories,
)

KEYS = ["a", "b", "$v0", 'x"y\\', "c.d", "Ключ 🐦", ""]
ASKED = [key for key in KEYS if not key.startswith("$")]  # else read as an operator
SCALARS: list[Any] = [
    *(None, True, False, 0, 1, -1, 1.0, 1.5, 0.1, 1e300, 2**70, 12345678901234567890.0),
    *(
        "",
        "1",
        "1.5",
        "a",
        "Z",
        "true",
        'x"y\\',
        "ä",
        "a\u0308",
        "🐦",
        "\uffff",
        "') || true",
        "\n",
    ),
]
MISSING = object()
ORDERS = {
    "$gt": lambda a, b: a > b,
    "$gte": lambda a, b: a >= b,
    "$lt": lambda a, b: a < b,
    "$lte": lambda a, b: a <= b,
}


def kind(value: object) -> str:
    return "number" if type(value) in (int, float) else type(value).__name__


def number(value: Any) -> Any:
    return Decimal(repr(value)) if type(value) in (int, float) else value


def equal(value: Any, wanted: Any) -> bool:
    if kind(value) != kind(wanted):
        return False
    if isinstance(wanted, dict):
        return value.keys() == wanted.keys() and all(equal(value[k], wanted[k]) for k in wanted)
    if isinstance(wanted, list):
        return len(value) == len(wanted) and all(map(equal, value, wanted))
    return bool(number(value) == number(wanted))


def contained(value: Any, wanted: Any) -> bool:
    if isinstance(wanted, dict):
        return passes(value, wanted)
    if isinstance(wanted, list):
        return isinstance(value, list) and all(any(contained(v, w) for v in value) for w in wanted)
    return equal(value, wanted)


def compared(name: str, value: Any, wanted: Any) -> bool:
    return kind(value) == kind(wanted) and ORDERS[name](number(value), number(wanted))


def operator(name: str, value: Any, wanted: Any) -> bool:
    match name:
        case "$eq":
            return equal(value, wanted)
        case "$ne":
            return not equal(value, wanted)
        case "$in":
            return any(equal(value, one) for one in wanted)
        case "$nin":
            return not any(equal(value, one) for one in wanted)
        case "$exists":
            return (value is not MISSING) is wanted
        case "$and":
            return all(passes(value, part) for part in wanted)
        case "$or":
            return any(passes(value, part) for part in wanted)
        case "$not":
            return not passes(value, wanted)
    return compared(name, value, wanted)


def passes(value: Any, conditions: Mapping[str, Any]) -> bool:
    """Whether a value, or MISSING, meets all conditions."""
    if not conditions:
        return isinstance(value, dict)
    for key, wanted in conditions.items():
        if key.startswith("$"):
            if not operator(key, value, wanted):
                return False
            continue
        item = value.get(key, MISSING) if isinstance(value, dict) else MISSING
        if not contained(item, wanted):
            return False
    return True


def drawn(draw: random.Random, depth: int = 3) -> Any:
    """A JSON value of few keys and values, so that conditions meet it."""
    what = draw.random()
    if depth and what < 0.3:
        return {key: drawn(draw, depth - 1) for key in draw.sample(KEYS, draw.randint(0, 3))}
    if depth and what < 0.5:
        return [drawn(draw, depth - 1) for _ in range(draw.randint(0, 3))]
    return draw.choice(SCALARS)


def document(draw: random.Random) -> dict[str, Any]:
    return {key: drawn(draw) for key in draw.sample(KEYS, draw.randint(0, 4))}


_draw = random.Random(17)
DOCUMENTS = [None, *(document(_draw) for _ in range(300))]
# Those that are there, so that equality in depth is met too.
_STORED = SCALARS + [item for found in DOCUMENTS for item in (found or {}).values()]
values = st.integers(0, len(_STORED) - 1).map(lambda n: _STORED[n])
keys = st.sampled_from(ASKED)
comparable = st.sampled_from([value for value in SCALARS if value is not None])
leaves = (
    st.dictionaries(st.sampled_from(["$eq", "$ne"]), values, min_size=1, max_size=1)
    | st.dictionaries(st.sampled_from(list(ORDERS)), comparable, min_size=1, max_size=2)
    | st.dictionaries(
        st.sampled_from(["$in", "$nin"]),
        st.lists(values, min_size=1, max_size=4),
        min_size=1,
        max_size=1,
    )
    | st.builds(lambda wanted: {"$exists": wanted}, st.booleans())
)
plain = st.sampled_from(SCALARS) | st.lists(st.sampled_from(SCALARS) | leaves, max_size=2)
conditions = st.recursive(
    leaves | st.dictionaries(keys, plain | leaves, max_size=2),
    lambda inner: (
        st.dictionaries(keys, inner | plain, min_size=1, max_size=2)
        | st.dictionaries(
            st.sampled_from(["$and", "$or"]),
            st.lists(inner, min_size=1, max_size=3),
            min_size=1,
            max_size=1,
        )
        | st.builds(lambda part: {"$not": part}, inner)
        | st.builds(lambda one, other: one | other, inner, inner)
    ),
    max_leaves=6,
)


@pytest.fixture
async def documents(conn):
    given_all = ({"content": str(n), "metadata": found} for n, found in enumerate(DOCUMENTS))
    await add_memories(conn, 1, given_all)


@given(wanted=conditions)
async def test_drawn_conditions_pass_what_an_evaluator_passes(conn, documents, wanted):
    hits = await search_memories(conn, 1, metadata=wanted, limit=1000, include_context=False)
    expected = {n for n, found in enumerate(DOCUMENTS) if passes(found or {}, wanted)}
    assert {int(hit.content) for hit in hits} == expected


OF_A: dict[str, Any] = {
    "a": 3,
    "lang": "de",
    "deep": {"b": 1},
    "list": [1, 3],
    "none": None,
    "$k": 1,
}


@pytest.mark.parametrize(
    ("wanted", "finds"),
    [
        ({"a": {"$gte": 3}, "lang": {"$in": ["de", "en"]}}, "a"),
        ({"a": {"$ne": 3}}, "bc"),
        ({"a": {"$nin": [3, "3"]}}, "bc"),
        ({"a": {"$exists": False}}, "bc"),
        ({"none": {"$eq": None}}, "a"),
        ({"none": {"$ne": None}}, "bc"),
        ({"list": {"$gte": 1}}, ""),
        ({"list": {"$eq": [1, 3]}}, "a"),
        ({"list": {"$eq": [3, 1]}}, ""),
        ({"list": [3], "deep": {"b": {"$lt": 2}}}, "a"),
        ({"deep": {"b": {"$ne": 2}}}, "abc"),
        ({"deep": {"$eq": {}}}, ""),
        ({"$or": [{"a": 3}, {"lang": "en"}]}, "ab"),
        ({"$and": [{"a": 3}, {"lang": "en"}]}, ""),
        ({"$not": {"lang": "en"}}, "ac"),
        ({"a": {"$gt": "2"}}, ""),
        ({"a": {"$lt": 3.0000000001, "$gt": 2.9999999999}}, "a"),
    ],
    ids=str,
)
async def test_operators(conn, wanted, finds):
    await add_memory(conn, 1, "a", metadata=OF_A)
    await add_memory(conn, 1, "b", metadata={"lang": "en"})
    other = (await add_memory(conn, 1, "c")).id
    hits = await search_memories(conn, 1, metadata=wanted)
    assert "".join(sorted(hit.content for hit in hits)) == finds
    told = await explain_search(conn, 1, None, other, metadata=wanted)
    assert told.causes == (() if "c" in finds else ("metadata",))


@pytest.mark.parametrize(
    "wanted",
    [
        {"a": {"$regex": "x"}},
        {"$where": 1},
        {"$": 1},
        {"a": {"$gte": None}},
        {"a": {"$gte": [1]}},
        {"a": {"$lt": float("nan")}},
        {"a": {"$eq": float("inf")}},
        {"a": {"$in": []}},
        {"a": {"$in": 3}},
        {"a": {"$exists": 1}},
        {"a": {"$not": 3}},
        {"$and": []},
        {"$or": {"a": 1}},
        {"$or": [3]},
        {"$or": [{"a": {"$eq": n}} for n in range(201)]},
        {"a": {"$eq": "\0"}},
        {"a\0": {"$eq": 1}},
        {"x" * 8_000: {f"{n}": {"$gt": n} for n in range(200)}},
    ],
    ids=lambda wanted: ascii(wanted)[:40],
)
async def test_conditions_that_are_none_are_refused_without_their_values(conn, wanted):
    with pytest.raises(InvalidArgument) as caught:
        await search_memories(conn, 1, metadata=wanted)
    assert caught.value.field == "metadata"


async def test_200_conditions_are_asked_for(conn):
    memory = await add_memory(conn, 1, "x", metadata={"k199": 199})
    wanted: Any = {"$or": [{f"k{n}": {"$gte": n}} for n in range(200)]}
    assert [hit.id for hit in await search_memories(conn, 1, metadata=wanted)] == [memory.id]
