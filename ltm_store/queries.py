"""Reading a search query as people type it."""

from __future__ import annotations

import re
from typing import NamedTuple

# A minus at the start of a word or phrase excludes it; quotes hold a phrase together.
_PART = re.compile(r'(?<!\S)(?P<minus>-)?(?:"(?P<phrase>[^"]*)"|(?P<word>[^\s"]+))')


class Query(NamedTuple):
    """What is asked: words to rank by, phrases that must be there, and what must not."""

    words: str
    phrases: tuple[str, ...]
    exclusions: tuple[str, ...]


def parse_query(text: str) -> Query:
    """Take a query apart. The words of a phrase are ranked by too."""
    phrases: list[str] = []
    exclusions: list[str] = []

    def taken(match: re.Match[str]) -> str:
        part = match["phrase"] if match["phrase"] is not None else match["word"]
        if match["minus"]:
            exclusions.append(part)
            return ""
        if match["phrase"] is not None:
            phrases.append(part)
        return part

    return Query(_PART.sub(taken, text), tuple(phrases), tuple(exclusions))
