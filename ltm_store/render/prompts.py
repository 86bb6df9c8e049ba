"""Memories as text for an assistant's prompt."""

from __future__ import annotations

from collections.abc import Iterable
from textwrap import dedent, indent

from ltm_store.errors import InvalidArgument
from ltm_store.model.memories import Memory
from ltm_store.render.text import escaped, legible


def format_for_prompt(hits: Iterable[Memory], *, max_chars: int, ids: bool = False) -> str:
    """The memories as text to paste into a prompt, in their order, at most max_chars long in all.

    A memory is "- (2026-03-02, preference) content", with ids "- (7, 2026-03-02, preference)". A
    content of several lines begins on the next one and keeps its line breaks and indentation, two
    spaces further in, so that only a memory begins with a dash at the margin. Control characters
    become escapes. A memory is never cut: one that does not fit any more is left out, and a shorter
    one after it may still find room; the last line then says "(2 more left out)". Of those that say
    the same, but for letter case and white space, the first one stands for all.
    """
    if type(max_chars) is not int or max_chars < 0:
        raise InvalidArgument("max_chars", "should be a number of characters, 0 or more")
    entries = [(" ".join(hit.content.lower().split()), _entry(hit, ids=ids)) for hit in hits]
    different = len({said for said, _ in entries})
    shown = _fitting(entries, max_chars)
    if len(shown) < different:
        fewer = _fitting(entries, max_chars - len(_note(different)) - 1)
        note = _note(different - len(fewer))
        if fewer or (not shown and len(note) <= max_chars):
            shown = [*fewer, note]
    return "\n".join(shown)


def _note(count: int) -> str:
    return f"({count} more left out)"


def _fitting(entries: list[tuple[str, str]], room: int) -> list[str]:
    """Of entries with what they say, those that fit into the room; what says the same once."""
    shown: dict[str, str] = {}
    for said, entry in entries:
        needed = len(entry) + bool(shown)  # with the line break before it
        if needed <= room and said not in shown:
            shown[said] = entry
            room -= needed
    return list(shown.values())


def _entry(memory: Memory, *, ids: bool) -> str:
    known = [
        str(memory.id) if ids else "",
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
