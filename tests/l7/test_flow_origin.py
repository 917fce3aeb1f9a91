"""Naming the L4 node of a flow: as far as the redirector's map tells, and without it too."""

import logging
from ipaddress import ip_address

import pytest

from l4.ingress import Ingress, IngressUnavailable
from l7 import limits
from l7.flow_origin import FlowOrigin
from l7.telemetry.metrics import Counters
from tests.l7.live_proxy import LiveBackend, running_proxy

CLIENT, VIP = ("198.51.100.7", 40000), ("203.0.113.10", 443)
NAMES = {7: "l4-1"}


class Arrivals:
    """What a redirector has noted: any flow from these addresses came through node 7."""

    def __init__(self, *clients: str) -> None:
        self.clients = clients

    def lookup(self, client: str, client_port: int, vip: str, vip_port: int) -> Ingress | None:
        assert ip_address(client)
        assert ip_address(vip)
        return Ingress(7, 1) if client in self.clients else None


class Host:
    """A host on which a redirector may start later."""

    def __init__(self) -> None:
        self.arrivals: Arrivals | None = None
        self.opened = 0

    def open(self) -> Arrivals:
        self.opened += 1
        if self.arrivals is None:
            raise IngressUnavailable("no redirector has run")
        return self.arrivals


def test_a_flow_is_named_by_the_node_that_brought_it() -> None:
    counters, host = Counters(), Host()
    host.arrivals = Arrivals("198.51.100.7")
    origin = FlowOrigin(host.open, counters)
    assert origin.name(CLIENT, VIP, NAMES, 0.0) == "l4-1"
    assert origin.name(("198.51.100.8", 1), VIP, NAMES, 0.0) is None
    assert origin.name(CLIENT, VIP, {}, 0.0) is None
    assert (host.opened, counters.totals()) == (1, {"ingress_unknown": 1})


def test_a_redirector_that_starts_later_is_found(caplog: pytest.LogCaptureFixture) -> None:
    counters, host = Counters(), Host()
    origin = FlowOrigin(host.open, counters)
    with caplog.at_level(logging.WARNING):
        for now in (0.0, 1.0, limits.INGRESS_RETRY_S, limits.INGRESS_RETRY_S + 1):
            assert origin.name(CLIENT, VIP, NAMES, now) is None
    assert (host.opened, len(caplog.records)) == (2, 1)
    host.arrivals = Arrivals("198.51.100.7")
    assert origin.name(CLIENT, VIP, NAMES, 2 * limits.INGRESS_RETRY_S) == "l4-1"
    assert counters.totals() == {"ingress_unavailable": 2}


async def test_the_access_log_names_the_node() -> None:
    host = Host()
    host.arrivals = Arrivals("127.0.0.1")
    async with running_proxy(LiveBackend(), open_ingress=host.open) as live, await live.connect():
        await live.settled(lambda: len(live.proxy.clients) == 1)
        assert [client.l4_node for client in live.proxy.clients] == ["l4-1"]
