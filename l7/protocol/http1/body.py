"""Chunked bodies (RFC 9112 section 7.1), strictly: extensions are checked, bounded, and dropped; so are
trailers, but for those that are harmless to who might merge them into the head.

```
 SIZE ──size > 0──▶ DATA ──▶ CRLF ──▶ SIZE
   └────size = 0──▶ TRAILERS ──empty line──▶ DONE
```
"""

import re
from enum import Enum, auto

from l7 import limits
from l7.protocol.http1 import syntax
from l7.protocol.message import Headers
from l7.protocol.violation import BadBody

_TOKEN = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_QUOTED = rb'"(?:[\t \x21\x23-\x5b\x5d-\x7e\x80-\xff]|\\[\t \x21-\x7e\x80-\xff])*"'

#: Without the "bad whitespace" that section 7.1.1 has only for the sake of old senders: readers differ about it.
_SIZE_LINE = re.compile(rb"([0-9A-Fa-f]+)((?:;" + _TOKEN + rb"(?:=(?:" + _TOKEN + rb"|" + _QUOTED + rb"))?)*)")
_TRAILER_LINE = re.compile(rb"(" + _TOKEN + rb"):[\t \x21-\x7e\x80-\xff]*")


class _Expecting(Enum):
    SIZE = auto()
    DATA = auto()
    CRLF = auto()
    TRAILERS = auto()
    DONE = auto()


class ChunkedDecoder:
    """Decodes one chunked body; bytes of the next message are left alone."""

    __slots__ = ("_expecting", "_line", "_overhead", "_remaining", "_trailer_bytes", "trailers")

    def __init__(self) -> None:
        self._expecting = _Expecting.SIZE
        self._line = b""
        self._remaining = 0
        self._overhead = 0
        self._trailer_bytes = 0
        self.trailers: Headers = []
        """Once done: those that may be passed on."""

    @property
    def done(self) -> bool:
        """Whether the whole body has been seen."""
        return self._expecting is _Expecting.DONE

    def decode(self, data: bytes) -> tuple[bytes, int]:
        """Give the body bytes in `data`, and the index after the last byte that belongs to this body.

        Raises:
            BadBody: the framing is broken; the connection cannot be used any more.
        """
        parts: list[bytes] = []
        at = 0
        end = len(data)
        while at < end and self._expecting is not _Expecting.DONE:
            if self._expecting is _Expecting.DATA:
                part = data[at : at + self._remaining]
                parts.append(part)
                at += len(part)
                self._remaining -= len(part)
                if not self._remaining:
                    self._expecting = _Expecting.CRLF
            else:
                at = self._read_line(data, at)
        return (parts[0] if len(parts) == 1 else b"".join(parts)), at

    def _read_line(self, data: bytes, at: int) -> int:
        """Take the next line, or the part of it that is there."""
        expecting = self._expecting
        room = _LINE_BOUNDS[expecting] + 2 - len(self._line)
        newline = data.find(b"\n", at, at + room)
        end = min(len(data), at + room) if newline < 0 else newline + 1
        line = self._line + data[at:end]
        # In an order that does not depend on where the bytes were cut: the first byte that is wrong decides.
        if expecting is _Expecting.CRLF and line[:1] not in b"\r\n":
            raise BadBody("chunk_data_overrun")
        carriage_return = line.find(b"\r")
        if 0 <= carriage_return < len(line) - 1 and (newline < 0 or carriage_return < len(line) - 2):
            raise BadBody("chunk_bare_cr")
        if newline < 0:
            if len(line) >= _LINE_BOUNDS[expecting] + 2:
                raise BadBody(_TOO_LONG[expecting])
            self._line = line
            return end
        self._line = b""
        if carriage_return < 0:
            raise BadBody("chunk_bare_lf")
        self._take_line(line[:-2])
        return end

    def _take_line(self, line: bytes) -> None:
        if self._expecting is _Expecting.SIZE:
            self._take_size(line)
        elif self._expecting is _Expecting.CRLF:
            if line:
                raise BadBody("chunk_data_overrun")
            self._expecting = _Expecting.SIZE
        elif not line:
            self._expecting = _Expecting.DONE
        else:
            self._trailer_bytes += len(line) + 2
            if self._trailer_bytes > limits.MAX_TRAILER_BYTES:
                raise BadBody("trailers_too_large")
            self._take_trailer(line)

    def _take_trailer(self, line: bytes) -> None:
        match = _TRAILER_LINE.fullmatch(line)
        if match is None:
            raise BadBody("trailer_malformed")
        name = match[1].lower()
        if b"_" in name:
            raise BadBody("trailer_name_underscore")
        if name in syntax.NO_TRAILER:
            raise BadBody("trailer_forbidden")
        if name not in syntax.DROPPED_TRAILER:
            self.trailers.append((name, line[match.end(1) + 1 :].strip(b" \t")))

    def _take_size(self, line: bytes) -> None:
        match = _SIZE_LINE.fullmatch(line)
        if match is None:
            raise BadBody("chunk_size_malformed")
        digits = match[1]
        if len(digits) > limits.MAX_CHUNK_SIZE_DIGITS:
            raise BadBody("chunk_size_too_large")
        # A body of one-byte chunks with long extensions costs more to read than to send: Go's rule, 16 bytes a chunk
        # are free, and the excess is counted.
        self._overhead = max(0, self._overhead + len(line) + 4 - 16)
        if self._overhead > limits.MAX_CHUNK_OVERHEAD_BYTES:
            raise BadBody("chunk_extensions_too_large")
        self._remaining = int(digits, 16)
        self._expecting = _Expecting.DATA if self._remaining else _Expecting.TRAILERS


#: Longest line without its CRLF, per state.
_LINE_BOUNDS = {
    _Expecting.SIZE: limits.MAX_CHUNK_LINE_BYTES,
    _Expecting.CRLF: 0,
    _Expecting.TRAILERS: limits.MAX_TRAILER_BYTES,
}
_TOO_LONG = {
    _Expecting.SIZE: "chunk_line_too_long",
    _Expecting.CRLF: "chunk_data_overrun",
    _Expecting.TRAILERS: "trailers_too_large",
}
