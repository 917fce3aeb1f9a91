"""A proxy in the test's own trio loop, real backends beside it, and clients: everything over loopback sockets."""

import random
import socket
import ssl
import struct
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import cast

import trio
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from l7.flow_origin import IngressLookup
from l7.listener import listen
from l7.proxy import Proxy
from orchestrator.contract.route import Backend, BackendServer, Certificate, Goodbye, HealthCheck, Host, Listener
from orchestrator.contract.snapshot import ProxySnapshot

LOOPBACK = "127.0.0.1"
HOST = "www.example.com"

#: Long enough that no check of a test's backend happens beside the first.
RARE_CHECKS = HealthCheck(path="/healthz", interval_s=3600, timeout_s=5)


def self_signed(*names: str) -> Certificate:
    """A certificate of its own for these hosts, as a snapshot carries it."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0])])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name) for name in names]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    key_pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return Certificate(
        hosts=names,
        chain_pem=certificate.public_bytes(serialization.Encoding.PEM).decode(),
        key_pem=key_pem.decode(),
    )


@dataclass
class Request:
    """What a backend got."""

    head: bytes
    stream: trio.SocketStream
    rest: bytes

    @property
    def path(self) -> str:
        return self.head.split(b" ", 2)[1].decode()


Answer = Callable[[Request], Awaitable[None]]


async def answer_hello(request: Request) -> None:
    """A small answer on a kept-alive connection."""
    await request.stream.send_all(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello")


@dataclass
class LiveBackend:
    """A tiny HTTP server. `answer` is called for each request; a health check always gets 200."""

    answer: Answer = answer_hello
    name: str = "backend-1"
    requests: list[Request] = field(default_factory=list)
    connections: int = 0
    port: int = 0
    health_status: bytes = b"200 OK"
    tls: ssl.SSLContext | None = None
    """It speaks TLS."""
    resumed: int = 0
    """Its TLS connections that resumed a session."""
    handshake_failures: int = 0
    life: trio.CancelScope = field(default_factory=trio.CancelScope)
    """Cancel it, and the server dies."""

    async def serve(self, task_status: "trio.TaskStatus[None]") -> None:
        listeners = await trio.open_tcp_listeners(0, host=LOOPBACK)
        self.port = listeners[0].socket.getsockname()[1]
        with self.life:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(trio.serve_listeners, self._converse, listeners)
                task_status.started()
        for listener in listeners:
            await listener.aclose()

    async def _converse(self, stream: trio.SocketStream) -> None:
        self.connections += 1
        if self.tls is not None:
            encrypted = trio.SSLStream(stream, self.tls, server_side=True, https_compatible=True)
            try:
                await encrypted.do_handshake()
            except trio.BrokenResourceError:
                self.handshake_failures += 1
                return
            self.resumed += bool(encrypted.session_reused)
            # All that is asked of it are `send_all` and `receive_some`.
            stream = cast("trio.SocketStream", encrypted)
        buffer = b""
        try:
            while True:
                while b"\r\n\r\n" not in buffer:
                    chunk = await stream.receive_some(65536)
                    if not chunk:
                        return
                    buffer += chunk
                head, _, buffer = buffer.partition(b"\r\n\r\n")
                if b"edgefleet-health" in head:
                    await stream.send_all(b"HTTP/1.1 " + self.health_status + b"\r\ncontent-length: 0\r\n\r\n")
                    continue
                request = Request(head, stream, buffer)
                self.requests.append(request)
                await self.answer(request)
                buffer = b""
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return

    def as_server(self) -> BackendServer:
        return BackendServer(name=self.name, address=LOOPBACK, port=self.port)


@dataclass
class Live:
    """A running proxy and what it was made of."""

    proxy: Proxy
    address: tuple[str, int]
    snapshot: ProxySnapshot
    nursery: trio.Nursery
    certificate: Certificate | None

    async def change(self, **fields: object) -> None:
        """Apply a snapshot that differs in these fields."""
        self.snapshot = self.snapshot.model_copy(update={"version": self.snapshot.version + 1, **fields})
        await apply(self.proxy, self.snapshot)

    async def connect(self) -> trio.SocketStream:
        """A plain connection."""
        return await trio.open_tcp_stream(*self.address)

    async def get(self, path: str = "/", *, host: str = HOST) -> bytes:
        """One request on a connection of its own; the whole answer."""
        async with await self.connect() as stream:
            await stream.send_all(get(path, host=host, close=True))
            return await read_all(stream)

    async def settled(self, predicate: Callable[[], bool]) -> None:
        """Wait until the proxy has got there (bounded)."""
        with trio.fail_after(5):
            while not predicate():  # noqa: ASYNC110 - any event of the loop may be the one
                await trio.sleep(0.005)


async def apply(proxy: Proxy, snapshot: ProxySnapshot) -> None:
    """As a worker does."""
    proxy.commit(proxy.prepare(snapshot, await proxy.load_certificates(snapshot)))


def get(path: str = "/", *, host: str = HOST, close: bool = False) -> bytes:
    """A request head."""
    return f"GET {path} HTTP/1.1\r\nHost: {host}\r\n{'Connection: close' if close else 'Accept: */*'}\r\n\r\n".encode()


def reset(stream: trio.SocketStream) -> None:
    """End a connection as a crash does."""
    stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    stream.socket.close()


async def read_all(stream: trio.abc.ReceiveStream) -> bytes:
    """To the end of the stream."""
    with trio.fail_after(10):
        return b"".join([chunk async for chunk in stream])


async def read_response(stream: trio.abc.ReceiveStream) -> tuple[bytes, bytes]:
    """One response with a content-length: head and body."""
    data = b""
    with trio.fail_after(10):
        while b"\r\n\r\n" not in data:
            chunk = await stream.receive_some(65536)
            assert chunk, f"ended after {data!r}"
            data += chunk
        head, _, body = data.partition(b"\r\n\r\n")
        fields = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:])
        while len(body) < int(fields[b"content-length"]):
            chunk = await stream.receive_some(65536)
            assert chunk, f"ended after {len(body)} bytes of {fields[b'content-length']!r}"
            body += chunk
    return head, body


def make_snapshot(
    backends: list[LiveBackend],
    address: tuple[str, int],
    certificate: Certificate | None = None,
    *,
    goodbye: Goodbye | None = None,
    health: HealthCheck = RARE_CHECKS,
    timeout_s: float = 15.0,
    version: int = 1,
) -> ProxySnapshot:
    """One listener, one host, one route, one backend of these servers."""
    host = Host.model_validate(
        {
            "name": HOST,
            "owner": "shop",
            "routes": [{"name": "all", "kind": "prefix", "path": "/", "backend": "shop-web", "timeout_s": timeout_s}],
        }
    )
    return ProxySnapshot(
        version=version,
        node="proxy-1",
        listeners=(
            Listener.model_validate(
                {"vip": "web-v4", "address": address[0], "port": address[1], "tls": certificate is not None}
            ),
        ),
        certificates=(certificate,) if certificate else (),
        hosts=(host,),
        backends=(Backend(name="shop-web", servers=tuple(each.as_server() for each in backends), health=health),),
        goodbye=goodbye,
        l4_nodes={7: "l4-1"},
    )


@asynccontextmanager
async def running_proxy(
    *backends: LiveBackend,
    certificate: Certificate | None = None,
    access_log: Path | None = None,
    wall_clock: Callable[[], float] = time.time,
    health: HealthCheck = RARE_CHECKS,
    timeout_s: float = 15.0,
    open_ingress: Callable[[], IngressLookup] | None = None,
) -> AsyncIterator[Live]:
    """A proxy in front of these backends, running while the block does."""
    async with trio.open_nursery() as nursery:
        for backend in backends:
            await nursery.start(backend.serve)
        sock = listen(LOOPBACK, 0)
        address = (LOOPBACK, sock.getsockname()[1])
        proxy = Proxy(access_log=access_log, rng=random.Random(1), wall_clock=wall_clock, open_ingress=open_ingress)
        snapshot = make_snapshot(list(backends), address, certificate, health=health, timeout_s=timeout_s)
        proxy.offer(address, sock)
        await apply(proxy, snapshot)
        nursery.start_soon(proxy.run)
        try:
            yield Live(proxy, address, snapshot, nursery, certificate)
        finally:
            nursery.cancel_scope.cancel()
    proxy.close()


def trusting(certificate: Certificate) -> ssl.SSLContext:
    """A client's context that trusts this certificate."""
    return ssl.create_default_context(cadata=certificate.chain_pem)
