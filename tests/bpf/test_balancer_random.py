"""A hundred thousand mutated packets: the balancer never aborts, leaves alone what it passes, and sends what adds up.

Every frame that is sent is read by the strict reader (lengths, header checksums, GUE; of answers the ICMP checksum too)
and compared with the packet that came; every 200th by scapy as well.
"""

import functools
import operator
import random
import struct
from collections import Counter
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from itertools import product

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP, IPOption_NOP, fragment
from scapy.layers.inet6 import (
    ICMPv6EchoRequest,
    ICMPv6PacketTooBig,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    IPv6ExtHdrRouting,
)
from scapy.layers.l2 import Ether
from scapy.packet import Packet, Raw

from l4.balancer_program import BalancerProgram
from l4.entries import PROTOCOL_TCP, PROTOCOL_UDP, EncapsulationKind, MemberEntry, VipEntry
from tests.bpf.packets import FLOWS, NODE_ADDRESS, NODE_MAC, Ends, inner_packet, node_settings
from tests.bpf.program_run import Outcome, Verdict, run
from tests.bpf.strict_frames import IpPacket, read_ip, read_link, read_tunnel, require, require_sound_payload
from tests.bpf.tunnel_frames import TAGGINGS, in_frame

pytestmark = pytest.mark.kernel

ROUNDS = 10_000
SEEDS = range(20261121, 20261131)
#: Octets from a frame's start in which the program looks: tags, IP with options or extension headers, and a quote.
LOOKED_AT = 150
SCAPY_EVERY = 200

NODE_ADDRESS_V6 = IPv6Address("2001:db8:1::11")
MAC = bytes.fromhex(NODE_MAC.replace(":", ""))
MEMBER_MAC = bytes.fromhex("020000000b0b")
V4_MEMBER, OTHER_V4_MEMBER, V6_MEMBER, L2_MEMBER = 1, 2, 3, 4
MEMBERS = (
    MemberEntry(V4_MEMBER, IPv4Address("198.18.2.11"), live=True),
    MemberEntry(OTHER_V4_MEMBER, IPv4Address("198.18.2.22"), live=True),
    MemberEntry(V6_MEMBER, IPv6Address("2001:db8:2::11"), live=True),
    MemberEntry(L2_MEMBER, IPv4Address("198.18.2.44"), live=True, mac=MEMBER_MAC),
)
ADDRESSES = {member.address.packed for member in MEMBERS}
CHAINS = {1: (V4_MEMBER, OTHER_V4_MEMBER), 2: (V6_MEMBER,), 3: (L2_MEMBER,)}

# By port: slot and encapsulation.
TREATMENTS = {
    443: (1, EncapsulationKind.GUE),
    444: (2, EncapsulationKind.GUE),
    445: (1, EncapsulationKind.IPIP),
    446: (2, EncapsulationKind.IPIP),
    447: (3, EncapsulationKind.L2),
}


def vips() -> Iterator[VipEntry]:
    numbers = iter(range(1, 100))
    for ends in FLOWS.values():
        for protocol, (port, (slot, kind)) in product((PROTOCOL_TCP, PROTOCOL_UDP), TREATMENTS.items()):
            yield VipEntry(
                ip_network(ends.vip),
                *(port, port, next(numbers), slot, protocol),
                flow_table=protocol == PROTOCOL_UDP or kind is not EncapsulationKind.GUE,
                quic=protocol == PROTOCOL_UDP and port == 443,
                encapsulation=kind,
            )
        block = ip_network((ends.vip, ends.vip.max_prefixlen - 4), strict=False)
        yield VipEntry(block, 5000, 5999, next(numbers), 1, PROTOCOL_UDP, flow_table=True)


def upper_layers(ends: Ends, port: int) -> Iterator[Packet]:
    """TCP and UDP of all kinds."""
    for flags in ("S", "A", "PA", "FA", "R"):
        payload = b"x" * 60 if "P" in flags else b""
        yield TCP(sport=ends.client_port, dport=port, flags=flags, seq=1, ack=2) / payload
    yield UDP(sport=ends.client_port, dport=port) / (b"\x40\x07\x00\x02" + bytes(30))


def client_packets(ends: Ends) -> Iterator[Packet]:
    """Good packets of all kinds, from their IP headers on."""
    addresses = {"src": str(ends.client), "dst": str(ends.vip)}
    back = Ends(ends.vip, ends.client, ends.vip_port, ends.client_port)
    for port in TREATMENTS:
        for upper in upper_layers(ends, port):
            if ends.is_ipv6:
                yield IPv6(**addresses) / upper
                yield IPv6(**addresses) / IPv6ExtHdrHopByHop() / IPv6ExtHdrDestOpt() / upper
                yield (
                    IPv6(**addresses)
                    / IPv6ExtHdrHopByHop()
                    / IPv6ExtHdrRouting(type=4, segleft=0, addresses=["2001:db8::1"])
                    / IPv6ExtHdrFragment(id=3)
                    / IPv6ExtHdrDestOpt()
                    / upper
                )
                yield IPv6(**addresses) / IPv6ExtHdrFragment(m=1, id=5) / upper
                options = [IPv6ExtHdrDestOpt() for _ in range(6)]
                yield functools.reduce(operator.truediv, options, IPv6(**addresses)) / upper
            else:
                yield IP(**addresses, tos=0xB8) / upper
                yield IP(**addresses, options=[IPOption_NOP()] * 8) / upper
                yield IP(**addresses, flags="MF") / upper
    if ends.is_ipv6:
        yield IPv6(**addresses) / ICMPv6EchoRequest(data=b"ping" * 5)
        quotes = [
            IPv6(src=back.client, dst=back.vip) / IPv6ExtHdrDestOpt() / UDP(sport=443, dport=40000),
            inner_packet(back, "A"),
        ]
        for quote in quotes:
            yield IPv6(**addresses) / ICMPv6PacketTooBig(mtu=1300) / bytes(quote)[:60]
        large = IPv6(**addresses) / TCP(sport=1, dport=443, flags="A") / bytes(1420)
        yield large
    else:
        yield IP(**addresses) / ICMP() / (b"ping" * 5)
        for quote in (
            IP(src=str(back.client), dst=str(back.vip)) / UDP(sport=443, dport=40000),
            inner_packet(back, "A"),
        ):
            yield IP(**addresses) / ICMP(type=3, code=4, nexthopmtu=1300) / bytes(quote)[:28]
        yield IP(**addresses, flags="DF") / TCP(sport=1, dport=443, flags="A") / bytes(1440)
        yield from fragment(IP(**addresses) / UDP(sport=1, dport=5001) / bytes(1800), 800)
    yield inner_packet(Ends(ends.client, ip_address(int(ends.vip) + 1), 1, 5500), "A")
    yield (IPv6 if ends.is_ipv6 else IP)(**addresses) / UDP(sport=7, dport=5500) / b"range"


@functools.cache
def seeds() -> list[bytes]:
    """Good frames: packet x tags."""
    packets = [bytes(packet) for ends in FLOWS.values() for packet in client_packets(ends)]
    return [in_frame(packet, tags) for packet, tags in product(packets, TAGGINGS.values())]


def mutated(frame: bytes, generator: random.Random) -> bytes:
    """A few octets changed, and sometimes the end cut off or stretched; never shorter than Ethernet's header."""
    octets = bytearray(frame)
    end = min(len(octets), LOOKED_AT)
    for _ in range(generator.choice((0, 1, 1, 1, 2, 2, 3, 8))):
        # Of the link header only what announces the rest: few other addresses than our own would come in at all.
        place = generator.randrange(12, end)
        if generator.random() < 0.5:
            octets[place] ^= 1 << generator.randrange(8)
        else:
            octets[place] = generator.choice((0, 1, 255, generator.randrange(256)))
    if generator.random() < 0.2:
        del octets[generator.randrange(14, len(octets)) :]
    if generator.random() < 0.1:
        octets += generator.randbytes(generator.randrange(1, 60))
    return bytes(octets)


def ones_complement_sum(octets: bytes) -> int:
    """RFC 1071; 0xffff if a checksum within is right."""
    padded = octets + bytes(len(octets) % 2)
    total: int = sum(struct.unpack(f"!{len(padded) // 2}H", padded))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def check_tunnelled(came: IpPacket, sent: IpPacket) -> None:
    """To a member, with the packet as it came inside."""
    require(sent.destination in ADDRESSES, "destination")
    require(sent.source == (NODE_ADDRESS if sent.version == 4 else NODE_ADDRESS_V6).packed, "source")
    require(sent.ttl == 64, "time to live")
    if sent.protocol == PROTOCOL_UDP:
        tunnel = read_tunnel(sent)
        require(tunnel.next_hop == 0 and tunnel.l4_node == 1 and tunnel.source_port >= 0xC000, "GUE")
        require(
            tunnel.hops == ((OTHER_V4_MEMBER, 0, 0) if sent.version == 4 else (0, 0, 0)) or not any(tunnel.hops),
            "chain",
        )
        protocol, inner = tunnel.protocol, tunnel.inner
    else:
        protocol, inner = sent.protocol, sent.payload
    require(protocol == (4 if came.version == 4 else 41), "protocol of the inner packet")
    require(inner == came.octets, "inner packet is not what came")


def check_answer(came: IpPacket, sent: IpPacket) -> None:
    """Ping, or "too big", in the VIP's name; whole checksums."""
    require(sent.version == came.version and sent.destination == came.source, "answered somebody else")
    require(sent.source == came.destination, "in another name")
    kind = sent.payload[0]
    if sent.version == 4:
        require(sent.protocol == 1 and kind in (0, 3), "kind of answer")
        pseudo = b""
    else:
        require(sent.protocol == 58 and kind in (129, 2), "kind of answer")
        pseudo = sent.source + sent.destination + struct.pack("!II", len(sent.payload), 58)
    if kind in (0, 129):
        require(sent.payload[4:] == came.payload[4:], "echo of something else")
        before = {4: b"", 6: came.source + came.destination + struct.pack("!II", len(came.payload), 58)}[came.version]
        is_sound = ones_complement_sum(before + came.payload) == 0xFFFF  # the answer is as right as the question
    else:
        require(came.octets.startswith(sent.payload[8:]), "quote of something else")
        is_sound = True
    require(not is_sound or ones_complement_sum(pseudo + sent.payload) == 0xFFFF, "ICMP checksum")


def check_sent(arrived: bytes, left: bytes) -> None:
    """Raises Unreadable."""
    before, after = read_link(arrived), read_link(left)
    came = read_ip(before.payload, before.version, is_checked=False)
    require_sound_payload(came)
    require(after.tags == before.tags, "tags")
    if after.destination == MEMBER_MAC:
        require(after.source == MAC and left[12:] == arrived[12:], "rewritten frame")
        return
    require((after.destination, after.source) == (before.source, before.destination), "link")
    sent = read_ip(after.payload, after.version, is_checked=True)
    if sent.source in (NODE_ADDRESS.packed, NODE_ADDRESS_V6.packed):
        check_tunnelled(came, sent)
    else:
        check_answer(came, sent)


def check_by_scapy(left: bytes) -> None:
    """It finds the same layers, and reckons the same outer header checksum."""
    packet = Ether(left)
    outer = next(layer for layer in map(packet.getlayer, range(4)) if isinstance(layer, IP | IPv6))
    assert not isinstance(outer.payload, Raw)
    if isinstance(outer, IP) and outer.src == str(NODE_ADDRESS):
        again = outer.copy()
        del again.chksum
        assert IP(bytes(again)).chksum == outer.chksum


def check(arrived: bytes, outcome: Outcome) -> None:
    """Raises Unreadable."""
    match outcome.verdict:
        case Verdict.TX:
            check_sent(arrived, outcome.frame)
        case Verdict.PASS:
            require(outcome.frame == arrived, "passed, but not as it came")
        case verdict:
            require(verdict is Verdict.DROP, verdict.name)


@pytest.mark.parametrize("seed", SEEDS)
def test_balancer_survives_anything(balancer: BalancerProgram, seed: int) -> None:
    balancer.set_settings(node_settings(balancer.rows, source_v6=NODE_ADDRESS_V6, mac=MAC))
    balancer.set_members(MEMBERS)
    for slot, chain in CHAINS.items():
        balancer.swap_table(slot, struct.pack("=4H", *[*chain, 0, 0, 0][:4]) * balancer.rows)
    balancer.set_vips(list(vips()))
    balancer.set_quic_servers({(1, OTHER_V4_MEMBER): OTHER_V4_MEMBER})
    generator = random.Random(seed)
    frames = seeds()
    before = balancer.counters()
    verdicts: Counter[str] = Counter()
    for _ in range(ROUNDS):
        frame = mutated(generator.choice(frames), generator)
        outcome = run(balancer.descriptor, frame)
        verdicts[outcome.verdict.name] += 1
        try:
            check(frame, outcome)
            if outcome.verdict is Verdict.TX and verdicts["TX"] % SCAPY_EVERY == 0:
                check_by_scapy(outcome.frame)
        except AssertionError as error:
            story = f"{frame.hex()} became {outcome.verdict.name} {outcome.frame.hex()}"
            raise AssertionError(f"{error}: {story}") from error
    after = balancer.counters()
    seen = {name for name in after if after[name] != before[name]}
    assert verdicts.keys() == {"PASS", "DROP", "TX"}
    assert min(verdicts.values()) > ROUNDS / 20, verdicts
    assert len(seen) >= 19, f"mutations reach too few decisions: {sorted(seen)}"
    dropped = sum(after[name] - before[name] for name in seen - NOT_DROPS)
    dropped -= after["too_big_answered"] - before["too_big_answered"]  # counted as dropped, and answered
    assert dropped == verdicts["DROP"], "every drop has one name"


NOT_DROPS = {
    *("forwarded", "other_protocol", "icmp_errors", "fail_open", "member_unknown", "owner_not_live"),
    *("flow_table_misses", "quic_by_server_id", "quic_unknown_server"),
    *("echo_answered", "echo_passed", "too_big_answered", "too_big_limited", "too_big_unanswerable"),
}
