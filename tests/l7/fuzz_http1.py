"""Feeds the HTTP/1 codecs whatever atheris finds, guided by coverage: `python -m tests.l7.fuzz_http1 -runs=100000`.

What must hold, whatever comes:

1. Nothing is raised.
2. The verdict on the first message does not depend on where the bytes were cut.
3. What goes upstream is HTTP/1.1 to another reader (h11), framed once, and one request for each exchange.
4. A client's connection that was refused is ended, and holds no exchange.
"""

import os
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import atheris

with atheris.instrument_imports(include=["l7"]):
    from tests.l7.playbook import GET, World

import h11

from tests.l7.smuggling import ACCEPTED, REFUSED

#: Of a server, each of another framing.
RESPONSES = (
    b"HTTP/1.1 200 OK\r\nContent-Length: 11\r\n\r\nhello world",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n6;a\r\n world\r\n0\r\nX-T: 1\r\n\r\n",
    b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n",
    b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\n\r\nuntil the end",
)

Verdict = tuple[list[tuple[int, str | None]], str | None]


def pieces(data: bytes, size: int) -> list[bytes]:
    return [data[at : at + size] for at in range(0, len(data), size)]


def serve(parts: list[bytes]) -> tuple[Verdict, bytes]:
    """What became of a client's bytes: records and end; and what went to the server, as far as it was whole."""
    world = World().pool()
    for part in parts:
        if world.wire.ended is None:
            world.client.receive(part)
    if world.wire.ended is None:
        world.client.end_of_input()
    assert world.client.exchange is None
    assert world.wire.ended is not None
    return ([(record.status, record.detail) for record in world.log], world.wire.ended), world.upstream.wire.sent


def read_by_another(sent: bytes) -> list[object]:
    """As h11 reads it: heads as they are, bodies joined. Fails on what h11 refuses."""
    reader = h11.Connection(h11.SERVER)
    reader.receive_data(sent)
    seen: list[object] = []
    body = b""
    while True:
        event = reader.next_event()
        if isinstance(event, h11.Request):
            seen.append((event.method, event.target, list(event.headers)))
        elif isinstance(event, h11.Data):
            body += event.data
        elif isinstance(event, h11.EndOfMessage):
            seen.append((body, list(event.headers)))
            assert reader.trailing_data[0] == b"", "one exchange, one request"
            return seen
        else:
            return [*seen, body]


def fuzz_requests(data: bytes, size: int) -> None:
    whole, sent = serve([data])
    cut, sent_cut = serve(pieces(data, size))
    # Of the first request: with others waiting already, an own answer is the last, and what comes later is not read.
    assert cut[0][:1] == whole[0][:1], (cut, whole)
    if sent:
        assert read_by_another(sent)
    if sent and not whole[0][0][1]:
        assert read_by_another(sent) == read_by_another(sent_cut)


def answer(parts: list[bytes]) -> tuple[list[tuple[int, str | None, tuple[str, ...]]], str | None, list[bool]]:
    """What became of a server's bytes: records, end of the client's connection, whether the server's is kept."""
    world = World().pool()
    world.request(GET)
    connection = world.upstream.connection
    for part in parts:
        if connection.exchange is not None:
            connection.receive(part)
    if connection.exchange is not None:
        connection.end_of_input()
    if world.pending is not None:
        world.pending.upstream_lost("connection_refused", untouched=True, nothing_sent=True)
        world.client.end_of_input()
    records = [(record.status, record.detail, tuple(map(str, record.flags))) for record in world.log]
    return records, world.wire.ended, [reusable for _, reusable in world.released]


def fuzz_responses(data: bytes, size: int) -> None:
    whole, cut = answer([data]), answer(pieces(data, size))
    assert cut[:2] == whole[:2], (cut, whole)
    assert len(whole[0]) == 1


def fuzz_one(data: bytes) -> None:
    """One input: the first octet says which side, the second how the rest is cut."""
    if len(data) < 3:
        return
    (fuzz_responses if data[0] & 1 else fuzz_requests)(data[2:], 1 + data[1] % 16)


def write_seeds(folder: Path) -> None:
    """What the tables know already, so that the fuzzer need not find it out."""
    seeds = [b"\0\3" + data for data in (*(row.data for row in REFUSED), *(row.data for row in ACCEPTED))]
    seeds += [b"\1\3" + response for response in RESPONSES]
    for number, seed in enumerate(seeds):
        (folder / str(number)).write_bytes(seed)


def main(arguments: list[str]) -> None:
    """libFuzzer's options."""
    with TemporaryDirectory() as folder:
        write_seeds(Path(folder))
        # In a process of its own: the fuzzer ends its process, and would leave the folder behind.
        child = os.fork()
        if not child:
            atheris.Setup([sys.argv[0], "-max_len=600", *arguments, folder], fuzz_one)
            atheris.Fuzz()
        _, status = os.waitpid(child, 0)
    sys.exit(os.waitstatus_to_exitcode(status))


if __name__ == "__main__":
    main(sys.argv[1:])
