"""L4 nodes ask whether the proxy serves: they are told, and nobody else is; nothing is written down, nothing waits."""

import json
from ipaddress import ip_address
from pathlib import Path

import pytest

from orchestrator.contract.snapshot import HEALTH_PATH
from tests.l7.live_proxy import LiveBackend, apply, read_all, reset, running_proxy
from tests.l7.playbook import World

ASK = f"GET {HEALTH_PATH} HTTP/1.1\r\nHost: 203.0.113.10\r\nConnection: close\r\n\r\n".encode()


@pytest.mark.parametrize("is_serving", [True, False])
def test_an_l4_node_is_told_whether_the_proxy_serves_whatever_host_it_names(is_serving: bool) -> None:
    world = World(is_probe=True, tls=True, cover=("www.example.com",))
    world.is_serving = is_serving
    world.client.receive(ASK)
    assert world.wire.sent.startswith(b"HTTP/1.1 200 OK\r\n" if is_serving else b"HTTP/1.1 503 Service Unavailable\r\n")
    assert world.wire.sent.endswith(b"serving\n")
    assert world.wire.ended == "closed"
    assert (world.log, world.counted) == ([], ["probes_answered"])


def test_the_next_request_of_a_probe_is_answered_as_well() -> None:
    world = World(is_probe=True)
    for _ in range(2):
        world.client.receive(ASK.replace(b"Connection: close\r\n", b""))
        assert world.wire.take().startswith(b"HTTP/1.1 200 OK")
    assert world.wire.ended is None


def test_anybody_else_is_answered_as_usual() -> None:
    world = World()
    world.client.receive(ASK)
    assert world.wire.sent.startswith(b"HTTP/1.1 404 Not Found")
    assert [record.status for record in world.log] == [404]


def test_other_paths_are_requests_like_any_other() -> None:
    world = World(is_probe=True)
    world.client.receive(b"GET /healthy HTTP/1.1\r\nHost: nobody.example.com\r\n\r\n")
    assert world.wire.sent.startswith(b"HTTP/1.1 404 Not Found")
    assert [record.status for record in world.log] == [404]


async def test_probes_are_no_flows_and_leave_no_line_in_the_log(tmp_path: Path) -> None:
    log = tmp_path / "access.log"
    async with running_proxy(LiveBackend(), access_log=log) as live:
        from_l4 = live.snapshot.model_copy(update={"probe_sources": (ip_address("127.0.0.1"),), "version": 2})
        await apply(live.proxy, from_l4)
        async with await live.connect() as stream:
            await live.settled(lambda: len(live.proxy.clients) == 1)
            assert live.proxy.open_flows == {"http/1.1": 0}
            await stream.send_all(ASK)
            assert (await read_all(stream)).startswith(b"HTTP/1.1 200 OK")
        reset(await live.connect())
        await live.settled(lambda: not live.proxy.clients)
        totals = live.proxy.totals()
        assert totals["probes_answered"] == 1
        assert totals["probe_connections_accepted"] == 2
        assert "connections_accepted" not in totals or totals["connections_accepted"] == 0
        await apply(live.proxy, live.snapshot.model_copy(update={"version": 3}))
        assert (await live.get(HEALTH_PATH)).startswith(b"HTTP/1.1 200 OK"), "the backend's own answer"
        await live.settled(lambda: log.exists() and bool(log.read_text()))
        assert [json.loads(line)["path"] for line in log.read_text().splitlines()] == [HEALTH_PATH]


async def test_a_proxy_that_is_stopping_says_that_it_does_not_serve() -> None:
    async with running_proxy(LiveBackend()) as live:
        await apply(
            live.proxy,
            live.snapshot.model_copy(update={"probe_sources": (ip_address("127.0.0.1"),), "version": 2}),
        )
        async with await live.connect() as stream:
            await live.settled(lambda: len(live.proxy.clients) == 1)
            live.proxy.stop_accepting(30.0)
            await stream.send_all(ASK)
            assert (await read_all(stream)).startswith(b"HTTP/1.1 503")
