"""Contents as lines of text: what can be shown of them, how wide it is, and where it wraps."""

from __future__ import annotations

import re
import unicodedata
from typing import Final

FONT_SIZE: Final = 12.0
LABEL_WIDTH: Final = 160.0  # of the lines of a memory's label, in the units of FONT_SIZE
_LABEL_LINES: Final = 3
# Control characters but tab and line feed, what turns the direction of writing, the invisible
# copies of ASCII, halves of surrogate pairs and what XML forbids.
STEERING: Final = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"
    "\ud800-\udfff\ufffe\uffff\U000e0000-\U000e007f]"
)


def escaped(text: str) -> str:
    """The text with what would steer its reader unseen as escapes, such as \\x1b and \\u202e."""
    return STEERING.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def legible(text: str, length: int | None = None) -> str:
    """The text on one line, at most `length` characters, without what controls a terminal."""
    line = escaped(" ".join(text.split()))
    if length is None or len(line) <= length:
        return line
    cut = line[: length - 1]
    words = cut.rpartition(" ")[0]
    return (words if len(words) > length // 2 else cut).rstrip() + "…"


def text_width(text: str, size: float) -> float:
    """How wide a text is in a font of this size, or less."""
    return size * sum(map(_letter_width, text))


def label(content: str) -> list[str]:
    """The beginning of a content on at most three lines, cut where a word ends if one does."""
    lines: list[str] = []
    rest = legible(content)
    while rest and len(lines) < _LABEL_LINES:
        line, rest = _first_line(rest)
        lines.append(line)
    if rest:
        lines[-1] = _shortened(lines[-1])
    return lines


def _first_line(text: str) -> tuple[str, str]:
    """As many words as fit on a line, else the part of the first one that does, and the rest."""
    line, rest = "", text
    while rest:
        word, _, after = rest.partition(" ")
        longer = f"{line} {word}" if line else word
        if not _fits(longer):
            break
        line, rest = longer, after
    if line:
        return line, rest
    cut = 1
    while _fits(rest[: cut + 1]):
        cut += 1
    return rest[:cut], rest[cut:].removeprefix(" ")


def _shortened(line: str) -> str:
    """A line with an ellipsis, which fits."""
    while line and not _fits(line + "…"):
        line = line[:-1]
    return line.rstrip(" ,.;:") + "…"


def _fits(line: str) -> bool:
    return text_width(line, FONT_SIZE) <= LABEL_WIDTH


def _letter_width(letter: str) -> float:
    """In parts of the font's size, wide enough for the usual sans-serif fonts."""
    if unicodedata.combining(letter) or letter in "\u200d\ufe0f":
        return 0.0
    if ord(letter) > 0x1F000 or unicodedata.east_asian_width(letter) in "WF":
        return 1.25 if ord(letter) > 0x1F000 else 1.0
    if letter in "mwMW@%—…":
        return 0.92
    if letter in "il.,;:'|!jtfrI ()-/":
        return 0.36
    return 0.7 if letter.isupper() or ord(letter) > 0x2000 else 0.58
