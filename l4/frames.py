"""Frames read as far as words need it: addresses, ports, flags; of every IP header in them, outermost first.

For words only. Nothing is trusted: what is cut short or unknown is told as far as it goes.
"""

import struct
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import Any, Final

from orchestrator.contract.inquiry import TCP_FLAGS
from orchestrator.contract.snapshot import GUE_PORT

ETHERNET: Final = 14
_VLAN_TAG: Final = 4
_VLAN_TYPES: Final = frozenset({0x8100, 0x88A8})
_IPV4_TYPE: Final = 0x0800
_IPV6_TYPE: Final = 0x86DD
_IPV6_HEADER: Final = 40
_UDP_HEADER: Final = 8
_GUE_HEADER: Final = 4
_GUE_WORDS: Final = 0x1F
_FRAGMENT_OFFSET: Final = 0x1FFF

IPIP, TCP, UDP, IPV6 = 4, 6, 17, 41
_NAMES: Final = {1: "ICMP", IPIP: "IPv4", IPV6: "IPv6", TCP: "TCP", UDP: "UDP", 44: "fragment", 58: "ICMPv6"}


@dataclass(frozen=True, slots=True)
class Layer:
    """An IP header, and what can be said of what follows it."""

    source: IPv4Address | IPv6Address
    destination: IPv4Address | IPv6Address
    protocol: int
    length: int
    """Of the IP packet, as it claims."""
    source_port: int | None = None
    destination_port: int | None = None
    """Of TCP and UDP; None for others, for later fragments, and for what is cut short."""
    tcp_flags: int | None = None

    def __str__(self) -> str:
        """ "198.51.100.7:40000 > 203.0.113.10:443 TCP [S] 60"."""
        name = _NAMES.get(self.protocol, f"protocol {self.protocol}")
        flags = "" if self.tcp_flags is None else f" [{flags_in_words(self.tcp_flags)}]"
        source, destination = (
            endpoint(address, port)
            for address, port in ((self.source, self.source_port), (self.destination, self.destination_port))
        )
        return f"{source} > {destination} {name}{flags} {self.length}"


class _Cut(Exception):
    """The octets end before what is asked for."""


def layers(octets: bytes) -> list[Layer]:
    """The frame's IP headers, as far as they can be read; none if it is not IP."""
    found: list[Layer] = []
    try:
        offset, version = network_layer(octets)
        while version:
            layer, offset, version = _layer(octets, offset, version)
            found.append(layer)
    except (_Cut, struct.error):
        pass
    return found


def network_layer(octets: bytes) -> tuple[int, int]:
    """Where the network layer begins, behind VLAN tags, and its IP version; 0 if it is not IP.

    Raises struct.error if the frame ends before.
    """
    offset = ETHERNET
    (kind,) = struct.unpack_from("!H", octets, offset - 2)
    while kind in _VLAN_TYPES:
        offset += _VLAN_TAG
        (kind,) = struct.unpack_from("!H", octets, offset - 2)
    return offset, {_IPV4_TYPE: 4, _IPV6_TYPE: 6}.get(kind, 0)


def flags_in_words(flags: int) -> str:
    """TCP flags by their letters, "." for none."""
    return "".join(letter for bit, letter in enumerate(TCP_FLAGS) if flags >> bit & 1) or "."


def endpoint(address: IPv4Address | IPv6Address, port: int | None) -> str:
    """ "203.0.113.10:443", "[2001:db8::1]:443"."""
    if port is None:
        return str(address)
    return f"[{address}]:{port}" if address.version == 6 else f"{address}:{port}"


def _layer(octets: bytes, offset: int, version: int) -> tuple[Layer, int, int]:
    """The header at `offset`, and where the next one begins, with its version; 0 if there is none."""
    if version == 4:
        first, length, fragment, protocol = _unpack("!BxHxxHxB", octets, offset)
        source, destination = (IPv4Address(address) for address in _unpack("!4s4s", octets, offset + 12))
        end = offset + (first & 0xF) * 4
        if fragment & _FRAGMENT_OFFSET:
            return Layer(source, destination, protocol, length), end, 0
        return _with_ports(octets, end, Layer(source, destination, protocol, length))
    payload, protocol = _unpack("!HB", octets, offset + 4)
    source6, destination6 = (IPv6Address(address) for address in _unpack("!16s16s", octets, offset + 8))
    layer = Layer(source6, destination6, protocol, payload + _IPV6_HEADER)
    return _with_ports(octets, offset + _IPV6_HEADER, layer)


def _with_ports(octets: bytes, offset: int, layer: Layer) -> tuple[Layer, int, int]:
    """The layer with what follows it at `offset`."""
    if layer.protocol in (IPIP, IPV6):
        return layer, offset, 4 if layer.protocol == IPIP else 6
    if layer.protocol not in (TCP, UDP) or len(octets) < offset + 4:
        return layer, offset, 0
    ports: tuple[int, int] = struct.unpack_from("!HH", octets, offset)
    flags = octets[offset + 13] if layer.protocol == TCP and len(octets) > offset + 13 else None
    complete = Layer(layer.source, layer.destination, layer.protocol, layer.length, *ports, flags)
    if layer.protocol == UDP and ports[1] == GUE_PORT and len(octets) >= offset + _UDP_HEADER + _GUE_HEADER:
        words, inner = octets[offset + _UDP_HEADER], octets[offset + _UDP_HEADER + 1]
        if inner in (IPIP, IPV6):
            return complete, offset + _UDP_HEADER + _GUE_HEADER + (words & _GUE_WORDS) * 4, 4 if inner == IPIP else 6
    return complete, offset, 0


def _unpack(layout: str, octets: bytes, offset: int) -> tuple[Any, ...]:
    try:
        return struct.unpack_from(layout, octets, offset)
    except struct.error as error:
        raise _Cut from error
