"""Waiting for what other processes do: bounded, and over at once when one of them dies."""

from collections.abc import Awaitable, Callable
from typing import Final

import trio

from orchestrator.lab import processes
from orchestrator.lab.errors import LabError
from orchestrator.lab.lab import Lab

#: Seconds between two looks. Short against what is waited for, long against what a look costs.
LOOK_INTERVAL_S: Final = 0.1

#: Last lines of a log that an error quotes.
QUOTED_LINES: Final = 12


async def until(lab: Lab, what: str, look: Callable[[], str | None], timeout_s: float) -> None:
    """Looks until nothing is missing: `look` says what is, or None. It runs in a thread, so it may run commands.

    Raises LabError when the time is up, with what is missing, or as soon as a process of the lab has ended, with the
    end of its log.
    """
    deadline = trio.current_time() + timeout_s
    while True:
        missing = await trio.to_thread.run_sync(look)
        if missing is None:
            return
        await trio.to_thread.run_sync(check_processes, lab)
        if trio.current_time() > deadline:
            raise LabError(
                f"{what}: {missing}, {timeout_s:.0f} s after it was due to start", hint=f"logs: {lab.root}/hosts"
            )
        await trio.sleep(LOOK_INTERVAL_S)


def check_processes(lab: Lab) -> None:
    """Raises LabError if a process of the lab has ended."""
    for host in lab.topology.everyone:
        for record in processes.read_records(lab.directory(host.name)):
            if not processes.is_alive(record):
                log = lab.log(host.name, record.role)
                tail = "\n".join(f"  {line}" for line in log.read_text(errors="replace").splitlines()[-QUOTED_LINES:])
                raise LabError(f"{record.role} on {host.name} has ended; the end of its log:\n{tail or '  (empty)'}")


async def together(*steps: Callable[[], Awaitable[object]]) -> None:
    """Runs steps side by side. The first LabError ends the others, and comes out by itself instead of in a group."""
    failures: list[LabError] = []

    async def attempt(step: Callable[[], Awaitable[object]]) -> None:
        try:
            await step()
        except LabError as error:
            failures.append(error)
            nursery.cancel_scope.cancel()

    async with trio.open_nursery() as nursery:
        for step in steps:
            nursery.start_soon(attempt, step)
    if failures:
        raise failures[0]
