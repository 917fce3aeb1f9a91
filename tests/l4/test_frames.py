"""Frames are read as far as they go, whatever is in them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Dot1Q, Ether
from scapy.packet import Packet

from l4.frames import layers
from l4.program_loader import counter_names
from l4.trace_words import REASONS
from tests.bpf.packets import Gue

ETHER = Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02")
V4 = IP(src="198.51.100.7", dst="203.0.113.10")
V6 = IPv6(src="2001:db8::7", dst="2001:db8:203::10")
SYN = TCP(sport=40000, dport=443, flags="S")
GUE = IP(src="198.18.1.11", dst="198.18.2.11") / UDP(sport=50000, dport=6080)

FRAMES: dict[str, tuple[Packet, list[str]]] = {
    "ipv4": (ETHER / V4 / SYN, ["198.51.100.7:40000 > 203.0.113.10:443 TCP [S] 40"]),
    "ipv6": (ETHER / V6 / SYN, ["[2001:db8::7]:40000 > [2001:db8:203::10]:443 TCP [S] 60"]),
    "vlan": (ETHER / Dot1Q(vlan=5) / Dot1Q(vlan=6) / V4 / SYN, ["198.51.100.7:40000 > 203.0.113.10:443 TCP [S] 40"]),
    "udp": (ETHER / V4 / UDP(sport=5, dport=53), ["198.51.100.7:5 > 203.0.113.10:53 UDP 28"]),
    "icmp": (ETHER / V4 / ICMP(), ["198.51.100.7 > 203.0.113.10 ICMP 28"]),
    "no-flags": (
        ETHER / V4 / TCP(sport=1, dport=2, flags=0),
        ["198.51.100.7:1 > 203.0.113.10:2 TCP [.] 40"],
    ),
    "fragment": (
        ETHER / IP(src="198.51.100.7", dst="203.0.113.10", frag=5, proto=6),
        ["198.51.100.7 > 203.0.113.10 TCP 20"],
    ),
    "ipip": (
        ETHER / IP(src="198.18.1.11", dst="198.18.2.11") / V6 / SYN,
        ["198.18.1.11 > 198.18.2.11 IPv6 80", "[2001:db8::7]:40000 > [2001:db8:203::10]:443 TCP [S] 60"],
    ),
    "gue": (
        ETHER / GUE / Gue(protocol=4, hop_count=0, hops=[0, 0, 0]) / V4 / SYN,
        ["198.18.1.11:50000 > 198.18.2.11:6080 UDP 84", "198.51.100.7:40000 > 203.0.113.10:443 TCP [S] 40"],
    ),
}


OCTETS = {name: bytes(packet) for name, (packet, _) in FRAMES.items()}


@pytest.mark.parametrize("name", FRAMES)
def test_every_header_is_told_outermost_first(name: str) -> None:
    assert [str(layer) for layer in layers(OCTETS[name])] == FRAMES[name][1]


@given(st.binary(max_size=200))
def test_no_octets_are_too_odd(octets: bytes) -> None:
    assert all(str(layer) for layer in layers(octets))


@given(st.sampled_from(sorted(FRAMES)), st.integers(0, 120), st.binary(max_size=8))
def test_a_frame_may_be_cut_anywhere_and_changed(name: str, length: int, change: bytes) -> None:
    octets = OCTETS[name][:length]
    assert all(str(layer) for layer in layers(octets[: length // 2] + change + octets[length // 2 + len(change) :]))


def test_words_are_of_counters_that_there_are() -> None:
    assert set(REASONS) <= {*counter_names("BALANCER"), *counter_names("REDIRECTOR")}
