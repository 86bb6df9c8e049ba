"""Memories as text for an assistant's prompt."""

from __future__ import annotations

from collections.abc import Iterable
from textwrap import dedent, indent

from ltm_store.errors import InvalidArgument
from ltm_store.model.memories import Memory
from ltm_store.render.text import escaped, legible


def format_for_prompt(hits: Iterable[Memory], *, max_chars: int) -> str:
    """The memories as text to paste into a prompt, in their order, at most max_chars long in all.

    A memory is "- (2026-03-02, preference) content". A content of several lines begins on the next
    one and keeps its line breaks and indentation, two spaces further in, so that only a memory
    begins with a dash at the margin. Control characters become escapes. A memory is never cut: one
    that does not fit any more is left out, and a shorter one after it may still find room. Of those
    that say the same, but for letter case and white space, the first one stands for all.
    """
    if type(max_chars) is not int or max_chars < 0:
        raise InvalidArgument("max_chars", "should be a number of characters, 0 or more")
    entries: list[str] = []
    told: set[str] = set()
    room = max_chars
    for hit in hits:
        said = " ".join(hit.content.lower().split())
        entry = _entry(hit)
        needed = len(entry) + bool(entries)  # with the line break before it
        if needed <= room and said not in told:
            entries.append(entry)
            told.add(said)
            room -= needed
    return "\n".join(entries)


def _entry(memory: Memory) -> str:
    known = [
        memory.created_at and f"{memory.created_at:%Y-%m-%d}",
        legible(memory.memory_type or ""),
    ]
    about = ", ".join(word for word in known if word)
    head = f"- ({about})" if about else "-"
    lines = [line.rstrip() for line in memory.content.splitlines()]
    content = escaped(dedent("\n".join(lines)).strip("\n"))
    if "\n" not in content:
        return f"{head} {content.strip()}"
    return f"{head}\n{indent(content, '  ')}"
