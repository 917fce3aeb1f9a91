"""Snapshots: what each agent must run, as a pure function of fleet, configuration and agent.

A change of a large fleet is thousands of snapshots that differ in little: pools with thousands of members and up to 64
generations are the same for all L4 nodes, and for all members. A `Compilation` makes each of them, and its JSON, once.
"""

from collections.abc import Container
from functools import cached_property

from pydantic import TypeAdapter

from orchestrator.config.configuration import Configuration, ConfiguredNode
from orchestrator.contract.base import Address
from orchestrator.contract.guard import Guard, GuardLimits, GuardLists, Verdict
from orchestrator.contract.node import AgentIdentity, AgentRole, NodeKind
from orchestrator.contract.pool import ForwardingSettings, Member, MemberState, PoolForwarding
from orchestrator.contract.route import Goodbye, Listener
from orchestrator.contract.snapshot import BalancerSnapshot, ProxySnapshot, RedirectorSnapshot, Snapshot
from orchestrator.contract.vip import Vip, VipMode
from orchestrator.fleet.document import FleetMember, FleetPool, FleetState
from orchestrator.fleet.l4_drain import announcement_of
from orchestrator.fleet.serving import is_panicking
from orchestrator.fleet.ticket_keys import ticket_keys

_POOL: TypeAdapter[PoolForwarding] = TypeAdapter(PoolForwarding)


def compile_snapshot(fleet: FleetState, configuration: Configuration, agent: AgentIdentity) -> Snapshot | None:
    """None if the fleet does not know the agent: it has joined, and is not (or no longer) configured."""
    return Compilation(fleet, configuration).snapshot(agent)


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


class Compilation:
    """All snapshots of one revision. What they share is made when it is first asked for, and once."""

    def __init__(self, fleet: FleetState, configuration: Configuration) -> None:
        self.fleet = fleet
        self.configuration = configuration
        self._pools: dict[tuple[str, str | None], PoolForwarding] = {}
        self._texts: dict[tuple[str, str | None], bytes] = {}

    def __repr__(self) -> str:
        return f"Compilation(revision {self.fleet.revision})"

    def snapshot(self, agent: AgentIdentity) -> Snapshot | None:
        """See `compile_snapshot`."""
        if agent.role is AgentRole.BALANCER:
            node = self.configuration.node(agent.node)
            return None if node is None or node.kind is not NodeKind.L4 else self._balancer(node)
        member = self._members.get(agent.node)
        if member is None:
            return None
        return self._redirector(member) if agent.role is AgentRole.REDIRECTOR else self._proxy(member)

    def text(self, agent: AgentIdentity) -> bytes | None:
        """The snapshot's JSON: as `model_dump_json` writes it, but for the order of the fields."""
        snapshot = self.snapshot(agent)
        if snapshot is None:
            return None
        if isinstance(snapshot, ProxySnapshot):
            return snapshot.model_dump_json().encode()
        rest = snapshot.model_dump_json(exclude={"pools"}).encode()
        site = snapshot.site if isinstance(snapshot, BalancerSnapshot) else None
        pools = b",".join(self._pool_text(pool.name, site) for pool in snapshot.pools)
        return b"".join((rest[:-1], b',"pools":[', pools, b"]}"))

    def _balancer(self, node: ConfiguredNode) -> BalancerSnapshot:
        vips = [vip for vip in self.configuration.vips if vip.name in self._vips and vip.is_of(node.site)]
        return BalancerSnapshot.model_validate(
            {
                "version": self.fleet.revision,
                "node": node.name,
                "node_id": self.fleet.l4_ids[node.name],
                "address": node.address,
                "address_v6": node.address_v6,
                "site": node.site,
                "announcement": announcement_of(self.fleet, node.name),
                "announce_anyway": tuple(
                    vip.name for vip in vips if vip.name in self.fleet.announce_anyway.get(node.name, ())
                ),
                "fib": node.fib,
                "forwarding": self._forwarding,
                "vips": tuple(self._vips[vip.name] for vip in vips),
                "pools": tuple(self._pool(pool.name, node.site) for pool in self.fleet.pools),
                "bgp": node.bgp,
                "guard": self._guard.model_copy(update={"limits": self._limits({vip.name for vip in vips})}),
            }
        )

    def _redirector(self, member: FleetMember) -> RedirectorSnapshot:
        pools = self._pools_of(member)
        known = {member.id}.union(*(self._ids_of[pool.name] for pool in pools))
        sources = {other.address for other in self.fleet.members if other.id in known} | self._l4_addresses
        names = {pool.name for pool in pools}
        return RedirectorSnapshot(
            version=self.fleet.revision,
            node=member.name,
            member_id=member.id,
            address=member.address,
            forwarding=self._forwarding,
            vips=tuple(vip for vip in self._vips.values() if vip.pool in names),
            pools=tuple(self._pool(pool.name, None) for pool in pools),
            tunnel_sources=tuple(sorted(sources, key=lambda address: (address.version, int(address)))),
            l4_nodes=self._l4_nodes,
            probe_sources=self._probe_sources,
        )

    def _proxy(self, member: FleetMember) -> ProxySnapshot:
        configuration = self.configuration
        pools = {pool.name for pool in self._pools_of(member)}
        return ProxySnapshot(
            version=self.fleet.revision,
            node=member.name,
            listeners=tuple(
                Listener(
                    vip=vip.name,
                    address=vip.address,
                    port=vip.port,
                    tls=vip.tls,
                    trusted_hops=vip.trusted_hops,
                    accept_proxy_protocol=vip.accept_proxy_protocol,
                )
                for vip in configuration.vips
                if vip.mode is VipMode.TERMINATE and vip.pool in pools
            ),
            certificates=configuration.certificates,
            hosts=tuple(entry.host for entry in configuration.hosts),
            backends=tuple(entry.backend for entry in configuration.backends),
            goodbye=self._goodbye(member),
            ticket_keys=ticket_keys(self.fleet),
            l4_nodes=self._l4_nodes,
            probe_sources=self._probe_sources,
        )

    def _goodbye(self, member: FleetMember) -> Goodbye | None:
        if member.state is MemberState.ACTIVE or member.drain is None:
            return None
        spread_s = self.configuration.spread_s
        return Goodbye(started_at=member.drain.started_at, spread_s=spread_s, reset=member.drain.reset)

    def _pools_of(self, member: FleetMember) -> tuple[FleetPool, ...]:
        """Pools that the member is configured for, or that a live generation has it in."""
        return tuple(pool for pool in self.fleet.pools if member.id in self._ids_of[pool.name])

    def _pool(self, name: str, site: str | None) -> PoolForwarding:
        """As this site's L4 nodes are sent it; None: as members are, whose site does not matter."""
        pool, of_pool = self._fleet_pools[name], self._pools.get((name, None))
        if of_pool is None:
            configured = self.configuration.pool(name)
            if configured is None:
                raise ValueError(f"pool {name} is not configured: `membership.regenerate` keeps no such pool")
            known = self._ids_of[name]
            all_stay = is_panicking(self.fleet, configured)
            of_pool = self._pools[name, None] = PoolForwarding(
                name=name,
                slot=pool.slot,
                redirectors=configured.redirectors,
                encapsulation=configured.encapsulation,
                probe=configured.probe,
                members=tuple(
                    Member(
                        id=member.id,
                        name=member.name,
                        address=member.address,
                        state=member.state,
                        reachable=member.reachable or all_stay,
                    )
                    for member in self.fleet.members
                    if member.id in known
                ),
                generations=tuple(live.generation for live in pool.generations),
            )
        site = self._order(pool, site)
        if (name, site) not in self._pools:
            own_first = sorted(of_pool.generations, key=lambda generation: generation.site != site)
            self._pools[name, site] = of_pool.model_copy(update={"generations": tuple(own_first)})
        return self._pools[name, site]

    def _pool_text(self, name: str, site: str | None) -> bytes:
        site = self._order(self._fleet_pools[name], site)
        if (name, site) not in self._texts:
            self._texts[name, site] = _POOL.dump_json(self._pool(name, site))
        return self._texts[name, site]

    def _order(self, pool: FleetPool, site: str | None) -> str | None:
        """Whose generations come first; None if all are in one order anyway."""
        sites = {live.generation.site for live in pool.generations}
        return site if site in sites and len(sites) > 1 else None

    @cached_property
    def _fleet_pools(self) -> dict[str, FleetPool]:
        return {pool.name: pool for pool in self.fleet.pools}

    @cached_property
    def _members(self) -> dict[str, FleetMember]:
        return {member.name: member for member in self.fleet.members}

    @cached_property
    def _ids_of(self) -> dict[str, frozenset[int]]:
        """By pool: who may hold flows of it, or will soon. A flow table may name who is in no generation any more."""
        ids = {}
        for pool in self.fleet.pools:
            configured = self.configuration.pool(pool.name)
            names = configured.weights if configured is not None else {}
            ids[pool.name] = pool.member_ids.union(self._members[name].id for name in names if name in self._members)
        return ids

    @cached_property
    def _l4_addresses(self) -> frozenset[Address]:
        l4_nodes = [node for node in self.configuration.nodes if node.kind is NodeKind.L4]
        return frozenset(a for node in l4_nodes for a in (node.address, node.address_v6) if a is not None)

    @cached_property
    def _probe_sources(self) -> tuple[Address, ...]:
        return tuple(sorted(self._l4_addresses, key=lambda address: (address.version, int(address))))

    @cached_property
    def _l4_nodes(self) -> dict[int, str]:
        return {number: name for name, number in sorted(self.fleet.l4_ids.items(), key=lambda item: item[1])}

    @cached_property
    def _forwarding(self) -> ForwardingSettings:
        return ForwardingSettings(
            hash_key=self.fleet.hash_key,
            rows=self.configuration.rows,
            owners_per_row=self.configuration.owners_per_row,
        )

    @cached_property
    def _guard(self) -> Guard:
        guard = self.fleet.guard
        by_verdict = {
            verdict: tuple(entry.prefix for entry in guard.entries if entry.verdict is verdict) for verdict in Verdict
        }
        lists = GuardLists(block=by_verdict[Verdict.BLOCK], allow=by_verdict[Verdict.ALLOW])
        return Guard(lists=lists, limits=guard.limits)

    def _limits(self, vips: Container[str]) -> GuardLimits:
        """With those of these VIPs alone."""
        limits = self.fleet.guard.limits
        return limits.model_copy(update={"vips": {name: each for name, each in limits.vips.items() if name in vips}})

    @cached_property
    def _vips(self) -> dict[str, Vip]:
        pools = {pool.name for pool in self.fleet.pools}
        return {
            vip.name: Vip(
                name=vip.name,
                id=self.fleet.vip_ids[vip.name],
                address=vip.address,
                prefix_length=vip.prefix_length,
                protocol=vip.protocol,
                port=vip.port,
                last_port=vip.last_port,
                mode=vip.mode,
                pool=vip.pool,
                flow_hash=vip.flow_hash,
                quic=vip.quic,
            )
            for vip in self.configuration.vips
            if vip.pool in pools
        }
