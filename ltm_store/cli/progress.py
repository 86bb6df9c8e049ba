"""Importing and exporting JSON Lines, with their progress on a terminal."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator
from typing import TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from ltm_store.cli.frame import json_text
from ltm_store.database import Database
from ltm_store.errors import InvalidMemory
from ltm_store.model.transfer import ImportReport
from ltm_store.model.values import UserId
from ltm_store.transfer import export_user, import_user


async def import_lines(
    db: Database, user_id: UserId, lines: list[str], out: Console
) -> ImportReport:
    """Import lines of JSON as a user's memories."""
    columns = TextColumn("importing"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    with Progress(*columns, console=out, disable=not out.is_terminal) as progress:
        counted = progress.track(lines, total=len(lines))
        return await import_user(db, user_id, _json_objects(counted))


async def export_lines(db: Database, user_id: UserId, stream: TextIO, out: Console) -> int:
    """Write a user's memories as lines of JSON, and return how many they are."""
    count = 0
    columns = TextColumn("exporting {task.completed} memories"), TimeElapsedColumn()
    hidden = stream is sys.stdout or not out.is_terminal
    with Progress(*columns, console=out, disable=hidden) as progress:
        task = progress.add_task("exporting", total=None)
        async for line in export_user(db, user_id):
            stream.write(json_text(line, stream) + "\n")
            count += 1
            progress.advance(task)
    return count


def _json_objects(lines: Iterable[str]) -> Iterator[dict[str, object]]:
    for number, text in enumerate(lines, 1):
        try:
            value = json.loads(text)
        except json.JSONDecodeError as error:
            rule = f"is not JSON: {error.msg} (column {error.colno})"
        except (ValueError, RecursionError):
            rule = "holds JSON that is too large"
        else:
            rule = "should be a JSON object"
            if isinstance(value, dict):
                yield value
                continue
        raise InvalidMemory(f"line {number}", rule)
