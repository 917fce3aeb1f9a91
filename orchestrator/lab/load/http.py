"""The little HTTP/1.1 that the load needs: write a request, read an answer whose length is known."""

import hashlib
from dataclasses import dataclass

from orchestrator.lab.load.breakage import Breakage, Broken, ClosedBeforeAnswer
from orchestrator.lab.load.connection import TlsConnection

#: Longest head of an answer that is read (nginx and Envoy default to 8 to 60 KiB for a whole head).
MAX_HEAD_BYTES = 16_384
END_OF_HEAD = b"\r\n\r\n"


@dataclass(frozen=True, slots=True)
class Head:
    """Status line and headers of an answer."""

    status: int
    length: int
    closes: bool
    """The server will close after this answer: `Connection: close`."""
    backend: str = ""
    """Who answered, as the lab's backends say in `X-Backend`."""


def request_bytes(method: str, path: str, host: str, *, body_length: int | None = None) -> bytes:
    """A request's head."""
    length = f"Content-Length: {body_length}\r\n" if body_length is not None else ""
    return f"{method} {path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: edgefleet-load\r\n{length}\r\n".encode()


async def read_head(connection: TlsConnection) -> tuple[Head, bytes]:
    """The answer's head, and what of the body came with it.

    Raises ClosedBeforeAnswer if the connection ended cleanly before the first byte, otherwise Broken.
    """
    received = b""
    while END_OF_HEAD not in received:
        if len(received) > MAX_HEAD_BYTES:
            raise Broken(Breakage.UNEXPECTED_ANSWER, f"no end of head in {len(received)} bytes")
        data = await connection.receive()
        if not data:
            if not received:
                raise ClosedBeforeAnswer
            raise Broken(Breakage.TRUNCATED, f"closed after {len(received)} bytes of the answer's head")
        received += data
    head, _, rest = received.partition(END_OF_HEAD)
    parsed = parse_head(head)
    connection.answered_by = parsed.backend
    return parsed, rest


def parse_head(head: bytes) -> Head:
    """Raises Broken if this is not the head of an HTTP/1.1 answer with a length."""
    status_line, *lines = head.split(b"\r\n")
    parts = status_line.split(b" ", 2)
    if len(parts) < 2 or parts[0] != b"HTTP/1.1" or not (len(parts[1]) == 3 and parts[1].isdigit()):
        raise Broken(Breakage.UNEXPECTED_ANSWER, f"not an HTTP/1.1 status line: {status_line[:80]!r}")
    headers = {}
    for line in lines:
        name, colon, value = line.partition(b":")
        if not colon:
            raise Broken(Breakage.UNEXPECTED_ANSWER, f"not a header line: {line[:80]!r}")
        headers[name.strip().lower()] = value.strip()
    length = headers.get(b"content-length", b"")
    if not length.isdigit():
        raise Broken(Breakage.UNEXPECTED_ANSWER, f"{parts[1].decode()} without Content-Length")
    return Head(
        int(parts[1]),
        int(length),
        closes=headers.get(b"connection", b"").lower() == b"close",
        backend=headers.get(b"x-backend", b"").decode("latin-1"),
    )


async def read_answer(connection: TlsConnection, size: int, sha256: str) -> Head:
    """Read a whole answer that must be 200 with these bytes. Raises ClosedBeforeAnswer, Broken."""
    head, first = await read_head(connection)
    if head.status != 200:
        raise Broken(Breakage.UNEXPECTED_ANSWER, f"HTTP {head.status}, 200 was due")
    if head.length != size:
        raise Broken(Breakage.UNEXPECTED_ANSWER, f"{head.length} bytes announced, {size} were due")
    digest = hashlib.sha256(first)
    received = len(first)
    while received < size:
        data = await connection.receive()
        if not data:
            raise Broken(Breakage.TRUNCATED, f"closed after {received} of {size} bytes")
        digest.update(data)
        received += len(data)
    if received > size or digest.hexdigest() != sha256:
        raise Broken(Breakage.CORRUPT, f"{received} bytes, not those that were due")
    return head
