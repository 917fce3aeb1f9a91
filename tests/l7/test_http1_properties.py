"""Properties of the codecs: how the bytes were cut does not matter, and no bytes do harm."""

import itertools
import random
import re

from hypothesis import given, settings
from hypothesis import strategies as st

from l7.telemetry.flags import Flag
from tests.l7.playbook import World

REQUESTS = (
    b"GET /a/../b?c=d HTTP/1.1\r\nHost: www.example.com\r\nAccept: */*\r\n\r\n",
    b"POST /u HTTP/1.1\r\nHost: www.example.com\r\nContent-Length: 11\r\n\r\nhello world",
    b"PUT /c HTTP/1.1\r\nHost: www.example.com\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"5;x=y\r\nhello\r\n6\r\n world\r\n0\r\nX-T: 1\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: none.example.com\r\nConnection: close\r\n\r\n",
)
RESPONSES = (
    b"HTTP/1.1 200 OK\r\nContent-Length: 11\r\n\r\nhello world",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n6;a\r\n world\r\n0\r\nX-T: 2\r\n\r\n",
    b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n",
)
CHUNK = re.compile(rb"([0-9a-f]+)\r\n")


def pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    """`data`, cut at these places."""
    edges = [0, *sorted({cut % (len(data) + 1) for cut in cuts}), len(data)]
    return [data[a:b] for a, b in itertools.pairwise(edges) if a != b]


def unframed(message: bytes) -> tuple[bytes, bytes]:
    """Head and body of a message as the proxy wrote it: its chunks are cut where its input was."""
    head, _, body = message.partition(b"\r\n\r\n")
    if b"transfer-encoding: chunked" not in head:
        return head, body
    whole, at = b"", 0
    while True:
        size = CHUNK.match(body, at)
        assert size is not None
        length = int(size[1], 16)
        at = size.end()
        if not length:
            assert body.endswith(b"\r\n")
            return head, whole + b"|" + body[at:]
        whole += body[at : at + length]
        at += length + 2


def framings(head: bytes) -> int:
    return len(re.findall(rb"(?i)\r\n(?:content-length|transfer-encoding):", head))


@given(st.sampled_from(REQUESTS), st.lists(st.integers(0, 1000), max_size=20))
def test_a_request_is_the_same_whatever_the_cuts(request: bytes, cuts: list[int]) -> None:
    def run(parts: list[bytes]) -> tuple[tuple[bytes, bytes], bytes]:
        world = World().pool()
        for part in parts:
            world.client.receive(part)
        return unframed(world.upstream.wire.sent or b"\r\n\r\n"), world.wire.sent

    assert run(pieces(request, cuts)) == run([request])


@given(st.sampled_from(RESPONSES), st.lists(st.integers(0, 1000), max_size=20))
def test_a_response_is_the_same_whatever_the_cuts(response: bytes, cuts: list[int]) -> None:
    def run(parts: list[bytes]) -> tuple[tuple[bytes, bytes], list[bool]]:
        world = World().pool()
        world.request(REQUESTS[0].replace(b"Accept: */*", b"TE: trailers"))
        for part in parts:
            world.upstream.connection.receive(part)
        return unframed(world.wire.sent), [reusable for _, reusable in world.released]

    assert run(pieces(response, cuts)) == run([response])


NAMES = st.from_regex(re.compile(rb"x-[a-z0-9!#$%&'*+.^`|~-]{1,10}", re.ASCII), fullmatch=True)
VALUES = st.binary(max_size=40).map(lambda raw: re.sub(rb"[\x00-\x08\x0a-\x1f\x7f]", b"", raw).strip(b" \t"))
EDGE_ONLY = {b"x-forwarded-for", b"x-forwarded-host", b"x-forwarded-port", b"x-forwarded-proto", b"x-real-ip"}


@given(st.lists(st.tuples(NAMES, VALUES), max_size=20))
def test_headers_arrive_in_order_and_unchanged_in_both_directions(headers: list[tuple[bytes, bytes]]) -> None:
    headers = [header for header in headers if header[0] not in EDGE_ONLY | {b"x-request-id"}]
    lines = b"".join(name.upper() + b":  " + value + b" \r\n" for name, value in headers)
    expected = [name + b": " + value for name, value in headers]
    world = World().pool()
    sent = world.request(b"GET / HTTP/1.1\r\nHost: www.example.com\r\n" + lines + b"\r\n")
    assert sent.split(b"\r\n")[2 : 2 + len(expected)] == expected
    answer = world.respond(b"HTTP/1.1 200 OK\r\n" + lines + b"Content-Length: 0\r\n\r\n")
    assert answer.split(b"\r\n")[1 : 1 + len(expected)] == expected


FRAMING = st.lists(
    st.sampled_from(
        [
            b"Content-Length: 0\r\n",
            b"Content-Length: 3\r\n",
            b"content-length: 3, 3\r\n",
            b"Transfer-Encoding: chunked\r\n",
            b"Transfer-Encoding: identity\r\n",
            b"Connection: content-length, transfer-encoding\r\n",
            b"Connection: close\r\n",
            b"Trailer: Content-Length\r\n",
        ]
    ),
    max_size=4,
)


@given(FRAMING, st.sampled_from([b"GET", b"POST", b"HEAD"]), st.sampled_from([b"1.0", b"1.1"]))
def test_never_two_framings_upstream(lines: list[bytes], method: bytes, version: bytes) -> None:
    world = World().pool()
    head = method + b" / HTTP/" + version + b"\r\nHost: www.example.com\r\n" + b"".join(lines) + b"\r\n"
    sent = world.request(head)
    assert framings(sent.partition(b"\r\n\r\n")[0]) <= 1


@given(FRAMING, st.sampled_from([200, 204, 304]), st.sampled_from([b"GET", b"HEAD"]), st.booleans())
def test_never_two_framings_to_the_client(lines: list[bytes], status: int, method: bytes, http10: bool) -> None:
    world = World().pool()
    world.request(method + b" / HTTP/1.%d\r\nHost: www.example.com\r\n\r\n" % (not http10))
    answer = world.respond(b"HTTP/1.1 %d x\r\n" % status + b"".join(lines) + b"\r\n")
    assert framings(answer.partition(b"\r\n\r\n")[0]) <= 1


def mutated(seed: bytes, chance: random.Random) -> bytes:
    data = bytearray(seed)
    for _ in range(chance.randint(1, 4)):
        at = chance.randrange(len(data) + 1)
        match chance.randrange(4):
            case 0:
                data[at:at] = chance.choice(
                    [b"\r", b"\n", b"\r\n", b"\0", b" ", b":", b"\t", b"0", b"\xff", b"Content-Length: 1\r\n"]
                )
            case 1:
                del data[at : at + chance.randint(1, 5)]
            case 2:
                data[at : at + 1] = chance.randbytes(1)
            case _:
                other = chance.randrange(len(data) + 1)
                data[at:at] = data[min(at, other) : max(at, other)][:50]
    return bytes(data)


def check_invariants(world: World) -> None:
    """Whatever came: at most one record a request, nothing sent after the end, one state that fits the other."""
    assert len({record.request_id for record in world.log}) == len(world.log)
    if world.wire.ended is not None:
        assert world.client.exchange is None
        assert not world.client.is_idle


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 2**32))
def test_no_request_bytes_do_harm(number: int) -> None:
    chance = random.Random(number)
    world = World().pool()
    data = b"".join(mutated(chance.choice(REQUESTS), chance) for _ in range(chance.randint(1, 3)))
    for part in pieces(data, [chance.randrange(len(data) + 1) for _ in range(3)]):
        world.client.receive(part)
        check_invariants(world)
    world.client.end_of_input()
    check_invariants(world)
    assert world.client.exchange is None
    assert world.wire.ended is not None
    assert world.pending is None


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 2**32))
def test_no_response_bytes_do_harm(number: int) -> None:
    chance = random.Random(number)
    world = World().pool()
    world.request(REQUESTS[0])
    connection = world.upstream.connection
    for part in pieces(mutated(chance.choice(RESPONSES), chance), [chance.randrange(99)]):
        connection.receive(part)
        check_invariants(world)
    connection.end_of_input()
    if world.pending is not None:
        world.pending.upstream_failed(Flag.UPSTREAM_CONNECTION_FAILURE, "connection_refused")
    assert len(world.log) == 1
    assert world.client.exchange is None
    assert connection.exchange is None
    assert [each for each, _ in world.released] == [connection], "a connection is given back once"


@given(st.binary(min_size=1, max_size=300))
def test_noise_is_refused(noise: bytes) -> None:
    world = World().pool()
    world.client.receive(noise)
    world.client.end_of_input()
    assert world.wire.ended is not None
    assert world.opened == []
