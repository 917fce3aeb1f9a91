"""Serves metrics over HTTP to Prometheus: `GET /metrics`, and nothing else."""

import logging
import socket
from collections.abc import Callable, Iterable
from functools import partial

import trio

from l7 import limits
from l7.listener import listen

log = logging.getLogger(__name__)

_FORMAT = "text/plain; version=0.0.4; charset=utf-8"


async def listen_for_scrapes(host: str, port: int) -> list[socket.socket]:
    """A listening socket for each address of the host. Raises OSError."""
    found = await trio.socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    return [listen(str(address[0]), port) for _family, _type, _protocol, _name, address in found]


async def serve_metrics(sockets: Iterable[socket.socket], render: Callable[[], str]) -> None:
    """Answer scrapes until cancelled."""
    listeners = [trio.SocketListener(trio.socket.from_stdlib_socket(sock)) for sock in sockets]
    await trio.serve_listeners(partial(_answer, render), listeners)


async def _answer(render: Callable[[], str], stream: trio.SocketStream) -> None:
    with trio.move_on_after(limits.METRICS_S):
        try:
            request = b""
            while b"\r\n\r\n" not in request:
                chunk = await stream.receive_some(limits.MAX_METRICS_REQUEST_BYTES)
                request += chunk
                if not chunk or len(request) > limits.MAX_METRICS_REQUEST_BYTES:
                    return
            if request.startswith((b"GET /metrics ", b"GET /metrics?")):
                status, body = "200 OK", render()
            else:
                status, body = "404 Not Found", "Metrics are at /metrics.\n"
            content = body.encode()
            head = f"HTTP/1.1 {status}\r\ncontent-type: {_FORMAT}\r\ncontent-length: {len(content)}\r\n"
            await stream.send_all(head.encode() + b"connection: close\r\n\r\n" + content)
        except trio.BrokenResourceError:
            log.info("a scrape was broken off")
