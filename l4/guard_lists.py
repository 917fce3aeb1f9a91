"""The guard's lists, compiled into what `guard_lists.h` looks up: the most specific prefix that holds a source decides.

IPv4 is worked out in full (DIR-24-8: Gupta, Lin, McKeown, "Routing lookups in hardware at memory access speeds", 1998):
two bits for each /24, and where the addresses of one differ, two bits for each of them. IPv6 stays a list of prefixes,
for a trie, with a filter in front of it.
"""

from array import array
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import IntEnum
from ipaddress import IPv4Network, IPv6Network

Network = IPv4Network | IPv6Network

#: Prefixes of each family that the kernel's maps hold (`MAX_LISTED`).
MAX_LISTED = 65536

#: Octets of an element of `guard_ipv4` (`struct listings`), and of `guard_ipv6_filter`.
LISTINGS_OCTETS = 64
FILTER_OCTETS = 1 << 18

_FILTER_BITS = 21
_FILTER_MULTIPLIER = 0x9E3779B97F4A7C15
_FILTER_SALT = 0xD6E8FEB86659FD93
#: A listed prefix shorter than this is in the filter as all of it: it would be 2^(32 - length) entries.
_FILTERED_LENGTH = 20
_DIFFERS = 3
_HOSTS = 256
_IPV4_NETWORKS = 1 << 24
_NETWORKS_PER_WORD = 8
_RANK_BITS = 3
_RANKS_SHIFT = _NETWORKS_PER_WORD * 2
_FIRST_SHIFT = _RANKS_SHIFT + _NETWORKS_PER_WORD * _RANK_BITS


class Listing(IntEnum):
    """`enum listing`: what the lists say of a source."""

    UNLISTED = 0
    BLOCKED = 1
    ALLOWED = 2


@dataclass(frozen=True, slots=True)
class CompiledLists:
    """What the maps are to hold."""

    ipv4: bytes | None
    """All of `guard_ipv4`'s inner array; None if nothing is listed."""
    ipv6: Mapping[bytes, bytes]
    ipv6_filter: bytes


def compile_lists(listed: Mapping[Network, Listing]) -> CompiledLists:
    """Compiles the lists. Raises ValueError if they do not fit the maps."""
    ipv4 = [(network, what) for network, what in listed.items() if isinstance(network, IPv4Network)]
    ipv6 = [(network, what) for network, what in listed.items() if isinstance(network, IPv6Network)]
    for family, count in (("IPv4", len(ipv4)), ("IPv6", len(ipv6))):
        if count > MAX_LISTED:
            raise ValueError(f"{count} {family} prefixes are listed, and the guard holds {MAX_LISTED}")
    trie = {network.prefixlen.to_bytes(4, "little") + network.network_address.packed: what for network, what in ipv6}
    return CompiledLists(
        ipv4=_compile_ipv4(ipv4) if ipv4 else None,
        ipv6={key: what.to_bytes(4, "little") for key, what in trie.items()},
        ipv6_filter=_compile_filter(network for network, _ in ipv6),
    )


def _compile_ipv4(listed: Iterable[tuple[IPv4Network, Listing]]) -> bytes:
    networks, hosts = _paint(sorted(listed, key=lambda entry: entry[0].prefixlen))
    # Each word: the listings of 8 networks; how many before each differ; and where the blocks of those that do begin.
    quarters = array("H", bytes(4 * len(networks)))
    quarters[0::4] = array("H", networks)
    words = memoryview(quarters).cast("B").cast("Q")
    blocks: list[bytes] = []
    last_word, first = -1, 0
    for index in sorted(hosts):
        word = index // _NETWORKS_PER_WORD
        if word != last_word:
            last_word, first = word, len(blocks)
            words[word] |= first << _FIRST_SHIFT
        words[word] |= len(blocks) - first << _RANKS_SHIFT + index % _NETWORKS_PER_WORD * _RANK_BITS
        blocks.append(_packed(hosts[index]))
    return quarters.tobytes() + b"".join(blocks) + bytes((MAX_LISTED - len(blocks)) * LISTINGS_OCTETS)


def _paint(listed: Iterable[tuple[IPv4Network, Listing]]) -> tuple[bytes, dict[int, bytearray]]:
    """Two bits for each /24, and an octet for each address of those that differ within.

    Shorter prefixes come first: the more specific is painted over the less specific.
    """
    networks = bytearray(_IPV4_NETWORKS // 4)
    hosts: dict[int, bytearray] = {}
    for network, what in listed:
        address, length = int(network.network_address), network.prefixlen
        first = address >> 8
        if length <= 22:  # whole octets
            start, size = first >> 2, 1 << (22 - length)
            networks[start : start + size] = bytes((what * 0b01010101,)) * size
        elif length <= 24:
            for index in range(first, first + (1 << (24 - length))):
                _set(networks, index, what)
        else:
            of_hosts = hosts.get(first)
            if of_hosts is None:
                of_hosts = hosts[first] = bytearray((networks[first >> 2] >> (first & 3) * 2 & 3,)) * _HOSTS
            start, size = address & 0xFF, 1 << (32 - length)
            of_hosts[start : start + size] = bytes((what,)) * size
    for index in hosts:
        _set(networks, index, _DIFFERS)
    return bytes(networks), hosts


def _packed(listings: bytearray) -> bytes:
    """Two bits for each octet."""
    quarters = (int.from_bytes(listings[start::4], "little") << 2 * start for start in range(4))
    return sum(quarters).to_bytes(LISTINGS_OCTETS, "little")


def _set(listings: bytearray, index: int, what: int) -> None:
    shift = (index & 3) * 2
    listings[index >> 2] = listings[index >> 2] & ~(3 << shift) | what << shift


def _compile_filter(listed: Iterable[IPv6Network]) -> bytes:
    bits = bytearray(FILTER_OCTETS)
    for network in listed:
        address, length = int(network.network_address), network.prefixlen
        of_48 = address >> 80 << 16
        if length >= 64:
            keys: Iterable[int] = (of_48 | 48, address >> 64 ^ _FILTER_SALT)
        elif length >= 48:
            keys = (of_48 | 48, of_48 | 63)
        elif length >= _FILTERED_LENGTH:
            first = address >> 96
            keys = (number << 32 | 32 for number in range(first, first + (1 << max(0, 32 - length))))
        else:
            return b"\xff" * FILTER_OCTETS
        for key in keys:
            bit = (key * _FILTER_MULTIPLIER & (1 << 64) - 1) >> (64 - _FILTER_BITS)
            bits[bit >> 3] |= 1 << (bit & 7)
    return bytes(bits)
