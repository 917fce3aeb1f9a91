"""A validated configuration: what `edgectl apply` puts in force, and what snapshots are compiled from."""

import hashlib
from functools import cached_property
from ipaddress import IPv6Address
from typing import Annotated

from pydantic import Field

from orchestrator.config.schema import (
    DEFAULT_OLDER_TICKET_KEYS,
    DEFAULT_SLOW_START_S,
    DEFAULT_TICKET_KEY_S,
    DEFAULT_UNCOUNTED_S,
)
from orchestrator.contract.base import DEFAULT_SITE, Address, Contract, Name, Port
from orchestrator.contract.node import NodeKind
from orchestrator.contract.pool import DEFAULT_TABLE_ROWS, MAX_OWNERS, MAX_WEIGHT, Encapsulation, Probe
from orchestrator.contract.route import Backend, Certificate, Host, Seconds, TrustedHops, TrustedSources
from orchestrator.contract.snapshot import Bgp
from orchestrator.contract.vip import FlowHash, Protocol, VipMode


class ConfiguredSite(Contract):
    """A place (PoP) where L4 nodes announce VIPs and proxies serve them."""

    name: Name
    spill_below: int = 1
    """Its L4 nodes give new flows to all sites' members while fewer of its own serve."""


class ConfiguredNode(Contract):
    """A host of the fleet."""

    name: Name
    kind: NodeKind
    address: Address
    """On the underlay: encapsulated packets come from and go to it. An L4 node's is IPv4."""
    site: Name = DEFAULT_SITE
    address_v6: IPv6Address | None = None
    """Of an L4 node: where encapsulated packets to members with an IPv6 address come from."""
    fib: bool = False
    """Of an L4 node: whether its kernel's routes choose the way to members."""
    bgp: Bgp | None = None


class ConfiguredMember(Contract):
    """A proxy's place in a pool."""

    node: Name
    weight: Annotated[int, Field(ge=0, le=MAX_WEIGHT)] = 1
    """0: it is given no new flows, and keeps its old ones."""


class ConfiguredPool(Contract):
    """A pool as the platform wants it; drains are the fleet's business."""

    name: Name
    members: tuple[ConfiguredMember, ...]
    min_active: int
    """Capacity guard: no drain takes the pool below this many active members."""
    encapsulation: Encapsulation = Encapsulation.GUE
    redirectors: bool = True
    """Whether members run the redirector. Without it there are no second chances, and no census."""
    probe: Probe | None = None
    """With its VIP named. None: nobody probes the members, and all of them are taken to be healthy."""
    slow_start_s: float = DEFAULT_SLOW_START_S
    """Seconds until a member that comes back has its whole weight again."""

    @cached_property
    def weights(self) -> dict[str, int]:
        """By node."""
        return {member.node: member.weight for member in self.members}


class ConfiguredVip(Contract):
    """A virtual address, or a block of them. Fields as in `contract.vip.Vip`, where they are explained."""

    name: Name
    address: Address
    prefix_length: int | None = None
    protocol: Protocol = Protocol.TCP
    port: Port
    last_port: Port | None = None
    mode: VipMode
    pool: Name
    tls: bool
    flow_hash: FlowHash = FlowHash.FLOW
    quic: bool = False
    trusted_hops: TrustedHops = 0
    """Of a `terminate` VIP, like the next; see `contract.route.Listener`."""
    accept_proxy_protocol: TrustedSources = ()
    sites: tuple[Name, ...] = ()
    """Whose L4 nodes announce and forward it, sorted; all if empty."""

    def is_of(self, site: str) -> bool:
        """Whether the site's L4 nodes announce and forward it."""
        return not self.sites or site in self.sites


class ConfiguredHost(Contract):
    """A host, and where it was claimed."""

    host: Host
    source: str


class ConfiguredBackend(Contract):
    """A backend, its team, and where it was configured."""

    backend: Backend
    owner: Name
    source: str


class Configuration(Contract):
    """Everything, each list sorted by name, so that equal meaning has equal text."""

    sites: tuple[ConfiguredSite, ...] = ()
    """All that nodes belong to, and those without a node that the platform names. Empty without configuration."""
    nodes: tuple[ConfiguredNode, ...] = ()
    pools: tuple[ConfiguredPool, ...] = ()
    vips: tuple[ConfiguredVip, ...] = ()
    hosts: tuple[ConfiguredHost, ...] = ()
    certificates: tuple[Certificate, ...] = ()
    backends: tuple[ConfiguredBackend, ...] = ()
    rows: int = DEFAULT_TABLE_ROWS
    owners_per_row: int = MAX_OWNERS
    spread_s: Seconds = 10.0
    uncounted_s: Seconds = DEFAULT_UNCOUNTED_S
    """How long a drain without a deadline leaves to flows that nobody can count."""
    ticket_key_s: Seconds = DEFAULT_TICKET_KEY_S
    """How long a key issues TLS session tickets."""
    older_ticket_keys: int = DEFAULT_OLDER_TICKET_KEYS
    """How many keys are accepted after they have issued."""

    @property
    def digest(self) -> str:
        """SHA-256 of the canonical JSON."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()

    def node(self, name: str) -> ConfiguredNode | None:
        return self._nodes.get(name)

    def pool(self, name: str) -> ConfiguredPool | None:
        return self._pools.get(name)

    def site(self, name: str) -> ConfiguredSite | None:
        return next((site for site in self.sites if site.name == name), None)

    def vips_of(self, pool: str) -> tuple[ConfiguredVip, ...]:
        """Those that forward to the pool of this name."""
        return self._vips_of.get(pool, ())

    # Nodes and pools are looked up by the thousand: once for each member, and again for each report on it.
    @cached_property
    def _nodes(self) -> dict[str, ConfiguredNode]:
        return {node.name: node for node in self.nodes}

    @cached_property
    def _vips_of(self) -> dict[str, tuple[ConfiguredVip, ...]]:
        pools: dict[str, list[ConfiguredVip]] = {}
        for vip in self.vips:
            pools.setdefault(vip.pool, []).append(vip)
        return {pool: tuple(vips) for pool, vips in pools.items()}

    @cached_property
    def _pools(self) -> dict[str, ConfiguredPool]:
        return {pool.name: pool for pool in self.pools}
