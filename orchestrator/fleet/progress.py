"""What drains, joining members and retirements still wait for. Pure functions of fleet, configuration and reports.

Retirement errs on the side of keeping: a generation too many costs a little memory, one too few costs flows. So it
waits for every balancer, and for every redirector that could hold flows, and counts what was needed when last heard.
A drain may go on without a balancer that has gone silent, once the member itself has seen no new flow for a while: a
dead host's routes are gone, but a node of which only the agent died forwards on by its old table.

Pools without redirectors need no generation but the newest: L4 nodes remember each flow. There is no census to wait
for, and no redirector, unless one runs all the same (to decapsulate): then it is waited for as long as it reports.
"""

from collections.abc import Iterable, Iterator

from orchestrator.config.configuration import Configuration, ConfiguredNode
from orchestrator.contract.node import AgentRole, L4DrainPhase, NodeKind
from orchestrator.contract.pool import MAX_LIVE_GENERATIONS, MemberState
from orchestrator.fleet.document import FleetMember, FleetPool, FleetState, LiveGeneration
from orchestrator.fleet.reports import ReportBoard
from orchestrator.fleet.roles import has_redirectors, is_terminated
from orchestrator.fleet.uncounted import all_uncounted_vips, is_of, uncounted_vips, waits_for_uncounted

#: Seconds without a new flow after which a silent balancer is taken to have stopped giving this member any. An L4 node
#: that forwards brings its share of an edge's new flows, many a second; BFD and BGP take a dead one out in 0.2 to 9 s.
QUIET_S = 10.0


def drain_obstacles(
    fleet: FleetState, configuration: Configuration, board: ReportBoard, member: FleetMember, wall: float
) -> tuple[str, ...]:
    """Why a draining member is not drained yet, in words; empty when it is. `wall` is Unix time."""
    return tuple(dict.fromkeys(_drain_obstacles(fleet, configuration, board, member, wall)))


def joining_obstacles(
    fleet: FleetState, configuration: Configuration, board: ReportBoard, member: FleetMember
) -> dict[str, tuple[str, ...]]:
    """Pool that the member joins → why it is not given rows there yet, in words; empty when it can be."""
    return all_joining_obstacles(fleet, configuration, board, (member,)).get(member.name, {})


def all_joining_obstacles(
    fleet: FleetState, configuration: Configuration, board: ReportBoard, members: Iterable[FleetMember]
) -> dict[str, dict[str, tuple[str, ...]]]:
    """The same by member, for those who join. What all who join wait for is looked at once."""
    found: dict[str, dict[str, tuple[str, ...]]] = {}
    pools = [pool for pool in fleet.pools if pool.joining]
    fellows: dict[tuple[str, int], tuple[str, ...]] = {}
    for member in members if pools else ():
        for pool in pools:
            revision = pool.joining.get(member.id)
            if revision is None:
                continue
            if (pool.name, revision) not in fellows:
                fellows[pool.name, revision] = tuple(_fellows_behind(fleet, configuration, board, pool, revision))
            own = _joining_obstacles(configuration, board, pool, member, revision)
            found.setdefault(member.name, {})[pool.name] = tuple(dict.fromkeys((*own, *fellows[pool.name, revision])))
    return found


def needs(
    fleet: FleetState, configuration: Configuration, board: ReportBoard, pool: FleetPool
) -> dict[int, dict[str, int]]:
    """Generation → member → flows that only it brings there, as last heard, however long ago."""
    found: dict[int, dict[str, int]] = {live.generation.number: {} for live in pool.generations}
    if not has_redirectors(configuration, pool):
        return found
    for member in fleet.members:
        if _is_gone(configuration, board, member):
            continue
        census = board.census(member.name, pool.name, fresh=False)
        for number, flows in census.needed.items() if census else ():
            if flows > 0 and number in found:
                found[number][member.name] = flows
    return found


def retirement_obstacles(
    fleet: FleetState, configuration: Configuration, board: ReportBoard, pool: FleetPool
) -> tuple[str, ...]:
    """Why no generation of the pool may be retired now, whatever the census says."""
    return tuple(_retirement_obstacles(fleet, configuration, board, pool))


def retirable(
    fleet: FleetState, configuration: Configuration, board: ReportBoard, pool: FleetPool, wall: float
) -> frozenset[int]:
    """Numbers of generations that nobody needs, as far as complete and fresh censuses tell. `wall` is Unix time.

    Only those that are older than their site's *settled* generation: one that all its balancers give new flows by, or
    a newer one, and that all censuses know. No flow begins under an older one any more, and a flow that came to need
    none of them will not need one later. So generations are retired also while newer ones come faster than they can
    settle. Those of a site that is gone are older than any generation that all balancers and censuses know, and that
    was made when it went, or later.
    Also kept is the last that names a member which has left the configuration while flows that nobody counts have
    time: with it the L4 nodes would forget where to send them.
    """
    if len(pool.generations) == 1:
        return frozenset()
    settled = _settled(fleet, configuration, board, pool)
    needed = needs(fleet, configuration, board, pool)
    kept = _last_of_leaving(fleet, configuration, board, pool, wall)
    known = [live for live in pool.generations if live.generation.number <= settled]
    newest_known: dict[str | None, int] = {}
    for live in known:
        newest_known.setdefault(live.generation.site, live.generation.number)

    def is_past(live: LiveGeneration) -> bool:
        if live.generation.site is not None:
            return live.generation.number < newest_known.get(live.generation.site, 0)
        return any(
            other.generation.site is not None and other.revision >= live.revision
            for other in known
            if other.generation.number > live.generation.number
        )

    past = (live.generation.number for live in pool.generations if is_past(live))
    return frozenset(number for number in past if not needed[number] and number not in kept)


def waits_for(fleet: FleetState, configuration: Configuration, board: ReportBoard) -> dict[str, str]:
    """Pool → what its oldest generations wait for, in words."""
    words = {}
    for pool in fleet.pools:
        holders = {name for by_member in needs(fleet, configuration, board, pool).values() for name in by_member}
        obstacles = retirement_obstacles(fleet, configuration, board, pool)
        if holders:
            words[pool.name] = f"the flows of {', '.join(sorted(holders))}"
        elif obstacles:
            words[pool.name] = "; ".join(obstacles[:3])
    return words


def _drain_obstacles(
    fleet: FleetState, configuration: Configuration, board: ReportBoard, member: FleetMember, wall: float
) -> Iterator[str]:
    revision = 0
    own = [pool for pool in fleet.pools if is_of(configuration, pool, member)]
    for pool in fleet.pools:
        left = _left(pool, member)
        if left is None:
            yield f"pool {pool.name} has no generation without {member.name} yet"
            continue
        revision = max(revision, left.revision)
        yield from _balancers_that_may_still_send(fleet, configuration, board, pool, member, left)
        yield from _counted_flows(configuration, board, pool, member, left)
    if not own or any(has_redirectors(configuration, pool) for pool in own):
        yield from _not_applied(board, member.name, AgentRole.REDIRECTOR, revision, "the drain")
    if not own or any(is_terminated(configuration, pool) for pool in own):
        yield from _not_applied(board, member.name, AgentRole.PROXY, revision, "the drain")
    proxy = board.proxy(member.name)
    if proxy is not None:
        for protocol, flows in sorted(proxy.open_flows.items()):
            if flows > 0:
                yield f"{flows} open {protocol} flows in the proxy of {member.name}"
    uncounted = all_uncounted_vips(fleet, configuration, board, member)
    if uncounted and waits_for_uncounted(configuration, member, wall):
        has_deadline = member.drain is not None and member.drain.deadline_at is not None
        until = "the deadline" if has_deadline else f"{configuration.uncounted_s:g} s after the drain began"
        yield f"flows of {', '.join(uncounted)} on {member.name} cannot be counted: they have until {until}"


def _balancers(fleet: FleetState, configuration: Configuration, board: ReportBoard) -> Iterator[ConfiguredNode]:
    """L4 nodes that are waited for: all but those that were drained and are gone. Nothing came to such a node any more,
    and it announces nothing when it comes back before it is told to, by a snapshot with the generations of then."""
    for node in configuration.nodes:
        if node.kind is NodeKind.L4:
            drain = fleet.l4_drains.get(node.name)
            is_drained = drain is not None and drain.phase is L4DrainPhase.QUIET
            if not (is_drained and board.is_silent(node.name, AgentRole.BALANCER)):
                yield node


def _balancers_that_may_still_send(
    fleet: FleetState,
    configuration: Configuration,
    board: ReportBoard,
    pool: FleetPool,
    member: FleetMember,
    left: LiveGeneration,
) -> Iterator[str]:
    for node in _balancers(fleet, configuration, board):
        if not board.is_silent(node.name, AgentRole.BALANCER):
            yield from _not_applied(board, node.name, AgentRole.BALANCER, left.revision, f"pool {pool.name}")
        elif board.redirector(member.name) is None and not has_redirectors(configuration, pool):
            yield (
                f"{board.silence_in_words(node.name, AgentRole.BALANCER)}, and may still send new flows: no "
                f"redirector of {member.name} tells; take {node.name} out of the configuration if it is gone"
            )
        elif board.quiet_for(member.name) < QUIET_S:
            yield (
                f"{board.silence_in_words(node.name, AgentRole.BALANCER)}, and may still send new flows: "
                f"{member.name} must see none for {QUIET_S:.0f} s"
            )


def _counted_flows(
    configuration: Configuration, board: ReportBoard, pool: FleetPool, member: FleetMember, left: LiveGeneration
) -> Iterator[str]:
    census = board.census(member.name, pool.name, fresh=True)
    if census is None:
        if has_redirectors(configuration, pool) and _belongs(configuration, pool, member):
            yield f"no census of pool {pool.name} from the redirector of {member.name}"
    elif census.newest_generation < left.generation.number:
        yield f"the census of {member.name} is older than generation {left.generation.number} of pool {pool.name}"
    elif census.flows > 0:
        yield f"{census.flows} flows of pool {pool.name} on {member.name}"


def _joining_obstacles(
    configuration: Configuration, board: ReportBoard, pool: FleetPool, member: FleetMember, revision: int
) -> Iterator[str]:
    """It must be able to take flows, and to pass on those of others."""
    redirector = board.redirector(member.name)
    if redirector is not None or has_redirectors(configuration, pool):
        yield from _not_applied(board, member.name, AgentRole.REDIRECTOR, revision, f"pool {pool.name}")
    if is_terminated(configuration, pool):
        yield from _not_applied(board, member.name, AgentRole.PROXY, revision, f"pool {pool.name}")
    if redirector is not None and redirector.xdp_mode == "detached" and has_redirectors(configuration, pool):
        yield f"no redirector is attached to {redirector.interface} of {member.name}"


def _fellows_behind(
    fleet: FleetState, configuration: Configuration, board: ReportBoard, pool: FleetPool, revision: int
) -> Iterator[str]:
    """Who joins must be believed when it passes flows on; and there must be room for a generation."""
    if has_redirectors(configuration, pool):
        known = pool.known_ids
        for fellow in fleet.members:
            if fellow.id in known and not board.is_silent(fellow.name, AgentRole.REDIRECTOR):
                yield from _not_applied(board, fellow.name, AgentRole.REDIRECTOR, revision, f"pool {pool.name}")
    if len(pool.generations) >= MAX_LIVE_GENERATIONS:
        yield f"pool {pool.name} has {MAX_LIVE_GENERATIONS} live generations"


def _retirement_obstacles(
    fleet: FleetState, configuration: Configuration, board: ReportBoard, pool: FleetPool
) -> Iterator[str]:
    newest = pool.newest
    for node in _balancers(fleet, configuration, board):
        yield from _not_applied(board, node.name, AgentRole.BALANCER, newest.revision, f"pool {pool.name}")
    for member in _who_takes_a_census(fleet, configuration, board, pool):
        unheard = tuple(_not_applied(board, member.name, AgentRole.REDIRECTOR, newest.revision, f"pool {pool.name}"))
        yield from unheard
        if unheard:
            continue
        census = board.census(member.name, pool.name, fresh=True)
        if census is None or census.newest_generation < newest.generation.number:
            yield f"no census of {member.name} with generation {newest.generation.number} of pool {pool.name}"


def _who_takes_a_census(
    fleet: FleetState, configuration: Configuration, board: ReportBoard, pool: FleetPool
) -> Iterator[FleetMember]:
    """Those without whose census nothing is retired."""
    if not has_redirectors(configuration, pool):
        return
    known = pool.known_ids
    for member in fleet.members:
        if member.id not in known and not _belongs(configuration, pool, member):
            continue
        if not _is_gone(configuration, board, member):
            yield member


def _last_of_leaving(
    fleet: FleetState, configuration: Configuration, board: ReportBoard, pool: FleetPool, wall: float
) -> frozenset[int]:
    leaving = {
        member.id
        for member in fleet.members
        if member.state is MemberState.DRAINING
        and not _belongs(configuration, pool, member)
        and waits_for_uncounted(configuration, member, wall)
        and uncounted_vips(configuration, board, pool, member)
    }
    kept = set()
    for live in pool.generations if leaving else ():
        if found := leaving & live.generation.ids:
            kept.add(live.generation.number)
            leaving -= found
    return frozenset(kept)


def _settled(fleet: FleetState, configuration: Configuration, board: ReportBoard, pool: FleetPool) -> int:
    """Number of the newest generation, of all sites, up to which everybody knows all; 0 if somebody was not heard.

    Balancers of all sites are waited for: one may have been at another site a moment ago.
    """

    def applied(node: str, role: AgentRole) -> int:
        report = board.fresh(node, role)
        version = (report.applied_version or 0) if report else 0
        return max((live.generation.number for live in pool.generations if live.revision <= version), default=0)

    settled = pool.newest.generation.number
    for node in _balancers(fleet, configuration, board):
        settled = min(settled, applied(node.name, AgentRole.BALANCER))
    for member in _who_takes_a_census(fleet, configuration, board, pool):
        census = board.census(member.name, pool.name, fresh=True)
        known = min(applied(member.name, AgentRole.REDIRECTOR), census.newest_generation) if census else 0
        settled = min(settled, known)
    return settled


def _is_gone(configuration: Configuration, board: ReportBoard, member: FleetMember) -> bool:
    """Whether a silent member may be passed over.

    A drained one holds no flow and is given none; one that left the configuration is the operator's word that its
    host may be gone; of one that most L4 nodes cannot reach, the flows are lost. They count while they report, and are
    not waited for when they fall silent.
    """
    may_be_gone = member.state is MemberState.DRAINED or configuration.node(member.name) is None or not member.reachable
    return may_be_gone and board.is_silent(member.name, AgentRole.REDIRECTOR)


def _not_applied(board: ReportBoard, node: str, role: AgentRole, revision: int, what: str) -> Iterator[str]:
    report = board.fresh(node, role)
    if report is None:
        yield board.silence_in_words(node, role)
    elif (report.applied_version or 0) < revision:
        refused = f": it refused, {report.nack.reason}" if report.nack else ""
        runs = f"runs {report.applied_version or 'none'}"
        yield f"the {role} of {node} has not applied revision {revision} of {what} ({runs}){refused}"


def _left(pool: FleetPool, member: FleetMember) -> LiveGeneration | None:
    """The generation that took the member out: the oldest of its site's newest ones that are without it.

    Of all sites the last; None while a site has none. Of sites that are gone, the one by which that is known.
    """
    left = []
    for site in pool.newest_by_site:
        found = None
        for live in pool.generations:
            if live.generation.site == site:
                if member.id in live.generation.ids:
                    break
                found = live
        if found is None:
            return None
        left.append(found)
    last = max(left, key=lambda live: live.generation.number)
    gone_at = max(
        (
            live.revision
            for live in pool.generations
            if live.generation.site is None and member.id in live.generation.ids
        ),
        default=0,
    )
    if gone_at <= last.revision:
        return last
    return next(
        live for live in pool.generations[::-1] if live.generation.site is not None and live.revision >= gone_at
    )


def _belongs(configuration: Configuration, pool: FleetPool, member: FleetMember) -> bool:
    configured = configuration.pool(pool.name)
    return configured is not None and member.name in configured.weights
