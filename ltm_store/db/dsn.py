"""Which server is meant: the DSN, normalised."""

import os
import re

_DRIVER = re.compile(r"^postgres(?:ql)?(?:\+\w+)?://")


def normalise(dsn: str) -> str:
    """The DSN as asyncpg and libpq read it, without a driver as in postgresql+asyncpg://."""
    return _DRIVER.sub("postgresql://", dsn, count=1)


def from_environment() -> str | None:
    """The DSN in LTM_DATABASE_URL, else in DATABASE_URL, else None."""
    for name in ("LTM_DATABASE_URL", "DATABASE_URL"):
        if value := os.environ.get(name):
            return normalise(value)
    return None
