"""Packets that do not fit their way: who is told, what they are told, and how often."""

import os
import time
from ipaddress import IPv4Address, IPv6Address
from typing import Any

import pytest
from scapy.layers.inet import ICMP, IP, TCP
from scapy.layers.inet6 import ICMPv6PacketTooBig, IPv6
from scapy.packet import Packet, Raw

from l4.balancer_program import BalancerProgram
from l4.entries import EncapsulationKind
from tests.bpf.answer_limits import TOO_BIG, limit_until, unlimited
from tests.bpf.packets import CLIENT_MAC, FLOWS, NODE_MAC, Ends, framed, inner_packet
from tests.bpf.program_run import Verdict
from tests.bpf.sending import OVERHEADS, feed, outcome_of
from tests.bpf.tunnel_frames import TAGGINGS, UNDERLAYS, in_frame

pytestmark = pytest.mark.kernel

MTU = 1500
#: RFC 1812 section 4.3.2.3: as much of the packet as makes 576 octets; RFC 4443 section 3.2: 1280.
QUOTED = {"ipv4": 576 - 20 - 8, "ipv6": 1280 - 40 - 8}


@pytest.fixture(autouse=True)
def _unlimited(balancer: BalancerProgram) -> None:
    unlimited(balancer)


def sized(ends: Ends, size: int, **ip: Any) -> Packet:
    """A packet of TCP of `size` octets, headers included."""
    octets = bytes(number % 251 for number in range(size - len(inner_packet(ends, "A"))))
    return inner_packet(ends, "A", octets, **ip)


def answer(ends: Ends, packet: Packet, mtu: int) -> Packet:
    """What a router at the narrow link would say, in the VIP's name."""
    quoted = bytes(packet)
    if ends.is_ipv6:
        header = IPv6(src=str(ends.vip), dst=str(ends.client), hlim=64, tc=0xC0)
        return header / ICMPv6PacketTooBig(mtu=mtu) / Raw(quoted[: QUOTED["ipv6"]])
    header = IP(src=str(ends.vip), dst=str(ends.client), ttl=64, id=0, flags="DF", tos=0xC0)
    return header / ICMP(type=3, code=4, nexthopmtu=mtu) / Raw(quoted[: QUOTED["ipv4"]])


@pytest.mark.parametrize("tagging", TAGGINGS)
@pytest.mark.parametrize("underlay", UNDERLAYS)
@pytest.mark.parametrize("kind", EncapsulationKind)
@pytest.mark.parametrize("family", FLOWS)
def test_client_is_told_the_size_that_would_fit(
    balancer: BalancerProgram, family: str, kind: EncapsulationKind, underlay: str, tagging: str
) -> None:
    feed(balancer, kind, underlay, mtu=MTU)
    ends, tags = FLOWS[family], TAGGINGS[tagging]
    fitting = MTU - OVERHEADS[kind, underlay]
    for size in (fitting - 1, fitting):
        outcome, counted = outcome_of(balancer, in_frame(sized(ends, size), tags))
        assert (outcome.verdict, counted) == (Verdict.TX, {"forwarded": 1}), size
        assert len(outcome.frame) == 14 + 4 * len(tags) + size + OVERHEADS[kind, underlay]
    for size in (fitting + 1, fitting + 2, fitting + 3, fitting + 64):
        packet = sized(ends, size)
        outcome, counted = outcome_of(balancer, in_frame(packet, tags))
        assert (outcome.verdict, counted) == (Verdict.TX, {"packet_too_big": 1, "too_big_answered": 1}), size
        assert outcome.frame == in_frame(
            bytes(answer(ends, packet, fitting)), tags, source=NODE_MAC, destination=CLIENT_MAC
        )


@pytest.mark.parametrize("flags", ["", "DF"])
def test_ipv4_client_is_told_whether_or_not_it_allowed_fragments(balancer: BalancerProgram, flags: str) -> None:
    feed(balancer, EncapsulationKind.GUE, "over-ipv4", mtu=MTU)
    packet = sized(FLOWS["ipv4"], 1500, id=77)
    packet.flags = flags
    outcome, counted = outcome_of(balancer, framed(packet))
    assert counted == {"packet_too_big": 1, "too_big_answered": 1}
    assert outcome.frame == in_frame(
        bytes(answer(FLOWS["ipv4"], packet, MTU - 44)), source=NODE_MAC, destination=CLIENT_MAC
    )


def test_quote_begins_with_the_clients_own_options(balancer: BalancerProgram) -> None:
    feed(balancer, EncapsulationKind.IPIP, "over-ipv4", mtu=MTU)
    packet = inner_packet(FLOWS["ipv4"], "A", b"z" * 1440, options=b"\x01" * 20)
    outcome, counted = outcome_of(balancer, framed(packet).ljust(1600, b"\0"))
    assert counted == {"packet_too_big": 1, "too_big_answered": 1}
    assert outcome.frame == in_frame(
        bytes(answer(FLOWS["ipv4"], packet, MTU - 20)), source=NODE_MAC, destination=CLIENT_MAC
    )


NOBODY = {
    "ipv4": ("0.0.0.0", "0.1.2.3", "127.0.0.1", "224.0.0.1", "240.0.0.1", "255.255.255.255"),
    "ipv6": ("::", "::1", "ff02::1"),
}


@pytest.mark.parametrize(("family", "source"), [(family, source) for family in NOBODY for source in NOBODY[family]])
def test_nobody_is_told_who_cannot_be_there(balancer: BalancerProgram, family: str, source: str) -> None:
    feed(balancer, EncapsulationKind.GUE, "over-ipv4", mtu=MTU)
    address = IPv6Address(source) if family == "ipv6" else IPv4Address(source)
    outcome, counted = outcome_of(balancer, framed(sized(Ends(address, FLOWS[family].vip), 1500)))
    assert (outcome.verdict, counted) == (Verdict.DROP, {"packet_too_big": 1, "too_big_unanswerable": 1})


def test_errors_and_later_fragments_are_not_answered(balancer: BalancerProgram) -> None:
    feed(balancer, EncapsulationKind.GUE, "over-ipv4", mtu=MTU)
    ends = FLOWS["ipv4"]
    quoted = IP(src=str(ends.vip), dst=str(ends.client)) / TCP(sport=ends.vip_port, dport=ends.client_port)
    error = IP(src="192.0.2.7", dst=str(ends.vip)) / ICMP(type=3, code=1) / quoted / Raw(bytes(1432))
    _, counted = outcome_of(balancer, framed(error))
    assert counted == {"icmp_errors": 1, "packet_too_big": 1, "too_big_unanswerable": 1}
    fragment = IP(src=str(ends.client), dst=str(ends.vip), proto=17, frag=185) / Raw(bytes(1480))
    _, counted = outcome_of(balancer, framed(fragment))
    assert counted == {"packet_too_big": 1, "too_big_unanswerable": 1}
    first = IP(src=str(ends.client), dst=str(ends.vip), proto=17, flags="MF") / Raw(bytes(1480))
    _, counted = outcome_of(balancer, framed(first))
    assert counted == {"packet_too_big": 1, "too_big_answered": 1}


def test_ipv6_client_is_never_told_less_than_its_minimum_mtu(balancer: BalancerProgram) -> None:
    feed(balancer, EncapsulationKind.GUE, "over-ipv6", mtu=1280 + 64 - 1)
    outcome, counted = outcome_of(balancer, framed(sized(FLOWS["ipv6"], 1280)))
    assert (outcome.verdict, counted) == (Verdict.DROP, {"packet_too_big": 1, "too_big_unanswerable": 1})
    feed(balancer, EncapsulationKind.GUE, "over-ipv6", mtu=1280 + 64)
    _, counted = outcome_of(balancer, framed(sized(FLOWS["ipv6"], 1280)))
    assert counted == {"forwarded": 1}


@pytest.mark.parametrize("family", FLOWS)
def test_answers_have_a_limit(balancer: BalancerProgram, family: str) -> None:
    feed(balancer, EncapsulationKind.GUE, "over-ipv4", mtu=MTU)
    frame = framed(sized(FLOWS[family], 1500))
    limit_until(balancer, TOO_BIG, seconds=3600)
    outcome, counted = outcome_of(balancer, frame)
    assert (outcome.verdict, counted) == (Verdict.DROP, {"packet_too_big": 1, "too_big_limited": 1})
    unlimited(balancer)
    burst = [outcome_of(balancer, frame)[1] for _ in range(50)]
    assert burst == [{"packet_too_big": 1, "too_big_answered": 1}] * 50


def test_every_second_of_patience_earns_a_thousand_answers(balancer: BalancerProgram) -> None:
    feed(balancer, EncapsulationKind.GUE, "over-ipv4", mtu=MTU)
    frame = framed(sized(FLOWS["ipv4"], 1500))
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(allowed)})  # each CPU has a limit of its own
    try:
        unlimited(balancer)
        begun = time.monotonic()
        answered = sum(outcome_of(balancer, frame)[1].get("too_big_answered", 0) for _ in range(3000))
        elapsed = time.monotonic() - begun
    finally:
        os.sched_setaffinity(0, allowed)
    assert 50 <= answered <= 50 + 1 + 1000 * elapsed
