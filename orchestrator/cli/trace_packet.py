"""`edgectl trace-packet`."""

from ipaddress import ip_address
from typing import TYPE_CHECKING, Any

import click

from orchestrator.cli.failure import CommandFailed, ExitCode
from orchestrator.cli.invocation import Invocation, NodeName, fleet_options

if TYPE_CHECKING:
    from orchestrator.contract.base import Address

#: As `TCP_FLAGS` of the contract, which takes longer to import than `edgectl --help` may; a test compares.
FLAGS = "FSRPAU"


class Endpoint(click.ParamType["tuple[Address, int]"]):
    """ADDRESS:PORT, with an IPv6 address in brackets."""

    name = "address:port"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> "tuple[Address, int]":
        host, _, port = str(value).rpartition(":")
        is_port = port.isdecimal() and int(port) <= 65535
        try:
            address = ip_address(host.removeprefix("[").removesuffix("]"))
        except ValueError:
            is_port = False
        if not is_port or (address.version == 6) != host.startswith("["):
            self.fail(f"{value!r} is not ADDRESS:PORT, such as 198.51.100.7:40000 or [2001:db8::7]:40000", param, ctx)
        return address, int(port)


class TcpFlags(click.ParamType[str]):
    """Letters of TCP flags, as tcpdump writes them."""

    name = "flags"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        letters = str(value).upper().replace(".", "A")
        if not set(letters) <= set(FLAGS):
            self.fail(f"{value!r} are no TCP flags: letters of {FLAGS}, such as S, SA, A, PA, FA, R", param, ctx)
        return letters


@click.command(
    "trace-packet",
    epilog="""\b
Examples:
  edgectl trace-packet --src 198.51.100.7:40000 --dst 203.0.113.10:443             where an open flow's packets go
  edgectl trace-packet --src 198.51.100.7:40000 --dst 203.0.113.10:443 --flags S   where it would begin
  edgectl trace-packet --src '[2001:db8::7]:40000' --dst '[2001:db8:203::10]:443' --node l4-1 --json
  edgectl trace-packet --src 198.51.100.7:40000 --dst 203.0.113.10:443 --node proxy-2   has proxy-2 this flow?

\b
Nothing is sent. Each node rehearses the packet with its own program on what its kernel holds now: VIPs, tables,
live bits, limits, sockets. Counters and tables are not touched. What an L4 node would send is then rehearsed by the
proxy that it would reach, and by the next one, as far as second chances go.
""",
)
@click.option("--src", "source", type=Endpoint(), required=True, help="The client's address and port.")
@click.option("--dst", "destination", type=Endpoint(), required=True, help="The VIP's address and port.")
@click.option("--protocol", type=click.Choice(["tcp", "udp"]), default="tcp", show_default=True)
@click.option("--flags", type=TcpFlags(), default="A", show_default=True, help=f"Of TCP: letters of {FLAGS}.")
@click.option("--length", type=click.IntRange(0, 1400), default=0, show_default=True, help="Octets of payload.")
@click.option("--node", "nodes", type=NodeName(), multiple=True, help="Ask this node; may be given again.")
@fleet_options
def trace_packet(
    invocation: Invocation,
    source: "tuple[Address, int]",
    destination: "tuple[Address, int]",
    protocol: str,
    flags: str,
    length: int,
    nodes: tuple[str, ...],
) -> None:
    """Say what would become of a packet: on each L4 node, and on the proxies that it would reach."""
    if source[0].version != destination[0].version:
        raise click.UsageError("--src and --dst are of two families")
    from orchestrator.cli.fleet_api import call_fleet
    from orchestrator.cli.trace_drawing import drawn
    from orchestrator.cli.tracing import trace_everywhere
    from orchestrator.contract.inquiry import Probe
    from orchestrator.contract.vip import Protocol

    probe = Probe(
        source=source[0],
        source_port=source[1],
        destination=destination[0],
        destination_port=destination[1],
        protocol=Protocol(protocol),
        flags=flags if protocol == "tcp" else "",
        length=length,
    )
    traced = call_fleet(invocation.credentials(), lambda api: trace_everywhere(api, probe, nodes))
    if not traced.paths and traced.failures:
        raise CommandFailed(ExitCode.FAILED, *traced.failures.values())
    invocation.terminal.result(traced.as_json(), lambda: drawn(traced))
    if traced.failures:
        raise CommandFailed(ExitCode.FAILED, *traced.failures.values())
