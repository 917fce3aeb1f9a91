"""Connections to servers: kept between requests, bounded, and tried elsewhere when one cannot be made.

`Upstreams` is what exchanges ask (`Services.open_upstream` and its kin). It chooses a server, takes a connection that
is there, or has one made.

A connection that was asked for and is no longer wanted when it is there goes to the idle ones: the next request takes
it.

Servers that speak HTTP/2 are given many requests on a connection. While one is being made, those that come meanwhile
wait for it together; when all are full, another one is made. The same bounds hold: connections of a server, requests
that wait.

Servers that take the PROXY protocol are told about a client when a connection begins, and believe it until it ends. So
such a connection is its client connection's alone: idle, it waits for the next request of that one, and it is closed
when that one is over.
"""

import random
from collections.abc import Iterable

from l7 import limits
from l7.proxy_protocol import announcement, local_announcement
from l7.reactor import Reactor
from l7.sides import ClientFlow, UpstreamSide, UpstreamUser
from l7.telemetry.flags import Flag
from l7.telemetry.metrics import Counters
from l7.transport import reason_of
from l7.upstream.connection import UpstreamSocket
from l7.upstream.multiplexed import MultiplexedSocket
from l7.upstream.server import BackendPool, Server
from l7.upstream.tls import BackendContext
from orchestrator.contract.route import Backend, BackendServer, ProxyProtocol


class _Attempt:
    """An exchange that waits for a connection."""

    __slots__ = ("connection", "count", "exchange", "pool", "tried")

    def __init__(self, exchange: UpstreamUser, pool: BackendPool) -> None:
        self.exchange = exchange
        self.pool = pool
        self.count = 0
        self.tried: list[Server] = []
        self.connection: UpstreamSocket | MultiplexedSocket | None = None


class Upstreams:
    """All backends of a worker."""

    def __init__(self, reactor: Reactor, counters: Counters, rng: random.Random) -> None:
        self._reactor = reactor
        self._counters = counters
        self._random = rng.random
        self.backends: dict[str, BackendPool] = {}
        self._waiting: dict[UpstreamUser, _Attempt] = {}
        self._used: dict[UpstreamSide, UpstreamSocket | MultiplexedSocket] = {}

    def __repr__(self) -> str:
        return f"<Upstreams: {len(self._used)} busy, {len(self._waiting)} waiting, {list(self.backends.values())}>"

    def _below(self, bound: int) -> int:
        # A fifth of the time of `randrange`; the bias is below 2^-40.
        return int(self._random() * bound)

    @property
    def requests_in_flight(self) -> int:
        """Requests that hold a connection to a server, or wait for one."""
        return len(self._used) + len(self._waiting)

    # -- snapshots -----------------------------------------------------------------------------------------------------

    def build(self, backends: Iterable[Backend]) -> dict[str, BackendPool]:
        """Pools for a new snapshot, aside. What did not change keeps its connections and its health.

        Raises:
            CertificateInvalid: what a backend's TLS needs cannot be used.
        """
        built: dict[str, BackendPool] = {}
        for backend in backends:
            present = self.backends.get(backend.name)
            if present is not None and present.backend == backend:
                built[backend.name] = present
                continue
            known = {server.name: server for server in present.servers} if present else {}
            shared = present.shared if present is not None else None
            if backend.tls is None:
                shared = None
            elif shared is None or shared.tls != backend.tls or shared.protocol is not backend.protocol:
                shared = BackendContext(backend, backend.tls)
            servers = tuple(self._server(known.get(each.name), each, backend, shared) for each in backend.servers)
            built[backend.name] = BackendPool(backend, servers, self._below, shared)
        return built

    def _server(
        self, known: Server | None, server: BackendServer, backend: Backend, shared: BackendContext | None
    ) -> Server:
        fresh = Server(self, server, backend, shared)
        return known if known is not None and known.same_as(fresh) else fresh

    def swap(self, backends: dict[str, BackendPool]) -> None:
        """Use what `build` made, from the next request on."""
        kept = {server for pool in backends.values() for server in pool.servers}
        before = self.servers()
        self.backends = backends
        for server in before:
            if server not in kept:
                server.retire()

    def servers(self) -> list[Server]:
        """Every server of every backend."""
        return [server for pool in self.backends.values() for server in pool.servers]

    # -- what exchanges ask --------------------------------------------------------------------------------------------

    def open(self, exchange: UpstreamUser, backend: str, fresh: bool) -> None:
        """Choose a server and answer with a connection, now or later, or with a failure."""
        pool = self.backends.get(backend)
        server = pool.balancer.choose() if pool is not None else None
        if pool is None or server is None:
            exchange.upstream_failed(Flag.NO_HEALTHY_UPSTREAM, "no_server")
            return
        if server.streams is not None:
            shared = server.streams.with_room()
            if shared is not None:
                self._begin_on(shared, exchange)
                return
        owner = exchange.flow if server.proxy_protocol is not None else None
        connection = server.idle_of(owner) if server.idle and not fresh else None
        if connection is not None:
            server.active += 1
            connection.become_busy()
            self._used[connection.codec] = connection
            exchange.upstream_connected(connection.codec, reused=True)
            return
        if pool.pending >= limits.MAX_PENDING_PER_BACKEND:
            exchange.upstream_failed(Flag.UPSTREAM_OVERFLOW, "pending_requests")
            return
        attempt = _Attempt(exchange, pool)
        self._waiting[exchange] = attempt
        pool.pending += 1
        self._try(attempt, server)

    def abandon(self, exchange: UpstreamUser) -> None:
        """The exchange is gone; its connection, when it comes, is kept for another."""
        attempt = self._waiting.pop(exchange, None)
        if attempt is not None:
            attempt.pool.pending -= 1
            if attempt.connection is not None:
                attempt.tried[-1].active -= 1
                attempt.connection.forget(attempt)

    def flow_over(self, flow: ClientFlow) -> None:
        """A client's connection is over: close those that were its own. Busy ones end with their requests."""
        for server in self.servers():
            if server.proxy_protocol is not None:
                for connection in [each for each in server.idle if each.owner is flow]:
                    connection.release()

    def release(self, side: UpstreamSide, reusable: bool) -> None:
        """An exchange is done with its connection."""
        connection = self._used.pop(side)
        connection.pool.active -= 1
        connection.let_go(side, reusable)

    # -- connecting ----------------------------------------------------------------------------------------------------

    def _try(self, attempt: _Attempt, server: Server) -> None:
        """Connect to this server, and to others if that fails at once."""
        while True:
            attempt.count += 1
            attempt.tried.append(server)
            if server.streams is not None and (shared := server.streams.being_made()) is not None:
                self._wait_for(shared, attempt, server)
                return
            if server.total >= limits.MAX_CONNECTIONS_PER_SERVER and server.proxy_protocol is not None and server.idle:
                # Idle ones, which are others' own, give way.
                server.idle[0].release()
            if server.total >= limits.MAX_CONNECTIONS_PER_SERVER:
                self._give_up(attempt, Flag.UPSTREAM_OVERFLOW, "server_connections")
                return
            connection: UpstreamSocket | MultiplexedSocket
            if server.streams is not None:
                connection = MultiplexedSocket(self._reactor, server)
            else:
                connection = UpstreamSocket(self._reactor, server)
            if isinstance(connection, UpstreamSocket) and server.proxy_protocol is not None:
                self._announce(attempt.exchange, connection, server.proxy_protocol)
            try:
                connection.start()
            except OSError as error:
                self._count_failure(attempt, reason_of(error))
                another = self._another(attempt, reason_of(error))
                if another is None:
                    return
                server = another
                continue
            server.total += 1
            if isinstance(connection, MultiplexedSocket) and server.streams is not None:
                server.streams.connections.append(connection)
            self._wait_for(connection, attempt, server)
            return

    def _wait_for(self, connection: UpstreamSocket | MultiplexedSocket, attempt: _Attempt, server: Server) -> None:
        server.active += 1
        attempt.connection = connection
        connection.wait(attempt)

    def _announce(self, exchange: UpstreamUser, connection: UpstreamSocket, version: ProxyProtocol) -> None:
        """Have the connection begin with who the client is, and be that client's alone."""
        flow = exchange.flow
        ends = flow.ends
        connection.announcement = (
            announcement(version, ends, exchange.request_id) if ends is not None else local_announcement(version)
        )
        connection.owner = flow
        flow.owns_upstreams = True

    def _count_failure(self, attempt: _Attempt, reason: str) -> None:
        self._counters.add(f'upstream_connect_failures{{backend="{attempt.pool.backend.name}",reason="{reason}"}}')

    def _another(self, attempt: _Attempt, reason: str) -> Server | None:
        """After a failure: a server that was not tried yet; None if the exchange was told that there is none."""
        if attempt.count < limits.MAX_CONNECT_ATTEMPTS:
            # Not by the balancer: a server that takes no connections is the least busy of all.
            untried = [server for server in attempt.pool.servers if server.healthy and server not in attempt.tried]
            if untried:
                self._counters.add("retries_connect")
                return min(untried, key=lambda server: server.active)
        self._give_up(attempt, Flag.UPSTREAM_CONNECTION_FAILURE, reason)
        return None

    def _settle(self, attempt: _Attempt) -> None:
        del self._waiting[attempt.exchange]
        attempt.pool.pending -= 1

    def _give_up(self, attempt: _Attempt, flag: Flag, reason: str) -> None:
        self._settle(attempt)
        attempt.exchange.upstream_failed(flag, reason, attempt.tried[-1].name)

    def connected(self, server: Server, connection: UpstreamSocket) -> None:
        """A connection is there."""
        attempt = connection.waiting
        connection.waiting = None
        if not isinstance(attempt, _Attempt):
            self._counters.add("upstream_connections_unclaimed")
            if connection.owner is None:
                server.keep(connection)
            else:
                connection.release()
            return
        self._settle(attempt)
        connection.become_busy()
        self._used[connection.codec] = connection
        attempt.exchange.upstream_connected(connection.codec, reused=False)

    def connect_failed(self, server: Server, connection: UpstreamSocket, reason: str) -> None:
        """A connection will not be."""
        attempt = connection.waiting
        if not isinstance(attempt, _Attempt):
            return
        server.active -= 1
        attempt.connection = None
        self._count_failure(attempt, reason)
        another = self._another(attempt, reason)
        if another is not None:
            self._try(attempt, another)

    # -- connections that many requests share --------------------------------------------------------------------------

    def _begin_on(self, connection: MultiplexedSocket, exchange: UpstreamUser) -> None:
        connection.pool.active += 1
        stream = connection.stream()
        self._used[stream] = connection
        # Others use it, and may have spoilt it: like one from the pool, and like that one safe to try again.
        exchange.upstream_connected(stream, reused=True)

    def streams_connected(self, server: Server, connection: MultiplexedSocket) -> None:
        """It is there: whoever waits and has room begins; the others wait for the next one."""
        for attempt in connection.take_waiting():
            assert isinstance(attempt, _Attempt)  # noqa: S101 - nothing else waits
            attempt.connection = None
            server.active -= 1
            if connection.has_room:
                self._settle(attempt)
                self._begin_on(connection, attempt.exchange)
            elif attempt.count < limits.MAX_CONNECT_ATTEMPTS:
                self._try(attempt, server)
            else:
                self._give_up(attempt, Flag.UPSTREAM_OVERFLOW, "server_streams")
        if server.retired:
            connection.retire()

    def streams_failed(self, server: Server, connection: MultiplexedSocket, reason: str) -> None:
        """It will not be: all that wait try elsewhere."""
        for at, attempt in enumerate(connection.take_waiting()):
            assert isinstance(attempt, _Attempt)  # noqa: S101 - nothing else waits
            if not at:
                self._count_failure(attempt, reason)
            attempt.connection = None
            server.active -= 1
            another = self._another(attempt, reason)
            if another is not None:
                self._try(attempt, another)

    def count(self, name: str) -> None:
        """Add one to a named counter."""
        self._counters.add(name)

    def close(self) -> None:
        """Close every idle connection: the worker ends."""
        for server in self.servers():
            server.retire()
