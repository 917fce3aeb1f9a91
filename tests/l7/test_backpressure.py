"""Back-pressure: a slow reader slows its own upstream, costs bounded memory, and nobody else notices."""

import trio

from l7 import limits
from tests.l7.live_proxy import LiveBackend, Request, get, read_all, running_proxy

CHUNK = b"x" * 65536
SIZE = 400 * len(CHUNK)


async def test_a_slow_reader_pauses_its_own_upstream_only() -> None:
    sent = 0

    async def flood(request: Request) -> None:
        nonlocal sent
        if request.path == "/small":
            await request.stream.send_all(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello")
            return
        await request.stream.send_all(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % SIZE)
        for _ in range(SIZE // len(CHUNK)):
            await request.stream.send_all(CHUNK)
            sent += len(CHUNK)

    async with running_proxy(LiveBackend(flood)) as live, await live.connect() as slow:
        await slow.send_all(get("/big", close=True))
        await live.settled(lambda: any(client.queued_bytes for client in live.proxy.clients))
        # Others are served while it does not read a byte.
        for _ in range(20):
            assert (await live.get("/small")).endswith(b"hello")
        (client,) = (client for client in live.proxy.clients if client.queued_bytes)
        assert client.queued_bytes <= limits.OUTPUT_HIGH_WATER_BYTES + limits.READ_BYTES
        # What has left the backend lies in the kernel's buffers: far from all of it.
        assert sent < SIZE / 2
        answer = await read_all(slow)
    assert answer.count(b"x") >= SIZE
    assert answer.endswith(CHUNK)


async def test_a_slow_backend_pauses_its_own_client_only() -> None:
    release = trio.Event()

    async def stall(request: Request) -> None:
        if request.path == "/small":
            await request.stream.send_all(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello")
            return
        await release.wait()
        got = len(request.rest)
        while got < SIZE:
            got += len(await request.stream.receive_some(1 << 20))
        await request.stream.send_all(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nwhole")

    sent = 0

    async def upload(stream: trio.SocketStream) -> None:
        nonlocal sent
        await stream.send_all(b"POST /big HTTP/1.1\r\nHost: www.example.com\r\nContent-Length: %d\r\n\r\n" % SIZE)
        for _ in range(SIZE // len(CHUNK)):
            await stream.send_all(CHUNK)
            sent += len(CHUNK)

    async with running_proxy(LiveBackend(stall)) as live, await live.connect() as stream:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(upload, stream)
            await live.settled(lambda: any(client.paused for client in live.proxy.clients))
            for _ in range(20):
                assert (await live.get("/small")).endswith(b"hello")
            assert sent < SIZE / 2
            release.set()
        with trio.fail_after(10):
            assert (await stream.receive_some(1000)).endswith(b"whole")
    assert sent == SIZE


async def test_a_client_that_leaves_in_mid_download_frees_the_upstream() -> None:
    async def endless(request: Request) -> None:
        await request.stream.send_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
        while True:
            await request.stream.send_all(b"10000\r\n" + CHUNK + b"\r\n")

    async with running_proxy(LiveBackend(endless)) as live:
        async with await live.connect() as stream:
            await stream.send_all(get())
            await stream.receive_some(1000)
        await live.settled(lambda: not live.proxy.clients)
        await live.settled(lambda: live.proxy.upstreams.requests_in_flight == 0)
        assert live.proxy.upstreams.servers()[0].total == 0
        assert live.proxy.totals()['response_flags{flag="DC"}'] == 1


async def test_a_server_that_dies_in_mid_body_cuts_the_client_visibly() -> None:
    async def die(request: Request) -> None:
        await request.stream.send_all(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\npart")
        await request.stream.aclose()

    async with running_proxy(LiveBackend(die)) as live, await live.connect() as stream:
        await stream.send_all(get())
        received = b""
        try:
            while chunk := await stream.receive_some(1000):
                received += chunk
        except trio.BrokenResourceError:
            received += b"<reset>"
    assert received.endswith(b"<reset>")
