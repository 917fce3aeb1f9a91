"""The guard's lists, compiled into what `guard_lists.h` looks up: the most specific prefix that holds a source decides.

IPv4 is worked out in full (DIR-24-8: Gupta, Lin, McKeown, "Routing lookups in hardware at memory access speeds", 1998):
two bits for each /24, and where the addresses of one differ, two bits for each of them. What is not listed is left out,
and what many networks share is said once, so that this costs by the number of prefixes. IPv6 stays a list of prefixes,
for a trie, with a filter in front of it.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from ipaddress import IPv4Network, IPv6Network

Network = IPv4Network | IPv6Network

#: Prefixes of each family that the kernel's maps hold (`MAX_LISTED`).
MAX_LISTED = 65536

#: Octets of a word of `guard_ipv4`, of a half of it (`HALF_WORDS`), and of `guard_ipv6_filter`.
WORD_OCTETS = 8
HALF_OCTETS = ((1 << 24) // 8 + MAX_LISTED * 8) * WORD_OCTETS
FILTER_OCTETS = 1 << 18

_FILTER_BITS = 21
_FILTER_MULTIPLIER = 0x9E3779B97F4A7C15
_FILTER_SALT = 0xD6E8FEB86659FD93
#: A listed prefix shorter than this is in the filter as all of it: it would be 2^(32 - length) entries.
_FILTERED_LENGTH = 20
_DIFFERS = 3
_HOSTS = 256
_NETWORKS_PER_WORD = 8
_NETWORK_WORDS = (1 << 24) // _NETWORKS_PER_WORD
_BLOCK_WORDS = 8
_RANK_BITS = 3
_RANKS_SHIFT = _NETWORKS_PER_WORD * 2
_FIRST_SHIFT = _RANKS_SHIFT + _NETWORKS_PER_WORD * _RANK_BITS

# By number: so many listings of 1.
_ONES = tuple((1 << 2 * number) // 3 for number in range(_HOSTS + 1))

Run = tuple[int, bytes, int]
"""From which word of a half on; octets; and how many times they come one after the other."""


class Listing(IntEnum):
    """`enum listing`: what the lists say of a source."""

    UNLISTED = 0
    BLOCKED = 1
    ALLOWED = 2


@dataclass(frozen=True, slots=True)
class CompiledLists:
    """What the maps are to hold."""

    ipv4: Sequence[Run]
    """Of a half of `guard_ipv4`, in order; all else in it is zero."""
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
        ipv4=_compile_ipv4(ipv4),
        ipv6={key: what.to_bytes(4, "little") for key, what in trie.items()},
        ipv6_filter=_compile_filter(network for network, _ in ipv6),
    )


def _compile_ipv4(listed: Iterable[tuple[IPv4Network, Listing]]) -> list[Run]:
    runs: list[Run] = []
    words: dict[int, int] = {}
    hosts: dict[int, int] = {}
    for first, behind, what in _stretches(listed):
        parts, networks = _split(first, behind, _HOSTS)
        for network, begin, end in parts:
            hosts[network] = hosts.get(network, 0) | what * _ONES[end - begin] << 2 * begin
        parts, (begin_word, end_word) = _split(*networks, _NETWORKS_PER_WORD)
        for word, begin, end in parts:
            words[word] = words.get(word, 0) | what * _ONES[end - begin] << 2 * begin
        if begin_word < end_word:
            runs.append((begin_word, _word(what * _ONES[_NETWORKS_PER_WORD]), end_word - begin_word))
    blocks: list[Run] = []
    last_word, first_block = -1, 0
    for network in sorted(hosts):
        word, index = divmod(network, _NETWORKS_PER_WORD)
        if word != last_word:
            last_word, first_block = word, len(blocks)
            words[word] = words.get(word, 0) | first_block << _FIRST_SHIFT
        words[word] |= _DIFFERS << 2 * index | len(blocks) - first_block << _RANKS_SHIFT + index * _RANK_BITS
        octets = hosts[network].to_bytes(_BLOCK_WORDS * WORD_OCTETS, "little")
        blocks.append((_NETWORK_WORDS + len(blocks) * _BLOCK_WORDS, octets, 1))
    runs += ((word, _word(value), 1) for word, value in words.items())
    return sorted(runs) + blocks


def _stretches(listed: Iterable[tuple[IPv4Network, Listing]]) -> Iterator[tuple[int, int, int]]:
    """What is listed, cut where it changes: first address, that behind the last, listing. In order.

    Prefixes lie within each other or apart, so those that hold an address are a stack.
    """
    by_address = sorted((int(network.network_address), network.prefixlen, what) for network, what in listed)
    around: list[tuple[int, int]] = []
    at = 0
    for first, length, what in by_address:
        while around and around[-1][0] <= first:
            behind, outer = around.pop()
            if at < behind:
                yield at, behind, outer
                at = behind
        if around and at < first:
            yield at, first, around[-1][1]
        at = first
        around.append((first + (1 << (32 - length)), what))
    while around:
        behind, outer = around.pop()
        if at < behind:
            yield at, behind, outer
            at = behind


def _split(first: int, behind: int, size: int) -> tuple[list[tuple[int, int, int]], tuple[int, int]]:
    """A stretch by units of that size: parts of units (which, from where, to where), and whole ones (first, behind)."""
    begin, end = -(-first // size), behind // size
    if begin > end:
        return [(end, first % size, behind % size)], (0, 0)
    parts = []
    if first % size:
        parts.append((begin - 1, first % size, size))
    if behind % size:
        parts.append((end, 0, behind % size))
    return parts, (begin, end)


def _word(value: int) -> bytes:
    return value.to_bytes(WORD_OCTETS, "little")


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
