"""The supervisor: owns the listening sockets, keeps the workers alive, and hands them snapshots.

It is in no request's way. A worker that dies takes its own connections with it and no others: the listening sockets,
and what waits in their queues, are the supervisor's, and its siblings go on accepting. A supervisor with its workers is
one incarnation of the proxy; `l7.keeper` replaces one by the next.
"""

import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import trio

from l7 import limits
from l7.channel import Discard, ReopenLog, Stop, WorkerStatus, open_channel
from l7.handover import Record, Standing
from l7.listening import AddressTaken, Bound, ListeningSockets
from l7.predecessor import Predecessor
from l7.telemetry.certificates import ends_by_host
from l7.telemetry.metrics import add_up, exposition, tunnels_open
from l7.worker_process import KILL_AFTER_S, WorkerFailed, WorkerProcess
from orchestrator.contract.client import SnapshotRefused
from orchestrator.contract.report import ProxyStatus, ServerHealth
from orchestrator.contract.snapshot import ProxySnapshot, Snapshot

log = logging.getLogger(__name__)

#: A worker that lived this long did not die of its start: the pause before its restart is the first one again.
HEALTHY_LIFE_S = 60.0


class Supervisor:
    """Starts workers, keeps them, and speaks for them (`orchestrator.contract.client.Agent`)."""

    def __init__(
        self,
        *,
        workers: int,
        access_log: Path | None = None,
        bpffs: Path | None = None,
        sockets: ListeningSockets | None = None,
        incarnation: int = 1,
        predecessor: Predecessor | None = None,
    ) -> None:
        self._count = workers
        self.incarnation = incarnation
        self.predecessor = predecessor
        """The incarnation that this one succeeds: its flows are the proxy's too, and so is what it has counted."""
        self.record = Record()
        """How restarts went."""
        self._arguments: list[str] = ["--incarnation", str(incarnation)]
        if access_log is not None:
            self._arguments += ["--access-log", str(access_log.absolute())]
        if bpffs is not None:
            self._arguments += ["--bpffs", str(bpffs.absolute())]
        self.snapshot: ProxySnapshot | None = None
        self.restarts = 0
        self._workers: dict[int, WorkerProcess] = {}
        self._sockets = sockets or ListeningSockets()
        self._changed = trio.Event()
        self._one_change = trio.Lock()
        self.listeners_held = trio.Lock()
        """Who has it keeps snapshots waiting: a successor is being given the listening sockets."""
        self._stopping = False
        self._past: dict[str, int] = {}

    def __repr__(self) -> str:
        version = self.snapshot.version if self.snapshot else None
        return (
            f"<Supervisor {self.incarnation}: snapshot {version}, {len(self._workers)} of {self._count} workers, "
            f"{self.restarts} restarts>"
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
            self._sockets.close()

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
                    await worker.prepare(self.snapshot, self._sockets.in_service, self._known_health())
                except WorkerFailed as error:
                    log.error("worker %d cannot run snapshot %d: %s", worker.index, self.snapshot.version, error)
                    worker.process.kill()
                    return
                await worker.commit(self.snapshot.version)
            self._workers[worker.index] = worker
            self._tell_change()

    def _tell_change(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    async def all_in_service(self, version: int) -> None:
        """Until every worker runs a snapshot of this version or a later one, and accepts."""
        while self.snapshot is None or self.snapshot.version < version or len(self._workers) < self._count:
            await self._changed.wait()

    def _known_health(self) -> tuple[ServerHealth, ...]:
        """For workers that have checked nothing yet: what their siblings know, or the incarnation before."""
        own = _agreed_health([worker.status for worker in self._workers.values()])
        return own or (self.predecessor.standing.health if self.predecessor is not None else ())

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
        async with self.listeners_held, self._one_change:
            try:
                fresh = self._sockets.bind(snapshot.listeners)
            except AddressTaken as error:
                raise SnapshotRefused(str(error)) from error
            workers = tuple(self._workers.values())
            try:
                await self._prepare(workers, snapshot, fresh)
            except BaseException:
                self._sockets.reject(fresh)
                raise
            # From here on it is the running snapshot: a worker that dies now comes back with it.
            with trio.CancelScope(shield=True):
                self.snapshot = snapshot
                await self._sockets.take(fresh)
                async with trio.open_nursery() as nursery:
                    for worker in workers:
                        nursery.start_soon(worker.commit, snapshot.version)
                await self._sockets.keep_only((str(each.address), int(each.port)) for each in snapshot.listeners)
        self._tell_change()

    async def _wait_for_a_worker(self) -> None:
        with trio.move_on_after(limits.WORKER_APPLY_S):
            while not self._workers:
                await self._changed.wait()
            return
        raise SnapshotRefused(f"no worker is running after {limits.WORKER_APPLY_S:g} s: see the log")

    async def _prepare(
        self, workers: Sequence[WorkerProcess], snapshot: ProxySnapshot, fresh: dict[Bound, socket.socket]
    ) -> None:
        reasons: list[str] = []
        health = self._known_health() if self.snapshot is None else ()

        async def prepare(worker: WorkerProcess) -> None:
            try:
                await worker.prepare(snapshot, fresh, health)
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
        """Of all workers together, and of those that the incarnation before still has."""
        parts = [worker.status for worker in self._workers.values()]
        leaving = self.predecessor.leaving(time.time()) if self.predecessor is not None else None
        return ProxyStatus(
            workers=len(parts),
            draining=self.snapshot is not None and self.snapshot.goodbye is not None,
            open_flows=add_up((*(part.open_flows for part in parts), leaving.open_flows if leaving else {})),
            requests_in_flight=sum(part.requests_in_flight for part in parts)
            + (leaving.requests_in_flight if leaving else 0),
            health=_agreed_health(parts),
            counters=self._counters(parts),
            incarnation=self.incarnation,
            leaving=leaving,
            restart_problem=self.record.problem,
        )

    def standing(self) -> Standing:
        """For the incarnation that succeeds this one."""
        parts = [worker.status for worker in self._workers.values()]
        return Standing(
            snapshot_version=self.snapshot.version if self.snapshot else 0,
            workers=len(parts),
            open_flows=add_up(part.open_flows for part in parts),
            requests_in_flight=sum(part.requests_in_flight for part in parts),
            counters=self._counters(parts),
            health=_agreed_health(parts),
        )

    def _counters(self, parts: Sequence[WorkerStatus]) -> dict[str, int]:
        before = self.predecessor.standing.counters if self.predecessor is not None else {}
        return add_up((before, self._past, {"worker_restarts": self.restarts}, *(part.counters for part in parts)))

    def metrics(self) -> str:
        """All workers' metrics, as Prometheus reads them."""
        parts = [worker.status for worker in self._workers.values()]
        gauges = {
            "workers": len(parts),
            "requests_in_flight": sum(part.requests_in_flight for part in parts),
            "tunnels_open": sum(tunnels_open(part.counters) for part in parts),
            "draining": int(self.snapshot is not None and self.snapshot.goodbye is not None),
            "snapshot_version": self.snapshot.version if self.snapshot else 0,
            "incarnation": self.incarnation,
        }
        if self.predecessor is not None and (leaving := self.predecessor.leaving(time.time())) is not None:
            gauges["leaving_incarnation"] = leaving.incarnation
            for protocol, flows in leaving.open_flows.items():
                gauges[f'leaving_open_flows{{protocol="{protocol}"}}'] = flows
        for protocol, flows in add_up(part.open_flows for part in parts).items():
            gauges[f'open_flows{{protocol="{protocol}"}}'] = flows
        for each in _agreed_health(parts):
            gauges[f'server_healthy{{backend="{each.backend}",server="{each.server}"}}'] = int(each.healthy)
        if self.snapshot is not None:
            for host, end in ends_by_host(self.snapshot.certificates).items():
                gauges[f'certificate_not_after_seconds{{host="{host}"}}'] = end
        record = self.record
        restarts = {
            'restarts{result="done"}': record.restarts,
            'restarts{result="failed"}': record.failures,
            "incarnation_crashes": record.crashes,
        }
        return exposition(self._counters(parts) | restarts, gauges)

    # -- signals -------------------------------------------------------------------------------------------------------

    async def reopen_logs(self) -> None:
        """The access log was rotated."""
        for worker in tuple(self._workers.values()):
            await worker.tell(ReopenLog())

    async def stop(self, grace_s: float, *, has_heir: bool = False) -> None:
        """Accept nothing new, let what is open end within `grace_s`, end the workers. Returns when they are gone.

        `has_heir`: another incarnation accepts on the same sockets, and is left what waits in their queues.
        """
        self._stopping = True
        # The workers hold the sockets too: without an heir, each accepts what has queued up before it lets go.
        self._sockets.close()
        workers = tuple(self._workers.values())
        async with trio.open_nursery() as nursery:
            for worker in workers:
                nursery.start_soon(self._stop_worker, worker, Stop(grace_s=grace_s, has_heir=has_heir))

    async def _stop_worker(self, worker: WorkerProcess, stop: Stop) -> None:
        with trio.move_on_after(stop.grace_s + KILL_AFTER_S):
            await worker.tell(stop)
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
