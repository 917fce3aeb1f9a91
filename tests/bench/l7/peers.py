"""The proxies that are measured: ours and its peers, set up to do the same.

All three: TLS 1.2 and 1.3, HTTP/2, kept-alive connections to servers by least requests of two, 1,000 routes, a request
id, X-Forwarded-For, X-Forwarded-Proto, Forwarded and Via to the server, the access log as JSON to a file, their
counters, health checks. Buffers hold what is measured, so that nobody writes bodies to a disk.
"""

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from orchestrator.contract.route import Backend, Host, Listener
from orchestrator.contract.snapshot import ProxySnapshot
from tests.bench.l7.load import told
from tests.bench.l7.processes import process
from tests.bench.l7.site import HOSTS, PREFIXES, SERVERS, Site

#: More than any measurement opens.
MAX_CONNECTIONS = 11_000
_READY_S = 20.0


@dataclass(frozen=True)
class Running:
    """A proxy that runs."""

    name: str
    address: str
    pid: int
    """Of its first process; the others descend from it."""
    log: Path


def _ours(site: Site, address: str, log: Path) -> list[str | Path]:
    routes = [
        {"name": f"route{number}", "kind": "prefix", "path": prefix, "backend": "site"}
        for number, prefix in enumerate(PREFIXES)
    ]
    servers = [
        {"name": f"server-{number}", "address": host, "port": port} for number, (host, port) in enumerate(SERVERS)
    ]
    snapshot = ProxySnapshot(
        version=1,
        node="proxy-1",
        l4_nodes={},
        listeners=tuple(
            Listener.model_validate({"vip": f"site-{port}", "address": address, "port": port, "tls": port == 443})
            for port in (80, 443)
        ),
        certificates=(site.certificate,),
        hosts=tuple(Host.model_validate({"name": name, "owner": "team", "routes": routes}) for name in HOSTS),
        backends=(Backend.model_validate({"name": "site", "servers": servers}),),
    )
    file = site.directory / "snapshot.json"
    file.write_text(snapshot.model_dump_json())
    return [sys.executable, "-m", "tests.bench.l7.ours", file, log]


def _haproxy(site: Site, address: str, _log: Path) -> list[str | Path]:
    routes = site.directory / "routes.map"
    routes.write_text("".join(f"{host}{prefix}/ site\n" for host in HOSTS for prefix in PREFIXES))
    servers = "\n".join(f"    server server-{n} {host}:{port} check" for n, (host, port) in enumerate(SERVERS))
    fields = {
        "time": "%tr", "request_id": "%ID", "client": "%ci", "host": "%[capture.req.hdr(0),json(utf8s)]",
        "method": "%HM", "path": "%HP", "status": "%ST", "bytes_in": "%U", "bytes_out": "%B",
        "duration_ms": "%Ta", "backend": "%b", "server": "%s", "upstream_ms": "%Tr", "retries": "%rc",
        "flags": "%tsc", "tls": "%sslv", "protocol": "%HV",
    }  # fmt: skip
    # Blanks and quotes are escaped in its configuration.
    log_format = "{" + ",".join(f'\\"{name}\\":\\"{value}\\"' for name, value in fields.items()) + "}"
    config = site.directory / "haproxy.cfg"
    config.write_text(f"""
global
    maxconn {MAX_CONNECTIONS}
    no strict-limits
    nbthread 1
    log stdout format raw local0 info
    ssl-default-bind-options ssl-min-ver TLSv1.2
    ssl-default-bind-ciphers ECDHE+AESGCM:ECDHE+CHACHA20
defaults
    mode http
    log global
    http-reuse always
    timeout connect 5s
    timeout client 75s
    timeout server 60s
    timeout http-request 10s
    timeout http-keep-alive 75s
frontend edge
    bind {address}:80
    bind {address}:443 ssl crt {site.chain_and_key} alpn h2,http/1.1
    log-format {log_format}
    unique-id-format %[uuid()]
    declare capture request len 64
    http-request capture req.hdr(host) id 0
    http-request set-var(txn.proto) str(https) if {{ ssl_fc }}
    http-request set-var(txn.proto) str(http) if !{{ ssl_fc }}
    http-request set-header X-Request-Id %[unique-id]
    http-request set-header X-Forwarded-For %[src]
    http-request set-header X-Forwarded-Proto %[var(txn.proto)]
    http-request set-header Forwarded for=%[src];proto=%[var(txn.proto)]
    http-request set-header Via "1.1 haproxy"
    use_backend %[base,map_beg({routes})]
backend site
    balance random(2)
    option httpchk GET /
{servers}
""")
    return ["haproxy", "-db", "-f", config]


def _nginx(site: Site, address: str, log: Path) -> list[str | Path]:
    locations = "\n".join(f"        location {prefix}/ {{ proxy_pass http://site; }}" for prefix in PREFIXES)
    sites = "\n".join(
        f"""
    server {{
        listen {address}:80 backlog=4096;
        listen {address}:443 ssl http2 backlog=4096;
        server_name {host};
{locations}
    }}"""
        if number == 0
        else f"""
    server {{
        listen {address}:80;
        listen {address}:443 ssl http2;
        server_name {host};
{locations}
    }}"""
        for number, host in enumerate(HOSTS)
    )
    servers = "\n".join(f"        server {host}:{port};" for host, port in SERVERS)
    fields = {
        "time": "$time_iso8601", "request_id": "$request_id", "client": "$remote_addr", "host": "$host",
        "method": "$request_method", "path": "$uri", "status": "$status", "bytes_in": "$request_length",
        "bytes_out": "$body_bytes_sent", "duration_s": "$request_time", "backend": "$proxy_host",
        "server": "$upstream_addr", "upstream_s": "$upstream_header_time", "tls": "$ssl_protocol",
        "protocol": "$server_protocol",
    }  # fmt: skip
    log_format = ",".join(f'"{name}":"{value}"' for name, value in fields.items())
    config = site.directory / "nginx.conf"
    config.write_text(f"""
daemon off;
worker_processes 1;
pid {site.directory}/nginx.pid;
error_log stderr warn;
events {{ worker_connections {MAX_CONNECTIONS}; }}
http {{
    log_format edge escape=json '{{{log_format}}}';
    access_log {log} edge buffer=64k flush=1s;
    server_tokens off;
    keepalive_timeout 75s;
    keepalive_requests 1000000000;
    client_max_body_size 1m;
    server_names_hash_bucket_size 64;
    ssl_certificate {site.chain_and_key};
    ssl_certificate_key {site.chain_and_key};
    ssl_protocols TLSv1.2 TLSv1.3;
    ssl_ciphers ECDHE+AESGCM:ECDHE+CHACHA20;
    ssl_session_cache shared:sessions:10m;
    ssl_session_timeout 1h;
    upstream site {{
        zone site 64k;
        random two least_conn;
{servers}
        keepalive 64;
        keepalive_requests 1000000000;
    }}
    proxy_http_version 1.1;
    proxy_set_header Connection "";
    proxy_set_header Host $host;
    proxy_set_header X-Request-Id $request_id;
    proxy_set_header X-Forwarded-For $remote_addr;
    proxy_set_header X-Forwarded-Proto $scheme;
    proxy_set_header Forwarded "for=$remote_addr;proto=$scheme";
    proxy_set_header Via "1.1 nginx";
    proxy_buffers 16 16k;
    proxy_request_buffering off;
{sites}
}}
""")
    return ["nginx", "-p", site.directory, "-c", config]


#: What is measured, in the order of the table, each on an address of its own.
PROXIES: dict[str, tuple[str, Callable[[Site, str, Path], list[str | Path]]]] = {
    "ours": ("127.0.0.11", _ours),
    "haproxy": ("127.0.0.12", _haproxy),
    "nginx": ("127.0.0.13", _nginx),
}


@contextmanager
def running(name: str, site: Site, core: int) -> Iterator[Running]:
    """A proxy, ended with the block.

    Raises:
        RuntimeError: it does not serve, or does not do what all of them are to do.
    """
    address, configure = PROXIES[name]
    log = site.directory / f"{name}.log"
    command = configure(site, address, log)
    # HAProxy knows no file to log to but what it was started with.
    complaints = site.directory / f"{name}.err"
    with (
        log.open("ab") as file,
        complaints.open("ab") as errors,
        process(command, core=core, stdout=file, stderr=errors) as started,
    ):
        try:
            _check(name, site, address, started)
        except OSError as error:
            raise RuntimeError(f"{name} does not serve: {error}\n{complaints.read_text()}") from error
        yield Running(name, address, started.pid, log)


@contextmanager
def servers(site: Site, core: int) -> Iterator[int]:
    """The servers behind all proxies; their process."""
    with process(["nginx", "-p", site.directory, "-c", site.directory / "backend.conf"], core=core) as started:
        _wait(lambda: told(SERVERS[0][0], SERVERS[0][1]), started)
        yield started.pid


def _check(name: str, site: Site, address: str, started: "subprocess.Popen[bytes]") -> None:
    """It serves by name and route, tells the server what it must, and is ready."""
    answer = _wait(lambda: told(address, 80), started)
    request_id, forwarded_for, proto, forwarded, via = answer.split("|")
    if not (len(request_id) >= 32 and forwarded_for and proto == "http" and proto in forwarded and via):
        raise RuntimeError(f"{name} tells the server {answer!r}")
    proto = told(address, 443, site.trusting()).split("|")[2]
    if proto != "https":
        raise RuntimeError(f"{name} tells the server {proto!r} of a request that came by TLS")


def _wait(attempt: Callable[[], str], started: "subprocess.Popen[bytes]") -> str:
    until = time.monotonic() + _READY_S
    while True:
        try:
            return attempt()
        except OSError:
            if time.monotonic() > until or started.poll() is not None:
                raise
            time.sleep(0.05)
