"""The embedded server, seen from outside."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from ltm_store import embedded
from ltm_store.cli.frame import command
from ltm_store.errors import LtmError


@command("embedded", "embedded status")
def server(
    what: Annotated[
        Literal["status", "stop", "path"], typer.Argument(help="status, stop or path.")
    ] = "status",
) -> None:
    """Look after the server of the `embedded` extra: it stops with the last program that uses it.

    path is where its data lie; delete the folder, when it is stopped, to start over.
    """
    directory = embedded.data_dir()
    match what:
        case "path":
            typer.echo(directory)
        case "stop":
            typer.echo("stopped" if embedded.halt() else "it was not running")
        case "status":
            if not embedded.is_running():
                raise LtmError(f"no server runs in {directory}")
            typer.echo(f"running in {directory}")
