"""What operators see: pure functions of the present state and the reports."""

from collections.abc import Iterator, Mapping
from datetime import timedelta
from functools import lru_cache

from cryptography import x509

from orchestrator.config.configuration import ConfiguredPool
from orchestrator.contract.node import ROLES_OF_KIND, AgentIdentity, AgentRole, Announcement, NodeKind
from orchestrator.contract.operator import (
    AgentView,
    BackendView,
    DrainView,
    GenerationView,
    HostView,
    MemberView,
    NodeView,
    PoolView,
    ServerView,
    StatusView,
    TableView,
    VipView,
)
from orchestrator.contract.pool import MemberState
from orchestrator.contract.report import ProxyStatus
from orchestrator.fleet.authority import utc_now
from orchestrator.fleet.document import FleetMember, FleetPool
from orchestrator.fleet.health import Vote, votes_by_member
from orchestrator.fleet.health_view import health_fields, health_obstacles, health_warnings
from orchestrator.fleet.l4_drain_view import l4_drain_views, l4_state
from orchestrator.fleet.ledger import Present
from orchestrator.fleet.membership import active_members, shown_state
from orchestrator.fleet.progress import all_joining_obstacles, drain_obstacles, joining_obstacles, needs
from orchestrator.fleet.reports import ReportBoard
from orchestrator.fleet.roles import expected_roles
from orchestrator.fleet.serving import is_panicking
from orchestrator.fleet.site_views import site_warnings
from orchestrator.fleet.uncounted import all_uncounted_vips

#: How long before its end a host's certificate is warned about.
CERTIFICATE_WARNING = timedelta(days=14)


def status_view(present: Present, board: ReportBoard, wall: float) -> StatusView:
    return StatusView(
        now=wall,
        revision=present.fleet.revision,
        configured=present.fleet.configuration is not None,
        nodes=node_views(present, board),
        pools=pool_views(present, board, wall),
        vips=vip_views(present, board),
        drains=drain_views(present, board, wall),
        warnings=(*health_warnings(present, board, wall), *site_warnings(present), *_warnings(present, board)),
    )


def node_views(present: Present, board: ReportBoard) -> tuple[NodeView, ...]:
    """Configured nodes, and those that left and are still known to a live generation."""
    views = []
    members = {member.name: member for member in present.fleet.members}
    expected = expected_roles(present.fleet, present.configuration)
    for node in present.configuration.nodes:
        member = members.get(node.name)
        agents = _agents(present, board, node.name, node.kind, expected)
        state = shown_state(present.fleet, member) if member else None
        if node.kind is NodeKind.L4:
            state = l4_state(present, board, node.name)
        views.append(
            NodeView(name=node.name, kind=node.kind, address=node.address, site=node.site, agents=agents, state=state)
        )
    for member in present.fleet.members:
        if present.configuration.node(member.name) is None:
            agents = _agents(present, board, member.name, NodeKind.PROXY, expected)
            views.append(
                NodeView(
                    name=member.name,
                    kind=NodeKind.PROXY,
                    address=member.address,
                    site=None,
                    agents=agents,
                    state=shown_state(present.fleet, member),
                )
            )
    return tuple(sorted(views, key=lambda view: view.name))


def pool_views(present: Present, board: ReportBoard, wall: float) -> tuple[PoolView, ...]:
    views = []
    votes = votes_by_member(present.fleet, present.configuration, board)
    for configured in present.configuration.pools:
        pool = present.fleet.pool(configured.name)
        if pool is None:
            continue
        needed = needs(present.fleet, present.configuration, board, pool)
        views.append(
            PoolView(
                name=pool.name,
                slot=pool.slot,
                min_active=configured.min_active,
                active=len(active_members(present.fleet, configured)),
                panics=is_panicking(present.fleet, configured),
                encapsulation=configured.encapsulation,
                redirectors=configured.redirectors,
                members=_members(present, board, configured, pool, votes, wall),
                generations=tuple(
                    GenerationView(
                        number=live.generation.number,
                        site=live.generation.site,
                        members=live.generation.members,
                        needed_by=needed[live.generation.number],
                    )
                    for live in pool.generations
                ),
            )
        )
    return tuple(views)


def vip_views(present: Present, board: ReportBoard) -> tuple[VipView, ...]:
    balancers = {
        node.name: status
        for node in present.configuration.nodes
        if node.kind is NodeKind.L4 and (status := board.balancer(node.name)) is not None
    }
    return tuple(
        VipView(
            **vip.model_dump(),
            id=present.fleet.vip_ids[vip.name],
            announced_by=tuple(
                name
                for name, status in balancers.items()
                if vip.name in status.announced and status.announcement is not Announcement.NONE
            ),
            withheld_by={
                name: status.withheld[vip.name] for name, status in balancers.items() if vip.name in status.withheld
            },
            announced_despite_by={
                name: status.announced_despite[vip.name]
                for name, status in balancers.items()
                if vip.name in status.announced_despite
            },
        )
        for vip in present.configuration.vips
    )


def host_views(present: Present) -> tuple[HostView, ...]:
    ends = _certificate_ends(present)
    return tuple(
        HostView(
            name=entry.host.name,
            owner=entry.host.owner,
            source=entry.source,
            certificate_expires_at=ends.get(entry.host.name),
            routes=entry.host.routes,
        )
        for entry in present.configuration.hosts
    )


def backend_views(present: Present, board: ReportBoard) -> tuple[BackendView, ...]:
    healthy: dict[tuple[str, str], list[str]] = {}
    unhealthy: dict[tuple[str, str], dict[str, str]] = {}
    for member in present.fleet.members:
        proxy = board.proxy(member.name)
        for health in proxy.health if proxy else ():
            key = (health.backend, health.server)
            if health.healthy:
                healthy.setdefault(key, []).append(member.name)
            else:
                unhealthy.setdefault(key, {})[member.name] = health.detail
    return tuple(
        BackendView(
            name=entry.backend.name,
            owner=entry.owner,
            source=entry.source,
            send_proxy_protocol=entry.backend.send_proxy_protocol,
            protocol=entry.backend.protocol,
            servers=tuple(
                ServerView(
                    **server.model_dump(),
                    healthy_on=tuple(sorted(healthy.get((entry.backend.name, server.name), ()))),
                    unhealthy_on=unhealthy.get((entry.backend.name, server.name), {}),
                )
                for server in entry.backend.servers
            ),
        )
        for entry in present.configuration.backends
    )


def drain_views(present: Present, board: ReportBoard, wall: float) -> tuple[DrainView, ...]:
    leaving = (member for member in present.fleet.members if member.state is not MemberState.ACTIVE)
    views = [drain_view(present, board, wall, member) for member in leaving]
    return tuple(sorted((*views, *l4_drain_views(present, board, wall)), key=lambda view: view.node))


def drain_view(present: Present, board: ReportBoard, wall: float, member: FleetMember) -> DrainView:
    drain = member.drain
    is_draining = member.state is MemberState.DRAINING
    proxy = board.proxy(member.name)
    deadline_at = drain.deadline_at if drain else None
    obstacles = joining_obstacles(present.fleet, present.configuration, board, member)
    joining = tuple(dict.fromkeys(obstacle for each in obstacles.values() for obstacle in each))
    if shown_state(present.fleet, member) is MemberState.JOINING:
        joining = (*health_obstacles(present, board, wall, member), *joining)
    blocked_by = drain_obstacles(present.fleet, present.configuration, board, member, wall) if is_draining else joining
    return DrainView(
        node=member.name,
        state=shown_state(present.fleet, member),
        started_at=drain.started_at if drain else None,
        deadline_at=deadline_at,
        # At the deadline, flows that nobody counts stand in the way no longer: it is about to be drained.
        overdue=is_draining and deadline_at is not None and deadline_at <= wall and bool(blocked_by),
        force=drain is not None and drain.force,
        drained_at=drain.drained_at if drain else None,
        flows_at_start=drain.flows_at_start if drain else None,
        flows_open=board.flows_open(member.name),
        by_protocol=dict(sorted(proxy.open_flows.items())) if proxy else {},
        blocked_by=blocked_by,
        uncounted=all_uncounted_vips(present.fleet, present.configuration, board, member) if drain else (),
    )


def table_views(present: Present, board: ReportBoard) -> tuple[TableView, ...]:
    """As last reported, however long ago: `report_age_s` tells."""
    views = []
    for node in present.configuration.nodes:
        report = board.last(node.name, AgentRole.BALANCER)
        age = board.age(node.name, AgentRole.BALANCER)
        if report is None or age is None or report.status.role is not AgentRole.BALANCER:
            continue
        for table in report.status.tables:
            views.append(  # noqa: PERF401 - a comprehension in three parts reads worse
                TableView(node=node.name, applied_version=report.applied_version, report_age_s=age, table=table)
            )
    return tuple(views)


def _agents(
    present: Present,
    board: ReportBoard,
    node: str,
    kind: NodeKind,
    expected: Mapping[str, tuple[AgentRole, ...]],
) -> tuple[AgentView, ...]:
    """Those that the node is to run, and others that run there all the same."""
    return tuple(
        _agent(present, board, node, role)
        for role in ROLES_OF_KIND[kind]
        if role in expected[node] or board.fresh(node, role) is not None
    )


def _agent(present: Present, board: ReportBoard, node: str, role: AgentRole) -> AgentView:
    report = board.last(node, role)
    proxy = report.status if report is not None and isinstance(report.status, ProxyStatus) else None
    return AgentView(
        role=role,
        connected=board.fresh(node, role) is not None,
        report_age_s=board.age(node, role),
        applied_version=report.applied_version if report else None,
        up_to_date=report is not None and report.applied_version == present.fleet.revision,
        nack=report.nack if report else None,
        incarnation=proxy.incarnation if proxy else None,
        leaving=proxy.leaving if proxy else None,
        restart_problem=proxy.restart_problem if proxy else None,
    )


def _members(
    present: Present,
    board: ReportBoard,
    configured: ConfiguredPool,
    pool: FleetPool,
    votes: Mapping[int, tuple[Vote, ...]],
    wall: float,
) -> tuple[MemberView, ...]:
    weights = configured.weights
    known = pool.known_ids
    views = []
    for member in present.fleet.members:
        if member.name not in weights and member.id not in known:
            continue
        proxy = board.proxy(member.name)
        census = board.census(member.name, pool.name, fresh=True)
        views.append(
            MemberView(
                id=member.id,
                name=member.name,
                address=member.address,
                state=shown_state(present.fleet, member, pool),
                weight=weights.get(member.name),
                reachable=member.reachable,
                open_flows=sum(proxy.open_flows.values()) if proxy else None,
                sockets=census.flows if census else None,
                **health_fields(member, votes.get(member.id, ()), wall),
            )
        )
    return tuple(sorted(views, key=lambda view: view.name))


def _certificate_ends(present: Present) -> dict[str, float]:
    ends: dict[str, float] = {}
    for certificate in present.configuration.certificates:
        end = _end_of(certificate.chain_pem)
        for host in certificate.hosts:
            # Of several, the one that ends first: some clients get no other.
            ends[host] = min(end, ends.get(host, end))
    return ends


@lru_cache(maxsize=4096)  # as many chains as a large fleet serves; status is asked for every second
def _end_of(chain_pem: str) -> float:
    return x509.load_pem_x509_certificate(chain_pem.encode()).not_valid_after_utc.timestamp()


def _warnings(present: Present, board: ReportBoard) -> Iterator[str]:
    for node in node_views(present, board):
        for agent in node.agents:
            who = AgentIdentity(node=node.name, role=agent.role)
            if agent.nack is not None:
                yield f"{who} refused revision {agent.nack.version}: {agent.nack.reason}"
            if not agent.connected and board.is_silent(node.name, agent.role):
                yield board.silence_in_words(node.name, agent.role)
    joining = all_joining_obstacles(present.fleet, present.configuration, board, present.fleet.members)
    for name, by_pool in joining.items():
        for pool_name, obstacles in by_pool.items():
            if obstacles:
                yield f"{name} takes no new flows of pool {pool_name} yet: {obstacles[0]}"
    for table in table_views(present, board):
        if table.table.overflowed_rows:
            yield f"{table.node}: {table.table.overflowed_rows} rows of pool {table.table.pool} have owners too many"
    for member in present.fleet.members:
        for pool in present.fleet.pools:
            census = board.census(member.name, pool.name, fresh=True)
            if census is not None and census.orphans:
                yield f"{member.name}: no packet reaches {census.orphans} flows of pool {pool.name} any more"
    soon = (utc_now() + CERTIFICATE_WARNING).timestamp()
    for host, end in sorted(_certificate_ends(present).items()):
        if end < soon:
            days = (end - utc_now().timestamp()) / 86400
            yield f"the certificate of {host} " + (f"ends in {days:.0f} days" if days > 0 else "has expired")
