"""What RFC 9110 and RFC 9112 allow in a head, and the names of what they do not."""

import re
from http import HTTPStatus
from typing import Final

from l7.protocol.message import Trailers

#: Methods that are passed on: those of RFC 9110, WebDAV and PATCH. CONNECT and TRACE are understood and not served; any
#: other token is not understood (501, RFC 9110 section 9.1).
METHODS: Final[frozenset[bytes]] = frozenset(
    b"GET HEAD POST PUT DELETE OPTIONS PATCH "
    b"PROPFIND PROPPATCH MKCOL COPY MOVE LOCK UNLOCK REPORT SEARCH MKCALENDAR ACL CHECKOUT MERGE MKACTIVITY".split()
)

#: Fields of one connection only (RFC 9110 section 7.6.1), beside those that `Connection` names.
HOP_BY_HOP: Final[frozenset[bytes]] = frozenset(
    (b"connection", b"keep-alive", b"proxy-connection", b"te", b"trailer", b"transfer-encoding", b"upgrade")
)

#: What only the edge may say about a request: never taken over from outside.
EDGE_ONLY_REQUEST: Final[frozenset[bytes]] = frozenset(
    (
        b"client-cert",
        b"client-cert-chain",
        b"forwarded",
        b"x-forwarded-client-cert",
        b"x-forwarded-for",
        b"x-forwarded-host",
        b"x-forwarded-port",
        b"x-forwarded-proto",
        b"x-real-ip",
        b"x-request-id",
    )
)

#: Of these, what trusted hops may say.
CLAIMS: Final[frozenset[bytes]] = frozenset((b"x-forwarded-for", b"x-forwarded-host", b"x-forwarded-proto"))

#: What frames or routes a message, or speaks of the connection, has no place behind its body (RFC 9110 section 6.5.1):
#: a reader that merges trailers into the head would see another message than one that does not.
NO_TRAILER: Final[frozenset[bytes]] = HOP_BY_HOP | {b"content-length", b"host", b"expect", b"http2-settings"}

#: What RFC 9110 section 6.5.1 asks senders not to put behind a body, or what only the edge may say: harmless there,
#: and not passed on, because a backend that merges trailers into the head would take it for what was never checked.
DROPPED_TRAILER: Final[frozenset[bytes]] = EDGE_ONLY_REQUEST | frozenset(
    b"authorization proxy-authorization www-authenticate proxy-authenticate authentication-info cookie set-cookie "
    b"age cache-control expires pragma date location retry-after vary warning max-forwards proxy-status via "
    b"range if-match if-none-match if-modified-since if-unmodified-since if-range origin referer "
    b"content-encoding content-type content-range content-language content-location".split()
)

#: Writes a field, given name and value, without the line's end.
field_line: Final = b": ".join

#: A token (RFC 9110 section 5.6.2).
TOKEN: Final = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
VERSION: Final = re.compile(rb"HTTP/[0-9]\.[0-9]")
VISIBLE: Final = re.compile(rb"[\x21-\x7e]+")
DIGITS: Final = re.compile(rb"[0-9]+")

#: A status line (RFC 9112 section 4); llhttp would also take other versions, and a missing space.
STATUS_LINE: Final = re.compile(rb"HTTP/1\.([01]) ([1-9][0-9][0-9])(?: [\t \x21-\x7e\x80-\xff]*)?")

#: Host (RFC 9110 section 7.2), narrowed to what can name a host: a domain name, an IPv4 or a bracketed IPv6 address.
HOST: Final = re.compile(
    rb"([0-9A-Za-z_](?:[0-9A-Za-z._-]{0,253}[0-9A-Za-z_.])?|\[[0-9A-Fa-f:.]{2,45}\])(?::([0-9]{1,5}))?"
)

#: An absolute-form target (RFC 9112 section 3.2.2), without user information.
ABSOLUTE_FORM: Final = re.compile(rb"[Hh][Tt][Tt][Pp][Ss]?://([^/?#@]+)(/[^?]*)?(\?.*)?", re.DOTALL)

#: A CR at the very end may still be followed by its LF.
_BARE_LINE_END: Final = re.compile(rb"(?<!\r)\n|\r(?=[^\n])")
_OBS_FOLD: Final = re.compile(rb"\r\n[ \t]")
_SPACE_BEFORE_COLON: Final = re.compile(rb"\r\n[^:\r\n]*[ \t]:")
_HEADER_LINE: Final = re.compile(TOKEN.pattern + rb":")


def last_chunk(trailers: Trailers) -> bytes:
    """The end of a chunked body (RFC 9112 section 7.1)."""
    if not trailers:
        return b"0\r\n\r\n"
    return b"\r\n".join([b"0", *map(field_line, trailers), b"\r\n"])


def bare_line_end(part: bytes) -> str | None:
    """The reason to refuse (part of) a head for a CR or LF on its own, the first one; None: there is none so far."""
    first = _BARE_LINE_END.search(part)
    if first is None:
        return None
    return "bare_lf" if first[0] == b"\n" else "bare_cr"


def diagnose(head: bytes) -> str:
    """Why llhttp refused a head, by the name of the rule."""
    if b"\0" in head:
        return "nul"
    if reason := bare_line_end(head):
        return reason
    if _OBS_FOLD.search(head):
        return "obs_fold"
    if _SPACE_BEFORE_COLON.search(head):
        return "space_before_colon"
    lines = head.split(b"\r\n")[1:-2]
    if not all(_HEADER_LINE.match(line) for line in lines):
        return "header_name"
    return "header_value"


def values_of(head: bytes, name: bytes) -> list[bytes]:
    """All values of a field in a raw head."""
    lines = [line.partition(b":") for line in head.split(b"\r\n")[1:]]
    return [value.strip(b" \t") for field, _, value in lines if field.lower() == name]


def _status_line(status: int) -> bytes:
    try:
        phrase = HTTPStatus(status).phrase
    except ValueError:
        phrase = ""
    return b"HTTP/1.1 %d %b" % (status, phrase.encode("ascii"))


#: Without the line's end. Reason phrases are ours: they mean nothing (RFC 9112 section 4), and HTTP/2 has none.
STATUS_LINES: Final = {status: _status_line(status) for status in range(100, 1000)}
