"""`edgectl drain` and `edgectl undrain`."""

import sys
from typing import TYPE_CHECKING

import click

from orchestrator.cli.failure import CommandFailed, ExitCode, Finding
from orchestrator.cli.invocation import Invocation, NodeName, fleet_options

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from orchestrator.cli.drain_subject import DrainSubject
    from orchestrator.cli.fleet_api import FleetApi
    from orchestrator.contract.operator import DrainView

    Views = tuple[DrainView, ...]

_site_option = click.option("--site", type=NodeName(), metavar="NAME", help="All L4 nodes of this site at once.")


@click.command(
    epilog="""\b
Examples:
  edgectl drain proxy-1                     wait until it is drained, however long its flows live
  edgectl drain proxy-1 --deadline 300      wait five minutes at most, then say what is left (exit code 1)
  edgectl drain proxy-1 --no-wait           begin, and return at once; run it again without --no-wait to watch
  edgectl drain proxy-1 --cancel            active again; nothing broke on the way
  edgectl drain proxy-1 --deadline 300 --force    what is open after five minutes is reset
  edgectl drain l4-1                        routers take the other L4 nodes, then its routes are withdrawn
  edgectl drain --site east                 all L4 nodes of a site
  edgectl drain --site east --go-dark       also if its VIPs are then announced by nobody

\b
Flows of UDP VIPs, and of passthrough VIPs whose members run no redirector, cannot be counted: they are given until the
deadline (drain.uncounted_s of platform.yaml, 300 s, if there is none), and the drain then ends without them.

\b
An L4 node has no flows of its own: others forward them alike. It is drained when it has withdrawn its routes and no
packet comes any more; what comes until then, or after, is forwarded.

\b
The drain is the orchestrator's: Ctrl-C, or a closed laptop, leaves it running.
"""
)
@click.argument("node", type=NodeName(), required=False)
@_site_option
@click.option("--deadline", type=click.FloatRange(0, 30 * 86400, min_open=True), metavar="SECONDS", help="Late after.")
@click.option("--force", is_flag=True, help="RESET the flows still open: at the deadline, or at once without one.")
@click.option("--go-dark", is_flag=True, help="Of L4 nodes: also if VIPs are then announced by nobody.")
@click.option("--yes", is_flag=True, help="With --go-dark: do not ask.")
@click.option("--cancel", is_flag=True, help="Undo a drain that has not ended.")
@click.option("--no-wait", is_flag=True, help="Do not wait until it is drained.")
@fleet_options
def drain(
    invocation: Invocation,
    node: str | None,
    site: str | None,
    deadline: float | None,
    force: bool,
    go_dark: bool,
    yes: bool,
    cancel: bool,
    no_wait: bool,
) -> None:
    """Take NODE out of new flows, and wait until its old ones have ended; of an L4 node, until others have its traffic.
    No flow is broken.

    Refused (exit code 3) if too few members of a pool would stay active, or if nobody else would announce a VIP.
    """
    if cancel and (deadline is not None or force or no_wait or go_dark):
        raise click.UsageError("--cancel goes alone")
    subject = _subject(node, site)
    from orchestrator.cli.drain_watch import DrainWatch
    from orchestrator.cli.fleet_api import call_fleet
    from orchestrator.contract.operator import DrainRequest

    credentials, terminal = invocation.credentials(), invocation.terminal
    if cancel:
        _back_into_service(invocation, subject, subject.cancel, wait=True)
        return
    if go_dark and not yes and sys.stdin.isatty():
        click.confirm(f"{subject}: nobody may announce its VIPs then. Go on?", abort=True, err=True)
    request = DrainRequest(deadline_s=deadline, force=force, go_dark=go_dark)
    if no_wait:
        _tell(invocation, subject, call_fleet(credentials, lambda api: subject.start(api, request)))
        return
    watch = DrainWatch(subject, request, terminal)
    try:
        views = call_fleet(credentials, watch.run)
    except KeyboardInterrupt:
        raise _interrupted(subject, begun=watch.begun) from None
    if any(view.overdue for view in views):
        raise CommandFailed(ExitCode.FAILED, *_overdue(subject, views))
    _tell(invocation, subject, views)


@click.command(
    epilog="""\b
Examples:
  edgectl undrain proxy-1                   and wait until it takes new flows: a second or two
  edgectl undrain proxy-1 --no-wait         it takes them as soon as its agents are ready
  edgectl undrain proxy-3                   the same for one that `edgectl get pools` shows as held
  edgectl undrain l4-1                      and wait until it announces its VIPs again
  edgectl undrain --site east               all L4 nodes of a site
"""
)
@click.argument("node", type=NodeName(), required=False)
@_site_option
@click.option("--no-wait", is_flag=True, help="Do not wait until it takes new flows.")
@fleet_options
def undrain(invocation: Invocation, node: str | None, site: str | None, no_wait: bool) -> None:
    """Give NODE new flows again, after a drain or in the middle of one.

    A proxy is given none before its agents run and have applied what they need for them.

    A proxy that has lost its health several times is held for up to five minutes before it comes back. When you have
    mended the cause, this ends the wait: it comes back as soon as the probes see it healthy.
    """
    subject = _subject(node, site)
    _back_into_service(invocation, subject, subject.undrain, wait=not no_wait)


def _subject(node: str | None, site: str | None) -> "DrainSubject":
    from orchestrator.cli.drain_subject import DrainSubject

    if (node is None) == (site is None):
        raise click.UsageError("name a NODE, or a site with --site")
    return DrainSubject(node or site or "", is_site=site is not None)


def _back_into_service(
    invocation: Invocation, subject: "DrainSubject", change: "Callable[[FleetApi], Awaitable[Views]]", *, wait: bool
) -> None:
    """Ask for it, and wait until all take new flows. Raises CommandFailed if that takes too long."""
    from orchestrator.cli.drain_watch import watch_joining
    from orchestrator.cli.fleet_api import call_fleet
    from orchestrator.contract.node import NodeKind
    from orchestrator.contract.pool import MemberState

    async def ask(api: "FleetApi") -> "Views":
        views = await change(api)
        return await watch_joining(api, subject, views, invocation.terminal) if wait else views

    views = call_fleet(invocation.credentials(), ask)
    late = [view for view in views if view.state is MemberState.JOINING]
    if wait and late:
        raise CommandFailed(
            ExitCode.FAILED,
            *(
                Finding(
                    "joining_late",
                    f"{view.node} {'announces nothing' if view.kind is NodeKind.L4 else 'takes no new flows'} yet: "
                    f"{'; '.join(view.blocked_by)}",
                    hint="it will, by itself, as soon as that is mended; `edgectl status` shows its agents",
                )
                for view in late
            ),
        )
    _tell(invocation, subject, views)


def _tell(invocation: Invocation, subject: "DrainSubject", views: "Views") -> None:
    from rich.text import Text

    from orchestrator.cli.drain_words import in_words

    invocation.terminal.result(subject.as_json(views), lambda: Text("\n".join(map(in_words, views))))


def _overdue(subject: "DrainSubject", views: "Views") -> "list[Finding]":
    from orchestrator.cli.drain_words import left_over
    from orchestrator.contract.node import NodeKind

    command = f"edgectl drain {subject.arguments}"
    return [
        Finding(
            "drain_overdue",
            f"{view.node} is not drained in time: {left_over(view)}; {'; '.join(view.blocked_by)}",
            hint=f"the drain goes on: `{command}` waits on, --cancel undoes it"
            + ("" if view.kind is NodeKind.L4 else ", --force resets flows"),
        )
        for view in views
        if view.overdue
    ]


def _interrupted(subject: "DrainSubject", *, begun: bool) -> CommandFailed:
    if not begun:
        return CommandFailed(
            ExitCode.INTERRUPTED,
            Finding(
                "interrupted",
                f"interrupted before the orchestrator confirmed the drain of {subject}: it may have begun or not",
                hint="`edgectl get drains` tells",
            ),
        )
    command = f"edgectl drain {subject.arguments}"
    return CommandFailed(
        ExitCode.INTERRUPTED,
        Finding(
            "interrupted",
            f"stopped watching; the drain of {subject} goes on",
            hint=f"`{command}` watches again, `{command} --cancel` undoes it",
        ),
    )
