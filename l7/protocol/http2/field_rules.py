"""What fields must look like (RFC 9113 section 8.2), in heads and trailers, of requests and of responses."""

import re
from typing import Final

from l7 import limits
from l7.protocol.http1 import syntax
from l7.protocol.message import Headers, Trailers
from l7.protocol.violation import BadBody

#: Section 8.2.1: a token without upper case.
_NAME: Final = re.compile(rb"[!#$%&'*+.^_`|~0-9a-z-]+")
#: Sections 8.2.1 and RFC 9110 section 5.5: no control character but the tab, no blank at either end.
VALUE: Final = re.compile(rb"(?:[\x21-\x7e\x80-\xff](?:[\t\x20-\x7e\x80-\xff]*[\x21-\x7e\x80-\xff])?)?")
#: Section 8.2.2.
CONNECTION: Final = frozenset((b"connection", b"proxy-connection", b"keep-alive", b"transfer-encoding", b"upgrade"))

_MOST_KNOWN_NAMES: Final = 1024


class Names:
    """Names that were found to be right: nearly all are the same few dozen."""

    __slots__ = ("_underscores", "known")

    def __init__(self, *, underscores: bool) -> None:
        """`underscores`: whether names may have them."""
        self._underscores = underscores
        self.known: set[bytes] = set()
        """Need not be checked."""

    def __repr__(self) -> str:
        return f"<Names: {len(self.known)} known>"

    def wrong(self, name: bytes) -> str | None:
        """Check a name that is not known; the rule that it breaks."""
        if not _NAME.fullmatch(name):
            return "header_name"
        if b"_" in name and not self._underscores:
            return "header_name_underscore"
        if len(name) <= 64:
            if len(self.known) >= _MOST_KNOWN_NAMES:
                self.known.clear()
            self.known.add(name)
        return None


#: Envoy's edge advice, headers_with_underscores_action REJECT_REQUEST: to CGI-like backends `x_a` is `x-a`.
REQUEST_NAMES: Final = Names(underscores=False)
RESPONSE_NAMES: Final = Names(underscores=True)


def read_trailers(fields: Headers, names: Names) -> Trailers:
    """Trailers as they may be passed on: by HTTP/1.1's rules for what has no place there.

    Raises:
        BadBody: they are malformed, or too many.
    """
    if len(fields) > limits.MAX_HEADERS or sum(len(name) + len(value) + 4 for name, value in fields) > (
        limits.MAX_TRAILER_BYTES
    ):
        raise BadBody("trailers_too_large")
    for name, value in fields:
        if name[:1] == b":":
            raise BadBody("pseudo_header_in_trailers")
        if name not in names.known and (reason := names.wrong(name)):
            raise BadBody(reason)
        if name in syntax.NO_TRAILER:
            raise BadBody("trailer_forbidden")
        if not VALUE.fullmatch(value):
            raise BadBody("header_value")
    return [field for field in fields if field[0] not in syntax.DROPPED_TRAILER]
