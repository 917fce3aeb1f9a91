"""One worker's proxy: the connections, the services that exchanges use, and the snapshot that runs.

A snapshot is built aside into an `Edition` and swapped in by `commit`, in one step: a handful of assignments between
two batches of the reactor. Established connections keep their TLS context and their place; the next request of any of
them finds the new routes and backends. Listeners that did not change are not touched.
"""

import logging
import random
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import trio

from l7 import limits
from l7.connection import ClientCodec, ClientSocket
from l7.flow_origin import FlowOrigin, IngressLookup
from l7.goodbye import Farewell, place_of
from l7.listener import Acceptor
from l7.protocol.http1 import ServerConnection
from l7.protocol.http2 import Http2Connection
from l7.proxy_preface import Preface, TrustedSources
from l7.reactor import Reactor
from l7.request_ids import RequestIds
from l7.routing.matcher import Matcher
from l7.shell import Flow
from l7.sides import UpstreamSide, UpstreamUser
from l7.telemetry.access_log import AccessRecord
from l7.telemetry.log_writer import AccessLogWriter
from l7.telemetry.metrics import Counters, RequestMetrics
from l7.tls import HTTP2, CertificateInvalid, CertificateTable, TlsFacts, TlsTerminator
from l7.upstream.health import HealthChecker, learn_health
from l7.upstream.pool import Upstreams
from l7.upstream.server import BackendPool, Server
from orchestrator.contract.report import ServerHealth
from orchestrator.contract.route import Goodbye, Listener
from orchestrator.contract.snapshot import ProxySnapshot

log = logging.getLogger(__name__)

#: What a plain-text client is told that is one too many. A TLS client would cost a handshake to be told: it is closed.
OVERLOADED = (
    b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: text/plain\r\ncontent-length: 37\r\nretry-after: 1\r\n"
    b"connection: close\r\n\r\nThe proxy has too many connections.\r\n"
)

_RESUMED = 'tls_handshakes{kind="resumed"}'
_FULL = 'tls_handshakes{kind="full"}'

#: Address and port of a listening socket.
Bound = tuple[str, int]


class EditionRefused(Exception):
    """A snapshot cannot be run by this worker; says why."""


@dataclass(frozen=True, slots=True)
class Edition:
    """A snapshot, built and ready to be swapped in."""

    snapshot: ProxySnapshot
    routes: Matcher
    certificates: CertificateTable
    backends: dict[str, BackendPool]
    listeners: dict[Bound, Listener]


class Proxy:
    """All of a worker but its process: usable within any trio program."""

    def __init__(
        self,
        *,
        access_log: Path | None = None,
        open_ingress: Callable[[], IngressLookup] | None = None,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
        rng: random.Random | None = None,
        ids: RequestIds | None = None,
    ) -> None:
        self.reactor = Reactor(clock=clock)
        self.routes = Matcher(())
        self.tls = TlsTerminator()
        self.counters = Counters()
        self.metrics = RequestMetrics()
        self._origin = FlowOrigin(open_ingress, self.counters)
        self.log_writer = AccessLogWriter(access_log)
        self.wall_time = wall_clock
        self._rng = rng or random.Random()  # noqa: S311 - spreads load, guards nothing
        self.upstreams = Upstreams(self.reactor, self.counters, self._rng)
        self.count = self.counters.add
        self.new_request_id = (ids or RequestIds()).next
        self.snapshot: ProxySnapshot | None = None
        self.clients: set[ClientSocket] = set()
        self._empty = trio.Event()
        self.farewell: Farewell | None = None
        self._health: HealthChecker | None = None
        self._acceptors: dict[Bound, Acceptor] = {}
        self._offered: dict[Bound, socket.socket] = {}
        self._per_address: dict[str, int] = {}
        self._probe_sources: frozenset[str] = frozenset()
        self.is_serving = True
        # The first place in the spread differs between workers, which otherwise would ask clients in step.
        self._accepted = self._rng.randrange(1 << 20)

    def __repr__(self) -> str:
        version = self.snapshot.version if self.snapshot else None
        return f"<Proxy: snapshot {version}, {len(self.clients)} clients, {self.upstreams!r}>"

    # -- tasks ---------------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Serve until cancelled."""
        async with trio.open_nursery() as nursery:
            self._health = HealthChecker(nursery, self._rng, self._health_changed)
            self._health.follow(self.upstreams.backends)
            nursery.start_soon(self.log_writer.run)
            nursery.start_soon(self._say_goodbyes)
            await self.reactor.run()

    async def _say_goodbyes(self) -> None:
        while True:
            await trio.sleep(limits.GOODBYE_TICK_S)
            self.say_goodbyes()

    def say_goodbyes(self) -> None:
        """Ask those clients to leave whose turn it is."""
        if self.farewell is not None:
            self.farewell.tick(self.wall_time())
            self.reactor.settle()

    def _health_changed(self, server: Server) -> None:
        self.counters.add(f'health_changes{{to="{"healthy" if server.healthy else "unhealthy"}"}}')
        for pool in self.upstreams.backends.values():
            if server in pool.servers:
                pool.balancer.refresh()
                log.warning(
                    "backend %s: server %s is %s: %s",
                    pool.backend.name,
                    server.name,
                    "healthy" if server.healthy else "unhealthy",
                    server.detail,
                )

    # -- snapshots -----------------------------------------------------------------------------------------------------

    def offer(self, bound: Bound, sock: socket.socket) -> None:
        """A listening socket for a snapshot that comes."""
        self._offered[bound] = sock

    async def load_certificates(self, snapshot: ProxySnapshot) -> CertificateTable:
        """The slow part of `prepare`, in a thread: requests are served meanwhile.

        Raises:
            EditionRefused: a certificate cannot be served.
        """
        try:
            return await trio.to_thread.run_sync(
                partial(CertificateTable, snapshot.certificates, snapshot.hosts, previous=self.tls.certificates)
            )
        except CertificateInvalid as error:
            raise EditionRefused(str(error)) from error

    def prepare(
        self, snapshot: ProxySnapshot, certificates: CertificateTable, health: tuple[ServerHealth, ...] = ()
    ) -> Edition:
        """Build everything that the snapshot needs, without touching what runs. `health`: see `learn_health`.

        Raises:
            EditionRefused: it cannot be run; the text says why.
        """
        listeners = {(str(each.address), int(each.port)): each for each in snapshot.listeners}
        for bound, listener in listeners.items():
            if bound not in self._acceptors and bound not in self._offered:
                raise EditionRefused(f"listener {listener.vip}: no socket for {bound[0]} port {bound[1]}")
        try:
            backends = self.upstreams.build(snapshot.backends)
        except CertificateInvalid as error:
            raise EditionRefused(str(error)) from error
        learn_health(backends, health)
        return Edition(
            snapshot=snapshot,
            routes=Matcher(snapshot.hosts),
            certificates=certificates,
            backends=backends,
            listeners=listeners,
        )

    def commit(self, edition: Edition) -> None:
        """Swap the snapshot in."""
        self.snapshot = edition.snapshot
        self._probe_sources = frozenset(str(address) for address in edition.snapshot.probe_sources)
        self.routes = edition.routes
        self.tls.certificates = edition.certificates
        self.tls.tickets.use(edition.snapshot.ticket_keys)
        self.upstreams.swap(edition.backends)
        if self._health is not None:
            self._health.follow(edition.backends)
        self._open_and_close(edition.listeners)
        self._set_goodbye(edition.snapshot.goodbye)
        self.reactor.settle()

    def discard(self) -> None:
        """A snapshot that was prepared is not to be run: let go of the sockets that were offered for it."""
        for sock in self._offered.values():
            sock.close()
        self._offered.clear()

    def _open_and_close(self, listeners: dict[Bound, Listener]) -> None:
        for bound in [bound for bound in self._acceptors if bound not in listeners]:
            self._close_acceptor(bound)
        for bound, listener in listeners.items():
            acceptor = self._acceptors.get(bound)
            if acceptor is None:
                acceptor = Acceptor(
                    self.reactor, self._offered.pop(bound), self, vip=listener.vip, tls=listener.tls, bound=bound
                )
                self._acceptors[bound] = acceptor
                acceptor.start()
            acceptor.vip, acceptor.tls, acceptor.trusted_hops = listener.vip, listener.tls, listener.trusted_hops
            if acceptor.trusted_sources.prefixes != listener.accept_proxy_protocol:
                acceptor.trusted_sources = TrustedSources(listener.accept_proxy_protocol)
        self.discard()

    def _close_acceptor(self, bound: Bound, *, has_heir: bool = False) -> None:
        acceptor = self._acceptors.pop(bound)
        if not has_heir:
            acceptor.accept_rest()
        acceptor.close()

    # -- goodbyes ------------------------------------------------------------------------------------------------------

    def _set_goodbye(self, goodbye: Goodbye | None) -> None:
        present = self.farewell.goodbye if self.farewell else None
        if goodbye is None:
            if present is not None:
                self.farewell = None
                for client in self.clients:
                    client.stay()
            return
        if goodbye.reset:
            self.reset_clients("operator")
        if present is None or present.model_copy(update={"reset": goodbye.reset}) != goodbye:
            self.farewell = Farewell(goodbye, self.clients)

    def stop_accepting(self, grace_s: float, *, has_heir: bool = False) -> None:
        """The process is to end: accept nothing new, and ask everybody to leave within `grace_s` seconds.

        `has_heir`: others accept on the same sockets, so what waits in their queues is left to them.
        """
        self.is_serving = False
        for bound in list(self._acceptors):
            self._close_acceptor(bound, has_heir=has_heir)
        # A third of the time to ask, a third for those that are idle, a third for slow transfers.
        third_s = grace_s / 3
        spread_s = max(min(third_s, limits.STOP_SPREAD_S), limits.GOODBYE_TICK_S)
        goodbye = Goodbye(started_at=self.wall_time(), spread_s=spread_s)
        self.farewell = Farewell(goodbye, self.clients, idle_s=min(third_s, limits.GOODBYE_IDLE_S))
        self.reactor.settle()

    async def all_clients_gone(self) -> None:
        """Wait until no client's connection is open."""
        while self.clients:
            self._empty = trio.Event()
            await self._empty.wait()

    def reset_clients(self, reason: str) -> int:
        """Reset every connection that is still open; return how many those were."""
        clients = tuple(self.clients)
        for client in clients:
            self.counters.add(f'connections_reset{{reason="{reason}"}}')
            client.cut(reason)
        self.reactor.settle()
        return len(clients)

    # -- Door ----------------------------------------------------------------------------------------------------------

    def accepted(self, acceptor: Acceptor, sock: socket.socket, address: Bound) -> None:
        """Take a client's connection in, or refuse it."""
        sock.setblocking(False)
        # Who tells about clients is not one: limits and counts are for those that it tells about.
        preface = Preface() if address[0] in acceptor.trusted_sources else None
        mine = self._per_address.get(address[0], 0) if preface is None else 0
        is_probe = address[0] in self._probe_sources
        if len(self.clients) >= limits.MAX_CLIENT_CONNECTIONS:
            self._refuse(acceptor, sock, "too_many_connections")
            return
        if mine >= limits.MAX_CONNECTIONS_PER_CLIENT:
            self._refuse(acceptor, sock, "too_many_connections_of_client")
            return
        client = ClientSocket(
            self.reactor,
            sock,
            self,
            vip=acceptor.vip,
            address=address,
            local=acceptor.bound,
            place=place_of(self._accepted),
            terminator=self.tls if acceptor.tls else None,
            preface=preface,
        )
        client.trusted_hops = acceptor.trusted_hops
        self._accepted += 1
        self.counters.add("probe_connections_accepted" if is_probe else "connections_accepted")
        if self.snapshot is not None:
            client.l4_node = self._origin.name(address, acceptor.bound, self.snapshot.l4_nodes, self.now())
        self.clients.add(client)
        if preface is None:
            client.counted_as = address[0]
            self._per_address[address[0]] = mine + 1
        client.start()

    def _refuse(self, acceptor: Acceptor, sock: socket.socket, reason: str) -> None:
        self.counters.add(f'connections_refused{{reason="{reason}"}}')
        if not acceptor.tls:
            try:
                # A new socket's buffer is empty: this does not block, and is not cut.
                sock.send(OVERLOADED)
            except OSError:
                self.counters.add('connections_refused{reason="reset"}')
        sock.close()

    def accept_failed(self, acceptor: Acceptor, error: OSError) -> None:
        """Out of descriptors or memory: the acceptor pauses."""
        self.counters.add("accept_failures")
        log.error("%r: %s; accepting again in %g s", acceptor, error.strerror, limits.ACCEPT_PAUSE_S)

    # -- ClientOwner ---------------------------------------------------------------------------------------------------

    def client_told(self, client: ClientSocket) -> bool:
        """Count the connection for the client that a PROXY header has named; refuse what is one too many."""
        address = client.address[0]
        mine = self._per_address.get(address, 0)
        if mine >= limits.MAX_CONNECTIONS_PER_CLIENT:
            self.counters.add('connections_refused{reason="too_many_connections_of_client"}')
            return False
        client.counted_as = address
        self._per_address[address] = mine + 1
        return True

    def preface_failed(self, client: ClientSocket, reason: str) -> None:
        """Count it: a trusted source that sends no header is set up wrongly."""
        self.counters.add(f'proxy_headers_refused{{reason="{reason}"}}')

    def client_ready(self, client: ClientSocket, facts: TlsFacts | None) -> ClientCodec:
        """Make the codec for a connection that can carry requests."""
        if facts is not None:
            self.counters.add(_RESUMED if facts.resumed else _FULL)
        is_http2 = facts is not None and facts.protocol == HTTP2
        flow = Flow(
            client=client.address[0],
            vip=client.vip,
            l4_node=client.l4_node,
            tls_version=facts.version if facts is not None else None,
            cover=facts.cover if facts is not None else None,
            client_policy=facts.client_policy if facts is not None else None,
            client_allowed=facts is None or facts.client_allowed,
            identity=facts.identity if facts is not None else None,
            is_probe=client.address[0] in self._probe_sources,
            trusted_hops=client.trusted_hops,
            protocol="HTTP/2" if is_http2 else "HTTP/1.1",
            ends=client.ends(),
        )
        client.flow = flow
        client.settles_last = is_http2
        codec = client.codec = (Http2Connection if is_http2 else ServerConnection)(client, self, flow)
        if self.farewell is not None:
            self.farewell.join(client, self.wall_time())
        return codec

    def client_gone(self, client: ClientSocket) -> None:
        """Strike it from the books."""
        self.clients.discard(client)
        if client.flow is not None and client.flow.owns_upstreams:
            self.upstreams.flow_over(client.flow)
        if not self.clients:
            self._empty.set()
        address = client.counted_as
        left = self._per_address.get(address, 0) - 1
        if left > 0:
            self._per_address[address] = left
        else:
            self._per_address.pop(address, None)

    def handshake_failed(self, client: ClientSocket, reason: str) -> None:
        """Count it, unless it was a probe that asks for a connection alone."""
        if client.address[0] in self._probe_sources:
            return
        self.counters.add(f'tls_handshakes_failed{{reason="{reason}"}}')

    # -- Services ------------------------------------------------------------------------------------------------------

    def now(self) -> float:
        """Monotonic seconds, as of this step."""
        return self.reactor.now

    def open_upstream(self, exchange: UpstreamUser, backend: str, fresh: bool) -> None:
        """Get a connection to a server of the backend."""
        self.upstreams.open(exchange, backend, fresh)

    def abandon_upstream(self, exchange: UpstreamUser) -> None:
        """It is no longer wanted."""
        self.upstreams.abandon(exchange)

    def release_upstream(self, connection: UpstreamSide, reusable: bool) -> None:
        """It is done with."""
        self.upstreams.release(connection, reusable)

    def finished(self, record: AccessRecord) -> None:
        """Count the request and log it."""
        self.metrics.count(record)
        self.log_writer.add(record)

    # -- status --------------------------------------------------------------------------------------------------------

    @property
    def open_flows(self) -> dict[str, int]:
        """Client connections by protocol, handshaking and lingering ones included: each is a socket of this host.

        WebSockets over HTTP/2 are streams of their connections, and counted with those. Without those of L4 nodes'
        probes, for which no drain has to wait.
        """
        codecs = [client.codec for client in self.clients]
        http2 = sum(isinstance(codec, Http2Connection) for codec in codecs)
        tunnels = sum(isinstance(codec, ServerConnection) and codec.is_tunnel for codec in codecs)
        probes = sum(self._per_address.get(source, 0) for source in self._probe_sources)
        flows = {"http/1.1": len(codecs) - http2 - tunnels - probes, HTTP2: http2, "websocket": tunnels}
        return {protocol: count for protocol, count in flows.items() if count or protocol == "http/1.1"}

    def health(self) -> tuple[ServerHealth, ...]:
        """Each server, as the active checks see it."""
        return tuple(
            ServerHealth(backend=name, server=server.name, healthy=server.healthy, detail=server.detail)
            for name, pool in sorted(self.upstreams.backends.items())
            for server in pool.servers
        )

    def totals(self) -> dict[str, int]:
        """All counters."""
        return (
            self.metrics.totals()
            | self.counters.totals()
            | {
                "access_log_dropped": self.log_writer.dropped,
                "internal_errors": self.reactor.failures,
                "tls_names_refused": self.tls.refused_names,
                "tls_tickets_unknown": self.tls.tickets.unknown,
                "balance_panics": sum(pool.balancer.panics for pool in self.upstreams.backends.values()),
            }
        )

    def close(self) -> None:
        """Release every socket, at once."""
        for bound in list(self._acceptors):
            self._acceptors.pop(bound).close()
        self.discard()
        for client in tuple(self.clients):
            client.cut("stopped")
        self.reactor.settle()
        self.upstreams.close()
        self.reactor.close()
