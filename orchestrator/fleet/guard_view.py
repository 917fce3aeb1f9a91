"""The guard as operators see it: its settings, and what each L4 node has refused."""

from orchestrator.contract.guard import GuardLimits
from orchestrator.contract.node import AgentRole, NodeKind
from orchestrator.contract.operator_guard import GuardOfNode, GuardView
from orchestrator.contract.report import BalancerStatus
from orchestrator.fleet.ledger import Present
from orchestrator.fleet.reports import ReportBoard

#: Counters of the balancer that tell of the guard: reasons to refuse a packet, and what it did besides.
REASONS = ("blocked", "syn_source_limit", "syn_vip_limit", "new_flow_limit")
BESIDES = ("syn_retransmissions", "flows_not_remembered")


def guard_view(present: Present, board: ReportBoard) -> GuardView:
    """Counters as last reported, however long ago: `report_age_s` tells."""
    guard = present.fleet.guard
    return GuardView(
        entries=guard.entries,
        limits=guard.limits,
        defaults=GuardLimits(),
        nodes=tuple(
            _of_node(present, board, node.name) for node in present.configuration.nodes if node.kind is NodeKind.L4
        ),
    )


def _of_node(present: Present, board: ReportBoard, node: str) -> GuardOfNode:
    report = board.last(node, AgentRole.BALANCER)
    status = report.status if report and isinstance(report.status, BalancerStatus) else None
    counters = status.counters if status else {}
    drops = status.drops if status else {}
    by_vip = {
        vip: of_guard
        for vip, by_reason in sorted(drops.items())
        if (of_guard := {reason: by_reason[reason] for reason in REASONS if by_reason.get(reason)})
    }
    return GuardOfNode(
        node=node,
        report_age_s=board.age(node, AgentRole.BALANCER),
        up_to_date=report is not None and report.applied_version == present.fleet.revision,
        counters={name: counters[name] for name in (*REASONS, *BESIDES) if name in counters},
        by_vip=by_vip,
    )
