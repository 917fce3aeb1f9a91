"""What a fault had to break, and what it should not have broken. Times are seconds after the fault."""

import pytest

from orchestrator.lab.chaos.harm import GRACE_S, Harm, harm_of, recover_ms
from orchestrator.lab.chaos.scenario import TakesAway, Timeline
from orchestrator.lab.load.breakage import Breakage
from orchestrator.lab.load.messages import BreakageSeen, SlowSeen

FAULT_AT = 1000.0
DETECTED_S = 0.5
OVER_S = 10.0
HELD = "198.51.100.11:40000"
OTHER = "[2001:db8:51::11]:40001"


@pytest.fixture
def timeline() -> Timeline:
    return Timeline(
        struck_at=FAULT_AT,
        detected_at=FAULT_AT + DETECTED_S,
        over_at=FAULT_AT + OVER_S,
        lost_with_proxy={HELD},
        lost_with_backend=set(),
    )


def broke(connection: str, at: float, *, age_s: float = 0.1, what: str = "download") -> BreakageSeen:
    return BreakageSeen(
        at=FAULT_AT + at,
        what=what,
        how=Breakage.RESET,
        detail="",
        connection=connection,
        target="203.0.113.10:443",
        age_s=age_s,
    )


def test_a_flow_of_a_proxy_that_was_taken_away_is_lost_with_it_and_not_broken(timeline: Timeline) -> None:
    assert harm_of([broke(HELD, 0.01)], timeline, TakesAway.PROXY) == Harm(lost_with_proxy=1)


def test_a_flow_of_a_proxy_that_lives_is_broken_whatever_the_fault(timeline: Timeline) -> None:
    broken = broke(OTHER, 0.01)
    harm = harm_of([broke(HELD, 0.01), broken], timeline, TakesAway.PROXY)
    assert harm == Harm(flows_broken=1, lost_with_proxy=1)
    assert harm.unexcused == [broken], "the one that a result names first"


def test_a_request_that_a_proxy_took_with_it_is_excused(timeline: Timeline) -> None:
    assert harm_of([broke(HELD, 0.01, what="request")], timeline, TakesAway.PROXY) == Harm(requests_excused=1)


def test_a_flow_whose_request_was_with_the_backend_is_lost_with_that(timeline: Timeline) -> None:
    timeline.lost_with_backend.add(OTHER)
    assert harm_of([broke(OTHER, 0.01)], timeline, TakesAway.BACKEND) == Harm(lost_with_backend=1)


@pytest.mark.parametrize(
    ("at", "age_s", "excused"),
    [
        (0.1, 0.05, True),
        (DETECTED_S + GRACE_S + 4.0, 5.0, True),  # it began before, and fell silent
        (DETECTED_S + GRACE_S + 0.2, 0.1, False),
        (-0.1, 0.05, False),
    ],
    ids=["at once", "late end", "late begin", "before the fault"],
)
def test_attempts_may_fail_until_the_fleet_knows(timeline: Timeline, at: float, age_s: float, excused: bool) -> None:
    expected = Harm(not_begun=1) if excused else Harm(flows_broken=1)
    assert harm_of([broke("", at, age_s=age_s)], timeline, TakesAway.PROXY) == expected
    expected = Harm(requests_excused=1) if excused else Harm(requests_broken=1)
    assert harm_of([broke("", at, age_s=age_s, what="request")], timeline, TakesAway.PROXY) == expected


@pytest.mark.parametrize("takes_away", [TakesAway.NOTHING, TakesAway.BACKEND])
def test_no_attempt_may_fail_where_no_proxy_was_taken_away(timeline: Timeline, takes_away: TakesAway) -> None:
    assert harm_of([broke("", 0.1)], timeline, takes_away) == Harm(flows_broken=1)


def test_recovery_is_the_end_of_the_last_harm_between_the_fault_and_its_being_undone(timeline: Timeline) -> None:
    slow = [SlowSeen(at=FAULT_AT + at, connection=OTHER, took_s=1.0) for at in (-0.5, 1.04, OVER_S + 1)]
    assert recover_ms([broke("", 0.4)], slow, timeline) == pytest.approx(1040.0)
    assert recover_ms([broke("", 0.4)], [], timeline) == pytest.approx(400.0)


def test_recovery_does_not_wait_for_flows_that_nothing_brings_back(timeline: Timeline) -> None:
    assert recover_ms([broke(HELD, 5.0)], [], timeline) == 0.0


def test_what_is_no_fault_has_no_recovery() -> None:
    assert recover_ms([broke(OTHER, 1.0)], [], Timeline()) is None
