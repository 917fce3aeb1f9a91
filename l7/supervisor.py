"""The supervisor: one per host. Owns the listening sockets, keeps the workers alive, and hands them snapshots.

It is in no request's way. A worker that dies takes its own connections with it and no others: the listening sockets,
and what waits in their queues, are the supervisor's, and its siblings go on accepting.
"""

import logging
import os
import signal
import socket
import sys
from collections.abc import Sequence
from pathlib import Path

import trio

from l7 import limits
from l7.channel import Discard, ReopenLog, Stop, WorkerStatus, open_channel
from l7.listener import listen
from l7.telemetry.certificates import ends_by_host
from l7.telemetry.metrics import add_up, exposition, tunnels_open
from l7.worker_process import KILL_AFTER_S, Bound, WorkerFailed, WorkerProcess
from orchestrator.contract.client import SnapshotRefused
from orchestrator.contract.report import ProxyStatus, ServerHealth
from orchestrator.contract.snapshot import ProxySnapshot, Snapshot

log = logging.getLogger(__name__)

#: A worker that lived this long did not die of its start: the pause before its restart is the first one again.
HEALTHY_LIFE_S = 60.0


class Supervisor:
    """Starts workers, keeps them, and speaks for them (`orchestrator.contract.client.Agent`)."""

    def __init__(self, *, workers: int, access_log: Path | None = None, bpffs: Path | None = None) -> None:
        self._count = workers
        self._arguments: list[str] = []
        if access_log is not None:
            self._arguments += ["--access-log", str(access_log.absolute())]
        if bpffs is not None:
            self._arguments += ["--bpffs", str(bpffs.absolute())]
        self.snapshot: ProxySnapshot | None = None
        self.restarts = 0
        self._workers: dict[int, WorkerProcess] = {}
        self._sockets: dict[Bound, socket.socket] = {}
        self._changed = trio.Event()
        self._one_change = trio.Lock()
        self._stopping = False
        self._past: dict[str, int] = {}

    def __repr__(self) -> str:
        version = self.snapshot.version if self.snapshot else None
        return (
            f"<Supervisor: snapshot {version}, {len(self._workers)} of {self._count} workers, {self.restarts} restarts>"
        )

    @property
    def process_ids(self) -> tuple[int, ...]:
        """Of the workers that are in service."""
        return tuple(worker.process.pid for _, worker in sorted(self._workers.items()))

    # -- workers -------------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Keep the workers running until `stop` has ended them, or until cancelled (then they are killed)."""
        try:
            async with trio.open_nursery() as nursery:
                for index in range(self._count):
                    nursery.start_soon(self._keep, index)
        finally:
            for sock in self._sockets.values():
                sock.close()
            self._sockets.clear()

    async def _keep(self, index: int) -> None:
        pause_s = limits.WORKER_RESTART_FIRST_S
        while True:
            began = trio.current_time()
            code = await self._run_worker(index)
            if self._stopping:
                return
            self.restarts += 1
            if trio.current_time() - began >= HEALTHY_LIFE_S:
                pause_s = limits.WORKER_RESTART_FIRST_S
            log.error("worker %d ended with %s; starting it again in %g s", index, _cause(code), pause_s)
            await trio.sleep(pause_s)
            pause_s = min(2 * pause_s, limits.WORKER_RESTART_MAX_S)

    async def _run_worker(self, index: int) -> int:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        command = [sys.executable, "-m", "l7.worker", "--channel", str(theirs.fileno()), "--index", str(index)]
        with theirs:
            process = await trio.lowlevel.open_process([*command, *self._arguments], pass_fds=(theirs.fileno(),))
        worker = WorkerProcess(index, process, open_channel(ours))
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(worker.listen)
                nursery.start_soon(self._put_into_service, worker)
                code = await process.wait()
                nursery.cancel_scope.cancel()
        finally:
            self._workers.pop(index, None)
            self._past = add_up((self._past, worker.status.counters))
            worker.channel.close()
            if process.returncode is None:
                process.kill()
                with trio.CancelScope(shield=True):
                    await process.wait()
        return code

    async def _put_into_service(self, worker: WorkerProcess) -> None:
        """Give a new worker the snapshot that runs. Not in the middle of a change."""
        async with self._one_change:
            if self.snapshot is not None:
                try:
                    await worker.prepare(self.snapshot, self._sockets)
                except WorkerFailed as error:
                    log.error("worker %d cannot run snapshot %d: %s", worker.index, self.snapshot.version, error)
                    worker.process.kill()
                    return
                await worker.commit(self.snapshot.version)
            self._workers[worker.index] = worker
            self._changed.set()
            self._changed = trio.Event()

    # -- Agent ---------------------------------------------------------------------------------------------------------

    async def apply(self, snapshot: Snapshot) -> None:
        """Have every worker run the snapshot, or none.

        Raises:
            SnapshotRefused: an address cannot be bound, a worker cannot run it, or no worker is there.
        """
        if not isinstance(snapshot, ProxySnapshot):
            raise SnapshotRefused(f"a snapshot for a {snapshot.role} was sent to a proxy")
        if self._stopping:
            raise SnapshotRefused("the proxy is stopping")
        await self._wait_for_a_worker()
        async with self._one_change:
            fresh = self._bind(snapshot)
            workers = tuple(self._workers.values())
            try:
                await self._prepare(workers, snapshot, fresh)
            except BaseException:
                for sock in fresh.values():
                    sock.close()
                raise
            wanted = {(str(each.address), int(each.port)) for each in snapshot.listeners}
            # From here on it is the running snapshot: a worker that dies now comes back with it.
            with trio.CancelScope(shield=True):
                self.snapshot = snapshot
                self._sockets |= fresh
                async with trio.open_nursery() as nursery:
                    for worker in workers:
                        nursery.start_soon(worker.commit, snapshot.version)
                for bound in self._sockets.keys() - wanted:
                    self._sockets.pop(bound).close()

    async def _wait_for_a_worker(self) -> None:
        with trio.move_on_after(limits.WORKER_APPLY_S):
            while not self._workers:
                await self._changed.wait()
            return
        raise SnapshotRefused(f"no worker is running after {limits.WORKER_APPLY_S:g} s: see the log")

    def _bind(self, snapshot: ProxySnapshot) -> dict[Bound, socket.socket]:
        fresh: dict[Bound, socket.socket] = {}
        for listener in snapshot.listeners:
            bound = (str(listener.address), int(listener.port))
            if bound in self._sockets:
                continue
            try:
                fresh[bound] = listen(*bound)
            except OSError as error:
                for sock in fresh.values():
                    sock.close()
                raise SnapshotRefused(
                    f"listener {listener.vip}: {bound[0]} port {bound[1]}: {error.strerror}: "
                    "is another process listening there?"
                ) from error
        return fresh

    async def _prepare(
        self, workers: Sequence[WorkerProcess], snapshot: ProxySnapshot, fresh: dict[Bound, socket.socket]
    ) -> None:
        reasons: list[str] = []

        async def prepare(worker: WorkerProcess) -> None:
            try:
                await worker.prepare(snapshot, fresh)
            except WorkerFailed as error:
                reasons.append(str(error))

        async with trio.open_nursery() as nursery:
            for worker in workers:
                nursery.start_soon(prepare, worker)
        if reasons:
            for worker in workers:
                await worker.tell(Discard())
            raise SnapshotRefused("; ".join(sorted(set(reasons))))

    async def status(self) -> ProxyStatus:
        """Of all workers together."""
        parts = [worker.status for worker in self._workers.values()]
        return ProxyStatus(
            workers=len(parts),
            draining=self.snapshot is not None and self.snapshot.goodbye is not None,
            open_flows=add_up(part.open_flows for part in parts),
            requests_in_flight=sum(part.requests_in_flight for part in parts),
            health=_agreed_health(parts),
            counters=self._counters(parts),
        )

    def _counters(self, parts: Sequence[WorkerStatus]) -> dict[str, int]:
        return add_up((self._past, {"worker_restarts": self.restarts}, *(part.counters for part in parts)))

    def metrics(self) -> str:
        """All workers' metrics, as Prometheus reads them."""
        parts = [worker.status for worker in self._workers.values()]
        gauges = {
            "workers": len(parts),
            "requests_in_flight": sum(part.requests_in_flight for part in parts),
            "tunnels_open": sum(tunnels_open(part.counters) for part in parts),
            "draining": int(self.snapshot is not None and self.snapshot.goodbye is not None),
            "snapshot_version": self.snapshot.version if self.snapshot else 0,
        }
        for protocol, flows in add_up(part.open_flows for part in parts).items():
            gauges[f'open_flows{{protocol="{protocol}"}}'] = flows
        for each in _agreed_health(parts):
            gauges[f'server_healthy{{backend="{each.backend}",server="{each.server}"}}'] = int(each.healthy)
        if self.snapshot is not None:
            for host, end in ends_by_host(self.snapshot.certificates).items():
                gauges[f'certificate_not_after_seconds{{host="{host}"}}'] = end
        return exposition(self._counters(parts), gauges)

    # -- signals -------------------------------------------------------------------------------------------------------

    async def reopen_logs(self) -> None:
        """The access log was rotated."""
        for worker in tuple(self._workers.values()):
            await worker.tell(ReopenLog())

    async def stop(self, grace_s: float) -> None:
        """Accept nothing new, let what is open end within `grace_s`, end the workers. Returns when they are gone."""
        self._stopping = True
        # The workers hold the sockets too: each accepts what has queued up before it lets go.
        for sock in self._sockets.values():
            sock.close()
        self._sockets.clear()
        workers = tuple(self._workers.values())
        async with trio.open_nursery() as nursery:
            for worker in workers:
                nursery.start_soon(self._stop_worker, worker, grace_s)

    async def _stop_worker(self, worker: WorkerProcess, grace_s: float) -> None:
        with trio.move_on_after(grace_s + KILL_AFTER_S):
            await worker.tell(Stop(grace_s=grace_s))
            await worker.process.wait()
            return
        log.error("worker %d did not end in time; killed", worker.index)
        worker.process.kill()

    def kill(self) -> None:
        """End the workers at once, whatever they do."""
        self._stopping = True
        for worker in self._workers.values():
            worker.process.kill()


def _cause(code: int) -> str:
    return signal.Signals(-code).name if code < 0 else f"exit code {code}"


def _agreed_health(parts: Sequence[WorkerStatus]) -> tuple[ServerHealth, ...]:
    """A server is healthy if every worker finds it so; else the first one that does not says why."""
    agreed: dict[tuple[str, str], ServerHealth] = {}
    for part in parts:
        for each in part.health:
            present = agreed.get((each.backend, each.server))
            if present is None or (present.healthy and not each.healthy):
                agreed[each.backend, each.server] = each
    return tuple(agreed[key] for key in sorted(agreed))


def default_workers() -> int:
    """One per core that this process may use."""
    return len(os.sched_getaffinity(0))
