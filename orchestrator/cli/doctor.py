"""`edgectl doctor`."""

import click

from orchestrator.cli.failure import ExitCode
from orchestrator.cli.invocation import Invocation, NodeName, fleet_options


@click.command(
    epilog="""\b
Examples:
  edgectl doctor                       all nodes
  edgectl doctor proxy-1 l4-2          these two
  edgectl doctor --fix                 run the commands that are safe, and look again
  edgectl doctor --json | jq -r '.findings[] | [.node, .id, .seen, .mend] | @tsv'

\b
Each agent looks at its own host. A finding says what was seen, what was expected, why it matters, and the command
that mends it, to be run on that node. On a node whose agent is silent: `edge-l4 doctor`, there.
Exit code 0: nothing found. 1: findings.
"""
)
@click.argument("nodes", type=NodeName(), nargs=-1, metavar="[NODE]...")
@click.option("--fix", is_flag=True, help="Run the commands of findings that are safe, and look again.")
@click.option("-v", "--verbose", is_flag=True, help="Show every check of every node.")
@fleet_options
def doctor(invocation: Invocation, nodes: tuple[str, ...], fix: bool, verbose: bool) -> None:
    """Look at all nodes, or these, for what users of such systems trip over."""
    from orchestrator.cli.diagnosis import diagnose
    from orchestrator.cli.doctor_drawing import drawn
    from orchestrator.cli.fleet_api import call_fleet

    diagnosis = call_fleet(invocation.credentials(), lambda api: diagnose(api, nodes, fix=fix))
    invocation.terminal.result(diagnosis.as_json(), lambda: drawn(diagnosis, verbose=verbose))
    if diagnosis.findings:
        raise click.exceptions.Exit(ExitCode.FAILED)
