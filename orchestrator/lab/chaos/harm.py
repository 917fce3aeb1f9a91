"""What of the harm that the load saw a fault had to do, and what it should not have done.

1. A flow that a proxy held when the fault took the proxy away is lost with it. So is one whose request was with a
   backend that was taken away.
2. An attempt to begin a flow fails if it is given to a proxy that is gone: that may happen until the fleet has acted on
   the fault, and a moment longer (`GRACE_S`). Requests, too.
3. Everything else that breaks is broken.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from orchestrator.lab.chaos.scenario import TakesAway, Timeline
from orchestrator.lab.load.messages import BreakageSeen, SlowSeen

#: Seconds after detection in which something may still fail: what was under way towards a dead proxy.
GRACE_S: Final = 1.0

#: What a breakage of a short request says that it was.
REQUEST: Final = "request"


@dataclass(slots=True)
class Harm:
    """Breakages, told apart."""

    lost_with_proxy: int = 0
    lost_with_backend: int = 0
    not_begun: int = 0
    flows_broken: int = 0
    requests_excused: int = 0
    requests_broken: int = 0
    unexcused: list[BreakageSeen] = field(default_factory=list, compare=False)
    """Of flows and requests."""


def harm_of(breakages: Iterable[BreakageSeen], timeline: Timeline, takes_away: TakesAway) -> Harm:
    """Sorts what was told of; breakages that were only counted are for the caller to add to the broken ones."""
    harm = Harm()
    for seen in breakages:
        is_request = seen.what == REQUEST
        if seen.connection and seen.connection in timeline.lost_with_proxy:
            harm.requests_excused += is_request
            harm.lost_with_proxy += not is_request
        elif seen.connection and seen.connection in timeline.lost_with_backend:
            harm.requests_excused += is_request
            harm.lost_with_backend += not is_request
        elif takes_away is TakesAway.PROXY and not seen.connection and _began_unknowing(seen, timeline):
            harm.requests_excused += is_request
            harm.not_begun += not is_request
        else:
            harm.unexcused.append(seen)
            harm.requests_broken += is_request
            harm.flows_broken += not is_request
    return harm


def _began_unknowing(seen: BreakageSeen, timeline: Timeline) -> bool:
    """Whether it began before the fleet had acted on the fault, and ended after the fault."""
    if timeline.struck_at is None:
        return False
    known_at = timeline.detected_at if timeline.detected_at is not None else timeline.over_at
    return seen.at >= timeline.struck_at and (known_at is None or seen.at - seen.age_s <= known_at + GRACE_S)


def recover_ms(breakages: Iterable[BreakageSeen], slow: Iterable[SlowSeen], timeline: Timeline) -> float | None:
    """From the fault to the end of the last request or attempt that failed or was slow, between the fault and its being
    undone. Flows that were lost with a host are not waited for: nothing brings them back. None without a fault.
    """
    if timeline.struck_at is None:
        return None
    lost = timeline.lost_with_proxy | timeline.lost_with_backend
    harms: list[BreakageSeen | SlowSeen] = [*breakages, *slow]
    ends = [seen.at for seen in harms if seen.connection not in lost]
    over_at = timeline.over_at if timeline.over_at is not None else float("inf")
    last = max((at for at in ends if timeline.struck_at <= at <= over_at), default=timeline.struck_at)
    return round((last - timeline.struck_at) * 1000, 1)
