"""WebSockets through a proxy, with the library websockets at both ends."""

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.frames import Opcode
from websockets.trio.client import ClientConnection, connect
from websockets.trio.server import ServerConnection, serve
from websockets.typing import Subprotocol

from l7 import limits
from l7.protocol import websocket
from orchestrator.contract.route import Certificate, Goodbye
from tests.l7.live_proxy import (
    HOST,
    LOOPBACK,
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
from tests.l7.test_goodbye import WallClock
from tests.l7.test_smuggling import Recorder
from tests.l7.test_tunnel import SWITCHING, handshake, text
from tests.l7.test_websocket_frames import written

CERTIFICATE = self_signed(HOST)
Handler = Callable[[ServerConnection], Awaitable[None]]


async def echo(server: ServerConnection) -> None:
    """Every message comes back."""
    async for message in server:
        await server.send(message)


class WebSocketBackend(LiveBackend):
    """Servers of the library websockets. Health checks get its 426, and do not matter: they are rare."""

    def __init__(self, handler: Handler = echo) -> None:
        super().__init__()
        self.handler = handler
        self.codes: list[int | None] = []
        """With which each of its WebSockets was closed."""
        self.paths: list[str] = []

    async def serve(self, task_status: "trio.TaskStatus[None]") -> None:
        with self.life:
            async with trio.open_nursery() as nursery:
                running = await nursery.start(
                    lambda task_status: serve(
                        self._handle,
                        0,
                        host=LOOPBACK,
                        subprotocols=[Subprotocol("chat")],
                        ping_interval=None,
                        task_status=task_status,
                    )
                )
                self.port = running.listeners[0].socket.getsockname()[1]
                task_status.started()

    async def _handle(self, server: ServerConnection) -> None:
        assert server.request is not None
        self.paths.append(server.request.path)
        try:
            await self.handler(server)
        finally:
            await server.wait_closed()
            self.codes.append(server.close_code)


@asynccontextmanager
async def opened(
    live: Live,
    path: str = "/",
    certificate: Certificate | None = None,
    *,
    compression: str | None = "deflate",
    max_queue: int = 16,
) -> AsyncIterator[ClientConnection]:
    """A client, connected through the proxy."""
    async with connect(
        f"{'ws' if certificate is None else 'wss'}://{HOST}{path}",
        stream=await live.connect(),
        ssl=trusting(certificate) if certificate is not None else None,
        subprotocols=[Subprotocol("chat")],
        ping_interval=None,
        proxy=None,
        compression=compression,
        max_queue=max_queue,
    ) as client:
        yield client


def records(log: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in log.read_text().splitlines()]


@pytest.mark.parametrize("certificate", [None, CERTIFICATE], ids=["plain", "TLS"])
async def test_messages_of_all_sizes_both_ways(certificate: Certificate | None, tmp_path: Path) -> None:
    backend = WebSocketBackend()
    log = tmp_path / "access.log"
    async with running_proxy(backend, certificate=certificate, access_log=log) as live:
        async with opened(live, "/chat?room=1", certificate) as client:
            assert client.subprotocol == "chat"
            for message in ("hello", "", b"\0\xff", "x" * 125, "x" * 126, b"y" * 65536, b"z" * 1_000_000):
                await client.send(message)
                assert await client.recv() == message
            await (await client.ping()).wait()
            assert live.proxy.open_flows == {"http/1.1": 0, "websocket": 1}
            assert live.proxy.upstreams.requests_in_flight == 1
        await live.settled(lambda: not live.proxy.clients)
        await live.proxy.log_writer.flush()
        (record,) = records(log)
        assert (record["status"], record["detail"], record["flags"]) == (101, "closed_by_client", "")
        assert (record["method"], record["path"], record["protocol"]) == ("GET", "/chat", "HTTP/1.1")
        assert isinstance(record["bytes_in"], int)
        assert record["bytes_in"] > 1000  # most of it was compressed by the library
        totals = live.proxy.totals()
        assert totals['tunnels_opened{protocol="HTTP/1.1"}'] == 1
        assert totals['tunnels_ended{reason="closed_by_client"}'] == 1
        assert totals['request_seconds_bucket{le="+Inf"}'] == 0, "its life is no answer's time"
    assert (backend.codes, backend.paths) == ([1000], ["/chat?room=1"])


async def test_a_server_that_says_no_is_heard_and_the_connection_ends() -> None:
    async def no(request: Request) -> None:
        await request.stream.send_all(b"HTTP/1.1 403 Forbidden\r\ncontent-length: 3\r\n\r\nno\n")

    async with running_proxy(LiveBackend(no)) as live:
        with pytest.raises(InvalidStatus) as refused:
            async with opened(live):
                raise AssertionError("it was refused")
        assert refused.value.response.status_code == 403
        await live.settled(lambda: not live.proxy.clients)


async def test_a_drain_says_1001_to_both_ends_at_the_end_of_the_grace() -> None:
    backend, clock = WebSocketBackend(), WallClock()
    async with running_proxy(backend, certificate=CERTIFICATE, wall_clock=clock) as live:
        async with opened(live, certificate=CERTIFICATE) as client:
            await live.change(goodbye=Goodbye(started_at=clock(), spread_s=5))
            clock.ahead = 6
            live.proxy.say_goodbyes()
            await client.send("still there")
            assert await client.recv() == "still there"
            assert live.proxy.open_flows == {"http/1.1": 0, "websocket": 1}
            clock.ahead = 7 + limits.GOODBYE_IDLE_S
            live.proxy.say_goodbyes()
            with pytest.raises(ConnectionClosed), trio.fail_after(5):
                await client.recv()
            assert client.close_code == 1001
        await live.settled(lambda: live.proxy.open_flows == {"http/1.1": 0})
        await live.settled(lambda: backend.codes == [1001])
        assert live.proxy.totals()['tunnels_ended{reason="goodbye"}'] == 1


async def test_a_withdrawn_goodbye_leaves_it_open() -> None:
    clock = WallClock()
    async with running_proxy(WebSocketBackend(), wall_clock=clock) as live, opened(live) as client:
        await live.change(goodbye=Goodbye(started_at=clock(), spread_s=5))
        clock.ahead = 6
        live.proxy.say_goodbyes()
        await live.change(goodbye=None)
        clock.ahead = 100
        live.proxy.say_goodbyes()
        await client.send("still there")
        assert await client.recv() == "still there"


async def test_a_process_that_stops_says_1001_within_its_grace() -> None:
    async with running_proxy(WebSocketBackend()) as live, opened(live) as client:
        live.proxy.stop_accepting(0.9)
        with pytest.raises(ConnectionClosed), trio.fail_after(5):
            await client.recv()
        assert client.close_code == 1001
        with trio.fail_after(5):
            await live.proxy.all_clients_gone()


async def test_a_change_that_leaves_its_route_alone_leaves_it_open() -> None:
    async with running_proxy(WebSocketBackend()) as live, opened(live) as client:
        await live.change(l4_nodes={7: "l4-1", 8: "l4-2"})
        await client.send("still there")
        assert await client.recv() == "still there"


async def test_a_quiet_client_is_pinged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "TUNNEL_PING_S", 0.2)
    async with running_proxy(WebSocketBackend()) as live, opened(live) as client:
        await live.settled(lambda: live.proxy.totals().get("tunnel_pings", 0) >= 3)
        await client.send("and works")
        assert await client.recv() == "and works"


@pytest.mark.parametrize("flood_from", ["client", "server"])
async def test_a_side_that_does_not_read_stops_the_other(flood_from: str) -> None:
    go_on = trio.Event()
    chunk = b"x" * 100_000
    sent = got = 0

    async def handle(server: ServerConnection) -> None:
        nonlocal sent, got
        if flood_from == "server":
            for _ in range(300):
                await server.send(chunk)
                sent += len(chunk)
        else:
            await go_on.wait()
            async for message in server:
                got += len(message)

    backend = WebSocketBackend(handle)
    async with running_proxy(backend) as live, opened(live, compression=None, max_queue=1) as client:
        if flood_from == "client":

            async def flood() -> None:
                nonlocal sent
                for _ in range(300):
                    await client.send(chunk)
                    sent += len(chunk)

            live.nursery.start_soon(flood)
        await live.settled(lambda: sent > 0)
        before = 0
        while before < sent:
            before = sent
            await trio.sleep(0.2)
        (connection,) = live.proxy.clients
        assert connection.queued_bytes <= limits.OUTPUT_HIGH_WATER_BYTES + limits.READ_BYTES
        assert 0 < sent < 300 * len(chunk)
        go_on.set()
        with trio.fail_after(20):
            while got < 300 * len(chunk) and flood_from == "server":
                got += len(await client.recv())
            await live.settled(lambda: got == 300 * len(chunk))


async def test_resets_pass_both_ways() -> None:
    ended: list[str] = []

    async def raw(request: Request) -> None:
        await request.stream.send_all(SWITCHING)
        if request.path == "/reset":
            reset(request.stream)
            return
        try:
            await request.stream.receive_some(1)
            ended.append("end")
        except trio.BrokenResourceError:
            ended.append("reset")

    async with running_proxy(LiveBackend(raw)) as live:
        stream = await live.connect()
        await stream.send_all(handshake().replace(b"/chat?room=1", b"/stay"))
        assert b" 101 " in await stream.receive_some(65536)
        reset(stream)
        await live.settled(lambda: ended == ["reset"])
        stream = await live.connect()
        await stream.send_all(handshake().replace(b"/chat?room=1", b"/reset"))
        with pytest.raises(trio.BrokenResourceError), trio.fail_after(5):
            while await stream.receive_some(65536):
                pass
        await live.settled(lambda: not live.proxy.clients and not live.proxy.upstreams.servers()[0].total)


async def test_the_end_of_a_client_is_the_end_of_it() -> None:
    backend = WebSocketBackend()
    async with running_proxy(backend) as live:
        stream = await live.connect()
        await stream.send_all(handshake(b"Sec-WebSocket-Protocol: chat"))
        assert b" 101 " in await stream.receive_some(65536)
        await stream.send_eof()
        assert await read_all(stream) == b""
        await live.settled(lambda: backend.codes == [1006])


# -- Smuggling ---------------------------------------------------------------------------------------------------------

SMUGGLED = get("/smuggled")


class Answering(Recorder):
    """Answers a handshake, and whatever comes first, with these bytes; keeps what it is sent."""

    def __init__(self, said: bytes) -> None:
        super().__init__()
        self.said = said

    async def _converse(self, stream: trio.SocketStream) -> None:
        received = bytearray()
        try:
            while True:
                data = await stream.receive_some(65536)
                if not data:
                    return
                if b"edgefleet-health" in data:
                    await stream.send_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
                    return
                if not received:
                    self.received.append(received)
                    await stream.send_all(self.said)
                received += data
        except trio.BrokenResourceError:
            return


WRONG = SWITCHING.replace(b"Accept: s3", b"Accept: z3")


@pytest.mark.parametrize("ahead", [True, False], ids=["ahead of the answer", "behind the answer"])
@pytest.mark.parametrize(
    ("said", "status"),
    [
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", 200, id="200"),
        pytest.param(b"HTTP/1.1 426 Upgrade Required\r\nContent-Length: 0\r\n\r\n", 426, id="426"),
        pytest.param(b"HTTP/1.1 404 Not Found\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 404, id="404"),
        pytest.param(b"HTTP/1.1 200 OK\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n", 200, id="until close"),
        pytest.param(WRONG, 502, id="101 with another accept"),
        pytest.param(b"HTTP/1.1 101 Switching Protocols\r\n\r\n", 502, id="101 with nothing"),
        pytest.param(
            b"HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 401 No\r\nContent-Length: 0\r\n\r\n", 401, id="103, 401"
        ),
    ],
)
async def test_without_a_tunnel_nothing_that_the_client_sends_is_read_as_anything(
    said: bytes, status: int, ahead: bool
) -> None:
    backend = Answering(said)
    async with running_proxy(backend) as live:
        async with await live.connect() as stream:
            await stream.send_all(handshake() + (SMUGGLED if ahead else b""))
            with trio.fail_after(5):
                answer = await stream.receive_some(65536)
                if not ahead:
                    while b"HTTP/1.1 %d" % status not in answer:
                        answer += await stream.receive_some(65536)
                    await stream.send_all(SMUGGLED)
                if status == 200 and b"Length" not in said:
                    backend.life.cancel()
            answer += await read_all(stream)
        assert b"HTTP/1.1 %d " % status in answer
        assert b"HTTP/1.1 101" not in answer
    (received,) = backend.received
    assert received.count(b"GET /") == 1
    assert b"smuggled" not in received
    assert live.proxy.metrics.requests == 1


async def test_a_pooled_connection_is_never_poisoned_by_a_failed_handshake() -> None:
    backend = Recorder()
    async with running_proxy(backend) as live:
        for _ in range(3):
            async with await live.connect() as stream:
                await stream.send_all(handshake() + text(b"frame", masked=True) + SMUGGLED)
                assert b"connection: close" in (await read_response(stream))[0]
            assert (await live.get("/good")).endswith(b"ok")
    assert [target for _, target, _ in backend.whole] == [b"/chat?room=1", b"/good"] * 3


async def test_bytes_in_a_tunnel_are_bytes_whatever_they_look_like() -> None:
    async def raw(request: Request) -> None:
        await request.stream.send_all(SWITCHING)
        await request.stream.send_all(await request.stream.receive_some(65536))
        await request.stream.send_all(written(Opcode.CLOSE, b"", masked=False))

    backend = LiveBackend(raw)
    async with running_proxy(backend) as live, await live.connect() as stream:
        await stream.send_all(handshake())
        await stream.send_all(SMUGGLED)
        answer = b""
        with trio.fail_after(5):
            while SMUGGLED not in answer:
                answer += await stream.receive_some(65536)
        assert answer.count(b"HTTP/1.1 101") == 1
        assert live.proxy.open_flows["websocket"] == 1
        assert websocket.PROTOCOL in answer
    assert len(backend.requests) == 1
