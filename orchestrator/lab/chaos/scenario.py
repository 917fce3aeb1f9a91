"""What a scenario is, what it is given, and what is told of it."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Protocol

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


@dataclass(frozen=True, slots=True)
class Stage:
    """A lab that is up and under load."""

    lab: Lab
    edgectl: Edgectl
    load: LoadProcess
    view: ChaosView


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
    requests_per_second: float = 20.0
    may_lose_datagrams: bool = False
    """Whether it takes more of the machine than it has: nobody sends a datagram again."""
    expect: Callable[[Figures], list[str]] = field(default=lambda _figures: [])
    """What is wrong with the figures, in words; nothing if they are as they should be."""


class Datagrams(Contract):
    """The sequence-numbered stream, as its sender saw it."""

    sent: int
    lost: int
    duplicated: int
    reordered: int
    moved: int
    """Streams that were answered by more than one proxy."""


class ScenarioResult(Contract):
    """What became of the load, and what the scenario counted."""

    flows: int
    """Long flows that were begun."""
    flows_broken: int
    requests: int
    requests_failed: int
    datagrams: Datagrams
    figures: Figures
    complaints: tuple[str, ...]
    """Why it did not hold; empty if it did."""
    breakages: tuple[BreakageSeen, ...]
    seconds: float

    @property
    def holds(self) -> bool:
        return not self.complaints
