"""The flood's frames are what a client would send: every sum is right, whatever varies."""

from ipaddress import IPv4Address, IPv6Address
from random import Random

import pytest
from scapy.layers.inet import IP, TCP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether

from orchestrator.lab.load.flood import SOURCES, Link, syn_v4, syn_v6, vary_v4, vary_v6

LINK = Link("eth0", bytes.fromhex("020000000001"), bytes.fromhex("020000000002"))
V4, V6 = IPv4Address("203.0.113.10"), IPv6Address("2001:db8:203::10")


@pytest.mark.parametrize("family", ["ipv4", "ipv6"])
def test_sums_are_right_whatever_varies(family: str) -> None:
    is_v6 = family == "ipv6"
    frame = syn_v6(LINK, V6, 443) if is_v6 else syn_v4(LINK, V4, 443)
    vary = vary_v6 if is_v6 else vary_v4
    random = Random(1)
    sources = set()
    for _ in range(300):
        vary(memoryview(frame), *(random.randrange(65536) for _ in range(4)))
        seen = Ether(bytes(frame))
        ip = seen[IPv6] if is_v6 else seen[IP]
        assert ip.dst == str(V6 if is_v6 else V4)
        assert (type(V6) if is_v6 else type(V4))(ip.src) in SOURCES[is_v6]
        assert (seen[TCP].flags, seen[TCP].dport) == ("S", 443)
        sources.add(ip.src)
        again = seen.copy()
        for layer in (again[TCP], *(() if is_v6 else (again[IP],))):
            del layer.chksum
        rebuilt = Ether(bytes(again))
        assert equal_sums(rebuilt[TCP].chksum, seen[TCP].chksum)
        if not is_v6:
            assert equal_sums(rebuilt[IP].chksum, seen[IP].chksum)
    assert len(sources) > 250


def equal_sums(one: int, other: int) -> bool:
    """In ones' complement, where zero has two forms."""
    return one % 0xFFFF == other % 0xFFFF
