"""The lab's plan: sizes, names, addresses. No root needed."""

from collections import Counter
from ipaddress import IPv4Address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from orchestrator.lab.spec import MAX_HOSTS_OF_KIND, MAX_SITES, LabSpec
from orchestrator.lab.topology import VIP_NETWORKS, VIP_V4, VIP_V6, Network, Topology, topology_of

SIZES = st.integers(1, MAX_HOSTS_OF_KIND)

#: RFC 5737, RFC 2544, RFC 3849.
RESERVED = [ip_network(net) for net in ("192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24", "198.18.0.0/15")]
RESERVED_V6 = ip_network("2001:db8::/32")

#: IFNAMSIZ - 1 (linux/if.h).
LONGEST_INTERFACE_NAME = 15


def networks_of(topology: Topology) -> list[Network]:
    return [network for router in topology.routers for network in router.networks]


@given(
    sites=st.integers(1, MAX_SITES), l4_nodes=SIZES, proxies=SIZES, backends=SIZES, client_addresses=st.integers(1, 64)
)
def test_every_name_and_address_is_unique_and_harmless(
    sites: int, l4_nodes: int, proxies: int, backends: int, client_addresses: int
) -> None:
    topology = topology_of(
        LabSpec(sites=sites, l4_nodes=l4_nodes, proxies=proxies, backends=backends, client_addresses=client_addresses)
    )
    hosts = topology.hosts
    assert len(hosts) == sites * (l4_nodes + proxies) + backends + 2
    names = Counter(host.name for host in topology.everyone)
    addresses = Counter(str(address) for host in topology.attached for address in host.addresses)
    addresses.update(str(gateway) for network in networks_of(topology) for gateway in network.gateways)
    assert max(names.values()) == max(addresses.values()) == 1
    assert all(len(host.name) <= LONGEST_INTERFACE_NAME for host in hosts)
    for host in hosts:
        assert all(any(address.ip in net for net in RESERVED) for address in host.v4)
        assert all(address.ip in RESERVED_V6 for address in host.v6)
        assert all(address.ip in host.network.v4 for address in host.v4)


def test_hosts_count_from_eleven_in_both_families() -> None:
    topology = topology_of(LabSpec(l4_nodes=12))
    assert [str(address.ip) for address in topology.l4_nodes[0].addresses] == ["198.18.1.11", "2001:db8:18:1::11"]
    assert [str(address.ip) for address in topology.l4_nodes[11].addresses] == ["198.18.1.22", "2001:db8:18:1::22"]
    assert topology.control.address == IPv4Address("198.18.4.10")


def test_bridge_names_fit_an_interface() -> None:
    networks = networks_of(topology_of(LabSpec(sites=MAX_SITES)))
    assert all(len(network.bridge) <= LONGEST_INTERFACE_NAME for network in networks)


def test_what_one_site_has_a_lab_of_two_has_under_the_same_names_and_addresses() -> None:
    one, two = topology_of(LabSpec()), topology_of(LabSpec(sites=2))
    assert set(one.hosts) <= set(two.hosts)
    assert one.entry.name == one.sites[0].router.name == two.sites[0].router.name == "router"
    assert [router.name for router in two.routers] == ["router", "router-2", "transit"]


def test_everything_is_attached_to_the_router_that_has_its_network() -> None:
    topology = topology_of(LabSpec(sites=2))
    routers = {attached.name: topology.router_of(attached).name for attached in topology.attached}
    assert {routers[name] for name in ("client", "control", "backend-1", "router", "router-2")} == {"transit"}
    assert {routers[name] for name in ("l4-1", "l4-2", "proxy-1", "proxy-3")} == {"router"}
    assert {routers[name] for name in ("l4-3", "l4-4", "proxy-4", "proxy-6")} == {"router-2"}


@pytest.mark.parametrize(("sites", "guard"), [(1, 2), (2, 3)])
def test_the_guard_lets_a_proxy_or_a_whole_site_be_missing(sites: int, guard: int) -> None:
    assert LabSpec(sites=sites).capacity_guard == guard


def test_vips_are_on_no_segment_and_the_router_takes_routes_to_them() -> None:
    assert VIP_V4 in VIP_NETWORKS[0]
    assert VIP_V6 in VIP_NETWORKS[1]
    networks = networks_of(topology_of(LabSpec(sites=2)))
    assert not any(VIP_V4 in network.v4 for network in networks)
    assert not any(VIP_V6 in network.v6 for network in networks if network.v6)


def test_namespaces_bear_the_labs_name() -> None:
    topology = topology_of(LabSpec(name="trial"))
    assert {host.namespace for host in topology.everyone} >= {"trial-router", "trial-client", "trial-l4-1"}
    assert all(host.namespace == f"trial-{host.name}" for host in topology.everyone)


@pytest.mark.parametrize(("proxies", "guard"), [(1, 1), (2, 1), (3, 2), (16, 15)])
def test_the_guard_lets_one_proxy_be_missing(proxies: int, guard: int) -> None:
    assert LabSpec(proxies=proxies).capacity_guard == guard


def test_a_guard_that_no_lab_of_this_size_can_meet_is_refused() -> None:
    with pytest.raises(ValidationError, match="min_active is 4, but the lab has 3 proxies"):
        LabSpec(min_active=4)


@pytest.mark.parametrize("name", ["../etc", "", "Edge", "a" * 33])
def test_a_name_that_is_no_label_is_refused(name: str) -> None:
    with pytest.raises(ValidationError):
        LabSpec(name=name)
