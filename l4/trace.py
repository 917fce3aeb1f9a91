"""What a balancer would do with a packet: rehearsed by the program itself, told with the names of the snapshot."""

import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from l4.balancer_program import BalancerProgram
from l4.entries import PROTOCOL_TCP, PROTOCOL_UDP
from l4.flow_hash import row_of
from l4.frames import UDP, layers
from l4.interface import Interface
from l4.probe_frame import probe_frame
from l4.program_loader import counter_names
from l4.program_run import ProgramRun
from l4.rehearsal import Rehearsal
from l4.shared_maps import U32
from l4.snapshot_entries import uses_flow_table
from l4.tap_records import TapNote
from l4.trace_words import VERDICTS, reason_in_words
from l4.vip_counters import SUMMED_OVER_VIPS
from orchestrator.contract.inquiry import (
    MAX_SNAP_LENGTH,
    OuterHeader,
    OwnerState,
    Probe,
    TraceAnswer,
    TracedStep,
    Verdict,
)
from orchestrator.contract.pool import Encapsulation, Member, PoolForwarding
from orchestrator.contract.snapshot import BalancerSnapshot
from orchestrator.contract.vip import Protocol, Vip

_FLOW = struct.Struct("=16s16s2sBx2s2x")
"""`struct flow`: client address; service address, port and protocol; client port."""
_IPV4_FLOW = struct.Struct("=4s4s2sBx2s2x")
"""`struct ipv4_flow`: the same with shorter addresses."""
_PROTOCOLS = {Protocol.TCP: PROTOCOL_TCP, Protocol.UDP: PROTOCOL_UDP}

#: Flows that a rehearsal's flow table holds: the one that is rehearsed.
_FLOW_TABLE_ENTRIES = 1024


def rehearsal_of(program: BalancerProgram) -> Rehearsal:
    """For traces on this program's maps. Raises ProgramError, OSError."""
    definitions = {**program.definitions, "FLOW_TABLE_ENTRIES": _FLOW_TABLE_ENTRIES}
    return Rehearsal(program.NAME, "balancer.c", program.FUNCTION, program.pins, definitions)


def trace(
    program: BalancerProgram, rehearsal: Rehearsal, snapshot: BalancerSnapshot, interface: Interface, probe: Probe
) -> TraceAnswer:
    """What would become of the probe now. Raises OSError, and ValueError for a probe that cannot be."""
    frame = probe_frame(probe, interface.mac)
    rehearsal.forget()
    remembered = _copy_flow(program, rehearsal, probe)
    run = rehearsal.run(frame, socket.if_nametoindex(interface.name))
    note = TapNote.of_all_cpus(rehearsal.map("tap_note").lookup(U32.pack(0)) or b"")
    return _Told(program, snapshot, probe, run, note, _moved(rehearsal, note), remembered).answer(frame)


def _moved(rehearsal: Rehearsal, note: TapNote | None) -> dict[str, int]:
    """The counters that the packet would have moved: those that are sums over VIPs as well."""
    moved = rehearsal.counters()
    reason = _reason(note)
    if reason in SUMMED_OVER_VIPS:
        moved[reason] = moved.get(reason, 0) + 1
    return moved


def _reason(note: TapNote | None) -> str | None:
    """Name of the counter that decided."""
    if note is None:
        return None
    return "forwarded" if note.reason is None else counter_names("BALANCER")[note.reason]


def _copy_flow(program: BalancerProgram, rehearsal: Rehearsal, probe: Probe) -> bytes | None:
    """Lets the rehearsal remember of this flow what the program does."""
    version = probe.source.version
    flow = (_IPV4_FLOW if version == 4 else _FLOW).pack(
        probe.source.packed,
        probe.destination.packed,
        probe.destination_port.to_bytes(2, "big"),
        _PROTOCOLS[probe.protocol],
        probe.source_port.to_bytes(2, "big"),
    )
    name = f"flow_table_ipv{version}"
    with program.pins.open(name) as flow_table:
        entry = flow_table.lookup(flow)
    if entry is not None:
        rehearsal.map(name).update(flow, entry)
    return entry


@dataclass(frozen=True, slots=True)
class _Told:
    """A rehearsal's outcome, to be put into words."""

    program: BalancerProgram
    snapshot: BalancerSnapshot
    probe: Probe
    run: ProgramRun
    note: TapNote | None
    counters: dict[str, int]
    remembered: bytes | None

    def answer(self, frame: bytes) -> TraceAnswer:
        vip, pool, row = self._vip(), self._pool(), self._row()
        verdict = VERDICTS.get(self.run.verdict, Verdict.ABORTED)
        return TraceAnswer(
            steps=tuple(self._steps(frame, verdict)),
            verdict=verdict,
            reason=_reason(self.note),
            counters=self.counters,
            vip=vip.name if vip else None,
            pool=pool.name if pool else None,
            hash=f"{self.note.hash:016x}" if self.note and self.note.hash else None,
            row=row,
            chain=self._chain(),
            owner=self._name(self.note.owner) if self.note and self.note.owner else None,
            outer=self._outer(),
            frame=self.run.frame[:MAX_SNAP_LENGTH] if verdict is Verdict.SENT else b"",
        )

    def _steps(self, frame: bytes, verdict: Verdict) -> Iterator[TracedStep]:
        yield TracedStep(what="packet", words=str(layers(frame)[0]))
        vip, pool, row = self._vip(), self._pool(), self._row()
        if vip is None:
            if self.note is None:
                yield TracedStep(what="vip", words="for no VIP of this node")
        else:
            where = f"{vip.network} ports {vip.port} to {vip.last_port}" if vip.last_port else ""
            kind = f", by {pool.encapsulation}" if pool else ""
            words = f"{vip.name}{f' ({where})' if where else ''} → pool {vip.pool}{kind}"
            yield TracedStep(what="vip", words=words)
        if words := self._flow_table_in_words():
            yield TracedStep(what="flow_table", words=words)
        if row is not None and self.note is not None:
            words = f"{self.note.hash:016x} → row {row} of {self.program.rows}"
            yield TracedStep(what="row", words=words)
        if chain := self._chain():
            yield TracedStep(what="chain", words=", then ".join(_owner_in_words(owner) for owner in chain))
        if "fail_open" in self.counters:
            yield TracedStep(what="fail_open", words="no owner is live: the bits are ignored")
        yield TracedStep(what="verdict", words=self._verdict_in_words(verdict))

    def _verdict_in_words(self, verdict: Verdict) -> str:
        reason = _reason(self.note)
        outer = self._outer()
        if self.note is not None and self.note.owner and outer is not None:
            ends = f": {outer.source} > {outer.destination}" if outer.source else ""
            return f"sent to {self._name(self.note.owner)} by {outer.kind}{ends}"
        if verdict is Verdict.PASSED and reason is None:
            return "passed to the node's own kernel"
        words = "answered" if verdict is Verdict.SENT else str(verdict)
        return f"{words}: {reason_in_words(reason)}" if reason else words

    def _flow_table_in_words(self) -> str:
        """Empty if the flow table was not asked."""
        if "flow_table_misses" in self.counters:
            if self.remembered is None:
                return "the flow table does not know this flow: by its row"
            return "the flow table remembers this flow, but its member is gone or its time is over: by its row"
        if self.note is not None and self.note.owner and self._goes_where_it_went():
            return f"the flow table knows this flow: it goes to {self._name(self.note.owner)}"
        return ""

    def _goes_where_it_went(self) -> bool:
        """Whether the flow table told where to. A hit is not counted; but who was asked and did not miss has hit."""
        vip, pool = self._vip(), self._pool()
        return (
            self.remembered is not None
            and vip is not None
            and pool is not None
            and uses_flow_table(vip, pool)
            and not self._is_syn()
            and "quic_by_server_id" not in self.counters
        )

    def _is_syn(self) -> bool:
        return "S" in self.probe.flags and "A" not in self.probe.flags

    def _vip(self) -> Vip | None:
        vip_id = self.note.vip_id if self.note else 0
        return next((vip for vip in self.snapshot.vips if vip.id == vip_id), None)

    def _pool(self) -> PoolForwarding | None:
        vip = self._vip()
        return next((pool for pool in self.snapshot.pools if vip and pool.name == vip.pool), None)

    def _row(self) -> int | None:
        return row_of(self.note.hash, self.program.rows) if self.note and self.note.hash else None

    def _chain(self) -> tuple[OwnerState, ...]:
        """The row's owners, as the kernel holds them."""
        pool, row = self._pool(), self._row()
        owners = self.program.read_row(pool.slot, row) if pool is not None and row is not None else ()
        return tuple(self._owner(owner) for owner in owners)

    def _owner(self, member_id: int) -> OwnerState:
        member = self._member(member_id)
        entry = self.program.read_member(member_id)
        return OwnerState(
            id=member_id,
            name=member.name if member else None,
            address=member.address if member else None,
            live=entry is not None and entry.live,
            state=str(member.state) if member else None,
        )

    def _member(self, member_id: int) -> Member | None:
        members = (member for pool in self.snapshot.pools for member in pool.members)
        return next((member for member in members if member.id == member_id), None)

    def _name(self, member_id: int) -> str:
        member = self._member(member_id)
        return member.name if member else f"member-{member_id}"

    def _outer(self) -> OuterHeader | None:
        if self.note is None or not self.note.owner:
            return None
        return outer_header(self.run.frame, self._pool())


def outer_header(frame: bytes, pool: PoolForwarding | None) -> OuterHeader | None:
    """What was put before the packet; None if the frame cannot be read."""
    found = layers(frame)
    if pool is not None and pool.encapsulation is Encapsulation.L2:
        return OuterHeader(kind="l2")
    if not found:
        return None
    outer = found[0]
    return OuterHeader(
        kind="gue" if outer.protocol == UDP else "ipip",
        source=outer.source,
        destination=outer.destination,
        source_port=outer.source_port,
    )


def _owner_in_words(owner: OwnerState) -> str:
    name = owner.name or f"member-{owner.id}"
    return f"{name} ({owner.state or 'unknown to the snapshot'}, {'live' if owner.live else 'not live'})"
