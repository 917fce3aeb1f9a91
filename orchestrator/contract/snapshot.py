"""Snapshots: the complete, versioned, validated state that an agent must run."""

import hashlib
from ipaddress import IPv4Address, IPv6Address
from typing import Annotated, Literal

from pydantic import Field, TypeAdapter

from orchestrator.contract.base import DEFAULT_SITE, Address, Contract, Identifier, Name, Port
from orchestrator.contract.guard import Guard
from orchestrator.contract.node import AgentRole, Announcement
from orchestrator.contract.pool import ForwardingSettings, PoolForwarding
from orchestrator.contract.route import Backend, Certificate, Goodbye, Host, Listener
from orchestrator.contract.ticket import TicketKeys
from orchestrator.contract.vip import MAX_VIPS, Vip

#: Port on which redirectors take encapsulated packets (IANA: gue, 6080/udp).
GUE_PORT: Port = 6080


#: As long as Linux takes it (`TCP_MD5SIG_MAXKEYLEN`); printable ASCII without `"`, which BIRD's strings cannot hold.
BgpPassword = Annotated[str, Field(pattern=r"^[ !#-~]{1,80}$")]


#: Where proxies tell L4 nodes whether they serve, on every listener and under every host name (RFC 8615).
HEALTH_PATH = "/.well-known/edgefleet/health"


class BgpNeighbor(Contract):
    """A router that an L4 node announces its VIPs to."""

    address: Address
    asn: Annotated[int, Field(ge=1, le=4294967295)]
    password: BgpPassword | None = Field(default=None, repr=False)
    """Of TCP MD5 signatures (RFC 2385), which both ends share."""


#: A standard community as "65535:0" (RFC 1997), or a large one as "64600:1:2" (RFC 8092).
Community = Annotated[str, Field(pattern=r"^\d{1,10}:\d{1,10}(:\d{1,10})?$")]


class Bgp(Contract):
    """An L4 node's BGP speaker."""

    asn: Annotated[int, Field(ge=1, le=4294967295)]
    router_id: IPv4Address
    neighbors: Annotated[tuple[BgpNeighbor, ...], Field(min_length=1)]
    communities: tuple[Community, ...] = ()
    """On every route that the node announces."""
    med: Annotated[int, Field(ge=0, le=4294967295)] = 0
    soft_med: Annotated[int, Field(ge=0, le=4294967295)] = 4294967295
    """Of routes that are a last resort (`Announcement.SOFT`)."""
    soft_prepend: Annotated[int, Field(ge=0, le=10)] = 3
    """How often such routes name the node's own AS once more."""
    bfd: bool = True
    bfd_interval_ms: Annotated[int, Field(ge=10, le=10000)] = 50
    bfd_multiplier: Annotated[int, Field(ge=2, le=50)] = 3


class _Snapshot(Contract):
    version: Annotated[int, Field(ge=1)]
    """The fleet revision that this was compiled from. Grows; two agents may skip different versions."""
    node: Name

    @property
    def digest(self) -> str:
        """SHA-256 over everything but the version: equal digests mean there is nothing to apply."""
        return hashlib.sha256(self.model_dump_json(exclude={"version"}).encode()).hexdigest()


class BalancerSnapshot(_Snapshot):
    """For `edge-l4 balancer`."""

    role: Literal[AgentRole.BALANCER] = AgentRole.BALANCER
    node_id: Identifier
    """Travels in GUE, so that an access-log line can name the L4 node that brought the flow."""
    address: IPv4Address
    """Outer source address."""
    address_v6: IPv6Address | None = None
    """Outer source address towards members whose address is IPv6."""
    fib: bool = False
    """Whether the kernel's routes choose the way to members, instead of the router that sent the packet."""
    forwarding: ForwardingSettings
    vips: Annotated[tuple[Vip, ...], Field(max_length=MAX_VIPS)]
    pools: tuple[PoolForwarding, ...]
    bgp: Bgp | None = None
    guard: Guard = Guard()
    site: Name = DEFAULT_SITE
    announcement: Announcement = Announcement.NORMAL
    announce_anyway: tuple[Name, ...] = ()
    """VIPs that nobody else announces: they are announced even if not all that takes is there."""
    dead_man_s: Annotated[int, Field(ge=5, le=86400)] | None = 30
    """Seconds after which the kernel withdraws the VIPs of an agent that is gone, but for `announce_anyway`. None: they
    stay for ever."""


class RedirectorSnapshot(_Snapshot):
    """For `edge-l4 redirector` on a member's host."""

    role: Literal[AgentRole.REDIRECTOR] = AgentRole.REDIRECTOR
    member_id: Identifier
    address: Address
    """The tunnel's end on this host."""
    forwarding: ForwardingSettings
    vips: tuple[Vip, ...]
    """Those whose pool this member belongs to."""
    pools: tuple[PoolForwarding, ...]
    """Those that this member belongs to: for the second chance (addresses) and for the census (generations)."""
    tunnel_sources: tuple[Address, ...]
    """The only hosts whose encapsulated packets are accepted: L4 nodes and fellow members."""
    l4_nodes: dict[Identifier, Name]
    """Names of L4 nodes by the id that GUE carries."""
    probe_sources: tuple[Address, ...] = ()
    """L4 nodes' own addresses: connections from there are probes, and no flows."""


class ProxySnapshot(_Snapshot):
    """For `edge-l7`."""

    role: Literal[AgentRole.PROXY] = AgentRole.PROXY
    listeners: tuple[Listener, ...]
    certificates: tuple[Certificate, ...]
    hosts: tuple[Host, ...]
    backends: tuple[Backend, ...]
    goodbye: Goodbye | None = None
    l4_nodes: dict[Identifier, Name]
    probe_sources: tuple[Address, ...] = ()
    """L4 nodes' own addresses: connections from there are probes, and are answered at `HEALTH_PATH`."""
    ticket_keys: TicketKeys | None = Field(default=None, repr=False)
    """Of TLS sessions. None: each worker makes its own, and sessions are resumed by none but it."""


Snapshot = BalancerSnapshot | RedirectorSnapshot | ProxySnapshot

SNAPSHOT: TypeAdapter[Snapshot] = TypeAdapter(Annotated[Snapshot, Field(discriminator="role")])
"""Reads a snapshot of any kind from JSON: `SNAPSHOT.validate_json(text)`."""
