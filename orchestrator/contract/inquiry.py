"""Inquiries: what an operator asks one agent now, and what the agent answers, piece by piece.

Snapshots and reports carry what lasts. An inquiry lasts seconds, is kept in the memory of one orchestrator, and changes
nothing that a snapshot describes: a restart, too, only replaces what runs by its like. No packet waits for one.
"""

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import ConfigDict, Field, TypeAdapter

from orchestrator.contract.base import Address, Contract, Identifier, Name
from orchestrator.contract.checkup import Checkup, CheckupAnswer
from orchestrator.contract.node import AgentRole
from orchestrator.contract.restart import Restart, RestartAnswer
from orchestrator.contract.vip import Protocol
from orchestrator.contract.wire import Problem

#: Octets kept of each packet: usual (all headers, as tcpdump's 96 once were for plain TCP), and most (a frame of an
#: Ethernet with its encapsulation).
DEFAULT_SNAP_LENGTH = 256
MAX_SNAP_LENGTH = 2048
#: Seconds and packets of one capture at most: long enough to catch what comes every five minutes.
MAX_CAPTURE_S = 600.0
MAX_CAPTURED_PACKETS = 1_000_000
#: One packet in so many at most.
MAX_SAMPLE = 1_000_000

#: Packets in one piece of an answer. As JSON, a piece is then well below what the orchestrator reads as one body.
MAX_PIECE_PACKETS = 128

#: Seconds within which an agent takes an inquiry. It waits for nothing else: its long poll is open all the time.
TAKE_S = 5.0
#: Seconds between two pieces of an answer at most; an agent with nothing to say says that.
PIECE_EVERY_S = 1.0

#: TCP flags as tcpdump writes them, in the order of their bits (RFC 9293 section 3.1).
TCP_FLAGS = "FSRPAU"


class _WithOctets(Contract):
    """Octets travel as base64 (RFC 4648 section 5)."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_bytes="base64", val_json_bytes="base64")


class Capture(Contract):
    """Send copies of a VIP's packets as they leave the L4 node's program. Asked of a balancer."""

    kind: Literal["capture"] = "capture"
    vip: Name
    seconds: Annotated[float, Field(gt=0, le=MAX_CAPTURE_S)]
    packets: Annotated[int, Field(ge=1, le=MAX_CAPTURED_PACKETS)]
    """The capture ends after so many."""
    snap_length: Annotated[int, Field(ge=64, le=MAX_SNAP_LENGTH)] = DEFAULT_SNAP_LENGTH
    """Octets kept of each packet, from its Ethernet header on."""
    sample: Annotated[int, Field(ge=1, le=MAX_SAMPLE)] = 1
    """One packet in so many is copied, at random."""
    drops_only: bool = False


class Probe(Contract):
    """A packet that might come from a client."""

    source: Address
    source_port: Annotated[int, Field(ge=0, le=65535)]
    destination: Address
    destination_port: Annotated[int, Field(ge=0, le=65535)]
    protocol: Protocol = Protocol.TCP
    flags: Annotated[str, Field(pattern=f"^[{TCP_FLAGS}]*$")] = "A"
    """Of TCP."""
    length: Annotated[int, Field(ge=0, le=65535)] = 0
    """Octets of payload."""


class Trace(Contract):
    """Say what would become of this packet. Asked of a balancer."""

    kind: Literal["trace"] = "trace"
    probe: Probe


class TraceArrival(_WithOctets):
    """Say what would become of this frame if a balancer or a fellow member sent it. Asked of a redirector."""

    kind: Literal["trace_arrival"] = "trace_arrival"
    frame: Annotated[bytes, Field(max_length=MAX_SNAP_LENGTH)]


Question = Annotated[Capture | Trace | TraceArrival | Checkup | Restart, Field(discriminator="kind")]

_ROLE_OF_QUESTION: dict[str, AgentRole] = {
    "capture": AgentRole.BALANCER,
    "trace": AgentRole.BALANCER,
    "trace_arrival": AgentRole.REDIRECTOR,
    "restart": AgentRole.PROXY,
}


def role_asked(question: Question) -> AgentRole:
    """Whom a question is for."""
    return question.role if isinstance(question, Checkup) else _ROLE_OF_QUESTION[question.kind]


class Verdict(StrEnum):
    """What a program did, or would do, with a packet: the XDP actions in words."""

    SENT = "sent"
    DROPPED = "dropped"
    PASSED = "passed"
    """Handed to the host's own kernel."""
    ABORTED = "aborted"
    """A fault of the program."""


class CapturedPacket(_WithOctets):
    """A packet as it left the program: sent ones with what was put before them, others as they arrived."""

    at_ns: int
    """Unix time in nanoseconds, by the node's clock."""
    length: int
    """Of the whole frame."""
    octets: Annotated[bytes, Field(max_length=MAX_SNAP_LENGTH)]
    verdict: Verdict
    reason: str | None = None
    """Name of the counter that says why, for what was not forwarded."""
    row: int | None = None
    owner: Name | None = None
    """Whom it was sent to."""
    chain: tuple[Name, ...] = ()
    """The owners that went along, for a second chance."""


class CapturePiece(Contract):
    """Packets since the piece before."""

    kind: Literal["capture"] = "capture"
    packets: Annotated[tuple[CapturedPacket, ...], Field(max_length=MAX_PIECE_PACKETS)] = ()
    until_ns: int
    """By the node's clock: no earlier packet will follow."""
    lost: int = 0
    """Packets that found the buffer full, since the capture began. Traffic itself lost none."""
    interface: str = ""


class OwnerState(Contract):
    """One owner in a chain."""

    id: Identifier
    name: Name | None
    """None: the node's snapshot does not name this member."""
    address: Address | None
    live: bool
    state: str | None = None
    """Of the drain state machine."""


class TracedStep(Contract):
    """One thing that a program decided, in words."""

    what: str
    """ "vip", "hash", "row", ...: for programs."""
    words: str


class OuterHeader(Contract):
    """What was put before the packet."""

    kind: Literal["gue", "ipip", "l2"]
    source: Address | None = None
    destination: Address | None = None
    source_port: int | None = None


class TraceAnswer(_WithOctets):
    """What the balancer would do with a packet, by the state of its kernel now."""

    kind: Literal["trace"] = "trace"
    steps: tuple[TracedStep, ...]
    verdict: Verdict
    reason: str | None
    """Name of the counter that says why; `forwarded` for what is sent to an owner."""
    counters: dict[str, int]
    """All counters that the packet would move."""
    vip: Name | None = None
    pool: Name | None = None
    hash: str | None = None
    """Of the flow: 16 hexadecimal digits."""
    row: int | None = None
    chain: tuple[OwnerState, ...] = ()
    owner: Name | None = None
    outer: OuterHeader | None = None
    frame: Annotated[bytes, Field(max_length=MAX_SNAP_LENGTH)] = b""
    """As it would leave."""


class TraceArrivalAnswer(_WithOctets):
    """What a redirector would do with a frame, by the state of its kernel and its host's sockets now."""

    kind: Literal["trace_arrival"] = "trace_arrival"
    steps: tuple[TracedStep, ...]
    verdict: Verdict
    reason: str | None
    counters: dict[str, int]
    next_owner: Name | None = None
    """Whom the packet would be sent on to: its second chance."""
    brought_by: Name | None = None
    """The L4 node that brought the flow's first packet here; None if this host does not know it (any more)."""
    outer: OuterHeader | None = None
    frame: Annotated[bytes, Field(max_length=MAX_SNAP_LENGTH)] = b""


Answer = Annotated[
    CapturePiece | TraceAnswer | TraceArrivalAnswer | CheckupAnswer | RestartAnswer, Field(discriminator="kind")
]


class Inquiry(Contract):
    """A question on its way to the agent."""

    id: Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
    asked_by: str
    """For the agent's log."""
    question: Question


class Piece(Contract):
    """A piece of an answer, on its way to the orchestrator."""

    answer: Answer | None = None
    """None: at work still, or, in the last piece, nothing more to say."""
    last: bool = False
    problem: Problem | None = None
    """Why there is no (further) answer; only in the last piece."""


class PieceTaken(Contract):
    """What the orchestrator says to a piece."""

    wanted: bool
    """False: nobody listens any more; stop."""


class InquiryRequest(Contract):
    """An operator's question."""

    question: Question


class InquiryAsked(Contract):
    """The question is on its way."""

    id: str


class InquiryProgress(Contract):
    """What has come in since the operator last looked."""

    answers: tuple[Answer, ...]
    ended: bool
    problem: Problem | None = None


INQUIRY_QUESTION: TypeAdapter[Question] = TypeAdapter(Question)
