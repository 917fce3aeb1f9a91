"""The channel between the supervisor and one worker: typed messages over a socket pair, sockets beside them.

A frame is four bytes of length (big-endian) and that much JSON. Listening sockets travel as ancillary data
(SCM_RIGHTS, unix(7)) of the frame that names them.

A new snapshot is taken in two phases, so that no worker runs what another one refused:

```
supervisor                     each worker
   Prepare(snapshot)  ──────▶  builds everything aside
                      ◀──────  Prepared, or Refused(reason)
   Commit             ──────▶  swaps in one step            (all prepared)
   Discard            ──────▶  forgets what it built        (anyone refused)
```
"""

import array
import socket
import struct
from typing import Annotated, Literal

import trio
from pydantic import Field, TypeAdapter

from orchestrator.contract.base import Address, Contract, Port
from orchestrator.contract.report import ServerHealth
from orchestrator.contract.snapshot import ProxySnapshot

#: Twice the largest snapshot that the node client takes: JSON may be written less densely here.
MAX_FRAME_BYTES = 64 * 1024 * 1024
#: Sockets in one frame. The kernel passes at most 253 (SCM_MAX_FD, unix(7)).
MAX_SOCKETS_PER_FRAME = 128

_LENGTH = struct.Struct("!I")
_FD = array.array("i").itemsize


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


class ChannelClosed(Exception):
    """The other process is gone."""


class Channel:
    """One end of the pair. One task sends and one receives at a time per direction; sends are serialised."""

    def __init__(self, end: socket.socket) -> None:
        end.setblocking(False)
        self._socket = trio.socket.from_stdlib_socket(end)
        self._sending = trio.Lock()

    async def send(self, message: Message, sockets: tuple[socket.socket, ...] = ()) -> None:
        """Send a message, with sockets beside it.

        Raises:
            ChannelClosed: the other process is gone.
        """
        body = message.model_dump_json().encode()
        frame = memoryview(_LENGTH.pack(len(body)) + body)
        ancillary = []
        if sockets:
            descriptors = array.array("i", [each.fileno() for each in sockets])
            ancillary.append((socket.SOL_SOCKET, socket.SCM_RIGHTS, descriptors.tobytes()))
        async with self._sending:
            try:
                sent = await self._socket.sendmsg([frame], ancillary)
                while sent < len(frame):
                    sent += await self._socket.send(frame[sent:])
            except OSError as error:
                raise ChannelClosed(str(error)) from error

    async def receive(self) -> tuple[Message, tuple[socket.socket, ...]]:
        """Wait for a message.

        Raises:
            ChannelClosed: the other process is gone, or spoke nonsense.
        """
        sockets: list[socket.socket] = []
        try:
            head = await self._read(_LENGTH.size, sockets)
            (length,) = _LENGTH.unpack(head)
            if length > MAX_FRAME_BYTES:
                raise ChannelClosed(f"a frame of {length} bytes: more than {MAX_FRAME_BYTES}")
            message = _MESSAGE.validate_json(await self._read(length, sockets))
        except (OSError, ValueError) as error:
            for each in sockets:
                each.close()
            raise ChannelClosed(str(error)) from error
        return message, tuple(sockets)

    async def _read(self, size: int, sockets: list[socket.socket]) -> bytes:
        chunks: list[bytes] = []
        while size:
            chunk, ancillary, _flags, _address = await self._socket.recvmsg(
                min(size, 1 << 18), socket.CMSG_SPACE(MAX_SOCKETS_PER_FRAME * _FD)
            )
            for level, kind, data in ancillary:
                if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                    descriptors = array.array("i")
                    descriptors.frombytes(data[: len(data) - len(data) % _FD])
                    sockets.extend(socket.socket(fileno=descriptor) for descriptor in descriptors)
            if not chunk:
                raise ChannelClosed("the other process closed the channel")
            chunks.append(chunk)
            size -= len(chunk)
        return b"".join(chunks)

    def close(self) -> None:
        """Close this end; the other process sees the end of the stream."""
        self._socket.close()
