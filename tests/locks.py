"""How many statements wait for a lock."""

from typing import Final

from tests.servers import IS_CITUS

_HERE: Final = "SELECT count(*) FROM pg_locks WHERE NOT granted"
WAITING: Final = (
    f"SELECT sum(result::integer) FROM run_command_on_all_nodes('{_HERE}')" if IS_CITUS else _HERE
)
