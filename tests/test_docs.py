"""The code of the README and of docs/ runs as it is written, and gives what it shows.

The blocks of a page run in their order on one database, which holds the memories of `make demo`
where the page speaks of them. A block of text right behind one is what that one prints;
LTM_SNAPSHOT=write puts it there.
"""

import ast
import asyncio
import contextlib
import inspect
import io
import json
import os
import re
import shlex
import subprocess
import sys
import textwrap
import tomllib
from pathlib import Path
from typing import NamedTuple

import asyncpg
import pytest
from typer.testing import CliRunner

import ltm_store
from ltm_store import Database, connect, embedded, import_user
from ltm_store.cli.app import app
from ltm_store.db.resources import demo_lines, resource_dir
from ltm_store.migrate.__main__ import main as migrate
from tests import originals
from tests.conftest import has_vector

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
MENU = resource_dir("sql") / "menu.psql"
DEMO = "demo-livia"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md", *DOCS.rglob("*.md")]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```\n(?:\n```text\n(.*?)^```\n)?", re.MULTILINE | re.DOTALL)
LANGUAGES = {"python", "shell", "sql", "json", "text"}
CHECKED_ALONE = ("pip install", "make ")
"""Beginnings of commands that would install something or take minutes."""


class Block(NamedTuple):
    """A block of code, and what it should print if the page says so."""

    language: str
    code: str
    shown: str | None

    @property
    def is_program(self) -> bool:
        return "asyncio.run(" in self.code


def blocks(page: Path) -> list[Block]:
    found = FENCE.finditer(page.read_text())
    return [Block(match[1], match[2], match[3]) for match in found]


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def runs(page: Path) -> bool:
    return any(block.language != "text" for block in blocks(page))


RUNNING = [page for page in PAGES if runs(page)]


def tidy(text: str) -> str:
    """Without white space at the ends of lines, and ending with a line break."""
    return "".join(line.rstrip() + "\n" for line in text.strip("\n").splitlines())


def run(command: list[str], directory: Path, dsn: str) -> str:
    """What a command prints that must end well."""
    tools = (Path(sys.executable).parent, Path(embedded.psql()).parent)
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        env={
            **os.environ,
            "LTM_DATABASE_URL": dsn,
            "PAGER": "",
            "PATH": os.pathsep.join([*map(str, tools), os.environ["PATH"]]),
            "TERM": "dumb",
        },
        cwd=directory,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, f"{command[-1]}\n{done.stdout}{done.stderr}"
    return done.stdout


def run_shell(code: str, directory: Path, dsn: str) -> str:
    """What commands print. Plain ones of ours run in this process, which saves half a second."""
    lines = [line for line in code.splitlines() if line and not line.startswith(CHECKED_ALONE)]
    return "".join(run_line(line, directory, dsn) for line in lines)


def run_line(line: str, directory: Path, dsn: str) -> str:
    if set(line) & set("|<>&;$"):
        return run(["bash", "-e", "-o", "pipefail", "-c", line], directory, dsn)
    return run_command(shlex.split(line, comments=True), directory, dsn)


def run_command(words: list[str], directory: Path, dsn: str) -> str:
    match words:
        case ["ltm-store", *arguments]:
            result = CliRunner().invoke(app, arguments)
            assert result.exit_code == 0, f"{words}\n{result.output}"
            return result.output
        case ["python", "-m", "ltm_store.migrate", *arguments]:
            with contextlib.redirect_stdout(io.StringIO()) as printed:
                assert migrate(arguments) == 0, words
            return printed.getvalue()
    return run(words, directory, dsn)


async def run_fragment(code: str, names: dict[str, object]) -> str:
    """What lines print that stand in an async function, which share their names with others."""
    compiled = compile(code, "<docs>", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        pending = eval(compiled, names)
        if inspect.iscoroutine(pending):
            await pending
    return printed.getvalue()


async def run_block(block: Block, names: dict[str, object], directory: Path, dsn: str) -> str:
    match block.language:
        case "python" if block.is_program:
            command = [sys.executable, "-W", "error", "-c", block.code]
            return await asyncio.to_thread(run, command, directory, dsn)
        case "python":
            return await run_fragment(block.code, names)
        case "shell":
            return await asyncio.to_thread(run_shell, block.code, directory, dsn)
        case "sql":
            sql = block.code
            if sql.startswith("-- name: "):
                sql = re.sub(r"^-- name: (\w+)", r"PREPARE \1 AS -- ", sql)
            command = ["psql", "-X", "-v", "ON_ERROR_STOP=1", "-c", sql, dsn]
            return await asyncio.to_thread(run, command, directory, dsn)
        case "json":
            for line in block.code.splitlines():
                json.loads(line)
    return ""


async def run_page(page: Path, dsn: str, directory: Path) -> list[tuple[Block, str]]:
    """The blocks of a page, each with what it prints."""
    found = blocks(page)
    async with connect(dsn) as db:
        if any(DEMO in block.code for block in found):
            await import_user(db, DEMO, map(json.loads, demo_lines()))
        names: dict[str, object] = {"db": db}
        return [
            (block, tidy(await run_block(block, names, directory, dsn)))
            for block in found
            if "CREATE ROLE" not in block.code  # test_the_rights_that_are_told_suffice has it
        ]


def compare(page: Path, printed: list[tuple[Block, str]]) -> None:
    """Hold what a page shows against what was printed, or write it anew."""
    text = page.read_text()
    for block, output in printed:
        if block.shown is None or output == block.shown:
            continue
        assert os.environ.get("LTM_SNAPSHOT") == "write", f"{block.code}\n{output}"
        before = f"{block.code}```\n\n```text\n"
        text = text.replace(before + block.shown, before + output)
    if text != page.read_text():
        page.write_text(text)


@pytest.mark.parametrize("page", [p for p in RUNNING if p.stem != "adoption"], ids=name)
async def test_every_block_of_a_page_runs(
    page: Path, admin: asyncpg.Connection, own_dsn: str, tmp_path: Path, monkeypatch
):
    if page.stem == "meaning" and not await has_vector(admin):
        pytest.skip("the server lacks the extension vector")
    monkeypatch.setenv("LTM_DATABASE_URL", own_dsn)
    monkeypatch.chdir(tmp_path)
    compare(page, await run_page(page, own_dsn, tmp_path))


@pytest.mark.slow
async def test_the_adoption_runs_as_its_page_tells_it(empty: str, tmp_path: Path, monkeypatch):
    connection = await asyncpg.connect(empty)
    await connection.execute(originals.level_1())
    await originals.fill(connection)
    await originals.spoil(connection, originals.DIRTY)
    await connection.close()
    monkeypatch.setenv("LTM_DATABASE_URL", empty)
    monkeypatch.chdir(tmp_path)
    for block in blocks(DOCS / "adoption.md"):
        await run_block(block, {}, tmp_path, empty)


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_the_blocks_are_of_languages_that_run(page: Path):
    fences = re.findall(r"^ *```(.*)$", page.read_text(), re.MULTILINE)
    assert set(fences[::2]) <= LANGUAGES
    assert set(fences[1::2]) <= {""}


def test_the_python_of_all_pages_has_the_right_types(tmp_path: Path):
    """The fragments of a page are the lines of one function; a program is a file of its own."""
    for page in RUNNING:
        python = [block for block in blocks(page) if block.language == "python"]
        fragments = "".join(block.code for block in python if not block.is_program)
        texts = [block.code for block in python if block.is_program]
        if fragments:
            head = "from ltm_store import Database\n\n\nasync def page(db: Database) -> None:\n"
            texts.append(head + textwrap.indent(fragments, "    "))
        for number, text in enumerate(texts):
            stem = name(page).removesuffix(".md").lower()
            file = tmp_path / f"{re.sub(r'[^a-z]+', '_', stem)}_{number}.py"
            file.write_text(text)
    files = sorted(map(str, tmp_path.glob("*.py")))
    assert files
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--no-error-summary", *files],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_what_is_to_be_made_or_installed_is_there():
    makefile = (ROOT / "Makefile").read_text()
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    for page in PAGES:
        text = page.read_text()
        named = re.findall(r"make ([a-z]+)`", text) + re.findall(r"(?m)^make ([a-z]+)  ", text)
        for target in named:
            assert re.search(rf"^{target}:", makefile, re.MULTILINE), f"{name(page)}: make {target}"
        for extra in re.findall(r"ltm_store\[([\w,]+)\]", text):
            assert set(extra.split(",")) <= set(extras), name(page)


def test_links_lead_somewhere():
    for page in PAGES:
        for target in re.findall(r"\]\(([^)]+)\)", page.read_text()):
            path, _, anchor = target.partition("#")
            assert "://" not in target, f"{name(page)}: {target}"
            file = page.parent / path if path else page
            assert file.exists(), f"{name(page)}: {target}"
            headings = re.findall(r"^#+ (.*)$", file.read_text(), re.MULTILINE) if anchor else []
            anchors = {re.sub(r"[^\w -]", "", text.lower()).replace(" ", "-") for text in headings}
            assert not anchor or anchor in anchors, f"{name(page)}: {target}"


def test_files_functions_and_statements_that_are_named_exist():
    for page in PAGES:
        text = page.read_text()
        for path in re.findall(r"`((?:ltm_store|sql|migrations|tests|docs)/[\w./]*\w)`", text):
            assert (ROOT / path).exists(), f"{name(page)}: {path}"
        for found, path in re.findall(r"`([\w.]+)` in\s+`((?:ltm_store|sql)/[\w./]+)`", text):
            sql = r"-- (?:name|columns|conditions|query): "
            kind = sql if path.endswith(".sql") else r"(?:def|class) "
            defined = rf"{kind}{found.rpartition('.')[2]}\b"
            assert re.search(defined, (ROOT / path).read_text()), f"{name(page)}: {found}"


def test_the_reference_has_every_public_name():
    pages = "".join(page.read_text() for page in (DOCS / "api").glob("*.md"))
    named = set(re.findall(r"^::: ltm_store\.(\w+)$", pages, re.MULTILINE))
    assert named >= set(ltm_store.__all__)


async def test_the_rights_that_are_told_suffice(own_dsn: str):
    """Those of docs/operating.md, for all that an assistant's process does."""
    rights = next(block.code for block in blocks(DOCS / "operating.md") if "GRANT" in block.code)
    connection = await asyncpg.connect(own_dsn)
    try:
        await connection.execute(rights)
        await connection.execute("SET ROLE assistant")
        first = await ltm_store.add_memory(connection, "alice", "Likes tea", tags=["drinks"])
        second = await ltm_store.add_memory(connection, "alice", "Drinks it green")
        await ltm_store.relate(connection, "alice", first.id, second.id, "related")
        assert await ltm_store.search_memories(connection, "alice", "tea")
        await ltm_store.record_access(connection, "alice", [first.id])
        await ltm_store.update_memory(connection, "alice", first.id, tags=["tea"])
        await ltm_store.delete_memory(connection, "alice", second.id)
        assert await ltm_store.check_health(connection) == []
        await ltm_store.forget_user(connection, "alice")
    finally:
        await connection.execute("RESET ROLE; DROP OWNED BY assistant; DROP ROLE assistant")
        await connection.close()


def with_menu(dsn: str, typed: str) -> str:
    """What psql shows that begins with the menu, and complains of nothing."""
    done = subprocess.run(
        [embedded.psql(), "-v", "ON_ERROR_STOP=1", dsn],
        input=typed,
        capture_output=True,
        text=True,
        env={**os.environ, "PAGER": "", "PSQLRC": str(MENU), "HOME": "/nonexistent"},
        timeout=60,
        check=True,
    )
    assert done.stderr == ""
    return done.stdout


async def test_the_menu_of_psql_offers_every_view_and_each_entry_works(db: Database, dsn: str):
    await import_user(db, DEMO, map(json.loads, demo_lines()))
    entries = re.findall(r"^\\set (\w+) '", MENU.read_text(), re.MULTILINE)
    async with db.transaction() as conn:
        found = await conn.fetch("SELECT viewname FROM pg_views WHERE viewname LIKE 'ltm%'")
    views = {row["viewname"] for row in found}
    shown = with_menu(dsn, "".join(f":{entry}\n" for entry in entries))
    assert len(re.findall(r"^\(\d+ rows?\)$", shown, re.MULTILINE)) == len(entries)
    offered = dict(re.findall(r"^  :(\w+) +\S.*  (ltm_\w+)$", shown, re.MULTILINE))
    assert list(offered) == entries
    assert set(offered.values()) == views
    assert "User -1 is looked at" in shown
    assert "Signed the purchase at the notary" in shown


async def test_the_menu_says_so_where_there_are_no_views(empty: str):
    assert "python -m ltm_store.migrate" in with_menu(empty, "")
