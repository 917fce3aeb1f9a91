"""From VIPs, which may be blocks of addresses, ranges of ports or any port, to the keys by which the kernel finds them.

Pure functions. Which VIP a packet is for: of those whose addresses, ports and protocol it fits, the one with the most
specific addresses; of these the one with the fewest ports. The kernel finds it in up to three look-ups:

1. `vips`, a hash: address, port and protocol. A VIP of one address and one port is as specific as can be, so what is
   found here is the answer, and most fleets need no other look-up.
2. `vip_prefixes`, longest prefix first: from the address to a *set*. Every VIP's addresses are here, so that a miss
   says that the packet is for no VIP at all.
3. `vip_ports`, longest prefix first: from set, protocol and port to the VIP. A set holds what applies to its addresses,
   the VIPs of wider blocks included where nothing narrower says otherwise. Its ranges are made disjoint, so that the
   answer does not depend on how a range is cut into prefixes.

Fragments have no ports. A set has a *portless* entry for a protocol if all VIPs that its packets can be for are treated
alike: then it does not matter which of them a fragment is for.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

from l4.entries import VipEntry

Network = IPv4Network | IPv6Network

_LAST_PORT = 65535
_PORT_BITS = 16
#: `ANY_PORT` of the contract begins with port 1; in the kernel it is one entry, which fits port 0 as well.
_ANY = (0, _LAST_PORT)

_MAPPED_IPV4 = IPv6Network("::ffff:0:0/96")

#: Bits of a `vip_ports` key before the port: set (32), protocol, portless (8 each).
BITS_BEFORE_PORT = 48

#: Entries that all sets may take together. The map holds twice as many, so that any state can replace any other.
MAX_PORT_ENTRIES = 32768


class VipsRefused(ValueError):
    """These VIPs cannot be told apart, or are too many; the message names them."""


@dataclass(frozen=True, slots=True, order=True)
class PortPrefix:
    """A `vip_ports` key within its set."""

    protocol: int
    portless: bool
    port: int
    """The first that the prefix fits."""
    length: int
    """Bits of the port that count: 16 for one port, 0 for all."""


PortSet = tuple[tuple[PortPrefix, VipEntry], ...]
"""A set's entries, in order."""


@dataclass(frozen=True, slots=True)
class VipSets:
    """What the three maps are to hold."""

    exact: Mapping[tuple[IPv4Address | IPv6Address, int, int], VipEntry]
    """By address, port and protocol."""
    sets: Mapping[Network, PortSet]
    """By the addresses of each VIP."""


def compile_vips(vips: Sequence[VipEntry]) -> VipSets:
    """The maps' contents. Raises VipsRefused."""
    _check(vips)
    exact = {(vip.network.network_address, vip.first_port, vip.protocol): vip for vip in vips if _is_exact(vip)}
    of_network: dict[Network, list[VipEntry]] = {}
    for vip in vips:
        of_network.setdefault(vip.network, []).append(vip)
    lengths = {version: sorted({n.prefixlen for n in of_network if n.version == version}) for version in (4, 6)}
    sets = {}
    for network in of_network:
        fitting = [
            vip
            for length in lengths[network.version]
            if length <= network.prefixlen
            for vip in of_network.get(network.supernet(new_prefix=length), ())
        ]
        sets[network] = _port_set(fitting)
    entries = sum(len(entries) for entries in set(sets.values()))
    if entries > MAX_PORT_ENTRIES:
        raise VipsRefused(
            f"the port ranges of these VIPs take {entries} entries in the kernel, and at most {MAX_PORT_ENTRIES} are "
            "supported: choose ranges that begin and end at multiples of powers of two, or fewer of them"
        )
    return VipSets(exact, sets)


def quic_servers(vips: Iterable[VipEntry], members_of_slot: Mapping[int, Iterable[int]]) -> dict[tuple[int, int], int]:
    """Member ids by slot and server id, for the pools of QUIC VIPs. A member's server id is its own id."""
    slots = {vip.slot for vip in vips if vip.quic}
    return {(slot, member): member for slot in sorted(slots) for member in members_of_slot.get(slot, ())}


def _check(vips: Iterable[VipEntry]) -> None:
    seen: dict[tuple[Network, int, int, int], int] = {}
    for vip in vips:
        if isinstance(vip.network, IPv6Network) and vip.network.overlaps(_MAPPED_IPV4):
            raise VipsRefused(f"VIP {vip.vip_id}: {vip.network} overlaps {_MAPPED_IPV4}, by which IPv4 is written")
        key = (vip.network, vip.protocol, *_ports(vip))
        other = seen.setdefault(key, vip.vip_id)
        if other != vip.vip_id:
            raise VipsRefused(f"VIPs {other} and {vip.vip_id} have the same addresses, ports and protocol")


def _is_exact(vip: VipEntry) -> bool:
    return vip.network.prefixlen == vip.network.max_prefixlen and vip.first_port == vip.last_port


def _ports(vip: VipEntry) -> tuple[int, int]:
    return _ANY if (vip.first_port, vip.last_port) == (1, _LAST_PORT) else (vip.first_port, vip.last_port)


def _precedence(vip: VipEntry) -> tuple[int, int, int]:
    """Smaller goes first. The id decides between ranges that overlap and are equally wide."""
    first, last = _ports(vip)
    return -vip.network.prefixlen, last - first, vip.vip_id


def _port_set(fitting: Iterable[VipEntry]) -> PortSet:
    """The set of addresses that all of these VIPs fit."""
    of_protocol: dict[int, list[VipEntry]] = {}
    for vip in sorted(fitting, key=_precedence):
        of_protocol.setdefault(vip.protocol, []).append(vip)
    return tuple(sorted((entry for vips in of_protocol.values() for entry in _entries(vips)), key=lambda e: e[0]))


def _entries(vips: Sequence[VipEntry]) -> Iterator[tuple[PortPrefix, VipEntry]]:
    """A set's entries for one protocol; `vips` by precedence."""
    protocol = vips[0].protocol
    # Those with an entry in `vips` are found before a set is asked.
    ranges = [vip for vip in vips if not _is_exact(vip)]
    default = next((vip for vip in ranges if _ports(vip) == _ANY), None)
    if default is not None:
        yield PortPrefix(protocol, portless=False, port=0, length=0), default
    for first, last, vip in _disjoint(ranges):
        if vip is not default:
            for port, length in _prefixes(first, last):
                yield PortPrefix(protocol, portless=False, port=port, length=length), vip
    reached = [vip for _, _, vip in _disjoint(vips)]
    if len({_treatment(vip) for vip in reached}) == 1:
        yield PortPrefix(protocol, portless=True, port=0, length=0), min(reached, key=_precedence)


def _treatment(vip: VipEntry) -> tuple[object, ...]:
    """All of a VIP but its name in the counters."""
    return vip.slot, vip.flow_table, vip.hash_source, vip.quic, vip.encapsulation


def _disjoint(vips: Iterable[VipEntry]) -> list[tuple[int, int, VipEntry]]:
    """Ranges of ports (first, last) and whose they are, in order; of overlapping ones the earlier VIP takes all."""
    free = [_ANY]
    taken: list[tuple[int, int, VipEntry]] = []
    for vip in vips:
        first, last = _ports(vip)
        remaining = []
        for start, end in free:
            if end < first or last < start:
                remaining.append((start, end))
                continue
            taken.append((max(start, first), min(end, last), vip))
            if start < first:
                remaining.append((start, first - 1))
            if last < end:
                remaining.append((last + 1, end))
        free = remaining
    taken.sort(key=lambda part: part[0])
    joined: list[tuple[int, int, VipEntry]] = []
    for first, last, vip in taken:
        if joined and joined[-1][2] is vip and joined[-1][1] + 1 == first:
            first = joined.pop()[0]
        joined.append((first, last, vip))
    return joined


def _prefixes(first: int, last: int) -> Iterator[tuple[int, int]]:
    """The fewest prefixes (port, length in bits) that fit exactly the ports from `first` to `last`."""
    while first <= last:
        size = first & -first or 1 << _PORT_BITS
        while size > last - first + 1:
            size >>= 1
        yield first, _PORT_BITS - size.bit_length() + 1
        first += size
