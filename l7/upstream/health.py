"""Active health checks: one trio task per server, a GET over a fresh connection, and the counting of its results.

A server is healthy when it answers 2xx or 3xx (HAProxy: `option httpchk`). It changes sides after a number of equal
results in a row; but a server that was never checked is trusted only until its first result (HAProxy starts servers
the same way), so that neither a proxy that just started refuses everything, nor a dead server is trusted for three
intervals.
"""

import random
import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass

import trio

from l7 import limits
from l7.proxy_protocol import local_announcement
from l7.upstream.pool import BackendPool, Server
from orchestrator.contract.route import HealthCheck


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


async def check(server: Server) -> Result:
    """Ask a server once. Takes at most the check's timeout."""
    health = server.health
    began = trio.current_time()
    result = Result(False, f"no answer in {health.timeout_s:g} s")
    with trio.move_on_after(health.timeout_s):
        try:
            status = await _status(server)
        except OSError as error:
            return Result(False, error.strerror or type(error).__name__)
        except trio.BrokenResourceError as error:
            return Result(False, _broken(error))
        took_ms = (trio.current_time() - began) * 1000
        if status is None:
            result = Result(False, "not an HTTP answer")
        else:
            result = Result(200 <= status < 400, f"{status} in {took_ms:.0f} ms")
    return result


def _broken(error: trio.BrokenResourceError) -> str:
    """In words: what OpenSSL found wrong, if that is why."""
    cause = error.__cause__
    if isinstance(cause, ssl.SSLCertVerificationError):
        return f"its certificate: {cause.verify_message}"
    if isinstance(cause, ssl.SSLError):
        return f"TLS: {(cause.reason or 'error').lower().replace('_', ' ')}"
    return "connection broke before the answer"


async def _status(server: Server) -> int | None:
    host, port = server.address
    authority = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    sock = trio.socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    with sock:
        await sock.connect(server.address)
        plain = trio.SocketStream(sock)
        if server.proxy_protocol is not None:
            await plain.send_all(local_announcement(server.proxy_protocol))
        stream: trio.SocketStream | trio.SSLStream[trio.SocketStream] = plain
        if server.tls is not None:
            authority = server.tls.shared.tls.server_name
            stream = trio.SSLStream(plain, server.tls.shared.context, server_hostname=authority, https_compatible=True)
        await stream.send_all(
            f"GET {server.health.path} HTTP/1.1\r\nhost: {authority}\r\nuser-agent: edgefleet-health\r\n"
            "accept: */*\r\nconnection: close\r\n\r\n".encode("ascii")
        )
        answer = b""
        while b"\r\n" not in answer and len(answer) < limits.MAX_HEALTH_ANSWER_BYTES:
            chunk = await stream.receive_some(limits.MAX_HEALTH_ANSWER_BYTES)
            if not chunk:
                return None
            answer += chunk
    version, _, rest = answer.partition(b" ")
    code = rest[:3]
    return int(code) if version.startswith(b"HTTP/1.") and len(code) == 3 and code.isdigit() else None


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
