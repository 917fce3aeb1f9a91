"""The channel between the supervisor and one worker: typed messages over a socket pair, sockets beside them.

Frames are those of `l7.message_channel`; listening sockets travel beside the frame that names them.

A new snapshot is taken in two phases, so that no worker runs what another one refused:

```
supervisor                     each worker
   Prepare(snapshot)  ──────▶  builds everything aside
                      ◀──────  Prepared, or Refused(reason)
   Commit             ──────▶  swaps in one step            (all prepared)
   Discard            ──────▶  forgets what it built        (anyone refused)
```
"""

import socket
from typing import Annotated, Literal

from pydantic import Field, TypeAdapter

from l7.message_channel import MessageChannel
from orchestrator.contract.base import Address, Contract, Port
from orchestrator.contract.report import ServerHealth
from orchestrator.contract.snapshot import ProxySnapshot

#: Twice the largest snapshot that the node client takes: JSON may be written less densely here.
MAX_FRAME_BYTES = 64 * 1024 * 1024
#: Sockets in one frame. The kernel passes at most 253 (SCM_MAX_FD, unix(7)).
MAX_SOCKETS_PER_FRAME = 128


class ListeningAddress(Contract):
    """Where a listening socket is bound."""

    address: Address
    port: Port


class Sockets(Contract):
    """To the worker: listening sockets, attached in this order. They come before the snapshot that uses them."""

    kind: Literal["sockets"] = "sockets"
    addresses: Annotated[tuple[ListeningAddress, ...], Field(max_length=MAX_SOCKETS_PER_FRAME)]


class Prepare(Contract):
    """To the worker: build this aside."""

    kind: Literal["prepare"] = "prepare"
    snapshot: ProxySnapshot
    health: tuple[ServerHealth, ...] = ()
    """What is known of servers. A worker believes it of those that it has not checked itself."""


class Commit(Contract):
    """To the worker: run what was prepared."""

    kind: Literal["commit"] = "commit"
    version: int


class Discard(Contract):
    """To the worker: forget what was prepared."""

    kind: Literal["discard"] = "discard"


class Stop(Contract):
    """To the worker: stop accepting, finish what is there within `grace_s`, exit."""

    kind: Literal["stop"] = "stop"
    grace_s: float
    has_heir: bool = False
    """Others accept on the same sockets: what waits in their queues is theirs."""


class ReopenLog(Contract):
    """To the worker: open the access log's file anew (it was rotated)."""

    kind: Literal["reopen-log"] = "reopen-log"


class Prepared(Contract):
    """From the worker: ready to commit."""

    kind: Literal["prepared"] = "prepared"
    version: int


class Refused(Contract):
    """From the worker: the snapshot cannot run here."""

    kind: Literal["refused"] = "refused"
    version: int
    reason: str


class Committed(Contract):
    """From the worker: the snapshot runs."""

    kind: Literal["committed"] = "committed"
    version: int


class WorkerStatus(Contract):
    """From the worker, every second and after each commit."""

    kind: Literal["status"] = "status"
    open_flows: dict[str, int] = Field(default_factory=dict)
    requests_in_flight: int = 0
    health: tuple[ServerHealth, ...] = ()
    counters: dict[str, int] = Field(default_factory=dict)


ToWorker = Sockets | Prepare | Commit | Discard | Stop | ReopenLog
ToSupervisor = Prepared | Refused | Committed | WorkerStatus
Message = ToWorker | ToSupervisor

_MESSAGE: TypeAdapter[Message] = TypeAdapter(Annotated[Message, Field(discriminator="kind")])

Channel = MessageChannel[Message]


def open_channel(end: socket.socket) -> Channel:
    """One end of the pair."""
    return MessageChannel(end, _MESSAGE, max_frame_bytes=MAX_FRAME_BYTES, max_sockets=MAX_SOCKETS_PER_FRAME)
