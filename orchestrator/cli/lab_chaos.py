"""`edgectl lab chaos`."""

import functools
from typing import TYPE_CHECKING

import click

from orchestrator.cli.failure import CommandFailed, ExitCode, Finding
from orchestrator.cli.invocation import Invocation, json_option
from orchestrator.cli.lab import lab_failures, name_option, size_options, spec_of

if TYPE_CHECKING:
    from rich.console import RenderableType

    from orchestrator.lab.chaos.run import ChaosResult


@click.command(
    epilog="""\b
Examples:
  edgectl lab chaos
  edgectl lab chaos --only syn-flood
  edgectl lab chaos --json | jq '.scenarios[] | {flows_broken, requests_failed}'

\b
Exit code 0 only if every scenario held. The lab is taken down in every case, also after Ctrl-C.
"""
)
@name_option
@size_options
@click.option("--only", multiple=True, metavar="SCENARIO", help="Run this one; may be given several times.")
@click.option("--list", "list_only", is_flag=True, help="Say which scenarios there are, and do nothing.")
@click.option("--flows", default=100, show_default=True, type=click.IntRange(10, 1500), help="Long flows at once.")
@click.option("--keep", is_flag=True, help="Leave the lab up afterwards, to look around.")
@click.option("--replace", is_flag=True, help="Take down a lab of that name first.")
@json_option
def chaos(
    invocation: Invocation,
    /,
    name: str,
    only: tuple[str, ...],
    list_only: bool,
    flows: int,
    keep: bool,
    replace: bool,
    **sizes: int,
) -> int:
    """Do to a lab what may happen to a fleet, under load, and say what broke.

    Builds a lab; for each scenario puts long flows, short requests and a stream of datagrams on it, over IPv4 and IPv6,
    brings the scenario about, and watches every flow. The lab is whole again before the next.
    """
    import trio

    from orchestrator.cli.demo_view import DemoLines
    from orchestrator.lab.chaos.run import ChaosOptions, run_chaos
    from orchestrator.lab.chaos.scenarios import SCENARIOS

    names = [scenario.name for scenario in SCENARIOS]
    if list_only:
        about = {scenario.name: scenario.about for scenario in SCENARIOS}
        invocation.terminal.result(about, lambda: listed(about))
        return ExitCode.OK
    for wanted in only:
        if wanted not in names:
            hint = f"there are {', '.join(names)}"
            raise CommandFailed(ExitCode.USAGE, Finding("usage", f"there is no scenario {wanted!r}", "--only", hint))
    options = ChaosOptions(spec_of({"name": name, **sizes}), only=only, flows=flows, keep=keep, replace=replace)
    with lab_failures():
        result = trio.run(functools.partial(run_chaos, options, DemoLines(invocation.terminal)))
    content = result.model_dump(mode="json") | {"holds": result.holds}
    invocation.terminal.result(content, lambda: drawn(result))
    return ExitCode.OK if result.holds else ExitCode.FAILED


def listed(about: dict[str, str]) -> "RenderableType":
    from orchestrator.cli.drawings import table

    scenarios = table("", "scenario", "what happens")
    scenarios.title = None
    for name, what in about.items():
        scenarios.add_row(name, what)
    return scenarios


def milliseconds(value: float | None) -> str:
    return "" if value is None else f"{value:.0f} ms"


def drawn(result: "ChaosResult") -> "RenderableType":
    from rich.console import Group
    from rich.text import Text

    from orchestrator.cli.drawings import BAD, GOOD, table

    columns = ("scenario", "flows", "broken", "lost", "requests", "failed", "datagrams", "lost", "detect", "recover")
    scenarios = table("", *columns, "counted", "")
    scenarios.title = None
    for name, seen in result.scenarios.items():
        scenarios.add_row(
            name,
            str(seen.flows),
            Text(str(seen.flows_broken), style=BAD if seen.flows_broken else GOOD),
            str(seen.flows_lost_with_proxy + seen.flows_lost_with_backend),
            str(seen.requests),
            Text(str(seen.requests_failed), style=BAD if seen.requests_failed else GOOD),
            str(seen.datagrams.sent),
            Text(str(seen.datagrams.lost), style=BAD if seen.datagrams.lost else GOOD),
            milliseconds(seen.detect_ms),
            milliseconds(seen.recover_ms),
            ", ".join(f"{what} {count:g}" for what, count in seen.figures.items()),
            Text("held", style=GOOD) if seen.holds else Text("; ".join(seen.complaints), style=BAD),
        )
    words = "All held." if result.holds else "Not all held."
    return Group(scenarios, Text(f"{words} {result.seconds:.0f} s.", style=GOOD if result.holds else BAD))
