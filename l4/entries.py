"""What the kernel programs' maps hold, as the agents speak of it, and as the octets that `l4/bpf/*.h` lay out."""

import struct
from dataclasses import dataclass
from enum import IntEnum
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

PROTOCOL_TCP = 6
PROTOCOL_UDP = 17

_VIP = struct.Struct("=IHBB")
_MEMBER = struct.Struct("=16s6sH")
_BALANCER_SETTINGS = struct.Struct("=16s16s4sHH6sH")
_REDIRECTOR_SETTINGS = struct.Struct("=16s4s6s2x")

# A flag of `struct balancer_settings` that the agents' settings do not speak of: which half of `guard_ipv4` is in use.
_LISTS_OTHER = 16

_MAPPED_IPV4 = bytes(10) + b"\xff\xff"
NO_MAC = bytes(6)


def mapped(address: IPv4Address | IPv6Address) -> bytes:
    """16 octets; an IPv4 address mapped into IPv6 (RFC 4291 section 2.5.5.2)."""
    return _MAPPED_IPV4 + address.packed if isinstance(address, IPv4Address) else address.packed


class EncapsulationKind(IntEnum):
    """`enum encapsulation` of encapsulate.h: how a VIP's packets travel to its members."""

    GUE = 0
    IPIP = 1
    L2 = 2


@dataclass(frozen=True, slots=True)
class VipEntry:
    """A VIP as the balancer knows it: `struct vip`, and the keys under which it is found."""

    network: IPv4Network | IPv6Network
    """Its addresses: one (/32, /128), or a block of them."""
    first_port: int
    last_port: int
    """1 and 65535 for any port."""
    vip_id: int
    """Index of its counters."""
    slot: int
    """Of its pool's table."""
    protocol: int = PROTOCOL_TCP
    flow_table: bool = False
    """Whether open flows go by the flow table: UDP, and pools whose members run no redirector."""
    hash_source: bool = False
    """Whether the row goes by the client's address alone instead of the whole 5-tuple."""
    quic: bool = False
    """Whether short-header packets go by the server id in their connection id."""
    encapsulation: EncapsulationKind = EncapsulationKind.GUE

    @property
    def packed(self) -> bytes:
        flags = self.flow_table << 0 | self.hash_source << 1 | self.quic << 2
        return _VIP.pack(self.vip_id, self.slot, flags, self.encapsulation)


def vip_id_of(packed: bytes) -> int:
    """The id in a packed `struct vip`."""
    return int(_VIP.unpack(packed)[0])


@dataclass(frozen=True, slots=True)
class MemberEntry:
    """A member as both programs know it: `struct member`."""

    id: int
    address: IPv4Address | IPv6Address
    """On the underlay; its family is that of the outer header."""
    live: bool
    mac: bytes = NO_MAC
    """Six octets: where an L2 rewrite sends its frames. Zero: not known."""

    SIZE = _MEMBER.size

    @property
    def packed(self) -> bytes:
        flags = 1 | self.live << 1 | (self.address.version == 6) << 2
        return _MEMBER.pack(mapped(self.address), self.mac, flags)

    @classmethod
    def unpack(cls, member_id: int, packed: bytes) -> "MemberEntry | None":
        """What `packed` gives; None for the entry of nobody."""
        address, mac, flags = _MEMBER.unpack(packed)
        if not flags:
            return None
        parsed = IPv6Address(address) if flags & 4 else IPv4Address(address[-4:])
        return cls(member_id, parsed, live=bool(flags & 2), mac=mac)


@dataclass(frozen=True, slots=True)
class BalancerSettings:
    """`struct balancer_settings`: what all VIPs of an L4 node share. Changed as a whole, between two packets."""

    node_id: int
    hash_key: bytes
    """16 octets: the fleet's key of the flow hash."""
    rows: int
    """Of all tables."""
    source: IPv4Address
    """The node's own address on the underlay."""
    mtu: int
    """Of the interface: octets of the largest outer packet."""
    source_v6: IPv6Address | None = None
    """The same in IPv6, for members whose address is IPv6."""
    mac: bytes = NO_MAC
    """Of the interface: frames for others are not ours. Zero: any frame is taken."""
    fib: bool = False
    """Whether the kernel's routes choose the way out, instead of the arriving frame's sender."""
    tap: bool = False
    """Whether somebody captures: packets that are finished with are shown to the tap."""
    lists_ipv4: bool = False
    """Whether the guard's lists name IPv4 sources: else no packet asks them."""
    lists_ipv6: bool = False

    @property
    def packed(self) -> bytes:
        source_v6 = self.source_v6.packed if self.source_v6 else bytes(16)
        flags = self.fib << 0 | self.tap << 1 | self.lists_ipv4 << 2 | self.lists_ipv6 << 3
        return _BALANCER_SETTINGS.pack(
            self.hash_key, source_v6, self.source.packed, self.node_id, self.mtu, self.mac, flags
        )


def lists_half_of(settings: bytes) -> int:
    """Which half of `guard_ipv4` (0, 1) a packed `struct balancer_settings` names."""
    return int(bool(_BALANCER_SETTINGS.unpack(settings)[-1] & _LISTS_OTHER))


def with_lists_half(settings: bytes, half: int) -> bytes:
    """A packed `struct balancer_settings`, naming that half of `guard_ipv4`."""
    *others, flags = _BALANCER_SETTINGS.unpack(settings)
    return _BALANCER_SETTINGS.pack(*others, flags & ~_LISTS_OTHER | half * _LISTS_OTHER)


def redirector_settings(v4: IPv4Address | None, v6: IPv6Address | None, mac: bytes) -> bytes:
    """`struct redirector_settings`: the tunnel's ends on this host, and the interface's MAC address (zero: any)."""
    return _REDIRECTOR_SETTINGS.pack(v6.packed if v6 else bytes(16), v4.packed if v4 else bytes(4), mac)
