"""`platform.yaml`: sites, nodes, pools, VIPs, and fleet-wide settings."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from orchestrator.config.bgp import check_bgp, compile_bgp
from orchestrator.config.configuration import (
    ConfiguredMember,
    ConfiguredNode,
    ConfiguredPool,
    ConfiguredSite,
    ConfiguredVip,
)
from orchestrator.config.document import Document, Place
from orchestrator.config.entries import Placed, check_fields, names_in, read_list, read_one, refuse_repeats
from orchestrator.config.findings import Findings
from orchestrator.config.pools import check_pools
from orchestrator.config.probes import check_probes, probe_of
from orchestrator.config.schema import (
    PLATFORM_SECTIONS,
    DrainEntry,
    ForwardingEntry,
    NodeEntry,
    PoolEntry,
    SiteEntry,
    TlsEntry,
    VipEntry,
)
from orchestrator.config.sites import all_sites, check_sites
from orchestrator.config.vips import check_vips
from orchestrator.contract.base import Address
from orchestrator.contract.node import NodeKind
from orchestrator.contract.pool import DEFAULT_TABLE_ROWS, MAX_MEMBERS, MAX_TABLE_ROWS

#: Rows per member, at least, so that Maglev's imbalance stays below 1 % (Eisenbud et al., NSDI 2016, section 3.4).
MIN_ROWS_PER_MEMBER = 100


@dataclass(frozen=True, slots=True)
class Platform:
    """The valid entries of `platform.yaml`."""

    sites: tuple[ConfiguredSite, ...] = ()
    nodes: tuple[ConfiguredNode, ...] = ()
    pools: tuple[ConfiguredPool, ...] = ()
    vips: tuple[ConfiguredVip, ...] = ()
    forwarding: ForwardingEntry = field(default_factory=ForwardingEntry)
    drain: DrainEntry = field(default_factory=DrainEntry)
    tls: TlsEntry = field(default_factory=TlsEntry)


def read_platform(document: Document, files: Mapping[str, str], findings: Findings) -> Platform:
    """What is valid; a finding for all that is not. `files` are those that it may name."""
    check_fields(document, PLATFORM_SECTIONS, findings)
    sites = read_list(document, "sites", SiteEntry, findings)
    nodes = read_list(document, "nodes", NodeEntry, findings)
    pools = read_list(document, "pools", PoolEntry, findings)
    vips = read_list(document, "vips", VipEntry, findings)
    forwarding = read_one(document, "forwarding", ForwardingEntry, findings)
    drain = read_one(document, "drain", DrainEntry, findings)
    tls = read_one(document, "tls", TlsEntry, findings)
    _check_nodes(nodes, findings)
    check_sites(sites, nodes, vips, names_in(document, "sites"), findings)
    check_pools(pools, nodes, names_in(document, "nodes"), findings)
    check_vips(vips, nodes, names_in(document, "pools"), findings)
    check_probes(pools, vips, names_in(document, "vips"), nodes, findings)
    if forwarding is None and document.plain.get("forwarding") is None:
        forwarding = Placed(ForwardingEntry(), Place(document, ("forwarding",)))
    if forwarding is not None:
        _check_forwarding(forwarding, pools, findings)
    return Platform(
        sites=all_sites(sites, nodes),
        nodes=tuple(_node(entry, files, findings) for entry in nodes),
        pools=tuple(_pool(entry.value, [vip.value for vip in vips]) for entry in pools),
        vips=tuple(_vip(entry.value) for entry in vips),
        forwarding=forwarding.value if forwarding else ForwardingEntry(),
        drain=drain.value if drain else DrainEntry(),
        tls=tls.value if tls else TlsEntry(),
    )


def _check_nodes(nodes: list[Placed[NodeEntry]], findings: Findings) -> None:
    refuse_repeats(nodes, lambda node: node.name, "a node", findings)
    refuse_repeats(nodes, lambda node: node.address, "a node with the address", findings)
    with_v6 = [entry for entry in nodes if entry.value.address_v6 is not None]
    refuse_repeats(with_v6, lambda node: node.address_v6, "a node with the address", findings)
    own = {entry.value.address: entry.value.name for entry in nodes}
    for entry in nodes:
        node = entry.value
        for field_name, address in (("address", node.address), ("address_v6", node.address_v6)):
            if address is not None and _is_special(address):
                findings.add(
                    "invalid_address",
                    entry.place.at(field_name),
                    f"{address} is no host's own address",
                    "use the node's address on the underlay",
                )
        if node.address_v6 in own:
            findings.add(
                "duplicate",
                entry.place.at("address_v6"),
                f"{node.address_v6} is the address of node {own[node.address_v6]}",
                "each host has addresses of its own",
            )
        if node.kind is NodeKind.L4:
            _check_l4_node(entry, findings)
            check_bgp(entry, findings)
        else:
            _check_proxy(entry, findings)


def _check_l4_node(entry: Placed[NodeEntry], findings: Findings) -> None:
    if entry.value.address.version != 4:
        findings.add(
            "invalid_address",
            entry.place.at("address"),
            f"{entry.value.address} is an IPv6 address, and an L4 node is known by an IPv4 address",
            "write the IPv4 address here, and this one as `address_v6`",
        )


def _check_proxy(entry: Placed[NodeEntry], findings: Findings) -> None:
    if entry.value.bgp is not None:
        findings.add("not_applicable", entry.place.at("bgp"), "proxies announce nothing", "remove `bgp`")
    if entry.value.address_v6 is not None:
        findings.add(
            "not_applicable",
            entry.place.at("address_v6"),
            "a proxy is reached at one address",
            "remove `address_v6`, or write it as `address` if L4 nodes are to reach the proxy over IPv6",
        )
    if entry.value.fib:
        findings.add("not_applicable", entry.place.at("fib"), "proxies choose no way to members", "remove `fib`")


def _check_forwarding(forwarding: Placed[ForwardingEntry], pools: list[Placed[PoolEntry]], findings: Findings) -> None:
    rows = forwarding.value.rows
    if not _is_prime(rows):
        hint = f"try {_prime_from(rows)}, or {DEFAULT_TABLE_ROWS}"
        findings.add("not_prime", forwarding.place.at("rows"), f"{rows} is not a prime number", hint)
    for entry in pools:
        members = min(sum(member.weight > 0 for member in entry.value.members), MAX_MEMBERS)
        if members * MIN_ROWS_PER_MEMBER > rows:
            findings.add(
                "too_few_rows",
                forwarding.place.at("rows"),
                f"{rows} rows for the {members} members of pool {entry.value.name} spread unevenly",
                f"take a prime above {members * MIN_ROWS_PER_MEMBER}: `rows: "
                f"{_prime_from(members * MIN_ROWS_PER_MEMBER)}`",
            )


def _is_special(address: Address) -> bool:
    return address.is_multicast or address.is_loopback or address.is_unspecified or address.is_link_local


def _is_prime(number: int) -> bool:
    return number > 1 and all(number % divisor for divisor in range(2, int(number**0.5) + 1))


def _prime_from(number: int) -> int:
    """The first prime from `number` on; the last one before it if that would be too many rows."""
    upwards = (candidate for candidate in range(number, MAX_TABLE_ROWS + 1) if _is_prime(candidate))
    downwards = (candidate for candidate in range(number, 1, -1) if _is_prime(candidate))
    return next(upwards, None) or next(downwards)


def _node(placed: Placed[NodeEntry], files: Mapping[str, str], findings: Findings) -> ConfiguredNode:
    entry = placed.value
    return ConfiguredNode(
        name=entry.name,
        kind=entry.kind,
        address=entry.address,
        site=entry.site,
        address_v6=entry.address_v6,
        fib=entry.fib,
        bgp=entry.bgp and compile_bgp(entry.bgp, entry.address, placed.place.at("bgp"), files, findings),
    )


def _pool(entry: PoolEntry, vips: Sequence[VipEntry]) -> ConfiguredPool:
    members = tuple(ConfiguredMember(node=member.node, weight=member.weight) for member in entry.members)
    return ConfiguredPool(
        name=entry.name,
        members=tuple(sorted(members, key=lambda member: member.node)),
        min_active=entry.min_active,
        encapsulation=entry.encapsulation,
        redirectors=entry.redirectors,
        probe=probe_of(entry, vips),
        slow_start_s=entry.slow_start_s,
    )


def _vip(entry: VipEntry) -> ConfiguredVip:
    network, (first, last) = entry.address, entry.ports
    return ConfiguredVip(
        name=entry.name,
        address=network.network_address,
        prefix_length=None if network.num_addresses == 1 else network.prefixlen,
        protocol=entry.protocol,
        port=first,
        last_port=None if first == last else last,
        mode=entry.mode,
        pool=entry.pool,
        tls=entry.tls,
        flow_hash=entry.hash,
        quic=entry.quic,
        trusted_hops=entry.trusted_hops,
        accept_proxy_protocol=tuple(sorted(set(entry.accept_proxy_protocol), key=str)),
        sites=tuple(sorted(set(entry.sites or ()))),
    )
