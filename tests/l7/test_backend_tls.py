"""Re-encryption to backends: who cannot prove to be the configured server gets no byte of a request."""

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta

import pytest
import trio
from cryptography import x509

from l7.proxy import EditionRefused
from orchestrator.contract.route import BackendTls, CertificateAndKey, HealthCheck
from tests.l7.authorities import Authority, Issued
from tests.l7.live_proxy import Live, LiveBackend, Request, get, read_response, running_proxy

NAME = "backend.internal"
CA = Authority()
CLIENTS = Authority("CA of proxies")
PROXY = CLIENTS.issue("proxy")
TLS = BackendTls(ca_pem=CA.pem, server_name=NAME)


def server(certificate: Issued | None = None, *, name: str = NAME, clients: Authority | None = None) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    if clients is not None:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(cadata=clients.pem)
    return (certificate or CA.issue(name, x509.DNSName(name), for_clients=False)).show(context)


@asynccontextmanager
async def encrypted(*backends: LiveBackend, tls: BackendTls = TLS) -> AsyncIterator[Live]:
    """The backends' first health checks come with the change."""
    async with running_proxy(*backends) as live:
        pool = live.snapshot.backends[0]
        await live.change(backends=(pool.model_copy(update={"tls": tls}),))
        yield live


async def test_requests_reach_a_server_that_proves_its_name() -> None:
    names: list[str | None] = []
    context = server()
    context.sni_callback = lambda _connection, name, _context: names.append(name)
    backend = LiveBackend(tls=context)
    async with encrypted(backend) as live, await live.connect() as stream:
        for _ in range(3):
            await stream.send_all(get())
            assert (await read_response(stream))[1] == b"hello"
    assert len(backend.requests) == 3
    assert set(names) == {NAME}


async def test_sessions_are_resumed() -> None:
    for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
        context = server()
        context.maximum_version = version
        backend = LiveBackend(tls=context)
        async with encrypted(backend) as live:
            assert (await live.get()).endswith(b"hello")
            await live.settled(lambda live=live: live.proxy.upstreams.servers()[0].idle)  # type: ignore[misc]
            live.proxy.upstreams.servers()[0].idle[0].release()
            assert (await live.get()).endswith(b"hello")
            assert backend.resumed == 1, version


WRONG = {
    "untrusted": server(Authority().issue(NAME, x509.DNSName(NAME), for_clients=False)),
    "expired": server(CA.issue(NAME, x509.DNSName(NAME), for_clients=False, ends_in=timedelta(hours=-1))),
    "not_yet_valid": server(CA.issue(NAME, x509.DNSName(NAME), for_clients=False, starts_in=timedelta(hours=1))),
    "wrong_name": server(name="other.internal"),
    "wrong_purpose": server(CA.issue(NAME, x509.DNSName(NAME))),
}


@pytest.mark.parametrize("reason", WRONG)
async def test_who_does_not_prove_it_gets_nothing(reason: str) -> None:
    backend = LiveBackend(tls=WRONG[reason])
    async with encrypted(backend) as live:
        answer = await live.get()
        assert answer.startswith(b"HTTP/1.1 503 ")
        assert f'"server_certificate_{reason}"'.encode() in answer
        assert backend.requests == []
        key = f'upstream_connect_failures{{backend="shop-web",reason="server_certificate_{reason}"}}'
        assert live.proxy.totals()[key] == 1
        assert live.proxy.totals()['response_flags{flag="UF"}'] == 1
        await live.settled(lambda: not live.proxy.health()[0].healthy)
        assert live.proxy.health()[0].detail.startswith("its certificate: ")


async def test_a_server_that_speaks_no_tls_gets_nothing() -> None:
    backend = LiveBackend()
    async with encrypted(backend) as live:
        with trio.fail_after(10):
            answer = await live.get()
        assert answer.startswith(b"HTTP/1.1 503 ")
        assert backend.requests == []


async def test_a_better_server_is_found() -> None:
    bad, good = LiveBackend(tls=WRONG["expired"]), LiveBackend(name="backend-2", tls=server())
    async with encrypted(bad, good) as live:
        for _ in range(5):
            assert (await live.get()).endswith(b"hello")
        assert bad.requests == []


async def test_proxies_show_a_certificate_where_one_is_asked_for() -> None:
    backend = LiveBackend(tls=server(clients=CLIENTS))
    shown = TLS.model_copy(
        update={"client_certificate": CertificateAndKey(chain_pem=PROXY.chain_pem, key_pem=PROXY.key_pem)}
    )
    async with encrypted(backend, tls=shown) as live:
        assert (await live.get()).endswith(b"hello")
        await live.settled(lambda: live.proxy.health()[0].detail.startswith("200 "))
    backend = LiveBackend(tls=server(clients=CLIENTS))
    async with encrypted(backend) as live:
        assert (await live.get()).startswith(b"HTTP/1.1 50")
        assert backend.requests == []


async def test_health_checks_go_the_same_way() -> None:
    backend = LiveBackend(tls=server())
    async with encrypted(backend) as live:
        await live.settled(lambda: live.proxy.health()[0].detail.startswith("200 "))
        assert backend.requests == []


async def test_a_response_that_is_cut_is_not_taken_for_whole() -> None:
    """Without `close_notify` anyone on the way could have ended it (RFC 9112 section 9.8)."""

    async def cut(request: Request) -> None:
        await request.stream.send_all(b"HTTP/1.1 200 OK\r\n\r\nhel")
        await request.stream.transport_stream.aclose()  # type: ignore[attr-defined]

    backend = LiveBackend(cut, tls=server())
    async with encrypted(backend) as live, await live.connect() as stream:
        await stream.send_all(get())
        received = b""
        with trio.fail_after(10), pytest.raises(trio.BrokenResourceError):
            while chunk := await stream.receive_some(1000):
                received += chunk
        assert b"0\r\n\r\n" not in received


async def test_large_bodies_pass_both_ways() -> None:
    size = 2_000_000
    body = bytes(range(251)) * (size // 251 + 1)
    received = bytearray()

    async def swap(request: Request) -> None:
        received.extend(request.rest)
        while len(received) < size:
            received.extend(await request.stream.receive_some(65536))
        await request.stream.send_all(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % size + body[:size])

    async with (
        encrypted(LiveBackend(swap, tls=server())) as live,
        await live.connect() as stream,
        trio.open_nursery() as nursery,
    ):
        head = b"POST / HTTP/1.1\r\nHost: www.example.com\r\nContent-Length: %d\r\n\r\n" % size
        nursery.start_soon(stream.send_all, head + body[:size])
        assert (await read_response(stream))[1] == body[:size]
    assert bytes(received) == body[:size]


async def test_a_handshake_that_hangs_has_a_deadline() -> None:
    async with trio.open_nursery() as nursery:
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        silent = LiveBackend(port=listeners[0].socket.getsockname()[1])
        async with running_proxy(LiveBackend()) as live:
            pool = live.snapshot.backends[0]
            health = HealthCheck(interval_s=3600, timeout_s=0.1)
            await live.change(
                backends=(pool.model_copy(update={"servers": (silent.as_server(),), "tls": TLS, "health": health}),)
            )
            answers: list[bytes] = []

            async def ask() -> None:
                answers.append(await live.get())

            nursery.start_soon(ask)
            server = live.proxy.upstreams.servers()[0]
            await live.settled(lambda: server.total == 1)
            connecting = [item for item in live.proxy.reactor._items.values() if getattr(item, "pool", None) is server]
            await live.settled(lambda: isinstance(getattr(connecting[0], "sock", None), ssl.SSLSocket))
            connecting[0].expired(live.proxy.reactor.now)
            live.proxy.reactor.settle()
            await live.settled(lambda: bool(answers))
        assert b"tls_handshake_timeout" in answers[0]
        for listener in listeners:
            await listener.aclose()


async def test_what_cannot_be_used_is_refused_by_its_backend() -> None:
    async with running_proxy(LiveBackend()) as live:
        pool = live.snapshot.backends[0]
        for wrong in (
            TLS.model_copy(update={"ca_pem": "nonsense"}),
            TLS.model_copy(
                update={"client_certificate": CertificateAndKey(chain_pem=PROXY.chain_pem, key_pem="nonsense")}
            ),
        ):
            with pytest.raises(EditionRefused, match="backend shop-web"):
                await live.change(backends=(pool.model_copy(update={"tls": wrong}),))
