"""COPY: many rows into a table, as text, which no codec of a connection touches."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Sequence
from typing import Final, NamedTuple

from ltm_store.db.observe import observed
from ltm_store.db.transactions import Connection, translated

_CHUNK_CHARS: Final = 65_536  # that are sent at once, while the next rows are written as text
_ESCAPES: Final = str.maketrans({"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r"})

Values = tuple[object, ...]


class Table(NamedTuple):
    """A table and those of its columns that rows have; the others get their defaults."""

    name: str
    columns: tuple[str, ...]


async def copy_rows(connection: Connection, table: Table, rows: Sequence[Values]) -> None:
    """Write rows, if there are any: None, texts, numbers, booleans, and moments in UTC."""

    async def copied() -> Sequence[Values]:
        await connection.copy_to_table(
            table.name, source=_chunks(rows), columns=list(table.columns), encoding="UTF8"
        )
        return rows

    if rows:
        telemetry = getattr(connection, "telemetry", None)  # of a Database's own connection
        await translated(lambda: observed(f"copy {table.name}", copied(), telemetry))


async def _chunks(rows: Iterable[Values]) -> AsyncIterator[bytes]:
    lines: list[str] = []
    size = 0
    for row in rows:
        line = "\t".join([_text(value) for value in row])
        lines.append(line)
        size += len(line)
        if size >= _CHUNK_CHARS:
            yield _joined(lines)
            lines.clear()
            size = 0
    yield _joined(lines)


def _joined(lines: list[str]) -> bytes:
    return "".join([f"{line}\n" for line in lines]).encode()


def _text(value: object) -> str:
    if value is None:
        return r"\N"
    text = value if isinstance(value, str) else str(value)
    # Three in four values have none, and looking for each costs less than to translate.
    if "\\" in text or "\n" in text or "\t" in text or "\r" in text:
        return text.translate(_ESCAPES)
    return text
