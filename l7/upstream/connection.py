"""A connection to a server: moves bytes between a socket and the sans-I/O codec of an exchange.

```
connecting ──▶ busy ◀──▶ idle ──▶ OVER
(who asked     exchange  in pool
 waits)
```
"""

import contextlib
import socket
import ssl
from collections.abc import Callable
from typing import Protocol

from l7 import limits
from l7.protocol.http1 import UpstreamConnection
from l7.reactor import BROKEN, READ, WRITE, Reactor
from l7.sides import ClientFlow
from l7.tls import verdict
from l7.transport import WOULD_BLOCK, End, SocketTransport, reason_of
from l7.upstream.tls import ServerTls


class ServerPool(Protocol):
    """Whoever asked for a connection to a server, and keeps it while it is idle."""

    name: str
    address: tuple[str, int]
    tls: ServerTls | None

    def connected(self, connection: "UpstreamSocket") -> None:
        """The connection is there."""

    def connect_failed(self, connection: "UpstreamSocket", reason: str) -> None:
        """It will not be; its socket is closed already."""

    def gone(self, connection: "UpstreamSocket") -> None:
        """The socket is closed, busy or idle."""


class UpstreamSocket(SocketTransport):
    """A connection to a server."""

    __slots__ = (
        "_connecting",
        "_recv",
        "_sent_any",
        "_tls",
        "announcement",
        "codec",
        "idle",
        "owner",
        "pool",
        "waiting",
    )

    def __init__(self, reactor: Reactor, pool: ServerPool) -> None:
        family = socket.AF_INET6 if ":" in pool.address[0] else socket.AF_INET
        sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        super().__init__(reactor, sock)
        self.pool = pool
        self._recv: Callable[[int], bytes] = sock.recv
        self._tls: ssl.SSLSocket | None = None
        self._connecting = True
        self._blocked = True
        self._sent_any = False
        self.idle = False
        """In the pool: no exchange uses it."""
        self.codec = UpstreamConnection(self, pool.name)
        """Only as long as the socket is open. They hold each other: let go, they need not wait for the collector of
        cycles, which comes seldom."""
        self.announcement = b""
        """What the server is sent before anything else, TLS included: a PROXY header. Set before `start`."""
        self.owner: ClientFlow | None = None
        """The client's connection that the announcement tells about: only its requests may use this one."""
        self.waiting: object | None = None
        """For the pool: who asked for it while it connects."""

    def __repr__(self) -> str:
        state = "connecting" if self._connecting else "idle" if self.idle else self._end.value
        return f"<UpstreamSocket to {self.pool.name}: {state}>"

    def start(self) -> None:
        """Begin to connect.

        Raises:
            OSError: at once (no route, no descriptors); the socket is closed, and the pool not told.
        """
        try:
            self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with contextlib.suppress(BlockingIOError):
                self.sock.connect(self.pool.address)
        except OSError:
            self._end = End.OVER
            self.sock.close()
            del self.codec
            raise
        self.reactor.add(self, self.sock.fileno(), WRITE)
        self.set_deadline(limits.CONNECT_S)

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
        if self._tls is not None and self.pool.tls is not None:
            self.pool.tls.remember(self._tls)
        self.reactor.wheel.set(self, self.reactor.now + limits.UPSTREAM_IDLE_S)
        if self.paused:
            self.resume_reading()

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

    def _finish_connecting(self) -> None:
        if self._tls is None:
            error = self.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if error:
                self._fail_to_connect(reason_of(OSError(error, "")))
                return
            if self.announcement and not self._announce():
                return
        if self.pool.tls is not None and not self._shake_hands(self.pool.tls):
            return
        self._connecting = False
        self._blocked = False
        self.reactor.wheel.clear(self)
        self._note()
        self.pool.connected(self)

    def _shake_hands(self, tls: ServerTls) -> bool:
        """Whether the handshake is done."""
        blocked = False
        try:
            connection = self._tls
            if connection is None:
                # The descriptor is the same: the reactor need not know.
                connection = self.sock = self._tls = tls.wrap(self.sock)
                self._recv = connection.read
                self._send = connection.write
            connection.do_handshake()
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLWantWriteError:
            blocked = True
        except ssl.SSLCertVerificationError as error:
            self._fail_to_connect(f"server_certificate_{verdict(error)}")
            return False
        except OSError as error:
            self._fail_to_connect(reason_of(error))
            return False
        else:
            return True
        self._blocked = blocked
        self._note()
        return False

    def _announce(self) -> bool:
        """Send what comes before everything else: at once, for a new socket's buffer is empty, and takes it whole."""
        try:
            self.sock.send(self.announcement)
        except OSError as error:
            self._fail_to_connect(reason_of(error))
            return False
        self.announcement = b""
        return True

    def _fail_to_connect(self, reason: str) -> None:
        self.release()
        self.pool.connect_failed(self, reason)

    def _lose(self, reason: str) -> None:
        codec, nothing_sent = self.codec, not self._sent_any
        self.release()
        codec.lost(reason, nothing_sent=nothing_sent)

    def expired(self, now: float) -> None:
        """Connecting took too long, or it was idle long enough."""
        if self._connecting:
            self._fail_to_connect("connect_timeout" if self._tls is None else "tls_handshake_timeout")
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

    def release(self, *, reset: bool = False) -> None:
        """Close the socket now, with `close_notify` if that can be."""
        if self._tls is not None and not reset and not self._connecting and not self.is_over:
            # Sends it, then reports that the server's has not come yet.
            with contextlib.suppress(OSError, ValueError):
                self._tls.unwrap()
        super().release(reset=reset)

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
            self.pool.connect_failed(self, "internal_error")
        elif not was_idle:
            codec.lost("internal_error")

    def released(self) -> None:
        """Leave the pool's books."""
        del self.codec
        self.pool.gone(self)
