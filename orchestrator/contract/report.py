"""Reports: what an agent tells the orchestrator about itself, every second and at once after a change."""

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import Field

from orchestrator.contract.base import Contract, Identifier, Name
from orchestrator.contract.node import AgentRole, Announcement


class Nack(Contract):
    """A snapshot that the agent refused; it runs on with the one before."""

    version: int
    reason: str


class TableStatus(Contract):
    """A pool's forwarding table as it was read back from the kernel."""

    pool: Name
    generations: tuple[int, ...]
    rows: int
    digest: str
    """SHA-256 of the table's bytes: equal on all L4 nodes with equal snapshots, whatever their history."""
    rows_of_member: dict[Identifier, int]
    """Rows whose first owner is this member."""
    chain_lengths: tuple[int, ...]
    """How many rows have 0, 1, 2, 3 and 4 owners."""
    overflowed_rows: int
    """Rows with more owners in their live generations than a chain holds: flows of the oldest would break."""


class ProbeVerdict(StrEnum):
    """What an L4 node's probes say of a member."""

    HEALTHY = "healthy"
    UNHEALTHY = "unhealthy"
    """Its host answers, and does not serve: it is to be given no new flows, and keeps its old ones."""
    UNREACHABLE = "unreachable"
    """Its host does not answer: its flows are lost."""


class MemberProbe(Contract):
    """A member as this L4 node's probes see it."""

    verdict: ProbeVerdict
    detail: str
    """Of the probe that decided: "200 in 3 ms", "connection refused", "no answer within 200 ms"."""
    since_s: Annotated[float, Field(ge=0)]
    """Seconds since the verdict changed."""


class BalancerStatus(Contract):
    """Of `edge-l4 balancer`."""

    role: Literal[AgentRole.BALANCER] = AgentRole.BALANCER
    interface: str
    xdp_mode: Literal["native", "generic", "detached"]
    announced: tuple[Name, ...]
    """VIPs that this node announces by BGP now."""
    withheld: dict[Name, str]
    """VIPs that it does not, with the reason."""
    announced_despite: dict[Name, str] = Field(default_factory=dict)
    """VIPs that it announces only because nobody else does (`announce_anyway`), with what should keep it from that."""
    announcement: Announcement = Announcement.NORMAL
    """How, by what BIRD runs with now."""
    sessions: dict[str, bool] = Field(default_factory=dict)
    """BGP neighbour's address → whether the session is established."""
    forwarded: int = 0
    """Packets forwarded since the maps were made. While it grows, routers send traffic here."""
    probes: dict[Identifier, MemberProbe] = Field(default_factory=dict)
    """By member. Empty while nothing was probed."""
    tables: tuple[TableStatus, ...]
    counters: dict[str, int]
    """Totals by name, as exported to Prometheus without the `edge_l4_` prefix."""
    drops: dict[Name, dict[str, int]] = Field(default_factory=dict)
    """Of these, packets to each VIP that were dropped, by the reason."""


class PoolCensus(Contract):
    """A redirector's count of its own sockets in one pool."""

    pool: Name
    newest_generation: int
    """The newest generation that the redirector knew when it counted."""
    flows: int
    """All flows of the pool's VIPs that this host holds."""
    needed: dict[int, int]
    """Generation number → flows in rows that no site's newest generation gives this member, and that this one gave it
    last."""
    orphans: int = 0
    """Flows in rows that no live generation gave this member: nothing can bring their packets here any more."""


class RedirectorStatus(Contract):
    """Of `edge-l4 redirector`."""

    role: Literal[AgentRole.REDIRECTOR] = AgentRole.REDIRECTOR
    interface: str
    xdp_mode: Literal["native", "generic", "detached"]
    census: tuple[PoolCensus, ...]
    new_flows: int = 0
    """Flows whose SYN this host took, since its maps were made. While it grows, some L4 node sends new flows here."""
    counters: dict[str, int]


class ServerHealth(Contract):
    """A backend server as this proxy sees it."""

    backend: Name
    server: Name
    healthy: bool
    detail: str
    """Of the last check: "200 in 3 ms", "connection refused", ..."""


class LeavingIncarnation(Contract):
    """The processes of a proxy that was restarted, while connections of theirs are open."""

    incarnation: int
    workers: int
    open_flows: dict[str, int]
    requests_in_flight: int
    ends_in_s: float
    """Seconds until those that are left are reset."""


class ProxyStatus(Contract):
    """Of `edge-l7`."""

    role: Literal[AgentRole.PROXY] = AgentRole.PROXY
    workers: int
    draining: bool
    open_flows: dict[str, int]
    """Open client connections by protocol ("http/1.1"), those of a leaving incarnation included."""
    requests_in_flight: int
    health: tuple[ServerHealth, ...]
    counters: dict[str, int]
    incarnation: int = 1
    """Of its processes, counted from the start of `edge-l7 run`: a restart makes the next one."""
    leaving: LeavingIncarnation | None = None
    restart_problem: str | None = None
    """Why the last restart failed; None if it did not."""


Status = Annotated[BalancerStatus | RedirectorStatus | ProxyStatus, Field(discriminator="role")]


class Report(Contract):
    """The ACK or NACK of the latest snapshot, and the agent's state."""

    applied_version: int | None
    """Version of the snapshot that runs now; None before the first."""
    nack: Nack | None
    """The newest refused snapshot, while it is newer than the applied one."""
    status: Status
