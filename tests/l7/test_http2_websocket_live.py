"""WebSockets over HTTP/2 by a client of the library h2, to servers of the library websockets."""

from pathlib import Path

import trio
from h2.events import DataReceived, ResponseReceived, StreamEnded
from hyperframe.frame import GoAwayFrame
from websockets.client import ClientProtocol
from websockets.frames import Frame
from websockets.protocol import State
from websockets.uri import parse_uri

from l7 import limits
from orchestrator.contract.route import Goodbye
from tests.l7.live_proxy import HOST, Live, running_proxy
from tests.l7.test_goodbye import WallClock
from tests.l7.test_http2_live import CERTIFICATE, Client, connect
from tests.l7.test_websocket_live import WebSocketBackend, records


class WebSocket:
    """One stream of a connection: the library websockets makes and reads the frames."""

    def __init__(self, client: Client, stream_id: int) -> None:
        self.client = client
        self.stream_id = stream_id
        self.protocol = ClientProtocol(parse_uri(f"wss://{HOST}/"), state=State.OPEN)
        self.ended = False

    async def flush(self) -> None:
        for data in self.protocol.data_to_send():
            at = 0
            while at < len(data):
                window = min(self.client.h2.local_flow_control_window(self.stream_id), 16384)
                if not window:
                    await self.read()
                    continue
                self.client.h2.send_data(self.stream_id, data[at : at + window])
                at += window
                await self.client.send()

    async def read(self) -> None:
        with trio.fail_after(10):
            for event in await self.client.events():
                if isinstance(event, DataReceived) and event.stream_id == self.stream_id:
                    self.protocol.receive_data(event.data or b"")
                elif isinstance(event, StreamEnded):
                    self.protocol.receive_eof()
                    self.ended = True

    async def send(self, data: bytes) -> None:
        self.protocol.send_binary(data)
        await self.flush()

    async def receive(self) -> bytes:
        """One message."""
        message = b""
        while True:
            for event in self.protocol.events_received():
                assert isinstance(event, Frame)
                message += event.data
                if event.fin:
                    return message
            await self.read()


async def opened(client: Client, path: str = "/") -> WebSocket:
    assert client.h2.remote_settings.enable_connect_protocol == 1
    stream_id = client.h2.get_next_available_stream_id()
    fields = [
        (":method", "CONNECT"),
        (":protocol", "websocket"),
        (":scheme", "https"),
        (":path", path),
        (":authority", HOST),
        ("sec-websocket-version", "13"),
        ("sec-websocket-protocol", "chat"),
    ]
    client.h2.send_headers(stream_id, fields)
    await client.send()
    (answer,) = [each for each in await client.until(ResponseReceived) if isinstance(each, ResponseReceived)]
    assert dict(answer.headers or [])[b":status"] == b"200"
    assert dict(answer.headers or [])[b"sec-websocket-protocol"] == b"chat"
    return WebSocket(client, stream_id)


async def greeted(live: Live) -> Client:
    client = await connect(live)
    while client.h2.remote_settings.enable_connect_protocol != 1:
        with trio.fail_after(5):
            await client.events()
    return client


async def test_messages_of_all_sizes_both_ways(tmp_path: Path) -> None:
    backend = WebSocketBackend()
    log = tmp_path / "access.log"
    async with running_proxy(backend, certificate=CERTIFICATE, access_log=log) as live:
        client = await greeted(live)
        first, second = await opened(client, "/one?a=b"), await opened(client, "/two")
        for size in (0, 5, 125, 126, 65536, 300_000):
            for socket in (first, second):
                await socket.send(b"x" * size)
                assert await socket.receive() == b"x" * size
        assert live.proxy.open_flows == {"http/1.1": 0, "h2": 1}
        first.protocol.send_close(1000)
        await first.flush()
        while not first.ended:
            await first.read()
        assert first.protocol.close_code == 1000
        await live.settled(lambda: backend.codes == [1000])
        await second.send(b"and the other goes on")
        assert await second.receive() == b"and the other goes on"
        client.h2.reset_stream(second.stream_id)
        await client.send()
        await live.settled(lambda: backend.codes == [1000, 1006])
        await live.proxy.log_writer.flush()
        assert [(each["status"], each["path"], each["protocol"], each["detail"]) for each in records(log)] == [
            (101, "/one", "HTTP/2", "closed_by_client"),
            (101, "/two", "HTTP/2", "stream_reset"),
        ]
        assert live.proxy.totals()['tunnels_opened{protocol="HTTP/2"}'] == 2
    assert backend.paths == ["/one?a=b", "/two"]


async def test_a_drain_says_1001_to_both_ends() -> None:
    backend, clock = WebSocketBackend(), WallClock()
    async with running_proxy(backend, certificate=CERTIFICATE, wall_clock=clock) as live:
        client = await greeted(live)
        socket = await opened(client)
        # The library h2 takes a GOAWAY for the end of everything, so that it must not hear of one.
        client.h2._frame_dispatch_table[GoAwayFrame] = lambda _: ([], [])
        await live.change(goodbye=Goodbye(started_at=clock(), spread_s=1))
        clock.ahead = 2
        live.proxy.say_goodbyes()
        await socket.send(b"still there")
        assert await socket.receive() == b"still there"
        clock.ahead = 3 + limits.GOODBYE_IDLE_S
        live.proxy.say_goodbyes()
        while socket.protocol.close_rcvd is None:
            await socket.read()
        assert socket.protocol.close_rcvd.code == 1001
        await socket.flush()
        await live.settled(lambda: backend.codes == [1001])
        await live.settled(lambda: live.proxy.totals().get('tunnels_ended{reason="goodbye"}') == 1)
