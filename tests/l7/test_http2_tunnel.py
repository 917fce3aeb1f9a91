"""WebSockets over HTTP/2 (RFC 8441), byte by byte: a stream here, an upgraded connection of HTTP/1.1 there."""

import pytest
from websockets.frames import Opcode

from l7 import limits
from l7.protocol import websocket
from l7.protocol.http2 import frames
from l7.protocol.http2.frames import ErrorCode
from l7.telemetry.flags import Flag
from tests.l7.http2_playbook import GET, Http2World, data, split
from tests.l7.playbook import OK
from tests.l7.test_http2_rules import CONNECT
from tests.l7.test_tunnel import ACCEPT, SWITCHING, goodbye_frame, text
from tests.l7.test_websocket_frames import written


def switching(request: bytes) -> bytes:
    """The right answer to a handshake."""
    key = request.partition(b"\r\nsec-websocket-key: ")[2].partition(b"\r\n")[0]
    return SWITCHING.replace(ACCEPT, websocket.accept_of(key))


def opened(*, window: int = 65535) -> tuple[Http2World, int]:
    """A tunnel, on this stream."""
    world = Http2World().greet(window)
    stream_id = world.ask(CONNECT, end=False)
    world.answer(switching(world.got()))
    assert world.seen[stream_id].status == b"200"
    return world, stream_id


def test_a_stream_becomes_a_handshake_with_a_key_of_our_own() -> None:
    world = Http2World().greet()
    stream_id = world.ask([*CONNECT, (b"sec-websocket-protocol", b"chat"), (b"te", b"trailers")], end=False)
    got = world.got()
    key = websocket.key_of("id-1")
    assert got == (
        b"GET /a?b=c HTTP/1.1\r\nhost: www.example.com\r\n"
        b"sec-websocket-version: 13\r\nsec-websocket-protocol: chat\r\nsec-websocket-key: " + key + b"\r\n"
        b"x-forwarded-for: 192.0.2.7\r\nx-forwarded-proto: https\r\nforwarded: for=192.0.2.7;proto=https\r\n"
        b"x-request-id: id-1\r\nconnection: upgrade\r\nupgrade: websocket\r\nvia: 2 edgefleet\r\n\r\n"
    )
    hello = text(b"hello", masked=False)
    world.answer(switching(got) + hello)
    assert world.seen[stream_id].headers == [(b":status", b"200"), (b"server", b"x")]
    assert (world.seen[stream_id].body, world.seen[stream_id].ended) == (hello, False)
    assert world.counted == ['tunnels_opened{protocol="HTTP/2"}']


def test_the_setting_says_that_it_is_understood() -> None:
    world = Http2World().greet()
    assert world.browser.remote_settings.enable_connect_protocol == 1


def test_a_wrong_answer_to_our_key_is_no_tunnel() -> None:
    world = Http2World().greet()
    stream_id = world.ask(CONNECT, end=False)
    world.answer(SWITCHING)
    assert (world.seen[stream_id].status, world.last.detail) == (b"502", "websocket_accept")


def test_what_is_sent_ahead_waits_for_the_101() -> None:
    world = Http2World().greet()
    stream_id = world.ask(CONNECT, end=False)
    got = world.got()
    early = text(b"early", masked=True)
    world.upload(stream_id, early)
    assert world.got() == b""
    world.answer(switching(got))
    assert world.got() == early
    world.upload(stream_id, early)
    assert world.got() == early


def test_without_a_tunnel_it_is_thrown_away() -> None:
    world = Http2World().greet()
    stream_id = world.ask(CONNECT, end=False)
    world.got()
    world.upload(stream_id, b"GET /smuggled HTTP/1.1\r\nHost: www.example.com\r\n\r\n")
    world.answer(OK)
    assert (world.seen[stream_id].status, world.seen[stream_id].body) == (b"200", b"ok")
    assert (world.seen[stream_id].ended, world.seen[stream_id].reset) == (True, ErrorCode.NO_ERROR)
    assert (world.got(), world.server.streams) == (b"", [])
    assert world.server.held_bytes == 0


def test_a_stream_that_ends_before_the_101_is_refused() -> None:
    world = Http2World().greet()
    stream_id = world.ask(CONNECT, end=True)
    assert (world.seen[stream_id].status, world.last.detail) == (b"400", "websocket_ended")
    stream_id = world.ask(CONNECT, end=False)
    world.upload(stream_id, b"", end=True)
    assert (world.seen[stream_id].status, world.last.detail) == (b"400", "websocket_ended")
    assert world.released == [(world.upstreams[-1].connection, False)]


def test_windows_hold_both_ways() -> None:
    world, stream_id = opened(window=1000)
    frame = written(Opcode.BINARY, bytes(50_000), masked=False)
    world.answer(frame)
    assert len(world.seen[stream_id].body) == 1000
    assert not world.upstreams[-1].wire.reading
    while len(world.seen[stream_id].body) < len(frame):
        world.browser.acknowledge_received_data(1000, stream_id)
        world.flush()
    assert world.seen[stream_id].body == frame
    assert world.upstreams[-1].wire.reading
    # The other way: a server that takes nothing, and then something.
    world.upstreams[-1].connection.output_blocked()
    for _ in range(4):
        world.upload(stream_id, bytes(16_000))
    before = world.browser.local_flow_control_window(stream_id)
    assert before < 16_384
    world.upstreams[-1].connection.output_drained()
    world.look()
    assert world.browser.local_flow_control_window(stream_id) > before


def test_the_servers_end_is_the_streams() -> None:
    world, stream_id = opened()
    world.upload(stream_id, written(Opcode.CLOSE, b"\x03\xe8", masked=True))
    world.answer(written(Opcode.CLOSE, b"\x03\xe8", masked=False))
    world.upstreams[-1].connection.end_of_input()
    world.look()
    assert (world.seen[stream_id].ended, world.server.streams) == (True, [])
    assert (world.last.status, world.last.flags, world.last.detail) == (101, (), "closed_by_client")
    assert (world.last.method, world.last.protocol, world.last.bytes_in) == (b"GET", "HTTP/2", 8)


def test_the_clients_end_behind_its_close_waits_for_the_server() -> None:
    world, stream_id = opened()
    world.upload(stream_id, written(Opcode.CLOSE, b"", masked=True), end=True)
    assert world.log == []
    close = written(Opcode.CLOSE, b"", masked=False)
    world.answer(close)
    world.upstreams[-1].connection.end_of_input()
    world.look()
    assert (world.seen[stream_id].body, world.seen[stream_id].ended) == (close, True)
    assert world.seen[stream_id].reset is None


def test_the_clients_end_without_a_close_ends_it() -> None:
    world, stream_id = opened()
    world.upload(stream_id, b"", end=True)
    assert (world.seen[stream_id].ended, world.last.detail) == (True, "client_closed")
    assert world.released == [(world.upstreams[-1].connection, False)]


def test_resets_are_resets_both_ways() -> None:
    world, stream_id = opened()
    world.browser.reset_stream(stream_id, ErrorCode.CANCEL)
    world.flush()
    assert (world.upstreams[-1].wire.ended, world.last.detail) == ("aborted", "stream_reset")
    assert world.last.flags == (Flag.DOWNSTREAM_CONNECTION_TERMINATION,)
    world, stream_id = opened()
    world.upstreams[-1].connection.lost("connection_reset")
    world.look()
    assert world.seen[stream_id].reset == ErrorCode.CANCEL
    assert not any("flood" in name for name in world.counted)


def test_a_goodbye_closes_tunnels_and_lets_other_streams_end() -> None:
    world, first = opened()
    second = world.ask(CONNECT, end=False)
    world.answer(switching(world.got()))
    third = world.ask(GET)
    world.server.goodbye()
    world.look()
    for at, stream_id in enumerate((first, second)):
        assert world.seen[stream_id].body == goodbye_frame(masked=False)
        world.got(at)
        answer = goodbye_frame(masked=True)
        world.upload(stream_id, answer)
        assert world.got(at) == answer
        world.upstreams[at].connection.end_of_input()
        world.look()
        assert world.seen[stream_id].ended
    assert [record.detail for record in world.log] == ["goodbye", "goodbye"]
    world.answer(OK, 2)
    assert world.seen[third].body == b"ok"


def test_a_connection_that_was_asked_to_leave_closes_behind_its_last_tunnel() -> None:
    world, stream_id = opened()
    world.server.close_after_response()
    world.time += limits.H2_GOAWAY_GRACE_S
    world.server.deadline_passed()
    assert {kind for kind, *_ in split(world.wire.take())} == {frames.GOAWAY}, "a tunnel goes on behind them"
    world.server.goodbye()
    assert split(world.wire.take()) == [(frames.DATA, 0, stream_id, goodbye_frame(masked=False))]
    world.server.receive(data(stream_id, goodbye_frame(masked=True), end=True))
    assert world.wire.ended is None
    world.upstreams[-1].connection.end_of_input()
    assert split(world.wire.take()) == [(frames.DATA, frames.END_STREAM, stream_id, b"")]
    assert world.wire.ended == "closed"


def test_silence_is_pinged_on_the_stream() -> None:
    world, stream_id = opened()
    world.time += limits.TUNNEL_PING_S
    world.server.deadline_passed()
    world.look()
    assert world.seen[stream_id].body == websocket.ping()


@pytest.mark.parametrize("end", ["reset", "lost"])
def test_nothing_is_left_of_it(end: str) -> None:
    world, stream_id = opened()
    world.upload(stream_id, text(b"hello", masked=True))
    if end == "reset":
        world.browser.reset_stream(stream_id)
        world.flush()
    else:
        world.server.lost("connection_reset")
    assert (world.server.streams, world.server.held_bytes, len(world.log)) == ([], 0, 1)
