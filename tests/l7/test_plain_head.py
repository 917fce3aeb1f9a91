"""Heads that are split at once are read as the strict reader reads them; where nothing is compiled, it reads all."""

import re

from hypothesis import example, given
from hypothesis import strategies as st

from l7 import compiled
from l7.protocol.http1.head import RequestHeadReader, ResponseHeadReader
from l7.protocol.http1.plain_head import split_request, split_response
from l7.protocol.message import RequestHead, ResponseHead
from l7.protocol.violation import BadRequest, BadResponse

SPECIAL = frozenset((b"host", b"content-length", b"connection", b"te"))

#: What heads are made of, good and bad; joined in any order they are mostly wrong in some way.
_PIECES = [
    *(b"Host: a.example", b"host:b.example:8080 ", b"Host:", b"HOST: \xff", b"Accept: */*", b"X-Empty: ", b"x:y"),
    *(b"X_Y: 1", b"A : 1", b" folded", b"Bare: a\rb", b"Bare: a\nb", b"Nul: \0", b"Tab:\ta\tb\t", b"Obs: \x80\xff"),
    *(b"Content-Length: 3", b"content-length: 0", b"Content-Length: +3", b"Content-Length: 3, 3", b"Del: \x7f"),
    *(b"Connection: keep-alive", b"connection: Keep-Alive", b"Connection: close", b"Connection: x", b"N" * 80 + b": 1"),
    *(b"Transfer-Encoding: chunked", b"TE: trailers", b"Expect: 100-continue", b"X-Forwarded-For: 1.2.3.4", b":"),
    *(b"Upgrade: websocket", b"Cookie: a=b; c=d", b"Proxy-Status: x", b"Date: Sat, 21 Nov 2026 20:37:10 GMT", b""),
]
_LINES = st.lists(st.sampled_from(_PIECES) | st.binary(max_size=12), max_size=8)
_ENDS = st.sampled_from([b"\r\n"] * 12 + [b"\n", b"\r", b"\r\n\r\n"])
_REQUEST_LINES = st.sampled_from(
    [
        *[b"GET / HTTP/1.1"] * 6,
        *(
            b"POST /a?b=c?d HTTP/1.1",
            b"HEAD /%61 HTTP/1.1",
            b"PATCH //a HTTP/1.1",
            b"MKCOL /a HTTP/1.1",
            b"get / HTTP/1.1",
        ),
        *(b"GET /a#b HTTP/1.1", b"GET  / HTTP/1.1", b"GET / HTTP/1.0", b"GET / HTTP/1.2", b"GET * HTTP/1.1", b"GET /"),
        *(b"OPTIONS * HTTP/1.1", b"GET http://a.example/ HTTP/1.1", b"GET /\xff HTTP/1.1", b"CONNECT a:1 HTTP/1.1"),
        *(b"GET /\x7f HTTP/1.1", b"get / HTTP/1.1"),
    ]
)
_STATUS_LINES = st.sampled_from(
    [
        *[b"HTTP/1.1 200 OK"] * 6,
        *(b"HTTP/1.1 404", b"HTTP/1.1 503 ", b"HTTP/1.1 204 No Content", b"HTTP/1.1 304 Not Modified"),
        *(b"HTTP/1.1 100 Go on", b"HTTP/1.0 200 OK", b"HTTP/1.1 099 X", b"HTTP/1.1 20 OK", b"HTTP/1.1  200 OK"),
        *(b"HTTP/1.1 200\tOK", b"HTTP/1.1 999 \xff"),
    ]
)


def head_of(first: bytes, lines: list[bytes], end: bytes) -> bytes | None:
    """A head as codecs give it to readers: to the first empty line. None: these pieces hold none."""
    whole = end.join([first, *lines]) + b"\r\n\r\n"
    head = whole[: whole.index(b"\r\n\r\n") + 4]
    return head if b"\r\n" in head[:-2] else None


def facts(head: RequestHead | ResponseHead) -> dict[str, object]:
    return {name: getattr(head, name) for name in dir(head) if not name.startswith("_")}


@given(_REQUEST_LINES, _LINES, _ENDS)
@example(b"GET /a HTTP/1.1", [b"Host: a.example", b"Content-Length: 3", b"X-A: b"], b"\r\n")
def test_requests_are_read_as_the_strict_reader_reads_them(first: bytes, lines: list[bytes], end: bytes) -> None:
    head = head_of(first, lines, end)
    if head is None:
        return
    reader, strict = RequestHeadReader(), RequestHeadReader()
    try:
        expected = strict.read_strictly(head)
    except BadRequest as refused:
        try:
            read = reader.read(head)
        except BadRequest as also:
            assert (also.status, also.reason) == (refused.status, refused.reason)
            return
        raise AssertionError(f"{head!r} was read as {read}, and is refused with {refused}") from refused
    found = reader.read(head)
    assert (facts(found[0]), found[1]) == (facts(expected[0]), expected[1])
    assert (reader.method, reader.target) == (strict.method, strict.target)


@given(_STATUS_LINES, _LINES, _ENDS, st.booleans())
@example(b"HTTP/1.1 200 OK", [b"Content-Length: 3", b"Server: x"], b"\r\n", True)
def test_responses_are_read_as_the_strict_reader_reads_them(
    first: bytes, lines: list[bytes], end: bytes, to_head: bool
) -> None:
    head = head_of(first, lines, end)
    if head is None:
        return
    reader, strict = ResponseHeadReader(), ResponseHeadReader()
    try:
        expected = strict.read_strictly(head, to_head=to_head)
    except BadResponse as refused:
        try:
            read = reader.read(head, to_head=to_head)
        except BadResponse as also:
            assert also.reason == refused.reason
            return
        raise AssertionError(f"{head!r} was read as {read}, and is refused with {refused}") from refused
    found = reader.read(head, to_head=to_head)
    assert (facts(found[0]), *found[1:]) == (facts(expected[0]), *expected[1:])


def test_what_browsers_and_servers_send_is_plain_where_it_is_compiled() -> None:
    request = (
        b"GET /a/b?c=d HTTP/1.1\r\nHost: www.example.com\r\nAccept: */*\r\nConnection: keep-alive\r\nX-A:  b \r\n\r\n"
    )
    response = b"HTTP/1.1 200 OK\r\nServer: nginx\r\nContent-Length: 3\r\nConnection: keep-alive\r\n\r\n"
    if compiled.STATE != compiled.COMPILED:
        assert split_request(request, SPECIAL, 10) is None
        assert split_response(response, SPECIAL, 10) is None
        return
    fields = [(b"accept", b"*/*"), (b"x-a", b"b")]
    assert split_request(request, SPECIAL, 10) == (b"GET", b"/a/b", b"?c=d", b"www.example.com", None, fields)
    assert split_response(response, SPECIAL, 10) == (200, b"3", [(b"server", b"nginx")])
    assert split_request(request, SPECIAL, 3) is None
    for cut in range(len(request)):
        assert split_request(request[:cut], SPECIAL, 10) is None
        assert split_request(request + request[:cut], SPECIAL, 10) is None or not cut
    for cut in range(len(response)):
        assert split_response(response[:cut], SPECIAL, 10) is None


def test_each_octet_is_welcome_where_the_strict_reader_welcomes_it() -> None:
    template = b"GET /%b HTTP/1.1\r\nHost: a.example\r\nX%bX: v%bv\r\n\r\n"
    for octet in range(256):
        for place in range(3):
            parts = [b"", b"", b""]
            parts[place] = bytes((octet,))
            head = template % tuple(parts)
            results = []
            for read in (RequestHeadReader().read, RequestHeadReader().read_strictly):
                try:
                    results.append(str(facts(read(head)[0])))
                except BadRequest as refused:
                    results.append(refused.reason)
            assert results[0] == results[1], re.escape(head)
