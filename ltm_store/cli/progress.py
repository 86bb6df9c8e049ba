"""Importing and exporting, with their progress on a terminal."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TextIO

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TextColumn,
    TimeElapsedColumn,
)

from ltm_store.cli.frame import json_text
from ltm_store.database import Database
from ltm_store.embedders import Embedder
from ltm_store.meaning import embed_with
from ltm_store.model.transfer import ImportReport
from ltm_store.model.values import UserId
from ltm_store.transfer import Numbered, export_user, import_numbered


@contextmanager
def _progress(*columns: ProgressColumn, out: Console, shown: bool = True) -> Iterator[Progress]:
    """A progress, begun where there is a terminal: rich before 14.3 ends others with a line."""
    progress = Progress(*columns, TimeElapsedColumn(), console=out)
    if shown and out.is_terminal:
        with progress:
            yield progress
    else:
        yield progress


async def import_lines(
    db: Database, user_id: UserId, lines: Sequence[Numbered], out: Console
) -> ImportReport:
    """Import lines, each with its number, as a user's memories."""
    columns = TextColumn("importing"), BarColumn(), MofNCompleteColumn()
    with _progress(*columns, out=out) as progress:
        task = progress.add_task("importing", total=len(lines))
        return await import_numbered(
            db, user_id, lines, progress=lambda count: progress.update(task, completed=count)
        )


async def export_lines(
    db: Database, user_id: UserId, stream: TextIO, out: Console, *, with_embeddings: bool
) -> int:
    """Write a user's memories as lines of JSON, and return how many they are."""
    count = 0
    column = TextColumn("exporting {task.completed} memories")
    with _progress(column, out=out, shown=stream is not sys.stdout) as progress:
        task = progress.add_task("exporting", total=None)
        async for line in export_user(db, user_id, with_embeddings=with_embeddings):
            stream.write(json_text(line, stream) + "\n")
            count += 1
            progress.advance(task)
    return count


async def embed_all(
    db: Database, embedder: Embedder, user_id: UserId | None, total: int | None, out: Console
) -> int:
    """Give memories their vectors, and return how many were embedded."""
    columns = TextColumn("embedding"), BarColumn(), MofNCompleteColumn()
    with _progress(*columns, out=out) as progress:
        task = progress.add_task("embedding", total=total)
        return await embed_with(
            db, embedder, user_id, progress=lambda count: progress.update(task, completed=count)
        )
