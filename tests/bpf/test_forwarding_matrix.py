"""Whole packets: family x protocol x encapsulation x outer family x kind x known or unknown x VLAN tags x options.

Each case is built by scapy twice, as it comes from the client and as docs/protocol.md has it leave; both are compared
octet by octet, checksums and lengths included.
"""

import itertools
import struct
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv6Address

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import (
    ICMPv6PacketTooBig,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    IPv6ExtHdrRouting,
)
from scapy.packet import Packet

from l4.balancer_program import BalancerProgram
from l4.entries import PROTOCOL_TCP, PROTOCOL_UDP, EncapsulationKind, MemberEntry
from l4.flow_hash import HashKey, flow_hash
from tests.bpf.packets import CLIENT_MAC, FLOWS, KEY, NODE_ADDRESS, NODE_MAC, Address, Ends, host_vip, node_settings
from tests.bpf.program_run import Outcome, Verdict, run
from tests.bpf.tunnel_frames import L4_NODE, TAGGINGS, Kind, Tunnel, in_frame

pytestmark = pytest.mark.kernel

SLOT = 6
NODE_ADDRESS_V6 = IPv6Address("2001:db8:1::11")
TRAFFIC_CLASS = 0xBB
DSCP = 0xB8

EARLIER, LATER = 0, 1
"""Index of the owner, before the table changed and now."""
ADDRESSES: Mapping[str, tuple[Address, ...]] = {
    "ipv4": tuple(IPv4Address("198.18.2.0") + n for n in (11, 22, 33)),
    "ipv6": tuple(IPv6Address("2001:db8:2::") + n for n in (11, 22, 33)),
}
MACS = ("02:00:00:00:0b:0b", "02:00:00:00:16:16", "02:00:00:00:21:21")
IDS = (11, 22, 33)

NO_OPERATION = b"\x01"
#: IPv4 options, or IPv6 extension headers, by name.
OPTIONS: Mapping[str, Sequence[tuple[str, bytes | Sequence[Packet]]]] = {
    "ipv4": (("plain", b""), ("4 octets of options", NO_OPERATION * 4), ("40 octets", NO_OPERATION * 40)),
    "ipv6": (
        ("plain", ()),
        ("hop-by-hop", [IPv6ExtHdrHopByHop()]),
        ("destination options", [IPv6ExtHdrDestOpt()]),
        ("routing", [IPv6ExtHdrRouting(type=4, segleft=0, addresses=["2001:db8::1"])]),
        (
            "all",
            [
                IPv6ExtHdrHopByHop(),
                IPv6ExtHdrDestOpt(),
                IPv6ExtHdrRouting(type=4, segleft=0, addresses=["2001:db8::1"]),
                IPv6ExtHdrFragment(id=9),
                IPv6ExtHdrDestOpt(),
            ],
        ),
    ),
}
_PORTS = itertools.count(1024)
"""Of clients: no flow of one test is known from another."""

KINDS = {PROTOCOL_TCP: ("S", "A", "PA", "FA", "R", "error"), PROTOCOL_UDP: ("datagram", "error")}


@dataclass(frozen=True, slots=True)
class Pool:
    """How packets travel to the members."""

    encapsulation: EncapsulationKind
    underlay: str
    has_redirectors: bool = False


POOLS = {
    "gue-over-ipv4-redirectors": Pool(EncapsulationKind.GUE, "ipv4", has_redirectors=True),
    "gue-over-ipv6-redirectors": Pool(EncapsulationKind.GUE, "ipv6", has_redirectors=True),
    "gue-over-ipv4": Pool(EncapsulationKind.GUE, "ipv4"),
    "gue-over-ipv6": Pool(EncapsulationKind.GUE, "ipv6"),
    "ipip-over-ipv4": Pool(EncapsulationKind.IPIP, "ipv4"),
    "ipip-over-ipv6": Pool(EncapsulationKind.IPIP, "ipv6"),
    "l2": Pool(EncapsulationKind.L2, "ipv4"),
}


@dataclass(frozen=True, slots=True)
class Case:
    """One packet of a flow of its own."""

    ends: Ends
    protocol: int
    kind: str
    is_known: bool
    tagging: str
    options_name: str
    options: bytes | Sequence[Packet]

    @property
    def name(self) -> str:
        return f"{self.kind}, {'known' if self.is_known else 'unknown'}, {self.tagging}, {self.options_name}"

    @property
    def packet(self) -> Packet:
        """As the client, or a router on the way to it, sends it."""
        if self.kind != "error":
            return self._header(self.ends) / self._upper(self.ends, self.kind)
        back = Ends(self.ends.vip, self.ends.client, self.ends.vip_port, self.ends.client_port)
        quoted = bytes(self._header(back) / self._upper(back, "A"))
        quote = quoted[: len(quoted) - len(bytes(self._upper(back, "A"))) + 8]
        about = ICMPv6PacketTooBig(mtu=1300) if self.ends.is_ipv6 else ICMP(type=3, code=4, nexthopmtu=1300)
        return self._header(self.ends) / about / quote

    @property
    def opening(self) -> Packet:
        """The flow's first packet."""
        return self._header(self.ends) / self._upper(self.ends, "S")

    @property
    def hash(self) -> int:
        ends = self.ends
        addresses = ends.client.packed, ends.vip.packed
        return flow_hash(HashKey.from_hex(KEY.hex()), *addresses, ends.client_port, ends.vip_port, self.protocol)

    def _header(self, ends: Ends) -> Packet:
        if not ends.is_ipv6:
            return IP(src=str(ends.client), dst=str(ends.vip), tos=TRAFFIC_CLASS, id=7, options=self.options)
        header = IPv6(src=str(ends.client), dst=str(ends.vip), tc=TRAFFIC_CLASS, fl=0x12345)
        for extension in self.options:
            assert isinstance(extension, Packet)
            header /= extension.copy()
        return header

    def _upper(self, ends: Ends, kind: str) -> Packet:
        if self.protocol == PROTOCOL_UDP:
            return UDP(sport=ends.client_port, dport=ends.vip_port) / b"datagram"
        payload = b"payload" if "P" in kind else b""
        return TCP(sport=ends.client_port, dport=ends.vip_port, flags=kind, seq=1, ack=2) / payload


def cases(family: str, protocol: int) -> Iterator[Case]:
    for kind, is_known, tagging, (name, options) in itertools.product(
        KINDS[protocol], (True, False), TAGGINGS, OPTIONS[family]
    ):
        ends = replace(FLOWS[family], client_port=next(_PORTS))
        yield Case(ends, protocol, kind, is_known, tagging, name, options)


def feed(balancer: BalancerProgram, family: str, protocol: int, pool: Pool) -> None:
    balancer.set_settings(node_settings(balancer.rows, node_id=L4_NODE, source_v6=NODE_ADDRESS_V6))
    ends = FLOWS[family]
    balancer.set_vips(
        [
            host_vip(
                *(ends.vip, ends.vip_port, 1, SLOT),
                protocol=protocol,
                flow_table=protocol == PROTOCOL_UDP or not pool.has_redirectors,
                encapsulation=pool.encapsulation,
            )
        ]
    )
    balancer.set_members(
        [
            MemberEntry(member, address, live=True, mac=bytes.fromhex(mac.replace(":", "")))
            for member, address, mac in zip(IDS, ADDRESSES[pool.underlay], MACS, strict=True)
        ]
    )


def set_table(balancer: BalancerProgram, *chain: int) -> None:
    row = struct.pack("=4H", *[*(IDS[owner] for owner in chain), 0, 0, 0, 0][:4])
    balancer.swap_table(SLOT, row * balancer.rows)


def expected_frame(case: Case, pool: Pool, owner: int, rest: tuple[int, ...]) -> bytes:
    """As docs/protocol.md draws it."""
    inner, tags = bytes(case.packet), TAGGINGS[case.tagging]
    if pool.encapsulation is EncapsulationKind.L2:
        return in_frame(inner, tags, source=NODE_MAC, destination=MACS[owner])
    tunnel = Tunnel(
        source=NODE_ADDRESS if pool.underlay == "ipv4" else NODE_ADDRESS_V6,
        destination=ADDRESSES[pool.underlay][owner],
        kind=Kind.GUE if pool.encapsulation is EncapsulationKind.GUE else Kind.IPIP,
        hops=rest,
        traffic_class=DSCP,
        source_port=0xC000 | case.hash >> 32 & 0x3FFF,
    )
    outer = tunnel.packet(inner)
    if pool.underlay == "ipv6":
        outer.fl = case.hash >> 32 & 0xFFFFF or 1
    return in_frame(outer, tags, source=NODE_MAC, destination=CLIENT_MAC)


@pytest.mark.parametrize("pool", POOLS.values(), ids=POOLS)
@pytest.mark.parametrize("protocol", [PROTOCOL_TCP, PROTOCOL_UDP], ids=["tcp", "udp"])
@pytest.mark.parametrize("family", FLOWS)
def test_packet_leaves_as_the_protocol_document_has_it(
    balancer: BalancerProgram, family: str, protocol: int, pool: Pool
) -> None:
    feed(balancer, family, protocol, pool)
    has_flow_table = protocol == PROTOCOL_UDP or not pool.has_redirectors
    all_cases = [*cases(family, protocol)]
    set_table(balancer, EARLIER)
    for case in all_cases:
        if case.is_known:
            assert run(balancer.descriptor, in_frame(case.opening)).verdict is Verdict.TX
    set_table(balancer, LATER, EARLIER)
    before, expected = Counter(balancer.counters()), Counter[str]()
    for case in all_cases:
        stays = has_flow_table and case.is_known and case.kind != "S"
        owner, rest = (EARLIER, ()) if stays else (LATER, (IDS[EARLIER],))
        outcome = run(balancer.descriptor, in_frame(bytes(case.packet), TAGGINGS[case.tagging]))
        assert outcome == Outcome(Verdict.TX, expected_frame(case, pool, owner, rest)), case.name
        expected["forwarded"] += 1
        expected["icmp_errors"] += case.kind == "error"
        expected["flow_table_misses"] += has_flow_table and case.kind != "S" and not stays
    assert Counter(balancer.counters()) - before == +expected
