"""Whom to probe, and how, by a snapshot."""

from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

from l4.entries import EncapsulationKind
from l4.probes.mark import probe_mark
from orchestrator.contract.pool import Encapsulation, Probe
from orchestrator.contract.snapshot import BalancerSnapshot

_KINDS = {
    Encapsulation.GUE: EncapsulationKind.GUE,
    Encapsulation.IPIP: EncapsulationKind.IPIP,
    Encapsulation.L2: EncapsulationKind.L2,
}


@dataclass(frozen=True, slots=True)
class Target:
    """A member, at a VIP of one of its pools."""

    pool: str
    member_id: int
    address: IPv4Address | IPv6Address
    """The VIP's."""
    port: int
    source: IPv4Address | IPv6Address | None
    """This node's own address. None: the kernel's choice."""
    mark: int
    probe: Probe


def targets(snapshot: BalancerSnapshot) -> Iterator[Target]:
    """All members that the snapshot names, of all pools with a probe: who drains or joins is probed as well, because
    owner chains name whoever may be reached.
    """
    vips = {vip.name: vip for vip in snapshot.vips}
    for pool in snapshot.pools:
        vip = vips.get(pool.probe.vip or "") if pool.probe is not None else None
        if pool.probe is None or vip is None:
            continue
        for member in pool.members:
            yield Target(
                pool=pool.name,
                member_id=member.id,
                address=vip.address,
                port=vip.port,
                source=snapshot.address if vip.address.version == 4 else snapshot.address_v6,
                mark=probe_mark(member.id, _KINDS[pool.encapsulation]),
                probe=pool.probe,
            )
