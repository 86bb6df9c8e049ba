"""The original application's tables: their columns, and how their changes are noted."""

from __future__ import annotations

from typing import Final, NamedTuple

MEMORIES: Final = "ltm_memories"
RANKS: Final = "ltm_memory_ranks"  # which the original has not: a trigger fills it

# What the columns of the original are, and the types in which databases out there have them.
KINDS: Final = {
    "key": ("int2", "int4", "int8"),
    "int": ("int2", "int4", "int8"),
    "number": ("int2", "int4", "int8", "float4", "float8", "numeric"),
    "text": ("text", "varchar", "bpchar"),
    "json": ("jsonb", "json", "text", "varchar"),
    "moment": ("timestamp", "date"),
    "bool": ("bool",),
}


class Original(NamedTuple):
    """A table of the original: the view that shows it, its columns, how changes are noted."""

    view: str
    columns: dict[str, str]
    note: str
    memory_key: str  # the column that says to which memory a row belongs

    @property
    def found_by(self) -> tuple[str, ...]:
        """The columns by which a batch finds its rows."""
        return tuple(dict.fromkeys(("id", self.memory_key)))


def _columns(text: str) -> dict[str, str]:
    """Names by kind from lines of `kind: name name`."""
    lines = (line.split(":") for line in text.strip().splitlines())
    return {name: kind.strip() for kind, names in lines for name in names.split()}


ORIGINALS: Final = {
    "ltm_contexts": Original(
        "contexts",
        _columns("""
            key: id memory_id
            text: context_type context_key context_value
            number: confidence
            moment: created_at
        """),
        "note_child",
        "memory_id",
    ),
    "ltm_memory_relationships": Original(
        "relationships",
        _columns("""
            key: id source_memory_id target_memory_id
            text: relationship_type description
            number: strength
            moment: created_at last_accessed
        """),
        "note_relationship",
        "source_memory_id",
    ),
    "ltm_memory_access": Original(
        "accesses",
        _columns("""
            key: id memory_id
            moment: access_timestamp
            text: access_context access_method user_query
            bool: was_relevant
            number: relevance_score
        """),
        "note_access",
        "memory_id",
    ),
    "ltm_memory_tags": Original(
        "tags",
        _columns("""
            key: id memory_id
            text: tag_name tag_category
            number: tag_importance tag_confidence
            int: usage_count
            moment: first_used last_used
        """),
        "note_child",
        "memory_id",
    ),
    MEMORIES: Original(
        "memories",
        _columns("""
            key: id user_id parent_memory_id
            text: content memory_type category context source_type source_id created_by
            text: last_access_context archive_reason
            json: tags context_data related_memory_ids memory_metadata
            int: importance_score access_count
            number: confidence_score dynamic_importance
            moment: created_at last_accessed last_modified
            bool: is_archived
        """),
        "note_memory",
        "id",
    ),
}
NEEDED: Final = ("id", "user_id", "content", "tags")  # in ltm_memories, whatever its age
KEYS: Final = ("id", "memory_id", "source_memory_id", "target_memory_id")
