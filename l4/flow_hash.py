"""The keyed flow hash that every balancer, redirector and census computes alike, and what is cut from it.

SipHash-1-3 (Aumasson and Bernstein, "SipHash: a fast short-input PRF", 2012; with the one compression and three
finalisation rounds that hash tables use) over the flow's addresses, ports and protocol, in the direction client → VIP
and in network byte order, padded to whole 64-bit words: 16 bytes for IPv4, 40 for IPv6. `l4/bpf/` computes the same.
"""

import struct
from dataclasses import dataclass

PROTOCOL_TCP = 6

_MASK = 0xFFFF_FFFF_FFFF_FFFF


@dataclass(frozen=True, slots=True)
class HashKey:
    """The fleet's 128-bit SipHash key as its two little-endian halves."""

    k0: int
    k1: int

    @classmethod
    def from_hex(cls, text: str) -> "HashKey":
        """Reads the 32 hex digits of `ForwardingSettings.hash_key`."""
        return cls(*struct.unpack("<QQ", bytes.fromhex(text)))


def _round(v0: int, v1: int, v2: int, v3: int) -> tuple[int, int, int, int]:
    v0 = (v0 + v1) & _MASK
    v1 = ((v1 << 13) & _MASK | v1 >> 51) ^ v0
    v0 = (v0 << 32) & _MASK | v0 >> 32
    v2 = (v2 + v3) & _MASK
    v3 = ((v3 << 16) & _MASK | v3 >> 48) ^ v2
    v0 = (v0 + v3) & _MASK
    v3 = ((v3 << 21) & _MASK | v3 >> 43) ^ v0
    v2 = (v2 + v1) & _MASK
    v1 = ((v1 << 17) & _MASK | v1 >> 47) ^ v2
    v2 = (v2 << 32) & _MASK | v2 >> 32
    return v0, v1, v2, v3


def siphash13(key: HashKey, message: bytes) -> int:
    """The 64-bit SipHash-1-3 of a message."""
    v0 = key.k0 ^ 0x736F6D6570736575
    v1 = key.k1 ^ 0x646F72616E646F6D
    v2 = key.k0 ^ 0x6C7967656E657261
    v3 = key.k1 ^ 0x7465646279746573
    whole_words = len(message) // 8
    rest = int.from_bytes(message[8 * whole_words :], "little")
    for word in (*struct.unpack_from(f"<{whole_words}Q", message), (len(message) & 0xFF) << 56 | rest):
        v0, v1, v2, v3 = _round(v0, v1, v2, v3 ^ word)
        v0 ^= word
    v2 ^= 0xFF
    for _ in range(3):
        v0, v1, v2, v3 = _round(v0, v1, v2, v3)
    return v0 ^ v1 ^ v2 ^ v3


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
    IPv4 address that the packets bear.
    """
    ports_and_protocol = struct.pack("!HHB3x", source_port, destination_port, protocol)
    return siphash13(key, source + destination + ports_and_protocol)


def source_hash(key: HashKey, source: bytes) -> int:
    """The 64-bit hash of a flow to a VIP that keeps each client on one member: of the client's packed address alone."""
    return siphash13(key, source + bytes(-len(source) % 8))


def row_of(hashed: int, rows: int) -> int:
    """The row of a table of `rows` rows that a flow falls in. A multiplication: cheaper in the kernel than a modulo."""
    return ((hashed & 0xFFFF_FFFF) * rows) >> 32
