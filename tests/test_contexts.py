"""Contexts: what goes in comes out, what follows is derived, what is foreign stays readable."""

import json
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from ltm_store import (
    CustomContext,
    EmotionalContext,
    EnhancedContext,
    EnvironmentalContext,
    SocialContext,
    SpatialContext,
    TechnicalContext,
    TemporalContext,
    add_memory,
    get_memory,
    update_memory,
)
from ltm_store.model.contexts import StoredContext, store_context
from ltm_store.model.values import STORED

_stored = TypeAdapter(StoredContext)


def read_context(text: str) -> EnhancedContext | None:
    found: EnhancedContext | None = _stored.validate_python(text, context=STORED)
    return found


texts = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=20)
booleans = st.booleans()
fractions = st.floats(0, 1)
levels = fractions | texts
json_values = st.recursive(
    st.none() | booleans | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)
objects = st.dictionaries(texts, json_values, max_size=3)
moments = st.datetimes(
    datetime(1, 1, 2),
    datetime(9999, 12, 30),
    timezones=st.sampled_from([UTC, timezone(timedelta(hours=5, minutes=45))]),
)
seasons = st.sampled_from(["spring", "monsoon"])


def context(model, **fields):
    optional = {name: st.none() | strategy for name, strategy in fields.items()}
    return st.none() | st.builds(model, confidence=fractions, **optional)


contexts = st.builds(
    EnhancedContext,
    temporal=context(
        TemporalContext,
        timestamp=moments,
        time_of_day=st.sampled_from(["night", "morning", "afternoon", "evening"]),
        day_of_week=st.sampled_from(["monday", "sunday"]),
        month=st.integers(1, 12),
        season=seasons,
        is_weekend=booleans,
        is_holiday=booleans,
        timezone=st.sampled_from(["Europe/Vienna", "Asia/Kathmandu", "America/St_Johns"]),
    ),
    spatial=context(
        SpatialContext,
        location=texts,
        coordinates=st.tuples(st.floats(-90, 90), st.floats(-180, 180)),
        venue=texts,
        city=texts,
        country=texts,
        is_home=booleans,
        is_work=booleans,
        is_traveling=booleans,
    ),
    social=context(
        SocialContext,
        participants=st.lists(texts, max_size=3).map(tuple),
        conversation_id=texts,
        relationship_type=texts,
        group_size=st.integers(0, 1000),
        mood=texts,
        formality_level=levels,
    ),
    environmental=context(
        EnvironmentalContext,
        weather=texts,
        temperature=st.floats(-90, 60),
        humidity=st.floats(0, 100),
        noise_level=texts | st.floats(0, 130),
        device_type=texts,
        platform=texts,
        network_quality=texts,
    ),
    emotional=context(
        EmotionalContext,
        mood=texts,
        energy_level=levels,
        stress_level=levels,
        focus_level=levels,
        motivation=levels,
    ),
    technical=context(
        TechnicalContext,
        tool_name=texts,
        tool_version=texts,
        api_version=texts,
        system_info=texts | objects,
        browser=texts,
        os=texts,
        device_info=texts | objects,
    ),
    custom_contexts=st.lists(
        st.builds(
            CustomContext,
            context_type=texts.filter(bool),
            context_data=objects,
            confidence=fractions,
        ),
        max_size=3,
    ).map(tuple),
    extra=objects,
)


@given(contexts)
async def test_a_stored_context_comes_back_equal_and_has_a_row_for_each_field(
    session_conn, context
):
    transaction = session_conn.transaction()
    await transaction.start()
    try:
        memory = await add_memory(session_conn, 1, "x", enhanced_context=context)
        read = await get_memory(session_conn, 1, memory.id)
        assert read is not None
        assert read.enhanced_context == context
        rows = await session_conn.fetch("SELECT context_type, context_key FROM ltm_contexts")
    finally:
        await transaction.rollback()
    expected = [
        (section, name)
        for section in ("temporal", "spatial", "social", "environmental", "emotional", "technical")
        if getattr(context, section) is not None
        for name, value in getattr(context, section)
        if value is not None and name != "confidence"
    ]
    expected += [("custom", custom.context_type) for custom in context.custom_contexts]
    expected += [("extra", key) for key in context.extra]
    assert sorted(map(tuple, rows)) == sorted(expected)


@pytest.mark.parametrize(
    ("timestamp", "zone", "expected"),
    [
        ("2026-03-01T05:59", None, ("night", "sunday", 3, "spring", True)),
        ("2026-02-28T06:00", None, ("morning", "saturday", 2, "winter", True)),
        ("2026-06-01T12:00", None, ("afternoon", "monday", 6, "summer", False)),
        ("2026-12-31T18:00", None, ("evening", "thursday", 12, "winter", False)),
        ("2026-12-31T18:30+00:00", "Asia/Kathmandu", ("night", "friday", 1, "winter", False)),
        ("2026-12-31T18:30", "Asia/Kathmandu", ("evening", "thursday", 12, "winter", False)),
        ("2026-09-01T03:00", "America/St_Johns", ("night", "tuesday", 9, "autumn", False)),
    ],
)
def test_what_follows_from_the_timestamp_is_derived(timestamp, zone, expected):
    temporal = TemporalContext(timestamp=datetime.fromisoformat(timestamp), timezone=zone)
    derived = (
        temporal.time_of_day,
        temporal.day_of_week,
        temporal.month,
        temporal.season,
        temporal.is_weekend,
    )
    assert derived == expected
    assert temporal.is_holiday is None


def test_what_is_given_is_not_derived():
    given = TemporalContext(
        timestamp=datetime(2026, 3, 1), season="mud", is_weekend=False, day_of_week="Monday"
    )
    assert (given.season, given.is_weekend, given.day_of_week) == ("mud", False, "monday")
    assert given.timestamp == datetime(2026, 3, 1, tzinfo=UTC)


@pytest.mark.parametrize("moment", [datetime.min, datetime.max])
def test_the_ends_of_time_are_moments_too(moment):
    assert TemporalContext(timestamp=moment, timezone="Asia/Kathmandu").timestamp is not None


@pytest.mark.parametrize(
    ("model", "fields"),
    [
        (TemporalContext, {"moon": "full"}),
        (TemporalContext, {"month": 13}),
        (TemporalContext, {"timezone": "../etc/passwd"}),
        (TemporalContext, {"timestamp": 5}),
        (SpatialContext, {"coordinates": (0, 181)}),
        (SpatialContext, {"is_home": "yes"}),
        (SocialContext, {"participants": "John"}),
        (SocialContext, {"group_size": -1}),
        (EnvironmentalContext, {"temperature": float("nan")}),
        (EmotionalContext, {"energy_level": 1.5}),
        (TechnicalContext, {"os": "\0"}),
        (CustomContext, {"context_data": [1]}),
        (EnhancedContext, {"custom_contexts": [{"confidence": 2}]}),
    ],
)
def test_what_does_not_belong_is_refused_without_repeating_it(model, fields):
    with pytest.raises(ValidationError) as caught:
        model(**fields)
    assert "input_value" not in str(caught.value)


FOREIGN = [
    ({"temporal": None, "spatial": {"city": None, "venue": "hall"}}, {}, "hall"),
    ({"spatial": {"venue": "hall", "planet": "Mars"}}, {"spatial": {"planet": "Mars"}}, "hall"),
    (
        {"spatial": {"venue": "hall", "is_home": "perhaps"}},
        {"spatial": {"is_home": "perhaps"}},
        "hall",
    ),
    ({"spatial": {"venue": "hall"}, "lunar": [1]}, {"lunar": [1]}, "hall"),
    (
        {"spatial": {"venue": "hall"}, "custom_contexts": [{"x": 1}]},
        {"custom_contexts": [{"x": 1}]},
        "hall",
    ),
    ({"spatial": {"venue": "hall"}, "extra": {"a": 1}, "b": 2}, {"a": 1, "b": 2}, "hall"),
    ({"spatial": "Graz"}, {"spatial": "Graz"}, None),
    ([1, 2], {"context_data": [1, 2]}, None),
]


@pytest.mark.parametrize(("stored", "extra", "venue"), FOREIGN, ids=lambda v: str(v)[:40])
def test_what_an_older_program_stored_is_read(stored, extra, venue):
    context = read_context(json.dumps(stored))
    assert context is not None
    assert context.extra == extra
    assert (context.spatial.venue if context.spatial else None) == venue


async def test_foreign_leaves_survive_being_written_back(conn):
    memory = await add_memory(conn, 1, "x")
    await conn.execute(
        "UPDATE ltm_memories SET context_data = $1::text::jsonb WHERE id = $2",
        *('{"spatial": {"city": "Graz", "planet": "Mars"}}', memory.id),
    )
    read = await get_memory(conn, 1, memory.id)
    assert read is not None
    again = await update_memory(conn, 1, memory.id, enhanced_context=read.enhanced_context)
    assert again is not None
    assert again.enhanced_context == read.enhanced_context
    assert again.enhanced_context is not None
    assert again.enhanced_context.extra == {"spatial": {"planet": "Mars"}}


def test_an_empty_context_is_kept_apart_from_none():
    assert store_context(EnhancedContext()).text == "{}"
    assert read_context("{}") == EnhancedContext()
    assert read_context("null") is None
