"""A lab for one run: brought up, played on, and taken down in every case, also after Ctrl-C."""

import signal
from collections.abc import Awaitable, Callable
from typing import Protocol, TypeVar

import trio

from orchestrator.lab.errors import LabError
from orchestrator.lab.lab import Lab
from orchestrator.lab.lifecycle import lab_down, lab_up
from orchestrator.lab.spec import LabSpec

T = TypeVar("T")


class RunView(Protocol):
    """Whoever watches."""

    def step(self, text: str, fraction: float | None) -> None: ...

    def event(self, text: str) -> None: ...


async def run_on_lab(
    spec: LabSpec, play: Callable[[Lab], Awaitable[T]], view: RunView, *, keep: bool, replace: bool
) -> T:
    """What `play` returns, of a lab of its own; `keep` leaves it up.

    Raises LabError if it could not be played, KeyboardInterrupt after Ctrl-C, SIGTERM or a closed terminal.
    """
    results: list[T] = []
    interrupted = trio.Event()
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_stop_on_signal, nursery.cancel_scope, interrupted, view)
            results.append(await _up_play_down(spec, play, view, keep=keep, replace=replace))
            nursery.cancel_scope.cancel()
    except BaseExceptionGroup as group:
        if not interrupted.is_set():
            raise _what_matters(group) from None
    if not results:
        # Whatever failed after the signal failed because of it: children of the terminal's group get it too.
        raise KeyboardInterrupt
    return results[0]


async def _up_play_down(
    spec: LabSpec, play: Callable[[Lab], Awaitable[T]], view: RunView, *, keep: bool, replace: bool
) -> T:
    lab = await lab_up(spec, view.step, replace=replace)
    try:
        return await play(lab)
    finally:
        if not keep:
            # Also after Ctrl-C: the lab is gone before the shell is back.
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(lab_down, lab.name, view.step)


async def _stop_on_signal(everything: trio.CancelScope, interrupted: trio.Event, view: RunView) -> None:
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM, signal.SIGHUP) as received:
        async for number in received:
            view.event(f"{signal.Signals(number).name}: stopping, and taking the lab down")
            interrupted.set()
            everything.cancel()


def _what_matters(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The lab's own error, if there is one among the errors of a nursery's tasks."""
    errors: BaseException | None = group.subgroup(LabError)
    while isinstance(errors, BaseExceptionGroup):
        errors = errors.exceptions[0]
    return errors or group
