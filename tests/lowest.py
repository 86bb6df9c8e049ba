"""`python -m tests.lowest`: the lowest versions that pyproject.toml allows, as constraints."""

import tomllib
from pathlib import Path

from packaging.requirements import Requirement

NEWEST = {"bench", "dev", "docs", "fastembed", "mcp"}
"""Extras that are not tested so: tools, and mcp, which asks for a newer pydantic itself."""
IN_STEP = {"opentelemetry-sdk"}
"""Tools that go with a package of the others."""


def main() -> None:
    """Print a line for each."""
    project = tomllib.loads(Path("pyproject.toml").read_text())["project"]
    lines = list(map(Requirement, project["dependencies"]))
    for extra, wanted in project["optional-dependencies"].items():
        found = map(Requirement, wanted)
        lines += [one for one in found if extra not in NEWEST or one.name in IN_STEP]
    for line in lines:
        for bound in line.specifier:
            if bound.operator == ">=":
                print(f"{line.name}=={bound.version}")


if __name__ == "__main__":
    main()
