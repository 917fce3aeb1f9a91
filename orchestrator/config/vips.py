"""`vips` of `platform.yaml`: what each may be, and that packets can tell them apart.

A packet is for the VIP with the most specific addresses, and of several with these the narrowest range of ports. So a
VIP may lie inside another, and the inner one wins; two that overlap otherwise have no order, and are refused.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from heapq import heappop, heappush
from ipaddress import IPv4Network, IPv6Network, ip_network

from orchestrator.config.entries import Placed, refuse_repeats
from orchestrator.config.findings import Findings
from orchestrator.config.schema import NodeEntry, VipEntry
from orchestrator.contract.vip import ANY_PORT, MAX_VIPS, Protocol, VipMode

#: Modes that this version can serve.
SERVED_MODES = (VipMode.TERMINATE, VipMode.PASSTHROUGH)

#: Port prefixes that all VIPs may take together: half of what the kernel's map holds, so that any state can replace any
#: other without a gap.
MAX_PORT_PREFIXES = 32768

Network = IPv4Network | IPv6Network

#: What no VIP may overlap (RFC 6890, RFC 4291 section 2.5.5.2): "this network", loopback, link-local, multicast,
#: limited broadcast; IPv4 written as IPv6.
SPECIAL: tuple[Network, ...] = tuple(
    ip_network(text)
    for text in (
        *("0.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "224.0.0.0/4", "255.255.255.255/32"),
        *("::/127", "::ffff:0:0/96", "fe80::/10", "ff00::/8"),
    )
)


def check_vips(
    vips: Sequence[Placed[VipEntry]], nodes: Iterable[Placed[NodeEntry]], known_pools: set[str], findings: Findings
) -> None:
    """A finding for all that is wrong with them."""
    refuse_repeats(vips, lambda vip: vip.name, "a VIP", findings)
    if len(vips) > MAX_VIPS:
        findings.add(
            "too_many",
            vips[MAX_VIPS].place,
            f"{len(vips)} VIPs, and {MAX_VIPS} are the most",
            "join some: one VIP may be a block of addresses and a range of ports",
        )
    own = _OwnAddresses(nodes)
    for entry in vips:
        _check_mode(entry, findings)
        if entry.value.pool not in known_pools:
            pool = entry.value.pool
            findings.add("unknown_pool", entry.place.at("pool"), f"there is no pool {pool}", "add it under `pools`")
        _check_addresses(entry, own, findings)
    _refuse_overlaps(vips, findings)
    _check_port_prefixes(vips, findings)


def _check_mode(entry: Placed[VipEntry], findings: Findings) -> None:
    vip = entry.value
    if vip.mode not in SERVED_MODES:
        findings.add(
            "mode_not_served",
            entry.place.at("mode"),
            f"{vip.mode} is not served by this version",
            f"use one of: {', '.join(SERVED_MODES)}",
        )
    if vip.quic and vip.protocol is not Protocol.UDP:
        findings.add("not_applicable", entry.place.at("quic"), "QUIC runs over UDP", "add `protocol: udp`")
    if vip.mode is not VipMode.TERMINATE:
        if vip.trusted_hops:
            findings.add(
                "not_applicable",
                entry.place.at("trusted_hops"),
                f"nobody reads X-Forwarded-For of a {vip.mode} VIP: its packets are forwarded as they are",
                "remove `trusted_hops`",
            )
        if vip.accept_proxy_protocol:
            findings.add(
                "not_applicable",
                entry.place.at("accept_proxy_protocol"),
                f"nobody reads PROXY headers of a {vip.mode} VIP: its packets are forwarded as they are",
                "remove `accept_proxy_protocol`, and let the pool's hosts accept it",
            )
        return
    _check_trusted_sources(entry, findings)
    first, last = vip.ports
    hint = f"give each its own VIP, or forward all as they are: `mode: {VipMode.PASSTHROUGH}`"
    if vip.address.num_addresses != 1:
        message = f"{vip.address} is {vip.address.num_addresses} addresses, and a proxy terminates at one"
        findings.add("one_address", entry.place.at("address"), message, hint)
    if first != last:
        message = f"{_ports_in_words(vip)} are {last - first + 1} ports, and a proxy terminates at one"
        findings.add("one_port", entry.place.at("port"), message, hint)
    if vip.protocol is not Protocol.TCP:
        findings.add(
            "mode_not_served",
            entry.place.at("protocol"),
            "proxies terminate TCP only in this version",
            f"use `mode: {VipMode.PASSTHROUGH}`, and serve UDP on the pool's hosts",
        )


def _check_trusted_sources(entry: Placed[VipEntry], findings: Findings) -> None:
    """Whoever may send a PROXY header may claim to be anyone: not the whole world."""
    for index, prefix in enumerate(entry.value.accept_proxy_protocol):
        if prefix.prefixlen == 0:
            findings.add(
                "too_wide",
                entry.place.at("accept_proxy_protocol", index),
                f"{prefix} trusts every client to say who it is",
                "name the addresses of the load balancers that connect here",
            )


class _OwnAddresses:
    """Addresses of nodes, to be found by block."""

    def __init__(self, nodes: Iterable[Placed[NodeEntry]]) -> None:
        self._names = {
            address: entry.value.name
            for entry in nodes
            for address in (entry.value.address, entry.value.address_v6)
            if address is not None
        }
        self._sorted = {
            version: sorted((address for address in self._names if address.version == version), key=int)
            for version in (4, 6)
        }

    def inside(self, network: Network) -> str | None:
        """In words: the first that lies in the block."""
        addresses = self._sorted[network.version]
        at = bisect_left(addresses, int(network.network_address), key=int)
        if at == bisect_right(addresses, int(network.broadcast_address), key=int):
            return None
        return f"{addresses[at]} is the own address of node {self._names[addresses[at]]}"


def _check_addresses(entry: Placed[VipEntry], own: _OwnAddresses, findings: Findings) -> None:
    network, place = entry.value.address, entry.place.at("address")
    special = next((other for other in SPECIAL if other.version == network.version and network.overlaps(other)), None)
    if special is not None:
        what = "lies in" if network.subnet_of(special) else "overlaps"  # type: ignore[arg-type]
        message = f"{_address_in_words(network)} cannot be announced: it {what} {special}"
        findings.add("invalid_address", place, message, "use unicast addresses that clients can reach")
    taken = own.inside(network)
    if taken is not None:
        findings.add("address_in_use", place, taken, "give the VIP addresses that no host has")


def _refuse_overlaps(vips: Iterable[Placed[VipEntry]], findings: Findings) -> None:
    groups: dict[tuple[Network, Protocol], list[Placed[VipEntry]]] = {}
    for entry in vips:
        groups.setdefault((entry.value.address, entry.value.protocol), []).append(entry)
    for entries in groups.values():
        _refuse_overlapping_ranges(entries, findings)


def _refuse_overlapping_ranges(entries: list[Placed[VipEntry]], findings: Findings) -> None:
    """All of one protocol at the same addresses: their ranges must be apart, or one inside the other."""
    order = sorted(range(len(entries)), key=lambda i: (entries[i].value.ports[0], -entries[i].value.ports[1], i))
    around: list[int] = []  # each inside the one before
    for index in order:
        first, last = entries[index].value.ports
        while around and entries[around[-1]].value.ports[1] < first:
            around.pop()
        if around:
            # The later one in the file is the finding, the other one is named in it.
            other, this = entries[min(around[-1], index)], entries[max(around[-1], index)]
            outer_first, outer_last = entries[around[-1]].value.ports
            vip = this.value
            if (outer_first, outer_last) == (first, last):
                findings.add(
                    "address_in_use",
                    this.place.at("address"),
                    f"{_address_in_words(vip.address)} {_ports_in_words(vip)} ({vip.protocol}) is VIP "
                    f"{other.value.name} already, at {other.place.position}",
                    "give one of the two another address, port or protocol",
                )
                continue
            if last > outer_last:
                findings.add(
                    "ports_overlap",
                    this.place.at("port"),
                    f"{_ports_in_words(vip)} overlap {_ports_in_words(other.value)} of VIP {other.value.name}, at "
                    f"{other.place.position}, and neither lies inside the other: nothing says whose the shared are",
                    "let the two begin or end where the other ends or begins, or make one a part of the other, "
                    "which then wins there",
                )
        around.append(index)


def _check_port_prefixes(vips: Sequence[Placed[VipEntry]], findings: Findings) -> None:
    taken = port_prefixes([entry.value for entry in vips])
    if taken > MAX_PORT_PREFIXES:
        findings.add(
            "too_many",
            vips[0].place,
            f"the ranges of these VIPs take at least {taken} port prefixes, and {MAX_PORT_PREFIXES} are the most",
            "let ranges begin and end at multiples of powers of two (8192-16383 takes one, 8000-8999 takes seven), "
            "or use fewer blocks inside blocks",
        )


def port_prefixes(vips: Sequence[VipEntry]) -> int:
    """How many port prefixes the kernel is given: at each distinct block, for the ranges of all blocks around it.

    Counts on only until there are too many. A VIP of one address and one port takes none: it has a table of its own.
    """
    at: dict[tuple[Network, Protocol], list[VipEntry]] = {}
    for vip in vips:
        at.setdefault((vip.address, vip.protocol), []).append(vip)
    lengths = {version: sorted({n.prefixlen for n, _ in at if n.version == version}) for version in (4, 6)}
    total = 0
    for network, protocol in at:
        ranges = [
            (-length, vip.ports[1] - vip.ports[0], *vip.ports)
            for length in lengths[network.version]
            if length <= network.prefixlen
            for vip in at.get((network.supernet(new_prefix=length), protocol), ())
            if vip.address.num_addresses > 1 or vip.ports[0] != vip.ports[1]
        ]
        total += _prefixes_of(ranges)
        if total > MAX_PORT_PREFIXES:
            break
    return total


def _prefixes_of(ranges: Iterable[tuple[int, int, int, int]]) -> int:
    """Of ranges (precedence, width, first, last), of which the smallest wins where they overlap."""
    starts = sorted(ranges, key=lambda each: each[2])
    covering: list[tuple[int, int, int, int]] = []
    total, at, begun = 0, 0, 0
    owner: tuple[int, int, int, int] | None = None
    edges = sorted({edge for _, _, first, last in starts for edge in (first, last + 1)})
    for edge in edges:
        while at < len(starts) and starts[at][2] <= edge:
            heappush(covering, starts[at])
            at += 1
        while covering and covering[0][3] < edge:
            heappop(covering)
        now = covering[0] if covering else None
        if now != owner:
            total += _prefixes_between(begun, edge - 1) if owner is not None else 0
            owner, begun = now, edge
    return total


def _prefixes_between(first: int, last: int) -> int:
    """The fewest prefixes that cover exactly these ports."""
    if (first, last) == ANY_PORT:
        return 1
    count = 0
    while first <= last:
        size = first & -first or last + 1
        while size > last - first + 1:
            size >>= 1
        first += size
        count += 1
    return count


def _address_in_words(network: Network) -> str:
    return str(network.network_address if network.num_addresses == 1 else network)


def _ports_in_words(vip: VipEntry) -> str:
    first, last = vip.ports
    return "any port" if (first, last) == ANY_PORT else f"port {first}" if first == last else f"ports {first}-{last}"
