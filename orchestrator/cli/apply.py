"""`edgectl apply`."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from orchestrator.cli.invocation import Invocation, fleet_options

if TYPE_CHECKING:
    from rich.console import RenderableType

    from orchestrator.contract.operator import Applied


@click.command(
    epilog="""\b
Examples:
  edgectl apply /etc/edgefleet/edge
  edgectl apply edge --json | jq .version

\b
What is refused is refused as a whole, with file, line and column; the running configuration stays.
Applying the same files again changes nothing.
"""
)
@click.argument("directory", type=click.Path(exists=True, file_okay=False, path_type=Path), metavar="DIR")
@fleet_options
def apply(invocation: Invocation, directory: Path) -> None:
    """Make the files under DIR the fleet's configuration: platform.yaml, teams/<team>/*.yaml, and their PEM files."""
    from orchestrator.cli.configuration_directory import read_directory
    from orchestrator.cli.fleet_api import call_fleet
    from orchestrator.contract.operator import ApplyRequest

    request = ApplyRequest(files=read_directory(directory))
    applied = call_fleet(invocation.credentials(), lambda api: api.apply(request))
    invocation.terminal.result(applied.model_dump(mode="json"), lambda: drawn(applied))


def drawn(applied: "Applied") -> "RenderableType":
    from rich.text import Text

    if not applied.changed:
        return Text(f"nothing to do: revision {applied.version} runs by these files already")
    lines = Text(f"applied as revision {applied.version}", style="green")
    for line in applied.summary:
        lines.append(f"\n  {line}", style="default")
    return lines
