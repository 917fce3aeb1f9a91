"""Watching drains until they have ended: a bar for each node on a terminal, lines elsewhere."""

from types import TracebackType
from typing import Final, Protocol, Self

import trio
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from orchestrator.cli.drain_subject import DrainSubject
from orchestrator.cli.drain_words import in_words, packets
from orchestrator.cli.drawings import flows
from orchestrator.cli.fleet_api import FleetApi
from orchestrator.cli.terminal import Terminal
from orchestrator.contract.backoff import Backoff
from orchestrator.contract.connection import OrchestratorUnreachable
from orchestrator.contract.node import NodeKind
from orchestrator.contract.operator import DrainRequest, DrainView
from orchestrator.contract.pool import MemberState

#: Between two looks at a drain: agents report once a second.
POLL_S: Final = 0.5

#: How long the orchestrators may be away while a drain is watched. An upgrade of theirs takes less.
MAX_AWAY_S: Final = 60.0

#: How long a node may take to join while one waits for it. Its agents apply a snapshot within a second or two.
JOINING_S: Final = 30.0


class Watcher(Protocol):
    """Shows drains while they go on. A context manager."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def show(self, view: DrainView) -> None: ...

    def say(self, text: str) -> None: ...


class DrainWatch:
    """One `edgectl drain`: begins the drain (or takes a running one over), and watches it to its end."""

    def __init__(self, subject: DrainSubject, request: DrainRequest, terminal: Terminal) -> None:
        self._subject = subject
        self._request = request
        self._terminal = terminal
        self.begun = False
        """Whether the orchestrator has confirmed the drain."""

    async def run(self, api: FleetApi) -> tuple[DrainView, ...]:
        """The last views: all drained, or active again (someone cancelled it), or one overdue.

        Raises OrchestratorRefused; OrchestratorUnreachable when nobody answered for `MAX_AWAY_S`.
        """
        views = await self._subject.start(api, self._request)
        self.begun = True
        with watcher(self._terminal) as shown:
            _show(shown, views)
            while _goes_on(views, MemberState.DRAINING) and not any(view.overdue for view in views):
                await trio.sleep(POLL_S)
                views = await _look(api, self._subject, shown)
                _show(shown, views)
        return views


def _show(shown: Watcher, views: tuple[DrainView, ...]) -> None:
    for view in views:
        shown.show(view)


def _goes_on(views: tuple[DrainView, ...], state: MemberState) -> bool:
    return any(view.state is state for view in views)


async def _look(api: FleetApi, subject: DrainSubject, shown: Watcher) -> tuple[DrainView, ...]:
    """Raises OrchestratorUnreachable when nobody answered for `MAX_AWAY_S`."""
    backoff = Backoff()
    away_s = 0.0
    while True:
        try:
            return await subject.look(api)
        except OrchestratorUnreachable as error:
            if away_s >= MAX_AWAY_S:
                raise
            shown.say(f"no orchestrator answers; the change waits in its store, traffic flows on ({error})")
            wait_s = backoff.next_wait_s()
            away_s += wait_s
            await trio.sleep(wait_s)


async def watch_joining(
    api: FleetApi, subject: DrainSubject, views: tuple[DrainView, ...], terminal: Terminal
) -> tuple[DrainView, ...]:
    """The last views of who joins: active, or joining still after `JOINING_S`. Raises as `DrainWatch.run`."""
    until = trio.current_time() + JOINING_S
    with Lines(terminal) as shown:
        while _goes_on(views, MemberState.JOINING) and trio.current_time() < until:
            _show(shown, views)
            await trio.sleep(POLL_S)
            views = await _look(api, subject, shown)
    return views


def watcher(terminal: Terminal) -> Watcher:
    """A bar if stderr is a terminal, else lines."""
    if terminal.err.is_terminal and not terminal.as_json:
        return Bar(terminal)
    return Lines(terminal)


class Bar:
    """A progress bar for each node: of the flows still open, or an L4 node's packets."""

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
        self._tasks: dict[str, TaskID] = {}
        self._most: dict[str, float] = {}

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def show(self, view: DrainView) -> None:
        if view.node not in self._tasks:
            self._tasks[view.node] = self._progress.add_task(f"draining {view.node}", total=None, open="", waits="")
        is_l4 = view.kind is NodeKind.L4
        left = view.packets_per_s if is_l4 else view.flows_open
        left = left if left is not None else self._most.get(view.node, 0)
        # Flows may begin until every L4 node has the new table: the bar is full at the most that were seen.
        most = self._most[view.node] = max(self._most.get(view.node, 0), view.flows_at_start or 0, left)
        self._progress.update(
            self._tasks[view.node],
            total=most or None,
            completed=most - left,
            open=packets(view) if is_l4 else f"{flows(view)} flows open",
            waits="; ".join(view.blocked_by),
        )

    def say(self, text: str) -> None:
        self._progress.console.print(text, style="yellow")


class Lines:
    """A line whenever something changed: for logs, pipes and `--json`."""

    def __init__(self, terminal: Terminal) -> None:
        self._terminal = terminal
        self._last: dict[str, DrainView] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    def show(self, view: DrainView) -> None:
        if view != self._last.get(view.node):
            self._terminal.progress_line(view.model_dump(mode="json"), in_words(view))
        self._last[view.node] = view

    def say(self, text: str) -> None:
        self._terminal.progress_line({"note": text}, text)
