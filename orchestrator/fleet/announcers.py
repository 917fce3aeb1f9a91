"""Who announces which VIP, by the L4 nodes' reports, and who must not stop. Pure functions.

An L4 node withdraws a VIP that it cannot serve; the routers then take the others. The last one must not: traffic that
is served badly is worth more than a VIP that is nowhere. Only the orchestrator sees which one is the last. It names
that node's VIPs in its snapshot (`BalancerSnapshot.announce_anyway`), before anything has failed; the node
then needs nobody to tell it.

Nothing is concluded from silence at the start: until every L4 node has reported, or had the time to, what was named
before stays named.
"""

from collections.abc import Collection, Iterator

from orchestrator.config.configuration import Configuration, ConfiguredVip
from orchestrator.contract.node import AgentRole, Announcement, NodeKind
from orchestrator.fleet.document import FleetState
from orchestrator.fleet.holds import Condition, Holds
from orchestrator.fleet.reports import ReportBoard

#: Seconds for which a node must be the only announcer before it is named: a node whose agent restarts, or whose VIPs
#: come and go, makes no revision.
ALONE_S = 2.0
#: Seconds for which it must not be alone before it is named no more. Longer: to be named too long costs nothing.
NOT_ALONE_S = 10.0


def announcers(fleet: FleetState, configuration: Configuration, board: ReportBoard) -> dict[str, tuple[str, ...]]:
    """VIP → L4 nodes that announce it now and go on doing so, by reports that are fresh: none that drains."""
    staying = {
        node.name: status
        for node in configuration.nodes
        if node.kind is NodeKind.L4
        and node.name not in fleet.l4_drains
        and (status := board.balancer(node.name)) is not None
        and status.announcement is not Announcement.NONE
    }
    return {
        vip.name: tuple(name for name, status in staying.items() if vip.name in status.announced)
        for vip in configuration.vips
    }


def left_dark(
    fleet: FleetState, configuration: Configuration, board: ReportBoard, leaving: Collection[str]
) -> dict[str, tuple[str, ...]]:
    """VIP that nobody would announce without these nodes → each other node that might, and why it does not, in words.

    A node that leaves and has not reported is taken to announce all of its VIPs.
    """
    present = announcers(fleet, configuration, board)
    found = {}
    for vip in configuration.vips:
        goes = any(
            vip.name in status.announced if (status := board.balancer(node.name)) is not None else True
            for node in configuration.nodes
            if node.kind is NodeKind.L4 and node.name in leaving and vip.is_of(node.site)
        )
        if goes and not set(present[vip.name]) - set(leaving):
            found[vip.name] = tuple(_why_not(fleet, configuration, board, vip, leaving))
    return found


def advance(fleet: FleetState, configuration: Configuration, board: ReportBoard, holds: Holds) -> FleetState:
    """Names who is alone, and no more who is not, when that has been so for a while. Changes `holds`."""
    now = board.monotonic()
    if not _is_known(fleet, configuration, board):
        holds.update(set(), now)
        return fleet
    present = announcers(fleet, configuration, board)
    alone = {(names[0], vip) for vip, names in present.items() if len(names) == 1}
    named = {(node, vip) for node, vips in fleet.announce_anyway.items() for vip in vips}
    holds.update({_condition(node, vip, named) for node, vip in alone ^ named}, now)

    def is_over(node: str, vip: str) -> bool:
        longest_s = NOT_ALONE_S if (node, vip) in named else ALONE_S
        return holds.held_for(_condition(node, vip, named), now) >= longest_s

    changed = {(node, vip) for node, vip in alone ^ named if is_over(node, vip)}
    if not changed:
        return fleet
    by_node: dict[str, list[str]] = {}
    for node, vip in sorted(named ^ changed):
        by_node.setdefault(node, []).append(vip)
    return fleet.model_copy(update={"announce_anyway": {node: tuple(vips) for node, vips in by_node.items()}})


def _is_known(fleet: FleetState, configuration: Configuration, board: ReportBoard) -> bool:
    """Whether every node that could announce has reported, or had the time to; and not all of them are silent."""
    nodes = [n.name for n in configuration.nodes if n.kind is NodeKind.L4 and n.name not in fleet.l4_drains]
    fresh = [name for name in nodes if board.balancer(name) is not None]
    return bool(fresh) and all(name in fresh or board.is_silent(name, AgentRole.BALANCER) for name in nodes)


def _condition(node: str, vip: str, named: set[tuple[str, str]]) -> Condition:
    return "named in vain" if (node, vip) in named else "alone", node, vip


def _why_not(
    fleet: FleetState, configuration: Configuration, board: ReportBoard, vip: ConfiguredVip, leaving: Collection[str]
) -> Iterator[str]:
    for node in configuration.nodes:
        if node.kind is not NodeKind.L4 or node.name in leaving or not vip.is_of(node.site):
            continue
        status = board.balancer(node.name)
        if node.name in fleet.l4_drains:
            yield f"{node.name} is drained, or about to be"
        elif status is None:
            yield board.silence_in_words(node.name, AgentRole.BALANCER)
        else:
            why = status.withheld.get(vip.name, "it does not know it yet")
            yield f"{node.name} does not announce {vip.name}: {why}"
