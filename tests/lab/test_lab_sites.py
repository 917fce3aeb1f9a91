"""A lab with two sites: a transit router spreads clients over both, and gives them to one when the other is cut off."""

import os
from collections import Counter
from collections.abc import Iterator
from time import monotonic, sleep

import pytest
import trio

from orchestrator.lab import Lab, LabSpec, checks, fabric, lab_down, lab_up, router
from orchestrator.lab.topology import VIP_V4, VIP_V6

pytestmark = pytest.mark.lab

NAME = f"sites{os.getpid()}"


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    lab_down(NAME)
    yield trio.run(lab_up, LabSpec(name=NAME, sites=2, l4_nodes=2, proxies=1, backends=1))
    lab_down(NAME)


def chosen(lab: Lab, namespace: str, interface: str, vip: object, ports: range) -> dict[int, str]:
    """Port → next hop that a router chooses for a flow of the client from it."""
    source = next(a.ip for a in lab.topology.client.addresses if a.version == (4 if vip == VIP_V4 else 6))
    found = {}
    for port in ports:
        route = fabric.run_in(
            namespace,
            [
                *("ip", "route", "get", str(vip), "from", str(source), "iif", interface),
                *("ipproto", "tcp", "sport", str(port), "dport", "443"),
            ],
        )
        found[port] = route.split(" via ")[1].split()[0]
    return found


@pytest.mark.parametrize("vip", [VIP_V4, VIP_V6], ids=["ipv4", "ipv6"])
def test_clients_spread_over_both_sites_and_there_over_all_l4_nodes(lab: Lab, vip: object) -> None:
    """With one hash for both choices, a site would use the half of its nodes that its half of the flows maps to."""
    topology = lab.topology
    sites = chosen(lab, topology.entry.namespace, "br-clients", vip, range(40000, 40064))
    assert min(Counter(sites.values()).values()) >= 16
    for site in topology.sites:
        gateways = {str(interface.ip) for interface in site.router.addresses}
        nodes: Counter[str] = Counter()
        for port, gateway in sites.items():
            if gateway in gateways:
                nodes.update(chosen(lab, site.router.namespace, "uplink", vip, range(port, port + 1)).values())
        assert nodes.keys() <= {str(interface.ip) for node in site.l4_nodes for interface in node.addresses}
        assert len(nodes) == 2, f"{site.name} uses one of its two L4 nodes"


def test_each_node_is_told_its_site(lab: Lab) -> None:
    sites = {host.name: host.site for host in lab.status().hosts if host.site}
    assert sites == {
        **dict.fromkeys(("router", "l4-1", "l4-2", "proxy-1"), "east"),
        **dict.fromkeys(("router-2", "l4-3", "l4-4", "proxy-2"), "west"),
    }


def test_a_site_that_is_cut_off_loses_its_clients_to_the_other_and_gets_them_back(lab: Lab) -> None:
    transit, west = lab.topology.entry, lab.site("west")
    lab.cut_site("west")
    began = monotonic()
    while str(west.router.v4[0].ip) in router.next_hops(transit.namespace, VIP_V4):
        assert monotonic() - began < 1.0
    assert {host.name for host in lab.status().hosts if not host.connected} == {"router-2"}
    for interface in lab.topology.client.addresses:
        vip = VIP_V4 if interface.version == 4 else VIP_V6
        assert checks.request(lab, lab.topology.client, interface.ip, vip).strip() == "backend-1"
    lab.mend()
    deadline = monotonic() + 60
    while (missing := checks.routes_are_complete(lab)) is not None:
        assert monotonic() < deadline, missing
        sleep(0.2)
    assert lab.status().healthy
