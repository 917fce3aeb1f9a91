"""A probe as the frame in which it would reach an L4 node. Built by hand: agents carry no packet library."""

import struct
from ipaddress import IPv4Address

from orchestrator.contract.inquiry import TCP_FLAGS, Probe
from orchestrator.contract.vip import Protocol

#: Who sends it: a locally administered address (IEEE 802, section 8.4) in the place of the router's.
ROUTER_MAC = bytes.fromhex("02000000ed9e")

_IPV4_TYPE, _IPV6_TYPE = 0x0800, 0x86DD
_PROTOCOLS = {Protocol.TCP: 6, Protocol.UDP: 17}
_DONT_FRAGMENT = 0x4000
_TTL = 64
_WINDOW = 65535


def probe_frame(probe: Probe, destination_mac: bytes) -> bytes:
    """Ethernet, IP, TCP or UDP, and a payload of zeros; with the checksums that a client would send.

    Raises ValueError if its addresses are of two families.
    """
    if probe.source.version != probe.destination.version:
        raise ValueError(f"{probe.source} and {probe.destination} are of two families")
    segment = _segment(probe)
    if isinstance(probe.source, IPv4Address):
        kind, header = _IPV4_TYPE, _ipv4(probe, len(segment))
    else:
        kind = _IPV6_TYPE
        header = struct.pack("!IHBB", 6 << 28, len(segment), _PROTOCOLS[probe.protocol], _TTL)
        header += probe.source.packed + probe.destination.packed
    return destination_mac + ROUTER_MAC + kind.to_bytes(2, "big") + header + segment


def _ipv4(probe: Probe, length: int) -> bytes:
    fields = (0x45, 0, 20 + length, 0, _DONT_FRAGMENT, _TTL, _PROTOCOLS[probe.protocol], 0)
    header = struct.pack("!BBHHHBBH", *fields) + probe.source.packed + probe.destination.packed
    return header[:10] + _checksum(header).to_bytes(2, "big") + header[12:]


def _segment(probe: Probe) -> bytes:
    payload = bytes(probe.length)
    ports = struct.pack("!HH", probe.source_port, probe.destination_port)
    if probe.protocol is Protocol.UDP:
        segment, at = ports + struct.pack("!HH", 8 + len(payload), 0) + payload, 6
    else:
        flags = sum(1 << TCP_FLAGS.index(letter) for letter in set(probe.flags))
        segment, at = ports + struct.pack("!IIBBHHH", 1, 1, 5 << 4, flags, _WINDOW, 0, 0) + payload, 16
    pseudo = probe.source.packed + probe.destination.packed
    pseudo += struct.pack("!II", len(segment), _PROTOCOLS[probe.protocol])
    return segment[:at] + (_checksum(pseudo + segment) or 0xFFFF).to_bytes(2, "big") + segment[at + 2 :]


def _checksum(octets: bytes) -> int:
    """RFC 1071."""
    padded = octets + bytes(len(octets) % 2)
    total: int = sum(struct.unpack(f"!{len(padded) // 2}H", padded))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
