"""The census: which flows need which generation, and real sockets of every kind that counts."""

import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from ipaddress import IPv4Address, ip_address, ip_network
from typing import Any

import pytest
from pyroute2 import IPRoute
from scapy.layers.inet import IP, TCP

from l4.census import Census
from l4.flow_hash import HashKey, flow_hash, row_of, source_hash
from l4.forwarding import GenerationTables
from l4.maglev import owners_of_rows
from l4.tcp_sockets import Flow, tcp_flows
from l4.vips import LOOPBACK_INDEX, reconcile
from orchestrator.contract.base import Address
from orchestrator.contract.pool import (
    ForwardingSettings,
    Generation,
    GenerationMember,
    Member,
    MemberState,
    PoolForwarding,
)
from orchestrator.contract.report import PoolCensus
from orchestrator.contract.snapshot import RedirectorSnapshot
from orchestrator.contract.vip import FlowHash, Vip, VipMode

KEY = "00112233445566778899aabbccddeeff"
SETTINGS = ForwardingSettings(hash_key=KEY, rows=1009)
V4 = ip_address("203.0.113.10")
V6 = ip_address("2001:db8:203::10")
ME = 2
VIPS = tuple(
    Vip(name=f"web-v{a.version}", id=a.version, address=a, port=443, mode=VipMode.TERMINATE, pool="edge")
    for a in (V4, V6)
)


def snapshot(*memberships: tuple[int, set[int]], vips: tuple[Vip, ...] = VIPS) -> RedirectorSnapshot:
    """For member `ME`; generations given newest first as (number, members)."""
    known = sorted(set().union(*(members for _, members in memberships)))
    return RedirectorSnapshot(
        version=1,
        node="proxy-2",
        member_id=ME,
        address=IPv4Address("198.18.2.12"),
        forwarding=SETTINGS,
        vips=vips,
        pools=(
            PoolForwarding(
                name="edge",
                slot=0,
                members=tuple(
                    Member(id=m, name=f"proxy-{m}", address=IPv4Address(f"198.18.2.1{m}"), state=MemberState.ACTIVE)
                    for m in known
                ),
                generations=tuple(
                    Generation(number=n, members=tuple(GenerationMember(id=m, weight=1) for m in sorted(members)))
                    for n, members in memberships
                ),
            ),
        ),
        tunnel_sources=(),
        l4_nodes={},
    )


def flows(count: int, vip: Address = V4) -> list[Flow]:
    client = ip_address("198.51.100.7" if vip.version == 4 else "2001:db8:51::7").packed
    return [Flow(vip.packed, 443, client, 20000 + number) for number in range(count)]


def owner(flow: Flow, members: set[int]) -> int:
    hashed = flow_hash(
        HashKey.from_hex(KEY), flow.remote_address, flow.local_address, flow.remote_port, flow.local_port
    )
    generation = [GenerationMember(id=m, weight=1) for m in members]
    return owners_of_rows(generation, HashKey.from_hex(KEY), 1009)[row_of(hashed, 1009)]


def counted(found: list[Flow], *memberships: tuple[int, set[int]]) -> PoolCensus:
    (census,) = Census(snapshot(*memberships), GenerationTables()).count(found)
    return census


def counted_at_sites(found: list[Flow], *memberships: tuple[int, str | None, set[int]]) -> PoolCensus:
    """Generations newest first as (number, site, members)."""
    made = snapshot(*((number, members) for number, _, members in memberships))
    (pool,) = made.pools
    generations = tuple(
        generation.model_copy(update={"site": site})
        for generation, (_, site, _) in zip(pool.generations, memberships, strict=True)
    )
    made = made.model_copy(update={"pools": (pool.model_copy(update={"generations": generations}),)})
    (census,) = Census(made, GenerationTables()).count(found)
    return census


def test_flows_in_rows_that_any_sites_newest_generation_gives_us_need_nothing() -> None:
    ours = [flow for flow in flows(60) if owner(flow, {1, 2}) == ME]
    found = counted_at_sites(ours, (6, "east", {1}), (5, "west", {1, 2}), (4, "east", {1, 2}))
    assert (found.newest_generation, found.needed, found.orphans) == (6, {}, 0)


def test_otherwise_the_newest_generation_of_whichever_site_is_needed() -> None:
    ours = [flow for flow in flows(60) if owner(flow, {1, 2}) == ME]
    found = counted_at_sites(
        ours, (8, "west", {3}), (7, "east", {1}), (6, "west", {1, 2}), (5, "east", {1, 2}), (4, "east", {1, 2, 3})
    )
    assert found.needed == {6: len(ours)}


def test_the_newest_generation_of_a_site_that_is_gone_is_needed_like_any_other() -> None:
    ours = [flow for flow in flows(60) if owner(flow, {1, 2}) == ME]
    assert counted_at_sites(ours, (6, "east", {1}), (5, None, {1, 2}), (4, "east", {1})).needed == {5: len(ours)}


@pytest.mark.parametrize("vip", [V4, V6])
def test_flows_in_our_own_rows_need_nothing(vip: Address) -> None:
    ours = [flow for flow in flows(60, vip) if owner(flow, {1, 2}) == ME]
    assert counted(ours, (4, {1, 2})) == PoolCensus(
        pool="edge", newest_generation=4, flows=len(ours), needed={}, orphans=0
    )


def test_a_drained_members_flows_need_the_generation_that_gave_them() -> None:
    ours = [flow for flow in flows(60) if owner(flow, {1, 2}) == ME]
    assert counted(ours, (5, {1}), (4, {1, 2})).needed == {4: len(ours)}


def test_the_newest_generation_that_gives_the_row_is_needed_and_no_older_one() -> None:
    ours = [flow for flow in flows(60) if owner(flow, {1, 2}) == ME]
    assert counted(ours, (6, {1}), (5, {1, 2}), (4, {1, 2, 3}), (3, {1, 2})).needed == {5: len(ours)}


def test_flows_that_maglev_moved_need_the_generation_before_the_move() -> None:
    ours = [flow for flow in flows(400) if owner(flow, {1, 2}) == ME]
    moved = [flow for flow in ours if owner(flow, {1, 2, 3}) != ME]
    assert moved
    assert len(moved) < len(ours)
    assert counted(ours, (5, {1, 2, 3}), (4, {1, 2})).needed == {4: len(moved)}


def test_flows_that_no_live_generation_brings_here_are_orphans() -> None:
    found = flows(60)
    theirs = [flow for flow in found if owner(flow, {1, 2}) != ME]
    census = counted(found, (4, {1, 2}))
    assert (census.flows, census.orphans, census.needed) == (60, len(theirs), {})


def test_other_addresses_and_ports_are_passed_over() -> None:
    upstream = Flow(ip_address("198.18.2.12").packed, 443, ip_address("198.18.3.11").packed, 8080)
    other_port = flows(1)[0]._replace(local_port=80)
    assert counted([upstream, other_port], (4, {1, 2})).flows == 0


@pytest.mark.parametrize("vip", [V4, V6])
def test_flows_to_blocks_and_ranges_are_counted_each_in_its_own_row(vip: Address) -> None:
    length = vip.max_prefixlen - 8
    block = Vip(
        name="block",
        id=9,
        address=ip_network((vip, length), strict=False).network_address,
        prefix_length=length,
        port=1000,
        last_port=2000,
        mode=VipMode.PASSTHROUGH,
        pool="edge",
    )
    found = [
        flow._replace(local_address=(vip + number % 100).packed, local_port=990 + number)
        for number, flow in enumerate(flows(1020, vip))
    ]
    inside = [flow for flow in found if 1000 <= flow.local_port <= 2000]
    moved = [flow for flow in inside if owner(flow, {1, 2}) == ME and owner(flow, {1, 2, 3}) != ME]
    assert moved
    (census,) = Census(snapshot((5, {1, 2, 3}), (4, {1, 2}), vips=(block,)), GenerationTables()).count(found)
    assert (census.flows, census.needed) == (len(inside), {4: len(moved)})


def test_flows_of_vips_that_go_by_the_source_alone_are_in_their_clients_row() -> None:
    sticky = VIPS[0].model_copy(update={"flow_hash": FlowHash.SOURCE})
    clients = [ip_address("198.51.100.0") + number for number in range(40)]
    found = [Flow(V4.packed, 443, client.packed, port) for client in clients for port in (1000, 2000, 3000)]
    table = owners_of_rows([GenerationMember(id=m, weight=1) for m in (1, 2)], HashKey.from_hex(KEY), 1009)
    ours = [
        client for client in clients if table[row_of(source_hash(HashKey.from_hex(KEY), client.packed), 1009)] == ME
    ]
    (census,) = Census(snapshot((5, {1}), (4, {1, 2}), vips=(sticky,)), GenerationTables()).count(found)
    assert 0 < len(ours) < 40
    assert census.needed == {4: 3 * len(ours)}
    assert census.orphans == 3 * (40 - len(ours))


def test_a_count_repeated_gives_the_same_and_forgets_what_is_gone() -> None:
    census = Census(snapshot((5, {1}), (4, {1, 2})), GenerationTables())
    assert census.count(flows(50)) == census.count(flows(50))
    assert census.count(flows(5))[0].flows == 5
    assert repr(census) == "<Census of member 2: 5 flows at the last count>"


def test_ten_thousand_flows_are_counted_in_a_blink() -> None:
    census = Census(snapshot((5, {1}), (4, {1, 2})), GenerationTables())
    census.count(flows(10_000))
    began = time.process_time()
    census.count(flows(10_000))
    assert time.process_time() - began < 0.2


def dual_stack_listener(backlog: int) -> socket.socket:
    listener = socket.socket(socket.AF_INET6)
    listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("::", 443))
    listener.listen(backlog)
    return listener


def is_routable(vip: Address) -> bool:
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as probe:
        return probe.connect_ex((str(vip), 443)) == 0


@pytest.fixture
def serving(inside: Callable[..., Any]) -> Iterator[Callable[..., Any]]:
    inside(reconcile, {ip_network(V4), ip_network(V6)})
    # The kernel makes a new IPv6 address routable a moment later, in its own time.
    deadline = time.monotonic() + 5
    while not inside(is_routable, V6):
        assert time.monotonic() < deadline
    yield inside
    inside(reconcile, set())


def vip_flows() -> list[Flow]:
    return [flow for flow in tcp_flows() if flow.local_port == 443]


@pytest.mark.kernel
def test_sockets_of_both_families_on_one_listener_are_seen_as_their_packets_are(serving: Callable[..., Any]) -> None:
    def scenario() -> None:
        with ExitStack() as stack:
            listener = stack.enter_context(dual_stack_listener(16))
            assert vip_flows() == [], "a listener is no flow"
            for vip in (V4, V6):
                client = stack.enter_context(socket.create_connection((str(vip), 443)))
                server = stack.enter_context(listener.accept()[0])
                expected = Flow(vip.packed, 443, vip.packed, client.getsockname()[1])
                assert vip_flows().count(expected) == 1
                server.shutdown(socket.SHUT_WR)
                assert vip_flows().count(expected) == 1, "FIN_WAIT counts"
                client.close()
                assert vip_flows().count(expected) == 0, "TIME_WAIT does not"

    serving(scenario)


@pytest.mark.kernel
def test_a_connection_whose_peer_has_closed_still_counts(serving: Callable[..., Any]) -> None:
    def scenario() -> None:
        with dual_stack_listener(16) as listener:
            client = socket.create_connection((str(V4), 443))
            with listener.accept()[0]:
                client.close()
                assert len(vip_flows()) == 1, "CLOSE_WAIT counts"

    serving(scenario)


@pytest.mark.kernel
def test_a_flow_that_nobody_has_accepted_yet_counts(serving: Callable[..., Any]) -> None:
    def scenario() -> None:
        with dual_stack_listener(16), socket.create_connection((str(V4), 443)) as client:
            assert [flow.remote_port for flow in vip_flows() if flow.local_address == V4.packed] == [
                client.getsockname()[1]
            ]

    serving(scenario)


@pytest.mark.kernel
def test_a_handshake_under_way_counts(serving: Callable[..., Any]) -> None:
    """It is a request socket, which other tools do not show, and its client's ACK must still find the way here."""

    def scenario() -> None:
        silent_client = "192.0.2.1"
        with IPRoute() as netlink:
            netlink.route("add", dst="192.0.2.0/24", oif=LOOPBACK_INDEX)
        syn = IP(src=silent_client, dst=str(V4)) / TCP(sport=40000, dport=443, flags="S")
        with dual_stack_listener(16), socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as raw:
            raw.sendto(bytes(syn), (str(V4), 0))
            assert vip_flows() == [Flow(V4.packed, 443, ip_address(silent_client).packed, 40000)]

    serving(scenario)


@pytest.mark.kernel
def test_thousands_of_sockets_are_listed_once_each(serving: Callable[..., Any]) -> None:
    def scenario() -> None:
        with ExitStack() as stack:
            listener = stack.enter_context(dual_stack_listener(64))
            expected = set()
            for number in range(400):
                vip = (V4, V6)[number % 2]
                client = stack.enter_context(socket.create_connection((str(vip), 443)))
                stack.enter_context(listener.accept()[0])
                expected.add(Flow(vip.packed, 443, vip.packed, client.getsockname()[1]))
            found = vip_flows()
            assert len(found) == len(expected)
            assert set(found) == expected

    serving(scenario)


def test_an_l4_nodes_probes_are_no_flows() -> None:
    node = ip_address("198.18.1.11")
    probed = snapshot((1, {ME})).model_copy(update={"probe_sources": (node,)})
    census = Census(probed, GenerationTables())
    flows = [Flow(V4.packed, 443, client.packed, 40000) for client in (node, ip_address("198.51.100.7"))]
    assert census.count(flows)[0].flows == 1
