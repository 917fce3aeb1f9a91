"""HTTP/2 to servers, without sockets: what leaves for what a client says, and what a client gets for what comes."""

from collections.abc import Callable
from itertools import pairwise

import hpack
import pytest
from h2.settings import SettingCodes
from hypothesis import given, settings
from hypothesis import strategies as st

from l7 import limits
from l7.protocol.http2 import frames
from l7.protocol.http2.frames import CONTINUATION, END_HEADERS, END_STREAM, HEADERS, PING, ErrorCode, frame
from l7.protocol.message import Headers
from tests.l7.http2_playbook import block, data, goaway_code, reset_codes, split
from tests.l7.http2_upstream_playbook import CHUNKED, GET, HELLO, POST, SharedWorld
from tests.l7.playbook import Wire

OK: Headers = [(b":status", b"200")]
WINDOW = limits.H2_STREAM_WINDOW_BYTES


def response(stream_id: int, fields: Headers = OK, *, end: bool = False) -> bytes:
    """One HEADERS frame of a server."""
    return frames.headers(stream_id, block(fields), end_stream=end)


def asked(*requests: bytes) -> SharedWorld:
    """A connection on which these requests were sent, each by a client of its own; judged by nobody from here on."""
    world = SharedWorld()
    world.clients = [world.browser(each) for each in requests]  # type: ignore[attr-defined]
    return world


def client_got(world: SharedWorld, at: int = 0) -> bytes:
    wire: Wire = world.clients[at].wire  # type: ignore[attr-defined]
    return wire.take()


# -- Requests ----------------------------------------------------------------------------------------------------------


def test_nothing_leaves_before_the_servers_settings() -> None:
    world = SharedWorld(greeted=False)
    assert not world.shared.is_ready
    world.receive(HELLO)
    assert world.shared.is_ready
    assert world.shared.has_room


def test_a_request_goes_out_with_its_pseudo_fields_and_what_the_edge_says() -> None:
    world = SharedWorld()
    world.browser(GET[:-2] + b"Accept: */*\r\nTE: trailers\r\n\r\n")
    got = world.got[1]
    assert got.headers[:4] == [
        (b":method", b"GET"),
        (b":scheme", b"http"),
        (b":authority", b"www.example.com"),
        (b":path", b"/a?b=c"),
    ]
    assert got[b"accept"] == b"*/*"
    assert got[b"via"] == b"1.1 edgefleet"
    assert got[b"x-forwarded-for"] == b"192.0.2.7"
    assert got[b"x-request-id"] == b"id-1"
    assert got[b"te"] == b"trailers"
    assert got.ended


def test_a_body_goes_out_with_its_length_and_its_end() -> None:
    world = SharedWorld()
    world.browser(POST % 5 + b"hel").send(b"lo")
    world.flush()
    assert (world.got[1].body, world.got[1].ended) == (b"hello", True)
    assert world.got[1][b"content-length"] == b"5"
    world.browser(POST % 0)
    assert world.got[3][b"content-length"] == b"0"
    assert world.got[3].ended


def test_a_body_of_unknown_length_and_its_trailers_go_out() -> None:
    world = SharedWorld()
    world.browser(CHUNKED + b"3\r\nabc\r\n").send(b"0\r\nX-Sum: 7\r\n\r\n")
    world.flush()
    got = world.got[1]
    assert (got.body, got.trailers, got.ended) == (b"abc", [(b"x-sum", b"7")], True)
    assert b"content-length" not in got


def test_requests_of_many_clients_share_the_connection_and_are_answered_in_any_order() -> None:
    world = SharedWorld()
    clients = [world.browser(GET) for _ in range(3)]
    world.answer(5, b"third")
    world.answer(1, b"first")
    assert clients[2].take().endswith(b"third\r\n0\r\n\r\n")
    assert clients[0].take().endswith(b"first\r\n0\r\n\r\n")
    assert clients[1].take() == b""
    assert world.shared.open_streams == 1


# -- Responses ---------------------------------------------------------------------------------------------------------


def test_heads_interim_ones_bodies_and_trailers_reach_the_client() -> None:
    world = SharedWorld()
    client = world.browser(GET[:-2] + b"TE: trailers\r\n\r\n")
    world.server.send_headers(1, [(b":status", b"103"), (b"link", b"</a.css>")])
    world.server.send_headers(1, [(b":status", b"200"), (b"server", b"x")])
    world.server.send_data(1, b"body")
    world.server.send_headers(1, [(b"x-sum", b"7")], end_stream=True)
    world.flush()
    got = client.take()
    assert got.startswith(b"HTTP/1.1 103 Early Hints\r\nlink: </a.css>\r\n\r\nHTTP/1.1 200 OK\r\nserver: x\r\n")
    assert got.endswith(b"4\r\nbody\r\n0\r\nx-sum: 7\r\n\r\n")
    assert world.last.status == 200
    assert world.shared.open_streams == 0


@pytest.mark.parametrize(
    ("request_line", "fields", "expected"),
    [
        (b"GET", [(b":status", b"204")], b"HTTP/1.1 204 No Content\r\n\r\n"),
        (b"GET", [(b":status", b"304"), (b"content-length", b"9")], b"HTTP/1.1 304 Not Modified\r\ncontent-length: 9"),
        (b"HEAD", [(b":status", b"200"), (b"content-length", b"9")], b"HTTP/1.1 200 OK\r\ncontent-length: 9"),
        (b"GET", [(b":status", b"200")], b"HTTP/1.1 200 OK\r\ncontent-length: 0"),
    ],
)
def test_a_response_without_a_body_ends_with_its_head(request_line: bytes, fields: Headers, expected: bytes) -> None:
    world = asked(GET.replace(b"GET", request_line))
    world.receive(response(1, fields, end=True))
    assert client_got(world).startswith(expected)
    assert world.last.flags == ()


def test_an_answer_before_the_end_of_its_request_ends_the_stream() -> None:
    world = SharedWorld()
    client = world.browser(POST % 9 + b"half")
    world.answer(1, b"no")
    assert client.take().startswith(b"HTTP/1.1 200 OK\r\nconnection") or client.wire.ended == "closed"
    assert world.got[1].reset == ErrorCode.CANCEL
    assert world.shared.open_streams == 0


MALFORMED: dict[str, Callable[[], bytes]] = {
    "status_missing": lambda: response(1, [(b"server", b"x")]),
    "status": lambda: response(1, [(b":status", b"20")]),
    "unasked_upgrade": lambda: response(1, [(b":status", b"101")]),
    "pseudo_header": lambda: response(1, [*OK, (b":path", b"/")]),
    "header_name": lambda: response(1, [*OK, (b"Server", b"x")]),
    "header_value": lambda: response(1, [*OK, (b"server", b"a\nb")]),
    "connection_field": lambda: response(1, [*OK, (b"transfer-encoding", b"chunked")]),
    "content_length": lambda: response(1, [*OK, (b"content-length", b"+1")]),
    "content_length_duplicate": lambda: response(1, [*OK, (b"content-length", b"1"), (b"content-length", b"1")]),
    "too_many_headers": lambda: response(1, [*OK, *[(b"a", b"b")] * 102]),
    "interim_response_ends": lambda: response(1, [(b":status", b"103")], end=True),
    "too_many_interim_responses": lambda: response(1, [(b":status", b"103")]) * 17,
    "data_before_head": lambda: data(1, b"x"),
    "stream_window": lambda: response(1) + data(1, bytes(16384)) * 4 + data(1, b"x"),
    "content_length_mismatch": lambda: response(1, [*OK, (b"content-length", b"5")], end=True),
}


@pytest.mark.parametrize("reason", MALFORMED)
def test_a_malformed_response_ends_its_own_stream(reason: str) -> None:
    world = asked(GET, GET)
    if reason == "stream_window":
        # What was received is not consumed: nothing was given back.
        world.clients[0].codec.output_blocked()  # type: ignore[attr-defined]
    world.receive(MALFORMED[reason]())
    assert (world.last.detail, world.last.flags) == (reason, ("UPE",))
    assert world.shared.open_streams == 1
    if not MALFORMED[reason]()[4] & END_STREAM:
        # Both sides had not ended the stream.
        assert 1 in reset_codes(split(world.shared_wire.take()))
    world.receive(response(3, end=True))
    assert client_got(world, 1).startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize(
    "behind",
    [
        data(1, b"123456"),
        data(1, b"1234", end=True),
        data(1, b"12345") + response(1, [(b"x", b"y")]),
        data(1, b"12345") + response(1, [(b"content-length", b"5")], end=True),
    ],
)
def test_a_body_that_breaks_a_rule_is_cut_visibly(behind: bytes) -> None:
    world = asked(GET)
    world.receive(response(1, [*OK, (b"content-length", b"5")]) + behind)
    assert world.clients[0].wire.ended == "aborted"  # type: ignore[attr-defined]
    assert world.last.flags == ("UPE",)
    assert world.shared.open_streams == 0


# -- Flow control ------------------------------------------------------------------------------------------------------


def test_a_slow_client_pauses_its_own_stream_and_no_other() -> None:
    world = asked(GET, GET)
    slow = world.clients[0]  # type: ignore[attr-defined]
    world.receive(response(1) + response(3))
    slow.codec.output_blocked()
    world.shared_wire.take()
    # The slow one's window is used up and not given back; the other one's goes on and on.
    world.receive(data(1, bytes(16384)) * 4)
    for _ in range(200):
        world.receive(data(3, bytes(16384)))
    given = {at for kind, _, at, _ in split(world.shared_wire.take()) if kind == frames.WINDOW_UPDATE}
    assert given == {0, 3}
    slow.codec.output_drained()
    assert [at for kind, _, at, _ in split(world.shared_wire.take()) if kind == frames.WINDOW_UPDATE] == [1]


def test_any_number_of_slow_clients_leaves_the_connection_open_to_others() -> None:
    world = asked(*[GET] * 50)
    for at in range(49):
        world.receive(response(1 + 2 * at))
        world.clients[at].codec.output_blocked()  # type: ignore[attr-defined]
        world.receive(data(1 + 2 * at, bytes(16384)) * 4)
    world.shared_wire.take()
    world.receive(response(99))
    for _ in range(200):
        world.receive(data(99, bytes(16384)))
    assert len(client_got(world, 49)) > 200 * 16384


def test_a_server_that_takes_nothing_pauses_its_own_client() -> None:
    world = SharedWorld(settings={SettingCodes.INITIAL_WINDOW_SIZE: 1000})
    stuck, other = world.browser(POST % 100_000), world.browser(POST % 5)
    stuck.send(bytes(50_000))
    world.flush()
    assert not stuck.wire.reading
    assert len(world.got[1].body) == 1000
    other.send(b"hello")
    world.flush()
    assert (other.wire.reading, world.got[3].body) == (True, b"hello")
    world.server.increment_flow_control_window(200_000, 1)
    world.server.increment_flow_control_window(200_000)
    world.flush()
    assert stuck.wire.reading
    assert len(world.got[1].body) == 50_000


def test_a_full_socket_pauses_those_that_still_send() -> None:
    world = SharedWorld()
    sending, waiting = world.browser(POST % 100), world.browser(GET)
    world.shared.output_blocked()
    assert (sending.wire.reading, waiting.wire.reading) == (False, True)
    world.shared.output_drained()
    assert sending.wire.reading


# -- Ends --------------------------------------------------------------------------------------------------------------


def test_a_client_that_leaves_cancels_its_stream() -> None:
    world = SharedWorld()
    client = world.browser(GET)
    client.codec.lost("connection_reset")
    world.flush()
    assert world.got[1].reset == ErrorCode.CANCEL
    assert world.shared.has_room


@pytest.mark.parametrize("method", [b"GET", b"DELETE", b"POST"])
def test_a_refused_stream_is_tried_again_whatever_it_asks_for(method: bytes) -> None:
    world = asked(GET.replace(b"GET", method), GET)
    world.receive(frames.rst_stream(1, ErrorCode.REFUSED_STREAM))
    assert world.opened == [("web", False), ("web", False), ("web", True)]
    assert not world.shared.has_room
    world.receive(response(3, end=True))
    assert world.shared.has_room


def test_a_server_that_refuses_everything_is_left() -> None:
    world = asked(GET)
    world.receive(frames.rst_stream(1, ErrorCode.REFUSED_STREAM))
    assert world.shared_wire.ended == "closed"


@pytest.mark.parametrize(("method", "again"), [(b"GET", True), (b"POST", False)])
def test_a_stream_that_is_reset_unanswered_is_tried_again_if_it_may_be_processed_twice(
    method: bytes, again: bool
) -> None:
    world = asked(GET.replace(b"GET", method))
    world.receive(frames.rst_stream(1, ErrorCode.INTERNAL_ERROR))
    assert (len(world.opened) == 2) == again
    if not again:
        assert world.last.detail == "stream_reset_internal_error"
        assert client_got(world).startswith(b"HTTP/1.1 502 ")


def test_a_response_that_is_reset_is_cut() -> None:
    world = asked(GET)
    world.receive(response(1) + data(1, b"half") + frames.rst_stream(1, ErrorCode.INTERNAL_ERROR))
    assert world.clients[0].wire.ended == "aborted"  # type: ignore[attr-defined]
    assert world.last.flags == ("UC",)


def test_after_a_goaway_what_the_server_will_not_process_goes_elsewhere_and_the_rest_ends_here() -> None:
    post = GET.replace(b"GET", b"POST")
    world = asked(post, post, post)
    world.receive(frames.goaway(3, ErrorCode.NO_ERROR))
    assert world.opened.count(("web", True)) == 1
    assert not world.shared.has_room
    world.receive(response(1, end=True) + response(3, end=True))
    assert client_got(world, 1).startswith(b"HTTP/1.1 200 ")
    assert world.shared_wire.ended == "closed"


def test_a_goodbye_in_two_steps_ends_nothing_that_is_under_way() -> None:
    world = asked(GET, GET)
    world.receive(frames.goaway(frames.MAX_31_BITS, ErrorCode.NO_ERROR) + frames.goaway(3, ErrorCode.NO_ERROR))
    assert world.waiting == []
    world.receive(response(1, end=True) + response(3, end=True))
    assert [record.status for record in world.log] == [200, 200]


def test_what_a_lost_connection_leaves_unanswered_is_tried_again_once() -> None:
    world = asked(GET, GET.replace(b"GET", b"POST"))
    world.shared.lost("connection_reset")
    assert world.opened.count(("web", True)) == 1
    assert client_got(world, 1).startswith(b"HTTP/1.1 502 ")


def test_no_more_streams_are_begun_than_the_server_takes() -> None:
    world = SharedWorld(settings={SettingCodes.MAX_CONCURRENT_STREAMS: 2})
    for _ in range(3):
        world.browser(GET)
    assert world.shared.open_streams == 2
    assert len(world.waiting) == 1
    world.answer(1)
    assert world.shared.has_room


def test_no_more_streams_are_begun_than_the_edge_wants() -> None:
    world = asked(*[GET] * (limits.H2_MAX_CONCURRENT_STREAMS + 1))
    assert world.shared.open_streams == limits.H2_MAX_CONCURRENT_STREAMS


def test_an_idle_connection_is_closed_after_its_time() -> None:
    world = SharedWorld()
    world.browser(GET)
    assert world.shared_wire.deadline is None
    world.answer(1)
    assert world.shared_wire.deadline == limits.H2_UPSTREAM_IDLE_S
    world.shared.deadline_passed()
    assert goaway_code(split(world.shared_wire.take())) is ErrorCode.NO_ERROR
    assert world.shared_wire.ended == "closed"


def test_a_frame_that_does_not_end_ends_the_connection() -> None:
    world = asked(GET)
    world.receive(response(1)[:9])
    assert world.shared_wire.deadline == limits.REQUEST_HEAD_S
    world.shared.deadline_passed()
    assert world.shared_wire.ended == "closed"
    assert world.counted == [
        'upstream_http2_connection_errors{reason="response_frame_timeout"}',
        "retries_stale_connection",
    ]


@pytest.mark.parametrize("size", [0, 100, 4096, 65536])
def test_a_server_may_want_another_table_for_header_fields(size: int) -> None:
    world = SharedWorld(settings={SettingCodes.HEADER_TABLE_SIZE: size})
    world.server.decoder.max_allowed_table_size = size
    for at in range(3):
        client = world.browser(CHUNKED + b"1\r\na\r\n0\r\nX-Sum: 7\r\n\r\n")
        assert world.got[1 + 2 * at].trailers == [(b"x-sum", b"7")]
        world.answer(1 + 2 * at)
        assert client.take().startswith(b"HTTP/1.1 200 ")


# -- Hostile servers ---------------------------------------------------------------------------------------------------


def bomb() -> bytes:
    """A block that puts a long field into the table and names it again and again."""
    first = bytes(hpack.Encoder().encode([(b"x-long", b"y" * 4000)], huffman=False))
    return block(OK) + first + b"\xbe" * 2000


HOSTILE = {
    "flood_ping": (frame(PING, 0, 0, bytes(8)), 1000),
    "flood_settings": (frames.settings({}), 1000),
    "flood_unknown": (frame(200, 0, 0, b""), 1000),
    "flood_goaway": (frames.goaway(frames.MAX_31_BITS, ErrorCode.NO_ERROR), 1000),
    "flood_window_update": (frames.window_update(0, 1), 60),
    "flood_empty": (data(1), 300),
    "flood_continuation": (frame(HEADERS, 0, 1, b"\x88") + frame(CONTINUATION, 0, 1, b"\x88") * 20, 1),
    "flood_hpack": (frame(HEADERS, END_STREAM | END_HEADERS, 1, bomb()), 1),
    "push_promise": (frame(frames.PUSH_PROMISE, END_HEADERS, 1, bytes(4) + block(OK)), 1),
    "enable_push": (frames.settings({frames.SETTINGS_ENABLE_PUSH: 1}), 1),
    "stream_idle": (response(2), 1),
    "frame_too_large": (b"\xff\xff\xff\0\0\0\0\0\1", 1),
    "header_block": (frame(HEADERS, END_HEADERS, 1, b"\xff\xff\xff\xff\xff\xff"), 1),
}


@pytest.mark.parametrize("reason", HOSTILE)
def test_a_hostile_server_is_left_and_counted_by_what_it_does(reason: str) -> None:
    said, times = HOSTILE[reason]
    world = asked(GET, GET.replace(b"GET", b"POST"))
    for _ in range(times):
        world.receive(said)
        if world.shared_wire.ended:
            break
    assert world.shared_wire.ended == "closed"
    assert f'upstream_http2_connection_errors{{reason="{reason}"}}' in world.counted
    kind = reason.removeprefix("flood_")
    assert (f'upstream_http2_floods{{kind="{kind}"}}' in world.counted) == (kind != reason)
    assert len(world.opened) == 3, "the one that may be sent twice was"
    assert client_got(world, 1).startswith(b"HTTP/1.1 502 ")
    assert world.shared.open_streams == 0


def test_who_nearly_floods_is_given_nothing_more() -> None:
    world = asked(GET)
    world.receive(frame(PING, 0, 0, bytes(8)) * 760)
    assert not world.shared.has_room
    world.receive(response(1, end=True))
    assert client_got(world).startswith(b"HTTP/1.1 200 ")
    assert world.shared_wire.ended == "closed"


# -- Any split ---------------------------------------------------------------------------------------------------------

CONVERSATION = (
    response(1, [(b":status", b"103"), (b"link", b"</a>")])
    + response(3, [*OK, (b"content-length", b"3")])
    + data(3, b"ab")
    + response(1)
    + frames.window_update(0, 7)
    + data(1, b"xyz")
    + data(3, b"c", end=True)
    + frame(PING, 0, 0, bytes(8))
    + frames.headers(1, block([(b"x-sum", b"7")]), end_stream=True)
    + frames.rst_stream(5, ErrorCode.REFUSED_STREAM)
    + frames.goaway(7, ErrorCode.NO_ERROR)
    + response(7, [*OK, (b"Bad", b"x")])
)


def told(pieces: list[bytes]) -> tuple[list[bytes], list[tuple[str, bool]], list[str | None], list[bytes]]:
    world = asked(GET[:-2] + b"TE: trailers\r\n\r\n", GET, GET, GET)
    for piece in pieces:
        if piece:
            world.receive(piece)
    bodies = [client_got(world, at) for at in range(4)]
    # Chunks are as the bytes came; what they hold is not.
    plain = [part for body in bodies for part in [body.partition(b"\r\n\r\n")[0], b"".join(body.split(b"\r\n")[-7:])]]
    kinds = [payload for kind, _, _, payload in split(world.shared_wire.take()) if kind != frames.WINDOW_UPDATE]
    return plain, world.opened, [record.detail for record in world.log], kinds


@settings(max_examples=150, deadline=None)
@given(st.lists(st.integers(0, len(CONVERSATION)), max_size=8))
def test_any_split_gives_the_same(cuts: list[int]) -> None:
    borders = [0, *sorted(cuts), len(CONVERSATION)]
    pieces = [CONVERSATION[start:end] for start, end in pairwise(borders)]
    assert told(pieces) == told([CONVERSATION])


FRAMES = st.one_of(
    st.sampled_from(
        [
            response(1),
            response(3, end=True),
            data(1, b"abc"),
            data(3, b"x", end=True),
            frames.goaway(3, ErrorCode.NO_ERROR),
        ]
    ),
    st.builds(frame, st.integers(0, 12), st.integers(0, 255), st.integers(0, 9), st.binary(max_size=20)),
)


@settings(max_examples=300, deadline=None)
@given(st.lists(FRAMES, max_size=12), st.binary(max_size=12))
def test_whatever_a_server_says_every_request_has_an_end_and_nothing_is_kept(said: list[bytes], rest: bytes) -> None:
    world = asked(GET, POST % 5 + b"half", GET, CHUNKED)
    for each in [*said, rest]:
        if each and world.shared_wire.ended is None:
            world.receive(each)
    if world.shared_wire.ended is None:
        world.shared.lost("connection_reset")
    assert world.shared.open_streams == 0
    # Each has an answer, was cut, or waits for another connection.
    assert len(world.log) + len(world.waiting) == 4
