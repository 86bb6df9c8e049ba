"""`python -m ltm_store.cli` is `ltm-store`."""

from ltm_store.cli import app

app(prog_name="ltm-store")
