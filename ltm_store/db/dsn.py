"""Which server is meant: the DSN, normalised."""

import os
import re

_DRIVER = re.compile(r"^postgres(?:ql)?(?:\+\w+)?://")


def normalise(dsn: str) -> str:
    """The DSN as asyncpg and libpq read it, without a driver as in postgresql+asyncpg://."""
    return _DRIVER.sub("postgresql://", dsn, count=1)


def from_environment(*names: str) -> str | None:
    """The DSN in the first of these variables that is set, or None."""
    for name in names:
        if value := os.environ.get(name):
            return normalise(value)
    return None
