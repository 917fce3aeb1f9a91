"""Nodes and the agents that run on them."""

from enum import StrEnum

from orchestrator.contract.base import Contract, Name


class NodeKind(StrEnum):
    """What a host of the fleet is."""

    L4 = "l4"
    PROXY = "proxy"


class AgentRole(StrEnum):
    """One agent process on a node. Each joins, holds a certificate and is sent snapshots by itself."""

    BALANCER = "balancer"
    REDIRECTOR = "redirector"
    PROXY = "proxy"


#: Which agents a node of each kind runs.
ROLES_OF_KIND: dict[NodeKind, tuple[AgentRole, ...]] = {
    NodeKind.L4: (AgentRole.BALANCER,),
    NodeKind.PROXY: (AgentRole.REDIRECTOR, AgentRole.PROXY),
}


class Announcement(StrEnum):
    """How an L4 node announces its VIPs."""

    NORMAL = "normal"
    SOFT = "soft"
    """As a last resort: with the graceful shutdown community (RFC 8326), a worse MED and a longer path, so that routers
    take every other way first. What still comes is forwarded."""
    NONE = "none"
    """Not at all. What still comes is forwarded."""


class L4DrainPhase(StrEnum):
    """How far an L4 node's drain has come."""

    SOFT = "soft"
    """Its routes are a last resort: routers prefer others."""
    WITHDRAWN = "withdrawn"
    """It has no routes any more, and forwards what is still on its way."""
    QUIET = "quiet"
    """Nothing comes any more: it is drained."""


class AgentIdentity(Contract):
    """Who an agent is: in its certificate as the URI SAN `edgefleet://node/<node>/<role>`, CN `<node>/<role>`."""

    node: Name
    role: AgentRole

    def __str__(self) -> str:
        return f"{self.node}/{self.role}"

    @property
    def program(self) -> str:
        """What runs it on the node, in words."""
        return "edge-l7" if self.role is AgentRole.PROXY else f"edge-l4 {self.role}"
