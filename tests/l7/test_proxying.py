"""Requests through a running proxy over real sockets: what arrives, and which connections carry it."""

import json
from pathlib import Path

import pytest
import trio

from l7 import limits
from l7.listener import listen
from l7.proxy import Proxy
from tests.l7.live_proxy import (
    LOOPBACK,
    LiveBackend,
    Request,
    apply,
    get,
    make_snapshot,
    read_all,
    read_response,
    reset,
    running_proxy,
)


async def test_a_request_reaches_the_backend_and_its_answer_the_client() -> None:
    backend = LiveBackend()
    async with running_proxy(backend) as live:
        answer = await live.get("/cart?id=1")
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    assert answer.endswith(b"\r\n\r\nhello")
    assert backend.requests[0].path == "/cart?id=1"
    assert b"x-forwarded-for: 127.0.0.1" in backend.requests[0].head.lower()


async def test_kept_alive_requests_share_one_upstream_connection() -> None:
    backend = LiveBackend()
    async with running_proxy(backend) as live:
        await live.settled(lambda: backend.connections == 1)  # the health check's own
        async with await live.connect() as stream:
            for _ in range(5):
                await stream.send_all(get())
                assert (await read_response(stream))[1] == b"hello"
        assert backend.connections == 2
        assert repr(live.proxy.upstreams.servers()[0]) == "<Server backend-1: healthy, 0 active, 1 idle, 1 connections>"


@pytest.mark.parametrize("ending", ["in order", "by reset"])
async def test_a_stale_pooled_connection_is_replaced_without_the_client_noticing(ending: str) -> None:
    async def answer_once(request: Request) -> None:
        if len(backend.requests) != 2:
            await request.stream.send_all(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello")
        elif ending == "in order":  # as a backend does whose keep-alive time is over just now
            await request.stream.aclose()
        else:
            reset(request.stream)

    backend = LiveBackend(answer_once)
    async with running_proxy(backend) as live, await live.connect() as stream:
        for _ in range(2):
            await stream.send_all(get())
            assert (await read_response(stream))[1] == b"hello"
        assert len(backend.requests) == 3
        assert live.proxy.totals()["retries_stale_connection"] == 1


async def test_a_server_that_just_died_is_passed_over_for_another_one() -> None:
    alive, dying = LiveBackend(), LiveBackend(name="backend-2")
    async with running_proxy(alive, dying) as live:
        await live.settled(lambda: alive.connections == dying.connections == 1)  # the only health checks
        dying.life.cancel()
        for _ in range(20):
            assert (await live.get()).endswith(b"hello")
        assert live.proxy.totals()["retries_connect"] >= 1


async def test_what_waits_in_the_queue_is_taken_before_a_listener_closes() -> None:
    backend = LiveBackend()
    proxy, sock = Proxy(), listen(LOOPBACK, 0)
    address = (LOOPBACK, sock.getsockname()[1])
    backend.port = address[1]
    proxy.offer(address, sock)
    await apply(proxy, make_snapshot([backend], address))
    # The reactor does not run, so these stay in the kernel's queue.
    waiting = [await trio.open_tcp_stream(*address) for _ in range(3 * limits.ACCEPTS_PER_STEP)]
    proxy.stop_accepting(0.0)
    assert proxy.open_flows == {"http/1.1": len(waiting)}
    proxy.close()
    for stream in waiting:
        await stream.aclose()


async def test_no_server_at_all_is_said_at_once() -> None:
    async with running_proxy(LiveBackend()) as live:
        sock = trio.socket.socket()
        await sock.bind(("127.0.0.1", 0))
        dead = LiveBackend(port=sock.getsockname()[1])
        pool = live.snapshot.backends[0]
        await live.change(backends=(pool.model_copy(update={"servers": (dead.as_server(),)}),))
        answer = await live.get()
        sock.close()
    assert answer.startswith(b"HTTP/1.1 503 ")
    totals = live.proxy.totals()
    assert totals['response_flags{flag="UF"}'] == 1
    assert totals['upstream_connect_failures{backend="shop-web",reason="connection_refused"}'] == 1


async def test_an_upload_reaches_the_backend_whole() -> None:
    body = bytes(range(256)) * 4096
    got: list[int] = []

    async def swallow(request: Request) -> None:
        received = request.rest
        while len(received) < len(body):
            received += await request.stream.receive_some(65536)
        got.append(received == body)
        await request.stream.send_all(b"HTTP/1.1 204 No Content\r\n\r\n")

    async with running_proxy(LiveBackend(swallow)) as live, await live.connect() as stream:
        await stream.send_all(b"POST /in HTTP/1.1\r\nHost: www.example.com\r\nContent-Length: %d\r\n\r\n" % len(body))
        await stream.send_all(body)
        with trio.fail_after(5):
            assert (await stream.receive_some(1000)).startswith(b"HTTP/1.1 204 ")
    assert got == [True]


async def test_pipelined_requests_are_answered_in_order() -> None:
    async def echo_path(request: Request) -> None:
        body = request.path.encode()
        await request.stream.send_all(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body))

    async with running_proxy(LiveBackend(echo_path)) as live, await live.connect() as stream:
        await stream.send_all(get("/1") + get("/2") + get("/3", close=True))
        answer = await read_all(stream)
    assert [part[-2:] for part in answer.split(b"HTTP/1.1 200 OK")[1:]] == [b"/1", b"/2", b"/3"]


async def test_a_snapshot_swaps_routes_under_an_open_connection() -> None:
    async with running_proxy(LiveBackend()) as live, await live.connect() as stream:
        await stream.send_all(get())
        assert (await read_response(stream))[0].startswith(b"HTTP/1.1 200 ")
        await live.change(hosts=())
        await stream.send_all(get())
        assert (await read_response(stream))[0].startswith(b"HTTP/1.1 404 ")


async def test_one_client_too_many_is_told_so_at_once() -> None:
    async with running_proxy(LiveBackend()) as live:
        live.proxy._per_address["127.0.0.1"] = limits.MAX_CONNECTIONS_PER_CLIENT
        async with await live.connect() as stream:
            answer = await read_all(stream)
    assert answer.startswith(b"HTTP/1.1 503 ")
    assert live.proxy.totals()['connections_refused{reason="too_many_connections_of_client"}'] == 1


async def test_each_request_leaves_one_line_in_the_access_log(tmp_path: Path) -> None:
    path = tmp_path / "access.log"
    async with running_proxy(LiveBackend(), access_log=path) as live:
        for _ in range(3):
            await live.get("/a?secret=1")
        await live.proxy.log_writer.flush()
        path.rename(tmp_path / "rotated")
        live.proxy.log_writer.reopen()
        await live.get("/b")
    lines = [json.loads(line) for line in (tmp_path / "rotated").read_text().splitlines()]
    assert [(line["path"], line["status"], line["vip"]) for line in lines] == [("/a", 200, "web-v4")] * 3
    assert len({line["request_id"] for line in lines}) == 3
    assert json.loads(path.read_text())["path"] == "/b"


async def test_the_last_response_is_not_kept_for_who_takes_it_a_byte_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    async with running_proxy(LiveBackend()) as live, await live.connect() as stream:
        await live.settled(lambda: bool(live.proxy.clients))
        (client,) = live.proxy.clients
        monkeypatch.setattr(limits, "STREAM_IDLE_S", 0.5)
        monkeypatch.setattr(limits, "MIN_BYTES_PER_S", 100_000_000)
        client.send(bytes(32_000_000))  # more than the kernel takes
        client.close()
        live.proxy.reactor.settle()
        assert client.queued_bytes > 0
        # Taken steadily, it would be whole in the end.
        with pytest.raises(trio.BrokenResourceError), trio.fail_after(60):
            while await stream.receive_some(32768):  # noqa: ASYNC110 - this is how it is taken, not what is waited for
                await trio.sleep(0.005)
