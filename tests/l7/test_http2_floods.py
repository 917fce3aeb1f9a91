"""Floods: each kind is counted by its name, answered by a GOAWAY first, and ended; and costs no memory."""

import ssl
from collections.abc import Callable
from pathlib import Path

import hpack
import pytest
import trio

from l7 import limits
from l7.protocol.http2 import frames
from l7.protocol.http2.frames import (
    CONTINUATION,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    HEADERS,
    PING,
    PRIORITY,
    ErrorCode,
    frame,
)
from l7.supervisor import Supervisor
from tests.l7.http2_playbook import GET, HELLO, POST, Http2World, block, data, goaway_code, raw, request, split
from tests.l7.live_proxy import HOST, LiveBackend, make_snapshot, self_signed
from tests.l7.playbook import OK
from tests.l7.test_supervisor import free_address, running_supervisor


def bomb(entries: int) -> bytes:
    """A header block of a few bytes that unfolds to many: a long field, put into the table once and named again and
    again."""
    first = bytes(hpack.Encoder().encode([(b"x-long", b"y" * 4000)], huffman=False))
    return block(GET) + first + b"\xbe" * entries


def rapid_resets(first: int, count: int) -> bytes:
    ids = range(first, first + 2 * count, 2)
    return b"".join(request(at) + frames.rst_stream(at, ErrorCode.CANCEL) for at in ids)


#: Kind, what a client may send at a time (a connection's n-th time), and whether an allowance warns before it ends.
FLOODS: dict[str, tuple[Callable[[int], bytes], bool]] = {
    "rapid_reset": (lambda turn: rapid_resets(1 + 200 * turn, 100), True),
    "ping": (lambda _: frame(PING, 0, 0, bytes(8)) * 100, True),
    "settings": (lambda _: frames.settings({}) * 100, True),
    "unknown": (lambda _: frame(200, 0, 0, b"") * 100, True),
    "goaway": (lambda _: frames.goaway(0, ErrorCode.NO_ERROR) * 100, True),
    "priority": (lambda _: frame(PRIORITY, 0, 1, bytes(5)) * 20, True),
    "window_update": (lambda _: frames.window_update(0, 1) * 10, True),
    "empty": (lambda turn: (b"" if turn else request(1, POST, end=False)) + data(1) * 100, True),
    "glitch": (lambda turn: b"".join(request(1 + 200 * turn + 2 * at, GET[1:]) for at in range(100)), True),
    "continuation": (
        lambda _: frame(HEADERS, END_STREAM, 1, b"\x82") + frame(CONTINUATION, 0, 1, b"\x87") * 100,
        False,
    ),
    "hpack": (lambda _: frame(HEADERS, END_STREAM | END_HEADERS, 1, bomb(2000)), False),
}

#: More than any kind needs.
MOST_TURNS = 60


@pytest.mark.parametrize("kind", FLOODS)
def test_a_flood_is_warned_then_closed_and_counted_by_its_name(kind: str) -> None:
    make, warns = FLOODS[kind]
    world, _ = raw(b"")
    goaways: list[bytes] = []
    for turn in range(MOST_TURNS):
        world.server.receive(make(turn))
        sent = split(world.wire.take())
        goaways += [payload for number, _, _, payload in sent if number == GOAWAY]
        if world.wire.ended:
            break
    assert world.wire.ended == "closed"
    assert ErrorCode(int.from_bytes(goaways[-1][4:8])) is ErrorCode.ENHANCE_YOUR_CALM
    assert world.counted.count(f'http2_floods{{kind="{kind}"}}') == 1
    assert (f'http2_flood_warnings{{kind="{kind}"}}' in world.counted) == warns
    if warns:
        assert goaways[0] == (2**31 - 1).to_bytes(4) + bytes(4), "asked in peace first"
        assert len(goaways) == 2


def test_a_frame_of_too_many_settings_is_not_worked_through() -> None:
    window = frames.SETTINGS_INITIAL_WINDOW_SIZE.to_bytes(2) + (1000).to_bytes(4)
    world, answered = raw(request(1) + frame(frames.SETTINGS, 0, 0, window * (limits.H2_MAX_SETTINGS + 1)))
    assert goaway_code(answered) is ErrorCode.ENHANCE_YOUR_CALM
    assert 'http2_floods{kind="settings"}' in world.counted
    _, answered = raw(request(1) + frame(frames.SETTINGS, 0, 0, window * limits.H2_MAX_SETTINGS))
    assert goaway_code(answered) is None


def test_streams_after_the_final_goodbye_are_counted_too() -> None:
    world, _ = raw(request(1))
    world.server.close_after_response()
    world.time += limits.H2_GOAWAY_GRACE_S
    world.server.deadline_passed()
    for at in range(limits.H2_MAX_GLITCHES + 1):
        world.server.receive(request(3 + 2 * at))
        if world.wire.ended:
            break
    assert world.wire.ended == "closed"
    assert 'http2_floods{kind="glitch"}' in world.counted


def test_a_browser_may_change_its_mind_about_priorities() -> None:
    world, _ = raw(b"".join(request(1 + 2 * at) + frame(frames.PRIORITY_UPDATE, 0, 0, bytes(8)) for at in range(90)))
    assert len(world.opened) == 90
    assert goaway_code(split(world.wire.take())) is None


def test_who_pings_now_and_then_may_do_so_for_weeks() -> None:
    world, _ = raw(b"")
    for _ in range(5000):
        world.time += 10
        world.server.receive(frame(PING, 0, 0, bytes(8)))
        assert len(world.wire.take()) == 17


def test_a_busy_client_that_cancels_some_requests_is_left_alone() -> None:
    world, _ = raw(b"")
    for at in range(2000):
        stream = 1 + 2 * at
        world.server.receive(request(stream))
        if at % 3:
            world.upstreams[-1].connection.receive(OK)
        else:
            world.server.receive(frames.rst_stream(stream, ErrorCode.CANCEL))
        world.upstreams.clear()
        assert goaway_code(split(world.wire.take())) is None
    assert world.wire.ended is None


def test_resets_after_the_answer_began_are_no_flood() -> None:
    world, _ = raw(b"")
    for at in range(2000):
        world.server.receive(request(1 + 2 * at))
        world.upstreams[-1].connection.receive(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf")
        world.server.receive(frames.rst_stream(1 + 2 * at, ErrorCode.CANCEL))
        world.upstreams.clear()
        assert goaway_code(split(world.wire.take())) is None


def test_a_download_may_have_its_windows_opened_by_the_frame() -> None:
    world = Http2World().greet(window=1 << 24)
    world.ask()
    world.answer(b"HTTP/1.1 200 OK\r\nContent-Length: 99999999\r\n\r\n")
    for _ in range(500):
        world.answer(b"x" * 16384)
        world.seen[1].body = b""
        world.browser.increment_flow_control_window(16384)
        world.flush()
    assert not world.goaways


def test_a_download_may_be_measured_by_a_ping_for_each_of_its_frames() -> None:
    """As gRPC's libraries do, to size their windows."""
    world = Http2World().greet(window=1 << 24)
    world.ask()
    world.answer(b"HTTP/1.1 200 OK\r\nContent-Length: 99999999\r\n\r\n")
    for _ in range(3000):
        world.answer(b"x")
        world.server.receive(frame(PING, 0, 0, bytes(8)))
    assert not world.goaways
    world.server.receive(frame(PING, 0, 0, bytes(8)) * 1001)
    assert world.wire.ended == "closed"


def test_what_crosses_our_reset_on_the_wire_is_nobodys_fault() -> None:
    world, _ = raw(b"")
    for at in range(400):
        stream = 1 + 2 * at
        world.server.receive(request(stream, POST, end=False))
        world.upstreams[-1].connection.receive(OK)  # whole before its request: the stream is reset
        world.server.receive(data(stream, bytes(10)) * 3 + frames.rst_stream(stream, ErrorCode.CANCEL))
        world.upstreams.clear()
        assert goaway_code(split(world.wire.take())) is None


def test_who_sends_on_and_on_behind_our_reset_is_glitching() -> None:
    world, _ = raw(request(1, POST, end=False))
    world.upstreams[-1].connection.receive(OK)
    for _ in range(limits.H2_STREAM_WINDOW_BYTES // 16384 + limits.H2_MAX_GLITCHES - 1):
        world.server.receive(data(1, bytes(16384)))
    assert world.wire.ended is None
    world.server.receive(data(1, bytes(16384)))
    assert world.wire.ended == "closed"
    assert world.counted.count('http2_floods{kind="glitch"}') == 1


def test_a_request_that_is_asked_to_leave_by_a_warning_is_still_answered() -> None:
    world, _ = raw(request(1))
    for _ in range(8):
        world.server.receive(frame(PING, 0, 0, bytes(8)) * 100)
    world.upstreams[0].connection.receive(OK)
    kinds = [number for number, *_ in split(world.wire.take())]
    assert kinds.count(GOAWAY) == 1
    assert kinds[-2:] == [HEADERS, frames.DATA]


# -- Against a worker --------------------------------------------------------------------------------------------------

CERTIFICATE = self_signed(HOST)


def resident_bytes(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096


async def handshake(address: tuple[str, int]) -> "trio.SSLStream[trio.SocketStream]":
    context = ssl.create_default_context(cadata=CERTIFICATE.chain_pem)
    context.set_alpn_protocols(["h2"])
    stream = trio.SSLStream(await trio.open_tcp_stream(*address), context, server_hostname=HOST)
    await stream.send_all(HELLO)
    return stream


async def attack(address: tuple[str, int], pieces: list[bytes]) -> bool:
    """One connection; whether it was ended with ENHANCE_YOUR_CALM."""
    stream = await handshake(address)
    seen = bytearray()

    async def read() -> None:
        try:
            while piece := await stream.receive_some(65536):
                seen.extend(piece)
        except trio.BrokenResourceError:
            pass  # reset: as good an end
        nursery.cancel_scope.cancel()

    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(read)
            try:
                for piece in pieces:
                    await stream.send_all(piece)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                pass  # closed, as it should be
    await trio.aclose_forcefully(stream)
    return goaway_code(split_whole(bytes(seen))) is ErrorCode.ENHANCE_YOUR_CALM


async def ask(address: tuple[str, int]) -> bytes:
    """A well-behaved client's request; the bytes of the answer."""
    stream = await handshake(address)
    await stream.send_all(request(1))
    seen = b""
    with trio.fail_after(30):
        while not any(at == 1 and flags & END_STREAM for _, flags, at, _ in split_whole(seen)):
            piece = await stream.receive_some(65536)
            assert piece, seen
            seen += piece
    await stream.aclose()
    return seen


def split_whole(sent: bytes) -> list[tuple[int, int, int, bytes]]:
    """Frames, without the beginning of one that is not whole yet."""
    end = 0
    while len(sent) - end >= frames.HEADER_BYTES:
        high, low, *_ = frames.unpack_header(sent, end)
        if end + frames.HEADER_BYTES + (high << 8 | low) > len(sent):
            break
        end += frames.HEADER_BYTES + (high << 8 | low)
    return split(sent[:end])


async def counted(supervisor: Supervisor, key: str, least: int) -> None:
    """Wait until the worker, which does so every second, has reported that much."""
    while (await supervisor.status()).counters.get(key, 0) < least:  # noqa: ASYNC110 - it reports by the clock
        await trio.sleep(0.1)


@pytest.mark.parametrize("kind", FLOODS)
async def test_a_worker_under_a_flood_serves_on_and_does_not_grow(kind: str) -> None:
    make, _ = FLOODS[kind]
    pieces = [make(turn) for turn in range(MOST_TURNS)]
    backend = LiveBackend()
    async with running_supervisor(backend, workers=1) as supervisor:
        address = free_address()
        await supervisor.apply(make_snapshot([backend], address, CERTIFICATE))
        await ask(address)
        for _ in range(3):
            await attack(address, pieces)
        (pid,) = supervisor.process_ids
        before = resident_bytes(pid)
        ended = 0
        for _ in range(10):
            ended += await attack(address, pieces)
            assert (await ask(address)).endswith(b"hello")
        assert resident_bytes(pid) - before < 20 * 1024 * 1024
        assert supervisor.process_ids == (pid,)
        assert ended, "at least one was told before its connection broke"
        with trio.fail_after(20):
            await counted(supervisor, f'http2_floods{{kind="{kind}"}}', 10)
