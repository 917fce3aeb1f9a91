"""Trailers (RFC 9110 section 6.5): which pass, to whom, and in what framing."""

import pytest

from l7.telemetry.flags import Flag
from tests.l7.playbook import World

HEAD = b"POST /up HTTP/1.1\r\nHost: www.example.com\r\nTransfer-Encoding: chunked\r\n\r\n"
GET = b"GET / HTTP/1.1\r\nHost: www.example.com\r\n"
READS = GET + b"TE: deflate;q=0.5, Trailers\r\nConnection: TE\r\n\r\n"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
SUM = b"X-Sum:  1 \r\nX-Empty:\r\n"


def test_a_request_s_trailers_go_upstream() -> None:
    world = World().pool()
    world.request(HEAD + b"3\r\nabc\r\n")
    assert world.request(b"0\r\n" + SUM + b"\r\n") == b"0\r\nx-sum: 1\r\nx-empty: \r\n\r\n"


def test_trailers_wait_for_a_connection_as_the_body_does() -> None:
    world = World()
    world.client.receive(HEAD + b"3\r\nabc\r\n0\r\n" + SUM + b"\r\n")
    world.connect()
    assert world.upstream.wire.take().endswith(b"\r\n3\r\nabc\r\n0\r\nx-sum: 1\r\nx-empty: \r\n\r\n")


def test_trailers_are_sent_again_with_a_body_that_is() -> None:
    world = World().pool()
    world.client.receive(HEAD.replace(b"POST", b"PUT") + b"3\r\nabc\r\n0\r\n" + SUM + b"\r\n")
    world.upstream.connection.end_of_input()
    world.connect()
    assert world.upstream.wire.take().endswith(b"\r\n3\r\nabc\r\n0\r\nx-sum: 1\r\nx-empty: \r\n\r\n")


def test_a_server_is_told_that_the_client_reads_trailers_and_the_client_gets_them() -> None:
    world = World().pool()
    sent = world.request(READS)
    assert b"\r\nte: trailers\r\nconnection: te\r\n" in sent
    assert sent.count(b"\r\nconnection:") == 1
    answer = world.respond(CHUNKED + b"2\r\nok\r\n0\r\n" + SUM + b"\r\n")
    assert answer.endswith(b"\r\n\r\n2\r\nok\r\n0\r\nx-sum: 1\r\nx-empty: \r\n\r\n")


@pytest.mark.parametrize(
    "head",
    [
        pytest.param(GET + b"\r\n", id="not asked for"),
        pytest.param(GET + b"TE: gzip\r\n\r\n", id="another coding"),
        pytest.param(GET + b"TE: xtrailers\r\n\r\n", id="a longer word"),
        pytest.param(READS.replace(b"HTTP/1.1", b"HTTP/1.0"), id="HTTP/1.0"),
    ],
)
def test_a_client_that_does_not_read_trailers_gets_none(head: bytes) -> None:
    world = World().pool()
    assert b"\r\nte:" not in world.request(head)
    answer = world.respond(CHUNKED + b"2\r\nok\r\n0\r\n" + SUM + b"\r\n")
    assert b"x-sum" not in answer
    assert answer.endswith((b"\r\n\r\n2\r\nok\r\n0\r\n\r\n", b"\r\n\r\nok"))
    assert world.released == [(world.upstream.connection, True)]


def test_what_only_a_head_may_say_is_left_out_behind_a_body() -> None:
    world = World().pool()
    world.request(HEAD)
    trailers = b"X-Forwarded-For: 192.0.2.1\r\nAuthorization: x\r\nCookie: a=b\r\nX-Sum: 1\r\n"
    assert world.request(b"0\r\n" + trailers + b"\r\n") == b"0\r\nx-sum: 1\r\n\r\n"


def test_a_response_s_trailers_may_not_frame() -> None:
    world = World().pool()
    world.request(READS)
    world.respond(CHUNKED + b"2\r\nok\r\n0\r\nContent-Length: 2\r\n\r\n")
    assert (world.last.detail, world.last.flags) == ("trailer_forbidden", (Flag.UPSTREAM_PROTOCOL_ERROR,))
    assert world.wire.ended == "aborted"
    assert world.released == [(world.upstream.connection, False)]


def test_a_connection_forgets_who_read_trailers() -> None:
    world = World().pool()
    world.request(READS)
    world.respond(CHUNKED + b"0\r\n\r\n")
    world.pool()
    assert b"\r\nte:" not in world.request(GET + b"\r\n")
    assert world.respond(CHUNKED + b"0\r\n" + SUM + b"\r\n").endswith(b"\r\n\r\n0\r\n\r\n")
