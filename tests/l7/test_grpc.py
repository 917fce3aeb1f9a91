"""gRPC without sockets: times, statuses and messages, and what calls get from the proxy itself."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from l7 import grpc, limits
from l7.grpc import Status
from l7.protocol.http2.frames import ErrorCode
from l7.protocol.message import Headers
from l7.telemetry.access_log import NO_GRPC_STATUS, format_line
from l7.telemetry.metrics import RequestMetrics
from orchestrator.contract.route import Host, PathMatchKind, Route
from tests.l7.http2_playbook import Http2World, Seen, data

CALL: Headers = [
    (b":method", b"POST"),
    (b":scheme", b"https"),
    (b":authority", b"www.example.com"),
    (b":path", b"/shop.Cart/Add"),
    (b"content-type", b"application/grpc"),
    (b"te", b"trailers"),
]
OK = b"HTTP/1.1 200 OK\r\nContent-Type: application/grpc\r\nTransfer-Encoding: chunked\r\n\r\n"


def call(*more: tuple[bytes, bytes], end: bool = True) -> Http2World:
    """A client that has begun a call on stream 1."""
    world = Http2World().greet()
    world.ask([*CALL, *more], end=end)
    return world


def status(seen: Seen) -> Status:
    """Of a whole answer, wherever it stands."""
    assert seen.ended
    return Status(int(dict(seen.trailers or seen.headers)[b"grpc-status"]))


def expire(world: Http2World, seconds: float) -> None:
    world.time += seconds
    world.server.deadline_passed()
    world.look()


# -- Words -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (b"1H", 3600.0),
        (b"2M", 120.0),
        (b"3S", 3.0),
        (b"4m", 0.004),
        (b"5u", 5e-6),
        (b"6n", 6e-9),
        (b"0S", 0.0),
        (b"99999999n", 0.099999999),
        (b"123456789n", None),
        (b"", None),
        (b"S", None),
        (b"1", None),
        (b"-1S", None),
        (b"1s", None),
        (b"1.5S", None),
    ],
)
def test_timeouts_are_read(value: bytes, seconds: float | None) -> None:
    assert grpc.read_timeout(value) == (None if seconds is None else pytest.approx(seconds))


@given(st.floats(0, 1e9))
def test_a_timeout_that_is_written_is_not_longer_and_hardly_shorter(seconds: float) -> None:
    read = grpc.read_timeout(grpc.write_timeout(seconds))
    assert read is not None
    assert seconds * (1 - 1e-4) - 1e-8 <= read <= seconds * (1 + 1e-12)


def test_messages_are_encoded_as_the_protocol_has_it() -> None:
    assert grpc.write_message("a b~%ü\n") == b"a b~%25%C3%BC%0A"


@pytest.mark.parametrize(
    ("content_type", "is_one"),
    [
        (b"application/grpc", True),
        (b"application/grpc+proto", True),
        (b"application/grpc;charset=utf-8", True),
        (b"application/grpc-web", False),
        (b"application/json", False),
    ],
)
def test_a_call_is_known_by_its_content_type(content_type: bytes, is_one: bool) -> None:
    assert grpc.is_grpc(content_type) == is_one


@pytest.mark.parametrize(
    ("http", "code"),
    [
        (400, 13),
        (401, 16),
        (403, 7),
        (404, 12),
        (429, 14),
        (502, 14),
        (503, 14),
        (504, 14),
        (408, 2),
        (421, 2),
        (500, 2),
    ],
)
def test_http_errors_have_a_status(http: int, code: int) -> None:
    assert grpc.status_of_http(http) == code


# -- Answers of ours ---------------------------------------------------------------------------------------------------


def test_an_error_of_ours_is_a_head_alone() -> None:
    world = Http2World().greet()
    world.ask([*CALL[:2], (b":authority", b"other.example.com"), *CALL[3:]])
    seen = world.seen[1]
    assert seen.headers[:4] == [
        (b":status", b"200"),
        (b"content-type", b"application/grpc"),
        (b"grpc-status", b"12"),
        (b"grpc-message", b"edgefleet: no_route"),
    ]
    assert (seen.body, seen.trailers, seen.ended) == (b"", [], True)
    assert (world.last.status, world.last.grpc_status, world.last.detail) == (200, 12, "no_route")


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ([*CALL, (b"x_under", b"score")], Status.INTERNAL),
        ([*CALL, (b"grpc-timeout", b"soon")], Status.INTERNAL),
        ([(b":method", b"BREW"), *CALL[1:]], Status.UNKNOWN),
    ],
)
def test_a_malformed_call_is_told_so(fields: Headers, code: Status) -> None:
    world = Http2World().greet()
    world.ask(fields)
    assert status(world.seen[1]) is code


def test_other_requests_get_http_errors() -> None:
    world = Http2World().greet()
    world.ask([(b":method", b"GET"), *CALL[1:2], (b":authority", b"other.example.com"), CALL[3]])
    assert world.seen[1].status == b"404"
    assert world.last.grpc_status is None


def test_a_server_that_fails_is_unavailable() -> None:
    world = call()
    world.upstreams[-1].connection.lost("connection_reset")
    world.look()
    assert status(world.seen[1]) is Status.UNAVAILABLE


def test_a_server_that_fails_in_the_middle_leaves_a_status_and_no_wholeness() -> None:
    world = call()
    world.answer(OK + b"3\r\nabc\r\n")
    world.upstreams[-1].connection.lost("connection_reset")
    world.look()
    seen = world.seen[1]
    assert (seen.body, status(seen)) == (b"abc", Status.UNAVAILABLE)
    assert (world.last.grpc_status, world.last.flags) == (14, ("UC",))


# -- Deadlines ---------------------------------------------------------------------------------------------------------


def test_what_is_left_of_the_deadline_is_sent_on() -> None:
    world = Http2World(holds=True).greet()
    world.ask([*CALL, (b"grpc-timeout", b"10S")])
    world.time += 4
    world.connect_next()
    assert b"\r\ngrpc-timeout: 6000000u\r\n" in world.got()


def test_each_attempt_is_told_what_is_left() -> None:
    world = Http2World(holds=True).greet()
    world.ask([*CALL, (b"grpc-timeout", b"10S")])
    first = world.waiting.pop(0)
    upstream = type(world.upstream)("web-1")
    first.upstream_connected(upstream.connection, reused=True)
    assert upstream.wire.take().count(b"grpc-timeout: 10000000u\r\n") == 1
    world.time += 3
    upstream.connection.lost("connection_reset", nothing_sent=True)
    world.connect_next()
    sent = world.got()
    assert sent.count(b"grpc-timeout") == 1
    assert b"\r\ngrpc-timeout: 7000000u\r\n" in sent


def test_a_call_without_a_deadline_sends_none() -> None:
    assert b"grpc-timeout" not in call().got()


def test_an_expired_call_is_told_so() -> None:
    world = call((b"grpc-timeout", b"2S"))
    expire(world, 2)
    assert status(world.seen[1]) is Status.DEADLINE_EXCEEDED
    assert (world.last.status, world.last.grpc_status, world.last.flags) == (200, 4, ("UT",))


def test_a_call_expires_while_it_waits_for_a_connection_and_in_the_middle_of_its_answer() -> None:
    waiting = Http2World(holds=True).greet()
    waiting.ask([*CALL, (b"grpc-timeout", b"2S")])
    expire(waiting, 2)
    assert status(waiting.seen[1]) is Status.DEADLINE_EXCEEDED
    streaming = call((b"grpc-timeout", b"2S"))
    streaming.time += 1
    streaming.answer(OK + b"3\r\nabc\r\n")
    expire(streaming, 1)
    assert (streaming.seen[1].body, status(streaming.seen[1])) == (b"abc", Status.DEADLINE_EXCEEDED)


def test_no_timeout_of_a_route_or_body_ends_a_call() -> None:
    world = call((b"grpc-timeout", b"1H"), end=False)
    for _ in range(5):
        expire(world, 600)
        world.upload(1, b"more")
    world.answer(OK + b"3\r\nabc\r\n")
    expire(world, 590)
    assert not world.seen[1].ended
    world.answer(b"0\r\ngrpc-status: 0\r\n\r\n")
    assert status(world.seen[1]) is Status.OK
    assert world.last.grpc_status == 0


def test_a_route_bounds_what_clients_ask_for() -> None:
    world = Http2World().greet()
    route = Route(name="all", kind=PathMatchKind.PREFIX, path="/", backend="web", timeout_s=7, grpc_max_deadline_s=5)
    world.routes = type(world.routes)((Host(name="www.example.com", owner="shop", routes=(route,)),))
    world.ask([*CALL, (b"grpc-timeout", b"1H")])
    assert b"\r\ngrpc-timeout: 5000000u\r\n" in world.got()
    expire(world, 5)
    assert status(world.seen[1]) is Status.DEADLINE_EXCEEDED
    world.ask(CALL)
    assert b"\r\ngrpc-timeout: 5000000u\r\n" in world.got()


def test_a_call_on_which_nothing_moves_ends_some_day() -> None:
    world = call()
    world.answer(OK)
    expire(world, limits.GRPC_IDLE_S - 1)
    assert not world.seen[1].ended
    expire(world, 1)
    assert status(world.seen[1]) is Status.UNAVAILABLE


# -- What the log and the metrics say ----------------------------------------------------------------------------------


def test_statuses_are_logged_and_counted() -> None:
    world = call()
    world.answer(OK + b"0\r\ngrpc-status: 5\r\n\r\n")
    world.ask(CALL)
    world.answer(b"HTTP/1.1 200 OK\r\nGrpc-Status: 16\r\nContent-Length: 0\r\n\r\n")
    world.ask(CALL)
    world.answer(OK + b"0\r\ngrpc-status: 999\r\n\r\n")
    world.ask(CALL)
    world.browser.reset_stream(7, error_code=ErrorCode.CANCEL)
    world.flush()
    assert [record.grpc_status for record in world.log] == [5, 16, NO_GRPC_STATUS, Status.CANCELLED]
    metrics = RequestMetrics()
    for record in world.log:
        metrics.count(record)
    calls = {key: number for key, number in metrics.totals().items() if key.startswith("grpc_calls")}
    assert calls == {
        'grpc_calls{backend="web",status="5"}': 1,
        'grpc_calls{backend="web",status="16"}': 1,
        'grpc_calls{backend="web",status="none"}': 1,
        'grpc_calls{backend="web",status="1"}': 1,
    }
    assert format_line(world.log[0]).endswith(',"grpc_status":5}')
    assert format_line(world.log[2]).endswith(',"grpc_status":null}')


def test_a_client_that_breaks_a_rule_in_a_call_ends_alone() -> None:
    world = call((b"content-length", b"3"), end=False)
    world.server.receive(data(1, b"toolong"))
    world.look()
    assert dict(world.seen[1].headers)[b"grpc-status"] == b"13"
