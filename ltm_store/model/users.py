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
