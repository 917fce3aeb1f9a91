"""`edgectl drain` and `edgectl undrain`."""

from typing import TYPE_CHECKING

import click

from orchestrator.cli.failure import CommandFailed, ExitCode, Finding
from orchestrator.cli.invocation import Invocation, NodeName, fleet_options

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from orchestrator.cli.fleet_api import FleetApi
    from orchestrator.contract.operator import DrainView


@click.command(
    epilog="""\b
Examples:
  edgectl drain proxy-1                     wait until it is drained, however long its flows live
  edgectl drain proxy-1 --deadline 300      wait five minutes at most, then say what is left (exit code 1)
  edgectl drain proxy-1 --no-wait           begin, and return at once; run it again without --no-wait to watch
  edgectl drain proxy-1 --cancel            active again; nothing broke on the way
  edgectl drain proxy-1 --deadline 300 --force    what is open after five minutes is reset

\b
Flows of UDP VIPs, and of passthrough VIPs whose members run no redirector, cannot be counted: they are given until the
deadline (drain.uncounted_s of platform.yaml, 300 s, if there is none), and the drain then ends without them.

\b
The drain is the orchestrator's: Ctrl-C, or a closed laptop, leaves it running.
"""
)
@click.argument("node", type=NodeName())
@click.option("--deadline", type=click.FloatRange(0, 30 * 86400, min_open=True), metavar="SECONDS", help="Late after.")
@click.option("--force", is_flag=True, help="RESET the flows still open: at the deadline, or at once without one.")
@click.option("--cancel", is_flag=True, help="Undo a drain that has not ended.")
@click.option("--no-wait", is_flag=True, help="Do not wait until it is drained.")
@fleet_options
def drain(invocation: Invocation, node: str, deadline: float | None, force: bool, cancel: bool, no_wait: bool) -> None:
    """Take proxy NODE out of new flows, and wait until its old ones have ended. No flow is broken.

    Refused (exit code 3) if too few members of a pool would stay active.
    """
    if cancel and (deadline is not None or force or no_wait):
        raise click.UsageError("--cancel goes alone")
    from orchestrator.cli.drain_watch import DrainWatch
    from orchestrator.cli.fleet_api import call_fleet
    from orchestrator.contract.operator import DrainRequest

    credentials, terminal = invocation.credentials(), invocation.terminal
    if cancel:
        _back_into_service(invocation, node, lambda api: api.cancel_drain(node), wait=True)
        return
    request = DrainRequest(deadline_s=deadline, force=force)
    if no_wait:
        _tell(invocation, call_fleet(credentials, lambda api: api.drain(node, request)))
        return
    watch = DrainWatch(node, request, terminal)
    try:
        view = call_fleet(credentials, watch.run)
    except KeyboardInterrupt:
        raise _interrupted(node, begun=watch.begun) from None
    if view.overdue:
        left = f"{view.flows_open} flows are open still" if view.flows_open is not None else "flows are open still"
        raise CommandFailed(
            ExitCode.FAILED,
            Finding(
                "drain_overdue",
                f"{node} is not drained in time: {left}; {'; '.join(view.blocked_by)}",
                hint=f"the drain goes on: `edgectl drain {node}` waits on, --cancel undoes it, --force resets flows",
            ),
        )
    _tell(invocation, view)


@click.command(
    epilog="""\b
Examples:
  edgectl undrain proxy-1                   and wait until it takes new flows: a second or two
  edgectl undrain proxy-1 --no-wait         it takes them as soon as its agents are ready
"""
)
@click.argument("node", type=NodeName())
@click.option("--no-wait", is_flag=True, help="Do not wait until it takes new flows.")
@fleet_options
def undrain(invocation: Invocation, node: str, no_wait: bool) -> None:
    """Give proxy NODE new flows again, after a drain or in the middle of one.

    It is given none before its agents run and have applied what they need for them.
    """
    _back_into_service(invocation, node, lambda api: api.undrain(node), wait=not no_wait)


def _back_into_service(
    invocation: Invocation, node: str, change: "Callable[[FleetApi], Awaitable[DrainView]]", *, wait: bool
) -> None:
    """Ask for it, and wait until the node takes new flows. Raises CommandFailed if that takes too long."""
    from orchestrator.cli.drain_watch import watch_joining
    from orchestrator.cli.fleet_api import call_fleet
    from orchestrator.contract.pool import MemberState

    async def ask(api: "FleetApi") -> "DrainView":
        view = await change(api)
        return await watch_joining(api, view, invocation.terminal) if wait else view

    view = call_fleet(invocation.credentials(), ask)
    if wait and view.state is MemberState.JOINING:
        raise CommandFailed(
            ExitCode.FAILED,
            Finding(
                "joining_late",
                f"{node} takes no new flows yet: {'; '.join(view.blocked_by)}",
                hint="it will, by itself, as soon as that is mended; `edgectl status` shows its agents",
            ),
        )
    _tell(invocation, view)


def _tell(invocation: Invocation, view: "DrainView") -> None:
    from rich.text import Text

    from orchestrator.cli.drain_watch import in_words, seconds_taken

    content = view.model_dump(mode="json") | {"seconds": seconds_taken(view)}
    invocation.terminal.result(content, lambda: Text(in_words(view)))


def _interrupted(node: str, *, begun: bool) -> CommandFailed:
    if not begun:
        return CommandFailed(
            ExitCode.INTERRUPTED,
            Finding(
                "interrupted",
                f"interrupted before the orchestrator confirmed the drain of {node}: it may have begun or not",
                hint="`edgectl get drains` tells",
            ),
        )
    return CommandFailed(
        ExitCode.INTERRUPTED,
        Finding(
            "interrupted",
            f"stopped watching; the drain of {node} goes on",
            hint=f"`edgectl drain {node}` watches again, `edgectl drain {node} --cancel` undoes it",
        ),
    )
