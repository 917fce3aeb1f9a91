"""What counts as broken, decided in one place.

1. A flow is broken if it is reset, cut short, corrupt, answered with something else, refused, or silent for too long.
2. A server may end a connection between two answers: by `Connection: close` on an answer, or by closing it cleanly
   while nothing is under way. That is how HTTP/1.1 says goodbye (RFC 9112 section 9.6), not breakage.
3. If a clean close and a request cross on the wire and no byte of an answer came, the client may send the request
   again on a new connection (RFC 9112 section 9.3.1). Once; and it is counted. A reset is never excused.
"""

import errno
import ssl
from enum import StrEnum

import trio

#: Longest silence, in seconds, that a flow may show while bytes are due. It holds what TCP itself may need on a path
#: that loses packets while routes change: a SYN lost twice is sent again after 1 and 3 s (RFC 6298), and the
#: retransmission time-outs of 0.2, 0.4, 0.8 and 1.6 s of an established flow. A person would have pressed "reload".
SILENCE_BOUND_S = 5.0

#: An answer, or a connection, that takes longer is told of: less than the second after which a SYN that was lost is
#: sent again (RFC 6298), more than the two retransmissions that an established flow needs to bridge a change of routes.
SLOW_S = 0.8


class Breakage(StrEnum):
    """How a flow or a request broke."""

    RESET = "reset"
    """RST, or a TLS alert: the other end does not know the connection."""
    TRUNCATED = "truncated"
    """Closed before all bytes came."""
    CORRUPT = "corrupt"
    """Bytes that are not those that were sent."""
    UNEXPECTED_ANSWER = "unexpected-answer"
    """Not HTTP, or not the status that was due: a 502 is a broken promise too."""
    SILENT = "silent"
    """No byte for `SILENCE_BOUND_S` while bytes were due."""
    REFUSED = "refused"
    """No connection: refused, unreachable, or no TLS."""


class Broken(Exception):
    """A flow or request broke."""

    def __init__(self, how: Breakage, detail: str) -> None:
        super().__init__(f"{how.value}: {detail}")
        self.how = how
        self.detail = detail


class ClosedBeforeAnswer(Exception):
    """The server closed cleanly, and no byte of the answer to the latest request had come."""


def breakage_of(error: BaseException) -> Broken:
    """What a failed read or write of an established TLS connection means."""
    cause = error.__cause__ if isinstance(error, trio.BrokenResourceError) else error
    if isinstance(cause, ssl.SSLError):
        # A record that does not decrypt was altered on its way; an alert is the other end giving up.
        if "alert" in str(cause).lower():
            return Broken(Breakage.RESET, f"TLS: {cause.reason or cause}")
        return Broken(Breakage.CORRUPT, f"TLS: {cause.reason or cause}")
    if isinstance(cause, OSError) and cause.errno in (errno.ECONNRESET, errno.EPIPE):
        return Broken(Breakage.RESET, "the connection was reset")
    if isinstance(cause, OSError) and cause.errno == errno.ETIMEDOUT:
        return Broken(Breakage.SILENT, "TCP gave up: nothing was acknowledged")
    return Broken(Breakage.RESET, f"{type(cause).__name__}: {cause}")
