"""The command line, `ltm-store`; its modules need the `cli` extra."""
