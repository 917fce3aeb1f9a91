"""The demo's verdict fails when a promise was broken, and when the run was too easy to count."""

import pytest

from orchestrator.lab.load.messages import FlowTally
from orchestrator.lab.load.plan import FlowKind
from orchestrator.lab.verdict import LEAST_REQUESTS, DemoResult, Drained, judge


def result(**changes: object) -> DemoResult:
    """A run in which all held."""
    values: dict[str, object] = {
        "second_chance": True,
        "flows_wanted": 300,
        "long_flows": 331,
        "ipv6_flows": 400,
        "flows_begun": 800,
        "flows_completed": 800,
        "flows_broken": 0,
        "requests": LEAST_REQUESTS,
        "requests_failed": 0,
        "second_chances": 1234,
        "drains": (
            Drained(name="proxy-1", seconds=15.0, flows_at_start=120),
            Drained(name="proxy-2", seconds=14.0, flows_at_start=118),
        ),
        "drains_wanted": 2,
        "l4_failover_ms": 130.0,
        "slowest_answer_ms": 20.0,
        "slowest_answer_after_cut_ms": 410.0,
        "longest_lag_ms": 3.0,
        "kinds": {FlowKind.DOWNLOAD: FlowTally()},
        "breakages": (),
        "seconds": 80.0,
    }
    return DemoResult.model_validate(values | changes)


def test_a_whole_run_holds() -> None:
    verdict = judge(result())
    assert verdict.holds
    assert all(check.holds for check in verdict.checks)


@pytest.mark.parametrize(
    "changes",
    [
        {"flows_broken": 1},
        {"requests_failed": 1},
        {"second_chances": 0},
        {"long_flows": 299},
        {"ipv6_flows": 0},
        {"requests": LEAST_REQUESTS - 1},
        {"l4_failover_ms": None},
        {"drains": (Drained(name="proxy-1", seconds=15.0, flows_at_start=120),)},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_each_promise_is_checked_by_itself(changes: dict[str, object]) -> None:
    verdict = judge(result(**changes))
    assert not verdict.holds
    assert sum(not check.holds for check in verdict.checks) == 1


def test_the_verdict_says_what_was_seen() -> None:
    failed = [check for check in judge(result(flows_broken=7)).checks if not check.holds]
    assert [check.seen for check in failed] == ["7 of 800 broken"]
