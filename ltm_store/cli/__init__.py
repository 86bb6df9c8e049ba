"""The command line: `ltm-store`."""

from __future__ import annotations

import asyncio
import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractAsyncContextManager, contextmanager
from datetime import datetime
from enum import StrEnum
from functools import wraps
from pathlib import Path
from typing import Annotated, Final, ParamSpec, TextIO

try:
    import typer
    from rich.progress import Progress, TextColumn, TimeElapsedColumn
except ImportError:
    raise SystemExit("failed: install ltm_store[cli], which brings typer and rich") from None
from pydantic import BaseModel, JsonValue

from ltm_store import embedded, limits
from ltm_store.accesses import access_history
from ltm_store.cli.demo import import_with_progress, show
from ltm_store.cli.display import console, show_hits, show_memory, table
from ltm_store.database import Database, connect
from ltm_store.db import dsn as dsns
from ltm_store.db.resources import lines_of, resource_dir
from ltm_store.errors import InvalidMemory, LtmError
from ltm_store.graph import memory_graph
from ltm_store.maintenance import adoption_repairs, adoption_report, check_health
from ltm_store.memories import get_memory
from ltm_store.model.relationships import Graph
from ltm_store.model.transfer import ImportReport
from ltm_store.render.flowchart import to_dot, to_mermaid
from ltm_store.render.svg import to_svg
from ltm_store.render.text import legible
from ltm_store.report import render_report
from ltm_store.search import search_memories
from ltm_store.tags import list_tags
from ltm_store.transfer import export_user

Arguments = ParamSpec("Arguments")
_STANDARD: Final = "-"
_PART: Final = ".part"  # of the name of a file that is being written
_HISTORY: Final = 20  # accesses that show lists

app = typer.Typer(
    help="The long-term memory of an AI assistant, in PostgreSQL: on --dsn, else "
    "LTM_DATABASE_URL, else DATABASE_URL, else on a server of its own. What is read here counts "
    "as no recall. Exit codes: 0 is well, 1 failed, 2 wrong usage.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # the last line of an error says why
)


class Format(StrEnum):
    """What a graph can be written as."""

    MERMAID = "mermaid"
    DOT = "dot"
    SVG = "svg"


_DRAWN: Final[dict[Format, Callable[[Graph], str]]] = {
    Format.MERMAID: to_mermaid,
    Format.DOT: to_dot,
    Format.SVG: to_svg,
}
_SUFFIXES: Final = {".svg": Format.SVG, ".dot": Format.DOT, ".gv": Format.DOT}


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
    """Note the database for every verb."""
    if dsn:
        os.environ["LTM_DATABASE_URL"] = dsn
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal that lacks a letter


def _fail(reason: str) -> typer.Exit:
    typer.echo(f"failed: {reason}", err=True)
    return typer.Exit(1)


def _verb(
    name: str, example: str
) -> Callable[[Callable[Arguments, None]], Callable[Arguments, None]]:
    """Register a command whose errors are a sentence and an exit code."""

    def register(command: Callable[Arguments, None]) -> Callable[Arguments, None]:
        @wraps(command)
        def run(*args: Arguments.args, **kwargs: Arguments.kwargs) -> None:
            try:
                command(*args, **kwargs)
                sys.stdout.flush()
            except (typer.Exit, typer.Abort, typer.BadParameter):
                raise
            except LtmError as error:
                raise _fail(str(error)) from None
            except BrokenPipeError:  # `| head` has seen enough
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
                raise typer.Exit(1) from None
            except OSError as error:
                name = str(error.filename or "the file").removesuffix(_PART)
                raise _fail(f"{name}: {error.strerror}") from None
            except Exception as error:
                raise _fail(f"unexpected {type(error).__name__}") from None  # its text holds data

        app.command(name, epilog=f"Example: ltm-store {example}")(run)
        return run

    return register


def _reading(dsn: str | None) -> AbstractAsyncContextManager[Database]:
    return connect(dsn, access_tracking="off")


def _dsn(given: str | None) -> str:
    """The DSN of connect(), for what connects by itself."""
    if given:
        return dsns.normalise(given)
    return dsns.from_environment("LTM_DATABASE_URL", "DATABASE_URL") or embedded.start()


def _json(value: object) -> str:
    ascii_only = (sys.stdout.encoding or "").lower().replace("-", "") != "utf8"
    return json.dumps(value, ensure_ascii=ascii_only)


def _print_json(*values: BaseModel | JsonValue) -> None:
    for value in values:
        typer.echo(_json(value.model_dump(mode="json") if isinstance(value, BaseModel) else value))


def _is_standard(file: Path | None) -> bool:
    return file is None or str(file) == _STANDARD


@contextmanager
def _writing(file: Path | None) -> Iterator[TextIO]:
    """Standard output, or a file that is there when all of it is."""
    if file is None or _is_standard(file):
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


def _no_memory(user: str, memory_id: int) -> LtmError:
    return LtmError(f"user {legible(user, 60)} has no memory {memory_id}")


@_verb("import", "import memories.jsonl --user alice")
def import_file(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="- is standard input.")],
    user: Annotated[str, typer.Option(help="Whose memories they become: a number or a name.")],
    as_json: JsonOption = False,
    dsn: DsnOption = None,
) -> None:
    """Import JSON Lines, one memory a line (the keywords of add_memory), all or nothing."""
    if not (_is_standard(file) or file.is_file()):
        raise typer.BadParameter(f"{file} is not a file")
    try:
        data = sys.stdin.buffer.read() if _is_standard(file) else file.read_bytes()
        lines = lines_of(data.decode("utf-8-sig"))
    except UnicodeDecodeError:
        raise InvalidMemory("file", "not UTF-8 text") from None
    report = asyncio.run(_import(dsn, user, lines))
    if as_json:
        _print_json(report)
        return
    typer.echo(
        f"{report.created} memories created, {report.existing} were there already, "
        f"{report.relationships} relationships"
    )


async def _import(dsn: str | None, user: str, lines: list[str]) -> ImportReport:
    async with connect(dsn) as db:
        return await import_with_progress(db, user, lines, console(stderr=True))


@_verb("export", "export --user alice --output alice.jsonl")
def export(
    user: UserOption,
    output: Annotated[Path | None, typer.Option(help="A file instead of standard output.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="They are JSON Lines anyhow.")] = False,
    dsn: DsnOption = None,
) -> None:
    """Write all memories of a user as JSON Lines, which import reads."""
    with _writing(output) as stream:
        count = asyncio.run(_export(dsn, user, stream))
    if not _is_standard(output):
        typer.echo(f"{count} memories exported", err=True)


async def _export(dsn: str | None, user: str, stream: TextIO) -> int:
    count = 0
    columns = TextColumn("exporting {task.completed} memories"), TimeElapsedColumn()
    out = console(stderr=True)
    hidden = stream is sys.stdout or not out.is_terminal
    async with _reading(dsn) as db:
        with Progress(*columns, console=out, disable=hidden) as progress:
            task = progress.add_task("exporting", total=None)
            async for line in export_user(db, user):
                ascii_only = stream is sys.stdout
                text = _json(line) if ascii_only else json.dumps(line, ensure_ascii=False)
                stream.write(text + "\n")
                count += 1
                progress.advance(task)
    return count


@_verb("search", 'search "coffee and headaches" --user alice --tag work')
def search(
    user: UserOption,
    query: Annotated[
        str | None, typer.Argument(help='Words, "phrases", -exclusions; none: by importance.')
    ] = None,
    tag: Annotated[list[str] | None, typer.Option(help="All of these tags (repeat it).")] = None,
    any_tag: Annotated[list[str] | None, typer.Option(help="One of these (repeat it).")] = None,
    memory_type: Annotated[str | None, typer.Option("--type", help="The memory type.")] = None,
    category: Annotated[str | None, typer.Option(help="The category.")] = None,
    source_type: Annotated[str | None, typer.Option(help="The kind of source.")] = None,
    source_id: Annotated[str | None, typer.Option("--source", help="The source's id.")] = None,
    context: JsonFilter = None,
    metadata: JsonFilter = None,
    min_importance: Annotated[int | None, typer.Option(help="Of the score as written.")] = None,
    min_confidence: Annotated[float | None, typer.Option(help="0 to 1.")] = None,
    created_after: When = None,
    created_before: When = None,
    accessed_after: When = None,
    as_of: When = None,
    archived: Annotated[bool, typer.Option("--archived", help="Archived ones too.")] = False,
    limit: Annotated[int, typer.Option(min=1, max=limits.HITS)] = 10,
    as_json: JsonOption = False,
    dsn: DsnOption = None,
) -> None:
    """Search the memories of a user; best first, each with its score and why it is there."""

    async def found() -> None:
        async with _reading(dsn) as db:
            hits = await search_memories(
                db,
                user,
                query,
                tags=tag or None,
                tags_any=any_tag or None,
                memory_type=memory_type,
                category=category,
                source_type=source_type,
                source_id=source_id,
                context_data=context,
                metadata=metadata,
                min_importance=min_importance,
                min_confidence=min_confidence,
                created_after=created_after,
                created_before=created_before,
                accessed_after=accessed_after,
                as_of=as_of,
                include_archived=archived,
                limit=limit,
            )
        if as_json:
            _print_json(*hits)
        else:
            show_hits(console(), hits)

    asyncio.run(found())


@_verb("show", "show 42 --user alice")
def show_one(
    user: UserOption, memory_id: MemoryArgument, as_json: JsonOption = False, dsn: DsnOption = None
) -> None:
    """Show a memory with its context, tags, relationships and last accesses."""

    async def shown() -> None:
        async with _reading(dsn) as db:
            memory = await get_memory(db, user, memory_id, include_relationships=True)
            if memory is None:
                raise _no_memory(user, memory_id)
            tags = await list_tags(db, user, memory_id=memory_id)
            history = await access_history(db, user, memory_id, limit=_HISTORY)
        if as_json:
            parts = {
                "tag_details": [tag.model_dump(mode="json") for tag in tags],
                "accesses": [access.model_dump(mode="json") for access in history],
            }
            _print_json(memory.model_dump(mode="json", exclude={"outcome", "duplicate_of"}) | parts)
        else:
            show_memory(console(), memory, tags, history)

    asyncio.run(shown())


@_verb("graph", "graph 42 --user alice --depth 3 --output around.svg")
def graph(
    user: UserOption,
    memory_id: MemoryArgument,
    depth: Annotated[int, typer.Option(min=1, max=limits.DEPTH, help="Links away.")] = 2,
    limit: Annotated[int, typer.Option(min=1, max=limits.GRAPH, help="Memories beside it.")] = 30,
    form: Annotated[
        Format | None,
        typer.Option("--format", help="Else by the file's name, else mermaid."),
    ] = None,
    output: Annotated[Path | None, typer.Option(help="A file instead of standard output.")] = None,
    as_json: JsonOption = False,
    dsn: DsnOption = None,
) -> None:
    """Draw the memories around one and the relationships among them."""

    async def around() -> Graph:
        async with _reading(dsn) as db:
            found = await memory_graph(db, user, memory_id, depth=depth, limit=limit)
        if found is None:
            raise _no_memory(user, memory_id)
        return found

    found = asyncio.run(around())
    chosen = form or _SUFFIXES.get(output.suffix.lower() if output else "", Format.MERMAID)
    with _writing(output) as stream:
        text = found.model_dump_json() + "\n" if as_json else _DRAWN[chosen](found)
        stream.write(text)


@_verb("report", "report alice --output alice.html")
def report(
    name: Annotated[str | None, typer.Argument(metavar="USER", help="The same as --user.")] = None,
    user: Annotated[str | None, typer.Option(help="A number or a name.")] = None,
    output: Annotated[Path, typer.Option(help="The HTML file.")] = Path(_STANDARD),
    as_json: JsonOption = False,
    dsn: DsnOption = None,
) -> None:
    """Write one page of HTML on a user: figures, charts, lists; it loads nothing."""
    whose = user or name
    if whose is None or None not in (user, name):
        raise typer.BadParameter("say once whose memories", param_hint="USER")

    async def rendered() -> str:
        async with _reading(dsn) as db:
            return await render_report(db, whose)

    page = asyncio.run(rendered())
    with _writing(output) as stream:
        stream.write(page)
    if not _is_standard(output):
        size = len(page.encode())
        if as_json:
            _print_json({"file": str(output), "bytes": size})
        else:
            typer.echo(f"{output}: {-(-size // 1024)} kB")


@_verb("health", "health --json")
def health(as_json: JsonOption = False, dsn: DsnOption = None) -> None:
    """Check the stored rows of all users; exit 1 when something is wrong."""

    async def checked() -> int:
        async with _reading(dsn) as db:
            problems = await check_health(db)
        if as_json:
            _print_json(*problems)
        elif problems:
            rows = [(p.check_name, p.user_id, p.subject, p.detail) for p in problems]
            console().print(table(("check", "user", "subject", "detail"), rows))
        else:
            typer.echo("all is well")
        return len(problems)

    if count := asyncio.run(checked()):
        raise _fail(f"{count} {'problems' if count > 1 else 'problem'} found")


@_verb("adoption-report", "adoption-report --rows --user 42")
def adoption(
    user: Annotated[str | None, typer.Option(help="Of this user alone.")] = None,
    rows: Annotated[bool, typer.Option("--rows", help="Each single value, as it was.")] = False,
    as_json: JsonOption = False,
    dsn: DsnOption = None,
) -> None:
    """Tell what was repaired when the tables of an older program became these."""

    async def counted() -> None:
        async with _reading(dsn) as db:
            counts = await adoption_report(db, user_id=user)
        if as_json:
            _print_json(*counts)
        elif counts:
            found = [(c.table_name, c.column_name, c.rule, c.repairs) for c in counts]
            console().print(table(("table", "column", "rule", "repairs"), found))
        else:
            typer.echo("nothing was repaired")

    async def listed() -> None:
        async with _reading(dsn) as db:
            async for repair in adoption_repairs(db, user_id=user):
                if as_json:
                    _print_json(repair)
                else:
                    _print_tabbed(repair.model_dump().values())

    asyncio.run(listed() if rows else counted())


def _print_tabbed(values: Iterable[object]) -> None:
    typer.echo("\t".join("" if value is None else legible(str(value), 200) for value in values))


@_verb("migrate", "migrate --dsn postgresql://user@host/db")
def migrate(as_json: JsonOption = False, dsn: DsnOption = None) -> None:
    """Apply the schema: python -m ltm_store.migrate apply."""
    from ltm_store import migrate as migrations

    done = migrations.apply(_dsn(dsn), report=lambda line: typer.echo(line, err=as_json))
    if as_json:
        _print_json({"applied": list(done)})
    else:
        typer.echo(f"{len(done)} applied" if done else "nothing to apply, the schema is current")


@_verb("status", "status")
def status(as_json: JsonOption = False, dsn: DsnOption = None) -> None:
    """Tell which migrations are applied; exit 1 when some are pending."""
    from ltm_store import migrate as migrations

    applied, pending = migrations.status(_dsn(dsn))
    if as_json:
        _print_json({"applied": list(applied), "pending": list(pending)})
    else:
        for word, names in (("applied", applied), ("pending", pending)):
            for name in names:
                typer.echo(f"{word}  {name}")
    if pending:
        raise _fail(f"{len(pending)} pending, run: ltm-store migrate")


@_verb("demo", "demo")
def demo(dsn: DsnOption = None) -> None:
    """Show what the store does, on a year of one user's memories that come with the package."""
    asyncio.run(_demo(dsn))


async def _demo(dsn: str | None) -> None:
    async with _reading(dsn) as db:  # the demo shows the accesses it records
        await show(db, console())


@app.command()
def psql() -> None:
    """Open the database in psql, with a menu of what to try."""
    try:
        dsn = dsns.from_environment("LTM_DATABASE_URL", "DATABASE_URL") or embedded.start()
        command = shutil.which("psql") or embedded.psql()
    except LtmError as error:
        raise _fail(str(error)) from None
    # The menu includes the user's own ~/.psqlrc. What is piped in finds a plain psql.
    menu = {"PSQLRC": str(resource_dir("sql") / "menu.psql")} if sys.stdin.isatty() else {}
    done = subprocess.run([command, dsn], check=False, env={**os.environ, **menu})
    raise typer.Exit(done.returncode)


if __name__ == "__main__":
    app()
