"""What operators see of health: who is not given new flows, why, and until when. Pure functions."""

from collections.abc import Iterator
from typing import Any

from orchestrator.config.configuration import ConfiguredPool
from orchestrator.contract.pool import MemberState
from orchestrator.contract.report import MemberProbe, ProbeVerdict
from orchestrator.fleet.document import FleetMember
from orchestrator.fleet.health import Vote, held_for_s, hold_s, losses_that_count, majority, votes_by_member
from orchestrator.fleet.ledger import Present
from orchestrator.fleet.reports import ReportBoard
from orchestrator.fleet.serving import PANIC_BELOW, is_panicking, meant_to_serve


def health_fields(member: FleetMember, votes: tuple[Vote, ...], wall: float) -> dict[str, Any]:
    """Those fields of `MemberView` that are about health."""
    return {
        "healthy": member.health.healthy,
        "share": member.health.share,
        "held_for_s": held_for_s(member.health, votes, wall),
        "losses": losses_that_count(member.health, wall),
        "seen_by": {
            vote.node: MemberProbe(verdict=vote.verdict, detail=vote.detail, since_s=vote.for_s) for vote in votes
        },
    }


def health_warnings(present: Present, board: ReportBoard, wall: float) -> Iterator[str]:
    """Pools that panic, members that are held, and nodes that see what most do not."""
    votes = votes_by_member(present.fleet, present.configuration, board)
    told: set[str] = set()
    for pool in present.configuration.pools:
        meant = meant_to_serve(present.fleet, pool)
        if is_panicking(present.fleet, pool):
            yield _panic(pool, meant)
        for member in meant:
            if member.name not in told:
                told.add(member.name)
                yield from _member(member, votes.get(member.id, ()), wall)


def in_words(member: FleetMember) -> str:
    """For the log: "not healthy, unreachable, lost its health 2 times"."""
    health = member.health
    words = ["healthy" if health.healthy else "not healthy"]
    if not member.reachable:
        words.append("unreachable")
    if health.share < 100:
        words.append(f"{health.share} % of its weight")
    if health.losses:
        words.append(f"lost its health {health.losses} times")
    return ", ".join(words)


def health_obstacles(present: Present, board: ReportBoard, wall: float, member: FleetMember) -> tuple[str, ...]:
    """Why a member's health keeps it from being given new flows, in words; empty if it does not."""
    if member.health.healthy:
        return ()
    votes = votes_by_member(present.fleet, present.configuration, board)
    return tuple(_member(member, votes.get(member.id, ()), wall))


def _panic(pool: ConfiguredPool, meant: tuple[FleetMember, ...]) -> str:
    sick = [member.name for member in meant if not member.health.healthy]
    return (
        f"pool {pool.name} panics: {len(sick)} of {len(meant)} members are not healthy ({_some(sick)}), fewer than "
        f"{PANIC_BELOW:.0%} would be left, so health is ignored; look at what they share, or at the probes themselves"
    )


def _member(member: FleetMember, votes: tuple[Vote, ...], wall: float) -> Iterator[str]:
    health = member.health
    against = [vote for vote in votes if vote.verdict is not ProbeVerdict.HEALTHY]
    if health.healthy:
        if against and len(against) < majority(votes):
            yield f"{member.name} is seen {_seen(against)}, and the other L4 nodes see it healthy"
        elif against and not health.seen_healthy and member.state is MemberState.ACTIVE:
            yield f"{member.name} has never passed its probes ({_seen(against)}): it serves all the same"
        elif len(against) >= majority(votes) and votes:
            yield f"{member.name} is seen {_seen(against)}"
        return
    left_s = held_for_s(health, votes, wall)
    if left_s is not None:
        yield (
            f"{member.name} is healthy again, and held for {left_s:.0f} s more: it lost its health "
            f"{losses_that_count(health, wall)} times lately"
        )
    elif not votes:
        yield f"{member.name} lost its health, and no L4 node that reports probes it any more"
    else:
        hold = hold_s(health, wall)
        after = f"; once healthy, it is held for {hold:.0f} s" if hold else ""
        what = _seen(against) if against else "healthy by too few L4 nodes"
        yield f"{member.name} is not healthy: seen {what}{after}"


def _seen(votes: list[Vote]) -> str:
    """`unreachable by l4-1, l4-2 (no answer within 200 ms)`."""
    worst = max(votes, key=lambda vote: vote.verdict is ProbeVerdict.UNREACHABLE)
    return f"{worst.verdict} by {_some([vote.node for vote in votes])} ({worst.detail})"


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
