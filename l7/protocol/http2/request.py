"""Field lists of requests: what RFC 9113 section 8 and this edge ask of them, and the head that is made of them.

The rules are HTTP/1.1's where both have one (`l7.protocol.http1.head`), by the same names, so that a request is
refused whichever way it comes.
"""

from typing import Final

from l7 import grpc, limits
from l7.protocol import websocket
from l7.protocol.http1 import syntax
from l7.protocol.http2.field_rules import CONNECTION, REQUEST_NAMES, VALUE
from l7.protocol.message import UNKNOWN, Call, Headers, RequestHead, unread_head
from l7.protocol.violation import BadRequest

_PSEUDO: Final = frozenset((b":method", b":scheme", b":authority", b":path", b":protocol"))
_SPECIAL: Final = (
    CONNECTION
    | syntax.EDGE_ONLY_REQUEST
    | {
        b"host",
        b"content-length",
        b"content-type",
        b"expect",
        b"grpc-timeout",
        b"te",
        b"trailer",
        b"cookie",
        b"http2-settings",
    }
)


class RequestReader:
    """Reads the requests of one connection."""

    __slots__ = ("_known_authority", "_known_host")

    def __init__(self) -> None:
        # A connection asks for the same host again and again.
        self._known_authority = b""
        self._known_host = b""

    def read(self, fields: Headers, *, end: bool) -> RequestHead:
        """Make a head of the fields of a new stream. `end`: nothing follows.

        Raises:
            BadRequest: the request is malformed (section 8.1.1), or not served here.
        """
        pseudo: dict[bytes, bytes] = {}
        headers: Headers = []
        hosts: list[bytes] = []
        lengths: list[bytes] = []
        cookies: list[bytes] = []
        claims: Headers = []
        expect: bytes | None = None
        call: Call | None = None
        timeout: bytes | None = None
        accepts_trailers = False
        size = 0
        known = REQUEST_NAMES.known
        for name, value in fields:
            size += len(name) + len(value) + 4
            if not VALUE.fullmatch(value):
                raise BadRequest(400, "header_value")
            if name[:1] == b":":
                if headers or hosts or lengths or cookies or expect is not None:
                    raise BadRequest(400, "pseudo_header_late")
                if name not in _PSEUDO:
                    raise BadRequest(400, "pseudo_header_unknown")
                if name in pseudo:
                    raise BadRequest(400, "pseudo_header_duplicate")
                pseudo[name] = value
                continue
            if name not in known and (reason := REQUEST_NAMES.wrong(name)):
                raise BadRequest(400, reason)
            if name not in _SPECIAL:
                headers.append((name, value))
            elif name == b"content-type":
                headers.append((name, value))
                if grpc.is_grpc(value):
                    call = Call(None)
            elif name == b"cookie":
                cookies.append(value)
            elif name == b"host":
                hosts.append(value)
            elif name == b"content-length":
                lengths.append(value)
            elif name == b"expect":
                expect = value if expect is None else b""
            elif name in syntax.CLAIMS:
                claims.append((name, value))
            elif name in CONNECTION:
                raise BadRequest(400, "connection_field")
            elif name == b"grpc-timeout":
                timeout = value
            elif name == b"te":
                if value.lower() != b"trailers":
                    raise BadRequest(400, "te")
                accepts_trailers = True
        if len(fields) > limits.MAX_HEADERS + 4:
            raise BadRequest(431, "too_many_headers")
        if size > limits.MAX_REQUEST_HEAD_BYTES:
            raise BadRequest(431, "head_too_large")
        if cookies:
            # Section 8.2.3: split for the sake of compression, joined for everybody else.
            headers.append((b"cookie", b"; ".join(cookies)))
        is_websocket = b":protocol" in pseudo and self._is_websocket(pseudo, headers, end=end)
        method, path, query = self._read_target(pseudo)
        authority = self._read_authority(pseudo.get(b":authority"), hosts)
        length = self._length(lengths, end=end)
        if is_websocket:
            if lengths:
                raise BadRequest(400, "websocket_body")
            method, length = b"GET", 0
        if expect is not None and expect.lower() != b"100-continue":
            raise BadRequest(417, "expectation_unknown")
        awaits_continue = expect is not None and length != 0
        head = RequestHead(
            method=method,
            path=path,
            query=query,
            authority=authority,
            host=self._known_host,
            headers=headers,
            length=length,
            keep_alive=True,
            expects_continue=awaits_continue,
            accepts_trailers=accepts_trailers,
        )
        head.version = b"2"
        if claims:
            head.claims = claims
        if timeout is not None:
            self._take_timeout(head, call, timeout)
        head.grpc = call
        if is_websocket:
            # The key is the server's and ours: RFC 8441 section 5 knows none.
            head.websocket_key = b""
            head.grpc = None
        return head

    def _take_timeout(self, head: RequestHead, call: Call | None, timeout: bytes) -> None:
        if call is None:
            head.headers.append((b"grpc-timeout", timeout))
            return
        call.timeout_s = grpc.read_timeout(timeout)
        if call.timeout_s is None:
            raise BadRequest(400, "grpc_timeout")

    def _is_websocket(self, pseudo: dict[bytes, bytes], headers: Headers, *, end: bool) -> bool:
        """An extended CONNECT (RFC 8441 section 4): a handshake for WebSocket, or nothing that is served."""
        if pseudo.get(b":method") != b"CONNECT":
            raise BadRequest(400, "protocol_without_connect")
        if pseudo[b":protocol"] != websocket.PROTOCOL:
            raise BadRequest(501, "protocol_not_served")
        if end:
            raise BadRequest(400, "websocket_ended")
        websocket.check_version(headers)
        if any(name == b"sec-websocket-key" for name, _ in headers):
            raise BadRequest(400, "websocket_key")
        return True

    def _read_target(self, pseudo: dict[bytes, bytes]) -> tuple[bytes, bytes, bytes]:
        """Method, path and query (section 8.3.1)."""
        method = pseudo.get(b":method")
        if method is None:
            raise BadRequest(400, "pseudo_header_missing")
        if method not in syntax.METHODS and b":protocol" not in pseudo:
            if not syntax.TOKEN.fullmatch(method):
                raise BadRequest(400, "method")
            raise BadRequest(501, "method_not_served" if method in (b"CONNECT", b"TRACE") else "method_unknown")
        target = pseudo.get(b":path")
        scheme = pseudo.get(b":scheme")
        if target is None or scheme is None:
            raise BadRequest(400, "pseudo_header_missing")
        if scheme not in (b"https", b"http"):
            raise BadRequest(400, "scheme")
        if len(target) > limits.MAX_REQUEST_TARGET_BYTES:
            raise BadRequest(414, "target_too_long")
        if target[:1] != b"/":
            if target == b"*" and method == b"OPTIONS":
                return method, target, b""
            raise BadRequest(400, "target_form")
        if not syntax.VISIBLE.fullmatch(target):
            raise BadRequest(400, "target")
        if b"#" in target:
            raise BadRequest(400, "target_fragment")
        path, mark, query = target.partition(b"?")
        return method, path, mark + query

    def _read_authority(self, authority: bytes | None, hosts: list[bytes]) -> bytes:
        """Section 8.3.1: `:authority` and Host say the same, and one of them is there."""
        if len(hosts) > 1:
            raise BadRequest(400, "host_duplicate")
        if authority is None:
            if not hosts:
                raise BadRequest(400, "host_missing")
            authority = hosts[0]
        elif hosts and hosts[0].lower() != authority.lower():
            raise BadRequest(400, "authority_conflict")
        if authority != self._known_authority or not authority:
            match = syntax.HOST.fullmatch(authority)
            if match is None or (match[2] is not None and int(match[2]) > 65535):
                raise BadRequest(400, "host")
            self._known_authority = authority
            self._known_host = match[1].lower()
        return authority

    def _length(self, lengths: list[bytes], *, end: bool) -> int:
        """Of the body; section 8.1.1 compares it with what comes."""
        if not lengths:
            return 0 if end else UNKNOWN
        if len(lengths) > 1:
            raise BadRequest(400, "content_length_duplicate")
        digits = lengths[0]
        if not syntax.DIGITS.fullmatch(digits):
            raise BadRequest(400, "content_length")
        if len(digits) > limits.MAX_CONTENT_LENGTH_DIGITS:
            raise BadRequest(413, "content_length_too_large")
        length = int(digits)
        if end and length:
            raise BadRequest(400, "content_length_mismatch")
        return length


def refused_head(fields: Headers) -> RequestHead:
    """What a request that is refused did say, for the log."""
    said = dict(fields)
    method = said.get(b":method", b"")
    head = unread_head(method if syntax.TOKEN.fullmatch(method) else b"", said.get(b":path", b""), keep_alive=True)
    if grpc.is_grpc(said.get(b"content-type", b"")):
        head.grpc = Call(None)
    return head
