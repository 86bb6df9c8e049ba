"""Rows are trusted: what comes of a record is what validation would have made of it."""

import copy
import json
import pickle
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from ltm_store import Memory, add_memory, get_memory, get_relationships, relate
from ltm_store.db.execute import fetch_rows
from ltm_store.model.accesses import Access
from ltm_store.model.base import Row
from ltm_store.model.contexts import UnreadContext
from ltm_store.model.relationships import Relationship
from ltm_store.model.search import MemoryHit
from ltm_store.model.tags import Tag
from ltm_store.model.values import STORED
from tests.test_memories import FULL

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
words = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=8)
numbers = st.integers(-(2**63), 2**63 - 1)
moments = st.datetimes(datetime(1, 1, 2), datetime(9999, 12, 30), timezones=st.just(UTC))
leaves = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | words
)
documents = st.recursive(
    leaves, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3)
)
json_texts = st.none() | documents.map(json.dumps)
contexts = json_texts | st.sampled_from(
    [
        '{"spatial": {"city": "Graz", "is_home": "perhaps"}, "custom_contexts": [1]}',
        '{"temporal": {"timestamp": "2026-03-01T08:00:00Z", "timezone": "Mars/Olympus"}}',
    ]
)
RECORD = {
    "id": numbers,
    "user_id": numbers,
    "content": words,
    "tags": json_texts,
    "memory_type": st.none() | words,
    "category": st.none() | words,
    "importance_score": numbers,
    "confidence_score": st.floats(0, 1),
    "importance_rank": numbers,
    "dynamic_importance": st.floats(0, 10),
    "context": st.none() | words,
    "enhanced_context": contexts,
    "source_type": st.none() | words,
    "source_id": st.none() | words,
    "source_position": st.none() | numbers,
    "created_by": st.none() | words,
    "created_at": st.none() | moments,
    "last_accessed": st.none() | moments,
    "last_modified": st.none() | moments,
    "access_count": numbers,
    "last_access_context": st.none() | words,
    "related_memory_ids": json_texts,
    "parent_memory_id": st.none() | numbers,
    "metadata": json_texts,
    "is_archived": st.booleans(),
    "archive_reason": st.none() | words,
    "idempotency_key": st.none() | words,
    "version": numbers,
    "expires_at": st.none() | moments,
    "expires_after": st.none() | st.timedeltas(timedelta(seconds=1), timedelta(days=36525)),
    "namespace": words,
    "key": st.none() | words,
}
SUMMARY = {
    "id": numbers,
    "content": words,
    "memory_type": st.none() | words,
    "importance_score": numbers,
}
RELATIONSHIP = {
    "id": numbers,
    "source_memory_id": numbers,
    "target_memory_id": numbers,
    "direction": st.sampled_from(["outgoing", "incoming"]),
    "relationship_type": words,
    "strength": st.floats(0, 1),
    "description": st.none() | words,
    "created_at": st.none() | st.datetimes(datetime(1, 1, 2), datetime(9999, 12, 30)),
    "related_memory": st.fixed_dictionaries(SUMMARY).map(json.dumps),
}
HIT = {
    **RECORD,
    "score": st.floats(0, 10),
    "boost": st.floats(1, 2),
    "text_score": st.floats(0, 10),
    "matched_terms": st.lists(words, max_size=3),
    "duplicate_ids": st.lists(numbers, max_size=3),
}


def validated(model: type[Row], record: dict[str, object]) -> Row:
    return model.model_validate(record, context=STORED)


@pytest.mark.parametrize(
    ("model", "columns"), [(Memory, RECORD), (MemoryHit, HIT), (Relationship, RELATIONSHIP)]
)
@given(data=st.data())
def test_a_trusted_row_is_what_validation_makes_of_it(model, columns, data):
    record = data.draw(st.fixed_dictionaries(columns))
    trusted, whole = model.from_record(record), validated(model, record)
    assert trusted == whole
    assert whole == model.from_record(record)
    assert model.from_record(record).model_dump() == whole.model_dump()
    assert model.from_record(record).model_dump_json() == whole.model_dump_json()
    assert dict(model.from_record(record)) == dict(whole)
    assert repr(model.from_record(record)) == repr(whole)
    assert pickle.loads(pickle.dumps(model.from_record(record))) == whole
    assert copy.deepcopy(model.from_record(record)) == whole
    assert model.from_record(record).model_copy(update={"id": 1}).id == 1
    assert trusted.model_fields_set == whole.model_fields_set
    assert model.model_validate_json(trusted.model_dump_json()) == whole


@pytest.mark.parametrize(("name", "model"), [("access_history", Access), ("list_tags", Tag)])
async def test_rows_of_other_statements_too(conn, name, model):
    memory = await add_memory(conn, 1, "x", tags=["a"])
    other: dict[str, dict[str, object]] = {
        "access_history": {"now": NOW},
        "list_tags": {"as_of": NOW, "tag_category": None},
    }
    for record in await fetch_rows(
        conn, name, user_id=1, memory_id=memory.id, row_limit=9, **other[name]
    ):
        assert model.from_record(record) == validated(model, dict(record))


async def test_a_context_is_read_when_it_is_asked_for(conn):
    memory = await add_memory(conn, 1, "x", enhanced_context=FULL)
    read = await get_memory(conn, 1, memory.id)
    assert read is not None
    assert isinstance(vars(read)["enhanced_context"], UnreadContext)
    assert read.enhanced_context is not None
    assert read.enhanced_context is read.enhanced_context
    assert read.enhanced_context.spatial is not None
    fresh = await get_memory(conn, 1, memory.id)
    assert fresh is not None
    assert TypeAdapter(list[Memory]).dump_python([fresh]) == [read.model_dump()]


async def test_a_trusted_row_is_frozen(conn):
    memory = await add_memory(conn, 1, "x")
    for name in ("content", "enhanced_context", "id"):
        with pytest.raises(ValidationError):
            setattr(memory, name, None)


async def test_relationships_inside_a_memory_are_those_of_get_relationships(conn):
    first, second = [(await add_memory(conn, 1, f"{n} “quoted” \\")).id for n in range(2)]
    await relate(conn, 1, first, second, strength=1 / 3, description='a "b"')
    read = await get_memory(conn, 1, first, include_relationships=True)
    assert read is not None
    assert list(read.relationships or ()) == await get_relationships(conn, 1, first)
