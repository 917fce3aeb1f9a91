"""A shell without sockets: writes down what the sans-I/O half asks for, and lets a test say what happens."""

from l7.protocol.http1 import ServerConnection, UpstreamConnection
from l7.routing.hosts import HostCover
from l7.routing.matcher import Matcher
from l7.shell import Flow
from l7.sides import UpstreamSide, UpstreamUser
from l7.telemetry.access_log import AccessRecord
from orchestrator.contract.route import Host, PathMatchKind, Route

HOSTS = (
    Host(
        name="www.example.com",
        owner="shop",
        routes=(
            Route(name="all", kind=PathMatchKind.PREFIX, path="/", backend="web", timeout_s=7),
            Route(name="api", kind=PathMatchKind.PREFIX, path="/api", backend="api", timeout_s=3),
        ),
    ),
    Host(
        name="only.example.com",
        owner="shop",
        routes=(Route(name="one", kind=PathMatchKind.EXACT, path="/one", backend="web"),),
    ),
)

#: A request that is routed to the backend `web`, a response, and what the client gets of it.
GET = b"GET /a?b=c HTTP/1.1\r\nHost: www.example.com\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
OK_TO_CLIENT = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"


class Wire:
    """A transport that keeps what was sent, and what else was asked for, in order."""

    def __init__(self) -> None:
        self.sent = b""
        self.asked: list[str] = []
        self.reading = True
        self.deadline: float | None = None
        self.ended: str | None = None

    def send(self, data: bytes) -> None:
        assert self.ended is None, "nothing is sent on a closed transport"
        self.sent += data

    def take(self) -> bytes:
        """What was sent since the last call."""
        sent, self.sent = self.sent, b""
        return sent

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def set_deadline(self, seconds: float | None) -> None:
        self.deadline = seconds

    def close(self) -> None:
        assert self.ended is None, "a transport is ended once"
        self.ended = "closed"

    def abort(self) -> None:
        assert self.ended is None, "a transport is ended once"
        self.ended = "aborted"


class Upstream:
    """A connection to a server, with its wire."""

    def __init__(self, server: str = "web-1") -> None:
        self.wire = Wire()
        self.connection = UpstreamConnection(self.wire, server)


class World:
    """One client connection, the services around it, and the upstream connections that it was given."""

    def __init__(
        self,
        *,
        tls: bool = False,
        cover: tuple[str, ...] | None = None,
        closing: bool = False,
        is_probe: bool = False,
        client: str = "192.0.2.7",
        trusted_hops: int = 0,
    ) -> None:
        self.routes = Matcher(HOSTS)
        self.is_serving = True
        self.time = 1000.0
        self.log: list[AccessRecord] = []
        self.counted: list[str] = []
        self.opened: list[tuple[str, bool]] = []
        self.pending: UpstreamUser | None = None
        self.released: list[tuple[UpstreamSide, bool]] = []
        self.upstream = Upstream()
        self.idle: UpstreamConnection | None = None
        self.wire = Wire()
        flow = Flow(
            client=client,
            vip="web-v4",
            l4_node="l4-1",
            tls_version="TLSv1.3" if tls else None,
            cover=HostCover(cover) if cover is not None else None,
            is_probe=is_probe,
            trusted_hops=trusted_hops,
        )
        self.client = ServerConnection(self.wire, self, flow, closing=closing)

    # -- Services ------------------------------------------------------------------------------------------------------

    def now(self) -> float:
        return self.time

    def wall_time(self) -> float:
        return 1_700_000_000.0

    def new_request_id(self) -> str:
        return f"id-{len(self.log) + 1}"

    def open_upstream(self, exchange: UpstreamUser, backend: str, fresh: bool) -> None:
        self.opened.append((backend, fresh))
        if self.idle is not None and not fresh:
            idle, self.idle = self.idle, None
            exchange.upstream_connected(idle, reused=True)
        else:
            self.pending = exchange

    def abandon_upstream(self, exchange: UpstreamUser) -> None:
        assert exchange is self.pending
        self.pending = None

    def release_upstream(self, connection: UpstreamSide, reusable: bool) -> None:
        self.released.append((connection, reusable))

    def count(self, name: str) -> None:
        self.counted.append(name)

    def finished(self, record: AccessRecord) -> None:
        self.log.append(record)

    # -- What a test says ----------------------------------------------------------------------------------------------

    def pool(self) -> "World":
        """An idle connection is in the pool."""
        self.idle = self.upstream.connection
        return self

    def connect(self) -> None:
        """The connection that was asked for is there, fresh."""
        assert self.pending is not None
        self.upstream = Upstream()
        exchange, self.pending = self.pending, None
        exchange.upstream_connected(self.upstream.connection, reused=False)

    def request(self, data: bytes) -> bytes:
        """The client sends; gives what went upstream."""
        self.client.receive(data)
        return self.upstream.wire.take()

    def respond(self, data: bytes) -> bytes:
        """The server sends; gives what went to the client."""
        self.upstream.connection.receive(data)
        return self.wire.take()

    @property
    def last(self) -> AccessRecord:
        return self.log[-1]
