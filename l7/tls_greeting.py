"""The start of a TLS connection: peek at the ClientHello, choose the context that answers it, wrap the socket.

The context is chosen before OpenSSL begins, and not in its server-name callback: a context that is put in place there
brings its certificate and nothing else. Its `verify_mode` is ignored, so a host that requires client certificates
would be served to a client without one; and a session is resumed before the callback runs, so one of any host would be
good for every other (docs/adr/0018-tls-contexts.md).

The bytes are peeked at and stay in the kernel, where OpenSSL reads them. While a ClientHello is not whole, the socket's
low-water mark (SO_RCVLOWAT, socket(7)) keeps it from being readable all the time.
"""

import socket
import ssl
from typing import Final

from l7.limits import MAX_HELLO_BYTES
from l7.low_water import LowWater
from l7.protocol.client_hello import Incomplete, NotAClientHello, read_client_hello
from l7.tls import TlsTerminator
from l7.transport import WOULD_BLOCK, reason_of

#: RFC 8446 section 6.
DECODE_ERROR: Final = 50
UNRECOGNIZED_NAME: Final = 112


class GreetingFailed(Exception):
    """The connection goes no further. `alert`: what the client is to be told (a record); empty: nothing."""

    def __init__(self, reason: str, alert: bytes = b"") -> None:
        super().__init__(reason)
        self.reason = reason
        self.alert = alert


def fatal_alert(description: int) -> bytes:
    """A record with a fatal alert, in the clear, as it may stand before any other answer (RFC 8446 section 6)."""
    return bytes((21, 3, 3, 0, 2, 2, description))


class Greeting:
    """One connection's, from its first byte until OpenSSL takes over. Has no deadline: that is the caller's."""

    __slots__ = ("_low_water", "_terminator", "server_name")

    def __init__(self, terminator: TlsTerminator) -> None:
        self._terminator = terminator
        self._low_water = LowWater()
        self.server_name: str | None = None
        """As the client sent it, once its ClientHello is whole."""

    def go_on(self, sock: socket.socket) -> ssl.SSLSocket | None:
        """Call when the socket is readable. Gives the TLS socket, which has taken `sock` over with its descriptor; None
        as long as the ClientHello is not whole.

        Raises:
            GreetingFailed: it will not be, or nobody here answers to the name in it.
        """
        try:
            data = sock.recv(MAX_HELLO_BYTES, socket.MSG_PEEK)
        except WOULD_BLOCK:
            return None
        except OSError as error:
            raise GreetingFailed(reason_of(error)) from error
        if not data:
            raise GreetingFailed("closed_before_hello")
        try:
            hello = read_client_hello(data)
        except Incomplete as incomplete:
            if not self._low_water.wait(sock, len(data), incomplete.needed):
                raise GreetingFailed("closed_in_hello") from None
            return None
        except NotAClientHello as refused:
            # Who does not speak TLS would not understand an alert.
            alert = b"" if refused.reason == "not_tls" else fatal_alert(DECODE_ERROR)
            raise GreetingFailed(f"hello_{refused.reason}", alert) from refused
        self.server_name = hello.server_name
        context = self._terminator.choose(hello)
        if context is None:
            raise GreetingFailed("unrecognized_name", fatal_alert(UNRECOGNIZED_NAME))
        try:
            self._low_water.lower(sock)
            return context.wrap_socket(sock, server_side=True, do_handshake_on_connect=False, suppress_ragged_eofs=True)
        except OSError as error:
            raise GreetingFailed(reason_of(error)) from error
