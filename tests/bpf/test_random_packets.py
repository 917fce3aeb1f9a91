"""Mutated packets by the ten thousand: never XDP_ABORTED, and what is sent can be read by scapy and adds up."""

import random
from ipaddress import IPv4Address

import pytest
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether

from l4.balancer_program import BalancerProgram
from l4.entries import MemberEntry
from tests.bpf.packets import (
    FLOWS,
    GUE_PORT,
    Gue,
    framed,
    host_vip,
    inner_packet,
    node_settings,
)
from tests.bpf.program_run import Verdict, run

pytestmark = pytest.mark.kernel

ROUNDS = 12_000
HERE = IPv4Address("198.18.2.11")
NEXT = IPv4Address("198.18.2.22")
SEED = 20261120


def seeds() -> list[bytes]:
    """Good packets of both families, as IP packets, with and without payload and options."""
    return [
        bytes(inner_packet(ends, flags, payload))
        for ends in FLOWS.values()
        for flags in ("S", "A", "PA")
        for payload in (b"", b"x" * 100)
    ]


def mutated(frame: bytes, generator: random.Random) -> bytes:
    """A few octets changed, and sometimes the end cut off or stretched; never shorter than Ethernet's header."""
    octets = bytearray(frame)
    for _ in range(generator.choice((0, 1, 1, 2, 3, 8))):
        # Most of what programs look at stands in the first hundred octets.
        octets[generator.randrange(12, min(len(octets), 120))] = generator.choice((0, 1, 255, generator.randrange(256)))
    if generator.random() < 0.3:
        del octets[generator.randrange(14, len(octets)) :]
    if generator.random() < 0.1:
        octets += generator.randbytes(generator.randrange(1, 60))
    return bytes(octets)


def assert_encapsulation_adds_up(frame: bytes) -> None:
    """Lengths and checksum of what a program sent; the inner packet is whole."""
    sent = Ether(frame)
    assert sent[UDP].dport == GUE_PORT
    assert sent[IP].len == sent[UDP].len + 20 <= len(frame) - 14
    recomputed = sent[IP].copy()
    del recomputed.chksum
    assert sent[IP].chksum == IP(bytes(recomputed)).chksum
    gue = sent[Gue]
    assert (gue.variant, gue.control, gue.hlen, gue.version, gue.reserved) == (0, 0, 3, 1, 0)
    assert gue.next_hop <= gue.hop_count <= 3
    inner = gue.payload
    assert isinstance(inner, IP | IPv6)
    assert TCP in inner
    assert (inner.len if isinstance(inner, IP) else inner.plen + 40) == sent[UDP].len - 24


def test_balancer_survives_anything(balancer: BalancerProgram) -> None:
    balancer.set_settings(node_settings(balancer.rows, node_id=1))
    balancer.set_vips([host_vip(ends.vip, ends.vip_port, 1, 0, flow_table=False) for ends in FLOWS.values()])
    balancer.set_members([MemberEntry(1, HERE, live=True), MemberEntry(2, NEXT, live=True)])
    balancer.swap_table(0, b"\x01\0\x02\0\0\0\0\0" * balancer.rows)
    generator = random.Random(SEED)
    frames = [framed(IP(packet) if packet[0] >> 4 == 4 else IPv6(packet)) for packet in seeds()]
    seen: dict[Verdict, int] = {}
    for _ in range(ROUNDS):
        outcome = run(balancer.descriptor, mutated(generator.choice(frames), generator))
        seen[outcome.verdict] = seen.get(outcome.verdict, 0) + 1
        if outcome.verdict is Verdict.TX:
            assert_encapsulation_adds_up(outcome.frame)
    assert seen.keys() == {Verdict.TX, Verdict.DROP, Verdict.PASS}
