"""Frames (RFC 9113 sections 4 and 6): their numbers, how they are written, and how a broken rule is told."""

import struct
from enum import IntEnum
from typing import Final

#: What a client begins with (section 3.4).
PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

#: Largest payload that we take and send: the least that every endpoint must be able to (section 4.2).
MAX_PAYLOAD_BYTES: Final = 16384
HEADER_BYTES: Final = 9

#: Largest stream identifier, and largest window (sections 5.1.1 and 6.9.1).
MAX_31_BITS: Final = 2**31 - 1
#: Of streams and of the connection, until a SETTINGS or WINDOW_UPDATE frame says otherwise (section 6.9.2).
DEFAULT_WINDOW: Final = 65535

#: Of the table for header fields, likewise (section 6.5.2).
DEFAULT_TABLE_BYTES: Final = 4096

DATA: Final = 0x0
HEADERS: Final = 0x1
PRIORITY: Final = 0x2
RST_STREAM: Final = 0x3
SETTINGS: Final = 0x4
PUSH_PROMISE: Final = 0x5
PING: Final = 0x6
GOAWAY: Final = 0x7
WINDOW_UPDATE: Final = 0x8
CONTINUATION: Final = 0x9
#: RFC 9218 section 7.1: an extension that browsers send.
PRIORITY_UPDATE: Final = 0x10

END_STREAM: Final = 0x1
ACK: Final = 0x1
END_HEADERS: Final = 0x4
PADDED: Final = 0x8
HAS_PRIORITY: Final = 0x20

SETTINGS_HEADER_TABLE_SIZE: Final = 0x1
SETTINGS_ENABLE_PUSH: Final = 0x2
SETTINGS_MAX_CONCURRENT_STREAMS: Final = 0x3
SETTINGS_INITIAL_WINDOW_SIZE: Final = 0x4
SETTINGS_MAX_FRAME_SIZE: Final = 0x5
SETTINGS_MAX_HEADER_LIST_SIZE: Final = 0x6
#: RFC 8441 section 3.
SETTINGS_ENABLE_CONNECT_PROTOCOL: Final = 0x8
#: RFC 9218 section 2.1: priorities of RFC 7540 mean nothing here.
SETTINGS_NO_RFC7540_PRIORITIES: Final = 0x9


class ErrorCode(IntEnum):
    """Section 7."""

    NO_ERROR = 0x0
    PROTOCOL_ERROR = 0x1
    INTERNAL_ERROR = 0x2
    FLOW_CONTROL_ERROR = 0x3
    STREAM_CLOSED = 0x5
    FRAME_SIZE_ERROR = 0x6
    REFUSED_STREAM = 0x7
    CANCEL = 0x8
    COMPRESSION_ERROR = 0x9
    ENHANCE_YOUR_CALM = 0xB


def code_name(code: int) -> str:
    """A peer's error code, in lower case, for log and metrics: one of a fixed set."""
    try:
        return ErrorCode(code).name.lower()
    except ValueError:
        return "unknown"


class ConnectionBroken(Exception):
    """A connection error (section 5.4.1): GOAWAY, and the end. `reason`: a name for log and metrics."""

    def __init__(self, code: ErrorCode, reason: str) -> None:
        super().__init__(code.name, reason)
        self.code = code
        self.reason = reason


class StreamBroken(Exception):
    """A stream error (section 5.4.2): RST_STREAM, and everybody else goes on."""

    def __init__(self, code: ErrorCode, reason: str) -> None:
        super().__init__(code.name, reason)
        self.code = code
        self.reason = reason


_HEADER: Final = struct.Struct("!HBBBL")
#: Upper 16 bits of the length, its lower 8, type, flags, stream identifier with its reserved bit.
unpack_header: Final = _HEADER.unpack_from
_pack_header: Final = _HEADER.pack
_SETTING: Final = struct.Struct("!HL")


def frame(kind: int, flags: int, stream_id: int, payload: bytes) -> bytes:
    """Any frame."""
    length = len(payload)
    return _pack_header(length >> 8, length & 0xFF, kind, flags, stream_id) + payload


def settings(values: dict[int, int]) -> bytes:
    """SETTINGS (section 6.5)."""
    return frame(SETTINGS, 0, 0, b"".join(_SETTING.pack(name, value) for name, value in values.items()))


def read_settings(payload: bytes) -> list[tuple[int, int]]:
    """Names and values, in order.

    Raises:
        ConnectionBroken: the length is no multiple of 6.
    """
    if len(payload) % 6:
        raise ConnectionBroken(ErrorCode.FRAME_SIZE_ERROR, "settings_length")
    return list(_SETTING.iter_unpack(payload))


def headers(stream_id: int, block: bytes, *, end_stream: bool) -> bytes:
    """HEADERS, with CONTINUATION frames behind it if the block is long (section 6.10)."""
    flags = END_STREAM if end_stream else 0
    if len(block) <= MAX_PAYLOAD_BYTES:
        return frame(HEADERS, flags | END_HEADERS, stream_id, block)
    parts = [block[at : at + MAX_PAYLOAD_BYTES] for at in range(0, len(block), MAX_PAYLOAD_BYTES)]
    frames = [frame(HEADERS, flags, stream_id, parts[0])]
    frames += [frame(CONTINUATION, 0, stream_id, part) for part in parts[1:-1]]
    frames.append(frame(CONTINUATION, END_HEADERS, stream_id, parts[-1]))
    return b"".join(frames)


def rst_stream(stream_id: int, code: ErrorCode) -> bytes:
    """RST_STREAM (section 6.4)."""
    return frame(RST_STREAM, 0, stream_id, code.to_bytes(4))


def goaway(last_stream_id: int, code: ErrorCode) -> bytes:
    """GOAWAY (section 6.8)."""
    return frame(GOAWAY, 0, 0, last_stream_id.to_bytes(4) + code.to_bytes(4))


def window_update(stream_id: int, increment: int) -> bytes:
    """WINDOW_UPDATE (section 6.9)."""
    return frame(WINDOW_UPDATE, 0, stream_id, increment.to_bytes(4))


SETTINGS_ACK: Final = frame(SETTINGS, ACK, 0, b"")
