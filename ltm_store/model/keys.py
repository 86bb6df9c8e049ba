"""Where a memory stands under a name of the caller's own."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, ClassVar

from pydantic import Field

from ltm_store import limits
from ltm_store.errors import InvalidArgument, InvalidMemory
from ltm_store.model.base import Arguments, Row
from ltm_store.model.values import Key, NamespaceName, Text


class Place(Arguments):
    """A key in a namespace."""

    refused_as: ClassVar[type[InvalidArgument]] = InvalidMemory

    namespace: NamespaceName = ""
    key: Key


class Renaming(Arguments):
    """A key, or the beginning of some, and what takes its place."""

    namespace: NamespaceName = ""
    old: Annotated[Text, Field(max_length=limits.KEY_CHARS)]
    new: Annotated[Text, Field(max_length=limits.KEY_CHARS)]
    prefix: Annotated[bool, Field(strict=True)] = False


class NamespaceList(Arguments):
    """Which namespaces are listed."""

    prefix: NamespaceName = ""
    max_depth: Annotated[int, Field(strict=True, ge=1)] | None = None
    counts: Annotated[bool, Field(strict=True)] = False
    keyed: Annotated[bool, Field(strict=True)] = False


class Namespace(Row):
    """A namespace of a user; empty where a memory has none.

    `memories` is how many it has, archived ones too, and `last_modified` when one of them was last
    changed; both None unless asked for.
    """

    namespace: str
    memories: int | None
    last_modified: datetime | None
