"""What a language model says to a tool and what the tool answers, with the JSON schemas of both."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Final, TypeAlias

from pydantic import BaseModel, ConfigDict, Field
from pydantic.json_schema import GenerateJsonSchema

CONTENT_CHARS: Final = 10_000  # of a memory that a model writes, and of a part that it reads
JsonSchema: TypeAlias = dict[str, Any]


class Arguments(BaseModel):
    """What a model says when it calls a tool."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)


class Answer(BaseModel):
    """What a tool answers; fields that are None are left out."""


Id = Annotated[int, Field(description="The id of the memory, as other tools tell it.")]
Budget = Annotated[
    int, Field(ge=500, le=20_000, description="How many characters the answer may have.")
]
Tags = Annotated[
    list[str],
    Field(max_length=20, description="A few short words by which it can be found, such as work."),
]
Type = Annotated[
    str,
    Field(
        min_length=1,
        max_length=50,
        description="preference, fact, goal, habit, routine, skill, insight, pattern, "
        "relationship, knowledge, or a word of yours.",
    ),
]
Importance = Annotated[
    int,
    Field(
        ge=1,
        le=10,
        description="1 trivial, 5 useful, 8 shapes many answers, 10 vital, such as allergies.",
    ),
]
Text = Annotated[
    str,
    Field(
        min_length=1,
        max_length=CONTENT_CHARS,
        description="A full sentence or two that is understood without this conversation, with "
        "names and dates instead of 'she' and 'tomorrow'.",
    ),
]


class Remember(Arguments):
    """What remember takes."""

    content: Text
    tags: Tags = []
    importance: Importance = 5
    memory_type: Type | None = None


class Recall(Arguments):
    """What recall takes."""

    query: Annotated[
        str,
        Field(
            min_length=1,
            max_length=1_000,
            description="The user's question, or words that the memory will contain.",
        ),
    ]
    tags: Annotated[
        list[str] | None, Field(min_length=1, max_length=20, description="Only with all of these.")
    ] = None
    memory_type: Type | None = None
    since: Annotated[
        datetime | None, Field(description="Only created at or after this moment, ISO 8601.")
    ] = None
    limit: Annotated[int, Field(ge=1, le=50, description="At most so many memories.")] = 10
    max_chars: Budget = 4_000


class OneMemory(Arguments):
    """What get_memory takes."""

    memory_id: Id
    start: Annotated[
        int, Field(ge=0, description="From which character on, for a long content.")
    ] = 0


class Update(Arguments):
    """What update_memory takes."""

    memory_id: Id
    content: Text | None = None
    tags: Annotated[
        Tags | None, Field(description="All of its tags: they replace the old ones.")
    ] = None
    importance: Importance | None = None
    memory_type: Type | None = None
    expected_version: Annotated[
        int | None, Field(description="Change it only if get_memory still gives this version.")
    ] = None


class Forget(Arguments):
    """What forget_memory takes."""

    memory_id: Id


class Relate(Arguments):
    """What relate_memories takes."""

    source_memory_id: Id
    target_memory_id: Id
    relationship_type: Annotated[
        str,
        Field(
            min_length=1,
            max_length=50,
            description="How the source stands to the target: related, similar, opposite, "
            "prerequisite, follows, part_of, causes, contradicts, supersedes, or a word of yours.",
        ),
    ] = "related"
    description: Annotated[str | None, Field(max_length=1_000, description="Why, in words.")] = None


class Limited(Arguments):
    """What list_tags takes."""

    limit: Annotated[int, Field(ge=1, le=200, description="At most so many.")] = 50


class Recent(Arguments):
    """What recent_memories takes."""

    limit: Annotated[int, Field(ge=1, le=50, description="At most so many memories.")] = 10
    max_chars: Budget = 4_000


class Nothing(Arguments):
    """What memory_stats takes."""


class ShortMemory(Answer):
    """A memory in a list; `is_cut` says that get_memory tells more of its content."""

    id: int
    content: str
    age: str
    why: str
    importance: float
    memory_type: str | None = None
    tags: list[str] = []
    is_cut: bool | None = None


class ShortMemories(Answer):
    """Memories, the best first; `left_out` counts those for which there was no more room."""

    memories: list[ShortMemory]
    left_out: int = 0


class SimilarMemory(Answer):
    """A memory that one resembles, and by what."""

    id: int
    content: str
    why: str


class Remembered(Answer):
    """A stored memory, with what was known before that resembles it."""

    id: int
    duplicate_of: int | None = None
    similar: list[SimilarMemory]
    advice: str | None = None


class RelatedMemory(Answer):
    """The other memory of a relationship; outgoing ones lead from this memory to it."""

    id: int
    content: str
    relationship_type: str
    direction: str


class WholeMemory(Answer):
    """A memory; where its content goes on, next_start is where."""

    id: int
    content: str
    next_start: int | None = None
    memory_type: str | None = None
    tags: list[str]
    importance: float
    age: str
    created_at: datetime | None = None
    last_modified: datetime | None = None
    version: int
    is_archived: bool
    relationships: list[RelatedMemory]


class Updated(Answer):
    """A changed memory."""

    id: int
    content: str
    version: int


class Forgotten(Answer):
    """Whether there was such a memory; now there is none."""

    id: int
    forgotten: bool


class Related(Answer):
    """A relationship that holds now."""

    source_memory_id: int
    target_memory_id: int
    relationship_type: str


class TagCount(Answer):
    """A tag, and how many memories carry it."""

    tag: str
    memories: int


class TagCounts(Answer):
    """Tags, the most frequent first."""

    tags: list[TagCount]


class Figures(Answer):
    """Figures over all memories of the user; by_namespace where some are in one."""

    memories: int
    archived: int
    average_importance: float | None = None
    by_type: dict[str, int]
    by_tag: dict[str, int]
    by_namespace: dict[str, int] | None = None
    by_month: dict[str, int]


class _Schema(GenerateJsonSchema):
    """Schemas without titles, which say the names again."""

    def field_title_should_be_set(self, schema: object) -> bool:
        return False


def schema_of(model: type[Arguments | Answer]) -> JsonSchema:
    """The JSON schema of a tool's arguments or answer."""
    schema = model.model_json_schema(schema_generator=_Schema)
    for part in (schema, *schema.get("$defs", {}).values()):
        part.pop("title", None)
        part.pop("description", None)
    return schema
