"""What changes between two configurations, in words."""

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from orchestrator.config.configuration import (
    Configuration,
    ConfiguredNode,
    ConfiguredPool,
    ConfiguredSite,
    ConfiguredVip,
)
from orchestrator.contract.base import Contract
from orchestrator.contract.route import Certificate

E = TypeVar("E", bound=Contract)


def describe_change(before: Configuration, after: Configuration) -> tuple[str, ...]:
    """One line per change: "pool edge: proxy-4 added, weight 1". Empty if only places in files changed."""
    return tuple(_lines(before, after))


def _lines(before: Configuration, after: Configuration) -> Iterator[str]:
    yield from _entries("site", before.sites, after.sites, lambda site: site.name, describe=_site_change)
    yield from _entries("node", before.nodes, after.nodes, lambda node: node.name, describe=_node_change)
    yield from _pools(before, after)
    yield from _entries("VIP", before.vips, after.vips, lambda vip: vip.name, describe=_vip_change)
    hosts = tuple(entry.host for entry in before.hosts), tuple(entry.host for entry in after.hosts)
    yield from _entries("host", *hosts, lambda host: host.name)
    yield from _entries("certificate", before.certificates, after.certificates, _certificate_name)
    backends = tuple(entry.backend for entry in before.backends), tuple(entry.backend for entry in after.backends)
    yield from _entries("backend", *backends, lambda backend: backend.name)
    for name in ("rows", "owners_per_row", "spread_s", "uncounted_s", "ticket_key_s", "older_ticket_keys"):
        old, new = getattr(before, name), getattr(after, name)
        if old != new:
            yield f"{name}: {old} → {new}"


def _certificate_name(certificate: Certificate) -> str:
    hosts = ", ".join(certificate.hosts)
    return hosts if certificate.kind is None else f"{hosts} ({certificate.kind.upper()})"


def _pools(before: Configuration, after: Configuration) -> Iterator[str]:
    yield from _entries("pool", before.pools, after.pools, lambda pool: pool.name, describe=_pool_change)


def _pool_change(old: ConfiguredPool, new: ConfiguredPool) -> Iterator[str]:
    was = {member.node: member.weight for member in old.members}
    will = {member.node: member.weight for member in new.members}
    for node in sorted(was.keys() | will.keys()):
        if node not in was:
            yield f"{node} added, weight {will[node]}"
        elif node not in will:
            yield f"{node} removed"
        elif was[node] != will[node]:
            yield f"{node} weight {was[node]} → {will[node]}"
    if old.probe != new.probe:
        yield "probe " + ("removed" if new.probe is None else "added" if old.probe is None else "changed")
    for field in ("min_active", "encapsulation", "redirectors", "slow_start_s"):
        before, after = getattr(old, field), getattr(new, field)
        if before != after:
            yield f"{field} {before} → {after}"


def _site_change(old: ConfiguredSite, new: ConfiguredSite) -> Iterator[str]:
    yield f"spill_below {old.spill_below} → {new.spill_below}"


def _node_change(old: ConfiguredNode, new: ConfiguredNode) -> Iterator[str]:
    if old.site != new.site:
        yield f"site {old.site} → {new.site}"
    yield from _other_fields(old, new.model_copy(update={"site": old.site}))


def _vip_change(old: ConfiguredVip, new: ConfiguredVip) -> Iterator[str]:
    if old.sites != new.sites:
        yield f"sites {', '.join(old.sites) or 'all'} → {', '.join(new.sites) or 'all'}"
    yield from _other_fields(old, new.model_copy(update={"sites": old.sites}))


def _other_fields(old: Contract, new: Contract) -> Iterator[str]:
    if old != new:
        yield _fields(old, new)


def _entries(
    kind: str,
    before: Sequence[E],
    after: Sequence[E],
    name: Callable[[E], str],
    describe: Callable[[E, E], Iterator[str]] | None = None,
) -> Iterator[str]:
    was = {name(entry): entry for entry in before}
    will = {name(entry): entry for entry in after}
    for key in sorted(was.keys() | will.keys()):
        if key not in was:
            yield f"{kind} {key}: added"
        elif key not in will:
            yield f"{kind} {key}: removed"
        elif was[key] != will[key]:
            lines = tuple(describe(was[key], will[key])) if describe else (_fields(was[key], will[key]),)
            yield from (f"{kind} {key}: {line}" for line in lines)


def _fields(old: Contract, new: Contract) -> str:
    """Names of the fields that differ. Not their values: one of them is a private key."""
    changed = [field for field in type(old).model_fields if getattr(old, field) != getattr(new, field)]
    return f"{', '.join(changed)} changed"
