"""What is built: the wheel and the sdist carry all they need, and work away from the checkout."""

import os
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

from ltm_store.db.resources import migration_ids, resource_dir

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


def run(*command: str, cwd: Path) -> str:
    done = subprocess.run(
        command, cwd=cwd, capture_output=True, text=True, timeout=100, check=False
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
    wanted = {f"sql/{path.name}" for path in resource_dir("sql").glob("*.sql")}
    wanted |= {
        f"sql/{path.parent.name}/{path.name}" for path in resource_dir("sql").glob("*/*.sql")
    }
    wanted |= {
        f"migrations/optional/{path.name}"
        for path in resource_dir("migrations").glob("optional/*.sql")
    }
    assert {"sql/adoption/repairs.sql", "sql/views/ltm_health.sql"} <= wanted
    wanted.add("sql/menu.psql")
    for name in migration_ids():
        wanted |= {f"migrations/{name}.sql", f"migrations/{name}.rollback.sql"}
    assert {f"ltm_store/{name}" for name in wanted | {"py.typed", "cli/demo.jsonl"}} <= inside
    assert not {name for name in inside if name.startswith(("tests", "sql", "migrations"))}
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert wanted | {"pyproject.toml", "LICENSE", "README.md"} <= names


async def test_the_wheel_migrates_and_serves_in_an_environment_of_its_own(built, empty, tmp_path):
    """Only the wheel is installed anew; what it depends on is lent by this environment."""
    (wheel,) = built.glob("*.whl")
    home = tmp_path / "env"
    venv.create(home, with_pip=False, symlinks=True)
    python = home / "bin" / "python"
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    packages = home / "lib" / version / "site-packages"
    run(
        *(sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-compile"),
        *("--target", str(packages), str(wheel)),
        cwd=tmp_path,
    )
    (packages / "lent.pth").write_text(sysconfig.get_paths()["purelib"] + os.linesep)
    output = run(str(python), "-I", "-c", PROGRAM, empty, cwd=tmp_path)
    assert output == "['served from the wheel']\n"
    status = run(
        str(python), "-I", "-m", "ltm_store.migrate", "status", "--dsn", empty, cwd=tmp_path
    )
    assert status.count("applied") == len(migration_ids())
    page = tmp_path / "alice.html"
    for verb, shown in (
        (("status",), "0001_importance"),
        (("search", "wheel", "--user", "alice"), "served from the wheel"),
        (("show", "1", "--user", "alice"), "served from the wheel"),
        (("graph", "1", "--user", "alice", "--format", "svg"), "served from the"),
        (("report", "--user", "alice", "--output", str(page)), "alice.html"),
        (("export", "--user", "alice"), '"content": "served from the wheel"'),
        (("health",), "all is well"),
        (("adoption-report",), "nothing was repaired"),
        (("migrate",), "nothing to apply"),
    ):
        command = (str(python), "-I", "-m", "ltm_store.cli", *verb, "--dsn", empty)
        assert shown in run(*command, cwd=tmp_path)
    assert "Memories of alice" in page.read_text(encoding="utf-8")
