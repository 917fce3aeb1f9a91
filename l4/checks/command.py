"""`edge-l4 doctor`: the same checkup on a host itself, with or without an agent or an orchestrator."""

import functools
import json
import sys
from pathlib import Path

import click
import trio

from l4.bird import Bird
from l4.checks import checkup
from l4.checks.check import Place, Subject
from orchestrator.contract.checkup import CheckResult, Severity
from orchestrator.contract.node import AgentRole
from orchestrator.contract.snapshot import BalancerSnapshot, RedirectorSnapshot
from orchestrator.contract.state_directory import NotJoined, SnapshotUnreadable, StateDirectory

_MARKS = {Severity.OK: "ok  ", Severity.UNKNOWN: "?   ", Severity.WARNING: "warn", Severity.FAILURE: "FAIL"}
_LABEL_WIDTH = 10


@click.command("doctor")
@click.option("--interface", required=True, metavar="NAME", help="The interface that traffic arrives on.")
@click.option(
    "--state",
    type=click.Path(path_type=Path, file_okay=False, exists=True, resolve_path=True),
    required=True,
    help="The agent's: says who it is, and what this host is to run.",
)
@click.option(
    "--bpffs",
    type=click.Path(path_type=Path, file_okay=False, resolve_path=True, readable=False),
    default=Path("/sys/fs/bpf"),
    show_default=True,
)
@click.option(
    "--bird-dir",
    type=click.Path(path_type=Path, file_okay=False, resolve_path=True),
    default=Path("/run/edgefleet/bird"),
    show_default=True,
)
@click.option("--fix", is_flag=True, help="Run the commands that are safe, and look again.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
def doctor(interface: str, state: Path, bpffs: Path, bird_dir: Path, fix: bool, as_json: bool) -> None:
    """Look at this host for what users of such systems trip over. Needs no orchestrator, and no agent.

    Exit code 0: nothing found. 1: something was found, and what to do stands beside it. What only a comparison
    with other nodes tells (clock, MTU, revision) is for `edgectl doctor`.

    \b
    edge-l4 doctor --state /var/lib/edgefleet/balancer --interface eth0
    edge-l4 doctor --state /var/lib/edgefleet/redirector --interface eth0 --fix
    """
    try:
        subject = _subject(StateDirectory(state), interface, bpffs, bird_dir)
    except NotJoined as error:
        raise click.ClickException(str(error)) from error
    answer = trio.run(functools.partial(checkup.answer, subject, fix=fix))
    findings = [result for result in answer.results if result.is_finding]
    if as_json:
        click.echo(json.dumps({**answer.model_dump(mode="json"), "healthy": not findings}, indent=2))
    else:
        for result in answer.results:
            click.echo(in_words(result))
    sys.exit(1 if findings else 0)


def _subject(state: StateDirectory, interface: str, bpffs: Path, bird_dir: Path) -> Subject:
    """Raises NotJoined."""
    role = state.identity().role
    if role is AgentRole.PROXY:
        raise NotJoined(f"{state.path} is edge-l7's: give the state directory of edge-l4 on this host")
    try:
        snapshot = state.load_snapshot()
    except SnapshotUnreadable:  # of which a check tells
        snapshot = None
    return Subject(
        place=Place(
            role=role,
            interface=interface,
            bpffs=bpffs,
            state=state,
            bird=Bird(bird_dir) if role is AgentRole.BALANCER else None,
        ),
        snapshot=snapshot if isinstance(snapshot, (BalancerSnapshot, RedirectorSnapshot)) else None,
    )


def in_words(result: CheckResult) -> str:
    """A line; of a finding, also what was expected, why it matters, and what to do."""
    lines = [f"{_MARKS[result.severity]}  {result.title}: {result.seen}"]
    if result.mended_by:
        lines[0] += f" (mended by `{result.mended_by}`)"
    if result.is_finding:
        told = {"expected": result.expected, "why": result.why, "mend": result.mend, "to do": result.advice}
        lines += [f"      {label:{_LABEL_WIDTH}}{text}" for label, text in told.items() if text]
    return "\n".join(lines)
