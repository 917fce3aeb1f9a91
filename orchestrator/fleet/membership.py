"""Membership: from configuration and the members' states to each site's newest generation of each pool. Pure functions.

Every function takes a fleet and returns the next one, to be saved as revision `fleet.revision + 1`.
"""

from collections.abc import Collection, Mapping

from orchestrator.config.configuration import Configuration, ConfiguredNode, ConfiguredPool
from orchestrator.contract.node import NodeKind
from orchestrator.contract.operator import CAPACITY_GUARD
from orchestrator.contract.pool import (
    MAX_LIVE_GENERATIONS,
    Generation,
    GenerationMember,
    MemberState,
)
from orchestrator.fleet.document import (
    MAX_IDENTIFIER,
    Drain,
    FleetMember,
    FleetPool,
    FleetRefused,
    FleetState,
    LiveGeneration,
    next_identifier,
)
from orchestrator.fleet.serving import meant_to_serve, serving, weighted
from orchestrator.fleet.sites import emptied_sites, members_by_site, site_of_members

#: Slots in the kernel's array of tables.
MAX_SLOTS = 256
#: Members of all live generations of all pools, each counted as often as it is named: a snapshot and the fleet's
#: document have some 25 bytes for each, and must stay below `state_directory.MAX_SNAPSHOT_BYTES` with all the rest.
MAX_GENERATION_MEMBERS = 1_000_000


def configure(
    fleet: FleetState,
    before: Configuration,
    configuration: Configuration,
    now: float,
    waits_for: Mapping[str, str] | None = None,
) -> FleetState:
    """The fleet under another configuration. `now` is Unix time; `waits_for`: see `regenerate`.

    Raises FleetRefused: capacity_guard, generations_full, rows_fixed, address_in_service, chains_in_use,
    identifiers_exhausted.
    """
    if fleet.pools and configuration.rows != before.rows:
        raise FleetRefused(
            "rows_fixed",
            f"forwarding.rows is {before.rows}, and another number would move every flow",
            "leave it, or build a fleet of its own with the other number",
            "forwarding.rows",
        )
    _refuse_to_cut_chains(fleet, before, configuration)
    fleet = _with_identifiers(fleet, configuration)
    fleet = _with_members(fleet, configuration, now)
    fleet = regenerate(fleet, configuration, waits_for)
    for pool in configuration.pools:
        # Whatever their health: a configuration may be what mends them.
        active = len(_without_joining(fleet, pool, meant_to_serve(fleet, pool)))
        if active < pool.min_active:
            raise FleetRefused(
                CAPACITY_GUARD,
                f"pool {pool.name} would have {active} active members, and its guard (min_active) is {pool.min_active}",
                "undrain a member first, add members, or lower min_active",
                f"pools.{pool.name}.min_active",
            )
    return fleet


def active_members(fleet: FleetState, pool: ConfiguredPool) -> tuple[FleetMember, ...]:
    """Configured members that take new flows, sorted by id."""
    return _without_joining(fleet, pool, serving(fleet, pool))


def _without_joining(
    fleet: FleetState, pool: ConfiguredPool, members: tuple[FleetMember, ...]
) -> tuple[FleetMember, ...]:
    present = fleet.pool(pool.name)
    joining = present.joining if present is not None else {}
    return tuple(member for member in members if member.id not in joining)


def generation_members(fleet: FleetState) -> int:
    """How many members the live generations of all pools name, each as often as it is named."""
    return sum(len(live.generation.members) for pool in fleet.pools for live in pool.generations)


def shown_state(fleet: FleetState, member: FleetMember, pool: FleetPool | None = None) -> MemberState:
    """The member's state for people: active only where it is given rows, in this pool or in all of its pools.

    Who is not healthy, and is given none, joins as soon as it is.
    """
    pools = fleet.pools if pool is None else (pool,)
    waits = not member.health.healthy and not any(member.id in each.serving_ids for each in pools)
    joins = waits or any(member.id in each.joining for each in pools)
    return MemberState.JOINING if joins and member.state is MemberState.ACTIVE else member.state


def regenerate(
    fleet: FleetState,
    configuration: Configuration,
    waits_for: Mapping[str, str] | None = None,
    *,
    ready: Collection[tuple[str, int]] = (),
) -> FleetState:
    """A new generation for each pool and site whose serving members or their weights (`serving`) are others than in its
    newest one.

    Who is in no site's newest generation joins first: it comes into one when `ready` names it (pool, member id). The
    first generations of a pool take everybody at once: there is no flow yet that could be lost. A member of weight 0 is
    in no new generation, like one that drains; it is known as long as the configuration or a live generation names it.
    `waits_for`: pool → whose flows its generations wait for, in words, for the refusal when 64 are live. Forgets pools
    that the configuration does not name, and members that nothing knows any more. Raises FleetRefused.
    """
    revision = fleet.revision + 1
    pools: list[FleetPool] = []
    kept = {pool.name: pool for pool in fleet.pools if configuration.pool(pool.name) is not None}
    gone = [pool.newest.generation.number for pool in fleet.pools if pool.name not in kept]
    last_generation = max((fleet.last_generation, *gone))
    room = MAX_GENERATION_MEMBERS - generation_members(fleet)
    slots = {pool.slot for pool in kept.values()}
    sites, emptied = site_of_members(fleet, configuration), emptied_sites(fleet, configuration)
    for configured in configuration.pools:
        wanted = serving(fleet, configured)
        pool = kept.get(configured.name)
        if pool is None:
            slot = _free_slot(slots)
            slots.add(slot)
            everybody = {member.id for member in wanted}
            by_site = members_by_site(configuration, configured.name, wanted, sites, everybody, emptied)
            # Above every number that a pool of this name had before.
            number = max(revision, last_generation + 1)
            generations = tuple(
                LiveGeneration(
                    generation=Generation(number=number + place, site=site, members=weighted(members, configured)),
                    revision=revision,
                )
                for place, (site, members) in enumerate(by_site.items())
            )
            pools.append(FleetPool(name=configured.name, slot=slot, generations=generations[::-1]))
            continue
        present = pool.serving_ids
        admitted = present.union(number for name, number in ready if name == pool.name)
        by_site = members_by_site(configuration, configured.name, wanted, sites, admitted, emptied)
        newcomers = {member.id for members in by_site.values() for member in members} - present
        joining = {
            number: pool.joining.get(number, revision)
            for number in sorted(newcomers)
            if (pool.name, number) not in ready
        }
        if joining != pool.joining:
            pool = pool.model_copy(update={"joining": joining})
        for site, members in _changes(pool, configured, by_site):
            room -= len(members)
            pool = _with_generation(pool, site, members, revision, waits_for or {}, room=room)
        pools.append(_without_sites_that_are_gone(pool, by_site, revision))
    named = {node.name for node in configuration.nodes}
    known = frozenset[int]().union(*(pool.known_ids for pool in pools))
    members_left = tuple(member for member in fleet.members if member.name in named or member.id in known)
    return fleet.model_copy(update={"pools": tuple(pools), "members": members_left, "last_generation": last_generation})


def _changes(
    pool: FleetPool, configured: ConfiguredPool, by_site: Mapping[str, tuple[FleetMember, ...]]
) -> list[tuple[str, tuple[GenerationMember, ...]]]:
    """Site → members of the generation that it needs now, for those that need one."""
    newest = pool.newest_by_site
    rows_for: dict[str, tuple[GenerationMember, ...]] = {}
    changed = []
    for site, members in by_site.items():
        ready = [member for member in members if member.id not in pool.joining]
        rows_for[site] = weighted(ready, configured)
        present = newest.get(site)
        if members and not ready:
            # Better those who leave, for the moment that it takes until the first of the others is ready. A site that
            # has no generation yet does as another one does.
            rows_for[site] = (present or pool.newest).generation.members
        if present is None or present.generation.members != rows_for[site]:
            changed.append(site)
    if not changed and newest.keys() - by_site.keys():
        # Who knows this generation knows that a site is gone: until then its L4 nodes may give new flows.
        changed.append(next(iter(by_site)))
    return [(site, rows_for[site]) for site in changed]


def _without_sites_that_are_gone(pool: FleetPool, by_site: Collection[str], revision: int) -> FleetPool:
    """Their generations live on for their flows, which may come to any site now, and none is a site's newest."""
    if not pool.newest_by_site.keys() - set(by_site):
        return pool
    generations = tuple(
        live
        if live.generation.site is None or live.generation.site in by_site
        else LiveGeneration(generation=live.generation.model_copy(update={"site": None}), revision=revision)
        for live in pool.generations
    )
    return pool.model_copy(update={"generations": generations})


def _with_generation(
    pool: FleetPool,
    site: str,
    members: tuple[GenerationMember, ...],
    revision: int,
    waits_for: Mapping[str, str],
    *,
    room: int,
) -> FleetPool:
    why = waits_for.get(pool.name, "the next census")
    if room < 0:
        raise FleetRefused(
            "generations_full",
            f"the live generations of all pools would name {MAX_GENERATION_MEMBERS - room} members, and "
            f"{MAX_GENERATION_MEMBERS} are the most; pool {pool.name} waits for {why}",
            "try again when older generations have ended; `edgectl get pools` shows who needs which generation",
        )
    if len(pool.generations) >= MAX_LIVE_GENERATIONS:
        raise FleetRefused(
            "generations_full",
            f"pool {pool.name} has {MAX_LIVE_GENERATIONS} live generations, and waits for {why}",
            "try again when they have ended; `edgectl get pools` shows who needs which generation",
        )
    newest = Generation(number=pool.newest.generation.number + 1, site=site, members=members)
    live = LiveGeneration(generation=newest, revision=revision)
    return pool.model_copy(update={"generations": (live, *pool.generations)})


def _with_identifiers(fleet: FleetState, configuration: Configuration) -> FleetState:
    l4_names = [node.name for node in configuration.nodes if node.kind is NodeKind.L4]
    l4_ids = {name: number for name, number in fleet.l4_ids.items() if name in l4_names}
    last = fleet.last_l4_id
    for name in l4_names:
        if name not in l4_ids:
            last = next_identifier(last, set(l4_ids.values()), "L4 nodes")
            l4_ids[name] = last
    vip_ids = dict(fleet.vip_ids)
    for vip in configuration.vips:
        if vip.name not in vip_ids:
            number = max(vip_ids.values(), default=0) + 1
            if number > MAX_IDENTIFIER:
                raise FleetRefused("identifiers_exhausted", "no id is left for another VIP", "use a name again")
            vip_ids[vip.name] = number
    return fleet.model_copy(update={"l4_ids": l4_ids, "last_l4_id": last, "vip_ids": vip_ids})


def _with_members(fleet: FleetState, configuration: Configuration, now: float) -> FleetState:
    """Every configured proxy is a member; who is no longer configured drains."""
    nodes = {node.name: node for node in configuration.nodes if node.kind is NodeKind.PROXY}
    members = [_as_configured(member, nodes.get(member.name), now) for member in fleet.members]
    taken = {member.id for member in members}
    known = {member.name for member in members}
    last = fleet.last_member_id
    for name, node in nodes.items():
        if name not in known:
            last = next_identifier(last, taken, "members")
            taken.add(last)
            members.append(FleetMember(id=last, name=name, address=node.address))
    members.sort(key=lambda member: member.id)
    return fleet.model_copy(update={"members": tuple(members), "last_member_id": last})


def _as_configured(member: FleetMember, node: ConfiguredNode | None, now: float) -> FleetMember:
    if node is None:
        if member.state is not MemberState.ACTIVE:
            return member
        drain = Drain(started_at=now, removed=True)
        return member.model_copy(update={"state": MemberState.DRAINING, "drain": drain})
    if member.address != node.address and member.state is not MemberState.DRAINED:
        raise FleetRefused(
            "address_in_service",
            f"{member.name} holds flows at {member.address}, and the configuration moves it to {node.address}",
            f"drain it first: edgectl drain {member.name}",
            f"nodes.{member.name}.address",
        )
    if member.drain is not None and member.drain.removed:
        return member.model_copy(update={"state": MemberState.ACTIVE, "drain": None, "address": node.address})
    return member.model_copy(update={"address": node.address})


def _refuse_to_cut_chains(fleet: FleetState, before: Configuration, configuration: Configuration) -> None:
    for pool in fleet.pools:
        was, will = before.pool(pool.name), configuration.pool(pool.name)
        if was is None or will is None or will.redirectors or not was.redirectors or len(pool.generations) == 1:
            continue
        raise FleetRefused(
            "chains_in_use",
            f"pool {pool.name} has {len(pool.generations)} live generations, and flows of all but the newest reach "
            "their members by redirectors only",
            "try again when `edgectl get generations` shows one, or make another pool",
            f"pools.{pool.name}.redirectors",
        )


def _free_slot(taken: set[int]) -> int:
    for slot in range(MAX_SLOTS):
        if slot not in taken:
            return slot
    raise FleetRefused("identifiers_exhausted", f"all {MAX_SLOTS} slots for pools are taken", "remove a pool first")
