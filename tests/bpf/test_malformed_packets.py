"""Lying lengths, truncated headers, impossible flags: dropped and counted by name, if they are meant for a VIP."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv6Address

import pytest
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import (
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrRouting,
)
from scapy.packet import Packet

from l4.balancer_program import BalancerProgram
from l4.entries import MemberEntry
from l4.redirector_program import RedirectorProgram
from tests.bpf.packets import FLOWS, NODE_ADDRESS, Ends, framed, host_vip, inner_packet, node_settings, tunnelled
from tests.bpf.program_run import Verdict, run

pytestmark = pytest.mark.kernel

HERE = IPv4Address("198.18.2.11")


TCP_NUMBER, UDP_NUMBER, ESP_NUMBER = 6, 17, 50
OPTIONS_NUMBER = 60


def octets_after_ip(ends: Ends, payload: bytes, protocol: int = TCP_NUMBER, **ip: int) -> Packet:
    """An IP packet that names a protocol and bears `payload`, whatever that is."""
    if ends.is_ipv6:
        return IPv6(src=str(ends.client), dst=str(ends.vip), nh=protocol, **ip) / payload
    return IP(src=str(ends.client), dst=str(ends.vip), proto=protocol, **ip) / payload


def icmp_number(ends: Ends) -> int:
    return 58 if ends.is_ipv6 else 1


def datagram(ends: Ends, **udp: int) -> Packet:
    layer = IPv6 if ends.is_ipv6 else IP
    return layer(src=str(ends.client), dst=str(ends.vip)) / UDP(sport=1, dport=ends.vip_port, **udp) / b"0123456789"


def with_ip(ends: Ends, **changes: int) -> Packet:
    """A good packet, but for these fields of its IP header."""
    packet = inner_packet(ends, "A", b"payload")
    for name, value in changes.items():
        packet.setfieldval(name, value)
    return packet


def with_data_offset(ends: Ends, words: int) -> Packet:
    packet = inner_packet(ends, "A")
    packet[TCP].dataofs = words
    return packet


def extended(ends: Ends, *headers: Packet) -> Packet:
    packet = IPv6(src=str(ends.client), dst=str(ends.vip))
    for header in headers:
        packet /= header
    return packet / TCP(sport=ends.client_port, dport=ends.vip_port, flags="A")


ERROR = {False: bytes([3, 4]) + bytes(6), True: bytes([2, 0]) + bytes(6)}
"""An ICMP header of type "too big", by whether it is ICMPv6."""


@dataclass(frozen=True, slots=True)
class Case:
    """A packet to a VIP that is not what it should be."""

    name: str
    counter: str
    make: Callable[[Ends], Packet]
    families: tuple[str, ...] = ("ipv4", "ipv6")
    passes: bool = False


CASES = (
    Case("SYN and FIN", "bad_tcp_flags", lambda ends: inner_packet(ends, "SF")),
    Case("SYN and RST", "bad_tcp_flags", lambda ends: inner_packet(ends, "SR")),
    Case("SYN, FIN and ACK", "bad_tcp_flags", lambda ends: inner_packet(ends, "SFA")),
    Case("all flags", "bad_tcp_flags", lambda ends: inner_packet(ends, "FSRPAU")),
    Case("no flags", "bad_tcp_flags", lambda ends: inner_packet(ends, "")),
    Case("only ECN flags", "bad_tcp_flags", lambda ends: inner_packet(ends, "EC")),
    Case("data offset of 4", "bad_tcp_header", lambda ends: with_data_offset(ends, 4)),
    Case("data offset past the end", "bad_tcp_header", lambda ends: with_data_offset(ends, 6)),
    Case("19 octets of TCP", "truncated", lambda ends: octets_after_ip(ends, bytes(19))),
    Case("one octet of TCP", "truncated", lambda ends: octets_after_ip(ends, b"x")),
    Case("length past the frame", "bad_ip_length", lambda ends: with_ip(ends, len=1000), ("ipv4",)),
    Case("length within the header", "bad_ip_length", lambda ends: with_ip(ends, len=19), ("ipv4",)),
    Case("length within TCP", "bad_tcp_header", lambda ends: with_ip(ends, len=39), ("ipv4",)),
    Case("payload past the frame", "bad_ip_length", lambda ends: with_ip(ends, plen=1000), ("ipv6",)),
    Case("no payload", "bad_ip_length", lambda ends: with_ip(ends, plen=0), ("ipv6",)),
    Case("largest payload", "bad_ip_length", lambda ends: with_ip(ends, plen=65535), ("ipv6",)),
    Case("payload within TCP", "bad_tcp_header", lambda ends: with_ip(ends, plen=19), ("ipv6",)),
    Case("header of 4 words", "bad_ip_header", lambda ends: with_ip(ends, ihl=4), ("ipv4",)),
    Case("header past the frame", "bad_ip_length", lambda ends: with_ip(ends, ihl=15), ("ipv4",)),
    Case("wrong version", "bad_ip_header", lambda ends: with_ip(ends, version=5)),
    Case("7 octets of UDP", "truncated", lambda ends: octets_after_ip(ends, bytes(7), UDP_NUMBER)),
    Case("UDP length of 7", "bad_udp_length", lambda ends: datagram(ends, len=7)),
    Case("UDP length of 0", "bad_udp_length", lambda ends: datagram(ends, len=0)),
    Case("UDP length past the end", "bad_udp_length", lambda ends: datagram(ends, len=19)),
    Case("7 octets of ICMP", "truncated", lambda ends: octets_after_ip(ends, bytes(7), icmp_number(ends))),
    Case(
        "ICMP error without a quote",
        "truncated",
        lambda ends: octets_after_ip(ends, ERROR[ends.is_ipv6], icmp_number(ends)),
    ),
    Case("fragment of ICMP", "fragment", lambda ends: octets_after_ip(ends, bytes(8), 1, flags=1), ("ipv4",)),
    Case(
        "fragment of ICMPv6",
        "fragment",
        lambda ends: octets_after_ip(ends, bytes(IPv6ExtHdrFragment(nh=58, m=1)) + bytes(8), 44),
        ("ipv6",),
    ),
    Case(
        "fragment that begins with options",
        "fragment",
        lambda ends: octets_after_ip(ends, bytes(IPv6ExtHdrFragment(nh=OPTIONS_NUMBER, m=1)) + bytes(16), 44),
        ("ipv6",),
    ),
    Case(
        "six extension headers",
        "too_many_extensions",
        lambda ends: extended(ends, *[IPv6ExtHdrDestOpt() for _ in range(6)]),
        ("ipv6",),
    ),
    Case(
        "extension header past the packet's end",
        "truncated",
        lambda ends: octets_after_ip(ends, bytes([TCP_NUMBER, 200]) + bytes(100), OPTIONS_NUMBER),
        ("ipv6",),
    ),
    Case(
        "extension header cut short",
        "truncated",
        lambda ends: octets_after_ip(ends, bytes([TCP_NUMBER, 0]) + bytes(5), OPTIONS_NUMBER),
        ("ipv6",),
    ),
    Case(
        "extension header that eats into TCP",
        "bad_tcp_header",
        lambda ends: octets_after_ip(ends, bytes([TCP_NUMBER, 1]) + bytes(34), OPTIONS_NUMBER),
        ("ipv6",),
    ),
    Case(
        "routing header with somewhere else to go",
        "source_route",
        lambda ends: extended(ends, IPv6ExtHdrRouting(type=4, segleft=1, addresses=["2001:db8::1"])),
        ("ipv6",),
    ),
    Case("ESP", "other_protocol", lambda ends: octets_after_ip(ends, bytes(40), ESP_NUMBER), passes=True),
    Case(
        "ESP after options",
        "other_protocol",
        lambda ends: octets_after_ip(ends, bytes([ESP_NUMBER, 0]) + bytes(46), OPTIONS_NUMBER),
        ("ipv6",),
        passes=True,
    ),
    Case(
        "fragment of ESP",
        "other_protocol",
        lambda ends: octets_after_ip(ends, bytes(8), ESP_NUMBER, flags=1),
        ("ipv4",),
        passes=True,
    ),
)
MATRIX = [pytest.param(case, family, id=f"{family}-{case.name}") for case in CASES for family in case.families]


@pytest.fixture(scope="module", autouse=True)
def _settings(balancer: BalancerProgram, redirector: RedirectorProgram) -> None:
    balancer.set_settings(node_settings(balancer.rows, node_id=1))
    balancer.set_vips([host_vip(ends.vip, ends.vip_port, 1, 0, flow_table=False) for ends in FLOWS.values()])
    balancer.set_members([MemberEntry(1, HERE, live=True)])
    balancer.swap_table(0, b"\x01\0\0\0\0\0\0\0" * balancer.rows)
    redirector.set_settings(v4=HERE)
    redirector.set_tunnel_sources([NODE_ADDRESS])


def judge(program: BalancerProgram | RedirectorProgram, frame: bytes) -> tuple[Verdict, bytes, dict[str, int]]:
    before = program.counters()
    outcome = run(program.descriptor, frame)
    after = program.counters()
    counted = {name: after[name] - before[name] for name in after if after[name] != before[name]}
    return outcome.verdict, outcome.frame, counted


@pytest.mark.parametrize(("case", "family"), MATRIX)
def test_balancer_drops_or_passes_it_by_name(balancer: BalancerProgram, case: Case, family: str) -> None:
    frame = framed(case.make(FLOWS[family]))
    verdict = Verdict.PASS if case.passes else Verdict.DROP
    assert judge(balancer, frame) == (verdict, frame, {case.counter: 1})


@pytest.mark.parametrize(("case", "family"), MATRIX)
def test_balancer_leaves_it_to_the_kernel_if_no_vip_was_meant(
    balancer: BalancerProgram, case: Case, family: str
) -> None:
    other = IPv6Address("2001:db8:203::99") if family == "ipv6" else IPv4Address("203.0.113.99")
    frame = framed(case.make(replace(FLOWS[family], vip=other)))
    assert judge(balancer, frame) == (Verdict.PASS, frame, {})


@pytest.mark.parametrize(("case", "family"), MATRIX)
def test_redirector_drops_it_by_name_inside_the_tunnel(redirector: RedirectorProgram, case: Case, family: str) -> None:
    inner = case.make(FLOWS[family])
    outer = tunnelled(inner, source=NODE_ADDRESS, destination=HERE, source_port=1, node_id=1, hops=(1,))
    if case.name == "ping":  # of which nothing is wrong
        assert judge(redirector, framed(outer))[::2] == (Verdict.PASS, {"local_echo": 1})
    else:
        assert judge(redirector, framed(outer))[::2] == (Verdict.DROP, {case.counter: 1})


@pytest.mark.parametrize("size", range(14, 34))
def test_frames_too_short_to_know_whose_they_are_pass(balancer: BalancerProgram, size: int) -> None:
    frame = framed(inner_packet(FLOWS["ipv4"], "A"))[:size]
    assert judge(balancer, frame) == (Verdict.PASS, frame, {})


def lying_outer(**changes: int) -> bytes:
    """A good SYN in a tunnel packet, but for these fields of the outer headers."""
    syn = inner_packet(FLOWS["ipv4"], "S", bytes(changes.get("slack", 0)), len=40)
    outer = tunnelled(syn, source=NODE_ADDRESS, destination=HERE, source_port=1, node_id=1, hops=(1,))
    if "ip_length" in changes:
        outer[IP].len = changes["ip_length"]
    if "udp_length" in changes:
        outer[UDP].len = changes["udp_length"]
    if "flags" in changes:
        outer[IP].flags = changes["flags"]
    frame = framed(outer)
    return frame[: len(frame) - changes.get("cut", 0)]


@pytest.mark.parametrize(
    ("changes", "counter"),
    [
        ({"ip_length": 1000}, "malformed_outer"),
        ({"ip_length": 43}, "malformed_outer"),
        ({"udp_length": 30}, "malformed_outer"),
        ({"udp_length": 1000}, "malformed_outer"),
        ({"flags": 1}, "malformed_outer"),
        ({"cut": 30}, "malformed_outer"),
        ({"slack": 4}, "bad_ip_length"),
        ({}, "local_syn"),
    ],
)
def test_redirector_drops_outer_lengths_that_lie(
    redirector: RedirectorProgram, changes: dict[str, int], counter: str
) -> None:
    verdict = Verdict.DROP if changes else Verdict.PASS
    assert judge(redirector, lying_outer(**changes))[::2] == (verdict, {counter: 1})
