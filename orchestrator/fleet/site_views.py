"""What operators see of sites. Pure functions."""

from collections.abc import Iterator

from orchestrator.config.configuration import ConfiguredSite
from orchestrator.contract.node import NodeKind
from orchestrator.contract.operator import SitePoolView, SiteView
from orchestrator.fleet.ledger import Present
from orchestrator.fleet.membership import active_members
from orchestrator.fleet.reports import ReportBoard
from orchestrator.fleet.sites import site_of_members


def site_views(present: Present, board: ReportBoard) -> tuple[SiteView, ...]:
    """Configured sites, those without nodes too."""
    return tuple(_site(present, board, site) for site in present.configuration.sites)


def site_warnings(present: Present) -> Iterator[str]:
    """Sites that have members of their own and give new flows to those of others all the same."""
    for site in present.configuration.sites:
        for pool in _pools(present, site):
            if pool.spills and pool.members:
                yield (
                    f"site {site.name} gives new flows of pool {pool.pool} to all sites: {pool.active} of its "
                    f"{pool.members} members are active, and it spills below {site.spill_below}"
                )


def _site(present: Present, board: ReportBoard, site: ConfiguredSite) -> SiteView:
    nodes = [node for node in present.configuration.nodes if node.site == site.name]
    l4_nodes = tuple(node.name for node in nodes if node.kind is NodeKind.L4)
    statuses = {name: board.balancer(name) for name in l4_nodes}
    return SiteView(
        name=site.name,
        spill_below=site.spill_below,
        l4_nodes=l4_nodes,
        proxies=tuple(node.name for node in nodes if node.kind is NodeKind.PROXY),
        vips={
            vip.name: tuple(name for name, status in statuses.items() if status and vip.name in status.announced)
            for vip in present.configuration.vips
            if l4_nodes and vip.is_of(site.name)
        },
        pools=tuple(_pools(present, site)),
    )


def _pools(present: Present, site: ConfiguredSite) -> Iterator[SitePoolView]:
    homes = site_of_members(present.fleet, present.configuration)
    for configured in present.configuration.pools:
        pool = present.fleet.pool(configured.name)
        live = pool.newest_by_site.get(site.name) if pool is not None else None
        if live is None:
            continue
        own = {number for number, home in homes.items() if home == site.name}
        weights = configured.weights
        yield SitePoolView(
            pool=configured.name,
            generation=live.generation.number,
            members=sum(member.id in own and weights.get(member.name, 0) > 0 for member in present.fleet.members),
            active=sum(member.id in own for member in active_members(present.fleet, configured)),
            spills=any(homes.get(number, site.name) != site.name for number in live.generation.ids),
        )
