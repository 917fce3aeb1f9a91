"""What became of the load in a scenario, held against what it promised."""

from typing import Final

from orchestrator.lab.chaos.harm import REQUEST, Harm, harm_of, recover_ms
from orchestrator.lab.chaos.scenario import Datagrams, Figures, Scenario, ScenarioResult, Timeline
from orchestrator.lab.load.datagrams import DatagramsSeen
from orchestrator.lab.load.messages import BreakageSeen, Tick
from orchestrator.lab.load.process import LoadProcess

#: Breakages that a result names; all are counted.
MAX_NAMED: Final = 20


def result_of(
    scenario: Scenario,
    timeline: Timeline,
    last: Tick,
    load: LoadProcess,
    datagrams: DatagramsSeen,
    figures: Figures,
) -> ScenarioResult:
    """Of the load's last tick and all that it told before."""
    harm = harm_of(load.breakages, timeline, scenario.takes_away)
    untold_flows, untold_requests = _untold(last, load.breakages)
    harm.flows_broken += untold_flows
    harm.requests_broken += untold_requests
    return ScenarioResult(
        flows=sum(tally.begun for tally in last.flows.values()),
        flows_broken=harm.flows_broken,
        flows_lost_with_proxy=harm.lost_with_proxy,
        flows_lost_with_backend=harm.lost_with_backend,
        flows_not_begun=harm.not_begun,
        requests=last.requests.answered + last.requests.failed,
        requests_failed=last.requests.failed,
        detect_ms=timeline.detect_ms,
        recover_ms=recover_ms(load.breakages, load.slow, timeline),
        datagrams=Datagrams(
            sent=datagrams.sent,
            lost=datagrams.lost,
            duplicated=datagrams.duplicated,
            reordered=datagrams.reordered,
            moved=datagrams.moved,
        ),
        figures=figures,
        complaints=tuple(_complaints(scenario, timeline, harm, datagrams, figures)),
        # What should not have broken is named before what was lost with its proxy.
        breakages=(*harm.unexcused, *(seen for seen in load.breakages if seen not in harm.unexcused))[:MAX_NAMED],
        seconds=0.0,
    )


def _untold(last: Tick, told: list[BreakageSeen]) -> tuple[int, int]:
    """Flows and requests that broke and of which nothing but their number is known."""
    requests = sum(seen.what == REQUEST for seen in told)
    broken = sum(tally.broken for tally in last.flows.values())
    return broken - (len(told) - requests), last.requests.failed - requests


def _complaints(
    scenario: Scenario, timeline: Timeline, harm: Harm, datagrams: DatagramsSeen, figures: Figures
) -> list[str]:
    complaints = list(scenario.expect(figures))
    goal_ms = scenario.detect_within_ms
    if timeline.struck_at is not None and timeline.detect_ms is None:
        complaints.append("nobody noticed the fault")
    elif goal_ms is not None and timeline.detect_ms is not None and timeline.detect_ms > goal_ms:
        complaints.append(f"noticed after {timeline.detect_ms:g} ms, not within {goal_ms:g}")
    if harm.flows_broken:
        complaints.append(f"{harm.flows_broken} flows broke")
    if harm.requests_broken:
        complaints.append(f"{harm.requests_broken} requests failed")
    if datagrams.lost and not scenario.may_lose_datagrams:
        complaints.append(f"{datagrams.lost} of {datagrams.sent} datagrams were lost")
    return complaints
