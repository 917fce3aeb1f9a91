"""A real TLS server on loopback that serves the lab's content, or misbehaves in a chosen way."""

import datetime
import ipaddress
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import trio
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from orchestrator.lab.content import BYTES_PATH, content_of

HOST = "www.example.com"
TlsStream = trio.SSLStream[trio.SocketStream]


def write_certificate(directory: Path) -> tuple[Path, Path]:
    """A self-signed certificate for `HOST`: certificate file, key file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, HOST)])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.DNSName(HOST), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    certificate_file, key_file = directory / "server.pem", directory / "server.key"
    certificate_file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    key_file.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return certificate_file, key_file


@dataclass(frozen=True, slots=True)
class Request:
    """A request as it came, body included."""

    method: str
    path: str
    body: bytes


async def read_request(stream: TlsStream) -> Request | None:
    """None if the client has closed."""
    received = b""
    while b"\r\n\r\n" not in received:
        data = await stream.receive_some(65536)
        if not data:
            return None
        received += data
    head, _, body = received.partition(b"\r\n\r\n")
    request_line, *headers = head.decode().split("\r\n")
    length = next((int(line.split(":")[1]) for line in headers if line.lower().startswith("content-length:")), 0)
    while len(body) < length:
        body += await stream.receive_some(65536)
    method, path, _ = request_line.split(" ")
    return Request(method, path, bytes(body))


def answer_bytes(body: bytes, *, status: str = "200 OK", headers: str = "") -> bytes:
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n{headers}\r\n".encode() + body


def content_for(request: Request) -> bytes:
    return content_of(int(request.path.removeprefix(BYTES_PATH).partition("?")[0]))


def reset(stream: TlsStream) -> None:
    """RST instead of FIN."""
    connection = stream.transport_stream.socket
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


Behaviour = Callable[[TlsStream], Awaitable[None]]


@asynccontextmanager
async def server(behaviour: Behaviour, directory: Path, *, receive_buffer: int = 0) -> AsyncIterator[int]:
    """Runs `behaviour` on every connection; the port that it listens on."""
    certificate_file, key_file = write_certificate(directory)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate_file, key_file)
    listening = trio.socket.socket()
    if receive_buffer:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    await listening.bind(("127.0.0.1", 0))
    listening.listen(64)

    async def handle(connection: trio.SocketStream) -> None:
        stream = trio.SSLStream(connection, context, server_side=True, https_compatible=True)
        try:
            await behaviour(stream)
            with trio.CancelScope(shield=True):
                await trio.aclose_forcefully(stream)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return  # the client has seen enough

    async with trio.open_nursery() as nursery:
        listeners = [trio.SocketListener(listening)]
        nursery.start_soon(trio.serve_listeners, handle, listeners)
        yield listening.getsockname()[1]
        nursery.cancel_scope.cancel()
