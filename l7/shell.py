"""What the sans-I/O half of the proxy asks of the shell around it.

Rules between the two halves:

1. The shell tells what happened by calling methods of `ServerConnection`, `UpstreamConnection` and `Exchange`; these
   answer by calling the methods below. Neither half waits for the other.
2. `Transport` methods only note what is to be done and never call back. Bytes of several `send` calls in one step leave
   in one write, after the step.
3. `Services.open_upstream` may call back before it returns; no other method may.
4. After `close` or `abort` of a transport, its connection is told nothing more.
"""

from typing import Protocol

from l7.client_identity import ClientIdentity
from l7.forwarded import direct_origin
from l7.proxy_protocol import Ends
from l7.routing.hosts import HostCover
from l7.routing.matcher import Matcher
from l7.sides import UpstreamSide, UpstreamUser
from l7.telemetry.access_log import AccessRecord


class Transport(Protocol):
    """One non-blocking socket, of a client or of a server."""

    def send(self, data: bytes) -> None:
        """Queue bytes. If the queue grows past `OUTPUT_HIGH_WATER_BYTES` and cannot be written, the shell calls the
        connection's `output_blocked()` after the step, and `output_drained()` below `OUTPUT_LOW_WATER_BYTES`."""

    def pause_reading(self) -> None:
        """Read no more until `resume_reading`. Idempotent. Bytes that were read already may still be delivered."""

    def resume_reading(self) -> None:
        """Undo `pause_reading`. Idempotent."""

    def set_deadline(self, seconds: float | None) -> None:
        """Call the connection's `deadline_passed()` in so many seconds; replaces the deadline before; None: no
        deadline. A tenth of a second is precise enough. Only client transports are asked; upstream ones may do
        nothing."""

    def close(self) -> None:
        """Send what is queued, end the output, throw input away for `LINGER_S`, close."""

    def abort(self) -> None:
        """Drop what is queued and close at once with a reset, so that nobody takes a cut message for a whole one."""


class Services(Protocol):
    """What a worker offers to all its exchanges."""

    @property
    def routes(self) -> Matcher:
        """The routes in force; swapped whole by the next snapshot."""

    @property
    def is_serving(self) -> bool:
        """Whether new flows are welcome, as far as this proxy can tell: what probes are answered."""

    def now(self) -> float:
        """Monotonic seconds."""

    def wall_time(self) -> float:
        """Unix seconds, for the access log."""

    def new_request_id(self) -> str:
        """An unpredictable id, ASCII letters, digits and dashes (a UUID)."""

    def open_upstream(self, exchange: UpstreamUser, backend: str, fresh: bool) -> None:
        """Choose a server of the backend and get a connection to it: an idle one, or a new one if `fresh` or if none
        is idle. Answer with `exchange.upstream_connected` or `exchange.upstream_failed`, now or later."""

    def abandon_upstream(self, exchange: UpstreamUser) -> None:
        """The exchange no longer wants the connection that it asked for; do not answer."""

    def release_upstream(self, connection: UpstreamSide, reusable: bool) -> None:
        """An exchange is done with a connection: keep it for the next one, or close it at once."""

    def count(self, name: str) -> None:
        """Add one to a named counter: `retries_stale_connection`, ..."""

    def finished(self, record: AccessRecord) -> None:
        """A request is over, or was refused: count it, and write the record to the access log."""


class Flow:
    """A client's connection, as the access log and the backends get to know it. Immutable by convention."""

    __slots__ = (
        "client",
        "client_allowed",
        "client_policy",
        "cover",
        "ends",
        "forwarded",
        "identity",
        "is_probe",
        "l4_node",
        "owns_upstreams",
        "protocol",
        "tls",
        "tls_version",
        "trusted_hops",
        "vip",
    )

    def __init__(
        self,
        *,
        client: str,
        vip: str,
        l4_node: str | None = None,
        tls_version: str | None = None,
        cover: HostCover | None = None,
        client_policy: str | None = None,
        client_allowed: bool = True,
        identity: ClientIdentity | None = None,
        is_probe: bool = False,
        trusted_hops: int = 0,
        protocol: str = "HTTP/1.1",
        ends: Ends | None = None,
    ) -> None:
        """`client`: address without port. `l4_node`: name of the node that brought the flow, if known. `tls_version`:
        as `ssl.SSLSocket.version()` gives it, None without TLS. `cover`: hosts of the certificate that was shown.
        `client_policy`: digest of the client-certificate policy that the handshake followed. `client_allowed`: whether
        that policy lets this client in. `identity`: of the certificate that the client has shown. `is_probe`: it
        comes from an L4 node's own address. `trusted_hops`: before this proxy; see `l7.forwarded`. `protocol`:
        HTTP/1.1 (and 1.0) or HTTP/2. `ends`: what servers are told that take the PROXY protocol."""
        self.client = client
        self.vip = vip
        self.l4_node = l4_node
        self.tls = tls_version is not None
        self.tls_version = tls_version
        self.cover = cover
        self.client_policy = client_policy
        self.client_allowed = client_allowed
        self.identity = identity
        self.is_probe = is_probe
        self.trusted_hops = trusted_hops
        self.protocol = protocol
        self.ends = ends
        self.owns_upstreams = False
        """For those who connect to servers on its behalf."""
        #: Header lines that say where the request came from, ready to be joined into upstream heads.
        self.forwarded = direct_origin(client, tls=self.tls).lines
        if identity is not None:
            self.forwarded += identity.header
