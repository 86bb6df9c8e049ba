"""The colours of pictures: one per memory type, on a light page and on a dark one."""

from __future__ import annotations

from typing import Final, NamedTuple

from ltm_store.model.memories import MemoryType
from ltm_store.model.relationships import Graph

INK: Final = "#1f2328"
DARK_INK: Final = "#e6e8eb"
MUTED: Final = "#6e7781"  # legible on white and on black


class Colours(NamedTuple):
    """Of one memory type: a box's ground and its line, on a light page and on a dark one."""

    ground: str
    line: str
    dark_ground: str
    dark_line: str


_COLOURS: Final[dict[str | None, Colours]] = {
    MemoryType.PREFERENCE: Colours("#fde8ef", "#b3265a", "#46202f", "#f08bb0"),
    MemoryType.INSIGHT: Colours("#efe9fd", "#6b3fc0", "#322553", "#b79bf5"),
    MemoryType.PATTERN: Colours("#e0f3f3", "#0f7378", "#123c3e", "#5fc6cb"),
    MemoryType.FACT: Colours("#e4eefb", "#2160a8", "#172f4d", "#7fb2ec"),
    MemoryType.GOAL: Colours("#e4f5e7", "#237a3b", "#173a22", "#74ca8c"),
    MemoryType.HABIT: Colours("#fdeedb", "#9a5b0b", "#43300f", "#e6ad55"),
    MemoryType.ROUTINE: Colours("#f6f0cf", "#756200", "#39320c", "#d3bd4b"),
    MemoryType.RELATIONSHIP: Colours("#fde7df", "#b0431c", "#472517", "#f09a76"),
    MemoryType.SKILL: Colours("#def1fb", "#0a6b94", "#0f3546", "#63bfe6"),
    MemoryType.KNOWLEDGE: Colours("#e9e9fb", "#4a49b8", "#27275a", "#a3a4f2"),
}
_OTHER: Final = Colours("#eef0f2", "#57606a", "#2a2f36", "#a5adb7")


def colours_of(memory_type: str | None) -> Colours:
    """The colours of a memory type, grey ones for types that are not the library's."""
    return _COLOURS.get(memory_type, _OTHER)


def numbered_types(graph: Graph) -> dict[str | None, int]:
    """The memory types of a graph, numbered in the order in which they come."""
    return {kind: i for i, kind in enumerate(dict.fromkeys(n.memory_type for n in graph.nodes))}


def line_width(strength: float) -> float:
    """The width of a relationship's line."""
    return round(1 + 2.5 * strength, 2)
