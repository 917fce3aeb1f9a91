"""What no node can tell by itself: silent agents, old revisions, wrong clocks, nodes that differ. Pure functions."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from orchestrator.contract.checkup import CheckResult, CheckupAnswer, Severity
from orchestrator.contract.node import AgentRole
from orchestrator.contract.operator import AgentView, NodeView, StatusView, TableView
from orchestrator.contract.pool import MemberState

#: Seconds by which a node's clock may be off: what NTP holds without effort is milliseconds, so two seconds are not
#: kept at all; half a minute is where entries that end by themselves and logs of several hosts mislead.
CLOCK_WARNING_S: Final = 2.0
CLOCK_FAILURE_S: Final = 30.0

#: Node → its results.
Results = dict[str, list[CheckResult]]


@dataclass(frozen=True, slots=True)
class Answered:
    """A node's answer, and when it was asked and answered by the clock of whoever asked (Unix time)."""

    answer: CheckupAnswer
    asked_at: float
    answered_at: float


@dataclass(frozen=True, slots=True)
class Clock:
    """The clock of whoever asks, compared with the orchestrator's."""

    before: float
    now: float
    """The orchestrator's, at some moment between `before` and `after`."""
    after: float

    def deviation_s(self, answered: Answered) -> tuple[float, float]:
        """The least and the most by which a node's clock is ahead of the orchestrator's: ways there and back count."""
        wall, took_s = answered.answer.wall, answered.answer.took_s
        least = wall - answered.answered_at + self.before - self.now
        most = wall - (answered.asked_at + took_s) + self.after - self.now
        return least, most


def agents(status: StatusView, node: NodeView, silent: Mapping[AgentRole, str]) -> Iterator[CheckResult]:
    """Of one node: agents that are silent, behind, or refuse. `silent` tells why those that were asked did not answer.

    Of an agent that reports and runs the present revision there is one result, which is fine.
    """
    for agent in node.agents:
        problems = [*_silence(node, agent, silent.get(agent.role)), *_revision(status, node, agent)]
        yield from problems
        if not problems:
            yield _fine("agent", "agent", f"{agent.role} reports, and runs revision {agent.applied_version}")
    if not node.agents:
        yield _finding(
            "agent_silent",
            "agent",
            seen=f"no agent of {node.name} has ever joined",
            expected="agents that report",
            why="this node does nothing",
            advice=f"`edgectl token {node.name} ROLE`, and start its agents with it",
        )


def _silence(node: NodeView, agent: AgentView, unanswered: str | None) -> Iterator[CheckResult]:
    age = "since this orchestrator started" if agent.report_age_s is None else f"for {agent.report_age_s:.0f} s"
    if agent.connected and unanswered is None:
        return
    if agent.connected:
        seen = f"{agent.role} reports, and does not answer: {unanswered}"
    else:
        seen = f"{agent.role} has not reported {age}" + (f"; {unanswered}" if unanswered else "")
    if agent.role is AgentRole.PROXY:
        look = "see whether edge-l7 runs there, and its log"
    else:
        look = (
            f"there, run `edge-l4 doctor --interface NAME --state DIR` (NAME and DIR as the {agent.role} is started "
            "with): it looks at the host without the agent"
        )
    yield _finding(
        "agent_silent",
        "agent",
        seen=seen,
        expected="a report each second",
        why="traffic flows on by the node's last state, and no change reaches it; what breaks there, nobody mends",
        advice=f"on {node.name}: {look}",
    )


def _revision(status: StatusView, node: NodeView, agent: AgentView) -> Iterator[CheckResult]:
    if agent.nack is not None:
        yield _finding(
            "snapshot_refused",
            "revision",
            seen=f"{agent.role} refused revision {agent.nack.version}: {agent.nack.reason}",
            expected=f"revision {status.revision} in service",
            why="it runs on with the revision before; tables of L4 nodes may differ, so that flows lose their owner",
            advice=f"remove what stands in its way on {node.name}: it tries again by itself",
        )
    elif not agent.up_to_date:
        runs = "none" if agent.applied_version is None else f"{agent.applied_version}"
        yield _finding(
            "stale_snapshot",
            "revision",
            seen=f"{agent.role} runs revision {runs}, the fleet is at {status.revision}",
            expected=f"revision {status.revision}",
            why="it does not know the newest changes; tables of L4 nodes may differ, so that flows lose their owner",
            advice=f"see whether the {agent.role} of {node.name} reaches the orchestrator, and its log",
        )


def clock(compared: Clock, answered: Answered) -> CheckResult:
    """Whether a node's clock is the orchestrator's."""
    least, most = compared.deviation_s(answered)
    certain = max(least, -most, 0.0)
    middle = (least + most) / 2
    words = f"{abs(middle):.1f} s {'ahead' if middle > 0 else 'behind'}, give or take {(most - least) / 2:.1f} s"
    if certain <= CLOCK_WARNING_S:
        return _fine("clock", "clock", words)
    return _finding(
        "clock",
        "clock",
        severity=Severity.FAILURE if certain > CLOCK_FAILURE_S else Severity.WARNING,
        seen=f"{words} of the orchestrator's clock",
        expected="the same time",
        why="certificates count as not valid yet or no more, captures of several nodes are merged in a wrong order, "
        "and logs do not fit together",
        advice="keep it by NTP: `chronyc makestep`, or `timedatectl set-ntp true`; if all nodes are off by the same, "
        "it is the orchestrator's",
    )


def mtus(answers: Mapping[str, Answered]) -> Results:
    """Nodes whose interface takes less than that of most."""
    found = {node: one.answer.mtu for node, one in answers.items() if one.answer.mtu is not None}
    results: Results = {node: [] for node in answers}
    if len(found) < 2:
        return results
    counts = Counter(found.values())
    usual = max(counts, key=lambda mtu: (counts[mtu], mtu))
    for node, mtu in found.items():
        if mtu >= usual:
            continue
        interface = answers[node].answer.interface
        results[node].append(
            _finding(
                "mtu",
                "MTU",
                seen=f"{mtu} on {interface}, and {usual} on {counts[usual]} other nodes",
                expected=f"{usual}",
                why="full-sized packets are worked out from the others' MTU: encapsulated, they do not fit here",
                mend=f"ip link set dev {interface} mtu {usual}",
            )
        )
    return results


def tables(views: Sequence[TableView]) -> Results:
    """L4 nodes that hold another table than most, though they run the same revision and generations."""
    results: Results = {}
    alike: dict[tuple[str, int | None, tuple[int, ...]], list[TableView]] = {}
    for view in views:
        alike.setdefault((view.table.pool, view.applied_version, view.table.generations), []).append(view)
    for group in alike.values():
        counts = Counter(view.table.digest for view in group)
        usual = counts.most_common(1)[0][0]
        for view in group:
            if view.table.digest != usual:
                results.setdefault(view.node, []).append(
                    _finding(
                        "table",
                        "forwarding table",
                        seen=f"the table of pool {view.table.pool} differs from that of {counts[usual]} other L4 nodes",
                        expected=f"digest {usual[:16]}…, not {view.table.digest[:16]}…",
                        why="flows that routers move to this node would go to other members, and break",
                        mend="edge-l4 balancer reload --interface NAME",
                        advice="NAME as the balancer is started with; and keep the logs of both: this must not happen",
                    )
                )
    return results


def vips(status: StatusView, node: NodeView) -> Iterator[CheckResult]:
    """VIPs that an L4 node keeps from routers, with its own words. One that is being drained does so as it was told."""
    if node.state not in (None, MemberState.ACTIVE):
        return
    withheld = {vip.name: vip.withheld_by[node.name] for vip in status.vips if node.name in vip.withheld_by}
    for reason in dict.fromkeys(withheld.values()):
        names = ", ".join(name for name, why in withheld.items() if why == reason)
        yield _finding(
            "vip_withheld",
            "announcement",
            severity=Severity.WARNING,
            seen=f"{names} not announced: {reason}",
            expected="all VIPs announced",
            why="routers send this node nothing for them, and the other L4 nodes carry its share",
            advice="mend what the reason names",
        )
    for vip in status.vips:
        if node.name in vip.announced_despite_by:
            yield _finding(
                "vip_despite",
                "announcement",
                seen=f"{vip.name} announced as the last one, although: {vip.announced_despite_by[node.name]}",
                expected="all that forwarding takes",
                why="no other L4 node announces it, so this one goes on, and may not be able to forward it",
                advice="mend what the reason names",
            )


def unannounced(status: StatusView) -> Iterator[CheckResult]:
    """VIPs that nobody announces."""
    names = [vip.name for vip in status.vips if not vip.announced_by]
    if names:
        yield _finding(
            "vip_dark",
            "announcement",
            seen=f"nobody announces {', '.join(names)}",
            expected="each VIP announced by some L4 node",
            why="clients get no answer at all",
            advice="`edgectl get vips` has each node's reason",
        )


def _fine(identity: str, title: str, seen: str) -> CheckResult:
    return CheckResult(id=identity, title=title, severity=Severity.OK, seen=seen)


def _finding(
    identity: str,
    title: str,
    *,
    seen: str,
    expected: str,
    why: str,
    severity: Severity = Severity.FAILURE,
    mend: str | None = None,
    advice: str | None = None,
) -> CheckResult:
    return CheckResult(
        id=identity,
        title=title,
        severity=severity,
        seen=seen,
        expected=expected,
        why=why,
        mend=mend,
        advice=advice,
    )
