"""The metrics endpoint: bounded, strict enough, and in the format that Prometheus reads."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio
import trio.testing
from prometheus_client.parser import text_string_to_metric_families

from l4.attachment import XdpMode
from l4.balancer import BalancerAgent
from l4.bird import Bird
from l4.metrics import balancer_metrics, exposition
from l4.metrics_server import MAX_CONNECTIONS, MAX_REQUEST, serve_metrics
from l4.traffic import Traffic


class Endpoint:
    """A server on loopback, and what it answers to octets."""

    def __init__(self, listener: trio.SocketListener) -> None:
        self.address = listener.socket.getsockname()

    async def ask(self, request: bytes) -> bytes:
        async with await trio.open_tcp_stream(*self.address) as stream:
            await stream.send_all(request)
            return b"".join([chunk async for chunk in stream])


@pytest.fixture
async def endpoint() -> AsyncIterator[Endpoint]:
    async def expose() -> bytes:
        return b"edge_l4_snapshot_version 7.0\n"

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(serve_metrics, "127.0.0.1", 0, expose)
        yield Endpoint(listeners[0])
        nursery.cancel_scope.cancel()


async def test_a_scrape_is_answered(endpoint: Endpoint) -> None:
    answer = await endpoint.ask(b"GET /metrics HTTP/1.1\r\nHost: l4-1\r\n\r\n")
    head, body = answer.split(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain; version=0.0.4")
    assert b"Content-Length: 29" in head
    assert body == b"edge_l4_snapshot_version 7.0\n"


@pytest.mark.parametrize(
    ("request_line", "status"),
    [
        (b"GET / HTTP/1.1", b"404 Not Found"),
        (b"POST /metrics HTTP/1.1", b"405 Method Not Allowed"),
        (b"nonsense", b"400 Bad Request"),
    ],
)
async def test_anything_else_is_refused(endpoint: Endpoint, request_line: bytes, status: bytes) -> None:
    assert (await endpoint.ask(request_line + b"\r\n\r\n")).startswith(b"HTTP/1.1 " + status)


async def test_a_request_without_an_end_is_cut_off(endpoint: Endpoint) -> None:
    assert (await endpoint.ask(b"x" * (MAX_REQUEST + 1))).startswith(b"HTTP/1.1 400 Bad Request")


async def test_connections_beyond_the_limit_are_closed(endpoint: Endpoint) -> None:
    idle = [await trio.open_tcp_stream(*endpoint.address) for _ in range(MAX_CONNECTIONS)]
    await trio.testing.wait_all_tasks_blocked()
    async with await trio.open_tcp_stream(*endpoint.address) as one_more:
        assert await one_more.receive_some() == b""
    for stream in idle:
        await stream.aclose()


async def test_an_agent_without_a_snapshot_has_metrics_all_the_same(tmp_path: Path) -> None:
    agent = BalancerAgent(interface="eth0", bpffs=tmp_path, xdp_mode=XdpMode.AUTO, bird=Bird(tmp_path))
    text = exposition(await balancer_metrics(agent)).decode()
    samples = {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    assert samples["edge_l4_snapshot_version",] == 0
    assert samples["edge_l4_snapshots_refused_total",] == 0
    assert samples["edge_l4_xdp_mode", "eth0", "detached"] == 1


async def test_traffic_is_told_by_vip_member_and_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    agent = BalancerAgent(interface="eth0", bpffs=tmp_path, xdp_mode=XdpMode.AUTO, bird=Bird(tmp_path))

    async def traffic() -> Traffic:
        return Traffic({"web": 5}, {"web": 200}, {"proxy-1": 5}, {("web", "fragment"): 2, ("web", "no_table"): 1})

    monkeypatch.setattr(agent, "traffic", traffic)
    text = exposition(await balancer_metrics(agent)).decode()
    for line in (
        'edge_l4_vip_packets_total{vip="web"} 5.0',
        'edge_l4_vip_octets_total{vip="web"} 200.0',
        'edge_l4_member_packets_total{member="proxy-1"} 5.0',
        'edge_l4_vip_dropped_packets_total{reason="fragment",vip="web"} 2.0',
        'edge_l4_vip_dropped_packets_total{reason="no_table",vip="web"} 1.0',
    ):
        assert line in text.splitlines()
