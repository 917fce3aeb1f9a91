"""Frames that leave the balancer, whole: inner family x outer family x encapsulation x VLAN tags x protocol."""

from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import IPv6Address

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import ICMPv6PacketTooBig, IPv6, IPv6ExtHdrFragment
from scapy.layers.l2 import Ether
from scapy.packet import Packet, Raw

from l4.balancer_program import BalancerProgram
from l4.entries import PROTOCOL_TCP, PROTOCOL_UDP, EncapsulationKind, MemberEntry
from l4.flow_hash import HashKey, flow_hash
from tests.bpf.packets import FLOWS, KEY, NODE_ADDRESS, NODE_MAC, Ends, inner_packet
from tests.bpf.program_run import Verdict
from tests.bpf.sending import CHAIN, MEMBER, MEMBER_MAC, feed, outcome_of
from tests.bpf.tunnel_frames import TAGGINGS, UNDERLAYS, Kind, Tunnel, Underlay, in_frame

pytestmark = pytest.mark.kernel

KINDS = {EncapsulationKind.GUE: Kind.GUE, EncapsulationKind.IPIP: Kind.IPIP}


def datagram(ends: Ends, payload: bytes) -> Packet:
    header = (
        IPv6(src=str(ends.client), dst=str(ends.vip)) if ends.is_ipv6 else IP(src=str(ends.client), dst=str(ends.vip))
    )
    return header / UDP(sport=ends.client_port, dport=ends.vip_port) / Raw(payload)


def fragment(ends: Ends) -> Packet:
    if ends.is_ipv6:
        later = IPv6ExtHdrFragment(nh=PROTOCOL_UDP, offset=100, id=7)
        return IPv6(src=str(ends.client), dst=str(ends.vip)) / later / Raw(bytes(33))
    return IP(src=str(ends.client), dst=str(ends.vip), proto=PROTOCOL_UDP, frag=100, id=7) / Raw(bytes(33))


def error(ends: Ends) -> Packet:
    if ends.is_ipv6:
        quoted = IPv6(src=str(ends.vip), dst=str(ends.client)) / TCP(sport=ends.vip_port, dport=ends.client_port)
        return IPv6(src="2001:db8:77::1", dst=str(ends.vip)) / ICMPv6PacketTooBig(mtu=1280) / quoted
    quoted = IP(src=str(ends.vip), dst=str(ends.client)) / TCP(sport=ends.vip_port, dport=ends.client_port)
    return IP(src="192.0.2.77", dst=str(ends.vip)) / ICMP(type=3, code=4, nexthopmtu=1400) / quoted


@dataclass(frozen=True, slots=True)
class Traffic:
    """What a client sends, and what its flow is hashed by."""

    packet: Callable[[Ends], Packet]
    protocol: int = PROTOCOL_TCP
    has_ports: bool = True

    def hash(self, ends: Ends) -> int:
        ports = (ends.client_port, ends.vip_port) if self.has_ports else (0, 0)
        key = HashKey.from_hex(KEY.hex())
        return flow_hash(key, ends.client.packed, ends.vip.packed, *ports, self.protocol)


TRAFFIC = {
    "syn": Traffic(lambda ends: inner_packet(ends, "S")),
    "data of an odd size": Traffic(lambda ends: inner_packet(ends, "PA", b"x" * 333)),
    "fin": Traffic(lambda ends: inner_packet(ends, "FA")),
    "rst": Traffic(lambda ends: inner_packet(ends, "R")),
    "udp": Traffic(lambda ends: datagram(ends, b"y" * 77), PROTOCOL_UDP),
    "later fragment of udp": Traffic(fragment, PROTOCOL_UDP, has_ports=False),
    "icmp error": Traffic(error),
}


def expected(
    kind: EncapsulationKind,
    addresses: Underlay,
    tags: tuple[Packet, ...],
    inner: Packet,
    hashed: int,
    traffic_class: int = 0,
) -> bytes:
    """The frame as docs/protocol.md draws it."""
    if kind is EncapsulationKind.L2:
        return in_frame(bytes(inner), tags, source=NODE_MAC, destination=MEMBER_MAC)
    upper = hashed >> 32
    tunnel = Tunnel(
        addresses.node,
        addresses.member(MEMBER),
        KINDS[kind],
        tags,
        hops=CHAIN[1:],
        traffic_class=traffic_class,
        source_port=0xC000 | (upper & 0x3FFF),
        flow_label=(upper & 0xFFFFF) or 1,
    )
    return tunnel.leaving(bytes(inner))


@pytest.mark.parametrize("traffic", TRAFFIC)
@pytest.mark.parametrize("tagging", TAGGINGS)
@pytest.mark.parametrize("underlay", UNDERLAYS)
@pytest.mark.parametrize("kind", EncapsulationKind)
@pytest.mark.parametrize("family", FLOWS)
def test_frame_is_the_one_that_is_drawn(
    balancer: BalancerProgram, family: str, kind: EncapsulationKind, underlay: str, tagging: str, traffic: str
) -> None:
    addresses = feed(balancer, kind, underlay)
    ends, tags = FLOWS[family], TAGGINGS[tagging]
    inner = TRAFFIC[traffic].packet(ends)
    outcome, counted = outcome_of(balancer, in_frame(bytes(inner), tags))
    assert outcome.verdict is Verdict.TX
    assert outcome.frame == expected(kind, addresses, tags, inner, TRAFFIC[traffic].hash(ends))
    assert counted.pop("icmp_errors", 0) == (traffic == "icmp error")
    assert counted == {"forwarded": 1}


@pytest.mark.parametrize("underlay", UNDERLAYS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", FLOWS)
def test_class_of_service_is_copied_but_not_congestion_marks(
    balancer: BalancerProgram, family: str, kind: EncapsulationKind, underlay: str
) -> None:
    addresses = feed(balancer, kind, underlay)
    for traffic_class in range(256):
        marked = inner_packet(FLOWS[family], "A")
        marked.setfieldval("tc" if family == "ipv6" else "tos", traffic_class)
        outcome, _ = outcome_of(balancer, in_frame(bytes(marked)))
        wanted = expected(kind, addresses, (), marked, FLOWS[family].hash(), traffic_class & 0xFC)
        assert outcome.frame == wanted, traffic_class


def test_flow_labels_differ_between_flows_and_are_never_zero(balancer: BalancerProgram) -> None:
    feed(balancer, EncapsulationKind.IPIP, "over-ipv6")
    labels = set()
    for port in range(1024, 1324):
        ends = Ends(FLOWS["ipv4"].client, FLOWS["ipv4"].vip, client_port=port)
        outcome, _ = outcome_of(balancer, in_frame(bytes(inner_packet(ends, "A"))))
        labels.add(Ether(outcome.frame)[IPv6].fl)
    assert 0 not in labels
    assert len(labels) > 295


@pytest.mark.parametrize("kind", KINDS)
def test_member_of_a_family_that_the_node_has_no_address_in_gets_nothing(
    balancer: BalancerProgram, kind: EncapsulationKind
) -> None:
    feed(balancer, kind, "over-ipv6", source_v6=None)
    outcome, counted = outcome_of(balancer, in_frame(inner_packet(FLOWS["ipv4"], "A")))
    assert (outcome.verdict, counted) == (Verdict.DROP, {"no_source": 1})


def test_l2_rewrite_waits_until_the_members_ethernet_address_is_known(balancer: BalancerProgram) -> None:
    feed(balancer, EncapsulationKind.L2, "over-ipv4")
    balancer.set_members([MemberEntry(MEMBER, NODE_ADDRESS, live=True)])
    outcome, counted = outcome_of(balancer, in_frame(inner_packet(FLOWS["ipv4"], "A")))
    assert (outcome.verdict, counted) == (Verdict.DROP, {"no_mac": 1})


def test_l2_rewrite_takes_members_that_share_no_family_with_the_node(balancer: BalancerProgram) -> None:
    feed(balancer, EncapsulationKind.L2, "over-ipv6", source_v6=None)
    balancer.set_members(
        [MemberEntry(MEMBER, IPv6Address("2001:db8::1"), live=True, mac=bytes.fromhex(MEMBER_MAC.replace(":", "")))]
    )
    outcome, counted = outcome_of(balancer, in_frame(inner_packet(FLOWS["ipv4"], "A")))
    assert (outcome.verdict, counted) == (Verdict.TX, {"forwarded": 1})
    assert Ether(outcome.frame).dst == MEMBER_MAC
