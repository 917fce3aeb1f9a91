"""Frames as they arrive at a redirector, and as they should leave it, of every kind of tunnel. Built by scapy."""

import socket
from dataclasses import dataclass, replace
from enum import StrEnum
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Self

from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Dot1AD, Dot1Q, Ether
from scapy.packet import Packet, Raw

from tests.bpf.packets import CLIENT_MAC, GUE_PORT, NODE_MAC, Gue

Address = IPv4Address | IPv6Address

L4_NODE = 0x0102
#: By IP version.
ETHERTYPES = {4: 0x0800, 6: 0x86DD}
#: VLAN tags of a frame, outermost first: none, one, a service tag with a customer tag behind it.
TAGGINGS: dict[str, tuple[Packet, ...]] = {
    "untagged": (),
    "tagged": (Dot1Q(vlan=100, prio=5),),
    "double-tagged": (Dot1AD(vlan=200), Dot1Q(vlan=100)),
}


class Kind(StrEnum):
    """Of a tunnel."""

    GUE = "gue"
    IPIP = "ipip"


@dataclass(frozen=True, slots=True)
class Underlay:
    """One family's addresses of the hosts between which tunnels run."""

    node: Address
    here: Address
    members: Address
    """A network, as its first address: a member's own is its id further on."""

    def member(self, member_id: int) -> Address:
        return ip_address(int(self.members) + member_id) if self.members.version == 6 else self.members + member_id


UNDERLAYS = {
    "over-ipv4": Underlay(IPv4Address("198.18.1.11"), IPv4Address("198.18.2.11"), IPv4Address("198.18.2.0")),
    "over-ipv6": Underlay(
        IPv6Address("2001:db8:1::11"), IPv6Address("2001:db8:2::11"), IPv6Address("2001:db8:2::1000")
    ),
}


@dataclass(frozen=True, slots=True)
class Tunnel:
    """All that stands before an inner packet."""

    source: Address
    destination: Address
    kind: Kind = Kind.GUE
    tags: tuple[Packet, ...] = ()
    hops: tuple[int, ...] = (22, 33, 44)
    next_hop: int = 0
    ttl: int = 64
    traffic_class: int = 0
    source_port: int = 0xC123
    flow_label: int = 0

    @classmethod
    def to_here(cls, underlay: Underlay) -> Self:
        """From an L4 node to the redirector under test."""
        return cls(underlay.node, underlay.here)

    def passed_on(self, source: Address, destination: Address, next_hop: int) -> "Tunnel":
        """The same after a second chance."""
        return replace(self, source=source, destination=destination, next_hop=next_hop, ttl=self.ttl - 1)

    def packet(self, inner: Packet | bytes) -> Packet:
        """From the outer IP header on."""
        inside = bytes(inner)
        protocol = {4: socket.IPPROTO_IPIP, 6: socket.IPPROTO_IPV6}.get(inside[0] >> 4, 0)
        outer: Packet
        if self.source.version == 4:
            outer = IP(src=str(self.source), dst=str(self.destination), ttl=self.ttl, id=0, flags="DF")
            outer.tos, outer.proto = self.traffic_class, protocol
        else:
            outer = IPv6(src=str(self.source), dst=str(self.destination), hlim=self.ttl)
            outer.tc, outer.fl, outer.nh = self.traffic_class, self.flow_label, protocol
        if self.kind is Kind.GUE:
            outer.setfieldval("proto" if self.source.version == 4 else "nh", socket.IPPROTO_UDP)
            outer /= UDP(sport=self.source_port, dport=GUE_PORT, chksum=0)
            outer /= Gue(
                protocol=protocol,
                next_hop=self.next_hop,
                hop_count=len(self.hops),
                l4_node=L4_NODE,
                hops=[*self.hops, 0, 0, 0][:3],
            )
        return outer / Raw(inside)

    def arriving(self, inner: Packet | bytes) -> bytes:
        """The frame in which the packet reaches this host."""
        return in_frame(self.packet(inner), self.tags)

    def leaving(self, inner: Packet | bytes) -> bytes:
        """The frame in which it is sent back to the router."""
        return in_frame(self.packet(inner), self.tags, source=NODE_MAC, destination=CLIENT_MAC)

    def handed_up(self, inner: Packet | bytes) -> bytes:
        """The frame in which the kernel gets the inner packet."""
        return in_frame(inner, self.tags)


def in_frame(
    packet: Packet | bytes, tags: tuple[Packet, ...] = (), *, source: str = CLIENT_MAC, destination: str = NODE_MAC
) -> bytes:
    """With these VLAN tags, outermost first."""
    frame = Ether(src=source, dst=destination)
    for tag in tags:
        frame /= tag
    if isinstance(packet, bytes):
        frame.lastlayer().type = ETHERTYPES[packet[0] >> 4]
        packet = Raw(packet)
    return bytes(frame / packet)
