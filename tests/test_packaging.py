"""What is built: the wheel and the sdist carry all they need, and work away from the checkout."""

import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from ltm_store.db.resources import migration_ids, resource_dir

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent
PROGRAM = """
import asyncio, sys
from pathlib import Path
import ltm_store
from ltm_store import add_memory, connect, migrate, search_memories
assert Path(ltm_store.__file__).is_relative_to(sys.prefix), ltm_store.__file__
migrate.apply(sys.argv[1])
async def main():
    async with connect(sys.argv[1]) as db:
        await add_memory(db, "alice", "served from the wheel")
        print([hit.content for hit in await search_memories(db, "alice", "wheel")])
asyncio.run(main())
"""


def run(*command: str, cwd: Path, given: str = "") -> str:
    done = subprocess.run(
        command, cwd=cwd, input=given, capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 0, done.stderr + done.stdout
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    folder: Path = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), cwd=ROOT)
    return folder


def test_the_wheel_and_the_sdist_carry_the_statements_and_migrations(built):
    (wheel,), (sdist,) = built.glob("*.whl"), built.glob("*.tar.gz")
    inside = set(zipfile.ZipFile(wheel).namelist())
    wanted = {
        path.relative_to(ROOT).as_posix()
        for folder in ("sql", "migrations")
        for path in resource_dir(folder).rglob("*")
        if path.is_file()
    }
    assert {"sql/menu.psql", "sql/adoption/repairs.sql", "sql/migrate/queries.sql"} < wanted
    demo = {"cli/demo.jsonl", "cli/demo_vectors.bin"}
    assert {f"ltm_store/{name}" for name in wanted | demo | {"py.typed"}} <= inside
    assert not {name for name in inside if name.startswith(("tests", "sql", "migrations"))}
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert wanted | {"pyproject.toml", "LICENSE", "README.md"} <= names


@pytest.fixture(scope="module")
def installed(built, tmp_path_factory) -> Path:
    """What pip installs of the wheel."""
    (wheel,) = built.glob("*.whl")
    folder: Path = tmp_path_factory.mktemp("installed")
    run(
        *(sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-compile"),
        *("--target", str(folder), str(wheel)),
        cwd=folder,
    )
    return folder


def environment(folder: Path, installed: Path) -> tuple[str, Path]:
    """The Python and the packages of a new environment that has the wheel alone."""
    venv.create(folder, with_pip=False, symlinks=True)
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    packages = folder / "lib" / version / "site-packages"
    shutil.copytree(installed, packages, dirs_exist_ok=True)
    return str(folder / "bin" / "python"), packages


@pytest.fixture(scope="module")
def bare(installed, tmp_path_factory) -> Path:
    """A Python with the wheel and what it requires, without extras."""
    python, packages = environment(tmp_path_factory.mktemp("bare") / "env", installed)
    pending, required = ["asyncpg", "pydantic"], set[str]()
    while pending:
        distribution = metadata.distribution(pending.pop())
        if distribution.name not in required:
            required.add(distribution.name)
            for text in distribution.requires or ():
                requirement = Requirement(text)
                if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                    pending.append(requirement.name)
            for top in {file.parts[0] for file in distribution.files or ()} - {".."}:
                source = Path(str(distribution.locate_file(top)))
                if source.exists() and not (packages / top).exists():
                    (packages / top).symlink_to(source)
    return Path(python)


CONNECT = """
import asyncio
from ltm_store import LtmError, connect
async def main():
    try:
        await connect()
    except LtmError as error:
        print(error)
asyncio.run(main())
"""


SCRIPT = "from ltm_store.cli.__main__ import main; main()"


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (("-c", CONNECT), 0, "no database: pass a DSN, set LTM_DATABASE_URL, or install "),
        (("-m", "ltm_store.migrate"), 1, "failed: install ltm_store[migrate], which brings "),
        (("-c", "from ltm_store import migrate"), 1, "failed: install ltm_store[migrate], which "),
        (
            ("-c", SCRIPT),
            1,
            "failed: the command line needs an extra: pip install 'ltm_store[cli]'",
        ),
        (("-m", "ltm_store.cli"), 1, "failed: the command line needs an extra: pip install "),
    ],
    ids=["connect", "migrate", "import migrate", "ltm-store", "cli"],
)
def test_without_extras_one_sentence_names_the_extra(bare, tmp_path, arguments, code, sentence):
    done = subprocess.run(
        [str(bare), *arguments],
        cwd=tmp_path,
        env={"HOME": str(tmp_path), "PYTHONNOUSERSITE": "1"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == code, done.stderr
    (line,) = (done.stdout + done.stderr).splitlines()
    assert line.startswith(sentence)


VERBS = """
import sys
from typer.testing import CliRunner
from ltm_store.cli.app import app
for verb in sys.stdin.read().splitlines():
    print(CliRunner().invoke(app, [*verb.split(), "--dsn", sys.argv[1]]).output, end="\\0")
"""


async def test_the_wheel_migrates_and_serves_in_an_environment_of_its_own(
    installed, empty, tmp_path
):
    """Only the wheel is installed anew; what it depends on is lent by this environment."""
    python, packages = environment(tmp_path / "env", installed)
    (packages / "lent.pth").write_text(sysconfig.get_paths()["purelib"] + os.linesep)
    output = run(python, "-I", "-c", PROGRAM, empty, cwd=tmp_path)
    assert output == "['served from the wheel']\n"
    status = run(python, "-I", "-m", "ltm_store.migrate", "status", "--dsn", empty, cwd=tmp_path)
    assert status.count("applied") == len(migration_ids())
    page = tmp_path / "alice.html"
    verbs = {
        "status": "0001_importance",
        "search wheel --user alice": "served from the wheel",
        "show 1 --user alice": "served from the wheel",
        "graph 1 --user alice --format svg": "served from the",
        f"report --user alice --output {page}": "alice.html",
        "export --user alice": '"content": "served from the wheel"',
        "health": "all is well",
        "adoption-report": "nothing was repaired",
        "migrate": "nothing to apply",
    }
    outputs = run(python, "-I", "-c", VERBS, empty, cwd=tmp_path, given="\n".join(verbs))
    for (verb, shown), output in zip(verbs.items(), outputs.split("\0"), strict=False):
        assert shown in output, verb
    assert "Memories of alice" in page.read_text(encoding="utf-8")
