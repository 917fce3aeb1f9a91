"""Packets of the matrices, built and read by scapy, which knows nothing of the programs under test."""

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_network
from typing import Any

from scapy.fields import BitField, ByteEnumField, ByteField, FieldListField, ShortField, XShortField
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether
from scapy.packet import Packet, bind_layers

from l4.entries import BalancerSettings, VipEntry
from l4.flow_hash import HashKey, flow_hash

CLIENT_MAC = "02:00:00:00:00:01"
NODE_MAC = "02:00:00:00:00:02"
GUE_PORT = 6080
NODE_ADDRESS = IPv4Address("198.18.1.11")
KEY = bytes(range(16))

Address = IPv4Address | IPv6Address


class Gue(Packet):  # type: ignore[misc]
    """The tunnel header as docs/protocol.md draws it."""

    name = "GUE"
    fields_desc = [  # noqa: RUF012 (scapy's way)
        BitField("variant", 0, 2),
        BitField("control", 0, 1),
        BitField("hlen", 3, 5),
        ByteEnumField("protocol", 4, {4: "IPv4", 41: "IPv6"}),
        XShortField("flags", 0),
        ByteField("version", 1),
        ByteField("next_hop", 0),
        ByteField("hop_count", 0),
        ByteField("reserved", 0),
        ShortField("l4_node", 1),
        FieldListField("hops", [0, 0, 0], ShortField("", 0), count_from=lambda _: 3),
    ]


bind_layers(UDP, Gue, dport=GUE_PORT)
bind_layers(Gue, IP, protocol=4)
bind_layers(Gue, IPv6, protocol=41)


@dataclass(frozen=True, slots=True)
class Ends:
    """The two ends of a flow."""

    client: Address
    vip: Address
    client_port: int = 40000
    vip_port: int = 443

    @property
    def is_ipv6(self) -> bool:
        return self.vip.version == 6

    def hash(self) -> int:
        """The flow hash under the tests' key."""
        key = HashKey.from_hex(KEY.hex())
        return flow_hash(key, self.client.packed, self.vip.packed, self.client_port, self.vip_port)


FLOWS = {
    "ipv4": Ends(IPv4Address("198.51.100.7"), IPv4Address("203.0.113.10")),
    "ipv6": Ends(IPv6Address("2001:db8:51::7"), IPv6Address("2001:db8:203::10")),
}


def host_vip(address: Address, port: int, vip_id: int, slot: int, **options: Any) -> VipEntry:
    """A VIP of one address and one port."""
    return VipEntry(ip_network(address), port, port, vip_id, slot, **options)


def node_settings(rows: int, **changes: Any) -> BalancerSettings:
    """Of the tests' L4 node."""
    usual: dict[str, Any] = {"node_id": 1, "hash_key": KEY, "rows": rows, "source": NODE_ADDRESS, "mtu": 1500}
    return BalancerSettings(**{**usual, **changes})


def inner_packet(ends: Ends, flags: str, payload: bytes = b"", **ip: Any) -> Packet:
    """What the client sends, from the IP header on."""
    layer = IPv6 if ends.is_ipv6 else IP
    header = layer(src=str(ends.client), dst=str(ends.vip), **ip)
    return header / TCP(sport=ends.client_port, dport=ends.vip_port, flags=flags, seq=1, ack=2) / payload


def framed(packet: Packet) -> bytes:
    """The packet in the frame in which it reaches the node."""
    return bytes(Ether(src=CLIENT_MAC, dst=NODE_MAC) / packet)


def tunnelled(
    inner: Packet,
    *,
    source: IPv4Address,
    destination: IPv4Address,
    source_port: int,
    node_id: int,
    hops: tuple[int, ...],
    next_hop: int = 0,
    ttl: int = 64,
    tos: int = 0,
) -> Packet:
    """The encapsulated packet, from the outer IP header on."""
    return (
        IP(src=str(source), dst=str(destination), ttl=ttl, id=0, flags="DF", tos=tos)
        / UDP(sport=source_port, dport=GUE_PORT, chksum=0)
        / Gue(
            protocol=41 if IPv6 in inner else 4,
            next_hop=next_hop,
            hop_count=len(hops),
            l4_node=node_id,
            hops=[*hops, 0, 0, 0][:3],
        )
        / inner
    )


def sent_back(packet: Packet) -> bytes:
    """The frame in which a node returns the packet to the router."""
    return bytes(Ether(src=NODE_MAC, dst=CLIENT_MAC) / packet)
