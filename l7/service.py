"""`edge-l7`: the command line of a proxy host."""

import logging
import signal
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import click
import trio

from l7 import limits
from l7.handover import HandoverRefused, Purpose
from l7.incarnation import Incarnation
from l7.keeper import Keeper, Times
from l7.keeper_link import KeeperGone, KeeperLink, by_bound
from l7.listening import ListeningSockets
from l7.notify import Notifier
from l7.predecessor import Predecessor
from l7.supervisor import Supervisor, default_workers
from l7.telemetry.exporter import listen_for_scrapes, serve_metrics
from orchestrator.contract.join import JoinFailed, join
from orchestrator.contract.logs import hush_requests
from orchestrator.contract.node import AgentRole
from orchestrator.contract.restart import MAX_RESTART_GRACE_S
from orchestrator.contract.state_directory import StateDirectory

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Options:
    """What `edge-l7 run` was asked for, as far as it concerns an incarnation."""

    state: Path
    orchestrator: str | None
    token_file: Path | None
    node: str | None
    workers: int | None
    bpffs: Path | None
    access_log: Path | None
    metrics: tuple[str, int] | None
    stop_grace_s: float

    def arguments(self) -> list[str]:
        """The same, for another process's command line."""
        metrics = f"[{self.metrics[0]}]:{self.metrics[1]}" if self.metrics is not None else None
        given: dict[str, object] = {
            "--state": self.state,
            "--orchestrator": self.orchestrator,
            "--token-file": self.token_file,
            "--node": self.node,
            "--workers": self.workers,
            "--bpffs": self.bpffs,
            "--access-log": self.access_log,
            "--metrics": metrics,
            "--stop-grace": self.stop_grace_s,
        }
        return [f"{name}={value}" for name, value in given.items() if value is not None]


class AddressAndPort(click.ParamType[tuple[str, int]]):
    """`192.0.2.1:9100` or `[2001:db8::1]:9100`."""

    name = "ADDRESS:PORT"

    def convert(
        self, value: str | tuple[str, int], param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, int]:
        """Split it, or say what is wrong."""
        if isinstance(value, tuple):
            return value
        address, colon, port = value.rpartition(":")
        if not colon or not address or not port.isdecimal() or not 0 < int(port) < 65536:
            self.fail(f"{value!r} is not ADDRESS:PORT, such as 192.0.2.1:9100 or [2001:db8::1]:9100", param, ctx)
        return address.strip("[]"), int(port)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """The L7 proxy of a host."""


def _proxy_options(command: Callable[..., None]) -> Callable[..., None]:
    """Those of an incarnation. The keeper passes them on."""
    options = (
        click.option(
            "--state",
            type=click.Path(path_type=Path, file_okay=False),
            required=True,
            help="Identity and last snapshot.",
        ),
        click.option("--orchestrator", metavar="ADDRESS:PORT", help="Where to join (first start only)."),
        click.option(
            "--token-file",
            type=click.Path(path_type=Path, dir_okay=False),
            help="One-time token (first start only).",
        ),
        click.option("--node", metavar="NAME", help="This host's name (first start only)."),
        click.option("--workers", type=click.IntRange(1, 256), help="Worker processes; default: one per core."),
        click.option(
            "--bpffs", type=click.Path(path_type=Path, file_okay=False), help="Where the redirector pins its maps."
        ),
        click.option(
            "--access-log", type=click.Path(path_type=Path, dir_okay=False), help="JSON lines; none if not given."
        ),
        click.option("--metrics", type=AddressAndPort(), help="Serve Prometheus metrics here."),
        click.option(
            "--stop-grace",
            "stop_grace_s",
            type=click.FloatRange(0, 3600),
            default=limits.STOP_GRACE_S,
            show_default=True,
            help="Seconds that open connections have to end after SIGTERM; a second SIGTERM ends them at once.",
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command


@main.command()
@_proxy_options
@click.option(
    "--restart-grace",
    "restart_grace_s",
    type=click.FloatRange(0, MAX_RESTART_GRACE_S),
    default=limits.RESTART_GRACE_S,
    show_default=True,
    help="Seconds that connections of the old incarnation have to end after a restart; then they are reset.",
)
@click.option(
    "--restart-timeout",
    "restart_s",
    type=click.FloatRange(1, 3600),
    default=limits.RESTART_S,
    show_default=True,
    help="Seconds in which a new incarnation must be in service; else the old one goes on.",
)
@click.pass_context
def run(ctx: click.Context, /, restart_grace_s: float, restart_s: float, **options: Any) -> None:
    """Run the proxy until SIGTERM.

    SIGHUP restarts it without refusing a connection or breaking a request: a new incarnation of the code that is
    installed then takes the listening sockets over, and the old one says its goodbyes. `edgectl restart` asks for the
    same. SIGUSR1 opens the access log anew.
    """
    _log_as("keeper")
    asked = Options(**options)
    if (missing := _say_missing(asked)) is not None:
        raise click.ClickException(missing)
    command = [sys.executable, "-m", "l7.service", "serve", *asked.arguments()]
    times = Times(restart_s=restart_s, restart_grace_s=restart_grace_s, stop_grace_s=asked.stop_grace_s)
    ctx.exit(_until_the_end(_keep, asked, command, times) or 0)


@main.command(hidden=True)
@_proxy_options
@click.option("--keeper", "keeper_fd", type=int, required=True, help="Inherited descriptor to the keeper.")
def serve(keeper_fd: int, **options: Any) -> None:
    """Run one incarnation for the keeper at the other end of the channel."""
    _log_as("incarnation")
    # The keeper is signalled together with its incarnations (Ctrl-C, systemd); it says what is to be done.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    _until_the_end(_serve, Options(**options), socket.socket(fileno=keeper_fd))


def _log_as(name: str) -> None:
    logging.basicConfig(level=logging.INFO, format=f"%(asctime)s edge-l7 {name} %(levelname)s %(message)s", force=True)
    hush_requests()


P = ParamSpec("P")
R = TypeVar("R")


def _until_the_end(program: Callable[P, Awaitable[R]], *arguments: P.args, **_none: P.kwargs) -> R:
    """Run it. What an operator can do something about is one line, and exit code 1."""
    try:
        return trio.run(program, *arguments)
    except* (JoinFailed, KeeperGone, HandoverRefused, OSError) as group:
        # Nurseries wrap what happened; the operator wants the innermost line.
        raise click.ClickException("; ".join(str(error) for error in _leaves(group))) from None


def _leaves(group: BaseExceptionGroup[BaseException]) -> list[BaseException]:
    found: list[BaseException] = []
    for error in group.exceptions:
        found += _leaves(error) if isinstance(error, BaseExceptionGroup) else [error]
    return found


def _say_missing(options: Options) -> str | None:
    """What a first start would lack."""
    if StateDirectory(options.state).is_joined():
        return None
    if options.orchestrator is None or options.token_file is None or options.node is None:
        return f"{options.state} holds no identity: give --orchestrator, --token-file and --node for the first start"
    return None


async def _keep(options: Options, command: list[str], times: Times) -> int:
    keeper = Keeper(command, times, Notifier())
    signals_for_keeper = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1)
    with trio.open_signal_receiver(*signals_for_keeper) as signals:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_obey_signals, signals, keeper, options, nursery)
            code = await keeper.run()
            nursery.cancel_scope.cancel()
    log.info("stopped")
    return code


async def _obey_signals(signals: AsyncIterator[int], keeper: Keeper, options: Options, nursery: trio.Nursery) -> None:
    stopping = False
    async for number in signals:
        match number:
            case signal.SIGHUP:
                nursery.start_soon(keeper.restart)
            case signal.SIGUSR1:
                nursery.start_soon(keeper.reopen_logs)
            case _ if stopping:
                log.warning("second signal: stopping at once")
                nursery.start_soon(keeper.kill)
            case _:
                stopping = True
                log.info("stopping: open connections have %g s to end", options.stop_grace_s)
                nursery.start_soon(keeper.stop)


async def _serve(options: Options, keeper: socket.socket) -> None:
    link = KeeperLink(keeper)
    welcome, handed = await link.greet()
    _log_as(f"incarnation-{welcome.incarnation}")
    state = StateDirectory(options.state)
    if not state.is_joined():
        await _join(state, options)
    supervisor = Supervisor(
        workers=options.workers or default_workers(),
        access_log=options.access_log,
        bpffs=options.bpffs,
        sockets=ListeningSockets(by_bound(handed, Purpose.LISTENER), link),
        incarnation=welcome.incarnation,
        predecessor=Predecessor(welcome.before) if welcome.before is not None else None,
    )
    incarnation = Incarnation(link, welcome, supervisor, state)
    async with trio.open_nursery() as nursery:
        if options.metrics is not None:
            sockets = by_bound(handed, Purpose.METRICS)
            if not sockets:
                sockets = {sock.getsockname()[:2]: sock for sock in await listen_for_scrapes(*options.metrics)}
                await link.deposit(sockets, Purpose.METRICS)
            nursery.start_soon(_serve_metrics, incarnation, supervisor, tuple(sockets.values()))
        await incarnation.run()
        nursery.cancel_scope.cancel()


async def _serve_metrics(incarnation: Incarnation, supervisor: Supervisor, sockets: tuple[socket.socket, ...]) -> None:
    """While this incarnation is the present one."""
    if supervisor.predecessor is not None:
        await incarnation.in_service.wait()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve_metrics, sockets, supervisor.metrics)
        await incarnation.succeeded.wait()
        nursery.cancel_scope.cancel()


async def _join(state: StateDirectory, options: Options) -> None:
    address = options.orchestrator
    if address is None or options.token_file is None or options.node is None:
        raise JoinFailed(_say_missing(options) or "joined meanwhile: start again")
    await join(
        state,
        orchestrator=address if "://" in address else f"https://{address}",
        token_file=options.token_file,
        node=options.node,
        role=AgentRole.PROXY,
    )


if __name__ == "__main__":
    main()
