"""The redirector agent: makes a RedirectorSnapshot the state of a member's host, and takes the census of its flows.

The kernel is made ready from the inside out: members and tunnel sources first, then the program, then settings and
routes that leave room for the encapsulation, and at last the VIPs on `lo`, with which the host accepts flows. All of it
stays when the agent ends: the flows of this host do not notice a restart. While it runs, what somebody takes away comes
back as soon as the kernel tells of it.
"""

import logging
import math
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Literal, TypeVar

import trio

from l4.attachment import XdpMode, attached_program
from l4.census import Census
from l4.direct_return import DirectReturnError
from l4.entries import MemberEntry
from l4.forwarding import GenerationTables
from l4.host_keeper import HostKeeper
from l4.host_policy import redirector_policy
from l4.interface import InterfaceError, look_up_interface
from l4.kernel_events import Heard
from l4.pace import Pace
from l4.program_error import NotInService, ProgramError
from l4.redirector_program import RedirectorProgram
from l4.rehearsal import remove_leftovers
from l4.reload import NotReloaded, Replacement
from l4.restorations import Concern, Restoration
from l4.snapshot_entries import member_entries
from l4.tcp_sockets import SocketDumpError, tcp_flows
from l4.vips import VipError
from l4.watch import Occasion, Watch
from orchestrator.contract.client import SnapshotRefused
from orchestrator.contract.report import PoolCensus, RedirectorStatus
from orchestrator.contract.snapshot import RedirectorSnapshot, Snapshot

log = logging.getLogger(__name__)

#: What may go wrong between a snapshot and a running state, each with a message for the operator.
_FAILURES = (ProgramError, InterfaceError, VipError, DirectReturnError, OSError)


@dataclass(frozen=True, slots=True)
class _Plan:
    """What a snapshot means for this host, worked out and checked."""

    snapshot: RedirectorSnapshot
    members: tuple[MemberEntry, ...]
    census: Census


T = TypeVar("T")


class RedirectorAgent:
    """An `Agent` for `run_agent`. Each status takes a fresh census."""

    def __init__(self, *, interface: str, bpffs: Path, xdp_mode: XdpMode) -> None:
        self._interface = interface
        self._bpffs = bpffs
        self._xdp_mode = xdp_mode
        self._generations = GenerationTables()
        # The state below changes under this lock only; kernel maps and the census do not bear two threads either.
        self._turn = trio.Lock()
        self._program: RedirectorProgram | None = None
        self._plan: _Plan | None = None
        self._counts: Counter[str] = Counter(
            snapshots_refused=0, census_failures=0, watch_failures=0, programs_restored=0
        )
        self._watch = Watch(interface)
        self._watch_trouble: str | None = None
        self._host = HostKeeper(self._counts)
        self._attaching = Pace(time.monotonic)

    def __repr__(self) -> str:
        version = self._plan.snapshot.version if self._plan else None
        return f"<RedirectorAgent {self._interface}, snapshot {version}>"

    @property
    def snapshot(self) -> RedirectorSnapshot | None:
        """The one in service."""
        return self._plan.snapshot if self._plan else None

    @property
    def restorations(self) -> tuple[Restoration, ...]:
        """What was put right on this host lately."""
        return self._host.restorations.recent()

    async def apply(self, snapshot: Snapshot) -> None:
        """Makes `snapshot` the running state. Raises SnapshotRefused; the state before then runs on."""
        if not isinstance(snapshot, RedirectorSnapshot):
            raise SnapshotRefused(f"a redirector cannot run a snapshot for a {snapshot.role}")
        try:
            plan = await trio.to_thread.run_sync(self._plan_for, snapshot)
            async with self._turn:
                program = self._program
                if program is None:
                    program = await trio.to_thread.run_sync(RedirectorProgram, self._bpffs)
                    remove_leftovers(program.pins)  # of a trace whose agent died in the middle of it
                await trio.to_thread.run_sync(self._switch, program, plan)
        except (*_FAILURES, ValueError) as error:
            self._counts["snapshots_refused"] += 1
            raise SnapshotRefused(str(error)) from error
        self._generations.retain(snapshot.pools, snapshot.forwarding)

    async def reload(self) -> Replacement:
        """Loads the program anew, fills it, and puts it in the running one's place. Raises NotReloaded."""
        async with self._turn:
            if self._plan is None:
                raise NotReloaded("no snapshot is in service yet: there is nothing to fill a program with")
            try:
                before = attached_program(self._interface)
                program = await trio.to_thread.run_sync(RedirectorProgram, self._bpffs)
                await trio.to_thread.run_sync(self._switch, program, self._plan)
                after = attached_program(self._interface)
            except _FAILURES as error:
                raise NotReloaded(str(error)) from error
        if after is None:
            raise NotReloaded(f"somebody took the program off {self._interface} meanwhile")
        return Replacement(self._interface, before.program_id if before else None, after.program_id, str(after.mode))

    async def status(self) -> RedirectorStatus:
        """What this host runs and holds now."""
        async with self._turn:
            return await trio.to_thread.run_sync(self._read_status)

    async def keep_in_order(self) -> None:
        """Task: puts right what somebody takes off this host or changes on it, and follows its interface."""
        await self._watch.run(self._look)

    async def inspect(self, look: Callable[[RedirectorProgram, RedirectorSnapshot], T]) -> T:
        """What `look` makes of the running program and its snapshot, in a thread, between two changes of them.

        Raises NotInService.
        """
        async with self._turn:
            if self._program is None or self._plan is None:
                raise NotInService("no snapshot is in service yet")
            return await trio.to_thread.run_sync(look, self._program, self._plan.snapshot)

    def _plan_for(self, snapshot: RedirectorSnapshot) -> _Plan:
        """In a thread: builds generations. Raises ValueError."""
        return _Plan(
            snapshot=snapshot,
            members=tuple(member_entries(snapshot.pools)),
            census=Census(snapshot, self._generations),
        )

    def _switch(self, program: RedirectorProgram, plan: _Plan) -> None:
        """From what runs to another program or plan. Puts back what ran if that fails, and raises what failed."""
        try:
            self._install(program, plan)
        except _FAILURES:
            self._put_back()
            raise
        self._program, self._plan = program, plan

    def _put_back(self) -> None:
        if self._plan is None or self._program is None:
            return
        log.warning("putting snapshot %d back", self._plan.snapshot.version)
        try:
            self._install(self._program, self._plan)
        except _FAILURES:
            self._counts["snapshots_not_put_back"] += 1
            log.exception("snapshot %d could not be put back as a whole", self._plan.snapshot.version)

    def _install(self, program: RedirectorProgram, plan: _Plan) -> None:
        snapshot = plan.snapshot
        program.set_members(plan.members)
        program.set_tunnel_sources(snapshot.tunnel_sources, snapshot.probe_sources)
        self._set_settings(program, plan)
        if program is not self._program or attached_program(self._interface) is None:
            mode = program.attach(self._interface, self._xdp_mode)
            log.info("XDP program attached to %s in %s mode", self._interface, mode)
        self._host.establish(redirector_policy(snapshot, self._interface))

    def _set_settings(self, program: RedirectorProgram, plan: _Plan) -> None:
        """What the snapshot and the interface say: an operator may give that another MAC address at any time."""
        address = plan.snapshot.address
        interface = look_up_interface(self._interface)
        program.set_settings(
            v4=address if isinstance(address, IPv4Address) else None,
            v6=address if isinstance(address, IPv6Address) else None,
            mac=interface.mac,
        )

    async def _look(self, occasion: Occasion) -> float:
        """Returns the seconds after which to look again at the latest."""
        again_s = math.inf
        async with self._turn:
            if self._program is None or self._plan is None:
                return again_s
            try:
                again_s = await trio.to_thread.run_sync(self._put_right, self._program, self._plan, occasion)
            except _FAILURES as error:
                self._counts["watch_failures"] += 1
                if str(error) != self._watch_trouble:
                    log.error("cannot look after this host, trying again every second: %s", error)
                self._watch_trouble = str(error)
            else:
                self._watch_trouble = None
        return again_s

    def _put_right(self, program: RedirectorProgram, plan: _Plan, occasion: Occasion) -> float:
        policy = redirector_policy(plan.snapshot, self._interface)
        again_s = self._host.keep(policy, heard=Heard.HOST in occasion.heard, is_beat=occasion.is_beat)
        if occasion.is_beat or Heard.INTERFACE in occasion.heard:
            self._set_settings(program, plan)
        if attached_program(self._interface) is not None:
            return again_s
        if not self._attaching.wait_s:
            self._attaching.attempted()
            program.attach(self._interface, self._xdp_mode)
            self._counts["programs_restored"] += 1
            self._host.restorations.note(Concern.PROGRAM, f"somebody took it off {self._interface}")
            log.warning("somebody took the XDP program off %s; attached again", self._interface)
        return min(again_s, self._attaching.wait_s)

    def _read_status(self) -> RedirectorStatus:
        counters = self._read_counters()
        return RedirectorStatus(
            interface=self._interface,
            xdp_mode=self._mode(),
            census=self._take_census(),
            new_flows=counters.get("local_syn", 0),
            counters=counters,
        )

    def _mode(self) -> Literal["native", "generic", "detached"]:
        try:
            attached = attached_program(self._interface)
        except ProgramError as error:
            log.error("%s", error)
            return "detached"
        if attached is None or attached.name != RedirectorProgram.FUNCTION:
            return "detached"
        return "generic" if attached.mode is XdpMode.GENERIC else "native"

    def _take_census(self) -> tuple[PoolCensus, ...]:
        """None at all if the kernel does not list its sockets: an old count would pass for a fresh one."""
        if self._plan is None:
            return ()
        try:
            return self._plan.census.count(tcp_flows())
        except SocketDumpError as error:
            self._counts["census_failures"] += 1
            log.error("no census: %s", error)
            return ()

    def _read_counters(self) -> dict[str, int]:
        own = dict(self._counts)
        return {**self._program.counters(), **own} if self._program else own
