"""Which agents a member of a pool is to run. Others may run there, and are listened to while they report."""

from collections.abc import Mapping

from orchestrator.config.configuration import Configuration
from orchestrator.contract.node import ROLES_OF_KIND, AgentRole, NodeKind
from orchestrator.contract.vip import VipMode
from orchestrator.fleet.document import FleetPool, FleetState


def has_redirectors(configuration: Configuration, pool: FleetPool) -> bool:
    """Whether members pass flows on to each other, and take censuses."""
    configured = configuration.pool(pool.name)
    return configured is None or configured.redirectors


def is_terminated(configuration: Configuration, pool: FleetPool) -> bool:
    """Whether its members are to run the proxy: unless they are behind passthrough VIPs only."""
    vips = configuration.vips_of(pool.name)
    return not vips or any(vip.mode is VipMode.TERMINATE for vip in vips)


def expected_roles(fleet: FleetState, configuration: Configuration) -> Mapping[str, tuple[AgentRole, ...]]:
    """By node, for all nodes of the configuration and all members. Spare proxies run both agents."""
    roles: dict[str, set[AgentRole]] = {}
    names = {member.id: member.name for member in fleet.members}
    for pool in fleet.pools:
        configured = configuration.pool(pool.name)
        of_pool = {AgentRole.REDIRECTOR} if has_redirectors(configuration, pool) else set()
        if is_terminated(configuration, pool):
            of_pool.add(AgentRole.PROXY)
        members = {names[number] for number in pool.known_ids if number in names}
        for name in members.union(configured.weights if configured is not None else ()):
            roles.setdefault(name, set()).update(of_pool)
    kinds = dict.fromkeys((member.name for member in fleet.members), NodeKind.PROXY)
    kinds.update((node.name, node.kind) for node in configuration.nodes)
    return {
        name: tuple(role for role in ROLES_OF_KIND[kind] if kind is NodeKind.L4 or role in roles.get(name, (role,)))
        for name, kind in kinds.items()
    }
