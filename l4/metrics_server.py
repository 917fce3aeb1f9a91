"""The small HTTP server that Prometheus scrapes an agent by: GET /metrics, one answer per connection."""

import logging
from collections.abc import Awaitable, Callable
from functools import partial
from http import HTTPStatus
from typing import NoReturn

import trio

log = logging.getLogger(__name__)

#: Prometheus sends some 300 octets; its default scrape timeout is 10 s.
MAX_REQUEST = 8192
SCRAPE_TIMEOUT_S = 10.0
#: A few Prometheus servers, and somebody with curl.
MAX_CONNECTIONS = 8

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


async def serve_metrics(
    host: str,
    port: int,
    expose: Callable[[], Awaitable[bytes]],
    *,
    task_status: trio.TaskStatus[list[trio.SocketListener]] = trio.TASK_STATUS_IGNORED,
) -> NoReturn:
    """Task: answers scrapes with what `expose` returns. Raises OSError if the address cannot be bound."""
    limit = trio.CapacityLimiter(MAX_CONNECTIONS)
    await trio.serve_tcp(partial(_serve, limit, expose), port, host=host, task_status=task_status)
    raise AssertionError("a server ends by cancellation only")


async def _serve(
    limit: trio.CapacityLimiter, expose: Callable[[], Awaitable[bytes]], stream: trio.SocketStream
) -> None:
    try:
        limit.acquire_on_behalf_of_nowait(stream)
    except trio.WouldBlock:
        await stream.aclose()
        return
    try:
        with trio.move_on_after(SCRAPE_TIMEOUT_S):
            async with stream:
                await stream.send_all(await _answer(await _read_request(stream), expose))
    except trio.BrokenResourceError:
        log.info("a scrape was given up by its client")
    finally:
        limit.release_on_behalf_of(stream)


async def _read_request(stream: trio.SocketStream) -> bytes:
    """The request's first line. Its header is read to the end, so that closing does not reset the connection."""
    received = b""
    while b"\r\n\r\n" not in received and len(received) <= MAX_REQUEST:
        chunk = await stream.receive_some(MAX_REQUEST)
        if not chunk:
            break
        received += chunk
    return received.split(b"\r\n", 1)[0]


async def _answer(request_line: bytes, expose: Callable[[], Awaitable[bytes]]) -> bytes:
    match request_line.split(b" "):
        case [b"GET", b"/metrics", _]:
            return _response(HTTPStatus.OK, await expose(), CONTENT_TYPE)
        case [b"GET", _, _]:
            return _response(HTTPStatus.NOT_FOUND, b"see /metrics\n")
        case [_, _, _]:
            return _response(HTTPStatus.METHOD_NOT_ALLOWED, b"GET /metrics only\n")
        case _:
            return _response(HTTPStatus.BAD_REQUEST, b"GET /metrics\n")


def _response(status: HTTPStatus, body: bytes, content_type: str = "text/plain") -> bytes:
    head = (
        f"HTTP/1.1 {status.value} {status.phrase}\r\n"
        f"Content-Type: {content_type}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    return head.encode() + body
