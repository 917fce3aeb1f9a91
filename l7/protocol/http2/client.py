"""A connection to a server in HTTP/2: many requests at a time, a stream for each. `server`'s counterpart.

```
 exchange ──(UpstreamSide)──▶ ClientStream ──▶ Outflow ──▶ write
    ▲
    └──(UpstreamUser)── ClientConnection ◀── Session ◀── read
```

Rules:

1. No request leaves before the server's settings are here: then it is known to speak HTTP/2, and how many streams it
   takes. A server of another protocol so never sees one.
2. What breaks one stream ends that one: its exchange is told, and nobody else.
3. A slow client pauses its own stream: what that one has received is not given back to its window, but always to the
   connection's. So at most a window for each stream is held, and nobody waits for anybody.
4. After a GOAWAY (RFC 9113 section 6.8) nothing new is begun here. Streams above the last one that the server will
   process, and those that it refuses (section 8.7), were not processed: safe to send again, whatever they ask for.
5. A stream that its exchange lets go of before both sides have ended it is reset.
6. A server that floods is left when it has used three quarters of an allowance, and closed after that, like a client
   (`floods`).
"""

from collections.abc import Callable
from typing import Final, cast

from l7 import limits
from l7.protocol import websocket
from l7.protocol.http2 import fields, frames
from l7.protocol.http2.client_stream import ClientStream
from l7.protocol.http2.field_rules import RESPONSE_NAMES, read_trailers
from l7.protocol.http2.frames import ConnectionBroken, ErrorCode, StreamBroken
from l7.protocol.http2.response import read_response
from l7.protocol.http2.session import Session
from l7.protocol.http2.stream import Stream
from l7.protocol.message import UNKNOWN, Headers, RequestHead, ResponseHead, Trailers
from l7.protocol.violation import BadBody, BadResponse
from l7.shell import Transport
from l7.sides import UpstreamUser

#: What this side begins with (section 3.4). Pushed responses are wanted by nobody.
_GREETING: Final = (
    frames.PREFACE
    + frames.settings(
        {
            frames.SETTINGS_ENABLE_PUSH: 0,
            frames.SETTINGS_INITIAL_WINDOW_SIZE: limits.H2_STREAM_WINDOW_BYTES,
            frames.SETTINGS_MAX_HEADER_LIST_SIZE: limits.MAX_RESPONSE_HEAD_BYTES,
        }
    )
    + frames.window_update(0, limits.H2_CONNECTION_WINDOW_BYTES - frames.DEFAULT_WINDOW)
)

#: RFC 9110 section 7.6.3, by the client's version.
_VIA: Final = {
    version: fields.write_line((b"via", version + b" edgefleet")) for version in (b"1.0", b"1.1", b"2", b"3")
}
_TRAILERS_READ: Final = fields.write_line((b"te", b"trailers"))
_NO_BODY: Final = fields.write_line((b"content-length", b"0"))
#: RFC 9110 section 8.6: a method that usually has a body says that there is none.
_WITH_BODY: Final = frozenset((b"POST", b"PUT", b"PATCH"))


class ClientConnection:
    """One connection to a server. The shell makes it when the connection (and its TLS handshake) is done."""

    __slots__ = (
        "_closed",
        "_count",
        "_is_full",
        "_leaving",
        "_next_id",
        "_scheme",
        "_session",
        "_transport",
        "_watched",
        "server",
    )

    def __init__(
        self,
        transport: Transport,
        server: str,
        now: Callable[[], float],
        count: Callable[[str], None],
        *,
        encrypted: bool,
    ) -> None:
        """Sends the preface and settings. `server`: its name, for the log. `now`: monotonic seconds. `count`: add one
        to a named counter. `encrypted`: by TLS."""
        self.server = server
        self._transport = transport
        self._count = count
        self._scheme = fields.write_line((b":scheme", b"https" if encrypted else b"http"))
        # What streams may hold in all is bounded by their number: the connection never waits (rule 3).
        self._session = Session(transport, now, preface=b"", most_held=frames.MAX_31_BITS)
        self._next_id = 1
        self._leaving = False
        self._closed = False
        self._is_full = False
        """It has refused a stream, and none has ended since."""
        self._watched = False
        """The end of a header block, or of some other frame, is awaited."""
        transport.send(_GREETING)

    @property
    def is_ready(self) -> bool:
        """The server's settings are here (rule 1)."""
        return self._session.settled

    @property
    def is_closed(self) -> bool:
        """Nothing can be sent any more."""
        return self._closed

    @property
    def capacity(self) -> int:
        """Streams at a time."""
        return min(limits.H2_MAX_CONCURRENT_STREAMS, self._session.peer_max_streams)

    @property
    def has_room(self) -> bool:
        """Whether another stream can be begun now."""
        return (
            not (self._leaving or self._closed or self._is_full)
            and len(self._session.streams) < self.capacity
            and self._next_id <= frames.MAX_31_BITS
        )

    @property
    def takes_websockets(self) -> bool:
        """The server understands extended CONNECT."""
        return self._session.peer_connects

    @property
    def open_streams(self) -> int:
        """Requests in progress."""
        return len(self._session.streams)

    # -- Told by the pool ----------------------------------------------------------------------------------------------

    def stream(self) -> ClientStream:
        """For one request, which must be sent at once, or let go."""
        return ClientStream(self, self._session.peer_stream_window)

    def let_go(self, stream: ClientStream) -> None:
        """Its exchange is done with it: rule 5."""
        stream.exchange = None
        session = self._session
        if stream.id in session.streams:
            if stream.peer_ended:
                self._is_full = False
            if stream.peer_ended and stream.ended:
                session.forget(stream)
            else:
                session.reset(stream, stream.broken)
        self._stream_over()

    def leave(self) -> None:
        """Begin nothing more; close when what is there is done."""
        self._leaving = True
        self._stream_over()

    # -- Told by the shell ---------------------------------------------------------------------------------------------

    def receive(self, data: bytes) -> None:
        """Bytes from the server, not empty. Raises nothing."""
        if self._closed:
            return
        session = self._session
        try:
            session.receive(data, self)
        except ConnectionBroken as broken:
            if not self._closed:
                self._break(broken)
            return
        if self._closed:
            return
        if session.window_opened:
            session.window_opened = False
            session.outflow.go_on()
        if session.in_block:
            if session.progressed or not self._watched:
                self._watched = True
                self._transport.set_deadline(limits.REQUEST_HEAD_S)
        elif self._watched:
            self._watched = False
            self._transport.set_deadline(None)
        self._stream_over()

    def lost(self, detail: str) -> None:
        """The connection broke, or the server has ended it; the transport is closed already."""
        if not self._closed:
            self._closed = True
            for stream in self._abandoned():
                if stream.exchange is not None:
                    stream.exchange.upstream_lost(
                        detail or stream.where(), untouched=not stream.touched, nothing_sent=False
                    )

    def output_blocked(self) -> None:
        """The socket is full: nobody may send more."""
        self._session.outflow.blocked = True
        for stream in self._streams():
            if not stream.ended and stream.exchange is not None:
                stream.blocked = True
                stream.exchange.upstream_blocked()

    def output_drained(self) -> None:
        """The socket takes bytes again."""
        self._session.outflow.blocked = False
        self._session.outflow.go_on()
        for stream in self._streams():
            if stream.blocked and stream.output_bytes <= limits.H2_STREAM_OUTPUT_BYTES:
                stream.blocked = False
                stream.output_drained()

    def deadline_passed(self) -> None:
        """It was idle long enough, or a frame did not end."""
        if self._closed:
            return
        if self._watched:
            self._break(ConnectionBroken(ErrorCode.ENHANCE_YOUR_CALM, "response_frame_timeout"))
        elif not self._session.streams:
            self._leaving = True
            self._close(ErrorCode.NO_ERROR)

    # -- Told by the session -------------------------------------------------------------------------------------------

    def is_idle_stream(self, stream_id: int) -> bool:
        """Even numbers would be the server's, which may begin none."""
        return stream_id >= self._next_id or not stream_id & 1

    def headers_received(self, stream_id: int, headers: Headers, *, end: bool) -> None:
        """A head, or trailers."""
        stream = self._session.streams.get(stream_id)
        if stream is None:
            raise ConnectionBroken(ErrorCode.PROTOCOL_ERROR, "stream_idle")
        assert isinstance(stream, ClientStream)  # noqa: S101 - this class makes them all
        exchange = stream.exchange
        if exchange is None:
            return
        stream.touched = True
        if stream.answered:
            self._trailers_received(stream, headers, end=end)
            return
        # Who awaits a head is an exchange.
        exchange = cast("UpstreamUser", exchange)
        try:
            head = read_response(headers, end=end, to_head=stream.to_head)
        except BadResponse as bad:
            raise StreamBroken(ErrorCode.PROTOCOL_ERROR, bad.reason) from None
        if head.status < 200:
            if end:
                raise StreamBroken(ErrorCode.PROTOCOL_ERROR, "interim_response_ends")
            exchange.interim_head(head)
            return
        stream.answered = True
        if stream.websocket_key is not None and head.status < 300:
            self._upgrade(stream.websocket_key, exchange, head, end=end)
            return
        stream.remaining = head.length
        exchange.response_head(head)
        if end:
            self._end(stream, ())

    def _upgrade(self, key: bytes, exchange: UpstreamUser, head: ResponseHead, *, end: bool) -> None:
        """The server has switched to WebSocket: RFC 8441 section 5, told as a server of HTTP/1.1 would have."""
        if end or head.content_length is not None:
            raise StreamBroken(ErrorCode.PROTOCOL_ERROR, "websocket_framing")
        headers = [field for field in head.headers if field[0] != b"sec-websocket-accept"]
        headers.append((b"sec-websocket-accept", websocket.accept_of(key)))
        exchange.upgraded(ResponseHead(101, headers, length=UNKNOWN, content_length=None))

    def _trailers_received(self, stream: ClientStream, headers: Headers, *, end: bool) -> None:
        if not end:
            raise StreamBroken(ErrorCode.PROTOCOL_ERROR, "trailers_without_end")
        if stream.remaining > 0:
            raise StreamBroken(ErrorCode.PROTOCOL_ERROR, "content_length_mismatch")
        try:
            trailers = read_trailers(headers, RESPONSE_NAMES)
        except BadBody as bad:
            raise StreamBroken(ErrorCode.PROTOCOL_ERROR, bad.reason) from None
        self._end(stream, trailers)

    def data_received(self, stream: Stream, data: bytes) -> None:
        """Bytes of a response's body."""
        assert isinstance(stream, ClientStream)  # noqa: S101 - this class makes them all
        exchange = stream.exchange
        if exchange is None:
            return
        if not stream.answered:
            raise StreamBroken(ErrorCode.PROTOCOL_ERROR, "data_before_head")
        if stream.remaining != UNKNOWN:
            stream.remaining -= len(data)
            if stream.remaining < 0:
                raise StreamBroken(ErrorCode.PROTOCOL_ERROR, "content_length_mismatch")
        exchange.response_body(data)
        if not stream.peer_ended:
            self._session.return_to_stream(stream)
            exchange.response_paused()

    def stream_ended(self, stream: Stream) -> None:
        """The response is whole."""
        assert isinstance(stream, ClientStream)  # noqa: S101 - this class makes them all
        if not stream.answered:
            raise StreamBroken(ErrorCode.PROTOCOL_ERROR, "data_before_head")
        if stream.remaining > 0:
            raise StreamBroken(ErrorCode.PROTOCOL_ERROR, "content_length_mismatch")
        self._end(stream, ())

    def _end(self, stream: ClientStream, trailers: Trailers) -> None:
        exchange, stream.exchange = stream.exchange, None
        if exchange is not None:
            exchange.response_end(reusable=True, trailers=trailers)

    def stream_reset(self, stream: Stream, code: int) -> None:
        """The server ends a stream. Refused, it was not processed: rule 4."""
        assert isinstance(stream, ClientStream)  # noqa: S101 - this class makes them all
        refused = code == ErrorCode.REFUSED_STREAM and not stream.touched
        if refused:
            self._is_full = True
            # A server that refuses although nothing is in progress is not to be asked again.
            self._leaving = self._leaving or not self._session.streams
        exchange, stream.exchange = stream.exchange, None
        if exchange is not None:
            exchange.upstream_lost(
                f"stream_reset_{frames.code_name(code)}", untouched=not stream.touched, nothing_sent=refused
            )

    def stream_broke(self, stream: Stream, broken: StreamBroken) -> None:
        """The server broke a rule in one response."""
        assert isinstance(stream, ClientStream)  # noqa: S101 - this class makes them all
        stream.broken = broken.code
        exchange = stream.exchange
        if exchange is not None:
            exchange.upstream_broke(broken.reason)
        if stream.id in self._session.streams:
            self.let_go(stream)

    def peer_leaves(self, last_stream_id: int) -> None:
        """GOAWAY: rule 4."""
        if not self._leaving:
            self._count("upstream_http2_goaways")
        self._leaving = True
        for stream in self._streams():
            if stream.id > last_stream_id:
                stream.ended = True
                self._session.forget(stream)
                if stream.exchange is not None:
                    stream.exchange.upstream_lost(
                        "goaway", untouched=not stream.touched, nothing_sent=not stream.touched
                    )

    def misbehaved(self, kind: str, share: float) -> None:
        """Rule 6."""
        if share >= 1.0:
            self._count(f'upstream_http2_floods{{kind="{kind}"}}')
            raise ConnectionBroken(ErrorCode.ENHANCE_YOUR_CALM, f"flood_{kind}")
        self._leaving = True

    # -- Told by streams -----------------------------------------------------------------------------------------------

    def begin(self, stream: ClientStream, head: RequestHead, extra: bytes) -> None:
        """Send a request's head."""
        session = self._session
        stream.id = self._next_id
        self._next_id += 2
        session.conduct.streams += 1
        session.streams[stream.id] = stream
        end = head.length == 0 and head.websocket_key is None
        stream.ended = end
        if not self._watched:
            self._transport.set_deadline(None)
        session.outflow.send_block(stream.id, self._block(head, extra), end=end)
        if session.outflow.blocked and not end and stream.exchange is not None:
            stream.blocked = True
            stream.exchange.upstream_blocked()

    def _block(self, head: RequestHead, extra: bytes) -> bytes:
        write = fields.write_line
        headers = head.headers
        if head.websocket_key is None:
            lines = [write((b":method", head.method)), self._scheme]
        else:
            lines = [write((b":method", b"CONNECT")), write((b":protocol", websocket.PROTOCOL)), self._scheme]
            headers = [field for field in headers if field[0] != b"sec-websocket-key"]
        if head.authority:
            lines.append(write((b":authority", head.authority)))
        lines.append(fields.line((b":path", head.path + head.query)))
        lines += map(write, headers)
        for line in extra.split(b"\r\n"):
            name, _, value = line.partition(b": ")
            # Most of these lines are of this request alone: nothing to remember.
            lines.append(fields.line((name, value)))
        lines.append(_VIA[head.version])
        if head.length > 0:
            lines.append(fields.line((b"content-length", b"%d" % head.length)))
        elif head.length == 0 and head.method in _WITH_BODY:
            lines.append(_NO_BODY)
        if head.accepts_trailers:
            lines.append(_TRAILERS_READ)
        return b"".join(lines)

    def send_body(self, stream: ClientStream, data: bytes) -> None:
        """Send bytes, or keep them, and then ask for no more."""
        self._session.outflow.send(stream, data)
        if stream.blocked and stream.exchange is not None:
            stream.exchange.upstream_blocked()

    def end_request(self, stream: ClientStream) -> None:
        """No more will be written to the stream."""
        self._session.outflow.end(stream)

    def pause(self, stream: ClientStream) -> None:
        """Nothing is given back to the stream's window."""
        self._session.pause(stream)

    def resume(self, stream: ClientStream) -> None:
        """Go on with it."""
        self._session.resume(stream)

    # -- Inside --------------------------------------------------------------------------------------------------------

    def _streams(self) -> list[ClientStream]:
        return list(self._session.streams.values())  # type: ignore[arg-type]

    def _abandoned(self) -> list[ClientStream]:
        """The streams, which are no more."""
        streams = self._streams()
        self._session.streams.clear()
        for stream in streams:
            stream.ended = True
        return streams

    def _stream_over(self) -> None:
        if self._session.streams or self._closed:
            return
        if self._leaving:
            self._close(ErrorCode.NO_ERROR)
        elif not self._watched:
            self._transport.set_deadline(limits.H2_UPSTREAM_IDLE_S)

    def _break(self, broken: ConnectionBroken) -> None:
        """A connection error: say so, and end everything."""
        self._count(f'upstream_http2_connection_errors{{reason="{broken.reason}"}}')
        streams = self._abandoned()
        self._close(broken.code)
        for stream in streams:
            exchange, stream.exchange = stream.exchange, None
            if exchange is not None and stream.touched:
                exchange.upstream_broke(broken.reason)
            elif exchange is not None:
                exchange.upstream_lost(broken.reason, untouched=True, nothing_sent=False)

    def _close(self, code: ErrorCode) -> None:
        self._closed = True
        self._transport.send(frames.goaway(0, code))
        self._transport.close()

    def __repr__(self) -> str:
        state = "closed" if self._closed else "leaving" if self._leaving else "open" if self.is_ready else "new"
        return f"ClientConnection({self.server}, {state}, {self._session!r})"
