"""A client's connection: moves bytes between a socket and the sans-I/O codec.

```
PREFACE ──▶ HANDSHAKE ──▶ open ──────────▶ CLOSE ──▶ LINGER ──▶ OVER
(PROXY      (TLS only)    codec is told    flush     discard    socket closed
 protocol)                of everything              input
```
"""

import contextlib
import socket
import ssl
from collections.abc import Callable
from typing import Protocol

from l7 import limits
from l7.client_identity import ClientCertificateUnreadable
from l7.proxy_preface import Preface
from l7.proxy_protocol import Ends, NotAProxyHeader
from l7.reactor import BROKEN, READ, WRITE, Reactor
from l7.shell import Flow
from l7.tls import TlsFacts, TlsTerminator, handshake_reason
from l7.tls_greeting import Greeting, GreetingFailed
from l7.transport import WOULD_BLOCK, End, SocketTransport, reason_of


class ClientCodec(Protocol):
    """A codec towards the client, as its socket uses it (HTTP/1.1: `ServerConnection`; HTTP/2: `Http2Connection`)."""

    @property
    def is_idle(self) -> bool:
        """No request is in progress."""

    def receive(self, data: bytes) -> None:
        """Bytes from the client."""

    def end_of_input(self) -> None:
        """The client has ended its side in order."""

    def lost(self, detail: str) -> None:
        """The connection broke; the socket is closed already."""

    def output_blocked(self) -> None:
        """The output is above its high-water mark."""

    def output_drained(self) -> None:
        """It is below its low-water mark again."""

    def deadline_passed(self) -> None:
        """The deadline that was asked for is over."""

    def close_after_response(self) -> None:
        """Ask the client to leave when what it has begun is done."""

    def stay(self) -> None:
        """The goodbye is withdrawn."""

    def goodbye(self) -> None:
        """Close now if no request is in progress; end tunnels."""


class ClientOwner(Protocol):
    """Whoever accepted a client: makes its codec, and keeps count of it."""

    def client_ready(self, client: "ClientSocket", facts: TlsFacts | None) -> ClientCodec:
        """Make the codec: the connection, and its TLS handshake if it has one, is there."""

    def client_gone(self, client: "ClientSocket") -> None:
        """The socket is closed."""

    def client_told(self, client: "ClientSocket") -> bool:
        """A PROXY header has said who the client is. Returns whether it is welcome."""

    def preface_failed(self, client: "ClientSocket", reason: str) -> None:
        """There was no such header, or it was broken."""

    def handshake_failed(self, client: "ClientSocket", reason: str) -> None:
        """A TLS handshake came to nothing."""


class ClientSocket(SocketTransport):
    """A client's connection."""

    __slots__ = (
        "_greeting",
        "_handshaking",
        "_owner",
        "_preface",
        "_recv",
        "_tls",
        "address",
        "codec",
        "counted_as",
        "flow",
        "l4_node",
        "local",
        "place",
        "server_name",
        "trusted_hops",
        "vip",
    )

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
        terminator: TlsTerminator | None,
        preface: Preface | None = None,
    ) -> None:
        """`address` and `local`: the client's address and port, and ours. `place`: in the spread of goodbyes.
        `terminator`: of TLS; None: plain text. `preface`: what comes first; None: no PROXY header."""
        self._owner = owner
        self._tls: ssl.SSLSocket | None = None
        self.vip = vip
        self.address = address
        self.local = local
        self.l4_node: str | None = None
        """Name of the L4 node that brought it, if known."""
        self.counted_as = ""
        """For the owner: the address that it counts this connection for."""
        self.flow: Flow | None = None
        """For the owner: what it made of the connection."""
        self.server_name: str | None = None
        """As the ClientHello has it."""
        self._preface = preface
        self.trusted_hops = 0
        """As its acceptor has it."""
        self.place = place
        self.codec: ClientCodec | None = None
        self._handshaking = terminator is not None
        self._greeting = Greeting(terminator) if terminator is not None else None
        super().__init__(reactor, sock)
        self._recv: Callable[[int], bytes] = sock.recv

    def __repr__(self) -> str:
        return f"<ClientSocket {self.address[0]}:{self.address[1]} on {self.vip}: {self._end.value}, {self.codec!r}>"

    def start(self) -> None:
        """Begin to read."""
        self.reactor.add(self, self.sock.fileno(), READ)
        if self._preface is not None:
            self.set_deadline(limits.PROXY_HEADER_S)
        else:
            self._begin()

    def _begin(self) -> None:
        if self._handshaking:
            self.set_deadline(limits.TLS_HANDSHAKE_S)
        else:
            self.codec = self._owner.client_ready(self, None)

    def ends(self) -> Ends:
        """What servers are told of it that take the PROXY protocol."""
        alpn = self._tls.selected_alpn_protocol() if self._tls is not None else None
        return Ends(self.address, self.local, self.server_name, alpn)

    # -- goodbyes (l7.goodbye.Leaver) ----------------------------------------------------------------------------------

    def close_after_response(self) -> None:
        """The next response is the last."""
        if self.codec is not None and self._end is End.NONE:
            self.codec.close_after_response()

    def close_if_idle(self) -> bool:
        """Close now if no request is in progress; return whether nothing more is to be done."""
        codec = self.codec
        if codec is None or self._end is not End.NONE:
            return True
        was_idle = codec.is_idle
        codec.goodbye()
        return was_idle

    def stay(self) -> None:
        """The goodbye is withdrawn."""
        if self.codec is not None:
            self.codec.stay()

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
        if self._preface is not None:
            self._read_preface(self._preface)
            return False
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
        return self._tls is not None and len(data) >= limits.TLS_RECORD_BYTES and self._end is End.NONE

    def _read_preface(self, preface: Preface) -> None:
        """Learn who the client is. What comes behind the header is signalled again."""
        try:
            told = preface.go_on(self.sock)
        except NotAProxyHeader as refused:
            self._owner.preface_failed(self, refused.reason)
            self.release()
            return
        if told is None:
            return
        self._preface = None
        if told.source is not None and told.destination is not None:
            self.address, self.local = told.source, told.destination
        if self._owner.client_told(self):
            self.reactor.wheel.clear(self)
            self._begin()
        else:
            self.release()

    def _greet(self, greeting: Greeting) -> ssl.SSLSocket | None:
        """Find out who is called, and let OpenSSL take over. None: not yet, or never."""
        try:
            tls = greeting.go_on(self.sock)
        except GreetingFailed as failed:
            self._handshaking = False
            self._owner.handshake_failed(self, failed.reason)
            if failed.alert:
                self.send(failed.alert)
                self.close()
            else:
                self.release()
            return None
        if tls is not None:
            # The descriptor is the same: the reactor need not know.
            self.server_name = greeting.server_name
            self.sock = self._tls = tls
            self._greeting = None
            # One layer of Python less than recv and send.
            self._recv = tls.read
            self._send = tls.write
        return tls

    def _shake_hands(self) -> None:
        tls = self._tls
        if self._greeting is not None:
            tls = self._greet(self._greeting)
        if tls is None:
            return
        try:
            tls.do_handshake()
            facts = TlsFacts(tls)
        except ssl.SSLWantReadError:
            return
        except ssl.SSLWantWriteError:
            self._blocked = True
            self._note()
            return
        except (OSError, ClientCertificateUnreadable) as error:
            fallback = reason_of(error) if isinstance(error, OSError) else ""
            self._owner.handshake_failed(self, handshake_reason(error, fallback))
            if isinstance(error, ssl.SSLError):
                # OpenSSL has sent an alert. Closed with unread input, it might never be seen.
                self._handshaking = False
                self.close()
            else:
                self.release()
            return
        self._handshaking = False
        self.reactor.wheel.clear(self)
        self.codec = self._owner.client_ready(self, facts)
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
            # Once, whatever of it is taken: who takes a byte now and then would else keep it for hours.
            self.set_deadline(limits.STREAM_IDLE_S + self.queued_bytes / limits.MIN_BYTES_PER_S)
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
        if self._preface is not None:
            self._owner.preface_failed(self, "timeout")
        elif self._handshaking:
            self._owner.handshake_failed(self, "timeout")
        self.release(reset=self._end is End.CLOSE)

    def failed(self) -> None:
        """Its code raised."""
        self._lose("internal_error", reset=True)

    def released(self) -> None:
        """Leave the owner's books."""
        # They hold each other: let go, they need not wait for the collector of cycles, which comes seldom.
        self.codec = None
        self._owner.client_gone(self)
