"""HAProxy, whose protocol it is, on both sides: as a load balancer before the proxy, and as a server behind it."""

import shutil
import socket
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from ipaddress import ip_network
from pathlib import Path

import pytest
import trio

from orchestrator.contract.route import BackendServer, ProxyProtocol
from tests.l7.live_proxy import HOST, LOOPBACK, LiveBackend, get, read_response, running_proxy, self_signed, trusting

HAPROXY = shutil.which("haproxy") or "/usr/sbin/haproxy"

pytestmark = pytest.mark.skipif(not Path(HAPROXY).exists(), reason="HAProxy is not installed")

DEFAULTS = """
defaults
  timeout connect 5s
  timeout client 20s
  timeout server 20s
"""


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind((LOOPBACK, 0))
        return int(sock.getsockname()[1])


@asynccontextmanager
async def haproxy(folder: Path, configuration: str, port: int) -> AsyncIterator[None]:
    """HAProxy with this configuration, listening on this port while the block runs."""
    path = folder / "haproxy.cfg"
    path.write_text(DEFAULTS + configuration)
    async with trio.open_nursery() as nursery:
        command = [HAPROXY, "-db", "-f", str(path)]
        process = await nursery.start(partial(trio.run_process, command, check=False, stderr=subprocess.DEVNULL))
        with trio.fail_after(10):
            while True:
                try:
                    await (await trio.open_tcp_stream(LOOPBACK, port)).aclose()
                    break
                except OSError:
                    assert process.returncode is None, "HAProxy ended"
                    await trio.sleep(0.05)
        try:
            yield
        finally:
            process.terminate()


@pytest.mark.parametrize("word", ["send-proxy", "send-proxy-v2", "send-proxy-v2 proxy-v2-options crc32c,unique-id"])
async def test_haproxy_before_the_proxy_tells_who_the_client_is(word: str, tmp_path: Path) -> None:
    backend, port = LiveBackend(), free_port()
    async with running_proxy(backend) as live:
        trusted = {"accept_proxy_protocol": (ip_network("127.0.0.0/8"),)}
        await live.change(listeners=(live.snapshot.listeners[0].model_copy(update=trusted),))
        configuration = f"""
listen tcp
  mode tcp
  bind {LOOPBACK}:{port}
  unique-id-format %ci:%cp
  server proxy {live.address[0]}:{live.address[1]} {word} source 127.0.0.1
"""
        async with haproxy(tmp_path, configuration, port):
            # From an address of its own, so that HAProxy's is seen not to be taken for it.
            client = await trio.open_tcp_stream(LOOPBACK, port, local_address="127.0.0.77")
            async with client:
                await client.send_all(get("/"))
                assert (await read_response(client))[1] == b"hello"
        assert not any("proxy_headers_refused" in key and "closed" not in key for key in live.proxy.totals())
    assert b"\r\nx-forwarded-for: 127.0.0.77\r\n" in backend.requests[-1].head


@pytest.mark.parametrize("version", list(ProxyProtocol))
async def test_haproxy_behind_the_proxy_is_told_who_the_client_is(version: ProxyProtocol, tmp_path: Path) -> None:
    certificate, port, first = self_signed(HOST), free_port(), LiveBackend()
    configuration = f"""
frontend http
  mode http
  bind {LOOPBACK}:{port} accept-proxy
  http-request return status 200 content-type text/plain lf-string "%[src]:%[src_port] %[dst_port] %[fc_pp_authority]"
"""
    async with running_proxy(first, certificate=certificate) as live, haproxy(tmp_path, configuration, port):
        update = {
            "servers": (BackendServer(name="haproxy", address=LOOPBACK, port=port),),
            "send_proxy_protocol": version,
        }
        await live.change(backends=(live.snapshot.backends[0].model_copy(update=update),))
        plain = await trio.open_tcp_stream(*live.address, local_address="127.0.0.77")
        client_port = plain.socket.getsockname()[1]
        async with trio.SSLStream(plain, trusting(certificate), server_hostname=HOST, https_compatible=True) as stream:
            for _ in range(2):
                await stream.send_all(get("/"))
                _, body = await read_response(stream)
                told = body.decode().split(" ")
                assert told[:2] == [f"127.0.0.77:{client_port}", str(live.address[1])]
                assert told[2] == (HOST if version is ProxyProtocol.V2 else "")
        (server,) = live.proxy.upstreams.servers()
        await live.settled(lambda: server.detail.startswith("200"))
