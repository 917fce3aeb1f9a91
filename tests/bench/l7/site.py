"""The site that every proxy serves: 50 hosts with 20 routes each, one certificate, and the servers behind them.

Addresses are of a network namespace of the measurement's own, so that ports are the usual ones, and a request names its
host as a browser does.
"""

import ssl
from dataclasses import dataclass
from pathlib import Path

from orchestrator.contract.route import Certificate
from tests.l7.live_proxy import self_signed

HOSTS = tuple(f"www-{number}.example.com" for number in range(50))
PREFIXES = tuple(f"/team-{number}" for number in range(20))

#: What is asked for: neither the first nor the last that a list would have.
HOST = HOSTS[25]
PREFIX = PREFIXES[13]

#: The servers: one process, two addresses, so that there is something to balance.
SERVERS = (("127.0.0.2", 8080), ("127.0.0.3", 8080))

LARGE_BYTES = 100 * 1024
UPLOAD_BYTES = 100 * 1024


def path(kind: str) -> str:
    """`small`, `large`, `upload` or `told` (what the server was told about the request)."""
    return f"{PREFIX}/{kind}"


@dataclass(frozen=True)
class Site:
    """The files of a measurement."""

    directory: Path
    certificate: Certificate

    @property
    def chain_and_key(self) -> Path:
        """As HAProxy reads it, and nginx too."""
        return self.directory / "site.pem"

    def trusting(self) -> ssl.SSLContext:
        """A client's context."""
        context = ssl.create_default_context(cadata=self.certificate.chain_pem)
        context.set_alpn_protocols(["http/1.1"])
        return context


def lay_out(directory: Path) -> Site:
    """Write what the servers and the proxies read."""
    site = Site(directory, self_signed("*.example.com"))
    site.chain_and_key.write_text(site.certificate.chain_pem + site.certificate.key_pem)
    site.chain_and_key.chmod(0o600)
    content = directory / "content"
    content.mkdir()
    (content / "large").write_bytes(b"x" * LARGE_BYTES)
    # Its worker leaves root, and must still get here.
    directory.chmod(0o755)
    (directory / "backend.conf").write_text(_backend(directory))
    return site


def _backend(directory: Path) -> str:
    listens = "\n".join(f"listen {host}:{port} backlog=4096;" for host, port in SERVERS)
    return f"""
load_module /usr/lib/nginx/modules/ngx_http_echo_module.so;
daemon off;
worker_processes 1;
pid {directory}/backend.pid;
error_log stderr warn;
events {{ worker_connections 16384; }}
http {{
    access_log off;
    keepalive_timeout 75s;
    keepalive_requests 1000000000;
    sendfile on;
    tcp_nodelay on;
    open_file_cache max=16 inactive=60s;
    client_max_body_size 1m;
    client_body_buffer_size 256k;
    server {{
        {listens}
        location = / {{ return 200 "well\\n"; }}
        location = {path("small")} {{ return 200 "hello, world\\n"; }}
        location = {path("large")} {{ alias {directory}/content/large; }}
        location = {path("upload")} {{ echo_read_request_body; echo "taken"; }}
        location = {path("told")} {{
            return 200 "$http_x_request_id|$http_x_forwarded_for|$http_x_forwarded_proto|$http_forwarded|$http_via\\n";
        }}
    }}
}}
"""
