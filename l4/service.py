"""The command line of `edge-l4`: two agents, and how to take what they leave in the kernel off again."""

import functools
import logging
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import click
import trio

from l4 import vips as loopback
from l4.agent_process import Joining, Task, run_to_the_end
from l4.attachment import XdpMode
from l4.balancer import BalancerAgent
from l4.balancer_program import BalancerProgram
from l4.bird import Bird
from l4.capabilities import NotPermitted, effective_capabilities, require_capabilities
from l4.checks.check import Place
from l4.checks.command import doctor
from l4.direct_return import DirectReturnError, stop_advertising_tunnel_mss
from l4.host_plan_command import vips
from l4.interface import InterfaceError, look_up_interface
from l4.metrics import balancer_metrics, exposition, redirector_metrics
from l4.metrics_server import serve_metrics
from l4.probes.keeping import keep_probing
from l4.probes.program import ProbeProgram
from l4.program_error import ProgramError
from l4.redirector import RedirectorAgent
from l4.redirector_program import RedirectorProgram
from l4.reload import NotReloaded, ask_for_reload
from l4.respondents import BalancerRespondent, RedirectorRespondent
from l4.sole_agent import AnotherAgentRuns, sole_agent
from orchestrator.contract.logs import hush_requests
from orchestrator.contract.node import AgentRole
from orchestrator.contract.state_directory import StateDirectory

#: Seconds between withdrawing the VIPs and taking the program off. Routers drop a withdrawn route within milliseconds;
#: packets on their way to this node take no longer than this.
WITHDRAWAL_S = 1.0

Decorated = Callable[..., Any]


class _Endpoint(click.ParamType[tuple[str, int]]):
    """ADDRESS:PORT, with an IPv6 address in brackets."""

    name = "address:port"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, int]:
        host, colon, port = value.rpartition(":")
        if not (colon and host and port.isdecimal() and int(port) < 65536):
            self.fail(f"{value!r} is not ADDRESS:PORT, such as 127.0.0.1:9101 or [::1]:9101", param, ctx)
        return host.removeprefix("[").removesuffix("]"), int(port)


def _run_options(command: Decorated) -> Decorated:
    """What both agents take."""
    directory = click.Path(path_type=Path, file_okay=False, resolve_path=True)
    options = [
        click.option("--state", type=directory, required=True, help="Identity and last good snapshot are kept here."),
        _interface_option,
        _bpffs_option,
        click.option(
            "--xdp-mode",
            type=click.Choice([mode.value for mode in XdpMode]),
            default=XdpMode.AUTO.value,
            show_default=True,
            help="native: in the driver. generic: works everywhere, slower. auto: generic if native is refused.",
        ),
        click.option("--metrics", type=_Endpoint(), help="Serve Prometheus metrics here. Off by default."),
        click.option("--orchestrator", metavar="https://ADDRESS:PORT", help="Join there, at the first start."),
        click.option(
            "--token-file",
            type=click.Path(path_type=Path, dir_okay=False, resolve_path=True),
            help="Holds the join token.",
        ),
        click.option("--node", metavar="NAME", help="The name that the configuration gives this host."),
    ]
    return functools.reduce(lambda decorated, option: option(decorated), reversed(options), command)


_interface_option = click.option(
    "--interface", required=True, metavar="NAME", help="The interface that traffic arrives on."
)
_bpffs_option = click.option(
    "--bpffs",
    type=click.Path(path_type=Path, file_okay=False, resolve_path=True, readable=False),
    default=Path("/sys/fs/bpf"),
    show_default=True,
    help="A mounted BPF file system, in which the maps outlive the agent.",
)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
def main() -> None:
    """Tier 1 of the edge: the XDP balancer on L4 nodes, the XDP redirector on proxy hosts.

    The agents only feed what runs in the kernel: stopping one stops no traffic, and starting it again changes nothing
    for traffic. `detach` takes the kernel part off as well.
    """
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    hush_requests()


@main.group()
def balancer() -> None:
    """On an L4 node: forwards VIP traffic to the proxies, and announces the VIPs by BGP."""


@main.group()
def redirector() -> None:
    """On a proxy host: takes the balancers' packets in, or passes them on to the flow's earlier owner."""


main.add_command(doctor)
main.add_command(vips)


@balancer.command("run")
@_run_options
@click.option(
    "--bird-dir",
    type=click.Path(path_type=Path, file_okay=False, resolve_path=True),
    default=Path("/run/edgefleet/bird"),
    show_default=True,
    help="BIRD's configuration, control socket and log. A BIRD that answers there is used, else one is started.",
)
def run_balancer(
    *,
    state: Path,
    interface: str,
    bpffs: Path,
    xdp_mode: str,
    metrics: tuple[str, int] | None,
    bird_dir: Path,
    **joining: Any,
) -> None:
    """Run the balancer agent until SIGTERM or SIGINT; the kernel and BIRD go on without it.

    \b
    First start:   edge-l4 balancer run --state DIR --interface eth0 \\
                     --orchestrator https://ADDRESS:7443 --token-file FILE --node NAME
    Later starts:  edge-l4 balancer run --state DIR --interface eth0
    No orchestrator? It runs on the last good snapshot in DIR/snapshot.json, for as long as it takes.
    """
    bird, mode, kept = Bird(bird_dir), XdpMode(xdp_mode), StateDirectory(state)
    agent = BalancerAgent(interface=interface, bpffs=bpffs, xdp_mode=mode, bird=bird)
    place = Place(AgentRole.BALANCER, interface, bpffs, kept, mode, bird)

    async def expose() -> bytes:
        return exposition(await balancer_metrics(agent))

    tasks: list[Task] = [agent.keep_announcing, bird.keep_running, functools.partial(keep_probing, agent, interface)]
    if metrics is not None:
        tasks.append(functools.partial(serve_metrics, *metrics, expose))
    respondent = BalancerRespondent(agent, interface, place)
    run_to_the_end(AgentRole.BALANCER, agent, respondent, kept, interface, Joining(**joining), tasks)


@redirector.command("run")
@_run_options
def run_redirector(
    *, state: Path, interface: str, bpffs: Path, xdp_mode: str, metrics: tuple[str, int] | None, **joining: Any
) -> None:
    """Run the redirector agent until SIGTERM or SIGINT; the kernel goes on without it.

    \b
    First start:   edge-l4 redirector run --state DIR --interface eth0 \\
                     --orchestrator https://ADDRESS:7443 --token-file FILE --node NAME
    Later starts:  edge-l4 redirector run --state DIR --interface eth0
    No orchestrator? It runs on the last good snapshot in DIR/snapshot.json, for as long as it takes.
    """
    mode, kept = XdpMode(xdp_mode), StateDirectory(state)
    agent = RedirectorAgent(interface=interface, bpffs=bpffs, xdp_mode=mode)
    place = Place(AgentRole.REDIRECTOR, interface, bpffs, kept, mode)

    async def expose() -> bytes:
        return exposition(await redirector_metrics(agent))

    tasks: list[Task] = [agent.keep_in_order]
    if metrics is not None:
        tasks.append(functools.partial(serve_metrics, *metrics, expose))
    respondent = RedirectorRespondent(agent, interface, place)
    run_to_the_end(AgentRole.REDIRECTOR, agent, respondent, kept, interface, Joining(**joining), tasks)


@balancer.command("reload")
@_interface_option
def reload_balancer(*, interface: str) -> None:
    """Have the running agent load its kernel program anew, in place of the running one. No packet is lost.

    For after a change of the program's sources or of kernel headers. SIGHUP to the agent does the same.
    """
    _reload(AgentRole.BALANCER, interface)


@redirector.command("reload")
@_interface_option
def reload_redirector(*, interface: str) -> None:
    """Have the running agent load its kernel program anew, in place of the running one. No packet is lost.

    For after a change of the program's sources or of kernel headers. SIGHUP to the agent does the same.
    """
    _reload(AgentRole.REDIRECTOR, interface)


def _reload(role: AgentRole, interface: str) -> None:
    try:
        click.echo(ask_for_reload(role, interface))
    except NotReloaded as error:
        raise click.ClickException(str(error)) from error


@balancer.command("detach")
@_interface_option
@_bpffs_option
def detach_balancer(*, interface: str, bpffs: Path) -> None:
    """Withdraw this node's VIPs, then take the balancer and its maps out of the kernel. Stop the agent first.

    The other L4 nodes take its flows over: none breaks. BIRD runs on, with nothing to announce.
    """

    async def detach() -> None:
        loopback.reconcile(())
        await trio.sleep(WITHDRAWAL_S)
        was_attached = BalancerProgram.detach(interface)
        ProbeProgram.detach(interface)
        BalancerProgram.remove_pins(bpffs)
        click.echo(f"{interface}: balancer {'taken off' if was_attached else 'was not attached'}, maps removed")

    _detach(AgentRole.BALANCER, interface, detach)


@redirector.command("detach")
@_interface_option
@_bpffs_option
def detach_redirector(*, interface: str, bpffs: Path) -> None:
    """Take VIPs, redirector and maps off this host. Stop the agent first, and drain the host before that.

    Flows that this host still holds break, and so do those that it passes on to others.
    """

    async def detach() -> None:
        loopback.reconcile(())
        stop_advertising_tunnel_mss(look_up_interface(interface))
        was_attached = RedirectorProgram.detach(interface)
        RedirectorProgram.remove_pins(bpffs)
        click.echo(f"{interface}: redirector {'taken off' if was_attached else 'was not attached'}, maps removed")

    _detach(AgentRole.REDIRECTOR, interface, detach)


def _detach(role: AgentRole, interface: str, detach: Callable[[], Awaitable[None]]) -> None:
    try:
        require_capabilities(effective_capabilities())
        with sole_agent(role, interface):
            trio.run(detach)
    except (
        NotPermitted,
        AnotherAgentRuns,
        ProgramError,
        InterfaceError,
        DirectReturnError,
        loopback.VipError,
        OSError,
    ) as error:
        raise click.ClickException(str(error)) from error
