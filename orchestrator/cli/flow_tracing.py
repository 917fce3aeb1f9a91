"""A flow's whole way, asked of the live state: routers' choice, L4 nodes, row and owners, proxy, backend."""

from dataclasses import dataclass, field
from ipaddress import ip_network
from typing import Any

from l7.routing.matcher import Matcher
from l7.routing.path import PathRefused, normalise
from orchestrator.cli.failure import CommandFailed, ExitCode, failed
from orchestrator.cli.fleet_api import FleetApi
from orchestrator.cli.tracing import Hop, Path, Traced, trace_everywhere
from orchestrator.contract.base import Address
from orchestrator.contract.inquiry import Probe
from orchestrator.contract.node import AgentRole, NodeKind
from orchestrator.contract.operator import (
    BACKEND_LIST,
    BACKENDS,
    HOST_LIST,
    HOSTS,
    BackendView,
    HostView,
    NodeView,
    VipView,
)
from orchestrator.contract.route import Host
from orchestrator.contract.vip import Protocol, VipMode

#: The port of a flow that is to begin, if none is given: one of those that hosts choose (RFC 6335 section 6).
EXAMPLE_PORT = 50000

#: What a redirector says of a flow whose socket it has.
_OPEN = "local_socket"


@dataclass(frozen=True, slots=True)
class Asked:
    """What the operator wants to know."""

    client: Address
    client_port: int | None
    """None: a flow that is to begin."""
    vip: str
    """A VIP's name, or an address."""
    vip_port: int | None
    protocol: Protocol
    host: str | None
    path: str


@dataclass(frozen=True, slots=True)
class Request:
    """Where a request would go, by the routes that the proxies were sent."""

    host: str | None
    path: str
    hosts: tuple[str, ...] = ()
    """Host names that are served, if none was asked for."""
    route: str | None = None
    backend: BackendView | None = None
    problem: str | None = None


@dataclass(slots=True)
class Flow:
    """All that was told of one flow."""

    vip: VipView
    traced: Traced
    is_new: bool
    candidates: tuple[str, ...]
    """L4 nodes that announce the VIP: whom routers can choose."""
    unable: dict[str, str] = field(default_factory=dict)
    """L4 nodes that routers cannot choose, with the reason."""
    request: Request | None = None

    @property
    def paths(self) -> list[Path]:
        return self.traced.paths

    @property
    def is_agreed(self) -> bool:
        """Whether all L4 nodes would do the same with it: then it does not matter which of them routers choose."""
        return len({(path.answer.verdict, path.answer.owner, owners(path)) for path in self.paths}) <= 1

    @property
    def hops(self) -> tuple[Hop, ...]:
        """The proxies on its way."""
        return next((path.hops for path in self.paths if path.hops), ())

    @property
    def last(self) -> Hop | None:
        """The proxy at which the way ends."""
        return self.hops[-1] if self.hops else None

    @property
    def is_open(self) -> bool:
        """Whether the last proxy has the flow's socket."""
        return self.last is not None and self.last.answer is not None and self.last.answer.reason == _OPEN

    @property
    def brought_by(self) -> str | None:
        """The L4 node that brought its first packet."""
        return self.last.answer.brought_by if self.last is not None and self.last.answer is not None else None

    def as_json(self) -> dict[str, Any]:
        request = self.request
        return {
            "vip": self.vip.model_dump(mode="json"),
            "packet": self.traced.probe.model_dump(mode="json"),
            "new": self.is_new,
            "router": {"candidates": list(self.candidates), "unable": self.unable, "agreed": self.is_agreed},
            "brought_by": self.brought_by,
            "proxy": self.last.node if self.last else None,
            "open": self.is_open,
            **{key: value for key, value in self.traced.as_json().items() if key != "packet"},
            "request": None
            if request is None
            else {
                "host": request.host,
                "path": request.path,
                "hosts": list(request.hosts),
                "route": request.route,
                "backend": request.backend.model_dump(mode="json") if request.backend else None,
                "problem": request.problem,
            },
        }


def owners(path: Path) -> tuple[int, ...]:
    """Of the flow's row, as that L4 node holds it."""
    return tuple(owner.id for owner in path.answer.chain)


async def trace_flow(api: FleetApi, asked: Asked) -> Flow:
    """Raises as `FleetApi`, and CommandFailed: no such VIP, or nobody can be asked."""
    status = await api.status()
    vip, port = vip_of(status.vips, asked)
    is_new = asked.client_port is None
    address = vip.address if asked.vip == vip.name else _address(asked.vip)
    if address.version != asked.client.version:
        raise failed("bad_address", f"{asked.client} and {address} are of two families")
    probe = Probe(
        source=asked.client,
        source_port=asked.client_port if asked.client_port is not None else EXAMPLE_PORT,
        destination=address,
        destination_port=port,
        protocol=vip.protocol,
        flags="" if vip.protocol is Protocol.UDP else "S" if is_new else "A",
    )
    # Routers can choose none of the others, and who announces nothing may hold an old table.
    connected = tuple(node.name for node in status.nodes if node.kind is NodeKind.L4 and _reports(node))
    candidates = tuple(name for name in connected if name in vip.announced_by)
    traced = await trace_everywhere(api, probe, candidates or connected)
    if not traced.paths and traced.failures:
        raise CommandFailed(ExitCode.FAILED, *traced.failures.values())
    flow = Flow(vip, traced, is_new, candidates, unable(status.nodes, vip))
    if vip.mode is VipMode.TERMINATE and vip.protocol is Protocol.TCP:
        hosts = await api.listed(HOSTS, HOST_LIST)
        backends = await api.listed(BACKENDS, BACKEND_LIST)
        flow.request = request_of(hosts, backends, asked.host, asked.path)
    return flow


def vip_of(vips: tuple[VipView, ...], asked: Asked) -> tuple[VipView, int]:
    """The VIP that was meant, and the port. Raises CommandFailed."""
    hint = "`edgectl get vips` lists them"
    fitting = [vip for vip in vips if vip.name == asked.vip] or [
        vip for vip in vips if vip.protocol is asked.protocol and _holds(vip, asked.vip)
    ]
    if not fitting:
        raise failed("not_found", f"no {asked.protocol} VIP is, or holds, {asked.vip}", hint=hint)
    # An address may be in a block as well: the narrowest counts, as it does in the kernel.
    fitting.sort(key=lambda vip: -(vip.prefix_length if vip.prefix_length is not None else 128))
    if asked.vip_port is None:
        if len(fitting) > 1 and fitting[0].address == fitting[1].address:
            ports = ", ".join(str(vip.port) for vip in fitting)
            raise failed("ambiguous", f"{asked.vip} is of several VIPs, with ports {ports}: say which", hint=hint)
        return fitting[0], fitting[0].port
    for vip in fitting:
        if vip.port <= asked.vip_port <= (vip.last_port or vip.port):
            return vip, asked.vip_port
    raise failed("not_found", f"no VIP of {asked.vip} has port {asked.vip_port}", hint=hint)


def unable(nodes: tuple[NodeView, ...], vip: VipView) -> dict[str, str]:
    """L4 nodes that do not announce the VIP, and why."""
    reasons = {}
    for node in nodes:
        if node.kind is not NodeKind.L4 or node.name in vip.announced_by:
            continue
        if not _reports(node):
            reasons[node.name] = "its agent is silent: whether it announces is not known"
        elif vip.sites and node.site not in vip.sites:
            reasons[node.name] = f"of site {node.site}, where the VIP is not announced"
        else:
            reasons[node.name] = vip.withheld_by.get(node.name, "does not announce it")
    return reasons


def request_of(hosts: tuple[HostView, ...], backends: tuple[BackendView, ...], host: str | None, path: str) -> Request:
    """By the matcher that the proxies use, on the same routes."""
    if host is None:
        return Request(None, path, hosts=tuple(view.name for view in hosts))
    matcher = Matcher(Host(name=view.name, owner=view.owner, routes=view.routes) for view in hosts)
    try:
        target = matcher.match(host.lower().encode("idna"), normalise(path.partition("?")[0].encode()))
    except (PathRefused, UnicodeError) as error:
        return Request(host, path, problem=f"refused with 400: {error}")
    if target is None:
        return Request(host, path, problem="no route: answered with 404")
    backend = next((view for view in backends if view.name == target.backend), None)
    return Request(host, path, route=target.route, backend=backend)


def _reports(node: NodeView) -> bool:
    return any(agent.role is AgentRole.BALANCER and agent.connected for agent in node.agents)


def _address(text: str) -> Address:
    return ip_network(text).network_address


def _holds(vip: VipView, text: str) -> bool:
    try:
        address = _address(text)
    except ValueError:
        return False
    if address.version != vip.address.version:
        return False
    length = vip.prefix_length if vip.prefix_length is not None else vip.address.max_prefixlen
    return address in ip_network((vip.address, length))
