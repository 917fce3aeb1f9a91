"""HTTP/2 to servers over real sockets: connections shared and bounded, failures that no client sees, health checks."""

import shutil
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
from cryptography import x509
from pydantic import ValidationError

from l7 import limits
from orchestrator.contract.route import (
    Backend,
    BackendProtocol,
    BackendServer,
    BackendTls,
    HealthCheck,
    HealthKind,
    ProxyProtocol,
)
from tests.l7.authorities import Authority
from tests.l7.live_http2_backend import LiveHttp2Backend
from tests.l7.live_proxy import HOST, LOOPBACK, Live, LiveBackend, get, running_proxy

NAME = "backend.internal"
CA = Authority()
FAST = HealthCheck(path="/healthz", interval_s=0.02, timeout_s=5, healthy_after=1, unhealthy_after=1)


def server_context(*protocols: str) -> ssl.SSLContext:
    context = CA.issue(NAME, x509.DNSName(NAME), for_clients=False).show(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))
    context.set_alpn_protocols(list(protocols))
    return context


@asynccontextmanager
async def speaking(
    *backends: LiveBackend, tls: BackendTls | None = None, health: HealthCheck | None = None
) -> AsyncIterator[Live]:
    """A proxy that speaks HTTP/2 with these servers."""
    for each in backends:
        # What is checked before the change is not what the test is about.
        each.health_status = b"200 OK"
    async with running_proxy(*backends) as live:
        change: dict[str, object] = {"protocol": BackendProtocol.H2, "tls": tls}
        if health is not None:
            change["health"] = health
        await live.change(backends=(live.snapshot.backends[0].model_copy(update=change),))
        yield live


async def ask(live: Live, path: str = "/", *, times: int = 1) -> bytes:
    answer = b""
    for _ in range(times):
        with trio.fail_after(10):
            answer = await live.get(path)
    return answer


async def in_parallel(live: Live, path: str, times: int, answers: list[bytes]) -> None:
    async def one() -> None:
        answers.append(await live.get(path))

    async with trio.open_nursery() as nursery:
        for _ in range(times):
            nursery.start_soon(one)


async def until(stream: trio.SocketStream, what: bytes) -> None:
    got = b""
    with trio.fail_after(10):
        while what not in got:
            chunk = await stream.receive_some(65536)
            assert chunk, f"ended after {got!r}"
            got += chunk


def carried(backend: LiveHttp2Backend) -> int:
    """Connections that have carried requests of clients."""
    return len({id(asked.connection) for asked in backend.asked})


@pytest.mark.parametrize("encrypted", [False, True], ids=["prior-knowledge", "alpn"])
async def test_requests_of_many_clients_share_a_connection(encrypted: bool) -> None:
    backend = LiveHttp2Backend(tls=server_context("h2", "http/1.1") if encrypted else None)
    tls = BackendTls(ca_pem=CA.pem, server_name=NAME) if encrypted else None
    async with speaking(backend, tls=tls) as live:
        answers: list[bytes] = []
        await in_parallel(live, "/", 20, answers)
        assert all(answer.startswith(b"HTTP/1.1 200 OK") and b"hello" in answer for answer in answers)
        assert (len(backend.asked), carried(backend)) == (20, 1)
        assert backend.asked[0].headers[b":scheme"] == (b"https" if encrypted else b"http")
        assert backend.asked[0].headers[b":authority"] == HOST.encode()


async def test_bodies_of_both_sides_and_trailers_pass() -> None:
    backend = LiveHttp2Backend()
    async with speaking(backend) as live:
        assert len((await ask(live, "/bytes/3000000")).partition(b"\r\n\r\n")[2]) > 3_000_000
        async with await live.connect() as stream:
            body = bytes(1_000_000)
            await stream.send_all(
                b"POST /upload HTTP/1.1\r\nHost: %b\r\nConnection: close\r\nContent-Length: %d\r\n\r\n"
                % (HOST.encode(), len(body))
            )
            await stream.send_all(body)
            answer = b"".join([chunk async for chunk in stream])
        assert b"1000000" in answer
        async with await live.connect() as stream:
            await stream.send_all(get("/trailers").replace(b"Accept: */*", b"TE: trailers\r\nConnection: te, close"))
            answer = b"".join([chunk async for chunk in stream])
        assert answer.endswith(b"2\r\nok\r\n0\r\nx-sum: 7\r\n\r\n")


async def test_another_connection_is_made_when_all_are_full() -> None:
    backend = LiveHttp2Backend(most_streams=3)
    async with speaking(backend) as live:
        answers: list[bytes] = []
        async with trio.open_nursery() as nursery:
            nursery.start_soon(in_parallel, live, "/hold", 10, answers)
            await live.settled(lambda: len(backend.asked) == 10)
            backend.release.set()
        assert len(answers) == 10
        assert all(b"hello" in answer for answer in answers)
        assert carried(backend) == 4
        assert live.proxy.upstreams.requests_in_flight == 0
        assert live.proxy.upstreams.servers()[0].active == 0


async def test_a_slow_client_holds_up_nobody_else_on_the_connection() -> None:
    backend = LiveHttp2Backend()
    async with speaking(backend) as live:
        slow = []
        for _ in range(5):
            stream = await live.connect()
            stream.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            await stream.send_all(get("/bytes/30000000"))
            slow.append(stream)
        await live.settled(lambda: len(backend.asked) == 5)
        await trio.sleep(0.1)
        assert len((await ask(live, "/bytes/3000000")).partition(b"\r\n\r\n")[2]) > 3_000_000
        assert carried(backend) == 1
        for stream in slow:
            await stream.aclose()
        await live.settled(lambda: len(backend.resets) == 5)


async def test_a_client_that_leaves_is_seen_by_the_server() -> None:
    backend = LiveHttp2Backend()
    async with speaking(backend) as live:
        stream = await live.connect()
        await stream.send_all(get("/hold"))
        await live.settled(lambda: len(backend.asked) == 1)
        await stream.aclose()
        await live.settled(lambda: backend.resets == [8])
        assert (await ask(live)).endswith(b"hello\r\n0\r\n\r\n")
        assert carried(backend) == 1


async def test_a_goodbye_of_the_server_costs_no_request() -> None:
    backend = LiveHttp2Backend()
    async with speaking(backend) as live:
        for _ in range(5):
            assert b"bye" in await ask(live, "/leave")
            assert b"hello" in await ask(live)
        assert live.proxy.totals()["upstream_http2_goaways"] == 5


async def test_a_server_that_refuses_a_stream_is_asked_again() -> None:
    backend = LiveHttp2Backend()
    async with speaking(backend) as live:
        assert b"hello" in await ask(live)
        backend.refuses = 1
        async with await live.connect() as stream:
            await stream.send_all(b"POST / HTTP/1.1\r\nHost: www.example.com\r\nContent-Length: 2\r\n\r\nhi")
            await until(stream, b"hello")
        assert [asked.body for asked in backend.asked] == [b"", b"hi"]


async def test_a_server_that_dies_is_replaced_for_what_may_be_sent_twice() -> None:
    first, second = LiveHttp2Backend(), LiveHttp2Backend(name="backend-2")
    async with speaking(first, second) as live:
        await ask(live, times=10)
        first.life.cancel()
        for _ in range(20):
            assert b"hello" in await ask(live)


async def test_a_server_of_another_protocol_sees_no_request() -> None:
    backend = LiveBackend()
    async with speaking(backend) as live:
        assert (await ask(live)).startswith(b"HTTP/1.1 503 ")
        assert backend.requests == [] or all(b"PRI" in request.head for request in backend.requests)


async def test_a_tls_server_without_h2_sees_no_request() -> None:
    backend = LiveBackend(tls=server_context("http/1.1"))
    async with speaking(backend, tls=BackendTls(ca_pem=CA.pem, server_name=NAME)) as live:
        assert b"alpn_without_h2" in await ask(live)
        assert backend.requests == []
        await live.settled(lambda: not live.proxy.health()[0].healthy)
        assert live.proxy.health()[0].detail == "it does not speak HTTP/2 (ALPN)"


async def test_a_backend_may_change_its_protocol() -> None:
    backend = LiveHttp2Backend()
    async with speaking(backend) as live:
        assert b"hello" in await ask(live)
        old = LiveBackend(name="old")
        await live.nursery.start(old.serve)
        pool = live.snapshot.backends[0]
        await live.change(
            backends=(pool.model_copy(update={"protocol": BackendProtocol.HTTP1, "servers": (old.as_server(),)}),)
        )
        assert b"hello" in await ask(live)
        assert len(old.requests) == 1
        await live.settled(lambda: not live.proxy.upstreams.servers()[0].total or True)
        assert live.proxy.upstreams.requests_in_flight == 0


async def test_health_is_asked_over_http2() -> None:
    backend = LiveHttp2Backend()
    async with speaking(backend, health=FAST) as live:
        await live.settled(lambda: live.proxy.health()[0].detail.startswith("200 in "))
        backend.health_status = b"500 Oh"
        await live.settled(lambda: not live.proxy.health()[0].healthy)
        assert live.proxy.health()[0].detail.startswith("500 in ")


async def test_health_is_asked_by_grpc() -> None:
    backend = LiveHttp2Backend()
    check = FAST.model_copy(update={"kind": HealthKind.GRPC, "service": "shop.Cart"})
    async with speaking(backend, health=check) as live:
        await live.settled(lambda: live.proxy.health()[0].detail.startswith("SERVING in "))
        assert live.proxy.health()[0].healthy
        assert backend.checks[0].headers[b"content-type"] == b"application/grpc"
        assert backend.checks[0].headers[b"te"] == b"trailers"
        assert backend.checks[0].body == b"\0\0\0\0\x0b\x0a\x09shop.Cart"
        for answer, detail in ((b"\x08\x02", "NOT_SERVING in"), (b"", "UNKNOWN in"), (b"\x12\x01", "no health answer")):
            backend.serving = answer
            await live.settled(lambda detail=detail: live.proxy.health()[0].detail.startswith(detail))  # type: ignore[misc]
            assert not live.proxy.health()[0].healthy
        backend.serving = b"\x08\x01"
        await live.settled(lambda: live.proxy.health()[0].healthy)


async def test_idle_connections_are_closed_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "H2_UPSTREAM_IDLE_S", 0.2)
    backend = LiveHttp2Backend()
    async with speaking(backend) as live:
        assert b"hello" in await ask(live)
        server = live.proxy.upstreams.servers()[0]
        assert server.total == 1
        await live.settled(lambda: server.total == 0)


def free_port() -> int:
    with socket.create_server((LOOPBACK, 0)) as found:
        return int(found.getsockname()[1])


async def answered(port: int) -> None:
    """Wait until somebody listens."""
    with trio.fail_after(10):
        while True:
            try:
                await (await trio.open_tcp_stream(LOOPBACK, port)).aclose()
            except OSError:
                await trio.sleep(0.02)
            else:
                return


@pytest.mark.skipif(shutil.which("nghttpd") is None, reason="nghttpd is not installed")
async def test_nghttpd_is_a_backend(tmp_path: Path) -> None:
    (tmp_path / "index.html").write_bytes(b"from nghttpd\n" * 10_000)
    port = free_port()
    async with running_proxy(LiveBackend()) as live:
        command = ["nghttpd", "--no-tls", "--address", LOOPBACK, "--htdocs", str(tmp_path), str(port)]
        await live.nursery.start(trio.run_process, command)
        await check_files(live, port, b"from nghttpd")


NGINX = """\
daemon off;
error_log stderr;
pid {directory}/nginx.pid;
worker_processes 1;
events {{}}
http {{
    access_log off;
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    http2_max_concurrent_streams 4;
    keepalive_requests 7;
    server {{
        listen {address}:{port} http2;
        root {directory};
    }}
}}
"""


@pytest.mark.skipif(shutil.which("nginx") is None, reason="nginx is not installed")
async def test_nginx_is_a_backend_and_its_goodbyes_cost_nothing(tmp_path: Path) -> None:
    """It says GOAWAY after seven requests of a connection, and takes four at a time."""
    (tmp_path / "index.html").write_bytes(b"from nginx\n" * 10_000)
    port = free_port()
    (tmp_path / "nginx.conf").write_text(NGINX.format(directory=tmp_path, address=LOOPBACK, port=port))
    async with running_proxy(LiveBackend()) as live:
        command = ["nginx", "-p", str(tmp_path), "-c", str(tmp_path / "nginx.conf"), "-g", "user root;"]
        await live.nursery.start(trio.run_process, command)
        await check_files(live, port, b"from nginx")
        assert live.proxy.totals()["upstream_http2_goaways"] > 10


async def check_files(live: Live, port: int, line: bytes) -> None:
    """A hundred requests, ten at a time, to a server of others."""
    await answered(port)
    pool = live.snapshot.backends[0]
    server = BackendServer(name="files", address=LOOPBACK, port=port)
    await live.change(backends=(pool.model_copy(update={"protocol": BackendProtocol.H2, "servers": (server,)}),))
    answers: list[bytes] = []
    for _ in range(10):
        await in_parallel(live, "/index.html", 10, answers)
    assert [answer.count(line) for answer in answers] == [10_000] * 100


def test_a_proxy_header_and_shared_connections_do_not_go_together() -> None:
    with pytest.raises(ValidationError, match="shared by many"):
        Backend(
            name="web",
            servers=(BackendServer(name="a", address=LOOPBACK, port=1),),
            protocol=BackendProtocol.H2,
            send_proxy_protocol=ProxyProtocol.V2,
        )


async def test_keep_alive_clients_change_servers_between_requests() -> None:
    first, second = LiveHttp2Backend(), LiveHttp2Backend(name="backend-2")
    async with speaking(first, second) as live, await live.connect() as stream:
        for _ in range(30):
            await stream.send_all(get("/"))
            await until(stream, b"0\r\n\r\n")
        assert first.asked
        assert second.asked
