"""Users as operators see them."""

from __future__ import annotations

from ltm_store.model.base import Row


class UserSummary(Row):
    """A user with the number of memories, archived ones too, expired ones not.

    `user_id` is the number under which everything is stored, negative where the application knows
    the user by a string, which is `external_id`.
    """

    user_id: int
    external_id: str | None
    memories: int

    @property
    def name(self) -> int | str:
        """What the functions take as the user."""
        return self.user_id if self.external_id is None else self.external_id


class ClearedKey(Row):
    """A key that a merged memory lost, because the other user has it."""

    memory_id: int
    namespace: str
    key: str | None
    idempotency_key: str | None


class CommonNumbers(Row):
    """For each table the numbers that rows of two users have."""

    ltm_memories: tuple[int, ...]
    ltm_contexts: tuple[int, ...]
    ltm_memory_relationships: tuple[int, ...]
    ltm_memory_access: tuple[int, ...]
    ltm_memory_tags: tuple[int, ...]


class MergeReport(Row):
    """What a merge did: rows by table, ids that were taken with the new ones, keys that were.

    `user_id` is the number under which everything is stored now; ltm_external_users counts the
    names that mean this user since.
    """

    user_id: int
    counts: dict[str, int]
    renumbered: dict[int, int]
    cleared: tuple[ClearedKey, ...]
