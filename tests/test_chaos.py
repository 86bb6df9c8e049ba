"""Whatever happens to the server or the way to it, what was acknowledged is there, whole."""

import pytest

from tests import chaos, servers
from tests.chaos import Scene

pytestmark = pytest.mark.slow

SHORT = (
    Scene.connections_are_half_closed,
    Scene.the_postmaster_is_killed,
    Scene.the_server_only_reads,
    Scene.there_are_too_many_connections,
    Scene.calls_are_cancelled,
    Scene.the_disk_is_full,
    Scene.clocks_step,
)


async def test_acknowledged_adds_survive_what_goes_wrong(server: str) -> None:
    for mortal in servers.mortal(server):
        outcome = await chaos.run(mortal, SHORT, 40)
        assert outcome.raw == []
        assert outcome.acknowledged >= 40 * len(SHORT)
        assert (outcome.lost, outcome.torn, outcome.doubled, outcome.hanging) == (0, 0, 0, 0)
        assert outcome.met.total() > 0
        assert outcome.longest < 10 * chaos.SECONDS
