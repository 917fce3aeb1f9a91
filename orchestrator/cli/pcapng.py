"""A writer of pcapng (draft-ietf-opsawg-pcapng): what tcpdump, Wireshark and scapy open.

One section; one interface for each L4 node, with nanosecond stamps; each packet with its direction and a comment that
says what became of it; at the end, counts for each interface. All blocks are little-endian, as the section's
byte-order magic says.
"""

import struct
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import IntEnum
from typing import BinaryIO, Final

_SECTION_HEADER: Final = 0x0A0D0D0A
_INTERFACE_DESCRIPTION: Final = 1
_INTERFACE_STATISTICS: Final = 5
_ENHANCED_PACKET: Final = 6
_BYTE_ORDER_MAGIC: Final = 0x1A2B3C4D
_LENGTH_UNKNOWN: Final = 0xFFFF_FFFF_FFFF_FFFF
LINKTYPE_ETHERNET: Final = 1

# Option codes: of any block, then each block's own.
_END_OF_OPTIONS: Final = 0
_COMMENT: Final = 1
_SECTION_APPLICATION: Final = 4
_INTERFACE_NAME, _INTERFACE_RESOLUTION = 2, 9
_PACKET_FLAGS: Final = 2
_STATISTICS_RECEIVED, _STATISTICS_DROPPED = 4, 5
_NANOSECONDS: Final = 9
"""Stamps count units of 10 to the minus this."""

#: Longest option value: its length has 16 bits, and values are padded to 4 octets.
_MAX_OPTION: Final = 0xFFFC


class Direction(IntEnum):
    """As the low bits of a packet's flags."""

    UNKNOWN = 0
    INBOUND = 1
    OUTBOUND = 2


@dataclass(slots=True)
class PcapngWriter:
    """Writes to `file` as things come; what is written is a whole file at any time between two calls."""

    file: BinaryIO
    application: str
    interfaces: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        body = struct.pack("<IHHQ", _BYTE_ORDER_MAGIC, 1, 0, _LENGTH_UNKNOWN)
        self._block(_SECTION_HEADER, body, [(_SECTION_APPLICATION, self.application.encode())])

    def add_interface(self, name: str, snap_length: int) -> int:
        """The number under which `add_packet` knows it."""
        body = struct.pack("<HHI", LINKTYPE_ETHERNET, 0, snap_length)
        options = [(_INTERFACE_NAME, name.encode()), (_INTERFACE_RESOLUTION, bytes([_NANOSECONDS]))]
        self._block(_INTERFACE_DESCRIPTION, body, options)
        self.interfaces += 1
        return self.interfaces - 1

    def add_packet(
        self, interface: int, at_ns: int, octets: bytes, length: int, direction: Direction, comment: str
    ) -> None:
        """A packet of `length` octets on the wire, of which `octets` were kept, at a Unix time in nanoseconds."""
        body = struct.pack("<IIIII", interface, at_ns >> 32, at_ns & 0xFFFF_FFFF, len(octets), length)
        options = [(_COMMENT, comment.encode()), (_PACKET_FLAGS, struct.pack("<I", direction))]
        self._block(_ENHANCED_PACKET, body + _padded(octets), options)

    def add_statistics(self, interface: int, at_ns: int, received: int, lost: int) -> None:
        """How many packets the interface saw in all, and how many of them the capture missed."""
        body = struct.pack("<III", interface, at_ns >> 32, at_ns & 0xFFFF_FFFF)
        options = [(_STATISTICS_RECEIVED, struct.pack("<Q", received)), (_STATISTICS_DROPPED, struct.pack("<Q", lost))]
        self._block(_INTERFACE_STATISTICS, body, options)

    def _block(self, kind: int, body: bytes, options: Iterable[tuple[int, bytes]]) -> None:
        encoded = bytearray()
        for code, value in options:
            value = value[:_MAX_OPTION]
            encoded += struct.pack("<HH", code, len(value)) + _padded(value)
        encoded += struct.pack("<HH", _END_OF_OPTIONS, 0)
        total = 12 + len(body) + len(encoded)
        self.file.write(struct.pack("<II", kind, total) + body + bytes(encoded) + struct.pack("<I", total))


def _padded(octets: bytes) -> bytes:
    """To a multiple of four."""
    return octets + bytes(-len(octets) % 4)
