"""What a scenario is, what it is given, and what is told of it."""

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

from pydantic import Field

from orchestrator.contract.base import Contract
from orchestrator.lab.edgectl import Edgectl
from orchestrator.lab.lab import Lab
from orchestrator.lab.load.messages import BreakageSeen, Tick
from orchestrator.lab.load.process import LoadProcess


class ChaosView(Protocol):
    """Whoever watches."""

    def step(self, text: str, fraction: float | None) -> None: ...

    def event(self, text: str) -> None: ...

    def tick(self, tick: Tick) -> None: ...

    def broken(self, seen: BreakageSeen) -> None: ...


@dataclass(slots=True)
class Timeline:
    """When what happened, in Unix time: one clock for the load, the kernels' events and the scenario."""

    struck_at: float | None = None
    """The moment of the fault."""
    detected_at: float | None = None
    """The moment when the fleet had acted on it (docs/chaos.md says for each scenario what that is)."""
    over_at: float | None = None
    """The moment when the scenario began to undo it: what comes later is not the fault's."""
    lost_with_proxy: set[str] = field(default_factory=set)
    """Clients' ends of the flows that a proxy held when the fault took it away."""
    lost_with_backend: set[str] = field(default_factory=set)
    """The same of flows whose request was with a backend that the fault took away."""

    def strike(self) -> float:
        self.struck_at = time.time()
        return self.struck_at

    def detected(self) -> None:
        """The first time counts."""
        if self.detected_at is None:
            self.detected_at = time.time()

    def over(self) -> None:
        """The first time counts."""
        if self.over_at is None:
            self.over_at = time.time()

    @property
    def detect_ms(self) -> float | None:
        if self.struck_at is None or self.detected_at is None:
            return None
        return round((self.detected_at - self.struck_at) * 1000, 1)


@dataclass(frozen=True, slots=True)
class Stage:
    """A lab that is up and under load."""

    lab: Lab
    edgectl: Edgectl
    load: LoadProcess
    view: ChaosView
    timeline: Timeline = field(default_factory=Timeline)


class TakesAway(StrEnum):
    """Whose flows a fault ends, whatever the fleet does."""

    NOTHING = "nothing"
    PROXY = "proxy"
    """Its own flows; and until the fleet has noticed, new ones that are given to it."""
    BACKEND = "backend"
    """The requests that it was answering."""


Figures = dict[str, float]
"""What a scenario counted, by names of its own: `{"swaps": 100, "syns_sent": 3541000}`."""


@dataclass(frozen=True, slots=True)
class Scenario:
    """Something that happens to a fleet."""

    name: str
    about: str
    """One line, for people."""
    play: Callable[[Stage], Awaitable[Figures]]
    """Brings it about, sees it through and undoes it. Raises LabError if it could not be brought about."""
    sites: int = 1
    """Of the lab that it needs."""
    requests_per_second: float = 20.0
    may_lose_datagrams: bool = False
    """Whether it takes more of the machine than it has: nobody sends a datagram again."""
    detect_within_ms: float | None = None
    """The goal; missed, the scenario did not hold."""
    takes_away: TakesAway = TakesAway.NOTHING
    """What may be lost with the host that the fault takes away. Else no flow and no request may fail."""
    expect: Callable[[Figures], list[str]] = field(default=lambda _figures: [])
    """What is wrong with the figures, in words; nothing if they are as they should be."""


class Datagrams(Contract):
    """The sequence-numbered stream, as its sender saw it."""

    sent: int = 0
    lost: int = 0
    duplicated: int = 0
    reordered: int = 0
    moved: int = 0
    """Streams that were answered by more than one proxy."""


class ScenarioResult(Contract):
    """What became of the load, and what the scenario counted."""

    flows: int = 0
    """Long flows that were begun."""
    flows_broken: int = 0
    """But for those that were lost with what the fault took away."""
    flows_lost_with_proxy: int = 0
    """Their own proxy was taken away."""
    flows_lost_with_backend: int = 0
    """The backend that was answering them was taken away."""
    flows_not_begun: int = 0
    """Attempts to begin a flow that failed while the fleet did not know yet that the proxy was gone."""
    requests: int = 0
    requests_failed: int = 0
    """All of them."""
    detect_ms: float | None = None
    """From the fault until the fleet had acted on it. None for scenarios that are no fault."""
    recover_ms: float | None = None
    """From the fault to the end of the last request or attempt that failed or was slow because of it, in milliseconds:
    0 if none was. None for scenarios that are no fault."""
    datagrams: Datagrams = Datagrams()
    figures: Figures = Field(default_factory=dict)
    complaints: tuple[str, ...] = ()
    """Why it did not hold; empty if it did."""
    breakages: tuple[BreakageSeen, ...] = ()
    seconds: float = 0.0

    @property
    def holds(self) -> bool:
        return not self.complaints
