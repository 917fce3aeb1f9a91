"""A stream of a client's connection: where the exchange of its request touches HTTP/2."""

from collections.abc import Callable
from typing import Protocol

from l7.protocol.http2 import fields
from l7.protocol.http2.frames import ErrorCode
from l7.protocol.http2.stream import Stream
from l7.protocol.message import UNKNOWN, ResponseHead, Trailers
from l7.protocol.violation import BadRequest
from l7.sides import ClientUser
from l7.timers import NEVER


class StreamOwner(Protocol):
    """The connection, as its streams use it (`Http2Connection`)."""

    def send_headers(self, stream: "ServerStream", block: bytes, *, end: bool) -> None:
        """Send a header block."""

    def send_body(self, stream: "ServerStream", data: bytes) -> None:
        """Send bytes, or keep them, and then ask for no more."""

    def pause(self, stream: "ServerStream") -> None:
        """Nothing is given back to the stream's window."""

    def resume(self, stream: "ServerStream") -> None:
        """Go on with it."""

    def set_stream_deadline(self, stream: "ServerStream", seconds: float | None) -> None:
        """Give a stream another deadline."""

    def end_response(self, stream: "ServerStream", trailers: Trailers) -> None:
        """No more will be written to the stream."""

    def response_left(self, stream: "ServerStream") -> None:
        """The end of the response was sent."""

    def reset(self, stream: "ServerStream", code: ErrorCode) -> None:
        """End a stream at once."""


class ServerStream(Stream):
    """A request: where its exchange touches the connection (`l7.sides.ClientSide`)."""

    __slots__ = (
        "_connection",
        "_left",
        "answered",
        "broken",
        "deadline",
        "exchange",
        "is_reset",
        "is_tunnel",
        "patience",
        "refusal",
        "remaining",
    )

    def __init__(self, connection: StreamOwner, stream_id: int, send_window: int) -> None:
        super().__init__(stream_id, send_window)
        self._connection = connection
        self.exchange: ClientUser | None = None
        self.deadline = NEVER
        """In the clock of `Services.now`."""
        self.patience: Callable[[float | None], float | None] | None = None
        """What an exchange with a deadline of its own makes of another's."""
        self.is_reset = False
        """By the client."""
        self.broken: ErrorCode | None = None
        """A rule was broken: the stream ends with this code."""
        self.refusal: BadRequest | None = None
        """How the broken rule is answered, if it still can be."""
        self.answered = False
        """The head of the answer has been sent."""
        self.is_tunnel = False
        """A handshake for WebSocket has succeeded."""
        self.remaining = UNKNOWN
        """Bytes that the request's content-length still promises."""
        self._left = UNKNOWN
        """Bytes that the response's content-length still promises."""

    def send_continue(self) -> None:
        """Say `100 Continue`."""
        self._connection.send_headers(self, fields.STATUS_LINES[100], end=False)

    def send_interim(self, head: ResponseHead) -> None:
        """Pass a 1xx head on."""
        self._connection.send_headers(self, fields.STATUS_LINES[head.status] + fields.write(head.headers), end=False)

    def send_head(self, head: ResponseHead, *, last: bool) -> None:
        """Send the final head; with it the end, if no body follows. `last` is of no concern: only the stream ends."""
        block = fields.STATUS_LINES[head.status] + fields.write(head.headers)
        if head.content_length is not None:
            block += fields.write_line((b"content-length", b"%d" % head.content_length))
        self._left = head.length
        self.answered = True
        self._connection.send_headers(self, block, end=head.length == 0)

    def open_tunnel(self, tunnel: ClientUser, head: ResponseHead) -> None:
        """Say that the server has switched to WebSocket: by 200, without an answer to a key (RFC 8441 section 5)."""
        self.exchange = tunnel
        self.is_tunnel = self.answered = True
        headers = [field for field in head.headers if field[0] != b"sec-websocket-accept"]
        self._connection.send_headers(self, fields.STATUS_LINES[200] + fields.write(headers), end=False)

    def send_body(self, data: bytes) -> None:
        """Send bytes of the body; the last ones carry the end, if their number was known."""
        if self.ended or not data:
            return
        if self._left != UNKNOWN:
            self._left -= len(data)
            if self._left <= 0:
                self.to_end = True
        self._connection.send_body(self, data)

    def pause_request(self) -> None:
        """Let the client send no more than its window. Idempotent."""
        self._connection.pause(self)

    def resume_request(self) -> None:
        """Undo `pause_request`. Idempotent."""
        self._connection.resume(self)

    def set_deadline(self, seconds: float | None) -> None:
        """Call the exchange's `deadline_passed` in so many seconds."""
        self._connection.set_stream_deadline(self, self.patience(seconds) if self.patience is not None else seconds)

    def exchange_over(self, *, whole: bool, trailers: Trailers = ()) -> None:
        """The response is complete: end the stream."""
        self.exchange = None
        self._connection.end_response(self, trailers)

    def abort_exchange(self) -> None:
        """Cut the response visibly."""
        self.exchange = None
        # RFC 8441 section 5: CANCEL is what a reset of TCP is in HTTP/1.1.
        cut = ErrorCode.CANCEL if self.is_tunnel else ErrorCode.INTERNAL_ERROR
        self._connection.reset(self, self.broken or cut)

    def output_drained(self) -> None:
        """Let the server be read again."""
        if self.exchange is not None:
            self.exchange.client_drained()

    def output_ended(self) -> None:
        """The response has left."""
        self._connection.response_left(self)
