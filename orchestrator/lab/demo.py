"""The demo: two drains and a dead L4 node under load, and what became of the flows.

lab up ─▶ load ─▶ drain proxy-1 ─▶ restart it ─▶ undrain ─▶ drain proxy-2 ─▶ load ends ─▶ lab down
                                                              └─ meanwhile: l4-1 cut off
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

import trio

from orchestrator.contract.node import AgentRole
from orchestrator.contract.operator import DrainView
from orchestrator.lab.agent_counters import counters_of
from orchestrator.lab.edgectl import Edgectl
from orchestrator.lab.errors import LabError
from orchestrator.lab.failover import FailoverWatch, watch_failover
from orchestrator.lab.lab import Lab
from orchestrator.lab.lab_load import load_plan
from orchestrator.lab.load.messages import BreakageSeen, Tick
from orchestrator.lab.load.process import LoadProcess, run_load
from orchestrator.lab.one_run import run_on_lab
from orchestrator.lab.processes import Role
from orchestrator.lab.spec import LabSpec
from orchestrator.lab.topology import VIP_V4, VIP_V6
from orchestrator.lab.verdict import LEAST_REQUESTS, MAX_NAMED, DemoResult, Drained

DEFAULT_FLOWS: Final = 300

#: Short requests per second. With the two drains this makes some 6000 in all, at about a fifth of one core.
REQUESTS_PER_SECOND: Final = 140.0

#: Seconds of load between the events, so that each meets flows that are under way.
SETTLE_S: Final = 2.0

#: How long the second drain goes on before the L4 node dies: balancers have swapped their tables by then, and all of
#: the drained proxy's flows hang on their second chance.
CUT_AFTER_S: Final = 3.0

#: Bounds of waits that would otherwise never end. A long flow lives 14 s at most.
OPEN_FLOWS_S: Final = 30.0
DRAIN_S: Final = 45.0
RESTART_S: Final = 30.0
REQUESTS_S: Final = 30.0
LOAD_END_S: Final = 40.0

#: Without second chances a drain does not end: clients were reset, but not by the host that holds their flows, and it
#: waits for them. So it is given up soon.
HOPELESS_DRAIN_S: Final = 12.0

#: What is drained, and what the events need: the guard leaves two of three proxies, ECMP one of two L4 nodes.
DRAINS: Final = 2
LEAST_PROXIES: Final = 3
LEAST_L4_NODES: Final = 2


@dataclass(frozen=True, slots=True)
class DemoOptions:
    """What `edgectl lab demo` was asked for."""

    spec: LabSpec
    flows: int = DEFAULT_FLOWS
    keep: bool = False
    """Leave the lab up afterwards."""
    replace: bool = False


class DemoView(Protocol):
    """Whoever watches."""

    def step(self, text: str, fraction: float | None) -> None: ...

    def event(self, text: str) -> None: ...

    def tick(self, tick: Tick) -> None: ...

    def broken(self, seen: BreakageSeen) -> None: ...

    def draining(self, view: DrainView) -> None: ...


@dataclass(slots=True)
class Observed:
    """What is gathered on the way."""

    long_flows: list[int] = field(default_factory=list)
    drains: list[Drained] = field(default_factory=list)
    cut_at: float | None = None
    slowest_before_s: float = 0.0
    slowest_after_s: float = 0.0
    longest_lag_s: float = 0.0

    def note_open_flows(self, tick: Tick | None) -> None:
        if tick is not None:
            self.long_flows.append(tick.open_flows)

    def take(self, tick: Tick) -> None:
        self.longest_lag_s = max(self.longest_lag_s, tick.lag_s)
        if self.cut_at is not None and tick.at > self.cut_at:
            self.slowest_after_s = max(self.slowest_after_s, tick.slowest_answer_s)
        else:
            self.slowest_before_s = max(self.slowest_before_s, tick.slowest_answer_s)

    def result(
        self,
        options: "DemoOptions",
        last: Tick,
        breakages: Sequence[BreakageSeen],
        l4_failover_ms: float | None,
        second_chances: int,
    ) -> DemoResult:
        flows = last.flows.values()
        return DemoResult(
            second_chance=options.spec.owners_per_row > 1,
            flows_wanted=options.flows,
            long_flows=min(self.long_flows, default=0),
            ipv6_flows=sum(tally.ipv6 for tally in flows),
            flows_begun=sum(tally.begun for tally in flows),
            flows_completed=sum(tally.completed for tally in flows),
            flows_broken=sum(tally.broken for tally in flows),
            requests=last.requests.answered + last.requests.failed,
            requests_failed=last.requests.failed,
            second_chances=second_chances,
            drains=tuple(self.drains),
            drains_wanted=DRAINS,
            l4_failover_ms=l4_failover_ms,
            slowest_answer_ms=round(self.slowest_before_s * 1000, 1),
            slowest_answer_after_cut_ms=round(self.slowest_after_s * 1000, 1),
            longest_lag_ms=round(self.longest_lag_s * 1000, 1),
            kinds=last.flows,
            breakages=tuple(breakages[:MAX_NAMED]),
            seconds=0.0,
        )


async def run_demo(options: DemoOptions, view: DemoView) -> DemoResult:
    """The whole of it. Takes the lab down in every case but `keep`.

    Raises LabError if it could not be played, KeyboardInterrupt after Ctrl-C, SIGTERM or a closed terminal.
    """
    if options.spec.proxies < LEAST_PROXIES or options.spec.l4_nodes < LEAST_L4_NODES:
        raise LabError(
            f"the demo needs {LEAST_PROXIES} proxies and {LEAST_L4_NODES} L4 nodes at least",
            hint="leave the sizes out",
        )
    began = trio.current_time()
    result = await run_on_lab(
        options.spec, lambda lab: Play(lab, options, view).run(), view, keep=options.keep, replace=options.replace
    )
    return result.model_copy(update={"seconds": round(trio.current_time() - began, 1)})


class Play:
    """The events of the demo, on a lab that is up, and what is observed of them."""

    def __init__(self, lab: Lab, options: DemoOptions, view: DemoView) -> None:
        self._lab = lab
        self._options = options
        self._view = view
        self._edgectl = Edgectl(lab.operator)
        self._victim = lab.topology.l4_nodes[0]
        self._failover = FailoverWatch(
            port=self._victim.name,
            gateways=frozenset(str(interface.ip) for interface in self._victim.addresses),
            vips=frozenset({str(VIP_V4), str(VIP_V6)}),
        )
        self._observed = Observed()

    async def run(self) -> DemoResult:
        """Raises LabError if an event could not be brought about."""
        first, second = self._lab.topology.proxies[:2]
        flows = self._options.flows
        async with trio.open_nursery() as nursery:
            self._view.event(f"load: {flows} long flows, and {REQUESTS_PER_SECOND:g} short requests a second")
            client = self._lab.topology.client.namespace
            load: LoadProcess = await nursery.start(
                run_load, client, load_plan(self._lab, flows, REQUESTS_PER_SECOND), self._told
            )
            await self._settle(load)
            drained = await self._drain(load, first.name)
            await self._restart(first.name, flows_are_lost=not drained)
            self._view.event(f"undrain {first.name}")
            await self._edgectl.undrain(first.name)
            await self._settle(load)
            async with trio.open_nursery() as at_once:
                at_once.start_soon(self._drain, load, second.name)
                await trio.sleep(CUT_AFTER_S)
                await self._cut(load, at_once)
            await load.until(
                lambda tick: tick.requests.answered + tick.requests.failed >= LEAST_REQUESTS,
                within_s=REQUESTS_S,
                waiting_for=f"{LEAST_REQUESTS} short requests",
            )
            self._view.event("end of load: flows that are open run to their end")
            await load.finish()
            last = await load.until(lambda tick: tick.finished, within_s=LOAD_END_S, waiting_for="end of the load")
        chances = await trio.to_thread.run_sync(second_chances, self._lab)
        return self._observed.result(self._options, last, load.breakages, self._failover.milliseconds, chances)

    def _told(self, message: Tick | BreakageSeen) -> None:
        if isinstance(message, Tick):
            self._observed.take(message)
            self._view.tick(message)
        else:
            self._view.broken(message)

    async def _settle(self, load: LoadProcess) -> None:
        flows = self._options.flows
        await load.until(
            lambda tick: tick.open_flows >= flows, within_s=OPEN_FLOWS_S, waiting_for=f"{flows} open long flows"
        )
        await trio.sleep(SETTLE_S)

    async def _drain(self, load: LoadProcess, node: str) -> bool:
        self._view.event(f"drain {node}")
        self._observed.note_open_flows(load.last)
        began = trio.current_time()
        bound_s = DRAIN_S if self._options.spec.owners_per_row > 1 else HOPELESS_DRAIN_S
        with trio.move_on_after(bound_s):
            drained = await self._edgectl.drain(node, self._view.draining)
            seconds = round(trio.current_time() - began, 2)
            self._observed.drains.append(
                Drained(name=node, seconds=seconds, flows_at_start=drained.flows_at_start or 0)
            )
            self._view.event(f"{node} is drained after {seconds:.1f} s")
            return True
        self._view.event(f"{node} is not drained after {bound_s:g} s")
        return False

    async def _restart(self, node: str, *, flows_are_lost: bool) -> None:
        self._view.event(f"restart edge-l7 on {node}")
        if flows_are_lost:
            # Nothing to wait for: it would hold on to flows whose clients were reset by another host.
            await trio.to_thread.run_sync(self._lab.kill_all_of, node, Role.PROXY)
        await trio.to_thread.run_sync(self._lab.restart_process, node, Role.PROXY)
        await self._edgectl.until_reported(node, AgentRole.PROXY, within_s=RESTART_S)

    async def _cut(self, load: LoadProcess, nursery: trio.Nursery) -> None:
        await nursery.start(watch_failover, self._lab.topology.router_of(self._victim).namespace, self._failover)
        self._view.event(f"cut {self._victim.name} off, without a word")
        self._observed.note_open_flows(load.last)
        self._observed.cut_at = time.time()
        await trio.to_thread.run_sync(self._lab.cut_link, self._victim.name)


def second_chances(lab: Lab) -> int:
    """Packets that the redirectors passed on, by their own counters. Raises LabError if one cannot be read."""
    return int(sum(counters_of(host, AgentRole.REDIRECTOR)["second_chance"] for host in lab.topology.proxies))
