"""The demo as a person sees it: live while it goes on, then tables and a verdict."""

import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from rich import box
from rich.console import Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from orchestrator.cli.drain_words import in_words
from orchestrator.cli.drawings import BAD, GOOD, QUIET, table
from orchestrator.cli.terminal import Terminal
from orchestrator.contract.operator import DrainView
from orchestrator.lab.demo import DemoView
from orchestrator.lab.load.messages import BreakageSeen, FlowTally, Tick
from orchestrator.lab.load.plan import FlowKind
from orchestrator.lab.verdict import DemoResult, Verdict

#: Events that stay in sight.
EVENTS_SHOWN: Final = 12
#: Seconds between two lines about the load where nothing can be drawn.
LINE_S: Final = 5.0
#: Breakages that are told one by one; the result counts all.
BREAKAGES_TOLD: Final = 10


@contextmanager
def demo_view(terminal: Terminal, flows: int) -> Iterator[DemoView]:
    """A live drawing if stderr is a terminal, else lines."""
    if not terminal.err.is_terminal or terminal.as_json:
        yield DemoLines(terminal)
        return
    drawing = DemoDrawing(flows)
    with Live(drawing, console=terminal.err, refresh_per_second=4, transient=True):
        yield drawing


class DemoLines:
    """One line per event, and one about the load now and then."""

    def __init__(self, terminal: Terminal, clock: Callable[[], float] = time.monotonic) -> None:
        self._terminal = terminal
        self._clock = clock
        self._began = clock()
        self._told_at = 0.0
        self._told_step = ""
        self._breakages = 0

    def step(self, text: str, fraction: float | None) -> None:
        if text != self._told_step:
            self._told_step = text
            self._line(text, {"step": text, "fraction": fraction})

    def event(self, text: str) -> None:
        self._line(text, {"event": text})

    def tick(self, tick: Tick) -> None:
        now = self._clock()
        if now - self._told_at >= LINE_S:
            self._told_at = now
            self._line(load_in_words(tick), tick.model_dump(mode="json"))

    def broken(self, seen: BreakageSeen) -> None:
        self._breakages += 1
        if self._breakages <= BREAKAGES_TOLD:
            self._line(f"BROKEN {breakage_in_words(seen)}", seen.model_dump(mode="json"))

    def draining(self, view: DrainView) -> None:
        """The load's lines and the events tell enough."""

    def _line(self, text: str, content: dict[str, object]) -> None:
        seconds = round(self._clock() - self._began, 1)
        self._terminal.progress_line({"seconds": seconds, **content}, f"{seconds:6.1f} s  {text}")


class DemoDrawing:
    """What `Live` draws: events, the drain that is under way, the load."""

    def __init__(self, flows: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._flows = flows
        self._clock = clock
        self._began = clock()
        self._events: deque[Text] = deque(maxlen=EVENTS_SHOWN)
        self._step: tuple[str, float | None] | None = None
        self._tick: Tick | None = None
        self._drain: DrainView | None = None
        self._breakages = 0

    def step(self, text: str, fraction: float | None) -> None:
        self._step = (text, fraction)

    def event(self, text: str) -> None:
        self._step = self._drain = None
        self._events.append(Text.assemble((f"{self._clock() - self._began:6.1f} s  ", QUIET), text))

    def tick(self, tick: Tick) -> None:
        self._tick = tick

    def broken(self, seen: BreakageSeen) -> None:
        self._breakages += 1
        if self._breakages <= BREAKAGES_TOLD:
            self._events.append(Text(f"          broken: {breakage_in_words(seen)}", style=BAD))

    def draining(self, view: DrainView) -> None:
        self._drain = view

    def __rich__(self) -> RenderableType:
        parts: list[RenderableType] = list(self._events)
        if self._step is not None:
            text, fraction = self._step
            parts.append(bar(f"lab: {text}", fraction))
        if self._drain is not None:
            start = max(self._drain.flows_at_start or 0, self._drain.flows_open or 0)
            gone = 1 - (self._drain.flows_open or 0) / start if start else None
            parts.append(bar(in_words(self._drain), gone))
        if self._tick is not None:
            parts.append(kinds(self._tick.flows))
            parts.append(Text(load_in_words(self._tick), style="bold"))
        return Panel(Group(*parts), title="edgefleet demo", title_align="left", box=box.ROUNDED)


def bar(text: str, fraction: float | None) -> RenderableType:
    row = Table.grid(padding=(0, 2))
    total = None if fraction is None else 1.0
    row.add_row(ProgressBar(total=total, completed=fraction or 0.0, width=30, pulse=fraction is None), Text(text))
    return row


def load_in_words(tick: Tick) -> str:
    broken = sum(tally.broken for tally in tick.flows.values())
    return (
        f"{tick.open_flows} long flows open, {broken} broken; "
        f"{tick.requests.answered} short requests answered, {tick.requests.failed} failed; "
        f"slowest answer {tick.slowest_answer_s * 1000:.0f} ms"
    )


def breakage_in_words(seen: BreakageSeen) -> str:
    who = f"{seen.connection} → {seen.target}" if seen.connection else f"→ {seen.target}"
    return f"{seen.what} {seen.how.value} after {seen.age_s:.1f} s: {seen.detail} ({who})"


def kinds(tallies: dict[FlowKind, FlowTally]) -> Table:
    drawn = table(
        "",
        "long flows",
        "open",
        "begun",
        "IPv6",
        "whole",
        "broken",
        "bytes checked",
        "goodbyes",
        "sent again",
        "longest silence",
    )
    drawn.title = None
    for kind, tally in tallies.items():
        drawn.add_row(
            kind.value,
            str(tally.open),
            str(tally.begun),
            str(tally.ipv6),
            str(tally.completed),
            Text(str(tally.broken), style=BAD if tally.broken else GOOD),
            f"{tally.bytes_checked:,}",
            str(tally.goodbyes + tally.closed_idle),
            str(tally.sent_again),
            f"{tally.longest_silence_s:.2f} s",
        )
    return drawn


def drawn(result: DemoResult, verdict: Verdict) -> RenderableType:
    """The end: what became of the flows, what happened to the fleet, what was promised and seen."""
    events = table("", "event", "took", "meanwhile")
    events.title = None
    for drain in result.drains:
        events.add_row(f"drain of {drain.name}", f"{drain.seconds:.1f} s", f"{drain.flows_at_start} flows at its start")
    failover = f"{result.l4_failover_ms:.0f} ms" if result.l4_failover_ms is not None else Text("never", style=BAD)
    slowest = (
        f"slowest answer {result.slowest_answer_after_cut_ms:.0f} ms; before the cut {result.slowest_answer_ms:.0f} ms"
    )
    events.add_row("death of an L4 node, until no flow went there", failover, slowest)
    promises = table("", "promised", "seen", "")
    promises.title = None
    for check in verdict.checks:
        mark = Text("held", style=GOOD) if check.holds else Text("BROKEN", style=BAD)
        promises.add_row(check.promise, check.seen, mark)
    parts: list[RenderableType] = [kinds(result.kinds), events, promises]
    parts.extend(Text(f"broken: {breakage_in_words(seen)}", style=BAD) for seen in result.breakages[:BREAKAGES_TOLD])
    if verdict.holds:
        final = Text(f"All held: nothing broke. {result.seconds:.0f} s.", style=f"bold {GOOD}")
    else:
        final = Text(f"Not all held. {result.seconds:.0f} s.", style=BAD)
        if not result.second_chance:
            final.append(" As it must be: this run had no second chances.", style="not bold default")
    parts.append(Panel(final, box=box.ROUNDED, expand=False))
    return Group(*parts)
