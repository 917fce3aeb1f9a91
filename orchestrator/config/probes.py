"""`pools[].probe` of `platform.yaml`: which VIP the members are asked at, and what would ask in vain."""

from collections.abc import Iterable, Sequence

from orchestrator.config.entries import Placed
from orchestrator.config.findings import Findings
from orchestrator.config.schema import NodeEntry, PoolEntry, VipEntry
from orchestrator.contract.node import NodeKind
from orchestrator.contract.pool import Probe, ProbeKind
from orchestrator.contract.vip import Protocol


def check_probes(
    pools: Iterable[Placed[PoolEntry]],
    vips: Sequence[Placed[VipEntry]],
    known_vips: set[str],
    nodes: Sequence[Placed[NodeEntry]],
    findings: Findings,
) -> None:
    """A finding for all that is wrong with them. `known_vips`: names of all VIPs, the wrong ones too."""
    by_name = {entry.value.name: entry.value for entry in vips}
    for entry in pools:
        probe = entry.value.probe
        if probe is not None:
            _check_vip(entry, probe, by_name, known_vips, findings)
            _check_source(entry, probe, [vip.value for vip in vips], [node.value for node in nodes], findings)
            _check_request(entry, probe, findings)
            _check_times(entry, probe, findings)


def probe_of(pool: PoolEntry, vips: Iterable[VipEntry]) -> Probe | None:
    """The pool's probe, with the VIP that it asks. None if it has none, or no VIP that could be asked."""
    if pool.probe is None:
        return None
    if pool.probe.vip is not None:
        return pool.probe
    mine = (vip for vip in vips if vip.pool == pool.name and _is_plain(vip))
    first = min(mine, key=lambda vip: (vip.address.version, vip.name), default=None)
    return pool.probe.model_copy(update={"vip": first.name}) if first is not None else None


def _is_plain(vip: VipEntry) -> bool:
    first, last = vip.ports
    return vip.protocol is Protocol.TCP and vip.address.num_addresses == 1 and first == last


def _check_vip(
    entry: Placed[PoolEntry], probe: Probe, by_name: dict[str, VipEntry], known_vips: set[str], findings: Findings
) -> None:
    pool = entry.value.name
    place = entry.place.at("probe", "vip")
    if probe.vip is None:
        if probe.kind is not ProbeKind.TCP and probe_of(entry.value, by_name.values()) is None:
            findings.add(
                "no_vip_to_probe",
                entry.place.at("probe"),
                f"pool {pool} has no TCP VIP of one address and one port, which probes would ask",
                "name a TCP VIP of the pool: `vip:`; a block is asked at its first address and port",
            )
        return
    vip = by_name.get(probe.vip)
    if probe.vip not in known_vips:
        findings.add("unknown_vip", place, f"there is no VIP {probe.vip}", "name a TCP VIP of this pool")
    elif vip is not None and vip.pool != pool:
        findings.add(
            "wrong_pool", place, f"VIP {vip.name} forwards to pool {vip.pool}, not to {pool}", "name a VIP of this pool"
        )
    elif vip is not None and vip.protocol is not Protocol.TCP:
        findings.add(
            "not_applicable", place, f"VIP {vip.name} is UDP, and probes speak TCP", "name a TCP VIP of this pool"
        )


def _check_source(
    entry: Placed[PoolEntry], probe: Probe, vips: Sequence[VipEntry], nodes: Iterable[NodeEntry], findings: Findings
) -> None:
    """Proxies answer L4 nodes' own addresses: those that the configuration names."""
    resolved = probe_of(entry.value, vips)
    vip = next((vip for vip in vips if resolved is not None and vip.name == resolved.vip), None)
    if probe.kind is ProbeKind.TCP or vip is None or vip.address.version != 6:
        return
    for node in nodes:
        if node.kind is NodeKind.L4 and node.address_v6 is None:
            findings.add(
                "missing_field",
                entry.place.at("probe"),
                f"VIP {vip.name} is IPv6, and {node.name} has no address of that family to ask from",
                f"add `address_v6:` to {node.name}, or name an IPv4 VIP: `vip:`",
            )
            return


def _check_request(entry: Placed[PoolEntry], probe: Probe, findings: Findings) -> None:
    if probe.kind is not ProbeKind.TCP:
        return
    for field in ("host", "path", "statuses"):
        if field in probe.model_fields_set:
            findings.add(
                "not_applicable",
                entry.place.at("probe", field),
                "a probe of kind tcp asks for a connection only",
                f"remove `{field}`, or write `kind: http` or `kind: https`",
            )


def _check_times(entry: Placed[PoolEntry], probe: Probe, findings: Findings) -> None:
    """A probe that may take longer than the time to the next would pile up on a member that hangs."""
    for timeout, interval in (("timeout_ms", "interval_ms"), ("reach_timeout_ms", "reach_interval_ms")):
        if getattr(probe, timeout) > getattr(probe, interval):
            findings.add(
                "timeout_too_long",
                entry.place.at("probe", timeout if timeout in probe.model_fields_set else interval),
                f"{timeout} is {getattr(probe, timeout)}, and {interval} is {getattr(probe, interval)}: a member would "
                "be asked again before it has failed to answer",
                f"set {timeout} to {interval} or less",
            )
