"""The newest report of each agent, in memory. An orchestrator that starts knows nothing until they come in again."""

from collections.abc import Callable
from dataclasses import dataclass, field

from orchestrator.contract.node import AgentIdentity, AgentRole
from orchestrator.contract.report import BalancerStatus, PoolCensus, ProxyStatus, RedirectorStatus, Report

#: Seconds over which packets are counted for a rate, at least: agents also report at once after a change.
RATE_S = 0.9

#: Seconds for which a report counts. Agents report every second: this is four lost in a row.
FRESH_S = 5.0


@dataclass(frozen=True, slots=True)
class Received:
    """A report, and when it came (monotonic seconds)."""

    report: Report
    at: float
    new_flows_at: float
    """When a redirector last reported more new flows than before; when it was first heard, if it never did."""
    packets: tuple[int, float] = (0, 0.0)
    """How many a balancer had forwarded when the time for a rate began, and when that was."""
    packets_per_s: float | None = None
    """Over the last such time that is over."""


@dataclass(slots=True)
class ReportBoard:
    """`monotonic` gives seconds that only grow; injected, so that tests can step it."""

    monotonic: Callable[[], float]
    started_at: float = field(init=False)
    received: dict[AgentIdentity, Received] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.started_at = self.monotonic()

    def __repr__(self) -> str:
        return f"ReportBoard({len(self.received)} agents)"

    def take(self, identity: AgentIdentity, report: Report) -> None:
        now = self.monotonic()
        before = self.received.get(identity)
        grew = before is not None and _new_flows(report) != _new_flows(before.report)
        packets, rate = _rate(before, report, now)
        new_flows_at = now if before is None or grew else before.new_flows_at
        self.received[identity] = Received(report, now, new_flows_at, packets, rate)

    def keep_only(self, identities: set[AgentIdentity]) -> None:
        """Forget agents that the fleet no longer knows: bounds the board."""
        for identity in self.received.keys() - identities:
            del self.received[identity]

    def last(self, node: str, role: AgentRole) -> Report | None:
        """The newest report, however old."""
        received = self.received.get(AgentIdentity(node=node, role=role))
        return received.report if received else None

    def fresh(self, node: str, role: AgentRole) -> Report | None:
        """The newest report, if it still counts."""
        age = self.age(node, role)
        return self.last(node, role) if age is not None and age <= FRESH_S else None

    def age(self, node: str, role: AgentRole) -> float | None:
        """Seconds since the newest report; None if there is none."""
        received = self.received.get(AgentIdentity(node=node, role=role))
        return self.monotonic() - received.at if received else None

    def is_silent(self, node: str, role: AgentRole) -> bool:
        """Whether the agent had time to report lately, and did not. False just after the orchestrator's start."""
        age = self.age(node, role)
        return (self.monotonic() - self.started_at if age is None else age) > FRESH_S

    def silence_in_words(self, node: str, role: AgentRole) -> str:
        """For messages: "the redirector of proxy-1 has not reported for 12 s"."""
        age = self.age(node, role)
        since = "since this orchestrator started" if age is None else f"for {age:.0f} s"
        return f"the {role} of {node} has not reported {since}"

    def census(self, node: str, pool: str, *, fresh: bool) -> PoolCensus | None:
        """A redirector's count for one pool."""
        report = (self.fresh if fresh else self.last)(node, AgentRole.REDIRECTOR)
        if report is None or not isinstance(report.status, RedirectorStatus):
            return None
        return next((census for census in report.status.census if census.pool == pool), None)

    def proxy(self, node: str) -> ProxyStatus | None:
        """A proxy's own count, if fresh."""
        report = self.fresh(node, AgentRole.PROXY)
        return report.status if report and isinstance(report.status, ProxyStatus) else None

    def redirector(self, node: str) -> RedirectorStatus | None:
        """A redirector's state, if fresh."""
        report = self.fresh(node, AgentRole.REDIRECTOR)
        return report.status if report and isinstance(report.status, RedirectorStatus) else None

    def balancer(self, node: str) -> BalancerStatus | None:
        """A balancer's state, if fresh."""
        report = self.fresh(node, AgentRole.BALANCER)
        return report.status if report and isinstance(report.status, BalancerStatus) else None

    def quiet_for(self, node: str) -> float:
        """Seconds for which no L4 node has given this host a new flow, as far as its redirector has reported."""
        received = self.received.get(AgentIdentity(node=node, role=AgentRole.REDIRECTOR))
        return received.at - received.new_flows_at if received else 0.0

    def packets_per_s(self, node: str) -> float | None:
        """That an L4 node forwards; None without a fresh report, and until there are two."""
        if self.balancer(node) is None:
            return None
        return self.received[AgentIdentity(node=node, role=AgentRole.BALANCER)].packets_per_s

    def flows_open(self, node: str) -> int | None:
        """The larger of what the proxy and its redirector count; None while neither has reported lately."""
        counts = []
        proxy = self.proxy(node)
        if proxy is not None:
            counts.append(sum(proxy.open_flows.values()))
        redirector = self.redirector(node)
        if redirector is not None:
            counts.append(sum(census.flows for census in redirector.census))
        return max(counts, default=None)


def _new_flows(report: Report) -> int:
    return report.status.new_flows if isinstance(report.status, RedirectorStatus) else 0


def _rate(before: Received | None, report: Report, now: float) -> tuple[tuple[int, float], float | None]:
    """`Received.packets` and `packets_per_s`."""
    forwarded = report.status.forwarded if isinstance(report.status, BalancerStatus) else 0
    if before is None:
        return (forwarded, now), None
    counted, since = before.packets
    if now - since < RATE_S:
        return before.packets, before.packets_per_s
    # Fewer than before: the maps were made anew.
    return (forwarded, now), max(0, forwarded - counted) / (now - since)
