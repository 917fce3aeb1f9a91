"""Which VIPs an L4 node may announce, and for how long without being asked again.

A node that draws a VIP's traffic and cannot forward it is worse than one that is silent: the routers would have sent
the traffic to the others. So a VIP is withheld, with a reason to show, unless all that forwarding takes is there.

Unless nobody else announces it: then silence would be no better for anyone, and what is wrong may be wrong with the
look only. Such VIPs (`announce_anyway`) are announced whatever the look says, and the reason is shown nevertheless.
A node that is told to announce nothing announces nothing: that is an operator's word, and no condition.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from l4.interface_addresses import Network
from orchestrator.contract.node import Announcement
from orchestrator.contract.snapshot import BalancerSnapshot
from orchestrator.contract.vip import Vip

NOT_IN_SERVICE = "this L4 node is drained: it is told to announce nothing"


@dataclass(frozen=True, slots=True)
class ForwardingConditions:
    """What the kernel holds now, read back from it."""

    is_attached: bool
    interface: str
    owned_rows: Mapping[str, int]
    """Rows that have an owner, by the name of a pool whose table is there."""
    pools_with_live_members: frozenset[str]
    """Those of which the kernel holds at least one member, of those that a live generation knows, to be live."""


@dataclass(frozen=True, slots=True)
class Decision:
    """What an L4 node announces."""

    networks: Mapping[Network, int | None]
    """Addresses and blocks that belong on `lo`, with the seconds until the kernel takes them off if nobody renews
    them; None: never."""
    withheld: Mapping[str, str]
    """Why a VIP is not announced, by its name."""
    despite: Mapping[str, str]
    """What should keep a VIP from being announced that is announced nevertheless, by its name."""


def decide(snapshot: BalancerSnapshot, conditions: ForwardingConditions) -> Decision:
    """What to announce under these conditions.

    VIPs that share an address share its route: it is announced as long as one of them can be served, and for ever if
    one of them is to be. An address within a block has a route of its own, which goes when its own VIPs do; the block's
    route then draws its packets, for those of the block's VIPs that it inherits.
    """
    if snapshot.announcement is Announcement.NONE:
        return Decision({}, {vip.name: NOT_IN_SERVICE for vip in snapshot.vips}, {})
    reasons = _reasons(snapshot.vips, conditions)
    anyway = frozenset(snapshot.announce_anyway)
    networks: dict[Network, int | None] = {}
    for vip in snapshot.vips:
        if vip.name in anyway:
            networks[vip.network] = None
        elif vip.name not in reasons:
            networks.setdefault(vip.network, snapshot.dead_man_s)
    return Decision(
        networks=networks,
        withheld={name: reason for name, reason in reasons.items() if name not in anyway},
        despite={name: reason for name, reason in reasons.items() if name in anyway},
    )


def _reasons(vips: Iterable[Vip], conditions: ForwardingConditions) -> dict[str, str]:
    reasons = {vip.name: _reason(vip, conditions) for vip in vips}
    return {name: reason for name, reason in reasons.items() if reason is not None}


def _reason(vip: Vip, conditions: ForwardingConditions) -> str | None:
    if not conditions.is_attached:
        return f"no balancer on {conditions.interface}: the agent's log says why it cannot be attached"
    rows = conditions.owned_rows.get(vip.pool)
    if rows is None:
        return f"the kernel holds no forwarding table of pool {vip.pool}"
    if rows == 0:
        return f"pool {vip.pool} has no reachable member"
    if vip.pool not in conditions.pools_with_live_members:
        return f"no member of pool {vip.pool} answers this node's probes"
    return None
