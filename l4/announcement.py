"""Which VIPs an L4 node may announce.

A node that draws a VIP's traffic and cannot forward it is worse than one that is silent: the routers would have sent
the traffic to the others. So a VIP is withheld, with a reason to show, unless all that forwarding takes is there.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network

from orchestrator.contract.vip import Vip


@dataclass(frozen=True, slots=True)
class ForwardingConditions:
    """What the kernel holds now, read back from it."""

    is_attached: bool
    interface: str
    owned_rows: Mapping[str, int]
    """Rows that have an owner, by the name of a pool whose table is there."""


def reasons_to_withhold(vips: Iterable[Vip], conditions: ForwardingConditions) -> dict[str, str]:
    """The reason for each VIP that must not be announced, by its name."""
    reasons = {vip.name: _reason(vip, conditions) for vip in vips}
    return {name: reason for name, reason in reasons.items() if reason is not None}


def networks_to_announce(vips: Iterable[Vip], withheld: Mapping[str, str]) -> set[IPv4Network | IPv6Network]:
    """The addresses and blocks of VIPs that are not withheld.

    VIPs that share an address share its route: it is announced as long as one of them can be served. An address within
    a block has a route of its own, which goes when its own VIPs do; the block's route then draws its packets, for those
    of the block's VIPs that it inherits.
    """
    return {vip.network for vip in vips if vip.name not in withheld}


def _reason(vip: Vip, conditions: ForwardingConditions) -> str | None:
    if not conditions.is_attached:
        return f"no XDP program on {conditions.interface}: restart the agent, or look in its log why it was refused"
    rows = conditions.owned_rows.get(vip.pool)
    if rows is None:
        return f"the kernel holds no forwarding table of pool {vip.pool}"
    if rows == 0:
        return f"pool {vip.pool} has no reachable member"
    return None
