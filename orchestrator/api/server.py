"""HTTPS on trio: anycorn, with the TLS settings made here.

Anycorn shows the client certificate in the ASGI scope (the `tls` extension), which hypercorn does not. Its own TLS
context is replaced: TLS 1.3 only, certificates of the fleet's CA and of no other, and no session tickets, so that
every connection shows its certificate anew.
"""

import logging
import socket
import ssl
from collections.abc import Sequence
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import trio
from anycorn import serve
from anycorn.config import Config

from orchestrator.api.app import create_app
from orchestrator.fleet.control import Control

#: Seconds for a TLS handshake (nginx: client_header_timeout and TLS handshake, 60 s; nodes are near).
HANDSHAKE_S = 10.0
#: Seconds that an idle connection is kept. Agents report every second.
KEEP_ALIVE_S = 30.0
#: Bytes of a request head: request line and headers (nginx: 4 × 8 kB).
MAX_HEAD_BYTES = 16 * 1024
#: Seconds that requests in flight may take when the server stops; long polls would take their whole wait.
SHUTDOWN_S = 1.0


def server_context(ca_file: Path, certificate_file: Path, key_file: Path) -> ssl.SSLContext:
    """Mutual TLS where the client certificate is optional: `callers` decides who needs one. Raises OSError."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.num_tickets = 0
    context.load_cert_chain(certificate_file, key_file)
    context.load_verify_locations(cafile=ca_file)
    context.verify_mode = ssl.CERT_OPTIONAL
    context.set_alpn_protocols(["http/1.1"])
    return context


def open_socket(listen: str) -> socket.socket:
    """A socket bound to "198.18.4.10:7443" or "[2001:db8::1]:7443"; port 0 takes a free one.

    Raises ValueError if the text is not an address and a port, OSError if it cannot be taken.
    """
    host, _, port = listen.rpartition(":")
    address = ip_address(host.removeprefix("[").removesuffix("]"))
    opened = socket.socket(socket.AF_INET6 if address.version == 6 else socket.AF_INET, socket.SOCK_STREAM)
    try:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        opened.bind((str(address), int(port)))
    except (OSError, OverflowError, ValueError):
        opened.close()
        raise
    return opened


async def serve_api(
    control: Control,
    sockets: Sequence[socket.socket],
    *,
    ca_file: Path,
    certificate_file: Path,
    key_file: Path,
    task_status: trio.TaskStatus[list[str]] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve on bound sockets until cancelled; they are closed then.

    Started with the URLs that it listens on. Raises OSError if a file of the TLS set-up cannot be read.
    """
    context = server_context(ca_file, certificate_file, key_file)
    config: Any = Config()
    config.bind = [f"fd://{opened.detach()}" for opened in sockets]
    config.certfile, config.keyfile = str(certificate_file), str(key_file)
    config.create_ssl_context = lambda: context
    config.alpn_protocols = ["http/1.1"]
    config.ssl_handshake_timeout = HANDSHAKE_S
    config.keep_alive_timeout = KEEP_ALIVE_S
    config.h11_max_incomplete_size = MAX_HEAD_BYTES
    config.graceful_timeout = SHUTDOWN_S
    config.include_server_header = False
    config.errorlog = logging.getLogger("anycorn.error")
    config.loglevel = "WARNING"
    await serve(create_app(control), config, task_status=task_status, mode="asgi")
