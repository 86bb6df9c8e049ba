"""What every command stands in: the app, its options, connecting, errors and exit codes."""

from __future__ import annotations

import io
import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager, contextmanager
from datetime import datetime
from functools import wraps
from pathlib import Path
from typing import Annotated, Final, ParamSpec, TextIO

import typer
from pydantic import BaseModel, JsonValue

from ltm_store import embedded
from ltm_store.database import Database, connect
from ltm_store.db import dsn as dsns
from ltm_store.errors import LtmError
from ltm_store.render.text import legible

Arguments = ParamSpec("Arguments")
STANDARD: Final = "-"  # as a file: standard input or output
_PART: Final = ".part"  # ends the name of a file that is being written

app = typer.Typer(
    help="The long-term memory of an AI assistant, in PostgreSQL: on --dsn, else "
    "LTM_DATABASE_URL, else DATABASE_URL, else on a server of its own. Reading here records no "
    "accesses. Exit codes: 0 is well, 1 failed, 2 wrong usage.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # the last line of an error says why
)


def _moment(text: str) -> datetime:
    return datetime.fromisoformat(text)


def _object(text: str) -> dict[str, JsonValue]:
    value = json.loads(text)
    if not isinstance(value, dict):
        raise ValueError("not a JSON object")
    return value


DsnOption = Annotated[
    str | None,
    typer.Option("--dsn", help="The database, postgresql://...; may stand before the verb too."),
]
UserOption = Annotated[str, typer.Option(help="Whose memories: a number or a name.")]
JsonOption = Annotated[bool, typer.Option("--json", help="JSON, or JSON Lines of rows.")]
OutputOption = Annotated[Path | None, typer.Option(help="A file instead of standard output.")]
MemoryArgument = Annotated[int, typer.Argument(help="The id of the memory.", metavar="MEMORY_ID")]
When = Annotated[
    datetime | None, typer.Option(parser=_moment, metavar="MOMENT", help="ISO 8601, UTC if naive.")
]
JsonFilter = Annotated[
    dict[str, JsonValue] | None,
    typer.Option(parser=_object, metavar="JSON", help="A JSON object that must be contained."),
]


@app.callback()
def main(dsn: DsnOption = None) -> None:
    """Note the database for every command."""
    if dsn:
        os.environ["LTM_DATABASE_URL"] = dsn
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal that lacks a letter


def command(
    name: str, example: str
) -> Callable[[Callable[Arguments, None]], Callable[Arguments, None]]:
    """Register a command whose errors are a sentence and an exit code."""

    def register(function: Callable[Arguments, None]) -> Callable[Arguments, None]:
        @wraps(function)
        def run(*args: Arguments.args, **kwargs: Arguments.kwargs) -> None:
            with _errors_told():
                function(*args, **kwargs)
                sys.stdout.flush()

        app.command(name, epilog=f"Example: ltm-store {example}")(run)
        return run

    return register


@contextmanager
def _errors_told() -> Iterator[None]:
    try:
        yield
    except (typer.Exit, typer.Abort, typer.BadParameter):
        raise
    except LtmError as error:
        raise failed(str(error)) from None
    except BrokenPipeError:  # `| head` has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(1) from None
    except OSError as error:
        name = str(error.filename or "the file").removesuffix(_PART)
        raise failed(f"{name}: {error.strerror}") from None
    except Exception as error:
        raise failed(f"unexpected {type(error).__name__}") from None  # its text holds data


def failed(reason: str) -> typer.Exit:
    """Print the reason, and return what to raise for exit code 1."""
    typer.echo(f"failed: {reason}", err=True)
    return typer.Exit(1)


def no_memory(user: str, memory_id: int) -> LtmError:
    """The error for a memory that the user does not have."""
    return LtmError(f"user {legible(user, 60)} has no memory {memory_id}")


def reading(dsn: str | None) -> AbstractAsyncContextManager[Database]:
    """A Database on which reads are not tracked."""
    return connect(dsn, access_tracking="off")


def resolved_dsn(given: str | None) -> str:
    """The DSN that connect() would take, for what connects by itself."""
    if given:
        return dsns.normalise(given)
    return dsns.from_environment() or embedded.start()


def json_text(value: object, stream: TextIO | None = None) -> str:
    """A value as JSON on one line, in ASCII where the stream (standard output) is not UTF-8."""
    encoding = (stream or sys.stdout).encoding or ""
    return json.dumps(value, ensure_ascii=encoding.lower().replace("-", "") != "utf8")


def print_json(*values: BaseModel | JsonValue) -> None:
    """One line of JSON for each value."""
    for value in values:
        plain = value.model_dump(mode="json") if isinstance(value, BaseModel) else value
        typer.echo(json_text(plain))


def is_standard(file: Path | None) -> bool:
    """Whether a file argument means standard input or output."""
    return file is None or str(file) == STANDARD


@contextmanager
def writing(file: Path | None) -> Iterator[TextIO]:
    """Standard output, or a file that is there when all of it is."""
    if file is None or is_standard(file):
        yield sys.stdout
        return
    file = file.resolve()
    part = file.with_name(file.name + _PART)
    try:
        with part.open("w", encoding="utf-8", newline="\n") as stream:
            yield stream
        part.replace(file)
    finally:
        part.unlink(missing_ok=True)
