"""What the keeper and an incarnation of the proxy say to each other: a closed set of messages, under a version number.

The two may be of different releases. So an incarnation speaks first, with a `Hello` whose form never changes; the
keeper says nothing to one of another protocol. Any change of any other message makes a new `PROTOCOL`.

```
keeper                                      incarnation
                                 ◀──────    Hello(protocol, release)
   Handed(sockets) ...           ──────▶    the present incarnation's listening sockets
   Welcome                       ──────▶
                                 ◀──────    Deposit(sockets): bound anew; Withdraw: closed
                                 ◀──────    InService: every worker runs the snapshot, and accepts
```

A restart, with the present incarnation on the left:

```
present                     keeper                         new
   Hold          ◀──────
   Standing      ──────▶          ──────▶  Hello ... InService
   Retire        ◀──────                                   (or it failed: Release)
   Standing      ──────▶   Before ──────▶  each second, until it has ended
```
"""

import socket
from enum import StrEnum
from typing import Annotated, Final, Literal

from pydantic import Field, TypeAdapter

from l7 import limits
from l7.message_channel import MessageChannel
from orchestrator.contract.base import Address, Contract, Port
from orchestrator.contract.report import ServerHealth

#: Of every message below but `Hello`.
PROTOCOL: Final = 1
#: Sockets beside one frame. The kernel passes at most 253 (SCM_MAX_FD, unix(7)).
MAX_SOCKETS_PER_FRAME: Final = 128
#: Of texts that say what went wrong.
MAX_REASON: Final = 2000

Reason = Annotated[str, Field(max_length=MAX_REASON)]
Seconds = Annotated[float, Field(ge=0)]


class HandoverRefused(Exception):
    """What was handed over is not what it was said to be."""


class Purpose(StrEnum):
    """What a listening socket is for."""

    LISTENER = "listener"
    """Clients of a VIP."""
    METRICS = "metrics"


class KeptSocket(Contract):
    """A listening socket, as the keeper knows it."""

    purpose: Purpose
    address: Address
    port: Port


Named = Annotated[tuple[KeptSocket, ...], Field(max_length=MAX_SOCKETS_PER_FRAME)]


class Hello(Contract):
    """From an incarnation, before anything else. This form is for ever."""

    kind: Literal["hello"] = "hello"
    protocol: int
    release: Annotated[str, Field(max_length=64)]


class Standing(Contract):
    """From an incarnation that is held or leaves: what it has, for the one that comes after it."""

    kind: Literal["standing"] = "standing"
    snapshot_version: int
    workers: int
    open_flows: dict[str, int]
    requests_in_flight: int
    counters: dict[str, int]
    health: tuple[ServerHealth, ...]


class Handed(Contract):
    """To an incarnation: listening sockets, attached in this order."""

    kind: Literal["handed"] = "handed"
    sockets: Named


class Welcome(Contract):
    """To an incarnation: that was all of them."""

    kind: Literal["welcome"] = "welcome"
    incarnation: Annotated[int, Field(ge=1)]
    before: Standing | None
    """Of the incarnation before it, if that was asked."""
    is_alone: bool
    """None serves beside it, which would go on if this one failed."""


class Deposit(Contract):
    """From an incarnation: listening sockets that it has bound, attached in this order. The keeper keeps them open."""

    kind: Literal["deposit"] = "deposit"
    sockets: Named


class Withdraw(Contract):
    """From an incarnation: it has closed these; the keeper is to close them too, and to say so."""

    kind: Literal["withdraw"] = "withdraw"
    sockets: Named


class Withdrawn(Contract):
    """To an incarnation: done."""

    kind: Literal["withdrawn"] = "withdrawn"


class InService(Contract):
    """From an incarnation: all its workers run the snapshot, and accept."""

    kind: Literal["in-service"] = "in-service"


class Trouble(Contract):
    """From an incarnation: it will not come into service."""

    kind: Literal["trouble"] = "trouble"
    reason: Reason


class RestartWanted(Contract):
    """From an incarnation: an operator asks that it be succeeded."""

    kind: Literal["restart-wanted"] = "restart-wanted"
    grace_s: Seconds | None
    """For what is open; None: as the keeper was started with."""


class Hold(Contract):
    """To an incarnation: a successor is about to start. Change no listeners until `Release` or `Retire`."""

    kind: Literal["hold"] = "hold"


class Release(Contract):
    """To an incarnation: the successor failed; all is as before."""

    kind: Literal["release"] = "release"


class Retire(Contract):
    """To an incarnation: the successor is in service. Accept nothing more, let what is open end, and end."""

    kind: Literal["retire"] = "retire"
    grace_s: Seconds


class Stop(Contract):
    """To an incarnation: the same, without a successor."""

    kind: Literal["stop"] = "stop"
    grace_s: Seconds


class Kill(Contract):
    """To an incarnation: end at once."""

    kind: Literal["kill"] = "kill"


class ReopenLog(Contract):
    """To an incarnation: the access log was rotated."""

    kind: Literal["reopen-log"] = "reopen-log"


class Before(Contract):
    """To an incarnation: what the one before it has still."""

    kind: Literal["before"] = "before"
    incarnation: int
    standing: Standing
    ends_at: float
    """Unix time at which what is left then is reset."""
    ended: bool
    """It is gone, and `standing` is its last."""


class Record(Contract):
    """To an incarnation: how restarts went since the keeper started."""

    kind: Literal["record"] = "record"
    restarts: int = 0
    failures: int = 0
    crashes: int = 0
    """Incarnations that ended by themselves."""
    problem: Reason | None = None
    """Why the last restart failed; None if it did not."""


class Outcome(Contract):
    """To the incarnation that wanted a restart."""

    kind: Literal["outcome"] = "outcome"
    incarnation: int
    """That is in service now."""
    code: str | None = None
    """Of what went wrong, if anything did."""
    problem: Reason = ""
    hint: str = ""


FromIncarnation = Hello | Deposit | Withdraw | InService | Trouble | Standing | RestartWanted
ToIncarnation = (
    Handed | Welcome | Withdrawn | Hold | Release | Retire | Stop | Kill | ReopenLog | Before | Record | Outcome
)
HandoverMessage = FromIncarnation | ToIncarnation

_MESSAGE: TypeAdapter[HandoverMessage] = TypeAdapter(Annotated[HandoverMessage, Field(discriminator="kind")])

HandoverChannel = MessageChannel[HandoverMessage]


def open_handover(end: socket.socket) -> HandoverChannel:
    """One end of the pair."""
    return MessageChannel(
        end, _MESSAGE, max_frame_bytes=limits.MAX_HANDOVER_FRAME_BYTES, max_sockets=MAX_SOCKETS_PER_FRAME
    )


def named(names: tuple[KeptSocket, ...], sockets: tuple[socket.socket, ...]) -> dict[KeptSocket, socket.socket]:
    """Sockets by their names, if they are listening TCP sockets and bound there. Raises HandoverRefused; all are then
    closed.
    """
    wrong = _what_is_wrong(names, sockets)
    if wrong is not None:
        for sock in sockets:
            sock.close()
        raise HandoverRefused(wrong)
    return dict(zip(names, sockets, strict=True))


def _what_is_wrong(names: tuple[KeptSocket, ...], sockets: tuple[socket.socket, ...]) -> str | None:
    if len(names) != len(sockets) or len(set(names)) != len(names):
        return f"{len(sockets)} sockets came with {len(set(names))} names"
    for name, sock in zip(names, sockets, strict=True):
        if sock.family not in (socket.AF_INET, socket.AF_INET6) or sock.type != socket.SOCK_STREAM:
            return f"{in_words(name)}: {sock.family.name} {sock.type.name} is no TCP socket"
        address, port = sock.getsockname()[:2]
        if (address, port) != (str(name.address), name.port):
            return f"{in_words(name)}: its socket is bound to {address} port {port}"
        if not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            return f"{in_words(name)}: its socket does not listen"
    return None


def in_words(name: KeptSocket) -> str:
    """For messages."""
    return f"{name.purpose} {name.address} port {name.port}"


async def send_sockets(
    channel: HandoverChannel, kind: type[Handed] | type[Deposit], sockets: dict[KeptSocket, socket.socket]
) -> None:
    """In as many frames as it takes. Raises ChannelClosed."""
    names = list(sockets)
    for first in range(0, len(names), MAX_SOCKETS_PER_FRAME):
        part = tuple(names[first : first + MAX_SOCKETS_PER_FRAME])
        await channel.send(kind(sockets=part), tuple(sockets[name] for name in part))
