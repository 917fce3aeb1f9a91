"""A client's connection over several requests: pipelining, keep-alive, goodbyes."""

from l7 import limits
from tests.l7.playbook import GET, OK, OK_TO_CLIENT, World

# -- Pipelining and keep-alive -----------------------------------------------------------------------------------------


def test_pipelined_requests_are_served_one_after_the_other() -> None:
    world = World().pool()
    first = world.request(GET + GET.replace(b"/a", b"/b") + GET.replace(b"/a", b"/c"))
    assert first.count(b"GET ") == 1
    world.pool()
    assert world.respond(OK) == OK_TO_CLIENT
    assert world.upstream.wire.take().startswith(b"GET /b")
    world.pool()
    assert world.respond(OK) == OK_TO_CLIENT
    assert world.upstream.wire.take().startswith(b"GET /c")
    assert world.respond(OK) == OK_TO_CLIENT
    assert world.client.is_idle


def test_what_waits_behind_a_request_is_bounded() -> None:
    world = World().pool()
    world.request(GET)
    world.client.receive(b"x" * (limits.MAX_WAITING_BYTES + 1))
    assert not world.wire.reading
    world.respond(OK)
    assert world.wire.ended == "closed", "and it was no request"


def test_an_own_answer_with_more_requests_waiting_is_the_last() -> None:
    world = World()
    world.client.receive(GET.replace(b"www", b"none") * 3)
    assert world.wire.take().count(b"HTTP/1.1 404") == 1
    assert world.wire.ended == "closed"


def test_the_next_request_waits_until_the_responses_before_have_left() -> None:
    world = World().pool()
    world.request(GET)
    world.client.output_blocked()
    world.pool()
    world.respond(OK)
    world.client.receive(GET)
    assert world.opened == [("web", False)]
    world.client.output_drained()
    assert world.opened == [("web", False), ("web", False)]


def test_a_client_that_wants_to_close_is_closed() -> None:
    world = World().pool()
    world.request(GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
    assert b"\r\nconnection: close\r\n" in world.respond(OK)
    assert world.wire.ended == "closed"


def test_an_idle_connection_is_closed_without_a_word() -> None:
    world = World()
    world.client.deadline_passed()
    assert (world.wire.ended, world.wire.take(), world.log) == ("closed", b"", [])


# -- Goodbyes ----------------------------------------------------------------------------------------------------------


def test_goodbye_closes_an_idle_connection() -> None:
    world = World()
    world.client.goodbye()
    assert world.wire.ended == "closed"


def test_goodbye_lets_a_request_end_and_says_so() -> None:
    world = World().pool()
    world.request(GET)
    world.client.goodbye()
    assert b"\r\nconnection: close\r\n" in world.respond(OK)
    assert world.wire.ended == "closed"


def test_goodbye_in_the_middle_of_a_response_is_said_with_the_next_one() -> None:
    world = World().pool()
    world.request(GET)
    world.respond(OK[:-1])
    world.client.goodbye()
    world.respond(OK[-1:])
    assert world.wire.ended is None, "a client that was not told may be sending its next request right now"
    world.pool().request(GET)
    assert b"\r\nconnection: close\r\n" in world.respond(OK)
    assert world.wire.ended == "closed"


def test_a_draining_proxy_serves_one_request_of_a_new_connection() -> None:
    world = World(closing=True).pool()
    world.request(GET)
    assert b"\r\nconnection: close\r\n" in world.respond(OK)
    assert world.wire.ended == "closed"
