"""What leaves on the streams of a connection: each by its own window, all by the connection's, in turns.

A stream whose window is empty waits by itself. When the connection's window or the socket is what is full, all wait,
and are then served round and round, a frame each, so that no large answer holds up the small ones.
"""

from l7 import limits
from l7.protocol.http2 import fields, frames
from l7.protocol.http2.floods import Conduct
from l7.protocol.http2.stream import Stream
from l7.shell import Transport


class Outflow:
    """The sending half of a connection's flow control (RFC 9113 section 5.2)."""

    __slots__ = ("_conduct", "_transport", "_waiting", "blocked", "shrinks_table", "window")

    def __init__(self, transport: Transport, conduct: Conduct) -> None:
        self._transport = transport
        self._conduct = conduct
        self.window = frames.DEFAULT_WINDOW
        self.blocked = False
        """The socket is full."""
        self.shrinks_table = False
        """The peer wants a smaller table for header fields than there is to begin with. None is used here, but it must
        be told so in the next block (RFC 7541 section 4.2)."""
        self._waiting: dict[int, Stream] = {}

    def __repr__(self) -> str:
        return f"<Outflow: window {self.window}, {len(self._waiting)} streams wait>"

    def send_block(self, stream_id: int, block: bytes, *, end: bool) -> None:
        """Send a header block: no window holds it up."""
        if self.shrinks_table:
            self.shrinks_table = False
            block = fields.TABLE_SIZE_ZERO + block
        self._transport.send(frames.headers(stream_id, block, end_stream=end))

    def send(self, stream: Stream, data: bytes) -> None:
        """Send what fits, and keep the rest. Look at `Stream.blocked` afterwards."""
        size = len(data)
        if (
            not stream.output
            and size <= stream.send_window
            and size <= self.window
            and size <= frames.MAX_PAYLOAD_BYTES
            and not self.blocked
        ):
            stream.send_window -= size
            self.window -= size
            self._conduct.data_sent += 1
            self._transport.send(frames.frame(frames.DATA, frames.END_STREAM if stream.to_end else 0, stream.id, data))
            if stream.to_end:
                stream.ended = True
                stream.output_ended()
            return
        stream.output.append(data)
        stream.output_bytes += size
        while self._send_frame(stream):
            pass
        self._settle(stream)
        if stream.output_bytes > limits.H2_STREAM_OUTPUT_BYTES:
            stream.blocked = True

    def end(self, stream: Stream) -> None:
        """END_STREAM follows what is kept; trailers, if the stream has them, carry it."""
        stream.to_end = True
        if not stream.output and not stream.ended:
            self._end(stream)

    def forget(self, stream: Stream) -> None:
        """The stream is over."""
        stream.output.clear()
        stream.output_bytes = 0
        self._waiting.pop(stream.id, None)

    def go_on(self) -> None:
        """Some window was opened, or the socket takes bytes again: serve those that wait, in turns."""
        waiting = self._waiting
        turn = list(waiting.values())
        while turn and self.window > 0 and not self.blocked:
            turn = [stream for stream in turn if self._send_frame(stream)]
        for stream in list(waiting.values()):
            self._settle(stream)

    def _send_frame(self, stream: Stream) -> bool:
        """Send one DATA frame of what the stream keeps; whether another one may be possible."""
        if not stream.output or self.blocked:
            return False
        size = min(stream.send_window, self.window, frames.MAX_PAYLOAD_BYTES)
        if size <= 0:
            return False
        data = stream.take(size)
        stream.send_window -= len(data)
        self.window -= len(data)
        self._conduct.data_sent += 1
        ends = stream.to_end and not stream.output and not stream.trailers
        self._transport.send(frames.frame(frames.DATA, frames.END_STREAM if ends else 0, stream.id, data))
        if ends:
            stream.ended = True
        return bool(stream.output)

    def _settle(self, stream: Stream) -> None:
        if stream.output:
            self._waiting[stream.id] = stream
        else:
            self._waiting.pop(stream.id, None)
            if stream.ended:
                stream.output_ended()
                return
            if stream.to_end:
                self._end(stream)
                return
        if stream.blocked and stream.output_bytes <= limits.H2_STREAM_OUTPUT_BYTES:
            stream.blocked = False
            stream.output_drained()

    def _end(self, stream: Stream) -> None:
        if stream.trailers:
            self.send_block(stream.id, fields.write(stream.trailers), end=True)
        else:
            self._conduct.data_sent += 1
            self._transport.send(frames.frame(frames.DATA, frames.END_STREAM, stream.id, b""))
        stream.ended = True
        stream.output_ended()
