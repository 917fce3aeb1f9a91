"""Drains of L4 nodes as operators see them."""

from orchestrator.contract.node import Announcement, L4DrainPhase, NodeKind
from orchestrator.contract.operator import DrainView
from orchestrator.contract.pool import MemberState
from orchestrator.fleet.l4_drain import obstacles
from orchestrator.fleet.ledger import Present
from orchestrator.fleet.reports import ReportBoard


def l4_drain_view(present: Present, board: ReportBoard, wall: float, name: str) -> DrainView:
    drain = present.fleet.l4_drains.get(name)
    state = l4_state(present, board, name)
    deadline_at = drain.deadline_at if drain else None
    return DrainView(
        node=name,
        kind=NodeKind.L4,
        state=state,
        started_at=drain.started_at if drain else None,
        deadline_at=deadline_at,
        overdue=state is MemberState.DRAINING and deadline_at is not None and deadline_at <= wall,
        force=False,
        drained_at=drain.drained_at if drain else None,
        flows_at_start=None,
        flows_open=None,
        by_protocol={},
        blocked_by=obstacles(present.fleet, present.configuration, board, name),
        phase=drain.phase if drain else None,
        go_dark=drain is not None and drain.go_dark,
        packets_per_s=board.packets_per_s(name),
    )


def l4_drain_views(present: Present, board: ReportBoard, wall: float) -> tuple[DrainView, ...]:
    """Of all that are not active."""
    return tuple(l4_drain_view(present, board, wall, name) for name in present.fleet.l4_drains)


def l4_state(present: Present, board: ReportBoard, name: str) -> MemberState:
    """Joining is one that was drained and does not announce as ever yet."""
    drain = present.fleet.l4_drains.get(name)
    if drain is not None:
        return MemberState.DRAINED if drain.phase is L4DrainPhase.QUIET else MemberState.DRAINING
    status = board.balancer(name)
    announces = status is None or status.announcement is Announcement.NORMAL
    return MemberState.ACTIVE if announces else MemberState.JOINING
