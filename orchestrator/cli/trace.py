"""`edgectl trace`."""

from ipaddress import ip_address
from typing import TYPE_CHECKING, Any

import click

from orchestrator.cli.failure import ExitCode
from orchestrator.cli.invocation import Invocation, fleet_options

if TYPE_CHECKING:
    from orchestrator.contract.base import Address

Parts = tuple[str, int | None]


def parts_of(text: str) -> Parts:
    """`198.51.100.7`, `198.51.100.7:40000`, `2001:db8::7`, `[2001:db8::7]:40000`, `web-v4`. Raises ValueError."""
    if text.startswith("["):
        host, bracket, port = text[1:].partition("]")
        if not bracket or (port and not port.startswith(":")):
            raise ValueError("what follows a bracket is no port")
        port = port[1:]
    elif text.count(":") == 1:
        host, _, port = text.partition(":")
    else:
        host, port = text, ""
    if not host or (port and not (port.isdecimal() and 0 < int(port) <= 65535)):
        raise ValueError("no host, or no port")
    return host, int(port) if port else None


class Client(click.ParamType["tuple[Address, int | None]"]):
    """ADDRESS, or ADDRESS:PORT."""

    name = "client"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> "tuple[Address, int | None]":
        try:
            host, port = parts_of(str(value))
            return ip_address(host), port
        except ValueError:
            self.fail(f"{value!r} is no client: 198.51.100.7:40000, [2001:db8::7]:40000, or no port", param, ctx)


class VipOrAddress(click.ParamType[Parts]):
    """A VIP's name or address, with a port or without."""

    name = "vip"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Parts:
        try:
            return parts_of(str(value))
        except ValueError:
            self.fail(f"{value!r} is no VIP: web-v4, 203.0.113.10, 203.0.113.10:443, [2001:db8::1]:443", param, ctx)


@click.command(
    epilog="""\b
Examples:
  edgectl trace 198.51.100.7:40000 203.0.113.10:443     an open flow: who has it, and who brought it
  edgectl trace 198.51.100.7 web-v4                     where a new flow of this client would begin
  edgectl trace 198.51.100.7:40000 web-v4 --host www.example.com --path /cart    and on to the backend
  edgectl trace '[2001:db8::7]:40000' web-v6 --json

\b
Nothing is sent. The L4 nodes that announce the VIP rehearse the packet with their own programs, and so do the
proxies on its way (as `edgectl trace-packet`, which takes any packet). Which of them routers choose, nobody
outside a router knows; if the flow is open, its proxy remembers who brought it.
Exit code 1: some node did not answer, nobody announces the VIP, or L4 nodes would differ.
"""
)
@click.argument("client", type=Client(), metavar="CLIENT[:PORT]")
@click.argument("vip", type=VipOrAddress(), metavar="VIP[:PORT]")
@click.option("--protocol", type=click.Choice(["tcp", "udp"]), default="tcp", show_default=True)
@click.option("--host", help="Follow a request for this host, too.")
@click.option("--path", default="/", show_default=True, help="Of that request.")
@fleet_options
def trace(
    invocation: Invocation,
    client: "tuple[Address, int | None]",
    vip: Parts,
    protocol: str,
    host: str | None,
    path: str,
) -> None:
    """Follow a flow of CLIENT to VIP by the live state: routers, L4 node, row, owners, proxy, backend."""
    if not path.startswith("/"):
        raise click.UsageError(f"--path {path!r} does not begin with a slash")
    from orchestrator.cli.fleet_api import call_fleet
    from orchestrator.cli.flow_drawing import drawn
    from orchestrator.cli.flow_tracing import Asked, trace_flow
    from orchestrator.contract.vip import Protocol

    asked = Asked(client[0], client[1], vip[0], vip[1], Protocol(protocol), host, path)
    flow = call_fleet(invocation.credentials(), lambda api: trace_flow(api, asked))
    invocation.terminal.result(flow.as_json(), lambda: drawn(flow))
    if flow.traced.failures or not flow.candidates or not flow.is_agreed:
        raise click.exceptions.Exit(ExitCode.FAILED)  # the drawing, and the object, say which of these
