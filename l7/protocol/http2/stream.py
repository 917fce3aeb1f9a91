"""One stream as both ends of a connection keep it: windows, and what waits for them."""

from mypy_extensions import mypyc_attr

from l7 import limits
from l7.protocol.http2 import frames
from l7.protocol.message import Trailers


@mypyc_attr(allow_interpreted_subclasses=True)
class Stream:
    """Windows and output of a stream. Its states are two booleans: each side has ended, or has not."""

    __slots__ = (
        "blocked",
        "ended",
        "id",
        "output",
        "output_bytes",
        "paused",
        "peer_ended",
        "receive_window",
        "send_window",
        "to_end",
        "trailers",
        "unreturned",
    )

    def __init__(self, stream_id: int, send_window: int) -> None:
        self.id = stream_id
        self.ended = False
        """We have sent END_STREAM, or the stream was reset: nothing more is sent on it."""
        self.peer_ended = False
        """The peer has sent END_STREAM."""
        self.send_window = send_window
        """May be negative (RFC 9113 section 6.9.2)."""
        self.receive_window = limits.H2_STREAM_WINDOW_BYTES
        self.unreturned = 0
        """Bytes received that were not given back to the peer's window yet."""
        self.paused = False
        """What it receives is not consumed: nothing is given back."""
        self.output: list[bytes] = []
        """What waits for a window or for the socket, first in first out."""
        self.output_bytes = 0
        self.blocked = False
        """Whoever writes to it was asked to pause."""
        self.to_end = False
        """END_STREAM follows the output."""
        self.trailers: Trailers = ()

    def output_drained(self) -> None:
        """The output fell below its low-water mark."""

    def output_ended(self) -> None:
        """END_STREAM has been sent."""

    def take(self, size: int) -> bytes:
        """Take the next bytes of the output, at most `size`."""
        first = self.output[0]
        if len(first) <= size:
            del self.output[0]
            self.output_bytes -= len(first)
            return first
        self.output[0] = first[size:]
        self.output_bytes -= size
        return first[:size]

    def __repr__(self) -> str:
        return (
            f"Stream({self.id}, {'ended' if self.ended else 'open'}/{'ended' if self.peer_ended else 'open'}, "
            f"window {self.send_window}, {self.output_bytes} bytes wait)"
        )


def payload_bytes(kind: int, flags: int, payload: bytes) -> bytes:
    """Payload of DATA or HEADERS without padding (RFC 9113 section 6.1).

    Raises:
        ConnectionBroken: there is more padding than payload.
    """
    if not flags & frames.PADDED:
        return payload
    if not payload:
        raise frames.ConnectionBroken(frames.ErrorCode.FRAME_SIZE_ERROR, "padding")
    end = len(payload) - payload[0]
    if end < 1:
        raise frames.ConnectionBroken(frames.ErrorCode.PROTOCOL_ERROR, "padding")
    return payload[1:end]
