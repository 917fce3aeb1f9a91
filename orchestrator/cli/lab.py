"""`edgectl lab`: the fleet on one machine."""

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from orchestrator.cli.failure import CommandFailed, ExitCode, Finding, failed
from orchestrator.cli.invocation import Invocation, LazyGroup, json_option

if TYPE_CHECKING:
    from rich.console import RenderableType

    from orchestrator.lab.lab import Lab, LabStatus

lab = LazyGroup(
    name="lab",
    help="A whole fleet on this machine: every host a network namespace with real processes in it. Needs root.",
    epilog="""\b
Examples:
  edgectl lab up
  edgectl lab exec client -- ping -c1 203.0.113.10
  edgectl lab exec l4-1 -- tcpdump -ni eth0 -c5 udp port 6080
  edgectl lab demo
  edgectl lab down
""",
    no_args_is_help=True,
    lazy={
        "up": ("orchestrator.cli.lab:up", "Make it, and check it end to end."),
        "down": ("orchestrator.cli.lab:down", "Take it down, whatever state it is in."),
        "status": ("orchestrator.cli.lab:status", "What of it is there, and what is not."),
        "exec": ("orchestrator.cli.lab:execute", "Run a command on one of its hosts."),
        "chaos": ("orchestrator.cli.lab_chaos:chaos", "Faults, floods and upgrades under load, with a verdict."),
        "soak": ("orchestrator.cli.lab_soak:soak", "Thousands of changes under load: what breaks, and what grows."),
        "demo": ("orchestrator.cli.lab_demo:demo", "Two drains and a dead L4 node under load, with a verdict."),
    },
)

name_option = click.option("--name", default="edge", show_default=True, help="Which lab, if there are several.")


def size_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Sizes of the lab."""
    for option, default, what in (
        ("--backends", 3, "Hosts with nginx."),
        ("--proxies", 3, "Hosts with edge-l7 and a redirector, at each site."),
        ("--l4-nodes", 2, "Hosts with a balancer, at each site."),
    ):
        command = click.option(option, default=default, show_default=True, type=click.IntRange(1, 16), help=what)(
            command
        )
    return command


@contextmanager
def lab_failures() -> Iterator[None]:
    """A lab's errors, as `edgectl`'s."""
    from orchestrator.lab.errors import LabError

    try:
        yield
    except LabError as error:
        raise failed("lab", str(error), hint=error.hint) from error


def spec_of(options: dict[str, Any]) -> Any:
    """The `LabSpec` of these options. Raises CommandFailed with exit code 2 for sizes that do not go together."""
    from pydantic import ValidationError

    from orchestrator.lab.spec import LabSpec

    try:
        return LabSpec(**options)
    except ValidationError as error:
        findings = (
            Finding("usage", first["msg"], ".".join(map(str, first["loc"])) or None) for first in error.errors()
        )
        raise CommandFailed(ExitCode.USAGE, *findings) from error


@click.command(
    epilog="""\b
Examples:
  edgectl lab up
  edgectl lab up --proxies 5 --l4-nodes 3
  edgectl lab up --sites 2
"""
)
@name_option
@size_options
@click.option("--sites", default=1, show_default=True, type=click.IntRange(1, 2), help="Places; 2: a transit between.")
@click.option("--replace", is_flag=True, help="Take down a lab of that name first.")
@click.option("--keep", is_flag=True, help="If it fails, leave what came up, for a look at its logs.")
@json_option
def up(invocation: Invocation, /, name: str, replace: bool, keep: bool, **sizes: int) -> None:
    """Make a lab: router, L4 nodes, proxies, backends, clients, orchestrator. Each step is checked and shown."""
    import trio

    from orchestrator.cli.steps import Steps
    from orchestrator.lab import lab_up

    spec = spec_of({"name": name, **sizes})
    with lab_failures(), Steps(invocation.terminal, f"lab {name}") as steps:
        made: Lab = trio.run(functools.partial(lab_up, spec, steps.step, replace=replace, keep=keep))
    status = made.status()
    invocation.terminal.result(status_json(made, status), lambda: drawn(made, status))


@click.command()
@name_option
@json_option
def down(invocation: Invocation, name: str) -> None:
    """Take a lab down, whatever state it is in: half built, crashed, killed. Leaves nothing."""
    from rich.text import Text

    from orchestrator.cli.steps import Steps
    from orchestrator.lab import lab_down

    with lab_failures(), Steps(invocation.terminal, f"lab {name}") as steps:
        was_there = lab_down(name, steps.step)
    text = f"lab {name} is gone" if was_there else f"there was no lab {name}"
    invocation.terminal.result({"name": name, "was_there": was_there}, lambda: Text(text))


@click.command(
    epilog="""\b
Examples:
  edgectl lab status
  edgectl lab status --json | jq -r .client_ca

\b
Exit code 1 if a host, a link or a process of it is down.
"""
)
@name_option
@json_option
def status(invocation: Invocation, name: str) -> int:
    """What of a lab is there, and what is not: hosts, links, processes, where its files are."""
    from orchestrator.lab import find_lab

    with lab_failures():
        found = find_lab(name)
        seen = found.status()
    invocation.terminal.result(status_json(found, seen), lambda: drawn(found, seen))
    return ExitCode.OK if seen.healthy else ExitCode.FAILED


@click.command(
    name="exec",
    context_settings={"ignore_unknown_options": True},
    epilog="""\b
Examples:
  edgectl lab exec client -- curl --cacert "$(edgectl lab status --json | jq -r .client_ca)" \\
      --resolve www.example.com:443:203.0.113.10 https://www.example.com/
  edgectl lab exec router -- ip route
""",
)
@name_option
@click.argument("host")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
@click.pass_obj
def execute(_invocation: Invocation, name: str, host: str, command: tuple[str, ...]) -> int:
    """Run COMMAND on HOST of the lab, on this terminal. The exit code is the command's own."""
    from orchestrator.lab import lab_exec

    with lab_failures():
        return lab_exec(name, host, command)


def status_json(found: "Lab", seen: "LabStatus") -> dict[str, Any]:
    """What there is, and where its files are."""
    return seen.model_dump(mode="json") | {
        "healthy": seen.healthy,
        "client_ca": str(found.ca),
        "operator": str(found.operator),
        "configuration": str(found.configuration),
    }


def drawn(found: "Lab", seen: "LabStatus") -> "RenderableType":
    from rich.console import Group
    from rich.text import Text

    from orchestrator.cli.drawings import BAD, GOOD, table

    has_sites = any(host.site for host in seen.hosts)
    hosts = table(
        f"lab {seen.name}", "host", *(("site",) if has_sites else ()), "address", "namespace", "link", "processes"
    )
    for host in seen.hosts:
        processes = Text(", ").join(
            Text(process.role.value, style=GOOD)
            if process.alive and not process.frozen
            else Text(f"{process.role.value} is frozen", style=BAD)
            if process.alive
            else Text(f"{process.role.value} is down: {process.log}", style=BAD)
            for process in host.processes
        )
        link = Text("") if host.connected else Text("cut", style=BAD)
        namespace = Text(host.namespace) if host.exists else Text(f"{host.namespace} is missing", style=BAD)
        site = (host.site,) if has_sites else ()
        hosts.add_row(host.name, *site, str(host.address or ""), namespace, link, processes)
    verdict = Text("all is up", style=GOOD) if seen.healthy else Text("not all of it is up", style=BAD)
    return Group(hosts, verdict, Text(f"files: {seen.root}   CA for clients: {found.ca}", style="dim"))
