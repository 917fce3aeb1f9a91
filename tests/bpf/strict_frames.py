"""A strict reader of frames that knows nothing of the programs under test, and is faster than scapy.

For tests by the ten thousand: whatever does not add up in headers that a program writes or vouches for is Unreadable.
"""

import struct
from dataclasses import dataclass

from tests.bpf.packets import GUE_PORT

_ETHERTYPES = {0x0800: 4, 0x86DD: 6}
_VLAN = {0x8100, 0x88A8}
_EXTENSIONS = {0, 43, 60}
_TCP, _UDP, _FRAGMENT = 6, 17, 44


class Unreadable(AssertionError):
    """The frame lies, or breaks off."""


def require(condition: object, what: str) -> None:
    """Raises Unreadable."""
    if not condition:
        raise Unreadable(what)


@dataclass(frozen=True, slots=True)
class Link:
    """Ethernet and its tags."""

    destination: bytes
    source: bytes
    tags: bytes
    version: int
    """Of IP behind it."""
    payload: bytes
    """With padding."""


@dataclass(frozen=True, slots=True)
class IpPacket:
    """One IP header, and what it says of the rest."""

    version: int
    source: bytes
    destination: bytes
    ttl: int
    protocol: int
    """Behind extension headers."""
    is_fragment: bool
    octets: bytes
    """The whole packet, without padding."""
    payload: bytes


@dataclass(frozen=True, slots=True)
class TunnelPacket:
    """GUE with an owner chain."""

    source_port: int
    protocol: int
    next_hop: int
    hop_count: int
    l4_node: int
    hops: tuple[int, ...]
    inner: bytes


def read_link(frame: bytes) -> Link:
    """Up to two tags; then IP."""
    at = 12
    for _ in range(2):
        require(len(frame) >= at + 2, "frame breaks off in its link header")
        if int.from_bytes(frame[at : at + 2]) not in _VLAN:
            break
        at += 4
    require(len(frame) >= at + 2, "frame breaks off in its link header")
    version = _ETHERTYPES.get(int.from_bytes(frame[at : at + 2]))
    require(version, "no IP behind the link header")
    return Link(frame[:6], frame[6:12], frame[12:at], version or 0, frame[at + 2 :])


def read_ip(octets: bytes, version: int, *, is_checked: bool) -> IpPacket:
    """`octets` may go on behind the packet. `is_checked`: whether an IPv4 header's checksum must be right."""
    require(octets, "no IP header")
    require(octets[0] >> 4 == version, "another version than announced")
    return _read_ipv4(octets, is_checked=is_checked) if version == 4 else _read_ipv6(octets)


def read_tunnel(packet: IpPacket) -> TunnelPacket:
    """What UDP and GUE say; all lengths exact."""
    require(packet.protocol == _UDP and not packet.is_fragment and len(packet.payload) >= 24, "no GUE in there")
    source, destination, length, checksum = struct.unpack_from("!4H", packet.payload)
    require((destination, length, checksum) == (GUE_PORT, len(packet.payload), 0), "UDP header")
    first, protocol, flags, private, next_hop, count, reserved, node, *hops = struct.unpack_from(
        "!BBHBBBBH3H", packet.payload, 8
    )
    require((first, flags, private, reserved) == (3, 0, 1, 0), "GUE header")
    require(next_hop <= count <= 3, "place in the chain")
    return TunnelPacket(source, protocol, next_hop, count, node, tuple(hops), packet.payload[24:])


def require_sound_payload(packet: IpPacket) -> None:
    """TCP's and UDP's own headers lie within the packet."""
    if packet.is_fragment:
        return
    if packet.protocol == _TCP:
        require(len(packet.payload) >= 20, "TCP header breaks off")
        require(20 <= packet.payload[12] // 16 * 4 <= len(packet.payload), "TCP's data offset")
    elif packet.protocol == _UDP:
        require(len(packet.payload) >= 8, "UDP header breaks off")
        require(8 <= int.from_bytes(packet.payload[4:6]) <= len(packet.payload), "UDP's length")


def _read_ipv4(octets: bytes, *, is_checked: bool) -> IpPacket:
    require(len(octets) >= 20, "IPv4 header breaks off")
    header, length = (octets[0] & 15) * 4, int.from_bytes(octets[2:4])
    require(20 <= header <= length <= len(octets), "IPv4 lengths")
    if is_checked:
        total = sum(struct.unpack(f"!{header // 2}H", octets[:header]))
        require((total & 0xFFFF) + (total >> 16) in (0xFFFF, 0x1FFFE), "IPv4 checksum")
    is_fragment = bool(int.from_bytes(octets[6:8]) & 0x3FFF)
    whole = octets[:length]
    return IpPacket(4, octets[12:16], octets[16:20], octets[8], octets[9], is_fragment, whole, whole[header:])


def _read_ipv6(octets: bytes) -> IpPacket:
    require(len(octets) >= 40, "IPv6 header breaks off")
    length = 40 + int.from_bytes(octets[4:6])
    require(length <= len(octets), "IPv6 length")
    whole, at, protocol, is_fragment = octets[:length], 40, octets[6], False
    while protocol in _EXTENSIONS or protocol == _FRAGMENT:
        require(len(whole) >= at + 8, "extension header breaks off")
        if protocol == _FRAGMENT:
            is_fragment, size = bool(int.from_bytes(whole[at + 2 : at + 4]) & 0xFFF9), 8
        else:
            size = (whole[at + 1] + 1) * 8
        require(len(whole) >= at + size, "extension header goes past the end")
        protocol, at = whole[at], at + size
        if is_fragment:
            break
    return IpPacket(6, octets[8:24], octets[24:40], octets[7], protocol, is_fragment, whole, whole[at:])
