"""A server of a backend, with this worker's connections to it: each carries one request at a time, or many.

One `Server` per address survives a change of snapshot that does not touch it. One `BackendPool` per backend balances
over its servers.
"""

from collections.abc import Callable
from typing import Protocol

from l7 import limits
from l7.sides import ClientFlow
from l7.upstream.balance import LeastRequest
from l7.upstream.connection import UpstreamSocket
from l7.upstream.multiplexed import MultiplexedSocket, StreamPool
from l7.upstream.tls import BackendContext, ServerTls
from orchestrator.contract.route import Backend, BackendProtocol, BackendServer

#: Detail of a server until its first check.
NOT_CHECKED = "not checked yet"


class ConnectionsOwner(Protocol):
    """Whoever handed a connection's making out (`l7.upstream.pool.Upstreams`)."""

    def connected(self, server: "Server", connection: UpstreamSocket) -> None:
        """A connection is there."""

    def connect_failed(self, server: "Server", connection: UpstreamSocket, reason: str) -> None:
        """A connection will not be."""

    def streams_connected(self, server: "Server", connection: MultiplexedSocket) -> None:
        """One that many requests share is there."""

    def streams_failed(self, server: "Server", connection: MultiplexedSocket, reason: str) -> None:
        """One that many requests would have shared will not be."""

    def count(self, name: str) -> None:
        """Add one to a named counter."""


class Server:
    """One server of a backend, with this worker's connections to it."""

    __slots__ = (
        "_owner",
        "active",
        "address",
        "detail",
        "health",
        "healthy",
        "idle",
        "name",
        "proxy_protocol",
        "retired",
        "streams",
        "tls",
        "total",
    )

    def __init__(
        self,
        owner: ConnectionsOwner,
        server: BackendServer,
        backend: Backend,
        shared: BackendContext | None,
    ) -> None:
        """`shared`: TLS of all servers of the backend."""
        self._owner = owner
        self.name = server.name
        self.address = (str(server.address), int(server.port))
        self.health = backend.health
        self.tls = ServerTls(shared) if shared is not None else None
        self.proxy_protocol = backend.send_proxy_protocol
        self.streams = StreamPool(self) if backend.protocol is BackendProtocol.H2 else None
        """Connections that many requests share; None: each carries one at a time."""
        self.healthy = True
        """By the active checks. A server is trusted until its first check says otherwise."""
        self.detail = NOT_CHECKED
        self.active = 0
        """Requests in progress, and connections being opened for one."""
        self.total = 0
        """Open connections, idle ones and connecting ones included."""
        self.idle: list[UpstreamSocket] = []
        """Last in, first out: what is not needed grows old and is closed."""
        self.retired = False
        """No backend of the running snapshot names it: nothing is kept."""

    def __repr__(self) -> str:
        state = "healthy" if self.healthy else "unhealthy"
        return f"<Server {self.name}: {state}, {self.active} active, {len(self.idle)} idle, {self.total} connections>"

    def connected(self, connection: UpstreamSocket) -> None:
        """Hand the connection to who waits for it."""
        self._owner.connected(self, connection)

    def connect_failed(self, connection: UpstreamSocket, reason: str) -> None:
        """Try elsewhere, or tell who waits."""
        self._owner.connect_failed(self, connection, reason)

    def streams_connected(self, connection: MultiplexedSocket) -> None:
        """Serve those that wait for it."""
        self._owner.streams_connected(self, connection)

    def streams_failed(self, connection: MultiplexedSocket, reason: str) -> None:
        """Try elsewhere, or tell those that wait."""
        self._owner.streams_failed(self, connection, reason)

    def streams_gone(self, connection: MultiplexedSocket) -> None:
        """One connection less."""
        self.total -= 1
        if self.streams is not None:
            self.streams.connections.remove(connection)

    def count(self, name: str) -> None:
        """Add one to a named counter."""
        self._owner.count(name)

    def same_as(self, other: "Server") -> bool:
        """Whether connections to the one are as good as to the other."""
        return (
            self.address == other.address
            and self.health == other.health
            and (self.tls.shared if self.tls else None) is (other.tls.shared if other.tls else None)
            and self.proxy_protocol is other.proxy_protocol
            and (self.streams is None) == (other.streams is None)
        )

    def gone(self, connection: UpstreamSocket) -> None:
        """One connection less."""
        self.total -= 1
        if connection.idle:
            self.idle.remove(connection)

    def idle_of(self, owner: ClientFlow | None) -> UpstreamSocket | None:
        """The idle connection that was used last, of those that this client's requests may use; no longer idle."""
        idle = self.idle
        if owner is None:
            return idle.pop() if idle else None
        for at in range(len(idle) - 1, -1, -1):
            if idle[at].owner is owner:
                return idle.pop(at)
        return None

    def keep(self, connection: UpstreamSocket) -> None:
        """Keep a connection that nobody uses, if there is room."""
        if connection.owner is not None and len(self.idle) >= limits.MAX_IDLE_PER_SERVER:
            # Nobody else could use those that are there already: the oldest gives way.
            self.idle[0].release()
        if self.retired or len(self.idle) >= limits.MAX_IDLE_PER_SERVER:
            connection.release()
        else:
            connection.become_idle()
            self.idle.append(connection)

    def retire(self) -> None:
        """It left the configuration: idle connections close now, busy ones after their request."""
        self.retired = True
        for connection in tuple(self.idle):
            connection.release()
        if self.streams is not None:
            self.streams.retire()


class BackendPool:
    """The servers of one backend, balanced by least request."""

    __slots__ = ("backend", "balancer", "pending", "servers", "shared")

    def __init__(
        self,
        backend: Backend,
        servers: tuple[Server, ...],
        below: Callable[[int], int],
        shared: BackendContext | None = None,
    ) -> None:
        """`below(n)` gives a random integer 0 ≤ x < n. `shared`: TLS of all its servers."""
        self.shared = shared
        self.backend = backend
        self.servers = servers
        self.balancer: LeastRequest[Server] = LeastRequest(servers, below)
        self.pending = 0
        """Exchanges that wait for a connection."""

    def __repr__(self) -> str:
        return f"<BackendPool {self.backend.name}: {self.servers}>"
