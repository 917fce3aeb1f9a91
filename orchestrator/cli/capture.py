"""`edgectl capture`."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from orchestrator.cli.failure import CommandFailed, ExitCode
from orchestrator.cli.invocation import Invocation, NodeName, fleet_options

if TYPE_CHECKING:
    from rich.text import Text

    from orchestrator.cli.capturing import CaptureRun

#: As in `orchestrator.contract.inquiry`, which takes longer to import than `edgectl --help` may; a test compares.
DEFAULT_SNAP_LENGTH = 256
MAX_SNAP_LENGTH = 2048
MAX_SECONDS = 600
MAX_PACKETS = 1_000_000
MAX_SAMPLE = 1_000_000

#: What a look at a misbehaving flow takes; longer on request.
DEFAULT_SECONDS = 60.0
DEFAULT_PACKETS = 1000

_UNITS = {"": 1.0, "ms": 0.001, "s": 1.0, "m": 60.0}


class Duration(click.ParamType[float]):
    """ "10s", "2m", "500ms", or seconds. In seconds."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        match = re.fullmatch(r"(\d+(?:\.\d+)?)(ms|s|m|)", str(value))
        seconds = float(match[1]) * _UNITS[match[2]] if match else 0.0
        if not 0 < seconds <= MAX_SECONDS:
            self.fail(f"{value!r} is no time up to {MAX_SECONDS} s, such as 10s or 2m", param, ctx)
        return seconds


@click.command(
    epilog="""\b
Examples:
  edgectl capture web-v4                       a line for each packet, until 1000 came, or for a minute
  edgectl capture web-v4 --drops-only          only what is dropped, each with the counter that says why
  edgectl capture web-v4 -w web.pcapng --for 10s --count 100000
  edgectl capture web-v4 -w - | tcpdump -nn -r -
  edgectl capture web-v4 --node l4-1 --snap-length 2048 --sample 100 -w whole.pcapng

\b
Packets are shown as they leave the balancer: forwarded ones in their encapsulation, others as they arrived. Each has a
comment in the file (Wireshark shows it; tshark: -e frame.comment): "forwarded to proxy-1, row 123, then proxy-2".
Ctrl-C leaves a whole file. The nodes stop by themselves, whatever happens to this command or to the orchestrator.

\b
What packets hold is other people's. The file is readable by you alone (mode 0600), and the orchestrator logs who asked.
"""
)
@click.argument("vip", type=NodeName())
@click.option("--node", "nodes", type=NodeName(), multiple=True, help="Only on this L4 node; may be given again.")
@click.option(
    "--count", type=click.IntRange(1, MAX_PACKETS), default=DEFAULT_PACKETS, show_default=True, help="Packets at most."
)
@click.option(
    "--for", "seconds", type=Duration(), default=f"{DEFAULT_SECONDS:.0f}s", show_default=True, help="Time at most."
)
@click.option(
    "--snap-length",
    type=click.IntRange(64, MAX_SNAP_LENGTH),
    default=DEFAULT_SNAP_LENGTH,
    show_default=True,
    help="Octets kept of each packet.",
)
@click.option(
    "--sample", type=click.IntRange(1, MAX_SAMPLE), default=1, show_default=True, help="One packet in so many."
)
@click.option("--drops-only", is_flag=True, help="Only packets that are dropped.")
@click.option("-w", "--write", "file", metavar="FILE", help="Write pcapng here; - for stdout.")
@fleet_options
def capture(
    invocation: Invocation,
    vip: str,
    nodes: tuple[str, ...],
    count: int,
    seconds: float,
    snap_length: int,
    sample: int,
    drops_only: bool,
    file: str | None,
) -> None:
    """Show or write the packets of VIP as they leave the L4 nodes, merged in order of time."""
    terminal = invocation.terminal
    if file == "-" and terminal.as_json:
        raise click.UsageError("stdout cannot hold both the capture and --json: give -w a file")
    from orchestrator.cli.capture_sinks import Sink, open_sink
    from orchestrator.cli.capturing import CaptureRun
    from orchestrator.cli.fleet_api import call_fleet
    from orchestrator.cli.steps import Steps
    from orchestrator.contract.inquiry import Capture

    question = Capture(
        vip=vip, seconds=seconds, packets=count, snap_length=snap_length, sample=sample, drops_only=drops_only
    )
    credentials = invocation.credentials()
    sink: Sink
    with open_sink(file, snap_length, quiet=terminal.as_json) as sink, Steps(terminal, f"capturing {vip}") as steps:

        def show(run: "CaptureRun") -> None:
            sink.flush()
            if sink.is_silent:
                steps.step(in_words(run), min(1.0, run.taken / count))

        run = CaptureRun(question, sink.take, show)
        call_fleet(credentials, lambda api: run.run(api, nodes))
        for node, counted in run.counts.items():
            sink.end(node, counted.until_ns, counted.packets, counted.lost)
    for failure in run.failures.values():
        terminal.note(f"{failure.message}" + (f" ({failure.hint})" if failure.hint else ""))
    if run.counts and run.failures.keys() == run.counts.keys() and not run.taken:
        raise CommandFailed(ExitCode.FAILED, *run.failures.values())
    content = {
        "vip": vip,
        "file": file,
        "packets": run.taken,
        "interrupted": run.interrupted,
        "nodes": {node: {"packets": one.packets, "lost": one.lost} for node, one in run.counts.items()},
        "failures": {node: failure.message for node, failure in run.failures.items()},
    }
    if terminal.as_json or file not in (None, "-"):
        terminal.result(content, lambda: drawn(run, file))
    else:
        terminal.note(in_words(run))


def in_words(run: "CaptureRun") -> str:
    """How far a capture has come."""
    parts = [
        f"{node} {one.packets}" + (f" ({one.lost} lost: the node's buffer was full)" if one.lost else "")
        for node, one in run.counts.items()
    ]
    return f"{run.taken} packets" + (f": {', '.join(parts)}" if parts else "; no L4 node reports")


def drawn(run: "CaptureRun", file: str | None) -> "Text":
    from rich.text import Text

    path = Path(file or "")
    return Text(f"{in_words(run)}\n{path}: readable by you alone (mode 0600); it holds what clients sent")
