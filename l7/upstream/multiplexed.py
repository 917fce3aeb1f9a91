"""A connection to a server that many requests share (HTTP/2), and those that a server has of them.

```
connecting ──▶ greeting ──────────▶ open ─────────────▶ leaving ──────────▶ OVER
(TCP, TLS)     (our settings out,   (streams begin      (GOAWAY, flood,
               the server's are     and end)            retired: streams
 who asked     awaited)                                 end)
 waits ──────────────────────────▶ begins
```
"""

import socket
from typing import Protocol

from l7 import limits
from l7.protocol.http2.client import ClientConnection
from l7.protocol.http2.client_stream import ClientStream
from l7.reactor import BROKEN, READ, WRITE, Reactor
from l7.sides import UpstreamSide
from l7.tls import HTTP2
from l7.transport import WOULD_BLOCK, End, reason_of
from l7.upstream.connecting import ServerSocket
from l7.upstream.tls import ServerTls


class StreamServer(Protocol):
    """Whose connections these are (`l7.upstream.server.Server`)."""

    name: str
    address: tuple[str, int]
    tls: ServerTls | None
    active: int
    """Requests in progress, and those that wait for a connection."""

    def streams_connected(self, connection: "MultiplexedSocket") -> None:
        """The connection is there, and knows how many streams it may carry."""

    def streams_failed(self, connection: "MultiplexedSocket", reason: str) -> None:
        """It will not be; its socket is closed already."""

    def streams_gone(self, connection: "MultiplexedSocket") -> None:
        """The socket is closed."""

    def count(self, name: str) -> None:
        """Add one to a named counter."""


class MultiplexedSocket(ServerSocket):
    """One such connection."""

    __slots__ = ("_broken", "_greeting", "_remembered", "_waiting", "codec", "pool")

    def __init__(self, reactor: Reactor, pool: StreamServer) -> None:
        super().__init__(reactor, pool.address, pool.tls)
        self.pool = pool
        self.settles_last = True
        self.codec: ClientConnection | None = None
        """Once there is something to speak on. They hold each other: let go when the socket is closed."""
        self._greeting = True
        self._waiting: list[object] = []
        self._broken = ""
        """Why nothing more can be written. What the server has said before that is still read."""
        self._remembered = False
        """The TLS session is kept for the next connection."""

    def __repr__(self) -> str:
        state = "connecting" if self._greeting else self._end.value
        return f"<MultiplexedSocket to {self.pool.name}: {state}, {len(self._waiting)} waiting, {self.codec!r}>"

    # -- pool ----------------------------------------------------------------------------------------------------------

    @property
    def is_being_made(self) -> bool:
        """Not there yet."""
        return self._greeting and not self.is_over

    @property
    def has_room(self) -> bool:
        """Whether a request can begin on it now."""
        return self.codec is not None and not self._greeting and self.codec.has_room

    @property
    def waiting(self) -> int:
        """How many wait for it."""
        return len(self._waiting)

    def wait(self, who: object) -> None:
        """Somebody has asked for it."""
        self._waiting.append(who)

    def forget(self, who: object) -> None:
        """They do not wait any more."""
        self._waiting.remove(who)

    def take_waiting(self) -> list[object]:
        """Those that wait, in order; they wait no more."""
        waiting, self._waiting = self._waiting, []
        return waiting

    def stream(self) -> ClientStream:
        """For one request; there must be room."""
        assert self.codec is not None  # noqa: S101 - there is room
        return self.codec.stream()

    def let_go(self, side: UpstreamSide, _reusable: bool) -> None:
        """An exchange is done with its stream."""
        if self.codec is not None and isinstance(side, ClientStream):
            self.codec.let_go(side)

    def retire(self) -> None:
        """Begin nothing more on it."""
        if self.codec is not None and not self._greeting:
            self.codec.leave()

    # -- connecting ----------------------------------------------------------------------------------------------------

    def connected(self) -> None:
        """Speak, and wait for the server's settings: the deadline of connecting goes on."""
        tls = self._tls
        if tls is not None and tls.selected_alpn_protocol() != HTTP2:
            self._fail_to_connect("alpn_without_h2")
            return
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(limits.H2_UNACKNOWLEDGED_S * 1000))
        reactor = self.reactor
        self.codec = ClientConnection(
            self, self.pool.name, lambda: reactor.now, self.pool.count, encrypted=tls is not None
        )
        if tls is not None and tls.pending():
            reactor.step_soon(self)

    def not_connected(self, reason: str) -> None:
        """Tell the pool."""
        self.pool.streams_failed(self, reason)

    def set_deadline(self, seconds: float | None) -> None:
        """The codec's word counts once the connection is there."""
        if not self._greeting or self._connecting:
            super().set_deadline(seconds)

    def _greet(self, codec: ClientConnection) -> None:
        if codec.is_closed:
            self._fail_to_connect("no_http2")
        elif codec.is_ready:
            self._greeting = False
            self.set_deadline(limits.H2_UPSTREAM_IDLE_S)
            self.pool.streams_connected(self)

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
        codec = self.codec
        assert codec is not None  # noqa: S101 - it is connected, and not closed
        try:
            data = self._recv(limits.READ_BYTES)
        except WOULD_BLOCK:
            if self._broken:
                self._lose(self._broken)
            return False
        except OSError as error:
            self._lose(reason_of(error))
            return False
        if not data:
            self._lose("")
            return False
        codec.receive(data)
        if self._greeting and not self.is_over:
            self._greet(codec)
        elif self._tls is not None and not self._remembered and self._trust is not None:
            # In TLS 1.3 tickets come behind the handshake.
            self._remembered = True
            self._trust.remember(self._tls)
        # A full record: see `ClientSocket.step`.
        full = self._tls is not None and len(data) >= limits.TLS_RECORD_BYTES
        return (full or bool(self._broken)) and not self.is_over

    def _lose(self, reason: str) -> None:
        codec, greeting = self.codec, self._greeting
        if greeting:
            self._fail_to_connect(reason or "closed_by_server")
            return
        self.release()
        if codec is not None:
            codec.lost(reason)

    def expired(self, now: float) -> None:
        """Connecting took too long, or it is the codec's deadline."""
        if self._connecting:
            self._too_late()
        elif self._greeting:
            self._fail_to_connect("http2_settings_timeout")
        elif self._end is not End.NONE:
            self.release(reset=True)
        elif self.codec is not None:
            self.codec.deadline_passed()

    def blocked(self) -> None:
        """Tell the codec."""
        if self.codec is not None:
            self.codec.output_blocked()

    def drained(self) -> None:
        """Tell the codec."""
        if self.codec is not None:
            self.codec.output_drained()

    def broke(self, reason: str) -> None:
        """The server takes no more. It may have answered some before it closed: read on, until nothing is there."""
        if not self._broken:
            self._broken = reason
            if self.codec is not None:
                self.codec.leave()
            self.reactor.step_soon(self)

    def close(self) -> None:
        """Write what is queued, and close: a server that does not take it is not waited for."""
        if self._end is End.NONE:
            super().close()
            super().set_deadline(limits.LINGER_S)

    def end_output(self) -> None:
        """Nothing to linger for: no stream is open."""
        self.release()

    def failed(self) -> None:
        """Its code raised."""
        if self.is_over:
            return
        codec, greeting = self.codec, self._greeting
        self.release(reset=True)
        if greeting:
            self.not_connected("internal_error")
        elif codec is not None:
            codec.lost("internal_error")

    def released(self) -> None:
        """Leave the pool's books."""
        self.codec = None
        self.pool.streams_gone(self)


class StreamPool:
    """A server's connections that many requests share."""

    __slots__ = ("_expected", "connections")

    def __init__(self, server: StreamServer) -> None:
        self.connections: list[MultiplexedSocket] = []
        """All that are open, oldest first."""
        self._expected = limits.H2_MAX_CONCURRENT_STREAMS

    def __repr__(self) -> str:
        return f"<StreamPool: {self.connections}>"

    def with_room(self) -> MultiplexedSocket | None:
        """The oldest with room: younger ones, which a peak has called for, grow idle and are closed."""
        for connection in self.connections:
            if connection.has_room:
                return connection
        return None

    def being_made(self) -> MultiplexedSocket | None:
        """One that is being made, and for which no more wait than it will probably carry."""
        for connection in self.connections:
            if connection.is_being_made and connection.waiting < self._expected:
                return connection
            if connection.codec is not None and connection.codec.is_ready:
                self._expected = max(1, connection.codec.capacity)
        return None

    def retire(self) -> None:
        """Idle ones close now, others after their last stream; those that are being made, when nobody wants them."""
        for connection in tuple(self.connections):
            connection.retire()
