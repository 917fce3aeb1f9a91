"""WebSockets over HTTP/1.1, byte by byte: handshakes, what passes, and how they end."""

import pytest
from websockets.frames import Opcode

from l7 import limits
from l7.protocol import websocket
from l7.protocol.websocket import GOING_AWAY
from l7.telemetry.flags import Flag
from tests.l7.playbook import OK, World
from tests.l7.test_websocket_frames import parsed, written

KEY = b"dGhlIHNhbXBsZSBub25jZQ=="
ACCEPT = b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="


def handshake(
    *lines: bytes,
    start: bytes = b"GET /chat?room=1 HTTP/1.1",
    connection: bytes = b"Upgrade",
    upgrade: bytes = b"websocket",
    version: bytes = b"Sec-WebSocket-Version: 13",
    key: bytes = b"Sec-WebSocket-Key: " + KEY,
) -> bytes:
    fields = [b"Connection: " + connection, b"Upgrade: " + upgrade, version, key, *lines]
    return b"\r\n".join([start, b"Host: www.example.com", *filter(None, fields), b"\r\n"])


SWITCHING = (
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: WebSocket\r\nConnection: Upgrade\r\nServer: x\r\n"
    b"Sec-WebSocket-Accept: " + ACCEPT + b"\r\n\r\n"
)


def text(payload: bytes, *, masked: bool) -> bytes:
    return written(Opcode.TEXT, payload, masked=masked)


def goodbye_frame(*, masked: bool) -> bytes:
    return written(Opcode.CLOSE, b"\x03\xe9", masked=masked)


def opened() -> World:
    """A tunnel, with both heads out of the way."""
    world = World().pool()
    world.request(handshake())
    world.respond(SWITCHING)
    assert world.client.is_tunnel
    return world


# -- Handshakes --------------------------------------------------------------------------------------------------------


def test_a_handshake_is_written_anew_both_ways() -> None:
    world = World().pool()
    sent = world.request(
        handshake(
            b"Sec-WebSocket-Protocol: chat",
            b"X-Hop: 1",
            connection=b"keep-alive, Upgrade, X-Hop",
            upgrade=b"h2c, WebSocket",
        )
    )
    assert sent == (
        b"GET /chat?room=1 HTTP/1.1\r\nhost: www.example.com\r\n"
        b"sec-websocket-version: 13\r\nsec-websocket-key: " + KEY + b"\r\nsec-websocket-protocol: chat\r\n"
        b"x-forwarded-for: 192.0.2.7\r\nx-forwarded-proto: http\r\nforwarded: for=192.0.2.7;proto=http\r\n"
        b"x-request-id: id-1\r\nconnection: upgrade\r\nupgrade: websocket\r\nvia: 1.1 edgefleet\r\n\r\n"
    )
    assert world.respond(SWITCHING) == (
        b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n"
        b"server: x\r\nsec-websocket-accept: " + ACCEPT + b"\r\n\r\n"
    )
    assert world.log == [], "its record is written when it is over"


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        pytest.param(handshake(start=b"POST / HTTP/1.1"), "websocket_method", id="POST"),
        pytest.param(handshake(b"Content-Length: 3") + b"abc", "websocket_body", id="a body"),
        pytest.param(handshake(b"Transfer-Encoding: chunked") + b"0\r\n\r\n", "websocket_body", id="a chunked body"),
        pytest.param(handshake(version=b""), "websocket_version", id="no version"),
        pytest.param(handshake(version=b"Sec-WebSocket-Version: 8"), "websocket_version", id="an old version"),
        pytest.param(handshake(version=b"Sec-WebSocket-Version: 13, 8"), "websocket_version", id="two versions"),
        pytest.param(handshake(b"Sec-WebSocket-Version: 13"), "websocket_version", id="the version twice"),
        pytest.param(handshake(key=b""), "websocket_key", id="no key"),
        pytest.param(handshake(b"Sec-WebSocket-Key: " + KEY), "websocket_key", id="the key twice"),
        pytest.param(handshake(key=b"Sec-WebSocket-Key: AAAA"), "websocket_key", id="a short key"),
        pytest.param(handshake(key=b"Sec-WebSocket-Key: " + KEY[:-3] + b"R=="), "websocket_key", id="key, odd bits"),
        pytest.param(handshake(key=b"Sec-WebSocket-Key: " + KEY[:-2]), "websocket_key", id="a key without padding"),
        pytest.param(handshake(connection=b"Upgrade, Sec-WebSocket-Key"), "websocket_key", id="a key for one hop"),
    ],
)
def test_what_is_no_handshake_is_refused(said: bytes, reason: str) -> None:
    world = World().pool()
    assert world.request(said) == b""
    answer = world.wire.take()
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert (b"\r\nsec-websocket-version: 13\r\n" in answer) == (reason == "websocket_version")
    assert (world.last.detail, world.last.flags) == (reason, (Flag.DOWNSTREAM_PROTOCOL_ERROR,))
    assert (world.wire.ended, world.opened) == ("closed", [])


@pytest.mark.parametrize(
    "said",
    [
        pytest.param(handshake(upgrade=b"h2c"), id="h2c"),
        pytest.param(handshake(upgrade=b"websocket/13"), id="another name"),
        pytest.param(handshake(connection=b"keep-alive"), id="not for this hop"),
        pytest.param(handshake(start=b"GET / HTTP/1.0"), id="HTTP/1.0"),
    ],
)
def test_other_upgrades_are_ignored_and_not_passed_on(said: bytes) -> None:
    world = World().pool()
    sent = world.request(said)
    assert sent.startswith(b"GET /")
    assert b"\r\nupgrade:" not in sent
    assert b"\r\nconnection:" not in sent
    assert world.respond(SWITCHING).startswith(b"HTTP/1.1 502 ")
    assert world.last.detail == "unasked_upgrade"


@pytest.mark.parametrize(
    ("answer", "detail"),
    [
        pytest.param(SWITCHING.replace(ACCEPT, KEY), "websocket_accept", id="another accept"),
        pytest.param(SWITCHING.replace(b"Accept", b"Except"), "websocket_accept", id="no accept"),
        pytest.param(SWITCHING.replace(b": WebSocket", b": h2c"), "websocket_upgrade", id="another protocol"),
        pytest.param(SWITCHING.replace(b": WebSocket", b": a, websocket"), "websocket_upgrade", id="two protocols"),
        pytest.param(SWITCHING.replace(b": Upgrade", b": keep-alive"), "websocket_connection", id="not said"),
        pytest.param(SWITCHING.replace(b"/1.1", b"/1.0"), "websocket_connection", id="HTTP/1.0"),
        pytest.param(
            SWITCHING.replace(b"Server: x", b"Content-Length: 9"), "websocket_framing", id="with a content-length"
        ),
    ],
)
def test_a_101_that_does_not_answer_the_handshake_is_no_tunnel(answer: bytes, detail: str) -> None:
    world = World().pool()
    world.request(handshake())
    said = world.respond(answer + text(b"hello", masked=False))
    assert said.startswith(b"HTTP/1.1 502 ")
    assert (world.last.status, world.last.detail) == (502, detail)
    assert world.wire.ended == "closed"
    assert world.released == [(world.upstream.connection, False)]


@pytest.mark.parametrize("cut", range(1, len(SWITCHING)))
def test_an_answer_in_two_pieces_opens_it_as_well(cut: int) -> None:
    world = World().pool()
    world.request(handshake())
    hello = text(b"hello", masked=False)
    whole = SWITCHING + hello
    assert (world.respond(whole[:cut]) + world.respond(whole[cut:])).endswith(b"\r\n\r\n" + hello)


def test_another_answer_is_an_answer_and_what_was_sent_behind_is_never_a_request() -> None:
    world = World().pool()
    sent = world.request(handshake() + b"GET /smuggled HTTP/1.1\r\nHost: www.example.com\r\n\r\n")
    assert sent.count(b"GET ") == 1
    answer = world.respond(OK)
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"\r\nconnection: close\r\n" in answer
    assert (world.wire.ended, world.upstream.wire.take()) == ("closed", b"")
    assert len(world.log) == 1


def test_what_was_sent_ahead_of_the_101_goes_into_the_tunnel_and_not_before() -> None:
    world = World().pool()
    ahead = text(b"early", masked=True)
    assert world.request(handshake() + ahead).endswith(b"\r\n\r\n")
    assert world.request(ahead) == b""
    world.respond(SWITCHING)
    assert world.upstream.wire.take() == ahead + ahead


def test_what_is_sent_ahead_is_bounded() -> None:
    world = World().pool()
    world.request(handshake() + b"x" * (limits.MAX_WAITING_BYTES + 1))
    assert not world.wire.reading
    world.respond(SWITCHING)
    assert world.wire.reading


def test_a_handshake_goes_to_a_fresh_connection_when_the_pooled_one_was_stale() -> None:
    world = World().pool()
    world.request(handshake())
    world.upstream.connection.end_of_input()
    assert world.opened == [("web", False), ("web", True)]
    world.connect()
    assert world.upstream.wire.take().count(b"upgrade: websocket") == 1
    assert world.respond(SWITCHING).startswith(b"HTTP/1.1 101 ")


# -- What passes -------------------------------------------------------------------------------------------------------


def test_bytes_pass_as_they_come_whatever_they_are() -> None:
    world = opened()
    for said in (b"\x81", b"\x85", b"abcdhello", b"\xff\xff nonsense"):
        assert world.request(said) == said
    for said in (b"\x82\x7e", b"\x01\x00" + bytes(255), b"\0", b"nonsense \xff\xff"):
        assert world.respond(said) == said


def test_who_takes_no_bytes_stops_the_other_and_nobody_else() -> None:
    world = opened()
    world.client.output_blocked()
    assert (world.upstream.wire.reading, world.wire.reading) == (False, True)
    world.client.output_drained()
    assert world.upstream.wire.reading
    world.upstream.connection.output_blocked()
    assert (world.upstream.wire.reading, world.wire.reading) == (True, False)
    world.upstream.connection.output_drained()
    assert world.wire.reading


def test_a_client_that_blocked_before_the_101_is_waited_for() -> None:
    world = World().pool()
    world.request(handshake())
    world.client.output_blocked()
    world.respond(SWITCHING)
    assert not world.upstream.wire.reading


@pytest.mark.parametrize("side", ["client", "server"])
def test_who_takes_no_bytes_for_too_long_is_cut(side: str) -> None:
    world = opened()
    (world.client if side == "client" else world.upstream.connection).output_blocked()
    world.time += limits.STREAM_IDLE_S - 1
    world.client.deadline_passed()
    assert world.log == []
    world.time += 1
    world.client.deadline_passed()
    assert (world.last.flags, world.last.detail) == ((Flag.STREAM_IDLE_TIMEOUT,), f"{side}_stalled")
    assert (world.wire.ended, world.upstream.wire.ended) == ("aborted", "aborted")


# -- Silence -----------------------------------------------------------------------------------------------------------


def quiet(world: World, seconds: float) -> bytes:
    """Nothing is heard for so long; gives what the client was sent."""
    until = world.time + seconds
    while world.time < until and world.wire.ended is None:
        assert world.wire.deadline is not None
        world.time = min(until, world.time + max(world.wire.deadline, 0.1))
        world.client.deadline_passed()
    return world.wire.take()


def test_silence_is_pinged_and_a_pong_goes_on_to_the_server() -> None:
    world = opened()
    assert quiet(world, limits.TUNNEL_PING_S - 1) == b""
    assert quiet(world, 1) == websocket.ping()
    pong = written(Opcode.PONG, b"", masked=True)
    assert world.request(pong) == pong
    assert quiet(world, limits.TUNNEL_PING_S - 1) == b""
    assert quiet(world, 1) == websocket.ping()
    assert world.counted.count("tunnel_pings") == 2


def test_pings_of_the_endpoints_own_make_ours_needless_and_keep_it_open() -> None:
    world = opened()
    for _ in range(300):
        assert quiet(world, 25) == b""
        world.respond(written(Opcode.PING, b"", masked=False))
    assert world.log == []


def test_no_ping_stands_within_a_frame_nor_where_there_are_none() -> None:
    world = opened()
    world.respond(text(b"hello", masked=False)[:-1])
    assert quiet(world, 3 * limits.TUNNEL_PING_S) == b""
    world.respond(b"o")
    assert quiet(world, limits.TUNNEL_PING_S) == websocket.ping()
    world.respond(b"\xff\xff")
    assert quiet(world, 3 * limits.TUNNEL_PING_S) == b""


def test_no_ping_follows_a_close_nor_meets_a_client_that_takes_nothing() -> None:
    world = opened()
    world.client.output_blocked()
    assert quiet(world, limits.STREAM_IDLE_S - 1) == b""
    world = opened()
    world.request(written(Opcode.CLOSE, b"", masked=True))
    assert quiet(world, 3 * limits.TUNNEL_PING_S) == b""


def test_a_tunnel_of_which_nothing_is_heard_is_closed_with_1001() -> None:
    world = opened()
    said = quiet(world, limits.TUNNEL_IDLE_S)
    assert said.replace(websocket.ping(), b"") == goodbye_frame(masked=False)
    assert world.log == [], "the other side's Close is awaited"
    quiet(world, 2 * limits.TUNNEL_CLOSE_S)
    assert (world.last.flags, world.last.detail) == ((Flag.STREAM_IDLE_TIMEOUT,), "tunnel_idle")


# -- Goodbyes ----------------------------------------------------------------------------------------------------------


def test_a_goodbye_is_1001_to_the_client_whose_answer_goes_on_to_the_server() -> None:
    world = opened()
    world.client.close_after_response()
    assert world.wire.take() == b"", "a turn in the spread is not the end of the grace"
    world.client.goodbye()
    world.client.goodbye()
    assert world.wire.take() == goodbye_frame(masked=False)
    late = text(b"on its way already", masked=True)
    answer = goodbye_frame(masked=True)
    assert world.request(late + answer) == late + answer
    assert world.respond(text(b"too late", masked=False) + goodbye_frame(masked=False)) == b""
    world.upstream.connection.end_of_input()
    assert (world.last.status, world.last.flags, world.last.detail) == (101, (), "goodbye")
    assert world.wire.ended == "closed"
    assert world.released == [(world.upstream.connection, False)]


@pytest.mark.parametrize("size", [0, 5, 300])
def test_a_goodbye_waits_for_the_end_of_the_frame(size: int) -> None:
    frame = written(Opcode.BINARY, bytes(size), masked=False)
    for cut in range(1, len(frame)):
        world = opened()
        world.respond(text(b"before", masked=False) + frame[:cut])
        world.client.goodbye()
        assert world.wire.take() == b""
        assert world.respond(frame[cut:] + text(b"after", masked=False)) == frame[cut:] + goodbye_frame(masked=False)


def test_a_client_that_does_not_answer_is_waited_for_and_then_the_server_is_told() -> None:
    world = opened()
    world.client.goodbye()
    world.wire.take()
    quiet(world, limits.TUNNEL_CLOSE_S)
    told = parsed(world.upstream.wire.take(), masked=True)
    assert (told.opcode, told.data) == (Opcode.CLOSE, GOING_AWAY.to_bytes(2))
    assert world.request(text(b"too late", masked=True)) == b"", "nothing follows a Close"
    assert world.log == []
    quiet(world, limits.TUNNEL_CLOSE_S)
    assert (world.wire.ended, world.last.detail) == ("closed", "goodbye")


def test_a_client_in_the_middle_of_a_frame_gets_no_words_put_into_its_mouth() -> None:
    world = opened()
    world.request(text(b"half", masked=True)[:-1])
    world.client.goodbye()
    quiet(world, limits.TUNNEL_CLOSE_S)
    assert world.upstream.wire.take() == b""
    assert world.wire.ended == "closed"


def test_a_goodbye_to_what_are_no_frames_is_an_end() -> None:
    world = opened()
    world.respond(b"\xff\xff")
    world.client.goodbye()
    assert (world.wire.take(), world.wire.ended, world.last.detail) == (b"", "closed", "goodbye")


def test_a_goodbye_behind_the_servers_close_adds_nothing() -> None:
    world = opened()
    world.respond(written(Opcode.CLOSE, b"\x03\xe8", masked=False))
    world.client.goodbye()
    assert world.wire.take() == b""
    quiet(world, 2 * limits.TUNNEL_CLOSE_S)
    assert world.wire.ended == "closed"


# -- Other ends --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("by_client", [True, False])
def test_a_closing_handshake_passes_and_the_server_ends_it(by_client: bool) -> None:
    world = opened()
    if by_client:
        world.request(written(Opcode.CLOSE, b"\x03\xe8", masked=True))
        world.respond(written(Opcode.CLOSE, b"\x03\xe8", masked=False))
    else:
        world.respond(written(Opcode.CLOSE, b"\x03\xe8", masked=False))
        world.request(written(Opcode.CLOSE, b"\x03\xe8", masked=True))
    assert world.log == []
    world.time += 2.5
    world.upstream.connection.end_of_input()
    assert (world.last.flags, world.last.detail) == ((), "closed_by_client" if by_client else "closed_by_server")
    assert (world.last.bytes_in, world.last.bytes_out, world.last.duration_s) == (8, 4, 2.5)
    assert (world.wire.ended, world.released) == ("closed", [(world.upstream.connection, False)])


def test_a_server_that_does_not_hang_up_is_waited_for_a_bounded_time() -> None:
    world = opened()
    world.request(written(Opcode.CLOSE, b"", masked=True))
    world.respond(written(Opcode.CLOSE, b"", masked=False))
    quiet(world, limits.TUNNEL_CLOSE_S)
    assert (world.last.detail, world.wire.ended) == ("closed_by_client", "closed")


def test_a_client_that_ends_behind_its_close_still_gets_the_servers() -> None:
    world = opened()
    world.request(written(Opcode.CLOSE, b"", masked=True))
    world.client.end_of_input()
    assert world.log == []
    close = written(Opcode.CLOSE, b"", masked=False)
    assert world.respond(close) == close
    world.upstream.connection.end_of_input()
    assert world.wire.ended == "closed"


def test_a_client_that_ends_without_a_close_has_left() -> None:
    world = opened()
    world.client.end_of_input()
    assert (world.last.flags, world.last.detail) == ((Flag.DOWNSTREAM_CONNECTION_TERMINATION,), "client_closed")
    assert (world.wire.ended, world.upstream.wire.ended) == ("closed", None)
    assert world.released == [(world.upstream.connection, False)]


def test_a_server_that_ends_without_a_close_has_left() -> None:
    world = opened()
    world.upstream.connection.end_of_input()
    assert world.last.flags == (Flag.UPSTREAM_CONNECTION_TERMINATION,)
    assert (world.last.detail, world.wire.ended) == ("upstream_closed_in_tunnel", "closed")


def test_resets_are_passed_on() -> None:
    world = opened()
    world.client.lost("connection_reset")
    assert (world.upstream.wire.ended, world.last.detail) == ("aborted", "connection_reset")
    world = opened()
    world.upstream.connection.lost("connection_reset")
    assert (world.wire.ended, world.last.detail) == ("aborted", "connection_reset")


def test_tunnels_are_counted() -> None:
    world = opened()
    world.upstream.connection.end_of_input()
    assert world.counted == [
        'tunnels_opened{protocol="HTTP/1.1"}',
        'tunnels_ended{reason="upstream_closed_in_tunnel"}',
    ]
