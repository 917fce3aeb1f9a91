"""The frames of a connection: split, checked, and turned into what happened on which stream. Either end's.

```
 bytes ──▶ frames ──▶ SETTINGS, PING, GOAWAY, PRIORITY, WINDOW_UPDATE   (done with here)
                └───▶ HEADERS + CONTINUATION, DATA, RST_STREAM ──▶ the owner
```

Rules:

1. A frame is looked at when it is whole, and its length is bounded by its header: at most one of 16 KiB waits here. A
   header block waits until it is whole; its size and its frames are bounded.
2. A broken rule of one stream resets that stream. A broken rule of the connection raises `ConnectionBroken`.
3. Header blocks are decoded even if nobody wants them: the compression's state is the connection's.
4. Received bytes go back to the connection's window at once, so that a stalled stream stalls itself only, until too
   many are held (`H2_MAX_HELD_BYTES`); to the stream's window when they are consumed.
5. What each kind of frame may cost is the conduct's to say (`floods`).
"""

from collections.abc import Callable
from typing import Final, Protocol

from l7 import limits
from l7.protocol.http2 import frames
from l7.protocol.http2.field_reader import FieldReader
from l7.protocol.http2.floods import Conduct
from l7.protocol.http2.frames import ConnectionBroken, ErrorCode, StreamBroken
from l7.protocol.http2.outflow import Outflow
from l7.protocol.http2.stream import Stream, payload_bytes
from l7.protocol.message import Headers
from l7.shell import Transport

#: Streams that we have reset, of which frames may be under way still (RFC 9113 section 5.1, "closed").
_REMEMBERED_RESETS: Final = 4 * limits.H2_MAX_CONCURRENT_STREAMS


class SessionOwner(Protocol):
    """Whoever knows what streams are for."""

    def headers_received(self, stream_id: int, headers: Headers, *, end: bool) -> None:
        """A header block, whole: of a new stream, or trailers."""

    def data_received(self, stream: Stream, data: bytes) -> None:
        """Bytes of an open stream."""

    def stream_ended(self, stream: Stream) -> None:
        """END_STREAM, behind DATA."""

    def stream_reset(self, stream: Stream, code: int) -> None:
        """RST_STREAM from the peer: the stream is over."""

    def stream_broke(self, stream: Stream, broken: StreamBroken) -> None:
        """A rule of one stream was broken: end it."""

    def is_idle_stream(self, stream_id: int) -> bool:
        """Whether nobody has used this identifier yet."""

    def peer_leaves(self, last_stream_id: int) -> None:
        """GOAWAY from the peer."""

    def misbehaved(self, kind: str, share: float) -> None:
        """The share of an allowance is large; from 1 on it is a flood."""


class Session:
    """One connection's frames, from the preface on."""

    __deletable__ = ("_owner",)
    __slots__ = (
        "_block",
        "_block_flags",
        "_block_frames",
        "_block_id",
        "_buffer",
        "_field_reader",
        "_may_push",
        "_most_held",
        "_now",
        "_owner",
        "_preface",
        "_receive_window",
        "_resets",
        "_table_is_shrunk",
        "_transport",
        "_unreturned",
        "conduct",
        "held",
        "in_block",
        "outflow",
        "peer_connects",
        "peer_max_streams",
        "peer_stream_window",
        "progressed",
        "settled",
        "streams",
        "window_opened",
    )

    _owner: SessionOwner
    """As long as it reads: they would hold each other, and wait for the collector of cycles, which comes seldom."""

    def __init__(self, transport: Transport, now: Callable[[], float], *, preface: bytes, most_held: int) -> None:
        """`preface`: what the peer begins with, in front of its settings; a server with nothing. `most_held`: bytes of
        paused streams above which the whole connection waits."""
        self._transport = transport
        self._now = now
        self._preface = preface
        self._may_push = bool(preface)
        """Only clients say whether they want to be pushed to."""
        self._most_held = most_held
        self._buffer = b""
        self.settled = False
        """The peer's settings are here."""
        self._field_reader = FieldReader()
        self.conduct = Conduct()
        self.outflow = Outflow(transport, self.conduct)
        self._table_is_shrunk = False
        self.streams: dict[int, Stream] = {}
        """Open and half-closed ones."""
        self._resets: dict[int, int] = {}
        """Stream → what its peer may have sent before it learned of the reset."""
        self.peer_stream_window = frames.DEFAULT_WINDOW
        self.peer_connects = False
        """The peer understands extended CONNECT (RFC 8441)."""
        self.peer_max_streams = frames.MAX_31_BITS
        """Streams that the peer takes at a time; until it says so, as many as there are identifiers."""
        self._receive_window = limits.H2_CONNECTION_WINDOW_BYTES
        self._unreturned = 0
        self.held = 0
        """Bytes of paused streams that were not given back."""
        self.in_block = True
        """In the middle of the preface, of a header block, or of a frame that may be one's part."""
        self.progressed = False
        """What came last ended some frame that is not a header block's part."""
        self._block: list[bytes] = []
        self._block_id = 0
        self._block_flags = 0
        self._block_frames = 0
        self.window_opened = False
        """Some window was opened since the owner looked last."""

    def __repr__(self) -> str:
        return f"<Session: {len(self.streams)} streams, {self.conduct!r}, {self.outflow!r}>"

    # -- reading -------------------------------------------------------------------------------------------------------

    def receive(self, data: bytes, owner: SessionOwner) -> None:
        """Take bytes; tell the owner what they say.

        Raises:
            ConnectionBroken: and nothing more can be read.
        """
        self._owner = owner
        try:
            self._read(data)
        finally:
            del self._owner

    def _read(self, data: bytes) -> None:
        self.progressed = False
        if self._buffer:
            data = self._buffer + data
        at = 0
        if self._preface:
            expected = self._preface
            if data[: len(expected)] != expected[: len(data)]:
                raise ConnectionBroken(ErrorCode.PROTOCOL_ERROR, "preface")
            if len(data) < len(expected):
                self._buffer = data
                return
            self._preface = b""
            at = len(expected)
        end = len(data)
        handlers = _HANDLERS
        kind = -1
        while end - at >= frames.HEADER_BYTES:
            high, low, kind, flags, stream_id = frames.unpack_header(data, at)
            length = high << 8 | low
            if length > frames.MAX_PAYLOAD_BYTES:
                raise ConnectionBroken(ErrorCode.FRAME_SIZE_ERROR, "frame_too_large")
            stop = at + frames.HEADER_BYTES + length
            if stop > end:
                break
            if self._block_id and kind != frames.CONTINUATION:
                raise ConnectionBroken(ErrorCode.PROTOCOL_ERROR, "frame_in_header_block")
            if not self.settled and kind != frames.SETTINGS:
                raise ConnectionBroken(ErrorCode.PROTOCOL_ERROR, "settings_missing")
            handler = handlers.get(kind)
            if handler is not None:
                handler(self, flags, stream_id & frames.MAX_31_BITS, data[at + frames.HEADER_BYTES : stop])
            else:
                self._judge("unknown", self.conduct.control(self._now()))
            at = stop
            kind = -1
            if not self._block_id:
                self.progressed = True
        self._buffer = data[at:]
        self.in_block = self._block_id != 0 or (at < end and kind != frames.DATA)

    def _judge(self, kind: str, share: float) -> None:
        if share >= limits.H2_WARN_SHARE:
            self._owner.misbehaved(kind, share)

    def _glitch(self, kind: str = "glitch") -> None:
        self._judge(kind, self.conduct.glitch(self._now()))

    def _find(self, stream_id: int) -> Stream | None:
        """The open stream; None if it is closed.

        Raises:
            ConnectionBroken: nobody has used it yet.
        """
        stream = self.streams.get(stream_id)
        if stream is None and (stream_id == 0 or self._owner.is_idle_stream(stream_id)):
            raise ConnectionBroken(ErrorCode.PROTOCOL_ERROR, "stream_idle" if stream_id else "stream_zero")
        return stream

    def _data(self, flags: int, stream_id: int, payload: bytes) -> None:
        size = len(payload)
        data = payload_bytes(frames.DATA, flags, payload)
        end = flags & frames.END_STREAM
        if size > self._receive_window:
            raise ConnectionBroken(ErrorCode.FLOW_CONTROL_ERROR, "connection_window")
        if not data and not end:
            self._glitch("empty")
        self._receive_window -= size
        self._unreturned += size
        stream = self._find(stream_id)
        if stream is None:
            under_way = self._resets.get(stream_id)
            if under_way is None:
                raise ConnectionBroken(ErrorCode.STREAM_CLOSED, "data_on_closed_stream")
            self._resets[stream_id] = under_way - size
            if under_way < size:
                self._glitch()
            self._return_to_connection()
            return
        if stream.peer_ended:
            self._break(stream, StreamBroken(ErrorCode.STREAM_CLOSED, "data_after_end"))
        elif size > stream.receive_window:
            self._break(stream, StreamBroken(ErrorCode.FLOW_CONTROL_ERROR, "stream_window"))
        else:
            self._take_data(stream, data, size, end=bool(end))
        self._return_to_connection()

    def _take_data(self, stream: Stream, data: bytes, size: int, *, end: bool) -> None:
        try:
            stream.receive_window -= size
            stream.unreturned += size
            if stream.paused:
                self.held += size
            if end:
                stream.peer_ended = True
            if data:
                self._owner.data_received(stream, data)
            if end:
                self._owner.stream_ended(stream)
        except StreamBroken as broken:
            self._break(stream, broken)

    def _headers(self, flags: int, stream_id: int, payload: bytes) -> None:
        if not stream_id:
            raise ConnectionBroken(ErrorCode.PROTOCOL_ERROR, "stream_zero")
        fragment = payload_bytes(frames.HEADERS, flags, payload)
        if flags & frames.HAS_PRIORITY:
            if len(fragment) < 5:
                raise ConnectionBroken(ErrorCode.FRAME_SIZE_ERROR, "priority_length")
            fragment = fragment[5:]
        if flags & frames.END_HEADERS:
            self._whole_block(stream_id, flags, fragment)
            return
        self._block_id = stream_id
        self._block_flags = flags
        self._block_frames = 0
        self._block = [fragment]

    def _continuation(self, flags: int, stream_id: int, payload: bytes) -> None:
        if stream_id != self._block_id or not stream_id:
            raise ConnectionBroken(ErrorCode.PROTOCOL_ERROR, "continuation")
        self._block.append(payload)
        self._block_frames += 1
        if (
            self._block_frames > limits.H2_MAX_CONTINUATIONS
            or sum(map(len, self._block)) > limits.H2_MAX_HEADER_BLOCK_BYTES
        ):
            self._owner.misbehaved("continuation", 1.0)
            raise ConnectionBroken(ErrorCode.ENHANCE_YOUR_CALM, "header_block_too_large")
        if not payload and not flags & frames.END_HEADERS:
            self._glitch("empty")
        if flags & frames.END_HEADERS:
            block = b"".join(self._block)
            self._block_id = 0
            self._block = []
            self._whole_block(stream_id, self._block_flags, block)

    def _whole_block(self, stream_id: int, flags: int, block: bytes) -> None:
        try:
            headers = self._field_reader.read(block)
        except ConnectionBroken as broken:
            if broken.code is ErrorCode.ENHANCE_YOUR_CALM:
                self._owner.misbehaved("hpack", 1.0)
            raise
        end = bool(flags & frames.END_STREAM)
        stream = self.streams.get(stream_id)
        if stream is None:
            if stream_id in self._resets:
                return
            if not self._owner.is_idle_stream(stream_id):
                raise ConnectionBroken(ErrorCode.STREAM_CLOSED, "headers_on_closed_stream")
            self._owner.headers_received(stream_id, headers, end=end)
            return
        if stream.peer_ended:
            self._break(stream, StreamBroken(ErrorCode.STREAM_CLOSED, "headers_after_end"))
            return
        stream.peer_ended = end
        try:
            self._owner.headers_received(stream_id, headers, end=end)
        except StreamBroken as refused:
            self._break(stream, refused)

    def _priority(self, _flags: int, stream_id: int, payload: bytes) -> None:
        """Read and ignored: RFC 9113 section 5.3.2 has deprecated it."""
        if not stream_id:
            raise ConnectionBroken(ErrorCode.PROTOCOL_ERROR, "stream_zero")
        if len(payload) != 5:
            raise ConnectionBroken(ErrorCode.FRAME_SIZE_ERROR, "priority_length")
        self._judge("priority", self.conduct.priority())

    def _priority_update(self, _flags: int, _stream_id: int, _payload: bytes) -> None:
        """Ignored likewise."""
        self._judge("priority", self.conduct.priority())

    def _rst_stream(self, _flags: int, stream_id: int, payload: bytes) -> None:
        if len(payload) != 4:
            raise ConnectionBroken(ErrorCode.FRAME_SIZE_ERROR, "rst_stream_length")
        stream = self._find(stream_id)
        if stream is None:
            # Ours and the peer's may have crossed: once.
            if self._resets.pop(stream_id, None) is None:
                self._glitch()
            return
        stream.ended = stream.peer_ended = True
        self.forget(stream)
        self._owner.stream_reset(stream, int.from_bytes(payload))

    def _settings(self, flags: int, stream_id: int, payload: bytes) -> None:
        if stream_id:
            raise ConnectionBroken(ErrorCode.PROTOCOL_ERROR, "settings_on_stream")
        if flags & frames.ACK:
            if payload:
                raise ConnectionBroken(ErrorCode.FRAME_SIZE_ERROR, "settings_ack_length")
            if not self.settled:
                raise ConnectionBroken(ErrorCode.PROTOCOL_ERROR, "settings_missing")
            self._judge("settings", self.conduct.control(self._now()))
            return
        self.settled = True
        settings = frames.read_settings(payload)
        if len(settings) > limits.H2_MAX_SETTINGS:
            # A window for all streams, set again and again, is work for each of them.
            self._judge("settings", 1.0)
        for name, value in settings:
            self._set(name, value)
        self._transport.send(frames.SETTINGS_ACK)
        self._judge("settings", self.conduct.control(self._now()))

    def _set(self, name: int, value: int) -> None:
        if name == frames.SETTINGS_INITIAL_WINDOW_SIZE:
            if value > frames.MAX_31_BITS:
                raise ConnectionBroken(ErrorCode.FLOW_CONTROL_ERROR, "initial_window")
            change = value - self.peer_stream_window
            self.peer_stream_window = value
            for stream in self.streams.values():
                stream.send_window += change
                if stream.send_window > frames.MAX_31_BITS:
                    raise ConnectionBroken(ErrorCode.FLOW_CONTROL_ERROR, "initial_window")
            self.window_opened = True
        elif name == frames.SETTINGS_ENABLE_PUSH:
            if value > self._may_push:
                raise ConnectionBroken(ErrorCode.PROTOCOL_ERROR, "enable_push")
        elif name == frames.SETTINGS_MAX_CONCURRENT_STREAMS:
            self.peer_max_streams = value
        elif name == frames.SETTINGS_ENABLE_CONNECT_PROTOCOL:
            # RFC 8441 section 3: nor may it be taken back, which nobody here would notice.
            if value > 1:
                raise ConnectionBroken(ErrorCode.PROTOCOL_ERROR, "enable_connect_protocol")
            self.peer_connects = value == 1
        elif name == frames.SETTINGS_MAX_FRAME_SIZE and not frames.MAX_PAYLOAD_BYTES <= value < 1 << 24:
            raise ConnectionBroken(ErrorCode.PROTOCOL_ERROR, "max_frame_size")
        elif (
            name == frames.SETTINGS_HEADER_TABLE_SIZE
            and value < frames.DEFAULT_TABLE_BYTES
            and not self._table_is_shrunk
        ):
            # No table is used (see `fields`); that is told once, and suits whatever is asked for later.
            self._table_is_shrunk = self.outflow.shrinks_table = True
        # Frames: we send the smallest maximal ones.

    def _push_promise(self, _flags: int, _stream_id: int, _payload: bytes) -> None:
        raise ConnectionBroken(ErrorCode.PROTOCOL_ERROR, "push_promise")

    def _ping(self, flags: int, stream_id: int, payload: bytes) -> None:
        if stream_id:
            raise ConnectionBroken(ErrorCode.PROTOCOL_ERROR, "ping_on_stream")
        if len(payload) != 8:
            raise ConnectionBroken(ErrorCode.FRAME_SIZE_ERROR, "ping_length")
        if not flags & frames.ACK:
            self._transport.send(frames.frame(frames.PING, frames.ACK, 0, payload))
        self._judge("ping", self.conduct.ping(self._now()))

    def _goaway(self, _flags: int, stream_id: int, payload: bytes) -> None:
        if stream_id:
            raise ConnectionBroken(ErrorCode.PROTOCOL_ERROR, "goaway_on_stream")
        if len(payload) < 8:
            raise ConnectionBroken(ErrorCode.FRAME_SIZE_ERROR, "goaway_length")
        self._owner.peer_leaves(int.from_bytes(payload[:4]) & frames.MAX_31_BITS)
        self._judge("goaway", self.conduct.control(self._now()))

    def _window_update(self, _flags: int, stream_id: int, payload: bytes) -> None:
        if len(payload) != 4:
            raise ConnectionBroken(ErrorCode.FRAME_SIZE_ERROR, "window_update_length")
        increment = int.from_bytes(payload) & frames.MAX_31_BITS
        self._judge("window_update", self.conduct.window_update())
        if not stream_id:
            if not increment:
                raise ConnectionBroken(ErrorCode.PROTOCOL_ERROR, "window_update_zero")
            self.outflow.window += increment
            if self.outflow.window > frames.MAX_31_BITS:
                raise ConnectionBroken(ErrorCode.FLOW_CONTROL_ERROR, "window_overflow")
            self.window_opened = True
            return
        stream = self._find(stream_id)
        if stream is None:
            return  # it may have been sent before our END_STREAM arrived
        if not increment:
            self._break(stream, StreamBroken(ErrorCode.PROTOCOL_ERROR, "window_update_zero"))
            return
        stream.send_window += increment
        if stream.send_window > frames.MAX_31_BITS:
            self._break(stream, StreamBroken(ErrorCode.FLOW_CONTROL_ERROR, "window_overflow"))
            return
        self.window_opened = True

    def _break(self, stream: Stream, broken: StreamBroken) -> None:
        self._glitch()
        self._owner.stream_broke(stream, broken)

    # -- windows -------------------------------------------------------------------------------------------------------

    def pause(self, stream: Stream) -> None:
        """What this stream receives is not consumed for now."""
        if not stream.paused:
            stream.paused = True
            self.held += stream.unreturned

    def resume(self, stream: Stream) -> None:
        """Everything that it has received is consumed."""
        if stream.paused:
            stream.paused = False
            self.held -= stream.unreturned
            self._return_to_connection()
        self.return_to_stream(stream)

    def return_to_stream(self, stream: Stream) -> None:
        """Give consumed bytes back, if they are worth a frame."""
        if (
            stream.unreturned >= limits.H2_STREAM_WINDOW_BYTES // 2
            and not stream.paused
            and not stream.peer_ended
            and stream.id in self.streams
        ):
            self._transport.send(frames.window_update(stream.id, stream.unreturned))
            stream.receive_window += stream.unreturned
            stream.unreturned = 0

    def _return_to_connection(self) -> None:
        if self._unreturned >= limits.H2_CONNECTION_WINDOW_BYTES // 2 and self.held < self._most_held:
            self._transport.send(frames.window_update(0, self._unreturned))
            self._receive_window += self._unreturned
            self._unreturned = 0

    # -- streams -------------------------------------------------------------------------------------------------------

    def reset(self, stream: Stream, code: ErrorCode) -> None:
        """End a stream with RST_STREAM and forget it."""
        stream.ended = True
        self._transport.send(frames.rst_stream(stream.id, code))
        self.remember_reset(stream.id, stream.receive_window)
        self.forget(stream)

    def remember_reset(self, stream_id: int, window: int = limits.H2_STREAM_WINDOW_BYTES) -> None:
        """What is under way on this stream is to be ignored: as much as its window let out."""
        resets = self._resets
        resets[stream_id] = window
        if len(resets) > _REMEMBERED_RESETS:
            del resets[next(iter(resets))]

    def forget(self, stream: Stream) -> None:
        """The stream is over: free everything."""
        if self.streams.pop(stream.id, None) is not None:
            self.outflow.forget(stream)
            if stream.paused:
                stream.paused = False
                self.held -= stream.unreturned
                self._return_to_connection()


#: What is done with each kind of frame. Of the class, and not of each session: that would hold itself.
_HANDLERS: Final[dict[int, Callable[[Session, int, int, bytes], None]]] = {
    frames.DATA: Session._data,
    frames.HEADERS: Session._headers,
    frames.PRIORITY: Session._priority,
    frames.RST_STREAM: Session._rst_stream,
    frames.SETTINGS: Session._settings,
    frames.PUSH_PROMISE: Session._push_promise,
    frames.PING: Session._ping,
    frames.GOAWAY: Session._goaway,
    frames.WINDOW_UPDATE: Session._window_update,
    frames.CONTINUATION: Session._continuation,
    frames.PRIORITY_UPDATE: Session._priority_update,
}
