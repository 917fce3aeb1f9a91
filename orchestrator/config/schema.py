"""What may stand in the files. One model per entry; entries are checked one by one, so that all findings show."""

from ipaddress import IPv4Address, IPv6Address
from typing import Annotated, Self

from pydantic import BeforeValidator, Field, model_validator

from orchestrator.config.scalars import AddressBlock, CommunityText, PortRange
from orchestrator.contract.base import DEFAULT_SITE, Address, Contract, Name, Port
from orchestrator.contract.node import NodeKind
from orchestrator.contract.pool import (
    DEFAULT_TABLE_ROWS,
    MAX_MEMBERS,
    MAX_OWNERS,
    MAX_TABLE_ROWS,
    MAX_WEIGHT,
    Encapsulation,
    Probe,
)
from orchestrator.contract.route import (
    MAX_TRUSTED_SOURCES,
    BackendProtocol,
    HealthCheck,
    HostName,
    ProxyProtocol,
    Seconds,
    ServerName,
    TrustedHops,
)
from orchestrator.contract.vip import FlowHash, Protocol, VipMode

#: Seconds that a drain without a deadline leaves to flows that nobody can count: as long as a UDP mapping lives that
#: sees no packet (RFC 4787, REQ-5), and an entry of the L4 nodes' flow tables.
DEFAULT_UNCOUNTED_S = 300.0

#: Seconds over which a member that comes back is given its share of new flows again: HAProxy's usual `slowstart`.
DEFAULT_SLOW_START_S = 10.0

#: Seconds for which a key issues TLS session tickets, and how many keys are accepted after they have issued. nginx's
#: advice is to rotate some times a day; Cloudflare accepts a key for 18 h.
DEFAULT_TICKET_KEY_S = 43200.0
DEFAULT_OLDER_TICKET_KEYS = 2

#: The word that switches a pool's probes off.
NO_PROBE = "none"

#: Routers of one L4 node: a pair of them over both families is four.
MAX_NEIGHBORS = 32
#: On one route. Routers limit what they take; 32 standard ones are 128 octets of an UPDATE's 4096 (RFC 4271 section 4).
MAX_COMMUNITIES = 32

#: An autonomous system's number (RFC 6793), and a MULTI_EXIT_DISC (RFC 4271 section 5.1.4).
Asn = Annotated[int, Field(ge=1, le=4294967295)]
Metric = Annotated[int, Field(ge=0, le=4294967295)]

RoutePath = Annotated[str, Field(pattern=r"^/[\x21-\x7e]*$", max_length=1024)]


class NeighborEntry(Contract):
    """`nodes[].bgp.neighbors[]`."""

    address: Address
    asn: Asn
    password_file: str | None = None
    """Holds the password of TCP MD5 signatures, on one line. Relative to `platform.yaml`."""


class BgpEntry(Contract):
    """`nodes[].bgp`. Fields as in `contract.snapshot.Bgp`, where they are explained."""

    asn: Asn
    router_id: IPv4Address | None = None
    """The node's address if absent."""
    neighbors: Annotated[tuple[NeighborEntry, ...], Field(min_length=1, max_length=MAX_NEIGHBORS)]
    communities: Annotated[tuple[CommunityText, ...], Field(max_length=MAX_COMMUNITIES)] = ()
    med: Metric = 0
    soft_med: Metric = 4294967295
    soft_prepend: Annotated[int, Field(ge=0, le=10)] = 3
    bfd: bool = True
    bfd_interval_ms: Annotated[int, Field(ge=10, le=10000)] = 50
    bfd_multiplier: Annotated[int, Field(ge=2, le=50)] = 3


class NodeEntry(Contract):
    """`nodes[]`."""

    name: Name
    kind: NodeKind
    address: Address
    address_v6: IPv6Address | None = None
    site: Name = DEFAULT_SITE
    fib: bool = False
    bgp: BgpEntry | None = None


class SiteEntry(Contract):
    """`sites[]`."""

    name: Name
    spill_below: Annotated[int, Field(ge=1, le=MAX_MEMBERS)] = 1
    """Its L4 nodes give new flows to all sites' members while fewer of its own serve."""


class MemberEntry(Contract):
    """`pools[].members[]`."""

    node: Name
    weight: Annotated[int, Field(ge=0, le=MAX_WEIGHT)] = 1
    """0: no new flows."""


class PoolEntry(Contract):
    """`pools[]`."""

    name: Name
    members: tuple[MemberEntry, ...]
    min_active: Annotated[int, Field(ge=1)] = 1
    encapsulation: Encapsulation = Encapsulation.GUE
    redirectors: bool = True
    probe: Annotated[Probe | None, BeforeValidator(lambda value: None if value == NO_PROBE else value)] = Probe()
    slow_start_s: Annotated[float, Field(ge=0, le=86400)] = DEFAULT_SLOW_START_S


class VipEntry(Contract):
    """`vips[]`."""

    name: Name
    address: AddressBlock
    ports: Annotated[PortRange, Field(alias="port")]
    protocol: Protocol = Protocol.TCP
    mode: VipMode
    pool: Name
    tls: bool = True
    hash: FlowHash = FlowHash.FLOW
    quic: bool = False
    trusted_hops: TrustedHops = 0
    """Proxies before ours whose word on the client's address is taken."""
    accept_proxy_protocol: Annotated[tuple[AddressBlock, ...], Field(max_length=MAX_TRUSTED_SOURCES)] = ()
    """Load balancers whose connections begin with a PROXY header."""
    sites: Annotated[tuple[Name, ...], Field(min_length=1)] | None = None
    """Whose L4 nodes announce it. None: all."""


class ForwardingEntry(Contract):
    """`forwarding`."""

    rows: Annotated[int, Field(ge=101, le=MAX_TABLE_ROWS)] = DEFAULT_TABLE_ROWS
    owners_per_row: Annotated[int, Field(ge=1, le=MAX_OWNERS)] = MAX_OWNERS


class DrainEntry(Contract):
    """`drain`."""

    spread_s: Seconds = 10.0
    uncounted_s: Seconds = DEFAULT_UNCOUNTED_S


class TicketKeysEntry(Contract):
    """`tls.ticket_keys`."""

    rotate_s: Annotated[float, Field(ge=60, le=86400)] = DEFAULT_TICKET_KEY_S
    older: Annotated[int, Field(ge=0, le=10)] = DEFAULT_OLDER_TICKET_KEYS


class TlsEntry(Contract):
    """`tls`."""

    ticket_keys: TicketKeysEntry = TicketKeysEntry()


class RouteEntry(Contract):
    """`hosts[].routes[]`: exactly one of `prefix` and `exact`."""

    name: Name
    prefix: RoutePath | None = None
    exact: RoutePath | None = None
    backend: Name
    timeout_s: Seconds = 15.0
    grpc_max_deadline_s: Seconds | None = None

    @model_validator(mode="after")
    def _has_one_path(self) -> Self:
        if (self.prefix is None) == (self.exact is None):
            raise ValueError("a route has exactly one of `prefix` and `exact`")
        return self


class ClientCertificateEntry(Contract):
    """`hosts[].client_certificate`."""

    ca: str
    required: bool = True
    allowed: Annotated[tuple[Annotated[str, Field(min_length=1, max_length=1024)], ...], Field(max_length=1000)] = ()


class KeyPairEntry(Contract):
    """`hosts[].certificates[]` and `backends[].tls.client_certificate`."""

    certificate: str
    key: str


class HostEntry(Contract):
    """`hosts[]`."""

    name: HostName
    certificate: str | None = None
    key: str | None = None
    certificates: Annotated[tuple[KeyPairEntry, ...], Field(min_length=1, max_length=3)] | None = None
    client_certificate: ClientCertificateEntry | None = None
    routes: Annotated[tuple[RouteEntry, ...], Field(min_length=1)]


class ServerEntry(Contract):
    """`backends[].servers[]`."""

    name: Name
    address: Address
    port: Port


class BackendTlsEntry(Contract):
    """`backends[].tls`."""

    ca: str
    server_name: ServerName
    client_certificate: KeyPairEntry | None = None


class BackendEntry(Contract):
    """`backends[]`."""

    name: Name
    servers: Annotated[tuple[ServerEntry, ...], Field(min_length=1)]
    health: HealthCheck = HealthCheck()
    tls: BackendTlsEntry | None = None
    send_proxy_protocol: ProxyProtocol | None = None
    protocol: BackendProtocol = BackendProtocol.HTTP1


#: Sections of `platform.yaml` and of a team's file: field → model of one entry, and whether it is a list of them.
PLATFORM_SECTIONS: dict[str, tuple[type[Contract], bool]] = {
    "sites": (SiteEntry, True),
    "nodes": (NodeEntry, True),
    "pools": (PoolEntry, True),
    "vips": (VipEntry, True),
    "forwarding": (ForwardingEntry, False),
    "drain": (DrainEntry, False),
    "tls": (TlsEntry, False),
}
TEAM_SECTIONS: dict[str, tuple[type[Contract], bool]] = {
    "hosts": (HostEntry, True),
    "backends": (BackendEntry, True),
}
