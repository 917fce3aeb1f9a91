"""Health: from what L4 nodes see of the members to who is given new flows. Pure functions, run with every tick.

1. **Quorum.** L4 nodes vote that have reported lately and probe the member: those of its own site; if none of them
   does, all others. Nothing changes without a majority of the votes, and nothing at all without a vote.
2. A majority that does not see it *healthy* takes it out of new generations. It stays in the owner chains: its old
   flows may well be fine. A majority that sees it *unreachable* takes it out of the chains too.
3. **Damping.** It comes back when a majority has seen it healthy without a break for its hold. The first hold is
   short; each further loss of health makes it longer, each quiet while halves the losses that count. So a member that
   flaps is taken out once more and then stays out. Holds are measured by the nodes, who report since when they see
   what they see: nothing of it has to be remembered here.
4. **Slow start.** Who comes back has a quarter of its weight, then half, then all of it.
5. Who was never seen healthy and is given new flows keeps them: a probe that was wrong from the beginning (or agents
   that come up in another order) takes nobody out. But who joins a pool waits until it is healthy.
6. Losses count while a member is active only. A drained one may be stopped and started at will.

Who serves in the end, panic included: `fleet.serving`.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from orchestrator.config.configuration import Configuration
from orchestrator.contract.node import AgentRole, NodeKind
from orchestrator.contract.pool import MemberState
from orchestrator.contract.report import ProbeVerdict
from orchestrator.fleet.document import FleetMember, FleetState, MemberHealth
from orchestrator.fleet.reports import ReportBoard

#: Seconds for which a member must be healthy before it comes back, by how often it has lost its health. The longest is
#: Envoy's `max_ejection_time`.
HOLDS_S: Final = (1.0, 10.0, 60.0, 300.0)
#: The longest that a host must have answered before it is in the owner chains again: flows that it still holds wait.
MAX_REACHABLE_HOLD_S: Final = 10.0
#: Seconds without a loss that halve the losses that count.
QUIET_S: Final = 300.0
#: Percent of its weight that a member has when it comes back, and then.
SHARES: Final = (25, 50, 100)


@dataclass(frozen=True, slots=True)
class Vote:
    """What one L4 node sees of a member."""

    node: str
    verdict: ProbeVerdict
    detail: str
    for_s: float
    """Seconds for which it has seen that."""


def judge(fleet: FleetState, configuration: Configuration, board: ReportBoard, *, wall: float) -> FleetState:
    """The fleet with the health that the nodes' votes give its members; `wall` is Unix time."""
    votes = votes_by_member(fleet, configuration, board)
    probed = {node for pool in configuration.pools if pool.probe is not None for node in pool.weights}
    in_service = frozenset[int]().union(*(pool.serving_ids for pool in fleet.pools))
    slow_start_s = _slow_starts(configuration)
    members = tuple(
        _judged(
            member,
            votes.get(member.id, ()),
            is_probed=member.id in votes or member.name in probed or configuration.node(member.name) is None,
            serves=member.id in in_service,
            slow_start_s=slow_start_s.get(member.name, 0.0),
            wall=wall,
        )
        for member in fleet.members
    )
    if all(after is before for after, before in zip(members, fleet.members, strict=True)):
        return fleet
    return fleet.model_copy(update={"members": members})


def votes_by_member(fleet: FleetState, configuration: Configuration, board: ReportBoard) -> dict[int, tuple[Vote, ...]]:
    """Member id → the votes that count, by node."""
    by_site: dict[str, dict[int, list[Vote]]] = {}
    for node in configuration.nodes:
        status = board.balancer(node.name) if node.kind is NodeKind.L4 else None
        age_s = board.age(node.name, AgentRole.BALANCER)
        if status is None or age_s is None:
            continue
        of_site = by_site.setdefault(node.site, {})
        for number, probe in status.probes.items():
            of_site.setdefault(number, []).append(Vote(node.name, probe.verdict, probe.detail, probe.since_s + age_s))
    found: dict[int, tuple[Vote, ...]] = {}
    for member in fleet.members if by_site else ():
        configured = configuration.node(member.name)
        own = by_site.get(configured.site, {}).get(member.id) if configured else None
        votes = own or [vote for of_site in by_site.values() for vote in of_site.get(member.id, ())]
        if votes:
            found[member.id] = tuple(votes)
    return found


def losses_that_count(health: MemberHealth, wall: float) -> int:
    """Of the member's losses, halved for each quiet while."""
    if health.lost_at is None:
        return 0
    quiet = max(0, int((wall - health.lost_at) // QUIET_S))
    return health.losses >> min(quiet, len(HOLDS_S))


def forgiven(health: MemberHealth) -> MemberHealth:
    """The same without losses, if these keep it out: it comes back as soon as a majority sees it healthy. Who asks for
    that has mended the cause, which probes cannot know.
    """
    if health.healthy or health.losses == 0:
        return health
    return health.model_copy(update={"losses": 0, "lost_at": None})


def hold_s(health: MemberHealth, wall: float) -> float:
    """Seconds for which the member must be healthy before it comes back."""
    losses = losses_that_count(health, wall)
    return HOLDS_S[min(losses, len(HOLDS_S)) - 1] if losses else 0.0


def held_for_s(health: MemberHealth, votes: Iterable[Vote], wall: float) -> float | None:
    """Seconds until the member comes back if nothing changes; None while no majority sees it healthy."""
    votes = tuple(votes)
    healthy_for = sorted((vote.for_s for vote in votes if vote.verdict is ProbeVerdict.HEALTHY), reverse=True)
    needed = majority(votes)
    if health.healthy or not votes or len(healthy_for) < needed:
        return None
    return max(0.0, hold_s(health, wall) - healthy_for[needed - 1])


def majority(votes: tuple[Vote, ...]) -> int:
    """How many of them decide."""
    return len(votes) // 2 + 1


def _slow_starts(configuration: Configuration) -> Mapping[str, float]:
    """By node: the longest of its pools."""
    found: dict[str, float] = {}
    for pool in configuration.pools:
        for node in pool.weights:
            found[node] = max(found.get(node, 0.0), pool.slow_start_s)
    return found


def _judged(
    member: FleetMember,
    votes: tuple[Vote, ...],
    *,
    is_probed: bool,
    serves: bool,
    slow_start_s: float,
    wall: float,
) -> FleetMember:
    if not is_probed:
        health, reachable = MemberHealth(), True
    else:
        health, reachable = member.health, member.reachable
        if votes:
            health = _healed_or_lost(member, votes, serves=serves, slow_start_s=slow_start_s, wall=wall)
            reachable = _is_reachable(member, health, votes, serves=serves, wall=wall)
        health = _with_share(health, serves=serves, slow_start_s=slow_start_s, wall=wall)
    if health == member.health and reachable == member.reachable:
        return member
    return member.model_copy(update={"health": health, "reachable": reachable})


def _healed_or_lost(
    member: FleetMember, votes: tuple[Vote, ...], *, serves: bool, slow_start_s: float, wall: float
) -> MemberHealth:
    health, needed = member.health, majority(votes)
    healthy = sum(vote.verdict is ProbeVerdict.HEALTHY for vote in votes)
    if health.healthy and len(votes) - healthy >= needed and _may_be_lost(health, serves):
        lost: dict[str, object] = {"healthy": False, "share_since": None}
        if health.seen_healthy and member.state is MemberState.ACTIVE:
            losses = min(losses_that_count(health, wall) + 1, len(HOLDS_S))
            share = SHARES[0] if slow_start_s else SHARES[-1]
            lost |= {"losses": losses, "lost_at": wall, "share": share}
        return health.model_copy(update=lost)
    if healthy < needed:
        return health
    came_back = health.healthy or held_for_s(health, votes, wall) == 0.0
    if came_back and not (health.healthy and health.seen_healthy):
        return health.model_copy(update={"healthy": True, "seen_healthy": True})
    return health


def _may_be_lost(health: MemberHealth, serves: bool) -> bool:
    return health.seen_healthy or not serves


def _is_reachable(
    member: FleetMember, health: MemberHealth, votes: tuple[Vote, ...], *, serves: bool, wall: float
) -> bool:
    needed = majority(votes)
    if member.reachable:
        lost = sum(vote.verdict is ProbeVerdict.UNREACHABLE for vote in votes) >= needed
        return not (lost and _may_be_lost(health, serves))
    hold = min(hold_s(health, wall), MAX_REACHABLE_HOLD_S)
    return sum(vote.verdict is not ProbeVerdict.UNREACHABLE and vote.for_s >= hold for vote in votes) >= needed


def _with_share(health: MemberHealth, *, serves: bool, slow_start_s: float, wall: float) -> MemberHealth:
    """The next step of a slow start, if it is due. The steps are counted from when it is given new flows again."""
    if health.share == SHARES[-1] or not health.healthy:
        return health
    if not slow_start_s:
        return health.model_copy(update={"share": SHARES[-1], "share_since": None})
    if not serves:
        return health if health.share_since is None else health.model_copy(update={"share_since": None})
    if health.share_since is None:
        return health.model_copy(update={"share_since": wall})
    if wall - health.share_since < slow_start_s / (len(SHARES) - 1):
        return health
    share = next(step for step in SHARES if step > health.share)
    return health.model_copy(update={"share": share, "share_since": None if share == SHARES[-1] else wall})
