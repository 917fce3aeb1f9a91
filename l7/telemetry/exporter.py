"""Serves metrics over HTTP to Prometheus: `GET /metrics`, and nothing else."""

import logging
from collections.abc import Callable
from functools import partial

import trio

from l7 import limits

log = logging.getLogger(__name__)

_FORMAT = "text/plain; version=0.0.4; charset=utf-8"


async def serve_metrics(address: str, port: int, render: Callable[[], str]) -> None:
    """Answer scrapes until cancelled. Raises OSError if the address cannot be bound."""
    await trio.serve_tcp(partial(_answer, render), port, host=address)


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
