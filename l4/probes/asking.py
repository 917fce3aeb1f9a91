"""Asks one member once, by an ordinary socket of this host's kernel.

The socket is bound to the interface, so that the VIP, which stands on `lo`, is not taken for this host; and marked, so
that `probe.c` sends its packets to the member. The answer comes straight back from the VIP.

HTTPS asks whether the member serves, not who it is: the way there is the fleet's own, so certificates are not verified,
and an expired one takes no member out (`edgectl status` warns of those). The name asked for is sent (SNI), as hosts
behind a VIP differ.
"""

import errno
import functools
import os
import socket
import ssl
import struct
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import trio

from l4.probes.targets import Target
from l4.probes.verdicts import Answer, Asked
from orchestrator.contract.pool import ProbeKind

#: Octets of an answer that are read for its status line: a header line of nginx's default buffers.
MAX_STATUS_LINE: Final = 8192
#: Largest segment: what fits the smallest IPv6 path with all headers (RFC 8200 section 5: 1280 octets) and the tunnel.
MAX_SEGMENT: Final = 1280 - 60 - 64
_U32: Final = struct.Struct("=I")
#: Closing sends a RST: neither side keeps the connection in TIME_WAIT (socket(7), SO_LINGER).
_RESET_ON_CLOSE: Final = struct.pack("ii", 1, 0)
_BIND_NO_PORT: Final = 24  # IP_BIND_ADDRESS_NO_PORT (ip(7)): a port is chosen at connect, when the peer is known

#: Errors that a host which is there answers with.
_FROM_THE_HOST = (errno.ECONNREFUSED, errno.ECONNRESET)


class NotAskedError(Exception):
    """This host could not ask: it says nothing of the member."""


async def ask_for_connection(target: Target, interface: str) -> Asked:
    """Whether the member accepts a connection. Raises NotAskedError."""
    began = time.monotonic()
    async with _connection(target, interface, target.probe.reach_timeout_ms / 1000) as found:
        return Asked(Answer.GOOD, f"connected in {_ms(began)}") if isinstance(found, socket.socket) else found


async def ask_for_answer(target: Target, interface: str) -> Asked:
    """Whether the member answers a request as expected. Raises NotAskedError."""
    timeout_ms = target.probe.timeout_ms
    began = time.monotonic()
    with trio.move_on_after(timeout_ms / 1000):
        async with _connection(target, interface, timeout_ms / 1000) as found:
            if not isinstance(found, socket.socket):
                return found
            try:
                status = await _request(target, found)
            except (OSError, trio.BrokenResourceError, trio.ClosedResourceError, ssl.SSLError) as error:
                return Asked(Answer.BAD, f"broke off: {error.__cause__ or error}")
            if status is None:
                return Asked(Answer.BAD, "no HTTP answer")
            answer = Answer.GOOD if status in target.probe.statuses else Answer.BAD
            return Asked(answer, f"{status} in {_ms(began)}")
    return Asked(Answer.BAD, f"no answer within {timeout_ms} ms")


@asynccontextmanager
async def _connection(target: Target, interface: str, timeout_s: float) -> AsyncIterator[socket.socket | Asked]:
    """A connection, which is reset in the end; or what came back instead. Raises NotAskedError."""
    try:
        opened = _socket(target, interface)
    except OSError as error:
        raise NotAskedError(str(error)) from error
    with opened:
        number = opened.connect_ex((str(target.address), target.port))
        if number == errno.EINPROGRESS:
            number = errno.ETIMEDOUT
            with trio.move_on_after(timeout_s):
                await trio.lowlevel.wait_writable(opened)
                number = opened.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if number == errno.ETIMEDOUT:
                yield Asked(Answer.NONE, f"no answer within {timeout_s * 1000:.0f} ms")
                return
        elif number:
            # At once, so by this host's own routes, ports or filters.
            raise NotAskedError(os.strerror(number))
        if number in _FROM_THE_HOST:
            yield Asked(Answer.BAD, os.strerror(number).lower())
        elif number:
            yield Asked(Answer.NONE, os.strerror(number).lower())
        else:
            yield opened


def _socket(target: Target, interface: str) -> socket.socket:
    family = socket.AF_INET if target.address.version == 4 else socket.AF_INET6
    opened = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, interface.encode())
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, _U32.pack(target.mark))
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, MAX_SEGMENT)
        opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if target.source is not None:
            opened.setsockopt(socket.IPPROTO_IP, _BIND_NO_PORT, 1)
            opened.bind((str(target.source), 0))
    except OSError:
        opened.close()
        raise
    return opened


async def _request(target: Target, connection: socket.socket) -> int | None:
    """The status of the answer; None if it is no HTTP. Raises what streams raise."""
    probe = target.probe
    # The stream closes a descriptor of its own: the caller's is the one whose closing resets.
    stream: trio.abc.Stream = trio.SocketStream(trio.socket.from_stdlib_socket(connection.dup()))
    try:
        if probe.kind is ProbeKind.HTTPS:
            stream = trio.SSLStream(stream, _context(), server_hostname=probe.host, https_compatible=True)
        await stream.send_all(_request_text(target))
        head = b""
        while b"\n" not in head and len(head) < MAX_STATUS_LINE:
            chunk = await stream.receive_some(MAX_STATUS_LINE)
            if not chunk:
                return None
            head += chunk
        return _status(head)
    finally:
        await trio.aclose_forcefully(stream)


def _request_text(target: Target) -> bytes:
    address = str(target.address)
    host = target.probe.host or (f"[{address}]" if target.address.version == 6 else address)
    return (
        f"GET {target.probe.path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: edgefleet-probe\r\nAccept: */*\r\n"
        "Connection: close\r\n\r\n"
    ).encode("ascii")


def _status(head: bytes) -> int | None:
    """RFC 9112 section 4: `HTTP/1.1 200 OK`."""
    parts = head.split(b"\n", 1)[0].split(b" ", 2)
    if len(parts) < 2 or not parts[0].startswith(b"HTTP/1.") or not parts[1].strip().isdigit():
        return None
    return int(parts[1])


@functools.cache
def _context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def _ms(began: float) -> str:
    return f"{(time.monotonic() - began) * 1000:.0f} ms"
