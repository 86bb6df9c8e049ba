"""The MCP server, as desktop clients and others start it."""

from __future__ import annotations

import asyncio
import json
import logging
import sys
from pathlib import Path
from typing import Annotated, Final

import typer

from ltm_store.cli.frame import (
    DsnOption,
    UserOption,
    command,
    through_pgbouncer,
    trusts_schema,
    under_row_level_security,
)
from ltm_store.database import connect
from ltm_store.errors import LtmError
from ltm_store.tracking import Tracking

_TOKEN_CHARS: Final = 16  # at the least


@command("mcp", "mcp --user alice --print-config")
def mcp(
    user: UserOption,
    namespace: Annotated[
        str | None, typer.Option(help="Only the memories in it, and new ones go there.")
    ] = None,
    read_only: Annotated[
        bool, typer.Option("--read-only", help="Only tools that change nothing; no accesses.")
    ] = False,
    http: Annotated[
        str | None,
        typer.Option(metavar="HOST:PORT", help="Over HTTP at /mcp, not over standard input."),
    ] = None,
    token_file: Annotated[
        Path | None, typer.Option(help="With --http: a file with the token that clients send.")
    ] = None,
    print_config: Annotated[
        bool, typer.Option("--print-config", help="Print what a desktop client's settings want.")
    ] = False,
    dsn: DsnOption = None,
) -> None:
    """Serve a user's memories to an assistant, by the Model Context Protocol.

    The user is fixed: no assistant that is connected sees another one's memories.
    """
    address = _address(http, token_file)
    if print_config:
        typer.echo(json.dumps(_config(user, namespace, read_only, dsn), indent=2))
    else:
        _log_to_stderr()
        asyncio.run(_serve(user, namespace, read_only, address, dsn))


def _address(http: str | None, token_file: Path | None) -> tuple[str, int, str] | None:
    """Host, port and token."""
    if http is None:
        if token_file is not None:
            raise typer.BadParameter("--token-file belongs to --http")
        return None
    host, _, port = http.rpartition(":")
    if not host or not port.isdecimal() or int(port) > 65535:
        raise typer.BadParameter("--http should be HOST:PORT, such as 127.0.0.1:8000")
    if token_file is None:
        raise typer.BadParameter("--http needs --token-file: whoever knows the token may read all")
    token = token_file.read_text().strip()
    if len(token) < _TOKEN_CHARS or not token.isascii() or len(token.split()) != 1:
        raise LtmError(f"the token file should hold {_TOKEN_CHARS} ASCII characters or more")
    return host.strip("[]"), int(port), token


def _config(
    user: str, namespace: str | None, read_only: bool, dsn: str | None
) -> dict[str, object]:
    arguments = ["-m", "ltm_store.cli", "mcp", "--user", user]
    arguments += [] if namespace is None else ["--namespace", namespace]
    arguments += ["--read-only"] if read_only else []
    server: dict[str, object] = {"command": sys.executable, "args": arguments}
    if dsn is not None:  # in the environment, where a list of processes does not show it
        server["env"] = {"LTM_DATABASE_URL": dsn}
    return {"mcpServers": {"memory": server}}


def _log_to_stderr() -> None:
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="%(name)s: %(message)s")
    logging.getLogger("ltm_store").setLevel(logging.INFO)
    logging.getLogger("mcp").setLevel(logging.CRITICAL + 1)  # it would log what clients say


async def _serve(
    user: str,
    namespace: str | None,
    read_only: bool,
    address: tuple[str, int, str] | None,
    dsn: str | None,
) -> None:
    try:
        from ltm_store.integrations.mcp import memory_server, serve_http, serve_stdio
    except ImportError:
        raise LtmError("it needs an extra: pip install 'ltm_store[mcp]'") from None
    tracking: Tracking = "off" if read_only else "deferred"
    async with connect(
        dsn,
        access_tracking=tracking,
        pgbouncer=through_pgbouncer(),
        trust_schema=trusts_schema(),
        row_level_security=under_row_level_security(),
    ) as db:
        server = memory_server(db, user, namespace=namespace, read_only=read_only)
        if address is None:
            await serve_stdio(server)
        else:
            await serve_http(server, *address)
