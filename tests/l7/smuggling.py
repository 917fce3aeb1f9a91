"""Requests that two readers could read differently, and what must come of each: rows for `test_smuggling`.

A row is what a hostile client would send on a fresh connection. Whatever follows the part that breaks a rule is a
request for `/smuggled`, written so that a lenient reader would see it as a request of its own.
"""

from dataclasses import dataclass

HOST = b"Host: www.example.com\r\n"
SMUGGLED = b"GET /smuggled HTTP/1.1\r\n" + HOST + b"\r\n"


@dataclass(frozen=True, slots=True)
class Refused:
    """A request that must be answered with an error by the name of the rule, and must end its connection."""

    name: str
    section: str
    """Of the specification that the request breaks."""
    data: bytes
    reason: str
    status: int = 400
    begun: bool = False
    """The head is in order and what is wrong comes after it: cut there, the beginning of the request is on its way to
    a backend when the rest is seen, and is broken off."""

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True, slots=True)
class Accepted:
    """A request, or several, that the same rules allow: a table that refuses everything protects nothing."""

    name: str
    section: str
    data: bytes
    arrives: tuple[tuple[bytes, bytes, bytes], ...]
    """Method, target and body of each request that the backend must see."""

    def __str__(self) -> str:
        return self.name


def get(*lines: bytes, start: bytes = b"GET /row HTTP/1.1", host: bytes = HOST) -> bytes:
    return start + b"\r\n" + host + b"".join(line + b"\r\n" for line in lines) + b"\r\n" + SMUGGLED


def post(*lines: bytes, body: bytes = b"", start: bytes = b"POST /row HTTP/1.1") -> bytes:
    return start + b"\r\n" + HOST + b"".join(line + b"\r\n" for line in lines) + b"\r\n" + body + SMUGGLED


#: What a reader sees of a chunked body who ignores `Transfer-Encoding`, or does not know it in this spelling.
EMPTY = b"0\r\n\r\n"


def coded(field: bytes, *more: bytes) -> bytes:
    """A body that is empty to whoever understands the field as chunked."""
    return post(field, *more, body=EMPTY)


def chunks(body: bytes) -> bytes:
    return post(b"Transfer-Encoding: chunked", body=body)


def by_start(line: bytes) -> bytes:
    return get(start=line)


def by_host(host: bytes) -> bytes:
    return get(host=host)


_VERSION = b"Sec-WebSocket-Version: 13"
_KEY = b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="


def websocket(
    *lines: bytes, start: bytes = b"GET /row HTTP/1.1", connection: bytes = b"Upgrade", name: bytes = b"websocket"
) -> bytes:
    """A handshake, or what would pass for one, with a request behind it."""
    return get(b"Connection: " + connection, b"Upgrade: " + name, *lines, start=start)


def _heads(section: str, rows: dict[str, tuple[bytes, str]], status: int = 400) -> list[Refused]:
    return [Refused(name, section, data, reason, status) for name, (data, reason) in rows.items()]


def _bodies(section: str, rows: dict[str, tuple[bytes, str]]) -> list[Refused]:
    return [Refused(name, section, chunks(body), reason, begun=True) for name, (body, reason) in rows.items()]


REFUSED: list[Refused] = [
    *_heads(
        "RFC 6455 section 4.2.1: a handshake, or a server that sees none reads frames as requests",
        {
            "WebSocket, version missing": (websocket(_KEY), "websocket_version"),
            "WebSocket, an unknown version": (websocket(_KEY, b"Sec-WebSocket-Version: 777"), "websocket_version"),
            "WebSocket, version and another": (
                websocket(_KEY, _VERSION, b"Sec-WebSocket-Version: 8"),
                "websocket_version",
            ),
            "WebSocket, version with a sign": (websocket(_KEY, b"Sec-WebSocket-Version: +13"), "websocket_version"),
            "WebSocket, key missing": (websocket(_VERSION), "websocket_key"),
            "WebSocket, key empty": (websocket(_VERSION, b"Sec-WebSocket-Key:"), "websocket_key"),
            "WebSocket, key twice": (websocket(_VERSION, _KEY, _KEY), "websocket_key"),
            "WebSocket, key of 15 bytes": (websocket(_VERSION, _KEY[:-4] + b"bmM="), "websocket_key"),
            "WebSocket, key that is not Base64": (websocket(_VERSION, _KEY[:-4] + b"**=="), "websocket_key"),
            "WebSocket, key named by Connection": (
                websocket(_VERSION, _KEY, connection=b"Upgrade, Sec-WebSocket-Key"),
                "websocket_key",
            ),
            "WebSocket, version named by Connection": (
                websocket(_VERSION, _KEY, connection=b"Sec-WebSocket-Version, Upgrade"),
                "websocket_version",
            ),
            "WebSocket by POST": (websocket(_VERSION, _KEY, start=b"POST /row HTTP/1.1"), "websocket_method"),
            "WebSocket by PUT": (websocket(_VERSION, _KEY, start=b"PUT /row HTTP/1.1"), "websocket_method"),
            "WebSocket with a body": (websocket(_VERSION, _KEY, b"Content-Length: 1"), "websocket_body"),
            "WebSocket with chunks": (websocket(_VERSION, _KEY, b"Transfer-Encoding: chunked"), "websocket_body"),
            "h2c before WebSocket, key missing": (websocket(_VERSION, name=b"h2c, WebSocket"), "websocket_key"),
        },
    ),
    *_heads(
        "RFC 9112 section 6.3, rules 3 and 5: one message, one length",
        {
            "CL.CL differing": (
                post(b"Content-Length: 6", b"Content-Length: 5", body=b"0\r\n\r\nG"),
                "content_length_duplicate",
            ),
            "CL.CL equal": (post(b"Content-Length: 5", b"Content-Length: 5", body=EMPTY), "content_length_duplicate"),
            "CL.CL in two cases": (post(b"Content-Length: 5", b"CONTENT-LENGTH: 0"), "content_length_duplicate"),
            "CL list": (post(b"Content-Length: 5, 5", body=EMPTY), "content_length"),
            "CL list differing": (post(b"Content-Length: 5, 0", body=EMPTY), "content_length"),
            "CL.TE": (coded(b"Content-Length: 5", b"Transfer-Encoding: chunked"), "framing_conflict"),
            "TE.CL": (coded(b"Transfer-Encoding: chunked", b"Content-Length: 3"), "framing_conflict"),
            "TE with CL 0": (coded(b"Content-Length: 0", b"Transfer-Encoding: chunked"), "framing_conflict"),
            "TE identity with CL": (coded(b"Content-Length: 5", b"Transfer-Encoding: identity"), "framing_conflict"),
            "TE unknown with CL": (coded(b"Content-Length: 5", b"Transfer-Encoding: x"), "framing_conflict"),
            "TE nominated by Connection, with CL": (
                coded(b"Connection: transfer-encoding", b"Transfer-Encoding: chunked", b"Content-Length: 5"),
                "framing_conflict",
            ),
        },
    ),
    *_heads(
        "RFC 9110 section 8.6: Content-Length is digits",
        {
            "CL plus": (post(b"Content-Length: +5", body=EMPTY), "content_length"),
            "CL minus": (post(b"Content-Length: -5", body=EMPTY), "content_length"),
            "CL minus zero": (post(b"Content-Length: -0", body=EMPTY), "content_length"),
            "CL hexadecimal": (post(b"Content-Length: 0x5", body=EMPTY), "content_length"),
            "CL with underscore": (post(b"Content-Length: 1_0", body=EMPTY), "content_length"),
            "CL with a space inside": (post(b"Content-Length: 1 0", body=EMPTY), "content_length"),
            "CL with letters behind": (post(b"Content-Length: 5a", body=EMPTY), "content_length"),
            "CL decimal point": (post(b"Content-Length: 5.0", body=EMPTY), "content_length"),
            "CL exponent": (post(b"Content-Length: 5e0", body=EMPTY), "content_length"),
            "CL quoted": (post(b'Content-Length: "5"', body=EMPTY), "content_length"),
            "CL empty": (post(b"Content-Length:", body=EMPTY), "content_length"),
            "CL with a vertical tab": (post(b"Content-Length: \x0b5", body=EMPTY), "content_length"),
            "CL with a form feed behind": (post(b"Content-Length: 5\x0c", body=EMPTY), "content_length"),
            "CL of other scripts' digits": (post("Content-Length: ٥".encode(), body=EMPTY), "content_length"),
        },
    ),
    *_heads(
        "RFC 9110 section 8.6: and it fits",
        {
            "CL of 19 digits": (post(b"Content-Length: " + b"9" * 19), "content_length_too_large"),
            "CL 2^64 + 5": (post(b"Content-Length: 18446744073709551621", body=EMPTY), "content_length_too_large"),
            "CL with many zeros before": (post(b"Content-Length: " + b"0" * 30 + b"5"), "content_length_too_large"),
        },
        status=413,
    ),
    *_heads(
        "RFC 9112 section 6.1: Transfer-Encoding",
        {
            "TE twice": (
                coded(b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked"),
                "transfer_encoding_duplicate",
            ),
            "TE twice, one unknown": (
                coded(b"Transfer-Encoding: chunked", b"Transfer-Encoding: x"),
                "transfer_encoding_duplicate",
            ),
            "TE twice, one empty": (
                coded(b"Transfer-Encoding:", b"Transfer-Encoding: chunked"),
                "transfer_encoding_duplicate",
            ),
            "TE empty": (coded(b"Transfer-Encoding:"), "transfer_encoding"),
            "TE only a comma": (coded(b"Transfer-Encoding: ,"), "transfer_encoding"),
            "TE with a comma before": (coded(b"Transfer-Encoding: , chunked"), "transfer_encoding"),
            "TE with a comma behind": (coded(b"Transfer-Encoding: chunked,"), "transfer_encoding"),
            "TE quoted": (coded(b'Transfer-Encoding: "chunked"'), "transfer_encoding"),
            "TE in single quotes and a space": (coded(b"Transfer-Encoding: 'chunked' x"), "transfer_encoding"),
            "TE with a parameter": (coded(b"Transfer-Encoding: chunked;x=y"), "transfer_encoding"),
            "TE with a semicolon": (coded(b"Transfer-Encoding: chunked;"), "transfer_encoding"),
            "TE of two words": (coded(b"Transfer-Encoding: x chunked"), "transfer_encoding"),
            "TE with a vertical tab": (coded(b"Transfer-Encoding: \x0bchunked"), "transfer_encoding"),
            "TE with a form feed behind": (coded(b"Transfer-Encoding: chunked\x0c"), "transfer_encoding"),
            "TE with a no-break space": (coded(b"Transfer-Encoding: \xa0chunked"), "transfer_encoding"),
            # Optional white space to the RFC; but this is how the header is hidden from others, and nobody needs it.
            "TE with a tab behind": (coded(b"Transfer-Encoding: chunked\t"), "header_value"),
            "TE with DEL": (coded(b"Transfer-Encoding: \x7fchunked"), "transfer_encoding"),
            "TE in HTTP/1.0": (
                post(b"Transfer-Encoding: chunked", start=b"POST /row HTTP/1.0", body=EMPTY),
                "transfer_encoding_in_http10",
            ),
            "TE in HTTP/1.0, kept alive": (
                post(b"Connection: keep-alive", b"Transfer-Encoding: chunked", start=b"POST /row HTTP/1.0", body=EMPTY),
                "transfer_encoding_in_http10",
            ),
        },
    ),
    *_heads(
        "RFC 9112 section 6.1: a coding that is not understood is answered with 501",
        {
            "TE xchunked": (coded(b"Transfer-Encoding: xchunked"), "transfer_encoding_unknown"),
            "TE chunked-": (coded(b"Transfer-Encoding: chunked-"), "transfer_encoding_unknown"),
            "TE gzip, chunked": (coded(b"Transfer-Encoding: gzip, chunked"), "transfer_encoding_unknown"),
            "TE chunked, identity": (coded(b"Transfer-Encoding: chunked, identity"), "transfer_encoding_unknown"),
            "TE chunked, chunked": (coded(b"Transfer-Encoding: chunked, chunked"), "transfer_encoding_unknown"),
            "TE identity": (coded(b"Transfer-Encoding: identity"), "transfer_encoding_unknown"),
        },
        status=501,
    ),
    *_heads(
        "RFC 9112 section 5.1: no white space between name and colon, names are tokens",
        {
            "TE, space before the colon": (coded(b"Transfer-Encoding : chunked"), "space_before_colon"),
            "TE, tab before the colon": (coded(b"Transfer-Encoding\t: chunked"), "space_before_colon"),
            "CL, space before the colon": (post(b"Content-Length : 5", body=EMPTY), "space_before_colon"),
            "CL.TE, space before the colon": (
                coded(b"Content-Length: 5", b"Transfer-Encoding : chunked"),
                "space_before_colon",
            ),
            "TE, NUL in the name": (coded(b"Transfer-Encoding\0: chunked"), "nul"),
            "TE, control before the name": (coded(b"\x01Transfer-Encoding: chunked"), "header_name"),
            "TE, vertical tab behind the name": (coded(b"Transfer-Encoding\x0b: chunked"), "header_name"),
            "TE, high byte in the name": (coded(b"Transfer-Encoding\xff: chunked"), "header_name"),
            "TE without a colon": (coded(b"Transfer-Encoding chunked"), "header_name"),
            "TE in brackets": (coded(b"(Transfer-Encoding): chunked"), "header_name"),
            "empty name": (get(b": chunked"), "header_name"),
            "name with a slash": (get(b"Transfer/Encoding: chunked"), "header_name"),
            "name with a space": (get(b"Transfer Encoding: chunked"), "header_name"),
        },
    ),
    *_heads(
        "Envoy's edge advice, headers_with_underscores_action: to some backends `_` is `-`",
        {
            "TE with an underscore": (coded(b"Transfer_Encoding: chunked"), "header_name_underscore"),
            "CL with an underscore in the name": (post(b"Content_Length: 5", body=EMPTY), "header_name_underscore"),
        },
    ),
    *_heads(
        "RFC 9112 section 5.2: obs-fold",
        {
            "TE folded": (coded(b"Transfer-Encoding:", b" chunked"), "obs_fold"),
            "TE folded with a tab": (coded(b"Transfer-Encoding:", b"\tchunked"), "obs_fold"),
            "CL folded behind another field": (post(b"X: y", b" Content-Length: 5", body=EMPTY), "obs_fold"),
            "white space before the first field": (
                b"POST /row HTTP/1.1\r\n " + HOST + b"Content-Length: 5\r\n\r\n" + EMPTY + SMUGGLED,
                "obs_fold",
            ),
            "line of white space alone": (get(b" "), "obs_fold"),
            "line of white space before a field": (get(b"\t", b"X: y"), "obs_fold"),
        },
    ),
    *_heads(
        "RFC 9112 section 2.2: a line ends with CRLF, and with nothing else",
        {
            "LF after the request line": (b"GET /row HTTP/1.1\n" + HOST + b"\r\n" + SMUGGLED, "bare_lf"),
            "LF after a field": (get(b"X: y\nTransfer-Encoding: chunked"), "bare_lf"),
            "LF only": (get().replace(b"\r\n", b"\n"), "bare_lf"),
            "LF LF for the end of the head": (b"GET /row HTTP/1.1\r\n" + HOST + b"X: y\n\n" + SMUGGLED, "bare_lf"),
            "CR LF LF for the end of the head": (b"GET /row HTTP/1.1\r\n" + HOST + b"\n" + SMUGGLED, "bare_lf"),
            "CR after a field": (get(b"X: y\rTransfer-Encoding: chunked"), "bare_cr"),
            "CR CR LF after a field": (get(b"X: y\r"), "bare_cr"),
            "CR in a name": (coded(b"Transfer-\rEncoding: chunked"), "bare_cr"),
            "CR before a value": (coded(b"Transfer-Encoding:\rchunked"), "bare_cr"),
            "CR in the request line": (by_start(b"GET /row\r HTTP/1.1"), "bare_cr"),
            "CR CR LF after the request line": (by_start(b"GET /row HTTP/1.1\r"), "bare_cr"),
            "CR, and LF later": (get(b"X: y\rZ", b"A: b\nC: d"), "bare_cr"),
            "LF before the request line": (b"\n" + get(), "bare_lf"),
            "CR before the request line": (b"\r" + get(), "bare_cr"),
            "two empty lines before the request line": (b"\r\n\r\n" + get(), "empty_lines"),
        },
    ),
    *_heads(
        "RFC 9110 section 5.5: no NUL and no control characters in a value",
        {
            "NUL in a value": (get(b"X: y\0z"), "nul"),
            "NUL before a value": (coded(b"Transfer-Encoding: \0chunked"), "nul"),
            "NUL behind a value": (coded(b"Transfer-Encoding: chunked\0"), "nul"),
            "control in a value": (get(b"X: y\x08z"), "header_value"),
            "escape in a value": (get(b"X: \x1b[2J"), "header_value"),
            "DEL in a value": (get(b"X: y\x7f"), "header_value"),
        },
    ),
    *_heads(
        "RFC 9112 section 3: method SP target SP version",
        {
            "two spaces before the target": (by_start(b"GET  /row HTTP/1.1"), "request_line"),
            "two spaces before the version": (by_start(b"GET /row  HTTP/1.1"), "request_line"),
            "tab for a space": (by_start(b"GET\t/row HTTP/1.1"), "request_line"),
            "space before the method": (by_start(b" GET /row HTTP/1.1"), "request_line"),
            "space behind the version": (by_start(b"GET /row HTTP/1.1 "), "request_line"),
            "a second version": (by_start(b"GET /row HTTP/1.1 HTTP/1.1"), "request_line"),
            "space in the target": (by_start(b"GET /row /smuggled HTTP/1.1"), "request_line"),
            "HTTP/0.9": (by_start(b"GET /row"), "request_line"),
            "no target": (by_start(b"GET HTTP/1.1"), "request_line"),
            "an empty target": (by_start(b"GET  HTTP/1.1"), "target"),
            "method is no token": (by_start(b"G@T /row HTTP/1.1"), "method"),
            "method with a NUL": (by_start(b"GET\0 /row HTTP/1.1"), "method"),
            "empty method": (by_start(b" /row HTTP/1.1"), "method"),
            "version in lower case": (by_start(b"GET /row http/1.1"), "request_line"),
            "version 1,1": (by_start(b"GET /row HTTP/1,1"), "request_line"),
            "version 1.10": (by_start(b"GET /row HTTP/1.10"), "request_line"),
            "version 01.1": (by_start(b"GET /row HTTP/01.1"), "request_line"),
            "version 1": (by_start(b"GET /row HTTP/1"), "request_line"),
            "version with a sign": (by_start(b"GET /row HTTP/+1.1"), "request_line"),
            "version with a space": (by_start(b"GET /row HTTP /1.1"), "request_line"),
            "another protocol": (by_start(b"GET /row RTSP/1.0"), "request_line"),
        },
    ),
    *_heads(
        "RFC 9110 section 2.5: a version that is not served is answered with 505",
        {
            "version 1.2": (by_start(b"GET /row HTTP/1.2"), "version"),
            "version 0.9": (by_start(b"GET /row HTTP/0.9"), "version"),
            "version 2.0": (by_start(b"GET /row HTTP/2.0"), "version"),
        },
        status=505,
    ),
    *_heads(
        "RFC 9110 section 9.1: a method that is not known is answered with 501",
        {
            "method in lower case": (by_start(b"get /row HTTP/1.1"), "method_unknown"),
            "method of HTTP/2's preface": (by_start(b"PRI /row HTTP/1.1"), "method_unknown"),
            "CONNECT": (by_start(b"CONNECT www.example.com:443 HTTP/1.1"), "method_not_served"),
            "TRACE": (by_start(b"TRACE /row HTTP/1.1"), "method_not_served"),
        },
        status=501,
    ),
    *_heads(
        "RFC 9112 section 3.2, RFC 3986 section 2: the target",
        {
            "authority form": (by_start(b"GET www.example.com HTTP/1.1"), "target_form"),
            "authority form with a port": (by_start(b"GET www.example.com:80 HTTP/1.1"), "target_form"),
            "relative path": (by_start(b"GET row HTTP/1.1"), "target_form"),
            "asterisk with GET": (by_start(b"GET * HTTP/1.1"), "target_form"),
            "asterisk and more": (by_start(b"OPTIONS *row HTTP/1.1"), "target_form"),
            "absolute form of another host": (
                by_start(b"GET http://other.example.com/row HTTP/1.1"),
                "authority_conflict",
            ),
            "absolute form of another port": (
                by_start(b"GET http://www.example.com:81/row HTTP/1.1"),
                "authority_conflict",
            ),
            "absolute form with user information": (
                by_start(b"GET http://www.example.com@evil.example/row HTTP/1.1"),
                "target_form",
            ),
            "absolute form of another scheme": (by_start(b"GET ftp://www.example.com/row HTTP/1.1"), "target_form"),
            "absolute form without a host": (by_start(b"GET http:///row HTTP/1.1"), "target_form"),
            "absolute form with one slash": (by_start(b"GET http:/www.example.com/row HTTP/1.1"), "target_form"),
            "absolute form with a backslash": (
                by_start(b"GET http://www.example.com\\@evil.example/row HTTP/1.1"),
                "target_form",
            ),
            "fragment": (by_start(b"GET /row#/smuggled HTTP/1.1"), "target_fragment"),
            "NUL in the target": (by_start(b"GET /row\0 HTTP/1.1"), "target"),
            "control in the target": (by_start(b"GET /row\x01 HTTP/1.1"), "target"),
            "vertical tab in the target": (by_start(b"GET /row\x0bHTTP/1.1 HTTP/1.1"), "target"),
            "high byte in the target": (by_start(b"GET /row\xa0 HTTP/1.1"), "target"),
            "high byte in the query": (by_start(b"GET /row?a=\xff HTTP/1.1"), "target"),
            "encoded NUL in the path": (by_start(b"GET /row%00 HTTP/1.1"), "path_nul"),
            "encoded slash in the path": (by_start(b"GET /a%2frow HTTP/1.1"), "path_escaped_slash"),
            "encoded backslash in the path": (by_start(b"GET /a%5crow HTTP/1.1"), "path_escaped_slash"),
            "backslash in the path": (by_start(b"GET /a\\..\\row HTTP/1.1"), "path_character"),
            "broken encoding in the path": (by_start(b"GET /row%2 HTTP/1.1"), "path_percent_encoding"),
            "above the root": (by_start(b"GET /../row HTTP/1.1"), "path_above_root"),
            "above the root, encoded": (by_start(b"GET /a/%2e%2e/%2E%2e/row HTTP/1.1"), "path_above_root"),
            "dot segment with a parameter": (by_start(b"GET /a/..;/row HTTP/1.1"), "path_dot_segment_parameter"),
        },
    ),
    *_heads(
        "RFC 9112 section 3.2, RFC 9110 section 7.2: one Host, and a valid one",
        {
            "no Host": (by_host(b""), "host_missing"),
            "Host twice": (by_host(HOST + b"Host: other.example.com\r\n"), "host_duplicate"),
            "Host twice, equal": (by_host(HOST + HOST), "host_duplicate"),
            "Host twice in two cases": (by_host(HOST + b"hOST: www.example.com\r\n"), "host_duplicate"),
            "Host twice in HTTP/1.0": (get(HOST[:-2], start=b"GET /row HTTP/1.0"), "host_duplicate"),
            "Host empty": (by_host(b"Host:\r\n"), "host"),
            "Host list": (by_host(b"Host: www.example.com, other.example.com\r\n"), "host"),
            "Host with a path": (by_host(b"Host: www.example.com/smuggled\r\n"), "host"),
            "Host with user information": (by_host(b"Host: other@www.example.com\r\n"), "host"),
            "Host with a scheme": (by_host(b"Host: http://www.example.com\r\n"), "host"),
            "Host with a space": (by_host(b"Host: www.example.com other\r\n"), "host"),
            "Host with a tab": (by_host(b"Host: www.example.com\tother\r\n"), "host"),
            "Host with a question mark": (by_host(b"Host: www.example.com?x\r\n"), "host"),
            "Host with a port of letters": (by_host(b"Host: www.example.com:http\r\n"), "host"),
            "Host with a port too large": (by_host(b"Host: www.example.com:65536\r\n"), "host"),
            "Host with a port and a sign": (by_host(b"Host: www.example.com:+80\r\n"), "host"),
            "Host with two ports": (by_host(b"Host: www.example.com:80:81\r\n"), "host"),
            "Host with an encoding": (by_host(b"Host: www%2eexample.com\r\n"), "host"),
            "Host with a high byte": (by_host(b"Host: www.ex\xe4mple.com\r\n"), "host"),
            "Host with an open bracket": (by_host(b"Host: [::1\r\n"), "host"),
            "Host folded": (by_host(b"Host: www.example.com\r\n other.example.com\r\n"), "obs_fold"),
            "Host, space before the colon": (by_host(b"Host : www.example.com\r\n"), "space_before_colon"),
            "Host with a NUL": (by_host(b"Host: www.example.com\0\r\n"), "nul"),
        },
    ),
    *_heads(
        "RFC 9110 section 10.1.1: an expectation that is not known is answered with 417",
        {
            "Expect twice": (
                post(b"Content-Length: 5", b"Expect: 100-continue", b"Expect: x", body=EMPTY),
                "expectation_unknown",
            ),
            "Expect unknown": (
                post(b"Content-Length: 5", b"Expect: 100-continue, x", body=EMPTY),
                "expectation_unknown",
            ),
        },
        status=417,
    ),
    *_bodies(
        "RFC 9112 section 7.1: a chunk's size is hexadecimal digits",
        {
            "chunk size with a plus": (b"+3\r\nabc\r\n0\r\n\r\n", "chunk_size_malformed"),
            "chunk size with a minus": (b"-3\r\nabc\r\n0\r\n\r\n", "chunk_size_malformed"),
            "chunk size 0x": (b"0x3\r\nabc\r\n0\r\n\r\n", "chunk_size_malformed"),
            "chunk size with an underscore": (b"0_3\r\nabc\r\n0\r\n\r\n", "chunk_size_malformed"),
            "chunk size with a space before": (b" 3\r\nabc\r\n0\r\n\r\n", "chunk_size_malformed"),
            "chunk size with a space behind": (b"3 \r\nabc\r\n0\r\n\r\n", "chunk_size_malformed"),
            "chunk size with a tab behind": (b"3\t\r\nabc\r\n0\r\n\r\n", "chunk_size_malformed"),
            "chunk size with a NUL": (b"3\0\r\nabc\r\n0\r\n\r\n", "chunk_size_malformed"),
            "chunk size with a letter": (b"3g\r\nabc\r\n0\r\n\r\n", "chunk_size_malformed"),
            "chunk size empty": (b"\r\n0\r\n\r\n", "chunk_size_malformed"),
            "chunk size with a comma": (b"3,3\r\nabc\r\n0\r\n\r\n", "chunk_size_malformed"),
            "last chunk with a sign": (b"-0\r\n\r\n", "chunk_size_malformed"),
            "chunk size 2^64 + 3": (b"10000000000000003\r\nabc\r\n0\r\n\r\n", "chunk_size_too_large"),
            "chunk size 2^32 + 3 and more zeros": (b"0000000100000003\r\nabc\r\n0\r\n\r\n", "chunk_size_too_large"),
            "chunk size with many zeros before": (b"0" * 40 + b"3\r\nabc\r\n0\r\n\r\n", "chunk_size_too_large"),
        },
    ),
    *_bodies(
        "RFC 9112 sections 2.2 and 7.1: lines in a chunked body end with CRLF",
        {
            "LF behind the size": (b"3\nabc\r\n0\r\n\r\n", "chunk_bare_lf"),
            "CR behind the size": (b"3\rabc\r\n0\r\n\r\n", "chunk_bare_cr"),
            "CR CR LF behind the size": (b"3\r\r\nabc\r\n0\r\n\r\n", "chunk_bare_cr"),
            "LF behind the data": (b"3\r\nabc\n0\r\n\r\n", "chunk_bare_lf"),
            "CR behind the data": (b"3\r\nabc\r0\r\n\r\n", "chunk_bare_cr"),
            "nothing behind the data": (b"3\r\nabc0\r\n\r\n", "chunk_data_overrun"),
            "more data than the size says": (b"3\r\nabcdef\r\n0\r\n\r\n", "chunk_data_overrun"),
            "less data than the size says": (b"5\r\nabc\r\n0\r\n\r\n", "chunk_data_overrun"),
            "LF behind the last chunk": (b"0\n\r\n", "chunk_bare_lf"),
            "LF at the end": (b"0\r\n\n", "chunk_bare_lf"),
            "CR at the end": (b"0\r\n\rG", "chunk_bare_cr"),
        },
    ),
    *_bodies(
        "RFC 9112 section 7.1.1: chunk extensions",
        {
            "LF in an extension": (b"3;a\nabc\r\n0\r\n\r\n", "chunk_bare_lf"),
            "CR in an extension": (b"3;a\rb\r\nabc\r\n0\r\n\r\n", "chunk_bare_cr"),
            "CR in a quoted extension": (b'3;a="\rb"\r\nabc\r\n0\r\n\r\n', "chunk_bare_cr"),
            "LF in a quoted extension": (b'3;a="\nb"\r\nabc\r\n0\r\n\r\n', "chunk_bare_lf"),
            "NUL in an extension": (b"3;a\0\r\nabc\r\n0\r\n\r\n", "chunk_size_malformed"),
            "extension without a name": (b"3;\r\nabc\r\n0\r\n\r\n", "chunk_size_malformed"),
            "extension without a semicolon": (b"3 a=b\r\nabc\r\n0\r\n\r\n", "chunk_size_malformed"),
            "extension with an open quote": (b'3;a="b\r\nabc\r\n0\r\n\r\n', "chunk_size_malformed"),
            "extension of the last chunk": (b"0;\r\n\r\n", "chunk_size_malformed"),
        },
    ),
    *_bodies(
        "RFC 9110 section 6.5.1: trailers neither frame nor route",
        {
            "Content-Length in a trailer": (b"0\r\nContent-Length: 5\r\n\r\n", "trailer_forbidden"),
            "Transfer-Encoding in a trailer": (b"0\r\nTransfer-Encoding: chunked\r\n\r\n", "trailer_forbidden"),
            "Host in a trailer": (b"0\r\nHost: other.example.com\r\n\r\n", "trailer_forbidden"),
            "Connection in a trailer": (b"0\r\nConnection: close\r\n\r\n", "trailer_forbidden"),
            "Trailer in a trailer": (b"0\r\nTrailer: x\r\n\r\n", "trailer_forbidden"),
            "Upgrade in a trailer": (b"0\r\nUpgrade: websocket\r\n\r\n", "trailer_forbidden"),
            "Expect in a trailer": (b"0\r\nExpect: 100-continue\r\n\r\n", "trailer_forbidden"),
        },
    ),
    *_bodies(
        "RFC 9112 sections 5 and 7.1.2: trailers are fields",
        {
            "trailer with a space before the colon": (b"0\r\nX : y\r\n\r\n", "trailer_malformed"),
            "trailer without a colon": (b"0\r\nX\r\n\r\n", "trailer_malformed"),
            "trailer folded": (b"0\r\nX: y\r\n z\r\n\r\n", "trailer_malformed"),
            "trailer with a NUL": (b"0\r\nX: y\0\r\n\r\n", "trailer_malformed"),
            "trailer with a control": (b"0\r\nX: \x1b\r\n\r\n", "trailer_malformed"),
            "trailer that ends with LF": (b"0\r\nX: y\n\r\n", "chunk_bare_lf"),
            "trailer with a CR": (b"0\r\nX: y\rZ: a\r\n\r\n", "chunk_bare_cr"),
            "trailer with an underscore": (b"0\r\nContent_Length: 5\r\n\r\n", "trailer_name_underscore"),
            "request line for a trailer": (b"0\r\nGET /smuggled HTTP/1.1\r\n\r\n", "trailer_malformed"),
        },
    ),
]

_ROW = (b"GET", b"/row", b"")
_NEXT = (b"GET", b"/smuggled", b"")  # here a request of its own, in order
_EMPTY_POST = (b"POST", b"/row", b"")

ACCEPTED: list[Accepted] = [
    Accepted("a plain request", "RFC 9112 section 3", get(), (_ROW, _NEXT)),
    Accepted("one empty line before it", "RFC 9112 section 2.2", b"\r\n" + get(), (_ROW, _NEXT)),
    Accepted(
        "absolute form", "RFC 9112 section 3.2.2", by_start(b"GET http://www.example.com/row HTTP/1.1"), (_ROW, _NEXT)
    ),
    Accepted(
        "absolute form in other cases",
        "RFC 9110 section 4.2.3",
        by_start(b"GET HTTP://WWW.Example.com/row HTTP/1.1"),
        (_ROW, _NEXT),
    ),
    Accepted(
        "absolute form without a path",
        "RFC 9112 section 3.2.2",
        by_start(b"GET http://www.example.com HTTP/1.1"),
        ((b"GET", b"/", b""), _NEXT),
    ),
    Accepted(
        "Host in capitals with a port", "RFC 9110 section 7.2", by_host(b"HOST: WWW.EXAMPLE.COM:80\r\n"), (_ROW, _NEXT)
    ),
    Accepted("tabs and spaces around a value", "RFC 9110 section 5.5", get(b"X:\t y \t"), (_ROW, _NEXT)),
    Accepted("no space before a value", "RFC 9112 section 5", get(b"X:y"), (_ROW, _NEXT)),
    Accepted("obs-text in a value", "RFC 9110 section 5.5", get(b"X: \xe4"), (_ROW, _NEXT)),
    Accepted("an empty value", "RFC 9110 section 5.5", get(b"X:"), (_ROW, _NEXT)),
    Accepted(
        "every character of a token in a name", "RFC 9110 section 5.6.2", get(b"x!#$%&'*+-.^`|~0: y"), (_ROW, _NEXT)
    ),
    Accepted("a colon in a value", "RFC 9110 section 5.5", get(b"X: Transfer-Encoding: chunked"), (_ROW, _NEXT)),
    Accepted(
        "a body by length",
        "RFC 9112 section 6.2",
        post(b"Content-Length: 5", body=EMPTY),
        ((b"POST", b"/row", EMPTY), _NEXT),
    ),
    Accepted(
        "a length with zeros before",
        "RFC 9110 section 8.6",
        post(b"Content-Length: 0005", body=EMPTY),
        ((b"POST", b"/row", EMPTY), _NEXT),
    ),
    Accepted("a length of 0", "RFC 9110 section 8.6", post(b"Content-Length: 0"), (_EMPTY_POST, _NEXT)),
    Accepted(
        "a length that Connection names",
        "RFC 9110 section 7.6.1",
        post(b"Connection: content-length", b"Content-Length: 5", body=EMPTY),
        ((b"POST", b"/row", EMPTY), _NEXT),
    ),
    Accepted(
        "a GET with a body",
        "RFC 9110 section 9.3.1",
        get(b"Content-Length: %d" % len(SMUGGLED)),
        ((b"GET", b"/row", SMUGGLED),),
    ),
    Accepted("chunked in capitals", "RFC 9112 section 7", coded(b"TRANSFER-ENCODING: Chunked"), (_EMPTY_POST, _NEXT)),
    Accepted(
        "chunked with tabs around",
        "RFC 9110 section 5.5",
        coded(b"Transfer-Encoding: \tchunked "),
        (_EMPTY_POST, _NEXT),
    ),
    Accepted(
        "two chunks",
        "RFC 9112 section 7.1",
        chunks(b"3\r\nabc\r\nA\r\n0123456789\r\n0\r\n\r\n"),
        ((b"POST", b"/row", b"abc0123456789"), _NEXT),
    ),
    Accepted(
        "chunk sizes with zeros before",
        "RFC 9112 section 7.1",
        chunks(b"003\r\nabc\r\n000\r\n\r\n"),
        ((b"POST", b"/row", b"abc"), _NEXT),
    ),
    Accepted(
        "chunk data that looks like an end",
        "RFC 9112 section 7.1",
        chunks(b"5\r\n0\r\n\r\n\r\n0\r\n\r\n"),
        ((b"POST", b"/row", EMPTY), _NEXT),
    ),
    Accepted(
        "chunk extensions",
        "RFC 9112 section 7.1.1",
        chunks(b'3;a;b=c;d="e;\\"f"\r\nabc\r\n0;g\r\n\r\n'),
        ((b"POST", b"/row", b"abc"), _NEXT),
    ),
    Accepted(
        "trailers",
        "RFC 9112 section 7.1.2",
        chunks(b"3\r\nabc\r\n0\r\nX-Sum: 1\r\nX-More:\r\n\r\n"),
        ((b"POST", b"/row", b"abc"), _NEXT),
    ),
    Accepted(
        "dots and doubled slashes in a path",
        "RFC 3986 section 6.2.2",
        by_start(b"GET /a//.././%72ow HTTP/1.1"),
        (_ROW, _NEXT),
    ),
    Accepted(
        "a query of whatever browsers send",
        "RFC 3986 section 3.4",
        by_start(b"GET /row?a=%zz|{}[]&b=../c HTTP/1.1"),
        ((b"GET", b"/row?a=%zz|{}[]&b=../c", b""), _NEXT),
    ),
    Accepted("OPTIONS *", "RFC 9112 section 3.2.4", by_start(b"OPTIONS * HTTP/1.1"), ((b"OPTIONS", b"*", b""), _NEXT)),
    Accepted(
        "an offer of an upgrade", "RFC 9110 section 7.8", get(b"Connection: upgrade", b"Upgrade: x/1"), (_ROW, _NEXT)
    ),
    Accepted(
        "an offer of HTTP/2",
        "RFC 9113 section 3.1",
        get(b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA"),
        (_ROW, _NEXT),
    ),
    Accepted(
        "an offer of WebSocket that is not for this hop",
        "RFC 9110 section 7.8",
        websocket(_VERSION, _KEY, connection=b"keep-alive"),
        (_ROW, _NEXT),
    ),
]
