"""The keyed flow hash that every balancer, redirector and census computes alike, and what is cut from it.

SipHash-1-3 (Aumasson and Bernstein, "SipHash: a fast short-input PRF", 2012; with the one compression and three
finalisation rounds that hash tables use) over the flow's addresses, ports and protocol, in the direction client → VIP
and in network byte order, padded to whole 64-bit words: 16 bytes for IPv4, 40 for IPv6. `l4/bpf/` computes the same in
the kernel, `l4.table_build` for Python.
"""

import struct
from dataclasses import dataclass

from l4 import table_build

PROTOCOL_TCP = 6


@dataclass(frozen=True, slots=True)
class HashKey:
    """The fleet's 128-bit SipHash key as its two little-endian halves."""

    k0: int
    k1: int

    @classmethod
    def from_hex(cls, text: str) -> "HashKey":
        """Reads the 32 hex digits of `ForwardingSettings.hash_key`."""
        return cls(*struct.unpack("<QQ", bytes.fromhex(text)))


def siphash13(key: HashKey, message: bytes) -> int:
    """The 64-bit SipHash-1-3 of a message."""
    return table_build.siphash13(key.k0, key.k1, message)


def flow_hash(
    key: HashKey,
    source: bytes,
    destination: bytes,
    source_port: int,
    destination_port: int,
    protocol: int = PROTOCOL_TCP,
) -> int:
    """The 64-bit hash of a flow, seen from the client.

    Addresses are packed, 4 bytes each or 16 bytes each; an IPv4 address mapped into IPv6 hashes otherwise than the
    IPv4 address that the packets bear. Raises ValueError if they are of two families, or a number is out of range.
    """
    return table_build.flow_hash(key.k0, key.k1, source, destination, source_port, destination_port, protocol)


def source_hash(key: HashKey, source: bytes) -> int:
    """The 64-bit hash of a flow to a VIP that keeps each client on one member: of the client's packed address alone."""
    return siphash13(key, source + bytes(-len(source) % 8))


def row_of(hashed: int, rows: int) -> int:
    """The row of a table of `rows` rows that a flow falls in. A multiplication: cheaper in the kernel than a modulo."""
    return ((hashed & 0xFFFF_FFFF) * rows) >> 32
