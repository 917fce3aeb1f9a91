"""Frames that go by: borders are found wherever the bytes were cut, and never where there is none."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.frames import Frame, Opcode
from websockets.streams import StreamReader

from l7.protocol import websocket
from l7.protocol.websocket import GOING_AWAY, FrameObserver

DATA = (Opcode.CONT, Opcode.TEXT, Opcode.BINARY)
CONTROL = (Opcode.PING, Opcode.PONG)


def written(opcode: Opcode, payload: bytes, *, masked: bool, fin: bool = True) -> bytes:
    """A frame as the library websockets writes it."""
    return Frame(opcode, payload, fin).serialize(mask=masked)


@st.composite
def rows(draw: st.DrawFn, *, masked: bool) -> list[bytes]:
    """Frames of one direction."""
    sizes = st.one_of(st.integers(0, 200), st.sampled_from([125, 126, 127, 65535, 65536, 70_000]))
    data = st.builds(
        lambda opcode, size, fin: written(opcode, bytes(size), masked=masked, fin=fin),
        st.sampled_from(DATA),
        sizes,
        st.booleans(),
    )
    control = st.builds(
        lambda opcode, size: written(opcode, bytes(size), masked=masked), st.sampled_from(CONTROL), st.integers(0, 125)
    )
    return draw(st.lists(st.one_of(data, control), min_size=1, max_size=6))


@st.composite
def cut(draw: st.DrawFn, data: bytes) -> list[bytes]:
    """The same bytes in pieces."""
    at = sorted(draw(st.sets(st.integers(0, len(data)), max_size=8)))
    return [data[a:b] for a, b in zip([0, *at], [*at, len(data)], strict=True)]


@given(st.data(), st.booleans())
def test_every_border_is_found_and_nothing_else_is_one(data: st.DataObject, masked: bool) -> None:
    frames = data.draw(rows(masked=masked))
    borders = {0}
    for frame in frames:
        borders.add(max(borders) + len(frame))
    observer = FrameObserver(masked=masked)
    at = 0
    for piece in data.draw(cut(b"".join(frames))):
        assert observer.observe(piece) == len(piece)
        at += len(piece)
        assert observer.at_border == (at in borders)
    assert observer.at_border
    assert not observer.closed


@given(st.data(), st.booleans())
def test_taking_frame_by_frame_stops_at_each_border(data: st.DataObject, masked: bool) -> None:
    frames = data.draw(rows(masked=masked))
    observer = FrameObserver(masked=masked)
    rest = b"".join(frames)
    for frame in frames:
        assert observer.observe(rest, to_border=True) == len(frame)
        assert observer.at_border
        rest = rest[len(frame) :]


@given(st.data(), st.binary(max_size=200), st.booleans())
def test_any_bytes_give_the_same_however_they_were_cut(data: st.DataObject, said: bytes, masked: bool) -> None:
    whole, parts = FrameObserver(masked=masked), FrameObserver(masked=masked)
    whole.observe(said)
    for piece in data.draw(cut(said)):
        parts.observe(piece)
    assert (parts.readable, parts.closed, parts.at_border) == (whole.readable, whole.closed, whole.at_border)


@pytest.mark.parametrize("masked", [True, False])
def test_a_close_is_seen_when_it_is_whole_and_what_follows_is_not_looked_at(masked: bool) -> None:
    observer = FrameObserver(masked=masked)
    frame = written(Opcode.CLOSE, b"\x03\xe8bye", masked=masked)
    observer.observe(frame[:-1])
    assert not observer.closed
    observer.observe(frame[-1:] + b"\xff\xff\xff\xff")
    assert observer.closed
    assert observer.readable


@pytest.mark.parametrize(
    ("said", "masked"),
    [
        pytest.param(b"\x81\x01a", True, id="a client's frame without a mask"),
        pytest.param(b"\x81\x81abcd\0", False, id="a server's frame with one"),
        pytest.param(b"\x83\x00", False, id="reserved data opcode"),
        pytest.param(b"\x8b\x00", False, id="reserved control opcode"),
        pytest.param(b"\x09\x00", False, id="a ping in parts"),
        pytest.param(b"\x89\x7e\x00\x7e", False, id="a ping of 126 bytes"),
        pytest.param(b"\x82\x7f\x80" + bytes(7), False, id="a length of more than 63 bits"),
        pytest.param(b"GET / HTTP/1.1\r\n\r\n", True, id="another protocol"),
    ],
)
def test_what_are_no_frames_has_no_borders(said: bytes, masked: bool) -> None:
    for cut_at in range(len(said)):
        observer = FrameObserver(masked=masked)
        observer.observe(said[:cut_at])
        observer.observe(said[cut_at:])
        observer.observe(written(Opcode.TEXT, b"fine", masked=masked))
        assert not observer.readable
        assert not observer.at_border


def parsed(data: bytes, *, masked: bool) -> Frame:
    """Read by the library websockets; it raises if a rule was broken."""
    reader = StreamReader()
    reader.feed_data(data)
    parsing = Frame.parse(reader.read_exact, mask=masked)
    try:
        next(parsing)
    except StopIteration as done:
        assert isinstance(done.value, Frame)
        return done.value
    raise AssertionError("not whole")


def test_our_own_frames_are_what_they_should_be() -> None:
    to_client = parsed(websocket.close(GOING_AWAY), masked=False)
    to_server = parsed(websocket.close(GOING_AWAY, b"\xde\xad\xbe\xef"), masked=True)
    assert to_client.opcode == to_server.opcode == Opcode.CLOSE
    assert to_client.data == to_server.data == b"\x03\xe9"
    assert parsed(websocket.ping(), masked=False) == Frame(Opcode.PING, b"")


def test_the_key_of_the_specification_has_its_answer() -> None:
    assert websocket.accept_of(b"dGhlIHNhbXBsZSBub25jZQ==") == b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="


def test_keys_differ_with_the_request() -> None:
    keys = {websocket.key_of(f"id-{number}") for number in range(100)}
    assert len(keys) == 100
    for key in keys:
        assert websocket.offered_key(b"GET", 0, [(b"sec-websocket-version", b"13"), (b"sec-websocket-key", key)]) == key
