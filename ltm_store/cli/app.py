"""The app with all of its commands."""

from ltm_store.cli import memories, changes, copies, pictures, operate, server, mcp, demo  # noqa: F401, I001 (the order of --help)
from ltm_store.cli.frame import app

__all__ = ["app"]
