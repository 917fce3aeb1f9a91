"""What the balancer's program is fed with: the maps of a plan, and what changes by itself (interface, neighbours).

For one thread at a time.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import replace

from l4.attachment import XdpMode, attached_program
from l4.balancer_plan import BalancerPlan
from l4.balancer_program import BalancerProgram
from l4.entries import BalancerSettings, MemberEntry
from l4.forwarding import describe
from l4.interface import look_up_interface
from l4.neighbours import PATIENCE_S, Neighbours, addresses_to_resolve, with_macs
from orchestrator.contract.report import TableStatus

#: Slots of the array of tables (`PoolForwarding.slot`).
TABLE_SLOTS = 256


class BalancerFeed:
    """Of one interface."""

    def __init__(self, interface: str, counts: Counter[str]) -> None:
        """`counts` is where table swaps are counted."""
        self._interface = interface
        self._counts = counts
        self._neighbours = Neighbours()
        self._unreachable: frozenset[int] = frozenset()
        self._fed: tuple[BalancerProgram, BalancerSettings] | None = None
        self._held: dict[str, tuple[bytes, TableStatus]] = {}
        counts["table_swaps"] = 0

    @property
    def tables(self) -> tuple[TableStatus, ...]:
        """As they were last read back from the kernel."""
        return tuple(status for _, status in self._held.values())

    def install(self, program: BalancerProgram, plan: BalancerPlan, running: BalancerPlan | None) -> None:
        """Fills the maps, while packets go by the plan that runs. Raises ProgramError, InterfaceError, OSError."""
        program.guard.set_lists(plan.guard.listed)
        program.guard.set_limits(plan.guard.limits, plan.guard.limits_of_vip)
        self._set_settings(program, plan)
        self._neighbours.keep(addresses_to_resolve(plan.snapshot), PATIENCE_S)
        # Members that only the old tables name go last, those that only the new ones name come first.
        known = {entry.id: entry for entry in (*(running.members if running else ()), *plan.members)}
        self._set_members(program, known.values())
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
        self._set_members(program, plan.members)

    def follow(self, program: BalancerProgram, plan: BalancerPlan) -> None:
        """Follows the interface's MTU and MAC address, and the neighbours'. Raises as `install`."""
        self._set_settings(program, plan)
        if addresses := addresses_to_resolve(plan.snapshot):
            self._neighbours.keep(addresses)
            self._set_members(program, plan.members)

    def mark_unreachable(
        self, members: frozenset[int], program: BalancerProgram | None, plan: BalancerPlan | None
    ) -> None:
        """These members, and no others that the plan lets live, are not live from now on: this node's probes say so.

        Raises ProgramError, OSError.
        """
        self._unreachable = members
        if program is not None and plan is not None:
            self._set_members(program, plan.members)

    def read_tables(self, program: BalancerProgram, plan: BalancerPlan) -> None:
        """Reads back the plan's tables from the kernel. Raises ProgramError, OSError."""
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

    def attached(self) -> XdpMode | None:
        """The mode in which our program runs on the interface; None if it does not. Raises ProgramError."""
        attached = attached_program(self._interface)
        return attached.mode if attached is not None and attached.name == BalancerProgram.FUNCTION else None

    def _set_members(self, program: BalancerProgram, members: Iterable[MemberEntry]) -> None:
        known = with_macs(members, self._neighbours)
        program.set_members([replace(one, live=False) if one.id in self._unreachable else one for one in known])

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
