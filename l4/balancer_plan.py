"""What a BalancerSnapshot means for an L4 node, worked out and checked before anything is touched."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from l4.bgp import bird_configuration, silent_configuration
from l4.entries import MemberEntry, VipEntry
from l4.forwarding import ForwardingTable, GenerationTables, build_table
from l4.guard_entries import GuardEntries, guard_entries
from l4.snapshot_entries import member_entries, vip_entries
from l4.vip_sets import quic_servers
from orchestrator.contract.snapshot import BalancerSnapshot


@dataclass(frozen=True, slots=True)
class BalancerPlan:
    """Entries of the kernel's maps, and what BIRD is told."""

    snapshot: BalancerSnapshot
    tables: tuple[ForwardingTable, ...]
    vips: tuple[VipEntry, ...]
    members: tuple[MemberEntry, ...]
    guard: GuardEntries
    quic_servers: Mapping[tuple[int, int], int]
    bird_configuration: str = field(repr=False)
    """It may hold passwords."""


def plan_for(snapshot: BalancerSnapshot, generations: GenerationTables, bird_log: Path) -> BalancerPlan:
    """Builds the tables: may take a while. Raises ValueError for what cannot be."""
    vips = tuple(vip_entries(snapshot.vips, snapshot.pools))
    return BalancerPlan(
        snapshot=snapshot,
        tables=tuple(build_table(pool, snapshot.forwarding, generations) for pool in snapshot.pools),
        vips=vips,
        members=tuple(member_entries(snapshot.pools)),
        guard=guard_entries(snapshot.guard, snapshot.vips),
        quic_servers=quic_servers(vips, {pool.slot: [m.id for m in pool.members] for pool in snapshot.pools}),
        bird_configuration=(
            bird_configuration(snapshot.bgp, [vip.network for vip in snapshot.vips], bird_log, snapshot.announcement)
            if snapshot.bgp
            else silent_configuration(snapshot.address, bird_log)
        ),
    )
