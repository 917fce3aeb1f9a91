"""The balancer agent: makes a BalancerSnapshot the state of the kernel, of BIRD and of `lo`, and tells what is there.

Theory of operation

1. Tables are built aside, in a thread; BIRD parses its new configuration; the program is loaded. Only when all this
   went well is anything touched.
2. What leaves goes from the outside in, what comes from the inside out. VIPs that are gone are withdrawn first. Then
   members, tables (each in one step) and VIPs are set in the kernel, then BIRD learns the new VIPs, then their
   addresses appear on `lo`. At no moment is a VIP announced that the kernel cannot forward.
3. The program and its maps are pinned, and stay when the agent ends. An agent that starts finds them, and touches only
   what differs. Traffic does not notice.
4. If a step fails, the state of the old snapshot is put back, and the new one refused.
5. Once a second the agent looks whether all that a VIP's announcement takes is still there.
6. A BIRD that does not answer keeps no snapshot from the kernel: it may well go on announcing, and then stale tables
   would be worse. The VIPs are reported as withheld, and BIRD is tried again every second.
"""

import logging
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Literal, NoReturn, TypeVar

import trio

from l4 import vips as loopback
from l4.announcement import ForwardingConditions, networks_to_announce, reasons_to_withhold
from l4.attachment import XdpMode, attached_program
from l4.balancer_plan import BalancerPlan, plan_for
from l4.balancer_program import BalancerProgram
from l4.bgp import session_name
from l4.bird import Bird, BirdError
from l4.direct_return import DirectReturnError, hide_vips_from_neighbours
from l4.entries import BalancerSettings
from l4.forwarding import GenerationTables, describe
from l4.interface import InterfaceError, look_up_interface
from l4.neighbours import PATIENCE_S, Neighbours, addresses_to_resolve, with_macs
from l4.program_error import NotInService, ProgramError
from l4.rehearsal import remove_leftovers
from l4.reload import NotReloaded, Replacement
from l4.tap import Tap
from l4.traffic import Traffic, read_drops, read_traffic
from orchestrator.contract.client import SnapshotRefused
from orchestrator.contract.node import Announcement
from orchestrator.contract.report import BalancerStatus, TableStatus
from orchestrator.contract.snapshot import BalancerSnapshot, Snapshot

log = logging.getLogger(__name__)

#: Seconds between looks at what announcements need: as often as the agent reports.
WATCH_INTERVAL_S = 1.0

#: Slots of the array of tables (`PoolForwarding.slot`).
TABLE_SLOTS = 256

#: What may go wrong between a snapshot and a running state, each with a message for the operator.
_FAILURES = (ProgramError, InterfaceError, loopback.VipError, DirectReturnError, OSError)


T = TypeVar("T")


class BalancerAgent:
    """An `Agent` for `run_agent`; `keep_announcing` runs beside it."""

    def __init__(self, *, interface: str, bpffs: Path, xdp_mode: XdpMode, bird: Bird) -> None:
        self._interface = interface
        self._bpffs = bpffs
        self._xdp_mode = xdp_mode
        self._bird = bird
        self._generations = GenerationTables()
        self._neighbours = Neighbours()
        # The state below changes under this lock only; kernel maps do not bear two threads either.
        self._turn = trio.Lock()
        self._program: BalancerProgram | None = None
        self._plan: BalancerPlan | None = None
        self._attached: Literal["native", "generic", "detached"] = "detached"
        self._fed: tuple[BalancerProgram, BalancerSettings] | None = None
        self._held: dict[str, tuple[bytes, TableStatus]] = {}
        self._withheld: dict[str, str] = {}
        self._sessions: dict[str, bool] = {}
        self._announcement = Announcement.NORMAL
        self._bird_trouble: str | None = None
        self._watch_trouble: str | None = None
        self._counts: Counter[str] = Counter(snapshots_refused=0, watch_failures=0, bird_failures=0, table_swaps=0)

    def __repr__(self) -> str:
        version = self._plan.snapshot.version if self._plan else None
        return f"<BalancerAgent {self._interface} {self._attached}, snapshot {version}, withheld {self._withheld}>"

    @property
    def snapshot(self) -> BalancerSnapshot | None:
        """The one in service."""
        return self._plan.snapshot if self._plan else None

    @property
    def sessions(self) -> dict[str, bool]:
        """Whether the BGP session with each neighbour was established when last looked at."""
        return dict(self._sessions)

    @property
    def withheld(self) -> dict[str, str]:
        """Why VIPs are not announced, by their names."""
        if self._plan is not None and self._bird_trouble is not None:
            return {vip.name: self._bird_trouble for vip in self._plan.snapshot.vips} | self._withheld
        return dict(self._withheld)

    async def apply(self, snapshot: Snapshot) -> None:
        """Makes `snapshot` the running state. Raises SnapshotRefused; the state before then runs on."""
        if not isinstance(snapshot, BalancerSnapshot):
            raise SnapshotRefused(f"a balancer cannot run a snapshot for a {snapshot.role}")
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
            withheld = self.withheld
            vips = self._plan.snapshot.vips if self._plan else ()
            return BalancerStatus(
                interface=self._interface,
                xdp_mode=self._attached,
                announced=tuple(vip.name for vip in vips if vip.name not in withheld),
                withheld=withheld,
                announcement=self._announcement,
                tables=tuple(status for _, status in self._held.values()),
                counters=counters,
                drops=drops,
            )

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

    async def keep_announcing(self) -> NoReturn:
        """Task: withholds what cannot be served any more, announces what can be again, keeps BIRD running."""
        while True:
            await trio.sleep(WATCH_INTERVAL_S)
            async with self._turn:
                try:
                    if self._plan is None or self._program is None:
                        await trio.to_thread.run_sync(self._withdraw_what_nobody_forwards)
                    else:
                        await self._announce(self._program, self._plan)
                except _FAILURES as error:
                    self._counts["watch_failures"] += 1
                    if str(error) != self._watch_trouble:
                        log.error("cannot look after announcements, trying again every second: %s", error)
                    self._watch_trouble = str(error)
                else:
                    self._watch_trouble = None

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
        await trio.to_thread.run_sync(self._withdraw_all_but, plan)
        await trio.to_thread.run_sync(self._install, program, plan)
        await self._announce(program, plan)

    def _withdraw_what_nobody_forwards(self) -> None:
        """No snapshot is in service. What an earlier agent left forwards on; if it is gone, so are the VIPs."""
        attached = attached_program(self._interface)
        if (attached is None or attached.name != BalancerProgram.FUNCTION) and loopback.vips_on_loopback().ours:
            log.warning("VIPs withdrawn: no balancer runs on %s, and no snapshot is in service", self._interface)
            loopback.reconcile(())

    def _withdraw_all_but(self, plan: BalancerPlan) -> None:
        remaining = {vip.network for vip in plan.snapshot.vips}
        loopback.reconcile(loopback.vips_on_loopback().ours & remaining)

    def _install(self, program: BalancerProgram, plan: BalancerPlan) -> None:
        program.guard.set_lists(plan.guard.listed)
        program.guard.set_limits(plan.guard.limits, plan.guard.limits_of_vip)
        self._set_settings(program, plan)
        self._neighbours.keep(addresses_to_resolve(plan.snapshot), PATIENCE_S)
        # Members that only the old tables name go last, those that only the new ones name come first.
        known = {entry.id: entry for entry in (*(self._plan.members if self._plan else ()), *plan.members)}
        program.set_members(with_macs(known.values(), self._neighbours))
        for table in plan.tables:
            if program.read_table(table.slot) != table.chains:
                program.swap_table(table.slot, table.chains)
                self._counts["table_swaps"] += 1
        program.set_quic_servers(plan.quic_servers)
        program.set_vips(plan.vips)
        in_use = {table.slot for table in plan.tables}
        for slot in range(TABLE_SLOTS):
            if slot not in in_use and program.read_table(slot) is not None:
                program.remove_table(slot)
        program.set_members(with_macs(plan.members, self._neighbours))
        if program is not self._program or attached_program(self._interface) is None:
            mode = program.attach(self._interface, self._xdp_mode)
            log.info("XDP program attached to %s in %s mode", self._interface, mode)

    def _set_settings(self, program: BalancerProgram, plan: BalancerPlan) -> None:
        """What the snapshot and the interface say: an operator may give that another MTU or MAC address at any time."""
        snapshot = plan.snapshot
        interface = look_up_interface(self._interface)
        settings = BalancerSettings(
            node_id=snapshot.node_id,
            hash_key=bytes.fromhex(snapshot.forwarding.hash_key),
            rows=snapshot.forwarding.rows,
            source=snapshot.address,
            source_v6=snapshot.address_v6,
            mtu=interface.mtu,
            mac=interface.mac,
            fib=snapshot.fib,
            lists_ipv4=4 in plan.guard.families,
            lists_ipv6=6 in plan.guard.families,
        )
        if (program, settings) != self._fed:
            program.set_settings(settings)
        self._fed = program, settings

    async def _announce(self, program: BalancerProgram, plan: BalancerPlan) -> None:
        """Brings `lo` and BIRD to what can be forwarded now. Idempotent."""
        conditions = await trio.to_thread.run_sync(self._look, program, plan)
        withheld = reasons_to_withhold(plan.snapshot.vips, conditions)
        for name in withheld.keys() - self._withheld.keys():
            log.warning("VIP %s withheld: %s", name, withheld[name])
        for name in self._withheld.keys() - withheld.keys():
            log.info("VIP %s no longer withheld", name)
        self._withheld = withheld
        # BIRD first: it must know a new VIP when its address appears.
        await self._keep_bird(plan)
        await trio.to_thread.run_sync(self._set_addresses, plan, withheld)

    def _look(self, program: BalancerProgram, plan: BalancerPlan) -> ForwardingConditions:
        """Reads back what the kernel holds, and follows what changes there by itself."""
        self._set_settings(program, plan)
        if addresses := addresses_to_resolve(plan.snapshot):
            self._neighbours.keep(addresses)
            program.set_members(with_macs(plan.members, self._neighbours))
        attached = attached_program(self._interface)
        is_ours = attached is not None and attached.name == BalancerProgram.FUNCTION
        self._attached = "detached"
        if attached is not None and is_ours:
            self._attached = "generic" if attached.mode is XdpMode.GENERIC else "native"
        held: dict[str, tuple[bytes, TableStatus]] = {}
        for table in plan.tables:
            octets = program.read_table(table.slot)
            if octets is None:
                continue
            known = self._held.get(table.pool)
            if known is None or known[0] != octets or known[1].generations != table.generations:
                known = octets, describe(table, octets)
            held[table.pool] = known
        self._held = held
        return ForwardingConditions(
            is_attached=is_ours,
            interface=self._interface,
            owned_rows={pool: status.rows - status.chain_lengths[0] for pool, (_, status) in held.items()},
        )

    async def _keep_bird(self, plan: BalancerPlan) -> None:
        """BIRD runs, with the plan's configuration. A node that does not speak BGP needs no BIRD."""
        bgp = plan.snapshot.bgp
        trouble = None
        established: dict[str, bool] = {}
        announcement: Announcement | None = None
        try:
            if bgp is not None or await self._bird.answers():
                await self._bird.load(plan.bird_configuration)
                established = await self._bird.sessions()
                announcement = await self._bird.announcement()
        except BirdError as error:
            trouble = str(error)
            self._counts["bird_failures"] += 1
        if trouble != self._bird_trouble:
            log.log(logging.ERROR if trouble else logging.INFO, "BIRD: %s", trouble or "in order again")
        self._bird_trouble = trouble
        if bgp is None:
            self._announcement = plan.snapshot.announcement  # there is nothing that it could differ from
        elif announcement is not None:
            self._announcement = announcement
        self._sessions = {
            str(neighbor.address): established.get(session_name(number), False)
            for number, neighbor in enumerate(bgp.neighbors if bgp else (), start=1)
        }

    def _set_addresses(self, plan: BalancerPlan, withheld: dict[str, str]) -> None:
        hide_vips_from_neighbours()
        loopback.reconcile(networks_to_announce(plan.snapshot.vips, withheld))

    def _read_counters(self) -> dict[str, int]:
        own = dict(self._counts)
        return {**self._program.counters(), **own} if self._program else own

    def _read_drops(self) -> dict[str, dict[str, int]]:
        if self._program is None or self._plan is None:
            return {}
        return read_drops(self._program, self._plan.snapshot)
