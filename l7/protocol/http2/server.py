"""The client's connection in HTTP/2: a stream for each request, an exchange for each stream.

```
 read ──▶ Session ──▶ what happened, in order ──▶ together, when the read is done: exchanges begin, go on, end
                                                                                          │
 write ◀── Outflow ◀── ServerStream ◀──────────────────────────────────────────────────── ┘
```

Rules:

1. What one read brings is looked at together before any of it is acted upon: a request and its own reset never reach a
   server, and a connection that breaks its rules begins nothing more.
2. A malformed request is answered with 400 and its stream reset; its neighbours do not notice (RFC 9113 section 8.1.1).
3. A stream is forgotten as soon as both sides have ended it. A response that is whole before its request is resets the
   stream with NO_ERROR (section 8.1).
4. While the socket takes no more bytes, the client is not read: whatever it asks for would have to be kept.
5. Each stream has its deadline; the connection keeps the earliest. Without streams it is idle, and pings do not change
   that. The end of a frame that is begun, or of a header block, is awaited as long as an HTTP/1.1 head.
6. A goodbye is two GOAWAYs (section 6.8): one that refuses nothing, and after a grace the final one. Streams end in
   peace; then the connection is closed.
"""

from enum import Enum, auto
from typing import Final

from l7 import limits
from l7.exchange import Exchange
from l7.grpc_exchange import GrpcExchange
from l7.protocol.http2 import frames
from l7.protocol.http2.field_rules import REQUEST_NAMES, read_trailers
from l7.protocol.http2.frames import ConnectionBroken, ErrorCode, StreamBroken
from l7.protocol.http2.request import RequestReader, refused_head
from l7.protocol.http2.server_stream import ServerStream
from l7.protocol.http2.session import Session
from l7.protocol.http2.stream import Stream
from l7.protocol.message import UNKNOWN, Headers, RequestHead, Trailers
from l7.protocol.violation import BadBody, BadRequest
from l7.shell import Flow, Services, Transport
from l7.timers import NEVER

#: What this side begins with (section 3.4): its settings, and a wider window for the connection.
_GREETING: Final = frames.settings(
    {
        frames.SETTINGS_MAX_CONCURRENT_STREAMS: limits.H2_MAX_CONCURRENT_STREAMS,
        frames.SETTINGS_INITIAL_WINDOW_SIZE: limits.H2_STREAM_WINDOW_BYTES,
        frames.SETTINGS_MAX_HEADER_LIST_SIZE: limits.MAX_REQUEST_HEAD_BYTES,
        frames.SETTINGS_NO_RFC7540_PRIORITIES: 1,
        frames.SETTINGS_ENABLE_CONNECT_PROTOCOL: 1,
    }
) + frames.window_update(0, limits.H2_CONNECTION_WINDOW_BYTES - frames.DEFAULT_WINDOW)


class _Happened(Enum):
    HEAD = auto()
    BODY = auto()
    END = auto()
    RESET = auto()
    BROKE = auto()


_HEAD: Final = _Happened.HEAD
_BODY: Final = _Happened.BODY
_END: Final = _Happened.END
_RESET: Final = _Happened.RESET
_BROKE: Final = _Happened.BROKE

#: A head, bytes of a body, or trailers.
_What = RequestHead | bytes | Trailers | None


class Http2Connection:
    """One client connection. The shell makes it when the connection (and its TLS handshake) is done."""

    __slots__ = (
        "_armed_at",
        "_closed",
        "_deadline",
        "_final_at",
        "_flow",
        "_happened",
        "_is_final",
        "_last_id",
        "_leaving",
        "_reader",
        "_services",
        "_session",
        "_transport",
    )

    def __init__(self, transport: Transport, services: Services, flow: Flow) -> None:
        """Sends its settings, and asks for a deadline."""
        self._transport = transport
        self._services = services
        self._flow = flow
        self._session = Session(transport, services.now, preface=frames.PREFACE, most_held=limits.H2_MAX_HELD_BYTES)
        self._reader = RequestReader()
        self._happened: list[tuple[ServerStream, _Happened, _What]] = []
        self._last_id = 0
        """Highest stream that the client has begun."""
        self._closed = False
        self._leaving = False
        """A first GOAWAY was sent."""
        self._final_at = NEVER
        """When the final one is due."""
        self._is_final = False
        """It was sent."""
        self._deadline = services.now() + limits.REQUEST_HEAD_S
        """The connection's own: idle, or in the middle of a header block (or of the preface)."""
        self._armed_at = self._deadline
        transport.set_deadline(limits.REQUEST_HEAD_S)
        transport.send(_GREETING)

    @property
    def is_idle(self) -> bool:
        """No stream is open."""
        return not self._session.streams

    @property
    def streams(self) -> list[ServerStream]:
        """Open streams."""
        return list(self._session.streams.values())  # type: ignore[arg-type]

    @property
    def held_bytes(self) -> int:
        """Request bytes that wait for slow servers."""
        return self._session.held

    # -- Told by the shell ---------------------------------------------------------------------------------------------

    def receive(self, data: bytes) -> None:
        """Bytes from the client, not empty. Raises nothing."""
        if self._closed:
            return
        session = self._session
        was_in_block = session.in_block
        try:
            session.receive(data, self)
        except ConnectionBroken as broken:
            self._break(broken)
            return
        if self._happened:
            self._act()
        if session.window_opened:
            session.window_opened = False
            session.outflow.go_on()
        if not self._closed and (session.in_block != was_in_block or (session.in_block and session.progressed)):
            self._await_frame()

    def end_of_input(self) -> None:
        """The client has ended its side in order: taken to be gone, as in HTTP/1.1."""
        if self._closed:
            return
        answering = bool(self._session.streams)
        self._gone("client_closed")
        if answering:
            self._transport.abort()
        else:
            self._transport.close()

    def lost(self, detail: str) -> None:
        """The connection broke; the transport is closed already."""
        if not self._closed:
            self._gone(detail)

    def output_blocked(self) -> None:
        """The socket is full: rule 4."""
        self._session.outflow.blocked = True
        self._transport.pause_reading()
        for stream in self.streams:
            if stream.exchange is not None:
                stream.blocked = True
                stream.exchange.client_blocked()

    def output_drained(self) -> None:
        """The socket takes bytes again."""
        self._session.outflow.blocked = False
        self._transport.resume_reading()
        self._session.outflow.go_on()
        for stream in self.streams:
            if stream.blocked and stream.output_bytes <= limits.H2_STREAM_OUTPUT_BYTES:
                stream.blocked = False
                stream.output_drained()

    def deadline_passed(self) -> None:
        """Some deadline is over, or was."""
        if self._closed:
            return
        now = self._services.now()
        self._armed_at = NEVER
        for stream in self.streams:
            if stream.deadline <= now and not stream.ended:
                stream.deadline = NEVER
                self._stream_expired(stream)
                if self._closed:
                    return
        if self._deadline <= now:
            self._deadline = NEVER
            if self._session.in_block:
                self._break(ConnectionBroken(ErrorCode.ENHANCE_YOUR_CALM, "request_head_timeout"))
                return
            if not self._session.streams:
                self._say_final_goodbye()
                self._close()
                return
        if self._final_at <= now:
            self._say_final_goodbye()
            if not self._session.streams:
                self._close()
                return
        self._arm(min(self._deadline, self._final_at, *(stream.deadline for stream in self.streams)))

    # -- goodbyes ------------------------------------------------------------------------------------------------------

    def close_after_response(self) -> None:
        """Ask the client to go elsewhere with what is new: at once, not with its next request."""
        if self._leaving or self._closed:
            return
        self._leaving = True
        self._transport.send(frames.goaway(frames.MAX_31_BITS, ErrorCode.NO_ERROR))
        self._final_at = self._services.now() + limits.H2_GOAWAY_GRACE_S
        self._arm(self._final_at)

    def stay(self) -> None:
        """The goodbye is withdrawn, as far as it can be: a client that was asked to leave will do so."""
        if self._leaving and not self._is_final:
            self._final_at = NEVER
            self._leaving = False

    def goodbye(self) -> None:
        """A draining proxy waits no longer for this connection: closes it, or the tunnels that keep it."""
        if not self._closed and not self._session.streams:
            self._say_final_goodbye()
            self._close()
            return
        for stream in self.streams:
            if stream.exchange is not None:
                stream.exchange.goodbye()

    def _say_final_goodbye(self, code: ErrorCode = ErrorCode.NO_ERROR) -> None:
        self._final_at = NEVER
        if not self._is_final:
            self._leaving = self._is_final = True
            self._transport.send(frames.goaway(self._last_id, code))

    # -- Told by the session -------------------------------------------------------------------------------------------

    def is_idle_stream(self, stream_id: int) -> bool:
        """Even numbers would be ours, and we never begin one."""
        return stream_id > self._last_id or not stream_id & 1

    def headers_received(self, stream_id: int, headers: Headers, *, end: bool) -> None:
        """A request, or trailers."""
        session = self._session
        present = session.streams.get(stream_id)
        if present is not None:
            assert isinstance(present, ServerStream)  # noqa: S101 - this class makes them all
            self._trailers_received(present, headers, end=end)
            return
        if not stream_id & 1:
            raise ConnectionBroken(ErrorCode.PROTOCOL_ERROR, "stream_even")
        self._last_id = stream_id
        session.conduct.streams += 1
        if self._is_final or len(session.streams) >= limits.H2_MAX_CONCURRENT_STREAMS:
            self._services.count("http2_streams_refused")
            self._transport.send(frames.rst_stream(stream_id, ErrorCode.REFUSED_STREAM))
            session.remember_reset(stream_id)
            self._judge_glitch()
            return
        stream = ServerStream(self, stream_id, session.peer_stream_window)
        stream.peer_ended = end
        session.streams[stream_id] = stream
        try:
            head = self._reader.read(headers, end=end)
            stream.remaining = head.length if head.websocket_key is None else UNKNOWN
        except BadRequest as refused:
            head = refused_head(headers)
            # Its traceback would hold the stream that holds it.
            stream.refusal = refused.with_traceback(None)
            if refused.status == 400:
                stream.broken = ErrorCode.PROTOCOL_ERROR
                self._judge_glitch()
        self._happened.append((stream, _HEAD, head))

    def _trailers_received(self, stream: ServerStream, headers: Headers, *, end: bool) -> None:
        if not end:
            raise StreamBroken(ErrorCode.PROTOCOL_ERROR, "trailers_without_end")
        self._check_length(stream)
        try:
            self._happened.append((stream, _END, read_trailers(headers, REQUEST_NAMES)))
        except BadBody as refused:
            raise StreamBroken(ErrorCode.PROTOCOL_ERROR, refused.reason) from None

    def data_received(self, stream: Stream, data: bytes) -> None:
        """Bytes of a request's body."""
        assert isinstance(stream, ServerStream)  # noqa: S101 - this class makes them all
        if stream.remaining != UNKNOWN:
            stream.remaining -= len(data)
            if stream.remaining < 0:
                raise StreamBroken(ErrorCode.PROTOCOL_ERROR, "content_length_mismatch")
        self._happened.append((stream, _BODY, data))

    def stream_ended(self, stream: Stream) -> None:
        """The request is whole."""
        assert isinstance(stream, ServerStream)  # noqa: S101 - this class makes them all
        self._check_length(stream)
        self._happened.append((stream, _END, ()))

    def _check_length(self, stream: ServerStream) -> None:
        if stream.remaining > 0:
            raise StreamBroken(ErrorCode.PROTOCOL_ERROR, "content_length_mismatch")

    def stream_reset(self, stream: Stream, code: int) -> None:
        """The client wants no answer any more."""
        assert isinstance(stream, ServerStream)  # noqa: S101 - this class makes them all
        stream.is_reset = True
        self._happened.append((stream, _RESET, None))
        if not stream.answered:
            share = self._session.conduct.early_reset()
            if share >= limits.H2_WARN_SHARE:
                self.misbehaved("rapid_reset", share)

    def stream_broke(self, stream: Stream, broken: StreamBroken) -> None:
        """The client broke a rule."""
        assert isinstance(stream, ServerStream)  # noqa: S101 - this class makes them all
        if stream.broken is None:
            stream.broken = broken.code
            stream.refusal = BadRequest(400, broken.reason)
            self._happened.append((stream, _BROKE, None))

    def peer_leaves(self, last_stream_id: int) -> None:
        """The client will begin no more streams. Those that it has begun are answered."""

    def misbehaved(self, kind: str, share: float) -> None:
        """Ask it to leave, then close it."""
        if share >= 1.0:
            self._services.count(f'http2_floods{{kind="{kind}"}}')
            raise ConnectionBroken(ErrorCode.ENHANCE_YOUR_CALM, f"flood_{kind}")
        if not self._leaving:
            self._services.count(f'http2_flood_warnings{{kind="{kind}"}}')
            self.close_after_response()

    def _judge_glitch(self) -> None:
        share = self._session.conduct.glitch(self._services.now())
        if share >= limits.H2_WARN_SHARE:
            self.misbehaved("glitch", share)

    # -- Acting upon a read --------------------------------------------------------------------------------------------

    def _act(self) -> None:
        """Rule 1: everything that a read brought is known by now."""
        happened, self._happened = self._happened, []
        for stream, what, of in happened:
            if self._closed:
                return
            exchange = stream.exchange
            if what is _HEAD:
                assert isinstance(of, RequestHead)  # noqa: S101
                self._begin(stream, of)
            elif what is _BROKE:
                self._end_broken(stream)
            elif exchange is None:
                continue  # it was answered already, or never begun
            elif what is _BODY:
                assert isinstance(of, bytes)  # noqa: S101
                exchange.request_body(of)
                self._session.return_to_stream(stream)
            elif what is _END:
                assert isinstance(of, list | tuple)  # noqa: S101
                exchange.request_end(of)
            else:
                stream.exchange = None
                exchange.client_gone("stream_reset")
        if not self._session.streams:
            self._stream_over()

    def _begin(self, stream: ServerStream, head: RequestHead) -> None:
        if stream.is_reset:
            self._services.count("http2_requests_reset_unseen")
            return
        if head.grpc is None:
            exchange = stream.exchange = Exchange(stream, self._services, self._flow, head)
        else:
            exchange = stream.exchange = call = GrpcExchange(stream, self._services, self._flow, head)
            stream.patience = call.patience
        if self._session.outflow.blocked:
            stream.blocked = True
            exchange.client_blocked()
        if stream.refusal is not None:
            exchange.refuse(stream.refusal.status, stream.refusal.reason)
        else:
            exchange.begin()

    def _end_broken(self, stream: ServerStream) -> None:
        exchange = stream.exchange
        if stream.is_reset:
            return
        if exchange is not None and stream.refusal is not None:
            exchange.request_broke(stream.refusal.status, stream.refusal.reason)
        elif stream.id in self._session.streams:
            self.reset(stream, stream.broken or ErrorCode.PROTOCOL_ERROR)

    # -- Told by streams -----------------------------------------------------------------------------------------------

    def send_headers(self, stream: ServerStream, block: bytes, *, end: bool) -> None:
        """Send a header block."""
        if stream.ended:
            return
        if end:
            stream.ended = True
        self._session.outflow.send_block(stream.id, block, end=end)

    def send_body(self, stream: ServerStream, data: bytes) -> None:
        """Send bytes, or keep them, and then ask for no more."""
        self._session.outflow.send(stream, data)
        if stream.blocked and stream.exchange is not None:
            stream.exchange.client_blocked()

    def pause(self, stream: ServerStream) -> None:
        """Nothing is given back to the stream's window."""
        self._session.pause(stream)

    def resume(self, stream: ServerStream) -> None:
        """Go on with it."""
        self._session.resume(stream)

    def set_stream_deadline(self, stream: ServerStream, seconds: float | None) -> None:
        """Give a stream another deadline."""
        if seconds is None:
            stream.deadline = NEVER
            return
        stream.deadline = at = self._services.now() + seconds
        if at < self._armed_at:
            self._arm(at)

    def end_response(self, stream: ServerStream, trailers: Trailers) -> None:
        """No more will be written to the stream."""
        if stream.ended:
            self.response_left(stream)
            return
        stream.trailers = trailers
        self._session.outflow.end(stream)
        if not stream.ended:
            # Not renewed, however it drips: the most that can wait is little.
            self.set_stream_deadline(stream, limits.STREAM_IDLE_S)

    def response_left(self, stream: ServerStream) -> None:
        """The end of the response was sent."""
        if stream.exchange is not None:
            return  # which is about to say that it is over
        if stream.peer_ended:
            self._session.forget(stream)
        elif stream.id in self._session.streams:
            self._session.reset(stream, stream.broken or ErrorCode.NO_ERROR)
        self._stream_over()

    def reset(self, stream: ServerStream, code: ErrorCode) -> None:
        """End a stream at once."""
        if stream.id in self._session.streams:
            self._session.reset(stream, code)
        self._stream_over()

    # -- Inside --------------------------------------------------------------------------------------------------------

    def _stream_expired(self, stream: ServerStream) -> None:
        if stream.exchange is not None:
            stream.exchange.deadline_passed()
        else:
            self._services.count("http2_streams_stalled")
            self.reset(stream, ErrorCode.CANCEL)

    def _stream_over(self) -> None:
        """Rule 5, and the end of rule 6."""
        if self._session.streams or self._closed or self._happened:
            return
        if self._is_final:
            self._close()
        elif not self._session.in_block:
            self._deadline = self._services.now() + limits.CLIENT_IDLE_S
            self._arm(self._deadline)

    def _await_frame(self) -> None:
        session = self._session
        if session.in_block:
            self._deadline = self._services.now() + limits.REQUEST_HEAD_S
            self._arm(self._deadline)
        else:
            self._deadline = NEVER
            self._stream_over()

    def _arm(self, at: float) -> None:
        if at < self._armed_at:
            self._armed_at = at
            self._transport.set_deadline(max(0.0, at - self._services.now()))

    def _break(self, broken: ConnectionBroken) -> None:
        """A connection error: say so, and end everything."""
        self._services.count(f'http2_connection_errors{{reason="{broken.reason}"}}')
        self._transport.send(frames.goaway(self._last_id, broken.code))
        self._gone(broken.reason)
        self._transport.close()

    def _gone(self, detail: str) -> None:
        self._closed = True
        self._happened = []
        streams = self.streams
        self._session.streams.clear()
        for stream in streams:
            stream.ended = True
            exchange, stream.exchange = stream.exchange, None
            if exchange is not None:
                exchange.client_gone(detail)

    def _close(self) -> None:
        self._closed = True
        self._transport.close()

    def __repr__(self) -> str:
        state = "closed" if self._closed else "leaving" if self._leaving else "open"
        return f"Http2Connection({self._flow.client}, {state}, {self._session!r})"
