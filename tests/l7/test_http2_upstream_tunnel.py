"""WebSockets to servers that are spoken to in HTTP/2: an extended CONNECT on a stream beside others' requests."""

import pytest
from h2.settings import SettingCodes
from websockets.frames import Opcode

from l7.protocol.http2.frames import ErrorCode
from tests.l7.http2_upstream_playbook import GET, Browser, SharedWorld
from tests.l7.test_tunnel import ACCEPT, goodbye_frame, handshake, text
from tests.l7.test_websocket_frames import written


def offering() -> SharedWorld:
    return SharedWorld(settings={SettingCodes.ENABLE_CONNECT_PROTOCOL: 1})


def opened() -> tuple[SharedWorld, Browser]:
    """A tunnel on stream 1."""
    world = offering()
    browser = world.browser(handshake())
    world.answer(1, end=False)
    assert browser.take().startswith(b"HTTP/1.1 101 ")
    return world, browser


def test_a_handshake_becomes_an_extended_connect_and_its_answer_a_101() -> None:
    world = offering()
    browser = world.browser(handshake(b"Sec-WebSocket-Protocol: chat"))
    got = world.got[1]
    assert got.headers[:5] == [
        (b":method", b"CONNECT"),
        (b":protocol", b"websocket"),
        (b":scheme", b"http"),
        (b":authority", b"www.example.com"),
        (b":path", b"/chat?room=1"),
    ]
    assert (got[b"sec-websocket-version"], got[b"sec-websocket-protocol"]) == (b"13", b"chat")
    assert not {b"sec-websocket-key", b"connection", b"upgrade", b"content-length"} & dict(got.headers).keys()
    assert not got.ended
    world.answer(1, end=False, sec_websocket_protocol="chat", sec_websocket_accept="whatever")
    assert browser.take() == (
        b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n"
        b"sec-websocket-protocol: chat\r\nsec-websocket-accept: " + ACCEPT + b"\r\n\r\n"
    )


def test_bytes_pass_both_ways_beside_other_requests() -> None:
    world, browser = opened()
    other = world.browser(GET)
    said = text(b"x" * 20_000, masked=True)
    browser.send(said)
    world.flush()
    assert world.got[1].body == said
    back = text(b"y" * 10_000, masked=False)
    world.server.send_data(1, back)
    world.flush()
    assert browser.take() == back
    world.answer(3, b"ok")
    assert b"\r\nok\r\n" in other.take()
    assert browser.codec.is_tunnel


def test_what_is_sent_ahead_waits_for_the_answer() -> None:
    world = offering()
    early = text(b"early", masked=True)
    world.browser(handshake() + early)
    assert world.got[1].body == b""
    world.answer(1, end=False)
    world.flush()
    assert world.got[1].body == early


def test_another_answer_is_an_answer_and_the_end() -> None:
    world = offering()
    browser = world.browser(handshake() + b"GET /smuggled HTTP/1.1\r\nHost: www.example.com\r\n\r\n")
    world.server.send_headers(1, [(b":status", b"403"), (b"content-length", b"0")], end_stream=True)
    world.flush()
    world.flush()
    assert browser.take().startswith(b"HTTP/1.1 403 ")
    assert browser.wire.ended == "closed"
    assert (world.got[1].body, world.got[1].reset, list(world.got)) == (b"", ErrorCode.CANCEL, [1])


def test_a_server_that_does_not_offer_it_is_not_asked() -> None:
    world = SharedWorld()
    browser = world.browser(handshake())
    assert browser.take().startswith(b"HTTP/1.1 502 ")
    assert (world.last.detail, world.got) == ("websocket_not_offered", {})


@pytest.mark.parametrize("how", ["end", "length"])
def test_an_answer_that_has_an_end_is_no_tunnel(how: str) -> None:
    world = offering()
    browser = world.browser(handshake())
    if how == "end":
        world.answer(1)
    else:
        world.answer(1, end=False, content_length="9")
    assert browser.take().startswith(b"HTTP/1.1 502 ")
    assert world.last.detail == "websocket_framing"


def test_ends_and_resets_pass() -> None:
    world, browser = opened()
    close = written(Opcode.CLOSE, b"", masked=True)
    browser.send(close)
    world.flush()
    assert world.got[1].body == close
    world.server.send_data(1, written(Opcode.CLOSE, b"", masked=False), end_stream=True)
    world.flush()
    assert (browser.wire.ended, world.last.detail) == ("closed", "closed_by_client")
    world, browser = opened()
    world.server.reset_stream(1, ErrorCode.CANCEL)
    world.flush()
    assert (browser.wire.ended, world.last.detail) == ("aborted", "stream_reset_cancel")
    world, browser = opened()
    browser.codec.lost("connection_reset")
    world.flush()
    assert (world.got[1].reset, world.shared.open_streams) == (ErrorCode.CANCEL, 0)


def test_a_goodbye_is_1001_here_too() -> None:
    world, browser = opened()
    browser.codec.goodbye()
    assert browser.take() == goodbye_frame(masked=False)
    answer = goodbye_frame(masked=True)
    browser.send(answer)
    world.flush()
    assert world.got[1].body == answer
    world.server.end_stream(1)
    world.flush()
    assert (browser.wire.ended, world.last.detail) == ("closed", "goodbye")
