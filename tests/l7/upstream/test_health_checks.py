"""Active health checks: when a server changes sides, and what a check believes."""

import pytest
import trio

from l7.upstream.health import Streak
from orchestrator.contract.route import HealthCheck
from tests.l7.live_proxy import LiveBackend, running_proxy

CHECK = HealthCheck(healthy_after=2, unhealthy_after=3)
FAST = HealthCheck(path="/healthz", interval_s=0.02, timeout_s=5, healthy_after=2, unhealthy_after=2)


def states(results: str, check: HealthCheck = CHECK) -> str:
    """The state after each result: + is passed, healthy; - is failed, unhealthy."""
    streak = Streak(check)
    seen = []
    for result in results:
        streak.add(result == "+")
        seen.append("+" if streak.healthy else "-")
    return "".join(seen)


@pytest.mark.parametrize(
    ("results", "expected"),
    [
        ("+---", "+++-"),
        ("+--+---", "++++++-"),  # the row begins anew
        ("+---+-++", "+++----+"),
        ("-", "-"),  # never seen healthy: one result is enough
        ("-+", "--"),
        ("-++", "--+"),
    ],
)
def test_a_server_changes_sides_after_results_in_a_row(results: str, expected: str) -> None:
    assert states(results) == expected


async def test_a_sick_server_gets_no_requests_until_it_is_well_again() -> None:
    well, sick = LiveBackend(), LiveBackend(name="backend-2")
    async with running_proxy(well, sick, health=FAST) as live:
        sick.health_status = b"500 Oh No"
        await live.settled(lambda: not live.proxy.health()[1].healthy)
        assert live.proxy.health()[1].detail.startswith("500 in ")
        for _ in range(20):
            await live.get()
        assert (len(well.requests), len(sick.requests)) == (20, 0)
        sick.health_status = b"204 No Content"
        await live.settled(lambda: live.proxy.health()[1].healthy)
        for _ in range(40):
            await live.get()
        assert sick.requests


async def test_a_server_that_refuses_connections_is_found_by_its_first_check() -> None:
    backend = LiveBackend()
    async with running_proxy(backend, health=FAST) as live:
        sock = trio.socket.socket()
        await sock.bind(("127.0.0.1", 0))
        dead = LiveBackend(port=sock.getsockname()[1])
        pool = live.snapshot.backends[0]
        await live.change(backends=(pool.model_copy(update={"servers": (dead.as_server(),)}),))
        await live.settled(lambda: not live.proxy.health()[0].healthy)
        assert "refused" in live.proxy.health()[0].detail
        sock.close()


async def test_health_survives_a_change_that_does_not_touch_the_server() -> None:
    well, sick = LiveBackend(), LiveBackend(name="backend-2", health_status=b"500 Oh No")
    async with running_proxy(well, sick, health=FAST) as live:
        await live.settled(lambda: not live.proxy.health()[1].healthy)
        pool = live.snapshot.backends[0]
        await live.change(backends=(pool.model_copy(update={"servers": pool.servers[::-1]}),))
        assert {each.server: each.healthy for each in live.proxy.health()} == {"backend-1": True, "backend-2": False}
