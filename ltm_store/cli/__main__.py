"""The script `ltm-store`, also `python -m ltm_store.cli`."""

from __future__ import annotations

import signal
import sys


def main() -> None:
    """Run the command line. Without the `cli` extra it ends in a sentence that names it."""
    try:
        import rich  # noqa: F401
        import typer  # noqa: F401
    except ImportError:
        reason = "failed: the command line needs an extra: pip install 'ltm_store[cli]'"
        raise SystemExit(reason) from None
    from ltm_store.cli.app import app

    for name in ("SIGTERM", "SIGHUP"):  # end as at the last line, so that the server stops too
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) is not signal.SIG_IGN:  # as by nohup
            signal.signal(number, lambda number, _: sys.exit(128 + number))
    app(prog_name="ltm-store")


if __name__ == "__main__":
    main()
