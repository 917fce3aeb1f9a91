"""The shape that all checks share: a subject that is looked at, and results in words."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from l4.attachment import XdpMode
from l4.bird import Bird
from l4.restorations import Restoration
from orchestrator.contract.checkup import CheckResult, Severity
from orchestrator.contract.node import AgentRole
from orchestrator.contract.report import BalancerStatus, RedirectorStatus
from orchestrator.contract.snapshot import BalancerSnapshot, RedirectorSnapshot
from orchestrator.contract.state_directory import StateDirectory


@dataclass(frozen=True, slots=True)
class Place:
    """Where an agent works, by its command line."""

    role: AgentRole
    interface: str
    bpffs: Path
    state: StateDirectory
    xdp_mode: XdpMode = XdpMode.AUTO
    bird: Bird | None = None
    """Of a balancer."""


@dataclass(frozen=True, slots=True)
class Subject:
    """What is looked at: a place, and what is known of it without looking."""

    place: Place
    snapshot: BalancerSnapshot | RedirectorSnapshot | None
    """What the host is to run: the agent's, or the one on disk."""
    status: BalancerStatus | RedirectorStatus | None = None
    """What the agent tells; None without an agent, or if it did not tell in time."""
    is_agent: bool = False
    """Whether it is the agent itself that looks."""
    restorations: tuple[Restoration, ...] = ()
    """What the agent put right lately."""

    @property
    def interface(self) -> str:
        return self.place.interface

    @property
    def role(self) -> AgentRole:
        return self.place.role

    @property
    def is_balancer(self) -> bool:
        return self.role is AgentRole.BALANCER


Look = Callable[[Subject], Iterator[CheckResult]]
"""Looks, and yields what it saw: at least one result if it applies to the subject. May block; runs in a thread."""


@dataclass(frozen=True, slots=True)
class Check:
    """One check, for whatever it comes to."""

    id: str
    title: str
    why: str
    """What goes wrong if somebody trips over it."""

    def ok(self, seen: str) -> CheckResult:
        return CheckResult(id=self.id, title=self.title, severity=Severity.OK, seen=seen)

    def unknown(self, seen: str, advice: str | None = None) -> CheckResult:
        return CheckResult(id=self.id, title=self.title, severity=Severity.UNKNOWN, seen=seen, advice=advice)

    def failure(
        self, seen: str, expected: str, *, mend: str | None = None, fixable: bool = False, advice: str | None = None
    ) -> CheckResult:
        return self._finding(Severity.FAILURE, seen, expected, mend, fixable, advice)

    def warning(
        self, seen: str, expected: str, *, mend: str | None = None, fixable: bool = False, advice: str | None = None
    ) -> CheckResult:
        return self._finding(Severity.WARNING, seen, expected, mend, fixable, advice)

    def _finding(
        self, severity: Severity, seen: str, expected: str, mend: str | None, fixable: bool, advice: str | None
    ) -> CheckResult:
        return CheckResult(
            id=self.id,
            title=self.title,
            severity=severity,
            seen=seen,
            expected=expected,
            why=self.why,
            mend=mend,
            fixable=fixable,
            advice=advice,
        )
