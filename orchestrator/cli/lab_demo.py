"""`edgectl lab demo`."""

import functools
from typing import TYPE_CHECKING

import click

from orchestrator.cli.failure import ExitCode
from orchestrator.cli.invocation import Invocation, json_option
from orchestrator.cli.lab import lab_failures, name_option, size_options, spec_of

if TYPE_CHECKING:
    from orchestrator.lab.verdict import DemoResult


@click.command(
    epilog="""\b
Examples:
  edgectl lab demo
  edgectl lab demo --json | jq '{flows_broken, requests_failed, second_chances, l4_failover_ms}'
  edgectl lab demo --no-second-chance      what would break without: exits 1

\b
Exit code 0 only if every promise held. The lab is taken down in every case, also after Ctrl-C.
"""
)
@name_option
@size_options
@click.option("--flows", default=300, show_default=True, type=click.IntRange(10, 1500), help="Long flows at once.")
@click.option("--no-second-chance", is_flag=True, help="Cut owner chains to their first owner, to see flows break.")
@click.option("--keep", is_flag=True, help="Leave the lab up afterwards, to look around.")
@click.option("--replace", is_flag=True, help="Take down a lab of that name first.")
@json_option
def demo(
    invocation: Invocation,
    /,
    name: str,
    flows: int,
    no_second_chance: bool,
    keep: bool,
    replace: bool,
    **sizes: int,
) -> int:
    """Drain and restart a proxy, then drain another while an L4 node dies: all under load, with a verdict.

    Builds a lab, puts long flows of several kinds and a steady rate of short requests on it, over IPv4 and IPv6, and
    watches every one of them for resets, truncation, corruption and silence. About ninety seconds.
    """
    import trio

    from orchestrator.cli.demo_view import demo_view, drawn
    from orchestrator.lab.demo import DemoOptions, run_demo
    from orchestrator.lab.verdict import judge

    owners = {"owners_per_row": 1} if no_second_chance else {}
    options = DemoOptions(spec=spec_of({"name": name, **sizes, **owners}), flows=flows, keep=keep, replace=replace)
    with lab_failures(), demo_view(invocation.terminal, flows) as view:
        result: DemoResult = trio.run(functools.partial(run_demo, options, view))
    verdict = judge(result)
    content = result.model_dump(mode="json") | verdict.model_dump(mode="json")
    invocation.terminal.result(content, lambda: drawn(result, verdict))
    return ExitCode.OK if verdict.holds else ExitCode.FAILED
