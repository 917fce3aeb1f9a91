"""The operator API: paths, questions and answers. Operators are known by certificates `edgefleet://operator/<name>`.

Errors are `wire.Problems`: 401 no certificate, 403 not an operator's, 404 `not_found`, 409 refused by a guard or by the
present state, 413 and 422 bad input. Lists are JSON arrays of the views below, sorted by name.
"""

from typing import Annotated

from pydantic import Field, TypeAdapter

from orchestrator.contract.base import Address, Contract, Identifier, Name, Port
from orchestrator.contract.node import AgentRole, L4DrainPhase, NodeKind
from orchestrator.contract.pool import Encapsulation, GenerationMember, MemberState
from orchestrator.contract.report import LeavingIncarnation, MemberProbe, Nack, TableStatus
from orchestrator.contract.route import BackendProtocol, HostName, ProxyProtocol, Route, TrustedHops, TrustedSources
from orchestrator.contract.vip import FlowHash, Protocol, VipMode

CONFIGURATION = "/v1/configuration"
"""POST ApplyRequest → Applied; 422 with every finding, and nothing changed."""
STATUS = "/v1/status"
"""GET → StatusView."""
VIPS = "/v1/vips"
"""GET → [VipView]."""
POOLS = "/v1/pools"
"""GET → [PoolView]."""
SITES = "/v1/sites"
"""GET → [SiteView]."""
NODES = "/v1/nodes"
"""GET → [NodeView]."""
HOSTS = "/v1/hosts"
"""GET → [HostView]."""
BACKENDS = "/v1/backends"
"""GET → [BackendView]."""
DRAINS = "/v1/drains"
"""GET → [DrainView] of all members and L4 nodes that are not active."""
TABLES = "/v1/tables"
"""GET → [TableView]."""
NODE_DRAIN = "/v1/nodes/{name}/drain"
"""POST DrainRequest → DrainView, idempotent (a new deadline or force is taken over); 409 `capacity_guard`,
`generations_full`; of an L4 node `last_announcer`, `not_supported` (`force`, or it speaks no BGP). GET → DrainView."""
NODE_DRAIN_CANCEL = "/v1/nodes/{name}/drain/cancel"
"""POST → DrainView: a draining member or L4 node is active again; 409 `not_draining`."""
NODE_UNDRAIN = "/v1/nodes/{name}/undrain"
"""POST → DrainView: a drained (or draining) member or L4 node is active again, and a member that damping keeps out is
forgiven its losses; 409 `not_drained`."""
SITE_DRAIN = "/v1/sites/{name}/drain"
"""Of all L4 nodes of a site at once. POST DrainRequest → [DrainView]; 409 as for one. GET → [DrainView]."""
SITE_DRAIN_CANCEL = "/v1/sites/{name}/drain/cancel"
"""POST → [DrainView]."""
SITE_UNDRAIN = "/v1/sites/{name}/undrain"
"""POST → [DrainView]."""
TOKENS = "/v1/tokens"
"""POST TokenRequest → TokenAnswer."""
NODE_INQUIRIES = "/v1/nodes/{name}/inquiries"
"""POST InquiryRequest → InquiryAsked; 409 `agent_silent`, `too_many_inquiries`."""
INQUIRY = "/v1/inquiries/{id}"
"""GET ?wait=SECONDS → InquiryProgress: what came in since the last GET, as soon as there is something. DELETE → 204:
the agent stops. Only for the operator who asked; an inquiry that nobody GETs for a while ends as by DELETE."""

#: Limits of a configuration, which together bound what a POST may hold.
MAX_CONFIGURATION_FILES = 10_000
MAX_CONFIGURATION_FILE_BYTES = 1024 * 1024
MAX_CONFIGURATION_BYTES = 16 * 1024 * 1024

#: Lifetime of a join token in seconds: usual and longest.
DEFAULT_TOKEN_TTL_S = 3600
MAX_TOKEN_TTL_S = 7 * 86400

#: Codes of the refusals that `edgectl` turns into exit code 3.
CAPACITY_GUARD = "capacity_guard"
LAST_ANNOUNCER = "last_announcer"


class ApplyRequest(Contract):
    """A configuration directory."""

    files: Annotated[dict[str, str], Field(repr=False)]
    """Relative path (with `/`) → text: all `*.yaml` files, and those that they name (PEM, passwords)."""


class Applied(Contract):
    """The fleet runs by this configuration now."""

    version: int
    """The fleet revision."""
    changed: bool
    """False: it was in force already, and nothing happened."""
    summary: tuple[str, ...]
    """One line per change, in words: "pool edge: proxy-4 added, weight 1"."""


class AgentView(Contract):
    """One agent of a node."""

    role: AgentRole
    connected: bool
    """Whether a report came in lately."""
    report_age_s: float | None
    """None: never since the orchestrator started."""
    applied_version: int | None
    up_to_date: bool
    """Whether it has acknowledged the present revision."""
    nack: Nack | None
    incarnation: int | None = None
    """Of a proxy's processes: a restart makes the next one."""
    leaving: LeavingIncarnation | None = None
    """The incarnation before, while it has connections."""
    restart_problem: str | None = None
    """Why the last restart failed; None if it did not."""


class NodeView(Contract):
    """A host of the fleet."""

    name: Name
    kind: NodeKind
    address: Address
    site: Name | None
    """None: it has left the configuration."""
    agents: tuple[AgentView, ...]
    state: MemberState | None
    """Of an L4 node: active, draining or drained. None: a proxy that is a member of no pool."""


class SitePoolView(Contract):
    """A pool, as a site's L4 nodes give new flows of it."""

    pool: Name
    generation: int
    """By which they do."""
    members: int
    """Its own, of a weight above 0."""
    active: int
    """Of these: those that new flows can be given to."""
    spills: bool
    """New flows go to other sites' members as well, or only."""


class SiteView(Contract):
    """A place where nodes are."""

    name: Name
    spill_below: int
    l4_nodes: tuple[Name, ...]
    proxies: tuple[Name, ...]
    vips: dict[Name, tuple[Name, ...]]
    """VIPs that are to be announced here → the site's L4 nodes that report announcing them."""
    pools: tuple[SitePoolView, ...]
    """Those whose VIPs are announced here."""


class MemberView(Contract):
    """A member of a pool."""

    id: Identifier
    name: Name
    address: Address
    state: MemberState
    weight: int | None
    """0: it takes no new flows. None: it has left the configuration, and is known to a live generation still."""
    reachable: bool
    open_flows: int | None
    """As the proxy counts them; None without a fresh report."""
    sockets: int | None
    """As the redirector's census counts them, this pool only; None without a fresh report."""
    healthy: bool = True
    """False: it is given no new flows, unless the pool panics."""
    share: int = 100
    """Percent of its weight that it is given while it starts slowly."""
    held_for_s: float | None = None
    """Of one that is not: seconds until it is given new flows again if it stays as it is. None: most L4 nodes do not
    see it healthy."""
    losses: int = 0
    """How often it lost its health lately: the more, the longer it is held."""
    seen_by: dict[Name, MemberProbe] = Field(default_factory=dict)
    """L4 nodes that probe it, and what they see; of its own site if there are any."""


class GenerationView(Contract):
    """A live generation."""

    number: int
    site: Name | None
    """Whose L4 nodes give new flows by it, or gave; None: the site is gone."""
    members: tuple[GenerationMember, ...]
    needed_by: dict[Name, int]
    """Member → flows that only this generation brings to it. Empty for each site's newest, which all new flows need."""


class PoolView(Contract):
    """A pool, its members, and its live generations, newest first."""

    name: Name
    slot: int
    min_active: int
    active: int
    """Members that are given new flows."""
    panics: bool = False
    """Too few members are healthy: health is ignored, and all are given new flows."""
    encapsulation: Encapsulation = Encapsulation.GUE
    redirectors: bool = True
    """False: no second chances, no census; L4 nodes remember flows."""
    members: tuple[MemberView, ...]
    generations: tuple[GenerationView, ...]


class VipView(Contract):
    """A virtual address, or a block of them. See `contract.vip.Vip`."""

    name: Name
    id: Identifier
    address: Address
    prefix_length: int | None = None
    protocol: Protocol = Protocol.TCP
    port: Port
    last_port: Port | None = None
    mode: VipMode
    tls: bool
    pool: Name
    flow_hash: FlowHash = FlowHash.FLOW
    quic: bool = False
    trusted_hops: TrustedHops = 0
    accept_proxy_protocol: TrustedSources = ()
    sites: tuple[Name, ...] = ()
    """Whose L4 nodes announce and forward it; all if empty."""
    announced_by: tuple[Name, ...]
    """L4 nodes that report announcing it."""
    withheld_by: dict[Name, str]
    """L4 nodes that report not announcing it, with the reason."""
    announced_despite_by: dict[Name, str] = Field(default_factory=dict)
    """L4 nodes that announce it only because nobody else does, with what should keep them from that."""


class HostView(Contract):
    """A host name and its routes."""

    name: HostName
    owner: Name
    source: str
    """Where it is configured: "teams/shop/www.yaml:2:5"."""
    certificate_expires_at: float | None
    """Unix time; None if the host has no certificate."""
    routes: tuple[Route, ...]


class ServerView(Contract):
    """A backend server, and how the proxies see it."""

    name: Name
    address: Address
    port: Port
    healthy_on: tuple[Name, ...]
    unhealthy_on: dict[Name, str]
    """Proxy → detail of its last check."""


class BackendView(Contract):
    """A backend."""

    name: Name
    owner: Name
    source: str
    send_proxy_protocol: ProxyProtocol | None = None
    protocol: BackendProtocol = BackendProtocol.HTTP1
    servers: tuple[ServerView, ...]


class DrainRequest(Contract):
    """Start a drain, or change a running one."""

    deadline_s: Annotated[float, Field(gt=0, le=30 * 86400)] | None = None
    """Seconds from now after which the drain counts as late: what is left is reported, nothing is reset."""
    force: bool = False
    """Reset what is still open: at the deadline if there is one, else at once. The capacity guard holds even so.
    Refused for L4 nodes, with which no flow ends."""
    go_dark: bool = False
    """Of L4 nodes: VIPs may be left without anybody who announces them."""


class DrainView(Contract):
    """Where a member, or an L4 node, stands on its way out. Flows are counted for members, packets for L4 nodes."""

    node: Name
    kind: NodeKind = NodeKind.PROXY
    state: MemberState
    started_at: float | None
    """Unix time; None while active."""
    deadline_at: float | None
    overdue: bool
    """The deadline has passed and the member is not drained."""
    force: bool
    drained_at: float | None
    flows_at_start: int | None
    """None if the proxy's count was not known then."""
    flows_open: int | None
    """The larger of what the proxy and its redirector count; None while neither has reported lately."""
    by_protocol: dict[str, int]
    blocked_by: tuple[str, ...]
    """What it still waits for, in words; empty unless draining or joining."""
    uncounted: tuple[Name, ...] = ()
    """VIPs whose flows on this member nobody can count: it is drained at its deadline, whatever they do."""
    phase: L4DrainPhase | None = None
    """Of an L4 node that is not active."""
    go_dark: bool = False
    packets_per_s: float | None = None
    """That an L4 node forwards; None while it has not reported lately."""


class TableView(Contract):
    """A forwarding table as an L4 node read it back from its kernel."""

    node: Name
    applied_version: int | None
    report_age_s: float
    table: TableStatus


class StatusView(Contract):
    """The fleet at a glance."""

    now: float
    """The orchestrator's clock, Unix time."""
    revision: int
    configured: bool
    """False until the first configuration was applied."""
    nodes: tuple[NodeView, ...]
    pools: tuple[PoolView, ...]
    vips: tuple[VipView, ...]
    drains: tuple[DrainView, ...]
    warnings: tuple[str, ...]
    """What an operator should know, in words: an agent that refused its snapshot, rows whose chains overflow, ..."""


class TokenRequest(Contract):
    """A one-time token for one agent."""

    node: Name
    role: AgentRole
    ttl_s: Annotated[int, Field(ge=1, le=MAX_TOKEN_TTL_S)] = DEFAULT_TOKEN_TTL_S


class TokenAnswer(Contract):
    """Shown once: the orchestrator keeps a hash only."""

    token: Annotated[str, Field(repr=False)]
    expires_at: float
    """Unix time."""


class OperatorContext(Contract):
    """`context.json` in an operator's directory, beside `ca.pem`, `operator.pem` and `operator.key`."""

    endpoints: Annotated[tuple[str, ...], Field(min_length=1)]
    """Base addresses of the orchestrators: "https://198.18.4.10:7443"."""
    network_namespace: str | None = None
    """Network namespace from which they are reachable (the lab); None: this one."""


VIP_LIST: TypeAdapter[tuple[VipView, ...]] = TypeAdapter(tuple[VipView, ...])
POOL_LIST: TypeAdapter[tuple[PoolView, ...]] = TypeAdapter(tuple[PoolView, ...])
SITE_LIST: TypeAdapter[tuple[SiteView, ...]] = TypeAdapter(tuple[SiteView, ...])
NODE_LIST: TypeAdapter[tuple[NodeView, ...]] = TypeAdapter(tuple[NodeView, ...])
HOST_LIST: TypeAdapter[tuple[HostView, ...]] = TypeAdapter(tuple[HostView, ...])
BACKEND_LIST: TypeAdapter[tuple[BackendView, ...]] = TypeAdapter(tuple[BackendView, ...])
DRAIN_LIST: TypeAdapter[tuple[DrainView, ...]] = TypeAdapter(tuple[DrainView, ...])
TABLE_LIST: TypeAdapter[tuple[TableView, ...]] = TypeAdapter(tuple[TableView, ...])
