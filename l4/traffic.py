"""What an L4 node's kernel has forwarded and dropped, by the names of VIPs and members."""

from dataclasses import dataclass, field

from l4.balancer_program import BalancerProgram
from orchestrator.contract.snapshot import BalancerSnapshot


@dataclass(frozen=True, slots=True)
class Traffic:
    """Totals since the kernel's maps were made."""

    packets_of_vip: dict[str, int] = field(default_factory=dict)
    octets_of_vip: dict[str, int] = field(default_factory=dict)
    """Of inner IP packets."""
    packets_to_member: dict[str, int] = field(default_factory=dict)
    dropped_of_vip: dict[tuple[str, str], int] = field(default_factory=dict)
    """By VIP, and by the counter that says why."""


def read_traffic(program: BalancerProgram, snapshot: BalancerSnapshot) -> Traffic:
    """Reads the counters of all that the snapshot names."""
    of_vip = program.vip_counters()
    to_member = program.member_counters()
    return Traffic(
        packets_of_vip={vip.name: of_vip.get(vip.id, (0, 0))[0] for vip in snapshot.vips},
        octets_of_vip={vip.name: of_vip.get(vip.id, (0, 0))[1] for vip in snapshot.vips},
        packets_to_member={m.name: to_member.get(m.id, 0) for pool in snapshot.pools for m in pool.members},
        dropped_of_vip={
            (vip, reason): packets
            for vip, by_reason in sorted(read_drops(program, snapshot).items())
            for reason, packets in sorted(by_reason.items())
        },
    )


def read_drops(program: BalancerProgram, snapshot: BalancerSnapshot) -> dict[str, dict[str, int]]:
    """Packets dropped, by VIP and reason, since the kernel's maps were made."""
    name_of_vip = {vip.id: vip.name for vip in snapshot.vips}
    drops: dict[str, dict[str, int]] = {}
    for (vip_id, reason), packets in program.vip_drops().items():
        if vip_id in name_of_vip:
            drops.setdefault(name_of_vip[vip_id], {})[reason] = packets
    return drops
