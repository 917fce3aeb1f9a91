"""PROXY headers in front of connections, over real sockets: who is believed, and what becomes of who is not."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from ipaddress import ip_network
from pathlib import Path

import pytest
import trio
import trio.lowlevel

from l7 import limits
from l7.proxy_preface import TrustedSources
from l7.proxy_protocol import AUTHORITY, SIGNATURE, V2_LOCAL, v1_header, v2_header
from orchestrator.contract.route import Certificate
from tests.l7.live_proxy import HOST, Live, LiveBackend, get, read_all, running_proxy, self_signed, trusting

CLIENT, VIP = ("203.0.113.9", 4711), ("203.0.113.10", 443)
V1 = v1_header(CLIENT, VIP)
V2 = v2_header(CLIENT, VIP, {AUTHORITY: b"www.example.com"})


@asynccontextmanager
async def behind(
    backend: LiveBackend, *trusted: str, certificate: Certificate | None = None, access_log: Path | None = None
) -> AsyncIterator[Live]:
    """A proxy that believes these sources."""
    async with running_proxy(backend, certificate=certificate, access_log=access_log) as live:
        prefixes = tuple(ip_network(prefix) for prefix in trusted)
        await live.change(
            listeners=(live.snapshot.listeners[0].model_copy(update={"accept_proxy_protocol": prefixes}),)
        )
        yield live


async def ask(live: Live, *parts: bytes) -> bytes:
    """Send, piece by piece, and read to the end; empty if the proxy reset the connection."""
    async with await live.connect() as stream:
        try:
            for part in parts:
                await stream.send_all(part)
                await trio.lowlevel.checkpoint()
            return await read_all(stream)
        except trio.BrokenResourceError:
            return b""


def refused(live: Live, reason: str) -> int:
    return live.proxy.totals().get(f'proxy_headers_refused{{reason="{reason}"}}', 0)


@pytest.mark.parametrize("header", [V1, V2], ids=["v1", "v2"])
@pytest.mark.parametrize("piece", [4096, 5, 1], ids=["whole", "in fives", "byte by byte"])
async def test_the_client_that_is_told_is_who_asked(header: bytes, piece: int, tmp_path: Path) -> None:
    backend, log = LiveBackend(), tmp_path / "access.log"
    async with behind(backend, "127.0.0.0/8", access_log=log) as live:
        data = header + get("/", close=True)
        answer = await ask(live, *(data[at : at + piece] for at in range(0, len(data), piece)))
        assert answer.startswith(b"HTTP/1.1 200 ")
        await live.proxy.log_writer.flush()
    assert b"\r\nx-forwarded-for: 203.0.113.9\r\n" in backend.requests[0].head
    assert json.loads(log.read_text())["client"] == "203.0.113.9"


async def test_tls_begins_behind_the_header() -> None:
    certificate = self_signed(HOST)
    backend = LiveBackend()
    async with behind(backend, "127.0.0.1", certificate=certificate) as live, await live.connect() as stream:
        # Together, as a load balancer sends them that has both: the ClientHello must be OpenSSL's, all of it.
        class Prefixed(trio.abc.HalfCloseableStream):
            sent = False

            async def send_all(self, data: bytes | bytearray | memoryview) -> None:
                await stream.send_all(bytes(data) if self.sent else V2 + bytes(data))
                self.sent = True

            async def wait_send_all_might_not_block(self) -> None:
                await stream.wait_send_all_might_not_block()

            async def send_eof(self) -> None:
                await stream.send_eof()

            async def receive_some(self, max_bytes: int | None = None) -> bytes:
                return bytes(await stream.receive_some(max_bytes))

            async def aclose(self) -> None:
                await stream.aclose()

        tls = trio.SSLStream(Prefixed(), trusting(certificate), server_hostname=HOST, https_compatible=True)
        await tls.send_all(get("/", close=True))
        assert (await read_all(tls)).startswith(b"HTTP/1.1 200 ")
    assert b"\r\nx-forwarded-for: 203.0.113.9\r\n" in backend.requests[0].head


async def test_a_health_check_of_the_load_balancer_is_its_own() -> None:
    backend = LiveBackend()
    async with behind(backend, "127.0.0.1") as live:
        assert (await ask(live, V2_LOCAL + get("/", close=True))).startswith(b"HTTP/1.1 200 ")
    assert b"\r\nx-forwarded-for: 127.0.0.1\r\n" in backend.requests[0].head


async def test_who_is_not_trusted_is_not_believed_and_needs_no_header() -> None:
    backend = LiveBackend()
    async with behind(backend, "198.51.100.0/24", "2001:db8::/32") as live:
        assert (await ask(live, V1 + get("/", close=True))).startswith(b"HTTP/1.1 400 ")
        assert (await ask(live, V2 + get("/", close=True))).startswith(b"HTTP/1.1 400 ")
        assert (await live.get()).startswith(b"HTTP/1.1 200 ")
    assert [b"203.0.113.9" in request.head for request in backend.requests] == [False]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        pytest.param(get(), "missing", id="none"),
        pytest.param(b"PROXY TCP4 203.0.113.9\r\n" + get(), "v1_line", id="malformed, version 1"),
        pytest.param(V2[:-1].replace(b"\x21\x11", b"\x21\x12", 1) + get(), "v2_family", id="malformed, version 2"),
    ],
)
async def test_a_trusted_source_without_a_right_header_is_closed_without_a_word(data: bytes, reason: str) -> None:
    backend = LiveBackend()
    async with behind(backend, "127.0.0.1") as live:
        assert await ask(live, data) == b""
        assert refused(live, reason) == 1
        await live.settled(lambda: not live.proxy.clients)
    assert backend.requests == []


@pytest.mark.parametrize("begin", [b"", V2[:20], V1[:20]], ids=["nothing", "half of version 2", "half of version 1"])
async def test_a_source_that_ends_before_its_header_is_let_go(begin: bytes) -> None:
    async with behind(LiveBackend(), "127.0.0.1") as live, await live.connect() as stream:
        if begin:
            await stream.send_all(begin)
        await live.settled(lambda: bool(live.proxy.clients))
        await stream.send_eof()
        await live.settled(lambda: not live.proxy.clients)
        assert refused(live, "closed") == 1


async def test_a_header_that_trickles_in_has_one_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "PROXY_HEADER_S", 0.3)
    endless = SIGNATURE + b"\x20\x00" + (4000).to_bytes(2) + bytes(3999)
    async with behind(LiveBackend(), "127.0.0.1") as live, await live.connect() as stream:
        with trio.fail_after(10):
            for at in range(len(endless)):
                try:
                    await stream.send_all(endless[at : at + 1])
                except trio.BrokenResourceError:
                    break
                await trio.sleep(0.02)
        assert refused(live, "timeout") == 1


async def test_limits_and_counts_are_for_clients_not_for_who_brings_them() -> None:
    async with behind(LiveBackend(), "127.0.0.1") as live:
        live.proxy._per_address["127.0.0.1"] = limits.MAX_CONNECTIONS_PER_CLIENT
        live.proxy._per_address[CLIENT[0]] = limits.MAX_CONNECTIONS_PER_CLIENT - 1
        async with await live.connect() as first:
            await first.send_all(V2)
            await live.settled(lambda: live.proxy._per_address[CLIENT[0]] == limits.MAX_CONNECTIONS_PER_CLIENT)
            assert await ask(live, V2 + get()) == b""
            other = v2_header(("203.0.113.66", 1), VIP, {})
            assert (await ask(live, other + get("/", close=True))).startswith(b"HTTP/1.1 200 ")
        await live.settled(lambda: not live.proxy.clients)
        assert live.proxy._per_address == {
            "127.0.0.1": limits.MAX_CONNECTIONS_PER_CLIENT,
            CLIENT[0]: limits.MAX_CONNECTIONS_PER_CLIENT - 1,
        }
        assert live.proxy.totals()['connections_refused{reason="too_many_connections_of_client"}'] == 1


def test_trusted_sources_are_prefixes() -> None:
    sources = TrustedSources((ip_network("198.51.100.0/25"), ip_network("2001:db8::1/128")))
    assert "198.51.100.127" in sources
    assert "198.51.100.128" not in sources
    assert "2001:db8::1" in sources
    assert "2001:db8::2" not in sources
    assert "198.51.100.1" not in TrustedSources(())
