"""`sites` of `platform.yaml`, and who names them: nodes and VIPs."""

from collections.abc import Iterable, Sequence

from orchestrator.config.configuration import ConfiguredSite
from orchestrator.config.entries import Placed, refuse_repeats
from orchestrator.config.findings import Findings
from orchestrator.config.schema import NodeEntry, SiteEntry, VipEntry
from orchestrator.contract.base import DEFAULT_SITE

#: Sites: each keeps one generation of each pool for itself, of the 64 that may be live (`MAX_LIVE_GENERATIONS`), so
#: three quarters are left to changes.
MAX_SITES = 16


def check_sites(
    sites: Sequence[Placed[SiteEntry]],
    nodes: Sequence[Placed[NodeEntry]],
    vips: Sequence[Placed[VipEntry]],
    listed: set[str],
    findings: Findings,
) -> None:
    """A finding for all that is wrong with them. `listed`: names of all entries of `sites`, the wrong ones too.

    Without `sites`, a site is there as soon as a node is in it; with it, each but the default one must be listed, so
    that a name that is mistyped makes no site.
    """
    refuse_repeats(sites, lambda site: site.name, "a site", findings)
    if listed:
        known = listed | {DEFAULT_SITE}
        for node in nodes:
            _refuse_unknown(node, node.value.site, ("site",), known, findings)
    else:
        known = {node.value.site for node in nodes} | {DEFAULT_SITE}
    for vip in vips:
        for index, name in enumerate(vip.value.sites or ()):
            _refuse_unknown(vip, name, ("sites", index), known, findings)
    places = {site.value.name: site.place for site in sites}
    for node in nodes:
        places.setdefault(node.value.site, node.place.at("site"))
    if len(places) > MAX_SITES:
        findings.add(
            "too_many",
            [*places.values()][MAX_SITES],
            f"{len(places)} sites, and {MAX_SITES} are the most",
            "run the sites as two fleets, each with VIPs of its own",
        )


def all_sites(sites: Iterable[Placed[SiteEntry]], nodes: Iterable[Placed[NodeEntry]]) -> tuple[ConfiguredSite, ...]:
    """Those that are listed, and those that nodes belong to."""
    found = {node.value.site: ConfiguredSite(name=node.value.site) for node in nodes}
    for site in sites:
        found[site.value.name] = ConfiguredSite(name=site.value.name, spill_below=site.value.spill_below)
    return tuple(found.values())


def _refuse_unknown(
    entry: Placed[NodeEntry] | Placed[VipEntry],
    site: str,
    steps: tuple[str | int, ...],
    known: set[str],
    findings: Findings,
) -> None:
    if site not in known:
        findings.add(
            "unknown_site",
            entry.place.at(*steps),
            f"there is no site {site}",
            f"add it under `sites`, or name one of: {', '.join(sorted(known))}",
        )
