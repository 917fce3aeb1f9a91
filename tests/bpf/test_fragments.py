"""Fragments: all of a datagram go one way, and none where it would end a flow."""

from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address

import pytest
from scapy.layers.inet import IP, TCP, fragment
from scapy.layers.inet6 import IPv6, IPv6ExtHdrFragment, fragment6
from scapy.packet import Packet, Raw

from l4.balancer_program import BalancerProgram
from l4.entries import PROTOCOL_TCP, PROTOCOL_UDP
from tests.bpf.balancing import (
    an_owner_for_each_row,
    datagram,
    judge,
    owner_by_addresses,
    owner_by_row,
    owner_by_source,
)
from tests.bpf.packets import FLOWS, Ends, framed, host_vip, inner_packet, node_settings
from tests.bpf.program_run import Verdict

pytestmark = pytest.mark.kernel

SLOT = 1


@pytest.fixture(scope="module", autouse=True)
def _settings(balancer: BalancerProgram) -> None:
    balancer.set_settings(node_settings(balancer.rows))
    an_owner_for_each_row(balancer, SLOT)


def serve(balancer: BalancerProgram, protocol: int, **options: bool) -> None:
    balancer.set_vips(
        [
            host_vip(ends.vip, ends.vip_port, number, SLOT, protocol=protocol, **options)
            for number, ends in enumerate(FLOWS.values(), 1)
        ]
    )


def fragments(packet: Packet) -> list[Packet]:
    """Of a packet of more than 1400 octets: at least two."""
    if isinstance(packet, IP):
        return list(fragment(packet, fragsize=1400))
    whole = IPv6(bytes(packet))
    header = whole.copy()
    header.remove_payload()
    header.nh = 44
    return [IPv6(bytes(f)) for f in fragment6(header / IPv6ExtHdrFragment(id=7) / whole.payload, 1400)]


@pytest.mark.parametrize("family", FLOWS)
def test_fragments_of_udp_go_by_addresses_and_protocol_whatever_ports_the_first_shows(
    balancer: BalancerProgram, family: str
) -> None:
    serve(balancer, PROTOCOL_UDP, flow_table=True)
    for port in range(40000, 40010):
        ends = replace(FLOWS[family], client_port=port)
        pieces = fragments(datagram(ends, bytes(4000)))
        assert len(pieces) == 3
        for piece in pieces:
            judgement = judge(balancer, framed(piece))
            assert judgement.owner == owner_by_addresses(balancer, ends)
            assert judgement.frame[58:] == bytes(piece)


@pytest.mark.parametrize("family", FLOWS)
def test_fragments_of_tcp_are_dropped_where_redirectors_could_not_tell_their_flow(
    balancer: BalancerProgram, family: str
) -> None:
    serve(balancer, PROTOCOL_TCP)
    ends = FLOWS[family]
    for piece in fragments(inner_packet(ends, "A", bytes(4000))):
        assert judge(balancer, framed(piece))[::2] == (Verdict.DROP, {"fragment": 1})
    serve(balancer, PROTOCOL_TCP, flow_table=True)
    for piece in fragments(inner_packet(ends, "A", bytes(4000))):
        assert judge(balancer, framed(piece)).owner == owner_by_addresses(balancer, ends, PROTOCOL_TCP)


@pytest.mark.parametrize("protocol", [PROTOCOL_TCP, PROTOCOL_UDP])
@pytest.mark.parametrize("family", FLOWS)
def test_fragments_go_with_their_flow_where_the_client_alone_decides(
    balancer: BalancerProgram, family: str, protocol: int
) -> None:
    serve(balancer, protocol, hash_source=True)
    ends = FLOWS[family]
    whole = inner_packet(ends, "A", bytes(4000)) if protocol == PROTOCOL_TCP else datagram(ends, bytes(4000))
    small = inner_packet(ends, "A") if protocol == PROTOCOL_TCP else datagram(ends)
    for piece in (*fragments(whole), small):
        assert judge(balancer, framed(piece)).owner == owner_by_source(balancer, ends.client)


@pytest.mark.parametrize("protocol", [PROTOCOL_TCP, PROTOCOL_UDP])
def test_fragment_that_is_the_whole_datagram_is_none(balancer: BalancerProgram, protocol: int) -> None:
    serve(balancer, protocol)
    ends = FLOWS["ipv6"]
    upper = inner_packet(ends, "A")[TCP] if protocol == PROTOCOL_TCP else datagram(ends).payload
    atomic = IPv6(src=str(ends.client), dst=str(ends.vip)) / IPv6ExtHdrFragment(id=1) / upper
    assert judge(balancer, framed(atomic)).owner == owner_by_row(balancer, ends, protocol)


@pytest.mark.parametrize("family", FLOWS)
def test_fragment_of_vips_that_are_treated_differently_is_dropped(balancer: BalancerProgram, family: str) -> None:
    ends = FLOWS[family]
    balancer.set_vips(
        [
            host_vip(ends.vip, 443, 1, SLOT, protocol=PROTOCOL_UDP, flow_table=True),
            host_vip(ends.vip, 53, 2, SLOT + 1, protocol=PROTOCOL_UDP, flow_table=True),
        ]
    )
    for piece in fragments(datagram(ends, bytes(3000))):
        assert judge(balancer, framed(piece))[::2] == (Verdict.DROP, {"fragment": 1})


@pytest.mark.parametrize("family", FLOWS)
def test_fragment_that_is_for_no_vip_passes(balancer: BalancerProgram, family: str) -> None:
    serve(balancer, PROTOCOL_UDP, flow_table=True)
    other = IPv6Address("2001:db8:203::99") if family == "ipv6" else IPv4Address("203.0.113.99")
    for piece in fragments(datagram(replace(FLOWS[family], vip=other), bytes(3000))):
        assert judge(balancer, framed(piece)) == (Verdict.PASS, framed(piece), {})


def quoted_fragment(ends: Ends, offset: int) -> Packet:
    """What the VIP sent to the client in fragments, as an error quotes it."""
    back = Ends(ends.vip, ends.client, ends.vip_port, ends.client_port)
    upper = bytes(datagram(back, bytes(64)).payload)
    if ends.is_ipv6:
        header = IPv6(src=str(ends.vip), dst=str(ends.client)) / IPv6ExtHdrFragment(nh=17, m=1, offset=offset)
        return header / Raw(upper)
    return IP(src=str(ends.vip), dst=str(ends.client), proto=17, flags=1, frag=offset) / Raw(upper)


@pytest.mark.parametrize("family", FLOWS)
def test_error_about_a_first_fragment_follows_its_flow_and_one_about_another_is_dropped(
    balancer: BalancerProgram, family: str
) -> None:
    serve(balancer, PROTOCOL_UDP, flow_table=True)
    ends = FLOWS[family]
    protocol = {"nh": 58} if ends.is_ipv6 else {"proto": 1}
    outer = (IPv6 if ends.is_ipv6 else IP)(src=str(ends.client), dst=str(ends.vip), **protocol)
    header = bytes([2, 0] if ends.is_ipv6 else [3, 4]) + bytes(6)
    error = outer / Raw(header + bytes(quoted_fragment(ends, 0)))
    assert judge(balancer, framed(error)).owner == owner_by_row(balancer, ends, PROTOCOL_UDP)
    error = outer / Raw(header + bytes(quoted_fragment(ends, 100)))
    assert judge(balancer, framed(error))[::2] == (Verdict.DROP, {"foreign_quote": 1})
