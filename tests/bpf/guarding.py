"""A balancer whose every packet finds a member, so that only the guard decides."""

import struct
from ipaddress import IPv4Address
from typing import Any

from l4.balancer_program import BalancerProgram
from l4.entries import MemberEntry
from tests.bpf.packets import FLOWS, host_vip, node_settings

MEMBER = 11
VIP_IDS = {family: number for number, family in enumerate(FLOWS, start=1)}


def serve_all(balancer: BalancerProgram, **vip_options: Any) -> None:
    """VIPs of both families, one member that owns every row, and a guard that asks its lists."""
    balancer.set_settings(node_settings(balancer.rows, lists_ipv4=True, lists_ipv6=True))
    balancer.set_members([MemberEntry(MEMBER, IPv4Address("198.18.0.11"), live=True)])
    balancer.swap_table(0, struct.pack("=4H", MEMBER, 0, 0, 0) * balancer.rows)
    balancer.set_vips(
        [host_vip(ends.vip, ends.vip_port, VIP_IDS[family], 0, **vip_options) for family, ends in FLOWS.items()]
    )


def counted(before: dict[str, int], after: dict[str, int]) -> dict[str, int]:
    """The counters that changed, and by how much."""
    return {name: after[name] - before[name] for name in after if after[name] != before[name]}


def refused(balancer: BalancerProgram, family: str, reason: str) -> int:
    """Packets to the family's VIP that the guard refused for this reason."""
    return balancer.vip_drops().get((VIP_IDS[family], reason), 0)
