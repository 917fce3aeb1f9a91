"""The client's connection: reads requests, starts an exchange for each, writes responses.

```
          head whole, no body                      exchange over
 HEAD ──────────────────────────▶ WAITING ──────────────────────────▶ HEAD, or CLOSED
   └──head whole──▶ BODY ──end of body──▶ ┘ └──the server speaks WebSocket──▶ TUNNEL ──▶ CLOSED
```

Rules:

1. Parsing stops at the end of a message until its exchange is over. What a pipelining client sent behind it waits,
   bounded: above `MAX_WAITING_BYTES` the client is not read.
2. Whatever breaks a rule is answered once and ends the connection; it is never repaired (RFC 9112 section 11).
3. A response is framed anew: its length if it is known, else chunked; an HTTP/1.0 client gets it until the close.
4. The connection ends after a response if the client asked for it, if the request was not whole, if its length cannot
   be told, if the proxy says goodbye, or if the proxy answered by itself with more requests waiting already (which
   bounds what one step of a pipelining client can cost).
5. What a client sends behind a handshake for WebSocket waits like what is pipelined, and is never read as a request:
   it goes into the tunnel, or, if there will be none, is thrown away with the connection.
"""

from enum import Enum, auto
from typing import Final

from l7 import limits
from l7.exchange import Exchange
from l7.protocol.http1 import syntax
from l7.protocol.http1.body import ChunkedDecoder
from l7.protocol.http1.head import RequestHeadReader
from l7.protocol.message import UNKNOWN, ResponseHead, Trailers, unread_head
from l7.protocol.violation import BadBody, BadRequest
from l7.shell import Flow, Services, Transport
from l7.sides import ClientUser


class _Reading(Enum):
    HEAD = auto()
    FIXED = auto()
    CHUNKED = auto()
    WAITING = auto()
    TUNNEL = auto()
    CLOSED = auto()


_HEAD: Final = _Reading.HEAD
_FIXED: Final = _Reading.FIXED
_CHUNKED: Final = _Reading.CHUNKED
_WAITING: Final = _Reading.WAITING
_TUNNEL: Final = _Reading.TUNNEL
_CLOSED: Final = _Reading.CLOSED


class ServerConnection:
    """One client connection. The shell makes it when the connection (and its TLS handshake) is done."""

    __slots__ = (
        "_blocked",
        "_buffer",
        "_chunks",
        "_empty_lines",
        "_flow",
        "_head_begun",
        "_head_reader",
        "_http11",
        "_keep",
        "_more_waiting",
        "_paused",
        "_reading",
        "_remaining",
        "_response_chunked",
        "_services",
        "_stepping",
        "_trailers_read",
        "_transport",
        "closing",
        "exchange",
        "set_deadline",
    )

    def __init__(self, transport: Transport, services: Services, flow: Flow, *, closing: bool = False) -> None:
        """Asks at once for a deadline. `closing`: the first response shall be the last (a draining proxy)."""
        self.closing = closing
        """Whether the next response head says `Connection: close`. The shell may set it at any time."""
        self.exchange: ClientUser | None = None
        """The request in progress, or the tunnel that it became: None between two requests."""
        self._transport = transport
        self.set_deadline = transport.set_deadline
        """Call `deadline_passed` in so many seconds; replaces the deadline before."""
        self._services = services
        self._flow = flow
        self._head_reader = RequestHeadReader()
        self._chunks = ChunkedDecoder()
        self._reading = _HEAD
        self._buffer = b""
        self._remaining = 0
        self._empty_lines = 0
        self._head_begun = False
        self._stepping = False
        self._more_waiting = False
        self._paused = False
        self._blocked = False
        self._http11 = True
        self._keep = True
        self._response_chunked = False
        self._trailers_read = False
        self.set_deadline(limits.CLIENT_IDLE_S)

    @property
    def is_idle(self) -> bool:
        """No request is in progress and no byte of the next one has come."""
        return self._reading is _HEAD and not self._buffer

    @property
    def is_tunnel(self) -> bool:
        """A handshake for WebSocket has succeeded."""
        return self._reading is _TUNNEL

    # -- Told by the shell ---------------------------------------------------------------------------------------------

    def receive(self, data: bytes) -> None:
        """Bytes from the client, not empty. Raises nothing: bad input is answered, logged, and ends the connection."""
        if self._buffer:
            data = self._buffer + data
            self._buffer = b""
        self._step(data)

    def end_of_input(self) -> None:
        """The client has ended its side in order (recv gave no bytes). Whoever half-closes is taken to be gone, as by
        nginx (its status 499); but for a tunnel, which has closing handshakes of its own."""
        if self._reading is _CLOSED:
            return
        if self._reading is _TUNNEL and self.exchange is not None:
            self.exchange.request_end()
            return
        answering = self.exchange is not None
        self._gone("client_closed")
        if answering:
            self._transport.abort()
        else:
            self._transport.close()

    def lost(self, detail: str) -> None:
        """The connection broke (reset, TLS error); the transport is closed already."""
        if self._reading is not _CLOSED:
            self._gone(detail)

    def output_blocked(self) -> None:
        """The transport's queue is above its high-water mark."""
        self._blocked = True
        if self.exchange is not None:
            self.exchange.client_blocked()

    def output_drained(self) -> None:
        """The transport's queue is below its low-water mark again."""
        self._blocked = False
        if self.exchange is not None:
            self.exchange.client_drained()
        else:
            self._go_on()

    def deadline_passed(self) -> None:
        """The time given to `Transport.set_deadline` is over."""
        if self.exchange is not None:
            self.exchange.deadline_passed()
        elif self._reading is _CLOSED:
            return
        elif self._head_begun:
            self._refuse(BadRequest(408, "request_head_timeout"))
        else:
            self._close()

    def close_after_response(self) -> None:
        """The next response is the last."""
        self.closing = True

    def stay(self) -> None:
        """The goodbye is withdrawn."""
        self.closing = False

    def goodbye(self) -> None:
        """A draining proxy waits no longer for this connection: closes it if it is idle; else the next response head
        says `Connection: close`."""
        self.closing = True
        if self.is_idle:
            self._close()
        elif self.exchange is not None:
            self.exchange.goodbye()

    # -- Told by the exchange ------------------------------------------------------------------------------------------

    def send_continue(self) -> None:
        """Say `100 Continue`."""
        self._transport.send(b"HTTP/1.1 100 Continue\r\n\r\n")

    def send_interim(self, head: ResponseHead) -> None:
        """Pass a 1xx head on; HTTP/1.0 has none (RFC 9110 section 15.2)."""
        if self._http11:
            status_line = syntax.STATUS_LINES[head.status]
            self._transport.send(b"\r\n".join([status_line, *map(syntax.field_line, head.headers), b"\r\n"]))

    def send_head(self, head: ResponseHead, *, last: bool) -> None:
        """Send the final head. `last`: the connection cannot go on after this response."""
        keep = self._keep and not (last or self.closing or self._more_waiting)
        content_length = head.content_length
        self._response_chunked = False
        if content_length is not None:
            framing = b"content-length: %d\r\n" % content_length
        elif head.length != UNKNOWN:
            framing = b""
        elif self._http11:
            self._response_chunked = True
            framing = b"transfer-encoding: chunked\r\n"
        else:
            framing = b""
            keep = False
        self._keep = keep
        if not keep:
            end = b"connection: close\r\n\r\n"
        elif self._http11:
            end = b"\r\n"
        else:
            end = b"connection: keep-alive\r\n\r\n"
        status_line = syntax.STATUS_LINES[head.status]
        self._transport.send(b"\r\n".join([status_line, *map(syntax.field_line, head.headers), framing + end]))

    def open_tunnel(self, tunnel: ClientUser, head: ResponseHead) -> None:
        """Say that the server has switched to WebSocket; `tunnel` is told of the client from now on."""
        self.exchange = tunnel
        self._reading = _TUNNEL
        self._response_chunked = False
        status_line = syntax.STATUS_LINES[101] + b"\r\nconnection: upgrade\r\nupgrade: websocket"
        self._transport.send(b"\r\n".join([status_line, *map(syntax.field_line, head.headers), b"\r\n"]))
        self._go_on()

    def send_body(self, data: bytes) -> None:
        """Send bytes of the body, framed."""
        if self._response_chunked:
            data = b"%x\r\n%b\r\n" % (len(data), data)
        self._transport.send(data)

    def pause_request(self) -> None:
        """Read no more of the request's body. Idempotent."""
        if not self._paused:
            self._paused = True
            self._transport.pause_reading()

    def resume_request(self) -> None:
        """Undo `pause_request`. Idempotent."""
        if self._paused and len(self._buffer) <= limits.MAX_WAITING_BYTES:
            self._paused = False
            self._transport.resume_reading()

    def exchange_over(self, *, whole: bool, trailers: Trailers = ()) -> None:
        """The response's body is complete, and with it the exchange is over. `whole`: the request is complete, too; if
        not, the connection ends here. `trailers`: sent to a client that reads them."""
        self.exchange = None
        if self._response_chunked:
            self._transport.send(syntax.last_chunk(trailers if self._trailers_read else ()))
        # A goodbye that came after the head was sent waits for the next response: a client that was not told may be
        # sending its next request right now (RFC 9112 section 9.5).
        if not (whole and self._keep):
            self._close()
            return
        self._reading = _HEAD
        self.set_deadline(limits.CLIENT_IDLE_S)
        if not self._stepping and (self._buffer or self._paused):
            self._go_on()

    def abort_exchange(self) -> None:
        """The exchange is over, and its response is not: cut it visibly."""
        self.exchange = None
        self._reading = _CLOSED
        self._transport.abort()

    # -- Inside --------------------------------------------------------------------------------------------------------

    def _step(self, data: bytes) -> None:
        """Take what can be taken now; keep the rest."""
        self._stepping = True
        try:
            while data:
                reading = self._reading
                exchange = self.exchange
                if reading is _CLOSED:
                    return
                if exchange is None:
                    if self._blocked:
                        break  # the responses before must leave first
                    rest = self._read_head(data)
                    if rest is None:
                        break
                    data = rest
                elif reading is _FIXED:
                    data = self._read_fixed(exchange, data)
                elif reading is _CHUNKED:
                    data = self._read_chunked(exchange, data)
                elif reading is _TUNNEL:
                    exchange.request_body(data)
                    return
                else:
                    break
        except BadRequest as refused:
            self._refuse(refused)
            return
        finally:
            self._stepping = False
        if data:
            self._buffer = data
            if len(data) > limits.MAX_WAITING_BYTES:
                self.pause_request()

    def _go_on(self) -> None:
        """Between two requests: read the client again, and take up what has waited."""
        waiting = self._buffer
        self._buffer = b""
        self.resume_request()
        if waiting:
            self._step(waiting)

    def _read_head(self, data: bytes) -> bytes | None:
        """Read one head and begin its exchange; gives the bytes after it, or None if the head is not whole yet."""
        if data[:1] in b"\r\n" and data[:2] == b"\r\n":
            self._empty_lines += 1
            if self._empty_lines > limits.MAX_LEADING_EMPTY_LINES:
                raise BadRequest(400, "empty_lines")
            return data[2:]
        end = data.find(b"\r\n\r\n", 0, limits.MAX_REQUEST_HEAD_BYTES)
        if end < 0:
            self._await_head(data)
            return None
        end += 4
        try:
            head, minor = self._head_reader.read(data[:end])
        except BadRequest:
            # Of several rules, this one is seen first in a head that comes in pieces; so it is named first in any.
            if reason := syntax.bare_line_end(data[:end]):
                raise BadRequest(400, reason) from None
            raise
        self._head_begun = False
        self._empty_lines = 0
        self._http11 = minor == 1
        self._keep = head.keep_alive and head.websocket_key is None
        self._trailers_read = head.accepts_trailers
        exchange = self.exchange = Exchange(self, self._services, self._flow, head)
        length = head.length
        if length == 0:
            self._reading = _WAITING
            if end < len(data):
                self._more_waiting = True
        elif length == UNKNOWN:
            self._reading = _CHUNKED
            self._chunks = ChunkedDecoder()
        else:
            self._reading = _FIXED
            self._remaining = length
        exchange.begin()
        self._more_waiting = False
        return data[end:]

    def _await_head(self, data: bytes) -> None:
        """The head is not whole: refuse now what no further byte can mend."""
        data = data[: limits.MAX_REQUEST_HEAD_BYTES]
        if reason := syntax.bare_line_end(data):
            raise BadRequest(400, reason)
        if len(data) == limits.MAX_REQUEST_HEAD_BYTES:
            if b"\r\n" in data:
                raise BadRequest(431, "head_too_large")
            raise BadRequest(414, "target_too_long")
        if not self._head_begun:
            # Counts from the first byte and is not renewed: a head may not trickle in for ever.
            self._head_begun = True
            self.set_deadline(limits.REQUEST_HEAD_S)

    def _read_fixed(self, exchange: ClientUser, data: bytes) -> bytes:
        body = data[: self._remaining]
        self._remaining -= len(body)
        exchange.request_body(body)
        if not self._remaining and self._reading is _FIXED:
            self._reading = _WAITING
            exchange.request_end()
        return data[len(body) :]

    def _read_chunked(self, exchange: ClientUser, data: bytes) -> bytes:
        try:
            body, consumed = self._chunks.decode(data)
        except BadBody as bad:
            self._keep = False
            exchange.request_broke(400, bad.reason)
            return b""
        if body:
            exchange.request_body(body)
        if self._chunks.done and self._reading is _CHUNKED:
            self._reading = _WAITING
            exchange.request_end(self._chunks.trailers)
        return data[consumed:]

    def _refuse(self, refused: BadRequest) -> None:
        """Answer a head that broke a rule, and end the connection."""
        self._keep = False
        self._reading = _WAITING
        self._begin_unread().refuse(refused.status, refused.reason)

    def _gone(self, detail: str) -> None:
        exchange = self.exchange
        if exchange is None and self._head_begun:
            exchange = self._begin_unread()
        self._reading = _CLOSED
        self._buffer = b""
        self.exchange = None
        if exchange is not None:
            exchange.client_gone(detail)

    def _begin_unread(self) -> Exchange:
        """An exchange for a head that could not be read (whole), so that it is answered and logged like any other."""
        reader = self._head_reader
        head = unread_head(reader.method, reader.target, keep_alive=False)
        exchange = self.exchange = Exchange(self, self._services, self._flow, head)
        return exchange

    def _close(self) -> None:
        self._reading = _CLOSED
        self._buffer = b""
        self._transport.close()

    def __repr__(self) -> str:
        return f"ServerConnection({self._flow.client}, {self._reading.name.lower()}, {self.exchange!r})"
