"""Many new memories at once: COPY into the tables, under ids that were drawn before."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from ltm_store.adding import FORGOTTEN, expiry, insert_memory, warn_of_other_content
from ltm_store.db.copying import Table, Values, copy_rows
from ltm_store.db.execute import fetch_rows, fetch_value
from ltm_store.db.identity import User
from ltm_store.db.transactions import Connection, begun
from ltm_store.embeddings import Vectors, write_embeddings
from ltm_store.errors import InvalidMemory, Unavailable
from ltm_store.model.contexts import ContextToStore, store_context
from ltm_store.model.memories import Conflict, NewMemory
from ltm_store.model.transfer import ExportedMemory, ExportedRelationship, ImportReport
from ltm_store.model.values import dump_json, moment
from ltm_store.model.vectors import CALLER

_MEMORIES: Final = Table(
    "ltm_memories",
    (
        *("id", "user_id", "content", "tags", "memory_type", "category", "importance_score"),
        *("confidence_score", "dynamic_importance", "context", "context_data", "source_type"),
        *("source_id", "source_position", "created_by", "created_at", "parent_memory_id"),
        *("memory_metadata", "expires_at", "expires_after", "namespace", "key"),
        *("idempotency_key", "related_memory_ids"),
        *("version", "access_count", "last_accessed", "last_access_context", "last_modified"),
        *("is_archived", "archive_reason"),
    ),
)
_TAGS: Final = Table(
    "ltm_memory_tags",
    (
        *("user_id", "memory_id", "tag_name", "tag_category", "tag_importance"),
        *("tag_confidence", "usage_count", "first_used", "last_used"),
    ),
)
_CONTEXTS: Final = Table(
    "ltm_contexts",
    (
        *("user_id", "memory_id", "context_type", "context_key", "context_value"),
        *("confidence", "created_at"),
    ),
)
_RELATIONSHIPS: Final = Table(
    "ltm_memory_relationships",
    (
        *("user_id", "source_memory_id", "target_memory_id", "relationship_type", "strength"),
        *("description", "created_at", "last_accessed"),
    ),
)
_ACCESSES: Final = Table(
    "ltm_memory_access",
    (
        *("user_id", "memory_id", "access_timestamp", "access_method", "access_context"),
        *("user_query", "was_relevant", "relevance_score"),
    ),
)

_MOST_TOGETHER: Final = 500  # memories of a batch
_MOST_CHARS: Final = 4_194_304  # of their contents, metadata and contexts, at which a batch ends
_VECTORS_TOGETHER: Final = 64  # memories whose vectors are written by one statement
_FEW: Final = 4  # memories that are added faster one by one
_RELATED_STRENGTH: Final = 0.5  # of a relationship that add_memory makes
_NOTHING: Final = ContextToStore("", [])


@dataclass(slots=True, eq=False, repr=False)
class Draft:
    """A memory to write, and the id that it gets; or that of the one that has its key already."""

    place: int  # in what the caller gave
    new: NewMemory
    line: ExportedMemory | None = None  # what is to be written beyond an add
    metadata: str | None = field(init=False)
    context: ContextToStore = field(init=False)
    idempotency_key: str | None = field(init=False)
    key: str | None = field(init=False)
    expires_at: datetime | None = None
    parent_memory_id: int | None = None
    links: list[ExportedRelationship] = field(default_factory=list)
    memory_id: int = 0
    dynamic_importance: float = 0.0
    is_new: bool = True
    is_linked: bool = False
    is_copied: bool = False

    def __post_init__(self) -> None:
        new = self.new
        self.idempotency_key, self.key = new.idempotency_key, new.key
        self.metadata = None if new.metadata is None else dump_json(new.metadata)
        described = new.enhanced_context
        self.context = _NOTHING if described is None else store_context(described)

    @property
    def can_be_copied(self) -> bool:
        """Whether it is clear which tags its details are of: the server has its own lower case."""
        names = [tag.tag_name for tag in self.line.tag_details] if self.line else []
        return len(set(names)) == len(names) and set(names) <= set(self.new.tags)

    @property
    def vectors(self) -> Mapping[str, Sequence[Sequence[float]]]:
        """The vectors that it brings along, by model, those of a content's parts in their order."""
        new = self.new
        own = {} if new.embedding is None else {new.embedding_model or CALLER: [new.embedding]}
        return own | (dict(self.line.embeddings) if self.line else {})

    @property
    def chars(self) -> int:
        """Roughly how much it takes to hold and to send."""
        return len(self.new.content) + len(self.metadata or "") + 2 * len(self.context.text)

    @property
    def targets(self) -> list[int]:
        """The memories that its relationships lead to, each once."""
        return list(dict.fromkeys(link.target_memory_id for link in self.links))

    @property
    def related_memory_ids(self) -> str | None:
        """These as the memory's column holds them."""
        return dump_json(self.targets) if self.links else None

    async def add(self, connection: Connection, user: User, new: NewMemory) -> None:
        """Add it by a statement of its own."""
        try:
            memory = await insert_memory(connection, user, new)
        except Conflict:
            raise InvalidMemory("key", "exists already") from None
        if memory is None:
            raise Unavailable(FORGOTTEN)
        self.memory_id, self.is_new = memory.id, memory.outcome == "created"


def related_to(memory_id: int) -> ExportedRelationship:
    """The relationship that add_memory makes to a related memory."""
    return ExportedRelationship(target_memory_id=memory_id, strength=_RELATED_STRENGTH)


class Batches(ABC):
    """Memories of one user that are gathered and written together, in a transaction.

    What the server refuses it refuses together; then each is added alone, which tells what is wrong
    with which. So are all where this role may not copy.
    """

    def __init__(self, connection: Connection, user: User) -> None:
        self.connection = connection
        self.user = user
        self._counts = dict.fromkeys(("created", "existing", "relationships"), 0)
        self._gathered: list[Draft] = []
        self._chars = 0
        self._may_copy: bool | None = None

    @abstractmethod
    def link(self, drafts: Sequence[Draft]) -> None:
        """Tell drafts, whose ids are known now, which memories they speak of."""

    @abstractmethod
    async def add_alone(self, draft: Draft) -> None:
        """Add one, or raise InvalidMemory, or note that it is refused."""

    def count(self, draft: Draft) -> None:
        """Take note of one that was written, or was there already."""
        self._counts["created" if draft.is_new else "existing"] += 1
        if draft.is_new:
            line = draft.line
            self._counts["relationships"] += len(draft.new.related_memory_ids)
            self._counts["relationships"] += len(line.relationships) if line else 0

    @property
    def written(self) -> int:
        """How many have been written, or were there already."""
        return self._counts["created"] + self._counts["existing"]

    def report(self) -> ImportReport:
        """What has been counted."""
        return ImportReport(**self._counts)

    async def take(self, draft: Draft) -> None:
        """Write a memory, now or with later ones."""
        self._gathered.append(draft)
        self._chars += draft.chars
        if len(self._gathered) >= _MOST_TOGETHER or self._chars >= _MOST_CHARS:
            await self.write()

    async def write(self) -> None:
        """Write what is gathered."""
        drafts, self._gathered, self._chars = self._gathered, [], 0
        if len(drafts) > _FEW and await self._are_copied(drafts):
            for draft in drafts:
                self.count(draft)
        else:
            for draft in drafts:
                await self.add_alone(draft)

    async def _are_copied(self, drafts: list[Draft]) -> bool:
        if self._may_copy is None:
            self._may_copy = await fetch_value(self.connection, "may_copy")
        if not self._may_copy or not all(draft.can_be_copied for draft in drafts):
            return False
        now = moment(None)
        try:
            async with begun(self.connection):
                await _find_ids(self.connection, self.user, drafts, now)
                self.link(drafts)
                await _copy(self.connection, self.user, drafts, now)
        except InvalidMemory:
            return False
        for draft in drafts:
            draft.is_copied = True
        return True


async def _find_ids(connection: Connection, user: User, drafts: list[Draft], now: datetime) -> None:
    """Tell each draft its id: of the memory that has its key already, or a new one.

    Raises Unavailable where the user was forgotten.
    """
    for draft in drafts:
        draft.expires_at = expiry(draft.new, now)
    twins = await _find_holders(connection, user, drafts, now)
    new = [draft for draft in drafts if draft.is_new]
    if new:
        await _draw_ids(connection, user, new, now)
    for draft, first in twins:
        draft.memory_id = first.memory_id
        if draft.new.content != first.new.content:
            warn_of_other_content(draft.memory_id, is_archived=False)


async def _find_holders(
    connection: Connection, user: User, drafts: list[Draft], now: datetime
) -> list[tuple[Draft, Draft]]:
    """Find who has the drafts' keys; what comes back are drafts with the key of an earlier one."""
    keys = list({d.idempotency_key: None for d in drafts if d.idempotency_key is not None})
    holders = {}
    if keys:
        found = await fetch_rows(
            connection, "hold_keys", user_id=user.number, idempotency_keys=keys, now=now
        )
        holders = {row["idempotency_key"]: row for row in found}
    first: dict[str, Draft] = {}
    twins = []
    for draft in drafts:
        key = draft.idempotency_key
        if key is None:
            continue
        earlier, holder = first.get(key), holders.get(key)
        if earlier is not None and not _has_expired(earlier, now):
            draft.is_new = False
            twins.append((draft, earlier))
        elif holder is not None:
            draft.is_new = False
            draft.memory_id = holder["id"]
            if holder["digest"] != hashlib.sha256(draft.new.content.encode()).digest():
                warn_of_other_content(draft.memory_id, is_archived=holder["is_archived"])
        else:
            if earlier is not None:  # loses its keys as a stored memory that has expired does
                earlier.idempotency_key = earlier.key = None
            first[key] = draft
    return twins


def _has_expired(draft: Draft, now: datetime) -> bool:
    return draft.expires_at is not None and draft.expires_at <= now


async def _draw_ids(connection: Connection, user: User, new: list[Draft], now: datetime) -> None:
    rows = await fetch_rows(
        connection,
        "draw_memories",
        user_id=user.number,
        external=user.is_external,
        now=now,
        importance_scores=[draft.new.importance_score for draft in new],
        confidence_scores=[draft.new.confidence_score for draft in new],
        access_counts=[draft.line.access_count if draft.line else 0 for draft in new],
        last_accesses=[draft.line.last_accessed if draft.line else None for draft in new],
        creations=[draft.new.created_at or now for draft in new],
    )
    if not rows:
        raise Unavailable(FORGOTTEN)
    ids = sorted(row["id"] for row in rows)  # in the order of the drafts, whatever the plan
    for draft, memory_id, row in zip(new, ids, rows, strict=True):
        draft.memory_id = memory_id
        draft.dynamic_importance = row["dynamic_importance"]


async def _copy(connection: Connection, user: User, drafts: list[Draft], now: datetime) -> None:
    """Write the new ones, with all their rows. InvalidMemory does not tell which is refused."""
    number, written = user.number, str(now)
    new = [draft for draft in drafts if draft.is_new]
    await copy_rows(connection, _MEMORIES, [_memory(number, draft, written) for draft in new])
    await copy_rows(
        connection, _TAGS, [row for draft in new for row in _tags(number, draft, written)]
    )
    await copy_rows(
        connection,
        _CONTEXTS,
        [(number, draft.memory_id, *row, written) for draft in new for row in draft.context.rows],
    )
    await copy_links(connection, user, new, now)
    await copy_rows(
        connection, _ACCESSES, [row for draft in new for row in _accesses(number, draft)]
    )
    await write_vectors(connection, user, new)


async def write_vectors(connection: Connection, user: User, drafts: Sequence[Draft]) -> None:
    """Write the vectors that some drafts bring along."""
    found: dict[tuple[str, int], list[Vectors]] = {}
    for draft in drafts:
        for model, vectors in draft.vectors.items():
            alike = found.setdefault((model, len(vectors[0])), [])
            alike.append((draft.memory_id, None, vectors))
    for (model, _), given in found.items():
        for start in range(0, len(given), _VECTORS_TOGETHER):
            these = given[start : start + _VECTORS_TOGETHER]
            await write_embeddings(connection, model, user.number, these)


async def copy_links(
    connection: Connection, user: User, drafts: Sequence[Draft], now: datetime
) -> None:
    """Write the relationships of some drafts."""
    rows = [row for draft in drafts for row in _relationships(user.number, draft, str(now))]
    await copy_rows(connection, _RELATIONSHIPS, rows)


def _memory(user: int, draft: Draft, now: str) -> Values:
    new, line = draft.new, draft.line
    history: Values = (1, 0, None, None, now, False, None)
    if line is not None:
        history = (
            *(line.version, line.access_count, line.last_accessed, line.last_access_context),
            *(line.last_modified or now, line.is_archived, line.archive_reason),
        )
    return (
        *(draft.memory_id, user, new.content, dump_json(new.tags), new.memory_type, new.category),
        *(new.importance_score, new.confidence_score, draft.dynamic_importance, new.context),
        *(draft.context.text or None, new.source_type, new.source_id, new.source_position),
        *(new.created_by, new.created_at or now, draft.parent_memory_id, draft.metadata),
        *(draft.expires_at, new.expires_after, new.namespace, draft.key),
        *(draft.idempotency_key, draft.related_memory_ids),
        *history,
    )


def _relationships(user: int, draft: Draft, now: str) -> Iterable[Values]:
    rows: dict[tuple[int, str], Values] = {}  # of equal ones the first counts
    for link in draft.links:
        row = (
            *(user, draft.memory_id, link.target_memory_id, link.relationship_type, link.strength),
            *(link.description, link.created_at or now, link.last_accessed),
        )
        rows.setdefault((link.target_memory_id, link.relationship_type), row)
    return rows.values()


def _tags(user: int, draft: Draft, now: str) -> list[Values]:
    created = draft.new.created_at or now
    details: dict[str, Values] = {}
    if draft.line is not None:
        details = {
            tag.tag_name: (
                *(tag.tag_category, tag.tag_importance, tag.tag_confidence),
                *(tag.usage_count, tag.first_used, tag.last_used),
            )
            for tag in draft.line.tag_details
        }
    usual = ("general", 1.0, 1.0, 1, created, created)
    return [
        (user, draft.memory_id, name, *details.get(name, usual))
        for name in dict.fromkeys(draft.new.tags)
    ]


def _accesses(user: int, draft: Draft) -> list[Values]:
    return [
        (
            *(user, draft.memory_id, access.access_timestamp, access.access_method),
            *(access.access_context, access.user_query, access.was_relevant),
            access.relevance_score,
        )
        for access in (draft.line.accesses if draft.line else ())
    ]
