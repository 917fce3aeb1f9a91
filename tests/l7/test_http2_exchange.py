"""Playbooks of HTTP/2: what a client says, what servers get, what the client sees. The library h2 is the client."""

import pytest
from h2.settings import SettingCodes

from l7 import limits
from l7.protocol.http2 import frames
from l7.telemetry.flags import Flag
from tests.l7.http2_playbook import GET, HELLO, POST, Http2World, data, raw, request, reset_codes, split
from tests.l7.playbook import OK


def ready(*, holds: bool = False) -> Http2World:
    return Http2World(holds=holds).greet()


def test_a_request_becomes_one_to_a_server_and_its_answer_comes_back() -> None:
    world = ready()
    stream = world.ask([*GET, (b"cookie", b"a=b"), (b"accept", b"*/*"), (b"cookie", b"c=d"), (b"te", b"trailers")])
    assert world.got() == (
        b"GET /a?b=c HTTP/1.1\r\nhost: www.example.com\r\naccept: */*\r\ncookie: a=b; c=d\r\n"
        b"x-forwarded-for: 192.0.2.7\r\nx-forwarded-proto: https\r\nforwarded: for=192.0.2.7;proto=https\r\n"
        b"x-request-id: id-1\r\n"
        b"te: trailers\r\nconnection: te\r\nvia: 2 edgefleet\r\n\r\n"
    )
    world.answer(b"HTTP/1.1 200 OK\r\nServer: x\r\nConnection: close\r\nSet-Cookie: a=b\r\nContent-Length: 2\r\n\r\nok")
    seen = world.seen[stream]
    assert seen.headers == [(b":status", b"200"), (b"server", b"x"), (b"set-cookie", b"a=b"), (b"content-length", b"2")]
    assert (seen.body, seen.ended, seen.reset) == (b"ok", True, None)
    assert (world.last.status, world.last.protocol, world.last.bytes_out) == (200, "HTTP/2", 2)
    assert not world.server.streams, "freed at once"


def test_streams_are_balanced_each_and_answered_in_any_order() -> None:
    world = ready()
    first, second, third = world.ask(), world.ask(), world.ask()
    assert len(world.upstreams) == 3
    world.answer(OK, 2)
    world.answer(OK, 0)
    assert (world.seen[third].ended, world.seen[first].ended, second in world.seen) == (True, True, False)
    world.answer(OK, 1)
    assert world.seen[second].body == b"ok"


def test_a_body_of_unknown_length_is_chunked_upstream_and_trailers_pass_both_ways() -> None:
    world = ready()
    stream = world.ask(POST, end=False)
    world.upload(stream, b"abc")
    world.browser.send_headers(stream, [(b"x-sum", b"7"), (b"authorization", b"no")], end_stream=True)
    world.flush()
    sent = world.got()
    assert b"\r\ntransfer-encoding: chunked\r\n" in sent
    assert sent.endswith(b"\r\n\r\n3\r\nabc\r\n0\r\nx-sum: 7\r\n\r\n")
    world.answer(
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"2\r\nok\r\n0\r\nGrpc-Status: 0\r\nSet-Cookie: n=o\r\n\r\n"
    )
    seen = world.seen[stream]
    assert (seen.body, seen.trailers, seen.ended) == (b"ok", [(b"grpc-status", b"0")], True)


def test_a_stated_length_stays() -> None:
    world = ready()
    stream = world.ask([*POST, (b"content-length", b"5")], end=False)
    world.upload(stream, b"hello", end=True)
    assert world.got().endswith(b"\r\ncontent-length: 5\r\n\r\nhello")


@pytest.mark.parametrize(
    ("method", "response", "length"),
    [
        (b"HEAD", b"200 OK\r\nContent-Length: 77\r\n", b"77"),
        (b"GET", b"304 Not Modified\r\nContent-Length: 77\r\n", b"77"),
        (b"GET", b"204 No Content\r\n", None),
        (b"GET", b"200 OK\r\nContent-Length: 0\r\n", b"0"),
    ],
    ids=["HEAD", "304", "204", "empty"],
)
def test_a_response_without_body_ends_with_its_head(method: bytes, response: bytes, length: bytes | None) -> None:
    world, _ = raw(request(1, [(b":method", method), *GET[1:]]))
    world.upstreams[0].connection.receive(b"HTTP/1.1 " + response + b"\r\n")
    ((kind, flags, stream_id, _),) = split(world.wire.take())
    assert (kind, flags, stream_id) == (frames.HEADERS, frames.END_STREAM | frames.END_HEADERS, 1)
    world = ready()
    stream = world.ask([(b":method", method), *GET[1:]])
    world.answer(b"HTTP/1.1 " + response + b"\r\n")
    assert dict(world.seen[stream].headers).get(b"content-length") == length


def test_a_small_answer_is_two_frames_and_the_last_one_ends_it() -> None:
    world, _ = raw(request(1))
    world.upstreams[0].connection.receive(OK)
    sent = split(world.wire.take())
    assert [(kind, flags) for kind, flags, _, _ in sent] == [
        (frames.HEADERS, frames.END_HEADERS),
        (frames.DATA, frames.END_STREAM),
    ]


def test_interim_heads_and_100_continue() -> None:
    world = ready()
    stream = world.ask([*POST, (b"expect", b"100-continue")], end=False)
    assert world.seen[stream].interim == [[(b":status", b"100")]]
    world.answer(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n")
    assert world.seen[stream].interim[1] == [(b":status", b"103"), (b"link", b"</a>")]


def test_an_answer_that_comes_before_the_whole_request_ends_the_stream_without_an_error() -> None:
    world = ready()
    stream = world.ask(POST, end=False)
    world.answer(b"HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\nno")
    seen = world.seen[stream]
    assert (seen.status, seen.body, seen.ended, seen.reset) == (b"413", b"no", True, 0)
    # What was under way is ignored.
    world.server.receive(data(stream, b"late"))
    assert world.wire.ended is None


def test_a_request_and_its_own_reset_in_one_read_reach_nobody() -> None:
    cancel = frames.rst_stream(1, frames.ErrorCode.CANCEL)
    world, _ = raw(request(1) + request(3) + cancel)
    assert len(world.opened) == 1, "the other request of that read is served"
    assert world.counted == ["http2_requests_reset_unseen"]
    assert [stream.id for stream in world.server.streams] == [3]


def test_a_reset_drops_the_upstream_and_is_logged() -> None:
    world, _ = raw(request(1))
    world.server.receive(frames.rst_stream(1, frames.ErrorCode.CANCEL))
    assert world.released == [(world.upstreams[0].connection, False)]
    assert (world.last.status, world.last.flags, world.last.detail) == (
        0,
        (Flag.DOWNSTREAM_CONNECTION_TERMINATION,),
        "stream_reset",
    )
    assert not world.server.streams


def test_a_connection_that_breaks_in_a_read_begins_nothing_of_it_and_ends_what_it_had() -> None:
    world, _ = raw(request(1))
    world.server.receive(request(3) + data(9))
    assert len(world.opened) == 1
    assert world.wire.ended == "closed"
    assert world.last.detail == "stream_idle"
    world.server.receive(request(5))
    assert len(world.opened) == 1, "nothing after it is heard"


def test_a_server_that_dies_in_its_answer_resets_that_stream_only() -> None:
    world = ready()
    first, second = world.ask(), world.ask()
    world.answer(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhal", 0)
    world.upstreams[0].connection.end_of_input()
    world.answer(OK, 1)
    assert (world.seen[first].body, world.seen[first].reset) == (b"hal", frames.ErrorCode.INTERNAL_ERROR)
    assert world.seen[second].ended


def test_own_answers_end_the_stream_and_leave_the_connection() -> None:
    world = ready()
    stream = world.ask([*GET[:2], (b":authority", b"unknown.example"), GET[3]])
    assert (world.seen[stream].status, world.seen[stream].ended) == (b"404", True)
    assert (world.last.status, world.last.detail) == (404, "no_route")
    world.ask()
    assert len(world.opened) == 1


# -- Flow control ------------------------------------------------------------------------------------------------------


def test_a_stream_without_window_pauses_its_own_server_only() -> None:
    world = Http2World().greet(window=1000)
    slow, quick = world.ask(), world.ask()
    body = bytes(range(250)) * 200
    world.answer(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body[:-1], 0)
    assert world.seen[slow].body == body[:1000]
    assert not world.upstreams[0].wire.reading
    assert world.upstreams[1].wire.reading
    world.answer(OK, 1)
    assert world.seen[quick].ended
    while not world.seen[slow].ended:
        if world.upstreams[0].wire.reading and not world.log[1:]:
            world.answer(body[-1:], 0)
        world.browser.increment_flow_control_window(10_000, slow)
        world.browser.increment_flow_control_window(10_000)
        world.flush()
    assert world.seen[slow].body == body
    assert not world.server.streams


def test_streams_take_turns_when_the_connections_window_is_what_is_short() -> None:
    world = Http2World().greet(window=1 << 20)
    streams = [world.ask() for _ in range(3)]
    body = b"x" * 60_000
    for at in range(3):
        world.answer(b"HTTP/1.1 200 OK\r\nContent-Length: 60000\r\n\r\n" + body, at)
    assert sum(len(world.seen[each].body) for each in streams if each in world.seen) == 65535
    world.browser.increment_flow_control_window(3 * 16384)
    world.flush()
    gained = [len(world.seen[each].body) for each in streams[1:]]
    assert gained[0] >= 16384
    assert gained[1] >= 16384
    world.browser.increment_flow_control_window(1 << 20)
    world.flush()
    assert all(world.seen[each].body == body and world.seen[each].ended for each in streams)


def test_an_upload_fills_its_window_and_no_more_until_its_server_takes_it() -> None:
    world = ready(holds=True)
    stalled, other = world.ask(POST, end=False), world.ask(POST, end=False)
    for _ in range(4):
        world.upload(stalled, b"x" * 16383)
    assert world.browser.local_flow_control_window(stalled) < 16
    for _ in range(40):
        if not world.waiting or world.browser.local_flow_control_window(other) < 16384:
            break
        world.upload(other, b"y" * 16384)
    assert world.server.streams[0].paused
    first = world.connect_next()
    world.look()
    assert world.browser.local_flow_control_window(stalled) > 60_000, "given back when it was taken"
    assert first.wire.take().count(b"x" * 16383) == 4


def test_uploads_that_flow_are_never_stopped_by_windows() -> None:
    world = ready()
    stream = world.ask(POST, end=False)
    for _ in range(300):
        world.upload(stream, b"x" * 16384)
    world.upload(stream, b"", end=True)
    assert world.got().count(b"x" * 16384) == 300


def test_a_stalled_upload_does_not_stall_its_neighbours() -> None:
    world = ready(holds=True)
    stalled = [world.ask(POST, end=False) for _ in range(15)]
    for stream in stalled:
        for _ in range(4):
            world.upload(stream, b"x" * 16383)
    world.holds = False
    free = world.ask(POST, end=False)
    for _ in range(100):
        world.upload(free, b"y" * 16384)
    assert world.got().count(b"y") == 100 * 16384


def test_while_the_socket_is_full_servers_pause_and_the_client_is_not_read() -> None:
    world = ready()
    stream = world.ask()
    world.answer(b"HTTP/1.1 200 OK\r\nContent-Length: 40\r\n\r\n" + b"x" * 10)
    world.server.output_blocked()
    assert not world.wire.reading
    assert not world.upstreams[0].wire.reading
    world.answer(b"x" * 30)
    assert world.seen[stream].body == b"x" * 10
    world.server.output_drained()
    world.look()
    assert world.wire.reading
    assert (world.seen[stream].body, world.seen[stream].ended) == (b"x" * 40, True)


# -- Deadlines and goodbyes --------------------------------------------------------------------------------------------


def pass_time(world: Http2World, seconds: float) -> None:
    """As the shell's wheel does: the codec hears of the deadline that it asked for last."""
    world.time += seconds
    world.server.deadline_passed()


def test_each_stream_has_its_own_deadline() -> None:
    world = ready()
    first = world.ask()
    assert world.wire.deadline == 7
    pass_time(world, 3)
    second = world.ask()
    pass_time(world, 4)
    world.look()
    assert world.seen[first].status == b"504"
    assert second not in world.seen
    assert world.wire.deadline == 3
    pass_time(world, 3)
    world.look()
    assert world.seen[second].status == b"504"


def test_an_idle_connection_is_told_and_closed() -> None:
    world = ready()
    world.ask()
    world.answer(OK)
    pass_time(world, limits.CLIENT_IDLE_S - 1)
    assert world.wire.ended is None
    pass_time(world, 1)
    assert world.wire.ended == "closed"
    assert split(world.wire.take())[-1][0] == frames.GOAWAY


def test_pings_keep_no_idle_connection_open() -> None:
    world = ready()
    for _ in range(4):
        world.browser.ping(b"12345678")
        world.flush()
        pass_time(world, limits.CLIENT_IDLE_S / 4)
    assert world.pongs == 4
    assert world.wire.ended == "closed"


@pytest.mark.parametrize("sent", [b"PRI * HTTP", HELLO + request(1)[:12], HELLO + frames.frame(1, 1, 1, b"\x82")])
def test_a_head_that_trickles_is_given_the_time_of_a_head(sent: bytes) -> None:
    world = Http2World()
    world.server.receive(sent)
    assert world.wire.deadline == limits.REQUEST_HEAD_S
    pass_time(world, limits.REQUEST_HEAD_S)
    assert world.wire.ended == "closed"
    assert any("request_head_timeout" in each for each in world.counted)


def test_a_rest_that_nobody_takes_is_reset_after_its_time_however_it_drips() -> None:
    world = Http2World().greet(window=100)
    stream = world.ask()
    world.answer(b"HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n" + b"x" * 5000)
    for _ in range(6):
        world.browser.increment_flow_control_window(10, stream)
        world.flush()
        pass_time(world, limits.STREAM_IDLE_S / 6)
    world.look()
    assert world.seen[stream].reset == frames.ErrorCode.CANCEL
    assert "http2_streams_stalled" in world.counted


def test_a_goodbye_refuses_nothing_at_first_and_lets_streams_end() -> None:
    world, _ = raw(request(1))
    world.server.close_after_response()
    assert split(world.wire.take()) == [(frames.GOAWAY, 0, 0, (2**31 - 1).to_bytes(4) + bytes(4))]
    world.server.receive(request(3))
    assert len(world.opened) == 2, "a request that was under way is served"
    pass_time(world, limits.H2_GOAWAY_GRACE_S)
    assert split(world.wire.take()) == [(frames.GOAWAY, 0, 0, (3).to_bytes(4) + bytes(4))]
    world.server.receive(request(5))
    assert reset_codes(split(world.wire.take())) == {5: frames.ErrorCode.REFUSED_STREAM}
    assert world.wire.ended is None
    for upstream in world.upstreams:
        upstream.connection.receive(OK)
    assert [kind for kind, *_ in split(world.wire.take())] == [frames.HEADERS, frames.DATA] * 2
    assert world.wire.ended == "closed"


def test_an_idle_client_is_let_go_after_the_grace() -> None:
    world, _ = raw(b"")
    world.server.close_after_response()
    pass_time(world, limits.H2_GOAWAY_GRACE_S)
    assert [kind for kind, *_ in split(world.wire.take())] == [frames.GOAWAY, frames.GOAWAY]
    assert world.wire.ended == "closed"


def test_a_withdrawn_goodbye_goes_no_further() -> None:
    world, _ = raw(request(1))
    world.server.close_after_response()
    world.server.stay()
    pass_time(world, limits.H2_GOAWAY_GRACE_S)
    assert [kind for kind, *_ in split(world.wire.take())] == [frames.GOAWAY]
    world.upstreams[0].connection.receive(OK)
    assert world.wire.ended is None


def test_a_client_that_says_goodbye_gets_its_answers() -> None:
    world, _ = raw(request(1))
    world.server.receive(frames.goaway(0, frames.ErrorCode.NO_ERROR))
    world.upstreams[0].connection.receive(OK)
    assert [kind for kind, *_ in split(world.wire.take())] == [frames.HEADERS, frames.DATA]


def test_a_client_that_is_gone_ends_its_requests() -> None:
    world, _ = raw(request(1) + request(3))
    world.server.end_of_input()
    assert world.wire.ended == "aborted"
    assert [record.detail for record in world.log] == ["client_closed"] * 2
    assert len(world.released) == 2


@pytest.mark.parametrize("size", [0, 100, 4096, 65536])
def test_a_client_may_want_another_table_for_header_fields(size: int) -> None:
    world = Http2World()
    world.browser.local_settings[SettingCodes.HEADER_TABLE_SIZE] = size
    world.browser.local_settings.acknowledge()
    world.browser.decoder.max_allowed_table_size = size
    world.greet()
    for _ in range(3):
        stream_id = world.ask()
        world.answer(OK)
        assert world.seen[stream_id].status == b"200"
