"""`platform.yaml`: nodes, pools, VIPs, and fleet-wide settings."""

from collections import Counter
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address

from orchestrator.config.configuration import ConfiguredMember, ConfiguredNode, ConfiguredPool, ConfiguredVip
from orchestrator.config.document import Document
from orchestrator.config.entries import Placed, check_fields, names_in, read_list, read_one, refuse_repeats
from orchestrator.config.findings import Findings
from orchestrator.config.schema import (
    PLATFORM_SECTIONS,
    BgpEntry,
    DrainEntry,
    ForwardingEntry,
    NodeEntry,
    PoolEntry,
    VipEntry,
)
from orchestrator.contract.node import NodeKind
from orchestrator.contract.snapshot import Bgp
from orchestrator.contract.vip import VipMode

#: Pools: the kernel's array of tables has as many slots (`PoolForwarding.slot`).
MAX_POOLS = 256
#: Rows per member, at least, so that Maglev's imbalance stays below 1 % (Eisenbud et al., NSDI 2016, section 3.4).
MIN_ROWS_PER_MEMBER = 100
#: Modes that this version can serve.
SERVED_MODES = (VipMode.TERMINATE, VipMode.PASSTHROUGH)


@dataclass(frozen=True, slots=True)
class Platform:
    """The valid entries of `platform.yaml`."""

    nodes: tuple[ConfiguredNode, ...] = ()
    pools: tuple[ConfiguredPool, ...] = ()
    vips: tuple[ConfiguredVip, ...] = ()
    forwarding: ForwardingEntry = field(default_factory=ForwardingEntry)
    drain: DrainEntry = field(default_factory=DrainEntry)


def read_platform(document: Document, findings: Findings) -> Platform:
    """What is valid; a finding for all that is not."""
    check_fields(document, PLATFORM_SECTIONS, findings)
    nodes = read_list(document, "nodes", NodeEntry, findings)
    pools = read_list(document, "pools", PoolEntry, findings)
    vips = read_list(document, "vips", VipEntry, findings)
    forwarding = read_one(document, "forwarding", ForwardingEntry, findings)
    drain = read_one(document, "drain", DrainEntry, findings)
    _check_nodes(nodes, findings)
    _check_pools(pools, nodes, names_in(document, "nodes"), findings)
    _check_vips(vips, nodes, names_in(document, "pools"), findings)
    if forwarding is not None:
        _check_forwarding(forwarding, pools, findings)
    return Platform(
        nodes=tuple(_node(entry.value) for entry in nodes),
        pools=tuple(_pool(entry.value) for entry in pools),
        vips=tuple(ConfiguredVip(**entry.value.model_dump()) for entry in vips),
        forwarding=forwarding.value if forwarding else ForwardingEntry(),
        drain=drain.value if drain else DrainEntry(),
    )


def _check_nodes(nodes: list[Placed[NodeEntry]], findings: Findings) -> None:
    refuse_repeats(nodes, lambda node: node.name, "a node", findings)
    refuse_repeats(nodes, lambda node: node.address, "a node with the address", findings)
    for entry in nodes:
        if _is_special(entry.value.address):
            findings.add(
                "invalid_address",
                entry.place.at("address"),
                f"{entry.value.address} is no host's own address",
                "use the node's address on the underlay",
            )
        if entry.value.kind is NodeKind.PROXY and entry.value.bgp is not None:
            findings.add("not_applicable", entry.place.at("bgp"), "proxies announce nothing", "remove `bgp`")


def _check_pools(
    pools: list[Placed[PoolEntry]], nodes: list[Placed[NodeEntry]], known_nodes: set[str], findings: Findings
) -> None:
    refuse_repeats(pools, lambda pool: pool.name, "a pool", findings)
    kinds = {entry.value.name: entry.value.kind for entry in nodes}
    if len(pools) > MAX_POOLS:
        findings.add("too_many", pools[MAX_POOLS].place, f"more than {MAX_POOLS} pools", "share pools between VIPs")
    for entry in pools:
        members = entry.value.members
        if not members:
            findings.add(
                "empty_pool",
                entry.place.at("members"),
                f"pool {entry.value.name} has no members: its VIPs would reach nobody",
                "name a proxy: `members: [{node: proxy-1}]`",
            )
        elif entry.value.min_active > len(members):
            findings.add(
                "guard_too_high",
                entry.place.at("min_active"),
                f"min_active is {entry.value.min_active}, and the pool has {len(members)} members",
                f"set it to {max(1, len(members) - 1)} or less, so that one can be drained, or add members",
            )
        seen: Counter[str] = Counter()
        for index, member in enumerate(members):
            place = entry.place.at("members", index, "node")
            seen[member.node] += 1
            if seen[member.node] > 1:
                findings.add("duplicate", place, f"{member.node} is a member already", "raise its weight instead")
            if member.node not in known_nodes:
                findings.add(
                    "unknown_node", place, f"there is no node {member.node}", "add it under `nodes`, with kind: proxy"
                )
            elif kinds.get(member.node) is NodeKind.L4:
                findings.add("wrong_kind", place, f"{member.node} is an L4 node", "members are nodes of kind proxy")


def _check_vips(
    vips: list[Placed[VipEntry]], nodes: list[Placed[NodeEntry]], known_pools: set[str], findings: Findings
) -> None:
    refuse_repeats(vips, lambda vip: vip.name, "a VIP", findings)
    addresses = {str(entry.value.address): entry.value.name for entry in nodes}
    taken: dict[tuple[str, int], Placed[VipEntry]] = {}
    for entry in vips:
        vip = entry.value
        if vip.mode not in SERVED_MODES:
            findings.add(
                "mode_not_served",
                entry.place.at("mode"),
                f"{vip.mode} is not served by this version",
                f"use one of: {', '.join(SERVED_MODES)}",
            )
        if vip.pool not in known_pools:
            findings.add("unknown_pool", entry.place.at("pool"), f"there is no pool {vip.pool}", "add it under `pools`")
        if _is_special(vip.address):
            findings.add(
                "invalid_address",
                entry.place.at("address"),
                f"{vip.address} cannot be announced",
                "use a unicast address that clients can reach",
            )
        if str(vip.address) in addresses:
            findings.add(
                "address_in_use",
                entry.place.at("address"),
                f"{vip.address} is the own address of node {addresses[str(vip.address)]}",
                "give the VIP an address that no host has",
            )
        other = taken.setdefault((str(vip.address), vip.port), entry)
        if other is not entry:
            findings.add(
                "address_in_use",
                entry.place.at("address"),
                f"{vip.address} port {vip.port} is VIP {other.value.name} already, at {other.place.position}",
                "give one of the two another address or port",
            )


def _check_forwarding(forwarding: Placed[ForwardingEntry], pools: list[Placed[PoolEntry]], findings: Findings) -> None:
    rows = forwarding.value.rows
    if not _is_prime(rows):
        findings.add("not_prime", forwarding.place.at("rows"), f"{rows} is not a prime number", "try 65537, or 5003")
    for entry in pools:
        if len(entry.value.members) * MIN_ROWS_PER_MEMBER > rows:
            findings.add(
                "too_few_rows",
                forwarding.place.at("rows"),
                f"{rows} rows for the {len(entry.value.members)} members of pool {entry.value.name} spread unevenly",
                f"take a prime above {len(entry.value.members) * MIN_ROWS_PER_MEMBER}",
            )


def _is_special(address: IPv4Address | IPv6Address) -> bool:
    return address.is_multicast or address.is_loopback or address.is_unspecified or address.is_link_local


def _is_prime(number: int) -> bool:
    return number > 1 and all(number % divisor for divisor in range(2, int(number**0.5) + 1))


def _node(entry: NodeEntry) -> ConfiguredNode:
    return ConfiguredNode(
        name=entry.name, kind=entry.kind, address=entry.address, bgp=entry.bgp and _bgp(entry.bgp, entry.address)
    )


def _bgp(entry: BgpEntry, address: IPv4Address) -> Bgp:
    return Bgp(
        asn=entry.asn,
        router_id=entry.router_id or address,
        neighbors=entry.neighbors,
        bfd_interval_ms=entry.bfd_interval_ms,
        bfd_multiplier=entry.bfd_multiplier,
    )


def _pool(entry: PoolEntry) -> ConfiguredPool:
    members = tuple(ConfiguredMember(node=member.node, weight=member.weight) for member in entry.members)
    return ConfiguredPool(
        name=entry.name, members=tuple(sorted(members, key=lambda member: member.node)), min_active=entry.min_active
    )
