"""A non-blocking socket in the reactor, as the sans-I/O half sees it (`l7.shell.Transport`).

What is to be done is only noted; `settle`, after the step, does it: at most one write, at most one change of interest.

```
          send, pause_reading, resume_reading, close, abort          (notes, from any item's step)
                                  │
   step ──▶ read ──▶ codec ───────┤
                                  ▼
   settle: write ──▶ tell the codec about high and low water ──▶ interest ──▶ end of output, linger, close
```
"""

import enum
import socket
import ssl
import struct
from collections.abc import Callable

from mypy_extensions import mypyc_attr

from l7 import limits
from l7.reactor import READ, SILENT, WRITE, Pollable, Reactor

#: SO_LINGER with a time of zero: closing resets the connection (socket(7)).
_LINGER_ZERO = struct.pack("ii", 1, 0)

#: Nothing to read now.
WOULD_BLOCK = (BlockingIOError, ssl.SSLWantReadError, InterruptedError)
#: Nothing can be written now.
FULL = (BlockingIOError, ssl.SSLWantWriteError, InterruptedError)


class End(enum.Enum):
    """How a transport is to end, or has."""

    NONE = "open"
    CLOSE = "closing"
    LINGER = "lingering"
    ABORT = "aborting"
    OVER = "closed"


def reason_of(error: OSError) -> str:
    """A machine-readable name for why a connection broke."""
    if isinstance(error, ssl.SSLError):
        return f"tls_{(error.reason or 'error').lower()}"
    if isinstance(error, ConnectionResetError):
        return "connection_reset"
    if isinstance(error, BrokenPipeError):
        return "broken_pipe"
    if isinstance(error, ConnectionRefusedError):
        return "connection_refused"
    if isinstance(error, TimeoutError):
        return "connection_timed_out"
    return f"errno_{error.errno}"


@mypyc_attr(allow_interpreted_subclasses=True)
class SocketTransport(Pollable):
    """Output queue, back-pressure and ends; what is read, and who is told, is the subclass's."""

    __slots__ = (
        "_above_high_water",
        "_blocked",
        "_end",
        "_out",
        "_queued",
        "_send",
        "_unsettled",
        "paused",
        "reactor",
        "sock",
    )

    def __init__(self, reactor: Reactor, sock: socket.socket) -> None:
        super().__init__()
        self.reactor = reactor
        self.sock = sock
        self.paused = False
        self._send: Callable[[bytes | memoryview], int] = sock.send
        self._out: list[bytes | memoryview] = []
        self._queued = 0
        self._blocked = False
        """The socket took less than it was given; wait for WRITE."""
        self._above_high_water = False
        self._unsettled = False
        self._end = End.NONE

    # -- what the codec calls ------------------------------------------------------------------------------------------

    def send(self, data: bytes) -> None:
        """Queue bytes; they leave after the step."""
        self._out.append(data)
        self._queued += len(data)
        if not self._unsettled:
            self._unsettled = True
            self.reactor.settle_later(self)

    def pause_reading(self) -> None:
        """Read no more."""
        self.paused = True
        self._note()

    def resume_reading(self) -> None:
        """Read again."""
        self.paused = False
        self._note()

    def set_deadline(self, seconds: float | None) -> None:
        """Be told in so many seconds."""
        if seconds is None:
            self.reactor.wheel.clear(self)
        else:
            self.reactor.wheel.set(self, self.reactor.now + seconds)

    def close(self) -> None:
        """Write what is queued, then end in order."""
        if self._end is End.NONE:
            self._end = End.CLOSE
            self._note()

    def abort(self) -> None:
        """Drop what is queued and reset."""
        if self._end is not End.OVER:
            self._end = End.ABORT
            self._note()

    # -- what the subclass defines -------------------------------------------------------------------------------------

    def blocked(self) -> None:
        """Output is above the high-water mark."""

    def drained(self) -> None:
        """Output is below the low-water mark again."""

    def written(self) -> None:
        """Some bytes have left."""

    def broke(self, reason: str) -> None:
        """A write failed. The subclass decides whether reading goes on."""

    def end_output(self) -> None:
        """Closing, and all output has left: shut down, linger or release."""

    # -- the machinery -------------------------------------------------------------------------------------------------

    @property
    def is_over(self) -> bool:
        """The socket is closed."""
        return self._end is End.OVER

    @property
    def queued_bytes(self) -> int:
        """Output that the socket has not taken yet."""
        return self._queued

    def _note(self) -> None:
        if not self._unsettled:
            self._unsettled = True
            self.reactor.settle_later(self)

    def settle(self) -> None:
        """Do what was noted."""
        self._unsettled = False
        end = self._end
        if end is End.OVER:
            return
        if end is End.ABORT:
            self.release(reset=True)
            return
        if self._queued and not self._blocked:
            self._write()
            if self._end is not end:
                # A failed write has ended it.
                if self._end is not End.OVER:
                    self._note()
                return
        queued = self._queued
        if queued > limits.OUTPUT_LOW_WATER_BYTES or self._above_high_water:
            self._compare_with_water_marks(queued)
        if end is End.CLOSE and not queued:
            self.end_output()
            if self.fd < 0:
                return
        interest = (0 if self.paused else READ) | (WRITE if self._blocked else 0) or SILENT
        if interest != self.interest:
            self.reactor.want(self, interest)

    def _compare_with_water_marks(self, queued: int) -> None:
        if self._above_high_water:
            if queued < limits.OUTPUT_LOW_WATER_BYTES:
                self._above_high_water = False
                self.drained()
        elif queued > limits.OUTPUT_HIGH_WATER_BYTES:
            self._above_high_water = True
            self.blocked()

    def _write(self) -> None:
        out = self._out
        data: bytes | memoryview = out[0] if len(out) == 1 else b"".join(out)
        size = self._queued
        sent = 0
        try:
            sent = self._send(data)
            if sent != size:
                # TLS takes one record at a time; a plain socket is probably full, and says so at the next attempt.
                view = memoryview(data)
                while sent < size:
                    sent += self._send(view[sent:])
        except FULL:
            self._blocked = True
        except OSError as error:
            out.clear()
            self._queued = 0
            self.broke(reason_of(error))
            return
        if sent:
            out.clear()
            self._queued = size - sent
            if sent != size:
                out.append(memoryview(data)[sent:])
            self.written()

    def release(self, *, reset: bool = False) -> None:
        """Close the socket now. With `reset`, so that the other side knows that something is missing."""
        if self._end is End.OVER:
            return
        self._end = End.OVER
        self._out.clear()
        self._queued = 0
        self.reactor.drop(self)
        if reset:
            try:
                self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_ZERO)
            except OSError:
                # The peer's reset was first: there is no connection left to reset.
                reset = False
        self.sock.close()
        self.released()

    def released(self) -> None:
        """The socket is closed: leave every list."""
