"""Sites: whose L4 nodes give new flows of a pool, and to which members. Pure functions.

A site prefers its own members. While fewer of them serve than its `spill_below` says, it spills: it gives new flows to
the members of all sites, but for those that are being emptied, as long as there are others. Who serves is one question
for all of the pool, and not asked here.
"""

from collections.abc import Collection, Mapping, Sequence

from orchestrator.config.configuration import Configuration
from orchestrator.contract.base import DEFAULT_SITE
from orchestrator.contract.node import NodeKind
from orchestrator.fleet.document import FleetMember, FleetState


def sites_of(configuration: Configuration, pool: str) -> tuple[str, ...]:
    """Sites that have a generation of the pool in force, sorted, at least one: their L4 nodes announce a VIP of it.

    All sites with L4 nodes if no VIP is announced, so that the first one finds a table.
    """
    with_nodes = sorted({node.site for node in configuration.nodes if node.kind is NodeKind.L4})
    vips = configuration.vips_of(pool)
    announcing = [site for site in with_nodes if any(vip.is_of(site) for vip in vips)]
    return tuple(announcing or with_nodes or (DEFAULT_SITE,))


def members_by_site(
    configuration: Configuration,
    pool: str,
    serving: Sequence[FleetMember],
    sites: Mapping[int, str],
    admitted: Collection[int],
    emptied: Collection[str] = (),
) -> dict[str, tuple[FleetMember, ...]]:
    """Site → whom its L4 nodes are to give new flows to, of the pool's members who serve. `sites`: by member's id.

    `emptied`: sites that get no flows of others, as long as there are others.

    `admitted`: who is ready. The others do not count yet when a site asks whether it has enough members of its own.
    """
    found = {}
    for name in sites_of(configuration, pool):
        own = tuple(member for member in serving if sites.get(member.id) == name)
        site = configuration.site(name)
        spill_below = site.spill_below if site is not None else 1
        enough = sum(member.id in admitted for member in own) >= spill_below
        found[name] = own if enough else _of_all_sites(name, serving, sites, admitted, emptied)
    return found


def emptied_sites(fleet: FleetState, configuration: Configuration) -> frozenset[str]:
    """Sites all of whose L4 nodes drain, or are drained: no new flow is to come there, by any way."""
    drained = {node.site for node in configuration.nodes if node.name in fleet.l4_drains}
    serve = {node.site for node in configuration.nodes if node.kind is NodeKind.L4 and node.name not in fleet.l4_drains}
    return frozenset(drained - serve)


def site_of_members(fleet: FleetState, configuration: Configuration) -> dict[int, str]:
    """By id, of those that are configured."""
    nodes = ((member.id, configuration.node(member.name)) for member in fleet.members)
    return {number: node.site for number, node in nodes if node is not None}


def _of_all_sites(
    name: str,
    serving: Sequence[FleetMember],
    sites: Mapping[int, str],
    admitted: Collection[int],
    emptied: Collection[str],
) -> tuple[FleetMember, ...]:
    homes = ((member, sites.get(member.id)) for member in serving)
    found = tuple(member for member, home in homes if home == name or home not in emptied)
    return found if any(member.id in admitted for member in found) else tuple(serving)
