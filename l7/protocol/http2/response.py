"""Field lists of responses: what RFC 9113 section 8 asks of them, and the head that is made of them.

The rules are HTTP/1.1's where both have one (`l7.protocol.http1.head.ResponseHeadReader`), by the same names.
"""

import re
from typing import Final

from l7 import limits
from l7.protocol.http1 import syntax
from l7.protocol.http2.field_rules import CONNECTION, RESPONSE_NAMES
from l7.protocol.message import UNKNOWN, Headers, ResponseHead
from l7.protocol.violation import BadResponse

#: Blanks at the ends are forgiven, and not passed on: gRPC's servers send them in `grpc-message`.
_VALUE: Final = re.compile(rb"[\t\x20-\x7e\x80-\xff]*")
_STATUS: Final = re.compile(rb"[1-9][0-9][0-9]")
#: `proxy-status` says who made an error, and that is the edge alone.
_SPECIAL: Final = CONNECTION | {b"content-length", b"proxy-status", b"te", b"trailer"}


def read_response(fields: Headers, *, end: bool, to_head: bool) -> ResponseHead:
    """Make a head. `end`: nothing follows. `to_head`: it answers a HEAD request.

    Raises:
        BadResponse: it is malformed (section 8.1.1).
    """
    if not fields or fields[0][0] != b":status":
        raise BadResponse("status_missing")
    digits = fields[0][1]
    if not _STATUS.fullmatch(digits):
        raise BadResponse("status")
    status = int(digits)
    if status == 101:
        raise BadResponse("unasked_upgrade")
    headers: Headers = []
    lengths: list[bytes] = []
    size = 0
    known = RESPONSE_NAMES.known
    for name, value in fields[1:]:
        size += len(name) + len(value) + 4
        if name not in known:
            if name[:1] == b":":
                raise BadResponse("pseudo_header")
            if reason := RESPONSE_NAMES.wrong(name):
                raise BadResponse(reason)
        if not _VALUE.fullmatch(value):
            raise BadResponse("header_value")
        if name not in _SPECIAL:
            headers.append((name, value.strip(b" \t")))
        elif name == b"content-length":
            lengths.append(value)
        elif name in CONNECTION:
            raise BadResponse("connection_field")
    if len(headers) > limits.MAX_HEADERS:
        raise BadResponse("too_many_headers")
    if size > limits.MAX_RESPONSE_HEAD_BYTES:
        raise BadResponse("head_too_large")
    stated = _length(lengths)
    if status < 200 or status == 204:
        return ResponseHead(status, headers, length=0, content_length=None)
    if to_head or status == 304:
        return ResponseHead(status, headers, length=0, content_length=stated)
    if end:
        if stated:
            raise BadResponse("content_length_mismatch")
        # gRPC's "Trailers-Only" is a head that is all: nothing is said about a body.
        trailers_only = any(name == b"grpc-status" for name, _ in headers)
        return ResponseHead(status, headers, length=0, content_length=None if trailers_only else 0)
    return ResponseHead(status, headers, length=UNKNOWN if stated is None else stated, content_length=stated)


def _length(lengths: list[bytes]) -> int | None:
    if not lengths:
        return None
    if len(lengths) > 1:
        raise BadResponse("content_length_duplicate")
    digits = lengths[0]
    if not syntax.DIGITS.fullmatch(digits) or len(digits) > limits.MAX_CONTENT_LENGTH_DIGITS:
        raise BadResponse("content_length")
    return int(digits)
