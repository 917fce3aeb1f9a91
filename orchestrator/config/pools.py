"""`pools` of `platform.yaml`: who can be a member, of how many, and how packets reach them."""

from collections import Counter

from orchestrator.config.entries import Placed, refuse_repeats
from orchestrator.config.findings import Findings
from orchestrator.config.schema import NodeEntry, PoolEntry
from orchestrator.contract.node import NodeKind
from orchestrator.contract.pool import MAX_MEMBERS, Encapsulation

#: Pools: the kernel's array of tables has as many slots (`PoolForwarding.slot`).
MAX_POOLS = 256


def check_pools(
    pools: list[Placed[PoolEntry]], nodes: list[Placed[NodeEntry]], known_nodes: set[str], findings: Findings
) -> None:
    """A finding for all that is wrong with them. `known_nodes`: names of all nodes, the wrong ones too."""
    refuse_repeats(pools, lambda pool: pool.name, "a pool", findings)
    by_name = {entry.value.name: entry.value for entry in nodes}
    if len(pools) > MAX_POOLS:
        findings.add("too_many", pools[MAX_POOLS].place, f"more than {MAX_POOLS} pools", "share pools between VIPs")
    for entry in pools:
        _check_capacity(entry, findings)
        _check_members(entry, by_name, known_nodes, findings)
        _check_families(entry, by_name, findings)
        pool = entry.value
        if pool.redirectors and pool.encapsulation is not Encapsulation.GUE:
            findings.add(
                "needs_gue",
                entry.place.at("redirectors"),
                f"{pool.encapsulation} carries no owner chain, so a redirector would not know whom to pass a flow to: "
                "only gue gives second chances",
                "add `redirectors: false`: L4 nodes then remember each flow, each for itself; or `encapsulation: gue`",
            )
    _check_addresses_v6(pools, nodes, by_name, findings)


def _check_capacity(entry: Placed[PoolEntry], findings: Findings) -> None:
    pool = entry.value
    taking = sum(member.weight > 0 for member in pool.members)
    if not pool.members:
        findings.add(
            "empty_pool",
            entry.place.at("members"),
            f"pool {pool.name} has no members: its VIPs would reach nobody",
            "name a proxy: `members: [{node: proxy-1}]`",
        )
    elif pool.min_active > taking:
        with_weight = "" if taking == len(pool.members) else " with a weight above 0"
        findings.add(
            "guard_too_high",
            entry.place.at("min_active"),
            f"min_active is {pool.min_active}, and the pool has {taking} members{with_weight}",
            f"set it to {max(1, taking - 1)} or less, so that one can be drained, or add members",
        )
    if len(pool.members) > MAX_MEMBERS:
        findings.add(
            "too_many",
            entry.place.at("members", MAX_MEMBERS),
            f"pool {pool.name} has {len(pool.members)} members, and {MAX_MEMBERS} are the most",
            "make two pools, each behind VIPs of its own",
        )


def _check_members(
    entry: Placed[PoolEntry], by_name: dict[str, NodeEntry], known_nodes: set[str], findings: Findings
) -> None:
    seen: Counter[str] = Counter()
    for index, member in enumerate(entry.value.members):
        place = entry.place.at("members", index, "node")
        seen[member.node] += 1
        if seen[member.node] > 1:
            findings.add("duplicate", place, f"{member.node} is a member already", "raise its weight instead")
        node = by_name.get(member.node)
        if member.node not in known_nodes:
            findings.add(
                "unknown_node", place, f"there is no node {member.node}", "add it under `nodes`, with kind: proxy"
            )
        elif node is not None and node.kind is NodeKind.L4:
            findings.add("wrong_kind", place, f"{member.node} is an L4 node", "members are nodes of kind proxy")


def _check_families(entry: Placed[PoolEntry], by_name: dict[str, NodeEntry], findings: Findings) -> None:
    """Redirectors pass flows on from member to member: all must be reachable by one family."""
    first: NodeEntry | None = None
    for index, member in enumerate(entry.value.members):
        node = by_name.get(member.node)
        if node is None:
            continue
        first = first or node
        if node.address.version != first.address.version:
            findings.add(
                "mixed_families",
                entry.place.at("members", index, "node"),
                f"{node.name} has an IPv{node.address.version} address, and {first.name}, of the same pool, an "
                f"IPv{first.address.version} address",
                f"give {node.name} an IPv{first.address.version} `address`, or make a pool of each family",
            )
            return


def _check_addresses_v6(
    pools: list[Placed[PoolEntry]],
    nodes: list[Placed[NodeEntry]],
    by_name: dict[str, NodeEntry],
    findings: Findings,
) -> None:
    needy = next(
        (
            f"{node.name} of pool {entry.value.name}"
            for entry in pools
            if entry.value.encapsulation is not Encapsulation.L2
            for member in entry.value.members
            if (node := by_name.get(member.node)) is not None and node.address.version == 6
        ),
        None,
    )
    if needy is None:
        return
    for entry in nodes:
        if entry.value.kind is NodeKind.L4 and entry.value.address_v6 is None:
            findings.add(
                "missing_field",
                entry.place.at("address_v6"),
                f"member {needy} has an IPv6 address, and {entry.value.name} has none to send from",
                f"add `address_v6:`, the address of {entry.value.name} on the underlay",
            )
