"""Any split of the input gives the same events, and no input whatever breaks more than its connection."""

from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from l7.protocol.http2 import frames
from tests.l7.http2_playbook import GET, HELLO, POST, Http2World, block, data, request
from tests.l7.playbook import OK

CONVERSATION = (
    HELLO
    + request(1, [*GET, (b"cookie", b"a=b"), (b"cookie", b"c=d")])
    + frames.frame(frames.PING, 0, 0, b"12345678")
    + request(3, POST, end=False)
    + data(3, b"hello ")
    + frames.frame(frames.PRIORITY, 0, 5, bytes(5))
    + frames.frame(frames.HEADERS, frames.END_STREAM, 5, block(GET)[:5])
    + frames.frame(frames.CONTINUATION, frames.END_HEADERS, 5, block(GET)[5:])
    + data(3, b"world")
    + frames.window_update(0, 1000)
    + request(3, [(b"x-sum", b"11")])
    + request(7, [*GET, (b"connection", b"close")], end=False)
    + frames.frame(77, 0, 0, b"unknown")
    + request(9, [*POST, (b"content-length", b"3")], end=False)
    + data(9, b"toolong")
    + frames.settings({frames.SETTINGS_INITIAL_WINDOW_SIZE: 1})
)


def outcome(pieces: list[bytes]) -> tuple[object, ...]:
    """What servers got, what the client got on each stream, and what was logged."""
    world = Http2World()
    for piece in pieces:
        world.server.receive(piece)
    for upstream in world.upstreams[:3]:
        upstream.connection.receive(OK)
    streams: dict[int, bytes] = {}
    sent = world.wire.take()
    while sent:
        high, low, kind, _flags, stream_id = frames.unpack_header(sent)
        size = 9 + (high << 8 | low)
        # An error's answer carries the request's id, which counts up with the log.
        if kind != frames.DATA or b"request_id" not in sent[:size]:
            streams[stream_id] = streams.get(stream_id, b"") + sent[:size].replace(b"id-", b"id")
        sent = sent[size:]
    # Chunks upstream follow the pieces; what they carry does not. Whether a server hears of a request's beginning
    # before its body goes wrong depends on the pieces, too.
    got = [
        each.wire.sent.replace(b"\r\n", b"") for each in world.upstreams if b"content-length: 3" not in each.wire.sent
    ]
    log = sorted((record.method, record.path, record.status, record.detail or "") for record in world.log)
    return len(got), [part[:30] for part in got], sorted(streams), log, world.wire.ended


WHOLE = outcome([CONVERSATION])


@settings(deadline=None)
@given(st.lists(st.integers(1, len(CONVERSATION) - 1), max_size=12))
def test_any_split_gives_the_same_events(cuts: list[int]) -> None:
    at = [0, *sorted(set(cuts)), len(CONVERSATION)]
    assert outcome([CONVERSATION[a:b] for a, b in pairwise(at)]) == WHOLE


def test_single_bytes_give_the_same_events() -> None:
    assert outcome([CONVERSATION[at : at + 1] for at in range(len(CONVERSATION))]) == WHOLE


KINDS = st.integers(0, 10)


@settings(deadline=None, max_examples=300)
@given(st.lists(st.tuples(KINDS, st.integers(0, 255), st.integers(0, 9), st.binary(max_size=40)), max_size=12))
def test_no_sequence_of_frames_raises(sequence: list[tuple[int, int, int, bytes]]) -> None:
    world = Http2World()
    world.server.receive(HELLO)
    for kind, flags, stream_id, payload in sequence:
        world.server.receive(frames.frame(kind, flags, stream_id, payload))
        if world.wire.ended:
            break
    for upstream in world.upstreams:
        if upstream.connection.exchange is not None:
            upstream.connection.receive(OK)


@settings(deadline=None, max_examples=300)
@given(st.binary(max_size=300))
def test_no_header_block_raises(garbage: bytes) -> None:
    world = Http2World()
    world.server.receive(HELLO)
    world.server.receive(frames.headers(1, garbage, end_stream=True))


@settings(deadline=None, max_examples=200)
@given(
    st.lists(
        st.tuples(st.sampled_from(["answer", "window", "reset", "upload", "ask", "block", "drain"]), st.integers(0, 5)),
        max_size=40,
    )
)
def test_whatever_the_order_windows_are_kept_and_nothing_is_left(steps: list[tuple[str, int]]) -> None:
    """The library h2 is the judge: it raises on any frame that breaks a window or a stream's state."""
    world = Http2World().greet(window=5000)
    asked: list[int] = []
    uploads: set[int] = set()
    answered: set[int] = set()
    blocked = False
    for step, number in steps:
        if step == "ask" and len(asked) < 6:
            asked.append(world.ask(GET if number % 2 else POST, end=bool(number % 2)))
            if not number % 2:
                uploads.add(asked[-1])
        elif step == "answer" and number < len(world.upstreams) and number not in answered:
            connection = world.upstreams[number].connection
            if connection.exchange is not None:
                answered.add(number)
                connection.receive(b"HTTP/1.1 200 OK\r\nContent-Length: 9000\r\n\r\n" + bytes(9000))
        elif step == "window":
            world.browser.increment_flow_control_window(2000)
        elif step == "reset" and number < len(asked) and not blocked:
            stream = world.browser.streams.get(asked[number])
            if stream is not None and not stream.closed:
                world.browser.reset_stream(asked[number])
        elif step == "upload" and number < len(asked) and not blocked:
            stream = world.browser.streams.get(asked[number])
            if stream is not None and stream.open and asked[number] in uploads:
                world.browser.send_data(asked[number], b"x" * 100)
        elif step == "block" and not blocked:
            blocked = True
            world.server.output_blocked()
        elif step == "drain" and blocked:
            blocked = False
            world.server.output_drained()
        if not blocked:
            world.flush()
    if blocked:
        world.server.output_drained()
    world.flush()
    for stream_id in asked:
        if any(each.id == stream_id for each in world.server.streams):
            world.server.receive(frames.rst_stream(stream_id, frames.ErrorCode.CANCEL))
    assert not world.server.streams
    assert world.server.held_bytes == 0
    assert len(world.log) + world.counted.count("http2_requests_reset_unseen") == len(asked)
