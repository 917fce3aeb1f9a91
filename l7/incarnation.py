"""One incarnation of the proxy: a supervisor with its workers, the agent's session, and the keeper's orders.

Started by the keeper as `python -m l7.service serve`, never by hand. `l7.handover` draws how one succeeds another.
"""

import logging

import trio

from l7 import limits
from l7.handover import (
    MAX_REASON,
    Before,
    Hold,
    InService,
    Kill,
    Record,
    Release,
    ReopenLog,
    Retire,
    Stop,
    Trouble,
    Welcome,
)
from l7.keeper_link import KeeperLink
from l7.predecessor import Predecessor
from l7.respondent import ProxyRespondent
from l7.supervisor import Supervisor
from orchestrator.contract.client import Bell, SnapshotRefused, run_agent
from orchestrator.contract.report import ProxyStatus
from orchestrator.contract.snapshot import Snapshot
from orchestrator.contract.state_directory import StateDirectory

log = logging.getLogger(__name__)


class Incarnation:
    """Follows the keeper's orders, and the orchestrator's snapshots (`orchestrator.contract.client.Agent`)."""

    def __init__(self, link: KeeperLink, welcome: Welcome, supervisor: Supervisor, state: StateDirectory) -> None:
        self._link = link
        self._supervisor = supervisor
        self._state = state
        self._is_alone = welcome.is_alone
        self._needs_version = welcome.before.snapshot_version if welcome.before and not welcome.is_alone else 0
        self._respondent = ProxyRespondent(link)
        self._session = trio.CancelScope()
        self._speaks = trio.Event()
        """It is the one that reports."""
        if welcome.is_alone:
            self._speaks.set()
        self._bell = Bell()
        self._release = trio.Event()
        self._leaves = False
        self._nursery: trio.Nursery
        self.in_service = trio.Event()
        self.succeeded = trio.Event()

    async def run(self) -> None:
        """Until it was told to end, and has."""
        async with trio.open_nursery() as self._nursery:
            self._nursery.start_soon(self._supervisor.run)
            self._nursery.start_soon(self._follow_orchestrator)
            self._nursery.start_soon(self._come_into_service)
            async for order in self._link.orders():
                match order:
                    case Before():
                        self._supervisor.predecessor = Predecessor(
                            order.standing, order.incarnation, order.ends_at, is_leaving=not order.ended
                        )
                    case Record():
                        self._supervisor.record = order
                        self._speaks.set()
                        self._bell.ring()
                    case Hold():
                        self._release = trio.Event()
                        self._nursery.start_soon(self._hold, self._release)
                    case Release():
                        self._release.set()
                    case Retire(grace_s=grace_s):
                        self._leave(grace_s, has_heir=True)
                    case Stop(grace_s=grace_s):
                        self._leave(grace_s, has_heir=False)
                    case ReopenLog():
                        await self._supervisor.reopen_logs()
                    case Kill():
                        log.warning("ending at once")
                        self._supervisor.kill()
                        self._nursery.cancel_scope.cancel()
                    case _:
                        log.error("message out of turn: %s", order.kind)
            # Without a keeper nobody could end this incarnation in order, nor start the next.
            self._leave(limits.STOP_GRACE_S, has_heir=False)

    # -- coming --------------------------------------------------------------------------------------------------------

    async def _follow_orchestrator(self) -> None:
        with self._session:
            await run_agent(self, state=self._state, respondent=self._respondent, bell=self._bell, speaks=self._speaks)

    async def _come_into_service(self) -> None:
        await self._supervisor.all_in_service(self._needs_version)
        log.info("serving: %r", self._supervisor)
        self.in_service.set()
        await self._link.tell(InService())

    async def apply(self, snapshot: Snapshot) -> None:
        """Have every worker run the snapshot, or none. Raises SnapshotRefused."""
        try:
            await self._supervisor.apply(snapshot)
        except SnapshotRefused as refused:
            if not self._is_alone and not self.in_service.is_set():
                await self._link.tell(Trouble(reason=f"snapshot {snapshot.version}: {refused}"[:MAX_REASON]))
            raise

    async def status(self) -> ProxyStatus:
        """Of the proxy as a whole."""
        return await self._supervisor.status()

    # -- being succeeded -----------------------------------------------------------------------------------------------

    async def _hold(self, release: trio.Event) -> None:
        async with self._supervisor.listeners_held:
            await self._link.tell(self._supervisor.standing())
            await release.wait()

    # -- leaving -------------------------------------------------------------------------------------------------------

    def _leave(self, grace_s: float, *, has_heir: bool) -> None:
        if self._leaves:
            self._nursery.start_soon(self._cut_short, grace_s)
            return
        self._leaves = True
        if has_heir:
            self.succeeded.set()
            self._nursery.start_soon(self._end_session)
        log.info("leaving: open connections have %g s to end", grace_s)
        self._nursery.start_soon(self._say_goodbye, grace_s, has_heir)

    async def _end_session(self) -> None:
        """The successor speaks for the node from now on; who asked for it gets the answer."""
        with trio.move_on_after(limits.RESTART_ANSWER_S):
            await self._respondent.quiet()
        self._session.cancel()

    async def _say_goodbye(self, grace_s: float, has_heir: bool) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._tell_what_is_left)
            await self._supervisor.stop(grace_s, has_heir=has_heir)
            nursery.cancel_scope.cancel()
        await self._link.tell(self._supervisor.standing())
        log.info("left")
        self._nursery.cancel_scope.cancel()

    async def _tell_what_is_left(self) -> None:
        while True:
            await self._link.tell(self._supervisor.standing())
            await trio.sleep(limits.WORKER_STATUS_S)

    async def _cut_short(self, grace_s: float) -> None:
        """Told to stop while it leaves: whatever grace it had, it has no more than this."""
        await trio.sleep(grace_s)
        self._supervisor.kill()
