"""`edge-l7`: the command line of a proxy host."""

import logging
import signal
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import click
import trio

from l7 import limits
from l7.supervisor import Supervisor, default_workers
from l7.telemetry.exporter import serve_metrics
from orchestrator.contract.client import run_agent
from orchestrator.contract.join import JoinFailed, join
from orchestrator.contract.logs import hush_requests
from orchestrator.contract.node import AgentRole
from orchestrator.contract.state_directory import StateDirectory

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Options:
    """What `edge-l7 run` was asked for."""

    state: Path
    orchestrator: str | None
    token_file: Path | None
    node: str | None
    workers: int
    bpffs: Path | None
    access_log: Path | None
    metrics: tuple[str, int] | None
    stop_grace_s: float


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


@main.command()
@click.option(
    "--state", type=click.Path(path_type=Path, file_okay=False), required=True, help="Identity and last snapshot."
)
@click.option("--orchestrator", metavar="ADDRESS:PORT", help="Where to join (first start only).")
@click.option(
    "--token-file", type=click.Path(path_type=Path, dir_okay=False), help="One-time token (first start only)."
)
@click.option("--node", metavar="NAME", help="This host's name (first start only).")
@click.option("--workers", type=click.IntRange(1, 256), help="Worker processes; default: one per core.")
@click.option("--bpffs", type=click.Path(path_type=Path, file_okay=False), help="Where the redirector pins its maps.")
@click.option("--access-log", type=click.Path(path_type=Path, dir_okay=False), help="JSON lines; none if not given.")
@click.option("--metrics", type=AddressAndPort(), help="Serve Prometheus metrics here.")
@click.option(
    "--stop-grace",
    "stop_grace_s",
    type=click.FloatRange(0, 3600),
    default=limits.STOP_GRACE_S,
    show_default=True,
    help="Seconds that open connections have to end after SIGTERM; a second SIGTERM ends them at once.",
)
def run(
    state: Path,
    orchestrator: str | None,
    token_file: Path | None,
    node: str | None,
    workers: int | None,
    bpffs: Path | None,
    access_log: Path | None,
    metrics: tuple[str, int] | None,
    stop_grace_s: float,
) -> None:
    """Run the proxy until SIGTERM. SIGHUP opens the access log anew."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s edge-l7 %(levelname)s %(message)s")
    hush_requests()
    options = Options(
        state=state,
        orchestrator=orchestrator,
        token_file=token_file,
        node=node,
        workers=workers or default_workers(),
        bpffs=bpffs,
        access_log=access_log,
        metrics=metrics,
        stop_grace_s=stop_grace_s,
    )
    try:
        trio.run(_run, options)
    except* (JoinFailed, OSError) as group:
        # Nurseries wrap what happened; the operator wants the innermost line.
        raise click.ClickException("; ".join(str(error) for error in _leaves(group))) from None


def _leaves(group: BaseExceptionGroup[BaseException]) -> list[BaseException]:
    found: list[BaseException] = []
    for error in group.exceptions:
        found += _leaves(error) if isinstance(error, BaseExceptionGroup) else [error]
    return found


async def _run(options: Options) -> None:
    state = StateDirectory(options.state)
    if not state.is_joined():
        await _join(state, options)
    supervisor = Supervisor(workers=options.workers, access_log=options.access_log, bpffs=options.bpffs)
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(supervisor.run)
            nursery.start_soon(_follow_orchestrator, supervisor, state)
            if options.metrics is not None:
                nursery.start_soon(serve_metrics, *options.metrics, supervisor.metrics)
            async for number in signals:
                if number == signal.SIGHUP:
                    await supervisor.reopen_logs()
                    continue
                break
            log.info("stopping: open connections have %g s to end", options.stop_grace_s)
            async with trio.open_nursery() as stopping:
                stopping.start_soon(_kill_on_second_signal, signals, supervisor)
                await supervisor.stop(options.stop_grace_s)
                stopping.cancel_scope.cancel()
            nursery.cancel_scope.cancel()
    log.info("stopped")


async def _join(state: StateDirectory, options: Options) -> None:
    if options.orchestrator is None or options.token_file is None or options.node is None:
        raise JoinFailed(
            f"{options.state} holds no identity: give --orchestrator, --token-file and --node for the first start"
        )
    address = options.orchestrator
    await join(
        state,
        orchestrator=address if "://" in address else f"https://{address}",
        token_file=options.token_file,
        node=options.node,
        role=AgentRole.PROXY,
    )


async def _follow_orchestrator(supervisor: Supervisor, state: StateDirectory) -> None:
    await run_agent(supervisor, state=state, ready=lambda: log.info("serving: %r", supervisor))


async def _kill_on_second_signal(signals: AsyncIterator[int], supervisor: Supervisor) -> None:
    async for number in signals:
        if number != signal.SIGHUP:
            log.warning("second signal: stopping at once")
            supervisor.kill()
            return
