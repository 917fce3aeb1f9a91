"""Heads of messages, whatever the protocol that carried them. Header names are lower-case bytes; hop-by-hop fields,
framing and what only the proxy may say are not in the lists: each codec writes them anew.
"""

from collections.abc import Sequence
from typing import Final

#: Length of a body that is not known beforehand (chunked, or until the connection closes).
UNKNOWN: Final = -1

Headers = list[tuple[bytes, bytes]]

#: Fields behind a body (RFC 9110 section 6.5), of which the codec that read them has left out what has no place there.
Trailers = Sequence[tuple[bytes, bytes]]


class Call:
    """What a request says of itself as a gRPC call."""

    __slots__ = ("timeout_s",)

    def __init__(self, timeout_s: float | None) -> None:
        self.timeout_s = timeout_s
        """How long its client waits from now on; None: for ever."""

    def __repr__(self) -> str:
        return f"Call({self.timeout_s} s)"


class RequestHead:
    """A request as it is routed and written upstream."""

    __slots__ = (
        "accepts_trailers",
        "authority",
        "claims",
        "expects_continue",
        "grpc",
        "headers",
        "host",
        "keep_alive",
        "length",
        "method",
        "path",
        "query",
        "version",
        "websocket_key",
    )

    def __init__(
        self,
        method: bytes,
        path: bytes,
        query: bytes,
        authority: bytes,
        host: bytes,
        headers: Headers,
        length: int,
        keep_alive: bool,
        expects_continue: bool,
        accepts_trailers: bool = False,
    ) -> None:
        self.method = method
        self.path = path
        """As it came; the exchange replaces it by its normal form."""
        self.query = query
        """With its question mark; empty without one."""
        self.authority = authority
        """Host and port as they came; empty if an HTTP/1.0 client named none."""
        self.host = host
        """Lower case, without port."""
        self.headers = headers
        self.length = length
        """Of the body; 0 without one; `UNKNOWN`."""
        self.keep_alive = keep_alive
        """Whether the client wants to go on with the connection."""
        self.expects_continue = expects_continue
        """Whether it waits for `100 Continue` before it sends the body (RFC 9110 section 10.1.1)."""
        self.accepts_trailers = accepts_trailers
        """Whether it has said that it reads trailers of the response (RFC 9110 section 10.1.4)."""
        self.claims: Headers = []
        """What it says about where it came from (X-Forwarded-For, ...), which is not in `headers`: to be believed of
        trusted hops only."""
        self.grpc: Call | None = None
        """What it says of itself as a gRPC call; None: it is none."""
        self.version = b"1.1"
        """As `Via` has it (RFC 9110 section 7.6.3)."""
        self.websocket_key: bytes | None = None
        """Of a handshake for WebSocket, as the server is to be sent it; empty: one is to be made; None: it is none."""

    def __repr__(self) -> str:
        return f"RequestHead({self.method!r} {self.authority!r} {self.path!r}, length {self.length})"


def unread_head(method: bytes, target: bytes, *, keep_alive: bool) -> RequestHead:
    """Of a request that is refused unread, or half read, so that it is answered and logged like any other."""
    # Another form than a path may hold credentials, and is not logged.
    path = target.partition(b"?")[0] if target.startswith(b"/") else b""
    return RequestHead(
        method=method,
        path=path,
        query=b"",
        authority=b"",
        host=b"",
        headers=[],
        length=0,
        keep_alive=keep_alive,
        expects_continue=False,
    )


class ResponseHead:
    """A response as it is written to the client."""

    __slots__ = ("content_length", "headers", "length", "status")

    def __init__(self, status: int, headers: Headers, *, length: int, content_length: int | None) -> None:
        self.status = status
        self.headers = headers
        self.length = length
        """Of the body that follows; 0 if none does (HEAD, 204, 304, ...); `UNKNOWN`."""
        self.content_length = content_length
        """What the head states, which for HEAD and 304 is not what follows; None: nothing."""

    def __repr__(self) -> str:
        return f"ResponseHead({self.status}, length {self.length})"
