"""A connection to a server while it is being made: TCP, who the client is (PROXY protocol), TLS.

What it carries then is the subclass's: one request at a time (`connection`) or many (`multiplexed`).
"""

import contextlib
import socket
import ssl
from abc import abstractmethod
from collections.abc import Callable

from l7 import limits
from l7.reactor import WRITE, Reactor
from l7.tls import verdict
from l7.transport import End, SocketTransport, reason_of
from l7.upstream.tls import ServerTls


class ServerSocket(SocketTransport):
    """A socket towards a server."""

    __slots__ = ("_connecting", "_recv", "_tls", "_trust", "address", "announcement")

    def __init__(self, reactor: Reactor, address: tuple[str, int], trust: ServerTls | None) -> None:
        """`trust`: TLS towards this server; None: plain text."""
        family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        super().__init__(reactor, sock)
        self.address = address
        self._trust = trust
        self._recv: Callable[[int], bytes] = sock.recv
        self._tls: ssl.SSLSocket | None = None
        self._connecting = True
        self._blocked = True
        self.announcement = b""
        """What the server is sent before anything else, TLS included: a PROXY header. Set before `start`."""

    # -- what the subclass defines -------------------------------------------------------------------------------------

    @abstractmethod
    def connected(self) -> None:
        """It is there. The deadline is the subclass's from now on."""

    @abstractmethod
    def not_connected(self, reason: str) -> None:
        """It will not be; the socket is closed already. `reason`: a name for log and metrics."""

    # -- the machinery -------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin to connect.

        Raises:
            OSError: at once (no route, no descriptors); the socket is closed, and nobody is told.
        """
        try:
            self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with contextlib.suppress(BlockingIOError):
                self.sock.connect(self.address)
        except OSError:
            self._end = End.OVER
            self.sock.close()
            raise
        self.reactor.add(self, self.sock.fileno(), WRITE)
        self.set_deadline(limits.CONNECT_S)

    def _finish_connecting(self) -> None:
        if self._tls is None:
            error = self.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if error:
                self._fail_to_connect(reason_of(OSError(error, "")))
                return
            if self.announcement and not self._announce():
                return
        if self._trust is not None and not self._shake_hands(self._trust):
            return
        self._connecting = False
        self._blocked = False
        self._note()
        self.connected()

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
        self.not_connected(reason)

    def _too_late(self) -> None:
        """Connecting took too long."""
        self._fail_to_connect("connect_timeout" if self._tls is None else "tls_handshake_timeout")

    def release(self, *, reset: bool = False) -> None:
        """Close the socket now, with `close_notify` if that can be; reset it, if that was noted."""
        reset = reset or self._end is End.ABORT
        if self._tls is not None and not reset and not self._connecting and not self.is_over:
            # Sends it, then reports that the server's has not come yet.
            with contextlib.suppress(OSError, ValueError):
                self._tls.unwrap()
        super().release(reset=reset)
