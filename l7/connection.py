"""Connection drivers: one client's, one server's. They move bytes between a socket and a sans-I/O codec.

```
client      HANDSHAKE ──▶ open ──────────▶ CLOSE ──▶ LINGER ──▶ OVER
            (TLS only)    codec is told    flush     discard    socket closed
                          of everything              input

server      connecting ──▶ busy ◀──▶ idle ──▶ OVER
            (no codec)     exchange  in pool
```
"""

import contextlib
import socket
import ssl
from collections.abc import Callable
from typing import Protocol

from l7 import limits
from l7.protocol.http1 import ServerConnection, UpstreamConnection
from l7.reactor import BROKEN, READ, WRITE, Reactor
from l7.transport import WOULD_BLOCK, End, SocketTransport, reason_of

#: A full TLS record (RFC 8446 section 5.1). After one, there is probably more.
TLS_RECORD_BYTES = 16 * 1024


class ClientOwner(Protocol):
    """Whoever accepted a client: makes its codec, and keeps count of it."""

    def client_ready(self, client: "ClientSocket", connection: ssl.SSLSocket | None) -> ServerConnection:
        """Make the codec: the connection, and its TLS handshake if it has one, is there."""

    def client_gone(self, client: "ClientSocket") -> None:
        """The socket is closed."""

    def handshake_failed(self, reason: str) -> None:
        """A TLS handshake came to nothing."""


class ClientSocket(SocketTransport):
    """A client's connection."""

    __slots__ = ("_handshaking", "_owner", "_recv", "_tls", "address", "codec", "l4_node", "local", "place", "vip")

    def __init__(
        self,
        reactor: Reactor,
        sock: socket.socket,
        owner: ClientOwner,
        *,
        vip: str,
        address: tuple[str, int],
        local: tuple[str, int],
        place: float,
        wrap: Callable[[socket.socket], ssl.SSLSocket] | None,
    ) -> None:
        """`address` and `local`: the client's address and port, and ours. `place`: in the spread of goodbyes. `wrap`:
        makes the socket a TLS one; None: plain text."""
        self._owner = owner
        self._tls: ssl.SSLSocket | None = None
        self.vip = vip
        self.address = address
        self.local = local
        self.l4_node: str | None = None
        """Name of the L4 node that brought it, if known."""
        self.place = place
        self.codec: ServerConnection | None = None
        self._handshaking = wrap is not None
        if wrap is not None:
            sock = self._tls = wrap(sock)
        super().__init__(reactor, sock)
        self._recv: Callable[[int], bytes] = sock.recv
        if self._tls is not None:
            # One layer of Python less than recv and send.
            self._recv = self._tls.read
            self._send = self._tls.write

    def __repr__(self) -> str:
        return f"<ClientSocket {self.address[0]}:{self.address[1]} on {self.vip}: {self._end.value}, {self.codec!r}>"

    def start(self) -> None:
        """Begin to read."""
        self.reactor.add(self, self.sock.fileno(), READ)
        if self._handshaking:
            self.set_deadline(limits.TLS_HANDSHAKE_S)
        else:
            self.codec = self._owner.client_ready(self, None)

    # -- goodbyes (l7.goodbye.Leaver) ----------------------------------------------------------------------------------

    def close_after_response(self) -> None:
        """The next response is the last."""
        if self.codec is not None:
            self.codec.closing = True

    def close_if_idle(self) -> bool:
        """Close now if no request is in progress; return whether nothing more is to be done."""
        codec = self.codec
        if codec is None or self._end is not End.NONE:
            return True
        if not codec.is_idle:
            return False
        codec.goodbye()
        return True

    def stay(self) -> None:
        """The goodbye is withdrawn."""
        if self.codec is not None:
            self.codec.closing = False

    def cut(self, reason: str) -> None:
        """Reset it, whatever is in progress."""
        self._lose(reason, reset=True)

    # -- reading -------------------------------------------------------------------------------------------------------

    def step(self, events: int) -> bool:
        """Read once (TLS: up to `READ_BYTES`), and hand what came to the codec."""
        if events & WRITE:
            self._blocked = False
            self._note()
        if self._end is not End.NONE:
            return self._discard(events)
        if self._handshaking:
            self._shake_hands()
            return False
        if self.paused:
            if events & BROKEN:
                self._lose("connection_reset")
            return False
        if events and not events & (READ | BROKEN):
            return False
        try:
            data = self._recv(limits.READ_BYTES)
        except WOULD_BLOCK:
            return False
        except OSError as error:
            self._lose(reason_of(error))
            return False
        codec = self.codec
        assert codec is not None  # noqa: S101 - open, and the handshake is done
        if not data:
            # Nothing more can come; without READ the end is not reported again.
            self.paused = True
            self._note()
            codec.end_of_input()
            return False
        codec.receive(data)
        # A full record: OpenSSL or the kernel probably holds the next one. Stepping again, behind the others, saves
        # the round through epoll, and fetches what OpenSSL has decrypted and no descriptor signals.
        return self._tls is not None and len(data) >= TLS_RECORD_BYTES and self._end is End.NONE

    def _shake_hands(self) -> None:
        tls = self._tls
        assert tls is not None  # noqa: S101 - only TLS connections have handshakes
        try:
            tls.do_handshake()
        except ssl.SSLWantReadError:
            return
        except ssl.SSLWantWriteError:
            self._blocked = True
            self._note()
            return
        except OSError as error:
            self._owner.handshake_failed(reason_of(error))
            self.release()
            return
        self._handshaking = False
        self.reactor.wheel.clear(self)
        self.codec = self._owner.client_ready(self, tls)
        # The first request may have come with the end of the handshake, and be in OpenSSL's hands already.
        if tls.pending():
            self.reactor.step_soon(self)

    def _discard(self, events: int) -> bool:
        if events & BROKEN:
            self.release()
            return False
        if events & READ:
            try:
                # Below TLS on purpose: nothing of it is wanted.
                if not socket.socket.recv(self.sock, limits.READ_BYTES):
                    self._end_of_discarded_input()
            except WOULD_BLOCK:
                return False
            except OSError:
                # Reset by the client while it was to be closed anyway.
                self.release()
        return False

    def _end_of_discarded_input(self) -> None:
        if self._end is End.LINGER:
            self.release()
        else:
            self.paused = True
            self._note()

    def _lose(self, reason: str, *, reset: bool = False) -> None:
        codec, self.codec = self.codec, None
        told = self._end is not End.NONE
        self.release(reset=reset)
        if codec is not None and not told:
            codec.lost(reason)

    # -- writing and ending --------------------------------------------------------------------------------------------

    def blocked(self) -> None:
        """Tell the codec."""
        if self.codec is not None and self._end is End.NONE:
            self.codec.output_blocked()

    def drained(self) -> None:
        """Tell the codec."""
        if self.codec is not None and self._end is End.NONE:
            self.codec.output_drained()

    def written(self) -> None:
        """A client that takes its last response slowly is given time, as long as it takes some of it."""
        if self._end is End.CLOSE:
            self.set_deadline(limits.STREAM_IDLE_S)

    def broke(self, reason: str) -> None:
        """The client is gone."""
        if self._end is End.NONE:
            self._lose(reason)
        else:
            self.release()

    def close(self) -> None:
        """Write what is queued, end the output, and linger."""
        if self._end is End.NONE:
            super().close()
            self.set_deadline(limits.STREAM_IDLE_S)
            # What still comes is discarded: a socket closed with unread input resets the connection, and the reset
            # may overtake the response (RFC 9112 section 9.6). After the client's own end nothing comes.

    def end_output(self) -> None:
        """Say goodbye below TLS and TCP; wait for the client's end."""
        self._end = End.LINGER
        if self._tls is not None:
            # Sends close_notify, then reports that the client's has not come yet. No matter: the socket ends here.
            with contextlib.suppress(OSError, ValueError):
                self._tls.unwrap()
        if self.paused and self._client_ended():
            self.release()
            return
        try:
            self.sock.shutdown(socket.SHUT_WR)
        except OSError:
            # The client was faster.
            self.release()
            return
        self.paused = False
        self.set_deadline(limits.LINGER_S)

    def _client_ended(self) -> bool:
        try:
            return not socket.socket.recv(self.sock, 1, socket.MSG_PEEK)
        except OSError:
            return False

    def expired(self, now: float) -> None:
        """A deadline: the codec's while it is in charge, else the handshake's, the flush's or the linger's."""
        if self._end is End.NONE and self.codec is not None:
            self.codec.deadline_passed()
            return
        if self._handshaking:
            self._owner.handshake_failed("timeout")
        self.release(reset=self._end is End.CLOSE)

    def failed(self) -> None:
        """Its code raised."""
        self._lose("internal_error", reset=True)

    def released(self) -> None:
        """Leave the owner's books."""
        self._owner.client_gone(self)


class ServerPool(Protocol):
    """Whoever asked for a connection to a server, and keeps it while it is idle."""

    name: str
    address: tuple[str, int]

    def connected(self, connection: "UpstreamSocket") -> None:
        """The connection is there."""

    def connect_failed(self, connection: "UpstreamSocket", reason: str) -> None:
        """It will not be; its socket is closed already."""

    def gone(self, connection: "UpstreamSocket") -> None:
        """The socket is closed, busy or idle."""


class UpstreamSocket(SocketTransport):
    """A connection to a server."""

    __slots__ = ("_connecting", "_sent_any", "codec", "idle", "pool", "waiting")

    def __init__(self, reactor: Reactor, pool: ServerPool) -> None:
        family = socket.AF_INET6 if ":" in pool.address[0] else socket.AF_INET
        sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        super().__init__(reactor, sock)
        self.pool = pool
        self._connecting = True
        self._blocked = True
        self._sent_any = False
        self.idle = False
        """In the pool: no exchange uses it."""
        self.codec = UpstreamConnection(self, pool.name)
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
            data = self.sock.recv(limits.READ_BYTES)
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
        return False

    def _look_at_idle(self) -> None:
        """An end, a reset, or bytes that nobody asked for: the connection is of no use to anyone."""
        try:
            self.sock.recv(1)
        except WOULD_BLOCK:
            return
        except OSError:
            # A reset says the same as an end.
            self.release()
            return
        self.release()

    def _finish_connecting(self) -> None:
        error = self.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if error:
            self._fail_to_connect(reason_of(OSError(error, "")))
            return
        self._connecting = False
        self._blocked = False
        self.reactor.wheel.clear(self)
        self._note()
        self.pool.connected(self)

    def _fail_to_connect(self, reason: str) -> None:
        self.release()
        self.pool.connect_failed(self, reason)

    def _lose(self, reason: str) -> None:
        nothing_sent = not self._sent_any
        self.release()
        self.codec.lost(reason, nothing_sent=nothing_sent)

    def expired(self, now: float) -> None:
        """Connecting took too long, or it was idle long enough."""
        if self._connecting:
            self._fail_to_connect("connect_timeout")
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
        was_idle = self.idle
        self.release(reset=True)
        if self._connecting:
            self.pool.connect_failed(self, "internal_error")
        elif not was_idle:
            self.codec.lost("internal_error")

    def released(self) -> None:
        """Leave the pool's books."""
        self.pool.gone(self)
