"""gRPC over HTTP/2 (PROTOCOL-HTTP2.md of gRPC): its words for times, errors and health. No state, no sockets."""

import re
from enum import IntEnum
from typing import Final

from l7.protocol.message import Headers, ResponseHead, Trailers

#: `application/grpc`, with or without `+proto` and the like.
_CONTENT_TYPE: Final = re.compile(rb"application/grpc(?:[+;].*)?")
_TIMEOUT: Final = re.compile(rb"([0-9]{1,8})([HMSmun])")
_SECONDS: Final = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}
#: The largest number that a time may have.
_MOST_DIGITS: Final = 99_999_999


class Status(IntEnum):
    """How a call ended (statuscodes.md), as far as a proxy has to say it."""

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    DEADLINE_EXCEEDED = 4
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    UNAUTHENTICATED = 16


#: The highest status there is.
MOST_STATUS: Final = 16

#: http-grpc-status-mapping.md; everything else is UNKNOWN.
_BY_HTTP: Final = {
    400: Status.INTERNAL,
    401: Status.UNAUTHENTICATED,
    403: Status.PERMISSION_DENIED,
    404: Status.UNIMPLEMENTED,
    429: Status.UNAVAILABLE,
    502: Status.UNAVAILABLE,
    503: Status.UNAVAILABLE,
    504: Status.UNAVAILABLE,
}


def is_grpc(content_type: bytes) -> bool:
    """Whether a request with this `content-type` is a call."""
    return content_type.startswith(b"application/grpc") and _CONTENT_TYPE.fullmatch(content_type) is not None


def read_timeout(value: bytes) -> float | None:
    """Seconds of a `grpc-timeout`; None: it is not one."""
    match = _TIMEOUT.fullmatch(value)
    return int(match[1]) * _SECONDS[match[2]] if match is not None else None


def write_timeout(seconds: float) -> bytes:
    """A `grpc-timeout` that is not longer, in the finest unit that has room for it."""
    for unit in (b"n", b"u", b"m", b"S", b"M"):
        number = int(seconds / _SECONDS[unit])
        if number <= _MOST_DIGITS:
            return b"%d%b" % (max(number, 0), unit)
    return b"%dH" % min(int(seconds / 3600), _MOST_DIGITS)


def status_of_http(status: int) -> Status:
    """What an HTTP error means in gRPC."""
    return _BY_HTTP.get(status, Status.UNKNOWN)


def write_message(text: str) -> bytes:
    """A `grpc-message`: percent-encoded where it is no visible ASCII."""
    return b"".join(
        bytes((octet,)) if 0x20 <= octet <= 0x7E and octet != 0x25 else b"%%%02X" % octet for octet in text.encode()
    )


def status_lines(status: Status, message: str) -> Headers:
    """How a call ended, as trailers."""
    return [(b"grpc-status", b"%d" % status), (b"grpc-message", write_message(message))]


def trailers_only(status: Status, message: str) -> ResponseHead:
    """An answer that is a head alone: HTTP 200, and how the call ended."""
    headers = [(b"content-type", b"application/grpc"), *status_lines(status, message)]
    return ResponseHead(200, headers, length=0, content_length=None)


def read_status(fields: Trailers) -> int | None:
    """The `grpc-status` among fields; None: there is none, or it is no number that gRPC knows."""
    for name, value in fields:
        if name == b"grpc-status":
            return int(value) if value.isdigit() and len(value) <= 2 and int(value) <= MOST_STATUS else None
    return None


# -- Health checking (grpc.health.v1, health.proto) --------------------------------------------------------------------

HEALTH_METHOD: Final = b"/grpc.health.v1.Health/Check"

#: HealthCheckResponse.ServingStatus.
_SERVING_STATUS: Final = {0: "UNKNOWN", 1: "SERVING", 2: "NOT_SERVING", 3: "SERVICE_UNKNOWN"}
SERVING: Final = "SERVING"


def framed(message: bytes) -> bytes:
    """A message, uncompressed, with its length (Length-Prefixed-Message)."""
    return b"\0" + len(message).to_bytes(4) + message


def health_request(service: str) -> bytes:
    """HealthCheckRequest, framed: field 1, a string of less than 128 bytes."""
    name = service.encode()
    return framed(b"\x0a" + bytes((len(name),)) + name if name else b"")


def read_health(body: bytes) -> str | None:
    """The serving status of a framed HealthCheckResponse (field 1, an enum); None: it is none.

    Other fields are not in health.proto, and not looked for.
    """
    if len(body) < 5 or body[0] or int.from_bytes(body[1:5]) != len(body) - 5:
        return None
    message = body[5:]
    if not message:
        return _SERVING_STATUS[0]
    if len(message) != 2 or message[0] != 0x08:
        return None
    return _SERVING_STATUS.get(message[1])
