"""Contexts: the structured circumstances of a memory."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from typing import Annotated, Any, Final, Literal, NamedTuple, Self
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    Json,
    JsonValue,
    StrictBool,
    StrictFloat,
    StrictInt,
    TypeAdapter,
    ValidationError,
    ValidationInfo,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    model_validator,
)

from ltm_store import limits
from ltm_store.errors import InvalidMemory
from ltm_store.model.values import (
    ASKED,
    STORED,
    Fraction,
    JsonObject,
    Moment,
    Note,
    Text,
    dump_json,
    load_json,
    utc,
)

TimeOfDay = Literal["night", "morning", "afternoon", "evening"]
DayOfWeek = Literal["monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"]
_TIMES_OF_DAY: Final[tuple[TimeOfDay, ...]] = ("night", "morning", "afternoon", "evening")
_DAYS: Final[tuple[DayOfWeek, ...]] = (
    "monday",
    "tuesday",
    "wednesday",
    "thursday",
    "friday",
    "saturday",
    "sunday",
)
_SEASONS: Final = ("winter", "spring", "summer", "autumn")


def _known_timezone(name: str, info: ValidationInfo) -> str:
    if info.context is STORED:  # this machine may know fewer zones than the one that wrote it
        return name
    try:
        ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise ValueError("should be an IANA time zone") from None
    return name


def _lower(value: object) -> object:
    return value.lower() if isinstance(value, str) else value


Level = Fraction | Note
"""A number 0 .. 1, or a word."""

Timezone = Annotated[Text, AfterValidator(_known_timezone)]
Latitude = Annotated[StrictFloat, Field(ge=-90, le=90)]
Longitude = Annotated[StrictFloat, Field(ge=-180, le=180)]


class Context(BaseModel):
    """What all contexts share: frozen, no unknown fields, and a confidence 0..1."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    confidence: Fraction = 1.0


class TemporalContext(Context):
    """When. What follows from `timestamp` in `timezone` (UTC if unset) is derived when left out.

    A naive timestamp is local time in `timezone`, without one UTC.
    time_of_day: night 0-5, morning 6-11, afternoon 12-17, evening 18-23 o'clock. season: northern,
    spring from March; another text is accepted. is_holiday is never derived.
    """

    timestamp: Moment | None = None
    time_of_day: Annotated[TimeOfDay, BeforeValidator(_lower)] | None = None
    day_of_week: Annotated[DayOfWeek, BeforeValidator(_lower)] | None = None
    month: Annotated[StrictInt, Field(ge=1, le=12)] | None = None
    season: Note | None = None
    is_weekend: StrictBool | None = None
    is_holiday: StrictBool | None = None
    timezone: Timezone | None = None

    @model_validator(mode="before")
    @classmethod
    def _localise(cls, data: object, info: ValidationInfo) -> object:
        if info.context is STORED or not isinstance(data, Mapping):
            return data
        moment, zone = data.get("timestamp"), data.get("timezone")
        if isinstance(moment, str):
            with suppress(ValueError):
                moment = datetime.fromisoformat(moment)
        if isinstance(moment, datetime) and moment.tzinfo is None and isinstance(zone, str):
            with suppress(ZoneInfoNotFoundError, ValueError, OSError):  # refused as a timezone
                return {**data, "timestamp": utc(moment.replace(tzinfo=ZoneInfo(zone)))}
        return data

    @model_validator(mode="after")
    def _derive(self, info: ValidationInfo) -> Self:
        if self.timestamp is None or info.context in (STORED, ASKED):
            return self
        try:
            local = self.timestamp.astimezone(ZoneInfo(self.timezone) if self.timezone else UTC)
        except OverflowError:  # within a day of the years 1 or 9999
            return self
        derived: dict[str, object] = {
            "time_of_day": _TIMES_OF_DAY[local.hour // 6],
            "day_of_week": _DAYS[local.weekday()],
            "month": local.month,
            "season": _SEASONS[local.month % 12 // 3],
            "is_weekend": local.weekday() >= 5,
        }
        for name, value in derived.items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, value)  # frozen for everybody else
        return self


class SpatialContext(Context):
    """Where. coordinates: latitude and longitude in degrees."""

    location: Note | None = None
    coordinates: tuple[Latitude, Longitude] | None = None
    venue: Note | None = None
    city: Note | None = None
    country: Note | None = None
    is_home: StrictBool | None = None
    is_work: StrictBool | None = None
    is_traveling: StrictBool | None = None


class SocialContext(Context):
    """With whom. participants: names."""

    participants: tuple[Note, ...] | None = None
    conversation_id: Note | None = None
    relationship_type: Note | None = None
    group_size: Annotated[StrictInt, Field(ge=0, le=2**53)] | None = None
    mood: Note | None = None
    formality_level: Level | None = None


class EnvironmentalContext(Context):
    """In what surroundings. temperature: degrees Celsius; humidity: per cent."""

    weather: Note | None = None
    temperature: Annotated[StrictFloat, Field(ge=-273.15, le=1000)] | None = None
    humidity: Annotated[StrictFloat, Field(ge=0, le=100)] | None = None
    noise_level: Annotated[StrictFloat, Field(ge=-200, le=200)] | Note | None = None
    device_type: Note | None = None
    platform: Note | None = None
    network_quality: Note | None = None


class EmotionalContext(Context):
    """In what state of mind. Each level is a number 0 .. 1 or a word."""

    mood: Note | None = None
    energy_level: Level | None = None
    stress_level: Level | None = None
    focus_level: Level | None = None
    motivation: Level | None = None


class TechnicalContext(Context):
    """With what tools."""

    tool_name: Note | None = None
    tool_version: Note | None = None
    api_version: Note | None = None
    system_info: Note | JsonObject | None = None
    browser: Note | None = None
    os: Note | None = None
    device_info: Note | JsonObject | None = None


class CustomContext(Context):
    """Anything else: a type of the caller's own, and any JSON object."""

    context_type: Annotated[Text, Field(min_length=1, max_length=limits.CONTEXT_KEY_CHARS)] = (
        "custom"
    )
    context_data: JsonObject = Field(default_factory=dict)


_SECTIONS: Final[dict[str, type[Context]]] = {
    "temporal": TemporalContext,
    "spatial": SpatialContext,
    "social": SocialContext,
    "environmental": EnvironmentalContext,
    "emotional": EmotionalContext,
    "technical": TechnicalContext,
}


_FIELDS: Final = sum(len(section.model_fields) for section in _SECTIONS.values())


class ContextRow(NamedTuple):
    """One row of ltm_contexts."""

    context_type: str
    context_key: str
    context_value: str
    confidence: float


class EnhancedContext(BaseModel):
    """All circumstances of a memory. `extra` holds what no other field takes, by its name."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        hide_input_in_errors=True,
        revalidate_instances="subclass-instances",  # one that can be changed becomes one of these
    )

    temporal: TemporalContext | None = None
    spatial: SpatialContext | None = None
    social: SocialContext | None = None
    environmental: EnvironmentalContext | None = None
    emotional: EmotionalContext | None = None
    technical: TechnicalContext | None = None
    custom_contexts: tuple[CustomContext, ...] = ()
    extra: JsonObject = Field(default_factory=dict)

    @model_validator(mode="after")
    def _within_limits(self, info: ValidationInfo) -> Self:
        if info.context is STORED:
            return self
        if any(len(key) > limits.CONTEXT_KEY_CHARS for key in self.extra):
            raise ValueError(f"a key of extra is longer than {limits.CONTEXT_KEY_CHARS} characters")
        free = len(self.custom_contexts) + len(self.extra)
        if free + _FIELDS > limits.CONTEXT_LEAVES and self._leaves() > limits.CONTEXT_LEAVES:
            raise ValueError(f"more than {limits.CONTEXT_LEAVES} fields are set")
        return self

    def _leaves(self) -> int:
        sections = (getattr(self, name) for name in _SECTIONS)
        fields = (
            value is not None
            for section in sections
            if section is not None
            for name, value in section
            if name != "confidence"
        )
        return sum(fields) + len(self.custom_contexts) + len(self.extra)

    def stored(self) -> dict[str, Any]:
        """The JSON object that is stored: what is set, moments as ISO 8601 text."""
        return self.model_dump(mode="json", exclude_defaults=True)


class ContextToStore(NamedTuple):
    """A context as a statement takes it: the JSON object's text, and one row per field set."""

    text: str
    rows: list[ContextRow]


def _as_text(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return value if isinstance(value, str) else dump_json(value)


def store_context(context: EnhancedContext) -> ContextToStore:
    """What to store for a context.

    Raises InvalidMemory when it is longer than limits.JSON_BYTES as JSON.
    """
    data = context.stored()
    text = dump_json(data)
    if len(text.encode()) > limits.JSON_BYTES:
        raise InvalidMemory("enhanced_context", f"longer than {limits.JSON_BYTES} bytes as JSON")
    return ContextToStore(text, _rows(context, data))


def context_rows(context: EnhancedContext) -> list[ContextRow]:
    """One row for each field that is set."""
    return _rows(context, context.stored())


def _rows(context: EnhancedContext, data: Mapping[str, Any]) -> list[ContextRow]:
    rows = [
        ContextRow(section, key, _as_text(value), confidence)
        for section in _SECTIONS
        if section in data
        for confidence in (data[section].get("confidence", 1.0),)
        for key, value in data[section].items()
        if key != "confidence"
    ]
    rows += [
        ContextRow("custom", custom.context_type, dump_json(custom.context_data), custom.confidence)
        for custom in context.custom_contexts
    ]
    rows += [ContextRow("extra", key, _as_text(value), 1.0) for key, value in context.extra.items()]
    return rows


def _read(value: object, in_rust: ValidatorFunctionWrapHandler) -> EnhancedContext | None:
    if not isinstance(value, str):  # what a caller hands in
        known = EnhancedContext.model_validate
        return None if value is None else known(value, context=STORED)
    try:
        context: EnhancedContext | None = in_rust(value)
    except ValidationError:
        return _salvage(load_json(value))
    return context


StoredContext = Annotated[Json[EnhancedContext | None], WrapValidator(_read)]
"""The context of a stored row as JSON text, whoever wrote it. Reading it never fails."""


class UnreadContext(NamedTuple):
    """The context of a trusted row as it is stored, until somebody asks for it."""

    text: str

    @classmethod
    def of(cls, text: str | None) -> Self | None:
        """What a row holds in the place of its context."""
        return None if text is None else cls(text)


_STORED_CONTEXT: Final = TypeAdapter[EnhancedContext | None](StoredContext)


class ContextOnDemand:
    """Reads the context of a row when it is first asked for: that takes longer than all the rest.

    It stands in the place of the field on the class, so it is asked before the row's own values.
    """

    def __get__(self, row: BaseModel | None, owner: object) -> EnhancedContext | None:
        if row is None:  # pydantic looks for a default, and there is none
            raise AttributeError("enhanced_context")
        context = row.__dict__["enhanced_context"]
        if isinstance(context, UnreadContext):
            context = _STORED_CONTEXT.validate_python(context.text, context=STORED)
            row.__dict__["enhanced_context"] = context
        found: EnhancedContext | None = context
        return found

    def __set__(self, row: BaseModel, value: object) -> None:
        raise AttributeError("rows are frozen")


def _salvage(data: JsonValue) -> EnhancedContext:
    """What is understood where it belongs, all else in `extra`; nulls are unset."""
    if not isinstance(data, dict):
        return EnhancedContext(extra={"context_data": data})
    known: dict[str, Any] = {}
    extra: dict[str, Any] = {}
    for name, value in data.items():
        foreign = value
        if name in _SECTIONS and isinstance(value, dict):
            section = _SECTIONS[name]
            fields = {key: leaf for key, leaf in value.items() if _accepts(section, {key: leaf})}
            known[name] = section.model_validate(fields, context=STORED)
            foreign = {
                key: leaf for key, leaf in value.items() if leaf is not None and key not in fields
            }
        elif name == "custom_contexts" and isinstance(value, list):
            known[name] = tuple(
                CustomContext.model_validate(entry)
                for entry in value
                if _accepts(CustomContext, entry)
            )
            foreign = [entry for entry in value if not _accepts(CustomContext, entry)]
        elif name == "extra" and isinstance(value, dict):
            extra.update(value)
            continue
        if foreign not in (None, {}, []):
            extra[name] = foreign
    return EnhancedContext.model_construct(**known, extra=extra)


def _accepts(model: type[Context], values: object) -> bool:
    try:
        model.model_validate(values)
    except ValidationError:
        return False
    return True
