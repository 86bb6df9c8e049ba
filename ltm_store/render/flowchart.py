"""Graphs of memories in the languages of Mermaid and Graphviz."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from ltm_store.model.relationships import Graph, GraphEdge, GraphNode
from ltm_store.render.colours import INK, MUTED, colours_of, line_width, numbered_types
from ltm_store.render.text import label, legible

_NODE_CHARS: Final = 60  # of a memory in Mermaid
_EDGE_CHARS: Final = 50
_DOT_HEAD: Final = (
    "digraph memories {",
    '  graph [layout=dot rankdir=LR overlap=false splines=true bgcolor="transparent"];',
    f'  node [shape=box style="rounded,filled" fontname="sans-serif" fontsize=11 '
    f'fontcolor="{INK}" margin="0.12,0.06"];',
    f'  edge [fontname="sans-serif" fontsize=9 color="{MUTED}" fontcolor="{MUTED}"];',
)


def to_mermaid(graph: Graph) -> str:
    """The graph as a Mermaid flowchart, the strength of a relationship as the width of its line."""
    types = numbered_types(graph)
    lines = ["flowchart LR"]
    for node in graph.nodes:
        words = _mermaid_text(node.content, _NODE_CHARS) or f"#35;{node.id}"
        lines.append(f'  {_key(node.id)}["{words}"]:::t{types[node.memory_type]}')
    for edge in graph.edges:
        words = _mermaid_text(edge.relationship_type, _EDGE_CHARS)
        source, target = _key(edge.source_memory_id), _key(edge.target_memory_id)
        lines.append(f'  {source} -->|"{words}"| {target}')
    for place, edge in enumerate(graph.edges):
        lines.append(f"  linkStyle {place} stroke-width:{line_width(edge.strength)}px")
    for memory_type, number in types.items():
        ground, line, *_ = colours_of(memory_type)
        lines.append(f"  classDef t{number} fill:{ground},stroke:{line},color:{INK}")
    if graph.nodes:
        lines.append(f"  style {_key(graph.nodes[0].id)} stroke-width:3px")
    return "\n".join(lines) + "\n"


def to_dot(graph: Graph) -> str:
    """The graph in Graphviz's language, the strength of a relationship as the width of its line."""
    lines = [*_DOT_HEAD, *map(_dot_node, graph.nodes), *map(_dot_edge, graph.edges), "}"]
    return "\n".join(lines) + "\n"


def _dot_node(node: GraphNode) -> str:
    ground, line, *_ = colours_of(node.memory_type)
    words = _dot_text(label(node.content)) or f"#{node.id}"
    extra = " penwidth=3" if node.depth == 0 else ""
    return f'  {_key(node.id)} [label="{words}" fillcolor="{ground}" color="{line}"{extra}];'


def _dot_edge(edge: GraphEdge) -> str:
    words = _dot_text([legible(edge.relationship_type, _EDGE_CHARS)])
    source, target = _key(edge.source_memory_id), _key(edge.target_memory_id)
    return f'  {source} -> {target} [label="{words}" penwidth={line_width(edge.strength)}];'


def _key(memory_id: int) -> str:
    return f"m{memory_id}".replace("-", "_")


def _mermaid_text(words: str, length: int) -> str:
    # Inside quotes Mermaid still reads entities, directives and Markdown: only the plainest
    # characters stand for themselves.
    return "".join(
        letter
        if letter.isalnum() or letter in " .,'!?()-_/…" or ord(letter) > 127
        else f"#{ord(letter)};"
        for letter in legible(words, length)
    )


def _dot_text(lines: Iterable[str]) -> str:
    # Graphviz reads escapes and HTML entities inside quotes.
    return "\\n".join(
        line.replace("&", "&amp;").replace("\\", "\\\\").replace('"', '\\"') for line in lines
    )
