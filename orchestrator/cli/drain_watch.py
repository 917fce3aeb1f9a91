"""Watching a drain until it has ended: a bar of open flows on a terminal, lines elsewhere."""

from types import TracebackType
from typing import Final, Protocol, Self

import trio
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from orchestrator.cli.drawings import flows
from orchestrator.cli.fleet_api import FleetApi
from orchestrator.cli.terminal import Terminal
from orchestrator.contract.backoff import Backoff
from orchestrator.contract.connection import OrchestratorUnreachable
from orchestrator.contract.operator import DrainRequest, DrainView
from orchestrator.contract.pool import MemberState

#: Between two looks at a drain: agents report once a second.
POLL_S: Final = 0.5

#: How long the orchestrators may be away while a drain is watched. An upgrade of theirs takes less.
MAX_AWAY_S: Final = 60.0

#: How long a member may take to join while one waits for it. Its agents apply a snapshot within a second or two.
JOINING_S: Final = 30.0


class Watcher(Protocol):
    """Shows a drain while it goes on. A context manager."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def show(self, view: DrainView) -> None: ...

    def say(self, text: str) -> None: ...


class DrainWatch:
    """One `edgectl drain`: begins the drain (or takes a running one over), and watches it to its end."""

    def __init__(self, node: str, request: DrainRequest, terminal: Terminal) -> None:
        self._node = node
        self._request = request
        self._terminal = terminal
        self.begun = False
        """Whether the orchestrator has confirmed the drain."""

    async def run(self, api: FleetApi) -> DrainView:
        """The drain's last view: drained, active again (someone cancelled it), or overdue.

        Raises OrchestratorRefused; OrchestratorUnreachable when nobody answered for `MAX_AWAY_S`.
        """
        view = await api.drain(self._node, self._request)
        self.begun = True
        with watcher(self._terminal) as shown:
            shown.show(view)
            while view.state is MemberState.DRAINING and not view.overdue:
                await trio.sleep(POLL_S)
                view = await _look(api, self._node, shown)
                shown.show(view)
        return view


async def _look(api: FleetApi, node: str, shown: Watcher) -> DrainView:
    """Raises OrchestratorUnreachable when nobody answered for `MAX_AWAY_S`."""
    backoff = Backoff()
    away_s = 0.0
    while True:
        try:
            return await api.drain_view(node)
        except OrchestratorUnreachable as error:
            if away_s >= MAX_AWAY_S:
                raise
            shown.say(f"no orchestrator answers; the change waits in its store, traffic flows on ({error})")
            wait_s = backoff.next_wait_s()
            away_s += wait_s
            await trio.sleep(wait_s)


async def watch_joining(api: FleetApi, view: DrainView, terminal: Terminal) -> DrainView:
    """The last view of a member that joins: active, or joining still after `JOINING_S`. Raises as `DrainWatch.run`."""
    until = trio.current_time() + JOINING_S
    with Lines(terminal) as shown:
        while view.state is MemberState.JOINING and trio.current_time() < until:
            shown.show(view)
            await trio.sleep(POLL_S)
            view = await _look(api, view.node, shown)
    return view


def watcher(terminal: Terminal) -> Watcher:
    """A bar if stderr is a terminal, else lines."""
    if terminal.err.is_terminal and not terminal.as_json:
        return Bar(terminal)
    return Lines(terminal)


class Bar:
    """A progress bar that counts the flows still open."""

    def __init__(self, terminal: Terminal) -> None:
        self._progress = Progress(
            TextColumn("{task.description}", style="bold", markup=False),
            BarColumn(),
            TextColumn("{task.fields[open]}", markup=False),
            TimeElapsedColumn(),
            TextColumn("{task.fields[waits]}", style="dim", markup=False),
            console=terminal.err,
            transient=True,
        )
        self._task: TaskID | None = None
        self._most = 0

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def show(self, view: DrainView) -> None:
        if self._task is None:
            self._task = self._progress.add_task(f"draining {view.node}", total=None, open="", waits="")
        open_now = view.flows_open if view.flows_open is not None else self._most
        # Flows may begin until every L4 node has the new table: the bar is full at the most that were seen.
        self._most = max(self._most, view.flows_at_start or 0, open_now)
        self._progress.update(
            self._task,
            total=self._most or None,
            completed=self._most - open_now,
            open=f"{flows(view)} flows open",
            waits="; ".join(view.blocked_by),
        )

    def say(self, text: str) -> None:
        self._progress.console.print(text, style="yellow")


class Lines:
    """A line whenever something changed: for logs, pipes and `--json`."""

    def __init__(self, terminal: Terminal) -> None:
        self._terminal = terminal
        self._last: DrainView | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    def show(self, view: DrainView) -> None:
        if view != self._last:
            self._terminal.progress_line(view.model_dump(mode="json"), in_words(view))
        self._last = view

    def say(self, text: str) -> None:
        self._terminal.progress_line({"note": text}, text)


def seconds_taken(view: DrainView) -> float | None:
    """How long the drain took; None while it goes on."""
    if view.started_at is None or view.drained_at is None:
        return None
    return round(view.drained_at - view.started_at, 3)


def in_words(view: DrainView) -> str:
    """Where a drain stands, in one line."""
    match view.state:
        case MemberState.JOINING:
            waits = f" ({'; '.join(view.blocked_by)})" if view.blocked_by else ""
            return f"{view.node} is joining: it takes new flows as soon as its agents are ready{waits}"
        case MemberState.ACTIVE:
            return f"{view.node} is active: it takes new flows"
        case MemberState.DRAINED:
            taken = seconds_taken(view)
            after = f" after {taken:.1f} s" if taken is not None else ""
            start = f"; {view.flows_at_start} flows were open at the start" if view.flows_at_start is not None else ""
            unseen = f"; flows of {', '.join(view.uncounted)} cannot be counted" if view.uncounted else ""
            return f"{view.node} is drained{after}{start}{unseen}"
        case MemberState.DRAINING:
            waits = f"; not drained, since {'; '.join(view.blocked_by)}" if view.blocked_by else ""
            return f"{view.node} is draining: {flows(view)} flows open{waits}"
