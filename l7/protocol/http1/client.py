"""A connection to a server: writes requests, reads responses.

```
 IDLE ──send_request──▶ HEAD ──final head──▶ BODY ──end of body──▶ IDLE (reusable) or SPENT
                        ▲  └─1xx─┘            BODY is one of: fixed length, chunked, until the connection closes
                                              (as a tunnel's bytes are, behind 101)
```

Rules: a response is read only while an exchange waits for one; bytes after its end, or before a request, make the
connection unusable (RFC 9112 section 9.2 has no room for them, and they are how responses get swapped); so does an
answer that came before the whole request had been sent.
"""

from enum import Enum, auto
from typing import Final, cast

from l7 import limits
from l7.protocol.http1 import syntax
from l7.protocol.http1.body import ChunkedDecoder
from l7.protocol.http1.head import ResponseHeadReader
from l7.protocol.message import UNKNOWN, RequestHead, ResponseHead, Trailers
from l7.protocol.violation import BadBody, BadResponse
from l7.shell import Transport
from l7.sides import UpstreamListener, UpstreamUser

#: RFC 9110 section 7.6.3 asks it of every gateway; it also ends routing loops' mystery. By the client's version.
_VIA: Final = {version: b"via: %b edgefleet" % version for version in (b"1.0", b"1.1", b"2", b"3")}

#: Only who is told that trailers are read sends some that matter (RFC 9110 sections 6.5.1 and 10.1.4).
_TRAILERS_READ: Final = b"\r\nte: trailers\r\nconnection: te"

_UPGRADE: Final = b"\r\nconnection: upgrade\r\nupgrade: websocket"


class _Reading(Enum):
    IDLE = auto()
    HEAD = auto()
    FIXED = auto()
    CHUNKED = auto()
    UNTIL_CLOSE = auto()
    SPENT = auto()


_IDLE: Final = _Reading.IDLE
_HEAD: Final = _Reading.HEAD
_FIXED: Final = _Reading.FIXED
_CHUNKED: Final = _Reading.CHUNKED
_UNTIL_CLOSE: Final = _Reading.UNTIL_CLOSE
_SPENT: Final = _Reading.SPENT


class UpstreamConnection:
    """One connection to a server, used by one exchange after the other. The shell makes it and keeps it in its pool."""

    __slots__ = (
        "_buffer",
        "_chunks",
        "_head_reader",
        "_keep_alive",
        "_reading",
        "_remaining",
        "_request_chunked",
        "_request_open",
        "_to_head",
        "_touched",
        "_transport",
        "_websocket_key",
        "exchange",
        "server",
    )

    def __init__(self, transport: Transport, server: str) -> None:
        self.server = server
        """Name of the server, for the log."""
        self.exchange: UpstreamListener | None = None
        """Whom it serves now. None: it is idle, and bytes or an end of input then mean that the shell must close it
        (without telling the connection)."""
        self._transport = transport
        self._head_reader = ResponseHeadReader()
        self._reading = _IDLE
        self._buffer = b""
        self._chunks = ChunkedDecoder()
        self._remaining = 0
        self._keep_alive = True
        self._request_chunked = False
        self._request_open = False
        self._to_head = False
        self._touched = False
        self._websocket_key: bytes | None = None

    # -- Told by the exchange ------------------------------------------------------------------------------------------

    @property
    def takes_websockets(self) -> bool:
        """Whoever speaks HTTP/1.1 can be asked."""
        return True

    def send_request(self, exchange: UpstreamUser, head: RequestHead, extra: bytes) -> None:
        """Begin a request. `extra`: header lines of ours, without the last line's end."""
        self.exchange = exchange
        self._reading = _HEAD
        self._touched = False
        self._keep_alive = True
        self._to_head = head.method == b"HEAD"
        length = head.length
        self._request_open = length != 0
        self._request_chunked = length == UNKNOWN
        if length == UNKNOWN:
            framing = b"transfer-encoding: chunked\r\n\r\n"
        elif length or head.method in _WITH_BODY:
            # RFC 9110 section 8.6: a method that usually has a body says that there is none.
            framing = b"content-length: %d\r\n\r\n" % length
        else:
            framing = b"\r\n"
        key = self._websocket_key = head.websocket_key
        if key is not None:
            extra += _UPGRADE
        elif head.accepts_trailers:
            extra += _TRAILERS_READ
        start = b"%b %b%b HTTP/1.1\r\nhost: %b" % (head.method, head.path, head.query, head.authority)
        self._transport.send(
            b"\r\n".join([start, *map(syntax.field_line, head.headers), extra, _VIA[head.version], framing])
        )

    def send_body(self, data: bytes) -> None:
        """Send bytes of the body, framed."""
        if self._request_chunked:
            data = b"%x\r\n%b\r\n" % (len(data), data)
        self._transport.send(data)

    def send_end(self, trailers: Trailers = ()) -> None:
        """The body is whole."""
        if self._request_chunked:
            self._transport.send(syntax.last_chunk(trailers))
        self._request_open = False

    def pause_reading(self) -> None:
        """Read no more of the response. Idempotent."""
        self._transport.pause_reading()

    def resume_reading(self) -> None:
        """Undo `pause_reading`. Idempotent."""
        self._transport.resume_reading()

    def open_tunnel(self, tunnel: UpstreamListener) -> None:
        """The server has switched to WebSocket: from now on `tunnel` is told what it does."""
        self.exchange = tunnel
        self._reading = _UNTIL_CLOSE

    def abort(self) -> None:
        """Reset the connection when it is released."""
        self._transport.abort()

    def detach(self) -> None:
        """The exchange is done with it; it is told no more."""
        self.exchange = None

    # -- Told by the shell ---------------------------------------------------------------------------------------------

    def receive(self, data: bytes) -> None:
        """Bytes from the server, not empty, while an exchange uses it."""
        exchange = self.exchange
        if exchange is None:
            self._reading = _SPENT
            return
        self._touched = True
        try:
            self._read(exchange, data)
        except (BadResponse, BadBody) as bad:
            self._reading = _SPENT
            exchange.upstream_broke(bad.reason)

    def end_of_input(self) -> None:
        """The server has ended its side in order."""
        exchange = self.exchange
        reading = self._reading
        self._reading = _SPENT
        if exchange is None:
            return
        if reading is _UNTIL_CLOSE:
            self.exchange = None
            exchange.response_end(reusable=False)
        else:
            exchange.upstream_lost(self._where(reading), untouched=not self._touched, nothing_sent=False)

    def lost(self, detail: str, *, nothing_sent: bool = False) -> None:
        """The connection broke. `nothing_sent`: not one byte of the present request has left, so it can be retried
        whatever its method."""
        exchange = self.exchange
        self._reading = _SPENT
        if exchange is not None:
            exchange.upstream_lost(detail, untouched=not self._touched, nothing_sent=nothing_sent)

    def output_blocked(self) -> None:
        """The transport's queue is above its high-water mark."""
        if self.exchange is not None:
            self.exchange.upstream_blocked()

    def output_drained(self) -> None:
        """The transport's queue is below its low-water mark again."""
        if self.exchange is not None:
            self.exchange.upstream_drained()

    # -- Inside --------------------------------------------------------------------------------------------------------

    def _read(self, exchange: UpstreamListener, data: bytes) -> None:
        while self._reading is _HEAD:
            # Who awaits a head is an exchange.
            rest = self._read_head(cast("UpstreamUser", exchange), data)
            if rest is None:
                return
            data = rest
        reading = self._reading
        # A connection that was let go in the meantime has no use for what follows.
        if self.exchange is not exchange or not data:
            if data:
                self._reading = _SPENT
            elif self.exchange is exchange:
                exchange.response_paused()
            return
        if reading is _FIXED:
            excess = len(data) - self._remaining
            if excess > 0:
                self._keep_alive = False
                data = data[:-excess]
            self._remaining -= len(data)
            exchange.response_body(data)
            if not self._remaining:
                self._end(exchange)
                return
        elif reading is _CHUNKED:
            chunks = self._chunks
            body, consumed = chunks.decode(data)
            if body:
                exchange.response_body(body)
            if chunks.done:
                if consumed < len(data):
                    self._keep_alive = False
                self._end(exchange, chunks.trailers)
                return
        elif reading is _UNTIL_CLOSE:
            exchange.response_body(data)
        if self.exchange is exchange:
            exchange.response_paused()

    def _read_head(self, exchange: UpstreamUser, data: bytes) -> bytes | None:
        """Read one head and hand it on; gives the bytes after it, or None if the head is not whole yet."""
        if self._buffer:
            data = self._buffer + data
        end = data.find(b"\r\n\r\n", 0, limits.MAX_RESPONSE_HEAD_BYTES)
        if end < 0:
            if reason := syntax.bare_line_end(data[: limits.MAX_RESPONSE_HEAD_BYTES]):
                raise BadResponse(reason)
            if len(data) >= limits.MAX_RESPONSE_HEAD_BYTES:
                raise BadResponse("head_too_large")
            self._buffer = data
            return None
        end += 4
        self._buffer = b""
        try:
            head, chunked, keep_alive = self._head_reader.read(
                data[:end], to_head=self._to_head, key=self._websocket_key
            )
        except BadResponse:
            # Of several rules, this one is seen first in a head that comes in pieces; so it is named first in any.
            if reason := syntax.bare_line_end(data[:end]):
                raise BadResponse(reason) from None
            raise
        if head.status == 101:
            self._upgrade(exchange, head, data[end:])
            return None
        if head.status < 200:
            exchange.interim_head(head)
            return data[end:] if self.exchange is exchange else None
        self._keep_alive = self._keep_alive and keep_alive
        length = head.length
        if length == 0 and end < len(data):
            self._keep_alive = False  # bytes that nobody asked for
        exchange.response_head(head)
        if length == 0:
            self._end(exchange)
            return None
        if length > 0:
            self._reading = _FIXED
            self._remaining = length
        elif chunked:
            self._reading = _CHUNKED
            self._chunks = ChunkedDecoder()
        else:
            self._reading = _UNTIL_CLOSE
        return data[end:]

    def _upgrade(self, exchange: UpstreamUser, head: ResponseHead, rest: bytes) -> None:
        exchange.upgraded(head)
        tunnel = self.exchange
        if tunnel is not None and rest:
            tunnel.response_body(rest)

    def _end(self, exchange: UpstreamListener, trailers: Trailers = ()) -> None:
        reusable = self._keep_alive and not self._request_open
        self._reading = _IDLE if reusable else _SPENT
        self.exchange = None
        exchange.response_end(reusable=reusable, trailers=trailers)

    def _where(self, reading: _Reading) -> str:
        if reading is not _HEAD:
            return "upstream_closed_in_body"
        return "upstream_closed_in_head" if self._touched else "upstream_closed_before_head"

    def __repr__(self) -> str:
        return f"UpstreamConnection({self.server}, {self._reading.name.lower()})"


_WITH_BODY: Final = frozenset((b"POST", b"PUT", b"PATCH"))
