"""Playbooks of an exchange: what arrives, and what must leave."""

import json

import pytest

from l7 import limits
from l7.telemetry.flags import Flag
from tests.l7.playbook import GET, OK, OK_TO_CLIENT, Upstream, World

POST = b"POST /a HTTP/1.1\r\nHost: www.example.com\r\nContent-Length: 5\r\n\r\n"
PUT = b"PUT /a HTTP/1.1\r\nHost: www.example.com\r\nContent-Length: 5\r\n\r\n"
CHUNKED_POST = b"POST /a HTTP/1.1\r\nHost: www.example.com\r\nTransfer-Encoding: chunked\r\n\r\n"


def check_own_answer(world: World, status: int, code: str, detail: str, flags: tuple[Flag, ...]) -> None:
    head, _, body = world.wire.take().partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 %d " % status)
    assert b"\r\nproxy-status: edgefleet; error=" in head
    assert json.loads(body) == {"error": {"code": code, "detail": detail, "request_id": world.last.request_id}}
    assert (world.last.status, world.last.detail, world.last.flags) == (status, detail, flags)
    assert len(world.log) == 1


# -- What is sent upstream ---------------------------------------------------------------------------------------------


def test_a_request_is_written_anew() -> None:
    world = World(tls=True).pool()
    sent = world.request(
        b"POST /a/./b//%7Ec/?q=%41 HTTP/1.1\r\n"
        b"Host: WWW.example.com:8443\r\n"
        b"User-Agent: test\r\n"
        b"X-Forwarded-For: 203.0.113.66\r\nX-Forwarded-Proto: http\r\nForwarded: for=203.0.113.66\r\n"
        b"X-Request-Id: chosen-outside\r\nX-Real-Ip: 203.0.113.66\r\n"
        b"Connection: keep-alive, X-Hop, Upgrade\r\nX-Hop: secret\r\nKeep-Alive: 5\r\nTE: trailers\r\n"
        b"Upgrade: h2c\r\nProxy-Connection: close\r\n"
        b"Via: 1.1 before\r\nTransfer-Encoding: chunked\r\nTrailer: X-T\r\n"
        b"Cookie: a=b\r\n\r\n"
        b"3\r\nabc\r\n0\r\nX-T: 1\r\n\r\n"
    )
    assert sent == (
        b"POST /a/b/~c/?q=%41 HTTP/1.1\r\n"
        b"host: WWW.example.com:8443\r\n"
        b"user-agent: test\r\nvia: 1.1 before\r\ncookie: a=b\r\n"
        b"x-forwarded-for: 192.0.2.7\r\nx-forwarded-proto: https\r\n"
        b"forwarded: for=192.0.2.7;proto=https\r\nx-request-id: id-1\r\n"
        b"te: trailers\r\nconnection: te\r\nvia: 1.1 edgefleet\r\n"
        b"transfer-encoding: chunked\r\n\r\n"
        b"3\r\nabc\r\n0\r\nx-t: 1\r\n\r\n"
    )
    world.respond(OK)
    assert (world.last.host, world.last.path, world.last.bytes_in) == (b"www.example.com", b"/a/b/~c/", 3)


def test_a_fixed_length_stays_and_a_bodyless_post_says_so() -> None:
    world = World().pool()
    assert world.request(POST + b"hello").endswith(b"content-length: 5\r\n\r\nhello")
    world = World().pool()
    assert world.request(b"POST / HTTP/1.1\r\nHost: www.example.com\r\n\r\n").endswith(b"content-length: 0\r\n\r\n")
    world = World().pool()
    assert b"content-length" not in world.request(GET)


# -- What is sent to the client ----------------------------------------------------------------------------------------


def test_a_response_is_written_anew_and_both_connections_go_on() -> None:
    world = World().pool()
    world.request(GET)
    world.time += 0.25
    answer = world.respond(
        b"HTTP/1.1 200 Fine\r\nServer: x\r\nConnection: X-Hop\r\nX-Hop: 1\r\nKeep-Alive: timeout=5\r\n"
        b"Proxy-Status: edgefleet; error=dns_error\r\nSet-Cookie: a=b\r\nSet-Cookie: c=d\r\nContent-Length: 2\r\n\r\nok"
    )
    assert answer == (
        b"HTTP/1.1 200 OK\r\nserver: x\r\nset-cookie: a=b\r\nset-cookie: c=d\r\ncontent-length: 2\r\n\r\nok"
    )
    assert world.released == [(world.upstream.connection, True)]
    assert world.wire.ended is None
    assert world.client.is_idle
    assert world.wire.deadline == limits.CLIENT_IDLE_S
    record = world.last
    assert (record.status, record.bytes_out, record.server, record.route, record.backend) == (
        200,
        2,
        "web-1",
        "all",
        "web",
    )
    assert (record.upstream_s, record.duration_s, record.flags, record.detail) == (0.25, 0.25, (), None)
    world.pool()
    world.request(GET)
    assert world.respond(OK) == OK_TO_CLIENT, "the same two connections carry the next request"


@pytest.mark.parametrize(
    ("method", "response", "answer"),
    [
        (b"HEAD", b"200 OK\r\nContent-Length: 77\r\n", b"200 OK\r\ncontent-length: 77\r\n"),
        (b"HEAD", b"200 OK\r\nTransfer-Encoding: chunked\r\n", b"200 OK\r\n"),
        (b"GET", b"304 Not Modified\r\nContent-Length: 77\r\n", b"304 Not Modified\r\ncontent-length: 77\r\n"),
        (b"GET", b"204 No Content\r\nContent-Length: 0\r\n", b"204 No Content\r\n"),
        (b"GET", b"200 OK\r\nContent-Length: 0\r\n", b"200 OK\r\ncontent-length: 0\r\n"),
    ],
    ids=["HEAD", "HEAD of chunks", "304", "204", "empty"],
)
def test_responses_without_body(method: bytes, response: bytes, answer: bytes) -> None:
    world = World().pool()
    world.request(GET.replace(b"GET", method))
    assert world.respond(b"HTTP/1.1 " + response + b"\r\n") == b"HTTP/1.1 " + answer + b"\r\n"
    assert world.released == [(world.upstream.connection, True)]
    assert world.client.is_idle


def test_chunks_of_a_response_are_framed_anew() -> None:
    world = World().pool()
    world.request(GET)
    answer = world.respond(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2;x=y\r\nab\r\n1\r\n")
    assert answer == b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nab\r\n"
    assert world.respond(b"c\r\n0\r\nX-Trailer: y\r\n\r\n") == b"1\r\nc\r\n0\r\n\r\n"
    assert world.released == [(world.upstream.connection, True)]


def test_a_body_until_close_becomes_chunks() -> None:
    world = World().pool()
    world.request(GET)
    assert world.respond(b"HTTP/1.0 200 OK\r\n\r\nab") == (
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nab\r\n"
    )
    world.upstream.connection.end_of_input()
    assert world.wire.take() == b"0\r\n\r\n"
    assert world.released == [(world.upstream.connection, False)]
    assert world.wire.ended is None


def test_an_http10_client_gets_unknown_lengths_until_the_close() -> None:
    world = World().pool()
    world.request(b"GET / HTTP/1.0\r\nHost: www.example.com\r\nConnection: keep-alive\r\n\r\n")
    answer = world.respond(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n\r\n")
    assert answer == b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\nab"
    assert world.wire.ended == "closed"


def test_an_http10_client_is_kept_only_if_it_asks() -> None:
    world = World().pool()
    world.request(b"GET / HTTP/1.0\r\nHost: www.example.com\r\nConnection: Keep-Alive\r\n\r\n")
    assert b"\r\nconnection: keep-alive\r\n" in world.respond(OK)
    assert world.wire.ended is None
    world.pool().request(b"GET / HTTP/1.0\r\nHost: www.example.com\r\n\r\n")
    assert b"\r\nconnection: close\r\n" in world.respond(OK)
    assert world.wire.ended == "closed"


def test_interim_heads_are_passed_on_but_for_100() -> None:
    world = World().pool()
    world.request(GET)
    answer = world.respond(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" + OK)
    assert answer == b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n" + OK_TO_CLIENT


def test_bytes_behind_a_response_spoil_the_connection() -> None:
    world = World().pool()
    world.request(GET)
    assert world.respond(OK + b"HTTP/1.1 200 OK\r\n") == OK_TO_CLIENT
    assert world.released == [(world.upstream.connection, False)]


# -- Expect: 100-continue ----------------------------------------------------------------------------------------------

EXPECTING = POST.replace(b"\r\n\r\n", b"\r\nExpect: 100-continue\r\n\r\n")


def test_a_waiting_client_is_told_to_go_on_once_there_is_a_connection() -> None:
    world = World()
    world.client.receive(EXPECTING)
    assert world.wire.take() == b""
    world.connect()
    assert world.wire.take() == b"HTTP/1.1 100 Continue\r\n\r\n"
    assert b"expect" not in world.upstream.wire.take()
    assert world.request(b"hello") == b"hello"
    assert world.respond(OK) == OK_TO_CLIENT


def test_a_waiting_client_uploads_nothing_to_a_dead_end() -> None:
    world = World()
    world.client.receive(EXPECTING.replace(b"www.", b"none."))
    check_own_answer(world, 404, "not_found", "no_route", (Flag.NO_ROUTE,))
    assert world.wire.ended == "closed", "whether the body comes or not cannot be told"


# -- Our own answers ---------------------------------------------------------------------------------------------------


def test_no_route() -> None:
    world = World()
    world.client.receive(b"GET /two HTTP/1.1\r\nHost: only.example.com\r\n\r\n")
    check_own_answer(world, 404, "not_found", "no_route", (Flag.NO_ROUTE,))
    assert world.wire.ended is None


def test_a_host_that_the_certificate_does_not_cover_is_misdirected() -> None:
    world = World(tls=True, cover=("only.example.com", "*.example.org"))
    world.client.receive(GET)
    check_own_answer(world, 421, "misdirected_request", "host_not_covered_by_certificate", (Flag.NO_ROUTE,))


def test_head_requests_get_no_error_body() -> None:
    world = World()
    world.client.receive(b"HEAD / HTTP/1.1\r\nHost: none.example.com\r\n\r\n")
    head, _, body = world.wire.take().partition(b"\r\n\r\n")
    assert b"content-length: " in head
    assert body == b""


@pytest.mark.parametrize(
    ("flag", "detail"),
    [
        (Flag.UPSTREAM_CONNECTION_FAILURE, "connection_refused"),
        (Flag.NO_HEALTHY_UPSTREAM, "no_server"),
        (Flag.UPSTREAM_OVERFLOW, "pending_requests"),
    ],
)
def test_no_connection_is_a_503(flag: Flag, detail: str) -> None:
    world = World()
    world.client.receive(GET)
    assert world.pending is not None
    world.pending.upstream_failed(flag, detail, "web-2")
    check_own_answer(world, 503, "service_unavailable", detail, (flag,))
    assert world.last.server == "web-2"
    assert world.client.is_idle


def test_no_first_byte_in_time_is_a_504() -> None:
    world = World().pool()
    world.request(GET)
    assert world.wire.deadline == 7
    world.client.deadline_passed()
    check_own_answer(world, 504, "gateway_timeout", "response_timeout", (Flag.UPSTREAM_REQUEST_TIMEOUT,))
    assert world.released == [(world.upstream.connection, False)]
    world.upstream.connection.receive(OK)
    assert world.wire.take() == b"", "what comes too late goes nowhere"


def test_no_connection_in_time_is_a_504() -> None:
    world = World()
    world.client.receive(GET)
    assert world.wire.deadline == limits.CONNECT_S + 7
    world.client.deadline_passed()
    check_own_answer(world, 504, "gateway_timeout", "connection_wait_timeout", (Flag.UPSTREAM_REQUEST_TIMEOUT,))
    assert world.pending is None


def test_the_routes_timeout_runs_from_the_end_of_the_request() -> None:
    world = World().pool()
    world.request(POST)
    assert world.wire.deadline == limits.STREAM_IDLE_S
    world.request(b"hello")
    assert world.wire.deadline == 7


def test_a_body_that_stops_is_a_408_and_one_that_is_not_taken_a_504() -> None:
    world = World().pool()
    world.request(POST + b"he")
    world.client.deadline_passed()
    check_own_answer(world, 408, "request_timeout", "request_body_timeout", (Flag.STREAM_IDLE_TIMEOUT,))
    assert world.wire.ended == "closed"
    world = World().pool()
    world.request(POST + b"he")
    world.upstream.connection.output_blocked()
    world.client.deadline_passed()
    check_own_answer(world, 504, "gateway_timeout", "upstream_write_timeout", (Flag.UPSTREAM_REQUEST_TIMEOUT,))


def test_a_body_that_drips_is_a_408_however_steadily() -> None:
    world = World().pool()
    world.request(POST.replace(b"Content-Length: 5", b"Content-Length: 5000"))
    began = world.time
    for _ in range(400):
        world.request(b"x")
        assert world.wire.deadline is not None
        if world.wire.deadline < limits.STREAM_IDLE_S / 6:
            break
        world.time += limits.STREAM_IDLE_S / 6
    assert limits.REQUEST_BODY_S - 10 <= world.time - began <= limits.REQUEST_BODY_S
    world.client.deadline_passed()
    check_own_answer(world, 408, "request_timeout", "request_body_timeout", (Flag.STREAM_IDLE_TIMEOUT,))


def test_a_large_body_over_a_thin_line_is_given_its_time() -> None:
    size = 3600 * 2 * limits.MIN_BYTES_PER_S
    world = World().pool()
    world.request(POST.replace(b"Content-Length: 5", b"Content-Length: %d" % size))
    for _ in range(360):
        world.request(bytes(size // 360))
        world.time += 10
        if world.client.exchange is not None and world.wire.deadline != 7:
            assert world.wire.deadline == limits.STREAM_IDLE_S
    assert world.log == []
    world.respond(OK)
    assert world.last.status == 200


# -- Cuts --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("head", "body"),
    [
        (b"Content-Length: 10\r\n", b"abc"),
        (b"Transfer-Encoding: chunked\r\n", b"3\r\nabc\r\n"),
        (b"Transfer-Encoding: chunked\r\n", b"3\r\nabc\r\n0\r\n"),
    ],
)
@pytest.mark.parametrize("how", ["end", "reset"])
def test_a_cut_response_is_cut_visibly(head: bytes, body: bytes, how: str) -> None:
    world = World().pool()
    world.request(GET)
    world.respond(b"HTTP/1.1 200 OK\r\n" + head + b"\r\n" + body)
    if how == "end":
        world.upstream.connection.end_of_input()
    else:
        world.upstream.connection.lost("connection_reset")
    assert world.wire.take() == b"", "no last chunk, no error page in the middle of a body"
    assert world.wire.ended == "aborted"
    assert (world.last.status, world.last.bytes_out) == (200, 3)
    assert world.last.flags == (Flag.UPSTREAM_CONNECTION_TERMINATION,)
    assert world.released == [(world.upstream.connection, False)]


def test_a_reset_is_no_end_of_a_body_until_close() -> None:
    world = World().pool()
    world.request(GET)
    world.respond(b"HTTP/1.1 200 OK\r\n\r\nabc")
    world.upstream.connection.lost("connection_reset")
    assert world.wire.ended == "aborted"


def test_bad_chunks_in_a_response_cut_it() -> None:
    world = World().pool()
    world.request(GET)
    world.respond(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n")
    world.respond(b"x\r\n")
    assert world.wire.ended == "aborted"
    assert (world.last.flags, world.last.detail) == ((Flag.UPSTREAM_PROTOCOL_ERROR,), "chunk_size_malformed")


@pytest.mark.parametrize("blocked", [False, True])
def test_a_response_that_stalls_is_cut(blocked: bool) -> None:
    world = World().pool()
    world.request(GET)
    world.respond(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc")
    assert world.wire.deadline == limits.STREAM_IDLE_S
    if blocked:
        world.client.output_blocked()
    world.client.deadline_passed()
    assert world.wire.ended == "aborted"
    assert world.last.flags == (Flag.STREAM_IDLE_TIMEOUT,)
    assert world.last.detail == ("client_stalled" if blocked else "response_stalled")


# -- The client goes ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("when", ["opening", "awaiting", "streaming"])
@pytest.mark.parametrize("how", ["end", "reset"])
def test_a_client_that_leaves_takes_its_upstream_along(when: str, how: str) -> None:
    world = World()
    world.client.receive(GET)
    if when != "opening":
        world.connect()
    if when == "streaming":
        world.respond(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc")
    if how == "end":
        world.client.end_of_input()
        assert world.wire.ended == "aborted"
    else:
        world.client.lost("connection_reset")
        assert world.wire.ended is None, "the shell has closed it already"
    assert world.last.flags == (Flag.DOWNSTREAM_CONNECTION_TERMINATION,)
    assert world.last.status == (200 if when == "streaming" else 0)
    assert world.pending is None
    assert world.released == ([] if when == "opening" else [(world.upstream.connection, False)])


def test_a_client_that_leaves_in_a_head_is_logged_and_an_idle_one_is_not() -> None:
    world = World()
    world.client.receive(b"GET / HT")
    world.client.end_of_input()
    assert (world.last.status, world.last.flags) == (0, (Flag.DOWNSTREAM_CONNECTION_TERMINATION,))
    world = World()
    world.client.end_of_input()
    assert world.log == []
    assert world.wire.ended == "closed"


# -- Stale connections -------------------------------------------------------------------------------------------------


def test_a_stale_connection_is_retried_once_and_the_client_sees_nothing() -> None:
    world = World().pool()
    first = world.request(GET)
    world.upstream.connection.end_of_input()
    assert world.opened == [("web", False), ("web", True)]
    assert world.counted == ["retries_stale_connection"]
    world.connect()
    assert world.upstream.wire.take() == first
    assert world.respond(OK) == OK_TO_CLIENT
    assert (world.last.retries, world.last.flags) == (1, ())


def test_the_body_so_far_is_sent_again() -> None:
    world = World().pool()
    world.request(PUT + b"hel")
    world.upstream.connection.lost("connection_reset")
    assert world.wire.reading
    world.client.receive(b"lo")
    assert not world.wire.reading, "nothing more is read before there is a connection"
    world.connect()
    assert world.upstream.wire.take().endswith(b"\r\n\r\nhello")
    assert world.wire.reading
    assert world.respond(OK) == OK_TO_CLIENT


def test_a_retry_that_fails_is_not_retried() -> None:
    world = World().pool()
    world.request(GET)
    world.upstream.connection.end_of_input()
    world.connect()
    world.upstream.connection.end_of_input()
    flags = (Flag.UPSTREAM_CONNECTION_TERMINATION, Flag.UPSTREAM_RETRY_LIMIT_EXCEEDED)
    check_own_answer(world, 502, "bad_gateway", "upstream_closed_before_head", flags)


def test_a_post_is_not_sent_twice_unless_nothing_has_left() -> None:
    world = World().pool()
    world.request(POST + b"hello")
    world.upstream.connection.lost("connection_reset")
    flags = (Flag.UPSTREAM_CONNECTION_TERMINATION,)
    check_own_answer(world, 502, "bad_gateway", "connection_reset", flags)
    world = World().pool()
    world.request(POST + b"hello")
    world.upstream.connection.lost("connection_reset", nothing_sent=True)
    world.connect()
    assert world.upstream.wire.take().endswith(b"\r\n\r\nhello")


@pytest.mark.parametrize("case", ["fresh", "touched", "large"])
def test_what_is_not_retried(case: str) -> None:
    world = World()
    if case == "large":
        world.pool().request(PUT.replace(b"Length: 5", b"Length: 99999") + b"x" * (limits.MAX_REPLAY_BYTES + 1))
    elif case == "touched":
        world.pool().request(GET)
        world.respond(b"HTTP/1.1 20")
    else:
        world.client.receive(GET)
        world.connect()
    world.upstream.connection.end_of_input()
    assert world.counted == []
    assert world.last.status == 502


# -- Back-pressure -----------------------------------------------------------------------------------------------------


def test_a_slow_client_slows_its_own_upstream() -> None:
    world = World().pool()
    world.request(GET)
    world.respond(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc")
    world.client.output_blocked()
    assert not world.upstream.wire.reading
    world.client.output_drained()
    assert world.upstream.wire.reading


def test_a_connection_goes_back_to_the_pool_reading() -> None:
    world = World().pool()
    world.request(GET)
    world.respond(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nab")
    world.client.output_blocked()
    world.respond(b"c")
    assert world.released == [(world.upstream.connection, True)]
    assert world.upstream.wire.reading


def test_a_slow_server_slows_its_own_client() -> None:
    world = World().pool()
    world.request(POST + b"he")
    world.upstream.connection.output_blocked()
    assert not world.wire.reading
    world.upstream.connection.output_drained()
    assert world.wire.reading


def test_a_body_waits_for_its_connection_within_one_read() -> None:
    world = World()
    world.client.receive(CHUNKED_POST + b"3\r\nabc\r\n")
    assert not world.wire.reading
    world.connect()
    assert world.upstream.wire.take().endswith(b"\r\n\r\n3\r\nabc\r\n")
    assert world.wire.reading


def test_a_whole_request_leaves_the_client_read_so_that_its_going_is_noticed() -> None:
    world = World()
    world.client.receive(POST + b"hello")
    assert not world.wire.reading
    world.connect()
    assert world.wire.reading


# -- Answers before the request is whole -------------------------------------------------------------------------------


def test_an_early_answer_ends_both_connections() -> None:
    world = World().pool()
    world.request(POST + b"he")
    answer = world.respond(b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 2\r\n\r\nno")
    assert b"\r\nconnection: close\r\n" in answer
    assert world.wire.ended == "closed"
    assert world.released == [(world.upstream.connection, False)]
    world.client.receive(b"llo")
    assert len(world.log) == 1


def test_a_connection_that_comes_too_late_is_given_back() -> None:
    world = World()
    world.client.receive(GET)
    exchange = world.pending
    assert exchange is not None
    world.client.lost("connection_reset")
    late = Upstream().connection
    exchange.upstream_connected(late, reused=False)
    assert world.released == [(late, True)]
    assert "over" in repr(exchange)
