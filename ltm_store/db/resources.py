"""Where the .sql files are: inside the installed package, or beside it in a checkout."""

from array import array
from pathlib import Path
from typing import Final

DEMO_MODEL: Final = "all-MiniLM-L6-v2"
_DEMO_DIMENSIONS: Final = 384
_PACKAGE = Path(__file__).parent.parent


def resource_dir(name: str) -> Path:
    """The folder "sql" or "migrations" as a real path."""
    for parent in (_PACKAGE, _PACKAGE.parent):
        if (parent / name).is_dir():
            return parent / name
    raise FileNotFoundError(f"the package lacks its folder {name}/")


def migration_ids() -> list[str]:
    """The ids of this version's migrations in the order in which they apply."""
    files = resource_dir("migrations").glob("[0-9]*.sql")
    return sorted(file.stem for file in files if not file.name.endswith(".rollback.sql"))


def optional_steps() -> list[str]:
    """The names of the steps that nobody gets unasked."""
    files = (resource_dir("migrations") / "optional").glob("*.sql")
    return sorted(file.stem for file in files if not file.name.endswith(".undo.sql"))


def lines_of(text: str) -> list[str]:
    """The lines of JSON Lines."""
    # splitlines would also cut at U+2028, which stands as it is inside JSON strings.
    return text.rstrip().split("\n")


def demo_lines() -> list[str]:
    """The demo's memories, a JSON object a line."""
    return lines_of((_PACKAGE / "cli" / "demo.jsonl").read_text(encoding="utf-8"))


def demo_vectors() -> list[list[float]]:
    """What DEMO_MODEL made of the demo's question, and then of each of its memories."""
    numbers = array("b")
    numbers.frombytes((_PACKAGE / "cli" / "demo_vectors.bin").read_bytes())
    starts = range(0, len(numbers), _DEMO_DIMENSIONS)
    return [[float(n) for n in numbers[start : start + _DEMO_DIMENSIONS]] for start in starts]
