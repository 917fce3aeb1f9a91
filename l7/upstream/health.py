"""Active health checks: one trio task per server, a request over a fresh connection, and the counting of its results.

A server is healthy when it answers 2xx or 3xx (HAProxy: `option httpchk`), or by gRPC that it is serving. It changes
sides after a number of equal results in a row; but a server that was never checked is trusted only until its first
result (HAProxy starts servers the same way), so that neither a proxy that just started refuses everything, nor a dead
server is trusted for three intervals.
"""

import random
import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import trio

from l7 import grpc, limits
from l7.protocol.message import RequestHead
from l7.proxy_protocol import local_announcement
from l7.upstream import http2_probe
from l7.upstream.http2_probe import NoAnswer, Stream
from l7.upstream.server import NOT_CHECKED, BackendPool, Server
from orchestrator.contract.report import ServerHealth
from orchestrator.contract.route import HealthCheck, HealthKind

_USER_AGENT: Final = b"user-agent: edgefleet-health"


@dataclass(frozen=True, slots=True)
class Result:
    """Of one check."""

    passed: bool
    detail: str


class Streak:
    """Turns results into a state, with the hysteresis that the configuration asks for."""

    __slots__ = ("_check", "_in_a_row", "_last", "_seen", "healthy")

    def __init__(self, check: HealthCheck, *, healthy: bool = True) -> None:
        self._check = check
        self.healthy = healthy
        self._seen = False
        self._last = healthy
        self._in_a_row = 0

    def add(self, passed: bool) -> bool:
        """Take a result in; returns whether the state changed."""
        self._in_a_row = self._in_a_row + 1 if passed == self._last else 1
        self._last = passed
        needed = self._check.healthy_after if passed else self._check.unhealthy_after
        first, self._seen = not self._seen, True
        if passed == self.healthy or (not first and self._in_a_row < needed):
            return False
        self.healthy = passed
        return True


def learn_health(pools: dict[str, BackendPool], known: tuple[ServerHealth, ...]) -> None:
    """Believe what others found of servers that were not checked here yet: a worker that just started would trust dead
    ones. The first check decides for itself.
    """
    told = {(each.backend, each.server): each for each in known}
    for name, pool in pools.items():
        for server in pool.servers:
            heard = told.get((name, server.name))
            if heard is not None and server.detail == NOT_CHECKED:
                server.healthy, server.detail = heard.healthy, heard.detail
        pool.balancer.refresh()


async def check(server: Server) -> Result:
    """Ask a server once. Takes at most the check's timeout."""
    health = server.health
    began = trio.current_time()
    with trio.move_on_after(health.timeout_s):
        try:
            passed, said = await _ask(server)
        except OSError as error:
            return Result(False, error.strerror or type(error).__name__)
        except trio.BrokenResourceError as error:
            return Result(False, _broken(error))
        except NoAnswer as error:
            return Result(False, str(error))
        took_ms = (trio.current_time() - began) * 1000
        return Result(passed, f"{said} in {took_ms:.0f} ms")
    return Result(False, f"no answer in {health.timeout_s:g} s")


def _broken(error: trio.BrokenResourceError) -> str:
    """In words: what OpenSSL found wrong, if that is why."""
    cause = error.__cause__
    if isinstance(cause, ssl.SSLCertVerificationError):
        return f"its certificate: {cause.verify_message}"
    if isinstance(cause, ssl.SSLError):
        return f"TLS: {(cause.reason or 'error').lower().replace('_', ' ')}"
    return "connection broke before the answer"


async def _ask(server: Server) -> tuple[bool, str]:
    """Whether the answer is a healthy one, and what it was."""
    host, port = server.address
    authority = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    sock = trio.socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    with sock:
        await sock.connect(server.address)
        plain = trio.SocketStream(sock)
        if server.proxy_protocol is not None:
            await plain.send_all(local_announcement(server.proxy_protocol))
        stream: Stream = plain
        if server.tls is not None:
            authority = server.tls.shared.tls.server_name
            stream = trio.SSLStream(plain, server.tls.shared.context, server_hostname=authority, https_compatible=True)
        if server.health.kind is HealthKind.GRPC:
            return await _grpc_status(stream, authority, server.health)
        if server.streams is not None:
            status = (await http2_probe.ask(stream, _head(b"GET", server.health.path, authority), _USER_AGENT)).status
        else:
            status = await _http1_status(stream, authority, server.health.path)
    return 200 <= status < 400, str(status)


def _head(method: bytes, path: str, authority: str, length: int = 0) -> RequestHead:
    name = authority.encode("ascii")
    return RequestHead(
        method=method,
        path=path.encode("ascii"),
        query=b"",
        authority=name,
        host=name,
        headers=[],
        length=length,
        keep_alive=False,
        expects_continue=False,
    )


async def _grpc_status(stream: Stream, authority: str, health: HealthCheck) -> tuple[bool, str]:
    request = grpc.health_request(health.service)
    head = _head(b"POST", grpc.HEALTH_METHOD.decode("ascii"), authority, len(request))
    head.headers = [(b"content-type", b"application/grpc"), (b"grpc-timeout", grpc.write_timeout(health.timeout_s))]
    head.accepts_trailers = True
    answer = await http2_probe.ask(stream, head, _USER_AGENT, request, whole=True)
    if answer.status != 200:
        return False, str(answer.status)
    status = grpc.read_status(answer.trailers)
    if status != grpc.Status.OK:
        return False, f"grpc-status {status}"
    serving = grpc.read_health(answer.body) or "no health answer"
    return serving == grpc.SERVING, serving


async def _http1_status(stream: Stream, authority: str, path: str) -> int:
    await stream.send_all(
        f"GET {path} HTTP/1.1\r\nhost: {authority}\r\n".encode("ascii")
        + _USER_AGENT
        + b"\r\naccept: */*\r\nconnection: close\r\n\r\n"
    )
    answer = b""
    while b"\r\n" not in answer and len(answer) < limits.MAX_HEALTH_ANSWER_BYTES:
        chunk = await stream.receive_some(limits.MAX_HEALTH_ANSWER_BYTES)
        if not chunk:
            raise NoAnswer("not an HTTP answer")
        answer += chunk
    version, _, rest = answer.partition(b" ")
    code = rest[:3]
    if not (version.startswith(b"HTTP/1.") and len(code) == 3 and code.isdigit()):
        raise NoAnswer("not an HTTP answer")
    return int(code)


class HealthChecker:
    """Keeps one checking task per server of the running snapshot."""

    def __init__(self, nursery: trio.Nursery, rng: random.Random, changed: Callable[[Server], None]) -> None:
        """`changed` is called when a server's `healthy` has changed."""
        self._nursery = nursery
        self._rng = rng
        self._changed = changed
        self._tasks: dict[Server, trio.CancelScope] = {}

    def follow(self, pools: dict[str, BackendPool]) -> None:
        """Check these backends' servers from now on, and no others."""
        wanted = {server for pool in pools.values() for server in pool.servers}
        for server in [server for server in self._tasks if server not in wanted]:
            self._tasks.pop(server).cancel()
        for server in wanted - self._tasks.keys():
            scope = self._tasks[server] = trio.CancelScope()
            self._nursery.start_soon(self._keep_checking, server, scope)

    async def _keep_checking(self, server: Server, scope: trio.CancelScope) -> None:
        streak = Streak(server.health, healthy=server.healthy)
        with scope:
            while True:
                result = await check(server)
                server.detail = result.detail
                if streak.add(result.passed):
                    server.healthy = streak.healthy
                    self._changed(server)
                jitter = 1 + limits.HEALTH_JITTER * (2 * self._rng.random() - 1)
                await trio.sleep(server.health.interval_s * jitter)
