"""Vectors: what is accepted as one, and the parts of a content that get one each."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Annotated, ClassVar, Final

from pydantic import AfterValidator, BeforeValidator, Field

from ltm_store import limits
from ltm_store.errors import InvalidArgument, InvalidMemory
from ltm_store.model.base import Arguments
from ltm_store.model.values import Text

CALLER: Final = "caller"
"""The model of vectors that a caller brings along without naming one."""

PART_TOKENS: Final = 200
"""About so many tokens has a part; models read 256 to 512."""

_SMALLEST: Final = 1e-3  # largest number of a vector that is stored as it is
# A token of most models: up to 4 letters, a sign of a script without spaces, a mark.
_TOKEN = re.compile(r"[\u2e80-\u9fff\uac00-\ud7af\uf900-\ufaff]|[^\W\u2e80-\uffff]{1,4}|\S")
_SENTENCE_END = re.compile(r"[.!?\u2026][\"')\]\u201d\u2019]?\s+|[\u3002\uff01\uff1f\n]")
_WORD = re.compile(r"\S{1,400}\s*|\s+")


def checked_vector(numbers: object) -> list[float]:
    """The numbers of a vector, as they can be stored; only their proportions count.

    Raises ValueError for what is none: no numbers or too many, one that is not finite, all zeros.
    """
    if hasattr(numbers, "tolist"):  # of numpy
        numbers = numbers.tolist()
    if not isinstance(numbers, Sequence) or isinstance(numbers, str | bytes):
        raise ValueError("should be a list of numbers")
    if not 1 <= len(numbers) <= limits.EMBEDDING_DIMENSIONS:
        raise ValueError(f"should have 1 to {limits.EMBEDDING_DIMENSIONS} numbers")
    found = list(numbers) if set(map(type, numbers)) == {float} else _as_floats(numbers)
    # The sum of finite numbers may be infinite, that of others never is finite.
    if not (math.isfinite(sum(found)) or all(map(math.isfinite, found))):
        raise ValueError("holds a number that is not finite")
    largest = max(map(abs, found))
    if largest == 0:
        raise ValueError("is all zeros, which mean nothing")
    if _SMALLEST <= largest <= limits.EMBEDDING_NUMBER:
        return found
    return [number / largest for number in found]


def _as_floats(numbers: Sequence[object]) -> list[float]:
    found = []
    for number in numbers:
        if not isinstance(number, int | float) or isinstance(number, bool):
            raise ValueError("should hold numbers alone")
        try:
            found.append(float(number))
        except OverflowError:
            raise ValueError("holds a number that is not finite") from None
    return found


def _within_bytes(name: str) -> str:
    if len(name.encode()) > limits.EMBEDDING_MODEL_BYTES:
        raise ValueError(f"longer than {limits.EMBEDDING_MODEL_BYTES} bytes of UTF-8")
    return name


Vector = Annotated[list[float], BeforeValidator(checked_vector)]
ModelName = Annotated[Text, Field(min_length=1), AfterValidator(_within_bytes)]


class GivenEmbedding(Arguments):
    """A vector that a caller brings along."""

    refused_as: ClassVar[type[InvalidArgument]] = InvalidMemory

    embedding: Vector
    embedding_model: ModelName | None = None


def parts_of(content: str) -> list[str]:
    """A content in parts that models read whole, cut where sentences end; none of a blank one."""
    parts: list[str] = []
    part, room = "", PART_TOKENS
    for piece in _pieces(content[: limits.EMBEDDED_CHARS]):
        size = _tokens(piece)
        if size > room and part.strip():
            parts.append(part.strip())
            part, room = "", PART_TOKENS
        part += piece
        room -= size
    if part.strip():
        parts.append(part.strip())
    return parts


def _tokens(text: str) -> int:
    return sum(1 for _ in _TOKEN.finditer(text))


def _pieces(text: str) -> Iterator[str]:
    """Sentences; of those that are too long the words."""
    if _tokens(text) <= PART_TOKENS:
        yield text
        return
    ends = [found.end() for found in _SENTENCE_END.finditer(text)]
    for start, end in pairwise([0, *ends, len(text)]):
        sentence = text[start:end]
        if _tokens(sentence) <= PART_TOKENS:
            yield sentence
        else:
            yield from (found[0] for found in _WORD.finditer(sentence))
