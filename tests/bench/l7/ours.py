"""Our proxy for a measurement: the product's supervisor with one worker, a snapshot from a file, no agent around it."""

import signal
from pathlib import Path

import click
import trio

from l7.supervisor import Supervisor
from orchestrator.contract.snapshot import ProxySnapshot


@click.command()
@click.argument("snapshot", type=click.Path(path_type=Path))
@click.argument("access_log", type=click.Path(path_type=Path))
def main(snapshot: Path, access_log: Path) -> None:
    """Serve until SIGTERM."""
    trio.run(_serve, ProxySnapshot.model_validate_json(snapshot.read_bytes()), access_log)


async def _serve(snapshot: ProxySnapshot, access_log: Path) -> None:
    supervisor = Supervisor(workers=1, access_log=access_log)
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(supervisor.run)
            await supervisor.apply(snapshot)
            async for _ in signals:
                break
            nursery.cancel_scope.cancel()


if __name__ == "__main__":
    main()
