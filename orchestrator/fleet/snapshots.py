"""Snapshots: what each agent must run, as a pure function of fleet, configuration and agent."""

from orchestrator.config.configuration import Configuration, ConfiguredNode
from orchestrator.contract.node import AgentIdentity, AgentRole, NodeKind
from orchestrator.contract.pool import ForwardingSettings, Member, MemberState, PoolForwarding
from orchestrator.contract.route import Goodbye, Listener
from orchestrator.contract.snapshot import BalancerSnapshot, ProxySnapshot, RedirectorSnapshot, Snapshot
from orchestrator.contract.vip import Vip, VipMode
from orchestrator.fleet.document import FleetMember, FleetPool, FleetState


def compile_snapshot(fleet: FleetState, configuration: Configuration, agent: AgentIdentity) -> Snapshot | None:
    """None if the fleet does not know the agent: it has joined, and is not (or no longer) configured."""
    if agent.role is AgentRole.BALANCER:
        node = configuration.node(agent.node)
        if node is None or node.kind is not NodeKind.L4:
            return None
        return _balancer(fleet, configuration, node)
    member = fleet.member(agent.node)
    if member is None:
        return None
    if agent.role is AgentRole.REDIRECTOR:
        return _redirector(fleet, configuration, member)
    return _proxy(fleet, configuration, member)


def known_agents(fleet: FleetState, configuration: Configuration) -> set[AgentIdentity]:
    """All agents that have a snapshot."""
    balancers = {
        AgentIdentity(node=node.name, role=AgentRole.BALANCER)
        for node in configuration.nodes
        if node.kind is NodeKind.L4
    }
    return balancers | {
        AgentIdentity(node=member.name, role=role)
        for member in fleet.members
        for role in (AgentRole.REDIRECTOR, AgentRole.PROXY)
    }


def _balancer(fleet: FleetState, configuration: Configuration, node: ConfiguredNode) -> BalancerSnapshot:
    return BalancerSnapshot(
        version=fleet.revision,
        node=node.name,
        node_id=fleet.l4_ids[node.name],
        address=node.address,
        forwarding=_forwarding(fleet, configuration),
        vips=_vips(fleet, configuration, {pool.name for pool in fleet.pools}),
        pools=tuple(_pool_forwarding(fleet, pool) for pool in fleet.pools),
        bgp=node.bgp,
    )


def _redirector(fleet: FleetState, configuration: Configuration, member: FleetMember) -> RedirectorSnapshot:
    pools = _pools_of(fleet, configuration, member)
    known = {member.id}.union(*(pool.member_ids for pool in pools))
    fellows = {other.address for other in fleet.members if other.id in known}
    sources = fellows | {node.address for node in configuration.nodes if node.kind is NodeKind.L4}
    return RedirectorSnapshot(
        version=fleet.revision,
        node=member.name,
        member_id=member.id,
        address=member.address,
        forwarding=_forwarding(fleet, configuration),
        vips=_vips(fleet, configuration, {pool.name for pool in pools}),
        pools=tuple(_pool_forwarding(fleet, pool) for pool in pools),
        tunnel_sources=tuple(sorted(sources)),
        l4_nodes=_l4_nodes(fleet),
    )


def _proxy(fleet: FleetState, configuration: Configuration, member: FleetMember) -> ProxySnapshot:
    pools = {pool.name for pool in _pools_of(fleet, configuration, member)}
    return ProxySnapshot(
        version=fleet.revision,
        node=member.name,
        listeners=tuple(
            Listener(vip=vip.name, address=vip.address, port=vip.port, tls=vip.tls)
            for vip in configuration.vips
            if vip.mode is VipMode.TERMINATE and vip.pool in pools
        ),
        certificates=configuration.certificates,
        hosts=tuple(entry.host for entry in configuration.hosts),
        backends=tuple(entry.backend for entry in configuration.backends),
        goodbye=_goodbye(configuration, member),
        l4_nodes=_l4_nodes(fleet),
    )


def _goodbye(configuration: Configuration, member: FleetMember) -> Goodbye | None:
    if member.state is MemberState.ACTIVE or member.drain is None:
        return None
    return Goodbye(started_at=member.drain.started_at, spread_s=configuration.spread_s, reset=member.drain.reset)


def _forwarding(fleet: FleetState, configuration: Configuration) -> ForwardingSettings:
    return ForwardingSettings(
        hash_key=fleet.hash_key, rows=configuration.rows, owners_per_row=configuration.owners_per_row
    )


def _vips(fleet: FleetState, configuration: Configuration, pools: set[str]) -> tuple[Vip, ...]:
    return tuple(
        Vip(name=vip.name, id=fleet.vip_ids[vip.name], address=vip.address, port=vip.port, mode=vip.mode, pool=vip.pool)
        for vip in configuration.vips
        if vip.pool in pools
    )


def _pool_forwarding(fleet: FleetState, pool: FleetPool) -> PoolForwarding:
    known = pool.known_ids
    return PoolForwarding(
        name=pool.name,
        slot=pool.slot,
        members=tuple(
            Member(
                id=member.id,
                name=member.name,
                address=member.address,
                state=member.state,
                reachable=member.reachable,
            )
            for member in fleet.members
            if member.id in known
        ),
        generations=tuple(live.generation for live in pool.generations),
    )


def _pools_of(fleet: FleetState, configuration: Configuration, member: FleetMember) -> tuple[FleetPool, ...]:
    """Pools that the member is configured for, or that a live generation has it in."""
    configured = {pool.name for pool in configuration.pools if any(other.node == member.name for other in pool.members)}
    return tuple(pool for pool in fleet.pools if pool.name in configured or member.id in pool.known_ids)


def _l4_nodes(fleet: FleetState) -> dict[int, str]:
    return {number: name for name, number in sorted(fleet.l4_ids.items(), key=lambda item: item[1])}
