"""The drain of L4 nodes: active → draining (last resort, then withdrawn) → drained → active. Pure functions.

No flow is an L4 node's own: every other one forwards it alike. So nothing is counted here; routers are to take other
ways before this one ends.

1. Starting is refused if a VIP that the nodes announce would be announced by nobody else (`announcers.left_dark`),
   unless the operator says that it may go dark.
2. First the node's routes become a last resort (`Announcement.SOFT`). Routers move to others while this way still
   works, so that no packet meets a router that has no way at all.
3. They are withdrawn when routers have moved, which is when the node forwards nothing for a while; or when they have
   had time enough, for some routers look at none of what makes a route a last resort. Not while that left a VIP
   dark: the others may have failed since the drain began.
4. Drained is a node that has withdrawn its routes, as it says itself, and forwards nothing. Until then and after it
   forwards whatever comes.
5. Cancel and undrain have it announce as ever, at any moment. All of it is in the fleet's document, so that it goes on
   where it was when the orchestrator comes back.
"""

from collections.abc import Collection, Iterable
from typing import TypeVar

from orchestrator.config.configuration import Configuration, ConfiguredNode
from orchestrator.contract.node import AgentRole, Announcement, L4DrainPhase, NodeKind
from orchestrator.contract.operator import LAST_ANNOUNCER
from orchestrator.fleet.announcers import left_dark
from orchestrator.fleet.document import FleetRefused, FleetState, L4Drain
from orchestrator.fleet.holds import Condition, Holds
from orchestrator.fleet.reports import ReportBoard

T = TypeVar("T")

#: Seconds without a packet after which routers have moved to others: as long as a SYN waits until it is sent again
#: the second time (RFC 6298 section 5.5: 1 and 2 s), so that hardly a flow that still came here is silent by chance.
MOVED_S = 3.0
#: Seconds that routers are given to move. RFC 8326 section 4 leaves it to the operator; BGP's own advertisement
#: interval is 30 s at most (RFC 4271 section 10), after which every router has heard.
MOVING_S = 30.0
#: Seconds without a packet after the withdrawal: two reports, so that what was on its way has been counted.
QUIET_S = 2.0

#: How each phase announces.
_ANNOUNCEMENTS = {
    L4DrainPhase.SOFT: Announcement.SOFT,
    L4DrainPhase.WITHDRAWN: Announcement.NONE,
    L4DrainPhase.QUIET: Announcement.NONE,
}


def l4_node(configuration: Configuration, name: str) -> ConfiguredNode | None:
    """The L4 node of this name; None if there is none, or it is a proxy."""
    node = configuration.node(name)
    return node if node is not None and node.kind is NodeKind.L4 else None


def l4_nodes_of_site(configuration: Configuration, site: str) -> tuple[str, ...]:
    """Names, sorted. Raises FleetRefused: not_found."""
    names = tuple(node.name for node in configuration.nodes if node.kind is NodeKind.L4 and node.site == site)
    if not names:
        raise FleetRefused("not_found", f"there is no site {site} with an L4 node", "`edgectl get nodes` shows them")
    return names


def announcement_of(fleet: FleetState, name: str) -> Announcement:
    """How the node is to announce its VIPs."""
    drain = fleet.l4_drains.get(name)
    return Announcement.NORMAL if drain is None else _ANNOUNCEMENTS[drain.phase]


def start(
    fleet: FleetState,
    configuration: Configuration,
    board: ReportBoard,
    names: Collection[str],
    *,
    now: float,
    deadline_s: float | None = None,
    go_dark: bool = False,
) -> FleetState:
    """Begin to drain these L4 nodes, or change the deadline of drains that run. `now` is Unix time.

    Raises FleetRefused: not_supported (a node that speaks no BGP), last_announcer.
    """
    fresh = tuple(name for name in names if name not in fleet.l4_drains)
    for name in fresh:
        node = configuration.node(name)
        if node is None or node.bgp is None:
            raise FleetRefused(
                "not_supported",
                f"{name} speaks no BGP, so that there is nothing to withdraw",
                "take the routes to it off its routers, and look with `edgectl status` whether it still forwards",
            )
    if fresh and not go_dark:
        _guard(fleet, configuration, board, fresh)
    deadline_at = None if deadline_s is None else now + deadline_s
    drains = dict(fleet.l4_drains)
    for name in names:
        drain = drains.get(name)
        if drain is None:
            drains[name] = L4Drain(started_at=now, deadline_at=deadline_at, go_dark=go_dark)
        elif drain.phase is not L4DrainPhase.QUIET:
            changed = {"deadline_at": deadline_at or drain.deadline_at, "go_dark": drain.go_dark or go_dark}
            drains[name] = drain.model_copy(update=changed)
    return fleet.model_copy(update={"l4_drains": drains, "announce_anyway": _without(fleet.announce_anyway, names)})


def cancel(fleet: FleetState, names: Collection[str]) -> FleetState:
    """Those that drain are active again. Raises FleetRefused: not_draining."""
    draining = [name for name in names if name in fleet.l4_drains and not _is_drained(fleet, name)]
    if not draining:
        drained = [name for name in names if name in fleet.l4_drains]
        raise FleetRefused(
            "not_draining",
            f"{', '.join(names)}: {'drained' if drained else 'active'}, so there is no drain to cancel",
            f"edgectl undrain {drained[0]}" if drained else "nothing is to be done",
        )
    return fleet.model_copy(update={"l4_drains": _without(fleet.l4_drains, draining)})


def undrain(fleet: FleetState, names: Collection[str]) -> FleetState:
    """Those that are drained or drain are active again. Raises FleetRefused: not_drained."""
    if not any(name in fleet.l4_drains for name in names):
        raise FleetRefused("not_drained", f"{', '.join(names)}: active already", "nothing is to be done")
    return fleet.model_copy(update={"l4_drains": _without(fleet.l4_drains, names)})


def advance(
    fleet: FleetState, configuration: Configuration, board: ReportBoard, holds: Holds, *, wall: float
) -> FleetState:
    """The drains a moment later. `wall` is Unix time; the board's clock measures the holds, which are changed."""
    now = board.monotonic()
    conditions = {name: _quiet(board, name, drain) for name, drain in fleet.l4_drains.items()}
    holds.update({condition for condition in conditions.values() if condition is not None}, now)
    drains = {}
    for name, drain in fleet.l4_drains.items():
        if l4_node(configuration, name) is None:
            continue  # it has left the configuration, and its drain with it
        condition = conditions[name]
        quiet_s = holds.held_for(condition, now) if condition is not None else 0.0
        drains[name] = _advanced(drain, quiet_s, wall)
        if drains[name].phase is L4DrainPhase.WITHDRAWN and _is_needed(fleet, configuration, board, name):
            drains[name] = drain
    return fleet if drains == fleet.l4_drains else fleet.model_copy(update={"l4_drains": drains})


def obstacles(fleet: FleetState, configuration: Configuration, board: ReportBoard, name: str) -> tuple[str, ...]:
    """Why a draining node is not drained yet, or why an active one does not announce yet, in words."""
    drain = fleet.l4_drains.get(name)
    wanted = announcement_of(fleet, name)
    status = board.balancer(name)
    if drain is not None and drain.phase is L4DrainPhase.QUIET:
        return ()
    if status is None:
        return (board.silence_in_words(name, AgentRole.BALANCER),) if drain is not None else ()
    if status.announcement is not wanted:
        return (f"BIRD on {name} does not run as told yet: it announces {_IN_WORDS[status.announcement]}",)
    if drain is None:
        return ()
    if _is_needed(fleet, configuration, board, name):
        dark = left_dark(fleet, configuration, board, (name,))
        return tuple(f"nobody else announces {vip}: {'; '.join(reasons)}" for vip, reasons in dark.items())
    rate = board.packets_per_s(name)
    return (f"{rate:.0f} packets/s still come" if rate else f"no packet may come to {name} for some seconds",)


_IN_WORDS = {
    Announcement.NORMAL: "as ever",
    Announcement.SOFT: "as a last resort",
    Announcement.NONE: "nothing",
}


def _quiet(board: ReportBoard, name: str, drain: L4Drain) -> Condition | None:
    """What must hold for a while: the node announces as its phase asks, and forwards no packet more."""
    status = board.balancer(name)
    if status is None or status.announcement is not _ANNOUNCEMENTS[drain.phase]:
        return None
    return "quiet", name, drain.phase, str(status.forwarded)


def _is_needed(fleet: FleetState, configuration: Configuration, board: ReportBoard, name: str) -> bool:
    """Whether its routes are a last resort that a VIP may come to need."""
    drain = fleet.l4_drains[name]
    return (
        drain.phase is L4DrainPhase.SOFT and not drain.go_dark and bool(left_dark(fleet, configuration, board, (name,)))
    )


def _advanced(drain: L4Drain, quiet_s: float, wall: float) -> L4Drain:
    if drain.phase is L4DrainPhase.SOFT and (quiet_s >= MOVED_S or wall - drain.started_at >= MOVING_S):
        return drain.model_copy(update={"phase": L4DrainPhase.WITHDRAWN})
    if drain.phase is L4DrainPhase.WITHDRAWN and quiet_s >= QUIET_S:
        return drain.model_copy(update={"phase": L4DrainPhase.QUIET, "drained_at": wall})
    return drain


def _guard(fleet: FleetState, configuration: Configuration, board: ReportBoard, leaving: tuple[str, ...]) -> None:
    dark = left_dark(fleet, configuration, board, leaving)
    if not dark:
        return
    others = tuple(dict.fromkeys(reason for reasons in dark.values() for reason in reasons))
    raise FleetRefused(
        LAST_ANNOUNCER,
        f"without {_joined(leaving)} nobody would announce {_joined(dark)}: "
        f"{'; '.join(others) if others else 'there is no other L4 node for them'}",
        "bring another L4 node to announce them first, or say --go-dark if nobody needs them now",
    )


def _is_drained(fleet: FleetState, name: str) -> bool:
    return fleet.l4_drains[name].phase is L4DrainPhase.QUIET


def _without(entries: dict[str, T], names: Collection[str]) -> dict[str, T]:
    return {name: entry for name, entry in entries.items() if name not in names}


def _joined(names: Iterable[str]) -> str:
    return ", ".join(names)
