"""A stream of a connection to a server: where the exchange of its request touches HTTP/2."""

from typing import Protocol

from l7.protocol.http2.frames import ErrorCode
from l7.protocol.http2.stream import Stream
from l7.protocol.message import UNKNOWN, RequestHead, Trailers
from l7.sides import UpstreamListener, UpstreamUser


class StreamCarrier(Protocol):
    """The connection, as its streams use it (`ClientConnection`)."""

    server: str

    @property
    def takes_websockets(self) -> bool:
        """The server understands extended CONNECT."""

    def begin(self, stream: "ClientStream", head: RequestHead, extra: bytes) -> None:
        """Send a request's head."""

    def send_body(self, stream: "ClientStream", data: bytes) -> None:
        """Send bytes, or keep them, and then ask for no more."""

    def end_request(self, stream: "ClientStream") -> None:
        """No more will be written to the stream."""

    def pause(self, stream: "ClientStream") -> None:
        """Nothing is given back to the stream's window."""

    def resume(self, stream: "ClientStream") -> None:
        """Go on with it."""


class ClientStream(Stream):
    """A request: where its exchange touches the connection (`l7.sides.UpstreamSide`)."""

    __slots__ = (
        "_connection",
        "_left",
        "answered",
        "broken",
        "exchange",
        "remaining",
        "server",
        "to_head",
        "touched",
        "websocket_key",
    )

    def __init__(self, connection: StreamCarrier, send_window: int) -> None:
        """It has no number until its request is sent."""
        super().__init__(0, send_window)
        self._connection = connection
        self.server = connection.server
        self.exchange: UpstreamListener | None = None
        self.broken = ErrorCode.CANCEL
        """What it is reset with, if it is."""
        self.to_head = False
        self.touched = False
        """Something of the response has come."""
        self.answered = False
        """The final head has come."""
        self.remaining = UNKNOWN
        """Bytes that the response's content-length still promises."""
        self.websocket_key: bytes | None = None
        """As the exchange has it: of a handshake that an extended CONNECT stands for."""
        self._left = UNKNOWN
        """Bytes that the request's content-length still promises."""

    @property
    def takes_websockets(self) -> bool:
        """The server's settings say so (RFC 8441 section 3)."""
        return self._connection.takes_websockets

    def send_request(self, exchange: UpstreamUser, head: RequestHead, extra: bytes) -> None:
        """Begin the request. `extra`: header lines of ours, without the last line's end."""
        self.exchange = exchange
        self.to_head = head.method == b"HEAD"
        self.websocket_key = head.websocket_key
        self._left = head.length if head.websocket_key is None else UNKNOWN
        self._connection.begin(self, head, extra)

    def send_body(self, data: bytes) -> None:
        """Send bytes of the body; the last ones carry the end, if their number was known."""
        if self.ended or not data:
            return
        if self._left != UNKNOWN:
            self._left -= len(data)
            if self._left <= 0:
                self.to_end = True
        self._connection.send_body(self, data)

    def send_end(self, trailers: Trailers = ()) -> None:
        """The body is whole."""
        if not self.ended:
            self.trailers = trailers
            self._connection.end_request(self)

    def pause_reading(self) -> None:
        """Let the server send no more than the window. Idempotent."""
        self._connection.pause(self)

    def resume_reading(self) -> None:
        """Undo `pause_reading`. Idempotent."""
        self._connection.resume(self)

    def open_tunnel(self, tunnel: UpstreamListener) -> None:
        """The server has switched to WebSocket: from now on `tunnel` is told what it does."""
        self.exchange = tunnel

    def abort(self) -> None:
        """Reset the stream when it is released: with CANCEL, as RFC 8441 section 5 has it."""
        self.broken = ErrorCode.CANCEL

    def detach(self) -> None:
        """The exchange is done with it; it is told no more."""
        self.exchange = None

    def output_drained(self) -> None:
        """Let the client go on."""
        if self.exchange is not None:
            self.exchange.upstream_drained()

    def where(self) -> str:
        """How far the response has come, for the log."""
        return "upstream_closed_in_body" if self.answered else "upstream_closed_before_head"
