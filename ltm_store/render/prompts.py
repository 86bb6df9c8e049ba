"""Memories as text for an assistant's prompt."""

from __future__ import annotations

from collections.abc import Iterable

from ltm_store.errors import InvalidArgument
from ltm_store.model.memories import Memory


def format_for_prompt(hits: Iterable[Memory], *, max_chars: int) -> str:
    """The memories as lines to paste into a prompt, in their order, at most max_chars long in all.

    A line is "- (2026-03-02, preference) content". A memory is never cut: one that does not fit any
    more is left out, and a shorter one after it may still find room.
    """
    if type(max_chars) is not int or max_chars < 0:
        raise InvalidArgument("max_chars", "should be a number of characters, 0 or more")
    lines: list[str] = []
    room = max_chars
    for hit in hits:
        line = _line(hit)
        needed = len(line) + bool(lines)  # with the line break before it
        if needed <= room:
            lines.append(line)
            room -= needed
    return "\n".join(lines)


def _line(memory: Memory) -> str:
    known = [memory.created_at and f"{memory.created_at:%Y-%m-%d}", memory.memory_type]
    about = ", ".join(word for word in known if word)
    content = " ".join(memory.content.split())
    return f"- ({about}) {content}" if about else f"- {content}"
