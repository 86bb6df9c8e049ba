"""The words of a memory as they are written, found again by what the index holds of them."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence
from typing import Final

_UNSPACED: Final = "\u0e00"  # scripts from here on part no words
_INSIDE: Final = "-.&_'()+#, "  # signs over which the parts of a compound are joined


def written_terms(lexemes: Sequence[str], texts: Iterable[str]) -> tuple[str, ...]:
    """The words of some texts that a search found by these lexemes, in their order, each once.

    A lexeme whose word is not found again stands for itself, unless there is no other.
    """
    if not lexemes:
        return ()
    found: dict[tuple[int, int], str] = {}
    left = set(lexemes)
    for number, text in enumerate(texts):
        plain = _plain(text)
        for lexeme in sorted(left):
            if span := _span(plain, _plain(lexeme)):
                left.discard(lexeme)
                found.setdefault((number, span[0]), text[span[0] : span[1]])
    terms = dict.fromkeys(found[place] for place in sorted(found))
    return tuple(terms or sorted(lexemes))


def _plain(text: str) -> str:
    """Lower case without marks, a character for each character."""
    if text.isascii():
        return text.lower()
    return "".join(unicodedata.normalize("NFKD", letter).lower()[0] for letter in text)


def _span(plain: str, lexeme: str) -> tuple[int, int] | None:
    """Where a word begins and ends that has this stem; else a compound, else part of a word."""
    stems = [lexeme[:end] for end in range(len(lexeme), max(2, len(lexeme) - 3), -1)]
    for stem in stems or [lexeme]:
        if (start := _beginning(plain, stem)) >= 0:
            return start, _end(plain, start + len(stem))
    if (start := plain.find(lexeme)) >= 0:
        return start, _end(plain, start + len(lexeme))
    return _compound(plain, lexeme)


def _beginning(plain: str, stem: str) -> int:
    start = plain.find(stem)
    while start > 0 and plain[start - 1].isalnum() and stem < _UNSPACED:
        start = plain.find(stem, start + 1)
    return start


def _end(plain: str, end: int) -> int:
    if plain[end - 1] >= _UNSPACED:
        return end
    while end < len(plain) and plain[end].isalnum():
        end += 1
    return end


def _compound(plain: str, lexeme: str) -> tuple[int, int] | None:
    spelled = lexeme.replace("plusplus", "++").replace("sharp", "#").replace("dotnet", ".net")
    start = plain.find(spelled[0])
    while start >= 0:
        end = start
        for sign in spelled:
            while end < len(plain) and plain[end] != sign and plain[end] in _INSIDE:
                end += 1
            if plain[end : end + 1] != sign:
                break
            end += 1
        else:
            return start, end
        start = plain.find(spelled[0], start + 1)
    return None
