"""What the generator tells, one JSON object a line."""

from typing import Annotated, Literal

from pydantic import Field, TypeAdapter

from orchestrator.contract.base import Contract
from orchestrator.lab.load.breakage import Breakage
from orchestrator.lab.load.plan import FlowKind

#: The command that means: begin nothing new, and end when all has ended. The end of input means: stop now.
FINISH = "finish"


class FlowTally(Contract):
    """All flows of one kind so far."""

    begun: int = 0
    open: int = 0
    completed: int = 0
    """Ended as they should, every byte checked."""
    broken: int = 0
    breakages: dict[Breakage, int] = Field(default_factory=dict)
    ipv6: int = 0
    """Of those begun."""
    bytes_checked: int = 0
    goodbyes: int = 0
    """Ended by `Connection: close` on an answer."""
    closed_idle: int = 0
    """Closed cleanly by the server between two requests."""
    sent_again: int = 0
    """Requests that crossed a clean close and were sent again on a new connection, once."""
    longest_silence_s: float = 0.0


class RequestTally(Contract):
    """All short requests so far."""

    answered: int = 0
    """With 200 and the right bytes."""
    failed: int = 0
    breakages: dict[Breakage, int] = Field(default_factory=dict)
    connections: int = 0
    sent_again: int = 0
    held_back: int = 0
    """Connections that were due, and not begun since too many were waiting: the load was lighter than planned."""


class Tick(Contract):
    """How it stands, twice a second, and once more at the end."""

    event: Literal["tick"] = "tick"
    at: float
    """Unix time."""
    finished: bool = False
    flows: dict[FlowKind, FlowTally]
    requests: RequestTally
    slowest_answer_s: float
    """Of all short and keep-alive requests answered since the tick before."""
    lag_s: float
    """How late the generator itself woke up: a busy machine, not a broken network."""

    @property
    def open_flows(self) -> int:
        return sum(tally.open for tally in self.flows.values())


class BreakageSeen(Contract):
    """A flow or a request broke."""

    event: Literal["broken"] = "broken"
    at: float
    what: str
    """The flow's kind, or "request"."""
    how: Breakage
    detail: str
    connection: str
    """The client's address and port; empty if there was no connection."""
    asked: str = ""
    """The path of the latest request; empty if there was none."""
    answered_by: str = ""
    """The backend that was answering it; empty if no head of an answer had come."""
    target: str
    age_s: float


class SlowSeen(Contract):
    """A connection or an answer took longer than `breakage.SLOW_S`."""

    event: Literal["slow"] = "slow"
    at: float
    """Unix time when it came."""
    connection: str
    """The client's address and port; empty while there was no connection."""
    took_s: float


Message = BreakageSeen | SlowSeen | Tick
MESSAGE: TypeAdapter[Message] = TypeAdapter(Annotated[Message, Field(discriminator="event")])
