"""`edge-orchestrator`: makes a fleet's data, runs the control plane, hands out join tokens."""

import logging
import signal
import socket
import sys
from collections.abc import Sequence
from ipaddress import ip_address
from pathlib import Path

import click
import trio
from pydantic import TypeAdapter

from orchestrator.api.server import open_socket, serve_api
from orchestrator.contract.base import Name
from orchestrator.contract.logs import hush_requests
from orchestrator.contract.node import AgentIdentity, AgentRole
from orchestrator.contract.operator import DEFAULT_TOKEN_TTL_S, MAX_TOKEN_TTL_S
from orchestrator.data_directory import DataDirectory, DataUnusable, initialise
from orchestrator.fleet.authority import utc_now
from orchestrator.fleet.control import Control
from orchestrator.fleet.ledger import open_ledger
from orchestrator.fleet.reports import ReportBoard
from orchestrator.fleet.retirement import RETIRE_HOLD_S
from orchestrator.fleet.tokens import TokenRefused, issue_token
from orchestrator.leadership import Leadership
from orchestrator.state.store import StoreUnusable

log = logging.getLogger(__name__)

DEFAULT_PORT = 7443
DATA = click.option(
    "--data", type=click.Path(path_type=Path, file_okay=False), required=True, help="The orchestrator's directory."
)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """The control plane of an edgefleet: VIPs, membership, drains, configuration."""
    logging.basicConfig(
        stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s", force=True
    )
    hush_requests()
    logging.getLogger("anycorn.error").setLevel(logging.WARNING)
    logging.getLogger("anyio.streams.tls").addFilter(_one_line)


@main.command()
@DATA
@click.option(
    "--operator",
    type=click.Path(path_type=Path, file_okay=False),
    required=True,
    help="Where the first operator's credentials go.",
)
@click.option("--address", "addresses", multiple=True, required=True, help="Address that the API is reached at.")
@click.option("--name", "names", multiple=True, help="DNS name that the API is reached at.")
@click.option("--port", type=click.IntRange(1, 65535), default=DEFAULT_PORT, show_default=True)
def init(data: Path, operator: Path, addresses: tuple[str, ...], names: tuple[str, ...], port: int) -> None:
    """Make a new fleet: store, certificate authority, and the first operator's credentials."""
    try:
        parsed = [ip_address(address) for address in addresses]
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--address") from error
    try:
        trio.run(initialise, DataDirectory(data), operator, parsed, names, port, utc_now())
    except (DataUnusable, StoreUnusable) as error:
        raise click.ClickException(str(error)) from error
    click.echo(f"fleet made in {data}; edgectl finds its credentials in {operator}")


@main.command("operator")
@DATA
@click.option(
    "--operator",
    type=click.Path(path_type=Path, file_okay=False),
    required=True,
    help="Where the credentials go; old ones there are replaced.",
)
@click.option("--port", type=click.IntRange(1, 65535), default=DEFAULT_PORT, show_default=True)
@click.argument("name")
def certify_operator(data: Path, operator: Path, port: int, name: str) -> None:
    """Make credentials for the operator NAME: one more, or anew before they end after a year."""
    try:
        TypeAdapter(Name).validate_python(name)
    except ValueError as error:
        raise click.BadParameter("lower case letters, digits and hyphens, at most 63", param_hint="NAME") from error
    try:
        DataDirectory(data).write_operator(operator, name, port, utc_now())
    except DataUnusable as error:
        raise click.ClickException(str(error)) from error
    click.echo(f"credentials of {name} are in {operator}: edgectl --context {operator} status")


@main.command()
@DATA
@click.option("--listen", multiple=True, required=True, help="ADDRESS:PORT; [ADDRESS]:PORT for IPv6.")
@click.option(
    "--retire-hold",
    type=click.FloatRange(0.0, 3600.0),
    default=RETIRE_HOLD_S,
    show_default=True,
    help="Seconds for which a generation must not be needed before it is retired.",
)
def run(data: Path, listen: tuple[str, ...], retire_hold: float) -> None:
    """Run the control plane until SIGTERM. Data paths run on without it."""
    try:
        trio.run(_run, DataDirectory(data), listen, retire_hold)
    except (DataUnusable, StoreUnusable) as error:
        raise click.ClickException(str(error)) from error


@main.command()
@DATA
@click.argument("node")
@click.argument("role", type=click.Choice([role.value for role in AgentRole]))
@click.option(
    "--ttl",
    type=click.IntRange(1, MAX_TOKEN_TTL_S),
    default=DEFAULT_TOKEN_TTL_S,
    show_default=True,
    help="Seconds for which it is good.",
)
def token(data: Path, node: str, role: str, ttl: int) -> None:
    """Print a join token for one agent of NODE, good once. Works beside a running orchestrator."""
    try:
        identity = AgentIdentity(node=node, role=AgentRole(role))
    except ValueError as error:
        raise click.BadParameter("lower case letters, digits and hyphens, at most 63", param_hint="NODE") from error
    try:
        click.echo(trio.run(_issue, DataDirectory(data), identity, ttl))
    except (DataUnusable, StoreUnusable, TokenRefused) as error:
        raise click.ClickException(str(error)) from error


async def _issue(data: DataDirectory, identity: AgentIdentity, ttl_s: int) -> str:
    store = data.open_store()
    try:
        return str(await issue_token(store, data.authority().digest, identity, ttl_s, utc_now().timestamp()))
    finally:
        store.close()


async def _run(data: DataDirectory, listen: tuple[str, ...], retire_hold_s: float) -> None:
    if not data.path.is_dir():
        raise DataUnusable(f"{data.path} does not exist: run edge-orchestrator init --data {data.path}")
    with data.locked():
        authority = data.authority()
        if data.renew_server_certificate_when_due(utc_now()):
            log.info("server certificate renewed")
        sockets = [_listen(text) for text in listen]
        store = data.open_store()
        try:
            leadership = Leadership(store)
            await leadership.acquire()
            ledger = await open_ledger(store, lambda: leadership.lease)
            control = Control(store, ledger, authority, ReportBoard(trio.current_time), retire_hold_s=retire_hold_s)
            await _serve(control, leadership, data, sockets)
            await store.release(leadership.lease)
        finally:
            store.close()


def _listen(text: str) -> socket.socket:
    try:
        return open_socket(text)
    except (ValueError, OverflowError) as error:
        raise DataUnusable(f"--listen {text}: not ADDRESS:PORT ({error})") from error
    except OSError as error:
        raise DataUnusable(f"cannot listen on {text}: {error.strerror or error}") from error


async def _serve(
    control: Control, leadership: Leadership, data: DataDirectory, sockets: Sequence[socket.socket]
) -> None:
    stopped = trio.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(leadership.keep)
        nursery.start_soon(control.run)
        nursery.start_soon(_stop_on_signal, stopped)
        urls = await nursery.start(_serve_api, control, data, sockets)
        log.info("revision %d, listening on %s", control.present.fleet.revision, ", ".join(urls))
        await stopped.wait()
        nursery.cancel_scope.cancel()
    log.info("stopped; the data paths run on")


async def _serve_api(
    control: Control,
    data: DataDirectory,
    sockets: Sequence[socket.socket],
    task_status: trio.TaskStatus[list[str]],
) -> None:
    await serve_api(
        control,
        sockets,
        ca_file=data.ca_file,
        certificate_file=data.certificate_file,
        key_file=data.key_file,
        task_status=task_status,
    )


async def _stop_on_signal(stopped: trio.Event) -> None:
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async for number in signals:
            log.info("%s: stopping", signal.Signals(number).name)
            stopped.set()


def _one_line(record: logging.LogRecord) -> bool:
    """A handshake that a client fails is one line, not a traceback: scanners must not fill the log."""
    if record.exc_info and record.exc_info[1] is not None:
        record.msg, record.args = "TLS handshake failed: %s", (record.exc_info[1],)
        record.exc_info = None
    return True


if __name__ == "__main__":
    main()
