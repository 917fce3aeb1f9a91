"""Snapshots: the complete, versioned, validated state that an agent must run."""

import hashlib
from ipaddress import IPv4Address, IPv6Address
from typing import Annotated, Literal

from pydantic import Field, TypeAdapter

from orchestrator.contract.base import Address, Contract, Identifier, Name, Port
from orchestrator.contract.guard import Guard
from orchestrator.contract.node import AgentRole
from orchestrator.contract.pool import ForwardingSettings, PoolForwarding
from orchestrator.contract.route import Backend, Certificate, Goodbye, Host, Listener
from orchestrator.contract.vip import MAX_VIPS, Vip

#: Port on which redirectors take encapsulated packets (IANA: gue, 6080/udp).
GUE_PORT: Port = 6080


class BgpNeighbor(Contract):
    """A router that an L4 node announces its VIPs to."""

    address: Address
    asn: Annotated[int, Field(ge=1, le=4294967295)]


class Bgp(Contract):
    """An L4 node's BGP speaker."""

    asn: Annotated[int, Field(ge=1, le=4294967295)]
    router_id: IPv4Address
    neighbors: Annotated[tuple[BgpNeighbor, ...], Field(min_length=1)]
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


class ProxySnapshot(_Snapshot):
    """For `edge-l7`."""

    role: Literal[AgentRole.PROXY] = AgentRole.PROXY
    listeners: tuple[Listener, ...]
    certificates: tuple[Certificate, ...]
    hosts: tuple[Host, ...]
    backends: tuple[Backend, ...]
    goodbye: Goodbye | None = None
    l4_nodes: dict[Identifier, Name]


Snapshot = BalancerSnapshot | RedirectorSnapshot | ProxySnapshot

SNAPSHOT: TypeAdapter[Snapshot] = TypeAdapter(Annotated[Snapshot, Field(discriminator="role")])
"""Reads a snapshot of any kind from JSON: `SNAPSHOT.validate_json(text)`."""
