"""`edgectl lab soak`."""

import functools
from typing import TYPE_CHECKING

import click

from orchestrator.cli.failure import ExitCode
from orchestrator.cli.invocation import Invocation, json_option
from orchestrator.cli.lab import lab_failures, name_option, size_options, spec_of

if TYPE_CHECKING:
    from rich.console import RenderableType

    from orchestrator.lab.soak.run import SoakResult


@click.command(
    epilog="""\b
Examples:
  edgectl lab soak                        10,000 changes: most of an hour
  edgectl lab soak --changes 500
  edgectl lab soak --json | jq '.agents'

\b
Exit code 0 only if no flow broke and no agent grew. The lab is taken down in every case, also after Ctrl-C.
"""
)
@name_option
@size_options
@click.option("--changes", default=10_000, show_default=True, type=click.IntRange(20), help="Changes of the fleet.")
@click.option("--flows", default=60, show_default=True, type=click.IntRange(10, 1500), help="Long flows at once.")
@click.option("--seed", default=1, show_default=True, help="Of the random changes: the same again.")
@click.option("--keep", is_flag=True, help="Leave the lab up afterwards, to look around.")
@click.option("--replace", is_flag=True, help="Take down a lab of that name first.")
@json_option
def soak(
    invocation: Invocation,
    /,
    name: str,
    changes: int,
    flows: int,
    seed: int,
    keep: bool,
    replace: bool,
    **sizes: int,
) -> int:
    """Change a fleet thousands of times, at random and under load, and say what broke and what has grown.

    Weights, members and VIPs that come and go, drains, guard entries. What each agent holds of memory, files and map
    entries is counted after the first thousand changes and at the end, and may not have grown by more than 5 %.
    """
    import trio

    from orchestrator.cli.demo_view import DemoLines
    from orchestrator.lab.soak.run import SoakOptions, run_soak

    spec = spec_of({"name": name, **sizes, "min_active": 1})
    options = SoakOptions(spec, changes=changes, flows=flows, seed=seed, keep=keep, replace=replace)
    with lab_failures():
        result: SoakResult = trio.run(functools.partial(run_soak, options, DemoLines(invocation.terminal)))
    content = result.model_dump(mode="json") | {"holds": result.holds}
    invocation.terminal.result(content, lambda: drawn(result))
    return ExitCode.OK if result.holds else ExitCode.FAILED


def drawn(result: "SoakResult") -> "RenderableType":
    from rich.console import Group
    from rich.text import Text

    from orchestrator.cli.drawings import BAD, GOOD, table

    agents = table("", "agent", "memory", "", "files", "", "map entries", "")
    agents.title = None
    for name, seen in result.agents.items():
        first, last = seen.first, seen.last
        agents.add_row(
            name,
            f"{first.resident_kib / 1024:.1f} MiB",
            f"{last.resident_kib / 1024:.1f} MiB",
            *(str(number) for number in (first.descriptors, last.descriptors, first.map_entries, last.map_entries)),
        )
    refused = f", {sum(result.refused.values())} refused" if result.refused else ""
    words = (
        f"{result.changes} changes, {result.changes_per_s:g} a second{refused}; each pair: after {result.warm_up}, "
        f"and after all. {result.flows_broken} of {result.flows} flows broke, "
        f"{result.requests_failed} of {result.requests} requests failed. {result.seconds:.0f} s."
    )
    complaints = [Text(complaint, style=BAD) for complaint in result.complaints]
    return Group(agents, Text(words, style=GOOD if result.holds else BAD), *complaints)
