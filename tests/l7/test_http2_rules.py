"""RFC 9113's rules as tables: what breaks one ends its stream or the connection, as the section says, and reaches no
server."""

import hpack
import pytest

from l7 import limits
from l7.protocol.http2 import frames
from l7.protocol.http2.frames import (
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    HAS_PRIORITY,
    HEADERS,
    PADDED,
    PING,
    PRIORITY,
    PUSH_PROMISE,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    ErrorCode,
    frame,
)
from l7.protocol.message import Headers
from tests.l7.http2_playbook import (
    GET,
    HELLO,
    POST,
    Http2World,
    block,
    data,
    goaway_code,
    raw,
    request,
    reset_codes,
    split,
)

OPEN = request(1, POST, end=False)
WHOLE = request(1)


def setting(name: int, value: int) -> bytes:
    return frames.settings({name: value})


#: Section, what is sent after the greeting, the code of GOAWAY, the reason that is counted.
CONNECTION_ERRORS = [
    ("4.2", frame(DATA, 0, 1, bytes(16385)), ErrorCode.FRAME_SIZE_ERROR, "frame_too_large"),
    ("4.3", frame(HEADERS, END_HEADERS | END_STREAM, 1, b"\x80"), ErrorCode.COMPRESSION_ERROR, "header_block"),
    ("4.3", frame(HEADERS, END_HEADERS, 1, b"\x40\x85abc"), ErrorCode.COMPRESSION_ERROR, "header_block"),
    ("4.3", frame(HEADERS, END_HEADERS, 1, b"\x3f\xe1\xff\x03"), ErrorCode.COMPRESSION_ERROR, "header_block"),
    ("5.1", data(1), ErrorCode.PROTOCOL_ERROR, "stream_idle"),
    ("5.1", frame(RST_STREAM, 0, 1, bytes(4)), ErrorCode.PROTOCOL_ERROR, "stream_idle"),
    ("5.1", frames.window_update(1, 5), ErrorCode.PROTOCOL_ERROR, "stream_idle"),
    ("5.1.1", request(2), ErrorCode.PROTOCOL_ERROR, "stream_even"),
    ("5.1.1", data(2), ErrorCode.PROTOCOL_ERROR, "stream_idle"),
    ("5.1.1", request(5) + request(3), ErrorCode.STREAM_CLOSED, "headers_on_closed_stream"),
    ("6.1", data(0), ErrorCode.PROTOCOL_ERROR, "stream_zero"),
    ("6.1", OPEN + frame(DATA, PADDED, 1, b"\x06abcde"), ErrorCode.PROTOCOL_ERROR, "padding"),
    ("6.1", OPEN + frame(DATA, PADDED, 1, b""), ErrorCode.FRAME_SIZE_ERROR, "padding"),
    ("6.2", frame(HEADERS, END_HEADERS, 0, block(GET)), ErrorCode.PROTOCOL_ERROR, "stream_zero"),
    ("6.2", frame(HEADERS, END_HEADERS | PADDED, 1, b"\xff" + block(GET)), ErrorCode.PROTOCOL_ERROR, "padding"),
    ("6.2", frame(HEADERS, END_HEADERS | HAS_PRIORITY, 1, b"\0\0"), ErrorCode.FRAME_SIZE_ERROR, "priority_length"),
    ("6.2", frame(HEADERS, 0, 1, b"\x82") + data(1), ErrorCode.PROTOCOL_ERROR, "frame_in_header_block"),
    ("6.2", frame(HEADERS, 0, 1, b"\x82") + frame(99, 0, 1, b""), ErrorCode.PROTOCOL_ERROR, "frame_in_header_block"),
    ("6.3", frame(PRIORITY, 0, 0, bytes(5)), ErrorCode.PROTOCOL_ERROR, "stream_zero"),
    ("6.3", frame(PRIORITY, 0, 1, bytes(4)), ErrorCode.FRAME_SIZE_ERROR, "priority_length"),
    ("6.4", frame(RST_STREAM, 0, 0, bytes(4)), ErrorCode.PROTOCOL_ERROR, "stream_zero"),
    ("6.4", OPEN + frame(RST_STREAM, 0, 1, bytes(3)), ErrorCode.FRAME_SIZE_ERROR, "rst_stream_length"),
    ("6.5", frame(SETTINGS, 0, 1, b""), ErrorCode.PROTOCOL_ERROR, "settings_on_stream"),
    ("6.5", frame(SETTINGS, 0, 0, bytes(5)), ErrorCode.FRAME_SIZE_ERROR, "settings_length"),
    ("6.5", frame(SETTINGS, 1, 0, bytes(6)), ErrorCode.FRAME_SIZE_ERROR, "settings_ack_length"),
    ("6.5.2", setting(frames.SETTINGS_ENABLE_PUSH, 2), ErrorCode.PROTOCOL_ERROR, "enable_push"),
    ("6.5.2", setting(frames.SETTINGS_INITIAL_WINDOW_SIZE, 2**31), ErrorCode.FLOW_CONTROL_ERROR, "initial_window"),
    (
        "RFC 8441, 3",
        setting(frames.SETTINGS_ENABLE_CONNECT_PROTOCOL, 2),
        ErrorCode.PROTOCOL_ERROR,
        "enable_connect_protocol",
    ),
    ("6.5.2", setting(frames.SETTINGS_MAX_FRAME_SIZE, 16383), ErrorCode.PROTOCOL_ERROR, "max_frame_size"),
    ("6.5.2", setting(frames.SETTINGS_MAX_FRAME_SIZE, 2**24), ErrorCode.PROTOCOL_ERROR, "max_frame_size"),
    ("6.6", frame(PUSH_PROMISE, END_HEADERS, 1, bytes(4)), ErrorCode.PROTOCOL_ERROR, "push_promise"),
    ("6.7", frame(PING, 0, 1, bytes(8)), ErrorCode.PROTOCOL_ERROR, "ping_on_stream"),
    ("6.7", frame(PING, 0, 0, bytes(7)), ErrorCode.FRAME_SIZE_ERROR, "ping_length"),
    ("6.8", frame(GOAWAY, 0, 1, bytes(8)), ErrorCode.PROTOCOL_ERROR, "goaway_on_stream"),
    ("6.8", frame(GOAWAY, 0, 0, bytes(7)), ErrorCode.FRAME_SIZE_ERROR, "goaway_length"),
    ("6.9", frame(WINDOW_UPDATE, 0, 0, bytes(3)), ErrorCode.FRAME_SIZE_ERROR, "window_update_length"),
    ("6.9", frames.window_update(0, 0), ErrorCode.PROTOCOL_ERROR, "window_update_zero"),
    ("6.9.1", frames.window_update(0, 2**31 - 1), ErrorCode.FLOW_CONTROL_ERROR, "window_overflow"),
    (
        "6.9.2",
        OPEN + frames.window_update(1, 2**31 - 1 - 65535) + setting(frames.SETTINGS_INITIAL_WINDOW_SIZE, 65536),
        ErrorCode.FLOW_CONTROL_ERROR,
        "initial_window",
    ),
    ("6.10", frame(CONTINUATION, END_HEADERS, 1, block(GET)), ErrorCode.PROTOCOL_ERROR, "continuation"),
    (
        "6.10",
        frame(HEADERS, 0, 1, b"\x82") + frame(CONTINUATION, END_HEADERS, 3, b"\x87"),
        ErrorCode.PROTOCOL_ERROR,
        "continuation",
    ),
]


@pytest.mark.parametrize(
    ("sent", "code", "reason"),
    [row[1:] for row in CONNECTION_ERRORS],
    ids=[f"{row[0]} {row[3]} {at}" for at, row in enumerate(CONNECTION_ERRORS)],
)
def test_a_connection_error_is_a_goaway_and_the_end(sent: bytes, code: ErrorCode, reason: str) -> None:
    world, answered = raw(sent)
    assert goaway_code(answered) == code
    assert world.counted[-1] == f'http2_connection_errors{{reason="{reason}"}}'
    assert world.wire.ended == "closed"
    assert not world.opened, "nothing of that read was begun"
    # The same by single bytes: the same verdict.
    world = Http2World()
    for at in range(len(HELLO + sent)):
        if world.wire.ended is None:
            world.server.receive((HELLO + sent)[at : at + 1])
    assert goaway_code(split(world.wire.take())) == code


@pytest.mark.parametrize(
    ("section", "sent"),
    [
        ("3.4", b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"),
        ("3.4", frames.PREFACE[:-1] + b"x"),
        ("3.4", frames.PREFACE + frame(PING, 0, 0, bytes(8))),
        ("3.4", frames.PREFACE + frames.SETTINGS_ACK),
    ],
)
def test_a_connection_begins_with_preface_and_settings(section: str, sent: bytes) -> None:
    world = Http2World()
    world.server.receive(sent)
    assert goaway_code(split(world.wire.take())) == ErrorCode.PROTOCOL_ERROR, section
    assert world.wire.ended == "closed"


LENGTH_5 = request(1, [*POST, (b"content-length", b"5")], end=False)

#: Section, what is sent, the code of RST_STREAM, the detail that is logged.
STREAM_ERRORS = [
    ("5.1", WHOLE + data(1, b"x"), ErrorCode.STREAM_CLOSED, "data_after_end"),
    ("5.1", WHOLE + request(1), ErrorCode.STREAM_CLOSED, "headers_after_end"),
    ("6.9", OPEN + frames.window_update(1, 0), ErrorCode.PROTOCOL_ERROR, "window_update_zero"),
    ("6.9.1", OPEN + frames.window_update(1, 2**31 - 1), ErrorCode.FLOW_CONTROL_ERROR, "window_overflow"),
    ("8.1", OPEN + request(1, [(b"x-sum", b"1")], end=False), ErrorCode.PROTOCOL_ERROR, "trailers_without_end"),
    ("8.1", OPEN + request(1, [(b":path", b"/")]), ErrorCode.PROTOCOL_ERROR, "pseudo_header_in_trailers"),
    ("8.1", OPEN + request(1, [(b"X-Sum", b"1")]), ErrorCode.PROTOCOL_ERROR, "header_name"),
    ("8.1", OPEN + request(1, [(b"content-length", b"1")]), ErrorCode.PROTOCOL_ERROR, "trailer_forbidden"),
    ("8.1.1", LENGTH_5 + data(1, b"sixsix"), ErrorCode.PROTOCOL_ERROR, "content_length_mismatch"),
    ("8.1.1", LENGTH_5 + data(1, b"four", end=True), ErrorCode.PROTOCOL_ERROR, "content_length_mismatch"),
    ("8.1.1", LENGTH_5 + request(1, [(b"x-sum", b"1")]), ErrorCode.PROTOCOL_ERROR, "content_length_mismatch"),
]


@pytest.mark.parametrize("together", [True, False], ids=["together", "byte by byte"])
@pytest.mark.parametrize(
    ("sent", "code", "detail"),
    [row[1:] for row in STREAM_ERRORS],
    ids=[f"{row[0]} {row[3]} {at}" for at, row in enumerate(STREAM_ERRORS)],
)
def test_a_stream_error_resets_the_stream_and_nothing_else(
    sent: bytes, code: ErrorCode, detail: str, together: bool
) -> None:
    world, answered = raw(sent if together else b"")
    if not together:
        for at in range(len(sent)):
            world.server.receive(sent[at : at + 1])
        answered = split(world.wire.take())
    codes = reset_codes(answered)
    # A request that was whole, and so was answered in order, needs no reset.
    whole = any(flags & END_STREAM for kind, flags, at, _ in answered if kind in (HEADERS, DATA) and at == 1)
    assert codes.get(1) == code or (not codes and whole), answered
    assert [(record.status, record.detail) for record in world.log] == [(400, detail)]
    assert goaway_code(answered) is None
    assert not any(b"\r\n0\r\n\r\n" in upstream.wire.sent for upstream in world.upstreams), "no server sees an end"
    world.server.receive(request(3))
    assert [stream.id for stream in world.server.streams] == [3]


def without(name: bytes) -> Headers:
    return [field for field in GET if field[0] != name]


#: RFC 8441 section 5.1.
CONNECT: Headers = [
    (b":method", b"CONNECT"),
    *GET[1:],
    (b":protocol", b"websocket"),
    (b"sec-websocket-version", b"13"),
]

#: Section (of RFC 9113, unless it says another), fields, status, detail.
MALFORMED: list[tuple[str, Headers, int, str]] = [
    ("8.2", [*GET, (b"X-Upper", b"1")], 400, "header_name"),
    ("8.2.1", [*GET, (b"", b"1")], 400, "header_name"),
    ("8.2.1", [*GET, (b"a b", b"1")], 400, "header_name"),
    ("8.2.1", [*GET, (b"a:b", b"1")], 400, "header_name"),
    ("8.2.1", [*GET, (b"a\x7f", b"1")], 400, "header_name"),
    ("8.2.1", [*GET, (b"a\xe9", b"1")], 400, "header_name"),
    ("8.2.1", [*GET, (b"a", b"x\r\ny: z")], 400, "header_value"),
    ("8.2.1", [*GET, (b"a", b"x\ny")], 400, "header_value"),
    ("8.2.1", [*GET, (b"a", b"x\0y")], 400, "header_value"),
    ("8.2.1", [*GET, (b"a", b" x")], 400, "header_value"),
    ("8.2.1", [*GET, (b"a", b"x\t")], 400, "header_value"),
    ("8.2.1", [*GET[:3], (b":path", b"/a\r\nb")], 400, "header_value"),
    ("8.2.2", [*GET, (b"connection", b"close")], 400, "connection_field"),
    ("8.2.2", [*GET, (b"keep-alive", b"1")], 400, "connection_field"),
    ("8.2.2", [*GET, (b"proxy-connection", b"close")], 400, "connection_field"),
    ("8.2.2", [*GET, (b"transfer-encoding", b"chunked")], 400, "connection_field"),
    ("8.2.2", [*GET, (b"upgrade", b"h2c")], 400, "connection_field"),
    ("8.2.2", [*GET, (b"te", b"gzip")], 400, "te"),
    ("8.2.2", [*GET, (b"te", b"trailers, gzip")], 400, "te"),
    ("8.3", [*GET, (b"a", b"1"), (b":path", b"/b")], 400, "pseudo_header_late"),
    ("8.3", [(b"a", b"1"), *GET], 400, "pseudo_header_late"),
    ("8.3", [*GET, (b":path", b"/b")], 400, "pseudo_header_duplicate"),
    ("8.3", [*GET, (b":status", b"200")], 400, "pseudo_header_unknown"),
    ("8.3", [*GET, (b":protocols", b"websocket")], 400, "pseudo_header_unknown"),
    ("8.3.1", without(b":method"), 400, "pseudo_header_missing"),
    ("8.3.1", without(b":scheme"), 400, "pseudo_header_missing"),
    ("8.3.1", without(b":path"), 400, "pseudo_header_missing"),
    ("8.3.1", without(b":authority"), 400, "host_missing"),
    ("8.3.1", [*GET[:3], (b":path", b"")], 400, "target_form"),
    ("8.3.1", [*GET[:3], (b":path", b"a")], 400, "target_form"),
    ("8.3.1", [*GET[:3], (b":path", b"*")], 400, "target_form"),
    ("8.3.1", [*GET[:3], (b":path", b"https://www.example.com/")], 400, "target_form"),
    ("8.3.1", [*GET[:3], (b":path", b"/a#b")], 400, "target_fragment"),
    ("8.3.1", [*GET[:3], (b":path", b"/a b")], 400, "target"),
    ("8.3.1", [*GET[:3], (b":path", b"/\xe9")], 400, "target"),
    ("8.3.1", [(b":method", b"GE T"), *GET[1:]], 400, "method"),
    ("8.3.1", [(b":method", b""), *GET[1:]], 400, "method"),
    ("8.3.1", [*GET[:1], (b":scheme", b"ftp"), *GET[2:]], 400, "scheme"),
    ("8.3.1", [*GET[:2], (b":authority", b"u@www.example.com"), GET[3]], 400, "host"),
    ("8.3.1", [*GET[:2], (b":authority", b""), GET[3]], 400, "host"),
    ("8.3.1", [*GET[:2], (b":authority", b"www.example.com:99999"), GET[3]], 400, "host"),
    ("8.3.1", [*GET, (b"host", b"other.example")], 400, "authority_conflict"),
    ("8.3.1", [*GET, (b"host", b"www.example.com"), (b"host", b"www.example.com")], 400, "host_duplicate"),
    ("8.1.1", [*GET, (b"content-length", b"1")], 400, "content_length_mismatch"),
    ("8.1.1", [*GET, (b"content-length", b"+0")], 400, "content_length"),
    ("8.1.1", [*GET, (b"content-length", b"0"), (b"content-length", b"0")], 400, "content_length_duplicate"),
    ("8.5", [(b":method", b"CONNECT"), GET[2]], 501, "method_not_served"),
    ("RFC 8441, 4", [*GET, (b":protocol", b"websocket")], 400, "protocol_without_connect"),
    ("RFC 8441, 4", [(b":protocol", b"websocket"), *GET[1:]], 400, "protocol_without_connect"),
    ("RFC 8441, 4", [*CONNECT[:-2], (b":protocol", b"connect-udp"), CONNECT[-1]], 501, "protocol_not_served"),
    ("RFC 8441, 4", [*CONNECT[:-2], (b":protocol", b"WebSocket"), CONNECT[-1]], 501, "protocol_not_served"),
    ("RFC 8441, 4", [*CONNECT[:1], *CONNECT[2:]], 400, "pseudo_header_missing"),
    ("RFC 8441, 4", [*CONNECT[:2], *CONNECT[3:]], 400, "host_missing"),
    ("RFC 8441, 4", [*CONNECT[:3], *CONNECT[4:]], 400, "pseudo_header_missing"),
    ("RFC 8441, 4", [*CONNECT[:3], (b":path", b"*"), *CONNECT[4:]], 400, "target_form"),
    ("RFC 8441, 5", CONNECT[:-1], 400, "websocket_version"),
    ("RFC 8441, 5", [*CONNECT[:-1], (b"sec-websocket-version", b"8")], 400, "websocket_version"),
    ("RFC 8441, 5", [*CONNECT, (b"sec-websocket-key", b"dGhlIHNhbXBsZSBub25jZQ==")], 400, "websocket_key"),
    ("RFC 8441, 5", [*CONNECT, (b"upgrade", b"websocket")], 400, "connection_field"),
    ("RFC 8441, 5", [*CONNECT, (b"content-length", b"0")], 400, "websocket_body"),
    ("edge", [*GET, (b"x_a", b"1")], 400, "header_name_underscore"),
    ("edge", [(b":method", b"TRACE"), *GET[1:]], 501, "method_not_served"),
    ("edge", [(b":method", b"BREW"), *GET[1:]], 501, "method_unknown"),
    ("edge", [*GET, (b"expect", b"more")], 417, "expectation_unknown"),
    ("edge", [*GET, (b"content-length", b"1" * 19)], 413, "content_length_too_large"),
    ("edge", [*GET[:3], (b":path", b"/" + b"a" * limits.MAX_REQUEST_TARGET_BYTES)], 414, "target_too_long"),
    ("edge", [*GET, *[(b"a", b"1")] * (limits.MAX_HEADERS + 1)], 431, "too_many_headers"),
    ("edge", [*GET, (b"a", b"1" * limits.MAX_REQUEST_HEAD_BYTES)], 431, "head_too_large"),
]


@pytest.mark.parametrize(
    ("fields", "status", "detail"),
    [row[1:] for row in MALFORMED],
    ids=[f"{row[0]} {row[3]} {at}" for at, row in enumerate(MALFORMED)],
)
def test_a_malformed_request_is_answered_and_reaches_nobody(fields: Headers, status: int, detail: str) -> None:
    ends: tuple[bool, ...] = (True, False)
    if detail == "content_length_mismatch":
        ends = (True,)
    elif (b":protocol", b"websocket") in fields:
        ends = (False,)  # a tunnel that has ended before it began is another mistake
    for end in ends:
        world, answered = raw(request(1, fields, end=end))
        assert not world.opened
        assert [(record.status, record.detail) for record in world.log] == [(status, detail)]
        assert goaway_code(answered) is None
        if not end:
            assert reset_codes(answered) == {1: ErrorCode.PROTOCOL_ERROR if status == 400 else ErrorCode.NO_ERROR}
        assert not world.server.streams
        world.server.receive(request(3))
        assert len(world.opened) == 1, "its neighbours do not notice"


@pytest.mark.parametrize(
    ("section", "fields", "line"),
    [
        ("8.3.1", [*without(b":authority"), (b"host", b"www.example.com")], b"GET /a?b=c HTTP/1.1"),
        ("8.3.1", [*GET, (b"host", b"WWW.example.com")], b"GET /a?b=c HTTP/1.1"),
        ("8.3.1", [(b":method", b"OPTIONS"), *GET[1:3], (b":path", b"*")], b"OPTIONS * HTTP/1.1"),
        ("8.2.2", [*GET, (b"te", b"trailers")], b"GET /a?b=c HTTP/1.1"),
        ("edge", [*GET, (b"x-forwarded-for", b"203.0.113.66")], b"GET /a?b=c HTTP/1.1"),
        ("8.2.3", [*GET, (b"cookie", b"a"), (b"cookie", b"b")], b"GET /a?b=c HTTP/1.1"),
        ("8.3", [GET[3], GET[1], GET[2], GET[0]], b"GET /a?b=c HTTP/1.1"),
        ("8.2.1", [*GET, (b"a", b""), (b"b", b"x\ty"), (b"c", b"\xe9")], b"GET /a?b=c HTTP/1.1"),
    ],
)
def test_what_is_allowed_passes(section: str, fields: Headers, line: bytes) -> None:
    world, _ = raw(request(1, fields))
    sent = world.got()
    assert sent.startswith(line + b"\r\nhost: "), section
    assert b"203.0.113.66" not in sent, "who is not trusted claims nothing"
    assert world.upstreams[0].wire.ended is None


@pytest.mark.parametrize(
    ("section", "sent"),
    [
        ("4.1", frame(99, 0xFF, 7, b"anything")),
        ("5.3", frame(PRIORITY, 0, 1, (1).to_bytes(4) + b"\x10")),
        ("5.3", frame(PRIORITY, 0, 9, bytes(5))),
        ("6.5", setting(0xABCD, 1)),
        ("6.5", setting(frames.SETTINGS_HEADER_TABLE_SIZE, 0)),
        ("6.9", OPEN + frame(RST_STREAM, 0, 1, bytes(4)) + frames.window_update(1, 1)),
        ("6.1", request(1, POST, end=False) + frame(DATA, PADDED | END_STREAM, 1, b"\x03abc" + bytes(3))),
    ],
)
def test_what_means_nothing_here_is_ignored(section: str, sent: bytes) -> None:
    world, answered = raw(sent)
    assert goaway_code(answered) is None, section
    assert not reset_codes(answered)
    world.server.receive(request(3))
    assert 3 in [stream.id for stream in world.server.streams]


def test_more_than_a_window_breaks_the_stream_and_more_than_the_connections_the_connection() -> None:
    """Section 6.9.1."""
    world = Http2World(holds=True)
    world.server.receive(HELLO + OPEN)
    world.server.receive(data(1, bytes(16384)) * 4)
    world.wire.take()
    world.server.receive(data(1, b"x"))
    assert reset_codes(split(world.wire.take())) == {1: ErrorCode.FLOW_CONTROL_ERROR}
    assert world.last.detail == "stream_window"
    world = Http2World(holds=True)
    world.server.receive(HELLO)
    at = 1
    while world.wire.ended is None:
        assert at < 100, "held bytes are bounded"
        world.server.receive(request(at, POST, end=False) + data(at, bytes(16384)) * 4)
        at += 2
    assert goaway_code(split(world.wire.take())) == ErrorCode.FLOW_CONTROL_ERROR
    # The last one is where it broke.
    assert (at - 3) / 2 * 65536 <= limits.H2_MAX_HELD_BYTES + limits.H2_CONNECTION_WINDOW_BYTES


def test_padding_and_priority_are_no_part_of_the_message() -> None:
    fields = block([*POST, (b"a", b"1")])
    head = frame(HEADERS, END_HEADERS | PADDED | HAS_PRIORITY, 1, b"\x04" + bytes(5) + fields + bytes(4))
    world, _ = raw(head + frame(DATA, PADDED | END_STREAM, 1, b"\x03abc" + bytes(3)))
    sent = world.got()
    assert b"\r\na: 1\r\n" in sent
    assert sent.endswith(b"\r\n3\r\nabc\r\n0\r\n\r\n")


def test_a_header_block_may_come_in_fragments() -> None:
    fields = block(GET)
    world, _ = raw(
        frame(HEADERS, END_STREAM, 1, fields[:3])
        + frame(CONTINUATION, 0, 1, fields[3:9])
        + frame(CONTINUATION, END_HEADERS, 1, fields[9:])
    )
    assert world.got().startswith(b"GET /a?b=c HTTP/1.1\r\n")


def test_a_long_response_head_goes_out_in_fragments() -> None:
    world = Http2World().greet()
    stream = world.ask()
    lines = b"".join(b"x-%d: %b\r\n" % (at, b"y" * 4000) for at in range(10))
    world.answer(b"HTTP/1.1 200 OK\r\n" + lines + b"Content-Length: 2\r\n\r\nok")
    assert len(world.seen[stream].headers) == 12
    assert world.seen[stream].body == b"ok"


def test_streams_beyond_the_limit_are_refused_and_safe_to_try_again() -> None:
    """Section 5.1.2."""
    most = limits.H2_MAX_CONCURRENT_STREAMS
    world, answered = raw(b"".join(request(1 + 2 * at) for at in range(most + 3)))
    assert len(world.opened) == most
    assert reset_codes(answered) == {1 + 2 * at: ErrorCode.REFUSED_STREAM for at in range(most, most + 3)}
    world.upstreams[0].connection.receive(b"HTTP/1.1 204 No Content\r\n\r\n")
    world.server.receive(request(1 + 2 * (most + 3)))
    assert len(world.opened) == most + 1


def test_blocks_of_streams_that_were_reset_still_feed_the_decoder() -> None:
    """Section 4.3: the compression's state is the connection's."""
    encoder = hpack.Encoder()
    world, _ = raw(frames.headers(1, bytes(encoder.encode(POST)), end_stream=False))
    world.upstreams[0].connection.receive(b"HTTP/1.1 204 No Content\r\n\r\n")
    assert reset_codes(split(world.wire.take())) == {1: ErrorCode.NO_ERROR}
    world.server.receive(frames.headers(1, bytes(encoder.encode([(b"x-sum", b"late")])), end_stream=True))
    world.server.receive(frames.headers(3, bytes(encoder.encode([*GET, (b"x-sum", b"late")])), end_stream=True))
    assert b"\r\nx-sum: late\r\n" in world.got()
