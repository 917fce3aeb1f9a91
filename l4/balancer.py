"""The balancer agent: makes a BalancerSnapshot the state of the kernel, of BIRD and of `lo`, and tells what is there.

Theory of operation

1. Tables are built aside, in a thread; BIRD parses its new configuration; the program is loaded. Only when all this
   went well is anything touched.
2. What leaves goes from the outside in, what comes from the inside out. VIPs that are gone are withdrawn first. Then
   members, tables (each in one step) and VIPs are set in the kernel, then BIRD learns the new VIPs, then their
   addresses appear on `lo`. At no moment is a VIP announced that the kernel cannot forward.
3. The program and its maps are pinned, and stay when the agent ends. An agent that starts finds them, and touches only
   what differs. Traffic does not notice. If none starts in time, the kernel takes the VIPs off `lo`.
4. If a step fails, the state of the old snapshot is put back, and the new one refused.
5. What a VIP's announcement takes is looked at as the kernel tells of changes, and once a second (`Announcer`).
6. A BIRD that does not answer keeps no snapshot from the kernel: it may well go on announcing, and then stale tables
   would be worse. The VIPs are reported as withheld, and BIRD is tried again every second.
"""

import logging
import math
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import trio

from l4.announcer import Announcer
from l4.attachment import XdpMode, attached_program
from l4.balancer_feed import BalancerFeed
from l4.balancer_plan import BalancerPlan, plan_for
from l4.balancer_program import BalancerProgram
from l4.bird import Bird, BirdError
from l4.direct_return import DirectReturnError
from l4.forwarding import GenerationTables
from l4.interface import InterfaceError
from l4.probes.prober import Prober
from l4.probes.reached import with_reached
from l4.program_error import NotInService, ProgramError
from l4.rehearsal import remove_leftovers
from l4.reload import NotReloaded, Replacement
from l4.restorations import Restoration
from l4.tap import Tap
from l4.traffic import Traffic, read_drops, read_traffic
from l4.vips import VipError
from l4.watch import BEAT_S, Occasion, Watch
from orchestrator.contract.client import Bell, SnapshotRefused
from orchestrator.contract.report import BalancerStatus
from orchestrator.contract.snapshot import BalancerSnapshot, Snapshot

log = logging.getLogger(__name__)

#: What may go wrong between a snapshot and a running state, each with a message for the operator.
_FAILURES = (ProgramError, InterfaceError, VipError, DirectReturnError, OSError)


T = TypeVar("T")


class BalancerAgent:
    """An `Agent` for `run_agent`; `keep_announcing` runs beside it."""

    def __init__(self, *, interface: str, bpffs: Path, xdp_mode: XdpMode, bird: Bird) -> None:
        self._interface = interface
        self._bpffs = bpffs
        self._xdp_mode = xdp_mode
        self._bird = bird
        self._generations = GenerationTables()
        # One change after another: a plan is built from what the one before left.
        self._change = trio.Lock()
        # The state below changes under this lock only; kernel maps do not bear two threads either.
        self._turn = trio.Lock()
        self._program: BalancerProgram | None = None
        self._plan: BalancerPlan | None = None
        self._watch = Watch(interface)
        self._watch_trouble: str | None = None
        self.bell = Bell()
        self.prober = Prober(interface)
        self._counts: Counter[str] = Counter(snapshots_refused=0, watch_failures=0)
        self._feed = BalancerFeed(interface, self._counts)
        self._announcer = Announcer(
            interface=interface, xdp_mode=xdp_mode, bird=bird, feed=self._feed, counts=self._counts
        )

    def __repr__(self) -> str:
        version = self._plan.snapshot.version if self._plan else None
        return f"<BalancerAgent, snapshot {version}, {self._announcer}>"

    @property
    def snapshot(self) -> BalancerSnapshot | None:
        """The one in service."""
        return self._plan.snapshot if self._plan else None

    @property
    def restorations(self) -> tuple[Restoration, ...]:
        """What was put right on this host lately."""
        return self._announcer.restorations

    def look_again(self) -> None:
        """Something changed that announcing depends on, and that the kernel does not tell of: a member's live bit.

        To be called in the trio thread; the look follows within milliseconds.
        """
        self._watch.look_again()

    async def apply(self, snapshot: Snapshot) -> None:
        """Makes `snapshot` the running state. Raises SnapshotRefused; the state before then runs on."""
        if not isinstance(snapshot, BalancerSnapshot):
            raise SnapshotRefused(f"a balancer cannot run a snapshot for a {snapshot.role}")
        async with self._change:
            await self._apply(with_reached(snapshot, self.prober.reached))

    async def take_in_reached(self) -> None:
        """Puts members into the chains that this node reaches, and that the snapshot says nobody can.

        Raises SnapshotRefused; the state before then runs on.
        """
        async with self._change:
            if self.snapshot is not None:
                seen = with_reached(self.snapshot, self.prober.reached)
                if seen is not self.snapshot:
                    await self._apply(seen)
                    log.info("members that the orchestrator takes for unreachable are reached from here, and stay")

    async def _apply(self, snapshot: BalancerSnapshot) -> None:
        try:
            plan = await trio.to_thread.run_sync(plan_for, snapshot, self._generations, self._bird.log_file)
            await self._bird.check(plan.bird_configuration)
            async with self._turn:
                program = self._program
                if program is None or program.rows != snapshot.forwarding.rows:
                    program = await trio.to_thread.run_sync(self._load, snapshot.forwarding.rows)
                await self._switch(program, plan)
        except (*_FAILURES, BirdError, ValueError) as error:
            self._counts["snapshots_refused"] += 1
            raise SnapshotRefused(str(error)) from error
        self._generations.retain(snapshot.pools, snapshot.forwarding)

    async def reload(self) -> Replacement:
        """Loads the program anew, fills it, and puts it in the running one's place. Raises NotReloaded."""
        async with self._turn:
            if self._plan is None:
                raise NotReloaded("no snapshot is in service yet: there is nothing to fill a program with")
            rows = self._plan.snapshot.forwarding.rows
            try:
                before = attached_program(self._interface)
                program = await trio.to_thread.run_sync(self._load, rows)
                if self._program is not None:
                    program.show_to_tap(self._program.is_tapped)  # a capture goes on
                await self._switch(program, self._plan)
                after = attached_program(self._interface)
            except _FAILURES as error:
                raise NotReloaded(str(error)) from error
        if after is None:
            raise NotReloaded(f"somebody took the program off {self._interface} meanwhile")
        return Replacement(self._interface, before.program_id if before else None, after.program_id, str(after.mode))

    async def status(self) -> BalancerStatus:
        """What this node runs, read back from the kernel at the last look, with the counters of now."""
        async with self._turn:
            counters = await trio.to_thread.run_sync(self._read_counters)
            drops = await trio.to_thread.run_sync(self._read_drops)
            announcer = self._announcer
            withheld = announcer.withheld
            vips = self._plan.snapshot.vips if self._plan else ()
            return BalancerStatus(
                interface=self._interface,
                xdp_mode=announcer.attached,
                announced=tuple(vip.name for vip in vips if vip.name not in withheld),
                withheld=withheld,
                announced_despite=announcer.announced_despite,
                announcement=announcer.announcement,
                sessions=dict(announcer.sessions),
                forwarded=counters.get("forwarded", 0),
                tables=self._feed.tables,
                counters=counters,
                drops=drops,
                probes=self.prober.verdicts(),
            )

    async def mark_unreachable(self, members: frozenset[int]) -> None:
        """Takes the live bit of these members, and of no others that the snapshot lets live, at once.

        Raises ProgramError, OSError.
        """
        async with self._turn:
            await trio.to_thread.run_sync(self._feed.mark_unreachable, members, self._program, self._plan)
        self.look_again()

    async def traffic(self) -> Traffic:
        """Totals by VIP and member, for metrics."""
        async with self._turn:
            if self._program is None or self._plan is None:
                return Traffic()
            return await trio.to_thread.run_sync(read_traffic, self._program, self._plan.snapshot)

    async def inspect(self, look: Callable[[BalancerProgram, BalancerSnapshot], T]) -> T:
        """What `look` makes of the running program and its snapshot, in a thread, between two changes of them.

        Raises NotInService.
        """
        async with self._turn:
            if self._program is None or self._plan is None:
                raise NotInService("no snapshot is in service yet")
            return await trio.to_thread.run_sync(look, self._program, self._plan.snapshot)

    async def keep_announcing(self) -> None:
        """Task: withholds what cannot be served any more, announces what can be again, keeps `lo` and BIRD in order."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._watch.run, self._look)
            while True:
                await trio.sleep(BEAT_S)
                await self._announcer.keep_bird()

    async def _look(self, occasion: Occasion) -> float:
        """Returns the seconds after which to look again at the latest."""
        again_s = math.inf
        async with self._turn:
            try:
                if self._plan is not None and self._program is not None:
                    again_s = await trio.to_thread.run_sync(self._announcer.look, self._program, self._plan, occasion)
                elif occasion.is_beat:
                    await trio.to_thread.run_sync(self._announcer.look_after_nothing)
            except _FAILURES as error:
                self._counts["watch_failures"] += 1
                if str(error) != self._watch_trouble:
                    log.error("cannot look after announcements, trying again every second: %s", error)
                self._watch_trouble = str(error)
            else:
                self._watch_trouble = None
        return again_s

    def _load(self, rows: int) -> BalancerProgram:
        """A program for tables of this size, loaded anew: it changes nothing until it is attached."""
        program = BalancerProgram(self._bpffs, rows=rows)
        if self._program is None:
            # Of a capture or a trace whose agent died in the middle of it.
            Tap.clear(program.pins)
            remove_leftovers(program.pins)
        else:
            program.show_to_tap(self._program.is_tapped)  # a capture goes on
        return program

    async def _switch(self, program: BalancerProgram, plan: BalancerPlan) -> None:
        """From the running plan to another. Puts the running one back if that fails, and raises what failed."""
        try:
            await self._run(program, plan)
        except _FAILURES:
            await self._put_back()
            raise
        self._program, self._plan = program, plan

    async def _put_back(self) -> None:
        if self._plan is None or self._program is None:
            return
        log.warning("putting snapshot %d back", self._plan.snapshot.version)
        try:
            await self._run(self._program, self._plan)
        except _FAILURES:
            self._counts["snapshots_not_put_back"] += 1
            log.exception("snapshot %d could not be put back as a whole", self._plan.snapshot.version)

    async def _run(self, program: BalancerProgram, plan: BalancerPlan) -> None:
        await trio.to_thread.run_sync(self._announcer.withdraw_all_but, plan)
        await trio.to_thread.run_sync(self._install, program, plan)
        await self._announcer.announce(program, plan)

    def _install(self, program: BalancerProgram, plan: BalancerPlan) -> None:
        self._feed.install(program, plan, self._plan)
        if program is not self._program or attached_program(self._interface) is None:
            mode = program.attach(self._interface, self._xdp_mode)
            log.info("XDP program attached to %s in %s mode", self._interface, mode)

    def _read_counters(self) -> dict[str, int]:
        own = dict(self._counts) | dict(self.prober.counts)
        return {**self._program.counters(), **own} if self._program else own

    def _read_drops(self) -> dict[str, dict[str, int]]:
        if self._program is None or self._plan is None:
            return {}
        return read_drops(self._program, self._plan.snapshot)
