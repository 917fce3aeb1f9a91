"""WebSocket (RFC 6455): what a handshake must say, and where one frame ends and the next begins.

Frames are looked at, not read: of each only its header, for two reasons. A frame of the proxy's own (Ping, Close) may
stand between two frames and nowhere else; and whoever has sent its Close has said all that it had to say.

```
 ┌─┬───┬──────┬─┬──────┬───────────────────┬──────────────┬ ─ ─ ─ ─ ┐
 │F│RSV│opcode│M│length│ 0, 2 or 8 bytes   │ key: 0, 4    │ payload
 │1│ 3 │  4   │1│  7   │ (length 126, 127) │ (if masked)  │         │
 └─┴───┴──────┴─┴──────┴───────────────────┴──────────────┴ ─ ─ ─ ─ ┘
```
"""

import base64
import binascii
import hashlib
from collections.abc import Sequence
from typing import Final

from l7.protocol.message import Headers
from l7.protocol.violation import BadRequest, BadResponse

PROTOCOL: Final = b"websocket"
VERSION: Final = b"13"

#: Section 1.3.
_GUID: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_KEY_BYTES: Final = 16

#: Section 7.4.1: the endpoint goes away, as a server that goes down does.
GOING_AWAY: Final = 1001

_FIN: Final = 0x80
_MASKED: Final = 0x80
_CONTROL: Final = 0x08
_CLOSE: Final = 0x08
_PING: Final = 0x09
#: Section 5.2: continuation, text, binary, close, ping, pong. The others are reserved.
_OPCODES: Final = frozenset((0x0, 0x1, 0x2, 0x8, 0x9, 0xA))
_MOST_CONTROL_BYTES: Final = 125


# -- Handshakes --------------------------------------------------------------------------------------------------------


def is_offered(upgrades: Sequence[bytes]) -> bool:
    """Whether `Upgrade` fields (RFC 9110 section 7.8) name it, among others maybe."""
    return any(each.strip(b" \t").lower() == PROTOCOL for each in b",".join(upgrades).split(b","))


def check_version(headers: Headers) -> None:
    """Raises BadRequest: it is not the one version that there is (section 4.2.1, item 6)."""
    if [value for name, value in headers if name == b"sec-websocket-version"] != [VERSION]:
        raise BadRequest(400, "websocket_version")


def offered_key(method: bytes, length: int, headers: Headers) -> bytes:
    """Check a client's opening handshake over HTTP/1.1 (section 4.2.1), and give its key.

    Raises:
        BadRequest: it is none.
    """
    if method != b"GET":
        raise BadRequest(400, "websocket_method")
    if length:
        # The server would read it as frames, or the frames as it.
        raise BadRequest(400, "websocket_body")
    check_version(headers)
    keys = [value for name, value in headers if name == b"sec-websocket-key"]
    if len(keys) != 1 or not _is_key(keys[0]):
        raise BadRequest(400, "websocket_key")
    return keys[0]


def _is_key(value: bytes) -> bool:
    try:
        key = base64.b64decode(value, validate=True)
    except binascii.Error:
        return False
    return len(key) == _KEY_BYTES and base64.b64encode(key) == value


def key_of(request_id: str) -> bytes:
    """A key for a handshake with a server, where the client has none (RFC 8441 section 5). Section 4.1 asks for 16
    bytes that differ each time; request ids are random."""
    return base64.b64encode(hashlib.sha256(request_id.encode("ascii")).digest()[:_KEY_BYTES])


def accept_of(key: bytes) -> bytes:
    """What a server answers to a key (section 4.2.2, item 5.4)."""
    return base64.b64encode(hashlib.sha1(key + _GUID, usedforsecurity=False).digest())


def check_acceptance(key: bytes, upgrades: Sequence[bytes], headers: Headers) -> None:
    """Check a server's 101 (section 4.1): it has read the request as a handshake, and not as anything else.

    Raises:
        BadResponse: it has not.
    """
    if [each.lower() for each in upgrades] != [PROTOCOL]:
        raise BadResponse("websocket_upgrade")
    if [value for name, value in headers if name == b"sec-websocket-accept"] != [accept_of(key)]:
        raise BadResponse("websocket_accept")


# -- Frames ------------------------------------------------------------------------------------------------------------


def ping() -> bytes:
    """An empty Ping, to a client."""
    return bytes((_FIN | _PING, 0))


def close(code: int, mask: bytes = b"") -> bytes:
    """A Close. `mask`: four unpredictable bytes, to a server; to a client none (section 5.1)."""
    status = code.to_bytes(2)
    if not mask:
        return bytes((_FIN | _CLOSE, len(status))) + status
    masked = bytes(byte ^ key for byte, key in zip(status, mask, strict=False))
    return bytes((_FIN | _CLOSE, _MASKED | len(status))) + mask + masked


class FrameObserver:
    """Follows the frames that go by in one direction, however they are cut into reads."""

    __slots__ = ("_head", "_is_close", "_left", "_masked", "closed", "readable")

    def __init__(self, *, masked: bool) -> None:
        """`masked`: as all frames of clients are, and none of servers (section 5.1)."""
        self._masked = _MASKED if masked else 0
        self._head = b""
        self._left = 0
        self._is_close = False
        self.closed = False
        """A whole Close has gone by. What follows it means nothing (section 5.5.1), and is not looked at."""
        self.readable = True
        """Whether these are frames. If not, nobody knows where the next one begins."""

    @property
    def at_border(self) -> bool:
        """Whether a frame may be put in here."""
        return self.readable and not self._left and not self._head

    def observe(self, data: bytes, *, to_border: bool = False) -> int:
        """Take bytes; gives how many were taken. `to_border`: at most to the end of the frame that is under way."""
        at = 0
        end = len(data)
        while at < end:
            if self.closed or not self.readable:
                return end
            if self._left:
                step = min(self._left, end - at)
                self._left -= step
                at += step
            else:
                at = self._take_head(data, at)
            if not self._left and not self._head:
                self.closed = self._is_close
                if to_border:
                    return at
        return at

    def _take_head(self, data: bytes, at: int) -> int:
        """Take a frame's header, or what is there of it; gives the index behind."""
        before = len(self._head)
        head = self._head + data[at : at + 14 - before]
        if len(head) < 2:
            self._head = head
            return at + 1
        first, second = head[0], head[1]
        size = second & 0x7F
        opcode = first & 0x0F
        if (
            opcode not in _OPCODES
            or second & _MASKED != self._masked
            or (opcode & _CONTROL and (size > _MOST_CONTROL_BYTES or not first & _FIN))
        ):
            self.readable = False
            return len(data)
        extended = 0 if size < 126 else 2 if size == 126 else 8
        length = 2 + extended + (4 if self._masked else 0)
        if len(head) < length:
            self._head = head
            return at + len(head) - before
        if extended:
            size = int.from_bytes(head[2 : 2 + extended])
            if size >> 63:
                self.readable = False
                return len(data)
        self._head = b""
        self._left = size
        self._is_close = opcode == _CLOSE
        return at + length - before

    def __repr__(self) -> str:
        state = "closed" if self.closed else f"{self._left} bytes to a border" if self.readable else "unreadable"
        return f"<FrameObserver: {state}>"
