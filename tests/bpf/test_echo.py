"""Ping to a VIP, answered in the kernel: whole frames, any size, tags, and how often."""

import struct
from typing import Any

import pytest
from scapy.layers.inet import ICMP, IP
from scapy.layers.inet6 import ICMPv6EchoReply, ICMPv6EchoRequest, IPv6, IPv6ExtHdrDestOpt
from scapy.packet import Packet, Raw

from l4.balancer_program import BalancerProgram
from l4.entries import EncapsulationKind
from tests.bpf.answer_limits import ECHO, limit_until, unlimited
from tests.bpf.packets import CLIENT_MAC, FLOWS, NODE_MAC, Ends
from tests.bpf.program_run import Verdict
from tests.bpf.sending import feed, outcome_of
from tests.bpf.tunnel_frames import TAGGINGS, in_frame

pytestmark = pytest.mark.kernel

#: Of the data: none, odd and even, the usual, and as much as a frame takes.
SIZES = (0, 1, 2, 3, 55, 56, 57, 1000, 1001, 1451, 1452)


@pytest.fixture(autouse=True)
def _fed(balancer: BalancerProgram) -> None:
    feed(balancer, EncapsulationKind.GUE, "over-ipv4")
    unlimited(balancer)


def request(ends: Ends, data: bytes = b"", number: int = 7, sequence: int = 1, **ip: Any) -> Packet:
    if ends.is_ipv6:
        header = IPv6(src=str(ends.client), dst=str(ends.vip), **ip)
        return header / ICMPv6EchoRequest(id=number, seq=sequence, data=data)
    return IP(src=str(ends.client), dst=str(ends.vip), **ip) / ICMP(type=8, id=number, seq=sequence) / Raw(data)


def reply(ends: Ends, data: bytes = b"", number: int = 7, sequence: int = 1, **ip: Any) -> Packet:
    if ends.is_ipv6:
        header = IPv6(src=str(ends.vip), dst=str(ends.client), hlim=64, **ip)
        return header / ICMPv6EchoReply(id=number, seq=sequence, data=data)
    header = IP(src=str(ends.vip), dst=str(ends.client), ttl=64, **ip)
    return header / ICMP(type=0, id=number, seq=sequence) / Raw(data)


def reply_summing_up_to(checksum_at: int, packet: Packet) -> bytes:
    """With 0xffff for a checksum of 0, which is the same number, and right even where all octets are zero."""
    octets = bytes(packet)
    if octets[checksum_at : checksum_at + 2] == bytes(2):
        octets = octets[:checksum_at] + b"\xff\xff" + octets[checksum_at + 2 :]
    return octets


def returned(packet: Packet, tags: tuple[Packet, ...] = ()) -> bytes:
    return in_frame(bytes(packet), tags, source=NODE_MAC, destination=CLIENT_MAC)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("tagging", TAGGINGS)
@pytest.mark.parametrize("family", FLOWS)
def test_request_comes_back_as_reply(balancer: BalancerProgram, family: str, tagging: str, size: int) -> None:
    ends, tags = FLOWS[family], TAGGINGS[tagging]
    data = bytes(number % 251 for number in range(size))
    outcome, counted = outcome_of(balancer, in_frame(bytes(request(ends, data)), tags))
    assert (outcome.verdict, counted) == (Verdict.TX, {"echo_answered": 1})
    assert outcome.frame == returned(reply(ends, data), tags)


@pytest.mark.parametrize("family", FLOWS)
def test_checksum_is_right_wherever_its_sum_wraps(balancer: BalancerProgram, family: str) -> None:
    ends = FLOWS[family]
    bare = struct.unpack_from("!H", bytes(request(ends, number=0, sequence=0))[-8:], 2)[0]
    wanted = (0x0000, 0x0001, 0x00FF, 0x0100, 0xF7FE, 0xF7FF, 0xF800, 0xFEFF, 0xFEFE, 0xFF00, 0xFFFE, 0x7FFF, 0x8000)
    for checksum in wanted:
        # The number that gives the request this checksum (RFC 1071: subtraction that wraps around).
        number = (bare - checksum) % 0xFFFF
        asked = request(ends, number=number, sequence=0)
        outcome, _ = outcome_of(balancer, in_frame(bytes(asked)))
        unlimited(balancer)
        replied = reply_summing_up_to(42 if ends.is_ipv6 else 22, reply(ends, number=number, sequence=0))
        assert outcome.frame == in_frame(replied, source=NODE_MAC, destination=CLIENT_MAC), hex(checksum)


def test_type_of_service_comes_back_without_congestion_marks(balancer: BalancerProgram) -> None:
    outcome, _ = outcome_of(
        balancer, in_frame(bytes(request(FLOWS["ipv4"], b"abc", tos=0xBB, ttl=3, id=9, flags="DF")))
    )
    assert outcome.frame == returned(reply(FLOWS["ipv4"], b"abc", tos=0xB8, id=9, flags="DF"))
    outcome, _ = outcome_of(balancer, in_frame(bytes(request(FLOWS["ipv6"], b"abc", tc=0xBB, hlim=3, fl=0xABCDE))))
    assert outcome.frame == returned(reply(FLOWS["ipv6"], b"abc", tc=0xB8, fl=0xABCDE))


@pytest.mark.parametrize("family", FLOWS)
def test_wrong_checksum_stays_wrong(balancer: BalancerProgram, family: str) -> None:
    octets = bytearray(bytes(request(FLOWS[family], b"abc")))
    octets[-1] ^= 1
    right = bytearray(bytes(reply(FLOWS[family], b"abc")))
    right[-1] ^= 1
    outcome, _ = outcome_of(balancer, in_frame(bytes(octets)))
    assert outcome.frame == in_frame(bytes(right), source=NODE_MAC, destination=CLIENT_MAC)


def test_padding_comes_back(balancer: BalancerProgram) -> None:
    frame = in_frame(bytes(request(FLOWS["ipv4"], b"abc"))).ljust(60, b"\0")
    outcome, counted = outcome_of(balancer, frame)
    assert counted == {"echo_answered": 1}
    assert outcome.frame == returned(reply(FLOWS["ipv4"], b"abc")).ljust(60, b"\0")


@pytest.mark.parametrize("family", FLOWS)
def test_what_needs_more_than_a_turn_is_the_kernels(balancer: BalancerProgram, family: str) -> None:
    ends = FLOWS[family]
    if ends.is_ipv6:
        header = IPv6(src=str(ends.client), dst=str(ends.vip)) / IPv6ExtHdrDestOpt()
        asked = header / ICMPv6EchoRequest(id=1, seq=1)
    else:
        asked = request(ends, options=b"\x07\x07\x04" + bytes(5))  # record route
    frame = in_frame(bytes(asked))
    outcome, counted = outcome_of(balancer, frame)
    assert (outcome.verdict, outcome.frame, counted) == (Verdict.PASS, frame, {"echo_passed": 1})


@pytest.mark.parametrize("family", FLOWS)
def test_answers_have_a_limit(balancer: BalancerProgram, family: str) -> None:
    frame = in_frame(bytes(request(FLOWS[family], b"abc")))
    limit_until(balancer, ECHO, seconds=3600)
    outcome, counted = outcome_of(balancer, frame)
    assert (outcome.verdict, counted) == (Verdict.DROP, {"echo_limited": 1})
    unlimited(balancer)
    assert outcome_of(balancer, frame)[1] == {"echo_answered": 1}


def test_sources_that_cannot_be_are_not_answered(balancer: BalancerProgram) -> None:
    for source in ("255.255.255.255", "224.0.0.1", "0.0.0.0"):
        octets = bytes(request(FLOWS["ipv4"]))
        packet = IP(octets)
        packet.src = source
        outcome, counted = outcome_of(balancer, in_frame(bytes(packet)))
        assert (outcome.verdict, counted) == (Verdict.DROP, {"echo_unanswerable": 1})


def test_ping_of_what_is_no_vip_passes(balancer: BalancerProgram) -> None:
    for address in ("203.0.113.99", "198.18.1.11"):
        packet = request(FLOWS["ipv4"])
        packet.dst = address
        frame = in_frame(bytes(packet))
        outcome, counted = outcome_of(balancer, frame)
        assert (outcome.verdict, outcome.frame, counted) == (Verdict.PASS, frame, {})
