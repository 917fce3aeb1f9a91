"""The keeper: the main process of a proxy host. Starts incarnations of the proxy, one after another, and keeps what
outlives them: the listening sockets.

Theory of operation

1. An incarnation is a supervisor with its workers. The keeper accepts nothing, reads no snapshot and talks to nobody
   else; its process id is the one that the process manager knows, and stays.
2. Listening sockets are bound by incarnations and deposited here, so that no death of an incarnation closes one: what
   waits in a queue waits for the next.
3. A restart starts a new incarnation from the code that is installed then. When all its workers accept, the present one
   is told to leave: it accepts nothing more, says its goodbyes, and ends, at the latest when its grace is over.
4. A new incarnation that crashes, says nothing in time, or speaks another version of the handover is ended, and the
   present one goes on as if nothing was. Whoever asked is told why.
5. There is one new or one leaving incarnation at most: a restart is refused until the one before is over.
6. An incarnation that ends by itself is replaced, with growing pauses. One that has never come into service takes the
   keeper along: the process manager shall see that a first start fails.
7. If the keeper is killed, incarnations end as on SIGTERM: without it nobody could end them in order.
"""

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import trio

from l7 import limits
from l7.handover import (
    Before,
    HandoverMessage,
    Hold,
    Kill,
    Outcome,
    Record,
    Release,
    ReopenLog,
    Retire,
    Standing,
    Stop,
)
from l7.incarnation_process import IncarnationProcess, start_incarnation
from l7.notify import Notifier

log = logging.getLogger(__name__)

#: An incarnation that lived this long did not die of its start: the next pause is the first one again.
HEALTHY_LIFE_S = 60.0


class RestartFailed(Exception):
    """There is no new incarnation; says why, and what to do."""

    def __init__(self, code: str, problem: str, hint: str) -> None:
        super().__init__(problem)
        self.code = code
        self.hint = hint

    @property
    def is_failure(self) -> bool:
        """False: it was refused, and not tried."""
        return self.code == "restart_failed"


@dataclass(frozen=True, slots=True)
class Times:
    """What the keeper was started with, in seconds."""

    restart_s: float = limits.RESTART_S
    """Until a new incarnation must be in service."""
    restart_grace_s: float = limits.RESTART_GRACE_S
    """For the connections of the one that leaves."""
    stop_grace_s: float = limits.STOP_GRACE_S
    """For all connections, at the stop."""


class Keeper:
    """Runs incarnations of `command` until it is stopped."""

    def __init__(self, command: Sequence[str], times: Times, notifier: Notifier) -> None:
        self._command = command
        self._times = times
        self._notifier = notifier
        self._nursery: trio.Nursery
        self._number = 0
        self._present: IncarnationProcess | None = None
        self._new: IncarnationProcess | None = None
        self._leaving: IncarnationProcess | None = None
        self._leaving_until = 0.0
        self._one_start = trio.Lock()
        self._restarting = False
        self._stopping = False
        self._record = Record()

    def __repr__(self) -> str:
        return f"<Keeper: {self._present!r}, new {self._new!r}, leaving {self._leaving!r}>"

    async def run(self) -> int:
        """Keep an incarnation in service until `stop`; the exit code. Raises OSError if none can be started at all."""
        async with trio.open_nursery() as self._nursery:
            code = await self._keep()
            self._nursery.cancel_scope.cancel()
        return code

    async def _keep(self) -> int:
        """Start the first incarnation, and replace each that ends by itself."""
        pause_s = limits.WORKER_RESTART_FIRST_S
        has_served = False
        sockets_of: IncarnationProcess | None = None
        while True:
            async with self._one_start:  # a restart that is under way may yet bring one
                if self._stopping:
                    await self._all_ended()
                    return 0
                if self._present is None:
                    self._present = await self._start(sockets_of)
                    self._nursery.start_soon(self._announce, self._present)
            present, began = self._present, trio.current_time()
            if sockets_of is not None and sockets_of is not present:
                sockets_of.close_sockets()
                sockets_of = None
            await _first_of(present.ended, present.succeeded)
            has_served = has_served or present.in_service.is_set()
            if self._stopping:
                await self._all_ended()
                return 0
            if self._present is not present:
                continue
            self._present, sockets_of = None, present
            if not has_served:
                return present.process.returncode or 1
            await self._keep_record(crashes=1)
            if trio.current_time() - began >= HEALTHY_LIFE_S:
                pause_s = limits.WORKER_RESTART_FIRST_S
            log.error("incarnation %d: %s; the next starts in %g s", present.number, present.trouble, pause_s)
            await trio.sleep(pause_s)
            pause_s = min(2 * pause_s, limits.WORKER_RESTART_MAX_S)

    async def _start(self, present: IncarnationProcess | None) -> IncarnationProcess:
        """Start the next incarnation, with the sockets that are kept for this one."""
        self._number += 1
        started = await start_incarnation(self._number, self._command, present.sockets if present is not None else {})
        before = present.standing if present is not None else None
        is_alone = present is None or present.ended.is_set()
        self._nursery.start_soon(partial(started.run, self, before, is_alone=is_alone))
        return started

    async def _announce(self, incarnation: IncarnationProcess) -> None:
        await incarnation.settled.wait()
        if incarnation.in_service.is_set():
            log.info("incarnation %d is in service", incarnation.number)
            self._notifier.ready(f"incarnation {incarnation.number} is in service")
            await incarnation.tell(self._record)

    # -- restarts ------------------------------------------------------------------------------------------------------

    async def restart(self, grace_s: float | None = None, asked_by: IncarnationProcess | None = None) -> None:
        """Replace the present incarnation by one of the installed code. What went wrong is logged, and told."""
        if self._stopping:
            return
        try:
            old = self._restartable()
            new = await self._succeed(old)
        except RestartFailed as error:
            await self._tell_failure(error, asked_by)
            return
        grace_s = self._times.restart_grace_s if grace_s is None else grace_s
        log.info("incarnation %d is in service; the one before it has %g s to end", new.number, grace_s)
        if not old.ended.is_set():
            self._leaving, self._leaving_until = old, time.time() + grace_s
            if old.standing is not None:
                await self._tell_before(old, old.standing, ended=False)
        await self._keep_record(restarts=1)
        if asked_by is not None:
            await asked_by.tell(Outcome(incarnation=new.number))
        self._notifier.ready(f"incarnation {new.number} is in service")
        if self._leaving is old:
            await self._see_off(old, grace_s)

    async def _tell_failure(self, error: RestartFailed, asked_by: IncarnationProcess | None) -> None:
        log.error("no restart: %s (%s)", error, error.hint)
        if error.is_failure:
            await self._keep_record(failures=1, problem=str(error))
        serving = self._present
        if asked_by is not None:
            number = serving.number if serving is not None else 0
            await asked_by.tell(Outcome(incarnation=number, code=error.code, problem=str(error), hint=error.hint))
        if serving is not None and serving.in_service.is_set() and not self._restarting:
            self._notifier.ready(f"incarnation {serving.number} goes on: {error}")

    async def _succeed(self, old: IncarnationProcess) -> IncarnationProcess:
        """The new incarnation, in service. Raises RestartFailed; then all is as before."""
        self._restarting = True
        try:
            async with self._one_start:
                await self._hold(old)
                try:
                    new = await self._bring_up(old)
                except BaseException:
                    await old.tell(Release())
                    raise
                self._present = new
                old.succeeded.set()
                old.close_sockets()
                return new
        finally:
            self._restarting = False

    async def _bring_up(self, old: IncarnationProcess) -> IncarnationProcess:
        """A new incarnation that is in service. Raises RestartFailed; it is then gone."""
        try:
            self._new = new = await self._start(old)
        except OSError as error:
            raise RestartFailed("restart_failed", f"no process was started: {error}", "look at the host") from error
        try:
            with trio.move_on_after(self._times.restart_s):
                await new.settled.wait()
            if new.in_service.is_set() and not new.ended.is_set():
                return new
            reason = new.trouble or f"it was not in service within {self._times.restart_s:g} s"
            new.end()
            await new.ended.wait()
            new.close_sockets()
        finally:
            self._new = None
        raise RestartFailed(
            "restart_failed",
            f"incarnation {new.number} did not come into service: {reason}",
            f"incarnation {old.number} serves on as before; mend it, and restart again",
        )

    def _restartable(self) -> IncarnationProcess:
        """The present incarnation, if it can be succeeded now. Raises RestartFailed."""
        old = self._present
        if not self._restarting:
            self._notifier.reloading(f"incarnation {self._number + 1} starts")
        if self._restarting:
            raise RestartFailed("restart_under_way", "a restart is under way", "wait until it is over")
        if (leaving := self._leaving) is not None:
            flows = sum(leaving.standing.open_flows.values()) if leaving.standing is not None else 0
            left_s = max(0.0, self._leaving_until - time.time())
            raise RestartFailed(
                "restart_under_way",
                f"incarnation {leaving.number} leaves still, with {flows} flows, for {left_s:.0f} s at most",
                "wait until it has ended: there is never more than one old incarnation",
            )
        if old is None or not old.in_service.is_set():
            raise RestartFailed(
                "not_in_service", "the proxy is not in service yet, and has nothing to hand over", "wait until it is"
            )
        return old

    async def _hold(self, old: IncarnationProcess) -> None:
        """Have the present incarnation keep its listeners as they are, and say what it has. Raises RestartFailed."""
        old.stood = trio.Event()
        await old.tell(Hold())
        with trio.move_on_after(limits.RESTART_HOLD_S):
            await _first_of(old.stood, old.ended)
            return
        await old.tell(Release())
        raise RestartFailed(
            "restart_failed",
            f"incarnation {old.number} was not ready to be succeeded within {limits.RESTART_HOLD_S:g} s",
            "it may be taking a snapshot in, or hang: look at its log, and try again",
        )

    async def _see_off(self, old: IncarnationProcess, grace_s: float) -> None:
        """Have the old incarnation leave; kill it if it outstays its grace."""
        await old.tell(Retire(grace_s=grace_s))
        with trio.move_on_after(grace_s + limits.INCARNATION_KILL_AFTER_S):
            await old.ended.wait()
        if not old.ended.is_set():
            log.error("incarnation %d did not end in time; killed", old.number)
            old.kill()
            await old.ended.wait()
        self._leaving = None
        log.info("incarnation %d has ended", old.number)
        if old.standing is not None:
            await self._tell_before(old, old.standing, ended=True)

    async def _tell_before(self, old: IncarnationProcess, standing: Standing, *, ended: bool) -> None:
        if self._present is not None:
            await self._present.tell(
                Before(incarnation=old.number, standing=standing, ends_at=self._leaving_until, ended=ended)
            )

    async def _keep_record(
        self, *, restarts: int = 0, failures: int = 0, crashes: int = 0, problem: str | None = None
    ) -> None:
        before = self._record
        self._record = Record(
            restarts=before.restarts + restarts,
            failures=before.failures + failures,
            crashes=before.crashes + crashes,
            problem=problem if restarts or failures else before.problem,
        )
        if self._present is not None:
            await self._present.tell(self._record)

    # -- Owner ---------------------------------------------------------------------------------------------------------

    def restart_wanted(self, by: IncarnationProcess, grace_s: float | None) -> None:
        """An operator asks for a restart, by way of this incarnation."""
        self._nursery.start_soon(partial(self.restart, grace_s, by))

    async def stands(self, incarnation: IncarnationProcess, standing: Standing) -> None:
        """The one that leaves tells what it has: its successor counts it in."""
        if incarnation is self._leaving:
            await self._tell_before(incarnation, standing, ended=False)

    # -- signals -------------------------------------------------------------------------------------------------------

    async def reopen_logs(self) -> None:
        """The access log was rotated."""
        await self._tell_all(ReopenLog())

    async def stop(self) -> None:
        """Have all incarnations end, and kill those that outstay the grace. `run` returns when they are gone."""
        self._stopping = True
        self._notifier.stopping("open connections have some time to end")
        if self._new is not None:
            self._new.end()
        for incarnation in self._all():
            incarnation.close_sockets()  # the last to hold them are its workers, which accept what waits in the queues
        await self._tell_all(Stop(grace_s=self._times.stop_grace_s))
        await trio.sleep(self._times.stop_grace_s + limits.INCARNATION_KILL_AFTER_S)
        for incarnation in self._all():
            log.error("incarnation %d did not end in time; killed", incarnation.number)
            incarnation.kill()

    async def kill(self) -> None:
        """End all incarnations at once."""
        await self._tell_all(Kill())
        await trio.sleep(limits.INCARNATION_KILL_AFTER_S)
        for incarnation in self._all():
            incarnation.kill()

    def _all(self) -> tuple[IncarnationProcess, ...]:
        everyone = (self._present, self._new, self._leaving)
        return tuple(each for each in everyone if each is not None and not each.ended.is_set())

    async def _tell_all(self, message: HandoverMessage) -> None:
        for incarnation in self._all():
            await incarnation.tell(message)

    async def _all_ended(self) -> None:
        for incarnation in self._all():
            await incarnation.ended.wait()


async def _first_of(*events: trio.Event) -> None:
    async with trio.open_nursery() as nursery:
        for event in events:
            nursery.start_soon(_wait_and_cancel, event, nursery.cancel_scope)


async def _wait_and_cancel(event: trio.Event, scope: trio.CancelScope) -> None:
    await event.wait()
    scope.cancel()
