"""Importing JSON Lines: one memory a line, the keywords of add_memory.

A line may also have an `id` of its own, which `related_memory_ids`, `parent_memory_id` and the
`target_memory_id` of its `relationships` speak of; every memory gets a new id as it is stored.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import Final, NamedTuple

from ltm_store.database import Connection, Database
from ltm_store.errors import InvalidMemory
from ltm_store.memories import add_memory, update_memory
from ltm_store.models import NewMemory, RelationshipDetails
from ltm_store.relationships import relate
from ltm_store.values import MemoryId, UserId

RELATED_STRENGTH: Final = 0.5  # of a link that add_memory makes


class Link(RelationshipDetails):
    """A relationship of a line to another line."""

    target_memory_id: MemoryId


class Line(NewMemory):
    """What a line of the file holds."""

    id: MemoryId | None = None
    relationships: tuple[Link, ...] = ()


class ImportReport(NamedTuple):
    """How many memories were created, how many were there already (by key), and how many links."""

    created: int
    existing: int
    relationships: int


def read_lines(lines: Iterable[str]) -> list[Line]:
    """The memories of a file's lines; blank lines are passed over.

    Raises InvalidMemory naming the line and the field, also for a link to an id that no line has.
    """
    found: list[Line] = []
    for number, text in enumerate(lines, 1):
        if not text.strip():
            continue
        try:
            found.append(Line.checked(_json_object(text)))
        except InvalidMemory as error:
            raise InvalidMemory(f"line {number}, {error.field}", error.rule) from None
    ids = {line.id for line in found}
    for line in found:
        if unknown := [i for i in _targets(line) if i not in ids]:
            raise InvalidMemory(f"the line with id {line.id}", f"no line has the id {unknown[0]}")
    return found


def _json_object(text: str) -> dict[str, object]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise InvalidMemory("memory", "not a JSON object")
    return value


def _targets(line: Line) -> list[int]:
    parent = [] if line.parent_memory_id is None else [line.parent_memory_id]
    return [
        *line.related_memory_ids,
        *parent,
        *(link.target_memory_id for link in line.relationships),
    ]


async def import_lines(
    db: Database,
    user_id: UserId,
    lines: Iterable[Line],
    *,
    stored: Callable[[], None] = lambda: None,
) -> ImportReport:
    """Store the lines as memories of this user, all or nothing; `stored` is called after each."""
    created = existing = linked = 0
    ids: dict[int | None, int] = {}
    links: list[tuple[int, Link]] = []
    orphans: list[tuple[int, int]] = []  # children that come before their parent
    async with db.transaction() as connection:
        for line in lines:
            fields = {name: getattr(line, name) for name in NewMemory.model_fields}
            fields["related_memory_ids"] = ()
            fields["parent_memory_id"] = ids.get(line.parent_memory_id)
            memory = await add_memory(connection, user_id, **fields)
            if line.id is not None:
                ids[line.id] = memory.id
            stored()
            if memory.outcome == "existing":
                existing += 1
                continue
            created += 1
            links += [(memory.id, link) for link in (*_plain_links(line), *line.relationships)]
            if line.parent_memory_id is not None and memory.parent_memory_id is None:
                orphans.append((memory.id, line.parent_memory_id))
        for child, parent in orphans:
            await update_memory(connection, user_id, child, parent_memory_id=ids[parent])
        for source, link in links:
            linked += await _store_link(
                connection, user_id, source, ids[link.target_memory_id], link
            )
    return ImportReport(created, existing, linked)


def _plain_links(line: Line) -> list[Link]:
    """The related memories of a line as the links that add_memory makes of them."""
    return [Link(target_memory_id=i, strength=RELATED_STRENGTH) for i in line.related_memory_ids]


async def _store_link(
    connection: Connection, user_id: UserId, source: int, target: int, link: Link
) -> bool:
    made = await relate(
        connection,
        user_id,
        source,
        target,
        link.relationship_type,
        strength=link.strength,
        description=link.description,
    )
    return made is not None
