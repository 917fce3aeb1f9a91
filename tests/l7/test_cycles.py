"""A worker leaves nothing behind for the collector of cycles, which comes so seldom that it would pile up."""

import gc
import ssl
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator

import pytest
import trio

from l7 import limits
from l7.connection import ClientSocket
from l7.exchange import Exchange
from l7.protocol.http1 import ServerConnection, UpstreamConnection
from l7.protocol.http2 import Http2Connection, frames
from l7.protocol.http2.client import ClientConnection
from l7.protocol.http2.session import Session
from l7.protocol.http2.stream import Stream
from l7.shell import Flow
from l7.tunnel import Tunnel
from l7.upstream.connection import UpstreamSocket
from l7.upstream.multiplexed import MultiplexedSocket
from orchestrator.contract.route import BackendProtocol
from tests.l7.http2_playbook import GET, data, request
from tests.l7.live_http2_backend import LiveHttp2Backend
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
OF_A_CONNECTION = (
    ClientSocket,
    UpstreamSocket,
    MultiplexedSocket,
    ServerConnection,
    UpstreamConnection,
    Http2Connection,
    ClientConnection,
    Session,
    Stream,
    Exchange,
    Tunnel,
    Flow,
    ssl.SSLSocket,
)


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


CALL = [(b":method", b"POST"), *GET[1:], (b"content-type", b"application/grpc"), (b"te", b"trailers")]


async def finished(stream: trio.SSLStream[trio.SocketStream]) -> None:
    await stream.send_all(
        frames.PREFACE + frames.settings({}) + request(1) + request(3, CALL, end=False) + data(3, end=True)
    )
    got = b""
    while got.count(b"hello") < 2:
        got += await stream.receive_some(65536)


async def reset_by_both(stream: trio.SSLStream[trio.SocketStream]) -> None:
    held = [(b":path", b"/hold") if name == b":path" else (name, value) for name, value in GET]
    await stream.send_all(frames.PREFACE + frames.settings({}) + request(1, held) + request(3, [*held, *CALL[4:]]))
    await trio.sleep(0.05)
    await stream.send_all(frames.rst_stream(1, frames.ErrorCode.CANCEL) + request(5, GET[:3]))
    await stream.receive_some(65536)


async def broken(stream: trio.SSLStream[trio.SocketStream]) -> None:
    await stream.send_all(frames.PREFACE + frames.settings({}) + request(1) + b"\xff" * 9)
    while await stream.receive_some(65536):
        pass


@pytest.mark.usefixtures("without_collector")
@pytest.mark.parametrize("converse", [finished, reset_by_both, broken])
async def test_nothing_is_left_of_http2_on_both_sides(
    converse: Callable[[trio.SSLStream[trio.SocketStream]], Awaitable[None]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "H2_UPSTREAM_IDLE_S", 0.1)
    certificate = self_signed(HOST)
    context = trusting(certificate)
    context.set_alpn_protocols(["h2"])

    async def connect(live: Live) -> None:
        stream = trio.SSLStream(await live.connect(), context, server_hostname=HOST, https_compatible=True)
        with trio.fail_after(10):
            await converse(stream)
        await stream.transport_stream.aclose()
        await live.settled(lambda: not live.proxy.clients and not live.proxy.upstreams.servers()[0].total)

    async with running_proxy(LiveHttp2Backend(), certificate=certificate) as live:
        pool = live.snapshot.backends[0]
        await live.change(backends=(pool.model_copy(update={"protocol": BackendProtocol.H2}),))
        await connect(live)
        before = held()
        for _ in range(ROUNDS):
            await connect(live)
        assert held() - before == Counter()
