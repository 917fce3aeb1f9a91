"""TLS: the right certificate by name, refusals, deadlines, and certificates that change under way."""

import socket
import ssl
import struct

import pytest
import trio

from l7 import limits
from l7.proxy import EditionRefused
from l7.tls import CertificateInvalid, CertificateTable
from tests.l7.live_proxy import (
    HOST,
    Live,
    LiveBackend,
    Request,
    get,
    read_all,
    read_response,
    running_proxy,
    self_signed,
    trusting,
)

CERTIFICATE = self_signed(HOST)
OTHER = self_signed("*.shop.example", "pay.shop.example")


async def handshake(live: Live, context: ssl.SSLContext, name: str | None = HOST) -> trio.SSLStream[trio.SocketStream]:
    stream = trio.SSLStream(await live.connect(), context, server_hostname=name, https_compatible=True)
    with trio.fail_after(5):
        await stream.do_handshake()
    return stream


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_requests_over_tls(version: ssl.TLSVersion) -> None:
    context = trusting(CERTIFICATE)
    context.minimum_version = context.maximum_version = version
    async with running_proxy(LiveBackend(), certificate=CERTIFICATE) as live:
        stream = await handshake(live, context)
        for _ in range(3):
            await stream.send_all(get())
            assert (await read_response(stream))[1] == b"hello"
        await stream.aclose()


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1_1 is deprecated")
async def test_tls_below_1_2_is_refused() -> None:
    context = trusting(CERTIFICATE)
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
    context.maximum_version = ssl.TLSVersion.TLSv1_1
    async with running_proxy(LiveBackend(), certificate=CERTIFICATE) as live:
        with pytest.raises(trio.BrokenResourceError):
            await handshake(live, context)
        await live.settled(lambda: not live.proxy.clients)


@pytest.mark.parametrize("name", ["unknown.example", None])
async def test_a_name_that_no_certificate_serves_is_refused_with_the_alert_for_it(name: str | None) -> None:
    context = trusting(CERTIFICATE)
    context.check_hostname = False
    async with running_proxy(LiveBackend(), certificate=CERTIFICATE) as live:
        with pytest.raises(trio.BrokenResourceError) as caught:
            await handshake(live, context, name)
        assert "UNRECOGNIZED_NAME" in str(caught.value.__cause__)
        assert live.proxy.totals()["tls_names_refused"] == 1


async def test_each_name_gets_its_certificate() -> None:
    async with running_proxy(LiveBackend(), certificate=CERTIFICATE) as live:
        await live.change(certificates=(CERTIFICATE, OTHER))
        for name in ("a.shop.example", "pay.shop.example", "A.SHOP.example"):
            await (await handshake(live, trusting(OTHER), name)).aclose()
        for name in ("a.b.shop.example", "shop.example"):  # a wildcard is for one label
            with pytest.raises(trio.BrokenResourceError):
                await handshake(live, trusting(OTHER), name)


async def test_a_connection_is_not_good_for_hosts_of_another_certificate() -> None:
    async with running_proxy(LiveBackend(), certificate=CERTIFICATE) as live:
        await live.change(certificates=(CERTIFICATE, OTHER))
        stream = await handshake(live, trusting(OTHER), "a.shop.example")
        await stream.send_all(get(host=HOST))
        assert (await read_response(stream))[0].startswith(b"HTTP/1.1 421 ")
        await stream.aclose()


async def test_a_new_certificate_serves_new_handshakes_and_leaves_open_connections_alone() -> None:
    renewed = self_signed(HOST)
    async with running_proxy(LiveBackend(), certificate=CERTIFICATE) as live:
        old = await handshake(live, trusting(CERTIFICATE))
        await live.change(certificates=(renewed,))
        await old.send_all(get())
        assert (await read_response(old))[1] == b"hello"
        await (await handshake(live, trusting(renewed))).aclose()
        await old.aclose()


async def test_a_key_that_does_not_match_is_refused_and_the_old_certificates_serve_on() -> None:
    broken = CERTIFICATE.model_copy(update={"key_pem": self_signed(HOST).key_pem})
    async with running_proxy(LiveBackend(), certificate=CERTIFICATE) as live:
        with pytest.raises(EditionRefused, match=r"www\.example\.com.*KEY_VALUES_MISMATCH"):
            await live.change(certificates=(broken,))
        await (await handshake(live, trusting(CERTIFICATE))).aclose()


def test_unchanged_certificates_are_taken_over() -> None:
    before = CertificateTable((CERTIFICATE, OTHER))
    after = CertificateTable((CERTIFICATE,), previous=before)
    assert after.find(HOST) is before.find(HOST)
    assert after.find("a.shop.example") is None


def test_text_that_is_no_certificate_is_refused_by_its_host() -> None:
    with pytest.raises(CertificateInvalid, match=HOST):
        CertificateTable((CERTIFICATE.model_copy(update={"chain_pem": "nonsense"}),))


async def test_a_client_that_does_not_finish_its_handshake_is_closed() -> None:
    async with running_proxy(LiveBackend(), certificate=CERTIFICATE) as live, await live.connect() as stream:
        await live.settled(lambda: len(live.proxy.clients) == 1)
        (client,) = live.proxy.clients
        assert client.deadline <= live.proxy.reactor.now + limits.TLS_HANDSHAKE_S
        client.expired(client.deadline)
        with trio.fail_after(5):
            assert await stream.receive_some(10) == b""
    assert live.proxy.totals()['tls_handshakes_failed{reason="timeout"}'] == 1


async def test_large_bodies_pass_tls_both_ways() -> None:
    size = 3_000_000
    pattern = bytes(range(251)) * (size // 251 + 1)
    body = pattern[:size]
    received = bytearray()

    async def swap(request: Request) -> None:
        received.extend(request.rest)
        while len(received) < size:
            received.extend(await request.stream.receive_some(65536))
        await request.stream.send_all(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % size)
        await request.stream.send_all(body)

    async with running_proxy(LiveBackend(swap), certificate=CERTIFICATE) as live:
        stream = await handshake(live, trusting(CERTIFICATE))
        await stream.send_all(b"POST / HTTP/1.1\r\nHost: www.example.com\r\nContent-Length: %d\r\n\r\n" % size)
        await stream.send_all(body)
        answer = (await read_response(stream))[1]
        await stream.aclose()
    assert bytes(received) == body
    assert answer == body


def client_hello(name: str = HOST) -> bytes:
    out = ssl.MemoryBIO()
    connection = trusting(CERTIFICATE).wrap_bio(ssl.MemoryBIO(), out, server_hostname=name)
    with pytest.raises(ssl.SSLWantReadError):
        connection.do_handshake()
    return out.read()


async def test_a_hello_in_pieces_is_waited_for_without_being_looked_at_again_and_again() -> None:
    hello = client_hello()
    async with running_proxy(LiveBackend(), certificate=CERTIFICATE) as live, await live.connect() as stream:
        stream.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        await stream.send_all(hello[:1])
        await live.settled(lambda: len(live.proxy.clients) == 1)
        (client,) = live.proxy.clients
        await live.settled(lambda: client.sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT) == 5)
        await stream.send_all(hello[1:100])
        await live.settled(lambda: client.sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT) == len(hello))
        await stream.send_all(hello[100:-1])
        assert not isinstance(client.sock, ssl.SSLSocket)
        await stream.send_all(hello[-1:])
        with trio.fail_after(5):
            assert (await stream.receive_some(1000))[0] == 22  # the server's handshake
        assert client.sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT) == 1


@pytest.mark.parametrize(
    ("sent", "reason", "alert"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", "hello_not_tls", b""),
        (b"", "closed_before_hello", b""),
        (client_hello()[:100], "closed_in_hello", b""),
        (client_hello()[:9] + b"\xff" * 600, "hello_malformed", bytes((21, 3, 3, 0, 2, 2, 50))),
        (client_hello("unknown.example"), "unrecognized_name", bytes((21, 3, 3, 0, 2, 2, 112))),
    ],
    ids=["no-tls", "nothing", "cut", "malformed", "unknown-name"],
)
async def test_who_begins_no_handshake_is_closed_and_counted(sent: bytes, reason: str, alert: bytes) -> None:
    async with running_proxy(LiveBackend(), certificate=CERTIFICATE) as live:
        async with await live.connect() as stream:
            await stream.send_all(sent)
            try:
                await stream.send_eof()
                assert await read_all(stream) == alert
            except trio.BrokenResourceError:
                assert not alert
        await live.settled(lambda: not live.proxy.clients)
    assert live.proxy.totals()[f'tls_handshakes_failed{{reason="{reason}"}}'] == 1
    assert live.proxy.totals()["internal_errors"] == 0


async def test_who_resets_right_after_the_hello_ends_alone() -> None:
    """The hello is still there to be read, and the connection is not: `ssl` refuses such a socket, and closes it."""
    async with running_proxy(LiveBackend(), certificate=CERTIFICATE) as live:
        for _ in range(3):
            # Without a checkpoint between: the proxy finds all of it at once.
            with socket.create_connection(live.address) as client:
                client.sendall(client_hello(HOST))
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        await live.settled(lambda: not live.proxy.clients)
        stream = await handshake(live, trusting(CERTIFICATE))
        await stream.send_all(get())
        assert (await read_response(stream))[1] == b"hello"
        await stream.aclose()
        assert live.proxy.reactor.failures == 0
