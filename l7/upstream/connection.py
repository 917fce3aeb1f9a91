"""A connection to a server that carries one request at a time: moves bytes between a socket and the sans-I/O codec.

```
connecting ──▶ busy ◀──▶ idle ──▶ OVER
(who asked     exchange  in pool
 waits)
```
"""

from typing import Protocol

from l7 import limits
from l7.protocol.http1 import UpstreamConnection
from l7.reactor import BROKEN, READ, WRITE, Reactor
from l7.sides import ClientFlow, UpstreamSide
from l7.transport import WOULD_BLOCK, reason_of
from l7.upstream.connecting import ServerSocket
from l7.upstream.tls import ServerTls


class ServerPool(Protocol):
    """Whoever asked for a connection to a server, and keeps it while it is idle."""

    name: str
    address: tuple[str, int]
    tls: ServerTls | None
    active: int
    """Requests in progress, and connections being opened for one."""

    def connected(self, connection: "UpstreamSocket") -> None:
        """The connection is there."""

    def connect_failed(self, connection: "UpstreamSocket", reason: str) -> None:
        """It will not be; its socket is closed already."""

    def keep(self, connection: "UpstreamSocket") -> None:
        """Nobody uses it: keep it for the next one, or close it."""

    def gone(self, connection: "UpstreamSocket") -> None:
        """The socket is closed, busy or idle."""


class UpstreamSocket(ServerSocket):
    """A connection to a server."""

    __deletable__ = ("codec",)
    __slots__ = (
        "_sent_any",
        "codec",
        "idle",
        "owner",
        "pool",
        "waiting",
    )

    def __init__(self, reactor: Reactor, pool: ServerPool) -> None:
        super().__init__(reactor, pool.address, pool.tls)
        self.pool = pool
        self._sent_any = False
        self.idle = False
        """In the pool: no exchange uses it."""
        self.codec = UpstreamConnection(self, pool.name)
        """Only as long as the socket is open. They hold each other: let go, they need not wait for the collector of
        cycles, which comes seldom."""
        self.owner: ClientFlow | None = None
        """The client's connection that the announcement tells about: only its requests may use this one."""
        self.waiting: object | None = None
        """For the pool: who asked for it while it connects."""

    def __repr__(self) -> str:
        state = "connecting" if self._connecting else "idle" if self.idle else self._end.value
        return f"<UpstreamSocket to {self.pool.name}: {state}>"

    def start(self) -> None:
        """Begin to connect. Raises OSError: see `ServerSocket.start`."""
        try:
            super().start()
        except OSError:
            del self.codec
            raise

    def connected(self) -> None:
        """Tell the pool."""
        self.reactor.wheel.clear(self)
        self.pool.connected(self)

    def not_connected(self, reason: str) -> None:
        """Tell the pool."""
        self.pool.connect_failed(self, reason)

    # -- pool ----------------------------------------------------------------------------------------------------------

    def become_busy(self) -> None:
        """An exchange takes it."""
        self.idle = False
        self._sent_any = False
        self.reactor.wheel.clear(self)

    def become_idle(self) -> None:
        """Its exchange is done with it."""
        self.idle = True
        self.waiting = None
        if self._tls is not None and self._trust is not None:
            self._trust.remember(self._tls)
        self.reactor.wheel.set(self, self.reactor.now + limits.UPSTREAM_IDLE_S)
        if self.paused:
            self.resume_reading()

    def wait(self, who: object) -> None:
        """Somebody has asked for it."""
        self.waiting = who

    def forget(self, _who: object) -> None:
        """Nobody waits for it any more."""
        self.waiting = None

    def let_go(self, _side: UpstreamSide, reusable: bool) -> None:
        """Its exchange is done with it: keep it, or close it."""
        if self.is_over:
            return
        if reusable:
            self.pool.keep(self)
        else:
            self.release()

    # -- events --------------------------------------------------------------------------------------------------------

    def step(self, events: int) -> bool:
        """Read once and hand what came to the codec."""
        if self._connecting:
            self._finish_connecting()
            return False
        if events & WRITE:
            self._blocked = False
            self._note()
        if events and not events & (READ | BROKEN):
            return False
        if self.idle:
            self._look_at_idle()
            return False
        if self.paused:
            # What was read before a reset is still there when the codec reads on.
            return False
        try:
            data = self._recv(limits.READ_BYTES)
        except WOULD_BLOCK:
            return False
        except OSError as error:
            self._lose(reason_of(error))
            return False
        if data:
            self.codec.receive(data)
        else:
            self.paused = True
            self._note()
            self.codec.end_of_input()
        # A full record: there is probably more, in the kernel or in OpenSSL's hands (see `ClientSocket.step`).
        return self._tls is not None and len(data) >= limits.TLS_RECORD_BYTES and not self.is_over

    def _look_at_idle(self) -> None:
        """An end, a reset, or bytes that nobody asked for: the connection is of no use to anyone."""
        try:
            self._recv(1)
        except WOULD_BLOCK:
            return
        except OSError:
            # A reset says the same as an end.
            self.release()
            return
        self.release()

    def _lose(self, reason: str) -> None:
        codec, nothing_sent = self.codec, not self._sent_any
        self.release()
        codec.lost(reason, nothing_sent=nothing_sent)

    def expired(self, now: float) -> None:
        """Connecting took too long, or it was idle long enough."""
        if self._connecting:
            self._too_late()
        elif self.idle:
            self.release()

    def blocked(self) -> None:
        """Tell the codec."""
        if not self.idle:
            self.codec.output_blocked()

    def drained(self) -> None:
        """Tell the codec."""
        if not self.idle:
            self.codec.output_drained()

    def written(self) -> None:
        """From now on the request is not unsent."""
        self._sent_any = True

    def broke(self, reason: str) -> None:
        """The server takes no more. It may have answered before it closed: read on, to the end or the reset."""
        if self.paused or not self._sent_any:
            self._lose(reason)

    def end_output(self) -> None:
        """Nothing to linger for: whatever a server still has to say, nobody waits for it."""
        self.release()

    def failed(self) -> None:
        """Its code raised."""
        if self.is_over:
            return  # who used it was told before, or raised when told
        codec, was_idle = self.codec, self.idle
        self.release(reset=True)
        if self._connecting:
            self.not_connected("internal_error")
        elif not was_idle:
            codec.lost("internal_error")

    def released(self) -> None:
        """Leave the pool's books."""
        del self.codec
        self.pool.gone(self)
