"""HTTP/2 over TLS by clients of others: curl, h2load, httpx2; and what the log and the metrics say of it."""

import json
import shutil
import ssl
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx2
import pytest
import trio
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import ConnectionTerminated, DataReceived, Event, ResponseReceived, StreamEnded

from l7 import limits
from l7.protocol.http2 import frames
from orchestrator.contract.route import Goodbye
from tests.l7.live_proxy import HOST, Live, LiveBackend, Request, running_proxy, self_signed

CERTIFICATE = self_signed(HOST)


async def answer(request: Request) -> None:
    """By path: bytes, trailers, or what was uploaded; small else."""
    stream = request.stream
    head = request.head.lower()
    if request.path.startswith("/bytes/"):
        size = int(request.path.rpartition("/")[2])
        await stream.send_all(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % size)
        await stream.send_all(b"x" * size)
    elif request.path == "/trailers":
        await stream.send_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nx-sum: 7\r\n\r\n")
    elif b"content-length: " in head:
        size = int(head.partition(b"content-length: ")[2].partition(b"\r\n")[0])
        got = len(request.rest)
        while got < size:
            got += len(await stream.receive_some(65536))
        text = b"%d" % got
        await stream.send_all(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(text), text))
    else:
        await stream.send_all(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello")


@asynccontextmanager
async def serving(tmp_path: Path, backend: LiveBackend | None = None) -> AsyncIterator[Live]:
    (tmp_path / "ca.pem").write_text(CERTIFICATE.chain_pem)
    async with running_proxy(
        backend or LiveBackend(answer), certificate=CERTIFICATE, access_log=tmp_path / "access.log"
    ) as live:
        yield live


async def run(*command: str) -> str:
    """A client's output."""
    with trio.fail_after(30):
        done = await trio.run_process(command, capture_stdout=True, stderr=subprocess.STDOUT, check=False)
    output: str = done.stdout.decode()
    assert done.returncode == 0, output
    return output


def curl(live: Live, tmp_path: Path, *arguments: str) -> list[str]:
    port = live.address[1]
    return [
        *("curl", "--silent", "--show-error", "--http2", "--cacert", str(tmp_path / "ca.pem")),
        *("--resolve", f"{HOST}:{port}:127.0.0.1", *arguments[:-1], f"https://{HOST}:{port}{arguments[-1]}"),
    ]


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
async def test_curl(tmp_path: Path) -> None:
    body = tmp_path / "body"
    body.write_bytes(b"y" * 700_000)
    async with serving(tmp_path) as live:
        seen = await run(*curl(live, tmp_path, "--include", "/a?b=c"))
        assert seen.startswith("HTTP/2 200")
        assert seen.endswith("hello")
        assert len(await run(*curl(live, tmp_path, "/bytes/2000000"))) == 2_000_000
        assert await run(*curl(live, tmp_path, "--data-binary", f"@{body}", "/up")) == "700000"
        expecting = curl(live, tmp_path, "--header", "Expect: 100-continue", "--data-binary", f"@{body}", "/up")
        assert await run(*expecting) == "700000"
        assert (await run(*curl(live, tmp_path, "--include", "/trailers"))).endswith("okx-sum: 7\r\n")
        assert (await run(*curl(live, tmp_path, "--head", "/"))).startswith("HTTP/2 200")
        await live.settled(lambda: not live.proxy.clients)
        assert live.proxy.totals()['requests_by_protocol{protocol="HTTP/2"}'] == 6
        await trio.sleep(2 * limits.LOG_FLUSH_S)
    lines = [json.loads(line) for line in (tmp_path / "access.log").read_text().splitlines()]
    assert {(line["protocol"], line["tls"], line["status"]) for line in lines} == {("HTTP/2", "TLSv1.3", 200)}


@pytest.mark.skipif(shutil.which("h2load") is None, reason="nghttp2-client is not installed")
async def test_h2load(tmp_path: Path) -> None:
    async with serving(tmp_path) as live:
        port = live.address[1]
        load = ("h2load", "--requests", "300", "--clients", "2", "--max-concurrent-streams", "20")
        for path in ("/small", "/bytes/100000"):
            report = await run(*load, f"--connect-to=127.0.0.1:{port}", f"https://{HOST}:{port}{path}")
            assert "300 succeeded, 0 failed" in report, report
        assert not [key for key in live.proxy.totals() if key.startswith("http2_flood")]


async def test_httpx_over_one_connection(tmp_path: Path) -> None:
    async with serving(tmp_path) as live:
        context = ssl.create_default_context(cadata=CERTIFICATE.chain_pem)
        # The client resolves no names: the host is told by SNI and `Host`.
        async with httpx2.AsyncClient(http2=True, verify=context, timeout=20) as client:

            async def get(path: str) -> httpx2.Response:
                return await client.get(
                    f"https://{live.address[0]}:{live.address[1]}{path}",
                    headers={"Host": HOST},
                    extensions={"sni_hostname": HOST},
                )

            assert (await get("/")).http_version == "HTTP/2"
            answers: list[httpx2.Response] = []

            async def collect(path: str) -> None:
                answers.append(await get(path))

            async with trio.open_nursery() as nursery:
                for at in range(30):
                    nursery.start_soon(collect, f"/bytes/{at * 5000}")
            assert sorted(len(each.content) for each in answers) == [at * 5000 for at in range(30)]
            assert live.proxy.open_flows == {"http/1.1": 0, "h2": 1}


class Client:
    """A client that can be watched: the library h2 over a TLS connection."""

    def __init__(self, stream: "trio.SSLStream[trio.SocketStream]") -> None:
        self.stream = stream
        self.h2 = H2Connection(H2Configuration(client_side=True, header_encoding=None))

    async def send(self, data: bytes = b"") -> None:
        await self.stream.send_all(self.h2.data_to_send() + data)

    async def ask(self, path: str = "/", *, end: bool = True) -> int:
        stream_id = self.h2.get_next_available_stream_id()
        fields = [(":method", "GET"), (":scheme", "https"), (":authority", HOST), (":path", path)]
        self.h2.send_headers(stream_id, fields, end_stream=end)
        await self.send()
        return stream_id

    async def events(self) -> list[Event]:
        data = await self.stream.receive_some(65536)
        found: list[Event] = self.h2.receive_data(data) if data else [ConnectionTerminated()]
        for event in found:
            if isinstance(event, DataReceived) and event.flow_controlled_length:
                self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id or 0)
        await self.send()
        return found

    async def until(self, kind: type[Event]) -> list[Event]:
        """All events to the first of this kind."""
        seen: list[Event] = []
        with trio.fail_after(20):
            while not any(isinstance(event, kind) for event in seen):
                seen += await self.events()
        return seen


async def connect(live: Live) -> Client:
    context = ssl.create_default_context(cadata=CERTIFICATE.chain_pem)
    context.set_alpn_protocols(["h2"])
    stream = trio.SSLStream(await live.connect(), context, server_hostname=HOST)
    await stream.do_handshake()
    assert stream.selected_alpn_protocol() == "h2"
    client = Client(stream)
    client.h2.initiate_connection()
    await client.send()
    return client


async def test_a_client_that_offers_nothing_speaks_http1(tmp_path: Path) -> None:
    async with serving(tmp_path) as live:
        context = ssl.create_default_context(cadata=CERTIFICATE.chain_pem)
        stream = trio.SSLStream(await live.connect(), context, server_hostname=HOST)
        await stream.send_all(b"GET / HTTP/1.1\r\nHost: www.example.com\r\n\r\n")
        assert (await stream.receive_some(65536)).startswith(b"HTTP/1.1 200 ")
        assert stream.selected_alpn_protocol() is None
        await live.settled(lambda: bool(live.proxy.metrics.requests))
        assert live.proxy.totals()['requests_by_protocol{protocol="HTTP/1.1"}'] == 1


async def test_a_slow_reader_of_one_stream_holds_up_its_server_only(tmp_path: Path) -> None:
    size = 20_000_000
    sent = 0

    async def flood(request: Request) -> None:
        nonlocal sent
        if request.path != "/flood":
            await answer(request)
            return
        await request.stream.send_all(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % size)
        for _ in range(size // 100_000):
            await request.stream.send_all(b"x" * 100_000)
            sent += 100_000

    async with serving(tmp_path, LiveBackend(flood)) as live:
        client = await connect(live)
        client.h2.increment_flow_control_window(1 << 20)  # of the connection: only the stream's is to run out
        slow = await client.ask("/flood")
        for _ in range(20):
            quick = await client.ask("/")
            ended = False
            while not ended:
                with trio.fail_after(20):
                    data = await client.stream.receive_some(65536)
                for event in client.h2.receive_data(data):
                    if isinstance(event, DataReceived) and event.stream_id == quick:
                        client.h2.increment_flow_control_window(event.flow_controlled_length or 0)
                    ended = ended or (isinstance(event, StreamEnded) and event.stream_id == quick)
                await client.send()
        (connection,) = live.proxy.clients
        assert connection.queued_bytes <= limits.OUTPUT_HIGH_WATER_BYTES + limits.READ_BYTES
        assert sent < size / 2
        client.h2.reset_stream(slow)
        await client.send()
        await live.settled(lambda: not live.proxy.upstreams.requests_in_flight)
        await client.stream.aclose()


async def test_a_drain_is_told_at_once_and_streams_in_flight_finish(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "H2_GOAWAY_GRACE_S", 0.5)
    release = trio.Event()

    async def late(request: Request) -> None:
        await release.wait()
        await answer(request)

    async with serving(tmp_path, LiveBackend(late)) as live:
        client = await connect(live)
        await client.ask("/one")
        await live.settled(lambda: live.proxy.upstreams.requests_in_flight == 1)
        await live.change(goodbye=Goodbye(started_at=live.proxy.wall_time(), spread_s=0.1))
        first, final = b"", b""
        with trio.fail_after(20):
            while frames.goaway(1, frames.ErrorCode.NO_ERROR) not in first + final:
                final += await client.stream.receive_some(65536)
        assert frames.goaway(2**31 - 1, frames.ErrorCode.NO_ERROR) in final
        release.set()
        rest = b""
        with trio.fail_after(20):
            while data := await client.stream.receive_some(65536):
                rest += data
        assert rest.endswith(b"hello"), "and then the connection is closed"
        await live.settled(lambda: not live.proxy.clients)


async def test_requests_of_one_connection_reach_several_servers(tmp_path: Path) -> None:
    async with running_proxy(
        LiveBackend(answer, name="a"), LiveBackend(answer, name="b"), certificate=CERTIFICATE
    ) as live:
        client = await connect(live)
        for _ in range(40):
            await client.ask("/")
        answered = 0
        while answered < 40:
            answered += sum(isinstance(event, ResponseReceived) for event in await client.until(ResponseReceived))
        used = {
            server.name for pool in live.proxy.upstreams.backends.values() for server in pool.servers if server.total
        }
        assert used == {"a", "b"}
        await client.stream.aclose()
