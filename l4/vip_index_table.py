"""The index of VIPs of one address and one port, as `vip_index` of `l4/bpf/vips.h` holds it."""

import struct
from collections.abc import Mapping

#: `VIP_INDEX_BITS`: four places for each VIP that a balancer serves at most, so that few fall to a place that is taken.
INDEX_BITS = 12

#: Octets of `struct indexed_vip`.
PLACE_OCTETS = 32

_MULTIPLIERS = (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0xC2B2AE3D27D4EB4F)
_SERVICE = struct.Struct("=QQHBx")
_WORD = (1 << 64) - 1


def place_of(service: bytes) -> int:
    """Where a packed `struct service` stands if it is in the index."""
    low, high, port, protocol = _SERVICE.unpack(service)
    words = zip((low, high, protocol << 16 | port), _MULTIPLIERS, strict=True)
    hashed: int = sum(word * multiplier for word, multiplier in words) & _WORD
    return hashed >> (64 - INDEX_BITS)


def index_of(vips: Mapping[bytes, bytes]) -> bytes:
    """The whole index of these VIPs, packed, by their services. Of two for one place, the first by service is in it."""
    index = bytearray(PLACE_OCTETS << INDEX_BITS)
    taken = set()
    for service, vip in sorted(vips.items()):
        place = place_of(service)
        if place not in taken:
            taken.add(place)
            start = place * PLACE_OCTETS
            index[start : start + len(service) + len(vip)] = service + vip
    return bytes(index)
