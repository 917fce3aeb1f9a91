"""Thousands of changes on a lab under load, one after another; and what they left behind."""

from collections import Counter
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from random import Random
from typing import Final, Protocol

import trio

from orchestrator.contract import operator, operator_guard
from orchestrator.contract.base import Contract
from orchestrator.contract.guard import Verdict
from orchestrator.lab import checks, configuration
from orchestrator.lab.errors import LabError
from orchestrator.lab.lab import Lab
from orchestrator.lab.lab_load import load_plan
from orchestrator.lab.load.messages import BreakageSeen, Tick
from orchestrator.lab.load.process import LoadProcess, run_load
from orchestrator.lab.one_run import run_on_lab
from orchestrator.lab.operator_api import OperatorApi, Refused
from orchestrator.lab.soak import accounts
from orchestrator.lab.soak.accounts import Account
from orchestrator.lab.soak.changes import CONFIGURED, Change, Kind, Wish, configured, draw, usual
from orchestrator.lab.spec import LabSpec
from orchestrator.lab.waiting import until

DEFAULT_CHANGES: Final = 10_000
DEFAULT_FLOWS: Final = 60
REQUESTS_PER_SECOND: Final = 10.0

#: Changes before the first account is taken: caches are full by then, and everything has happened once. Half of all if
#: there are fewer.
WARM_UP: Final = 1_000

#: Changes after which all agents must have caught up, so that none is spared by falling behind.
TOGETHER_EVERY: Final = 10

#: Seconds between two lines about the progress.
TELL_S: Final = 10.0

#: Bounds of waits that would otherwise never end. A long flow lives 14 s at most.
OPEN_FLOWS_S: Final = 30.0
LOAD_END_S: Final = 40.0
CAUGHT_UP_S: Final = 60.0
USUAL_S: Final = 120.0

#: Refusals in a row after which nothing can be changed any more, and seconds to wait after one.
MOST_REFUSALS: Final = 600
REFUSED_S: Final = 0.1

#: Breakages that a result names; all are counted.
MAX_NAMED: Final = 20


class SoakView(Protocol):
    """Whoever watches."""

    def step(self, text: str, fraction: float | None) -> None: ...

    def event(self, text: str) -> None: ...

    def tick(self, tick: Tick) -> None: ...

    def broken(self, seen: BreakageSeen) -> None: ...


@dataclass(frozen=True, slots=True)
class SoakOptions:
    """What `edgectl lab soak` was asked for."""

    spec: LabSpec
    changes: int = DEFAULT_CHANGES
    flows: int = DEFAULT_FLOWS
    seed: int = 1
    keep: bool = False
    replace: bool = False


class Accounts(Contract):
    """What an agent held, after the first changes and after all."""

    first: Account
    last: Account


class SoakResult(Contract):
    """What became of the load, and what the agents hold."""

    changes: int
    kinds: dict[Kind, int]
    refused: dict[str, int]
    """Changes that the fleet refused, by the refusal's code; they do not count as changes."""
    warm_up: int
    """Changes before the first account."""
    revisions: int
    """By how many revisions the fleet went on: those that it makes by itself, too."""
    changes_per_s: float
    flows: int
    flows_broken: int
    requests: int
    requests_failed: int
    agents: dict[str, Accounts]
    """By "node/role"."""
    complaints: tuple[str, ...]
    breakages: tuple[BreakageSeen, ...]
    seconds: float

    @property
    def holds(self) -> bool:
        return not self.complaints


async def run_soak(options: SoakOptions, view: SoakView) -> SoakResult:
    """The soak, on a lab of its own. Takes it down in every case but `keep`.

    Raises LabError if it could not be played, KeyboardInterrupt after Ctrl-C, SIGTERM or a closed terminal.
    """
    return await run_on_lab(
        options.spec, lambda lab: soak(lab, options, view), view, keep=options.keep, replace=options.replace
    )


async def soak(lab: Lab, options: SoakOptions, view: SoakView) -> SoakResult:
    """On a lab that is up, and that is then as it came up."""

    def told(message: Tick | BreakageSeen) -> None:
        if isinstance(message, Tick):
            view.tick(message)
        else:
            view.broken(message)

    began = trio.current_time()
    warm_up = min(WARM_UP, options.changes // 2)
    with OperatorApi(lab) as api:
        async with trio.open_nursery() as nursery:
            plan = load_plan(lab, options.flows, REQUESTS_PER_SECOND)
            load: LoadProcess = await nursery.start(run_load, lab.topology.client.namespace, plan, told)
            await load.until(
                lambda tick: tick.open_flows >= options.flows,
                within_s=OPEN_FLOWS_S,
                waiting_for=f"{options.flows} open long flows",
            )
            fleet = _Fleet(lab, api, view, options.changes, Random(options.seed))  # noqa: S311 - a repeatable soak
            revision = (await fleet.status()).revision
            await fleet.change(warm_up)
            first = await fleet.account()
            await fleet.change(options.changes - warm_up)
            last = await fleet.account()
            revisions = (await fleet.status()).revision - revision
            await load.finish()
            tick = await load.until(lambda tick: tick.finished, within_s=LOAD_END_S, waiting_for="end of the load")
    broken = sum(tally.broken for tally in tick.flows.values())
    complaints = [f"{name}: {what}" for name, before in first.items() for what in accounts.growth(before, last[name])]
    if broken:
        complaints.append(f"{broken} flows broke, and no proxy had died")
    if tick.requests.failed:
        complaints.append(f"{tick.requests.failed} requests failed")
    return SoakResult(
        changes=fleet.kinds.total(),
        kinds=dict(fleet.kinds),
        refused=dict(fleet.refused),
        warm_up=warm_up,
        revisions=revisions,
        changes_per_s=round(fleet.kinds.total() / fleet.busy_s, 2) if fleet.busy_s else 0.0,
        flows=sum(tally.begun for tally in tick.flows.values()),
        flows_broken=broken,
        requests=tick.requests.answered + tick.requests.failed,
        requests_failed=tick.requests.failed,
        agents={name: Accounts(first=before, last=last[name]) for name, before in first.items()},
        complaints=tuple(complaints),
        breakages=tuple(load.breakages[:MAX_NAMED]),
        seconds=round(trio.current_time() - began, 1),
    )


@dataclass(slots=True)
class _Fleet:
    """The fleet while it is changed."""

    lab: Lab
    api: OperatorApi
    view: SoakView
    wanted: int
    random: Random
    kinds: Counter[Kind] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    busy_s: float = 0.0
    """Spent on changes, accounts left out."""
    wish: Wish = field(init=False)
    files: dict[str, str] = field(init=False)
    _told_at: float = 0.0

    def __post_init__(self) -> None:
        self.wish = usual([proxy.name for proxy in self.lab.topology.proxies])
        self.files = files_of(self.lab.configuration)

    async def status(self) -> operator.StatusView:
        return await trio.to_thread.run_sync(self.api.status)

    async def change(self, number: int) -> None:
        """So many changes that the fleet accepts. Raises LabError if it accepts none any more."""
        began = trio.current_time()
        before = self.busy_s
        done = in_a_row = 0
        while done < number:
            change = draw(self.random, self.wish)
            try:
                await trio.to_thread.run_sync(self._make, change)
            except Refused as refusal:
                self.refused.update(refusal.codes or (str(refusal.status),))
                in_a_row += 1
                if in_a_row >= MOST_REFUSALS:
                    raise LabError(f"the fleet refuses every change: {refusal}") from refusal
                await trio.sleep(REFUSED_S)
                continue
            in_a_row = 0
            self.wish = change.wish
            self.kinds[change.kind] += 1
            done += 1
            if done % TOGETHER_EVERY == 0:
                await self._together(CAUGHT_UP_S)
            self.busy_s = before + trio.current_time() - began
            self._tell()

    async def account(self) -> dict[str, Account]:
        """What all agents hold, with the fleet as it came up."""
        self.view.event(f"{self.kinds.total()} changes: counting, with the fleet as it came up")
        with trio.move_on_after(USUAL_S):
            while True:
                try:
                    await trio.to_thread.run_sync(self._make_usual)
                    break
                except Refused as refusal:
                    self.refused.update(refusal.codes or (str(refusal.status),))
                    await trio.sleep(REFUSED_S)
        await self._together(USUAL_S)
        return await trio.to_thread.run_sync(accounts.take, self.lab)

    async def _together(self, within_s: float) -> None:
        look = partial(checks.agents_in, self.api.status)
        await until(self.lab, "all agents with the newest revision", look, within_s)

    def _make(self, change: Change) -> None:
        """Raises Refused."""
        match change.kind:
            case kind if kind in CONFIGURED:
                self._apply(change.wish)
            case Kind.DRAIN:
                self.api.post(operator.NODE_DRAIN.format(name=change.what), operator.DrainRequest())
            case Kind.UNDRAIN:
                self.api.post(operator.NODE_UNDRAIN.format(name=change.what))
            case Kind.BLOCK:
                request = operator_guard.ListRequest(verdict=Verdict.BLOCK, prefixes=(change.what,), reason="soak")
                self.api.post(operator_guard.GUARD_LISTS, request)
            case Kind.UNBLOCK:
                self.api.post(operator_guard.GUARD_REMOVALS, operator_guard.RemovalRequest(prefixes=(change.what,)))

    def _make_usual(self) -> None:
        for name in sorted(self.wish.drained):
            self.api.post(operator.NODE_UNDRAIN.format(name=name))
            self.wish.drained.remove(name)
        if self.wish.blocked:
            self.api.post(operator_guard.GUARD_REMOVALS, operator_guard.RemovalRequest(everything=True))
            self.wish.blocked.clear()
        wish = usual([proxy.name for proxy in self.lab.topology.proxies])
        self._apply(wish)
        self.wish = wish

    def _apply(self, wish: Wish) -> None:
        platform = configured(configuration.platform(self.lab.spec, self.lab.topology), wish)
        files = self.files | {"platform.yaml": configuration.yaml_text(platform)}
        self.api.post(operator.CONFIGURATION, operator.ApplyRequest(files=files))

    def _tell(self) -> None:
        now = trio.current_time()
        if now - self._told_at < TELL_S:
            return
        self._told_at = now
        done = self.kinds.total()
        pace = done / self.busy_s if self.busy_s else 0.0
        left_min = (self.wanted - done) / pace / 60 if pace else 0.0
        refusals = f", {self.refused.total()} refused" if self.refused else ""
        self.view.event(f"{done} of {self.wanted} changes, {pace:.1f} a second{refusals}; {left_min:.0f} min left")


def files_of(directory: Path) -> dict[str, str]:
    """A configuration directory as `edgectl apply` sends it."""
    return {
        str(path.relative_to(directory)): path.read_text() for path in sorted(directory.rglob("*")) if path.is_file()
    }
