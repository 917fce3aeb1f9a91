"""`edgectl restart`."""

from typing import TYPE_CHECKING, Any

import click

from orchestrator.cli.failure import CommandFailed, ExitCode, Finding
from orchestrator.cli.invocation import Invocation, NodeName, fleet_options

if TYPE_CHECKING:
    from rich.text import Text

    from orchestrator.cli.restarting import Restarted


@click.command(
    epilog="""\b
Examples:
  edgectl restart proxy-1              a new incarnation of the code that is installed there
  edgectl restart proxy-1 --wait       and wait until the old one has ended
  edgectl restart --all                every proxy, one after another; the first failure ends it
  edgectl restart --all --grace 60     what is open a minute later is reset

\b
At three in the morning:
  It is safe to try. No connection is refused and no request broken: the new incarnation takes the listening sockets
  over, and only when all its workers accept, the old one says its goodbyes and ends with its last connection.
  "did not come into service": the new one failed, and the old one serves on as if nothing was. Its log says why.
  "leaves still": the incarnation before has connections yet. There is never more than one: wait, or see --grace.
  In a hurry, with connections that hang: `edgectl drain NODE` first moves new flows to other proxies.

\b
Ctrl-C leaves a restart that has begun running; `edgectl status` shows what came of it. On the node itself, SIGHUP to
`edge-l7 run` (`systemctl reload edge-l7`) does the same, without an orchestrator.
"""
)
@click.argument("nodes", type=NodeName(), nargs=-1, metavar="[NODE]...")
@click.option("--all", "every", is_flag=True, help="Every proxy of the fleet, one after another.")
@click.option("--wait", is_flag=True, help="Wait until the old incarnation of each has ended, before the next.")
@click.option(
    "--grace",
    "grace_s",
    type=click.FloatRange(0, 86400),
    metavar="SECONDS",
    help="For the old incarnation's connections, instead of the node's --restart-grace; then they are RESET.",
)
@fleet_options
def restart(invocation: Invocation, nodes: tuple[str, ...], every: bool, wait: bool, grace_s: float | None) -> None:
    """Restart proxies without a refused connection or a broken request: for a new release, or a new start.

    Refused before anything is restarted if a node is unknown, no proxy, silent, or in the middle of a drain.
    """
    if bool(nodes) == every:
        raise click.UsageError("name NODEs, or say --all")
    from orchestrator.cli.fleet_api import call_fleet
    from orchestrator.cli.restarting import Restarting

    restarting = Restarting(nodes, invocation.terminal, grace_s=grace_s, wait=wait)
    try:
        done = call_fleet(invocation.credentials(), restarting.run)
    except KeyboardInterrupt:
        raise CommandFailed(ExitCode.INTERRUPTED, _interrupted(restarting.under_way)) from None
    invocation.terminal.result(_as_json(done), lambda: _drawn(done))


def _interrupted(under_way: str | None) -> Finding:
    if under_way is None:
        return Finding("interrupted", "interrupted; no restart is under way")
    return Finding(
        "interrupted",
        f"stopped watching; the restart of {under_way} may go on",
        hint="`edgectl status` shows what came of it",
    )


def _as_json(done: "tuple[Restarted, ...]") -> "dict[str, Any]":
    return {
        "restarted": [
            {"node": one.node, "incarnation": one.incarnation, "took_s": one.took_s, "old_has_ended": one.old_has_ended}
            for one in done
        ]
    }


def _drawn(done: "tuple[Restarted, ...]") -> "Text":
    from rich.text import Text

    return Text("\n".join(f"{one.node} restarted: incarnation {one.incarnation} is in service" for one in done))
