"""What every command stands in: the app, its options, connecting, errors and exit codes."""

from __future__ import annotations

import io
import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager, contextmanager
from datetime import datetime
from difflib import get_close_matches
from functools import wraps
from pathlib import Path
from typing import Annotated, Final, ParamSpec, TextIO

import typer
from pydantic import BaseModel, JsonValue

from ltm_store import embedded
from ltm_store.database import Database, connect
from ltm_store.db import dsn as dsns
from ltm_store.errors import LtmError, PermissionDenied, Unavailable
from ltm_store.render.text import STEERING, legible
from ltm_store.search import search_memories
from ltm_store.users import list_users

Arguments = ParamSpec("Arguments")
_FEW_USERS: Final = 10  # are all named where one is misspelt
_LOOKED_AT: Final = 200  # users among whom a like name is looked for
_NAMED_CHARS: Final = 60  # of a user's name

app = typer.Typer(
    help="The long-term memory of an AI assistant, in PostgreSQL: on --dsn, else "
    "LTM_DATABASE_URL, else DATABASE_URL, else on a server of its own. Reading here records no "
    "accesses. Exit codes: 0 is well, 1 failed, 2 wrong usage.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # the last line of an error says why
)


def moment_of(text: str) -> datetime:
    """A moment as an option gives it."""
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
YesOption = Annotated[bool, typer.Option("--yes", help="Do not ask.")]
UserOption = Annotated[str, typer.Option(help="Whose memories: a number or a name.")]
JsonOption = Annotated[bool, typer.Option("--json", help="JSON, or JSON Lines of rows.")]
OutputOption = Annotated[Path | None, typer.Option(help="A file instead of standard output.")]
MemoryArgument = Annotated[int, typer.Argument(help="The id of the memory.", metavar="MEMORY_ID")]
When = Annotated[
    datetime | None,
    typer.Option(parser=moment_of, metavar="MOMENT", help="ISO 8601, UTC if naive."),
]
JsonFilter = Annotated[
    dict[str, JsonValue] | None,
    typer.Option(parser=_object, metavar="JSON", help="A JSON object that is contained."),
]

JsonObject = Annotated[
    dict[str, JsonValue] | None,
    typer.Option(parser=_object, metavar="JSON", help="A JSON object."),
]


@app.callback()
def main(
    dsn: DsnOption = None,
    pgbouncer: Annotated[
        bool, typer.Option("--pgbouncer", help="PgBouncer, in transaction mode, is in between.")
    ] = False,
    trust_schema: Annotated[
        bool, typer.Option("--trust-schema", help="Accept a schema in which others may create.")
    ] = False,
    row_level_security: Annotated[
        bool, typer.Option("--row-level-security", help="The login is one of ltm_app.")
    ] = False,
) -> None:
    """Note the database for every command."""
    if dsn:
        os.environ["LTM_DATABASE_URL"] = dsn
    if pgbouncer:
        os.environ["LTM_PGBOUNCER"] = "true"
    if trust_schema:
        os.environ["LTM_TRUST_SCHEMA"] = "true"
    if row_level_security:
        os.environ["LTM_ROW_LEVEL_SECURITY"] = "true"
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
        raise failed(f"{error.filename or 'the file'}: {error.strerror}") from None
    except Exception as error:
        raise failed(f"unexpected {type(error).__name__}") from None  # its text holds data


def failed(reason: str) -> typer.Exit:
    """Print the reason, and return what to raise for exit code 1."""
    typer.echo(f"failed: {legible(reason)}", err=True)
    return typer.Exit(1)


def confirm(what: str, yes: bool) -> None:
    """Ask on a terminal whether it may be done. Elsewhere --yes must have been given."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise LtmError(f"{what}: say --yes where nobody can be asked")
    if not typer.confirm(f"{what}?", err=True):
        raise LtmError("nothing was done")


async def no_memory(db: Database, user: str, memory_id: int) -> LtmError:
    """The error for a memory that the user does not have."""
    unknown = await unknown_user(db, user)
    return LtmError(unknown or f"user {legible(user, _NAMED_CHARS)} has no memory {memory_id}")


async def unknown_user(db: Database, user: str) -> str | None:
    """What to tell where the user has no memories: who has. None where the user has some."""
    if await search_memories(db, user, include_archived=True, limit=1):
        return None
    told = f"no memories of '{legible(user, _NAMED_CHARS)}'"
    try:
        users = await list_users(db, limit=_LOOKED_AT)
    except (Unavailable, PermissionDenied):  # it took too long; row level security
        return told
    names = [str(found.name) for found in users if found.memories]
    if len(names) > _FEW_USERS:
        names = get_close_matches(user, names, 3)
        return f"{told}; near it: {_listed(names)}" if names else f"{told}; see: ltm-store users"
    return f"{told}; users: {_listed(names)}" if names else f"{told}, nor of anybody"


def _listed(names: list[str]) -> str:
    return ", ".join(legible(name, _NAMED_CHARS) for name in names)


async def note_unknown(db: Database, user: str) -> None:
    """Tell on standard error where nothing was found because the user has no memories."""
    if told := await unknown_user(db, user):
        typer.echo(told, err=True)


def reading(dsn: str | None) -> AbstractAsyncContextManager[Database]:
    """A Database on which reads are not tracked."""
    return connect(
        dsn,
        access_tracking="off",
        pgbouncer=through_pgbouncer(),
        trust_schema=trusts_schema(),
        row_level_security=under_row_level_security(),
    )


def through_pgbouncer() -> bool:
    """Whether --pgbouncer or LTM_PGBOUNCER says that PgBouncer is in between."""
    return _is_set("LTM_PGBOUNCER")


def trusts_schema() -> bool:
    """Whether --trust-schema or LTM_TRUST_SCHEMA accepts a schema in which others may create."""
    return _is_set("LTM_TRUST_SCHEMA")


def under_row_level_security() -> bool:
    """Whether --row-level-security or LTM_ROW_LEVEL_SECURITY says that policies bind the login."""
    return _is_set("LTM_ROW_LEVEL_SECURITY")


def _is_set(variable: str) -> bool:
    return os.environ.get(variable, "").lower() in ("1", "true", "yes")


def resolved_dsn(given: str | None) -> str:
    """The DSN that connect() would take, for what connects by itself."""
    target = dsns.target(given)
    return target.libpq if target else embedded.start()


def json_text(value: object, stream: TextIO | None = None) -> str:
    """A value as JSON on one line, in ASCII where the stream (standard output) is not UTF-8.

    What would steer a terminal is always escaped: it is the same JSON.
    """
    encoding = (stream or sys.stdout).encoding or ""
    text = json.dumps(value, ensure_ascii=encoding.lower().replace("-", "") != "utf8")
    return STEERING.sub(lambda found: json.dumps(found[0])[1:-1], text)


def print_json(*values: BaseModel | JsonValue) -> None:
    """One line of JSON for each value."""
    for value in values:
        plain = value.model_dump(mode="json") if isinstance(value, BaseModel) else value
        typer.echo(json_text(plain))
