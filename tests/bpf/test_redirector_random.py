"""Mutated tunnel packets by the ten thousand: never XDP_ABORTED, and whatever leaves the redirector adds up."""

import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from itertools import product

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP, IPOption_NOP
from scapy.layers.inet6 import ICMPv6PacketTooBig, IPv6, IPv6ExtHdrDestOpt, IPv6ExtHdrFragment, IPv6ExtHdrHopByHop

from l4.redirector_program import RedirectorProgram
from tests.bpf.packets import FLOWS, Ends, inner_packet
from tests.bpf.program_run import Outcome, Verdict, run
from tests.bpf.redirecting import members_on, prepare
from tests.bpf.strict_frames import read_ip, read_link, read_tunnel, require, require_sound_payload
from tests.bpf.tunnel_frames import TAGGINGS, UNDERLAYS, Kind, Tunnel

pytestmark = pytest.mark.kernel

ROUNDS = 50_000
SEED = 20261121
#: Octets from a frame's start in which programs look: two tags, the longest outer headers, and inner ones.
LOOKED_AT = 190
REACHABLE = {"over-ipv4": 22, "over-ipv6": 23}


def inner_packets(ends: Ends) -> Iterator[bytes]:
    """Good ones of all kinds."""
    for flags in ("S", "A"):
        yield bytes(inner_packet(ends, flags))
    data = inner_packet(ends, "PA", b"x" * 100)
    yield bytes(data)
    plain = (
        IPv6(src=str(ends.client), dst=str(ends.vip)) if ends.is_ipv6 else IP(src=str(ends.client), dst=str(ends.vip))
    )
    datagram = UDP(sport=ends.client_port, dport=ends.vip_port) / (b"y" * 40)
    yield bytes(plain / datagram)
    if ends.is_ipv6:
        yield bytes(plain / IPv6ExtHdrHopByHop() / IPv6ExtHdrDestOpt() / data[TCP])
        yield bytes(plain / IPv6ExtHdrFragment(m=1, id=5) / datagram)
        error = ICMPv6PacketTooBig(mtu=1300)
    else:
        yield bytes(IP(src=plain.src, dst=plain.dst, options=[IPOption_NOP()] * 12) / data[TCP])
        yield bytes(IP(src=plain.src, dst=plain.dst, flags="MF") / datagram)
        error = ICMP(type=3, code=4, nexthopmtu=1300)
    answer = inner_packet(replace(ends, client=ends.vip, vip=ends.client, client_port=443, vip_port=40000), "A")
    yield bytes(plain / error / bytes(answer))


def seeds() -> list[bytes]:
    """Good frames: outer family x encapsulation x tags x chain x inner packet."""
    frames = []
    for over, kind, tags, hops in product(UNDERLAYS, Kind, TAGGINGS.values(), ((), (22,), (9, 22, 23))):
        tunnel = replace(Tunnel.to_here(UNDERLAYS[over]), kind=kind, tags=tags, hops=hops)
        if kind is Kind.GUE or not hops:
            frames += [tunnel.arriving(inner) for ends in FLOWS.values() for inner in inner_packets(ends)]
    return frames


def mutated(frame: bytes, generator: random.Random) -> bytes:
    """A few octets changed, and sometimes the end cut off or stretched; never shorter than Ethernet's header."""
    octets = bytearray(frame)
    end = min(len(octets), LOOKED_AT)
    for _ in range(generator.choice((0, 1, 1, 1, 2, 2, 3, 8))):
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


def check_passed_on(arrived: bytes, left: bytes) -> None:
    """As it came, but for the link's direction, and an outer header to a member of the chain, one hop older."""
    before, after = read_link(arrived), read_link(left)
    require((after.destination, after.source, after.tags) == (before.source, before.destination, before.tags), "link")
    came = read_ip(before.payload, before.version, is_checked=False)
    sent = read_ip(after.payload, after.version, is_checked=True)
    over = "over-ipv4" if sent.version == 4 else "over-ipv6"
    underlay = UNDERLAYS[over]
    require(sent.source == underlay.here.packed, "source")
    require(sent.destination == underlay.member(REACHABLE[over]).packed, "destination")
    require(sent.ttl == came.ttl - 1 > 0, "time to live")
    tunnel = read_tunnel(sent)
    require(tunnel.hops[tunnel.next_hop - 1] == REACHABLE[over], "owner")
    require(len(left) == len(arrived), "length of the frame")
    inner = read_ip(tunnel.inner, {4: 4, 41: 6}[tunnel.protocol], is_checked=False)
    require(inner.octets == tunnel.inner, "inner length")
    require(tunnel.inner == came.payload[24:], "inner packet is not what came")
    require_sound_payload(inner)


def padding(payload: bytes, packet: bytes) -> int:
    return len(payload) - len(packet)


def check_handed_up(arrived: bytes, left: bytes) -> None:
    """Untouched, or without its outer headers."""
    if left == arrived:
        return
    before, after = read_link(arrived), read_link(left)
    require((after.destination, after.source, after.tags) == (before.destination, before.source, before.tags), "link")
    came = read_ip(before.payload, before.version, is_checked=False)
    inner = read_ip(after.payload, after.version, is_checked=False)
    require(before.payload.endswith(after.payload), "not what came")
    require(padding(after.payload, inner.octets) == padding(before.payload, came.octets), "inner length")
    require(padding(before.payload, after.payload) in (20, 40, 44, 64), "what was taken out")
    require_sound_payload(inner)


def check(arrived: bytes, outcome: Outcome) -> None:
    """Raises Unreadable."""
    match outcome.verdict:
        case Verdict.TX:
            check_passed_on(arrived, outcome.frame)
        case Verdict.PASS:
            check_handed_up(arrived, outcome.frame)
        case verdict:
            require(verdict is Verdict.DROP, verdict.name)


def test_redirector_survives_anything(redirector: RedirectorProgram) -> None:
    prepare(redirector)
    members = {over: members_on(UNDERLAYS[over], member) for over, member in REACHABLE.items()}
    redirector.set_members([*members["over-ipv4"], *members["over-ipv6"]])
    generator = random.Random(SEED)
    frames = seeds()
    before = redirector.counters()
    verdicts: Counter[str] = Counter()
    for _ in range(ROUNDS):
        frame = mutated(generator.choice(frames), generator)
        outcome = run(redirector.descriptor, frame)
        try:
            check(frame, outcome)
        except AssertionError as error:
            story = f"{frame.hex()} became {outcome.verdict.name} {outcome.frame.hex()}"
            raise AssertionError(f"{error}: {story}") from error
        untouched = outcome.verdict is Verdict.PASS and outcome.frame == frame
        verdicts["untouched" if untouched else outcome.verdict.name] += 1
    after = redirector.counters()
    seen = {name for name in after if after[name] != before[name]}
    assert verdicts.keys() == {"untouched", "PASS", "DROP", "TX"}
    assert min(verdicts.values()) > ROUNDS / 100, verdicts
    assert len(seen) > 20, f"mutations reach too few decisions: {sorted(seen)}"
    dropped = sum(after[name] - before[name] for name in seen - NOT_DROPS)
    assert dropped == verdicts["DROP"], "every drop has one name"


NOT_DROPS = {
    *("local_syn", "local_socket", "local_syncookie", "local_ipip", "local_udp", "local_fragment", "local_echo"),
    *("chain_spent", "second_chance", "member_unknown", "owner_not_live", "owner_of_other_family", "icmp_errors"),
}
