"""A worker leaves nothing behind for the collector of cycles, which comes so seldom that it would pile up."""

import gc
import ssl
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator

import pytest
import trio

from l7.connection import ClientSocket
from l7.protocol.http1 import ServerConnection, UpstreamConnection
from l7.shell import Flow
from l7.tunnel import Tunnel
from l7.upstream.connection import UpstreamSocket
from tests.l7.live_proxy import (
    HOST,
    Live,
    LiveBackend,
    Request,
    get,
    read_all,
    read_response,
    reset,
    running_proxy,
    self_signed,
    trusting,
)
from tests.l7.test_tunnel import SWITCHING, handshake

ROUNDS = 5
#: What a connection is made of.
OF_A_CONNECTION = (ClientSocket, UpstreamSocket, ServerConnection, UpstreamConnection, Tunnel, Flow, ssl.SSLSocket)


@pytest.fixture
def without_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def held() -> Counter[str]:
    """Objects of connections, those included that nobody can reach any more."""
    return Counter(type(each).__name__ for each in gc.get_objects() if isinstance(each, OF_A_CONNECTION))


async def closed_by_the_proxy(live: Live) -> None:
    assert (await live.get()).endswith(b"hello")


async def closed_by_the_client(live: Live) -> None:
    async with await live.connect() as stream:
        await stream.send_all(get())
        assert (await read_response(stream))[1] == b"hello"


async def reset_by_the_client(live: Live) -> None:
    stream = await live.connect()
    await stream.send_all(get())
    await read_response(stream)
    reset(stream)


async def reset_in_the_middle(live: Live) -> None:
    stream = await live.connect()
    await stream.send_all(get("/never"))
    await live.settled(lambda: live.proxy.upstreams.requests_in_flight == 1)
    reset(stream)


async def refused(live: Live) -> None:
    async with await live.connect() as stream:
        await stream.send_all(b"NONSENSE\r\n\r\n")
        assert (await read_all(stream)).startswith(b"HTTP/1.1 400 ")


async def cut_by_the_server(live: Live) -> None:
    assert (await live.get("/cut")).startswith(b"HTTP/1.1 502 ")


async def tunnel_ended(live: Live) -> None:
    async with await live.connect() as stream:
        await stream.send_all(handshake())
        assert (await read_all(stream)).startswith(b"HTTP/1.1 101 ")


async def tunnel_reset(live: Live) -> None:
    stream = await live.connect()
    await stream.send_all(handshake(start=b"GET /open HTTP/1.1"))
    assert b" 101 " in await stream.receive_some(65536)
    reset(stream)


async def nothing_said(live: Live) -> None:
    await (await live.connect()).aclose()


@pytest.mark.usefixtures("without_collector")
@pytest.mark.parametrize(
    "connect",
    [
        closed_by_the_proxy,
        closed_by_the_client,
        reset_by_the_client,
        reset_in_the_middle,
        refused,
        cut_by_the_server,
        nothing_said,
        tunnel_ended,
        tunnel_reset,
    ],
)
async def test_nothing_is_left_of_a_connection(connect: Callable[[Live], Awaitable[None]]) -> None:
    async def answer(request: Request) -> None:
        if request.path == "/cut":
            await request.stream.send_all(b"HTTP/1.1 nonsense\r\n\r\n")
        elif b"upgrade: websocket" in request.head:
            await request.stream.send_all(SWITCHING)
            if request.path != "/open":
                await request.stream.aclose()
            else:
                await request.stream.receive_some(1)
        elif request.path != "/never":
            await request.stream.send_all(b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 5\r\n\r\nhello")

    async with running_proxy(LiveBackend(answer)) as live:
        before = held()
        for _ in range(ROUNDS):
            await connect(live)
            await live.settled(lambda: not live.proxy.clients and not live.proxy.upstreams.servers()[0].total)
        assert held() - before == Counter()


@pytest.mark.usefixtures("without_collector")
@pytest.mark.parametrize("handshake", ["whole", "refused"])
async def test_nothing_is_left_of_a_tls_connection(handshake: str) -> None:
    certificate = self_signed(HOST)

    async def connect(live: Live) -> None:
        stream = trio.SSLStream(
            await live.connect(), trusting(certificate), server_hostname=HOST if handshake == "whole" else "another"
        )
        if handshake == "refused":
            with pytest.raises(trio.BrokenResourceError):
                await stream.do_handshake()
            await stream.transport_stream.aclose()
            return
        await stream.send_all(get(close=True))
        assert (await read_response(stream))[1] == b"hello"
        await stream.aclose()

    async with running_proxy(LiveBackend(), certificate=certificate) as live:
        await connect(live)  # makes the connection to the server, which is kept
        await live.settled(lambda: not live.proxy.clients)
        before = held()
        for _ in range(ROUNDS):
            await connect(live)
            await live.settled(lambda: not live.proxy.clients)
        assert held() - before == Counter()


@pytest.mark.usefixtures("without_collector")
async def test_nothing_is_left_of_a_server_that_takes_no_connections() -> None:
    backend = LiveBackend()
    async with running_proxy(backend) as live:
        await live.settled(lambda: backend.connections == 1)  # the health check's
        backend.life.cancel()
        await live.get()
        before = held()
        for _ in range(ROUNDS):
            assert (await live.get()).startswith(b"HTTP/1.1 503 ")
            await live.settled(lambda: not live.proxy.clients)
        assert held() - before == Counter()
