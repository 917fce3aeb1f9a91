"""Scenarios one after another on one lab, each with its own load, and what became of it."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

import trio

from orchestrator.contract.base import Contract
from orchestrator.lab import checks
from orchestrator.lab.chaos.scenario import ChaosView, Scenario, ScenarioResult, Stage, Timeline
from orchestrator.lab.chaos.scenarios import SCENARIOS
from orchestrator.lab.chaos.verdict import result_of
from orchestrator.lab.edgectl import Edgectl
from orchestrator.lab.errors import LabError
from orchestrator.lab.lab import Lab
from orchestrator.lab.lab_load import datagram_plan, load_plan
from orchestrator.lab.load.datagram_process import DatagramProcess, send_datagrams
from orchestrator.lab.load.messages import BreakageSeen, Tick
from orchestrator.lab.load.process import LoadProcess, run_load
from orchestrator.lab.one_run import run_on_lab
from orchestrator.lab.spec import LabSpec
from orchestrator.lab.waiting import until

DEFAULT_FLOWS: Final = 100

#: Bounds of waits that would otherwise never end. A long flow lives 14 s at most.
OPEN_FLOWS_S: Final = 30.0
LOAD_END_S: Final = 40.0
WHOLE_AGAIN_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class ChaosOptions:
    """What `edgectl lab chaos` was asked for."""

    spec: LabSpec
    only: tuple[str, ...] = ()
    """Names of scenarios; none means all."""
    flows: int = DEFAULT_FLOWS
    keep: bool = False
    replace: bool = False


class ChaosResult(Contract):
    """All scenarios that were run."""

    scenarios: dict[str, ScenarioResult]
    seconds: float = 0.0

    @property
    def holds(self) -> bool:
        return all(result.holds for result in self.scenarios.values())


async def run_chaos(options: ChaosOptions, view: ChaosView) -> ChaosResult:
    """The scenarios, on labs of their own: those that need a second site come last, on one that has.

    Takes the labs down in every case but `keep`, which leaves the last.

    Raises LabError if one could not be played, KeyboardInterrupt after Ctrl-C, SIGTERM or a closed terminal.
    """
    chosen = [scenario for scenario in SCENARIOS if not options.only or scenario.name in options.only]
    began = trio.current_time()
    results: dict[str, ScenarioResult] = {}
    sizes = sorted({scenario.sites for scenario in chosen})
    for sites in sizes:
        results |= await run_on_lab(
            options.spec.model_copy(update={"sites": sites}),
            partial(
                play_all,
                scenarios=[scenario for scenario in chosen if scenario.sites == sites],
                flows=options.flows,
                view=view,
            ),
            view,
            keep=options.keep and sites == sizes[-1],
            replace=options.replace,
        )
    return ChaosResult(scenarios=results, seconds=round(trio.current_time() - began, 1))


async def play_all(lab: Lab, scenarios: Sequence[Scenario], flows: int, view: ChaosView) -> dict[str, ScenarioResult]:
    """On a lab that is up; it is whole again before each next one."""
    results = {}
    for scenario in scenarios:
        view.event(f"{scenario.name}: {scenario.about}")
        try:
            results[scenario.name] = await play_one(lab, scenario, flows, view)
        except* LabError as errors:
            # What could not be played is no verdict on the others.
            results[scenario.name] = unplayed(errors)
            await make_whole(lab)
    return results


async def play_one(lab: Lab, scenario: Scenario, flows: int, view: ChaosView) -> ScenarioResult:
    """One scenario under its own load."""

    def told(message: Tick | BreakageSeen) -> None:
        if isinstance(message, Tick):
            view.tick(message)
        else:
            view.broken(message)

    began = trio.current_time()
    timeline = Timeline()
    async with trio.open_nursery() as nursery:
        plan = load_plan(lab, flows, scenario.requests_per_second)
        load: LoadProcess = await nursery.start(run_load, lab.topology.client.namespace, plan, told)
        await load.until(
            lambda tick: tick.open_flows >= flows, within_s=OPEN_FLOWS_S, waiting_for=f"{flows} open long flows"
        )
        datagrams: DatagramProcess = await nursery.start(
            send_datagrams, lab.topology.client.namespace, datagram_plan(lab)
        )
        figures = await scenario.play(Stage(lab, Edgectl(lab.operator), load, view, timeline))
        timeline.over()
        await make_whole(lab)
        seen = await datagrams.finish()
        await load.finish()
        last = await load.until(lambda tick: tick.finished, within_s=LOAD_END_S, waiting_for="end of the load")
    result = result_of(scenario, timeline, last, load, seen, figures)
    return result.model_copy(update={"seconds": round(trio.current_time() - began, 1)})


def unplayed(errors: BaseExceptionGroup[LabError]) -> ScenarioResult:
    """Of a scenario that could not be brought about, or whose fault nobody noticed."""
    first: BaseException = errors
    while isinstance(first, BaseExceptionGroup):
        first = first.exceptions[0]
    return ScenarioResult(complaints=(str(first),))


async def make_whole(lab: Lab) -> None:
    """Links healed, everything running, up to date and in service. Raises LabError if that does not come about."""
    await trio.to_thread.run_sync(lab.mend)
    await until(lab, "the fleet to be whole again", lambda: checks.agents_are_up_to_date(lab), WHOLE_AGAIN_S)
    await until(lab, "all members in service", lambda: checks.members_serve(lab), WHOLE_AGAIN_S)
    await until(lab, "the router's routes", lambda: checks.routes_are_complete(lab), WHOLE_AGAIN_S)
