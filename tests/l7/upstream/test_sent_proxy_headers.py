"""Servers that take the PROXY protocol are told who the client is, and no connection ever carries another one."""

import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from ipaddress import ip_network
from pathlib import Path
from typing import cast

import pytest
import trio

from l7 import limits
from l7.proxy_protocol import SIGNATURE, Ends, Incomplete, NotAProxyHeader, Told, read_header, v2_header
from l7.shell import Flow
from l7.sides import UpstreamUser
from orchestrator.contract.route import BackendServer, BackendTls, Certificate, ProxyProtocol
from tests.l7.live_proxy import (
    HOST,
    LOOPBACK,
    Live,
    LiveBackend,
    get,
    read_response,
    running_proxy,
    self_signed,
    trusting,
)

OK = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello"


@dataclass
class Carried:
    """One connection to the server."""

    header: bytes
    told: Told
    heads: list[bytes] = field(default_factory=list)
    ended: bool = False

    @property
    def paths(self) -> list[bytes]:
        return [head.split(b" ")[1] for head in self.heads]


class TellingBackend(LiveBackend):
    """Reads a PROXY header, then requests, connection by connection."""

    def __init__(self) -> None:
        super().__init__()
        self.carried: list[Carried] = []
        self.checks: list[Told] = []
        self.may_answer = trio.Event()
        self.may_answer.set()

    async def _converse(self, stream: trio.SocketStream) -> None:
        buffer = b""
        while True:
            try:
                told = read_header(buffer) if buffer else None
            except Incomplete:
                told = None
            except NotAProxyHeader:
                return  # the health check from before the change
            if told is not None:
                break
            chunk = await stream.receive_some(65536)
            if not chunk:
                return
            buffer += chunk
        carried = Carried(buffer[: told.size], told)
        buffer = buffer[told.size :]
        try:
            while True:
                while b"\r\n\r\n" not in buffer:
                    chunk = await stream.receive_some(65536)
                    if not chunk:
                        carried.ended = True
                        return
                    buffer += chunk
                head, _, buffer = buffer.partition(b"\r\n\r\n")
                if b"edgefleet-health" in head:
                    self.checks.append(told)
                    await stream.send_all(OK)
                    return
                if not carried.heads:
                    self.carried.append(carried)
                carried.heads.append(head)
                await self.may_answer.wait()
                await stream.send_all(OK)
        except trio.BrokenResourceError:
            carried.ended = True


@asynccontextmanager
async def telling(
    backend: TellingBackend, version: ProxyProtocol, certificate: Certificate | None = None
) -> AsyncIterator[Live]:
    """A proxy that tells this backend about clients."""
    async with running_proxy(backend, certificate=certificate) as live:
        await live.change(backends=(live.snapshot.backends[0].model_copy(update={"send_proxy_protocol": version}),))
        yield live


def port_of(stream: trio.SocketStream) -> int:
    return int(stream.socket.getsockname()[1])


async def ask(stream: trio.abc.Stream, path: str) -> None:
    await stream.send_all(get(path))
    assert (await read_response(stream))[1] == b"hello"


@pytest.mark.parametrize("version", list(ProxyProtocol))
async def test_a_connection_begins_with_who_the_client_is(version: ProxyProtocol) -> None:
    backend = TellingBackend()
    async with telling(backend, version) as live, await live.connect() as stream:
        await ask(stream, "/a")
        await ask(stream, "/b")
        (only,) = backend.carried
        assert (only.told.source, only.told.destination) == ((LOOPBACK, port_of(stream)), live.address)
        assert only.header.startswith(SIGNATURE) is (version is ProxyProtocol.V2)
        assert only.paths == [b"/a", b"/b"], "a client's next request takes the connection that is its own"


@pytest.mark.parametrize("version", list(ProxyProtocol))
async def test_no_connection_carries_two_clients(version: ProxyProtocol, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "UPSTREAM_IDLE_S", 3600.0)
    backend = TellingBackend()
    async with telling(backend, version) as live:
        async with await live.connect() as one, await live.connect() as other:
            for turn in range(3):
                await ask(one, f"/one/{turn}")
                await ask(other, f"/other/{turn}")
            carried = {each.told.source: each.paths for each in backend.carried}
            assert carried == {
                (LOOPBACK, port_of(one)): [b"/one/0", b"/one/1", b"/one/2"],
                (LOOPBACK, port_of(other)): [b"/other/0", b"/other/1", b"/other/2"],
            }
        # Not because they have been idle for too long: nobody else may have them.
        await live.settled(lambda: all(each.ended for each in backend.carried))


async def test_a_client_that_a_header_told_of_is_told_on() -> None:
    backend = TellingBackend()
    async with telling(backend, ProxyProtocol.V2) as live:
        trusted = {"accept_proxy_protocol": (ip_network("127.0.0.0/8"),)}
        await live.change(listeners=(live.snapshot.listeners[0].model_copy(update=trusted),))
        async with await live.connect() as stream:
            await stream.send_all(v2_header(("2001:db8::9", 4711), ("2001:db8::10", 443), {}))
            await ask(stream, "/")
    (only,) = backend.carried
    assert (only.told.source, only.told.destination) == (("2001:db8::9", 4711), ("2001:db8::10", 443))


async def test_version_2_tells_server_name_alpn_and_request_id() -> None:
    certificate = self_signed(HOST)
    context = trusting(certificate)
    context.set_alpn_protocols(["http/1.1"])
    backend = TellingBackend()
    async with telling(backend, ProxyProtocol.V2, certificate) as live:
        stream = trio.SSLStream(await live.connect(), context, server_hostname=HOST, https_compatible=True)
        await ask(stream, "/")
    (only,) = backend.carried
    tlvs, at = {}, 16 + 12
    while at < len(only.header):
        end = at + 3 + int.from_bytes(only.header[at + 1 : at + 3])
        tlvs[only.header[at]] = only.header[at + 3 : end]
        at = end
    request_id = next(line[14:] for line in only.heads[0].split(b"\r\n") if line.startswith(b"x-request-id: "))
    assert tlvs == {1: b"http/1.1", 2: HOST.encode(), 5: request_id}


@pytest.mark.parametrize("version", list(ProxyProtocol))
async def test_health_checks_speak_for_no_client(version: ProxyProtocol) -> None:
    backend = TellingBackend()
    async with telling(backend, version) as live:
        await live.settled(lambda: bool(backend.checks))
        await live.settled(lambda: live.proxy.upstreams.servers()[0].detail.startswith("200"))
    assert [told.source for told in backend.checks] == [None]


async def test_connections_from_before_are_not_used_once_headers_are_wanted() -> None:
    plain = LiveBackend()
    async with running_proxy(plain) as live, await live.connect() as stream:
        await ask(stream, "/plain")
        (server,) = live.proxy.upstreams.servers()
        assert len(server.idle) == 1
        told = {"send_proxy_protocol": ProxyProtocol.V1}
        await live.change(backends=(live.snapshot.backends[0].model_copy(update=told),))
        await stream.send_all(get("/told"))
        await live.settled(lambda: len(plain.requests) == 2)
        assert plain.requests[1].head.startswith(b"PROXY TCP4 127.0.0.1 ")
        assert server.idle == []


class Impatient:
    """An exchange that no longer wants what it asked for."""

    request_id = "id-1"

    def __init__(self) -> None:
        self.flow = Flow(client="192.0.2.7", vip="web-v4", ends=Ends(("192.0.2.7", 1), ("192.0.2.1", 80)))


async def test_a_connection_that_nobody_waits_for_any_more_is_nobody_s(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "UPSTREAM_IDLE_S", 3600.0)
    backend = TellingBackend()
    async with telling(backend, ProxyProtocol.V2) as live:
        (server,) = live.proxy.upstreams.servers()
        exchange = cast(UpstreamUser, Impatient())
        live.proxy.open_upstream(exchange, "shop-web", False)
        live.proxy.abandon_upstream(exchange)
        assert server.total == 1
        await live.settled(lambda: server.total == 0)
        assert live.proxy.totals()["upstream_connections_unclaimed"] == 1


async def test_idle_connections_of_others_give_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MAX_CONNECTIONS_PER_SERVER", 2)
    backend = TellingBackend()
    async with telling(backend, ProxyProtocol.V1) as live:
        async with await live.connect() as one, await live.connect() as two, await live.connect() as three:
            for turn in range(2):
                for stream in (one, two, three):
                    await ask(stream, f"/{turn}")
        assert live.proxy.metrics.totals()["requests"] == 6
        assert all(len({each.told.source}) == 1 for each in backend.carried)


async def test_as_many_idle_connections_as_of_anybody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MAX_IDLE_PER_SERVER", 1)
    backend = TellingBackend()
    async with telling(backend, ProxyProtocol.V1) as live, await live.connect() as one, await live.connect() as two:
        await ask(one, "/")
        await ask(two, "/")
        (server,) = live.proxy.upstreams.servers()
        assert len(server.idle) == 1
        await ask(two, "/again")
        assert backend.carried[1].paths == [b"/", b"/again"], "the newest stays"


async def test_the_header_comes_before_tls(tmp_path: Path) -> None:
    pair = self_signed("backend.example")
    (tmp_path / "pair.pem").write_text(pair.chain_pem + pair.key_pem)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(tmp_path / "pair.pem")
    told: list[Told] = []

    async def serve(stream: trio.SocketStream) -> None:
        # Exactly the header: what follows it is a ClientHello.
        size = read_header(await stream.socket.recv(4096, socket.MSG_PEEK)).size
        told.append(read_header(await stream.receive_some(size)))
        try:
            tls = trio.SSLStream(stream, context, server_side=True, https_compatible=True)
            while await tls.receive_some(65536):
                await tls.send_all(OK)
        except trio.BrokenResourceError:
            return

    backend = TellingBackend()
    async with telling(backend, ProxyProtocol.V2) as live:
        serving = partial(trio.serve_tcp, serve, 0, host=LOOPBACK)
        (listener,) = await live.nursery.start(serving)
        server = BackendServer(name="tls-1", address=LOOPBACK, port=listener.socket.getsockname()[1])
        update = {
            "servers": (server,),
            "tls": BackendTls(ca_pem=pair.chain_pem, server_name="backend.example"),
        }
        await live.change(backends=(live.snapshot.backends[0].model_copy(update=update),))
        async with await live.connect() as stream:
            await ask(stream, "/a")
            await ask(stream, "/b")
            client = (LOOPBACK, port_of(stream))
        await live.settled(lambda: len(told) == 2)
    assert {each.source for each in told} == {None, client}, "a health check, and one connection for both requests"
