"""Where a drain stands, in words."""

from orchestrator.cli.drawings import L4_PHASES, flows
from orchestrator.contract.node import NodeKind
from orchestrator.contract.operator import DrainView
from orchestrator.contract.pool import MemberState


def seconds_taken(view: DrainView) -> float | None:
    """How long the drain took; None while it goes on."""
    if view.started_at is None or view.drained_at is None:
        return None
    return round(view.drained_at - view.started_at, 3)


def in_words(view: DrainView) -> str:
    """Where a drain stands, in one line."""
    taken = seconds_taken(view)
    after = f" after {taken:.1f} s" if taken is not None else ""
    waits = "; ".join(view.blocked_by)
    return _l4_node(view, after, waits) if view.kind is NodeKind.L4 else _proxy(view, after, waits)


def packets(view: DrainView) -> str:
    """How many an L4 node forwards."""
    return "packets/s not known" if view.packets_per_s is None else f"{view.packets_per_s:.0f} packets/s"


def left_over(view: DrainView) -> str:
    """What keeps a drain that is late from its end."""
    if view.kind is NodeKind.L4:
        return f"{packets(view)} come still"
    return f"{view.flows_open} flows are open still" if view.flows_open is not None else "flows are open still"


def _proxy(view: DrainView, after: str, waits: str) -> str:
    match view.state:
        case MemberState.JOINING:
            until = f" ({waits})" if waits else ""
            return f"{view.node} is joining: it takes new flows as soon as its agents are ready{until}"
        case MemberState.ACTIVE:
            return f"{view.node} is active: it takes new flows"
        case MemberState.DRAINED:
            start = f"; {view.flows_at_start} flows were open at the start" if view.flows_at_start is not None else ""
            unseen = f"; flows of {', '.join(view.uncounted)} cannot be counted" if view.uncounted else ""
            return f"{view.node} is drained{after}{start}{unseen}"
        case MemberState.DRAINING:
            since = f"; not drained, since {waits}" if waits else ""
            return f"{view.node} is draining: {flows(view)} flows open{since}"


def _l4_node(view: DrainView, after: str, waits: str) -> str:
    phase = L4_PHASES[view.phase] if view.phase is not None else ""
    match view.state:
        case MemberState.JOINING:
            return f"{view.node} is joining: it announces its VIPs as soon as its agent has been told ({waits})"
        case MemberState.ACTIVE:
            return f"{view.node} is active: it announces its VIPs"
        case MemberState.DRAINED:
            return f"{view.node} is drained{after}: {phase}"
        case MemberState.DRAINING:
            since = f"; not drained, since {waits}" if waits else ""
            return f"{view.node} is draining: {phase}, {packets(view)}{since}"
