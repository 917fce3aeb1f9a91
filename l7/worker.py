"""A worker process: one proxy, told by the supervisor what to run. Started as `python -m l7.worker`, never by hand."""

import gc
import logging
import resource
import signal
import socket
from functools import partial
from pathlib import Path

import click
import trio

from l4.ingress import IngressMap
from l7 import compiled, limits
from l7.channel import (
    Channel,
    Commit,
    Committed,
    Discard,
    Message,
    Prepare,
    Prepared,
    Refused,
    ReopenLog,
    Sockets,
    Stop,
    WorkerStatus,
    open_channel,
)
from l7.message_channel import ChannelClosed
from l7.proxy import Edition, EditionRefused, Proxy

log = logging.getLogger(__name__)

#: Allocations between collections of the youngest generation. Neither requests nor connections make cycles, so that
#: collecting seldom costs nothing; the default of 700 would scan for nothing some hundred times a second. What others
#: make of them piles up to so many objects: some 2 MB.
GC_THRESHOLDS = (10_000, 20, 100)


class Worker:
    """Follows the supervisor's messages until it is told to stop, or until the supervisor is gone."""

    def __init__(self, proxy: Proxy, channel: Channel) -> None:
        self._proxy = proxy
        self._channel = channel
        self._prepared: Edition | None = None

    async def run(self) -> None:
        """Serve; return when everything is finished."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._proxy.run)
            nursery.start_soon(self._report)
            try:
                stop = await self._follow()
            except ChannelClosed as error:
                # The supervisor is dead. Its successor must be able to bind the listening sockets; those who are
                # connected shall not suffer for it.
                log.error("supervisor gone (%s): finishing what is open", error)
                stop = Stop(grace_s=limits.STOP_GRACE_S)
            await self._finish(stop)
            nursery.cancel_scope.cancel()
        self._proxy.close()

    async def _follow(self) -> Stop:
        """Take messages until one says stop; return that."""
        while True:
            message, sockets = await self._channel.receive()
            if isinstance(message, Stop):
                return message
            answer = await self._obey(message, sockets)
            if answer is not None:
                await self._channel.send(answer)
            if isinstance(answer, Committed):
                await self._channel.send(self._status())

    async def _obey(self, message: Message, sockets: tuple[socket.socket, ...]) -> Message | None:
        proxy = self._proxy
        match message:
            case Sockets(addresses=addresses):
                for bound, sock in zip(addresses, sockets, strict=True):
                    proxy.offer((str(bound.address), bound.port), sock)
            case Prepare(snapshot=snapshot, health=health):
                try:
                    self._prepared = proxy.prepare(snapshot, await proxy.load_certificates(snapshot), health)
                except EditionRefused as refused:
                    return Refused(version=snapshot.version, reason=str(refused))
                return Prepared(version=snapshot.version)
            case Commit() if self._prepared is not None:
                edition, self._prepared = self._prepared, None
                proxy.commit(edition)
                return Committed(version=edition.snapshot.version)
            case Discard():
                self._prepared = None
                proxy.discard()
            case ReopenLog():
                proxy.log_writer.reopen()
            case _:
                log.error("message out of turn: %s", message.kind)
        return None

    def _status(self) -> WorkerStatus:
        proxy = self._proxy
        return WorkerStatus(
            open_flows=proxy.open_flows,
            requests_in_flight=proxy.upstreams.requests_in_flight,
            health=proxy.health(),
            counters=proxy.totals(),
        )

    async def _report(self) -> None:
        while True:
            try:
                await self._channel.send(self._status())
            except ChannelClosed:
                # `_follow` sees the same, and ends the worker.
                return
            await trio.sleep(limits.WORKER_STATUS_S)

    async def _finish(self, stop: Stop) -> None:
        proxy, grace_s = self._proxy, stop.grace_s
        proxy.stop_accepting(grace_s, has_heir=stop.has_heir)
        with trio.move_on_after(grace_s):
            await proxy.all_clients_gone()
        left = proxy.reset_clients("stopped")
        if left:
            log.warning("stopped with %d connections still open after %g s", left, grace_s)
        try:
            await self._channel.send(self._status())
        except ChannelClosed:
            log.info("the supervisor did not wait for the last status")


@click.command()
@click.option("--channel", "channel_fd", type=int, required=True, help="Inherited descriptor to the supervisor.")
@click.option("--index", type=int, required=True, help="Number of this worker, for its log lines.")
@click.option("--incarnation", type=int, default=1, help="Of the proxy, for the same.")
@click.option("--access-log", type=click.Path(path_type=Path))
@click.option("--bpffs", type=click.Path(path_type=Path))
def main(channel_fd: int, index: int, incarnation: int, access_log: Path | None, bpffs: Path | None) -> None:
    """Run one worker for the supervisor at the other end of the channel."""
    name = f"worker-{incarnation}.{index}"
    logging.basicConfig(level=logging.INFO, format=f"%(asctime)s {name} %(levelname)s %(message)s")
    # The supervisor is signalled together with its workers (Ctrl-C, systemd); it says what is to be done.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))

    log.info("hot modules: %s", compiled.STATE)

    async def serve() -> None:
        channel = open_channel(socket.socket(fileno=channel_fd))
        await Worker(
            Proxy(access_log=access_log, open_ingress=partial(IngressMap.open, bpffs) if bpffs else None), channel
        ).run()

    # What is loaded by now lives as long as the process: no collection needs to look at it.
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)
    trio.run(serve)


if __name__ == "__main__":
    main()
