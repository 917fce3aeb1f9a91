"""A validated configuration: what `edgectl apply` puts in force, and what snapshots are compiled from."""

import hashlib
from ipaddress import IPv4Address
from typing import Annotated

from pydantic import Field

from orchestrator.contract.base import Address, Contract, Name, Port
from orchestrator.contract.node import NodeKind
from orchestrator.contract.pool import DEFAULT_TABLE_ROWS, MAX_OWNERS, MAX_WEIGHT
from orchestrator.contract.route import Backend, Certificate, Host, Seconds
from orchestrator.contract.snapshot import Bgp
from orchestrator.contract.vip import VipMode


class ConfiguredNode(Contract):
    """A host of the fleet."""

    name: Name
    kind: NodeKind
    address: IPv4Address
    """On the underlay: encapsulated packets come from and go to it."""
    bgp: Bgp | None = None


class ConfiguredMember(Contract):
    """A proxy's place in a pool."""

    node: Name
    weight: Annotated[int, Field(ge=1, le=MAX_WEIGHT)] = 1


class ConfiguredPool(Contract):
    """A pool as the platform wants it; drains are the fleet's business."""

    name: Name
    members: tuple[ConfiguredMember, ...]
    min_active: int
    """Capacity guard: no drain takes the pool below this many active members."""


class ConfiguredVip(Contract):
    """A virtual address."""

    name: Name
    address: Address
    port: Port
    mode: VipMode
    pool: Name
    tls: bool


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

    nodes: tuple[ConfiguredNode, ...] = ()
    pools: tuple[ConfiguredPool, ...] = ()
    vips: tuple[ConfiguredVip, ...] = ()
    hosts: tuple[ConfiguredHost, ...] = ()
    certificates: tuple[Certificate, ...] = ()
    backends: tuple[ConfiguredBackend, ...] = ()
    rows: int = DEFAULT_TABLE_ROWS
    owners_per_row: int = MAX_OWNERS
    spread_s: Seconds = 10.0

    @property
    def digest(self) -> str:
        """SHA-256 of the canonical JSON."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()

    def node(self, name: str) -> ConfiguredNode | None:
        return next((node for node in self.nodes if node.name == name), None)

    def pool(self, name: str) -> ConfiguredPool | None:
        return next((pool for pool in self.pools if pool.name == name), None)
