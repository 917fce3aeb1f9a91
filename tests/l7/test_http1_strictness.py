"""What breaks a rule of HTTP/1.1 is refused by the name of the rule, whatever the pieces in which it came."""

import json

import pytest

from l7 import limits
from l7.exchange import Exchange
from l7.telemetry.flags import Flag
from tests.l7.playbook import World

HOST = b"Host: www.example.com\r\n"


def head(*lines: bytes, start: bytes = b"GET / HTTP/1.1") -> bytes:
    return start + b"\r\n" + HOST + b"".join(line + b"\r\n" for line in lines) + b"\r\n"


def start(line: bytes) -> bytes:
    return head(start=line)


REFUSED_HEADS = [
    # RFC 9112 section 3: request line
    pytest.param(start(b"GET  / HTTP/1.1"), 400, "request_line", id="two spaces"),
    pytest.param(start(b"GET /a b HTTP/1.1"), 400, "request_line", id="space in target"),
    pytest.param(start(b"GET /"), 400, "request_line", id="HTTP/0.9"),
    pytest.param(start(b"GET\t/ HTTP/1.1"), 400, "request_line", id="tab for space"),
    pytest.param(start(b"GET / HTTP/1.1 "), 400, "request_line", id="trailing space"),
    pytest.param(start(b" GET / HTTP/1.1"), 400, "request_line", id="leading space"),
    pytest.param(start(b"GET / http/1.1"), 400, "request_line", id="lower-case version"),
    pytest.param(start(b"GET / HTTP/1.10"), 400, "request_line", id="two-digit minor version"),
    pytest.param(start(b"GET / HTTP/1.2"), 505, "version", id="HTTP/1.2"),
    pytest.param(start(b"GET / HTTP/2.0"), 505, "version", id="HTTP/2.0"),
    pytest.param(b"PRI * HTTP/2.0\r\n\r\n", 505, "version", id="HTTP/2 preface"),
    pytest.param(b"\r\n\r\n" + head(), 400, "empty_lines", id="two empty lines first"),
    # RFC 9110 section 9: method
    pytest.param(start(b"G(T / HTTP/1.1"), 400, "method", id="method is no token"),
    pytest.param(start(b"get / HTTP/1.1"), 501, "method_unknown", id="methods are case-sensitive"),
    pytest.param(start(b"SOURCE / HTTP/1.1"), 501, "method_unknown", id="method of another protocol"),
    pytest.param(start(b"CONNECT www.example.com:443 HTTP/1.1"), 501, "method_not_served", id="CONNECT"),
    pytest.param(start(b"TRACE / HTTP/1.1"), 501, "method_not_served", id="TRACE"),
    # RFC 9112 section 3.2: target
    pytest.param(start(b"GET www.example.com HTTP/1.1"), 400, "target_form", id="authority form"),
    pytest.param(start(b"GET * HTTP/1.1"), 400, "target_form", id="asterisk form of another method"),
    pytest.param(start(b"GET ftp://www.example.com/ HTTP/1.1"), 400, "target_form", id="other scheme"),
    pytest.param(start(b"GET http://u:p@www.example.com/ HTTP/1.1"), 400, "target_form", id="user information"),
    pytest.param(start(b"GET http://other.example.com/ HTTP/1.1"), 400, "authority_conflict", id="host against target"),
    pytest.param(start(b"GET /a#b HTTP/1.1"), 400, "target_fragment", id="fragment"),
    pytest.param(start(b"GET /\x80 HTTP/1.1"), 400, "target", id="high byte in target"),
    pytest.param(start(b"GET /\x01 HTTP/1.1"), 400, "target", id="control in target"),
    pytest.param(start(b"GET /a\x00 HTTP/1.1"), 400, "target", id="NUL in target"),
    # RFC 3986, and what backends decode once more
    pytest.param(start(b"GET /a%2Fb HTTP/1.1"), 400, "path_escaped_slash", id="escaped slash"),
    pytest.param(start(b"GET /a%5cb HTTP/1.1"), 400, "path_escaped_slash", id="escaped backslash"),
    pytest.param(start(b"GET /a\\b HTTP/1.1"), 400, "path_character", id="backslash"),
    pytest.param(start(b"GET /a%00 HTTP/1.1"), 400, "path_nul", id="escaped NUL"),
    pytest.param(start(b"GET /a%zz HTTP/1.1"), 400, "path_percent_encoding", id="broken escape"),
    pytest.param(start(b"GET /../a HTTP/1.1"), 400, "path_above_root", id="above the root"),
    pytest.param(start(b"GET /a/%2e%2E/../b HTTP/1.1"), 400, "path_above_root", id="escaped, above the root"),
    pytest.param(start(b"GET /a/..;x/b HTTP/1.1"), 400, "path_dot_segment_parameter", id="dot segment with parameter"),
    # RFC 9112 section 3.2, RFC 9110 section 7.2: Host
    pytest.param(b"GET / HTTP/1.1\r\n\r\n", 400, "host_missing", id="no Host"),
    pytest.param(head(HOST[:-2]), 400, "host_duplicate", id="two Hosts"),
    pytest.param(b"GET / HTTP/1.1\r\nHost:\r\n\r\n", 400, "host", id="empty Host"),
    pytest.param(b"GET / HTTP/1.1\r\nHost: a b\r\n\r\n", 400, "host", id="Host with a space"),
    pytest.param(b"GET / HTTP/1.1\r\nHost: a@b\r\n\r\n", 400, "host", id="Host with user information"),
    pytest.param(b"GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", 400, "host", id="Host with a slash"),
    pytest.param(b"GET / HTTP/1.1\r\nHost: a:99999\r\n\r\n", 400, "host", id="port out of range"),
    pytest.param(b"GET / HTTP/1.1\r\nHost: a,b\r\n\r\n", 400, "host", id="two hosts in one field"),
    # RFC 9112 sections 2.2 and 5: lines
    pytest.param(b"GET / HTTP/1.1\n" + HOST + b"\r\n", 400, "bare_lf", id="bare LF after the request line"),
    pytest.param(head(b"A: b\nC: d"), 400, "bare_lf", id="bare LF between fields"),
    pytest.param(head(b"A: b\rC: d"), 400, "bare_cr", id="bare CR"),
    pytest.param(head(b"A: b\0c"), 400, "nul", id="NUL in a value"),
    pytest.param(head(b"A: b\x01c"), 400, "header_value", id="control in a value"),
    pytest.param(head(b"A: b\x7fc"), 400, "header_value", id="DEL in a value"),
    pytest.param(head(b"A: b", b" c"), 400, "obs_fold", id="obs-fold"),
    pytest.param(head(b"A: b", b"\tc"), 400, "obs_fold", id="obs-fold with a tab"),
    pytest.param(head(b"A : b"), 400, "space_before_colon", id="space before the colon"),
    pytest.param(head(b"Content-Length\t: 3"), 400, "space_before_colon", id="tab before the colon"),
    pytest.param(head(b": b"), 400, "header_name", id="empty name"),
    pytest.param(head(b"A"), 400, "header_name", id="line without a colon"),
    pytest.param(head(b"A(b): c"), 400, "header_name", id="name is no token"),
    pytest.param(head(b"X_Real_IP: 192.0.2.1"), 400, "header_name_underscore", id="underscore"),
    # RFC 9112 section 6: framing
    pytest.param(head(b"Content-Length: 1", b"Content-Length: 2"), 400, "content_length_duplicate", id="CL twice"),
    pytest.param(head(b"Content-Length: 1", b"Content-Length: 1"), 400, "content_length_duplicate", id="same CL twice"),
    pytest.param(head(b"Content-Length: 1, 1"), 400, "content_length", id="CL list"),
    pytest.param(head(b"Content-Length: +1"), 400, "content_length", id="CL with a sign"),
    pytest.param(head(b"Content-Length: -1"), 400, "content_length", id="negative CL"),
    pytest.param(head(b"Content-Length: 0x1"), 400, "content_length", id="hexadecimal CL"),
    pytest.param(head(b"Content-Length: 1 1"), 400, "content_length", id="CL with a space"),
    pytest.param(head(b"Content-Length:"), 400, "content_length", id="empty CL"),
    pytest.param(head(b"Content-Length: " + b"9" * 19), 413, "content_length_too_large", id="CL too large"),
    pytest.param(head(b"Content-Length: " + b"9" * 30), 413, "content_length_too_large", id="CL overflow"),
    pytest.param(head(b"Content-Length: 1", b"Transfer-Encoding: chunked"), 400, "framing_conflict", id="CL, TE"),
    pytest.param(head(b"Transfer-Encoding: chunked", b"Content-Length: 1"), 400, "framing_conflict", id="TE, CL"),
    pytest.param(head(b"Transfer-Encoding: gzip"), 501, "transfer_encoding_unknown", id="TE gzip"),
    pytest.param(head(b"Transfer-Encoding: gzip, chunked"), 501, "transfer_encoding_unknown", id="TE gzip, chunked"),
    pytest.param(head(b"Transfer-Encoding: chunked, identity"), 501, "transfer_encoding_unknown", id="TE not last"),
    pytest.param(head(b"Transfer-Encoding: xchunked"), 501, "transfer_encoding_unknown", id="TE xchunked"),
    pytest.param(head(b'Transfer-Encoding: "chunked"'), 400, "transfer_encoding", id="TE quoted"),
    pytest.param(head(b"Transfer-Encoding: \x0bchunked"), 400, "transfer_encoding", id="TE after a vertical tab"),
    pytest.param(head(b"Transfer-Encoding:"), 400, "transfer_encoding", id="TE empty"),
    pytest.param(
        head(b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked"),
        400,
        "transfer_encoding_duplicate",
        id="TE 2",
    ),
    pytest.param(
        head(b"Transfer-Encoding: chunked", start=b"POST / HTTP/1.0"),
        400,
        "transfer_encoding_in_http10",
        id="TE in 1.0",
    ),
    # RFC 9110 section 10.1.1
    pytest.param(head(b"Expect: tea"), 417, "expectation_unknown", id="unknown expectation"),
    # limits
    pytest.param(start(b"GET /" + b"a" * 8192 + b" HTTP/1.1"), 414, "target_too_long", id="long target"),
    pytest.param(b"GET /" + b"a" * 16000, 414, "target_too_long", id="endless target"),
    pytest.param(head(*[b"A: b"] * 101), 431, "too_many_headers", id="102 headers"),
    pytest.param(head(b"A: " + b"b" * 15 * 1024), 431, "head_too_large", id="large head"),
]


def check_refusal(world: World, status: int, reason: str) -> None:
    answer = world.wire.take()
    headers, _, body = answer.partition(b"\r\n\r\n")
    assert headers.startswith(b"HTTP/1.1 %d " % status)
    assert b"\r\nconnection: close" in headers
    assert b"\r\nproxy-status: edgefleet; error=" in headers
    error = json.loads(body)["error"]
    assert (error["detail"], error["request_id"]) == (reason, world.last.request_id)
    assert (world.last.status, world.last.detail) == (status, reason)
    assert world.last.flags == (Flag.DOWNSTREAM_PROTOCOL_ERROR,)
    assert len(world.log) == 1
    assert world.wire.ended == "closed"
    assert world.client.exchange is None


@pytest.mark.parametrize(("data", "status", "reason"), REFUSED_HEADS)
@pytest.mark.parametrize("piece", [1_000_000, 7, 1], ids=["whole", "in sevens", "byte by byte"])
def test_a_bad_head_is_refused_by_name(data: bytes, status: int, reason: str, piece: int) -> None:
    world = World()
    for at in range(0, len(data), piece):
        world.client.receive(data[at : at + piece])
    check_refusal(world, status, reason)
    assert world.opened == []


ACCEPTED_HEADS = [
    pytest.param(b"\r\n" + head(), id="one empty line first (RFC 9112 section 2.2)"),
    pytest.param(head(b"A:\tb \t"), id="optional white space"),
    pytest.param(head(b"A: \xe4\xf6"), id="obs-text in a value"),
    pytest.param(head(b"A:"), id="empty value"),
    pytest.param(head(*[b"A: b"] * 100), id="101 headers"),
    pytest.param(start(b"GET http://www.Example.com HTTP/1.1"), id="absolute form"),
    pytest.param(start(b"GET /?a=%zz|{}[]&b=../c HTTP/1.1"), id="whatever browsers put into a query"),
    pytest.param(head(b"Content-Length: 0"), id="no body, said so"),
    pytest.param(head(b"Expect: 100-Continue"), id="expectation without body"),
    pytest.param(head(b"Connection: close, Upgrade", b"Upgrade: h2c"), id="upgrade, served as a plain request"),
    pytest.param(b"GET / HTTP/1.1\r\nHost: WWW.example.com:8443\r\n\r\n", id="Host with case and port"),
]


@pytest.mark.parametrize("data", ACCEPTED_HEADS)
def test_what_the_rules_allow_is_served(data: bytes) -> None:
    world = World().pool()
    world.client.receive(data)
    assert world.wire.ended is None
    assert world.log == []
    assert world.upstream.wire.sent.startswith(b"GET /")


CHUNKED = head(b"Transfer-Encoding: chunked", start=b"POST / HTTP/1.1")

REFUSED_CHUNKS = [
    pytest.param(b"x\r\n", "chunk_size_malformed", id="no digit"),
    pytest.param(b"\r\n", "chunk_size_malformed", id="empty size"),
    pytest.param(b"0x3\r\nabc\r\n", "chunk_size_malformed", id="0x"),
    pytest.param(b"+3\r\nabc\r\n", "chunk_size_malformed", id="sign"),
    pytest.param(b" 3\r\nabc\r\n", "chunk_size_malformed", id="space before"),
    pytest.param(b"3 \r\nabc\r\n", "chunk_size_malformed", id="space after"),
    pytest.param(b"3;\r\nabc\r\n", "chunk_size_malformed", id="empty extension"),
    pytest.param(b"3 ;a\r\nabc\r\n", "chunk_size_malformed", id="space before extension"),
    pytest.param(b'3;a="b\r\nabc\r\n', "chunk_size_malformed", id="open quote"),
    pytest.param(b"3;a\x01\r\nabc\r\n", "chunk_size_malformed", id="control in extension"),
    pytest.param(b"3\nabc\r\n", "chunk_bare_lf", id="bare LF"),
    pytest.param(b"3;a\nabc\r\n", "chunk_bare_lf", id="bare LF in an extension"),
    pytest.param(b"3\rabc\r\n", "chunk_bare_cr", id="bare CR"),
    pytest.param(b"3\r\nabcd\r\n", "chunk_data_overrun", id="more than the size"),
    pytest.param(b"3\r\nabc\n", "chunk_bare_lf", id="bare LF after data"),
    pytest.param(b"3\r\nabc0\r\n\r\n", "chunk_data_overrun", id="no CRLF after data"),
    pytest.param(b"1" + b"0" * 13 + b"\r\n", "chunk_size_too_large", id="size overflow"),
    pytest.param(b"3;" + b"a" * 5000 + b"\r\n", "chunk_line_too_long", id="long line"),
    pytest.param((b"1;" + b"a" * 1000 + b"\r\nx\r\n") * 20, "chunk_extensions_too_large", id="many extensions"),
    pytest.param(b"0\r\nA : b\r\n\r\n", "trailer_malformed", id="space in a trailer"),
    pytest.param(b"0\r\nA\r\n\r\n", "trailer_malformed", id="trailer without colon"),
    pytest.param(b"0\r\n A: b\r\n\r\n", "trailer_malformed", id="folded trailer"),
    pytest.param(b"0\r\nA: b\nC: d\r\n\r\n", "chunk_bare_lf", id="bare LF in a trailer"),
    pytest.param(b"0\r\n\n", "chunk_bare_lf", id="bare LF at the end"),
    pytest.param(b"\n", "chunk_bare_lf", id="bare LF for a size"),
    pytest.param(b"0\r\n" + b"A: b\r\n" * 2000 + b"\r\n", "trailers_too_large", id="many trailers"),
]


@pytest.mark.parametrize(("data", "reason"), REFUSED_CHUNKS)
@pytest.mark.parametrize("piece", [1_000_000, 1], ids=["whole", "byte by byte"])
def test_bad_chunks_are_refused_by_name(data: bytes, reason: str, piece: int) -> None:
    """RFC 9112 section 7.1; and the upstream connection that got the beginning is never used again."""
    world = World().pool()
    world.client.receive(CHUNKED)
    for at in range(0, len(data), piece):
        world.client.receive(data[at : at + piece])
    check_refusal(world, 400, reason)
    assert world.released == [(world.upstream.connection, False)]
    assert b"0\r\n\r\n" not in world.upstream.wire.sent, "a broken request is not finished on its behalf"


def test_chunks_are_framed_anew_without_extensions() -> None:
    world = World().pool()
    world.client.receive(CHUNKED)
    world.upstream.wire.take()
    sent = world.request(b'3;a=b;c="d e"\r\nabc\r\n0004\r\ndefg\r\n0\r\n\r\n')
    assert sent == b"7\r\nabcdefg\r\n0\r\n\r\n"
    assert isinstance(world.client.exchange, Exchange)
    assert world.client.exchange.record.bytes_in == 7


RESPONSES_REFUSED = [
    pytest.param(b"HTTP/2.0 200 OK\r\n\r\n", "status_line", id="version"),
    pytest.param(b"HTTP/1.1  200 OK\r\n\r\n", "status_line", id="two spaces"),
    pytest.param(b"HTTP/1.1 20 OK\r\n\r\n", "status_line", id="two digits"),
    pytest.param(b"HTTP/1.1 2000 OK\r\n\r\n", "status_line", id="four digits"),
    pytest.param(b"HTTP/1.1 099 OK\r\n\r\n", "status_line", id="status below 100"),
    pytest.param(b"garbage\r\n\r\n", "status_line", id="no status line"),
    pytest.param(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n", "unasked_upgrade", id="101"),
    pytest.param(b"HTTP/1.1 200 OK\r\nA: b\n\r\n\r\n", "bare_lf", id="bare LF"),
    pytest.param(b"HTTP/1.1 200 OK\r\nA: b\0\r\n\r\n", "nul", id="NUL"),
    pytest.param(b"HTTP/1.1 200 OK\r\nA: b\r\n c\r\n\r\n", "obs_fold", id="obs-fold"),
    pytest.param(b"HTTP/1.1 200 OK\r\nA : b\r\n\r\n", "space_before_colon", id="space before the colon"),
    pytest.param(
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n", "content_length_duplicate", id="CL twice"
    ),
    pytest.param(
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", "framing_conflict", id="CL, TE"
    ),
    pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: 1x\r\n\r\n", "content_length", id="CL"),
    pytest.param(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", "transfer_encoding", id="TE"),
    pytest.param(b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", "transfer_encoding", id="TE in 1.0"),
    pytest.param(b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 102 + b"\r\n", "too_many_headers", id="many headers"),
    pytest.param(b"HTTP/1.1 200 OK\r\nA: " + b"b" * 61440 + b"\r\n\r\n", "head_too_large", id="large head"),
    pytest.param(b"HTTP/1.1 103 Early Hints\r\n\r\n" * 17, "too_many_interim_responses", id="endless 1xx"),
]


@pytest.mark.parametrize(("data", "reason"), RESPONSES_REFUSED)
def test_a_bad_response_is_a_502_by_name(data: bytes, reason: str) -> None:
    world = World().pool()
    world.request(head())
    answer = world.respond(data).rpartition(b"HTTP/1.1 502 ")
    assert answer[1]
    assert json.loads(answer[2].partition(b"\r\n\r\n")[2])["error"]["detail"] == reason
    assert world.last.flags == (Flag.UPSTREAM_PROTOCOL_ERROR,)
    assert world.released == [(world.upstream.connection, False)]
    assert world.wire.ended is None, "the client's connection is as good as before"


def test_a_slow_head_is_answered_with_408() -> None:
    world = World()
    assert world.wire.deadline == limits.CLIENT_IDLE_S
    world.client.receive(b"GET / HT")
    assert world.wire.deadline == limits.REQUEST_HEAD_S
    world.wire.deadline = None
    world.client.receive(b"TP/1.1\r\n")
    assert world.wire.deadline is None, "the deadline of a head is not renewed"
    world.client.deadline_passed()
    assert world.wire.take().startswith(b"HTTP/1.1 408 ")
    assert world.last.flags == (Flag.DURATION_TIMEOUT,)
    assert world.wire.ended == "closed"


def test_credentials_of_an_absolute_target_and_the_query_are_not_logged() -> None:
    for target in (b"http://user:secret@www.example.com/", b"/a?token=secret#"):
        world = World()
        world.client.receive(start(b"GET " + target + b" HTTP/1.1"))
        assert b"secret" not in world.last.path
