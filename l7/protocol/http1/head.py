"""Reading heads: llhttp splits and checks them, and this module refuses what llhttp lets by.

A reader is given a whole head, from the start line to the empty line, and gives each head to an llhttp parser of its
own: whatever the pieces in which a head arrived, it is judged once, whole, and no state of llhttp's outlives it. (A
parser costs 0.3 µs; which heads leave one behind that can be used again is a rule nobody should have to know.) Bodies
never reach llhttp. Heads without any oddity, which are most, need not go through all that: see `plain_head`.
"""

from typing import Final

import httptools

from l7 import limits
from l7.protocol import websocket
from l7.protocol.http1 import syntax
from l7.protocol.http1.plain_head import split_request, split_response
from l7.protocol.message import UNKNOWN, Headers, RequestHead, ResponseHead
from l7.protocol.violation import BadRequest, BadResponse

_METHODS: Final = syntax.METHODS

_CLAIMS: Final = syntax.CLAIMS

#: What nearly all `Connection` fields say; they name no header.
_KEEP_ALIVE: Final = ([b"keep-alive"], [b"Keep-Alive"])


def _options(values: list[bytes]) -> frozenset[bytes]:
    """Options of all these `Connection` or `TE` fields, lower case."""
    return frozenset(option.strip(b" \t") for option in b",".join(values).lower().split(b","))


class _Framing:
    """Fields that llhttp's callbacks collect from either kind of head."""

    __slots__ = ("_connection", "_content_lengths", "_headers", "_transfer_encodings", "_upgrades")

    def __init__(self) -> None:
        self._headers: Headers = []
        self._content_lengths: list[bytes] = []
        self._transfer_encodings: list[bytes] = []
        self._connection: list[bytes] = []
        self._upgrades: list[bytes] = []

    def _clear(self) -> None:
        self._headers = []
        # Most heads have at most one of each: the empty lists are made anew only after use.
        if self._content_lengths:
            self._content_lengths = []
        if self._transfer_encodings:
            self._transfer_encodings = []
        if self._connection:
            self._connection = []
        if self._upgrades:
            self._upgrades = []

    def _without_nominated(self, options: frozenset[bytes]) -> Headers:
        """The headers without those that `Connection` names (RFC 9110 section 7.6.1)."""
        return [header for header in self._headers if header[0] not in options]


class RequestHeadReader(_Framing):
    """Reads the request heads of one client connection."""

    __slots__ = (
        "_claims",
        "_expect",
        "_hosts",
        "_known_authority",
        "_known_host",
        "_te",
        "_underscore",
        "method",
        "target",
    )

    def __init__(self) -> None:
        super().__init__()
        self._hosts: list[bytes] = []
        self._expect: bytes | None = None
        self._te = b""
        self._claims: Headers = []
        self._underscore = False
        # A kept-alive connection asks for the same host again and again.
        self._known_authority = b""
        self._known_host = b""
        self.method = b""
        """Of the head read last, as far as it was understood: for the log."""
        self.target = b""

    def _clear(self) -> None:
        super()._clear()
        self._hosts = []
        self._expect = None
        self._te = b""
        if self._claims:
            self._claims = []
        self.method = self.target = b""

    def on_header(self, name: bytes, value: bytes) -> None:
        """Called by llhttp for each field, in order."""
        name = name.lower()
        value = value.rstrip(b" \t")
        if name not in _SPECIAL_REQUEST:
            if b"_" in name:
                self._underscore = True
            self._headers.append((name, value))
        elif name == b"host":
            self._hosts.append(value)
        elif name == b"content-length":
            self._content_lengths.append(value)
        elif name == b"transfer-encoding":
            self._transfer_encodings.append(value)
        elif name == b"connection":
            self._connection.append(value)
        elif name in _CLAIMS:
            self._claims.append((name, value))
        elif name == b"te":
            self._te += b"," + value
        elif name == b"expect":
            self._expect = value if self._expect is None else b""
        elif name == b"upgrade":
            self._upgrades.append(value)

    def read(self, head: bytes) -> tuple[RequestHead, int]:
        """Read a whole head; gives it with the minor version (0 or 1).

        Raises:
            BadRequest: a rule was broken.
        """
        plain = self._read_plain(head)
        return self.read_strictly(head) if plain is None else (plain, 1)

    def read_strictly(self, head: bytes) -> tuple[RequestHead, int]:
        """As `read`, whether the head is plain or not."""
        self._clear()
        method, target, minor = self._read_request_line(head)
        try:
            httptools.HttpRequestParser(self).feed_data(head)
        except httptools.HttpParserUpgrade:
            pass  # seen to below; any but WebSocket is dropped like every hop-by-hop field
        except httptools.HttpParserError:
            raise self._refused_by_llhttp(head, minor) from None
        if head.count(b"\r\n") > limits.MAX_HEADERS + 2:
            raise BadRequest(431, "too_many_headers")
        if self._underscore:
            # Envoy's edge advice, headers_with_underscores_action REJECT_REQUEST: to CGI-like backends `x_a` is `x-a`.
            raise BadRequest(400, "header_name_underscore")
        length = self._length(minor) if self._content_lengths or self._transfer_encodings else 0
        keep_alive = minor == 1
        headers = self._headers
        key: bytes | None = None
        if self._connection:
            if self._connection in _KEEP_ALIVE:
                keep_alive = True
            else:
                options = _options(self._connection)
                keep_alive = b"close" not in options and (minor == 1 or b"keep-alive" in options)
                headers = self._without_nominated(options)
                # RFC 9110 section 7.8: an HTTP/1.0 client's offer, and one that `Connection` does not name, is ignored.
                if self._upgrades and minor == 1 and b"upgrade" in options and websocket.is_offered(self._upgrades):
                    key = websocket.offered_key(method, length, headers)
        path, query, authority, host = self._read_target(method, target, minor)
        expects_continue = False
        if self._expect is not None:
            if self._expect.lower() != b"100-continue":
                raise BadRequest(417, "expectation_unknown")
            # An HTTP/1.0 client's expectation is ignored (RFC 9110 section 10.1.1).
            expects_continue = length != 0 and minor == 1
        request = RequestHead(method, path, query, authority, host, headers, length, keep_alive, expects_continue)
        if self._te:
            # Of what TE offers, the codings need not be used, and are not (RFC 9110 section 10.1.4).
            request.accepts_trailers = minor == 1 and b"trailers" in _options([self._te])
        if self._claims:
            request.claims = self._claims
        if minor == 0:
            request.version = b"1.0"
        if key is not None:
            request.websocket_key = key
        return request, minor

    def _read_plain(self, head: bytes) -> RequestHead | None:
        """A head without any oddity, read at once; None: it has one, which may be allowed or not."""
        found = split_request(head, _SPECIAL_REQUEST, limits.MAX_HEADERS)
        if found is None:
            return None
        method, path, query, authority, stated, headers = found
        target = path + query if query else path
        if len(target) > limits.MAX_REQUEST_TARGET_BYTES:
            return None
        if authority != self._known_authority:
            match = syntax.HOST.fullmatch(authority)
            if match is None or match[2] is not None:
                return None
            self._known_host = match[1].lower()
            self._known_authority = authority
        length = 0
        if stated is not None:
            if not syntax.DIGITS.fullmatch(stated) or len(stated) > limits.MAX_CONTENT_LENGTH_DIGITS:
                return None
            length = int(stated)
        self.method = method
        self.target = target
        return RequestHead(method, path, query, authority, self._known_host, headers, length, True, False)

    def _read_request_line(self, head: bytes) -> tuple[bytes, bytes, int]:
        """RFC 9112 section 3: exactly two single spaces; llhttp forgives more of them, and versions of its own."""
        line = head[: head.index(b"\r\n")]
        parts = line.split(b" ")
        if len(parts) != 3:
            raise BadRequest(400, syntax.bare_line_end(line) or "request_line")
        method, target, version = parts
        minor = 1
        if version != b"HTTP/1.1":
            if version != b"HTTP/1.0":
                if syntax.VERSION.fullmatch(version):
                    raise BadRequest(505, "version")
                raise BadRequest(400, syntax.bare_line_end(line) or "request_line")
            minor = 0
        self.method = method
        self.target = target
        if method not in _METHODS:
            if method in (b"CONNECT", b"TRACE"):
                raise BadRequest(501, "method_not_served")
            if syntax.TOKEN.fullmatch(method):
                raise BadRequest(501, "method_unknown")
            raise BadRequest(400, "method")
        if len(target) > limits.MAX_REQUEST_TARGET_BYTES:
            raise BadRequest(414, "target_too_long")
        return method, target, minor

    def _refused_by_llhttp(self, head: bytes, minor: int) -> BadRequest:
        """The name of the rule: llhttp has one reason for several, and stops before all is read."""
        if not syntax.VISIBLE.fullmatch(self.target):
            return BadRequest(400, "target")
        if self.target != b"*" and self.target[:1] != b"/" and not syntax.ABSOLUTE_FORM.fullmatch(self.target):
            return BadRequest(400, "target_form")
        reason = syntax.diagnose(head)
        if reason != "header_value":
            return BadRequest(400, reason)
        self._content_lengths = syntax.values_of(head, b"content-length")
        self._transfer_encodings = syntax.values_of(head, b"transfer-encoding")
        try:
            self._length(minor)
        except BadRequest as refused:
            return refused
        return BadRequest(400, reason)

    def _length(self, minor: int) -> int:
        """RFC 9112 section 6.3, without its tolerance for repeated equal lengths."""
        if self._transfer_encodings:
            if self._content_lengths:
                raise BadRequest(400, "framing_conflict")
            if minor == 0:
                raise BadRequest(400, "transfer_encoding_in_http10")
            if len(self._transfer_encodings) > 1:
                raise BadRequest(400, "transfer_encoding_duplicate")
            coding = self._transfer_encodings[0]
            if coding.lower() == b"chunked":
                return UNKNOWN
            if all(syntax.TOKEN.fullmatch(each.strip(b" \t")) for each in coding.split(b",")):
                raise BadRequest(501, "transfer_encoding_unknown")
            raise BadRequest(400, "transfer_encoding")
        if not self._content_lengths:
            return 0
        if len(self._content_lengths) > 1:
            raise BadRequest(400, "content_length_duplicate")
        digits = self._content_lengths[0]
        if not syntax.DIGITS.fullmatch(digits):
            raise BadRequest(400, "content_length")
        if len(digits) > limits.MAX_CONTENT_LENGTH_DIGITS:
            raise BadRequest(413, "content_length_too_large")
        return int(digits)

    def _read_target(self, method: bytes, target: bytes, minor: int) -> tuple[bytes, bytes, bytes, bytes]:
        """Path, query, authority and host (RFC 9112 section 3.2)."""
        if len(self._hosts) > 1:
            raise BadRequest(400, "host_duplicate")
        if not self._hosts and minor == 1:
            raise BadRequest(400, "host_missing")
        authority = self._hosts[0] if self._hosts else b""
        if authority != self._known_authority or not authority:
            self._known_host = self._read_host(authority)
            self._known_authority = authority
        if target.startswith(b"/"):
            path, mark, query = target.partition(b"?")
            query = mark + query
        elif target == b"*":
            if method != b"OPTIONS":
                raise BadRequest(400, "target_form")
            path, query = target, b""
        else:
            absolute = syntax.ABSOLUTE_FORM.fullmatch(target)
            if absolute is None:
                raise BadRequest(400, "target_form")
            if absolute[1].lower() != authority.lower():
                # Section 3.2.2 lets the target win; but then two readers may see two hosts. HAProxy refuses, too.
                raise BadRequest(400, "authority_conflict")
            path, query = absolute[2] or b"/", absolute[3] or b""
        if b"#" in target:
            raise BadRequest(400, "target_fragment")
        return path, query, authority, self._known_host

    def _read_host(self, authority: bytes) -> bytes:
        if not authority and not self._hosts:
            return b""
        match = syntax.HOST.fullmatch(authority)
        if match is None or (match[2] is not None and int(match[2]) > 65535):
            raise BadRequest(400, "host")
        return match[1].lower()


class ResponseHeadReader(_Framing):
    """Reads the response heads of one server connection."""

    __slots__ = ()

    def on_header(self, name: bytes, value: bytes) -> None:
        """Called by llhttp for each field, in order."""
        name = name.lower()
        value = value.rstrip(b" \t")
        if name not in _SPECIAL_RESPONSE:
            self._headers.append((name, value))
        elif name == b"content-length":
            self._content_lengths.append(value)
        elif name == b"transfer-encoding":
            self._transfer_encodings.append(value)
        elif name == b"connection":
            self._connection.append(value)
        elif name == b"upgrade":
            self._upgrades.append(value)

    def read(self, head: bytes, *, to_head: bool, key: bytes | None = None) -> tuple[ResponseHead, bool, bool]:
        """Read a whole head; gives it, whether its body is chunked, and whether the connection may be used again.

        Args:
            head: From the status line to the empty line.
            to_head: Whether it answers a HEAD request.
            key: Of the handshake for WebSocket that it answers, if it answers one: only then may it be 101.

        Raises:
            BadResponse: a rule was broken; the connection must not be used again.
        """
        plain = self._read_plain(head, to_head=to_head)
        return self.read_strictly(head, to_head=to_head, key=key) if plain is None else (plain, False, True)

    def _read_plain(self, head: bytes, *, to_head: bool) -> ResponseHead | None:
        """A head without any oddity, read at once; None: it has one, which may be allowed or not."""
        found = split_response(head, _SPECIAL_RESPONSE, limits.MAX_HEADERS)
        if found is None:
            return None
        status, digits, headers = found
        if not syntax.DIGITS.fullmatch(digits) or len(digits) > limits.MAX_CONTENT_LENGTH_DIGITS:
            return None
        stated = int(digits)
        return ResponseHead(status, headers, length=0 if to_head else stated, content_length=stated)

    def read_strictly(self, head: bytes, *, to_head: bool, key: bytes | None = None) -> tuple[ResponseHead, bool, bool]:
        """As `read`, whether the head is plain or not."""
        self._clear()
        line = head[: head.index(b"\r\n")]
        if line == b"HTTP/1.1 200 OK":
            status, is_http11 = 200, True
        else:
            match = syntax.STATUS_LINE.fullmatch(line)
            if match is None:
                raise BadResponse("status_line")
            status, is_http11 = int(match[2]), match[1] == b"1"
        if status == 101 and key is None:
            raise BadResponse("unasked_upgrade")
        try:
            httptools.HttpResponseParser(self).feed_data(head)
        except httptools.HttpParserUpgrade:
            pass  # as an offer (RFC 9110 section 7.8) it is dropped like every hop-by-hop field
        except httptools.HttpParserError:
            if status == 101 and b"upgrade" not in _options(self._connection):
                # llhttp stops behind any 101, and httptools knows no name for this one.
                raise BadResponse("websocket_connection") from None
            raise BadResponse(self._reason(head, is_http11)) from None
        if head.count(b"\r\n") > limits.MAX_HEADERS + 2:
            raise BadResponse("too_many_headers")
        headers = self._headers
        keep_alive = is_http11
        if self._connection in _KEEP_ALIVE:
            keep_alive = True
        elif self._connection:
            options = _options(self._connection)
            keep_alive = b"close" not in options and (is_http11 or b"keep-alive" in options)
            headers = self._without_nominated(options)
        stated, chunked = self._framing(is_http11)
        if status == 101 and key is not None:
            self._check_upgrade(key, headers, is_http11=is_http11)
        if status < 200 or status == 204:
            return ResponseHead(status, headers, length=0, content_length=None), False, keep_alive
        if to_head or status == 304:
            return ResponseHead(status, headers, length=0, content_length=stated), False, keep_alive
        if stated is None:
            # Without framing the body ends with the connection (RFC 9112 section 6.3, rule 8).
            response = ResponseHead(status, headers, length=UNKNOWN, content_length=None)
            return response, chunked, keep_alive and chunked
        return ResponseHead(status, headers, length=stated, content_length=stated), False, keep_alive

    def _check_upgrade(self, key: bytes, headers: Headers, *, is_http11: bool) -> None:
        if not is_http11 or b"upgrade" not in _options(self._connection):
            raise BadResponse("websocket_connection")
        if self._content_lengths or self._transfer_encodings:
            # RFC 9110 section 8.6 and RFC 9112 section 6.1 forbid both: is it a body, or are these frames?
            raise BadResponse("websocket_framing")
        websocket.check_acceptance(key, self._upgrades, headers)

    def _framing(self, is_http11: bool) -> tuple[int | None, bool]:
        """The stated length, and whether the body is chunked."""
        if self._transfer_encodings:
            if self._content_lengths:
                raise BadResponse("framing_conflict")
            if not is_http11 or len(self._transfer_encodings) > 1 or self._transfer_encodings[0].lower() != b"chunked":
                raise BadResponse("transfer_encoding")
            return None, True
        if not self._content_lengths:
            return None, False
        if len(self._content_lengths) > 1:
            raise BadResponse("content_length_duplicate")
        digits = self._content_lengths[0]
        if not syntax.DIGITS.fullmatch(digits) or len(digits) > limits.MAX_CONTENT_LENGTH_DIGITS:
            raise BadResponse("content_length")
        return int(digits), False

    def _reason(self, head: bytes, is_http11: bool) -> str:
        """The name of the rule that llhttp saw broken."""
        reason = syntax.diagnose(head)
        if reason == "header_value":
            self._content_lengths = syntax.values_of(head, b"content-length")
            self._transfer_encodings = syntax.values_of(head, b"transfer-encoding")
            try:
                self._framing(is_http11)
            except BadResponse as refused:
                return refused.reason
        return reason


_SPECIAL_REQUEST = (
    syntax.HOP_BY_HOP | syntax.EDGE_ONLY_REQUEST | {b"host", b"content-length", b"expect", b"http2-settings"}
)
#: `proxy-status` says who made an error: only the edge may, or a backend could pass its errors off as ours.
_SPECIAL_RESPONSE = syntax.HOP_BY_HOP | {b"content-length", b"proxy-status"}
